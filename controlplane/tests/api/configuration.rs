//! The configuration over the admin API: what is accepted, what is refused, and what the workers
//! see of it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dataplane::snapshot::Protocol;
use serde_json::{Value, json};

use crate::rig::{self, CONFIGURATION, Rig, wait_until};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn what_is_read_can_be_written_back_and_changes_nothing() {
    let rig = Rig::start();
    let read = rig.ask("GET", "/api/v1/config");
    assert_eq!(read.status, 200);
    assert_eq!(read.header("content-type"), Some("application/json"));
    assert_eq!(read.json()["service"][0]["server"][1]["weight"], 50);
    let written = rig.tell("PUT", "/api/v1/config", &read.json());
    assert_eq!(written.status, 200);
    assert_eq!(written.json(), read.json());
    assert_eq!(written.etag(), read.etag());
}

#[test]
fn the_same_text_that_lies_on_disk_is_accepted_as_toml() {
    let rig = Rig::start();
    let admin = rig.ask("GET", "/api/v1/config").json()["admin"].clone();
    let text = format!(
        "admin = {{ listen = {}, socket = {} }}\n{}",
        admin["listen"],
        admin["socket"],
        CONFIGURATION.replace("weight = 50", "weight = 60")
    );
    let toml = [("content-type", "application/toml")];
    let written = rig.send("PUT", "/api/v1/config", &toml, text.as_bytes());
    assert_eq!(written.status, 200, "{}", written.text());
    assert_eq!(written.json()["service"][0]["server"][1]["weight"], 60);
}

#[test]
fn the_workers_see_a_new_service_at_their_next_look() {
    let mut rig = Rig::start();
    assert!(rig.worker.reader.current().services.at(WEB.into(), Protocol::Tcp, 8080).is_none());
    let patch = json!({ "ports": "80,8080" });
    let patched = rig.tell("PATCH", "/api/v1/services/web", &patch);
    assert_eq!(patched.status, 200);
    assert_eq!(patched.json()["ports"], "80,8080");
    let snapshot = rig.worker.reader.current();
    assert!(snapshot.services.at(WEB.into(), Protocol::Tcp, 8080).is_some());
    assert!(snapshot.services.at(WEB.into(), Protocol::Tcp, 443).is_none());
}

#[test]
fn a_stale_entity_tag_changes_nothing() {
    let rig = Rig::start();
    let first = rig.ask("GET", "/api/v1/config");
    let patch = json!({ "weight": 7 }).to_string();
    let (path, tag) = ("/api/v1/services/web/servers/web1", ("if-match", first.etag()));
    let changed = rig.send("PATCH", path, &[JSON, tag], patch.as_bytes());
    assert_eq!(changed.status, 200);
    assert_ne!(changed.etag(), first.etag());
    let now = rig.ask("GET", "/api/v1/config");
    assert_eq!(now.etag(), changed.etag());

    let body = first.body.as_slice();
    rig.send("PUT", "/api/v1/config", &[JSON, tag], body).problem(412);
    rig.send("PATCH", path, &[JSON, tag], patch.as_bytes()).problem(412);
    rig.send("DELETE", path, &[tag], b"").problem(412);
    let weak = format!("W/{}", now.etag());
    rig.send("PUT", "/api/v1/config", &[JSON, ("if-match", &weak)], body).problem(412);
    assert_eq!(rig.ask("GET", "/api/v1/config").etag(), now.etag());

    let several = format!("\"other\", {}", now.etag());
    assert_eq!(rig.send("DELETE", path, &[("if-match", &several)], b"").status, 204);
    let any = [JSON, ("if-match", "*")];
    assert_eq!(rig.send("PUT", "/api/v1/config", &any, body).status, 200);
    assert_eq!(rig.ask("GET", "/api/v1/config").etag(), first.etag(), "the same as at first");
}

#[test]
fn all_mistakes_are_told_at_once_and_nothing_is_applied() {
    let rig = Rig::start();
    let before = rig.ask("GET", "/api/v1/config");
    let mut wrong = before.json();
    wrong["service"][0]["server"][0]["address"] = json!("10.0.0.7:80");
    wrong["service"][1]["protocol"] = json!("sctp");
    wrong["service"][1]["prots"] = json!("53");
    let mistakes = rig.tell("PUT", "/api/v1/config", &wrong).problem(422);
    assert_eq!(mistakes.len(), 3, "{mistakes:#?}");
    assert_eq!(
        mistakes[0],
        "service[0].server[0].address: expected an address, such as 10.0.0.7, found \
         \"10.0.0.7:80\""
    );
    assert!(mistakes.iter().any(|mistake| mistake.contains("service[1].protocol")));
    assert!(mistakes.iter().any(|mistake| mistake.contains("ports")), "with a suggestion");
    assert_eq!(rig.tell("POST", "/api/v1/config/validate", &wrong).problem(422), mistakes);
    assert_eq!(rig.ask("GET", "/api/v1/config").body, before.body);
}

