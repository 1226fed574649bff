//! The node itself: its API, and how much there may be of everything.

use serde_json::json;

use super::*;

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
