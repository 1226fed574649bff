//! Tunnels, as clients, servers and the wires between them see it. The servers take the outer
//! header off with a program that is not ours (src/server.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use sluice_tests::capture::Capture;
use sluice_tests::client::{Client, echo_every_length};
use sluice_tests::decode::{self, Packet, Transport, fins, fins_from, packet_bytes, packets};
use sluice_tests::lab::{APPLIANCE, TUNNELLED};
use sluice_tests::rig::{Rig, at};
use sluice_tests::service::{Service, tunnel};

sluice_tests::cases! {
    the_inner_packet_is_untouched_and_the_outer_header_is_valid,
    servers_see_the_client_and_answer_it_from_the_virtual_address,
    no_reply_passes_the_appliance,
    a_packet_that_must_not_be_fragmented_and_does_not_fit_is_answered_and_the_upload_completes,
    a_packet_that_may_be_fragmented_is_and_arrives_whole,
}

/// What fits a packet of 1,500 bytes beside the outer header.
const ROOM: u16 = 1480;

fn web(rig: &Rig) -> Service {
    tunnel("web", TUNNELLED, "80").to_all(rig.tunnelled())
}

/// The outer header of a packet that carries another, and the inner packet.
fn unwrapped(packet: &Packet) -> (&etherparse::Ipv4Header, &[u8]) {
    let Transport::Ipip(inner) = &packet.transport else { panic!("not IP in IP: {packet:?}") };
    (packet.ipv4(), inner)
}

/// FWD-12, on the router's wire.
fn the_inner_packet_is_untouched_and_the_outer_header_is_valid(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    rig.client().connect(&at(TUNNELLED, 80), 3); // so that nobody needs ARP below
    let before = Capture::start(&rig.client().namespace, Client::LEG, "dst 10.1.0.102");
    let after = Capture::start(&rig.lab.router, "wan", "ip proto 4");

    rig.client().connect(&at(TUNNELLED, 80), 9);
    let mut sent = before.until("9 ends", |frames| fins(frames) >= 9);
    let tunnelled = after.until("as many packets", |frames| frames.len() >= sent.len());

    let servers = BTreeSet::from(rig.tunnelled().each_ref().map(|server| server.address));
    let mut seen = BTreeSet::new();
    let mut inner_packets = Vec::new();
    for packet in packets(&tunnelled) {
        assert_eq!(packet.ethernet.source, rig.wan_mac());
        assert_eq!(packet.ethernet.destination, rig.lab.router.mac("wan"));
        let (outer, inner) = unwrapped(&packet);
        assert_eq!(Ipv4Addr::from(outer.source), APPLIANCE);
        seen.insert(Ipv4Addr::from(outer.destination));
        assert_eq!(outer.time_to_live, 64);
        assert_eq!(usize::from(outer.total_len), 20 + inner.len());
        assert!(outer.options.is_empty() && !outer.is_fragmenting_payload());
        let (inner_header, _) = decode::packet(inner).expect("the inner packet is in order");
        assert_eq!(outer.dont_fragment, inner_header.dont_fragment);
        assert_eq!(outer.dscp, inner_header.dscp);
        inner_packets.push(inner.to_vec());
    }
    assert_eq!(seen, servers);
    let mut expected: Vec<_> = sent.drain(..).map(|it| packet_bytes(&it).to_vec()).collect();
    expected.sort();
    inner_packets.sort();
    assert!(inner_packets == expected, "the same packets, byte for byte, once each");
}

fn servers_see_the_client_and_answer_it_from_the_virtual_address(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    let published = SocketAddrV4::new(TUNNELLED, 80);
    for client in &rig.lab.clients {
        let back = Capture::start(&client.namespace, Client::LEG, "inbound and tcp");
        let answers = client.connect(&at(TUNNELLED, 80), 9);
        assert_eq!(rig.tunnelled().each_ref().map(|server| answers.from(server)), [3, 3, 3]);
        assert_eq!(answers.peers(), BTreeSet::from([IpAddr::from(client.address)]));
        assert_eq!(answers.locals(), BTreeSet::from([published.into()]));
        let router = rig.lab.router.mac("wan");
        for packet in packets(&back.until("9 ends", |frames| fins(frames) >= 9)) {
            assert_eq!(packet.source(), Some(published.into()));
            assert_eq!(packet.ethernet.source, router, "straight from the router");
        }
    }
}

fn no_reply_passes_the_appliance(rig: &mut Rig) {
    rig.serve([&web(rig)]);
    let wan = Capture::start(&rig.lab.appliance, "wan", "ip");
    rig.client().connect(&at(TUNNELLED, 80), 9);
    let client = rig.client().address;
    let seen = wan.until("9 ends", |frames| fins_from(frames, client) >= 9);
    let replies = packets(&seen).iter().filter(|it| it.source_address() == TUNNELLED).count();
    assert_eq!(replies, 0);
}

