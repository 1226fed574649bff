//! Step 4b: the server that a client was sent to before, for services that want a client to stay (FEATURES
//! PER-01, PER-02, PER-11, PER-15). One table for all workers, because a client's next connection may come
//! in on another queue.
//!
//! A client is its address, masked as the group says; a group is a set of services that share their clients'
//! servers. An entry is the server and the second it expires in, so the timer may differ from group to
//! group, and a sweep needs to know none of them. Keys are hashed with a secret, so that nobody can crowd
//! chosen clients out; it also means that an entry does not tell whose it is.
//!
//! Time is counted in whole seconds: an entry lasts for its timeout and up to a second longer. Each
//! connection restarts the timer, but a busy client's entry is written once a second at most, so
//! that its cache line is not passed from core to core. A server that is drained or gone is not this
//! table's business: the caller who may not use what it found chooses again, and remembers that.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};

use crossbeam_utils::CachePadded;

use super::slab::{Memory, OutOfMemory};
use crate::moment::Moment;
use crate::shared_map::{Inserted, SLOTS_OF_A_KEY, SharedMap, Verdict};
use crate::wire::Address;

/// Buckets that a sweep looks at in one call.
const BUCKETS_AT_ONCE: usize = 8;
/// How often a change is tried again that another worker's came before.
const TRIES: usize = 4;

/// The servers that clients were sent to before, shared by all workers.
pub struct Persistence {
    map: SharedMap,
    secret: [u64; 2],
    entries: CachePadded<AtomicI64>,
}

/// What [`Persistence::remember`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembered {
    /// The client was not known, or no longer.
    New,
    /// As [`Remembered::New`], and another client was forgotten to make room for this one.
    Evicted,
    /// The client was known with this server; its timer starts anew.
    Renewed,
    /// The client was known with this server, and its timer has just been started: nothing was written.
    Known,
    /// The client was known with another server.
    Moved,
    /// Other workers were changing the same entries; the client may be known or not.
    Refused,
}

/// One worker's part of the table, and how far its sweep has come.
pub struct Share {
    buckets: Range<usize>,
    next: usize,
}

/// An entry's value: the server in the upper half, the second it expires in in the lower.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stay {
    server: u32,
    expires: u32,
}

