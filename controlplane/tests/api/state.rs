//! What a node says about itself, and what it does with frames.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use dataplane::counters::Reason;
use dataplane::moment::Moment;
use dataplane::punt::{Command, Copied, Event, FlowFilter, FlowReport, FlowState};
use dataplane::snapshot::{InterfaceId, Protocol, ServerId, ServiceId};
use dataplane::wire::{Address, Mac};
use serde_json::{Value, json};

use crate::rig::{CONFIGURATION, MACS, Reply, Rig, Worker, wait_for_the_unreachable, wait_until};

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// The identities that the snapshot gives the servers of the service at an address.
fn servers_at(worker: &mut Worker, address: [u8; 4], port: u16) -> (ServiceId, Vec<ServerId>) {
    let snapshot = worker.reader.current();
    let service =
        snapshot.services.at(Ipv4Addr::from(address).into(), Protocol::Tcp, port).unwrap();
    let servers = service.candidates.servers().iter().map(|&(id, _)| id).collect();
    (service.id, servers)
}

fn server(rig: &Rig, service: usize, server: usize) -> Value {
    rig.ask("GET", "/api/v1/status").json()["services"][service]["servers"][server].clone()
}

#[test]
fn status_tells_the_node_its_interfaces_and_every_server() {
    let rig = Rig::start();
    wait_for_the_unreachable(&rig);
    let status = rig.ask("GET", "/api/v1/status").json();
    assert_eq!(status["node"], "lb1");
    assert_eq!(status["role"], "active");
    assert_eq!(status["buffers"], json!({ "capacity": 1024, "available": 1000 }));
    let wan = &status["interfaces"][0];
    assert_eq!(wan["name"], "wan");
    assert_eq!(wan["mac"], MACS[0].to_string());
    assert_eq!(wan["addresses"], json!(["10.0.0.2/24"]));
    assert_eq!(wan.get("link_local"), None, "it has no IPv6");
    assert_eq!(wan["gateway"], false);
    assert_eq!(wan.get("vlan"), None, "its frames carry no tag");
    assert_eq!((&wan["link_up"], &wan["received"]), (&json!(true), &json!(7)));
    let web = &status["services"][0];
    assert_eq!((&web["name"], &web["state"]), (&json!("web"), &json!("degraded")));
    assert_eq!(web["servers"][0]["actual"], "up", "its MAC address is configured");
    assert_eq!(web["servers"][1]["wanted"], "online");
    assert_eq!(web["servers"][1]["actual"], "unreachable", "nobody has answered ARP for it");
    assert!(web["servers"][1]["reason"].as_str().unwrap().contains("10.0.0.12"));
    let dns = &status["services"][1];
    assert_eq!((&dns["state"], &dns["mode"]), (&json!("down"), &json!("nat")));
    assert_eq!(dns["servers"][0]["port"], 5353);
    assert_eq!(rig.ask("GET", "/api/v1/interfaces").json(), status["interfaces"]);
}

#[test]
fn a_server_of_weight_nothing_drains() {
    let rig = Rig::start();
    for name in ["web1", "web2"] {
        let path = format!("/api/v1/services/web/servers/{name}");
        assert_eq!(rig.tell("PATCH", &path, &json!({ "weight": 0 })).status, 200);
    }
    let status = rig.ask("GET", "/api/v1/status").json();
    let web = &status["services"][0];
    assert_eq!(
        (&web["servers"][0]["wanted"], &web["servers"][0]["actual"]),
        (&json!("drain"), &json!("drain"))
    );
    assert_eq!(
        (&web["state"], &web["reason"]),
        (&json!("offline"), &json!("all its servers drain"))
    );
}

