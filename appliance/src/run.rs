//! `sluice run`: from a configuration file to a forwarding appliance, and back to the host as it was.

use std::path::Path;

use anyhow::{Context, Result};
use controlplane::control::Control;
use controlplane::node::Start;
use controlplane::store::Store;
use hugepages::{Host, Plan};
use tracing::{info, warn};

use crate::cores::Cores;
use crate::memory;
use crate::wiring::{Running, Wiring};

/// What was taken from the host, noted in the state directory before it is taken, so that the next start
/// can give it back after a crash.
const RECORD: &str = "host.json";

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever kept it from starting, with what to do about it.
pub fn run(file: &Path, state: &Path) -> Result<()> {
    let control = Control::prepare()?;
    let (store, config) = Store::open(state, file)?;
    let host = Host::real();
    let record = store.directory().join(RECORD);

    let cores = Cores::choose(&host, &config)?;
    let memory = memory::prepare(&host, &config, cores.workers.len(), Plan::new(&record))?;
    info!(?memory, workers = ?cores.workers, control = cores.control, "the host is ready");
    let outcome = Wiring::lay(&config, &cores, memory).and_then(|(wiring, plumbing)| {
        let mut running: Option<Result<Running>> = None;
        let start = Start { store, config, plumbing };
        control.keep_helpers_off(&cores.workers);
        control.run(start, |_| {
            running = Some(wiring.start());
            if let Err(problem) = dpdk_sys::descriptors::keep_from_programs() {
                warn!("scripts that outlive us could keep devices: {problem}");
            }
        })?;
        running.context("the control plane ended before it began")??.stop()
    });
    if let Err(problem) = hugepages::restore(&host, &record) {
        warn!("{problem}");
    }
    outcome.inspect(|()| info!("stopped"))
}
