//! The appliance itself, in a process of its own behind memif or vhost; and testpmd in its place.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use dataplane::testing::{self, OUTSIDE};
use dataplane::wire::Mac;
use dpdk_sys::StartedPort;

use super::outside::{self, Appliance, Polling, Process, Testpmd};
use super::ports::End;
use super::search::Found;
use super::tester::{Pace, Tester};
use super::{Effort, Selection, Wire, begin_flows, ports, record, requests, scene};
use crate::ground::Memory;
use crate::http;
use crate::outcome::Outcome;
use crate::pages::Pages;
use crate::results::{Percentiles, Record, Spread};
use crate::rig::Ground;
use crate::traffic::{Family, Mode, Scene, Size};

const SMALL: Size = Size::Fixed(64);
/// Shares of the throughput at which latency is measured.
const LOADS: [f64; 2] = [0.5, 0.8];

pub fn run(
    ground: &Ground,
    wire: Wire,
    selection: &Selection,
    effort: Effort,
    outcome: &mut Outcome,
) -> Result<()> {
    let modes = effort.modes(selection);
    // In a quick run each wire is seen at work, and that is all.
    let modes = if effort.quick { &modes[..modes.len().min(1)] } else { &modes[..] };
    for flows in effort.flows(selection) {
        let flows = if effort.quick { flows.min(100_000) } else { flows };
        for &mode in modes {
            let scene = scene(mode, Family::Ipv4, flows);
            let mut bench = Bench::appliance(ground, wire, scene, Polling::Busy, effort)?;
            let mpps = bench.throughput(scene, effort, outcome)?;
            bench.latency(scene, mpps, effort, outcome)?;
            if mode == Mode::Dr {
                bench.publishing(scene, effort, outcome)?;
            }
        }
    }
    let scene = scene(Mode::Dr, Family::Ipv4, 1_000);
    Bench::appliance(ground, wire, scene, Polling::Adaptive, effort)?.idle(scene, effort, outcome)
}

/// Debian's testpmd between the same wires, and the appliance right after it, so that their quotient means something.
///
/// # Errors
/// If either cannot be started.
pub fn against_testpmd(
    ground: &Ground,
    wire: Wire,
    effort: Effort,
    outcome: &mut Outcome,
) -> Result<()> {
    let pages = match effort.memory {
        Memory::Huge => Pages::reserve((outside::TESTPMD_MEMORY + 64) << 20)?,
        Memory::Plain => None,
    };
    let memory = if pages.is_some() { Memory::Huge } else { Memory::Plain };
    let flows: &[u32] = if effort.quick { &[100_000] } else { &[1_000, 1_000_000] };
    for &flows in flows {
        let scene = scene(Mode::Dr, Family::Ipv4, flows);
        let mut rival = |what| -> Result<Found> {
            let mut bench = Bench::testpmd(ground, wire, what, memory, effort)?;
            outcome.watch(bench.process.id());
            let stream = requests(scene, bench.macs);
            let found = effort.search().run(&mut bench.tester, &stream)?;
            outcome.add(Record {
                suite: "rivals".into(),
                rival: Some(format!("testpmd {}", what.name())),
                mode: None,
                mpps: Some(found.mpps),
                loss: Some(found.loss),
                ..record("throughput", wire, &scene, SMALL)
            });
            Ok(found)
        };
        let (macswap, _) = (rival(Testpmd::Macswap)?, rival(Testpmd::Io)?);
        let modes: &[Mode] =
            if effort.quick { &[Mode::Dr] } else { &[Mode::Dr, Mode::Nat, Mode::Tun] };
        for &mode in modes {
            let scene = Scene { mode, ..scene };
            let mut bench = Bench::appliance(ground, wire, scene, Polling::Busy, effort)?;
            begin_flows(&mut bench.tester, scene, bench.macs)?;
            outcome.watch(bench.process.id());
            let stream = requests(scene, bench.macs);
            let found = effort.search().run(&mut bench.tester, &stream)?;
            outcome.add(Record {
                suite: "rivals".into(),
                mpps: Some(found.mpps),
                loss: Some(found.loss),
                ratio_to_macswap: (macswap.mpps > 0.0).then_some(found.mpps / macswap.mpps),
                ratio: Some(found.flood_mpps / macswap.flood_mpps),
                ..record("macswap", wire, &scene, SMALL)
            });
        }
    }
    Ok(())
}

