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
pub struct Outbound<F> {
    /// The frame.
    pub frame: F,
    /// The next station.
    pub hop: Hop,
    /// Length of the IP packet with its header, in bytes.
    pub length: u16,
}

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
        mut routed: Burst<Routed<'_, L::Frame>>,
        surroundings: &mut Surroundings<'_, L>,
        mut send: impl FnMut(Outbound<L::Frame>, &mut Surroundings<'_, L>),
    ) {
        for mut it in routed.drain(..) {
            if let Some((reason, segments)) = answers(&mut it, surroundings) {
                surroundings.counters.drop_one(reason);
                for (hop, bytes) in segments.into_iter().flatten() {
                    if let Some(outbound) = surroundings.made(hop, &bytes) {
                        send(outbound, surroundings);
                    }
                }
                continue;
            }
            match self.packet(it, surroundings) {
                Ok(outbound) => send(outbound, surroundings),
                Err(None) => {}
                Err(Some(reason)) => surroundings.counters.drop_one(reason),
            }
        }
    }

    /// # Errors
    /// Why it is dropped; `None` if that has been counted.
    #[inline]
    fn packet<L: Link>(
        &mut self,
        it: Routed<'_, L::Frame>,
        surroundings: &mut Surroundings<'_, L>,
    ) -> Result<Outbound<L::Frame>, Option<Reason>> {
        let Routed { mut frame, ingress, packet, towards } = it;
        let snapshot = surroundings.snapshot;
        let (hop, overhead) = way(&towards);
        if let Some(hop) = hop {
            let way_out = snapshot.interface(hop.interface).ok_or(Reason::NoInterface)?;
            let room = usize::from(way_out.mtu).saturating_sub(overhead);
            if usize::from(packet.length) > room
                && must_not_be_fragmented(&towards, &packet, &mut frame)
            {
                let complaint = Complaint::TooBig(room as u16);
                return Err(Some(Reason::TooBig)).or_else(|reason| {
                    self.complain(complaint, frame, ingress, surroundings, reason)
                });
            }
        }
        match towards {
            Towards::Translated(translation) => {
                if translation.ages && has_aged(&mut frame, &packet) {
                    let reason = Some(Reason::TimeExceeded);
                    return self.complain(
                        Complaint::TimeExceeded,
                        frame,
                        ingress,
                        surroundings,
                        reason,
                    );
                }
                let length = stream::mended(&mut frame, &packet, &translation, surroundings)?;
                translate::packet(&mut frame, &packet, &translation).ok_or(Reason::Malformed)?;
                Ok(Outbound { frame, hop: translation.hop, length })
            }
            Towards::Server(server) => self.for_server(frame, &packet, server, snapshot),
            Towards::Onward(hop) | Towards::Paired { hop, .. } => {
                if has_aged(&mut frame, &packet) {
                    let reason = Some(Reason::TimeExceeded);
                    return self.complain(
                        Complaint::TimeExceeded,
                        frame,
                        ingress,
                        surroundings,
                        reason,
                    );
                }
                if let Towards::Paired { source, destination, .. } = towards {
                    translate::addresses(&mut frame, &packet, source, destination)
                        .ok_or(Reason::Malformed)?;
                }
                Ok(Outbound { frame, hop, length: packet.length })
            }
            Towards::Error(ErrorTowards::Server(server)) => {
                self.for_server(frame, &packet, server, snapshot)
            }
            Towards::Error(ErrorTowards::Translated {
                source,
                destination,
                quoted_source,
                quoted_destination,
                hop,
            }) => {
                error::translate(
                    &mut frame,
                    (source, destination),
                    (quoted_source, quoted_destination),
                )
                .ok_or(Reason::Malformed)?;
                Ok(Outbound { frame, hop, length: packet.length })
            }
            // Dealt with before, because one frame becomes two.
            Towards::Reset(_) | Towards::Challenged | Towards::Proxied(..) => Err(None),
            Towards::Unreachable => {
                let reason = Some(Reason::NoRoute);
                self.complain(Complaint::NoRoute, frame, ingress, surroundings, reason)
            }
        }
    }

    /// A packet as a server that has the virtual address wants it.
    #[inline]
    fn for_server<F: Frame>(
        &mut self,
        mut frame: F,
        packet: &Packet,
        server: &Server,
        snapshot: &Snapshot,
    ) -> Result<Outbound<F>, Option<Reason>> {
        let hop = server.hop;
        let Mode::Tunnel { source, encapsulation } = server.mode else {
            // FWD-01: the server owns the virtual address too, so nothing behind the Ethernet header
            // changes, not even the time to live.
            return Ok(Outbound { frame, hop, length: packet.length });
        };
        if packet.flags.synchronises() {
            let service = snapshot.services.service(server.service);
            let mtu = snapshot.interface(hop.interface).map(|interface| interface.mtu);
            if let (Some(service), Some(mtu)) = (service, mtu)
                && service.options.clamp_mss
            {
                let room = mtu.saturating_sub(tunnel::overhead(source, encapsulation) as u16);
                tunnel::clamp_mss(&mut frame, packet, room);
            }
        }
        let length = self
            .tunnels
            .wrap(&mut frame, (source, server.address), encapsulation, packet)
            .ok_or(Reason::NoBuffer)?;
        Ok(Outbound { frame, hop, length })
    }

    /// Turns `frame` into the error that its sender gets, if it gets one.
    #[cold]
    fn complain<L: Link>(
        &mut self,
        complaint: Complaint,
        frame: L::Frame,
        ingress: InterfaceId,
        surroundings: &mut Surroundings<'_, L>,
        reason: Option<Reason>,
    ) -> Result<Outbound<L::Frame>, Option<Reason>> {
        let Surroundings { snapshot, now, counters, .. } = surroundings;
        if let Some(reason) = reason {
            counters.drop_one(reason);
        }
        let may_answer = self.errors.take(*now);
        let answer =
            may_answer.then(|| answer::error(frame, ingress, complaint, snapshot)).flatten();
        counters.injected.add(u64::from(answer.is_some()));
        answer.ok_or(None)
    }
}

