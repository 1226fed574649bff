//! Step 5: the headers that the next station expects. Each server says how it wants its packets; the
//! hardware addresses are written last, at [`crate::transmit`], because a frame may have to wait for
//! them.

mod answer;

mod error;

pub mod ftp;

mod proxy;

mod reset;

pub mod sequence;

mod stream;

mod translate;

mod tunnel;

use crate::counters::{Counters, Reason};
use crate::frame::{Burst, Frame, Link};
use crate::lookup::{ErrorTowards, Memory, Routed, Towards};
use crate::moment::Moment;
use crate::parse::{Packet, ip_packet};
use crate::punt::limit::TokenBucket;
use crate::snapshot::{Hop, InterfaceId, Mode, Server, Snapshot};
use crate::wire::ipv4::Ipv4;
use crate::wire::{Family, ethernet};
use answer::Complaint;

/// A frame that lacks only its hardware addresses.
pub struct Outbound<'h, F> {
    /// The frame.
    pub frame: F,
    /// The next station.
    pub hop: &'h Hop,
    /// Length of the IP packet with its header, in bytes.
    pub length: u16,
}

/// A frame of our own, the next station, and the length of its IP packet in bytes.
type Made<F> = (F, Hop, u16);

/// What a worker remembers for rewriting.
#[derive(Clone)]
pub struct Rewriter {
    tunnels: tunnel::Identification,
    errors: TokenBucket,
}

/// ICMP errors that one worker sends in a second, and at once (RFC 1812 section 4.3.2.8).
const ERRORS: (u32, u32) = (1_000, 100);

/// What rewriting a burst takes besides the burst.
pub struct Surroundings<'a, L> {
    /// Where new frames come from, by device.
    pub links: &'a mut [L],
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// The flows whose packets are rewritten.
    pub memory: &'a mut Memory,
    /// When.
    pub now: Moment,
    /// What is counted.
    pub counters: &'a Counters,
}

impl Rewriter {
    /// `random` is where the identification of outer packets begins.
    pub fn new(random: u16) -> Self {
        Self {
            tunnels: tunnel::Identification::starting_at(random),
            errors: TokenBucket::new(ERRORS),
        }
    }

    /// Rewrites every packet of a burst. A packet that is answered may leave in two: to its sender and to
    /// the other end, so `send` is called for each that is to leave.
    pub fn packets<L: Link>(
        &mut self,
        routed: &mut Burst<Routed<'_, L::Frame>>,
        surroundings: &mut Surroundings<'_, L>,
        mut send: impl FnMut(Outbound<'_, L::Frame>, &mut Surroundings<'_, L>),
    ) {
        for it in routed.drain(..) {
            let Routed { mut frame, packet, towards, ingress } = it;
            if towards.is_answered() {
                let it = Routed { frame, packet, towards, ingress };
                for (frame, hop, length) in answers(it, surroundings).into_iter().flatten() {
                    send(Outbound { frame, hop: &hop, length }, surroundings);
                }
                continue;
            }
            match self.packet(&mut frame, &packet, &towards, surroundings) {
                Ok((hop, length)) => send(Outbound { frame, hop, length }, surroundings),
                Err(Dropped { reason, complaint }) => {
                    surroundings.counters.drop_one(reason);
                    let answer =
                        complaint.and_then(|it| self.complain(it, frame, ingress, surroundings));
                    if let Some((frame, hop, length)) = answer {
                        send(Outbound { frame, hop: &hop, length }, surroundings);
                    }
                }
            }
        }
    }

