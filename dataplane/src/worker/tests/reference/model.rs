//! What the data plane should do, written down a second time: from the specification, with lists that are
//! searched from end to end, and without a thought of speed. It shares no code with the data plane but the
//! names of drop reasons and the answers of the Maglev tables, which have tests of their own.

use std::collections::HashMap;
use std::net::IpAddr;

use super::packet::{Body, Ip, TCP, UDP};
use crate::counters::Reason;

pub const OUTSIDE: usize = 0;
pub const INSIDE: usize = 1;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The configuration, as an operator would say it.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub services: Vec<Service>,
    /// Whether inside stations may use us as their gateway.
    pub gateway: bool,
    /// Whether inside stations leave with our outside address.
    pub masquerade: bool,
    /// Whether the inside station has an outside address of its own.
    pub pair: bool,
    /// The tag of frames outside.
    pub vlan: Option<u16>,
    /// Where the sticky services keep their clients: together, or each for itself.
    pub shared_group: bool,
}

#[derive(Debug, Clone)]
pub struct Service {
    pub address: IpAddr,
    pub protocol: u8,
    /// `None`: all.
    pub port: Option<u16>,
    pub scheduler: Scheduler,
    pub sticky: Option<Sticky>,
    pub hairpin: bool,
    pub closed: bool,
    /// Whether TCP connections are ours where no server takes them.
    pub page: bool,
    pub servers: Vec<Server>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduler {
    Rr,
    Wrr,
    Lc,
    Wlc,
    Sh,
    Dh,
    Maglev,
    Ops,
}

#[derive(Debug, Clone, Copy)]
pub struct Sticky {
    pub timeout: u64,
    /// Bits of the client's address that count, by family.
    pub masks: [u8; 2],
    pub through_drain: bool,
}

#[derive(Debug, Clone)]
pub struct Server {
    /// Never given to another.
    pub slot: u16,
    pub address: IpAddr,
    pub mode: Mode,
    pub weight: u16,
    pub state: State,
    /// Connections at most, and when it takes more again; 0 is no limit.
    pub limits: (u32, u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Dr,
    Nat(Option<u16>),
    Snat(Option<u16>),
    Tun,
    Gue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Online,
    Drained,
    Halted,
}

impl Server {
    /// Weight 0 is another way to say that it drains.
    pub fn state(&self) -> State {
        if self.weight == 0 && self.state == State::Online { State::Drained } else { self.state }
    }
}

impl Service {
    /// Who takes new flows: the heaviest first, else in the operator's order.
    pub fn candidates(&self) -> Vec<&Server> {
        let open = |server: &&Server| server.state() == State::Online;
        let mut candidates: Vec<_> = self.servers.iter().filter(open).collect();
        candidates.sort_by_key(|server| std::cmp::Reverse(server.weight));
        candidates
    }
}

impl Plan {
    fn server(&self, slot: u16) -> Option<(usize, &Server)> {
        self.services.iter().enumerate().find_map(|(index, service)| {
            Some((index, service.servers.iter().find(|server| server.slot == slot)?))
        })
    }

    fn service_at(&self, address: IpAddr, protocol: u8, port: u16) -> Option<usize> {
        let has = |service: &&Service, exactly: bool| {
            service.address == address
                && service.protocol == protocol
                && (if exactly { service.port == Some(port) } else { service.port.is_none() })
        };
        [true, false]
            .into_iter()
            .find_map(|exactly| self.services.iter().position(|service| has(&service, exactly)))
    }

    /// Whether the address is of a server whose replies we translate back.
    fn is_nat_server(&self, address: IpAddr) -> bool {
        self.services
            .iter()
            .flat_map(|service| &service.servers)
            .any(|server| server.address == address && matches!(server.mode, Mode::Nat(_)))
    }

    /// Whether translated flows leave with this address of ours.
    fn is_source(&self, address: IpAddr) -> bool {
        let inside = self.services.iter().any(|service| {
            service.servers.iter().any(|server| match server.mode {
                Mode::Snat(_) => own(INSIDE, server.address) == address,
                Mode::Nat(_) => service.hairpin && own(INSIDE, server.address) == address,
                _ => false,
            })
        });
        inside || (self.masquerade && address == own(OUTSIDE, address))
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        is_own(address)
            || self.services.iter().any(|service| service.address == address)
            || (self.pair && address == pair_outside(address))
    }
}

/// Our own address on a wire, of the family of `like`.
pub fn own(wire: usize, like: IpAddr) -> IpAddr {
    match (wire, like.is_ipv4()) {
        (OUTSIDE, true) => "192.0.2.2",
        (OUTSIDE, false) => "2001:db8:0:1::2",
        (_, true) => "10.0.0.2",
        (_, false) => "2001:db8:0:2::2",
    }
    .parse()
    .unwrap()
}

fn is_own(address: IpAddr) -> bool {
    [OUTSIDE, INSIDE].into_iter().any(|wire| own(wire, address) == address)
}

/// The inside station that may have an outside address of its own.
pub fn pair_inside(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { "10.0.0.77" } else { "2001:db8:0:2::77" }.parse().unwrap()
}

/// That address.
pub fn pair_outside(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { "192.0.2.150" } else { "2001:db8:0:1::150" }.parse().unwrap()
}

/// The wire that an address is connected to; `None` if it is behind a gateway.
pub fn wire_of(address: IpAddr) -> Option<usize> {
    match address {
        IpAddr::V4(address) => match address.octets() {
            [192, 0, 2, _] => Some(OUTSIDE),
            [10, 0, _, _] => Some(INSIDE),
            _ => None,
        },
        IpAddr::V6(address) => match address.segments() {
            [0x2001, 0xdb8, 0, 1, ..] => Some(OUTSIDE),
            [0x2001, 0xdb8, 0, 2, ..] => Some(INSIDE),
            _ => None,
        },
    }
}

/// The wire and the next station on the way to an address.
fn way_to(address: IpAddr) -> (usize, IpAddr) {
    match wire_of(address) {
        Some(wire) => (wire, address),
        None => (OUTSIDE, gateway(address)),
    }
}

pub fn gateway(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { "192.0.2.254" } else { "2001:db8:0:1::fe" }.parse().unwrap()
}

/// A frame that comes in.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub wire: usize,
    /// Whether it is for our hardware address.
    pub for_us: bool,
    pub tag: Option<u16>,
    /// The station that sent it, by its address.
    pub station: IpAddr,
    pub ip: Ip,
    pub part: Part,
    /// Whether the IPv4 header's checksum is wrong.
    pub spoilt: bool,
}

/// Which part of `ip` a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    First,
    Later,
}

