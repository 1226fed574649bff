//! The pipeline taken apart, whose steps are timed one by one, is the worker's: the same frames through both come out as
//! the same frames, and the same is counted. A step that only one of them has shows here.

use std::time::Duration;

use dataplane::counters::Counters;
use dataplane::frame::{Burst, Link};
use dataplane::lookup::flow_table::Capacity;
use dataplane::moment::Moment;
use dataplane::testing::{self, INSIDE, OUTSIDE};
use dataplane::wire::tcp::Flags;
use dataplane::wire::{ipv4, ipv6};
use dataplane::worker::{Parts, Worker};
use perf::belt::{Belt, BeltLink, SharedBelt};
use perf::ground::{self, Memory};
use perf::machine;
use perf::parts::{Assembled, assemble};
use perf::random::Random;
use perf::rig::{Ground, Turn};
use perf::step::stages::Stages;
use perf::traffic::{self, Ends, Family, Mode, Scene};

const FLOWS: u32 = 2_000;
const FRAMES: usize = 8_000;
/// What only the worker counts: it says what its table holds, looks after the queues, and hands to the control plane what
/// the other lets go.
const NOT_COMPARED: [&str; 8] = [
    "flow_capacity",
    "received",
    "received_bytes",
    "idle_turns",
    "busy_turns",
    "punted",
    "punt_rate_limited",
    "punt_ring_full",
];

/// What came out of each phase, and what was counted in the end.
struct Seen {
    phases: Vec<Vec<Vec<u8>>>,
    counted: Vec<(String, i64)>,
}

struct Bench<T> {
    pipeline: T,
    counters: Counters,
    belt: SharedBelt,
    now: Moment,
    random: Random,
    /// Bytes that are in front of what came out.
    grown: usize,
}

impl<T: Turn> Bench<T> {
    /// Fills the belt by `write`, and turns until it is empty.
    fn phase(
        &mut self,
        entrance: usize,
        mut write: impl FnMut(&mut Random) -> Vec<u8>,
    ) -> Vec<Vec<u8>> {
        self.belt.borrow_mut().entrance = entrance;
        self.belt.borrow_mut().rewind(|_, frame| {
            let bytes = write(&mut self.random);
            frame.trim_front(self.grown);
            frame.truncate(0);
            frame.append(bytes.len()).expect("room in a buffer").copy_from_slice(&bytes);
        });
        while self.belt.borrow().waiting() > 0 {
            self.pipeline.turn(self.now);
            self.now = self.now.plus(Duration::from_micros(3));
        }
        self.belt.borrow().sent().iter().map(|frame| frame.bytes().to_vec()).collect()
    }
}

/// Upsets one frame of three: some of its bytes are others, or its end is missing.
fn upset(mut frame: Vec<u8>, random: &mut Random) -> Vec<u8> {
    match random.below(9) {
        0 | 1 => {
            for _ in 0..=random.below(2) {
                let at = random.below(frame.len() as u32) as usize;
                frame[at] = random.below(256) as u8;
            }
        }
        2 => frame.truncate(14 + random.below(60) as usize),
        _ => {}
    }
    frame
}

fn frame(interface: usize, ends: Ends, flags: u8) -> Vec<u8> {
    let (near, station) = match interface {
        0 => (OUTSIDE, testing::GATEWAY),
        _ => (INSIDE, testing::our_address(OUTSIDE)),
    };
    let macs = [testing::mac_of(station), testing::mac_of(testing::our_address(near))];
    let mut bytes = vec![0; 100];
    traffic::write(&mut bytes, macs, ends, flags, 100);
    bytes
}

