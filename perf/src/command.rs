//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::ground::{self, Memory};
use crate::outcome::{Keep, Outcome};
use crate::results::Results;
use crate::rivals::peer::{self, Manner};
use crate::rivals::{self, Against};
use crate::traffic::{Family, Mode};
use crate::wire::{self, Effort, Wire};
use crate::{baseline, interrupt, machine, page, sealed, step, suites, table};

/// How fast the data plane is
#[derive(Debug, Parser)]
#[command(name = "perf", version)]
struct Arguments {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// Every suite
    All(All),
    /// The pipeline and its steps, in ns for each packet, without drivers
    Step(Step),
    /// A device between two wires, drivers included: throughput without loss, latency, disturbances
    Wire(WireSuite),
    /// Others in the appliance's place: testpmd, nftables, HAProxy
    Rivals(RivalsSuite),
    /// Show results that were written before
    Table(Table),
    /// Forward with every system call forbidden: the program dies of the first that a worker makes
    Sealed(Sealed),
    /// The clients and servers of suite rivals
    #[command(hide = true, subcommand)]
    Peer(Peer),
}

/// What every suite takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// How often each case is measured; what is shown is the median. Default: 5, or 3 with --quick
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub runs: Option<u64>,
    /// Fewer cases
    #[arg(long)]
    pub quick: bool,
    /// Only cases that have this in their name, as the table shows it
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Where tables and buffers lie
    #[arg(long, value_enum, default_value = "huge")]
    pub memory: Memory,
    /// The core to measure on; default: the last
    #[arg(long)]
    pub core: Option<usize>,
    /// What becomes of the results
    #[command(flatten)]
    pub keep: Keep,
}

