//! A node with everything but workers and cards: real rings, a real publication, a real state
//! directory, and the admin API on a real Unix socket and a real TLS port of the loopback.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use controlplane::alerts::Pace;
use controlplane::control;
use controlplane::events::{Change, Subject};
use controlplane::health::probe::Tools;
use controlplane::node::{Node, Start};
use controlplane::plumbing::{Buffers, LiveInterface, Plumbing, PortStatistics};
use controlplane::store::Store;
use controlplane::testing::Script;
use dataplane::counters::Counters;
use dataplane::moment::Moment;
use dataplane::punt::{Command, ControlEnd, Copied, Event};
use dataplane::snapshot::{Reader, Snapshot, publication};
use dataplane::wire::Mac;
use rtrb::{Consumer, Producer, RingBuffer};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// The worker's ends, in the hands of a test.
pub struct Worker {
    pub reader: Reader<Snapshot>,
    pub counters: Counters,
    pub punt: Producer<Copied>,
    pub injected: Consumer<Copied>,
    pub events: Producer<Event>,
    pub commands: Consumer<Command>,
}

/// A node, running until it is dropped.
pub struct Rig {
    pub directory: TempDir,
    node: Option<Arc<Node>>,
    pub port: u16,
    pub worker: Worker,
    /// The second worker and those after it.
    pub others: Vec<Worker>,
    /// How servers take the connections of health checks.
    pub script: Script,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a node answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn etag(&self) -> &str {
        self.header("etag").expect("the answer carries an entity tag")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the answer is JSON")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the answer is text")
    }

    /// Checks that it is a problem document of this status, and returns its mistakes in words.
    pub fn problem(&self, status: u16) -> Vec<String> {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        let words = |error: &Value| {
            let part =
                |name: &str| error[name].as_str().expect("a mistake has three parts").to_owned();
            format!("{}: expected {}, found {}", part("path"), part("expected"), part("found"))
        };
        errors.iter().map(words).collect()
    }
}

/// Two services at two interfaces; `admin` is filled in by the rig.
pub const CONFIGURATION: &str = r#"
[node]
name = "lb1"

[dataplane]
workers = [1]
memory = "plain"

[[interface]]
name = "wan"
device = "vdev:net_ring0"
addresses = ["10.0.0.2/24"]

[[interface]]
name = "lan"
device = "vdev:net_ring1"
addresses = ["192.168.1.1/24"]

[[route]]
to = "0.0.0.0/0"
via = "10.0.0.1"

[[neighbour]]
interface = "wan"
address = "10.0.0.11"
mac = "02:00:00:00:00:11"

[[service]]
name = "web"
address = "10.0.0.100"
ports = "80,443"

  [[service.server]]
  name = "web1"
  address = "10.0.0.11"

  [[service.server]]
  name = "web2"
  address = "10.0.0.12"
  weight = 50

[[service]]
name = "dns"
address = "10.0.0.101"
ports = "53"
protocol = "tcp+udp"
mode = "nat"
scheduler = "rr"

  [[service.server]]
  name = "dns1"
  address = "192.168.1.53"
  port = 5353
"#;

/// Faster than in earnest.
const PACE: Pace = Pace {
    period: Duration::from_secs(2),
    pause: Duration::from_millis(50),
    longest_pause: Duration::from_millis(200),
    patience: Duration::from_secs(8),
    conversation: Duration::from_secs(2),
};

/// The MAC addresses of the interfaces.
pub const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];

