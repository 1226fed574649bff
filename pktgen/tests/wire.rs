//! pktgen measuring devices whose behaviour is known: threads between two pairs of ports that drop, delay, swap,
//! duplicate, rewrite or encapsulate. What they do to which frame is counted, so what is measured must be exactly that.
//!
//! DPDK starts once per process, so all of this is one program, and its tests take turns: each wants a core.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arrayvec::ArrayVec;
use dataplane::wire::checksum::Change;
use dataplane::wire::ipv4::{self, Ipv4};
use dataplane::wire::{Address, Family, gue, ipv6, protocol, udp::Udp};
use dpdk_sys::{
    Eal, EalOptions, LogLevel, Mbuf, Memory, Mempool, Port, PortSettings, ReceiveQueue,
    StartedPort, TransmitQueue, lcore,
};
use pktgen::choice::Choice;
use pktgen::cps::{self, Answers, Connections};
use pktgen::frame::Protocol;
use pktgen::generator::{Generator, Timing};
use pktgen::measurement::Measurement;
use pktgen::profile::{Profile, benchmark_addresses};
use pktgen::progress::Progress;
use pktgen::rate::Rate;
use pktgen::replay::{Capture, Replay, Speed};
use pktgen::report::Outcome;
use pktgen::rfc2544::Search;
use pktgen::session::{Live, Order, Session};
use pktgen::size::Sizes;

/// Frames that each ring holds: more than a test sends while its device does not get the processor.
const RING: u32 = 32_768;

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn eal() -> Arc<Eal> {
    static EAL: OnceLock<Arc<Eal>> = OnceLock::new();
    EAL.get_or_init(|| {
        let options = EalOptions {
            program: "pktgen tests".into(),
            memory: Memory::Plain { megabytes: 512 },
            control_core: 0,
            allowed: vec![],
            log: LogLevel::Warning,
        };
        let start =
            move || Eal::start(&options).expect("DPDK starts without huge pages and without cards");
        let started = std::thread::spawn(start).join();
        Arc::new(started.expect("a thread of its own, because starting pins it"))
    })
    .clone()
}

fn pool() -> Mempool {
    static POOL: OnceLock<Mempool> = OnceLock::new();
    POOL.get_or_init(|| Mempool::new(&eal(), "test", 65_535, 2048, None).expect("there is memory"))
        .clone()
}

struct End {
    receive: ReceiveQueue,
    transmit: TransmitQueue,
    _port: StartedPort,
}

fn pair() -> [End; 2] {
    let pair = Port::pair(&eal(), 1, RING).expect("there is memory for the rings");
    pair.map(|port| {
        let (port, mut receive, mut transmit) =
            port.start(&PortSettings::default(), &pool()).expect("the port starts");
        End { receive: receive.remove(0), transmit: transmit.remove(0), _port: port }
    })
}

/// What a device does with a frame: whatever it pushes goes out, no sooner than the time beside it.
type Behaviour = Box<dyn FnMut(Mbuf, u64, &mut VecDeque<(u64, Mbuf)>) + Send>;

/// A device between two pairs of ports: the near side is pktgen's sending port, the far side its receiving one.
struct Rig {
    near: End,
    far: End,
    device: Device,
}

struct Device {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(
            std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()),
            "the device panicked"
        );
    }
}

fn rig(there: Behaviour) -> Rig {
    rig_both_ways(there, Box::new(|frame, now, out| out.push_back((now, frame))))
}

fn rig_both_ways(there: Behaviour, back: Behaviour) -> Rig {
    let [near, device_near] = pair();
    let [device_far, far] = pair();
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let thread = std::thread::spawn(move || {
        let (mut near, mut far, mut there, mut back) = (device_near, device_far, there, back);
        let mut ways = [VecDeque::new(), VecDeque::new()];
        while !told.load(Ordering::Relaxed) {
            let moved = forward(&mut near.receive, &mut far.transmit, &mut there, &mut ways[0])
                + forward(&mut far.receive, &mut near.transmit, &mut back, &mut ways[1]);
            if moved == 0 {
                std::thread::yield_now();
            }
        }
    });
    Rig { near, far, device: Device { stop, thread: Some(thread) } }
}

