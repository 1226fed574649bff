//! The options, with the words that `--help` shows.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use dataplane::wire::Mac;

use super::values::{duration, flows, frames, line_rate, mac, percent, percent_or_none, protocol};
use crate::addresses::{Network, Ports};
use crate::choice::Choice;
use crate::cps::Answers;
use crate::frame::Protocol;
use crate::ports::{Device, Memory};
use crate::rate::Rate;
use crate::replay::Speed;
use crate::size::Sizes;

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
    pub(super) host: HostOptions,
}

/// What the loops run on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Host")]
pub struct HostOptions {
    /// The largest IP packet, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    pub(super) mtu: u16,
    /// Cores: one for both loops, or two, for sending and receiving [default: the first that is isolated, or the second]
    #[arg(long, value_name = "CORE[,CORE]", value_delimiter = ',')]
    pub(super) cores: Vec<usize>,
    /// Memory for packets [default: huge with cards, else plain]
    #[arg(long, value_name = "KIND", value_enum)]
    pub(super) memory: Option<Memory>,
    /// Leave out the calibration at the start
    #[arg(long)]
    pub(super) no_calibration: bool,
}

/// What to send.
#[derive(Debug, Args)]
#[command(next_help_heading = "Traffic")]
pub struct TrafficOptions {
    /// How fast: packets a second (10k, 1.5M), bits a second on the wire (5Gbit), a share of the line rate (80%), or max
    #[arg(long, value_name = "RATE", default_value = "10k")]
    pub(super) rate: Rate,
    #[command(flatten)]
    pub(super) stream: StreamOptions,
}

/// What to send, but for how fast.
#[derive(Debug, Args)]
#[command(next_help_heading = "Traffic")]
pub struct StreamOptions {
    /// What 100 % are, in bits a second [default: what the port says, or else 10G]
    #[arg(long, value_name = "BITS", value_parser = line_rate)]
    pub(super) line_rate: Option<u64>,
    /// Frame sizes in bytes, check included: 64, 64,512,1518, 64-1518 or imix
    #[arg(long, value_name = "SIZES")]
    pub(super) sizes: Option<Sizes>,
    /// How many flows; with --choice new:RATE, how many at a time
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = flows)]
    pub(super) flows: u32,
    /// Which flow is next: round-robin, random, zipf:S, or new:RATE with flows that begin and end
    #[arg(long, value_name = "HOW", default_value = "round-robin")]
    pub(super) choice: Choice,
    /// What carries the payload
    #[arg(long, value_name = "PROTOCOL", default_value = "udp", value_parser = protocol)]
    pub(super) protocol: Protocol,
    /// IPv6, unless --source or --destination say so already
    #[arg(long)]
    pub(super) ipv6: bool,
    /// Who sends: an address, ADDRESS/LENGTH or ADDRESS-ADDRESS [default: 198.18.0.1-198.18.255.254]
    #[arg(long, value_name = "ADDRESSES")]
    pub(super) source: Option<Network>,
    /// From which ports; with ICMP, identifiers
    #[arg(long, value_name = "PORTS", default_value = "1024-65535")]
    pub(super) source_ports: Ports,
    /// To whom: the device's service [default: 198.19.0.1]
    #[arg(long, value_name = "ADDRESSES")]
    pub(super) destination: Option<Network>,
    /// To which ports
    #[arg(long, value_name = "PORTS", default_value = "80")]
    pub(super) destination_ports: Ports,
    /// The sender's hardware address [default: the sending port's]
    #[arg(long, value_name = "MAC", value_parser = mac)]
    pub(super) source_mac: Option<Mac>,
    /// The device's hardware address [default: the receiving port's, as if there were only a cable]
    #[arg(long, value_name = "MAC", value_parser = mac)]
    pub(super) destination_mac: Option<Mac>,
    /// Tag frames with this VLAN
    #[arg(long, value_name = "VLAN", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub(super) vlan: Option<u16>,
    /// Answer ARP and neighbour solicitations for these addresses at the receiving port (cps: at both); may be repeated
    #[arg(long, value_name = "ADDRESSES")]
    pub(super) answer: Vec<Network>,
    /// Where to look for GUE among what arrives
    #[arg(long, value_name = "PORT", default_value_t = dataplane::wire::gue::PORT)]
    pub(super) gue_port: u16,
    /// Random choices are the same with the same seed
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) seed: u64,
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
    pub(super) ports: PortOptions,
    #[command(flatten)]
    pub(super) traffic: TrafficOptions,
    /// How long to send
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(super) duration: Duration,
    /// Send so many frames and no more
    #[arg(long, value_name = "NUMBER", value_parser = frames)]
    pub(super) frames: Option<u64>,
    /// How long to wait for packets after the last was sent
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub(super) drain: Duration,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}

