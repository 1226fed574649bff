//! What a worker is made of, put together as the appliance does it (`appliance/src/wiring.rs`): one worker,
//! tables on huge pages when there are any.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use dataplane::counters::Counters;
use dataplane::defence::cookie::Cookies;
use dataplane::defence::limits::Rates;
use dataplane::explain::Journal;
use dataplane::fragments::Fragments;
use dataplane::frame::Link;
use dataplane::handover::colleagues;
use dataplane::lookup::flow_table::{Capacity, FlowTable, Key, WorkerId};
use dataplane::lookup::load::{Full, Loads};
use dataplane::lookup::persistence::Persistence;
use dataplane::lookup::scheduler::Schedules;
use dataplane::lookup::slab::Huge;
use dataplane::lookup::{Memory, NOWHERE_YET};
use dataplane::punt::{ControlEnd, rings};
use dataplane::snapshot::{MAX_SERVICES, Publisher, Reader, Snapshot, publication};
use dataplane::worker::Parts;
use dpdk_sys::Eal;

/// Buckets in which new flows are counted by the client's network, as in the appliance.
const NETWORKS: usize = 65_536;
/// Clients that the persistence table has room for.
const CLIENTS: usize = 65_536;

/// A worker's parts, and the other ends of what it meets.
pub struct Assembled<L: Link> {
    /// What the worker is made of.
    pub parts: Parts<L>,
    /// Publishes configurations to it.
    pub publisher: Publisher<Snapshot>,
    /// The control plane's ends of its rings, which must live as long as it does.
    pub control: ControlEnd,
}

/// One worker with this configuration, these links, and room for so many flows.
///
/// # Errors
/// If there is no memory for its tables.
pub fn assemble<L: Link>(
    eal: &Eal,
    snapshot: Snapshot,
    capacity: Capacity,
    links: Vec<L>,
) -> Result<Assembled<L>> {
    let (publisher, reader) = one_reader(snapshot)?;
    let counters = Counters::new();
    let (worker_end, control) = rings();
    let colleagues = colleagues(1).pop().ok_or_else(|| anyhow!("a worker knows itself"))?;
    let parts = Parts {
        links,
        snapshots: reader,
        memory: memory(eal, capacity, counters.clone())?,
        fragments: Fragments::new(4_096, [9, 10]),
        control: worker_end,
        colleagues,
        counters,
        random: 1,
    };
    Ok(Assembled { parts, publisher, control })
}

/// A publication with one reader.
///
/// # Errors
/// None that can happen: the reader that was asked for is there.
pub fn one_reader(snapshot: Snapshot) -> Result<(Publisher<Snapshot>, Reader<Snapshot>)> {
    let (publisher, mut readers) = publication(snapshot, 1);
    let reader = readers.pop().ok_or_else(|| anyhow!("one reader was asked for"))?;
    Ok((publisher, reader))
}

fn memory(eal: &Eal, capacity: Capacity, counters: Counters) -> Result<Memory> {
    let huge = Huge { eal, numa: None };
    let no_memory = |bytes| anyhow!("no memory for a table of {bytes} bytes: fewer --flows?");
    // Fixed secrets: two runs must measure the same table.
    let flows = FlowTable::new(capacity, Key::new([11, 13, 17, 19]), None, &huge)
        .map_err(|out| no_memory(out.bytes))?;
    let persistence =
        Persistence::new(CLIENTS, [3, 4], &huge).map_err(|out| no_memory(out.bytes))?;
    let persistence = Arc::new(persistence);
    Ok(Memory {
        flows,
        schedules: Schedules::default(),
        share: persistence.share(0, 1),
        persistence,
        loads: Loads::new(counters, Vec::new(), Full::default()),
        rates: Rates::new(MAX_SERVICES, NETWORKS, [5, 6]),
        cookies: Cookies::new([7, 8]),
        spreading: Vec::new(),
        worker: WorkerId(0),
        workers: 1,
        random: 0x5eed,
        last_way_back: NOWHERE_YET,
        journal: Journal::default(),
    })
}
