//! The states of servers and services, as the engine, the operator and the network move them.

use dataplane::snapshot::Admission::{Draining, Halted, Open};
use serde_json::{Value, json};

use super::*;
use crate::events::{Change, Subject};
use crate::health::engine::{Question, QuestionId};
use crate::health::tally::Verdict;
use crate::identities::Identities;

/// States with a configuration, and a hand in the engine's place.
struct Bench {
    states: States,
    orders: mpsc::UnboundedReceiver<Vec<Order>>,
    events: Events,
    identities: Identities,
    config: Option<Config>,
    /// What is asked now.
    asked: Vec<(QuestionId, std::sync::Arc<Question>, Verdict)>,
    /// How many events have been looked at.
    seen: u64,
}

impl Bench {
    fn new() -> Self {
        Self::remembering(Memory::default())
    }

    fn remembering(memory: Memory) -> Self {
        let events = Events::default();
        let (states, orders) = States::new(events.clone(), memory);
        let identities = Identities::new();
        Self { states, orders, events, identities, config: None, asked: Vec::new(), seen: 0 }
    }

    /// Two servers, asked by connections, with more or other settings for the service.
    fn serving(settings: Value) -> Self {
        let mut bench = Self::new();
        bench.follow(json!([service("web", settings)]));
        bench
    }

    fn follow(&mut self, services: Value) {
        self.follow_between(&["10.0.0.2/24"], services);
    }

    /// With an interface for each of these addresses.
    fn follow_between(&mut self, addresses: &[&str], services: Value) {
        let interface = |(at, address): (usize, &&str)| {
            let (name, device) = (format!("lan{at}"), format!("kernel:lan{at}"));
            json!({ "name": name, "device": device, "addresses": [address] })
        };
        let interfaces: Vec<_> = addresses.iter().enumerate().map(interface).collect();
        let document = json!({ "interface": interfaces, "service": services });
        let config = Config::read(&document).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        self.identities.assign(&config);
        self.states.follow(&config, &self.identities.of(&config));
        self.config = Some(config);
        self.states.review(|_| None, |_| false);
        while let Ok(orders) = self.orders.try_recv() {
            for order in orders {
                match order {
                    Order::Begin { id, question, known } => self.asked.push((id, question, known)),
                    Order::End(ended) => self.asked.retain(|(id, ..)| *id != ended),
                }
            }
        }
    }

    /// The engine has found out about whoever is asked at this address and port.
    fn found(&self, at: &str, verdict: Verdict) {
        let reason =
            (verdict == Verdict::Failing).then(|| format!("connect to {at} refused, 2 of 2"));
        let of: Vec<_> = self.asked.iter().filter(|it| it.1.target.at.to_string() == at).collect();
        assert_eq!(of.len(), 1, "{at} is asked once");
        self.states.hear(News { id: of[0].0, verdict, reason });
        self.states.take_in();
    }

    fn eject(&self, server: ServerId, reason: Option<&str>) {
        self.states.judge_flows(|flows| flows.eject(server, reason.map(Into::into)));
    }

    /// Whether both servers would take new flows, but for what these tell.
    fn available(&self) -> [bool; 2] {
        let mut available = None;
        self.states.judge_flows(|flows| {
            available = Some(["web1", "web2"].map(|name| flows.is_available(self.id("web", name))));
        });
        available.unwrap()
    }

    /// The agents of these servers ask for drain, and no others.
    fn agents_drain(&self, servers: &[&str]) {
        let asking = servers.iter().map(|name| self.id("web", name));
        self.states.heed(&asking.collect());
    }

    fn fails(&self, number: u8) {
        self.found(&format!("10.0.0.{number}:80"), Verdict::Failing);
    }

    fn passes(&self, number: u8) {
        self.found(&format!("10.0.0.{number}:80"), Verdict::Well);
    }

    fn id(&self, service: &str, server: &str) -> ServerId {
        self.identities.server(service, server).unwrap()
    }

    /// What comes of the question at this place; what is then told of the first server.
    fn hear(&self, position: usize, verdict: Verdict, reason: Option<&str>) -> Told {
        let (id, ..) = self.asked[position];
        self.states.hear(News { id, verdict, reason: reason.map(Into::into) });
        self.states.take_in();
        self.told("web1")
    }

