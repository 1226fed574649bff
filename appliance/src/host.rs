//! `sluice host`: huge pages, cards and cores by hand, for hosts that are made ready once and not at every start.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use hugepages::memory::PageRequest;
use hugepages::{
    DEFAULT_RECORD, Host, OnShortfall, PageSize, PciAddress, Plan, prepare, restore, status,
};

/// What to do with the host.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Huge pages, network cards and cores as they are now
    Status {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        record: Record,
    },
    /// Reserve huge pages and bind cards to a driver that DPDK can use
    Prepare(Prepare),
    /// Give back what `prepare` took: cards to their drivers, pages to the kernel
    Restore {
        #[command(flatten)]
        record: Record,
    },
}

/// Where what was taken is noted.
#[derive(Debug, Args)]
pub struct Record {
    /// Where what was there before is noted
    #[arg(long, value_name = "FILE", default_value = DEFAULT_RECORD)]
    record: PathBuf,
}

/// What is wanted.
#[derive(Debug, Args)]
pub struct Prepare {
    /// 2 MiB pages to have in all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pages: u64,
    /// 1 GiB pages to have in all
    #[arg(long, value_name = "N", default_value_t = 0)]
    gib_pages: u64,
    /// Mount hugetlbfs too, for other DPDK programs; the appliance does without
    #[arg(long)]
    mount: bool,
    /// Warn instead of failing where the kernel has not that many pages
    #[arg(long)]
    plain: bool,
    /// Take a card even if it carries the default route or an address in use
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    record: Record,
    /// Cards by PCI address, such as 0000:03:00.0
    cards: Vec<PciAddress>,
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// What went wrong, with what to do about it.
    pub fn run(self) -> Result<()> {
        let host = Host::real();
        match self {
            Self::Status { json, record } => show(&host, &record.record, json),
            Self::Prepare(wanted) => {
                print!("{}", prepare(&host, &wanted.plan())?);
                Ok(())
            }
            Self::Restore { record } => {
                print!("{}", restore(&host, &record.record)?);
                Ok(())
            }
        }
    }
}

fn show(host: &Host, record: &Path, json: bool) -> Result<()> {
    let status = status(host, record)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{status}");
    }
    Ok(())
}

impl Prepare {
    fn plan(self) -> Plan {
        let sizes = [(PageSize::TwoMiB, self.pages), (PageSize::OneGiB, self.gib_pages)];
        let request = |(size, pages)| PageRequest { size, pages, node: None };
        Plan {
            pages: sizes.into_iter().filter(|&(_, pages)| pages > 0).map(request).collect(),
            mount: self.mount,
            on_shortfall: if self.plain { OnShortfall::Plain } else { OnShortfall::Refuse },
            cards: self.cards,
            force: self.force,
            ..Plan::new(self.record.record)
        }
    }
}
