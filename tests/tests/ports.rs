//! Ports, protocols and addresses of a service, and the schedulers that look at addresses and at how
//! busy servers are.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::appliance::INTERFACES_ONLY;
use sluice_tests::client::{Client, ask_by_datagram, cut, server_behind};
use sluice_tests::lab::{DIRECT, Lab, MIXED, TRANSLATED, somebody};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{direct, nat};

sluice_tests::cases! {
    on boot;
    lists_and_ranges_of_ports_are_served_and_the_next_ports_are_not,
    a_range_may_reach_to_the_last_port,
    a_star_serves_every_port,
    several_addresses_lead_to_the_same_servers,
    persistent_clients_meet_one_server_on_both_ports,
    persistent_clients_meet_one_server_over_tcp_and_udp,
    destination_hash_keeps_each_of_256_virtual_addresses_with_one_server,
    source_hash_keeps_256_clients_with_their_servers_over_a_restart,
    least_connection_fills_up_the_emptier_server,
    weighted_least_connection_keeps_the_proportion,
    a_full_server_is_passed_over_until_it_is_empty_enough,
    a_service_whose_servers_are_all_full_drops_and_counts,
}

/// Our address beside 256 virtual ones, 10.1.6.0 to 10.1.6.255.
const BESIDE: &str = "10.1.4.2/22";

fn boot() -> Rig {
    let wan = "addresses = [\"10.1.0.2/24\"";
    assert!(INTERFACES_ONLY.contains(wan));
    let file = INTERFACES_ONLY.replace(wan, &format!("{wan}, \"{BESIDE}\""));
    let rig = Rig::boot_with(Lab::build(), &file);
    for server in rig.direct() {
        server.namespace.ip("route add local 10.1.6.0/24 dev lo\n");
    }
    for client in &rig.lab.clients {
        client.namespace.ip(&format!("route add 10.1.4.0/22 dev {}\n", Client::LEG));
    }
    rig
}

fn echoes(client: &Client, to: &str) -> bool {
    let echo = |mut stream: TcpStream| {
        stream.write_all(b"hello").ok()?;
        let mut back = [0; 5];
        stream.read_exact(&mut back).ok()?;
        Some(&back == b"hello")
    };
    let to = to.parse().expect("an address and a port");
    let open = || TcpStream::connect_timeout(&to, Duration::from_millis(500));
    let stream = client.namespace.enter(open);
    stream.ok().and_then(echo).unwrap_or(false)
}

/// VS-02.
fn lists_and_ranges_of_ports_are_served_and_the_next_ports_are_not(rig: &mut Rig) {
    let server = &rig.direct()[0];
    for port in [1023, 1024, 1050, 1090, 1091] {
        server.echo_streams((DIRECT, port));
    }
    rig.serve([&direct("several", DIRECT, "80,443,1024:1090").to(server)]);
    for port in [80, 443] {
        assert_eq!(rig.client().connect(&at(DIRECT, port), 2).from(server), 2);
    }
    for port in [1024, 1050, 1090] {
        assert!(echoes(rig.client(), &at(DIRECT, port)), "port {port}");
    }
    for port in [1023, 1091, 8080] {
        assert!(!echoes(rig.client(), &at(DIRECT, port)), "port {port}");
    }
    assert!(rig.books().dropped("no_service") > 0);
}

fn a_range_may_reach_to_the_last_port(rig: &mut Rig) {
    let server = &rig.direct()[1];
    for port in [2048, 65_535] {
        server.echo_streams((DIRECT, port));
    }
    rig.serve([&direct("high", DIRECT, "1024:").to(server)]);
    assert!(echoes(rig.client(), &at(DIRECT, 2048)));
    assert!(echoes(rig.client(), &at(DIRECT, 65_535)));
    assert!(!echoes(rig.client(), &at(DIRECT, 443)));
}

fn a_star_serves_every_port(rig: &mut Rig) {
    rig.serve([
        &direct("all", DIRECT, "*").to(&rig.direct()[0]),
        &nat("all-nat", TRANSLATED, "*").to(&rig.translated()[0]),
    ]);
    for port in sluice_tests::server::PORTS {
        assert_eq!(rig.client().connect(&at(DIRECT, port), 2).from(&rig.direct()[0]), 2);
        let answers = rig.client().connect(&at(TRANSLATED, port), 2);
        assert_eq!(answers.from(&rig.translated()[0]), 2);
        let asked: BTreeSet<_> = answers.locals().iter().map(|it| it.port()).collect();
        assert_eq!(asked, BTreeSet::from([port]), "the port is kept");
    }
}

