//! Step 2: bytes to a flow, or to a message for the control plane, or out.

use crate::counters::{Counters, Reason};
use crate::fragments::{Datagram, Fragments, Piece, Verdict};
use crate::frame::{Burst, Frame};
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
    /// The interface that it came in on.
    pub ingress: InterfaceId,
    /// What it carries.
    pub content: Content,
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
    Icmp {
        /// Whom it is for.
        destination: Address,
    },
    /// An ICMP error about a packet of a flow.
    Error(Error),
    /// A packet of a flow.
    Flow(Packet),
    /// A packet of some other protocol, which can be passed on at most.
    Other(Packet),
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
    /// Length of the IP packet with its header, in bytes.
    pub length: u16,
}

/// Reads every frame of a burst that came in at `port`.
pub fn flows<F: Frame>(
    mut frames: Burst<F>,
    port: PortId,
    snapshot: &Snapshot,
    memory: &mut Fragments,
    now: Moment,
    counters: &Counters,
) -> Burst<Parsed<F>> {
    let mut parsed = Burst::new();
    for frame in &frames {
        frame.prefetch();
    }
    for mut frame in frames.drain(..) {
        let read = interface_of(&mut frame, port, snapshot).and_then(|(ingress, interface)| {
            let content = content(&mut frame, interface)?;
            Ok((ingress, with_ports(content, &mut frame, memory, now)?))
        });
        match read {
            Ok((ingress, content)) => parsed.push(Parsed { frame, ingress, content, handed: 0 }),
            Err(reason) => counters.drop_one(reason),
        }
    }
    parsed
}

/// The interface that `frame` came in on at `port`; its VLAN tag is taken off.
///
/// # Errors
/// [`Reason::Vlan`] or [`Reason::NoInterface`].
#[inline]
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
    let id = snapshot.interface_at(port, vlan).ok_or(missing)?;
    Ok((id, snapshot.interface(id).ok_or(missing)?))
}

/// What `frame`, which came in on `interface` and has no tag, carries. A later fragment has no ports yet.
///
/// # Errors
/// The reason why it is to be dropped.
#[inline]
pub fn content<F: Frame>(frame: &mut F, interface: &Interface) -> Result<Content, Reason> {
    if !frame.is_in_one_piece()
        || frame.bytes().len() > ethernet::HEADER + usize::from(interface.mtu)
    {
        return Err(Reason::Oversize);
    }
    let (ethernet, payload) = Ethernet::split(frame.bytes_mut())?;
    let (destination, ethertype) = (ethernet.destination(), ethernet.ethertype());
    let is_ours = destination == interface.mac;
    match ethertype {
        ethertype::IPV4 if is_ours => ipv4(payload),
        ethertype::IPV6 if is_ours || destination.is_group() => match ipv6(payload)? {
            Content::Neighbour => Ok(Content::Neighbour),
            content if is_ours => Ok(content),
            _ => Err(Reason::NotOurMac),
        },
        ethertype::ARP if is_ours || destination.is_group() => Ok(Content::Arp),
        ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP => Err(Reason::NotOurMac),
        ethertype::VLAN | ethertype::SERVICE_VLAN => Err(Reason::Vlan),
        _ => Err(Reason::NotIp),
    }
}

#[inline]
fn ipv4(bytes: &mut [u8]) -> Result<Content, Reason> {
    let (ip, payload) = Ipv4::split(bytes)?;
    if !ip.checksum_is_right() {
        return Err(Reason::BadChecksum);
    }
    let (source, destination) = (ip.source(), ip.destination());
    if !may_be_a_station(source.octets()) || !may_be_a_station(destination.octets()) {
        return Err(Reason::BadSource);
    }
    if source == destination {
        return Err(Reason::Land);
    }
    if ip.length() > ipv4::HEADER && ip.source_routed() {
        return Err(Reason::SourceRouted);
    }
    let part = match ip.fragment() {
        None => Part::Whole,
        Some(fragment) if fragment.offset == 0 => Part::First,
        Some(_) => Part::Later,
    };
    let about = About {
        source: source.into(),
        destination: destination.into(),
        length: ip.total_length(),
        transport: ip.length() as u16,
        part,
    };
    match ip.protocol() {
        protocol::ICMP => icmp_message(&icmp::Message::read(Family::V4, payload)?, about),
        other => transport(other, payload, about),
    }
}

