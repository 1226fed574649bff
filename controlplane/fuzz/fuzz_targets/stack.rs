//! The in-band stack, which listens, has opened connections and sockets, and asks, fed any packets: no panic, whatever it
//! sends can be read, and once its time has come nothing is left behind.
#![no_main]

#[path = "../../src"]
mod sources {
    #[allow(dead_code, unused_imports)]
    pub mod net;
}

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::snapshot::{Interface, InterfaceId, PortId, Route, Routes};
use dataplane::wire::{Address, Mac, Prefix, checksum, protocol};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::in_band::{InBand, Paths, Stack};
use crate::net::{Datagrams, Listen as _, Listener as _, Net, Way};
use crate::sources::net;

/// As in the crate, for the kernel's sockets, which are not used here.
fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    [0; LENGTH]
}

fn stack() -> Stack {
    let prefix = |text: &str, length| Prefix::new(text.parse().unwrap(), length);
    let addresses = vec![prefix("10.0.0.2", 24), prefix("2001:db8::2", 64)];
    let routes = addresses.iter().map(|&to| Route { to, interface: InterfaceId(0), via: None });
    let routes = Arc::new(Routes::new(routes));
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let interface =
        Interface { port: PortId(0), vlan: None, mac, mtu: 1500, addresses, gateway: false };
    let stack = Stack::new([7; 16]);
    stack.configure(Arc::new(Paths::new([interface].into(), routes)));
    stack
}

/// Lets a task do what it can.
fn poll<T>(task: Pin<&mut impl Future<Output = T>>) {
    let _ = task.poll(&mut Context::from_waker(Waker::noop()));
}

/// Puts the right addresses, ports of a conversation that there is, and right checksums into a packet now and then, so that
/// what lies behind them is reached.
fn mend(packet: &mut [u8], kind: u8, last: &[u8]) {
    if kind & 1 != 0 {
        // Back to whoever sent the last packet: its ends, the other way round.
        let header = if last.first().is_some_and(|first| first >> 4 == 4) { 20 } else { 40 };
        let (width, first) = if header == 20 { (4, 12) } else { (16, 8) };
        if last.len() < header + 12 || packet.len() < header + 12 {
            return;
        }
        packet[..header].copy_from_slice(&last[..header]);
        for at in 0..width {
            packet[first + at] = last[first + width + at];
            packet[first + width + at] = last[first + at];
        }
        packet[header..header + 2].copy_from_slice(&last[header + 2..header + 4]);
        packet[header + 2..header + 4].copy_from_slice(&last[header..header + 2]);
        if kind & 2 != 0 {
            packet[header + 4..header + 8].copy_from_slice(&last[header + 8..header + 12]);
            packet[header + 8..header + 12].copy_from_slice(&last[header + 4..header + 8]);
        }
        let total = packet.len();
        match header {
            20 => packet[2..4].copy_from_slice(&(total as u16).to_be_bytes()),
            _ => packet[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes()),
        }
    }
    let (header, at, source, destination) = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 40 && packet[0] & 15 == 5 => {
            packet[10..12].fill(0);
            let sum = checksum::of(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            let address = |at: usize| {
                let bytes: [u8; 4] = std::array::from_fn(|byte| packet[at + byte]);
                Address::from(std::net::Ipv4Addr::from(bytes))
            };
            (20, packet[9], address(12), address(16))
        }
        Some(6) if packet.len() >= 60 => {
            let address = |at: usize| {
                let bytes: [u8; 16] = std::array::from_fn(|byte| packet[at + byte]);
                Address::from_bits(u128::from_be_bytes(bytes))
            };
            (40, packet[6], address(8), address(24))
        }
        _ => return,
    };
    let place = match at {
        protocol::TCP => 16,
        protocol::UDP => 6,
        protocol::ICMP | protocol::ICMPV6 => 2,
        _ => return,
    };
    let segment = &mut packet[header..];
    segment[place..place + 2].fill(0);
    let sum = match at {
        protocol::ICMP => checksum::of(segment),
        _ => checksum::of_transport(source, destination, at, segment),
    };
    segment[place..place + 2].copy_from_slice(&sum.to_be_bytes());
}

fuzz_target!(|packets: Vec<(u8, u8, Vec<u8>)>| {
    let stack = stack();
    let net = InBand::from(stack.clone());
    let mut now = Moment::START.plus(Duration::from_secs(1));
    {
        let listener = net.listen(None, 80).unwrap();
        let to = |text: &str| text.parse::<SocketAddr>().unwrap();
        let serve = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut heard = [0; 100];
                while let Ok(1..) = stream.read(&mut heard).await {
                    let _ = stream.write_all(&heard).await;
                }
            }
        };
        let open = async {
            for other in ["10.0.0.9:81", "[2001:db8::9]:81"] {
                if let Ok(mut stream) = net.connect(to(other), Way::Routed).await {
                    let _ = stream.write_all(b"hello").await;
                    let _ = stream.read(&mut [0; 100]).await;
                }
            }
        };
        let ask = async {
            let socket = net.datagrams(to("10.0.0.9:53"), Way::Routed).await.unwrap();
            let _ = socket.send(b"question").await;
            let _ = socket.receive(&mut [0; 100]).await;
            let _ = net.ping("2001:db8::9".parse().unwrap(), Way::Routed).await;
        };
        let (mut serve, mut open, mut ask) = (pin!(serve), pin!(open), pin!(ask));
        let mut done = [false; 2];
        let mut last = Vec::new();
        for (kind, time, mut packet) in packets {
            poll(serve.as_mut());
            let context = &mut Context::from_waker(Waker::noop());
            done[0] = done[0] || open.as_mut().poll(context).is_ready();
            done[1] = done[1] || ask.as_mut().poll(context).is_ready();
            stack.turn(now);
            while let Some(sent) = stack.next_packet() {
                assert!(sent.packet.len() <= 1500);
                last = sent.packet;
            }
            if kind & 4 == 0 {
                mend(&mut packet, kind, &last);
            }
            stack.receive(now, &packet);
            now = now.plus(Duration::from_millis(u64::from(time) * u64::from(time)));
        }
        stack.turn(now);
    }
    // Everybody is gone; so is everything after a while.
    for _ in 0..100 {
        now = now.plus(Duration::from_secs(1));
        stack.turn(now);
        while stack.next_packet().is_some() {}
    }
    let stats = stack.stats();
    assert_eq!(
        (stats.connections, stats.half_open, stats.time_wait, stats.udp_sockets),
        (0, 0, 0, 0)
    );
});
