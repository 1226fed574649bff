//! The configuration in types that cannot hold a mistake. The only way to one is
//! [`Config::read`], which finds every mistake at once:
//!
//! 1. [`system`]: the node, the data plane's and the admin API's settings, each by itself
//! 2. [`network`]: interfaces, then routes and neighbours, which must be on their subnets
//! 3. [`nat`]: translation for stations that reach out through us
//! 4. [`service`]: virtual services, their [`settings`], how they are asked whether they are well
//!    ([`check`]), and their servers ([`server`]), which must be within reach; what concerns two services at once is settled last ([`claims`])
//!
//! 5. [`alerts`]: who is told what changed, and [`trigger`]: what is done then
//!
//! A service's [`agent`] stands in a file of its own. [`address`] reads what stands in all of them; [`difference`] says what one configuration changes about another.

mod system;

mod network;

mod nat;

mod service;

mod settings;

mod check;
mod passive;

mod server;

mod fallback;

mod agent;

mod claims;

pub mod alerts;

pub mod trigger;

mod address;

mod difference;

use std::net::SocketAddr;
use std::path::PathBuf;

use dataplane::snapshot::{self, InterfaceId, PortId};
use dataplane::wire::{Address, Mac, Prefix};
use serde_json::Value;

use self::alerts::Alerts;
use self::trigger::Trigger;
pub use check::{
    Check, ClientsWay, Expect, Http, Kind, Login, Method, OwnCheck, Pace, Payload, Record, Secret,
    Session, Status, Tls,
};

pub use self::agent::{Agent, Method as AgentMethod};
pub(crate) use fallback::is_page;
pub use fallback::{FALLBACK, Fallback};
pub use passive::{MostEjected, Passive};

use crate::document;
pub use crate::document::{
    About, Actual, AgentFormula, Deed, Encapsulation, Happening, Helper, LastServer, MailTls,
    Memory, Mode, NatKind, Polling, Protocol, Scheduler, State, Via,
};
use crate::field::{self, Field, Invalid, Refusals, Shape};
use crate::script::Ground;

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
    /// The directory that scripts may lie in.
    pub scripts: PathBuf,
    /// The user whom scripts run as, if that is not root.
    pub script_user: Option<String>,
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
    /// Translation for stations that reach out through us, in the operator's order.
    pub nat: Vec<NatRule>,
    /// Virtual services.
    pub services: Vec<Service>,
    /// Who is told what changed.
    pub alerts: Alerts,
    /// What is done when something changes, in the operator's order.
    pub triggers: Vec<Trigger>,
}

/// How packets are forwarded.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataplane {
    /// The processor cores that forward; empty if the appliance is to choose.
    pub workers: Vec<u32>,
    /// What a worker does when no packets come.
    pub polling: Polling,
    /// Capacity of each worker's table of IPv4 flows.
    pub flows: u32,
    /// Capacity of each worker's table of IPv6 flows, if the operator says so.
    pub flows_ipv6: Option<u32>,
    /// How many clients the node remembers for services with persistence.
    pub clients: u32,
    /// How many datagrams in parts each worker follows at once.
    pub fragments: u32,
    /// Where packet buffers lie; `None`: on huge pages if there are any.
    pub memory: Option<Memory>,
}

impl Dataplane {
    /// Capacity of each worker's table of IPv6 flows: a quarter of the other's unless the operator says otherwise.
    pub fn flows_ipv6(&self) -> u32 {
        self.flows_ipv6.unwrap_or((self.flows / 4).max(1))
    }
}

/// Where the admin API listens.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// HTTPS, on the kernel's network interfaces.
    pub listen: Vec<SocketAddr>,
    /// On the data ports' own addresses as well, at the same ports.
    pub in_band: bool,
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

