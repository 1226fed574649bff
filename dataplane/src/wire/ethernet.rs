//! Ethernet II (IEEE 802.3): two addresses and a type.

use std::fmt;
use std::str::FromStr;

use super::{Address, Malformed};

/// Length of an Ethernet header without a tag, in bytes.
pub const HEADER: usize = 14;

/// Length of a VLAN tag, in bytes: its ethertype and its control information.
pub const TAG: usize = 4;

/// Length of the two addresses that a tag stands behind, in bytes.
const ADDRESSES: usize = 12;

/// What an Ethernet frame carries (IEEE 802 Numbers, IANA).
pub mod ethertype {
    /// IPv4 (RFC 894).
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// A customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// A service VLAN tag (IEEE 802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// IPv6 (RFC 2464).
    pub const IPV6: u16 = 0x86dd;
}

/// A hardware address.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Every station on the segment.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether this is a group address (multicast or broadcast): bit 0 of the first byte.
    #[inline]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Where packets for the multicast group `group` go (RFC 2464 section 7, RFC 1112 section 6.4).
    pub fn of_multicast(group: Address) -> Self {
        let [a, b, c, d] = group.low().to_be_bytes();
        if group.is_v4() {
            Self([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        } else {
            Self([0x33, 0x33, a, b, c, d])
        }
    }

    /// Whether a station may have this address: neither a group address nor all zeroes.
    #[inline]
    pub fn is_station(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six pairs of hexadecimal digits parted by colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAMac;

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(NotAMac)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NotAMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotAMac)?;
        }
        if parts.next().is_some() { Err(NotAMac) } else { Ok(Self(bytes)) }
    }
}

/// An Ethernet header, read and written where it lies.
pub struct Ethernet<'p>(&'p mut [u8; HEADER]);

impl<'p> Ethernet<'p> {
    /// Splits the header off `frame`: the one place where its length is checked.
    #[inline]
    pub fn split(frame: &'p mut [u8]) -> Result<(Self, &'p mut [u8]), Malformed> {
        let (header, payload) = frame.split_first_chunk_mut().ok_or(Malformed::Truncated)?;
        Ok((Self(header), payload))
    }

    /// Whom the frame is for.
    #[inline]
    pub fn destination(&self) -> Mac {
        let [a, b, c, d, e, f, ..] = *self.0;
        Mac([a, b, c, d, e, f])
    }

    /// Whether the frame is for this station.
    #[inline]
    pub fn is_for(&self, station: Mac) -> bool {
        let [a, b, c, d, e, f, ..] = *self.0;
        let [g, h, i, j, k, l] = station.0;
        u32::from_ne_bytes([a, b, c, d]) == u32::from_ne_bytes([g, h, i, j])
            && u16::from_ne_bytes([e, f]) == u16::from_ne_bytes([k, l])
    }

    /// Who sent the frame.
    #[inline]
    pub fn source(&self) -> Mac {
        let [_, _, _, _, _, _, a, b, c, d, e, f, _, _] = *self.0;
        Mac([a, b, c, d, e, f])
    }

    /// What the frame carries: one of [`ethertype`].
    #[inline]
    pub fn ethertype(&self) -> u16 {
        let [.., high, low] = *self.0;
        u16::from_be_bytes([high, low])
    }

    /// Sends the frame on from `source` to `destination`; nothing else changes.
    #[inline]
    pub fn readdress(&mut self, source: Mac, destination: Mac) {
        self.0[..6].copy_from_slice(&destination.0);
        self.0[6..12].copy_from_slice(&source.0);
    }

    /// Writes a whole header.
    pub fn write(&mut self, source: Mac, destination: Mac, ethertype: u16) {
        self.readdress(source, destination);
        self.0[12..].copy_from_slice(&ethertype.to_be_bytes());
    }
}

/// The control information of a VLAN tag (IEEE 802.1Q section 9.6): which VLAN, and with what priority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Tag(u16);

impl Tag {
    const IDENTIFIER: u16 = 0x0fff;

    /// From its 16 bits, as they lie in a frame or as a card hands them over.
    #[inline]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Its 16 bits.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Which VLAN: 12 bits. 0 is none (a priority alone), 4095 is reserved.
    #[inline]
    pub const fn identifier(self) -> u16 {
        self.0 & Self::IDENTIFIER
    }

    /// The same priority in another VLAN.
    #[inline]
    pub const fn with_identifier(self, identifier: u16) -> Self {
        Self(self.0 & !Self::IDENTIFIER | identifier & Self::IDENTIFIER)
    }