/// Where datagrams are parted.
pub const FIRST: usize = 32;

impl Arrival {
    pub fn bytes(&self) -> Vec<u8> {
        bytes_of(&self.ip, self.part)
    }
}

pub fn bytes_of(ip: &Ip, part: Part) -> Vec<u8> {
    match part {
        Part::Whole => ip.bytes(),
        Part::First => ip.fragments(FIRST)[0].clone(),
        Part::Later => ip.fragments(FIRST)[1].clone(),
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    pub dropped: Option<Reason>,
    pub punted: bool,
    pub sent: Vec<Sent>,
}

/// A packet that leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    pub wire: usize,
    /// Whose hardware address it has.
    pub to: IpAddr,
    pub ip: Ip,
    pub part: Part,
}

/// A connection that is remembered.
#[derive(Debug, Clone)]
struct Flow {
    protocol: u8,
    client: (IpAddr, u16),
    destination: (IpAddr, u16),
    /// How it leaves if it is translated: from whom, to whom.
    translated: Option<((IpAddr, u16), (IpAddr, u16))>,
    /// The slot of its server, if it has one.
    server: Option<u16>,
    progress: Progress,
    last_seen: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    HalfOpen,
    Established,
    Closing,
    Datagrams,
}

impl Progress {
    /// Seconds without a packet after which it is forgotten.
    fn timeout(self) -> u64 {
        match self {
            Self::HalfOpen => 30,
            Self::Established => 900,
            Self::Closing => 120,
            Self::Datagrams => 300,
        }
    }
}

/// The scheduler's memory of a service.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    next: usize,
    level: u16,
}

/// Everything that is remembered.
pub struct Model {
    pub plan: Plan,
    flows: Vec<Flow>,
    stays: HashMap<(usize, IpAddr), (IpAddr, u64)>,
    turns: HashMap<usize, Turn>,
    /// Servers that were full and have not come below their minimum since.
    full: Vec<u16>,
    datagrams: Vec<(IpAddr, IpAddr, u8, u16)>,
    pub now: u64,
}

/// What the model asks of the test: what is left to the data plane's choice, and the Maglev tables.
pub struct Choices<'a> {
    /// The port of ours that the packet left with, if that can be seen; of an echo, the identifier.
    pub port: Option<u16>,
    /// The outer header's identification, or GUE's source port, if there is one.
    pub identification: Option<u16>,
    pub gue_port: Option<u16>,
    /// By service: the position among its candidates that belongs to a flow, or to an address.
    #[expect(clippy::type_complexity, reason = "it is said once")]
    pub of_flow: &'a dyn Fn(usize, (IpAddr, u16), (IpAddr, u16), u8) -> Option<usize>,
    pub of_address: &'a dyn Fn(usize, IpAddr) -> Option<usize>,
}

type Done<T> = Result<T, Reason>;

impl Model {
    pub fn new(plan: Plan, now: u64) -> Self {
        Self {
            plan,
            flows: Vec::new(),
            stays: HashMap::new(),
            turns: HashMap::new(),
            full: Vec::new(),
            datagrams: Vec::new(),
            now,
        }
    }

    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// How many flows go to a server, but for those that are closing.
    pub fn connections(&self, slot: u16) -> u32 {
        let counts = |flow: &&Flow| flow.server == Some(slot) && flow.progress != Progress::Closing;
        self.flows.iter().filter(counts).count() as u32
    }

    /// The operator has changed something.
    pub fn changes(&mut self, plan: Plan) {
        self.plan = plan;
        self.note_full();
    }

    /// Time passes, at least so much that everything is looked at.
    pub fn time_passes(&mut self, seconds: u64) {
        self.now += seconds;
        let (plan, now) = (&self.plan, self.now);
        self.flows.retain(|flow| {
            now - flow.last_seen < flow.progress.timeout()
                && flow.server.is_none_or(|slot| plan.server(slot).is_some())
        });
        self.note_full();
    }

    /// What becomes of a frame.
    pub fn receives(&mut self, arrival: &Arrival, choices: &Choices<'_>) -> Outcome {
        let outcome = self
            .outcome(arrival, choices)
            .unwrap_or_else(|reason| Outcome { dropped: Some(reason), ..Outcome::default() });
        self.note_full();
        outcome
    }

    fn outcome(&mut self, arrival: &Arrival, choices: &Choices<'_>) -> Done<Outcome> {
        let expected = if arrival.wire == OUTSIDE { self.plan.vlan } else { None };
        if arrival.tag != expected {
            let reason = if arrival.tag.is_some() { Reason::Vlan } else { Reason::NoInterface };
            return Err(reason);
        }
        if !arrival.for_us {
            return Err(Reason::NotOurMac);
        }
        let ip = &arrival.ip;
        if arrival.spoilt && ip.is_v4() {
            return Err(Reason::BadChecksum);
        }
        if [ip.source, ip.destination].into_iter().any(|it| it.is_multicast() || it.is_loopback()) {
            return Err(Reason::BadSource);
        }
        if ip.source == ip.destination {
            return Err(Reason::Land);
        }
        if arrival.part != Part::Later && ip.protocol() == TCP && never_together(ip.flags()) {
            return Err(Reason::BadFlags);
        }
        self.parts(arrival)?;
        match &ip.body {
            Body::Error { quoted, .. } => self.error(arrival, quoted, choices),
            Body::Other { .. } => self.other(arrival),
            _ => self.packet(arrival, choices),
        }
    }

