//! Capture file to capture file through the real program (configs/replay.toml).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sluice_tests::appliance::Appliance;
use sluice_tests::books::Books;
use sluice_tests::capture;
use sluice_tests::decode::{Ends, Packet, Transport, internet_checksum, packet, packet_bytes};
use sluice_tests::namespace::{Namespace, parse_mac, remove_leftovers};
use sluice_tests::process::eventually;

const CONFIGURATION: &str = include_str!("../configs/replay.toml");
/// NAT with nobody to take turns with.
const ONE_SERVER: &str = r#"
[[service]]
name = "by-nat"
address = "10.1.0.101"
ports = "80"
protocol = "tcp+udp"
mode = "nat"

  [[service.server]]
  address = "10.1.0.21"
  port = 8080
"#;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
const DIRECT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
const TRANSLATED: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 101);
const TUNNELLED: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 102);

/// The address that DPDK gives its first capture device.
fn own_mac() -> [u8; 6] {
    parse_mac("02:70:63:61:70:00")
}

/// The address that configs/replay.toml has for 10.1.0.`host`.
fn mac_of(host: u8) -> [u8; 6] {
    parse_mac(&format!("02:00:00:00:00:{host:02}"))
}

/// From the client's `port` to a service.
fn ends(port: u16, service: Ipv4Addr) -> Ends {
    Ends {
        macs: [mac_of(10), own_mac()],
        source: SocketAddrV4::new(CLIENT, port),
        destination: SocketAddrV4::new(service, 80),
    }
}

/// Runs `frames` through the program and returns what it sent, and its books.
fn replay(frames: &[Vec<u8>]) -> (Vec<Vec<u8>>, Books) {
    replay_with(CONFIGURATION, frames)
}

fn replay_with(configuration: &str, frames: &[Vec<u8>]) -> (Vec<Vec<u8>>, Books) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    if number == 0 {
        remove_leftovers();
    }
    let name = format!("{}.replay{number}", std::process::id());
    let namespace = Namespace::new(&name, "appliance");
    let directory = tempfile::tempdir().expect("temporary files can be written");
    let file = |name: &str| directory.path().join(name);
    capture::write(&file("in.pcap"), frames);
    let mut appliance = Appliance::new(&namespace, &file("appliance"));
    let placed = |name: &str| format!("={}", file(name).display());
    appliance.configure(
        &configuration
            .replace("=in.pcap", &placed("in.pcap"))
            .replace("=out.pcap", &placed("out.pcap")),
    );
    appliance.start();
    let all = frames.len() as u64;
    let through = || (appliance.books().received >= all).then_some(());
    let there = eventually(Duration::from_secs(20), through).is_some();
    assert!(there, "{all} frames were to be read: {}\n{}", appliance.books(), appliance.log());
    let books = Books::closed(&appliance);
    appliance.stop();
    (capture::read(Path::new(&file("out.pcap"))), books)
}

fn decoded(frame: &[u8]) -> Packet {
    Packet::of(frame)
        .unwrap_or_else(|wrong| panic!("{wrong} in {frame:02x?}"))
        .unwrap_or_else(|| panic!("not IPv4: {frame:02x?}"))
}

/// Thirty connections' first three packets, for one service.
fn connections(service: Ipv4Addr) -> Vec<Vec<u8>> {
    (0..30)
        .flat_map(|number| {
            let ends = ends(40_000 + number, service);
            [ends.tcp("S", b""), ends.tcp("A", b""), ends.tcp("PA", b"GET / HTTP/1.0\r\n\r\n")]
        })
        .collect()
}

#[test]
fn direct_return_changes_the_hardware_addresses_alone_and_takes_turns() {
    let frames = connections(DIRECT);
    let (sent, _) = replay(&frames);
    assert_eq!(sent.len(), frames.len());
    for (number, (before, after)) in frames.iter().zip(&sent).enumerate() {
        assert_eq!(before[12..], after[12..], "frame {number}");
        assert_eq!(after[6..12], own_mac());
        let connection = number / 3;
        assert_eq!(after[..6], mac_of([21, 22, 23][connection % 3]), "connection {connection}");
    }
}

#[test]
fn nat_rewrites_the_destination_and_takes_turns() {
    let frames = connections(TRANSLATED);
    let (sent, _) = replay(&frames);
    assert_eq!(sent.len(), frames.len());
    for (number, (before, after)) in frames.iter().zip(&sent).enumerate() {
        let host = [21, 22, 23][number / 3 % 3];
        let (before, after) = (decoded(before), decoded(after));
        assert_eq!(after.source(), before.source());
        assert_eq!(
            after.destination(),
            Some(SocketAddrV4::new([10, 1, 0, host].into(), 8080).into())
        );
        assert_eq!(after.data(), before.data());
        assert_eq!(after.ethernet.destination, mac_of(host));
    }
}

