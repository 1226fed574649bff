//! TCP segments without data: read from whatever came, and written into frames.

use arrayvec::ArrayVec;
use dataplane::wire::ethernet::{self, Ethernet, Tag, ethertype};
use dataplane::wire::tcp::{self, Flags};
use dataplane::wire::{Address, Mac, ipv4, ipv6, protocol};

use crate::addresses::Tuple;
use crate::parse;

/// What one end says to the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) tuple: Tuple,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) flags: u8,
}

pub(super) fn read(mut packet: parse::Packet<'_>) -> Option<(Segment, u8)> {
    let (source, destination, layers) = (packet.source, packet.destination, packet.layers);
    let header = parse::tcp(&mut packet)?;
    let tuple = Tuple {
        source,
        destination,
        source_port: header.source(),
        destination_port: header.destination(),
    };
    let (sequence, acknowledgement) = (header.sequence(), header.acknowledgement());
    Some((Segment { tuple, sequence, acknowledgement, flags: header.flags().0 }, layers))
}

/// The segment in a frame of at least the smallest length.
pub(super) fn frame_of(
    segment: &Segment,
    tag: Option<Tag>,
    source: Mac,
    destination: Mac,
) -> ArrayVec<u8, 96> {
    let Tuple { source: from, destination: to, source_port, destination_port } = segment.tuple;
    let header = tcp::Header {
        source: from,
        source_port,
        destination: to,
        destination_port,
        sequence: segment.sequence,
        acknowledgement: segment.acknowledgement,
        flags: Flags(segment.flags),
        window: u16::MAX,
        offers: tcp::Offers::default(),
    };
    let segment = header.to_bytes();
    let mut frame = ArrayVec::<u8, 96>::new();
    let kind = if from.is_v4() { ethertype::IPV4 } else { ethertype::IPV6 };
    let mut link = [0; ethernet::HEADER];
    if let Ok((mut header, _)) = Ethernet::split(&mut link) {
        header.write(source, destination, if tag.is_some() { ethertype::VLAN } else { kind });
    }
    let mut add = |bytes: &[u8]| {
        let fits = frame.try_extend_from_slice(bytes);
        debug_assert!(fits.is_ok());
    };
    add(&link);
    if let Some(tag) = tag {
        add(&tag.bits().to_be_bytes());
        add(&kind.to_be_bytes());
    }
    add_network(&mut add, from, to, segment.len() as u16);
    add(&segment);
    while frame.len() < 60 {
        frame.push(0);
    }
    frame
}

fn add_network(add: &mut impl FnMut(&[u8]), source: Address, destination: Address, length: u16) {
    match (source.v4(), destination.v4()) {
        (Some(source), Some(destination)) => add(&ipv4::Header {
            type_of_service: 0,
            total_length: ipv4::HEADER as u16 + length,
            identification: 0,
            dont_fragment: true,
            protocol: protocol::TCP,
            source,
            destination,
        }
        .to_bytes()),
        _ => add(&ipv6::Header {
            traffic_class: 0,
            flow_label: 0,
            payload_length: length,
            next_header: protocol::TCP,
            hop_limit: ipv6::HOP_LIMIT,
            source,
            destination,
        }
        .to_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(tuple: Tuple, flags: u8) -> Segment {
        Segment { tuple, sequence: 1000, acknowledgement: 0, flags }
    }

    #[test]
    fn segments_are_right_to_an_independent_decoder() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let tuple = Tuple {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                source_port: 1,
                destination_port: 80,
            };
            for tag in [None, Some(Tag::from_bits(7))] {
                let segment = segment(tuple, Flags::SYN);
                let bytes = frame_of(&segment, tag, Mac([2; 6]), Mac([4; 6]));
                let packet = etherparse::PacketHeaders::from_ethernet_slice(&bytes).unwrap();
                let Some(etherparse::TransportHeader::Tcp(header)) = &packet.transport else {
                    panic!("no TCP")
                };
                let expected = match packet.net.as_ref().unwrap() {
                    etherparse::NetHeaders::Ipv4(ip, _) => {
                        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                        header.calc_checksum_ipv4(ip, &[])
                    }
                    etherparse::NetHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(ip, &[]),
                    etherparse::NetHeaders::Arp(_) => panic!("no IP"),
                };
                assert_eq!(header.checksum, expected.unwrap());
                assert!(header.syn && bytes.len() >= 60);
            }
        }
    }
}
