//! Step 2: bytes to a flow, or to a message for the control plane, or out.

mod ordinary;

use std::net::Ipv4Addr;

use crate::counters::{Counters, Reason};
use crate::fragments::{Datagram, Fragments, Piece, Verdict};
use crate::frame::{Burst, Frame};
use crate::lookup::flow_table::Near;
use crate::moment::Moment;
use crate::snapshot::{Interface, InterfaceId, PortId, Protocol, Snapshot};
use crate::wire::ethernet::{self, Ethernet, Tag, ethertype};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::quoted::{Numbers, Quoted};
use crate::wire::tcp::{self, Tcp};
use crate::wire::udp::Udp;
use crate::wire::{Address, Family, Malformed, icmp, protocol};

/// A frame that is worth looking at, and what it is.
pub struct Parsed<F> {
    /// The frame, without a VLAN tag.
    pub frame: F,
    /// What was read from it: of ARP and neighbour discovery nothing, and where there are no ports the two
    /// ends alone.
    pub packet: Packet,
    /// How far its flow has been looked for.
    pub near: Near,
    /// What it carries.
    pub content: Content,
    /// The interface that it came in on.
    pub ingress: InterfaceId,
    /// How many workers have looked at it before.
    pub handed: u8,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// An ARP message, unread.
    Arp,
    /// A message of neighbour discovery, unread.
    Neighbour,
    /// An ICMP message that is neither an echo nor an error.
    Icmp,
    /// An ICMP error about a packet of a flow; [`error`] reads it.
    Error,
    /// A packet of a flow.
    Flow,
    /// A packet of some other protocol, which can be passed on at most.
    Other,
}

/// What forwarding needs to know of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Whose packet it is.
    pub flow: Flow,
    /// TCP's control bits; empty for other protocols.
    pub flags: tcp::Flags,
    /// Whether it is an answer by itself: an echo reply.
    pub answers: bool,
    /// Length of the IP packet with its header, in bytes.
    pub length: u16,
    /// Where the transport header begins, in bytes behind the beginning of the IP header.
    pub transport: u16,
    /// Whether it is a part of a packet.
    pub part: Part,
}

impl Packet {
    /// Where there is none.
    pub(crate) const NONE: Self = Self {
        flow: Flow {
            protocol: Protocol::Echo,
            source: Address::from_bits(0),
            source_port: 0,
            destination: Address::from_bits(0),
            destination_port: 0,
        },
        flags: tcp::Flags(0),
        answers: false,
        length: 0,
        transport: 0,
        part: Part::Whole,
    };
}

/// Whether a packet is a part of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    /// It is whole.
    #[default]
    Whole,
    /// The first fragment, with the transport header.
    First,
    /// A later one, whose ports the first one told.
    Later,
}

/// The five values that tell flows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// TCP, UDP, or an echo.
    pub protocol: Protocol,
    /// Who sent the packet.
    pub source: Address,
    /// The sender's port; of an echo request, its identifier.
    pub source_port: u16,
    /// Whom it is for.
    pub destination: Address,
    /// The receiver's port; of an echo reply, its identifier.
    pub destination_port: u16,
}

impl Flow {
    /// The flow of the packets that go the other way.
    #[inline]
    pub fn reversed(&self) -> Self {
        Self {
            protocol: self.protocol,
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
        }
    }
}

/// An ICMP error about a packet that somebody could not forward or deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    /// Who complains.
    pub source: Address,
    /// To whom: the sender of the quoted packet, as far as the complainer knows.
    pub destination: Address,
    /// The flow of the quoted packet.
    pub quoted: Flow,
}

/// Reads every frame of a burst that came in at `port`, and adds what is to be looked at to `parsed`.
pub fn flows<F: Frame>(
    frames: &mut Burst<F>,
    parsed: &mut Burst<Parsed<F>>,
    port: PortId,
    snapshot: &Snapshot,
    memory: &mut Fragments,
    now: Moment,
    counters: &Counters,
) {
    for frame in frames.iter() {
        frame.prefetch();
    }
    let untagged = door(port, None, snapshot);
    for frame in frames.drain(..) {
        // Filled in where it stays: what was written a moment ago in small pieces and is then copied in large
        // ones makes the processor wait for the former.
        parsed.push(Parsed {
            frame,
            packet: Packet::NONE,
            near: Near::NOT,
            content: Content::Other,
            ingress: InterfaceId(0),
            handed: 0,
        });
        let read = parsed.last_mut().map(|it| {
            let (ingress, interface) = match untagged {
                Some(door) if !has_tag(&it.frame) => door,
                _ => interface_of(&mut it.frame, port, snapshot)?,
            };
            it.ingress = ingress;
            it.content = content(&mut it.frame, interface, &mut it.packet)?;
            find_ports(it.content, &mut it.packet, &mut it.frame, memory, now)
        });
        if let Some(Err(reason)) = read {
            parsed.pop();
            counters.drop_one(reason);
        }
    }
}

