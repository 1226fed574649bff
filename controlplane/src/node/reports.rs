//! What the node says about itself, gathered under the lock and put into words outside it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dataplane::counters::{Counters, Reason};
use dataplane::punt::{Command, FlowFilter, FlowReport};
use dataplane::snapshot::{Interface, InterfaceId, Mode, Protocol, ServerId, is_link_local};
use dataplane::wire::{Address, Prefix};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Node, PATIENCE, Question, Refusal, ServiceView, View};
use crate::agent::{Agents, Answer, Standing};
use crate::compile::sources_on;
use crate::config::{self, Config, NatKind, NatRule};
use crate::document::net;
use crate::plumbing::LiveInterface;
use crate::publish::Newest;
use crate::report::{self, Capacity, FlowQuestion, Traffic};
use crate::states::{Actual, ServiceState, Told, Words};

/// Flows as the workers listed them.
pub struct Listing {
    view: Arc<View>,
    newest: Newest,
    flows: Vec<FlowReport>,
    complete: bool,
}

impl Listing {
    /// The same with names.
    pub fn report(self) -> report::Flows {
        let names = names(&self.view);
        let named = |flow| named(flow, &names, &self.newest);
        report::Flows {
            complete: self.complete,
            flows: self.flows.into_iter().map(named).collect(),
        }
    }
}

impl Node {
    /// The node at a glance.
    pub fn status(&self) -> report::Status {
        let inner = self.inner();
        inner.review(&self.states);
        let longest_gap = inner.gaps.longest((inner.clock)());
        let view = Arc::clone(&inner.view);
        let newest = inner.publication.newest().clone();
        let current = inner.publication.is_current_everywhere();
        let buffers = (inner.buffers)();
        let uptime = (inner.clock)().since(self.started);
        let duplicates = inner.neighbours.duplicates();
        let live = Arc::clone(&inner.interfaces);
        let traffic = |service: ServiceView| -> Vec<Traffic> {
            service.servers().map(|(id, _)| inner.accounts.server(id)).collect()
        };
        let traffic: Vec<_> = view
            .services()
            .map(|service| {
                let servers = traffic(service);
                let sum = inner.accounts.service(&service.config.name, servers.iter().copied());
                (sum, servers)
            })
            .collect();
        drop(inner);

        let interfaces = interfaces(&live, &newest, &duplicates);
        let words = self.states.words();
        let services = view.services().zip(traffic);
        report::Status {
            node: view.document.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            role: "active".into(),
            uptime: seconds(uptime),
            generation: newest.generation,
            current,
            etag: view.etag.clone(),
            flows: self.counters.iter().map(flows).fold(Capacity::default(), |sum, worker| {
                Capacity { used: sum.used + worker.used, capacity: sum.capacity + worker.capacity }
            }),
            flow_table_use: hundredths(
                self.counters.iter().map(|worker| flows(worker).fullness()).fold(0.0, f64::max),
            ),
            control_longest_gap: seconds(longest_gap),
            buffers,
            interfaces,
            services: services
                .map(|(service, (sum, servers))| {
                    described(service, sum, servers, &words, &newest, &self.agents)
                })
                .collect(),
        }
    }

    /// Where every frame went.
    pub fn counters(&self) -> report::Counters {
        let workers = self.counters.iter().map(worker).collect();
        let inner = self.inner();
        let ignored = inner.neighbours.ignored();
        let control = report::Control {
            arp_malformed: ignored.arp.malformed,
            arp_forged: ignored.arp.forged,
            arp_stranger: ignored.arp.stranger,
            arp_conflict: ignored.arp.conflict,
            nd_malformed: ignored.discovery.malformed,
            nd_forged: ignored.discovery.forged,
            nd_stranger: ignored.discovery.stranger,
            nd_conflict: ignored.discovery.conflict,
            arp_not_asked: ignored.questions,
            ..inner.frames
        };
        report::Counters { workers, control, in_band: self.stack.stats() }
    }

