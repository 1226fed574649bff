//! What is accepted, and that every mistake is told where it is.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dataplane::snapshot::MAX_SERVICES;
use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;

/// Every name that there is, with a value that is accepted.
fn full() -> Value {
    json!({
        "node": { "name": "lb1" },
        "dataplane": {
            "workers": [1],
            "polling": "busy",
            "flows": 1000,
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
                "addresses": ["10.2.0.2/24"],
            },
        ],
        "route": [{ "to": "0.0.0.0/0", "via": "10.1.0.1" }],
        "neighbour": [
            { "interface": "lan", "address": "10.2.0.11", "mac": "02:00:00:00:00:11" },
        ],
        "service": [
            {
                "name": "web",
                "address": "10.1.0.100",
                "ports": "80,443,8000-8010",
                "protocol": "tcp",
                "mode": "nat",
                "scheduler": "wrr",
                "check": { "type": "on" },
                "server": [
                    {
                        "name": "web1",
                        "address": "10.2.0.11",
                        "port": 8080,
                        "mode": "nat",
                        "weight": 100,
                        "max_connections": 0,
                    },
                    { "name": "web2", "address": "10.2.0.12", "mode": "dr" },
                    { "name": "web3", "address": "10.3.0.13", "mode": "tun" },
                ],
            },
            {
                "name": "dns",
                "addresses": ["10.1.0.101", "10.1.0.102"],
                "ports": "53",
                "protocol": "tcp+udp",
            },
        ],
    })
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
    assert_eq!(config.services[1].addresses.len(), 2);
}

#[test]
fn what_is_left_out_has_a_default() {
    let config = Config::read(&json!({})).unwrap();
    assert_eq!(config.node, "sluice");
    assert_eq!(config.dataplane.flows, 1_000_000);
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
    assert_eq!(service.servers[0].weight, 100);
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
            if same_type && !wrong.is_string() && !wrong.is_number() && !wrong.is_boolean() {
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
    assert!(wrong.len() > 40);
}

#[test]
fn an_unknown_name_in_any_table_is_refused_by_its_path() {
    let tables: Vec<_> = places(&full())
        .into_iter()
        .map(|(steps, _)| steps)
        .chain([Vec::new()])
        .filter(|steps| at(&mut full(), steps).is_object())
        .collect();
    assert_eq!(tables.len(), 14);
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
        "service[0].name",
        "service[0].address",
        "service[0].ports",
        "service[0].server[0].address",
    ] {
        let mut document = full();
        let (table, name) = path.rsplit_once('.').unwrap();
        let mut steps = Vec::new();
        for part in table.split('.') {
            let (name, position) = part.trim_end_matches(']').split_once('[').unwrap();
            steps.push(Step::Name(name.into()));
            steps.push(Step::Position(position.parse().unwrap()));
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
        ("dataplane.workers", &[json!([]), json!([1, 2])]),
        ("dataplane.workers[0]", &[json!(1024), json!(-1)]),
        ("dataplane.polling", &[json!("lazy"), json!("")]),
        ("dataplane.flows", &[json!(0), json!(100_000_001), json!(u64::MAX), json!("1000")]),
        ("dataplane.memory", &[json!("big")]),
        ("admin.listen[0]", &[json!("9443"), json!("127.0.0.1"), json!("127.0.0.1:65536")]),
        ("admin.in_band", &[json!(true)]),
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
                json!("2001:db8::2/64"),
            ],
        ),
        (
            "route[0].to",
            &[json!("0.0.0.0"), json!("10.3.0.1/24"), json!("10.1.0.0/24"), json!("::/0")],
        ),
        (
            "route[0].via",
            &[json!("10.9.0.1"), json!("10.1.0.2"), json!("10.1.0.255"), json!("fe80::1")],
        ),
        ("neighbour[0].interface", &[json!("dmz"), json!("")]),
        (
            "neighbour[0].address",
            &[json!("10.1.0.11"), json!("10.2.0.2"), json!("10.2.0.0"), json!("::1")],
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
                json!("10.1.0.100/32"),
                json!("2001:db8::100"),
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
                json!("80,80"),
                json!("80-90,85"),
                json!("*,80"),
                json!("http"),
                json!("1,".repeat(3000)),
            ],
        ),
        ("service[0].protocol", &[json!("icmp"), json!("TCP"), json!("udp+tcp")]),
        ("service[0].mode", &[json!("snat"), json!("proxy"), json!("DR")]),
        ("service[0].scheduler", &[json!("lc"), json!("maglev")]),
        ("service[0].check.type", &[json!("off"), json!("connect"), json!("http")]),
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
                json!("2001:db8::11"),
                json!("web1"),
            ],
        ),
        ("service[0].server[0].port", &[json!(0), json!(65536), json!("80")]),
        ("service[0].server[0].mode", &[json!("snat"), json!("")]),
        ("service[0].server[0].weight", &[json!(-1), json!(65536), json!(1.0)]),
        ("service[0].server[0].max_connections", &[json!(1), json!(-1)]),
        // A DR server must be on a subnet of ours (FWD-04).
        ("service[0].server[1].address", &[json!("10.3.0.11"), json!("10.1.1.11")]),
        ("service[1].addresses", &[json!([])]),
        ("service[1].addresses[1]", &[json!("10.1.0.101"), json!("10.9.0.1")]),
    ];
    for (path, values) in bad {
        for value in *values {
            assert_eq!(refused(&with(path, value.clone())), [*path], "{value}");
        }
    }
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
        told("service[0].mode", json!("snat")),
        "service[0].mode: expected dr, nat or tun (snat is not there yet), found \"snat\""
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
        told("service[1].persistence", json!({ "timeout": "5m" })),
        "service[1].persistence: expected no persistence: it is not there yet, found a table"
    );
    assert_eq!(
        told("interface[0].vlan", json!(5)),
        "interface[0].vlan: expected no vlan: VLANs are not there yet, found 5"
    );
}

