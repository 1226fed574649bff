//! The configuration as a burst sees it: everything that forwarding needs, built whole by the
//! control plane and swapped whole by [`Publisher`].
//!
//! Nothing here changes after it was published, but for what the control plane waits for ([`Snapshot::answers`]). What must survive a change of configuration (flows,
//! persistence, scheduler positions, counters) lives outside, and names services and servers by
//! identities that stay the same for as long as the operator keeps the name.

mod endpoints;

mod nat;

mod routes;

mod service;

mod swap;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::punt::answers::Answers;
use crate::wire::{Address, Mac, Prefix};

pub use nat::{Masquerade, NatRules};
pub use routes::{Route, Routes};
pub use service::{
    Admission, Candidates, Encapsulation, Host, Limits, Mode, Options, Persistence, Protocol,
    Scheduler, Server, ServerId, Service, ServiceId, Services, TRANSLATED_PORTS, Timeouts,
};
pub use swap::{Publisher, Reader, publication};

/// How many services a node can have at once.
pub const MAX_SERVICES: usize = 16_384;
/// How many real servers a node can have at once, over all services.
pub const MAX_SERVERS: usize = 65_536;
/// How many interfaces a node can have.
pub const MAX_INTERFACES: usize = 64;
/// How many devices a node can have; interfaces with different VLAN tags may share one.
pub const MAX_PORTS: usize = 16;

/// A map from what stands in packets, with a hash that is seeded anew in every process.
pub type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
/// A set of what stands in packets.
pub type Set<K> = HashSet<K, foldhash::fast::RandomState>;
/// Stations on our subnets whose hardware address is known.
pub type Neighbours = Map<(InterfaceId, Address), Mac>;

/// One configuration, whole.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts up with every publication, from 1.
    pub generation: u64,
    /// The position in this list is the interface's [`InterfaceId`].
    pub interfaces: Arc<[Interface]>,
    /// Our own and the virtual addresses: what is answered with ARP, neighbour discovery and ICMP echo.
    pub locals: Arc<Set<Address>>,
    /// Our own among them, those of the interfaces: what the control plane itself talks from and listens at.
    pub own: Arc<Set<Address>>,
    /// The virtual services.
    pub services: Arc<Services>,
    /// Real servers by slot; `None` where no server has that slot now.
    pub servers: Arc<[Option<Server>]>,
    /// Where packets for any other address go.
    pub routes: Arc<Routes>,
    /// Stations on our subnets whose hardware address is known now.
    pub neighbours: Arc<Neighbours>,
    /// Translation for servers that reach out through us.
    pub nat: Arc<NatRules>,
    /// Which packets for our own addresses the control plane waits for. The same in all snapshots of a node, and changes
    /// under them.
    pub answers: Answers,
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

    /// The interface that frames with this VLAN tag (`None`: untagged) arrive on at a device.
    #[inline]
    pub fn interface_at(&self, port: PortId, vlan: Option<u16>) -> Option<InterfaceId> {
        let found = self.interfaces.iter().position(|it| it.port == port && it.vlan == vlan);
        found.map(|position| InterfaceId(position as u8))
    }

    /// Whether any interface's stations may use us as their gateway.
    #[inline]
    pub fn has_gateway(&self) -> bool {
        self.interfaces.iter().any(|interface| interface.gateway)
    }

    /// The way to `destination`: the longest matching prefix, then the neighbour on it.
    #[inline]
    pub fn hop_to(&self, destination: Address) -> Option<Hop> {
        let route = self.routes.to(destination)?;
        Some(self.hop(route.interface, route.via.unwrap_or(destination)))
    }

    /// The neighbour with this address.
    #[inline]
    pub fn hop(&self, interface: InterfaceId, address: Address) -> Hop {
        Hop { interface, address, mac: self.neighbours.get(&(interface, address)).copied() }
    }
}

/// Which device, as a position in the list of a worker's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PortId(pub u8);

/// Which interface, as a position in [`Snapshot::interfaces`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct InterfaceId(pub u8);

/// One of our interfaces: a device, or one VLAN on it.
#[derive(Debug, Clone)]
pub struct Interface {
    /// The device that it is on.
    pub port: PortId,
    /// Its VLAN (1 to 4094, IEEE 802.1Q); `None` where frames carry no tag.
    pub vlan: Option<u16>,
    /// Our hardware address there.
    pub mac: Mac,
    /// The longest IP packet that fits, in bytes.
    pub mtu: u16,
    /// Our addresses with their subnets; the first of a family is the source of what we send ourselves.
    pub addresses: Vec<Prefix>,
    /// Whether stations on its subnets may use us as their gateway.
    pub gateway: bool,
}

impl Interface {
    /// The address that packets of our own to an address like `peer` leave with: the one in the same
    /// subnet, or else the first of the same family that is not link-local.
    #[inline]
    pub fn source_for(&self, peer: Address) -> Option<Address> {
        let near = self.addresses.iter().find(|prefix| prefix.contains(peer));
        let usable = |prefix: &&Prefix| {
            prefix.address().is_v4() == peer.is_v4() && !is_link_local(prefix.address())
        };
        near.or_else(|| self.addresses.iter().find(usable)).map(|prefix| prefix.address())
    }
}

/// Whether this is an IPv6 address that is good on one link alone (RFC 4291 section 2.5.6).
#[inline]
pub fn is_link_local(address: Address) -> bool {
    address.bits() >> 118 == 0xfe80 >> 6
}

/// The next station on the way to some address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The interface it is on.
    pub interface: InterfaceId,
    /// Its address: the destination itself, or a gateway.
    pub address: Address,
    /// Its hardware address, if it is known now.
    pub mac: Option<Mac>,
}
