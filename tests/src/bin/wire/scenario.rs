//! What is to be sent, and where it must arrive: one JSON document, written by the test.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::Deserialize;

/// A hardware address.
pub type Mac = [u8; 6];

/// The whole of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The core to run on.
    pub core: usize,
    /// How many frames may be under way at once; no queue on their way may be shorter.
    pub window: usize,
    /// The wire on which clients are.
    pub clients: Side,
    /// The wire on which servers are.
    pub servers: Side,
    /// The services to send to.
    pub services: Vec<Service>,
}

/// One wire, and whom the appliance has on it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Where the appliance's memif port listens.
    pub socket: PathBuf,
    /// The appliance's hardware address here.
    pub appliance: Mac,
    /// The appliance's address here, from which its tunnels start.
    pub appliance_address: Ipv4Addr,
    /// The hardware address behind which all clients are; servers have their own.
    pub gateway: Mac,
}

/// A virtual service, as the configurations in play have it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The operator's name for it.
    pub name: String,
    /// How packets reach its servers.
    pub mode: Mode,
    /// What it carries.
    pub protocol: Protocol,
    /// Its virtual address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// How many clients use it at any time.
    pub flows: u32,
    /// Whether its clients only come when they are told to `join`.
    #[serde(default)]
    pub later: bool,
    /// Whether a flow may never change its server.
    pub sticky: bool,
    /// Every server that it has in any configuration.
    pub servers: Vec<Server>,
}

/// How packets reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing happens to them, not even to their hardware addresses: to calibrate by a plain wire.
    Wire,
    /// Direct return.
    Dr,
    /// Translated; the servers answer.
    Nat,
    /// In another packet.
    Tun,
}

/// What a service carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// A real server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// The port it listens on, where that is not the service's.
    #[serde(default)]
    pub port: Option<u16>,
    /// The one configuration in which it serves, if it does not in all.
    #[serde(default)]
    pub only_in: Option<String>,
}
