//! The data plane against a model of it: random configurations, random sequences of packets, time and
//! changes. After each step both must agree on what was dropped and why, on what left, byte for byte, and on
//! how many flows each server has. In some sequences each packet is also asked about before: what
//! [`crate::explain`] says must come true, and change nothing.
//!
//! A case is an array of small numbers, each read as a choice in which 0 is the plainest, so that what
//! fails shrinks to a plain case. `SLUICE_SEQUENCES` says how many there are.

mod found;

mod model;

mod packet;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::test_runner::{TestCaseError, TestRunner};

use super::*;
use crate::explain::Decision;
use crate::lookup::scheduler::maglev::{Size, Table, digest_of_address, digest_of_flow};
use crate::punt::Copied;
use crate::snapshot::{
    Admission, Candidates, Encapsulation, Hop, Host, Limits, Masquerade, NatRules, Options,
    Persistence, Protocol, Server, ServerId, Service, ServiceId, Services, Set, Timeouts,
};
use crate::wire::{Address, Mac, Prefix};
use model::{Arrival, Choices, Mode, Model, Outcome, Part, Plan, Scheduler, Sent, State, Sticky};
use packet::{Body, Ip, TCP, UDP};

/// Sequences when nobody says otherwise.
const SEQUENCES: u32 = 5_000;
/// What a sequence is made of.
type Numbers = ([u8; 8], [[u8; 24]; 3], Vec<[u8; 12]>);

/// The same, in few words.
#[derive(Clone)]
struct Case(Numbers);

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (common, services, steps) = &self.0;
        writeln!(f, "{common:?}")?;
        services.iter().try_for_each(|it| writeln!(f, "{it:?}"))?;
        steps.iter().try_for_each(|it| writeln!(f, "{it:?}"))
    }
}

/// Numbers, read one after the other.
struct Draw<'a>(&'a [u8]);

impl Draw<'_> {
    fn next(&mut self) -> usize {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(first)
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// True once in so many times; not for 0.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn virtual_address(number: usize, v6: bool) -> IpAddr {
    ip(["192.0.2.100", "192.0.2.101", "2001:db8:0:1::100", "2001:db8:0:1::101"]
        [number + if v6 { 2 } else { 0 }])
}

fn server_address(host: usize, v6: bool) -> IpAddr {
    match v6 {
        false => IpAddr::V4([10, 0, 0, 10 + host as u8].into()),
        true => IpAddr::V6([0x2001, 0xdb8, 0, 2, 0, 0, 0, 0x10 + host as u16].into()),
    }
}

/// Clients: two behind the gateway, one outside, one inside, and a server.
fn client_address(number: usize, v6: bool) -> IpAddr {
    match (number, v6) {
        (0, false) => ip("198.51.100.1"),
        (1, false) => ip("198.51.100.2"),
        (2, false) => ip("192.0.2.77"),
        (3, false) => ip("10.0.0.78"),
        (0, true) => ip("2001:db8:9::1"),
        (1, true) => ip("2001:db8:9::2"),
        (2, true) => ip("2001:db8:0:1::77"),
        (3, true) => ip("2001:db8:0:2::78"),
        _ => server_address(0, v6),
    }
}

/// Everybody whose hardware address is known.
fn stations() -> Vec<(usize, IpAddr)> {
    let mut stations = Vec::new();
    for v6 in [false, true] {
        let like = server_address(0, v6);
        stations.push((model::OUTSIDE, model::gateway(like)));
        stations.push((model::INSIDE, model::pair_inside(like)));
        stations.extend((0..5).map(|host| (model::INSIDE, server_address(host, v6))));
        stations.extend([(model::OUTSIDE, client_address(2, v6))]);
        stations.extend([(model::INSIDE, client_address(3, v6))]);
        stations.push((model::OUTSIDE, nobody(v6)));
        stations.extend((0..2).map(|it| (model::OUTSIDE, virtual_address(it, v6))));
        stations.push((model::OUTSIDE, model::pair_outside(like)));
    }
    stations
}

/// A station outside that none of our addresses has to do with.
fn nobody(v6: bool) -> IpAddr {
    ip(if v6 { "2001:db8:0:1::200" } else { "192.0.2.200" })
}

/// Somebody on the Internet.
fn remote(v6: bool) -> IpAddr {
    ip(if v6 { "2001:db8:77::5" } else { "203.0.113.5" })
}

// ---------------------------------------------------------------------------- configurations

fn plan(common: &[u8; 8], services: &[[u8; 24]; 3]) -> Plan {
    let mut draw = Draw(common);
    let mut plan = Plan {
        services: Vec::new(),
        gateway: draw.once_in(2),
        masquerade: draw.once_in(2),
        pair: draw.once_in(3),
        vlan: draw.once_in(3).then_some(5),
        shared_group: draw.once_in(3),
    };
    let number = draw.below(3) + 1;
    let mut next_slot = 0;
    for bytes in &services[..number] {
        let service = service(bytes, &mut next_slot, &plan);
        let overlaps = plan.services.iter().any(|other| {
            other.address == service.address
                && other.protocol == service.protocol
                && (other.port == service.port || other.port.is_none() || service.port.is_none())
        });
        if !overlaps {
            plan.services.push(service);
        }
    }
    plan
}

