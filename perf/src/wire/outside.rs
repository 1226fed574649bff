//! Devices in a process of their own: the appliance itself, and Debian's testpmd.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dataplane::testing;

use super::ports::{self, Wire};
use crate::ground::Memory;
use crate::interrupt;
use crate::traffic::{Mode, Scene};

/// How the appliance's worker waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polling {
    /// It never sleeps.
    Busy,
    /// It naps when there is nothing to do.
    Adaptive,
}

/// What testpmd does with a frame before it sends it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Testpmd {
    /// Swaps the two hardware addresses.
    Macswap,
    /// Nothing.
    Io,
}

impl Testpmd {
    /// As testpmd spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Macswap => "macswap",
            Self::Io => "io",
        }
    }
}

/// A program that is ended when this is dropped, and its files removed.
pub struct Process {
    child: Child,
    /// Where its sockets and files are.
    pub folder: PathBuf,
}

/// How long a program may take to put its things away.
const PATIENCE: Duration = Duration::from_secs(10);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // testpmd ends with its input
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Process {
    /// Which process it is.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// If it has ended, with what it said.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(8).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            bail!("the device has ended ({status}) and said:\n{}", last.join("\n"));
        }
        Ok(())
    }

    /// Starts `command`; what it says goes to a file in `folder`, which is removed in the end.
    ///
    /// # Errors
    /// If there is no such program.
    pub fn start(mut command: Command, folder: PathBuf) -> Result<Self> {
        let log = fs::File::create(folder.join("log"))?;
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        match command.spawn() {
            Ok(child) => Ok(Self { child, folder }),
            Err(error) => {
                let _ = fs::remove_dir_all(&folder);
                Err(error).with_context(|| format!("starting {program}"))
            }
        }
    }
}

/// A folder for one device's sockets, below /run because a socket's path must be short.
///
/// # Errors
/// If it cannot be made.
pub fn folder() -> Result<PathBuf> {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = PathBuf::from(format!("/run/sluice-perf-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

/// The program beside this one.
///
/// # Errors
/// If it has not been built.
pub fn sluice() -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("sluice");
    if !beside.exists() {
        bail!("there is no {}: cargo build --release -p sluice", beside.display());
    }
    Ok(beside)
}

/// What the appliance is told.
#[derive(Debug, Clone, Copy)]
pub struct Appliance {
    /// Its services and servers: one service of IPv4.
    pub scene: Scene,
    /// The worker's core.
    pub core: usize,
    /// How it waits.
    pub polling: Polling,
    /// Where its tables lie.
    pub memory: Memory,
}

/// The scenario, filled in.
const SCENARIO: &str = include_str!("../../scenarios/between-processes.toml");

impl Appliance {
    /// Its configuration, with these two devices and its socket in `folder`.
    pub fn configuration(&self, devices: [&str; 2], folder: &Path) -> String {
        let Self { scene, core, polling, memory } = self;
        let flows = (u64::from(scene.flows) * 10).div_ceil(9).max(1_024);
        let fill = [
            ("{core}", core.to_string()),
            ("{polling}", if *polling == Polling::Busy { "busy" } else { "adaptive" }.into()),
            ("{flows}", flows.to_string()),
            ("{memory}", if *memory == Memory::Huge { "huge" } else { "plain" }.into()),
            ("{folder}", folder.display().to_string()),
            ("{outside}", devices[0].into()),
            ("{inside}", devices[1].into()),
            ("{mode}", scene.mode.name().into()),
        ];
        let filled =
            fill.iter().fold(SCENARIO.to_owned(), |text, (from, to)| text.replace(from, to));
        let mut text = filled;
        if scene.mode == Mode::Snat {
            text.push_str("sources = [\"10.0.0.2\", \"10.0.0.3\", \"10.0.0.4\", \"10.0.0.5\"]\n");
        }
        for number in 0..scene.servers {
            let address = scene.server(number);
            let port = if scene.mode.translates() { "  port = 8080\n" } else { "" };
            let _ = write!(
                text,
                "\n  [[service.server]]\n  name = \"server{number}\"\n  address = \"{address}\"\n{port}"
            );
        }
        for number in 0..scene.servers {
            let address = scene.server(number);
            let mac = testing::mac_of(address);
            let _ = write!(
                text,
                "\n[[neighbour]]\ninterface = \"inside\"\naddress = \"{address}\"\nmac = \"{mac}\"\n"
            );
        }
        text
    }

    /// Starts it between two wires.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, wire: Wire) -> Result<Process> {
        let folder = folder()?;
        let devices =
            [0, 1].map(|number| format!("vdev:{}", ports::at_device(wire, &folder, number)));
        self.start_on([&devices[0], &devices[1]], folder, |program| Command::new(program))
    }

    /// Starts it on these two devices, by the command that `within` makes for a program.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_on(
        &self,
        devices: [&str; 2],
        folder: PathBuf,
        within: impl FnOnce(&str) -> Command,
    ) -> Result<Process> {
        let file = folder.join("sluice.toml");
        fs::write(&file, self.configuration(devices, &folder))?;
        let mut command = within(&sluice()?.display().to_string());
        command.args(["run", "--config"]).arg(&file).arg("--state").arg(folder.join("state"));
        Process::start(command, folder)
    }
}

/// What testpmd gets, in megabytes.
pub const TESTPMD_MEMORY: u64 = 256;

/// Starts testpmd between two wires, forwarding on `core`.
///
/// # Errors
/// If it is not there.
pub fn testpmd(wire: Wire, what: Testpmd, core: usize, memory: Memory) -> Result<Process> {
    let folder = folder()?;
    let other = if core == 0 { 1 } else { 0 };
    // Line by line, so that it can be seen when its ports have started.
    let mut command = Command::new("stdbuf");
    command
        .args(["-oL", "dpdk-testpmd"])
        .arg(format!("--lcores={other},{core}"))
        .arg(format!("--main-lcore={other}"));
    command.args(["--no-pci", "--no-telemetry", "-m", &TESTPMD_MEMORY.to_string()]);
    command.arg(if memory == Memory::Huge { "--in-memory" } else { "--no-huge" });
    command.arg(format!("--file-prefix=sluice-perf-{}", std::process::id()));
    for number in 0..2 {
        command.arg(format!("--vdev={}", ports::at_device(wire, &folder, number)));
    }
    command.args(["--", "--nb-cores=1", "--auto-start", "--total-num-mbufs=16384"]);
    command.args(["--rxd=1024", "--txd=1024", "--burst=32", "--port-topology=paired"]);
    command.arg(format!("--forward-mode={}", what.name()));
    let mut process = Process::start(command, folder)?;
    let log = process.folder.join("log");
    let deadline = Instant::now() + PATIENCE;
    while !fs::read_to_string(&log).unwrap_or_default().contains("Checking link statuses") {
        process.check()?;
        interrupt::check()?;
        if Instant::now() > deadline {
            bail!("testpmd has not started its ports after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}
