//! Programs that a test starts, and ends by their own process number.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs `command` to its end and returns what it printed.
///
/// # Panics
/// If it cannot be started or fails, with everything it said.
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `command` to its end, whatever that is.
///
/// # Panics
/// If it cannot be started.
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|why| panic!("{command:?}: {why}"))
}

/// Runs `command` with `input` on its standard input.
///
/// # Panics
/// If it cannot be started or fails, with everything it said.
pub fn feed(command: &mut Command, input: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|why| panic!("{command:?}: {why}"));
    // A program that ends before it has read everything is judged by its exit status below.
    let _ = child.stdin.take().map(|mut pipe| pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("a child of ours can be waited for");
    assert!(
        output.status.success(),
        "{command:?} failed ({}) on:\n{input}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Where a program in the background leaves what it says: nobody reads a pipe of ours once we are
/// gone, and nobody could end who waits for ours to close.
pub fn say_to(command: &mut Command, file: &Path) {
    let log = File::options().create(true).append(true).open(file);
    let log = log.unwrap_or_else(|why| panic!("{}: {why}", file.display()));
    command.stdout(log.try_clone().expect("a file can be opened twice")).stderr(log);
}

/// A program in the background, ended when this value goes out of scope.
pub struct Background {
    child: Child,
    name: String,
}

impl Background {
    /// Starts `command`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|why| panic!("{command:?} did not start: {why}"));
        Self { child, name: format!("{command:?}") }
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The program itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours can be asked")
    }

    /// Sends `signal`; to a program that has ended already this does nothing.
    pub fn signal(&self, signal: Signal) {
        // The number is still ours: the child has not been waited for, or the signal fails.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Waits for its end for at most `patience`.
    ///
    /// # Errors
    /// A sentence, if it still runs then.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus, String> {
        eventually(patience, || self.ended())
            .ok_or_else(|| format!("{} still ran after {patience:?}", self.name))
    }

    /// Asks it to end and waits; a program that does not is ended by force.
    pub fn stop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        self.signal(Signal::SIGTERM);
        if self.wait(Duration::from_secs(5)).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Asks `question` again and again until it has an answer, for at most `patience`.
pub fn eventually<T>(patience: Duration, mut question: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = question() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
