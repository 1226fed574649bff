//! Which slot each service and server has in the workers' tables. As long as the operator keeps a
//! name, flows and counters stay with it; a slot that was given up rests for a while, and is given
//! away again with another number of reuse, so that no flow of the old owner is mistaken for one of the
//! new.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use dataplane::snapshot::{ServerId, ServiceId};
use dataplane::wire::Address;

use crate::config::{Config, Forwarding, Server};

/// The identities of everything in the configuration last assigned. Cheap to clone: services that stay as they are,
/// are shared.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    services: HashMap<String, Arc<Known>>,
    service_slots: Slots,
    server_slots: Slots,
}

/// A service that has an identity.
#[derive(Debug, Clone)]
struct Known {
    id: ServiceId,
    servers: HashMap<String, (ServerId, Target)>,
}

/// What a server's flows depend on. If it changes, they must not go on with another machine.
type Target = (Address, Forwarding);

fn target(server: &Server) -> Target {
    (server.address, server.forwarding)
}

impl Identities {
    /// Nothing has an identity yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives an identity to everything in `config` that has none, and takes those of everything
    /// else back. Returns the identities of servers that are new.
    pub fn assign(&mut self, config: &Config) -> Vec<ServerId> {
        self.take_back(config);
        let mut fresh = Vec::new();
        for service in &config.services {
            let known = self.services.entry(service.name.clone()).or_insert_with(|| {
                let (slot, reuse) = self.service_slots.take();
                Arc::new(Known { id: ServiceId::new(slot, reuse), servers: HashMap::new() })
            });
            for server in service.with_fallback() {
                if known.servers.contains_key(&server.name) {
                    continue;
                }
                let (slot, reuse) = self.server_slots.take();
                let id = ServerId::new(slot, reuse);
                fresh.push(id);
                let own = (id, target(server));
                Arc::make_mut(known).servers.insert(server.name.clone(), own);
            }
        }
        fresh
    }

    fn take_back(&mut self, config: &Config) {
        let wanted: HashMap<&str, HashMap<&str, Target>> = config
            .services
            .iter()
            .map(|service| {
                let servers = service.with_fallback();
                (&*service.name, servers.map(|server| (&*server.name, target(server))).collect())
            })
            .collect();
        let mut services = Vec::new();
        let mut servers = Vec::new();
        self.services.retain(|name, known| {
            let service = wanted.get(&**name);
            let stays = |name: &str, target: &Target| {
                service.and_then(|service| service.get(name)) == Some(target)
            };
            if !known.servers.iter().all(|(name, (_, target))| stays(name, target)) {
                Arc::make_mut(known).servers.retain(|name, (id, target)| {
                    let stays = stays(name, target);
                    if !stays {
                        servers.push(next_owner(id.slot(), id.reuse()));
                    }
                    stays
                });
            }
            if service.is_none() {
                services.push(next_owner(known.id.slot(), known.id.reuse()));
            }
            service.is_some()
        });
        self.service_slots.give_back(services);
        self.server_slots.give_back(servers);
    }

    /// The identity of the service of this name.
    pub fn service(&self, service: &str) -> Option<ServiceId> {
        self.services.get(service).map(|known| known.id)
    }

    /// The identity of the server of this name in that service.
    pub fn server(&self, service: &str, server: &str) -> Option<ServerId> {
        self.services.get(service)?.servers.get(server).map(|(id, _)| *id)
    }

    /// The identities of all services and their servers, in the order of `config`; last the one of the service's
    /// fallback, if that is a server.
    ///
    /// # Panics
    /// If `config` is not the configuration last assigned.
    pub fn of(&self, config: &Config) -> Vec<(ServiceId, Vec<ServerId>)> {
        let of = |service: &crate::config::Service| {
            let known = &self.services[&service.name];
            let servers = service.with_fallback().map(|server| known.servers[&server.name].0);
            (known.id, servers.collect())
        };
        config.services.iter().map(of).collect()
    }
}

/// A slot that was given up, with how many will have had it before its next owner: never so many that
/// the identity would be [`ServerId::NONE`] or [`ServiceId::NONE`].
fn next_owner(slot: usize, reuse: u16) -> (u16, u16) {
    (slot as u16, (reuse + 1) % u16::MAX)
}

