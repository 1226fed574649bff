//! A device between pktgen's two ports, whose behaviour each test says.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arrayvec::ArrayVec;
use dpdk_sys::{
    Eal, EalOptions, LogLevel, Mbuf, Memory, Mempool, Port, PortSettings, ReceiveQueue,
    StartedPort, TransmitQueue, lcore,
};
use pktgen::generator::{Generator, Timing};
use pktgen::measurement::Measurement;
use pktgen::profile::Profile;
use pktgen::progress::Progress;
use pktgen::rate::Rate;

/// Frames that each ring holds: more than a test sends while its device does not get the processor.
pub const RING: u32 = 32_768;

pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn eal() -> Arc<Eal> {
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

pub fn pool() -> Mempool {
    static POOL: OnceLock<Mempool> = OnceLock::new();
    POOL.get_or_init(|| Mempool::new(&eal(), "test", 65_535, 2048, None).expect("there is memory"))
        .clone()
}

pub struct End {
    pub receive: ReceiveQueue,
    pub transmit: TransmitQueue,
    _port: StartedPort,
}

pub fn pair() -> [End; 2] {
    let pair = Port::pair(&eal(), 1, RING).expect("there is memory for the rings");
    pair.map(|port| {
        let (port, mut receive, mut transmit) =
            port.start(&PortSettings::default(), &pool()).expect("the port starts");
        End { receive: receive.remove(0), transmit: transmit.remove(0), _port: port }
    })
}

/// What a device does with a frame: whatever it pushes goes out, no sooner than the time beside it.
pub type Behaviour = Box<dyn FnMut(Mbuf, u64, &mut VecDeque<(u64, Mbuf)>) + Send>;

/// A device between two pairs of ports: the near side is pktgen's sending port, the far side its receiving one.
pub struct Rig {
    pub near: End,
    pub far: End,
    pub device: Device,
}

pub struct Device {
    pub stop: Arc<AtomicBool>,
    pub thread: Option<JoinHandle<()>>,
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

pub fn rig(there: Behaviour) -> Rig {
    rig_both_ways(there, Box::new(|frame, now, out| out.push_back((now, frame))))
}

pub fn rig_both_ways(there: Behaviour, back: Behaviour) -> Rig {
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

pub fn forward(
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

pub fn profile(rate: f64) -> Profile {
    Profile { rate: Rate::PacketsPerSecond(rate), ..Profile::simple() }
}

/// How long frames may be on their way in the end: a device is a thread that may not always have a core.
pub const DRAIN: Duration = Duration::from_millis(300);

/// Sends so many frames through the device, and gives every buffer back.
pub fn measure(rig: Rig, profile: &Profile, frames: u64) -> Measurement {
    let timing = Timing { drain: DRAIN, ..Timing::frames(frames) };
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

pub fn counts(it: &Measurement) -> (u64, u64, u64) {
    (it.lost(), it.observed.reordered, it.observed.duplicates)
}

pub fn transparent() -> Behaviour {
    Box::new(|frame, now, out| out.push_back((now, frame)))
}

/// Every buffer is free again, those excepted that threads keep to themselves: DPDK counts these as free, too.
pub fn all_buffers_are_home() {
    assert_eq!(pool().available(), pool().capacity());
}
