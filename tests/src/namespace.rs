//! One machine of the laboratory: a network namespace, made here and taken down on drop.

use std::fs::{self, File};
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process;

/// Every namespace of ours begins so, and goes on with the number of the process that made it.
const PREFIX: &str = "sluice-";

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

    /// Runs lines of `ip`, all at once.
    pub fn ip(&self, lines: &str) {
        process::feed(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines);
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

/// Removes what an earlier run left because it was killed: every namespace of ours whose maker is
/// no longer there. Returns their names.
pub fn remove_leftovers() -> Vec<String> {
    remove_where(|maker| !maker.is_some_and(|maker| Path::new("/proc").join(maker).exists()))
}

/// Removes every namespace of the laboratory `name`. Returns their names.
pub fn remove_laboratory(name: &str) -> Vec<String> {
    remove_where(|maker| maker == Some(name))
}

fn remove_where(unwanted: impl Fn(Option<&str>) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Vec::new(); // no namespace was ever made on this machine
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let unwanted: Vec<String> = names
        .filter(|name| {
            name.strip_prefix(PREFIX).is_some_and(|rest| unwanted(rest.split('-').next()))
        })
        .collect();
    for name in &unwanted {
        remove(name);
    }
    unwanted
}