#[test]
fn only_nat_servers_have_a_port() {
    assert_eq!(
        refusal(&with("service[0].server[1].port", json!(8080))),
        "service[0].server[1].port: \
         expected no port: direct return cannot change it (mode nat can), found 8080"
    );
    assert_eq!(
        refusal(&with("service[0].server[2].port", json!(80))),
        "service[0].server[2].port: \
         expected no port: a tunnel cannot change it (mode nat can), found 80"
    );
}

#[test]
fn what_must_be_unique_is_refused_the_second_time() {
    for (path, value) in [
        ("interface[1].name", json!("wan")),
        ("interface[1].device", json!("03:00.0")),
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
    document["service"][1]["ports"] = json!("81-442,444-7999,8011-65535");
    assert!(Config::read(&document).is_ok());
}

#[test]
fn a_tunnelled_server_without_a_route_is_refused() {
    let mut document = full();
    document["route"] = json!([]);
    assert_eq!(refused(&document), ["service[0].server[2].address"]);
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
fn more_than_there_is_room_for_is_refused() {
    let servers = |count: u32| -> Value {
        (0..count)
            .map(|n| json!({ "address": Ipv4Addr::from(0x0a02_0100 + n).to_string(), "mode": "tun" }))
            .collect()
    };
    let mut document = full();
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
    let addresses: Vec<_> =
        (16..216).map(|n| format!("10.1.0.{n}")).filter(|it| it != "10.1.0.100").collect();
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
    assert_eq!(needed("service[0].scheduler", json!("rr")), [""; 0]);
    assert_eq!(needed("interface[1].addresses", json!(["10.2.0.2/24", "10.2.0.4/24"])), [""; 0]);
    assert_eq!(needed("dataplane.workers", json!([2])), ["dataplane.workers"]);
    assert_eq!(needed("dataplane.flows", json!(5)), ["dataplane.flows"]);
    assert_eq!(needed("admin.listen", json!([])), ["admin.listen"]);
    assert_eq!(needed("interface[0].mtu", json!(1400)), ["interface[0].mtu"]);
    assert_eq!(needed("interface[0].device", json!("kernel:x")), ["interface[0].device"]);
    let more = json!({ "name": "dmz", "device": "kernel:dmz", "addresses": ["10.4.0.2/24"] });
    let mut document = full();
    document["interface"].as_array_mut().unwrap().push(more);
    assert_eq!(old.restart_needed(&Config::read(&document).unwrap()), ["interface[2]"]);
}

#[test]
fn changes_are_told_a_sentence_each() {
    let old = Config::read(&full()).unwrap();
    let mut document = full();
    document["service"][0]["scheduler"] = json!("rr");
    document["service"][0]["server"][0]["weight"] = json!(50);
    document["service"][0]["server"][1] = json!({ "name": "web4", "address": "10.2.0.14" });
    document["service"][1]["name"] = json!("names");
    document["route"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "to": "10.3.0.0/24", "via": "10.1.0.1" }));
    let new = Config::read(&document).unwrap();
    assert_eq!(
        old.changes(&new),
        [
            "route 10.3.0.0/24: added",
            "service dns: removed",
            "service web: scheduler changed",
            "service web: server web2: removed",
            "service web: server web1: weight 100 becomes 50",
            "service web: server web4: added",
            "service names: added",
        ]
    );
    assert_eq!(old.changes(&old), [""; 0]);
}

/// A thousand services of ten servers each.
pub(crate) fn large() -> Value {
    let service = |n: u32| {
        let servers: Vec<_> = (0..10)
            .map(|m| {
                let address = Ipv4Addr::from(0x0a02_0100 + n * 10 + m).to_string();
                json!({ "name": format!("server{m}"), "address": address, "weight": 1 + m })
            })
            .collect();
        json!({
            "name": format!("service{n}"),
            "address": Ipv4Addr::from(0x0a01_0100 + n / 4).to_string(),
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
    let start = Instant::now();
    let config = Config::read(&document).unwrap();
    let taken = start.elapsed();
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
        (0..1_000_000).map(|n| Ipv4Addr::from(0x0a01_0000 + n).to_string()).collect();
    for (what, document) in [
        ("services that overlap", with("service", overlapping.into())),
        ("services of one name", with("service", same.into())),
        ("servers that repeat", with("service[1].server", servers.into())),
        ("unknown names", with("node", names.into())),
        ("addresses", with("service[1].addresses", json!(addresses))),
    ] {
        let start = Instant::now();
        let told = refusals(&document);
        println!("{what}: {} refusals in {:?}", told.len(), start.elapsed());
        assert!(told.len() <= field::MOST_REFUSALS + 1, "{what}: {}", told.len());
        assert!(start.elapsed() < Duration::from_secs(3), "{what}: {:?}", start.elapsed());
    }
}

/// Any JSON, with the names that mean something in most places.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        4 => prop::sample::select(vec![
            "node", "dataplane", "admin", "interface", "route", "neighbour", "service", "server",
            "name", "address", "addresses", "ports", "mode", "check", "type", "device", "to", "via",
            "mac", "weight", "port", "workers", "listen", "vlan", "persistence",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let text = prop_oneof![
        any::<String>(),
        "[0-9.:/,*-]{0,12}",
        prop::sample::select(vec!["dr", "nat", "tun", "kernel:x", "10.1.0.2/24", "10.1.0.9", "80"])
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