#[test]
fn what_needs_a_restart_is_refused_by_a_running_node() {
    let rig = Rig::start();
    let before = rig.ask("GET", "/api/v1/config");
    let mut next = before.json();
    next["dataplane"]["flows"] = json!(5000);
    let refused = rig.tell("PUT", "/api/v1/config", &next);
    assert!(refused.problem(409)[0].starts_with("dataplane.flows: expected"));
    assert!(refused.json()["detail"].as_str().unwrap().contains("dataplane"));
    assert_eq!(rig.ask("GET", "/api/v1/config").etag(), before.etag());

    let verdict = rig.tell("POST", "/api/v1/config/validate", &next).json();
    assert_eq!(verdict["live"], false);
    assert!(verdict["restart_needed"][0].as_str().unwrap().starts_with("dataplane"));
}

#[test]
fn validation_says_what_would_change_and_changes_nothing() {
    let rig = Rig::start();
    let before = rig.ask("GET", "/api/v1/config");
    let mut next = before.json();
    let server = json!({ "name": "web3", "address": "10.0.0.13" });
    next["service"][0]["server"].as_array_mut().unwrap().push(server);
    let verdict = rig.tell("POST", "/api/v1/config/validate", &next);
    assert_eq!(verdict.status, 200);
    assert_eq!(verdict.json()["live"], true);
    let changes = verdict.json()["changes"].to_string();
    assert!(changes.contains("web") && changes.contains("web3"), "{changes}");
    assert_eq!(rig.ask("GET", "/api/v1/config").etag(), before.etag());
}

#[test]
fn a_service_is_added_read_replaced_changed_and_removed() {
    let rig = Rig::start();
    let mail = json!({ "name": "mail", "address": "10.0.0.110", "ports": "25" });
    let added = rig.tell("POST", "/api/v1/services", &mail);
    assert_eq!(added.status, 201, "{}", added.text());
    assert_eq!(added.header("location"), Some("/api/v1/services/mail"));
    assert_eq!(added.json()["mode"], "dr");
    rig.tell("POST", "/api/v1/services", &mail).problem(409);

    let read = rig.ask("GET", "/api/v1/services/mail");
    assert_eq!((read.status, read.json()), (200, added.json()));
    let names = |reply: rig::Reply| -> Vec<Value> {
        reply.json().as_array().unwrap().iter().map(|one| one["name"].clone()).collect()
    };
    assert_eq!(names(rig.ask("GET", "/api/v1/services")), ["web", "dns", "mail"]);

    let next = json!({ "address": "10.0.0.110", "ports": "25,587", "scheduler": "rr" });
    let replaced = rig.tell("PUT", "/api/v1/services/mail", &next);
    assert_eq!((replaced.status, &replaced.json()["ports"]), (200, &json!("25,587")));
    let patch = json!({ "scheduler": null });
    let changed = rig.tell("PATCH", "/api/v1/services/mail", &patch);
    assert_eq!((changed.status, &changed.json()["scheduler"]), (200, &json!("wrr")));

    let removed = rig.ask("DELETE", "/api/v1/services/mail");
    assert_eq!((removed.status, removed.body.len()), (204, 0));
    for method in ["GET", "DELETE"] {
        rig.ask(method, "/api/v1/services/mail").problem(404);
    }
    rig.tell("PUT", "/api/v1/services/mail", &next).problem(404);
    rig.tell("PATCH", "/api/v1/services/mail", &patch).problem(404);
}

