//! What goes wrong with servers, and what their clients notice: real nginx, killed and started again.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_tests::http;
use sluice_tests::lab::{APPLIANCE, DIRECT, GATEWAY, PROXIED, TRANSLATED, TUNNELLED, ipv6};
use sluice_tests::process::eventually;
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{Service, direct, nat, snat, tunnel};
use sluice_tests::web::{self, PORT, Web, ask_again, checked, state, wait_for};

sluice_tests::cases! {
    a_killed_server_gets_no_new_connections_and_the_others_keep_theirs,
    a_server_that_goes_silent_is_out_as_soon_as_one_that_refuses,
    another_interval_counts_from_the_next_question_on,
    a_killed_server_takes_nobody_elses_connections_along_in_any_mode,
    a_drain_over_rest_is_known_at_once,
    a_page_answers_when_all_servers_have_failed_and_only_then,
    the_last_server_goes_on_where_that_is_asked_for,
    a_server_without_the_virtual_address_is_named_and_gets_nobody,
    a_server_that_listens_on_its_own_address_alone_says_so,
    a_server_that_lacks_the_virtual_address_does_not_answer_pings_there,
    a_translated_server_with_another_gateway_is_named_and_gets_nobody,
}

/// Of the checks.
const INTERVAL: Duration = Duration::from_millis(200);

fn translated(servers: &[Server]) -> Service {
    let service = nat("web", TRANSLATED, "80");
    let to = |service: Service, server| service.to_with(server, json!({ "port": PORT }));
    checked(servers.iter().fold(service, to), false)
}

/// Who answers a new connection, or what status it has if that is no server's.
fn who(rig: &Rig) -> Option<String> {
    web::who(rig, &at(TRANSLATED, 80))
}

/// A connection that is kept, and whose it is.
fn held(rig: &Rig, server: &Server) -> TcpStream {
    let found = (0..10).find_map(|_| {
        let mut stream = rig.client().open(&at(TRANSLATED, 80)).ok()?;
        (ask_again(&mut stream)? == server.name).then_some(stream)
    });
    found.expect("a connection to it")
}

fn a_killed_server_gets_no_new_connections_and_the_others_keep_theirs(rig: &mut Rig) {
    let [first, second, _] = rig.translated();
    let webs = [first, second].map(|server| Web::start(rig, server, "*"));
    let [web, other] = webs;
    rig.serve([&translated(&rig.translated()[..2])]);
    wait_for(rig, first, &["up"]);
    wait_for(rig, second, &["up"]);
    let mut kept = held(rig, second);
    let mut web = Some(web);
    let is_out_in_time = |_| {
        let running = web.take().unwrap_or_else(|| Web::start(rig, first, "*"));
        wait_for(rig, first, &["up"]);
        running.kill();
        let killed = Instant::now();
        let out = || (state(rig, first)["actual"] != "up").then(|| killed.elapsed());
        let took = eventually(Duration::from_secs(10), out).expect("it is noticed");
        println!("out after {took:?}");
        took < INTERVAL * 2 + Duration::from_millis(200)
    };
    // Others may need the machine, too.
    assert!((0..3).any(is_out_in_time), "three times late");
    for _ in 0..20 {
        assert_eq!(who(rig).as_deref(), Some(second.name.as_str()));
    }
    assert_eq!(ask_again(&mut kept).as_deref(), Some(second.name.as_str()), "it was not touched");
    let told = state(rig, first);
    assert_eq!(told["wanted"], "online");
    let reason = told["reason"].as_str().expect("a reason");
    assert_eq!(reason, format!("connect to {} refused, 2 of 2", at(first.address, PORT)));
    let again = Web::start(rig, first, "*");
    wait_for(rig, first, &["up"]);
    let answers: Vec<_> = (0..20).filter_map(|_| who(rig)).collect();
    assert_eq!(answers.iter().filter(|name| **name == first.name).count(), 10, "{answers:?}");
    assert_eq!(ask_again(&mut kept).as_deref(), Some(second.name.as_str()));
    drop((again, other));
}

