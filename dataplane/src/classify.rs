//! Step 3: what a packet is to us. It belongs to a virtual service, or comes back from a server to be
//! translated, or passes through us, or is a message for the control plane; anything else is dropped with
//! a reason.
//!
//! One more answer has its place here: the exception port.

use crate::counters::{Counters, Reason};
use crate::frame::{BURST, Burst, Frame};
use crate::lookup::flow_table::Near;
use crate::parse::{self, Content, Flow, Packet, Parsed};
use crate::punt::Class;
use crate::snapshot::{InterfaceId, Protocol, Service, Snapshot, TRANSLATED_PORTS};
use crate::wire::Address;

/// A packet and what it belongs to.
pub struct Matched<'s, F> {
    /// The frame.
    pub frame: F,
    /// What was read from it; for an error, the packet that it answers.
    pub packet: Packet,
    /// How far its flow has been looked for.
    pub near: Near,
    /// What it belongs to.
    pub belongs: Belongs<'s>,
    /// The interface that it came in on.
    pub ingress: InterfaceId,
    /// How many workers have looked at it before.
    pub handed: u8,
}

impl<F: Frame> Matched<'_, F> {
    /// As it was before this step, for another worker.
    pub fn for_another(self) -> Parsed<F> {
        let Self { mut frame, mut packet, belongs, ingress, handed, .. } = self;
        let content = match belongs {
            Belongs::Error => Content::Error,
            _ => Content::Flow,
        };
        if let Some(error) = parse::error(&packet, &mut frame).filter(|_| content == Content::Error)
        {
            packet.flow = own_flow(&error);
        }
        let handed = handed.saturating_add(1);
        Parsed { frame, packet, near: Near::NOT, content, ingress, handed }
    }
}

/// What a packet belongs to.
#[derive(Clone, Copy)]
pub enum Belongs<'s> {
    /// A packet of the flow that it is near to, and which has been looked at.
    Known,
    /// A client's packet for a virtual service.
    To(&'s Service),
    /// A client's packet for a virtual address, on a port that a helper may have opened.
    Data,
    /// A packet that comes back to be translated, from a server or to one of our source addresses.
    Reply,
    /// A packet for the outside address of a station (NAT-02).
    Inward,
    /// A packet that passes through us, translated or not.
    Through,
    /// An ICMP error about a packet that passed here.
    Error,
}

/// Parts a burst into packets to forward, which are added to `matched`, and messages for the control plane.
/// What `is_recognised` need not be looked at.
pub fn services<'s, F: Frame>(
    parsed: &mut Burst<Parsed<F>>,
    matched: &mut Burst<Matched<'s, F>>,
    snapshot: &'s Snapshot,
    counters: &Counters,
    mut is_recognised: impl FnMut(Near, &Packet) -> bool,
    mut punt: impl FnMut(InterfaceId, F, Class),
) {
    let mut answers = [Answer::Forward(Belongs::Known); BURST];
    for (it, to) in parsed.iter_mut().zip(&mut answers) {
        if !is_recognised(it.near, &it.packet) {
            *to = answer(it.content, &mut it.packet, &mut it.frame, it.ingress, snapshot);
        }
    }
    for (it, &answer) in parsed.drain(..).zip(&answers) {
        let Parsed { frame, packet, near, ingress, handed, .. } = it;
        match answer {
            Answer::Forward(belongs) => {
                matched.push(Matched { frame, packet, near, belongs, ingress, handed });
            }
            Answer::Punt(class) => punt(ingress, frame, class),
            Answer::Drop(reason) => counters.drop_one(reason),
        }
    }
}

/// What is to be done with a packet.
#[derive(Clone, Copy)]
pub enum Answer<'s> {
    /// Look its server up.
    Forward(Belongs<'s>),
    /// Hand it to the control plane.
    Punt(Class),
    /// Drop it.
    Drop(Reason),
}

/// What is to be done with a packet that came in on `ingress`, by `snapshot`. An error about a flow of ours is
/// a packet of that flow from here on.
#[inline]
pub fn answer<'s>(
    content: Content,
    packet: &mut Packet,
    frame: &mut impl Frame,
    ingress: InterfaceId,
    snapshot: &'s Snapshot,
) -> Answer<'s> {
    match content {
        Content::Flow => of_flow(packet, ingress, snapshot),
        Content::Arp => Answer::Punt(Class::Arp),
        Content::Neighbour => Answer::Punt(Class::Neighbour),
        Content::Error => of_error(packet, frame, ingress, snapshot),
        Content::Icmp if snapshot.locals.contains(&packet.flow.destination) => {
            Answer::Punt(Class::Icmp)
        }
        Content::Icmp => Answer::Drop(Reason::NotOurAddress),
        Content::Other => passing(packet, ingress, snapshot),
    }
}

#[inline]
fn of_flow<'s>(packet: &Packet, ingress: InterfaceId, snapshot: &'s Snapshot) -> Answer<'s> {
    let flow = packet.flow;
    let services = &snapshot.services;
    if let Some(service) = services.at(flow.destination, flow.protocol, flow.destination_port) {
        return Answer::Forward(Belongs::To(service));
    }
    if services.may_come_back_to(flow.destination, flow.destination_port) {
        return Answer::Forward(Belongs::Reply);
    }
    if snapshot.nat.inside_of(flow.destination).is_some() {
        return Answer::Forward(Belongs::Inward);
    }
    if snapshot.locals.contains(&flow.destination) {
        return at_our_address(packet, ingress, snapshot);
    }
    if services.may_reply(flow.source) {
        return Answer::Forward(Belongs::Reply);
    }
    through(packet, ingress, snapshot)
}

