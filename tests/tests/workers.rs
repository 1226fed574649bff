//! Several workers, on interfaces whose queues share frames out by a hash over their addresses and
//! ports: the two directions of a translated flow arrive at different workers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;

use serde_json::{Value, json};
use sluice_tests::appliance::INTERFACES_ONLY;
use sluice_tests::client::{ask_by_datagram, echo_every_length, server_behind};
use sluice_tests::http;
use sluice_tests::lab::{APPLIANCE, DIRECT, Lab, PROXIED, TRANSLATED, TUNNELLED, both, ipv6};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::{Server, large};
use sluice_tests::service::{Service, direct, nat, snat, tunnel};

sluice_tests::cases! {
    on boot;
    two_workers_serve_every_mode,
    three_workers_serve_every_mode,
    four_workers_serve_every_mode,
    replies_come_to_other_workers_and_find_their_way,
    persistence_and_limits_hold_for_the_whole_node,
    masqueraded_flows_find_their_way_back,
    a_halted_servers_connections_are_cut_by_the_worker_that_has_them,
    fragments_find_the_worker_that_has_their_flow,
}

fn boot() -> Rig {
    let rig = Rig::boot_with(Lab::build(), &with_workers(2));
    for server in rig.translated() {
        server.introduce_by_datagram((server.address, 9000));
        for address in both(server.address) {
            server.echo_datagrams((address, 9001));
        }
    }
    rig
}

/// More workers than cores take turns.
fn with_workers(count: usize) -> String {
    let cores: Vec<usize> = (0..count).map(|number| number % 2).collect();
    let section = "[dataplane]";
    assert!(INTERFACES_ONLY.contains(section));
    let file = INTERFACES_ONLY.replace(section, &format!("{section}\nworkers = {cores:?}"));
    file.replace("\"kernel:lan\"", "\"kernel:lan\"\ngateway = true")
}

fn restart_with(rig: &mut Rig, workers: usize) {
    if rig.appliance.runs() {
        rig.appliance.stop();
    }
    rig.appliance.configure(&with_workers(workers));
    rig.appliance.start();
    let counters = rig.appliance.get("/counters");
    assert_eq!(counters["workers"].as_array().map(Vec::len), Some(workers));
}

/// What each worker has counted under `name`.
fn counted(rig: &Rig, name: &str) -> Vec<u64> {
    let counters = rig.appliance.get("/counters");
    let workers = counters["workers"].as_array().expect("counters have workers");
    let number = |worker: &Value| worker[name].as_u64();
    workers
        .iter()
        .map(|worker| number(worker).unwrap_or_else(|| panic!("{name} in {worker}")))
        .collect()
}

fn two_workers_serve_every_mode(rig: &mut Rig) {
    every_mode_with(rig, 2);
}

fn three_workers_serve_every_mode(rig: &mut Rig) {
    every_mode_with(rig, 3);
}

fn four_workers_serve_every_mode(rig: &mut Rig) {
    every_mode_with(rig, 4);
}

fn every_mode_with(rig: &mut Rig, workers: usize) {
    restart_with(rig, workers);
    for family in [0, 1] {
        let [dr, nat_at, snat_at, tun] =
            [DIRECT, TRANSLATED, PROXIED, TUNNELLED].map(|address| both(address)[family]);
        let ported =
            |service: Service, server: &Server| service.to_with(server, json!({ "port": 8080 }));
        let services: [(Service, IpAddr, &[Server; 3]); 4] = [
            (direct("dr", dr, "80").to_all(rig.direct()), dr, rig.direct()),
            (
                rig.translated().iter().fold(nat("nat", nat_at, "80"), ported),
                nat_at,
                rig.translated(),
            ),
            (
                rig.tunnelled().iter().fold(snat("snat", snat_at, "80"), ported),
                snat_at,
                rig.tunnelled(),
            ),
            (tunnel("tun", tun, "80").to_all(rig.tunnelled()), tun, rig.tunnelled()),
        ];
        rig.serve(services.iter().map(|(service, ..)| service));
        // Both clients ask all services at the same time.
        thread::scope(|scope| {
            for client in &rig.lab.clients {
                for (service, address, servers) in &services {
                    scope.spawn(move || {
                        let answers = client.connect(&at(*address, 80), 60);
                        let shares = servers.each_ref().map(|server| answers.from(server));
                        assert_eq!(shares.iter().sum::<usize>(), 60, "{shares:?}");
                        let name = &service.json()["name"];
                        assert!(shares.iter().all(|share| *share >= 5), "{name}: {shares:?}");
                        let down = client.request(&at(*address, 80), "GET", "/large", b"");
                        assert!(down.expect("an answer").body == large(), "{name}: byte for byte");
                    });
                }
            }
        });
    }
    assert!(counted(rig, "received").iter().all(|frames| *frames > 0), "each has its share");
    rig.books();
}

