//! Step 4a: the server that a flow already has. One worker's own table, never shared.
//!
//! - An index of cache-line buckets: eight 16-bit signatures, compared at once, and eight positions.
//!   A key may lie in either of two buckets; the second is looked at only if the first has spilled,
//!   and takes few keys as long as there is room, because each look at it waits for memory.
//! - Entries of one cache line each. A translated (NAT) flow is in the index twice: as the client
//!   addresses it and as the server answers it.
//! - The hash is keyed, anew in each process, so that nobody can craft collisions.
//! - Expiry looks at a few entries at a time; a full table lets half-open, closing and long idle flows
//!   go first.

use std::net::Ipv4Addr;
use std::time::Duration;

use zerocopy::FromZeros;

use super::prefetch::prefetch;
use super::slab::{Memory, OutOfMemory, Slab};
use crate::counters::Counters;
use crate::moment::Moment;
use crate::parse::{Flow, Packet};
use crate::punt::{FlowFilter, FlowReport, FlowState};
use crate::snapshot::{Mode, Protocol, Server, ServerId, ServiceId};

/// Slots in a bucket.
const WAYS: usize = 8;
/// A key goes to its second bucket only if the first has no more empty slots than this.
const RESERVE: u32 = 3;
/// Marks the position of a flow that is found as its server answers it.
const REPLY: u32 = 1 << 31;
/// The end of the list of free entries.
const NOWHERE: u32 = u32::MAX;
/// The largest table: positions must leave [`REPLY`] and [`NOWHERE`] free.
pub const MAX_FLOWS: usize = 1 << 30;

/// The longest time between two packets that can be told, in milliseconds: 24 days.
const LONGEST_IDLE: u32 = u32::MAX >> 1;

/// How long a flow is remembered after its last packet (FEATURES NAT-07, PER-10).
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// After a SYN, or a packet in mid-flow that nobody remembered, that nothing followed.
    pub half_open: Duration,
    /// While a TCP connection stands.
    pub established: Duration,
    /// After a FIN or RST.
    pub closing: Duration,
    /// Between UDP datagrams.
    pub datagrams: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let [half_open, established, closing, datagrams] =
            [30, 900, 120, 300].map(Duration::from_secs);
        Self { half_open, established, closing, datagrams }
    }
}

impl Timeouts {
    #[inline]
    fn milliseconds(&self, state: FlowState) -> u32 {
        let timeout = match state {
            FlowState::HalfOpen => self.half_open,
            FlowState::Established => self.established,
            FlowState::Closing => self.closing,
            FlowState::Datagrams => self.datagrams,
        };
        u32::try_from(timeout.as_millis()).unwrap_or(LONGEST_IDLE).min(LONGEST_IDLE)
    }
}

/// How a flow was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// As the client addresses it: client to virtual address.
    Original,
    /// As the server answers it: server to client.
    Reply,
}

/// Where a flow is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u32);

/// Why a flow could not be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no room, and no flow that could go.
    Full,
    /// The server would see another flow of this client with the same addresses and ports.
    Ambiguous,
}

#[derive(Clone, Copy, FromZeros)]
#[repr(C, align(64))]
struct Bucket {
    /// 0 is an empty slot.
    signatures: [u16; WAYS],
    positions: [u32; WAYS],
    /// How many keys that belong here lie in their other bucket.
    spilled: u32,
    unused: [u32; 3],
}

/// One flow.
#[derive(Clone, Copy, FromZeros)]
#[repr(C, align(64))]
pub struct Entry {
    client: u32,
    virtual_address: u32,
    server_address: u32,
    server: ServerId,
    client_port: u16,
    virtual_port: u16,
    server_port: u16,
    service: u16,
    protocol: u8,
    state: u8,
    translated: u8,
    unused: u8,
    /// Milliseconds, wrapping; compared by difference.
    last_seen: u32,
    /// Seconds since the start.
    created: u32,
    next_free: u32,
    packets: u64,
    bytes: u64,
}

const _: () = assert!(size_of::<Bucket>() == 64 && size_of::<Entry>() == 64);

