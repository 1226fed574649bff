//! Packets recognised after translation and inside tunnels.

use dataplane::wire::ipv4::Ipv4;
use dataplane::wire::udp::Udp;
use dataplane::wire::{Address, Family, gue, ipv4, ipv6, protocol};
use dpdk_sys::Mbuf;
use pktgen::frame::Protocol;
use pktgen::profile::{Profile, benchmark_addresses};
use pktgen::size::Sizes;

use crate::rig::{Behaviour, all_buffers_are_home, counts, measure, profile, rig, turn};

#[test]
fn packets_are_recognised_whatever_a_translator_does_to_them() {
    let _turn = turn();
    for (protocol, size) in
        [(Protocol::Udp, 64), (Protocol::Tcp, 64), (Protocol::Tcp, 128), (Protocol::Icmp, 64)]
    {
        let translates: Behaviour = Box::new(move |mut frame, now, out| {
            translate(frame.bytes_mut(), protocol);
            out.push_back((now, frame));
        });
        let wanted =
            Profile { protocol, sizes: Sizes::fixed(size), flows: 50, ..profile(100_000.0) };
        let measured = measure(rig(translates), &wanted, 5000);
        assert_eq!(counts(&measured), (0, 0, 0), "{protocol:?} {size}");
        assert_eq!(measured.observed.unique, 5000);
    }
    all_buffers_are_home();
}

/// Both hardware addresses, both addresses and the ports become others.
fn translate(frame: &mut [u8], protocol: Protocol) {
    frame[..12].copy_from_slice(&[2, 9, 9, 9, 9, 1, 2, 9, 9, 9, 9, 2]);
    let (mut ip, payload) = Ipv4::split(&mut frame[14..]).expect("pktgen sends IPv4");
    let change = ip.set_addresses([10, 9, 8, 7].into(), [10, 9, 8, 6].into());
    if protocol == Protocol::Udp {
        let mut udp = Udp::split(payload).expect("pktgen sends UDP");
        udp.set_ports(7777, 8888, change);
    } else if protocol == Protocol::Tcp {
        payload[..4].copy_from_slice(&[0x11, 0x11, 0x22, 0x22]);
    }
}

#[test]
fn packets_are_found_in_every_kind_of_tunnel() {
    let _turn = turn();
    for inner in [Family::V4, Family::V6] {
        for outer in [Family::V4, Family::V6] {
            for in_gue in [false, true] {
                let encapsulates: Behaviour = Box::new(move |mut frame, now, out| {
                    encapsulate(&mut frame, inner, outer, in_gue);
                    out.push_back((now, frame));
                });
                let wanted = Profile {
                    addresses: benchmark_addresses(inner),
                    sizes: Sizes::fixed(128),
                    flows: 20,
                    ..profile(100_000.0)
                };
                let measured = measure(rig(encapsulates), &wanted, 2000);
                assert_eq!(counts(&measured), (0, 0, 0), "{inner:?} in {outer:?}, GUE {in_gue}");
                assert_eq!(measured.observed.encapsulated, 2000);
                assert!(
                    measured.arrived[1].bytes >= 2000 * (124 + 20),
                    "outer headers count where they arrive"
                );
            }
        }
    }
    all_buffers_are_home();
}

pub fn encapsulate(frame: &mut Mbuf, inner: Family, outer: Family, in_gue: bool) {
    let number = if inner == Family::V4 { protocol::IPV4 } else { protocol::IPV6 };
    assert!(frame.trim_front(14));
    if in_gue {
        let headers =
            gue::headers((4444, gue::PORT), number, frame.len() as u16).expect("short enough");
        frame.prepend(headers.len()).expect("headroom").copy_from_slice(&headers);
    }
    let (length, carried) = (frame.len() as u16, if in_gue { protocol::UDP } else { number });
    let kind = if outer == Family::V4 {
        let header = ipv4::Header {
            type_of_service: 0,
            total_length: length + 20,
            identification: 1,
            dont_fragment: true,
            protocol: carried,
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
        };
        frame.prepend(20).expect("headroom").copy_from_slice(&header.to_bytes());
        [8, 0]
    } else {
        let header = ipv6::Header {
            traffic_class: 0,
            flow_label: 0,
            payload_length: length,
            next_header: carried,
            hop_limit: 64,
            source: "2001:db8::1".parse::<Address>().expect("an address"),
            destination: "2001:db8::2".parse::<Address>().expect("an address"),
        };
        frame.prepend(40).expect("headroom").copy_from_slice(&header.to_bytes());
        [0x86, 0xdd]
    };
    let link = frame.prepend(14).expect("headroom");
    link.copy_from_slice(&[&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8][..], &kind].concat());
}
