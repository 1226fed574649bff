//! What is accepted, and that every mistake is told where it is.

use std::collections::BTreeSet;
use std::time::Duration;

use dataplane::snapshot::MAX_SERVICES;
use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::testing::cpu_time;

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
fn a_required_name_that_is_missing_is_refused_by_its_path() {
    for path in [
        "interface[0].name",
        "interface[0].device",
        "interface[0].addresses",
        "route[0].to",
        "route[0].via",
        "neighbour[0].interface",
        "neighbour[0].address",
        "neighbour[0].mac",
        "nat[0].kind",
        "nat[0].out",
        "nat[1].inside",
        "nat[1].outside",
        "service[0].name",
        "service[0].address",
        "service[0].ports",
        "service[0].server[0].address",
        "service[0].alerts.to",
        "alerts.mail.server",
        "alerts.mail.user",
        "alerts.mail.password",
        "alerts.mail.from",
        "alerts.mail.to",
        "alerts.webhook[0].url",
        "trigger[0].name",
        "trigger[0].do",
        "trigger[0].on.service",
        "trigger[0].do[0].action",
        "trigger[0].do[0].service",
        "trigger[0].do[1].server",
        "trigger[0].do[1].weight",
        "trigger[0].do[2].path",
        "trigger[0].do[3].url",
    ] {
        let mut document = full();
        let (table, name) = path.rsplit_once('.').unwrap();
        let mut steps = Vec::new();
        for part in table.split('.') {
            let (name, position) = part.split_once('[').unwrap_or((part, ""));
            steps.push(Step::Name(name.into()));
            let position = position.trim_end_matches(']').parse().map(Step::Position);
            steps.extend(position);
        }
        at(&mut document, &steps).as_object_mut().unwrap().remove(name).unwrap();
        let all = refusals(&document);
        assert_eq!((all.len(), &*all[0].path, &*all[0].found), (1, path, "nothing"));
    }
}