fn forward(
    from: &mut ReceiveQueue,
    to: &mut TransmitQueue,
    behaviour: &mut Behaviour,
    waiting: &mut VecDeque<(u64, Mbuf)>,
) -> usize {
    let mut burst = ArrayVec::<Mbuf, 32>::new();
    from.receive(&mut burst);
    let now = lcore::tsc();
    let received = burst.len();
    burst.drain(..).for_each(|frame| behaviour(frame, now, waiting));
    while waiting.front().is_some_and(|(due, _)| *due <= lcore::tsc())
        && let Some((_, frame)) = waiting.pop_front()
    {
        burst.push(frame);
        if burst.is_full() {
            break;
        }
    }
    while !burst.is_empty() {
        to.transmit(&mut burst);
    }
    received
}

fn profile(rate: f64) -> Profile {
    Profile { rate: Rate::PacketsPerSecond(rate), ..Profile::simple() }
}

/// Sends so many frames through the device, and gives every buffer back.
fn measure(rig: Rig, profile: &Profile, frames: u64) -> Measurement {
    let timing = Timing { drain: Duration::from_millis(150), ..Timing::frames(frames) };
    let Rig { near, far, device } = rig;
    let receive = vec![near.receive, far.receive];
    let mut generator = Generator::new(near.transmit, pool(), receive, eal().tsc_hz());
    let measurement = generator
        .run(profile, &timing, &AtomicBool::new(false), &Progress::default())
        .expect("the profile is accepted");
    assert_eq!(measurement.sent.frames, frames);
    assert_eq!(measurement.unsent, 0);
    drop((generator, device));
    measurement
}

fn counts(it: &Measurement) -> (u64, u64, u64) {
    (it.lost(), it.observed.reordered, it.observed.duplicates)
}

fn transparent() -> Behaviour {
    Box::new(|frame, now, out| out.push_back((now, frame)))
}

/// Every buffer is free again, those excepted that threads keep to themselves: DPDK counts these as free, too.
fn all_buffers_are_home() {
    assert_eq!(pool().available(), pool().capacity());
}

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

/// A device releases a frame at the first look at its queue once 50 us are over, so none can be faster; on a machine with
/// other work it may be late by as long as it does not get the processor, so the fast half of the packets is looked at.
#[test]
fn a_delay_of_fifty_microseconds_is_measured() {
    let _turn = turn();
    let hold = eal().tsc_hz() / 20_000;
    let delayed =
        || -> Behaviour { Box::new(move |frame, now, out| out.push_back((now + hold, frame))) };
    let medians = (0..5).map(|_| {
        let measured = measure(rig(delayed()), &profile(20_000.0), 4000);
        assert_eq!(counts(&measured), (0, 0, 0));
        assert!(measured.observed.latency.min() >= 49_900, "{}", measured.observed.latency.min());
        assert!(measured.observed.latency.max() < 10_000_000_000, "the histogram holds it");
        measured.observed.latency.value_at_quantile(0.1)
    });
    let best = medians.min().expect("five runs");
    assert!((50_000..65_000).contains(&best), "{best} ns");
    all_buffers_are_home();
}

#[test]
fn packets_are_recognised_whatever_a_translator_does_to_them() {
    let _turn = turn();
    for (protocol, size) in
        [(Protocol::Udp, 64), (Protocol::Tcp, 64), (Protocol::Tcp, 128), (Protocol::Icmp, 64)]
    {
        let translates: Behaviour = Box::new(move |mut frame, now, out| {
            translate(frame.bytes_mut(), protocol);
            out.push_back((now, frame));
        });
        let wanted =
            Profile { protocol, sizes: Sizes::fixed(size), flows: 50, ..profile(100_000.0) };
        let measured = measure(rig(translates), &wanted, 5000);
        assert_eq!(counts(&measured), (0, 0, 0), "{protocol:?} {size}");
        assert_eq!(measured.observed.unique, 5000);
    }
    all_buffers_are_home();
}

