//! A program as a trigger runs it: from the directory of scripts only, with the event on its standard input, and no
//! longer than it may.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Bytes;
use tokio::time::timeout;
use tracing::info;

use crate::script::{Ground, Said, Script};

/// How much of what it says stands in the event, in letters.
const SHORT: usize = 200;

/// A program with what it is given.
pub struct Run {
    /// What it has in common with all others.
    pub ground: Ground,
    /// Where it lies in their directory.
    pub path: PathBuf,
    /// What it is given on its command line.
    pub arguments: Vec<String>,
    /// What it is given on its standard input.
    pub input: Bytes,
    /// How long it may take.
    pub patience: Duration,
}

impl Run {
    /// Runs it; gives the first line of what it said.
    ///
    /// # Errors
    ///
    /// In words, when it may not run, fails, or takes too long.
    pub async fn run(self) -> Result<String, String> {
        let script = Script {
            program: &self.ground.directory.join(&self.path),
            ground: &self.ground,
            arguments: self.arguments.into_iter().map(Into::into).collect(),
            input: &self.input,
        };
        let mut said = Said::default();
        let ended = timeout(self.patience, script.run(&mut said)).await;
        for line in [&said.output, &said.complaints] {
            for line in String::from_utf8_lossy(line).lines() {
                let line = line.replace(char::is_control, " ");
                info!(script = %self.path.display(), "{line}");
            }
        }
        let first = String::from_utf8_lossy(said.first_line());
        let first: String = first.chars().take(SHORT).collect();
        match ended {
            Err(_) => {
                Err(format!("it took longer than {} s, and was killed", self.patience.as_secs()))
            }
            Ok(Err(error)) => Err(error),
            Ok(Ok(status)) if status.success() && first.is_empty() => Ok("done".into()),
            Ok(Ok(status)) if status.success() => Ok(first),
            Ok(Ok(status)) => Err(format!("{status}: {first}")),
        }
    }
}
