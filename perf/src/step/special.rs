//! What is measured once and in one way: the steps one by one, new flows, and configurations.

use std::cell::Cell;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use dataplane::lookup::flow_table::{Capacity, FlowTable, Key};
use dataplane::lookup::scheduler::maglev::{Size as TableSize, Table};
use dataplane::lookup::slab::{Heap, Memory as SlabMemory, OutOfMemory, Slab};
use dataplane::snapshot::Snapshot;
use dataplane::worker::Worker;
use zerocopy::FromZeros;

use super::run::{described, nanos};
use super::stages::{STEPS, Stages};
use super::{Case, Special};
use crate::interrupt;
use crate::results::{Record, Spread};
use crate::rig::{FRAMES, Ground, Load, Replies, Rig};
use crate::traffic::{Direction, Family, Mode, Scene, Size};

/// Measures each of `cases`, `runs` times.
///
/// # Errors
/// If a frame does not get through.
pub fn run(
    ground: &Ground,
    cases: &[Special],
    runs: usize,
    mut report: impl FnMut(Record),
) -> Result<()> {
    for case in cases {
        interrupt::check()?;
        match case {
            Special::Stages(case) => {
                steps_one_by_one(ground, case, runs)?.into_iter().for_each(&mut report);
            }
            Special::NewFlows(scene) => report(new_flows(ground, *scene, runs)?),
            Special::Maglev => report(maglev(runs)),
            Special::FlowMemory(family) => report(flow_memory(*family)?),
            Special::Publish => {
                publish(ground, runs)?.into_iter().for_each(&mut report);
            }
        }
    }
    Ok(())
}

/// Rounds in a run.
const ROUNDS: usize = 16;

fn steps_one_by_one(ground: &Ground, case: &Case, runs: usize) -> Result<Vec<Record>> {
    let replies = match case.direction {
        Direction::Request => Replies::Unwanted,
        Direction::Reply => Replies::Wanted,
    };
    let mut rig = Rig::new(ground, case.scene, 0, replies, Stages::new)?;
    let load = Load { direction: case.direction, size: case.size, one_new_in: 0 };
    let mut taken = Vec::new();
    for _ in 0..runs {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rig.prepare(load);
            rig.pipeline.take();
            rig.run()?;
            rounds.push(rig.pipeline.take());
        }
        taken.push(rounds);
    }
    let hz = rig.clock().hz() as f64;
    let record = |(step, name): (usize, &&str)| {
        let of_round = |round: &[f64; STEPS.len()]| round[step] * 1e9 / hz;
        let of_runs = taken.iter().map(|rounds| Spread::of(rounds.iter().map(of_round)));
        let of_runs: Vec<Spread> = of_runs.collect();
        let least = Spread::of(of_runs.iter().map(|run| run.min)).min;
        let medians = Spread::of(of_runs.iter().map(|run| run.median));
        Record {
            case: (*name).into(),
            ns_per_packet: Some(Spread { min: least, ..medians }),
            cycles_per_packet: Some(medians.median * hz / 1e9),
            runs: Some(runs),
            ..described(case)
        }
    };
    Ok(STEPS.iter().enumerate().map(record).collect())
}

/// Rounds in a run of new flows; each run needs a table of its own, which has to be filled.
const ROUNDS_OF_NEW: usize = 12;
/// One frame in so many begins a new flow.
const ONE_NEW_IN: usize = 2;

/// How many flows that run will begin.
pub fn spare_for_new_flows() -> usize {
    ROUNDS_OF_NEW * FRAMES / ONE_NEW_IN
}

fn new_flows(ground: &Ground, scene: Scene, runs: usize) -> Result<Record> {
    let load =
        Load { direction: Direction::Request, size: Size::Fixed(64), one_new_in: ONE_NEW_IN };
    let mut rates = Vec::new();
    for _ in 0..runs {
        let spare = spare_for_new_flows();
        let mut rig = Rig::new(ground, scene, spare, Replies::Unwanted, Worker::new)?;
        let created = rig.counters.flows_created.get();
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS_OF_NEW {
            rig.prepare(load);
            let through = nanos(rig.clock(), rig.run()?);
            rounds.push(1e9 / (through * ONE_NEW_IN as f64));
        }
        let created = rig.counters.flows_created.get() - created;
        ensure!(created as usize == spare, "{created} flows began, not {spare}");
        rates.push(Spread::of(rounds).median);
    }
    let case = Case { scene, direction: Direction::Request, size: Size::Fixed(64) };
    Ok(Record {
        case: "new-flows".into(),
        per_second: Some(Spread::of(rates)),
        runs: Some(runs),
        ..described(&case)
    })
}

/// Adds up what a table asks for.
#[derive(Default)]
struct Counting(Cell<usize>);

impl SlabMemory for Counting {
    fn slab<T: FromZeros>(&self, len: usize) -> Result<Slab<T>, OutOfMemory> {
        self.0.set(self.0.get() + len * size_of::<T>());
        Heap.slab(len)
    }
}

/// All that a table of a million flows asks for, by flow; every flow may be translated.
fn flow_memory(family: Family) -> Result<Record> {
    let flows = 1_000_000;
    let capacity = match family {
        Family::Ipv4 => Capacity { v4: flows, v6: 1 },
        Family::Ipv6 => Capacity { v4: 1, v6: flows },
    };
    let counting = Counting::default();
    FlowTable::new(capacity, Key::new([0; 4]), None, &counting)
        .map_err(|out| anyhow!("no memory for {} bytes", out.bytes))?;
    Ok(Record {
        suite: "step".into(),
        case: "flow-memory".into(),
        family: Some(family),
        bytes: Some(counting.0.get() as f64 / flows as f64),
        ..Record::default()
    })
}

fn milliseconds<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let made = work();
    (start.elapsed().as_secs_f64() * 1e3, made)
}

fn maglev(runs: usize) -> Record {
    let build = |_| {
        let (took, table) =
            milliseconds(|| Table::new(TableSize::Most, (1..=100).map(|key| (key, 1))));
        assert_eq!(table.entries().len(), 65_537);
        took
    };
    Record {
        suite: "step".into(),
        case: "maglev".into(),
        milliseconds: Some(Spread::of((0..runs.max(3)).map(build))),
        runs: Some(runs.max(3)),
        ..Record::default()
    }
}

/// What is published: 1,000 services with 10 servers each.
const PUBLISHED: Scene =
    Scene { mode: Mode::Dr, family: Family::Ipv4, flows: 1_000, services: 1_000, servers: 10 };

/// Building a snapshot with all its tables, and swapping it in until a worker in the middle of its traffic has
/// taken it up and the old one is freed.
fn publish(ground: &Ground, runs: usize) -> Result<[Record; 2]> {
    let mut rig = Rig::new(ground, PUBLISHED, 0, Replies::Unwanted, Worker::new)?;
    let (mut building, mut swapping) = (Vec::new(), Vec::new());
    for run in 0..runs {
        rig.prepare(Load::requests(Size::Fixed(64)));
        rig.run()?;
        let generation = run as u64 + 2;
        let (took, next) = milliseconds(|| Snapshot { generation, ..rig.snapshot() });
        building.push(took);
        let (took, ()) = milliseconds(|| rig.take_up(next));
        swapping.push(took);
    }
    let record = |case: &str, values: Vec<f64>| Record {
        suite: "step".into(),
        case: case.into(),
        services: Some(PUBLISHED.services),
        milliseconds: Some(Spread::of(values)),
        runs: Some(runs),
        ..Record::default()
    };
    Ok([record("build-snapshot", building), record("swap-snapshot", swapping)])
}
