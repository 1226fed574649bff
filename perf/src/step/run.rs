//! The whole pipeline, timed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dataplane::worker::Worker;

use super::Case;
use crate::belt::BeltLink;
use crate::interrupt;
use crate::moments::Clock;
use crate::results::{Mix, Record, SizeName, Spread};
use crate::rig::{FRAMES, Ground, Load, Replies, Rig, Timed};
use crate::traffic::{Direction, Scene, Size};

/// Rounds in a run: enough to meet many flows. A round takes less than a millisecond, so on a shared machine most
/// are over before somebody else has the core; a run is its median round.
fn rounds(scene: &Scene) -> usize {
    (scene.flows as usize / FRAMES).clamp(16, 64)
}

/// Measures the whole pipeline in each case, `runs` times; `report` is given each result as soon as it is there.
///
/// # Errors
/// If a frame does not get through.
pub fn run(
    ground: &Ground,
    cases: &[Case],
    runs: usize,
    mut report: impl FnMut(Record),
) -> Result<()> {
    let mut cases = cases.iter().peekable();
    while let Some(first) = cases.peek() {
        let scene = first.scene;
        let of_scene: Vec<&Case> =
            std::iter::from_fn(|| cases.next_if(|case| case.scene == scene)).collect();
        let mut rig = worker(ground, &of_scene).with_context(|| format!("{scene:?}"))?;
        for case in of_scene {
            interrupt::check()?;
            report(forward(&mut rig, case, runs).with_context(|| format!("{case:?}"))?);
        }
    }
    Ok(())
}

fn worker(ground: &Ground, cases: &[&Case]) -> Result<Rig<Worker<BeltLink>>> {
    let replied = cases.iter().any(|case| case.direction == Direction::Reply);
    let replies = if replied { Replies::Wanted } else { Replies::Unwanted };
    Rig::new(ground, cases[0].scene, 0, replies, Worker::new)
}

fn forward(rig: &mut Rig<Worker<BeltLink>>, case: &Case, runs: usize) -> Result<Record> {
    let load = Load { direction: case.direction, size: case.size, one_new_in: 0 };
    let mut all = Vec::new();
    for _ in 0..runs {
        interrupt::check()?;
        all.push(one_run(rig, load, rounds(&case.scene))?);
    }
    let harness = Spread::of(all.iter().map(|run| run.past)).median;
    let through = Spread::of(all.iter().map(|run| run.through.median));
    let least = Spread::of(all.iter().map(|run| run.through.min)).min;
    let net = Spread { min: least, ..through }.map(|nanos| nanos - harness);
    Ok(Record {
        harness_ns: Some(harness),
        ns_per_packet: Some(net),
        mpps: Some(1_000.0 / net.median),
        cycles_per_packet: Some(net.median * rig.clock().hz() as f64 / 1e9),
        runs: Some(runs),
        ..described(case)
    })
}

/// Nanoseconds for each frame in one run.
struct OneRun {
    /// Through the pipeline, over the rounds.
    through: Spread,
    /// Past it: the median round.
    past: f64,
}

fn one_run(rig: &mut Rig<Worker<BeltLink>>, load: Load, rounds: usize) -> Result<OneRun> {
    let clock = rig.clock();
    let (mut through, mut past) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        rig.prepare(load);
        through.push(nanos(clock, rig.run()?));
        if round % 2 == 0 {
            rig.prepare(load);
            past.push(nanos(clock, rig.pass()));
        }
    }
    Ok(OneRun { through: Spread::of(through), past: Spread::of(past).median })
}

/// Nanoseconds for each frame.
pub fn nanos(clock: Clock, timed: Timed) -> f64 {
    clock.nanos(timed.ticks) as f64 / timed.frames as f64
}

pub fn described(case: &Case) -> Record {
    let Case { scene, direction, size } = *case;
    Record {
        suite: "step".into(),
        case: "forward".into(),
        mode: Some(scene.mode),
        direction: Some(direction),
        family: Some(scene.family),
        flows: Some(scene.flows),
        size: Some(match size {
            Size::Fixed(bytes) => SizeName::Bytes(bytes),
            Size::Imix => SizeName::Mix(Mix::Imix),
        }),
        services: Some(scene.services),
        ..Record::default()
    }
}

/// Forwards for so long, for a profiler to look at; returns how many frames were timed. Writing the frames between
/// rounds takes its share of the time, under the name of `Rig::prepare`.
///
/// # Errors
/// If a frame does not get through.
pub fn profile(ground: &Ground, case: &Case, time: Duration) -> Result<u64> {
    let mut rig = worker(ground, &[case])?;
    let load = Load { direction: case.direction, size: case.size, one_new_in: 0 };
    let (start, mut frames) = (Instant::now(), 0);
    while start.elapsed() < time {
        rig.prepare(load);
        frames += rig.run()?.frames as u64;
    }
    Ok(frames)
}
