//! Step 5b and 5c, translation (FWD-07, FWD-08, FWD-13, NAT-01, NAT-02): addresses and ports in either
//! direction. Checksums are mended, never recomputed (RFC 1624), so a checksum that was wrong stays wrong and
//! one that was absent (UDP) stays absent.

use crate::frame::Frame;
use crate::lookup::Translation;
use crate::parse::{Packet, Part, ip_packet};
use crate::snapshot::Protocol;
use crate::wire::checksum::Change;
use crate::wire::icmp::Message;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::tcp::Tcp;
use crate::wire::udp::Udp;
use crate::wire::{Address, Family, protocol};

/// Gives a packet of a flow its new addresses and ports. `None` if it is not what `packet` says.
#[inline]
pub fn packet(frame: &mut impl Frame, packet: &Packet, to: &Translation) -> Option<()> {
    let change = addresses_of_header(frame, packet, to.source.0, to.destination.0)?;
    if packet.part == Part::Later {
        return Some(()); // the checksum is in the first fragment
    }
    let payload = ip_packet(frame).get_mut(usize::from(packet.transport)..)?;
    match packet.flow.protocol {
        Protocol::Tcp => {
            let mut tcp = Tcp::split(payload).ok()?;
            tcp.set_source(to.source.1, change);
            tcp.set_destination(to.destination.1, Change::default());
        }
        Protocol::Udp => {
            let mut udp = Udp::of(payload)?;
            udp.set_source(to.source.1, change);
            udp.set_destination(to.destination.1, Change::default());
        }
        Protocol::Echo => {
            // The identifier stands in for the port of whoever asks.
            let identifier = if packet.answers { to.destination.1 } else { to.source.1 };
            let end = usize::from(packet.length) - usize::from(packet.transport);
            let family = packet.flow.source.family();
            let mut message = Message::read(family, payload.get_mut(..end)?).ok()?;
            message.set_identifier(identifier);
            message.addresses_changed(change);
        }
    }
    Some(())
}

/// Gives a packet other addresses and leaves its ports as they are.
pub fn addresses(
    frame: &mut impl Frame,
    packet: &Packet,
    source: Address,
    destination: Address,
) -> Option<()> {
    let to_v4 = packet.flow.source.is_v4();
    let change = addresses_of_header(frame, packet, source, destination)?;
    if packet.part == Part::Later {
        return Some(());
    }
    let bytes = ip_packet(frame);
    let carried = if to_v4 {
        Ipv4::split(bytes).ok()?.0.protocol()
    } else {
        let (ip, payload) = Ipv6::split(bytes).ok()?;
        ip.extensions(payload).ok()?.protocol
    };
    let payload = ip_packet(frame).get_mut(usize::from(packet.transport)..)?;
    match carried {
        protocol::TCP => {
            let mut tcp = Tcp::split(payload).ok()?;
            let port = tcp.source();
            tcp.set_source(port, change);
        }
        protocol::UDP => {
            let mut udp = Udp::of(payload)?;
            let port = udp.source();
            udp.set_source(port, change);
        }
        protocol::ICMPV6 if !to_v4 => {
            Message::read(Family::V6, payload).ok()?.addresses_changed(change);
        }
        _ => {} // nobody else's checksum covers the addresses
    }
    Some(())
}

/// Replaces both addresses in the IP header; gives what changed.
#[inline]
fn addresses_of_header(
    frame: &mut impl Frame,
    packet: &Packet,
    source: Address,
    destination: Address,
) -> Option<Change> {
    let bytes = ip_packet(frame);
    if packet.flow.source.is_v4() {
        let (mut ip, _) = Ipv4::split(bytes).ok()?;
        let change = Change::of_addresses(ip.source_address(), source)
            .and(Change::of_addresses(ip.destination_address(), destination));
        ip.set_source(source.v4()?);
        ip.set_destination(destination.v4()?);
        return Some(change);
    }
    let (mut ip, _) = Ipv6::split(bytes).ok()?;
    let change = Change::of_addresses(ip.source(), source)
        .and(Change::of_addresses(ip.destination(), destination));
    ip.set_source(source);
    ip.set_destination(destination);
    Some(change)
}
