//! Weighted Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): a table of servers, indexed by a digest
//! of the flow. Every server has its own order in which it wants the table's entries, made from its key
//! alone; they take turns, and each takes the first entry in its order that is still free. The table
//! depends on the set of keys and weights, not on their order, and no hash has a key: all nodes agree.
//!
//! Weights: a server of weight w has its turns at the times 1/2w, 3/2w, 5/2w and so on. That makes shares
//! proportional to weights to within two entries, whatever their sum, and one server's weight does not
//! change the times of another, so that few entries change hands.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::wire::Address;

/// How many entries a table has: a prime, so that every step through it visits every entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// 251.
    Least,
    /// 1,021.
    Small,
    /// 4,093.
    Middle,
    /// 16,381.
    Large,
    /// 65,537: the paper's small table.
    Most,
}

impl Size {
    /// Every size, the smallest first.
    pub const ALL: [Self; 5] = [Self::Least, Self::Small, Self::Middle, Self::Large, Self::Most];

    /// The smallest with 100 entries for each of `servers`, which keeps the shares of equal servers within
    /// 1 % of each other (section 3.4); the largest if there is none.
    pub fn for_servers(servers: usize) -> Self {
        let enough = |size: &Self| size.entries() / 100 >= servers;
        Self::ALL.into_iter().find(enough).unwrap_or(Self::Most)
    }

    /// How many entries that is.
    pub const fn entries(self) -> usize {
        match self {
            Self::Least => 251,
            Self::Small => 1_021,
            Self::Middle => 4_093,
            Self::Large => 16_381,
            Self::Most => 65_537,
        }
    }
}

/// The most servers that a table can name.
const MOST_SERVERS: u16 = u16::MAX;
/// The pause between two turns of a server of weight 1.
const PAUSE: u64 = 1 << 42;

/// Which server a digest belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table(Box<[u16]>);

/// A server's turns, and its way through the table.
struct Preference {
    /// Its place in the caller's list.
    server: u16,
    pause: u64,
    /// The entry that it wants next, and how far from there the one after that is.
    next: u32,
    skip: u32,
}

impl Table {
    /// A table for servers given by their stable keys and weights. Those of weight 0 are left out, and so are
    /// those behind the first 65,535. Of a key that comes twice, the greater weight counts.
    ///
    /// If one of 100 equal servers leaves, its entries are shared out, and a few of the others' change hands
    /// too: of 65,537 entries 0.55 % on average, and never more than 1 % in the tests; of the smaller
    /// tables, with as many servers as [`Size::for_servers`] allows, never more than 4 %.
    pub fn new(size: Size, servers: impl IntoIterator<Item = (u64, u16)>) -> Self {
        let mut servers: Vec<(u64, Reverse<u16>, u16)> = (0..MOST_SERVERS)
            .zip(servers)
            .filter(|&(_, (_, weight))| weight > 0)
            .map(|(server, (key, weight))| (mix(key), Reverse(weight), server))
            .collect();
        // Whose turn comes first at equal times must not depend on the list, nor follow the keys.
        servers.sort_unstable();
        servers.dedup_by_key(|server| server.0);
        let entries = size.entries() as u64;
        let preference = |(draw, Reverse(weight), server)| Preference {
            server,
            pause: PAUSE / u64::from(weight),
            next: (draw % entries) as u32,
            skip: (mix(draw) % (entries - 1)) as u32 + 1,
        };
        Self(fill(size.entries(), &mut servers.into_iter().map(preference).collect::<Vec<_>>()))
    }

    /// The server that `digest` belongs to, as its place in the list that the table was made from; `None` if
    /// there is no server.
    #[inline]
    pub fn at(&self, digest: u64) -> Option<u16> {
        // Evenly, without a division (Lemire 2016).
        let entry = ((digest >> 32) * self.0.len() as u64) >> 32;
        self.0.get(entry as usize).copied()
    }

    /// Its entries: each is a server's place in the list that the table was made from.
    pub fn entries(&self) -> &[u16] {
        &self.0
    }
}

/// Lets the servers take turns until no entry is left.
fn fill(entries: usize, preferences: &mut [Preference]) -> Box<[u16]> {
    match preferences.windows(2).all(|pair| pair[0].pause == pair[1].pause) {
        true => fill_in_order(entries, preferences),
        false => fill_by_time(entries, preferences),
    }
}

