//! The companion of a real server, on servers that nobody has prepared.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use sluice_tests::agent::{Agent, Copied, Running, program, said, until_it_says};
use sluice_tests::client::server_behind;
use sluice_tests::lab::{DIRECT, TUNNELLED, ipv6};
use sluice_tests::namespace::mac_text;
use sluice_tests::process::{self, Background, eventually};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::{Server, large};
use sluice_tests::service::{Service, direct, tunnel};
use sluice_tests::systemd::Systemd;

sluice_tests::cases! {
    the_arp_problem_is_seen_solved_and_undone_exactly,
    after_the_fix_one_machine_answers_arp_and_the_server_serves,
    after_the_fix_the_server_serves_over_ipv6,
    what_a_running_agent_fixes_stays_until_it_is_undone_when_nobody_relies_on_it,
    an_agent_that_goes_on_is_nobody,
    an_agent_that_was_never_root_serves_where_the_server_is_prepared_and_only_there,
    where_kernel_parameters_are_read_only_the_fix_says_so_and_changes_nothing,
    a_server_behind_a_tunnel_needs_the_agent_alone,
    inner_packets_from_others_than_the_balancers_are_not_let_in,
    the_agent_says_how_idle_the_server_is_in_two_protocols,
    the_agent_answers_under_a_socket_unit_and_under_xinetd,
    an_agent_that_is_told_to_end_asks_for_drain_until_the_service_has_no_connections,
    an_agent_that_is_told_to_end_waits_for_a_second_balancer_and_goes_at_once_when_told_twice,
    clients_notice_nothing_when_systemd_stops_and_starts_a_server,
    the_units_that_come_with_the_agent_are_in_order,
}

fn agent<'r>(rig: &'r Rig, server: &'r Server) -> Agent<'r> {
    Agent::on(server, rig.lab.directory())
}

/// Makes a server of the laboratory one that nobody has prepared for `address`.
fn forget(server: &Server, address: Ipv4Addr) {
    server.answer_arp_for_virtual_addresses();
    server.unpublish(address);
    server
        .namespace
        .shell("sysctl -qw net.ipv6.conf.lo.dad_transmits=1 net.ipv6.conf.lo.accept_dad=1");
}

/// Makes it as the laboratory had it, for the cases that follow.
fn prepare(server: &Server, address: Ipv4Addr) {
    server
        .namespace
        .shell("sysctl -qw net.ipv6.conf.lo.dad_transmits=0 net.ipv6.conf.lo.accept_dad=0");
    server.stop_answering_arp_for_virtual_addresses();
    server.publish_here(address);
}

fn web(rig: &Rig) -> Service {
    direct("web", DIRECT, "80").to(&rig.direct()[0])
}

