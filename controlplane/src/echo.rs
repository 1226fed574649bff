//! ICMP echo (RFC 792, RFC 1122 section 3.2.2.6; RFC 4443 section 4) for our own and the virtual addresses.

use dataplane::wire::checksum;
use dataplane::wire::ethernet::{Ethernet, ethertype};
use dataplane::wire::icmpv6::kind;
use dataplane::wire::ipv4::{self, Header, Ipv4, protocol};

use crate::icmpv6::{self, Packet};

const REQUEST: u8 = 8;
const REPLY: u8 = 0;
const REQUEST_V6: u8 = kind::ECHO_REQUEST;
const REPLY_V6: u8 = kind::ECHO_REPLY;
/// Where the ICMP message begins in the reply: behind Ethernet and a header without options.
const MESSAGE: usize = 14 + ipv4::HEADER;

/// The frame that answers an echo request, straight back to the station that it came from; `None` for
/// anything but a whole and undamaged request from one station to another.
pub fn reply(frame: &[u8]) -> Option<Vec<u8>> {
    match icmpv6::kind(frame) {
        Some(_) => reply_v6(frame),
        None => reply_v4(frame),
    }
}

fn reply_v6(frame: &[u8]) -> Option<Vec<u8>> {
    let request = Packet::read(frame)?;
    let is_request = matches!(request.message, [REQUEST_V6, 0, _, _, _, _, _, _, ..]);
    let between_stations = !request.to.is_group()
        && icmpv6::is_unicast(request.source)
        && icmpv6::is_unicast(request.destination);
    if !is_request || !between_stations {
        return None;
    }
    let mut message = request.message.to_vec();
    message[0] = REPLY_V6;
    let reply = Packet {
        from: request.to,
        to: request.from,
        source: request.destination,
        destination: request.source,
        traffic_class: request.traffic_class,
        hop_limit: ipv4::TIME_TO_LIVE,
        message: &message,
    };
    Some(reply.frame())
}

fn reply_v4(frame: &[u8]) -> Option<Vec<u8>> {
    let mut copy = frame.to_vec();
    let (ethernet, packet) = Ethernet::split(&mut copy).ok()?;
    let (from, to) = (ethernet.source(), ethernet.destination());
    if ethernet.ethertype() != ethertype::IPV4 || !from.is_station() || to.is_group() {
        return None;
    }
    let (ip, message) = Ipv4::split(packet).ok()?;
    let (source, destination) = (ip.source(), ip.destination());
    let nobody = source.is_unspecified()
        || source.is_broadcast()
        || source.is_multicast()
        || source.is_loopback();
    if nobody || ip.is_fragment() || ip.protocol() != protocol::ICMP || !ip.checksum_is_right() {
        return None;
    }
    let is_request = matches!(message, [REQUEST, 0, _, _, _, _, _, _, ..]);
    if !is_request || checksum::of(message) != 0 {
        return None;
    }
    let mut reply = vec![0; MESSAGE];
    reply.extend_from_slice(message);
    reply[MESSAGE] = REPLY;
    reply[MESSAGE + 2..MESSAGE + 4].fill(0);
    let mended = checksum::of(&reply[MESSAGE..]);
    reply[MESSAGE + 2..MESSAGE + 4].copy_from_slice(&mended.to_be_bytes());
    let header = Header {
        type_of_service: ip.type_of_service(),
        total_length: u16::try_from(reply.len() - 14).ok()?,
        identification: 0,
        dont_fragment: true,
        protocol: protocol::ICMP,
        source: destination,
        destination: source,
    };
    reply[14..MESSAGE].copy_from_slice(&header.to_bytes());
    let (mut ethernet, _) = Ethernet::split(&mut reply).ok()?;
    ethernet.write(to, from, ethertype::IPV4);
    Some(reply)
}

#[cfg(test)]
mod tests {
    use etherparse::{
        Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
    };
    use proptest::prelude::*;

    use super::*;

