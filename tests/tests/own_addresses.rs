//! The appliance's own addresses: whether they are its own, and what comes for them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use sluice_tests::lab::{APPLIANCE, DIRECT, Lab, both, ipv6};
use sluice_tests::namespace::mac_text;
use sluice_tests::rig::{Rig, at};
use sluice_tests::service::direct;

sluice_tests::cases! {
    on boot;
    an_address_that_another_station_has_is_left_to_it,
    services_work_all_the_same,
    what_comes_for_an_own_address_is_not_taken_for_a_service_s,
}

/// A laboratory in which the second client has the appliance's addresses on the clients' wire.
fn boot() -> Rig {
    let lab = Lab::build();
    lab.clients[1].namespace.ip(&format!(
        "addr add {APPLIANCE}/24 dev eth0
         addr add {}/64 dev eth0 nodad\n",
        ipv6(APPLIANCE)
    ));
    Rig::boot_in(lab)
}

fn an_address_that_another_station_has_is_left_to_it(rig: &mut Rig) {
    let duplicates = json!(both(APPLIANCE));
    rig.appliance.wait_until("/interfaces", "both are known as duplicates", |interfaces| {
        interfaces[0]["duplicate"] == duplicates
    });
    assert!(rig.appliance.log().contains("another station has an address of ours"));
    let expected = BTreeSet::from([mac_text(rig.second_client().mac())]);
    assert_eq!(rig.client().arping(APPLIANCE, 3, 6), expected);
    let interfaces = rig.appliance.get("/interfaces");
    assert!(interfaces[1]["duplicate"].is_null(), "the others are ours: {interfaces}");
}

fn services_work_all_the_same(rig: &mut Rig) {
    for address in both(DIRECT) {
        rig.serve([&direct("web", address, "80").to_all(rig.direct())]);
        let answers = rig.client().connect(&at(address, 80), 6);
        assert_eq!(rig.direct().each_ref().map(|server| answers.from(server)), [2, 2, 2]);
    }
    rig.serve([&direct("web", DIRECT, "80").to_all(rig.direct())]);
    assert_eq!(rig.client().arping(DIRECT, 3, 6), BTreeSet::from([mac_text(rig.wan_mac())]));
}

/// Of the wire behind: there its address is its own.
fn what_comes_for_an_own_address_is_not_taken_for_a_service_s(rig: &mut Rig) {
    rig.serve([]);
    let station = &rig.translated()[0].namespace;
    let before = rig.books();
    let to = at(sluice_tests::lab::GATEWAY, 81);
    let _ = station.enter(|| {
        let to = to.parse().expect("an address and a port");
        std::net::TcpStream::connect_timeout(&to, Duration::from_millis(300))
    });
    let after = rig.books();
    assert!(after.punted > before.punted);
    assert_eq!(after.dropped("no_service"), before.dropped("no_service"));
}
