//! Loss, reordering, duplicates and delay: exactly what the device did.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use dpdk_sys::{Mbuf, lcore};
use pktgen::choice::Choice;
use pktgen::frame::Protocol;
use pktgen::profile::Profile;
use pktgen::receive::Receiver;
use pktgen::send::{Sender, Stream};
use pktgen::stamp::Mark;
use pktgen::track::Tracking;

use crate::rig::{
    Behaviour, all_buffers_are_home, counts, eal, forward, measure, pair, pool, profile, rig,
    transparent, turn,
};

#[test]
fn a_wire_that_does_nothing_shows_nothing() {
    let _turn = turn();
    let measured =
        measure(rig(transparent()), &Profile { flows: 100, ..profile(100_000.0) }, 20_000);
    assert_eq!(counts(&measured), (0, 0, 0));
    assert_eq!((measured.observed.unique, measured.observed.latency.len()), (20_000, 20_000));
    assert_eq!((measured.flows.used, measured.flows.with_loss), (100, 0));
    assert_eq!(measured.arrived.iter().map(|port| port.frames).collect::<Vec<_>>(), [0, 20_000]);
    assert_eq!(measured.arrived[1].bytes, 20_000 * 60);
    all_buffers_are_home();
}

#[test]
fn every_thousandth_frame_dropped_is_exactly_that_loss() {
    let _turn = turn();
    let mut number = 0;
    let drops: Behaviour = Box::new(move |frame, now, out| {
        number += 1;
        if number % 1000 != 0 {
            out.push_back((now, frame));
        }
    });
    let measured = measure(rig(drops), &Profile { flows: 7, ..profile(100_000.0) }, 30_000);
    assert_eq!(counts(&measured), (30, 0, 0));
    assert_eq!(
        (measured.flows.used, measured.flows.with_loss),
        (7, 7),
        "1,000 and 7 have no divisor in common"
    );
    assert!((measured.loss() - 0.001).abs() < 1e-12);
    all_buffers_are_home();
}

#[test]
fn swapped_neighbours_are_exactly_that_reordering() {
    let _turn = turn();
    let (mut number, mut held) = (0, None);
    let swaps: Behaviour = Box::new(move |frame, now, out| {
        number += 1;
        match held.take() {
            Some(first) => {
                out.push_back((now, frame));
                out.push_back((now, first));
            }
            None if number % 10 == 1 => held = Some(frame),
            None => out.push_back((now, frame)),
        }
    });
    let measured = measure(rig(swaps), &profile(100_000.0), 20_000);
    assert_eq!(counts(&measured), (0, 2000, 0));
    all_buffers_are_home();
}

#[test]
fn every_hundredth_frame_twice_is_exactly_those_duplicates() {
    let _turn = turn();
    let mut number = 0;
    let doubles: Behaviour = Box::new(move |frame, now, out| {
        number += 1;
        if number % 100 == 0 {
            out.push_back((now, pool().allocate_from(frame.bytes()).expect("a free buffer")));
        }
        out.push_back((now, frame));
    });
    let measured = measure(rig(doubles), &Profile { flows: 3, ..profile(100_000.0) }, 20_000);
    assert_eq!(counts(&measured), (0, 0, 200));
    assert_eq!((measured.received(), measured.observed.unique), (20_200, 20_000));
    all_buffers_are_home();
}

