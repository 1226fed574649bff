//! Step 4: flow to server. The server that the flow already has, or a fresh choice.

mod challenge;

pub mod expectations;

pub mod flow_table;

pub mod load;

pub mod persistence;

mod prefetch;

pub mod scheduler;

pub mod slab;

mod source;

mod through;

use std::sync::Arc;

use crate::classify::{self, Answer, Belongs, Matched, passes};
use crate::counters::{Counters, Reason};
use crate::defence::cookie::Cookies;
use crate::defence::limits::{Limit, Rates};
use crate::explain::{Decision, Journal};
use crate::frame::{Burst, Frame};
use crate::moment::Moment;
use crate::parse::{self, Content, Packet, Parsed, ip_packet};
use crate::punt::{Class, FlowState};
use crate::snapshot::{
    Admission, Hop, InterfaceId, Limits, Mode, Protocol, Scheduler, Server, ServerId, Service,
    ServiceId, Snapshot,
};
use crate::toeplitz::Spreading;
use crate::wire::{Address, Prefix, checksum};
use challenge::Entrance;
use flow_table::mark;
use flow_table::{Direction, FlowTable, Near, NewFlow, News, Place, Refused, WorkerId};
use load::Loads;
use persistence::{Persistence, Remembered, Share};
use scheduler::Schedules;

/// A packet and where it goes.
pub struct Routed<'s, F> {
    /// The frame.
    pub frame: F,
    /// What was read from it.
    pub packet: Packet,
    /// Where it goes.
    pub towards: Towards<'s>,
    /// The interface that it came in on.
    pub ingress: InterfaceId,
}

/// Where a packet goes.
///
/// The tag has a place of its own, in front: one in the gaps of the largest variant makes compilers copy
/// all around it, and processors wait for the pieces.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Towards<'s> {
    /// To a real server that has the virtual address too (DR, TUN).
    Server(&'s Server),
    /// On with other addresses and ports.
    Translated(Translation),
    /// On as it is, through us as a router.
    Onward(Hop),
    /// On with another source or destination address, through us as a router (NAT-02).
    Paired {
        /// Who it comes from.
        source: Address,
        /// Whom it goes to.
        destination: Address,
        /// The next station on the way.
        hop: Hop,
    },
    /// An ICMP error, to whom it concerns.
    Error(ErrorTowards<'s>),
    /// Its sender gets a RST, and so does the other end.
    Reset(Option<Translation>),
    /// Its sender gets a SYN cookie.
    Challenged,
    /// It is part of opening the connection at this place in its client's stead.
    Proxied(Place, Proxied),
    /// No route leads there, and its sender is told so.
    Unreachable,
}

/// What becomes of the addresses and ports of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Who it comes from then.
    pub source: (Address, u16),
    /// Whom it is for then.
    pub destination: (Address, u16),
    /// The next station on the way.
    pub hop: Hop,
    /// Where its flow is remembered, and which way it goes.
    pub flow: Option<(Place, Direction)>,
    /// Whether it passes us as a router, and so has one hop less to live.
    pub ages: bool,
}

/// How far a connection has come that we open in its client's stead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxied {
    /// The client has shown its cookie: the server gets a SYN.
    Opened,
    /// The server has accepted: it gets its acknowledgement, and the client may send.
    Accepted,
    /// The server has refused: the client is reset.
    Refused,
    /// The server speaks of another connection, and is reset.
    Mistaken,
}

/// What becomes of an ICMP error.
#[derive(Clone, Copy)]
pub enum ErrorTowards<'s> {
    /// To the server whose packet it quotes, as it is (DR, TUN).
    Server(&'s Server),
    /// To the sender of the packet it quotes, in words that one knows.
    Translated {
        /// Who complains: the complainer, or the virtual address for a server.
        source: Address,
        /// Whom it is for.
        destination: Address,
        /// Who sent the quoted packet, as that one knows it.
        quoted_source: (Address, u16),
        /// Whom the quoted packet was for, as that one knows it.
        quoted_destination: (Address, u16),
        /// The next station on the way.
        hop: Hop,
    },
}

/// What becomes of a packet that goes no further at this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is dropped.
    Drop(Reason),
    /// It is another worker's.
    HandOver(WorkerId),
    /// It is the control plane's.
    Punt(Class),
}

/// Who takes a packet that does not go on from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taker {
    /// The worker that has its flow.
    Colleague(WorkerId),
    /// The control plane.
    Control(Class),
}

impl From<Reason> for Fate {
    fn from(reason: Reason) -> Self {
        Self::Drop(reason)
    }
}

