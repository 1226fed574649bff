//! Several ways of forwarding at once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;

use serde_json::json;
use sluice_tests::capture::Capture;
use sluice_tests::decode::{fins, packets};
use sluice_tests::lab::{DIRECT, MIXED, TRANSLATED, TUNNELLED};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{direct, nat, tunnel};

sluice_tests::cases! {
    three_modes_work_at_the_same_time,
    a_server_may_override_its_services_mode,
    one_service_may_use_all_three_modes,
}

/// FWD-16.
fn three_modes_work_at_the_same_time(rig: &mut Rig) {
    rig.serve([
        &direct("by-return", DIRECT, "80").to_all(rig.direct()),
        &nat("by-nat", TRANSLATED, "80").to_all(rig.translated()),
        &tunnel("by-tunnel", TUNNELLED, "80").to_all(rig.tunnelled()),
    ]);
    let services =
        [(DIRECT, rig.direct()), (TRANSLATED, rig.translated()), (TUNNELLED, rig.tunnelled())];
    // Both clients ask all three services at the same time.
    thread::scope(|scope| {
        for client in &rig.lab.clients {
            for (address, servers) in services {
                scope.spawn(move || {
                    let answers = client.connect(&at(address, 80), 60);
                    let own = servers.iter().map(|server| answers.from(server)).sum::<usize>();
                    assert_eq!(own, 60, "only this service's servers answer");
                    assert!(servers.iter().all(|server| answers.from(server) > 0));
                    assert_eq!(answers.peers(), BTreeSet::from([IpAddr::from(client.address)]));
                });
            }
        }
    });
    // 120 connections over three servers, whoever made them.
    for service in rig.appliance.get("/status")["services"].as_array().expect("three services") {
        for server in service["servers"].as_array().expect("three servers") {
            assert_eq!(server["totals"]["connections"], 40, "{server}");
        }
    }
}

/// FWD-17.
fn a_server_may_override_its_services_mode(rig: &mut Rig) {
    let (near, far) = (&rig.direct()[0], &rig.tunnelled()[0]);
    let service = direct("overridden", MIXED, "80").to(near).to_with(far, json!({ "mode": "tun" }));
    rig.serve([&service]);
    let at_near = Capture::start(&near.namespace, Server::LEG, "dst 10.1.0.103");
    let at_router = Capture::start(&rig.lab.router, "wan", "ip proto 4");

    let answers = rig.client().connect(&at(MIXED, 80), 10);

    assert_eq!((answers.from(near), answers.from(far)), (5, 5));
    let by_return = at_near.until("5 ends", |frames| fins(frames) >= 5);
    assert!(packets(&by_return).iter().all(|packet| packet.ethernet.source == rig.wan_mac()));
    let by_tunnel = at_router.until("5 connections", |frames| frames.len() >= 20);
    assert!(packets(&by_tunnel).iter().all(|packet| packet.destination_address() == far.address));
}

fn one_service_may_use_all_three_modes(rig: &mut Rig) {
    let service = direct("everything", MIXED, "80")
        .to(&rig.direct()[1])
        .to_with(&rig.translated()[1], json!({ "mode": "nat", "port": 8080 }))
        .to_with(&rig.tunnelled()[1], json!({ "mode": "tun" }));
    rig.serve([&service]);
    let answers = rig.second_client().connect(&at(MIXED, 80), 12);
    for server in [&rig.direct()[1], &rig.translated()[1], &rig.tunnelled()[1]] {
        assert_eq!(answers.from(server), 4, "{}", server.name);
    }
}
