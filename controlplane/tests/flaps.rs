//! A server that fails and comes back ten thousand times, in a process of its own: its memory is looked at.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use controlplane::health::engine::{News, QuestionId};
use controlplane::health::tally::Verdict;
use controlplane::testing::Manner;
use dataplane::snapshot::{Protocol, ServerId};

#[path = "api/rig.rs"]
#[expect(dead_code, reason = "one test needs less of it than those of the API")]
mod rig;

use crate::rig::{CONFIGURATION, Rig, Worker, wait_until};

/// The process's memory that is in use, in bytes.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").expect("the kernel tells");
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("it is told");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    };
    of("Anonymous:")
}

/// The servers of the first service that take new flows, as a worker knows them.
fn candidates(worker: &mut Worker) -> Vec<ServerId> {
    let services = &worker.reader.current().services;
    let address = Ipv4Addr::new(10, 0, 0, 100).into();
    let service = services.at(address, Protocol::Tcp, 80).expect("the service is there");
    service.candidates.servers().iter().map(|&(id, _)| id).collect()
}

/// Waits without a pause: there are twenty thousand of these.
fn wait_for(rig: &mut Rig, number: usize) {
    let begin = Instant::now();
    while candidates(&mut rig.worker).len() != number {
        assert!(begin.elapsed() < Duration::from_secs(20), "waited in vain for {number} servers");
        std::thread::yield_now();
    }
}

/// The states, the compiler and what is published: each failure and each return reaches the worker.
#[test]
fn ten_thousand_flaps_end_in_the_right_state_and_leave_nothing_behind() {
    // Asked once an hour, so that the test has the last word.
    let check = "ports = \"80,443\"\ncheck = { type = \"connect\", interval = \"1h\", jitter = 0, port = 80 }";
    let configuration = CONFIGURATION.replacen("ports = \"80,443\"", check, 1);
    let mut rig = Rig::with_workers_and(1, &configuration);
    wait_for(&mut rig, 2);
    let words = rig.node().states().words();
    let first = QuestionId(1);
    // What is kept anyway is full: events have their limit.
    for _ in 0..controlplane::events::KEPT {
        rig.server_is("web", "web1", "closing", "up", "it passes its check, as far as this goes");
    }
    let both = candidates(&mut rig.worker);
    let mut after_a_thousand = 0;
    for flap in 1..=10_000 {
        for (verdict, number) in [(Verdict::Failing, 1), (Verdict::Well, 2)] {
            let reason = (number == 1).then(|| format!("connect to 10.0.0.11:80 refused, {flap}"));
            rig.node().states().hear(News { id: first, verdict, reason });
            rig.node().states().take_in();
            wait_for(&mut rig, number);
        }
        if flap == 1000 {
            after_a_thousand = resident();
        }
    }
    let grown = resident().saturating_sub(after_a_thousand);
    println!("after 1,000 flaps: {after_a_thousand} bytes; after 10,000: {grown} more");
    assert!(grown < 512 << 10, "{grown} bytes more, after {after_a_thousand}");
    assert_eq!(candidates(&mut rig.worker), both);
    let status = rig.ask("GET", "/api/v1/status").json();
    let generation = status["generation"].as_u64().unwrap();
    assert!(generation > 20_000, "each was published: {generation}");
    let after = rig.node().states().words();
    assert_eq!(after.servers.len(), words.servers.len());
    let web1 = &status["services"][0]["servers"][0];
    assert_eq!((web1["actual"].as_str(), web1.get("reason")), (Some("up"), None), "{web1}");
    // And the next failure is one like the first.
    rig.script.set("10.0.0.11:80".parse().unwrap(), Manner::Refuses);
    let reason = Some("connect to 10.0.0.11:80 refused, 2 of 2".to_owned());
    rig.node().states().hear(News { id: first, verdict: Verdict::Failing, reason });
    rig.node().states().take_in();
    wait_for(&mut rig, 1);
    wait_until("it is written down", || {
        let text = fs::read_to_string(rig.state().join("health.json")).unwrap_or_default();
        text.contains("10.0.0.11:80 refused, 2 of 2")
    });
}
