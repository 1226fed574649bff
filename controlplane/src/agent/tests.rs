//! Agents on loopback sockets, asked as in life.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::snapshot::{Admission, Neighbours, Snapshot};
use dataplane::wire::Prefix;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::compile::{Compiler, LiveInterface};
use crate::events::Events;
use crate::health::memory::Memory;
use crate::identities::Identities;
use crate::net::kernel::Kernel;
use crate::states::States;

/// What an agent does with a connection.
#[derive(Debug, Clone)]
enum Manner {
    /// Says this and closes.
    Says(Vec<u8>),
    /// Reads a request to its end first.
    Answers(Vec<u8>),
    /// Says this and keeps the connection.
    Keeps(Vec<u8>),
    /// Says it for ever.
    Floods,
    /// Says a byte now and then.
    Drips,
}

/// An agent whose manner can be changed, until its sender is dropped.
async fn agent(address: [u8; 4], manner: Manner) -> (SocketAddr, watch::Sender<Manner>) {
    let listener = TcpListener::bind((Ipv4Addr::from(address), 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let (sender, manner) = watch::channel(manner);
    spawn(async move {
        loop {
            let mut gone = manner.clone();
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    spawn(behave(stream, manner.borrow().clone()));
                }
                () = async { while gone.changed().await.is_ok() {} } => return,
            }
        }
    });
    (at, sender)
}

