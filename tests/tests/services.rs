//! What an operator does over REST, with traffic following.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::lab::{DIRECT, TRANSLATED};
use sluice_tests::rig::{Rig, at};
use sluice_tests::service::{direct, nat};

sluice_tests::cases! {
    a_service_is_made_read_changed_and_removed_and_traffic_follows,
    a_server_is_added_and_removed_and_traffic_follows,
    a_virtual_address_outside_every_subnet_is_refused_with_the_remedy,
    a_direct_server_with_a_port_is_refused,
    everything_wrong_is_told_at_once_and_nothing_is_applied,
    the_configuration_read_back_is_the_one_that_was_put,
    status_flows_neighbours_and_metrics_tell_of_the_traffic,
    a_new_configuration_loses_no_connection,
    the_command_line_client_speaks_over_the_unix_socket,
    the_interface_description_names_what_there_is,
}

/// Sends `body` and expects to be refused.
fn refused(rig: &Rig, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let answer = rig.appliance.request(method, &format!("/api/v1{path}"), Some(body));
    let answer = answer.expect("an answer");
    assert!(answer.status >= 400, "{method} {path} is granted: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    (answer.status, answer.json())
}

fn is_served(rig: &Rig, to: &str) -> bool {
    rig.client().attempt(to, 1, Duration::from_millis(700))[0].is_ok()
}

/// VS-01.
fn a_service_is_made_read_changed_and_removed_and_traffic_follows(rig: &mut Rig) {
    rig.serve([]);
    let appliance = &rig.appliance;
    assert!(!is_served(rig, &at(DIRECT, 80)));

    let web = direct("web", DIRECT, "80").to(&rig.direct()[0]);
    let made = appliance.rest("POST", "/services", Some(web.json()));
    assert_eq!(made.status, 201);
    assert_eq!(made.header("location"), Some("/api/v1/services/web"));
    assert_eq!(rig.client().connect(&at(DIRECT, 80), 4).from(&rig.direct()[0]), 4);

    let read = appliance.get("/services/web");
    for name in ["name", "ports", "protocol", "mode", "scheduler"] {
        assert_eq!(read[name], web.json()[name], "{name}");
    }
    let listed = appliance.get("/services");
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(listed[0], read);

    let moved = direct("web", DIRECT, "8080").to(&rig.direct()[1]);
    appliance.rest("PUT", "/services/web", Some(moved.json()));
    assert_eq!(rig.client().connect(&at(DIRECT, 8080), 4).from(&rig.direct()[1]), 4);
    assert!(!is_served(rig, &at(DIRECT, 80)));

    appliance.rest("PATCH", "/services/web", Some(json!({ "ports": "80,8080" })));
    rig.client().connect(&at(DIRECT, 80), 2);
    rig.client().connect(&at(DIRECT, 8080), 2);

    assert_eq!(appliance.rest("DELETE", "/services/web", None).status, 204);
    assert!(!is_served(rig, &at(DIRECT, 80)));
    let gone = appliance.request("GET", "/api/v1/services/web", None).expect("an answer");
    assert_eq!(gone.status, 404);
    assert_eq!(appliance.get("/services"), json!([]));
}

fn a_server_is_added_and_removed_and_traffic_follows(rig: &mut Rig) {
    let [first, second, _] = rig.translated();
    rig.serve([&nat("pool", TRANSLATED, "80").to(first)]);
    assert_eq!(rig.client().connect(&at(TRANSLATED, 80), 4).from(first), 4);

    let entry = json!({ "name": second.name, "address": second.address, "port": 8080 });
    let made = rig.appliance.rest("POST", "/services/pool/servers", Some(entry));
    assert_eq!(made.status, 201);
    let answers = rig.client().connect(&at(TRANSLATED, 80), 8);
    assert_eq!((answers.from(first), answers.from(second)), (4, 4));
    assert_eq!(rig.appliance.get("/services/pool/servers/nat2")["port"], 8080);

    rig.appliance.rest("DELETE", "/services/pool/servers/nat1", None);
    assert_eq!(rig.client().connect(&at(TRANSLATED, 80), 4).from(second), 4);
    assert_eq!(rig.appliance.get("/services/pool/servers").as_array().map(Vec::len), Some(1));
}

/// VS-10.
fn a_virtual_address_outside_every_subnet_is_refused_with_the_remedy(rig: &mut Rig) {
    rig.serve([]);
    let web = direct("web", [172, 30, 0, 1], "80").to(&rig.direct()[0]);
    let (status, problem) = refused(rig, "POST", "/services", &web.json());
    assert_eq!(status, 422);
    let error = &problem["errors"][0];
    assert!(error["path"].as_str().is_some_and(|path| path.ends_with("address")), "{problem}");
    assert!(error["found"].as_str().is_some_and(|it| it.contains("172.30.0.1")), "{problem}");
    let remedy = error["expected"].as_str().expect("a sentence");
    assert!(remedy.contains("10.1.0.0/24") || remedy.contains("interface"), "{remedy}");
    assert_eq!(rig.appliance.get("/services"), json!([]));
}

/// FWD-02.
fn a_direct_server_with_a_port_is_refused(rig: &mut Rig) {
    rig.serve([&direct("web", DIRECT, "80").to(&rig.direct()[0])]);
    let entry = json!({ "name": "dr2", "address": "10.1.0.22", "port": 8080 });
    let (status, problem) = refused(rig, "POST", "/services/web/servers", &entry);
    assert_eq!(status, 422);
    let error = &problem["errors"][0];
    assert!(error["path"].as_str().is_some_and(|path| path.ends_with("port")), "{problem}");
    assert_eq!(rig.client().connect(&at(DIRECT, 80), 4).from(&rig.direct()[0]), 4);
}

fn everything_wrong_is_told_at_once_and_nothing_is_applied(rig: &mut Rig) {
    rig.serve([&direct("web", DIRECT, "80").to(&rig.direct()[0])]);
    let before = rig.appliance.get("/config");
    let wrong = nat("new", TRANSLATED, "80,99999")
        .with("scheduler", "fastest")
        .with("colour", "green")
        .to_with(&rig.translated()[0], json!({ "address": "10.2.0.11:80", "weight": -1 }));
    let (status, problem) = refused(rig, "POST", "/services", &wrong.json());
    assert_eq!(status, 422);
    let errors = problem["errors"].as_array().expect("errors");
    let path = |error: &Value| error["path"].as_str().unwrap_or_default().to_owned();
    let paths: Vec<_> = errors.iter().map(path).collect();
    for name in ["ports", "scheduler", "colour", "server[0].address", "server[0].weight"] {
        assert!(paths.iter().any(|path| path.ends_with(name)), "{name} is not among {paths:?}");
    }
    assert!(errors.iter().all(|it| it["expected"].is_string() && it["found"].is_string()));
    assert_eq!(rig.appliance.get("/config"), before);
}

fn the_configuration_read_back_is_the_one_that_was_put(rig: &mut Rig) {
    rig.serve([&direct("web", DIRECT, "80").to_all(rig.direct())]);
    let first = rig.appliance.rest("GET", "/config", None);
    let etag = first.header("etag").expect("an ETag").to_owned();
    let put = rig
        .appliance
        .request_with("PUT", "/api/v1/config", &[("If-Match", &etag)], Some(&first.json()))
        .expect("an answer");
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(rig.appliance.get("/config"), first.json());
    let verdict = rig.appliance.rest("POST", "/config/validate", Some(first.json())).json();
    assert_eq!(verdict["changes"], json!([]));
}

fn status_flows_neighbours_and_metrics_tell_of_the_traffic(rig: &mut Rig) {
    let server = &rig.translated()[0];
    rig.serve([&nat("told", TRANSLATED, "80").to(server)]);
    let answers = rig.client().connect(&at(TRANSLATED, 80), 7);

    let status = rig.appliance.get("/status");
    let service = &status["services"][0];
    assert_eq!(service["name"], "told");
    assert_eq!(service["state"], "up");
    assert_eq!(service["servers"][0]["name"], "nat1");
    assert_eq!(service["servers"][0]["totals"]["connections"], 7);
    assert!(service["servers"][0]["totals"]["packets"].as_u64() >= Some(28), "{service}");
    assert!(service["servers"][0]["totals"]["reply_packets"].as_u64() >= Some(28), "{service}");

    let open = rig.client().open(&at(TRANSLATED, 80)).expect("a connection");
    let source = open.local_addr().expect("it has an address").to_string();
    let listed = |flows: &Value| {
        flows["flows"].as_array().is_some_and(|flows| {
            flows.iter().any(|flow| {
                flow["client"] == source.as_str()
                    && flow["server"] == "nat1"
                    && flow["virtual"] == at(TRANSLATED, 80).as_str()
                    && flow["state"] == "established"
            })
        })
    };
    rig.appliance.wait_until("/flows?service=told&limit=1000", "the open connection", listed);
    assert!(answers.count() == 7);

    let neighbours = rig.appliance.get("/neighbours");
    let known = neighbours
        .as_array()
        .expect("a list")
        .iter()
        .any(|it| it["address"] == "10.2.0.11" && it["mac"].as_str().map(str::len) == Some(17));
    assert!(known, "{neighbours}");

    let metrics = rig.appliance.request("GET", "/metrics", None).expect("an answer").text();
    assert!(metrics.lines().all(|line| line.starts_with('#') || line.starts_with("sluice_")));
    assert!(metrics.contains("told") && metrics.contains("nat1"), "{metrics}");
}

/// The same services, put again and again while a client downloads and others connect.
fn a_new_configuration_loses_no_connection(rig: &mut Rig) {
    let web = direct("web", DIRECT, "80").to_all(rig.direct());
    let download = nat("download", TRANSLATED, "80").to_all(rig.translated());
    rig.serve([&web, &download]);
    let others: Vec<_> = (0..40)
        .map(|it| direct(&format!("other{it}"), DIRECT, &format!("{}", 9100 + it)))
        .collect();
    std::thread::scope(|scope| {
        let downloads = scope.spawn(|| {
            for _ in 0..8 {
                let answer = rig.client().request(&at(TRANSLATED, 80), "GET", "/large", b"");
                assert!(answer.expect("an answer").body == sluice_tests::server::large());
            }
        });
        let connections = scope.spawn(|| rig.second_client().connect(&at(DIRECT, 80), 300));
        let mut swaps = 0;
        while !(downloads.is_finished() && connections.is_finished()) {
            let more = &others[..swaps % others.len()];
            rig.serve([&web, &download].into_iter().chain(more));
            swaps += 1;
        }
        assert!(swaps > 5, "only {swaps} configurations during the traffic");
        connections.join().expect("every connection is answered");
        downloads.join().expect("every download is whole");
    });
    // "Nothing lost" is what the clients saw and what the appliance counted.
    let lost = ["no_service", "no_server", "server_gone", "no_flow", "unresolved"];
    let books = rig.books();
    let before: Vec<_> = lost.iter().map(|reason| books.dropped(reason)).collect();
    rig.serve([&web]);
    rig.second_client().connect(&at(DIRECT, 80), 30);
    let books = rig.books();
    assert_eq!(lost.iter().map(|reason| books.dropped(reason)).collect::<Vec<_>>(), before);
}

fn the_command_line_client_speaks_over_the_unix_socket(rig: &mut Rig) {
    rig.serve([&direct("web", DIRECT, "80").to_all(rig.direct())]);
    let socket = rig.appliance.socket();
    let socket = socket.to_str().expect("a plain path");
    let said = rig.appliance.sluice(&["ctl", "--socket", socket, "status"]);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
    assert!(text.contains("web") && text.contains("dr1"), "{text}");
    let json = rig.appliance.sluice(&["ctl", "--socket", socket, "--json", "services"]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert!(json.to_string().contains("10.1.0.100"), "{json}");
    let wrong = rig.appliance.sluice(&["ctl", "--socket", socket, "dance"]);
    assert_eq!(wrong.status.code(), Some(2));
    let nobody = rig.appliance.sluice(&["ctl", "--socket", "/nonexistent/socket", "status"]);
    assert_eq!(nobody.status.code(), Some(1));
}

fn the_interface_description_names_what_there_is(rig: &mut Rig) {
    let answer = rig.appliance.request("GET", "/api/openapi.json", None).expect("an answer");
    let description = answer.json();
    assert!(description["openapi"].as_str().is_some_and(|it| it.starts_with("3.1")));
    let paths = description["paths"].to_string();
    for path in ["/config", "/services/{service}", "/status", "/counters", "/flows"] {
        assert!(paths.contains(path), "{path} is not described");
    }
}
