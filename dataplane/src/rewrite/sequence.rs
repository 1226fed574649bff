//! Sequence numbers of TCP connections whose stream is not the same on both sides: text in it was
//! replaced by text of another length ([`super::ftp`]), or the server's initial sequence number is not
//! the one that the client was given (SYN cookies). One worker's own table, never shared.
//!
//! - Each direction has two steps, as in Linux' nf_conntrack_seqadj: how far numbers are off before the
//!   last replaced text, and after it. So text may be replaced again once the text replaced before has
//!   been acknowledged; ends that speak in turns, as those of FTP do, see to that.
//! - A segment that holds all of the replaced text begins with it or before it, so that it gets the same
//!   number when it is sent again. That it gets the same new text is for the caller to see to:
//!   [`Adjustments::note`] says whether it may be given any.
//! - An acknowledgement from within the new text acknowledges none of it, because nobody can say which
//!   part of the old text that would be.
//! - Numbers are compared modulo 2^32 (RFC 1982), which works over half of them. Once a stream is
//!   [`SETTLED`] bytes further, its two steps become one.

use crate::hash::{self, Keyed};

/// So far after a replaced text nobody sends it again: no window is as wide (RFC 7323 section 2.3).
const SETTLED: i32 = 1 << 30;

/// Which way a segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

impl Direction {
    /// The other.
    pub const fn reverse(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

/// Some text of a stream that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// The sequence number of its first byte, as its sender counts.
    pub at: u32,
    /// Its length.
    pub old: u16,
    /// The length of what took its place.
    pub new: u16,
}

/// How far one direction's numbers are off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Adjustment {
    /// The first byte of the text that was replaced last, as its sender counts.
    position: u32,
    /// The length that this text had.
    length: u16,
    before: i32,
    after: i32,
}

impl Adjustment {
    /// Without a replaced text.
    fn initial(delta: i32) -> Self {
        Self { before: delta, after: delta, ..Self::default() }
    }

    fn note(&mut self, Replaced { at, old, new }: Replaced) -> bool {
        let longer = i32::from(new) - i32::from(old);
        let is_first = self.before == self.after;
        let is_further = distance(self.position, at) > 0 && distance(self.end(), at) >= 0;
        if is_first || is_further {
            if longer != 0 {
                let (before, after) = (self.after, self.after.wrapping_add(longer));
                *self = Self { position: at, length: old, before, after };
            }
            return true;
        }
        let is_the_same = self.position == at && self.length == old;
        is_the_same && self.after.wrapping_sub(self.before) == longer
    }

    /// The receiver's number for the sender's.
    fn sequence(&mut self, sequence: u32) -> u32 {
        let since = distance(self.position, sequence);
        if since >= SETTLED {
            *self = Self::initial(self.after);
        }
        sequence.wrapping_add_signed(if since > 0 { self.after } else { self.before })
    }

    /// The sender's number for the one that its receiver acknowledges. Within the new text that is
    /// `within`.
    fn undone(&self, acknowledgement: u32, within: u32) -> u32 {
        let begin = self.position.wrapping_add_signed(self.before);
        let end = self.end().wrapping_add_signed(self.after);
        if self.before == self.after || distance(end, acknowledgement) >= 0 {
            acknowledgement.wrapping_add_signed(self.after.wrapping_neg())
        } else if distance(begin, acknowledgement) <= 0 {
            acknowledgement.wrapping_add_signed(self.before.wrapping_neg())
        } else {
            within
        }
    }

    fn acknowledgement(&self, acknowledgement: u32) -> u32 {
        self.undone(acknowledgement, self.position)
    }

    /// A block of bytes that arrived out of order. Half of the new text is none of it; a block that is
    /// nothing else becomes empty, which its receiver ignores.
    fn block(&self, [a, b, c, d, e, f, g, h]: [u8; 8]) -> [u8; 8] {
        let claimed = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        let (from, to) =
            (self.undone(claimed.0, self.end()), self.undone(claimed.1, self.position));
        let is_half = distance(from, to) < 0 && distance(claimed.0, claimed.1) >= 0;
        let to = if is_half { from } else { to };
        let ([a, b, c, d], [e, f, g, h]) = (from.to_be_bytes(), to.to_be_bytes());
        [a, b, c, d, e, f, g, h]
    }

    /// The byte after the old text.
    fn end(&self) -> u32 {
        self.position.wrapping_add(u32::from(self.length))
    }
}

/// How far `to` lies after `from`; less than 0 if it lies before.
fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

/// How a connection was begun in its server's stead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Begun {
    /// The initial sequence number that the client got.
    pub ours: u32,
    /// The client's own.
    pub theirs: u32,
    /// How many bytes the client has room for.
    pub window: u16,
    /// The most bytes that a segment to the client may carry.
    pub mss: u16,
}

/// One connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry {
    place: u32,
    to_server: Adjustment,
    to_client: Adjustment,
    begun: Begun,
}

impl Entry {
    fn direction(&mut self, direction: Direction) -> &mut Adjustment {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }
}

/// The connections of a worker whose numbers are off, by the places of their flows. For any other, numbers
/// stay as they are.
pub struct Adjustments {
    /// Each entry is in the first free slot from the one that its place is hashed to.
    slots: Box<[Option<Entry>]>,
    used: usize,
    capacity: usize,
    hash: Keyed,
}

impl Adjustments {
    /// Room for `capacity` connections; `key` must be random.
    pub fn new(capacity: usize, key: [u64; 2]) -> Self {
        // A quarter stays free, and at least one slot, so that looking for an entry ends soon.
        let slots = vec![None; capacity + capacity.div_ceil(3) + 1].into();
        Self { slots, used: 0, capacity, hash: Keyed::new(key) }
    }

