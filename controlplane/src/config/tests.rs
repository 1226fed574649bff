//! What is accepted, and that every mistake is told where it is.

mod ranges;

mod services;

mod network;

mod node;

mod changes;

mod alerts;

mod hostile;

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

/// Every name that there is, with a value that is accepted.
fn full() -> Value {
    json!({
        "node": { "name": "lb1", "scripts": "/etc/sluice/scripts" },
        "dataplane": {
            "workers": [1, 2],
            "polling": "busy",
            "flows": 1000,
            "flows_ipv6": 500,
            "clients": 2048,
            "fragments": 128,
            "memory": "plain",
        },
        "admin": {
            "listen": ["127.0.0.1:9443", "[::1]:9443"],
            "in_band": false,
            "socket": "/run/sluice/admin.sock",
            "certificate": "/etc/sluice/admin.pem",
            "key": "/etc/sluice/admin.key",
        },
        "interface": [
            {
                "name": "wan",
                "device": "0000:03:00.0",
                "mtu": 1500,
                "addresses": ["10.1.0.2/24", "10.1.0.3/24"],
            },
            {
                "name": "lan",
                "device": "kernel:lan",
                "mtu": 9000,
                "vlan": 7,
                "addresses": ["10.2.0.2/24"],
                "gateway": true,
            },
            {
                "name": "six",
                "device": "kernel:lan",
                "vlan": 5,
                "addresses": ["2001:db8:5::2/64"],
            },
        ],
        "route": [
            { "to": "0.0.0.0/0", "via": "10.1.0.1" },
            { "to": "::/0", "via": "2001:db8:5::1" },
        ],
        "neighbour": [
            { "interface": "lan", "address": "10.2.0.11", "mac": "02:00:00:00:00:11" },
            { "interface": "six", "address": "2001:db8:5::11", "mac": "02:00:00:00:00:12" },
        ],
        "nat": [
            { "kind": "masquerade", "out": "wan", "from": ["10.2.0.0/24"] },
            { "kind": "pair", "inside": "10.2.0.50", "outside": "10.1.0.50" },
        ],
        "service": full_services(),
        "alerts": full_alerts(),
        "trigger": full_triggers(),
    })
}

fn full_alerts() -> Value {
    json!({
        "via": "kernel",
        "mail": {
            "server": "mail.example.org:587",
            "tls": "starttls",
            "verify": true,
            "ca": "/etc/sluice/mail-ca.pem",
            "user": "lb1",
            "password": "not for logs",
            "helo": "lb1.example.org",
            "from": "lb1@example.org",
            "to": ["admin@example.org"],
            "rate": 20,
            "about": ["server", "service"],
        },
        "webhook": [{
            "url": "https://10.0.0.30:8443/events?node=lb1",
            "secret": "not for logs",
            "verify": false,
            "ca": "/etc/sluice/hook-ca.pem",
            "timeout": "10s",
            "retries": 3,
            "about": ["server", "trigger"],
        }],
    })
}

fn full_triggers() -> Value {
    json!([{
        "name": "web1-closing",
        "on": { "event": "server", "service": "web", "server": "web1", "state": "closing" },
        "do": [
            { "action": "enable", "service": "web", "server": "web1" },
            { "action": "weight", "service": "web", "server": "web1", "weight": 5 },
            { "action": "script", "path": "web/down.sh", "args": ["-v"], "timeout": "20s" },
            {
                "action": "webhook",
                "url": "http://hooks.example.org/web",
                "secret": "not for logs",
                "timeout": "5s",
            },
        ],
        "rate": 10,
    }])
}

