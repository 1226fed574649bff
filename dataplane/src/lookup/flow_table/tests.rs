//! The table against a plain map.

use std::collections::HashMap;

use proptest::prelude::*;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::bucket::{Bucket, WAYS};
use super::half::{NOWHERE, REPLY, ROUND, signature};
use super::*;
use crate::lookup::slab::Heap;
use crate::snapshot::Protocol;

/// A real server.
#[derive(Clone, Copy)]
struct Server {
    id: ServerId,
    nat: bool,
}

fn server(slot: u16, nat: bool) -> Server {
    Server { id: ServerId::new(slot, 0), nat }
}

/// The family that a test is about: every other client speaks IPv6 in those about both.
fn flow_of(client: u16, v6: bool) -> Flow {
    let low = u32::from(client & 0xff);
    let address = |v4: [u8; 4], low: u32| -> Address {
        let v4 = u32::from_be_bytes(v4) + low;
        if v6 {
            Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(v4)).into()
        } else {
            Ipv4Addr::from_bits(v4).into()
        }
    };
    Flow {
        protocol: Protocol::Tcp,
        source: address([198, 51, 100, 0], low),
        source_port: 1_000 + (client >> 8),
        destination: address([192, 0, 2, 1], 0),
        destination_port: 80,
    }
}

fn flow(client: u16) -> Flow {
    flow_of(client, false)
}

fn new(flow: Flow, server: Server) -> NewFlow {
    let state = FlowState::HalfOpen;
    let own = Ipv4Addr::new(10, 0, 1, server.id.slot() as u8);
    let own: Address =
        if flow.source.is_v4() { own.into() } else { own.to_ipv6_compatible().into() };
    let target = if server.nat { own } else { flow.destination };
    NewFlow {
        original: flow,
        server: (target, flow.destination_port),
        source: (flow.source, flow.source_port),
        translated: server.nat,
        server_id: server.id,
        service: ServiceId::new(0, 0),
        state,
        timeout: Timeouts::default().of(state),
        length: 60,
    }
}

fn create(
    table: &mut FlowTable,
    flow: Flow,
    server: Server,
    now: Moment,
    counters: &Counters,
) -> Result<Place, Refused> {
    table.create(&new(flow, server), table.hash(&flow), now, counters)
}

const KEY: [u64; 4] = [3, 5, 7, 11];

fn table(capacity: usize) -> FlowTable {
    let capacity = Capacity { v4: capacity, v6: capacity };
    FlowTable::new(capacity, Key::new(KEY), None, &Heap).unwrap()
}

#[test]
fn a_table_fills_to_its_capacity_before_it_refuses() {
    for (nat, v6) in [(false, false), (true, false), (false, true), (true, true)] {
        let (counters, server) = (Counters::new(), server(1, nat));
        let mut table = table(10_000);
        let mut refused = 0;
        for client in 0..10_000 {
            let made = create(&mut table, flow_of(client, v6), server, Moment::START, &counters);
            refused += u32::from(made.is_err());
        }
        assert_eq!(refused, 0, "nat: {nat}, IPv6: {v6}");
        let one_more = flow_of(20_000, v6);
        assert_eq!(
            create(&mut table, one_more, server, Moment::START, &counters),
            Err(Refused::Full)
        );
        assert_eq!(counters.flows.get(), 10_000);
    }
}

#[test]
fn memory_per_flow_is_within_96_bytes_and_160_for_ipv6() {
    let table = table(1_000_000);
    assert!(table.v4.bytes() <= 96 * 1_000_000, "{}", table.v4.bytes());
    assert!(table.v6.bytes() <= 160 * 1_000_000, "{}", table.v6.bytes());
}

#[test]
fn different_keys_place_flows_differently() {
    let other = Key::new([3, 5, 7, 12]);
    for flow in [flow_of(1, false), flow_of(1, true)] {
        assert_ne!(table(8).hash(&flow), other.hash(&flow));
    }
}

/// Every other client speaks IPv6.
fn either(client: u16) -> Flow {
    flow_of(client, client % 2 == 1)
}

