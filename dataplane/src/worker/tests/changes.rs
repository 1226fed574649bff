//! What a change of the configuration, a flood or a full table does to connections that stand.

use super::*;
use crate::snapshot::Service;

/// A service whose servers `present` of ten there are, each with a weight and some draining.
fn services(mode: &str, present: u32, weights: u32, draining: u32) -> String {
    let servers: String = (0..10)
        .filter(|at| present >> at & 1 == 1)
        .map(|at| {
            let weight = 1 + (weights >> (3 * at) & 7);
            let drains = if draining >> at & 1 == 1 { "!" } else { "" };
            format!(" 10.0.0.{}*{weight}{drains}", at + 10)
        })
        .collect();
    format!("192.0.2.1:80 {mode} wrr{servers}")
}

/// The snapshot of [`services`] with each server in a slot of its own, whoever else there is, and with a
/// reuse number that rises whenever it was away.
fn with_stable_slots(text: &str, reuse: &[u16; 10], generation: u64) -> Snapshot {
    let mut snapshot = snapshot(text);
    let id_of = |address: crate::wire::Address| {
        let slot = (address.low() & 0xff) as u16 - 10;
        crate::snapshot::ServerId::new(slot, reuse[usize::from(slot)])
    };
    let mut servers = vec![None; 10];
    let mut renamed = std::collections::HashMap::new();
    for mut server in snapshot.servers.iter().flatten().cloned() {
        let id = id_of(server.address);
        renamed.insert(server.id, id);
        server.id = id;
        servers[id.slot()] = Some(server);
    }
    let virtual_address: crate::wire::Address = Ipv4Addr::new(192, 0, 2, 1).into();
    let tcp = crate::snapshot::Protocol::Tcp;
    let service: Service = snapshot.services.at(virtual_address, tcp, 80).unwrap().clone();
    let candidates =
        service.candidates.servers().iter().map(|&(id, weight)| (renamed[&id], weight));
    let service = Service { candidates: crate::snapshot::Candidates::new(candidates), ..service };
    let mut services = crate::snapshot::Services::new();
    for server in servers.iter().flatten() {
        services.expect_replies_from(server.address);
    }
    services.publish(virtual_address, tcp, (80, 80), service.id);
    services.insert(service);
    (snapshot.servers, snapshot.services) = (servers.into(), services.into());
    snapshot.generation = generation;
    snapshot
}

/// Numbers for the test below, the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

#[test]
fn no_connection_to_a_surviving_server_moves_in_10_000_changes_under_load() {
    for mode in ["dr", "nat"] {
        let mut random = Random(7);
        let mut reuse = [0; 10];
        let mut present = 0x3ff;
        let first = with_stable_slots(&services(mode, present, 0, 0), &reuse, 1);
        let mut worker = TestWorker::with(first, 4_096);
        // Connections that stand: client number and server.
        let mut standing: Vec<(u16, Vec<u8>)> = Vec::new();
        let mut next_client = 0u16;
        for generation in 2..10_002 {
            let server = random.next() % 10;
            let before = present;
            if random.next().is_multiple_of(4) && (present ^ 1 << server) != 0 {
                present ^= 1 << server;
            }
            for (at, reuse) in reuse.iter_mut().enumerate() {
                *reuse += u16::from(before >> at & 1 == 0 && present >> at & 1 == 1);
            }
            let mut draining = random.next() as u32 & random.next() as u32 & 0x3ff;
            if present & !draining == 0 {
                draining = 0;
            }
            let text = services(mode, present, random.next() as u32, draining);
            worker.publisher.publish(with_stable_slots(&text, &reuse, generation));
            standing.retain(|(_, server)| {
                let at = server[5] - 10;
                present >> at & 1 == 1 && before >> at & 1 == 1
            });
            for _ in 0..2 {
                let client = format!("198.51.100.9:{}", 1_000 + next_client);
                worker.receives(&tcp(&client, "192.0.2.1:80", SYN));
                let sent = worker.transmitted_on(INSIDE);
                let chosen = sent[0][..6].to_vec();
                assert_eq!(draining >> (chosen[5] - 10) & 1, 0, "not to one that drains");
                standing.retain(|&(other, _)| other != next_client);
                standing.push((next_client, chosen));
                next_client = (next_client + 1) % 3_000;
            }
            for _ in 0..4 {
                let (client, server) = &standing[random.next() as usize % standing.len()];
                let client = format!("198.51.100.9:{}", 1_000 + client);
                worker.receives(&tcp(&client, "192.0.2.1:80", ACK));
                let sent = worker.transmitted_on(INSIDE);
                assert_eq!(sent[0][..6], server[..], "{mode}, change {generation}");
            }
            worker.passes(Duration::from_millis(1));
        }
        worker.balances();
    }
}

#[test]
fn ten_thousand_clients_are_served_by_a_table_of_a_thousand_in_direct_return_and_tunnel() {
    for mode in ["dr", "tun"] {
        let services = format!("192.0.2.1:80 {mode} 10.0.0.7 10.0.0.8 10.0.0.9");
        let mut worker = TestWorker::with(snapshot(&services), 1_000);
        let of = |number: u32| format!("198.51.{}.{}:4000", number >> 8, number & 0xff);
        let mut servers = Vec::new();
        for number in 0..10_000 {
            servers.push(worker.server_of(&tcp(&of(number), "192.0.2.1:80", SYN)));
        }
        for flags in [ACK, ACK, FIN | ACK] {
            for (number, server) in (0..).zip(&servers) {
                let now = worker.server_of(&tcp(&of(number), "192.0.2.1:80", flags));
                assert_eq!(now, *server, "client {number} of {mode}");
            }
        }
        assert!(worker.counters.forwarded_without_flow.get() > 0);
        worker.balances();
    }
}

