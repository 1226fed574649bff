//! ICMP echo (RFC 792, RFC 1122 section 3.2.2.6) for our own and the virtual addresses.

use dataplane::wire::checksum;
use dataplane::wire::ethernet::{Ethernet, ethertype};
use dataplane::wire::ipv4::{self, Header, Ipv4, protocol};

const REQUEST: u8 = 8;
const REPLY: u8 = 0;
/// Where the ICMP message begins in the reply: behind Ethernet and a header without options.
const MESSAGE: usize = 14 + ipv4::HEADER;

/// The frame that answers an echo request, straight back to the station that it came from; `None` for
/// anything but a whole and undamaged request from one station to another.
pub fn reply(frame: &[u8]) -> Option<Vec<u8>> {
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
    use etherparse::{Icmpv4Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
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
        fn no_frame_makes_it_panic(mut frame in prop::collection::vec(any::<u8>(), 0..120), like_a_request: bool) {
            if like_a_request {
                let length = frame.len().min(42);
                frame[..length].copy_from_slice(&request(b"")[..length]);
            }
            let _ = reply(&frame);
        }
    }
}
