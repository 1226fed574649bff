//! Data connections that an FTP control connection has announced (VS-06, NAT-05), until somebody opens them. One
//! worker's own small table; so that the others can hand over a packet that opens one, its key is in the
//! directory of flows too.
//!
//! - A key says who connects and to where; the port that it comes from is not known before. So the key
//!   is a flow from port 0.
//! - What was announced once more is expected under the port that it had before, because a segment that is sent
//!   again must get the same text. Ports are therefore not drawn at random, but from a keyed hash.
//! - A data connection has the client's point of view, whoever opens it: its replies come from the server. So
//!   translation, timeouts and counters know nothing of helpers.

use std::time::Duration;

use super::flow_table::{self, Direction, FlowTable, NewFlow, Place, Refused};
use super::{Fate, Memory, Step, Towards, Translation, count, transport_is_right};
use crate::classify;
use crate::counters::Reason;
use crate::explain::Decision;
use crate::frame::Frame;
use crate::hash::place;
use crate::moment::Moment;
use crate::parse::{Flow, Packet, Part};
use crate::punt::FlowState;
use crate::rewrite::ftp::Announcement;
use crate::snapshot::{
    Admission, InterfaceId, Protocol, ServerId, Service, ServiceId, Snapshot, TRANSLATED_PORTS,
};
use crate::wire::Address;

/// How long a data connection is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many a worker waits for.
const CAPACITY: usize = 4_096;
/// Places in which one may be remembered.
const WAYS: usize = 8;
/// Places whose time is looked at in one turn.
const SWEPT: usize = 8;
/// Ports that are tried for one announcement.
const TRIES: u16 = 16;

/// A data connection that is expected. The ports that are not known yet are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expectation {
    /// Who opens it: [`Direction::Original`] for the client.
    pub opener: Direction,
    /// The control connection that announced it.
    pub control: Place,
    /// The control connection's service.
    pub service: ServiceId,
    /// The server that has the control connection.
    pub server: ServerId,
    /// The client's end.
    pub client: (Address, u16),
    /// The end that the client knows; of a connection that the server opens, with the port it best comes from.
    pub virtual_end: (Address, u16),
    /// The server's end.
    pub server_end: (Address, u16),
    /// The end that the server knows: the client's, unless that is translated too.
    pub source: (Address, u16),
}

impl Expectation {
    /// The flow that opens it, from port 0.
    pub fn key(&self) -> Flow {
        let (from, to) = match self.opener {
            Direction::Original => (self.client.0, self.virtual_end),
            Direction::Reply => (self.server_end.0, self.source),
        };
        key(from, to)
    }

    /// What the end that opens it is told.
    fn told(&self) -> (Address, u16) {
        match self.opener {
            Direction::Original => self.virtual_end,
            Direction::Reply => self.source,
        }
    }

    /// Whether both were announced in the same words by the same connection.
    fn was_announced_as(&self, other: &Self) -> bool {
        let words = |it: &Self| (it.control, it.opener, it.client, it.server_end);
        words(self) == words(other)
    }
}

fn key(from: Address, to: (Address, u16)) -> Flow {
    Flow {
        protocol: Protocol::Tcp,
        source: from,
        source_port: 0,
        destination: to.0,
        destination_port: to.1,
    }
}

/// One place of the table.
#[derive(Clone, Copy)]
struct Awaited {
    it: Expectation,
    since: Moment,
    /// Remembered only in case it is announced again.
    used: bool,
}

/// What a worker waits for.
pub struct Expectations {
    places: Box<[Option<Awaited>]>,
    taken: usize,
    hand: usize,
}

impl Default for Expectations {
    fn default() -> Self {
        Self { places: vec![None; CAPACITY].into(), taken: 0, hand: 0 }
    }
}

impl Expectations {
    /// The places where a key may be.
    fn ways(&mut self, hash: u64) -> &mut [Option<Awaited>] {
        let first = place(hash as u32, CAPACITY / WAYS) * WAYS;
        self.places.get_mut(first..first + WAYS).unwrap_or_default()
    }

    fn find(&mut self, hash: u64, key: &Flow) -> Option<&mut Awaited> {
        if self.taken == 0 {
            return None;
        }
        self.ways(hash).iter_mut().flatten().find(|awaited| awaited.it.key() == *key)
    }

    /// Puts one in that is not there; `false` if there is no room.
    fn insert(&mut self, hash: u64, awaited: Awaited) -> bool {
        let free = self.ways(hash).iter_mut().find(|place| place.is_none());
        let inserted = free.map(|place| *place = Some(awaited)).is_some();
        self.taken += usize::from(inserted);
        inserted
    }

