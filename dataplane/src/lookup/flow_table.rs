//! Step 4a: the server that a flow already has. One worker's own table, never shared.
//!
//! - An index of cache-line buckets: eight 16-bit signatures, compared at once, and eight positions.
//!   A key may lie in either of two buckets; the second is looked at only if the first has spilled,
//!   and takes few keys as long as there is room, because each look at it waits for memory.
//! - Entries of one cache line for IPv4 and two for IPv6, each family with its own capacity, so that
//!   neither can crowd the other out. A translated flow is in the index twice: as the client addresses it
//!   and as the server answers it.
//! - The hash is keyed, anew in each process, so that nobody can craft collisions. All workers have
//!   the same key, because translated flows are also in a [`Directory`] that all share: it says
//!   which worker a packet belongs to that came to another.
//! - Expiry looks at a few entries at a time; a full table lets half-open, closing and long idle flows
//!   go first.

mod bucket;

mod entry;

mod half;

mod lanes;

use std::sync::Arc;
use std::time::Duration;

use super::expectations::Expectations;
use super::slab::{Memory, OutOfMemory};
use crate::counters::Counters;
use crate::moment::Moment;
use crate::parse::{Flow, Packet};
use crate::punt::{FlowFilter, FlowReport, FlowState};
use crate::rewrite::sequence::{Adjustments, Begun, Direction as Way, Entry, Replaced};
use crate::shared_map::{Inserted, SharedMap};
use crate::snapshot::{MAX_SERVICES, ServerId, ServiceId, Timeouts};
use crate::wire::Address;
use entry::{Held, Signal};
use half::{Half, Hint};

pub use entry::{NewFlow, State, mark};

/// The largest table of a family: places must leave two bits free.
pub const MAX_FLOWS: usize = 1 << 29;
/// Marks the place of an IPv6 flow.
const IPV6: u32 = 1 << 30;
/// Connections at once whose sequence numbers a worker adjusts.
const ADJUSTED: usize = 65_536;

/// How a flow was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// As the client addresses it: client to virtual address.
    Original,
    /// As the server answers it: server to client.
    Reply,
}

impl Direction {
    /// The other one.
    #[inline]
    pub fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// Where a flow is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// As a number that no other flow of this worker has.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// How far a flow has been looked for: so far that what is to be looked at next is on its way from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Near {
    /// The number that places the flow in the table.
    pub hash: u64,
    hint: Hint,
    /// Whether it is a flow of IPv4. The packet says so too, but may just have been put where it is.
    is_v4: bool,
}

impl Near {
    /// Not at all.
    pub const NOT: Self = Self { hash: 0, hint: Hint::NONE, is_v4: false };
}

/// Why a flow could not be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no room, and no flow that could go.
    Full,
    /// The server would see another flow of this client with the same addresses and ports.
    Ambiguous,
    /// The flow is another worker's already.
    Elsewhere(WorkerId),
}

/// Which worker: its position in the list of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct WorkerId(pub u8);

/// The secret of the hash that places flows.
#[derive(Clone, Copy)]
pub struct Key([u64; 4]);

/// Bits of pi, so that a poor key still makes good hashes; the secrecy is in the key.
const SPREAD: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

impl Key {
    /// From random numbers, the same for all workers.
    pub fn new(random: [u64; 4]) -> Self {
        Self(std::array::from_fn(|at| random[at] ^ SPREAD[at]))
    }

    /// The number that places a flow in the table.
    #[inline]
    pub fn hash(&self, flow: &Flow) -> u64 {
        let [first, second, third, fourth] = self.0;
        let ports = u64::from(flow.source_port) << 32
            | u64::from(flow.destination_port) << 16
            | u64::from(flow.protocol as u8);
        if flow.destination.is_v4() {
            let addresses = u64::from(flow.source.low()) << 32 | u64::from(flow.destination.low());
            return fold(fold(addresses ^ first, ports ^ second) ^ third, fourth | 1);
        }
        let [from, to] = [flow.source.bits(), flow.destination.bits()];
        let from = fold(from as u64 ^ first, (from >> 64) as u64 ^ second);
        let to = fold(to as u64 ^ third, (to >> 64) as u64 ^ fourth);
        fold(from.rotate_left(23) ^ to ^ first, ports ^ fourth)
    }
}