impl Rig {
    /// A node with [`CONFIGURATION`].
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        Self::in_directory(directory, CONFIGURATION)
    }

    /// A node with [`CONFIGURATION`] and so many workers.
    pub fn with_workers(workers: usize) -> Self {
        Self::with_workers_and(workers, CONFIGURATION)
    }

    /// A node with this configuration, less `[admin]`, and so many workers.
    pub fn with_workers_and(workers: usize, configuration: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let port = write(&directory, configuration);
        Self::running(directory, port, workers)
    }

    /// A node with this configuration, less `[admin]`, and the state in this directory.
    pub fn in_directory(directory: TempDir, configuration: &str) -> Self {
        let port = write(&directory, configuration);
        Self::restarted(directory, port)
    }

    /// A node with the file that lies in the directory.
    pub fn restarted(directory: TempDir, port: u16) -> Self {
        Self::running(directory, port, 1)
    }

    fn running(directory: TempDir, port: u16, workers: usize) -> Self {
        let (plumbing, mut workers) = plumbing(workers);
        let state = directory.path().join("state");
        let file = directory.path().join("sluice.toml");
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let script = Script::default();
        let asked = script.clone();
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (store, config) = Store::open(&state, &file).unwrap();
                let node = Node::start(Start { store, config, plumbing });
                control::serve(&node).await.unwrap();
                tokio::spawn(Arc::clone(&node).run());
                tokio::spawn(Arc::clone(&node).ask_servers(asked, Arc::new(Tools::default())));
                control::tell(&node, PACE);
                tell.send(node).unwrap();
                let _ = stopped.await;
            });
        });
        let node = told.recv().expect("the node starts");
        let others = workers.split_off(1);
        let worker = workers.remove(0);
        Self {
            directory,
            node: Some(node),
            port,
            worker,
            others,
            script,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Stops the node, and leaves its files.
    pub fn stop(mut self) -> (TempDir, u16) {
        self.end();
        let empty = tempfile::tempdir().expect("a directory can be made");
        (std::mem::replace(&mut self.directory, empty), self.port)
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the control thread panicked");
        }
        self.node = None; // the last handle holds the lock on the state directory
    }

    pub fn node(&self) -> &Arc<Node> {
        self.node.as_ref().expect("the node runs")
    }

    /// A server's state changes, as the node would note it.
    pub fn server_is(&self, service: &str, server: &str, old: &str, new: &str, reason: &str) {
        let subject = Subject::Server { service: service.into(), server: server.into() };
        let (old, new, reason) = (old.into(), new.into(), reason.into());
        self.node().events().record(Change { subject, old, new, reason });
    }

    /// A worker's flow table fills up, which it never does here by itself.
    pub fn worker_is_full(&self, reason: &str) {
        let (old, new, reason) = ("well".into(), "full".into(), reason.into());
        let subject = Subject::Worker { worker: 0 };
        self.node().events().record(Change { subject, old, new, reason });
    }

    pub fn socket(&self) -> PathBuf {
        socket(&self.directory)
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn token(&self) -> String {
        let token = fs::read_to_string(self.state().join("admin.token")).expect("there is a token");
        token.trim().to_owned()
    }

    /// The Unix socket, for another thread too.
    pub fn door(&self) -> Door {
        Door(self.socket())
    }

    /// Asks over the Unix socket.
    pub fn ask(&self, method: &str, path: &str) -> Reply {
        self.door().ask(method, path)
    }

    /// Sends JSON over the Unix socket.
    pub fn tell(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.door().tell(method, path, body)
    }

    /// Sends anything over the Unix socket.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.door().send(method, path, headers, body)
    }

    /// Sends anything over TLS.
    pub fn send_tls(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut stream = self.tls(&[b"http/1.1"]);
        converse(&mut stream, &request(method, path, headers, body))
    }

    /// A TLS connection that trusts the node's certificate alone.
    pub fn tls(
        &self,
        protocols: &[&[u8]],
    ) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the port is answered");
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let client = rustls::ClientConnection::new(Arc::new(self.trust(protocols)), name).unwrap();
        rustls::StreamOwned::new(client, stream)
    }

    pub fn trust(&self, protocols: &[&[u8]]) -> rustls::ClientConfig {
        let pem = self.state().join("admin-cert.pem");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }
}

/// The Unix socket of a node.
#[derive(Clone)]
pub struct Door(PathBuf);

impl Door {
    /// Asks over the Unix socket.
    pub fn ask(&self, method: &str, path: &str) -> Reply {
        self.send(method, path, &[], b"")
    }

    /// Sends JSON over the Unix socket.
    pub fn tell(&self, method: &str, path: &str, body: &Value) -> Reply {
        let headers = [("content-type", "application/json")];
        self.send(method, path, &headers, body.to_string().as_bytes())
    }

    /// Sends anything over the Unix socket.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut stream = UnixStream::connect(&self.0).expect("the socket is answered");
        converse(&mut stream, &request(method, path, headers, body))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.end();
    }
}