    /// The next whose time is over, among the few whose turn it is.
    fn next_expired(&mut self, now: Moment) -> Option<Awaited> {
        for _ in 0..if self.taken == 0 { 0 } else { SWEPT } {
            self.hand = if self.hand + 1 < self.places.len() { self.hand + 1 } else { 0 };
            let place = self.places.get_mut(self.hand)?;
            if let Some(awaited) = place.take_if(|it| now.since(it.since) >= PATIENCE) {
                self.taken -= 1;
                return Some(awaited);
            }
        }
        None
    }
}

/// How an expectation was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noted {
    Yes,
    /// Another one with this key is waited for.
    Taken,
    NoRoom,
}

impl FlowTable {
    /// Waits for a data connection, under its key alone.
    fn expect(&mut self, it: Expectation, now: Moment) -> Noted {
        let key = it.key();
        let hash = self.hash(&key);
        if let Some(awaited) = self.expectations.find(hash, &key) {
            let over = awaited.used || now.since(awaited.since) >= PATIENCE;
            if !over && !awaited.it.was_announced_as(&it) {
                return Noted::Taken;
            }
        }
        if self.rehearses() {
            return if self.elsewhere(hash).is_none() { Noted::Yes } else { Noted::Taken };
        }
        if !self.list_key(hash) {
            return Noted::Taken; // another worker waits for it
        }
        let awaited = Awaited { it, since: now, used: false };
        if let Some(before) = self.expectations.find(hash, &key) {
            *before = awaited;
        } else if !self.expectations.insert(hash, awaited) {
            self.unlist_key(hash);
            return Noted::NoRoom;
        }
        Noted::Yes
    }

    /// Whether `it` was announced before, under the same key.
    fn expected_before(&mut self, it: &Expectation) -> bool {
        let key = it.key();
        let hash = self.hash(&key);
        self.expectations.find(hash, &key).is_some_and(|before| before.it.was_announced_as(it))
    }

    /// What this packet, which opens a connection, was expected as.
    fn expected(&mut self, hash: u64, key: &Flow, now: Moment) -> Option<Expectation> {
        let awaited = self.expectations.find(hash, key)?;
        let good = !awaited.used && now.since(awaited.since) < PATIENCE;
        good.then_some(awaited.it)
    }

    /// What was expected has come.
    fn fulfil(&mut self, hash: u64, key: &Flow) {
        if self.rehearses() {
            return;
        }
        if let Some(awaited) = self.expectations.find(hash, key) {
            awaited.used = true;
            self.unlist_key(hash);
        }
    }

    /// Gives up what has been waited for too long.
    pub(super) fn expire_expectations(&mut self, now: Moment) {
        while let Some(awaited) = self.expectations.next_expired(now) {
            if !awaited.used {
                let hash = self.hash(&awaited.it.key());
                self.unlist_key(hash);
            }
        }
    }
}

/// What becomes of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It stays as it is.
    Followed,
    /// It is not followed, and stays as it is.
    Refused,
    /// The other end is told this address and port.
    Say(Address, u16),
    /// There is no room, or no port.
    NoRoom,
}

impl Memory {
    /// Expects the data connection that `announcement` announces on the control connection at `control`, which it
    /// passes in `direction`.
    pub(crate) fn hear(
        &mut self,
        announcement: &Announcement,
        (control, direction): (Place, Direction),
        snapshot: &Snapshot,
        now: Moment,
    ) -> Heard {
        let (original, reply) = (self.flows.original(control), self.flows.reply(control));
        let state = self.flows.state(control);
        let mut it = Expectation {
            opener: direction.other(),
            control,
            service: state.service(),
            server: state.server(),
            client: (original.source, 0),
            virtual_end: (original.destination, 0),
            server_end: (reply.source, 0),
            source: (reply.destination, 0),
        };
        let own = match direction {
            Direction::Original => [original.source; 2],
            // Servers that know of us announce the virtual address themselves.
            Direction::Reply => [reply.source, original.destination],
        };
        if announcement.address.is_some_and(|address| !own.contains(&address)) {
            return Heard::Refused;
        }
        match direction {
            Direction::Original => {
                it.client.1 = announcement.port;
                // What FTP servers connect from (RFC 959 section 3.2).
                it.virtual_end.1 = original.destination_port.wrapping_sub(1).max(1);
                if it.source.0 == it.client.0 {
                    it.source.1 = it.client.1;
                    return match self.flows.expect(it, now) {
                        Noted::Yes => Heard::Followed,
                        Noted::Taken | Noted::NoRoom => Heard::NoRoom,
                    };
                }
                let from = reply.source_port.wrapping_sub(1);
                let set = |it: &mut Expectation, port| it.source.1 = port;
                self.expect_at(it, None, now, set, |flows, it| {
                    flows.is_unique(&Flow { source_port: from, ..it.key() })
                })
            }
            Direction::Reply => {
                it.server_end.1 = announcement.port;
                let set = |it: &mut Expectation, port| it.virtual_end.1 = port;
                self.expect_at(it, Some(announcement.port), now, set, |_, it| {
                    may_open(snapshot, it.service, it.virtual_end)
                })
            }
        }
    }

