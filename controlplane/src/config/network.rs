//! `[[interface]]`, `[[route]]` and `[[neighbour]]`: what is on our subnets, and what is behind
//! routers there.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;

use dataplane::snapshot::{self, InterfaceId, MAX_INTERFACES, MAX_PORTS, Routes};
use dataplane::wire::{Address, Prefix};

use super::address::{address, address_or_prefix, each, is_edge, own_address, prefix};
use super::check::{NoWay, clients_way};
use super::{
    Device, Interface, MAX_INTERFACE_ADDRESSES, MAX_NEIGHBOURS, MAX_ROUTES, Neighbour, Route,
    Server, Service, name,
};
use crate::field::{Field, Invalid, Refusals, Shape, Table};

/// Interfaces, routes and neighbours as far as they could be read. Where one of them could not,
/// what depends on it is not judged, so that one mistake is not told as many.
pub(super) struct Network {
    pub interfaces: Vec<Interface>,
    pub routes: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
    /// Whether every interface could be read.
    complete: bool,
    /// Where packets go; `None` if it is not known, because of a mistake.
    ways: Option<Routes>,
    /// Addresses that cannot be virtual or a server's, with who has them: ours, and those that pairs of
    /// `[[nat]]` have outside.
    own: HashMap<Address, String>,
    /// Addresses that cannot be virtual, with who has them.
    others: HashMap<Address, String>,
}

/// Connected subnets, then static routes.
pub(super) fn ways(interfaces: &[Interface], routes: &[Route]) -> Routes {
    let connected = interfaces.iter().zip(0..).flat_map(|(interface, position)| {
        interface.addresses.iter().map(move |subnet| snapshot::Route {
            to: subnet.subnet(),
            interface: InterfaceId(position),
            via: None,
        })
    });
    let fixed = routes.iter().map(|route| snapshot::Route {
        to: route.to,
        interface: route.interface,
        via: Some(route.via),
    });
    Routes::new(connected.chain(fixed))
}

/// The interface and subnet that `address` is on, if there is one; with our own address there.
pub(super) fn connected(
    interfaces: &[Interface],
    address: Address,
) -> Option<(InterfaceId, Prefix)> {
    let subnets = interfaces.iter().zip(0..).flat_map(|(interface, position)| {
        interface.addresses.iter().map(move |&subnet| (InterfaceId(position), subnet))
    });
    // Of equal subnets the first counts: its address is the interface's source.
    subnets
        .filter(|(_, subnet)| subnet.contains(address))
        .min_by_key(|(_, subnet)| Reverse(subnet.length()))
}

impl Network {
    pub fn read(table: &Table<'_>, refusals: &mut Refusals) -> Self {
        let mut network = Self {
            interfaces: Vec::new(),
            routes: Vec::new(),
            neighbours: Vec::new(),
            complete: true,
            ways: None,
            own: HashMap::new(),
            others: HashMap::new(),
        };
        network.complete = network.read_interfaces(&table.at("interface"), refusals).is_some();
        let routes_complete = network.read_routes(&table.at("route"), refusals).is_some();
        if network.complete && routes_complete {
            network.ways = Some(ways(&network.interfaces, &network.routes));
        }
        network.read_neighbours(&table.at("neighbour"), refusals);
        network
    }

    fn connected(&self, address: Address) -> Option<(InterfaceId, Prefix)> {
        connected(&self.interfaces, address)
    }

    /// An address or a prefix that may be published.
    pub fn virtual_addresses(&self, field: &Field<'_>) -> Result<Prefix, Invalid> {
        let prefix = address_or_prefix(field)?;
        each(prefix).try_for_each(|address| self.virtual_address(field, address))?;
        Ok(prefix)
    }

