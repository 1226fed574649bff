//! The virtual services and their real servers.

use std::sync::Arc;

use zerocopy::FromZeros;

use super::endpoints::Endpoints;
use super::{Hop, Map, Set};
use crate::lookup::scheduler::maglev;
use crate::wire::Address;

/// A virtual service's identity: a slot below [`super::MAX_SERVICES`], and how often the slot was
/// given away before, so that a flow of a removed service is never mistaken for one of its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, FromZeros)]
pub struct ServiceId(u32);

/// A real server's identity: a slot below [`super::MAX_SERVERS`], and how often the slot was given away
/// before, so that a flow of a removed server is never mistaken for one of its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, FromZeros)]
pub struct ServerId(u32);

macro_rules! identity {
    ($name:ident) => {
        impl $name {
            /// No flow that belongs to none.
            pub const NONE: Self = Self(u32::MAX);

            /// The identity in `slot` after `reuse` earlier owners.
            pub const fn new(slot: u16, reuse: u16) -> Self {
                Self((reuse as u32) << 16 | slot as u32)
            }

            /// The position in lists and in the counters.
            #[inline]
            pub const fn slot(self) -> usize {
                (self.0 & 0xffff) as usize
            }

            /// How many had the slot before.
            pub const fn reuse(self) -> u16 {
                (self.0 >> 16) as u16
            }

            /// Slot and reuse in one number.
            pub const fn bits(self) -> u32 {
                self.0
            }

            /// From what [`Self::bits`] gave.
            pub const fn from_bits(bits: u32) -> Self {
                Self(bits)
            }
        }
    };
}

identity!(ServiceId);
identity!(ServerId);

/// The protocols whose flows are told apart, by their numbers in the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// Echo requests and their replies (RFC 792, RFC 4443), which pass through us for servers alone; the
    /// identifier stands in for the ports.
    Echo = 1,
}

/// The virtual services, found by address, protocol and port.
#[derive(Debug, Default)]
pub struct Services {
    by_id: Vec<Option<Service>>,
    ports: Endpoints,
    ranges: Map<(Address, Protocol), Vec<PortRange>>,
    /// Addresses of servers whose replies come back through us untouched (NAT).
    nat_servers: Set<Address>,
    /// Addresses of ours that flows leave with (SNAT, masquerading).
    sources: Set<Address>,
    /// Whose reply a datagram is that no table remembers (one-packet scheduling).
    one_packet: Map<(Address, u16, Protocol), (Address, u16)>,
    /// Whether any service has a helper that opens ports.
    helpers: bool,
}

/// Ports `first..=last` of one address belong to one service.
#[derive(Debug, Clone, Copy)]
struct PortRange {
    first: u16,
    last: u16,
    slot: u16,
}

/// Ranges up to this length are stored port by port, so that most packets need one look-up.
const SPELLED_OUT: u16 = 256;

/// The ports that translated flows leave one of our own addresses with. Those below are for services
/// and for the control plane's own connections.
pub const TRANSLATED_PORTS: std::ops::RangeInclusive<u16> = 16_384..=65_535;

impl Services {
    /// Nothing is offered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers `service` on ports `first..=last` of `address`. The control plane refuses configurations in
    /// which two overlap.
    pub fn publish(
        &mut self,
        address: Address,
        protocol: Protocol,
        (first, last): (u16, u16),
        service: ServiceId,
    ) {
        let slot = service.slot() as u16;
        if last.saturating_sub(first) < SPELLED_OUT {
            for port in first..=last {
                self.ports.insert(address, protocol, port, slot);
            }
            return;
        }
        let ranges = self.ranges.entry((address, protocol)).or_default();
        ranges.push(PortRange { first, last, slot });
        ranges.sort_by_key(|range| range.first);
    }

    /// Adds a service's own record, found again by its identity.
    pub fn insert(&mut self, service: Service) {
        let slot = service.id.slot();
        if self.by_id.len() <= slot {
            self.by_id.resize_with(slot + 1, || None);
        }
        self.helpers |= service.options.ftp;
        self.by_id[slot] = Some(service);
    }

    /// Whether any service has a helper that opens ports on virtual addresses.
    #[inline]
    pub fn have_helpers(&self) -> bool {
        self.helpers
    }

    /// Says that replies from `address` belong to NAT flows.
    pub fn expect_replies_from(&mut self, address: Address) {
        self.nat_servers.insert(address);
    }

    /// Says that flows leave with our address `source` (SNAT, masquerading).
    pub fn expect_replies_to(&mut self, source: Address) {
        self.sources.insert(source);
    }

    /// Says that datagrams from a NAT server of a one-packet service are that service's replies.
    pub fn expect_one_packet_replies(
        &mut self,
        server: (Address, u16),
        protocol: Protocol,
        virtual_address: (Address, u16),
    ) {
        self.one_packet.insert((server.0, server.1, protocol), virtual_address);
    }

