//! What the generator itself can do here, and how much latency it adds: every result is to be read beside this.
//!
//! A device is never faster than what measures it. So frames are sent into a port that drops them (the sending side
//! alone), through a ring to another port of this process (both sides on one core), and slowly through that ring (what
//! sending, the ring and receiving add to every latency).

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Result;
use dpdk_sys::{Device, Eal, Mempool, Port, PortSettings};
use serde::Serialize;

use crate::generator::{Generator, Timing};
use crate::measurement::Measurement;
use crate::ports::RING;
use crate::profile::Profile;
use crate::progress::Progress;
use crate::rate::Rate;

/// What the generator can do with one kind of traffic, on one core.
#[derive(Debug, Clone, Serialize)]
pub struct Calibration {
    /// Sizes of the frames, in bytes.
    pub sizes: String,
    /// Flows.
    pub flows: u32,
    /// How long each of the three parts took, in seconds.
    pub seconds: f64,
    /// Million frames a second into a port that drops them.
    pub null_mpps: f64,
    /// Million frames a second through a ring, each of them measured.
    pub ring_mpps: f64,
    /// Nanoseconds that a packet takes through a ring at a low rate.
    pub added_latency_ns: Added,
    /// How exactly a low rate was kept: 1 is exact.
    pub pace: f64,
}

/// Nanoseconds that the generator adds to a latency.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Added {
    /// The least.
    pub min: u64,
    /// Half of all packets have less.
    pub p50: u64,
    /// 99 of 100 have less.
    pub p99: u64,
    /// The most.
    pub max: u64,
}

/// Frames a second at which latency is measured.
const LOW_RATE: f64 = 100_000.0;

/// Runs on the calling thread with the traffic of `profile`, each of three parts for `duration`; frames come from
/// `pool`. Nothing leaves this process.
///
/// # Errors
/// If the profile is refused, or DPDK has no memory for the ports.
pub fn calibrate(
    eal: &Eal,
    pool: &Mempool,
    profile: &Profile,
    duration: Duration,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<Calibration> {
    let timing = Timing { drain: Duration::from_millis(20), ..Timing::of(duration) };
    let run = |generator: &mut Generator, rate| -> Result<Measurement> {
        let profile = Profile { rate, ..profile.clone() };
        Ok(generator.run(&profile, &timing, stop, progress)?)
    };
    let settings = PortSettings { mtu: profile.mtu, ..PortSettings::default() };
    let null = {
        let port = Port::open(eal, &Device::Virtual("net_null_calibration,no-rx=1".into()))?;
        let (_port, _, mut transmit) = port.start(&settings, pool)?;
        let mut generator = Generator::new(transmit.remove(0), pool.clone(), vec![], eal.tsc_hz());
        run(&mut generator, Rate::Most)?
    };
    let (_ports, mut generator) = through_rings(eal, pool, &settings)?;
    let ring = run(&mut generator, Rate::Most)?;
    let slow = run(&mut generator, Rate::PacketsPerSecond(LOW_RATE))?;
    let latency = &slow.observed.latency;
    Ok(Calibration {
        sizes: profile.sizes.to_string(),
        flows: profile.flows,
        seconds: duration.as_secs_f64(),
        null_mpps: null.sent_rate() / 1e6,
        ring_mpps: ring.received_rate() / 1e6,
        added_latency_ns: Added {
            min: latency.min(),
            p50: latency.value_at_quantile(0.5),
            p99: latency.value_at_quantile(0.99),
            max: latency.max(),
        },
        pace: slow.sent_rate() / LOW_RATE,
    })
}

/// Two ports joined by rings, and a generator that sends through one and receives through the other.
fn through_rings(
    eal: &Eal,
    pool: &Mempool,
    settings: &PortSettings,
) -> Result<([dpdk_sys::StartedPort; 2], Generator)> {
    let [left, right] = Port::pair(eal, 1, RING)?;
    let (left, _, mut transmit) = left.start(settings, pool)?;
    let (right, receive, _) = right.start(settings, pool)?;
    Ok(([left, right], Generator::new(transmit.remove(0), pool.clone(), receive, eal.tsc_hz())))
}