/// What all benchmarks of RFC 2544 have.
#[derive(Debug, Args)]
pub struct TrialOptions {
    #[command(flatten)]
    pub(super) ports: PortOptions,
    /// The highest load
    #[arg(long, value_name = "RATE", default_value = "100%")]
    pub(super) rate: Rate,
    #[command(flatten)]
    pub(super) stream: StreamOptions,
    /// How long a trial takes; section 24 asks for 60 s
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(super) trial: Duration,
    /// How long to wait for packets after the last was sent; section 23 asks for 2 s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(super) drain: Duration,
    /// How close the answer must be, in per cent of the highest load (of the longest burst)
    #[arg(long, value_name = "PERCENT", default_value = "0.5", value_parser = percent)]
    pub(super) resolution: f64,
    /// Loss that still counts as none, in per cent of the frames; RFC 2544 has 0
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent_or_none)]
    pub(super) acceptable_loss: f64,
    /// Trials before a load counts as too much; RFC 2544 has 1, a machine with other work wants more
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) attempts: u32,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}

/// `pktgen rfc2544 throughput`.
#[derive(Debug, Args)]
pub struct Throughput {
    #[command(flatten)]
    pub(super) trials: TrialOptions,
}

/// `pktgen rfc2544 latency`.
#[derive(Debug, Args)]
pub struct Latency {
    #[command(flatten)]
    pub(super) trials: TrialOptions,
    /// The load at which latency is measured [default: the throughput, which is searched for first]
    #[arg(long, value_name = "RATE")]
    pub(super) at: Option<Rate>,
    /// Trials, of which the average is reported; section 26.2 asks for 20
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) repeat: u32,
}

/// `pktgen rfc2544 loss`.
#[derive(Debug, Args)]
pub struct Loss {
    #[command(flatten)]
    pub(super) trials: TrialOptions,
    /// Steps between loads, in per cent of the highest; section 26.3 asks for 10 or less
    #[arg(long, value_name = "PERCENT", default_value = "10", value_parser = percent)]
    pub(super) step: f64,
}

/// `pktgen rfc2544 back-to-back`.
#[derive(Debug, Args)]
pub struct BackToBack {
    #[command(flatten)]
    pub(super) trials: TrialOptions,
    /// The longest burst, as time at the highest load; section 26.4 asks for 2 s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(super) longest: Duration,
    /// Repetitions, of which the average is reported; section 26.4 asks for 50
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) repeat: u32,
}

/// `pktgen cps`.
#[derive(Debug, Args)]
pub struct Cps {
    #[command(flatten)]
    pub(super) ports: PortOptions,
    /// New connections a second (10k), or max
    #[arg(long, value_name = "RATE", default_value = "10k")]
    pub(super) rate: Rate,
    #[command(flatten)]
    pub(super) stream: StreamOptions,
    /// How long to open connections
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(super) duration: Duration,
    /// After how long a connection has failed
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(super) timeout: Duration,
    /// How answers reach the client: back through the device (NAT, SNAT), or past it (direct return, tunnels)
    #[arg(long, value_name = "WAY", value_enum, default_value_t = Answers::Device)]
    pub(super) answers: Answers,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}

/// `pktgen replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// The capture, as tcpdump writes it (pcap)
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) ports: PortOptions,
    /// How many times as fast as it was captured, or max
    #[arg(long, value_name = "FACTOR", default_value = "1")]
    pub(super) speed: Speed,
    /// How many times the whole file is sent
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) rounds: u64,
    /// How long to count what arrives after the last frame was sent
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub(super) drain: Duration,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}

/// `pktgen calibrate`.
#[derive(Debug, Args)]
pub struct Calibrate {
    #[command(flatten)]
    pub(super) host: HostOptions,
    #[command(flatten)]
    pub(super) stream: StreamOptions,
    /// How long each of the three parts takes
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(super) duration: Duration,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}
