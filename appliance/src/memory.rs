//! How much memory the data plane needs, and whether it is huge pages.

use anyhow::{Context, Result, anyhow, bail};
use controlplane::config::{self, Config};
use hugepages::memory::PageRequest;
use hugepages::{Host, OnShortfall, PageSize, PciAddress, Plan, devices};
use tracing::warn;

use crate::cards;

/// What DPDK's memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Huge pages.
    Huge,
    /// Ordinary ones.
    Plain,
}

/// Buffers of one port in flight: both its queues full, and as many again on their way.
const BUFFERS_PER_PORT: u32 = 4096;
/// Buffers that threads keep to themselves, wait for neighbours, or are being made.
const BUFFERS_BESIDES: u32 = 4096;
/// What DPDK keeps with a buffer, in bytes: its own header, headroom, and the pool's.
const BUFFER_OVERHEAD: u64 = 128 + 128 + 64;
/// What a flow takes in the table, in bytes (PERFORMANCE: 96 at most).
const FLOW: u64 = 96;
/// What DPDK itself needs, in megabytes: its tables, rings, and room lost between zones.
const BESIDES: u64 = 64;

/// How many packet buffers `config` needs.
pub fn buffers(config: &Config) -> u32 {
    config.interfaces.len() as u32 * BUFFERS_PER_PORT + BUFFERS_BESIDES
}

/// The longest frame that a buffer must hold, in bytes: the largest MTU, and what goes around a packet.
pub fn room(config: &Config) -> u16 {
    let longest = config.interfaces.iter().map(|interface| interface.mtu).max().unwrap_or(1500);
    (longest + 64).max(2048)
}

/// What `config` needs in all, in megabytes.
fn megabytes(config: &Config) -> u64 {
    let frames = u64::from(buffers(config)) * (u64::from(room(config)) + BUFFER_OVERHEAD);
    let flows = u64::from(config.dataplane.flows) * FLOW;
    (frames + flows).div_ceil(1 << 20) + BESIDES
}

impl Memory {
    /// What DPDK is to be started with.
    pub fn of_eal(self, config: &Config) -> dpdk_sys::Memory {
        let megabytes = megabytes(config) as usize;
        match self {
            Self::Huge => dpdk_sys::Memory::Huge { megabytes },
            Self::Plain => dpdk_sys::Memory::Plain { megabytes },
        }
    }
}

/// Reserves the pages and takes the cards that `config` needs; what was there before is noted in `plan`'s record.
///
/// # Errors
/// If a card cannot be taken, or there is too little memory of the kind that is asked for, or that the cards can reach.
pub fn prepare(host: &Host, config: &Config, mut plan: Plan) -> Result<Memory> {
    plan.cards =
        cards::named_in(config).iter().map(|card| card.parse()).collect::<Result<_, _>>()?;
    let plain = plain_would_do(host, config, &plan.cards);
    let wanted = config.dataplane.memory;
    if wanted == Some(config::Memory::Plain) {
        plain?;
    } else {
        // DPDK wants whole pages for each zone, so a few more than the sum.
        let pages = megabytes(config).div_ceil(2) + 8;
        plan.pages = vec![PageRequest { size: PageSize::TwoMiB, pages, node: None }];
        if wanted.is_none() && plain.is_ok() {
            plan.on_shortfall = OnShortfall::Plain;
        }
    }
    let prepared = hugepages::prepare(host, &plan)
        .map_err(|error| match &error {
            hugepages::Error::Shortfall(_) => anyhow!("{error}; {}", what_helps(config)),
            _ => error.into(),
        })
        .context("the host could not be made ready")?;
    match (wanted, prepared.memory) {
        (Some(config::Memory::Plain), _) => Ok(Memory::Plain),
        (_, hugepages::memory::Memory::Plain { because }) => {
            warn!("no huge pages, so forwarding will be slower: {because}");
            Ok(Memory::Plain)
        }
        _ => Ok(Memory::Huge),
    }
}

/// Plain memory has to be there as much as huge pages have; and a card without an IOMMU needs to know where in the
/// machine's memory a buffer lies, which the kernel keeps still for huge pages only.
fn plain_would_do(host: &Host, config: &Config, cards: &[PciAddress]) -> Result<()> {
    let needed = megabytes(config);
    if let Some(spare) = hugepages::memory::spare(host).map(|bytes| bytes >> 20)
        && needed > spare
    {
        let help = what_helps(config);
        bail!("{needed} MiB of memory are needed, and {spare} MiB can be had; {help}");
    }
    let found = devices::cards(host);
    let bare = |card: &&devices::Card| {
        cards.contains(&card.address)
            && card.iommu_group.is_none()
            && matches!(devices::choose(host, card), Ok(devices::Choice::Bind(_)))
    };
    if let Some(card) = found.iter().find(bare) {
        let address = card.address;
        bail!(
            "dataplane.memory: card {address} is not behind an IOMMU, so it can use huge pages only: expected \
             \"huge\", found \"plain\" (or switch the IOMMU on: intel_iommu=on on the kernel's command line)"
        );
    }
    Ok(())
}

/// To somebody who has too little memory.
fn what_helps(config: &Config) -> String {
    let flows = config.dataplane.flows;
    format!(
        "{} of the {} MiB are for the {flows} flows of dataplane.flows: lower that, or give the machine more memory",
        (u64::from(flows) * FLOW).div_ceil(1 << 20),
        megabytes(config)
    )
}
