//! Packets of full size, and links that are too narrow for them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use etherparse::TcpOptionElement;
use serde_json::json;
use sluice_tests::capture::Capture;
use sluice_tests::client::Client;
use sluice_tests::decode::{Ip, Packet, Transport, packets};
use sluice_tests::lab::{APPLIANCE, DIRECT, FAR_MTU, PROXIED, TRANSLATED, TUNNELLED, both};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::{Server, large};
use sluice_tests::service::{Service, direct, nat, snat, tunnel};

sluice_tests::cases! {
    virtual_addresses_answer_echo_requests_of_full_size_in_every_mode,
    segments_of_full_size_pass_unless_a_tunnel_takes_their_room,
    a_tunnel_tells_clients_what_fits_and_uploads_complete,
    with_a_clamped_segment_size_servers_are_told_what_fits,
    a_narrow_link_before_the_client_reaches_the_right_server_in_every_mode,
}

/// A service by each mode over one family of addresses, and its servers.
fn services(rig: &Rig, family: usize) -> [(&'static str, Service, IpAddr, &[Server; 3]); 4] {
    let [dr, nat_at, snat_at, tun] =
        [DIRECT, TRANSLATED, PROXIED, TUNNELLED].map(|address| both(address)[family]);
    [
        ("dr", direct("dr", dr, "80"), dr, rig.direct()),
        ("nat", nat("nat", nat_at, "80"), nat_at, rig.translated()),
        ("snat", snat("snat", snat_at, "80"), snat_at, rig.tunnelled()),
        ("tun", tunnel("tun", tun, "80"), tun, rig.tunnelled()),
    ]
    .map(|(mode, service, address, servers)| (mode, service.to_all(servers), address, servers))
}

fn serve(rig: &Rig, family: usize) -> [(&'static str, IpAddr, &[Server; 3]); 4] {
    let services = services(rig, family);
    rig.serve(services.iter().map(|(_, service, ..)| service));
    services.map(|(mode, _, address, servers)| (mode, address, servers))
}

/// What an upload or a download before this one may have taught.
fn forget_what_fits(rig: &Rig) {
    let clients = rig.lab.clients.iter().chain([&rig.lab.far]).map(|client| &client.namespace);
    for machine in clients.chain(rig.lab.servers().map(|server| &server.namespace)) {
        machine.shell("ip route flush cache; ip -6 route flush cache");
    }
}

/// FEATURES section 4, number 19.
fn virtual_addresses_answer_echo_requests_of_full_size_in_every_mode(rig: &mut Rig) {
    for (family, size) in [(0, 1472), (1, 1452)] {
        for (mode, address, _) in serve(rig, family) {
            let options = ["-Mdo", "-s", &size.to_string()];
            assert_eq!(rig.client().namespace.ping(address, 3, &options), 3, "{mode}");
        }
    }
}

/// The length of a packet from its IP header on.
fn length(packet: &Packet) -> usize {
    match &packet.ip {
        Ip::V4(header) => usize::from(header.total_len),
        Ip::V6(header, _) => 40 + usize::from(header.payload_length),
    }
}

fn segments_of_full_size_pass_unless_a_tunnel_takes_their_room(rig: &mut Rig) {
    for family in [0, 1] {
        for (mode, address, servers) in serve(rig, family).into_iter().take(3) {
            let captures = servers
                .each_ref()
                .map(|server| Capture::start(&server.namespace, Server::LEG, "tcp"));
            let name = format!("full-{mode}-{family}");
            let path = format!("/uploads/{name}");
            let up = rig.client().request(&at(address, 80), "PUT", &path, &large());
            assert_eq!(up.expect("an answer").status, 201, "{mode}");
            let place = servers.iter().position(|it| it.uploaded(&name).is_some());
            let place = place.expect("one of them got it");
            assert!(servers[place].uploaded(&name) == Some(large()), "{mode}: byte for byte");
            let [a, b, c] = captures;
            let capture = [a, b, c].into_iter().nth(place).expect("three captures");
            let frames = capture.until("the upload", |frames| frames.len() > 1400);
            let full = packets(&frames).iter().filter(|packet| length(packet) == 1500).count();
            assert!(full > 1000, "{mode}: {full} segments fill their packets");
        }
    }
}

/// "Fragmentation needed" (RFC 792, RFC 1191) or "packet too big" (RFC 4443), and the size it names.
fn too_big(packet: &Packet) -> Option<u32> {
    match &packet.transport {
        Transport::Icmp { kind: 3, code: 4, rest } => {
            Some(u16::from_be_bytes([rest[2], rest[3]]).into())
        }
        Transport::Icmpv6 { kind: 2, rest, .. } => {
            Some(u32::from_be_bytes(rest[..4].try_into().expect("four bytes")))
        }
        _ => None,
    }
}

/// A tunnel by IPv4 (0) or IPv6 (1) to the first server behind the router.
fn one_tunnel(rig: &Rig, published: IpAddr, outer: usize, encapsulation: &str) -> Service {
    let server = &rig.tunnelled()[0];
    let address = json!({ "address": both(server.address)[outer] });
    let service = tunnel("tun", published, "80").with("encapsulation", encapsulation);
    service.to_with(server, address)
}

/// What is left of 1,500 bytes beside the outer headers.
fn room(outer: usize, encapsulation: &str) -> u32 {
    1500 - [20, 40][outer] - if encapsulation == "gue" { 8 + 4 } else { 0 }
}

fn every_tunnel() -> impl Iterator<Item = (IpAddr, usize, &'static str)> {
    let by = [(0, "ipip"), (1, "ipip"), (0, "gue"), (1, "gue")];
    let all = both(TUNNELLED).into_iter();
    all.flat_map(move |published| {
        by.map(|(outer, encapsulation)| (published, outer, encapsulation))
    })
}

fn a_tunnel_tells_clients_what_fits_and_uploads_complete(rig: &mut Rig) {
    for (published, outer, encapsulation) in every_tunnel() {
        let name = format!("{published} by {outer} {encapsulation}");
        rig.serve([&one_tunnel(rig, published, outer, encapsulation)]);
        forget_what_fits(rig);
        let filter = format!("(icmp or icmp6) and dst {}", rig.client().address_like(published));
        let told = Capture::start(&rig.client().namespace, Client::LEG, &filter);
        let ours = both(APPLIANCE)[outer];
        let wire = Capture::start(&rig.lab.router, "wan", &format!("src {ours}"));
        upload(rig, published, &format!("{outer}-{encapsulation}"));
        let told = told.until(&format!("an error, {name}"), |frames| {
            packets(frames).iter().any(|packet| too_big(packet).is_some())
        });
        for (packet, size) in packets(&told).iter().filter_map(|it| Some((it, too_big(it)?))) {
            assert_eq!(size, room(outer, encapsulation), "{name}");
            assert_eq!(packet.source_address(), both(APPLIANCE)[usize::from(published.is_ipv6())]);
        }
        let wire = wire.until("the upload", |frames| frames.len() > 1000);
        assert!(
            wire.iter().all(|frame| frame.len() <= 14 + 1500),
            "{name}: the wire's MTU is kept"
        );
    }
    assert!(rig.books().dropped("too_big") > 0);
}

fn upload(rig: &Rig, published: IpAddr, kind: &str) {
    let name = format!("{}-{kind}", if published.is_ipv4() { "four" } else { "six" });
    let path = format!("/uploads/{name}");
    let up = rig.client().request(&at(published, 80), "PUT", &path, &large());
    let up = up.unwrap_or_else(|why| panic!("{name}: {why}"));
    assert!(matches!(up.status, 201 | 204), "{name}: {}", up.text());
    assert!(rig.tunnelled()[0].uploaded(&name) == Some(large()), "{name}: byte for byte");
}

/// What the server says in turn does not pass here.
fn with_a_clamped_segment_size_servers_are_told_what_fits(rig: &mut Rig) {
    for (published, outer, encapsulation) in every_tunnel() {
        let name = format!("{published} by {outer} {encapsulation}");
        let headers = if published.is_ipv4() { 40 } else { 60 };
        for (clamp, expected) in [(false, 1500), (true, room(outer, encapsulation))] {
            let service = one_tunnel(rig, published, outer, encapsulation);
            rig.serve([&service.with("clamp_mss", clamp)]);
            forget_what_fits(rig);
            let filter = format!("src {}", both(APPLIANCE)[outer]);
            let wire = Capture::start(&rig.lab.router, "wan", &filter);
            rig.client().connect(&at(published, 80), 1);
            let wire = wire.until("a connection", |frames| frames.len() >= 4);
            let sizes: Vec<_> = packets(&wire).iter().filter_map(segment_size).collect();
            assert_eq!(sizes, [expected - headers], "{name}");
        }
    }
}

/// The segment size that a SYN in a tunnel asks for. (The decoder has judged its checksum.)
fn segment_size(packet: &Packet) -> Option<u32> {
    let inside = packet.inside().expect("in order")?;
    let header = inside.tcp().filter(|header| header.syn)?;
    header.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::MaximumSegmentSize(size)) => Some(size.into()),
        _ => None,
    })
}

