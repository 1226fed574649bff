//! The laboratory itself, without an appliance: a test that fails elsewhere should not be its
//! fault.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};
use sluice_tests::capture::Capture;
use sluice_tests::client::{Client, Frames};
use sluice_tests::decode::{self, Packet, Transport};
use sluice_tests::lab::{Lab, TUNNELLED, both, somebody};
use sluice_tests::namespace::{self, Namespace};
use sluice_tests::process::{Background, eventually};
use sluice_tests::rig::at;
use sluice_tests::server::{Server, names};

/// One test, so that the machines are made once.
#[test]
fn every_machine_is_reached_as_the_drawing_says() {
    let mut lab = Lab::build();
    clients_reach_direct_and_tunnelled_servers_by_their_own_addresses(&lab);
    translated_servers_reach_each_other_and_have_no_other_way_out(&lab);
    a_tunnel_packet_made_by_hand_is_decapsulated_and_answered_straight_to_the_client(&lab);
    checksums_are_complete_on_the_wire(&lab);
    the_far_client_is_many_behind_a_link_for_short_packets(&lab);
    vsftpd_reads_and_writes_whoever_opens_the_data_connection(&mut lab);
    dnsmasq_answers_over_both_transports(&mut lab);
    a_trunk_carries_frames(&mut lab);
}

fn clients_reach_direct_and_tunnelled_servers_by_their_own_addresses(lab: &Lab) {
    for client in lab.clients.iter().chain([&lab.far]) {
        for server in lab.direct.iter().chain(&lab.tunnelled) {
            for (address, port) in both(server.address).into_iter().zip([80, 8080]) {
                let answers = client.connect(&at(address, port), 1);
                assert_eq!(answers.from(server), 1);
                assert_eq!(answers.0[0].peer.ip(), client.address_like(address));
                assert_eq!(answers.0[0].local, SocketAddr::new(address, port));
            }
        }
    }
}

fn translated_servers_reach_each_other_and_have_no_other_way_out(lab: &Lab) {
    let [first, second, _] = &lab.translated;
    let reach = |to: Ipv4Addr| {
        let ping = ["-c1", "-W1", &to.to_string()].map(str::to_owned);
        sluice_tests::process::output(first.namespace.command("ping").args(ping)).status.success()
    };
    assert!(reach(second.address));
    assert!(!reach(lab.clients[0].address), "nobody forwards while the appliance is away");
}

/// Either IP in either, bare and in GUE.
fn a_tunnel_packet_made_by_hand_is_decapsulated_and_answered_straight_to_the_client(lab: &Lab) {
    let (client, server) = (&lab.clients[0], &lab.tunnelled[1]);
    let frames = Frames::on(&client.namespace, Client::LEG);
    let kinds = both(TUNNELLED).into_iter().flat_map(|published| {
        let outer = both(server.address).into_iter();
        outer.flat_map(move |to| [false, true].map(|gue| (published, to, gue)))
    });
    for (number, (published, to, gue)) in kinds.enumerate() {
        let port = 45_678 + number as u16;
        let answers = Capture::start(&client.namespace, Client::LEG, &format!("port {port}"));
        let from = client.address_like(published);
        // A SYN for the virtual address, wrapped by this test and sent by way of the router.
        let mut inner = Vec::new();
        let headers = ip(from, published);
        let builder = PacketBuilder::ip(headers).tcp(port, 80, 7, 8192).syn();
        builder.write(&mut inner, &[]).expect("it fits");
        let protocol = if published.is_ipv4() { IpNumber::IPV4 } else { IpNumber::IPV6 };
        let [own, router] = [client.mac(), lab.router.mac("wan")];
        let builder = PacketBuilder::ethernet2(own, router).ip(ip(client.address_like(to), to));
        let mut outer = Vec::new();
        match gue {
            false => builder.write(&mut outer, protocol, &inner),
            true => {
                let data = [&[0, protocol.0, 0, 0], inner.as_slice()].concat();
                builder.udp(port, 6080).write(&mut outer, &data)
            }
        }
        .expect("it fits");
        frames.send(&outer);

        let back = |packet: &Packet| packet.source() == Some(SocketAddr::new(published, 80));
        let seen = answers.until(&format!("an answer, {published} by {to}, {gue}"), |frames| {
            decode::packets(frames).iter().any(back)
        });
        let answer = decode::packets(&seen).into_iter().find(back).expect("waited for");
        assert_eq!(answer.destination(), Some(SocketAddr::new(from, port)));
        let header = answer.tcp().expect("it has ports");
        assert!(header.syn && header.ack, "{header:?}");
    }
}