/// What a worker remembers about flows, clients and schedules.
pub struct Memory {
    /// The servers of known flows.
    pub flows: FlowTable,
    /// Where each service's schedule stands.
    pub schedules: Schedules,
    /// The servers that clients had before; shared by all workers.
    pub persistence: Arc<Persistence>,
    /// This worker's part of that table, to be kept clean.
    pub share: Share,
    /// How many connections the servers have.
    pub loads: Loads,
    /// How many new flows may come.
    pub rates: Rates,
    /// What SYN cookies are made with; the same on all workers.
    pub cookies: Cookies,
    /// By device: the queue that packets arrive at, where that can be computed.
    pub spreading: Vec<Option<Spreading>>,
    /// Which worker this is: the number of its queue on a device that has one for each.
    pub worker: WorkerId,
    /// How many workers there are.
    pub workers: u8,
    /// Numbers for source ports; anything but 0.
    pub random: u64,
    /// The next station on the way to the client that was answered last, and in which generation of the
    /// configuration that was so; [`NOWHERE_YET`] in the beginning.
    pub last_way_back: (u64, Hop),
    /// What a dry run notes.
    pub journal: Journal,
}

/// No way back has been looked for.
pub const NOWHERE_YET: (u64, Hop) =
    (u64::MAX, Hop { interface: InterfaceId(0), address: Address::from_bits(0), mac: None });

/// Asks for the buckets of a burst's flows, all of them, and then for the entries, so that the burst waits for
/// memory together; and once more for those few that may lie in their other bucket.
pub fn approach<F>(parsed: &mut Burst<Parsed<F>>, flows: &FlowTable) {
    for it in parsed.iter_mut() {
        flows.approach(&it.packet.flow, &mut it.near);
    }
    let mut spilled = false;
    for it in parsed.iter_mut() {
        spilled |= flows.come_nearer(&mut it.near);
    }
    if spilled {
        for it in parsed.iter_mut() {
            flows.come_round(&mut it.near);
        }
    }
}

/// Whether it needs no finding out whose a packet is: packets like it have been those of the flow that it is near to
/// since the configuration in force was published. Asks for what will be needed of the flow's server.
#[inline]
pub fn is_recognised(
    near: Near,
    packet: &Packet,
    snapshot: &Snapshot,
    flows: &FlowTable,
    counters: &Counters,
) -> bool {
    let Some(server) = flows.settled(near, &packet.flow) else { return false };
    if let Some(server) = snapshot.servers.get(server.slot()) {
        prefetch::prefetch(server);
    }
    prefetch::prefetch(counters.server(server));
    true
}

/// Finds the server of every packet in a burst and adds them to `routed`. What somebody else takes goes to `leave_to`.
pub fn servers<'s, F: Frame>(
    matched: &mut Burst<Matched<'s, F>>,
    routed: &mut Burst<Routed<'s, F>>,
    snapshot: &'s Snapshot,
    memory: &mut Memory,
    now: Moment,
    counters: &Counters,
    mut leave_to: impl FnMut(Taker, Matched<'s, F>),
) {
    let (ingress, handed, near) = (InterfaceId(0), 0, Near::NOT);
    let ended = memory.flows.ended();
    let mut step = Step { memory, snapshot, now, counters, ingress, handed, near, ended };
    for it in matched.drain(..) {
        let Matched { frame, packet, near, belongs, ingress, handed } = it;
        (step.ingress, step.handed, step.near) = (ingress, handed, near);
        // Decided where it stays, for the reason given in `parse`.
        routed.push(Routed { frame, packet, towards: Towards::Unreachable, ingress });
        let decided = routed.last_mut().map(|it| step.decide(belongs, it));
        let Some(Err(fate)) = decided else { continue };
        let undone = routed.pop();
        let taker = match fate {
            Fate::Drop(reason) => {
                counters.drop_one(reason);
                continue;
            }
            Fate::HandOver(worker) => Taker::Colleague(worker),
            Fate::Punt(class) => Taker::Control(class),
        };
        if let Some(Routed { frame, packet, .. }) = undone {
            leave_to(taker, Matched { frame, packet, near, belongs, ingress, handed });
        }
    }
}

/// How many servers are tried for a flow that one of them could not tell from another.
const TRIES: usize = 3;

/// One packet at this step, with all that decides about it.
struct Step<'m, 's> {
    memory: &'m mut Memory,
    snapshot: &'s Snapshot,
    now: Moment,
    counters: &'m Counters,
    ingress: InterfaceId,
    /// How many workers have looked at the packet before.
    handed: u8,
    /// How far the packet's flow has been looked for.
    near: Near,
    /// How many flows had ended before this burst.
    ended: u64,
}

