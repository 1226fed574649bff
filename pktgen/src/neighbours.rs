//! Whose hardware address is asked for: ARP requests (RFC 826) and neighbour solicitations (RFC 4861) for the addresses
//! that pktgen plays are answered, so that a device finds its clients and servers here.

use arrayvec::ArrayVec;
use dataplane::wire::ethernet::{HEADER, TAG, Tag, ethertype};
use dataplane::wire::{Address, Mac, checksum, ipv6, protocol};
use dpdk_sys::{Mbuf, Mempool, TransmitQueue};

use crate::addresses::Network;
use crate::parse;

/// Answers through one port.
#[derive(Debug)]
pub struct Desk {
    /// The way out.
    pub transmit: TransmitQueue,
    /// Where buffers come from.
    pub pool: Mempool,
    /// The port's address.
    pub mac: Mac,
    /// Whose hardware address that is.
    pub ours: Vec<Network>,
}

impl Desk {
    /// Answers, if that frame is a question for us; an answer that the port does not take is lost, as on any wire.
    pub fn hear(&mut self, frame: &mut [u8]) {
        let Some(answer) = answer(frame, self.mac, &self.ours) else { return };
        let mut burst = ArrayVec::<Mbuf, 1>::new();
        burst.extend(self.pool.allocate_from(&answer));
        self.transmit.transmit(&mut burst);
    }
}

/// An answer: a frame with a tag, at most.
pub type Answer = ArrayVec<u8, 96>;

/// Length of ARP for Ethernet and IPv4, in bytes.
const ARP: usize = 28;

/// Its hardware and protocol types and lengths, and the two operations.
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// Message types, and the hop limit that says that a message was not routed (RFC 4861 section 7.1.1).
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const NOT_ROUTED: u8 = 255;

/// The answer to a frame that asks for one of `ours`, which are at `mac`; `None` for any other frame.
pub fn answer(frame: &mut [u8], mac: Mac, ours: &[Network]) -> Option<Answer> {
    let tag = Tag::of(frame);
    let (asker, _, kind, packet) = parse::link(frame)?;
    let is_ours = |address: Address| ours.iter().any(|network| network.holds(address));
    let (kind, reply) = match kind {
        ethertype::ARP => (kind, arp_reply(packet, mac, is_ours)?),
        ethertype::IPV6 => (kind, advertisement(packet, mac, is_ours)?),
        _ => return None,
    };
    let mut frame = Answer::new();
    frame.try_extend_from_slice(&asker.0).ok()?;
    frame.try_extend_from_slice(&mac.0).ok()?;
    if let Some(tag) = tag {
        frame.try_extend_from_slice(&ethertype::VLAN.to_be_bytes()).ok()?;
        frame.try_extend_from_slice(&tag.bits().to_be_bytes()).ok()?;
    }
    frame.try_extend_from_slice(&kind.to_be_bytes()).ok()?;
    frame.try_extend_from_slice(&reply).ok()?;
    while frame.len() < 60 {
        frame.push(0);
    }
    Some(frame)
}

/// What is behind the Ethernet header of an answer.
type Reply = ArrayVec<u8, { 96 - HEADER - TAG }>;

fn arp_reply(packet: &[u8], mac: Mac, is_ours: impl Fn(Address) -> bool) -> Option<Reply> {
    let request = packet.first_chunk::<ARP>()?;
    let address = |at: usize| -> Option<[u8; 4]> { request.get(at..at + 4)?.try_into().ok() };
    let (asker, wanted) = (address(14)?, address(24)?);
    let is_request = request[..6] == ARP_KIND && request[6..8] == REQUEST;
    if !is_request || asker == wanted || !is_ours(std::net::Ipv4Addr::from(wanted).into()) {
        return None;
    }
    let mut reply = Reply::new();
    for part in [&ARP_KIND[..], &REPLY, &mac.0, &wanted, &request[8..14], &asker] {
        reply.try_extend_from_slice(part).ok()?;
    }
    Some(reply)
}