    fn told(&self, server: &str) -> Told {
        self.states.words().servers[&self.id("web", server)].clone()
    }

    /// What there is of both servers, and which flows they take.
    fn both(&self) -> [(Actual, Admission); 2] {
        let standings = self.states.standings();
        ["web1", "web2"]
            .map(|name| (self.told(name).actual, standings.server(self.id("web", name)).admission))
    }

    fn service(&self) -> ServiceTold {
        let id = self.identities.service("web").unwrap();
        self.states.words().services[&id].clone()
    }

    /// Changes since the last look, oldest first, as "web/web1 up down".
    fn changes(&mut self) -> Vec<String> {
        let mut newest = self.events.newest(1000);
        newest.retain(|event| event.number > self.seen);
        newest.reverse();
        self.seen += newest.len() as u64;
        let told = |event: &std::sync::Arc<crate::events::Event>| {
            let Change { subject, old, new, .. } = &event.change;
            match subject {
                Subject::Server { service, server } => format!("{service}/{server} {old} {new}"),
                Subject::Service { service } => format!("{service} {old} {new}"),
                #[allow(unreachable_patterns)]
                other => other.to_string(),
            }
        };
        newest.iter().map(told).collect()
    }
}

/// Two servers at .11 and .12, asked by connections.
fn service(name: &str, settings: Value) -> Value {
    let mut service = json!({
        "name": name, "address": "10.0.0.100", "ports": "80", "check": { "type": "connect" },
        "fallback": "none",
        "server": [
            { "name": "web1", "address": "10.0.0.11" },
            { "name": "web2", "address": "10.0.0.12" },
        ],
    });
    service.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    service
}

#[test]
fn nobody_is_up_before_the_first_pass_and_one_is_enough() {
    let mut bench = Bench::serving(json!({}));
    assert_eq!(bench.both(), [(Actual::Unknown, Draining); 2]);
    assert_eq!(bench.service().state, ServiceState::Unknown);
    assert!(bench.asked.iter().all(|(.., known)| *known == Verdict::Unknown));
    bench.passes(11);
    assert_eq!(bench.both(), [(Actual::Up, Open), (Actual::Unknown, Draining)]);
    assert_eq!(bench.service().state, ServiceState::Degraded);
    bench.passes(12);
    assert_eq!((bench.service().state, bench.service().reason), (ServiceState::Up, None));
    let expected =
        ["web/web1 unknown up", "web unknown degraded", "web/web2 unknown up", "web degraded up"];
    assert_eq!(bench.changes(), expected);
}

/// HC-18, C-19, LG-01.
#[test]
fn a_server_that_fails_closes_then_is_down_and_comes_back() {
    let mut bench = Bench::serving(json!({}));
    bench.passes(11);
    bench.passes(12);
    bench.changes();
    bench.fails(11);
    assert_eq!(bench.both(), [(Actual::Closing, Draining), (Actual::Up, Open)]);
    let reason = bench.told("web1").reason.unwrap();
    assert_eq!(reason, "connect to 10.0.0.11:80 refused, 2 of 2");
    assert_eq!(bench.events.newest(2)[1].change.reason, reason);
    bench.states.review(|_| None, |_| true);
    assert_eq!(bench.told("web1").actual, Actual::Closing, "flows have not ended");
    bench.states.review(|_| None, |_| false);
    assert_eq!(bench.told("web1").actual, Actual::Down);
    bench.states.review(|_| None, |_| true);
    assert_eq!(bench.told("web1").actual, Actual::Down, "down stays down");
    bench.passes(11);
    assert_eq!(bench.both(), [(Actual::Up, Open); 2]);
    let expected = [
        "web/web1 up closing",
        "web up degraded",
        "web/web1 closing down",
        "web/web1 down up",
        "web degraded up",
    ];
    assert_eq!(bench.changes(), expected);
}

/// HC-15.
#[test]
fn flows_of_a_server_that_fails_are_reset_if_the_service_is_not_quiescent() {
    let bench = Bench::serving(json!({ "quiescent": false }));
    bench.passes(11);
    bench.fails(11);
    assert_eq!(bench.both()[0], (Actual::Closing, Halted));
    bench.states.review(|_| None, |_| true);
    assert_eq!(bench.both()[0], (Actual::Down, Halted), "nothing is left to finish");
}

