//! A worker on plain memory: frames are vectors that know how many of them are alive, links are
//! queues, and time stands still until a test moves it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use ipnet::Ipv4Net;

use crate::counters::{Counters, Reason};
use crate::frame::{Burst, Frame, Link};
use crate::lookup::Memory;
use crate::lookup::flow_table::{FlowTable, Timeouts};
use crate::lookup::scheduler::Schedules;
use crate::lookup::slab::Heap;
use crate::moment::Moment;
use crate::punt::{ControlEnd, rings};
use crate::snapshot::{
    Candidates, Hop, Interface, InterfaceId, Mode, Protocol, Publisher, Route, Routes, Scheduler,
    Server, ServerId, Service, ServiceId, Services, Snapshot, publication,
};
use crate::wire::Mac;
use crate::worker::{Parts, Worker};

/// Room in front of a new frame, as the drivers' buffers have it.
const HEADROOM: usize = 128;

/// The interface that clients are on: 192.0.2.2/24, with a gateway to everywhere else.
pub const OUTSIDE: InterfaceId = InterfaceId(0);
/// The interface that servers are on: 10.0.0.2/16.
pub const INSIDE: InterfaceId = InterfaceId(1);

/// The hardware address of the station with this address.
pub fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([2, 0, a, b, c, d])
}

/// A frame in a vector; the vector's front is headroom.
pub struct Plain {
    buffer: Vec<u8>,
    start: usize,
    alive: Rc<Cell<usize>>,
}

impl Plain {
    fn new(bytes: &[u8], alive: &Rc<Cell<usize>>) -> Self {
        alive.set(alive.get() + 1);
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(bytes);
        Self { buffer, start: HEADROOM, alive: Rc::clone(alive) }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

impl Frame for Plain {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..]
    }

    fn grow_front(&mut self, by: usize) -> bool {
        let room = self.start >= by;
        self.start -= if room { by } else { 0 };
        room
    }

    fn truncate(&mut self, length: usize) {
        self.buffer.truncate(self.start + length);
    }

    fn stripped_tag(&self) -> Option<u16> {
        None
    }

    fn is_in_one_piece(&self) -> bool {
        true
    }
}

/// What is on one wire, seen from outside.
#[derive(Default)]
struct Cable {
    towards_us: VecDeque<Plain>,
    from_us: Vec<Vec<u8>>,
    /// Frames that the transmit queue still takes.
    room: Cell<Option<usize>>,
}

/// An interface's queues on plain memory.
pub struct TestLink {
    cable: Rc<RefCell<Cable>>,
    alive: Rc<Cell<usize>>,
}

impl Link for TestLink {
    type Frame = Plain;

    fn receive(&mut self, into: &mut Burst<Plain>) {
        let towards_us = &mut self.cable.borrow_mut().towards_us;
        let number = into.remaining_capacity().min(towards_us.len());
        into.extend(towards_us.drain(..number));
    }

    fn transmit<const N: usize>(&mut self, from: &mut ArrayVec<Plain, N>) {
        let mut cable = self.cable.borrow_mut();
        let room = cable.room.get().unwrap_or(usize::MAX).min(from.len());
        cable.room.set(cable.room.get().map(|left| left - room));
        cable.from_us.extend(from.drain(..room).map(|frame| frame.bytes().to_vec()));
    }

    fn allocate(&mut self, bytes: &[u8]) -> Option<Plain> {
        Some(Plain::new(bytes, &self.alive))
    }
}

/// A whole worker with both its wires, and the other ends of what it meets.
pub struct TestWorker {
    worker: Worker<TestLink>,
    cables: [Rc<RefCell<Cable>>; 2],
    alive: Rc<Cell<usize>>,
    /// What it counts.
    pub counters: Counters,
    /// Publishes configurations to it.
    pub publisher: Publisher<Snapshot>,
    /// The control plane's ends of its rings.
    pub control: ControlEnd,
    /// What the clock says.
    pub now: Moment,
}

impl TestWorker {
    /// A worker with these services, one a line: `192.0.2.1:80 dr 10.0.0.7 10.0.0.8*3`, which is
    /// address, port, `/udp` if it is, mode, and servers with `:port` and `*weight`.
    pub fn serving(services: &str) -> Self {
        Self::with(snapshot(services), 1_024)
    }

    /// A worker with this configuration, and room for so many flows.
    pub fn with(snapshot: Snapshot, flows: usize) -> Self {
        let alive = Rc::new(Cell::new(0));
        let cables: [Rc<RefCell<Cable>>; 2] = Default::default();
        let links = cables
            .iter()
            .map(|cable| TestLink { cable: Rc::clone(cable), alive: Rc::clone(&alive) })
            .collect();
        let (publisher, mut readers) = publication(snapshot, 1);
        let (control_of_worker, control) = rings();
        let counters = Counters::new();
        let flows = FlowTable::new(flows, [11, 13, 17, 19], Timeouts::default(), &Heap)
            .expect("a small table fits");
        let worker = Worker::new(Parts {
            links,
            snapshots: readers.pop().expect("one was asked for"),
            memory: Memory { flows, schedules: Schedules::default() },
            control: control_of_worker,
            counters: counters.clone(),
            random: 0,
        });
        let now = Moment::START.plus(Duration::from_secs(10));
        Self { worker, cables, alive, counters, publisher, control, now }
    }