fn service(bytes: &[u8; 24], next_slot: &mut u16, plan: &Plan) -> model::Service {
    use Scheduler::*;
    let mut draw = Draw(bytes);
    let (number, v6) = (draw.below(2), draw.once_in(3));
    let protocol = draw.of(&[TCP, TCP, UDP]);
    let port = draw.of(&[Some(80), Some(8080), Some(80), None]);
    let scheduler = draw.of(&[Rr, Wrr, Lc, Wlc, Sh, Dh, Maglev, Ops]);
    let one_packet = plan.services.iter().any(|other| other.scheduler == Ops);
    let scheduler = match scheduler {
        Ops if protocol == TCP || port.is_none() || one_packet => Wrr,
        other => other,
    };
    let sticky = draw.once_in(3) && scheduler != Ops;
    let sticky = sticky.then(|| Sticky {
        timeout: draw.of(&[300, 20, 5]),
        masks: draw.of(&[[32, 128], [24, 64], [0, 0]]),
        through_drain: draw.once_in(3),
    });
    let (hairpin, closed) = (draw.once_in(2), draw.once_in(12));
    let page = draw.once_in(3);
    let mut service = model::Service {
        address: virtual_address(number, v6),
        protocol,
        port,
        scheduler,
        sticky,
        hairpin,
        closed,
        page,
        servers: Vec::new(),
    };
    for _ in 0..draw.of(&[1, 2, 3, 3, 2, 3, 3, 2, 3, 1, 2, 0]) {
        let host = draw.next();
        let mode = draw.next();
        let rest = draw.next();
        let server = server(host, mode, rest, *next_slot, &service);
        *next_slot += 1;
        if service.servers.iter().all(|other| other.address != server.address) {
            service.servers.push(server);
        }
    }
    service
}

fn server(host: usize, mode: usize, rest: usize, slot: u16, of: &model::Service) -> model::Server {
    let port = if mode / 5 % 2 == 1 { Some(8000) } else { None };
    let mode = match mode % 5 {
        0 => Mode::Dr,
        1 => Mode::Nat(port),
        2 if of.scheduler == Scheduler::Ops => Mode::Nat(port),
        2 => Mode::Snat(port),
        3 => Mode::Tun,
        _ => Mode::Gue,
    };
    let state = match rest % 16 {
        13 | 14 => State::Drained,
        15 => State::Halted,
        _ => State::Online,
    };
    let limits = match rest / 16 {
        12 | 13 => (1, 0),
        14 => (2, 0),
        15 => (3, 2),
        _ => (0, 0),
    };
    let weight = [1, 2, 3, 4, 6, 0][host / 5 % 6];
    let address = server_address(host % 5, of.address.is_ipv6());
    model::Server { slot, address, mode, weight, state, limits }
}