fn full_services() -> Value {
    json!([
        {
            "name": "web",
            "address": "10.1.0.100",
            "ports": "21,80,443,8000-8010",
            "protocol": "tcp",
            "mode": "nat",
            "scheduler": "wrr",
            "persistence": {
                "timeout": "6m",
                "mask": 24,
                "mask_ipv6": 64,
                "group": "shop",
                "through_drain": true,
            },
            "timeouts": {
                "established": "900",
                "closing": "2m",
                "udp": "5m",
                "half_open": "30s",
            },
            "limits": {
                "half_open": 1000,
                "new_flows": 2000,
                "new_flows_per_client": 10,
                "client_mask": 24,
                "client_mask_ipv6": 48,
            },
            "encapsulation": "gue",
            "gue_port": 6081,
            "hairpin": true,
            "clamp_mss": true,
            "helper": "ftp",
            "sources": ["10.1.0.2"],
            "check": { "type": "on" },
            "passive": {
                "eject": true,
                "unanswered": 3,
                "window": "20s",
                "eject_for": "1m",
                "max_ejected": "50%",
            },
            "quiescent": false,
            "last_server": "keep",
            "fallback": { "page": "sorry.html" },
            "enabled": false,
            "slow_start": "30s",
            "alerts": { "to": ["shop@example.org"] },
            "agent": {
                "method": "http",
                "port": 8888,
                "path": "/idle",
                "interval": "10s",
                "timeout": "3s",
                "formula": "v6",
                "misses": 5,
            },
            "server": [
                {
                    "name": "web1",
                    "address": "10.2.0.11",
                    "port": 8080,
                    "mode": "nat",
                    "weight": 100,
                    "priority": 2,
                    "min_connections": 50,
                    "max_connections": 100,
                    "state": "drain",
                },
                { "name": "web2", "address": "10.2.0.12", "mode": "dr" },
                { "name": "web3", "address": "10.3.0.13", "mode": "tun", "encapsulation": "ipip" },
                { "name": "web4", "address": "10.3.0.14", "mode": "snat" },
            ],
        },
        {
            "name": "dns",
            "addresses": ["10.1.0.101", "10.1.0.102"],
            "ports": "53",
            "protocol": "tcp+udp",
        },
        {
            "name": "six",
            "addresses": ["2001:db8:5::100"],
            "ports": "80",
            "server": [{ "name": "six1", "address": "2001:db8:5::11" }],
        },
    ])
}

/// One place in a document: names and positions from its root.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Name(String),
    Position(usize),
}

/// As in the refusals: `service[0].name`.
fn shown(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Name(name) if path.is_empty() => path += name,
            Step::Name(name) => path += &format!(".{name}"),
            Step::Position(position) => path += &format!("[{position}]"),
        }
    }
    path
}

fn at<'v>(mut value: &'v mut Value, steps: &[Step]) -> &'v mut Value {
    for step in steps {
        value = match step {
            Step::Name(name) => &mut value[name],
            Step::Position(position) => &mut value[position],
        };
    }
    value
}

/// Every place below the root, and whether it has no places below itself.
fn places(value: &Value) -> Vec<(Vec<Step>, bool)> {
    let mut found = Vec::new();
    let mut open = vec![(Vec::new(), value)];
    while let Some((steps, value)) = open.pop() {
        let below: Vec<_> = match value {
            Value::Object(parts) => {
                parts.iter().map(|(name, value)| (Step::Name(name.clone()), value)).collect()
            }
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(position, value)| (Step::Position(position), value))
                .collect(),
            _ => Vec::new(),
        };
        if !steps.is_empty() {
            found.push((steps.clone(), below.is_empty()));
        }
        for (step, value) in below {
            open.push(([steps.clone(), vec![step]].concat(), value));
        }
    }
    found
}

/// `full()` with another value in one place.
fn with(path: &str, value: Value) -> Value {
    let mut document = full();
    let mut steps: Vec<Step> = Vec::new();
    for part in path.split('.') {
        let (name, positions) = part.split_once('[').unwrap_or((part, ""));
        steps.push(Step::Name(name.into()));
        let positions = positions.split(['[', ']']).filter(|text| !text.is_empty());
        steps.extend(positions.map(|text| Step::Position(text.parse().unwrap())));
    }
    *at(&mut document, &steps) = value;
    document
}

fn refusals(value: &Value) -> Vec<Invalid> {
    Config::read(value).expect_err("it should have been refused")
}

/// The paths of all refusals.
fn refused(value: &Value) -> Vec<String> {
    refusals(value).into_iter().map(|refusal| refusal.path).collect()
}

/// `full()` with these services alone.
fn serving(services: Value) -> Value {
    let mut document = with("service", services);
    document["trigger"] = json!([]); // it speaks of services that have gone
    document
}

/// A thousand services of ten servers each.
pub(crate) fn large() -> Value {
    let service = |n: u32| {
        let servers: Vec<_> = (0..10)
            .map(|m| {
                let address = std::net::Ipv4Addr::from(0x0a02_0100 + n * 10 + m).to_string();
                json!({ "name": format!("server{m}"), "address": address, "weight": 1 + m })
            })
            .collect();
        json!({
            "name": format!("service{n}"),
            "address": std::net::Ipv4Addr::from(0x0a01_0100 + n / 4).to_string(),
            "ports": (8000 + n % 4).to_string(),
            "server": servers,
        })
    };
    json!({
        "interface": [
            { "name": "wan", "device": "kernel:wan", "addresses": ["10.1.0.2/16"] },
            { "name": "lan", "device": "kernel:lan", "addresses": ["10.2.0.2/16"] },
        ],
        "service": (0..1000).map(service).collect::<Vec<_>>(),
    })
}

/// The one refusal, as it is told.
fn refusal(value: &Value) -> String {
    let all = refusals(value);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].to_string()
}

