//! What the node says about itself: the answers of the admin API, which its client reads back.

mod event;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::document::{Mode, NatKind, Protocol, Scheduler};
use crate::net::in_band::StackStats;
use crate::plumbing::{Buffers, PortStatistics};

pub use self::event::{Event, Notice};

/// `GET /status`: the node at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// The version of the program.
    pub version: String,
    /// `active`: it forwards. A node without a partner always does.
    pub role: String,
    /// Seconds since the start.
    pub uptime: f64,
    /// How many snapshots the workers have been given.
    pub generation: u64,
    /// Whether every worker has taken up the newest snapshot.
    pub current: bool,
    /// The configuration's entity tag.
    pub etag: String,
    /// Flows in the tables of all workers.
    pub flows: Capacity,
    /// How full the fullest worker's flow table is, from 0 to 1; above 0.8 the log says so.
    pub flow_table_use: f64,
    /// The longest time between two turns of the control thread in the last minute, in seconds; usually a
    /// few thousandths.
    pub control_longest_gap: f64,
    /// Packet buffers.
    pub buffers: Buffers,
    /// The interfaces, in the order of the configuration.
    pub interfaces: Vec<Interface>,
    /// The virtual services, in the order of the configuration.
    pub services: Vec<Service>,
}

/// How much of something there is, and how much is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// Taken now.
    pub used: u64,
    /// How many fit.
    pub capacity: u64,
}

impl Capacity {
    /// The share that is taken, from 0 to 1.
    pub fn fullness(self) -> f64 {
        if self.capacity == 0 { 0.0 } else { self.used as f64 / self.capacity as f64 }
    }
}

/// An interface and what its card says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = InterfaceStatus)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The device as the configuration writes it.
    pub device: String,
    /// The driver that carries it.
    pub driver: String,
    /// Our hardware address there.
    pub mac: String,
    /// Its VLAN; absent where frames carry no tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The longest IP packet that fits, in bytes.
    pub mtu: u16,
    /// Our addresses with their subnets.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpNet>,
    /// Our address on its own link, where IPv6 is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub link_local: Option<IpAddr>,
    /// Those of our addresses that another station has, so that they are not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub duplicate: Vec<IpAddr>,
    /// Whether stations on its subnets may use us as their gateway.
    pub gateway: bool,
    /// What the card counts.
    #[serde(flatten)]
    pub statistics: PortStatistics,
}

/// A virtual service as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ServiceStatus)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its addresses and prefixes.
    pub addresses: Vec<String>,
    /// Its ports, as configured.
    pub ports: String,
    /// What it carries.
    pub protocol: Protocol,
    /// How packets reach its servers, unless a server says otherwise.
    pub mode: Mode,
    /// How a new connection's server is chosen.
    pub scheduler: Scheduler,
    /// How long its flows are remembered, in seconds: as configured, and connections no shorter than
    /// clients are remembered.
    pub timeouts: Timeouts,
    /// `up`; `degraded` if not every server takes new connections that should; `down` if none does; `offline`
    /// if that is wanted; `unknown` until its servers have been asked.
    pub state: String,
    /// Why it is not up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when, as RFC 3339 writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-01-31T12:00:00.000Z")]
    pub since: Option<String>,
    /// Whether all its servers have failed and its fallback answers.
    pub fallback: bool,
    /// What its servers have carried, with those that have been removed since.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Its real servers, in the order of the configuration.
    pub servers: Vec<Server>,
}

/// How long flows are remembered after their last packet, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = TimeoutsInEffect)]
pub struct Timeouts {
    /// A TCP connection.
    pub established: u32,
    /// After a FIN.
    pub closing: u32,
    /// Between UDP datagrams.
    pub udp: u32,
    /// After a SYN that nothing followed.
    pub half_open: u32,
}