fn advertisement(packet: &mut [u8], mac: Mac, is_ours: impl Fn(Address) -> bool) -> Option<Reply> {
    let (header, message) = ipv6::Ipv6::split(packet).ok()?;
    let asker = header.source();
    let is_for_us = header.next_header() == protocol::ICMPV6 && header.hop_limit() == NOT_ROUTED;
    let wanted = u128::from_be_bytes(message.get(8..24)?.try_into().ok()?);
    let wanted = Address::from_bits(wanted);
    // Who looks whether an address is taken has none yet.
    if !is_for_us || message[0] != SOLICITATION || asker.bits() == 0 || !is_ours(wanted) {
        return None;
    }
    // Solicited, and in place of whatever was known before; then the address, and the option with the hardware address.
    let mut message = ArrayVec::<u8, 32>::new();
    for part in [
        &[ADVERTISEMENT, 0, 0, 0, 0x60, 0, 0, 0][..],
        &wanted.bits().to_be_bytes(),
        &[2, 1],
        &mac.0,
    ] {
        message.try_extend_from_slice(part).ok()?;
    }
    let sum = checksum::of_transport(wanted, asker, protocol::ICMPV6, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = ipv6::Header {
        traffic_class: 0,
        flow_label: 0,
        payload_length: message.len() as u16,
        next_header: protocol::ICMPV6,
        hop_limit: NOT_ROUTED,
        source: wanted,
        destination: asker,
    };
    let mut reply = Reply::new();
    reply.try_extend_from_slice(&header.to_bytes()).ok()?;
    reply.try_extend_from_slice(&message).ok()?;
    Some(reply)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const ASKER: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn ours() -> [Network; 2] {
        ["10.0.0.7-10.0.0.9", "2001:db8::7"].map(|text| text.parse().unwrap())
    }

    fn question(wanted: [u8; 4]) -> Vec<u8> {
        let mut frame =
            [&[0xff; 6][..], &ASKER, &[8, 6], &ARP_KIND, &REQUEST, &ASKER, &[10, 0, 0, 1]].concat();
        frame.extend([0; 6]);
        frame.extend(wanted);
        frame
    }

    fn solicitation(wanted: &str, source: [u8; 16]) -> Vec<u8> {
        let wanted: std::net::Ipv6Addr = wanted.parse().unwrap();
        let mut frame = vec![];
        let message = [&[0; 4][..], &wanted.octets()].concat();
        etherparse::PacketBuilder::ethernet2(ASKER, [0x33; 6])
            .ipv6(source, [0xff; 16], 255)
            .icmpv6_raw(SOLICITATION, 0, message[..4].try_into().unwrap())
            .write(&mut frame, &message[4..])
            .unwrap();
        frame
    }

    #[test]
    fn who_asks_for_an_address_of_ours_by_arp_is_told() {
        let told = answer(&mut question([10, 0, 0, 8]), MAC, &ours()).unwrap();
        assert_eq!((&told[..6], &told[6..12], told.len()), (&ASKER[..], &MAC.0[..], 60));
        assert_eq!(
            told[20..42],
            [&REPLY[..], &MAC.0, &[10, 0, 0, 8], &ASKER, &[10, 0, 0, 1]].concat()[..]
        );
        assert_eq!(answer(&mut question([10, 0, 0, 10]), MAC, &ours()), None, "not ours");
        assert_eq!(answer(&mut question([10, 0, 0, 1]), MAC, &ours()), None, "the asker's own");
    }

    #[test]
    fn a_tagged_question_has_a_tagged_answer() {
        let mut frame = [&[0; 4], &question([10, 0, 0, 7])[..]].concat();
        Tag::from_bits(5).put(&mut frame).unwrap();
        let told = answer(&mut frame, MAC, &ours()).unwrap();
        assert_eq!(told[12..18], [0x81, 0, 0, 5, 8, 6]);
    }

    #[test]
    fn who_solicits_an_address_of_ours_is_told_with_a_right_checksum() {
        let source = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let told = answer(&mut solicitation("2001:db8::7", source), MAC, &ours()).unwrap();
        let packet = etherparse::SlicedPacket::from_ethernet(&told).unwrap();
        let Some(etherparse::TransportSlice::Icmpv6(message)) = packet.transport else {
            panic!("{packet:?}")
        };
        let ours_octets = "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert!(message.is_checksum_valid(ours_octets, source));
        assert_eq!((told[54], told[58], &told[80..86]), (ADVERTISEMENT, 0x60, &MAC.0[..]));
        assert_eq!(answer(&mut solicitation("2001:db8::8", source), MAC, &ours()), None);
        assert_eq!(
            answer(&mut solicitation("2001:db8::7", [0; 16]), MAC, &ours()),
            None,
            "it has no address"
        );
    }

    proptest! {
        #[test]
        fn no_question_upsets_it(mut bytes in prop::collection::vec(any::<u8>(), 0..100), kind in 0usize..3) {
            if bytes.len() > 14 {
                bytes[12..14].copy_from_slice(&[[8, 6], [0x86, 0xdd], [0x81, 0]][kind]);
            }
            answer(&mut bytes, MAC, &["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
        }
    }
}
