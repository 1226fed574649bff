//! `/events`: what changed, as a list and live.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use clap::Parser;
use controlplane::client::Ctl;
use controlplane::events::KEPT;
use serde_json::{Value, json};

use crate::rig::{Rig, request, wait_until};

/// What comes live: the lines of one event after the other.
struct Live(BufReader<UnixStream>);

/// One event of a stream.
#[derive(Debug, Default, PartialEq)]
struct Told {
    id: Option<u64>,
    kind: Option<String>,
    data: Value,
}

impl Live {
    fn on(rig: &Rig, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut stream = UnixStream::connect(rig.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let headers = [&[("accept", "text/event-stream")], headers].concat();
        stream.write_all(&request("GET", path, &headers, b"")).unwrap();
        let mut live = Self(BufReader::new(stream));
        let head: Vec<_> =
            std::iter::from_fn(|| Some(live.line())).take_while(|it| it != "").collect();
        assert!(head[0].contains("200"), "{head:?}");
        assert!(head.contains(&"content-type: text/event-stream".into()), "{head:?}");
        live
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line comes in time");
        assert!(line.ends_with('\n'), "the stream has ended");
        line.trim_end().to_owned()
    }

    fn next(&mut self) -> Told {
        let mut told = Told::default();
        loop {
            // Lengths of chunks stand in between.
            match self.line().split_once(": ") {
                Some(("id", id)) => told.id = Some(id.parse().unwrap()),
                Some(("event", kind)) => told.kind = Some(kind.to_owned()),
                Some(("data", data)) => {
                    told.data = serde_json::from_str(data).unwrap();
                    return told;
                }
                _ => {}
            }
        }
    }
}

#[test]
fn what_changed_is_listed_newest_first_with_its_reason() {
    let rig = Rig::start();
    rig.server_is("web", "web1", "up", "down", "connect to 10.0.0.11:80 refused, 2 of 2");
    rig.server_is("web", "web2", "up", "down", "no answer within 2 s, 2 of 2");
    rig.server_is("dns", "dns1", "up", "closing", "refused");
    rig.server_is("web", "web1", "down", "up", "2 of 2 answered");
    let all = rig.ask("GET", "/api/v1/events").json();
    let numbers: Vec<_> = all.as_array().unwrap().iter().map(|it| it["number"].as_u64()).collect();
    assert_eq!(numbers, [Some(4), Some(3), Some(2), Some(1)]);
    let time = all[3]["time"].as_str().unwrap().to_owned();
    assert!(time.len() == "2026-02-03T04:05:06.789Z".len() && time.ends_with('Z'), "{time}");
    assert_eq!(
        all[3],
        json!({
            "number": 1, "time": time, "subject": "server", "service": "web", "server": "web1",
            "old": "up", "new": "down", "reason": "connect to 10.0.0.11:80 refused, 2 of 2",
        })
    );
    let numbers = |query: &str| -> Vec<u64> {
        let listed = rig.ask("GET", &format!("/api/v1/events?{query}")).json();
        listed.as_array().unwrap().iter().map(|it| it["number"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers("limit=2"), [4, 3]);
    assert_eq!(numbers("after=2"), [4, 3]);
    assert_eq!(numbers("service=web"), [4, 2, 1]);
    assert_eq!(numbers("service=web&server=web1&limit=1"), [4]);
    assert_eq!(numbers("service=gone"), [0; 0]);
    for query in ["limit=0", "limit=10001", "after=x", "server=web1", "colour=red"] {
        rig.ask("GET", &format!("/api/v1/events?{query}")).problem(400);
    }
    let metrics = rig.ask("GET", "/metrics");
    let line = "sluice_events_total{subject=\"server\",new=\"down\"} 2";
    assert!(metrics.text().contains(line), "{}", metrics.text());
}

#[test]
fn a_change_of_the_configuration_is_an_event_with_both_entity_tags() {
    let rig = Rig::start();
    let before = rig.ask("GET", "/api/v1/config").etag().to_owned();
    let path = "/api/v1/services/web/servers/web1";
    assert_eq!(rig.ask("POST", &format!("{path}/drain")).status, 200);
    let after = rig.ask("GET", "/api/v1/config").etag().to_owned();
    assert_eq!(rig.ask("POST", &format!("{path}/drain")).status, 200, "that changes nothing");
    let all = rig.ask("GET", "/api/v1/events").json();
    let told: Vec<_> =
        all.as_array().unwrap().iter().filter(|it| it["subject"] == "configuration").collect();
    assert_eq!(told.len(), 1, "{all}");
    assert_eq!(told[0]["old"], before.trim_matches('"'));
    assert_eq!(told[0]["new"], after.trim_matches('"'));
    assert_eq!(told[0]["reason"], "service web: server web1: draining");
}

#[test]
fn a_full_flow_table_is_an_event() {
    let rig = Rig::start();
    rig.worker.counters.flow_capacity.add(100);
    rig.worker.counters.flows.add(85);
    let told = || rig.ask("GET", "/api/v1/events").json()[0].clone();
    wait_until("the table is told of", || told()["subject"] == "worker");
    assert_eq!((&told()["worker"], &told()["new"]), (&json!(0), &json!("filling")));
    assert!(told()["reason"].as_str().unwrap().contains("85 of 100 flows"), "{}", told());
}

#[test]
fn whoever_follows_gets_each_event_as_it_comes() {
    let rig = Rig::start();
    rig.server_is("web", "web1", "up", "down", "before");
    let mut live = Live::on(&rig, "/api/v1/events", &[]);
    let mut of_dns = Live::on(&rig, "/api/v1/events?service=dns", &[]);
    rig.server_is("web", "web1", "down", "up", "after");
    rig.server_is("dns", "dns1", "up", "down", "after");
    let told = live.next();
    assert_eq!((told.id, &told.kind, &told.data["reason"]), (Some(2), &None, &json!("after")));
    assert_eq!(live.next().id, Some(3));
    assert_eq!(of_dns.next().id, Some(3));
}

#[test]
fn whoever_comes_back_gets_what_he_missed_as_far_as_it_is_kept() {
    let rig = Rig::start();
    for number in 1..=5 {
        rig.server_is("web", "web1", "up", "down", &number.to_string());
    }
    let mut live = Live::on(&rig, "/api/v1/events", &[("last-event-id", "3")]);
    assert_eq!((live.next().id, live.next().id), (Some(4), Some(5)));
    let mut live = Live::on(&rig, "/api/v1/events?after=4", &[]);
    assert_eq!(live.next().id, Some(5));
    // A number from before a restart.
    let mut live = Live::on(&rig, "/api/v1/events", &[("last-event-id", "900")]);
    assert_eq!(live.next().id, Some(1));
    let bad = [("accept", "text/event-stream"), ("last-event-id", "x")];
    rig.door().send("GET", "/api/v1/events", &bad, b"").problem(400);
}

#[test]
fn whoever_falls_behind_is_told_how_many_he_missed_and_goes_on() {
    let rig = Rig::start();
    let flood = KEPT as u64 + 100;
    for number in 1..=flood {
        rig.server_is("web", "web1", "up", "down", &number.to_string());
    }
    let mut live = Live::on(&rig, "/api/v1/events", &[("last-event-id", "1")]);
    let told = live.next();
    assert_eq!((told.kind.as_deref(), told.data), (Some("missed"), json!({ "missed": 99 })));
    for number in 101..=flood {
        assert_eq!(live.next().id, Some(number));
    }
    assert_eq!(rig.node().events().newest(usize::MAX).len(), KEPT);
}

#[test]
fn only_so_many_may_follow_and_whoever_leaves_makes_room() {
    let rig = Rig::start();
    let mut live: Vec<_> = (0..32).map(|_| Live::on(&rig, "/api/v1/events", &[])).collect();
    let headers = [("accept", "text/event-stream")];
    let one_more = || rig.door().send("GET", "/api/v1/events", &headers, b"");
    one_more().problem(429);
    assert_eq!(rig.ask("GET", "/api/v1/events").status, 200, "the list needs no room");
    live.pop();
    wait_until("there is room", || {
        rig.server_is("web", "web1", "up", "down", "somebody finds out that he has gone");
        let mut stream = UnixStream::connect(rig.socket()).unwrap();
        stream.write_all(&request("GET", "/api/v1/events", &headers, b"")).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.contains("200")
    });
}

#[test]
fn the_description_knows_events_in_both_forms() {
    let rig = Rig::start();
    let description = rig.ask("GET", "/api/openapi.json").json();
    let get = &description["paths"]["/api/v1/events"]["get"];
    let content = &get["responses"]["200"]["content"];
    assert!(content["application/json"].is_object() && content["text/event-stream"].is_object());
    let names = get["parameters"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap());
    let names: Vec<_> = names.collect();
    for name in ["service", "server", "after", "limit", "Last-Event-ID"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(description["components"]["schemas"]["Event"].is_object());
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    ctl: Ctl,
}

fn ctl(rig: &Rig, arguments: &[&str]) -> Ctl {
    let socket = rig.socket();
    let all = ["ctl", "--socket", socket.to_str().unwrap(), "events"];
    Line::try_parse_from([&all, arguments].concat()).expect("right usage").ctl
}

#[test]
fn the_command_line_lists_and_follows() {
    let rig = Rig::start();
    rig.server_is("web", "web1", "up", "down", "refused");
    rig.server_is("dns", "dns1", "up", "down", "no answer");
    let table = ctl(&rig, &["--service", "web"]).answer().unwrap();
    assert!(table.contains("server web/web1") && table.contains("refused"), "{table}");
    assert!(!table.contains("dns1"), "{table}");
    let json: Value = serde_json::from_str(&ctl(&rig, &["--json"]).answer().unwrap()).unwrap();
    assert_eq!(json, rig.ask("GET", "/api/v1/events").json());

    for (arguments, expected) in [
        (&["--follow", "--after", "1"][..], "dns1: up -> down: no answer"),
        (&["--follow", "--after", "1", "--json"], "\"server\":\"dns1\""),
    ] {
        let follower = ctl(&rig, arguments);
        let (line, lines) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let path = follower.follows().expect("it is to follow");
            follower.follow(&path, |text| {
                let _ = line.send(text.to_owned());
                let enough = text.contains("enough");
                if enough {
                    Err(controlplane::client::Error::Answer("enough".into()))
                } else {
                    Ok(())
                }
            })
        });
        let first = lines.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(first.contains(expected) && first.ends_with('\n'), "{first}");
        rig.server_is("dns", "dns1", "down", "up", "enough");
        assert!(thread.join().unwrap().unwrap_err().to_string().contains("enough"));
    }
    let refused = ctl(&rig, &["--server", "x", "--service", "y", "--follow"]).follows().unwrap();
    let refused = ctl(&rig, &["--follow"]).follow(&refused.replace("service=y&", ""), |_| Ok(()));
    assert!(refused.unwrap_err().to_string().contains("service"));
}
