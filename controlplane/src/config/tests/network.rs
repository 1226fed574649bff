//! Interfaces, devices, and rules of translation.

use serde_json::json;

use super::*;

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
fn a_pci_address_may_leave_out_its_domain() {
    let config = Config::read(&with("interface[0].device", json!("AF:00.1"))).unwrap();
    assert_eq!(config.interfaces[0].device.to_string(), "0000:af:00.1");
}