    /// The service published at this address, protocol and port.
    #[inline]
    pub fn at(&self, address: Address, protocol: Protocol, port: u16) -> Option<&Service> {
        let exact = self.ports.get(address, protocol, port);
        let found = exact.or_else(|| self.in_range(address, protocol, port))?;
        self.by_id.get(usize::from(found))?.as_ref()
    }

    #[inline]
    fn in_range(&self, address: Address, protocol: Protocol, port: u16) -> Option<u16> {
        if self.ranges.is_empty() {
            return None;
        }
        let ranges = self.ranges.get(&(address, protocol))?;
        let above = ranges.partition_point(|range| range.first <= port);
        let range = ranges.get(above.checked_sub(1)?)?;
        (port <= range.last).then_some(range.slot)
    }

    /// The service with this identity, unless it has been removed since.
    #[inline]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.by_id.get(id.slot())?.as_ref().filter(|service| service.id == id)
    }

    /// How long flows of the service with this identity are remembered; of one that has been removed, or none, the
    /// usual times.
    pub fn timeouts(&self, id: ServiceId) -> Timeouts {
        self.service(id).map(|service| service.timeouts).unwrap_or_default()
    }

    /// Whether a packet from `address` may be a reply that we have to translate back.
    #[inline]
    pub fn may_reply(&self, address: Address) -> bool {
        self.nat_servers.contains(&address)
    }

    /// Whether a packet to this address and port of ours may be a reply to a flow that left with it.
    #[inline]
    pub fn may_come_back_to(&self, address: Address, port: u16) -> bool {
        port >= *TRANSLATED_PORTS.start() && self.sources.contains(&address)
    }

    /// The virtual address and port that a one-packet service's server answers for.
    #[inline]
    pub fn one_packet_reply(
        &self,
        server: (Address, u16),
        protocol: Protocol,
    ) -> Option<(Address, u16)> {
        if self.one_packet.is_empty() {
            return None;
        }
        self.one_packet.get(&(server.0, server.1, protocol)).copied()
    }
}

/// A virtual service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its identity.
    pub id: ServiceId,
    /// How a new flow's server is chosen.
    pub scheduler: Scheduler,
    /// The servers that take new flows (weight above 0, of the best priority that has any), heaviest
    /// first; see [`Candidates`].
    pub candidates: Candidates,
    /// What every worker and every node agrees on without memory: an index into the candidates'
    /// list, in their order there.
    pub table: Arc<maglev::Table>,
    /// Whether clients return to the server they had before (FEATURES 1.4).
    pub persistence: Option<Persistence>,
    /// All its servers by persistence key, in rising order, those that take no new flows too.
    pub hosts: Box<[(Host, ServerId)]>,
    /// How long its flows are remembered.
    pub timeouts: Timeouts,
    /// How many new flows it takes.
    pub limits: Limits,
    /// What else is to be done with its packets.
    pub options: Options,
}

impl Service {
    /// The first of its servers with this persistence key.
    #[inline]
    pub fn host(&self, host: Host) -> impl Iterator<Item = ServerId> {
        let first = self.hosts.partition_point(|&(other, _)| other < host);
        self.hosts[first..].iter().take_while(move |it| it.0 == host).map(|&(_, server)| server)
    }
}

/// How a new flow's server is chosen (FEATURES 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduler {
    /// Each in turn, whatever its weight (SCH-01).
    RoundRobin,
    /// Each in turn, in proportion to its weight, the heaviest first (SCH-02).
    WeightedRoundRobin,
    /// The server with the fewest connections (SCH-03).
    LeastConnection,
    /// The server with the fewest connections for its weight (SCH-04).
    WeightedLeastConnection,
    /// By the client's address (SCH-06).
    SourceHash,
    /// By the virtual address (SCH-05).
    DestinationHash,
    /// By both addresses and ports, evenly, with as few moves as can be when servers change.
    Maglev,
    /// Every datagram on its own, each server in turn by weight (VS-03).
    OnePacket,
}

/// The servers that take new flows, in the order that weighted round robin needs: heaviest first,
/// so that at any level of weight those that take part are the first few.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    servers: Box<[(ServerId, u16)]>,
    step: u16,
}

impl Candidates {
    /// From servers with their weights, in the operator's order; weight 0 takes no new flows.
    pub fn new(servers: impl IntoIterator<Item = (ServerId, u16)>) -> Self {
        let mut servers: Box<[_]> = servers.into_iter().filter(|&(_, weight)| weight > 0).collect();
        servers.sort_by_key(|&(_, weight)| std::cmp::Reverse(weight));
        let step =
            servers.iter().fold(0, |step, &(_, weight)| greatest_common_divisor(step, weight));
        Self { servers, step }
    }

    /// Heaviest first, with the weights.
    #[inline]
    pub fn servers(&self) -> &[(ServerId, u16)] {
        &self.servers
    }

    /// The greatest common divisor of all weights: by how much the level falls at each round.
    #[inline]
    pub fn step(&self) -> u16 {
        self.step
    }