/// AR-02, AR-03.
fn the_arp_problem_is_seen_solved_and_undone_exactly(rig: &mut Rig) {
    let server = &rig.direct()[0];
    let agent = agent(rig, server);
    let both = format!("--virtual {DIRECT} --virtual {}", ipv6(DIRECT));
    forget(server, DIRECT);
    // One of them in order already: that one is nobody's to undo.
    server.namespace.sysctl("net.ipv4.conf.all.arp_announce", "2");
    let before = agent.surroundings();

    let (told, solved) = agent.run(&format!("verify {both}"));
    assert!(!solved, "{told}");
    assert_eq!(
        told,
        format!(
            "{DIRECT}: no: it is not on lo; eth0 answers ARP for it: arp_ignore is 0\n\
             {}: no: it is not on lo\n",
            ipv6(DIRECT)
        )
    );

    let (done, worked) = agent.run(&format!("fix {both}"));
    assert!(worked, "{done}");
    let lines: BTreeSet<_> = done.lines().collect();
    let added =
        [DIRECT.to_string(), ipv6(DIRECT).to_string()].map(|it| format!("{it} added to lo"));
    assert_eq!(
        lines,
        BTreeSet::from([
            "net.ipv4.conf.all.arp_ignore: 0 -> 1",
            "net.ipv4.conf.eth0.arp_ignore: 0 -> 1",
            "net.ipv4.conf.eth0.arp_announce: 0 -> 2",
            "net.ipv6.conf.lo.dad_transmits: 1 -> 0",
            "net.ipv6.conf.lo.accept_dad: 1 -> 0",
            &added[0],
            &added[1],
        ])
    );
    let shown = server.namespace.shell("ip -o addr show dev lo");
    assert!(shown.contains(&format!("inet {DIRECT}/32 scope global lo")), "{shown}");
    assert!(shown.contains(&format!("inet6 {}/128 scope global", ipv6(DIRECT))), "{shown}");
    assert!(!shown.contains("tentative"), "{shown}");
    let (told, solved) = agent.run(&format!("verify {both}"));
    assert_eq!((told, solved), (format!("{DIRECT}: yes\n{}: yes\n", ipv6(DIRECT)), true));
    assert_eq!(agent.run(&format!("fix {both}")), (String::new(), true), "nothing is left to do");

    let (undone, worked) = agent.run("unfix");
    assert!(worked && undone.lines().count() == 7, "{undone}");
    assert_eq!(agent.surroundings(), before);
    assert_eq!(agent.run("unfix"), (String::new(), true));
    prepare(server, DIRECT);
}

/// AR-01.
fn after_the_fix_one_machine_answers_arp_and_the_server_serves(rig: &mut Rig) {
    let server = &rig.direct()[0];
    rig.serve([&web(rig)]);
    let appliance = mac_text(rig.wan_mac());
    forget(server, DIRECT);
    server.publish_here(DIRECT); // and that alone, as many do
    let asked = || {
        rig.client().forget_neighbours();
        rig.client().arping(DIRECT, 2, 3)
    };
    assert_eq!(asked().len(), 2, "the server answers, too");

    let agent = agent(rig, server);
    assert!(agent.run(&format!("fix --virtual {DIRECT}")).1);

    assert_eq!(asked(), BTreeSet::from([appliance]));
    rig.client().forget_neighbours();
    assert_eq!(rig.client().connect(&at(DIRECT, 80), 3).from(server), 3);
    agent.run("unfix");
    prepare_again(server);
}

/// The address is still there from before.
fn prepare_again(server: &Server) {
    server
        .namespace
        .shell(&format!("ip addr del {DIRECT}/32 dev lo; ip addr del {}/128 dev lo", ipv6(DIRECT)));
    prepare(server, DIRECT);
}

/// AR-03.
fn after_the_fix_the_server_serves_over_ipv6(rig: &mut Rig) {
    let server = &rig.direct()[0];
    forget(server, DIRECT);
    let agent = agent(rig, server);
    assert!(agent.run(&format!("fix --virtual {}", ipv6(DIRECT))).1);
    rig.serve([&direct("web6", ipv6(DIRECT), "80").to(server)]);

    assert_eq!(rig.client().connect(&at(ipv6(DIRECT), 80), 3).from(server), 3);

    agent.run("unfix");
    prepare(server, DIRECT);
}

/// Also when it was killed, and when another command came in between.
fn what_a_running_agent_fixes_stays_until_it_is_undone_when_nobody_relies_on_it(rig: &mut Rig) {
    let server = &rig.direct()[0];
    let agent = agent(rig, server);
    forget(server, DIRECT);
    let before = agent.surroundings();
    let line = format!("run --virtual {DIRECT} --drain-time 0");
    let place = at(server.address, 3333);
    rig.serve([&web(rig)]);
    let is_number = |said: &str| said.ends_with("%\n");
    let serves = || assert_eq!(rig.client().connect(&at(DIRECT, 80), 3).from(server), 3);

    let mut killed = agent.start(&line);
    until_it_says(rig.client(), &place, is_number);
    serves();
    killed.signal(Signal::SIGKILL);
    killed.end();
    serves();

    let mut running = agent.start(&line);
    until_it_says(rig.client(), &place, is_number);
    assert_eq!(agent.run(&format!("fix --virtual {DIRECT}")), (String::new(), true));
    let (refusal, undone) = agent.run("unfix");
    assert!(!undone && refusal.contains("relies on"), "{refusal}");
    let mut second = agent.start(&format!("decapsulate --virtual {DIRECT}"));
    running.signal(Signal::SIGTERM);
    assert!(running.end().success());
    serves();
    let refused = || agent.run("unfix").0.contains("relies on");
    assert!(refused(), "the second does");
    second.signal(Signal::SIGTERM);
    assert!(second.end().success());
    serves();

    let (undone, worked) = agent.run("unfix");
    assert!(worked && undone.contains(&format!("undone: {DIRECT} added to lo")), "{undone}");
    assert_eq!(agent.surroundings(), before);
    prepare(server, DIRECT);
}