    /// Puts a frame on a wire and lets the worker take its turn.
    pub fn receives_on(&mut self, interface: InterfaceId, frame: &[u8]) {
        let frame = Plain::new(frame, &self.alive);
        self.cables[usize::from(interface.0)].borrow_mut().towards_us.push_back(frame);
        self.turn();
    }

    /// Puts a frame on the wire that clients are on.
    pub fn receives(&mut self, frame: &[u8]) {
        self.receives_on(OUTSIDE, frame);
    }

    /// Lets the worker take a turn.
    pub fn turn(&mut self) {
        self.worker.turn(self.now);
    }

    /// Lets time pass, then a turn.
    pub fn passes(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.turn();
    }

    /// What the worker has sent on a wire since the last call.
    pub fn transmitted_on(&mut self, interface: InterfaceId) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.cables[usize::from(interface.0)].borrow_mut().from_us)
    }

    /// What the worker has sent since the last call, towards clients and towards servers.
    pub fn transmitted(&mut self) -> Vec<Vec<u8>> {
        let mut frames = self.transmitted_on(OUTSIDE);
        frames.extend(self.transmitted_on(INSIDE));
        frames
    }

    /// Makes a transmit queue take so many more frames and then none.
    pub fn limit_transmission(&mut self, interface: InterfaceId, frames: usize) {
        self.cables[usize::from(interface.0)].borrow_mut().room.set(Some(frames));
    }

    /// Frames dropped for `reason`.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.counters.dropped(reason)
    }

    /// Buffers that somebody holds.
    pub fn buffers_out(&self) -> usize {
        self.alive.get()
    }

    /// Publishes other services, in the notation of [`TestWorker::serving`].
    pub fn reconfigure(&mut self, services: &str, generation: u64) {
        self.publisher.publish(Snapshot { generation, ..snapshot(services) });
    }
}

/// A configuration with two interfaces and these services, in the notation of [`TestWorker::serving`].
pub fn snapshot(text: &str) -> Snapshot {
    let mut services = Services::new();
    let mut servers: Vec<Option<Server>> = Vec::new();
    let mut locals: std::collections::HashSet<_, _> =
        [our_address(OUTSIDE), our_address(INSIDE)].into_iter().collect();
    let mut neighbours: crate::snapshot::Map<_, _> =
        [(GATEWAY, mac_of(GATEWAY))].into_iter().collect();
    for (index, line) in text.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        let service = ServiceId(index as u16);
        let mut words = line.split_whitespace();
        let (at, mode) = (words.next().expect("an address"), words.next().expect("a mode"));
        let (at, protocol) = match at.strip_suffix("/udp") {
            Some(at) => (at, Protocol::Udp),
            None => (at, Protocol::Tcp),
        };
        let (address, ports) = at.split_once(':').expect("a port");
        let address = address.parse().expect("an address");
        let ports = match ports {
            "*" => (0, u16::MAX),
            port => (port.parse().expect("a port"), port.parse().expect("a port")),
        };
        let scheduler =
            if line.contains('*') { Scheduler::WeightedRoundRobin } else { Scheduler::RoundRobin };
        let mut candidates = Vec::new();
        for word in words {
            let (server, weight) = word.split_once('*').unwrap_or((word, "1"));
            let (address, port) = server
                .split_once(':')
                .map_or((server, None), |(address, port)| (address, port.parse().ok()));
            let address: Ipv4Addr = address.parse().expect("a server's address");
            let id = ServerId::new(servers.len() as u16, 0);
            let mode = match mode {
                "dr" => Mode::DirectReturn,
                "nat" => Mode::Nat { port },
                "tun" => Mode::Tunnel { source: our_address(INSIDE) },
                other => panic!("no mode {other}"),
            };
            if matches!(mode, Mode::Nat { .. }) {
                services.expect_replies_from(address);
            }
            neighbours.insert(address, mac_of(address));
            let hop = Hop { interface: INSIDE, address, mac: Some(mac_of(address)) };
            servers.push(Some(Server { id, service, address, mode, hop }));
            candidates.push((id, weight.parse().expect("a weight")));
        }
        locals.insert(address);
        services.publish(address, protocol, ports, service);
        services.insert(Service {
            id: service,
            scheduler,
            candidates: Candidates::new(candidates),
        });
    }
    let subnet = |interface| {
        Ipv4Net::new(our_address(interface), if interface == OUTSIDE { 24 } else { 16 })
            .expect("a subnet")
    };
    let interface =
        |id| Interface { mac: mac_of(our_address(id)), mtu: 1500, addresses: vec![subnet(id)] };
    let connected = |id: InterfaceId| Route { to: subnet(id).trunc(), interface: id, via: None };
    let default = Route { to: Ipv4Net::default(), interface: OUTSIDE, via: Some(GATEWAY) };
    Snapshot {
        generation: 1,
        interfaces: [interface(OUTSIDE), interface(INSIDE)].into(),
        locals: Arc::new(locals),
        services: Arc::new(services),
        servers: servers.into(),
        routes: Arc::new(Routes::new([connected(OUTSIDE), connected(INSIDE), default])),
        neighbours: Arc::new(neighbours),
    }
}

/// The station that leads everywhere but to the two subnets.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

/// Our own address on an interface.
pub fn our_address(interface: InterfaceId) -> Ipv4Addr {
    if interface == OUTSIDE { Ipv4Addr::new(192, 0, 2, 2) } else { Ipv4Addr::new(10, 0, 0, 2) }
}
