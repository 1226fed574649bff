//! A map from 64-bit keys to 64-bit values that all workers share: nobody locks, and every wait for
//! another thread ends after a few dozen looks. Keys are keyed fingerprints, well mixed, so a bucket is
//! named by the key itself. The capacity is fixed.
//!
//! Four slots of 16 bytes, each a tag and a value, make a bucket of one cache line; a key may lie in either
//! of two buckets. Entries never move. A slot goes round in one circle:
//!
//! | tag | value | the slot is                       | next step, and who may take it               |
//! |-----|-------|-----------------------------------|----------------------------------------------|
//! | 0   | 0     | free                              | tag 0 → key: any inserter that wins the swap |
//! | key | 0     | claimed                           | value → sealed, or tag → 0: the claimant     |
//! | key | sealed| an entry                          | value → another or 0: whoever wins the swap  |
//! | key | 0     | emptied                           | tag → 0: who won                             |
//!
//! A tag therefore never changes from one key to another directly, and a free slot's value is 0.
//!
//! **One entry per key.** A claimant looks at every other slot that the key may have before it writes its
//! value, and writes it only when each of them, after the claim, was seen once without the key. Of two
//! claims on one key, one is earlier in the single order of sequentially consistent operations; the
//! later claimant looks after both, so it sees the earlier one's tag for as long as that lasts, and
//! does not write before the earlier slot was free again. Two entries of one key are never
//! there together, however many inserters, removers and stalled threads there are. Progress is a second
//! rule: a claimant that sees an entry gives way to it; one that sees another claim gives way if that is on
//! a lower slot, and otherwise waits for it. Only the lowest waits while it holds a claim, so
//! no circle of waiting forms. Who has waited for `PATIENCE` looks (a claimant's thread was suspended)
//! takes its claim back and reports [`Inserted::Full`].
//!
//! **A value belongs to its key.** Between reading a tag and swapping the value, a slot may be emptied and
//! claimed for another key whose value is the same. Values are therefore stored sealed: combined with a
//! number made from the key, so that a swap meant for one key's value fails on any other key's. (It could
//! succeed only on a value that differs from the expected one exactly as the seals do: one in 2^64.) If the
//! slot went round and holds the same key and value again, the swap is as good as one made later.
//!
//! **What a reader returns.** It loads tag, value, tag, value, and answers only if the tags are the key
//! and the values alike. Each load acquires. A value written under another key means that the second
//! tag is that key's or newer, so the reader sees it, unless the slot went back to its own key
//! meanwhile; then the second value differs, unless the slot went round yet again, to the other key and
//! the same value. That takes six inserts and removals of two keys in one slot, spread over
//! the gaps between four loads in a row; a reader that must exclude even this checks what the value names.
//! A reader that finds only claims looks again, `PATIENCE` times, and then says that there is nothing. A
//! key that is removed and inserted again elsewhere while a reader passes may be missed: it was absent
//! for a moment.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::FromZeros;

use crate::lookup::slab::{Memory, OutOfMemory, Slab};

/// Slots in a bucket.
const WAYS: usize = 4;
/// Slots that a key may have.
pub const SLOTS_OF_A_KEY: usize = 2 * WAYS;
/// How often one looks for what another thread is about to write.
const PATIENCE: u32 = 48;

#[derive(FromZeros)]
#[repr(C)]
struct Slot {
    tag: AtomicU64,
    value: AtomicU64,
}

#[derive(FromZeros)]
#[repr(C, align(64))]
struct Bucket([Slot; WAYS]);

const _: () = assert!(size_of::<Bucket>() == 64);

/// A map that all workers share.
pub struct SharedMap {
    buckets: Slab<Bucket>,
}

/// What became of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The key is there with this value now.
    New,
    /// The key was there before, with another or the same value, and keeps it.
    Already(u64),
    /// Both buckets of the key are full, or another thread stopped in the middle of inserting it.
    Full,
}

/// What is to become of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It goes, unless its value has changed meanwhile.
    Remove,
}

