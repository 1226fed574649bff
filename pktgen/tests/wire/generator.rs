//! The generator itself: its pace, its calibration, its end, and captures sent again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane::wire::Mac;
use dpdk_sys::Mbuf;
use pktgen::frame::Protocol;
use pktgen::generator::{Generator, Timing};
use pktgen::neighbours::Desk;
use pktgen::pace::Late;
use pktgen::profile::Profile;
use pktgen::progress::Progress;
use pktgen::rate::Rate;
use pktgen::replay::{Capture, Replay, Speed};
use pktgen::track::Tracking;

use crate::rig::{
    Behaviour, DRAIN, RING, Rig, all_buffers_are_home, counts, eal, measure, pair, pool, profile,
    rig, rig_both_ways, transparent, turn,
};

/// The rate is what was sent between the first and the last frame; the median of several runs, as this machine may have
/// other things to do.
#[test]
fn ten_thousand_and_a_million_a_second_are_kept_within_one_per_cent() {
    let _turn = turn();
    for asked in [10_000.0, 1_000_000.0] {
        let mut errors: Vec<f64> = (0..7)
            .map(|_| {
                let [near, far] = pair();
                let receive = vec![far.receive];
                let mut generator = Generator::new(near.transmit, pool(), receive, eal().tsc_hz());
                let timing = Timing {
                    drain: Duration::from_millis(1),
                    ..Timing::of(Duration::from_millis(600))
                };
                let measured = generator.run(
                    &profile(asked),
                    &timing,
                    &AtomicBool::new(false),
                    &Progress::default(),
                );
                let measured = measured.expect("the profile is accepted");
                assert!(measured.group <= 32);
                (measured.sent_rate() / asked - 1.0).abs()
            })
            .collect();
        errors.sort_by(f64::total_cmp);
        assert!(errors[3] < 0.01, "{asked}: {errors:?}");
    }
    all_buffers_are_home();
}

#[test]
fn a_capture_is_sent_in_its_own_time_and_counted_where_it_arrives() {
    let _turn = turn();
    let frames = (0..200u64)
        .map(|index| (index * 500_000, vec![index as u8; 60 + index as usize]))
        .collect();
    let capture = Capture { frames, cut: 0 };
    let run = |speed, rounds| {
        let Rig { near, far, device } = rig(transparent());
        let replay = Replay {
            transmit: near.transmit,
            receive: vec![near.receive, far.receive],
            pool: pool(),
            hz: eal().tsc_hz(),
        };
        let (stop, progress) = (AtomicBool::new(false), Progress::default());
        let replayed = replay.run(&capture, speed, rounds, DRAIN, &stop, &progress);
        drop(device);
        replayed
    };
    let once = run(Speed::Times(1.0), 1);
    let bytes: u64 = capture.frames.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!((once.sent, once.sent_bytes, once.rounds), (200, bytes, 1));
    assert_eq!((once.received_by_port, once.received_bytes), (vec![0, 200], bytes));
    assert!(once.seconds >= 0.0995, "{}", once.seconds);
    let twice = run(Speed::Times(10.0), 2);
    assert_eq!((twice.sent, twice.received_by_port), (400, vec![0, 400]));
    assert!(twice.seconds >= 0.0199, "{}", twice.seconds);
    assert_eq!(run(Speed::Most, 3).sent, 600);
    all_buffers_are_home();
}

#[test]
fn a_calibration_says_what_the_generator_does_and_adds() {
    let _turn = turn();
    let (stop, progress) = (AtomicBool::new(false), Progress::default());
    let wanted = Profile { flows: 1000, ..profile(1.0) };
    let calibration = pktgen::calibrate::calibrate(
        &eal(),
        &pool(),
        &wanted,
        Duration::from_millis(100),
        &stop,
        &progress,
    )
    .expect("the ports open");
    assert!(
        calibration.null_mpps > calibration.ring_mpps / 2.0 && calibration.ring_mpps > 0.1,
        "{calibration:?}"
    );
    let added = calibration.added_latency_ns;
    assert!(
        added.min <= added.p50 && added.p50 <= added.p99 && added.p99 <= added.max,
        "{added:?}"
    );
    all_buffers_are_home();
}

#[test]
fn sending_and_receiving_on_a_core_each_gives_the_same_answer() {
    let _turn = turn();
    let [near, far] = pair();
    let mut generator = Generator::new(near.transmit, pool(), vec![far.receive], eal().tsc_hz());
    let timing = Timing { drain: DRAIN, ..Timing::frames(10_000) };
    let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(Progress::default()));
    let wanted = Profile { flows: 10, ..profile(100_000.0) };
    let measured = generator
        .run_apart(&eal(), [0, 1], &wanted, &timing, &stop, &progress)
        .expect("a machine with two cores");
    assert_eq!((measured.sent.frames, measured.observed.unique), (10_000, 10_000));
    assert_eq!(counts(&measured), (0, 0, 0));
    drop(generator);
    all_buffers_are_home();
}

