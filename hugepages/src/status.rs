//! What the host has, and what was done to it, in words and tables for people; the same values
//! serialise for programs. Nothing is changed here.

use std::{fmt, path::Path};

use serde::Serialize;

use crate::{
    Error, Host, Prepared, Restored,
    cores::{self, Cores, Workers},
    devices::{self, Card, Choice, PciAddress, Taken},
    memory::{self, Memory, Mount, PoolState, Secured},
    record::{Deed, Journal},
};

/// Huge pages, cards and cores of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Every kind of huge page that the kernel offers.
    pub pages: Vec<PoolState>,
    /// Every hugetlbfs that is mounted.
    pub mounts: Vec<Mount>,
    /// Whether an IOMMU guards any device.
    pub iommu: bool,
    /// Every network card on the PCI bus.
    pub cards: Vec<CardStatus>,
    /// Every kernel interface but loopback, which can be used as `kernel:NAME`.
    pub interfaces: Vec<InterfaceStatus>,
    /// The host's cores.
    pub cores: Cores,
    /// Those that workers would get.
    pub workers: Workers,
    /// What was prepared and not given back yet, oldest first.
    pub prepared: Vec<Deed>,
}

/// A card, and what preparing it would come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CardStatus {
    /// The card.
    #[serde(flatten)]
    pub card: Card,
    /// What `prepare` would do.
    pub prospect: Prospect,
}

/// What `prepare` would do with a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prospect {
    /// Nothing: DPDK can use it as it is.
    Ready,
    /// Bind it to this driver.
    WouldBind(&'static str),
    /// Refuse it, for this reason.
    WouldRefuse(String),
}

/// A kernel interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its link.
    pub link: devices::Link,
    /// Its card, if it is one on the PCI bus.
    pub card: Option<PciAddress>,
}

/// Looks at `host`, and at the record at `record` if there is one.
///
/// # Errors
/// If one of the kernel's files cannot be read or understood, or the record cannot.
pub fn status(host: &Host, record: &Path) -> Result<Status, Error> {
    let cards = devices::cards(host);
    let interface = |name: String| InterfaceStatus {
        link: devices::link(host, &name),
        card: devices::card_of(&cards, &name),
        name,
    };
    let interfaces = devices::kernel_interfaces(host).into_iter().map(interface).collect();
    let addresses: Vec<PciAddress> = cards.iter().map(|card| card.address).collect();
    Ok(Status {
        pages: memory::pools(host)?,
        mounts: memory::mounts(host),
        iommu: devices::has_iommu(host),
        interfaces,
        cards: cards
            .into_iter()
            .map(|card| Ok(CardStatus { prospect: prospect(host, &card)?, card }))
            .collect::<Result<_, Error>>()?,
        cores: cores::cores(host)?,
        workers: cores::workers(host, &addresses)?,
        prepared: Journal::look(host, record)?,
    })
}

fn prospect(host: &Host, card: &Card) -> Result<Prospect, Error> {
    let choice = match devices::choose(host, card) {
        Ok(choice) => choice,
        Err(error) => return Ok(Prospect::WouldRefuse(error.to_string())),
    };
    if let Some(error) = devices::in_use(host, card)? {
        return Ok(Prospect::WouldRefuse(error.to_string()));
    }
    Ok(match choice {
        _ if card.is_ready(choice) => Prospect::Ready,
        Choice::Bind(driver) => Prospect::WouldBind(driver.name()),
        Choice::Stays => Prospect::Ready,
    })
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show_pages(out)?;
        writeln!(out)?;
        self.show_cards(out)?;
        writeln!(out)?;
        self.show_cores(out)?;
        writeln!(out)?;
        match self.prepared.as_slice() {
            [] => writeln!(out, "Prepared: nothing, so there is nothing to restore"),
            deeds => {
                writeln!(out, "Prepared: {} (undo with `sluice host restore`)", sentences(deeds))
            }
        }
    }
}