/// What the slots of a key show.
enum Sight {
    Absent,
    /// Somebody is writing: the lowest slot where, if there are several.
    Claimed(usize),
    /// An entry, and its sealed value.
    Entry(u64),
}

impl SharedMap {
    /// A map with room for `capacity` entries. It has twice as many slots, because a key has only two
    /// buckets: of `capacity` keys, about 4 in 100,000 then find both full.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(capacity: usize, memory: &impl Memory) -> Result<Self, OutOfMemory> {
        let buckets = capacity.div_ceil(WAYS / 2).max(2);
        Ok(Self { buckets: memory.slab(buckets)? })
    }

    /// How many buckets there are.
    #[inline]
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// The two buckets that `key` may lie in.
    #[inline]
    pub fn buckets_of(&self, key: u64) -> [usize; 2] {
        let share = |draw: u64| ((draw * self.buckets.len() as u64) >> 32) as usize;
        let (first, second) = (share(key >> 32), share(key & u64::from(u32::MAX)));
        if first != second {
            return [first, second];
        }
        [first, if first + 1 < self.buckets.len() { first + 1 } else { 0 }]
    }

    /// The value of `key`.
    #[inline]
    pub fn get(&self, key: u64) -> Option<u64> {
        let key = tag(key);
        for _ in 0..PATIENCE {
            match self.look(key, None) {
                Sight::Absent => return None,
                Sight::Claimed(_) => std::hint::spin_loop(),
                Sight::Entry(sealed) => return Some(sealed ^ seal(key)),
            }
        }
        None
    }

    /// Gives `key` a value, if it has none. 0 is not a value, and refused.
    pub fn insert(&self, key: u64, value: u64) -> Inserted {
        let key = tag(key);
        let Some(sealed) = sealed(key, value) else { return Inserted::Full };
        for _ in 0..PATIENCE {
            match self.look(key, None) {
                Sight::Entry(sealed) => return Inserted::Already(sealed ^ seal(key)),
                Sight::Claimed(_) => std::hint::spin_loop(),
                Sight::Absent => {
                    let Some((place, slot)) = self.claim(key) else { return Inserted::Full };
                    gap();
                    if self.settle(key, place) {
                        gap();
                        slot.value.store(sealed, Ordering::Release);
                        return Inserted::New;
                    }
                    slot.tag.store(0, Ordering::Release);
                }
            }
        }
        Inserted::Full
    }

    /// Gives `key` the value `new` if it has the value `old`; `false` if it has not.
    pub fn replace(&self, key: u64, old: u64, new: u64) -> bool {
        let key = tag(key);
        let (Some(old), Some(new)) = (sealed(key, old), sealed(key, new)) else { return false };
        self.slots(key)
            .any(|(_, slot)| slot.tag.load(Ordering::Acquire) == key && slot.swap(old, new))
    }

    /// Removes `key` if it has this value; `true` for the one caller who did it.
    pub fn remove(&self, key: u64, value: u64) -> bool {
        let key = tag(key);
        let Some(sealed) = sealed(key, value) else { return false };
        self.slots(key)
            .any(|(_, slot)| slot.tag.load(Ordering::Acquire) == key && slot.empty(sealed))
    }

    /// Shows `judge` every entry in these buckets, and removes those it wants removed. Returns how many
    /// that were.
    pub fn for_each_in(
        &self,
        buckets: Range<usize>,
        mut judge: impl FnMut(u64, u64) -> Verdict,
    ) -> usize {
        let end = buckets.end.min(self.buckets.len());
        let buckets = self.buckets.get(buckets.start.min(end)..end).unwrap_or_default();
        let mut removed = 0;
        for slot in buckets.iter().flat_map(|bucket| &bucket.0) {
            let key = slot.tag.load(Ordering::Acquire);
            let Sight::Entry(sealed) = slot.look(key, 0) else { continue };
            if judge(key, sealed ^ seal(key)) == Verdict::Remove && slot.empty(sealed) {
                removed += 1;
            }
        }
        removed
    }

    /// The slots that `key` may have, and their numbers.
    #[inline]
    fn slots(&self, key: u64) -> impl Iterator<Item = (usize, &Slot)> {
        self.buckets_of(key).into_iter().flat_map(|bucket| self.slots_in(bucket))
    }

    #[inline]
    fn slots_in(&self, bucket: usize) -> impl Iterator<Item = (usize, &Slot)> {
        let slots = self.buckets.get(bucket).map(|bucket| &bucket.0).into_iter().flatten();
        slots.enumerate().map(move |(way, slot)| (bucket * WAYS + way, slot))
    }

    /// What the slots of `key` show, apart from one's `own`.
    #[inline]
    fn look(&self, key: u64, own: Option<usize>) -> Sight {
        let mut lowest = None;
        for (place, slot) in self.slots(key) {
            if Some(place) == own {
                continue;
            }
            match slot.look(key, place) {
                Sight::Absent => {}
                Sight::Claimed(place) => {
                    lowest = Some(lowest.map_or(place, |lowest: usize| lowest.min(place)));
                }
                entry => return entry,
            }
        }
        lowest.map_or(Sight::Absent, Sight::Claimed)
    }

    /// Puts the tag on a free slot, in the bucket that has more of them.
    fn claim(&self, key: u64) -> Option<(usize, &Slot)> {
        let free = |slot: &Slot| slot.tag.load(Ordering::Relaxed) == 0;
        let room = |bucket| self.slots_in(bucket).filter(|(_, slot)| free(slot)).count();
        let [first, second] = self.buckets_of(key);
        let order = if room(second) > room(first) { [second, first] } else { [first, second] };
        let mut slots = order.into_iter().flat_map(|bucket| self.slots_in(bucket));
        slots.find(|(_, slot)| {
            let swap = |order| slot.tag.compare_exchange(0, key, order, Ordering::Relaxed);
            free(slot) && swap(Ordering::SeqCst).is_ok()
        })
    }

    /// Whether the claimant of the slot `own` may write its value; if not, it must take its claim back.
    fn settle(&self, key: u64, own: usize) -> bool {
        for _ in 0..PATIENCE {
            match self.look(key, Some(own)) {
                Sight::Absent => return true,
                Sight::Claimed(other) if other > own => std::hint::spin_loop(),
                Sight::Claimed(_) | Sight::Entry(_) => return false,
            }
        }
        false
    }
}