/// The router tells the virtual address; the server that has the flow has to hear of it.
fn a_narrow_link_before_the_client_reaches_the_right_server_in_every_mode(rig: &mut Rig) {
    for family in [0, 1] {
        for (mode, address, servers) in serve(rig, family) {
            forget_what_fits(rig);
            let filter = "icmp[icmptype] = icmp-unreach or (icmp6 and ip6[40] = 2) \
                or (ip6[6] = 4 or ip6[6] = 41) or (ip[9] = 4 or ip[9] = 41)";
            let captures = servers
                .each_ref()
                .map(|server| Capture::start(&server.namespace, Server::LEG, filter));
            for _ in servers {
                let down = rig.far_client().request(&at(address, 80), "GET", "/large", b"");
                let down = down.unwrap_or_else(|why| panic!("{mode} at {address}: {why}"));
                assert!(down.body == large(), "{mode} at {address}: byte for byte");
            }
            for (server, capture) in servers.iter().zip(captures) {
                let what = format!("what fits, at {} by {mode}", server.name);
                let frames = capture.until(&what, |frames| !told(frames).is_empty());
                let sizes = BTreeSet::from_iter(told(&frames));
                assert_eq!(sizes, BTreeSet::from([u32::from(FAR_MTU)]), "{what}");
            }
        }
    }
}

/// The sizes that errors in these frames name, be they in a tunnel or not.
fn told(frames: &[Vec<u8>]) -> Vec<u32> {
    let inner = |packet: Packet| packet.inside().expect("in order").unwrap_or(packet);
    packets(frames).into_iter().map(inner).filter_map(|packet| too_big(&packet)).collect()
}
