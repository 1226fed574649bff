//! Step 5d, tunnelling (FWD-12): the packet travels inside another, and is itself untouched: IPv4 or
//! IPv6 in either of the two (RFC 2003, RFC 2473, RFC 4213), with a UDP header between on request (GUE).

use crate::frame::Frame;
use crate::parse::{Packet, ip_packet};
use crate::snapshot::{Encapsulation, Protocol};
use crate::wire::ethernet::{self, Ethernet, Mac, ethertype};
use crate::wire::gue;
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::tcp::{self, Tcp};
use crate::wire::{Address, Family, protocol};

/// How much longer a packet becomes, in bytes.
#[inline]
pub fn overhead(source: Address, encapsulation: Encapsulation) -> usize {
    let outer = match source.family() {
        Family::V4 => ipv4::HEADER,
        Family::V6 => ipv6::HEADER,
    };
    outer + if encapsulation == Encapsulation::Ip { 0 } else { gue::HEADERS }
}

/// Lowers the maximum segment size that a SYN offers to what fits a tunnel with so much room.
pub fn clamp_mss(frame: &mut impl Frame, packet: &Packet, room: u16) {
    if packet.flow.protocol != Protocol::Tcp {
        return;
    }
    let inner = if packet.flow.source.is_v4() { ipv4::HEADER } else { ipv6::HEADER };
    let most = usize::from(room).saturating_sub(inner + tcp::HEADER) as u16;
    let payload = ip_packet(frame).get_mut(usize::from(packet.transport)..);
    if let Some(Ok(mut tcp)) = payload.map(Tcp::split) {
        tcp.clamp_mss(most);
    }
}

/// Numbers the outer packets that may be fragmented on the way.
#[derive(Clone)]
pub struct Identification(u16);

impl Identification {
    /// Begins with `first`.
    pub fn starting_at(first: u16) -> Self {
        Self(first)
    }

    /// Puts `frame`'s packet into one from one end of the tunnel to the other; gives the new packet's length.
    /// `None` if the buffer has no room in front.
    ///
    /// - "Don't fragment" is copied from the inner packet (RFC 2003 section 3.1), so that path MTU discovery
    ///   works; an IPv6 packet inside counts as one that has it set.
    /// - A packet that must not be fragmented needs no identification (RFC 6864 section 4.1); any other gets the
    ///   next number, because the fragments of two packets must not be mixed up.
    /// - The type of service is copied, so that both travel in the same class (RFC 2003) and congestion
    ///   noted outside counts inside (RFC 6040 section 4.1, "normal mode").
    #[inline]
    pub fn wrap<F: Frame>(
        &mut self,
        frame: &mut F,
        (source, server): (Address, Address),
        encapsulation: Encapsulation,
        packet: &Packet,
    ) -> Option<u16> {
        let inner = Inner::of(ip_packet(frame), packet.flow.source.family())?;
        let total = usize::from(inner.length) + overhead(source, encapsulation);
        let total_length = u16::try_from(total).ok()?;
        if !frame.grow_front(overhead(source, encapsulation)) {
            return None;
        }
        frame.truncate(ethernet::HEADER + total); // Ethernet's padding stays here
        let outer_type = if source.is_v4() { ethertype::IPV4 } else { ethertype::IPV6 };
        let (mut ethernet, outer) = Ethernet::split(frame.bytes_mut()).ok()?;
        ethernet.write(Mac::default(), Mac::default(), outer_type);
        let inner_protocol = match inner.family {
            Family::V4 => protocol::IPV4,
            Family::V6 => protocol::IPV6,
        };
        let protocol = match encapsulation {
            Encapsulation::Ip => inner_protocol,
            Encapsulation::Gue(_) => protocol::UDP,
        };
        let behind = if let (Some(source), Some(destination)) = (source.v4(), server.v4()) {
            if !inner.dont_fragment {
                self.0 = self.0.wrapping_add(1);
            }
            let header = ipv4::Header {
                type_of_service: inner.class,
                total_length,
                identification: if inner.dont_fragment { 0 } else { self.0 },
                dont_fragment: inner.dont_fragment,
                protocol,
                source,
                destination,
            };
            *outer.first_chunk_mut()? = header.to_bytes();
            outer.get_mut(ipv4::HEADER..)?
        } else {
            let header = ipv6::Header {
                traffic_class: inner.class,
                flow_label: 0,
                payload_length: total_length.checked_sub(ipv6::HEADER as u16)?,
                next_header: protocol,
                hop_limit: ipv6::HOP_LIMIT,
                source,
                destination: server,
            };
            *outer.first_chunk_mut()? = header.to_bytes();
            outer.get_mut(ipv6::HEADER..)?
        };
        if let Encapsulation::Gue(port) = encapsulation {
            let headers = gue::headers((port_of(packet), port), inner_protocol, inner.length)?;
            *behind.first_chunk_mut()? = headers;
            if !source.is_v4() {
                gue::write_checksum(behind, source, server); // RFC 8200 section 8.1: never without
            }
        }
        Some(total_length)
    }
}

/// A source port that tells flows apart, so that routers spread them.
fn port_of(packet: &Packet) -> u16 {
    let flow = &packet.flow;
    let spread =
        (flow.source.low() ^ u32::from(flow.source_port) << 16 ^ u32::from(flow.destination_port))
            .wrapping_mul(0x9e37_79b1);
    0xc000 | (spread >> 18) as u16
}

/// What the outer header takes from the inner one.
struct Inner {
    family: Family,
    length: u16,
    class: u8,
    dont_fragment: bool,
}

impl Inner {
    #[inline]
    fn of(bytes: &mut [u8], family: Family) -> Option<Self> {
        Some(match family {
            Family::V4 => {
                let (ip, _) = Ipv4::split(bytes).ok()?;
                Self {
                    family,
                    length: ip.total_length(),
                    class: ip.type_of_service(),
                    dont_fragment: ip.must_not_be_fragmented(),
                }
            }
            Family::V6 => {
                let (ip, _) = Ipv6::split(bytes).ok()?;
                Self {
                    family,
                    length: ip.total_length(),
                    class: ip.traffic_class(),
                    dont_fragment: true,
                }
            }
        })
    }
}
