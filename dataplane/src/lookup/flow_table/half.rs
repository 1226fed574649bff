//! The flows of one family: the index and the entries.

use std::time::Duration;

use zerocopy::FromZeros;

use super::bucket::{Bucket, WAYS};
use super::entry::{Entry, FREE, Held, NewFlow, State};
use super::{Direction, Key};
use crate::lookup::prefetch::prefetch;
use crate::lookup::slab::{Memory, OutOfMemory, Slab};
use crate::moment::Moment;
use crate::parse::Flow;
use crate::punt::{FlowFilter, FlowReport, FlowState};
use crate::snapshot::ServerId;

/// A key goes to its second bucket only if the first has no more empty slots than this.
const RESERVE: u32 = 3;
/// Marks the position of a flow that is found as its server answers it.
pub const REPLY: u32 = 1 << 31;
/// The end of the list of free entries.
pub const NOWHERE: u32 = u32::MAX;
/// The place of a flow that a dry run has created; no table is so large.
const STAGE: u32 = (1 << 30) - 1;

/// In this time expiry has looked at every entry once, unless turns are long and far between.
pub const ROUND: Duration = Duration::from_secs(4);
/// Entries that expiry looks at in one turn: ending a flow may wait for memory several times, and
/// frames must not pile up meanwhile.
const MOST_AT_ONCE: usize = 256;
/// Above this share of the capacity, in 32nds, flows that hardly live are let go early.
const CROWDED: usize = 30;

/// Where a flow probably is, before its entry has been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint(u32);

impl Hint {
    /// It is not known, or must be looked for.
    pub const NONE: Self = Self(NOWHERE);
    /// It may be in its other bucket, which is on its way.
    pub const SPILLED: Self = Self(NOWHERE - 1);

    /// The place, and which way packets go whose flow is found there.
    #[inline]
    pub fn place(self) -> (u32, Direction) {
        let is_reply = self.0 & REPLY != 0;
        (self.0 & !REPLY, if is_reply { Direction::Reply } else { Direction::Original })
    }
}

/// One family's flows.
pub struct Half<A> {
    pub(super) buckets: Slab<Bucket>,
    pub(super) entries: Slab<Entry<A>>,
    /// The last flow that a dry run has created.
    staged: Entry<A>,
    pub(super) key: Key,
    /// Flows in the table.
    pub(super) used: usize,
    /// Entries below this have been used at least once.
    pub(super) touched: usize,
    /// The first of the entries that were used and are free again.
    pub(super) free: u32,
    /// The entry that expiry looks at next.
    hand: usize,
    /// Up to when expiry has done its share.
    pub(super) swept: Moment,
    /// Entries that expiry has left to look at in this turn, and one; 0 between two turns.
    turns: usize,
}