#[inline]
fn ipv6(bytes: &mut [u8]) -> Result<Content, Reason> {
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
    let about = About {
        source,
        destination,
        length: ip.total_length(),
        transport: (ipv6::HEADER + extensions.at) as u16,
        part,
    };
    match extensions.protocol {
        protocol::ICMPV6 => icmp_message(&icmp::Message::read(Family::V6, payload)?, about),
        other => transport(other, payload, about),
    }
}

/// What the IP header says.
#[derive(Clone, Copy)]
struct About {
    source: Address,
    destination: Address,
    length: u16,
    transport: u16,
    part: Part,
}

impl About {
    #[inline]
    fn packet(self, protocol: Protocol, ports: (u16, u16), flags: tcp::Flags) -> Packet {
        Packet {
            flow: Flow {
                protocol,
                source: self.source,
                source_port: ports.0,
                destination: self.destination,
                destination_port: ports.1,
            },
            flags,
            answers: false,
            length: self.length,
            transport: self.transport,
            part: self.part,
        }
    }
}

#[inline]
fn transport(number: u8, payload: &mut [u8], about: About) -> Result<Content, Reason> {
    let none = tcp::Flags::default();
    let later = about.part == Part::Later;
    match number {
        protocol::TCP if later => Ok(Content::Flow(about.packet(Protocol::Tcp, (0, 0), none))),
        protocol::UDP if later => Ok(Content::Flow(about.packet(Protocol::Udp, (0, 0), none))),
        protocol::TCP => {
            let tcp = Tcp::split(payload)?;
            let flags = tcp.flags();
            if flags.is_impossible() {
                return Err(Reason::BadFlags);
            }
            let ports = (tcp.source(), tcp.destination());
            Ok(Content::Flow(about.packet(Protocol::Tcp, ports, flags)))
        }
        protocol::UDP if about.part == Part::First => {
            // The length counts all parts, so only the ports are looked at.
            let ports = payload.first_chunk::<4>().ok_or(Reason::Truncated)?;
            let [a, b, c, d] = *ports;
            let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            Ok(Content::Flow(about.packet(Protocol::Udp, ports, none)))
        }
        protocol::UDP => {
            let udp = Udp::split(payload)?;
            let ports = (udp.source(), udp.destination());
            Ok(Content::Flow(about.packet(Protocol::Udp, ports, none)))
        }
        _ => Ok(Content::Other(about.packet(Protocol::Echo, (0, 0), none))),
    }
}

#[inline]
fn icmp_message(message: &icmp::Message<'_>, about: About) -> Result<Content, Reason> {
    let none = tcp::Flags::default();
    if about.part != Part::Whole {
        // An echo in parts can be passed on, not translated.
        return Ok(Content::Other(about.packet(Protocol::Echo, (0, 0), none)));
    }
    Ok(match message.kind() {
        icmp::Kind::EchoRequest { identifier } => {
            Content::Flow(about.packet(Protocol::Echo, (identifier, 0), none))
        }
        icmp::Kind::EchoReply { identifier } => {
            let packet = about.packet(Protocol::Echo, (0, identifier), none);
            Content::Flow(Packet { answers: true, ..packet })
        }
        icmp::Kind::Error { .. } => match flow_of(message.quoted()?) {
            Some(quoted) => Content::Error(Error {
                source: about.source,
                destination: about.destination,
                quoted,
                length: about.length,
            }),
            None => Content::Icmp { destination: about.destination },
        },
        icmp::Kind::Neighbour { .. } | icmp::Kind::Other { .. } => {
            Content::Icmp { destination: about.destination }
        }
    })
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
pub(crate) fn with_ports<F: Frame>(
    content: Content,
    frame: &mut F,
    memory: &mut Fragments,
    now: Moment,
) -> Result<Content, Reason> {
    match content {
        Content::Flow(packet) if packet.part != Part::Whole => {
            ports_of_part(packet, frame, memory, now).map(Content::Flow)
        }
        content => Ok(content),
    }
}

#[cold]
fn ports_of_part<F: Frame>(
    mut packet: Packet,
    frame: &mut F,
    memory: &mut Fragments,
    now: Moment,
) -> Result<Packet, Reason> {
    let (datagram, piece) = part(&packet, frame)?;
    let ports = (packet.flow.source_port, packet.flow.destination_port);
    let verdict = if packet.part == Part::First {
        memory.first(datagram, ports, piece, now)
    } else {
        memory.later(datagram, piece, now)
    };
    match verdict {
        Verdict::Ports(source, destination) => {
            (packet.flow.source_port, packet.flow.destination_port) = (source, destination);
            Ok(packet)
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
fn may_be_a_station([first, ..]: [u8; 4]) -> bool {
    !matches!(first, 0 | 127 | 224..)
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