fn replies_come_to_other_workers_and_find_their_way(rig: &mut Rig) {
    restart_with(rig, 3);
    rig.serve([
        &nat("nat", TRANSLATED, "80").to_all(rig.translated()),
        &snat("snat", PROXIED, "80").to_all(rig.tunnelled()),
        &nat("udp", TRANSLATED, "9000-9001").with("protocol", "udp").to_all(rig.translated()),
    ]);
    for address in [TRANSLATED, PROXIED] {
        // Held, so that each keeps its port; asked again and again, so that all directions are used.
        let streams: Vec<_> =
            (0..60).map(|_| rig.client().open(&at(address, 80)).expect("a connection")).collect();
        let names: Vec<_> =
            streams.iter().map(|it| server_behind(it).expect("an answer")).collect();
        for (stream, name) in streams.iter().zip(&names) {
            assert_eq!(server_behind(stream).as_ref().ok(), Some(name));
        }
    }
    for _ in 0..20 {
        let socket = rig.client().datagrams(&at(TRANSLATED, 9000));
        let first = ask_by_datagram(&socket);
        assert_eq!(ask_by_datagram(&socket), first);
        echo_every_length(&rig.client().datagrams(&at(TRANSLATED, 9001)), 1400..=1472);
    }
    let handed: u64 = counted(rig, "handed_over").iter().sum();
    assert!(handed > 0, "some came to another worker than their flow's");
    assert_eq!(rig.books().dropped("hand_over_ring_full"), 0);
}

/// One table of clients for all workers.
fn persistence_and_limits_hold_for_the_whole_node(rig: &mut Rig) {
    restart_with(rig, 4);
    let service = direct("sticky", DIRECT, "80").persistent(json!({ "timeout": "5m" }));
    rig.serve([&service.to_all(rig.direct())]);
    for client in &rig.lab.clients {
        let answers = client.connect(&at(DIRECT, 80), 40);
        let met: BTreeSet<_> = answers.servers().into_iter().collect();
        assert_eq!(met.len(), 1, "whichever worker a connection comes to: {met:?}");
    }
    let [limited, other, _] = rig.translated();
    let service =
        nat("limited", TRANSLATED, "80").to_with(limited, json!({ "max_connections": 10 }));
    rig.serve([&service.to(other)]);
    let held: Vec<_> =
        (0..60).map(|_| rig.client().open(&at(TRANSLATED, 80)).expect("a connection")).collect();
    let own =
        held.iter().filter(|it| server_behind(it).expect("an answer") == limited.name).count();
    // Workers that begin flows at the same instant may each admit one.
    assert!((10..=13).contains(&own), "{own} of at most 10");
}

fn masqueraded_flows_find_their_way_back(rig: &mut Rig) {
    restart_with(rig, 3);
    rig.appliance.change(|document| {
        document["nat"] = json!([{ "kind": "masquerade", "out": "wan" }]);
    });
    let outside = &rig.direct()[0];
    for (number, address) in both(outside.address).into_iter().enumerate() {
        for server in rig.translated() {
            let to = at(address, 80).parse().expect("an address and a port");
            let asked = server.namespace.enter(|| {
                (0..20)
                    .map(|_| {
                        let stream = std::net::TcpStream::connect_timeout(
                            &to,
                            std::time::Duration::from_secs(5),
                        )?;
                        http::exchange(stream, "GET", "/", &[], b"")
                    })
                    .collect::<std::io::Result<Vec<_>>>()
            });
            for response in asked.expect("answers") {
                assert_eq!(response.json()["peer"], json!(both(APPLIANCE)[number]));
            }
            assert_eq!(server.namespace.ping(address, 20, &["-i0.01"]), 20, "{address}");
        }
    }
}

fn a_halted_servers_connections_are_cut_by_the_worker_that_has_them(rig: &mut Rig) {
    restart_with(rig, 3);
    rig.serve([&nat("nat", TRANSLATED, "80").to_all(rig.translated())]);
    let held: Vec<_> = (0..60)
        .map(|_| {
            let stream = rig.client().open(&at(TRANSLATED, 80)).expect("a connection");
            let name = server_behind(&stream).expect("an answer");
            (stream, name)
        })
        .collect();
    let halted = &rig.translated()[0].name;
    rig.appliance.patch_server("nat", halted, json!({ "state": "halt" }));
    for (stream, name) in &held {
        assert_eq!(server_behind(stream).is_err(), name == halted);
    }
}

/// A later fragment has no ports, so the hash takes it elsewhere. (The kernel puts those of IPv4
/// together before they get to a `kernel:` device.)
fn fragments_find_the_worker_that_has_their_flow(rig: &mut Rig) {
    restart_with(rig, 4);
    let address = ipv6(TRANSLATED);
    let service = nat("echo", address, "9001").with("protocol", "udp");
    rig.serve([&service.to_all(rig.translated())]);
    for number in 0..20 {
        let socket = rig.client().datagrams(&at(address, 9001));
        let sent: Vec<u8> = (0..4000 + number).map(|place| (place * 7) as u8).collect();
        socket.send(&sent).expect("a datagram in three fragments can be sent");
        let mut back = [0; 8192];
        let length = socket.recv(&mut back).unwrap_or_else(|why| panic!("{why}: {}", rig.books()));
        assert!(back[..length] == sent, "byte for byte");
    }
}
