//! What a whole turn does to frames, seen from the wires.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::punt::{Command, Event, FlowFilter, FlowState};
use crate::testing::{GATEWAY, INSIDE, OUTSIDE, TestWorker, mac_of, our_address, snapshot};
use crate::wire::ethernet::ethertype;

const CLIENT: &str = "198.51.100.9:40000";
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;

fn address(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

/// A frame for our interface `to`, from the station at `station`.
fn ethernet(
    station: Ipv4Addr,
    to: InterfaceId,
) -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2(mac_of(station).0, mac_of(our_address(to)).0)
}

fn tcp_with(
    station: Ipv4Addr,
    interface: InterfaceId,
    from: &str,
    to: &str,
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let (from, to) = (address(from), address(to));
    let mut tcp = etherparse::TcpHeader::new(from.port(), to.port(), 7, 1000);
    (tcp.fin, tcp.syn, tcp.ack) = (flags & FIN != 0, flags & SYN != 0, flags & ACK != 0);
    let builder =
        ethernet(station, interface).ipv4(from.ip().octets(), to.ip().octets(), 33).tcp_header(tcp);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// A client's packet, as the gateway hands it to us.
fn tcp(from: &str, to: &str, flags: u8) -> Vec<u8> {
    tcp_with(GATEWAY, OUTSIDE, from, to, flags, b"hello")
}

fn syn(to: &str) -> Vec<u8> {
    tcp(CLIENT, to, SYN)
}

/// A packet that a server sends through us.
fn reply(from: &str, to: &str, flags: u8) -> Vec<u8> {
    tcp_with(*address(from).ip(), INSIDE, from, to, flags, b"world")
}

fn udp_with(
    station: Ipv4Addr,
    interface: InterfaceId,
    from: &str,
    to: &str,
    payload: &[u8],
) -> Vec<u8> {
    let (from, to) = (address(from), address(to));
    let builder = ethernet(station, interface)
        .ipv4(from.ip().octets(), to.ip().octets(), 33)
        .udp(from.port(), to.port());
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn udp(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    udp_with(GATEWAY, OUTSIDE, from, to, payload)
}

fn echo_request(to: Ipv4Addr, number: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let from = address(CLIENT).ip().octets();
    let builder =
        ethernet(GATEWAY, OUTSIDE).ipv4(from, to.octets(), 9).icmpv4_echo_request(1, number);
    builder.write(&mut frame, b"ping").unwrap();
    frame
}

/// "Fragmentation needed" about the packet that begins with `quoted`, for a destination outside.
fn icmp_error(to: &str, quoted: &[u8]) -> Vec<u8> {
    let to: Ipv4Addr = to.parse().unwrap();
    let mut frame = Vec::new();
    let too_big =
        etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1_400 };
    ethernet(GATEWAY, OUTSIDE)
        .ipv4([203, 0, 113, 7], to.octets(), 9)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(too_big))
        .write(&mut frame, quoted)
        .unwrap();
    frame
}

/// Source and destination with ports, after every checksum was found right by a decoder that is not ours.
fn decode(frame: &[u8]) -> (String, String) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 header checksum");
    let (source, destination) = match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            assert_eq!(
                tcp.checksum(),
                tcp.calc_checksum_ipv4(header.source, header.destination).unwrap(),
                "TCP checksum"
            );
            (tcp.source_port(), tcp.destination_port())
        }
        TransportSlice::Udp(udp) => {
            let expected = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
            assert!(udp.checksum() == 0 || udp.checksum() == expected, "UDP checksum");
            (udp.source_port(), udp.destination_port())
        }
        other => panic!("{other:?}"),
    };
    let show = |address: [u8; 4], port| SocketAddrV4::new(address.into(), port).to_string();
    (show(header.source, source), show(header.destination, destination))
}

fn macs(frame: &[u8]) -> (&[u8], &[u8]) {
    (&frame[..6], &frame[6..12])
}

impl TestWorker {
    /// Where a client's packet is sent on to: the hardware address's last four bytes are the server's.
    fn server_of(&mut self, frame: &[u8]) -> Ipv4Addr {
        self.receives(frame);
        let sent = self.transmitted_on(INSIDE);
        let [frame] = &sent[..] else { panic!("{} frames", sent.len()) };
        let [_, _, a, b, c, d, ..] = frame[..] else { panic!("no address") };
        Ipv4Addr::new(a, b, c, d)
    }

