//! The command line: what may be said ([`options`], with [`values`]), and what it means.

mod options;

mod values;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use dataplane::wire::ethernet::Tag;
use dataplane::wire::{Family, Mac};

pub use self::options::*;
use crate::addresses::{Addresses, Network};
use crate::choice::Choice;
use crate::cps;
use crate::error::Invalid;
use crate::frame::Protocol;
use crate::generator::Timing;
use crate::pace::Late;
use crate::ports::{Device, Wanted};
use crate::profile::{Profile, benchmark_addresses};
use crate::rate::Rate;
use crate::replay::{Capture, Speed};
use crate::rfc2544::Search;
use crate::session::Order;
use crate::size::{self, Sizes};
use crate::track::Tracking;

/// What a command line asks for.
#[derive(Debug)]
pub struct Asked {
    /// What to open.
    pub wanted: Wanted,
    /// What to send, with whatever the ports have to say left open.
    pub traffic: Traffic,
    /// What to do.
    pub order: Order,
    /// How long a trial takes.
    pub trial: Timing,
    /// How long each part of the calibration takes; none without.
    pub calibration: Option<Duration>,
    /// Where results go.
    pub output: OutputOptions,
    /// How long it will take, if that can be said.
    pub expected: Option<Duration>,
}

/// What to send, but for what the ports say.
#[derive(Debug)]
pub struct Traffic {
    rate: Rate,
    stream: StreamOptions,
    mtu: u16,
    /// For want of an option.
    sizes: Sizes,
}

/// How long each part of the calibration at the start takes.
const QUICK: Duration = Duration::from_millis(150);

/// The line rate where the port does not say.
const USUAL_LINE: u64 = 10_000_000_000;

impl Command {
    /// What it asks for, judged as far as that is possible before anything is opened.
    ///
    /// # Errors
    /// The first option that does not go with the others, or a file that cannot be read.
    pub fn asked(self) -> Result<Asked> {
        let asked = match self {
            Self::Run(run) => run.asked(),
            Self::Rfc2544(which) => which.asked()?,
            Self::Cps(cps) => cps.asked()?,
            Self::Replay(replay) => replay.asked()?,
            Self::Calibrate(calibrate) => calibrate.asked(),
        };
        asked.wanted.check()?;
        let is_alone = asked.wanted.devices.len() == 1 && asked.wanted.devices[0] != Device::Rings;
        if !asked.traffic.stream.answer.is_empty()
            && is_alone
            && !matches!(asked.order, Order::Connections(_))
        {
            let expected = "a second --port: questions are answered where packets are received";
            return Err(Invalid::new("--answer", expected, "one").into());
        }
        asked.traffic.profile(None, (Mac::default(), Mac::default())).check()?;
        Ok(asked)
    }
}

impl Traffic {
    /// The whole profile, for a sending port with this line rate, and ports with these addresses.
    pub fn profile(&self, line_rate: Option<u64>, (sending, receiving): (Mac, Mac)) -> Profile {
        let it = &self.stream;
        Profile {
            rate: self.rate,
            line_rate: it.line_rate.or(line_rate).unwrap_or(USUAL_LINE),
            sizes: it.sizes.clone().unwrap_or_else(|| self.sizes.clone()),
            flows: it.flows,
            choice: it.choice,
            addresses: it.addresses(),
            protocol: it.protocol,
            tag: it.vlan.map(Tag::from_bits),
            source_mac: it.source_mac.unwrap_or(sending),
            destination_mac: it.destination_mac.unwrap_or(receiving),
            mtu: self.mtu,
            seed: it.seed,
            tracking: Tracking::Flows,
            late: Late::CaughtUp,
        }
    }

    /// Addresses whose hardware address is told to whoever asks.
    pub fn answer(&self) -> Vec<Network> {
        self.stream.answer.clone()
    }

    /// Where GUE is looked for.
    pub fn gue_port(&self) -> u16 {
        self.stream.gue_port
    }
}

