//! A node with as many services and servers as a large installation, in a process of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use controlplane::testing::Manner;
use dataplane::snapshot::{Protocol, Service};
use serde_json::{Value, json};

#[path = "api/rig.rs"]
#[expect(dead_code, reason = "one test needs less of it than those of the API")]
mod rig;

use crate::rig::{CONFIGURATION, Rig, Worker, wait_until};

/// How late the control thread may be where it has no core of its own and no priority, in seconds; what is demanded where
/// it has both, the end-to-end tests show.
const LATE: f64 = 0.05;
/// And so many times as late as a thread that does nothing besides: on a machine that is busy otherwise, a helper that
/// computes waits longer for its turn than one that sleeps, and may have the node's lock.
const BUSY: f64 = 5.0;

/// A thread that has nothing to do but to be in time, and says how late it was at worst.
struct Idler {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Idler {
    fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        let idle = move || {
            let mut longest = Duration::ZERO;
            while !until.load(Ordering::Relaxed) {
                let begin = Instant::now();
                thread::sleep(Duration::from_millis(1)); // what is measured
                longest = longest.max(begin.elapsed());
            }
            longest
        };
        Self { is_over, thread: thread::spawn(idle) }
    }

    /// In seconds.
    fn longest(self) -> f64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it only sleeps").as_secs_f64()
    }
}

/// What a worker knows of the service at this address.
fn service<T>(worker: &mut Worker, address: [u8; 4], of: impl FnOnce(&Service) -> T) -> T {
    let services = &worker.reader.current().services;
    of(services.at(Ipv4Addr::from(address).into(), Protocol::Tcp, 80).unwrap())
}

/// As many services and servers as the largest installation has.
fn large() -> String {
    let mut configuration = CONFIGURATION.split("[[service]]").next().unwrap().to_owned();
    configuration = configuration.replace("10.0.0.2/24", "10.0.0.2/16");
    for service in 0..1000 {
        let (high, low) = (service / 250, service % 250);
        configuration += &format!(
            "[[service]]\nname = \"s{service}\"\naddress = \"10.0.{}.{low}\"\nports = \"80\"\n\
             check = {{ type = \"connect\", interval = \"5s\", fall = 1, jitter = 20 }}\n",
            100 + high
        );
        for server in 0..10 {
            let number = service * 10 + server;
            let (high, low) = (number / 250, number % 250);
            configuration += &format!(
                "[[service.server]]\nname = \"r{server}\"\naddress = \"10.0.{}.{low}\"\n",
                150 + high
            );
        }
    }
    configuration
}

/// How many servers of service 7 take new flows.
fn open(worker: &mut Worker) -> usize {
    service(worker, [10, 0, 100, 7], |service| match service.options.closed {
        true => 0,
        false => service.candidates.servers().len(),
    })
}

/// One large node at a time: what is measured is time.
static ALONE: Mutex<()> = Mutex::new(());

/// A node with all of that, whose servers have been asked.
fn started() -> Rig {
    let mut rig = Rig::with_workers_and(1, &large());
    wait_until("all have been asked", || rig.node().asked().asked() >= 10_000);
    wait_until("its servers are up", || open(&mut rig.worker) == 10);
    thread::sleep(Duration::from_secs(2)); // what came of the first answers has been published
    rig
}

#[test]
fn among_ten_thousand_servers_one_is_out_in_time_and_the_control_thread_is_not_late() {
    let _alone = ALONE.lock();
    // Others may need the machine, too.
    assert!((0..3).any(|_| is_in_time()), "three times late; what is printed says how much");
}