/// Whoever gets the better of it by its port has nothing.
fn an_agent_that_goes_on_is_nobody(rig: &mut Rig) {
    let server = &rig.direct()[0];
    let agent = agent(rig, server);
    let place = at(server.address, 3333);
    for line in ["", "--virtual 10.1.0.100", "--virtual 10.1.0.100 --decapsulate"] {
        let line = format!("run --drain-time 0 {line}");
        let running = Running::by(agent.command_as("--groups 27,100", &program(), &line));
        until_it_says(rig.client(), &place, |said| percent(said).is_some());
        for ids in ["Uid", "Gid"] {
            assert_eq!(running.status(ids), ["65534"; 4], "{line}");
        }
        assert_eq!(running.status("Groups"), [""; 0], "{line}");
        for kind in ["CapPrm", "CapEff"] {
            assert_eq!(running.status(kind), ["0000000000000000"], "{line}");
        }
    }
}

/// Under a unit with a user of its own, say: it can note nothing, and has no need to where all is in order.
fn an_agent_that_was_never_root_serves_where_the_server_is_prepared_and_only_there(rig: &mut Rig) {
    let server = &rig.direct()[0];
    let open = Copied::of_the_program();
    let agent = Agent::on(server, open.folder());
    let user = "--reuid 65534 --regid 65534 --clear-groups";
    let as_nobody = |line: &str| agent.command_as(user, &open.program, line);
    let place = at(server.address, 3333);
    let line = format!("run --virtual {DIRECT} --drain-time 0");
    let served = |meanwhile: &dyn Fn()| {
        let mut running = Running::by(as_nobody(&line));
        until_it_says(rig.client(), &place, |said| percent(said).is_some());
        meanwhile();
        running.signal(Signal::SIGTERM);
        assert!(running.end().success());
    };
    served(&|| ());

    forget(server, DIRECT);
    let before = agent.surroundings();
    for line in [&format!("fix --virtual {DIRECT}"), &line] {
        let (refusal, worked) = Agent::run_by(as_nobody(line), line);
        assert!(!worked && refusal.contains("Permission denied"), "{line}: {refusal}");
    }
    assert_eq!(agent.surroundings(), before);

    assert!(agent.run(&format!("fix --virtual {DIRECT}")).1);
    served(&|| {
        let (refusal, undone) = agent.run("unfix");
        assert!(!undone && refusal.contains("relies on"), "{refusal}");
    });
    assert!(agent.run("unfix").1);
    assert_eq!(agent.surroundings(), before);
    prepare(server, DIRECT);
}