/// How many checks have been answered, or not in time.
fn asked(rig: &Rig) -> u64 {
    let metrics = rig.appliance.request("GET", "/metrics", None).expect("an answer").text();
    let line = metrics.lines().find_map(|line| line.strip_prefix("sluice_checks_total "));
    line.and_then(|number| number.parse().ok()).expect("it is counted")
}

/// HC-01. Packets to the server vanish right after it was found well, which is the longest that can pass until its last
/// question.
fn a_server_that_goes_silent_is_out_as_soon_as_one_that_refuses(rig: &mut Rig) {
    const SILENCE: &str = "nft -f - <<END
        table inet silence {
            chain early {
                type filter hook prerouting priority -300;
                drop
            }
        }
END";
    let [first, second, _] = rig.translated();
    let _webs = [first, second].map(|server| Web::start(rig, server, "*"));
    let is_out_in_time = |kind: &str| {
        let check = json!({
            "type": kind, "interval": "1s", "timeout": "500ms", "rise": 2, "fall": 2, "port": PORT,
        });
        let unasked = json!({ "port": PORT, "check": { "type": "on" } });
        let service = nat("web", TRANSLATED, "80").with("check", check);
        let service = service.to_with(first, json!({ "port": PORT })).to_with(second, unasked);
        rig.serve([&service]);
        wait_for(rig, first, &["up"]);
        let before = asked(rig);
        eventually(Duration::from_secs(10), || (asked(rig) > before).then_some(())).expect("it is");
        first.namespace.shell(SILENCE);
        let silent = Instant::now();
        let out = || (state(rig, first)["actual"] != "up").then(|| silent.elapsed());
        let took = eventually(Duration::from_secs(10), out);
        let others: Vec<_> = (0..20).filter_map(|_| who(rig)).collect();
        let told = state(rig, first);
        first.namespace.shell("nft flush ruleset");
        let took = took.expect("it is noticed");
        println!("{kind}: {took:?}");
        assert_eq!(others, vec![second.name.clone(); 20], "{kind}");
        let reason = format!("no answer from {} within 500 ms, 2 of 2", at(first.address, PORT));
        assert_eq!(told["reason"], reason.as_str(), "{kind}");
        wait_for(rig, first, &["up"]);
        took < Duration::from_millis(2200)
    };
    for kind in ["connect", "http"] {
        // Others may need the machine, too.
        assert!((0..3).any(|_| is_out_in_time(kind)), "{kind}: three times late");
    }
}

/// HC-13.
fn another_interval_counts_from_the_next_question_on(rig: &mut Rig) {
    const OWN_PORT: u16 = 8082;
    let [first, ..] = rig.translated();
    let address = first.address;
    let (tell, times) = mpsc::channel();
    let server = first.namespace.spawn(move || {
        let listener = TcpListener::bind((address, OWN_PORT)).expect("the port is free");
        while let Ok(_stream) = listener.accept()
            && tell.send(Instant::now()).is_ok()
        {}
    });
    let check = json!({ "type": "connect", "interval": "3s", "port": OWN_PORT });
    rig.serve([&nat("web", TRANSLATED, "80").to(first).with("check", check)]);
    let next = || times.recv_timeout(Duration::from_secs(20)).expect("it is asked");
    let (mut last, mut pause) = (next(), Duration::ZERO);
    while pause < Duration::from_secs(2) {
        let now = next(); // the first ones come at once, whatever the interval
        (last, pause) = (now, now - last);
    }
    // One may have been told late: then the next pause is the longer.
    let now = next();
    pause = pause.max(now - last);
    last = now;
    assert!(pause > Duration::from_millis(2900), "{pause:?}");
    let changed = json!({ "check": { "interval": "1s" } });
    rig.appliance.rest("PATCH", "/services/web", Some(changed));
    let mut pauses = Vec::new();
    let is_right =
        |pause: &Duration| pause.abs_diff(Duration::from_secs(1)) <= Duration::from_millis(50);
    while pauses.len() < 20 && pauses.iter().filter(|it| is_right(it)).count() < 2 {
        let now = next(); // the machine may be busy: the best two count
        pauses.push(now - last);
        last = now;
    }
    assert_eq!(pauses.iter().filter(|it| is_right(it)).count(), 2, "{pauses:?}");
    drop(times);
    server.join().expect("it has been asked once more");
}

