//! Configurations swapped under load, on ports in shared memory where every frame can be accounted
//! for: none is lost, none is forwarded by half a change, and nothing is left behind.
//!
//! At the other end of the memif ports is `wire` (src/bin/wire), which looks at every frame; the
//! figures are printed, so that a log of the tests holds them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_tests::appliance::Appliance;
use sluice_tests::books::Books;
use sluice_tests::figure;
use sluice_tests::held::Held;
use sluice_tests::namespace::{Namespace, mac_text};
use sluice_tests::process::eventually;

/// Frames that may be under way at once; less than any queue or ring on their way holds.
const WINDOW: usize = 256;
/// Real servers on the servers' wire, each with a static neighbour entry.
const SERVERS: usize = 240;

#[test]
fn a_configuration_of_1000_services_is_swapped_in_under_load_without_a_lost_frame() {
    let mut bench = Bench::boot("large");
    bench.put(&bench.configuration(Variant { name: "a", number: 0, services: 0 }));
    bench.wire.tell("go");
    bench.sees("a");

    let mut times = Vec::new();
    for number in 1..=3 {
        let large = bench.configuration(Variant { name: "b", number, services: 1000 });
        let start = Instant::now();
        bench.put(&large);
        let accepted = start.elapsed();
        bench.sees("b");
        times.push((accepted, start.elapsed()));
        assert_eq!(bench.services(), loaded().len() + 1000);

        bench.put(&bench.configuration(Variant { name: "a", number, services: 0 }));
        bench.sees("a");
    }
    let large = bench.configuration(Variant { name: "b", number: 4, services: 1000 });
    bench.put(&large);
    bench.sees("b");
    for name in ["many-0", "many-499", "many-998"] {
        assert_eq!(bench.wire.tell(&format!("join {name}"))["joined"], 4, "{name}");
    }
    thread::sleep(Duration::from_millis(500)); // load for some more time, not a wait for anything

    let report = bench.finish();
    for (accepted, seen) in &times {
        figure!(
            "1,000 services of 10 servers: accepted in {accepted:.0?}, in use after {seen:.0?}"
        );
    }
    figure!("{}", summary(&report));
    for name in ["many-0", "many-499", "many-998"] {
        let frames: u64 = numbers(&report["servers"][name]).iter().sum();
        assert!(frames > 100, "{name} got {frames} frames");
    }
    assert_eq!(report["changes"], 7, "each swap is seen once, by all services together");
    // Others may need the machine, too.
    let fastest = times.iter().map(|(accepted, _)| *accepted).min().expect("three");
    assert!(fastest < Duration::from_secs(2), "{times:?}");
}

#[test]
fn a_thousand_swaps_in_a_row_under_load_lose_and_leak_nothing() {
    const SWAPS: usize = 1000;
    // The allocator keeps what large configurations needed, apart for each thread that ever handled
    // one. So they come at first, to all threads there can be, and at last, to see that it was all.
    const FIRST: RangeInclusive<usize> = 1..=100;
    const MIDDLE: RangeInclusive<usize> = 101..=900;
    const LAST: RangeInclusive<usize> = 901..=SWAPS;
    let mut bench = Bench::boot("thousand");
    bench.put(&bench.configuration(Variant { name: "b", number: 0, services: 0 }));
    bench.wire.tell("go");
    bench.sees("b");
    bench.occupy_all_helpers();

    let mut held = Vec::new();
    let start = Instant::now();
    for number in 1..=SWAPS {
        let name = if number % 2 == 1 { "a" } else { "b" };
        let large = number % 3 == 0 && !MIDDLE.contains(&number);
        let services = if large { 1000 } else { number % 7 };
        bench.put(&bench.configuration(Variant { name, number, services }));
        bench.sees(name);
        held.push(bench.appliance.held());
    }
    let took = start.elapsed();

    let report = bench.finish();
    let rate = SWAPS as f64 / took.as_secs_f64();
    figure!("{SWAPS} swaps in {took:.1?}, {rate:.0} a second");
    figure!("{}", summary(&report));
    for number in (100..=SWAPS).step_by(100) {
        figure!("after {number} swaps: {}", held[number - 1]);
    }
    assert_eq!(report["changes"], SWAPS, "each swap is seen once, by all services together");

    // The most of each stretch, because the allocator gives pages back at times: a leak raises what
    // it comes back to. Every snapshot that stayed would cost tens of kB, and a large one 1 MB; what
    // small configurations may add is the pages of counters of slots that had no server before.
    let most = |of: fn(&Held) -> u64, when: RangeInclusive<usize>| {
        held[when.start() - 1..*when.end()].iter().map(of).max().unwrap_or_default()
    };
    for of in [|held: &Held| held.resident, |held: &Held| held.anonymous] {
        let growth = most(of, 501..=900).saturating_sub(most(of, 101..=500));
        figure!("small configurations left {growth} kB");
        assert!(growth < 1024, "small configurations left {growth} kB");
        let growth = most(of, LAST).saturating_sub(most(of, FIRST));
        figure!("large configurations left {growth} kB");
        assert!(growth < 16384, "large configurations left {growth} kB");
    }
    // One more may just be opening or closing.
    let growth = |of| most(of, LAST).saturating_sub(most(of, FIRST));
    assert!(growth(|held| held.files) < 8, "files stay open");
    assert!(growth(|held| held.threads) < 8, "threads stay");
}