impl Status {
    fn show_pages(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "Huge pages")?;
        if self.pages.is_empty() {
            return writeln!(out, "  none offered by this kernel; use memory = \"plain\"");
        }
        let node = |node: Option<u32>| node.map_or("-".to_owned(), |node| node.to_string());
        let row = |state: &PoolState| {
            let PoolState { pool, counts } = state;
            vec![
                pool.size.to_string(),
                node(pool.node),
                counts.total.to_string(),
                counts.free.to_string(),
                format!("{} MiB", (counts.free * pool.size.bytes()) >> 20),
            ]
        };
        let heads = ["SIZE", "NODE", "PAGES", "FREE", "FREE MEMORY"];
        table(out, &heads, self.pages.iter().map(row).collect())?;
        for Mount { path, page_bytes } in &self.mounts {
            writeln!(out, "  hugetlbfs at {} ({} MiB pages)", path.display(), page_bytes >> 20)?;
        }
        Ok(())
    }

    fn show_cards(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let iommu = if self.iommu { "on" } else { "off or not there" };
        writeln!(out, "Cards (IOMMU {iommu})")?;
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let row = |status: &CardStatus| {
            let CardStatus { card, prospect } = status;
            let names: Vec<&str> = card.interfaces.iter().map(|one| one.name.as_str()).collect();
            let link = card.interfaces.first().map(|one| one.link.to_string());
            vec![
                card.address.to_string(),
                card.id.clone(),
                or_dash(card.driver.clone()),
                or_dash(Some(names.join(" ")).filter(|names| !names.is_empty())),
                or_dash(link),
                or_dash(card.node.map(|node| node.to_string())),
                or_dash(card.iommu_group.map(|group| group.to_string())),
                match prospect {
                    Prospect::Ready => "ready for DPDK".to_owned(),
                    Prospect::WouldBind(driver) => format!("would go to {driver}"),
                    Prospect::WouldRefuse(_) => "refused, see below".to_owned(),
                },
            ]
        };
        let heads = ["ADDRESS", "ID", "DRIVER", "INTERFACE", "LINK", "NODE", "GROUP", "PREPARE"];
        match self.cards.is_empty() {
            true => writeln!(out, "  no network card on the PCI bus")?,
            false => table(out, &heads, self.cards.iter().map(row).collect())?,
        }
        for CardStatus { prospect, .. } in &self.cards {
            if let Prospect::WouldRefuse(reason) = prospect {
                writeln!(out, "  {reason}")?;
            }
        }
        writeln!(out, "\nKernel interfaces, usable without taking a card")?;
        let row = |interface: &InterfaceStatus| {
            let InterfaceStatus { name, link, card } = interface;
            vec![format!("kernel:{name}"), link.to_string(), or_dash(card.map(String::from))]
        };
        match self.interfaces.is_empty() {
            true => writeln!(out, "  none"),
            false => {
                let rows = self.interfaces.iter().map(row).collect();
                table(out, &["DEVICE", "LINK", "CARD"], rows)
            }
        }
    }

    fn show_cores(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cores { online, isolated, nodes, .. } = &self.cores;
        writeln!(out, "Cores")?;
        writeln!(out, "  online {online}")?;
        match isolated.is_empty() {
            true => writeln!(out, "  isolated none (kernel command line: isolcpus=)")?,
            false => writeln!(out, "  isolated {isolated}")?,
        }
        for (node, cores) in nodes {
            writeln!(out, "  node {node} has {cores}")?;
        }
        writeln!(out, "  workers would get {}", self.workers)
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores: Vec<String> = self.cores.iter().map(u32::to_string).collect();
        let reason = match self.reason {
            cores::Reason::Isolated => "the isolated ones",
            cores::Reason::AllButTheFirst => "all but the first",
            cores::Reason::OnlyCore => "the only one, shared with everything else",
        };
        write!(out, "{} ({reason})", cores.join(","))
    }
}

impl fmt::Display for Prepared {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.memory {
            Memory::Huge { pools } => {
                for Secured { pool, pages, added } in pools {
                    writeln!(out, "memory: {pages} {pool}, {added} of them added")?;
                }
            }
            Memory::Plain { because } => writeln!(out, "memory: plain only: {because}")?,
        }
        for Taken { address, driver, original } in &self.cards {
            let original = original.as_deref().unwrap_or("no driver");
            match original == driver {
                true => writeln!(out, "card: {address} stays with {driver}")?,
                false => writeln!(out, "card: {address} bound to {driver}, was with {original}")?,
            }
        }
        writeln!(out, "workers: cores {}", self.workers)
    }
}

