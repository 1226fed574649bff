//! Weights that follow agents on real servers, as clients notice them.

use std::io::Write;
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_tests::agent::Agent;
use sluice_tests::client::server_behind;
use sluice_tests::lab::TRANSLATED;
use sluice_tests::process::eventually;
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{Service, nat};

sluice_tests::cases! {
    a_server_that_is_a_tenth_idle_gets_about_a_tenth,
    a_server_that_is_not_idle_at_all_still_gets_some,
    a_server_whose_agent_is_gone_has_its_own_weight_again,
    an_agent_that_speaks_http_is_heard,
    of_eight_agents_four_are_heard_and_the_others_are_ignored_with_a_line_in_the_log,
    a_server_whose_agent_is_told_to_end_drains,
}

/// Two servers with agents that are asked every second.
fn service(rig: &Rig, agent: Value) -> Service {
    nat("web", TRANSLATED, "80")
        .with("scheduler", "wrr")
        .with("agent", agent)
        .to_all(&rig.translated()[..2])
}

fn feedback() -> Value {
    json!({ "method": "agent", "interval": "1s", "timeout": "1s", "misses": 2 })
}

/// Connections that keep a server as busy as is asked for, in tenths.
fn busy(rig: &Rig, server: &Server, tenths: usize) -> Vec<TcpStream> {
    let to = at(server.address, 8080);
    let open = || rig.translated()[2].namespace.enter(|| TcpStream::connect(&to));
    (0..tenths).map(|_| open().expect("a connection")).collect()
}

/// What agents do that are not to wait for the held connections when a test ends them.
const IDLENESS: &str = "run --metric conns --max-connections 10 --ports 8080 --drain-time 0s";

fn agent<'r>(rig: &'r Rig, server: &'r Server) -> Agent<'r> {
    Agent::on(server, rig.lab.directory())
}

fn status<'v>(status: &'v Value, server: &Server) -> &'v Value {
    let servers = status["services"][0]["servers"].as_array().expect("a service has servers");
    servers.iter().find(|it| it["name"] == *server.name).expect("one of them")
}

fn wait_for(rig: &Rig, server: &Server, what: &str, holds: impl Fn(&Value) -> bool) {
    rig.appliance.wait_until("/status", what, |all| holds(status(all, server)));
}

/// SCH-07, AG-03.
fn a_server_that_is_a_tenth_idle_gets_about_a_tenth(rig: &mut Rig) {
    let [first, second, _] = rig.translated();
    let _held = busy(rig, first, 9);
    let _agents = [first, second].map(|server| agent(rig, server).start(IDLENESS));
    rig.serve([&service(rig, feedback())]);
    wait_for(rig, first, "a tenth", |it| it["effective_weight"] == 10 && it["weight"] == 100);
    wait_for(rig, second, "all of it", |it| {
        it["effective_weight"] == 100 && it["agent"]["answer"] == "100 %"
    });
    let answers = rig.client().connect(&at(TRANSLATED, 80), 110);
    let part = answers.from(first);
    assert!((9..=11).contains(&part), "{part} of 110");
    assert_eq!(part + answers.from(second), 110);
}

/// AG-05.
fn a_server_that_is_not_idle_at_all_still_gets_some(rig: &mut Rig) {
    let [first, second, _] = rig.translated();
    let _held = busy(rig, first, 10);
    let _agents = [first, second].map(|server| agent(rig, server).start(IDLENESS));
    rig.serve([&service(rig, feedback())]);
    wait_for(rig, first, "the least", |it| it["effective_weight"] == 1 && it["actual"] == "up");
    let answers = rig.client().connect(&at(TRANSLATED, 80), 101);
    assert_eq!((answers.from(first), answers.from(second)), (1, 100));
}

/// AG-08.
fn a_server_whose_agent_is_gone_has_its_own_weight_again(rig: &mut Rig) {
    let first = &rig.translated()[0];
    let _held = busy(rig, first, 9);
    let mut gone = agent(rig, first).start(IDLENESS);
    rig.serve([&service(rig, feedback())]);
    wait_for(rig, first, "a tenth", |it| it["effective_weight"] == 10);

    gone.signal(Signal::SIGKILL);
    gone.end();

    wait_for(rig, first, "all of it", |it| {
        it["effective_weight"] == 100 && it["actual"] == "up" && it["agent"]["missed"] != 0
    });
    let problem = status(&rig.appliance.get("/status"), first)["agent"]["problem"].clone();
    assert!(problem.as_str().is_some_and(|it| it.contains("refused")), "{problem}");
}