fn the_far_client_is_many_behind_a_link_for_short_packets(lab: &Lab) {
    let server = &lab.direct[0];
    for from in [somebody(0, 1), somebody(0, 255), somebody(3, 9)] {
        assert_eq!(lab.far.ask_from(from, &at(server.address, 80)).peer.ip(), from);
    }
    let capture = Capture::start(&server.namespace, Server::LEG, "icmp");
    let large = lab.far.request(&at(server.address, 80), "GET", "/large", b"").expect("an answer");
    assert!(large.body == sluice_tests::server::large(), "the large file arrives whole");
    capture.until("fragmentation needed", |frames| {
        decode::packets(frames)
            .iter()
            .any(|packet| matches!(packet.transport, Transport::Icmp { kind: 3, code: 4, .. }))
    });
}

fn vsftpd_reads_and_writes_whoever_opens_the_data_connection(lab: &mut Lab) {
    lab.direct[0].serve_ftp();
    let (client, server) = (&lab.clients[0], &lab.direct[0]);
    for (number, way) in ["--ftp-pasv", "--ftp-port=-"].iter().enumerate() {
        let way: Vec<&str> = way.split('=').collect();
        for (host, name) in [("10.1.0.21", "four"), ("[2001:db8:1::21]", "six")] {
            let name = format!("{name}{number}");
            let file = tempfile::NamedTempFile::new().expect("temporary files can be written");
            fs::write(file.path(), sluice_tests::server::large()).expect("as above");
            let path = file.path().to_str().expect("a plain path");
            let there = format!("ftp://{host}/upload/{name}");
            let up = client.curl(&[&way[..], &["-T", path, &there]].concat());
            assert!(up.status.success(), "{way:?}: {}", String::from_utf8_lossy(&up.stderr));
            assert!(server.uploaded_by_ftp(&name) == Some(sluice_tests::server::large()));
            let down = client.curl(&[&way[..], &[&format!("ftp://{host}/large")]].concat());
            assert!(down.stdout == sluice_tests::server::large(), "{way:?}");
        }
    }
}

fn dnsmasq_answers_over_both_transports(lab: &mut Lab) {
    lab.direct[0].serve_names();
    let server = &lab.direct[0];
    for address in both(server.address) {
        let at = SocketAddr::new(address, 53);
        let ask = |name, kind| {
            let ask = || (names::ask_by_udp(at, name, kind), names::ask_by_tcp(at, name, kind));
            let (udp, tcp) = lab.clients[0].namespace.enter(ask);
            let udp = udp.expect("an answer");
            assert_eq!(udp, tcp.expect("an answer"));
            udp
        };
        assert!(ask("www.lab.test", names::A).windows(4).any(|it| it == [192, 0, 2, 80]));
        assert!(ask("long.lab.test", names::TXT).len() > 1200);
        assert_eq!(names::text(&ask("who.lab.test", names::TXT)), server.name);
    }
}