/// How [`FlowState`] is written in an entry; 0 is a free one.
mod state {
    pub const FREE: u8 = 0;
    pub const HALF_OPEN: u8 = 1;
    pub const ESTABLISHED: u8 = 2;
    pub const CLOSING: u8 = 3;
    pub const DATAGRAMS: u8 = 4;
}

impl Entry {
    /// The flow's server.
    #[inline]
    pub fn server(&self) -> ServerId {
        self.server
    }

    /// The flow's service.
    #[inline]
    pub fn service(&self) -> ServiceId {
        ServiceId(self.service)
    }

    /// The address and port that the client used.
    #[inline]
    pub fn virtual_address(&self) -> (Ipv4Addr, u16) {
        (Ipv4Addr::from_bits(self.virtual_address), self.virtual_port)
    }

    /// How far the connection has come; `None` for a free entry.
    #[inline]
    pub fn state(&self) -> Option<FlowState> {
        match self.state {
            state::HALF_OPEN => Some(FlowState::HalfOpen),
            state::ESTABLISHED => Some(FlowState::Established),
            state::CLOSING => Some(FlowState::Closing),
            state::DATAGRAMS => Some(FlowState::Datagrams),
            _ => None,
        }
    }

    /// Notes a packet of the flow.
    #[inline]
    pub fn note(&mut self, packet: &Packet, direction: Direction, now: Moment) {
        self.last_seen = milliseconds(now);
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(u64::from(packet.length));
        if packet.flags.closes() {
            self.state = state::CLOSING;
        } else if self.state == state::HALF_OPEN
            && direction == Direction::Original
            && !packet.flags.synchronises()
        {
            self.state = state::ESTABLISHED;
        }
    }

    /// The key as the client addresses the flow.
    #[inline]
    fn original(&self) -> Flow {
        Flow {
            protocol: self.protocol(),
            source: Ipv4Addr::from_bits(self.client),
            source_port: self.client_port,
            destination: Ipv4Addr::from_bits(self.virtual_address),
            destination_port: self.virtual_port,
        }
    }

    /// The key as the server answers the flow, if it answers through us.
    #[inline]
    fn reply(&self) -> Option<Flow> {
        (self.translated != 0).then(|| Flow {
            protocol: self.protocol(),
            source: Ipv4Addr::from_bits(self.server_address),
            source_port: self.server_port,
            destination: Ipv4Addr::from_bits(self.client),
            destination_port: self.client_port,
        })
    }

    fn protocol(&self) -> Protocol {
        if self.protocol == Protocol::Tcp as u8 { Protocol::Tcp } else { Protocol::Udp }
    }

    #[inline]
    fn is(&self, flow: &Flow, direction: Direction) -> bool {
        match direction {
            Direction::Original => self.original() == *flow,
            Direction::Reply => self.reply() == Some(*flow),
        }
    }

    /// Milliseconds since the last packet. A clock that steps back (a virtual machine moved to another
    /// host) must not make every flow look 49 days old.
    #[inline]
    fn idle(&self, now: Moment) -> u32 {
        let idle = milliseconds(now).wrapping_sub(self.last_seen);
        if idle > LONGEST_IDLE { 0 } else { idle }
    }

    fn matches(&self, filter: &FlowFilter) -> bool {
        filter.service.is_none_or(|service| service == self.service())
            && filter.server.is_none_or(|server| server == self.server)
            && filter.client.is_none_or(|client| client.to_bits() == self.client)
    }

    fn report(&self, state: FlowState, now: Moment) -> FlowReport {
        let idle = Duration::from_millis(u64::from(self.idle(now)));
        FlowReport {
            protocol: self.protocol(),
            state,
            client: (Ipv4Addr::from_bits(self.client), self.client_port),
            virtual_address: self.virtual_address(),
            service: self.service(),
            server: self.server,
            created: Moment::START.plus(Duration::from_secs(u64::from(self.created))),
            last_seen: Moment::from_nanos(now.nanos().saturating_sub(idle.as_nanos() as u64)),
            now,
            packets: self.packets,
            bytes: self.bytes,
        }
    }
}