/// The same as the control plane would tell the workers.
fn published(plan: &Plan, generation: u64) -> Snapshot {
    let mut snapshot = snapshot("");
    let mut services = Services::new();
    let mut servers: Vec<Option<Server>> = vec![None; 64];
    let mut locals: Set<Address> = (*snapshot.locals).clone();
    for (index, service) in plan.services.iter().enumerate() {
        let id = ServiceId::new(index as u16, 0);
        let (address, protocol) = (Address::from(service.address), protocol(service.protocol));
        let ports = service.port.map_or((0, u16::MAX), |port| (port, port));
        services.publish(address, protocol, ports, id);
        locals.insert(address);
        let mut candidates = Vec::new();
        let mut hosts = Vec::new();
        for server in &service.servers {
            let id = (id, ServerId::new(server.slot, 0));
            let record = record(service, server, id, &mut services);
            if record.admission == Admission::Open {
                candidates.push((record.id, server.weight));
            }
            hosts.push((record.host, record.id));
            servers[usize::from(server.slot)] = Some(record);
        }
        hosts.sort();
        let candidates = Candidates::new(candidates);
        let keys = candidates.servers().iter();
        let keys = keys.map(|&(server, weight)| (server.slot() as u64 + 1, weight));
        let table = Arc::new(Table::new(Size::for_servers(hosts.len()), keys));
        let options = Options {
            hairpin: service.hairpin,
            closed: service.closed,
            page: service.page,
            ..Options::default()
        };
        services.insert(Service {
            id,
            scheduler: scheduler(service.scheduler),
            candidates,
            table,
            persistence: service.sticky.map(|sticky| Persistence {
                group: if plan.shared_group { 99 } else { index as u64 + 1 },
                timeout: sticky.timeout as u32,
                mask_v4: sticky.masks[0],
                mask_v6: sticky.masks[1],
                through_drain: sticky.through_drain,
            }),
            hosts: hosts.into(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            options,
        });
    }
    let likes = [ip("0.0.0.0"), ip("::")];
    if plan.pair {
        locals.extend(likes.map(|like| Address::from(model::pair_outside(like))));
    }
    if plan.masquerade {
        likes.iter().for_each(|&like| {
            services.expect_replies_to(model::own(model::OUTSIDE, like).into());
        });
    }
    snapshot.nat = Arc::new(nat(plan));
    let mut interfaces = snapshot.interfaces.to_vec();
    interfaces[0].vlan = plan.vlan;
    interfaces[1].gateway = plan.gateway;
    snapshot.interfaces = interfaces.into();
    let neighbours = stations().into_iter().map(|(wire, address)| {
        ((InterfaceId(wire as u8), Address::from(address)), mac_of(address))
    });
    snapshot.neighbours = Arc::new(neighbours.collect());
    snapshot.generation = generation;
    snapshot.locals = Arc::new(locals);
    snapshot.services = Arc::new(services);
    snapshot.servers = servers.into();
    snapshot
}

fn record(
    service: &model::Service,
    server: &model::Server,
    (of, id): (ServiceId, ServerId),
    services: &mut Services,
) -> Server {
    let address = Address::from(server.address);
    let own = Address::from(model::own(model::INSIDE, server.address));
    let tunnel = |encapsulation| crate::snapshot::Mode::Tunnel { source: own, encapsulation };
    let mode = match server.mode {
        Mode::Dr => crate::snapshot::Mode::DirectReturn,
        Mode::Nat(port) => {
            services.expect_replies_from(address);
            if service.hairpin {
                services.expect_replies_to(own);
            }
            if let (Scheduler::Ops, Some(published)) = (service.scheduler, service.port) {
                let from = (address, port.unwrap_or(published));
                let here = (Address::from(service.address), published);
                services.expect_one_packet_replies(from, protocol(service.protocol), here);
            }
            crate::snapshot::Mode::Nat { port }
        }
        Mode::Snat(port) => {
            services.expect_replies_to(own);
            crate::snapshot::Mode::Snat { port, sources: [own].into() }
        }
        Mode::Tun => tunnel(Encapsulation::Ip),
        Mode::Gue => tunnel(Encapsulation::Gue(6080)),
    };
    Server {
        id,
        service: of,
        address,
        mode,
        hop: Hop { interface: INSIDE, address, mac: Some(mac_of(address)) },
        admission: match server.state() {
            State::Online => Admission::Open,
            State::Drained => Admission::Draining,
            State::Halted => Admission::Halted,
        },
        host: Host(address.low()),
        max_connections: server.limits.0,
        min_connections: server.limits.1,
    }
}

fn nat(plan: &Plan) -> NatRules {
    let likes = [ip("0.0.0.0"), ip("::")];
    let pairs = likes.map(|like| {
        (Address::from(model::pair_inside(like)), Address::from(model::pair_outside(like)))
    });
    let masquerade = Masquerade {
        out: OUTSIDE,
        from: [("10.0.0.0", 16), ("2001:db8:0:2::", 64)]
            .map(|(network, length)| Prefix::new(ip(network).into(), length))
            .to_vec(),
        source: likes.map(|like| model::own(model::OUTSIDE, like).into()).to_vec(),
    };
    NatRules::new(
        pairs.into_iter().filter(|_| plan.pair),
        if plan.masquerade { vec![masquerade] } else { Vec::new() },
    )
}

fn protocol(number: u8) -> Protocol {
    match number {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => Protocol::Echo,
    }
}

fn scheduler(scheduler: Scheduler) -> crate::snapshot::Scheduler {
    use crate::snapshot::Scheduler as Published;
    match scheduler {
        Scheduler::Rr => Published::RoundRobin,
        Scheduler::Wrr => Published::WeightedRoundRobin,
        Scheduler::Lc => Published::LeastConnection,
        Scheduler::Wlc => Published::WeightedLeastConnection,
        Scheduler::Sh => Published::SourceHash,
        Scheduler::Dh => Published::DestinationHash,
        Scheduler::Maglev => Published::Maglev,
        Scheduler::Ops => Published::OnePacket,
    }
}

// ---------------------------------------------------------------------------- steps

/// One step of a sequence.
#[derive(Debug, Clone)]
enum Step {
    /// Frames come in, one after the other.
    Frames(Vec<Arrival>),
    /// Seconds pass.
    Time(u64),
    /// The operator changes something.
    Change(Plan),
}

/// What a sequence has been through.
struct Run<'t> {
    tally: &'t mut Tally,
    /// Whether every packet is asked about before it comes in.
    asks: bool,
    worker: TestWorker,
    model: Model,
    published: Snapshot,
    received: Vec<Arrival>,
    /// What was forwarded.
    sent: Vec<Sent>,
    next_slot: u16,
    steps: u16,
}

/// SYN, ACK, PSH, FIN, RST, SYN ACK, and what nobody sends.
const FLAGS: [u8; 24] = [
    0x02, 0x10, 0x18, 0x11, 0x10, 0x02, 0x04, 0x14, 0x12, 0x02, 0x10, 0x02, //
    0x02, 0x10, 0x18, 0x11, 0x10, 0x02, 0x02, 0x02, 0x12, 0x01, 0x03, 0x00,
];

/// How often what happened, so that nobody takes silence for agreement.
#[derive(Default)]
struct Tally {
    steps: u64,
    dropped: BTreeMap<&'static str, u64>,
    sent: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn note(&mut self, arrival: &Arrival, outcome: &Outcome) {
        self.steps += 1;
        if let Some(reason) = outcome.dropped {
            *self.dropped.entry(reason.name()).or_default() += 1;
        }
        for sent in &outcome.sent {
            let what = match (&sent.ip.body, &arrival.ip.body) {
                _ if outcome.dropped.is_some() => "answered",
                (Body::Other { protocol: 4 | 41, .. }, _) => "ip tunnel",
                (Body::Udp { ports: (_, 6080), .. }, _) => "gue tunnel",
                (Body::Error { .. }, Body::Error { .. }) if sent.ip == arrival.ip => "error",
                (Body::Error { .. }, _) => "error translated",
                _ if arrival.part != Part::Whole => "fragment",
                (Body::Echo { .. }, _) => "echo",
                _ if sent.ip == arrival.ip => "unchanged",
                _ if sent.ip.ports() == arrival.ip.ports()
                    && sent.ip.source == arrival.ip.source
                    && sent.ip.destination == arrival.ip.destination =>
                {
                    "aged"
                }
                _ if sent.ip.source == arrival.ip.source => "destination translated",
                _ if sent.ip.destination == arrival.ip.destination => "source translated",
                _ => "both translated",
            };
            *self.sent.entry(what).or_default() += 1;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} frames", self.steps)?;
        writeln!(f, "sent: {:?}", self.sent)?;
        write!(f, "dropped: {:?}", self.dropped)
    }
}

