//! ICMPv6 (RFC 4443) in a whole Ethernet frame without a VLAN tag, as the workers hand it over and take
//! it. What neighbour discovery and echo have in common; frames with extension headers are left alone.

use dataplane::wire::ethernet::{self, ethertype};
use dataplane::wire::{Address, Mac, checksum, ipv6, protocol};

/// Where the IPv6 header begins.
const IP: usize = ethernet::HEADER;
/// Where the message begins, behind an IPv6 header without extensions.
const MESSAGE: usize = IP + ipv6::HEADER;
/// The shortest Ethernet frame without its check sequence, in bytes.
const SHORTEST: usize = 60;

/// The source of a sender that has no address yet (RFC 4291 section 2.5.2).
pub const UNSPECIFIED: Address = Address::from_bits(0);

/// A message with its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'m> {
    /// The station that sent the frame.
    pub from: Mac,
    /// The station or the group that the frame is for.
    pub to: Mac,
    /// Who sent it; unspecified where the sender has no address yet.
    pub source: Address,
    /// Whom it is for.
    pub destination: Address,
    /// Differentiated services and congestion notification.
    pub traffic_class: u8,
    /// 255 says that no router has passed it on.
    pub hop_limit: u8,
    /// The message, from its type on: at least the four bytes that all have.
    pub message: &'m [u8],
}

/// The type of the message that `frame` carries, if it carries one.
pub fn kind(frame: &[u8]) -> Option<u8> {
    let fixed = frame.first_chunk::<{ MESSAGE + 1 }>()?;
    let is_one = fixed[12..IP] == ethertype::IPV6.to_be_bytes()
        && fixed[IP] >> 4 == 6
        && fixed[IP + 6] == protocol::ICMPV6;
    is_one.then(|| fixed[MESSAGE])
}

impl<'m> Packet<'m> {
    /// Reads a whole frame; `None` if it carries no message, a damaged one, or one between addresses that
    /// cannot be in an IPv6 header.
    pub fn read(frame: &'m [u8]) -> Option<Self> {
        kind(frame)?;
        let (fixed, rest) = frame.split_first_chunk::<MESSAGE>()?;
        let length = u16::from_be_bytes([fixed[IP + 4], fixed[IP + 5]]);
        let message = rest.get(..usize::from(length)).filter(|message| message.len() >= 4)?;
        let packet = Self {
            from: mac(&fixed[6..12])?,
            to: mac(&fixed[..6])?,
            source: address(&fixed[IP + 8..IP + 24])?,
            destination: address(&fixed[IP + 24..MESSAGE])?,
            traffic_class: fixed[IP] << 4 | fixed[IP + 1] >> 4,
            hop_limit: fixed[IP + 7],
            message,
        };
        let may_be = !is_multicast(packet.source) && packet.from.is_station();
        (may_be && packet.checksum() == 0).then_some(packet)
    }

    /// The frame that carries it, with a right checksum whatever stands in the message's own.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(SHORTEST.max(MESSAGE + self.message.len()));
        frame.extend(self.to.0);
        frame.extend(self.from.0);
        frame.extend(ethertype::IPV6.to_be_bytes());
        frame.extend([0x60 | self.traffic_class >> 4, self.traffic_class << 4, 0, 0]);
        frame.extend((self.message.len() as u16).to_be_bytes());
        frame.extend([protocol::ICMPV6, self.hop_limit]);
        frame.extend(self.source.bits().to_be_bytes());
        frame.extend(self.destination.bits().to_be_bytes());
        frame.extend(self.message);
        if let Some(field) = frame.get_mut(MESSAGE + 2..MESSAGE + 4) {
            field.fill(0);
        }
        let message = frame.get(MESSAGE..).unwrap_or_default();
        let checksum = Packet { message, ..*self }.checksum();
        if let Some(field) = frame.get_mut(MESSAGE + 2..MESSAGE + 4) {
            field.copy_from_slice(&checksum.to_be_bytes());
        }
        frame.resize(frame.len().max(SHORTEST), 0);
        frame
    }

    /// Over the pseudo-header (RFC 8200 section 8.1) and the message: 0 if it includes a right one.
    fn checksum(&self) -> u16 {
        checksum::of_transport(self.source, self.destination, protocol::ICMPV6, self.message)
    }
}

/// Whether it is a group's (RFC 4291 section 2.7).
pub fn is_multicast(address: Address) -> bool {
    address.bits() >> 120 == 0xff
}

/// Whether a station may have it.
pub fn is_unicast(address: Address) -> bool {
    const LOOPBACK: u128 = 1;
    address != UNSPECIFIED && address.bits() != LOOPBACK && !is_multicast(address)
}

/// The hardware address of a group (RFC 2464 section 7).
pub fn group_mac(group: Address) -> Mac {
    let [a, b, c, d] = group.low().to_be_bytes();
    Mac([0x33, 0x33, a, b, c, d])
}

/// Six bytes as a hardware address.
pub fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.first_chunk().copied().map(Mac)
}

/// Sixteen bytes as an IPv6 address; `None` for one that maps an IPv4 address, which must not be mistaken
/// for that one.
pub fn address(bytes: &[u8]) -> Option<Address> {
    let bits = u128::from_be_bytes(*bytes.first_chunk()?);
    Some(Address::from_bits(bits)).filter(|address| !address.is_v4())
}