    /// A later fragment is worth something only if the first came before it.
    fn parts(&mut self, arrival: &Arrival) -> Done<()> {
        let ip = &arrival.ip;
        let protocol = if ip.is_v4() { ip.protocol() } else { 0 };
        let datagram = (ip.source, ip.destination, protocol, ip.identification);
        match arrival.part {
            Part::Whole => Ok(()),
            Part::First => {
                self.datagrams.push(datagram);
                Ok(())
            }
            Part::Later => {
                let known = self.datagrams.iter().position(|it| *it == datagram);
                self.datagrams.remove(known.ok_or(Reason::FragmentWithoutFirst)?);
                Ok(())
            }
        }
    }

    fn packet(&mut self, arrival: &Arrival, choices: &Choices<'_>) -> Done<Outcome> {
        let ip = &arrival.ip;
        let is_echo = matches!(ip.body, Body::Echo { .. });
        let (protocol, port) = (ip.protocol(), ip.ports().1);
        if let Some(service) = self.plan.service_at(ip.destination, protocol, port)
            && !is_echo
        {
            return self.for_service(arrival, service, choices);
        }
        if port >= 16_384 && self.plan.is_source(ip.destination) {
            return self.reply(arrival, choices);
        }
        if self.plan.pair && ip.destination == pair_outside(ip.destination) {
            return self.inward(arrival);
        }
        if self.plan.is_ours(ip.destination) {
            return match is_echo {
                true => Ok(for_control()),
                false => self.unclaimed(arrival),
            };
        }
        if self.plan.is_nat_server(ip.source) {
            return self.reply(arrival, choices);
        }
        self.through(arrival, choices)
    }

    /// Only our own addresses have anybody who listens, and only at ports that no translated flow leaves with.
    fn unclaimed(&self, arrival: &Arrival) -> Done<Outcome> {
        let ip = &arrival.ip;
        if !is_own(ip.destination) || ip.ports().1 >= 16_384 {
            return Err(Reason::NoService);
        }
        if is_own(ip.source) {
            return Err(Reason::BadSource);
        }
        let elsewhere = wire_of(ip.source).is_some_and(|connected| connected != arrival.wire);
        // A server may answer with a virtual address.
        if elsewhere && !self.plan.is_ours(ip.source) {
            return Err(Reason::SpoofedSource);
        }
        Ok(for_control())
    }

    fn for_service(
        &mut self,
        arrival: &Arrival,
        service: usize,
        choices: &Choices<'_>,
    ) -> Done<Outcome> {
        let ip = &arrival.ip;
        let known = self.flows.iter().position(|flow| {
            flow.protocol == ip.protocol()
                && flow.client == (ip.source, ip.ports().0)
                && flow.destination == (ip.destination, ip.ports().1)
        });
        let flags = if arrival.part == Part::Later { 0 } else { ip.flags() };
        let begins = ip.protocol() == TCP && flags & (SYN | ACK) == SYN;
        if let Some(index) = known {
            let flow = self.flows[index].clone();
            let server = flow.server.and_then(|slot| self.plan.server(slot));
            let server = server.filter(|&(of, _)| of == service).map(|(_, server)| server.clone());
            let over = begins && flow.progress == Progress::Closing;
            match server {
                Some(server) if !over && server.state() == State::Halted => {
                    let mut flow = flow;
                    if ip.protocol() == TCP && !begins {
                        self.see_port(&mut flow, choices);
                    }
                    self.flows.remove(index);
                    if ip.protocol() == TCP && !begins {
                        return Ok(reset(arrival, self.onward(&flow, &server)));
                    }
                }
                Some(server) if !over => {
                    let mut flow = flow;
                    self.see_port(&mut flow, choices);
                    self.flows[index] = Flow { last_seen: self.now, ..flow.clone() };
                    if ip.protocol() == TCP {
                        self.flows[index].progress = match flow.progress {
                            _ if flags & (FIN | RST) != 0 => Progress::Closing,
                            Progress::HalfOpen if flags & SYN == 0 => Progress::Established,
                            progress => progress,
                        };
                    }
                    return self.send(arrival, &flow, &server, choices);
                }
                _ => {
                    self.flows.remove(index);
                }
            }
        }
        self.new_flow(arrival, service, flags, begins, choices)
    }

    fn new_flow(
        &mut self,
        arrival: &Arrival,
        service: usize,
        flags: u8,
        begins: bool,
        choices: &Choices<'_>,
    ) -> Done<Outcome> {
        let ip = &arrival.ip;
        self.may_come_from(ip.source, arrival.wire)?;
        if self.has_page(service, ip) {
            return Ok(for_control());
        }
        let ends = ip.protocol() == TCP && flags & (FIN | RST) != 0;
        if ends {
            let server = self.without_memory(service, ip, choices).ok_or(Reason::NoServer)?;
            if matches!(server.mode, Mode::Snat(_)) {
                return Err(Reason::NoFlow);
            }
            return self.send(arrival, &self.flow(ip, &server), &server, choices);
        }
        if arrival.part == Part::Whole && !sum_is_right(ip) {
            return Err(Reason::BadTransportChecksum);
        }
        let in_mid_flow = ip.protocol() == TCP && !begins;
        if !in_mid_flow && self.plan.services[service].closed {
            return Err(Reason::ServiceClosed);
        }
        if self.plan.services[service].scheduler == Scheduler::Ops {
            let server = self.scheduled(service, ip, choices)?;
            return self.send(arrival, &self.flow(ip, &server), &server, choices);
        }
        for _ in 0..3 {
            let server = if in_mid_flow {
                self.without_memory(service, ip, choices).ok_or(Reason::NoServer)?
            } else {
                self.chosen(service, ip, choices)?
            };
            let mut flow = self.flow(ip, &server);
            if self.needs_a_port(service, &server, ip) {
                let (_, to) = flow.translated.expect("NAT or SNAT");
                flow.translated = Some(((own(INSIDE, server.address), UNSEEN), to));
                self.see_port(&mut flow, choices);
            }
            if self.is_taken(&flow) {
                let closing = self.flows.iter().position(|other| {
                    same_reply(other, &flow) && other.progress == Progress::Closing
                });
                match closing {
                    Some(closing) => drop(self.flows.remove(closing)),
                    None => continue,
                }
            }
            self.flows.push(flow.clone());
            return self.send(arrival, &flow, &server, choices);
        }
        Err(Reason::AmbiguousFlow)
    }