/// Servers of one weight: each in turn, without a look at the time.
fn fill_in_order(entries: usize, preferences: &mut [Preference]) -> Box<[u16]> {
    let mut table = vec![0; if preferences.is_empty() { 0 } else { entries }];
    let mut taken = vec![0u64; entries.div_ceil(64)];
    let mut left = table.len();
    while left > 0 {
        for preference in preferences.iter_mut().take(left) {
            let entry = preference.take_first_free(entries as u32, &mut taken);
            table[entry] = preference.server;
        }
        left = left.saturating_sub(preferences.len());
    }
    table.into()
}

/// Servers of different weights: whoever has waited longest for its weight.
fn fill_by_time(entries: usize, preferences: &mut [Preference]) -> Box<[u16]> {
    let mut turns: BinaryHeap<Reverse<(u64, usize)>> =
        preferences.iter().enumerate().map(|(order, it)| Reverse((it.pause / 2, order))).collect();
    let mut table = vec![0; if turns.is_empty() { 0 } else { entries }];
    let mut taken = vec![0u64; entries.div_ceil(64)]; // small enough for the nearest cache
    for _ in 0..table.len() {
        let Some(mut turn) = turns.peek_mut() else { break };
        let Reverse((time, order)) = &mut *turn;
        let preference = &mut preferences[*order];
        *time += preference.pause;
        let entry = preference.take_first_free(entries as u32, &mut taken);
        table[entry] = preference.server;
    }
    table.into()
}

impl Preference {
    /// Takes the first entry in this server's order that is free. There must be one.
    #[inline]
    fn take_first_free(&mut self, entries: u32, taken: &mut [u64]) -> usize {
        loop {
            let entry = self.next as usize;
            self.next += self.skip;
            if self.next >= entries {
                self.next -= entries;
            }
            let (word, bit) = (&mut taken[entry / 64], 1 << (entry % 64));
            if *word & bit == 0 {
                *word |= bit;
                return entry;
            }
        }
    }
}

/// A flow in one number, the same on every node.
#[inline]
pub fn digest_of_flow(
    source: Address,
    source_port: u16,
    destination: Address,
    destination_port: u16,
    protocol: u8,
) -> u64 {
    // Turned, so that the two addresses cannot stand for each other.
    let addresses = digest_of_address(source) ^ digest_of_address(destination).rotate_left(32);
    let ports =
        u64::from(source_port) << 32 | u64::from(destination_port) << 16 | u64::from(protocol);
    mix(mix(addresses) ^ ports)
}