impl StreamOptions {
    fn is_v6(&self) -> bool {
        let is_v6 =
            |network: Option<Network>| network.is_some_and(|network| !network.first.is_v4());
        let is_v4 = |network: Option<Network>| network.is_some_and(|network| network.first.is_v4());
        let none_is_v4 = !is_v4(self.source) && !is_v4(self.destination);
        is_v6(self.source) || is_v6(self.destination) && none_is_v4 || self.ipv6 && none_is_v4
    }

    fn addresses(&self) -> Addresses {
        let usual = benchmark_addresses(if self.is_v6() { Family::V6 } else { Family::V4 });
        Addresses {
            source: self.source.unwrap_or(usual.source),
            source_ports: self.source_ports,
            destination: self.destination.unwrap_or(usual.destination),
            destination_ports: self.destination_ports,
        }
    }

    /// The smallest frame that there can be.
    fn smallest(&self) -> Sizes {
        Sizes::fixed(self.least())
    }

    fn least(&self) -> u16 {
        let profile = Profile {
            addresses: self.addresses(),
            protocol: self.protocol,
            tag: self.vlan.map(Tag::from_bits),
            ..Profile::simple()
        };
        profile.kind(crate::stamp::Mark(0)).least_size() as u16
    }

    /// The sizes of RFC 2544 section 9.1, as far as they fit; instead of any too small, the smallest that there can be.
    fn benchmark_sizes(&self, mtu: u16) -> Sizes {
        let tag = if self.vlan.is_some() { 4 } else { 0 };
        let (least, most) = (self.least(), u32::from(mtu) + 18 + tag);
        let mut sizes: Vec<u16> = size::RFC_2544.iter().map(|size| *size.max(&least)).collect();
        sizes.retain(|size| u32::from(*size) <= most);
        sizes.dedup();
        Sizes::InTurn(sizes)
    }
}

impl HostOptions {
    fn wanted(&self, devices: Vec<Device>) -> Wanted {
        Wanted { devices, memory: self.memory, mtu: self.mtu, cores: self.cores.clone() }
    }

    fn calibration(&self) -> Option<Duration> {
        (!self.no_calibration).then_some(QUICK)
    }
}

impl Run {
    fn asked(self) -> Asked {
        let timing = Timing {
            duration: self.duration,
            frames: self.frames.unwrap_or(u64::MAX),
            drain: self.drain,
        };
        let TrafficOptions { rate, stream } = self.traffic;
        let sizes = stream.smallest();
        Asked {
            wanted: self.ports.host.wanted(self.ports.port),
            traffic: Traffic { rate, stream, mtu: self.ports.host.mtu, sizes },
            order: Order::Run(timing),
            trial: timing,
            calibration: self.ports.host.calibration(),
            output: self.output,
            expected: self.frames.is_none().then_some(self.duration + self.drain),
        }
    }
}

impl TrialOptions {
    fn search(&self) -> Search {
        Search {
            top: 0.0, // follows from the size
            resolution: self.resolution / 100.0,
            acceptable_loss: self.acceptable_loss / 100.0,
            attempts: self.attempts,
        }
    }

    fn asked(self, order: Order) -> Result<Asked, Invalid> {
        if self.rate == Rate::Most {
            let expected = "a rate to begin with, such as 100% or 14M: a search needs an upper end";
            return Err(Invalid::new("--rate", expected, "max"));
        }
        let mtu = self.ports.host.mtu;
        let sizes = self.stream.benchmark_sizes(mtu);
        Ok(Asked {
            wanted: self.ports.host.wanted(self.ports.port),
            traffic: Traffic { rate: self.rate, stream: self.stream, mtu, sizes },
            order,
            trial: Timing { duration: self.trial, frames: u64::MAX, drain: self.drain },
            calibration: self.ports.host.calibration(),
            output: self.output,
            expected: None,
        })
    }
}