    fn balances(&self) {
        assert_eq!(self.counters.imbalance(), 0);
        assert_eq!(
            self.buffers_out() as i64,
            self.counters.waiting.get(),
            "every other buffer is home"
        );
    }
}

#[test]
fn a_packet_for_a_port_without_a_service_is_dropped_and_counted() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7");
    worker.receives(&syn("192.0.2.1:81"));
    assert!(worker.transmitted().is_empty());
    assert_eq!(worker.dropped(Reason::NoService), 1);
    worker.balances();
}

#[test]
fn direct_return_changes_the_two_hardware_addresses_and_nothing_else() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7");
    let mut frame = syn("192.0.2.1:80");
    frame.extend([0xaa; 7]); // padding, too, stays as it is
    worker.receives(&frame);
    let sent = worker.transmitted_on(INSIDE);
    let expected = (&mac_of(Ipv4Addr::new(10, 0, 0, 7)).0[..], &mac_of(our_address(INSIDE)).0[..]);
    assert_eq!(macs(&sent[0]), expected);
    assert_eq!(sent[0][12..], frame[12..]);
    worker.balances();
}

#[test]
fn nat_translates_the_destination_and_the_reply_s_source() {
    let mut worker = TestWorker::serving("192.0.2.1:80 nat 10.0.0.7:8080");
    worker.receives(&syn("192.0.2.1:80"));
    let sent = worker.transmitted_on(INSIDE);
    assert_eq!(decode(&sent[0]), (CLIENT.into(), "10.0.0.7:8080".into()));
    worker.receives_on(INSIDE, &reply("10.0.0.7:8080", CLIENT, SYN | ACK));
    let sent = worker.transmitted_on(OUTSIDE);
    assert_eq!(decode(&sent[0]), ("192.0.2.1:80".into(), CLIENT.into()));
    assert_eq!(macs(&sent[0]).0, mac_of(GATEWAY).0, "by the route to the client");
    worker.balances();
}

#[test]
fn nat_without_a_port_keeps_the_one_that_the_client_used() {
    let mut worker = TestWorker::serving("192.0.2.1:* nat 10.0.0.7");
    worker.receives(&syn("192.0.2.1:8443"));
    assert_eq!(decode(&worker.transmitted()[0]).1, "10.0.0.7:8443");
    worker.receives_on(INSIDE, &reply("10.0.0.7:8443", CLIENT, ACK));
    assert_eq!(decode(&worker.transmitted()[0]).0, "192.0.2.1:8443");
}

