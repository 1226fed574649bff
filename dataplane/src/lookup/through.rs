//! Packets that pass through us as a router: stations behind us reach the outside, some of them with
//! another address (FEATURES 1.8).

use super::flow_table::{Direction, NewFlow, Place, Refused};
use super::{ErrorTowards, Fate, Refusal, Step, Towards, Translation, transport_is_right};
use crate::counters::Reason;
use crate::explain::Decision;
use crate::frame::Frame;
use crate::parse::{Error, Flow, Packet, Part};
use crate::punt::FlowState;
use crate::snapshot::{Protocol, ServerId, ServiceId, Timeouts};

impl<'s> Step<'_, 's> {
    /// A packet from a station behind us, or for one.
    pub(super) fn through(
        &mut self,
        packet: &Packet,
        frame: &mut impl Frame,
    ) -> Result<Towards<'s>, Fate> {
        let flow = packet.flow;
        self.may_come_from(flow.source)?;
        let Some(hop) = self.snapshot.hop_to(flow.destination) else {
            return Ok(Towards::Unreachable);
        };
        let nat = &self.snapshot.nat;
        // In this order, whatever the operator's (NAT-03).
        if let Some(source) = nat.outside_of(flow.source).filter(|_| hop.interface != self.ingress)
        {
            let destination = flow.destination;
            return Ok(Towards::Paired { source, destination, hop });
        }
        let Some(source) = nat.masquerade(flow.source, hop.interface) else {
            return Ok(Towards::Onward(hop));
        };
        let translatable = match flow.protocol {
            Protocol::Tcp | Protocol::Udp => true,
            Protocol::Echo => flow.source_port != 0 && packet.part == Part::Whole,
        };
        if !translatable {
            return Err(Reason::NotTcpOrUdp.into());
        }
        let known = self.memory.flows.find(self.near.hash, &flow, Direction::Original);
        let place = match known {
            Some(place) => {
                let state = self.memory.flows.state(place).state();
                let server = ServerId::NONE;
                self.memory.journal.note(|| Decision::KnownFlow { server, state });
                place
            }
            None => {
                if let Some(worker) = self.memory.flows.elsewhere(self.near.hash) {
                    return Err(Fate::HandOver(worker));
                }
                if !transport_is_right(packet, frame) {
                    return Err(Reason::BadTransportChecksum.into());
                }
                let state = match flow.protocol {
                    Protocol::Tcp => FlowState::HalfOpen,
                    Protocol::Udp | Protocol::Echo => FlowState::Datagrams,
                };
                let mut new = NewFlow {
                    original: flow,
                    server: (flow.destination, flow.destination_port),
                    source: (source, 0),
                    translated: true,
                    server_id: ServerId::NONE,
                    service: ServiceId::NONE,
                    state,
                    timeout: Timeouts::default().of(state),
                    length: packet.length,
                };
                self.memory.journal.note(|| Decision::NewFlow { in_mid_flow: false });
                let source = self.source(&new, &[source], hop);
                new.source = source.ok_or(Fate::Drop(Reason::NoSourcePort))?;
                let created =
                    self.memory.flows.create(&new, self.near.hash, self.now, self.counters);
                created.map_err(|refused| match Refusal::from(refused) {
                    Refusal::Table(Refused::Elsewhere(worker)) => Fate::HandOver(worker),
                    Refusal::Table(Refused::Full) => Fate::Drop(Reason::FlowTableFull),
                    Refusal::Table(Refused::Ambiguous) => Fate::Drop(Reason::AmbiguousFlow),
                    Refusal::NoPort => Fate::Drop(Reason::NoSourcePort),
                })?
            }
        };
        if known.is_some() {
            let Self { memory, now, counters, .. } = self;
            let timeouts = Timeouts::default;
            memory.flows.note(place, packet, Direction::Original, timeouts, *now, counters);
        }
        let reply = self.memory.flows.reply(place);
        Ok(Towards::Translated(Translation {
            source: (reply.destination, reply.destination_port),
            destination: (flow.destination, flow.destination_port),
            hop,
            flow: Some((place, Direction::Original)),
            ages: true,
        }))
    }

    /// An ICMP error about what came back to the flow at `place` of a station behind us.
    pub(super) fn masqueraded_error(
        &mut self,
        place: Place,
        error: Error,
    ) -> Result<Towards<'s>, Fate> {
        let Flow { source: remote, source_port, destination, destination_port, .. } =
            self.memory.flows.reply(place);
        let hop = self.snapshot.hop_to(error.destination).ok_or(Fate::Drop(Reason::NoRoute))?;
        Ok(Towards::Error(ErrorTowards::Translated {
            source: destination,
            destination: error.destination,
            quoted_source: (remote, source_port),
            quoted_destination: (destination, destination_port),
            hop,
        }))
    }

    /// A packet for the outside address of a station (NAT-02).
    pub(super) fn inward(&mut self, packet: &Packet) -> Result<Towards<'s>, Fate> {
        let source = packet.flow.source;
        self.may_come_from(source)?;
        let inside = self.snapshot.nat.inside_of(packet.flow.destination);
        let inside = inside.ok_or(Fate::Drop(Reason::NotOurAddress))?;
        let hop = self.snapshot.hop_to(inside).ok_or(Fate::Drop(Reason::NoRoute))?;
        Ok(Towards::Paired { source, destination: inside, hop })
    }
}