impl<'t> Run<'t> {
    fn new(plan: Plan, asks: bool, tally: &'t mut Tally) -> Self {
        let published = published(&plan, 1);
        let worker = TestWorker::with(published.clone(), 256);
        let model = Model::new(plan, worker.now.nanos() / 1_000_000_000);
        let (received, sent) = (Vec::new(), Vec::new());
        Self { tally, asks, worker, model, published, received, sent, next_slot: 16, steps: 0 }
    }

    fn step(&mut self, bytes: &[u8; 12]) -> Step {
        self.steps += 1;
        let mut draw = Draw(bytes);
        let frames = match draw.below(16) {
            0..=7 => self.of_client(&mut draw),
            8..=10 => self.back(&mut draw),
            11 => self.complaint(&mut draw),
            12 => self.outwards(&mut draw),
            13 => self.astray(&mut draw),
            14 => return Step::Time(draw.of(&[4, 6, 31, 121, 301, 901])),
            _ => return Step::Change(self.changed(&mut draw)),
        };
        Step::Frames(frames)
    }

    fn transport(&self, protocol: u8, ports: (u16, u16), draw: &mut Draw<'_>) -> Body {
        let (flags, size, odd) = (draw.of(&FLAGS), draw.next(), draw.next());
        let length = match size {
            0..=99 => 0,
            100..=239 => size % 40,
            _ => 1_400,
        };
        let payload: Vec<u8> = (0..length).map(|at| (at * 7 + size) as u8).collect();
        let skew = if odd % 32 == 31 { 0x0100 } else { 0 };
        match protocol {
            TCP => {
                let acknowledgement = if flags & 0x10 != 0 { 5_000 } else { 0 };
                let numbers = (1_000 + u32::from(self.steps), acknowledgement);
                Body::Tcp { ports, flags, numbers, window: 0x2000, payload, skew }
            }
            UDP => Body::Udp { ports, payload, skew: (odd % 32 != 30).then_some(skew) },
            _ => Body::Echo { is_reply: false, identifier: ports.0, payload },
        }
    }

    fn packet(&self, source: IpAddr, destination: IpAddr, body: Body, odd: usize) -> Ip {
        Ip {
            source,
            destination,
            hops: if odd % 16 == 15 { 1 } else { 64 },
            class: if odd % 8 == 7 { 0x28 } else { 0 },
            identification: self.steps,
            dont_fragment: odd % 4 != 3,
            body,
        }
    }

    fn arrival(&self, wire: usize, station: IpAddr, ip: Ip) -> Arrival {
        let tag = if wire == model::OUTSIDE { self.model.plan.vlan } else { None };
        Arrival { wire, for_us: true, tag, station, ip, part: Part::Whole, spoilt: false }
    }

    /// From wherever its sender is.
    fn coming(&self, ip: Ip) -> Arrival {
        let wire = model::wire_of(ip.source).unwrap_or(model::OUTSIDE);
        let station = match model::wire_of(ip.source) {
            Some(_) => ip.source,
            None => model::gateway(ip.source),
        };
        self.arrival(wire, station, ip)
    }

    /// A client's packet for a service, whole, in parts, or with something wrong.
    fn of_client(&self, draw: &mut Draw<'_>) -> Vec<Arrival> {
        let services = &self.model.plan.services;
        let service = &services[draw.below(services.len())];
        let v6 = service.address.is_ipv6();
        let client = client_address(draw.of(&[0, 1, 2, 3, 4, 0, 1]), v6);
        let ports = draw.next();
        let from = 40_000 + (ports % 3) as u16;
        let to = service.port.unwrap_or([80, 443][ports / 3 % 2]);
        let body = self.transport(service.protocol, (from, to), draw);
        let (odd, wrong) = (draw.next(), draw.next());
        let mut ip = self.packet(client, service.address, body, odd & !8); // with hops to go
        let parted = wrong % 24 == 20 || wrong % 24 == 21;
        if parted {
            (ip.dont_fragment, ip.hops) = (false, 64);
            self.lengthen(&mut ip);
        }
        let mut arrival = self.coming(ip);
        match wrong % 24 {
            15 => arrival.spoilt = true,
            16 => arrival.for_us = false,
            17 => arrival.tag = if arrival.tag.is_some() { None } else { Some(9) },
            18 => arrival.wire = 1 - arrival.wire,
            19 => arrival.ip.hops = 1,
            20 => {
                let later = Arrival { part: Part::Later, ..arrival.clone() };
                return vec![Arrival { part: Part::First, ..arrival }, later];
            }
            21 => return vec![Arrival { part: Part::Later, ..arrival }],
            _ => {}
        }
        if arrival.wire == model::INSIDE && arrival.tag.is_some() && wrong % 24 != 17 {
            arrival.tag = None;
        }
        vec![arrival]
    }

    /// Makes sure that there is enough for two fragments.
    fn lengthen(&self, ip: &mut Ip) {
        if let Body::Tcp { payload, .. } | Body::Udp { payload, .. } = &mut ip.body {
            payload.resize(48, 0x5a);
        }
    }