/// ST-03.
#[test]
fn what_is_wanted_and_what_there_is_are_two_things() {
    let mut bench = Bench::serving(json!({}));
    bench.passes(11);
    bench.passes(12);
    bench.changes();
    let wanting = |state: &str| {
        json!([service(
            "web",
            json!({ "server": [
            { "name": "web1", "address": "10.0.0.11", "state": state },
            { "name": "web2", "address": "10.0.0.12" },
        ] })
        )])
    };
    bench.follow(wanting("drain"));
    assert_eq!(bench.both(), [(Actual::Drain, Draining), (Actual::Up, Open)]);
    bench.fails(11);
    assert_eq!(bench.told("web1").actual, Actual::Closing);
    bench.follow(wanting("halt"));
    assert_eq!(bench.both()[0], (Actual::Halt, Halted));
    bench.follow(wanting("online"));
    assert_eq!(bench.both()[0].1, Draining, "it still fails");
    bench.passes(11);
    assert_eq!(bench.both()[0], (Actual::Up, Open));
    let servers: Vec<_> = bench.changes();
    let servers: Vec<_> = servers.iter().filter(|it| it.starts_with("web/")).collect();
    let expected = [
        "web/web1 up drain",
        "web/web1 drain closing",
        "web/web1 closing halt",
        "web/web1 halt closing",
        "web/web1 closing down",
        "web/web1 down up",
    ];
    assert!(expected.iter().all(|it| servers.iter().any(|told| told == it)), "{servers:?}");
}

/// ST-04.
#[test]
fn a_service_has_four_colours() {
    let mut bench = Bench::serving(json!({}));
    bench.passes(11);
    bench.passes(12);
    assert_eq!(bench.service().state, ServiceState::Up);
    bench.fails(12);
    assert_eq!(bench.service().state, ServiceState::Degraded);
    assert_eq!(bench.service().reason.unwrap(), "1 of 2 servers take new connections");
    bench.fails(11);
    assert_eq!(bench.service().state, ServiceState::Down);
    bench.follow(json!([service("web", json!({ "enabled": false }))]));
    assert_eq!(bench.service().state, ServiceState::Offline);
    assert_eq!(bench.told("web1").actual, Actual::Disabled);
    let drained =
        json!({ "server": [{ "name": "web1", "address": "10.0.0.11", "state": "drain" }] });
    bench.follow(json!([service("web", drained)]));
    assert_eq!(bench.service().state, ServiceState::Offline);
    assert_eq!(bench.service().reason.unwrap(), "all its servers drain");
}

/// ST-05, C-18.
#[test]
fn the_last_server_stays_in_service_and_its_state_says_that_it_failed() {
    let mut bench = Bench::serving(json!({ "last_server": "keep" }));
    bench.passes(11);
    bench.passes(12);
    bench.changes();
    bench.fails(12);
    assert_eq!(bench.both(), [(Actual::Up, Open), (Actual::Closing, Draining)]);
    std::thread::sleep(std::time::Duration::from_millis(2)); // the wall clock tells who was last
    bench.fails(11);
    assert_eq!(bench.both(), [(Actual::Closing, Open), (Actual::Closing, Draining)]);
    assert_eq!(bench.service().state, ServiceState::Down);
    assert!(bench.told("web1").reason.unwrap().ends_with("it is the last and stays in service"));
    assert!(bench.changes().contains(&"web/web1 up closing".to_owned()), "triggers fire");
    bench.passes(12);
    assert_eq!(bench.both(), [(Actual::Closing, Draining), (Actual::Up, Open)]);
}

