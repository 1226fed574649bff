//! Large documents, hostile ones, and any at all.

use std::collections::BTreeSet;
use std::time::Duration;

use dataplane::snapshot::MAX_SERVICES;
use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::testing::cpu_time;

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
        let mut bytes = include_bytes!("../../../../tests/configs/mixed.toml").to_vec();
        let start = place.index(bytes.len());
        let end = (start + removed).min(bytes.len());
        bytes.splice(start..end, inserted);
        if let Err(told) = Config::from_toml(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(!told.is_empty());
        }
    }
}