/// Whether a frame belongs to a VLAN, by the card's word or its own.
#[inline]
fn has_tag<F: Frame>(frame: &F) -> bool {
    frame.stripped_tag().is_some() || Tag::of(frame.bytes()).is_some()
}

/// The interface that frames with this VLAN tag arrive on at a device.
#[inline]
fn door(port: PortId, vlan: Option<u16>, snapshot: &Snapshot) -> Option<(InterfaceId, &Interface)> {
    let id = snapshot.interface_at(port, vlan)?;
    Some((id, snapshot.interface(id)?))
}

/// The interface that `frame` came in on at `port`; its VLAN tag is taken off.
///
/// # Errors
/// [`Reason::Vlan`] or [`Reason::NoInterface`].
pub fn interface_of<'s, F: Frame>(
    frame: &mut F,
    port: PortId,
    snapshot: &'s Snapshot,
) -> Result<(InterfaceId, &'s Interface), Reason> {
    let tag = match frame.stripped_tag() {
        Some(stripped) => Some(Tag::from_bits(stripped)),
        None => {
            let taken = Tag::take(frame.bytes_mut());
            frame.shrink_front(if taken.is_some() { ethernet::TAG } else { 0 });
            taken
        }
    };
    // Number 0 says that the frame belongs to no VLAN and only has a priority (IEEE 802.1Q section 9.6).
    let vlan = tag.map(Tag::identifier).filter(|&number| number != 0);
    let missing = if vlan.is_some() { Reason::Vlan } else { Reason::NoInterface };
    door(port, vlan, snapshot).ok_or(missing)
}

/// What `frame`, which came in on `interface` and has no tag, carries; `packet` becomes what was read from it. A
/// later fragment has no ports yet.
///
/// # Errors
/// The reason why it is to be dropped.
#[inline]
pub fn content<F: Frame>(
    frame: &mut F,
    interface: &Interface,
    packet: &mut Packet,
) -> Result<Content, Reason> {
    if !frame.is_in_one_piece()
        || frame.bytes().len() > ethernet::HEADER + usize::from(interface.mtu)
    {
        return Err(Reason::Oversize);
    }
    let (ethernet, payload) = Ethernet::split(frame.bytes_mut())?;
    let is_ours = ethernet.is_for(interface.mac);
    match ethernet.ethertype() {
        ethertype::IPV4 if is_ours => match ordinary::v4(payload) {
            Some(read) => {
                *packet = read;
                Ok(Content::Flow)
            }
            None => closely_v4(payload, packet),
        },
        ethertype::IPV6 if is_ours => match ordinary::v6(payload) {
            Some(read) => {
                *packet = read;
                Ok(Content::Flow)
            }
            None => closely_v6(payload, packet),
        },
        ethertype::IPV6 if ethernet.destination().is_group() => {
            match closely_v6(payload, packet)? {
                Content::Neighbour => Ok(Content::Neighbour),
                _ => Err(Reason::NotOurMac),
            }
        }
        ethertype::ARP if is_ours || ethernet.destination().is_group() => Ok(Content::Arp),
        ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP => Err(Reason::NotOurMac),
        ethertype::VLAN | ethertype::SERVICE_VLAN => Err(Reason::Vlan),
        _ => Err(Reason::NotIp),
    }
}

#[inline(never)]
fn closely_v4(bytes: &mut [u8], packet: &mut Packet) -> Result<Content, Reason> {
    let (ip, payload) = Ipv4::split(bytes)?;
    if !ip.checksum_is_right() {
        return Err(Reason::BadChecksum);
    }
    let (source, destination) = (ip.source(), ip.destination());
    if !may_be_a_station(source) || !may_be_a_station(destination) {
        return Err(Reason::BadSource);
    }
    if source == destination {
        return Err(Reason::Land);
    }
    if ip.length() > ipv4::HEADER && ip.source_routed() {
        return Err(Reason::SourceRouted);
    }
    packet.flow.source = source.into();
    packet.flow.destination = destination.into();
    packet.length = ip.total_length();
    packet.transport = ip.length() as u16;
    if ip.is_fragment() {
        packet.part = part_of(ip.fragment());
    }
    match ip.protocol() {
        protocol::ICMP => icmp_message(Family::V4, payload, packet),
        other => transport(other, payload, packet),
    }
}

