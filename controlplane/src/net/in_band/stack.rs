//! The stack: packets in, time, packets out. Whoever turns it calls [`Stack::receive`] and [`Stack::turn`] and takes what
//! [`Stack::next_packet`] gives; tasks hold streams, sockets and listeners, and are woken when there is news for them.
//!
//! Everything is behind one mutex, which is held for moments only, never across an `await`, and never while a task is
//! woken: wakers are collected under the lock and woken behind it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use dataplane::moment::Moment;
use dataplane::punt::answers::{Answers, Awaited};
use dataplane::punt::limit::TokenBucket;
use dataplane::snapshot::{InterfaceId, Protocol};
use dataplane::wire::{Address, protocol};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::connections::{Connection, ListenerKey, Listening};
use super::conversations::{Asking, Conversation};
use super::engine::{Engine, Outgoing};
use super::packet::{self, Ends, Message, Packet, Quoted, Trouble, Useless};
use super::paths::{Path, Paths};
use super::secrets::Secrets;
use super::time_wait::TimeWait;
use crate::net::Way;

/// Source ports of what we open. Translation takes those from 16384 on, so that replies to either are told apart.
pub const PORTS: std::ops::RangeInclusive<u16> = 1_024..=16_383;
/// Connections that one turn looks after; the others wait for the next.
const BUDGET: usize = 512;
/// How often a source port is drawn before there counts as being none.
const DRAWS: usize = 512;
/// Answers to packets that nobody waits for: so many a second, and so many at once.
const REFUSALS: (u32, u32) = (1_000, 100);

/// What happened in the stack, since the start; and what is there now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StackStats {
    /// Packets for our own addresses that came in.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
    /// Connections now, with those that are being opened.
    pub connections: u64,
    /// Connections that wait for a client's last word before they can be accepted, now.
    pub half_open: u64,
    /// Connections that are over and remembered for a while, now.
    pub time_wait: u64,
    /// UDP sockets now.
    pub udp_sockets: u64,
    /// Connections opened by us.
    pub opened: u64,
    /// Connections that clients have opened.
    pub accepted: u64,
    /// Packets that are damaged or not whole.
    pub malformed: u64,
    /// Fragments: they are not put together.
    pub fragments: u64,
    /// Packets that are not for us, or from an address that nobody can have.
    pub not_ours: u64,
    /// Packets of a protocol that the stack does not speak.
    pub other_protocol: u64,
    /// Segments and datagrams that nobody waits for.
    pub nobody_waits: u64,
    /// Of those, answered.
    pub refused: u64,
    /// Attempts to connect that found the list of those who wait to be accepted full.
    pub backlog_full: u64,
    /// Clients answered with a cookie, because too many half-open connections were remembered.
    pub challenged: u64,
    /// Connections and sockets that found no room, or no free port.
    pub no_room: u64,
    /// Packets that no route leads back to.
    pub no_route: u64,
    /// Datagrams lost because their socket did not take them in time.
    pub datagrams_dropped: u64,
    /// Packets lost because too many waited to be sent.
    pub queue_full: u64,
    /// Errors about packets that we have not sent, or that change nothing.
    pub errors_ignored: u64,
    /// Errors about packets of ours that somebody was told of.
    pub errors_told: u64,
    /// Packets lost because a station on the way did not say where it is.
    pub no_neighbour: u64,
}

/// Why a conversation came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Both ends have said all.
    Done,
    /// The other end does not want it, or no longer; or somebody on the way says that it cannot be.
    Failed(ErrorKind),
}

impl Ending {
    /// For whoever still wants to talk.
    pub fn error(self) -> Error {
        match self {
            Self::Done => ErrorKind::BrokenPipe.into(),
            Self::Failed(kind) => kind.into(),
        }
    }
}

impl From<Trouble> for ErrorKind {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Port => Self::ConnectionRefused,
            Trouble::Host => Self::HostUnreachable,
            Trouble::Network => Self::NetworkUnreachable,
            Trouble::TooLong => Self::InvalidInput,
        }
    }
}