    /// The answer to something that was forwarded.
    fn back(&self, draw: &mut Draw<'_>) -> Vec<Arrival> {
        if self.sent.is_empty() {
            return self.of_client(draw);
        }
        let sent = &self.sent[self.sent.len() - 1 - draw.below(self.sent.len())];
        let (from, to) = sent.ip.ports();
        let body = match &sent.ip.body {
            Body::Echo { is_reply, identifier, payload } => {
                let (is_reply, identifier) = (!is_reply, *identifier);
                Body::Echo { is_reply, identifier, payload: payload.clone() }
            }
            Body::Other { protocol, .. } => {
                Body::Other { protocol: *protocol, payload: vec![1, 2, 3, 4] }
            }
            Body::Error { .. } => return self.of_client(draw),
            _ => self.transport(sent.ip.protocol(), (to, from), draw),
        };
        let (odd, wrong) = (draw.next(), draw.next());
        let ip = self.packet(sent.ip.destination, sent.ip.source, body, odd);
        let mut arrival = self.arrival(sent.wire, sent.to, ip);
        if wrong % 24 == 23 {
            arrival = self.arrival(1 - sent.wire, sent.to, arrival.ip);
        }
        vec![arrival]
    }

    /// An ICMP error about something that was forwarded, or about what a server sent straight to its client.
    fn complaint(&self, draw: &mut Draw<'_>) -> Vec<Arrival> {
        let about_reply = draw.once_in(2);
        let back = draw.next();
        let (quoted, wire, station) = if about_reply {
            let received = self.received.iter().rev().filter(|it| {
                it.part == Part::Whole && matches!(it.ip.body, Body::Tcp { .. } | Body::Udp { .. })
            });
            let Some(it) = received.clone().nth(back % received.clone().count().max(1)) else {
                return self.of_client(draw);
            };
            let (from, to) = it.ip.ports();
            let quoted = it.ip.between((it.ip.destination, to), (it.ip.source, from));
            let swapped = match quoted.body.clone() {
                Body::Tcp { ports, numbers, window, payload, .. } => {
                    Body::Tcp { ports, flags: 0x10, numbers, window, payload, skew: 0 }
                }
                other => other,
            };
            (Ip { body: swapped, ..quoted }, it.wire, it.station)
        } else {
            let sent =
                self.sent.iter().rev().filter(|it| {
                    it.part == Part::Whole && !matches!(it.ip.body, Body::Error { .. })
                });
            let Some(it) = sent.clone().nth(back % sent.clone().count().max(1)) else {
                return self.of_client(draw);
            };
            (it.ip.clone(), it.wire, it.to)
        };
        let v6 = quoted.destination.is_ipv6();
        let by = match draw.below(2) {
            0 => quoted.destination,
            _ if wire == model::INSIDE => client_address(3, v6),
            _ => remote(v6),
        };
        let (kind, code, word) = match v6 {
            false => draw.of(&[(3, 3, 0), (11, 0, 0), (3, 4, 1_400)]),
            true => draw.of(&[(1, 4, 0), (3, 0, 0), (2, 0, 1_400)]),
        };
        let header = if v6 { 40 } else { 20 };
        let kept = draw.of(&[header + 8, header + 20, 520]).min(quoted.length());
        let destination = quoted.source;
        let body = Body::Error { kind, code, word, quoted: Box::new(quoted), kept };
        let ip = self.packet(by, destination, body, draw.next() & !8);
        vec![self.arrival(wire, station, ip)]
    }

    /// A station behind us reaches out.
    fn outwards(&self, draw: &mut Draw<'_>) -> Vec<Arrival> {
        let v6 = draw.once_in(3);
        let like = server_address(0, v6);
        let from = match draw.below(3) {
            0 => client_address(3, v6),
            1 => model::pair_inside(like),
            _ => server_address(0, v6),
        };
        let to = draw.of(&[remote(v6), nobody(v6), client_address(3, v6)]);
        let choice = draw.next();
        let port = 50_000 + (choice / 4 % 2) as u16;
        let body = match choice % 4 {
            0 => self.transport(TCP, (port, 443), draw),
            1 => self.transport(UDP, (port, 53), draw),
            2 => self.transport(0, (port, 0), draw),
            _ => Body::Other { protocol: 47, payload: vec![0; 12] },
        };
        let ip = self.packet(from, to, body, draw.next());
        vec![self.coming(ip)]
    }

    /// Packets that are for nobody here, and from nobody who could send them.
    fn astray(&self, draw: &mut Draw<'_>) -> Vec<Arrival> {
        let v6 = draw.once_in(3);
        let kind = draw.below(18);
        if kind >= 16 {
            return vec![self.about_our_own(draw)];
        }
        let like = server_address(0, v6);
        let client = client_address(0, v6);
        let (source, destination, port, protocol) = match kind {
            0 => (client, virtual_address(0, v6), 9, TCP),
            1 => (client, nobody(v6), 80, TCP),
            2 => (client, server_address(0, v6), 80, TCP),
            3 => (model::own(model::INSIDE, like), virtual_address(0, v6), 80, TCP),
            4 => (virtual_address(1, v6), virtual_address(0, v6), 80, TCP),
            5 => (client, client, 80, TCP),
            6 => (ip(if v6 { "ff02::1" } else { "224.0.0.9" }), virtual_address(0, v6), 80, TCP),
            7 => (client, virtual_address(0, v6), 0, 0),
            8 => (client, model::pair_outside(like), 25, TCP),
            9 => (client, model::pair_outside(like), 0, 0),
            10 => (server_address(0, v6), model::own(model::INSIDE, like), 20_000, TCP),
            11 => (client, model::own(model::OUTSIDE, like), 20_000, UDP),
            12 => (client, model::own(model::OUTSIDE, like), 22, TCP),
            13 => (server_address(0, v6), model::own(model::INSIDE, like), 16_383, UDP),
            14 => (virtual_address(0, v6), model::own(model::INSIDE, like), 7_777, TCP),
            _ => (model::own(model::OUTSIDE, like), model::own(model::INSIDE, like), 22, UDP),
        };
        let body = match (protocol, draw.once_in(6)) {
            (_, true) => Body::Other { protocol: 47, payload: vec![0; 12] },
            (protocol, _) => self.transport(protocol, (40_000, port), draw),
        };
        let ip = self.packet(source, destination, body, draw.next());
        let mut arrival = self.coming(ip);
        if kind >= 12 && draw.once_in(3) {
            arrival = self.arrival(1 - arrival.wire, arrival.station, arrival.ip);
        }
        vec![arrival]
    }

