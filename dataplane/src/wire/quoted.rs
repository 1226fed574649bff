//! The start of a packet that an ICMP error quotes (RFC 792, RFC 4443 section 2.4): often no more of it than its
//! IP header and 8 bytes.

use super::checksum::Change;
use super::ipv6::Extensions;
use super::{Address, Family, Malformed, ipv4, ipv6, protocol};

/// What tells the flows between two addresses apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// TCP, UDP and SCTP have ports.
    Ports {
        /// The sender's.
        source: u16,
        /// The receiver's.
        destination: u16,
    },
    /// An ICMP echo has an identifier.
    Identifier(u16),
    /// Another protocol, a later fragment, or too little of it.
    None,
}

/// What a quoted packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// What it carries: one of [`protocol`].
    pub protocol: u8,
    /// Who sent it.
    pub source: Address,
    /// Whom it is for.
    pub destination: Address,
    /// Its ports, if they are there.
    pub numbers: Numbers,
    /// Whether it is a fragment other than the first.
    pub is_later_fragment: bool,
    family: Family,
    /// Where the transport header begins.
    transport: usize,
}

/// Which end of a packet is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

impl Quoted {
    /// Reads the packet of `family` that `bytes` begin with. Its length fields are not believed, because
    /// quotes are cut.
    pub fn read(family: Family, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut quoted = match family {
            Family::V4 => Self::read_ipv4(bytes)?,
            Family::V6 => Self::read_ipv6(bytes)?,
        };
        if !quoted.is_later_fragment {
            quoted.numbers = quoted.numbers(bytes.get(quoted.transport..).unwrap_or(&[]));
        }
        Ok(quoted)
    }

    fn read_ipv4(bytes: &[u8]) -> Result<Self, Malformed> {
        const OFFSET: u16 = 0x1fff;
        let header = bytes.first_chunk::<{ ipv4::HEADER }>().ok_or(Malformed::Truncated)?;
        let transport = usize::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || transport < ipv4::HEADER {
            return Err(Malformed::Impossible);
        }
        if transport > bytes.len() {
            return Err(Malformed::Truncated);
        }
        let [.., a, b, c, d, e, f, g, h] = *header;
        Ok(Self {
            protocol: header[9],
            source: std::net::Ipv4Addr::new(a, b, c, d).into(),
            destination: std::net::Ipv4Addr::new(e, f, g, h).into(),
            numbers: Numbers::None,
            is_later_fragment: u16::from_be_bytes([header[6], header[7]]) & OFFSET != 0,
            family: Family::V4,
            transport,
        })
    }

    fn read_ipv6(bytes: &[u8]) -> Result<Self, Malformed> {
        let (header, rest) =
            bytes.split_first_chunk::<{ ipv6::HEADER }>().ok_or(Malformed::Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(Malformed::Impossible);
        }
        let extensions = Extensions::walk(header[6], rest)?;
        let address = |at: usize| {
            let mut bits = [0; 16];
            bits.copy_from_slice(&header[at..at + 16]);
            Address::from_bits(u128::from_be_bytes(bits))
        };
        Ok(Self {
            protocol: extensions.protocol,
            source: address(8),
            destination: address(24),
            numbers: Numbers::None,
            is_later_fragment: extensions.fragment.is_some_and(|fragment| fragment.offset != 0),
            family: Family::V6,
            transport: ipv6::HEADER + extensions.at,
        })
    }

    fn numbers(&self, transport: &[u8]) -> Numbers {
        match (self.family, self.protocol, transport) {
            (_, protocol::TCP | protocol::UDP | protocol::SCTP, &[a, b, c, d, ..]) => {
                Numbers::Ports {
                    source: u16::from_be_bytes([a, b]),
                    destination: u16::from_be_bytes([c, d]),
                }
            }
            (Family::V4, protocol::ICMP, &[0 | 8, _, _, _, high, low, ..])
            | (Family::V6, protocol::ICMPV6, &[128 | 129, _, _, _, high, low, ..]) => {
                Numbers::Identifier(u16::from_be_bytes([high, low]))
            }
            _ => Numbers::None,
        }
    }