#[test]
fn what_is_wanted_of_a_server_is_kept_and_what_there_is_follows() {
    let rig = Rig::start();
    let web1 = "/api/v1/services/web/servers/web1";
    let post = |action: &str| rig.ask("POST", &format!("{web1}/{action}"));
    let told = |rig: &Rig| {
        let status = rig.ask("GET", "/api/v1/status").json();
        let server = &status["services"][0]["servers"][0];
        (server["wanted"].clone(), server["actual"].clone())
    };
    for (state, actual) in [("drain", "drain"), ("halt", "halt"), ("online", "up")] {
        let before = rig.ask("GET", "/api/v1/config").etag().to_owned();
        let answer = post(state);
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!(state)));
        assert_ne!(answer.etag(), before);
        assert_eq!(rig.ask("GET", web1).json()["state"], state);
        assert_eq!(told(&rig), (json!(state), json!(actual)));
    }
    rig.ask("POST", "/api/v1/services/web/servers/web9/drain").problem(404);
    rig.ask("POST", "/api/v1/services/web/servers/web1/stop").problem(404);
    rig.ask("GET", &format!("{web1}/drain")).problem(405);
    let off = json!({ "check": { "type": "off" }, "quiescent": false });
    assert_eq!(rig.tell("PATCH", "/api/v1/services/web", &off).status, 200);
    assert_eq!(told(&rig), (json!("online"), json!("halt")));
    let status = rig.ask("GET", "/api/v1/status").json();
    assert_eq!(status["services"][0]["servers"][0]["reason"], "its check is off");
    let off = json!({ "enabled": false });
    assert_eq!(rig.tell("PATCH", "/api/v1/services/web", &off).status, 200);
    let status = rig.ask("GET", "/api/v1/status").json();
    assert_eq!(status["services"][0]["reason"], "it is disabled");
}

#[test]
fn a_server_that_comes_back_gets_more_of_its_weight_by_and_by() {
    let mut rig = Rig::start();
    let service = "/api/v1/services/web";
    let slowly = json!({ "slow_start": "3s" });
    assert_eq!(rig.tell("PATCH", service, &slowly).status, 200);
    for action in ["drain", "online"] {
        let path = format!("{service}/servers/web1/{action}");
        assert_eq!(rig.ask("POST", &path).status, 200);
    }
    let mut weights = Vec::new();
    wait_until("it has all of its weight", || {
        let (_, servers) = servers_at(&mut rig.worker, [10, 0, 0, 100], 80);
        let snapshot = rig.worker.reader.current();
        let service = snapshot.server(servers[0]).unwrap().service;
        let candidates = &snapshot.services.service(service).unwrap().candidates;
        let [.., web1] = candidates.servers() else { panic!() };
        let heaviest = candidates.servers()[0].1;
        weights.push(if heaviest == 100 { 100 } else { web1.1 });
        heaviest == 100
    });
    weights.dedup();
    assert_eq!(weights.first(), Some(&10), "{weights:?}");
    assert!(weights.len() > 2 && weights.is_sorted(), "{weights:?}");
}

#[test]
fn the_status_shows_the_timeouts_that_persistence_makes() {
    let rig = Rig::start();
    let timeouts =
        |rig: &Rig| rig.ask("GET", "/api/v1/status").json()["services"][0]["timeouts"].clone();
    let usual = json!({ "established": 900, "closing": 120, "udp": 300, "half_open": 30 });
    assert_eq!(timeouts(&rig), usual);
    let longer = json!({ "persistence": { "timeout": "6h" } });
    assert_eq!(rig.tell("PATCH", "/api/v1/services/web", &longer).status, 200);
    assert_eq!(timeouts(&rig)["established"], 21_600);
    assert_eq!(
        rig.ask("GET", "/api/v1/services/web").json()["persistence"]["timeout"],
        json!("6h")
    );
}

#[test]
fn the_rules_of_translation_are_shown_in_their_order() {
    let rig = Rig::start();
    assert_eq!(rig.ask("GET", "/api/v1/nat/rules").json(), json!([]));
    let mut config = rig.ask("GET", "/api/v1/config").json();
    config["interface"][1]["gateway"] = json!(true);
    config["nat"] = json!([
        { "kind": "masquerade", "out": "wan" },
        { "kind": "pair", "inside": "192.168.1.13", "outside": "10.0.0.45" },
    ]);
    assert_eq!(rig.tell("PUT", "/api/v1/config", &config).status, 200);
    assert_eq!(
        rig.ask("GET", "/api/v1/nat/rules").json(),
        json!([
            { "kind": "pair", "inside": "192.168.1.13", "outside": "10.0.0.45" },
            {
                "kind": "masquerade", "out": "wan", "from": ["192.168.1.0/24"],
                "source": ["10.0.0.2"],
            },
        ])
    );
}