    /// An ICMP error about a packet that the control plane sent, or that looks like one.
    fn about_our_own(&self, draw: &mut Draw<'_>) -> Arrival {
        let v6 = draw.once_in(3);
        let server = server_address(0, v6);
        let port = draw.of(&[7_777, 7_777, 20_000]);
        let protocol = draw.of(&[TCP, UDP, 0]);
        let body = self.transport(protocol, (port, 80), draw);
        let own = model::own(model::INSIDE, server);
        let quoted = self.packet(own, server, body, 0);
        let (kind, code) = if v6 { (1, 3) } else { (3, 1) };
        let kept = quoted.length().min(64);
        let body = Body::Error { kind, code, word: 0, quoted: Box::new(quoted), kept };
        let to = draw.of(&[own, own, own, virtual_address(0, v6)]);
        self.arrival(model::INSIDE, server, self.packet(server, to, body, 0))
    }

    fn changed(&mut self, draw: &mut Draw<'_>) -> Plan {
        let mut plan = self.model.plan.clone();
        let number = draw.below(plan.services.len());
        let service = &mut plan.services[number];
        let (what, which, how) = (draw.below(6), draw.next(), draw.next());
        if what == 5 {
            service.closed = !service.closed;
            return plan;
        }
        if what == 4 || service.servers.is_empty() {
            let server = server(which, how, draw.next(), self.next_slot, service);
            self.next_slot += 1;
            if service.servers.iter().all(|other| other.address != server.address) {
                service.servers.push(server);
            }
            return plan;
        }
        let index = which % service.servers.len();
        let server = &mut service.servers[index];
        match what {
            0 => server.weight = [1, 2, 3, 0][how % 4],
            1 => server.state = [State::Drained, State::Online, State::Halted][how % 3],
            2 => server.state = [State::Halted, State::Online][how % 2],
            _ => drop(service.servers.remove(index)),
        }
        plan
    }
}

// ---------------------------------------------------------------------------- comparison

/// What was seen of the data plane.
#[derive(Default)]
struct Observed {
    dropped: Vec<Reason>,
    punted: u64,
    /// By wire.
    frames: [Vec<Vec<u8>>; 2],
}