/// Nobody takes anything out of the ring.
#[test]
fn what_a_full_port_refuses_is_waited_for_or_given_up() {
    let _turn = turn();
    let million = Rate::PacketsPerSecond(1_000_000.0);
    let all = 40_000;
    for (late, rate, unsent) in [
        (Late::CaughtUp, million, 1..=32),
        (Late::GivenUp, million, all - u64::from(RING)..=all - u64::from(RING)),
        (Late::GivenUp, Rate::Most, 1..=32),
    ] {
        let [near, far] = pair();
        let mut generator = Generator::new(near.transmit, pool(), vec![], eal().tsc_hz());
        let timing = Timing { duration: Duration::from_millis(500), ..Timing::frames(all) };
        let wanted = Profile { rate, late, ..profile(1.0) };
        let measured = generator
            .run(&wanted, &timing, &AtomicBool::new(false), &Progress::default())
            .expect("the profile is accepted");
        assert_eq!(measured.sent.frames, u64::from(RING), "{late:?} at {rate}");
        assert!(unsent.contains(&measured.unsent), "{late:?} at {rate}: {}", measured.unsent);
        drop((generator, far));
    }
    all_buffers_are_home();
}

#[test]
fn packets_numbered_together_are_all_seen_and_none_is_a_syn() {
    let _turn = turn();
    for (tracking, opened) in [(Tracking::Flows, 30), (Tracking::Run, 0)] {
        let syns = Arc::new(AtomicU64::new(0));
        let seen = syns.clone();
        let watching = Box::new(move |frame: Mbuf, now, out: &mut VecDeque<_>| {
            seen.fetch_add(u64::from(frame.bytes()[14 + 20 + 13] & 2 != 0), Ordering::Relaxed);
            out.push_back((now, frame));
        });
        let wanted = Profile { protocol: Protocol::Tcp, flows: 30, tracking, ..profile(100_000.0) };
        let measured = measure(rig(watching), &wanted, 1_000);
        assert_eq!(measured.observed.unique, 1_000);
        assert_eq!(counts(&measured), (0, 0, 0));
        assert_eq!(syns.load(Ordering::Relaxed), opened);
    }
    all_buffers_are_home();
}

#[test]
fn something_else_can_be_done_while_it_sends() {
    let _turn = turn();
    let [near, far] = pair();
    let mut generator = Generator::new(near.transmit, pool(), vec![far.receive], eal().tsc_hz());
    let timing = Timing { drain: Duration::from_millis(50), ..Timing::frames(1_000) };
    let (mut times, mut latest) = (0, 0);
    let measured = generator.run_beside(
        &profile(100_000.0),
        &timing,
        &AtomicBool::new(false),
        &Progress::default(),
        |now| {
            assert!(now >= latest);
            (times, latest) = (times + 1, now);
        },
    );
    let measured = measured.expect("the profile is accepted");
    assert!(times >= 500, "{times}");
    assert!(latest <= measured.sent.last, "not after the last frame has gone");
    drop(generator);
    all_buffers_are_home();
}

#[test]
fn a_run_that_is_told_to_stop_says_what_there_was() {
    let _turn = turn();
    let [near, far] = pair();
    let mut generator = Generator::new(near.transmit, pool(), vec![far.receive], eal().tsc_hz());
    let stop = Arc::new(AtomicBool::new(false));
    let telling = stop.clone();
    let friend = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        telling.store(true, Ordering::Relaxed);
    });
    let measured = generator
        .run(
            &profile(50_000.0),
            &Timing::of(Duration::from_secs(3600)),
            &stop,
            &Progress::default(),
        )
        .expect("the profile is accepted");
    friend.join().expect("it only sleeps");
    assert!(
        measured.interrupted && measured.observed.unique == measured.sent.frames,
        "{measured:?}"
    );
    drop(generator);
    all_buffers_are_home();
}

/// The device asks at the far side for the hardware address of 10.1.0.7, and gets it there.
#[test]
fn a_device_that_asks_for_a_hardware_address_is_told() {
    let _turn = turn();
    let question = [
        &[0xff; 6][..],
        &[
            2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 1, 0, 1, 0, 0, 0,
            0, 0, 0, 10, 1, 0, 7,
        ],
    ]
    .concat();
    let mut is_first = true;
    let asks: Behaviour = Box::new(move |frame, now, out| {
        if std::mem::take(&mut is_first) {
            out.push_back((now, pool().allocate_from(&question).expect("a free buffer")));
        }
        out.push_back((now, frame));
    });
    let told = Arc::new(Mutex::new(vec![]));
    let hears = told.clone();
    let back: Behaviour = Box::new(move |frame, _, _| {
        hears.lock().expect("nobody panics with it").push(frame.bytes().to_vec());
    });
    let Rig { near, far, device } = rig_both_ways(asks, back);
    let mac = Mac([2, 0, 0, 0, 0, 7]);
    let ours = vec!["10.1.0.1-10.1.0.9".parse().expect("addresses")];
    let desk = Desk { transmit: far.transmit, pool: pool(), mac, ours };
    let receive = vec![near.receive, far.receive];
    let generator = Generator::new(near.transmit, pool(), receive, eal().tsc_hz());
    let mut generator = generator.answering(Some(desk));
    let timing = Timing { drain: DRAIN, ..Timing::frames(1000) };
    let (stop, progress) = (AtomicBool::new(false), Progress::default());
    let measured = generator
        .run(&profile(50_000.0), &timing, &stop, &progress)
        .expect("the profile is accepted");
    assert_eq!((measured.lost(), measured.arrived[1].foreign), (0, 1));
    drop((generator, device));
    let told = told.lock().expect("nobody panics with it");
    assert_eq!(told.len(), 1);
    assert_eq!(
        (&told[0][..6], &told[0][22..32]),
        (&[2, 0, 0, 0, 0, 9][..], &[2, 0, 0, 0, 0, 7, 10, 1, 0, 7][..])
    );
    all_buffers_are_home();
}