fn a_killed_server_takes_nobody_elses_connections_along_in_any_mode(rig: &mut Rig) {
    let port = PORT.to_string();
    let services = [
        (direct("dr", DIRECT, &port).to_all(rig.direct()), DIRECT),
        (nat("nat", TRANSLATED, &port).to_all(rig.translated()), TRANSLATED),
        (snat("snat", PROXIED, &port).to_all(rig.tunnelled()), PROXIED),
        (tunnel("tun", TUNNELLED, &port).to_all(rig.tunnelled()), TUNNELLED),
    ];
    let killed = ["dr1", "nat1", "tun1"];
    for quiescent in [true, false] {
        let running = rig.lab.servers().map(|it| (it.name.as_str(), Web::start(rig, it, "*")));
        let (doomed, others): (Vec<_>, Vec<_>) =
            running.partition(|(name, _)| killed.contains(name));
        let published = services
            .each_ref()
            .map(|(service, _)| checked(service.clone(), false).with("quiescent", quiescent));
        rig.serve(&published);
        until_up(rig, 12);
        let to = services.iter().flat_map(|(_, address)| [(); 6].map(|()| at(*address, PORT)));
        let mut held: Vec<_> = to
            .map(|to| {
                let mut stream = rig.client().open(&to).expect("a connection");
                let whose = ask_again(&mut stream).expect("an answer");
                (stream, to, whose)
            })
            .collect();
        doomed.into_iter().for_each(|(_, web)| web.kill());
        until_up(rig, 8);
        for (stream, to, whose) in &mut held {
            let answer = ask_again(stream);
            let expected = (!killed.contains(&whose.as_str())).then_some(whose);
            assert_eq!(answer.as_ref(), expected.as_deref(), "{to}, quiescent: {quiescent}");
        }
        let cut = held.iter().filter(|(.., whose)| killed.contains(&whose.as_str())).count();
        assert_eq!(cut, 8, "two of each service's six connections");
        rig.serve([]);
        drop(others);
    }
}

/// Waits until so many servers of all services are up.
fn until_up(rig: &Rig, count: usize) {
    rig.appliance.wait_until("/status", &format!("{count} servers are up"), |status| {
        let services = status["services"].as_array().expect("services");
        let servers = services.iter().flat_map(|it| it["servers"].as_array().expect("servers"));
        servers.filter(|it| it["actual"] == "up").count() == count
    });
}

/// HC-21.
fn a_drain_over_rest_is_known_at_once(rig: &mut Rig) {
    let [first, second, _] = rig.translated();
    let _webs = [first, second].map(|server| Web::start(rig, server, "*"));
    rig.serve([&translated(&rig.translated()[..2])]);
    wait_for(rig, first, &["up"]);
    wait_for(rig, second, &["up"]);
    let mut kept = held(rig, first);
    let ask = |action: &str| {
        let path = format!("/services/web/servers/{}/{action}", first.name);
        let begun = Instant::now();
        rig.appliance.rest("POST", &path, None);
        begun.elapsed()
    };
    let took = ask("drain");
    for _ in 0..20 {
        assert_eq!(who(rig).as_deref(), Some(second.name.as_str()));
    }
    assert_eq!(ask_again(&mut kept).as_deref(), Some(first.name.as_str()), "it goes on");
    assert_eq!(state(rig, first)["actual"], "drain");
    // Others may need the machine, too.
    let times = [took, ask("online"), ask("drain"), ask("online"), ask("drain")];
    assert!(times.iter().min() < Some(&Duration::from_millis(100)), "{times:?}");
}