#[test]
fn nat_leaves_checksums_right_for_every_length_in_both_directions() {
    let mut worker =
        TestWorker::serving("192.0.2.1:53/udp nat 10.0.0.7:5353\n192.0.2.1:80 nat 10.0.0.8:8080");
    let bytes: Vec<u8> =
        (0..1500u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for length in 0..=1472 {
        worker.receives(&udp(CLIENT, "192.0.2.1:53", &bytes[..length]));
        worker.receives_on(
            INSIDE,
            &udp_with(
                Ipv4Addr::new(10, 0, 0, 7),
                INSIDE,
                "10.0.0.7:5353",
                CLIENT,
                &bytes[..length],
            ),
        );
    }
    for length in 0..=1460 {
        worker.receives(&tcp_with(GATEWAY, OUTSIDE, CLIENT, "192.0.2.1:80", ACK, &bytes[..length]));
        worker.receives_on(
            INSIDE,
            &tcp_with(
                Ipv4Addr::new(10, 0, 0, 8),
                INSIDE,
                "10.0.0.8:8080",
                CLIENT,
                ACK,
                &bytes[..length],
            ),
        );
    }
    let sent = worker.transmitted();
    assert_eq!(sent.len(), 2 * (1473 + 1461));
    sent.iter().for_each(|frame| drop(decode(frame)));
    worker.balances();
}

#[test]
fn a_udp_datagram_without_a_checksum_gets_none() {
    let mut worker = TestWorker::serving("192.0.2.1:53/udp nat 10.0.0.7:5353");
    let mut frame = udp(CLIENT, "192.0.2.1:53", b"question");
    frame[40..42].fill(0);
    worker.receives(&frame);
    assert_eq!(worker.transmitted()[0][40..42], [0, 0]);
}

#[test]
fn a_tunnelled_packet_travels_untouched_in_a_valid_outer_one() {
    let mut worker = TestWorker::serving("192.0.2.1:80 tun 10.0.0.7");
    let mut frame = syn("192.0.2.1:80");
    let inner = frame[14..].to_vec();
    frame.extend([0xaa; 9]); // Ethernet's padding is not part of the packet
    worker.receives(&frame);
    let sent = worker.transmitted_on(INSIDE);
    let (outer, rest) = etherparse::Ipv4Header::from_slice(&sent[0][14..]).unwrap();
    assert_eq!(outer.header_checksum, outer.calc_header_checksum());
    assert_eq!((outer.source, outer.destination), (our_address(INSIDE).octets(), [10, 0, 0, 7]));
    assert_eq!((outer.protocol.0, outer.time_to_live, outer.dont_fragment), (4, 64, true));
    assert_eq!(usize::from(outer.total_len), 20 + inner.len());
    assert_eq!(rest, inner);
    worker.balances();
}

/// The same frame with "don't fragment" taken off.
fn fragmentable(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] &= !0x40;
    frame[24..26].fill(0);
    let checksum = crate::wire::checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

#[test]
fn packets_that_may_be_fragmented_get_different_identifications_outside() {
    let mut worker = TestWorker::serving("192.0.2.1:53/udp tun 10.0.0.7");
    let frame = fragmentable(udp(CLIENT, "192.0.2.1:53", b"x"));
    (0..100).for_each(|_| worker.receives(&frame));
    let sent = worker.transmitted();
    let numbers: std::collections::HashSet<_> =
        sent.iter().map(|frame| [frame[18], frame[19]]).collect();
    assert_eq!(numbers.len(), 100);
    assert!(sent.iter().all(|frame| frame[20] & 0x40 == 0), "may be fragmented outside as inside");
}

#[test]
fn a_packet_too_big_for_the_tunnel_is_answered_with_fragmentation_needed() {
    let mut worker = TestWorker::serving("192.0.2.1:53/udp tun 10.0.0.7");
    let frame = udp(CLIENT, "192.0.2.1:53", &[7; 1472]);
    worker.receives(&frame);
    assert!(worker.transmitted_on(INSIDE).is_empty());
    assert_eq!(worker.dropped(Reason::TooBig), 1);
    let sent = worker.transmitted_on(OUTSIDE);
    assert_eq!(macs(&sent[0]), (&mac_of(GATEWAY).0[..], &mac_of(our_address(OUTSIDE)).0[..]));
    let packet = SlicedPacket::from_ethernet(&sent[0]).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
    assert_eq!(ip.header().source_addr(), our_address(OUTSIDE));
    assert_eq!(ip.header().destination_addr(), *address(CLIENT).ip());
    let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else { panic!("no ICMP") };
    assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
    let needed =
        etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1480 };
    assert_eq!(icmp.icmp_type(), etherparse::Icmpv4Type::DestinationUnreachable(needed));
    assert_eq!(icmp.payload(), &frame[14..14 + 28], "quotes the header and eight bytes");
    worker.balances();
}

#[test]
fn a_packet_too_big_for_the_tunnel_that_may_be_fragmented_is() {
    let mut worker = TestWorker::serving("192.0.2.1:53/udp tun 10.0.0.7");
    let frame = fragmentable(udp(
        CLIENT,
        "192.0.2.1:53",
        &(0..1472u32).map(|at| at as u8).collect::<Vec<_>>(),
    ));
    worker.receives(&frame);
    let sent = worker.transmitted_on(INSIDE);
    assert_eq!(sent.len(), 2);
    let mut inner = vec![0; 1500];
    for part in &sent {
        assert!(part.len() <= 1514);
        let (outer, rest) = etherparse::Ipv4Header::from_slice(&part[14..]).unwrap();
        assert_eq!(outer.header_checksum, outer.calc_header_checksum());
        assert_eq!(usize::from(outer.total_len), part.len() - 14);
        let at = usize::from(outer.fragment_offset.value()) * 8;
        inner[at..at + rest.len()].copy_from_slice(rest);
        assert_eq!(outer.more_fragments, at == 0);
    }
    assert_eq!(sent[0][18..20], sent[1][18..20], "one identification");
    assert_eq!(inner, frame[14..]);
    worker.balances();
}

