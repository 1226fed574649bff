//! Which cores there are, which of them the scheduler leaves alone, and which are near a card.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::Serialize;

use crate::{Error, Host, PciAddress};

/// One more than the highest core number that Linux can have (`NR_CPUS` is at most 8192).
const MAX: u32 = 8192;

/// A set of cores, written as the kernel writes it: `0-3,8,10-11`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoreSet(BTreeSet<u32>);

impl CoreSet {
    /// The cores, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    /// Whether `core` is one of them.
    pub fn contains(&self, core: u32) -> bool {
        self.0.contains(&core)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<u32> for CoreSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cores: I) -> Self {
        Self(cores.into_iter().collect())
    }
}

impl FromStr for CoreSet {
    type Err = Error;

    /// Reads the kernel's notation. An empty text is an empty set, as in the kernel's files.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::NotACoreList { max: MAX, found: text.chars().take(80).collect() };
        let number = |digits: &str| -> Option<u32> {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|core| plain && *core < MAX)
        };
        let mut cores = BTreeSet::new();
        if text.trim().is_empty() {
            return Ok(Self(cores));
        }
        for part in text.trim().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first = number(first).ok_or_else(wrong)?;
            let last = number(last).filter(|last| first <= *last).ok_or_else(wrong)?;
            cores.extend(first..=last);
        }
        Ok(Self(cores))
    }
}

impl fmt::Display for CoreSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last + 1) {
                last = next;
            }
            match first == last {
                true => write!(out, "{comma}{first}")?,
                false => write!(out, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl Serialize for CoreSet {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// The cores of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cores {
    /// Those that run.
    pub online: CoreSet,
    /// Those that the scheduler leaves alone (`isolcpus=`).
    pub isolated: CoreSet,
    /// Those that this process may use. It says nothing about isolated ones: Linux takes them out
    /// of every process's mask at boot, and they can still be asked for.
    pub allowed: CoreSet,
    /// The cores of each NUMA node, by its number; empty where the kernel knows of no nodes.
    pub nodes: Vec<(u32, CoreSet)>,
}

/// Cores for workers, and why these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workers {
    /// The cores, those near a card first.
    pub cores: Vec<u32>,
    /// Why these were chosen.
    pub reason: Reason,
}

/// Why cores were chosen for workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The scheduler leaves them alone.
    Isolated,
    /// No core is isolated, so the first is kept for everything else.
    AllButTheFirst,
    /// There is one core only, which the worker must share with everything else.
    OnlyCore,
}

/// The cores of `host`.
///
/// # Errors
/// If the kernel's list of cores is missing or cannot be understood.
pub fn cores(host: &Host) -> Result<Cores, Error> {
    let online: CoreSet = host.read("/sys/devices/system/cpu/online")?.parse()?;
    let isolated = host.read_if_there("/sys/devices/system/cpu/isolated").unwrap_or_default();
    let allowed = match host.read_if_there("/proc/self/status").as_deref().and_then(allowed_list) {
        Some(list) => list.parse()?,
        None => online.clone(),
    };
    let mut nodes = Vec::new();
    for node in crate::memory::nodes(host) {
        nodes.push((node, of_node(host, node)?));
    }
    Ok(Cores { online, isolated: isolated.parse()?, allowed, nodes })
}

fn allowed_list(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
}

fn of_node(host: &Host, node: u32) -> Result<CoreSet, Error> {
    host.read(&format!("/sys/devices/system/node/node{node}/cpulist"))?.parse()
}

/// The cores near a card: those of its NUMA node, or all where the kernel cannot tell.
///
/// # Errors
/// If the kernel's list of cores is missing or cannot be understood.
pub fn near(host: &Host, card: PciAddress) -> Result<CoreSet, Error> {
    let local = host.read_if_there(&format!("/sys/bus/pci/devices/{card}/local_cpulist"));
    match local.as_deref() {
        None | Some("") => host.read("/sys/devices/system/cpu/online")?.parse(),
        Some(list) => list.parse(),
    }
}

