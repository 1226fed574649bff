//! What the workers say would become of a packet, and the same with names.
//!
//! Any worker may know the packet's flow, so all are asked. The one that knows it is right about it; where
//! none does, all of them would say the same but for the server that a scheduler's turn falls on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::explain::{self, Carried, Decision, Described, MOST_DECISIONS, Owner};
use dataplane::parse::{Flow, Packet, Part};
use dataplane::punt::{Class, Command, Copied, FlowState};
use dataplane::snapshot::{
    Encapsulation, InterfaceId, Protocol, Scheduler, ServerId, ServiceId, Snapshot,
};
use dataplane::wire::{Address, Mac, tcp};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Inner, Node, PATIENCE, Refusal, View};
use crate::report;
use crate::states::Actual;

/// TCP's control bits by their names in the API.
pub const FLAGS: [(&str, u8); 6] = [
    ("syn", tcp::Flags::SYN),
    ("ack", tcp::Flags::ACK),
    ("fin", tcp::Flags::FIN),
    ("rst", tcp::Flags::RST),
    ("psh", tcp::Flags::PSH),
    ("urg", tcp::Flags::URG),
];

/// An explanation under way.
pub(super) struct Explaining {
    /// Workers that have not finished.
    left: HashSet<usize>,
    /// What each worker has said.
    told: Vec<Vec<Decision>>,
    answer: oneshot::Sender<Vec<Vec<Decision>>>,
}

impl Explaining {
    /// Whether somebody waits for it.
    pub(super) fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    /// A worker's next decision.
    pub(super) fn decided(&mut self, worker: usize, decision: Decision) {
        if self.left.contains(&worker)
            && let Some(told) = self.told.get_mut(worker).filter(|it| it.len() < MOST_DECISIONS)
        {
            told.push(decision);
        }
    }

    /// A worker has no more to say; whether none of them has.
    pub(super) fn finished(&mut self, worker: usize) -> bool {
        self.left.remove(&worker);
        self.left.is_empty()
    }

    /// Hands over what was said.
    pub(super) fn answer(self) {
        let _ = self.answer.send(self.told); // the caller may have gone
    }
}

/// What a worker has said.
pub struct Explained {
    view: Arc<View>,
    worker: usize,
    decisions: Vec<Decision>,
    /// How things stand with the servers that are named.
    servers: HashMap<ServerId, Actual>,
}

impl Explained {
    /// The same with names.
    pub fn report(self) -> report::Explanation {
        let names = Names::of(&self.view, &self.servers);
        let decisions = self.decisions.iter().map(|decision| names.decision(decision)).collect();
        report::Explanation { worker: self.worker, decisions }
    }
}

impl Node {
    /// What would become of a packet that comes in on this interface now.
    ///
    /// # Errors
    ///
    /// When too many questions are under way, and when a worker does not answer.
    pub async fn explain(
        &self,
        packet: &Described,
        interface: InterfaceId,
    ) -> Result<Explained, Refusal> {
        let (view, interfaces) = {
            let inner = self.inner();
            (Arc::clone(&inner.view), Arc::clone(&inner.publication.newest().interfaces))
        };
        // Of the snapshot, the frame takes the interface alone.
        let snapshot = Snapshot { interfaces, ..Snapshot::default() };
        let frame = explain::frame(packet, interface, &snapshot).ok_or(Refusal::Failed)?;
        if self.counters.is_empty() {
            return Err(Refusal::Silent);
        }
        let answer = self.inner().ask_to_explain(&frame)?;
        let Ok(Ok(mut told)) = timeout(PATIENCE, answer).await else {
            return Err(Refusal::Silent);
        };
        let worker = told.iter().position(|decisions| know_the_flow(decisions)).unwrap_or(0);
        let decisions = told.swap_remove(worker);
        let named = decisions.iter().filter_map(|decision| match decision {
            Decision::Server { server, .. } => Some(*server),
            _ => None,
        });
        let servers = named.filter_map(|id| Some((id, self.states.actual(id)?))).collect();
        Ok(Explained { view, worker, decisions, servers })
    }
}

impl Inner {
    fn ask_to_explain(
        &mut self,
        frame: &Copied,
    ) -> Result<oneshot::Receiver<Vec<Vec<Decision>>>, Refusal> {
        let command = |question| Command::Explain { question, frame: frame.clone() };
        let question = self.ask_everyone(command)?;
        let (answer, receiver) = oneshot::channel();
        let workers = self.rings.len();
        let explaining =
            Explaining { left: (0..workers).collect(), told: vec![Vec::new(); workers], answer };
        self.explanations.insert(question, explaining);
        Ok(receiver)
    }
}

