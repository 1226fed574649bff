//! What somebody who means harm can put on a wire.

use super::*;

/// Frames of any kind: noise, and good frames cut, lengthened or with bytes changed.
fn hostile_frame() -> impl Strategy<Value = Vec<u8>> {
    let good = prop_oneof![
        (any::<u16>(), 0u8..64).prop_map(|(port, flags)| tcp(
            &format!("198.51.100.9:{port}"),
            "192.0.2.1:80",
            flags
        )),
        any::<u16>().prop_map(|port| tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:8080", SYN)),
        any::<u16>().prop_map(|port| udp(
            &format!("198.51.100.9:{port}"),
            "192.0.2.1:53",
            &[1; 64]
        )),
        Just(reply("10.0.0.8:80", CLIENT, ACK)),
        any::<u16>().prop_map(|number| echo_request(our_address(OUTSIDE), number)),
    ];
    let change = (any::<prop::sample::Index>(), any::<u8>());
    let spoilt = (good, prop::collection::vec(change, 0..4), any::<bool>(), 0usize..1600).prop_map(
        |(mut frame, changes, resize, length)| {
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if resize {
                frame.resize(length, 0x5a);
            }
            // Half of what follows an Ethernet header gets past the header's checksum.
            if frame.len() >= 34 && length % 2 == 0 {
                frame[24..26].fill(0);
                let checksum = crate::wire::checksum::of(&frame[14..34]);
                frame[24..26].copy_from_slice(&checksum.to_be_bytes());
            }
            frame
        },
    );
    prop_oneof![8 => spoilt, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

/// Cases of the test below; each is a frame. The long run asks for a million.
fn frames() -> u32 {
    std::env::var("SLUICE_HOSTILE_FRAMES")
        .ok()
        .and_then(|number| number.parse().ok())
        .unwrap_or(20_000)
}

#[test]
fn no_frame_makes_a_worker_panic_or_lose_count_or_a_buffer() {
    let services =
        "192.0.2.1:80 dr 10.0.0.7\n192.0.2.1:8080 nat 10.0.0.8:80\n192.0.2.1:53/udp tun 10.0.0.9";
    let worker = std::cell::RefCell::new(TestWorker::with(snapshot(services), 256));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: frames(),
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&(hostile_frame(), any::<bool>()), |(frame, inside)| {
        let mut worker = worker.borrow_mut();
        worker.receives_on(if inside { INSIDE } else { OUTSIDE }, &frame);
        worker.passes(Duration::from_millis(1));
        let sent = worker.transmitted();
        while worker.control.punted.pop().is_ok() {}
        while worker.control.events.pop().is_ok() {}
        prop_assert_eq!(worker.counters.imbalance(), 0);
        prop_assert_eq!(worker.buffers_out() as i64, worker.counters.waiting.get());
        prop_assert!(sent.iter().all(|frame| frame.len() <= 1514));
        Ok(())
    });
    result.unwrap();
    let counters = &worker.borrow().counters;
    assert!(counters.transmitted.get() > 0 && counters.punted.get() > 0, "some got through");
    eprintln!(
        "{} frames, {} transmitted, {} dropped",
        counters.received.get(),
        counters.transmitted.get(),
        counters.dropped_in_all()
    );
}

#[test]
fn a_packet_that_claims_to_come_from_us_starts_no_flow() {
    let mut worker =
        TestWorker::serving("192.0.2.1:53/udp nat 10.0.0.7\n192.0.2.3:53/udp dr 10.0.0.8");
    for ours in ["192.0.2.3:53", "192.0.2.2:53", "10.0.0.2:53"] {
        worker.receives(&udp(ours, "192.0.2.1:53", b"x"));
    }
    assert!(worker.transmitted().is_empty());
    assert_eq!(worker.dropped(Reason::BadSource), 3);
    assert_eq!(worker.counters.flows.get(), 0);
    worker.balances();
}

#[test]
fn a_flood_in_mid_flow_gives_way_to_real_connections_as_a_flood_of_syn_does() {
    let mut worker = TestWorker::with(snapshot("192.0.2.1:80 nat 10.0.0.7"), 16);
    for port in 0..1_000 {
        worker.receives(&tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", ACK));
    }
    worker.passes(Duration::from_millis(1_500));
    worker.transmitted();
    for port in 2_000..2_005 {
        worker.receives(&tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", SYN));
    }
    assert!(!worker.transmitted().is_empty());
    worker.balances();
}

#[test]
fn an_error_is_not_sent_to_a_group_s_hardware_address() {
    let mut worker = TestWorker::serving("192.0.2.1:53/udp tun 10.0.0.7");
    let mut frame = udp(CLIENT, "192.0.2.1:53", &[7; 1472]);
    frame[6..12].fill(0xff);
    worker.receives(&frame);
    assert!(worker.transmitted().is_empty());
    assert_eq!(worker.dropped(Reason::TooBig), 1);
    worker.balances();
}

#[test]
fn a_packet_that_a_full_table_drops_is_not_counted_as_forwarded() {
    // The agreed server of some flows translates, that of others does not (FWD-17).
    let mut mixed = snapshot("192.0.2.1:80 dr 10.0.0.7 10.0.0.8");
    let mut servers = mixed.servers.to_vec();
    servers[1].as_mut().unwrap().mode = crate::snapshot::Mode::Nat { port: None };
    mixed.servers = servers.into();
    let mut worker = TestWorker::with(mixed, 1);
    for port in 0..100 {
        worker.receives(&tcp(&format!("198.51.100.9:{port}"), "192.0.2.1:80", SYN));
    }
    let remembered = worker.counters.flows_created.get();
    let sent = worker.transmitted().len() as u64;
    assert_eq!(worker.counters.forwarded_without_flow.get(), sent - remembered);
    assert!(worker.dropped(Reason::FlowTableFull) > 0);
    worker.balances();
}

#[test]
fn all_classes_bursts_fit_the_ring_to_the_control_plane_together() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7");
    let echo = echo_request(our_address(OUTSIDE), 2);
    let mut arp = echo.clone();
    arp[12..14].copy_from_slice(&ethertype::ARP.to_be_bytes());
    (0..1_000).for_each(|_| worker.receives(&arp));
    (0..1_000).for_each(|_| worker.receives(&echo));
    assert_eq!(worker.dropped(Reason::PuntRingFull), 0);
    assert!(worker.counters.punted.get() >= 256, "both got through");
    worker.balances();
}

#[test]
fn frames_that_waited_leave_before_those_that_came_later() {
    let resolved = snapshot("192.0.2.1:80 dr 10.0.0.7");
    let mut server = resolved.servers[0].clone().unwrap();
    server.hop.mac = None;
    let unresolved = Snapshot {
        servers: [Some(server)].into(),
        neighbours: Default::default(),
        ..resolved.clone()
    };
    let mut worker = TestWorker::with(unresolved, 16);
    let [first, second] = [SYN, ACK].map(|flags| tcp(CLIENT, "192.0.2.1:80", flags));
    worker.receives(&first);
    worker.publisher.publish(Snapshot { generation: 2, ..resolved });
    worker.receives(&second);
    let sent = worker.transmitted_on(INSIDE);
    assert_eq!([&sent[0][14..], &sent[1][14..]], [&first[14..], &second[14..]]);
}

#[test]
fn flows_of_a_removed_server_do_not_linger() {
    let mut worker = TestWorker::serving("192.0.2.1:80 nat 10.0.0.7\n192.0.2.1:81 dr 10.0.0.8");
    worker.receives(&syn("192.0.2.1:80"));
    worker.receives(&syn("192.0.2.1:81"));
    let mut without = snapshot("192.0.2.1:80 nat 10.0.0.7\n192.0.2.1:81 dr 10.0.0.8");
    let mut servers = without.servers.to_vec();
    let removed = servers[0].take().unwrap();
    (without.generation, without.servers) = (2, servers.into());
    worker.publisher.publish(without);
    (0..5).for_each(|_| worker.passes(Duration::from_secs(1)));
    assert_eq!(worker.counters.flows.get(), 1);
    assert_eq!(worker.counters.server(removed.id).active.get(), 0);
}

#[test]
fn options_that_are_not_for_every_fragment_are_in_the_first_alone() {
    let mut worker = TestWorker::serving("192.0.2.1:53/udp dr 10.0.0.7");
    let mut narrow = snapshot("192.0.2.1:53/udp dr 10.0.0.7");
    let mut interfaces = narrow.interfaces.to_vec();
    interfaces[1].mtu = 700;
    (narrow.generation, narrow.interfaces) = (2, interfaces.into());
    worker.publisher.publish(narrow);
    let plain = fragmentable(udp(CLIENT, "192.0.2.1:53", &[7; 1000]));
    // Record route (7, not copied), then a router alert (148, copied); RFC 791 section 3.1.
    let options = [7, 7, 4, 1, 2, 3, 4, 1, 148, 4, 0, 0];
    let mut frame = [&plain[..34], &options, &plain[34..]].concat();
    frame[14] = 0x48;
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[24..26].fill(0);
    let checksum = crate::wire::checksum::of(&frame[14..46]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    worker.receives(&frame);
    let sent = worker.transmitted_on(INSIDE);
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0][34..46], options);
    assert_eq!(sent[1][34..46], [1, 1, 1, 1, 1, 1, 1, 1, 148, 4, 0, 0]);
    let payload = [&sent[0][46..], &sent[1][46..]].concat();
    assert_eq!(payload, plain[34..]);
    for part in sent {
        assert_eq!(crate::wire::checksum::of(&part[14..46]), 0);
    }
    worker.balances();
}

#[test]
fn fragments_put_together_are_the_packet_whatever_the_way_out_takes() {
    for mtu in [69, 76, 100, 101, 576, 1479] {
        let mut worker = TestWorker::serving("192.0.2.1:53/udp tun 10.0.0.7");
        let mut narrow = snapshot("192.0.2.1:53/udp tun 10.0.0.7");
        let mut interfaces = narrow.interfaces.to_vec();
        interfaces[1].mtu = mtu;
        (narrow.generation, narrow.interfaces) = (2, interfaces.into());
        worker.publisher.publish(narrow);
        for length in [mtu - 47, mtu, mtu * 2, 1472.min(mtu * 12)] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            let frame =
                fragmentable(udp(CLIENT, "192.0.2.1:53", &bytes[..usize::from(length.min(1472))]));
            worker.receives(&frame);
            let mut inner = vec![0; frame.len() - 14];
            for part in worker.transmitted_on(INSIDE) {
                assert!(part.len() - 14 <= usize::from(mtu));
                let (outer, rest) = etherparse::Ipv4Header::from_slice(&part[14..]).unwrap();
                assert_eq!(outer.header_checksum, outer.calc_header_checksum());
                let at = usize::from(outer.fragment_offset.value()) * 8;
                inner[at..at + rest.len()].copy_from_slice(rest);
                assert_eq!(outer.more_fragments, at + rest.len() < inner.len());
            }
            assert_eq!(inner, frame[14..], "{length} bytes over {mtu}");
            worker.balances();
        }
    }
}

#[test]
fn of_many_frames_that_wait_each_leaves_once_and_the_rest_expire() {
    let text: String =
        (1..=20).map(|host| format!("192.0.2.1:{host} dr 10.0.1.{host}\n")).collect();
    let full = snapshot(&text);
    let known = |hosts: u8| {
        let mut part = full.clone();
        let mut servers = part.servers.to_vec();
        servers.iter_mut().flatten().for_each(|server| server.hop.mac = None);
        let of = |host: u8| Ipv4Addr::new(10, 0, 1, host);
        part.servers = servers.into();
        part.neighbours = std::sync::Arc::new(
            (1..=hosts).map(|at| ((INSIDE, of(at).into()), mac_of(of(at)))).collect(),
        );
        part.generation = 1 + u64::from(hosts);
        part
    };
    let mut worker = TestWorker::with(known(0), 1_024);
    for client in 0..12 {
        for host in 1..=20 {
            worker.receives(&tcp(
                &format!("198.51.100.9:{client}"),
                &format!("192.0.2.1:{host}"),
                SYN,
            ));
        }
    }
    assert_eq!(worker.counters.waiting.get(), 240);
    for hosts in [3, 4, 15] {
        worker.publisher.publish(known(hosts));
        worker.passes(Duration::from_millis(100));
        worker.turn();
        assert_eq!(worker.counters.waiting.get(), 240 - 12 * i64::from(hosts));
        worker.balances();
    }
    assert_eq!(worker.transmitted().len(), 180);
    worker.passes(Duration::from_secs(1));
    assert_eq!(worker.dropped(Reason::Unresolved), 60);
    worker.balances();
}
