//! Every header view over any bytes: reading and writing through it never leaves the bytes.
#![no_main]

use std::net::Ipv4Addr;

use dataplane::wire::checksum::{self, Change};
use dataplane::wire::ethernet::{self, Ethernet, Mac, Tag};
use dataplane::wire::icmp::{self, Message};
use dataplane::wire::ipv4::Ipv4;
use dataplane::wire::ipv6::{Extensions, Ipv6};
use dataplane::wire::tcp::{Flags, Tcp};
use dataplane::wire::udp::Udp;
use dataplane::wire::{Address, Family, gue, icmpv6, protocol};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    ethernet(&mut bytes.to_vec());
    ipv4(&mut bytes.to_vec());
    ipv6(&mut bytes.to_vec());
    tcp(&mut bytes.to_vec());
    udp(&mut bytes.to_vec());
    for family in [Family::V4, Family::V6] {
        message(family, &mut bytes.to_vec());
    }
    if let Ok((_, packet)) = gue::split(&mut bytes.to_vec()) {
        assert!(packet.len() + gue::HEADER <= bytes.len());
    }
    checksum::of(bytes);
});

fn ethernet(bytes: &mut [u8]) {
    let before = bytes.to_vec();
    if let Some(tag) = Tag::take(bytes) {
        tag.put(bytes);
        assert_eq!(bytes, before);
    }
    if let Ok((mut ethernet, _)) = Ethernet::split(bytes) {
        ethernet.readdress(Mac::BROADCAST, ethernet.source());
        assert_eq!(ethernet.source(), Mac::BROADCAST);
    }
    assert!(bytes.len() >= ethernet::HEADER || Tag::of(bytes).is_none());
}

fn ipv4(bytes: &mut [u8]) {
    let address = Ipv4Addr::new(192, 0, 2, 1);
    if let Ok((mut ip, payload)) = Ipv4::split(bytes) {
        assert_eq!(usize::from(ip.total_length()), ip.length() + payload.len());
        assert_eq!(ip.fragment().is_some(), ip.is_fragment());
        ip.source_routed();
        let right = ip.checksum_is_right();
        ip.set_addresses(address, address);
        ip.set_type_of_service(7);
        ip.set_identification(7);
        ip.decrement_time_to_live();
        assert_eq!(ip.checksum_is_right(), right, "mending keeps right right and wrong wrong");
    }
}

fn ipv6(bytes: &mut [u8]) {
    let address = Address::from_bits(7);
    if let Some((&next, payload)) = bytes.split_first() {
        let _ =
            Extensions::walk(next, payload).inspect(|walked| assert!(walked.at <= payload.len()));
    }
    if let Ok((mut ip, payload)) = Ipv6::split(bytes) {
        assert_eq!(usize::from(ip.total_length()), 40 + payload.len());
        let _ = ip.extensions(payload).inspect(|walked| assert!(walked.at <= payload.len()));
        ip.set_addresses(address, address);
        ip.decrement_hop_limit();
        assert_eq!((ip.source(), ip.destination()), (address, address));
    }
}

fn tcp(bytes: &mut [u8]) {
    let length = bytes.len();
    let change = Change::of_address(Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST);
    if let Ok(mut tcp) = Tcp::split(bytes) {
        assert!((20..=60.min(length)).contains(&tcp.length()));
        tcp.set_ports(80, 443, change);
        tcp.set_sequence(7);
        tcp.set_acknowledgement(9);
        assert_eq!((tcp.source(), tcp.destination()), (80, 443));
        tcp.clamp_mss(1400);
        assert!(tcp.offers().mss.is_none_or(|mss| mss <= 1400) || tcp.flags().0 & Flags::SYN == 0);
        tcp.shift_selective_acknowledgements(7);
    }
}

fn udp(bytes: &mut [u8]) {
    let change = Change::of_address(Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST);
    if let Ok(mut udp) = Udp::split(bytes) {
        udp.set_ports(80, 443, change);
        assert_eq!((udp.source(), udp.destination()), (80, 443));
    }
}

fn message(family: Family, bytes: &mut [u8]) {
    let address = match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Address::from_bits(7),
    };
    let original = bytes.to_vec();
    if let Ok(mut message) = Message::read(family, bytes) {
        let right = message.checksum_is_right(address, address);
        message.mtu();
        message.set_identifier(7);
        if message.set_quoted_source(address, 80).is_ok() {
            message.set_quoted_destination(address, 443).unwrap();
            assert_eq!(message.quoted().unwrap().source, address);
        }
        // Zeroes alone have no checksum that is right, which mending does not know (RFC 1624).
        let is_zero = original.iter().all(|&byte| byte == 0);
        assert!(message.checksum_is_right(address, address) == right || is_zero);
    }
    let mut error = [0; 1500];
    if let Some(length) = icmp::write_error(&mut error, icmp::Error::TimeExceeded, &original) {
        assert_eq!(checksum::of(&error[..length]), 0);
    }
    let too_big = icmpv6::Error::TooBig { mtu: 1280 };
    if let Some(length) = icmpv6::write_error(&mut error, too_big, &original, address, address) {
        let message = &error[..length];
        assert!(checksum::transport_is_right(address, address, protocol::ICMPV6, message));
    }
}