    /// The numbers of a direction are off by `delta` from the first: the receiver's less the sender's.
    /// `false` if there is no room.
    pub fn set_initial(&mut self, place: u32, direction: Direction, delta: i32) -> bool {
        let entry = self.find_or_add(place);
        entry.map(|it| *it.direction(direction) = Adjustment::initial(delta)).is_some()
    }

    /// Remembers how a connection was begun. `false` if there is no room.
    pub fn begin(&mut self, place: u32, begun: Begun) -> bool {
        self.find_or_add(place).map(|it| it.begun = begun).is_some()
    }

    /// How a connection was begun.
    pub fn begun(&mut self, place: u32) -> Option<Begun> {
        self.find(place).map(|entry| entry.begun)
    }

    /// What is known of a connection, for [`Adjustments::put_back`].
    pub fn entry(&mut self, place: u32) -> Option<Entry> {
        self.find(place).copied()
    }

    /// Knows of a connection what was known of it before.
    pub fn put_back(&mut self, place: u32, entry: Option<Entry>) {
        match (entry, self.find(place)) {
            (Some(before), Some(entry)) => *entry = before,
            (None, Some(_)) => self.remove(place),
            (_, None) => {}
        }
    }

    /// Notes that text of a direction is replaced. `false` if it must not be: because there is no room, or
    /// because other text has been replaced there or further on.
    pub fn note(&mut self, place: u32, direction: Direction, replaced: Replaced) -> bool {
        let entry = self.find_or_add(place);
        entry.is_some_and(|entry| entry.direction(direction).note(replaced))
    }

    /// The sequence number that a segment is to go on with.
    pub fn sequence(&mut self, place: u32, direction: Direction, sequence: u32) -> u32 {
        match self.find(place) {
            Some(entry) => entry.direction(direction).sequence(sequence),
            None => sequence,
        }
    }

    /// The acknowledgement number that a segment is to go on with.
    pub fn acknowledgement(
        &mut self,
        place: u32,
        direction: Direction,
        acknowledgement: u32,
    ) -> u32 {
        match self.find(place) {
            Some(entry) => entry.direction(direction.reverse()).acknowledgement(acknowledgement),
            None => acknowledgement,
        }
    }

    /// Mends the selective acknowledgements (RFC 2018) among the TCP options of a segment. `true` if there
    /// are any, so that the checksum has to follow.
    pub fn selective(&mut self, place: u32, direction: Direction, options: &mut [u8]) -> bool {
        let Some(entry) = self.find(place) else {
            return false;
        };
        let adjustment = *entry.direction(direction.reverse());
        let mut found = false;
        for block in blocks(options) {
            found = true;
            *block = adjustment.block(*block);
        }
        found
    }

    /// Forgets a connection.
    pub fn remove(&mut self, place: u32) {
        let mut hole = self.position(place);
        if self.slots[hole].take().is_none() {
            return;
        }
        self.used -= 1;
        // Entries that lie further on than the hole because of what was in it move up.
        let mut slot = self.next(hole);
        while let Some(entry) = self.slots[slot] {
            let home = self.home(entry.place);
            if self.steps(home, hole) < self.steps(home, slot) {
                self.slots.swap(hole, slot);
                hole = slot;
            }
            slot = self.next(slot);
        }
    }

    fn find(&mut self, place: u32) -> Option<&mut Entry> {
        let slot = self.position(place);
        self.slots[slot].as_mut()
    }

    fn find_or_add(&mut self, place: u32) -> Option<&mut Entry> {
        let slot = self.position(place);
        if self.slots[slot].is_none() {
            if self.used == self.capacity {
                return None;
            }
            self.used += 1;
            self.slots[slot] = Some(Entry { place, ..Entry::default() });
        }
        self.slots[slot].as_mut()
    }

    /// The slot that an entry has, or would have.
    fn position(&self, place: u32) -> usize {
        let mut slot = self.home(place);
        // Ends, because there is always a free slot.
        while self.slots[slot].is_some_and(|entry| entry.place != place) {
            slot = self.next(slot);
        }
        slot
    }

    /// Where looking for an entry begins.
    fn home(&self, place: u32) -> usize {
        hash::place(self.hash.of([u64::from(place)]) as u32, self.slots.len())
    }

    fn next(&self, slot: usize) -> usize {
        if slot + 1 < self.slots.len() { slot + 1 } else { 0 }
    }

    /// How many slots `to` is further on than `from`.
    fn steps(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.slots.len() - from }
    }
}

/// The kinds of TCP options (RFC 9293 section 3.1, RFC 2018 section 3) that matter here.
mod option {
    pub const END: u8 = 0;
    pub const NOTHING: u8 = 1;
    pub const SELECTIVE_ACKNOWLEDGEMENT: u8 = 5;
}

/// The blocks of bytes selectively acknowledged, up to the first option that makes no sense.
fn blocks(mut options: &mut [u8]) -> impl Iterator<Item = &mut [u8; 8]> {
    let selective = std::iter::from_fn(move || {
        loop {
            let (length, blocks) = match *options {
                [] | [option::END, ..] => return None,
                [option::NOTHING, ..] => (1, false),
                [kind, length, ..] if length >= 2 => {
                    (usize::from(length), kind == option::SELECTIVE_ACKNOWLEDGEMENT)
                }
                _ => return None,
            };
            let (this, rest) = std::mem::take(&mut options).split_at_mut_checked(length)?;
            options = rest;
            if blocks {
                return this.get_mut(2..);
            }
        }
    });
    selective.flat_map(|blocks| blocks.as_chunks_mut::<8>().0)
}

#[cfg(test)]
mod tests;