impl Rfc2544 {
    fn asked(self) -> Result<Asked, Invalid> {
        match self {
            Self::Throughput(Throughput { trials }) => {
                let order = Order::Throughput(trials.search());
                trials.asked(order)
            }
            Self::Latency(Latency { trials, at, repeat }) => {
                let at = match at {
                    None => None,
                    Some(Rate::PacketsPerSecond(rate)) => Some(rate),
                    Some(other) => {
                        let expected = "packets a second such as 1M, as sizes differ";
                        return Err(Invalid::new("--at", expected, other));
                    }
                };
                let order = Order::Latency(trials.search(), at, repeat);
                trials.asked(order)
            }
            Self::Loss(Loss { trials, step }) => {
                let order = Order::Loss(trials.search(), step / 100.0);
                trials.asked(order)
            }
            Self::BackToBack(BackToBack { trials, longest, repeat }) => {
                let order = Order::BackToBack(trials.search(), longest.as_secs_f64(), repeat);
                trials.asked(order)
            }
        }
    }
}

impl Cps {
    fn asked(mut self) -> Result<Asked, Invalid> {
        if self.stream.choice != Choice::RoundRobin {
            let expected = "round-robin: connections take their places in turn";
            return Err(Invalid::new("--choice", expected, self.stream.choice));
        }
        // As many connections at a time as there are ports, unless told otherwise.
        if self.stream.flows == 1 {
            self.stream.flows = Addresses::capacity(&self.stream.addresses()).min(100_000) as u32;
        }
        self.stream.protocol = Protocol::Tcp;
        let settings = cps::Settings {
            duration: self.duration,
            timeout: self.timeout,
            answers: self.answers,
            gue_port: self.stream.gue_port,
        };
        let sizes = self.stream.smallest();
        Ok(Asked {
            wanted: self.ports.host.wanted(self.ports.port),
            traffic: Traffic {
                rate: self.rate,
                stream: self.stream,
                mtu: self.ports.host.mtu,
                sizes,
            },
            order: Order::Connections(settings),
            trial: Timing::of(self.duration),
            calibration: self.ports.host.calibration(),
            output: self.output,
            expected: Some(self.duration),
        })
    }
}

impl Replay {
    fn asked(self) -> Result<Asked> {
        let mtu = self.ports.host.mtu;
        let capture = Capture::open(&self.file, usize::from(mtu) + 18)?;
        let length = capture.frames.last().map_or(0, |(at, _)| *at);
        let expected = match self.speed {
            Speed::Times(factor) => {
                let seconds = length as f64 / 1e9 / factor * self.rounds as f64;
                Duration::try_from_secs_f64(seconds).ok()
            }
            Speed::Most => None,
        };
        let stream = default_stream();
        let sizes = stream.smallest();
        Ok(Asked {
            wanted: self.ports.host.wanted(self.ports.port),
            traffic: Traffic { rate: Rate::PacketsPerSecond(10_000.0), stream, mtu, sizes },
            order: Order::Replay(Arc::new(capture), self.speed, self.rounds, self.drain),
            trial: Timing::of(Duration::ZERO),
            calibration: self.ports.host.calibration(),
            output: self.output,
            expected,
        })
    }
}

impl Calibrate {
    fn asked(self) -> Asked {
        let sizes = self.stream.smallest();
        Asked {
            wanted: self.host.wanted(vec![Device::Rings]),
            traffic: Traffic { rate: Rate::Most, stream: self.stream, mtu: self.host.mtu, sizes },
            order: Order::Calibrate,
            trial: Timing::of(self.duration),
            calibration: Some(self.duration),
            output: self.output,
            expected: Some(self.duration * 3),
        }
    }
}

/// What the options of a stream are when none is given.
fn default_stream() -> StreamOptions {
    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        stream: StreamOptions,
    }
    Alone::parse_from(["pktgen"]).stream
}

#[cfg(test)]
mod tests;