    /// Gives the next station, and the length of the packet from now on.
    #[inline]
    fn packet<'t, L: Link>(
        &mut self,
        frame: &mut L::Frame,
        packet: &Packet,
        towards: &'t Towards<'_>,
        surroundings: &mut Surroundings<'_, L>,
    ) -> Result<(&'t Hop, u16), Dropped> {
        let snapshot = surroundings.snapshot;
        match towards {
            Towards::Server(server) => {
                let hop = &server.hop;
                fits(hop, server.overhead(), packet, snapshot, || {
                    outer_family(server) == Family::V6 || is_indivisible(packet, frame)
                })?;
                Ok((hop, self.for_server(frame, packet, server, snapshot)?))
            }
            Towards::Translated(translation) => {
                fits(&translation.hop, 0, packet, snapshot, || is_indivisible(packet, frame))?;
                if translation.ages && has_aged(frame, packet) {
                    return Err(Dropped::TOO_OLD);
                }
                let length = stream::mended(frame, packet, translation, surroundings)?;
                translate::packet(frame, packet, translation).ok_or(Reason::Malformed)?;
                Ok((&translation.hop, length))
            }
            _ => self.passed_on(frame, packet, towards, snapshot),
        }
    }

    /// A packet that passes through us, or an ICMP error that goes to one end of its flow.
    #[inline(never)]
    fn passed_on<'t, F: Frame>(
        &mut self,
        frame: &mut F,
        packet: &Packet,
        towards: &'t Towards<'_>,
        snapshot: &Snapshot,
    ) -> Result<(&'t Hop, u16), Dropped> {
        let no_route = Dropped { reason: Reason::NoRoute, complaint: Some(Complaint::NoRoute) };
        let hop = towards.hop().ok_or(no_route)?;
        fits(hop, towards.overhead(), packet, snapshot, || is_indivisible(packet, frame))?;
        match *towards {
            Towards::Error(ErrorTowards::Server(server)) => {
                return Ok((hop, self.for_server(frame, packet, server, snapshot)?));
            }
            Towards::Error(ErrorTowards::Translated {
                source,
                destination,
                quoted_source,
                quoted_destination,
                ..
            }) => {
                error::translate(frame, (source, destination), (quoted_source, quoted_destination))
                    .ok_or(Reason::Malformed)?;
            }
            _ if has_aged(frame, packet) => return Err(Dropped::TOO_OLD),
            Towards::Paired { source, destination, .. } => {
                translate::addresses(frame, packet, source, destination)
                    .ok_or(Reason::Malformed)?;
            }
            _ => {}
        }
        Ok((hop, packet.length))
    }

    /// A packet as a server that has the virtual address wants it; gives its length then.
    #[inline]
    fn for_server<F: Frame>(
        &mut self,
        frame: &mut F,
        packet: &Packet,
        server: &Server,
        snapshot: &Snapshot,
    ) -> Result<u16, Reason> {
        let Mode::Tunnel { source, encapsulation } = server.mode else {
            // FWD-01: the server owns the virtual address too, so nothing behind the Ethernet header
            // changes, not even the time to live.
            return Ok(packet.length);
        };
        if packet.flags.synchronises() {
            let service = snapshot.services.service(server.service);
            let mtu = snapshot.interface(server.hop.interface).map(|interface| interface.mtu);
            if let (Some(service), Some(mtu)) = (service, mtu)
                && service.options.clamp_mss
            {
                let room = mtu.saturating_sub(tunnel::overhead(source, encapsulation) as u16);
                tunnel::clamp_mss(frame, packet, room);
            }
        }
        self.tunnels
            .wrap(frame, (source, server.address), encapsulation, packet)
            .ok_or(Reason::NoBuffer)
    }

    /// Turns `frame` into the error that its sender gets, if it gets one.
    #[cold]
    fn complain<L: Link>(
        &mut self,
        complaint: Complaint,
        frame: L::Frame,
        ingress: InterfaceId,
        surroundings: &mut Surroundings<'_, L>,
    ) -> Option<Made<L::Frame>> {
        let Surroundings { snapshot, now, counters, .. } = surroundings;
        let may_answer = self.errors.take(*now);
        let answer =
            may_answer.then(|| answer::error(frame, ingress, complaint, snapshot)).flatten();
        counters.injected.add(u64::from(answer.is_some()));
        answer
    }
}

/// Why a packet goes no further, and what its sender is told.
struct Dropped {
    reason: Reason,
    complaint: Option<Complaint>,
}

impl Dropped {
    const TOO_OLD: Self =
        Self { reason: Reason::TimeExceeded, complaint: Some(Complaint::TimeExceeded) };
}

impl From<Reason> for Dropped {
    fn from(reason: Reason) -> Self {
        Self { reason, complaint: None }
    }
}

