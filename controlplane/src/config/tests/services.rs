//! Services and servers.

use serde_json::json;

use super::*;

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
