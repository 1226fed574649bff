//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::ground::{self, Memory};
use crate::results::{Record, Results};
use crate::{machine, step, table};

/// How fast the data plane is
#[derive(Debug, Parser)]
#[command(name = "perf", version)]
struct Arguments {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// The pipeline and its steps, in ns for each packet, without drivers
    Step(Step),
}

/// What every suite takes.
#[derive(Debug, Args)]
struct Common {
    /// How often each case is measured; what is shown is the median
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    runs: u64,
    /// Fewer cases
    #[arg(long)]
    quick: bool,
    /// Write the results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where tables and buffers lie
    #[arg(long, value_enum, default_value = "huge")]
    memory: Memory,
    /// The core to measure on; default: the last
    #[arg(long)]
    core: Option<usize>,
}

#[derive(Debug, Args)]
struct Step {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    selection: step::Selection,
    /// Instead of measuring, forward for so many seconds, for a profiler to look at
    #[arg(long, value_name = "SECONDS")]
    profile_loop: Option<u64>,
}

/// Reads the command line and does what it says.
///
/// # Errors
/// Whatever went wrong, in words for whoever typed it.
pub fn main() -> Result<ExitCode> {
    let Arguments { suite } = Arguments::parse();
    match suite {
        Suite::Step(step) => run_step(&step),
    }
}

fn run_step(Step { common, selection, profile_loop }: &Step) -> Result<ExitCode> {
    let chosen = step::chosen(selection, common.quick);
    let core = common.core.unwrap_or_else(machine::last_core);
    let started = ground::start(common.memory, chosen.bytes_of_tables(), core)?;
    if let Some(seconds) = *profile_loop {
        let [case] = chosen.forward[..] else {
            bail!("--profile-loop takes one case, not {}", chosen.forward.len())
        };
        let frames = step::profile(&started.ground, &case, Duration::from_secs(seconds))?;
        println!("{frames} frames forwarded");
        return Ok(ExitCode::SUCCESS);
    }
    let mut records: Vec<Record> = Vec::new();
    step::run(&started.ground, &chosen, common.runs as usize, |record| {
        println!("{}", table::line(&record));
        records.push(record);
    })?;
    let results = Results { machine: machine::look(started.huge), results: records };
    if let Some(file) = &common.json {
        let text = serde_json::to_string_pretty(&results)?;
        std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