/// A network interface of the data plane: a device, or one VLAN on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Which card or virtual device it is on.
    pub device: Device,
    /// The longest IP packet that fits, in bytes, 576 to 9000.
    pub mtu: u16,
    /// Its VLAN, 1 to 4094, which no other interface on the device has; `None` where frames carry no tag.
    pub vlan: Option<u16>,
    /// Our addresses with their subnets, at least one.
    pub addresses: Vec<Prefix>,
    /// Whether stations on its subnets may use us as their gateway.
    pub gateway: bool,
}

/// A device that one or more interfaces are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port<'c> {
    /// Which card or virtual device it is.
    pub device: &'c Device,
    /// The longest IP packet of any of its interfaces, in bytes.
    pub mtu: u16,
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
    pub to: Prefix,
    /// The gateway, on a subnet of `interface`.
    pub via: Address,
    /// The interface that leads to the gateway.
    pub interface: InterfaceId,
}

/// A hardware address that need not be asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbour {
    /// The interface that the station is on.
    pub interface: InterfaceId,
    /// Its address, on a subnet of `interface`.
    pub address: Address,
    /// Its hardware address.
    pub mac: Mac,
}

/// Translation for stations that reach out through us.
#[derive(Debug, Clone, PartialEq)]
pub enum NatRule {
    /// Many stations share our address on the interface that their packets leave on (NAT-01).
    Masquerade {
        /// The interface.
        out: InterfaceId,
        /// Whose packets; see [`NatRule::sources_in`] for what an empty list means.
        from: Vec<Prefix>,
    },
    /// One station has an address of its own outside (NAT-02).
    Pair {
        /// The station's own address.
        inside: Address,
        /// The one that it has outside, of the same family and on a subnet of ours.
        outside: Address,
    },
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its name, which no other service has.
    pub name: String,
    /// Its virtual addresses and prefixes, at least one, apart from each other.
    pub addresses: Vec<Prefix>,
    /// Its ports.
    pub ports: Ports,
    /// What it carries.
    pub protocol: Protocol,
    /// How packets reach servers that say nothing else.
    pub mode: Mode,
    /// How a new flow's server is chosen.
    pub scheduler: Scheduler,
    /// Whether clients return to the server that they had before.
    pub persistence: Option<Persistence>,
    /// How long its flows are remembered, as far as the operator says.
    pub timeouts: Timeouts,
    /// How many new flows it takes.
    pub limits: Limits,
    /// What carries packets to servers of mode `tun` that say nothing else.
    pub encapsulation: Encapsulation,
    /// Their port, with [`Encapsulation::Gue`].
    pub gue_port: u16,
    /// Servers may be clients too.
    pub hairpin: bool,
    /// Segment sizes are lowered to what fits a tunnel.
    pub clamp_mss: bool,
    /// The protocol that needs our help, if the operator says so.
    pub helper: Option<Helper>,
    /// Addresses of ours or virtual ones that packets leave with (SNAT), if the operator says so.
    pub sources: Vec<Address>,
    /// How servers are asked whether they are well.
    pub check: Check,
    /// When a server is left out because of what its connections tell.
    pub passive: Option<Passive>,
    /// Whether a server that is found not to be well keeps its flows (HC-15).
    pub quiescent: bool,
    /// Whether the last of its servers that fails stays in service (ST-05).
    pub last_server: LastServer,
    /// What answers when all its servers have failed (ST-06).
    pub fallback: Fallback,
    /// Whether it takes new flows (VS-20).
    pub enabled: bool,
    /// How long a server that comes back takes to reach its weight, in seconds.
    pub slow_start: u32,
    /// Who gets mails about it, if the operator says so (HC-16).
    pub alerts: Option<Vec<lettre::Address>>,
    /// What its servers are asked about their load, if they are.
    pub agent: Option<Agent>,
    /// Its real servers.
    pub servers: Vec<Server>,
}

