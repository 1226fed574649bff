//! Two hundred servers that fail and come back together, again and again, and what that leaves behind. The figures are
//! printed, so that a log of the tests holds them.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use controlplane::events::KEPT;
use controlplane::report::Event;
use nix::sys::socket::{self, Backlog};
use serde_json::json;
use sluice_tests::appliance::Appliance;
use sluice_tests::figure;
use sluice_tests::held::Held;
use sluice_tests::lab::Lab;
use sluice_tests::process::Background;
use sluice_tests::rig::Rig;
use sluice_tests::server::Server;

sluice_tests::cases! {
    on boot;
    ten_thousand_flaps_end_in_the_right_state_and_leave_nothing_behind,
}

const SERVERS: u16 = 200;
const PORT: u16 = 8084;

/// All threads of the appliance allocate from the same stock: what each would keep for itself could be told from a leak
/// only after many more flaps.
fn boot() -> Rig {
    let lab = Lab::build();
    let mut appliance = Appliance::new(&lab.appliance, &lab.directory().join("appliance"));
    appliance.set_variable("MALLOC_ARENA_MAX", "1");
    appliance.start();
    Rig { appliance, lab }
}

/// Who listens for all of them.
struct Door {
    listener: Arc<TcpListener>,
    porter: Option<thread::JoinHandle<()>>,
}

impl Door {
    fn open(machine: &Server) -> Self {
        let listener = machine.namespace.enter(|| {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            socket::listen(&listener, Backlog::new(1024)?)?; // all may come at once
            Ok::<_, std::io::Error>(listener)
        });
        let listener = Arc::new(listener.expect("the port is free"));
        let own = Arc::clone(&listener);
        let porter = thread::spawn(move || while own.accept().is_ok() {});
        Self { listener, porter: Some(porter) }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // From here on connections are refused, and nobody waits for them any more.
        let shut = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        let ended = self.porter.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || (shut.is_ok() && ended.is_some_and(|it| it.is_ok())));
    }
}

/// How many events there were, by what changed and its new state.
type Counts = BTreeMap<(String, String), u64>;