impl<'s> Step<'_, 's> {
    /// Decides where a packet goes.
    #[inline]
    fn decide<F: Frame>(
        &mut self,
        belongs: Belongs<'s>,
        it: &mut Routed<'s, F>,
    ) -> Result<(), Fate> {
        let known = match belongs {
            Belongs::Known if self.ended == self.memory.flows.ended() => {
                let (place, direction) = self.memory.flows.nearest(self.near);
                match direction {
                    Direction::Original => self.known(place, None, &it.packet, &mut it.towards),
                    Direction::Reply => self.known_reply(place, it)?,
                }
            }
            Belongs::To(service) => self.for_service(service, it)?,
            Belongs::Reply => self.reply(it)?,
            _ => false,
        };
        if !known {
            it.towards = self.unknown(belongs, it)?;
        }
        Ok(())
    }

    /// What a packet belongs to whose flow was known when the burst came and may have ended since.
    #[cold]
    fn again<F: Frame>(&mut self, it: &mut Routed<'s, F>) -> Result<Towards<'s>, Fate> {
        let Routed { frame, packet, .. } = it;
        match classify::answer(Content::Flow, packet, frame, self.ingress, self.snapshot) {
            Answer::Forward(belongs) => {
                self.decide(belongs, it)?;
                Ok(it.towards)
            }
            Answer::Drop(reason) => Err(reason.into()),
            Answer::Punt(class) => Err(Fate::Punt(class)),
        }
    }

    #[inline]
    fn find(&self, flow: &crate::parse::Flow, direction: Direction) -> Option<Place> {
        self.memory.flows.find_near(self.near, flow, direction)
    }

    /// Where a packet goes whose flow this worker does not know, or that has none.
    #[inline(never)]
    fn unknown<F: Frame>(
        &mut self,
        belongs: Belongs<'s>,
        it: &mut Routed<'s, F>,
    ) -> Result<Towards<'s>, Fate> {
        let Routed { packet, frame, .. } = &mut *it;
        match belongs {
            Belongs::Known => self.again(it),
            Belongs::To(service) => match self.memory.flows.elsewhere(self.near.hash) {
                Some(worker) => Err(Fate::HandOver(worker)),
                None => self.new_flow(service, packet, frame),
            },
            Belongs::Reply => self.reply_unknown(packet, frame),
            Belongs::Data => self.data(packet, frame),
            Belongs::Inward => self.inward(packet),
            Belongs::Through => self.through(packet, frame),
            Belongs::Error => {
                // It came with the error's own ends, and has the flow's since `classify`.
                self.memory.flows.approach(&packet.flow, &mut self.near);
                self.error(packet, frame)
            }
        }
    }

    /// A client's packet for a service; `false` if its flow is not known here.
    #[inline]
    fn for_service<F: Frame>(
        &mut self,
        service: &'s Service,
        it: &mut Routed<'s, F>,
    ) -> Result<bool, Fate> {
        let known = self.find(&it.packet.flow, Direction::Original);
        let Some(place) = known else { return Ok(false) };
        if self.memory.flows.state(place).has(mark::PROXIED) {
            let towards = self.known_proxied(place, service, &it.packet, &mut it.frame)?;
            return Ok(towards.is_some_and(|towards| {
                it.towards = towards;
                true
            }));
        }
        let goes_on = self.known(place, Some(service.id), &it.packet, &mut it.towards);
        if goes_on {
            self.memory.flows.settle(place, Direction::Original);
        }
        Ok(goes_on)
    }

    /// Says where the flow at `place` goes; `false`, and the flow has ended, if it may not go on. It must be a flow
    /// of `service`, unless that is settled.
    #[inline(always)]
    fn known(
        &mut self,
        place: Place,
        service: Option<ServiceId>,
        packet: &Packet,
        towards: &mut Towards<'s>,
    ) -> bool {
        let Memory { flows, journal, .. } = &mut *self.memory;
        let state = flows.state(place);
        let opens_again = packet.flags.opens() && state.is(FlowState::Closing);
        let is_of_service = |it: &&Server| service.is_none_or(|service| it.service == service);
        let server = self.snapshot.server(state.server()).filter(is_of_service);
        let goes_on = |it: &&Server| !opens_again && it.admission != Admission::Halted;
        let Some(server) = server.filter(goes_on) else {
            return self.cut_off(place, server, packet, towards);
        };
        journal.note(|| Decision::KnownFlow { server: server.id, state: state.state() });
        let translated = state.translated();
        if !journal.is_open() {
            let (direction, now) = (Direction::Original, self.now);
            match state.changes_with(packet, direction) {
                None => state.note(packet, now),
                Some(next) => {
                    let timeouts = self.snapshot.services.timeouts(server.service);
                    let news = News { packet, direction, now };
                    flows.advance(place, next, news, &timeouts, self.counters);
                }
            }
        }
        count(server.id, packet, self.counters);
        *towards = match translated {
            true => Towards::Translated(self.translation(place, server)),
            false => Towards::Server(server),
        };
        true
    }

    /// What becomes of a packet whose flow may not go on: its server is gone or halted, or its client begins anew.
    #[cold]
    fn cut_off(
        &mut self,
        place: Place,
        server: Option<&'s Server>,
        packet: &Packet,
        towards: &mut Towards<'s>,
    ) -> bool {
        let state = *self.memory.flows.state(place);
        let (id, progress) = (state.server(), state.state());
        let opens_again = packet.flags.opens() && state.is(FlowState::Closing);
        let Some(server) = server.filter(|_| !opens_again) else {
            self.memory.journal.note(|| Decision::FlowEnds { server: id, opens_again });
            self.memory.flows.end(place, self.counters);
            return false;
        };
        self.memory.journal.note(|| Decision::KnownFlow { server: id, state: progress });
        let reset = packet.flow.protocol == Protocol::Tcp && !packet.flags.opens();
        let other_end = state.translated().then(|| self.translation(place, server));
        *towards = Towards::Reset(other_end);
        self.memory.flows.end(place, self.counters);
        reset
    }

    /// The way to a new flow's server.
    fn towards(&mut self, place: Place, server: &'s Server) -> Towards<'s> {
        match self.memory.flows.state(place).translated() {
            true => Towards::Translated(self.translation(place, server)),
            false => Towards::Server(server),
        }
    }

    /// The addresses and ports that the server of the flow at `place` is to see.
    #[inline]
    fn translation(&self, place: Place, server: &Server) -> Translation {
        let reply = self.memory.flows.reply(place);
        Translation {
            source: (reply.destination, reply.destination_port),
            destination: (reply.source, reply.source_port),
            hop: server.hop,
            flow: Some((place, Direction::Original)),
            ages: false,
        }
    }

    fn new_flow(
        &mut self,
        service: &'s Service,
        packet: &Packet,
        frame: &mut impl Frame,
    ) -> Result<Towards<'s>, Fate> {
        let flow = &packet.flow;
        let in_mid_flow = flow.protocol == Protocol::Tcp && !packet.flags.opens();
        self.memory.journal.note(|| Decision::NewFlow { in_mid_flow });
        self.may_come_from(flow.source)?;
        if service.options.ftp
            && let Some(towards) = self.announced(packet, frame)?
        {
            return Ok(towards);
        }
        if self.gets_a_page(service, packet) {
            self.memory.journal.note(|| Decision::Page);
            return Err(Fate::Punt(Class::Local));
        }
        if packet.flags.closes() {
            // The end of a connection that we forgot: nothing to remember.
            let server = self.agreed(service, packet)?;
            return self.without_memory(server, packet);
        }
        if !transport_is_right(packet, frame) {
            return Err(Reason::BadTransportChecksum.into());
        }
        if service.options.closed && !in_mid_flow {
            return Err(Reason::ServiceClosed.into());
        }
        let proof = match self.entrance(service, packet, frame)? {
            Entrance::Open => None,
            Entrance::Proven(proof) => Some(proof),
            Entrance::Decided(towards) => return Ok(towards),
        };
        let in_mid_flow = in_mid_flow && proof.is_none();
        if !in_mid_flow {
            self.within_rates(service, &service.limits, flow.source)?;
        }
        if service.scheduler == Scheduler::OnePacket {
            let server = self.scheduled(service, packet)?;
            return self.without_memory(server, packet);
        }
        for _ in 0..TRIES {
            let server = match in_mid_flow {
                true => self.agreed(service, packet)?,
                false => self.chosen(service, packet)?,
            };
            match self.remember(service, server, packet) {
                Ok(place) => {
                    count(server.id, packet, self.counters);
                    if in_mid_flow {
                        self.memory.flows.state(place).mark(mark::JUDGED);
                    }
                    if let Some(proof) = proof {
                        return self.opened(place, proof);
                    }
                    return Ok(self.towards(place, server));
                }
                Err(Refusal::Table(Refused::Ambiguous)) => {
                    self.memory.journal.note(|| Decision::Ambiguous { server: server.id });
                }
                Err(Refusal::Table(Refused::Elsewhere(worker))) => {
                    return Err(Fate::HandOver(worker));
                }
                Err(Refusal::Table(Refused::Full)) => {
                    // Every packet of the flow takes this way, so it must not depend on turns.
                    self.memory.journal.note(|| Decision::TableFull);
                    let server = self.agreed(service, packet)?;
                    return self.without_memory(server, packet);
                }
                Err(Refusal::NoPort) => return Err(Reason::NoSourcePort.into()),
            }
        }
        Err(Reason::AmbiguousFlow.into())
    }

    /// Whether no server takes the flow of a client's packet, but the control plane does, which has a page for it.
    fn gets_a_page(&mut self, service: &Service, packet: &Packet) -> bool {
        let Service { options, candidates, persistence, .. } = service;
        let has_page = options.page && !options.closed && packet.flow.protocol == Protocol::Tcp;
        let returns = |it: &mut Self| {
            persistence.is_some_and(|persistence| {
                it.had_before(service, &persistence, packet.flow.source).is_some()
            })
        };
        has_page && candidates.servers().is_empty() && !returns(self)
    }

    /// Whether a new flow may come from this address, on the interface that it came in on.
    fn may_come_from(&self, source: Address) -> Result<(), Fate> {
        // Somebody pretends to be us: the reply would come back here, and start again.
        if self.snapshot.locals.contains(&source) {
            return Err(Reason::BadSource.into());
        }
        if classify::comes_another_way(source, self.ingress, self.snapshot) {
            return Err(Reason::SpoofedSource.into());
        }
        Ok(())
    }

    fn within_rates(
        &mut self,
        service: &Service,
        limits: &Limits,
        client: Address,
    ) -> Result<(), Fate> {
        let slot = service.id.slot() as u16;
        let rates = &mut self.memory.rates;
        if limits.new_flows_per_client > 0 {
            let mask = if client.is_v4() { limits.client_mask_v4 } else { limits.client_mask_v6 };
            let limit = within_a_tenth(limits.new_flows_per_client);
            if !rates.network(slot, Prefix::new(client, mask), limit, self.now) {
                return Err(Reason::ClientRate.into());
            }
        }
        if !rates.service(slot, within_a_tenth(limits.new_flows), self.now) {
            return Err(Reason::NewFlowRate.into());
        }
        self.memory.journal.note(|| Decision::WithinLimits {
            new_flows: limits.new_flows,
            new_flows_per_client: limits.new_flows_per_client,
        });
        Ok(())
    }

    /// The server for a new flow: the one that the client had before, or the scheduler's choice.
    fn chosen(&mut self, service: &Service, packet: &Packet) -> Result<&'s Server, Fate> {
        let Some(persistence) = service.persistence else {
            return self.scheduled(service, packet);
        };
        let client = packet.flow.source;
        let mask = persistence.mask(client);
        let before = self.had_before(service, &persistence, client);
        let server = match before {
            Some(server) => server,
            None => {
                let known = self.known_host(&persistence, client);
                let was_known = known.is_some();
                self.memory.journal.note(|| Decision::NotPersistent { was_known });
                self.scheduled(service, packet)?
            }
        };
        if self.memory.journal.is_open() {
            self.memory.journal.host = Some(server.host.0);
            let returns = before.is_some();
            let timeout = persistence.timeout;
            self.memory.journal.note(|| Decision::Persistent {
                server: server.id,
                returns,
                timeout,
            });
            return Ok(server);
        }
        let remembered = self.memory.persistence.remember(
            persistence.group,
            client,
            mask,
            server.host.0,
            persistence.timeout,
            self.now,
        );
        let evicted = matches!(remembered, Remembered::Evicted | Remembered::Refused);
        self.counters.clients_evicted.add(u64::from(evicted));
        Ok(server)
    }

    /// The persistence key of the server that a client had before.
    fn known_host(
        &self,
        persistence: &crate::snapshot::Persistence,
        client: Address,
    ) -> Option<u32> {
        let Memory { persistence: table, journal, .. } = &*self.memory;
        let (group, mask) = (persistence.group, persistence.mask(client));
        if journal.is_open() {
            return journal.host.or(table.peek(group, client, mask, self.now));
        }
        table.find(group, client, mask, self.now)
    }

    /// The server that a client of the service had before, if it may have it again.
    fn had_before(
        &mut self,
        service: &Service,
        persistence: &crate::snapshot::Persistence,
        client: Address,
    ) -> Option<&'s Server> {
        let host = self.known_host(persistence, client)?;
        let loads = &mut self.memory.loads;
        let servers = service.host(crate::snapshot::Host(host));
        servers.filter_map(|id| self.snapshot.server(id)).find(|server| match server.admission {
            Admission::Open => loads.has_room(server),
            Admission::Draining => persistence.through_drain,
            Admission::Halted => false,
        })
    }

    /// The server for a packet that is decided without remembering anything: the one that the client had
    /// before, or the one that all workers and nodes agree on.
    fn agreed(&mut self, service: &Service, packet: &Packet) -> Result<&'s Server, Fate> {
        let before = service
            .persistence
            .and_then(|persistence| self.had_before(service, &persistence, packet.flow.source));
        let server = before.or_else(|| scheduler::agreed(service, &packet.flow, self.snapshot));
        let server = server.ok_or(Fate::Drop(Reason::NoServer))?;
        self.memory.journal.note(|| Decision::Agreed { server: server.id });
        Ok(server)
    }

    fn scheduled(&mut self, service: &Service, packet: &Packet) -> Result<&'s Server, Fate> {
        let Memory { schedules, loads, journal, .. } = self.memory;
        loads.refresh(service, self.now);
        let server = schedules.choose(service, &packet.flow, self.snapshot, loads)?;
        journal.note(|| Decision::Scheduled {
            server: server.id,
            scheduler: service.scheduler,
            weight: service.candidates.weight(server.id),
            candidates: service.candidates.servers().len() as u16,
        });
        Ok(server)
    }

    fn remember(
        &mut self,
        service: &Service,
        server: &Server,
        packet: &Packet,
    ) -> Result<Place, Refusal> {
        let flow = packet.flow;
        let state = match flow.protocol {
            // One packet in mid-flow proves as little as a SYN: a flood of either must give way.
            Protocol::Tcp => FlowState::HalfOpen,
            Protocol::Udp | Protocol::Echo => FlowState::Datagrams,
        };
        let target = |port: &Option<u16>| (server.address, port.unwrap_or(flow.destination_port));
        let client = (flow.source, flow.source_port);
        let mut new = NewFlow {
            original: flow,
            server: (flow.destination, flow.destination_port),
            source: client,
            translated: false,
            server_id: server.id,
            service: service.id,
            state,
            timeout: service.timeouts.of(state),
            length: packet.length,
        };
        match &server.mode {
            Mode::DirectReturn | Mode::Tunnel { .. } => {}
            Mode::Nat { port } => {
                (new.server, new.translated) = (target(port), true);
                // A server that is a client of its own service would answer itself directly (FWD-10).
                let behind =
                    service.options.hairpin && self.snapshot.services.may_reply(flow.source);
                if behind {
                    let own = self.snapshot.interface(server.hop.interface);
                    let own = own.and_then(|it| it.source_for(server.address));
                    let sources = own.as_slice();
                    new.source = self.source(&new, sources, server.hop).ok_or(Refusal::NoPort)?;
                }
            }
            Mode::Snat { port, sources } => {
                (new.server, new.translated) = (target(port), true);
                new.source = self.source(&new, sources, server.hop).ok_or(Refusal::NoPort)?;
            }
        }
        // Before and after, whoever chose the server: it may just have come below its minimum, and may be full
        // with this flow, and nobody may ask until that is different again (VS-15).
        self.memory.loads.has_room(server);
        let place = self.memory.flows.create(&new, self.near.hash, self.now, self.counters)?;
        self.memory.loads.has_room(server);
        self.memory.journal.note(|| Decision::Remembered { milliseconds: new.timeout });
        if service.options.ftp && flow.protocol == Protocol::Tcp && new.translated {
            self.memory.flows.state(place).mark(flow_table::mark::FTP);
        }
        Ok(place)
    }

    /// A packet that goes to `server` without a flow to remember the way back by.
    fn without_memory(&mut self, server: &'s Server, packet: &Packet) -> Result<Towards<'s>, Fate> {
        let flow = packet.flow;
        let towards = match &server.mode {
            Mode::DirectReturn | Mode::Tunnel { .. } => Towards::Server(server),
            // The end of a forgotten connection, or a datagram whose reply is known by its server.
            Mode::Nat { port } if packet.flags.closes() || is_one_packet(server, self.snapshot) => {
                Towards::Translated(Translation {
                    source: (flow.source, flow.source_port),
                    destination: (server.address, port.unwrap_or(flow.destination_port)),
                    hop: server.hop,
                    flow: None,
                    ages: false,
                })
            }
            Mode::Nat { .. } | Mode::Snat { .. } if packet.flags.closes() => {
                return Err(Reason::NoFlow.into());
            }
            Mode::Nat { .. } | Mode::Snat { .. } => return Err(Reason::FlowTableFull.into()),
        };
        if !packet.flags.closes() {
            self.counters.forwarded_without_flow.add(1);
        }
        self.memory.journal.note(|| Decision::NotRemembered);
        count(server.id, packet, self.counters);
        Ok(towards)
    }

    /// A packet that comes back from a server, or from somebody whom a server of ours talks to.
    /// `false` if its flow is not known here.
    #[inline]
    fn reply<F: Frame>(&mut self, it: &mut Routed<'s, F>) -> Result<bool, Fate> {
        let found = self.find(&it.packet.flow, Direction::Reply);
        let Some(place) = found else { return Ok(false) };
        let accepts = it.packet.flags.accepts();
        let idle = accepts.then(|| self.memory.flows.idle(place, self.now));
        let known = self.known_reply(place, it)?;
        if let Some(milliseconds) = idle {
            self.memory.flows.accepted(place, milliseconds, self.counters);
        }
        // Not those of stations behind us, nor of servers that we answer ourselves.
        if let Towards::Translated(Translation { ages: false, .. }) = it.towards {
            self.memory.flows.settle(place, Direction::Reply);
        }
        Ok(known)
    }

    /// Says where a reply of the flow at `place` goes.
    #[inline]
    fn known_reply<F: Frame>(
        &mut self,
        place: Place,
        it: &mut Routed<'s, F>,
    ) -> Result<bool, Fate> {
        let packet = &it.packet;
        let state = *self.memory.flows.state(place);
        let (id, progress) = (state.server(), state.state());
        self.memory.journal.note(|| Decision::KnownFlow { server: id, state: progress });
        let original = self.memory.flows.original(place);
        if state.server() != ServerId::NONE {
            let server =
                self.snapshot.server(state.server()).ok_or(Fate::Drop(Reason::ServerGone))?;
            if server.hop.interface != self.ingress {
                return Err(Reason::SpoofedSource.into());
            }
            if server.admission == Admission::Halted {
                it.towards = self.reset_reply(place, packet, original)?;
                return Ok(true);
            }
            if state.has(mark::PROXIED) {
                it.towards = self.answered(place, packet, &mut it.frame)?;
                return Ok(true);
            }
            let block = self.counters.server(server.id);
            block.reply_packets.add(1);
            block.reply_bytes.add(u64::from(packet.length));
        }
        let hop = self.way_back(original.source).ok_or(Fate::Drop(Reason::NoRoute))?;
        let Self { memory, now, counters, snapshot, .. } = self;
        let timeouts = || snapshot.services.timeouts(state.service());
        memory.flows.note(place, packet, Direction::Reply, timeouts, *now, counters);
        it.towards = Towards::Translated(Translation {
            source: (original.destination, original.destination_port),
            destination: (original.source, original.source_port),
            hop,
            flow: Some((place, Direction::Reply)),
            ages: state.server() == ServerId::NONE,
        });
        Ok(true)
    }

    /// The next station on the way to a client. Most clients are behind the same gateway.
    #[inline]
    fn way_back(&mut self, client: Address) -> Option<Hop> {
        let Step { snapshot, memory, .. } = self;
        let route = snapshot.routes.to(client)?;
        let next = route.via.unwrap_or(client);
        let (generation, last) = memory.last_way_back;
        if generation == snapshot.generation
            && (last.interface, last.address) == (route.interface, next)
        {
            return Some(last);
        }
        let hop = snapshot.hop(route.interface, next);
        memory.last_way_back = (snapshot.generation, hop);
        Some(hop)
    }

    fn reset_reply(
        &mut self,
        place: Place,
        packet: &Packet,
        original: crate::parse::Flow,
    ) -> Result<Towards<'s>, Fate> {
        let reset = packet.flow.protocol == Protocol::Tcp;
        let hop = self.snapshot.hop_to(original.source);
        self.memory.flows.end(place, self.counters);
        let other_end = hop.map(|hop| Translation {
            source: (original.destination, original.destination_port),
            destination: (original.source, original.source_port),
            hop,
            flow: None,
            ages: false,
        });
        if reset { Ok(Towards::Reset(other_end)) } else { Err(Reason::ServerHalted.into()) }
    }

    #[cold]
    fn reply_unknown(
        &mut self,
        packet: &Packet,
        frame: &mut impl Frame,
    ) -> Result<Towards<'s>, Fate> {
        let flow = packet.flow;
        if let Some(worker) = self.memory.flows.elsewhere(self.near.hash) {
            return Err(Fate::HandOver(worker));
        }
        if let Some(towards) = self.announced(packet, frame)? {
            return Ok(towards);
        }
        if self.snapshot.locals.contains(&flow.destination) {
            return Err(Reason::NoFlow.into());
        }
        let server = (flow.source, flow.source_port);
        if let Some(source) = self.snapshot.services.one_packet_reply(server, flow.protocol) {
            let hop = self.snapshot.hop_to(flow.destination).ok_or(Fate::Drop(Reason::NoRoute))?;
            return Ok(Towards::Translated(Translation {
                source,
                destination: (flow.destination, flow.destination_port),
                hop,
                flow: None,
                ages: false,
            }));
        }
        // A server of ours that opens a connection of its own.
        if passes(packet, self.ingress, self.snapshot) {
            return self.through(packet, frame);
        }
        Err(Reason::NoFlow.into())
    }

    /// An ICMP error: to the end of the flow that sent the quoted packet.
    fn error(&mut self, packet: &Packet, frame: &mut impl Frame) -> Result<Towards<'s>, Fate> {
        let flow = packet.flow;
        let error = parse::error(packet, frame).ok_or(Fate::Drop(Reason::UnrelatedError))?;
        let flows = &mut self.memory.flows;
        if let Some(place) = flows.find(self.near.hash, &flow, Direction::Original) {
            let (server, state) = (flows.state(place).server(), flows.state(place).state());
            self.memory.journal.note(|| Decision::KnownFlow { server, state });
            if server == ServerId::NONE {
                return self.masqueraded_error(place, error);
            }
            let server = self.snapshot.server(server).ok_or(Fate::Drop(Reason::ServerGone))?;
            if !flows.state(place).translated() {
                return Ok(Towards::Error(ErrorTowards::Server(server)));
            }
            let there = self.translation(place, server);
            // A server that knows us alone would not take it from a stranger, nor would routers on the way.
            let known = there.source.0 == flow.source;
            return Ok(Towards::Error(ErrorTowards::Translated {
                source: if known { error.source } else { there.source.0 },
                destination: there.destination.0,
                quoted_source: there.destination,
                quoted_destination: there.source,
                hop: there.hop,
            }));
        }
        if let Some(place) = flows.find(self.near.hash, &flow, Direction::Reply) {
            let original = flows.original(place);
            let (server, state) = (flows.state(place).server(), flows.state(place).state());
            self.memory.journal.note(|| Decision::KnownFlow { server, state });
            let by_server = error.source == flow.source;
            let hop = self.snapshot.hop_to(original.source).ok_or(Fate::Drop(Reason::NoRoute))?;
            return Ok(Towards::Error(ErrorTowards::Translated {
                source: if by_server { original.destination } else { error.source },
                destination: original.source,
                quoted_source: (original.source, original.source_port),
                quoted_destination: (original.destination, original.destination_port),
                hop,
            }));
        }
        if let Some(worker) = flows.elsewhere(self.near.hash) {
            return Err(Fate::HandOver(worker));
        }
        if classify::is_about_our_own(&error, self.snapshot) && self.service_of(&flow).is_none() {
            return Err(Fate::Punt(self.snapshot.answers.class(&flow)));
        }
        // In DR and TUN another worker may have the flow: each is asked in turn, and all agree on the
        // server of one that none has.
        if self.handed + 1 < self.memory.workers {
            let next = (self.memory.worker.0 + 1) % self.memory.workers;
            return Err(Fate::HandOver(WorkerId(next)));
        }
        let service = self.service_of(&flow);
        if service.is_some_and(|service| self.gets_a_page(service, packet)) {
            return Err(Fate::Punt(Class::Local));
        }
        let server = service
            .and_then(|service| scheduler::agreed(service, &flow, self.snapshot))
            .filter(|it| matches!(it.mode, Mode::DirectReturn | Mode::Tunnel { .. }))
            .ok_or(Fate::Drop(Reason::UnrelatedError))?;
        Ok(Towards::Error(ErrorTowards::Server(server)))
    }

    fn service_of(&self, flow: &crate::parse::Flow) -> Option<&'s Service> {
        self.snapshot.services.at(flow.destination, flow.protocol, flow.destination_port)
    }
}

