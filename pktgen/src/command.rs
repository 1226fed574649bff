//! The command line: what may be said, and what it means.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use dataplane::wire::ethernet::Tag;
use dataplane::wire::{Family, Mac};

use crate::addresses::{Addresses, Network, Ports};
use crate::choice::Choice;
use crate::cps::{self, Answers};
use crate::error::{Expected, Invalid};
use crate::frame::Protocol;
use crate::generator::Timing;
use crate::ports::{Device, Memory, Wanted};
use crate::profile::{Profile, benchmark_addresses};
use crate::rate::{self, Rate};
use crate::replay::{Capture, Speed};
use crate::rfc2544::Search;
use crate::session::Order;
use crate::size::{self, Sizes};

/// Makes traffic and measures what comes back
#[derive(Debug, Parser)]
#[command(name = "pktgen", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Pktgen {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  pktgen calibrate                                       what the generator itself can do here
  pktgen run --port rings --rate 1M                      a run inside this process: needs no card and no root
  pktgen run --port kernel:eth1 --port kernel:eth2 --rate 10k --html report.html
  pktgen rfc2544 throughput --port 0000:03:00.0 --port 0000:03:00.1 --destination-mac 02:00:00:00:00:01
  pktgen cps --port 0000:03:00.0 --port 0000:03:00.1 --rate 100k --destination 10.0.0.100
  pktgen replay capture.pcap --port kernel:eth1 --speed 2";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send traffic, and measure what arrives
    Run(Run),
    /// Benchmark a device as RFC 2544 says
    #[command(subcommand)]
    Rfc2544(Rfc2544),
    /// Open TCP connections through a device, with both ends here
    Cps(Cps),
    /// Send a capture file again, and count what arrives
    Replay(Replay),
    /// Find out what the generator itself can do here
    Calibrate(Calibrate),
}

/// Which benchmark.
#[derive(Debug, Subcommand)]
pub enum Rfc2544 {
    /// The fastest rate without loss (section 26.1)
    Throughput(Throughput),
    /// How long packets are under way at that rate (section 26.2)
    Latency(Latency),
    /// How much is lost at each load (section 26.3)
    Loss(Loss),
    /// The longest burst without loss (section 26.4)
    BackToBack(BackToBack),
}

/// Ports and what they run on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Ports")]
pub struct PortOptions {
    /// Where to send; given twice, the second is where to receive: a PCI address, kernel:INTERFACE, vdev:ARGUMENTS, or
    /// rings for two ports in this process
    #[arg(long, value_name = "DEVICE", required = true)]
    pub port: Vec<Device>,
    #[command(flatten)]
    host: HostOptions,
}

/// What the loops run on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Host")]
pub struct HostOptions {
    /// The largest IP packet, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    mtu: u16,
    /// Cores: one for both loops, or two, for sending and receiving [default: the first that is isolated, or the second]
    #[arg(long, value_name = "CORE[,CORE]", value_delimiter = ',')]
    cores: Vec<usize>,
    /// Memory for packets [default: huge with cards, else plain]
    #[arg(long, value_name = "KIND", value_enum)]
    memory: Option<Memory>,
    /// Leave out the calibration at the start
    #[arg(long)]
    no_calibration: bool,
}

/// What to send.
#[derive(Debug, Args)]
#[command(next_help_heading = "Traffic")]
pub struct TrafficOptions {
    /// How fast: packets a second (10k, 1.5M), bits a second on the wire (5Gbit), a share of the line rate (80%), or max
    #[arg(long, value_name = "RATE", default_value = "10k")]
    rate: Rate,
    #[command(flatten)]
    stream: StreamOptions,
}