/// What differs from one configuration to the next.
#[derive(Debug, Clone, Copy)]
struct Variant {
    /// `a` or `b`: which servers the moving services have.
    name: &'static str,
    /// Makes each configuration differ from all others.
    number: usize,
    /// How many services there are besides those under load.
    services: usize,
}

/// A service under load.
struct Loaded {
    name: &'static str,
    mode: &'static str,
    protocol: &'static str,
    /// Its servers by number, with the one configuration that has each, if not all do.
    servers: Vec<(usize, Option<&'static str>)>,
    /// Whether its servers' weights follow the configuration, down to 0.
    weighted: bool,
}

fn loaded() -> Vec<Loaded> {
    let staying = |name, mode, protocol, servers: std::ops::Range<usize>| Loaded {
        name,
        mode,
        protocol,
        servers: servers.map(|server| (server, None)).collect(),
        weighted: false,
    };
    let moving = |name, mode, protocol, first: usize| Loaded {
        servers: (0..4).map(|n| (first + n, Some(if n < 2 { "a" } else { "b" }))).collect(),
        ..staying(name, mode, protocol, 0..0)
    };
    vec![
        staying("direct-udp", "dr", "udp", 0..3),
        moving("moving-udp", "dr", "udp", 10),
        staying("direct-tcp", "dr", "tcp", 0..3),
        staying("translated-udp", "nat", "udp", 20..23),
        Loaded { weighted: true, ..staying("weighted-tcp", "dr", "tcp", 4..8) },
        staying("translated-tcp", "nat", "tcp", 20..23),
        moving("moving-tcp", "tun", "tcp", 14),
        staying("tunnelled-udp", "tun", "udp", 30..33),
        Loaded { weighted: true, ..staying("weighted-nat", "nat", "tcp", 24..28) },
        staying("tunnelled-tcp", "tun", "tcp", 30..33),
    ]
}

fn server_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, 0, 10 + (number % SERVERS) as u8)
}

fn server_mac(number: usize) -> [u8; 6] {
    [2, 0, 0, 2, 1, 10 + (number % SERVERS) as u8]
}

/// Port of translated servers; the services' own is 80.
const TRANSLATED: u16 = 8080;

/// The appliance, and the other end of its wires.
struct Bench {
    wire: Wire,
    appliance: Appliance,
    /// Everything but the services, as the appliance itself writes it.
    base: Value,
    /// Where every frame had gone when the wires were connected: what the appliance announced
    /// before had nowhere to go.
    opening: Books,
    #[expect(dead_code, reason = "removed when the test is over")]
    namespace: Namespace,
    #[expect(dead_code, reason = "removed when the test is over")]
    directory: tempfile::TempDir,
    #[expect(dead_code, reason = "two cores carry one bench at a time")]
    alone: MutexGuard<'static, ()>,
}

