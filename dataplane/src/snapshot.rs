//! The configuration as a burst sees it: everything that forwarding needs, built whole by the
//! control plane and swapped whole by [`Publisher`].
//!
//! Nothing here changes after it was published. What must survive a change of configuration (flows,
//! scheduler positions, counters) lives outside, and names services and servers by identities
//! that stay the same for as long as the operator keeps the name.

mod swap;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use zerocopy::FromZeros;

use crate::wire::Mac;

pub use swap::{Publisher, Reader, publication};

/// How many services a node can have at once.
pub const MAX_SERVICES: usize = 16_384;
/// How many real servers a node can have at once, over all services.
pub const MAX_SERVERS: usize = 65_536;
/// How many interfaces a node can have.
pub const MAX_INTERFACES: usize = 16;

/// A map from what stands in packets, with a hash that is seeded anew in every process.
pub type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// One configuration, whole.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts up with every publication, from 1.
    pub generation: u64,
    /// The position in this list is the interface's [`InterfaceId`].
    pub interfaces: Arc<[Interface]>,
    /// Our own and the virtual addresses: what is answered with ARP and ICMP echo.
    pub locals: Arc<HashSet<Ipv4Addr, foldhash::fast::RandomState>>,
    /// The virtual services.
    pub services: Arc<Services>,
    /// Real servers by slot; `None` where no server has that slot now.
    pub servers: Arc<[Option<Server>]>,
    /// Where packets for any other address go.
    pub routes: Arc<Routes>,
    /// Stations on our subnets whose hardware address is known now.
    pub neighbours: Arc<Map<Ipv4Addr, Mac>>,
}

impl Snapshot {
    /// The server with this identity, unless it has been removed since.
    #[inline]
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        self.servers.get(id.slot())?.as_ref().filter(|server| server.id == id)
    }

    /// The interface with this identity.
    #[inline]
    pub fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.interfaces.get(usize::from(id.0))
    }

    /// The way to `destination`: the longest matching prefix, then the neighbour on it.
    #[inline]
    pub fn hop_to(&self, destination: Ipv4Addr) -> Option<Hop> {
        let route = self.routes.to(destination)?;
        let address = route.via.unwrap_or(destination);
        Some(Hop {
            interface: route.interface,
            address,
            mac: self.neighbours.get(&address).copied(),
        })
    }
}

/// Which interface, as a position in [`Snapshot::interfaces`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct InterfaceId(pub u8);

/// One of our interfaces.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Our hardware address there.
    pub mac: Mac,
    /// The longest IP packet that fits, in bytes.
    pub mtu: u16,
    /// Our addresses with their subnets; the first is the source of what we send ourselves.
    pub addresses: Vec<Ipv4Net>,
}

impl Interface {
    /// The address that packets of our own leave with, if there is one.
    #[inline]
    pub fn source(&self) -> Option<Ipv4Addr> {
        self.addresses.first().map(Ipv4Net::addr)
    }
}

/// A virtual service's slot: the same for as long as a service of that name exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ServiceId(pub u16);

/// A real server's identity: a slot below [`MAX_SERVERS`], and how often the slot was given away
/// before, so that a flow of a removed server is never mistaken for one of its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, FromZeros)]
pub struct ServerId(u32);

impl ServerId {
    /// The identity in `slot` after `reuse` earlier owners.
    pub fn new(slot: u16, reuse: u16) -> Self {
        Self(u32::from(reuse) << 16 | u32::from(slot))
    }

