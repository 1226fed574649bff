//! Ethernet II (IEEE 802.3): two addresses and a type.

use std::fmt;
use std::str::FromStr;

use super::Malformed;

/// Length of an Ethernet header without a tag, in bytes.
pub const HEADER: usize = 14;

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

#[cfg(test)]
mod tests {
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
}