/// A real server as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ServerStatus)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The port that it is reached at; absent where that is the one that the client used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How packets reach it.
    pub mode: Mode,
    /// Its share of new connections, as configured.
    pub weight: u16,
    /// Its share of them now: less while it comes back, as its agent says, and 0 while it takes none.
    pub effective_weight: u16,
    /// What its agent says, if it is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// Servers of the lowest number that has any online take the new connections.
    pub priority: u8,
    /// What the operator wants: `online`, `drain` (weight 0, too) or `halt`.
    pub wanted: String,
    /// What there is: `up`; `closing` (it fails its check, and connections that it has may finish), then
    /// `down`; `drain`, `halt`; `disabled` with its service; `unreachable`; or `unknown` until it has been asked.
    pub actual: String,
    /// Why the two differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is in that state, as RFC 3339 writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-01-31T12:00:00.000Z")]
    pub since: Option<String>,
    /// What it has carried.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// What a server's agent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = AgentStatus)]
pub struct Agent {
    /// The answer that counts: a number of percent, or `drain`; absent after too many misses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "92 %")]
    pub answer: Option<String>,
    /// The same as a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<u8>,
    /// Seconds since the last question came to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<f64>,
    /// How many questions in a row have had no answer.
    pub missed: u32,
    /// Why the last one had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a server or a service carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Connections now.
    pub connections: u64,
    /// Those of them that have seen a FIN or RST.
    pub closing: u64,
    /// Since it was configured.
    pub totals: Totals,
    /// How long the first SYN of a TCP connection took to be answered, on average since it was configured, in
    /// milliseconds; nothing if there was none. The clock is a coarse one: only the average of many says something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake_ms: Option<f64>,
    /// Per second, over the last second.
    pub rates: Totals,
}

/// Sums, or sums a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Connections begun.
    pub connections: u64,
    /// Packets from clients.
    pub packets: u64,
    /// Bytes in those, from the IP header on.
    pub bytes: u64,
    /// Packets back to clients, as far as they pass through here.
    pub reply_packets: u64,
    /// Bytes in those, from the IP header on.
    pub reply_bytes: u64,
    /// TCP connections of which the client's first SYN got no answer before it asked again or gave up.
    #[serde(default)]
    pub unanswered: u64,
    /// TCP connections that the server refused, as far as its packets pass through here.
    #[serde(default)]
    pub refused: u64,
    /// TCP connections that the server reset, refusals among them, as far as its packets pass through here.
    #[serde(default)]
    pub resets: u64,
    /// TCP connections of which the first SYN was answered: by the server or, where its packets do not pass
    /// through here, as the client's acknowledgement says.
    #[serde(default)]
    pub handshakes: u64,
    /// How long those answers took in all.
    #[serde(default)]
    pub handshake_milliseconds: u64,
}

impl Totals {
    /// The mean in milliseconds, to a hundredth.
    pub(crate) fn handshake_ms(&self) -> Option<f64> {
        let mean = self.handshake_milliseconds as f64 / self.handshakes as f64;
        (self.handshakes > 0).then(|| (mean * 100.0).round() / 100.0)
    }

    /// Member by member.
    pub(crate) fn zip(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            connections: of(self.connections, other.connections),
            packets: of(self.packets, other.packets),
            bytes: of(self.bytes, other.bytes),
            reply_packets: of(self.reply_packets, other.reply_packets),
            reply_bytes: of(self.reply_bytes, other.reply_bytes),
            unanswered: of(self.unanswered, other.unanswered),
            refused: of(self.refused, other.refused),
            resets: of(self.resets, other.resets),
            handshakes: of(self.handshakes, other.handshakes),
            handshake_milliseconds: of(self.handshake_milliseconds, other.handshake_milliseconds),
        }
    }
}

/// `GET /counters`: where every frame went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// One entry per worker.
    pub workers: Vec<Worker>,
    /// What the control plane did.
    pub control: Control,
    /// What happened in its own TCP/IP stack on the data ports.
    pub in_band: StackStats,
}