/// What is wrong with a table, by a walk over all of it.
fn contradiction<A: Held>(table: &Half<A>) -> Option<String> {
    let mut keys = 0;
    let mut spilled = vec![0; table.buckets.len()];
    for (index, bucket) in table.buckets.iter().enumerate() {
        for slot in (0..WAYS).filter(|&slot| bucket.signatures[slot] != 0) {
            let position = bucket.positions[slot];
            let entry = &table.entries[(position & !REPLY) as usize];
            let flow = if position & REPLY == 0 { entry.original() } else { entry.reply() };
            if entry.state.state().is_none() {
                return Some(format!("bucket {index} names a flow that is not there"));
            }
            let hash = table.key.hash(&flow);
            let [first, second] = [table.first(hash), table.second(hash)];
            if bucket.signatures[slot] != signature(hash) || ![first, second].contains(&index) {
                return Some(format!("bucket {index} names a flow that belongs elsewhere"));
            }
            spilled[first] += u32::from(index != first);
            keys += 1;
        }
    }
    let expected: usize = table
        .entries
        .iter()
        .filter(|entry| entry.state.state().is_some())
        .map(|entry| 1 + usize::from(entry.state.translated()))
        .sum();
    let free = std::iter::successors(Some(table.free).filter(|&at| at != NOWHERE), |&at| {
        Some(table.entries[at as usize].state.timeout).filter(|&next| next != NOWHERE)
    });
    let free = free.take(table.capacity() + 1).count();
    let counts_differ = table.buckets.iter().zip(spilled).any(|(it, found)| it.spilled != found);
    if keys != expected {
        Some(format!("{keys} keys instead of {expected}"))
    } else if table.used + free != table.touched {
        Some(format!("{} used and {free} free of {}", table.used, table.touched))
    } else {
        counts_differ.then(|| "a bucket miscounts what it spilled".into())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Create { client: u16, server: u16, nat: bool },
    End { client: u16 },
    Pass { seconds: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u16..400, 0u16..4, any::<bool>()).prop_map(|(client, server, nat)| Step::Create { client, server, nat }),
        2 => (0u16..400).prop_map(|client| Step::End { client }),
        1 => (0u16..40).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

#[test]
fn a_clock_that_steps_back_ends_no_flow() {
    let (counters, server) = (Counters::new(), server(1, false));
    let mut table = table(16);
    let later = Moment::START.plus(Duration::from_secs(1_000));
    create(&mut table, flow(1), server, later, &counters).unwrap();
    table.v4.swept = Moment::START;
    table.expire(Moment::START.plus(Duration::from_secs(999)), |_| true, &counters);
    assert_eq!(counters.flows.get(), 1);
}

#[test]
fn a_worker_catches_up_with_expiry_in_small_steps() {
    let (counters, server) = (Counters::new(), server(1, false));
    let mut table = table(4_096);
    for client in 0..4_000 {
        create(&mut table, flow(client), server, Moment::START, &counters).unwrap();
    }
    let mut now = Moment::START.plus(Duration::from_secs(3_600));
    table.expire(now, |_| true, &counters);
    assert!(counters.flows.get() >= 4_000 - 256, "{}", counters.flows.get());
    for _ in 0..4_000 {
        now = now.plus(Duration::from_millis(1));
        table.expire(now, |_| true, &counters);
    }
    assert_eq!(counters.flows.get(), 0);
}

#[test]
fn a_table_of_translated_flows_fills_to_its_capacity_whatever_its_size() {
    for capacity in [1, 2, 3, 5, 16, 100, 1_000, 600_000] {
        let (counters, server) = (Counters::new(), server(1, true));
        let mut table = table(capacity);
        for client in 0..capacity {
            let source = Ipv4Addr::from_bits(client as u32).into();
            let flow = Flow { source, ..flow(client as u16) };
            let made = create(&mut table, flow, server, Moment::START, &counters);
            assert!(made.is_ok(), "flow {client} of {capacity}");
        }
        assert_eq!(contradiction(&table.v4), None);
    }
}

proptest! {
    #[test]
    fn signatures_are_compared_as_a_loop_would(signatures in prop::array::uniform8(prop_oneof![Just(0u16), Just(1), Just(0x8001), any::<u16>()]), wanted: prop::sample::Index) {
        let bucket = Bucket { signatures, ..zerocopy::FromZeros::new_zeroed() };
        for signature in [signatures[wanted.index(WAYS)], 0, 1, 0x7fff, 0x8000, 0xffff] {
            let plain = (0..WAYS).filter(|&slot| signatures[slot] == signature);
            prop_assert_eq!(bucket.matching(signature), plain.map(|slot| 1 << slot).sum::<u8>());
        }
    }

    #[test]
    fn the_table_agrees_with_a_plain_map(capacity in prop_oneof![1usize..=16, Just(256)], steps in prop::collection::vec(step(), 1..600)) {
        let counters = Counters::new();
        let mut table = table(capacity);
        let mut map: HashMap<u16, (u16, bool, Moment)> = HashMap::new();
        let mut now = Moment::START;
        for step in steps {
            match step {
                Step::Create { client, server: slot, nat } if !map.contains_key(&client) => {
                    let evicted = counters.flows_evicted.get();
                    let made = create(&mut table, either(client), server(slot, nat), now, &counters);
                    if counters.flows_evicted.get() > evicted {
                        // Somebody had to go; the map cannot know who, so ask.
                        map.retain(|&other, _| {
                            let flow = either(other);
                            table.find(table.hash(&flow), &flow, Direction::Original).is_some()
                        });
                    }
                    if made.is_ok() {
                        map.insert(client, (slot, nat, now));
                    }
                }
                Step::Create { .. } => {}
                Step::End { client } => {
                    let flow = either(client);
                    let place = table.find(table.hash(&flow), &flow, Direction::Original);
                    prop_assert_eq!(place.is_some(), map.remove(&client).is_some());
                    if let Some(place) = place {
                        table.end(place, &counters);
                    }
                }
                Step::Pass { seconds } => {
                    now = now.plus(Duration::from_secs(u64::from(seconds)));
                    for _ in 0..3 {
                        now = now.plus(ROUND);
                        table.expire(now, |_| true, &counters);
                    }
                    map.retain(|&client, _| {
                        let flow = either(client);
                        table.find(table.hash(&flow), &flow, Direction::Original).is_some()
                    });
                    prop_assert!(map.values().all(|&(_, _, seen)| now.since(seen) < Duration::from_secs(30) + ROUND * 3));
                }
            }
            for (&client, &(slot, nat, _)) in &map {
                let flow = either(client);
                let place = table.find(table.hash(&flow), &flow, Direction::Original);
                let place = place.expect("the map remembers it");
                prop_assert_eq!(table.state(place).server(), ServerId::new(slot, 0));
                prop_assert_eq!(table.original(place), flow);
                let reply = new(flow, server(slot, true)).reply().unwrap();
                let found = table.find(table.hash(&reply), &reply, Direction::Reply);
                prop_assert_eq!(found, nat.then_some(place));
            }
            prop_assert_eq!(counters.flows.get(), map.len() as i64);
        }
        prop_assert_eq!(contradiction(&table.v4), None);
        prop_assert_eq!(contradiction(&table.v6), None);
    }
}
