//! Health checks from the operator's side: what is told of servers, and what workers are given.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use controlplane::testing::Manner;
use dataplane::snapshot::{Admission, Protocol, ServerId, Service};
use serde_json::{Value, json};

use crate::rig::{CONFIGURATION, Rig, Worker, wait_until};

const WEB: &str = "/api/v1/services/web";
const WEB1: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11)), 80);
const WEB2: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 12)), 80);

/// A pipe that nobody reads, in the place of a file that is to be written: a disk that hangs until this is dropped.
struct HangingFile(PathBuf);

impl HangingFile {
    fn new(path: PathBuf) -> Self {
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        Self(path)
    }
}

impl Drop for HangingFile {
    fn drop(&mut self) {
        let reader = File::options().read(true).write(true).open(&self.0); // which never waits
        let _ = fs::remove_file(&self.0);
        drop(reader); // whoever was waiting for one fails now
    }
}

/// Every 100 ms, and two answers count.
fn quick() -> Value {
    json!({ "type": "connect", "interval": "100ms", "timeout": "50ms", "port": 80 })
}

/// The configuration with its servers asked.
fn checked(settings: &Value) -> Rig {
    asking(Rig::start(), settings)
}

fn asking(rig: Rig, settings: &Value) -> Rig {
    let mut change = json!({ "check": quick() });
    change.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let answer = rig.tell("PATCH", WEB, &change);
    assert_eq!(answer.status, 200, "{}", answer.text());
    rig
}

fn web(rig: &Rig) -> Value {
    rig.ask("GET", "/api/v1/status").json()["services"][0].clone()
}

fn actual(rig: &Rig, server: usize) -> String {
    web(rig)["servers"][server]["actual"].as_str().unwrap().to_owned()
}

fn wait_for(rig: &Rig, server: usize, state: &str) {
    wait_until(&format!("server {server} is {state}"), || actual(rig, server) == state);
}

/// What a worker knows of the service at this address.
fn service<T>(worker: &mut Worker, address: [u8; 4], of: impl FnOnce(&Service) -> T) -> T {
    let services = &worker.reader.current().services;
    of(services.at(Ipv4Addr::from(address).into(), Protocol::Tcp, 80).unwrap())
}

/// How many servers take new flows.
fn candidates(rig: &mut Rig) -> usize {
    let worker = &mut rig.worker;
    service(worker, [10, 0, 0, 100], |service| service.candidates.servers().len())
}

#[test]
fn a_server_that_stops_is_out_within_interval_times_fall_and_back_when_it_starts() {
    let mut rig = checked(&json!({}));
    wait_for(&rig, 0, "up");
    wait_until("both take new flows", || candidates(&mut rig) == 2);
    let mut is_out_in_time = || {
        rig.script.set(WEB1, Manner::Accepts);
        wait_until("both take new flows", || candidates(&mut rig) == 2);
        rig.script.set(WEB1, Manner::Refuses);
        let stopped = Instant::now();
        wait_until("one takes new flows", || candidates(&mut rig) == 1);
        let took = stopped.elapsed();
        let published = rig.script.asked(WEB1).last().unwrap().elapsed();
        println!("out after {took:?}, {published:?} from verdict to snapshot");
        took < Duration::from_millis(2 * 100 + 200) && published < Duration::from_millis(100)
    };
    // Others may need the machine, too.
    assert!((0..3).any(|_| is_out_in_time()), "three times late");
    wait_for(&rig, 0, "down");
    let web = web(&rig);
    let server = &web["servers"][0];
    assert_eq!(server["reason"], "connect to 10.0.0.11:80 refused, 2 of 2");
    assert_eq!(server["wanted"], "online");
    assert!(server["since"].as_str().unwrap().ends_with('Z'), "{server}");
    rig.script.set(WEB1, Manner::Accepts);
    wait_until("both take new flows", || candidates(&mut rig) == 2);
    wait_for(&rig, 0, "up");
    assert_eq!(self::web(&rig)["servers"][0].get("reason"), None);
}