    /// The weight of a server; 0 if it is not among them.
    pub fn weight(&self, server: ServerId) -> u16 {
        let found = self.servers.iter().find(|&&(id, _)| id == server);
        found.map_or(0, |&(_, weight)| weight)
    }

    /// Whether a server is among them.
    #[inline]
    pub fn contain(&self, server: ServerId) -> bool {
        self.servers.iter().any(|&(id, _)| id == server)
    }
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// What tells a server from others for persistence, on every node and whatever its service: services of one
/// persistence group that use the same machine give it the same number. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(pub u32);

/// Clients return to the server they had before (PER-01).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistence {
    /// Services of the same group share what they remember; made from the group's or the service's name.
    pub group: u64,
    /// How long after its last connection a client is remembered, in seconds.
    pub timeout: u32,
    /// How many bits of an IPv4 client's address count (PER-02).
    pub mask_v4: u8,
    /// How many bits of an IPv6 client's address count.
    pub mask_v6: u8,
    /// Whether clients return even to a server that drains (PER-11 turned off).
    pub through_drain: bool,
}

impl Persistence {
    /// How many bits of this client's address count.
    #[inline]
    pub fn mask(&self, client: Address) -> u8 {
        if client.is_v4() { self.mask_v4 } else { self.mask_v6 }
    }
}

/// How long a flow is remembered after its last packet, in milliseconds (FEATURES NAT-07, PER-10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// After a SYN, or a packet in mid-flow that nobody remembered, that nothing followed.
    pub half_open: u32,
    /// While a TCP connection stands.
    pub established: u32,
    /// After a FIN.
    pub closing: u32,
    /// Between UDP datagrams.
    pub datagrams: u32,
}

impl Timeouts {
    /// The longest time that can be told, in milliseconds: 24 days.
    pub const LONGEST: u32 = u32::MAX >> 1;
}

impl Default for Timeouts {
    fn default() -> Self {
        let [half_open, established, closing, datagrams] =
            [30, 900, 120, 300].map(|seconds| seconds * 1_000);
        Self { half_open, established, closing, datagrams }
    }
}

/// How many new flows a service takes; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Flows at once, on one worker, that have seen a SYN only; beyond, cookies or the hash decide.
    pub half_open: u32,
    /// New flows in a second, on one worker.
    pub new_flows: u32,
    /// New flows in a second from one client or client network, on one worker.
    pub new_flows_per_client: u32,
    /// How many bits of an IPv4 client's address make its network.
    pub client_mask_v4: u8,
    /// How many bits of an IPv6 client's address make its network.
    pub client_mask_v6: u8,
}

/// What else is to be done with a service's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Servers may be clients of the service too: their packets leave with our own address (FWD-10).
    pub hairpin: bool,
    /// SYNs sent into a tunnel have their MSS lowered to what fits.
    pub clamp_mss: bool,
    /// The service speaks FTP: data connections are followed (VS-06, NAT-05).
    pub ftp: bool,
    /// Takes no new flows; those that there are go on (VS-20).
    pub closed: bool,
    /// TCP connections that no server takes are the control plane's, which has a page for them (ST-06, ST-07).
    pub page: bool,
}

/// A real server as packets meet it.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its identity.
    pub id: ServerId,
    /// The service it belongs to.
    pub service: ServiceId,
    /// Its own address.
    pub address: Address,
    /// How packets reach it.
    pub mode: Mode,
    /// The next station on the way to it.
    pub hop: Hop,
    /// Which flows it takes.
    pub admission: Admission,
    /// Its key in the persistence table.
    pub host: Host,
    /// At so many connections it takes no more (VS-15); 0 is no limit.
    pub max_connections: u32,
    /// It takes new ones again when it has fewer than so many (VS-15).
    pub min_connections: u32,
}

/// Which flows a server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admission {
    /// New ones and those it has.
    #[default]
    Open,
    /// Those it has (ST-01; HC-15 with `quiescent`).
    Draining,
    /// None: flows that it has are reset (ST-02; HC-15 without `quiescent`).
    Halted,
}

/// How packets reach a real server (FEATURES 1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Only the destination MAC changes (FWD-01); the server has the virtual address too.
    DirectReturn,
    /// Destination address and port change, and the source on the way back (FWD-07, FWD-08).
    Nat {
        /// The server's port; `None` keeps the one the client used.
        port: Option<u16>,
    },
    /// As NAT, and packets leave with an address of ours, so that replies come back from anywhere (FWD-13).
    Snat {
        /// The server's port; `None` keeps the one the client used.
        port: Option<u16>,
        /// The addresses of ours that packets leave with; never empty.
        sources: Arc<[Address]>,
    },
    /// The packet travels inside another (FWD-12).
    Tunnel {
        /// The outer source: our own address on the interface that leads to the server.
        source: Address,
        /// What goes between the two.
        encapsulation: Encapsulation,
    },
}

/// What stands between a tunnel's outer header and the packet inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Nothing (RFC 2003, RFC 2473, RFC 4213).
    Ip,
    /// UDP and Generic UDP Encapsulation, to this port.
    Gue(u16),
}