    /// Expects `it` at the port that it had before, or else at the first of `first` and a few others that is free.
    fn expect_at(
        &mut self,
        it: Expectation,
        first: Option<u16>,
        now: Moment,
        set: impl Fn(&mut Expectation, u16),
        is_free: impl Fn(&FlowTable, &Expectation) -> bool,
    ) -> Heard {
        for again in [true, false] {
            for attempt in 0..TRIES {
                let mut it = it;
                let port = self.port(&it, first, attempt);
                set(&mut it, port);
                let flows = &mut self.flows;
                let good = if again { flows.expected_before(&it) } else { is_free(flows, &it) };
                if !good {
                    continue;
                }
                match flows.expect(it, now) {
                    Noted::Yes => return Heard::Say(it.told().0, it.told().1),
                    Noted::Taken => {}
                    Noted::NoRoom => return Heard::NoRoom,
                }
            }
        }
        Heard::NoRoom
    }

    /// A port for a data connection: the same one at the same attempt, if the announcement is the same.
    fn port(&self, it: &Expectation, first: Option<u16>, attempt: u16) -> u16 {
        if let (Some(first), 0) = (first, attempt) {
            return first;
        }
        let words = Flow {
            source_port: it.client.1 ^ it.server_end.1,
            ..key(it.client.0, (it.server_end.0, attempt))
        };
        let drawn = self.flows.hash(&words) as u16;
        // From here on, packets to an address that translated flows leave with are replies.
        let lowest = *TRANSLATED_PORTS.start();
        match it.opener {
            Direction::Original => 1_024 + drawn % (lowest - 1_024),
            Direction::Reply => lowest + drawn % (u16::MAX - lowest + 1),
        }
    }
}

/// Whether a client's packets to this port of a virtual address find their way to a data connection of `service`.
fn may_open(snapshot: &Snapshot, service: ServiceId, (address, port): (Address, u16)) -> bool {
    let services = &snapshot.services;
    let published = services.at(address, Protocol::Tcp, port);
    published.is_none_or(|it| it.id == service) && !services.may_come_back_to(address, port)
}

