//! DNS through every mode: what a client gets is, byte for byte, what the server says.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use sluice_tests::client::Client;
use sluice_tests::lab::{DIRECT, PROXIED, TRANSLATED, TUNNELLED, both};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::server::names::{A, AAAA, TXT, ask_again, ask_by_tcp, ask_by_udp, text};
use sluice_tests::service::{Service, direct, nat, snat, tunnel};

sluice_tests::cases! {
    on boot;
    answers_are_the_servers_own_byte_for_byte_in_every_mode,
    answers_too_long_for_one_packet_arrive_in_every_mode,
    each_datagram_may_be_scheduled_on_its_own,
    without_that_one_socket_stays_with_one_server,
}

fn boot() -> Rig {
    let mut rig = Rig::boot();
    for servers in [&mut rig.lab.direct, &mut rig.lab.translated, &mut rig.lab.tunnelled] {
        servers[..2].iter_mut().for_each(Server::serve_names);
    }
    rig
}

/// One server for each mode, over one family of addresses.
fn services(rig: &Rig, family: usize) -> [(Service, IpAddr, &Server); 4] {
    let [dr, nat_at, snat_at, tun] =
        [DIRECT, TRANSLATED, PROXIED, TUNNELLED].map(|address| both(address)[family]);
    [
        (direct("dr", dr, "53"), dr, &rig.direct()[0]),
        (nat("nat", nat_at, "53"), nat_at, &rig.translated()[0]),
        (snat("snat", snat_at, "53"), snat_at, &rig.tunnelled()[1]),
        (tunnel("tun", tun, "53"), tun, &rig.tunnelled()[0]),
    ]
    .map(|(service, address, server)| {
        (service.with("protocol", "tcp+udp").to(server), address, server)
    })
}

/// The server's own answer, by a question that does not leave its machine.
fn own_answer(server: &Server, name: &str, kind: u16) -> Vec<u8> {
    let own = SocketAddr::from((server.address, 53));
    let answer = server.namespace.enter(|| ask_by_tcp(own, name, kind));
    answer.unwrap_or_else(|why| panic!("{} about {name}: {why}", server.name))
}

/// FEATURES section 4, number 14.
fn answers_are_the_servers_own_byte_for_byte_in_every_mode(rig: &mut Rig) {
    for family in [0, 1] {
        let services = services(rig, family);
        rig.serve(services.iter().map(|(service, ..)| service));
        for (service, address, server) in &services {
            let to = SocketAddr::new(*address, 53);
            for (name, kind) in [
                ("www.lab.test", A),
                ("www.lab.test", AAAA),
                ("who.lab.test", TXT),
                ("long.lab.test", TXT),
            ] {
                let expected = own_answer(server, name, kind);
                let client = &rig.client().namespace;
                let mode = &service.json()["mode"];
                for (way, answer) in [
                    ("UDP", client.enter(|| ask_by_udp(to, name, kind))),
                    ("TCP", client.enter(|| ask_by_tcp(to, name, kind))),
                ] {
                    let what = format!("{name} by {mode} over {way} at {to}");
                    let answer = answer.unwrap_or_else(|why| panic!("{what}: {why}"));
                    assert!(answer == expected, "{what}");
                }
            }
        }
    }
}

/// Replies in fragments find their way, too. (The kernel puts those of IPv4 together before they get
/// to a `kernel:` device, so that is not for these wires to show.)
fn answers_too_long_for_one_packet_arrive_in_every_mode(rig: &mut Rig) {
    let services = services(rig, 1);
    rig.serve(services.iter().map(|(service, ..)| service));
    for (service, address, server) in &services {
        let expected = own_answer(server, "huge.lab.test", TXT);
        assert!(expected.len() > 2 * 1500, "it takes three packets: {}", expected.len());
        let to = SocketAddr::new(*address, 53);
        let answer = rig.client().namespace.enter(|| ask_by_udp(to, "huge.lab.test", TXT));
        let mode = &service.json()["mode"];
        let answer = answer.unwrap_or_else(|why| panic!("{mode}: {why}: {}", rig.books()));
        assert!(answer == expected, "{mode} at {to}");
    }
}

/// How often each server answers a hundred datagrams of one socket.
fn shares(client: &Client, to: &str) -> BTreeMap<String, usize> {
    let socket = client.datagrams(to);
    let mut shares = BTreeMap::new();
    for _ in 0..100 {
        let answer = ask_again(&socket, "who.lab.test", TXT).expect("an answer");
        *shares.entry(text(&answer)).or_default() += 1;
    }
    shares
}

/// VS-03.
fn each_datagram_may_be_scheduled_on_its_own(rig: &mut Rig) {
    for (service, address, servers) in two_by_each_mode(rig) {
        rig.serve([&service.with("scheduler", "ops")]);
        let halves = shares(rig.client(), &at(address, 53));
        let expected = servers.iter().map(|server| (server.name.clone(), 50)).collect();
        assert_eq!(halves, expected, "at {address}");
    }
}

fn without_that_one_socket_stays_with_one_server(rig: &mut Rig) {
    for (service, address, _) in two_by_each_mode(rig) {
        rig.serve([&service]);
        let all = shares(rig.client(), &at(address, 53));
        assert_eq!(all.into_values().collect::<Vec<_>>(), [100], "at {address}");
    }
}

fn two_by_each_mode(rig: &Rig) -> Vec<(Service, IpAddr, &[Server])> {
    let ways = [
        (direct("dr", DIRECT, "53"), DIRECT, rig.direct()),
        (nat("nat", TRANSLATED, "53"), TRANSLATED, rig.translated()),
        (tunnel("tun", TUNNELLED, "53"), TUNNELLED, rig.tunnelled()),
    ];
    let udp = |(service, address, servers): (Service, std::net::Ipv4Addr, _)| {
        let servers: &[Server; 3] = servers;
        let service = service.with("protocol", "udp").to_all(&servers[..2]);
        (service, address.into(), &servers[..2])
    };
    ways.into_iter().map(udp).collect()
}
