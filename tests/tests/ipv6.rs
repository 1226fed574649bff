//! IPv6 beside IPv4: every mode over both, with real nginx and curl, as clients, servers and the
//! wires between them see it. Every frame that is captured here is verified by the decoder.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use sluice_tests::capture::Capture;
use sluice_tests::client::{Client, ask_by_datagram, echo_every_length};
use sluice_tests::decode::{Packet, Transport, fins, fins_from, packet_bytes, packets, packets_to};
use sluice_tests::lab::{APPLIANCE, DIRECT, GATEWAY, PROXIED, TRANSLATED, TUNNELLED, both, ipv6};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{Service, direct, nat, snat, tunnel};

sluice_tests::cases! {
    on boot;
    servers_see_whom_the_table_says_by_every_mode_over_both,
    direct_return_changes_the_hardware_addresses_alone,
    nat_rewrites_addresses_and_ports_both_ways,
    tunnels_of_every_kind_carry_the_packet_untouched,
    datagrams_of_every_length_keep_right_checksums,
    a_large_upload_and_a_large_download_arrive_whole,
    we_alone_answer_neighbour_discovery_for_a_virtual_address,
    own_and_virtual_addresses_answer_echo_requests_and_others_do_not,
    a_virtual_address_without_its_service_is_no_longer_ours,
}

/// The port that NAT leads to.
const BEHIND: u16 = 8080;

/// Servers introduce themselves over UDP, too.
fn boot() -> Rig {
    let rig = Rig::boot();
    for (servers, published) in [(rig.direct(), DIRECT), (rig.tunnelled(), TUNNELLED)] {
        for server in servers {
            for address in both(published) {
                server.introduce_by_datagram((address, 80));
            }
        }
    }
    for server in rig.translated().iter().chain(rig.tunnelled()) {
        for address in both(server.address) {
            server.introduce_by_datagram((address, BEHIND));
        }
    }
    rig
}

/// A way from clients to servers.
struct Way<'r> {
    service: Service,
    servers: &'r [Server; 3],
    published: IpAddr,
    /// Whom the servers see, if not the client.
    seen_as: Option<IpAddr>,
    /// Whether servers are asked on their own addresses and [`BEHIND`].
    translated: bool,
}

/// Every mode and every kind of tunnel, over IPv4 and over IPv6.
fn ways(rig: &Rig) -> Vec<Way<'_>> {
    let family = |number: usize| {
        let [dr, nat_at, snat_at, tun_at] =
            [DIRECT, TRANSLATED, PROXIED, TUNNELLED].map(|address| both(address)[number]);
        let behind = |service: Service, servers: &[Server; 3]| {
            let to = |service: Service, server| service.to_with(server, json!({ "port": BEHIND }));
            servers.iter().fold(service, to)
        };
        let mut ways = vec![
            Way {
                service: direct("dr", dr, "80").to_all(rig.direct()),
                servers: rig.direct(),
                published: dr,
                seen_as: None,
                translated: false,
            },
            Way {
                service: behind(nat("nat", nat_at, "80"), rig.translated()),
                servers: rig.translated(),
                published: nat_at,
                seen_as: None,
                translated: true,
            },
            Way {
                service: behind(snat("snat", snat_at, "80"), rig.tunnelled()),
                servers: rig.tunnelled(),
                published: snat_at,
                seen_as: Some(both(APPLIANCE)[number]),
                translated: true,
            },
            Way {
                service: behind(snat("snat-near", snat_at, "80"), rig.translated()),
                servers: rig.translated(),
                published: snat_at,
                seen_as: Some(both(GATEWAY)[number]),
                translated: true,
            },
        ];
        for outer in [0, 1] {
            for encapsulation in ["ipip", "gue"] {
                ways.push(Way {
                    service: tunnelled(rig, tun_at, outer, encapsulation),
                    servers: rig.tunnelled(),
                    published: tun_at,
                    seen_as: None,
                    translated: false,
                });
            }
        }
        ways
    };
    [0, 1].into_iter().flat_map(family).collect()
}

/// A service by a tunnel whose outer header is IPv4's (0) or IPv6's (1).
fn tunnelled(rig: &Rig, published: IpAddr, outer: usize, encapsulation: &str) -> Service {
    let name = format!("tun-{outer}-{encapsulation}");
    let service = tunnel(&name, published, "80").with("encapsulation", encapsulation);
    let to = |service: Service, server: &Server| {
        service.to_with(server, json!({ "address": both(server.address)[outer] }))
    };
    rig.tunnelled().iter().fold(service, to)
}

