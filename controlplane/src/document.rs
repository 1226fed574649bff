//! The shape of a configuration as operators and other programs see it: for the API's answers, its
//! description and its client. What comes in is judged by [`crate::config`], not by these types,
//! because they would stop at the first mistake.

mod alerts;

mod agent;
mod check;
mod passive;
mod trigger;

mod fallback;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use dataplane::wire::Prefix;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::agent::{Agent, AgentFormula, AgentMethod};
pub use self::alerts::{About, Alerts, Mail, MailTls, ServiceAlerts, Via, Webhook};
pub use self::trigger::{Action, Actual, Deed, Happening, On, Trigger};
pub use check::{Check, CheckKind};
pub use fallback::{Fallback, FallbackPage, FallbackServer, LastServer, PlainFallback};
pub use passive::{MostEjected, Passive};

/// A whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Configuration {
    /// The appliance itself.
    pub node: Node,
    /// How packets are forwarded.
    pub dataplane: Dataplane,
    /// Where this API listens.
    pub admin: Admin,
    /// Network interfaces.
    pub interface: Vec<Interface>,
    /// Static routes.
    pub route: Vec<Route>,
    /// Hardware addresses that need not be asked for.
    pub neighbour: Vec<Neighbour>,
    /// Translation for servers that reach out through us.
    pub nat: Vec<Nat>,
    /// Virtual services.
    pub service: Vec<Service>,
    /// Who is told what changed.
    pub alerts: Alerts,
    /// What is done when something changes.
    pub trigger: Vec<Trigger>,
}

/// The appliance itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Its name: 1 to 63 letters, digits, dots, hyphens and underscores.
    #[schema(example = "lb1", min_length = 1, max_length = 63)]
    pub name: String,
    /// The directory that scripts lie in, or below it.
    #[schema(value_type = String, example = "/etc/sluice/scripts")]
    pub scripts: PathBuf,
    /// The user of the system whom scripts run as; root if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "nobody")]
    pub script_user: Option<String>,
}

impl Default for Node {
    fn default() -> Self {
        Self { name: "sluice".into(), scripts: "/etc/sluice/scripts".into(), script_user: None }
    }
}

/// How packets are forwarded. None of this changes without a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dataplane {
    /// The processor cores that forward; chosen by the appliance if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = json!([1, 2]))]
    pub workers: Option<Vec<u32>>,
    /// What a worker does when no packets come.
    pub polling: Polling,
    /// Capacity of each worker's table of IPv4 flows.
    #[schema(minimum = 1, maximum = 100_000_000, default = 1_000_000)]
    pub flows: u32,
    /// Capacity of each worker's table of IPv6 flows; a quarter of `flows` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100_000_000)]
    pub flows_ipv6: Option<u32>,
    /// How many clients the node remembers for services with persistence.
    #[schema(minimum = 1024, maximum = 16_777_216, default = 262_144)]
    pub clients: u32,
    /// How many datagrams in parts each worker follows at once.
    #[schema(minimum = 16, maximum = 1_048_576, default = 4096)]
    pub fragments: u32,
    /// Where packet buffers lie; if absent, on huge pages if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

impl Default for Dataplane {
    fn default() -> Self {
        Self {
            workers: None,
            polling: Polling::default(),
            flows: 1_000_000,
            flows_ipv6: None,
            clients: 262_144,
            fragments: 4096,
            memory: None,
        }
    }
}

/// What a worker does when no packets come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Polling {
    /// It rests, for longer and longer.
    #[default]
    Adaptive,
    /// It asks again at once.
    Busy,
}

/// Where packet buffers lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Memory {
    /// On huge pages.
    Huge,
    /// On ordinary pages: slower, and needs no preparation.
    Plain,
}

/// Where the admin API listens. None of this changes without a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// HTTPS, on the kernel's network interfaces.
    #[schema(value_type = Vec<String>, example = json!(["127.0.0.1:9443"]))]
    pub listen: Vec<SocketAddr>,
    /// Also on the data ports' own addresses, at the ports of `listen`.
    pub in_band: bool,
    /// A Unix socket for root, which needs no token.
    #[schema(value_type = String, example = "/run/sluice/admin.sock")]
    pub socket: PathBuf,
    /// A certificate chain in PEM; without it one is made at the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub certificate: Option<PathBuf>,
    /// The certificate's private key in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub key: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 9443))],
            in_band: false,
            socket: "/run/sluice/admin.sock".into(),
            certificate: None,
            key: None,
        }
    }
}

