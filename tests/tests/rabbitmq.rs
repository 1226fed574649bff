//! RabbitMQ behind direct return (FEATURES scenario E-9): three brokers of their own, of which each solves the
//! problem of ARP by another of Linux's methods, and real clients.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_tests::client::{Client, cut};
use sluice_tests::lab::DIRECT;
use sluice_tests::namespace::mac_text;
use sluice_tests::process::{self, Background};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::server::broker::{PORT, broker_behind};
use sluice_tests::service::{Service, direct};

sluice_tests::cases! {
    on boot;
    each_broker_takes_the_virtual_address_by_a_method_of_its_own,
    connections_are_spread_evenly_and_messages_pass,
    a_server_at_a_tenth_of_its_power_gets_a_tenth_of_the_weight,
    a_broker_that_drains_keeps_its_consumers_and_gets_nothing_new,
    when_a_broker_dies_its_clients_find_another,
}

fn boot() -> Rig {
    let mut rig = Rig::boot();
    let [_, second, third] = rig.direct(); // the first has the address, as servers of the laboratory do
    for server in [second, third] {
        server.unpublish(DIRECT);
        server.answer_arp_for_virtual_addresses();
    }
    second.redirect_by_iptables(DIRECT, "");
    third.redirect_by_nftables(DIRECT);
    rig.lab.direct.iter_mut().for_each(Server::start_broker);
    rig.lab.direct.iter().for_each(Server::wait_for_broker);
    rig
}

fn service(rig: &Rig) -> Service {
    direct("rabbitmq", DIRECT, "5672")
        .with("check", json!({ "type": "amqp", "interval": "1s", "timeout": "1s" }))
        .to_all(rig.direct())
}

fn serve(rig: &Rig, service: &Service) {
    rig.serve([service]);
    rig.appliance.wait_until("/status", "all brokers are up", |status| {
        let servers = status["services"][0]["servers"].as_array();
        servers.is_some_and(|servers| servers.iter().all(|server| server["actual"] == "up"))
    });
}

/// A connection that has begun, and whose it is.
fn begin(rig: &Rig) -> (TcpStream, String) {
    let stream = rig.client().open(&at(DIRECT, PORT)).expect("a connection");
    let name = broker_behind(&stream).expect("a broker answers");
    (stream, name)
}

/// How many of `count` new connections each broker gets.
fn spread(rig: &Rig, count: usize) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for _ in 0..count {
        let (stream, name) = begin(rig);
        *found.entry(name).or_default() += 1;
        cut(stream);
    }
    found
}

/// A program of the `amqp-tools`, at the virtual address unless told.
fn tool(client: &Client, name: &str, address: Ipv4Addr) -> std::process::Command {
    let mut tool = client.namespace.command(name);
    tool.args(["--server", &address.to_string(), "--username", "guest", "--password", "guest"]);
    tool
}

/// E-9: AR-02, AR-04 and AR-05, one each.
fn each_broker_takes_the_virtual_address_by_a_method_of_its_own(rig: &mut Rig) {
    let has = rig.direct().each_ref().map(|server| server.has(DIRECT));
    assert_eq!(has, [true, false, false]);
    for server in rig.direct() {
        rig.serve([&direct("rabbitmq", DIRECT, "5672").to(server)]);
        let (stream, name) = begin(rig);
        assert_eq!(name, server.name);
        cut(stream);
    }
    let ours = mac_text(rig.wan_mac());
    assert_eq!(rig.client().arping(DIRECT, 2, 4), BTreeSet::from([ours]), "nobody else answers");
}

/// E-9: 100, 100 and 100; a message that a client leaves behind the virtual address can be fetched
/// from the broker that took it.
fn connections_are_spread_evenly_and_messages_pass(rig: &mut Rig) {
    serve(rig, &service(rig));
    let found = spread(rig, 300);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.values().all(|&count| (99..=101).contains(&count)), "{found:?}");

    for server in rig.direct() {
        let mut declare = tool(rig.client(), "amqp-declare-queue", server.address);
        process::run(declare.args(["--queue", "orders"]));
    }
    for number in 0..30 {
        let mut publish = tool(rig.client(), "amqp-publish", DIRECT);
        publish.args(["--routing-key", "orders", "--body", &format!("order {number}")]);
        process::run(&mut publish);
    }
    let mut orders = 0;
    for server in rig.direct() {
        let got = (0..)
            .map_while(|_| {
                let mut get = tool(rig.client(), "amqp-get", server.address);
                let output = process::output(get.args(["--queue", "orders"]));
                output.status.success().then_some(output.stdout)
            })
            .count();
        assert!((9..=11).contains(&got), "{}: {got} of 30 orders", server.name);
        orders += got;
    }
    assert_eq!(orders, 30, "none is lost, none comes twice");
}