#[test]
fn what_a_server_carries_is_its_own_and_stays_with_its_service() {
    let mut rig = Rig::start();
    let (_, servers) = servers_at(&mut rig.worker, [10, 0, 0, 100], 80);
    let counted = rig.worker.counters.server(servers[0]);
    counted.flows.add(3);
    counted.active.add(1);
    counted.closing.add(1);
    counted.packets.add(10);
    counted.bytes.add(1000);
    let web1 = server(&rig, 0, 0);
    assert_eq!((&web1["connections"], &web1["closing"]), (&json!(2), &json!(1)));
    assert_eq!(web1["totals"]["connections"], 3);
    assert_eq!(web1["totals"]["bytes"], 1000);

    // Another address makes another server of it, which begins at nothing.
    let patch = json!({ "address": "10.0.0.13" });
    rig.tell("PATCH", "/api/v1/services/web/servers/web1", &patch);
    let web1 = server(&rig, 0, 0);
    assert_eq!((&web1["connections"], &web1["totals"]["packets"]), (&json!(0), &json!(0)));
    let service = rig.ask("GET", "/api/v1/status").json()["services"][0].clone();
    assert_eq!(service["totals"]["packets"], 10, "the service has carried what it has carried");

    // Slots that are given away again begin at nothing too.
    for round in 0..4 {
        let patch = json!({ "address": format!("10.0.0.{}", 14 + round) });
        rig.tell("PATCH", "/api/v1/services/web/servers/web1", &patch);
        assert_eq!(server(&rig, 0, 0)["totals"]["packets"], 0);
    }
    let service = rig.ask("GET", "/api/v1/status").json()["services"][0].clone();
    assert_eq!(service["totals"]["packets"], 10);
}

#[test]
fn rates_are_per_second() {
    let mut rig = Rig::start();
    let (_, servers) = servers_at(&mut rig.worker, [10, 0, 0, 100], 80);
    let counters = rig.worker.counters.clone();
    let begin = Instant::now();
    let mut most = 0.0_f64;
    for _ in 0..300 {
        counters.server(servers[0]).packets.add(1);
        thread::sleep(Duration::from_millis(10));
        most = most.max(server(&rig, 0, 0)["rates"]["packets"].as_f64().unwrap());
    }
    let rate = 300.0 / begin.elapsed().as_secs_f64();
    assert!(most > rate / 2.0 && most < rate * 2.0, "{most} packets a second instead of {rate}");
}

#[test]
fn every_drop_reason_is_counted_and_explained() {
    let rig = Rig::start();
    rig.worker.counters.received.add(5);
    rig.worker.counters.transmitted.add(3);
    rig.worker.counters.drop_one(Reason::NoService);
    rig.worker.counters.drop_one(Reason::NoService);
    let counters = rig.ask("GET", "/api/v1/counters").json();
    let worker = &counters["workers"][0];
    assert_eq!((&worker["received"], &worker["dropped"]), (&json!(5), &json!(2)));
    let drops = worker["drops"].as_array().unwrap();
    assert_eq!(drops.len(), Reason::ALL.len());
    let found = drops.iter().find(|drop| drop["reason"] == "no_service").unwrap();
    assert_eq!(found["frames"], 2);
    assert!(found["explanation"].as_str().unwrap().contains("no virtual service"));
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let mut rig = Rig::start();
    wait_for_the_unreachable(&rig);
    rig.worker.counters.drop_one(Reason::FragmentOverlap);
    let (_, servers) = servers_at(&mut rig.worker, [10, 0, 0, 100], 80);
    rig.worker.counters.server(servers[0]).bytes.add(77);
    let answer = rig.ask("GET", "/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let mut families = HashSet::new();
    let mut samples = HashSet::new();
    for line in answer.text().lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()), "{name} is there twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else if !line.starts_with("# HELP ") {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            assert!(name.starts_with("sluice_") && families.contains(name), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(sample.to_owned()), "{sample} is there twice");
        }
    }
    for line in [
        "sluice_dropped_frames_total{worker=\"0\",reason=\"fragment_overlap\"} 1",
        "sluice_server_bytes_total{service=\"web\",server=\"web1\"} 77",
        "sluice_service_bytes_total{service=\"web\"} 77",
        "sluice_interface_received_frames_total{interface=\"wan\"} 7",
        "sluice_buffers_available 1000",
        "sluice_service_up{service=\"dns\"} 0",
        "sluice_flow_table_use{worker=\"0\"} 0",
    ] {
        assert!(answer.text().lines().any(|found| found == line), "{line}");
    }
    let drops = samples.iter().filter(|sample| sample.starts_with("sluice_dropped_frames")).count();
    assert_eq!(drops, Reason::ALL.len());
}