    fn has_page(&self, service: usize, ip: &Ip) -> bool {
        let it = &self.plan.services[service];
        it.page
            && !it.closed
            && it.protocol == TCP
            && it.candidates().is_empty()
            && self.had_before(service, ip).is_none()
    }

    /// A new flow of this packet to a server, that keeps its client's address.
    fn flow(&self, ip: &Ip, server: &Server) -> Flow {
        let (from, to) = ip.ports();
        let translated = match server.mode {
            Mode::Nat(port) | Mode::Snat(port) => {
                Some(((ip.source, from), (server.address, port.unwrap_or(to))))
            }
            _ => None,
        };
        Flow {
            protocol: ip.protocol(),
            client: (ip.source, from),
            destination: (ip.destination, to),
            translated,
            server: Some(server.slot),
            progress: if ip.protocol() == TCP { Progress::HalfOpen } else { Progress::Datagrams },
            last_seen: self.now,
        }
    }

    fn needs_a_port(&self, service: usize, server: &Server, ip: &Ip) -> bool {
        match server.mode {
            Mode::Snat(_) => true,
            Mode::Nat(_) => {
                self.plan.services[service].hairpin && self.plan.is_nat_server(ip.source)
            }
            _ => false,
        }
    }

    /// Which port of ours a flow leaves with is the data plane's choice, as long as it is free.
    fn see_port(&self, flow: &mut Flow, choices: &Choices<'_>) {
        if let (Some(((source, UNSEEN), to)), Some(port)) = (flow.translated, choices.port) {
            flow.translated = Some(((source, port), to));
            assert!(port >= 16_384, "port {port} is not for translated flows");
            assert!(!self.is_taken(flow), "port {port} is taken");
        }
    }

    /// Whether replies to `flow` could not be told from another's.
    fn is_taken(&self, flow: &Flow) -> bool {
        self.flows.iter().any(|other| same_reply(other, flow))
    }

    fn may_come_from(&self, source: IpAddr, wire: usize) -> Done<()> {
        if self.plan.is_ours(source) {
            return Err(Reason::BadSource);
        }
        if wire_of(source).is_some_and(|connected| connected != wire) {
            return Err(Reason::SpoofedSource);
        }
        Ok(())
    }

    /// The server for what is decided without memory: the one that the client had, or else the agreed one.
    fn without_memory(&self, service: usize, ip: &Ip, choices: &Choices<'_>) -> Option<Server> {
        self.had_before(service, ip).or_else(|| self.agreed(service, ip, choices))
    }

    /// The server that a client was sent to before, if it may have it again.
    fn had_before(&self, service: usize, ip: &Ip) -> Option<Server> {
        let it = &self.plan.services[service];
        let sticky = it.sticky?;
        let group = if self.plan.shared_group { usize::MAX } else { service };
        let key = (group, sticky.network(ip.source));
        let &(host, _) = self.stays.get(&key).filter(|&&(_, until)| self.now <= until)?;
        let server = it.servers.iter().find(|server| {
            server.address == host
                && match server.state() {
                    State::Online => self.has_room(server),
                    State::Drained => sticky.through_drain,
                    State::Halted => false,
                }
        });
        server.cloned()
    }

    /// The server that every node would choose.
    fn agreed(&self, service: usize, ip: &Ip, choices: &Choices<'_>) -> Option<Server> {
        let it = &self.plan.services[service];
        let position = match (it.scheduler, it.sticky) {
            (Scheduler::Dh, _) => (choices.of_address)(service, ip.destination),
            (_, Some(sticky)) => (choices.of_address)(service, sticky.network(ip.source)),
            (Scheduler::Sh, None) => (choices.of_address)(service, ip.source),
            _ => {
                let (from, to) = ip.ports();
                let (client, here) = ((ip.source, from), (ip.destination, to));
                (choices.of_flow)(service, client, here, ip.protocol())
            }
        };
        Some(it.candidates()[position?].clone())
    }

    fn chosen(&mut self, service: usize, ip: &Ip, choices: &Choices<'_>) -> Done<Server> {
        let it = self.plan.services[service].clone();
        let Some(sticky) = it.sticky else { return self.scheduled(service, ip, choices) };
        let group = if self.plan.shared_group { usize::MAX } else { service };
        let key = (group, sticky.network(ip.source));
        let server = match self.had_before(service, ip) {
            Some(server) => server,
            None => self.scheduled(service, ip, choices)?,
        };
        self.stays.insert(key, (server.address, self.now + sticky.timeout));
        Ok(server)
    }

    fn has_room(&self, server: &Server) -> bool {
        server.limits.0 == 0 || !self.full.contains(&server.slot)
    }

    /// A server is full from when it has its maximum until it has less than its minimum, or than its
    /// maximum if it has no minimum (VS-15).
    fn note_full(&mut self) {
        let servers = self.plan.services.iter().flat_map(|service| &service.servers);
        let mut full = Vec::new();
        for server in servers {
            let (most, least) = server.limits;
            let connections = self.connections(server.slot);
            let was_full = self.full.contains(&server.slot);
            let bound = if was_full && least > 0 { least } else { most };
            if most > 0 && connections >= bound {
                full.push(server.slot);
            }
        }
        self.full = full;
    }