/// Both hardware addresses, both addresses and the ports become others.
fn translate(frame: &mut [u8], protocol: Protocol) {
    frame[..12].copy_from_slice(&[2, 9, 9, 9, 9, 1, 2, 9, 9, 9, 9, 2]);
    let (mut ip, payload) = Ipv4::split(&mut frame[14..]).expect("pktgen sends IPv4");
    ip.set_source([10, 9, 8, 7].into());
    ip.set_destination([10, 9, 8, 6].into());
    if protocol == Protocol::Udp {
        let mut udp = Udp::split(payload).expect("pktgen sends UDP");
        udp.set_source(7777, Change::default());
        udp.set_destination(8888, Change::default());
    } else if protocol == Protocol::Tcp {
        payload[..4].copy_from_slice(&[0x11, 0x11, 0x22, 0x22]);
    }
}

#[test]
fn packets_are_found_in_every_kind_of_tunnel() {
    let _turn = turn();
    for inner in [Family::V4, Family::V6] {
        for outer in [Family::V4, Family::V6] {
            for in_gue in [false, true] {
                let encapsulates: Behaviour = Box::new(move |mut frame, now, out| {
                    encapsulate(&mut frame, inner, outer, in_gue);
                    out.push_back((now, frame));
                });
                let wanted = Profile {
                    addresses: benchmark_addresses(inner),
                    sizes: Sizes::fixed(128),
                    flows: 20,
                    ..profile(100_000.0)
                };
                let measured = measure(rig(encapsulates), &wanted, 2000);
                assert_eq!(counts(&measured), (0, 0, 0), "{inner:?} in {outer:?}, GUE {in_gue}");
                assert_eq!(measured.observed.encapsulated, 2000);
                assert!(
                    measured.arrived[1].bytes >= 2000 * (124 + 20),
                    "outer headers count where they arrive"
                );
            }
        }
    }
    all_buffers_are_home();
}

fn encapsulate(frame: &mut Mbuf, inner: Family, outer: Family, in_gue: bool) {
    let number = if inner == Family::V4 { protocol::IPV4 } else { protocol::IPV6 };
    assert!(frame.trim_front(14));
    if in_gue {
        let headers =
            gue::headers((4444, gue::PORT), number, frame.len() as u16).expect("short enough");
        frame.prepend(headers.len()).expect("headroom").copy_from_slice(&headers);
    }
    let (length, carried) = (frame.len() as u16, if in_gue { protocol::UDP } else { number });
    let kind = if outer == Family::V4 {
        let header = ipv4::Header {
            type_of_service: 0,
            total_length: length + 20,
            identification: 1,
            dont_fragment: true,
            protocol: carried,
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
        };
        frame.prepend(20).expect("headroom").copy_from_slice(&header.to_bytes());
        [8, 0]
    } else {
        let header = ipv6::Header {
            traffic_class: 0,
            flow_label: 0,
            payload_length: length,
            next_header: carried,
            hop_limit: 64,
            source: "2001:db8::1".parse::<Address>().expect("an address"),
            destination: "2001:db8::2".parse::<Address>().expect("an address"),
        };
        frame.prepend(40).expect("headroom").copy_from_slice(&header.to_bytes());
        [0x86, 0xdd]
    };
    let link = frame.prepend(14).expect("headroom");
    link.copy_from_slice(&[&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8][..], &kind].concat());
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
    assert_eq!(syn - fin, 100, "those that are alive have begun and not ended");
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

fn session(rig: Rig, profile: Profile, trial: Timing) -> (Session, Device) {
    let Rig { near, far, device } = rig;
    let session = Session {
        eal: eal(),
        pool: pool(),
        transmit: vec![near.transmit, far.transmit],
        receive: vec![near.receive, far.receive],
        cores: vec![1],
        profile,
        gue_port: gue::PORT,
        calibration: None,
        trial,
        stop: Arc::new(AtomicBool::new(false)),
        live: Arc::new(Live::default()),
    };
    (session, device)
}

