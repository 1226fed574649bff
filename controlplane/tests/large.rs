//! A node with as many services and servers as a large installation, in a process of its own.
#![allow(dead_code)] // the rig has more than one test needs

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dataplane::snapshot::{Protocol, Service};

#[path = "api/rig.rs"]
mod rig;

#[path = "api/script.rs"]
mod script;

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

/// With as many services and servers as the largest installation.
#[test]
fn among_ten_thousand_servers_one_is_out_in_time_and_the_control_thread_is_not_late() {
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
    let idler = Idler::start();
    let mut rig = Rig::with_workers_and(1, &configuration);
    let number = |worker: &mut Worker| {
        service(worker, [10, 0, 100, 7], |service| service.candidates.servers().len())
    };
    wait_until("all have been asked", || rig.node().asked().asked() >= 10_000);
    wait_until("its servers are up", || number(&mut rig.worker) == 10);
    thread::sleep(Duration::from_secs(2)); // what came of the first answers has been published
    let gap = rig.node().status().control_longest_gap;
    println!("longest gap while all were asked for the first time: {gap} s");
    // Server 3 of service 7.
    rig.script.stop("10.0.150.73:80");
    wait_until("it is out", || number(&mut rig.worker) == 9);
    let asked = *rig.script.asked("10.0.150.73:80").last().unwrap();
    let took = asked.elapsed();
    println!("from the answer to the worker: {took:?}");
    let begin = Instant::now();
    assert_eq!(rig.ask("POST", "/api/v1/services/s7/servers/r4/drain").status, 200);
    wait_until("another drains", || number(&mut rig.worker) == 8);
    let drained = begin.elapsed();
    println!("drain over REST: {drained:?}");
    let gap = rig.node().status().control_longest_gap;
    let idle = idler.longest();
    println!("longest gap: {gap} s; of a thread that does nothing: {idle} s");
    assert!(gap < LATE + BUSY * idle, "{gap} s, where a thread that does nothing is {idle} s late");
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert!(drained < Duration::from_secs(2), "{drained:?}");
}
