//! What becomes of results: shown one by one, then summed up, kept and compared.

use std::path::PathBuf;
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
pub struct Outcome(Results);

/// The exit status of a program that a signal has ended (128 + SIGINT).
const INTERRUPTED: u8 = 130;

impl Outcome {
    /// Nothing yet, on this machine.
    pub fn new(huge_pages: bool) -> Self {
        Self(Results { machine: machine::look(huge_pages), results: Vec::new() })
    }

    /// Shows a result and keeps it.
    pub fn add(&mut self, record: Record) {
        println!("{}", table::line(&record));
        self.0.results.push(record);
    }

    /// Takes over what a part has found.
    pub fn take(&mut self, part: Results) {
        self.0.machine.huge_pages |= part.machine.huge_pages;
        self.0.results.extend(part.results);
    }

    /// Sums up, writes what is to be written, and compares; also if the measuring has `ended` early.
    ///
    /// # Errors
    /// The one it ended with, unless that was an interruption; or a file that could not be written.
    pub fn finish(self, ended: Result<()>, keep: &Keep) -> Result<ExitCode> {
        let Self(results) = self;
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