/// A handle on the stack; all clones are the same one.
#[derive(Clone)]
pub struct Stack(Arc<Mutex<Inner>>);

/// Tells connections, sockets and questions apart; in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u64);

/// How many stations are remembered as reached until somebody asks.
const MOST_REACHED: usize = 64;

/// What is behind the lock.
pub struct Inner {
    pub(super) now: Moment,
    /// Stations that are proved to be there.
    reached: Vec<(InterfaceId, Address)>,
    pub(super) paths: Arc<Paths>,
    pub(super) secrets: Secrets,
    /// What workers are told of conversations.
    answers: Answers,
    pub(super) engine: Engine,
    pub(super) connections: HashMap<Id, Connection>,
    /// How many of those clients have opened where we listen on all our addresses, and where on one.
    pub(super) accepted: usize,
    pub(super) accepted_at_one: usize,
    /// When a client was last given a cookie.
    pub(super) challenged: Option<Moment>,
    /// Those that nobody holds any more, the oldest first.
    pub(super) orphans: BTreeSet<Id>,
    /// Those that packets may belong to.
    pub(super) segments: HashMap<Ends, Id>,
    pub(super) time_wait: TimeWait,
    pub(super) listeners: BTreeMap<ListenerKey, Listening>,
    /// Connections that have something to say, perhaps.
    pub(super) dirty: VecDeque<Id>,
    /// Connections that have to be looked at then.
    pub(super) deadlines: BTreeSet<(Moment, Id)>,
    pub(super) conversations: HashMap<Id, Conversation>,
    pub(super) datagrams: HashMap<Ends, Id>,
    /// By our address, the other and the identifier, which stands for both ports.
    pub(super) asking: HashMap<Ends, Asking>,
    /// Questions that have not been sent.
    pub(super) to_ask: VecDeque<Ends>,
    pub(super) refusals: TokenBucket,
    pub(super) stats: StackStats,
    /// To be woken once the lock is open.
    pub(super) woken: Vec<Waker>,
    last: u64,
}

impl Stack {
    /// A stack that knows no way anywhere; `seed` is known to nobody.
    pub fn new(seed: [u8; 16]) -> Self {
        let mut secrets = Secrets::new(seed);
        let answers = Answers::new([secrets.draw(), secrets.draw()]);
        let inner = Inner {
            now: Moment::START,
            reached: Vec::new(),
            paths: Arc::default(),
            secrets,
            answers,
            engine: Engine::default(),
            connections: HashMap::new(),
            accepted: 0,
            accepted_at_one: 0,
            challenged: None,
            orphans: BTreeSet::new(),
            segments: HashMap::new(),
            time_wait: TimeWait::default(),
            listeners: BTreeMap::new(),
            dirty: VecDeque::new(),
            deadlines: BTreeSet::new(),
            conversations: HashMap::new(),
            datagrams: HashMap::new(),
            asking: HashMap::new(),
            to_ask: VecDeque::new(),
            refusals: TokenBucket::new(REFUSALS),
            stats: StackStats::default(),
            woken: Vec::new(),
            last: 0,
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Takes up the addresses and routes of another configuration. Conversations from addresses that are no longer ours
    /// come to an end.
    pub fn configure(&self, paths: Arc<Paths>) {
        self.with(|inner| inner.configure(paths));
    }

    /// Which packets for our addresses belong to conversations that are under way: those that we have begun, and those
    /// that a client has begun as soon as it is proved to be there.
    pub fn answers(&self) -> Answers {
        self.with(|inner| inner.answers.clone())
    }

    /// Takes in a packet for one of our addresses, from its IP header on.
    pub fn receive(&self, now: Moment, packet: &[u8]) {
        self.with(|inner| inner.receive(now, packet));
    }

    /// The next stations of which the packets since the last call show that what we send gets through them (RFC 4861
    /// section 7.3.1).
    pub fn take_reached(&self) -> Vec<(InterfaceId, Address)> {
        self.with(|inner| std::mem::take(&mut inner.reached))
    }

    /// Does what is due: sends, sends again, gives up.
    pub fn turn(&self, now: Moment) {
        self.with(|inner| inner.turn(now));
    }

    /// The next packet to be sent.
    pub fn next_packet(&self) -> Option<Outgoing> {
        self.with(|inner| {
            let next = inner.engine.outbox.pop()?;
            inner.stats.sent += 1;
            Some(next)
        })
    }

    /// A packet could not be delivered to the next station.
    pub fn undeliverable(&self, packet: &[u8]) {
        self.with(|inner| {
            inner.stats.no_neighbour += 1;
            inner.troubled(Trouble::Host, packet);
        });
    }

    /// What happened so far.
    pub fn stats(&self) -> StackStats {
        self.with(|inner| inner.stats())
    }

    /// Does something under the lock, and wakes behind it whoever there is news for.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let (answer, woken) = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = work(&mut inner);
            (answer, std::mem::take(&mut inner.woken))
        };
        woken.into_iter().for_each(Waker::wake);
        answer
    }
}