#[test]
fn a_server_is_added_read_replaced_changed_and_removed() {
    let rig = Rig::start();
    let servers = "/api/v1/services/web/servers";
    let added = rig.tell("POST", servers, &json!({ "name": "web3", "address": "10.0.0.13" }));
    assert_eq!(added.status, 201, "{}", added.text());
    let own = "/api/v1/services/web/servers/web3";
    assert_eq!(added.header("location"), Some(own));
    assert_eq!(added.json()["weight"], 100);
    rig.tell("POST", servers, &json!({ "name": "web3", "address": "10.0.0.14" })).problem(409);

    let unnamed = rig.tell("POST", servers, &json!({ "address": "10.0.0.15" }));
    let location = unnamed.header("location").unwrap();
    assert_eq!(location, "/api/v1/services/web/servers/10.0.0.15");
    assert_eq!(rig.ask("GET", location).json(), unnamed.json());

    let replaced = rig.tell("PUT", own, &json!({ "address": "10.0.0.16" }));
    assert_eq!((replaced.status, &replaced.json()["address"]), (200, &json!("10.0.0.16")));
    let changed = rig.tell("PATCH", own, &json!({ "weight": 0 }));
    assert_eq!((changed.status, &changed.json()["weight"]), (200, &json!(0)));
    assert_eq!(rig.ask("GET", servers).json().as_array().unwrap().len(), 4);

    assert_eq!(rig.ask("DELETE", own).status, 204);
    rig.ask("GET", own).problem(404);
    rig.ask("GET", "/api/v1/services/none/servers").problem(404);
    rig.tell("POST", "/api/v1/services/none/servers", &json!({})).problem(404);
}

#[test]
fn mistakes_in_a_part_are_told_from_that_part_on() {
    let rig = Rig::start();
    let mistakes = rig
        .tell("POST", "/api/v1/services/web/servers", &json!({ "address": "nowhere", "port": 80 }))
        .problem(422);
    assert!(mistakes.iter().any(|mistake| mistake.starts_with("address: expected an address")));
    let mistakes = rig
        .tell("PUT", "/api/v1/services/dns", &json!({ "address": "10.0.0.101", "ports": "99999" }))
        .problem(422);
    assert!(mistakes[0].starts_with("ports: expected"), "{mistakes:?}");
    for body in [json!([]), json!(7), json!(null), json!("web")] {
        assert!(!rig.tell("POST", "/api/v1/services", &body).problem(422).is_empty());
        assert!(!rig.tell("PATCH", "/api/v1/services/web", &body).problem(422).is_empty());
    }
}

