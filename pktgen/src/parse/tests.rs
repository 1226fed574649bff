//! Packets are found again through rewriting and encapsulation, and no bytes upset the reader.

use dataplane::wire::Family;
use dataplane::wire::ethernet::Tag;
use proptest::prelude::*;

use super::*;
use crate::addresses::Tuple;
use crate::frame::{Kind, Moment, Protocol, Template};

const MARK: Mark = Mark(0x5a1c);

fn frame(family: Family, protocol: Protocol, size: u16) -> Vec<u8> {
    let kind = Kind {
        family,
        protocol,
        tag: None,
        source: Mac([2, 0, 0, 0, 0, 1]),
        destination: Mac([2, 0, 0, 0, 0, 2]),
        mark: MARK,
    };
    let (source, destination) = match family {
        Family::V4 => ("10.0.0.1", "10.0.0.2"),
        Family::V6 => ("2001:db8::1", "2001:db8::2"),
    };
    let tuple = Tuple {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        source_port: 1000,
        destination_port: 80,
    };
    let template = Template::new(kind, size);
    let mut bytes = vec![0; template.length()];
    template.write(&mut bytes, 77, 5, &tuple, Moment::Middle, 1_000_000);
    bytes
}

/// Puts `inner`'s packet behind headers that an independent encoder writes.
fn inside(outer: Family, gue: bool, inner: &[u8]) -> Vec<u8> {
    let is_v4 = inner[12..14] == [8, 0];
    let number = if is_v4 { 4 } else { 41 };
    let mut packet = Vec::new();
    if gue {
        packet.extend([0, number, 0, 0]);
    }
    packet.extend(&inner[14..]);
    let link = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4]);
    let mut frame = Vec::new();
    let ip = match outer {
        Family::V4 => link.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64),
        Family::V6 => link.ipv6([1; 16], [2; 16], 64),
    };
    match gue {
        true => ip.udp(4444, 6080).write(&mut frame, &packet).unwrap(),
        false => ip.write(&mut frame, number.into(), &packet).unwrap(),
    }
    frame
}

fn found(bytes: &mut [u8]) -> Option<(u32, u32, u8)> {
    let packet = innermost(bytes, 6080)?;
    let stamp = stamp(&packet, MARK)?;
    Some((stamp.flow, stamp.sequence, packet.layers))
}

#[test]
fn a_packet_is_found_in_every_tunnel() {
    for inner in [Family::V4, Family::V6] {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
            let plain = frame(inner, protocol, 100);
            assert_eq!(found(&mut plain.clone()), Some((77, 5, 0)));
            for outer in [Family::V4, Family::V6] {
                for gue in [false, true] {
                    let mut once = inside(outer, gue, &plain);
                    assert_eq!(
                        found(&mut once.clone()),
                        Some((77, 5, 1)),
                        "{outer:?} {gue} {inner:?}"
                    );
                    assert_eq!(found(&mut inside(outer, gue, &once)), Some((77, 5, 2)));
                    let tagged = [&[0; 4], &once[..]].concat();
                    once = tagged;
                    Tag::from_bits(7).put(&mut once).unwrap();
                    assert_eq!(found(&mut once), Some((77, 5, 1)), "behind a tag");
                }
            }
        }
    }
}

#[test]
fn a_rewritten_packet_is_found_by_what_it_carries() {
    for (protocol, size) in
        [(Protocol::Tcp, 64), (Protocol::Tcp, 200), (Protocol::Udp, 64), (Protocol::Icmp, 64)]
    {
        let mut bytes = frame(Family::V4, protocol, size);
        bytes[..12].fill(0x66);
        bytes[26..34].copy_from_slice(&[9; 8]);
        if protocol != Protocol::Icmp {
            bytes[34..38].fill(0x77);
        }
        assert_eq!(found(&mut bytes), Some((77, 5, 0)), "{protocol:?} {size}");
    }
}

#[test]
fn later_fragments_and_other_protocols_are_foreign() {
    let mut fragment = frame(Family::V4, Protocol::Udp, 100);
    fragment[21] = 1;
    assert_eq!(found(&mut fragment), None);
    let mut arp = frame(Family::V4, Protocol::Udp, 64);
    arp[13] = 6;
    assert_eq!(found(&mut arp), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_bytes_upset_the_reader(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        found(&mut bytes);
        if let Some(mut packet) = innermost(&mut bytes, 6080) {
            tcp(&mut packet);
        }
        link(&mut bytes);
    }

    #[test]
    fn no_damage_to_a_tunnelled_packet_upsets_the_reader(
        family in any::<bool>(), gue: bool, length in 0usize..200, damage in prop::collection::vec((0usize..200, any::<u8>()), 0..8),
    ) {
        let family = if family { Family::V4 } else { Family::V6 };
        let mut bytes = inside(family, gue, &frame(Family::V6, Protocol::Tcp, 120));
        bytes.truncate(length);
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        found(&mut bytes);
    }
}