/// A network interface of the data plane: a device, or one VLAN on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Its name, for other parts of the configuration.
    #[schema(example = "wan", min_length = 1, max_length = 63)]
    pub name: String,
    /// `0000:03:00.0` (PCI), `kernel:eth1` or `vdev:net_pcap0,rx_pcap=in.pcap`.
    #[schema(example = "kernel:eth1")]
    pub device: String,
    /// The longest IP packet that fits, in bytes.
    #[serde(default = "default_mtu")]
    #[schema(minimum = 576, maximum = 9000, default = 1500)]
    pub mtu: u16,
    /// Its VLAN; frames carry no tag if absent. Interfaces with different tags may share a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4094, example = 5)]
    pub vlan: Option<u16>,
    /// Our addresses with their subnets; the first of a family is the source of what we send ourselves.
    #[schema(value_type = Vec<String>, example = json!(["10.0.0.2/24", "2001:db8::2/64"]))]
    pub addresses: Vec<IpNet>,
    /// Whether stations on its subnets may use us as their gateway.
    #[serde(default)]
    pub gateway: bool,
}

fn default_mtu() -> u16 {
    1500
}

/// A static route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Which destinations it is for.
    #[schema(value_type = String, example = "0.0.0.0/0")]
    pub to: IpNet,
    /// The gateway, on an interface's own subnet.
    #[schema(value_type = String, example = "10.0.0.1")]
    pub via: IpAddr,
}

/// A hardware address that need not be asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// The interface that the station is on, by name.
    #[schema(example = "wan")]
    pub interface: String,
    /// Its address.
    #[schema(value_type = String, example = "10.0.0.11")]
    pub address: IpAddr,
    /// Its hardware address.
    #[schema(example = "02:00:00:00:00:11")]
    pub mac: String,
}

/// Translation for servers that reach out through us.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nat {
    /// What kind of rule it is.
    pub kind: NatKind,
    /// `masquerade`: the interface that packets leave on, by name. They take our address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "wan")]
    pub out: Option<String>,
    /// `masquerade`: whose packets; all on subnets of other interfaces that are gateways if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, example = json!(["192.168.1.0/24"]))]
    pub from: Vec<IpNet>,
    /// `pair`: the station's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "192.168.1.13")]
    pub inside: Option<IpAddr>,
    /// `pair`: the address that it has outside, which we answer for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "203.0.113.45")]
    pub outside: Option<IpAddr>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NatKind {
    /// Many stations share one address of ours.
    Masquerade,
    /// One station has an address of its own outside, in both directions.
    Pair,
}

