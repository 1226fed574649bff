//! Where packets of our own go, and what they leave with: the configuration's interfaces and routes.

use std::collections::HashSet;
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::punt::LONGEST;
use dataplane::snapshot::{Interface, InterfaceId, Routes, is_link_local};
use dataplane::wire::{Address, Prefix, ethernet, gue, ipv4, ipv6};

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
    /// The address that packets of our own leave with; `None` if we have none of their family on the way.
    pub source: Option<IpAddr>,
    /// The longest that may be sent, in bytes, before anything is put around it.
    pub mtu: u16,
}

impl Path {
    /// The address that packets of our own leave with.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn source(&self) -> Result<IpAddr, Error> {
        let none = || Error::new(ErrorKind::AddrNotAvailable, "no address of ours to ask from");
        self.source.ok_or_else(none)
    }
}

impl Paths {
    /// From what the workers are given as well.
    pub fn new(interfaces: Arc<[Interface]>, routes: Arc<Routes>) -> Self {
        let own = interfaces.iter().flat_map(|it| &it.addresses).map(|own| own.address().ip());
        let own = own.collect();
        Self { interfaces, routes, own }
    }

    /// The same without these addresses of ours, because other stations have them.
    pub fn without(&self, lost: &[(InterfaceId, Address)]) -> Self {
        let left = |(interface, id): (&Interface, InterfaceId)| {
            let is_left = |own: &&Prefix| !lost.contains(&(id, own.address()));
            let addresses = interface.addresses.iter().filter(is_left).copied().collect();
            Interface { addresses, ..interface.clone() }
        };
        let interfaces = self.interfaces.iter().zip((0..).map(InterfaceId)).map(left).collect();
        Self::new(interfaces, Arc::clone(&self.routes))
    }

    /// Whether an address is one of our own; virtual addresses are not.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }

    /// One of our interfaces.
    pub fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.interfaces.get(usize::from(id.0))
    }

    /// How packets get to `to`; `None` if no route leads there.
    pub fn path(&self, to: IpAddr, way: Way) -> Option<Path> {
        let to = Address::from(to);
        let station = match way {
            Way::Routed | Way::From { .. } => to,
            Way::Direct { server } | Way::Tunnel { server, .. } => server.into(),
        };
        let (interface, hop) = self.hop(station)?;
        let near = self.interface(interface)?;
        // The hop's subnet has an address of ours, but not where the packet is of the other family, and one that is good on
        // the link alone leads nowhere else.
        let is_of_use = hop.is_v4() == to.is_v4() && (hop == to || !is_link_local(hop));
        let peer = if is_of_use { hop } else { to };
        let source = self.far_source(way).or_else(|| near.source_for(peer).map(Address::ip));
        let room = near.mtu.min((LONGEST - ethernet::HEADER) as u16);
        let mtu = room.checked_sub(overhead(way))?;
        Some(Path { interface, hop, source, mtu })
    }

    /// The address that the way asks for. One that another station has is not missed: the question then tells less, but
    /// nothing that is wrong.
    fn far_source(&self, way: Way) -> Option<IpAddr> {
        let Way::From { source } = way else { return None };
        self.is_own(source).then_some(source)
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

#[cfg(test)]
mod tests {
    use dataplane::snapshot::{PortId, Route};
    use dataplane::wire::Mac;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), length.parse().unwrap())
    }

    /// Two interfaces: the second with two subnets, behind which routers lead further.
    fn paths() -> Paths {
        let interface = |addresses: &[&str], mtu| Interface {
            port: PortId(0),
            vlan: None,
            mac: Mac::default(),
            mtu,
            addresses: addresses.iter().map(|text| prefix(text)).collect(),
            gateway: false,
        };
        let lan = ["10.2.0.2/24", "10.3.0.2/24", "2001:db8:2::2/64", "fe80::2/64"];
        let interfaces = [interface(&["10.1.0.2/24"], 9000), interface(&lan, 1500)];
        let route = |to: &str, interface, via: Option<&str>| {
            let via = via.map(|via| via.parse().unwrap());
            Route { to: prefix(to), interface: InterfaceId(interface), via }
        };
        let routes = Routes::new([
            route("10.1.0.0/24", 0, None),
            route("10.2.0.0/24", 1, None),
            route("10.3.0.0/24", 1, None),
            route("2001:db8:2::/64", 1, None),
            route("172.16.0.0/12", 1, Some("10.3.0.1")),
            route("2001:db8:7::/64", 1, Some("fe80::1")),
        ]);
        Paths::new(interfaces.into(), Arc::new(routes))
    }

    fn shown(to: &str, way: Way) -> Option<(u8, String, String, u16)> {
        shown_by(&paths(), to, way)
    }

    fn shown_by(paths: &Paths, to: &str, way: Way) -> Option<(u8, String, String, u16)> {
        let Path { interface, hop, source, mtu } = paths.path(to.parse().unwrap(), way)?;
        let source = source.map_or("nobody".into(), |source| source.to_string());
        Some((interface.0, hop.to_string(), source, mtu))
    }

    fn path(interface: u8, hop: &str, source: &str, mtu: u16) -> Option<(u8, String, String, u16)> {
        Some((interface, hop.into(), source.into(), mtu))
    }

    #[test]
    fn packets_leave_with_our_address_on_the_next_station_s_subnet() {
        assert_eq!(shown("10.2.0.9", Way::Routed), path(1, "10.2.0.9", "10.2.0.2", 1500));
        assert_eq!(shown("172.16.0.9", Way::Routed), path(1, "10.3.0.1", "10.3.0.2", 1500));
        let far = shown("2001:db8:7::9", Way::Routed);
        assert_eq!(far, path(1, "fe80::1", "2001:db8:2::2", 1500), "not the link's own");
        assert_eq!(shown("192.0.2.9", Way::Routed), None);
        let long = (LONGEST - ethernet::HEADER) as u16;
        assert_eq!(shown("10.1.0.9", Way::Routed), path(0, "10.1.0.9", "10.1.0.2", long));
    }

    #[test]
    fn a_virtual_address_is_reached_over_the_server() {
        let server = "10.3.0.9".parse().unwrap();
        let direct = Way::Direct { server };
        assert_eq!(shown("192.0.2.1", direct), path(1, "10.3.0.9", "10.3.0.2", 1500));
        let tunnel = Way::Tunnel { server, gue_port: None };
        assert_eq!(shown("192.0.2.1", tunnel), path(1, "10.3.0.9", "10.3.0.2", 1480));
        let tunnel = Way::Tunnel { server, gue_port: Some(6080) };
        let other = shown("2001:db8:9::1", tunnel);
        assert_eq!(other, path(1, "10.3.0.9", "2001:db8:2::2", 1468), "the other family inside");
        let server = "10.1.0.9".parse().unwrap();
        let other = shown("2001:db8:9::1", Way::Direct { server });
        let long = (LONGEST - ethernet::HEADER) as u16;
        assert_eq!(other, path(0, "10.1.0.9", "nobody", long), "we have none there");
    }

    /// AR-08.
    #[test]
    fn packets_leave_with_the_far_address_that_is_asked_for_and_go_where_others_do() {
        let from = |source: &str| Way::From { source: source.parse().unwrap() };
        assert_eq!(shown("10.2.0.9", from("10.1.0.2")), path(1, "10.2.0.9", "10.1.0.2", 1500));
        assert_eq!(shown("172.16.0.9", from("10.1.0.2")), path(1, "10.3.0.1", "10.1.0.2", 1500));
        let strange = shown("10.2.0.9", from("192.0.2.7"));
        assert_eq!(
            strange,
            path(1, "10.2.0.9", "10.2.0.2", 1500),
            "never with one that is not ours"
        );
        let lost = (InterfaceId(0), "10.1.0.2".parse().unwrap());
        let near = shown_by(&paths().without(&[lost]), "10.2.0.9", from("10.1.0.2"));
        assert_eq!(near, path(1, "10.2.0.9", "10.2.0.2", 1500), "the same as the first question");
    }

    #[test]
    fn an_address_that_another_station_has_is_ours_no_more_and_nothing_leaves_with_it() {
        let lost = |text: &str| (InterfaceId(1), text.parse().unwrap());
        let without = paths().without(&[lost("10.3.0.2"), lost("10.1.0.2")]);
        let other = shown_by(&without, "10.3.0.9", Way::Routed);
        assert_eq!(other, path(1, "10.3.0.9", "10.2.0.2", 1500), "another one of the interface");
        assert!(!without.is_own("10.3.0.2".parse().unwrap()));
        assert!(without.is_own("10.1.0.2".parse().unwrap()), "it is on another interface");
        let without = without.without(&[lost("10.2.0.2")]);
        let none = shown_by(&without, "10.3.0.9", Way::Routed);
        assert_eq!(none, path(1, "10.3.0.9", "nobody", 1500), "virtual addresses still answer");
    }

    #[test]
    fn own_addresses_are_those_of_the_interfaces() {
        let own = |text: &str| paths().is_own(text.parse().unwrap());
        assert!(own("10.1.0.2") && own("fe80::2"));
        assert!(!own("10.1.0.3") && !own("10.1.0.0"));
    }
}