    /// Current connections.
    ///
    /// # Errors
    ///
    /// When there is no such service or server, and when too many questions are under way.
    pub async fn flows(&self, asked: FlowQuestion) -> Result<Listing, Refusal> {
        let view = self.view();
        let service = asked.service.as_deref().map(|name| view.service(name)).transpose()?;
        let server = match (service, asked.server.as_deref()) {
            (Some(service), Some(name)) => Some(service.servers[service.position(name)?]),
            _ => None,
        };
        let filter = FlowFilter {
            service: service.map(|found| found.id),
            server,
            client: asked.client.map(Address::from),
        };
        let limit = asked.limit as usize;
        let mut flows = Vec::new();
        let mut complete = true;
        if !self.counters.is_empty() {
            let (number, answer) = self.ask(filter, limit)?;
            match timeout(PATIENCE, answer).await {
                Ok(Ok(answered)) => flows = answered,
                _ => {
                    complete = false;
                    let question = self.inner().questions.remove(&number);
                    flows = question.map(|question| question.flows).unwrap_or_default();
                }
            }
        }
        complete &= flows.len() <= limit;
        flows.truncate(limit);
        let newest = self.inner().publication.newest().clone();
        Ok(Listing { view, newest, flows, complete })
    }

    /// Puts the question to every worker. One flow more than the limit says that there are more, and any
    /// worker may have them all.
    fn ask(
        &self,
        filter: FlowFilter,
        limit: usize,
    ) -> Result<(u32, oneshot::Receiver<Vec<FlowReport>>), Refusal> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let limit = limit + 1;
        let question = inner.ask_everyone(|question| Command::ListFlows {
            question,
            filter,
            limit: limit as u32,
        })?;
        let (answer, receiver) = oneshot::channel();
        let left = (0..inner.rings.len()).collect();
        inner.questions.insert(question, Question { left, flows: Vec::new(), limit, answer });
        Ok((question, receiver))
    }

    /// The stations on our subnets.
    pub fn neighbours(&self) -> Vec<report::Neighbour> {
        let inner = self.inner();
        let now = (inner.clock)();
        let reports = inner.neighbours.report(now);
        let name = |position: u8| {
            let interface = inner.interfaces.get(usize::from(position));
            interface.map(|interface| interface.name.clone()).unwrap_or_default()
        };
        reports
            .into_iter()
            .map(|neighbour| report::Neighbour {
                interface: name(neighbour.interface.0),
                address: neighbour.address.ip(),
                mac: neighbour.mac.map(|mac| mac.to_string()),
                state: neighbour.state.name().into(),
                age: neighbour.age.map(seconds),
                kind: neighbour.kind.name().into(),
            })
            .collect()
    }

    /// The interfaces, with what their cards say.
    pub fn interfaces(&self) -> Vec<report::Interface> {
        let inner = self.inner();
        let duplicates = inner.neighbours.duplicates();
        let live = Arc::clone(&inner.interfaces);
        let newest = inner.publication.newest().clone();
        drop(inner);
        interfaces(&live, &newest, &duplicates)
    }

    /// The rules of translation in the order in which they are looked up.
    pub fn nat_rules(&self) -> Vec<report::NatRule> {
        let view = self.view();
        let Config { interfaces, .. } = &*view.config;
        let blank = |kind| report::NatRule {
            kind,
            inside: None,
            outside: None,
            out: None,
            from: Vec::new(),
            source: Vec::new(),
        };
        let report = |rule: &NatRule| match rule {
            NatRule::Pair { inside, outside } => report::NatRule {
                inside: Some(inside.ip()),
                outside: Some(outside.ip()),
                ..blank(NatKind::Pair)
            },
            NatRule::Masquerade { out, .. } => {
                let interface = &interfaces[usize::from(out.0)];
                report::NatRule {
                    out: Some(interface.name.clone()),
                    from: rule.sources_in(interfaces).into_iter().map(net).collect(),
                    source: sources_on(interface).into_iter().map(|it| it.ip()).collect(),
                    ..blank(NatKind::Masquerade)
                }
            }
        };
        view.config.nat_in_effect().map(report).collect()
    }

    /// The ways out, the longest prefix first.
    pub fn routes(&self) -> Vec<report::Route> {
        let inner = self.inner();
        let view = Arc::clone(&inner.view);
        let own = Arc::clone(&inner.publication.newest().interfaces);
        drop(inner);
        let Config { interfaces, routes, .. } = &*view.config;
        let connected = interfaces.iter().zip(own.iter()).flat_map(|(interface, own)| {
            let subnets = own.addresses.iter().filter(|subnet| !is_link_local(subnet.address()));
            subnets.map(|subnet| report::Route {
                to: net(subnet.subnet()),
                interface: interface.name.clone(),
                via: None,
            })
        });
        let further =
            routes.iter().zip(&view.document.route).map(|(route, written)| report::Route {
                to: written.to,
                interface: interfaces[usize::from(route.interface.0)].name.clone(),
                via: Some(route.via.into()),
            });
        let mut routes: Vec<_> = connected.chain(further).collect();
        routes.sort_by_key(|route| std::cmp::Reverse(route.to.prefix_len()));
        routes
    }
}

