//! Several suites one after another, each in a process of its own, because DPDK starts once; their results together.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::command::Common;
use crate::outcome::Outcome;
use crate::{baseline, interrupt};

/// The parts of everything.
pub const ALL: &[&[&str]] = &[
    &["step"],
    &["wire", "--wire", "rings"],
    &["wire", "--wire", "memif"],
    &["wire", "--wire", "vhost"],
    &["rivals", "--against", "testpmd-memif"],
    &["rivals", "--against", "testpmd-vhost"],
    &["rivals", "--against", "kernel"],
];

/// Runs every part with `more` arguments. One that fails does not keep the others from being run.
///
/// # Errors
/// If a part has failed, after everything else is done.
pub fn run(parts: &[Vec<String>], common: &Common) -> Result<ExitCode> {
    let mut whole = Outcome::new(false);
    let mut failed = Vec::new();
    for part in parts {
        if interrupt::is_asked_for() {
            break;
        }
        let name = part.join(" ");
        println!("\n== {name}");
        if let Err(error) = one(part, common, &mut whole) {
            eprintln!("perf: {name}: {error:#}");
            failed.push(name);
        }
    }
    println!();
    let ended = match failed.is_empty() {
        true => Ok(()),
        false => Err(anyhow!("failed: {}", failed.join(", "))),
    };
    whole.finish(ended, &common.keep)
}

fn one(part: &[String], common: &Common, whole: &mut Outcome) -> Result<()> {
    let file = PathBuf::from(format!("/tmp/sluice-perf-{}.json", std::process::id()));
    let mut command = Command::new(std::env::current_exe()?);
    command.args(part).args(common.passed_on()).arg("--part-of-whole").arg("--json").arg(&file);
    let status = wait(command.spawn()?)?;
    let results = baseline::read(&file);
    let _ = fs::remove_file(&file);
    if let Ok(results) = results {
        whole.take(results);
    }
    if !status.success() && !interrupt::is_asked_for() {
        bail!("ended with {status}");
    }
    Ok(())
}

/// A part that is interrupted still tells what it has; whoever asked may have asked this process alone.
fn wait(mut child: Child) -> Result<ExitStatus> {
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if interrupt::is_asked_for() && !told {
            told = true;
            let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
