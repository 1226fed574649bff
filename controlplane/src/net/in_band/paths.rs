//! Where packets of our own go, and what they leave with: the configuration's interfaces and routes.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::punt::LONGEST;
use dataplane::snapshot::{Interface, InterfaceId, Routes};
use dataplane::wire::{Address, ethernet, gue, ipv4, ipv6};

use crate::net::Way;

/// Everything that one configuration says about packets of our own.
#[derive(Debug, Default)]
pub struct Paths {
    interfaces: Arc<[Interface]>,
    routes: Arc<Routes>,
    own: HashSet<IpAddr>,
}

/// How packets get from us to some address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The interface that they leave on.
    pub interface: InterfaceId,
    /// The station that they are handed to.
    pub hop: Address,
    /// The address that they leave with.
    pub source: IpAddr,
    /// The longest that may be sent, in bytes, before anything is put around it.
    pub mtu: u16,
}

impl Paths {
    /// From what the workers are given as well.
    pub fn new(interfaces: Arc<[Interface]>, routes: Arc<Routes>) -> Self {
        let own = interfaces.iter().flat_map(|it| &it.addresses).map(|own| own.address().ip());
        let own = own.collect();
        Self { interfaces, routes, own }
    }

    /// Whether an address is one of our own; virtual addresses are not.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }

    /// One of our interfaces.
    pub fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.interfaces.get(usize::from(id.0))
    }

    /// How packets get to `to`; `None` if no route leads there, or we have no address of its family on
    /// the way.
    pub fn path(&self, to: IpAddr, way: Way) -> Option<Path> {
        let to = Address::from(to);
        let station = match way {
            Way::Routed => to,
            Way::Direct { server } | Way::Tunnel { server, .. } => server.into(),
        };
        let (interface, hop) = self.hop(station)?;
        let near = self.interface(interface)?;
        // The hop's subnet has an address of ours; where the packet is of the other family, it is no help.
        let peer = if hop.is_v4() == to.is_v4() { hop } else { to };
        let source = near.source_for(peer)?.ip();
        let room = near.mtu.min((LONGEST - ethernet::HEADER) as u16);
        let mtu = room.checked_sub(overhead(way))?;
        Some(Path { interface, hop, source, mtu })
    }

    /// The next station on the way to another.
    fn hop(&self, station: Address) -> Option<(InterfaceId, Address)> {
        let route = self.routes.to(station)?;
        Some((route.interface, route.via.unwrap_or(station)))
    }
}

/// How much longer packets become on the way, in bytes.
fn overhead(way: Way) -> u16 {
    let Way::Tunnel { server, gue_port } = way else { return 0 };
    let outer = if server.is_ipv4() { ipv4::HEADER } else { ipv6::HEADER };
    let between = if gue_port.is_some() { gue::HEADERS } else { 0 };
    (outer + between) as u16
}