/// A device in another process, and the generator connected to it.
struct Bench {
    // The generator's ports close before the device ends.
    tester: Tester,
    _ports: Vec<StartedPort>,
    process: Process,
    wire: Wire,
    /// Sender and receiver of frames from clients.
    macs: [Mac; 2],
}

/// The generator's ends of both wires.
struct Wires {
    clients: End,
    servers: End,
    ports: Vec<StartedPort>,
}

impl Wires {
    fn connect(ground: &Ground, wire: Wire, process: &mut Process) -> Result<Self> {
        let mut open = |number| ports::connect(&ground.eal, &ground.pool, wire, process, number);
        let opened = open(0).and_then(|first| Ok((first, open(1)?)));
        process.check()?;
        let ((first, clients), (second, servers)) = opened?;
        Ok(Self { clients, servers, ports: vec![first, second] })
    }

    fn bench(self, ground: &Ground, wire: Wire, process: Process, macs: [Mac; 2]) -> Bench {
        let tester = Tester::new(ground, self.clients, self.servers);
        Bench { tester, _ports: self.ports, process, wire, macs }
    }
}

impl Bench {
    fn appliance(
        ground: &Ground,
        wire: Wire,
        scene: Scene,
        polling: Polling,
        effort: Effort,
    ) -> Result<Self> {
        let Effort { core, memory, .. } = effort;
        let mut process = Appliance { scene, core, polling, memory }.start(wire)?;
        let mut wires = Wires::connect(ground, wire, &mut process)?;
        let gateway = testing::mac_of(testing::GATEWAY);
        let own = wires.clients.ask(ground, &question(gateway), answer);
        process.check()?;
        let own = own.ok_or_else(|| anyhow!("the appliance does not answer ARP"))?;
        Ok(wires.bench(ground, wire, process, [gateway, own]))
    }

    fn testpmd(
        ground: &Ground,
        wire: Wire,
        what: Testpmd,
        memory: Memory,
        effort: Effort,
    ) -> Result<Self> {
        let mut process = outside::testpmd(wire, what, effort.core, memory)?;
        let wires = Wires::connect(ground, wire, &mut process)?;
        let macs = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
        let mut bench = wires.bench(ground, wire, process, macs);
        // It begins to forward some time after its ports are there.
        let stream = requests(scene(Mode::Dr, Family::Ipv4, 1), bench.macs);
        let pace = Pace { rate: Some(1e4), seconds: 0.05, frames: 100 };
        let deadline = Instant::now() + Duration::from_secs(10);
        while bench.tester.trial(&stream, pace, |_| {})?.received == 0 {
            bench.process.check()?;
            if Instant::now() > deadline {
                bail!("testpmd does not forward");
            }
        }
        Ok(bench)
    }

    fn throughput(&mut self, scene: Scene, effort: Effort, outcome: &mut Outcome) -> Result<f64> {
        begin_flows(&mut self.tester, scene, self.macs)?;
        outcome.watch(self.process.id());
        let stream = requests(scene, self.macs);
        let found = effort.search().run(&mut self.tester, &stream)?;
        self.process.check()?;
        outcome.add(Record {
            mpps: Some(found.mpps),
            loss: Some(found.loss),
            ..record("throughput", self.wire, &scene, SMALL)
        });
        let flood = record("flood", self.wire, &scene, SMALL);
        outcome.add(Record { mpps: Some(found.flood_mpps), ..flood });
        Ok(found.mpps)
    }

    fn latency(
        &mut self,
        scene: Scene,
        mpps: f64,
        effort: Effort,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let stream = requests(scene, self.macs);
        for load in LOADS {
            let rate = (mpps * 1e6 * load).max(1_000.0);
            let trial = self.tester.trial(&stream, effort.pace(Some(rate)), |_| {})?;
            outcome.add(Record {
                load: Some(load),
                ns: Some(trial.percentiles()),
                loss: Some(trial.loss()),
                ..record("latency", self.wire, &scene, SMALL)
            });
        }
        Ok(())
    }

