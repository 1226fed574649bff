//! IP packets as the stack reads and writes them: whole ones, without fragments, options or extensions that would have
//! to be understood.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use dataplane::parse::Flow;
use dataplane::snapshot::Protocol;
use dataplane::wire::{Address, Family, checksum, icmp, icmpv6, protocol};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IPV4_HEADER_LEN, IPV6_HEADER_LEN, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr,
    IpAddress, IpProtocol, IpRepr, IpVersion, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket,
    TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

/// How many routers may pass a packet on.
const HOPS: u8 = 64;
/// What fits a packet that every IPv6 link carries.
const LEAST_SEGMENT: u16 = 1_280 - 40 - 20;

/// The two ends of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ends {
    /// Ours.
    pub local: SocketAddr,
    /// The other.
    pub remote: SocketAddr,
}

impl Ends {
    /// From addresses and ports; scopes and flow labels do not tell ends apart.
    pub fn new(local: (IpAddr, u16), remote: (IpAddr, u16)) -> Self {
        Self { local: local.into(), remote: remote.into() }
    }

    /// As the other end sees it.
    pub fn reversed(self) -> Self {
        Self { local: self.remote, remote: self.local }
    }

    /// What workers read from packets of the other end's; the local port stands for an echo's identifier.
    pub fn incoming(&self, protocol: Protocol) -> Flow {
        Flow {
            protocol,
            source: self.remote.ip().into(),
            source_port: if protocol == Protocol::Echo { 0 } else { self.remote.port() },
            destination: self.local.ip().into(),
            destination_port: self.local.port(),
        }
    }

    /// Addresses and ports, ours first.
    pub fn to_bytes(self) -> [u8; 36] {
        let mut bytes = [0; 36];
        for (end, place) in [self.local, self.remote].iter().zip(bytes.chunks_exact_mut(18)) {
            place[..16].copy_from_slice(&Address::from(end.ip()).bits().to_be_bytes());
            place[16..].copy_from_slice(&end.port().to_be_bytes());
        }
        bytes
    }
}

/// Why a packet is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Useless {
    /// It is damaged, or shorter than it says.
    Malformed,
    /// It is a part of one.
    Fragment,
    /// Nobody can have sent it, or nobody can be answered.
    Nobody,
}

/// An IP packet as it came.
#[derive(Clone, Copy)]
pub struct Packet<'p> {
    /// From its first byte to its last, without what Ethernet puts behind.
    pub bytes: &'p [u8],
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// What it carries: one of [`protocol`].
    pub protocol: u8,
    /// What is behind the IP header.
    pub payload: &'p [u8],
}

impl fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, destination, protocol, payload, .. } = self;
        write!(f, "{source} to {destination}, protocol {protocol}: {payload:02x?}")
    }
}

impl<'p> Packet<'p> {
    /// Reads a packet, from its IP header on.
    pub fn read(bytes: &'p [u8]) -> Result<Self, Useless> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::read_v4(bytes),
            Some(6) => Self::read_v6(bytes),
            _ => Err(Useless::Malformed),
        }
    }

    fn read_v4(bytes: &'p [u8]) -> Result<Self, Useless> {
        let ip = Ipv4Packet::new_checked(bytes).map_err(|_| Useless::Malformed)?;
        if !ip.verify_checksum() || ip.header_len() < IPV4_HEADER_LEN as u8 {
            return Err(Useless::Malformed);
        }
        if ip.more_frags() || ip.frag_offset() != 0 {
            return Err(Useless::Fragment);
        }
        let source = ip.src_addr();
        let nobody = source.is_unspecified()
            || source.is_broadcast()
            || source.is_multicast()
            || source.is_loopback();
        if nobody {
            return Err(Useless::Nobody);
        }
        Ok(Self {
            bytes: &bytes[..usize::from(ip.total_len())],
            source: source.into(),
            destination: ip.dst_addr().into(),
            protocol: ip.next_header().into(),
            payload: &bytes[usize::from(ip.header_len())..usize::from(ip.total_len())],
        })
    }

    fn read_v6(bytes: &'p [u8]) -> Result<Self, Useless> {
        let ip = Ipv6Packet::new_checked(bytes).map_err(|_| Useless::Malformed)?;
        let source = ip.src_addr();
        let nobody = source.is_unspecified()
            || source.is_multicast()
            || source.is_loopback()
            || source.to_ipv4_mapped().is_some();
        if nobody {
            return Err(Useless::Nobody);
        }
        let protocol = u8::from(ip.next_header());
        if protocol == protocol::FRAGMENT {
            return Err(Useless::Fragment);
        }
        Ok(Self {
            bytes: &bytes[..ip.total_len()],
            source: source.into(),
            destination: ip.dst_addr().into(),
            protocol,
            payload: &bytes[IPV6_HEADER_LEN..ip.total_len()],
        })
    }

    /// Which family it is of.
    pub fn family(&self) -> Family {
        Address::from(self.source).family()
    }

    /// Whether the checksum of what it carries is right.
    pub fn transport_is_right(&self) -> bool {
        let (source, destination) = (self.source.into(), self.destination.into());
        match self.protocol {
            protocol::ICMP => checksum::of(self.payload) == 0,
            protocol => checksum::transport_is_right(source, destination, protocol, self.payload),
        }
    }
}