/// Asks while the test stands in for the worker.
fn flows(rig: &mut Rig, query: &str, answer: impl FnOnce(Command, &mut Worker)) -> Reply {
    let door = rig.door();
    let worker = &mut rig.worker;
    let mut answer = Some(answer);
    thread::scope(|scope| {
        let asked = scope.spawn(move || door.ask("GET", query));
        wait_until("the worker is asked", || match worker.commands.pop() {
            Ok(command) => {
                answer.take().unwrap()(command, worker);
                true
            }
            Err(_) => false,
        });
        asked.join().unwrap()
    })
}

fn flow(service: ServiceId, server: ServerId, port: u16) -> FlowReport {
    FlowReport {
        protocol: Protocol::Tcp,
        state: FlowState::Established,
        client: (CLIENT.into(), port),
        virtual_address: (Ipv4Addr::new(10, 0, 0, 101).into(), 53),
        service,
        server,
        created: Moment::from_nanos(1_000_000_000),
        last_seen: Moment::from_nanos(3_000_000_000),
        now: Moment::from_nanos(3_500_000_000),
        packets: 12,
        bytes: 3456,
    }
}

#[test]
fn flows_are_the_workers_answers_with_names() {
    let mut rig = Rig::start();
    let (service, servers) = servers_at(&mut rig.worker, [10, 0, 0, 101], 53);
    let gone = ServerId::new(999, 0);
    let query = "/api/v1/flows?service=dns&server=dns1&client=192.0.2.9&limit=5";
    let reply = flows(&mut rig, query, |command, worker| {
        let Command::ListFlows { question, filter, limit } = command else {
            panic!("another question")
        };
        let FlowFilter { service: of, server: at, client } = filter;
        assert_eq!((of, at, client), (Some(service), Some(servers[0]), Some(CLIENT.into())));
        assert!(limit >= 5);
        let stray =
            Event::Flow { question: question.wrapping_sub(1), flow: flow(service, gone, 1) };
        worker.events.push(stray).unwrap();
        for (server, port) in [(servers[0], 40000), (gone, 40001)] {
            let flow = flow(service, server, port);
            worker.events.push(Event::Flow { question, flow }).unwrap();
        }
        worker.events.push(Event::FlowsListed { question }).unwrap();
        worker.events.push(Event::FlowsListed { question }).unwrap(); // once too often
    });
    assert_eq!(reply.status, 200);
    let answer = reply.json();
    assert_eq!(answer["complete"], true);
    assert_eq!(
        answer["flows"][0],
        json!({
            "protocol": "tcp", "state": "established",
            "client": "192.0.2.9:40000", "virtual": "10.0.0.101:53", "real": "192.168.1.53:5353",
            "service": "dns", "server": "dns1",
            "age": 2.5, "idle": 0.5, "packets": 12, "bytes": 3456,
        })
    );
    let second = &answer["flows"][1];
    assert_eq!(second["client"], "192.0.2.9:40001");
    assert_eq!(second.get("server"), None, "a server that is gone has no name");
    assert_eq!(answer["flows"].as_array().unwrap().len(), 2);
}

#[test]
fn flows_of_both_families_are_found_by_their_clients() {
    let mut rig = Rig::start();
    let (service, servers) = servers_at(&mut rig.worker, [10, 0, 0, 101], 53);
    let client: Address = "2001:db8::9".parse().unwrap();
    let reply = flows(&mut rig, "/api/v1/flows?client=2001:db8::9", |command, worker| {
        let Command::ListFlows { question, filter, .. } = command else {
            panic!("another question")
        };
        assert_eq!(filter.client, Some(client));
        let virtual_address = ("2001:db8::101".parse().unwrap(), 80);
        let flow =
            FlowReport { client: (client, 40000), virtual_address, ..flow(service, servers[0], 1) };
        worker.events.push(Event::Flow { question, flow }).unwrap();
        worker.events.push(Event::FlowsListed { question }).unwrap();
    });
    let flow = reply.json()["flows"][0].clone();
    assert_eq!(flow["client"], "[2001:db8::9]:40000");
    assert_eq!(flow["virtual"], "[2001:db8::101]:80");
    rig.ask("GET", "/api/v1/flows?client=2001:db8::zz").problem(400);
}

