//! How configurations differ.

use serde_json::json;

use super::*;

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