    fn scheduled(&mut self, service: usize, ip: &Ip, choices: &Choices<'_>) -> Done<Server> {
        let it = self.plan.services[service].clone();
        let candidates = it.candidates();
        if candidates.is_empty() {
            return Err(Reason::NoServer);
        }
        for _ in 0..=candidates.len() {
            let server = match it.scheduler {
                Scheduler::Rr => self.round_robin(service, &candidates),
                Scheduler::Wrr | Scheduler::Ops => self.weighted(service, &candidates),
                Scheduler::Lc => self.least(service, &candidates, false),
                Scheduler::Wlc => self.least(service, &candidates, true),
                Scheduler::Sh | Scheduler::Dh | Scheduler::Maglev => {
                    self.agreed(service, ip, choices)
                }
            };
            let Some(server) = server else { break };
            if self.has_room(&server) {
                return Ok(server);
            }
        }
        let room = candidates.into_iter().find(|server| self.has_room(server));
        room.cloned().ok_or(Reason::ServersFull)
    }

    fn round_robin(&mut self, service: usize, candidates: &[&Server]) -> Option<Server> {
        let turn = self.turns.entry(service).or_default();
        let chosen = if turn.next < candidates.len() { turn.next } else { 0 };
        turn.next = chosen + 1;
        Some(candidates[chosen].clone())
    }

    /// As the Linux Virtual Server does it: in each round those of at least the round's weight, rounds
    /// going down from the greatest weight by the greatest common divisor of all.
    fn weighted(&mut self, service: usize, candidates: &[&Server]) -> Option<Server> {
        let weights: Vec<u16> = candidates.iter().map(|server| server.weight).collect();
        let greatest = *weights.iter().max()?;
        let divides = |by: &u16| weights.iter().all(|weight| weight % by == 0);
        let step = (1..=greatest).rev().find(divides)?;
        let turn = self.turns.entry(service).or_default();
        if turn.level == 0 || turn.level > greatest {
            *turn = Turn { next: 0, level: greatest };
        }
        loop {
            while turn.next < candidates.len() {
                turn.next += 1;
                if weights[turn.next - 1] >= turn.level {
                    return Some(candidates[turn.next - 1].clone());
                }
            }
            let level = turn.level.saturating_sub(step);
            *turn = Turn { next: 0, level: if level == 0 { greatest } else { level } };
        }
    }

    fn least(&mut self, service: usize, candidates: &[&Server], weighted: bool) -> Option<Server> {
        let turn = self.turns.get(&service).copied().unwrap_or_default();
        let start = if turn.next < candidates.len() { turn.next } else { 0 };
        let load = |index: usize| {
            let server = candidates[index];
            let weight = if weighted { f64::from(server.weight) } else { 1.0 };
            f64::from(self.connections(server.slot) + 1) / weight
        };
        let mut best: Option<usize> = None;
        for index in (0..candidates.len()).map(|step| (start + step) % candidates.len()) {
            if self.has_room(candidates[index])
                && best.is_none_or(|best| load(index) < load(best) - 1e-9)
            {
                best = Some(index);
            }
        }
        let best = best?;
        self.turns.entry(service).or_default().next = best + 1;
        Some(candidates[best].clone())
    }

    /// How a packet of `flow` goes to its server, if it is translated.
    fn onward(&self, flow: &Flow, server: &Server) -> Option<Onward> {
        let (source, destination) = flow.translated?;
        Some(Onward { source, destination, wire: INSIDE, to: server.address })
    }

    fn send(
        &self,
        arrival: &Arrival,
        flow: &Flow,
        server: &Server,
        choices: &Choices<'_>,
    ) -> Done<Outcome> {
        let ip = &arrival.ip;
        if let Some(onward) = self.onward(flow, server) {
            let ip = ip.between(onward.source, onward.destination);
            return Ok(sent(INSIDE, server.address, ip, arrival.part));
        }
        self.to_owner(arrival, server, choices)
    }

    /// To a server that has the virtual address too.
    fn to_owner(&self, arrival: &Arrival, server: &Server, choices: &Choices<'_>) -> Done<Outcome> {
        let ip = &arrival.ip;
        let from = own(INSIDE, server.address);
        let outer = if from.is_ipv4() { 20 } else { 40 };
        let inner_protocol = if ip.is_v4() { 4 } else { 41 };
        let inner = arrival.bytes();
        let body = match server.mode {
            Mode::Dr => return Ok(sent(INSIDE, server.address, ip.clone(), arrival.part)),
            Mode::Tun => Body::Other { protocol: inner_protocol, payload: inner.clone() },
            Mode::Gue => {
                let port = choices.gue_port.unwrap_or_default();
                let payload = [&[0, inner_protocol, 0, 0], &inner[..]].concat();
                let skew = (!ip.is_v4()).then_some(0); // IPv4 may do without, and does
                Body::Udp { ports: (port, 6080), payload, skew }
            }
            Mode::Nat(_) | Mode::Snat(_) => panic!("translated"),
        };
        let overhead = outer + if server.mode == Mode::Gue { 12 } else { 0 };
        let must_be_whole = !ip.is_v4() || (ip.dont_fragment && arrival.part == Part::Whole);
        if inner.len() + overhead > 1500 && must_be_whole {
            let mtu = 1500 - overhead as u32;
            let (kind, code, word) = if ip.is_v4() { (3, 4, mtu) } else { (2, 0, mtu) };
            return Ok(refused(arrival, Reason::TooBig, kind, code, word));
        }
        let outside = Ip {
            source: from,
            destination: server.address,
            hops: 64,
            class: ip.class,
            identification: if ip.is_v4() && !must_be_whole {
                choices.identification.unwrap_or_default()
            } else {
                0
            },
            dont_fragment: must_be_whole,
            body,
        };
        Ok(sent(INSIDE, server.address, outside, Part::Whole))
    }

