//! A worker on plain memory: frames are vectors that know how many of them are alive, links are
//! queues, and time stands still until a test moves it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::counters::{Counters, Reason};
use crate::defence::cookie::Cookies;
use crate::defence::limits::Rates;
use crate::explain::Journal;
use crate::fragments::Fragments;
use crate::frame::{Burst, Frame, Link};
use crate::handover::{Colleagues, colleagues};
use crate::lookup::flow_table::{Capacity, Directory, FlowTable, Key, WorkerId};
use crate::lookup::load::{Full, Loads};
use crate::lookup::persistence::Persistence;
use crate::lookup::scheduler::Schedules;
use crate::lookup::scheduler::maglev::{Size, Table};
use crate::lookup::slab::Heap;
use crate::lookup::{Memory, NOWHERE_YET};
use crate::moment::Moment;
use crate::punt::answers::Answers;
use crate::punt::{ControlEnd, rings};
use crate::shared_map::SharedMap;
use crate::snapshot::{
    Admission, Candidates, Encapsulation, Hop, Host, Interface, InterfaceId, Limits, MAX_SERVICES,
    Mode, Neighbours, Options, Persistence as Persistent, PortId, Protocol, Publisher, Reader,
    Route, Routes, Scheduler, Server, ServerId, Service, ServiceId, Services, Set, Snapshot,
    Timeouts, publication,
};
use crate::wire::{Address, Mac, Prefix};
use crate::worker::{Parts, Worker};

/// Room in front of a new frame, as the drivers' buffers have it.
const HEADROOM: usize = 128;
/// Bytes that one buffer holds, headroom included.
const BUFFER: usize = 2_176;

/// The interface that clients are on: 192.0.2.2/24, with a gateway to everywhere else.
pub const OUTSIDE: InterfaceId = InterfaceId(0);
/// The interface that servers are on: 10.0.0.2/16.
pub const INSIDE: InterfaceId = InterfaceId(1);

