//! Floods of SYNs (FW-08). A service that has as many half-open flows as it may remembers no more of them:
//!
//! - DR and TUN: the hash that all agree on chooses the server, and nothing is remembered.
//! - NAT and SNAT need a flow, so the client must first show that it can receive at its address. Its SYN is
//!   answered with a cookie ([`crate::defence::cookie`]); the acknowledgement that brings it back is enough
//!   to open the connection to a server in the client's stead ([`crate::rewrite`]). When the server has
//!   answered, the two streams are joined by [`crate::rewrite::sequence`].
//!
//! While the server has not answered, the client has no room to send into, so that nothing has to be kept for it; its
//! probes make us ask the server again.

use super::flow_table::{Direction, Place};
use super::{Fate, Proxied, Step, Towards, scheduler};
use crate::counters::Reason;
use crate::defence::cookie::Ends;
use crate::explain::Decision;
use crate::frame::Frame;
use crate::parse::{Packet, Part, ip_packet};
use crate::rewrite::sequence::Begun;
use crate::snapshot::{Admission, Mode, Protocol, Server, Service};
use crate::wire::tcp::Tcp;

/// How a packet that belongs to no flow is let in.
pub(super) enum Entrance<'s> {
    /// As at any other time.
    Open,
    /// Its sender has shown a cookie.
    Proven(Begun),
    /// It goes there, and no flow begins.
    Decided(Towards<'s>),
}

/// The numbers of a segment.
struct Numbers {
    sequence: u32,
    acknowledgement: u32,
    window: u16,
}

impl Numbers {
    fn of(packet: &Packet, frame: &mut impl Frame) -> Option<Self> {
        if packet.part == Part::Later {
            return None;
        }
        let segment = ip_packet(frame).get_mut(usize::from(packet.transport)..)?;
        let tcp = Tcp::split(segment).ok()?;
        let (sequence, acknowledgement) = (tcp.sequence(), tcp.acknowledgement());
        Some(Self { sequence, acknowledgement, window: tcp.window() })
    }
}

/// Whether packets to this server need a flow for the way back.
fn translates(server: &Server) -> bool {
    matches!(server.mode, Mode::Nat { .. } | Mode::Snat { .. })
}