impl Persistence {
    /// Room for `capacity` clients. The secret is random, unless nodes share their entries.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(
        capacity: usize,
        secret: [u64; 2],
        memory: &impl Memory,
    ) -> Result<Self, OutOfMemory> {
        let map = SharedMap::new(capacity, memory)?;
        Ok(Self { map, secret, entries: CachePadded::default() })
    }

    /// The server that a client of `group` was sent to, unless that is too long ago. `mask` is how many bits
    /// of its address count.
    #[inline]
    pub fn find(&self, group: u64, client: Address, mask: u8, now: Moment) -> Option<u32> {
        let key = self.key(group, client, mask);
        let value = self.map.get(key)?;
        let stay = Stay::from(value);
        if stay.is_over(now) {
            self.remove(key, value);
            return None;
        }
        Some(stay.server)
    }

    /// As [`Persistence::find`], and an entry whose time is over stays where it is.
    pub fn peek(&self, group: u64, client: Address, mask: u8, now: Moment) -> Option<u32> {
        let stay = Stay::from(self.map.get(self.key(group, client, mask))?);
        (!stay.is_over(now)).then_some(stay.server)
    }

    /// Notes that a connection of this client goes to `server` (not 0, which is refused), and starts the
    /// client's timer anew. If there is no room, the entry that would expire first goes: of entries with
    /// the same timeout, the one idle longest.
    pub fn remember(
        &self,
        group: u64,
        client: Address,
        mask: u8,
        server: u32,
        timeout_seconds: u32,
        now: Moment,
    ) -> Remembered {
        if server == 0 {
            return Remembered::Refused;
        }
        let key = self.key(group, client, mask);
        let stay = Stay { server, expires: seconds(now).saturating_add(timeout_seconds) };
        let mut inserted = Remembered::New;
        for _ in 0..TRIES {
            match self.map.insert(key, stay.value()) {
                Inserted::New => {
                    self.entries.fetch_add(1, Ordering::Relaxed);
                    return inserted;
                }
                Inserted::Already(value) => {
                    let before = Stay::from(value);
                    if stay.is_known_by(before) {
                        return Remembered::Known;
                    }
                    if self.map.replace(key, value, stay.value()) {
                        return match before {
                            _ if before.is_over(now) => Remembered::New,
                            _ if before.server == server => Remembered::Renewed,
                            _ => Remembered::Moved,
                        };
                    }
                }
                Inserted::Full => {
                    if self.make_room(key, now) {
                        inserted = Remembered::Evicted;
                    }
                }
            }
        }
        Remembered::Refused
    }

    /// Forgets where a client was sent; `false` if that was not known.
    pub fn forget(&self, group: u64, client: Address, mask: u8) -> bool {
        let key = self.key(group, client, mask);
        (0..TRIES).map_while(|_| self.map.get(key)).any(|value| self.remove(key, value))
    }

    /// The part of the table that worker number `worker` of `workers` sweeps.
    pub fn share(&self, worker: usize, workers: usize) -> Share {
        let edge = |worker| self.map.buckets() * worker / workers.max(1);
        let buckets = edge(worker)..edge(worker + 1);
        Share { next: buckets.start, buckets }
    }

    /// Looks at the next few buckets of a share, and removes what has expired. Returns how many entries
    /// that were.
    pub fn sweep(&self, share: &mut Share, now: Moment) -> usize {
        let end = share.buckets.end.min(share.next + BUCKETS_AT_ONCE);
        let removed = self.map.for_each_in(share.next..end, |_, value| {
            if Stay::from(value).is_over(now) { Verdict::Remove } else { Verdict::Keep }
        });
        share.next = if end == share.buckets.end { share.buckets.start } else { end };
        if removed > 0 {
            self.entries.fetch_sub(removed as i64, Ordering::Relaxed);
        }
        removed
    }

    /// How many entries there are, the expired ones included that no sweep has come to yet.
    pub fn len(&self) -> usize {
        usize::try_from(self.entries.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many buckets there are to count in.
    pub fn buckets(&self) -> usize {
        self.map.buckets()
    }

    /// How many clients stay with each server, in some of the buckets; for the control plane.
    pub fn counts(&self, buckets: Range<usize>, now: Moment) -> HashMap<u32, usize> {
        let mut counts = HashMap::new();
        self.map.for_each_in(buckets, |_, value| {
            let stay = Stay::from(value);
            if !stay.is_over(now) {
                *counts.entry(stay.server).or_default() += 1;
            }
            Verdict::Keep
        });
        counts
    }

    /// Lets the entry go that expires first, if entries fill both buckets of `key`; `true` if it had not
    /// expired yet.
    fn make_room(&self, key: u64, now: Moment) -> bool {
        let (mut first, mut entries) = (None::<(u32, u64, u64)>, 0);
        for bucket in self.map.buckets_of(key) {
            self.map.for_each_in(bucket..bucket + 1, |key, value| {
                entries += 1;
                let expires = Stay::from(value).expires;
                if first.is_none_or(|(earliest, ..)| expires < earliest) {
                    first = Some((expires, key, value));
                }
                Verdict::Keep
            });
        }
        // Fewer entries than slots: another worker has just made room, or is about to fill it.
        let Some((_, key, value)) = first.filter(|_| entries == SLOTS_OF_A_KEY) else {
            return false;
        };
        self.remove(key, value) && !Stay::from(value).is_over(now)
    }

    fn remove(&self, key: u64, value: u64) -> bool {
        let removed = self.map.remove(key, value);
        if removed {
            self.entries.fetch_sub(1, Ordering::Relaxed);
        }
        removed
    }

    /// A client of a group in one number.
    #[inline]
    fn key(&self, group: u64, client: Address, mask: u8) -> u64 {
        let client = client.network(mask).bits();
        let [first, second] = self.secret;
        let client = fold((client >> 64) as u64 ^ first, client as u64 ^ second);
        fold(client ^ group, first.rotate_left(32) | 1)
    }
}

impl Stay {
    /// Whether its time has passed.
    #[inline]
    fn is_over(self, now: Moment) -> bool {
        seconds(now) > self.expires
    }

    /// Whether `before` needs no change to become this. It may be a second ahead: the clocks of two workers
    /// do not turn to the next second together.
    #[inline]
    fn is_known_by(self, before: Self) -> bool {
        before.server == self.server && before.expires.wrapping_sub(self.expires) <= 1
    }

    #[inline]
    fn value(self) -> u64 {
        u64::from(self.server) << 32 | u64::from(self.expires)
    }
}

impl From<u64> for Stay {
    #[inline]
    fn from(value: u64) -> Self {
        Self { server: (value >> 32) as u32, expires: value as u32 }
    }
}

/// Whole seconds since the start: enough for 136 years.
#[inline]
fn seconds(now: Moment) -> u32 {
    u32::try_from(now.nanos() / 1_000_000_000).unwrap_or(u32::MAX)
}

/// Both halves of the product, as one number that depends on every bit of both.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::lookup::slab::Heap;

    const GROUP: u64 = 3;

    fn persistence(capacity: usize) -> Persistence {
        Persistence::new(capacity, [0x1234_5678_9abc_def1, 0xfedc_ba98_7654_3210], &Heap).unwrap()
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn client(number: u32) -> Address {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    fn at(seconds: f64) -> Moment {
        Moment::from_nanos((seconds * 1e9) as u64)
    }

    impl Persistence {
        /// Remembers a single address for five seconds.
        fn note(&self, client: Address, server: u32, now: f64) -> Remembered {
            self.remember(GROUP, client, 128, server, 5, at(now))
        }

        fn server_of(&self, client: Address, now: f64) -> Option<u32> {
            self.find(GROUP, client, 128, at(now))
        }
    }

    #[test]
    fn a_client_that_comes_back_in_time_stays_and_one_that_comes_late_is_not_known() {
        let persistence = persistence(100);
        assert_eq!(persistence.note(client(1), 7, 0.0), Remembered::New);
        for now in [4.0, 8.0] {
            assert_eq!(persistence.server_of(client(1), now), Some(7));
            assert_eq!(persistence.note(client(1), 7, now), Remembered::Renewed);
        }
        assert_eq!(persistence.server_of(client(1), 13.9), Some(7));
        assert_eq!(persistence.server_of(client(1), 14.0), None);
        assert!(persistence.is_empty());
    }

    #[test]
    fn no_client_is_forgotten_before_its_time_wherever_in_a_second_it_came() {
        let persistence = persistence(100);
        for start in [0.0, 0.3, 0.999] {
            persistence.note(client(1), 7, start);
            assert_eq!(persistence.server_of(client(1), start + 5.0), Some(7));
            assert_eq!(persistence.server_of(client(1), start + 6.0), None);
        }
    }

    #[test]
    fn clients_of_one_subnet_share_a_server_if_the_mask_says_so() {
        let persistence = persistence(100);
        let [one, other, stranger] = ["192.0.2.1", "192.0.2.200", "192.0.3.1"].map(address);
        persistence.remember(GROUP, one, 24, 7, 300, at(0.0));
        assert_eq!(persistence.find(GROUP, other, 24, at(1.0)), Some(7));
        assert_eq!(persistence.find(GROUP, stranger, 24, at(1.0)), None);
        assert_eq!(persistence.find(GROUP, other, 32, at(1.0)), None);
        let [one, other, stranger] = ["2001:db8::1", "2001:db8::2", "2001:db9::1"].map(address);
        persistence.remember(GROUP, one, 64, 8, 300, at(0.0));
        assert_eq!(persistence.find(GROUP, other, 64, at(1.0)), Some(8));
        assert_eq!(persistence.find(GROUP, stranger, 64, at(1.0)), None);
    }

    #[test]
    fn a_group_does_not_know_the_clients_of_another() {
        let persistence = persistence(100);
        persistence.remember(1, client(1), 32, 7, 300, at(0.0));
        assert_eq!(persistence.find(2, client(1), 32, at(0.0)), None);
    }

    #[test]
    fn a_client_that_was_sent_elsewhere_stays_there() {
        let persistence = persistence(100);
        persistence.note(client(1), 7, 0.0);
        assert_eq!(persistence.note(client(1), 8, 1.0), Remembered::Moved);
        assert_eq!(persistence.server_of(client(1), 2.0), Some(8));
        assert_eq!(persistence.note(client(1), 9, 20.0), Remembered::New, "8 was long ago");
        assert_eq!(persistence.len(), 1);
    }

    #[test]
    fn a_forgotten_client_is_not_known() {
        let persistence = persistence(100);
        persistence.note(client(1), 7, 0.0);
        assert!(persistence.forget(GROUP, client(1), 128));
        assert!(!persistence.forget(GROUP, client(1), 128));
        assert_eq!(persistence.server_of(client(1), 0.0), None);
        assert!(persistence.is_empty());
    }

    #[test]
    fn a_busy_client_is_written_once_a_second() {
        let persistence = persistence(100);
        persistence.note(client(1), 7, 3.1);
        assert_eq!(persistence.note(client(1), 7, 3.9), Remembered::Known);
        assert_eq!(persistence.note(client(1), 7, 4.0), Remembered::Renewed);
        assert_eq!(persistence.note(client(1), 7, 3.999), Remembered::Known, "a slower clock");
    }

    #[test]
    fn a_timeout_that_became_shorter_counts_from_the_next_connection() {
        let persistence = persistence(100);
        persistence.remember(GROUP, client(1), 128, 7, 3_600, at(0.0));
        assert_eq!(persistence.note(client(1), 7, 1.0), Remembered::Renewed);
        assert_eq!(persistence.server_of(client(1), 7.0), None);
    }

    #[test]
    fn the_client_idle_longest_makes_room_for_a_new_one() {
        let persistence = persistence(4); // two buckets: every client may have every slot
        for number in 0..8 {
            assert_eq!(
                persistence.note(client(number), 7, f64::from(number) / 2.0),
                Remembered::New
            );
        }
        persistence.note(client(0), 7, 4.0);
        persistence.note(client(1), 7, 4.0);
        assert_eq!(persistence.note(client(8), 7, 4.0), Remembered::Evicted);
        assert_eq!(persistence.len(), 8);
        let known = |number| persistence.server_of(client(number), 4.0).is_some();
        let gone: Vec<u32> = (0..9).filter(|&number| !known(number)).collect();
        assert!(gone == [2] || gone == [3], "{gone:?} came in the same second");
    }

    #[test]
    fn an_expired_client_makes_room_without_being_missed() {
        let persistence = persistence(4);
        for number in 0..8 {
            persistence.note(client(number), 7, 0.0);
        }
        assert_eq!(persistence.note(client(8), 7, 10.0), Remembered::New);
        assert_eq!(persistence.len(), 8);
    }

    #[test]
    fn no_server_is_refused() {
        let persistence = persistence(4);
        assert_eq!(persistence.note(client(1), 0, 1.0), Remembered::Refused);
        assert_eq!(persistence.server_of(client(1), 1.0), None);
    }

    #[test]
    fn sweeps_of_all_shares_remove_what_has_expired_and_nothing_else() {
        let persistence = persistence(1_000);
        for number in 0..1_000 {
            persistence.note(client(number), 7, if number % 4 == 0 { 8.0 } else { 0.0 });
        }
        assert_eq!(persistence.len(), 1_000);
        let mut removed = 0;
        for worker in 0..3 {
            let mut share = persistence.share(worker, 3);
            for _ in 0..share.buckets.len().div_ceil(BUCKETS_AT_ONCE) {
                removed += persistence.sweep(&mut share, at(10.0));
            }
            assert_eq!(share.next, share.buckets.start, "and starts again");
        }
        assert_eq!((removed, persistence.len()), (750, 250));
        assert!((0..1_000).step_by(4).all(|it| persistence.server_of(client(it), 10.0).is_some()));
    }

    #[test]
    fn clients_are_counted_by_server() {
        let persistence = persistence(1_000);
        for number in 0..100 {
            let expired = number >= 90;
            persistence.note(client(number), 7 + number % 2, if expired { 0.0 } else { 8.0 });
        }
        let counts = persistence.counts(0..persistence.buckets(), at(10.0));
        assert_eq!(counts, HashMap::from([(7, 45), (8, 45)]));
        let half = persistence.buckets() / 2;
        let halves = [0..half, half..persistence.buckets()];
        let halves = halves.map(|buckets| persistence.counts(buckets, at(10.0)));
        assert_eq!(halves.iter().flat_map(HashMap::values).sum::<usize>(), 90);
    }

    proptest! {
        #[test]
        fn what_is_known_is_what_a_plain_map_knows(
            steps in prop::collection::vec((0..4u8, 0..6u32, 1..4u32, 1..20u32, 0..3_000u64), 0..200)
        ) {
            let persistence = persistence(10_000);
            let mut plain: HashMap<u32, (u32, u32)> = HashMap::new();
            let mut now = Moment::START;
            let mut share = persistence.share(0, 1);
            for (step, number, server, timeout, milliseconds) in steps {
                now = now.plus(std::time::Duration::from_millis(milliseconds));
                let second = seconds(now);
                match step {
                    0 => {
                        persistence.remember(GROUP, client(number), 32, server, timeout, now);
                        let kept = plain.get(&number).copied().filter(|&(before, expires)| {
                            before == server && expires == second + timeout + 1
                        });
                        plain.insert(number, kept.unwrap_or((server, second + timeout)));
                    }
                    1 => {
                        let known = plain.remove(&number);
                        let forgotten = persistence.forget(GROUP, client(number), 32);
                        // What has expired may be there still, or not.
                        if known.is_none_or(|(_, expires)| second <= expires) {
                            prop_assert_eq!(forgotten, known.is_some());
                        }
                    }
                    2 => { persistence.sweep(&mut share, now); }
                    _ => {}
                }
                plain.retain(|_, (_, expires)| second <= *expires);
                for number in 0..6 {
                    let known = plain.get(&number).map(|it| it.0);
                    prop_assert_eq!(persistence.find(GROUP, client(number), 32, now), known);
                }
                prop_assert_eq!(persistence.len(), plain.len());
            }
        }
    }

    #[test]
    fn workers_that_share_clients_lose_no_count_and_mix_up_no_servers() {
        let persistence = persistence(8);
        thread::scope(|scope| {
            for worker in 0..4u32 {
                let persistence = &persistence;
                scope.spawn(move || {
                    let mut share = persistence.share(worker as usize, 4);
                    for step in 0..50_000 {
                        let number = (step * (worker + 3)) % 23;
                        let now = f64::from(step) / 1_000.0;
                        match step % 5 {
                            0 => {
                                persistence.forget(GROUP, client(number), 128);
                            }
                            1 => {
                                persistence.sweep(&mut share, at(now));
                            }
                            _ => {
                                let server = (number + 1) * 100 + worker;
                                persistence.note(client(number), server, now);
                            }
                        }
                        if let Some(server) = persistence.server_of(client(number), now) {
                            assert_eq!(server / 100, number + 1);
                        }
                    }
                });
            }
        });
        let left: usize = persistence.counts(0..persistence.buckets(), at(0.0)).values().sum();
        assert_eq!(left, persistence.len());
    }
}