/// The cores to give to workers: the isolated ones, else all but the first.
///
/// # Errors
/// If the kernel's list of cores is missing or cannot be understood.
pub fn workers(host: &Host, cards: &[PciAddress]) -> Result<Workers, Error> {
    let Cores { online, isolated, allowed, .. } = cores(host)?;
    let isolated: Vec<u32> = isolated.iter().filter(|core| online.contains(*core)).collect();
    let usable: Vec<u32> = online.iter().filter(|core| allowed.contains(*core)).collect();
    let (mut cores, reason) = match (isolated.is_empty(), usable.as_slice()) {
        (false, _) => (isolated, Reason::Isolated),
        (true, [_, rest @ ..]) if !rest.is_empty() => (rest.to_vec(), Reason::AllButTheFirst),
        (true, _) => (usable, Reason::OnlyCore),
    };
    let near = cards.iter().map(|card| near(host, *card)).collect::<Result<Vec<_>, _>>()?;
    cores.sort_by_key(|core| !near.iter().any(|set| set.contains(*core))); // stable: near ones first
    Ok(Workers { cores, reason })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::tree::Tree;

    fn set(text: &str) -> CoreSet {
        text.parse().expect("a list of cores")
    }

    #[test]
    fn a_list_of_cores_reads_as_the_kernel_writes_it() {
        assert_eq!(set("0-3,8,10-11\n"), CoreSet::from_iter([0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(set("\n"), CoreSet::default());
    }

    #[test]
    fn what_is_not_a_list_of_cores_is_refused() {
        for wrong in
            ["-", "3-1", "0-", ",", "0,,1", "a", "+1", "0-99999999", "8192", "1 2", "0-3:1/2"]
        {
            assert!(wrong.parse::<CoreSet>().is_err(), "{wrong:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn any_set_reads_back_from_its_own_text(cores in prop::collection::btree_set(0..MAX, 0..80)) {
            let set = CoreSet(cores);
            prop_assert_eq!(set.to_string().parse::<CoreSet>().unwrap(), set);
        }

        #[test]
        fn the_text_of_a_set_is_the_shortest(cores in prop::collection::btree_set(0..40u32, 0..40)) {
            // A range ends only where the next core is missing.
            let text = CoreSet(cores.clone()).to_string();
            for part in text.split(',').filter(|part| !part.is_empty()) {
                let last: u32 = part.rsplit('-').next().unwrap().parse().unwrap();
                prop_assert!(!cores.contains(&(last + 1)));
            }
        }

        #[test]
        fn any_text_is_read_or_refused_and_never_more_than_its_cores(text in "[0-9,\\- a-f]{0,20}") {
            if let Ok(set) = text.parse::<CoreSet>() {
                prop_assert!(set.iter().all(|core| core < MAX));
                prop_assert_eq!(set.to_string().parse::<CoreSet>().unwrap(), set);
            }
        }
    }

    #[test]
    fn isolated_cores_are_the_workers_although_no_process_is_allowed_on_them() {
        let tree = Tree::new()
            .with("sys/devices/system/cpu/online", "0-3")
            .with("sys/devices/system/cpu/isolated", "2-3");
        let tree = tree.with("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-1\n");
        let workers = workers(&tree.host(), &[]).unwrap();
        assert_eq!(workers, Workers { cores: vec![2, 3], reason: Reason::Isolated });
    }

    #[test]
    fn without_isolated_cores_all_but_the_first_allowed_one_are_the_workers() {
        let tree = Tree::new()
            .with("sys/devices/system/cpu/online", "0-7")
            .with("sys/devices/system/cpu/isolated", "");
        let tree = tree.with("proc/self/status", "Cpus_allowed_list:\t2-4\n");
        let workers = workers(&tree.host(), &[]).unwrap();
        assert_eq!(workers, Workers { cores: vec![3, 4], reason: Reason::AllButTheFirst });
    }

    #[test]
    fn an_isolated_core_that_is_off_is_no_worker() {
        let tree = Tree::new()
            .with("sys/devices/system/cpu/online", "0-1")
            .with("sys/devices/system/cpu/isolated", "1,7");
        assert_eq!(workers(&tree.host(), &[]).unwrap().cores, [1]);
    }

    #[test]
    fn the_only_core_is_shared() {
        let tree = Tree::new().with("sys/devices/system/cpu/online", "0");
        let workers = workers(&tree.host(), &[]).unwrap();
        assert_eq!(workers, Workers { cores: vec![0], reason: Reason::OnlyCore });
    }

    #[test]
    fn cores_near_a_card_come_first() {
        let card = "0000:03:00.0".parse().unwrap();
        let tree = Tree::new()
            .with("sys/devices/system/cpu/online", "0-7")
            .with("sys/bus/pci/devices/0000:03:00.0/local_cpulist", "4-7");
        assert_eq!(workers(&tree.host(), &[card]).unwrap().cores, [4, 5, 6, 7, 1, 2, 3]);
        assert_eq!(near(&tree.host(), card).unwrap(), set("4-7"));
    }
}
