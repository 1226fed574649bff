//! Servers that are judged by the connections that clients open.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::client::server_behind;
use sluice_tests::lab::{DIRECT, TRANSLATED};
use sluice_tests::process::eventually;
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{Service, direct, nat};
use sluice_tests::web::{PORT, Web, state, wait_for, who};

sluice_tests::cases! {
    a_server_that_answers_no_syn_is_left_out_for_a_while,
    no_more_are_left_out_than_may_be,
    the_last_that_takes_connections_is_never_left_out,
}

fn judged(service: Service, max_ejected: u32) -> Service {
    service.with("passive", policy("3s", max_ejected))
}

fn policy(eject_for: &str, max_ejected: u32) -> Value {
    json!({
        "unanswered": 3, "window": "10s", "eject_for": eject_for, "max_ejected": max_ejected,
    })
}

fn is_left_out(server: &Value) -> bool {
    ["closing", "down"].iter().any(|actual| server["actual"] == *actual)
}

fn a_server_that_answers_no_syn_is_left_out_for_a_while(rig: &mut Rig) {
    let [first, second, _] = rig.direct();
    // For longer than what is asked meanwhile may take.
    let service = direct("deaf", DIRECT, "80").with("passive", policy("8s", 1));
    rig.serve([&service.to(first).to(second)]);
    let to = at(DIRECT, 80);
    let kept = [(); 2].map(|()| rig.client().open(&to).expect("a connection"));
    let whose = kept.each_ref().map(|stream| server_behind(stream).expect("an answer"));
    assert_ne!(whose[0], whose[1]);
    first.nftables(
        "table inet deaf {
             chain input {
                 type filter hook input priority filter;
                 tcp dport 80 tcp flags & (syn | ack) == syn drop;
             }
         }",
    );
    let (mut answered, mut unanswered) = (0, 0);
    let gone = || {
        let came = twelve_at_once(rig, &to);
        answered += came;
        unanswered += 12 - came;
        is_left_out(&state(rig, first)).then_some(())
    };
    assert!(eventually(Duration::from_secs(10), gone).is_some(), "{}", state(rig, first));
    let told = state(rig, first);
    let reason = told["reason"].to_string();
    assert!(reason.contains("connections in a row got no answer within 10 s"), "{reason}");
    rig.appliance.wait_until("/status", "all are counted", |status| {
        let told = &status["services"][0]["servers"][0]["totals"];
        told["unanswered"] == unanswered && told["handshakes"] == 1
    });
    let other = state(rig, second);
    assert_eq!(other["totals"]["unanswered"], 0);
    assert_eq!(other["totals"]["handshakes"], answered + 1);
    assert!(other["handshake_ms"].is_number(), "{other}");

    assert_eq!(rig.client().connect(&to, 10).from(second), 10, "it is left out");
    for (stream, name) in kept.iter().zip(whose) {
        assert_eq!(server_behind(stream).ok(), Some(name), "but keeps what it has");
    }
    first.stop_redirecting();
    wait_for(rig, first, &["up"]);
    let took = (since(&state(rig, first)) - since(&told)).rem_euclid(86_400.0);
    assert!((7.9..12.0).contains(&took), "{took} s");
    assert_eq!(rig.client().connect(&to, 10).from(first), 5, "it is back");
}

/// When it came to its state, in seconds since midnight.
fn since(server: &Value) -> f64 {
    let text = server["since"].as_str().expect("a time");
    let time = text.trim_end_matches('Z').split('T').nth(1).expect("a time of day");
    let more = |sum: f64, part: &str| sum * 60.0 + part.parse::<f64>().expect("a number");
    time.split(':').fold(0.0, more)
}

/// Twelve clients; how many are answered.
fn twelve_at_once(rig: &Rig, to: &str) -> usize {
    // A client asks again after 1 s.
    let ask = || rig.client().attempt(to, 1, Duration::from_millis(1500))[0].is_ok();
    thread::scope(|scope| {
        let asked = [(); 12].map(|()| scope.spawn(ask));
        asked.map(|it| it.join().expect("it says")).iter().filter(|is_ok| **is_ok).count()
    })
}

