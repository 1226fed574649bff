//! The configuration in types that cannot hold a mistake. The only way to one is
//! [`Config::read`], which finds every mistake at once:
//!
//! 1. [`system`]: the node, the data plane's and the admin API's settings, each by itself
//! 2. [`network`]: interfaces, then routes and neighbours, which must be on their subnets
//! 3. [`service`]: virtual services and their servers, which must be within reach
//!
//! [`difference`] says what one configuration changes about another.

mod system;

mod network;

mod service;

mod difference;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use dataplane::snapshot::{self, InterfaceId};
use dataplane::wire::Mac;
use ipnet::Ipv4Net;
use serde_json::Value;

use crate::document;
pub use crate::document::{Memory, Mode, Polling, Protocol, Scheduler};
use crate::field::{self, Field, Invalid, Refusals, Shape};

/// How many static routes a node can have.
pub const MAX_ROUTES: usize = 1024;
/// How many static neighbours a node can have.
pub const MAX_NEIGHBOURS: usize = 4096;
/// How many addresses an interface can have.
pub const MAX_INTERFACE_ADDRESSES: usize = 16;

/// A whole configuration, without a mistake.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The appliance's name.
    pub node: String,
    /// How packets are forwarded.
    pub dataplane: Dataplane,
    /// Where the admin API listens.
    pub admin: Admin,
    /// Network interfaces; the position is the [`InterfaceId`].
    pub interfaces: Vec<Interface>,
    /// Static routes.
    pub routes: Vec<Route>,
    /// Hardware addresses that need not be asked for.
    pub neighbours: Vec<Neighbour>,
    /// Virtual services.
    pub services: Vec<Service>,
}

/// How packets are forwarded.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataplane {
    /// The processor cores that forward; empty if the appliance is to choose.
    pub workers: Vec<u32>,
    /// What a worker does when no packets come.
    pub polling: Polling,
    /// Capacity of each worker's flow table.
    pub flows: u32,
    /// Where packet buffers lie; `None`: on huge pages if there are any.
    pub memory: Option<Memory>,
}

/// Where the admin API listens.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// HTTPS, on the kernel's network interfaces.
    pub listen: Vec<SocketAddr>,
    /// The Unix socket.
    pub socket: PathBuf,
    /// The operator's certificate, if there is one.
    pub certificate: Option<Certificate>,
}

/// A certificate with its key, both in PEM.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// The file with the certificate chain.
    pub chain: PathBuf,
    /// The file with the private key.
    pub key: PathBuf,
}

/// A network interface of the data plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Which card or virtual device it is.
    pub device: Device,
    /// The longest IP packet that fits, in bytes, 576 to 9000.
    pub mtu: u16,
    /// Our addresses with their subnets, at least one.
    pub addresses: Vec<Ipv4Net>,
}

/// Which card or virtual device an interface is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Device {
    /// A card by its full PCI address in lower case, `0000:03:00.0`.
    Pci(String),
    /// An interface of the Linux kernel, by name.
    Kernel(String),
    /// A virtual device of DPDK, by its arguments.
    Virtual(String),
}

/// A static route.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Which destinations it is for; no host bits are set.
    pub to: Ipv4Net,
    /// The gateway, on a subnet of `interface`.
    pub via: Ipv4Addr,
    /// The interface that leads to the gateway.
    pub interface: InterfaceId,
}

/// A hardware address that need not be asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbour {
    /// The interface that the station is on.
    pub interface: InterfaceId,
    /// Its address, on a subnet of `interface`.
    pub address: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its name, which no other service has.
    pub name: String,
    /// Its virtual addresses, at least one.
    pub addresses: Vec<Ipv4Addr>,
    /// Its ports.
    pub ports: Ports,
    /// What it carries.
    pub protocol: Protocol,
    /// How packets reach servers that say nothing else.
    pub mode: Mode,
    /// How a new flow's server is chosen.
    pub scheduler: Scheduler,
    /// Its real servers.
    pub servers: Vec<Server>,
}