fn a_packet_that_must_not_be_fragmented_and_does_not_fit_is_answered_and_the_upload_completes(
    rig: &mut Rig,
) {
    rig.serve([&tunnel("one", TUNNELLED, "80").to(&rig.tunnelled()[0])]);
    rig.client().namespace.shell("ip route flush cache");
    let errors = Capture::start(&rig.client().namespace, Client::LEG, "icmp");
    let wire = Capture::start(&rig.lab.router, "wan", "ip proto 4");

    let large = sluice_tests::server::large();
    let up = rig.client().request(&at(TUNNELLED, 80), "PUT", "/uploads/tun", &large);

    assert_eq!(up.expect("an answer").status, 201);
    assert!(rig.tunnelled()[0].uploaded("tun") == Some(large));
    let errors = errors.until("an error", |frames| !frames.is_empty());
    for packet in packets(&errors) {
        let Transport::Icmp { kind, code, rest } = &packet.transport else {
            panic!("not ICMP: {packet:?}")
        };
        assert_eq!((*kind, *code), (3, 4), "fragmentation needed and DF set (RFC 792)");
        assert_eq!(packet.source_address(), APPLIANCE);
        let [0, 0, high, low, quoted @ ..] = rest.as_slice() else {
            panic!("no next-hop MTU where RFC 1191 has it: {rest:02x?}")
        };
        assert_eq!(u16::from_be_bytes([*high, *low]), ROOM);
        assert_eq!(quoted[12..20], [rig.client().address.octets(), TUNNELLED.octets()].concat());
    }
    let tunnelled = wire.until("the upload", |frames| frames.len() > 1000);
    assert!(tunnelled.iter().all(|frame| frame.len() <= 14 + 1500), "the wire's MTU is kept");
    assert!(rig.books().dropped("too_big") > 0);
}

fn a_packet_that_may_be_fragmented_is_and_arrives_whole(rig: &mut Rig) {
    let echo = tunnel("echo", TUNNELLED, "9000").with("protocol", "udp").to(&rig.tunnelled()[1]);
    rig.serve([&echo]);
    rig.tunnelled()[1].echo_datagrams(SocketAddrV4::new(TUNNELLED, 9000));
    // Linux then sends its datagrams without "don't fragment" ...
    rig.client().namespace.sysctl("net.ipv4.ip_no_pmtu_disc", "1");
    // ... and whole, once it has forgotten what the case above has taught it.
    rig.client().namespace.shell("ip route flush cache");
    let sent = Capture::start(&rig.client().namespace, Client::LEG, "udp and dst 10.1.0.102");
    let wire = Capture::start(&rig.lab.router, "wan", "ip proto 4 and src 10.1.0.2");

    // From those that just fit to those that fill the client's own packets.
    echo_every_length(&rig.client().datagrams(&at(TUNNELLED, 9000)), 1440..=1472);
    rig.client().namespace.sysctl("net.ipv4.ip_no_pmtu_disc", "0");

    let sent = sent.until("all of them", |frames| frames.len() >= 33);
    let too_long =
        sent.iter().filter(|frame| packet_bytes(frame).len() > usize::from(ROOM)).count();
    assert_eq!(too_long, 20, "payloads of 1453 to 1472 bytes do not fit");
    assert!(packets(&sent).iter().all(|packet| !packet.ipv4().dont_fragment));
    let wire = wire.until("all of them", |frames| frames.len() >= sent.len() + too_long);

    let mut parts: BTreeMap<u16, Vec<Packet>> = BTreeMap::new();
    for packet in packets(&wire) {
        assert!(!packet.ipv4().dont_fragment && packet.ipv4().total_len <= 1500, "{packet:?}");
        assert_eq!(packet.destination_address(), rig.tunnelled()[1].address);
        parts.entry(packet.ipv4().identification).or_default().push(packet);
    }
    assert_eq!(parts.len(), sent.len(), "each outer packet has an identification of its own");
    let mut whole: Vec<_> = parts.into_values().map(put_together).collect();
    let mut expected: Vec<_> = sent.iter().map(|frame| packet_bytes(frame).to_vec()).collect();
    whole.sort();
    expected.sort();
    assert!(whole == expected, "the inner packets, byte for byte, once each");
    assert_eq!(packets(&wire)[0].ethernet.destination, rig.lab.router.mac("wan"));
}

/// The fragments of one packet (RFC 791 section 3.2), put together without gap or overlap.
fn put_together(mut parts: Vec<Packet>) -> Vec<u8> {
    parts.sort_by_key(|part| part.ipv4().fragment_offset.value());
    let mut whole = Vec::new();
    let last = parts.len() - 1;
    for (number, part) in parts.iter().enumerate() {
        assert_eq!(usize::from(part.ipv4().fragment_offset.value()) * 8, whole.len());
        assert_eq!(part.ipv4().more_fragments, number < last);
        whole.extend(&part.payload);
    }
    whole
}
