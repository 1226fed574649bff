//! NAT of both ends: servers see us as their client, so that they may be anywhere and need not know
//! of us.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use sluice_tests::capture::Capture;
use sluice_tests::client::{Client, ask_by_datagram, echo_every_length};
use sluice_tests::decode::{fins, packets};
use sluice_tests::lab::{APPLIANCE, PROXIED, ROUTER, both};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{Service, snat};

sluice_tests::cases! {
    a_server_behind_a_router_sees_us_and_the_client_sees_the_virtual_address,
    datagrams_come_back_the_same_way,
    two_services_share_a_servers_port_over_tcp_and_udp,
    two_services_share_a_servers_port_over_the_same_protocol,
    packets_leave_with_the_addresses_that_were_asked_for,
    a_large_upload_and_a_large_download_arrive_whole,
    servers_on_our_own_wires_need_not_know_of_us_either,
    an_echo_request_to_a_virtual_address_is_ours_to_answer,
}

/// FWD-13, over TCP and both families.
fn a_server_behind_a_router_sees_us_and_the_client_sees_the_virtual_address(rig: &mut Rig) {
    for (number, published) in both(PROXIED).into_iter().enumerate() {
        let ours = both(APPLIANCE)[number];
        rig.serve([&snat("web", published, "80").to_all(rig.tunnelled())]);
        let route = rig.tunnelled()[0].namespace.shell(&format!("ip route get {ours}"));
        assert!(!route.contains("10.1.0.2 dev"), "its gateway is the router, not us: {route}");
        let outside = Capture::start(&rig.client().namespace, Client::LEG, "tcp");
        let inside = Capture::start(&rig.tunnelled()[0].namespace, Server::LEG, "tcp");

        let answers = rig.client().connect(&at(published, 80), 9);

        assert_eq!(rig.tunnelled().each_ref().map(|server| answers.from(server)), [3, 3, 3]);
        assert_eq!(answers.peers(), BTreeSet::from([ours]));
        let published = SocketAddr::new(published, 80);
        for packet in packets(&outside.until("9 both ways", |frames| fins(frames) >= 18)) {
            let ends = [packet.source(), packet.destination()];
            assert!(ends.contains(&Some(published)), "{packet:?}");
            let own = if packet.source() == Some(published) {
                packet.ethernet.source
            } else {
                packet.ethernet.destination
            };
            assert_eq!(own, rig.wan_mac(), "replies come from us");
        }
        let real = SocketAddr::new(both(rig.tunnelled()[0].address)[number], 80);
        for packet in packets(&inside.until("3 both ways", |frames| fins(frames) >= 6)) {
            let ends = BTreeSet::from([packet.source(), packet.destination()]);
            assert!(ends.contains(&Some(real)), "{packet:?}");
            assert!(ends.iter().flatten().any(|it| it.ip() == ours), "{packet:?}");
        }
    }
    assert_ne!(IpAddr::from(ROUTER), both(APPLIANCE)[0]);
}

/// FWD-13, over UDP.
fn datagrams_come_back_the_same_way(rig: &mut Rig) {
    let server = &rig.tunnelled()[0];
    server.echo_datagrams((server.address, 9000));
    server.introduce_by_datagram((server.address, 9001));
    rig.serve([&snat("echo", PROXIED, "9000-9001").with("protocol", "udp").to(server)]);
    echo_every_length(&rig.client().datagrams(&at(PROXIED, 9000)), 0..=1472);
    for client in &rig.lab.clients {
        let answer = ask_by_datagram(&client.datagrams(&at(PROXIED, 9001)));
        assert_eq!(answer.peer.ip(), APPLIANCE);
    }
}

/// FWD-14: nothing clashes.
fn two_services_share_a_servers_port_over_tcp_and_udp(rig: &mut Rig) {
    let server = &rig.tunnelled()[1];
    server.introduce_by_datagram((server.address, 443));
    rig.serve([
        &snat("tcp", PROXIED, "443").to(server),
        &snat("udp", PROXIED, "443").with("protocol", "udp").to(server),
    ]);
    for _ in 0..10 {
        let socket = rig.client().datagrams(&at(PROXIED, 443));
        assert_eq!(rig.client().connect(&at(PROXIED, 443), 5).from(server), 5);
        assert_eq!(ask_by_datagram(&socket).server, server.name);
    }
}

/// FWD-14: nor do two services of one protocol, even for one client and one port of its own.
fn two_services_share_a_servers_port_over_the_same_protocol(rig: &mut Rig) {
    let server = &rig.tunnelled()[1];
    let to = |service: Service| service.to_with(server, json!({ "port": 8080 }));
    rig.serve([&to(snat("one", PROXIED, "80")), &to(snat("other", PROXIED, "443"))]);
    let client = rig.client();
    let streams: Vec<_> = (0..20)
        .flat_map(|_| [80, 443].map(|port| client.open(&at(PROXIED, port)).expect("a connection")))
        .collect();
    let peers: BTreeSet<_> = streams
        .iter()
        .map(|stream| {
            let answer = sluice_tests::http::ask(stream, "/").expect("an answer").json();
            assert_eq!(answer["peer"], json!(APPLIANCE));
            answer["peer_port"].as_u64().expect("a port")
        })
        .collect();
    assert_eq!(peers.len(), streams.len(), "each connection has a port of its own");
    assert!(peers.iter().all(|port| *port >= 16_384), "those below are not for flows: {peers:?}");
}

fn packets_leave_with_the_addresses_that_were_asked_for(rig: &mut Rig) {
    let server = &rig.tunnelled()[2];
    // FWD-15 has it of a proxy: the virtual address itself may be what servers see.
    let service = snat("web", PROXIED, "80").with("sources", json!([PROXIED])).to(server);
    rig.serve([&service]);
    let answers = rig.client().connect(&at(PROXIED, 80), 6);
    assert_eq!(answers.peers(), BTreeSet::from([PROXIED.into()]));
}

fn a_large_upload_and_a_large_download_arrive_whole(rig: &mut Rig) {
    let server = &rig.tunnelled()[0];
    rig.serve([&snat("one", PROXIED, "80").to(server)]);
    let large = sluice_tests::server::large();
    let down = rig.client().request(&at(PROXIED, 80), "GET", "/large", b"").expect("an answer");
    assert!(down.body == large);
    let up = rig.client().request(&at(PROXIED, 80), "PUT", "/uploads/snat", &large);
    assert_eq!(up.expect("an answer").status, 201);
    assert!(server.uploaded("snat") == Some(large));
}

/// One arm: client, virtual address and server on one wire.
fn servers_on_our_own_wires_need_not_know_of_us_either(rig: &mut Rig) {
    let service = snat("web", PROXIED, "80").to(&rig.direct()[0]).to(&rig.translated()[0]);
    rig.serve([&service]);
    let answers = rig.client().connect(&at(PROXIED, 80), 10);
    assert_eq!(answers.from(&rig.direct()[0]), 5);
    assert_eq!(answers.from(&rig.translated()[0]), 5);
    let elsewhere = rig.client().attempt(&at(PROXIED, 81), 1, Duration::from_millis(300));
    assert!(elsewhere[0].is_err());
}

fn an_echo_request_to_a_virtual_address_is_ours_to_answer(rig: &mut Rig) {
    rig.serve([&snat("web", PROXIED, "80").to(&rig.tunnelled()[0])]);
    for published in both(PROXIED).into_iter().take(1) {
        assert_eq!(rig.client().ping(published, 3, 1472, 10), 3);
    }
}