impl Slot {
    /// What it shows of `key`.
    #[inline]
    fn look(&self, key: u64, place: usize) -> Sight {
        let is_ours = || self.tag.load(Ordering::SeqCst) == key;
        if key == 0 || !is_ours() {
            return Sight::Absent;
        }
        gap();
        let sealed = self.value.load(Ordering::Acquire);
        gap();
        if !is_ours() {
            return Sight::Absent;
        }
        gap();
        if sealed == 0 || self.value.load(Ordering::Acquire) != sealed {
            return Sight::Claimed(place); // or just changed: worth another look
        }
        Sight::Entry(sealed)
    }

    fn swap(&self, old: u64, new: u64) -> bool {
        gap();
        self.value.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Ends the entry, if it has this value; `true` for the one caller who did it.
    fn empty(&self, sealed: u64) -> bool {
        let ended = self.swap(sealed, 0);
        if ended {
            gap();
            self.tag.store(0, Ordering::Release);
        }
        ended
    }
}

/// The tag of a key: the key, except that 0 marks a free slot.
#[inline]
fn tag(key: u64) -> u64 {
    key.max(1)
}

/// What a key's values are combined with.
#[inline]
fn seal(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A value as it is stored under `key`; `None` for those (0, and one in 2^64) that would look like none.
#[inline]
fn sealed(key: u64, value: u64) -> Option<u64> {
    let sealed = value ^ seal(key);
    (value != 0 && sealed != 0).then_some(sealed)
}

/// Where another thread's step changes what comes next. Nothing, except in tests: there one comes.
#[cfg(not(test))]
#[inline(always)]
fn gap() {}

#[cfg(test)]
use tests::gap;

#[cfg(test)]
mod tests;
