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

/// Buffers of one pair of a port's queues in flight: both full, and as many again on their way.
const BUFFERS_PER_QUEUE: u32 = 4096;
/// Buffers that one worker keeps to itself, that wait for neighbours, or are being made.
const BUFFERS_PER_WORKER: u32 = 4096;
/// What DPDK keeps with a buffer, in bytes: its own header, headroom, and the pool's.
const BUFFER_OVERHEAD: u64 = 128 + 128 + 64;
/// What an IPv4 flow takes in the table, in bytes.
const FLOW: u64 = 96;
/// What an IPv6 flow takes in the table, in bytes.
const FLOW_IPV6: u64 = 160;
/// What a translated flow takes in the directory that several workers share, in bytes.
const LISTED: u64 = 48;
/// What a client takes in the persistence table, in bytes.
const CLIENT: u64 = 32;
/// What DPDK itself needs, in megabytes: its tables, rings, and room lost between zones.
const BESIDES: u64 = 64;
/// And for each worker: queues, and room lost between its tables.
const BESIDES_PER_WORKER: u64 = 32;

/// How many packet buffers `config` needs with so many workers.
pub fn buffers(config: &Config, workers: usize) -> u32 {
    let queues = config.ports().len() * workers;
    queues as u32 * BUFFERS_PER_QUEUE + workers as u32 * BUFFERS_PER_WORKER
}

/// The longest frame that a buffer must hold, in bytes: the largest MTU, and what goes around a packet.
pub fn room(config: &Config) -> u16 {
    let longest = config.interfaces.iter().map(|interface| interface.mtu).max().unwrap_or(1500);
    (longest + 64).max(2048)
}

/// What `config` needs in all, in megabytes.
fn megabytes(config: &Config, workers: usize) -> u64 {
    let frames = u64::from(buffers(config, workers)) * (u64::from(room(config)) + BUFFER_OVERHEAD);
    let clients = u64::from(config.dataplane.clients) * CLIENT;
    let besides = BESIDES + BESIDES_PER_WORKER * workers as u64;
    (frames + flows(config, workers) + clients).div_ceil(1 << 20) + besides
}

/// What the flows of all workers take, in bytes.
fn flows(config: &Config, workers: usize) -> u64 {
    let [v4, v6] = [config.dataplane.flows, config.dataplane.flows_ipv6()].map(u64::from);
    let listed = if workers > 1 { (v4 + v6) * LISTED } else { 0 };
    (v4 * FLOW + v6 * FLOW_IPV6 + listed) * workers as u64
}

impl Memory {
    /// What DPDK is to be started with.
    pub fn of_eal(self, config: &Config, workers: usize) -> dpdk_sys::Memory {
        let megabytes = megabytes(config, workers) as usize;
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
pub fn prepare(host: &Host, config: &Config, workers: usize, mut plan: Plan) -> Result<Memory> {
    plan.cards =
        cards::named_in(config).iter().map(|card| card.parse()).collect::<Result<_, _>>()?;
    let plain = plain_would_do(host, config, workers, &plan.cards);
    let wanted = config.dataplane.memory;
    if wanted == Some(config::Memory::Plain) {
        plain?;
    } else {
        // DPDK wants whole pages for each zone, so a few more than the sum.
        let pages = megabytes(config, workers).div_ceil(2) + 8;
        plan.pages = vec![PageRequest { size: PageSize::TwoMiB, pages, node: None }];
        if wanted.is_none() && plain.is_ok() {
            plan.on_shortfall = OnShortfall::Plain;
        }
    }
    let prepared = hugepages::prepare(host, &plan)
        .map_err(|error| match &error {
            hugepages::Error::Shortfall(_) => anyhow!("{error}; {}", what_helps(config, workers)),
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
fn plain_would_do(
    host: &Host,
    config: &Config,
    workers: usize,
    cards: &[PciAddress],
) -> Result<()> {
    let needed = megabytes(config, workers);
    if let Some(spare) = hugepages::memory::spare(host).map(|bytes| bytes >> 20)
        && needed > spare
    {
        let help = what_helps(config, workers);
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
fn what_helps(config: &Config, workers: usize) -> String {
    format!(
        "{} of the {} MiB are for the {} flows of dataplane.flows and the {} of dataplane.flows_ipv6, for each worker: \
         lower these, or give the machine more memory",
        flows(config, workers).div_ceil(1 << 20),
        megabytes(config, workers),
        config.dataplane.flows,
        config.dataplane.flows_ipv6(),
    )
}
