//! Several VLANs on one cable, several subnets on one interface, and one interface for everything.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::json;
use sluice_tests::appliance::INTERFACES_ONLY;
use sluice_tests::capture::Capture;
use sluice_tests::decode::{fins, packets};
use sluice_tests::lab::{DIRECT, Lab, PROXIED, TRANSLATED, TUNNELLED, both};
use sluice_tests::process;
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{direct, nat, snat, tunnel};
use sluice_tests::trunk::Trunk;

sluice_tests::cases! {
    on boot;
    every_mode_works_across_vlans_of_one_cable,
    frames_carry_the_tag_of_their_interface_and_no_other,
    we_answer_for_an_address_on_its_own_vlan_alone,
    frames_with_a_tag_that_nobody_expects_are_dropped_and_counted,
    packets_of_full_size_carry_a_tag_besides,
    an_interface_with_two_subnets_serves_a_virtual_address_in_each,
    a_direct_server_may_be_in_another_subnet_of_the_interface,
    a_direct_server_on_no_subnet_of_ours_is_refused,
    nat_works_with_one_interface_and_two_addresses,
    one_arm_nat_needs_servers_that_answer_their_neighbours_through_us,
}

/// The VLANs of the laboratory's wires; `remote` comes without a tag, `far` belongs to nobody.
const WAN: u16 = 5;
const LAN: u16 = 7;
const FOREIGN: u16 = 9;

/// The second subnet on the clients' wire.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 2);

/// An appliance with one cable for all its wires.
fn boot() -> Rig {
    let mut lab = Lab::build();
    let wires = [(Some(WAN), "wan"), (Some(LAN), "lan"), (None, "remote"), (Some(FOREIGN), "far")];
    lab.lay_trunk(&wires);
    // The second subnet on the clients' wire, for the router, one client and one server.
    lab.router.ip("addr add 10.5.0.1/24 dev wan\n");
    lab.clients[0].namespace.ip("addr add 10.5.0.10/24 dev eth0\n");
    lab.direct[0].namespace.ip("addr add 10.5.0.21/24 dev eth0\n");
    // The third server lives there alone, and we are its gateway.
    lab.direct[2].namespace.ip("addr flush dev eth0
         addr add 10.5.0.23/24 dev eth0
         route replace default via 10.5.0.2\n");
    let mut file = INTERFACES_ONLY
        .replace("\"kernel:wan\"", &format!("\"kernel:{}\"\nvlan = {WAN}", Trunk::DEVICE))
        .replace("\"kernel:lan\"", &format!("\"kernel:{}\"\nvlan = {LAN}", Trunk::DEVICE))
        .replace("\"10.1.0.2/24\"", "\"10.1.0.2/24\", \"10.5.0.2/24\"");
    assert_eq!(file.matches("vlan = ").count(), 2);
    file += &format!(
        "\n[[interface]]\nname = \"remote\"\ndevice = \"kernel:{}\"\n\
         addresses = [\"10.3.0.2/24\", \"2001:db8:3::2/64\"]\n",
        Trunk::DEVICE
    );
    Rig::boot_with(lab, &file)
}

fn cable(rig: &Rig, filter: &str) -> Capture {
    Capture::start(&rig.lab.appliance, Trunk::DEVICE, filter)
}

/// NI-03, NI-06: two VLANs and a wire without a tag, each with both families, applied at once.
fn every_mode_works_across_vlans_of_one_cable(rig: &mut Rig) {
    for family in [0, 1] {
        let [dr, nat_at, snat_at, tun] =
            [DIRECT, TRANSLATED, PROXIED, TUNNELLED].map(|address| both(address)[family]);
        let near: &[Server] = &rig.direct()[..2];
        rig.serve([
            &direct("dr", dr, "80").to_all(near),
            &nat("nat", nat_at, "80").to_all(&rig.translated()[..2]),
            &snat("snat", snat_at, "80").to_all(&rig.tunnelled()[..2]),
            &tunnel("tun", tun, "80").to_all(&rig.tunnelled()[..2]),
        ]);
        let ours = both([10, 3, 0, 2].into())[family];
        for (address, servers, seen) in [
            (dr, rig.direct(), None),
            (nat_at, rig.translated(), None),
            (snat_at, rig.tunnelled(), Some(ours)),
            (tun, rig.tunnelled(), None),
        ] {
            let client = rig.client();
            let answers = client.connect(&at(address, 80), 10);
            assert_eq!([0, 1].map(|it| answers.from(&servers[it])), [5, 5], "{address}");
            let seen = seen.unwrap_or(client.address_like(address));
            let peers = answers.peers();
            assert_eq!(peers, BTreeSet::from([seen]), "{address}");
        }
    }
}

fn frames_carry_the_tag_of_their_interface_and_no_other(rig: &mut Rig) {
    let server = &rig.tunnelled()[0];
    rig.serve([
        &nat("nat", TRANSLATED, "80").to(&rig.translated()[0]),
        &snat("snat", PROXIED, "80").to(server),
    ]);
    let capture = cable(rig, "");
    rig.client().connect(&at(TRANSLATED, 80), 5);
    rig.client().connect(&at(PROXIED, 80), 5);
    // Each end passes twice: in and out.
    let frames = capture.until("both ends of ten, twice", |frames| fins(frames) >= 40);
    for packet in packets(&frames).iter().filter(|packet| packet.tcp().is_some()) {
        let ends = [packet.source_address(), packet.destination_address()];
        let on = |number: u8| {
            ends.iter().any(|it| matches!(it, IpAddr::V4(it) if it.octets()[..2] == [10, number]))
        };
        let expected = match (on(3), on(2)) {
            (true, _) => vec![],
            (_, true) => vec![LAN],
            _ => vec![WAN],
        };
        assert_eq!(packet.vlans, expected, "{packet:?}");
    }
}

fn we_answer_for_an_address_on_its_own_vlan_alone(rig: &mut Rig) {
    rig.serve([&direct("web", DIRECT, "80").to(&rig.direct()[0])]);
    assert_eq!(rig.client().arping(DIRECT, 1, 5).len(), 1);
    let elsewhere = rig.translated()[0]
        .namespace
        .command("arping")
        .args(["-b", "-w1", "-c1", "-I", Server::LEG, &DIRECT.to_string()])
        .output()
        .expect("arping runs");
    let said = String::from_utf8_lossy(&elsewhere.stdout);
    assert!(!said.contains('['), "nobody answers there: {said}");
}

fn frames_with_a_tag_that_nobody_expects_are_dropped_and_counted(rig: &mut Rig) {
    let before = rig.books();
    // The question for the router's address there is for everybody.
    rig.far_client().forget_neighbours();
    rig.far_client().ping(Ipv4Addr::new(10, 4, 0, 1), 1, 56, 5);
    let counted = || (rig.books().dropped("vlan") > before.dropped("vlan")).then_some(());
    process::eventually(Duration::from_secs(5), counted).expect("they are counted");
}

fn packets_of_full_size_carry_a_tag_besides(rig: &mut Rig) {
    let server = &rig.translated()[0];
    rig.serve([&nat("nat", TRANSLATED, "80").to(server)]);
    assert_eq!(rig.client().namespace.ping(TRANSLATED, 3, &["-Mdo", "-s1472"]), 3);
    let capture = cable(rig, "tcp port 80");
    let large = sluice_tests::server::large();
    let up = rig.client().request(&at(TRANSLATED, 80), "PUT", "/uploads/vlan", &large);
    assert_eq!(up.expect("an answer").status, 201);
    assert!(server.uploaded("vlan") == Some(large));
    let full = |frames: &[Vec<u8>]| frames.iter().filter(|it| it.len() == 14 + 4 + 1500).count();
    capture.until("packets of full size", |frames| full(frames) > 1000);
}

/// NI-04.
fn an_interface_with_two_subnets_serves_a_virtual_address_in_each(rig: &mut Rig) {
    let other = Ipv4Addr::new(10, 5, 0, 100);
    rig.serve([
        &nat("first", TRANSLATED, "80").to(&rig.translated()[0]),
        &nat("second", other, "80").to(&rig.translated()[1]),
    ]);
    let client = rig.client();
    assert_eq!(client.connect(&at(TRANSLATED, 80), 3).from(&rig.translated()[0]), 3);
    let answers = client.connect(&at(other, 80), 3);
    assert_eq!(answers.from(&rig.translated()[1]), 3);
    assert_eq!(answers.peers(), BTreeSet::from([Ipv4Addr::new(10, 5, 0, 10).into()]));
    for address in [SECOND, other] {
        assert_eq!(client.ping(address, 2, 56, 5), 2, "{address}");
    }
}

/// FWD-04.
fn a_direct_server_may_be_in_another_subnet_of_the_interface(rig: &mut Rig) {
    let other = Ipv4Addr::new(10, 5, 0, 101);
    let server = &rig.direct()[1]; // it has an address in the first subnet alone
    server.namespace.ip(&format!("addr add {other}/32 dev lo\n"));
    rig.serve([&direct("web", other, "80").to(server)]);
    let answers = rig.client().connect(&at(other, 80), 4);
    assert_eq!(answers.from(server), 4);
}

/// FWD-04: there has to be no router on the way.
fn a_direct_server_on_no_subnet_of_ours_is_refused(rig: &mut Rig) {
    let service = direct("web", DIRECT, "80").with("server", json!([{ "address": "10.4.0.77" }]));
    let answer = rig.appliance.put_services([&service]);
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("service[0].server[0].address"), "{}", answer.text());
}