    /// The customer tag of `frame`, if it has one with a type behind it.
    #[inline]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let header = frame.first_chunk::<{ TAG + HEADER }>()?;
        let [.., high, low, a, b, _, _] = *header;
        (u16::from_be_bytes([high, low]) == ethertype::VLAN)
            .then_some(Self(u16::from_be_bytes([a, b])))
    }

    /// Takes the customer tag off `frame`, which then begins [`TAG`] bytes later: what is in front of
    /// that is to be cut off. `None`, and no change, if there is no tag.
    #[inline]
    pub fn take(frame: &mut [u8]) -> Option<Self> {
        let tag = Self::of(frame)?;
        frame.copy_within(..ADDRESSES, TAG); // a tag has been found behind them
        Some(tag)
    }

    /// Puts this tag into `frame`, in front of which [`TAG`] bytes have been added. `None`, and no change, if
    /// it is too short for an Ethernet header behind them.
    #[inline]
    pub fn put(self, frame: &mut [u8]) -> Option<()> {
        let (header, _) = frame.split_first_chunk_mut::<{ TAG + HEADER }>()?;
        header.copy_within(TAG..TAG + ADDRESSES, 0);
        header[ADDRESSES..ADDRESSES + 2].copy_from_slice(&ethertype::VLAN.to_be_bytes());
        header[ADDRESSES + 2..ADDRESSES + TAG].copy_from_slice(&self.0.to_be_bytes());
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hardware_address_reads_back_as_it_was_written() {
        let mac: Mac = "02:00:5e:00:01:ff".parse().unwrap();
        assert_eq!(mac, Mac([2, 0, 0x5e, 0, 1, 0xff]));
        assert_eq!(mac.to_string(), "02:00:5e:00:01:ff");
    }

    #[test]
    fn other_texts_are_no_hardware_address() {
        for text in [
            "",
            "02:00",
            "02:00:00:00:00:1",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:00:00",
            "+2:00:00:00:00:00",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(NotAMac), "{text}");
        }
    }

    #[test]
    fn thirteen_bytes_are_no_header() {
        assert_eq!(Ethernet::split(&mut [0; 13]).err(), Some(Malformed::Truncated));
    }

    #[test]
    fn a_tag_is_read_as_an_independent_encoder_wrote_it_and_taken_off() {
        let mut tagged = Vec::new();
        let vlan = etherparse::VlanId::try_new(0x0123).unwrap();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .single_vlan(vlan)
            .ipv4([192, 0, 2, 9], [10, 0, 0, 100], 64)
            .udp(53, 1053)
            .write(&mut tagged, &[1, 2, 3])
            .unwrap();
        let mut plain = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([192, 0, 2, 9], [10, 0, 0, 100], 64)
            .udp(53, 1053)
            .write(&mut plain, &[1, 2, 3])
            .unwrap();
        let before = tagged.clone();
        let tag = Tag::take(&mut tagged).unwrap();
        assert_eq!(tag.identifier(), 0x0123);
        assert_eq!(tagged[TAG..], plain);
        tag.put(&mut tagged).unwrap();
        assert_eq!(tagged, before);
        assert_eq!(Tag::take(&mut plain), None);
    }

    #[test]
    fn a_tag_with_no_type_behind_it_is_none() {
        let mut frame = [[0; 12].as_slice(), &[0x81, 0, 0, 7, 8, 0]].concat();
        assert_eq!(Tag::of(&frame), Some(Tag::from_bits(7)));
        assert_eq!(Tag::take(&mut frame[..17]), None);
    }

    #[test]
    fn a_tag_keeps_its_priority_in_another_vlan() {
        let tag = Tag::from_bits(0xb064).with_identifier(0x1fff);
        assert_eq!((tag.bits(), tag.identifier()), (0xbfff, 0x0fff));
    }

    #[test]
    fn multicast_groups_have_hardware_addresses_of_their_own() {
        let mac = |group: &str| Mac::of_multicast(group.parse().unwrap()).to_string();
        assert_eq!(mac("ff02::1:ff00:7"), "33:33:ff:00:00:07");
        assert_eq!(mac("224.0.0.18"), "01:00:5e:00:00:12");
        assert_eq!(mac("239.129.2.3"), "01:00:5e:01:02:03", "23 bits only");
    }

    proptest! {
        #[test]
        fn a_tag_is_put_and_taken_within_any_frame(mut bytes in prop::collection::vec(any::<u8>(), 0..40), bits: u16) {
            let before = bytes.clone();
            if Tag::from_bits(bits).put(&mut bytes).is_some() {
                prop_assert_eq!(Tag::take(&mut bytes), Some(Tag::from_bits(bits)));
                prop_assert_eq!(&bytes[TAG..], &before[TAG..]);
            } else {
                prop_assert!(bytes.len() < TAG + HEADER);
                prop_assert_eq!(bytes, before);
            }
        }
    }
}