fn know_the_flow(decisions: &[Decision]) -> bool {
    let known =
        |it: &Decision| matches!(it, Decision::KnownFlow { .. } | Decision::FlowEnds { .. });
    decisions.iter().any(known)
}

/// What things are called in the configuration.
struct Names<'v> {
    interfaces: Vec<&'v str>,
    services: HashMap<ServiceId, &'v str>,
    servers: HashMap<ServerId, &'v str>,
    actual: &'v HashMap<ServerId, Actual>,
}

impl<'v> Names<'v> {
    fn of(view: &'v View, actual: &'v HashMap<ServerId, Actual>) -> Self {
        let interfaces = view.config.interfaces.iter().map(|it| it.name.as_str()).collect();
        let (services, servers) = (HashMap::new(), HashMap::new());
        let mut names = Self { interfaces, services, servers, actual };
        for service in view.services() {
            names.services.insert(service.id, &service.config.name);
            names.servers.extend(service.servers().map(|(id, it)| (id, it.name.as_str())));
        }
        names
    }

    /// A decision as it is told.
    fn decision(&self, decision: &Decision) -> report::Decision {
        let data = match self.data(decision) {
            Value::Object(parts) => {
                parts.into_iter().filter(|(_, value)| !value.is_null()).collect()
            }
            _ => BTreeMap::new(),
        };
        report::Decision { decision: decision.name().into(), text: decision.to_string(), data }
    }

    /// An interface's name.
    fn interface(&self, id: InterfaceId) -> Option<&'v str> {
        self.interfaces.get(usize::from(id.0)).copied()
    }

    /// A server's name, unless it has been removed since.
    fn server(&self, id: ServerId) -> Option<&'v str> {
        self.servers.get(&id).copied()
    }

    /// What a decision says besides its name; null is not told.
    fn data(&self, decision: &Decision) -> Value {
        match *decision {
            Decision::Arrived { interface, vlan } => {
                json!({ "interface": self.interface(interface), "vlan": vlan })
            }
            Decision::Read(content) => read(content),
            Decision::Belongs(owner) => self.owner(owner),
            Decision::Punted(class) => json!({ "class": match class {
                Class::Arp => "arp",
                Class::Neighbour => "neighbour_discovery",
                Class::Answer => "answer",
                Class::Icmp => "icmp",
                Class::Local => "local",
            } }),
            Decision::KnownFlow { server, state } => {
                json!({ "server": self.server(server), "state": state.map(FlowState::name) })
            }
            Decision::FlowEnds { server, opens_again } => {
                json!({ "server": self.server(server), "opens_again": opens_again })
            }
            Decision::NewFlow { in_mid_flow } => json!({ "in_mid_flow": in_mid_flow }),
            Decision::WithinLimits { new_flows, new_flows_per_client } => {
                json!({ "new_flows": new_flows, "new_flows_per_client": new_flows_per_client })
            }
            Decision::Flooded { most } => json!({ "most": most }),
            Decision::NotPersistent { was_known } => json!({ "was_known": was_known }),
            Decision::Persistent { server, returns, timeout } => {
                json!({ "server": self.server(server), "returns": returns, "timeout": timeout })
            }
            Decision::Scheduled { server, scheduler, weight, candidates } => json!({
                "server": self.server(server), "scheduler": method(scheduler),
                "weight": weight, "candidates": candidates,
            }),
            Decision::Announced { server }
            | Decision::Agreed { server }
            | Decision::Ambiguous { server } => json!({ "server": self.server(server) }),
            Decision::Server { server, address, connections, most, .. } => json!({
                "server": self.server(server), "address": address.ip(),
                "state": self.actual.get(&server).map(|actual| actual.name()),
                "connections": connections, "most": most,
            }),
            Decision::Remembered { milliseconds } => json!({ "timeout": milliseconds / 1_000 }),
            Decision::HandedOver(worker) => json!({ "worker": worker.0 }),
            Decision::Encapsulated { source, destination, encapsulation } => {
                let (encapsulation, port) = match encapsulation {
                    Encapsulation::Ip => ("ipip", None),
                    Encapsulation::Gue(port) => ("gue", Some(port)),
                };
                json!({
                    "source": source.ip(), "destination": destination.ip(),
                    "encapsulation": encapsulation, "port": port,
                })
            }
            Decision::Translated { source, destination } => json!({
                "source": change((end(source.0), end(source.1))),
                "destination": change((end(destination.0), end(destination.1))),
            }),
            Decision::HopsLeft { before, after } => json!({ "before": before, "after": after }),
            Decision::Renumbered { sequence, acknowledgement } => json!({
                "sequence": change(sequence), "acknowledgement": change(acknowledgement),
            }),
            Decision::Length { before, after } => json!({ "before": before, "after": after }),
            Decision::Answered { to } => json!({ "to": to.ip() }),
            Decision::Readdressed { source, destination } => {
                let text = |(before, after): (Mac, Mac)| (before.to_string(), after.to_string());
                json!({ "source": change(text(source)), "destination": change(text(destination)) })
            }
            Decision::Waits { neighbour } => json!({ "neighbour": neighbour.ip() }),
            Decision::Fragmented { mtu } => json!({ "mtu": mtu }),
            Decision::Leaves { interface, vlan, next, length } => json!({
                "interface": self.interface(interface), "vlan": vlan,
                "next": next.ip(), "length": length,
            }),
            Decision::Dropped(reason) => {
                json!({ "reason": reason.name(), "explanation": reason.explanation() })
            }
            Decision::TableFull
            | Decision::NotRemembered
            | Decision::DirectReturn
            | Decision::Onward
            | Decision::Reset
            | Decision::Challenged
            | Decision::Proxied
            | Decision::Unreachable
            | Decision::Page => Value::Null,
        }
    }

    fn owner(&self, owner: Owner) -> Value {
        match owner {
            Owner::Service(id) => {
                json!({ "owner": "service", "service": self.services.get(&id) })
            }
            Owner::Helper => json!({ "owner": "helper" }),
            Owner::Reply => json!({ "owner": "reply" }),
            Owner::Inward(inside) => json!({ "owner": "inward", "inside": inside.ip() }),
            Owner::Through => json!({ "owner": "through" }),
            Owner::Error => json!({ "owner": "error" }),
        }
    }
}

