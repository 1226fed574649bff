//! `sluice ctl` against a real node, over the Unix socket and over TLS.

use std::fs;

use clap::Parser;
use controlplane::client::Ctl;
use serde_json::Value;

use crate::rig::{Rig, wait_for_the_unreachable};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    ctl: Ctl,
}

/// What the command prints, or its complaint.
fn ctl(arguments: &[&str]) -> Result<String, String> {
    let line = Line::try_parse_from(["ctl"].iter().chain(arguments)).expect("right usage");
    line.ctl.answer().map_err(|error| error.to_string())
}

/// The same on a rig's Unix socket.
fn on(rig: &Rig, arguments: &[&str]) -> Result<String, String> {
    let socket = rig.socket();
    ctl(&[&["--socket", socket.to_str().unwrap()], arguments].concat())
}

#[test]
fn tables_show_what_there_is() {
    let rig = Rig::start();
    wait_for_the_unreachable(&rig);
    let status = on(&rig, &["status"]).unwrap();
    for part in ["lb1 (active)", "10.0.0.2/24", "web1", "10.0.0.12", "unreachable"] {
        assert!(status.contains(part), "{part} in\n{status}");
    }
    let services = on(&rig, &["services"]).unwrap();
    assert!(services.lines().count() == 3 && services.contains("tcp+udp"), "{services}");
    let servers = on(&rig, &["servers", "dns"]).unwrap();
    assert!(servers.contains("192.168.1.53:5353") && !servers.contains("web1"), "{servers}");
    assert!(on(&rig, &["servers", "none"]).unwrap_err().contains("there is no service none"));
    assert!(on(&rig, &["neighbours"]).unwrap().contains("02:00:00:00:00:11"));
    assert!(on(&rig, &["routes"]).unwrap().contains("10.0.0.1"));
    assert!(on(&rig, &["interfaces"]).unwrap().contains("net_ring"));
    assert!(on(&rig, &["counters"]).unwrap().contains("transmitted"));
}

#[test]
fn pages_are_put_shown_and_removed() {
    let rig = Rig::start();
    let file = rig.directory.path().join("page");
    fs::write(&file, "<p>sorry</p>\n").unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(on(&rig, &["pages", "put", "sorry.html", file]).unwrap(), "done\n");
    let listed = on(&rig, &["pages", "list"]).unwrap();
    assert!(listed.contains("sorry.html") && listed.contains(" 13 "), "{listed}");
    assert_eq!(on(&rig, &["pages", "get", "sorry.html"]).unwrap(), "<p>sorry</p>\n");
    let refused = on(&rig, &["pages", "put", "../admin.token", file]).unwrap_err();
    assert!(refused.contains("expected a name for a page"), "{refused}");
    assert_eq!(on(&rig, &["pages", "remove", "sorry.html"]).unwrap(), "done\n");
    let gone = on(&rig, &["pages", "get", "sorry.html"]).unwrap_err();
    assert!(gone.contains("there is no page sorry.html"), "{gone}");
}

#[test]
fn json_is_the_apis_own() {
    let rig = Rig::start();
    for (command, path) in [
        (&["config", "get", "--json"][..], "/api/v1/config"),
        (&["--json", "interfaces"], "/api/v1/interfaces"),
        (&["routes", "--json"], "/api/v1/routes"),
    ] {
        let printed: Value = serde_json::from_str(&on(&rig, command).unwrap()).unwrap();
        assert_eq!(printed, rig.ask("GET", path).json());
    }
}

#[test]
fn a_configuration_that_is_printed_can_be_put_back() {
    let rig = Rig::start();
    let before = rig.ask("GET", "/api/v1/config");
    let file = rig.directory.path().join("next.toml");
    let text = on(&rig, &["config", "get"]).unwrap();
    fs::write(&file, &text).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(on(&rig, &["config", "validate", file]).unwrap(), "it would change nothing\n");
    on(&rig, &["config", "put", file]).unwrap();
    assert_eq!(rig.ask("GET", "/api/v1/config").etag(), before.etag());

    fs::write(file, text.replace("weight = 50", "weight = 70")).unwrap();
    let verdict = on(&rig, &["config", "validate", file]).unwrap();
    assert!(verdict.contains("web2"), "{verdict}");
    let stale = on(&rig, &["config", "put", file, "--if-match", "\"0\""]).unwrap_err();
    assert!(stale.contains("has changed since you read it"), "{stale}");
    on(&rig, &["config", "put", file, "--if-match", before.etag()]).unwrap();
    let server = rig.ask("GET", "/api/v1/services/web/servers/web2").json();
    assert_eq!(server["weight"], 70);

    fs::write(file, text.replace("weight = 50", "weight = \"heavy\"\ncolour = \"red\"")).unwrap();
    let refused = on(&rig, &["config", "put", file]).unwrap_err();
    assert!(refused.contains("nothing was changed"), "{refused}");
    assert_eq!(refused.matches("service[0].server[1]").count(), 2, "{refused}");
}

