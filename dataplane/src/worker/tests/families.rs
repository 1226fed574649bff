//! Every mode in both families, as it leaves on the wire: checked by a decoder that is not ours.

use std::net::{IpAddr, SocketAddr};

use etherparse::{LaxNetSlice, LaxSlicedPacket};

use super::*;
use crate::snapshot::{NatRules, PortId};
use crate::testing::{our_address_for, our_addresses};
use crate::wire::{Address, Prefix};

const CLIENT_V6: &str = "[2001:db8:99::9]:40000";

/// A frame for us with a TCP segment or a UDP datagram in it.
fn packet(interface: InterfaceId, from: &str, to: &str, transport: Transport) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let ours = mac_of(our_address(interface));
    let builder = PacketBuilder::ethernet2([2, 0, 9, 9, 9, 9], ours.0);
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 33),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 33),
        _ => panic!("two families"),
    };
    let mut frame = Vec::new();
    match transport {
        Transport::Tcp(flags) => {
            let mut tcp = etherparse::TcpHeader::new(from.port(), to.port(), 7, 1000);
            (tcp.fin, tcp.syn, tcp.ack) = (flags & FIN != 0, flags & SYN != 0, flags & ACK != 0);
            builder.tcp_header(tcp).write(&mut frame, b"hello").unwrap();
        }
        Transport::Udp(payload) => {
            builder.udp(from.port(), to.port()).write(&mut frame, payload).unwrap();
        }
    }
    frame
}

#[derive(Clone, Copy)]
enum Transport<'p> {
    Tcp(u8),
    Udp(&'p [u8]),
}

/// What a frame's packet says, its checksums found right.
#[derive(Debug, PartialEq)]
struct Read {
    from: String,
    to: String,
    hops: u8,
}

fn read(frame: &[u8]) -> Read {
    let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
    assert!([ethertype::IPV4, ethertype::IPV6].contains(&ethertype), "{ethertype:x}");
    read_ip(&frame[14..])
}

fn read_ip(packet: &[u8]) -> Read {
    let packet = LaxSlicedPacket::from_ip(packet).unwrap();
    let (from, to, hops): (IpAddr, IpAddr, u8) = match packet.net.unwrap() {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            (header.source.into(), header.destination.into(), header.time_to_live)
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            (header.source.into(), header.destination.into(), header.hop_limit)
        }
        other => panic!("{other:?}"),
    };
    let right = |v4: fn(&TransportSlice<'_>, [u8; 4], [u8; 4]) -> bool,
                 v6: fn(&TransportSlice<'_>, [u8; 16], [u8; 16]) -> bool,
                 transport: &TransportSlice<'_>| match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => v4(transport, from.octets(), to.octets()),
        (IpAddr::V6(from), IpAddr::V6(to)) => v6(transport, from.octets(), to.octets()),
        _ => panic!("two families"),
    };
    let transport = packet.transport.unwrap();
    let ports = match &transport {
        TransportSlice::Tcp(tcp) => (tcp.source_port(), tcp.destination_port()),
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port()),
        other => panic!("{other:?}"),
    };
    let is_right = right(
        |transport, from, to| match transport {
            TransportSlice::Tcp(tcp) => tcp.calc_checksum_ipv4(from, to) == Ok(tcp.checksum()),
            TransportSlice::Udp(udp) => {
                let expected =
                    udp.to_header().calc_checksum_ipv4_raw(from, to, udp.payload()).unwrap();
                udp.checksum() == 0 || udp.checksum() == expected
            }
            _ => false,
        },
        |transport, from, to| match transport {
            TransportSlice::Tcp(tcp) => tcp.calc_checksum_ipv6(from, to) == Ok(tcp.checksum()),
            TransportSlice::Udp(udp) => {
                let expected =
                    udp.to_header().calc_checksum_ipv6_raw(from, to, udp.payload()).unwrap();
                udp.checksum() == expected
            }
            _ => false,
        },
        &transport,
    );
    assert!(is_right, "transport checksum from {from} to {to}");
    let shown = |address, port| SocketAddr::new(address, port).to_string();
    Read { from: shown(from, ports.0), to: shown(to, ports.1), hops }
}

