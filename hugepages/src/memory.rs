//! Huge pages: reserved where the cards are, counted after every write, and given back to the
//! last page that we added.
//!
//! What is counted is the kernel's *persistent* pages, `nr_hugepages - surplus_hugepages`: a page
//! that is given back while a program holds it stays in `nr_hugepages` as surplus until the
//! program lets go of it (Linux, Documentation/admin-guide/mm/hugetlbpage.rst).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use nix::mount::{MntFlags, MsFlags};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::{
    Error, Host,
    record::{Deed, Journal, PagesDeed},
};

/// What the rest of the host keeps to run with: more than all available memory but this is not
/// asked for, because the kernel would take it from running programs.
const LEFT_FOR_THE_HOST: u64 = 64 << 20;

/// Locked by whoever changes how many pages there are. Not below `/sys`, of which every network namespace may have one of
/// its own.
const LOCK: &str = "/run/sluice-hugepages.lock";

/// How long another program may take to change it: the kernel may have to make room first.
const PATIENCE: Duration = Duration::from_secs(60);

/// The sizes of huge pages that DPDK uses on x86.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PageSize {
    /// 2 MiB.
    #[serde(rename = "2MiB")]
    TwoMiB,
    /// 1 GiB. In practice there only if reserved at boot.
    #[serde(rename = "1GiB")]
    OneGiB,
}

impl PageSize {
    /// Every size, smallest first.
    pub const ALL: [Self; 2] = [Self::TwoMiB, Self::OneGiB];

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::TwoMiB => 2 << 20,
            Self::OneGiB => 1 << 30,
        }
    }

    /// The name of this size's folder in sysfs.
    fn folder(self) -> &'static str {
        match self {
            Self::TwoMiB => "hugepages-2048kB",
            Self::OneGiB => "hugepages-1048576kB",
        }
    }

    /// The size as the kernel's command line and hugetlbfs write it.
    fn kernel_name(self) -> &'static str {
        match self {
            Self::TwoMiB => "2M",
            Self::OneGiB => "1G",
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::TwoMiB => "2MiB",
            Self::OneGiB => "1GiB",
        })
    }
}

impl FromStr for PageSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let named = Self::ALL.into_iter().find(|size| size.to_string() == text);
        named.ok_or_else(|| Error::NotAPageSize(text.to_owned()))
    }
}

/// Huge pages that a plan asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// Their size.
    pub size: PageSize,
    /// How many, on all nodes together.
    pub pages: u64,
    /// The NUMA node they must be on. Otherwise they are spread evenly over the nodes of the
    /// plan's cards or, where that is unknown, over all nodes.
    pub node: Option<u32>,
}

impl PageRequest {
    /// As many pages of this size as hold `bytes`.
    pub fn covering(bytes: u64, size: PageSize) -> Self {
        Self { size, pages: bytes.div_ceil(size.bytes()), node: None }
    }
}

/// Pages that the kernel counts together: of one size, on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pool {
    /// The size of the pages.
    pub size: PageSize,
    /// Their node; none where the kernel has no folder for each node.
    pub node: Option<u32>,
}

impl Pool {
    fn folder(self) -> String {
        let size = self.size.folder();
        match self.node {
            Some(node) => format!("/sys/devices/system/node/node{node}/hugepages/{size}"),
            None => format!("/sys/kernel/mm/hugepages/{size}"),
        }
    }

    /// Every pool of `host`.
    fn all(host: &Host) -> Vec<Self> {
        PageSize::ALL.into_iter().flat_map(|size| Self::of_size(host, size)).collect()
    }

    fn of_size(host: &Host, size: PageSize) -> Vec<Self> {
        let of_node = |node| Self { size, node: Some(node) };
        let mut pools: Vec<Self> = nodes(host).into_iter().map(of_node).collect();
        pools.retain(|pool| host.has(&pool.folder()));
        if pools.is_empty() {
            pools.push(Self { size, node: None });
            pools.retain(|pool| host.has(&pool.folder()));
        }
        pools
    }

    fn counts(self, host: &Host) -> Result<Counts, Error> {
        let count = |file| number(host, &format!("{}/{file}", self.folder()));
        Ok(Counts {
            total: count("nr_hugepages")?,
            free: count("free_hugepages")?,
            surplus: count("surplus_hugepages")?,
        })
    }

    /// Asks the kernel for this many persistent pages. It may do less and never says so.
    fn ask_for(self, host: &Host, pages: u64) -> Result<(), Error> {
        host.write(&format!("{}/nr_hugepages", self.folder()), &pages.to_string())
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "huge pages of {}", self.size)?;
        match self.node {
            Some(node) => write!(out, " on node {node}"),
            None => Ok(()),
        }
    }
}