impl Common {
    /// What the parts of a whole are told too.
    pub fn passed_on(&self) -> Vec<String> {
        let memory = if self.memory == Memory::Huge { "huge" } else { "plain" };
        let mut words = vec!["--memory".into(), memory.into()];
        words.extend(self.runs.iter().flat_map(|runs| ["--runs".into(), runs.to_string()]));
        words.extend(self.quick.then(|| "--quick".into()));
        words.extend(self.core.iter().flat_map(|core| ["--core".into(), core.to_string()]));
        words.extend(self.filter.iter().flat_map(|text| ["--filter".into(), text.clone()]));
        words
    }
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

#[derive(Debug, Args)]
struct WireSuite {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    selection: wire::Selection,
}

#[derive(Debug, Args)]
struct RivalsSuite {
    #[command(flatten)]
    common: Common,
    /// Only against these
    #[arg(long, value_delimiter = ',', value_enum)]
    against: Vec<Against>,
    /// Seconds of one trial
    #[arg(long, value_name = "SECONDS")]
    trial: Option<f64>,
}

#[derive(Debug, Args)]
struct All {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Peer {
    /// Answers
    Serve { at: SocketAddr },
    /// Asks, and tells how many answers a second came
    Load {
        to: SocketAddr,
        #[arg(long, value_enum)]
        manner: Manner,
        #[arg(long)]
        seconds: f64,
    },
}

#[derive(Debug, Args)]
struct Sealed {
    /// How packets reach the servers
    #[arg(long, value_enum)]
    mode: Mode,
    /// The version of IP
    #[arg(long, value_enum)]
    family: Family,
    /// Make one system call among the turns, to see the program die
    #[arg(long)]
    provoke: bool,
}

#[derive(Debug, Args)]
struct Table {
    /// What `--json` has written; several are shown as one
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// As Markdown, with the rivals beside it
    #[arg(long)]
    markdown: bool,
    /// As a page with plots, to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Keep them as the baseline for their processor
    #[arg(long)]
    save_baseline: bool,
}

/// Every option of every command, as `--help` has it: for the test that compares the documentation.
pub fn options() -> Vec<String> {
    let of_command = |command: &clap::Command| -> Vec<String> {
        let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
        let long = shown.filter_map(|argument| argument.get_long());
        long.map(|name| format!("--{name}")).collect()
    };
    let mut all: Vec<String> = Arguments::command()
        .get_subcommands()
        .filter(|it| !it.is_hide_set())
        .flat_map(of_command)
        .collect();
    all.sort();
    all.dedup();
    all
}

/// Reads the command line and does what it says.
///
/// # Errors
/// Whatever went wrong, in words for whoever typed it.
pub fn main() -> Result<ExitCode> {
    let Arguments { suite } = Arguments::parse();
    machine::cores();
    if !matches!(suite, Suite::Peer(_)) {
        interrupt::listen()?; // peers have nothing to put away
    }
    match suite {
        Suite::Step(step) => run_step(&step),
        Suite::All(All { common }) => {
            let parts =
                suites::ALL.iter().map(|part| part.iter().map(|it| it.to_string()).collect());
            suites::run(&parts.collect::<Vec<_>>(), &common)
        }
        Suite::Rivals(suite) => run_rivals(&suite),
        Suite::Peer(Peer::Serve { at }) => peer::serve(at).map(|()| ExitCode::SUCCESS),
        Suite::Peer(Peer::Load { to, manner, seconds }) => {
            println!("{}", peer::load(to, manner, Duration::from_secs_f64(seconds))?);
            Ok(ExitCode::SUCCESS)
        }
        Suite::Wire(suite) => run_wire(&suite),
        Suite::Table(table) => show(&table),
        Suite::Sealed(Sealed { mode, family, provoke }) => {
            let turns = sealed::forward(mode, family, provoke)?;
            println!("{turns} turns without a system call");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run_step(Step { common, selection, profile_loop }: &Step) -> Result<ExitCode> {
    let mut chosen = step::chosen(selection, common.quick);
    if let Some(text) = &common.filter {
        chosen.retain(text);
    }
    if chosen.is_empty() {
        bail!("nothing to measure: no case is named so");
    }
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
    let mut outcome = Outcome::new(started.huge);
    let runs = common.runs.unwrap_or(if common.quick { 3 } else { 5 }) as usize;
    let ended = step::run(&started.ground, &chosen, runs, |it| outcome.add(it));
    outcome.finish(ended, &common.keep)
}

fn run_wire(WireSuite { common, selection }: &WireSuite) -> Result<ExitCode> {
    let effort = Effort::new(common.quick, selection.trial, common.memory, common.core);
    let [wire] = selection.wire[..] else {
        let wires = or_all(&selection.wire);
        let part = |wire: &Wire| {
            let mut part = vec!["wire".into(), "--wire".into(), wire.name().into()];
            part.extend(selection.passed_on());
            part
        };
        return suites::run(&wires.iter().map(part).collect::<Vec<_>>(), common);
    };
    let mut outcome = None;
    let ended = wire::run(wire, selection, effort, &mut outcome);
    finished(outcome, ended, common)
}

fn run_rivals(RivalsSuite { common, against, trial }: &RivalsSuite) -> Result<ExitCode> {
    let effort = Effort::new(common.quick, *trial, common.memory, common.core);
    let [one] = against[..] else {
        let part = |one: &Against| {
            let name = one.to_possible_value().map(|value| value.get_name().to_owned());
            let mut part = vec!["rivals".into(), "--against".into(), name.unwrap_or_default()];
            part.extend(trial.iter().flat_map(|trial| ["--trial".into(), trial.to_string()]));
            part
        };
        return suites::run(&or_all(against).iter().map(part).collect::<Vec<_>>(), common);
    };
    let mut outcome = None;
    let ended = rivals::run(one, effort, &mut outcome);
    finished(outcome, ended, common)
}

fn finished(outcome: Option<Outcome>, ended: Result<()>, common: &Common) -> Result<ExitCode> {
    match outcome {
        Some(outcome) => outcome.finish(ended, &common.keep),
        None => ended.map(|()| ExitCode::SUCCESS),
    }
}

fn or_all<T: ValueEnum + 'static>(named: &[T]) -> &[T] {
    if named.is_empty() { T::value_variants() } else { named }
}

fn show(Table { files, markdown, html, save_baseline }: &Table) -> Result<ExitCode> {
    let mut all = files.iter().map(|file| baseline::read(file)).collect::<Result<Vec<_>>>()?;
    let mut results = all.remove(0);
    for Results { machine, results: more } in all {
        results.machine.command += &format!("; {}", machine.command);
        results.machine.huge_pages |= machine.huge_pages;
        results.results.extend(more);
    }
    if let Some(html) = html {
        std::fs::write(html, page::html(&results))?;
    }
    if *save_baseline {
        baseline::write(&baseline::file_for(&results.machine), &results)?;
    }
    if *markdown {
        print!("{}", crate::markdown::tables(&results));
        return Ok(ExitCode::SUCCESS);
    }
    for record in &results.results {
        println!("{}", table::line(record));
    }
    println!("{}", table::summary(&results.results));
    Ok(ExitCode::SUCCESS)
}