#[test]
fn a_value_out_of_its_range_is_refused_by_its_path() {
    let long = "x".repeat(64);
    let bad: &[(&str, &[Value])] = &[
        (
            "node.name",
            &[json!(""), json!(long), json!("a b"), json!(".."), json!("-a"), json!("é")],
        ),
        ("dataplane.workers", &[json!([]), json!(vec![1; 65])]),
        ("dataplane.workers[0]", &[json!(1024), json!(-1)]),
        ("dataplane.polling", &[json!("lazy"), json!("")]),
        ("dataplane.flows", &[json!(0), json!(100_000_001), json!(u64::MAX), json!("1000")]),
        ("dataplane.flows_ipv6", &[json!(0), json!(100_000_001)]),
        ("dataplane.clients", &[json!(1023), json!(16_777_217)]),
        ("dataplane.fragments", &[json!(0), json!(1_048_577)]),
        ("dataplane.memory", &[json!("big")]),
        ("admin.listen[0]", &[json!("9443"), json!("127.0.0.1"), json!("127.0.0.1:65536")]),
        ("admin.in_band", &[json!("yes"), json!(1)]),
        ("admin.socket", &[json!("admin.sock"), json!(""), json!(format!("/{}", "x".repeat(107)))]),
        ("admin.certificate", &[json!("admin.pem"), json!("/a\0b")]),
        ("admin.key", &[json!("admin.key")]),
        ("interface[0].name", &[json!("a/b"), json!("")]),
        (
            "interface[0].device",
            &[
                json!(""),
                json!("03:00.8"),
                json!("0000:03:00"),
                json!("eth0"),
                json!("kernel:"),
                json!("kernel:sixteen-letters-"),
                json!("kernel:a/b"),
                json!("kernel:a b"),
                json!("kernel:a,b"),
                json!("kernel:.."),
                json!("vdev:"),
                json!("vdev:,a=b"),
                json!("vdev:net pcap"),
                json!("vdev:net_pcap0,rx=\n"),
                json!("x".repeat(5000)),
            ],
        ),
        ("interface[0].mtu", &[json!(575), json!(9001), json!(1500.5)]),
        ("interface[0].vlan", &[json!(0), json!(4095), json!("5")]),
        ("interface[2].vlan", &[json!(7)]),
        ("interface[0].gateway", &[json!(1), json!("yes")]),
        ("interface[0].addresses", &[json!([])]),
        (
            "interface[0].addresses[0]",
            &[
                json!("10.1.0.2"),
                json!("10.1.0.2/33"),
                json!("10.1.0.2/+24"),
                json!("10.1.0.2/024"),
                json!("10.1.0.2/"),
                json!("010.1.0.2/24"),
                json!("10.1.0.0/24"),
                json!("10.1.0.255/24"),
                json!("127.0.0.1/8"),
                json!("224.0.0.1/4"),
                json!("0.0.0.1/8"),
                json!("10.1.0.2/0"),
                json!("2001:db8::/64"),
                json!("2001:db8::2/129"),
                json!("fe80::2/64"),
                json!("ff02::1/64"),
                json!("::1/64"),
                json!("::ffff:10.1.0.2/120"),
            ],
        ),
        (
            "route[0].to",
            &[json!("0.0.0.0"), json!("10.3.0.1/24"), json!("10.1.0.0/24"), json!("default")],
        ),
        (
            "route[0].via",
            &[
                json!("10.9.0.1"),
                json!("10.1.0.2"),
                json!("10.1.0.255"),
                json!("fe80::1"),
                json!("2001:db8:5::1"),
            ],
        ),
        (
            "route[1].via",
            &[json!("10.1.0.1"), json!("2001:db8:5::"), json!("2001:db8:6::1"), json!("fe80::1")],
        ),
        ("neighbour[0].interface", &[json!("dmz"), json!("")]),
        (
            "neighbour[0].address",
            &[json!("10.1.0.11"), json!("10.2.0.2"), json!("10.2.0.0"), json!("::1")],
        ),
        (
            "neighbour[1].address",
            &[json!("2001:db8:6::11"), json!("2001:db8:5::"), json!("ff02::1")],
        ),
        ("nat[0].kind", &[json!("snat"), json!("")]),
        ("nat[0].out", &[json!("dmz"), json!("0000:03:00.0")]),
        ("nat[0].from", &[json!([])]),
        (
            "nat[0].from[0]",
            &[json!("10.2.0.0"), json!("10.2.0.1/24"), json!("2001:db8:5::/64"), json!("lan")],
        ),
        (
            "nat[1].inside",
            &[json!("10.2.0.2"), json!("10.2.0.255"), json!("2001:db8:9::1/64"), json!("fe80::1")],
        ),
        (
            "nat[1].outside",
            &[
                json!("10.1.0.2"),
                json!("10.1.0.1"),
                json!("10.1.0.0"),
                json!("10.9.0.1"),
                json!("2001:db8:5::50"),
            ],
        ),
        (
            "neighbour[0].mac",
            &[
                json!("02:00"),
                json!("01:00:00:00:00:11"),
                json!("00:00:00:00:00:00"),
                json!("ff:ff:ff:ff:ff:ff"),
            ],
        ),
        ("service[0].name", &[json!("a/b"), json!(""), json!("a:b"), json!(long)]),
        (
            "service[0].address",
            &[
                json!("10.1.0.2"),
                json!("10.1.0.1"),
                json!("10.2.0.11"),
                json!("10.1.0.0"),
                json!("10.1.0.255"),
                json!("10.9.0.100"),
                json!("10.1.0.100:80"),
                json!("10.1.0.101/24"),
                json!("10.1.0.0/24"),
                json!("10.1.0.0/23"),
                json!("10.1.0.0/30"),
                json!("10.1.0.50"),
                json!("10.1.0.48/29"),
                json!("2001:db8::100"),
                json!("2001:db8:5::/64"),
                json!("2001:db8:5::100:0/119"),
                json!("::ffff:10.1.0.100"),
                json!("0.0.0.0"),
                json!("255.255.255.255"),
                json!("example.com"),
            ],
        ),
        (
            "service[0].ports",
            &[
                json!(""),
                json!("0"),
                json!("65536"),
                json!("80,"),
                json!("+80"),
                json!("90-80"),
                json!("80-"),
                json!("-80"),
                json!(":80"),
                json!("90:80"),
                json!("80:90:95"),
                json!("80:,443"),
                json!("80,80"),
                json!("80-90,85"),
                json!("*,80"),
                json!("http"),
                json!("1,".repeat(3000)),
            ],
        ),
        ("service[0].protocol", &[json!("icmp"), json!("TCP"), json!("udp+tcp")]),
        ("service[0].mode", &[json!("proxy"), json!("DR")]),
        ("service[0].scheduler", &[json!("agent"), json!("ops")]),
        (
            "service[0].persistence.timeout",
            &[json!(0), json!("0"), json!("25h"), json!("86401"), json!("5x"), json!("-5m")],
        ),
        ("service[0].persistence.mask", &[json!(0), json!(33)]),
        ("service[0].persistence.mask_ipv6", &[json!(0), json!(129)]),
        ("service[0].persistence.group", &[json!(""), json!("a b")]),
        ("service[0].timeouts.established", &[json!(0), json!("169h"), json!("1d")]),
        ("service[0].timeouts.closing", &[json!("0")]),
        ("service[0].timeouts.udp", &[json!("0s")]),
        ("service[0].timeouts.half_open", &[json!(604_801)]),
        ("service[0].limits.half_open", &[json!(1_000_000_001), json!(-1)]),
        ("service[0].limits.new_flows", &[json!(1_000_000_001)]),
        ("service[0].limits.new_flows_per_client", &[json!(1_000_000_001)]),
        ("service[0].limits.client_mask", &[json!(0), json!(33)]),
        ("service[0].limits.client_mask_ipv6", &[json!(0), json!(129)]),
        ("service[0].encapsulation", &[json!("vxlan"), json!("")]),
        ("service[1].encapsulation", &[json!("gue")]),
        ("service[0].gue_port", &[json!(0), json!(65536)]),
        ("service[1].hairpin", &[json!(true)]),
        ("service[1].clamp_mss", &[json!(true)]),
        ("service[0].helper", &[json!("sip")]),
        ("service[1].helper", &[json!("ftp")]),
        ("service[0].sources", &[json!([]), json!(["2001:db8:5::2"])]),
        (
            "service[0].sources[0]",
            &[json!("10.1.0.9"), json!("10.1.0.1"), json!("10.1.0.50"), json!("wan")],
        ),
        ("service[1].sources", &[json!(["10.1.0.2"])]),
        ("service[0].check.type", &[json!("pong"), json!(5), json!("")]),
        ("service[0].slow_start", &[json!("2h"), json!(-1)]),
        ("service[0].agent", &[json!("agent"), json!(3333)]),
        ("service[0].agent.method", &[json!("https"), json!("")]),
        ("service[0].agent.port", &[json!(0), json!(65536)]),
        ("service[0].agent.path", &[json!("idle"), json!("/a b"), json!("/\r\n"), json!("")]),
        ("service[0].agent.interval", &[json!("0"), json!("2h")]),
        ("service[0].agent.timeout", &[json!("0"), json!("2m")]),
        ("service[0].agent.formula", &[json!("v7"), json!(8)]),
        ("service[0].agent.misses", &[json!(0), json!(101)]),
        ("service[0].server[0].name", &[json!("a/b"), json!(""), json!(".."), json!(long)]),
        (
            "service[0].server[0].address",
            &[
                json!("10.2.0.11:80"),
                json!("10.2.0.2"),
                json!("10.2.0.255"),
                json!("10.1.0.100"),
                json!("10.1.0.101"),
                json!("127.0.0.1"),
                json!("10.1.0.50"),
                json!("2001:db8:5::21"),
                json!("web1"),
            ],
        ),
        ("service[0].server[0].port", &[json!(0), json!(65536), json!("80")]),
        ("service[0].server[0].mode", &[json!("proxy"), json!("")]),
        ("service[0].server[0].encapsulation", &[json!("ipip")]),
        ("service[0].server[2].encapsulation", &[json!("vxlan")]),
        ("service[0].server[0].weight", &[json!(-1), json!(65536), json!(1.0)]),
        ("service[0].server[0].priority", &[json!(0), json!(256)]),
        ("service[0].server[0].min_connections", &[json!(100), json!(101), json!(-1)]),
        ("service[0].server[1].min_connections", &[json!(1)]),
        ("service[0].server[0].max_connections", &[json!(100_000_001), json!(-1)]),
        ("service[0].server[0].state", &[json!("off"), json!("")]),
        // A DR server must be on a subnet of ours (FWD-04).
        ("service[0].server[1].address", &[json!("10.3.0.11"), json!("10.1.1.11")]),
        ("service[1].addresses", &[json!([])]),
        ("service[1].addresses[1]", &[json!("10.1.0.101"), json!("10.9.0.1")]),
        ("node.scripts", &[json!("scripts"), json!("")]),
        ("node.script_user", &[json!("no-such-user"), json!("root\0"), json!(""), json!(0)]),
        ("alerts.via", &[json!("data"), json!("")]),
        (
            "alerts.mail.server",
            &[
                json!("10.0.0.25"),
                json!("10.0.0.25:0"),
                json!("10.0.0.25:65536"),
                json!("10.0.0.256:25"),
                json!("2001:db8::25:25"),
                json!("[10.0.0.25]:25"),
                json!(":25"),
                json!("a b:25"),
                json!("-a:25"),
                json!("mail\r\nRSET:25"),
            ],
        ),
        ("alerts.mail.tls", &[json!("ssl"), json!(true), json!("none")]),
        ("alerts.mail.ca", &[json!("ca.pem")]),
        ("alerts.mail.password", &[json!(""), json!("x".repeat(1025))]),
        (
            "alerts.mail.helo",
            &[
                json!(""),
                json!("lb1"),
                json!("lb_1.example.org"),
                json!("lb1..org"),
                json!("-a.org"),
                json!("192.0.2.1"),
                json!("[192.0.2]"),
                json!("[2001:db8::1]"),
                json!("a.org\r\nRSET"),
            ],
        ),
        (
            "alerts.mail.from",
            &[json!("lb1"), json!("a@b@c"), json!("a b@example.org"), json!("ä@example.org")],
        ),
        ("alerts.mail.to", &[json!([]), json!("a@example.org"), json!(vec!["a@b.org"; 21])]),
        ("alerts.mail.to[0]", &[json!("<a@example.org>"), json!("a@example.org\r\nbcc: b@c.org")]),
        ("alerts.mail.rate", &[json!(0), json!(601)]),
        ("alerts.mail.about", &[json!([])]),
        ("alerts.mail.about[0]", &[json!("role"), json!("")]),
        ("alerts.mail.about[1]", &[json!("server")]),
        (
            "alerts.webhook[0].url",
            &[
                json!("10.0.0.30"),
                json!("/events"),
                json!("ftp://10.0.0.30/"),
                json!("https://"),
                json!("https://user:word@10.0.0.30/"),
                json!("https://10.0.0.30:0/"),
                json!("https://10.0.0.30:99999/"),
                json!("https://10.0.0.300/"),
                json!("https://10.0.0.30/a b"),
                json!("https://10.0.0.30/\r\nx: y"),
                json!(format!("https://10.0.0.30/{}", "x".repeat(2048))),
            ],
        ),
        ("alerts.webhook[0].secret", &[json!("")]),
        ("alerts.webhook[0].timeout", &[json!(0), json!("61s")]),
        ("alerts.webhook[0].retries", &[json!(21)]),
        ("alerts.webhook[0].about[0]", &[json!("none")]),
        ("service[0].alerts.to[0]", &[json!("shop")]),
        ("trigger[0].name", &[json!(""), json!("a b"), json!("../x")]),
        ("trigger[0].rate", &[json!(0), json!(6001)]),
        ("trigger[0].on.event", &[json!("role"), json!("trigger"), json!("")]),
        ("trigger[0].on.service", &[json!("shop"), json!("a b")]),
        ("trigger[0].on.server", &[json!("web9")]),
        ("trigger[0].on.state", &[json!("Up"), json!("dead")]),
        ("trigger[0].do", &[json!([]), json!("enable")]),
        ("trigger[0].do[0].action", &[json!("reboot"), json!("")]),
        ("trigger[0].do[0].service", &[json!("shop")]),
        ("trigger[0].do[0].server", &[json!("web9")]),
        ("trigger[0].do[0].weight", &[json!(5)]),
        ("trigger[0].do[0].path", &[json!("x.sh")]),
        ("trigger[0].do[0].secret", &[json!("x")]),
        ("trigger[0].do[1].weight", &[json!(65_536), json!(-1)]),
        (
            "trigger[0].do[2].path",
            &[
                json!(""),
                json!("/bin/sh"),
                json!("../x.sh"),
                json!("a/../../x.sh"),
                json!("./x.sh"),
                json!("a\0b"),
            ],
        ),
        ("trigger[0].do[2].args[0]", &[json!("a\0b"), json!("x".repeat(1025))]),
        ("trigger[0].do[2].timeout", &[json!(0), json!("61s"), json!("5d")]),
        ("trigger[0].do[3].url", &[json!("hooks.example.org"), json!("https:///x")]),
    ];
    for (path, values) in bad {
        for value in *values {
            assert_eq!(refused(&with(path, value.clone())), [*path], "{value}");
        }
    }
}