/// A service by NAT where only the third server listens, and the first two refuse.
fn refusing(rig: &Rig, name: &str, max_ejected: u32) -> (Service, Web) {
    let [.., third] = rig.translated();
    let web = Web::start(rig, third, "*");
    let own = |service: Service, server: &Server| service.to_with(server, json!({ "port": PORT }));
    let service = rig.translated().iter().fold(nat(name, TRANSLATED, "80"), own);
    (judged(service, max_ejected), web)
}

fn ask(rig: &Rig, count: usize) -> Vec<String> {
    (0..count).filter_map(|_| who(rig, &at(TRANSLATED, 80))).collect()
}

/// Asks until one of the first two is left out; who that is.
fn first_to_go(rig: &Rig) -> &Server {
    let servers = &rig.translated()[..2];
    let gone = || {
        ask(rig, 3);
        servers.iter().find(|server| is_left_out(&state(rig, server)))
    };
    eventually(Duration::from_secs(5), gone).expect("one of them is left out")
}

/// How many servers of the service took connections, each time that it was looked until this one was
/// back. Meanwhile those that take connections are judged again and again.
fn taking_until_back(rig: &Rig, server: &Server) -> Vec<usize> {
    let mut seen = Vec::new();
    let is_back = || {
        let status = rig.appliance.get("/status");
        let servers = status["services"][0]["servers"].as_array().expect("servers");
        seen.push(servers.iter().filter(|it| it["actual"] == "up").count());
        servers
            .iter()
            .any(|it| it["name"] == server.name.as_str() && it["actual"] == "up")
            .then_some(())
    };
    assert!(eventually(Duration::from_secs(10), is_back).is_some(), "{} is back", server.name);
    seen
}

fn no_more_are_left_out_than_may_be(rig: &mut Rig) {
    let (service, _web) = refusing(rig, "most", 1);
    rig.serve([&service]);
    assert_eq!(ask(rig, 18), [rig.translated()[2].name.as_str(); 6], "two of three refuse");
    let gone = first_to_go(rig);
    assert!(ask(rig, 10).len() < 10, "the other takes connections still");
    let taking = taking_until_back(rig, gone);
    assert!(taking.iter().all(|count| *count >= 2), "{taking:?}");
    rig.appliance.rest("PATCH", "/services/most", Some(json!({ "passive": policy("3s", 2) })));
    let nobody_else = || {
        let answers = ask(rig, 6);
        (answers.len() == 6).then_some(answers)
    };
    let answers =
        eventually(Duration::from_secs(10), nobody_else).expect("two may be left out now");
    assert_eq!(answers, [rig.translated()[2].name.as_str(); 6]);
}

fn the_last_that_takes_connections_is_never_left_out(rig: &mut Rig) {
    let (service, _web) = refusing(rig, "last", 3);
    let for_long = json!({ "unanswered": 3, "window": "10s", "eject_for": "1m", "max_ejected": 3 });
    rig.serve([&service.with("passive", for_long)]);
    let [first, second, third] = rig.translated();
    let halt = |server: &Server| {
        rig.appliance.rest("POST", &format!("/services/last/servers/{}/halt", server.name), None);
    };
    halt(third);
    assert_eq!(ask(rig, 18).len(), 0);
    let gone = first_to_go(rig);
    let other = if gone.name == first.name { second } else { first };
    let refused = || state(rig, other)["totals"]["refused"].as_u64().expect("it is counted");
    let before = refused();
    // Ten times as many as are enough, over several looks.
    let judged = || {
        assert_eq!(ask(rig, 1).len(), 0, "nobody answers in its place");
        assert_eq!(state(rig, other)["actual"], "up");
        thread::sleep(Duration::from_millis(100)); // what is counted comes once a second
        (refused() >= before + 30).then_some(())
    };
    assert!(eventually(Duration::from_secs(20), judged).is_some(), "{}", state(rig, other));
    assert!(is_left_out(&state(rig, gone)));
    halt(other);
    let is_back = || (state(rig, gone)["actual"] == "up").then_some(());
    assert!(eventually(Duration::from_secs(10), is_back).is_some(), "it is the last now");
}