/// HC-18, LG-01.
#[test]
fn every_change_is_an_event_with_its_reason() {
    let rig = checked(&json!({}));
    wait_for(&rig, 0, "up");
    rig.script.set(WEB1, Manner::Refuses);
    wait_for(&rig, 0, "down");
    let events = rig.ask("GET", "/api/v1/events?limit=100").json();
    let text = events.to_string();
    let all = events.as_array().expect("a list").clone();
    let of = |new: &str| {
        let found = all.iter().find(|event| event["new"] == new && event["server"] == "web1");
        found.unwrap_or_else(|| panic!("{new} in {text}")).clone()
    };
    assert_eq!(of("closing")["old"], "up");
    assert_eq!(of("down")["old"], "closing");
    assert_eq!(of("closing")["reason"], "connect to 10.0.0.11:80 refused, 2 of 2");
}

/// HC-21.
#[test]
fn a_drain_reaches_the_workers_in_less_than_a_tenth_of_a_second() {
    let mut rig = Rig::start();
    assert_eq!(candidates(&mut rig), 2);
    let mut takes = |action: &'static str, expected| {
        let door = rig.door();
        let begin = Instant::now();
        let path = format!("{WEB}/servers/web1/{action}");
        let asking = thread::spawn(move || door.ask("POST", &path).status);
        wait_until(action, || candidates(&mut rig) == expected);
        let took = begin.elapsed();
        assert_eq!(asking.join().unwrap(), 200, "{action}");
        took
    };
    for action in ["drain", "halt"] {
        // Others may need the machine, too.
        let times = [(); 3].map(|()| [takes(action, 1), takes("online", 2)]);
        let best = |which: usize| times.iter().map(|it| it[which]).min();
        let limit = Some(Duration::from_millis(100));
        assert!(best(0) < limit && best(1) < limit, "{action}, online: {times:?}");
    }
}

#[test]
fn who_was_down_before_a_restart_is_down_after_it() {
    let rig = checked(&json!({}));
    wait_for(&rig, 0, "up");
    rig.script.set(WEB1, Manner::Refuses);
    wait_for(&rig, 0, "down");
    let file = rig.state().join("health.json");
    wait_until("it is written down", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("10.0.0.11"))
    });
    let (directory, port) = rig.stop();
    let mut rig = Rig::restarted(directory, port);
    // In this run the server is well from the start, but has to pass twice.
    let first = actual(&rig, 0);
    wait_for(&rig, 0, "up");
    wait_until("both take new flows", || candidates(&mut rig) == 2);
    assert!(first == "down" || rig.script.asked(WEB1).len() >= 2, "{first}");
    let events = rig.node().events().newest(100);
    let up = events.iter().find(|event| {
        event.change.subject.to_string().contains("web1") && event.change.new == "up"
    });
    assert_eq!(up.unwrap().change.old, "down");
}

#[test]
fn a_server_that_fails_is_out_in_time_while_the_disk_hangs_and_is_written_down_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    fs::create_dir(&state).unwrap();
    let hanging = HangingFile::new(state.join("health.json.new"));
    let mut rig = asking(Rig::in_directory(directory, CONFIGURATION), &json!({}));
    let hanging = hanging; // no longer than the rig, which waits for its threads
    wait_until("both take new flows", || candidates(&mut rig) == 2);
    let file = state.join("health.json");
    // Longer than it takes until something is to be written down.
    thread::sleep(Duration::from_millis(1500));
    let times = [(WEB2, 1), (WEB1, 0)].map(|(server, left)| {
        rig.script.set(server, Manner::Refuses);
        let stopped = Instant::now();
        wait_until("it takes no new flows", || candidates(&mut rig) == left);
        stopped.elapsed()
    });
    // Others may need the machine, too.
    assert!(times.iter().min() < Some(&Duration::from_millis(2 * 100 + 200)), "{times:?}");
    assert!(!file.exists());

    drop(hanging);
    wait_until("it is written down", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        text.contains("10.0.0.11") && text.contains("10.0.0.12")
    });
}