/// FWD-21, FWD-08, FWD-12, FWD-13, FWD-19: whom servers see, and on which address they are asked,
/// over TCP and over UDP.
fn servers_see_whom_the_table_says_by_every_mode_over_both(rig: &mut Rig) {
    for way in ways(rig) {
        let Way { service, servers, published, seen_as, translated } = way;
        let service = service.with("protocol", "tcp+udp");
        rig.serve([&service]);
        let asked = |server: &Server| match (translated, published) {
            (true, IpAddr::V4(_)) => SocketAddr::from((server.address, BEHIND)),
            (true, IpAddr::V6(_)) => SocketAddr::from((server.ipv6(), BEHIND)),
            (false, address) => SocketAddr::new(address, 80),
        };
        let (to, name) = (at(published, 80), service.json()["name"].to_string());
        for client in &rig.lab.clients {
            let seen = seen_as.unwrap_or(client.address_like(published));
            let answers = client.connect(&to, 6);
            assert_eq!(servers.each_ref().map(|it| answers.from(it)), [2, 2, 2], "{name} {to}");
            assert_eq!(answers.peers(), BTreeSet::from([seen]), "{name} {to}");
            let expected: BTreeSet<_> = servers.iter().map(asked).collect();
            assert_eq!(answers.locals(), expected, "{name} {to}");

            let sockets = [0, 1, 2].map(|_| client.datagrams(&to));
            let told = sockets.each_ref().map(ask_by_datagram);
            let names: BTreeSet<_> = told.iter().map(|answer| answer.server.as_str()).collect();
            assert_eq!(names.len(), 3, "each in turn over UDP, too: {name} {to}: {names:?}");
            for answer in &told {
                assert_eq!(answer.peer.ip(), seen, "{name} {to} over UDP");
                assert!(expected.contains(&answer.local), "{name} {to} over UDP: {answer:?}");
            }
            // The same server for the same socket, and by curl as by us.
            assert_eq!(ask_by_datagram(&sockets[0]).server, told[0].server);
            let page = client.curl(&[&format!("http://{to}/")]);
            let page: Value = serde_json::from_slice(&page.stdout).expect("curl is answered");
            assert_eq!(page["peer"], json!(seen), "{name} {to} by curl");
        }
    }
}

/// FWD-01 over IPv6: hop limit, flow label, options and data are untouched.
fn direct_return_changes_the_hardware_addresses_alone(rig: &mut Rig) {
    let published = ipv6(DIRECT);
    rig.serve([&direct("web", published, "80").to_all(rig.direct())]);
    rig.client().connect(&at(published, 80), 3); // so that nobody needs to be asked for below
    let filter = format!("tcp and dst {published}");
    let before = Capture::start(&rig.client().namespace, Client::LEG, &filter);
    let after = rig
        .direct()
        .each_ref()
        .map(|server| Capture::start(&server.namespace, Server::LEG, &filter));

    rig.client().connect(&at(published, 80), 30);

    let client = rig.client().ipv6();
    let sent = before.until("30 connections", |frames| fins_from(frames, client) >= 30);
    let mut forwarded = Vec::new();
    for (server, capture) in rig.direct().iter().zip(after) {
        let frames = capture.until("10 connections", |it| fins_from(it, client) >= 10);
        let ends = (rig.wan_mac(), server.namespace.mac(Server::LEG));
        for (packet, frame) in packets_to(&frames, published) {
            assert_eq!((packet.ethernet.source, packet.ethernet.destination), ends);
            forwarded.push(frame[12..].to_vec());
        }
    }
    let mut expected: Vec<_> = sent.iter().map(|frame| frame[12..].to_vec()).collect();
    expected.sort();
    forwarded.sort();
    assert!(expected.len() >= 30 * 4 && forwarded == expected, "byte for byte, once each");
}