/// As in a container.
fn where_kernel_parameters_are_read_only_the_fix_says_so_and_changes_nothing(rig: &mut Rig) {
    let server = &rig.direct()[0];
    let agent = agent(rig, server);
    let read_only = |line: &str| {
        let script = "mount --bind /proc/sys /proc/sys
                      mount -o remount,bind,ro /proc/sys
                      exec \"$@\"";
        let mut command = server.namespace.command("unshare");
        command.args(["--mount", "sh", "-ec", script, "sh"]);
        let own = agent.command(line);
        command.args(own.get_args().skip_while(|word| !word.as_encoded_bytes().starts_with(b"/")));
        process::output(&mut command)
    };
    forget(server, DIRECT);
    let before = agent.surroundings();
    let line = format!("fix --virtual {DIRECT}");

    let refused = read_only(&line);

    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{complaint}");
    let wanted = "cannot set net.ipv4.conf.all.arp_ignore to 1: Read-only file system (os error 30); in a \
                  container it is for the host to set";
    assert!(complaint.contains(wanted), "{complaint}");
    assert_eq!(agent.surroundings(), before);
    assert_eq!(agent.run("unfix"), (String::new(), true), "nothing was noted");
    server.stop_answering_arp_for_virtual_addresses();
    assert!(read_only(&line).status.success(), "where the host has set them");
    assert!(agent.run("unfix").1);
    prepare(server, DIRECT);
}

// ----------------------------------------------------------------------------------------- tunnels

/// FWD-12 with our own decapsulator: every pair of an outer and an inner IP, bare and in UDP, with filters of
/// the reverse path as strict as can be.
fn a_server_behind_a_tunnel_needs_the_agent_alone(rig: &mut Rig) {
    rig.lab.tunnelled[0].stop_decapsulating();
    let server = &rig.lab.tunnelled[0];
    forget(server, TUNNELLED);
    for which in ["all", "default", "eth0", "lo"] {
        server.namespace.sysctl(&format!("net.ipv4.conf.{which}.rp_filter"), "1");
    }
    let agent = agent(rig, server);
    let before = agent.surroundings();
    let (v4, v6) = (TUNNELLED, ipv6(TUNNELLED));
    let client = rig.client();
    let service = |name: &str, inner: &str, outer: serde_json::Value, carrier: &str| {
        let service = match inner {
            "v4" => tunnel(name, v4, "80"),
            _ => tunnel(name, v6, "80"),
        };
        let service = service.to_with(server, json!({ "address": outer }));
        match carrier {
            "ipip" => service,
            _ => service.with("encapsulation", carrier).with("gue_port", 6081),
        }
    };
    let outer = [json!(server.address), json!(server.ipv6())];
    rig.serve([&service("one", "v4", outer[0].clone(), "ipip")]);
    let refused = client.attempt(&at(v4, 80), 1, Duration::from_secs(1)).remove(0);
    assert!(refused.is_err(), "nobody takes the outer header off");

    let line = format!("decapsulate --virtual {v4} --virtual {v6} --gue-port 6081");
    let mut running = agent.start(&line);

    let solved = || agent.run(&format!("verify --virtual {v4} --virtual {v6}")).1.then_some(());
    eventually(Duration::from_secs(10), solved).expect("the ARP problem is solved besides");
    for carrier in ["ipip", "gue"] {
        for outer in &outer {
            let services = ["v4", "v6"].map(|inner| service(inner, inner, outer.clone(), carrier));
            rig.serve(&services);
            for address in [at(v4, 80), at(v6, 80)] {
                let answers = client.connect(&address, 5);
                assert_eq!(answers.from(server), 5, "{carrier} in {outer} to {address}");
                let peers: Vec<_> = answers.peers().into_iter().collect();
                let own =
                    client.address_like(address.parse::<std::net::SocketAddr>().unwrap().ip());
                assert_eq!(peers, [own], "the server sees the client");
            }
        }
    }
    rig.serve([&service("one", "v4", outer[0].clone(), "ipip").with("clamp_mss", true)]);
    let up = client.request(&at(v4, 80), "PUT", "/uploads/agent", &large());
    assert_eq!(up.expect("an answer").status, 201);
    assert!(server.uploaded("agent") == Some(large()), "two megabytes, byte for byte");
    let curl = client.namespace.shell(&format!("curl -sS -m 10 http://{v4}/"));
    assert!(curl.contains(&format!("\"server\":\"{}\"", server.name)), "{curl}");

    running.signal(Signal::SIGTERM);
    assert!(running.end().success());
    assert!(agent.run("unfix").1);
    assert_eq!(agent.surroundings(), before);
}

