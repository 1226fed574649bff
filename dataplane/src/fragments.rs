//! Which flow the fragments of a datagram belong to (RFC 791 section 3.2, RFC 8200 section 4.5). One
//! worker's own table, never shared.
//!
//! Only the first fragment has the ports. It is remembered for [`TIMEOUT`], and the fragments that come
//! later get its ports from here; nothing is put together and no fragment is held. One that comes before
//! the first is [`Verdict::Unknown`].
//!
//! - Which parts of a datagram have come is remembered too. A fragment that overlaps another, lies
//!   beyond the end or sets a second end condemns the datagram: nothing more of it gets through
//!   (RFC 5722), because each receiver would read such a datagram in its own way.
//! - The network may duplicate an IPv4 packet, so a fragment of exactly the same bytes as an earlier one
//!   passes again. What is in it cannot be compared, except the ports. In IPv6, where duplicates need not
//!   be told from overlaps, it condemns the datagram. (RFC 8200 lets both be done.)
//! - A datagram of which everything has come is forgotten at once, so that its identification may be used
//!   again.
//! - A full table refuses new datagrams. One that has been incomplete for [`PATIENCE`] may have to go for
//!   a new one, the oldest first; a younger one is never pushed out, so whoever wants the table for himself
//!   has to fill it anew in each second.

use std::time::Duration;

use arrayvec::ArrayVec;

use crate::hash::{Keyed, place};
use crate::moment::Moment;
use crate::wire::Address;

/// How long a datagram is remembered after its first fragment.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// How long an incomplete datagram is safe in a full table.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Entries in a bucket. A datagram may lie in either of two buckets.
const WAYS: usize = 8;
/// The most parts of one datagram, with gaps between them, that are remembered.
const PARTS: usize = 16;

/// What the fragments of one datagram have in common.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Datagram {
    source: Address,
    destination: Address,
    protocol: u8,
    identification: u32,
}

impl Datagram {
    /// `protocol` counts in IPv4 alone: in IPv6 only the first fragment need tell the truth about it.
    pub fn new(
        (source, destination): (Address, Address),
        protocol: u8,
        identification: u32,
    ) -> Self {
        let protocol = if source.is_v4() { protocol } else { 0 };
        Self { source, destination, protocol, identification }
    }

    /// The most bytes that may follow the IP header.
    fn longest(&self) -> u32 {
        if self.source.is_v4() { 65_535 - 20 } else { 65_535 }
    }
}

/// Which bytes of its datagram a fragment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins: 8 times what the header says.
    pub offset: u16,
    /// How many bytes it holds.
    pub length: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

impl Piece {
    fn part_of(self, datagram: &Datagram) -> Option<Part> {
        let end = u32::from(self.offset) + u32::from(self.length);
        let possible = self.length > 0
            && self.offset.is_multiple_of(8)
            && (self.length.is_multiple_of(8) || !self.more)
            && end <= datagram.longest();
        possible.then_some(Part { start: self.offset, end: end as u16 })
    }
}

/// What is to become of a fragment. All but the first go no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to the flow with these ports.
    Ports(u16, u16),
    /// The first fragment of its datagram has not been seen.
    Unknown,
    /// It contradicts another fragment of its datagram, or an earlier one did.
    Overlapping,
    /// There is no room for its datagram, or for one more gap in it.
    Full,
    /// No datagram can have such a fragment.
    Malformed,
}

/// Some bytes of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    start: u16,
    end: u16,
}

/// The bytes of a datagram that have come, in order. Neighbours are merged only when there is no more
/// room, so that a duplicate is known for one in all but datagrams of many fragments.
#[derive(Clone, Default)]
struct Parts(ArrayVec<Part, { PARTS + 1 }>);

/// What a part is to those that came before it.
#[derive(Debug, PartialEq, Eq)]
enum Arrival {
    New,
    Duplicate,
    Overlap,
    NoRoom,
}