/// ST-06, ST-08: the page is the control plane's, and only where servers fail.
#[test]
fn a_page_answers_when_all_servers_have_failed() {
    let mut rig = checked(&json!({}));
    let has_page = |rig: &mut Rig| {
        service(&mut rig.worker, [10, 0, 0, 100], |service| {
            assert!(!service.options.page || service.candidates.servers().is_empty());
            service.options.page
        })
    };
    assert_eq!(web(&rig)["fallback"], false);
    rig.script.set(WEB1, Manner::Refuses);
    rig.script.set(WEB2, Manner::Refuses);
    wait_until("the page answers", || has_page(&mut rig));
    let told = web(&rig);
    assert_eq!((&told["state"], &told["fallback"]), (&json!("down"), &json!(true)));
    for server in ["web1", "web2"] {
        assert_eq!(rig.ask("POST", &format!("{WEB}/servers/{server}/drain")).status, 200);
    }
    wait_until("it does not", || !has_page(&mut rig));
    assert_eq!(web(&rig)["state"], "offline");
    for server in ["web1", "web2"] {
        assert_eq!(rig.ask("POST", &format!("{WEB}/servers/{server}/online")).status, 200);
    }
    wait_until("it answers again", || has_page(&mut rig));
    rig.script.set(WEB2, Manner::Accepts);
    wait_until("a server takes new flows", || candidates(&mut rig) == 1);
    assert!(!has_page(&mut rig));
}

#[test]
fn a_fallback_server_takes_new_flows_while_all_others_have_failed() {
    let mut rig = checked(&json!({ "fallback": { "address": "10.0.0.90" } }));
    wait_until("both take new flows", || candidates(&mut rig) == 2);
    rig.script.set(WEB1, Manner::Refuses);
    rig.script.set(WEB2, Manner::Refuses);
    let fallback = |rig: &mut Rig| {
        let servers = service(&mut rig.worker, [10, 0, 0, 100], |service| {
            service.candidates.servers().iter().map(|&(id, _)| id).collect::<Vec<_>>()
        });
        let snapshot = rig.worker.reader.current();
        let address = |id| snapshot.server(id).unwrap().address.to_string();
        servers.into_iter().map(address).collect::<Vec<_>>()
    };
    wait_until("the fallback takes them", || fallback(&mut rig) == ["10.0.0.90"]);
    rig.script.set(WEB1, Manner::Accepts);
    wait_until("web1 takes them again", || fallback(&mut rig) == ["10.0.0.11"]);
    let snapshot = rig.worker.reader.current();
    let stands_by =
        snapshot.servers.iter().flatten().find(|it| it.address.to_string() == "10.0.0.90");
    assert_eq!(stands_by.unwrap().admission, Admission::Draining, "it keeps what it has");
}

/// ST-12.
#[test]
fn the_next_priority_takes_over_when_the_first_fails() {
    let rig = checked(&json!({}));
    let second = json!({ "priority": 2 });
    assert_eq!(rig.tell("PATCH", &format!("{WEB}/servers/web2"), &second).status, 200);
    let mut rig = rig;
    let first = |rig: &mut Rig| {
        let id = service(&mut rig.worker, [10, 0, 0, 100], |service| {
            service.candidates.servers().first().map(|&(id, _)| id)
        });
        let snapshot = rig.worker.reader.current();
        id.map(|id| snapshot.server(id).unwrap().address.to_string())
    };
    wait_until("web1 is first", || first(&mut rig).as_deref() == Some("10.0.0.11"));
    rig.script.set(WEB1, Manner::Refuses);
    wait_until("web2 takes over", || first(&mut rig).as_deref() == Some("10.0.0.12"));
    rig.script.set(WEB1, Manner::Accepts);
    wait_until("web1 is back", || first(&mut rig).as_deref() == Some("10.0.0.11"));
}