    /// From the request to the answer, which comes when every worker has taken the configuration up. The old
    /// services stay, so that every request changes a thousand others.
    fn publishing(&mut self, scene: Scene, effort: Effort, outcome: &mut Outcome) -> Result<()> {
        let folder = self.process.folder.clone();
        let before = fs::read_to_string(folder.join("sluice.toml"))?;
        let mut took = Vec::new();
        for run in 0..if effort.quick { 2 } else { 5 } {
            let text = format!("{before}{}", thousand_services(run));
            let start = Instant::now();
            http::put(&folder.join("admin.sock"), "/api/v1/config", "application/toml", &text)?;
            took.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let runs = took.len();
        outcome.add(Record {
            services: Some(1_000),
            milliseconds: Some(Spread::of(took)),
            runs: Some(runs),
            ..record("publish", self.wire, &scene, SMALL)
        });
        Ok(())
    }

    /// What the worker takes of its core when nothing comes, and how long the first packet after a pause waits.
    fn idle(&mut self, scene: Scene, effort: Effort, outcome: &mut Outcome) -> Result<()> {
        begin_flows(&mut self.tester, scene, self.macs)?;
        outcome.watch(self.process.id());
        let seconds = if effort.quick { 1.0 } else { 5.0 };
        std::thread::sleep(Duration::from_secs(1)); // until it takes its longest naps
        let before = time_of_worker(self.process.id())?;
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let spent = time_of_worker(self.process.id())? - before;
        let share = spent / 1e9 / seconds;
        let described = |case| record(case, self.wire, &scene, SMALL);
        outcome.add(Record { core_share: Some(share), ..described("idle") });
        let stream = requests(scene, self.macs);
        let mut latencies = Vec::new();
        for _ in 0..if effort.quick { 20 } else { 100 } {
            std::thread::sleep(Duration::from_millis(20));
            let pace = Pace { rate: Some(1e3), seconds: 0.01, frames: 1 };
            let trial = self.tester.trial(&stream, pace, |_| {})?;
            latencies.extend((trial.received > 0).then(|| trial.latency.max()));
        }
        outcome.add(Record { ns: of_sorted(latencies), ..described("first-after-idle") });
        Ok(())
    }
}

/// Time that the worker's thread has had its core, in nanoseconds (Linux, Documentation/scheduler/sched-stats.rst).
fn time_of_worker(process: u32) -> Result<f64> {
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let folder = task?.path();
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        if read("comm").trim() == "worker-0" {
            let spent = read("schedstat").split(' ').next().and_then(|it| it.parse().ok());
            return spent.context("a line of /proc/…/schedstat begins with a time");
        }
    }
    bail!("the appliance has no worker")
}

/// Each frame is one value: too few for a histogram.
fn of_sorted(mut values: Vec<u64>) -> Option<Percentiles> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    let at = |quantile: f64| values[(last as f64 * quantile).round() as usize];
    Some(Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: values[last] })
}

/// A thousand services with ten servers each; `run` makes them others than last time.
fn thousand_services(run: usize) -> String {
    let mut text = String::new();
    for service in 0..1_000 {
        let (third, fourth) = (1 + service / 250, 1 + service % 250);
        text += &format!(
            "\n[[service]]\nname = \"s{service}\"\naddress = \"203.0.{third}.{fourth}\"\n\
             ports = \"80\"\nprotocol = \"tcp\"\nmode = \"dr\"\nscheduler = \"rr\"\n\
             check = {{ type = \"on\" }}\n"
        );
        for server in 0..10 {
            let host = 1 + (server + run) % 250;
            text += &format!(
                "  [[service.server]]\n  name = \"r{server}\"\n  address = \"10.0.100.{host}\"\n"
            );
        }
    }
    text
}

/// Who has our address on the clients' side? (RFC 826)
fn question(from: Mac) -> Vec<u8> {
    let asked = testing::our_address(OUTSIDE).octets();
    let sender = testing::GATEWAY.octets();
    let parts: [&[u8]; 9] = [
        &[0xff; 6],
        &from.0,
        &[0x08, 0x06],
        &[0, 1, 0x08, 0x00, 6, 4, 0, 1],
        &from.0,
        &sender,
        &[0; 6],
        &asked,
        &[0; 18],
    ];
    parts.concat()
}

/// The hardware address that the answer to [`question`] tells.
fn answer(frame: &[u8]) -> Option<Mac> {
    let is_reply = frame.get(12..14)? == [0x08, 0x06] && frame.get(20..22)? == [0, 2];
    let sender = frame.get(28..32)? == testing::our_address(OUTSIDE).octets();
    (is_reply && sender).then(|| Some(Mac(*frame.get(22..)?.first_chunk()?)))?
}