/// Its server is left by the case above.
fn inner_packets_from_others_than_the_balancers_are_not_let_in(rig: &mut Rig) {
    if agent(rig, &rig.tunnelled()[1]).run(&format!("verify --virtual {TUNNELLED}")).1 {
        rig.lab.tunnelled[1].stop_decapsulating();
        forget(&rig.lab.tunnelled[1], TUNNELLED);
    }
    let server = &rig.lab.tunnelled[1];
    let agent = agent(rig, server);
    rig.serve([&tunnel("tun", TUNNELLED, "80").to(server)]);
    let attempt = |patience| {
        rig.client().attempt(&at(TUNNELLED, 80), 1, Duration::from_secs(patience)).remove(0).is_ok()
    };
    let started = |line: &str| {
        let running =
            agent.start(&format!("decapsulate --virtual {TUNNELLED} --gue-port 6081 {line}"));
        let solved = || agent.run(&format!("verify --virtual {TUNNELLED}")).1.then_some(());
        eventually(Duration::from_secs(10), solved).expect("it works");
        running
    };

    let others = started("--from 10.1.0.3");
    assert!(!attempt(2));
    drop(others);
    let balancers = started("--from 10.1.0.3,10.1.0.2");
    assert!(attempt(10));
    drop(balancers);
}

// ---------------------------------------------------------------------------------------- feedback

fn percent(said: &str) -> Option<u8> {
    said.strip_suffix("%\n")?.parse().ok().filter(|idle| *idle <= 100)
}

/// AG-02, AG-06, AG-07.
fn the_agent_says_how_idle_the_server_is_in_two_protocols(rig: &mut Rig) {
    let server = &rig.direct()[1];
    let agent = agent(rig, server);
    let client = rig.client();
    let line = "run --metric conns --max-connections 10 --ports 80 --http 8888 --drain-time 0";
    let mut running = agent.start(line);
    let place = at(server.address, 3333);
    until_it_says(client, &place, |said| said == "100%\n");
    assert_eq!(said(client, &at(server.ipv6(), 3333)).ok().as_deref(), Some("100%\n"));

    let held: Vec<_> =
        (0..4).map(|_| client.open(&at(server.address, 80)).expect("a connection")).collect();
    until_it_says(client, &place, |said| said == "60%\n");
    let response =
        client.namespace.shell(&format!("curl -sS http://{}/", at(server.address, 8888)));
    assert_eq!(response, "60\n");
    drop(held);
    until_it_says(client, &place, |said| said == "100%\n");

    running.signal(Signal::SIGTERM);
    assert!(running.end().success());
    let (once, _) = agent.run("once --metric cpu,ram,conns --mix 50,30,20");
    assert!(percent(&once).is_some(), "{once:?}");
}

/// AG-07: by the means of systemd without its manager, and by xinetd with the file that comes with the agent.
fn the_agent_answers_under_a_socket_unit_and_under_xinetd(rig: &mut Rig) {
    let server = &rig.direct()[1];
    let client = rig.client();
    let place = at(server.address, 3333);
    let program = program();
    let mut systemd = server.namespace.command("systemd-socket-activate");
    systemd.args(["--inetd", "--listen=3333"]).arg(&program).args(["run", "--listen", "stdin"]);
    systemd.args(["--drain-time", "0"]);
    let mut systemd = Background::start(&mut systemd);
    for _ in 0..3 {
        until_it_says(client, &place, |said| percent(said).is_some());
    }
    systemd.stop();
    assert!(said(client, &place).is_err(), "nobody listens any more");

    let shipped = include_str!("../../agent/packaging/lb-feedback.xinetd");
    let file = rig.lab.directory().join("xinetd.conf");
    let open = Copied::of_the_program();
    let path = open.program.display().to_string();
    let here = shipped.replace("/usr/local/sbin/sluice-agent", &path);
    assert!(here.contains("= nobody"), "{here}");
    std::fs::write(&file, here).expect("the laboratory's directory can be written to");
    let mut xinetd = server.namespace.command("xinetd");
    xinetd.args(["-dontfork", "-filelog", "/dev/null", "-f"]).arg(&file);
    xinetd.arg("-pidfile").arg(rig.lab.directory().join("xinetd.pid"));
    let mut xinetd = Background::start(&mut xinetd);
    for _ in 0..3 {
        until_it_says(client, &place, |said| percent(said).is_some());
    }
    xinetd.stop();
}

