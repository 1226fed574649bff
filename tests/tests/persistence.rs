//! Clients that return to the server that they had.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_tests::client::{Client, ask_by_datagram};
use sluice_tests::lab::{DIRECT, PROXIED, TRANSLATED, ipv6, somebody};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{Service, direct, nat, snat};

sluice_tests::cases! {
    a_client_returns_and_each_connection_begins_its_time_anew_until_it_is_forgotten,
    clients_of_one_network_share_a_server,
    clients_of_one_ipv6_network_share_a_server,
    durations_are_taken_in_any_unit_and_given_back_in_one,
    long_persistence_lengthens_the_timeouts_of_connections,
    a_client_moves_away_from_a_server_that_drains,
    unless_it_is_to_return_even_then,
    a_client_moves_away_from_a_server_that_is_gone,
    without_persistence_nobody_sticks,
    services_of_a_group_send_a_client_to_one_machine,
    services_without_a_group_do_not,
    what_is_remembered_survives_changes_of_the_configuration,
}

fn sticky(rig: &Rig, persistence: Value) -> Service {
    direct("sticky", DIRECT, "80").persistent(persistence).to_all(rig.direct())
}

fn met(client: &Client, host: u8) -> String {
    client.ask_from(somebody(0, host), &at(DIRECT, 80)).server
}

/// PER-01, with two seconds instead of five.
fn a_client_returns_and_each_connection_begins_its_time_anew_until_it_is_forgotten(rig: &mut Rig) {
    rig.serve([&sticky(rig, json!({ "timeout": "2s" }))]);
    let client = rig.far_client();
    let begin = Instant::now();
    let first = met(client, 1);
    for after in [1.5, 3.0] {
        sleep(Duration::from_secs_f64(after).saturating_sub(begin.elapsed()));
        assert_eq!(met(client, 1), first, "after {after} s");
    }
    // Nobody else came: round robin is at the second server, whoever is new.
    sleep(Duration::from_secs_f64(3.0 + 3.2).saturating_sub(begin.elapsed()));
    let second = met(client, 1);
    assert_ne!(second, first, "it is as new");
    assert_eq!(met(client, 1), second, "and remembered again");
}

/// PER-02.
fn clients_of_one_network_share_a_server(rig: &mut Rig) {
    rig.serve([&sticky(rig, json!({ "timeout": "5m", "mask": 24 }))]);
    let ask =
        |network, host| rig.far_client().ask_from(somebody(network, host), &at(DIRECT, 80)).server;
    let networks = [0, 1, 2].map(|network| {
        let names = BTreeSet::from([1, 2, 200, 255].map(|host| ask(network, host)));
        assert_eq!(names.len(), 1, "network {network}: {names:?}");
        names.into_iter().next().expect("one")
    });
    assert_eq!(BTreeSet::from(networks).len(), 3, "networks are told apart");
}

fn clients_of_one_ipv6_network_share_a_server(rig: &mut Rig) {
    let published = ipv6(DIRECT);
    let service = |mask| {
        direct("sticky", published, "80")
            .persistent(json!({ "timeout": "5m", "mask_ipv6": mask }))
            .to_all(rig.direct())
    };
    let ask = || {
        let names = |client: &Client| client.connect(&at(published, 80), 3).0;
        let names = rig.lab.clients.iter().flat_map(names).map(|answer| answer.server);
        names.collect::<BTreeSet<_>>().len()
    };
    rig.serve([]);
    rig.serve([&service(64)]);
    assert_eq!(ask(), 1);
    rig.serve([]);
    rig.serve([&service(128)]);
    assert_eq!(ask(), 2);
}

/// PER-03.
fn durations_are_taken_in_any_unit_and_given_back_in_one(rig: &mut Rig) {
    let read_back = |timeout: &Value| {
        rig.serve([&sticky(rig, json!({ "timeout": timeout }))]);
        rig.appliance.get("/config")["service"][0]["persistence"]["timeout"].clone()
    };
    let six_minutes = read_back(&json!("6m"));
    assert_eq!(read_back(&json!("360")), six_minutes);
    assert_eq!(read_back(&json!("360s")), six_minutes);
    assert_eq!(read_back(&json!("6h")), read_back(&json!("21600")));
    let answer = rig.appliance.put_services([&sticky(rig, json!({ "timeout": "soon" }))]);
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("persistence.timeout"), "{}", answer.text());
}

/// PER-10.
fn long_persistence_lengthens_the_timeouts_of_connections(rig: &mut Rig) {
    let seconds = |service: &Service, name: &str| {
        rig.serve([service]);
        let status = rig.appliance.get("/status");
        let timeout = &status["services"][0]["timeouts"][name];
        duration(timeout).unwrap_or_else(|| panic!("a duration called {name} in {status}"))
    };
    let plain = direct("plain", DIRECT, "80").to_all(rig.direct());
    assert_eq!(seconds(&plain, "established"), 900);
    let long = sticky(rig, json!({ "timeout": "6h" }));
    assert_eq!(seconds(&long, "established"), 6 * 3600);
    assert_eq!(seconds(&long.with("protocol", "udp"), "udp"), 6 * 3600);
}

