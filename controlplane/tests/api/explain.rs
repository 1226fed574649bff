//! What would become of a packet: what the workers are asked, and what is made of their answers.

use std::net::Ipv4Addr;
use std::thread;

use clap::Parser;
use controlplane::client::Ctl;
use dataplane::counters::Reason;
use dataplane::explain::{Carried, Decision, Owner};
use dataplane::parse::{Flow, Packet, Part};
use dataplane::punt::{Command, Copied, Event, FlowState};
use dataplane::snapshot::{Admission, InterfaceId, Protocol, Scheduler, ServerId};
use dataplane::wire::{Address, Mac, tcp};
use serde_json::{Value, json};

use crate::rig::{MACS, Rig, Worker, wait_until};

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const WEB: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);

fn supposed() -> Value {
    json!({ "protocol": "tcp", "from": "192.0.2.9:40000", "to": "10.0.0.100:80", "interface": "wan" })
}

/// Waits until the worker is asked; gives the question's number and the frame.
fn asked(worker: &mut Worker) -> (u32, Copied) {
    let mut question = None;
    wait_until("the worker is asked", || match worker.commands.pop() {
        Ok(Command::Explain { question: number, frame }) => {
            question = Some((number, frame));
            true
        }
        Ok(other) => panic!("another question: {other:?}"),
        Err(_) => false,
    });
    question.unwrap()
}

fn says(worker: &mut Worker, question: u32, decisions: &[Decision]) {
    for &decision in decisions {
        worker.events.push(Event::Decided { question, decision }).unwrap();
    }
    worker.events.push(Event::Explained { question }).unwrap();
}

/// Supposes a packet while the test stands in for every worker: each says what `told` gives for its number.
fn explained<T: Send>(
    rig: &mut Rig,
    ask: impl FnOnce() -> T + Send,
    told: impl Fn(usize) -> Vec<Decision>,
) -> (T, Copied) {
    thread::scope(|scope| {
        let answer = scope.spawn(ask);
        let mut frames = Vec::new();
        let workers = std::iter::once(&mut rig.worker).chain(&mut rig.others);
        for (number, worker) in workers.enumerate() {
            let (question, frame) = asked(worker);
            says(worker, question, &told(number));
            frames.push(frame);
        }
        (answer.join().unwrap(), frames.remove(0))
    })
}

/// What the worker would say of a new connection to `web`.
fn new_connection(rig: &mut Rig) -> Vec<Decision> {
    let snapshot = rig.worker.reader.current();
    let service = snapshot.services.at(WEB.into(), Protocol::Tcp, 80).unwrap();
    let server = service.candidates.servers()[0].0;
    let flow = Flow {
        protocol: Protocol::Tcp,
        source: CLIENT.into(),
        source_port: 40000,
        destination: WEB.into(),
        destination_port: 80,
    };
    let flags = tcp::Flags(tcp::Flags::SYN);
    let packet =
        Packet { flow, flags, answers: false, length: 40, transport: 20, part: Part::Whole };
    let address = Address::from(Ipv4Addr::new(10, 0, 0, 11));
    let other = Mac([2, 0, 0, 0, 0, 0x11]);
    vec![
        Decision::Arrived { interface: InterfaceId(0), vlan: None },
        Decision::Read(Carried::Flow(packet)),
        Decision::Belongs(Owner::Service(service.id)),
        Decision::NewFlow { in_mid_flow: false },
        Decision::Scheduled {
            server,
            scheduler: Scheduler::WeightedRoundRobin,
            weight: 100,
            candidates: 2,
        },
        Decision::Server { server, address, admission: Admission::Open, connections: 3, most: 0 },
        Decision::DirectReturn,
        Decision::Readdressed { source: (other, MACS[0]), destination: (MACS[0], other) },
        Decision::Leaves { interface: InterfaceId(0), vlan: None, next: address, length: 40 },
    ]
}

