//! Which core does what.

use anyhow::{Context, Result, bail};
use controlplane::config::Config;
use hugepages::Host;
use tracing::warn;

/// A core for each worker and another for the control thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// Where the workers poll, in their order.
    pub workers: Vec<usize>,
    /// Where everything else runs.
    pub control: usize,
}

impl Cores {
    /// The configured workers' cores, else the host's choice: the isolated ones, or all but the first. For the
    /// control thread the first core that is left.
    ///
    /// # Errors
    /// If a configured core does not exist.
    pub fn choose(host: &Host, config: &Config) -> Result<Self> {
        let cards: Vec<_> =
            crate::cards::named_in(config).iter().filter_map(|card| card.parse().ok()).collect();
        let online: Vec<u32> = hugepages::cores::cores(host)?.online.iter().collect();
        let mut workers = config.dataplane.workers.clone();
        if workers.is_empty() {
            workers = hugepages::cores::workers(host, &cards)?.cores;
        }
        if workers.is_empty() {
            workers = vec![*online.first().context("the kernel lists no processor core")?];
        }
        if let Some(absent) = workers.iter().find(|core| !online.contains(core)) {
            bail!("dataplane.workers: there is no core {absent}; this machine has {online:?}");
        }
        let mut distinct = workers.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() < workers.len() {
            warn!("several workers share a core: they take turns, and none is fast");
        }
        let control = online.iter().copied().find(|core| !workers.contains(core));
        let control = control.unwrap_or_else(|| {
            warn!("no core is left for the control plane: it shares the first worker's");
            workers[0]
        });
        Ok(Self {
            workers: workers.into_iter().map(|core| core as usize).collect(),
            control: control as usize,
        })
    }
}