#[test]
fn more_flows_than_asked_for_are_cut_off_and_said_to_be() {
    let mut rig = Rig::start();
    let (service, servers) = servers_at(&mut rig.worker, [10, 0, 0, 101], 53);
    let reply = flows(&mut rig, "/api/v1/flows?limit=2", |command, worker| {
        let Command::ListFlows { question, .. } = command else { panic!("another question") };
        for port in 0..100 {
            let flow = flow(service, servers[0], port);
            worker.events.push(Event::Flow { question, flow }).unwrap();
        }
        worker.events.push(Event::FlowsListed { question }).unwrap();
    });
    let answer = reply.json();
    assert_eq!(answer["complete"], false);
    assert_eq!(answer["flows"].as_array().unwrap().len(), 2);
}

#[test]
fn a_worker_that_does_not_finish_is_not_waited_for() {
    let mut rig = Rig::start();
    let (service, servers) = servers_at(&mut rig.worker, [10, 0, 0, 101], 53);
    let reply = flows(&mut rig, "/api/v1/flows", |command, worker| {
        let Command::ListFlows { question, .. } = command else { panic!("another question") };
        let flow = flow(service, servers[0], 1);
        worker.events.push(Event::Flow { question, flow }).unwrap();
    });
    let answer = reply.json();
    assert_eq!(answer["complete"], false);
    assert_eq!(answer["flows"].as_array().unwrap().len(), 1);
}

#[test]
fn too_many_listings_at_once_are_refused_and_then_taken_again() {
    let rig = Rig::start();
    let door = rig.door();
    let statuses: Vec<_> = thread::scope(|scope| {
        let ask = || door.ask("GET", "/api/v1/flows").status;
        let asked: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    assert_eq!(statuses.iter().filter(|&&status| status == 429).count(), 4);
}

#[test]
fn every_worker_is_asked_for_its_flows() {
    let mut rig = Rig::with_workers(3);
    let (service, servers) = servers_at(&mut rig.worker, [10, 0, 0, 101], 53);
    let door = rig.door();
    let (answer, workers) = thread::scope(|scope| {
        let asked = scope.spawn(move || door.ask("GET", "/api/v1/flows?limit=5").json());
        let mut workers = vec![&mut rig.worker];
        workers.extend(&mut rig.others);
        for (number, worker) in (0..).zip(&mut workers) {
            wait_until("the worker is asked", || match worker.commands.pop() {
                Ok(Command::ListFlows { question, limit, .. }) => {
                    assert!(limit >= 5, "it may have them all");
                    for port in 0..2 {
                        let flow = flow(service, servers[0], 1000 * number + port);
                        worker.events.push(Event::Flow { question, flow }).unwrap();
                    }
                    // One that says so twice has not spoken for another.
                    for _ in 0..2 {
                        worker.events.push(Event::FlowsListed { question }).unwrap();
                    }
                    true
                }
                _ => false,
            });
        }
        (asked.join().unwrap(), workers.len())
    });
    assert_eq!(workers, 3);
    assert_eq!(answer["complete"], false, "there are six");
    let flows = answer["flows"].as_array().unwrap();
    let clients: HashSet<_> = flows.iter().map(|flow| flow["client"].as_str().unwrap()).collect();
    assert_eq!(clients.len(), 5);
    assert!(clients.contains("192.0.2.9:1001") && clients.contains("192.0.2.9:0"), "{clients:?}");
}

#[test]
fn counts_of_several_workers_are_shown_apart_and_summed_up() {
    let mut rig = Rig::with_workers(2);
    let (_, servers) = servers_at(&mut rig.worker, [10, 0, 0, 100], 80);
    for (worker, flows) in [(&rig.worker, 10), (&rig.others[0], 85)] {
        worker.counters.server(servers[0]).packets.add(100);
        worker.counters.flow_capacity.add(100);
        worker.counters.flows.add(flows);
    }
    rig.others[0].counters.drop_one(Reason::FlowTableFull);
    let status = rig.ask("GET", "/api/v1/status").json();
    assert_eq!(status["services"][0]["totals"]["packets"], 200);
    assert_eq!(status["flows"], json!({ "used": 95, "capacity": 200 }));
    assert_eq!(status["flow_table_use"], 0.85);
    let counters = rig.ask("GET", "/api/v1/counters").json();
    assert_eq!(counters["workers"][1]["flows"], json!({ "used": 85, "capacity": 100 }));
    let metrics = rig.ask("GET", "/metrics");
    for line in [
        "sluice_flow_table_use{worker=\"0\"} 0.1",
        "sluice_flow_table_use{worker=\"1\"} 0.85",
        "sluice_dropped_frames_total{worker=\"1\",reason=\"flow_table_full\"} 1",
        "sluice_flows{worker=\"0\"} 10",
        "sluice_flow_capacity{worker=\"1\"} 100",
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line}");
    }
}

#[test]
fn the_node_is_ready_when_every_worker_is() {
    let mut rig = Rig::with_workers(2);
    rig.worker.reader.current();
    assert_eq!(rig.ask("GET", "/readyz").status, 503);
    wait_until("both have read the newest", || {
        rig.worker.reader.current();
        rig.others[0].reader.current();
        rig.ask("GET", "/readyz").status == 200
    });
}

#[test]
fn frames_from_any_worker_are_heard_and_answers_go_to_the_first_with_room() {
    let mut rig = Rig::with_workers(3);
    // The first worker takes nothing: its ring holds 512, and the answers after those go to the second.
    let asked = arp(1, (STATION, [10, 0, 0, 9]), (Mac([0; 6]), [10, 0, 0, 100]), Mac::BROADCAST);
    for frame in 0..600 {
        let worker = &mut rig.others[frame % 2];
        wait_until("the ring has room", || {
            worker.punt.push(Copied::of(InterfaceId(0), &asked).unwrap()).is_ok()
        });
    }
    wait_until("every question is heard", || {
        rig.ask("GET", "/api/v1/counters").json()["control"]["arp_received"] == 600
    });
    wait_until("what is left is sent by the second", || rig.others[0].injected.slots() >= 88);
    assert_eq!(rig.worker.injected.slots(), 512);
    assert_eq!(rig.others[1].injected.slots(), 0);
    let control = rig.ask("GET", "/api/v1/counters").json()["control"].clone();
    assert_eq!(control["send_ring_full"], 0);
}

/// An ARP packet as RFC 826 draws it.
fn arp(operation: u16, from: (Mac, [u8; 4]), to: (Mac, [u8; 4]), destination: Mac) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(destination.0);
    frame.extend(from.0.0);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(from.0.0);
    frame.extend(from.1);
    frame.extend(to.0.0);
    frame.extend(to.1);
    frame
}