async fn behave(mut stream: TcpStream, manner: Manner) {
    match manner {
        Manner::Says(said) => drop(stream.write_all(&said).await),
        Manner::Answers(said) => {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            assert!(request.starts_with(b"GET /idle HTTP/1."));
            let _ = stream.write_all(&said).await;
        }
        Manner::Keeps(said) => {
            let _ = stream.write_all(&said).await;
            let _ = stream.read_u8().await;
        }
        Manner::Floods => while stream.write_all(&[b'9'; 65_536]).await.is_ok() {},
        Manner::Drips => {
            while stream.write_all(b" ").await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn outcome(method: AgentMethod, manner: Manner) -> Result<Answer, String> {
    let patience = match manner {
        Manner::Floods | Manner::Drips => Duration::from_millis(300),
        Manner::Keeps(ref said) if said.is_empty() => Duration::from_millis(300),
        _ => Duration::from_secs(5), // an answer may take as long as the machine is busy
    };
    let (at, _running) = agent([127, 0, 0, 1], manner).await;
    let outcome = timeout(patience * 2, ask(&Kernel, at, &method, patience)).await;
    outcome.expect("a question ends in time")
}

async fn said(said: &str) -> Result<Answer, String> {
    outcome(AgentMethod::Agent, Manner::Says(said.into())).await
}

async fn response(said: &str) -> Result<Answer, String> {
    let method = AgentMethod::Http { path: "/idle".into() };
    outcome(method, Manner::Answers(said.into())).await
}

const IDLE: Result<Answer, String> = Ok(Answer::Idle(95));

#[tokio::test]
async fn of_eight_agents_four_are_heard_and_the_others_ignored() {
    for heard in ["95", "95%", "95\r\n", " 95 %"] {
        assert_eq!(said(heard).await, IDLE, "{heard:?}");
    }
    for (ignored, why) in [("", "nothing"), ("abc", "\"abc\""), ("250", "\"250\"")] {
        assert_eq!(
            said(ignored).await,
            Err(format!("expected a number from 0 to 100, found {why}"))
        );
    }
    let hang = outcome(AgentMethod::Agent, Manner::Keeps(Vec::new())).await;
    assert_eq!(hang, Err("no answer in 0.3 s".into()));
}

#[tokio::test]
async fn an_agent_that_floods_or_drips_or_is_not_there_is_ignored_in_time() {
    let flood = outcome(AgentMethod::Agent, Manner::Floods).await.unwrap_err();
    assert!(flood.starts_with("it says more than 32 bytes: \"999"), "{flood}");
    let drip = outcome(AgentMethod::Agent, Manner::Drips).await;
    assert_eq!(drip, Err("no answer in 0.3 s".into()));
    let method = AgentMethod::Http { path: "/idle".into() };
    let flood = outcome(method, Manner::Floods).await.unwrap_err();
    assert!(flood.starts_with("it says more than 8192 bytes: \"999"), "{flood}");
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let refused = ask(&Kernel, nobody, &AgentMethod::Agent, Duration::from_secs(1)).await;
    assert!(refused.unwrap_err().contains("refused"));
}

#[tokio::test]
async fn an_agent_that_keeps_the_connection_is_heard_after_a_whole_line() {
    assert_eq!(outcome(AgentMethod::Agent, Manner::Keeps(b"95%\n".into())).await, IDLE);
    assert_eq!(said("drain\n").await, Ok(Answer::Drain));
}

#[tokio::test]
async fn a_body_is_read_with_header_information_and_without() {
    assert_eq!(response("95").await, IDLE);
    assert_eq!(response("95\n").await, IDLE);
    assert_eq!(response("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n95\r\n").await, IDLE);
    assert_eq!(response("HTTP/1.0 200 OK\n\n95%").await, IDLE);
    let method = AgentMethod::Http { path: "/idle".into() };
    let kept = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n95";
    assert_eq!(outcome(method, Manner::Keeps(kept.into())).await, IDLE);
}

#[tokio::test]
async fn a_response_that_is_no_success_is_no_answer_and_a_web_server_cannot_ask_for_drain() {
    for (said, why) in [
        ("HTTP/1.1 404 Not Found\r\n\r\n95", "expected status 200, found \"404\""),
        ("HTTP/1.1 200 OK\r\n", "its header has no end"),
        ("HTTP/1.1\r\n\r\n95", "expected status 200, found nothing"),
        ("drain", "expected a number from 0 to 100, found \"drain\""),
    ] {
        assert_eq!(response(said).await, Err(why.into()), "{said:?}");
    }
}

// ----------------------------------------------------------------------------------------- weights

/// A service with two servers, of which the first has the agent.
fn setup(agent: &Value) -> (Config, Identities) {
    let document = json!({
        "interface": [
            { "name": "lo", "device": "kernel:eth0", "addresses": ["10.9.0.1/16"] },
        ],
        "service": [{
            "name": "web", "address": "10.9.0.100", "ports": "80", "agent": agent,
            "server": [
                { "name": "x", "address": "10.9.0.11", "weight": 50 },
                { "name": "y", "address": "10.9.0.12", "weight": 0 },
            ],
        }],
    });
    let mut config = Config::read(&document).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    // No operator may say so, but this is where the test's agents are.
    config.interfaces[0].addresses = vec![Prefix::new("127.9.0.1".parse().unwrap(), 16)];
    for (server, last) in config.services[0].servers.iter_mut().zip(11_u8..) {
        server.address = Ipv4Addr::new(127, 9, 0, last).into();
    }
    let mut identities = Identities::new();
    identities.assign(&config);
    (config, identities)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not in 10 s: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The weights of the service's candidates.
fn candidates(snapshot: &Snapshot, identities: &Identities) -> Vec<u16> {
    let service = identities.service("web").unwrap();
    let service = snapshot.services.service(service).unwrap();
    service.candidates.servers().iter().map(|(_, weight)| *weight).collect()
}

#[tokio::test]
async fn weights_follow_the_answers_and_return_after_too_many_misses() {
    let (at, manner) = agent([127, 9, 0, 11], Manner::Says(b"10%\n".into())).await;
    let (config, identities) = setup(&json!({
        "method": "agent", "port": at.port(), "interval": "1s", "timeout": "1s", "misses": 2,
    }));
    let service = &config.services[0];
    let agents = Agents::default();
    let compiler = Compiler::new(1).with_agents(agents.clone());
    let live = [LiveInterface { mac: Default::default(), mtu: 1500, quiet: false }];
    let compiled = |config: &Config| {
        let identities = identities.of(config);
        let (states, _) = States::new(Events::default(), Memory::default());
        states.follow(config, &identities);
        states.review(|_| None, |_| false);
        let servers = service.servers.iter().zip(&identities[0].1);
        let draining = servers.filter(|(server, _)| agents.ask_for_drain(service, server));
        states.heed(&draining.map(|(_, &id)| id).collect());
        let standings = states.standings();
        let compiled = compiler.compile(config, &identities, &standings, &live, Moment::START);
        compiled.snapshot(&Neighbours::default(), 1)
    };
    let weight = |position: usize| agents.weight(service, &service.servers[position]);
    let standing = |position: usize| agents.standing(service, &service.servers[position]).unwrap();
    agents.follow(&config);
    let asking = spawn(run(Kernel, agents.clone()));
    assert_eq!(weight(0), 50, "nobody has answered yet");

    until("an answer", || weight(0) == 5).await;
    assert!(compiler.is_ramping(), "there is something to compile");
    assert_eq!(candidates(&compiled(&config), &identities), [5]);
    assert!(!compiler.is_ramping(), "and it has been");

    manner.send(Manner::Says(b"0".into())).unwrap();
    until("another answer", || weight(0) == 1).await;
    manner.send(Manner::Says(b"100".into())).unwrap();
    until("a third answer", || weight(0) == 50).await;
    manner.send(Manner::Says(b"10".into())).unwrap();
    until("the first again", || weight(0) == 5).await;

    manner.send(Manner::Says(b"drain".into())).unwrap();
    until("a wish to drain", || agents.ask_for_drain(service, &service.servers[0])).await;
    assert_eq!(candidates(&compiled(&config), &identities), [50], "the last goes on");
    let mut with_another = config.clone();
    with_another.services[0].servers[1].weight = 7;
    let snapshot = compiled(&with_another);
    let server = snapshot.server(identities.server("web", "x").unwrap()).unwrap();
    assert_eq!(server.admission, Admission::Draining, "its connections go on");
    assert_eq!(candidates(&snapshot, &identities), [7]);

    manner.send(Manner::Says(b"10".into())).unwrap();
    until("an end of that", || weight(0) == 5).await;
    manner.send(Manner::Says(b"abc".into())).unwrap();
    until("a miss", || standing(0).missed == 1).await;
    assert_eq!(weight(0), 5, "one miss changes nothing");
    compiled(&config);
    until("a second miss", || standing(0).missed >= 2).await;
    assert_eq!(weight(0), 50);
    assert_eq!(candidates(&compiled(&config), &identities), [50]);

    drop(manner);
    until(
        "nobody listens",
        || matches!(&standing(0).last, Some((Err(why), _)) if why.contains("refused")),
    )
    .await;
    assert_eq!(weight(0), 50, "and the server stays");
    assert_eq!(weight(1), 0, "a weight of nothing stays nothing");
    asking.abort();
}

#[tokio::test]
async fn an_agent_that_is_not_wanted_any_more_is_not_asked_any_more() {
    let (at, _manner) = agent([127, 9, 0, 11], Manner::Says(b"10".into())).await;
    let wanted = json!({ "method": "agent", "port": at.port(), "interval": "1s" });
    let (config, _) = setup(&wanted);
    let agents = Agents::default();
    agents.follow(&config);
    let asking = spawn(run(Kernel, agents.clone()));
    let service = &config.services[0];
    until("an answer", || agents.weight(service, &service.servers[0]) == 5).await;

    agents.follow(&setup(&json!({ "method": "none" })).0);

    assert!(agents.standing(service, &service.servers[0]).is_none());
    assert_eq!(agents.weight(service, &service.servers[0]), 50);
    sleep(Duration::from_millis(1200)).await; // longer than the interval
    assert!(agents.standing(service, &service.servers[0]).is_none());
    asking.abort();
}

#[test]
fn what_an_agent_said_counts_on_when_it_is_asked_at_another_pace() {
    let wanted = |interval: &str| json!({ "method": "agent", "interval": interval, "misses": 2 });
    let agents = Agents::default();
    let follow = |agent: &Value| {
        let (config, _) = setup(agent);
        agents.follow(&config);
        config.services[0].clone()
    };
    let service = follow(&wanted("5s"));
    let question = |service: &config::Service| {
        Question::to(&service.servers[0], service.agent.as_ref().unwrap())
    };
    agents.hear(&question(&service), Ok(Answer::Idle(10)));
    assert_eq!(agents.weight(&service, &service.servers[0]), 5);
    let service = follow(&wanted("9s"));
    assert_eq!(agents.weight(&service, &service.servers[0]), 5);
    agents.hear(&question(&service), Ok(Answer::Drain));
    agents.hear(&question(&service), Err("nobody answers".into()));
    let service = follow(&wanted("5s"));
    assert!(agents.ask_for_drain(&service, &service.servers[0]));
    agents.hear(&question(&service), Err("nobody answers".into()));
    assert!(!agents.ask_for_drain(&service, &service.servers[0]), "the miss before counts, too");
    assert_eq!(agents.standings().len(), 2, "and nobody is asked twice");
    agents.hear(&question(&service), Ok(Answer::Drain));
    let service = follow(&json!({ "method": "agent", "interval": "5s", "port": 3334 }));
    assert!(!agents.ask_for_drain(&service, &service.servers[0]), "that is another agent");
}

#[test]
fn a_server_of_two_services_is_asked_once() {
    let (mut config, _) = setup(&json!({ "method": "agent" }));
    let mut second = config.services[0].clone();
    second.name = "second".into();
    second.agent.as_mut().unwrap().formula = config::AgentFormula::V6;
    config.services.push(second);
    let agents = Agents::default();
    agents.follow(&config);
    assert_eq!(agents.standings().len(), 2, "two servers");
}
