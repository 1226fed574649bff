//! The map against a plain one, and under threads that get in each other's way.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::lookup::slab::Heap;

const THREADS: u64 = 6;

fn map(capacity: usize) -> SharedMap {
    SharedMap::new(capacity, &Heap).unwrap()
}

/// A well mixed key, as fingerprints are.
fn key(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0xd134_2543_de82_ef95).rotate_left(29)
}

fn entries(map: &SharedMap) -> Vec<(u64, u64)> {
    let mut entries = Vec::new();
    map.for_each_in(0..map.buckets(), |key, value| {
        entries.push((key, value));
        Verdict::Keep
    });
    entries
}

/// Numbers without end, other ones for each `seed`.
fn draws(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) % below
    }
}

thread_local!(static DRAWS: Cell<u64> = const { Cell::new(0) });

/// Lets other threads go first, now and then.
pub fn gap() {
    let draw = DRAWS.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    DRAWS.set(draw);
    if draw.wrapping_mul(draw | 1) >> 59 == 0 {
        thread::yield_now();
    }
}

#[test]
fn the_key_0_is_the_key_1() {
    let map = map(8);
    assert_eq!(map.insert(0, 7), Inserted::New);
    assert_eq!(map.get(1), Some(7));
    assert_eq!(map.insert(1, 8), Inserted::Already(7));
    assert!(map.remove(0, 7));
    assert_eq!(map.get(1), None);
}

#[test]
fn nothing_is_no_value() {
    let map = map(8);
    assert_eq!(map.insert(5, 0), Inserted::Full);
    assert_eq!(map.insert(5, 7), Inserted::New);
    assert!(!map.replace(5, 7, 0) && !map.remove(5, 0));
    assert_eq!(map.get(5), Some(7));
}

#[test]
fn a_map_takes_nearly_as_many_entries_as_it_was_made_for() {
    let map = map(100_000);
    let mut draw = draws(1);
    let full = (0..100_000)
        .filter(|_| map.insert(draw(1 << 32) << 32 | draw(1 << 32), 1) == Inserted::Full)
        .count();
    assert!(full <= 5, "{full}");
}

#[test]
fn a_claim_that_is_never_completed_holds_nobody_up_for_long() {
    let map = map(8);
    map.claim(key(3)).unwrap();
    assert_eq!(map.get(key(3)), None);
    assert_eq!(map.insert(key(3), 7), Inserted::Full);
    assert!(!map.replace(key(3), 7, 8) && !map.remove(key(3), 7));
    assert!(entries(&map).is_empty());
}

#[test]
fn a_claimant_waits_for_a_higher_claim_and_gives_way_to_a_lower_one_and_to_an_entry() {
    let map = map(8);
    let mut claims = [map.claim(key(3)).unwrap(), map.claim(key(3)).unwrap()];
    claims.sort_by_key(|claim| claim.0);
    let [(low, low_slot), (high, high_slot)] = claims;
    assert!(!map.settle(key(3), low) && !map.settle(key(3), high), "neither has gone");
    high_slot.tag.store(0, Ordering::Release);
    assert!(map.settle(key(3), low));
    low_slot.value.store(7, Ordering::Release);
    let (late, _) = map.claim(key(3)).unwrap();
    assert!(!map.settle(key(3), late));
}

