//! TCP connections that may not go on (ST-02): both ends are told so, each in the other's name and with
//! numbers that it accepts (RFC 9293 section 3.10.7, RFC 5961 section 3).

use arrayvec::ArrayVec;

use crate::frame::Frame;
use crate::lookup::{Routed, Translation};
use crate::parse::{Part, ip_packet};
use crate::snapshot::{Hop, Snapshot};
use crate::wire::ethernet::{self, Ethernet, Mac, ethertype};
use crate::wire::tcp::{Flags, Header, Offers, Tcp};
use crate::wire::{Address, ipv4, ipv6, protocol};

/// The longest of our own segments with all headers, in bytes.
const LONGEST: usize = ethernet::HEADER + ipv6::HEADER + 60;

/// A frame that lacks its hardware addresses.
pub type Segment = ArrayVec<u8, LONGEST>;

/// What one packet is answered with, and where to.
pub type Segments = [Option<(Hop, Segment)>; 2];

/// The segments that tell the sender of a packet and, if it is known, the other end.
pub fn both_ends<F: Frame>(
    it: &mut Routed<'_, F>,
    other_end: Option<Translation>,
    snapshot: &Snapshot,
) -> Segments {
    let flow = it.packet.flow;
    if it.packet.part == Part::Later {
        return [None, None]; // there are no numbers in it
    }
    let back = back(it);
    let segment = ip_packet(&mut it.frame).get_mut(usize::from(it.packet.transport)..);
    let Some(Ok(tcp)) = segment.map(Tcp::split) else { return [None, None] };
    let (sequence, acknowledgement) = (tcp.sequence(), tcp.acknowledgement());
    let to_sender = Header {
        source: flow.destination,
        source_port: flow.destination_port,
        destination: flow.source,
        destination_port: flow.source_port,
        sequence: acknowledgement,
        acknowledgement: 0,
        flags: Flags(Flags::RST),
        window: 0,
        offers: Offers::default(),
    };
    let onward = other_end.map(|other| {
        let header = Header {
            source: other.source.0,
            source_port: other.source.1,
            destination: other.destination.0,
            destination_port: other.destination.1,
            sequence,
            acknowledgement,
            flags: Flags(Flags::RST | Flags::ACK),
            window: 0,
            offers: Offers::default(),
        };
        (other.hop, header)
    });
    // Who resets needs no reset (RFC 9293 section 3.10.7.1).
    let back = back.filter(|_| !it.packet.flags.resets());
    let back = back.filter(|hop| snapshot.interface(hop.interface).is_some());
    let to_sender = back.map(|hop| (hop, to_sender));
    [to_sender, onward].map(|it| it.and_then(|(hop, header)| Some((hop, packet(header)?))))
}

/// The station that a packet came from, if it can be answered.
pub fn back<F: Frame>(it: &mut Routed<'_, F>) -> Option<Hop> {
    let (ethernet, _) = Ethernet::split(it.frame.bytes_mut()).ok()?;
    let station = Some(ethernet.source()).filter(|mac| mac.is_station());
    let (interface, address) = (it.ingress, it.packet.flow.source);
    station.map(|mac| Hop { interface, address, mac: Some(mac) })
}

/// A whole frame with this segment in it.
pub fn packet(segment: Header) -> Option<Segment> {
    let bytes = segment.to_bytes();
    let mut packet = Segment::new();
    let ethertype = if segment.source.is_v4() { ethertype::IPV4 } else { ethertype::IPV6 };
    packet.try_extend_from_slice(&[0; ethernet::HEADER]).ok()?;
    let (mut ethernet, _) = Ethernet::split(&mut packet).ok()?;
    ethernet.write(Mac::default(), Mac::default(), ethertype);
    write_ip(&mut packet, segment.source, segment.destination, bytes.len() as u16)?;
    packet.try_extend_from_slice(&bytes).ok()?;
    Some(packet)
}

fn write_ip(
    packet: &mut Segment,
    source: Address,
    destination: Address,
    payload: u16,
) -> Option<()> {
    if let (Some(source), Some(destination)) = (source.v4(), destination.v4()) {
        let header = ipv4::Header {
            type_of_service: 0,
            total_length: ipv4::HEADER as u16 + payload,
            identification: 0,
            dont_fragment: true,
            protocol: protocol::TCP,
            source,
            destination,
        };
        return packet.try_extend_from_slice(&header.to_bytes()).ok();
    }
    let header = ipv6::Header {
        traffic_class: 0,
        flow_label: 0,
        payload_length: payload,
        next_header: protocol::TCP,
        hop_limit: ipv6::HOP_LIMIT,
        source,
        destination,
    };
    packet.try_extend_from_slice(&header.to_bytes()).ok()
}