impl Inner {
    fn configure(&mut self, paths: Arc<Paths>) {
        self.paths = paths;
        let is_lost =
            |ends: &Ends| !self.paths.is_own(ends.local.ip()) && !self.is_listened_at(ends.local);
        let lost = |map: &HashMap<Ends, Id>| -> Vec<Id> {
            map.iter().filter(|(ends, _)| is_lost(ends)).map(|(_, &id)| id).collect()
        };
        let (connections, conversations) = (lost(&self.segments), lost(&self.datagrams));
        let asking: Vec<_> = self.asking.keys().copied().filter(is_lost).collect();
        let ending = Ending::Failed(ErrorKind::AddrNotAvailable);
        connections.into_iter().for_each(|id| self.finish(id, ending));
        for id in conversations {
            self.tell_conversation(id, ErrorKind::AddrNotAvailable);
        }
        for ends in asking {
            self.tell_asking(&ends, ErrorKind::AddrNotAvailable);
        }
    }

    /// Something that we sent has been answered.
    pub(super) fn reaches(&mut self, to: IpAddr, way: Way) {
        let path = self.paths.path(to, way).filter(|_| self.reached.len() < MOST_REACHED);
        self.reached.extend(path.map(|path| (path.interface, path.hop)));
    }

    fn receive(&mut self, now: Moment, bytes: &[u8]) {
        self.now = now;
        self.stats.received += 1;
        let packet = match Packet::read(bytes) {
            Ok(packet) => packet,
            Err(Useless::Malformed) => return self.stats.malformed += 1,
            Err(Useless::Fragment) => return self.stats.fragments += 1,
            Err(Useless::Nobody) => return self.stats.not_ours += 1,
        };
        // One from ourselves to ourselves is forged: those would not leave.
        let is_to_us = self.paths.is_own(packet.destination) || self.is_for_listener(&packet);
        if !is_to_us || self.paths.is_own(packet.source) {
            return self.stats.not_ours += 1;
        }
        let is_ours = match packet.protocol {
            protocol::TCP | protocol::UDP => true,
            protocol::ICMP => packet.source.is_ipv4(),
            protocol::ICMPV6 => packet.source.is_ipv6(),
            _ => false,
        };
        if !is_ours {
            return self.stats.other_protocol += 1;
        }
        if !packet.transport_is_right() {
            return self.stats.malformed += 1;
        }
        match packet.protocol {
            protocol::TCP => self.segment(&packet),
            protocol::UDP => self.datagram(&packet),
            _ => self.message(&packet),
        }
    }

    /// Whether somebody listens at exactly this address, which may be a virtual one, and port.
    fn is_for_listener(&self, packet: &Packet<'_>) -> bool {
        let port = packet.payload.get(2..4).map(|port| u16::from_be_bytes([port[0], port[1]]));
        packet.protocol == protocol::TCP
            && port.is_some_and(|port| self.is_listened_at((packet.destination, port).into()))
    }

    fn message(&mut self, packet: &Packet<'_>) {
        match Message::read(packet) {
            Message::EchoReply(echo) => self.answered(packet, &echo),
            Message::Error(trouble, quote) => self.troubled(trouble, quote),
            Message::Other => self.stats.other_protocol += 1,
        }
    }