#[test]
fn only_an_agent_that_speaks_http_has_a_path() {
    let agent = json!({ "method": "agent", "path": "/idle" });
    assert_eq!(refused(&with("service[0].agent", agent)), ["service[0].agent.path"]);
}

#[test]
fn a_refusal_says_what_was_expected_and_what_was_found() {
    let told = |path, value| refusal(&with(path, value));
    assert_eq!(
        told("service[0].server[0].address", json!("10.0.0.7:80")),
        "service[0].server[0].address: \
         expected an address, such as 10.0.0.7, found \"10.0.0.7:80\""
    );
    assert_eq!(
        told("service[0].check.type", json!("pong")),
        "service[0].check.type: expected on, off, connect, ping, http, https, http2, grpc, ftp, imap, \
         pop, smtp, ldap, nntp, dns, mysql, sip, telnet, redis, amqp, tcp, udp, script, 5 or 10, \
         found \"pong\""
    );
    assert_eq!(
        told("route[0].to", json!("10.3.0.7/24")),
        "route[0].to: expected a prefix without host bits, here 10.3.0.0/24, found \"10.3.0.7/24\""
    );
    assert_eq!(
        told("service[0].address", json!("10.1.0.3")),
        "service[0].address: expected an address that only this service uses, \
         found \"10.1.0.3\", which interface[0] has"
    );
    assert_eq!(
        told("interface[1].mtu", json!(65536)),
        "interface[1].mtu: expected a whole number, 576 to 9000, found 65536"
    );
    assert_eq!(
        told("admin", json!({ "listne": [] })),
        "admin.listne: expected a known name (did you mean \"listen\"?), found \"listne\""
    );
    assert_eq!(
        told("service[0].persistence.timeout", json!("25h")),
        "service[0].persistence.timeout: \
         expected a time from 1s to 24h, such as 300, 45s, 5m or 6h, found \"25h\""
    );
    assert_eq!(
        told("interface[2].vlan", json!(7)),
        "interface[2].vlan: expected a vlan that no other interface on the device has, found 7"
    );
    assert_eq!(
        told("service[0].server[1].address", json!("2001:db8:5::21")),
        "service[0].server[1].address: expected an address of the family of each virtual address, \
         such as that of 10.1.0.100 (only mode tun carries one family to servers of the other), \
         found \"2001:db8:5::21\""
    );
    assert_eq!(
        told("service[0].scheduler", json!("ops")),
        "service[0].scheduler: expected a scheduler for connections: ops is for udp alone, \
         found \"ops\""
    );
}

#[test]
fn only_nat_servers_have_a_port() {
    assert_eq!(
        refusal(&with("service[0].server[1].port", json!(8080))),
        "service[0].server[1].port: \
         expected no port: direct return cannot change it (modes nat and snat can), found 8080"
    );
    assert_eq!(
        refusal(&with("service[0].server[2].port", json!(80))),
        "service[0].server[2].port: \
         expected no port: a tunnel cannot change it (modes nat and snat can), found 80"
    );
}

#[test]
fn what_must_be_unique_is_refused_the_second_time() {
    for (path, value) in [
        ("interface[1].name", json!("wan")),
        ("interface[2].vlan", json!(7)),
        ("interface[1].addresses[0]", json!("10.1.0.2/24")),
        ("interface[1].addresses[0]", json!("10.1.0.9/16")),
        ("service[1].name", json!("web")),
        ("service[0].server[1].name", json!("web1")),
        ("service[1].addresses[1]", json!("10.1.0.101")),
        ("admin.listen[1]", json!("127.0.0.1:9443")),
    ] {
        let document = with(path, value);
        assert!(refused(&document).contains(&path.to_owned()), "{path}: {:?}", refused(&document));
    }
    let same = json!([
        { "name": "a", "address": "10.2.0.21" },
        { "name": "b", "address": "10.2.0.21" },
    ]);
    assert_eq!(refused(&with("service[1].server", same)), ["service[1].server[1].address"]);
    let routes = json!([
        { "to": "10.3.0.0/24", "via": "10.1.0.1" },
        { "to": "10.3.0.0/24", "via": "10.1.0.9" },
        { "to": "0.0.0.0/0", "via": "10.1.0.1" },
    ]);
    assert_eq!(refused(&with("route", routes)), ["route[1].to"]);
}