/// The product's two halves, folded: each bit of the answer depends on all bits of both.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Which worker has which translated flow; shared by all.
#[derive(Clone)]
pub struct Directory {
    map: Arc<SharedMap>,
    worker: WorkerId,
}

impl Directory {
    /// `worker`'s view of the map.
    pub fn new(map: Arc<SharedMap>, worker: WorkerId) -> Self {
        Self { map, worker }
    }

    /// The other worker that has the flow with this hash, if there is one.
    #[inline]
    pub fn elsewhere(&self, hash: u64) -> Option<WorkerId> {
        let worker = WorkerId(self.map.get(hash)?.saturating_sub(1) as u8);
        (worker != self.worker).then_some(worker)
    }

    fn value(&self) -> u64 {
        u64::from(self.worker.0) + 1
    }

    /// Claims both keys of a flow, or none.
    fn claim(&self, hashes: [u64; 2]) -> Result<(), Refused> {
        for (index, &hash) in hashes.iter().enumerate() {
            let refused = match self.map.insert(hash, self.value()) {
                Inserted::New => continue,
                Inserted::Already(value) if value == self.value() => continue,
                Inserted::Already(value) if index == 0 => {
                    Refused::Elsewhere(WorkerId(value.saturating_sub(1) as u8))
                }
                Inserted::Already(_) => Refused::Ambiguous,
                Inserted::Full => Refused::Full,
            };
            for &claimed in &hashes[..index] {
                self.map.remove(claimed, self.value());
            }
            return Err(refused);
        }
        Ok(())
    }

    fn release(&self, hashes: [u64; 2]) {
        for hash in hashes {
            self.map.remove(hash, self.value());
        }
    }
}

/// How many flows a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// IPv4 flows, 1 to [`MAX_FLOWS`].
    pub v4: usize,
    /// IPv6 flows, 1 to [`MAX_FLOWS`].
    pub v6: usize,
}

/// What a dry run would have changed.
#[derive(Default)]
struct Rehearsal {
    ended: Option<Place>,
    /// A flow's marks and numbers as they were.
    adjusted: Option<(Place, State, Option<Entry>)>,
}

/// A packet with which a connection comes further.
#[derive(Debug, Clone, Copy)]
pub struct News<'p> {
    /// The packet.
    pub packet: &'p Packet,
    /// Which way it goes.
    pub direction: Direction,
    /// When it came.
    pub now: Moment,
}

impl News<'_> {
    /// What it tells of the flow's server, with which the connection has come as far as `next`.
    fn signal(&self, state: &State, next: FlowState) -> Option<Signal> {
        let flags = self.packet.flags;
        if self.direction == Direction::Reply && flags.resets() {
            return Some(Signal::Reset);
        }
        match next {
            FlowState::HalfOpen => flags.opens().then_some(Signal::Unanswered),
            // Where the server's packets pass through us, its own answer was seen.
            FlowState::Established if !state.translated() => {
                Some(Signal::Answered { milliseconds: state.idle(self.now) })
            }
            _ => None,
        }
    }
}

/// So long after a flood, clients that were given a cookie are still expected: their cookies are good no longer.
const AFTERMATH: Duration = Duration::from_secs(120);

/// One worker's flows.
pub struct FlowTable {
    v4: Half<u32>,
    v6: Half<u128>,
    key: Key,
    directory: Option<Directory>,
    /// By service slot.
    half_open: Box<[u32]>,
    /// By service slot: until when cookies come back.
    flooded: Box<[Moment]>,
    rehearsal: Option<Rehearsal>,
    /// Which configuration is in force: the lower bits of its generation. Where they are all zero, nothing is
    /// settled.
    edition: u16,
    /// Flows that have ended so far.
    ended: u64,
    /// The sequence numbers of the few connections in which they change.
    pub adjustments: Adjustments,
    /// Data connections that were announced.
    pub(super) expectations: Expectations,
}