/// Speaks the feedback agents' protocol (FEATURES AG-02) until this process ends.
fn report_idle(server: &Server, percent: u8) {
    let at = (Ipv4Addr::UNSPECIFIED, 3333);
    let listener = server.namespace.enter(|| TcpListener::bind(at)).expect("the port is free");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(format!("{percent}%\n").as_bytes()); // who asked may be gone
        }
    });
}

/// E-9: about 10 of 10 + 100 + 100.
fn a_server_at_a_tenth_of_its_power_gets_a_tenth_of_the_weight(rig: &mut Rig) {
    let [first, second, third] = rig.direct();
    report_idle(first, 10);
    report_idle(second, 100);
    report_idle(third, 100);
    let service = service(rig)
        .with("scheduler", "wrr")
        .with("agent", json!({ "method": "agent", "interval": "1s" }));
    serve(rig, &service);
    rig.appliance.wait_until("/status", "the agent's word counts", |status| {
        status["services"][0]["servers"][0]["effective_weight"] == 10
    });
    let found = spread(rig, 210);
    let first = found.get(&first.name).copied().unwrap_or_default();
    assert!((9..=11).contains(&first), "{found:?}");
}

/// E-9.
fn a_broker_that_drains_keeps_its_consumers_and_gets_nothing_new(rig: &mut Rig) {
    serve(rig, &service(rig));
    let [first, ..] = rig.direct();
    let log = rig.lab.directory().join("consumed");
    for server in rig.direct() {
        let mut declare = tool(rig.client(), "amqp-declare-queue", server.address);
        process::run(declare.args(["--queue", "work"]));
    }
    // Consumers, until one is at the first broker.
    let mut consumers = Vec::new();
    for _ in 0..3 {
        let mut consume = tool(rig.client(), "amqp-consume", DIRECT);
        consume.args(["--queue", "work", "--no-ack", "cat"]);
        process::say_to(&mut consume, &log);
        consumers.push(Background::start(&mut consume));
    }
    let publish = |text: &str| {
        let mut publish = tool(rig.client(), "amqp-publish", first.address);
        process::run(publish.args(["--routing-key", "work", "--body", text]));
    };
    let consumed = |text: &str| {
        process::eventually(Duration::from_secs(10), || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            log.contains(text).then_some(())
        })
    };
    publish("before");
    consumed("before").expect("a consumer is at the first broker");

    let path = format!("/services/rabbitmq/servers/{}/drain", first.name);
    rig.appliance.rest("POST", &path, None);
    let found = spread(rig, 60);
    assert_eq!(found.get(&first.name), None, "{found:?}");
    publish("while it drains");
    consumed("while it drains").expect("its consumer goes on");
    rig.appliance.rest("POST", &path.replace("drain", "online"), None);
}

/// E-9: publishers come back, and long-lived connections to the others stay.
fn when_a_broker_dies_its_clients_find_another(rig: &mut Rig) {
    serve(rig, &service(rig));
    let [_, second, _] = rig.direct();
    let held: Vec<_> = (0..3).map(|_| begin(rig)).collect();
    second.kill_broker();
    let killed = Instant::now();
    // interval x fall, and what one question may take.
    let limit = Duration::from_millis(2 * 1000 + 200);
    while killed.elapsed() < limit {
        thread::sleep(Duration::from_millis(20));
    }
    let found = spread(rig, 60);
    assert_eq!(found.get(&second.name), None, "{found:?}");
    assert_eq!(found.values().sum::<usize>(), 60);
    let mut publish = tool(rig.client(), "amqp-publish", DIRECT);
    process::run(publish.args(["--routing-key", "orders", "--body", "again"]));
    for (stream, name) in &held {
        let mut byte = [0];
        stream.set_nonblocking(true).expect("a socket can be told so");
        let lives = matches!(stream.peek(&mut byte), Err(why) if why.kind() == std::io::ErrorKind::WouldBlock);
        assert_eq!(lives, *name != second.name, "{name}");
    }
}