fn an_agent_that_speaks_http_is_heard(rig: &mut Rig) {
    let first = &rig.translated()[0];
    let _held = busy(rig, first, 4);
    let _running = agent(rig, first).start(&format!("{IDLENESS} --http 8888"));
    let http = json!({ "method": "http", "port": 8888, "path": "/idle", "interval": "1s" });
    rig.serve([&service(rig, http)]);
    wait_for(rig, first, "six tenths", |it| it["effective_weight"] == 60);
}

/// AG-02.
fn of_eight_agents_four_are_heard_and_the_others_are_ignored_with_a_line_in_the_log(rig: &mut Rig) {
    let first = &rig.translated()[0];
    let said = Arc::new(Mutex::new(None));
    say(first, Arc::clone(&said));
    let say = |what: Option<&'static str>| *said.lock().expect("no panic") = what;
    let seventh = "7";
    say(Some(seventh));
    let port = json!({ "method": "agent", "port": 3334, "interval": "1s", "timeout": "1s" });
    rig.serve([&service(rig, port)]);
    for heard in ["95", "95%", "95\r\n", " 95 %"] {
        // Something else in between, or the answer before could be taken for this one.
        say(Some(seventh));
        wait_for(rig, first, "a seventh", |it| it["effective_weight"] == 7);
        say(Some(heard));
        wait_for(rig, first, heard, |it| it["effective_weight"] == 95);
    }
    let place = at(first.address, 3334);
    for (ignored, why) in [
        (Some(""), "expected a number from 0 to 100, found nothing"),
        (Some("abc"), "expected a number from 0 to 100, found \"abc\""),
        (Some("250"), "expected a number from 0 to 100, found \"250\""),
        (None, "no answer in 1 s"),
    ] {
        say(Some("95"));
        wait_for(rig, first, "an answer", |it| it["agent"]["missed"] == 0);
        let wanted = format!("agent {place}: ignored: {why}");
        let lines = || {
            let is = |line: &str| line.contains("WARN") && line.ends_with(&wanted);
            rig.appliance.log().lines().filter(|line| is(line)).count()
        };
        assert_eq!(lines(), 0, "{wanted}");
        say(ignored);
        wait_for(rig, first, "two misses", |it| it["agent"]["missed"] == 2);
        let told = eventually(Duration::from_secs(5), || (lines() > 0).then(&lines));
        assert_eq!(told, Some(1), "once, not each time: {wanted}:\n{}", rig.appliance.log());
        assert_eq!(status(&rig.appliance.get("/status"), first)["effective_weight"], 95);
    }
}

/// An agent on port 3334 that says `what` and closes, or says nothing for ever, until this process ends.
fn say(server: &Server, what: Arc<Mutex<Option<&'static str>>>) {
    let any = (Ipv6Addr::UNSPECIFIED, 3334);
    let listener = server.namespace.enter(|| TcpListener::bind(any)).expect("the port is free");
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for mut stream in listener.incoming().flatten() {
            match *what.lock().expect("no panic") {
                Some(said) => {
                    let _ = stream.write_all(said.as_bytes()); // like any agent
                    let _ = stream.shutdown(Shutdown::Both);
                }
                None => silent.push(stream),
            }
        }
    });
}

fn a_server_whose_agent_is_told_to_end_drains(rig: &mut Rig) {
    let [first, second, _] = rig.translated();
    let mut ending = agent(rig, first).start("run --ports 80 --drain-time 5m");
    let _other = agent(rig, second).start("run --ports 80 --drain-time 0s");
    rig.serve([&service(rig, feedback())]);
    wait_for(rig, first, "an answer", |it| !it["agent"]["answer"].is_null());
    let held: Vec<_> =
        (0..4).map(|_| rig.client().open(&at(TRANSLATED, 80)).expect("a connection")).collect();
    let on_first = || held.iter().filter(|it| server_behind(it).ok().as_ref() == Some(&first.name));
    let before = on_first().count();
    assert!(before > 0, "some are on each");

    ending.signal(Signal::SIGTERM);

    wait_for(rig, first, "it drains", |it| {
        it["actual"] == "drain"
            && it["wanted"] == "online"
            && it["reason"] == "its agent asks for drain"
            && it["effective_weight"] == 0
    });
    assert_eq!(rig.client().connect(&at(TRANSLATED, 80), 10).from(second), 10);
    assert_eq!(on_first().count(), before, "what there was goes on");
    let event = rig.appliance.wait_until("/events", "it has been noted", |all| {
        all.to_string().contains("its agent asks for drain")
    });
    assert!(event.to_string().contains(&first.name), "{event}");
    drop(held);
    assert!(ending.end().success(), "it ends when the last connection has");
}