/// The hardware address of the station with this address: its last four bytes.
pub fn mac_of(address: impl Into<Address>) -> Mac {
    let [a, b, c, d] = address.into().low().to_be_bytes();
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

    fn shrink_front(&mut self, by: usize) {
        self.start = (self.start + by).min(self.buffer.len());
    }

    fn truncate(&mut self, length: usize) {
        self.buffer.truncate(self.start + length);
    }

    fn grow_back(&mut self, by: usize) -> bool {
        let room = self.buffer.len() + by <= BUFFER;
        self.buffer.resize(self.buffer.len() + if room { by } else { 0 }, 0xee);
        room
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

/// What all workers of a node have in common, and how many there are.
pub struct Crew {
    workers: usize,
    flows: usize,
    directory: Arc<SharedMap>,
    persistence: Arc<Persistence>,
    full: Full,
    counters: Vec<Counters>,
}

impl Crew {
    /// So many workers with room for so many flows each.
    pub fn new(workers: usize, flows: usize) -> Self {
        Self {
            workers,
            flows,
            directory: Arc::new(
                SharedMap::new(workers * flows * 4, &Heap).expect("a small map fits"),
            ),
            persistence: Arc::new(
                Persistence::new(1_024, [3, 4], &Heap).expect("a small table fits"),
            ),
            full: Full::default(),
            counters: (0..workers).map(|_| Counters::new()).collect(),
        }
    }

    fn memory(&self, worker: usize) -> Memory {
        let id = WorkerId(worker as u8);
        let directory = (self.workers > 1).then(|| Directory::new(Arc::clone(&self.directory), id));
        let capacity = Capacity { v4: self.flows, v6: self.flows };
        let key = Key::new([11, 13, 17, 19]);
        let mut others = self.counters.clone();
        let own = others.remove(worker);
        Memory {
            flows: FlowTable::new(capacity, key, directory, &Heap).expect("a small table fits"),
            schedules: Schedules::default(),
            share: self.persistence.share(worker, self.workers),
            persistence: Arc::clone(&self.persistence),
            loads: Loads::new(own, others, self.full.clone()),
            rates: Rates::new(MAX_SERVICES, 1_024, [5, 6]),
            cookies: Cookies::new([7, 8]),
            spreading: Vec::new(),
            worker: id,
            workers: self.workers as u8,
            random: 1 + worker as u64,
            last_way_back: NOWHERE_YET,
            journal: Journal::default(),
        }
    }

    /// One of the workers, with links on these cables and these rings.
    fn worker(
        &self,
        worker: usize,
        links: Vec<TestLink>,
        snapshots: Reader<Snapshot>,
        colleagues: Colleagues<Plain>,
    ) -> (Worker<TestLink>, ControlEnd) {
        let (control_of_worker, control) = rings();
        let worker = Worker::new(Parts {
            links,
            snapshots,
            memory: self.memory(worker),
            fragments: Fragments::new(64, [9, 10]),
            control: control_of_worker,
            colleagues,
            counters: self.counters[worker].clone(),
            random: 0,
        });
        (worker, control)
    }
}

/// A whole worker with both its wires, and the other ends of what it meets.
pub struct TestWorker {
    pub(crate) worker: Worker<TestLink>,
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

/// When tests begin.
const BEGINNING: Duration = Duration::from_secs(10);

impl TestWorker {
    /// A worker with these services; see [`snapshot`] for the notation.
    pub fn serving(services: &str) -> Self {
        Self::with(snapshot(services), 1_024)
    }

    /// A worker with this configuration, and room for so many flows of each family.
    pub fn with(snapshot: Snapshot, flows: usize) -> Self {
        Self::crew(snapshot, flows, 1).remove(0)
    }

    /// Several workers with this configuration that know each other. Only the first publishes.
    pub fn crew(snapshot: Snapshot, flows: usize, workers: usize) -> Vec<Self> {
        let crew = Crew::new(workers, flows);
        let (publisher, readers) = publication(snapshot, workers);
        let mut publishers = vec![publisher];
        publishers.extend((1..workers).map(|_| publication(Snapshot::default(), 0).0));
        let alive: Rc<Cell<usize>> = Rc::default();
        let all = readers.into_iter().zip(colleagues(workers)).zip(publishers).enumerate();
        all.map(|(index, ((reader, colleagues), publisher))| {
            let cables: [Rc<RefCell<Cable>>; 2] = Default::default();
            let links = cables
                .iter()
                .map(|cable| TestLink { cable: Rc::clone(cable), alive: Rc::clone(&alive) })
                .collect();
            let (worker, control) = crew.worker(index, links, reader, colleagues);
            Self {
                worker,
                cables,
                alive: Rc::clone(&alive),
                counters: crew.counters[index].clone(),
                publisher,
                control,
                now: Moment::START.plus(BEGINNING),
            }
        })
        .collect()
    }

    /// Puts a frame on a wire and lets the worker take its turn.
    pub fn receives_on(&mut self, interface: InterfaceId, frame: &[u8]) {
        let frame = Plain::new(frame, &self.alive);
        self.cables[usize::from(interface.0)].borrow_mut().towards_us.push_back(frame);
        self.turn();
    }

    /// Puts frames on the wire that clients are on, all of them before the worker takes its turn.
    pub fn puts(&mut self, frames: &[Vec<u8>]) {
        let frames = frames.iter().map(|frame| Plain::new(frame, &self.alive));
        self.cables[usize::from(OUTSIDE.0)].borrow_mut().towards_us.extend(frames);
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

/// A configuration with two interfaces and these services, one a line:
/// `192.0.2.1:80 dr 10.0.0.7 10.0.0.8*3`, which is address (of IPv6: in brackets), port or `*`, `/udp` if it is,
/// mode (`dr`, `nat`, `snat`, `tun`, `gue`), options (`lc`, `wlc`, `sh`, `dh`, `maglev`, `ops`, `sticky`,
/// `hairpin`, `clamp`, `ftp`, `closed`, `page`, `half-open=9`), and servers with `:port`, `*weight`, `!` if they drain and
/// `!!` if they are halted.
pub fn snapshot(text: &str) -> Snapshot {
    let mut services = Services::new();
    let mut servers: Vec<Option<Server>> = Vec::new();
    let own: Set<Address> = [OUTSIDE, INSIDE].into_iter().flat_map(our_addresses).collect();
    let mut locals = own.clone();
    let mut neighbours: Neighbours = Neighbours::default();
    for gateway in [GATEWAY.into(), GATEWAY_V6.into()] {
        neighbours.insert((OUTSIDE, gateway), mac_of(gateway));
    }
    for (index, line) in text.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        let id = ServiceId::new(index as u16, 0);
        let mut words = line.split_whitespace();
        let (at, mode) = (words.next().expect("an address"), words.next().expect("a mode"));
        let (at, protocol) = match at.strip_suffix("/udp") {
            Some(at) => (at, Protocol::Udp),
            None => (at, Protocol::Tcp),
        };
        let (address, ports) = at.rsplit_once(':').expect("a port");
        let address = parse_address(address);
        let ports = match ports {
            "*" => (0, u16::MAX),
            port => (port.parse().expect("a port"), port.parse().expect("a port")),
        };
        let mut service = Service {
            id,
            scheduler: Scheduler::RoundRobin,
            candidates: Candidates::default(),
            table: Arc::new(Table::new(Size::Least, [])),
            persistence: None,
            hosts: Box::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            options: Options::default(),
        };
        let mut candidates = Vec::new();
        let mut hosts = Vec::new();
        for word in words {
            if option(word, &mut service) {
                continue;
            }
            let (server, admission) = match word.trim_end_matches('!') {
                server if word.ends_with("!!") => (server, Admission::Halted),
                server if word.ends_with('!') => (server, Admission::Draining),
                server => (server, Admission::Open),
            };
            if server.contains('*') && service.scheduler == Scheduler::RoundRobin {
                service.scheduler = Scheduler::WeightedRoundRobin;
            }
            let (server, weight) = server.split_once('*').unwrap_or((server, "1"));
            let weight: u16 = weight.parse().expect("a weight");
            let (server, port) = match server.rsplit_once(':') {
                Some((server, port)) if server.ends_with(']') || !server.contains(':') => {
                    (server, port.parse().ok())
                }
                _ => (server, None),
            };
            let address = parse_address(server);
            let server_id = ServerId::new(servers.len() as u16, 0);
            let own = our_address_for(INSIDE, address);
            let mode = match mode {
                "dr" => Mode::DirectReturn,
                "nat" => Mode::Nat { port },
                "snat" => Mode::Snat { port, sources: [own].into() },
                "tun" => Mode::Tunnel { source: own, encapsulation: Encapsulation::Ip },
                "gue" => Mode::Tunnel { source: own, encapsulation: Encapsulation::Gue(6080) },
                other => panic!("no mode {other}"),
            };
            match mode {
                Mode::Nat { .. } => {
                    services.expect_replies_from(address);
                    if service.options.hairpin {
                        services.expect_replies_to(own);
                    }
                }
                Mode::Snat { .. } => services.expect_replies_to(own),
                _ => {}
            }
            neighbours.insert((INSIDE, address), mac_of(address));
            let hop = Hop { interface: INSIDE, address, mac: Some(mac_of(address)) };
            let host = Host(servers.len() as u32 + 1);
            servers.push(Some(Server {
                id: server_id,
                service: id,
                address,
                mode,
                hop,
                admission,
                host,
                max_connections: 0,
                min_connections: 0,
            }));
            hosts.push((host, server_id));
            if admission == Admission::Open {
                candidates.push((server_id, weight));
            }
        }
        locals.insert(address);
        services.publish(address, protocol, ports, id);
        service.candidates = Candidates::new(candidates);
        let keys = service.candidates.servers().iter();
        let keys = keys.map(|&(server, weight)| (server.slot() as u64 + 1, weight));
        service.table = Arc::new(Table::new(Size::for_servers(hosts.len()), keys));
        service.hosts = hosts.into();
        services.insert(service);
    }
    let interface = |id: InterfaceId| Interface {
        port: PortId(id.0),
        vlan: None,
        mac: mac_of(our_address(id)),
        mtu: 1500,
        addresses: subnets(id).to_vec(),
        gateway: false,
    };
    let connected = |id: InterfaceId| {
        subnets(id).map(|subnet| Route { to: subnet.subnet(), interface: id, via: None })
    };
    let default =
        |via: Address| Route { to: Prefix::new(via, 0), interface: OUTSIDE, via: Some(via) };
    let routes = [default(GATEWAY.into()), default(GATEWAY_V6.into())];
    Snapshot {
        generation: 1,
        interfaces: [interface(OUTSIDE), interface(INSIDE)].into(),
        locals: Arc::new(locals),
        own: Arc::new(own),
        services: Arc::new(services),
        servers: servers.into(),
        routes: Arc::new(Routes::new(
            connected(OUTSIDE).into_iter().chain(connected(INSIDE)).chain(routes),
        )),
        neighbours: Arc::new(neighbours),
        nat: Arc::default(),
        answers: Answers::default(),
    }
}

fn parse_address(text: &str) -> Address {
    text.trim_matches(['[', ']']).parse().expect("an address")
}

/// Takes a word for an option of `service`, if it is one.
fn option(word: &str, service: &mut Service) -> bool {
    match word {
        "rr" => service.scheduler = Scheduler::RoundRobin,
        "wrr" => service.scheduler = Scheduler::WeightedRoundRobin,
        "lc" => service.scheduler = Scheduler::LeastConnection,
        "wlc" => service.scheduler = Scheduler::WeightedLeastConnection,
        "sh" => service.scheduler = Scheduler::SourceHash,
        "dh" => service.scheduler = Scheduler::DestinationHash,
        "maglev" => service.scheduler = Scheduler::Maglev,
        "ops" => service.scheduler = Scheduler::OnePacket,
        "sticky" => {
            service.persistence = Some(Persistent {
                group: 1 + service.id.slot() as u64,
                timeout: 300,
                mask_v4: 32,
                mask_v6: 128,
                through_drain: false,
            });
        }
        "hairpin" => service.options.hairpin = true,
        "clamp" => service.options.clamp_mss = true,
        "ftp" => service.options.ftp = true,
        "closed" => service.options.closed = true,
        "page" => service.options.page = true,
        _ => {
            let Some(number) = word.strip_prefix("half-open=") else { return false };
            service.limits.half_open = number.parse().expect("a number");
        }
    }
    true
}

/// Our addresses on an interface, with their subnets.
fn subnets(interface: InterfaceId) -> [Prefix; 2] {
    let length = if interface == OUTSIDE { 24 } else { 16 };
    let [v4, v6] = our_addresses(interface);
    [Prefix::new(v4, length), Prefix::new(v6, 64)]
}

/// Our addresses on an interface, of both families.
pub fn our_addresses(interface: InterfaceId) -> [Address; 2] {
    let v6 = if interface == OUTSIDE {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 2)
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 2)
    };
    [our_address(interface).into(), v6.into()]
}

/// Our address on an interface, of the family of `peer`.
pub fn our_address_for(interface: InterfaceId, peer: Address) -> Address {
    our_addresses(interface)[usize::from(!peer.is_v4())]
}

/// The station that leads everywhere but to the two subnets.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

/// The same for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0xfe);

/// Our own IPv4 address on an interface.
pub fn our_address(interface: InterfaceId) -> Ipv4Addr {
    if interface == OUTSIDE { Ipv4Addr::new(192, 0, 2, 2) } else { Ipv4Addr::new(10, 0, 0, 2) }
}
