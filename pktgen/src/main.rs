//! Command line to profile to report, top to bottom.
//!
//! 1. [`pktgen::command`] judges what was asked for, before anything is touched
//! 2. [`pktgen::ports`] makes the host ready, starts DPDK and opens the devices
//! 3. [`pktgen::session`] runs on a core of its own, while this thread watches ([`pktgen::view`])
//! 4. [`pktgen::report`] is written down, also after Ctrl-C; then everything is given back

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use clap::Parser;
use dataplane::wire::Mac;
use dpdk_sys::lcore::spawn_pinned;
use pktgen::command::{Asked, Pktgen};
use pktgen::error::Invalid;
use pktgen::ports::Bench;
use pktgen::report::{Machine, Report, date};
use pktgen::session::{Live, Session};
use pktgen::view::{Watched, watch};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Wrong usage, as clap has it too.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pktgen: {error:#}");
            match error.downcast_ref::<Invalid>() {
                Some(_) => ExitCode::from(USAGE),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn run() -> Result<()> {
    let asked = Pktgen::parse().command.asked()?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second of its kind ends the program at once.
        flag::register_conditional_shutdown(signal, 1, stop.clone())?;
        flag::register(signal, stop.clone())?;
    }
    let output = asked.output.clone();
    output.check()?;
    let report = measure(asked, &stop)?;
    output.write(&report)
}

fn measure(asked: Asked, stop: &Arc<AtomicBool>) -> Result<Report> {
    let Asked { wanted, traffic, order, trial, calibration, output, expected } = asked;
    let mut bench = Bench::open(&wanted)?;
    let profile = traffic.profile(bench.line_rate(), bench.macs());
    profile.check()?;
    let ports = bench.describe();
    let live = Arc::new(Live::default());
    let (eal, cores) = (bench.eal.clone(), bench.cores.clone());
    let session = Session {
        eal: eal.clone(),
        pool: bench.pool.clone(),
        transmit: std::mem::take(&mut bench.transmit),
        receive: std::mem::take(&mut bench.receive),
        cores: cores.clone(),
        profile: profile.clone(),
        gue_port: traffic.gue_port(),
        answer: traffic.answer(),
        macs: bench.ports.iter().map(|port| Mac(port.mac())).collect(),
        calibration,
        trial,
        stop: stop.clone(),
        live: live.clone(),
    };
    let thread = spawn_pinned(&eal, cores[0], "pktgen", move || session.perform(order))?;
    let is_over = || thread.is_finished();
    let title = format!("pktgen: {}", ports.join(", "));
    watch(&Watched { live: &live, stop, is_over: &is_over, expected, title }, output.plain);
    let outcome = thread
        .join()
        .map_err(|_| anyhow!("a loop has stopped because of a mistake in the program"))?;
    let (calibration, result) = outcome?;
    Ok(Report {
        pktgen: env!("CARGO_PKG_VERSION"),
        date: date(),
        machine: Machine::here(&cores),
        ports,
        profile: Some((&profile).into()),
        calibration,
        interrupted: stop.load(Ordering::Relaxed),
        result,
    })
}