    /// The position in [`Snapshot::servers`] and in the counters.
    #[inline]
    pub fn slot(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    /// How many servers had the slot before.
    pub fn reuse(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// TCP or UDP, by its number in the IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
}

/// The virtual services, found by address, protocol and port.
#[derive(Debug, Default)]
pub struct Services {
    by_id: Vec<Option<Service>>,
    ports: Map<(Ipv4Addr, u16, Protocol), ServiceId>,
    ranges: Map<(Ipv4Addr, Protocol), Vec<PortRange>>,
    /// Addresses of servers whose replies come back through us.
    nat_servers: HashSet<Ipv4Addr, foldhash::fast::RandomState>,
}

/// Ports `first..=last` of one address belong to one service.
#[derive(Debug, Clone, Copy)]
struct PortRange {
    first: u16,
    last: u16,
    service: ServiceId,
}

/// Ranges up to this length are stored port by port, so that most packets need one look-up.
const SPELLED_OUT: u16 = 256;

impl Services {
    /// Nothing is offered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers `service` on ports `first..=last` of `address`. A later call wins where two overlap
    /// exactly; the control plane refuses configurations in which they do.
    pub fn publish(
        &mut self,
        address: Ipv4Addr,
        protocol: Protocol,
        (first, last): (u16, u16),
        service: ServiceId,
    ) {
        if last.saturating_sub(first) < SPELLED_OUT {
            self.ports.extend((first..=last).map(|port| ((address, port, protocol), service)));
            return;
        }
        let ranges = self.ranges.entry((address, protocol)).or_default();
        ranges.push(PortRange { first, last, service });
        ranges.sort_by_key(|range| range.first);
    }

    /// Adds a service's own record, found again by its identity.
    pub fn insert(&mut self, service: Service) {
        let slot = usize::from(service.id.0);
        if self.by_id.len() <= slot {
            self.by_id.resize_with(slot + 1, || None);
        }
        self.by_id[slot] = Some(service);
    }

    /// Says that replies from `address` belong to NAT flows.
    pub fn expect_replies_from(&mut self, address: Ipv4Addr) {
        self.nat_servers.insert(address);
    }

    /// The service published at this address, protocol and port.
    #[inline]
    pub fn at(&self, address: Ipv4Addr, protocol: Protocol, port: u16) -> Option<&Service> {
        let exact = self.ports.get(&(address, port, protocol)).copied();
        let found = exact.or_else(|| self.in_range(address, protocol, port))?;
        self.service(found)
    }

    #[inline]
    fn in_range(&self, address: Ipv4Addr, protocol: Protocol, port: u16) -> Option<ServiceId> {
        let ranges = self.ranges.get(&(address, protocol))?;
        let above = ranges.partition_point(|range| range.first <= port);
        let range = ranges.get(above.checked_sub(1)?)?;
        (port <= range.last).then_some(range.service)
    }

    /// The service with this identity, unless it has been removed since.
    #[inline]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.by_id.get(usize::from(id.0))?.as_ref()
    }

    /// Whether a packet from `address` may be a reply that we have to translate back.
    #[inline]
    pub fn may_reply(&self, address: Ipv4Addr) -> bool {
        self.nat_servers.contains(&address)
    }
}

/// A virtual service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its identity.
    pub id: ServiceId,
    /// How a new flow's server is chosen.
    pub scheduler: Scheduler,
    /// The servers that take new flows (weight above 0), heaviest first; see [`Candidates`].
    pub candidates: Candidates,
}

/// How a new flow's server is chosen (FEATURES 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduler {
    /// Each in turn, whatever its weight (SCH-01).
    RoundRobin,
    /// Each in turn, in proportion to its weight, the heaviest first (SCH-02).
    WeightedRoundRobin,
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
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// A real server as packets meet it.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its identity.
    pub id: ServerId,
    /// The service it belongs to.
    pub service: ServiceId,
    /// Its own address.
    pub address: Ipv4Addr,
    /// How packets reach it.
    pub mode: Mode,
    /// The next station on the way to it.
    pub hop: Hop,
}

/// How packets reach a real server (FEATURES 1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only the destination MAC changes (FWD-01); the server has the virtual address too.
    DirectReturn,
    /// Destination address and port change, and the source on the way back (FWD-07, FWD-08).
    Nat {
        /// The server's port; `None` keeps the one the client used.
        port: Option<u16>,
    },
    /// The packet travels inside another IPv4 packet (FWD-12, RFC 2003).
    Tunnel {
        /// The outer source: our own address on the interface that leads to the server.
        source: Ipv4Addr,
    },
}

/// The next station on the way to some address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The interface it is on.
    pub interface: InterfaceId,
    /// Its address: the destination itself, or a gateway.
    pub address: Ipv4Addr,
    /// Its hardware address, if it is known now.
    pub mac: Option<Mac>,
}

/// Connected subnets and static routes, the longest prefix first.
#[derive(Debug, Clone, Default)]
pub struct Routes(Vec<Route>);

/// One way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Which destinations it is for.
    pub to: Ipv4Net,
    /// The interface that leads there.
    pub interface: InterfaceId,
    /// The gateway; `None` where the destination is on the interface's own subnet.
    pub via: Option<Ipv4Addr>,
}

impl Routes {
    /// From routes in any order; of two with the same prefix the earlier wins.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut routes: Vec<_> = routes.into_iter().collect();
        routes.sort_by_key(|route| std::cmp::Reverse(route.to.prefix_len()));
        Self(routes)
    }

    /// The route with the longest prefix that holds `destination`.
    #[inline]
    pub fn to(&self, destination: Ipv4Addr) -> Option<&Route> {
        self.0.iter().find(|route| route.to.contains(&destination))
    }
}