#[test]
fn a_slot_that_another_key_took_over_is_safe_from_the_first_ones_changes() {
    let map = map(2);
    assert_eq!(map.insert(3, 7), Inserted::New);
    let (_, slot) = map.slots(3).find(|(_, slot)| slot.tag.load(Ordering::Relaxed) == 3).unwrap();
    let expected = sealed(3, 7).unwrap();
    assert!(map.remove(3, 7));
    slot.tag.store(4, Ordering::Relaxed);
    slot.value.store(sealed(4, 7).unwrap(), Ordering::Relaxed);
    assert!(!slot.swap(expected, 9) && !slot.empty(expected));
    assert_eq!(map.get(4), Some(7));
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u64, u64),
    Replace(u64, u64, u64),
    Remove(u64, u64),
    Get(u64),
    RemoveAllOf(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (keys, values) = (|| (0..24u64).prop_map(key), || 1..5u64);
    let step = prop_oneof![
        4 => (keys(), values()).prop_map(|(key, value)| Step::Insert(key, value)),
        2 => (keys(), values(), values()).prop_map(|(key, old, new)| Step::Replace(key, old, new)),
        3 => (keys(), values()).prop_map(|(key, value)| Step::Remove(key, value)),
        1 => keys().prop_map(Step::Get),
        1 => values().prop_map(Step::RemoveAllOf),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn one_thread_sees_a_plain_map(capacity in 1..40usize, steps in steps()) {
        let map = map(capacity);
        let mut plain = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(key, value) => match map.insert(key, value) {
                    Inserted::New => prop_assert_eq!(plain.insert(key, value), None),
                    Inserted::Already(old) => prop_assert_eq!(plain.get(&key), Some(&old)),
                    Inserted::Full => {
                        let shares = |other: &&u64| {
                            map.buckets_of(**other).iter().any(|it| map.buckets_of(key).contains(it))
                        };
                        prop_assert!(plain.keys().filter(shares).count() >= 2 * WAYS);
                        prop_assert!(!plain.contains_key(&key));
                    }
                },
                Step::Replace(key, old, new) => {
                    let was = plain.get(&key) == Some(&old);
                    prop_assert_eq!(map.replace(key, old, new), was);
                    if was {
                        plain.insert(key, new);
                    }
                }
                Step::Remove(key, value) => {
                    let was = plain.get(&key) == Some(&value);
                    prop_assert_eq!(map.remove(key, value), was);
                    if was {
                        plain.remove(&key);
                    }
                }
                Step::Get(key) => prop_assert_eq!(map.get(key), plain.get(&key).copied()),
                Step::RemoveAllOf(value) => {
                    let before = plain.len();
                    plain.retain(|_, it| *it != value);
                    let judge = |_, it| if it == value { Verdict::Remove } else { Verdict::Keep };
                    prop_assert_eq!(map.for_each_in(0..map.buckets(), judge), before - plain.len());
                }
            }
        }
        let found: HashMap<u64, u64> = entries(&map).into_iter().collect();
        prop_assert_eq!(found, plain);
    }
}

/// Inserts, however often others are in the middle of it.
fn insert(map: &SharedMap, key: u64, value: u64) -> Inserted {
    loop {
        match map.insert(key, value) {
            Inserted::Full => thread::yield_now(),
            done => return done,
        }
    }
}

#[test]
fn of_many_who_insert_one_key_at_once_one_wins_and_all_see_its_value() {
    for round in 0..2_000 {
        let (map, barrier) = (map(8), Barrier::new(THREADS as usize));
        let seen: Vec<_> = thread::scope(|scope| {
            let inserters = (1..=THREADS).map(|value| {
                let (map, barrier) = (&map, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    (value, insert(map, key(round), value), map.get(key(round)))
                })
            });
            let inserters: Vec<_> = inserters.collect();
            inserters.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let winners: Vec<u64> =
            seen.iter().filter(|it| it.1 == Inserted::New).map(|it| it.0).collect();
        let [winner] = winners[..] else { panic!("round {round}: {seen:?}") };
        for (value, inserted, got) in seen {
            assert!(value == winner || inserted == Inserted::Already(winner));
            assert_eq!(got, Some(winner), "round {round}");
        }
        assert_eq!(entries(&map), [(key(round), winner)]);
        let tags = map.buckets.iter().flat_map(|bucket| &bucket.0);
        assert_eq!(tags.filter(|slot| slot.tag.load(Ordering::SeqCst) != 0).count(), 1);
    }
}

#[test]
fn of_many_who_remove_or_replace_one_value_at_once_one_succeeds() {
    for round in 0..1_000 {
        let (map, barrier) = (map(8), Barrier::new(THREADS as usize));
        map.insert(key(round), 7);
        let successes: usize = thread::scope(|scope| {
            let rivals = (1..=THREADS).map(|number| {
                let (map, barrier) = (&map, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    match number % 2 {
                        0 => map.remove(key(round), 7),
                        _ => map.replace(key(round), 7, 7 + number),
                    }
                })
            });
            let rivals: Vec<_> = rivals.collect();
            rivals.into_iter().map(|it| usize::from(it.join().unwrap())).sum()
        });
        assert_eq!(successes, 1, "round {round}");
    }
}

