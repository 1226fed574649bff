//! Runs one program of the operator's: from the directory of scripts only, with the event on its standard
//! input, no longer than it may, and gone with everything that it has started.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use axum::body::Bytes;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::info;

/// How much of what it says is kept, in bytes.
const LONGEST_OUTPUT: usize = 4096;
/// How much of it stands in the event, in letters.
const SHORT: usize = 200;
/// How long what it has started may still say something when it has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A program with what it is given.
pub struct Script {
    /// The only directory that it may lie in.
    pub directory: PathBuf,
    /// Where it lies in there.
    pub path: PathBuf,
    /// What it is given on its command line.
    pub arguments: Vec<String>,
    /// What it is given on its standard input.
    pub input: Bytes,
    /// How long it may take.
    pub patience: Duration,
}

impl Script {
    /// Runs it; gives the first line of what it said.
    ///
    /// # Errors
    ///
    /// In words, when it may not run, fails, or takes too long.
    pub async fn run(self) -> Result<String, String> {
        let (directory, path) = (self.directory.clone(), self.path.clone());
        let found = spawn_blocking(move || allowed(&directory, &path)).await;
        let program = found.map_err(|error| error.to_string())??;
        let mut child = Command::new(&program)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("it cannot be started: {error}"))?;
        let [mut said, mut complaints] = [Vec::new(), Vec::new()];
        let ended =
            timeout(self.patience, attend(&mut child, &self.input, &mut said, &mut complaints))
                .await;
        said.append(&mut complaints);
        let said = String::from_utf8_lossy(&said).into_owned();
        for line in said.lines() {
            info!(script = %self.path.display(), "{}", line.replace(char::is_control, " "));
        }
        let first: String = said.lines().next().unwrap_or_default().chars().take(SHORT).collect();
        match ended {
            Err(_) => {
                end_all(&mut child).await;
                Err(format!("it took longer than {} s, and was killed", self.patience.as_secs()))
            }
            Ok(Err(error)) => {
                end_all(&mut child).await;
                Err(error.to_string())
            }
            Ok(Ok(status)) if status.success() && first.is_empty() => Ok("done".into()),
            Ok(Ok(status)) if status.success() => Ok(first),
            Ok(Ok(status)) => Err(format!("{status}: {first}")),
        }
    }
}

/// Until it has ended. What it says is read to the end, so that it does not wait for us, but kept only in part.
async fn attend(
    child: &mut Child,
    input: &[u8],
    said: &mut Vec<u8>,
    complaints: &mut Vec<u8>,
) -> io::Result<ExitStatus> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let give = async {
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(input).await; // it need not read
        }
    };
    let hear = async { tokio::join!(give, keep(stdout, said), keep(stderr, complaints)) };
    tokio::pin!(hear);
    tokio::select! {
        status = child.wait() => {
            let _ = timeout(LAST_WORDS, hear.as_mut()).await;
            status
        }
        _ = hear.as_mut() => child.wait().await,
    }
}

/// Reads to the end; keeps the beginning.
async fn keep(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut part = [0; 1024];
    while let Ok(length @ 1..) = from.read(&mut part).await {
        let room = LONGEST_OUTPUT.saturating_sub(into.len());
        into.extend_from_slice(&part[..length.min(room)]);
    }
}

/// Kills it and everything that it has started. It has not been waited for, so the number of its group is
/// still its own.
async fn end_all(child: &mut Child) {
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(group) = group {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL); // it may have ended by itself
    }
    let _ = child.wait().await;
}

/// The program, if it lies in the directory and nobody but root, or who runs us, can change it.
fn allowed(directory: &Path, path: &Path) -> Result<PathBuf, String> {
    let unusable = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let root = fs::canonicalize(directory).map_err(|error| unusable(directory, error))?;
    let asked = directory.join(path);
    let program = fs::canonicalize(&asked).map_err(|error| unusable(&asked, error))?;
    if !program.starts_with(&root) {
        return Err(format!("{} leads out of {}", asked.display(), directory.display()));
    }
    let own = nix::unistd::geteuid().as_raw();
    let inside = program.ancestors().take_while(|part| part.starts_with(&root));
    for part in inside {
        let found = fs::metadata(part).map_err(|error| unusable(part, error))?;
        let is_ours = found.uid() == 0 || found.uid() == own;
        if !is_ours || found.mode() & 0o022 != 0 {
            return Err(format!("others than root can change {}", part.display()));
        }
    }
    match fs::metadata(&program) {
        Ok(found) if found.is_file() => Ok(program),
        Ok(_) => Err(format!("{} is no file", asked.display())),
        Err(error) => Err(unusable(&asked, error)),
    }
}
