//! The laboratory itself, without an appliance: a test that fails elsewhere should not be its
//! fault.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;

use sluice_tests::capture::Capture;
use sluice_tests::client::Frames;
use sluice_tests::decode::{self, Ends, Transport};
use sluice_tests::lab::{Lab, TUNNELLED};
use sluice_tests::namespace::{self, Namespace};
use sluice_tests::rig::at;
use sluice_tests::server::Server;

/// One test, so that the machines are made once.
#[test]
fn every_machine_is_reached_as_the_drawing_says() {
    let lab = Lab::build();
    clients_reach_direct_and_tunnelled_servers_by_their_own_addresses(&lab);
    translated_servers_reach_each_other_and_have_no_other_way_out(&lab);
    an_ipip_packet_made_by_hand_is_decapsulated_and_answered_straight_to_the_client(&lab);
    checksums_are_complete_on_the_wire(&lab);
}

fn clients_reach_direct_and_tunnelled_servers_by_their_own_addresses(lab: &Lab) {
    for client in &lab.clients {
        for server in lab.direct.iter().chain(&lab.tunnelled) {
            for port in sluice_tests::server::PORTS {
                let answers = client.connect(&at(server.address, port), 1);
                assert_eq!(answers.from(server), 1);
                assert_eq!(answers.0[0].peer.ip(), client.address);
                assert_eq!(answers.0[0].local, SocketAddrV4::new(server.address, port).into());
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

fn an_ipip_packet_made_by_hand_is_decapsulated_and_answered_straight_to_the_client(lab: &Lab) {
    let [client, _] = &lab.clients;
    let server = &lab.tunnelled[1];
    let capture = Capture::start(&client.namespace, "eth0", "src 10.1.0.102");
    // A SYN for the virtual address, wrapped by this test and sent by way of the router.
    let ends = Ends {
        macs: [client.mac(), lab.router.mac("wan")],
        source: SocketAddrV4::new(client.address, 45_678),
        destination: SocketAddrV4::new(TUNNELLED, 80),
    };
    let inner = ends.tcp("S", b"");
    let mut outer = Vec::new();
    etherparse::PacketBuilder::ethernet2(ends.macs[0], ends.macs[1])
        .ip(etherparse::IpHeaders::Ipv4(
            etherparse::Ipv4Header::new(
                (inner.len() - 14) as u16,
                64,
                etherparse::IpNumber::IPV4,
                client.address.octets(),
                server.address.octets(),
            )
            .expect("the packet is short"),
            Default::default(),
        ))
        .write(&mut outer, etherparse::IpNumber::IPV4, &inner[14..])
        .expect("the packet is short");
    Frames::on(&client.namespace, "eth0").send(&outer);
    let answers = capture.until("an answer to the SYN", |frames| !frames.is_empty());
    let answer = &decode::packets(&answers)[0];
    assert_eq!(answer.source(), Some(ends.destination));
    assert_eq!(answer.destination(), Some(ends.source));
    let Transport::Tcp { header, .. } = &answer.transport else { panic!("not TCP: {answer:?}") };
    assert!(header.syn && header.ack, "{header:?}");
}

fn checksums_are_complete_on_the_wire(lab: &Lab) {
    let [client, _] = &lab.clients;
    let server = &lab.direct[0];
    let capture = Capture::start(&server.namespace, Server::LEG, "tcp port 80");
    client.connect(&at(server.address, 80), 3);
    let large = client.request(&at(server.address, 80), "GET", "/large", b"").expect("an answer");
    assert!(large.body == sluice_tests::server::large(), "the large file arrives whole");
    let ends = |frames: &[Vec<u8>]| {
        decode::packets(frames).iter().filter(|packet| packet.is_fin()).count() >= 8
    };
    let frames = capture.until("both ends of four connections", ends);
    assert!(frames.iter().all(|frame| frame.len() <= 1514), "no segment is put together");
}

#[test]
fn what_a_killed_run_left_is_removed() {
    // No process has this number: it is beyond the kernel's largest.
    let mut orphan = Namespace::new("4194305.0", "orphan");
    let mut sleeper = sluice_tests::process::Background::start(orphan.command("sleep").arg("100"));
    let name = orphan.name().to_owned();
    orphan.keep();
    drop(orphan);
    assert!(Path::new("/run/netns").join(&name).exists());
    assert!(namespace::remove_leftovers().contains("4194305.0"));
    assert!(!Path::new("/run/netns").join(&name).exists());
    let ended = sleeper.wait(std::time::Duration::from_secs(5));
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