impl<'s> Step<'_, 's> {
    /// How a packet for `service` that belongs to no flow is let in.
    #[inline]
    pub(super) fn entrance(
        &mut self,
        service: &'s Service,
        packet: &Packet,
        frame: &mut impl Frame,
    ) -> Result<Entrance<'s>, Fate> {
        let most = service.limits.half_open;
        if packet.flow.protocol != Protocol::Tcp || most == 0 {
            return Ok(Entrance::Open);
        }
        let flows = &mut self.memory.flows;
        let flooded = flows.half_open(service.id) >= most;
        if !flooded && !flows.was_flooded(service.id, self.now) {
            return Ok(Entrance::Open);
        }
        self.entrance_under_flood(service, packet, frame, flooded)
    }

    #[cold]
    fn entrance_under_flood(
        &mut self,
        service: &'s Service,
        packet: &Packet,
        frame: &mut impl Frame,
        flooded: bool,
    ) -> Result<Entrance<'s>, Fate> {
        let opens = packet.flags.opens();
        if flooded {
            self.memory.flows.note_flood(service.id, self.now);
            self.memory.journal.note(|| Decision::Flooded { most: service.limits.half_open });
        } else if opens {
            return Ok(Entrance::Open);
        }
        let server = scheduler::agreed(service, &packet.flow, self.snapshot);
        let server = server.ok_or(Fate::Drop(Reason::NoServer))?;
        match (translates(server), flooded) {
            (false, false) => Ok(Entrance::Open),
            (false, true) => {
                if opens {
                    self.within_rates(service, &service.limits, packet.flow.source)?;
                }
                // Every packet of the flow takes this way until the flood is over.
                let server = self.agreed(service, packet)?;
                self.without_memory(server, packet).map(Entrance::Decided)
            }
            // Not counted against any rate: its source may be anybody's.
            (true, true) if opens => Ok(Entrance::Decided(Towards::Challenged)),
            (true, _) => match self.proof(packet, frame) {
                Some(begun) => Ok(Entrance::Proven(begun)),
                None if flooded => Err(Reason::BadCookie.into()),
                // A connection that another node or an earlier process knew (see DESIGN.md, flows and cores).
                None => Ok(Entrance::Open),
            },
        }
    }

    /// What the cookie says that an acknowledgement brings back.
    fn proof(&self, packet: &Packet, frame: &mut impl Frame) -> Option<Begun> {
        let flow = &packet.flow;
        let ends = Ends {
            client: (flow.source, flow.source_port),
            service: (flow.destination, flow.destination_port),
        };
        if !packet.flags.acknowledges() || packet.flags.synchronises() {
            return None;
        }
        let Numbers { sequence, acknowledgement, window } = Numbers::of(packet, frame)?;
        // A probe of our window has the number before (RFC 9293 section 3.8.6.1 leaves that open).
        [sequence, sequence.wrapping_add(1)].into_iter().find_map(|first| {
            let mss = self.memory.cookies.verify(&ends, acknowledgement, first, self.now)?;
            let (ours, theirs) = (acknowledgement.wrapping_sub(1), first.wrapping_sub(1));
            Some(Begun { ours, theirs, window, mss })
        })
    }

    /// The flow at `place` was remembered for a client that has shown its cookie.
    pub(super) fn opened(&mut self, place: Place, begun: Begun) -> Result<Towards<'s>, Fate> {
        if !self.memory.flows.begin(place, begun) {
            self.memory.flows.end(place, self.counters);
            return Err(Reason::NotAdjustable.into());
        }
        self.counters.cookies_accepted.add(1);
        Ok(Towards::Proxied(place, Proxied::Opened))
    }

    /// A client's packet of a flow whose server has not answered yet; `None`, and the flow has ended, if it
    /// begins another.
    #[cold]
    pub(super) fn known_proxied(
        &mut self,
        place: Place,
        service: &'s Service,
        packet: &Packet,
        frame: &mut impl Frame,
    ) -> Result<Option<Towards<'s>>, Fate> {
        if packet.flags.opens() {
            self.memory.flows.end(place, self.counters);
            return Ok(None);
        }
        let server = self.memory.flows.state(place).server();
        let server = self.snapshot.server(server).filter(|it| it.service == service.id);
        let goes_on = server.is_some_and(|server| server.admission != Admission::Halted);
        if !goes_on || packet.flags.resets() {
            let mut towards = Towards::Unreachable;
            let goes_on = self.known(place, Some(service.id), packet, &mut towards);
            return Ok(goes_on.then_some(towards));
        }
        let begun = self.memory.flows.adjustments.begun(place.number()).unwrap_or_default();
        let numbers = Numbers::of(packet, frame).ok_or(Fate::Drop(Reason::Malformed))?;
        let is_expected = numbers.acknowledgement == begun.ours.wrapping_add(1)
            && numbers.sequence.wrapping_sub(begun.theirs) <= 1;
        if !is_expected || !packet.flags.acknowledges() || packet.flags.synchronises() {
            return Err(Reason::BadCookie.into());
        }
        self.memory.flows.note_repeated(place, packet, self.now);
        Ok(Some(Towards::Proxied(place, Proxied::Opened)))
    }

    /// What a server says that was sent a SYN in a client's stead.
    #[cold]
    pub(super) fn answered(
        &mut self,
        place: Place,
        packet: &Packet,
        frame: &mut impl Frame,
    ) -> Result<Towards<'s>, Fate> {
        let flows = &mut self.memory.flows;
        let begun = flows.adjustments.begun(place.number()).unwrap_or_default();
        let numbers = Numbers::of(packet, frame).ok_or(Fate::Drop(Reason::Malformed))?;
        let answers =
            packet.flags.acknowledges() && numbers.acknowledgement == begun.theirs.wrapping_add(1);
        let resets = packet.flags.resets();
        if !answers {
            // RFC 9293 section 3.10.7.3: a reset of something else means nothing, anything else is reset.
            return if resets {
                Err(Reason::NoFlow.into())
            } else {
                Ok(Towards::Proxied(place, Proxied::Mistaken))
            };
        }
        if !resets && !packet.flags.accepts() {
            return Err(Reason::NoFlow.into());
        }
        let service = flows.state(place).service();
        let timeouts = self.snapshot.services.service(service).map(|service| service.timeouts);
        let timeouts = timeouts.unwrap_or_default();
        let (now, counters) = (self.now, self.counters);
        flows.note(place, packet, Direction::Reply, || timeouts, now, counters);
        if resets {
            return Ok(Towards::Proxied(place, Proxied::Refused));
        }
        flows.join(place, begun.ours, numbers.sequence);
        Ok(Towards::Proxied(place, Proxied::Accepted))
    }
}
