//! One machine of the laboratory: a network namespace, made here and taken down on drop.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process;

/// Every namespace of ours begins so, and goes on with its laboratory and its machine. Unless a
/// laboratory is meant to stay, its name begins with the number of the process that made it.
const PREFIX: &str = "sluice-";
/// Every folder of ours in /run begins so, and goes on with its laboratory.
const FOLDER: &str = "sluice-lab-";

/// A network namespace that this value owns.
pub struct Namespace {
    name: String,
    kept: bool,
}

impl Namespace {
    /// Makes a namespace with a loopback interface and without IPv6, so that nothing speaks in it
    /// unless a test makes it speak.
    pub fn new(laboratory: &str, machine: &str) -> Self {
        let name = format!("{PREFIX}{laboratory}-{machine}");
        process::run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name, kept: false };
        namespace.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
        namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        namespace.ip("link set lo up\n");
        namespace
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program that will run here. `ip` replaces itself with it, so that its process number is
    /// the program's own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a line of shell here to its end and returns what it printed.
    pub fn shell(&self, line: &str) -> String {
        process::run(self.command("sh").args(["-ec", line]))
    }

    /// Sends ICMP echo requests, 20 a second for at most 10 s unless `options` say otherwise, until `count`
    /// were answered; how many were.
    pub fn ping(&self, address: impl Into<IpAddr>, count: u32, options: &[&str]) -> u32 {
        let mut ping = self.command("ping");
        // Without a deadline it would wait for the last answer for two round trips only.
        ping.args(["-n", "-q", "-i0.05", "-w10", &format!("-c{count}")]).args(options);
        let output = process::output(ping.arg(address.into().to_string()));
        let text = String::from_utf8_lossy(&output.stdout);
        let received = text.split(" received").next().and_then(|text| text.rsplit(' ').next());
        // More than were asked for come back when answers are slower than requests.
        received
            .and_then(|number| number.parse().ok())
            .map(|received: u32| received.min(count))
            .unwrap_or_else(|| panic!("ping did not say how many were answered: {text}"))
    }

    /// Runs lines of `ip`, all at once.
    pub fn ip(&self, lines: &str) {
        process::feed(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines);
    }

    /// Has `interface` and the loopback interface speak IPv6, with the addresses that they are given
    /// and no others, at once (FEATURES AR-03: nobody is asked whether an address is free).
    pub fn speak_ipv6(&self, interface: &str) {
        for name in [interface, "lo"] {
            let parameters = [
                ("accept_ra", "0"),
                ("autoconf", "0"),
                ("accept_dad", "0"),
                ("dad_transmits", "0"),
                ("router_solicitations", "0"),
                ("disable_ipv6", "0"),
            ];
            for (parameter, value) in parameters {
                self.sysctl(&format!("net.ipv6.conf.{name}.{parameter}"), value);
            }
        }
    }

    /// Sets a kernel parameter of this namespace.
    pub fn sysctl(&self, name: &str, value: &str) {
        // A dot in an interface's name would need quoting; none of ours has one.
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        self.enter(|| fs::write(&path, value))
            .unwrap_or_else(|why| panic!("{}={value} in {}: {why}", path.display(), self.name));
    }

    /// Does `work` here, on a thread of its own, and returns what came of it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    go_to(&self.name);
                    work()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Does `work` here in the background.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let name = self.name.clone();
        thread::spawn(move || {
            go_to(&name);
            work()
        })
    }

    /// The hardware address of one of its interfaces.
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let shown = process::run(
            Command::new("ip").args(["-n", &self.name, "-j", "link", "show", "dev", interface]),
        );
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("ip -j prints JSON");
        let text = shown[0]["address"].as_str().expect("an interface has a hardware address");
        parse_mac(text)
    }

    /// Leaves it up when this value goes out of scope.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.name);
        }
    }
}

/// The six bytes of `text`, such as `02:00:00:00:00:11`.
///
/// # Panics
/// If they are not six.
pub fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> =
        text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().unwrap_or_else(|_| panic!("expected a hardware address, found {text:?}"))
}

/// A hardware address as programs print it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Moves the calling thread, and nothing else, into a namespace.
fn go_to(name: &str) {
    let file = File::open(Path::new("/run/netns").join(name))
        .unwrap_or_else(|why| panic!("namespace {name}: {why}"));
    setns(file, CloneFlags::CLONE_NEWNET)
        .unwrap_or_else(|why| panic!("entering namespace {name}: {why}"));
}

/// Ends what still runs in a namespace of ours, and removes it.
fn remove(name: &str) {
    let inhabitants = process::output(Command::new("ip").args(["netns", "pids", name]));
    for number in String::from_utf8_lossy(&inhabitants.stdout).lines() {
        if let Ok(number) = number.trim().parse() {
            // The namespace is ours alone, so whoever is in it was started by us.
            let _ = kill(Pid::from_raw(number), Signal::SIGKILL);
        }
    }
    let gone = process::output(Command::new("ip").args(["netns", "del", name]));
    if !gone.status.success() {
        eprintln!("namespace {name}: {}", String::from_utf8_lossy(&gone.stderr).trim());
    }
}

/// Removes what an earlier run left because it was killed: the namespaces and files of every
/// laboratory whose maker is no longer there. Returns the laboratories' names.
pub fn remove_leftovers() -> BTreeSet<String> {
    remove_laboratories(|name| {
        let maker = name.split('.').next().unwrap_or(name);
        // A laboratory with a name instead of a number was meant to stay.
        maker.parse::<u32>().is_ok() && !Path::new("/proc").join(maker).exists()
    })
}

/// Removes the laboratory `name`, if there is one. Returns whether there was.
pub fn remove_laboratory(name: &str) -> bool {
    !remove_laboratories(|other| other == name).is_empty()
}

fn remove_laboratories(unwanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut removed = BTreeSet::new();
    for machine in names_in("/run/netns") {
        let laboratory = laboratory_of(&machine);
        if let Some(laboratory) = laboratory.filter(|laboratory| unwanted(laboratory)) {
            remove(&machine);
            removed.insert(laboratory.to_owned());
        }
    }
    for folder in names_in("/run") {
        let laboratory = folder.strip_prefix(FOLDER);
        if let Some(laboratory) = laboratory.filter(|laboratory| unwanted(laboratory)) {
            remove_folder(&Path::new("/run").join(&folder));
            removed.insert(laboratory.to_owned());
        }
    }
    removed
}

/// The laboratory that a namespace of ours belongs to.
fn laboratory_of(machine: &str) -> Option<&str> {
    machine.strip_prefix(PREFIX)?.split('-').next()
}

fn names_in(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn remove_folder(path: &Path) {
    if let Err(why) = fs::remove_dir_all(path) {
        eprintln!("{}: {why}", path.display());
    }
}

/// Where files of a laboratory go: in /run, where only root writes, and removed on drop.
pub struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Folder {
    /// Makes it for `laboratory`.
    ///
    /// # Panics
    /// If it is there already.
    pub fn new(laboratory: &str) -> Self {
        let path = Path::new("/run").join(format!("{FOLDER}{laboratory}"));
        let mut builder = fs::DirBuilder::new();
        let made = builder.mode(0o700).create(&path);
        made.unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        Self { path, kept: false }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it there when this value goes out of scope.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            remove_folder(&self.path);
        }
    }
}