/// The device takes its turns on the same thread as sender and receiver, so that none of the three waits for the
/// processor while another has it. It releases a frame at the first look at its queue once 50 us are over: no packet can
/// be faster, and the usual one is later by a turn or two of the loop, some microseconds at most. Only those are late that
/// are under way when somebody else gets the processor.
#[test]
fn a_delay_of_fifty_microseconds_is_measured() {
    let _turn = turn();
    let hz = eal().tsc_hz();
    let ([near, mut device_near], [mut device_far, far]) = (pair(), pair());
    let mut delays: Behaviour =
        Box::new(move |frame, now, out| out.push_back((now + hz / 20_000, frame)));
    let (profile, mark, mut waiting) = (profile(20_000.0), Mark(77), VecDeque::new());
    let stream = Stream::new(&profile, mark, hz).expect("the profile is accepted");
    let mut sender = Sender::new(near.transmit, pool(), stream, &profile, hz).at_most(10_000);
    let mut receiver = Receiver::new(vec![far.receive], mark, (1, Tracking::Flows), 6080, hz);
    while receiver.glance().unique < 10_000 {
        sender.turn(lcore::tsc());
        forward(&mut device_near.receive, &mut device_far.transmit, &mut delays, &mut waiting);
        receiver.turn();
    }
    let observed = receiver.observed();
    assert_eq!((observed.unique, observed.reordered, observed.duplicates), (10_000, 0, 0));
    let (least, half) = (observed.latency.min(), observed.latency.value_at_quantile(0.5));
    assert!(least >= 49_900, "{least} ns: the histogram has three figures");
    assert!((50_000..60_000).contains(&half), "{half} ns");
    drop((sender, receiver));
    all_buffers_are_home();
}

#[test]
fn flows_that_come_and_go_begin_with_syn_and_end_with_fin() {
    let _turn = turn();
    let seen = Arc::new(Mutex::new([0u64; 3]));
    let counted = seen.clone();
    let counts_flags: Behaviour = Box::new(move |frame, now, out| {
        let flags = frame.bytes()[47];
        let mut seen = counted.lock().expect("nobody panics with it");
        let kind = usize::from(flags & 0x02 != 0) + 2 * usize::from(flags & 0x01 != 0);
        seen[kind] += 1;
        out.push_back((now, frame));
    });
    let wanted = Profile {
        protocol: Protocol::Tcp,
        flows: 100,
        choice: Choice::Fresh(10_000.0),
        ..profile(100_000.0)
    };
    let measured = measure(rig(counts_flags), &wanted, 20_000);
    assert_eq!(counts(&measured), (0, 0, 0));
    let [_, syn, fin] = *seen.lock().expect("nobody panics with it");
    assert!((1000..=2500).contains(&fin), "{fin} ends in about 0.2 s at 10,000 a second");
    // The last frame of all may have ended one whose successor has not begun.
    assert!((99..=100).contains(&(syn - fin)), "{syn} began, {fin} ended: the others are alive");
    all_buffers_are_home();
}

#[test]
fn what_others_send_is_counted_and_no_part_of_the_result() {
    let _turn = turn();
    let mut number = 0;
    let talks: Behaviour = Box::new(move |frame, now, out| {
        number += 1;
        if number % 2 == 0 {
            out.push_back((now, pool().allocate_from(&[number as u8; 60]).expect("a free buffer")));
        }
        out.push_back((now, frame));
    });
    let measured = measure(rig(talks), &profile(50_000.0), 2000);
    assert_eq!(counts(&measured), (0, 0, 0));
    assert_eq!((measured.received(), measured.arrived[1].foreign), (2000, 1000));
    all_buffers_are_home();
}

#[test]
fn ten_million_flows_take_bounded_memory_and_are_told_apart() {
    let _turn = turn();
    let wanted = Profile { flows: 10_000_000, choice: Choice::Random, ..profile(200_000.0) };
    let measured = measure(rig(transparent()), &wanted, 20_000);
    assert_eq!(counts(&measured), (0, 0, 0));
    assert!((19_900..=20_000).contains(&measured.flows.used), "{}", measured.flows.used);
    all_buffers_are_home();
}

#[test]
fn packets_numbered_together_are_missed_and_told_from_copies_all_the_same() {
    let _turn = turn();
    let mut number = 0;
    let upset = Box::new(move |frame: Mbuf, now, out: &mut VecDeque<(u64, Mbuf)>| {
        number += 1;
        match number % 100 {
            7 => {}
            13 => {
                out.extend(pool().allocate_from(frame.bytes()).map(|copy| (now, copy)));
                out.push_back((now, frame));
            }
            _ => out.push_back((now, frame)),
        }
    });
    let wanted = Profile { flows: 5_000, tracking: Tracking::Run, ..profile(100_000.0) };
    let measured = measure(rig(upset), &wanted, 20_000);
    assert_eq!(counts(&measured), (200, 0, 200));
    all_buffers_are_home();
}