/// An address in one number, the same on every node.
#[inline]
pub fn digest_of_address(address: Address) -> u64 {
    let bits = address.bits();
    mix(mix((bits >> 64) as u64) ^ bits as u64)
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit.
#[inline]
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn equal(servers: u64) -> Vec<(u64, u16)> {
        (0..servers).map(|number| (0x0a00_0001 + number, 1)).collect()
    }

    /// How many entries each of the first `servers` has.
    fn shares(table: &Table, servers: usize) -> Vec<usize> {
        let mut shares = vec![0; servers];
        for &server in table.entries() {
            shares[usize::from(server)] += 1;
        }
        shares
    }

    /// The table as its keys, which mean the same in every list.
    fn keys(table: &Table, servers: &[(u64, u16)]) -> Vec<u64> {
        table.entries().iter().map(|&server| servers[usize::from(server)].0).collect()
    }

    #[test]
    fn servers_of_one_weight_get_what_they_would_get_by_time() {
        for servers in [0, 1, 2, 7, 100, 300] {
            let preferences = || -> Vec<Preference> {
                let one = |server| Preference {
                    server,
                    pause: PAUSE,
                    next: (mix(server.into()) % 1_021) as u32,
                    skip: (mix(mix(server.into())) % 1_020) as u32 + 1,
                };
                (0..servers).map(one).collect()
            };
            let in_order = fill_in_order(1_021, &mut preferences());
            assert_eq!(in_order, fill_by_time(1_021, &mut preferences()), "{servers}");
            assert_eq!(in_order, fill(1_021, &mut preferences()));
        }
    }

    #[test]
    fn sizes_are_primes() {
        for entries in Size::ALL.map(Size::entries) {
            assert!((2..entries).take_while(|it| it * it <= entries).all(|it| entries % it != 0));
        }
    }

    #[test]
    fn a_size_has_a_hundred_entries_for_each_server() {
        for (servers, entries) in [
            (0, 251),
            (2, 251),
            (3, 1_021),
            (10, 1_021),
            (11, 4_093),
            (163, 16_381),
            (164, 65_537),
            (655, 65_537),
            (10_000, 65_537),
            (usize::MAX, 65_537),
        ] {
            assert_eq!(Size::for_servers(servers).entries(), entries, "{servers}");
        }
    }

    #[test]
    fn nobody_has_what_no_server_takes() {
        for servers in [vec![], vec![(1, 0), (2, 0)]] {
            let table = Table::new(Size::Least, servers);
            assert_eq!([0, 1 << 40, u64::MAX].map(|digest| table.at(digest)), [None; 3]);
        }
    }

    #[test]
    fn every_entry_can_be_reached() {
        let table = Table::new(Size::Least, equal(100));
        let step = u64::MAX / 251;
        let found = (0..251).map(|entry| table.at(entry * step + step / 2).unwrap());
        assert_eq!(found.collect::<Vec<_>>(), table.entries());
        assert_eq!(table.at(0), table.entries().first().copied());
        assert_eq!(table.at(u64::MAX), table.entries().last().copied());
    }

    #[test]
    fn equal_servers_have_equal_shares_within_an_entry() {
        for (size, servers) in [(Size::Most, 100), (Size::Least, 2), (Size::Large, 163)] {
            let shares = shares(&Table::new(size, equal(servers)), servers as usize);
            let [least, most] = [shares.iter().min(), shares.iter().max()].map(Option::unwrap);
            assert!(most - least <= 1, "{size:?}: {least} to {most}");
        }
    }

    #[test]
    fn shares_follow_the_weights_within_one_percent() {
        let lists: [Vec<u16>; 5] = [
            vec![1, 3],
            vec![100, 50, 25, 0, 25],
            (1..=100).map(|number| number % 10 + 1).collect(),
            (1..=50).map(|number| 1_000 + number * 17).collect(),
            vec![65_535, 65_535, 4_000, 65_534],
        ];
        for weights in lists {
            let servers = equal(weights.len() as u64).into_iter().zip(&weights);
            let table = Table::new(Size::Most, servers.map(|((key, _), &weight)| (key, weight)));
            let all: f64 = weights.iter().copied().map(f64::from).sum();
            for (share, &weight) in shares(&table, weights.len()).into_iter().zip(&weights) {
                let due = 65_537.0 * f64::from(weight) / all;
                assert!((share as f64 - due).abs() <= (due / 100.0).min(2.0), "{share} for {due}");
            }
        }
    }

    #[test]
    fn more_servers_than_entries_are_no_harm() {
        let table = Table::new(Size::Least, equal(1_000));
        assert!(shares(&table, 1_000).into_iter().all(|share| share <= 1));
        let table = Table::new(Size::Most, equal(70_000));
        assert_eq!(table.entries().len(), 65_537);
        assert!(shares(&table, 65_535).into_iter().all(|share| (1..=2).contains(&share)));
    }

    #[test]
    fn a_key_that_comes_twice_counts_once_with_the_greater_weight() {
        let table = Table::new(Size::Least, [(1, 1), (2, 3), (1, 3)]);
        let shares = shares(&table, 3);
        assert!(shares[0] == 0 && shares[1].abs_diff(shares[2]) == 1, "{shares:?}");
    }

    proptest! {
        #[test]
        fn the_order_of_the_list_does_not_matter(
            (sorted, shuffled) in prop::collection::btree_map(any::<u64>(), 0..20u16, 0..30)
                .prop_map(|servers| servers.into_iter().collect::<Vec<_>>())
                .prop_flat_map(|servers| (Just(servers.clone()), Just(servers).prop_shuffle()))
        ) {
            let [one, other] = [&sorted, &shuffled].map(|servers| {
                keys(&Table::new(Size::Small, servers.iter().copied()), servers)
            });
            prop_assert_eq!(one, other);
        }

        #[test]
        fn every_table_is_full_and_names_servers_of_some_weight(
            servers in prop::collection::vec((any::<u64>(), 0..5u16), 0..300)
        ) {
            let table = Table::new(Size::Least, servers.iter().copied());
            let some = servers.iter().any(|it| it.1 > 0);
            prop_assert_eq!(table.entries().len(), if some { 251 } else { 0 });
            prop_assert!(table.entries().iter().all(|&it| servers[usize::from(it)].1 > 0));
        }
    }

    /// How many entries of others change hands when one server's weight becomes 0.
    fn excess(size: Size, servers: &[(u64, u16)], leaving: usize) -> usize {
        let before = Table::new(size, servers.iter().copied());
        let mut fewer = servers.to_vec();
        fewer[leaving].1 = 0;
        let after = Table::new(size, fewer);
        let both = before.entries().iter().zip(after.entries());
        both.filter(|(was, is)| usize::from(**was) != leaving && was != is).count()
    }

    #[test]
    fn a_server_that_leaves_moves_few_entries_of_the_others() {
        for (size, servers, percent) in [
            (Size::Least, 2, 0.0),
            (Size::Small, 10, 4.0),
            (Size::Middle, 40, 4.0),
            (Size::Large, 160, 4.0),
            (Size::Most, 100, 1.0),
            (Size::Most, 655, 1.0),
        ] {
            let most =
                (0..40.min(servers)).map(|it| excess(size, &equal(servers as u64), it)).max();
            let allowed = size.entries() as f64 * percent / 100.0;
            assert!(most.unwrap() as f64 <= allowed, "{most:?} of {size:?} with {servers} servers");
        }
    }

    #[test]
    fn a_server_of_any_weight_that_leaves_moves_few_entries_of_the_others() {
        let weights = |(key, _)| (key, 1 + (key % 10) as u16);
        let servers: Vec<(u64, u16)> = equal(100).into_iter().map(weights).collect();
        for leaving in 0..40 {
            assert!(excess(Size::Most, &servers, leaving) <= 655, "server {leaving}");
        }
    }

    #[test]
    fn the_largest_table_is_built_while_nobody_waits() {
        let servers = equal(100);
        let took = (0..5).map(|_| {
            let start = Instant::now();
            assert!(Table::new(Size::Most, servers.iter().copied()).at(0).is_some());
            start.elapsed()
        });
        let took = took.min().unwrap();
        assert!(took < Duration::from_millis(50), "{took:?}");
    }

    #[test]
    fn a_digest_depends_on_every_part_of_a_flow() {
        let [one, other, third]: [Address; 3] =
            ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|text| text.parse().unwrap());
        let mut digests = vec![
            digest_of_flow(one, 1, other, 2, 6),
            digest_of_flow(other, 1, one, 2, 6),
            digest_of_flow(one, 2, other, 1, 6),
            digest_of_flow(one, 3, other, 2, 6),
            digest_of_flow(one, 1, other, 3, 6),
            digest_of_flow(one, 1, other, 2, 17),
            digest_of_flow(third, 1, other, 2, 6),
            digest_of_flow(one, 1, third, 2, 6),
            digest_of_flow(one, 1, one, 2, 6),
            digest_of_flow(other, 1, other, 2, 6),
            digest_of_address(one),
            digest_of_address(other),
            digest_of_address(third),
        ];
        let number = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), number);
    }

    #[test]
    fn digests_spread_flows_and_addresses_evenly() {
        let table = Table::new(Size::Most, equal(10));
        let client = |number: u32| Address::from(std::net::Ipv4Addr::from_bits(number << 8));
        let service = client(7);
        let flows = |number: u32| {
            digest_of_flow(client(number / 1_000), (number % 1_000) as u16, service, 80, 6)
        };
        let addresses = |number: u32| digest_of_address(client(number));
        for digest in [&flows as &dyn Fn(u32) -> u64, &addresses] {
            let mut counts = [0u32; 10];
            for number in 0..100_000 {
                counts[usize::from(table.at(digest(number)).unwrap())] += 1;
            }
            // Five standard deviations, and what the shares themselves differ.
            assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 500), "{counts:?}");
        }
    }
}
