//! The table against a plain map.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::lookup::slab::Heap;
use crate::snapshot::{Hop, InterfaceId};
use crate::wire::tcp::Flags;

fn server(slot: u16, mode: Mode) -> Server {
    let address = Ipv4Addr::new(10, 0, 1, slot as u8);
    let hop = Hop { interface: InterfaceId(0), address, mac: None };
    Server { id: ServerId::new(slot, 0), service: ServiceId(0), address, mode, hop }
}

fn packet(client: u16) -> Packet {
    let flow = Flow {
        protocol: Protocol::Tcp,
        source: Ipv4Addr::new(198, 51, 100, client as u8),
        source_port: 1_000 + (client >> 8),
        destination: Ipv4Addr::new(192, 0, 2, 1),
        destination_port: 80,
    };
    Packet { flow, flags: Flags(0x02), length: 60 }
}

fn table(capacity: usize) -> FlowTable {
    FlowTable::new(capacity, [3, 5, 7, 11], Timeouts::default(), &Heap).unwrap()
}

fn reply_of(packet: &Packet, server: &Server) -> Flow {
    Flow {
        protocol: packet.flow.protocol,
        source: server.address,
        source_port: packet.flow.destination_port,
        destination: packet.flow.source,
        destination_port: packet.flow.source_port,
    }
}

#[test]
fn a_table_fills_to_its_capacity_before_it_refuses() {
    for nat in [false, true] {
        let mode = if nat { Mode::Nat { port: None } } else { Mode::DirectReturn };
        let (counters, server) = (Counters::new(), server(1, mode));
        let mut table = table(10_000);
        let mut refused = 0;
        for client in 0..10_000 {
            let packet = packet(client);
            let hash = table.hash(&packet.flow);
            refused +=
                u32::from(table.create(&packet, hash, &server, Moment::START, &counters).is_err());
        }
        assert_eq!(refused, 0, "nat: {nat}");
        let one_more = packet(20_000);
        let hash = table.hash(&one_more.flow);
        assert_eq!(
            table.create(&one_more, hash, &server, Moment::START, &counters),
            Err(Refused::Full)
        );
        assert_eq!(counters.flows.get(), 10_000);
    }
}

#[test]
fn memory_per_flow_is_within_96_bytes() {
    let table = table(1_000_000);
    let bytes =
        table.buckets.len() * size_of::<Bucket>() + table.entries.len() * size_of::<Entry>();
    assert!(bytes <= 96 * 1_000_000, "{bytes}");
}

#[test]
fn different_keys_place_flows_differently() {
    let flow = packet(1).flow;
    let other = FlowTable::new(8, [3, 5, 7, 12], Timeouts::default(), &Heap).unwrap();
    assert_ne!(table(8).hash(&flow), other.hash(&flow));
}

/// What is wrong with a table, by a walk over all of it.
fn contradiction(table: &FlowTable) -> Option<String> {
    let mut keys = 0;
    let mut spilled = vec![0; table.buckets.len()];
    for (index, bucket) in table.buckets.iter().enumerate() {
        for slot in (0..WAYS).filter(|&slot| bucket.signatures[slot] != 0) {
            let position = bucket.positions[slot];
            let entry = &table.entries[(position & !REPLY) as usize];
            let flow = if position & REPLY == 0 { Some(entry.original()) } else { entry.reply() };
            let Some(flow) = flow.filter(|_| entry.state().is_some()) else {
                return Some(format!("bucket {index} names a flow that is not there"));
            };
            let hash = table.hash(&flow);
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
        .filter(|entry| entry.state().is_some())
        .map(|entry| 1 + usize::from(entry.translated))
        .sum();
    let free = std::iter::successors(Some(table.free).filter(|&at| at != NOWHERE), |&at| {
        Some(table.entries[at as usize].next_free).filter(|&next| next != NOWHERE)
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
    let (counters, server) = (Counters::new(), server(1, Mode::DirectReturn));
    let mut table = table(16);
    let packet = packet(1);
    let hash = table.hash(&packet.flow);
    let later = Moment::START.plus(Duration::from_secs(1_000));
    table.create(&packet, hash, &server, later, &counters).unwrap();
    table.swept = Moment::START;
    table.expire(Moment::START.plus(Duration::from_secs(999)), |_| true, &counters);
    assert_eq!(counters.flows.get(), 1);
}

#[test]
fn a_worker_catches_up_with_expiry_in_small_steps() {
    let (counters, server) = (Counters::new(), server(1, Mode::DirectReturn));
    let mut table = table(4_096);
    for client in 0..4_000 {
        let packet = packet(client);
        let hash = table.hash(&packet.flow);
        table.create(&packet, hash, &server, Moment::START, &counters).unwrap();
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
        let (counters, server) = (Counters::new(), server(1, Mode::Nat { port: None }));
        let mut table = table(capacity);
        for client in 0..capacity {
            let mut packet = packet(client as u16);
            packet.flow.source = Ipv4Addr::from_bits(client as u32);
            let hash = table.hash(&packet.flow);
            let made = table.create(&packet, hash, &server, Moment::START, &counters);
            assert!(made.is_ok(), "flow {client} of {capacity}");
        }
        assert_eq!(contradiction(&table), None);
    }
}

proptest! {
    #[test]
    fn signatures_are_compared_as_a_loop_would(signatures in prop::array::uniform8(prop_oneof![Just(0u16), Just(1), Just(0x8001), any::<u16>()]), wanted: prop::sample::Index) {
        let bucket = Bucket { signatures, ..Bucket::new_zeroed() };
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
                    let packet = packet(client);
                    let server = server(slot, if nat { Mode::Nat { port: None } } else { Mode::DirectReturn });
                    let hash = table.hash(&packet.flow);
                    let evicted = counters.flows_evicted.get();
                    let made = table.create(&packet, hash, &server, now, &counters);
                    if counters.flows_evicted.get() > evicted {
                        // Somebody had to go; the map cannot know who, so ask.
                        map.retain(|&other, _| {
                            let flow = self::packet(other).flow;
                            table.find(table.hash(&flow), &flow, Direction::Original).is_some()
                        });
                    }
                    if made.is_ok() {
                        map.insert(client, (slot, nat, now));
                    }
                }
                Step::Create { .. } => {}
                Step::End { client } => {
                    let flow = packet(client).flow;
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
                        let flow = packet(client).flow;
                        table.find(table.hash(&flow), &flow, Direction::Original).is_some()
                    });
                    prop_assert!(map.values().all(|&(_, _, seen)| now.since(seen) < Duration::from_secs(30) + ROUND * 3));
                }
            }
            for (&client, &(slot, nat, _)) in &map {
                let packet = packet(client);
                let place = table.find(table.hash(&packet.flow), &packet.flow, Direction::Original);
                let place = place.expect("the map remembers it");
                prop_assert_eq!(table.at(place).server(), ServerId::new(slot, 0));
                let reply = reply_of(&packet, &server(slot, Mode::DirectReturn));
                let found = table.find(table.hash(&reply), &reply, Direction::Reply);
                prop_assert_eq!(found, nat.then_some(place));
            }
            prop_assert_eq!(counters.flows.get(), map.len() as i64);
        }
        prop_assert_eq!(contradiction(&table), None);
    }
}