/// Clients return to the server that they had before (PER-01).
#[derive(Debug, Clone, PartialEq)]
pub struct Persistence {
    /// How long after its last connection a client is remembered, in seconds.
    pub timeout: u32,
    /// How many bits of an IPv4 client's address count, 1 to 32.
    pub mask: u8,
    /// How many bits of an IPv6 client's address count, 1 to 128.
    pub mask_ipv6: u8,
    /// Services of the same group send a client to the same machine.
    pub group: Option<String>,
    /// Clients return even to a server that drains (PER-11 turned off).
    pub through_drain: bool,
}

/// How long flows are remembered, in seconds, as far as the operator says; [`Service::timeouts()`] is what counts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timeouts {
    /// While a TCP connection stands.
    pub established: Option<u32>,
    /// After a FIN.
    pub closing: Option<u32>,
    /// Between UDP datagrams.
    pub udp: Option<u32>,
    /// After a SYN that nothing followed.
    pub half_open: Option<u32>,
}

/// How many new flows a service takes, on the whole node; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// TCP flows at once that have seen a SYN only; `None`: [`Limits::HALF_OPEN`] a worker.
    pub half_open: Option<u32>,
    /// New flows a second.
    pub new_flows: u32,
    /// New flows a second from one client network.
    pub new_flows_per_client: u32,
    /// How many bits of an IPv4 client's address make its network, 1 to 32.
    pub client_mask: u8,
    /// How many bits of an IPv6 client's address make its network, 1 to 128.
    pub client_mask_ipv6: u8,
}

impl Default for Limits {
    fn default() -> Self {
        let document::Limits {
            half_open,
            new_flows,
            new_flows_per_client,
            client_mask,
            client_mask_ipv6,
        } = document::Limits::default();
        Self { half_open, new_flows, new_flows_per_client, client_mask, client_mask_ipv6 }
    }
}

impl Limits {
    /// Flows at once, on one worker, that have seen a SYN only, unless the operator says otherwise.
    pub const HALF_OPEN: u32 = 16_384;
}

/// A real server.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Its name, which no other server of the service has.
    pub name: String,
    /// Its own address.
    pub address: Address,
    /// How packets reach it.
    pub forwarding: Forwarding,
    /// What carries packets to it, where that is not as the service says; only with [`Forwarding::Tunnel`].
    pub encapsulation: Option<Encapsulation>,
    /// Its share of new flows; 0 lets it drain.
    pub weight: u16,
    /// Servers of the lowest number that has any open come first (ST-12).
    pub priority: u8,
    /// It takes new flows again when it has fewer than so many; below `max_connections`, or 0.
    pub min_connections: u32,
    /// How many flows it has at most; 0 is no limit.
    pub max_connections: u32,
    /// What is wanted of it.
    pub state: State,
    /// How it is asked whether it is well, where that is not as the service says; [`Service::check_of`] is
    /// what counts.
    pub check: Option<OwnCheck>,
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
    /// The same with an address of ours as the source.
    Snat {
        /// The server's port; `None` keeps the one that the client used.
        port: Option<u16>,
    },
    /// Inside another packet.
    Tunnel,
}

impl Forwarding {
    /// Its name in the configuration.
    pub fn mode(self) -> Mode {
        match self {
            Self::DirectReturn => Mode::Dr,
            Self::Nat { .. } => Mode::Nat,
            Self::Snat { .. } => Mode::Snat,
            Self::Tunnel => Mode::Tun,
        }
    }

    /// The server's own port, where it has one.
    pub fn port(self) -> Option<u16> {
        match self {
            Self::Nat { port } | Self::Snat { port } => port,
            Self::DirectReturn | Self::Tunnel => None,
        }
    }
}

/// Ranges of ports, in order and apart from each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// Whether a port is among them.
    pub fn contain(&self, port: u16) -> bool {
        self.ranges().any(|(first, last)| (first..=last).contains(&port))
    }

    /// First and last port of each range.
    pub fn ranges(&self) -> impl Iterator<Item = (u16, u16)> {
        self.0.iter().copied()
    }
}