fn described(
    service: ServiceView,
    traffic: Traffic,
    carried: Vec<Traffic>,
    words: &Words,
    newest: &Newest,
    agents: &Agents,
) -> report::Service {
    let servers = service.servers().zip(carried);
    let servers = servers
        .map(|((id, server), traffic)| {
            let agent = agents.standing(service.config, server);
            let told = words.servers.get(&id);
            server_report(server, told, traffic, newest.weight(id), agent)
        })
        .collect();
    let told = words.services.get(&service.id);
    let timeouts = service.config.timeouts();
    report::Service {
        name: service.config.name.clone(),
        addresses: service
            .document
            .address
            .iter()
            .chain(&service.document.addresses)
            .cloned()
            .collect(),
        ports: service.document.ports.clone(),
        protocol: service.config.protocol,
        mode: service.config.mode,
        scheduler: service.config.scheduler,
        timeouts: report::Timeouts {
            established: timeouts.established / 1_000,
            closing: timeouts.closing / 1_000,
            udp: timeouts.datagrams / 1_000,
            half_open: timeouts.half_open / 1_000,
        },
        state: told.map_or(ServiceState::Unknown, |told| told.state).name().into(),
        reason: told.and_then(|told| told.reason.clone()),
        since: told.map(|told| moment(told.since)),
        fallback: told.is_some_and(|told| told.falls_back),
        traffic,
        servers,
    }
}

fn server_report(
    server: &config::Server,
    told: Option<&Told>,
    traffic: Traffic,
    effective_weight: u16,
    agent: Option<Standing>,
) -> report::Server {
    report::Server {
        name: server.name.clone(),
        address: server.address.into(),
        port: server.forwarding.port(),
        mode: server.forwarding.mode(),
        weight: server.weight,
        effective_weight,
        agent: agent.map(agent_report),
        priority: server.priority,
        wanted: server.wanted().name().into(),
        actual: told.map_or(Actual::Unknown, |told| told.actual).name().into(),
        reason: told.and_then(|told| told.reason.clone()),
        since: told.map(|told| moment(told.since)),
        traffic,
    }
}

