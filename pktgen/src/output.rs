//! Where a report goes: lines, JSON and a page, wherever the command line says.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command::OutputOptions;
use crate::report::Report;
use crate::{html, summary};

/// The standard output, as a file name.
const STANDARD: &str = "-";

impl OutputOptions {
    /// Whether the files can be written, before there is anything to write.
    ///
    /// # Errors
    /// Which option's file cannot.
    pub fn check(&self) -> Result<()> {
        for (option, path) in [("--json", &self.json), ("--html", &self.html)] {
            let Some(path) = path.as_deref().filter(|path| *path != Path::new(STANDARD)) else {
                continue;
            };
            let opened = OpenOptions::new().append(true).create(true).open(path);
            opened.with_context(|| format!("{option}: {} cannot be written", path.display()))?;
        }
        Ok(())
    }

    /// Writes the report: lines to the standard output, unless the JSON goes there.
    ///
    /// # Errors
    /// Whatever could not be written.
    pub fn write(&self, report: &Report) -> Result<()> {
        let lines = summary::text(report);
        let json = || serde_json::to_string_pretty(report).map(|json| json + "\n");
        match self.json.as_deref() {
            Some(path) if path == Path::new(STANDARD) => {
                eprint!("{lines}");
                std::io::stdout().write_all(json()?.as_bytes())?;
            }
            Some(path) => {
                print!("{lines}");
                std::fs::write(path, json()?)
                    .with_context(|| format!("--json: {}", path.display()))?;
            }
            None => print!("{lines}"),
        }
        if let Some(path) = &self.html {
            std::fs::write(path, html::page(report))
                .with_context(|| format!("--html: {}", path.display()))?;
        }
        Ok(())
    }
}