impl Run<'_> {
    /// Takes a step with both; an error says where they differ.
    fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Frames(arrivals) => arrivals.iter().try_for_each(|it| self.receive(it))?,
            Step::Time(seconds) => {
                self.worker.passes(Duration::from_secs(*seconds));
                self.model.time_passes(*seconds);
            }
            Step::Change(plan) => {
                self.published = published(plan, self.published.generation + 1);
                self.worker.publisher.publish(self.published.clone());
                self.worker.turn();
                self.model.changes(plan.clone());
            }
        }
        self.compare_books()
    }

    fn receive(&mut self, arrival: &Arrival) -> Result<(), String> {
        let frame = frame(arrival);
        // A frame that is asked about without a tag has lost it to the card.
        let untagged = arrival.tag.is_none() && self.model.plan.vlan.is_some();
        let told =
            if self.asks && !untagged { Some(self.told(&frame, arrival.wire)?) } else { None };
        let observed = self.observe(&frame, arrival.wire);
        let choices = observed.choices();
        let services = &self.published.services;
        let table = |service: usize, digest| {
            let service = services.service(ServiceId::new(service as u16, 0))?;
            service.table.at(digest).map(usize::from)
        };
        let of_flow = |service, from: (IpAddr, u16), to: (IpAddr, u16), protocol| {
            table(service, digest_of_flow(from.0.into(), from.1, to.0.into(), to.1, protocol))
        };
        let of_address = |service, it: IpAddr| table(service, digest_of_address(it.into()));
        let choices = Choices { of_flow: &of_flow, of_address: &of_address, ..choices };
        let outcome = self.model.receives(arrival, &choices);
        self.compare(arrival, &outcome, &observed)?;
        if let Some((dropped, leaving)) = told
            && (dropped != observed.dropped || leaving != outcome.sent.len())
        {
            return Err(format!("was told: dropped {dropped:?}, {leaving} packets leave"));
        }
        self.tally.note(arrival, &outcome);
        self.received.push(arrival.clone());
        // A later fragment does not show its ports, so nobody can answer it.
        if outcome.dropped.is_none() && arrival.part != Part::Later {
            self.sent.extend(outcome.sent);
        }
        Ok(())
    }

    /// What an explanation says before: drops, and how many packets leave. That nothing changes by it the
    /// model will see.
    fn told(&mut self, frame: &[u8], wire: usize) -> Result<(Vec<Reason>, usize), String> {
        let frame =
            Copied::of(InterfaceId(wire as u8), frame).ok_or("too long to be asked about")?;
        let control = &mut self.worker.control;
        control
            .commands
            .push(Command::Explain { question: 1, frame })
            .map_err(|it| it.to_string())?;
        self.worker.turn();
        let (mut dropped, mut leaving) = (Vec::new(), 0);
        while let Ok(event) = self.worker.control.events.pop() {
            match event {
                Event::Decided { decision: Decision::Dropped(reason), .. } => dropped.push(reason),
                Event::Decided { decision: Decision::Leaves { .. }, .. } => leaving += 1,
                Event::Explained { .. } => return Ok((dropped, leaving)),
                _ => {}
            }
        }
        Err("no last word".into())
    }

    fn observe(&mut self, frame: &[u8], wire: usize) -> Observed {
        let counters = self.worker.counters.clone();
        let before: [u64; crate::counters::REASONS] =
            std::array::from_fn(|index| counters.dropped(Reason::ALL[index]));
        let punted = counters.punted.get();
        self.worker.receives_on(InterfaceId(wire as u8), frame);
        let mut observed =
            Observed { punted: counters.punted.get() - punted, ..Observed::default() };
        for (&reason, before) in Reason::ALL.iter().zip(before) {
            for _ in before..counters.dropped(reason) {
                observed.dropped.push(reason);
            }
        }
        observed.frames = [OUTSIDE, INSIDE].map(|wire| self.worker.transmitted_on(wire));
        while self.worker.control.punted.pop().is_ok() {}
        observed
    }

    fn compare(
        &self,
        arrival: &Arrival,
        outcome: &Outcome,
        observed: &Observed,
    ) -> Result<(), String> {
        if observed.dropped != Vec::from_iter(outcome.dropped) {
            return Err(format!("dropped {:?}, not {:?}", observed.dropped, outcome.dropped));
        }
        if (observed.punted > 0) != outcome.punted {
            return Err(format!("punted: {}, not {}", observed.punted > 0, outcome.punted));
        }
        let mut expected: [Vec<Vec<u8>>; 2] = Default::default();
        for Sent { wire, to, ip, part } in &outcome.sent {
            let bytes = model::bytes_of(ip, *part);
            let packets = match bytes.len() > 1_500 {
                true => packet::parted(&bytes, 1_500).to_vec(),
                false => vec![bytes],
            };
            for packet in packets {
                expected[*wire].push(self.framed(*wire, mac_of(*to), &packet));
            }
        }
        for (wire, (expected, observed)) in expected.iter().zip(&observed.frames).enumerate() {
            if expected != observed {
                let [expected, observed] = [expected, observed].map(|frames| {
                    frames.iter().map(|frame| format!("\n  {}", Hex(frame))).collect::<String>()
                });
                return Err(format!("wire {wire}: sent{observed}\n not{expected}"));
            }
            observed.iter().try_for_each(|frame| checksums_are_right(frame, arrival))?;
        }
        Ok(())
    }

    fn framed(&self, wire: usize, to: Mac, packet: &[u8]) -> Vec<u8> {
        let from = mac_of(our_address(InterfaceId(wire as u8)));
        let tag = if wire == model::OUTSIDE { self.model.plan.vlan } else { None };
        ethernet_frame(to, from, tag, packet)
    }

    fn compare_books(&self) -> Result<(), String> {
        let counters = &self.worker.counters;
        if counters.imbalance() != 0 {
            return Err(format!("the books do not balance: {}", counters.imbalance()));
        }
        if self.worker.buffers_out() != 0 {
            return Err(format!("{} buffers are not back", self.worker.buffers_out()));
        }
        let flows = (counters.flows.get(), self.model.flows() as i64);
        if flows.0 != flows.1 {
            return Err(format!("{} flows, not {}", flows.0, flows.1));
        }
        for slot in 0..self.next_slot {
            let active = counters.server(ServerId::new(slot, 0)).active.get();
            let expected = i64::from(self.model.connections(slot));
            if active != expected {
                return Err(format!("server {slot} has {active} connections, not {expected}"));
            }
        }
        Ok(())
    }
}

impl Observed {
    /// What the data plane may choose, as far as it can be seen.
    fn choices(&self) -> Choices<'static> {
        let packets = self.frames.iter().flatten().map(|frame| {
            let header = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
            &frame[header..]
        });
        let (mut port, mut identification, mut gue_port) = (None, None, None);
        for packet in packets {
            let (protocol, at) = match (packet[0] >> 4, packet[6]) {
                (4, _) => (packet[9], 20),
                (_, 44) => (packet[40], 48),
                (_, other) => (other, 40),
            };
            let later = match packet[0] >> 4 {
                4 => u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0,
                _ => packet[6] == 44 && u16::from_be_bytes([packet[42], packet[43]]) & 0xfff8 != 0,
            };
            if packet[0] >> 4 == 4 {
                identification.get_or_insert(u16::from_be_bytes([packet[4], packet[5]]));
            }
            let number_at = match (protocol, packet.get(at)) {
                (6 | 17, _) => at,
                (1, Some(8)) | (58, Some(128)) => at + 4,
                // An error may quote a packet that came to a port of ours.
                (1, Some(3 | 11)) => at + 30,
                (58, Some(1..=4)) => at + 50,
                _ => continue,
            };
            let to_us = match number_at - at {
                30 => is_own(&packet[at + 24..at + 28]),
                50 => is_own(&packet[at + 32..at + 48]),
                _ => is_own(if at == 20 { &packet[12..16] } else { &packet[8..24] }),
            };
            if to_us && !later {
                let number = u16::from_be_bytes([packet[number_at], packet[number_at + 1]]);
                port.get_or_insert(number);
                gue_port.get_or_insert(number);
            }
        }
        Choices {
            port,
            identification,
            gue_port,
            of_flow: &|_, _, _, _| None,
            of_address: &|_, _| None,
        }
    }
}

