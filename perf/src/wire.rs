//! Suite `wire`: a device on one core and the generator on another, drivers included. Each wire is measured in a
//! process of its own, because DPDK starts once and wants its memory made in different ways.
//!
//! 1. [`ports`]: the wires
//! 2. [`tester`]: the generator and the measurer, which is pktgen; [`search`]: the highest rate without loss
//! 3. [`inside`]: devices in this process, behind rings: [`rings`]
//! 4. [`outside`]: the appliance and testpmd as processes, behind memif and vhost: [`processes`]

pub mod ports;

pub mod tester;

pub mod search;

pub mod inside;

pub mod outside;

mod rings;

mod processes;

use anyhow::Result;
use clap::Args;
use dataplane::wire::Mac;
use pktgen::addresses::{Addresses, Network, Ports};
use pktgen::choice::Choice;
use pktgen::frame::Protocol;
use pktgen::pace::Late;
use pktgen::profile::Profile;
use pktgen::size::Sizes;
use pktgen::stamp::Mark;
use pktgen::track::Tracking;

use crate::ground::{self, Memory};
use crate::machine;
use crate::outcome::Outcome;
use crate::results::{Mix, Record, SizeName};
use crate::traffic::{CLIENTS, Family, Mode, Scene, Size};
pub use ports::Wire;
use search::Search;
use tester::{Pace, Tester};

pub use processes::against_testpmd;

/// What suite `wire` measures; everything unless told.
#[derive(Debug, Clone, Default, Args)]
pub struct Selection {
    /// Only on these wires
    #[arg(long, value_delimiter = ',', value_enum)]
    pub wire: Vec<Wire>,
    /// Only these modes
    #[arg(long, value_delimiter = ',', value_enum)]
    pub mode: Vec<Mode>,
    /// So many flows instead of 1,000 and 1,000,000
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub flows: Vec<u32>,
    /// Seconds of one trial
    #[arg(long, value_name = "SECONDS")]
    pub trial: Option<f64>,
}

impl Selection {
    /// What each wire's process is told too.
    pub fn passed_on(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.mode.iter().flat_map(|mode| ["--mode".into(), mode.name().to_owned()]));
        words.extend(self.flows.iter().flat_map(|it| ["--flows".into(), it.to_string()]));
        words.extend(self.trial.iter().flat_map(|it| ["--trial".into(), it.to_string()]));
        words
    }
}

/// How thoroughly is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Fewer cases.
    pub quick: bool,
    /// Seconds of one trial.
    pub seconds: f64,
    /// Where tables lie.
    pub memory: Memory,
    /// The device's core.
    pub core: usize,
}

impl Effort {
    /// As somebody has asked for.
    pub fn new(quick: bool, trial: Option<f64>, memory: Memory, core: Option<usize>) -> Self {
        let seconds = trial.unwrap_or(if quick { 0.15 } else { 1.0 });
        Self { quick, seconds, memory, core: core.unwrap_or_else(machine::last_core) }
    }

    /// The generator's core: another one, if there is one.
    pub fn other_core(&self) -> usize {
        usize::from(self.core == 0 && machine::last_core() > 0)
    }

    /// How the highest rate is looked for.
    pub fn search(&self) -> Search {
        Search {
            seconds: self.seconds,
            steps: if self.quick { 5 } else { 8 },
            tries: if self.quick { 2 } else { 3 },
        }
    }

    /// A trial at this rate.
    pub fn pace(&self, rate: Option<f64>) -> Pace {
        Pace { rate, seconds: self.seconds, frames: u64::MAX }
    }

    fn modes(&self, selection: &Selection) -> Vec<Mode> {
        match selection.mode.is_empty() {
            true => vec![Mode::Dr, Mode::Nat, Mode::Snat, Mode::Tun],
            false => selection.mode.clone(),
        }
    }

    fn flows(&self, selection: &Selection) -> Vec<u32> {
        match (selection.flows.is_empty(), self.quick) {
            (false, _) => selection.flows.clone(),
            (true, true) => vec![1_000_000],
            (true, false) => vec![1_000, 1_000_000],
        }
    }
}

/// Measures on one wire, in this process.
///
/// # Errors
/// If a device cannot be started, or somebody interrupts.
pub fn run(
    wire: Wire,
    selection: &Selection,
    effort: Effort,
    outcome: &mut Option<Outcome>,
) -> Result<()> {
    // virtio-user shares all of its memory with the device, which takes it in one piece only.
    let memory = if wire == Wire::Rings { effort.memory } else { Memory::Plain };
    let most = effort.flows(selection).into_iter().max().unwrap_or_default();
    let tables = if wire == Wire::Rings { u64::from(most.max(100_000)) * 180 } else { 0 };
    let started = ground::start(memory, tables, effort.other_core())?;
    let outcome = outcome.insert(Outcome::new(started.huge));
    match wire {
        Wire::Rings => rings::run(&started.ground, selection, effort, outcome),
        Wire::Memif | Wire::Vhost => {
            processes::run(&started.ground, wire, selection, effort, outcome)
        }
    }
}

/// A scene with one service of ten servers.
fn scene(mode: Mode, family: Family, flows: u32) -> Scene {
    Scene { mode, family, flows, services: 1, servers: 10 }
}

/// Requests of known flows, in random order, in frames of 64 bytes or as many as the headers take; `macs` are sender
/// and receiver.
fn requests(scene: Scene, macs: [Mac; 2]) -> Profile {
    let profile = Profile {
        flows: scene.flows,
        choice: Choice::Random,
        addresses: addresses(scene),
        protocol: Protocol::Tcp,
        source_mac: macs[0],
        destination_mac: macs[1],
        tracking: Tracking::Run,
        late: Late::GivenUp,
        ..Profile::simple()
    };
    let size = profile.kind(Mark(0)).least_size() as u16;
    Profile { sizes: Sizes::fixed(size), ..profile }
}

/// As many clients as a scene has, each with as many ports as it takes, and the scene's first service.
fn addresses(scene: Scene) -> Addresses {
    let (client, port) = scene.ends(0).source;
    let (service, service_port) = scene.virtual_address(0);
    let more_ports = (scene.flows.div_ceil(CLIENTS) - 1) as u16;
    Addresses {
        source: Network { first: client, count: scene.flows.min(CLIENTS) },
        source_ports: Ports { first: port, last: port + more_ports },
        destination: Network { first: service, count: 1 },
        destination_ports: Ports { first: service_port, last: service_port },
    }
}

/// Frames a second at which flows begin: slow enough for any worker.
const BEGINNING: f64 = 1.5e6;

/// Begins every flow of `scene`: a SYN each, and then an ACK each. What is lost begins with its first packet later on.
fn begin_flows(tester: &mut Tester, scene: Scene, macs: [Mac; 2]) -> Result<()> {
    for tracking in [Tracking::Flows, Tracking::Run] {
        let stream = Profile { choice: Choice::RoundRobin, tracking, ..requests(scene, macs) };
        let pace = Pace { rate: Some(BEGINNING), seconds: 60.0, frames: scene.flows.into() };
        tester.trial(&stream, pace, |_| {})?;
    }
    Ok(())
}

fn record(case: &str, wire: Wire, scene: &Scene, size: Size) -> Record {
    Record {
        suite: "wire".into(),
        case: case.into(),
        mode: Some(scene.mode),
        family: Some(scene.family),
        flows: Some(scene.flows),
        size: Some(match size {
            Size::Fixed(bytes) => SizeName::Bytes(bytes),
            Size::Imix => SizeName::Mix(Mix::Imix),
        }),
        link: Some(wire.name().into()),
        ..Record::default()
    }
}
