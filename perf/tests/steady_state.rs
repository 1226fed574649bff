//! A worker that has begun makes no system call, takes no lock that it could have to wait for, and allocates nothing:
//! in every mode, for both families, for known flows and new ones.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use perf::ground::{self, Memory};
use perf::traffic::{Family, Mode};
use perf::{machine, sealed};

const MODES: [Mode; 4] = [Mode::Dr, Mode::Nat, Mode::Snat, Mode::Tun];
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
/// Linux, include/uapi/asm-generic/signal.h.
const SIGSYS: i32 = 31;

#[test]
fn forwarding_allocates_nothing() {
    let started = ground::start(Memory::Plain, 64 << 20, machine::last_core()).unwrap();
    for mode in MODES {
        for family in FAMILIES {
            let mut rig = sealed::rig(&started.ground, mode, family, 1).unwrap();
            let busy = rig.counters.busy_turns.get();
            for load in sealed::loads(mode) {
                rig.prepare(load);
                let dropped = rig.dropped();
                let made = allocation_counter::measure(|| {
                    rig.forward(0);
                });
                assert_eq!(made.count_total, 0, "{mode:?} {family:?} {load:?}: {made:?}");
                rig.all_came_out(&dropped).unwrap();
            }
            let turns = rig.counters.busy_turns.get() - busy;
            assert!(turns >= 3_000, "{turns} turns say little");
            assert!(rig.counters.flows_created.get() > 20_000, "new flows were among them");
        }
    }
}

#[test]
fn an_allocation_would_be_counted() {
    let made = allocation_counter::measure(|| drop(std::hint::black_box(vec![0u8; 100])));
    assert_eq!(made.count_total, 1);
}

fn sealed_worker(mode: Mode, family: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perf"));
    command.args(["sealed", "--mode", mode.name(), "--family", family]);
    command
}

#[test]
fn forwarding_makes_no_system_call() {
    for mode in MODES {
        for family in ["ipv4", "ipv6"] {
            let output = sealed_worker(mode, family).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{mode:?} {family}: {:?} {output:?}", output.status);
            let turns: u64 = said.split(' ').next().unwrap().parse().unwrap();
            assert!(turns >= 12_000, "{turns} turns say little");
        }
    }
}

#[test]
fn one_system_call_among_the_turns_would_be_death() {
    let status = sealed_worker(Mode::Dr, "ipv4").arg("--provoke").status().unwrap();
    assert_eq!(status.signal(), Some(SIGSYS));
}
