//! NAT, as clients, servers and the wires between them see it. Every frame that is captured here
//! has its checksums verified by the decoder.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use sluice_tests::capture::Capture;
use sluice_tests::client::{Client, echo_every_length};
use sluice_tests::decode::{Ends, Packet, Transport, fins, packets};
use sluice_tests::lab::TRANSLATED;
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{Service, nat};

sluice_tests::cases! {
    both_directions_are_rewritten,
    a_port_is_translated,
    every_published_port_leads_to_the_same_port_of_the_server,
    servers_see_the_clients_own_address,
    a_large_upload_and_a_large_download_arrive_whole,
    datagrams_of_every_length_keep_right_checksums_both_ways,
    a_datagram_without_a_checksum_stays_without_one_both_ways,
    segments_of_every_length_keep_right_checksums_both_ways,
    a_server_cannot_speak_first,
}

fn web(rig: &Rig) -> Service {
    nat("web", TRANSLATED, "80").to_all(rig.translated())
}

/// FWD-07.
fn both_directions_are_rewritten(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    let outside = Capture::start(&rig.client().namespace, Client::LEG, "tcp");
    let inside = rig
        .translated()
        .each_ref()
        .map(|server| Capture::start(&server.namespace, Server::LEG, "tcp"));

    rig.client().connect(&at(TRANSLATED, 80), 9);

    let published = SocketAddr::from((TRANSLATED, 80));
    let outside = packets(&outside.until("both ends of 9", |frames| fins(frames) >= 18));
    let inside = inside.map(|it| packets(&it.until("both ends of 3", |frames| fins(frames) >= 6)));

    let client = rig.client().address;
    for packet in &outside {
        let ends = (packet.source(), packet.destination());
        let (Some(source), Some(destination)) = ends else { panic!("no ports: {packet:?}") };
        let out = source.ip() == client && destination == published;
        let back = source == published && destination.ip() == client;
        assert!(out || back, "the client meets the virtual address alone: {packet:?}");
    }
    let mut seen_inside = Vec::new();
    for (server, packets) in rig.translated().iter().zip(&inside) {
        let real = SocketAddr::from((server.address, 80));
        for packet in packets {
            let back = packet.source() == Some(real);
            let (client_end, server_end) = match back {
                true => (packet.destination(), packet.source()),
                false => (packet.source(), packet.destination()),
            };
            assert_eq!(server_end, Some(real));
            assert_eq!(client_end.map(|it| it.ip()), Some(client.into()));
            let station = if back { packet.ethernet.destination } else { packet.ethernet.source };
            assert_eq!(station, rig.lan_mac());
            seen_inside.push(essence(packet, back));
        }
    }
    // The same segments on both sides, once each: numbers, flags, options and data untouched.
    let back = |packet: &Packet| packet.source() == Some(published);
    let mut seen_outside: Vec<_> =
        outside.iter().map(|packet| essence(packet, back(packet))).collect();
    seen_outside.sort();
    seen_inside.sort();
    assert!(seen_outside.len() >= 9 * 8);
    assert!(seen_inside == seen_outside);
}

/// What NAT leaves alone: the TCP header without its checksum and the server's port, and the data.
fn essence(packet: &Packet, from_server: bool) -> (bool, Vec<u8>) {
    let mut segment = packet.payload.clone();
    segment[16..18].fill(0);
    let port = if from_server { 0..2 } else { 2..4 };
    segment[port].fill(0);
    (from_server, segment)
}

/// FWD-08.
fn a_port_is_translated(rig: &mut Rig) {
    let ported =
        |service, server| Service::to_with(service, server, serde_json::json!({ "port": 8080 }));
    let service = rig.translated().iter().fold(nat("ported", TRANSLATED, "80"), ported);
    rig.serve([&service]);
    let outside = Capture::start(&rig.client().namespace, Client::LEG, "src 10.1.0.101 and tcp");

    let answers = rig.client().connect(&at(TRANSLATED, 80), 9);

    let ends = rig.translated().each_ref().map(|it| SocketAddrV4::new(it.address, 8080).into());
    assert_eq!(answers.locals(), BTreeSet::from(ends));
    let replies = packets(&outside.until("9 ends", |frames| fins(frames) >= 9));
    let published = Some(SocketAddr::from((TRANSLATED, 80)));
    assert!(replies.iter().all(|packet| packet.source() == published));
}

fn every_published_port_leads_to_the_same_port_of_the_server(rig: &mut Rig) {
    let service = nat("several", TRANSLATED, "80,443,8000-8100").to(&rig.translated()[0]);
    rig.serve([&service]);
    for port in sluice_tests::server::PORTS {
        let answers = rig.client().connect(&at(TRANSLATED, port), 2);
        let real = SocketAddrV4::new(rig.translated()[0].address, port);
        assert_eq!(answers.locals(), BTreeSet::from([real.into()]));
    }
    let elsewhere = rig.client().attempt(&at(TRANSLATED, 81), 1, Duration::from_millis(300));
    assert!(elsewhere[0].is_err());
    assert!(rig.books().dropped("no_service") > 0);
}

/// FWD-07: the client's address is kept.
fn servers_see_the_clients_own_address(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    for client in &rig.lab.clients {
        let answers = client.connect(&at(TRANSLATED, 80), 6);
        assert_eq!(answers.peers(), BTreeSet::from([IpAddr::from(client.address)]));
        assert_eq!(rig.translated().each_ref().map(|server| answers.from(server)), [2, 2, 2]);
    }
}