/// What the kernel says about a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Pages there are.
    pub total: u64,
    /// Those of them that no program holds.
    pub free: u64,
    /// Those of them that go back to the kernel as soon as the program that holds them ends.
    pub surplus: u64,
}

impl Counts {
    fn persistent(self) -> u64 {
        self.total.saturating_sub(self.surplus)
    }
}

/// A pool and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PoolState {
    /// Which pages.
    #[serde(flatten)]
    pub pool: Pool,
    /// How many.
    #[serde(flatten)]
    pub counts: Counts,
}

/// The memory that the data plane may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// All the huge pages asked for.
    Huge {
        /// Where they are.
        pools: Vec<Secured>,
    },
    /// Plain memory only: DPDK must be started with `--no-huge`.
    Plain {
        /// What was missing.
        because: Shortfall,
    },
}

/// Pages that are there for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Secured {
    /// Which pages.
    #[serde(flatten)]
    pub pool: Pool,
    /// How many.
    pub pages: u64,
    /// How many of them this call added; the others were there and free, or ours already.
    pub added: u64,
}

/// Fewer huge pages than asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shortfall {
    /// Which pages.
    #[serde(flatten)]
    pub pool: Pool,
    /// How many were asked for.
    pub asked: u64,
    /// How many could be had.
    pub got: u64,
    /// Why there were no more.
    pub reason: ShortfallReason,
}

/// Why there were not enough huge pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShortfallReason {
    /// The kernel found too little free memory in one piece.
    Fragmented,
    /// It would have taken nearly all memory that is available, which is this many bytes.
    WouldStarveTheHost(u64),
    /// The processor or the kernel has no pages of this size, or not on this node.
    NotOffered,
    /// The kernel refused the write.
    Refused(String),
}

impl fmt::Display for Shortfall {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, asked, got, reason } = self;
        write!(out, "asked for {asked} {pool}, got {got}: ")?;
        match reason {
            ShortfallReason::Fragmented => {
                let size = pool.size.kernel_name();
                write!(
                    out,
                    "the kernel has no more free memory in pieces of that size; reserve them at \
                     boot (kernel command line: hugepagesz={size} hugepages={asked})"
                )?;
            }
            ShortfallReason::WouldStarveTheHost(available) => write!(
                out,
                "only {} MiB of memory are available, and the host keeps {} of them",
                available >> 20,
                LEFT_FOR_THE_HOST >> 20
            )?,
            ShortfallReason::NotOffered => {
                return write!(
                    out,
                    "there are no such pages on this host; ask for another size or node"
                );
            }
            ShortfallReason::Refused(why) => return out.write_str(why),
        }
        match got {
            0 => Ok(()),
            _ => write!(out, ", or ask for at most {got}"),
        }
    }
}