const STATION: Mac = Mac([2, 0, 0, 0, 0, 0x99]);

#[test]
fn who_asks_for_a_virtual_address_is_told_ours() {
    let mut rig = Rig::start();
    let asked = arp(1, (STATION, [10, 0, 0, 9]), (Mac([0; 6]), [10, 0, 0, 100]), Mac::BROADCAST);
    rig.worker.punt.push(Copied::of(InterfaceId(0), &asked).unwrap()).ok().unwrap();
    let expected = arp(2, (MACS[0], [10, 0, 0, 100]), (STATION, [10, 0, 0, 9]), STATION);
    wait_until("the answer is to be sent", || match rig.worker.injected.pop() {
        Ok(sent) => sent.interface == InterfaceId(0) && sent.bytes().starts_with(&expected),
        Err(_) => false,
    });
    let control = rig.ask("GET", "/api/v1/counters").json()["control"].clone();
    assert_eq!(control["arp_received"], 1);
    assert!(control["sent"].as_u64().unwrap() >= 1);
}

#[test]
fn a_server_that_answers_arp_is_in_the_next_snapshot() {
    let mut rig = Rig::start();
    let server: Ipv4Addr = [10, 0, 0, 12].into();
    wait_until("the server is asked for", || match rig.worker.injected.pop() {
        Ok(sent) => sent.bytes().get(38..42) == Some(&server.octets()[..]),
        Err(_) => false,
    });
    let answer = arp(2, (STATION, server.octets()), (MACS[0], [10, 0, 0, 2]), MACS[0]);
    rig.worker.punt.push(Copied::of(InterfaceId(0), &answer).unwrap()).ok().unwrap();
    wait_until("the workers know it", || {
        rig.worker.reader.current().neighbours.get(&(InterfaceId(0), server.into()))
            == Some(&STATION)
    });
    let (_, servers) = servers_at(&mut rig.worker, [10, 0, 0, 100], 80);
    let snapshot = rig.worker.reader.current();
    assert!(servers.iter().all(|&id| snapshot.server(id).unwrap().hop.mac.is_some()));
    let neighbours = rig.ask("GET", "/api/v1/neighbours").json();
    let found = neighbours.as_array().unwrap().iter().find(|one| one["address"] == "10.0.0.12");
    let found = found.expect("the server is a neighbour");
    assert_eq!(found["mac"], STATION.to_string());
    assert_eq!((&found["interface"], &found["state"]), (&json!("wan"), &json!("reachable")));
}