/// ST-06, ST-08.
fn a_page_answers_when_all_servers_have_failed_and_only_then(rig: &mut Rig) {
    let [first, second, _] = rig.translated();
    let servers = &rig.translated()[..2];
    let webs = [first, second].map(|server| Web::start(rig, server, "*"));
    rig.serve([&translated(servers)]);
    wait_for(rig, first, &["up"]);
    wait_for(rig, second, &["up"]);
    webs.into_iter().for_each(Web::kill);
    let page = || {
        let stream = rig.client().open(&at(TRANSLATED, 80)).ok()?;
        http::exchange(stream, "GET", "/anything", &[], b"").ok().filter(|it| it.status == 503)
    };
    let response = eventually(Duration::from_secs(10), page).expect("the page answers");
    assert!(response.text().contains("not available"), "{}", response.text());
    let posted = rig.client().request(&at(TRANSLATED, 80), "POST", "/", b"x").expect("an answer");
    assert_eq!(posted.status, 405);
    // ST-11: the operator's own, and what he makes of it while it answers.
    let shows = |text: &str| page().filter(|it| it.text() == text).is_some();
    put_page(rig, "<p>We are moving house.</p>");
    let own = json!({ "fallback": { "page": "moving.html" } });
    rig.appliance.rest("PATCH", "/services/web", Some(own));
    for text in ["<p>We are moving house.</p>", "<p>We are <b>still</b> moving.</p>"] {
        put_page(rig, text);
        let shown = eventually(Duration::from_secs(5), || shows(text).then_some(()));
        assert!(shown.is_some(), "{text}");
    }
    let again = Web::start(rig, first, "*");
    wait_for(rig, first, &["up"]);
    for _ in 0..10 {
        assert_eq!(who(rig).as_deref(), Some(first.name.as_str()), "traffic returns");
    }
    for server in servers {
        let path = format!("/services/web/servers/{}/halt", server.name);
        rig.appliance.rest("POST", &path, None);
    }
    let new = rig.client().attempt(&at(TRANSLATED, 80), 1, Duration::from_millis(300));
    assert!(new[0].is_err(), "taken offline by hand");
    drop(again);
}

fn put_page(rig: &Rig, text: &str) {
    let stream = UnixStream::connect(rig.appliance.socket()).expect("the socket is answered");
    let html = [("Content-Type", "text/html")];
    let put =
        http::exchange(stream, "PUT", "/api/v1/pages/moving.html", &html, text.as_bytes()).unwrap();
    assert!([200, 201].contains(&put.status), "{}", put.text());
}

/// ST-05.
fn the_last_server_goes_on_where_that_is_asked_for(rig: &mut Rig) {
    let [first, second, _] = rig.translated();
    let [web, other] = [first, second].map(|server| Web::start(rig, server, "*"));
    let check = json!({
        "type": "connect", "interval": "200ms", "timeout": "150ms", "rise": 50, "fall": 2, "port": PORT,
    });
    let service = translated(&rig.translated()[..2]).with("last_server", "keep");
    rig.serve([]); // or what failed in other cases would need fifty passes to be up
    rig.serve([&service.with("check", check)]);
    wait_for(rig, first, &["up"]);
    wait_for(rig, second, &["up"]);
    web.kill();
    wait_for(rig, first, &["closing", "down"]);
    other.kill();
    wait_for(rig, second, &["closing", "down"]);
    let again = Web::start(rig, second, "*");
    let answered = eventually(Duration::from_secs(5), || who(rig));
    assert_eq!(answered.as_deref(), Some(second.name.as_str()));
    assert_ne!(state(rig, second)["actual"], "up", "it serves before its check says that it may");
    drop(again);
}