/// Slots that are free, with the number of owners they have had. A configuration has no more
/// services and servers than there are slots.
#[derive(Debug, Clone, Default)]
struct Slots {
    never_used: u32,
    /// Given back lately, the latest last: at most [`RESTING`].
    resting: VecDeque<(u16, u16)>,
    /// Given back before those. The lowest goes first, because the workers' lists reach to the highest in use.
    rested: BinaryHeap<Reverse<(u16, u16)>>,
}

/// Slots that are kept from new owners for a while, as long as there are others.
const RESTING: usize = 256;

impl Slots {
    /// The lowest slot that has rested, or else the one that has rested for the longest.
    fn take(&mut self) -> (u16, u16) {
        let rested = self.rested.pop().map(|Reverse(slot)| slot);
        rested.or_else(|| self.resting.pop_front()).unwrap_or_else(|| {
            let slot = u16::try_from(self.never_used).expect("a configuration is bounded");
            self.never_used += 1;
            (slot, 0)
        })
    }

    /// In order of the slots, so that the same changes give the same identities on every run.
    fn give_back(&mut self, mut slots: Vec<(u16, u16)>) {
        slots.sort_unstable();
        self.resting.extend(slots);
        let rested = self.resting.len().saturating_sub(RESTING);
        self.rested.extend(self.resting.drain(..rested).map(Reverse));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Name, last byte of the address, and weight.
    type Row<'t> = (&'t str, u8, u16);

