//! Servers as health checks meet them.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use controlplane::net::{Datagrams, Net, Way};
use tokio::io::DuplexStream;

/// A network of scripted servers; whoever has not been stopped takes connections.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<Scripted>>);

#[derive(Default)]
struct Scripted {
    stopped: HashMap<SocketAddr, ()>,
    asked: Vec<(SocketAddr, Instant)>,
}

impl Script {
    pub fn stop(&self, server: &str) {
        self.0.lock().unwrap().stopped.insert(server.parse().unwrap(), ());
    }

    pub fn start(&self, server: &str) {
        self.0.lock().unwrap().stopped.remove(&server.parse().unwrap());
    }

    /// When a server was asked.
    pub fn asked(&self, server: &str) -> Vec<Instant> {
        let server: SocketAddr = server.parse().unwrap();
        let script = self.0.lock().unwrap();
        script.asked.iter().filter(|it| it.0 == server).map(|it| it.1).collect()
    }
}

pub struct Nothing;

impl Datagrams for Nothing {
    async fn send(&self, _: &[u8]) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    async fn receive(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }
}

impl Net for Script {
    type Stream = DuplexStream;
    type Datagrams = Nothing;

    async fn connect(&self, to: SocketAddr, _: Way) -> io::Result<DuplexStream> {
        let mut script = self.0.lock().unwrap();
        script.asked.push((to, Instant::now()));
        match script.stopped.contains_key(&to) {
            true => Err(ErrorKind::ConnectionRefused.into()),
            false => Ok(tokio::io::duplex(1).0),
        }
    }

    async fn datagrams(&self, _: SocketAddr, _: Way) -> io::Result<Nothing> {
        Err(ErrorKind::Unsupported.into())
    }

    async fn ping(&self, _: IpAddr, _: Way) -> io::Result<Duration> {
        Err(ErrorKind::Unsupported.into())
    }
}
