//! pktgen at the two ports of whatever forwards: clients at the first, servers at the second. One loop on one core sends
//! and receives.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use pktgen::generator::{Generator, Timing};
use pktgen::measurement::Measurement;
use pktgen::profile::Profile;
use pktgen::progress::Progress;
use pktgen::rate::Rate;

use super::ports::End;
use crate::interrupt;
use crate::results::Percentiles;
use crate::rig::Ground;

/// How long frames are waited for after the last was sent; what has not come by then is lost.
const SILENCE: Duration = Duration::from_millis(40);

/// The generator and the measurer.
pub struct Tester {
    generator: Generator,
    stop: Arc<AtomicBool>,
    progress: Progress,
    /// How many trials there were: each has flows in another order.
    trials: u64,
}

/// How fast and how long frames are sent.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Frames a second; `None`: as many as the port takes.
    pub rate: Option<f64>,
    /// For so many seconds.
    pub seconds: f64,
    /// At most so many frames.
    pub frames: u64,
}

/// What came of it.
pub struct Trial {
    /// Frames that were to be sent, those that the port refused included.
    pub offered: u64,
    /// Frames that arrived.
    pub received: u64,
    /// For how long frames were sent, in seconds.
    pub seconds: f64,
    /// How long they took, in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Trial {
    /// At a wanted rate, what the port has refused is lost: the device was not fast enough.
    fn of(measured: Measurement, pace: Pace) -> Self {
        let refused = if pace.rate.is_some() { measured.unsent } else { 0 };
        Self {
            offered: measured.sent.frames + refused,
            received: measured.observed.unique,
            seconds: measured.sending,
            latency: measured.observed.latency,
        }
    }

    /// Share of the frames that did not arrive.
    pub fn loss(&self) -> f64 {
        self.offered.saturating_sub(self.received) as f64 / self.offered.max(1) as f64
    }

    /// Millions of frames a second that arrived.
    pub fn mpps(&self) -> f64 {
        self.received as f64 / self.seconds / 1e6
    }

    /// The latency as results have it.
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile| self.latency.value_at_quantile(quantile);
        Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: self.latency.max() }
    }
}

impl Tester {
    /// Sends at the clients' end.
    pub fn new(ground: &Ground, clients: End, servers: End) -> Self {
        let receive = vec![clients.receive, servers.receive];
        let (pool, hz) = (ground.pool.clone(), ground.clock.hz());
        let generator = Generator::new(clients.transmit, pool, receive, hz);
        Self { generator, stop: interrupt::flag(), progress: Progress::default(), trials: 0 }
    }

    /// Sends and counts. `besides` is called again and again meanwhile.
    ///
    /// # Errors
    /// If somebody interrupts, or frames come that were not sent.
    pub fn trial(
        &mut self,
        stream: &Profile,
        pace: Pace,
        besides: impl FnMut(u64),
    ) -> Result<Trial> {
        self.trials += 1;
        let rate = pace.rate.map_or(Rate::Most, Rate::PacketsPerSecond);
        let profile = Profile { rate, seed: stream.seed + self.trials, ..stream.clone() };
        let duration = Duration::from_secs_f64(pace.seconds);
        let timing = Timing { duration, frames: pace.frames, drain: SILENCE };
        let Self { generator, stop, progress, .. } = self;
        let measured = generator.run_beside(&profile, &timing, stop, progress, besides)?;
        interrupt::check()?;
        ensure!(measured.observed.duplicates == 0, "frames came that were not sent");
        ensure!(measured.arrived[0].frames == 0, "frames came back to the clients' side");
        Ok(Trial::of(measured, pace))
    }
}