/// The TCP header of a segment, as far as it matters to whom it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its sender's port.
    pub from: u16,
    /// Its receiver's port.
    pub to: u16,
    /// The number of its first byte.
    pub sequence: u32,
    /// The number behind its last, opening and end of a connection counted.
    pub end: u32,
    /// The number of the byte that its sender waits for.
    pub acknowledgement: u32,
    /// It opens a connection.
    pub opens: bool,
    /// It acknowledges something.
    pub acknowledges: bool,
    /// It ends a connection at once.
    pub resets: bool,
}

impl Segment {
    /// Reads a segment; `None` if it is no whole one.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let tcp = TcpPacket::new_checked(payload).ok()?;
        Some(Self {
            from: tcp.src_port(),
            to: tcp.dst_port(),
            sequence: tcp.seq_number().0 as u32,
            end: (tcp.seq_number() + tcp.segment_len()).0 as u32,
            acknowledgement: tcp.ack_number().0 as u32,
            opens: tcp.syn(),
            acknowledges: tcp.ack(),
            resets: tcp.rst(),
        })
    }
}

/// The segment in a packet of our own.
pub fn own_segment(packet: &[u8]) -> Option<Segment> {
    let header = if packet.first()? >> 4 == 4 { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN };
    Segment::read(packet.get(header..)?)
}

/// Gives the segment in a packet of our own another number.
pub fn set_sequence(packet: &mut [u8], sequence: u32) {
    let Some((source, destination)) = own_addresses(packet) else { return };
    let header =
        if source.version() == IpVersion::Ipv4 { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN };
    let Some(payload) = packet.get_mut(header..) else { return };
    let mut tcp = TcpPacket::new_unchecked(payload);
    if tcp.check_len().is_ok() {
        tcp.set_seq_number(TcpSeqNumber(sequence as i32));
        tcp.fill_checksum(&source, &destination);
    }
}

fn own_addresses(packet: &[u8]) -> Option<(IpAddress, IpAddress)> {
    match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(packet).ok()?;
            Some((ip.src_addr().into(), ip.dst_addr().into()))
        }
        _ => {
            let ip = Ipv6Packet::new_checked(packet).ok()?;
            Some((ip.src_addr().into(), ip.dst_addr().into()))
        }
    }
}

/// Whom a packet of our own is for.
pub fn own_destination(packet: &[u8]) -> Option<IpAddr> {
    own_addresses(packet).map(|(_, destination)| destination.into())
}

/// The ports of a datagram and what it carries; `None` if it is no whole one.
pub fn read_datagram(payload: &[u8]) -> Option<((u16, u16), &[u8])> {
    let udp = UdpPacket::new_checked(payload).ok()?;
    Some(((udp.src_port(), udp.dst_port()), udp.payload()))
}

/// An echo request or reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<'p> {
    /// Tells those who ask apart.
    pub identifier: u16,
    /// Tells their questions apart.
    pub sequence: u16,
    /// What comes back as it was sent.
    pub data: &'p [u8],
}

/// What an ICMP message means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'p> {
    /// An answer to an echo request.
    EchoReply(Echo<'p>),
    /// A packet of ours could not be delivered.
    Error(Trouble, &'p [u8]),
    /// Nothing.
    Other,
}

/// Why a packet of ours could not be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody listens there.
    Port,
    /// The station is not there, or must not be asked.
    Host,
    /// No route leads there.
    Network,
    /// It is longer than some link on the way takes.
    TooLong,
}

impl<'p> Message<'p> {
    /// Reads the message that a packet carries.
    pub fn read(packet: &Packet<'p>) -> Self {
        let Some((header, body)) = packet.payload.split_first_chunk::<{ icmp::HEADER }>() else {
            return Self::Other;
        };
        let &[kind, code, _, _, a, b, c, d] = header;
        let echo = Echo {
            identifier: u16::from_be_bytes([a, b]),
            sequence: u16::from_be_bytes([c, d]),
            data: body,
        };
        let trouble = match packet.family() {
            Family::V4 if kind == icmp::kind::ECHO_REPLY => return Self::EchoReply(echo),
            Family::V6 if kind == icmpv6::kind::ECHO_REPLY => return Self::EchoReply(echo),
            Family::V4 => trouble_v4(kind, code),
            Family::V6 => trouble_v6(kind, code),
        };
        trouble.map_or(Self::Other, |trouble| Self::Error(trouble, body))
    }
}

