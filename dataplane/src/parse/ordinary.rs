//! The ordinary packet, read in one go: whole, without options or extension headers, TCP or UDP, nothing wrong with
//! it. Nearly all packets are such, and all that has to be known of one stands in its first few bytes, so there is one
//! check of length and a handful of others. What is not ordinary is looked at closely by [`super`], which says what it
//! is or why it is dropped. The test at the foot says that both agree.

use std::net::Ipv4Addr;

use super::{Flow, Packet, Part, may_be_a_station, may_be_a_station_v6};
use crate::snapshot::Protocol;
use crate::wire::checksum::is_right;
use crate::wire::ipv4::{self, MORE_OR_LATER};
use crate::wire::tcp::Flags;
use crate::wire::{Address, ipv6, protocol, tcp, udp};

/// Reads an ordinary IPv4 packet; `None`, and nothing is said of it, for any other.
#[inline(always)]
pub fn v4(bytes: &[u8]) -> Option<Packet> {
    let header = bytes.first_chunk::<{ ipv4::HEADER + tcp::HEADER }>()?;
    let [version, _, high, low, _, _, more, later, _, carried, ..] = *header;
    let length = u16::from_be_bytes([high, low]);
    let is_whole = u16::from_be_bytes([more, later]) & MORE_OR_LATER == 0;
    if version != 0x45 || !is_whole || usize::from(length) > bytes.len() {
        return None;
    }
    let (fixed, transport) = header.split_first_chunk::<{ ipv4::HEADER }>()?;
    let [.., a, b, c, d, e, f, g, h] = *fixed;
    let source = Ipv4Addr::from_bits(u32::from_be_bytes([a, b, c, d]));
    let destination = Ipv4Addr::from_bits(u32::from_be_bytes([e, f, g, h]));
    if !is_right(fixed)
        || !may_be_a_station(source)
        || !may_be_a_station(destination)
        || source == destination
    {
        return None;
    }
    let payload = length.checked_sub(ipv4::HEADER as u16)?;
    let read = read(carried, transport.first_chunk()?, payload)?;
    Some(packet(read, (source.into(), destination.into()), length, ipv4::HEADER as u16))
}

/// Reads an ordinary IPv6 packet; `None`, and nothing is said of it, for any other.
#[inline(always)]
pub fn v6(bytes: &[u8]) -> Option<Packet> {
    let header = bytes.first_chunk::<{ ipv6::HEADER + tcp::HEADER }>()?;
    let (fixed, transport) = header.split_first_chunk::<{ ipv6::HEADER }>()?;
    let [version, _, _, _, high, low, carried, ..] = *fixed;
    let payload = u16::from_be_bytes([high, low]);
    let length = usize::from(payload) + ipv6::HEADER;
    if version >> 4 != 6 || length > bytes.len() || usize::from(payload) > ipv6::MOST_PAYLOAD {
        return None;
    }
    let address = |at: usize| {
        let octets = fixed.get(at..)?.first_chunk::<16>()?;
        Some(Address::from_bits(u128::from_be_bytes(*octets)))
    };
    let (source, destination) = (address(8)?, address(24)?);
    if !may_be_a_station_v6(source) || !may_be_a_station_v6(destination) || source == destination {
        return None;
    }
    let read = read(carried, transport.first_chunk()?, payload)?;
    Some(packet(read, (source, destination), length as u16, ipv6::HEADER as u16))
}

/// What a transport header says.
struct Read {
    protocol: Protocol,
    ports: (u16, u16),
    flags: Flags,
}

/// Reads the transport header of a payload with this length.
#[inline(always)]
fn read(carried: u8, header: &[u8; tcp::HEADER], payload: u16) -> Option<Read> {
    let [a, b, c, d, high, low, _, _, _, _, _, _, offset, flags, ..] = *header;
    let flags = Flags(flags);
    let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    match carried {
        protocol::TCP => {
            let length = u16::from(offset >> 4) * 4;
            let fits = length >= tcp::HEADER as u16 && length <= payload;
            let read = Read { protocol: Protocol::Tcp, ports, flags };
            (fits && !flags.is_impossible()).then_some(read)
        }
        protocol::UDP => {
            let length = u16::from_be_bytes([high, low]);
            let fits = length >= udp::HEADER as u16 && length <= payload;
            let read = Read { protocol: Protocol::Udp, ports, flags: Flags(0) };
            fits.then_some(read)
        }
        _ => None,
    }
}