fn an_agent_that_is_told_to_end_asks_for_drain_until_the_service_has_no_connections(rig: &mut Rig) {
    let server = &rig.direct()[1];
    let client = rig.client();
    let mut running = agent(rig, server).start("run --ports 80 --drain-time 5m");
    let place = at(server.address, 3333);
    until_it_says(client, &place, |said| percent(said).is_some());
    let held = client.open(&at(server.address, 80)).expect("a connection");

    running.signal(Signal::SIGTERM);

    until_it_says(client, &place, |said| said == "drain\n");
    std::thread::sleep(Duration::from_secs(2)); // it looks every second
    assert!(running.runs(), "a client is still there");
    assert_eq!(server_behind(&held).ok().as_deref(), Some(server.name.as_str()));
    assert_eq!(said(client, &place).ok().as_deref(), Some("drain\n"));
    drop(held);
    assert!(running.end().success());
}

fn an_agent_that_is_told_to_end_waits_for_a_second_balancer_and_goes_at_once_when_told_twice(
    rig: &mut Rig,
) {
    let server = &rig.direct()[1];
    let place = at(server.address, 3333);
    let balancers = &rig.lab.clients;
    let mut running = agent(rig, server).start("run --ports 80 --drain-time 5m --settle 1s");
    for _ in 0..2 {
        balancers.iter().for_each(|it| drop(until_it_says(it, &place, |it| percent(it).is_some())));
    }

    running.signal(Signal::SIGTERM);

    until_it_says(&balancers[0], &place, |said| said == "drain\n");
    std::thread::sleep(Duration::from_secs(3)); // more than it waits when everybody knows
    assert!(running.runs(), "the second does not know");
    assert_eq!(said(&balancers[1], &place).ok().as_deref(), Some("drain\n"));
    assert!(running.end().success());

    let mut running = agent(rig, server).start("run --ports 80 --drain-time 5m");
    until_it_says(&balancers[0], &place, |said| percent(said).is_some());
    running.signal(Signal::SIGTERM);
    until_it_says(&balancers[0], &place, |said| said == "drain\n");
    running.signal(Signal::SIGTERM);
    assert!(running.end().success());
}

// ----------------------------------------------------------------------------------------- systemd

const UNIT: &str = include_str!("../../agent/packaging/sluice-agent.service");
const FOR_NGINX: &str = include_str!("../../agent/packaging/sluice-agent-nginx.conf");

/// New connections, one after another, while `work` is done; what came of those that failed.
fn connecting(rig: &Rig, work: impl FnOnce()) -> Vec<String> {
    let (over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut failures = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let outcome = rig.client().attempt(&at(DIRECT, 80), 1, Duration::from_secs(3));
                failures.extend(outcome.into_iter().filter_map(Result::err));
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
            failures.iter().map(ToString::to_string).collect()
        });
        work();
        let seen = count.load(Ordering::Relaxed);
        let more = || (count.load(Ordering::Relaxed) > seen + 50).then_some(());
        eventually(Duration::from_secs(20), more).expect("the client goes on");
        over.store(true, Ordering::Relaxed);
        client.join().expect("the client does not panic")
    })
}