impl Towards<'_> {
    /// Whether segments of our own take the packet's place.
    #[inline]
    fn is_answered(&self) -> bool {
        matches!(self, Self::Reset(_) | Self::Challenged | Self::Proxied(..))
    }

    /// Where a packet leaves to, if it leaves itself.
    #[inline]
    fn hop(&self) -> Option<&Hop> {
        match self {
            Self::Server(server) | Self::Error(ErrorTowards::Server(server)) => Some(&server.hop),
            Self::Translated(translation) => Some(&translation.hop),
            Self::Onward(hop)
            | Self::Paired { hop, .. }
            | Self::Error(ErrorTowards::Translated { hop, .. }) => Some(hop),
            Self::Reset(_) | Self::Challenged | Self::Proxied(..) | Self::Unreachable => None,
        }
    }

    /// How much longer a packet becomes, in bytes.
    #[inline]
    fn overhead(&self) -> usize {
        match self {
            Self::Server(server) | Self::Error(ErrorTowards::Server(server)) => server.overhead(),
            _ => 0,
        }
    }
}

impl Server {
    /// How much longer its packets become, in bytes.
    #[inline]
    fn overhead(&self) -> usize {
        match self.mode {
            Mode::Tunnel { source, encapsulation } => tunnel::overhead(source, encapsulation),
            _ => 0,
        }
    }
}

/// Whether the packet, with so many bytes in front, fits its way out or may be made to.
#[inline]
fn fits(
    hop: &Hop,
    overhead: usize,
    packet: &Packet,
    snapshot: &Snapshot,
    is_indivisible: impl FnOnce() -> bool,
) -> Result<(), Dropped> {
    let way_out = snapshot.interface(hop.interface).ok_or(Reason::NoInterface)?;
    let room = usize::from(way_out.mtu).saturating_sub(overhead);
    if usize::from(packet.length) > room && is_indivisible() {
        let complaint = Some(Complaint::TooBig(room as u16));
        return Err(Dropped { reason: Reason::TooBig, complaint });
    }
    Ok(())
}

impl<L: Link> Surroundings<'_, L> {
    /// A frame of our own with this IP packet in it, behind room for the Ethernet header.
    fn made(&mut self, hop: Hop, bytes: &[u8]) -> Option<Made<L::Frame>> {
        let port = self.snapshot.interface(hop.interface)?.port;
        let frame = self.links.get_mut(usize::from(port.0))?.allocate(bytes)?;
        self.counters.injected.add(1);
        Some((frame, hop, (bytes.len() - ethernet::HEADER) as u16))
    }
}

/// The segments of our own that take a packet's place: to its sender and to the other end.
#[cold]
fn answers<L: Link>(
    mut it: Routed<'_, L::Frame>,
    surroundings: &mut Surroundings<'_, L>,
) -> [Option<Made<L::Frame>>; 2] {
    let (reason, segments) = match it.towards {
        Towards::Reset(other_end) => {
            let segments = reset::both_ends(&mut it, other_end, surroundings.snapshot);
            (Reason::ServerHalted, segments)
        }
        Towards::Proxied(place, proxied) => {
            (Reason::Proxied, proxy::segments(&mut it, (place, proxied), surroundings))
        }
        _ => (Reason::Challenged, [proxy::challenge(&mut it, surroundings), None]),
    };
    surroundings.counters.drop_one(reason);
    segments.map(|segment| segment.and_then(|(hop, bytes)| surroundings.made(hop, &bytes)))
}

/// The family of the packets that reach a server: its tunnel's, if it has one.
fn outer_family(server: &Server) -> Family {
    match server.mode {
        Mode::Tunnel { source, .. } => source.family(),
        _ => Family::V4,
    }
}

/// Whether the packet must arrive whole or not at all: its sender says so (IPv4), or routers never
/// fragment (IPv6).
fn is_indivisible<F: Frame>(packet: &Packet, frame: &mut F) -> bool {
    !packet.flow.source.is_v4()
        || Ipv4::split(ip_packet(frame)).is_ok_and(|(ip, _)| ip.must_not_be_fragmented())
}

/// Takes one hop from what a packet has left; `true`, and no change, if that was the last.
#[inline]
fn has_aged<F: Frame>(frame: &mut F, packet: &Packet) -> bool {
    let bytes = ip_packet(frame);
    if packet.flow.source.is_v4() {
        let Ok((mut ip, _)) = Ipv4::split(bytes) else { return true };
        let over = ip.time_to_live() <= 1;
        if !over {
            ip.decrement_time_to_live();
        }
        return over;
    }
    let Ok((mut ip, _)) = crate::wire::ipv6::Ipv6::split(bytes) else { return true };
    let left = ip.hop_limit();
    ip.set_hop_limit(left.saturating_sub(u8::from(left > 1)));
    left <= 1
}
