//! Makes a Linux host ready for a poll-mode data plane, and gives it back as it was.
//!
//! [`prepare`] goes through these in order, and [`restore`] through what it did backwards:
//!
//! 1. [`memory`]: huge pages reserved on the nodes that need them, hugetlbfs mounted
//! 2. [`devices`]: cards taken from their kernel drivers and bound to one that DPDK can use
//! 3. [`cores`]: which cores a worker may have to itself
//!
//! Beneath them, [`host`] is where the kernel's files are, and [`record`] remembers every change
//! on disk *before* it is made, so that a process killed at any moment leaves enough behind for
//! the next start or for [`restore`]. [`status()`] only looks.
//!
//! The kernel reports success for things that it did not do: it reserves fewer pages than it was
//! asked for, and it accepts a card for a driver that then refuses it. So nothing here believes a
//! write; each is followed by a look at what came of it.

#![forbid(unsafe_code)]

pub mod memory;

pub mod devices;

pub mod cores;

pub mod host;

pub mod record;

pub mod status;

mod error;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::Serialize;
use tracing::{info, warn};

use self::{
    cores::Workers,
    devices::Taken,
    memory::{Memory, PageRequest},
    record::Journal,
};
pub use self::{devices::PciAddress, error::Error, host::Host, memory::PageSize, status::status};

/// Where the record is kept unless the operator says otherwise. Everything it speaks of ends with
/// the boot, so a folder that does too is the right place for it.
pub const DEFAULT_RECORD: &str = "/run/sluice/host.json";

/// What the host is to be made ready for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Huge pages wanted; what is there and free already counts.
    pub pages: Vec<PageRequest>,
    /// Whether hugetlbfs must be mounted for each size in `pages`. DPDK needs that unless it runs
    /// with `--in-memory`.
    pub mount: bool,
    /// What to do when the kernel has fewer pages than that.
    pub on_shortfall: OnShortfall,
    /// The cards to take.
    pub cards: Vec<PciAddress>,
    /// Takes a card even if it carries the host's default route or has an address in use.
    pub force: bool,
    /// Where to remember what was there before; [`DEFAULT_RECORD`] if in doubt.
    pub record: PathBuf,
}

impl Plan {
    /// A plan that asks for nothing yet and remembers what was there at `record`.
    pub fn new(record: impl Into<PathBuf>) -> Self {
        Self {
            pages: Vec::new(),
            mount: false,
            on_shortfall: OnShortfall::Refuse,
            cards: Vec::new(),
            force: false,
            record: record.into(),
        }
    }
}

/// What [`prepare`] does when there are not enough huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnShortfall {
    /// Fails, before any card is touched.
    Refuse,
    /// Gives back what it got, warns, and answers [`Memory::Plain`].
    Plain,
}

/// A host made ready: what the data plane may now count on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Prepared {
    /// Huge pages, or plain memory and why.
    pub memory: Memory,
    /// The cards of the plan, in its order, and the driver each is bound to.
    pub cards: Vec<Taken>,
    /// The cores to give to workers, those near the cards first.
    pub workers: Workers,
}

/// What [`restore`] gave back, one sentence each, in the order in which it did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Empty if there was nothing to give back.
    pub given_back: Vec<String>,
}

/// Reserves the pages and takes the cards of `plan`. Doing it again changes nothing more, and what
/// is remembered stays what was there before the first time.
///
/// # Errors
/// Any [`Error`]; the host is then as it was before the call, unless the message says otherwise.
pub fn prepare(host: &Host, plan: &Plan) -> Result<Prepared, Error> {
    let cards = devices::examine(host, &plan.cards, plan.force)?;
    let mut journal = Journal::open(host, &plan.record)?;
    let before = journal.deeds().len();

    let prepared = prepare_in_order(host, plan, &cards, &mut journal);
    if prepared.is_err() {
        let (_, problems) = journal.undo_down_to(host, before);
        problems.iter().for_each(|problem| warn!("{problem}"));
    }
    prepared
}

fn prepare_in_order(
    host: &Host,
    plan: &Plan,
    cards: &[devices::Candidate],
    journal: &mut Journal,
) -> Result<Prepared, Error> {
    let nodes: BTreeSet<u32> = cards.iter().filter_map(|candidate| candidate.card.node).collect();
    let memory = secure_memory(host, plan, &nodes, journal)?;
    let taken = cards
        .iter()
        .map(|candidate| devices::take(host, journal, candidate))
        .collect::<Result<Vec<_>, _>>()?;
    let workers = cores::workers(host, &plan.cards)?;
    Ok(Prepared { memory, cards: taken, workers })
}

fn secure_memory(
    host: &Host,
    plan: &Plan,
    nodes: &BTreeSet<u32>,
    journal: &mut Journal,
) -> Result<Memory, Error> {
    let before = journal.deeds().len();
    match memory::secure(host, journal, &plan.pages, nodes, plan.mount) {
        Err(Error::Shortfall(shortfall)) if plan.on_shortfall == OnShortfall::Plain => {
            warn!("{shortfall}; continuing with plain memory");
            let (_, problems) = journal.undo_down_to(host, before);
            match problems.is_empty() {
                true => Ok(Memory::Plain { because: shortfall }),
                false => Err(Error::NotRestored(problems)),
            }
        }
        outcome => outcome,
    }
}

/// Gives back everything that the record at `path` remembers: cards to the drivers they had, pages
/// to the kernel, mounts unmounted. Without a record, or with one from before the last boot, there
/// is nothing to do.
///
/// # Errors
/// [`Error::NotRestored`] with every problem if something could not be given back: the rest was,
/// and the record keeps what was not, so that it can be tried again.
pub fn restore(host: &Host, path: &Path) -> Result<Restored, Error> {
    if let Ok(false) = path.try_exists() {
        return Ok(Restored::default());
    }
    let mut journal = Journal::open(host, path)?;
    let (given_back, problems) = journal.undo_down_to(host, 0);
    given_back.iter().for_each(|done| info!("{done}"));
    match problems.is_empty() {
        true => Ok(Restored { given_back }),
        false => Err(Error::NotRestored(problems)),
    }
}
