//! Direct return, as clients, servers and the wires between them see it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::thread;

use sluice_tests::capture::Capture;
use sluice_tests::client::Client;
use sluice_tests::decode::{fins_from, packets, packets_to};
use sluice_tests::lab::{APPLIANCE, DIRECT, GATEWAY};
use sluice_tests::namespace::mac_text;
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::direct;

sluice_tests::cases! {
    only_the_hardware_addresses_change,
    no_reply_passes_the_appliance,
    the_server_sees_the_clients_own_address,
    a_large_upload_and_a_large_download_arrive_whole,
    datagrams_of_every_length_are_forwarded_as_they_are,
    exactly_one_station_answers_arp_for_the_virtual_address,
    servers_that_answer_arp_are_noticed_and_the_documented_lines_mend_them,
    own_and_virtual_addresses_answer_echo_requests_and_others_do_not,
    a_virtual_address_without_its_service_is_no_longer_ours,
}

fn web(rig: &Rig) -> sluice_tests::service::Service {
    direct("web", DIRECT, "80").to_all(rig.direct())
}

/// FWD-01: on both legs, everything behind the hardware addresses is the same: TTL, identification,
/// checksums, options, data.
fn only_the_hardware_addresses_change(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    rig.client().connect(&at(DIRECT, 80), 3); // so that nobody needs ARP below
    let before = Capture::start(&rig.client().namespace, Client::LEG, "dst 10.1.0.100");
    let after = rig
        .direct()
        .each_ref()
        .map(|server| Capture::start(&server.namespace, Server::LEG, "dst 10.1.0.100"));

    rig.client().connect(&at(DIRECT, 80), 30);

    let client = rig.client().address;
    let sent = before.until("30 connections", |frames| fins_from(frames, client) >= 30);
    let received =
        after.map(|it| it.until("10 connections", |frames| fins_from(frames, client) >= 10));

    let sent = packets_to(&sent, DIRECT);
    let (from, to) = (rig.client().mac(), rig.wan_mac());
    assert!(sent.iter().all(|(it, _)| it.ethernet.source == from && it.ethernet.destination == to));
    let mut forwarded = Vec::new();
    for (server, frames) in rig.direct().iter().zip(&received) {
        let (from, to) = (rig.wan_mac(), server.namespace.mac(Server::LEG));
        for (packet, frame) in packets_to(frames, DIRECT) {
            assert_eq!((packet.ethernet.source, packet.ethernet.destination), (from, to));
            forwarded.push(frame[12..].to_vec());
        }
    }
    let mut expected: Vec<_> = sent.iter().map(|(_, frame)| frame[12..].to_vec()).collect();
    expected.sort();
    forwarded.sort();
    assert!(expected.len() >= 30 * 4, "a connection has at least four packets from the client");
    assert!(forwarded == expected, "the same packets, byte for byte, once each");
}

/// FWD-01: the return path is the server's own.
fn no_reply_passes_the_appliance(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    let wan = Capture::start(&rig.lab.appliance, "wan", "ip");
    let lan = Capture::start(&rig.lab.appliance, "lan", "ip");

    rig.client().connect(&at(DIRECT, 80), 9);

    let client = rig.client().address;
    let seen = wan.until("the end of 9 connections", |frames| {
        // Each passes twice: in and out.
        fins_from(frames, client) >= 18
    });
    let replies = packets(&seen).iter().filter(|it| it.source_address() == DIRECT).count();
    assert_eq!(replies, 0);
    assert_eq!(packets(&lan.frames()), []);
}

/// FWD-03.
fn the_server_sees_the_clients_own_address(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    for client in &rig.lab.clients {
        let answers = client.connect(&at(DIRECT, 80), 6);
        assert_eq!(answers.peers(), BTreeSet::from([IpAddr::from(client.address)]));
        assert_eq!(answers.locals(), BTreeSet::from([SocketAddrV4::new(DIRECT, 80).into()]));
        assert_eq!(rig.direct().each_ref().map(|server| answers.from(server)), [2, 2, 2]);
    }
}

fn a_large_upload_and_a_large_download_arrive_whole(rig: &mut Rig) {
    rig.serve([&direct("one", DIRECT, "80").to(&rig.direct()[0])]);
    let large = sluice_tests::server::large();
    let down = rig.client().request(&at(DIRECT, 80), "GET", "/large", b"").expect("an answer");
    assert!(down.body == large);
    let up = rig.client().request(&at(DIRECT, 80), "PUT", "/uploads/dr", &large);
    assert_eq!(up.expect("an answer").status, 201);
    assert!(rig.direct()[0].uploaded("dr") == Some(large));
}

fn datagrams_of_every_length_are_forwarded_as_they_are(rig: &mut Rig) {
    let echo = direct("echo", DIRECT, "9000").with("protocol", "udp").to(&rig.direct()[0]);
    rig.serve([&echo]);
    rig.direct()[0].echo_datagrams(SocketAddrV4::new(DIRECT, 9000));
    let socket = rig.client().datagrams(&at(DIRECT, 9000));
    sluice_tests::client::echo_every_length(&socket, 0..=1472);
}

/// AR-01.
fn exactly_one_station_answers_arp_for_the_virtual_address(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    let ours = BTreeSet::from([mac_text(rig.wan_mac())]);
    thread::scope(|scope| {
        let asked = rig.lab.clients.iter().flat_map(|it| [(it, DIRECT), (it, APPLIANCE)]);
        for (client, address) in asked {
            let ours = &ours;
            scope.spawn(move || assert_eq!(client.arping(address, 3, 6), *ours, "{address}"));
        }
    });
}

/// AR-02: the documented lines are needed, and they are enough.
fn servers_that_answer_arp_are_noticed_and_the_documented_lines_mend_them(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    let expected = BTreeSet::from([mac_text(rig.wan_mac())]);

    rig.direct().iter().for_each(Server::answer_arp_for_virtual_addresses);
    let stations = rig.client().arping(DIRECT, 4, 6);
    assert!(stations.len() > 1, "unprepared servers answer as well: {stations:?}");

    rig.direct().iter().for_each(Server::stop_answering_arp_for_virtual_addresses);
    assert_eq!(rig.client().arping(DIRECT, 3, 6), expected);
    rig.client().forget_neighbours();
    let answers = rig.client().connect(&at(DIRECT, 80), 9);
    assert_eq!(rig.direct().each_ref().map(|server| answers.from(server)), [3, 3, 3]);
}

fn own_and_virtual_addresses_answer_echo_requests_and_others_do_not(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    for address in [APPLIANCE, DIRECT] {
        for size in [0, 1, 56, 1472] {
            assert_eq!(rig.client().ping(address, 3, size, 10), 3, "{address} with {size} bytes");
        }
    }
    assert_eq!(rig.client().ping(Ipv4Addr::new(10, 1, 0, 109), 2, 56, 1), 0);
    assert_eq!(rig.lab.translated[0].namespace.ping(GATEWAY, 2, &[]), 2);
}

fn a_virtual_address_without_its_service_is_no_longer_ours(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    rig.client().connect(&at(DIRECT, 80), 3);
    rig.serve([]);
    assert_eq!(rig.client().arping(DIRECT, 1, 2), BTreeSet::new());
    // A client that still knows the hardware address is not served either.
    let refused = rig.client().attempt(&at(DIRECT, 80), 1, std::time::Duration::from_millis(300));
    assert!(refused[0].is_err());
}