#[test]
fn each_decision_is_told_in_words_and_as_data_with_names() {
    let mut rig = Rig::start();
    let told = new_connection(&mut rig);
    let door = rig.door();
    let ask = || door.tell("POST", "/api/v1/explain", &supposed());
    let (reply, frame) = explained(&mut rig, ask, |_| told.clone());
    assert_eq!(reply.status, 200, "{}", reply.text());
    let [client, ours] = [Mac([2, 0, 0, 0, 0, 0x11]), MACS[0]].map(|mac| mac.to_string());
    assert_eq!(
        reply.json(),
        json!({ "worker": 0, "decisions": [
            { "decision": "arrived", "text": "comes in on interface 0", "interface": "wan" },
            { "decision": "read",
              "text": "carries TCP from 192.0.2.9:40000 to 10.0.0.100:80 SYN, 40 bytes",
              "content": "flow", "protocol": "tcp", "from": "192.0.2.9:40000",
              "to": "10.0.0.100:80", "flags": "syn", "length": 40 },
            { "decision": "belongs", "text": told[2].to_string(),
              "owner": "service", "service": "web" },
            { "decision": "new_flow", "text": "begins a new flow", "in_mid_flow": false },
            { "decision": "scheduled", "text": told[4].to_string(), "server": "web1",
              "scheduler": "wrr", "weight": 100, "candidates": 2 },
            { "decision": "server",
              "text": "server 10.0.0.11 takes new flows and has 3 connections",
              "server": "web1", "address": "10.0.0.11", "state": "up",
              "connections": 3, "most": 0 },
            { "decision": "direct_return", "text": told[6].to_string() },
            { "decision": "readdressed", "text": told[7].to_string(),
              "source": { "before": client, "after": ours },
              "destination": { "before": ours, "after": client } },
            { "decision": "leaves", "text": told[8].to_string(), "interface": "wan",
              "next": "10.0.0.11", "length": 40 },
        ] })
    );

    assert_eq!(frame.interface, InterfaceId(0));
    let bytes = frame.bytes();
    assert_eq!(bytes[..6], MACS[0].0);
    assert_eq!(
        (bytes[23], &bytes[26..30], &bytes[30..34]),
        (6, &CLIENT.octets()[..], &WEB.octets()[..])
    );
    assert_eq!(bytes[34..38], [40000u16.to_be_bytes(), 80u16.to_be_bytes()].concat());
    assert_eq!(bytes[47], tcp::Flags::SYN);
}

#[test]
fn the_rewrite_of_a_translated_packet_is_told_as_data() {
    let mut rig = Rig::start();
    let ends = |text: &str| (text.parse::<Address>().unwrap(), 5353);
    let client = ends("2001:db8::9");
    let translated = Decision::Translated {
        source: (client, client),
        destination: (ends("2001:db8::100"), ends("2001:db8:1::53")),
    };
    let told = vec![
        Decision::KnownFlow { server: ServerId::NONE, state: Some(FlowState::Established) },
        translated,
        Decision::Dropped(Reason::NoRoute),
    ];
    let packet = json!({
        "protocol": "udp", "from": "[2001:db8::9]:5353", "to": "[2001:db8::100]:5353",
        "interface": "lan",
    });
    let door = rig.door();
    let ask = || door.tell("POST", "/api/v1/explain", &packet).json();
    let (answer, frame) = explained(&mut rig, ask, |_| told.clone());
    assert_eq!((frame.interface, frame.bytes()[20]), (InterfaceId(1), 17));
    let decisions = answer["decisions"].as_array().unwrap();
    assert_eq!(decisions[0]["state"], "established");
    assert_eq!(decisions[0].get("server"), None, "it belongs to none");
    assert_eq!(
        decisions[1]["destination"],
        json!({ "before": "[2001:db8::100]:5353", "after": "[2001:db8:1::53]:5353" })
    );
    assert_eq!(decisions[2]["reason"], "no_route");
    assert_eq!(decisions[2]["explanation"], Reason::NoRoute.explanation());
}