    /// On a subnet of ours (VS-10), and nobody's own (VS-11).
    pub fn virtual_address(&self, field: &Field<'_>, address: Address) -> Result<(), Invalid> {
        if let Some(holder) = self.own.get(&address).or_else(|| self.others.get(&address)) {
            return Err(field.refuse("an address that only this service uses", of(address, holder)));
        }
        if !self.complete {
            return Ok(());
        }
        match self.connected(address) {
            None => Err(field.expected(
                "an address on a subnet of an interface \
                 (give an interface an address on the same subnet first)",
            )),
            Some((_, subnet)) if is_edge(subnet, address) => Err(field.expected(format!(
                "an address of a station on {}, not of the subnet itself",
                subnet.subnet()
            ))),
            Some(_) => Ok(()),
        }
    }

    /// Claims an address that a station of ours has outside; it can be nobody else's.
    pub fn claim(&mut self, address: Address, holder: &str) {
        self.own.entry(address).or_insert_with(|| holder.into());
    }

    /// Whether one of the interfaces has this address.
    pub fn is_ours(&self, address: Address) -> bool {
        let mut own = self.interfaces.iter().flat_map(|interface| &interface.addresses);
        own.any(|prefix| prefix.address() == address)
    }

    /// Whether every interface could be read.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether `address` is known to be on none of our subnets.
    pub fn is_off_link(&self, address: Address) -> bool {
        let Some(ways) = &self.ways else { return false };
        ways.to(address).is_none_or(|way| way.via.is_some())
    }

    /// Whether a server can be asked in the way that its clients' packets take.
    ///
    /// # Errors
    ///
    /// Why it cannot be; where something could not be read, that is not judged.
    pub fn clients_way(&self, service: &Service, server: &Server) -> Result<(), NoWay> {
        match &self.ways {
            Some(ways) => clients_way(&self.interfaces, ways, service, server).map(drop),
            None => Ok(()),
        }
    }

    /// A server's address: within reach, and on a subnet of ours if it must be (FWD-04).
    pub fn server_address(
        &self,
        field: &Field<'_>,
        address: Address,
        must_be_on_link: bool,
    ) -> Result<(), Invalid> {
        if let Some(holder) = self.own.get(&address) {
            return Err(field.refuse("the address of another machine", of(address, holder)));
        }
        let Some(ways) = &self.ways else { return Ok(()) };
        if must_be_on_link && self.is_off_link(address) {
            return Err(field.expected(
                "an address on a subnet of an interface, because direct return \
                 does not pass routers (modes snat, nat and tun do)",
            ));
        }
        if ways.to(address).is_none() {
            return Err(field.expected("an address that an interface or a route leads to"));
        }
        self.no_edge(field, address)
    }

    /// Refuses the address of a subnet of ours itself, and its broadcast address.
    fn no_edge(&self, field: &Field<'_>, address: Address) -> Result<(), Invalid> {
        match self.connected(address) {
            Some((_, subnet)) if is_edge(subnet, address) => Err(field.expected(format!(
                "the address of a station on {}, not of the subnet itself",
                subnet.subnet()
            ))),
            _ => Ok(()),
        }
    }

    /// `None` if anything was refused.
    fn read_interfaces(&mut self, field: &Field<'_>, refusals: &mut Refusals) -> Option<()> {
        let expected = "a list of interfaces, [[interface]] in TOML";
        let items = refusals.keep(field.items(MAX_INTERFACES, expected))?;
        let mut seen = Seen::default();
        let mut complete = Some(());
        for item in items {
            match self.interface(&item, &mut seen, refusals) {
                Some(interface) => self.interfaces.push(interface),
                None => complete = None,
            }
        }
        complete
    }

