//! Step 2: bytes to a flow, or to a message for the control plane, or out.

use std::net::Ipv4Addr;

use crate::counters::{Counters, Reason};
use crate::frame::{Burst, Frame};
use crate::snapshot::{Interface, Protocol};
use crate::wire::Malformed;
use crate::wire::ethernet::{self, Ethernet, ethertype};
use crate::wire::ipv4::{Ipv4, protocol};
use crate::wire::tcp::{self, Tcp};
use crate::wire::udp::Udp;

/// A frame that is worth looking at, and what it is.
pub struct Parsed<F> {
    /// The frame.
    pub frame: F,
    /// What it carries.
    pub content: Content,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// An ARP message, unread.
    Arp,
    /// An ICMP message.
    Icmp {
        /// Whom it is for.
        destination: Ipv4Addr,
    },
    /// A packet of a flow.
    Flow(Packet),
}

/// What forwarding needs to know of a TCP or UDP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Whose packet it is.
    pub flow: Flow,
    /// TCP's control bits; empty for UDP.
    pub flags: tcp::Flags,
    /// Length of the IP packet with its header, in bytes.
    pub length: u16,
}

/// The five values that tell flows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who sent the packet.
    pub source: Ipv4Addr,
    /// The sender's port.
    pub source_port: u16,
    /// Whom it is for.
    pub destination: Ipv4Addr,
    /// The receiver's port.
    pub destination_port: u16,
}

/// Reads every frame of a burst that came in on `interface`.
pub fn flows<F: Frame>(
    mut frames: Burst<F>,
    interface: &Interface,
    counters: &Counters,
) -> Burst<Parsed<F>> {
    let mut parsed = Burst::new();
    for frame in &frames {
        frame.prefetch();
    }
    for mut frame in frames.drain(..) {
        match content(&mut frame, interface) {
            Ok(content) => parsed.push(Parsed { frame, content }),
            Err(reason) => counters.drop_one(reason),
        }
    }
    parsed
}

/// What `frame`, received on `interface`, carries.
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
    if frame.stripped_tag().is_some() {
        return Err(Reason::Vlan);
    }
    let (ethernet, payload) = Ethernet::split(frame.bytes_mut())?;
    let (destination, ethertype) = (ethernet.destination(), ethernet.ethertype());
    match ethertype {
        ethertype::IPV4 if destination == interface.mac => packet(payload),
        ethertype::ARP if destination == interface.mac || destination.is_group() => {
            Ok(Content::Arp)
        }
        ethertype::IPV4 | ethertype::ARP => Err(Reason::NotOurMac),
        ethertype::VLAN | ethertype::SERVICE_VLAN => Err(Reason::Vlan),
        _ => Err(Reason::NotIpv4),
    }
}

#[inline]
fn packet(bytes: &mut [u8]) -> Result<Content, Reason> {
    let (ip, payload) = Ipv4::split(bytes)?;
    if !ip.checksum_is_right() {
        return Err(Reason::BadChecksum);
    }
    let (source, destination, length) = (ip.source(), ip.destination(), ip.total_length());
    if !may_be_a_source(source) || source == destination {
        return Err(Reason::BadSource);
    }
    if ip.is_fragment() {
        return Err(Reason::Fragment);
    }
    let flow = |protocol, source_port, destination_port| Flow {
        protocol,
        source,
        source_port,
        destination,
        destination_port,
    };
    match ip.protocol() {
        protocol::TCP => {
            let tcp = Tcp::split(payload)?;
            let flow = flow(Protocol::Tcp, tcp.source(), tcp.destination());
            Ok(Content::Flow(Packet { flow, flags: tcp.flags(), length }))
        }
        protocol::UDP => {
            let udp = Udp::split(payload)?;
            let flow = flow(Protocol::Udp, udp.source(), udp.destination());
            Ok(Content::Flow(Packet { flow, flags: tcp::Flags::default(), length }))
        }
        protocol::ICMP => Ok(Content::Icmp { destination }),
        _ => Err(Reason::NotTcpOrUdp),
    }
}

/// Whether a station may have this address (RFC 1122 section 3.2.1.3): not zero, not loopback,
/// not multicast, not reserved, not broadcast.
#[inline]
fn may_be_a_source(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 127 | 224..)
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