impl<'s> Step<'_, 's> {
    /// A packet for a port of a virtual address that only a helper can have opened.
    #[cold]
    pub(super) fn data(
        &mut self,
        packet: &Packet,
        frame: &mut impl Frame,
    ) -> Result<Towards<'s>, Fate> {
        let flows = &mut self.memory.flows;
        if let Some(place) = flows.find(self.near.hash, &packet.flow, Direction::Original) {
            let service = flows.state(place).service();
            let service = self.snapshot.services.service(service);
            let service = service.ok_or(Fate::Drop(Reason::ServerGone))?;
            let mut towards = Towards::Unreachable;
            if self.known(place, Some(service.id), packet, &mut towards) {
                return Ok(towards);
            }
        }
        if let Some(worker) = self.memory.flows.elsewhere(self.near.hash) {
            return Err(Fate::HandOver(worker));
        }
        if let Some(towards) = self.announced(packet, frame)? {
            return Ok(towards);
        }
        Err(Fate::Punt(classify::unclaimed(packet, self.ingress, self.snapshot)?))
    }

    /// Where a packet goes that opens a connection which was announced; `None` if none was.
    pub(super) fn announced(
        &mut self,
        packet: &Packet,
        frame: &mut impl Frame,
    ) -> Result<Option<Towards<'s>>, Fate> {
        let flow = packet.flow;
        let opens = flow.protocol == Protocol::Tcp && packet.flags.opens();
        if !opens || packet.part != Part::Whole || !self.snapshot.services.have_helpers() {
            return Ok(None);
        }
        let key = key(flow.source, (flow.destination, flow.destination_port));
        let hash = self.memory.flows.hash(&key);
        let Some(it) = self.memory.flows.expected(hash, &key, self.now) else {
            return match self.memory.flows.elsewhere(hash) {
                Some(worker) => Err(Fate::HandOver(worker)),
                None => Ok(None),
            };
        };
        if !transport_is_right(packet, frame) {
            return Err(Reason::BadTransportChecksum.into());
        }
        let services = &self.snapshot.services;
        let service = services.service(it.service).ok_or(Fate::Drop(Reason::ServerGone))?;
        let server = self.snapshot.server(it.server).ok_or(Fate::Drop(Reason::ServerGone))?;
        self.memory.journal.note(|| Decision::Announced { server: server.id });
        if server.admission == Admission::Halted {
            return Err(Reason::ServerHalted.into());
        }
        let towards = match it.opener {
            Direction::Original => {
                self.may_come_from(flow.source)?;
                let place = self.opened_by_client(it, service, packet)?;
                count(server.id, packet, self.counters);
                self.towards(place, server)
            }
            Direction::Reply => {
                self.may_come_on(server.hop.interface)?;
                let place = self.opened_by_server(it, service, packet)?;
                let block = self.counters.server(server.id);
                block.reply_packets.add(1);
                block.reply_bytes.add(u64::from(packet.length));
                let original = self.memory.flows.original(place);
                let hop = self.snapshot.hop_to(original.source);
                Towards::Translated(Translation {
                    source: (original.destination, original.destination_port),
                    destination: (original.source, original.source_port),
                    hop: hop.ok_or(Fate::Drop(Reason::NoRoute))?,
                    flow: Some((place, Direction::Reply)),
                    ages: false,
                })
            }
        };
        self.memory.flows.fulfil(hash, &key);
        Ok(Some(towards))
    }

    fn may_come_on(&self, interface: InterfaceId) -> Result<(), Fate> {
        if interface == self.ingress { Ok(()) } else { Err(Reason::SpoofedSource.into()) }
    }

    fn opened_by_client(
        &mut self,
        it: Expectation,
        service: &Service,
        packet: &Packet,
    ) -> Result<Place, Fate> {
        let client = (it.client.0, packet.flow.source_port);
        let mut new = new_flow(&it, service, packet, client, it.virtual_end);
        if it.source.0 == it.client.0 {
            new.source = client;
        } else {
            // The same address as the control connection's: some servers insist on that.
            let hop = self.snapshot.server(it.server).ok_or(Fate::Drop(Reason::ServerGone))?.hop;
            let source = self.source(&new, &[it.source.0], hop);
            new.source = source.ok_or(Fate::Drop(Reason::NoSourcePort))?;
        }
        self.remember_data(&new, self.near.hash)
    }

    fn opened_by_server(
        &mut self,
        mut it: Expectation,
        service: &Service,
        packet: &Packet,
    ) -> Result<Place, Fate> {
        it.server_end.1 = packet.flow.source_port;
        for port in [it.virtual_end.1, packet.flow.source_port] {
            let virtual_end = (it.virtual_end.0, port);
            let mut new = new_flow(&it, service, packet, it.client, virtual_end);
            new.source = it.source;
            let hash = self.memory.flows.hash(&new.original);
            if !may_open(self.snapshot, service.id, virtual_end) {
                continue;
            }
            if let Some(before) = self.memory.flows.find(hash, &new.original, Direction::Original) {
                if self.memory.flows.state(before).state() != Some(FlowState::Closing) {
                    continue;
                }
                self.memory.flows.end(before, self.counters);
            }
            match self.remember_data(&new, hash) {
                Err(Fate::HandOver(_)) => {} // another worker's connection has this port
                Err(fate) => return Err(fate),
                Ok(place) => {
                    // It is the client that has to answer.
                    self.memory.flows.state(place).mark(flow_table::mark::JUDGED);
                    return Ok(place);
                }
            }
        }
        Err(Reason::AmbiguousFlow.into())
    }

    fn remember_data(&mut self, new: &NewFlow, hash: u64) -> Result<Place, Fate> {
        let created = self.memory.flows.create(new, hash, self.now, self.counters);
        created.map_err(|refused| match refused {
            Refused::Elsewhere(worker) => Fate::HandOver(worker),
            Refused::Full => Reason::FlowTableFull.into(),
            Refused::Ambiguous => Reason::AmbiguousFlow.into(),
        })
    }
}

/// A data connection as the flow table remembers it, but for its source.
fn new_flow(
    it: &Expectation,
    service: &Service,
    packet: &Packet,
    client: (Address, u16),
    virtual_end: (Address, u16),
) -> NewFlow {
    NewFlow {
        original: Flow { source_port: client.1, ..key(client.0, virtual_end) },
        server: it.server_end,
        source: it.source,
        translated: true,
        server_id: it.server,
        service: it.service,
        state: FlowState::HalfOpen,
        timeout: service.timeouts.of(FlowState::HalfOpen),
        length: packet.length,
    }
}