    /// A packet that comes back from a server, or from somebody whom an inside station talks to.
    fn reply(&mut self, arrival: &Arrival, choices: &Choices<'_>) -> Done<Outcome> {
        let ip = &arrival.ip;
        let (from, to) = ip.ports();
        let known = self.flows.iter().position(|flow| {
            flow.protocol == ip.protocol()
                && flow.translated == Some(((ip.destination, to), (ip.source, from)))
        });
        let Some(index) = known else { return self.unknown_reply(arrival, choices) };
        let flow = self.flows[index].clone();
        if let Some(slot) = flow.server {
            let (_, server) = self.plan.server(slot).ok_or(Reason::ServerGone)?;
            if arrival.wire != INSIDE {
                return Err(Reason::SpoofedSource);
            }
            if server.state() == State::Halted {
                self.flows.remove(index);
                if ip.protocol() != TCP {
                    return Err(Reason::ServerHalted);
                }
                let (wire, to) = way_to(flow.client.0);
                let back = Onward { source: flow.destination, destination: flow.client, wire, to };
                return Ok(reset(arrival, Some(back)));
            }
        }
        let (wire, station) = way_to(flow.client.0);
        self.flows[index].last_seen = self.now;
        let flags = if arrival.part == Part::Later { 0 } else { ip.flags() };
        if flags & (FIN | RST) != 0 {
            self.flows[index].progress = Progress::Closing;
        }
        let mut onward = ip.between(flow.destination, flow.client);
        if flow.server.is_none() && !age(&mut onward) {
            return Ok(expired(arrival));
        }
        Ok(sent(wire, station, onward, arrival.part))
    }

    fn unknown_reply(&mut self, arrival: &Arrival, choices: &Choices<'_>) -> Done<Outcome> {
        let ip = &arrival.ip;
        if self.plan.is_ours(ip.destination) {
            return Err(Reason::NoFlow);
        }
        // A one-packet service's server is known by its address and port.
        for service in &self.plan.services {
            let answers = |server: &Server| {
                matches!(server.mode, Mode::Nat(port) if service.port.is_some()
                    && server.address == ip.source
                    && port.or(service.port) == Some(ip.ports().0))
            };
            if service.scheduler == Scheduler::Ops
                && ip.protocol() == UDP
                && service.servers.iter().any(answers)
            {
                let from = (service.address, service.port.expect("not all ports"));
                let (wire, station) = way_to(ip.destination);
                let onward = ip.between(from, (ip.destination, ip.ports().1));
                return Ok(sent(wire, station, onward, arrival.part));
            }
        }
        if self.passes(arrival) {
            return self.through(arrival, choices);
        }
        Err(Reason::NoFlow)
    }

    /// Whether we pass packets on for whom this one comes from, or goes to.
    fn passes(&self, arrival: &Arrival) -> bool {
        let ip = &arrival.ip;
        let behind_us = wire_of(ip.source) == Some(INSIDE);
        let translated = (self.plan.masquerade && behind_us)
            || (self.plan.pair && ip.source == pair_inside(ip.source));
        let (way, _) = way_to(ip.destination);
        (self.plan.gateway && (arrival.wire == INSIDE || way == INSIDE)) || translated
    }

    fn through(&mut self, arrival: &Arrival, choices: &Choices<'_>) -> Done<Outcome> {
        if !self.passes(arrival) {
            return Err(Reason::NotOurAddress);
        }
        let ip = &arrival.ip;
        let (wire, station) = way_to(ip.destination);
        self.may_come_from(ip.source, arrival.wire)?;
        if self.plan.pair && ip.source == pair_inside(ip.source) && wire != arrival.wire {
            let source = (pair_outside(ip.source), ip.ports().0);
            return self.pass(arrival, source, (ip.destination, ip.ports().1), wire, station);
        }
        let hidden = self.plan.masquerade && wire == OUTSIDE && wire_of(ip.source) == Some(INSIDE);
        if !hidden {
            let (from, to) = ip.ports();
            return self.pass(arrival, (ip.source, from), (ip.destination, to), wire, station);
        }
        let is_request =
            matches!(ip.body, Body::Echo { is_reply: false, identifier, .. } if identifier != 0);
        if !(matches!(ip.protocol(), TCP | UDP) || is_request) {
            return Err(Reason::NotTcpOrUdp);
        }
        let known = self.flows.iter().position(|flow| {
            flow.protocol == ip.protocol()
                && flow.client == (ip.source, ip.ports().0)
                && flow.destination == (ip.destination, ip.ports().1)
        });
        let index = match known {
            Some(index) => {
                let mut flow = Flow { last_seen: self.now, ..self.flows[index].clone() };
                self.see_port(&mut flow, choices);
                self.flows[index] = flow;
                let flags = if arrival.part == Part::Later { 0 } else { ip.flags() };
                if ip.protocol() == TCP {
                    self.flows[index].progress = match self.flows[index].progress {
                        _ if flags & (FIN | RST) != 0 => Progress::Closing,
                        Progress::HalfOpen if flags & SYN == 0 => Progress::Established,
                        progress => progress,
                    };
                }
                index
            }
            None => {
                if arrival.part == Part::Whole && !sum_is_right(ip) {
                    return Err(Reason::BadTransportChecksum);
                }
                let mut flow = Flow {
                    protocol: ip.protocol(),
                    client: (ip.source, ip.ports().0),
                    destination: (ip.destination, ip.ports().1),
                    translated: None,
                    server: None,
                    progress: match ip.protocol() {
                        TCP => Progress::HalfOpen,
                        _ => Progress::Datagrams,
                    },
                    last_seen: self.now,
                };
                let source = (own(OUTSIDE, ip.source), UNSEEN);
                flow.translated = Some((source, (ip.destination, ip.ports().1)));
                self.see_port(&mut flow, choices);
                self.flows.push(flow);
                self.flows.len() - 1
            }
        };
        let (source, destination) = self.flows[index].translated.expect("it is");
        self.pass(arrival, source, destination, wire, station)
    }