/// The two families, each with a client, a virtual address and two servers.
const FAMILIES: [[&str; 4]; 2] = [
    [CLIENT, "192.0.2.1", "10.0.0.7", "10.0.0.8"],
    [CLIENT_V6, "[2001:db8:0:1::100]", "[2001:db8:0:2::7]", "[2001:db8:0:2::8]"],
];

fn ip(text: &str) -> Address {
    text.trim_matches(['[', ']']).parse().unwrap()
}

fn only(mut frames: Vec<Vec<u8>>) -> Vec<u8> {
    assert_eq!(frames.len(), 1);
    frames.remove(0)
}

#[test]
fn nat_and_snat_translate_both_ways_in_both_families() {
    for [client, virtual_address, server, _] in FAMILIES {
        for (mode, protocol) in
            ["nat", "snat"].into_iter().flat_map(|mode| ["", "/udp"].map(|it| (mode, it)))
        {
            let services = format!("{virtual_address}:80{protocol} {mode} {server}:8080");
            let mut worker = TestWorker::serving(&services);
            let transport = |flags| {
                if protocol.is_empty() { Transport::Tcp(flags) } else { Transport::Udp(b"odd") }
            };
            let to = format!("{virtual_address}:80");
            worker.receives(&packet(OUTSIDE, client, &to, transport(SYN)));
            let there = read(&only(worker.transmitted_on(INSIDE)));
            assert_eq!(there.to, format!("{server}:8080"));
            if mode == "nat" {
                assert_eq!(there.from, client);
            } else {
                let from: SocketAddr = there.from.parse().unwrap();
                assert_eq!(Address::from(from.ip()), our_address_for(INSIDE, ip(server)));
                assert!(from.port() >= 16_384);
            }
            let answer = packet(INSIDE, &there.to, &there.from, transport(SYN | ACK));
            worker.receives_on(INSIDE, &answer);
            let back = read(&only(worker.transmitted_on(OUTSIDE)));
            assert_eq!((back.from, back.to), (to, client.to_owned()), "{mode}{protocol}");
            worker.balances();
        }
    }
}

#[test]
fn direct_return_changes_nothing_behind_the_ethernet_header_in_either_family() {
    for [client, virtual_address, server, _] in FAMILIES {
        let mut worker = TestWorker::serving(&format!("{virtual_address}:80 dr {server}"));
        let frame = packet(OUTSIDE, client, &format!("{virtual_address}:80"), Transport::Tcp(SYN));
        worker.receives(&frame);
        let sent = only(worker.transmitted_on(INSIDE));
        assert_eq!(sent[..6], mac_of(ip(server)).0);
        assert_eq!(sent[12..], frame[12..]);
        worker.balances();
    }
}