#[test]
fn an_echo_request_is_answered_where_it_came_from() {
    let mut rig = Rig::start();
    let mut request = Vec::new();
    request.extend(MACS[0].0);
    request.extend(STATION.0);
    request.extend([0x08, 0x00]);
    // IPv4, 28 bytes, from 10.0.0.9 to 10.0.0.100, then an echo request with identifier 1.
    let mut ip = vec![0x45, 0, 0, 28, 0, 7, 0, 0, 64, 1, 0, 0, 10, 0, 0, 9, 10, 0, 0, 100];
    let mut icmp = vec![8, 0, 0, 0, 0, 1, 0, 1];
    for header in [&mut ip, &mut icmp] {
        let at = if header.len() == 20 { 10 } else { 2 };
        let words = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        let sum: u32 = words.sum();
        let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
        header[at..at + 2].copy_from_slice(&folded.to_be_bytes());
    }
    request.extend(&ip);
    request.extend(&icmp);
    rig.worker.punt.push(Copied::of(InterfaceId(0), &request).unwrap()).ok().unwrap();
    wait_until("the answer is to be sent", || match rig.worker.injected.pop() {
        Ok(sent) => {
            let bytes = sent.bytes();
            bytes[..6] == STATION.0 && bytes.get(34) == Some(&0) && bytes[26..30] == [10, 0, 0, 100]
        }
        Err(_) => false,
    });
    assert_eq!(rig.ask("GET", "/api/v1/counters").json()["control"]["echoes_answered"], 1);
}

/// Captured between two Linux stations: from 2001:db8:1::2 to 2001:db8:1::7, with its first bytes of data alone.
const ECHO_REQUEST: &str = "02000000007702000000000186dd600a83cc00403a4020010db8000100000000000000000002\
    20010db80001000000000000000000078000448533a90001abf1006b000000003da903000000000010111213141516171819\
    1a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637";
/// Captured in the same place: 2001:db8:1::7 is mine, nobody asked.
const ADVERTISEMENT: &str = "33330000000102000000007786dd6000000000203aff20010db8000100000000000000000007\
    ff0200000000000000000000000000018800f8a62000000020010db80001000000000000000000070201020000000077";

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let pair = |at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).unwrap();
    (0..hexadecimal.len()).step_by(2).map(pair).collect()
}

/// From fe80::ff:fe00:99 at [`STATION`]: that address is mine, as you asked; without a checksum.
const ANSWER: &str = "02000000000102000000009986dd6000000000203afffe80000000000000000000fffe000099\
    fe80000000000000000000fffe0000018800000060000000fe80000000000000000000fffe0000990201020000000099";