/// A real server.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Its name, which no other server of the service has.
    pub name: String,
    /// Its own address.
    pub address: Ipv4Addr,
    /// How packets reach it.
    pub forwarding: Forwarding,
    /// Its share of new flows; 0 lets it drain.
    pub weight: u16,
}

/// How packets reach a real server. Only NAT can change the port (FWD-02).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// Direct return.
    DirectReturn,
    /// Network address translation.
    Nat {
        /// The server's port; `None` keeps the one that the client used.
        port: Option<u16>,
    },
    /// IP in IP.
    Tunnel,
}

impl Forwarding {
    /// Its name in the configuration.
    pub fn mode(self) -> Mode {
        match self {
            Self::DirectReturn => Mode::Dr,
            Self::Nat { .. } => Mode::Nat,
            Self::Tunnel => Mode::Tun,
        }
    }

    /// The server's own port, where it has one.
    pub fn port(self) -> Option<u16> {
        match self {
            Self::Nat { port } => port,
            Self::DirectReturn | Self::Tunnel => None,
        }
    }
}

/// Ranges of ports, in order and apart from each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// First and last port of each range.
    pub fn ranges(&self) -> impl Iterator<Item = (u16, u16)> {
        self.0.iter().copied()
    }
}

const CONFIGURATION: Shape = Shape {
    known: &["node", "dataplane", "admin", "interface", "route", "neighbour", "service"],
    later: &[
        ("ha", "no ha: a second node is not there yet"),
        ("vrrp", "no vrrp: it is not there yet"),
        ("nat", "no nat rules: they are not there yet (mode = \"nat\" of a service is)"),
        ("user", "no user: users are not there yet (the token in admin.token is)"),
    ],
};

impl Config {
    /// The configuration that `text` describes, in TOML.
    ///
    /// # Errors
    /// Every mistake in it, or the place where it stops being TOML.
    pub fn from_toml(text: &str) -> Result<Self, Vec<Invalid>> {
        let value = field::tree(text).map_err(|mistake| vec![mistake])?;
        Self::read(&value)
    }

    /// The configuration that `value` describes.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(value: &Value) -> Result<Self, Vec<Invalid>> {
        let mut refusals = Refusals::default();
        match Self::judge(value, &mut refusals) {
            Some(config) if refusals.is_empty() => Ok(config),
            _ => Err(refusals.into_told()),
        }
    }

    fn judge(value: &Value, refusals: &mut Refusals) -> Option<Self> {
        let table = Field::root(value).table(&CONFIGURATION, refusals)?;
        let node = system::node(&table.at("node"), refusals);
        let dataplane = system::dataplane(&table.at("dataplane"), refusals);
        let admin = system::admin(&table.at("admin"), refusals);
        let network = network::Network::read(&table, refusals);
        let services = service::services(&table.at("service"), &network, refusals);
        Some(Self {
            node: node?,
            dataplane: dataplane?,
            admin: admin?,
            interfaces: network.interfaces,
            routes: network.routes,
            neighbours: network.neighbours,
            services,
        })
    }

    /// The same in the shape that operators write, with every default spelled out. Reading it
    /// again gives the same configuration.
    pub fn document(&self) -> document::Configuration {
        let interface = |id: InterfaceId| self.interfaces[usize::from(id.0)].name.clone();
        document::Configuration {
            node: document::Node { name: self.node.clone() },
            dataplane: document::Dataplane {
                workers: Some(self.dataplane.workers.clone()).filter(|list| !list.is_empty()),
                polling: self.dataplane.polling,
                flows: self.dataplane.flows,
                memory: self.dataplane.memory,
            },
            admin: document::Admin {
                listen: self.admin.listen.clone(),
                in_band: false,
                socket: self.admin.socket.clone(),
                certificate: self.admin.certificate.as_ref().map(|files| files.chain.clone()),
                key: self.admin.certificate.as_ref().map(|files| files.key.clone()),
            },
            interface: self.interfaces.iter().map(Interface::document).collect(),
            route: self
                .routes
                .iter()
                .map(|route| document::Route { to: route.to, via: route.via })
                .collect(),
            neighbour: self
                .neighbours
                .iter()
                .map(|neighbour| document::Neighbour {
                    interface: interface(neighbour.interface),
                    address: neighbour.address,
                    mac: neighbour.mac.to_string(),
                })
                .collect(),
            service: self.services.iter().map(Service::document).collect(),
        }
    }

    /// The ways out: connected subnets, then static routes.
    pub fn ways(&self) -> snapshot::Routes {
        network::ways(&self.interfaces, &self.routes)
    }

    /// The interface that `address` is on a subnet of, and our own address there with the subnet;
    /// `None` if it is on none of them.
    pub fn connected(&self, address: Ipv4Addr) -> Option<(InterfaceId, Ipv4Net)> {
        network::connected(&self.interfaces, address)
    }
}

