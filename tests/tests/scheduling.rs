//! Which server a new connection gets.

use serde_json::json;
use sluice_tests::client::{Answers, server_behind};
use sluice_tests::lab::{DIRECT, TRANSLATED};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{Service, direct, nat};

sluice_tests::cases! {
    round_robin_gives_each_server_the_same,
    weighted_round_robin_gives_each_server_its_share_and_begins_with_the_heaviest,
    only_the_proportion_of_weights_counts,
    a_server_of_weight_zero_keeps_its_connections_and_gets_no_new_ones,
    a_service_without_a_server_drops_and_counts,
}

fn weighted(name: &str, servers: &[Server; 3], weights: [u32; 3]) -> Service {
    let service = direct(name, DIRECT, "80").with("scheduler", "wrr");
    servers.iter().zip(weights).fold(service, |it, (server, weight)| it.weighted(server, weight))
}

fn shares(answers: &Answers, servers: &[Server; 3]) -> [usize; 3] {
    servers.each_ref().map(|server| answers.from(server))
}

/// SCH-01.
fn round_robin_gives_each_server_the_same(rig: &mut Rig) {
    rig.serve([&direct("even", DIRECT, "80").to_all(rig.direct())]);
    let answers = rig.client().connect(&at(DIRECT, 80), 300);
    assert_eq!(shares(&answers, rig.direct()), [100, 100, 100]);
    let names = answers.servers();
    assert!(names.windows(4).all(|turn| turn[0] == turn[3]), "each in turn: {names:?}");
}

/// SCH-02.
fn weighted_round_robin_gives_each_server_its_share_and_begins_with_the_heaviest(rig: &mut Rig) {
    rig.serve([&weighted("uneven", rig.direct(), [1, 2, 3])]);
    let answers = rig.client().connect(&at(DIRECT, 80), 600);
    assert_eq!(shares(&answers, rig.direct()), [100, 200, 300]);
    for (number, cycle) in answers.servers().chunks(6).enumerate() {
        assert_eq!(cycle[0], rig.direct()[2].name, "cycle {number}: {cycle:?}");
    }
}

/// VS-14.
fn only_the_proportion_of_weights_counts(rig: &mut Rig) {
    for weights in [[5, 10, 0], [50, 100, 0]] {
        rig.serve([&weighted("proportional", rig.direct(), weights)]);
        let answers = rig.client().connect(&at(DIRECT, 80), 3000);
        let [first, second, third] = shares(&answers, rig.direct());
        assert!((970..=1030).contains(&first), "a third, give or take 3 %: {first}");
        assert!((1940..=2060).contains(&second), "two thirds, give or take 3 %: {second}");
        assert_eq!(third, 0);
    }
}

/// VS-14: weight 0 takes a server out of service gently.
fn a_server_of_weight_zero_keeps_its_connections_and_gets_no_new_ones(rig: &mut Rig) {
    rig.serve([
        &direct("drained", DIRECT, "80").to_all(rig.direct()),
        &nat("drained-nat", TRANSLATED, "80").to_all(rig.translated()),
    ]);
    for (service, address, servers) in
        [("drained", DIRECT, rig.direct()), ("drained-nat", TRANSLATED, rig.translated())]
    {
        let stream = rig.client().open(&at(address, 80)).expect("a connection");
        let name = server_behind(&stream).expect("an answer");
        let drained = servers.iter().find(|it| it.name == name).expect("one of the servers");
        let path = format!("/services/{service}/servers/{}", drained.name);
        rig.appliance.rest("PATCH", &path, Some(json!({ "weight": 0 })));

        let answers = rig.client().connect(&at(address, 80), 30);
        assert_eq!(answers.from(drained), 0);
        let now = server_behind(&stream).expect("the connection that was there goes on");
        assert_eq!(now, name);

        rig.appliance.rest("PATCH", &path, Some(json!({ "weight": 100 })));
        let answers = rig.client().connect(&at(address, 80), 30);
        assert_eq!(shares(&answers, servers), [10, 10, 10]);
        assert_eq!(server_behind(&stream).expect("it goes on"), name);
    }
}

fn a_service_without_a_server_drops_and_counts(rig: &mut Rig) {
    rig.serve([&direct("empty", DIRECT, "80")]);
    let before = rig.books();
    let patience = std::time::Duration::from_millis(500);
    assert!(rig.client().attempt(&at(DIRECT, 80), 1, patience)[0].is_err());
    assert!(rig.books().dropped("no_server") > before.dropped("no_server"));
}
