//! A worker in steady state makes no system call, and therefore never waits for a lock: it forwards on a thread whose
//! every system call is answered with death (seccomp(2)).

use std::collections::BTreeMap;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use dataplane::worker::Worker;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::ground::{self, Memory};
use crate::machine;
use crate::rig::{FRAMES, Ground, Load, Replies, Rig};
use crate::traffic::{Direction, Family, Mode, Scene, Size};

/// Flows that there are when the seal is put on.
const FLOWS: u32 = 20_000;
/// One frame in so many begins a new flow, in rounds that have new ones.
const ONE_NEW_IN: usize = 4;
/// Rounds of each kind.
const ROUNDS: usize = 4;

/// The rounds that a worker forwards in steady state: known flows both ways, new flows among them, all sizes.
pub fn loads(mode: Mode) -> impl Iterator<Item = Load> {
    let requests = Load::requests(Size::Fixed(64));
    let all = [
        requests,
        Load { size: Size::Imix, ..requests },
        Load { one_new_in: ONE_NEW_IN, ..requests },
        Load { direction: Direction::Reply, ..requests },
    ];
    all.into_iter().filter(move |load| load.direction == Direction::Request || mode.translates())
}

/// A worker with some thousand flows, and room for those that begin in `rounds` rounds.
///
/// # Errors
/// If a frame does not get through.
pub fn rig(
    ground: &Ground,
    mode: Mode,
    family: Family,
    rounds: usize,
) -> Result<Rig<Worker<crate::belt::BeltLink>>> {
    let scene = Scene { mode, family, flows: FLOWS, services: 3, servers: 10 };
    let replies = if mode.translates() { Replies::Wanted } else { Replies::Unwanted };
    Rig::new(ground, scene, rounds * FRAMES / ONE_NEW_IN, replies, Worker::new)
}

/// Forwards some rounds under the seal and returns how many turns that were. With `provoke`, one system call is
/// made among them.
///
/// # Errors
/// If forwarding could not begin. A system call ends the program with SIGSYS.
pub fn forward(mode: Mode, family: Family, provoke: bool) -> Result<u64> {
    let tables = u64::from(FLOWS) * 1_024;
    let started = ground::start(Memory::Plain, tables, machine::last_core())?;
    let turns = AtomicU64::new(0);
    thread::scope(|scope| {
        let worker = scope.spawn(|| sealed(&started.ground, mode, family, provoke, &turns));
        while turns.load(Ordering::Acquire) == 0 && !worker.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        if turns.load(Ordering::Acquire) == 0 {
            let ended = worker.join().map_err(|_| anyhow!("the worker panicked"))?;
            return ended.map(|()| 0);
        }
        // A sealed thread cannot even end.
        println!("{} turns without a system call", turns.load(Ordering::Acquire));
        std::process::exit(0)
    })
}

/// Forwards under the seal, tells the number of turns, and stays.
fn sealed(
    ground: &Ground,
    mode: Mode,
    family: Family,
    provoke: bool,
    turns: &AtomicU64,
) -> Result<()> {
    let mut rig = rig(ground, mode, family, ROUNDS)?;
    let before = rig.counters.busy_turns.get();
    seccompiler::apply_filter(&nothing_allowed()?)?;
    for load in loads(mode) {
        for _ in 0..ROUNDS {
            rig.prepare(load);
            rig.forward(0);
            if provoke {
                thread::yield_now();
            }
        }
    }
    turns.store(rig.counters.busy_turns.get() - before, Ordering::Release);
    loop {
        spin_loop();
    }
}

fn nothing_allowed() -> Result<BpfProgram> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(
        BTreeMap::new(),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        architecture,
    )?;
    Ok(filter.try_into()?)
}