#[inline(always)]
fn packet(read: Read, ends: (Address, Address), length: u16, transport: u16) -> Packet {
    let Read { protocol, ports, flags } = read;
    let flow = Flow {
        protocol,
        source: ends.0,
        source_port: ports.0,
        destination: ends.1,
        destination_port: ports.1,
    };
    Packet { flow, flags, answers: false, length, transport, part: Part::Whole }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Content, closely_v4, closely_v6};
    use super::*;
    use crate::wire::checksum;

    /// An IPv4 or IPv6 packet that is ordinary but for a few bytes.
    fn nearly_ordinary() -> impl Strategy<Value = Vec<u8>> {
        let fields = (any::<bool>(), any::<bool>(), any::<[u8; 36]>(), 0usize..40, any::<u8>());
        let strays = prop::collection::vec((0usize..80, any::<u8>()), 0..4);
        (fields, strays, any::<bool>()).prop_map(|(fields, strays, mends)| {
            let (is_v4, is_tcp, addresses, more, flags) = fields;
            let carried = if is_tcp { protocol::TCP } else { protocol::UDP };
            let header = if is_v4 { ipv4::HEADER } else { ipv6::HEADER };
            let mut bytes = vec![0; header + tcp::HEADER + more];
            let payload = (tcp::HEADER + more) as u16;
            if is_v4 {
                bytes[0] = 0x45;
                bytes[2..4].copy_from_slice(&(header as u16 + payload).to_be_bytes());
                bytes[9] = carried;
                bytes[12..20].copy_from_slice(&addresses[..8]);
            } else {
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&payload.to_be_bytes());
                bytes[6] = carried;
                bytes[8..40].copy_from_slice(&addresses[..32]);
            }
            bytes[header..header + 4].copy_from_slice(&addresses[32..]);
            if is_tcp {
                (bytes[header + 12], bytes[header + 13]) = (0x50, flags);
            } else {
                bytes[header + 4..header + 6].copy_from_slice(&payload.to_be_bytes());
            }
            for (at, byte) in strays {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            if is_v4 && mends {
                bytes[10..12].fill(0);
                let sum = checksum::of(&bytes[..20]);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            bytes
        })
    }

    fn closely(bytes: &mut [u8], is_v4: bool) -> Option<(Content, Packet)> {
        let mut packet = Packet::NONE;
        let content = match is_v4 {
            true => closely_v4(bytes, &mut packet),
            false => closely_v6(bytes, &mut packet),
        };
        Some((content.ok()?, packet))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn what_is_ordinary_is_the_same_when_looked_at_closely(mut bytes in nearly_ordinary()) {
            for (read, is_v4) in [(v4(&bytes), true), (v6(&bytes), false)] {
                if let Some(packet) = read {
                    prop_assert_eq!(closely(&mut bytes, is_v4), Some((Content::Flow, packet)));
                }
            }
        }
    }

    #[test]
    fn a_segment_and_a_datagram_of_either_family_are_ordinary() {
        for carried in [protocol::TCP, protocol::UDP] {
            let mut bytes = [0; 40];
            (bytes[0], bytes[3], bytes[9]) = (0x45, 40, carried);
            bytes[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            (bytes[25], bytes[32], bytes[33]) = (20, 0x50, Flags::SYN);
            let sum = checksum::of(&bytes[..20]);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            assert!(v4(&bytes).is_some());
            let mut bytes = [0; 60];
            (bytes[0], bytes[5], bytes[6]) = (0x60, 20, carried);
            (bytes[8], bytes[24], bytes[25]) = (0x20, 0x20, 1);
            (bytes[45], bytes[52], bytes[53]) = (20, 0x50, Flags::SYN);
            assert!(v6(&bytes).is_some());
        }
    }
}