    fn request(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
            .ipv4([192, 0, 2, 9], [192, 0, 2, 1], 3)
            .icmpv4_echo_request(77, 5)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    #[test]
    fn a_request_of_any_length_is_answered_with_its_own_bytes() {
        for length in [0, 1, 56, 1472] {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let reply = reply(&request(&payload)).unwrap();
            let packet = SlicedPacket::from_ethernet(&reply).unwrap();
            let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
            let header = ip.header().to_header();
            assert_eq!(
                (header.source, header.destination, header.time_to_live),
                ([192, 0, 2, 1], [192, 0, 2, 9], 64)
            );
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { panic!("no ICMP") };
            let Icmpv4Type::EchoReply(echo) = icmp.icmp_type() else { panic!("no reply") };
            assert_eq!((echo.id, echo.seq, icmp.payload()), (77, 5, &payload[..]));
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
            assert_eq!(reply[..12], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
        }
    }

    const CLIENT: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    const OURS: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    fn request_v6(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
            .ipv6(CLIENT, OURS, 3)
            .icmpv6_echo_request(77, 5)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    #[test]
    fn a_request_over_ipv6_of_any_length_is_answered_with_its_own_bytes() {
        for length in [0, 1, 56, 1452] {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let reply = reply(&request_v6(&payload)).unwrap();
            let packet = SlicedPacket::from_ethernet(&reply).unwrap();
            let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("no IPv6") };
            let header = ip.header().to_header();
            assert_eq!((header.source, header.destination, header.hop_limit), (OURS, CLIENT, 64));
            let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else { panic!("no ICMP") };
            let Icmpv6Type::EchoReply(echo) = icmp.icmp_type() else { panic!("no reply") };
            assert_eq!((echo.id, echo.seq, icmp.payload()), (77, 5, &payload[..]));
            assert!(icmp.is_checksum_valid(OURS, CLIENT));
            assert_eq!(reply[..12], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
        }
    }

    #[test]
    fn other_messages_over_ipv6_and_damaged_or_forged_requests_are_not_answered() {
        let spoilt = |at: usize, value: u8| {
            let mut frame = request_v6(b"ping");
            frame[at] = value;
            reply(&frame)
        };
        assert!(spoilt(14, 0x60).is_some());
        assert_eq!(spoilt(54, 129), None, "a reply");
        assert_eq!(spoilt(63, 1), None, "a wrong checksum");
        assert_eq!(spoilt(37, 1), None, "another source than the checksum covers");
        assert_eq!(spoilt(0, 0x33), None, "to a group");
        assert_eq!(spoilt(6, 0x33), None, "from a group");
        assert_eq!(spoilt(20, 44), None, "a fragment");
        assert_eq!(spoilt(18, 1), None, "longer than the frame");
        assert_eq!(reply(&request_v6(b"ping")[..61]), None, "truncated");
        let mut from_nobody = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
            .ipv6([0; 16], OURS, 3)
            .icmpv6_echo_request(77, 5)
            .write(&mut from_nobody, b"ping")
            .unwrap();
        assert_eq!(reply(&from_nobody), None);
    }

    #[test]
    fn other_messages_and_damaged_or_forged_requests_are_not_answered() {
        let spoilt = |at: usize, value: u8| {
            let mut frame = request(b"ping");
            frame[at] = value;
            reply(&frame)
        };
        assert!(spoilt(14, 0x45).is_some());
        assert_eq!(spoilt(34, 0), None, "a reply");
        assert_eq!(spoilt(43, 1), None, "a wrong ICMP checksum");
        assert_eq!(spoilt(24, 1), None, "a wrong IPv4 checksum");
        assert_eq!(spoilt(0, 0xff), None, "to a group");
        assert_eq!(spoilt(6, 0x03), None, "from a group");
        assert_eq!(spoilt(20, 0x20), None, "a fragment");
        assert_eq!(reply(&request(b"ping")[..41]), None, "truncated");
    }

    proptest! {
        #[test]
        fn no_frame_makes_it_panic(mut frame in prop::collection::vec(any::<u8>(), 0..120), like in 0..3) {
            let like = match like {
                0 => request(b""),
                1 => request_v6(b""),
                _ => Vec::new(),
            };
            frame.iter_mut().zip(like).for_each(|(byte, of_a_request)| *byte = of_a_request);
            let _ = reply(&frame);
        }
    }
}
