//! The appliance's own addresses: whether they are its own, and what comes for them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use sluice_tests::capture::Capture;
use sluice_tests::decode::packets;
use sluice_tests::http;
use sluice_tests::lab::{APPLIANCE, DIRECT, GATEWAY, Lab, TRANSLATED, both, ipv6};
use sluice_tests::namespace::mac_text;
use sluice_tests::process;
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{direct, nat};
use sluice_tests::web::{state, wait_for};

sluice_tests::cases! {
    on boot;
    an_address_that_another_station_has_is_left_to_it,
    nobody_is_asked_from_it_and_virtual_addresses_still_answer,
    services_work_all_the_same,
    servers_behind_us_are_asked_from_the_address_that_is_left,
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

/// The page of a service whose servers cannot be asked comes from its virtual address.
fn nobody_is_asked_from_it_and_virtual_addresses_still_answer(rig: &mut Rig) {
    let events = rig.appliance.get("/events?limit=1000");
    let events = events.as_array().expect("a list");
    for address in both(APPLIANCE) {
        let found = events.iter().find(|event| event["address"] == json!(address));
        let found = found.unwrap_or_else(|| panic!("{address}: {events:?}"));
        assert_eq!([&found["old"], &found["new"]], ["ours", "lost"], "{found}");
    }
    let service = direct("web", DIRECT, "80").with("check", json!({ "type": "connect" }));
    rig.serve([&service.to_all(rig.direct())]);
    rig.appliance.wait_until("/status", "the servers cannot be asked", |status| {
        let reason = status["services"][0]["servers"][0]["reason"].as_str();
        reason.is_some_and(|reason| reason.contains("no address of ours to ask from"))
    });
    let page = || {
        let stream = rig.client().open(&at(DIRECT, 80)).ok()?;
        http::exchange(stream, "GET", "/", &[], b"").ok().filter(|it| it.status == 503)
    };
    let page = process::eventually(Duration::from_secs(10), page).expect("the page answers");
    assert!(page.text().contains("not available"), "{}", page.text());
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

/// In the way of clients' packets they would be asked from the one that is lost, and nobody's answer would come.
fn servers_behind_us_are_asked_from_the_address_that_is_left(rig: &mut Rig) {
    rig.appliance.wait_until("/interfaces", "both are known as duplicates", |interfaces| {
        interfaces[0]["duplicate"] == json!(both(APPLIANCE))
    });
    let check =
        json!({ "type": "connect", "interval": "200ms", "timeout": "150ms", "virtual": true });
    rig.serve([&nat("web", TRANSLATED, "80").with("check", check).to_all(rig.translated())]);
    rig.translated().iter().for_each(|server| wait_for(rig, server, &["up"]));
    let asked = Capture::start(&rig.translated()[0].namespace, Server::LEG, "tcp[13] = 2");
    let asked = packets(&asked.until("four questions", |frames| frames.len() >= 4));
    let sources: BTreeSet<_> = asked.iter().filter_map(|it| Some(it.source()?.ip())).collect();
    assert_eq!(sources, BTreeSet::from([GATEWAY.into()]));
    assert!(rig.translated().iter().all(|server| state(rig, server)["actual"] == "up"));
    rig.serve([]);
}

/// Of the wire behind: there its address is its own.
fn what_comes_for_an_own_address_is_not_taken_for_a_service_s(rig: &mut Rig) {
    rig.serve([]);
    let station = &rig.translated()[0].namespace;
    let before = rig.books();
    let to = at(GATEWAY, 81);
    let _ = station.enter(|| {
        let to = to.parse().expect("an address and a port");
        std::net::TcpStream::connect_timeout(&to, Duration::from_millis(300))
    });
    let after = rig.books();
    assert!(after.punted > before.punted);
    assert_eq!(after.dropped("no_service"), before.dropped("no_service"));
}