/// By the wall clock, as RFC 3339 writes it.
fn moment(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

fn agent_report(standing: Standing) -> report::Agent {
    let (last, at) = standing.last.unzip();
    let problem = last.and_then(Result::err);
    let answer = standing.in_force;
    report::Agent {
        answer: answer.map(|answer| answer.to_string()),
        idle: match answer {
            Some(Answer::Idle(idle)) => Some(idle),
            Some(Answer::Drain) | None => None,
        },
        asked: at.map(|at| seconds(at.elapsed())),
        missed: standing.missed,
        problem,
    }
}

/// Not under the lock: a card, or the kernel behind it, may take long to answer.
fn interfaces(
    live: &[LiveInterface],
    newest: &Newest,
    duplicates: &[(InterfaceId, Address)],
) -> Vec<report::Interface> {
    let report = |(id, (live, interface)): (InterfaceId, (&LiveInterface, &Interface))| {
        let duplicate = duplicates.iter().filter(|(interface, _)| *interface == id);
        let is_own_link = |subnet: &&Prefix| is_link_local(subnet.address());
        let (own_link, addresses): (Vec<_>, Vec<_>) =
            interface.addresses.iter().partition(is_own_link);
        report::Interface {
            name: live.name.clone(),
            device: live.device.clone(),
            driver: live.driver.clone(),
            mac: interface.mac.to_string(),
            vlan: interface.vlan,
            mtu: live.mtu,
            addresses: addresses.into_iter().copied().map(net).collect(),
            link_local: own_link.first().map(|subnet| subnet.address().ip()),
            duplicate: duplicate.map(|(_, address)| address.ip()).collect(),
            gateway: interface.gateway,
            statistics: (live.statistics)(),
        }
    };
    let ids = (0..).map(InterfaceId);
    ids.zip(live.iter().zip(newest.interfaces.iter())).map(report).collect()
}

/// A worker's flow table.
pub fn flows(worker: &Counters) -> Capacity {
    Capacity { used: unsigned(worker.flows.get()), capacity: worker.flow_capacity.get() }
}

fn worker(worker: &Counters) -> report::Worker {
    let drop = |reason: &Reason| report::Drop {
        reason: reason.name().into(),
        frames: worker.dropped(*reason),
        explanation: reason.explanation().into(),
    };
    report::Worker {
        received: worker.received.get(),
        received_bytes: worker.received_bytes.get(),
        injected: worker.injected.get(),
        transmitted: worker.transmitted.get(),
        transmitted_bytes: worker.transmitted_bytes.get(),
        punted: worker.punted.get(),
        punted_answers: worker.punted_answers.get(),
        handed_over: worker.handed_over.get(),
        taken_over: worker.taken_over.get(),
        dropped: worker.dropped_in_all(),
        waiting: unsigned(worker.waiting.get()),
        flows: flows(worker),
        flows_created: worker.flows_created.get(),
        flows_evicted: worker.flows_evicted.get(),
        forwarded_without_flow: worker.forwarded_without_flow.get(),
        cookies_accepted: worker.cookies_accepted.get(),
        announcements_refused: worker.announcements_refused.get(),
        clients_evicted: worker.clients_evicted.get(),
        idle_turns: worker.idle_turns.get(),
        busy_turns: worker.busy_turns.get(),
        drops: Reason::ALL.iter().map(drop).collect(),
    }
}

/// Services' and servers' names by the server's identity.
fn names(view: &View) -> HashMap<ServerId, (&str, &str)> {
    let mut names = HashMap::new();
    for service in view.services() {
        let name = service.config.name.as_str();
        names.extend(service.servers().map(|(id, server)| (id, (name, server.name.as_str()))));
        names.extend(service.fallback().map(|(id, server)| (id, (name, server.name.as_str()))));
    }
    names
}

fn named(
    flow: FlowReport,
    names: &HashMap<ServerId, (&str, &str)>,
    newest: &Newest,
) -> report::Flow {
    let at = |(address, port): (Address, u16)| SocketAddr::new(address.ip(), port);
    let real = newest.server(flow.server).map(|server| match server.mode {
        Mode::Nat { port } | Mode::Snat { port, .. } => {
            at((server.address, port.unwrap_or(flow.virtual_address.1))).to_string()
        }
        Mode::DirectReturn | Mode::Tunnel { .. } => server.address.to_string(),
    });
    let (service, server) = names.get(&flow.server).copied().unzip();
    report::Flow {
        protocol: match flow.protocol {
            Protocol::Tcp => "tcp".into(),
            Protocol::Udp => "udp".into(),
            Protocol::Echo => "icmp".into(),
        },
        state: flow.state.name().into(),
        client: at(flow.client),
        r#virtual: at(flow.virtual_address),
        real,
        service: service.map(Into::into),
        server: server.map(Into::into),
        age: seconds(flow.now.since(flow.created)),
        idle: seconds(flow.now.since(flow.last_seen)),
        packets: flow.packets,
        bytes: flow.bytes,
    }
}

/// A gauge that a worker moves meanwhile may look negative for a moment.
fn unsigned(gauge: i64) -> u64 {
    u64::try_from(gauge).unwrap_or(0)
}

/// To the hundredth.
fn hundredths(share: f64) -> f64 {
    (share * 100.0).round() / 100.0
}

/// To the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
