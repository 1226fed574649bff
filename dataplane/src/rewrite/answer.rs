//! What we say ourselves to the sender of a packet that cannot go on: an ICMP error (RFC 792, RFC 1191,
//! RFC 4443), straight back to the station that it came from.

use crate::frame::Frame;
use crate::parse::ip_packet;
use crate::snapshot::{Hop, InterfaceId, Snapshot};
use crate::wire::ethernet::{self, Ethernet, Mac, ethertype};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{Address, icmp, icmpv6, protocol};

/// What is the matter with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// It is longer than this, in bytes, and must not be fragmented.
    TooBig(u16),
    /// It may pass no more routers.
    TimeExceeded,
    /// No route leads to its destination.
    NoRoute,
}

/// Turns `frame` into the error that its sender gets. `None` where there is none to be sent: we have no address
/// of our own to answer from, the station has none to answer to, or the packet is a later fragment or an
/// ICMP error itself (RFC 1122 section 3.2.2). Gives its next station and its length in bytes too.
pub fn error<F: Frame>(
    mut frame: F,
    ingress: InterfaceId,
    complaint: Complaint,
    snapshot: &Snapshot,
) -> Option<(F, Hop, u16)> {
    let (ethernet, _) = Ethernet::split(frame.bytes_mut()).ok()?;
    let station = Some(ethernet.source()).filter(|mac| mac.is_station())?;
    let original = Original::of(ip_packet(&mut frame))?;
    let from = snapshot.interface(ingress)?.source_for(original.sender)?;
    let length = match original.sender.is_v4() {
        true => over_ipv4(&mut frame, &original, from, complaint)?,
        false => over_ipv6(&mut frame, &original, from, complaint)?,
    };
    let hop = Hop { interface: ingress, address: original.sender, mac: Some(station) };
    Some((frame, hop, length))
}

/// What an answer has to know of the packet that it answers.
struct Original {
    sender: Address,
    /// With its header, in bytes.
    length: usize,
    /// The header's, in bytes.
    header: usize,
}

impl Original {
    fn of(packet: &mut [u8]) -> Option<Self> {
        let version = packet.first()? >> 4;
        if version == 4 {
            let (ip, payload) = Ipv4::split(packet).ok()?;
            let later = ip.fragment().is_some_and(|fragment| fragment.offset != 0);
            let is_error = ip.protocol() == protocol::ICMP
                && !matches!(
                    payload.first(),
                    Some(&(icmp::kind::ECHO_REQUEST | icmp::kind::ECHO_REPLY))
                );
            let (sender, length) = (ip.source_address(), usize::from(ip.total_length()));
            return (!later && !is_error).then_some(Self { sender, length, header: ip.length() });
        }
        let (ip, payload) = Ipv6::split(packet).ok()?;
        let extensions = ip.extensions(payload).ok()?;
        let is_error = extensions.protocol == protocol::ICMPV6
            && payload.get(extensions.at).is_none_or(|&kind| kind < 128);
        let (sender, length) = (ip.source(), usize::from(ip.total_length()));
        (!is_error).then_some(Self { sender, length, header: ipv6::HEADER })
    }
}

/// Quotes the header and 8 bytes; gives the length of the error's packet.
fn over_ipv4<F: Frame>(
    frame: &mut F,
    original: &Original,
    from: Address,
    complaint: Complaint,
) -> Option<u16> {
    let quoted = (original.header + icmp::QUOTED).min(original.length);
    let length = ipv4::HEADER + icmp::HEADER + quoted;
    let message = in_front(frame, ipv4::HEADER, icmp::HEADER, quoted, ethertype::IPV4)?;
    let error = match complaint {
        Complaint::TooBig(mtu) => icmp::Error::FragmentationNeeded { mtu },
        Complaint::TimeExceeded => icmp::Error::TimeExceeded,
        Complaint::NoRoute => icmp::Error::Unreachable { code: icmp::code::NETWORK },
    };
    icmp::complete_error(message, error);
    let header = ipv4::Header {
        type_of_service: 0xc0, // internetwork control (RFC 1812 section 4.3.2.5)
        total_length: length as u16,
        identification: 0,
        dont_fragment: true,
        protocol: protocol::ICMP,
        source: from.v4()?,
        destination: original.sender.v4()?,
    };
    *ip_packet(frame).first_chunk_mut()? = header.to_bytes();
    Some(length as u16)
}

/// Quotes what fits into the least MTU; gives the length of the error's packet.
fn over_ipv6<F: Frame>(
    frame: &mut F,
    original: &Original,
    from: Address,
    complaint: Complaint,
) -> Option<u16> {
    let quoted = icmpv6::quotable(original.length);
    let length = ipv6::HEADER + icmp::HEADER + quoted;
    let message = in_front(frame, ipv6::HEADER, icmp::HEADER, quoted, ethertype::IPV6)?;
    let error = match complaint {
        Complaint::TooBig(mtu) => icmpv6::Error::TooBig { mtu: u32::from(mtu) },
        Complaint::TimeExceeded => icmpv6::Error::TimeExceeded,
        Complaint::NoRoute => icmpv6::Error::Unreachable { code: icmpv6::code::NO_ROUTE },
    };
    icmpv6::complete_error(message, error, from, original.sender);
    let header = ipv6::Header {
        traffic_class: 0,
        flow_label: 0,
        payload_length: (icmp::HEADER + quoted) as u16,
        next_header: protocol::ICMPV6,
        hop_limit: ipv6::HOP_LIMIT,
        source: from,
        destination: original.sender,
    };
    *ip_packet(frame).first_chunk_mut()? = header.to_bytes();
    Some(length as u16)
}

/// Makes room for an IP header and an ICMP header in front of `frame`'s packet, of which `quoted` bytes stay;
/// gives the ICMP message with the quote already in it.
fn in_front<F: Frame>(
    frame: &mut F,
    ip: usize,
    icmp: usize,
    quoted: usize,
    ethertype: u16,
) -> Option<&mut [u8]> {
    if !frame.grow_front(ip + icmp) {
        return None;
    }
    frame.truncate(ethernet::HEADER + ip + icmp + quoted);
    let (mut ethernet, packet) = Ethernet::split(frame.bytes_mut()).ok()?;
    ethernet.write(Mac::default(), Mac::default(), ethertype);
    packet.get_mut(ip..)
}
