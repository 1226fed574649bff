//! What one configuration changes about another: what needs a restart, and what to tell the
//! operator.

use std::collections::HashMap;

use super::{Config, Server, Service, State};

impl Config {
    /// The paths of what `next` changes and a running appliance cannot: an empty list means
    /// that it can be applied at once.
    pub fn restart_needed(&self, next: &Self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut differs = |differs: bool, path: &str| {
            if differs {
                paths.push(path.to_owned());
            }
        };
        let (old, new) = (&self.dataplane, &next.dataplane);
        differs(old.workers != new.workers, "dataplane.workers");
        differs(old.polling != new.polling, "dataplane.polling");
        differs(old.flows != new.flows, "dataplane.flows");
        // The default follows `flows`, which is told already.
        differs(old.flows_ipv6 != new.flows_ipv6, "dataplane.flows_ipv6");
        differs(old.clients != new.clients, "dataplane.clients");
        differs(old.fragments != new.fragments, "dataplane.fragments");
        differs(old.memory != new.memory, "dataplane.memory");
        let (old, new) = (&self.admin, &next.admin);
        differs(old.listen != new.listen, "admin.listen");
        differs(old.in_band != new.in_band, "admin.in_band");
        differs(old.socket != new.socket, "admin.socket");
        differs(old.certificate != new.certificate, "admin.certificate");
        differs(self.scripts != next.scripts, "node.scripts");
        differs(self.script_user != next.script_user, "node.script_user");
        let most = self.interfaces.len().max(next.interfaces.len());
        for position in 0..most {
            match (self.interfaces.get(position), next.interfaces.get(position)) {
                (Some(old), Some(new)) => {
                    differs(old.name != new.name, &format!("interface[{position}].name"));
                    differs(old.device != new.device, &format!("interface[{position}].device"));
                    differs(old.mtu != new.mtu, &format!("interface[{position}].mtu"));
                    differs(old.vlan != new.vlan, &format!("interface[{position}].vlan"));
                }
                _ => differs(true, &format!("interface[{position}]")),
            }
        }
        paths
    }

    /// What `next` changes, a sentence each.
    pub fn changes(&self, next: &Self) -> Vec<String> {
        let mut told = Vec::new();
        if self.node != next.node {
            told.push(format!("node: renamed from {} to {}", self.node, next.node));
        }
        if self.dataplane != next.dataplane {
            told.push("dataplane: changed".into());
        }
        if self.admin != next.admin {
            told.push("admin: changed".into());
        }
        compare(
            "interface",
            &self.interfaces,
            &next.interfaces,
            |it| &it.name,
            &mut told,
            |_, _, _| (),
        );
        compare("route", &self.routes, &next.routes, |it| it.to, &mut told, |_, _, _| ());
        compare(
            "neighbour",
            &self.neighbours,
            &next.neighbours,
            |it| it.address,
            &mut told,
            |_, _, _| (),
        );
        if self.nat != next.nat {
            told.push("nat: rules changed".into());
        }
        compare("service", &self.services, &next.services, |it| &it.name, &mut told, service);
        if (&self.scripts, &self.script_user) != (&next.scripts, &next.script_user) {
            told.push("node: scripts changed".into());
        }
        if self.alerts != next.alerts {
            told.push("alerts: changed".into()); // what there is to say of it may be secret
        }
        let (old, new) = (&self.triggers, &next.triggers);
        compare("trigger", old, new, |it| &it.name, &mut told, |_, _, _| ());
        told
    }
}

/// Tells what was removed, added and changed between two lists; `parts` tells what of a changed
/// item, unless it leaves that to one plain sentence.
fn compare<'c, T: PartialEq, K: std::hash::Hash + Eq + std::fmt::Display>(
    kind: &str,
    old: &'c [T],
    new: &'c [T],
    key: impl Fn(&'c T) -> K,
    told: &mut Vec<String>,
    parts: impl Fn(&'c T, &'c T, &mut Vec<String>),
) {
    let before: HashMap<_, _> = old.iter().map(|item| (key(item), item)).collect();
    let after: HashMap<_, _> = new.iter().map(|item| (key(item), item)).collect();
    for item in old.iter().filter(|item| !after.contains_key(&key(item))) {
        told.push(format!("{kind} {}: removed", key(item)));
    }
    for item in new {
        let already = told.len();
        match before.get(&key(item)) {
            None => told.push(format!("{kind} {}: added", key(item))),
            Some(&old) if old != item => {
                parts(old, item, told);
                if told.len() == already {
                    told.push(format!("{kind} {}: changed", key(item)));
                }
            }
            Some(_) => {}
        }
    }
}

fn service(old: &Service, new: &Service, told: &mut Vec<String>) {
    let name = &new.name;
    let mut differs = |differs: bool, what: &str| {
        if differs {
            told.push(format!("service {name}: {what} changed"));
        }
    };
    differs(old.addresses != new.addresses, "addresses");
    differs(old.ports != new.ports, "ports");
    differs(old.protocol != new.protocol, "protocol");
    differs(old.mode != new.mode, "mode");
    differs(old.scheduler != new.scheduler, "scheduler");
    differs(old.persistence != new.persistence, "persistence");
    differs(old.timeouts != new.timeouts, "timeouts");
    differs(old.limits != new.limits, "limits");
    let tunnel = |it: &Service| (it.encapsulation, it.gue_port, it.clamp_mss);
    differs(tunnel(old) != tunnel(new), "tunnel");
    differs(old.hairpin != new.hairpin, "hairpin");
    differs(old.helper != new.helper, "helper");
    differs(old.sources != new.sources, "sources");
    differs((&old.check, old.quiescent) != (&new.check, new.quiescent), "check");
    differs(old.passive != new.passive, "passive");
    differs(old.last_server != new.last_server, "last_server");
    differs(old.fallback != new.fallback, "fallback");
    differs(old.slow_start != new.slow_start, "slow_start");
    differs(old.alerts != new.alerts, "alerts");
    differs(old.agent != new.agent, "agent");
    if old.enabled != new.enabled {
        told.push(format!("service {name}: {}", if new.enabled { "enabled" } else { "disabled" }));
    }
    let kind = format!("service {name}: server");
    compare(
        &kind,
        &old.servers,
        &new.servers,
        |it| &it.name,
        told,
        |old, new, told| {
            server(&kind, old, new, told);
        },
    );
}

fn server(kind: &str, old: &Server, new: &Server, told: &mut Vec<String>) {
    let name = &new.name;
    if old.weight != new.weight {
        told.push(format!("{kind} {name}: weight {} becomes {}", old.weight, new.weight));
    }
    if old.state != new.state {
        told.push(format!("{kind} {name}: {}", word(new.state)));
    }
    if old.priority != new.priority {
        told.push(format!("{kind} {name}: priority {} becomes {}", old.priority, new.priority));
    }
    if old.check != new.check {
        told.push(format!("{kind} {name}: check changed"));
    }
    let connections = |it: &Server| (it.min_connections, it.max_connections);
    if connections(old) != connections(new) {
        told.push(format!("{kind} {name}: connection limits changed"));
    }
    if (old.address, old.forwarding) != (new.address, new.forwarding) {
        told.push(format!("{kind} {name}: replaced by another machine, port or mode"));
    } else if old.encapsulation != new.encapsulation {
        told.push(format!("{kind} {name}: encapsulation changed"));
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Online => "online",
        State::Drain => "draining",
        State::Halt => "halted",
    }
}