#[test]
fn a_station_that_a_worker_asks_for_over_ipv6_is_in_the_next_snapshot() {
    let both = r#"addresses = ["10.0.0.2/24", "2001:db8::2/64"]"#;
    let configuration = CONFIGURATION.replace(r#"addresses = ["10.0.0.2/24"]"#, both);
    let mut rig = Rig::with_workers_and(2, &configuration);
    assert_eq!(rig.ask("GET", "/api/v1/interfaces").json()[0]["link_local"], "fe80::ff:fe00:1");
    let station: Address = "fe80::ff:fe00:99".parse().unwrap();
    let question = Event::Unresolved { interface: InterfaceId(0), address: station };
    rig.others[0].events.push(question).unwrap();
    // Our own announcements come first.
    wait_until("the station is asked for", || match rig.worker.injected.pop() {
        Ok(sent) => {
            let sent = sent.bytes();
            sent[..6] == [0x33, 0x33, 0xff, 0, 0, 0x99] && sent.get(54) == Some(&135)
        }
        Err(_) => false,
    });
    let mut answer = bytes(ANSWER);
    // RFC 4443 section 2.3, slowly.
    let words = answer[22..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum = words.sum::<u32>() + 32 + 58;
    let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
    answer[56..58].copy_from_slice(&folded.to_be_bytes());
    rig.others[0].punt.push(Copied::of(InterfaceId(0), &answer).unwrap()).ok().unwrap();
    wait_until("the workers know it", || {
        let neighbours = &rig.worker.reader.current().neighbours;
        neighbours.get(&(InterfaceId(0), station)) == Some(&STATION)
    });
    let neighbours = rig.ask("GET", "/api/v1/neighbours").json();
    let found =
        neighbours.as_array().unwrap().iter().find(|it| it["address"] == "fe80::ff:fe00:99");
    let found = found.expect("the station is a neighbour");
    assert_eq!((&found["mac"], &found["kind"]), (&json!(STATION.to_string()), &json!("dynamic")));
    let control = rig.ask("GET", "/api/v1/counters").json()["control"].clone();
    assert_eq!((&control["nd_received"], &control["nd_malformed"]), (&json!(1), &json!(0)));
}

#[test]
fn an_echo_request_over_ipv6_is_answered_and_neighbour_discovery_is_counted_apart() {
    let mut rig = Rig::start();
    for frame in [ECHO_REQUEST, ADVERTISEMENT] {
        rig.worker.punt.push(Copied::of(InterfaceId(0), &bytes(frame)).unwrap()).ok().unwrap();
    }
    let request = bytes(ECHO_REQUEST);
    wait_until("the answer is to be sent", || match rig.worker.injected.pop() {
        Ok(sent) => {
            let sent = sent.bytes();
            sent[..6] == request[6..12] && sent.get(54) == Some(&129) && sent[58..] == request[58..]
        }
        Err(_) => false,
    });
    wait_until("both are counted", || {
        let control = rig.ask("GET", "/api/v1/counters").json()["control"].clone();
        control["nd_received"] == 1 && control["echoes_answered"] == 1
    });
    let neighbours = rig.ask("GET", "/api/v1/neighbours").json();
    assert!(neighbours.as_array().unwrap().iter().all(|one| one["address"] != "2001:db8:1::7"));
}

#[test]
fn routes_are_listed_the_longest_prefix_first() {
    let rig = Rig::start();
    let routes = rig.ask("GET", "/api/v1/routes").json();
    assert_eq!(
        routes,
        json!([
            { "to": "10.0.0.0/24", "interface": "wan" },
            { "to": "192.168.1.0/24", "interface": "lan" },
            { "to": "0.0.0.0/0", "interface": "wan", "via": "10.0.0.1" },
        ])
    );
}

#[test]
fn the_description_covers_every_route_and_refers_to_nothing_that_is_missing() {
    let rig = Rig::start();
    let description = rig.ask("GET", "/api/openapi.json").json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, methods) in [
        ("/api/v1/config", &["get", "put"][..]),
        ("/api/v1/config/validate", &["post"]),
        ("/api/v1/services", &["get", "post"]),
        ("/api/v1/services/{service}", &["get", "put", "patch", "delete"]),
        ("/api/v1/services/{service}/servers", &["get", "post"]),
        ("/api/v1/services/{service}/servers/{server}", &["get", "put", "patch", "delete"]),
        ("/api/v1/status", &["get"]),
        ("/api/v1/counters", &["get"]),
        ("/api/v1/flows", &["get"]),
        ("/api/v1/explain", &["post"]),
        ("/api/v1/neighbours", &["get"]),
        ("/api/v1/interfaces", &["get"]),
        ("/api/v1/routes", &["get"]),
        ("/metrics", &["get"]),
        ("/healthz", &["get"]),
        ("/readyz", &["get"]),
    ] {
        for method in methods {
            let described = &description["paths"][path][method];
            assert!(described["responses"].is_object(), "{method} {path}");
        }
    }
    let mut references = Vec::new();
    collect(&description, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("it points into the description");
        assert!(description.pointer(pointer).is_some(), "{reference}");
    }
    let schemas = &description["components"]["schemas"];
    assert!(schemas["Service"]["properties"]["scheduler"].is_object(), "as configured");
    assert!(schemas["ServiceStatus"].to_string().contains("\"state\""), "as it is");
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                references.push(reference.clone());
            }
            members.values().for_each(|member| collect(member, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}

#[test]
fn the_page_to_try_the_api_needs_nothing_from_elsewhere() {
    let rig = Rig::start();
    let page = rig.ask("GET", "/api/docs/");
    assert_eq!(page.status, 200);
    let mut parts = 0;
    for attribute in ["src=\"", "href=\""] {
        for rest in page.text().split(attribute).skip(1) {
            let target = rest.split('"').next().unwrap();
            assert!(!target.contains("//"), "{target} lies elsewhere");
            let path = format!("/api/docs/{}", target.trim_start_matches("./"));
            assert_eq!(rig.ask("GET", &path).status, 200, "{path}");
            parts += 1;
        }
    }
    assert!(parts >= 4);
    let settings = rig.ask("GET", "/api/docs/swagger-initializer.js");
    assert!(settings.text().contains("/api/openapi.json"));
}