#[test]
fn the_same_server_may_stand_twice_with_different_ports() {
    let mut document = full();
    document["service"][1]["mode"] = json!("nat");
    document["service"][1]["server"] = json!([
        { "address": "10.2.0.21", "port": 53 },
        { "address": "10.2.0.21", "port": 5353 },
        { "address": "10.2.0.21" },
    ]);
    let config = Config::read(&document).unwrap();
    let names: Vec<_> = config.services[1].servers.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["10.2.0.21:53", "10.2.0.21:5353", "10.2.0.21"]);
}

#[test]
fn services_that_share_a_port_are_refused_by_both_names() {
    let mut document = full();
    document["service"][1] =
        json!({ "name": "other", "address": "10.1.0.100", "ports": "8005-9000" });
    assert_eq!(
        refusal(&document),
        "service[1].ports: expected ports that no other service has at 10.1.0.100 over tcp, \
         found 8005-8010 of service \"other\" (service[1]), which service \"web\" (service[0]) \
         has too"
    );
    document["service"][1]["protocol"] = json!("udp");
    assert!(Config::read(&document).is_ok());
    document["service"][1]["protocol"] = json!("tcp+udp");
    document["service"][1]["ports"] = json!("*");
    assert_eq!(refused(&document), ["service[1].ports"]);
    document["service"][1]["ports"] = json!("81-442,444-7999,8011:");
    assert!(Config::read(&document).is_ok());
}

#[test]
fn a_tunnelled_server_without_a_route_is_refused() {
    let mut document = full();
    document["route"] = json!([]);
    let servers = [2, 3].map(|server| format!("service[0].server[{server}].address"));
    assert_eq!(refused(&document), servers);
}

#[test]
fn interfaces_share_a_device_if_their_tags_differ() {
    let sharing = |tags: &[Option<u16>]| {
        let interface = |(n, tag): (usize, &Option<u16>)| {
            let mut interface = json!({
                "name": format!("i{n}"),
                "device": "vdev:net_tap0,iface=x",
                "mtu": 1000 + n,
                "addresses": [format!("10.{n}.0.2/24")],
            });
            if let Some(tag) = tag {
                interface["vlan"] = json!(tag);
            }
            interface
        };
        json!({ "interface": tags.iter().enumerate().map(interface).collect::<Vec<_>>() })
    };
    let mut document = sharing(&[None, Some(1), Some(4094)]);
    let config = Config::read(&document).unwrap();
    let [port] = config.ports()[..] else { panic!("{:?}", config.ports()) };
    assert_eq!(port.mtu, 1002);
    assert!(config.interfaces.iter().all(|it| config.port_of(it) == PortId(0)));
    assert_eq!(refused(&sharing(&[None, None])), ["interface[1].device"]);
    assert_eq!(refused(&sharing(&[Some(5), Some(5)])), ["interface[1].vlan"]);
    document["interface"][1]["device"] = json!("vdev:net_tap0,iface=y");
    assert_eq!(refused(&document), ["interface[1].device"]);
    document["interface"][1]["device"] = json!("vdev:net_tap1,iface=y");
    let config = Config::read(&document).unwrap();
    let ports: Vec<_> = config.interfaces.iter().map(|it| config.port_of(it).0).collect();
    assert_eq!(ports, [0, 1, 0]);
}

#[test]
fn there_are_at_most_sixteen_devices() {
    let devices = |count: usize| {
        let interface = |n| {
            json!({
                "name": format!("i{n}"),
                "device": format!("kernel:i{n}"),
                "addresses": [format!("10.{n}.0.2/24")],
            })
        };
        json!({ "interface": (0..count).map(interface).collect::<Vec<_>>() })
    };
    assert!(Config::read(&devices(16)).is_ok());
    assert_eq!(refused(&devices(17)), ["interface[16].device"]);
}

/// `full()` with these services alone.
fn serving(services: Value) -> Value {
    let mut document = with("service", services);
    document["trigger"] = json!([]); // it speaks of services that have gone
    document
}

#[test]
fn without_a_mode_a_server_behind_a_router_makes_it_snat() {
    let mode_of = |servers: Value| {
        let service =
            json!([{ "name": "a", "address": "10.1.0.100", "ports": "80", "server": servers }]);
        let config = Config::read(&serving(service)).unwrap();
        (config.services[0].mode, config.document().service[0].mode)
    };
    let near = json!({ "address": "10.2.0.21" });
    let far = json!({ "address": "10.3.0.21" });
    let tunnelled = json!({ "address": "10.3.0.21", "mode": "tun" });
    assert_eq!(mode_of(json!([])), (Mode::Dr, Mode::Dr));
    assert_eq!(mode_of(json!([near])), (Mode::Dr, Mode::Dr));
    assert_eq!(mode_of(json!([near, tunnelled])), (Mode::Dr, Mode::Dr));
    assert_eq!(mode_of(json!([near, far])), (Mode::Snat, Mode::Snat));
    let told = serving(json!([
        { "name": "a", "address": "10.1.0.100", "ports": "80", "mode": "dr", "server": [far] }
    ]));
    assert_eq!(refused(&told), ["service[0].server[0].address"]);
}

#[test]
fn only_tunnels_carry_one_family_to_servers_of_the_other() {
    let both = json!(["10.1.0.100", "2001:db8:5::100"]);
    let service = |mode: &str, server: &str| {
        serving(json!([{
            "name": "a", "addresses": both, "ports": "80", "mode": mode,
            "server": [{ "address": server }],
        }]))
    };
    for mode in ["dr", "nat", "snat"] {
        for server in ["10.2.0.21", "2001:db8:5::21"] {
            let told = refused(&service(mode, server));
            assert_eq!(told, ["service[0].server[0].address"], "{mode} {server}");
        }
    }
    for server in ["10.2.0.21", "2001:db8:9::21"] {
        assert!(Config::read(&service("tun", server)).is_ok(), "{server}");
    }
}