impl Bench {
    fn boot(name: &str) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().expect("temporary files can be written");
        let namespace = Namespace::new(&format!("{}-swap", std::process::id()), name);
        let mut appliance = Appliance::new(&namespace, &directory.path().join("appliance"));
        appliance.configure(&without_services(directory.path(), &appliance.socket()));
        appliance.start();
        let base = appliance.get("/config");
        let wire = Wire::connect(directory.path());
        let opening = appliance.books();
        Self { wire, appliance, base, opening, namespace, directory, alone }
    }

    fn configuration(&self, variant: Variant) -> Value {
        let loaded = loaded();
        let loaded = loaded.iter().enumerate().map(|(at, service)| service.json(at, variant));
        let others = (0..variant.services).map(|at| other(at, variant));
        let mut whole = self.base.clone();
        whole["service"] = loaded.chain(others).collect();
        whole
    }

    fn put(&self, configuration: &Value) {
        self.appliance.rest("PUT", "/config", Some(configuration.clone()));
    }

    /// Has large configurations judged, several at once, so that every helper thread of the control
    /// plane there can be has handled some.
    fn occupy_all_helpers(&self) {
        let large = self.configuration(Variant { name: "b", number: 0, services: 1000 });
        let judge = || self.appliance.rest("POST", "/config/validate", Some(large.clone()));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..4).for_each(|_| drop(judge())));
            }
        });
    }

    /// Waits until frames are forwarded as only configuration `name` would.
    fn sees(&mut self, name: &str) {
        let seen = self.wire.tell(&format!("see {name}"));
        assert_eq!(seen["seen"], name, "accepted, but not in use: {}", self.wire.tell("report"));
    }

    fn services(&self) -> usize {
        self.appliance.get("/services").as_array().expect("a list of services").len()
    }

    /// Ends the load, and checks that every frame and every buffer is accounted for, by both ends.
    fn finish(&mut self) -> Value {
        let report = self.wire.tell("stop");
        let problem = format!("{report:#}");
        assert_eq!(report["faults"], 0, "{problem}");
        assert_eq!(report["lost"], 0, "{problem}");
        assert_eq!(report["sent"], report["delivered"], "{problem}");
        assert_eq!(report["answers_sent"], report["answers_delivered"], "{problem}");
        assert_eq!(report["buffers"]["available"], report["buffers"]["capacity"], "{problem}");
        for loaded in loaded() {
            for (server, frames) in numbers(&report["servers"][loaded.name]).iter().enumerate() {
                assert!(*frames > 100, "{}: server {server} got {frames} frames", loaded.name);
            }
        }

        let books = Books::closed(&self.appliance);
        figure!("{books}");
        assert!(books.drops_since(&self.opening).is_empty(), "{books}\n{problem}");
        // Announcements of addresses may still be on their way to the wire when it is asked.
        let mut report = Value::Null;
        let settled = eventually(Duration::from_secs(5), || {
            report = self.wire.tell("report");
            let ports = &report["ports"];
            let both =
                |what: &str| number(&ports["clients"][what]) + number(&ports["servers"][what]);
            let now = Books::closed(&self.appliance);
            let all = (now.received, now.transmitted);
            ((both("transmitted"), both("received")) == all).then_some(())
        });
        assert!(settled.is_some(), "{books}\n{report:#}");
        report
    }
}

impl Loaded {
    fn address(at: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 1, 1, 1 + at as u8)
    }

    /// As the appliance is told of it.
    fn json(&self, at: usize, variant: Variant) -> Value {
        let weight = |server: usize| match (self.weighted, variant.name) {
            (true, "a") => (server + variant.number) % 3 * 50, // some are at 0: no new flows
            (true, _) => 1 + (server * 7 + variant.number) % 100,
            (false, _) => 100,
        };
        let server = |(server, only): &(usize, Option<&str>)| {
            only.is_none_or(|only| only == variant.name).then(|| {
                let mut entry = json!({
                    "name": format!("s{server}"), "address": server_address(*server),
                    "weight": weight(*server),
                });
                if self.mode == "nat" {
                    entry["port"] = TRANSLATED.into();
                }
                entry
            })
        };
        json!({
            "name": self.name, "address": Self::address(at), "ports": "80",
            "protocol": self.protocol, "mode": self.mode, "scheduler": "wrr",
            "check": { "type": "on" },
            "server": self.servers.iter().filter_map(server).collect::<Vec<_>>(),
        })
    }

    /// As the wire is told of it.
    fn scenario(&self, at: usize) -> Value {
        let server = |(server, only): &(usize, Option<&str>)| {
            json!({
                "address": server_address(*server), "mac": server_mac(*server), "only_in": only,
                "port": (self.mode == "nat").then_some(TRANSLATED),
            })
        };
        json!({
            "name": self.name, "address": Self::address(at), "port": 80, "flows": 8,
            "protocol": self.protocol, "mode": self.mode,
            "sticky": self.servers.iter().all(|(_, only)| only.is_none()),
            "servers": self.servers.iter().map(server).collect::<Vec<_>>(),
        })
    }
}

/// Another service: ten servers, anywhere among all of them; they and their weights differ from
/// one configuration to the next.
fn other(at: usize, variant: Variant) -> Value {
    let [mode, _] = other_mode(at);
    let servers = (0..10).map(|n| {
        let number = other_server(at, n);
        let mut entry = json!({
            "name": format!("s{n}"), "address": server_address(number),
            "weight": 1 + (variant.number + n) % 100,
        });
        if mode == "nat" {
            entry["port"] = other_port(at).into();
        }
        entry
    });
    json!({
        "name": format!("many-{at}"), "address": other_address(at), "ports": "80",
        "protocol": "tcp", "mode": mode, "scheduler": if at.is_multiple_of(2) { "rr" } else { "wrr" },
        "check": { "type": "on" },
        "server": servers.collect::<Vec<_>>(),
    })
}

fn other_mode(at: usize) -> [&'static str; 2] {
    [["dr", "tcp"], ["nat", "tcp"], ["tun", "tcp"]][at % 3]
}

fn other_server(at: usize, n: usize) -> usize {
    at * 7 + n * 3
}

fn other_port(at: usize) -> u16 {
    9000 + at as u16
}