fn a_large_upload_and_a_large_download_arrive_whole(rig: &mut Rig) {
    rig.serve([&nat("one", TRANSLATED, "80").to(&rig.translated()[0])]);
    let large = sluice_tests::server::large();
    let down = rig.client().request(&at(TRANSLATED, 80), "GET", "/large", b"").expect("an answer");
    assert!(down.body == large);
    let up = rig.client().request(&at(TRANSLATED, 80), "PUT", "/uploads/nat", &large);
    assert_eq!(up.expect("an answer").status, 201);
    assert!(rig.translated()[0].uploaded("nat") == Some(large));
}

fn datagrams_of_every_length_keep_right_checksums_both_ways(rig: &mut Rig) {
    let echo = nat("echo", TRANSLATED, "9000").with("protocol", "udp").to(&rig.translated()[0]);
    rig.serve([&echo]);
    rig.translated()[0].echo_datagrams(SocketAddrV4::new(rig.translated()[0].address, 9000));
    let outside = Capture::start(&rig.client().namespace, Client::LEG, "udp");
    let inside = Capture::start(&rig.translated()[0].namespace, Server::LEG, "udp");

    echo_every_length(&rig.client().datagrams(&at(TRANSLATED, 9000)), 0..=1472);

    for capture in [outside, inside] {
        let frames = capture.until("1473 each way", |frames| frames.len() >= 2 * 1473);
        let mut lengths = [0; 1473];
        for packet in packets(&frames) {
            let Transport::Udp { checksum, data, .. } = &packet.transport else {
                panic!("not UDP: {packet:?}")
            };
            assert_ne!(*checksum, 0, "a checksum that was there is still there: {packet:?}");
            lengths[data.len()] += 1;
        }
        assert_eq!(lengths, [2; 1473], "every length, once each way");
    }
}

fn a_datagram_without_a_checksum_stays_without_one_both_ways(rig: &mut Rig) {
    let echo = nat("bare", TRANSLATED, "9001").with("protocol", "udp").to(&rig.translated()[1]);
    rig.serve([&echo]);
    rig.lab.translated[1].echo_datagrams_without_checksum(9001);
    let client = rig.client();
    let source = SocketAddrV4::new(client.address, 45_001);
    // So that the client's kernel takes the echo.
    let listener = client.namespace.enter(|| UdpSocket::bind(source)).expect("the port is free");
    listener.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout can be set");
    let outside = Capture::start(&client.namespace, Client::LEG, "udp port 9001");
    let inside = Capture::start(&rig.translated()[1].namespace, Server::LEG, "udp port 9001");
    let ends = Ends {
        macs: [client.mac(), rig.wan_mac()],
        source,
        destination: SocketAddrV4::new(TRANSLATED, 9001),
    };
    let frames = client.frames();
    let lengths = [1, 2, 3, 100, 1471, 1472];
    for length in lengths {
        let mut frame = ends.udp(&vec![0xa5; length]);
        frame[14 + 20 + 6..][..2].fill(0); // RFC 768: no checksum
        frames.send(&frame);
        let mut echo = [0; 2000];
        assert_eq!(listener.recv(&mut echo).ok(), Some(length), "the echo of {length} bytes");
    }
    for capture in [outside, inside] {
        let seen = packets(&capture.until("all", |frames| frames.len() >= 2 * lengths.len()));
        for packet in seen {
            assert!(matches!(packet.transport, Transport::Udp { checksum: 0, .. }), "{packet:?}");
        }
    }
}

fn segments_of_every_length_keep_right_checksums_both_ways(rig: &mut Rig) {
    const LENGTHS: std::ops::RangeInclusive<usize> = 1..=1448; // with timestamps, all that fits
    rig.serve([&nat("stream", TRANSLATED, "9002").to(&rig.translated()[2])]);
    rig.translated()[2].echo_streams(SocketAddrV4::new(rig.translated()[2].address, 9002));
    let outside = Capture::start(&rig.client().namespace, Client::LEG, "tcp port 9002");
    let inside = Capture::start(&rig.translated()[2].namespace, Server::LEG, "tcp port 9002");

    let mut stream = rig.client().open(&at(TRANSLATED, 9002)).expect("a connection");
    for length in LENGTHS {
        let sent: Vec<u8> = (0..length).map(|place| (place * 7) as u8).collect();
        stream.write_all(&sent).expect("the connection lasts");
        let mut back = vec![0; length];
        stream.read_exact(&mut back).expect("the echo comes back");
        assert!(back == sent, "{length} bytes");
    }
    drop(stream);

    for capture in [outside, inside] {
        let seen = packets(&capture.until("both ends", |frames| fins(frames) >= 2));
        let mut lengths = [0; 1449];
        for packet in &seen {
            lengths[packet.data().map_or(0, <[u8]>::len)] += 1;
        }
        for length in LENGTHS {
            assert!(lengths[length] >= 2, "a segment of {length} bytes each way");
        }
    }
}

/// Only a flow that a client began leads back through the appliance.
fn a_server_cannot_speak_first(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    let before = rig.books();
    let server = &rig.translated()[0];
    let socket = server.namespace.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a port is free");
    let sent = socket.send_to(b"hello", (rig.client().address, 9));
    assert_eq!(sent.ok(), Some(5));
    sluice_tests::process::eventually(Duration::from_secs(5), || {
        (rig.books().drops_since(&before).values().sum::<u64>() >= 1).then_some(())
    })
    .expect("the datagram is dropped and counted");
}