fn change<T: serde::Serialize>((before, after): (T, T)) -> Value {
    json!({ "before": before, "after": after })
}

fn end((address, port): (Address, u16)) -> SocketAddr {
    SocketAddr::new(address.ip(), port)
}

fn read(content: Carried) -> Value {
    match content {
        Carried::Arp => json!({ "content": "arp" }),
        Carried::Neighbour => json!({ "content": "neighbour_discovery" }),
        Carried::Icmp { destination } => json!({ "content": "icmp", "to": destination.ip() }),
        Carried::Error(error) => {
            json!({ "content": "icmp_error", "from": error.source.ip(), "about": flow(&error.quoted) })
        }
        Carried::Flow(packet) => {
            let Packet { flags, part, length, .. } = packet;
            let (protocol, from, to) = ends(&packet.flow);
            json!({
                "content": "flow", "protocol": protocol, "from": from, "to": to,
                "flags": (packet.flow.protocol == Protocol::Tcp).then(|| control_bits(flags)),
                "part": match part {
                    Part::Whole => None,
                    Part::First => Some("first"),
                    Part::Later => Some("later"),
                },
                "length": length,
            })
        }
        Carried::Other(Packet { flow, length, .. }) => json!({
            "content": "other", "from": flow.source.ip(), "to": flow.destination.ip(),
            "length": length,
        }),
    }
}

fn flow(flow: &Flow) -> Value {
    let (protocol, from, to) = ends(flow);
    json!({ "protocol": protocol, "from": from, "to": to })
}

/// An echo has an identifier in place of ports, which only one of its ends shows.
fn ends(flow: &Flow) -> (&'static str, String, String) {
    let from = end((flow.source, flow.source_port));
    let to = end((flow.destination, flow.destination_port));
    match flow.protocol {
        Protocol::Tcp => ("tcp", from.to_string(), to.to_string()),
        Protocol::Udp => ("udp", from.to_string(), to.to_string()),
        Protocol::Echo => ("icmp", from.ip().to_string(), to.ip().to_string()),
    }
}

fn control_bits(flags: tcp::Flags) -> String {
    let set = FLAGS.iter().filter(|(_, bit)| flags.0 & bit != 0);
    set.map(|&(name, _)| name).collect::<Vec<_>>().join("+")
}

/// What a scheduler is called in the configuration.
fn method(scheduler: Scheduler) -> &'static str {
    match scheduler {
        Scheduler::RoundRobin => "rr",
        Scheduler::WeightedRoundRobin => "wrr",
        Scheduler::LeastConnection => "lc",
        Scheduler::WeightedLeastConnection => "wlc",
        Scheduler::SourceHash => "sh",
        Scheduler::DestinationHash => "dh",
        Scheduler::Maglev => "maglev",
        Scheduler::OnePacket => "ops",
    }
}