    fn interface(
        &mut self,
        item: &Field<'_>,
        seen: &mut Seen,
        refusals: &mut Refusals,
    ) -> Option<Interface> {
        let table = item.table(&INTERFACE, refusals)?;
        let name_field = table.at("name");
        let name = name(&name_field).and_then(|name| match seen.names.insert(name.clone()) {
            true => Ok(name),
            false => Err(name_field.expected("a name that no other interface has")),
        });
        let name = refusals.keep(name);
        let vlan_field = table.at("vlan");
        let vlan = refusals.keep(vlan_field.optional(|field| field.number(1..=4094)));
        let vlan = vlan.map(|vlan| vlan.map(|vlan| vlan as u16));
        let device_field = table.at("device");
        let device = device(&device_field).and_then(|device| match vlan {
            // Which of its VLANs it is cannot be said.
            None => Ok(device),
            Some(vlan) => seen.attach(&device_field, &vlan_field, device, vlan),
        });
        let device = refusals.keep(device);
        let mtu = table.at("mtu").or(1500, |field| field.number(576..=9000));
        let mtu = refusals.keep(mtu);
        let addresses = self.addresses(&table.at("addresses"), item.path(), seen, refusals);
        let gateway = refusals.keep(table.at("gateway").or(false, Field::truth));
        Some(Interface {
            name: name?,
            device: device?,
            mtu: mtu? as u16,
            vlan: vlan?,
            addresses: addresses?,
            gateway: gateway?,
        })
    }

    fn addresses(
        &mut self,
        field: &Field<'_>,
        interface: &str,
        seen: &mut Seen,
        refusals: &mut Refusals,
    ) -> Option<Vec<Prefix>> {
        let expected = "a list of addresses with their subnets, such as [\"10.0.0.2/24\"]";
        let items = refusals.keep(field.items(MAX_INTERFACE_ADDRESSES, expected))?;
        if items.is_empty() {
            refusals.add(if field.is_given() {
                field.refuse(expected, "an empty list")
            } else {
                field.expected(expected)
            });
            return None;
        }
        let mut addresses = Vec::new();
        for item in &items {
            let subnet = own_address(item).and_then(|subnet| seen.claim(item, subnet, interface));
            let Some(subnet) = refusals.keep(subnet) else { continue };
            self.own.insert(subnet.address(), interface.into());
            addresses.push(subnet);
        }
        (addresses.len() == items.len()).then_some(addresses)
    }

    fn read_routes(&mut self, field: &Field<'_>, refusals: &mut Refusals) -> Option<()> {
        let items =
            refusals.keep(field.items(MAX_ROUTES, "a list of routes, [[route]] in TOML"))?;
        let mut complete = Some(());
        let mut prefixes: HashSet<Prefix> = self
            .interfaces
            .iter()
            .flat_map(|interface| interface.addresses.iter().map(|subnet| subnet.subnet()))
            .collect();
        for item in items {
            match self.route(&item, &mut prefixes, refusals) {
                Some(route) => self.routes.push(route),
                None => complete = None,
            }
        }
        complete
    }

    fn route(
        &mut self,
        item: &Field<'_>,
        prefixes: &mut HashSet<Prefix>,
        refusals: &mut Refusals,
    ) -> Option<Route> {
        let table = item.table(&ROUTE, refusals)?;
        let to_field = table.at("to");
        let to = prefix(&to_field).and_then(|to| match prefixes.insert(to) {
            true => Ok(to),
            false => Err(to_field.expected("a prefix that no interface and no other route has")),
        });
        let to = refusals.keep(to);
        let via_field = table.at("via");
        let via = self.gateway(&via_field).and_then(|(interface, via)| match to {
            Some(to) if to.address().is_v4() != via.is_v4() => {
                Err(via_field.expected(format!("a gateway of the family of {to}")))
            }
            _ => Ok((interface, via)),
        });
        let via = refusals.keep(via);
        let (interface, via) = via?;
        self.others.entry(via).or_insert_with(|| via_field.path().into());
        Some(Route { to: to?, via, interface })
    }

    fn gateway(&self, field: &Field<'_>) -> Result<(InterfaceId, Address), Invalid> {
        let via = address(field)?;
        if let Some(holder) = self.own.get(&via) {
            return Err(field.refuse("the address of another machine", of(via, holder)));
        }
        match self.connected(via) {
            Some((interface, _)) => self.no_edge(field, via).map(|()| (interface, via)),
            // The interface may be one that could not be read; all is refused in any case.
            None if !self.complete => Ok((InterfaceId(0), via)),
            None => Err(field.expected("an address on a subnet of an interface")),
        }
    }