#[test]
fn a_full_table_refuses_new_nat_connections_and_leaves_established_ones_alone() {
    for mode in ["nat", "snat"] {
        let services = format!("192.0.2.1:80 {mode} 10.0.0.7 10.0.0.8 10.0.0.9");
        let mut worker = TestWorker::with(snapshot(&services), 1_000);
        let of = |number: u32| format!("198.51.{}.{}:4000", number >> 8, number & 0xff);
        let mut established = Vec::new();
        for number in 0..1_000 {
            for flags in [SYN, ACK] {
                worker.receives(&tcp(&of(number), "192.0.2.1:80", flags));
            }
            let sent = worker.transmitted_on(INSIDE);
            if sent.len() == 2 {
                established.push((number, decode(&sent[0])));
            }
        }
        assert!(established.len() > 900);
        for number in 1_000..10_000 {
            worker.receives(&tcp(&of(number), "192.0.2.1:80", SYN));
        }
        let more = worker.transmitted().len();
        assert_eq!(
            worker.dropped(Reason::FlowTableFull) as usize,
            9_000 - more + 1_000 - established.len()
        );
        for (number, there) in established {
            worker.receives(&tcp(&of(number), "192.0.2.1:80", ACK));
            assert_eq!(decode(&worker.transmitted_on(INSIDE)[0]), there, "{mode}");
        }
        worker.balances();
    }
}

#[test]
fn an_established_connection_survives_a_full_table_longer_than_its_idle_neighbours() {
    let mut worker = TestWorker::with(snapshot("192.0.2.1:80 nat 10.0.0.7"), 100);
    worker.receives(&syn("192.0.2.1:80"));
    worker.receives(&tcp(CLIENT, "192.0.2.1:80", ACK));
    for second in 0..20 {
        for port in 0..200 {
            let client = format!("198.51.100.77:{}", second * 200 + port);
            worker.receives(&tcp(&client, "192.0.2.1:80", SYN));
        }
        worker.passes(Duration::from_secs(1));
    }
    worker.transmitted();
    worker.receives_on(INSIDE, &reply("10.0.0.7:80", CLIENT, ACK));
    assert_eq!(worker.transmitted_on(OUTSIDE).len(), 1);
    worker.balances();
}

#[test]
fn a_halted_server_s_connections_are_reset_at_both_ends_and_new_ones_go_elsewhere() {
    for mode in ["nat", "snat"] {
        let services = |state: &str| format!("192.0.2.1:80 {mode} 10.0.0.7{state} 10.0.0.8");
        let mut worker = TestWorker::serving(&services(""));
        worker.receives(&syn("192.0.2.1:80"));
        let there = decode(&worker.transmitted_on(INSIDE)[0]);
        assert!(there.1.starts_with("10.0.0.7"));
        worker.reconfigure(&services("!!"), 2);
        worker.receives(&tcp(CLIENT, "192.0.2.1:80", ACK));
        let [to_client, to_server] = [OUTSIDE, INSIDE].map(|it| worker.transmitted_on(it));
        assert_eq!((to_client.len(), to_server.len()), (1, 1));
        assert_eq!(decode(&to_client[0]), ("192.0.2.1:80".into(), CLIENT.into()));
        assert_eq!(decode(&to_server[0]), there);
        let flags = |frame: &[u8]| frame[47];
        assert_eq!([flags(&to_client[0]) & 4, flags(&to_server[0]) & 4], [4, 4], "both RST");
        assert_eq!(worker.dropped(Reason::ServerHalted), 1);
        for port in 1..5 {
            worker.receives(&tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", SYN));
            assert!(decode(&worker.transmitted_on(INSIDE)[0]).1.starts_with("10.0.0.8"));
        }
        worker.balances();
    }
}

#[test]
fn a_closed_service_takes_no_new_connections_and_keeps_those_it_has() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7");
    worker.server_of(&syn("192.0.2.1:80"));
    worker.reconfigure("192.0.2.1:80 dr closed 10.0.0.7", 2);
    worker.server_of(&tcp(CLIENT, "192.0.2.1:80", ACK));
    worker.receives(&tcp("198.51.100.9:1", "192.0.2.1:80", SYN));
    assert_eq!(worker.dropped(Reason::ServiceClosed), 1);
    worker.balances();
}

#[test]
fn nothing_unknown_is_reset_after_a_restart() {
    for mode in ["dr", "nat", "snat", "tun"] {
        let mut worker = TestWorker::serving(&format!("192.0.2.1:80 {mode} 10.0.0.7 10.0.0.8"));
        for port in 0..50 {
            worker.receives(&tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", ACK));
            worker.receives_on(INSIDE, &reply("10.0.0.7:80", &format!("198.51.100.8:{port}"), ACK));
        }
        assert_eq!(worker.transmitted_on(INSIDE).len(), 50, "{mode}");
        assert!(worker.transmitted_on(OUTSIDE).is_empty(), "{mode}");
        worker.balances();
    }
}
