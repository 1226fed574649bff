//! The table of stations and the answers to pings, fed any frames on two interfaces, between workers' questions and changes of
//! configuration: no panic, only stations that somebody wants are known, and whatever is sent is a frame of ours.
#![no_main]

#[path = "../../src"]
mod sources {
    pub mod echo;
    pub mod icmpv6;
    #[expect(dead_code, unused_imports, reason = "what reports need of them")]
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

/// Addresses that mean something here, and some that do not.
const V4: [&str; 8] = [
    "0.0.0.0",
    "192.0.2.2",
    "192.0.2.100",
    "192.0.2.9",
    "10.0.0.2",
    "10.0.0.7",
    "10.0.1.1",
    "203.0.113.1",
];
const V6: [&str; 8] = [
    "::",
    "2001:db8::2",
    "2001:db8::100",
    "2001:db8:1::2",
    "2001:db8:1::7",
    "2001:db8:1::101",
    "ff02::1",
    "ff02::1:ff00:7",
];

/// A frame of ARP, of ICMP for IPv4 or for IPv6 with right lengths and checksums, so that what lies behind them is reached;
/// the first bytes choose who speaks of whom, the others are what is said. Or any frame at all.
fn frame(kind: u8, bytes: &[u8], interface: InterfaceId) -> Vec<u8> {
    let (Some((&[who, whom], said)), true) = (bytes.split_first_chunk(), kind & 3 != 0) else {
        return bytes.to_vec();
    };
    let pick = |from: [&str; 8], which: u8| address(from[usize::from(which & 7)]);
    let to = if kind & 4 == 0 { our_mac(interface) } else { Mac::BROADCAST };
    let from = Mac([2, 0, 0, 0, who >> 6, whom >> 6]);
    let mut frame = [to.0, from.0].concat();
    match kind & 3 {
        1 => {
            let octets = |which| pick(V4, which).low().to_be_bytes();
            frame.extend(ethertype::ARP.to_be_bytes());
            frame.extend([0, 1, 8, 0, 6, 4, 0, 1 + (kind >> 7)]);
            frame
                .extend([&from.0[..], &octets(who), &our_mac(interface).0, &octets(whom)].concat());
            // What is said changes some of it.
            frame[ETHERNET..].iter_mut().zip(said).for_each(|(byte, said)| *byte ^= said);
        }
        2 => {
            let (source, destination) = (pick(V6, who), pick(V6, who >> 3));
            let mut message = vec![[135, 136, 128, 133][usize::from(kind >> 6)], 0, 0, 0];
            message.extend(said.iter().chain(&[0; 4]).take(4)); // flags
            message.extend(pick(V6, whom).bits().to_be_bytes());
            message.extend(said.iter().skip(4));
            let sum = checksum::of_transport(source, destination, protocol::ICMPV6, &message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            frame.extend(ethertype::IPV6.to_be_bytes());
            frame.extend([0x60, 0, 0, 0]);
            frame.extend((message.len() as u16).to_be_bytes());
            frame.extend([protocol::ICMPV6, 255 - (kind >> 3 & 1)]);
            frame.extend([source.bits().to_be_bytes(), destination.bits().to_be_bytes()].concat());
            frame.extend(message);
        }
        _ => {
            let (source, destination) = (pick(V4, who), pick(V4, whom));
            let mut message = [&[8, 0, 0, 0][..], said].concat();
            let sum = checksum::of(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut header = vec![0x45, 0];
            header.extend((20 + message.len() as u16).to_be_bytes());
            header.extend([0, 1, 0, 0, 64, protocol::ICMP, 0, 0]);
            header.extend([source.low().to_be_bytes(), destination.low().to_be_bytes()].concat());
            let sum = checksum::of(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(ethertype::IPV4.to_be_bytes());
            frame.extend([header, message].concat());
        }
    }
    frame
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
    for (kind, time, bytes) in steps {
        let interface = InterfaceId(kind >> 5 & 1);
        match (kind & 0x13, &bytes[..]) {
            (0x10, &[high, low]) => {
                let station = match kind & 4 {
                    0 => std::net::Ipv4Addr::new(10, 0, high, low).into(),
                    _ => Address::from_bits(
                        address("2001:db8:1::").bits()
                            | u128::from(u16::from_be_bytes([high, low])),
                    ),
                };
                wanted.insert((interface, station));
                table.unresolved(now, interface, station);
                if kind & 8 != 0 {
                    table.awaited(now, interface, station);
                    table.confirm(now, interface, station);
                }
            }
            (0x10, &[]) => table.configure(now, plan(kind >> 7)),
            _ => {
                let frame = frame(kind, &bytes, interface);
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