#[test]
fn a_flow_keeps_its_server_and_new_flows_take_turns() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7 10.0.0.8 10.0.0.9");
    let client = |port: u16| format!("198.51.100.9:{port}");
    let servers: Vec<_> =
        (0..300).map(|port| worker.server_of(&tcp(&client(port), "192.0.2.1:80", SYN))).collect();
    for last in [7, 8, 9] {
        assert_eq!(servers.iter().filter(|server| server.octets()[3] == last).count(), 100);
    }
    for (port, server) in (0..).zip(servers) {
        assert_eq!(worker.server_of(&tcp(&client(port), "192.0.2.1:80", ACK)), server);
    }
    worker.balances();
}

#[test]
fn a_schedule_goes_on_where_it_was_when_the_configuration_changes() {
    let services = "192.0.2.1:80 dr 10.0.0.7 10.0.0.8 10.0.0.9";
    let mut worker = TestWorker::serving(services);
    let last = |worker: &mut TestWorker, port| {
        worker.server_of(&tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", SYN)).octets()[3]
    };
    let first = last(&mut worker, 1);
    worker.reconfigure(services, 2);
    let second = last(&mut worker, 2);
    assert_eq!([first, second], [7, 8]);
    assert_eq!(last(&mut worker, 1), 7, "and flows stay where they are");
}

#[test]
fn a_server_without_weight_gets_no_new_flows_and_keeps_its_old_ones() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7*1 10.0.0.8*1");
    let old = tcp("198.51.100.9:1", "192.0.2.1:80", SYN);
    let server = worker.server_of(&old);
    let weights =
        if server.octets()[3] == 7 { "10.0.0.7*0 10.0.0.8*1" } else { "10.0.0.7*1 10.0.0.8*0" };
    worker.reconfigure(&format!("192.0.2.1:80 dr {weights}"), 2);
    assert_eq!(worker.server_of(&tcp("198.51.100.9:1", "192.0.2.1:80", ACK)), server);
    for port in 2..20 {
        assert_ne!(
            worker.server_of(&tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", SYN)),
            server
        );
    }
}

#[test]
fn a_flow_whose_server_was_removed_goes_to_another() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7");
    worker.server_of(&syn("192.0.2.1:80"));
    let mut next = snapshot("192.0.2.1:80 dr 10.0.0.8");
    next.generation = 2;
    let successor = ServerIdOf(&next).successor();
    next.servers = [Some(successor.clone())].into();
    let mut services = crate::snapshot::Services::new();
    let service = next.services.service(successor.service).unwrap().clone();
    let virtual_address = Ipv4Addr::new(192, 0, 2, 1).into();
    services.publish(virtual_address, crate::snapshot::Protocol::Tcp, (80, 80), service.id);
    let candidates = crate::snapshot::Candidates::new([(successor.id, 1)]);
    services.insert(crate::snapshot::Service { candidates, ..service });
    next.services = services.into();
    worker.publisher.publish(next);
    assert_eq!(worker.server_of(&tcp(CLIENT, "192.0.2.1:80", ACK)), Ipv4Addr::new(10, 0, 0, 8));
    assert_eq!(worker.counters.flows.get(), 1);
}

/// The first server of a snapshot, as one that took over its slot.
struct ServerIdOf<'s>(&'s Snapshot);

impl ServerIdOf<'_> {
    fn successor(&self) -> crate::snapshot::Server {
        let mut server = self.0.servers[0].clone().unwrap();
        server.id = crate::snapshot::ServerId::new(server.id.slot() as u16, 1);
        server
    }
}

#[test]
fn a_server_s_packet_that_belongs_to_no_flow_is_dropped() {
    let mut worker = TestWorker::serving("192.0.2.1:80 nat 10.0.0.7:8080");
    worker.receives_on(INSIDE, &reply("10.0.0.7:8080", CLIENT, ACK));
    assert!(worker.transmitted().is_empty());
    assert_eq!(worker.dropped(Reason::NoFlow), 1);
    worker.balances();
}