/// Requests that begin flows, replies, both upset, and both two hours later.
fn seen<T: Turn>(ground: &Ground, scene: Scene, build: impl FnOnce(Parts<BeltLink>) -> T) -> Seen {
    let belt = Belt::new(&ground.pool, FRAMES).expect("buffers");
    let mut links = BeltLink::pair(&belt, &ground.pool);
    while belt.borrow().waiting() > 0 {
        let mut frames = Burst::new();
        links[0].receive(&mut frames);
        links[1].transmit(&mut frames);
    }
    let capacity = Capacity { v4: 4_096, v6: 4_096 };
    let assembled = assemble(&ground.eal, scene.snapshot(), capacity, links).expect("memory");
    let Assembled { parts, publisher: _publisher, control: _control } = assembled;
    let counters = parts.counters.clone();
    let (now, random) = (Moment::from_nanos(1_000_000_000), Random::new(7));
    let mut bench = Bench { pipeline: build(parts), counters, belt, now, random, grown: 0 };

    let request = |random: &mut Random, flags| frame(0, scene.ends(random.below(FLOWS)), flags);
    let mut phases = vec![bench.phase(0, |random| request(random, Flags::SYN))];
    bench.grown = match (scene.mode, scene.family) {
        (Mode::Tun, Family::Ipv4) => ipv4::HEADER,
        (Mode::Tun, Family::Ipv6) => ipv6::HEADER,
        _ => 0,
    };
    let forwarded: Vec<Ends> = phases[0].iter().filter_map(|frame| Ends::of(frame)).collect();
    let answered = scene.mode.translates();
    let reply = |random: &mut Random| {
        let of = forwarded[random.below(forwarded.len() as u32) as usize];
        frame(1, of.reversed(), Flags::SYN | Flags::ACK)
    };
    for _ in 0..2 {
        if answered {
            phases.push(bench.phase(1, reply));
            phases.push(bench.phase(1, |random| upset(reply(random), random)));
        }
        phases.push(bench.phase(0, |random| request(random, Flags::ACK)));
        phases.push(bench.phase(0, |random| upset(request(random, Flags::ACK), random)));
        phases.push(bench.phase(0, |random| request(random, Flags::FIN | Flags::ACK)));
        bench.now = bench.now.plus(Duration::from_secs(7_200));
    }
    let compared = |(name, _): &(String, i64)| !NOT_COMPARED.contains(&&**name);
    Seen { phases, counted: bench.counters.all().into_iter().filter(compared).collect() }
}

#[test]
fn the_steps_one_by_one_do_what_a_worker_does() {
    let started = ground::start(Memory::Plain, 32 << 20, machine::last_core()).unwrap();
    let mut reasons = 0;
    for family in [Family::Ipv4, Family::Ipv6] {
        for mode in [Mode::Dr, Mode::Nat, Mode::Snat, Mode::Tun] {
            let scene = Scene { mode, family, flows: FLOWS, services: 7, servers: 3 };
            let whole = seen(&started.ground, scene, Worker::new);
            let apart = seen(&started.ground, scene, Stages::new);
            for (phase, (whole, apart)) in whole.phases.iter().zip(&apart.phases).enumerate() {
                let differs = whole.iter().zip(apart).position(|(whole, apart)| whole != apart);
                assert_eq!(differs, None, "{scene:?}: frame of phase {phase}");
                assert_eq!(whole.len(), apart.len(), "{scene:?}: frames of phase {phase}");
                assert!(whole.len() > FRAMES / 5, "{scene:?}: {} in phase {phase}", whole.len());
            }
            let counted = whole.counted.iter().filter(|it| !apart.counted.contains(it));
            assert_eq!(counted.collect::<Vec<_>>(), Vec::<&(String, i64)>::new(), "{scene:?}");
            assert_eq!(whole.counted.len(), apart.counted.len(), "{scene:?}");
            let dropped = dataplane::counters::Reason::ALL.iter().map(|reason| reason.name());
            let dropped =
                dropped.filter(|name| whole.counted.iter().any(|it| it.0 == *name && it.1 > 0));
            reasons = reasons.max(dropped.count());
        }
    }
    assert!(reasons >= 8, "of the reasons for which frames are dropped, only {reasons} came up");
}