fn several_addresses_lead_to_the_same_servers(rig: &mut Rig) {
    let addresses = [DIRECT, MIXED].map(|address| address.to_string());
    let addresses = addresses.each_ref().map(String::as_str);
    rig.serve([&direct("both", DIRECT, "80").at_all(&addresses).to_all(rig.direct())]);
    for address in [DIRECT, MIXED] {
        let answers = rig.client().connect(&at(address, 80), 9);
        assert_eq!(rig.direct().each_ref().map(|server| answers.from(server)), [3, 3, 3]);
        assert!(answers.locals().iter().all(|it| it.ip() == address));
    }
}

fn persistence() -> Value {
    json!({ "timeout": "5m" })
}

/// VS-04, VS-23: HTTP and HTTPS of one shop.
fn persistent_clients_meet_one_server_on_both_ports(rig: &mut Rig) {
    rig.serve([
        &direct("shop", DIRECT, "80,443").persistent(persistence()).to_all(rig.direct()),
        &nat("nat", TRANSLATED, "80,443").persistent(persistence()).to_all(rig.translated()),
    ]);
    let client = rig.far_client();
    for address in [DIRECT, TRANSLATED] {
        let mut met = BTreeSet::new();
        for host in 1..=9 {
            let from = somebody(0, host);
            let names =
                [80, 443, 443, 80].map(|port| client.ask_from(from, &at(address, port)).server);
            let names = BTreeSet::from(names);
            assert_eq!(names.len(), 1, "{from} meets one server at {address}: {names:?}");
            met.extend(names);
        }
        assert_eq!(met.len(), 3, "clients are spread: {met:?}");
    }
}

fn persistent_clients_meet_one_server_over_tcp_and_udp(rig: &mut Rig) {
    let service = direct("both", DIRECT, "80,9000").with("protocol", "tcp+udp");
    rig.serve([&service.persistent(persistence()).to_all(rig.direct())]);
    for server in rig.direct() {
        server.introduce_by_datagram((DIRECT, 9000));
    }
    for client in &rig.lab.clients {
        let first = client.connect(&at(DIRECT, 80), 3);
        let names: BTreeSet<_> = first.servers().into_iter().collect();
        assert_eq!(names.len(), 1);
        for _ in 0..3 {
            let answer = ask_by_datagram(&client.datagrams(&at(DIRECT, 9000)));
            assert_eq!(names, BTreeSet::from([answer.server.as_str()]));
        }
    }
}

/// SCH-05, VS-17: what firewall marks were for.
fn destination_hash_keeps_each_of_256_virtual_addresses_with_one_server(rig: &mut Rig) {
    let service = direct("many", DIRECT, "80").at_all(&["10.1.6.0/24"]);
    rig.serve([&service.with("scheduler", "dh").to_all(rig.direct())]);
    let mut shares = BTreeMap::<String, usize>::new();
    for host in 0..=255 {
        let to = at(Ipv4Addr::new(10, 1, 6, host), 80);
        let names: BTreeSet<_> = rig
            .lab
            .clients
            .iter()
            .map(|client| client.connect(&to, 1).0.remove(0).server)
            .collect();
        assert_eq!(names.len(), 1, "{to}: whoever asks: {names:?}");
        *shares.entry(names.into_iter().next().expect("one")).or_default() += 1;
    }
    assert_eq!(shares.len(), 3);
    assert!(shares.values().all(|share| *share > 40), "about a third each: {shares:?}");
}

/// SCH-06.
fn source_hash_keeps_256_clients_with_their_servers_over_a_restart(rig: &mut Rig) {
    rig.serve([&direct("by-source", DIRECT, "80").with("scheduler", "sh").to_all(rig.direct())]);
    let ask = |rig: &Rig| -> Vec<String> {
        let ask = |host| rig.far_client().ask_from(somebody(0, host), &at(DIRECT, 80)).server;
        (0..=255).map(ask).collect()
    };
    let before = ask(rig);
    rig.appliance.kill_9();
    rig.appliance.start();
    assert!(ask(rig) == before, "the same mapping");
    let shares = rig
        .direct()
        .each_ref()
        .map(|server| before.iter().filter(|name| **name == server.name).count());
    assert!(shares.iter().all(|share| *share > 40), "about a third each: {shares:?}");
}

