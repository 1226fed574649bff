//! The agent on a real server, as an operator starts it there.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::appliance::program_called;
use crate::client::Client;
use crate::process::{self, Background, eventually};
use crate::server::Server;

/// How long the agent may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// The finished program.
///
/// # Panics
/// If it has not been built.
pub fn program() -> PathBuf {
    program_called("sluice-agent", "sluice-agent")
}

/// A copy of it that everybody may read, which not everybody may do with what has just been built.
pub struct Copied {
    /// The copy.
    pub program: PathBuf,
    folder: tempfile::TempDir,
}

impl Copied {
    /// Makes it.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn of_the_program() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is ours");
        let copy = folder.path().join("sluice-agent");
        fs::copy(program(), &copy).expect("the program can be copied");
        Self { program: copy, folder }
    }

    /// Where it is: others may read there, and not write.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The agent on one server, whose state is kept in a folder of its own.
pub struct Agent<'s> {
    server: &'s Server,
    state: PathBuf,
}

impl<'s> Agent<'s> {
    /// With its state in the laboratory's `directory`.
    pub fn on(server: &'s Server, directory: &Path) -> Self {
        Self { server, state: directory.join("agents").join(&server.name) }
    }

    /// A command line, such as `fix --virtual 10.1.0.100`.
    pub fn command(&self, line: &str) -> Command {
        self.complete(self.server.namespace.command(program()), line)
    }

    /// The same for a command that gets as far as the program.
    fn complete(&self, mut command: Command, line: &str) -> Command {
        command.args(line.split_ascii_whitespace());
        if !line.starts_with("once") {
            command.arg("--state").arg(&self.state);
        }
        command
    }

    /// As whoever `user` says, in the words of setpriv, such as `--groups 27`.
    pub fn command_as(&self, user: &str, program: &Path, line: &str) -> Command {
        let mut command = self.server.namespace.command("setpriv");
        command.args(user.split_ascii_whitespace()).arg(program);
        self.complete(command, line)
    }

    /// Runs a command to its end: what it printed, and whether its status was 0.
    ///
    /// # Panics
    /// If its status was neither 0 nor 1.
    pub fn run(&self, line: &str) -> (String, bool) {
        Self::run_by(self.command(line), line)
    }

    /// The same, by a command of a test's own.
    ///
    /// # Panics
    /// If its status was neither 0 nor 1.
    pub fn run_by(mut command: Command, line: &str) -> (String, bool) {
        let output = process::output(&mut command);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{line}: {said}{complaint}");
        (said + &complaint, output.status.success())
    }

    /// Starts a command that goes on.
    pub fn start(&self, line: &str) -> Running {
        Running::by(self.command(line))
    }

    /// Everything that it might have changed: addresses of the loopback interface and kernel parameters.
    pub fn surroundings(&self) -> String {
        self.server.namespace.shell(
            "ip -o addr show dev lo
             for which in all default eth0 lo; do
                 for name in arp_ignore arp_announce rp_filter; do
                     sysctl net.ipv4.conf.$which.$name
                 done
             done
             sysctl net.ipv6.conf.lo.accept_dad net.ipv6.conf.lo.dad_transmits",
        )
    }
}

/// An agent that runs.
pub struct Running(Background);

impl Running {
    /// By a command of a test's own.
    pub fn by(mut command: Command) -> Self {
        Self(Background::start(&mut command))
    }

    /// A line of `/proc/PID/status`, such as `Uid`.
    ///
    /// # Panics
    /// If there is none.
    pub fn status(&self, name: &str) -> Vec<String> {
        let path = format!("/proc/{}/status", self.0.id());
        let text = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{path}: {why}"));
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let words = line.unwrap_or_else(|| panic!("{path} has no {name}")).split_whitespace();
        words.map(str::to_owned).collect()
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not come.
    pub fn end(&mut self) -> ExitStatus {
        self.0.wait(PATIENCE).unwrap_or_else(|late| panic!("{late}"))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.0.ended().is_none()
    }
}

/// What the agent at `at` says to `client` without being asked anything.
///
/// # Errors
/// When nobody listens there.
pub fn said(client: &Client, at: &str) -> io::Result<String> {
    let at: SocketAddr = at.parse().expect("an address and a port");
    client.namespace.enter(|| {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    })
}

/// Waits until the agent at `at` says what is wanted.
///
/// # Panics
/// If it does not in time.
pub fn until_it_says(client: &Client, at: &str, wanted: impl Fn(&str) -> bool) -> String {
    let heard = || said(client, at).ok().filter(|said| wanted(said));
    eventually(PATIENCE, heard)
        .unwrap_or_else(|| panic!("{at} says something else: {:?}", said(client, at)))
}