fn socket(directory: &TempDir) -> PathBuf {
    directory.path().join("run/admin.sock")
}

/// Below those that the system gives away, so that no connection of another test takes it meanwhile.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + (std::process::id() % 20_000) as u16;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Writes the configuration down; gives the port of the admin API.
pub fn write(directory: &TempDir, configuration: &str) -> u16 {
    let port = free_port();
    let admin = format!(
        "[admin]\nlisten = [\"127.0.0.1:{port}\"]\nsocket = \"{}\"\n",
        socket(directory).display()
    );
    let file = directory.path().join("sluice.toml");
    fs::write(&file, format!("{admin}{configuration}")).expect("the file can be written");
    port
}

/// Both ends of one worker's rings.
fn worker(reader: Reader<Snapshot>) -> (ControlEnd, Worker) {
    let (punt, punted) = RingBuffer::new(512);
    let (inject, injected) = RingBuffer::new(512);
    let (events_in, events) = RingBuffer::new(1024);
    let (commands, commands_out) = RingBuffer::new(16);
    let counters = Counters::new();
    (
        ControlEnd { punted, inject, events, commands },
        Worker { reader, counters, punt, injected, events: events_in, commands: commands_out },
    )
}

/// What a node of so many workers is given, and the workers' ends.
pub fn plumbing(workers: usize) -> (Plumbing, Vec<Worker>) {
    let (publisher, readers) = publication(Snapshot::default(), workers);
    let (rings, workers): (Vec<_>, Vec<_>) = readers.into_iter().map(worker).unzip();
    let interface = |name: &str, device: &str, mac| LiveInterface {
        name: name.into(),
        device: device.into(),
        driver: "net_ring".into(),
        mac,
        mtu: 1500,
        quiet: true,
        statistics: Box::new(|| PortStatistics {
            link_up: true,
            received: 7,
            ..Default::default()
        }),
    };
    let begin = Instant::now();
    let plumbing = Plumbing {
        publisher,
        counters: workers.iter().map(|worker| worker.counters.clone()).collect(),
        rings,
        interfaces: vec![
            interface("wan", "vdev:net_ring0", MACS[0]),
            interface("lan", "vdev:net_ring1", MACS[1]),
        ],
        buffers: Box::new(|| Buffers { capacity: 1024, available: 1000 }),
        clock: Box::new(move || Moment::from_nanos(begin.elapsed().as_nanos() as u64)),
    };
    (plumbing, workers)
}

/// A request as it goes over the wire; the connection ends with the answer.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("content-length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// Sends, and reads until the other side ends.
pub fn converse(stream: &mut (impl Read + Write), request: &[u8]) -> Reply {
    stream.write_all(request).expect("the request goes out");
    stream.flush().expect("the request goes out");
    reply(stream)
}

/// Reads an answer until the other side ends.
pub fn reply(stream: &mut impl Read) -> Reply {
    let mut bytes = Vec::new();
    // A peer that ends TCP without ending TLS has said all that it wanted to say.
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("there is a head");
    let head = std::str::from_utf8(&bytes[..end]).expect("the head is text");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("there is a status");
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let body = bytes[end + 4..].to_vec();
    let reply = Reply { status: status.parse().expect("the status is a number"), headers, body };
    if let Some(length) = reply.header("content-length") {
        assert_eq!(length, reply.body.len().to_string(), "the body is whole");
    }
    reply
}

/// Waits until the servers that nobody answers for are known to be unreachable.
pub fn wait_for_the_unreachable(rig: &Rig) {
    wait_until("the absent are unreachable", || {
        let status = rig.ask("GET", "/api/v1/status").json();
        let services = status["services"].as_array().expect("a list");
        services.iter().all(|it| it["state"] != "up")
    });
}

/// Waits until something is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The mode of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).expect("the file is there").permissions().mode() & 0o7777
}

/// How much memory this process has, while nobody else who asks has his test run.
pub struct Memory {
    before: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Memory {
    pub fn measured() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self { before: resident(), _alone: alone }
    }

    pub fn has_not_grown_by(&self, bytes: usize) {
        let more = resident().saturating_sub(self.before);
        assert!(more < bytes, "{more} bytes more");
    }
}

fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
