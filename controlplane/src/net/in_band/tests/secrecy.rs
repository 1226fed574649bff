//! What others would have to guess.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use packet::{Ends, Packet, Segment};
use secrets::Secrets;

/// The first segment of a connection that `client` opens.
fn first_segment(stack: &Stack, now: Moment, to: SocketAddr) -> Segment {
    let client = InBand::from(stack.clone());
    stack.turn(now);
    let mut opening = Box::pin(client.connect(to, Way::Routed));
    assert!(poll(opening.as_mut()).is_pending());
    stack.turn(now);
    let sent = stack.next_packet().unwrap();
    Segment::read(Packet::read(&sent.packet).unwrap().payload).unwrap()
}

#[test]
fn the_sequence_number_that_leaves_is_the_hash_of_the_ends_and_the_time() {
    for (own, other) in LEFT.into_iter().zip(RIGHT) {
        let stack = stack(LEFT, 5);
        let same = Secrets::new([5; 16]);
        for number in 0..2_000u64 {
            let now = Moment::from_nanos(number * 777_777_777);
            let segment = first_segment(&stack, now, at(other, 80));
            let ends = Ends::new((ip(own), segment.from), (ip(other), 80));
            assert_eq!(segment.sequence, same.sequence(now, &ends));
        }
    }
}

#[test]
fn an_accepted_connection_s_number_is_the_hash_of_its_ends_as_well() {
    let rig = Rig::new();
    let (client, _listener) = (rig.client(), rig.server().listen(None, 80).unwrap());
    let same = Secrets::new([2; 16]);
    let mut opening = pin!(client.connect(at(RIGHT[0], 80), Way::Routed));
    assert!(poll(opening.as_mut()).is_pending());
    rig.left.turn(rig.now);
    let sent = rig.left.next_packet().unwrap();
    rig.right.receive(rig.now, &sent.packet);
    rig.right.turn(rig.now);
    let answer = packet::own_segment(&rig.right.next_packet().unwrap().packet).unwrap();
    let ends = Ends::new((ip(RIGHT[0]), 80), (ip(LEFT[0]), answer.to));
    assert!(answer.opens && answer.acknowledges);
    assert_eq!(answer.sequence, same.sequence(rig.now, &ends));
}

#[test]
fn the_same_ends_at_a_later_time_have_another_number_further_on() {
    let secrets = Secrets::new([5; 16]);
    let ends = Ends::new((ip(LEFT[0]), 2000), (ip(RIGHT[0]), 80));
    let at = |seconds: u64| secrets.sequence(Moment::from_nanos(seconds * 1_000_000_000), &ends);
    assert_eq!(at(61).wrapping_sub(at(1)), 60 * 250_000, "RFC 9293: a step each 4 microseconds");
    let other = Secrets::new([6; 16]);
    assert_ne!(at(1), other.sequence(Moment::from_nanos(1_000_000_000), &ends), "another key");
}

#[test]
fn numbers_and_ports_are_spread_evenly_and_do_not_follow_from_each_other() {
    let now = Moment::START.plus(Duration::from_secs(9));
    let stack = stack(LEFT, 5);
    let segments: Vec<_> =
        (0..8_000).map(|_| first_segment(&stack, now, at(RIGHT[0], 80))).collect();
    // Of 16 classes each has its share: 500, and no further from that than five deviations.
    let mut classes = [[0i32; 16]; 2];
    let mut differences = HashSet::new();
    for pair in segments.windows(2) {
        classes[0][(pair[0].sequence >> 28) as usize] += 1;
        let place = usize::from(pair[0].from - PORTS.start()) * 16 / PORTS.len();
        classes[1][place] += 1;
        differences.insert(pair[1].sequence.wrapping_sub(pair[0].sequence));
        assert!(PORTS.contains(&pair[0].from));
    }
    for count in classes.into_iter().flatten() {
        assert!((count - 500).abs() < 110, "{count}");
    }
    assert!(differences.len() > 7_990);
    let ports: HashSet<_> = segments.iter().map(|segment| segment.from).collect();
    assert!(ports.len() > 5_500, "{}", ports.len());
}

#[test]
fn a_port_that_somebody_listens_on_is_nobody_s_source() {
    let stack = stack(LEFT, 5);
    let net = InBand::from(stack.clone());
    let _listeners: Vec<_> =
        PORTS.filter(|port| port % 64 != 0).map(|port| net.listen(None, port).unwrap()).collect();
    for _ in 0..50 {
        assert_eq!(first_segment(&stack, Moment::START, at(RIGHT[0], 80)).from % 64, 0);
    }
}

proptest! {
    #[test]
    fn smoltcp_gives_the_number_that_the_seed_was_made_for(sequence: u32) {
        let ends = Ends::new((ip(LEFT[0]), 2000), (ip(RIGHT[0]), 80));
        let mut engine = engine::Engine::default();
        let mut socket = engine::Socket::new(ends, Way::Routed, 1500, (64, 64));
        prop_assert!(engine.connect(Moment::START, &mut socket, sequence));
        engine.send(Moment::START, &mut socket);
        let sent = engine.outbox.pop().unwrap();
        prop_assert_eq!(packet::own_segment(&sent.packet).unwrap().sequence, sequence);
    }
}