const CONFIGURATION: Shape = Shape {
    known: &[
        "node",
        "dataplane",
        "admin",
        "interface",
        "route",
        "neighbour",
        "nat",
        "service",
        "alerts",
        "trigger",
    ],
    later: &[
        ("ha", "no ha: a second node is not there yet"),
        ("vrrp", "no vrrp: it is not there yet"),
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

    /// What the operator's programs have in common.
    pub fn ground(&self) -> Ground {
        Ground {
            directory: self.scripts.clone(),
            user: self.script_user.clone(),
            socket: self.admin.socket.clone(),
        }
    }

    fn judge(value: &Value, refusals: &mut Refusals) -> Option<Self> {
        let table = Field::root(value).table(&CONFIGURATION, refusals)?;
        let node = system::node(&table.at("node"), refusals);
        let dataplane = system::dataplane(&table.at("dataplane"), refusals);
        let admin = system::admin(&table.at("admin"), refusals);
        let mut network = network::Network::read(&table, refusals);
        let nat = nat::rules(&table.at("nat"), &mut network, refusals);
        let services = service::services(&table.at("service"), &network, refusals);
        let (via, alerts) = alerts::alerts(&table.at("alerts"), refusals);
        let triggers = trigger::triggers(&table.at("trigger"), via, refusals);
        let document::Node { name: node, scripts, script_user } = node?;
        let alerts = alerts?;
        if refusals.is_empty() {
            alerts::together(&table.at("service"), &alerts, &services, refusals);
            trigger::together(&table.at("trigger"), &triggers, &services, refusals);
        }
        Some(Self {
            node,
            scripts,
            script_user,
            dataplane: dataplane?,
            admin: admin?,
            interfaces: network.interfaces,
            routes: network.routes,
            neighbours: network.neighbours,
            nat,
            services,
            alerts,
            triggers,
        })
    }

    /// The same in the shape that operators write, with every default spelled out. Reading it
    /// again gives the same configuration.
    pub fn document(&self) -> document::Configuration {
        let interface = |id: InterfaceId| self.interfaces[usize::from(id.0)].name.clone();
        document::Configuration {
            node: document::Node {
                name: self.node.clone(),
                scripts: self.scripts.clone(),
                script_user: self.script_user.clone(),
            },
            dataplane: document::Dataplane {
                workers: Some(self.dataplane.workers.clone()).filter(|list| !list.is_empty()),
                polling: self.dataplane.polling,
                flows: self.dataplane.flows,
                flows_ipv6: self.dataplane.flows_ipv6,
                clients: self.dataplane.clients,
                fragments: self.dataplane.fragments,
                memory: self.dataplane.memory,
            },
            admin: document::Admin {
                listen: self.admin.listen.clone(),
                in_band: self.admin.in_band,
                socket: self.admin.socket.clone(),
                certificate: self.admin.certificate.as_ref().map(|files| files.chain.clone()),
                key: self.admin.certificate.as_ref().map(|files| files.key.clone()),
            },
            interface: self.interfaces.iter().map(Interface::document).collect(),
            route: self
                .routes
                .iter()
                .map(|route| document::Route { to: document::net(route.to), via: route.via.into() })
                .collect(),
            neighbour: self
                .neighbours
                .iter()
                .map(|neighbour| document::Neighbour {
                    interface: interface(neighbour.interface),
                    address: neighbour.address.into(),
                    mac: neighbour.mac.to_string(),
                })
                .collect(),
            nat: self.nat.iter().map(|rule| rule.document(interface)).collect(),
            service: self.services.iter().map(Service::document).collect(),
            alerts: self.alerts.document(),
            trigger: self.triggers.iter().map(Trigger::document).collect(),
        }
    }

    /// The ways out: connected subnets, then static routes.
    pub fn ways(&self) -> snapshot::Routes {
        network::ways(&self.interfaces, &self.routes)
    }

    /// The interface that `address` is on a subnet of, and our own address there with the subnet;
    /// `None` if it is on none of them.
    pub fn connected(&self, address: Address) -> Option<(InterfaceId, Prefix)> {
        network::connected(&self.interfaces, address)
    }

    /// The devices in the order in which interfaces name them first: the position is the [`PortId`].
    pub fn ports(&self) -> Vec<Port<'_>> {
        let mut ports: Vec<Port<'_>> = Vec::new();
        for Interface { device, mtu, .. } in &self.interfaces {
            match ports.iter_mut().find(|port| port.device == device) {
                Some(port) => port.mtu = port.mtu.max(*mtu),
                None => ports.push(Port { device, mtu: *mtu }),
            }
        }
        ports
    }

    /// The device that an interface is on.
    pub fn port_of(&self, interface: &Interface) -> PortId {
        let position = self.ports().iter().position(|port| *port.device == interface.device);
        PortId(position.unwrap_or_default() as u8)
    }

    /// The rules of translation in the order in which they are looked up: pairs, then masquerades (NAT-03).
    pub fn nat_in_effect(&self) -> impl Iterator<Item = &NatRule> {
        let is_pair = |rule: &&NatRule| matches!(rule, NatRule::Pair { .. });
        let pairs = self.nat.iter().filter(is_pair);
        pairs.chain(self.nat.iter().filter(move |rule| !is_pair(rule)))
    }
}