    /// A packet for the outside address of an inside station.
    fn inward(&mut self, arrival: &Arrival) -> Done<Outcome> {
        let ip = &arrival.ip;
        self.may_come_from(ip.source, arrival.wire)?;
        let inside = pair_inside(ip.destination);
        let (from, to) = ip.ports();
        self.pass(arrival, (ip.source, from), (inside, to), INSIDE, inside)
    }

    /// As a router does: one hop less.
    fn pass(
        &self,
        arrival: &Arrival,
        source: (IpAddr, u16),
        destination: (IpAddr, u16),
        wire: usize,
        station: IpAddr,
    ) -> Done<Outcome> {
        let ip = &arrival.ip;
        let mut onward = ip.between(source, destination);
        if let Body::Error { quoted, .. } = &mut onward.body {
            // What is quoted was sent to the station by its other name, or by it (RFC 5508 section 4.2).
            if quoted.destination == ip.source {
                quoted.destination = source.0;
            }
            if quoted.source == ip.destination {
                quoted.source = destination.0;
            }
        }
        if !age(&mut onward) {
            return Ok(expired(arrival));
        }
        Ok(sent(wire, station, onward, arrival.part))
    }

    /// Neither TCP nor UDP nor an echo.
    fn other(&mut self, arrival: &Arrival) -> Done<Outcome> {
        let ip = &arrival.ip;
        if self.plan.pair && ip.destination == pair_outside(ip.destination) {
            return self.inward(arrival);
        }
        if self.plan.is_ours(ip.destination) {
            return Err(Reason::NotTcpOrUdp);
        }
        self.unported(arrival)
    }

    /// What has no ports can pass, but not be hidden behind our address.
    fn unported(&mut self, arrival: &Arrival) -> Done<Outcome> {
        let ip = &arrival.ip;
        if !self.passes(arrival) {
            return Err(Reason::NotOurAddress);
        }
        let (wire, station) = way_to(ip.destination);
        self.may_come_from(ip.source, arrival.wire)?;
        let destination = (ip.destination, 0);
        if self.plan.pair && ip.source == pair_inside(ip.source) && wire != arrival.wire {
            return self.pass(arrival, (pair_outside(ip.source), 0), destination, wire, station);
        }
        if self.plan.masquerade && wire == OUTSIDE && wire_of(ip.source) == Some(INSIDE) {
            return Err(Reason::NotTcpOrUdp);
        }
        self.pass(arrival, (ip.source, 0), destination, wire, station)
    }

    /// An ICMP error goes to whoever sent the packet that it quotes, in words that one knows.
    fn error(&mut self, arrival: &Arrival, quoted: &Ip, choices: &Choices<'_>) -> Done<Outcome> {
        let ip = &arrival.ip;
        if !matches!(quoted.body, Body::Tcp { .. } | Body::Udp { .. } | Body::Echo { .. }) {
            // Of no flow that anybody could know.
            return match self.plan.is_ours(ip.destination) {
                true => Ok(for_control()),
                false => Err(Reason::NotOurAddress),
            };
        }
        if self.plan.pair && ip.destination == pair_outside(ip.destination) {
            return self.inward(arrival);
        }
        let (way, station) = way_to(ip.destination);
        let hidden = self.plan.masquerade && wire_of(ip.source) == Some(INSIDE) && way == OUTSIDE;
        let ours = self.plan.is_ours(ip.destination)
            || (hidden && !(self.plan.pair && ip.source == pair_inside(ip.source)))
            || self.plan.is_nat_server(quoted.destination)
            || self.plan.is_nat_server(ip.source);
        if !ours {
            return self.unported(arrival);
        }
        let (from, to) = match quoted.body {
            Body::Echo { identifier, .. } => (identifier, 0),
            _ => quoted.ports(),
        };
        // A packet to a client, about which somebody on its way complains.
        let to_client = self.flows.iter().position(|flow| {
            flow.protocol == quoted.protocol()
                && flow.destination == (quoted.source, from)
                && flow.client == (quoted.destination, to)
        });
        if let Some(index) = to_client {
            let mut flow = self.flows[index].clone();
            self.see_port(&mut flow, choices);
            self.flows[index] = flow.clone();
            if let (None, Some((source, destination))) = (flow.server, flow.translated) {
                // By a station behind us, about what somebody outside sent to it.
                let quote = quoted.between(destination, source);
                let complaint = retold(ip, source.0, ip.destination, quote);
                return Ok(sent(way, station, complaint, Part::Whole));
            }
            let server = flow.server.and_then(|slot| self.plan.server(slot));
            let (_, server) = server.ok_or(Reason::ServerGone)?;
            let server = server.clone();
            let Some(onward) = self.onward(&flow, &server) else {
                return self.to_owner(arrival, &server, choices);
            };
            let quote = quoted.between(onward.destination, onward.source);
            // A server that knows us alone hears of it from us.
            let known = onward.source.0 == flow.client.0;
            let complainer = if known { ip.source } else { onward.source.0 };
            let complaint = retold(ip, complainer, server.address, quote);
            return Ok(sent(INSIDE, server.address, complaint, Part::Whole));
        }
        // A packet to a server, or to the outside.
        let to_server = self.flows.iter().find(|flow| {
            flow.protocol == quoted.protocol()
                && flow.translated == Some(((quoted.source, from), (quoted.destination, to)))
        });
        if let Some(flow) = to_server {
            let (wire, station) = way_to(flow.client.0);
            let by_server = ip.source == quoted.destination;
            let complainer = if by_server { flow.destination.0 } else { ip.source };
            let quote = quoted.between(flow.client, flow.destination);
            let complaint = retold(ip, complainer, flow.client.0, quote);
            return Ok(sent(wire, station, complaint, Part::Whole));
        }
        let service = self.plan.service_at(quoted.source, quoted.protocol(), from);
        let is_our_own = ip.destination == quoted.source && is_own(quoted.source) && from < 16_384;
        if is_our_own && service.is_none() {
            return Ok(for_control());
        }
        // Of a flow that nobody remembers, the server that every node would choose.
        let service = service.ok_or(Reason::UnrelatedError)?;
        let original = quoted.between((quoted.destination, to), (quoted.source, from));
        if self.has_page(service, &original) {
            return Ok(for_control());
        }
        let server = self.agreed(service, &original, choices).ok_or(Reason::UnrelatedError)?;
        if matches!(server.mode, Mode::Nat(_) | Mode::Snat(_)) {
            return Err(Reason::UnrelatedError);
        }
        self.to_owner(arrival, &server, choices)
    }
}