/// What to send, but for how fast.
#[derive(Debug, Args)]
#[command(next_help_heading = "Traffic")]
pub struct StreamOptions {
    /// What 100 % are, in bits a second [default: what the port says, or else 10G]
    #[arg(long, value_name = "BITS", value_parser = line_rate)]
    line_rate: Option<u64>,
    /// Frame sizes in bytes, check included: 64, 64,512,1518, 64-1518 or imix
    #[arg(long, value_name = "SIZES")]
    sizes: Option<Sizes>,
    /// How many flows; with --choice new:RATE, how many at a time
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = flows)]
    flows: u32,
    /// Which flow is next: round-robin, random, zipf:S, or new:RATE with flows that begin and end
    #[arg(long, value_name = "HOW", default_value = "round-robin")]
    choice: Choice,
    /// What carries the payload
    #[arg(long, value_name = "PROTOCOL", default_value = "udp", value_parser = protocol)]
    protocol: Protocol,
    /// IPv6, unless --source or --destination say so already
    #[arg(long)]
    ipv6: bool,
    /// Who sends: an address, ADDRESS/LENGTH or ADDRESS-ADDRESS [default: 198.18.0.1-198.18.255.254]
    #[arg(long, value_name = "ADDRESSES")]
    source: Option<Network>,
    /// From which ports; with ICMP, identifiers
    #[arg(long, value_name = "PORTS", default_value = "1024-65535")]
    source_ports: Ports,
    /// To whom: the device's service [default: 198.19.0.1]
    #[arg(long, value_name = "ADDRESSES")]
    destination: Option<Network>,
    /// To which ports
    #[arg(long, value_name = "PORTS", default_value = "80")]
    destination_ports: Ports,
    /// The sender's hardware address [default: the sending port's]
    #[arg(long, value_name = "MAC", value_parser = mac)]
    source_mac: Option<Mac>,
    /// The device's hardware address [default: the receiving port's, as if there were only a cable]
    #[arg(long, value_name = "MAC", value_parser = mac)]
    destination_mac: Option<Mac>,
    /// Tag frames with this VLAN
    #[arg(long, value_name = "VLAN", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// Where to look for GUE among what arrives
    #[arg(long, value_name = "PORT", default_value_t = dataplane::wire::gue::PORT)]
    gue_port: u16,
    /// Random choices are the same with the same seed
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

/// Where results go.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Results")]
pub struct OutputOptions {
    /// Write the results as JSON, to the standard output unless FILE says otherwise
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
    /// Write a page with plots that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Plain lines once a second, even on a terminal
    #[arg(long)]
    pub plain: bool,
}

/// `pktgen run`.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    ports: PortOptions,
    #[command(flatten)]
    traffic: TrafficOptions,
    /// How long to send
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Send so many frames and no more
    #[arg(long, value_name = "NUMBER", value_parser = frames)]
    frames: Option<u64>,
    /// How long to wait for packets after the last was sent
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    drain: Duration,
    #[command(flatten)]
    output: OutputOptions,
}

/// What all benchmarks of RFC 2544 have.
#[derive(Debug, Args)]
pub struct TrialOptions {
    #[command(flatten)]
    ports: PortOptions,
    /// The highest load
    #[arg(long, value_name = "RATE", default_value = "100%")]
    rate: Rate,
    #[command(flatten)]
    stream: StreamOptions,
    /// How long a trial takes; section 24 asks for 60 s
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    trial: Duration,
    /// How long to wait for packets after the last was sent; section 23 asks for 2 s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    drain: Duration,
    /// How close the answer must be, in per cent of the highest load (of the longest burst)
    #[arg(long, value_name = "PERCENT", default_value = "0.5", value_parser = percent)]
    resolution: f64,
    /// Loss that still counts as none, in per cent of the frames; RFC 2544 has 0
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent_or_none)]
    acceptable_loss: f64,
    /// Trials before a load counts as too much; RFC 2544 has 1, a machine with other work wants more
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    #[command(flatten)]
    output: OutputOptions,
}

/// `pktgen rfc2544 throughput`.
#[derive(Debug, Args)]
pub struct Throughput {
    #[command(flatten)]
    trials: TrialOptions,
}

/// `pktgen rfc2544 latency`.
#[derive(Debug, Args)]
pub struct Latency {
    #[command(flatten)]
    trials: TrialOptions,
    /// The load at which latency is measured [default: the throughput, which is searched for first]
    #[arg(long, value_name = "RATE")]
    at: Option<Rate>,
    /// Trials, of which the average is reported; section 26.2 asks for 20
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: u32,
}

/// `pktgen rfc2544 loss`.
#[derive(Debug, Args)]
pub struct Loss {
    #[command(flatten)]
    trials: TrialOptions,
    /// Steps between loads, in per cent of the highest; section 26.3 asks for 10 or less
    #[arg(long, value_name = "PERCENT", default_value = "10", value_parser = percent)]
    step: f64,
}