    /// Somebody says that a packet of ours could not be delivered, and quotes it. Who has not seen it cannot know its
    /// ends and numbers.
    fn troubled(&mut self, trouble: Trouble, quote: &[u8]) {
        let told = Quoted::read(quote).is_some_and(|quoted| match quoted.protocol {
            protocol::TCP => self.segment_lost(trouble, &quoted),
            protocol::UDP => self.datagram_lost(trouble, &quoted),
            protocol::ICMP | protocol::ICMPV6 => self.question_lost(trouble, &quoted),
            _ => false,
        });
        if told {
            self.stats.errors_told += 1;
        } else {
            self.stats.errors_ignored += 1;
        }
    }

    fn turn(&mut self, now: Moment) {
        self.now = now;
        self.ask();
        let mut left = BUDGET;
        while left > 0
            && let Some(id) = self.dirty.pop_front()
        {
            left -= 1;
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.is_dirty = false;
                self.advance(id);
            }
        }
        while left > 0
            && let Some(&(due, id)) = self.deadlines.first()
            && due <= now
        {
            left -= 1;
            self.deadlines.pop_first();
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.due = None;
                self.advance(id);
            }
        }
        self.time_wait.expire(now);
    }

    fn stats(&self) -> StackStats {
        let half_open = self.listeners.values().map(|listening| listening.half_open.len() as u64);
        StackStats {
            connections: self.segments.len() as u64,
            half_open: half_open.sum(),
            time_wait: self.time_wait.len() as u64,
            udp_sockets: self.conversations.len() as u64,
            ..self.stats
        }
    }

    /// How packets get to `to`.
    pub(super) fn path(&mut self, to: IpAddr, way: Way) -> Result<Path, Error> {
        let found = self.paths.path(to, way).filter(|_| !self.paths.is_own(to));
        found.ok_or_else(|| {
            self.stats.no_route += 1;
            ErrorKind::NetworkUnreachable.into()
        })
    }

    /// Ends from `local` to `remote` with a port of ours that nobody can guess and `is_free`.
    pub(super) fn ends(
        &mut self,
        local: IpAddr,
        remote: (IpAddr, u16),
        is_free: impl Fn(&Self, &Ends) -> bool,
    ) -> Result<Ends, Error> {
        for _ in 0..DRAWS {
            let offset = self.secrets.draw() % PORTS.len() as u64;
            let port = *PORTS.start() + offset as u16;
            let ends = Ends::new((local, port), remote);
            if !self.is_taken(&ends.local) && is_free(self, &ends) {
                return Ok(ends);
            }
        }
        Err(self.no_room())
    }

    /// There are too many already.
    pub(super) fn no_room(&mut self) -> Error {
        self.stats.no_room += 1;
        ErrorKind::AddrInUse.into()
    }

    pub(super) fn next_id(&mut self) -> Id {
        self.last += 1;
        Id(self.last)
    }

    /// Tells the workers that a conversation is under way, until what this gives is dropped.
    pub(super) fn awaited(&self, protocol: Protocol, ends: &Ends) -> Awaited {
        self.answers.awaited(&ends.incoming(protocol))
    }

    /// Hands a packet over to be sent; `false` if it finds no room.
    pub(super) fn post(&mut self, packet: Vec<u8>, destination: IpAddr, way: Way) -> bool {
        let has_room = self.engine.outbox.push(packet, destination, way);
        self.stats.queue_full += u64::from(!has_room);
        has_room
    }

    /// Whether a packet that nobody waits for may be answered.
    pub(super) fn may_refuse(&mut self) -> bool {
        self.stats.nobody_waits += 1;
        let may = self.refusals.take(self.now);
        self.stats.refused += u64::from(may);
        may
    }

    /// Says that nobody listens.
    pub(super) fn unreachable(&mut self, packet: &Packet<'_>) {
        if self.may_refuse()
            && let Some(error) = packet::port_unreachable(packet)
        {
            self.post(error, packet.source, Way::Routed);
        }
    }
}