    /// Replaces one end of the packet in `bytes`, which `self` was read from: its address by one of the same
    /// family, and its port (or identifier), if it has one, by `number`. Mends what checksums are
    /// quoted, and gives all that changed. SCTP's checksum (a CRC over the whole packet) cannot be mended.
    pub(super) fn set(&self, bytes: &mut [u8], end: End, address: Address, number: u16) -> Change {
        let mut edit = Edit { bytes, change: Change::default() };
        let old = match end {
            End::Source => self.source,
            End::Destination => self.destination,
        };
        let addresses = Change::of_addresses(old, address);
        let is_source = end == End::Source;
        match self.family {
            Family::V4 => {
                edit.set(if is_source { 12 } else { 16 }, &address.low().to_be_bytes());
                edit.mend(10, addresses);
            }
            Family::V6 => {
                edit.set(if is_source { 8 } else { 24 }, &address.bits().to_be_bytes());
            }
        }
        if self.is_later_fragment {
            return edit.change;
        }
        let numbers = match self.numbers {
            Numbers::Ports { source, .. } if is_source => {
                edit.set(self.transport, &number.to_be_bytes());
                Change::default().word(source, number)
            }
            Numbers::Ports { destination, .. } => {
                edit.set(self.transport + 2, &number.to_be_bytes());
                Change::default().word(destination, number)
            }
            Numbers::Identifier(identifier) => {
                edit.set(self.transport + 4, &number.to_be_bytes());
                Change::default().word(identifier, number)
            }
            Numbers::None => Change::default(),
        };
        match (self.family, self.protocol) {
            (_, protocol::TCP) => edit.mend(self.transport + 16, addresses.and(numbers)),
            (_, protocol::UDP) => edit.mend_udp(self.transport + 6, addresses.and(numbers)),
            (Family::V4, protocol::ICMP) => edit.mend(self.transport + 2, numbers),
            (Family::V6, protocol::ICMPV6) => {
                edit.mend(self.transport + 2, addresses.and(numbers));
            }
            _ => {}
        }
        edit.change
    }
}

/// Words of a packet that are replaced, and what changed by it. What lies behind the bytes is left alone.
struct Edit<'p> {
    bytes: &'p mut [u8],
    change: Change,
}