#[test]
fn a_prefix_publishes_each_of_its_addresses() {
    let service = |address: &str| {
        let mut document = serving(json!([{ "name": "a", "address": address, "ports": "80" }]));
        document["interface"][0]["addresses"] = json!(["10.1.0.2/16"]);
        document
    };
    let config = Config::read(&service("10.1.1.0/24")).unwrap();
    let all: Vec<_> = config.services[0].each_address().collect();
    assert_eq!((all.len(), all[255]), (256, "10.1.1.255".parse().unwrap()));
    assert_eq!(config.document().service[0].address.as_deref(), Some("10.1.1.0/24"));
    let alone = Config::read(&service("10.1.1.7/32")).unwrap();
    assert_eq!(alone.document().service[0].address.as_deref(), Some("10.1.1.7"));
    for refused_prefix in ["10.1.2.0/23", "10.1.0.0/24", "10.1.255.0/24", "10.9.0.0/24"] {
        assert_eq!(refused(&service(refused_prefix)), ["service[0].address"], "{refused_prefix}");
    }
    let mut twice = service("10.1.1.0/24");
    twice["service"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "b", "addresses": ["10.1.1.9"], "ports": "80" }));
    assert_eq!(refused(&twice), ["service[1].ports"]);
    let many: Vec<_> = (0..5).map(|n| format!("10.1.{}.0/24", n + 1)).collect();
    let mut many_addresses = service("10.1.1.0/24");
    many_addresses["service"] = json!([{ "name": "a", "addresses": many, "ports": "80" }]);
    assert_eq!(refused(&many_addresses), ["service[0].addresses"]);
}

#[test]
fn ports_are_read_in_the_seeds_form_too() {
    let shown = |text: &str| {
        let config = Config::read(&with("service[1].ports", json!(text))).unwrap();
        config.document().service[1].ports.clone()
    };
    assert_eq!(shown("80,443,1024:1090"), "80,443,1024-1090");
    assert_eq!(shown("1024:"), "1024-65535");
    assert_eq!(shown("1:"), "*");
}

#[test]
fn long_persistence_makes_connections_last_as_long() {
    let timeouts = |persistence: Value, timeouts: Value| {
        let service = json!([{
            "name": "a", "address": "10.1.0.100", "ports": "80",
            "persistence": persistence, "timeouts": timeouts,
        }]);
        Config::read(&serving(service)).unwrap().services[0].timeouts()
    };
    let six_hours = timeouts(json!({ "timeout": "6h" }), json!({}));
    assert_eq!((six_hours.established, six_hours.datagrams), (21_600_000, 21_600_000));
    assert_eq!((six_hours.closing, six_hours.half_open), (120_000, 30_000));
    let short = timeouts(json!({ "timeout": 5 }), json!({}));
    assert_eq!(short, snapshot::Timeouts::default());
    let given = timeouts(json!({ "timeout": "6h" }), json!({ "established": "10m" }));
    assert_eq!((given.established, given.datagrams), (600_000, 21_600_000));
}

#[test]
fn durations_come_back_in_one_form() {
    for written in [json!("6m"), json!("360"), json!(360), json!("360s")] {
        let config = Config::read(&with("service[0].persistence.timeout", written)).unwrap();
        assert_eq!(config.document().service[0].persistence.as_ref().unwrap().timeout, "6m");
    }
}

#[test]
fn the_port_of_ftp_brings_its_helper_where_addresses_are_translated() {
    let is_ftp = |changes: Value| {
        let mut service = json!({ "name": "a", "address": "10.1.0.100", "ports": "20:22" });
        service.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        Config::read(&serving(json!([service]))).unwrap().services[0].is_ftp()
    };
    assert!(is_ftp(json!({ "mode": "nat" })) && is_ftp(json!({ "mode": "snat" })));
    assert!(!is_ftp(json!({ "mode": "dr" })) && !is_ftp(json!({ "mode": "tun" })));
    assert!(!is_ftp(json!({ "mode": "nat", "protocol": "udp" })));
    assert!(!is_ftp(json!({ "mode": "nat", "ports": "80" })));
    assert!(!is_ftp(json!({ "mode": "nat", "helper": "none" })));
    assert!(is_ftp(json!({ "mode": "nat", "ports": "2121", "helper": "ftp" })));
}

#[test]
fn one_packet_scheduling_takes_what_it_can_tell_apart() {
    let ops = |changes: Value| {
        let mut service = json!({
            "name": "a", "address": "10.1.0.100", "ports": "53", "protocol": "udp",
            "mode": "nat", "scheduler": "ops", "server": [{ "address": "10.2.0.21", "port": 5353 }],
        });
        service.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        service
    };
    assert!(Config::read(&serving(json!([ops(json!({}))]))).is_ok());
    let direct = json!({ "mode": "dr", "server": [{ "address": "10.2.0.21" }], "ports": "*" });
    assert!(Config::read(&serving(json!([ops(direct)]))).is_ok());
    for (changes, path) in [
        (json!({ "protocol": "tcp+udp" }), "service[0].scheduler"),
        (json!({ "mode": "snat" }), "service[0].scheduler"),
        (json!({ "persistence": {} }), "service[0].persistence"),
        (json!({ "address": "10.1.0.100/31" }), "service[0].scheduler"),
        (json!({ "ports": "53,54" }), "service[0].ports"),
        (json!({ "passive": {} }), "service[0].passive"),
        (json!({ "ports": "*", "server": [{ "address": "10.2.0.21" }] }), "service[0].ports"),
    ] {
        assert_eq!(refused(&serving(json!([ops(changes.clone())]))), [path], "{changes}");
    }
    let other = |port| {
        ops(
            json!({ "name": "b", "address": "10.1.0.101", "server": [{ "address": "10.2.0.21", "port": port }] }),
        )
    };
    assert!(Config::read(&serving(json!([ops(json!({})), other(5354)]))).is_ok());
    assert_eq!(refused(&serving(json!([ops(json!({})), other(5353)]))), ["service[1].scheduler"]);
}

#[test]
fn sources_are_addresses_of_ours_or_virtual_ones() {
    let from = |sources: Value| {
        serving(json!([
            { "name": "a", "address": "10.1.0.100", "ports": "80", "mode": "snat", "sources": sources },
            { "name": "b", "address": "10.1.0.101", "ports": "80" },
        ]))
    };
    assert!(
        Config::read(&from(json!(["10.1.0.2", "10.2.0.2", "10.1.0.100", "10.1.0.101"]))).is_ok()
    );
    assert_eq!(refused(&from(json!(["10.1.0.2", "10.1.0.102"]))), ["service[0].sources[1]"]);
    assert_eq!(refused(&from(json!(["10.1.0.2", "10.1.0.2"]))), ["service[0].sources[1]"]);
}

#[test]
fn pairs_come_before_masquerades_whatever_the_order() {
    let document = with(
        "nat",
        json!([
            { "kind": "masquerade", "out": "wan" },
            { "kind": "pair", "inside": "10.2.0.50", "outside": "10.1.0.50" },
        ]),
    );
    let config = Config::read(&document).unwrap();
    let in_effect: Vec<_> = config.nat_in_effect().collect();
    assert_eq!(in_effect, [&config.nat[1], &config.nat[0]]);
    let from: Vec<_> = in_effect[1].sources_in(&config.interfaces);
    assert_eq!(from, [Prefix::new("10.2.0.0".parse().unwrap(), 24)]);
}