impl<L: Link> Surroundings<'_, L> {
    /// A frame of our own with this IP packet in it, behind room for the Ethernet header.
    fn made(&mut self, hop: Hop, bytes: &[u8]) -> Option<Outbound<L::Frame>> {
        let port = self.snapshot.interface(hop.interface)?.port;
        let frame = self.links.get_mut(usize::from(port.0))?.allocate(bytes)?;
        self.counters.injected.add(1);
        Some(Outbound { frame, hop, length: (bytes.len() - ethernet::HEADER) as u16 })
    }
}

/// The segments of our own that take a packet's place, and the reason that it is counted under; `None` for a packet
/// that goes on itself.
#[inline]
fn answers<L: Link>(
    it: &mut Routed<'_, L::Frame>,
    surroundings: &mut Surroundings<'_, L>,
) -> Option<(Reason, reset::Segments)> {
    match it.towards {
        Towards::Reset(other_end) => {
            let segments = reset::both_ends(it, other_end, surroundings.snapshot);
            Some((Reason::ServerHalted, segments))
        }
        Towards::Challenged => {
            Some((Reason::Challenged, [proxy::challenge(it, surroundings), None]))
        }
        Towards::Proxied(place, proxied) => {
            Some((Reason::Proxied, proxy::segments(it, (place, proxied), surroundings)))
        }
        _ => None,
    }
}

/// Where a packet leaves to, and how much longer it becomes, in bytes.
#[inline]
fn way(towards: &Towards<'_>) -> (Option<Hop>, usize) {
    let to_server = |server: &Server| {
        let overhead = match server.mode {
            Mode::Tunnel { source, encapsulation } => tunnel::overhead(source, encapsulation),
            _ => 0,
        };
        (Some(server.hop), overhead)
    };
    match towards {
        Towards::Server(server) | Towards::Error(ErrorTowards::Server(server)) => to_server(server),
        Towards::Translated(translation) => (Some(translation.hop), 0),
        Towards::Onward(hop)
        | Towards::Paired { hop, .. }
        | Towards::Error(ErrorTowards::Translated { hop, .. }) => (Some(*hop), 0),
        Towards::Reset(_) | Towards::Challenged | Towards::Proxied(..) | Towards::Unreachable => {
            (None, 0)
        }
    }
}

/// Whether the packet must arrive whole or not at all: its sender says so (IPv4), or routers never
/// fragment (IPv6, outside or inside).
fn must_not_be_fragmented<F: Frame>(towards: &Towards<'_>, packet: &Packet, frame: &mut F) -> bool {
    let outside = match towards {
        Towards::Server(server) => match server.mode {
            Mode::Tunnel { source, .. } => source.family(),
            _ => Family::V4,
        },
        _ => Family::V4,
    };
    outside == Family::V6
        || !packet.flow.source.is_v4()
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