fn trial(milliseconds: u64) -> Timing {
    Timing { drain: Duration::from_millis(100), ..Timing::of(Duration::from_millis(milliseconds)) }
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
    let quiet = eal().tsc_hz() / 20;
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

fn connections(rig: Rig, answers: Answers, rate: f64) -> Connections {
    let wanted = Profile { protocol: Protocol::Tcp, flows: 20_000, ..profile(rate) };
    let (session, device) = session(rig, wanted, trial(100));
    let settings = cps::Settings {
        duration: Duration::from_millis(300),
        timeout: Duration::from_secs(2),
        answers,
        gue_port: gue::PORT,
    };
    let (_, outcome) = session.perform(Order::Connections(settings)).expect("nothing is refused");
    drop(device);
    match outcome {
        Outcome::Connections(connections) => *connections,
        other => panic!("{other:?}"),
    }
}

#[test]
fn connections_are_opened_and_closed_through_a_translator() {
    let _turn = turn();
    // As SNAT does: on the way there both ends get other addresses, on the way back they get the old ones.
    let rewrite = |from: [u8; 8], to: [u8; 8]| -> Behaviour {
        Box::new(move |mut frame, now, out| {
            assert_eq!(frame.bytes()[26 + 4..34], from[4..], "it is for whom it should be");
            let (mut ip, payload) = Ipv4::split(&mut frame.bytes_mut()[14..]).expect("IPv4");
            let [a, b, c, d, e, f, g, h] = to;
            let change = Change::of_address(ip.source(), [a, b, c, d].into());
            let change = change.and(Change::of_address(ip.destination(), [e, f, g, h].into()));
            ip.set_source([a, b, c, d].into());
            ip.set_destination([e, f, g, h].into());
            let mut tcp = dataplane::wire::tcp::Tcp::split(payload).expect("TCP");
            let port = tcp.source();
            tcp.set_source(port, change);
            out.push_back((now, frame));
        })
    };
    let there = rewrite([198, 18, 0, 1, 198, 19, 0, 1], [10, 0, 0, 9, 10, 0, 0, 7]);
    let back = rewrite([10, 0, 0, 7, 10, 0, 0, 9], [198, 19, 0, 1, 198, 18, 0, 1]);
    let found = connections(rig_both_ways(there, back), Answers::Device, 20_000.0);
    assert!(found.begun > 1000, "{found:?}");
    assert_eq!((found.established, found.closed), (found.begun, found.begun), "{found:?}");
    assert_eq!(
        (found.reached_server, found.timed_out, found.reset, found.foreign),
        (found.begun, 0, 0, 0)
    );
    assert_eq!(found.handshake_ns.expect("there were some").packets, found.begun);
    all_buffers_are_home();
}

#[test]
fn connections_through_a_tunnel_are_answered_past_it() {
    let _turn = turn();
    let there: Behaviour = Box::new(|mut frame, now, out| {
        encapsulate(&mut frame, Family::V4, Family::V6, false);
        out.push_back((now, frame));
    });
    let found = connections(rig(there), Answers::Direct, 20_000.0);
    assert!(
        found.begun > 1000 && found.established == found.begun && found.closed == found.begun,
        "{found:?}"
    );
    assert_eq!(found.encapsulated, found.reached_server);
    all_buffers_are_home();
}

#[test]
fn syns_that_are_dropped_are_connections_that_fail_in_time() {
    let _turn = turn();
    let mut syns = 0;
    let there: Behaviour = Box::new(move |frame, now, out| {
        let is_syn = frame.bytes()[47] == 0x02;
        syns += u64::from(is_syn);
        if !is_syn || syns % 10 != 0 {
            out.push_back((now, frame));
        }
    });
    let found = connections(rig(there), Answers::Device, 10_000.0);
    assert_eq!(found.timed_out, found.begun / 10, "{found:?}");
    assert_eq!(found.established + found.timed_out, found.begun);
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
        let replayed =
            replay.run(&capture, speed, rounds, Duration::from_millis(100), &stop, &progress);
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
    let timing = Timing { drain: Duration::from_millis(100), ..Timing::frames(10_000) };
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
