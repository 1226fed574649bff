//! Clients and servers at the other end of the appliance's memif ports, in a program of their own:
//! in shared memory no frame is lost by itself, and each can be accounted for.
//!
//! 1. [`scenario`]: what is to be sent, and where it must arrive
//! 2. [`packet`]: a packet as it is sent, and as it must arrive
//! 3. [`ledger`]: every frame that was sent and every frame that came back
//!
//! `wire FILE` reads a scenario, connects both ports, and takes commands on its standard input, one
//! a line; each is answered by one line of JSON.
//!
//! | command | is answered |
//! |---|---|
//! | (the start) | when both links are up |
//! | `go` | at once; from then on, frames flow |
//! | `join NAME` | at once; from then on, clients of the service NAME send too |
//! | `see NAME` | when a frame was forwarded as only configuration NAME would; or, after a while, that it was not |
//! | `report` | at once, with [`ledger::Report`] |
//! | `stop` | when everything sent has arrived, or nothing has come for a while; with the report |
//!
//! It ends when its standard input does.
//!
//! Never more frames are under way than the window of the scenario, so that no queue can overflow:
//! a frame that does not arrive was lost by the appliance.

mod ledger;

mod packet;

mod scenario;

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use dpdk_sys::port::BURST;
use dpdk_sys::{
    Device, Eal, EalOptions, LogLevel, Mbuf, Memory, Mempool, Port, PortSettings, ReceiveQueue,
    StartedPort, TransmitQueue, lcore,
};
use serde_json::json;

use ledger::Ledger;
use scenario::{Scenario, Side};

type Failure = Box<dyn std::error::Error>;

/// How long the appliance may take to open its end of the wire.
const LINK: Duration = Duration::from_secs(20);
/// After so long without a frame, what has not arrived is lost.
const SILENCE: Duration = Duration::from_secs(3);
/// How long to watch for frames that come twice, when each has come once.
const AFTERWARDS: Duration = Duration::from_millis(100);
/// How long a turn in which nothing was to be done leaves the core to others.
const NAP: Duration = Duration::from_micros(20);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("wire: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let file = std::env::args().nth(1).ok_or("usage: wire SCENARIO.json")?;
    let scenario: Scenario = serde_json::from_slice(&std::fs::read(file)?)?;
    let commands = commands();
    let eal = Eal::start(&EalOptions {
        program: "wire".into(),
        memory: Memory::Plain { megabytes: 96 },
        control_core: scenario.core,
        allowed: vec![],
        log: LogLevel::Warning,
    })?;
    let pool = Mempool::new(&eal, "wire", 8192, 2048, None)?;
    let clients = Wire::connect(&eal, &pool, "net_memif0", &scenario.clients)?;
    let servers = Wire::connect(&eal, &pool, "net_memif1", &scenario.servers)?;
    for wire in [&clients, &servers] {
        wire.wait_for_link()?;
    }
    let ends = Ends { clients, servers, ledger: Ledger::new(scenario), bytes: Vec::new() };
    say(&json!({ "up": true }))?;
    Player { ends, pool, commands, sending: false, waiting: None }.play()
}

/// Standard input, line by line. A reader of its own waits for it.
fn commands() -> Receiver<String> {
    let (to, commands) = mpsc::channel();
    thread::spawn(move || {
        let lines = io::stdin().lock().lines().map_while(Result::ok);
        // The last line, or a player who has left, ends this.
        let _ = lines.map(|line| to.send(line)).take_while(Result::is_ok).count();
    });
    commands
}

fn say(line: &impl serde::Serialize) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// One memif port.
struct Wire {
    port: StartedPort,
    receive: ReceiveQueue,
    transmit: TransmitQueue,
    /// Frames that the ring has had no room for yet.
    outgoing: ArrayVec<Mbuf, BURST>,
}

impl Wire {
    fn connect(eal: &Eal, pool: &Mempool, name: &str, side: &Side) -> Result<Self, Failure> {
        // 2^12 slots: the appliance may send ARP messages besides what is in the window.
        let socket = side.socket.display();
        let arguments = format!("role=client,id=0,socket={socket},socket-abstract=no,rsize=12");
        let port = Port::open(eal, &Device::Virtual(format!("{name},{arguments}")))?;
        let (port, receive, transmit) = port.start(&PortSettings::default(), pool)?;
        let receive = receive.into_iter().next().ok_or("a port has a receive queue")?;
        let transmit = transmit.into_iter().next().ok_or("a port has a transmit queue")?;
        Ok(Self { port, receive, transmit, outgoing: ArrayVec::new() })
    }

