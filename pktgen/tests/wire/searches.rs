//! The benchmarks of RFC 2544 against devices of a known capacity.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use dataplane::wire::gue;
use pktgen::generator::Timing;
use pktgen::profile::Profile;
use pktgen::report::Outcome;
use pktgen::rfc2544::Search;
use pktgen::session::{Live, Order, Session};

use crate::rig::{
    Behaviour, DRAIN, Device, Rig, all_buffers_are_home, eal, pool, profile, rig, transparent, turn,
};

pub fn session(rig: Rig, profile: Profile, trial: Timing) -> (Session, Device) {
    let Rig { near, far, device } = rig;
    let session = Session {
        eal: eal(),
        pool: pool(),
        transmit: vec![near.transmit, far.transmit],
        receive: vec![near.receive, far.receive],
        cores: vec![1],
        profile,
        gue_port: gue::PORT,
        answer: vec![],
        macs: vec![],
        calibration: None,
        trial,
        stop: Arc::new(AtomicBool::new(false)),
        live: Arc::new(Live::default()),
    };
    (session, device)
}

pub fn trial(milliseconds: u64) -> Timing {
    Timing { drain: DRAIN, ..Timing::of(Duration::from_millis(milliseconds)) }
}

/// Lets through so many frames a second on average, reckoned from the first of each run and by the times at which
/// frames were sent, as the device itself may be late; and `more` frames besides.
fn of_capacity(frames_a_second: f64, more: f64) -> Behaviour {
    let per_tick = frames_a_second / eal().tsc_hz() as f64;
    let (mut mark, mut first, mut passed) = ([0; 2], 0, 0.0);
    Box::new(move |frame, now, out| {
        let sent = sent_at(frame.bytes(), now);
        if frame.bytes()[42..44] != mark {
            mark.copy_from_slice(&frame.bytes()[42..44]);
            (first, passed) = (sent, 0.0);
        }
        if passed < more + sent.saturating_sub(first) as f64 * per_tick {
            passed += 1.0;
            out.push_back((now, frame));
        }
    })
}

/// The clock in the stamp of a UDP packet over IPv4, its upper bits those of `now`.
fn sent_at(frame: &[u8], now: u64) -> u64 {
    let stamp = &frame[42..56];
    let low = u64::from_be_bytes([0, 0, 0, stamp[5], stamp[10], stamp[11], stamp[12], stamp[13]]);
    let sent = now & !((1 << 40) - 1) | low;
    if sent > now { sent - (1 << 40) } else { sent }
}

const SEARCH: Search = Search { top: 0.0, resolution: 0.02, acceptable_loss: 0.0, attempts: 4 };

#[test]
fn throughput_finds_the_capacity_of_a_device_within_the_resolution() {
    let _turn = turn();
    let device = of_capacity(40_000.0, 400.0);
    let (session, device) = session(rig(device), profile(100_000.0), trial(400));
    let (_, outcome) = session.perform(Order::Throughput(SEARCH)).expect("nothing is refused");
    let Outcome::Throughput { sizes } = outcome else { panic!("{outcome:?}") };
    let found = &sizes[0].found;
    let tried: Vec<_> = found.trials.iter().map(|it| (it.asked, it.offered, it.lost)).collect();
    assert!(found.complete, "{tried:?}");
    // 400 more in a trial of 0.4 s are another 1,000 a second; the resolution is 2,000.
    let kept = found
        .trials
        .iter()
        .filter(|it| it.lost == 0 && !it.held_up)
        .map(|it| it.asked)
        .fold(0.0, f64::max);
    assert!((38_000.0..=41_000.0).contains(&kept), "{kept} of {tried:?}");
    assert!((found.rate / kept - 1.0).abs() < 0.1, "{} at {kept}", found.rate);
    drop(device);
    all_buffers_are_home();
}

#[test]
fn latency_loss_and_back_to_back_go_end_to_end() {
    let _turn = turn();
    let (at, device) = session(rig(transparent()), profile(20_000.0), trial(60));
    let (_, outcome) =
        at.perform(Order::Latency(SEARCH, Some(5000.0), 3)).expect("nothing is refused");
    let Outcome::Latency { sizes } = outcome else { panic!("{outcome:?}") };
    assert_eq!(sizes[0].found.trials.len(), 3);
    assert!(sizes[0].found.mean > 0.0);
    drop(device);

    let half = of_capacity(50_000.0, 20.0);
    let (at, device) = session(rig(half), profile(100_000.0), trial(100));
    let (_, outcome) = at.perform(Order::Loss(SEARCH, 0.25)).expect("nothing is refused");
    let Outcome::Loss { sizes } = outcome else { panic!("{outcome:?}") };
    let trials = &sizes[0].found.trials;
    for trial in trials {
        let expected = (1.0 - 50_000.0 / trial.offered).max(0.0);
        assert!((trial.loss() - expected).abs() < 0.1, "{} at {}", trial.loss(), trial.offered);
    }
    assert!(trials.len() >= 3 && trials[trials.len() - 1].loss() <= trials[0].loss());
    drop(device);

    let mut number = 0;
    let mut before = 0;
    let quiet = eal().tsc_hz() / 5;
    let short: Behaviour = Box::new(move |frame, now, out| {
        let sent = sent_at(frame.bytes(), now);
        number = if sent > before + quiet { 1 } else { number + 1 };
        before = sent;
        if number <= 700 {
            out.push_back((now, frame));
        }
    });
    let (at, device) = session(rig(short), profile(100_000.0), trial(100));
    let search = Search { resolution: 0.002, ..SEARCH };
    let (_, outcome) = at.perform(Order::BackToBack(search, 0.05, 2)).expect("nothing is refused");
    let Outcome::BackToBack { sizes } = outcome else { panic!("{outcome:?}") };
    let found = &sizes[0].found;
    assert_eq!((found.each.len(), found.most), (2, 5000));
    assert!(found.each.iter().all(|burst| (690..=700).contains(burst)), "{:?}", found.each);
    drop(device);
    all_buffers_are_home();
}