/// Why a flow could not be remembered.
enum Refusal {
    Table(Refused),
    NoPort,
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self::Table(refused)
    }
}

/// A rate a second, of which a tenth may come at once.
fn within_a_tenth(rate: u32) -> Limit {
    Limit { rate, burst: (rate / 10).max(1) }
}

/// Whether a server's replies are known by their source alone.
fn is_one_packet(server: &Server, snapshot: &Snapshot) -> bool {
    let service = snapshot.services.service(server.service);
    service.is_some_and(|service| service.scheduler == Scheduler::OnePacket)
}

/// Whether the checksum of a whole packet that would begin a flow is right; of a fragment nobody can say.
fn transport_is_right(packet: &Packet, frame: &mut impl Frame) -> bool {
    if packet.part != crate::parse::Part::Whole || packet.flow.protocol == Protocol::Echo {
        return true;
    }
    let (from, to) = (usize::from(packet.transport), usize::from(packet.length));
    let Some(segment) = ip_packet(frame).get(from..to) else { return false };
    let flow = &packet.flow;
    checksum::transport_is_right(flow.source, flow.destination, flow.protocol as u8, segment)
}

#[inline]
fn count(server: ServerId, packet: &Packet, counters: &Counters) {
    let block = counters.server(server);
    block.packets.add(1);
    block.bytes.add(u64::from(packet.length));
}
