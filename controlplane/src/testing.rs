//! A network of servers that do as a test says, for the tests of this crate and of its users.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::net::{Net, Way};

/// Makes a program of lines of shell that everybody may run. Another process writes it: what other threads start meanwhile
/// has the file of a thread that writes open too, for a moment, and until then the kernel runs no such program.
///
/// # Panics
///
/// When it cannot be written.
pub fn write_program(path: &Path, lines: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut install = install.spawn().expect("install is there");
    let mut input = install.stdin.take().expect("it is piped");
    write!(input, "#!/bin/sh\n{lines}\n").expect("it reads");
    drop(input);
    assert!(install.wait().expect("it runs").success(), "{}", path.display());
}

/// What this thread has computed so far.
#[cfg(test)]
pub(crate) fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// How a server takes a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Manner {
    /// And says nothing.
    #[default]
    Accepts,
    /// As a machine does on which nobody listens.
    Refuses,
    /// No answer at all.
    Hangs,
    /// The program is at fault.
    Panics,
}

/// A network of scripted servers, which take connections alone; whoever is not written down accepts.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<Scripted>>);

#[derive(Default)]
struct Scripted {
    manners: HashMap<SocketAddr, Manner>,
    /// Who was asked, and when.
    asked: Vec<(SocketAddr, Instant)>,
    under_way: usize,
    most_under_way: usize,
}

impl Script {
    fn with<T>(&self, of: impl FnOnce(&mut Scripted) -> T) -> T {
        of(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on a server takes connections so.
    pub fn set(&self, server: SocketAddr, manner: Manner) {
        self.with(|script| script.manners.insert(server, manner));
    }

    /// When a server was asked, by tokio's clock, which a test may turn.
    pub fn asked(&self, server: SocketAddr) -> Vec<Instant> {
        self.with(|script| script.asked.iter().filter(|it| it.0 == server).map(|it| it.1).collect())
    }

    /// Forgets who was asked.
    pub fn forget(&self) {
        self.with(|script| script.asked.clear());
    }

    /// How many connections are being made.
    pub fn under_way(&self) -> usize {
        self.with(|script| script.under_way)
    }

    /// How many have been made at once, at most.
    pub fn most_under_way(&self) -> usize {
        self.with(|script| script.most_under_way)
    }
}

/// Counts a connection as under way until it is dropped.
struct UnderWay(Script);

impl UnderWay {
    fn begin(script: &Script) -> Self {
        script.with(|script| {
            script.under_way += 1;
            script.most_under_way = script.most_under_way.max(script.under_way);
        });
        Self(script.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.with(|script| script.under_way -= 1);
    }
}

impl Net for Script {
    type Stream = DuplexStream;
    type Datagrams = UdpSocket;

    async fn connect(&self, to: SocketAddr, _: Way) -> io::Result<DuplexStream> {
        let _under_way = UnderWay::begin(self);
        let manner = self.with(|script| {
            script.asked.push((to, Instant::now()));
            script.manners.get(&to).copied().unwrap_or_default()
        });
        match manner {
            Manner::Accepts => Ok(tokio::io::duplex(1).0),
            Manner::Refuses => Err(ErrorKind::ConnectionRefused.into()),
            Manner::Hangs => std::future::pending().await,
            Manner::Panics => panic!("as scripted"),
        }
    }

    async fn datagrams(&self, _: SocketAddr, _: Way) -> io::Result<UdpSocket> {
        Err(ErrorKind::Unsupported.into())
    }

    async fn ping(&self, _: IpAddr, _: Way) -> io::Result<Duration> {
        Err(ErrorKind::Unsupported.into())
    }
}