#[test]
fn changes_over_the_api_survive_a_restart_until_the_file_is_changed() {
    let rig = Rig::start();
    rig.tell("PATCH", "/api/v1/services/web/servers/web2", &json!({ "weight": 9 }));
    let tag = rig.ask("GET", "/api/v1/config").etag().to_owned();
    let (directory, port) = rig.stop();

    let rig = Rig::restarted(directory, port);
    assert_eq!(rig.ask("GET", "/api/v1/config").etag(), tag);
    let (directory, port) = rig.stop();

    let file = directory.path().join("sluice.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("weight = 50", "weight = 51");
    std::fs::write(&file, text).unwrap();
    let rig = Rig::restarted(directory, port);
    let server = rig.ask("GET", "/api/v1/services/web/servers/web2");
    assert_eq!(server.json()["weight"], 51);
    assert!(rig.state().join("config.overruled.json").exists());
}

#[test]
fn a_reload_takes_the_file_and_a_file_with_mistakes_changes_nothing() {
    let mut rig = Rig::start();
    let file = rig.directory.path().join("sluice.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

    std::fs::write(&file, text.replace("ports = \"80,443\"", "ports = \"81\"")).unwrap();
    runtime.block_on(rig.node().reload()).unwrap();
    assert!(rig.worker.reader.current().services.at(WEB.into(), Protocol::Tcp, 81).is_some());

    std::fs::write(&file, text.replace("weight = 50", "weight = -1")).unwrap();
    let refused = runtime.block_on(rig.node().reload()).err().unwrap();
    assert!(refused.to_string().contains("weight"), "{refused}");
    assert!(rig.worker.reader.current().services.at(WEB.into(), Protocol::Tcp, 81).is_some());
}

#[test]
fn a_reload_without_a_change_makes_the_file_the_one_that_counts() {
    let rig = Rig::start();
    let file = rig.directory.path().join("sluice.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("# a remark\n{text}")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(rig.node().reload()).unwrap();
    rig.tell("PATCH", "/api/v1/services/web/servers/web2", &json!({ "weight": 9 }));
    let (directory, port) = rig.stop();
    let rig = Rig::restarted(directory, port);
    let server = rig.ask("GET", "/api/v1/services/web/servers/web2");
    assert_eq!(server.json()["weight"], 9, "the file has not been changed since it was read");
}

#[test]
fn changes_at_the_same_time_are_all_made() {
    let rig = Rig::start();
    thread::scope(|scope| {
        for number in 0..8 {
            let door = rig.door();
            scope.spawn(move || {
                for round in 0..5 {
                    let address = format!("10.0.0.{}", 20 + number * 5 + round);
                    let server = json!({ "address": address });
                    let added = door.tell("POST", "/api/v1/services/web/servers", &server);
                    assert_eq!(added.status, 201, "{}", added.text());
                }
            });
        }
    });
    let servers = rig.ask("GET", "/api/v1/services/web/servers").json();
    assert_eq!(servers.as_array().unwrap().len(), 42);
}

/// 1,000 services with 10 servers each, which are asked at this port.
fn large(node: &Value, port: u16) -> Value {
    let mut document = node.clone();
    let service = |number: usize| {
        let server = |position: usize| {
            let host = number * 10 + position;
            json!({
                "name": format!("server{position}"),
                "address": format!("172.16.{}.{}", host / 250, host % 250 + 1),
                "port": port,
            })
        };
        json!({
            "name": format!("service{number}"),
            "address": format!("10.1.{}.{}", number / 250, number % 250 + 1),
            "ports": "80",
            "mode": "nat",
            "server": (0..10).map(server).collect::<Vec<_>>(),
        })
    };
    document["interface"][0]["addresses"] = json!(["10.0.0.2/24", "10.1.255.254/16"]);
    document["service"] = (0..1000).map(service).collect();
    document
}

#[test]
fn a_thousand_services_with_ten_servers_each_are_taken_up_in_time() {
    let mut rig = Rig::start();
    // Others may need the machine, too.
    assert!((8000..8003).any(|port| is_taken_up_in_time(&rig, port)), "three times late");

    let snapshot = rig.worker.reader.current();
    let last = Ipv4Addr::new(10, 1, 3, 250).into();
    let service = snapshot.services.at(last, Protocol::Tcp, 80).expect("the last service is there");
    assert_eq!(service.candidates.servers().len(), 10);
}

fn is_taken_up_in_time(rig: &Rig, port: u16) -> bool {
    let document = large(&rig.ask("GET", "/api/v1/config").json(), port);
    let stalls = Stalls::watch(rig);
    let timed = |what: &str, ask: &dyn Fn() -> rig::Reply| {
        let begin = Instant::now();
        let reply = ask();
        let taken = begin.elapsed();
        assert_eq!(reply.status, 200, "{what}");
        println!("{what} with 10,000 servers: {taken:?}");
        taken
    };
    let put = timed("PUT /config", &|| rig.tell("PUT", "/api/v1/config", &document));
    let one = "/api/v1/services/service7/servers/server3";
    timed("PATCH of one server", &|| rig.tell("PATCH", one, &json!({ "weight": 1 })));
    for path in ["/api/v1/config", "/api/v1/services", "/api/v1/status", "/metrics"] {
        timed(path, &|| rig.ask("GET", path));
    }
    let longest = stalls.longest();
    println!("the control thread let others wait for {longest:?} at most");
    // Even with other work on the same processor.
    put < Duration::from_secs(2) && longest < Duration::from_millis(200)
}

/// How long the control thread makes others wait.
struct Stalls {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Stalls {
    fn watch(rig: &Rig) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let door = rig.door();
        let thread = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !seen.load(Ordering::Relaxed) {
                let begin = Instant::now();
                assert_eq!(door.ask("GET", "/healthz").status, 200); // needs the control thread alone
                longest = longest.max(begin.elapsed());
            }
            longest
        });
        Self { stop, thread }
    }

    fn longest(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watcher saw answers alone")
    }
}

#[test]
fn the_node_is_ready_once_the_worker_has_the_newest_configuration() {
    let mut rig = Rig::start();
    rig.ask("GET", "/readyz").problem(503);
    // Another snapshot may follow the first: a neighbour that the configuration names.
    wait_until("the node is ready", || {
        rig.worker.reader.current();
        rig.ask("GET", "/readyz").status == 200
    });
    rig.tell("PATCH", "/api/v1/services/web", &json!({ "ports": "8080" }));
    rig.ask("GET", "/readyz").problem(503);
    assert_eq!(rig.ask("GET", "/healthz").status, 200);
}