#[test]
fn an_echo_request_needs_no_port_and_flags_are_those_that_are_given() {
    let mut rig = Rig::start();
    for (packet, protocol, at, byte) in [
        (
            json!({ "protocol": "icmp", "from": "192.0.2.9", "to": "10.0.0.100", "interface": "wan" }),
            1,
            34,
            8,
        ),
        (
            json!({
                "protocol": "tcp", "from": "192.0.2.9:1", "to": "10.0.0.100:80", "interface": "wan",
                "flags": "syn+ack",
            }),
            6,
            47,
            tcp::Flags::SYN | tcp::Flags::ACK,
        ),
    ] {
        let door = rig.door();
        let ask = || door.tell("POST", "/api/v1/explain", &packet).status;
        let (status, frame) = explained(&mut rig, ask, |_| vec![Decision::Onward]);
        assert_eq!(status, 200);
        assert_eq!((frame.bytes()[23], frame.bytes()[at]), (protocol, byte), "{packet}");
    }
}

#[test]
fn the_worker_that_knows_the_flow_is_believed_and_else_the_first() {
    let mut rig = Rig::with_workers(3);
    let known = Decision::KnownFlow { server: ServerId::NONE, state: None };
    let ends = Decision::FlowEnds { server: ServerId::NONE, opens_again: true };
    for (knowing, decision) in [(2, known), (1, ends), (0, known), (9, known)] {
        let door = rig.door();
        let ask = || door.tell("POST", "/api/v1/explain", &supposed()).json();
        let (answer, _) = explained(&mut rig, ask, |worker| {
            let first = Decision::Arrived { interface: InterfaceId(0), vlan: None };
            let new = Decision::NewFlow { in_mid_flow: false };
            vec![first, if worker == knowing { decision } else { new }]
        });
        let expected = if knowing < 3 { knowing } else { 0 };
        assert_eq!(answer["worker"], expected);
        let last = &answer["decisions"][1]["decision"];
        assert_eq!(last, if knowing < 3 { decision.name() } else { "new_flow" });
    }
}

#[test]
fn answers_to_other_questions_and_answers_after_the_last_are_not_told() {
    let mut rig = Rig::with_workers(2);
    let door = rig.door();
    let answer = thread::scope(|scope| {
        let answer = scope.spawn(|| door.tell("POST", "/api/v1/explain", &supposed()).json());
        let (question, _) = asked(&mut rig.worker);
        says(&mut rig.worker, question.wrapping_sub(1), &[Decision::Reset]);
        says(&mut rig.worker, question, &[Decision::Onward]);
        says(&mut rig.worker, question, &[Decision::Reset]); // once too often
        let (question, _) = asked(&mut rig.others[0]);
        wait_until("the first has been heard", || rig.worker.events.slots() == 1024);
        says(&mut rig.others[0], question, &[Decision::Onward]);
        answer.join().unwrap()
    });
    assert_eq!(answer["decisions"], json!([{ "decision": "onward", "text": "goes on as it is" }]));
}