    fn read_neighbours(&mut self, field: &Field<'_>, refusals: &mut Refusals) -> Option<()> {
        let expected = "a list of neighbours, [[neighbour]] in TOML";
        let items = refusals.keep(field.items(MAX_NEIGHBOURS, expected))?;
        let mut seen = HashSet::new();
        for item in items {
            let Some(neighbour) = self.neighbour(&item, &mut seen, refusals) else { continue };
            let holder = || format!("{}.address", item.path());
            self.others.entry(neighbour.address).or_insert_with(holder);
            self.neighbours.push(neighbour);
        }
        Some(())
    }

    fn neighbour(
        &self,
        item: &Field<'_>,
        seen: &mut HashSet<Address>,
        refusals: &mut Refusals,
    ) -> Option<Neighbour> {
        let table = item.table(&NEIGHBOUR, refusals)?;
        let interface_field = table.at("interface");
        let interface = refusals.keep(self.interface_named(&interface_field));
        let mac = refusals.keep(table.at("mac").parsed(MAC, |text| {
            text.parse().ok().filter(|mac: &dataplane::wire::Mac| mac.is_station())
        }));
        let address_field = table.at("address");
        let address = address(&address_field).and_then(|address| match seen.insert(address) {
            true => Ok(address),
            false => Err(address_field.expected("an address that no other neighbour has")),
        });
        let address = refusals.keep(address)?;
        let on_link = self.neighbour_address(&address_field, address, interface);
        refusals.keep(on_link)?;
        Some(Neighbour { interface: interface?, address, mac: mac? })
    }

    pub fn interface_named(&self, field: &Field<'_>) -> Result<InterfaceId, Invalid> {
        let expected = "the name of an interface";
        let name = field.text(255, expected)?;
        let position = self.interfaces.iter().position(|interface| interface.name == name);
        match position {
            Some(position) => Ok(InterfaceId(position as u8)),
            None if !self.complete => Ok(InterfaceId(0)),
            None => Err(field.expected(expected)),
        }
    }

    fn neighbour_address(
        &self,
        field: &Field<'_>,
        address: Address,
        interface: Option<InterfaceId>,
    ) -> Result<(), Invalid> {
        if let Some(holder) = self.own.get(&address) {
            return Err(field.refuse("the address of another machine", of(address, holder)));
        }
        let Some(interface) = interface.filter(|_| self.complete) else { return Ok(()) };
        if self.connected(address).is_none_or(|(on, _)| on != interface) {
            return Err(field.expected("an address on a subnet of that interface"));
        }
        self.no_edge(field, address)
    }
}

const INTERFACE: Shape =
    Shape { known: &["name", "device", "mtu", "vlan", "addresses", "gateway"], later: &[] };
const ROUTE: Shape = Shape { known: &["to", "via"], later: &[] };
const NEIGHBOUR: Shape = Shape { known: &["interface", "address", "mac"], later: &[] };
const MAC: &str = "a station's hardware address, such as 02:00:00:00:00:11";

/// What earlier interfaces have claimed.
#[derive(Default)]
struct Seen {
    names: HashSet<String>,
    /// Devices by what tells them apart, with the VLANs claimed on them.
    devices: HashMap<String, (Device, HashSet<Option<u16>>)>,
    subnets: Vec<(Prefix, String)>,
}

