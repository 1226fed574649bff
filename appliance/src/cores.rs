//! Which core does what.

use anyhow::{Context, Result, bail};
use controlplane::config::Config;
use hugepages::Host;
use tracing::warn;

/// One core for the worker and another for the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// Where the worker polls.
    pub worker: usize,
    /// Where everything else runs.
    pub control: usize,
}

impl Cores {
    /// The configured worker's core, else the first of the host's choice; and for the control thread the first core that
    /// is left.
    ///
    /// # Errors
    /// If the configured core does not exist.
    pub fn choose(host: &Host, config: &Config) -> Result<Self> {
        let cards: Vec<_> =
            crate::cards::named_in(config).iter().filter_map(|card| card.parse().ok()).collect();
        let online: Vec<u32> = hugepages::cores::cores(host)?.online.iter().collect();
        let chosen = hugepages::cores::workers(host, &cards)?.cores;
        let worker = config.dataplane.workers.first().copied().or(chosen.first().copied());
        let worker =
            worker.or(online.first().copied()).context("the kernel lists no processor core")?;
        if !online.contains(&worker) {
            bail!("dataplane.workers: there is no core {worker}; this machine has {online:?}");
        }
        let control = online.iter().copied().find(|&core| core != worker).unwrap_or_else(|| {
            warn!("the only core is shared by the worker and everything else");
            worker
        });
        Ok(Self { worker: worker as usize, control: control as usize })
    }
}