#[test]
fn a_tunnel_carries_either_family_in_either() {
    for (inner, outer) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for mode in ["tun", "gue"] {
            let ([client, virtual_address, ..], [_, _, server, _]) =
                (FAMILIES[inner], FAMILIES[outer]);
            let mut worker = TestWorker::serving(&format!("{virtual_address}:80 {mode} {server}"));
            let to = format!("{virtual_address}:80");
            let frame = packet(OUTSIDE, client, &to, Transport::Tcp(SYN));
            worker.receives(&frame);
            let sent = only(worker.transmitted_on(INSIDE));
            let outer_packet = LaxSlicedPacket::from_ethernet(&sent).unwrap();
            let (from, to, length): (IpAddr, IpAddr, usize) = match outer_packet.net.unwrap() {
                LaxNetSlice::Ipv4(ip) => {
                    let header = ip.header().to_header();
                    assert_eq!(header.header_checksum, header.calc_header_checksum());
                    (header.source.into(), header.destination.into(), 20)
                }
                LaxNetSlice::Ipv6(ip) => {
                    let header = ip.header().to_header();
                    (header.source.into(), header.destination.into(), 40)
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(Address::from(to), ip(server));
            assert_eq!(Address::from(from), our_address_for(INSIDE, ip(server)));
            let number = if outer == 0 { sent[23] } else { sent[20] };
            let inner_number = if inner == 0 { 4 } else { 41 };
            let carried = if mode == "tun" {
                assert_eq!(number, inner_number);
                14 + length
            } else {
                assert_eq!(number, 17);
                let Some(TransportSlice::Udp(udp)) = outer_packet.transport else { panic!("UDP") };
                assert_eq!(udp.destination_port(), 6080);
                assert_eq!(udp.payload()[..4], [0, inner_number, 0, 0]);
                if outer == 1 {
                    assert_ne!(udp.checksum(), 0, "IPv6 wants one");
                }
                14 + length + 12
            };
            assert_eq!(sent[carried..], frame[14..], "the packet inside is untouched");
            worker.balances();
        }
    }
}

#[test]
fn a_packet_too_big_for_the_way_out_is_answered_in_its_own_family() {
    for [client, virtual_address, server, _] in FAMILIES {
        let mut worker = TestWorker::serving(&format!("{virtual_address}:53/udp tun {server}"));
        let room = 1500 - if ip(client.rsplit_once(':').unwrap().0).is_v4() { 20 } else { 40 };
        let payload = vec![7; room - if room == 1480 { 27 } else { 47 }];
        let to = format!("{virtual_address}:53");
        let mut frame = packet(OUTSIDE, client, &to, Transport::Udp(&payload));
        if room == 1480 {
            frame[20] = 0x40; // don't fragment
            frame[24..26].fill(0);
            let checksum = crate::wire::checksum::of(&frame[14..34]);
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        worker.receives(&frame);
        let answer = only(worker.transmitted_on(OUTSIDE));
        assert_eq!(answer[..6], [2, 0, 9, 9, 9, 9], "to the station that it came from");
        let parsed = LaxSlicedPacket::from_ethernet(&answer).unwrap();
        match parsed.transport.unwrap() {
            TransportSlice::Icmpv4(icmp) => {
                assert!(icmp.is_checksum_valid());
                assert_eq!(answer[34..36], [3, 4]);
                assert_eq!(u16::from_be_bytes([answer[40], answer[41]]), 1480);
                assert_eq!(answer[42..70], frame[14..42]);
            }
            TransportSlice::Icmpv6(icmp) => {
                let from: [u8; 16] = answer[22..38].try_into().unwrap();
                let to: [u8; 16] = answer[38..54].try_into().unwrap();
                assert!(icmp.is_checksum_valid(from, to));
                assert_eq!(answer[54..56], [2, 0]);
                assert_eq!(u32::from_be_bytes(answer[58..62].try_into().unwrap()), 1460);
                assert_eq!(answer.len(), 14 + 1280);
                assert_eq!(answer[62..], frame[14..14 + 1280 - 48]);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(worker.dropped(Reason::TooBig), 1);
        worker.balances();
    }
}

trait IsChecksumValid {
    fn is_checksum_valid(&self) -> bool;
}

impl IsChecksumValid for etherparse::Icmpv4Slice<'_> {
    fn is_checksum_valid(&self) -> bool {
        crate::wire::checksum::of(self.slice()) == 0
    }
}

#[test]
fn later_fragments_follow_the_first_through_nat() {
    let mut worker =
        TestWorker::serving("192.0.2.1:53/udp nat 10.0.0.7:5353 10.0.0.8:5353 10.0.0.9:5353");
    for number in 0..6u16 {
        let client = format!("198.51.100.9:{}", 5_000 + number);
        let payload: Vec<u8> = (0..1_400).map(|at| at as u8).collect();
        let whole = udp(&client, "192.0.2.1:53", &payload);
        let parts = in_parts(&whole, number + 1, &[0, 480, 960]);
        parts.iter().for_each(|part| worker.receives(part));
        let sent = worker.transmitted_on(INSIDE);
        assert_eq!(sent.len(), 3);
        assert!(sent.iter().all(|part| part[..6] == sent[0][..6]), "all to one server");
        let together = together(&sent);
        let read = read_ip(&together);
        assert_eq!(read.from, client);
        assert!(read.to.ends_with(":5353"));
        worker.balances();
    }
    // Without its first part, and overlapping.
    let whole = udp(CLIENT, "192.0.2.1:53", &[1; 600]);
    let parts = in_parts(&whole, 99, &[0, 304]);
    worker.receives(&parts[1]);
    assert_eq!(worker.dropped(Reason::FragmentWithoutFirst), 1);
    worker.receives(&parts[0]);
    let overlapping = in_parts(&whole, 99, &[0, 296]);
    worker.receives(&overlapping[1]);
    assert_eq!(worker.dropped(Reason::FragmentOverlap), 1);
    worker.balances();
}

/// The fragments of a frame's IPv4 packet that begin at these bytes of its payload.
fn in_parts(frame: &[u8], identification: u16, starts: &[usize]) -> Vec<Vec<u8>> {
    let payload = &frame[34..];
    starts
        .iter()
        .enumerate()
        .map(|(index, &start)| {
            let end = starts.get(index + 1).copied().unwrap_or(payload.len());
            let mut part = frame[..34].to_vec();
            part.extend(&payload[start..end]);
            let total = (part.len() - 14) as u16;
            part[16..18].copy_from_slice(&total.to_be_bytes());
            part[18..20].copy_from_slice(&identification.to_be_bytes());
            let more = if end < payload.len() { 0x2000 } else { 0 };
            part[20..22].copy_from_slice(&(more | (start / 8) as u16).to_be_bytes());
            part[24..26].fill(0);
            let checksum = crate::wire::checksum::of(&part[14..34]);
            part[24..26].copy_from_slice(&checksum.to_be_bytes());
            part
        })
        .collect()
}

/// The IPv4 packet that these frames are the parts of.
fn together(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = parts[0][14..34].to_vec();
    for part in parts {
        assert_eq!(crate::wire::checksum::of(&part[14..34]), 0);
        packet.extend(&part[34..]);
    }
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[6..8].fill(0);
    packet[10..12].fill(0);
    let checksum = crate::wire::checksum::of(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// [`snapshot`], where the inside interface is VLAN 7 of the outside one's device.
fn on_one_device(services: &str) -> Snapshot {
    let mut snapshot = snapshot(services);
    let mut interfaces = snapshot.interfaces.to_vec();
    interfaces[1].port = PortId(0);
    interfaces[1].vlan = Some(7);
    snapshot.interfaces = interfaces.into();
    snapshot
}

fn tagged(mut frame: Vec<u8>, vlan: u16) -> Vec<u8> {
    let tag = [0x81, 0x00, (vlan >> 8) as u8, vlan as u8];
    frame.splice(12..12, tag);
    frame
}

#[test]
fn interfaces_on_one_device_are_told_apart_by_their_tags() {
    let mut worker = TestWorker::with(on_one_device("192.0.2.1:80 nat 10.0.0.7"), 64);
    worker.receives(&syn("192.0.2.1:80"));
    let there = only(worker.transmitted_on(OUTSIDE));
    assert_eq!(there[12..16], [0x81, 0x00, 0x00, 0x07]);
    let mut untagged = there.clone();
    untagged.drain(12..16);
    assert_eq!(decode(&untagged), (CLIENT.into(), "10.0.0.7:80".into()));
    // The answer: with the tag, with a priority, with another tag, and with none.
    let answer = reply("10.0.0.7:80", CLIENT, SYN | ACK);
    for (vlan, arrives) in [(7, true), (0xe007, true), (8, false), (0, false)] {
        worker.receives(&tagged(answer.clone(), vlan));
        let back = worker.transmitted_on(OUTSIDE);
        assert_eq!(back.len(), usize::from(arrives), "VLAN {vlan:x}");
        if let Some(back) = back.first() {
            assert_eq!(decode(back), ("192.0.2.1:80".into(), CLIENT.into()), "untagged outside");
        }
    }
    assert_eq!(worker.dropped(Reason::Vlan), 1);
    // A priority tag alone is no VLAN.
    worker.receives(&tagged(tcp(CLIENT, "192.0.2.1:80", ACK), 0x6000));
    assert_eq!(worker.transmitted_on(OUTSIDE).len(), 1);
    worker.balances();
}

#[test]
fn an_error_about_a_translated_packet_reaches_the_sender_as_if_nothing_had_been_translated() {
    for mode in ["nat", "snat"] {
        let mut worker = TestWorker::serving(&format!("192.0.2.1:80 {mode} 10.0.0.7:8080"));
        worker.receives(&syn("192.0.2.1:80"));
        let there = only(worker.transmitted_on(INSIDE));
        let (from, to) = decode(&there);
        worker.receives_on(INSIDE, &reply(&to, &from, SYN | ACK));
        let back = only(worker.transmitted_on(OUTSIDE));
        // On the way to the client the answer does not fit.
        worker.receives(&icmp_error("192.0.2.1", &back[14..42]));
        let to_server = only(worker.transmitted_on(INSIDE));
        let parsed = SlicedPacket::from_ethernet(&to_server).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = parsed.transport else { panic!("no ICMP") };
        assert!(icmp.is_checksum_valid());
        let complainer = Ipv4Addr::from(<[u8; 4]>::try_from(&to_server[26..30]).unwrap());
        match mode {
            "snat" => assert_eq!(Some(complainer.to_string().as_str()), from.split(':').next()),
            _ => assert_eq!(complainer, Ipv4Addr::new(203, 0, 113, 7), "who complained"),
        }
        assert_eq!(to_server[30..34], [10, 0, 0, 7]);
        let quoted = &to_server[42..];
        let flow = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&quoted[at..at + 4]).unwrap());
        let port = |at: usize| u16::from_be_bytes([quoted[at], quoted[at + 1]]);
        assert_eq!(format!("{}:{}", flow(12), port(20)), to);
        assert_eq!(format!("{}:{}", flow(16), port(22)), from);
        assert_eq!(crate::wire::checksum::of(&quoted[..20]), 0, "the quoted header's checksum");
        // On the way to the server the client's packet did not arrive, as the server itself says.
        let mut refused = icmp_error(from.split(':').next().unwrap(), &there[14..42]);
        refused[..6].copy_from_slice(&mac_of(our_address(INSIDE)).0);
        refused[26..30].copy_from_slice(&[10, 0, 0, 7]);
        refused[24..26].fill(0);
        let checksum = crate::wire::checksum::of(&refused[14..34]);
        refused[24..26].copy_from_slice(&checksum.to_be_bytes());
        worker.receives_on(INSIDE, &refused);
        let to_client = only(worker.transmitted_on(OUTSIDE));
        assert_eq!(to_client[26..30], [192, 0, 2, 1], "the server is not shown");
        assert_eq!(to_client[30..34], [198, 51, 100, 9]);
        assert_eq!(crate::wire::checksum::of(&to_client[34..]), 0);
        assert_eq!(to_client[42 + 12..42 + 20], [198, 51, 100, 9, 192, 0, 2, 1]);
        assert_eq!(to_client[42 + 20..42 + 24], [0x9c, 0x40, 0, 80]);
        worker.balances();
    }
}

/// [`snapshot`] where stations inside use us as their gateway, with these rules of translation.
fn gateway(services: &str, nat: NatRules) -> Snapshot {
    let mut snapshot = snapshot(services);
    let mut interfaces = snapshot.interfaces.to_vec();
    interfaces[1].gateway = true;
    let stations = ["10.0.0.13", "10.0.0.14", "10.0.0.50", "2001:db8:0:2::50"].map(ip);
    let neighbours = std::sync::Arc::make_mut(&mut snapshot.neighbours);
    neighbours.extend(stations.map(|station| ((INSIDE, station), mac_of(station))));
    (snapshot.interfaces, snapshot.nat) = (interfaces.into(), std::sync::Arc::new(nat));
    snapshot
}

#[test]
fn packets_pass_a_gateway_with_one_hop_less_and_those_without_any_left_are_answered() {
    for (inside, outside) in [("10.0.0.50:5000", CLIENT), ("[2001:db8:0:2::50]:5000", CLIENT_V6)] {
        let mut worker = TestWorker::with(gateway("", NatRules::default()), 16);
        let frame = packet(INSIDE, inside, outside, Transport::Udp(b"out"));
        worker.receives_on(INSIDE, &frame);
        let sent = read(&only(worker.transmitted_on(OUTSIDE)));
        assert_eq!(sent, Read { from: inside.into(), to: outside.into(), hops: 32 });
        let mut last = frame.clone();
        let hops = if last[12..14] == [0x08, 0x00] { 22 } else { 21 };
        last[hops] = 1;
        if hops == 22 {
            last[24..26].fill(0);
            let checksum = crate::wire::checksum::of(&last[14..34]);
            last[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        worker.receives_on(INSIDE, &last);
        assert!(worker.transmitted_on(OUTSIDE).is_empty());
        let answer = only(worker.transmitted_on(INSIDE));
        let kind = if hops == 22 { answer[34] } else { answer[54] };
        assert_eq!(kind, if hops == 22 { 11 } else { 3 }, "time exceeded");
        assert_eq!(worker.dropped(Reason::TimeExceeded), 1);
        worker.balances();
    }
}

#[test]
fn a_packet_that_no_route_is_for_is_answered() {
    let mut islanded = gateway("", NatRules::default());
    islanded.routes = std::sync::Arc::new(crate::snapshot::Routes::new([]));
    let mut worker = TestWorker::with(islanded, 16);
    worker.receives_on(INSIDE, &packet(INSIDE, "10.0.0.50:5000", CLIENT, Transport::Udp(b"out")));
    assert_eq!(only(worker.transmitted_on(INSIDE))[34..36], [3, 0], "network unreachable");
    assert_eq!(worker.dropped(Reason::NoRoute), 1);
    worker.balances();
}

#[test]
fn nobody_s_packets_pass_where_we_are_no_gateway() {
    let mut worker = TestWorker::serving("");
    worker.receives_on(INSIDE, &packet(INSIDE, "10.0.0.50:5000", CLIENT, Transport::Udp(b"out")));
    worker.receives(&packet(OUTSIDE, CLIENT, "10.0.0.50:5000", Transport::Udp(b"in")));
    assert!(worker.transmitted().is_empty());
    assert_eq!(worker.dropped(Reason::NotOurAddress), 2);
}

#[test]
fn a_pair_goes_before_masquerading_and_works_from_both_sides() {
    let inside = Prefix::new(Ipv4Addr::new(10, 0, 0, 0).into(), 16);
    let rule = crate::snapshot::Masquerade {
        out: OUTSIDE,
        from: vec![inside],
        source: vec![our_address(OUTSIDE).into()],
    };
    let pair = (ip("10.0.0.13"), ip("192.0.2.13"));
    let mut snapshot = gateway("", NatRules::new([pair], vec![rule]));
    let mut services = crate::snapshot::Services::new();
    services.expect_replies_to(our_addresses(OUTSIDE)[0]);
    snapshot.services = services.into();
    let mut worker = TestWorker::with(snapshot, 16);
    let out = |from: &str| packet(INSIDE, from, CLIENT, Transport::Tcp(SYN));
    worker.receives_on(INSIDE, &out("10.0.0.13:25"));
    assert_eq!(read(&only(worker.transmitted_on(OUTSIDE))).from, "192.0.2.13:25");
    worker.receives(&packet(OUTSIDE, CLIENT, "192.0.2.13:25", Transport::Tcp(SYN)));
    assert_eq!(read(&only(worker.transmitted_on(INSIDE))).to, "10.0.0.13:25");
    worker.receives_on(INSIDE, &out("10.0.0.14:25"));
    let masqueraded = read(&only(worker.transmitted_on(OUTSIDE)));
    assert!(masqueraded.from.starts_with("192.0.2.2:"));
    worker.receives(&packet(OUTSIDE, CLIENT, &masqueraded.from, Transport::Tcp(SYN | ACK)));
    assert_eq!(read(&only(worker.transmitted_on(INSIDE))).to, "10.0.0.14:25");
    worker.balances();
}

#[test]
fn a_masqueraded_echo_comes_back_to_who_asked() {
    let inside = Prefix::new(Ipv4Addr::new(10, 0, 0, 0).into(), 16);
    let rule = crate::snapshot::Masquerade {
        out: OUTSIDE,
        from: vec![inside],
        source: vec![our_address(OUTSIDE).into()],
    };
    let mut snapshot = gateway("", NatRules::new([], vec![rule]));
    let mut services = crate::snapshot::Services::new();
    services.expect_replies_to(our_addresses(OUTSIDE)[0]);
    snapshot.services = services.into();
    let mut worker = TestWorker::with(snapshot, 16);
    let mut asked = Vec::new();
    ethernet(Ipv4Addr::new(10, 0, 0, 50), INSIDE)
        .ipv4([10, 0, 0, 50], [198, 51, 100, 9], 9)
        .icmpv4_echo_request(77, 1)
        .write(&mut asked, b"ping")
        .unwrap();
    worker.receives_on(INSIDE, &asked);
    let sent = only(worker.transmitted_on(OUTSIDE));
    assert_eq!(sent[26..30], our_address(OUTSIDE).octets());
    assert_eq!(crate::wire::checksum::of(&sent[34..]), 0);
    let identifier = u16::from_be_bytes([sent[38], sent[39]]);
    let mut answer = Vec::new();
    ethernet(GATEWAY, OUTSIDE)
        .ipv4([198, 51, 100, 9], our_address(OUTSIDE).octets(), 9)
        .icmpv4_echo_reply(identifier, 1)
        .write(&mut answer, b"ping")
        .unwrap();
    worker.receives(&answer);
    let back = only(worker.transmitted_on(INSIDE));
    assert_eq!((&back[30..34], &back[38..40]), (&[10, 0, 0, 50][..], &[0, 77][..]));
    assert_eq!(crate::wire::checksum::of(&back[34..]), 0);
    worker.balances();
}

#[test]
fn a_server_reaches_its_own_service_only_with_hairpin() {
    let of_server = |port: u16| {
        packet(INSIDE, &format!("10.0.0.7:{port}"), "192.0.2.1:80", Transport::Tcp(SYN))
    };
    let mut plain = TestWorker::serving("192.0.2.1:80 nat 10.0.0.8");
    plain.receives_on(INSIDE, &of_server(5_000));
    // The other server would answer this one directly, past us (FWD-10).
    assert_eq!(read(&only(plain.transmitted_on(INSIDE))).from, "10.0.0.7:5000");
    let mut hairpin = TestWorker::serving("192.0.2.1:80 nat hairpin 10.0.0.7 10.0.0.8");
    for port in [5_000, 5_001] {
        hairpin.receives_on(INSIDE, &of_server(port));
        let there = read(&only(hairpin.transmitted_on(INSIDE)));
        assert!(there.from.starts_with("10.0.0.2:"), "{there:?}");
        let answer = packet(INSIDE, &there.to, &there.from, Transport::Tcp(SYN | ACK));
        hairpin.receives_on(INSIDE, &answer);
        let back = read(&only(hairpin.transmitted_on(INSIDE)));
        assert_eq!((back.from, back.to), ("192.0.2.1:80".into(), format!("10.0.0.7:{port}")));
    }
    hairpin.balances();
}

#[test]
fn a_tunnel_s_syn_offers_what_fits_when_told() {
    let mut worker = TestWorker::serving("192.0.2.1:80 tun clamp 10.0.0.7");
    let (from, to) = (address(CLIENT), address("192.0.2.1:80"));
    let mut tcp = etherparse::TcpHeader::new(from.port(), to.port(), 7, 1000);
    tcp.syn = true;
    tcp.set_options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1460)]).unwrap();
    let mut frame = Vec::new();
    ethernet(GATEWAY, OUTSIDE)
        .ipv4(from.ip().octets(), to.ip().octets(), 33)
        .tcp_header(tcp)
        .write(&mut frame, b"")
        .unwrap();
    worker.receives(&frame);
    let sent = only(worker.transmitted_on(INSIDE));
    read_ip(&sent[34..]);
    assert_eq!(sent[74..78], [2, 4, 0x05, 0xa0], "1440 of 1500 less 20 outside");
}

#[test]
fn every_datagram_is_scheduled_on_its_own_and_answers_find_the_client() {
    let mut worker = TestWorker::serving("192.0.2.1:53/udp dr ops 10.0.0.7 10.0.0.8");
    let servers: Vec<_> = (0..100)
        .map(|_| worker.server_of(&udp(CLIENT, "192.0.2.1:53", b"x")).octets()[3])
        .collect();
    assert_eq!(servers.iter().filter(|&&last| last == 7).count(), 50);
    assert_eq!(worker.counters.flows.get(), 0);
    worker.balances();
}
