//! What an operator wants of servers, and what becomes of the connections that they have.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sluice_tests::capture::Capture;
use sluice_tests::client::{Client, is_cut, server_behind};
use sluice_tests::decode::packets;
use sluice_tests::http;
use sluice_tests::lab::{DIRECT, PROXIED, TRANSLATED, TUNNELLED};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::{Server, large};
use sluice_tests::service::{Service, direct, nat, snat, tunnel};

sluice_tests::cases! {
    a_server_that_drains_finishes_what_it_does_and_gets_nothing_new,
    a_halted_servers_connections_are_cut_and_new_ones_go_elsewhere,
    a_halted_server_and_its_client_are_both_told,
    a_halted_server_comes_back_as_if_nothing_had_been,
    the_next_priority_stands_by_until_nobody_is_left_before_it,
    servers_found_unwell_keep_their_connections_if_quiescent,
    servers_found_unwell_lose_their_connections_if_not,
    a_disabled_service_keeps_its_connections_and_takes_none,
    a_removed_service_is_gone_with_its_connections,
}

/// A service by each mode, with its servers.
fn services(rig: &Rig) -> [(Service, Ipv4Addr, &[Server; 3]); 4] {
    [
        (direct("dr", DIRECT, "80"), DIRECT, rig.direct()),
        (nat("nat", TRANSLATED, "80"), TRANSLATED, rig.translated()),
        (snat("snat", PROXIED, "80"), PROXIED, rig.tunnelled()),
        (tunnel("tun", TUNNELLED, "80"), TUNNELLED, rig.tunnelled()),
    ]
    .map(|(service, address, servers)| (service.to_all(servers), address, servers))
}

fn serve_all(rig: &Rig) -> [(String, Ipv4Addr, &[Server; 3]); 4] {
    let services = services(rig);
    rig.serve(services.iter().map(|(service, ..)| service));
    services.map(|(service, address, servers)| {
        let name = service.json()["name"].as_str().expect("it has a name").to_owned();
        (name, address, servers)
    })
}

/// A connection, and whose it is.
fn held(rig: &Rig, address: Ipv4Addr) -> (TcpStream, String) {
    let stream = rig.client().open(&at(address, 80)).expect("a connection");
    let name = server_behind(&stream).expect("an answer");
    (stream, name)
}

fn named<'a>(servers: &'a [Server; 3], name: &str) -> &'a Server {
    servers.iter().find(|server| server.name == name).expect("one of the servers")
}

/// ST-01.
fn a_server_that_drains_finishes_what_it_does_and_gets_nothing_new(rig: &mut Rig) {
    let services = serve_all(rig);
    let rig = &*rig;
    let names = thread::scope(|scope| {
        let drained = services.each_ref().map(|(service, address, servers)| {
            scope.spawn(move || drain_during_a_download(rig, service, *address, servers))
        });
        drained.map(|it| it.join().expect("what went wrong stands above"))
    });
    for ((service, address, servers), name) in services.iter().zip(names) {
        rig.appliance.rest("POST", &format!("/services/{service}/servers/{name}/online"), None);
        let answers = rig.client().connect(&at(*address, 80), 30);
        assert_eq!(answers.from(named(servers, &name)), 10, "{service}: it is back");
    }
}

/// Which server that was.
fn drain_during_a_download(
    rig: &Rig,
    service: &str,
    address: Ipv4Addr,
    servers: &[Server; 3],
) -> String {
    let (mut stream, name) = held(rig, address);
    stream
        .write_all(b"GET /slow HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n\r\n")
        .expect("open");
    let mut page = vec![0; 1000];
    stream.read_exact(&mut page).expect("the download has begun");

    rig.appliance.rest("POST", &format!("/services/{service}/servers/{name}/drain"), None);
    let answers = rig.client().connect(&at(address, 80), 100);
    assert_eq!(answers.from(named(servers, &name)), 0, "{service}");

    stream.read_to_end(&mut page).unwrap_or_else(|why| panic!("{service}: it goes on: {why}"));
    let page = http::parse(&page).expect("a whole answer");
    assert!(page.body == large(), "{service}: it finishes, byte for byte");
    name
}

/// ST-02.
fn a_halted_servers_connections_are_cut_and_new_ones_go_elsewhere(rig: &mut Rig) {
    for (service, address, servers) in serve_all(rig) {
        let connections: Vec<_> = (0..3).map(|_| held(rig, address)).collect();
        let name = connections[0].1.clone();
        rig.appliance.rest("POST", &format!("/services/{service}/servers/{name}/halt"), None);
        for (stream, owner) in &connections {
            assert_eq!(is_cut(stream), *owner == name, "{service}: {owner} while {name} is halted");
        }
        let answers = rig.client().connect(&at(address, 80), 100);
        assert_eq!(answers.from(named(servers, &name)), 0, "{service}");
        assert_eq!(answers.count(), 100);
    }
}