#[test]
fn a_worker_that_does_not_answer_is_said_to_be_silent_and_too_many_questions_are_refused() {
    let rig = Rig::start();
    let door = rig.door();
    let replies: Vec<_> = thread::scope(|scope| {
        let ask = || door.tell("POST", "/api/v1/explain", &supposed());
        let asked: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let of = |status: u16| replies.iter().filter(|reply| reply.status == status).count();
    assert_eq!((of(503), of(429)), (8, 4));
    for reply in &replies {
        reply.problem(reply.status);
    }
}

#[test]
fn a_packet_that_cannot_come_in_is_refused_with_every_mistake_and_no_worker_is_asked() {
    let mut rig = Rig::start();
    let refused = |packet: &Value| rig.tell("POST", "/api/v1/explain", packet).problem(422);
    let end = "an address with a port, such as 192.0.2.9:40000 or [2001:db8::9]:40000";
    let bits = "some of syn, ack, fin, rst, psh and urg, such as syn+ack";
    let with = |name: &str, value: Value| {
        let mut packet = supposed();
        packet[name] = value;
        packet
    };
    for (packet, mistakes) in [
        (
            with("interface", json!("dmz")),
            vec![r#"interface: expected the name of an interface: wan, lan, found "dmz""#.into()],
        ),
        (
            with("from", json!("192.0.2.9")),
            vec![format!(r#"from: expected {end}, found "192.0.2.9""#)],
        ),
        (
            with("from", json!("[::ffff:192.0.2.9]:1")),
            vec![format!(r#"from: expected {end}, found "[::ffff:192.0.2.9]:1""#)],
        ),
        (
            with("to", json!("[2001:db8::1]:80")),
            vec![r#"to: expected an IPv4 address, as in from, found "[2001:db8::1]:80""#.into()],
        ),
        (
            with("protocol", json!("sctp")),
            vec![r#"protocol: expected tcp, udp or icmp, found "sctp""#.into()],
        ),
        (
            with("flags", json!("syn,ack")),
            vec![format!(r#"flags: expected {bits}, found "syn,ack""#)],
        ),
        (
            with("form", json!(1)),
            vec![r#"form: expected a known name (did you mean "from"?), found "form""#.into()],
        ),
        (
            json!({ "protocol": "udp", "flags": "syn" }),
            vec![
                format!("from: expected {end}, found nothing"),
                format!("to: expected {end}, found nothing"),
                "interface: expected the name of an interface: wan, lan, found nothing".into(),
                r#"flags: expected no flags: only TCP has them, found "syn""#.into(),
            ],
        ),
    ] {
        assert_eq!(refused(&packet), mistakes, "{packet}");
    }
    rig.tell("POST", "/api/v1/explain", &json!([])).problem(422);
    let json = [("content-type", "application/json")];
    rig.send("POST", "/api/v1/explain", &json, b"{").problem(400);
    rig.ask("GET", "/api/v1/explain").problem(405);
    assert!(rig.worker.commands.pop().is_err());
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    ctl: Ctl,
}

#[test]
fn the_command_line_shows_the_decisions_with_names_or_the_apis_own_answer() {
    let mut rig = Rig::start();
    let told = new_connection(&mut rig);
    let socket = rig.socket();
    let line = [
        "ctl",
        "--socket",
        socket.to_str().unwrap(),
        "explain",
        "--protocol",
        "tcp",
        "--from",
        "192.0.2.9:40000",
        "--to",
        "10.0.0.100:80",
        "--interface",
    ];
    let ctl = |rest: &[&str]| Line::try_parse_from(line.iter().chain(rest)).unwrap().ctl.answer();
    let (shown, _) = explained(&mut rig, || ctl(&["wan"]).unwrap(), |_| told.clone());
    let rows: Vec<_> = shown.lines().collect();
    assert_eq!(rows.len(), told.len() + 2, "{shown}");
    for (row, parts) in [
        (0, ["DECISION", "NAME", "IN WORDS"]),
        (1, ["arrived", "wan", "comes in on interface 0"]),
        (3, ["belongs", "web", "is for the virtual service"]),
        (4, ["new_flow", "-", "begins a new flow"]),
        (5, ["scheduled", "web1", "weighted round robin"]),
    ] {
        assert!(parts.iter().all(|part| rows[row].contains(part)), "{shown}");
    }
    assert_eq!(rows.last(), Some(&"(worker 0)"));
    let json = || ctl(&["wan", "--json", "--flags", "ack"]).unwrap();
    let (shown, frame) = explained(&mut rig, json, |_| told.clone());
    let answer: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(answer["decisions"][0]["interface"], "wan");
    assert_eq!(frame.bytes()[47], tcp::Flags::ACK);
    let refused = ctl(&["dmz"]).unwrap_err().to_string();
    assert!(refused.contains("interface: expected the name of an interface"), "{refused}");
}
