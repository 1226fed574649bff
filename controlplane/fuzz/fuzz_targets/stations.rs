//! The table of stations and the answers to pings, fed any frames on two interfaces, between workers' questions and changes of
//! configuration: no panic, only stations that somebody wants are known, and whatever is sent is a frame of ours.
#![no_main]

#[path = "../../src"]
mod sources {
    #[allow(dead_code)]
    pub mod echo;
    #[allow(dead_code)]
    pub mod icmpv6;
    #[allow(dead_code, unused_imports)]
    pub mod neighbours;
}

use std::collections::HashSet;
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::snapshot::InterfaceId;
use dataplane::wire::ethernet::ethertype;
use dataplane::wire::{Address, Mac, Prefix, checksum, protocol};
use libfuzzer_sys::fuzz_target;

use crate::neighbours::{Neighbours, Own, Plan};
use crate::sources::{echo, icmpv6, neighbours};

/// Ethernet, and what stands before its payload.
const ETHERNET: usize = 14;
/// Ethernet and the fixed header of IPv6.
const HEADERS: usize = ETHERNET + 40;
/// Ethernet and ARP for IPv4.
const ARP: usize = ETHERNET + 28;
/// Stations that the configuration names, and those that workers may ask for in a run.
const WANTED: [&str; 2] = ["10.0.0.7", "2001:db8:1::7"];

