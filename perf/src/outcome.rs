//! What becomes of results: shown one by one, then summed up, kept and compared.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::results::{Record, Results};
use crate::{baseline, interrupt, machine, page, table};

/// Where results are kept, and what they are compared with.
#[derive(Debug, Clone, Default, Args)]
pub struct Keep {
    /// Write the results to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Compare with the results in this file; default: the baseline for this processor, if there is one
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// Keep the results as the baseline for this processor
    #[arg(long)]
    pub save_baseline: bool,
    /// Leave the sum to whoever started this
    #[arg(long, hide = true)]
    pub part_of_whole: bool,
    /// Fail if anything is worse than the baseline by more than noise
    #[arg(long)]
    pub fail_on_regression: bool,
}

/// Results so far.
pub struct Outcome {
    results: Results,
    /// What this thread and the device's had of their cores when the last result was added.
    cores: Vec<(PathBuf, Core)>,
}

/// How the threads that forward are called: ours, the loop that swaps addresses, and testpmd's.
const FORWARDING: [&str; 4] = ["worker", "macswap", "lcore-worker", "dpdk-worker"];
/// This thread's own account.
const OWN: &str = "/proc/thread-self/schedstat";

/// Time that a thread has had a core, and time that it has waited for one, in nanoseconds (Linux,
/// Documentation/scheduler/sched-stats.rst).
#[derive(Debug, Clone, Copy, Default)]
struct Core {
    had: u64,
    waited: u64,
}

/// Less than this says nothing about a share, in nanoseconds.
const LEAST: u64 = 20_000_000;

impl Core {
    fn of(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
        Self { had: numbers.next().unwrap_or_default(), waited: numbers.next().unwrap_or_default() }
    }

    /// The share of waiting since `before`, if there was enough to tell.
    fn share_since(self, before: Self) -> Option<f64> {
        let had = self.had.saturating_sub(before.had);
        let waited = self.waited.saturating_sub(before.waited);
        let total = had + waited;
        (total > LEAST).then(|| waited as f64 / total as f64)
    }
}

/// The exit status of a program that a signal has ended (128 + SIGINT).
const INTERRUPTED: u8 = 130;

impl Outcome {
    /// Nothing yet, on this machine.
    pub fn new(huge_pages: bool) -> Self {
        let results = Results { machine: machine::look(huge_pages), results: Vec::new() };
        let own = PathBuf::from(OWN);
        Self { results, cores: vec![(own.clone(), Core::of(&own))] }
    }

    /// From now on the threads that forward in this process are watched too.
    pub fn watch(&mut self, process: u32) {
        self.cores.truncate(1);
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten();
        for folder in tasks.flatten().map(|task| task.path()) {
            let name = std::fs::read_to_string(folder.join("comm")).unwrap_or_default();
            if FORWARDING.iter().any(|it| name.starts_with(it)) {
                let file = folder.join("schedstat");
                self.cores.push((file.clone(), Core::of(&file)));
            }
        }
        for (file, core) in &mut self.cores {
            *core = Core::of(file);
        }
    }

    /// Shows a result and keeps it, with the share of the time since the last one that either thread has spent waiting
    /// for its core. To be called by the thread that measures.
    pub fn add(&mut self, record: Record) {
        let share = |(file, before): &mut (PathBuf, Core)| {
            let now = Core::of(file);
            now.share_since(std::mem::replace(before, now))
        };
        let waited = self.cores.iter_mut().filter_map(share).reduce(f64::max);
        let record = Record { waited, ..record };
        println!("{}", table::line(&record));
        self.results.results.push(record);
    }

    /// Takes over what a part has found.
    pub fn take(&mut self, part: Results) {
        self.results.machine.huge_pages |= part.machine.huge_pages;
        self.results.results.extend(part.results);
    }

    /// Sums up, writes what is to be written, and compares; also if the measuring has `ended` early.
    ///
    /// # Errors
    /// The one it ended with, unless that was an interruption; or a file that could not be written.
    pub fn finish(self, ended: Result<()>, keep: &Keep) -> Result<ExitCode> {
        let results = self.results;
        if keep.part_of_whole {
            if let Some(file) = &keep.json {
                baseline::write(file, &results)?;
            }
            return ended.map(|()| ExitCode::SUCCESS);
        }
        println!("{}", table::summary(&results.results));
        if let Some(file) = &keep.json {
            baseline::write(file, &results)?;
        }
        if let Some(file) = &keep.html {
            std::fs::write(file, page::html(&results))?;
        }
        let regressed = compare(&results, keep)?;
        if interrupt::is_asked_for() {
            println!("interrupted: this is what there was so far");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        ended?;
        if keep.save_baseline {
            let file = baseline::file_for(&results.machine);
            baseline::write(&file, &results)?;
            println!("kept as {}", file.display());
        }
        Ok(if regressed && keep.fail_on_regression { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Whether anything has become worse.
fn compare(results: &Results, keep: &Keep) -> Result<bool> {
    let of_machine = baseline::file_for(&results.machine);
    let file = match &keep.compare {
        Some(file) => file,
        None if of_machine.exists() => &of_machine,
        None => return Ok(false),
    };
    let changes = baseline::changes(&baseline::read(file)?, results);
    println!("{}", table::comparison(&changes));
    Ok(changes.iter().any(|change| change.is_worse))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_has_its_core_and_one_that_sleeps_tells_nothing() {
        let now = || Core::of(Path::new(OWN));
        let before = now();
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert_eq!(now().share_since(before), None);
        let (start, mut sum) = (now(), 0u64);
        while now().had - start.had < 2 * LEAST {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let share = now().share_since(start);
        assert!(share.is_some_and(|share| (0.0..1.0).contains(&share)), "{share:?}");
    }
}