#[test]
fn two_flows_that_a_server_could_not_tell_apart_are_not_both_made() {
    let mut worker =
        TestWorker::serving("192.0.2.1:80 nat 10.0.0.7:8080\n192.0.2.1:81 nat 10.0.0.7:8080");
    worker.receives(&syn("192.0.2.1:80"));
    worker.receives(&syn("192.0.2.1:81"));
    assert_eq!(worker.dropped(Reason::AmbiguousFlow), 1);
    worker.receives_on(INSIDE, &reply("10.0.0.7:8080", CLIENT, ACK));
    assert_eq!(decode(&worker.transmitted_on(OUTSIDE)[0]).0, "192.0.2.1:80");
}

#[test]
fn a_packet_in_mid_flow_that_nobody_remembers_always_goes_to_the_same_server() {
    let services = "192.0.2.1:80 dr 10.0.0.7 10.0.0.8 10.0.0.9";
    let [mut one, mut other] = [TestWorker::serving(services), TestWorker::serving(services)];
    for port in 0..100 {
        let frame = tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", ACK);
        assert_eq!(one.server_of(&frame), other.server_of(&frame));
    }
}

#[test]
fn a_full_table_never_stops_direct_return() {
    let mut worker = TestWorker::with(snapshot("192.0.2.1:80 dr 10.0.0.7 10.0.0.8"), 16);
    for port in 0..1_000 {
        worker.server_of(&tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", SYN));
    }
    assert!(worker.counters.forwarded_without_flow.get() >= 900);
    assert!(worker.counters.flows.get() <= 16);
    worker.balances();
}

#[test]
fn a_full_table_drops_new_nat_flows_and_says_so_until_half_open_ones_give_way() {
    let mut worker = TestWorker::with(snapshot("192.0.2.1:80 nat 10.0.0.7"), 16);
    for port in 0..1_000 {
        worker.receives(&tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", SYN));
    }
    assert!(worker.dropped(Reason::FlowTableFull) >= 900);
    worker.passes(Duration::from_millis(1_500));
    let dropped = worker.dropped(Reason::FlowTableFull);
    let made = worker.counters.flows_created.get();
    for port in 2_000..2_005 {
        worker.receives(&tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", SYN));
    }
    assert!(
        worker.counters.flows_created.get() > made,
        "{}",
        worker.dropped(Reason::FlowTableFull) - dropped
    );
    worker.balances();
}

#[test]
fn a_frame_for_an_unresolved_neighbour_waits_and_leaves_when_it_is_known() {
    let mut unresolved = snapshot("192.0.2.1:80 dr 10.0.0.7");
    let mut server = unresolved.servers[0].clone().unwrap();
    let resolved = unresolved.clone();
    server.hop.mac = None;
    unresolved.servers = [Some(server)].into();
    unresolved.neighbours = Default::default();
    let mut worker = TestWorker::with(unresolved, 16);
    worker.receives(&syn("192.0.2.1:80"));
    assert!(worker.transmitted().is_empty());
    let question =
        Event::Unresolved { interface: INSIDE, address: Ipv4Addr::new(10, 0, 0, 7).into() };
    assert_eq!(worker.control.events.pop(), Ok(question));
    worker.balances();
    worker.publisher.publish(Snapshot { generation: 2, ..resolved });
    worker.turn();
    assert_eq!(worker.transmitted_on(INSIDE).len(), 1);
    worker.balances();
}

#[test]
fn frames_for_a_neighbour_that_never_answers_are_few_and_dropped_in_time() {
    let mut unresolved = snapshot("192.0.2.1:80 dr 10.0.0.7");
    let mut server = unresolved.servers[0].clone().unwrap();
    server.hop.mac = None;
    unresolved.servers = [Some(server)].into();
    unresolved.neighbours = Default::default();
    let mut worker = TestWorker::with(unresolved, 1_024);
    for port in 0..100 {
        worker.receives(&tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", SYN));
    }
    assert_eq!(worker.counters.waiting.get(), 16);
    assert_eq!(worker.dropped(Reason::UnresolvedQueueFull), 84);
    worker.balances();
    worker.passes(Duration::from_secs(2));
    assert_eq!(worker.dropped(Reason::Unresolved), 16);
    worker.balances();
}

/// An ARP message, which no worker reads.
fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac_of(GATEWAY).0);
    frame.extend(ethertype::ARP.to_be_bytes());
    frame.extend([0; 28]);
    frame
}

#[test]
fn arp_and_echo_requests_for_us_go_to_the_control_plane_and_others_do_not() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7");
    worker.receives(&arp());
    assert_eq!(worker.control.punted.pop().unwrap().bytes(), arp());
    let echo = |to: Ipv4Addr| {
        let mut frame = Vec::new();
        let from = address(CLIENT).ip().octets();
        ethernet(GATEWAY, OUTSIDE)
            .ipv4(from, to.octets(), 9)
            .icmpv4_echo_request(1, 2)
            .write(&mut frame, b"ping")
            .unwrap();
        frame
    };
    for ours in [our_address(OUTSIDE), Ipv4Addr::new(192, 0, 2, 1)] {
        worker.receives(&echo(ours));
        assert_eq!(worker.control.punted.pop().unwrap().bytes(), echo(ours));
    }
    worker.receives(&echo(Ipv4Addr::new(192, 0, 2, 77)));
    assert!(worker.control.punted.is_empty());
    assert_eq!(worker.dropped(Reason::NotOurAddress), 1);
    assert_eq!(worker.counters.punted.get(), 3);
    worker.balances();
}

#[test]
fn a_flood_of_one_class_is_limited_and_leaves_room_for_the_other() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7");
    let echo = echo_request(our_address(OUTSIDE), 2);
    (0..10_000).for_each(|_| worker.receives(&echo));
    assert_eq!(worker.dropped(Reason::PuntRateLimited), 10_000 - 128);
    let mut arp = echo.clone();
    arp[12..14].copy_from_slice(&ethertype::ARP.to_be_bytes());
    worker.receives(&arp);
    assert_eq!(worker.counters.punted.get(), 129);
    worker.balances();
}