/// `pktgen rfc2544 back-to-back`.
#[derive(Debug, Args)]
pub struct BackToBack {
    #[command(flatten)]
    trials: TrialOptions,
    /// The longest burst, as time at the highest load; section 26.4 asks for 2 s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    longest: Duration,
    /// Repetitions, of which the average is reported; section 26.4 asks for 50
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: u32,
}

/// `pktgen cps`.
#[derive(Debug, Args)]
pub struct Cps {
    #[command(flatten)]
    ports: PortOptions,
    /// New connections a second (10k), or max
    #[arg(long, value_name = "RATE", default_value = "10k")]
    rate: Rate,
    #[command(flatten)]
    stream: StreamOptions,
    /// How long to open connections
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// After how long a connection has failed
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    timeout: Duration,
    /// How answers reach the client: back through the device (NAT, SNAT), or past it (direct return, tunnels)
    #[arg(long, value_name = "WAY", value_enum, default_value_t = Answers::Device)]
    answers: Answers,
    #[command(flatten)]
    output: OutputOptions,
}

/// `pktgen replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// The capture, as tcpdump writes it (pcap)
    file: PathBuf,
    #[command(flatten)]
    ports: PortOptions,
    /// How many times as fast as it was captured, or max
    #[arg(long, value_name = "FACTOR", default_value = "1")]
    speed: Speed,
    /// How many times the whole file is sent
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// How long to count what arrives after the last frame was sent
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    drain: Duration,
    #[command(flatten)]
    output: OutputOptions,
}

/// `pktgen calibrate`.
#[derive(Debug, Args)]
pub struct Calibrate {
    #[command(flatten)]
    host: HostOptions,
    #[command(flatten)]
    stream: StreamOptions,
    /// How long each of the three parts takes
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    duration: Duration,
    #[command(flatten)]
    output: OutputOptions,
}

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
        }
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

fn line_rate(text: &str) -> Result<u64, Expected> {
    let bits = text.strip_suffix("bit").unwrap_or(text);
    let bits = rate::count(bits).filter(|bits| (1_000..=1_000_000_000_000).contains(bits));
    bits.ok_or_else(|| Expected("bits a second from 1k to 1000G, such as 10G".into()))
}

fn flows(text: &str) -> Result<u32, Expected> {
    let flows = rate::count(text).and_then(|flows| u32::try_from(flows).ok());
    flows
        .ok_or_else(|| Expected("a whole number of flows from 1 to 10M, such as 1000 or 1M".into()))
}

fn frames(text: &str) -> Result<u64, Expected> {
    let frames = rate::count(text).filter(|frames| *frames > 0);
    frames.ok_or_else(|| Expected("a whole number of frames above 0, such as 1000 or 1M".into()))
}

fn protocol(text: &str) -> Result<Protocol, Expected> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "icmp" => Ok(Protocol::Icmp),
        _ => Err(Expected("tcp, udp or icmp".into())),
    }
}

fn mac(text: &str) -> Result<Mac, Expected> {
    text.parse().map_err(|_| Expected("a hardware address such as 02:00:00:00:00:01".into()))
}

fn percent(text: &str) -> Result<f64, Expected> {
    percent_or_none(text)
        .ok()
        .filter(|percent| *percent > 0.0)
        .ok_or_else(|| Expected("per cent above 0 and up to 100, such as 0.5".into()))
}

fn percent_or_none(text: &str) -> Result<f64, Expected> {
    let text = text.strip_suffix('%').unwrap_or(text);
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let percent = text.parse().ok().filter(|percent| digits && (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| Expected("per cent from 0 to 100, such as 0.1".into()))
}

/// As everywhere in Sluice: `300` are seconds, or `500ms`, `10s`, `5m`, `6h`.
fn duration(text: &str) -> Result<Duration, Expected> {
    let refused = || Expected("a time from 1ms to 1000h, such as 10, 10s, 500ms, 5m or 1h".into());
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (digits, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1.0));
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds = digits.parse::<f64>().ok().filter(|_| plain).ok_or_else(refused)? * unit;
    if (0.001..=3.6e6).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(refused())
    }
}

#[cfg(test)]
mod tests;