#[cold]
fn part_of(fragment: Option<ipv4::Fragment>) -> Part {
    match fragment {
        None => Part::Whole,
        Some(fragment) if fragment.offset == 0 => Part::First,
        Some(_) => Part::Later,
    }
}

#[inline(never)]
fn closely_v6(bytes: &mut [u8], packet: &mut Packet) -> Result<Content, Reason> {
    let (ip, payload) = Ipv6::split(bytes)?;
    let (source, destination) = (ip.source(), ip.destination());
    let extensions = ip.extensions(payload)?;
    let payload = payload.get_mut(extensions.at..).unwrap_or_default();
    let part = match extensions.fragment {
        None => Part::Whole,
        Some(fragment) if fragment.is_whole() => Part::Whole, // RFC 6946: an atomic fragment
        Some(fragment) if fragment.offset == 0 => Part::First,
        Some(_) => Part::Later,
    };
    if extensions.protocol == protocol::ICMPV6 && part == Part::Whole {
        let message = icmp::Message::read(Family::V6, payload)?;
        // Its own rules for addresses (RFC 4861 section 7.1); who reads the message checks them.
        if matches!(message.kind(), icmp::Kind::Neighbour { .. }) {
            return Ok(Content::Neighbour);
        }
    }
    if !may_be_a_station_v6(source) || !may_be_a_station_v6(destination) {
        return Err(Reason::BadSource);
    }
    if source == destination {
        return Err(Reason::Land);
    }
    if extensions.source_routed {
        return Err(Reason::SourceRouted);
    }
    packet.flow.source = source;
    packet.flow.destination = destination;
    packet.length = ip.total_length();
    packet.transport = (ipv6::HEADER + extensions.at) as u16;
    packet.part = part;
    match extensions.protocol {
        protocol::ICMPV6 => icmp_message(Family::V6, payload, packet),
        other => transport(other, payload, packet),
    }
}