impl Edit<'_> {
    /// Replaces the words at `at`, which is even, as every offset in an IP packet's headers is.
    fn set(&mut self, at: usize, to: &[u8]) {
        let Some(field) = self.bytes.get_mut(at..at + to.len()) else { return };
        let words = field.as_chunks_mut::<2>().0.iter_mut().zip(to.as_chunks::<2>().0);
        for (from, &to) in words {
            self.change = self.change.word(u16::from_be_bytes(*from), u16::from_be_bytes(to));
            *from = to;
        }
    }

    fn mend(&mut self, at: usize, change: Change) {
        if let Some(&[high, low]) = self.bytes.get(at..at + 2) {
            let mended = change.mend(u16::from_be_bytes([high, low]));
            self.set(at, &mended.to_be_bytes());
        }
    }

    /// None stays none, and a sum of zero is written as all ones (RFC 768).
    fn mend_udp(&mut self, at: usize, change: Change) {
        let Some(&[high, low]) = self.bytes.get(at..at + 2) else { return };
        if [high, low] == [0, 0] {
            return;
        }
        let mended = match change.mend(u16::from_be_bytes([high, low])) {
            0 => 0xffff,
            mended => mended,
        };
        self.set(at, &mended.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use etherparse::{
        IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader,
        Ipv6Header, Ipv6RawExtHeader, PacketBuilder,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::wire::icmp::{self, Message};
    use crate::wire::{checksum, icmpv6};

    /// A packet to be quoted.
    #[derive(Debug, Clone)]
    struct Original {
        source: (Address, u16),
        destination: (Address, u16),
        protocol: Protocol,
        /// IPv4 options, or IPv6 extension headers.
        has_options: bool,
        offset: u16,
        payload: Vec<u8>,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Protocol {
        Tcp,
        Udp,
        UdpWithoutChecksum,
        Echo,
        Unknown,
    }

    impl Original {
        /// Its bytes as an independent encoder writes them.
        fn to_bytes(&self) -> Vec<u8> {
            let (ip, header) = match (self.source.0.ip(), self.destination.0.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    let mut header =
                        Ipv4Header::new(0, 64, IpNumber(0), from.octets(), to.octets()).unwrap();
                    header.fragment_offset = IpFragOffset::try_new(self.offset).unwrap();
                    if self.has_options {
                        header.options = [1; 8].into();
                    }
                    let length = header.header_len();
                    (IpHeaders::Ipv4(header, Default::default()), length)
                }
                _ => {
                    let header = Ipv6Header {
                        source: self.source.0.bits().to_be_bytes(),
                        destination: self.destination.0.bits().to_be_bytes(),
                        hop_limit: 64,
                        ..Default::default()
                    };
                    let options = Ipv6RawExtHeader::new_raw(IpNumber(0), &[1; 14]).unwrap();
                    let offset = IpFragOffset::try_new(self.offset).unwrap();
                    let fragment = Ipv6FragmentHeader::new(IpNumber(0), offset, true, 7);
                    let extensions = Ipv6Extensions {
                        destination_options: self.has_options.then_some(options),
                        fragment: (self.has_options || self.offset != 0).then_some(fragment),
                        ..Default::default()
                    };
                    let length = 40 + extensions.header_len();
                    (IpHeaders::Ipv6(header, extensions), length)
                }
            };
            let is_v4 = self.source.0.is_v4();
            let (ip, mut bytes) = (PacketBuilder::ip(ip), Vec::new());
            let (from, to) = (self.source.1, self.destination.1);
            match self.protocol {
                Protocol::Tcp => ip.tcp(from, to, 1, 2).write(&mut bytes, &self.payload),
                Protocol::Udp | Protocol::UdpWithoutChecksum => {
                    ip.udp(from, to).write(&mut bytes, &self.payload)
                }
                Protocol::Echo if is_v4 => {
                    ip.icmpv4_echo_request(from, 1).write(&mut bytes, &self.payload)
                }
                Protocol::Echo => ip.icmpv6_echo_request(from, 1).write(&mut bytes, &self.payload),
                Protocol::Unknown => ip.write(&mut bytes, IpNumber(253), &self.payload),
            }
            .unwrap();
            if self.protocol == Protocol::UdpWithoutChecksum {
                bytes[header + 6..header + 8].fill(0);
            }
            bytes
        }

        fn numbers(&self) -> Numbers {
            match self.protocol {
                _ if self.offset != 0 => Numbers::None,
                Protocol::Unknown => Numbers::None,
                Protocol::Echo => Numbers::Identifier(self.source.1),
                _ => Numbers::Ports { source: self.source.1, destination: self.destination.1 },
            }
        }
    }

    /// Two packets that differ in addresses and ports alone.
    fn originals() -> impl Strategy<Value = [Original; 2]> {
        let v4 = any::<[u32; 4]>()
            .prop_map(|four| four.map(|bits| std::net::Ipv4Addr::from_bits(bits).into()));
        let v6 = any::<[u128; 4]>().prop_map(|four| four.map(Address::from_bits));
        let protocol = prop::sample::select(vec![
            Protocol::Tcp,
            Protocol::Udp,
            Protocol::UdpWithoutChecksum,
            Protocol::Echo,
            Protocol::Unknown,
        ]);
        let payload = prop::collection::vec(any::<u8>(), 8..40);
        let addresses = prop_oneof![v4, v6];
        let all = (addresses, any::<[u16; 4]>(), protocol, any::<bool>(), payload);
        all.prop_map(|(addresses, ports, protocol, has_options, payload)| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|at| (addresses[at], ports[at]));
            let (source, destination) = (a, b);
            let first = Original { source, destination, protocol, has_options, offset: 0, payload };
            [first.clone(), Original { source: c, destination: d, ..first }]
        })
    }

    /// The error that quotes `packet`, from and to addresses of its family.
    fn error(packet: &[u8], family: Family, [from, to]: [Address; 2]) -> Vec<u8> {
        let mut message = vec![0; 8 + packet.len()];
        match family {
            Family::V4 => {
                icmp::write_error(&mut message, icmp::Error::TimeExceeded, packet).unwrap()
            }
            Family::V6 => {
                let error = icmpv6::Error::TimeExceeded;
                icmpv6::write_error(&mut message, error, packet, from, to).unwrap()
            }
        };
        message
    }

    /// An echo has one identifier, which both ends get; TCP, UDP and their like have two ports.
    fn rewrite(message: &mut [u8], family: Family, after: &Original) {
        let mut message = Message::read(family, message).unwrap();
        let destination = match after.protocol {
            Protocol::Echo => after.source.1,
            _ => after.destination.1,
        };
        message.set_quoted_source(after.source.0, after.source.1).unwrap();
        message.set_quoted_destination(after.destination.0, destination).unwrap();
    }

    proptest! {
        #[test]
        fn a_rewritten_quote_is_that_of_the_packet_with_the_other_addresses([before, after] in originals(), cut in 0usize..60) {
            let family = before.source.0.family();
            let (old, new) = (before.to_bytes(), after.to_bytes());
            let headers = old.len() - before.payload.len();
            let cut = (headers + 8).min(old.len()).max(old.len().saturating_sub(cut));
            let outer = [before.source.0; 2];
            let mut message = error(&old[..cut], family, outer);
            {
                let message = Message::read(family, &mut message).unwrap();
                let quoted = message.quoted().unwrap();
                prop_assert_eq!((quoted.source, quoted.destination), (before.source.0, before.destination.0));
                prop_assert_eq!(quoted.numbers, before.numbers());
                prop_assert!(!quoted.is_later_fragment);
            }
            rewrite(&mut message, family, &after);
            prop_assert_eq!(message, error(&new[..cut], family, outer));
        }

        #[test]
        fn a_quote_of_the_ip_header_and_eight_bytes_is_rewritten_as_far_as_it_goes([before, after] in originals()) {
            let family = before.source.0.family();
            let (old, new) = (before.to_bytes(), after.to_bytes());
            let transport = match before.protocol {
                Protocol::Tcp => 20,
                Protocol::Unknown => 0,
                _ => 8,
            };
            let cut = old.len() - before.payload.len() - transport + 8;
            let outer = [before.source.0; 2];
            let mut message = error(&old[..cut], family, outer);
            rewrite(&mut message, family, &after);
            prop_assert_eq!(message, error(&new[..cut], family, outer));
        }

        #[test]
        fn a_later_fragment_has_no_ports_and_only_its_addresses_change([before, after] in originals(), offset in 1u16..8192) {
            let family = before.source.0.family();
            let before = Original { offset, protocol: Protocol::Unknown, ..before };
            let after = Original { offset, protocol: Protocol::Unknown, ..after };
            // What looks like a TCP header is data.
            let (mut old, mut new) = (before.to_bytes(), after.to_bytes());
            if family == Family::V4 {
                for bytes in [&mut old, &mut new] {
                    let header = usize::from(bytes[0] & 0x0f) * 4;
                    bytes[9] = protocol::TCP;
                    bytes[10..12].fill(0);
                    let sum = checksum::of(&bytes[..header]);
                    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                }
            }
            let outer = [before.source.0; 2];
            let mut message = error(&old, family, outer);
            let quoted = Message::read(family, &mut message).unwrap().quoted().unwrap();
            prop_assert!(quoted.is_later_fragment && quoted.numbers == Numbers::None);
            rewrite(&mut message, family, &after);
            prop_assert_eq!(message, error(&new, family, outer));
        }

        #[test]
        fn any_bytes_are_read_and_written_within_themselves(v6: bool, mut bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(0x45), Just(0x60), Just(44), Just(60), Just(6), Just(17), any::<u8>()], 8..120), number: u16) {
            let family = if v6 { Family::V6 } else { Family::V4 };
            if let Some(version) = bytes.get_mut(8) {
                *version = if v6 { 0x60 } else { 0x40 | *version & 0x0f };
            }
            let address = Address::from_bits(7);
            let right = Message::read(family, &mut bytes).unwrap().checksum_is_right(address, address);
            let before = bytes.clone();
            let mut message = Message::read(family, &mut bytes).unwrap();
            if message.set_quoted_source(address, number).is_ok() {
                message.set_quoted_destination(address, number).unwrap();
                prop_assert_eq!(message.checksum_is_right(address, address), right);
            } else {
                prop_assert_eq!(bytes, before);
            }
        }
    }
}
