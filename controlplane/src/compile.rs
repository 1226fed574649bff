//! From the configuration, the identities and what the cards say to the [`Snapshot`] that workers
//! read. [`Compiled`] holds all that only another configuration changes; [`Compiled::snapshot`] adds
//! the neighbours, which change often, and shares the rest.
//!
//! - [`service`]: one service with its servers
//! - [`keys`]: what is the same on every node and after every restart
//! - [`tables`]: what every node agrees on without memory, made once for the same servers
//! - [`ramp`]: servers that come back, and how much of their weight they have

mod service;

mod keys;

mod tables;

mod ramp;

use std::sync::Arc;

use dataplane::moment::Moment;
use dataplane::snapshot::{
    Hop, Interface, InterfaceId, Masquerade, NatRules, Neighbours, Routes, Server, ServerId,
    ServiceId, Services, Set, Snapshot,
};
use dataplane::wire::{Address, Mac, Prefix};

use self::ramp::Ramps;
use self::service::Compiling;
use self::tables::Tables;
use crate::agent::Agents;
use crate::config::{self, Config, NatRule};
use crate::neighbours::{Own, Plan, link_local};
use crate::net::in_band::Paths;
use crate::states::Standings;

/// What an opened device says of itself.
#[derive(Debug, Clone, Copy)]
pub struct LiveInterface {
    /// Our hardware address there.
    pub mac: Mac,
    /// The longest IP packet that it takes, in bytes.
    pub mtu: u16,
    /// Nobody listens there (a capture file): nothing is announced.
    pub quiet: bool,
}

/// Compiles one configuration after another, and remembers what the next may share with it.
#[derive(Debug)]
pub struct Compiler {
    workers: u32,
    tables: Tables,
    ramps: Ramps,
    agents: Agents,
}

/// A configuration in the form that workers need, but for the neighbours.
#[derive(Debug)]
pub struct Compiled {
    /// With everything but `generation`, `servers` and `neighbours`.
    shared: Snapshot,
    /// By slot, without hardware addresses.
    servers: Vec<Option<Server>>,
    /// By slot: shares of new flows now.
    weights: Arc<[u16]>,
    plan: Plan,
}

impl Compiler {
    /// For a node with so many workers.
    pub fn new(workers: usize) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        Self {
            workers,
            tables: Tables::default(),
            ramps: Ramps::default(),
            agents: Agents::default(),
        }
    }

    /// With weights that follow what these agents say.
    pub fn with_agents(self, agents: Agents) -> Self {
        Self { agents, ..self }
    }

    /// Compiles `config`, whose servers have these `identities` and take these flows; `live` has its
    /// interfaces in the same order.
    pub fn compile(
        &self,
        config: &Config,
        identities: &[(ServiceId, Vec<ServerId>)],
        standings: &Standings,
        live: &[LiveInterface],
        now: Moment,
    ) -> Compiled {
        let routes = config.ways();
        self.agents.take_news();
        let own = |service: &_, server: &_| self.agents.weight(service, server);
        let weights = self.ramps.weights(config, identities, standings, own, now);
        let interfaces = interfaces(config, live);
        let mut services = Services::new();
        let mut servers = Vec::new();
        let mut shares = Vec::new();
        let all = config.services.iter().zip(identities).zip(weights);
        for ((service, (id, server_ids)), weights) in all {
            let (id, servers_of) = (*id, server_ids);
            let compiling =
                Compiling { config, service, id, servers: servers_of, standings, weights };
            services.insert(compiling.record(&self.tables, self.workers));
            compiling.publish(&mut services);
            for (position, server) in service.with_fallback().enumerate() {
                let Some(hop) = hop(&routes, server.address) else { continue };
                let own = compiling.server(server, position, hop);
                if let dataplane::snapshot::Mode::Snat { sources, .. } = &own.mode {
                    sources.iter().for_each(|&source| services.expect_replies_to(source));
                }
                if service.hairpin {
                    let interface = interfaces.get(usize::from(hop.interface.0));
                    let source = interface.and_then(|it| it.source_for(server.address));
                    source.into_iter().for_each(|source| services.expect_replies_to(source));
                }
                let slot = own.id.slot();
                if servers.len() <= slot {
                    servers.resize(slot + 1, None);
                    shares.resize(slot + 1, 0);
                }
                shares[slot] = compiling.share(position);
                servers[slot] = Some(own);
            }
        }
        self.tables.tidy();
        let nat = nat(config, &mut services);
        let plan = plan(config, live, &servers);
        let own = plan.interfaces.iter().flat_map(|own| &own.addresses);
        let own: Set<_> = own.map(|prefix| prefix.address()).collect();
        let answered = plan.interfaces.iter().flat_map(|own| own.virtual_addresses.iter().copied());
        let locals = own.iter().copied().chain(answered).collect();
        let shared = Snapshot {
            interfaces,
            locals: Arc::new(locals),
            own: Arc::new(own),
            services: Arc::new(services),
            routes: Arc::new(routes),
            nat: Arc::new(nat),
            ..Snapshot::default()
        };
        Compiled { shared, servers, weights: shares.into(), plan }
    }

    /// Whether a server has less than its own weight still, or an agent has something else to say, and
    /// another look at it is due.
    pub fn is_ramping(&self) -> bool {
        self.ramps.are_under_way() || self.agents.have_news()
    }
}

