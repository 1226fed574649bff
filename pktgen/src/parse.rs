//! What has arrived: the innermost packet of a frame, and the stamp in it. Any bytes may come; what is not ours is
//! foreign, and nothing here can panic.

use dataplane::wire::ethernet::{Ethernet, Mac, TAG, ethertype};
use dataplane::wire::ipv4::Ipv4;
use dataplane::wire::ipv6::Ipv6;
use dataplane::wire::tcp::Tcp;
use dataplane::wire::{Address, gue, icmp, protocol, udp};

use crate::stamp::{self, HeaderWords, Mark, Stamp};

/// Tags and packets around a packet that are taken off at most.
const MOST_LAYERS: u8 = 4;

/// A packet without everything that was put around it.
#[derive(Debug)]
pub struct Packet<'p> {
    /// Who sent it.
    pub source: Address,
    /// Whom it is for.
    pub destination: Address,
    /// What [`Self::payload`] is: one of [`protocol`].
    pub protocol: u8,
    /// The transport header and what follows it; of a fragmented packet, as much as the first fragment has.
    pub payload: &'p mut [u8],
    /// How many packets it was inside: IP in IP or GUE.
    pub layers: u8,
}

/// The addresses of a frame, and the type and bytes of what is behind them and any VLAN tags.
pub fn link(frame: &mut [u8]) -> Option<(Mac, Mac, u16, &mut [u8])> {
    let (header, mut payload) = Ethernet::split(frame).ok()?;
    let (source, destination, mut kind) =
        (header.source(), header.destination(), header.ethertype());
    for _ in 0..MOST_LAYERS {
        if kind != ethertype::VLAN && kind != ethertype::SERVICE_VLAN {
            return Some((source, destination, kind, payload));
        }
        let (tag, rest) = payload.split_first_chunk_mut::<TAG>()?;
        kind = u16::from_be_bytes([tag[2], tag[3]]);
        payload = rest;
    }
    None
}

/// A packet with one header taken off.
struct Opened<'p> {
    source: Address,
    destination: Address,
    protocol: u8,
    payload: &'p mut [u8],
}

/// `None` for what makes no sense, and for fragments other than the first.
#[inline]
fn open(is_v4: bool, packet: &mut [u8]) -> Option<Opened<'_>> {
    if is_v4 {
        let (header, payload) = Ipv4::split(packet).ok()?;
        let (source, destination) = (header.source_address(), header.destination_address());
        let later = header.is_fragment() && header.fragment().is_some_and(|part| part.offset > 0);
        let protocol = header.protocol();
        return (!later).then_some(Opened { source, destination, protocol, payload });
    }
    let (header, payload) = Ipv6::split(packet).ok()?;
    let (source, destination) = (header.source(), header.destination());
    let protocol = header.next_header();
    if matches!(
        protocol,
        protocol::TCP | protocol::UDP | protocol::ICMPV6 | protocol::IPV4 | protocol::IPV6
    ) {
        return Some(Opened { source, destination, protocol, payload });
    }
    let extensions = header.extensions(payload).ok()?;
    let later = extensions.fragment.is_some_and(|part| part.offset > 0);
    let payload = payload.get_mut(extensions.at..)?;
    (!later).then_some(Opened { source, destination, protocol: extensions.protocol, payload })
}

/// The innermost packet of `frame`, if there is one; GUE is looked for at `gue_port`.
#[inline]
pub fn innermost(frame: &mut [u8], gue_port: u16) -> Option<Packet<'_>> {
    let (_, _, kind, mut packet) = link(frame)?;
    let mut is_v4 = match kind {
        ethertype::IPV4 => true,
        ethertype::IPV6 => false,
        _ => return None,
    };
    for layers in 0..MOST_LAYERS {
        let Opened { source, destination, protocol, payload } = open(is_v4, packet)?;
        let (inner, payload) = match protocol {
            protocol::IPV4 | protocol::IPV6 => (protocol, payload),
            protocol::UDP if is_gue(payload, gue_port) => {
                gue::split(&mut payload[udp::HEADER..]).ok()?
            }
            _ => return Some(Packet { source, destination, protocol, payload, layers }),
        };
        is_v4 = inner == protocol::IPV4;
        packet = payload;
    }
    None
}

/// Whether a datagram is for that port and carries an IP packet behind a GUE header.
fn is_gue(datagram: &[u8], port: u16) -> bool {
    let [_, _, high, low, _, _, _, _, first, inner, ..] = *datagram else { return false };
    u16::from_be_bytes([high, low]) == port
        && first & 0xe0 == 0
        && (inner == protocol::IPV4 || inner == protocol::IPV6)
}

/// The stamp in a packet.
#[inline]
pub fn stamp(packet: &Packet<'_>, mark: Mark) -> Option<Stamp> {
    let payload = &*packet.payload;
    match packet.protocol {
        protocol::UDP => stamp::in_payload(payload.get(udp::HEADER..)?, mark),
        protocol::ICMP | protocol::ICMPV6 => stamp::in_payload(payload.get(icmp::HEADER..)?, mark),
        protocol::TCP => {
            let header = payload.first_chunk::<20>()?;
            let length = usize::from(header[12] >> 4) * 4;
            let data = payload.get(length..)?;
            stamp::in_payload(data, mark).or_else(|| stamp::in_header(words(header), data, mark))
        }
        _ => None,
    }
}

#[inline]
fn words(header: &[u8; 20]) -> HeaderWords {
    let [_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, _, _, w0, w1, _, _, u0, u1] = *header;
    HeaderWords {
        sequence: u32::from_be_bytes([s0, s1, s2, s3]),
        clock: u32::from_be_bytes([a0, a1, a2, a3]),
        flow: u32::from_be_bytes([w0, w1, u0, u1]),
    }
}

/// The TCP header of a packet, if it has one.
pub fn tcp<'p>(packet: &'p mut Packet<'_>) -> Option<Tcp<'p>> {
    if packet.protocol != protocol::TCP {
        return None;
    }
    Tcp::split(packet.payload).ok()
}

#[cfg(test)]
mod tests;