#[test]
fn frames_from_the_control_plane_are_sent_as_they_are() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7");
    let frame = syn("192.0.2.1:80");
    worker.control.inject.push(crate::punt::Copied::of(INSIDE, &frame).unwrap()).ok().unwrap();
    worker.turn();
    assert_eq!(worker.transmitted_on(INSIDE), [frame]);
    worker.balances();
}

#[test]
fn what_a_full_transmit_queue_refuses_is_dropped_and_counted() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7");
    worker.limit_transmission(INSIDE, 3);
    for port in 0..10 {
        worker.receives(&tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", SYN));
    }
    assert_eq!(worker.transmitted().len(), 3);
    assert_eq!(worker.dropped(Reason::TransmitQueueFull), 7);
    worker.balances();
}

#[test]
fn flows_are_listed_as_they_are_and_end_when_their_time_is_over() {
    let mut worker = TestWorker::serving("192.0.2.1:80 nat 10.0.0.7\n192.0.2.1:53/udp dr 10.0.0.8");
    worker.receives(&syn("192.0.2.1:80"));
    worker.receives(&tcp(CLIENT, "192.0.2.1:80", ACK));
    worker.receives(&udp(CLIENT, "192.0.2.1:53", b"question"));
    let list = |worker: &mut TestWorker, filter| {
        worker
            .control
            .commands
            .push(Command::ListFlows { question: 5, filter, limit: 10 })
            .ok()
            .unwrap();
        worker.turn();
        let mut flows = Vec::new();
        loop {
            match worker.control.events.pop().unwrap() {
                Event::Flow { question: 5, flow } => flows.push((flow.state, flow.packets)),
                Event::FlowsListed { question: 5 } => return flows,
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(
        list(&mut worker, FlowFilter::default()),
        [(FlowState::Established, 2), (FlowState::Datagrams, 1)]
    );
    let of_service = FlowFilter {
        service: Some(crate::snapshot::ServiceId::new(1, 0)),
        ..FlowFilter::default()
    };
    assert_eq!(list(&mut worker, of_service), [(FlowState::Datagrams, 1)]);
    (0..40).for_each(|_| worker.passes(Duration::from_secs(10)));
    assert_eq!(
        list(&mut worker, FlowFilter::default()),
        [(FlowState::Established, 2)],
        "UDP: 300 s"
    );
    (0..60).for_each(|_| worker.passes(Duration::from_secs(10)));
    assert_eq!(list(&mut worker, FlowFilter::default()), [], "TCP: 900 s");
    assert_eq!(worker.counters.flows.get(), 0);
}

#[test]
fn a_connection_that_ended_is_forgotten_sooner_and_a_new_one_on_its_ports_gets_a_fresh_choice() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7 10.0.0.8");
    let first = worker.server_of(&syn("192.0.2.1:80"));
    assert_eq!(worker.server_of(&tcp(CLIENT, "192.0.2.1:80", FIN | ACK)), first);
    assert_eq!(worker.server_of(&tcp(CLIENT, "192.0.2.1:80", ACK)), first);
    assert_ne!(worker.server_of(&syn("192.0.2.1:80")), first);
    worker.server_of(&tcp(CLIENT, "192.0.2.1:80", FIN | ACK));
    (0..14).for_each(|_| worker.passes(Duration::from_secs(10)));
    assert_eq!(worker.counters.flows.get(), 0);
}

#[test]
fn malformed_frames_are_dropped_each_for_its_reason() {
    let good = syn("192.0.2.1:80");
    let spoilt = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        frame
    };
    let mended = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = spoilt(change);
        frame[24..26].fill(0);
        let checksum = crate::wire::checksum::of(&frame[14..34]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame
    };
    let cases: Vec<(Reason, Vec<u8>)> = vec![
        (Reason::Truncated, good[..13].to_vec()),
        (Reason::Truncated, good[..20].to_vec()),
        (Reason::Truncated, good[..good.len() - 1].to_vec()),
        (Reason::Malformed, spoilt(&|frame| frame[14] = 0x44)),
        (Reason::Malformed, spoilt(&|frame| frame[14] = 0x65)),
        (Reason::BadChecksum, spoilt(&|frame| frame[22] ^= 1)),
        (Reason::FragmentWithoutFirst, mended(&|frame| frame[21] = 1)),
        (Reason::BadFlags, spoilt(&|frame| frame[47] = 0x03)),
        (Reason::BadTransportChecksum, spoilt(&|frame| frame[50] ^= 1)),
        (Reason::NotTcpOrUdp, mended(&|frame| frame[23] = 132)),
        (Reason::BadSource, mended(&|frame| frame[26..30].copy_from_slice(&[127, 0, 0, 1]))),
        (Reason::BadSource, mended(&|frame| frame[26..30].copy_from_slice(&[224, 0, 0, 1]))),
        (Reason::Land, mended(&|frame| frame[26..30].copy_from_slice(&[192, 0, 2, 1]))),
        (Reason::BadSource, mended(&|frame| frame[26..30].copy_from_slice(&[10, 0, 0, 2]))),
        (Reason::Malformed, spoilt(&|frame| frame[46] = 0x40)),
        (Reason::Truncated, spoilt(&|frame| frame[46] = 0xf0)),
        (Reason::NotOurMac, spoilt(&|frame| frame[5] ^= 1)),
        (Reason::NotOurMac, spoilt(&|frame| frame[..6].fill(0xff))),
        (Reason::Vlan, spoilt(&|frame| frame[12..14].copy_from_slice(&[0x81, 0]))),
        (Reason::NotIp, spoilt(&|frame| frame[12..14].copy_from_slice(&[0x88, 0xcc]))),
        (Reason::Malformed, spoilt(&|frame| frame[12..14].copy_from_slice(&[0x86, 0xdd]))),
        (Reason::NotOurAddress, mended(&|frame| frame[30..34].copy_from_slice(&[8, 8, 8, 8]))),
        (Reason::Oversize, tcp_with(GATEWAY, OUTSIDE, CLIENT, "192.0.2.1:80", ACK, &[0; 1461])),
    ];
    for (reason, frame) in cases {
        let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7");
        worker.receives(&frame);
        assert_eq!(worker.dropped(reason), 1, "{reason:?}");
        assert!(worker.transmitted().is_empty());
        worker.balances();
    }
}

mod changes;

mod families;

mod ftp;

mod hostile;

mod local;

mod reference;

mod segment;

mod settled;

mod signals;

mod syn_flood;

mod workers;
