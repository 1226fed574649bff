//! Every frame that is built is read by an independent decoder, checksums and all, and by our own reader.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::addresses::Tuple;
use crate::parse;

const SOURCE: Mac = Mac([2, 0, 0, 0, 0, 1]);
const DESTINATION: Mac = Mac([2, 0, 0, 0, 0, 2]);
const NOW: u64 = 0x0012_3456_789a_bcde;

fn kinds() -> impl Strategy<Value = Kind> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Icmp)];
    (family, protocol, any::<Option<u16>>(), any::<u16>()).prop_map(
        |(family, protocol, tag, mark)| Kind {
            family,
            protocol,
            tag: tag.map(|bits| Tag::from_bits(bits & 0xefff)),
            source: SOURCE,
            destination: DESTINATION,
            mark: Mark(mark),
        },
    )
}

fn tuples(family: Family, source: u128, destination: u128, ports: (u16, u16)) -> Tuple {
    let address = |bits: u128| match family {
        Family::V4 => Address::from(std::net::Ipv4Addr::from_bits(bits as u32)),
        Family::V6 => Address::from_bits(bits | 0x2000 << 112), // none that maps an IPv4 address
    };
    Tuple {
        source: address(source),
        destination: address(destination),
        source_port: ports.0,
        destination_port: ports.1,
    }
}

/// Reads `frame` with etherparse, and judges every checksum in it.
fn judge(kind: Kind, frame: &[u8], tuple: &Tuple) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    assert_eq!(packet.vlan_ids().len(), usize::from(kind.tag.is_some()));
    let (source, destination): (std::net::IpAddr, std::net::IpAddr) =
        match packet.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                (header.source.into(), header.destination.into())
            }
            NetSlice::Ipv6(ip) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            NetSlice::Arp(_) => unreachable!("none is built"),
        };
    assert_eq!((source, destination), (tuple.source.ip(), tuple.destination.ip()));
    let (source, destination) = (tuple.source.v6(), tuple.destination.v6());
    let four = |address: Address| address.v4().unwrap().octets();
    match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let expected = match (source, destination) {
                (Some(from), Some(to)) => tcp.calc_checksum_ipv6(from.octets(), to.octets()),
                _ => tcp.calc_checksum_ipv4(four(tuple.source), four(tuple.destination)),
            };
            assert_eq!(tcp.checksum(), expected.unwrap());
            assert_eq!(
                (tcp.source_port(), tcp.destination_port()),
                (tuple.source_port, tuple.destination_port)
            );
            tcp.payload().to_vec()
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let expected = match (source, destination) {
                (Some(from), Some(to)) => {
                    header.calc_checksum_ipv6_raw(from.octets(), to.octets(), udp.payload())
                }
                _ => header.calc_checksum_ipv4_raw(
                    four(tuple.source),
                    four(tuple.destination),
                    udp.payload(),
                ),
            };
            assert_eq!(udp.checksum(), expected.unwrap());
            assert_eq!(
                (udp.source_port(), udp.destination_port()),
                (tuple.source_port, tuple.destination_port)
            );
            udp.payload().to_vec()
        }
        TransportSlice::Icmpv4(icmp) => {
            let expected = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(icmp.checksum(), expected);
            icmp.payload().to_vec()
        }
        TransportSlice::Icmpv6(icmp) => {
            let (from, to) = (source.unwrap().octets(), destination.unwrap().octets());
            assert!(icmp.is_checksum_valid(from, to));
            icmp.payload().to_vec()
        }
        TransportSlice::Igmp(_) => unreachable!("none is built"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_frame_is_right_to_an_independent_decoder_and_found_again(
        kind in kinds(), extra in 0u16..200, bits: (u128, u128), ports: (u16, u16), flow in 0u32..1 << 24, sequence: u32,
        now: u64, moment in prop_oneof![Just(Moment::First), Just(Moment::Middle), Just(Moment::Last)], before: u8,
    ) {
        let size = kind.least_size() as u16 + extra;
        let tuple = tuples(kind.family, bits.0, bits.1, ports);
        let is_opening = kind.protocol == Protocol::Tcp && moment == Moment::First;
        let template = if is_opening { Template::without_payload(kind, size) } else { Template::new(kind, size) };
        prop_assert_eq!(template.length() + 4, usize::from(size));
        let mut frame = vec![before; template.length()];
        template.write(&mut frame, flow, sequence, &tuple, moment, now);

        let payload = judge(kind, &frame, &tuple);
        let expected = if is_opening { 0 } else { frame.len() - kind.headers() };
        prop_assert_eq!(payload.len(), expected);
        let packet = parse::innermost(&mut frame, 6080).unwrap();
        let stamp = parse::stamp(&packet, kind.mark).unwrap();
        prop_assert_eq!((stamp.flow, stamp.sequence), (flow, sequence));
        prop_assert!(stamp.sent.until(now.wrapping_add(1000)).abs_diff(1000) < 16);
    }

    #[test]
    fn a_large_frame_is_zero_behind_its_stamp(kind in kinds(), before: u8) {
        let template = Template::new(kind, 1500);
        let tuple = tuples(kind.family, 1, 2, (3, 4));
        let mut frame = vec![before; template.length()];
        template.write(&mut frame, 1, 2, &tuple, Moment::Middle, NOW);
        let payload = judge(kind, &frame, &tuple);
        prop_assert!(payload[stamp::LENGTH..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn the_smallest_frames_of_each_kind_are_as_the_manual_says() {
    let least = |family, protocol, tagged: bool| {
        let tag = tagged.then(|| Tag::from_bits(5));
        Kind { family, protocol, tag, source: SOURCE, destination: DESTINATION, mark: Mark(1) }
            .least_size()
    };
    use Family::{V4, V6};
    use Protocol::{Icmp, Tcp, Udp};
    let plain = [(V4, Udp), (V4, Icmp), (V4, Tcp), (V6, Udp), (V6, Icmp), (V6, Tcp)];
    assert_eq!(
        plain.map(|(family, protocol)| least(family, protocol, false)),
        [64, 64, 64, 80, 80, 78]
    );
    assert_eq!(
        plain.map(|(family, protocol)| least(family, protocol, true)),
        [64, 64, 64, 84, 84, 82]
    );
}

#[test]
fn a_tcp_flow_begins_with_a_syn_and_ends_with_a_fin() {
    let kind = Kind {
        family: Family::V4,
        protocol: Protocol::Tcp,
        tag: None,
        source: SOURCE,
        destination: DESTINATION,
        mark: Mark(1),
    };
    let flags = |template: Template, moment| {
        let mut frame = vec![0; template.length()];
        template.write(&mut frame, 1, 2, &tuples(Family::V4, 1, 2, (3, 4)), moment, NOW);
        frame[47]
    };
    assert_eq!(flags(Template::without_payload(kind, 64), Moment::First), 0x02);
    assert_eq!(flags(Template::new(kind, 64), Moment::Middle), 0x10);
    assert_eq!(flags(Template::new(kind, 64), Moment::Last), 0x11);
}