/// Opens `count` connections and keeps them; how many went to each server, too.
fn hold(
    client: &Client,
    to: &str,
    count: usize,
) -> (Vec<(String, TcpStream)>, BTreeMap<String, usize>) {
    let held: Vec<_> = (0..count)
        .map(|_| {
            let stream = client.open(to).expect("a connection");
            (server_behind(&stream).expect("an answer"), stream)
        })
        .collect();
    let mut shares = BTreeMap::new();
    for (name, _) in &held {
        *shares.entry(name.clone()).or_default() += 1;
    }
    (held, shares)
}

/// SCH-03.
fn least_connection_fills_up_the_emptier_server(rig: &mut Rig) {
    let [first, second, _] = rig.direct();
    let service = direct("least", DIRECT, "80").with("scheduler", "lc").to(first);
    rig.serve([&service]);
    let (held, _) = hold(rig.client(), &at(DIRECT, 80), 10);
    rig.serve([&service.clone().to(second)]);
    let (more, shares) = hold(rig.client(), &at(DIRECT, 80), 10);
    assert_eq!(shares, BTreeMap::from([(second.name.clone(), 10)]));
    let (_, shares) = hold(rig.client(), &at(DIRECT, 80), 10);
    assert_eq!(shares.values().copied().collect::<Vec<_>>(), [5, 5], "from here on evenly");
    drop((held, more));
}

/// SCH-04.
fn weighted_least_connection_keeps_the_proportion(rig: &mut Rig) {
    let [first, second, _] = rig.translated();
    let service = nat("least", TRANSLATED, "80").with("scheduler", "wlc");
    rig.serve([&service.weighted(first, 50).weighted(second, 100)]);
    let (_held, shares) = hold(rig.client(), &at(TRANSLATED, 80), 300);
    let [one, two] = [first, second].map(|server| shares[&server.name]);
    assert!(one.abs_diff(100) <= 2 && two.abs_diff(200) <= 2, "{shares:?}");
}

/// How many connections a server has, by the appliance's account.
fn connections(status: &Value, server: &Server) -> u64 {
    let servers = status["services"].as_array().expect("services").iter();
    let mut servers = servers.flat_map(|service| service["servers"].as_array().expect("servers"));
    let own = servers.find(|it| it["name"] == json!(server.name)).expect("it is configured");
    own["connections"].as_u64().expect("a number")
}

/// VS-15.
fn a_full_server_is_passed_over_until_it_is_empty_enough(rig: &mut Rig) {
    let [limited, other, _] = rig.translated();
    // One that has ended counts for as long as it is remembered.
    let soon = json!({ "closing": "1s" });
    let service = nat("limited", TRANSLATED, "80").with("timeouts", soon);
    let limits = json!({ "max_connections": 10, "min_connections": 5 });
    rig.serve([&service.to_with(limited, limits).to(other)]);
    let (client, to) = (rig.client(), at(TRANSLATED, 80));
    let (held, shares) = hold(client, &to, 30);
    assert_eq!(shares[&limited.name], 10, "{shares:?}");

    let (mut own, _others): (Vec<_>, Vec<_>) =
        held.into_iter().partition(|(name, _)| *name == limited.name);
    let leave = |own: &mut Vec<(String, TcpStream)>, left: usize| {
        own.drain(left..).for_each(|(_, stream)| cut(stream));
        rig.appliance.wait_until("/status", &format!("{left} connections"), |status| {
            connections(status, limited) == left as u64
        });
    };
    leave(&mut own, 6);
    let (more, shares) = hold(client, &to, 6);
    assert_eq!(shares.get(&limited.name), None, "not yet: {shares:?}");
    leave(&mut own, 4);
    let (_, shares) = hold(client, &to, 6);
    assert!(shares[&limited.name] >= 3, "chosen again: {shares:?}");
    drop(more);
}

fn a_service_whose_servers_are_all_full_drops_and_counts(rig: &mut Rig) {
    let server = &rig.translated()[0];
    let service = nat("one", TRANSLATED, "80").to_with(server, json!({ "max_connections": 2 }));
    rig.serve([&service]);
    let (client, to) = (rig.client(), at(TRANSLATED, 80));
    let (held, _) = hold(client, &to, 2);
    let before = rig.books();
    assert!(client.attempt(&to, 1, Duration::from_millis(300))[0].is_err());
    assert!(rig.books().dropped("servers_full") > before.dropped("servers_full"));
    assert!(server_behind(&held[0].1).is_ok(), "those that it has go on");
}
