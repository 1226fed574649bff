//! A program of the operator's, which is told what ldirectord tells: the virtual address, its port, the server's
//! address, its port, and then what the operator added. It is killed with all that it started when its time is up.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::{select, time};

use super::{Failure, Target, quoted};

/// How much of its output is kept, in bytes.
const KEPT: usize = 1024;
/// How long its last output is waited for when it has ended.
const AFTER: Duration = Duration::from_millis(50);
/// Where it finds programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) async fn run(
    target: &Target,
    program: &Path,
    arguments: &[String],
) -> Result<(), Failure> {
    let told = |why: String| Failure(format!("script {} {why}", program.display()));
    let mut child = Command::new(program)
        .args(addresses(target))
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| told(format!("cannot be run: {error}")))?;
    let _group = Group::of(child.id());
    let mut output = Output::default();
    let pipe = child.stdout.take();
    let status = {
        let reading = output.read(pipe);
        tokio::pin!(reading);
        select! {
            status = child.wait() => {
                let _ = time::timeout(AFTER, reading).await;
                status
            }
            () = &mut reading => child.wait().await,
        }
    };
    let status = status.map_err(|error| told(format!("was lost: {error}")))?;
    match status.success() {
        true => Ok(()),
        false => Err(told(format!("{}{}", ending(status), output.shown()))),
    }
}

/// `0.0.0.0` and 0 where there is no virtual address.
fn addresses(target: &Target) -> [OsString; 4] {
    let at = target.at;
    let (address, port) = match target.service.1 {
        Some(service) => (service.ip().to_string(), service.port()),
        None => ("0.0.0.0".into(), 0),
    };
    [address, port.to_string(), at.ip().to_string(), at.port().to_string()].map(Into::into)
}

fn ending(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with {code}"),
        None => "was killed".into(),
    }
}

/// The start of what it says; the rest is taken off its hands.
#[derive(Default)]
struct Output(Vec<u8>);

impl Output {
    async fn read(&mut self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut piece = [0; KEPT];
        while let Ok(length @ 1..) = pipe.read(&mut piece).await {
            let room = KEPT - self.0.len();
            self.0.extend_from_slice(&piece[..length.min(room)]);
        }
    }

    fn shown(&self) -> String {
        let first = self.0.split(|&byte| byte == b'\n').next().unwrap_or_default();
        if first.is_empty() { String::new() } else { format!(": {}", quoted(first)) }
    }
}

/// All processes that a script started and that did not leave its group; they end with it.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL); // it may have ended by itself
        }
    }
}
