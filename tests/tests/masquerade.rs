//! Servers that reach the outside through us: as their gateway, behind our address, and with an
//! address of their own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::appliance::INTERFACES_ONLY;
use sluice_tests::capture::Capture;
use sluice_tests::client::{Client, ask_by_datagram, datagrams};
use sluice_tests::decode::{Packet, Transport, packets};
use sluice_tests::http;
use sluice_tests::lab::{APPLIANCE, GATEWAY, Lab, TRANSLATED, both, ipv6};
use sluice_tests::namespace::mac_text;
use sluice_tests::process;
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::nat;

sluice_tests::cases! {
    on boot;
    without_a_rule_servers_get_no_answer_from_outside,
    masqueraded_servers_speak_with_our_address,
    masqueraded_servers_ping_outside,
    two_servers_may_use_the_same_port,
    a_rule_may_be_for_some_servers_only,
    a_pair_has_an_address_of_its_own_both_ways,
    a_pair_comes_before_masquerading,
    rules_are_listed_in_the_order_in_which_they_are_looked_up,
    services_go_on_beside_masquerading,
    servers_reach_their_own_service_if_it_may_hairpin,
    transit_takes_one_from_the_hops_left,
    a_packet_at_its_last_hop_is_answered_and_tracing_finds_us,
    without_a_gateway_interface_nothing_passes,
}

/// The outside address of a pair.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 45);

/// An appliance that is the gateway of the servers on its `lan` wire.
fn boot() -> Rig {
    Rig::boot_with(Lab::build(), &gateway_on_lan())
}

fn gateway_on_lan() -> String {
    let lan = "device = \"kernel:lan\"";
    assert!(INTERFACES_ONLY.contains(lan));
    INTERFACES_ONLY.replace(lan, &format!("{lan}\ngateway = true"))
}

fn rules(rig: &Rig, rules: &Value) {
    rig.appliance.change(|document| {
        document["nat"] = rules.clone();
        document["service"] = json!([]);
    });
}