    fn config(services: &[(&str, &[Row<'_>])]) -> Config {
        let services: Vec<Value> = services
            .iter()
            .enumerate()
            .map(|(position, (name, servers))| {
                let servers: Vec<Value> = servers
                    .iter()
                    .map(|(name, host, weight)| {
                        json!({ "name": name, "address": format!("10.2.0.{host}"), "weight": weight })
                    })
                    .collect();
                json!({
                    "name": name,
                    "address": "10.1.0.100",
                    "ports": (position + 1).to_string(),
                    "server": servers,
                })
            })
            .collect();
        Config::read(&json!({
            "interface": [
                { "name": "wan", "device": "kernel:wan", "addresses": ["10.1.0.2/24"] },
                { "name": "lan", "device": "kernel:lan", "addresses": ["10.2.0.2/24"] },
            ],
            "service": services,
        }))
        .unwrap()
    }

    #[test]
    fn names_keep_their_identities_whatever_else_changes() {
        let mut identities = Identities::new();
        identities
            .assign(&config(&[("web", &[("a", 11, 1), ("b", 12, 1)]), ("dns", &[("a", 11, 1)])]));
        let (web, b) = (identities.service("web"), identities.server("web", "b"));
        let new = identities
            .assign(&config(&[("mail", &[("a", 13, 1)]), ("web", &[("c", 14, 1), ("b", 12, 50)])]));
        assert_eq!((identities.service("web"), identities.server("web", "b")), (web, b));
        assert_eq!(identities.service("dns"), None);
        assert_eq!(identities.server("web", "a"), None);
        let of = |service, server| identities.server(service, server).unwrap();
        assert_eq!(new, [of("mail", "a"), of("web", "c")]);
    }

    #[test]
    fn a_server_at_another_address_port_or_mode_is_another_server() {
        let mut identities = Identities::new();
        identities.assign(&config(&[("web", &[("a", 11, 1)])]));
        let before = identities.server("web", "a").unwrap();
        identities.assign(&config(&[("web", &[("a", 12, 1)])]));
        let moved = identities.server("web", "a").unwrap();
        assert_ne!(before, moved);

        let mut translated = config(&[("web", &[("a", 12, 1)])]);
        translated.services[0].servers[0].forwarding = Forwarding::Nat { port: None };
        identities.assign(&translated);
        let translated_id = identities.server("web", "a").unwrap();
        assert_ne!(moved, translated_id);
        translated.services[0].servers[0].forwarding = Forwarding::Nat { port: Some(80) };
        identities.assign(&translated);
        assert_ne!(translated_id, identities.server("web", "a").unwrap());
    }

    #[test]
    fn the_slot_that_is_free_for_the_longest_is_given_away_first() {
        let mut identities = Identities::new();
        identities.assign(&config(&[("web", &[("a", 11, 1), ("b", 12, 1), ("c", 13, 1)])]));
        let old = |name| identities.server("web", name).unwrap();
        let (a, b) = (old("a"), old("b"));
        identities.assign(&config(&[("web", &[("a", 11, 1), ("c", 13, 1)])]));
        identities.assign(&config(&[("web", &[("c", 13, 1)])]));
        identities.assign(&config(&[("web", &[("c", 13, 1), ("d", 14, 1), ("e", 15, 1)])]));
        let new = |name| identities.server("web", name).unwrap();
        assert_eq!(new("d"), ServerId::new(b.slot() as u16, 1));
        assert_eq!(new("e"), ServerId::new(a.slot() as u16, 1));
    }

    #[test]
    fn small_configurations_after_a_large_one_stay_in_low_slots() {
        let mut slots = Slots::default();
        let all: Vec<_> = (0..10_000).map(|_| slots.take()).collect();
        slots.give_back(all.iter().map(|&(slot, reuse)| (slot, reuse + 1)).collect());
        for _ in 0..1_000 {
            let some: Vec<_> = (0..15).map(|_| slots.take()).collect();
            assert!(some.iter().all(|&(slot, _)| slot < 600), "{some:?}");
            slots.give_back(some.into_iter().map(|(slot, reuse)| (slot, reuse + 1)).collect());
        }
    }

    #[test]
    fn as_many_servers_as_there_are_slots_can_all_be_replaced() {
        let all = |second: u8| {
            let server = |n: u32| {
                let address =
                    std::net::Ipv4Addr::from(u32::from_be_bytes([10, second, 0, 0]) + 0x100 + n);
                json!({ "address": address.to_string(), "mode": "tun" })
            };
            Config::read(&json!({
                "interface": [
                    { "name": "wan", "device": "kernel:wan", "addresses": ["10.1.0.2/24"] },
                ],
                "route": [{ "to": "0.0.0.0/0", "via": "10.1.0.1" }],
                "service": [{
                    "name": "web",
                    "address": "10.1.0.100",
                    "ports": "80",
                    "server": (0..65_536).map(server).collect::<Vec<_>>(),
                }],
            }))
            .unwrap()
        };
        let mut identities = Identities::new();
        assert_eq!(identities.assign(&all(4)).len(), 65_536);
        let new = identities.assign(&all(6));
        assert_eq!(new.len(), 65_536);
        assert!(new.iter().all(|id| id.reuse() == 1));
    }

    proptest! {
        #[test]
        fn no_two_servers_ever_have_the_same_identity(
            steps in prop::collection::vec(
                prop::collection::btree_map(0..6_u8, prop::collection::btree_map(0..5_u8, 0..9_u8, 0..5), 0..6),
                1..12,
            ),
        ) {
            let mut identities = Identities::new();
            let mut owners: HashMap<ServerId, (u8, u8, u8)> = HashMap::new();
            for services in steps {
                let mut config = config(&[("template", &[("server", 3, 1)])]);
                let template = config.services.remove(0);
                let server = &template.servers[0];
                for (service, servers) in &services {
                    config.services.push(crate::config::Service {
                        name: format!("s{service}"),
                        servers: servers.iter().map(|(name, host)| Server {
                            name: format!("r{name}"),
                            address: std::net::Ipv4Addr::new(10, 2, 0, *host).into(),
                            ..server.clone()
                        }).collect(),
                        ..template.clone()
                    });
                }
                identities.assign(&config);
                let mut now = HashSet::new();
                let mut ids = HashSet::new();
                for (service, servers) in &services {
                    let id = identities.service(&format!("s{service}")).unwrap();
                    prop_assert!(ids.insert(id), "two services have {id:?}");
                    for (name, host) in servers {
                        let id = identities.server(&format!("s{service}"), &format!("r{name}")).unwrap();
                        let owner = (*service, *name, *host);
                        prop_assert!(now.insert(id.slot()), "two servers have slot {}", id.slot());
                        prop_assert_eq!(*owners.entry(id).or_insert(owner), owner);
                    }
                }
            }
        }
    }
}