/// Reads what is behind the IP header.
fn transport(number: u8, payload: &mut [u8], packet: &mut Packet) -> Result<Content, Reason> {
    let (protocol, (source, destination)) = match (number, packet.part) {
        (protocol::TCP, Part::Whole | Part::First) => {
            let tcp = Tcp::split(payload)?;
            packet.flags = tcp.flags();
            if packet.flags.is_impossible() {
                return Err(Reason::BadFlags);
            }
            (Protocol::Tcp, (tcp.source(), tcp.destination()))
        }
        (protocol::UDP, Part::Whole) => {
            let udp = Udp::split(payload)?;
            (Protocol::Udp, (udp.source(), udp.destination()))
        }
        (protocol::UDP, Part::First) => {
            // The length counts all parts, so only the ports are looked at.
            let &[a, b, c, d] = payload.first_chunk::<4>().ok_or(Reason::Truncated)?;
            (Protocol::Udp, (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
        }
        (protocol::TCP, Part::Later) => (Protocol::Tcp, (0, 0)),
        (protocol::UDP, Part::Later) => (Protocol::Udp, (0, 0)),
        _ => return Ok(Content::Other),
    };
    packet.flow.protocol = protocol;
    packet.flow.source_port = source;
    packet.flow.destination_port = destination;
    Ok(Content::Flow)
}

fn icmp_message(
    family: Family,
    payload: &mut [u8],
    packet: &mut Packet,
) -> Result<Content, Reason> {
    let message = icmp::Message::read(family, payload)?;
    if packet.part != Part::Whole {
        // An echo in parts can be passed on, not translated.
        return Ok(Content::Other);
    }
    Ok(match message.kind() {
        icmp::Kind::EchoRequest { identifier } => {
            packet.flow.source_port = identifier;
            Content::Flow
        }
        icmp::Kind::EchoReply { identifier } => {
            (packet.flow.destination_port, packet.answers) = (identifier, true);
            Content::Flow
        }
        icmp::Kind::Error { .. } if flow_of(message.quoted()?).is_some() => Content::Error,
        icmp::Kind::Error { .. } | icmp::Kind::Neighbour { .. } | icmp::Kind::Other { .. } => {
            Content::Icmp
        }
    })
}

/// The ICMP error that a frame carries, if it is one about a flow. It is read where it is needed: errors are
/// few, and every packet would have to be as large in memory as what they say.
#[cold]
pub fn error(packet: &Packet, frame: &mut impl Frame) -> Option<Error> {
    let family = packet.flow.source.family();
    let bytes = ip_packet(frame);
    let (source, destination) = match family {
        Family::V4 => {
            let (ip, _) = Ipv4::split(bytes).ok()?;
            (ip.source_address(), ip.destination_address())
        }
        Family::V6 => {
            let (ip, _) = Ipv6::split(bytes).ok()?;
            (ip.source(), ip.destination())
        }
    };
    let message = bytes.get_mut(usize::from(packet.transport)..usize::from(packet.length))?;
    let message = icmp::Message::read(family, message).ok()?;
    Some(Error { source, destination, quoted: flow_of(message.quoted().ok()?)? })
}

/// The flow of a quoted packet, if it is of one that can be known.
fn flow_of(quoted: Quoted) -> Option<Flow> {
    let (protocol, ports) = match (quoted.protocol, quoted.numbers) {
        (protocol::TCP, Numbers::Ports { source, destination }) => {
            (Protocol::Tcp, (source, destination))
        }
        (protocol::UDP, Numbers::Ports { source, destination }) => {
            (Protocol::Udp, (source, destination))
        }
        (_, Numbers::Identifier(identifier)) => (Protocol::Echo, (identifier, 0)),
        _ => return None,
    };
    Some(Flow {
        protocol,
        source: quoted.source,
        source_port: ports.0,
        destination: quoted.destination,
        destination_port: ports.1,
    })
}

/// Gives a fragment the ports that its packet's first one told.
#[inline]
pub(crate) fn find_ports<F: Frame>(
    content: Content,
    packet: &mut Packet,
    frame: &mut F,
    memory: &mut Fragments,
    now: Moment,
) -> Result<(), Reason> {
    if content == Content::Flow && packet.part != Part::Whole {
        return ports_of_part(packet, frame, memory, now);
    }
    Ok(())
}

#[cold]
fn ports_of_part<F: Frame>(
    packet: &mut Packet,
    frame: &mut F,
    memory: &mut Fragments,
    now: Moment,
) -> Result<(), Reason> {
    let (datagram, piece) = part(packet, frame)?;
    let ports = (packet.flow.source_port, packet.flow.destination_port);
    let verdict = if packet.part == Part::First {
        memory.first(datagram, ports, piece, now)
    } else {
        memory.later(datagram, piece, now)
    };
    match verdict {
        Verdict::Ports(source, destination) => {
            (packet.flow.source_port, packet.flow.destination_port) = (source, destination);
            Ok(())
        }
        Verdict::Unknown => Err(Reason::FragmentWithoutFirst),
        Verdict::Overlapping => Err(Reason::FragmentOverlap),
        Verdict::Full => Err(Reason::FragmentTableFull),
        Verdict::Malformed => Err(Reason::Malformed),
    }
}

/// Which bytes of which datagram a fragment holds.
pub(crate) fn part(packet: &Packet, frame: &mut impl Frame) -> Result<(Datagram, Piece), Reason> {
    let bytes = ip_packet(frame);
    let (identification, offset, more, header) = if packet.flow.source.is_v4() {
        let (ip, _) = Ipv4::split(bytes)?;
        let fragment = ip.fragment().ok_or(Reason::Malformed)?;
        (u32::from(fragment.identification), fragment.offset, fragment.more, ip.length())
    } else {
        let (ip, payload) = Ipv6::split(bytes)?;
        let extensions = ip.extensions(payload)?;
        let fragment = extensions.fragment.ok_or(Reason::Malformed)?;
        let header = ipv6::HEADER + fragment.header_at + ipv6::FRAGMENT_HEADER;
        (fragment.identification, fragment.offset, fragment.more, header)
    };
    let ends = (packet.flow.source, packet.flow.destination);
    let datagram = Datagram::new(ends, packet.flow.protocol as u8, identification);
    let length = usize::from(packet.length).saturating_sub(header) as u16;
    Ok((datagram, Piece { offset: offset.saturating_mul(8), length, more }))
}

/// Whether a station may have this address (RFC 1122 section 3.2.1.3): not zero, not loopback,
/// not multicast, not reserved, not broadcast.
#[inline]
fn may_be_a_station(address: Ipv4Addr) -> bool {
    let first = (address.to_bits() >> 24) as u8;
    first.wrapping_sub(1) < 223 && first != 127
}

/// The same for IPv6 (RFC 4291 section 2.4, 2.5.5): neither multicast nor unspecified nor loopback, nor an
/// IPv4 address in disguise.
#[inline]
fn may_be_a_station_v6(address: Address) -> bool {
    address.bits() >> 120 != 0xff && address.bits() >> 32 != 0 && !address.is_v4()
}

impl From<Malformed> for Reason {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Truncated => Self::Truncated,
            Malformed::Impossible => Self::Malformed,
        }
    }
}

/// The IP packet within a frame that [`content`] has accepted.
#[inline]
pub(crate) fn ip_packet(frame: &mut impl Frame) -> &mut [u8] {
    frame.bytes_mut().get_mut(ethernet::HEADER..).unwrap_or_default()
}