/// NI-07: the server's gateway is our second address, on the interface that clients come in by.
fn nat_works_with_one_interface_and_two_addresses(rig: &mut Rig) {
    let server = &rig.direct()[2];
    let own = Ipv4Addr::new(10, 5, 0, 23);
    let service =
        nat("web", TRANSLATED, "80").to_with(server, json!({ "address": own, "port": 8080 }));
    rig.serve([&service]);
    // It has an address beside the server's, and would be answered straight.
    let client = rig.second_client();
    let answers = client.connect(&at(TRANSLATED, 80), 6);
    assert_eq!(answers.from(server), 6);
    assert_eq!(answers.peers(), BTreeSet::from([client.address.into()]));
}

/// FWD-11, with the documented lines.
fn one_arm_nat_needs_servers_that_answer_their_neighbours_through_us(rig: &mut Rig) {
    let server = &rig.direct()[1];
    rig.serve([&nat("web", TRANSLATED, "80").to_with(server, json!({ "port": 8080 }))]);
    let (client, to) = (rig.second_client(), at(TRANSLATED, 80));
    let straight = client.attempt(&to, 1, Duration::from_millis(500));
    assert!(straight[0].is_err(), "the server answers its neighbour straight");
    server.namespace.ip("route del 10.1.0.0/24
         route add 10.1.0.0/24 dev eth0 metric 2000
         route add 10.1.0.0/24 via 10.1.0.2 dev eth0 onlink metric 0\n");
    let answers = client.connect(&to, 6);
    assert_eq!(answers.from(server), 6);
    assert_eq!(answers.peers(), BTreeSet::from([client.address.into()]));
}