/// Everything at once, on few keys in few buckets. Every insertion's value is another one and names its key,
/// so that a value under a wrong key, two entries of one key and a lost removal all show.
#[test]
fn a_key_never_has_two_entries_nor_another_keys_value() {
    const KEYS: u64 = 5;
    let steps = 60_000;
    let map = map(4); // two buckets: every key may have every slot
    let done = AtomicBool::new(false);
    let of = |number: u64, value: u64| value >> 48 == number + 1;
    let (inserted, removed) = thread::scope(|scope| {
        let workers = (0..THREADS).map(|thread| {
            let map = &map;
            scope.spawn(move || {
                let (mut draw, mut inserted, mut removed) = (draws(thread + 1), 0, 0);
                for step in 0..steps {
                    let number = draw(KEYS);
                    let value = (number + 1) << 48 | thread << 40 | step;
                    match draw(8) {
                        0..4 => match map.insert(key(number), value) {
                            Inserted::New => inserted += 1,
                            Inserted::Already(other) => assert!(of(number, other), "{other:x}"),
                            Inserted::Full => {}
                        },
                        4 => {
                            if let Some(old) = map.get(key(number)) {
                                map.replace(key(number), old, value);
                            }
                        }
                        5..7 => {
                            if let Some(old) = map.get(key(number)) {
                                assert!(of(number, old), "{old:x}");
                                removed += usize::from(map.remove(key(number), old));
                            }
                        }
                        _ => {
                            removed += map.for_each_in(0..1, |key_, value| {
                                assert_eq!(key(((value >> 48) - 1) % KEYS), key_);
                                if value % 2 == 0 { Verdict::Remove } else { Verdict::Keep }
                            });
                        }
                    }
                }
                (inserted, removed)
            })
        });
        let workers: Vec<_> = workers.collect();
        // Two entries of one key were there together if the first is still there after the second was seen.
        let watcher = scope.spawn(|| {
            let mut draw = draws(99);
            while !done.load(Ordering::Relaxed) {
                let key = key(draw(KEYS));
                let entry = |slot: &Slot| match slot.look(key, 0) {
                    Sight::Entry(sealed) => Some(sealed),
                    Sight::Absent | Sight::Claimed(_) => None,
                };
                let slots: Vec<&Slot> = map.slots(key).map(|(_, slot)| slot).collect();
                for (place, first) in slots.iter().enumerate() {
                    let Some(value) = entry(first) else { continue };
                    let second = slots.iter().skip(place + 1).any(|slot| entry(slot).is_some());
                    assert!(!second || entry(first) != Some(value), "two entries of one key");
                }
            }
        });
        let counts: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
        let counts = counts.into_iter().map(Result::unwrap);
        counts.fold((0, 0), |all: (usize, usize), it| (all.0 + it.0, all.1 + it.1))
    });
    let left = entries(&map);
    assert_eq!(inserted, removed + left.len());
    for number in 0..KEYS {
        let alike = left.iter().filter(|it| it.0 == key(number)).count();
        assert!(alike <= 1);
        assert_eq!(map.get(key(number)).is_some(), alike == 1);
    }
    let slots = map.buckets.iter().flat_map(|bucket| &bucket.0);
    let taken = slots.filter(|slot| slot.tag.load(Ordering::SeqCst) != 0).count();
    assert_eq!(taken, left.len(), "no claim is left behind");
}