/// What one worker has counted. Received + injected + taken over = transmitted + punted + handed over +
/// dropped + waiting, but for frames under way while the counters were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = WorkerCounters)]
pub struct Worker {
    /// Frames from its receive queues.
    pub received: u64,
    /// Bytes in those.
    pub received_bytes: u64,
    /// Frames from the control plane, and those that the worker made itself.
    pub injected: u64,
    /// Frames that its transmit queues took.
    pub transmitted: u64,
    /// Bytes in those.
    pub transmitted_bytes: u64,
    /// Frames handed to the control plane.
    pub punted: u64,
    /// Of those, what belongs to the control plane's own conversations: health checks and the like.
    pub punted_answers: u64,
    /// Frames handed to another worker, because the flow or the way out is that one's.
    pub handed_over: u64,
    /// Frames that other workers handed to this one.
    pub taken_over: u64,
    /// Frames dropped, for any reason.
    pub dropped: u64,
    /// Frames that wait for a neighbour's hardware address.
    pub waiting: u64,
    /// Its flow table.
    pub flows: Capacity,
    /// Flows created so far.
    pub flows_created: u64,
    /// Flows that ended early to make room for others.
    pub flows_evicted: u64,
    /// Packets forwarded by hash alone, because the table was full or a flood of SYNs left no other way.
    pub forwarded_without_flow: u64,
    /// Connections opened by a SYN cookie that came back.
    pub cookies_accepted: u64,
    /// Announcements of a data connection to a third party, not followed (the FTP bounce attack).
    pub announcements_refused: u64,
    /// Clients that lost their place in the persistence table to others.
    pub clients_evicted: u64,
    /// Turns in which no frame came.
    pub idle_turns: u64,
    /// Turns in which some came.
    pub busy_turns: u64,
    /// Every reason for which frames were dropped.
    pub drops: Vec<Drop>,
}

/// Frames dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DropCounters)]
pub struct Drop {
    /// The reason's name.
    pub reason: String,
    /// How many.
    pub frames: u64,
    /// What the reason means.
    pub explanation: String,
}

/// What the control plane did with frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ControlCounters)]
pub struct Control {
    /// ARP frames that the workers handed over.
    pub arp_received: u64,
    /// Messages of neighbour discovery that the workers handed over.
    pub nd_received: u64,
    /// Other ICMP packets, of both families, that the workers handed over.
    pub icmp_received: u64,
    /// Echo requests answered.
    pub echoes_answered: u64,
    /// Frames given to the workers to send.
    pub sent: u64,
    /// Frames lost because every worker's ring was full.
    pub send_ring_full: u64,
    /// ARP frames that are too short, or not ARP for IPv4 over Ethernet.
    pub arp_malformed: u64,
    /// ARP frames whose sender is not the station that sent the frame, or no station.
    pub arp_forged: u64,
    /// ARP frames whose sender is not on the interface's subnets.
    pub arp_stranger: u64,
    /// ARP frames whose sender claims one of our addresses.
    pub arp_conflict: u64,
    /// Messages of neighbour discovery that are too short or damaged, or say what they must not.
    pub nd_malformed: u64,
    /// Messages of neighbour discovery from another link, or with a hardware address that no station has.
    pub nd_forged: u64,
    /// Advertisements of addresses that are not on the interface's subnets.
    pub nd_stranger: u64,
    /// Messages of neighbour discovery whose sender claims one of our addresses.
    pub nd_conflict: u64,
    /// Workers' questions for a neighbour of either family that were not asked, because too many were
    /// under way.
    pub arp_not_asked: u64,
}