/// One worker's flows.
pub struct FlowTable {
    buckets: Slab<Bucket>,
    entries: Slab<Entry>,
    key: [u64; 4],
    timeouts: Timeouts,
    /// Flows in the table.
    used: usize,
    /// Entries below this have been used at least once.
    touched: usize,
    /// The first of the entries that were used and are free again.
    free: u32,
    /// The entry that expiry looks at next.
    hand: usize,
    /// Up to when expiry has done its share.
    swept: Moment,
}

/// Bits of pi, so that a poor key still makes good hashes; the secrecy is in the key.
const SPREAD: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];
/// In this time expiry has looked at every entry once, unless turns are long and far between.
const ROUND: Duration = Duration::from_secs(4);
/// Entries that expiry looks at in one turn: ending a flow may wait for memory several times, and
/// frames must not pile up meanwhile.
const MOST_AT_ONCE: usize = 256;
/// Above this share of the capacity, in 32nds, flows that hardly live are let go early.
const CROWDED: usize = 30;

impl FlowTable {
    /// A table for `capacity` flows (1 to [`MAX_FLOWS`]); `key` must be random.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(
        capacity: usize,
        key: [u64; 4],
        timeouts: Timeouts,
        memory: &impl Memory,
    ) -> Result<Self, OutOfMemory> {
        let capacity = capacity.clamp(1, MAX_FLOWS);
        // Two keys for each flow at most, and slots a third more than that.
        let buckets = (capacity * 2).div_ceil(WAYS * 3 / 4);
        Ok(Self {
            buckets: memory.slab(buckets)?,
            entries: memory.slab(capacity)?,
            key: std::array::from_fn(|at| key[at] ^ SPREAD[at]),
            timeouts,
            used: 0,
            touched: 0,
            free: NOWHERE,
            hand: 0,
            swept: Moment::START,
        })
    }

    /// How many flows it has room for.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// The number that places a flow in the table.
    #[inline]
    pub fn hash(&self, flow: &Flow) -> u64 {
        let addresses =
            u64::from(flow.source.to_bits()) << 32 | u64::from(flow.destination.to_bits());
        let ports = u64::from(flow.source_port) << 32
            | u64::from(flow.destination_port) << 16
            | u64::from(flow.protocol as u8);
        let [first, second, third, fourth] = self.key;
        fold(fold(addresses ^ first, ports ^ second) ^ third, fourth | 1)
    }

    /// Starts loading what [`FlowTable::find`] looks at first.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        prefetch(&self.buckets[self.first(hash)]);
    }

    /// Starts loading what [`FlowTable::find`] looks at next; `true` if that is the other bucket, for
    /// [`FlowTable::prefetch_spilled`] to go on from.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) -> bool {
        let bucket = &self.buckets[self.first(hash)];
        let spilled = !self.prefetch_entry_in(bucket, hash) && bucket.spilled != 0;
        if spilled {
            prefetch(&self.buckets[self.second(hash)]);
        }
        spilled
    }

    /// Starts loading what [`FlowTable::find`] looks at in the other bucket.
    #[inline]
    pub fn prefetch_spilled(&self, hash: u64) {
        self.prefetch_entry_in(&self.buckets[self.second(hash)], hash);
    }

    #[inline]
    fn prefetch_entry_in(&self, bucket: &Bucket, hash: u64) -> bool {
        let found = bucket.matching(signature(hash));
        if found != 0 {
            let position = bucket.positions[found.trailing_zeros() as usize] & !REPLY;
            prefetch(&self.entries[position as usize]);
        }
        found != 0
    }

    /// Where a flow is, if it is known.
    #[inline]
    pub fn find(&self, hash: u64, flow: &Flow, direction: Direction) -> Option<Place> {
        let first = &self.buckets[self.first(hash)];
        let found = self.find_in(first, hash, flow, direction);
        if found.is_some() || first.spilled == 0 {
            return found;
        }
        self.find_in(&self.buckets[self.second(hash)], hash, flow, direction)
    }

    #[inline]
    fn find_in(
        &self,
        bucket: &Bucket,
        hash: u64,
        flow: &Flow,
        direction: Direction,
    ) -> Option<Place> {
        let wanted = if direction == Direction::Reply { REPLY } else { 0 };
        let mut candidates = bucket.matching(signature(hash));
        while candidates != 0 {
            let position = bucket.positions[candidates.trailing_zeros() as usize];
            let place = position & !REPLY;
            if position & REPLY == wanted && self.entries[place as usize].is(flow, direction) {
                return Some(Place(place));
            }
            candidates &= candidates - 1;
        }
        None
    }

    /// The flow at a place that [`FlowTable::find`] or [`FlowTable::create`] gave and that has not
    /// ended since.
    #[inline]
    pub fn at(&mut self, place: Place) -> &mut Entry {
        &mut self.entries[place.0 as usize]
    }

    /// Remembers that `packet`'s flow goes to `server`. The flow must not be in the table.
    ///
    /// # Errors
    /// [`Refused`], and nothing has changed.
    pub fn create(
        &mut self,
        packet: &Packet,
        hash: u64,
        server: &Server,
        now: Moment,
        counters: &Counters,
    ) -> Result<Place, Refused> {
        let entry = entry(packet, server, now);
        let reply = entry.reply().map(|flow| (self.hash(&flow), flow));
        if let Some((hash, flow)) = reply
            && let Some(other) = self.find(hash, &flow, Direction::Reply)
        {
            if self.at(other).state() != Some(FlowState::Closing) {
                return Err(Refused::Ambiguous);
            }
            self.end(other, counters);
        }
        let position = self.take_free(hash, now, counters).ok_or(Refused::Full)?;
        self.entries[position as usize] = entry;
        if !self.insert(hash, position) {
            self.give_back(position);
            return Err(Refused::Full);
        }
        if let Some((hash_of_reply, _)) = reply
            && !self.insert(hash_of_reply, position | REPLY)
        {
            self.remove(hash, position);
            self.give_back(position);
            return Err(Refused::Full);
        }
        self.used += 1;
        counters.flows.add(1);
        counters.flows_created.add(1);
        counters.server(server.id).active.add(1);
        counters.server(server.id).flows.add(1);
        Ok(Place(position))
    }

    /// Forgets a flow.
    pub fn end(&mut self, place: Place, counters: &Counters) {
        let entry = self.entries[place.0 as usize];
        if entry.state == state::FREE {
            return;
        }
        self.remove(self.hash(&entry.original()), place.0);
        if let Some(flow) = entry.reply() {
            self.remove(self.hash(&flow), place.0 | REPLY);
        }
        self.give_back(place.0);
        self.used -= 1;
        counters.flows.add(-1);
        counters.server(entry.server).active.add(-1);
    }

    /// Ends flows whose time is over, and those whose server is gone, among the few entries whose turn it is.
    pub fn expire(
        &mut self,
        now: Moment,
        is_there: impl Fn(ServerId) -> bool,
        counters: &Counters,
    ) {
        let elapsed = now.since(self.swept).min(ROUND);
        // No overflow: 2^30 entries and 4e9 nanoseconds at most.
        let share = self.touched as u64 * elapsed.as_nanos() as u64 / ROUND.as_nanos() as u64;
        if share == 0 && elapsed < Duration::from_millis(1) {
            return;
        }
        self.swept = now;
        let crowded = self.used * 32 > self.capacity() * CROWDED;
        for _ in 0..(share as usize + 1).min(self.touched).min(MOST_AT_ONCE) {
            self.hand = if self.hand + 1 < self.touched { self.hand + 1 } else { 0 };
            let entry = &self.entries[self.hand];
            let Some(state) = entry.state() else { continue };
            let allowed = self.timeouts.milliseconds(state);
            let allowed = if crowded { allowed.min(patience(state)) } else { allowed };
            if entry.idle(now) >= allowed || !is_there(entry.server) {
                self.end(Place(self.hand as u32), counters);
            }
        }
    }

    /// Reports the flows among entries `from..from + number` that match; `None` after the last entry,
    /// else where to go on.
    pub fn list(
        &self,
        from: usize,
        number: usize,
        filter: &FlowFilter,
        now: Moment,
        mut report: impl FnMut(FlowReport),
    ) -> Option<usize> {
        let until = (from + number).min(self.touched);
        for entry in self.entries.get(from..until).unwrap_or_default() {
            if let Some(state) = entry.state().filter(|_| entry.matches(filter)) {
                report(entry.report(state, now));
            }
        }
        (until < self.touched).then_some(until)
    }

    #[inline]
    fn first(&self, hash: u64) -> usize {
        reduce(hash as u32, self.buckets.len())
    }

    /// Never the first, unless there is only one.
    #[inline]
    fn second(&self, hash: u64) -> usize {
        let others = self.buckets.len().saturating_sub(1).max(1);
        let step = 1 + reduce((hash >> 16) as u32, others);
        let second = self.first(hash) + step;
        if second < self.buckets.len() { second } else { second - self.buckets.len() }
    }

    fn insert(&mut self, hash: u64, position: u32) -> bool {
        let [first, second] = [self.first(hash), self.second(hash)];
        let room = |bucket: usize| self.buckets[bucket].matching(0).count_ones();
        let crowded = room(first) <= RESERVE;
        let spills = crowded && room(second) > room(first);
        let chosen = if spills { second } else { first };
        let inserted = self.put(chosen, hash, position)
            || (self.make_room(chosen) && self.put(chosen, hash, position));
        self.buckets[first].spilled += u32::from(inserted && spills);
        inserted
    }

    fn put(&mut self, bucket: usize, hash: u64, position: u32) -> bool {
        let bucket = &mut self.buckets[bucket];
        let empty = bucket.matching(0);
        if empty != 0 {
            let slot = empty.trailing_zeros() as usize;
            bucket.signatures[slot] = signature(hash);
            bucket.positions[slot] = position;
        }
        empty != 0
    }

    /// Moves one key of a full bucket to its other bucket, if that has room for one.
    #[cold]
    fn make_room(&mut self, bucket: usize) -> bool {
        for slot in 0..WAYS {
            let position = self.buckets[bucket].positions[slot];
            let entry = &self.entries[(position & !REPLY) as usize];
            let flow = if position & REPLY == 0 { Some(entry.original()) } else { entry.reply() };
            let Some(hash) = flow.map(|flow| self.hash(&flow)) else { continue };
            let [first, second] = [self.first(hash), self.second(hash)];
            let (other, spills) = if bucket == first { (second, true) } else { (first, false) };
            if first != second && self.put(other, hash, position) {
                self.buckets[bucket].signatures[slot] = 0;
                let spilled = &mut self.buckets[first].spilled;
                *spilled = if spills { *spilled + 1 } else { *spilled - 1 };
                return true;
            }
        }
        false
    }

    fn remove(&mut self, hash: u64, position: u32) {
        let [first, second] = [self.first(hash), self.second(hash)];
        for (bucket, spilled) in [(first, false), (second, true)] {
            let slots = &mut self.buckets[bucket];
            let mut candidates = slots.matching(signature(hash));
            while candidates != 0 {
                let slot = candidates.trailing_zeros() as usize;
                if slots.positions[slot] == position {
                    slots.signatures[slot] = 0;
                    if spilled && first != second {
                        self.buckets[first].spilled -= 1;
                    }
                    return;
                }
                candidates &= candidates - 1;
            }
        }
    }

    fn take_free(&mut self, hash: u64, now: Moment, counters: &Counters) -> Option<u32> {
        if self.free == NOWHERE && self.touched == self.entries.len() {
            let place = self.least_alive(hash, now)?;
            self.end(place, counters);
            counters.flows_evicted.add(1);
        }
        if self.free != NOWHERE {
            let position = self.free;
            self.free = self.entries[position as usize].next_free;
            return Some(position);
        }
        self.touched += 1;
        Some((self.touched - 1) as u32)
    }

    fn give_back(&mut self, position: u32) {
        self.entries[position as usize] = Entry { next_free: self.free, ..Entry::new_zeroed() };
        self.free = position;
    }

    /// The flow that has been idle longest, among the neighbours of a new one that may be let go.
    fn least_alive(&self, hash: u64, now: Moment) -> Option<Place> {
        let buckets = [self.first(hash), self.second(hash)].map(|bucket| &self.buckets[bucket]);
        let positions = buckets.into_iter().flat_map(|bucket| {
            bucket
                .signatures
                .iter()
                .zip(bucket.positions)
                .filter(|&(&used, _)| used != 0)
                .map(|(_, position)| position & !REPLY)
        });
        let idle_too_long = |position: u32| {
            let entry = &self.entries[position as usize];
            let idle = entry.idle(now);
            (idle >= patience(entry.state()?)).then_some((idle, Place(position)))
        };
        positions.filter_map(idle_too_long).max_by_key(|&(idle, _)| idle).map(|(_, place)| place)
    }
}