#[test]
fn a_document_with_every_name_is_accepted() {
    let config = Config::read(&full()).unwrap();
    assert_eq!(config.interfaces[0].device, Device::Pci("0000:03:00.0".into()));
    assert_eq!(config.services[0].servers[0].forwarding, Forwarding::Nat { port: Some(8080) });
    assert_eq!(config.services[0].servers[1].forwarding, Forwarding::DirectReturn);
    assert_eq!(config.services[0].servers[2].forwarding, Forwarding::Tunnel);
    assert_eq!(config.services[0].servers[3].forwarding, Forwarding::Snat { port: None });
    assert_eq!(config.services[1].addresses.len(), 2);
    let again = serde_json::to_value(config.document()).unwrap();
    assert_eq!(Config::read(&again), Ok(config));
}

#[test]
fn what_is_left_out_has_a_default() {
    let config = Config::read(&json!({})).unwrap();
    assert_eq!(config.node, "sluice");
    assert_eq!(config.dataplane.flows, 1_000_000);
    assert_eq!(config.dataplane.flows_ipv6(), 250_000);
    assert_eq!((config.dataplane.clients, config.dataplane.fragments), (262_144, 4096));
    assert_eq!(config.dataplane.polling, Polling::Adaptive);
    assert_eq!(config.admin.listen, ["127.0.0.1:9443".parse().unwrap()]);
    assert_eq!(config.admin.socket.to_str(), Some("/run/sluice/admin.sock"));

    let mut document = full();
    document["interface"][0].as_object_mut().unwrap().remove("mtu");
    document["service"][1]["server"] = json!([{ "address": "10.2.0.21" }]);
    let config = Config::read(&document).unwrap();
    let service = &config.services[1];
    assert_eq!(config.interfaces[0].mtu, 1500);
    assert_eq!(service.mode, Mode::Dr);
    assert_eq!(service.scheduler, Scheduler::Wrr);
    assert_eq!((&service.persistence, service.limits), (&None, Limits::default()));
    assert_eq!(service.timeouts(), snapshot::Timeouts::default());
    assert!(service.enabled && service.quiescent && !service.is_ftp());
    assert_eq!((service.servers[0].weight, service.servers[0].priority), (100, 1));
    assert_eq!(service.servers[0].wanted(), State::Online);
    assert_eq!(service.servers[0].name, "10.2.0.21");
}

#[test]
fn every_field_of_a_wrong_type_is_refused_by_its_path_and_no_other() {
    for (steps, _) in places(&full()) {
        for wrong in
            [json!(null), json!(-1.5), json!(true), json!([[]]), json!({ "x": {} }), json!("\u{0}")]
        {
            let mut document = full();
            let place = at(&mut document, &steps);
            let same_type = std::mem::discriminant(place) == std::mem::discriminant(&wrong);
            // Items of another type within a list are refused by their own paths.
            if same_type && !wrong.is_string() && !wrong.is_number() {
                continue;
            }
            *place = wrong.clone();
            assert_eq!(refused(&document), [shown(&steps)], "{wrong} at {}", shown(&steps));
        }
    }
}

#[test]
fn all_mistakes_of_one_document_are_told_at_once() {
    let mut document = full();
    let leaves: Vec<_> = places(&full()).into_iter().filter(|(_, leaf)| *leaf).collect();
    for (steps, _) in &leaves {
        *at(&mut document, steps) = json!({ "x": 1 });
    }
    let told: BTreeSet<_> = refused(&document).into_iter().collect();
    let wrong: BTreeSet<_> = leaves.iter().map(|(steps, _)| shown(steps)).collect();
    assert_eq!(told, wrong);
    assert!(wrong.len() > 100);
}

#[test]
fn an_unknown_name_in_any_table_is_refused_by_its_path() {
    let tables: Vec<_> = places(&full())
        .into_iter()
        .map(|(steps, _)| steps)
        .chain([Vec::new()])
        .filter(|steps| at(&mut full(), steps).is_object())
        .collect();
    assert_eq!(tables.len(), 38);
    for steps in tables {
        let mut document = full();
        at(&mut document, &steps)["bogus"] = json!(1);
        let steps = [steps, vec![Step::Name("bogus".into())]].concat();
        assert_eq!(refused(&document), [shown(&steps)]);
    }
}

#[test]
fn the_examples_are_accepted() {
    for (name, text) in [
        ("direct-return", include_str!("../../../tests/configs/direct-return.toml")),
        ("nat", include_str!("../../../tests/configs/nat.toml")),
        ("tunnel", include_str!("../../../tests/configs/tunnel.toml")),
        ("mixed", include_str!("../../../tests/configs/mixed.toml")),
    ] {
        let config = Config::from_toml(text).unwrap_or_else(|told| panic!("{name}: {told:#?}"));
        assert!(!config.services.is_empty(), "{name}");
    }
}