#[test]
fn a_rule_of_one_kind_has_nothing_of_the_other() {
    assert_eq!(refused(&with("nat[0].inside", json!("10.2.0.50"))), ["nat[0].inside"]);
    assert_eq!(refused(&with("nat[1].out", json!("wan"))), ["nat[1].out"]);
    let mut twice = full();
    let pair = twice["nat"][1].clone();
    twice["nat"].as_array_mut().unwrap().push(pair);
    assert_eq!(refused(&twice), ["nat[2].inside", "nat[2].outside"]);
}

#[test]
fn a_masquerade_without_gateways_must_say_for_whom_it_is() {
    let mut document = with("nat", json!([{ "kind": "masquerade", "out": "wan" }]));
    assert!(Config::read(&document).is_ok());
    document["interface"][1]["gateway"] = json!(false);
    assert_eq!(refused(&document), ["nat[0].from"]);
    // A subnet of the other family is none that could take the address.
    document["interface"][2]["gateway"] = json!(true);
    assert_eq!(refused(&document), ["nat[0].from"]);
}

#[test]
fn a_certificate_and_its_key_come_together() {
    for (missing, path) in [("key", "admin.key"), ("certificate", "admin.certificate")] {
        let mut document = full();
        document["admin"].as_object_mut().unwrap().remove(missing);
        assert_eq!(refused(&document), [path]);
    }
}

#[test]
fn the_api_on_the_data_ports_needs_a_port_that_translated_flows_do_not_use() {
    let with_listen = |listen: Value| {
        let mut document = with("admin.in_band", json!(true));
        document["admin"]["listen"] = listen;
        document
    };
    for listen in [json!([]), json!(["127.0.0.1:16384", "127.0.0.1:0"])] {
        assert_eq!(refused(&with_listen(listen)), ["admin.in_band"]);
    }
    let listen = json!(["127.0.0.1:20000", "127.0.0.1:16383"]);
    let config = Config::read(&with_listen(listen)).unwrap();
    assert!(config.admin.in_band && config.document().admin.in_band);
}

#[test]
fn more_than_there_is_room_for_is_refused() {
    let servers = |count: u32| -> Value {
        (0..count)
            .map(|n| json!({ "address": std::net::Ipv4Addr::from(0x0a02_0100 + n).to_string(), "mode": "tun" }))
            .collect()
    };
    let mut document = serving(json!([
        { "name": "a", "address": "10.1.0.100", "ports": "80" },
        { "name": "b", "address": "10.1.0.100", "ports": "81" },
    ]));
    document["service"][0]["server"] = servers(40_000);
    document["service"][1]["server"] = servers(25_536);
    assert!(Config::read(&document).is_ok());
    document["service"][1]["server"] = servers(25_537);
    assert_eq!(
        refusal(&document),
        "service: expected at most 65536 servers in all services, found 65537"
    );
    let services = vec![json!({}); 16_385];
    assert_eq!(refused(&with("service", services.into())), ["service"]);
    let interfaces = vec![json!({}); 65];
    assert_eq!(refused(&with("interface", interfaces.into()))[0], "interface");
}

#[test]
fn the_published_ports_are_bounded() {
    let ports: Vec<_> = (0..255).map(|n| format!("{}-{}", 1 + n * 257, 256 + n * 257)).collect();
    let addresses: Vec<_> = (16..216)
        .map(|n| format!("10.1.0.{n}"))
        .filter(|it| !["10.1.0.100", "10.1.0.50"].contains(&&**it))
        .collect();
    let mut document = full();
    document["service"].as_array_mut().unwrap().truncate(1);
    document["service"][0]["ports"] = json!(ports.join(","));
    assert!(Config::read(&document).is_ok());
    document["service"].as_array_mut().unwrap().push(json!({
        "name": "wide", "addresses": addresses, "ports": ports.join(",")
    }));
    assert_eq!(refused(&document), ["service[1].ports"]);
}

#[test]
fn a_pci_address_may_leave_out_its_domain() {
    let config = Config::read(&with("interface[0].device", json!("AF:00.1"))).unwrap();
    assert_eq!(config.interfaces[0].device.to_string(), "0000:af:00.1");
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

#[test]
fn only_what_can_change_live_changes_without_a_restart() {
    let old = Config::read(&full()).unwrap();
    let needed = |path, value| old.restart_needed(&Config::read(&with(path, value)).unwrap());
    assert_eq!(needed("node.name", json!("lb2")), [""; 0]);
    assert_eq!(needed("node.scripts", json!("/usr")), ["node.scripts"]);
    assert_eq!(needed("node.script_user", json!("nobody")), ["node.script_user"]);
    assert_eq!(needed("service[0].scheduler", json!("rr")), [""; 0]);
    assert_eq!(needed("interface[1].addresses", json!(["10.2.0.2/24", "10.2.0.4/24"])), [""; 0]);
    assert_eq!(needed("dataplane.workers", json!([2])), ["dataplane.workers"]);
    assert_eq!(needed("dataplane.flows", json!(5)), ["dataplane.flows"]);
    assert_eq!(needed("admin.listen", json!([])), ["admin.listen"]);
    assert_eq!(needed("admin.in_band", json!(true)), ["admin.in_band"]);
    assert_eq!(needed("interface[0].mtu", json!(1400)), ["interface[0].mtu"]);
    assert_eq!(needed("interface[0].device", json!("kernel:x")), ["interface[0].device"]);
    let more = json!({ "name": "dmz", "device": "kernel:dmz", "addresses": ["10.4.0.2/24"] });
    let mut document = full();
    document["interface"].as_array_mut().unwrap().push(more);
    assert_eq!(old.restart_needed(&Config::read(&document).unwrap()), ["interface[3]"]);
    assert_eq!(needed("dataplane.workers", json!([1, 3])), ["dataplane.workers"]);
    assert_eq!(needed("dataplane.flows_ipv6", json!(5)), ["dataplane.flows_ipv6"]);
    assert_eq!(needed("dataplane.clients", json!(5000)), ["dataplane.clients"]);
    assert_eq!(needed("dataplane.fragments", json!(5000)), ["dataplane.fragments"]);
    assert_eq!(needed("interface[2].vlan", json!(6)), ["interface[2].vlan"]);
    assert_eq!(needed("interface[1].gateway", json!(false)), [""; 0]);
    assert_eq!(needed("nat", json!([])), [""; 0]);
}

#[test]
fn changes_are_told_a_sentence_each() {
    let old = Config::read(&full()).unwrap();
    let mut document = full();
    document["service"][0]["scheduler"] = json!("rr");
    document["service"][0]["server"][0]["weight"] = json!(50);
    document["service"][0]["server"][1] = json!({ "name": "web5", "address": "10.2.0.14" });
    document["service"][0]["server"][3]["state"] = json!("halt");
    document["service"][0]["server"][3]["priority"] = json!(2);
    document["service"][0]["server"][3]["max_connections"] = json!(7);
    document["service"][0]["limits"]["new_flows"] = json!(7);
    document["service"][0]["persistence"]["timeout"] = json!("1h");
    document["service"][0]["timeouts"]["udp"] = json!("1h");
    document["service"][0]["gue_port"] = json!(7);
    document["service"][0]["enabled"] = json!(true);
    document["service"][1]["name"] = json!("names");
    document["nat"] = json!([]);
    document["route"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "to": "10.3.0.0/24", "via": "10.1.0.1" }));
    let new = Config::read(&document).unwrap();
    assert_eq!(
        old.changes(&new),
        [
            "route 10.3.0.0/24: added",
            "nat: rules changed",
            "service dns: removed",
            "service web: scheduler changed",
            "service web: persistence changed",
            "service web: timeouts changed",
            "service web: limits changed",
            "service web: tunnel changed",
            "service web: enabled",
            "service web: server web2: removed",
            "service web: server web1: weight 100 becomes 50",
            "service web: server web5: added",
            "service web: server web4: halted",
            "service web: server web4: priority 1 becomes 2",
            "service web: server web4: connection limits changed",
            "service names: added",
        ]
    );
    assert_eq!(old.changes(&old), [""; 0]);
    document = full();
    document["node"]["scripts"] = json!("/srv/scripts");
    document["service"][0]["alerts"]["to"] = json!([]);
    document["alerts"]["mail"]["password"] = json!("another");
    document["trigger"][0]["rate"] = json!(20);
    let new = Config::read(&document).unwrap();
    let told = [
        "service web: alerts changed",
        "node: scripts changed",
        "alerts: changed",
        "trigger web1-closing: changed",
    ];
    assert_eq!(old.changes(&new), told);
    assert_eq!(old.restart_needed(&new), ["node.scripts"]);
}