/// The right to change how many pages there are, for as long as it lives. The kernel is told a number and not a difference,
/// so that of two programs that read it, add to it and write it at the same time, one would undo what the other did.
pub(crate) struct Change(#[expect(dead_code, reason = "closing it unlocks it")] File);

impl Change {
    /// Waits for whoever else is at it.
    ///
    /// # Errors
    /// [`Error::PagesLocked`] if that takes too long.
    pub(crate) fn begin(host: &Host) -> Result<Self, Error> {
        let path = host.path(LOCK);
        let failed = |source| Error::File { action: "lock", path: path.clone(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600);
        let file = file.open(&path).map_err(failed)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                    return Err(Error::PagesLocked(path));
                }
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

/// The host's NUMA nodes, lowest first; none where the kernel has no folder for each.
pub(crate) fn nodes(host: &Host) -> Vec<u32> {
    let number = |name: String| name.strip_prefix("node")?.parse().ok();
    let mut nodes: Vec<u32> =
        host.names("/sys/devices/system/node").into_iter().filter_map(number).collect();
    nodes.sort_unstable();
    nodes
}

/// Every pool of `host` and what is in it.
///
/// # Errors
/// If one of the kernel's counts cannot be read.
pub fn pools(host: &Host) -> Result<Vec<PoolState>, Error> {
    let state = |pool: Pool| Ok(PoolState { pool, counts: pool.counts(host)? });
    Pool::all(host).into_iter().map(state).collect()
}

/// Sees to it that the pages of `requests` are there for us, and hugetlbfs if `mounted`.
pub(crate) fn secure(
    host: &Host,
    journal: &mut Journal,
    requests: &[PageRequest],
    near: &BTreeSet<u32>,
    mounted: bool,
) -> Result<Memory, Error> {
    let mut wanted = BTreeMap::<Pool, u64>::new();
    for request in requests {
        for (pool, pages) in shares(host, request, near)? {
            let sum = wanted.entry(pool).or_default();
            *sum = sum.saturating_add(pages);
        }
    }
    let mut pools = Vec::new();
    for (pool, pages) in &wanted {
        pools.push(secure_pool(host, journal, *pool, *pages)?);
    }
    let sizes: BTreeSet<PageSize> = wanted.keys().map(|pool| pool.size).collect();
    for size in sizes.into_iter().filter(|_| mounted) {
        mount(host, journal, size)?;
    }
    Ok(Memory::Huge { pools })
}

/// Which pools the pages of a request come from, and how many from each.
fn shares(
    host: &Host,
    request: &PageRequest,
    near: &BTreeSet<u32>,
) -> Result<Vec<(Pool, u64)>, Error> {
    let all = Pool::of_size(host, request.size);
    let on = |wanted: &dyn Fn(u32) -> bool| -> Vec<Pool> {
        all.iter().copied().filter(|pool| pool.node.is_some_and(wanted)).collect()
    };
    let pools = match request.node {
        Some(node) => on(&|other| other == node),
        None => match on(&|node| near.contains(&node)) {
            near_cards if near_cards.is_empty() => all,
            near_cards => near_cards,
        },
    };
    if pools.is_empty() {
        let pool = Pool { size: request.size, node: request.node };
        let reason = ShortfallReason::NotOffered;
        return Err(Error::Shortfall(Shortfall { pool, asked: request.pages, got: 0, reason }));
    }
    let each = request.pages / pools.len() as u64;
    let left_over = request.pages % pools.len() as u64;
    let share = |(index, pool)| (pool, each + u64::from((index as u64) < left_over));
    Ok(pools.into_iter().enumerate().map(share).collect())
}

fn secure_pool(
    host: &Host,
    journal: &mut Journal,
    pool: Pool,
    asked: u64,
) -> Result<Secured, Error> {
    let _change = Change::begin(host)?;
    let counts = pool.counts(host)?;
    let promised = promised(host, pool.size);
    // Ours from an earlier call count even while a program of ours holds them.
    let there = counts.free.saturating_sub(promised).max(secured_before(journal, pool)).min(asked);
    let missing = asked - there;
    let short = |got, reason| Error::Shortfall(Shortfall { pool, asked, got, reason });

    if let (Some(available), Some(spare)) = (available(host), spare(host))
        && missing.saturating_mul(pool.size.bytes()) > spare
        && missing > 0
    {
        return Err(short(there, ShortfallReason::WouldStarveTheHost(available)));
    }

    let before = counts.persistent();
    let mut deed = PagesDeed { pool, before, pages: missing, certain: false, secured: there };
    let index = journal.begin(Deed::Pages(deed))?;
    if missing > 0 {
        let refused = |error: Error| short(there, ShortfallReason::Refused(error.to_string()));
        pool.ask_for(host, before.saturating_add(missing)).map_err(refused)?;
    }
    let added = pool.counts(host)?.persistent().saturating_sub(before).min(missing);
    deed = PagesDeed { pages: added, certain: true, secured: there + added, ..deed };
    journal.amend(index, Deed::Pages(deed))?;
    if added < missing {
        return Err(short(there + added, ShortfallReason::Fragmented));
    }
    info!("{asked} {pool}: {there} were there, {added} added");
    Ok(Secured { pool, pages: asked, added })
}

fn secured_before(journal: &Journal, pool: Pool) -> u64 {
    let secured = |deed: &Deed| match deed {
        Deed::Pages(pages) if pages.pool == pool => Some(pages.secured),
        _ => None,
    };
    journal.deeds().iter().rev().find_map(secured).unwrap_or(0)
}

/// Free pages that the kernel has already promised to a mapping. It counts them for all nodes
/// together, so on a host with several nodes we may reserve more than we had to.
fn promised(host: &Host, size: PageSize) -> u64 {
    let file = format!("/sys/kernel/mm/hugepages/{}/resv_hugepages", size.folder());
    number(host, &file).unwrap_or(0)
}

/// Bytes that a program may take, in pages of any size, without the rest of the host having to make
/// room; `None` if the kernel does not say what there is.
pub fn spare(host: &Host) -> Option<u64> {
    Some(available(host)?.saturating_sub(LEFT_FOR_THE_HOST))
}

/// Bytes of memory that can be had without pushing anything out to swap.
fn available(host: &Host) -> Option<u64> {
    meminfo(host, "MemAvailable:")
}

/// One entry of `/proc/meminfo`, in bytes.
fn meminfo(host: &Host, entry: &str) -> Option<u64> {
    let text = host.read_if_there("/proc/meminfo")?;
    let value = text.lines().find_map(|line| line.strip_prefix(entry))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn number(host: &Host, file: &str) -> Result<u64, Error> {
    let text = host.read(file)?;
    text.parse().map_err(|_| Error::File {
        action: "understand the count in",
        path: host.path(file),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{text:?}")),
    })
}

/// How many persistent pages to leave in the pool so that exactly those we added are gone.
///
/// Where it is not certain that they were ever added, because the process died between the record
/// and the kernel's answer, no more than what lies above the count of that time can be ours.
pub(crate) fn without_ours(host: &Host, deed: &PagesDeed) -> Result<u64, Error> {
    let now = deed.pool.counts(host)?.persistent();
    let ours = match deed.certain {
        true => deed.pages,
        false => deed.pages.min(now.saturating_sub(deed.before)),
    };
    Ok(now.saturating_sub(ours))
}

/// Gives back all but `leave` pages of a pool.
///
/// # Errors
/// If the kernel refuses the write, or has more pages left afterwards than it was told to.
pub(crate) fn give_back(host: &Host, pool: Pool, leave: u64) -> Result<String, Error> {
    let before = pool.counts(host)?.persistent();
    pool.ask_for(host, leave)?;
    let counts = pool.counts(host)?;
    if counts.persistent() > leave {
        let reason =
            format!("asked the kernel to keep {leave} {pool}, and it keeps {}", counts.total);
        return Err(Error::NotRestored(vec![reason]));
    }
    let held = match counts.surplus {
        0 => String::new(),
        held => format!(" ({held} of them when the program that holds them ends)"),
    };
    Ok(format!("{} {pool}{held}", before.saturating_sub(leave)))
}

/// A mounted hugetlbfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where.
    pub path: PathBuf,
    /// The size of its pages in bytes.
    pub page_bytes: u64,
}

/// Every hugetlbfs that is mounted.
pub fn mounts(host: &Host) -> Vec<Mount> {
    let table = host.read_if_there("/proc/mounts").unwrap_or_default();
    let default = meminfo(host, "Hugepagesize:").unwrap_or(PageSize::TwoMiB.bytes());
    table.lines().filter_map(|line| hugetlbfs(line, default)).collect()
}

fn hugetlbfs(line: &str, default: u64) -> Option<Mount> {
    let mut fields = line.split(' ').skip(1);
    let (path, "hugetlbfs", options) = (fields.next()?, fields.next()?, fields.next()?) else {
        return None;
    };
    let size = options.split(',').find_map(|option| option.strip_prefix("pagesize="));
    let page_bytes = size.and_then(bytes).unwrap_or(default);
    Some(Mount { path: PathBuf::from(unescape(path)), page_bytes })
}

/// `2M`, `1024M` or `1G`, as hugetlbfs writes its page size.
fn bytes(size: &str) -> Option<u64> {
    let (digits, shift) = match size.as_bytes().last()? {
        b'K' => (size.strip_suffix('K')?, 10),
        b'M' => (size.strip_suffix('M')?, 20),
        b'G' => (size.strip_suffix('G')?, 30),
        _ => (size, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A path as it was before the kernel wrote its blanks as `\040` (proc_pid_mounts(5), fstab(5)).
fn unescape(path: &str) -> String {
    let blanks = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    blanks.iter().fold(path.to_owned(), |path, (escaped, plain)| path.replace(escaped, plain))
}

/// Mounts hugetlbfs for pages of `size`, unless there is one already.
fn mount(host: &Host, journal: &mut Journal, size: PageSize) -> Result<(), Error> {
    if mounts(host).iter().any(|mount| mount.page_bytes == size.bytes()) {
        return Ok(());
    }
    let path = host.path(&format!("/dev/hugepages-{size}"));
    let failed = |path, source| Error::Mount { action: "mount", path, source };
    journal.begin(Deed::Mount { path: path.clone() })?;
    fs::create_dir_all(&path).map_err(|source| failed(path.clone(), source))?;
    let options = format!("pagesize={},mode=0700", size.kernel_name());
    let kind = Some("hugetlbfs");
    let mounted = nix::mount::mount(kind, &path, kind, MsFlags::empty(), Some(options.as_str()));
    mounted.map_err(|errno| failed(path, errno.into()))
}

/// Unmounts the hugetlbfs that we mounted at `path`, if it still is.
pub(crate) fn unmount(host: &Host, path: &PathBuf) -> Result<String, Error> {
    if mounts(host).iter().any(|mount| mount.path == *path) {
        nix::mount::umount2(path, MntFlags::empty()).map_err(|errno| Error::Mount {
            action: "unmount",
            path: path.clone(),
            source: errno.into(),
        })?;
    }
    let _ = fs::remove_dir(path); // an empty folder in /dev is no harm if somebody else needs it
    Ok(format!("hugetlbfs at {} unmounted", path.display()))
}

#[cfg(test)]
mod tests;
