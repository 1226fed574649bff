//! The appliance's own TCP, UDP and ICMP on the data ports, as the kernel of a client's machine sees them.

use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sluice_tests::appliance::INTERFACES_ONLY;
use sluice_tests::lab::{APPLIANCE, DIRECT, GATEWAY, Lab, both};
use sluice_tests::rig::{Rig, at};
use sluice_tests::service::direct;

sluice_tests::cases! {
    on in_band;
    the_api_answers_on_every_own_address_of_both_families,
    a_large_answer_arrives_whole_also_far_away,
    it_does_not_answer_on_a_virtual_address,
    a_port_where_nobody_listens_refuses_at_once,
    a_hundred_who_connect_at_once_are_all_let_in,
    one_who_says_nothing_is_shown_the_door,
}

/// An appliance with the API on the data ports as well.
fn in_band() -> Rig {
    let listening = INTERFACES_ONLY.replace("[admin]\n", "[admin]\nin_band = true\n");
    Rig::boot_with(Lab::build(), &listening)
}

fn url(address: IpAddr, path: &str) -> String {
    format!("https://{}{path}", at(address, 9443))
}

fn the_api_answers_on_every_own_address_of_both_families(rig: &mut Rig) {
    let token = format!("Authorization: Bearer {}", rig.appliance.token());
    let accepted = rig.appliance.get("/counters")["in_band"]["accepted"].as_u64().unwrap();
    for address in both(APPLIANCE).into_iter().chain(both(GATEWAY)) {
        let inside = both(GATEWAY).contains(&address);
        let machine = if inside { &rig.translated()[0].namespace } else { &rig.client().namespace };
        let url = url(address, "/api/v1/status");
        let answer = machine.shell(&format!("curl -sSk --max-time 10 -H '{token}' '{url}'"));
        assert!(answer.contains("\"node\":\"lb1\""), "{address}: {answer}");
        let stranger =
            machine.shell(&format!("curl -sSk --max-time 10 -w '%{{http_code}}' '{url}'"));
        assert!(stranger.ends_with("401"), "{address}: {stranger}");
    }
    let now = rig.appliance.get("/counters")["in_band"]["accepted"].as_u64().unwrap();
    assert_eq!(now - accepted, 8);
}

fn a_large_answer_arrives_whole_also_far_away(rig: &mut Rig) {
    let path = "/api/docs/swagger-ui-bundle.js";
    let own = rig.appliance.https(&[], path).body;
    assert!(own.len() > 1_000_000);
    for machine in [&rig.client().namespace, &rig.far_client().namespace] {
        let file = rig.lab.directory().join(machine.name());
        let begun = Instant::now();
        for address in both(APPLIANCE) {
            let url = url(address, path);
            machine.shell(&format!("curl -sSk --max-time 30 -o {} '{url}'", file.display()));
            assert!(std::fs::read(&file).unwrap() == own, "{address}");
        }
        println!("{} bytes twice in {:?}", own.len(), begun.elapsed());
    }
}

fn it_does_not_answer_on_a_virtual_address(rig: &mut Rig) {
    rig.serve([&direct("web", DIRECT, "80").to_all(rig.direct())]);
    let failed = rig.client().curl(&["-sSk", "--max-time", "2", &url(DIRECT.into(), "/healthz")]);
    assert!(!failed.status.success());
    rig.serve([]);
}

fn a_port_where_nobody_listens_refuses_at_once(rig: &mut Rig) {
    for address in both(APPLIANCE) {
        let times = [(); 3].map(|()| {
            let begun = Instant::now();
            let refused = rig.client().open(&at(address, 81)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{address}");
            begun.elapsed()
        });
        let best = times.iter().min();
        assert!(
            best < Some(&Duration::from_millis(900)),
            "{address}: {times:?}, not the first time"
        );

        let socket = rig.client().datagrams(&at(address, 81));
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send(b"anybody?").unwrap();
        let refused = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{address}");
    }
}

fn a_hundred_who_connect_at_once_are_all_let_in(rig: &mut Rig) {
    let to = at(APPLIANCE, 9443);
    let client = rig.client();
    let open: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..100).map(|_| scope.spawn(|| client.open(&to))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(open.iter().all(Result::is_ok), "{:?}", open.iter().find(|it| it.is_err()));
    let counted = rig.appliance.get("/counters")["in_band"].clone();
    assert!(counted["connections"].as_u64() >= Some(100), "{counted}");
    assert_eq!(counted["backlog_full"], 0);
    drop(open);
    rig.appliance.wait_until("/counters", "they are gone", |counters| {
        counters["in_band"]["connections"] == 0
    });
}

fn one_who_says_nothing_is_shown_the_door(rig: &mut Rig) {
    let mut stream = rig.client().open(&at(APPLIANCE, 9443)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let begun = Instant::now();
    let ended = stream.read(&mut [0; 16]);
    assert!(
        matches!(&ended, Ok(0)) || ended.is_err_and(|it| it.kind() == ErrorKind::ConnectionReset)
    );
    assert!(begun.elapsed() < Duration::from_secs(15));
}
