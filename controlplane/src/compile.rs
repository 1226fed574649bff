//! From the configuration, the identities and what the cards say to the [`Snapshot`] that workers
//! read. [`Compiled`] holds all that only another configuration changes; [`Compiled::snapshot`] adds
//! the neighbours, which change often, and shares the rest.

use std::sync::Arc;

use dataplane::lookup::scheduler::maglev;
use dataplane::snapshot::{
    self, Candidates, Hop, Interface, InterfaceId, Mode, Neighbours, PortId, Routes, Scheduler,
    Server, Service, Services, Snapshot,
};
use dataplane::wire::{Address, Mac, Prefix};
use ipnet::Ipv4Net;

use crate::config::{self, Config, Forwarding};
use crate::identities::Identities;
use crate::neighbours::{Own, Plan, link_local};

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

/// A configuration in the form that workers need, but for the neighbours.
#[derive(Debug)]
pub struct Compiled {
    /// With everything but `generation`, `servers` and `neighbours`.
    shared: Snapshot,
    /// By slot, without hardware addresses.
    servers: Vec<Option<Server>>,
    plan: Plan,
}

impl Compiled {
    /// Compiles `config`, to which `identities` were assigned last; `live` has its interfaces in
    /// the same order.
    pub fn new(config: &Config, identities: &Identities, live: &[LiveInterface]) -> Self {
        let routes = config.ways();
        let mut services = Services::new();
        let mut servers = Vec::new();
        for (service, (id, server_ids)) in config.services.iter().zip(identities.of(config)) {
            let weights = service.servers.iter().map(|server| server.weight);
            services.insert(Service {
                id,
                scheduler: match service.scheduler {
                    config::Scheduler::Rr => Scheduler::RoundRobin,
                    config::Scheduler::Wrr => Scheduler::WeightedRoundRobin,
                },
                candidates: Candidates::new(server_ids.iter().copied().zip(weights)),
                table: Arc::new(maglev::Table::new(maglev::Size::for_servers(1), [])),
                persistence: None,
                hosts: Box::default(),
                timeouts: snapshot::Timeouts::default(),
                limits: snapshot::Limits::default(),
                options: snapshot::Options::default(),
            });
            for &address in &service.addresses {
                for &protocol in service.protocols() {
                    for range in service.ports.ranges() {
                        services.publish(address.into(), protocol, range, id);
                    }
                }
            }
            for (server, server_id) in service.servers.iter().zip(server_ids) {
                let Some(hop) = hop(&routes, server.address.into()) else { continue };
                if let Forwarding::Nat { .. } = server.forwarding {
                    services.expect_replies_from(server.address.into());
                }
                if servers.len() <= server_id.slot() {
                    servers.resize(server_id.slot() + 1, None);
                }
                servers[server_id.slot()] = Some(Server {
                    id: server_id,
                    service: id,
                    address: server.address.into(),
                    mode: mode(config, server.forwarding, hop),
                    hop,
                    admission: snapshot::Admission::Open,
                    host: snapshot::Host(1 + server_id.slot() as u32),
                    max_connections: 0,
                    min_connections: 0,
                });
            }
        }
        let plan = plan(config, live, &servers);
        let own = config.interfaces.iter().flat_map(|it| it.addresses.iter().map(Ipv4Net::addr));
        let published = config.services.iter().flat_map(|it| it.addresses.iter().copied());
        let locals = own.chain(published).map(Address::from).collect();
        let shared = Snapshot {
            interfaces: interfaces(config, live),
            locals: Arc::new(locals),
            services: Arc::new(services),
            routes: Arc::new(routes),
            ..Snapshot::default()
        };
        Self { shared, servers, plan }
    }

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

fn mode(config: &Config, forwarding: Forwarding, hop: Hop) -> Mode {
    match forwarding {
        Forwarding::DirectReturn => Mode::DirectReturn,
        Forwarding::Nat { port } => Mode::Nat { port },
        Forwarding::Tunnel => Mode::Tunnel {
            // The next station is on a subnet of ours, and that is where replies and errors find us.
            source: hop
                .address
                .v4()
                .and_then(|address| config.connected(address))
                .map_or(Address::default(), |(_, subnet)| subnet.addr().into()),
            encapsulation: snapshot::Encapsulation::Ip,
        },
    }
}

/// The card may take less than the operator asked for.
fn interfaces(config: &Config, live: &[LiveInterface]) -> Arc<[Interface]> {
    let interface =
        |((interface, live), port): ((&config::Interface, &LiveInterface), _)| Interface {
            port: PortId(port),
            vlan: None,
            mac: live.mac,
            mtu: interface.mtu.min(live.mtu),
            addresses: addresses(interface, live),
            gateway: false,
        };
    config.interfaces.iter().zip(live).zip(0..).map(interface).collect()
}

/// Servers and gateways are wanted; our own and the virtual addresses are answered for, each on
/// the interface whose subnet holds it.
fn plan(config: &Config, live: &[LiveInterface], servers: &[Option<Server>]) -> Plan {
    let own = |(interface, live): (&config::Interface, &LiveInterface)| Own {
        mac: live.mac,
        addresses: addresses(interface, live),
        virtual_addresses: Vec::new(),
        quiet: live.quiet,
    };
    let mut interfaces: Vec<_> = config.interfaces.iter().zip(live).map(own).collect();
    let published = config.services.iter().flat_map(|service| &service.addresses).copied();
    for address in once_each(published) {
        let Some((InterfaceId(position), _)) = config.connected(address) else { continue };
        if let Some(own) = interfaces.get_mut(usize::from(position)) {
            own.virtual_addresses.push(address.into());
        }
    }
    let hops = servers.iter().flatten().map(|server| (server.hop.interface, server.hop.address));
    let gateways = config.routes.iter().map(|route| (route.interface, route.via.into()));
    Plan {
        interfaces,
        wanted: once_each(gateways.chain(hops)),
        fixed: config
            .neighbours
            .iter()
            .map(|it| (it.interface, it.address.into(), it.mac))
            .collect(),
    }
}

fn addresses(interface: &config::Interface, live: &LiveInterface) -> Vec<Prefix> {
    let own = interface
        .addresses
        .iter()
        .map(|subnet| Prefix::new(subnet.addr().into(), subnet.prefix_len()));
    own.chain([Prefix::new(link_local(live.mac), 64)]).collect()
}

fn once_each<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<_> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Duration, Instant};

    use dataplane::snapshot::Protocol;

    use super::*;

    const WAN: InterfaceId = InterfaceId(0);
    const LAN: InterfaceId = InterfaceId(1);

    fn live() -> [LiveInterface; 2] {
        [1, 2].map(|last| LiveInterface { mac: mac(last), mtu: 1500, quiet: false })
    }

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn mixed() -> (Config, Identities) {
        let config = Config::from_toml(include_str!("../../tests/configs/mixed.toml")).unwrap();
        let mut identities = Identities::new();
        identities.assign(&config);
        (config, identities)
    }

    fn snapshot(neighbours: &[(&str, Mac)]) -> (Snapshot, Identities) {
        let (config, identities) = mixed();
        let neighbours =
            neighbours.iter().map(|&(text, mac)| ((WAN, address(text)), mac)).collect();
        (Compiled::new(&config, &identities, &live()).snapshot(&neighbours, 7), identities)
    }

    #[test]
    fn services_are_found_at_their_addresses_ports_and_protocols_alone() {
        let (snapshot, identities) = snapshot(&[]);
        let at = |text, protocol, port| {
            snapshot.services.at(address(text), protocol, port).map(|service| service.id)
        };
        let (direct, both) = (identities.service("direct"), identities.service("both"));
        assert_eq!(snapshot.generation, 7);
        assert_eq!(at("10.1.0.100", Protocol::Tcp, 80), direct);
        assert_eq!(at("10.1.0.100", Protocol::Tcp, 8010), direct);
        assert_eq!(at("10.1.0.100", Protocol::Tcp, 8011), None);
        assert_eq!(at("10.1.0.100", Protocol::Udp, 80), None);
        assert_eq!(at("10.1.0.101", Protocol::Udp, 80), identities.service("translated"));
        assert_eq!(at("10.1.0.102", Protocol::Tcp, 80), identities.service("tunnelled"));
        assert_eq!(at("10.1.0.102", Protocol::Tcp, 81), both);
        assert_eq!(at("10.1.0.103", Protocol::Tcp, 81), both);
    }

    #[test]
    fn each_server_is_reached_in_its_mode_by_its_next_station() {
        let (snapshot, identities) = snapshot(&[("10.1.0.21", mac(21)), ("10.1.0.1", mac(9))]);
        let server = |service, server| {
            snapshot.server(identities.server(service, server).unwrap()).unwrap().clone()
        };
        let near = server("both", "near");
        assert_eq!(near.mode, Mode::DirectReturn);
        assert_eq!(
            near.hop,
            Hop { interface: WAN, address: address("10.1.0.21"), mac: Some(mac(21)) }
        );
        let far = server("both", "far");
        let encapsulation = snapshot::Encapsulation::Ip;
        assert_eq!(far.mode, Mode::Tunnel { source: address("10.1.0.2"), encapsulation });
        assert_eq!(
            far.hop,
            Hop { interface: WAN, address: address("10.1.0.1"), mac: Some(mac(9)) }
        );
        assert_eq!(server("translated", "web1").mode, Mode::Nat { port: Some(8080) });
        assert_eq!(
            server("translated", "web2").hop,
            Hop { interface: LAN, address: address("10.2.0.12"), mac: None }
        );
        assert!(snapshot.services.may_reply(address("10.2.0.11")));
        assert!(!snapshot.services.may_reply(address("10.3.0.11")));
    }

    #[test]
    fn our_own_and_the_virtual_addresses_are_local() {
        let (snapshot, _) = snapshot(&[]);
        for local in ["10.1.0.2", "10.2.0.2", "10.1.0.100", "10.1.0.103"] {
            assert!(snapshot.locals.contains(&address(local)), "{local}");
        }
        assert_eq!(snapshot.locals.len(), 6);
    }

    #[test]
    fn a_draining_server_takes_no_new_flows_but_keeps_its_own() {
        let (mut config, identities) = mixed();
        config.services[0].servers[0].weight = 0;
        let snapshot =
            Compiled::new(&config, &identities, &live()).snapshot(&Neighbours::default(), 1);
        let service = snapshot.services.service(identities.service("direct").unwrap()).unwrap();
        let draining = identities.server("direct", "near1").unwrap();
        assert_eq!(service.candidates.servers().len(), 2);
        assert!(service.candidates.servers().iter().all(|&(id, _)| id != draining));
        assert!(snapshot.server(draining).is_some());
    }

    #[test]
    fn a_packet_must_fit_what_the_card_takes() {
        let (config, identities) = mixed();
        let mut live = live();
        live[1].mtu = 1400;
        let snapshot =
            Compiled::new(&config, &identities, &live).snapshot(&Neighbours::default(), 1);
        assert_eq!([snapshot.interfaces[0].mtu, snapshot.interfaces[1].mtu], [1500, 1400]);
    }

    #[test]
    fn a_change_of_neighbours_shares_everything_else() {
        let (config, identities) = mixed();
        let compiled = Compiled::new(&config, &identities, &live());
        let before = compiled.snapshot(&Neighbours::default(), 1);
        let known = Neighbours::from_iter([((WAN, address("10.1.0.22")), mac(22))]);
        let after = compiled.snapshot(&known, 2);
        assert!(Arc::ptr_eq(&before.services, &after.services));
        assert!(Arc::ptr_eq(&before.routes, &after.routes));
        assert!(Arc::ptr_eq(&before.locals, &after.locals));
        assert!(Arc::ptr_eq(&before.interfaces, &after.interfaces));
        let id = identities.server("direct", "near2").unwrap();
        assert_eq!(before.server(id).unwrap().hop.mac, None);
        assert_eq!(after.server(id).unwrap().hop.mac, Some(mac(22)));
        assert_eq!(after.hop_to(address("10.1.0.22")).unwrap().mac, Some(mac(22)));
    }

    #[test]
    fn servers_and_gateways_are_wanted_and_virtual_addresses_answered_for() {
        let (mut config, identities) = mixed();
        config.neighbours = vec![config::Neighbour {
            interface: LAN,
            address: Ipv4Addr::new(10, 2, 0, 13),
            mac: mac(13),
        }];
        let plan = Compiled::new(&config, &identities, &live()).plan();
        let wan = ["10.1.0.1", "10.1.0.21", "10.1.0.22", "10.1.0.23"].map(|it| (WAN, address(it)));
        let lan = ["10.2.0.11", "10.2.0.12", "10.2.0.13"].map(|it| (LAN, address(it)));
        assert_eq!(plan.wanted, [&wan[..], &lan[..]].concat());
        assert_eq!(plan.fixed, [(LAN, address("10.2.0.13"), mac(13))]);
        let virtual_addresses = ["10.1.0.100", "10.1.0.101", "10.1.0.102", "10.1.0.103"];
        assert_eq!(plan.interfaces[0].virtual_addresses, virtual_addresses.map(|it| address(it)));
        assert!(plan.interfaces[1].virtual_addresses.is_empty());
        assert_eq!(plan.interfaces[1].mac, mac(2));
    }

    #[test]
    fn a_thousand_services_of_ten_servers_are_compiled_at_once() {
        let config = Config::read(&config::tests::large()).unwrap();
        let mut identities = Identities::new();
        identities.assign(&config);
        let known =
            (0..10_000).map(|n| ((LAN, Ipv4Addr::from(0x0a02_0100 + n).into()), mac(1))).collect();
        let best = (0..5)
            .map(|_| {
                let start = Instant::now();
                let compiled = Compiled::new(&config, &identities, &live());
                let compiling = start.elapsed();
                let snapshot = compiled.snapshot(&known, 1);
                assert!(snapshot.servers.iter().flatten().all(|it| it.hop.mac.is_some()));
                (start.elapsed(), compiling)
            })
            .min()
            .unwrap();
        println!(
            "1000 services of 10 servers compiled in {:?}, of that neighbours apart {:?}",
            best.0, best.1
        );
        assert!(best.0 < Duration::from_millis(100), "{best:?}");
    }
}