/// Whether these bytes are an address of ours.
fn is_own(address: &[u8]) -> bool {
    let address = match (address.first_chunk::<4>(), address.first_chunk::<16>()) {
        (_, Some(address)) => IpAddr::from(*address),
        (Some(address), None) => IpAddr::from(*address),
        other => panic!("{other:?}"),
    };
    [model::OUTSIDE, model::INSIDE].into_iter().any(|wire| model::own(wire, address) == address)
}

fn frame(arrival: &Arrival) -> Vec<u8> {
    let mut packet = arrival.bytes();
    if arrival.spoilt && arrival.ip.is_v4() {
        packet[10] ^= 0x55;
    }
    let ours = mac_of(our_address(InterfaceId(arrival.wire as u8)));
    let to = if arrival.for_us { ours } else { Mac([2, 9, 9, 9, 9, 9]) };
    ethernet_frame(to, mac_of(arrival.station), arrival.tag, &packet)
}

fn ethernet_frame(to: Mac, from: Mac, tag: Option<u16>, packet: &[u8]) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    if let Some(tag) = tag {
        frame.extend([0x81, 0]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    frame.extend(packet);
    frame
}

/// What etherparse has to say of a frame that left.
fn checksums_are_right(frame: &[u8], arrival: &Arrival) -> Result<(), String> {
    let skewed = match arrival.ip.body {
        Body::Tcp { skew, .. } => skew != 0,
        Body::Udp { skew, .. } => skew != Some(0),
        _ => false,
    };
    if skewed || arrival.part != Part::Whole {
        return Ok(()); // was wrong, stays wrong
    }
    let packet = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    let (ip_is_right, ends) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            if ip.is_payload_fragmented() {
                return Ok(());
            }
            (header.header_checksum == header.calc_header_checksum(), (Some(header), None))
        }
        Some(NetSlice::Ipv6(ip)) => (true, (None, Some(ip.header().to_header()))),
        other => return Err(format!("{other:?}")),
    };
    let right = match (packet.transport, ends) {
        (Some(TransportSlice::Tcp(tcp)), (Some(ip), _)) => {
            Ok(tcp.checksum()) == tcp.calc_checksum_ipv4(ip.source, ip.destination)
        }
        (Some(TransportSlice::Tcp(tcp)), (_, Some(ip))) => {
            Ok(tcp.checksum()) == tcp.calc_checksum_ipv6(ip.source, ip.destination)
        }
        (Some(TransportSlice::Udp(udp)), (Some(ip), _)) => {
            let sum = udp.to_header().calc_checksum_ipv4(&ip, udp.payload());
            udp.checksum() == 0 || Ok(udp.checksum()) == sum
        }
        (Some(TransportSlice::Udp(udp)), (_, Some(ip))) => {
            Ok(udp.checksum()) == udp.to_header().calc_checksum_ipv6(&ip, udp.payload())
        }
        (Some(TransportSlice::Icmpv4(icmp)), _) => {
            icmp.checksum() == icmp.icmp_type().calc_checksum(icmp.payload())
        }
        (Some(TransportSlice::Icmpv6(icmp)), (_, Some(ip))) => {
            icmp.is_checksum_valid(ip.source, ip.destination)
        }
        _ => true,
    };
    match ip_is_right && right {
        true => Ok(()),
        false => Err(format!("a checksum is wrong in {}", Hex(frame))),
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.chunks(2).take(48);
        words.into_iter().try_for_each(|word| {
            word.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            f.write_str(" ")
        })?;
        if self.0.len() > 96 { write!(f, "... {} bytes", self.0.len()) } else { Ok(()) }
    }
}

/// Runs a sequence; an error tells it in full.
fn run(case: &Case, tally: &mut Tally) -> Result<(), String> {
    let Case((common, services, steps)) = case;
    let plan = plan(common, services);
    let mut told = format!("{plan:?}\n");
    let asks = common[7] % 8 == 7;
    let mut run = Run::new(plan, asks, tally);
    for bytes in steps {
        let step = run.step(bytes);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.take(&step)));
        let result = result.unwrap_or_else(|_| Err("a panic".into()));
        if let Err(difference) = result {
            for earlier in steps.iter().take_while(|it| !std::ptr::eq(*it, bytes)) {
                told += &format!("{earlier:?}\n");
            }
            return Err(format!("{told}{step:?}\n{difference}"));
        }
    }
    Ok(())
}

fn sequences() -> u32 {
    let told = std::env::var("SLUICE_SEQUENCES").ok().and_then(|number| number.parse().ok());
    told.unwrap_or(SEQUENCES)
}

#[test]
fn the_data_plane_does_what_the_model_does() {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: sequences(),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    });
    let steps = prop::collection::vec(any::<[u8; 12]>(), 5..40);
    let cases = (any::<[u8; 8]>(), any::<[[u8; 24]; 3]>(), steps).prop_map(Case);
    let tally = RefCell::new(Tally::default());
    let result =
        runner.run(&cases, |case| run(&case, &mut tally.borrow_mut()).map_err(TestCaseError::fail));
    if let Err(failure) = result {
        panic!("{failure}");
    }
    let tally = tally.borrow();
    eprintln!("{tally}");
    if sequences() >= SEQUENCES {
        assert!(tally.sent.len() == 12 && tally.dropped.len() >= 20, "too little happened");
    }
}