impl Interface {
    fn document(&self) -> document::Interface {
        document::Interface {
            name: self.name.clone(),
            device: self.device.to_string(),
            mtu: self.mtu,
            vlan: self.vlan,
            addresses: self.addresses.iter().copied().map(document::net).collect(),
            gateway: self.gateway,
        }
    }
}

impl NatRule {
    fn document(&self, interface: impl Fn(InterfaceId) -> String) -> document::Nat {
        let blank = document::Nat {
            kind: NatKind::Pair,
            out: None,
            from: Vec::new(),
            inside: None,
            outside: None,
        };
        match self {
            Self::Masquerade { out, from } => document::Nat {
                kind: NatKind::Masquerade,
                out: Some(interface(*out)),
                from: from.iter().copied().map(document::net).collect(),
                ..blank
            },
            Self::Pair { inside, outside } => {
                document::Nat { inside: Some(inside.ip()), outside: Some(outside.ip()), ..blank }
            }
        }
    }
}

impl Service {
    fn document(&self) -> document::Service {
        let mut addresses: Vec<_> = self.addresses.iter().copied().map(address::shown).collect();
        let alone = if addresses.len() == 1 { addresses.pop() } else { None };
        document::Service {
            name: self.name.clone(),
            address: alone,
            addresses,
            ports: self.ports.to_string(),
            protocol: self.protocol,
            mode: self.mode,
            scheduler: self.scheduler,
            persistence: self.persistence.as_ref().map(Persistence::document),
            timeouts: self.timeouts.document(),
            limits: self.limits.document(),
            encapsulation: self.encapsulation,
            gue_port: self.gue_port,
            hairpin: self.hairpin,
            clamp_mss: self.clamp_mss,
            helper: self.helper,
            sources: self.sources.iter().map(|source| source.ip()).collect(),
            check: self.check.document(),
            passive: self.passive.map(Passive::document),
            quiescent: self.quiescent,
            last_server: self.last_server,
            fallback: Some(self.fallback.document(self.mode)),
            enabled: self.enabled,
            slow_start: address::seconds(self.slow_start),
            alerts: self.alerts.as_ref().map(|to| document::ServiceAlerts {
                to: to.iter().map(ToString::to_string).collect(),
            }),
            agent: self.agent.as_ref().map(Agent::document).unwrap_or_default(),
            server: self.servers.iter().map(|server| server.document(self.mode)).collect(),
        }
    }