/// Whether servers that fail among all the others are out in time, by a control thread that is never late.
fn is_in_time() -> bool {
    let idler = Idler::start();
    let mut rig = started();
    let gap = rig.node().status().control_longest_gap;
    println!("longest gap while all were asked for the first time: {gap} s");
    // Servers 3, 4 and 5 of service 7.
    let times = [3, 4, 5].map(|server| {
        let before = open(&mut rig.worker);
        let stopped = SocketAddr::from(([10, 0, 150, 70 + server], 80));
        rig.script.set(stopped, Manner::Refuses);
        wait_until("it is out", || open(&mut rig.worker) == before - 1);
        rig.script.asked(stopped).last().unwrap().elapsed()
    });
    println!("from the answer to the worker: {times:?}");
    let gap = rig.node().status().control_longest_gap;
    let idle = idler.longest();
    println!("longest gap: {gap} s, of a thread without work {idle} s");
    gap < LATE.max(BUSY * idle) && times.iter().min() < Some(&Duration::from_millis(100))
}

/// How soon after a request so many servers of service 7 take new flows, as the worker sees it.
fn soon(
    rig: &mut Rig,
    (method, path, body): (&'static str, &'static str, Value),
    expected: usize,
) -> Duration {
    let door = rig.door();
    let begin = Instant::now();
    let asking = thread::spawn(move || door.tell(method, path, &body).status);
    wait_until("the worker has it", || open(&mut rig.worker) == expected);
    let took = begin.elapsed();
    assert_eq!(asking.join().unwrap(), 200, "{method} {path}");
    took
}

#[test]
fn among_ten_thousand_servers_the_workers_know_at_once_what_is_wanted_of_one() {
    let _alone = ALONE.lock();
    const SERVER: &str = "/api/v1/services/s7/servers/r4";
    let mut rig = started();
    let whole = |state: &str| {
        let mut server = rig.ask("GET", SERVER).json();
        server["state"] = state.into();
        server
    };
    let [put_drain, put_online] = ["drain", "online"].map(whole);
    let doors = [
        (
            "POST",
            ["/api/v1/services/s7/servers/r4/drain", "/api/v1/services/s7/servers/r4/online"],
            [json!({}), json!({})],
            9,
        ),
        ("PATCH", [SERVER; 2], [json!({ "state": "drain" }), json!({ "state": "online" })], 9),
        ("PATCH", [SERVER; 2], [json!({ "weight": 0 }), json!({ "weight": 50 })], 9),
        ("PUT", [SERVER; 2], [put_drain, put_online], 9),
        (
            "PATCH",
            ["/api/v1/services/s7"; 2],
            [json!({ "enabled": false }), json!({ "enabled": true })],
            0,
        ),
    ];
    for (method, paths, bodies, after) in doors {
        // Others may need the machine, too.
        let times: Vec<_> = (0..3)
            .flat_map(|_| {
                let [to, back] = bodies.clone();
                [
                    soon(&mut rig, (method, paths[0], to), after),
                    soon(&mut rig, (method, paths[1], back), 10),
                ]
            })
            .collect();
        println!("{method} {paths:?} {bodies:?}: {times:?}");
        assert!(
            times.iter().min() < Some(&Duration::from_millis(100)),
            "{method} {bodies:?}: {times:?}"
        );
    }
    let trigger = json!([{
        "name": "other", "on": { "service": "s7", "server": "r4", "state": "down" },
        "do": [{ "action": "weight", "service": "s7", "server": "r5", "weight": 0 }],
    }]);
    let mut configuration = rig.ask("GET", "/api/v1/config").json();
    configuration["trigger"] = trigger;
    let begin = Instant::now();
    assert_eq!(rig.tell("PUT", "/api/v1/config", &configuration).status, 200);
    println!("PUT of everything: {:?}", begin.elapsed());
    let times: Vec<_> = (0..3)
        .map(|_| {
            let begin = Instant::now();
            rig.server_is("s7", "r4", "up", "down", "as it would be told");
            wait_until("the worker has it", || open(&mut rig.worker) == 9);
            let took = begin.elapsed();
            let back = ("PATCH", "/api/v1/services/s7/servers/r5", json!({ "weight": 100 }));
            soon(&mut rig, back, 10);
            took
        })
        .collect();
    println!("a trigger: {times:?}");
    assert!(times.iter().min() < Some(&Duration::from_millis(100)), "{times:?}");
}
