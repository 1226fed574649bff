//! One service with its servers.

use std::sync::Arc;

use dataplane::lookup::scheduler::maglev::{Size, Table};
use dataplane::snapshot::{
    Admission, Candidates, Encapsulation, Hop, Host, Limits, Mode, Options, Persistence, Protocol,
    Scheduler, Server, ServerId, Service, ServiceId, Services,
};
use dataplane::wire::Address;

use super::keys;
use super::tables::Tables;
use crate::config::{self, Config, Fallback, Forwarding};
use crate::states::Standings;

/// A service of the configuration with its identities.
pub(super) struct Compiling<'c> {
    pub config: &'c Config,
    pub service: &'c config::Service,
    pub id: ServiceId,
    /// In the order of the servers, and last the fallback's, if that is a server.
    pub servers: &'c [ServerId],
    /// Which flows servers take.
    pub standings: &'c Standings,
    /// Weights now, in the order of the servers: a server that comes back begins with less than its own.
    pub weights: Vec<u16>,
}

impl Compiling<'_> {
    /// The service's own record.
    pub fn record(&self, tables: &Tables, workers: u32) -> Service {
        let candidates = Candidates::new(self.open());
        let table = self.table(&candidates, tables);
        let service = self.service;
        Service {
            id: self.id,
            scheduler: scheduler(service.scheduler),
            candidates,
            table,
            persistence: service.persistence.as_ref().map(|persistence| Persistence {
                group: keys::group(service),
                timeout: persistence.timeout,
                mask_v4: persistence.mask,
                mask_v6: persistence.mask_ipv6,
                through_drain: persistence.through_drain,
            }),
            hosts: self.hosts(),
            timeouts: service.timeouts(),
            limits: limits(&service.limits, workers),
            options: Options {
                hairpin: service.hairpin,
                clamp_mss: service.clamp_mss,
                ftp: service.is_ftp(),
                closed: !service.enabled,
                page: matches!(service.fallback, Fallback::Page(_))
                    && self.standings.falls_back(self.id),
            },
        }
    }

    /// Who takes new flows, with weights: the servers of the best priority that has any (ST-12), or the fallback
    /// where all have failed (ST-06).
    fn open(&self) -> Vec<(ServerId, u16)> {
        let servers = &self.service.servers;
        let is_open = |position: &usize| self.admission(*position) == Admission::Open;
        let open: Vec<_> = (0..self.servers.len()).filter(is_open).collect();
        let priority = |position: usize| servers.get(position).map(|server| server.priority);
        // Nobody is open beside the fallback.
        let best = open.iter().map(|&position| priority(position)).min();
        let best = open.into_iter().filter(|&position| Some(priority(position)) == best);
        best.map(|position| (self.servers[position], self.weight(position))).collect()
    }

    /// Which flows a server takes. The fallback, which is the last, keeps those that it has when the others come
    /// back.
    fn admission(&self, position: usize) -> Admission {
        if position == self.service.servers.len() {
            return match self.standings.falls_back(self.id) {
                true => Admission::Open,
                false => Admission::Draining,
            };
        }
        self.standings.server(self.servers[position]).admission
    }

    fn weight(&self, position: usize) -> u16 {
        self.weights.get(position).copied().unwrap_or(1)
    }

    /// A server's part of new flows, in proportion to the others' of its service: nothing if it takes none.
    pub fn share(&self, position: usize) -> u16 {
        match self.admission(position) {
            Admission::Open => self.weight(position),
            Admission::Draining | Admission::Halted => 0,
        }
    }

    /// In the candidates' order. Schedulers that leave weights out leave them out here, too.
    fn table(&self, candidates: &Candidates, tables: &Tables) -> Arc<Table> {
        let unweighted =
            matches!(self.service.scheduler, config::Scheduler::Rr | config::Scheduler::Lc);
        let by_id: std::collections::HashMap<ServerId, &config::Server> =
            self.servers.iter().copied().zip(self.service.with_fallback()).collect();
        let servers: Vec<_> = candidates
            .servers()
            .iter()
            .map(|(id, weight)| (keys::target(by_id[id]), if unweighted { 1 } else { *weight }))
            .collect();
        let size = match self.service.scheduler {
            config::Scheduler::Maglev | config::Scheduler::Sh | config::Scheduler::Dh => Size::Most,
            _ => Size::for_servers(servers.len()),
        };
        tables.of(size, servers)
    }

    /// Those that clients may return to.
    fn hosts(&self) -> Box<[(Host, ServerId)]> {
        let host = |(server, &id)| (keys::host(self.service, server), id);
        let servers = self.service.servers.iter().zip(self.servers);
        let kept = servers.filter(|(_, id)| self.standings.server(**id).keeps_clients);
        let mut hosts: Box<[_]> = kept.map(host).collect();
        hosts.sort_unstable();
        hosts
    }

    /// Publishes the service, and says where replies to it come from and go to.
    pub fn publish(&self, services: &mut Services) {
        for address in self.service.each_address() {
            for &protocol in self.service.protocols() {
                for range in self.service.ports.ranges() {
                    services.publish(address, protocol, range, self.id);
                }
            }
        }
        for server in self.service.with_fallback() {
            if let Forwarding::Nat { port } = server.forwarding {
                services.expect_replies_from(server.address);
                if self.service.scheduler == config::Scheduler::Ops {
                    self.expect_one_packet_replies((server.address, port), services);
                }
            }
        }
    }

    /// Such a service has one address, and one port if the server has one of its own.
    fn expect_one_packet_replies(
        &self,
        (address, port): (Address, Option<u16>),
        services: &mut Services,
    ) {
        let ports = || self.service.ports.ranges().flat_map(|(first, last)| first..=last);
        for virtual_address in self.service.each_address() {
            for own in ports() {
                let server = (address, port.unwrap_or(own));
                let answers_for = (virtual_address, own);
                services.expect_one_packet_replies(server, Protocol::Udp, answers_for);
            }
        }
    }

    /// A server as packets meet it, by way of `hop`.
    pub fn server(&self, server: &config::Server, position: usize, hop: Hop) -> Server {
        Server {
            id: self.servers[position],
            service: self.id,
            address: server.address,
            mode: self.mode(server, hop),
            hop,
            admission: self.admission(position),
            host: keys::host(self.service, server),
            max_connections: server.max_connections,
            min_connections: server.min_connections,
        }
    }

    fn mode(&self, server: &config::Server, hop: Hop) -> Mode {
        match server.forwarding {
            Forwarding::DirectReturn => Mode::DirectReturn,
            Forwarding::Nat { port } => Mode::Nat { port },
            Forwarding::Snat { port } => {
                Mode::Snat { port, sources: self.sources(server, hop).into() }
            }
            Forwarding::Tunnel => Mode::Tunnel {
                source: self.source_towards(hop),
                encapsulation: match server.encapsulation.unwrap_or(self.service.encapsulation) {
                    config::Encapsulation::Ipip => Encapsulation::Ip,
                    config::Encapsulation::Gue => Encapsulation::Gue(self.service.gue_port),
                },
            },
        }
    }

    /// The addresses that packets to this server leave with, of its family; the configuration sees to it
    /// that there is one.
    fn sources(&self, server: &config::Server, hop: Hop) -> Vec<Address> {
        let v4 = server.address.is_v4();
        let given = self.service.sources.iter().copied().filter(|source| source.is_v4() == v4);
        match given.collect::<Vec<_>>() {
            given if given.is_empty() => vec![self.source_towards(hop)],
            given => given,
        }
    }

    /// Our address where the next station is: on a subnet of ours, and that is where replies and errors
    /// find us.
    fn source_towards(&self, hop: Hop) -> Address {
        self.config.connected(hop.address).map_or(Address::default(), |(_, own)| own.address())
    }
}

fn scheduler(scheduler: config::Scheduler) -> Scheduler {
    match scheduler {
        config::Scheduler::Rr => Scheduler::RoundRobin,
        config::Scheduler::Wrr => Scheduler::WeightedRoundRobin,
        config::Scheduler::Lc => Scheduler::LeastConnection,
        config::Scheduler::Wlc => Scheduler::WeightedLeastConnection,
        config::Scheduler::Sh => Scheduler::SourceHash,
        config::Scheduler::Dh => Scheduler::DestinationHash,
        config::Scheduler::Maglev => Scheduler::Maglev,
        config::Scheduler::Ops => Scheduler::OnePacket,
    }
}

/// The node's limits shared out to its workers, at least 1 to each where there is one at all.
fn limits(limits: &config::Limits, workers: u32) -> Limits {
    let share = |limit: u32| if limit == 0 { 0 } else { (limit / workers.max(1)).max(1) };
    Limits {
        half_open: limits.half_open.map_or(config::Limits::HALF_OPEN, share),
        new_flows: share(limits.new_flows),
        new_flows_per_client: share(limits.new_flows_per_client),
        client_mask_v4: limits.client_mask,
        client_mask_v6: limits.client_mask_ipv6,
    }
}