    /// Its virtual addresses one by one.
    pub fn each_address(&self) -> impl Iterator<Item = Address> {
        self.addresses.iter().copied().flat_map(address::each)
    }

    /// The protocols that it carries.
    pub fn protocols(&self) -> &'static [snapshot::Protocol] {
        match self.protocol {
            Protocol::Tcp => &[snapshot::Protocol::Tcp],
            Protocol::Udp => &[snapshot::Protocol::Udp],
            Protocol::Both => &[snapshot::Protocol::Tcp, snapshot::Protocol::Udp],
        }
    }

    /// How long its flows are remembered: what the operator says, or else as usual, and connections no
    /// shorter than clients are (PER-10).
    pub fn timeouts(&self) -> snapshot::Timeouts {
        let usual = snapshot::Timeouts::default();
        let Timeouts { established, closing, udp, half_open } = self.timeouts;
        let clients =
            self.persistence.as_ref().map_or(0, |persistence| persistence.timeout * 1_000);
        let given = |time: Option<u32>| time.map(|seconds| seconds * 1_000);
        snapshot::Timeouts {
            half_open: given(half_open).unwrap_or(usual.half_open),
            established: given(established).unwrap_or(usual.established.max(clients)),
            closing: given(closing).unwrap_or(usual.closing),
            datagrams: given(udp).unwrap_or(usual.datagrams.max(clients)),
        }
    }

    /// Whether FTP's data connections are followed (VS-06): as the operator says, or else where a translated
    /// service has the port of FTP.
    pub fn is_ftp(&self) -> bool {
        let translated = matches!(self.mode, Mode::Nat | Mode::Snat);
        match self.helper {
            Some(helper) => helper == Helper::Ftp,
            None => translated && self.protocol != Protocol::Udp && self.ports.contain(21),
        }
    }
}

impl Service {
    /// Its servers, and last the one that stands for all of them when they have failed.
    pub fn with_fallback(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().chain(self.fallback_server())
    }
}

impl Persistence {
    fn document(&self) -> document::Persistence {
        document::Persistence {
            timeout: address::seconds(self.timeout),
            mask: self.mask,
            mask_ipv6: self.mask_ipv6,
            group: self.group.clone(),
            through_drain: self.through_drain,
        }
    }
}

impl Timeouts {
    fn document(self) -> document::Timeouts {
        let Self { established, closing, udp, half_open } = self;
        let [established, closing, udp, half_open] =
            [established, closing, udp, half_open].map(|time| time.map(address::seconds));
        document::Timeouts { established, closing, udp, half_open }
    }
}

impl Limits {
    fn document(self) -> document::Limits {
        let Self { half_open, new_flows, new_flows_per_client, client_mask, client_mask_ipv6 } =
            self;
        document::Limits {
            half_open,
            new_flows,
            new_flows_per_client,
            client_mask,
            client_mask_ipv6,
        }
    }
}

impl Server {
    /// A mode that is the service's is left out, so that it follows when the service changes.
    fn document(&self, inherited: Mode) -> document::Server {
        document::Server {
            name: Some(self.name.clone()),
            address: self.address.into(),
            port: self.forwarding.port(),
            mode: Some(self.forwarding.mode()).filter(|&mode| mode != inherited),
            encapsulation: self.encapsulation,
            weight: self.weight,
            priority: self.priority,
            min_connections: self.min_connections,
            max_connections: self.max_connections,
            state: self.state,
            check: self.check.as_ref().map(|own| own.written.clone()).unwrap_or_default(),
        }
    }

    /// Whether it is to take new flows, keep those it has, or neither: as wanted, but weight 0 drains, too.
    pub fn wanted(&self) -> State {
        match self.state {
            State::Online if self.weight == 0 => State::Drain,
            state => state,
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

#[cfg(test)]
pub(crate) mod tests;
