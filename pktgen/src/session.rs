//! One run of the program, on the core where the loops run: calibration first, then what was asked for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use dataplane::wire::Mac;
use dpdk_sys::{Eal, Mempool, ReceiveQueue, TransmitQueue};

use crate::addresses::Network;
use crate::calibrate::{Calibration, calibrate};
use crate::cps;
use crate::generator::{Generator, Timing};
use crate::measurement::Measurement;
use crate::neighbours::Desk;
use crate::profile::Profile;
use crate::progress::Progress;
use crate::rate::Rate;
use crate::replay::{Capture, Replay, Speed};
use crate::report::{BySize, Outcome, Trials};
use crate::rfc2544::{self, Device, Search, Trial};
use crate::size::Sizes;

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Order {
    /// Send and measure.
    Run(Timing),
    /// Section 26.1 of RFC 2544.
    Throughput(Search),
    /// Section 26.2: at this rate in frames a second, or else at the throughput; so many trials.
    Latency(Search, Option<f64>, u32),
    /// Section 26.3, in steps of this share of the highest load.
    Loss(Search, f64),
    /// Section 26.4: the longest burst, in seconds at the highest rate, and so many repetitions.
    BackToBack(Search, f64, u32),
    /// Connections.
    Connections(cps::Settings),
    /// A capture, so many times.
    Replay(Arc<Capture>, Speed, u64, Duration),
    /// The calibration alone.
    Calibrate,
}

/// What is watched while it goes on.
#[derive(Debug, Default)]
pub struct Live {
    /// How far the current trial is.
    pub progress: Arc<Progress>,
    stage: Mutex<String>,
}

impl Live {
    /// What goes on, in a few words.
    pub fn stage(&self) -> String {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn enter(&self, stage: String) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }
}

/// Everything that a run needs.
#[derive(Debug)]
pub struct Session {
    /// DPDK.
    pub eal: Arc<Eal>,
    /// Where frames come from.
    pub pool: Mempool,
    /// Ways out: of each port, in order.
    pub transmit: Vec<TransmitQueue>,
    /// Ways in: of each port, in order.
    pub receive: Vec<ReceiveQueue>,
    /// One core for both loops, or one for each.
    pub cores: Vec<usize>,
    /// What to send.
    pub profile: Profile,
    /// Where GUE is looked for.
    pub gue_port: u16,
    /// Addresses whose hardware address is told to whoever asks.
    pub answer: Vec<Network>,
    /// The ports' hardware addresses, in order.
    pub macs: Vec<Mac>,
    /// How long each part of the calibration takes; none without.
    pub calibration: Option<Duration>,
    /// How long a trial of RFC 2544 takes.
    pub trial: Timing,
    /// Set by whoever wants it to end.
    pub stop: Arc<AtomicBool>,
    /// For whoever watches.
    pub live: Arc<Live>,
}

impl Session {
    /// Does what was asked for, on the calling thread; told to stop, it returns what there is.
    ///
    /// # Errors
    /// What was refused.
    pub fn perform(mut self, order: Order) -> Result<(Option<Calibration>, Outcome)> {
        self.profile.check()?;
        let calibration = self.calibrate()?;
        let outcome = match order {
            Order::Connections(settings) => self.connections(settings)?,
            Order::Replay(capture, speed, rounds, drain) => {
                self.replay(&capture, speed, rounds, drain)
            }
            Order::Calibrate => Outcome::Calibration,
            order => self.measure(order)?,
        };
        Ok((calibration, outcome))
    }

    fn calibrate(&self) -> Result<Option<Calibration>> {
        let Some(duration) = self.calibration else { return Ok(None) };
        self.live.enter("calibrating".into());
        let Self { eal, pool, profile, stop, live, .. } = self;
        calibrate(eal, pool, profile, duration, stop, &live.progress).map(Some)
    }

    fn connections(mut self, settings: cps::Settings) -> Result<Outcome> {
        self.live.enter("opening connections".into());
        let ports = self.receive.drain(..).zip(self.transmit.drain(..)).collect();
        let asked = self.profile.rate.pace(self.profile.line_rate).frames(64.0);
        let bench =
            cps::Bench::new(ports, self.pool.clone(), &self.profile, settings, self.eal.tsc_hz())?;
        let bench = bench.answering(self.answer, self.macs);
        Ok(Outcome::Connections(Box::new(bench.run(asked, &self.stop, &self.live.progress))))
    }

    fn replay(mut self, capture: &Capture, speed: Speed, rounds: u64, drain: Duration) -> Outcome {
        self.live.enter("replaying".into());
        let replay = Replay {
            transmit: self.transmit.swap_remove(0),
            receive: self.receive,
            pool: self.pool,
            hz: self.eal.tsc_hz(),
        };
        Outcome::Replay(replay.run(capture, speed, rounds, drain, &self.stop, &self.live.progress))
    }

