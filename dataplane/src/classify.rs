//! Step 3: what a packet is to us. It belongs to a virtual service, or is a server's reply to be
//! translated back, or is a message for the control plane; anything else is dropped with a reason.
//!
//! Two more answers have their place here: transit for servers whose gateway we are, and the exception
//! port.

use crate::counters::{Counters, Reason};
use crate::frame::Burst;
use crate::parse::{Content, Packet, Parsed};
use crate::punt::Class;
use crate::snapshot::{Service, Snapshot};

/// A packet and what it belongs to.
pub struct Matched<'s, F> {
    /// The frame.
    pub frame: F,
    /// What was read from it.
    pub packet: Packet,
    /// What it belongs to.
    pub belongs: Belongs<'s>,
}

/// What a packet belongs to.
#[derive(Clone, Copy)]
pub enum Belongs<'s> {
    /// A client's packet for a virtual service.
    To(&'s Service),
    /// A packet from a server that replies through us.
    Reply,
}

/// Parts a burst into packets to forward and messages for the control plane.
pub fn services<'s, F>(
    mut parsed: Burst<Parsed<F>>,
    snapshot: &'s Snapshot,
    counters: &Counters,
    mut punt: impl FnMut(F, Class),
) -> Burst<Matched<'s, F>> {
    let mut matched = Burst::new();
    for Parsed { frame, content } in parsed.drain(..) {
        match answer(content, snapshot) {
            Answer::Forward(packet, belongs) => matched.push(Matched { frame, packet, belongs }),
            Answer::Punt(class) => punt(frame, class),
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

/// What is to be done with a packet, by `snapshot`.
#[inline]
pub fn answer(content: Content, snapshot: &Snapshot) -> Answer<'_> {
    match content {
        Content::Flow(packet) => of_flow(packet, snapshot),
        Content::Arp => Answer::Punt(Class::Arp),
        Content::Icmp { destination } if snapshot.locals.contains(&destination) => {
            Answer::Punt(Class::Icmp)
        }
        Content::Icmp { .. } => Answer::Drop(Reason::NotOurAddress),
    }
}

#[inline]
fn of_flow(packet: Packet, snapshot: &Snapshot) -> Answer<'_> {
    let flow = packet.flow;
    if let Some(service) =
        snapshot.services.at(flow.destination, flow.protocol, flow.destination_port)
    {
        return Answer::Forward(packet, Belongs::To(service));
    }
    if snapshot.locals.contains(&flow.destination) {
        return Answer::Drop(Reason::NoService);
    }
    if snapshot.services.may_reply(flow.source) {
        return Answer::Forward(packet, Belongs::Reply);
    }
    Answer::Drop(Reason::NotOurAddress)
}