/// A packet for an address of ours, but for no service, and no reply to be translated.
#[inline(never)]
fn at_our_address<'s>(packet: &Packet, ingress: InterfaceId, snapshot: &'s Snapshot) -> Answer<'s> {
    match packet.flow.protocol {
        Protocol::Echo if packet.answers && snapshot.own.contains(&packet.flow.destination) => {
            Answer::Punt(snapshot.answers.class(&packet.flow))
        }
        Protocol::Echo => Answer::Punt(Class::Icmp),
        Protocol::Tcp if snapshot.services.have_helpers() => Answer::Forward(Belongs::Data),
        _ => match unclaimed(packet, ingress, snapshot) {
            Ok(class) => Answer::Punt(class),
            Err(reason) => Answer::Drop(reason),
        },
    }
}

/// Who gets a packet for an address of ours that nothing else claims: the control plane, if it is for our own
/// address and a port that no translated flow leaves with.
///
/// # Errors
/// The reason why it is to be dropped.
pub fn unclaimed(
    packet: &Packet,
    ingress: InterfaceId,
    snapshot: &Snapshot,
) -> Result<Class, Reason> {
    let Flow { source, destination, destination_port, .. } = packet.flow;
    if destination_port >= *TRANSLATED_PORTS.start() || !snapshot.own.contains(&destination) {
        return Err(Reason::NoService);
    }
    if snapshot.own.contains(&source) {
        return Err(Reason::BadSource);
    }
    // A server that has a virtual address too answers with it when it is asked there (HC-17).
    if !snapshot.locals.contains(&source) && comes_another_way(source, ingress, snapshot) {
        return Err(Reason::SpoofedSource);
    }
    Ok(snapshot.answers.class(&packet.flow))
}

/// Whether a packet with this source ought to have come in elsewhere: it is from a subnet of another interface.
pub fn comes_another_way(source: Address, ingress: InterfaceId, snapshot: &Snapshot) -> bool {
    let connected = snapshot.routes.to(source).filter(|route| route.via.is_none());
    connected.is_some_and(|route| route.interface != ingress)
}

/// Who gets an ICMP error about a packet of no flow: the control plane, if it has sent that packet itself.
pub fn is_about_our_own(error: &parse::Error, snapshot: &Snapshot) -> bool {
    let Flow { source, source_port, .. } = error.quoted;
    error.destination == source
        && snapshot.own.contains(&source)
        && source_port < *TRANSLATED_PORTS.start()
}

/// A packet for somebody else: where we are a gateway it goes on, translated or not.
#[inline]
fn through<'s>(packet: &Packet, ingress: InterfaceId, snapshot: &'s Snapshot) -> Answer<'s> {
    if passes(packet, ingress, snapshot) {
        Answer::Forward(Belongs::Through)
    } else {
        Answer::Drop(Reason::NotOurAddress)
    }
}

/// Whether we forward packets from where this one comes, or to where it goes.
#[inline]
pub fn passes(packet: &Packet, ingress: InterfaceId, snapshot: &Snapshot) -> bool {
    let is_gateway = |id| snapshot.interface(id).is_some_and(|interface| interface.gateway);
    is_gateway(ingress)
        || snapshot.nat.concerns(packet.flow.source)
        || (snapshot.has_gateway()
            && snapshot
                .routes
                .to(packet.flow.destination)
                .is_some_and(|to| is_gateway(to.interface)))
}

fn of_error<'s>(
    packet: &mut Packet,
    frame: &mut impl Frame,
    ingress: InterfaceId,
    snapshot: &'s Snapshot,
) -> Answer<'s> {
    let Some(error) = parse::error(packet, frame) else {
        return Answer::Drop(Reason::UnrelatedError);
    };
    let (locals, nat) = (&snapshot.locals, &snapshot.nat);
    if nat.inside_of(error.destination).is_some() {
        return Answer::Forward(Belongs::Inward);
    }
    // Of a station that leaves with our address, the packet that it complains about came to that.
    let is_masqueraded = || {
        nat.outside_of(error.source).is_none()
            && snapshot
                .routes
                .to(error.destination)
                .is_some_and(|to| nat.masquerade(error.source, to.interface).is_some())
    };
    if locals.contains(&error.destination)
        || snapshot.services.may_reply(error.quoted.destination)
        || snapshot.services.may_reply(error.source)
        || is_masqueraded()
    {
        // The flow that the error is part of runs the other way than the packet it quotes.
        packet.flow = error.quoted.reversed();
        return Answer::Forward(Belongs::Error);
    }
    through(packet, ingress, snapshot)
}

/// The ends of the error itself.
fn own_flow(error: &parse::Error) -> Flow {
    Flow {
        protocol: Protocol::Echo,
        source: error.source,
        source_port: 0,
        destination: error.destination,
        destination_port: 0,
    }
}

/// A packet of a protocol without ports: it can only pass through.
fn passing<'s>(packet: &Packet, ingress: InterfaceId, snapshot: &'s Snapshot) -> Answer<'s> {
    if snapshot.nat.inside_of(packet.flow.destination).is_some() {
        return Answer::Forward(Belongs::Inward);
    }
    if snapshot.locals.contains(&packet.flow.destination) {
        return Answer::Drop(Reason::NotTcpOrUdp);
    }
    through(packet, ingress, snapshot)
}