/// Seconds, whether written as a number or with its unit.
fn duration(value: &Value) -> Option<u64> {
    let Some(text) = value.as_str() else { return value.as_u64() };
    let split = text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[split..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    Some(text[..split].parse::<u64>().ok()? * unit)
}

/// PER-11.
fn a_client_moves_away_from_a_server_that_drains(rig: &mut Rig) {
    for drain in [json!({ "state": "drain" }), json!({ "weight": 0 })] {
        rig.serve([]);
        rig.serve([&sticky(rig, json!({ "timeout": "5m" }))]);
        let client = rig.far_client();
        let first = met(client, 1);
        rig.appliance.patch_server("sticky", &first, drain);
        let second = met(client, 1);
        assert_ne!(second, first);
        rig.appliance.patch_server("sticky", &first, json!({ "state": "online", "weight": 100 }));
        assert_eq!(met(client, 1), second, "where it is now remembered");
    }
}

/// PER-11, turned off.
fn unless_it_is_to_return_even_then(rig: &mut Rig) {
    rig.serve([]);
    rig.serve([&sticky(rig, json!({ "timeout": "5m", "through_drain": true }))]);
    let client = rig.far_client();
    let first = met(client, 1);
    rig.appliance.patch_server("sticky", &first, json!({ "state": "drain" }));
    assert_eq!(met(client, 1), first);
    let others: BTreeSet<_> = (2..=7).map(|host| met(client, host)).collect();
    assert!(!others.contains(&first), "new clients do not come to it: {others:?}");
}

/// PER-15: persistence never holds a client at a server that is gone.
fn a_client_moves_away_from_a_server_that_is_gone(rig: &mut Rig) {
    rig.serve([]);
    rig.serve([&sticky(rig, json!({ "timeout": "5m" }))]);
    let client = rig.far_client();
    let first = met(client, 1);
    rig.appliance.patch_server("sticky", &first, json!({ "state": "halt" }));
    let second = met(client, 1);
    assert_ne!(second, first);
    rig.appliance.rest("DELETE", &format!("/services/sticky/servers/{second}"), None);
    let third = met(client, 1);
    assert!(third != first && third != second);
    assert_eq!(met(client, 1), third);
}

/// PER-14, PER-15.
fn without_persistence_nobody_sticks(rig: &mut Rig) {
    rig.serve([]);
    rig.serve([&direct("free", DIRECT, "80").to_all(rig.direct())]);
    let names: BTreeSet<_> = (0..3).map(|_| met(rig.far_client(), 1)).collect();
    assert_eq!(names.len(), 3);
}

/// Two services on the same machines, TCP by NAT and UDP by NAT of both ends.
fn session(rig: &Rig, group: Option<&str>) -> [Service; 2] {
    let persistence = match group {
        Some(group) => json!({ "timeout": "6h", "group": group }),
        None => json!({ "timeout": "6h" }),
    };
    let udp = snat("udp", PROXIED, "443").with("protocol", "udp");
    [nat("tcp", TRANSLATED, "443"), udp]
        .map(|service| service.persistent(persistence.clone()).to_all(rig.translated()))
}

/// What a client meets by TCP, then by UDP.
fn both_ways(client: &Client) -> [String; 2] {
    let stream = client.connect(&at(TRANSLATED, 443), 1).0.remove(0).server;
    let socket = client.datagrams(&at(PROXIED, 443));
    [stream, ask_by_datagram(&socket).server]
}

/// E-8, step 2. (Alone, the two would disagree: see the next case.)
fn services_of_a_group_send_a_client_to_one_machine(rig: &mut Rig) {
    for server in rig.translated() {
        server.introduce_by_datagram((server.address, 443));
    }
    rig.serve([]);
    rig.serve(&session(rig, Some("ras")));
    // Round robin of the one service is now ahead of the other's.
    rig.far_client().connect(&at(TRANSLATED, 443), 1);
    for client in &rig.lab.clients {
        let [stream, datagram] = both_ways(client);
        assert_eq!(stream, datagram);
    }
}

fn services_without_a_group_do_not(rig: &mut Rig) {
    rig.serve([]);
    rig.serve(&session(rig, None));
    rig.far_client().connect(&at(TRANSLATED, 443), 1);
    let [stream, datagram] = both_ways(rig.client());
    assert_ne!(stream, datagram);
    assert_eq!(both_ways(rig.client()), [stream, datagram], "each for itself remembers");
}

fn what_is_remembered_survives_changes_of_the_configuration(rig: &mut Rig) {
    rig.serve([]);
    let service = sticky(rig, json!({ "timeout": "5m" }));
    rig.serve([&service]);
    let client = rig.far_client();
    let ask = || -> Vec<String> { (0..30).map(|host| met(client, host)).collect() };
    let before = ask();
    let other = nat("other", TRANSLATED, "80").to_all(rig.translated());
    rig.serve([&other, &service]);
    assert!(ask() == before, "with another service before it");
    rig.appliance.patch_server("sticky", &rig.direct()[0].name, json!({ "weight": 7 }));
    assert!(ask() == before, "with another weight");
    let fewer: &[Server] = &rig.direct()[..2];
    rig.serve([&direct("sticky", DIRECT, "80")
        .persistent(json!({ "timeout": "6m" }))
        .to_all(fewer)]);
    let after = ask();
    for (old, new) in before.iter().zip(&after) {
        let gone = *old == rig.direct()[2].name;
        assert!(gone || old == new, "only those of the removed server move: {old} {new}");
    }
}