fn other_address(at: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 2 + (at / 250) as u8, 1 + (at % 250) as u8)
}

/// As the wire is told of the services that join in the end.
fn other_scenario(at: usize) -> Value {
    let [mode, protocol] = other_mode(at);
    let server = |n| {
        let number = other_server(at, n);
        json!({
            "address": server_address(number), "mac": server_mac(number),
            "port": (mode == "nat").then_some(other_port(at)),
        })
    };
    json!({
        "name": format!("many-{at}"), "address": other_address(at), "port": 80, "flows": 4,
        "later": true, "protocol": protocol, "mode": mode, "sticky": true,
        "servers": (0..10).map(server).collect::<Vec<_>>(),
    })
}

fn socket(directory: &Path, wire: &str) -> PathBuf {
    directory.join(format!("{wire}.memif"))
}

const WAN: [u8; 6] = [2, 0, 0, 1, 0, 2];
const LAN: [u8; 6] = [2, 0, 0, 2, 0, 2];
const GATEWAY: [u8; 6] = [2, 0, 0, 1, 0, 1];

/// The file that the appliance starts with.
fn without_services(directory: &Path, admin: &Path) -> String {
    let device = |number: usize, wire: &str, own: [u8; 6]| {
        let socket = socket(directory, wire);
        format!(
            "vdev:net_memif{number},role=server,id=0,socket={},socket-abstract=no,rsize=12,mac={}",
            socket.display(),
            mac_text(own)
        )
    };
    let mut file = format!(
        r#"
[node]
name = "swap"

[dataplane]
workers = [1]
polling = "adaptive"
flows = 100_000
memory = "plain"

[admin]
listen = ["127.0.0.1:9443"]
socket = "{}"

[[interface]]
name = "wan"
device = "{}"
addresses = ["10.1.0.2/16"]

[[interface]]
name = "lan"
device = "{}"
addresses = ["10.2.0.2/16"]

[[route]]
to = "0.0.0.0/0"
via = "10.1.0.1"

[[neighbour]]
interface = "wan"
address = "10.1.0.1"
mac = "{}"
"#,
        admin.display(),
        device(0, "clients", WAN),
        device(1, "servers", LAN),
        mac_text(GATEWAY)
    );
    for server in 0..SERVERS {
        let (address, mac) = (server_address(server), mac_text(server_mac(server)));
        file += &format!(
            "\n[[neighbour]]\ninterface = \"lan\"\naddress = \"{address}\"\nmac = \"{mac}\"\n"
        );
    }
    file
}

/// The program at the other end.
struct Wire {
    program: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Wire {
    /// Connects to an appliance that is ready, and waits until both links are up.
    fn connect(directory: &Path) -> Self {
        let loaded = loaded();
        let loaded = loaded.iter().enumerate().map(|(at, service)| service.scenario(at));
        let services: Vec<Value> = loaded.chain([0, 499, 998].map(other_scenario)).collect();
        let scenario = json!({
            // The appliance's worker has core 1 to itself.
            "core": if thread::available_parallelism().is_ok_and(|cores| cores.get() > 2) { 2 } else { 0 },
            "window": WINDOW,
            "clients": {
                "socket": socket(directory, "clients"), "appliance": WAN,
                "appliance_address": "10.1.0.2", "gateway": GATEWAY,
            },
            "servers": {
                "socket": socket(directory, "servers"), "appliance": LAN,
                "appliance_address": "10.2.0.2", "gateway": GATEWAY,
            },
            "services": services,
        });
        let file = directory.join("scenario.json");
        fs::write(&file, scenario.to_string()).expect("temporary files can be written");

        let mut command = Command::new(env!("CARGO_BIN_EXE_wire"));
        command.arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = command.spawn().expect("the wire program starts");
        let commands = program.stdin.take().expect("piped");
        let answers = BufReader::new(program.stdout.take().expect("piped"));
        let mut wire = Self { program, commands, answers };
        assert_eq!(wire.answer()["up"], true);
        wire
    }

    fn tell(&mut self, command: &str) -> Value {
        writeln!(self.commands, "{command}").expect("the wire program listens");
        self.answer()
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the wire program answers");
        serde_json::from_str(&line)
            .unwrap_or_else(|why| panic!("the wire program said {line:?}: {why}"))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // It has nothing to put away; both calls fail only if it has ended already.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("expected a number, found {value}"))
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list of numbers").iter().map(number).collect()
}

fn summary(report: &Value) -> String {
    format!(
        "clients sent {} frames in {} connections, servers got {} and answered {}, clients got \
         {}; lost {}, wrong {}; changes of configuration seen {}; ARP {}",
        report["sent"],
        report["connections"],
        report["delivered"],
        report["answers_sent"],
        report["answers_delivered"],
        report["lost"],
        report["faults"],
        report["changes"],
        report["arp"],
    )
}