impl FlowTable {
    /// An empty table. Without a `directory` there is no other worker.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(
        capacity: Capacity,
        key: Key,
        directory: Option<Directory>,
        memory: &impl Memory,
    ) -> Result<Self, OutOfMemory> {
        let flows = capacity.v4.saturating_add(capacity.v6);
        Ok(Self {
            v4: Half::new(capacity.v4.clamp(1, MAX_FLOWS), key, memory)?,
            v6: Half::new(capacity.v6.clamp(1, MAX_FLOWS), key, memory)?,
            key,
            directory,
            half_open: vec![0; MAX_SERVICES].into(),
            flooded: vec![Moment::START; MAX_SERVICES].into(),
            rehearsal: None,
            edition: 0,
            ended: 0,
            adjustments: Adjustments::new(flows.min(ADJUSTED), [key.0[0], key.0[2]]),
            expectations: Expectations::default(),
        })
    }

    /// This generation of the configuration is in force from now on.
    #[inline]
    pub fn under(&mut self, generation: u64) {
        self.edition = generation as u16;
    }

    /// How many flows have ended so far: as long as it stays the same, every flow is where it was.
    #[inline]
    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    /// The server of the flow that a packet is near to, if it has been settled under the configuration in force that
    /// such packets are that flow's and nobody else's.
    #[inline]
    pub(super) fn settled(&self, near: Near, flow: &Flow) -> Option<ServerId> {
        if near.is_v4 {
            self.v4.settled(near.hint, flow, self.edition)
        } else {
            self.v6.settled(near.hint, flow, self.edition)
        }
    }

    /// The flow that a packet is near to, and which way the packet goes, where [`FlowTable::settled`] has said that
    /// it is there and no flow has ended since.
    #[inline]
    pub(super) fn nearest(&self, near: Near) -> (Place, Direction) {
        let (place, direction) = near.hint.place();
        (Place(if near.is_v4 { place } else { place | IPV6 }), direction)
    }

    /// It is settled under the configuration in force that packets like one that came are the flow's at `place`.
    pub(super) fn settle(&mut self, place: Place, direction: Direction) {
        let edition = self.edition;
        if self.rehearsal.is_none() && !self.state(place).has(mark::PROXIED) {
            self.state(place).settle(direction, edition);
        }
    }

    /// From now on nothing changes: a flow that is created is at hand alone, until the next one, and one that
    /// is ended stays. For [`crate::explain`].
    pub fn rehearse(&mut self) {
        self.rehearsal = Some(Rehearsal::default());
    }

    /// Changes are made again.
    pub fn perform(&mut self) {
        let adjusted = self.rehearsal.take().and_then(|rehearsal| rehearsal.adjusted);
        if let Some((place, state, entry)) = adjusted {
            *self.state(place) = state;
            self.adjustments.put_back(place.number(), entry);
        }
    }

    /// Whether nothing is to change now.
    pub(super) fn rehearses(&self) -> bool {
        self.rehearsal.is_some()
    }

    /// Before the marks or numbers of a flow change.
    fn keep(&mut self, place: Place) {
        if self.rehearsal.as_ref().is_some_and(|rehearsal| rehearsal.adjusted.is_none()) {
            let before = (place, *self.state(place), self.adjustments.entry(place.number()));
            self.rehearsal =
                self.rehearsal.take().map(|it| Rehearsal { adjusted: Some(before), ..it });
        }
    }

    /// Notes that text of a flow is replaced; see [`Adjustments::note`].
    pub fn note_replaced(&mut self, place: Place, way: Way, replaced: Replaced) -> bool {
        self.keep(place);
        let noted = self.adjustments.note(place.number(), way, replaced);
        if noted {
            self.state(place).mark(mark::ADJUSTED);
        }
        noted
    }

    /// The flow was begun in its server's stead. `false` if there is no room for one that was.
    pub fn begin(&mut self, place: Place, begun: Begun) -> bool {
        self.keep(place);
        let noted = self.adjustments.begin(place.number(), begun);
        if noted {
            self.state(place).mark(mark::PROXIED | mark::ADJUSTED);
        }
        noted
    }

    /// The server of a flow that was begun in its stead has answered with its own sequence number.
    pub fn join(&mut self, place: Place, ours: u32, server: u32) {
        self.keep(place);
        let delta = ours.wrapping_sub(server).cast_signed();
        self.adjustments.set_initial(place.number(), Way::ToClient, delta);
        self.state(place).unmark(mark::PROXIED);
    }

    /// Notes that a service has more half-open flows than it may.
    pub fn note_flood(&mut self, service: ServiceId, now: Moment) {
        if let Some(until) =
            self.flooded.get_mut(service.slot()).filter(|_| self.rehearsal.is_none())
        {
            *until = now.plus(AFTERMATH);
        }
    }

    /// Whether a service had more half-open flows than it may, in the last two minutes.
    pub fn was_flooded(&self, service: ServiceId, now: Moment) -> bool {
        self.flooded.get(service.slot()).is_some_and(|&until| now < until)
    }

    /// How many flows it has room for.
    pub fn capacity(&self) -> Capacity {
        Capacity { v4: self.v4.capacity(), v6: self.v6.capacity() }
    }

    /// The number that places a flow in the table.
    #[inline]
    pub fn hash(&self, flow: &Flow) -> u64 {
        self.key.hash(flow)
    }

    /// The other worker that has the flow with this hash, if there is one.
    #[inline]
    pub fn elsewhere(&self, hash: u64) -> Option<WorkerId> {
        self.directory.as_ref()?.elsewhere(hash)
    }

    /// Says in the directory that packets with this hash are for this worker; `false` if they are another's.
    pub(super) fn list_key(&self, hash: u64) -> bool {
        let Some(directory) = &self.directory else { return true };
        match directory.map.insert(hash, directory.value()) {
            Inserted::New => true,
            Inserted::Already(value) => value == directory.value(),
            Inserted::Full => false,
        }
    }

    /// Takes that back.
    pub(super) fn unlist_key(&self, hash: u64) {
        if let Some(directory) = &self.directory {
            directory.map.remove(hash, directory.value());
        }
    }

    /// Starts loading what [`FlowTable::come_nearer`] looks at.
    #[inline]
    pub fn approach(&self, flow: &Flow, near: &mut Near) {
        near.hash = self.hash(flow);
        near.hint = Hint::NONE;
        near.is_v4 = flow.destination.is_v4();
        if near.is_v4 {
            self.v4.prefetch_bucket(near.hash);
        } else {
            self.v6.prefetch_bucket(near.hash);
        }
    }

    /// Starts loading what [`FlowTable::settled`] and [`FlowTable::find_near`] look at; `true` if that is the flow's
    /// other bucket, for [`FlowTable::come_round`] to go on from.
    #[inline]
    pub fn come_nearer(&self, near: &mut Near) -> bool {
        near.hint = if near.is_v4 {
            self.v4.prefetch_entry(near.hash)
        } else {
            self.v6.prefetch_entry(near.hash)
        };
        near.hint == Hint::SPILLED
    }

    /// Starts loading the entry by the flow's other bucket, if it was that which [`FlowTable::come_nearer`] asked for.
    #[inline]
    pub fn come_round(&self, near: &mut Near) {
        if near.hint == Hint::SPILLED {
            near.hint = if near.is_v4 {
                self.v4.prefetch_spilled(near.hash)
            } else {
                self.v6.prefetch_spilled(near.hash)
            };
        }
    }

    /// Where a flow is, if it is known; where it has been approached most probably.
    #[inline]
    pub fn find_near(&self, near: Near, flow: &Flow, direction: Direction) -> Option<Place> {
        let found = if near.is_v4 {
            self.v4.at_hint(near.hint, flow, direction).map(Place)
        } else {
            self.v6.at_hint(near.hint, flow, direction).map(|place| Place(place | IPV6))
        };
        found.or_else(|| self.find(near.hash, flow, direction))
    }

    /// Where a flow is, if it is known.
    #[inline(never)]
    pub fn find(&self, hash: u64, flow: &Flow, direction: Direction) -> Option<Place> {
        if flow.destination.is_v4() {
            self.v4.find(hash, flow, direction).map(Place)
        } else {
            self.v6.find(hash, flow, direction).map(|place| Place(place | IPV6))
        }
    }

    /// The flow at a place that [`FlowTable::find`] or [`FlowTable::create`] gave and that has not
    /// ended since.
    #[inline]
    pub fn state(&mut self, place: Place) -> &mut State {
        if place.0 & IPV6 == 0 { self.v4.state(place.0) } else { self.v6.state(place.0 & !IPV6) }
    }

    /// The flow at a place as the client addresses it.
    #[inline]
    pub fn original(&self, place: Place) -> Flow {
        if place.0 & IPV6 == 0 {
            self.v4.entry(place.0).original()
        } else {
            self.v6.entry(place.0 & !IPV6).original()
        }
    }

    /// The flow at a place as its server answers it; of a flow that is not translated, what nobody sees.
    #[inline]
    pub fn reply(&self, place: Place) -> Flow {
        if place.0 & IPV6 == 0 {
            self.v4.entry(place.0).reply()
        } else {
            self.v6.entry(place.0 & !IPV6).reply()
        }
    }

    /// Whether this is a packet of the flow at `place`, and no other flow has taken that place meanwhile.
    #[inline]
    pub fn is_of(&self, place: Place, flow: &Flow, direction: Direction) -> bool {
        let there = match direction {
            Direction::Original => self.original(place),
            Direction::Reply => self.reply(place),
        };
        there == *flow
    }

    /// Notes a packet of the flow at `place`; `timeouts` gives its service's.
    #[inline]
    pub fn note(
        &mut self,
        place: Place,
        packet: &Packet,
        direction: Direction,
        timeouts: impl FnOnce() -> Timeouts,
        now: Moment,
        counters: &Counters,
    ) {
        if self.rehearsal.is_some() {
            return;
        }
        let state = self.state(place);
        match state.changes_with(packet, direction) {
            None => state.note(packet, now),
            Some(next) => {
                let news = News { packet, direction, now };
                self.advance(place, next, news, &timeouts(), counters);
            }
        }
    }

    /// Notes a packet that says nothing of how far the connection has come.
    pub fn note_repeated(&mut self, place: Place, packet: &Packet, now: Moment) {
        if self.rehearsal.is_none() {
            self.state(place).note(packet, now);
        }
    }

    /// Notes a packet with which the connection of the flow at `place` has come as far as `next`; `timeouts` are
    /// its service's.
    #[cold]
    pub(super) fn advance(
        &mut self,
        place: Place,
        next: FlowState,
        news: News<'_>,
        timeouts: &Timeouts,
        counters: &Counters,
    ) {
        let state = self.state(place);
        let before = state.state();
        if let Some(signal) = news.signal(state, next) {
            state.judge(signal, counters);
        }
        state.note(news.packet, news.now);
        if next == FlowState::HalfOpen {
            return;
        }
        state.set_state(next, timeouts.of(next));
        if next == FlowState::Closing
            && let Some(block) = state.block(counters)
        {
            block.active.add(-1);
            block.closing.add(1);
        }
        if before == Some(FlowState::HalfOpen) {
            let service = state.service();
            self.no_longer_half_open(service);
        }
    }

    /// How long the flow at `place` has been without a packet, in milliseconds.
    pub(super) fn idle(&mut self, place: Place, now: Moment) -> u32 {
        self.state(place).idle(now)
    }

    /// The server of the flow at `place` has accepted the connection, so long after it was last asked.
    pub(super) fn accepted(&mut self, place: Place, milliseconds: u32, counters: &Counters) {
        if self.rehearsal.is_none() && self.state(place).is(FlowState::HalfOpen) {
            self.state(place).judge(Signal::Answered { milliseconds }, counters);
        }
    }

    /// How many of a service's flows have seen a SYN only.
    #[inline]
    pub fn half_open(&self, service: ServiceId) -> u32 {
        self.half_open.get(service.slot()).copied().unwrap_or_default()
    }

    fn no_longer_half_open(&mut self, service: ServiceId) {
        if let Some(number) = self.half_open.get_mut(service.slot()) {
            *number = number.saturating_sub(1);
        }
    }

    /// Whether replies of such a flow could be told from those of all others.
    #[inline]
    pub fn is_unique(&self, reply: &Flow) -> bool {
        let hash = self.hash(reply);
        self.find_reply(hash, reply).is_none() && self.elsewhere(hash).is_none()
    }

    /// The flow with such replies, unless a dry run has ended it.
    fn find_reply(&self, hash: u64, reply: &Flow) -> Option<Place> {
        let found = self.find(hash, reply, Direction::Reply)?;
        let ended = self.rehearsal.as_ref().and_then(|rehearsal| rehearsal.ended);
        (ended != Some(found)).then_some(found)
    }

    /// Remembers a flow. It must not be in the table.
    ///
    /// # Errors
    /// [`Refused`], and no flow that lives was touched.
    pub fn create(
        &mut self,
        flow: &NewFlow,
        hash: u64,
        now: Moment,
        counters: &Counters,
    ) -> Result<Place, Refused> {
        let reply = flow.reply().map(|reply| (self.hash(&reply), reply));
        if let Some((hash, reply)) = reply
            && let Some(other) = self.find_reply(hash, &reply)
        {
            if self.state(other).state() != Some(FlowState::Closing) {
                return Err(Refused::Ambiguous);
            }
            self.end(other, counters);
        }
        if self.rehearsal.is_some() {
            return self.stage(flow, [hash, reply.map_or(hash, |(hash, _)| hash)], now);
        }
        let listed = reply.is_some() && self.directory.is_some();
        if let (Some((hash_of_reply, _)), Some(directory)) = (reply, &self.directory) {
            directory.claim([hash, hash_of_reply])?;
        }
        let v4 = flow.original.destination.is_v4();
        let inserted = if v4 {
            self.make_room(|table| &table.v4, 0, hash, now, counters);
            self.v4.insert(flow, hash, now).map(Place)
        } else {
            self.make_room(|table| &table.v6, IPV6, hash, now, counters);
            self.v6.insert(flow, hash, now).map(|place| Place(place | IPV6))
        };
        let Some(place) = inserted else {
            if let (Some((hash_of_reply, _)), Some(directory)) = (reply, &self.directory) {
                directory.release([hash, hash_of_reply]);
            }
            return Err(Refused::Full);
        };
        if listed {
            self.state(place).mark(mark::LISTED);
        }
        counters.flows.add(1);
        counters.flows_created.add(1);
        if flow.server_id != ServerId::NONE {
            let block = counters.server(flow.server_id);
            block.flows.add(1);
            if flow.state == FlowState::Closing { &block.closing } else { &block.active }.add(1);
        }
        if flow.state == FlowState::HalfOpen
            && let Some(number) = self.half_open.get_mut(flow.service.slot())
        {
            *number += 1;
        }
        Ok(place)
    }

    /// What [`FlowTable::create`] would do, but for the flow's being in the table.
    fn stage(&mut self, flow: &NewFlow, hashes: [u64; 2], now: Moment) -> Result<Place, Refused> {
        if flow.translated {
            if let Some(worker) = self.elsewhere(hashes[0]) {
                return Err(Refused::Elsewhere(worker));
            }
            if self.elsewhere(hashes[1]).is_some() {
                return Err(Refused::Ambiguous);
            }
        }
        let place = if flow.original.destination.is_v4() {
            self.v4.stage(flow, hashes[0], now).map(Place)
        } else {
            self.v6.stage(flow, hashes[0], now).map(|place| Place(place | IPV6))
        };
        place.ok_or(Refused::Full)
    }

    fn make_room<A: Held>(
        &mut self,
        half: impl Fn(&Self) -> &Half<A>,
        family: u32,
        hash: u64,
        now: Moment,
        counters: &Counters,
    ) {
        if half(self).has_room() {
            return;
        }
        if let Some(place) = half(self).least_alive(hash, now) {
            self.end(Place(place | family), counters);
            counters.flows_evicted.add(1);
        }
    }

    /// Forgets a flow.
    pub fn end(&mut self, place: Place, counters: &Counters) {
        if let Some(rehearsal) = &mut self.rehearsal {
            rehearsal.ended = Some(place);
            return;
        }
        let gone = if place.0 & IPV6 == 0 {
            self.v4.remove(place.0).map(|entry| (entry.original(), entry.reply(), entry.state))
        } else {
            let removed = self.v6.remove(place.0 & !IPV6);
            removed.map(|entry| (entry.original(), entry.reply(), entry.state))
        };
        let Some((original, reply, state)) = gone else { return };
        self.ended += 1;
        counters.flows.add(-1);
        if let Some(block) = state.block(counters) {
            let closing = state.state() == Some(FlowState::Closing);
            if closing { &block.closing } else { &block.active }.add(-1);
        }
        if state.state() == Some(FlowState::HalfOpen) {
            self.no_longer_half_open(state.service());
        }
        if state.has(mark::ADJUSTED) {
            self.adjustments.remove(place.0);
        }
        if let Some(directory) = self.directory.as_ref().filter(|_| state.has(mark::LISTED)) {
            directory.release([self.key.hash(&original), self.key.hash(&reply)]);
        }
    }

    /// Ends flows whose time is over, and those whose server is gone, among the few entries whose turn it is.
    pub fn expire(
        &mut self,
        now: Moment,
        is_there: impl Fn(ServerId) -> bool,
        counters: &Counters,
    ) {
        let gone = |state: &State| state.server() != ServerId::NONE && !is_there(state.server());
        while let Some(place) = self.v4.next_expired(now, self.edition, gone) {
            self.expired(Place(place), &is_there, counters);
        }
        while let Some(place) = self.v6.next_expired(now, self.edition, gone) {
            self.expired(Place(place | IPV6), &is_there, counters);
        }
        self.expire_expectations(now);
    }

    fn expired(&mut self, place: Place, is_there: impl Fn(ServerId) -> bool, counters: &Counters) {
        let state = self.state(place);
        // The slot of a server that is gone may be another's by now.
        if state.is(FlowState::HalfOpen) && is_there(state.server()) {
            state.judge(Signal::Unanswered, counters);
        }
        self.end(place, counters);
    }

    /// Reports the flows among entries `from..from + number` of either family that match; `None` after the last entry,
    /// else where to go on.
    pub fn list(
        &self,
        from: usize,
        number: usize,
        filter: &FlowFilter,
        now: Moment,
        mut report: impl FnMut(FlowReport),
    ) -> Option<usize> {
        // Positions of IPv6 flows follow those that IPv4 flows can have.
        let first_of_v6 = self.v4.capacity();
        let from_v6 = match from.checked_sub(first_of_v6) {
            Some(from) => from,
            None => match self.v4.list(from, number, filter, now, &mut report) {
                Some(next) => return Some(next),
                None => 0,
            },
        };
        let next = self.v6.list(from_v6, number, filter, now, report);
        next.map(|next| next + first_of_v6)
    }
}

impl Timeouts {
    /// How long a flow is remembered in a state, in milliseconds.
    #[inline]
    pub fn of(&self, state: FlowState) -> u32 {
        match state {
            FlowState::HalfOpen => self.half_open,
            FlowState::Established => self.established,
            FlowState::Closing => self.closing,
            FlowState::Datagrams => self.datagrams,
        }
    }
}

/// The two ends of a flow that is not translated: its own.
pub fn untranslated(flow: &Flow) -> [(Address, u16); 2] {
    [(flow.destination, flow.destination_port), (flow.source, flow.source_port)]
}

#[cfg(test)]
mod tests;
