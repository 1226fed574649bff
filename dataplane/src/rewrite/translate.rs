//! Step 5b and 5c, translation (FWD-07, FWD-08, FWD-13, NAT-01, NAT-02): addresses and ports in either
//! direction. Checksums are mended, never recomputed (RFC 1624), so a checksum that was wrong stays wrong and
//! one that was absent (UDP) stays absent.

use crate::frame::Frame;
use crate::lookup::Translation;
use crate::parse::{Packet, Part, ip_packet};
use crate::snapshot::Protocol;
use crate::wire::checksum::Change;
use crate::wire::icmp::{Kind, Message};
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::quoted::Numbers;
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
            tcp.set_ports(to.source.1, to.destination.1, change);
        }
        Protocol::Udp => {
            let mut udp = Udp::of(payload)?;
            udp.set_ports(to.source.1, to.destination.1, change);
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

/// Gives a packet other addresses and leaves its ports as they are. So does the packet that it quotes, if it
/// is an error (RFC 5508 section 4.2).
pub fn addresses(
    frame: &mut impl Frame,
    packet: &Packet,
    source: Address,
    destination: Address,
) -> Option<()> {
    let to_v4 = packet.flow.source.is_v4();
    let before = (packet.flow.source, packet.flow.destination);
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
            tcp.addresses_changed(change);
        }
        protocol::UDP => {
            let mut udp = Udp::of(payload)?;
            udp.addresses_changed(change);
        }
        protocol::ICMP if to_v4 => {
            let mut message = Message::read(Family::V4, payload).ok()?;
            addresses_of_quote(&mut message, before, (source, destination));
        }
        protocol::ICMPV6 if !to_v4 => {
            let mut message = Message::read(Family::V6, payload).ok()?;
            message.addresses_changed(change);
            addresses_of_quote(&mut message, before, (source, destination));
        }
        _ => {} // nobody else's checksum covers the addresses
    }
    Some(())
}

/// The two ends of an error are those of the packet that it quotes, the other way round.
fn addresses_of_quote(
    message: &mut Message<'_>,
    (source, destination): (Address, Address),
    to: (Address, Address),
) {
    if !matches!(message.kind(), Kind::Error { .. }) {
        return;
    }
    let Ok(quoted) = message.quoted() else { return };
    let ports = match quoted.numbers {
        Numbers::Ports { source, destination } => (source, destination),
        Numbers::Identifier(identifier) => (identifier, identifier),
        Numbers::None => (0, 0),
    };
    // What can be read can be written.
    if quoted.source == destination {
        let _ = message.set_quoted_source(to.1, ports.0);
    }
    if quoted.destination == source {
        let _ = message.set_quoted_destination(to.0, ports.1);
    }
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
        return Some(ip.set_addresses(source.v4()?, destination.v4()?));
    }
    let (mut ip, _) = Ipv6::split(bytes).ok()?;
    Some(ip.set_addresses(source, destination))
}