/// HC-17, AR-08, RP-11.
fn a_server_without_the_virtual_address_is_named_and_gets_nobody(rig: &mut Rig) {
    let [first, second, _] = rig.direct();
    first.unpublish(DIRECT);
    let _webs = [first, second].map(|server| Web::start(rig, server, "*"));
    let service = direct("unsolved", DIRECT, &PORT.to_string()).to(first).to(second);
    rig.serve([&checked(service, true)]);
    wait_for(rig, second, &["up"]);
    wait_for(rig, first, &["closing", "down"]);
    let told = state(rig, first);
    let reason = told["reason"].as_str().expect("a reason");
    let expected = format!("answers on its own address but not on the virtual address {DIRECT}");
    assert!(reason.starts_with(&expected), "{reason}");
    assert!(reason.contains("the ARP problem is not solved there"), "{reason}");
    let answers = || (0..20).filter_map(|_| web::who(rig, &at(DIRECT, PORT)));
    assert_eq!(answers().filter(|name| *name == second.name).count(), 20);
    first.publish_here(DIRECT);
    wait_for(rig, first, &["up"]);
    assert_eq!(answers().filter(|name| *name == first.name).count(), 10);
}

/// HC-17, AR-09.
fn a_server_that_listens_on_its_own_address_alone_says_so(rig: &mut Rig) {
    let [first, second, _] = rig.direct();
    let own = first.address.to_string();
    let _webs = [Web::start(rig, first, &own), Web::start(rig, second, "*")];
    let service = direct("web", DIRECT, &PORT.to_string()).to(first).to(second);
    rig.serve([&checked(service, true)]);
    wait_for(rig, second, &["up"]);
    wait_for(rig, first, &["closing", "down"]);
    let told = state(rig, first);
    let reason = told["reason"].as_str().expect("a reason");
    assert!(reason.contains("not on the virtual address"), "{reason}");
    assert!(reason.contains("the application does not listen on it"), "{reason}");
}

/// HC-17, AR-08: its own address answers pings as before.
fn a_server_that_lacks_the_virtual_address_does_not_answer_pings_there(rig: &mut Rig) {
    let [first, second, third] = rig.direct();
    let service = direct("web", DIRECT, "80").to(first).to(second);
    let ping = json!({ "type": "ping", "interval": "200ms", "timeout": "150ms", "virtual": true });
    let beside = direct("web6", ipv6(DIRECT), "80").to(third);
    rig.serve([&service.with("check", ping.clone()), &beside.with("check", ping)]);
    rig.direct().iter().for_each(|server| wait_for(rig, server, &["up"]));
    let (lacks, lacks6) = (format!("{DIRECT}/32 dev lo"), format!("{}/128 dev lo", ipv6(DIRECT)));
    first.namespace.ip(&format!("addr del {lacks}\n"));
    third.namespace.ip(&format!("addr del {lacks6}\n"));
    for server in [first, third] {
        wait_for(rig, server, &["closing", "down"]);
        let told = state(rig, server);
        let reason = told["reason"].as_str().expect("a reason");
        assert!(reason.contains("answers on its own address but not on the virtual"), "{reason}");
        assert!(reason.contains("the address is missing on its loopback"), "{reason}");
    }
    assert_eq!(state(rig, second)["actual"], "up");
    first.namespace.ip(&format!("addr add {lacks}\n"));
    third.namespace.ip(&format!("addr add {lacks6} nodad\n"));
    rig.direct().iter().for_each(|server| wait_for(rig, server, &["up"]));
}

/// Another router on the translated servers' wire, which leads to the clients past the appliance.
const OTHER_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);

/// Gives the router a leg on the translated servers' wire.
fn lay_way_around(rig: &Rig) {
    let router = &rig.lab.router;
    rig.lab.fabric.ip(&format!(
        "link add l.router type veth peer name lan netns {}
         link set l.router master lan up\n",
        router.name()
    ));
    router.speak_ipv6("lan");
    router.ip(&format!(
        "link set lan up
         addr add {OTHER_GATEWAY}/24 dev lan
         addr add {}/64 dev lan nodad\n",
        ipv6(OTHER_GATEWAY)
    ));
}

