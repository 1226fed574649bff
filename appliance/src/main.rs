//! Boot to power-off, top to bottom.
//!
//! 1. [`run`]: the host made ready, DPDK and the interfaces opened ([`wiring`]), the control plane on this
//!    thread, each worker on a core of its own; at the end everything is given back
//! 2. `check`: what is wrong with a configuration file
//! 3. `ctl`: the command-line client, which is the control plane's own
//! 4. [`host`]: huge pages, cards and cores by hand

#![forbid(unsafe_code)]

mod cards;

mod cores;

mod host;

mod link;

mod memory;

mod moments;

mod run;

mod wiring;

use std::fs;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use controlplane::client::Ctl;
use controlplane::config::Config;
use nix::unistd::geteuid;
use tracing_subscriber::EnvFilter;

/// A load balancer that forwards packets on cores of its own, through DPDK
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = FIRST_STEPS)]
struct Sluice {
    #[command(subcommand)]
    command: Command,
}

const FIRST_STEPS: &str = "\
First steps, as root:
  sluice check lb.toml          every mistake in a configuration
  sluice run --config lb.toml   forwards until it is told to stop
  sluice ctl status             what it does now";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the appliance until SIGTERM; SIGHUP reads the configuration again
    Run(Run),
    /// Say what is wrong with a configuration file: every mistake, one a line
    Check {
        /// The configuration, in TOML
        file: PathBuf,
    },
    /// Ask or tell a running appliance
    Ctl(Box<Ctl>),
    /// Make the host ready, look at it, or give back what was taken
    #[command(subcommand)]
    Host(host::Command),
}

/// How the appliance is run.
#[derive(Debug, Args)]
struct Run {
    /// The configuration, in TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where it keeps what must survive a restart
    #[arg(long, value_name = "DIR", default_value = controlplane::store::DIRECTORY)]
    state: PathBuf,
    /// How log lines are written to stderr; the variable RUST_LOG says which are (info, warn, …)
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let outcome = match Sluice::parse().command {
        Command::Run(run) => {
            log(run.log);
            run::run(&run.config, &run.state)
        }
        Command::Check { file } => return check(&file),
        Command::Ctl(ctl) => return controlplane::client::run(&ctl),
        Command::Host(command) => {
            log(LogFormat::Text);
            command.run()
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            if !geteuid().is_root() {
                eprintln!("sluice: it was not started as root, which may be why");
            }
            ExitCode::FAILURE
        }
    }
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// Says what is wrong with `file`: one mistake a line.
fn check(file: &PathBuf) -> ExitCode {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("sluice: {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    };
    match Config::from_toml(&text) {
        Ok(config) => {
            let servers: usize = config.services.iter().map(|service| service.servers.len()).sum();
            println!(
                "{}: correct, with {} and {}",
                file.display(),
                counted(config.services.len(), "service"),
                counted(servers, "server")
            );
            config.advice().iter().for_each(|advice| println!("advice: {advice}"));
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| println!("{mistake}"));
            eprintln!("sluice: {}: {}", file.display(), counted(mistakes.len(), "mistake"));
            ExitCode::FAILURE
        }
    }
}

/// Such as "1 server" or "2 servers".
fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