#[test]
fn services_and_servers_come_and_go() {
    let rig = Rig::start();
    let file = rig.directory.path().join("part.toml");
    let path = file.to_str().unwrap();
    fs::write(&file, "name = \"mail\"\naddress = \"10.0.0.110\"\nports = \"25\"\n").unwrap();
    assert_eq!(on(&rig, &["service", "add", path]).unwrap(), "done\n");
    fs::write(&file, "{ \"name\": \"m1\", \"address\": \"10.0.0.21\" }").unwrap();
    assert_eq!(on(&rig, &["server", "add", "mail", path]).unwrap(), "done\n");
    assert_eq!(on(&rig, &["weight", "mail/m1", "5"]).unwrap(), "done\n");
    assert_eq!(rig.ask("GET", "/api/v1/services/mail/servers/m1").json()["weight"], 5);
    for (command, state) in [("drain", "drain"), ("halt", "halt"), ("online", "online")] {
        assert_eq!(on(&rig, &[command, "mail/m1"]).unwrap(), "done\n");
        assert_eq!(rig.ask("GET", "/api/v1/services/mail/servers/m1").json()["state"], state);
    }
    assert!(on(&rig, &["halt", "mail/m2"]).unwrap_err().contains("there is no server m2"));
    assert!(on(&rig, &["server", "add", "mail", path]).unwrap_err().contains("already"));
    assert_eq!(on(&rig, &["server", "remove", "mail/m1"]).unwrap(), "done\n");
    assert_eq!(on(&rig, &["service", "remove", "mail"]).unwrap(), "done\n");
    let gone = on(&rig, &["service", "remove", "mail"]).unwrap_err();
    assert!(gone.contains("there is no service mail"), "{gone}");
}

#[test]
fn a_remote_node_is_asked_over_tls_with_its_token() {
    let rig = Rig::start();
    let url = format!("https://localhost:{}", rig.port);
    let (state, token) = (rig.state(), rig.token());
    let (ca, file) = (state.join("admin-cert.pem"), state.join("admin.token"));
    let (ca, file) = (ca.to_str().unwrap(), file.to_str().unwrap());
    let url = ["--url", &url];
    let ask = |rest: &[&str]| ctl(&[&url, rest, &["services"]].concat());

    assert!(ask(&["--ca", ca, "--token", &token]).unwrap().contains("web"));
    assert!(ask(&["--insecure", "--token-file", file]).unwrap().contains("web"));
    let unknown = ask(&["--token", &token]).unwrap_err();
    assert!(unknown.to_lowercase().contains("certificate"), "{unknown}");
    let stranger = ask(&["--ca", ca, "--token", "wrong"]).unwrap_err();
    assert!(stranger.contains("admin.token"), "{stranger}");
}

#[test]
fn nobody_there_is_said_with_the_place() {
    let complaint = ctl(&["--socket", "/nowhere/admin.sock", "status"]).unwrap_err();
    assert!(complaint.contains("/nowhere/admin.sock"), "{complaint}");
    let complaint = ctl(&["--url", "https://127.0.0.1:1", "--insecure", "status"]).unwrap_err();
    assert!(complaint.contains("127.0.0.1:1"), "{complaint}");
    let complaint = ctl(&["--url", "http://127.0.0.1:1", "status"]).unwrap_err();
    assert!(complaint.contains("expected https://"), "{complaint}");
}

#[test]
fn wrong_usage_is_told_before_anything_is_asked() {
    for arguments in [
        &["weight", "web1", "5"][..],
        &["weight", "web/web1", "65536"],
        &["flows", "--server", "web1"],
        &["flows", "--limit", "0"],
        &["explain", "--from", "192.0.2.9:1"],
        &["--url", "https://x", "--socket", "/x", "status"],
        &["drain", "web1"],
        &["halt"],
        &[],
    ] {
        let line = Line::try_parse_from(["ctl"].iter().chain(arguments));
        assert_eq!(line.err().expect("wrong usage").exit_code(), 2, "{arguments:?}");
    }
}
