//! Which machine and which program were measured.

use std::process::Command;
use std::sync::OnceLock;
use std::{fs, thread};

use crate::results::Machine;

/// Looks around.
pub fn look(huge_pages: bool) -> Machine {
    Machine {
        cpu: cpu(),
        cores: cores(),
        huge_pages,
        commit: commit(),
        date: output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        command: command(),
    }
}

/// How many cores this program may use. Asked for the first time before it keeps itself to one of them.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// The last core that this program may use: the first has the interrupts of most machines.
pub fn last_core() -> usize {
    cores() - 1
}

/// The processor's name. Hypervisors often hide it, so family and model go with it.
fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find(|line| line.split('\t').next() == Some(key));
        line.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown").trim().to_owned()
    };
    format!("{} family {} model {}", value("model name"), value("cpu family"), value("model"))
}

fn commit() -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let head = output("git", &["-C", root, "rev-parse", "--short=12", "HEAD"]);
    let changed = output("git", &["-C", root, "status", "--porcelain", "--untracked-files=no"]);
    match (head.is_empty(), changed.is_empty()) {
        (true, _) => "unknown".into(),
        (_, true) => head,
        (_, false) => format!("{head}-dirty"),
    }
}

fn command() -> String {
    let arguments = std::env::args().skip(1);
    std::iter::once("perf".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_owned()
}