fn our_mac(interface: InterfaceId) -> Mac {
    Mac([2, 0, 0, 0, 0, 1 + interface.0])
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn plan(kind: u8) -> Plan {
    let own = |index, addresses: [(&str, u8); 2], virtual_addresses: &[&str]| Own {
        mac: our_mac(InterfaceId(index)),
        addresses: addresses.map(|(text, length)| Prefix::new(address(text), length)).to_vec(),
        virtual_addresses: virtual_addresses.iter().map(|text| address(text)).collect(),
        quiet: false,
    };
    let published: &[&str] = match kind & 1 {
        0 => &["192.0.2.100", "2001:db8::100"],
        _ => &["192.0.2.101"],
    };
    Plan {
        interfaces: vec![
            own(0, [("192.0.2.2", 24), ("2001:db8::2", 64)], published),
            own(1, [("10.0.0.2", 16), ("2001:db8:1::2", 64)], &[]),
        ],
        wanted: WANTED.map(|text| (InterfaceId(1), address(text))).to_vec(),
        fixed: vec![],
    }
}

/// Makes a frame one of ARP, of neighbour discovery or an echo request, with right lengths and checksums, so that what lies
/// behind them is reached.
fn mend(frame: &mut Vec<u8>, kind: u8, interface: InterfaceId) {
    let group = kind & 4 != 0;
    match kind & 3 {
        1 if frame.len() >= ARP => {
            frame[..6].copy_from_slice(&[0xff; 6]);
            if !group {
                frame[..6].copy_from_slice(&our_mac(interface).0);
            }
            frame[6] &= 0xfe;
            frame[12..14].copy_from_slice(&ethertype::ARP.to_be_bytes());
            frame[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
            frame[20..22].copy_from_slice(&[0, 1 + (kind >> 7)]);
            frame.copy_within(6..12, 22);
        }
        2 if frame.len() >= HEADERS + 8 => {
            frame[..6].copy_from_slice(&our_mac(interface).0);
            if group {
                frame[..2].copy_from_slice(&[0x33, 0x33]);
            }
            frame[6] &= 0xfe;
            frame[12..14].copy_from_slice(&ethertype::IPV6.to_be_bytes());
            frame[14] = 0x60;
            let length = (frame.len() - HEADERS) as u16;
            frame[18..20].copy_from_slice(&length.to_be_bytes());
            frame[20..22].copy_from_slice(&[protocol::ICMPV6, 255]);
            if kind & 8 != 0 {
                frame[HEADERS] = [135, 136, 128, 129][usize::from(kind >> 6)];
                frame[HEADERS + 1] = 0;
            }
            let at = |from: usize| {
                let bytes: [u8; 16] = std::array::from_fn(|byte| frame[from + byte]);
                Address::from_bits(u128::from_be_bytes(bytes))
            };
            let (source, destination) = (at(22), at(38));
            frame[HEADERS + 2..HEADERS + 4].fill(0);
            let message = &frame[HEADERS..];
            let sum = checksum::of_transport(source, destination, protocol::ICMPV6, message);
            frame[HEADERS + 2..HEADERS + 4].copy_from_slice(&sum.to_be_bytes());
        }
        3 if frame.len() >= ETHERNET + 28 => {
            frame[..6].copy_from_slice(&our_mac(interface).0);
            frame[6] &= 0xfe;
            frame[12..14].copy_from_slice(&ethertype::IPV4.to_be_bytes());
            frame[14] = 0x45;
            let length = (frame.len() - ETHERNET) as u16;
            frame[16..18].copy_from_slice(&length.to_be_bytes());
            frame[20..22].fill(0);
            frame[23] = protocol::ICMP;
            frame[24..26].fill(0);
            let sum = checksum::of(&frame[ETHERNET..ETHERNET + 20]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame[34..38].copy_from_slice(&[8, 0, 0, 0]);
            let sum = checksum::of(&frame[34..]);
            frame[36..38].copy_from_slice(&sum.to_be_bytes());
        }
        _ => {}
    }
}

/// A frame that we send comes from us, and means something.
fn is_ours((interface, frame): (InterfaceId, Vec<u8>)) {
    assert!((ETHERNET + 28..=1514).contains(&frame.len()), "{frame:02x?}");
    assert_eq!(frame[6..12], our_mac(interface).0);
    if frame[12..14] == ethertype::IPV6.to_be_bytes() {
        assert!(icmpv6::Packet::read(&frame).is_some(), "{frame:02x?}");
    } else {
        assert_eq!(frame[12..14], ethertype::ARP.to_be_bytes());
        assert_eq!(frame[22..28], our_mac(interface).0, "who speaks is who sends");
    }
}

/// What answers a ping goes straight back, and is itself answered by nobody.
fn echo(frame: &[u8]) {
    let Some(reply) = echo::reply(frame) else { return };
    assert_eq!((&reply[..6], &reply[6..12]), (&frame[6..12], &frame[..6]));
    assert!(reply.len() <= frame.len().max(60));
    assert_eq!(echo::reply(&reply), None);
}

fuzz_target!(|steps: Vec<(u8, u8, Vec<u8>)>| {
    let mut table = Neighbours::new(7);
    let mut now = Moment::START.plus(Duration::from_secs(1));
    table.configure(now, plan(0));
    let mut wanted: HashSet<_> =
        WANTED.iter().map(|text| (InterfaceId(1), address(text))).collect();
    for (kind, time, mut frame) in steps {
        let interface = InterfaceId(kind >> 5 & 1);
        match (kind & 0x13, frame.get(..4)) {
            (0x10, Some(&[_, _, high, low])) => {
                let station = match kind & 4 {
                    0 => std::net::Ipv4Addr::new(10, 0, high, low).into(),
                    _ => Address::from_bits(
                        address("2001:db8:1::").bits() | u128::from(u16::from_be_bytes([high, low])),
                    ),
                };
                wanted.insert((interface, station));
                table.unresolved(now, interface, station);
                if kind & 8 != 0 {
                    table.confirm(now, interface, station);
                }
            }
            (0x11, _) if frame.is_empty() => table.configure(now, plan(kind >> 7)),
            _ => {
                mend(&mut frame, kind, interface);
                echo(&frame);
                table.receive(now, interface, &frame);
            }
        }
        table.tick(now);
        while let Some(sent) = table.next_frame() {
            is_ours(sent);
        }
        let known = table.known();
        assert!(known.iter().all(|(key, mac)| wanted.contains(key) && mac.is_station()));
        assert!(table.report(now).iter().all(|it| wanted.contains(&(it.interface, it.address))));
        let _ = (table.take_turns(), table.take_conflict(), table.take_changed());
        now = now.plus(Duration::from_millis(u64::from(time) * u64::from(time)));
    }
});