impl Compiled {
    /// The snapshot with these neighbours: only the servers are copied, and the neighbours.
    pub fn snapshot(&self, neighbours: &Neighbours, generation: u64) -> Snapshot {
        let resolved = |server: &Option<Server>| {
            let mut server = server.clone()?;
            server.hop.mac = neighbours.get(&(server.hop.interface, server.hop.address)).copied();
            Some(server)
        };
        Snapshot {
            generation,
            servers: self.servers.iter().map(resolved).collect(),
            neighbours: Arc::new(neighbours.clone()),
            ..self.shared.clone()
        }
    }

    /// By slot: what share of new flows each server gets, in proportion to the others'.
    pub fn weights(&self) -> Arc<[u16]> {
        Arc::clone(&self.weights)
    }

    /// Where packets of our own go.
    pub fn paths(&self) -> Paths {
        Paths::new(Arc::clone(&self.shared.interfaces), Arc::clone(&self.shared.routes))
    }

    /// Whose hardware addresses are needed, and whom we answer.
    pub fn plan(&self) -> Plan {
        self.plan.clone()
    }
}

/// The next station on the way to `server`, whose hardware address is not known yet. The
/// configuration holds no server without one.
fn hop(routes: &Routes, server: Address) -> Option<Hop> {
    let route = routes.to(server)?;
    Some(Hop { interface: route.interface, address: route.via.unwrap_or(server), mac: None })
}

/// Pairs and masquerades; what leaves with an address of ours comes back to it.
fn nat(config: &Config, services: &mut Services) -> NatRules {
    let mut masquerades = Vec::new();
    let mut pairs = Vec::new();
    for rule in config.nat_in_effect() {
        match rule {
            NatRule::Pair { inside, outside } => pairs.push((*inside, *outside)),
            NatRule::Masquerade { out, .. } => {
                let source = sources_on(&config.interfaces[usize::from(out.0)]);
                source.iter().for_each(|&source| services.expect_replies_to(source));
                let from = rule.sources_in(&config.interfaces);
                masquerades.push(Masquerade { out: *out, from, source });
            }
        }
    }
    NatRules::new(pairs, masquerades)
}

/// The addresses that masqueraded packets leave an interface with: its first of each family.
pub fn sources_on(interface: &config::Interface) -> Vec<Address> {
    let first = |v4: bool| {
        interface.addresses.iter().map(|own| own.address()).find(|own| own.is_v4() == v4)
    };
    [true, false].into_iter().filter_map(first).collect()
}

/// The card may take less than the operator asked for.
fn interfaces(config: &Config, live: &[LiveInterface]) -> Arc<[Interface]> {
    let interface = |(interface, live): (&config::Interface, &LiveInterface)| Interface {
        port: config.port_of(interface),
        vlan: interface.vlan,
        mac: live.mac,
        mtu: interface.mtu.min(live.mtu),
        addresses: addresses(interface, live),
        gateway: interface.gateway,
    };
    config.interfaces.iter().zip(live).map(interface).collect()
}

/// The configured ones, and last the one that every interface with IPv6 has on its own link.
fn addresses(interface: &config::Interface, live: &LiveInterface) -> Vec<Prefix> {
    let speaks_ipv6 = interface.addresses.iter().any(|prefix| !prefix.address().is_v4());
    let own_link = speaks_ipv6.then(|| Prefix::new(link_local(live.mac), 64));
    interface.addresses.iter().copied().chain(own_link).collect()
}

/// Servers and gateways are wanted; our own, the virtual addresses and those that stations have outside
/// are answered for, each on the interface whose subnet holds it.
fn plan(config: &Config, live: &[LiveInterface], servers: &[Option<Server>]) -> Plan {
    let own = |(interface, live): (&config::Interface, &LiveInterface)| Own {
        mac: live.mac,
        addresses: addresses(interface, live),
        virtual_addresses: Vec::new(),
        quiet: live.quiet,
    };
    let mut interfaces: Vec<_> = config.interfaces.iter().zip(live).map(own).collect();
    let published = config.services.iter().flat_map(|service| service.each_address());
    let outside = config.nat.iter().filter_map(|rule| match rule {
        NatRule::Pair { outside, .. } => Some(*outside),
        NatRule::Masquerade { .. } => None,
    });
    for address in once_each(published.chain(outside)) {
        let Some((InterfaceId(position), _)) = config.connected(address) else { continue };
        if let Some(own) = interfaces.get_mut(usize::from(position)) {
            own.virtual_addresses.push(address);
        }
    }
    let hops = servers.iter().flatten().map(|server| (server.hop.interface, server.hop.address));
    let gateways = config.routes.iter().map(|route| (route.interface, route.via));
    Plan {
        interfaces,
        wanted: once_each(gateways.chain(hops)),
        fixed: config.neighbours.iter().map(|it| (it.interface, it.address, it.mac)).collect(),
    }
}

fn once_each<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<_> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

#[cfg(test)]
mod tests;