/// How many of a client's next two connections open.
fn opened_of_two(rig: &Rig) -> usize {
    let to = (TRANSLATED, 80).into();
    let open = |_: &i32| TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok();
    rig.client().namespace.enter(|| (0..2).filter(open).count())
}

/// AR-08, RP-11: its answers to our address on its own wire come as before.
fn a_translated_server_with_another_gateway_is_named_and_gets_nobody(rig: &mut Rig) {
    let [first, second, third] = rig.translated();
    let _webs =
        [(first, "*"), (second, "*"), (third, "[::]")].map(|(it, at)| Web::start(rig, it, at));
    let port = json!({ "port": PORT });
    let services = |also_from_afar| {
        let service = nat("web", TRANSLATED, "80").to_with(first, port.clone());
        let beside = nat("web6", ipv6(TRANSLATED), "80").to_with(third, port.clone());
        let service = service.to_with(second, port.clone());
        [service, beside].map(|service| checked(service, also_from_afar))
    };
    lay_way_around(rig);
    let lead = |gateway: Ipv4Addr| {
        first.namespace.ip(&format!("route replace default via {gateway}\n"));
        third.namespace.ip(&format!("route replace default via {}\n", ipv6(gateway)));
    };
    lead(OTHER_GATEWAY);
    rig.serve(&services(false));
    rig.translated().iter().for_each(|server| wait_for(rig, server, &["up"]));
    assert_eq!(opened_of_two(rig), 1, "one of two hangs, and nothing says so");
    lead(GATEWAY);
    rig.serve(&services(true));
    rig.translated().iter().for_each(|server| wait_for(rig, server, &["up"]));
    assert_eq!(opened_of_two(rig), 2);

    let before = rig.appliance.books();
    let are_out_in_time = |_| {
        lead(GATEWAY);
        rig.translated().iter().for_each(|server| wait_for(rig, server, &["up"]));
        lead(OTHER_GATEWAY);
        let misled = Instant::now();
        let are_out = || {
            let services = rig.appliance.get("/status")["services"].clone();
            let is_out = |service: usize| services[service]["servers"][0]["actual"] != "up";
            (is_out(0) && is_out(1)).then(|| misled.elapsed())
        };
        let took = eventually(Duration::from_secs(10), are_out).expect("it is noticed");
        println!("out after {took:?}");
        took < INTERVAL * 2 + Duration::from_millis(200)
    };
    // Others may need the machine, too.
    assert!((0..3).any(are_out_in_time), "three times late");
    for (server, source, at) in [
        (first, APPLIANCE.to_string(), at(first.address, PORT)),
        (third, ipv6(APPLIANCE).to_string(), at(third.ipv6(), PORT)),
    ] {
        let told = state(rig, server);
        let reason = told["reason"].as_str().expect("a reason");
        let expected = format!("answers when asked from its own subnet but not from {source}: ");
        assert!(reason.starts_with(&expected), "{reason}");
        assert!(reason.contains("its default gateway must be the appliance"), "{reason}");
        assert!(
            reason.ends_with(&format!("(no answer from {at} within 150 ms, 2 of 2)")),
            "{reason}"
        );
    }
    assert!(rig.appliance.books().dropped("spoofed_source") > before.dropped("spoofed_source"));
    let answers = || (0..20).filter_map(|_| who(rig));
    assert_eq!(answers().filter(|name| *name == second.name).count(), 20);

    lead(GATEWAY);
    rig.translated().iter().for_each(|server| wait_for(rig, server, &["up"]));
    assert_eq!(answers().filter(|name| *name == first.name).count(), 10);
    let six = web::who(rig, &at(ipv6(TRANSLATED), 80));
    assert_eq!(six.as_deref(), Some(third.name.as_str()));

    first.namespace.ip("route del default\n");
    wait_for(rig, first, &["closing", "down"]);
    lead(GATEWAY);
    wait_for(rig, first, &["up"]);
    rig.lab.router.ip("link del lan\n");
    rig.serve([]);
}