#[test]
fn a_server_that_comes_back_by_its_check_gets_its_weight_little_by_little() {
    let mut rig = checked(&json!({ "slow_start": "60s" }));
    wait_until("both take new flows", || candidates(&mut rig) == 2);
    let weights = |rig: &mut Rig| {
        service(&mut rig.worker, [10, 0, 0, 100], |service| {
            service.candidates.servers().iter().map(|&(_, weight)| weight).collect::<Vec<_>>()
        })
    };
    assert_eq!(
        weights(&mut rig),
        [100, 50],
        "whoever is asked for the first time comes from nowhere"
    );
    rig.script.set(WEB1, Manner::Refuses);
    wait_until("one takes new flows", || candidates(&mut rig) == 1);
    rig.script.set(WEB1, Manner::Accepts);
    wait_until("both take new flows", || candidates(&mut rig) == 2);
    let [.., web1] = weights(&mut rig)[..] else { panic!() };
    assert!((10..20).contains(&web1), "{web1}");
}

#[test]
fn the_control_threads_longest_gap_is_told() {
    let rig = Rig::start();
    thread::sleep(Duration::from_millis(50));
    let status = rig.ask("GET", "/api/v1/status").json();
    let gap = status["control_longest_gap"].as_f64().unwrap();
    assert!(gap > 0.0 && gap < 1.0, "{gap}");
    let metrics = rig.ask("GET", "/metrics");
    for name in [
        "sluice_control_longest_gap_seconds ",
        "sluice_checks_total ",
        "sluice_checks_failed_total ",
        "sluice_checks_waiting ",
        "sluice_checks_late_seconds ",
    ] {
        assert!(metrics.text().contains(name), "{name}");
    }
}

fn identity(rig: &mut Rig, address: &str) -> ServerId {
    let servers = &rig.worker.reader.current().servers;
    let found = servers.iter().flatten().find(|it| it.address.to_string() == address);
    found.unwrap().id
}

#[test]
fn how_long_handshakes_take_is_told_of_each_server_and_of_their_service() {
    let mut rig = Rig::start();
    let told = |rig: &Rig| {
        let service = web(rig);
        [&service["servers"][0], &service["servers"][1], &service]
            .map(|it| it["handshake_ms"].as_f64())
    };
    assert_eq!(candidates(&mut rig), 2);
    assert_eq!(told(&rig), [None; 3]);
    for (address, handshakes, milliseconds) in [("10.0.0.11", 3, 10), ("10.0.0.12", 1, 6)] {
        let id = identity(&mut rig, address);
        let signals = rig.worker.counters.signals(id);
        signals.handshakes.add(handshakes);
        signals.handshake_time.add(milliseconds);
    }
    wait_until("they are counted", || told(&rig)[2].is_some());
    assert_eq!(told(&rig), [Some(3.33), Some(6.0), Some(4.0)]);
}

/// What connections tell, without a check.
#[test]
fn a_server_that_refuses_its_clients_is_left_out_for_a_while() {
    let mut rig = Rig::start();
    let passive = json!({ "passive": { "unanswered": 3 } });
    let answer = rig.tell("PATCH", WEB, &passive);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(candidates(&mut rig), 2);
    let id = identity(&mut rig, "10.0.0.11");
    wait_until("one takes new flows", || {
        rig.worker.counters.signals(id).refused.add(1); // the first look knows nothing
        candidates(&mut rig) == 1
    });
    let server = web(&rig)["servers"][0].clone();
    assert!(["closing", "down"].contains(&server["actual"].as_str().unwrap()), "{server}");
    assert!(server["reason"].as_str().unwrap().contains("refused"), "{server}");
}