/// FWD-07 and FWD-08 over IPv6.
fn nat_rewrites_addresses_and_ports_both_ways(rig: &mut Rig) {
    let published = SocketAddr::from((ipv6(TRANSLATED), 80));
    let server = &rig.translated()[0];
    let service = nat("web", published.ip(), "80").to_with(server, json!({ "port": BEHIND }));
    rig.serve([&service]);
    let outside = Capture::start(&rig.client().namespace, Client::LEG, "ip6 and tcp");
    let inside = Capture::start(&server.namespace, Server::LEG, "ip6 and tcp");

    let answers = rig.client().connect(&published.to_string(), 9);

    let real = SocketAddr::from((server.ipv6(), BEHIND));
    assert_eq!(answers.locals(), BTreeSet::from([real]));
    let mut seen = Vec::new();
    for (capture, far_end, station) in
        [(outside, published, rig.wan_mac()), (inside, real, rig.lan_mac())]
    {
        let frames = capture.until("both ends of 9", |frames| fins(frames) >= 18);
        let mut essences = Vec::new();
        for packet in packets(&frames) {
            let back = packet.source() == Some(far_end);
            let (near, far, own) = match back {
                true => (packet.destination(), packet.source(), packet.ethernet.source),
                false => (packet.source(), packet.destination(), packet.ethernet.destination),
            };
            assert_eq!(far, Some(far_end));
            assert_eq!(near.map(|it| it.ip()), Some(rig.client().ipv6().into()));
            if far_end == published {
                assert_eq!(own, station, "both ways pass the appliance");
            }
            let mut segment = packet.payload.clone();
            segment[16..18].fill(0); // what NAT changes: the checksum, and the server's port
            let port = if back { 0..2 } else { 2..4 };
            segment[port].fill(0);
            essences.push((back, segment));
        }
        essences.sort();
        seen.push(essences);
    }
    assert!(seen[0].len() >= 9 * 8 && seen[0] == seen[1], "the same segments on both sides");
}

/// FWD-12: each IP in each, bare and in GUE.
fn tunnels_of_every_kind_carry_the_packet_untouched(rig: &mut Rig) {
    for published in both(TUNNELLED) {
        for outer in [0, 1] {
            for encapsulation in ["ipip", "gue"] {
                rig.serve([&tunnelled(rig, published, outer, encapsulation)]);
                let client = rig.client();
                client.connect(&at(published, 80), 3); // so that nobody needs to be asked for
                let filter = format!("tcp and dst {published}");
                let before = Capture::start(&client.namespace, Client::LEG, &filter);
                let ours = both(APPLIANCE)[outer];
                let filter = format!("(ip or ip6) and src {ours} and not icmp6");
                let after = Capture::start(&rig.lab.router, "wan", &filter);

                client.connect(&at(published, 80), 6);

                let sent = before.until("6 ends", |frames| fins(frames) >= 6);
                let tunnelled = after.until("as many", |frames| frames.len() >= sent.len());
                let mut servers = BTreeSet::new();
                let mut carried = Vec::new();
                for (packet, frame) in packets(&tunnelled).iter().zip(&tunnelled) {
                    let inside = packet.inside().expect("in order").expect("a tunnel");
                    assert_eq!(packet.source_address(), ours);
                    assert_eq!(packet.hops_left(), 64);
                    servers.insert(packet.destination_address());
                    check_wrapping(packet, encapsulation, published);
                    assert_eq!(inside.destination_address(), published);
                    let whole = packet_bytes(frame);
                    carried.push(whole[whole.len() - length(&inside)..].to_vec());
                }
                let own = |server: &Server| both(server.address)[outer];
                assert_eq!(servers, rig.tunnelled().iter().map(own).collect());
                let mut sent: Vec<_> = sent.iter().map(|it| packet_bytes(it).to_vec()).collect();
                sent.sort();
                carried.sort();
                assert!(carried == sent, "{published} by {outer} {encapsulation}: byte for byte");
            }
        }
    }
}

fn check_wrapping(packet: &Packet, encapsulation: &str, published: IpAddr) {
    match (&packet.transport, encapsulation) {
        (Transport::Ipip(_), "ipip") => {}
        (Transport::Udp { source, destination: 6080, data, .. }, "gue") => {
            let protocol = if published.is_ipv4() { 4 } else { 41 };
            assert_eq!(data[..4], [0, protocol, 0, 0]);
            assert!(*source >= 1024, "a port that spreads flows: {source}");
        }
        (other, _) => panic!("{encapsulation}: {other:?}"),
    }
}

/// The length of a packet with its headers.
fn length(packet: &Packet) -> usize {
    let header = match &packet.ip {
        sluice_tests::decode::Ip::V4(header) => header.header_len(),
        sluice_tests::decode::Ip::V6(_, extensions) => 40 + extensions,
    };
    header + packet.payload.len()
}