/// The unit and its drop-in as they are delivered, and an nginx that ends at once when it is told to. The server
/// has not been prepared.
fn clients_notice_nothing_when_systemd_stops_and_starts_a_server(rig: &mut Rig) {
    let nginx = rig.lab.direct[0].stop_serving();
    let [server, second, _] = rig.direct();
    forget(server, DIRECT);
    let units = [
        ("sluice-agent.service", UNIT),
        ("sluice-agent.service.d/nginx.conf", FOR_NGINX),
        ("nginx.service", &format!("[Service]\nExecStart={nginx}\n")),
        ("multi-user.target", "[Unit]\n"),
    ];
    let options = format!("--virtual {DIRECT} --ports 80");
    let systemd = Systemd::start(server, rig.lab.directory(), &options, &units);
    systemd.ctl(&["enable", "sluice-agent"]);
    let service = direct("web", DIRECT, "80")
        .with("agent", json!({ "method": "agent", "interval": "1s", "timeout": "1s" }))
        .with("check", json!({ "type": "connect", "interval": "500ms", "virtual": true }))
        .to_all([server, second]);
    rig.serve([&service]);
    let standing = |wanted: &str, answers: bool| {
        rig.appliance.wait_until("/status", wanted, |all| {
            let it = &all["services"][0]["servers"][0];
            it["actual"] == wanted && it["agent"]["answer"].is_string() == answers
        });
    };
    let serves = || assert!(rig.client().connect(&at(DIRECT, 80), 4).from(server) > 0);
    standing("down", false);

    systemd.ctl(&["start", "nginx"]);
    standing("up", true);
    serves();

    let started = Instant::now();
    let failures = connecting(rig, || drop(systemd.ctl(&["stop", "nginx"])));
    let took = started.elapsed();
    assert_eq!(failures, [""; 0], "{}", systemd.log());
    assert!(took < Duration::from_secs(25), "it need not take the whole time: {took:?}");
    assert_eq!(systemd.output(&["is-active", "sluice-agent"]).stdout, b"inactive\n");
    let shown = server.namespace.shell("ip -o addr show dev lo");
    assert!(shown.contains(&DIRECT.to_string()), "{shown}");
    standing("down", false);

    systemd.ctl(&["start", "nginx"]);
    standing("up", true);
    serves();

    let failures = connecting(rig, || drop(systemd.ctl(&["restart", "nginx"])));
    assert_eq!(failures, [""; 0], "{}", systemd.log());
    standing("up", true);
    serves();

    systemd.ctl(&["kill", "--signal=KILL", "nginx"]);
    standing("down", true);
    assert_eq!(systemd.ctl(&["is-active", "sluice-agent"]), "active\n");
    systemd.ctl(&["start", "nginx"]);
    standing("up", true);
    serves();

    systemd.stop();
    server.namespace.shell(&format!("ip addr del {DIRECT}/32 dev lo"));
    prepare(server, DIRECT);
    rig.lab.direct[0].serve();
}

/// By systemd's own judgement, and none of it with a warning.
fn the_units_that_come_with_the_agent_are_in_order(rig: &mut Rig) {
    let packaging = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/packaging");
    let folder = rig.lab.directory().join("units");
    let program = program().display().to_string();
    std::fs::create_dir_all(folder.join("sluice-agent.service.d")).expect("a folder can be made");
    let names =
        ["sluice-agent.service", "sluice-agent-feedback.service", "sluice-agent-feedback.socket"];
    for (name, to) in names
        .map(|name| (name, name))
        .into_iter()
        .chain([("sluice-agent-nginx.conf", "sluice-agent.service.d/nginx.conf")])
    {
        let text = std::fs::read_to_string(format!("{packaging}/{name}")).expect("it is there");
        let here = text.replace("/usr/local/sbin/sluice-agent", &program);
        std::fs::write(folder.join(to), here).expect("the folder can be written to");
    }
    let nginx = "[Service]\nExecStart=/usr/sbin/nginx\n";
    std::fs::write(folder.join("nginx.service"), nginx).expect("as above");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).args(names);
    verify.env("SYSTEMD_UNIT_PATH", format!("{}:", folder.display()));
    let judged = process::output(&mut verify);
    let said = String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success() && said.is_empty(), "{said}");
}
