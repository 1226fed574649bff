//! What a program holds of the machine, as the kernel tells, and how figures get into a log.

use std::fs;

/// What a program holds of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Memory, in kB.
    pub resident: u64,
    /// Memory that is neither shared with the driver nor the program's file, in kB.
    pub anonymous: u64,
    /// Open files.
    pub files: u64,
    /// Threads.
    pub threads: u64,
}

impl Held {
    /// By the process of that number.
    ///
    /// # Panics
    /// If there is none.
    pub fn by(process: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).expect("/proc is there");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.trim_end_matches("kB").trim().parse().ok());
            number.unwrap_or_else(|| panic!("no {name} in {status}"))
        };
        let files = fs::read_dir(format!("/proc/{process}/fd")).expect("/proc is there").count();
        Self {
            resident: field("VmRSS:"),
            anonymous: field("RssAnon:"),
            files: files as u64,
            threads: field("Threads:"),
        }
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { resident, anonymous, files, threads } = self;
        write!(
            f,
            "{resident} kB resident, of these {anonymous} kB the program's own; {files} open files, \
             {threads} threads"
        )
    }
}

/// Puts a figure into the log of the tests; what a test prints is only shown when it fails.
#[macro_export]
macro_rules! figure {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        // A log that nobody reads any more is no reason to fail.
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