/// `GET /flows`: current connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Flows {
    /// Whether every worker answered in time and nothing was cut off by the limit.
    pub complete: bool,
    /// The flows.
    pub flows: Vec<Flow>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// `tcp`, `udp` or `icmp` (an echo request's identifier stands for the ports).
    pub protocol: String,
    /// How far it has come.
    pub state: String,
    /// The client's address and port.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// The virtual address and port.
    #[schema(value_type = String)]
    pub r#virtual: SocketAddr,
    /// The real server's address, with its port where that is translated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real: Option<String>,
    /// The virtual service's name, unless it has been removed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The real server's name, unless it has been removed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Seconds since it began.
    pub age: f64,
    /// Seconds since its last packet.
    pub idle: f64,
    /// Packets in both directions, as far as they pass through here.
    pub packets: u64,
    /// Bytes in those, from the IP header on.
    pub bytes: u64,
}

/// Which flows are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowQuestion {
    /// Of this virtual service.
    pub service: Option<String>,
    /// At this real server (of that service).
    pub server: Option<String>,
    /// From this client.
    pub client: Option<IpAddr>,
    /// How many at most.
    pub limit: u32,
}

/// `POST /explain`: a packet that might come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExplainPacket)]
pub struct Packet {
    /// `tcp`, `udp` or `icmp` (an echo request).
    #[schema(example = "tcp")]
    pub protocol: String,
    /// Who sends it, with the port; of an echo request, with its identifier or without.
    #[schema(example = "192.0.2.9:40000")]
    pub from: String,
    /// Whom it is for, with the port.
    #[schema(example = "10.0.0.100:80")]
    pub to: String,
    /// The interface that it comes in on.
    #[schema(example = "wan")]
    pub interface: String,
    /// TCP's control bits: some of `syn`, `ack`, `fin`, `rst`, `psh` and `urg`, such as `syn+ack`; `syn` if
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "syn")]
    pub flags: Option<String>,
}

/// `POST /explain`: what would become of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The worker whose answer this is: the one that knows the packet's flow, or the first.
    pub worker: usize,
    /// What is decided, in order.
    pub decisions: Vec<Decision>,
}

/// One decision about a packet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    /// Its name.
    #[schema(example = "arrived")]
    pub decision: String,
    /// In words.
    #[schema(example = "comes in on interface 0")]
    pub text: String,
    /// As data, with the names of interfaces, services and servers.
    #[serde(flatten)]
    pub data: BTreeMap<String, Value>,
}

/// `GET /neighbours`: a station on one of our subnets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = NeighbourStatus)]
pub struct Neighbour {
    /// The interface that it is on.
    pub interface: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its hardware address, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// `static`, `resolving`, `reachable`, `stale` or `failed`.
    pub state: String,
    /// Seconds since its hardware address was last confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<f64>,
    /// Why it is kept.
    pub kind: String,
}

/// `GET /routes`: one way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = RouteStatus)]
pub struct Route {
    /// Which destinations it is for.
    #[schema(value_type = String)]
    pub to: IpNet,
    /// The interface that leads there.
    pub interface: String,
    /// The gateway; absent where the destination is on the interface's own subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub via: Option<IpAddr>,
}

/// `GET /nat/rules`: one rule of translation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = NatRuleStatus)]
pub struct NatRule {
    /// `pair` or `masquerade`.
    pub kind: NatKind,
    /// `pair`: the station's own address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub inside: Option<IpAddr>,
    /// `pair`: the address that it has outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub outside: Option<IpAddr>,
    /// `masquerade`: the interface that packets leave on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    /// `masquerade`: whose packets, those included that the configuration leaves to the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub from: Vec<IpNet>,
    /// `masquerade`: our address that they leave with, one for each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub source: Vec<IpAddr>,
}

/// `POST /config/validate`: what a configuration would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// Whether it can be taken up without a restart.
    pub live: bool,
    /// What cannot be changed without a restart.
    pub restart_needed: Vec<String>,
    /// What would change, a sentence each.
    pub changes: Vec<String>,
    /// What is accepted and may not be meant, a sentence each.
    #[serde(default)]
    pub advice: Vec<String>,
}
