//! Step 3: what a packet is to us. It belongs to a virtual service, or comes back from a server to be
//! translated, or passes through us, or is a message for the control plane; anything else is dropped with
//! a reason.
//!
//! One more answer has its place here: the exception port.

use crate::counters::{Counters, Reason};
use crate::frame::Burst;
use crate::parse::{Content, Error, Packet, Parsed};
use crate::punt::Class;
use crate::snapshot::{InterfaceId, Protocol, Service, Snapshot};
use crate::wire::Address;

/// A packet and what it belongs to.
pub struct Matched<'s, F> {
    /// The frame.
    pub frame: F,
    /// The interface that it came in on.
    pub ingress: InterfaceId,
    /// What was read from it; for an error, the packet that it answers.
    pub packet: Packet,
    /// What it belongs to.
    pub belongs: Belongs<'s>,
    /// How many workers have looked at it before.
    pub handed: u8,
}

impl<F> Matched<'_, F> {
    /// As it was before this step, for another worker.
    pub fn for_another(self) -> Parsed<F> {
        let Self { frame, ingress, packet, belongs, handed } = self;
        let content = match belongs {
            Belongs::Error(error) => Content::Error(error),
            _ => Content::Flow(packet),
        };
        Parsed { frame, ingress, content, handed: handed.saturating_add(1) }
    }
}

/// What a packet belongs to.
#[derive(Clone, Copy)]
pub enum Belongs<'s> {
    /// A client's packet for a virtual service.
    To(&'s Service),
    /// A client's packet for a virtual address, on a port that a helper may have opened.
    Data,
    /// A packet that comes back to be translated, from a server or to one of our source addresses.
    Reply,
    /// A packet for the outside address of this station (NAT-02).
    Inward(Address),
    /// A packet that passes through us, translated or not.
    Through,
    /// An ICMP error about a packet that passed here.
    Error(Error),
}

/// Parts a burst into packets to forward and messages for the control plane.
pub fn services<'s, F>(
    mut parsed: Burst<Parsed<F>>,
    snapshot: &'s Snapshot,
    counters: &Counters,
    mut punt: impl FnMut(InterfaceId, F, Class),
) -> Burst<Matched<'s, F>> {
    let mut matched = Burst::new();
    for Parsed { frame, ingress, content, handed } in parsed.drain(..) {
        match answer(content, ingress, snapshot) {
            Answer::Forward(packet, belongs) => {
                matched.push(Matched { frame, ingress, packet, belongs, handed });
            }
            Answer::Punt(class) => punt(ingress, frame, class),
            Answer::Drop(reason) => counters.drop_one(reason),
        }
    }
    matched
}

/// What is to be done with a packet.
pub enum Answer<'s> {
    /// Look its server up.
    Forward(Packet, Belongs<'s>),
    /// Hand it to the control plane.
    Punt(Class),
    /// Drop it.
    Drop(Reason),
}

/// What is to be done with a packet that came in on `ingress`, by `snapshot`.
#[inline]
pub fn answer(content: Content, ingress: InterfaceId, snapshot: &Snapshot) -> Answer<'_> {
    match content {
        Content::Flow(packet) => of_flow(packet, ingress, snapshot),
        Content::Arp => Answer::Punt(Class::Arp),
        Content::Neighbour => Answer::Punt(Class::Neighbour),
        Content::Error(error) => of_error(error, ingress, snapshot),
        Content::Icmp { destination } if snapshot.locals.contains(&destination) => {
            Answer::Punt(Class::Icmp)
        }
        Content::Icmp { .. } => Answer::Drop(Reason::NotOurAddress),
        Content::Other(packet) => passing(packet, ingress, snapshot),
    }
}

#[inline]
fn of_flow(packet: Packet, ingress: InterfaceId, snapshot: &Snapshot) -> Answer<'_> {
    let flow = packet.flow;
    let services = &snapshot.services;
    if let Some(service) = services.at(flow.destination, flow.protocol, flow.destination_port) {
        return Answer::Forward(packet, Belongs::To(service));
    }
    if services.may_come_back_to(flow.destination, flow.destination_port) {
        return Answer::Forward(packet, Belongs::Reply);
    }
    if let Some(inside) = snapshot.nat.inside_of(flow.destination) {
        return Answer::Forward(packet, Belongs::Inward(inside));
    }
    if snapshot.locals.contains(&flow.destination) {
        return match flow.protocol {
            Protocol::Echo => Answer::Punt(Class::Icmp),
            Protocol::Tcp if services.have_helpers() => Answer::Forward(packet, Belongs::Data),
            _ => Answer::Drop(Reason::NoService),
        };
    }
    if services.may_reply(flow.source) {
        return Answer::Forward(packet, Belongs::Reply);
    }
    through(packet, ingress, snapshot)
}

/// A packet for somebody else: where we are a gateway it goes on, translated or not.
#[inline]
fn through(packet: Packet, ingress: InterfaceId, snapshot: &Snapshot) -> Answer<'_> {
    if passes(packet, ingress, snapshot) {
        Answer::Forward(packet, Belongs::Through)
    } else {
        Answer::Drop(Reason::NotOurAddress)
    }
}

/// Whether we forward packets from where this one comes, or to where it goes.
#[inline]
pub fn passes(packet: Packet, ingress: InterfaceId, snapshot: &Snapshot) -> bool {
    let is_gateway = |id| snapshot.interface(id).is_some_and(|interface| interface.gateway);
    is_gateway(ingress)
        || snapshot.nat.concerns(packet.flow.source)
        || (snapshot.has_gateway()
            && snapshot
                .routes
                .to(packet.flow.destination)
                .is_some_and(|to| is_gateway(to.interface)))
}

fn of_error(error: Error, ingress: InterfaceId, snapshot: &Snapshot) -> Answer<'_> {
    // The flow that the error is part of runs the other way than the packet it quotes.
    let packet = Packet {
        flow: error.quoted.reversed(),
        flags: Default::default(),
        answers: false,
        length: error.length,
        transport: 0,
        part: Default::default(),
    };
    let locals = &snapshot.locals;
    if locals.contains(&error.destination)
        || snapshot.services.may_reply(error.quoted.destination)
        || snapshot.services.may_reply(error.source)
    {
        return Answer::Forward(packet, Belongs::Error(error));
    }
    let own = Packet {
        flow: crate::parse::Flow {
            protocol: Protocol::Echo,
            source: error.source,
            source_port: 0,
            destination: error.destination,
            destination_port: 0,
        },
        ..packet
    };
    through(own, ingress, snapshot)
}

/// A packet of a protocol without ports: it can only pass through.
fn passing(packet: Packet, ingress: InterfaceId, snapshot: &Snapshot) -> Answer<'_> {
    if let Some(inside) = snapshot.nat.inside_of(packet.flow.destination) {
        return Answer::Forward(packet, Belongs::Inward(inside));
    }
    if snapshot.locals.contains(&packet.flow.destination) {
        return Answer::Drop(Reason::NotTcpOrUdp);
    }
    through(packet, ingress, snapshot)
}