    fn wait_for_link(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + LINK;
        while !self.port.link_up() {
            if Instant::now() > deadline {
                let name = self.port.device_name();
                return Err(format!("{name}: no link after {LINK:?}").into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn flush(&mut self) -> usize {
        if self.outgoing.is_empty() { 0 } else { self.transmit.transmit(&mut self.outgoing) }
    }
}

/// Both wires, and the books.
struct Ends {
    clients: Wire,
    servers: Wire,
    ledger: Ledger,
    /// Where frames are put together.
    bytes: Vec<u8>,
}

impl Ends {
    /// Receives and sends as much as there is room for. Returns how many frames that were.
    fn turn(&mut self, pool: &Mempool, sending: bool) -> Result<usize, Failure> {
        let Self { clients, servers, ledger, bytes } = self;
        let mut handled = servers.flush() + clients.flush();
        let mut frames = ArrayVec::<Mbuf, BURST>::new();
        // One answer at most to each frame, so there is room for all.
        if servers.outgoing.is_empty() {
            handled += servers.receive.receive(&mut frames);
        }
        for frame in frames.drain(..) {
            if ledger.at_servers(frame.bytes(), bytes) {
                servers.outgoing.push(pool.allocate_from(bytes).ok_or("no packet buffer")?);
            }
        }
        handled += clients.receive.receive(&mut frames);
        for frame in frames.drain(..) {
            ledger.at_clients(frame.bytes());
        }
        while sending && ledger.may_send() && !clients.outgoing.is_full() {
            ledger.next(bytes);
            clients.outgoing.push(pool.allocate_from(bytes).ok_or("no packet buffer")?);
        }
        Ok(handled + servers.flush() + clients.flush())
    }
}

/// What the test waits for.
enum Waiting {
    For { name: String, since: Instant },
    ForSilence { since: Instant },
}

/// Plays both ends, as told.
struct Player {
    ends: Ends,
    pool: Mempool,
    commands: Receiver<String>,
    sending: bool,
    waiting: Option<Waiting>,
}

impl Player {
    fn play(mut self) -> Result<(), Failure> {
        loop {
            let handled = self.ends.turn(&self.pool, self.sending)?;
            match &mut self.waiting {
                None => match self.commands.try_recv() {
                    Ok(command) => self.obey(&command)?,
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Disconnected) => return Ok(()),
                },
                Some(Waiting::For { name, since }) => {
                    let report = self.ends.ledger.report();
                    let seen = report.configuration.as_ref() == Some(name);
                    if seen || since.elapsed() > SILENCE {
                        say(&json!({ "seen": report.configuration, "changes": report.changes }))?;
                        self.waiting = None;
                    }
                }
                Some(Waiting::ForSilence { since }) => {
                    if handled > 0 {
                        *since = Instant::now();
                    }
                    let all_there = self.ends.ledger.report().under_way == 0;
                    let patience = if all_there { AFTERWARDS } else { SILENCE };
                    if since.elapsed() > patience {
                        self.ends.ledger.give_up();
                        self.waiting = None;
                        self.report()?;
                    }
                }
            }
            if handled == 0 {
                lcore::nap(NAP);
            }
        }
    }

    fn obey(&mut self, command: &str) -> Result<(), Failure> {
        match command.split_once(' ').unwrap_or((command, "")) {
            ("go", _) => {
                self.sending = true;
                say(&json!({ "going": true }))
            }
            ("join", name) => say(&json!({ "joined": self.ends.ledger.join(name) })),
            ("see", name) => {
                self.waiting = Some(Waiting::For { name: name.to_owned(), since: Instant::now() });
                Ok(())
            }
            ("report", _) => self.report(),
            ("stop", _) => {
                self.sending = false;
                self.waiting = Some(Waiting::ForSilence { since: Instant::now() });
                Ok(())
            }
            _ => Err(format!("what is {command:?}?").into()),
        }
    }

    /// The books, and what the ports have counted of their own.
    fn report(&self) -> Result<(), Failure> {
        let mut report = serde_json::to_value(self.ends.ledger.report())?;
        for (name, wire) in [("clients", &self.ends.clients), ("servers", &self.ends.servers)] {
            let found = wire.port.statistics()?;
            report["ports"][name] =
                json!({ "received": found.received, "transmitted": found.transmitted });
        }
        report["buffers"] = json!({
            "capacity": self.pool.capacity(), "available": self.pool.available(),
        });
        say(&report)
    }
}