/// RFC 792, RFC 1122 section 3.2.2.1.
fn trouble_v4(kind: u8, code: u8) -> Option<Trouble> {
    use icmp::{code, kind};
    match (kind, code) {
        (kind::UNREACHABLE, code::PROTOCOL | code::PORT) => Some(Trouble::Port),
        (kind::UNREACHABLE, code::FRAGMENTATION_NEEDED) => Some(Trouble::TooLong),
        (kind::UNREACHABLE, code::NETWORK | 6 | 9 | 11) => Some(Trouble::Network),
        (kind::UNREACHABLE, _) => Some(Trouble::Host),
        (kind::TIME_EXCEEDED, _) => Some(Trouble::Network), // a loop of routers
        _ => None,
    }
}

/// RFC 4443 section 3.
fn trouble_v6(kind: u8, code: u8) -> Option<Trouble> {
    use icmpv6::{code, kind};
    match (kind, code) {
        (kind::UNREACHABLE, code::PORT) => Some(Trouble::Port),
        (kind::UNREACHABLE, code::NO_ROUTE) => Some(Trouble::Network),
        (kind::UNREACHABLE, _) => Some(Trouble::Host),
        (kind::TOO_BIG, _) => Some(Trouble::TooLong),
        (kind::TIME_EXCEEDED, _) => Some(Trouble::Network),
        // The next header is unknown there.
        (kind::PARAMETER_PROBLEM, 1) => Some(Trouble::Port),
        _ => None,
    }
}

/// A packet of ours as an error quotes it: often its first bytes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// What it carried.
    pub protocol: u8,
    /// Who sent it: one of our addresses.
    pub source: IpAddr,
    /// Whom it was for.
    pub destination: IpAddr,
    /// The first 8 bytes behind its IP header.
    pub start: [u8; 8],
}

impl Quoted {
    /// Reads the quote behind an error's header. Where the packet was inside another of ours, that is looked into.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let outer = Self::one(bytes)?;
        let (quoted, behind) = outer;
        let inner = match quoted.protocol {
            protocol::IPV4 | protocol::IPV6 => Some(behind),
            // Generic UDP encapsulation: a header of each, and no ordinary datagram looks like a packet from us.
            protocol::UDP => behind.get(dataplane::wire::gue::HEADERS..),
            _ => None,
        };
        let inner = inner.and_then(Self::one).map(|(inner, _)| inner);
        Some(inner.filter(|inner| is_transport(inner.protocol)).unwrap_or(quoted))
    }

    fn one(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (protocol, source, destination, behind) = match bytes.first()? >> 4 {
            4 => {
                let header = bytes.first_chunk::<IPV4_HEADER_LEN>()?;
                let address =
                    |at: usize| -> [u8; 4] { std::array::from_fn(|byte| header[at + byte]) };
                let length = usize::from(header[0] & 0x0f) * 4;
                let behind = bytes.get(length.max(IPV4_HEADER_LEN)..)?;
                (header[9], IpAddr::from(address(12)), IpAddr::from(address(16)), behind)
            }
            6 => {
                let (header, behind) = bytes.split_first_chunk::<IPV6_HEADER_LEN>()?;
                let address =
                    |at: usize| -> [u8; 16] { std::array::from_fn(|byte| header[at + byte]) };
                (header[6], IpAddr::from(address(8)), IpAddr::from(address(24)), behind)
            }
            _ => return None,
        };
        let start = *behind.first_chunk()?;
        Some((Self { protocol, source, destination, start }, behind))
    }

    /// The first two bytes and the next two: ports, where there are ports.
    pub fn ports(&self) -> (u16, u16) {
        let [a, b, c, d, ..] = self.start;
        (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    }

    /// The ends of the conversation that it belongs to.
    pub fn ends(&self) -> Ends {
        let (from, to) = self.ports();
        Ends::new((self.source, from), (self.destination, to))
    }

    /// The last four bytes: the sequence number of a segment; identifier and sequence of an echo.
    pub fn last(&self) -> u32 {
        let [_, _, _, _, rest @ ..] = self.start;
        u32::from_be_bytes(rest)
    }
}

fn is_transport(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6)
}