#[test]
fn in_band_there_are_no_names_of_hosts() {
    let mut document = full();
    document["alerts"]["via"] = json!("in_band");
    assert_eq!(refused(&document), ["alerts.mail.server", "trigger[0].do[3].url"]);
    document["alerts"]["mail"]["server"] = json!("[2001:db8::25]:25");
    document["trigger"][0]["do"][3]["url"] = json!("http://10.0.0.30/");
    let config = Config::read(&document).unwrap();
    assert_eq!(config.document().alerts.mail.unwrap().server, "[2001:db8::25]:25");
}

#[test]
fn who_is_told_of_a_service_needs_somebody_who_tells() {
    let mut document = full();
    document["alerts"].as_object_mut().unwrap().remove("mail");
    assert_eq!(refused(&document), ["service[0].alerts"]);
}

#[test]
fn receivers_and_triggers_stand_once() {
    let mut document = full();
    let again = document["alerts"]["webhook"][0].clone();
    document["alerts"]["webhook"].as_array_mut().unwrap().push(again);
    let again = document["trigger"][0].clone();
    document["trigger"].as_array_mut().unwrap().push(again);
    assert_eq!(refused(&document), ["alerts.webhook[1].url", "trigger[1].name"]);
}

#[test]
fn what_changes_says_what_it_has_and_no_more() {
    let on = |on: Value| refused(&with("trigger[0].on", on));
    assert_eq!(on(json!({ "event": "worker", "state": "up" })), ["trigger[0].on.state"]);
    assert_eq!(on(json!({ "event": "address", "service": "web" })), ["trigger[0].on.service"]);
    assert_eq!(on(json!({ "event": "service", "state": "closing" })), ["trigger[0].on.state"]);
    assert_eq!(on(json!({ "state": "degraded" })), ["trigger[0].on.state"]);
    let server = json!({ "event": "service", "service": "web", "server": "web1" });
    assert_eq!(on(server), ["trigger[0].on.server"]);
    for accepted in [
        json!({}),
        json!({ "state": "up" }),
        json!({ "event": "service", "service": "dns", "state": "down" }),
        json!({ "event": "configuration" }),
    ] {
        assert!(Config::read(&with("trigger[0].on", accepted.clone())).is_ok(), "{accepted}");
    }
    assert_eq!(
        refusal(&with("trigger[0].on.event", json!("role"))),
        "trigger[0].on.event: expected server, service, worker, address or configuration \
         (no role: a second node is not there yet), found \"role\""
    );
}

#[test]
fn secrets_are_shown_neither_in_refusals_nor_in_logs() {
    let config = Config::read(&full()).unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("(a secret)"));
    for secret in ["not for logs", "node=lb1"] {
        assert!(!shown.contains(secret), "{secret}");
    }
    for path in ["alerts.mail.password", "alerts.webhook[0].secret", "trigger[0].do[2].secret"] {
        let long = format!("not for logs{}", "x".repeat(2000));
        assert!(!refusal(&with(path, json!(long))).contains("not for"), "{path}");
    }
    let url = json!("https://10.0.0.30/a secret");
    assert!(!refusal(&with("alerts.webhook[0].url", url)).contains("secret"));
    // Whoever may change the configuration gets back what he wrote.
    let text = serde_json::to_string(&config.document()).unwrap();
    assert_eq!(text.matches("not for logs").count(), 3);
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

#[test]
fn a_thousand_services_of_ten_servers_are_read_at_once() {
    let document = large();
    let start = cpu_time();
    let config = Config::read(&document).unwrap();
    let taken = cpu_time() - start;
    println!("1000 services of 10 servers read in {taken:?}");
    assert_eq!(config.services.iter().map(|service| service.servers.len()).sum::<usize>(), 10_000);
    assert!(taken < Duration::from_millis(300), "{taken:?}");
}

#[test]
fn a_hostile_document_costs_no_more_than_its_length() {
    let service = |n: usize| {
        json!({
            "name": format!("s{n}"),
            "addresses": (16..32).map(|m| format!("10.1.0.{m}")).collect::<Vec<_>>(),
            "ports": "1-100,200-400,500,600",
            "protocol": "tcp+udp",
        })
    };
    let overlapping: Vec<_> = (0..MAX_SERVICES).map(service).collect();
    let same = vec![json!({ "name": "web", "address": "10.1.0.100", "ports": "*" }); MAX_SERVICES];
    let servers = vec![json!({ "name": "a", "address": "10.2.0.11", "prot": 1 }); 60_000];
    let names: Map<_, _> = (0..1_000_000).map(|n| (format!("servise{n}"), json!(n))).collect();
    let addresses: Vec<_> =
        (0..1_000_000).map(|n| std::net::Ipv4Addr::from(0x0a01_0000 + n).to_string()).collect();
    for (what, document) in [
        ("services that overlap", with("service", overlapping.into())),
        ("services of one name", with("service", same.into())),
        ("servers that repeat", with("service[1].server", servers.into())),
        ("unknown names", with("node", names.into())),
        ("addresses", with("service[1].addresses", json!(addresses))),
    ] {
        let start = cpu_time();
        let told = refusals(&document);
        let taken = cpu_time() - start;
        println!("{what}: {} refusals in {taken:?}", told.len());
        assert!(told.len() <= field::MOST_REFUSALS + 1, "{what}: {}", told.len());
        assert!(taken < Duration::from_secs(3), "{what}: {taken:?}");
    }
}