/// A virtual service: what clients connect to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name.
    #[schema(example = "web", min_length = 1, max_length = 63)]
    pub name: String,
    /// Its virtual address, or a prefix of at most 256 of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.0.0.100")]
    pub address: Option<String>,
    /// Its virtual addresses and prefixes, if it has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Its ports and ranges of ports; `1024:` reaches to the last, `*` is all.
    #[schema(example = "80,443,8000-8010")]
    pub ports: String,
    /// What it carries.
    #[serde(default)]
    pub protocol: Protocol,
    /// How packets reach its servers; if absent `dr`, or `snat` where a server is not on a subnet of ours.
    #[serde(default)]
    pub mode: Mode,
    /// How a new flow's server is chosen.
    #[serde(default)]
    pub scheduler: Scheduler,
    /// Whether clients return to the server that they had before; they do not if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// How long its flows are remembered.
    #[serde(default, skip_serializing_if = "Timeouts::is_empty")]
    pub timeouts: Timeouts,
    /// How many new flows it takes.
    #[serde(default)]
    pub limits: Limits,
    /// `tun`: what carries packets to the servers.
    #[serde(default)]
    pub encapsulation: Encapsulation,
    /// `tun` with `gue`: the servers' port.
    #[serde(default = "default_gue_port")]
    #[schema(minimum = 1, maximum = 65535, default = 6080)]
    pub gue_port: u16,
    /// `nat`: its servers may be its clients, too.
    #[serde(default)]
    pub hairpin: bool,
    /// `tun`: what clients and servers agree on as segment size fits the tunnel.
    #[serde(default)]
    pub clamp_mss: bool,
    /// `nat` and `snat`: the protocol that needs our help; if absent `ftp` where TCP port 21 is among the ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<Helper>,
    /// `snat`: addresses of ours, or virtual ones, that packets leave with; if absent our address on the
    /// interface that leads to the server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, example = json!(["10.0.0.2"]))]
    pub sources: Vec<IpAddr>,
    /// How its servers are asked whether they are well.
    #[serde(default)]
    pub check: Check,
    /// Whether servers are judged by their connections, too; they are not if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<Passive>,
    /// Whether a server that is found not to be well keeps the connections that it has.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub quiescent: bool,
    /// Whether the last of its servers that fails stays in service.
    #[serde(default)]
    pub last_server: LastServer,
    /// What answers when all its servers have failed; if absent a page where TCP port 80 is among the ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Whether it takes new connections.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub enabled: bool,
    /// How long a server that comes back online takes to reach its weight.
    #[serde(default = "none")]
    #[schema(default = "0", example = "30s")]
    pub slow_start: String,
    /// Who is told of it and its servers instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<ServiceAlerts>,
    /// What its servers are asked about their load.
    #[serde(default, skip_serializing_if = "Agent::is_none")]
    pub agent: Agent,
    /// Its real servers.
    #[serde(default)]
    pub server: Vec<Server>,
}

fn default_gue_port() -> u16 {
    6080
}

fn yes() -> bool {
    true
}

fn none() -> String {
    "0".into()
}

/// Clients return to the server that they had before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Persistence {
    /// How long after its last connection a client is remembered: 1 s to 24 h.
    #[schema(example = "5m", default = "5m")]
    pub timeout: String,
    /// How many bits of an IPv4 client's address count.
    #[schema(minimum = 1, maximum = 32, default = 32)]
    pub mask: u8,
    /// How many bits of an IPv6 client's address count.
    #[schema(minimum = 1, maximum = 128, default = 128)]
    pub mask_ipv6: u8,
    /// Services with the same name here send a client to the same machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "shop", min_length = 1, max_length = 63)]
    pub group: Option<String>,
    /// Whether clients return even to a server that drains.
    pub through_drain: bool,
}

impl Default for Persistence {
    fn default() -> Self {
        Self { timeout: "5m".into(), mask: 32, mask_ipv6: 128, group: None, through_drain: false }
    }
}

/// How long flows are remembered after their last packet: 1 s to 7 days each. `GET /status` shows those in effect.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// A TCP connection; if absent 15 minutes, or as long as `persistence.timeout` if that is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "15m")]
    pub established: Option<String>,
    /// After a FIN; 2 minutes if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2m")]
    pub closing: Option<String>,
    /// Between UDP datagrams; if absent 5 minutes, or as long as `persistence.timeout` if that is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "5m")]
    pub udp: Option<String>,
    /// After a SYN that nothing followed; 30 seconds if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "30s")]
    pub half_open: Option<String>,
}

impl Timeouts {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How many new flows a service takes, on the whole node; 0 is no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// TCP flows at once that have seen a SYN only; 16,384 a worker if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub half_open: Option<u32>,
    /// New flows a second.
    #[schema(minimum = 0, maximum = 1_000_000_000, default = 0)]
    pub new_flows: u32,
    /// New flows a second from one client or client network.
    #[schema(minimum = 0, maximum = 1_000_000_000, default = 0)]
    pub new_flows_per_client: u32,
    /// How many bits of an IPv4 client's address make its network.
    #[schema(minimum = 1, maximum = 32, default = 32)]
    pub client_mask: u8,
    /// How many bits of an IPv6 client's address make its network.
    #[schema(minimum = 1, maximum = 128, default = 64)]
    pub client_mask_ipv6: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            half_open: None,
            new_flows: 0,
            new_flows_per_client: 0,
            client_mask: 32,
            client_mask_ipv6: 64,
        }
    }
}