/// Those with a tag are for the appliance to answer: this kernel may know no VLANs.
fn a_trunk_carries_frames(lab: &mut Lab) {
    lab.lay_trunk(&[(None, "remote"), (Some(7), "lan")]);
    lab.appliance.ip("addr add 10.3.0.2/24 dev trunk\n");
    let tagged = Capture::start(&lab.appliance, "trunk", "vlan 7");
    assert_eq!(lab.appliance.ping([10, 3, 0, 11], 3, &[]), 3);
    // A question for everybody on that VLAN comes in with its tag.
    let ask =
        lab.translated[0].namespace.command("ping").args(["-c1", "-W1", "10.2.0.99"]).output();
    assert!(!ask.expect("ping runs").status.success());
    tagged.until("a frame with a tag", |frames| {
        frames.iter().any(|it| it[12..16] == [0x81, 0, 0, 7])
    });
}

fn ip(from: IpAddr, to: IpAddr) -> IpHeaders {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = Ipv4Header::new(0, 64, IpNumber::TCP, from.octets(), to.octets());
            IpHeaders::Ipv4(header.expect("the length is filled in later"), Default::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (source, destination) = (from.octets(), to.octets());
            let header = Ipv6Header { hop_limit: 64, source, destination, ..Default::default() };
            IpHeaders::Ipv6(header, Default::default())
        }
        _ => panic!("{from} and {to} are of two kinds"),
    }
}

fn checksums_are_complete_on_the_wire(lab: &Lab) {
    let [client, _] = &lab.clients;
    let server = &lab.direct[0];
    let capture = Capture::start(&server.namespace, Server::LEG, "tcp port 80");
    client.connect(&at(server.address, 80), 3);
    let large = client.request(&at(server.address, 80), "GET", "/large", b"").expect("an answer");
    assert!(large.body == sluice_tests::server::large(), "the large file arrives whole");
    let ends = |frames: &[Vec<u8>]| decode::fins(frames) >= 8;
    let frames = capture.until("both ends of four connections", ends);
    assert!(frames.iter().all(|frame| frame.len() <= 1514), "no segment is put together");
}

#[test]
fn what_a_killed_run_left_is_removed() {
    // No process has this number: it is beyond the kernel's largest.
    let mut orphan = Namespace::new("4194305.0", "orphan");
    let mut sleeper = Background::start(orphan.command("sleep").arg("100"));
    let comm = format!("/proc/{}/comm", sleeper.id());
    let sleeps = || (fs::read_to_string(&comm).ok()?.trim_end() == "sleep").then_some(());
    eventually(Duration::from_secs(10), sleeps).expect("it is in the namespace");
    let name = orphan.name().to_owned();
    orphan.keep();
    drop(orphan);
    assert!(Path::new("/run/netns").join(&name).exists());
    assert!(namespace::remove_leftovers().contains("4194305.0"));
    assert!(!Path::new("/run/netns").join(&name).exists());
    let ended = sleeper.wait(Duration::from_secs(5));
    assert!(ended.is_ok(), "what ran in it is ended too");
}

#[test]
fn a_laboratory_leaves_nothing_behind_even_after_a_panic() {
    let before = everything();
    let outcome = std::panic::catch_unwind(|| {
        let lab = Lab::named(&format!("{}.panic", std::process::id()));
        assert!(lab.servers().count() == 0, "the panic that this test is about");
    });
    assert!(outcome.is_err());
    let after = everything();
    let mine = |names: &[String]| names.iter().filter(|name| name.contains(".panic-")).count();
    assert_eq!(mine(&before), 0);
    assert_eq!(mine(&after), 0, "{after:?}");
}

/// Namespaces, and command lines that mention one.
fn everything() -> Vec<String> {
    let named = Command::new("ip").args(["netns", "list"]).output().expect("ip runs");
    let mut all: Vec<String> =
        String::from_utf8_lossy(&named.stdout).lines().map(str::to_owned).collect();
    for process in fs::read_dir("/proc").expect("there is a /proc").flatten() {
        all.extend(fs::read_to_string(process.path().join("cmdline")));
    }
    all
}