#[test]
fn a_tunnel_leaves_the_inner_packet_alone_and_takes_turns() {
    let frames = connections(TUNNELLED);
    let (sent, _) = replay(&frames);
    assert_eq!(sent.len(), frames.len());
    for (number, (before, after)) in frames.iter().zip(&sent).enumerate() {
        let outer = decoded(after);
        let Transport::Ipip(inner) = &outer.transport else { panic!("not IP in IP: {outer:?}") };
        assert_eq!(inner, packet_bytes(before));
        packet(inner).expect("the inner packet is in order");
        assert_eq!(outer.source_address(), Ipv4Addr::new(10, 1, 0, 2));
        let host = [11, 12, 13][number / 3 % 3];
        assert_eq!(outer.destination_address(), Ipv4Addr::new(10, 3, 0, host));
        assert_eq!(outer.ethernet.destination, mac_of(1), "by way of the router");
        assert_eq!((outer.ipv4().time_to_live, outer.ipv4().dont_fragment), (64, true));
    }
}

#[test]
fn every_run_gives_the_same_capture() {
    let frames = [DIRECT, TRANSLATED, TUNNELLED].map(connections).concat();
    let (first, _) = replay(&frames);
    let (second, _) = replay(&frames);
    assert_eq!(first.len(), frames.len());
    assert!(first == second);
}

/// NAT's checksums, for every length of TCP segments and UDP datagrams that fits a packet of 1,500
/// bytes, in both directions, and for UDP without a checksum.
#[test]
fn nat_keeps_checksums_right_for_every_length_in_both_directions() {
    let (interfaces, _) = CONFIGURATION.split_once("[[service]]").expect("there are services");
    let real = SocketAddrV4::new([10, 1, 0, 21].into(), 8080);
    let there = ends(50_000, TRANSLATED);
    let back = Ends { macs: [mac_of(21), own_mac()], source: real, destination: there.source };
    let mut frames = vec![there.tcp("S", b""), back.tcp("SA", b"")];
    let data: Vec<u8> = (0..1472_u32).map(|place| (place * 31 + place / 7) as u8).collect();
    for length in 0..=1460 {
        frames.extend([there.tcp("PA", &data[..length]), back.tcp("PA", &data[..length])]);
    }
    for length in 0..=1472 {
        for ends in [there, back] {
            let frame = ends.udp(&data[..length]);
            let mut bare = frame.clone();
            bare[14 + 20 + 6..][..2].fill(0); // RFC 768: no checksum
            frames.extend([frame, bare]);
        }
    }
    let (sent, books) = replay_with(&format!("{interfaces}{ONE_SERVER}"), &frames);
    assert_eq!(sent.len(), frames.len(), "{books}");
    let mut lengths = BTreeMap::new();
    for (before, after) in frames.iter().zip(&sent) {
        let (before, after) = (decoded(before), decoded(after));
        if before.source() == Some(there.source.into()) {
            assert_eq!(after.source(), Some(there.source.into()));
            assert_eq!(after.destination(), Some(real.into()));
            assert_eq!(after.ethernet.destination, mac_of(21));
        } else {
            assert_eq!(after.source(), Some(there.destination.into()));
            assert_eq!(after.destination(), Some(there.source.into()));
            assert_eq!(after.ethernet.destination, mac_of(10));
        }
        assert_eq!(after.data(), before.data());
        let bare = |packet: &Packet| matches!(packet.transport, Transport::Udp { checksum: 0, .. });
        assert_eq!(bare(&after), bare(&before));
        *lengths.entry(after.payload.len()).or_insert(0) += 1;
    }
    // From an empty datagram on, at least one packet each way.
    assert!((8..=1480).all(|length| lengths.get(&length) >= Some(&2)));
}

#[test]
fn frames_that_are_not_in_order_are_dropped_and_the_others_are_not_held_up() {
    let good = connections(DIRECT);
    let mut frames = Vec::new();
    for frame in &good {
        // An offset: the ports are in a part that never comes.
        let mut fragment = frame.clone();
        fragment[20..22].copy_from_slice(&[0, 0x10]);
        fragment[24..26].fill(0);
        let checksum = internet_checksum(&fragment[14..34]);
        fragment[24..26].copy_from_slice(&checksum.to_be_bytes());
        let noise = [frame[..30].to_vec(), vec![0xff; 9], vec![0; 1514], fragment];
        frames.push(frame.clone());
        frames.extend(noise);
    }
    let (sent, books) = replay(&frames);
    assert_eq!(sent.len(), good.len());
    assert_eq!(books.dropped_in_all(), 4 * good.len() as u64);
    assert_eq!(books.dropped("fragment_without_first"), good.len() as u64);
    assert_eq!(books.dropped("truncated"), 2 * good.len() as u64, "{books}");
}