/// Any JSON, with the names that mean something in most places.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        4 => prop::sample::select(vec![
            "node", "dataplane", "admin", "interface", "route", "neighbour", "service", "server",
            "name", "address", "addresses", "ports", "mode", "check", "type", "device", "to", "via",
            "mac", "weight", "port", "workers", "listen", "vlan", "persistence", "timeout", "group",
            "timeouts", "limits", "nat", "kind", "from", "out", "inside", "sources", "state",
            "alerts", "mail", "webhook", "url", "trigger", "on", "do", "action", "event",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let text = prop_oneof![
        any::<String>(),
        "[0-9.:/,*-]{0,12}",
        prop::sample::select(vec![
            "dr",
            "nat",
            "tun",
            "kernel:x",
            "10.1.0.2/24",
            "10.1.0.9",
            "80",
            "2001:db8:5::9",
            "5m",
            "snat",
            "ops",
            "pair",
            "10.1.0.64/28",
            "script",
            "a@b.org",
            "http://10.0.0.1/",
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..70_000_u32).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 128, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..8)
                .prop_map(|parts| Value::Object(parts.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Any configuration that is accepted, of up to five services.
fn any_config() -> impl Strategy<Value = Config> {
    let server = (0..250_u8, any::<Option<u16>>(), 0..4_u8, any::<u16>(), any::<bool>());
    let service = (
        prop::collection::vec(server, 0..6),
        0..3_u8,
        any::<bool>(),
        prop::collection::btree_set(1..=u16::MAX, 1..6),
        0..3_usize,
    );
    prop::collection::vec(service, 0..6).prop_map(|services| {
        let services: Vec<_> = services
            .into_iter()
            .enumerate()
            .map(|(n, (servers, mode, rr, ports, protocol))| {
                let mut seen = BTreeSet::new();
                let servers: Vec<_> = servers
                    .into_iter()
                    .filter(|server| seen.insert(server.0))
                    .map(|(host, port, own_mode, weight, named)| {
                        let modes = ["dr", "nat", "tun"];
                        let mut server = Map::new();
                        server.insert("address".into(), format!("10.2.0.{}", host + 4).into());
                        server.insert("weight".into(), weight.into());
                        if let Some(&own) = modes.get(usize::from(own_mode)) {
                            server.insert("mode".into(), own.into());
                        }
                        let in_force = if own_mode < 3 { own_mode } else { mode };
                        if let (1, Some(port @ 1..)) = (in_force, port) {
                            server.insert("port".into(), port.into());
                        }
                        if named {
                            server.insert("name".into(), format!("s{host}").into());
                        }
                        Value::Object(server)
                    })
                    .collect();
                let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
                let protocol = ["tcp", "udp", "tcp+udp"][protocol];
                let mode_name = ["dr", "nat", "tun"][usize::from(mode)];
                json!({
                    "name": format!("service{n}"),
                    "addresses": (0..=n % 2).map(|m| format!("10.1.{n}.{}", m + 10)).collect::<Vec<_>>(),
                    "ports": ports.join(","),
                    "protocol": protocol,
                    "mode": mode_name,
                    "scheduler": if rr { "rr" } else { "wrr" },
                    "server": servers,
                })
            })
            .collect();
        let mut document = full();
        document["interface"][0]["addresses"] = json!(["10.1.0.2/16"]);
        document["service"] = services.into();
        document["trigger"] = json!([]); // it speaks of services that have gone
        Config::read(&document).unwrap()
    })
}

proptest! {
    #[test]
    fn a_configuration_reads_back_as_it_was_written(config in any_config()) {
        let document = config.document();
        let value = serde_json::to_value(&document).unwrap();
        prop_assert_eq!(Config::read(&value), Ok(config.clone()));
        prop_assert_eq!(serde_json::from_value::<document::Configuration>(value).unwrap(), document);
        prop_assert_eq!(config.changes(&config), Vec::<String>::new());
        prop_assert_eq!(config.restart_needed(&config), Vec::<String>::new());
    }

    #[test]
    fn any_json_is_accepted_or_refused_with_a_reason(value in any_json()) {
        if let Err(told) = Config::read(&value) {
            prop_assert!(!told.is_empty());
        }
    }

    #[test]
    fn any_json_in_any_place_is_accepted_or_refused_with_a_reason(
        value in any_json(),
        place in any::<prop::sample::Index>(),
    ) {
        let mut document = full();
        let all = places(&document);
        *at(&mut document, &place.get(&all).0) = value;
        match Config::read(&document) {
            Ok(config) => {
                let again = serde_json::to_value(config.document()).unwrap();
                prop_assert_eq!(Config::read(&again), Ok(config));
            }
            Err(told) => prop_assert!(!told.is_empty()),
        }
    }

    #[test]
    fn any_text_is_accepted_or_refused_with_a_reason(text in any::<String>()) {
        if let Err(told) = Config::from_toml(&text) {
            prop_assert!(!told.is_empty());
        }
    }

    #[test]
    fn a_damaged_file_is_accepted_or_refused_with_a_reason(
        place in any::<prop::sample::Index>(),
        removed in 0..40_usize,
        inserted in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut bytes = include_bytes!("../../../tests/configs/mixed.toml").to_vec();
        let start = place.index(bytes.len());
        let end = (start + removed).min(bytes.len());
        bytes.splice(start..end, inserted);
        if let Err(told) = Config::from_toml(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(!told.is_empty());
        }
    }
}

#[test]
fn a_fallback_is_nothing_a_page_or_a_server_and_a_page_is_usual_on_port_80() {
    let with = |ports: &str, settings: Value| {
        let mut service = json!({ "name": "web", "address": "10.0.0.100", "ports": ports });
        service.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let interface =
            json!({ "name": "lan", "device": "kernel:lan", "addresses": ["10.0.0.2/24"] });
        Config::read(&json!({ "interface": [interface], "service": [service] }))
    };
    let fallback = |ports, settings| with(ports, settings).unwrap().services[0].fallback.clone();
    assert_eq!(fallback("80,443", json!({})), Fallback::Page(None));
    assert_eq!(fallback("443", json!({})), Fallback::None);
    assert_eq!(fallback("80", json!({ "protocol": "udp" })), Fallback::None);
    assert_eq!(fallback("80", json!({ "fallback": "none" })), Fallback::None);
    let page = json!({ "fallback": { "page": "sorry.html" } });
    assert_eq!(fallback("443", page), Fallback::Page(Some("sorry.html".into())));
    let server = json!({ "mode": "nat", "fallback": { "address": "10.0.0.90", "port": 8080 } });
    let config = with("80", server).unwrap();
    let server = config.services[0].fallback_server().unwrap();
    assert_eq!(server.forwarding, Forwarding::Nat { port: Some(8080) });
    assert_eq!(Config::read(&serde_json::to_value(config.document()).unwrap()).unwrap(), config);
    for wrong in [
        json!("sorry"),
        json!({ "page": "../sorry.html" }),
        json!({ "page": "a", "address": "10.0.0.90" }),
        json!({}),
        json!({ "address": "10.0.0.90", "port": 8080 }),
        json!({ "address": "10.0.0.2" }),
    ] {
        assert!(with("80", json!({ "fallback": wrong })).is_err(), "{wrong}");
    }
    assert!(with("80", json!({ "protocol": "udp", "fallback": "page" })).is_err());
}