/// How long a flow may be idle, in milliseconds, before it is let go for another when room is short.
fn patience(state: FlowState) -> u32 {
    match state {
        FlowState::HalfOpen | FlowState::Closing => 1_000,
        FlowState::Datagrams => 30_000,
        FlowState::Established => 120_000,
    }
}

fn entry(packet: &Packet, server: &Server, now: Moment) -> Entry {
    let flow = packet.flow;
    let state = match flow.protocol {
        Protocol::Udp => state::DATAGRAMS,
        // One packet in mid-flow proves as little as a SYN: a flood of either must give way.
        Protocol::Tcp => state::HALF_OPEN,
    };
    let (translated, server_port) = match server.mode {
        Mode::Nat { port } => (1, port.unwrap_or(flow.destination_port)),
        Mode::DirectReturn | Mode::Tunnel { .. } => (0, flow.destination_port),
    };
    Entry {
        client: flow.source.to_bits(),
        virtual_address: flow.destination.to_bits(),
        server_address: server.address.to_bits(),
        server: server.id,
        client_port: flow.source_port,
        virtual_port: flow.destination_port,
        server_port,
        service: server.service.0,
        protocol: flow.protocol as u8,
        state,
        translated,
        last_seen: milliseconds(now),
        created: (now.nanos() / 1_000_000_000) as u32,
        packets: 1,
        bytes: u64::from(packet.length),
        ..Entry::new_zeroed()
    }
}