fn datagrams_of_every_length_keep_right_checksums(rig: &mut Rig) {
    const LONGEST: usize = 1500 - 40 - 8;
    let echo = |service: Service, server| service.with("protocol", "udp").to(server);
    let (near, far, own) = (&rig.translated()[0], &rig.tunnelled()[0], &rig.direct()[0]);
    let published = [TRANSLATED, PROXIED, DIRECT].map(ipv6);
    rig.serve([
        &echo(nat("nat", published[0], "9000"), near),
        &echo(snat("snat", published[1], "9000"), far),
        &echo(direct("dr", published[2], "9000"), own),
    ]);
    near.echo_datagrams((near.ipv6(), 9000));
    far.echo_datagrams((far.ipv6(), 9000));
    own.echo_datagrams((published[2], 9000));
    for (address, server) in published.into_iter().zip([near, far, own]) {
        let filter = "ip6 and udp port 9000";
        let outside = Capture::start(&rig.client().namespace, Client::LEG, filter);
        let inside = Capture::start(&server.namespace, Server::LEG, filter);
        echo_every_length(&rig.client().datagrams(&at(address, 9000)), 0..=LONGEST);
        for capture in [outside, inside] {
            let all = 2 * (LONGEST + 1);
            let frames = capture.until("every length each way", |frames| frames.len() >= all);
            let mut lengths = [0; LONGEST + 1];
            // A missing checksum is an error to the decoder here (RFC 8200 section 8.1).
            for packet in packets(&frames) {
                lengths[packet.data().expect("UDP has data").len()] += 1;
            }
            assert_eq!(lengths, [2; LONGEST + 1], "every length, once each way");
        }
    }
}

fn a_large_upload_and_a_large_download_arrive_whole(rig: &mut Rig) {
    let large = sluice_tests::server::large();
    for (number, way) in ways(rig).into_iter().enumerate().filter(|(_, it)| it.published.is_ipv6())
    {
        let mut one = way.service.json();
        let server = one["server"][0].take();
        rig.serve([&way.service.clone().with("server", json!([server]))]);
        let (to, path) = (at(way.published, 80), format!("/uploads/six{number}"));
        let down = rig.client().request(&to, "GET", "/large", b"").expect("an answer");
        assert!(down.body == large, "{one}");
        let up = rig.client().request(&to, "PUT", &path, &large).expect("an answer");
        assert_eq!(up.status, 201, "{one}");
        assert!(way.servers[0].uploaded(&format!("six{number}")).as_ref() == Some(&large), "{one}");
    }
}

/// FWD-19, AR-03: servers with the address on their loopback interfaces keep silent.
fn we_alone_answer_neighbour_discovery_for_a_virtual_address(rig: &mut Rig) {
    let published = ipv6(DIRECT);
    rig.serve([&direct("web", published, "80").to_all(rig.direct())]);
    for client in &rig.lab.clients {
        for address in [published, ipv6(APPLIANCE)] {
            client.forget_neighbours();
            let capture = Capture::start(&client.namespace, Client::LEG, "icmp6");
            assert_eq!(client.ping(address, 3, 56, 10), 3);
            let frames = capture.until("an advertisement", |frames| {
                frames
                    .iter()
                    .any(|frame| advertised(frame).is_some_and(|it| it.0 == address.octets()))
            });
            for (target, station, option) in frames.iter().filter_map(|frame| advertised(frame)) {
                if target == address.octets() {
                    assert_eq!((station, option), (rig.wan_mac(), rig.wan_mac().to_vec()));
                }
            }
        }
    }
}

/// What a neighbour advertisement (RFC 4861 section 4.4) is about, who sends it, and the hardware
/// address in it.
fn advertised(frame: &[u8]) -> Option<([u8; 16], [u8; 6], Vec<u8>)> {
    let packet = Packet::of(frame).expect("in order")?;
    let Transport::Icmpv6 { kind: 136, rest, .. } = &packet.transport else { return None };
    assert_eq!(packet.hops_left(), 255, "it has passed no router");
    let target = rest[4..20].try_into().expect("sixteen bytes");
    let option = match rest.get(20..28) {
        Some([2, 1, mac @ ..]) => mac.to_vec(),
        _ => Vec::new(),
    };
    Some((target, packet.ethernet.source, option))
}

fn own_and_virtual_addresses_answer_echo_requests_and_others_do_not(rig: &mut Rig) {
    rig.serve([&direct("web", ipv6(DIRECT), "80").to_all(rig.direct())]);
    for address in [APPLIANCE, DIRECT].map(ipv6) {
        for size in [0, 1, 56, 1452] {
            assert_eq!(rig.client().ping(address, 3, size, 10), 3, "{address} with {size} bytes");
        }
    }
    let nobody = ipv6([10, 1, 0, 109].into());
    assert_eq!(rig.client().ping(nobody, 1, 56, 1), 0);
    assert_eq!(rig.translated()[0].namespace.ping(ipv6(GATEWAY), 2, &[]), 2);
}

fn a_virtual_address_without_its_service_is_no_longer_ours(rig: &mut Rig) {
    let published = ipv6(DIRECT);
    rig.serve([&direct("web", published, "80").to_all(rig.direct())]);
    rig.client().connect(&at(published, 80), 3);
    rig.serve([]);
    rig.client().forget_neighbours();
    assert_eq!(rig.client().ping(published, 1, 56, 1), 0);
}