/// A real server of a virtual service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Its name; its address (and port) if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "web1", min_length = 1, max_length = 63)]
    pub name: Option<String>,
    /// Its own address.
    #[schema(value_type = String, example = "10.0.0.11")]
    pub address: IpAddr,
    /// Its port, with `nat` and `snat` only; the one that the client used if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
    /// How packets reach it; as the service says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// `tun`: what carries packets to it; as the service says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encapsulation: Option<Encapsulation>,
    /// Its share of new flows, in proportion to the others'; 0 lets it drain.
    #[serde(default = "default_weight")]
    #[schema(minimum = 0, maximum = 65535, default = 100)]
    pub weight: u16,
    /// Which servers come first: those with a higher number stand by until none with a lower one takes new flows.
    #[serde(default = "default_priority")]
    #[schema(minimum = 1, maximum = 255, default = 1)]
    pub priority: u8,
    /// A server that was full takes new flows again when it has fewer; 0 is `max_connections`.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 100_000_000, default = 0)]
    pub min_connections: u32,
    /// How many flows it has at most; 0 is no limit.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 100_000_000, default = 0)]
    pub max_connections: u32,
    /// What is wanted of it.
    #[serde(default)]
    pub state: State,
    /// How it is asked whether it is well, where that is not as the service says.
    #[serde(default, skip_serializing_if = "Check::is_empty")]
    pub check: Check,
}

fn default_weight() -> u16 {
    100
}

fn default_priority() -> u8 {
    1
}

/// What is wanted of a real server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ServerState)]
pub enum State {
    /// It takes new connections.
    #[default]
    Online,
    /// It keeps the connections that it has, and takes no new ones.
    Drain,
    /// Its connections end at once.
    Halt,
}

impl State {
    /// All there are, with their names.
    pub const ALL: [(&'static str, Self); 3] =
        [("online", Self::Online), ("drain", Self::Drain), ("halt", Self::Halt)];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, state)| *state == self).map_or("", |(name, _)| name)
    }
}

/// What a virtual service carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Protocol {
    /// TCP.
    #[default]
    #[serde(rename = "tcp")]
    Tcp,
    /// UDP.
    #[serde(rename = "udp")]
    Udp,
    /// Both, on the same ports.
    #[serde(rename = "tcp+udp")]
    Both,
}

/// How packets reach a real server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Direct return: the server has the virtual address too, and answers the client itself.
    #[default]
    Dr,
    /// The destination becomes the server, which answers through us.
    Nat,
    /// As `nat`, and the source becomes an address of ours, so that the server may be anywhere.
    Snat,
    /// Inside another packet; the server answers the client itself.
    Tun,
}

/// What carries packets to a server of mode `tun`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encapsulation {
    /// An IP header alone: IPv4 or IPv6 as the server's address is, around either.
    #[default]
    Ipip,
    /// UDP and Generic UDP Encapsulation, which routers and firewalls pass as any UDP.
    Gue,
}

/// A protocol that needs more than its addresses translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Helper {
    /// FTP: its data connections are followed.
    Ftp,
    /// None.
    None,
}

/// How a new flow's server is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Each in turn, whatever its weight.
    Rr,
    /// Each in turn, in proportion to its weight.
    #[default]
    Wrr,
    /// The one with the fewest connections.
    Lc,
    /// The one with the fewest connections for its weight.
    Wlc,
    /// By the client's address.
    Sh,
    /// By the virtual address.
    Dh,
    /// By both addresses and ports, evenly, with as few moves as can be when servers change.
    Maglev,
    /// Every datagram on its own, each server in turn by weight; UDP only.
    Ops,
}

/// A prefix as documents hold it.
pub(crate) fn net(prefix: Prefix) -> IpNet {
    // A prefix is never longer than its address, so nothing else is ever made of it.
    IpNet::new(prefix.address().ip(), prefix.length())
        .unwrap_or_else(|_| prefix.address().ip().into())
}