impl Sticky {
    /// What counts of a client's address.
    fn network(&self, client: IpAddr) -> IpAddr {
        match client {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.masks[0])).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.masks[1])).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        }
    }
}

/// A translated packet's ends and its way.
struct Onward {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    wire: usize,
    to: IpAddr,
}

/// The port of a flow of which no packet has left yet that would show it.
const UNSEEN: u16 = 0;

fn same_reply(one: &Flow, other: &Flow) -> bool {
    one.protocol == other.protocol
        && one.translated == other.translated
        && one.translated.is_some_and(|((_, port), _)| port != UNSEEN)
}

fn for_control() -> Outcome {
    Outcome { punted: true, ..Outcome::default() }
}

fn sent(wire: usize, to: IpAddr, ip: Ip, part: Part) -> Outcome {
    Outcome { sent: vec![Sent { wire, to, ip, part }], ..Outcome::default() }
}

/// SYN, FIN and RST exclude each other, and only SYN and RST go without ACK.
fn never_together(flags: u8) -> bool {
    let verbs = [SYN, FIN, RST].into_iter().filter(|bit| flags & bit != 0).count();
    verbs > 1 || (flags & ACK == 0 && flags & SYN == 0 && flags & RST == 0)
}

fn sum_is_right(ip: &Ip) -> bool {
    match ip.body {
        Body::Tcp { skew, .. } => skew == 0,
        Body::Udp { skew: Some(skew), .. } => skew == 0,
        Body::Udp { skew: None, .. } => ip.is_v4(),
        _ => true,
    }
}

/// Takes one hop; `false` if none was left.
fn age(ip: &mut Ip) -> bool {
    ip.hops = ip.hops.saturating_sub(1);
    ip.hops > 0
}

/// The same error in other words.
fn retold(ip: &Ip, source: IpAddr, destination: IpAddr, quote: Ip) -> Ip {
    let mut retold = ip.clone();
    (retold.source, retold.destination) = (source, destination);
    if let Body::Error { quoted, .. } = &mut retold.body {
        **quoted = quote;
    }
    retold
}

fn expired(arrival: &Arrival) -> Outcome {
    let kind = if arrival.ip.is_v4() { 11 } else { 3 };
    refused(arrival, Reason::TimeExceeded, kind, 0, 0)
}

/// A drop that its sender is told of: with 8 bytes behind the header (RFC 792), or what fits (RFC 4443).
fn refused(arrival: &Arrival, reason: Reason, kind: u8, code: u8, word: u32) -> Outcome {
    let dropped = Outcome { dropped: Some(reason), ..Outcome::default() };
    if arrival.part == Part::Later && arrival.ip.is_v4() {
        return dropped;
    }
    if matches!(arrival.ip.body, Body::Error { .. }) {
        return dropped;
    }
    let original = arrival.bytes();
    let kept = if arrival.ip.is_v4() { 28 } else { original.len().min(1280 - 48) };
    let quoted = Ip {
        source: arrival.ip.source,
        destination: arrival.ip.destination,
        hops: arrival.ip.hops,
        ..arrival.ip.clone()
    };
    let answer = Ip {
        source: own(arrival.wire, arrival.ip.source),
        destination: arrival.ip.source,
        hops: 64,
        class: if arrival.ip.is_v4() { 0xc0 } else { 0 },
        identification: 0,
        dont_fragment: true,
        body: Body::Error {
            kind,
            code,
            word,
            quoted: Box::new(quoted),
            kept: kept.min(original.len()),
        },
    };
    let answer = Sent { wire: arrival.wire, to: arrival.station, ip: answer, part: Part::Whole };
    Outcome { sent: vec![answer], ..dropped }
}

/// Both ends are told that the connection is over; who has said so needs no telling (RFC 9293 section 3.10.7).
fn reset(arrival: &Arrival, other_end: Option<Onward>) -> Outcome {
    let ip = &arrival.ip;
    let Body::Tcp { ports, flags, numbers, .. } = ip.body else { panic!("not TCP") };
    let mut outcome = Outcome { dropped: Some(Reason::ServerHalted), ..Outcome::default() };
    if arrival.part == Part::Later {
        return outcome;
    }
    let segment = |source: (IpAddr, u16), destination: (IpAddr, u16), flags, numbers| Ip {
        source: source.0,
        destination: destination.0,
        hops: 64,
        class: 0,
        identification: 0,
        dont_fragment: true,
        body: Body::Tcp {
            ports: (source.1, destination.1),
            flags,
            numbers,
            window: 0,
            payload: Vec::new(),
            skew: 0,
        },
    };
    if flags & RST == 0 {
        let back = segment((ip.destination, ports.1), (ip.source, ports.0), RST, (numbers.1, 0));
        outcome.sent.push(Sent {
            wire: arrival.wire,
            to: arrival.station,
            ip: back,
            part: Part::Whole,
        });
    }
    if let Some(Onward { source, destination, wire, to }) = other_end {
        let onward = segment(source, destination, RST | ACK, numbers);
        outcome.sent.push(Sent { wire, to, ip: onward, part: Part::Whole });
    }
    outcome
}