impl Parts {
    fn add(&mut self, part: Part) -> Arrival {
        let at = self.0.partition_point(|known| known.start < part.start);
        let (before, after) = self.0.split_at(at);
        if after.first() == Some(&part) {
            return Arrival::Duplicate;
        }
        if before.last().is_some_and(|known| known.end > part.start)
            || after.first().is_some_and(|known| known.start < part.end)
        {
            return Arrival::Overlap;
        }
        if self.0.try_insert(at, part).is_err() {
            return Arrival::NoRoom; // cannot be: there are never more than `PARTS` here
        }
        if self.0.len() > PARTS {
            self.merge();
        }
        if self.0.len() > PARTS {
            self.0.pop_at(at); // nothing was merged, so it is where it was put
            return Arrival::NoRoom;
        }
        Arrival::New
    }

    fn merge(&mut self) {
        let mut merged = ArrayVec::<Part, { PARTS + 1 }>::new();
        for part in self.0.drain(..) {
            match merged.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => merged.push(part), // as much room as there was
            }
        }
        self.0 = merged;
    }

    /// Where the last of them ends.
    fn end(&self) -> u16 {
        self.0.last().map_or(0, |part| part.end)
    }
}

/// A datagram whose first fragment has come.
#[derive(Clone, Default)]
struct Entry {
    datagram: Datagram,
    born: Moment,
    ports: (u16, u16),
    condemned: bool,
    /// Where the datagram ends, once its last fragment has come.
    end: Option<u16>,
    received: Parts,
    /// Bytes in all those parts.
    bytes: u16,
}

impl Entry {
    fn receive(&mut self, part: Part, more: bool) -> Verdict {
        let verdict = if self.condemned || self.contradicts(part, more) {
            Verdict::Overlapping
        } else {
            match self.received.add(part) {
                Arrival::New => {
                    self.bytes += part.end - part.start; // no overlaps, so at most 65,535
                    self.end = if more { self.end } else { Some(part.end) };
                    Verdict::Ports(self.ports.0, self.ports.1)
                }
                Arrival::Duplicate if self.datagram.source.is_v4() && self.ends_at(part, more) => {
                    Verdict::Ports(self.ports.0, self.ports.1)
                }
                Arrival::Duplicate | Arrival::Overlap => Verdict::Overlapping,
                Arrival::NoRoom => Verdict::Full,
            }
        };
        self.condemned |= verdict == Verdict::Overlapping;
        verdict
    }

    /// Whether both this part and those before it cannot be right about where the datagram ends.
    fn contradicts(&self, part: Part, more: bool) -> bool {
        match self.end {
            Some(end) if more => part.end >= end,
            Some(end) => part.end != end,
            None => !more && part.end < self.received.end(),
        }
    }

    /// Whether a part that came before said of the end what it says now.
    fn ends_at(&self, part: Part, more: bool) -> bool {
        more || self.end == Some(part.end)
    }

    fn is_complete(&self) -> bool {
        self.end == Some(self.bytes) && !self.condemned
    }
}

/// The datagrams of which a worker has seen the first fragment and not yet all.
pub struct Fragments {
    /// A few bits of each entry's hash; 0 for one that is free.
    tags: Box<[[u32; WAYS]]>,
    /// Those of the first bucket, of the second, and so on.
    entries: Box<[[Entry; WAYS]]>,
    hash: Keyed,
}

/// Where an entry is.
#[derive(Clone, Copy)]
struct Slot {
    bucket: usize,
    way: usize,
}

impl Fragments {
    /// Room for `capacity` datagrams, or a few more; `key` must be random.
    pub fn new(capacity: usize, key: [u64; 2]) -> Self {
        let buckets = capacity.div_ceil(WAYS).max(1);
        Self {
            tags: vec![[0; WAYS]; buckets].into(),
            entries: vec![<[Entry; WAYS]>::default(); buckets].into(),
            hash: Keyed::new(key),
        }
    }