impl<A: Held> Half<A> {
    pub fn new(capacity: usize, key: Key, memory: &impl Memory) -> Result<Self, OutOfMemory> {
        // Two keys for each flow at most, and slots a third more than that.
        let buckets = (capacity * 2).div_ceil(WAYS * 3 / 4).max(1);
        Ok(Self {
            buckets: memory.slab(buckets)?,
            entries: memory.slab(capacity)?,
            staged: Entry::new_zeroed(),
            key,
            used: 0,
            touched: 0,
            free: NOWHERE,
            hand: 0,
            swept: Moment::START,
            turns: 0,
        })
    }

    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>() + self.entries.len() * size_of::<Entry<A>>()
    }

    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        prefetch(&self.buckets[self.first(hash)]);
    }

    /// Starts loading the entry at the first position with the right signature, which is nearly always the flow's if
    /// it is there, or else the other bucket, if the flow may lie in that.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) -> Hint {
        let bucket = &self.buckets[self.first(hash)];
        let hint = self.prefetch_entry_in(bucket, hash);
        if hint == Hint::NONE && bucket.spilled != 0 {
            prefetch(&self.buckets[self.second(hash)]);
            return Hint::SPILLED;
        }
        hint
    }

    /// The same in the other bucket.
    #[inline]
    pub fn prefetch_spilled(&self, hash: u64) -> Hint {
        self.prefetch_entry_in(&self.buckets[self.second(hash)], hash)
    }

    #[inline]
    fn prefetch_entry_in(&self, bucket: &Bucket, hash: u64) -> Hint {
        let found = bucket.matching(signature(hash));
        if found == 0 {
            return Hint::NONE;
        }
        let position = bucket.positions[found.trailing_zeros() as usize & (WAYS - 1)];
        if let Some(entry) = self.entries.get((position & !REPLY) as usize) {
            prefetch(entry);
        }
        Hint(position)
    }

    /// The server of the flow at the hinted place, if it is the flow that is looked for and settled.
    #[inline]
    pub fn settled(&self, hint: Hint, flow: &Flow, edition: u16) -> Option<ServerId> {
        let (place, direction) = hint.place();
        let entry = self.entries.get(place as usize)?;
        let found = entry.state.is_settled(direction, edition) && entry.is(flow, direction);
        found.then_some(entry.state.server())
    }

    /// The flow at the hinted place, if it is the one that is looked for.
    #[inline]
    pub fn at_hint(&self, hint: Hint, flow: &Flow, direction: Direction) -> Option<u32> {
        let (place, way) = hint.place();
        // What was there may have gone since, and another flow come.
        let entry = self.entries.get(place as usize).filter(|_| way == direction)?;
        let indexed = direction == Direction::Original || entry.state.translated();
        (indexed && entry.is(flow, direction)).then_some(place)
    }

    #[inline]
    pub fn find(&self, hash: u64, flow: &Flow, direction: Direction) -> Option<u32> {
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
    ) -> Option<u32> {
        let wanted = if direction == Direction::Reply { REPLY } else { 0 };
        let mut candidates = bucket.matching(signature(hash));
        while candidates != 0 {
            let position = bucket.positions[candidates.trailing_zeros() as usize];
            let place = position & !REPLY;
            if position & REPLY == wanted && self.entries[place as usize].is(flow, direction) {
                return Some(place);
            }
            candidates &= candidates - 1;
        }
        None
    }

    #[inline]
    pub fn entry(&self, place: u32) -> &Entry<A> {
        self.entries.get(place as usize).unwrap_or(&self.staged)
    }

    #[inline]
    pub fn state(&mut self, place: u32) -> &mut State {
        match self.entries.get_mut(place as usize) {
            Some(entry) => &mut entry.state,
            None => &mut self.staged.state,
        }
    }

    /// Whether there is an entry to take without another flow's going.
    pub fn has_room(&self) -> bool {
        self.free != NOWHERE || self.touched < self.entries.len()
    }

    /// Puts a flow in; `None`, and no change, if there is no room for it.
    pub fn insert(&mut self, flow: &NewFlow, hash: u64, now: Moment) -> Option<u32> {
        let position = self.take_free()?;
        self.entries[position as usize] = Entry::new(flow, now);
        if !self.index(hash, position) {
            self.give_back(position);
            return None;
        }
        if let Some(reply) = flow.reply()
            && !self.index(self.key.hash(&reply), position | REPLY)
        {
            self.unindex(hash, position);
            self.give_back(position);
            return None;
        }
        self.used += 1;
        Some(position)
    }

    /// Holds a flow that is to be seen at a place of its own and not to be found; `None` if there would be no
    /// room for it.
    pub fn stage(&mut self, flow: &NewFlow, hash: u64, now: Moment) -> Option<u32> {
        if !self.has_room() && self.least_alive(hash, now).is_none() {
            return None;
        }
        self.staged = Entry::new(flow, now);
        Some(STAGE)
    }

    /// Takes a flow out, and gives what it was; `None` for a free entry.
    pub fn remove(&mut self, place: u32) -> Option<Entry<A>> {
        let entry = *self.entries.get(place as usize)?;
        entry.state.state()?;
        self.unindex(self.key.hash(&entry.original()), place);
        if entry.state.translated() {
            self.unindex(self.key.hash(&entry.reply()), place | REPLY);
        }
        self.give_back(place);
        self.used -= 1;
        Some(entry)
    }

    /// The next flow that is due to go, among the few entries whose turn it is; `None` when they have
    /// been looked at.
    pub fn next_expired(
        &mut self,
        now: Moment,
        edition: u16,
        is_over: impl Fn(&State) -> bool,
    ) -> Option<u32> {
        if self.turns == 0 {
            let elapsed = now.since(self.swept).min(ROUND);
            // No overflow: 2^29 entries and 4e9 nanoseconds at most.
            let share = self.touched as u64 * elapsed.as_nanos() as u64 / ROUND.as_nanos() as u64;
            if share == 0 && elapsed < Duration::from_millis(1) {
                return None;
            }
            self.swept = now;
            // One more than there are to look at, so that the last look ends the turn.
            self.turns = (share as usize + 1).min(self.touched).min(MOST_AT_ONCE) + 1;
        }
        let crowded = self.used * 32 > self.capacity() * CROWDED;
        while self.turns > 1 {
            self.turns -= 1;
            self.hand = if self.hand + 1 < self.touched { self.hand + 1 } else { 0 };
            let state = &mut self.entries[self.hand].state;
            let Some(progress) = state.state() else { continue };
            state.unsettle(edition);
            let allowed =
                if crowded { state.timeout.min(patience(progress)) } else { state.timeout };
            if state.idle(now) >= allowed || is_over(state) {
                return Some(self.hand as u32);
            }
        }
        self.turns = 0;
        None
    }

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
            if let Some(state) = entry.state.state().filter(|_| entry.matches(filter)) {
                report(entry.report(state, now));
            }
        }
        (until < self.touched).then_some(until)
    }

    /// The flow that has been idle longest, among the neighbours of a new one that may be let go.
    pub fn least_alive(&self, hash: u64, now: Moment) -> Option<u32> {
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
            let state = &self.entries[position as usize].state;
            let idle = state.idle(now);
            (idle >= patience(state.state()?)).then_some((idle, position))
        };
        positions.filter_map(idle_too_long).max_by_key(|&(idle, _)| idle).map(|(_, place)| place)
    }

    #[inline]
    pub(super) fn first(&self, hash: u64) -> usize {
        reduce(hash as u32, self.buckets.len())
    }

    /// Never the first, unless there is only one.
    #[inline]
    pub(super) fn second(&self, hash: u64) -> usize {
        let others = self.buckets.len().saturating_sub(1).max(1);
        let step = 1 + reduce((hash >> 16) as u32, others);
        let second = self.first(hash) + step;
        if second < self.buckets.len() { second } else { second - self.buckets.len() }
    }

    fn index(&mut self, hash: u64, position: u32) -> bool {
        let [first, second] = [self.first(hash), self.second(hash)];
        let room = |bucket: usize| self.buckets[bucket].matching(0).count_ones();
        let crowded = room(first) <= RESERVE;
        let spills = crowded && room(second) > room(first);
        let chosen = if spills { second } else { first };
        let inserted = self.buckets[chosen].put(signature(hash), position)
            || (self.make_room(chosen) && self.buckets[chosen].put(signature(hash), position));
        self.buckets[first].spilled += u32::from(inserted && spills);
        inserted
    }

    /// Moves one key of a full bucket to its other bucket, if that has room for one.
    #[cold]
    fn make_room(&mut self, bucket: usize) -> bool {
        for slot in 0..WAYS {
            let position = self.buckets[bucket].positions[slot];
            let entry = &self.entries[(position & !REPLY) as usize];
            let flow = if position & REPLY == 0 { entry.original() } else { entry.reply() };
            let hash = self.key.hash(&flow);
            let [first, second] = [self.first(hash), self.second(hash)];
            let (other, spills) = if bucket == first { (second, true) } else { (first, false) };
            if first != second && self.buckets[other].put(signature(hash), position) {
                self.buckets[bucket].signatures[slot] = 0;
                let spilled = &mut self.buckets[first].spilled;
                *spilled = if spills { *spilled + 1 } else { *spilled - 1 };
                return true;
            }
        }
        false
    }

    fn unindex(&mut self, hash: u64, position: u32) {
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

    fn take_free(&mut self) -> Option<u32> {
        if self.free != NOWHERE {
            let position = self.free;
            self.free = self.entries[position as usize].state.timeout;
            return Some(position);
        }
        if self.touched == self.entries.len() {
            return None;
        }
        self.touched += 1;
        Some((self.touched - 1) as u32)
    }

    fn give_back(&mut self, position: u32) {
        let mut free = Entry::<A>::new_zeroed();
        debug_assert_eq!(FREE, 0, "a zeroed entry is a free one");
        free.state.timeout = self.free;
        self.entries[position as usize] = free;
        self.free = position;
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

/// A number below `len`, evenly, without a division (Lemire 2016).
#[inline]
fn reduce(hash: u32, len: usize) -> usize {
    ((u64::from(hash) * len as u64) >> 32) as usize
}

/// The upper bits, never 0: that is an empty slot.
#[inline]
pub fn signature(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}