/// ST-02: where both directions pass here, neither end is left waiting.
fn a_halted_server_and_its_client_are_both_told(rig: &mut Rig) {
    for (service, address, servers) in serve_all(rig).into_iter().skip(1).take(2) {
        let (stream, name) = held(rig, address);
        let server = named(servers, &name);
        let filter = "tcp[tcpflags] & tcp-rst != 0";
        let at_client = Capture::start(&rig.client().namespace, Client::LEG, filter);
        let at_server = Capture::start(&server.namespace, Server::LEG, filter);
        rig.appliance.rest("POST", &format!("/services/{service}/servers/{name}/halt"), None);
        assert!(is_cut(&stream), "{service}");
        let there = |frames: &[Vec<u8>]| !frames.is_empty();
        let cut = packets(&at_client.until("a reset at the client", there));
        assert_eq!(cut[0].source_address(), address, "{service}: as if from the service");
        let cut = packets(&at_server.until("a reset at the server", there));
        assert_eq!(cut[0].destination_address(), server.address);
    }
}

fn a_halted_server_comes_back_as_if_nothing_had_been(rig: &mut Rig) {
    for (service, address, servers) in serve_all(rig) {
        let name = &servers[1].name;
        rig.appliance.patch_server(&service, name, json!({ "state": "halt" }));
        let answers = rig.client().connect(&at(address, 80), 10);
        assert_eq!(answers.from(&servers[1]), 0, "{service}");
        rig.appliance.patch_server(&service, name, json!({ "state": "online" }));
        let answers = rig.client().connect(&at(address, 80), 30);
        assert_eq!(answers.from(&servers[1]), 10, "{service}");
        let status = rig.appliance.get("/status");
        let shown = status["services"].as_array().expect("services");
        let shown = shown.iter().flat_map(|it| it["servers"].as_array().expect("servers"));
        for server in shown {
            assert_eq!((&server["wanted"], &server["actual"]), (&json!("online"), &json!("up")));
        }
    }
}

/// ST-12.
fn the_next_priority_stands_by_until_nobody_is_left_before_it(rig: &mut Rig) {
    let [first, second, standby] = rig.direct();
    let service =
        direct("web", DIRECT, "80").to(first).to(second).to_with(standby, json!({ "priority": 2 }));
    rig.serve([&service]);
    let shares = || {
        let answers = rig.client().connect(&at(DIRECT, 80), 20);
        [first, second, standby].map(|server| answers.from(server))
    };
    let want = |server: &Server, state: &str| {
        rig.appliance.patch_server("web", &server.name, json!({ "state": state }));
    };
    assert_eq!(shares(), [10, 10, 0]);
    want(first, "halt");
    assert_eq!(shares(), [0, 20, 0], "one is left");
    want(second, "drain");
    assert_eq!(shares(), [0, 0, 20], "nobody is left");
    want(first, "online");
    assert_eq!(shares(), [20, 0, 0], "and back");
}

/// Each service with all its servers found unwell, and connections from before.
fn found_unwell(rig: &Rig, quiescent: bool) -> Vec<(String, TcpStream)> {
    let services = services(rig);
    rig.serve(services.iter().map(|(service, ..)| service));
    let held: Vec<_> = services
        .iter()
        .map(|(service, address, _)| (service.json()["mode"].to_string(), held(rig, *address).0))
        .collect();
    let off: Vec<_> = services
        .into_iter()
        .map(|(service, ..)| {
            service.with("check", json!({ "type": "off" })).with("quiescent", quiescent)
        })
        .collect();
    rig.serve(&off);
    for (_, address, _) in self::services(rig) {
        let new = rig.client().attempt(&at(address, 80), 1, Duration::from_millis(300));
        assert!(new[0].is_err(), "nobody takes new ones at {address}");
    }
    held
}

/// HC-05, HC-15.
fn servers_found_unwell_keep_their_connections_if_quiescent(rig: &mut Rig) {
    for (mode, stream) in found_unwell(rig, true) {
        assert!(server_behind(&stream).is_ok(), "{mode}");
    }
}

/// HC-15.
fn servers_found_unwell_lose_their_connections_if_not(rig: &mut Rig) {
    for (mode, stream) in found_unwell(rig, false) {
        assert!(is_cut(&stream), "{mode}");
    }
}

/// VS-20.
fn a_disabled_service_keeps_its_connections_and_takes_none(rig: &mut Rig) {
    let services = services(rig);
    rig.serve(services.iter().map(|(service, ..)| service));
    let held = services.each_ref().map(|(_, address, _)| held(rig, *address).0);
    let disabled = services.each_ref().map(|it| it.0.clone().with("enabled", false));
    rig.serve(&disabled);
    let before = rig.books();
    for ((_, address, _), stream) in services.iter().zip(&held) {
        let new = rig.client().attempt(&at(*address, 80), 1, Duration::from_millis(300));
        assert!(new[0].is_err(), "{address} takes none");
        assert!(server_behind(stream).is_ok(), "{address} keeps its own");
    }
    assert!(rig.books().dropped("service_closed") > before.dropped("service_closed"));
    rig.serve(services.iter().map(|(service, ..)| service));
    let answers: BTreeMap<_, _> = services
        .iter()
        .map(|(_, address, _)| (address, rig.client().connect(&at(*address, 80), 3).count()))
        .collect();
    assert!(answers.values().all(|count| *count == 3), "enabled again");
}

fn a_removed_service_is_gone_with_its_connections(rig: &mut Rig) {
    let [_, (service, address, _), ..] = services(rig);
    rig.serve([&service]);
    let (stream, _) = held(rig, address);
    stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout can be set");
    rig.serve([]);
    assert!(server_behind(&stream).is_err());
}
