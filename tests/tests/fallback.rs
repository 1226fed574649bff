//! What answers in place of servers that have all failed: a server of its own, or a page.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;
use sluice_tests::lab::{DIRECT, TRANSLATED, ipv6};
use sluice_tests::process::eventually;
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::{Service, direct, nat};
use sluice_tests::web::{PORT, Web, checked, wait_for, who};

sluice_tests::cases! {
    a_server_by_direct_return_answers_while_all_others_are_down,
    a_server_by_nat_answers_while_all_others_are_down,
    a_page_answers_over_both_families_on_every_port_of_the_service,
}

/// ST-06, ST-09.
fn a_server_by_direct_return_answers_while_all_others_are_down(rig: &mut Rig) {
    let [.., spare] = rig.direct();
    let _web = Web::start(rig, spare, "*");
    let service = direct("dr", DIRECT, &PORT.to_string());
    answers_meanwhile(rig, service, &at(DIRECT, PORT), rig.direct());
}

/// ST-06, ST-09.
fn a_server_by_nat_answers_while_all_others_are_down(rig: &mut Rig) {
    let service = nat("nat", TRANSLATED, "80");
    answers_meanwhile(rig, service, &at(TRANSLATED, 80), rig.translated());
}

/// The third server answers when the two others have failed, and until one of them is back. Its answers
/// come from the virtual address, or nobody would be connected.
fn answers_meanwhile(rig: &Rig, service: Service, to: &str, servers: &[Server; 3]) {
    let [first, second, spare] = servers;
    let [web, other] = [first, second].map(|server| Web::start(rig, server, "*"));
    let port = if service.json()["mode"] == "nat" { json!({ "port": PORT }) } else { json!({}) };
    let service = service.to_with(first, port.clone()).to_with(second, port);
    let fallback = json!({ "address": spare.address });
    rig.serve([&checked(service, false).with("fallback", fallback)]);
    wait_for(rig, first, &["up"]);
    wait_for(rig, second, &["up"]);
    let answered = |count| (0..count).filter_map(|_| who(rig, to)).collect::<Vec<_>>();
    let names = [&first.name, &second.name];
    assert!(answered(6).iter().all(|name| names.contains(&name)), "nobody has failed");
    web.kill();
    wait_for(rig, first, &["closing", "down"]);
    assert_eq!(answered(6), [second.name.as_str(); 6], "one is left");
    other.kill();
    wait_for(rig, second, &["closing", "down"]);
    let is_there = || (who(rig, to).as_ref() == Some(&spare.name)).then_some(());
    assert!(eventually(Duration::from_secs(5), is_there).is_some(), "it answers");
    assert_eq!(answered(6), [spare.name.as_str(); 6], "nobody is left");
    assert_eq!(rig.appliance.get("/status")["services"][0]["fallback"], true);
    let _again = Web::start(rig, first, "*");
    wait_for(rig, first, &["up"]);
    assert_eq!(answered(6), [first.name.as_str(); 6], "one is back");
    assert_eq!(rig.appliance.get("/status")["services"][0]["fallback"], false);
}

/// ST-07, ST-11.
fn a_page_answers_over_both_families_on_every_port_of_the_service(rig: &mut Rig) {
    let pages = rig.appliance.state().join("pages");
    fs::create_dir_all(&pages).expect("the state directory is ours");
    fs::write(pages.join("sorry.html"), "<p>Sorry.</p>").expect("as above");
    let [first, second, _] = rig.direct();
    let own = json!({ "page": "sorry.html" });
    let addresses = [(IpAddr::from(DIRECT), first), (IpAddr::from(ipv6(DIRECT)), second)];
    // Nobody listens at its servers yet.
    let published = addresses.map(|(address, server)| {
        let name = if address.is_ipv4() { "four" } else { "six" };
        let service = direct(name, address, &format!("80,{PORT},8090:8091")).to(server);
        checked(service, false).with("fallback", own.clone())
    });
    rig.serve(&published);
    for (address, server) in addresses {
        wait_for(rig, server, &["closing", "down"]);
        for port in [80, PORT, 8090, 8091] {
            let page = || {
                let response = rig.client().request(&at(address, port), "GET", "/any", b"").ok()?;
                (response.status == 503 && response.text() == "<p>Sorry.</p>").then_some(())
            };
            let shown = eventually(Duration::from_secs(5), page);
            assert!(shown.is_some(), "{address}, port {port}");
        }
        let beyond = rig.client().attempt(&at(address, 8092), 1, Duration::from_millis(300));
        assert!(beyond[0].is_err(), "{address} has no such port");
    }
    rig.serve(&published.map(|service| service.with("fallback", "page")));
    for (address, server) in addresses {
        let page = || {
            let response = rig.client().request(&at(address, 8091), "GET", "/", b"").ok()?;
            (response.status == 503 && response.text().contains("not available")).then_some(())
        };
        let shown = eventually(Duration::from_secs(5), page);
        assert!(shown.is_some(), "the built-in page at {address}");
        let _web = Web::start(rig, server, if address.is_ipv4() { "*" } else { "[::]" });
        wait_for(rig, server, &["up"]);
        assert_eq!(who(rig, &at(address, PORT)).as_ref(), Some(&server.name), "traffic returns");
    }
}
