//! Huge pages, reserved for as long as a benchmark runs and given back whatever becomes of it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use hugepages::memory::{Memory, PageRequest};
use hugepages::{Host, OnShortfall, PageSize, Plan};

/// Pages of ours; given back on drop.
pub struct Pages {
    record: PathBuf,
}

impl Pages {
    /// Adds pages for so many bytes to what the machine has; `None` if it cannot have so many.
    ///
    /// # Errors
    /// If the kernel's files cannot be read or written.
    pub fn reserve(bytes: u64) -> Result<Option<Self>> {
        let record = PathBuf::from(format!("/run/sluice-perf-{}/pages.json", std::process::id()));
        let mut plan = Plan::new(&record);
        let mut wanted = PageRequest::covering(bytes, PageSize::TwoMiB);
        // Pages that are free now are somebody's who is about to start.
        wanted.pages += free();
        plan.pages = vec![wanted];
        plan.on_shortfall = OnShortfall::Plain;
        let pages = Self { record };
        let prepared = hugepages::prepare(&Host::real(), &plan).context("reserving huge pages")?;
        Ok(matches!(prepared.memory, Memory::Huge { .. }).then_some(pages))
    }
}

/// Pages of 2 MiB that nobody uses now.
fn free() -> u64 {
    let file = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Err(error) = hugepages::restore(&Host::real(), &self.record) {
            eprintln!("perf: huge pages were not given back: {error}");
        }
        if let Some(folder) = self.record.parent() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