fn milliseconds(now: Moment) -> u32 {
    (now.nanos() / 1_000_000) as u32
}

/// The product's two halves, folded: each bit of the answer depends on all bits of both.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// A number below `len`, evenly, without a division (Lemire 2016).
#[inline]
fn reduce(hash: u32, len: usize) -> usize {
    ((u64::from(hash) * len as u64) >> 32) as usize
}

/// The upper bits, never 0: that is an empty slot.
#[inline]
fn signature(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}

impl Bucket {
    /// The slots with this signature, as bits. Four lanes at a time in plain registers: compilers make
    /// half vectors and half branches of the loop that says the same.
    #[inline]
    fn matching(&self, signature: u16) -> u8 {
        const LOW: u64 = 0x7fff_7fff_7fff_7fff;
        const EACH: u64 = 0x0001_0001_0001_0001;
        // Bits 0, 16, 32 and 48 to bits 48 to 51; no two products meet there.
        const GATHER: u64 = 1 << 48 | 1 << 33 | 1 << 18 | 1 << 3;
        let [a, b, c, d, e, f, g, h] = self.signatures.map(u64::from);
        let halves = [a | b << 16 | c << 32 | d << 48, e | f << 16 | g << 32 | h << 48];
        let [low, high] = halves.map(|half| {
            let different = half ^ (u64::from(signature) * EACH);
            let same = !(((different & LOW) + LOW) | different | LOW); // the top bit of each lane
            ((same >> 15).wrapping_mul(GATHER) >> 48) as u8 & 0x0f
        });
        low | high << 4
    }
}

#[cfg(test)]
mod tests;