impl Interface {
    fn document(&self) -> document::Interface {
        document::Interface {
            name: self.name.clone(),
            device: self.device.to_string(),
            mtu: self.mtu,
            addresses: self.addresses.clone(),
        }
    }
}

impl Service {
    fn document(&self) -> document::Service {
        let alone = match self.addresses[..] {
            [address] => Some(address),
            _ => None,
        };
        document::Service {
            name: self.name.clone(),
            address: alone,
            addresses: if alone.is_some() { Vec::new() } else { self.addresses.clone() },
            ports: self.ports.to_string(),
            protocol: self.protocol,
            mode: self.mode,
            scheduler: self.scheduler,
            check: document::Check::default(),
            server: self.servers.iter().map(|server| server.document(self.mode)).collect(),
        }
    }

    /// The protocols that it carries.
    pub fn protocols(&self) -> &'static [snapshot::Protocol] {
        match self.protocol {
            Protocol::Tcp => &[snapshot::Protocol::Tcp],
            Protocol::Udp => &[snapshot::Protocol::Udp],
            Protocol::Both => &[snapshot::Protocol::Tcp, snapshot::Protocol::Udp],
        }
    }
}

impl Server {
    /// A mode that is the service's is left out, so that it follows when the service changes.
    fn document(&self, inherited: Mode) -> document::Server {
        document::Server {
            name: Some(self.name.clone()),
            address: self.address,
            port: self.forwarding.port(),
            mode: Some(self.forwarding.mode()).filter(|&mode| mode != inherited),
            weight: self.weight,
            max_connections: 0,
        }
    }
}

/// What a name must be.
const NAME: &str = "a name of 1 to 63 letters, digits, dots, hyphens and underscores, \
                    which begins with a letter or digit";

fn name(field: &Field<'_>) -> Result<String, Invalid> {
    field.parsed(NAME, |text| is_name(text, b"._-").then(|| text.into()))
}

/// A name stands in paths of the API, so it must not look like `..`.
fn is_name(text: &str, marks: &[u8]) -> bool {
    let plain = |letter: u8| letter.is_ascii_alphanumeric() || marks.contains(&letter);
    (1..=63).contains(&text.len())
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text.bytes().all(plain)
}

/// What an address must be.
const ADDRESS: &str = "an address, such as 10.0.0.7";

/// An address that a station can have.
fn address(field: &Field<'_>) -> Result<Ipv4Addr, Invalid> {
    let text = field.text(255, ADDRESS)?;
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(field.expected(format!("{ADDRESS} (IPv6 is not there yet)")));
    }
    let address: Ipv4Addr = text.parse().map_err(|_| field.expected(ADDRESS))?;
    if is_station(address) {
        Ok(address)
    } else {
        Err(field.expected("the address of a station, such as 10.0.0.7"))
    }
}

/// Not "this network" (RFC 1122), loopback, multicast, reserved or broadcast.
fn is_station(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 127 | 224..)
}

#[cfg(test)]
pub(crate) mod tests;