    fn measure(&mut self, order: Order) -> Result<Outcome> {
        let transmit = self.transmit.swap_remove(0);
        let receive = std::mem::take(&mut self.receive);
        let generator = Generator::new(transmit, self.pool.clone(), receive, self.eal.tsc_hz());
        let desk = match (self.transmit.pop(), self.macs.last(), self.answer.is_empty()) {
            (Some(transmit), Some(mac), false) => Some(Desk {
                transmit,
                pool: self.pool.clone(),
                mac: *mac,
                ours: self.answer.clone(),
            }),
            _ => None,
        };
        let mut wire = Wire {
            generator: generator.with_gue_port(self.gue_port).answering(desk),
            session: self,
            profile: self.profile.clone(),
            top: 0.0,
        };
        match order {
            Order::Run(timing) => {
                self.live.enter("sending".into());
                let profile = wire.profile.clone();
                let measurement = wire.measure(&profile, &timing)?;
                Ok(Outcome::Run(Box::new((&measurement).into())))
            }
            Order::Throughput(search) => {
                let sizes = wire.each_size(search, rfc2544::throughput)?;
                Ok(Outcome::Throughput { sizes })
            }
            Order::Latency(search, rate, repeat) => {
                let at = |search: &Search, wire: &mut Wire<'_>| {
                    let rate = match rate {
                        Some(rate) => rate,
                        None => rfc2544::throughput(search, wire)?.rate,
                    };
                    if rate > 0.0 {
                        return rfc2544::latency(rate, repeat, wire);
                    }
                    Ok(rfc2544::AtLoad { rate, mean: 0.0, trials: vec![] })
                };
                Ok(Outcome::Latency { sizes: wire.each_size(search, at)? })
            }
            Order::Loss(search, step) => {
                let at = |search: &Search, wire: &mut Wire<'_>| {
                    rfc2544::loss(search, step, wire).map(|trials| Trials { trials })
                };
                Ok(Outcome::Loss { sizes: wire.each_size(search, at)? })
            }
            Order::BackToBack(search, seconds, repeat) => {
                let at = |search: &Search, wire: &mut Wire<'_>| {
                    let most = ((search.top * seconds) as u64).max(1);
                    rfc2544::back_to_back(search, most, repeat, wire)
                };
                Ok(Outcome::BackToBack { sizes: wire.each_size(search, at)? })
            }
            Order::Connections(_) | Order::Replay(..) | Order::Calibrate => {
                Ok(Outcome::Calibration)
            }
        }
    }
}

/// The device under test, as RFC 2544's searches see it.
struct Wire<'s> {
    generator: Generator,
    session: &'s Session,
    profile: Profile,
    /// The rate of bursts, in frames a second.
    top: f64,
}

impl Wire<'_> {
    fn measure(&mut self, profile: &Profile, timing: &Timing) -> Result<Measurement> {
        let Session { eal, cores, stop, live, .. } = self.session;
        match cores[..] {
            [send, receive] => self.generator.run_apart(
                eal,
                [send, receive],
                profile,
                timing,
                stop,
                &live.progress,
            ),
            _ => Ok(self.generator.run(profile, timing, stop, &live.progress)?),
        }
    }

    /// Searches for each size, as far as there is time; the highest load is that of the size.
    fn each_size<T>(
        &mut self,
        search: Search,
        mut find: impl FnMut(&Search, &mut Self) -> Result<T>,
    ) -> Result<Vec<BySize<T>>> {
        let mut found = vec![];
        for size in self.session.profile.sizes.distinct() {
            if self.is_over() {
                break;
            }
            self.profile.sizes = Sizes::fixed(size);
            let profile = &self.session.profile;
            self.top =
                profile.rate.pace(profile.line_rate).frames(size.into()).unwrap_or(search.top);
            let search = Search { top: self.top, ..search };
            found.push(BySize::new(size, profile.line_rate, find(&search, self)?));
        }
        Ok(found)
    }

    fn is_over(&self) -> bool {
        self.session.stop.load(Ordering::Relaxed)
    }

    fn try_at(&mut self, rate: f64, timing: &Timing) -> Result<Option<Trial>> {
        let profile = Profile { rate: Rate::PacketsPerSecond(rate), ..self.profile.clone() };
        let measurement = self.measure(&profile, timing)?;
        Ok((!measurement.interrupted).then(|| Trial::of(&measurement, rate)))
    }
}

impl Device for Wire<'_> {
    fn trial(&mut self, rate: f64) -> Result<Option<Trial>> {
        if self.is_over() {
            return Ok(None);
        }
        let share = rate / self.top * 100.0;
        self.session
            .live
            .enter(format!("{} B at {share:.2} % of the highest load", self.profile.sizes));
        let timing = self.session.trial;
        self.try_at(rate, &timing)
    }

    fn burst(&mut self, frames: u64) -> Result<Option<Trial>> {
        if self.is_over() {
            return Ok(None);
        }
        self.session.live.enter(format!("{} B, {frames} back to back", self.profile.sizes));
        let timing = Timing { drain: self.session.trial.drain, ..Timing::frames(frames) };
        self.try_at(self.top, &timing)
    }
}