/// AG-05.
#[test]
fn no_agent_takes_the_last_server_offline_however_the_others_went() {
    for last_server in ["keep", "fail"] {
        let settings = json!({ "fallback": "page", "last_server": last_server });
        let mut bench = Bench::serving(settings);
        bench.passes(11);
        bench.agents_drain(&["web1"]);
        assert_eq!(bench.both()[0], (Actual::Up, Open), "the other has not been asked yet");
        bench.passes(12);
        assert_eq!(bench.both(), [(Actual::Drain, Draining), (Actual::Up, Open)]);
        assert_eq!(bench.told("web1").reason.unwrap(), "its agent asks for drain");
        bench.changes();
        bench.fails(12);
        assert_eq!(bench.both(), [(Actual::Up, Open), (Actual::Closing, Draining)]);
        let reason = "its agent asks for drain, but no other server takes new connections";
        assert_eq!(bench.told("web1").reason.unwrap(), reason);
        assert!(!bench.service().falls_back);
        let expected = ["web/web1 drain up", "web/web2 up closing"];
        assert_eq!(bench.changes(), expected);
        bench.passes(12);
        assert_eq!(bench.both(), [(Actual::Drain, Draining), (Actual::Up, Open)]);
        bench.agents_drain(&["web1", "web2"]);
        assert_eq!(bench.both(), [(Actual::Up, Open); 2], "all agents ask at once");
        assert_eq!(bench.told("web2").reason.unwrap(), reason);
        bench.agents_drain(&[]);
        assert_eq!(bench.both(), [(Actual::Up, Open); 2]);
        assert_eq!(bench.told("web2").reason, None);
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_no_reason_to_heed_anothers_agent() {
    let bench = Bench::serving(json!({ "check": { "type": "on" } }));
    let silent = Unreachable("10.0.0.12".parse().unwrap());
    let other = bench.id("web", "web2");
    bench.states.review(|one| (one == other).then_some(silent), |_| false);
    bench.agents_drain(&["web1"]);
    assert_eq!(bench.both(), [(Actual::Up, Open), (Actual::Unreachable, Open)]);
    bench.states.review(|_| None, |_| false);
    assert_eq!(bench.both(), [(Actual::Drain, Draining), (Actual::Up, Open)]);
}

/// Who is left out because of its flows must not be the last that takes new ones.
#[test]
fn servers_that_drain_for_their_agents_or_cannot_be_reached_count_as_taking_no_new_flows() {
    let bench = Bench::serving(json!({}));
    bench.passes(11);
    bench.passes(12);
    assert_eq!(bench.available(), [true, true]);
    bench.agents_drain(&["web1"]);
    assert_eq!(bench.available(), [false, true]);
    bench.agents_drain(&["web1", "web2"]);
    assert_eq!(bench.available(), [true, true], "neither is heeded");
    bench.agents_drain(&[]);
    let silent = Unreachable("10.0.0.11".parse().unwrap());
    let id = bench.id("web", "web1");
    bench.states.review(|one| (one == id).then_some(silent), |_| false);
    assert_eq!(bench.available(), [false, true]);
}

#[test]
fn without_that_the_pool_empties() {
    let bench = Bench::serving(json!({ "last_server": "fail" }));
    bench.fails(11);
    bench.fails(12);
    assert_eq!(bench.both(), [(Actual::Down, Draining); 2]);
}

/// ST-06, ST-08.
#[test]
fn the_fallback_answers_only_when_all_servers_fail_and_not_when_they_are_taken_offline() {
    let mut bench = Bench::serving(json!({ "fallback": "page" }));
    let falls_back = |bench: &Bench| {
        let id = bench.identities.service("web").unwrap();
        assert_eq!(bench.service().falls_back, bench.states.standings().falls_back(id));
        bench.service().falls_back
    };
    assert!(!falls_back(&bench), "nobody has been asked");
    bench.fails(11);
    assert!(!falls_back(&bench), "one has not been asked");
    bench.fails(12);
    assert!(falls_back(&bench));
    bench.passes(12);
    assert!(!falls_back(&bench));
    let with = |first: &str, second: &str| {
        json!([service(
            "web",
            json!({ "fallback": "page", "server": [
            { "name": "web1", "address": "10.0.0.11", "state": first },
            { "name": "web2", "address": "10.0.0.12", "state": second },
        ] })
        )])
    };
    bench.follow(with("online", "drain"));
    assert!(falls_back(&bench), "the one that should serve fails");
    bench.follow(with("halt", "drain"));
    assert!(!falls_back(&bench), "all are offline by hand");
    bench
        .follow(json!([service("web", json!({ "fallback": "page", "check": { "type": "off" } }))]));
    assert!(!falls_back(&bench), "so they are where the check is off");
    bench.follow(json!([service("web", json!({ "fallback": "page", "enabled": false }))]));
    assert!(!falls_back(&bench));
    let keep = json!({ "fallback": "page", "last_server": "keep" });
    bench.follow(json!([service("web", keep)]));
    bench.fails(11);
    bench.fails(12);
    assert!(!falls_back(&bench), "the last stays in service");
}

#[test]
fn the_same_question_is_asked_once_for_all_who_would_ask_it() {
    let mut bench = Bench::new();
    let other = service("other", json!({ "address": "10.0.0.101" }));
    bench.follow(json!([service("web", json!({})), other]));
    assert_eq!(bench.asked.len(), 2);
    bench.fails(11);
    let words = bench.states.words();
    for name in ["web", "other"] {
        assert_eq!(words.servers[&bench.id(name, "web1")].actual, Actual::Down, "{name}");
    }
    let slower =
        json!({ "address": "10.0.0.101", "check": { "type": "connect", "interval": "9s" } });
    bench.follow(json!([service("web", json!({})), service("other", slower)]));
    assert_eq!(bench.asked.len(), 4, "at another pace it is another question");
    let known: Vec<_> = bench.asked.iter().skip(2).map(|it| it.2).collect();
    assert_eq!(known, [Verdict::Failing, Verdict::Unknown], "and begins with what is known");
    bench.follow(json!([service("web", json!({}))]));
    assert_eq!(bench.asked.len(), 2);
}

#[test]
fn states_survive_a_change_of_configuration() {
    let mut bench = Bench::serving(json!({}));
    bench.passes(11);
    bench.fails(12);
    bench.changes();
    let since = [bench.told("web1").since, bench.told("web2").since];
    bench.follow(json!([service("web", json!({ "scheduler": "rr" }))]));
    assert_eq!(bench.both(), [(Actual::Up, Open), (Actual::Down, Draining)]);
    assert_eq!(since, [bench.told("web1").since, bench.told("web2").since]);
    assert_eq!(bench.changes(), [""; 0]);
    let faster = json!({ "check": { "type": "connect", "interval": "1s" } });
    bench.follow(json!([service("web", faster)]));
    assert_eq!(bench.both(), [(Actual::Up, Open), (Actual::Down, Draining)]);
    let other = json!({ "check": { "type": "http" } });
    bench.follow(json!([service("web", other)]));
    assert_eq!(bench.both()[0], (Actual::Up, Open), "it was well, and is asked something else now");
    assert_eq!(bench.both()[1].1, Draining);
}

#[test]
fn another_machine_of_the_same_name_is_unknown() {
    let mut bench = Bench::serving(json!({}));
    bench.passes(11);
    let moved = json!({ "server": [{ "name": "web1", "address": "10.0.0.31" }] });
    bench.follow(json!([service("web", moved)]));
    assert_eq!(bench.told("web1").actual, Actual::Unknown);
}

#[test]
fn after_a_restart_who_was_down_is_down_and_who_was_up_is_not_up_yet() {
    let bench = Bench::serving(json!({}));
    bench.passes(11);
    bench.fails(12);
    let (memory, falls) = bench.states.memory(0).unwrap();
    assert_eq!(bench.states.memory(falls), None);
    let store = tempfile::tempdir().unwrap();
    let file = store.path().join("sluice.toml");
    std::fs::write(&file, "").unwrap();
    let (store, _) = crate::store::Store::open(store.path(), &file).unwrap();
    memory.write(&store).unwrap();
    let mut bench = Bench::remembering(Memory::read(&store));
    bench.follow(json!([service("web", json!({}))]));
    assert_eq!(bench.both(), [(Actual::Unknown, Draining), (Actual::Down, Draining)]);
    assert_eq!(bench.told("web2").reason.unwrap(), "connect to 10.0.0.12:80 refused, 2 of 2");
    let known: Vec<_> = bench.asked.iter().map(|it| it.2).collect();
    assert_eq!(known, [Verdict::Unknown, Verdict::Failing]);
    assert_eq!(bench.changes(), [""; 0], "nothing has changed");
    bench.states.tell_first(|change| change.new == "down");
    assert_eq!(bench.changes(), ["web/web2 unknown down"], "unless somebody wants to know");
    bench.states.tell_first(|_| true);
    assert_eq!(bench.changes(), [""; 0], "once");
}

#[test]
fn first_states_are_told_once_to_whom_they_matter_and_what_has_changed_since_is_an_event_anyway() {
    let settings = json!({ "check": { "type": "on" } });
    let mut bench = Bench::serving(settings.clone());
    let silent = Unreachable("10.0.0.11".parse().unwrap());
    let id = bench.id("web", "web1");
    bench.states.review(|one| (one == id).then_some(silent), |_| false);
    assert_eq!(bench.changes(), ["web/web1 up unreachable", "web up degraded"]);
    bench.follow(json!([service("web", settings)])); // as it was
    bench.changes();
    bench.states.tell_first(|_| true);
    assert_eq!(bench.changes(), ["web/web2 unknown up"]);
}

/// HC-17, AR-08, AR-09.
#[test]
fn a_server_that_is_well_but_not_at_the_virtual_address_says_why() {
    let bench = Bench::serving(json!({ "check": { "type": "connect", "virtual": true } }));
    let ways: Vec<_> =
        bench.asked.iter().map(|it| (it.1.target.at.to_string(), it.1.target.way)).collect();
    use crate::net::Way;
    assert_eq!(ways[0], ("10.0.0.11:80".into(), Way::Routed));
    let server = "10.0.0.11".parse().unwrap();
    assert_eq!(ways[1], ("10.0.0.100:80".into(), Way::Direct { server }));

    assert_eq!(
        bench.hear(0, Verdict::Well, None).actual,
        Actual::Unknown,
        "half of it is not known"
    );
    assert_eq!(bench.hear(1, Verdict::Well, None).actual, Actual::Up);
    let silent = "no answer from 10.0.0.100:80 within 2 s, 2 of 2";
    let reason = bench.hear(1, Verdict::Failing, Some(silent)).reason.unwrap();
    assert!(
        reason.starts_with("answers on its own address but not on the virtual address 10.0.0.100")
    );
    assert!(reason.contains("the ARP problem is not solved"), "{reason}");
    let refused = "connect to 10.0.0.100:80 refused, 2 of 2";
    let reason = bench.hear(1, Verdict::Failing, Some(refused)).reason.unwrap();
    assert!(reason.contains("the application does not listen on it"), "{reason}");
    assert!(!reason.contains("ARP"), "{reason}");
    let down = "connect to 10.0.0.11:80 refused, 2 of 2";
    assert_eq!(
        bench.hear(0, Verdict::Failing, Some(down)).reason.unwrap(),
        down,
        "its own comes first"
    );
}

#[test]
fn a_server_that_answers_a_ping_at_its_own_address_alone_says_so() {
    let bench = Bench::serving(json!({ "check": { "type": "ping", "virtual": true } }));
    let asked: Vec<_> = bench.asked.iter().map(|it| &it.1.target).collect();
    let server = "10.0.0.11".parse().unwrap();
    assert_eq!(asked[1].way, crate::net::Way::Direct { server });
    assert_eq!(asked[1].at.ip().to_string(), "10.0.0.100");
    assert!(bench.asked.iter().all(|it| it.1.check.kind == Kind::Ping));

    bench.hear(0, Verdict::Well, None);
    let silent = "no answer from 10.0.0.100 to ping within 2 s, 2 of 2";
    let reason = bench.hear(1, Verdict::Failing, Some(silent)).reason.unwrap();
    assert!(reason.contains("the address is missing on its loopback"), "{reason}");
    assert!(!reason.contains("application"), "{reason}");
}

/// AR-08, RP-11.
#[test]
fn a_translated_server_that_answers_its_own_subnet_alone_says_that_its_way_back_is_wrong() {
    let mut bench = Bench::new();
    let settings = json!({ "mode": "nat", "address": "192.0.2.100", "check": { "type": "connect", "virtual": true } });
    bench.follow_between(&["10.0.0.2/24", "192.0.2.2/24"], json!([service("web", settings)]));
    use crate::net::Way;
    let source = "192.0.2.2".parse().unwrap();
    let asked = |position: usize| {
        let target = &bench.asked[position].1.target;
        (target.at.to_string(), target.way)
    };
    assert_eq!(asked(0), ("10.0.0.11:80".into(), Way::Routed));
    assert_eq!(asked(1), ("10.0.0.11:80".into(), Way::From { source }), "not the virtual address");

    assert_eq!(
        bench.hear(0, Verdict::Well, None).actual,
        Actual::Unknown,
        "half of it is not known"
    );
    let silent = "no answer from 10.0.0.11:80 within 2 s, 2 of 2";
    let told = bench.hear(1, Verdict::Failing, Some(silent));
    assert_eq!(told.actual, Actual::Down);
    assert_eq!(
        told.reason.unwrap(),
        format!(
            "answers when asked from its own subnet but not from 192.0.2.2: its way back to clients \
             does not lead here (its default gateway must be the appliance), or a firewall there \
             drops what comes from other subnets ({silent})"
        )
    );
    let refused = "connect to 10.0.0.11:80 refused, 2 of 2";
    let reason = bench.hear(1, Verdict::Failing, Some(refused)).reason.unwrap();
    assert!(reason.contains("a firewall there, or the application"), "{reason}");
    assert!(!reason.contains("gateway"), "the refusal has found its way: {reason}");
    assert_eq!(bench.hear(1, Verdict::Well, None).actual, Actual::Up);
    assert_eq!(
        bench.hear(0, Verdict::Failing, Some(refused)).reason.unwrap(),
        refused,
        "its own comes first"
    );
}

#[test]
fn a_server_whose_flows_fare_badly_is_taken_out_and_let_back_in() {
    let mut bench = Bench::serving(json!({ "quiescent": false }));
    bench.passes(11);
    bench.passes(12);
    bench.changes();
    let id = bench.id("web", "web1");
    bench.eject(id, Some("9 of 10 connections failed"));
    assert_eq!(bench.both()[0], (Actual::Closing, Draining), "its flows go on");
    assert_eq!(bench.told("web1").reason.unwrap(), "9 of 10 connections failed");
    bench.eject(id, None);
    assert_eq!(bench.both()[0], (Actual::Up, Open));
    assert!(bench.changes().contains(&"web/web1 up closing".to_owned()));
}

#[test]
fn a_server_that_nobody_asks_counts_as_well_and_says_if_it_cannot_be_reached() {
    let mut bench = Bench::serving(json!({ "check": { "type": "on" } }));
    assert!(bench.asked.is_empty());
    assert_eq!(bench.both(), [(Actual::Up, Open); 2]);
    let silent = Unreachable("10.0.0.11".parse().unwrap());
    let id = bench.id("web", "web1");
    bench.states.review(|one| (one == id).then_some(silent), |_| false);
    assert_eq!(bench.both()[0], (Actual::Unreachable, Open));
    assert_eq!(bench.told("web1").reason.unwrap(), "10.0.0.11 has not answered ARP");
    assert_eq!(bench.changes(), ["web/web1 up unreachable", "web up degraded"]);
}

/// The control thread must never wait for somebody who reads a large configuration.
#[test]
fn whoever_looks_at_flows_comes_back_later_while_somebody_is_at_the_states() {
    let bench = Bench::serving(json!({}));
    let held = bench.states.inner();
    bench.states.judge_flows(|_| panic!("the states are not free"));
    bench.states.review(|_| panic!("the states are not free"), |_| false);
    drop(held);
    let mut looked = false;
    bench.states.judge_flows(|_| looked = true);
    assert!(looked);
}

/// The engine must never wait for somebody who reads a large configuration.
#[test]
fn news_that_come_while_somebody_is_at_the_states_are_taken_in_afterwards() {
    let bench = Bench::serving(json!({}));
    let held = bench.states.inner();
    let (id, ..) = bench.asked[0];
    bench.states.hear(News { id, verdict: Verdict::Well, reason: None });
    drop(held);
    assert_eq!(bench.told("web1").actual, Actual::Unknown);
    bench.states.review(|_| None, |_| false);
    assert_eq!(bench.told("web1").actual, Actual::Up);
}
