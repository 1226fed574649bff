//! A worker behind rings in this process, and a loop that only swaps addresses to compare it with.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dataplane::snapshot::{Publisher, Snapshot};
use dataplane::testing::{self, OUTSIDE};
use dataplane::wire::Mac;

use super::tester::{Tester, Trial};
use super::{Effort, Selection, Wire, begin_flows, inside, record, requests, scene};
use crate::outcome::Outcome;
use crate::results::{Percentiles, Record, Spread};
use crate::rig::Ground;
use crate::traffic::{Family, Mode, Scene, Size};

/// Shares of the throughput at which latency is measured.
const LOADS: [f64; 2] = [0.5, 0.8];
/// Configurations published in a second.
const SWAPS: u64 = 1_000;
/// How long a worker may take to let go of a configuration.
const PATIENCE: Duration = Duration::from_secs(10);
const SMALL: Size = Size::Fixed(64);

pub fn run(
    ground: &Ground,
    selection: &Selection,
    effort: Effort,
    outcome: &mut Outcome,
) -> Result<()> {
    let plain = scene(Mode::Dr, Family::Ipv4, 1_000_000);
    let macswap = swapped(ground, plain, effort, outcome)?;
    let families: &[Family] =
        if effort.quick { &[Family::Ipv4] } else { &[Family::Ipv4, Family::Ipv6] };
    for flows in effort.flows(selection) {
        for mode in effort.modes(selection) {
            for &family in families {
                let scene = scene(mode, family, flows);
                worker(ground, scene, macswap, effort, outcome)?;
            }
        }
    }
    Ok(())
}

/// Sender and receiver of frames from clients.
fn macs() -> [Mac; 2] {
    [testing::mac_of(testing::GATEWAY), testing::mac_of(testing::our_address(OUTSIDE))]
}

/// What the loop that swaps addresses does, in millions of frames a second: also what the generator can do at least.
fn swapped(ground: &Ground, scene: Scene, effort: Effort, outcome: &mut Outcome) -> Result<f64> {
    let (_device, mut tester) = inside::macswap(ground, effort.core)?;
    outcome.watch(std::process::id());
    let stream = requests(scene, macs());
    let found = effort.search().run(&mut tester, &stream)?;
    let of_loop = |case, record: Record| Record {
        rival: Some("macswap loop".into()),
        mode: None,
        ..Record { case, ..record }
    };
    let described = || record("throughput", Wire::Rings, &scene, SMALL);
    outcome.add(of_loop(
        "throughput".into(),
        Record { mpps: Some(found.mpps), loss: Some(found.loss), ..described() },
    ));
    outcome.add(of_loop("flood".into(), Record { mpps: Some(found.flood_mpps), ..described() }));
    Ok(found.mpps)
}

fn worker(
    ground: &Ground,
    scene: Scene,
    macswap: f64,
    effort: Effort,
    outcome: &mut Outcome,
) -> Result<()> {
    let (mut own, mut tester) = inside::worker(ground, scene, effort.core)?;
    begin_flows(&mut tester, scene, macs())?;
    let begun = own.counters.flows.get();
    ensure!(begun > 0, "no flow has begun");
    outcome.watch(std::process::id());
    let stream = requests(scene, macs());
    let found = effort.search().run(&mut tester, &stream)?;
    let described = |case| record(case, Wire::Rings, &scene, SMALL);
    outcome.add(Record {
        mpps: Some(found.mpps),
        loss: Some(found.loss),
        ratio_to_macswap: (macswap > 0.0).then_some(found.mpps / macswap),
        ..described("throughput")
    });
    outcome.add(Record { mpps: Some(found.flood_mpps), ..described("flood") });
    if scene.family == Family::Ipv6 || found.mpps == 0.0 {
        return Ok(());
    }
    let mut own_latency = Vec::new();
    for load in LOADS {
        let rate = found.mpps * 1e6 * load;
        let trial = tester.trial(&stream, effort.pace(Some(rate)), |_| {})?;
        let ns = trial.percentiles();
        outcome.add(Record {
            load: Some(load),
            ns: Some(ns),
            loss: Some(trial.loss()),
            ..described("latency")
        });
        own_latency.push((load, rate, ns));
    }
    if scene.mode == Mode::Dr || !effort.quick {
        let hz = ground.clock.hz();
        swaps(&mut own.publisher, &mut tester, hz, (scene, found.mpps), effort, outcome)?;
    }
    drop((own, tester));
    added_latency(ground, scene, &own_latency, effort, outcome)
}

/// What the worker adds to the latency of the wires and of the generator: its own latency less that of the loop that
/// swaps addresses, at the same rate. (Percentiles are no sums, so this is an estimate.)
fn added_latency(
    ground: &Ground,
    scene: Scene,
    own: &[(f64, f64, Percentiles)],
    effort: Effort,
    outcome: &mut Outcome,
) -> Result<()> {
    let (_device, mut tester) = inside::macswap(ground, effort.core)?;
    outcome.watch(std::process::id());
    let stream = requests(Scene { mode: Mode::Dr, ..scene }, macs());
    for &(load, rate, ns) in own {
        let bare = tester.trial(&stream, effort.pace(Some(rate)), |_| {})?.percentiles();
        outcome.add(Record {
            load: Some(load),
            ns: Some(Percentiles {
                p50: ns.p50.saturating_sub(bare.p50),
                p99: ns.p99.saturating_sub(bare.p99),
                p999: ns.p999.saturating_sub(bare.p999),
                max: ns.max.saturating_sub(bare.max),
            }),
            ..record("added-latency", Wire::Rings, &scene, SMALL)
        });
    }
    Ok(())
}

/// The effect of a thousand configurations a second: what is lost at 80 % of the throughput, and what becomes of a
/// flood. Two snapshots without a table in common take turns, so that each finds the caches cold.
fn swaps(
    publisher: &mut Publisher<Snapshot>,
    tester: &mut Tester,
    hz: u64,
    (scene, mpps): (Scene, f64),
    effort: Effort,
    outcome: &mut Outcome,
) -> Result<()> {
    let stream = requests(scene, macs());
    let both = [scene.snapshot(), scene.snapshot()];
    let mut published = 1;
    let mut swapping = |tester: &mut Tester, rate| -> Result<Trial> {
        let mut next = 0;
        tester.trial(&stream, effort.pace(rate), |now| {
            if now >= next {
                published += 1;
                let one = both[published as usize % 2].clone();
                publisher.publish(Snapshot { generation: published, ..one });
                next = now + hz / SWAPS;
            }
        })
    };
    let mut disturbed = swapping(tester, Some(mpps * 0.8e6))?;
    for _ in 1..effort.search().tries {
        // As when searching: on a shared machine either core may be taken away.
        if disturbed.loss() > 0.0 {
            disturbed = swapping(tester, Some(mpps * 0.8e6))?;
        }
    }
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        with.push(swapping(tester, None)?.mpps());
        without.push(tester.trial(&stream, effort.pace(None), |_| {})?.mpps());
    }
    let ratio = Spread::of(with).median / Spread::of(without).median;
    let deadline = Instant::now() + PATIENCE;
    while publisher.reclaim() > 0 {
        ensure!(Instant::now() < deadline, "the worker keeps an old configuration");
        std::thread::sleep(Duration::from_millis(1));
    }
    outcome.add(Record {
        load: Some(0.8),
        loss: Some(disturbed.loss()),
        ns: Some(disturbed.percentiles()),
        ratio: Some(ratio),
        ..record("swaps", Wire::Rings, &scene, SMALL)
    });
    Ok(())
}