/// By the metrics.
fn counted(rig: &Rig) -> Counts {
    let metrics = rig.appliance.request("GET", "/metrics", None).expect("an answer").text();
    let of_events = metrics.lines().filter_map(|line| line.strip_prefix("sluice_events_total{"));
    let count = |line: &str| {
        let (labels, number) = line.split_once("} ")?;
        let (subject, new) = labels.split_once(',')?;
        let value = |label: &str| Some(label.split('"').nth(1)?.to_owned());
        Some(((value(subject)?, value(new)?), number.parse().ok()?))
    };
    of_events.map(|line| count(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

/// Who hears of every event since the start.
struct Follower {
    #[expect(dead_code, reason = "ended when the test is over")]
    program: Background,
    lines: Receiver<String>,
    events: Vec<Event>,
    /// The state of each, as the last event says.
    states: HashMap<String, String>,
}

impl Follower {
    fn of(appliance: &Appliance) -> Self {
        let mut command = appliance.command(&["ctl", "--socket"]);
        command.arg(appliance.socket()).args(["events", "--follow", "--after", "0", "--json"]);
        let mut program = Background::start(command.stdout(Stdio::piped()));
        let said = BufReader::new(program.child().stdout.take().expect("piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            said.lines().map_while(Result::ok).try_for_each(|it| sender.send(it))
        });
        Self { program, lines, events: Vec::new(), states: HashMap::new() }
    }

    fn hear(&mut self) {
        let line = self.lines.recv_timeout(Duration::from_secs(10)).expect("another event");
        let event: Event =
            serde_json::from_str(&line).unwrap_or_else(|why| panic!("{line}: {why}"));
        assert_eq!(event.number, self.events.len() as u64 + 1);
        let before = self.states.insert(event.what(), event.new.clone());
        assert!(before.is_none_or(|it| it == event.old), "{event:?}");
        self.events.push(event);
    }

    fn until_servers(&mut self, are: impl Fn(&str) -> bool) {
        let servers = |it: &Self| {
            let states = it.states.iter().filter(|(what, _)| what.starts_with("server many/"));
            states.filter(|(_, state)| are(state)).count()
        };
        while servers(self) < usize::from(SERVERS) {
            self.hear();
        }
    }

    /// And the service as well.
    fn until_all_are(&mut self, state: &str) {
        self.until_servers(|it| it == state);
        while self.states["service many"] != state {
            self.hear();
        }
    }

    /// How often servers have come back.
    fn flaps(&self) -> usize {
        let is_one = |event: &&Event| event.subject == "server" && event.new == "up";
        self.events.iter().filter(is_one).count()
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for event in &self.events {
            let new = if event.subject == "configuration" { "changed" } else { &event.new };
            *counts.entry((event.subject.clone(), new.into())).or_default() += 1;
        }
        counts
    }

    /// All servers come, and all fail again.
    fn flap(&mut self, machine: &Server) {
        let door = Door::open(machine);
        self.until_servers(|it| it == "up");
        drop(door);
        self.until_servers(|it| it == "down" || it == "closing");
    }
}

/// While nothing changes.
fn all_agree(rig: &Rig, follower: &Follower, state: &str) {
    let status = rig.appliance.get("/status");
    let servers = status["services"][0]["servers"].as_array().expect("servers");
    assert_eq!(servers.len(), usize::from(SERVERS));
    for server in servers {
        assert_eq!((&server["wanted"], &server["actual"]), (&json!("online"), &json!(state)));
    }
    assert_eq!(counted(rig), follower.counts());
    let kept = rig.appliance.get(&format!("/events?limit={KEPT}"));
    let kept: Vec<Event> = serde_json::from_value(kept).expect("a list of events");
    assert_eq!(kept.len(), KEPT);
    assert!(kept.iter().eq(follower.events.iter().rev().take(KEPT)), "the newest are kept");
}

fn ten_thousand_flaps_end_in_the_right_state_and_leave_nothing_behind(rig: &mut Rig) {
    const FLAPS: usize = 10_000;
    let check = json!({
        "type": "connect", "interval": "100ms", "timeout": "1s", "rise": 1, "fall": 1, "port": PORT,
    });
    rig.serve([&rig.many(SERVERS).with("check", check)]);
    let mut follower = Follower::of(&rig.appliance);
    let machine = &rig.direct()[0];
    let start = Instant::now();
    while follower.events.len() < 2 * KEPT {
        follower.flap(machine); // the list of events is full then, and none of the first are in it
    }
    let before = follower.flaps();
    let mut held = vec![(0, rig.appliance.held())];
    while follower.flaps() < before + FLAPS {
        follower.flap(machine);
        held.push((follower.flaps() - before, rig.appliance.held()));
    }
    follower.until_all_are("down");
    let took = start.elapsed();
    for (flaps, held) in held.iter().step_by(10) {
        figure!("after {flaps} flaps: {held}");
    }
    figure!("{} flaps, {} events in {took:.1?}", follower.flaps(), follower.events.len());
    all_agree(rig, &follower, "down");

    // The most of each stretch, because the allocator gives pages back at times.
    let most = |of: fn(&Held) -> u64, flaps: RangeInclusive<usize>| {
        let then = held.iter().filter(|(number, _)| flaps.contains(number));
        then.map(|(_, held)| of(held)).max().expect("there were some")
    };
    let growth = |of| most(of, FLAPS - 1_000..=usize::MAX).saturating_sub(most(of, 0..=2_000));
    let (resident, anonymous) = (growth(|it| it.resident), growth(|it| it.anonymous));
    figure!("8,000 flaps left {resident} kB, of these {anonymous} kB the program's own");
    assert!(resident < 800 && anonymous < 800, "200 bytes a flap would be 1,600 kB");
    // One more may just be opening or closing.
    assert!(growth(|it| it.files) < 8, "files stay open");
    assert!(growth(|it| it.threads) < 8, "threads stay");

    let _door = Door::open(machine);
    follower.until_all_are("up");
    all_agree(rig, &follower, "up");
    rig.serve([]); // and nobody is asked any more
}