/// A datagram from one end to the other, in its packet.
pub fn datagram(ends: &Ends, payload: &[u8]) -> Vec<u8> {
    let udp = UdpRepr { src_port: ends.local.port(), dst_port: ends.remote.port() };
    let (source, destination) = addresses(ends);
    packet(source, destination, IpProtocol::Udp, 8 + payload.len(), |bytes| {
        let mut packet = UdpPacket::new_unchecked(bytes);
        let fill = |place: &mut [u8]| place.copy_from_slice(payload);
        udp.emit(&mut packet, &source, &destination, payload.len(), fill, &sums());
    })
}

/// How much a datagram adds to what it carries, in bytes.
pub fn datagram_overhead(to: IpAddr) -> usize {
    8 + if to.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN }
}

/// An echo request in its packet.
pub fn echo_request(from: IpAddr, to: IpAddr, echo: &Echo<'_>) -> Vec<u8> {
    let &Echo { identifier: ident, sequence: seq_no, data } = echo;
    let length = icmp::HEADER + data.len();
    match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let repr = Icmpv6Repr::EchoRequest { ident, seq_no, data };
            packet(from.into(), to.into(), IpProtocol::Icmpv6, length, |bytes| {
                repr.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(bytes), &sums());
            })
        }
        _ => {
            let repr = Icmpv4Repr::EchoRequest { ident, seq_no, data };
            packet(from.into(), to.into(), IpProtocol::Icmp, length, |bytes| {
                repr.emit(&mut Icmpv4Packet::new_unchecked(bytes), &sums());
            })
        }
    }
}

/// A segment without data that acknowledges everything up to `acknowledgement`.
pub fn acknowledgement(ends: &Ends, sequence: u32, acknowledgement: u32) -> Vec<u8> {
    let (source, destination) = addresses(ends);
    let ack_number = Some(TcpSeqNumber(acknowledgement as i32));
    let tcp = TcpRepr { ack_number, ..bare(ends, sequence) };
    packet(source, destination, IpProtocol::Tcp, tcp.buffer_len(), |bytes| {
        tcp.emit(&mut TcpPacket::new_unchecked(bytes), &source, &destination, &sums());
    })
}

/// What a client says that opens a connection, as far as it is remembered where nothing is: segments of every host fit
/// the least that IPv6 asks of links.
pub fn opening(ends: &Ends, sequence: u32) -> Vec<u8> {
    let (source, destination) = addresses(ends);
    let tcp = TcpRepr {
        control: TcpControl::Syn,
        ack_number: None,
        window_len: u16::MAX,
        max_seg_size: Some(LEAST_SEGMENT),
        ..bare(ends, sequence)
    };
    packet(source, destination, IpProtocol::Tcp, tcp.buffer_len(), |bytes| {
        tcp.emit(&mut TcpPacket::new_unchecked(bytes), &source, &destination, &sums());
    })
}

fn bare(ends: &Ends, sequence: u32) -> TcpRepr<'static> {
    TcpRepr {
        src_port: ends.local.port(),
        dst_port: ends.remote.port(),
        control: TcpControl::None,
        seq_number: TcpSeqNumber(sequence as i32),
        ack_number: None,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// "Nobody listens at that port", in answer to a packet that came to us.
pub fn port_unreachable(about: &Packet<'_>) -> Option<Vec<u8>> {
    let mut message = [0; 1500];
    let (from, to) = (about.destination, about.source);
    let (protocol, length) = match about.family() {
        Family::V4 => {
            let error = icmp::Error::Unreachable { code: icmp::code::PORT };
            (IpProtocol::Icmp, icmp::write_error(&mut message, error, about.bytes)?)
        }
        Family::V6 => {
            let error = icmpv6::Error::Unreachable { code: icmpv6::code::PORT };
            let written =
                icmpv6::write_error(&mut message, error, about.bytes, from.into(), to.into());
            (IpProtocol::Icmpv6, written?)
        }
    };
    let message = message.get(..length)?;
    Some(packet(from.into(), to.into(), protocol, length, |place| place.copy_from_slice(message)))
}

fn packet(
    from: IpAddress,
    to: IpAddress,
    protocol: IpProtocol,
    length: usize,
    write: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let ip = IpRepr::new(from, to, protocol, length, HOPS);
    let mut packet = vec![0; ip.buffer_len()];
    ip.emit(&mut packet[..], &sums());
    write(&mut packet[ip.header_len()..]);
    packet
}

fn addresses(ends: &Ends) -> (IpAddress, IpAddress) {
    (ends.local.ip().into(), ends.remote.ip().into())
}

/// Nobody else writes checksums.
fn sums() -> ChecksumCapabilities {
    ChecksumCapabilities::default()
}