fn masquerade() -> Value {
    json!([{ "kind": "masquerade", "out": "wan" }])
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long none comes where none is to come.
const SILENCE: Duration = Duration::from_secs(1);

/// What an outside server answers to a connection from `server`, if it does.
fn asks_outside(rig: &Rig, server: &Server, to: IpAddr, patience: Duration) -> Option<SocketAddr> {
    let to = SocketAddr::new(to, 80);
    assert!(rig.direct().iter().any(|it| both(it.address).contains(&to.ip())));
    server.namespace.enter(|| {
        let stream = std::net::TcpStream::connect_timeout(&to, patience).ok()?;
        let answer =
            sluice_tests::client::answer(&http::exchange(stream, "GET", "/", &[], b"").ok()?)?;
        Some(answer.peer)
    })
}

/// How many of three pings are answered.
fn pings(server: &Server, to: IpAddr, patience: Duration) -> u32 {
    server.namespace.ping(to, 3, &[&format!("-w{}", patience.as_secs())])
}

/// NAT-01, the other half: what is outside knows no way back.
fn without_a_rule_servers_get_no_answer_from_outside(rig: &mut Rig) {
    rules(rig, &json!([]));
    let server = &rig.translated()[0];
    for outside in both(rig.direct()[0].address) {
        assert_eq!(asks_outside(rig, server, outside, SILENCE), None);
        assert_eq!(pings(server, outside, SILENCE), 0);
    }
}

/// NAT-01, over TCP and UDP.
fn masqueraded_servers_speak_with_our_address(rig: &mut Rig) {
    rules(rig, &masquerade());
    let outside = &rig.direct()[0];
    for server in rig.translated() {
        for (number, address) in both(outside.address).into_iter().enumerate() {
            let peer = asks_outside(rig, server, address, PATIENCE).expect("an answer");
            assert_eq!(peer.ip(), both(APPLIANCE)[number]);
            assert!(peer.port() >= 16_384, "a port for flows: {peer}");
            // As an operator would try it.
            let host = SocketAddr::new(address, 80);
            let page = server.namespace.shell(&format!("curl -sS --max-time 10 'http://{host}/'"));
            let page: Value = serde_json::from_str(&page).expect("nginx answers");
            assert_eq!(page["peer"], json!(both(APPLIANCE)[number]));
        }
    }
    outside.introduce_by_datagram((outside.address, 9010));
    let socket = datagrams(&rig.translated()[1].namespace, &at(outside.address, 9010));
    let seen = ask_by_datagram(&socket).peer;
    assert_eq!(seen.ip(), APPLIANCE);
    assert_eq!(ask_by_datagram(&socket).peer, seen, "the same flow has the same port");
}

/// NAT-01.
fn masqueraded_servers_ping_outside(rig: &mut Rig) {
    rules(rig, &masquerade());
    let outside = &rig.direct()[0];
    for (number, address) in both(outside.address).into_iter().enumerate() {
        let filter = if number == 0 { "icmp" } else { "icmp6 and ip6[40] = 128" };
        let capture = Capture::start(&outside.namespace, Server::LEG, filter);
        for server in rig.translated() {
            assert_eq!(pings(server, address, PATIENCE), 3, "{} pings {address}", server.name);
        }
        let requests = |frames: &[Vec<u8>]| {
            packets(frames).into_iter().filter(is_echo_request).collect::<Vec<_>>()
        };
        let frames = capture.until("nine requests", |frames| requests(frames).len() >= 9);
        for request in requests(&frames) {
            assert_eq!(request.source_address(), both(APPLIANCE)[number]);
        }
    }
}

fn is_echo_request(packet: &Packet) -> bool {
    matches!(
        packet.transport,
        Transport::Icmp { kind: 8, .. } | Transport::Icmpv6 { kind: 128, .. }
    )
}

/// One address of ours for all of them: only ports tell their flows apart.
fn two_servers_may_use_the_same_port(rig: &mut Rig) {
    rules(rig, &masquerade());
    let outside = &rig.direct()[1];
    outside.introduce_by_datagram((outside.address, 9011));
    let sockets = rig.translated().each_ref().map(|server| {
        let from = SocketAddr::from((server.address, 40_000));
        let socket = server.namespace.enter(|| std::net::UdpSocket::bind(from)).expect("free");
        socket.connect((outside.address, 9011)).expect("there is a route");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout can be set");
        socket
    });
    let first = sockets.each_ref().map(|socket| ask_by_datagram(socket).peer);
    assert_eq!(BTreeSet::from(first).len(), 3, "{first:?}");
    assert_eq!(sockets.each_ref().map(|socket| ask_by_datagram(socket).peer), first);
}

fn a_rule_may_be_for_some_servers_only(rig: &mut Rig) {
    let [own, other, _] = rig.translated();
    let from = json!([format!("{}/32", own.address)]);
    rules(rig, &json!([{ "kind": "masquerade", "out": "wan", "from": from }]));
    let outside = rig.direct()[0].address.into();
    assert!(asks_outside(rig, own, outside, PATIENCE).is_some());
    assert_eq!(asks_outside(rig, other, outside, SILENCE), None);
}

/// NAT-02.
fn a_pair_has_an_address_of_its_own_both_ways(rig: &mut Rig) {
    for (number, outside) in both(OUTSIDE).into_iter().enumerate() {
        let server = &rig.translated()[1];
        let inside = both(server.address)[number];
        rules(rig, &json!([{ "kind": "pair", "inside": inside, "outside": outside }]));
        let peer = asks_outside(rig, server, both(rig.direct()[0].address)[number], PATIENCE);
        assert_eq!(peer.expect("an answer").ip(), outside);
        assert_eq!(pings(server, both(rig.direct()[0].address)[number], PATIENCE), 3);

        for port in sluice_tests::server::PORTS {
            let answers = rig.client().connect(&at(outside, port), 2);
            assert_eq!(answers.from(server), 2);
            let client = rig.client().address_like(outside);
            assert_eq!(answers.peers(), BTreeSet::from([client]), "nothing else is changed");
            assert_eq!(answers.locals(), BTreeSet::from([SocketAddr::new(inside, port)]));
        }
    }
    let ours = mac_text(rig.wan_mac());
    rules(
        rig,
        &json!([{ "kind": "pair", "inside": rig.translated()[1].address, "outside": OUTSIDE }]),
    );
    assert_eq!(rig.client().arping(OUTSIDE, 2, 5), BTreeSet::from([ours]), "we answer for it");
}

/// NAT-02.
fn a_pair_comes_before_masquerading(rig: &mut Rig) {
    let [plain, paired, _] = rig.translated();
    rules(
        rig,
        &json!([
            { "kind": "masquerade", "out": "wan" },
            { "kind": "pair", "inside": paired.address, "outside": OUTSIDE },
        ]),
    );
    let outside = rig.direct()[0].address.into();
    assert_eq!(
        asks_outside(rig, paired, outside, PATIENCE).map(|it| it.ip()),
        Some(OUTSIDE.into())
    );
    assert_eq!(
        asks_outside(rig, plain, outside, PATIENCE).map(|it| it.ip()),
        Some(APPLIANCE.into())
    );
}

/// NAT-03.
fn rules_are_listed_in_the_order_in_which_they_are_looked_up(rig: &mut Rig) {
    let server = rig.translated()[1].address;
    rules(
        rig,
        &json!([
            { "kind": "masquerade", "out": "wan" },
            { "kind": "pair", "inside": server, "outside": OUTSIDE },
        ]),
    );
    let service = nat("web", TRANSLATED, "80").to_all(rig.translated());
    rig.serve([&service]);
    let listed = rig.appliance.get("/nat/rules");
    let text = listed.to_string();
    let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in {text}"));
    assert!(place("pair") < place("masquerade"), "{text}");
    place(&OUTSIDE.to_string());
    place(&server.to_string());
}

fn services_go_on_beside_masquerading(rig: &mut Rig) {
    rules(rig, &masquerade());
    rig.serve([&nat("web", TRANSLATED, "80").to_all(rig.translated())]);
    let outside = rig.direct()[0].address.into();
    for _ in 0..3 {
        let answers = rig.client().connect(&at(TRANSLATED, 80), 9);
        assert_eq!(rig.translated().each_ref().map(|server| answers.from(server)), [3, 3, 3]);
        assert_eq!(answers.peers(), BTreeSet::from([rig.client().address.into()]));
        for server in rig.translated() {
            let peer = asks_outside(rig, server, outside, PATIENCE).expect("an answer");
            assert_eq!(peer.ip(), APPLIANCE);
        }
    }
}

/// FWD-10.
fn servers_reach_their_own_service_if_it_may_hairpin(rig: &mut Rig) {
    rules(rig, &json!([]));
    for published in both(TRANSLATED) {
        let service = nat("web", published, "80").to_all(rig.translated());
        let ask = |server: &Server, patience| {
            let to = SocketAddr::new(published, 80);
            server.namespace.enter(|| {
                let stream = std::net::TcpStream::connect_timeout(&to, patience).ok()?;
                stream.set_read_timeout(Some(patience)).ok()?;
                http::exchange(stream, "GET", "/", &[], b"").ok()
            })
        };
        rig.serve([&service]);
        assert!(ask(&rig.translated()[0], SILENCE).is_none(), "servers answer each other straight");
        rig.serve([&service.with("hairpin", true)]);
        for server in rig.translated() {
            let met: BTreeSet<_> = (0..3)
                .map(|_| {
                    let answer = ask(server, PATIENCE).expect("an answer").json();
                    let ours = both(GATEWAY)[usize::from(published.is_ipv6())];
                    assert_eq!(answer["peer"], json!(ours), "or it would answer straight");
                    answer["server"].to_string()
                })
                .collect();
            assert_eq!(met.len(), 3, "itself as well: {met:?}");
        }
        let answers = rig.client().connect(&at(published, 80), 3);
        let client = rig.client().address_like(published);
        assert_eq!(answers.peers(), BTreeSet::from([client]), "others are seen as ever");
    }
}

/// FWD-09: servers reach the outside through us even without a rule, if there is a way back.
fn transit_takes_one_from_the_hops_left(rig: &mut Rig) {
    rules(rig, &json!([]));
    let (server, client) = (&rig.translated()[0], rig.client());
    client.namespace.ip(&format!(
        "route replace 10.2.0.0/24 via {APPLIANCE}\nroute replace 2001:db8:2::/64 via {}\n",
        ipv6(APPLIANCE)
    ));
    for (number, to) in both(client.address).into_iter().enumerate() {
        let own = both(server.address)[number];
        let filter = format!("src {own}");
        let inside = Capture::start(&server.namespace, Server::LEG, &filter);
        let outside = Capture::start(&client.namespace, Client::LEG, &filter);
        let ping = ["-n", "-q", "-c3", "-i0.05", "-w5", "-t33", &to.to_string()].map(str::to_owned);
        let answered = process::output(server.namespace.command("ping").args(ping));
        assert!(answered.status.success(), "{to}: {}", String::from_utf8_lossy(&answered.stdout));
        for (capture, hops) in [(inside, 33), (outside, 32)] {
            let requests = |frames: &[Vec<u8>]| {
                packets(frames).into_iter().filter(is_echo_request).collect::<Vec<_>>()
            };
            let frames = capture.until("three requests", |frames| requests(frames).len() >= 3);
            for request in requests(&frames) {
                assert_eq!(request.hops_left(), hops);
                assert_eq!(request.source_address(), own, "its own address");
            }
        }
    }
    client.namespace.ip("route del 10.2.0.0/24\nroute del 2001:db8:2::/64\n");
}

fn a_packet_at_its_last_hop_is_answered_and_tracing_finds_us(rig: &mut Rig) {
    rules(rig, &masquerade());
    let server = &rig.translated()[0];
    for (number, to) in both(rig.direct()[0].address).into_iter().enumerate() {
        let ping = ["-n", "-c1", "-w5", "-t1", &to.to_string()].map(str::to_owned);
        let output = process::output(server.namespace.command("ping").args(ping));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let ours = both(GATEWAY)[number].to_string();
        assert!(said.contains(&ours), "it is we who answer: {said}");
        assert!(said.contains("Time to live exceeded") || said.contains("Hop limit"), "{said}");
        // And one hop more arrives.
        let ping = ["-n", "-q", "-c1", "-w5", "-t2", &to.to_string()].map(str::to_owned);
        assert!(process::output(server.namespace.command("ping").args(ping)).status.success());
    }
    assert!(rig.books().dropped("time_exceeded") > 0);
}

/// Being a gateway has to be asked for.
fn without_a_gateway_interface_nothing_passes(rig: &mut Rig) {
    rig.appliance.stop();
    rig.appliance.configure(INTERFACES_ONLY);
    rig.appliance.start();
    let server = &rig.translated()[0];
    let capture =
        Capture::start(&rig.client().namespace, Client::LEG, &format!("src {}", server.address));
    assert_eq!(pings(server, rig.client().address.into(), SILENCE), 0);
    assert_eq!(packets(&capture.frames()), []);
    rig.appliance.stop();
    rig.appliance.configure(&gateway_on_lan());
    rig.appliance.start();
}
