//! How servers are asked, and what clients notice of the answers.

use serde_json::json;
use sluice_tests::client::{is_cut, server_behind};
use sluice_tests::lab::{DIRECT, PROXIED, TRANSLATED, TUNNELLED};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{direct, nat, snat, tunnel};
use sluice_tests::web::{PORT, Web, checked, state, wait_for, who};

sluice_tests::cases! {
    a_server_is_judged_by_the_port_that_is_asked,
    a_page_without_the_text_takes_its_server_out,
    a_server_that_is_never_asked_is_scheduled_although_it_is_gone,
    a_failed_check_spares_an_open_connection_if_quiescent_and_cuts_it_if_not,
}

/// HC-09.
fn a_server_is_judged_by_the_port_that_is_asked(rig: &mut Rig) {
    let [first, second, _] = rig.direct();
    let [web, _other] = [first, second].map(|server| Web::start(rig, server, "*"));
    let service = direct("port", DIRECT, "80").to(first).to(second);
    rig.serve([&checked(service, false)]);
    wait_for(rig, first, &["up"]);
    wait_for(rig, second, &["up"]);
    assert_eq!(rig.client().connect(&at(DIRECT, 80), 10).from(first), 5);
    web.kill();
    wait_for(rig, first, &["closing", "down"]);
    assert_eq!(rig.client().connect(&at(DIRECT, 80), 10).from(first), 0);
    let own = rig.client().connect(&at(first.address, 80), 1);
    assert_eq!(own.from(first), 1, "what clients ask for would be there");
    let _again = Web::start(rig, first, "*");
    wait_for(rig, first, &["up"]);
    assert_eq!(rig.client().connect(&at(DIRECT, 80), 10).from(first), 5);
}

/// HC-02.
fn a_page_without_the_text_takes_its_server_out(rig: &mut Rig) {
    let [first, second, _] = rig.direct();
    let put = |server: &Server, text: &str| {
        let to = at(server.address, 80);
        let response = rig.client().request(&to, "PUT", "/uploads/check.txt", text.as_bytes());
        let status = response.expect("an answer").status;
        assert!([201, 204].contains(&status), "{status}");
    };
    put(first, "all is OK today");
    put(second, "all is OK today");
    let service = direct("text", DIRECT, "80").to(first).to(second);
    rig.serve([&service.with(
        "check",
        json!({
            "type": "http", "path": "/uploads/check.txt", "expect": "OK", "interval": "200ms",
        }),
    )]);
    wait_for(rig, first, &["up"]);
    wait_for(rig, second, &["up"]);
    put(first, "NO");
    wait_for(rig, first, &["closing", "down"]);
    let reason = state(rig, first)["reason"].to_string();
    assert!(reason.contains(r#"/uploads/check.txt answered without \"OK\""#), "{reason}");
    assert_eq!(rig.client().connect(&at(DIRECT, 80), 10).from(second), 10);
    put(first, "OK");
    wait_for(rig, first, &["up"]);
    assert_eq!(rig.client().connect(&at(DIRECT, 80), 10).from(first), 5);
}

/// HC-06.
fn a_server_that_is_never_asked_is_scheduled_although_it_is_gone(rig: &mut Rig) {
    let [first, second, _] = rig.translated();
    let [web, _other] = [first, second].map(|server| Web::start(rig, server, "*"));
    let published = ["80", "443"].map(|port| {
        let own = json!({ "port": PORT });
        let service = nat(&format!("on{port}"), TRANSLATED, port);
        service.to_with(first, own.clone()).to_with(second, own)
    });
    let [service, asked] = published;
    rig.serve([&service.with("check", json!({ "type": "on" })), &checked(asked, false)]);
    let answers = || (0..10).filter_map(|_| who(rig, &at(TRANSLATED, 80))).collect::<Vec<_>>();
    let until_up = |count: usize| {
        rig.appliance.wait_until("/status", "the service that asks knows", |status| {
            let servers = status["services"][1]["servers"].as_array().expect("servers");
            servers.iter().filter(|it| it["actual"] == "up").count() == count
        });
    };
    until_up(2);
    assert_eq!(answers().len(), 10, "both answer");
    web.kill();
    until_up(1);
    for _ in 0..3 {
        assert_eq!(answers(), [second.name.as_str(); 5], "half of ten go to nobody");
        assert_eq!(state(rig, first)["actual"], "up");
    }
}

/// HC-15.
fn a_failed_check_spares_an_open_connection_if_quiescent_and_cuts_it_if_not(rig: &mut Rig) {
    let servers = [&rig.direct()[0], &rig.translated()[0], &rig.tunnelled()[0]];
    let services = [
        (direct("dr", DIRECT, "80").to(servers[0]), DIRECT),
        (nat("nat", TRANSLATED, "80").to(servers[1]), TRANSLATED),
        (snat("snat", PROXIED, "80").to(servers[2]), PROXIED),
        (tunnel("tun", TUNNELLED, "80").to(servers[2]), TUNNELLED),
    ];
    let until = |what, is: fn(&str) -> bool| {
        rig.appliance.wait_until("/status", what, |status| {
            let services = status["services"].as_array().expect("services");
            services.iter().all(|it| it["servers"][0]["actual"].as_str().is_some_and(is))
        });
    };
    for quiescent in [true, false] {
        let webs = servers.map(|server| Web::start(rig, server, "*"));
        let published = services
            .each_ref()
            .map(|(service, _)| checked(service.clone(), false).with("quiescent", quiescent));
        rig.serve(&published);
        until("all are up", |actual| actual == "up");
        let held = services.each_ref().map(|(_, address)| {
            let stream = rig.client().open(&at(*address, 80)).expect("a connection");
            server_behind(&stream).expect("an answer");
            (stream, address)
        });
        webs.into_iter().for_each(Web::kill);
        until("all have failed", |actual| ["closing", "down"].contains(&actual));
        for (stream, address) in held {
            // The server's end is there in any case: what fails is another port.
            assert_eq!(is_cut(&stream), !quiescent, "{address}");
        }
        rig.serve([]);
    }
}
