//! What is the same on every node and after every restart: made from what the operator wrote, by a hash
//! that spreads well and never changes.

use aws_lc_rs::digest::{Context, SHA256};
use dataplane::snapshot::Host;

use crate::config::{Forwarding, Mode, Server, Service};

/// What services of one persistence group share: the group's name, or the service's own where it is in none.
pub(super) fn group(service: &Service) -> u64 {
    match named_group(service) {
        Some(group) => hash(&[b"group", group.as_bytes()]),
        None => hash(&[b"service", service.name.as_bytes()]),
    }
}

/// What tells a server from others for persistence: in a named group it is the machine that counts,
/// whatever the service.
pub(super) fn host(service: &Service, server: &Server) -> Host {
    let address = server.address.bits().to_be_bytes();
    let hash = match named_group(service) {
        Some(_) => hash(&[b"machine", &address]),
        None => {
            let (port, mode) = port_and_mode(server.forwarding);
            hash(&[b"server", &address, &port.to_be_bytes(), &[mode]])
        }
    };
    Host((hash as u32).max(1))
}

/// What tells a server from others in the tables that all nodes agree on.
pub(super) fn target(server: &Server) -> u64 {
    let (port, _) = port_and_mode(server.forwarding);
    hash(&[b"target", &server.address.bits().to_be_bytes(), &port.to_be_bytes()])
}

fn named_group(service: &Service) -> Option<&str> {
    service.persistence.as_ref()?.group.as_deref()
}

fn port_and_mode(forwarding: Forwarding) -> (u16, u8) {
    let mode = match forwarding.mode() {
        Mode::Dr => 1,
        Mode::Nat => 2,
        Mode::Snat => 3,
        Mode::Tun => 4,
    };
    (forwarding.port().unwrap_or_default(), mode)
}

/// The parts, each with its length, so that no two lists of parts look alike.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use serde_json::json;

    use super::*;

    fn service(name: &str, group: Option<&str>, servers: &[(&str, u16)]) -> Service {
        let servers: Vec<_> = servers
            .iter()
            .map(|(address, port)| json!({ "address": address, "port": port }))
            .collect();
        let mut service = json!({
            "name": name, "address": "10.1.0.100", "ports": "80", "mode": "nat", "server": servers,
            "persistence": {},
        });
        if let Some(group) = group {
            service["persistence"]["group"] = json!(group);
        }
        let config = json!({
            "interface": [
                { "name": "wan", "device": "kernel:wan", "addresses": ["10.1.0.2/24"] },
                { "name": "lan", "device": "kernel:lan", "addresses": ["10.2.0.2/24"] },
            ],
            "service": [service],
        });
        Config::read(&config).unwrap().services.remove(0)
    }

    #[test]
    fn a_name_has_the_same_hash_on_every_node_and_after_every_restart() {
        // printf '\0\0\0\0\0\0\0\7service\0\0\0\0\0\0\0\3web' | sha256sum
        assert_eq!(group(&service("web", None, &[])), 0x489f_77b0_5b1b_4b01);
        assert_ne!(
            group(&service("web", None, &[])),
            group(&service("x", Some("web"), &[])),
            "a group is no service"
        );
        assert_eq!(group(&service("x", Some("web"), &[])), group(&service("y", Some("web"), &[])));
    }

    #[test]
    fn a_group_knows_machines_and_a_service_knows_ports_too() {
        let two = [("10.2.0.11", 80), ("10.2.0.11", 81)];
        let alone = service("web", None, &two);
        assert_ne!(host(&alone, &alone.servers[0]), host(&alone, &alone.servers[1]));
        let grouped = service("web", Some("shop"), &two);
        assert_eq!(host(&grouped, &grouped.servers[0]), host(&grouped, &grouped.servers[1]));
        let other = service("mail", Some("shop"), &[("10.2.0.11", 25)]);
        assert_eq!(host(&grouped, &grouped.servers[0]), host(&other, &other.servers[0]));
        assert_ne!(target(&alone.servers[0]), target(&alone.servers[1]));
    }
}