impl fmt::Display for Restored {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.given_back.is_empty() {
            return writeln!(out, "nothing was prepared, so there is nothing to give back");
        }
        self.given_back.iter().try_for_each(|done| writeln!(out, "given back: {done}"))
    }
}

/// What was done, in words.
fn sentences(deeds: &[Deed]) -> String {
    let sentence = |deed: &Deed| match deed {
        Deed::Pages(pages) if pages.pages == 0 => None,
        Deed::Pages(pages) => Some(format!("{} {} added", pages.pages, pages.pool)),
        Deed::Mount { path } => Some(format!("hugetlbfs mounted at {}", path.display())),
        Deed::Card(card) => {
            let original = card.original.clone().map_or("no driver".to_owned(), String::from);
            Some(format!("{} taken from {original}", card.address))
        }
    };
    let sentences: Vec<String> = deeds.iter().filter_map(sentence).collect();
    match sentences.is_empty() {
        true => "pages that were there already".to_owned(),
        false => sentences.join(", "),
    }
}

/// Columns as wide as their widest entry, two blanks apart.
fn table(out: &mut fmt::Formatter<'_>, heads: &[&str], rows: Vec<Vec<String>>) -> fmt::Result {
    let width = |column: usize| {
        let entries = rows.iter().map(|row| row[column].chars().count());
        entries.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    for row in [heads].iter().chain(&rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(out, "  {}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tree::Tree;

    #[test]
    fn a_laptop_without_cards_is_told_what_it_can_use() {
        let tree = Tree::new()
            .with("sys/devices/system/cpu/online", "0-3")
            .with("sys/class/net/lo/ifindex", "1")
            .with("sys/class/net/wlan0/ifindex", "2")
            .with("sys/class/net/wlan0/carrier", "1")
            .with("sys/class/net/bonding_masters", "");
        let status = status(&tree.host(), &tree.record()).unwrap();
        assert_eq!(
            status.to_string(),
            "Huge pages\n  none offered by this kernel; use memory = \"plain\"\n\n\
             Cards (IOMMU off or not there)\n  no network card on the PCI bus\n\n\
             Kernel interfaces, usable without taking a card\n  \
             DEVICE        LINK  CARD\n  kernel:wlan0  up    -\n\n\
             Cores\n  online 0-3\n  isolated none (kernel command line: isolcpus=)\n  \
             workers would get 1,2,3 (all but the first)\n\n\
             Prepared: nothing, so there is nothing to restore\n"
        );
    }

    #[test]
    fn what_was_prepared_reads_as_sentences() {
        let pool = memory::Pool { size: memory::PageSize::TwoMiB, node: Some(0) };
        let card = |address: &str, driver: &str| Taken {
            address: address.parse().unwrap(),
            driver: driver.into(),
            original: Some("ixgbe".into()),
        };
        let prepared = Prepared {
            memory: Memory::Huge { pools: vec![Secured { pool, pages: 40, added: 37 }] },
            cards: vec![card("0000:03:00.0", "vfio-pci"), card("0000:03:00.1", "ixgbe")],
            workers: Workers { cores: vec![2, 3], reason: cores::Reason::Isolated },
        };
        assert_eq!(
            prepared.to_string(),
            "memory: 40 huge pages of 2MiB on node 0, 37 of them added\n\
             card: 0000:03:00.0 bound to vfio-pci, was with ixgbe\n\
             card: 0000:03:00.1 stays with ixgbe\n\
             workers: cores 2,3 (the isolated ones)\n"
        );
    }

    #[test]
    fn looking_makes_no_record_and_no_folder() {
        let tree = Tree::new().with("sys/devices/system/cpu/online", "0");
        status(&tree.host(), &tree.record()).unwrap();
        assert!(!tree.record().parent().unwrap().exists());
    }
}