impl Seen {
    /// Interfaces may share a device, if frames say which of them they are for.
    fn attach(
        &mut self,
        device_field: &Field<'_>,
        vlan_field: &Field<'_>,
        device: Device,
        vlan: Option<u16>,
    ) -> Result<Device, Invalid> {
        let room = self.devices.len() < MAX_PORTS;
        match self.devices.entry(device.identity().into()) {
            Entry::Vacant(_) if !room => {
                Err(device_field.expected(format!("one of at most {MAX_PORTS} devices")))
            }
            Entry::Vacant(free) => {
                free.insert((device.clone(), HashSet::from([vlan])));
                Ok(device)
            }
            Entry::Occupied(mut taken) => {
                let (other, vlans) = taken.get_mut();
                if *other != device {
                    let expected = format!("the same device as before, \"{other}\", or another");
                    return Err(device_field.expected(expected));
                }
                match (vlans.insert(vlan), vlan) {
                    (true, _) => Ok(device),
                    (false, None) => Err(device_field
                        .expected("a device that no other interface has, or a vlan of its own")),
                    (false, Some(_)) => {
                        Err(vlan_field.expected("a vlan that no other interface on the device has"))
                    }
                }
            }
        }
    }

    /// Two interfaces on one subnet would leave open which of them leads there.
    fn claim(
        &mut self,
        item: &Field<'_>,
        subnet: Prefix,
        interface: &str,
    ) -> Result<Prefix, Invalid> {
        let overlaps =
            |other: &Prefix| other.contains(subnet.address()) || subnet.contains(other.address());
        for (other, holder) in &self.subnets {
            if other.address() == subnet.address() {
                return Err(item.expected("an address that stands nowhere else"));
            }
            if holder != interface && overlaps(other) {
                let found = format!("{subnet}, which overlaps with {other} of {holder}");
                return Err(item.refuse("a subnet that no other interface is on", found));
            }
        }
        self.subnets.push((subnet, interface.into()));
        Ok(subnet)
    }
}

fn of(address: Address, holder: &str) -> String {
    format!("\"{address}\", which {holder} has")
}

/// The longest device name with its arguments, in bytes.
const LONGEST_DEVICE: usize = 4095;

fn device(field: &Field<'_>) -> Result<Device, Invalid> {
    let expected = "a PCI address, such as 0000:03:00.0, or kernel:eth1, \
                    or vdev:net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap";
    let text = field.text(LONGEST_DEVICE, expected)?;
    let device = match text.split_once(':') {
        Some(("kernel", name)) => is_kernel_name(name).then(|| Device::Kernel(name.into())),
        Some(("vdev", arguments)) => {
            is_virtual(arguments).then(|| Device::Virtual(arguments.into()))
        }
        _ => pci_address(text).map(Device::Pci),
    };
    device.ok_or_else(|| field.expected(expected))
}

/// As the kernel's `dev_valid_name` has it; a comma would end the name in DPDK's arguments.
fn is_kernel_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && ![".", ".."].contains(&name)
        && name.bytes().all(|letter| letter.is_ascii_graphic() && !b"/:,".contains(&letter))
}

fn is_virtual(arguments: &str) -> bool {
    let name = device_name(arguments);
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
        && !arguments.contains(char::is_control)
}

/// DPDK tells virtual devices apart by what stands before the first comma.
fn device_name(arguments: &str) -> &str {
    arguments.split(',').next().unwrap_or_default()
}

/// Domain (0000 if left out), bus, device and function, in lower case.
fn pci_address(text: &str) -> Option<String> {
    let full = if text.len() == 7 { format!("0000:{text}") } else { text.to_owned() };
    let pattern = b"hhhh:hh:hh.o";
    let fits = full.len() == pattern.len()
        && full.bytes().zip(pattern).all(|(letter, &kind)| match kind {
            b'h' => letter.is_ascii_hexdigit(),
            b'o' => (b'0'..=b'7').contains(&letter),
            mark => letter == mark,
        });
    fits.then(|| full.to_ascii_lowercase())
}

impl Device {
    /// What no two interfaces may have in common.
    fn identity(&self) -> &str {
        match self {
            Self::Pci(text) | Self::Kernel(text) => text,
            Self::Virtual(arguments) => device_name(arguments),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => f.write_str(address),
            Self::Kernel(name) => write!(f, "kernel:{name}"),
            Self::Virtual(arguments) => write!(f, "vdev:{arguments}"),
        }
    }
}
