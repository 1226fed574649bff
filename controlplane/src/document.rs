//! The shape of a configuration as operators and other programs see it: for the API's answers, its
//! description and its client. What comes in is judged by [`crate::config`], not by these types,
//! because they would stop at the first mistake.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
    /// Virtual services.
    pub service: Vec<Service>,
}

/// The appliance itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Its name: 1 to 63 letters, digits, dots, hyphens and underscores.
    #[schema(example = "lb1", min_length = 1, max_length = 63)]
    pub name: String,
}

impl Default for Node {
    fn default() -> Self {
        Self { name: "sluice".into() }
    }
}

/// How packets are forwarded. None of this changes without a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dataplane {
    /// The processor cores that forward, for now one; chosen by the appliance if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = json!([1]))]
    pub workers: Option<Vec<u32>>,
    /// What a worker does when no packets come.
    pub polling: Polling,
    /// Capacity of each worker's flow table, in flows.
    #[schema(minimum = 1, maximum = 100_000_000, default = 1_000_000)]
    pub flows: u32,
    /// Where packet buffers lie; if absent, on huge pages if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

impl Default for Dataplane {
    fn default() -> Self {
        Self { workers: None, polling: Polling::default(), flows: 1_000_000, memory: None }
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
    /// Also on the data ports' addresses; not there yet.
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

/// A network interface of the data plane.
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
    /// Our addresses with their subnets; the first is the source of what we send ourselves.
    #[schema(value_type = Vec<String>, example = json!(["10.0.0.2/24"]))]
    pub addresses: Vec<Ipv4Net>,
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
    pub to: Ipv4Net,
    /// The gateway, on an interface's own subnet.
    #[schema(value_type = String, format = Ipv4, example = "10.0.0.1")]
    pub via: Ipv4Addr,
}

/// A hardware address that need not be asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// The interface that the station is on, by name.
    #[schema(example = "wan")]
    pub interface: String,
    /// Its address.
    #[schema(value_type = String, format = Ipv4, example = "10.0.0.11")]
    pub address: Ipv4Addr,
    /// Its hardware address.
    #[schema(example = "02:00:00:00:00:11")]
    pub mac: String,
}

/// A virtual service: what clients connect to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name.
    #[schema(example = "web", min_length = 1, max_length = 63)]
    pub name: String,
    /// Its virtual address, if it has one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4, example = "10.0.0.100")]
    pub address: Option<Ipv4Addr>,
    /// Its virtual addresses, if it has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<Ipv4Addr>,
    /// Its ports and ranges of ports; `*` for all.
    #[schema(example = "80,443,8000-8010")]
    pub ports: String,
    /// What it carries.
    #[serde(default)]
    pub protocol: Protocol,
    /// How packets reach its servers.
    #[serde(default)]
    pub mode: Mode,
    /// How a new flow's server is chosen.
    #[serde(default)]
    pub scheduler: Scheduler,
    /// How its servers are asked whether they are well.
    #[serde(default)]
    pub check: Check,
    /// Its real servers.
    #[serde(default)]
    pub server: Vec<Server>,
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
    #[schema(value_type = String, format = Ipv4, example = "10.0.0.11")]
    pub address: Ipv4Addr,
    /// Its port, with `nat` only; the one that the client used if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
    /// How packets reach it; as the service says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Its share of new flows, in proportion to the others'; 0 lets it drain.
    #[serde(default = "default_weight")]
    #[schema(minimum = 0, maximum = 65535, default = 100)]
    pub weight: u16,
    /// How many connections it takes at once; 0 is no limit, and limits are not there yet.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 0, default = 0)]
    pub max_connections: u32,
}

fn default_weight() -> u16 {
    100
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
    /// Inside another IPv4 packet; the server answers the client itself.
    Tun,
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
}

/// How servers are asked whether they are well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What is asked.
    #[serde(rename = "type", default)]
    pub kind: CheckKind,
}

/// What servers are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// Nothing: they count as well.
    #[default]
    On,
}