    /// A first fragment, with the ports that it holds. That it is long enough to hold them is for the
    /// caller to see to.
    pub fn first(
        &mut self,
        datagram: Datagram,
        ports: (u16, u16),
        piece: Piece,
        now: Moment,
    ) -> Verdict {
        let Some(part) = piece.part_of(&datagram).filter(|part| part.start == 0) else {
            return Verdict::Malformed;
        };
        if !piece.more {
            // All of its datagram, and none of any other (RFC 6946).
            return Verdict::Ports(ports.0, ports.1);
        }
        let hash = self.hash(&datagram);
        if let Some(slot) = self.find(&datagram, hash, now) {
            let entry = &mut self.entries[slot.bucket][slot.way];
            entry.condemned |= entry.ports != ports;
            return entry.receive(part, true);
        }
        let Some(slot) = self.room(hash, now) else {
            return Verdict::Full;
        };
        self.tags[slot.bucket][slot.way] = tag(hash);
        let entry = &mut self.entries[slot.bucket][slot.way];
        *entry = Entry { datagram, born: now, ports, ..Entry::default() };
        entry.receive(part, true)
    }

    /// Any other fragment.
    pub fn later(&mut self, datagram: Datagram, piece: Piece, now: Moment) -> Verdict {
        let Some(part) = piece.part_of(&datagram).filter(|part| part.start > 0) else {
            return Verdict::Malformed;
        };
        let Some(slot) = self.find(&datagram, self.hash(&datagram), now) else {
            return Verdict::Unknown;
        };
        let entry = &mut self.entries[slot.bucket][slot.way];
        let verdict = entry.receive(part, piece.more);
        if entry.is_complete() {
            self.tags[slot.bucket][slot.way] = 0;
        }
        verdict
    }

    /// Asks about a fragment of this datagram, and remembers nothing of it.
    pub fn rehearse<T>(&mut self, datagram: &Datagram, ask: impl FnOnce(&mut Self) -> T) -> T {
        let hash = self.hash(datagram);
        let buckets = self.buckets_of(hash);
        let before = buckets.map(|bucket| (self.tags[bucket], self.entries[bucket].clone()));
        let answer = ask(self);
        for (bucket, (tags, entries)) in buckets.into_iter().zip(before) {
            (self.tags[bucket], self.entries[bucket]) = (tags, entries);
        }
        answer
    }

    fn buckets_of(&self, hash: u64) -> [usize; 2] {
        [hash as u32, (hash >> 32) as u32].map(|bits| place(bits, self.tags.len()))
    }

    fn hash(&self, datagram: &Datagram) -> u64 {
        let halves = |address: Address| [address.bits() as u64, (address.bits() >> 64) as u64];
        let ([a, b], [c, d]) = (halves(datagram.source), halves(datagram.destination));
        let rest = u64::from(datagram.protocol) << 32 | u64::from(datagram.identification);
        self.hash.of([a, b, c, d, rest])
    }

    /// Every slot in which a datagram of this hash may lie.
    fn slots(&self, hash: u64) -> impl Iterator<Item = Slot> + use<> {
        self.buckets_of(hash)
            .into_iter()
            .flat_map(|bucket| (0..WAYS).map(move |way| Slot { bucket, way }))
    }

    /// How long the datagram in a slot has been there; `None` if there is none, or was one too long ago.
    fn age(&self, slot: Slot, now: Moment) -> Option<Duration> {
        let taken = self.tags[slot.bucket][slot.way] != 0;
        let age = taken.then(|| now.since(self.entries[slot.bucket][slot.way].born));
        age.filter(|&age| age < TIMEOUT)
    }

    fn find(&self, datagram: &Datagram, hash: u64, now: Moment) -> Option<Slot> {
        self.slots(hash).find(|&slot| {
            self.tags[slot.bucket][slot.way] == tag(hash)
                && self.entries[slot.bucket][slot.way].datagram == *datagram
                && self.age(slot, now).is_some()
        })
    }

    /// A slot for a new datagram: one that is free, or else the oldest that may have to go.
    fn room(&self, hash: u64, now: Moment) -> Option<Slot> {
        // A free one counts as the oldest of all.
        let age = |slot: Slot| self.age(slot, now).unwrap_or(TIMEOUT);
        let oldest = self.slots(hash).max_by_key(|&slot| age(slot))?;
        (age(oldest) >= PATIENCE).then_some(oldest)
    }
}

/// Never 0, which marks a free entry.
fn tag(hash: u64) -> u32 {
    (hash >> 16) as u32 | 1
}

#[cfg(test)]
mod tests;
