//! What is accepted as a check, and that what is refused is told where it is.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

use super::*;
use crate::field::Invalid;

/// Every kind with all the settings that it can have.
fn every_kind() -> Vec<Value> {
    let tls = json!({
        "tls": true, "verify": false, "sni": "www.example.com", "alpn": ["x"], "port": 4443,
    });
    let page = json!({
        "host": "www.example.com", "path": "/check.txt", "method": "HEAD", "status": "200-299,304",
        "expect": "OK", "port": 8081, "virtual": true,
    });
    let login = json!({ "user": "u", "password": "p" });
    let kinds = [
        ("on", vec![]),
        ("off", vec![]),
        ("connect", vec![json!({ "port": 8081, "virtual": true })]),
        ("ping", vec![json!({ "virtual": true })]),
        ("http", vec![page.clone()]),
        ("https", vec![page.clone(), json!({ "ca": "/etc/ca.pem", "sni": "a.test" })]),
        ("http2", vec![page, tls.clone()]),
        ("grpc", vec![tls.clone(), json!({ "service": "shop.Cart", "host": "a.test" })]),
        ("ftp", vec![login.clone(), json!({ "path": "check.txt", "expect_regex": "O[kK]+" })]),
        ("imap", vec![login.clone(), tls.clone()]),
        ("pop", vec![login.clone(), tls.clone()]),
        ("smtp", vec![tls.clone(), json!({ "expect": "SIZE" })]),
        ("ldap", vec![login.clone(), tls.clone(), json!({ "expect": "dc=test" })]),
        ("nntp", vec![login.clone(), tls.clone()]),
        ("dns", vec![json!({ "query": "a.test", "query_type": "AAAA", "expect": "2001:db8::7" })]),
        ("mysql", vec![login.clone()]),
        ("sip", vec![json!({ "user": "alice", "transport": "tcp", "status": "200,404" })]),
        ("telnet", vec![json!({ "expect": "login:" })]),
        ("redis", vec![login, tls.clone()]),
        ("amqp", vec![tls.clone()]),
        ("tcp", vec![tls, json!({ "send": "hello\r\n", "expect": "world" })]),
        ("udp", vec![json!({ "send_hex": "00ff17", "expect": "pong" })]),
        ("script", vec![json!({ "path": "/usr/bin/check", "arguments": ["a b"], "port": 1 })]),
        ("5", vec![json!({ "negotiate": "http", "expect": "OK" })]),
        ("10", vec![json!({ "negotiate": "dns", "query": "a.test" })]),
    ];
    let pace = json!({
        "interval": "250ms", "timeout": "100ms", "negotiate_timeout": "1m", "rise": 3, "fall": 4,
        "jitter": 5, "back_off": "1m",
    });
    let whole = |(kind, parts): (&str, Vec<Value>)| {
        let mut whole = json!({ "type": kind });
        for part in parts.iter().chain([&pace]) {
            for (name, value) in part.as_object().unwrap() {
                whole[name] = value.clone();
            }
        }
        whole
    };
    kinds.into_iter().map(whole).collect()
}

fn document(check: &Value, server: Value) -> Value {
    json!({
        "interface": [{ "name": "lan", "device": "kernel:lan", "addresses": ["10.0.0.2/24"] }],
        "service": [{
            "name": "s", "address": "10.0.0.100", "ports": "80", "check": check, "server": [server],
        }],
    })
}

fn reading(check: &Value, server: Value) -> Result<Config, Vec<String>> {
    let told =
        |mistakes: Vec<Invalid>| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>();
    Config::read(&document(check, server)).map_err(told)
}

fn accepted(check: &Value, server: Value) -> Config {
    reading(check, server).unwrap_or_else(|why| panic!("{check}: {why:?}"))
}

fn server() -> Value {
    json!({ "name": "a", "address": "10.0.0.11" })
}

fn server_with(check: Value) -> Value {
    let mut server = server();
    server["check"] = check;
    server
}

/// The one mistake.
fn refusal(check: Value) -> String {
    let mistakes = reading(&check, server()).expect_err("it is refused");
    assert_eq!(mistakes.len(), 1, "{check}: {mistakes:?}");
    mistakes[0].clone()
}

#[test]
fn every_kind_reads_back_as_it_was_written() {
    let all = every_kind();
    assert_eq!(all.len(), CheckKind::ALL.len());
    for written in all {
        for server in [server(), server_with(written.clone())] {
            let config = accepted(&written, server);
            let again = serde_json::to_value(config.document()).unwrap();
            assert_eq!(Config::read(&again).as_ref(), Ok(&config), "{written}");
            for (name, value) in written.as_object().unwrap() {
                let shown = &again["service"][0]["check"][name];
                let implied = name == "verify" && value == false;
                assert!(implied || shown == value, "{written}: {name} is {shown}");
            }
        }
    }
}

#[test]
fn a_setting_that_a_kind_does_not_have_is_refused_by_its_path() {
    let mut all = serde_json::Map::new();
    for written in every_kind() {
        all.extend(written.as_object().unwrap().clone());
    }
    all.remove("negotiate");
    for written in every_kind() {
        let kind = written["type"].as_str().unwrap();
        for (name, value) in &all {
            let both = ["expect", "expect_regex", "send", "send_hex", "ca", "verify"];
            if written.get(name).is_some()
                || both.contains(&name.as_str())
                || ["5", "10"].contains(&kind)
            {
                continue;
            }
            let mut more = written.clone();
            more[name] = value.clone();
            let Err(mistakes) = reading(&more, server()) else {
                let kind = CheckKind::ALL.into_iter().find(|it| it.name() == kind).unwrap();
                assert!(read::has_setting(kind, name), "{more}");
                continue;
            };
            let path = format!("service[0].check.{name}: expected ");
            assert!(mistakes.iter().any(|it| it.starts_with(&path)), "{more}: {mistakes:?}");
        }
    }
    assert_eq!(
        refusal(json!({ "type": "connect", "path": "/" })),
        "service[0].check.path: expected no path: a check of type connect has none, found \"/\""
    );
    assert_eq!(
        refusal(json!({ "type": "ping", "port": 7 })),
        "service[0].check.port: expected no port: a check of type ping has none, found 7"
    );
}

#[test]
fn a_mistake_is_told_where_it_is_with_what_belongs_there() {
    for (written, path, expected) in [
        (json!({ "type": "http", "path": "check.txt" }), "path", "a path, such as /check.txt"),
        (json!({ "type": "http", "path": "/a b" }), "path", "a path"),
        (json!({ "type": "http", "path": "https://a.test/" }), "path", "a path"),
        (
            json!({ "type": "http", "path": "http://a.test:81/" }),
            "path",
            "(the port stands in port)",
        ),
        (json!({ "type": "http", "host": "a\r\nb" }), "host", "a host"),
        (json!({ "type": "http", "method": "get" }), "method", "GET, HEAD"),
        (json!({ "type": "http", "status": "2xx" }), "status", "status codes"),
        (json!({ "type": "http", "status": "200,200" }), "status", "status codes"),
        (json!({ "type": "http", "expect": "" }), "expect", "a text"),
        (
            json!({ "type": "http", "expect_regex": "O[k" }),
            "expect_regex",
            "(unclosed character class)",
        ),
        (json!({ "type": "http", "expect": "a", "expect_regex": "a" }), "expect_regex", "either"),
        (json!({ "type": "tcp", "send": "a", "send_hex": "00" }), "send_hex", "either"),
        (json!({ "type": "udp", "send_hex": "0" }), "send_hex", "pairs"),
        (json!({ "type": "http2", "sni": "a.test" }), "sni", "no sni: tls is false"),
        (json!({ "type": "https", "verify": false, "ca": "/x" }), "ca", "no ca: verify is false"),
        (json!({ "type": "https", "ca": "x.pem" }), "ca", "the absolute path"),
        (json!({ "type": "imap", "user": "u" }), "password", "the user's password"),
        (json!({ "type": "imap", "password": "p" }), "user", "the name of who logs in"),
        (json!({ "type": "ftp", "expect": "OK" }), "path", "a file"),
        (json!({ "type": "ftp", "path": "a\r\nDELE b" }), "path", "a file"),
        (json!({ "type": "dns" }), "query", "a name to ask for"),
        (json!({ "type": "dns", "query": "a..b" }), "query", "a name to ask for"),
        (json!({ "type": "dns", "query": "a", "expect": "::1" }), "expect", "an IPv4 address"),
        (json!({ "type": "script" }), "path", "the absolute path"),
        (json!({ "type": "5" }), "negotiate", "what is asked after the connections"),
        (json!({ "type": "5", "negotiate": "ping" }), "negotiate", "what is asked after"),
        (json!({ "interval": "99ms" }), "interval", "a time from 100ms to 1h, such as"),
        (json!({ "timeout": "0" }), "timeout", "a time from 10ms to 5m"),
        (json!({ "rise": 0 }), "rise", "a whole number, 1 to 100"),
        (json!({ "jitter": 51 }), "jitter", "a whole number, 0 to 50"),
        (json!({ "interval": "1m", "back_off": "59s" }), "back_off", "a time from 1m to 1h"),
        (json!({ "intervall": "1m" }), "intervall", "did you mean \"interval\"?"),
    ] {
        let told = refusal(written.clone());
        let start = format!("service[0].check.{path}: expected ");
        assert!(told.starts_with(&start) && told.contains(expected), "{written}: {told}");
    }
    let told = refusal(json!({ "type": "imap", "user": "u", "password": "almost\n" }));
    assert!(!told.contains("almost"), "{told}");
}

#[test]
fn a_servers_own_check_stands_for_itself_with_a_type_and_else_changes_single_settings() {
    let written = json!({
        "type": "http", "path": "http://a.test/x", "method": "HEAD", "status": 204, "rise": 7,
    });
    let check = |own: Value| {
        let config = accepted(&written, server_with(own));
        let again = serde_json::to_value(config.document()).unwrap();
        assert_eq!(Config::read(&again).as_ref(), Ok(&config));
        let service = &config.services[0];
        service.check_of(&service.servers[0]).clone()
    };
    let service = accepted(&written, server()).services[0].check.clone();

    assert_eq!(check(json!({})), service);
    assert_eq!(check(json!({ "port": 81 })), Check { port: Some(81), ..service.clone() });
    let Kind::Http(page) = check(json!({ "method": "GET", "rise": 1 })).kind else { panic!() };
    assert_eq!((page.method, page.path(), page.host()), (Method::Get, "/x", Some("a.test")));
    let alone = check(json!({ "type": "connect" }));
    assert_eq!(alone, Check { kind: Kind::Connect, ..Check::default() });

    let wrong = reading(&written, server_with(json!({ "query": "a" }))).unwrap_err();
    let path = "service[0].server[0].check.query: expected no query: a check of type http has none";
    assert!(wrong.len() == 1 && wrong[0].starts_with(path), "{wrong:?}");
    // A mistake in the service's table is told once, and there.
    let wrong = reading(&json!({ "type": "http", "path": "x" }), server_with(json!({ "port": 0 })));
    let wrong = wrong.unwrap_err();
    assert!(wrong.len() == 2 && wrong[0].starts_with("service[0].check.path"), "{wrong:?}");
    assert!(wrong[1].starts_with("service[0].server[0].check.port"), "{wrong:?}");
}

#[test]
fn the_port_that_is_asked_is_the_nearest_one_that_is_known() {
    let port = |ports: &str, check: Value, own: Value| {
        let mut document = document(&check, own);
        document["service"][0]["ports"] = json!(ports);
        document["service"][0]["mode"] = json!("nat");
        Config::read(&document).map(|config| {
            let service = &config.services[0];
            service.check_port(&service.servers[0])
        })
    };
    let (http, connect) = (json!({ "type": "http" }), json!({ "type": "connect" }));
    let mut with_port = server();
    with_port["port"] = json!(8080);
    for (ports, check, server, expected) in [
        ("443", json!({ "type": "https", "port": 4443 }), with_port.clone(), Some(4443)),
        ("443", http.clone(), with_port, Some(8080)),
        ("8000", http.clone(), server(), Some(8000)),
        ("22,80", http.clone(), server(), Some(80)),
        ("22,81", http.clone(), server(), Some(22)),
        ("1000-2000", connect.clone(), server_with(json!({ "port": 1500 })), Some(1500)),
        ("*", http, server(), Some(80)),
        ("*", json!({ "type": "ping" }), server(), None),
    ] {
        assert_eq!(port(ports, check.clone(), server), Ok(expected), "{ports} {check}");
    }
    let mistakes = port("1000-2000", connect, server()).unwrap_err();
    assert_eq!(
        mistakes[0].to_string(),
        "service[0].check.port: expected the port to ask, since the service has a range of them, \
         found nothing"
    );
}

/// A node between the networks 10.0.0.0/24 and 2001:db8::/64, where `document` has its service, and others.
fn read_between(interfaces: &[(&str, &[&str])], service: &Value) -> Result<Config, Vec<Invalid>> {
    let interface = |(name, addresses): &(&str, &[&str])| {
        let device = format!("kernel:{name}");
        json!({ "name": name, "device": device, "addresses": addresses })
    };
    let interfaces: Vec<_> = interfaces.iter().map(interface).collect();
    let via = |to: &str, via: &str| json!({ "to": to, "via": via });
    Config::read(&json!({
        "interface": interfaces,
        "route": [via("0.0.0.0/0", "10.0.0.1"), via("10.3.0.0/24", "10.0.0.1")],
        "service": [service],
    }))
}

/// A service with these servers, all asked in the way of their clients' packets.
fn asked_as_clients(mode: &str, address: &str, servers: Value) -> Value {
    json!({
        "name": "web", "address": address, "ports": "80", "mode": mode, "server": servers,
        "check": { "type": "connect", "virtual": true },
    })
}

/// How each server of the only service is asked the second time.
fn ways_of(config: &Config) -> Vec<Option<ClientsWay>> {
    let (service, ways) = (&config.services[0], config.ways());
    service.servers.iter().map(|it| config.asked_as_clients(&ways, service, it)).collect()
}

const WAN: (&str, &[&str]) = ("wan", &["10.0.0.2/24", "2001:db8::2/64"]);
const LAN: (&str, &[&str]) = ("lan", &["10.1.0.2/24", "2001:db8:1::2/64"]);
const OTHER: (&str, &[&str]) = ("other", &["10.9.0.2/24"]);

/// HC-17, AR-08.
#[test]
fn each_server_is_asked_in_the_way_that_its_clients_packets_take() {
    let servers = json!([
        { "address": "10.1.0.11" },
        { "address": "10.0.0.21", "mode": "dr" },
        { "address": "10.3.0.11", "mode": "tun" },
        { "address": "10.1.0.12", "mode": "snat" },
        { "address": "10.1.0.13", "check": { "virtual": false } },
    ]);
    let from = |address: &str| Some(ClientsWay::From(address.parse().unwrap()));
    let at_virtual_address = Some(ClientsWay::VirtualAddress);
    let service = asked_as_clients("nat", "10.0.0.100", servers);
    let config = read_between(&[OTHER, LAN, WAN], &service).unwrap();
    let expected = [from("10.0.0.2"), at_virtual_address, at_virtual_address, None, None];
    assert_eq!(ways_of(&config), expected);
    assert!(config.advice().is_empty(), "{:?}", config.advice());
    let six = json!([{ "address": "2001:db8:1::11" }]);
    let config = read_between(&[OTHER, LAN, WAN], &asked_as_clients("nat", "2001:db8::100", six));
    assert_eq!(ways_of(&config.unwrap()), [from("2001:db8::2")], "one of its family");
}

#[test]
fn a_server_is_asked_from_where_clients_come_from_most_likely() {
    let from = |interfaces: &[_], address: &str| {
        let servers = json!([{ "address": "10.1.0.11" }]);
        let config = read_between(interfaces, &asked_as_clients("nat", address, servers)).unwrap();
        match ways_of(&config)[..] {
            [Some(ClientsWay::From(source))] => source.to_string(),
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(from(&[WAN, OTHER, LAN], "10.9.0.100"), "10.9.0.2", "the virtual address's");
    assert_eq!(from(&[OTHER, WAN, LAN], "10.1.0.100"), "10.0.0.2", "the default route's");
}

#[test]
fn a_server_of_mode_nat_that_cannot_be_asked_as_clients_do_is_told_with_the_reason() {
    let told = |servers: Value| {
        let service = asked_as_clients("nat", "10.0.0.100", servers);
        let read = read_between(&[WAN, LAN], &service);
        read.map(|config| config.advice()).map_err(|mistakes| mistakes[0].to_string())
    };
    let one_armed = json!({ "address": "10.0.0.21" });
    let own = |mut server: Value| {
        server["check"] = json!({ "virtual": true });
        server
    };
    assert_eq!(told(json!([one_armed])), Ok(vec![]), "from the other side");
    let narrow = |servers: Value, virtual_address: &str| {
        let service = asked_as_clients("nat", virtual_address, servers);
        let read = read_between(&[WAN], &service);
        read.map(|config| config.advice()).map_err(|mistakes| mistakes[0].to_string())
    };
    let why = "whether a server of mode nat has us as its gateway shows in its answers to an address of ours, of its \
               family, on another interface than wan, and there is none";
    let refused =
        |at: &str, why: &str| Err(format!("{at}.check.virtual: expected false: {why}, found true"));
    assert_eq!(narrow(json!([one_armed]), "10.0.0.100"), refused("service[0]", why));
    let direct = json!({ "address": "10.0.0.22", "mode": "dr" });
    assert_eq!(
        narrow(json!([direct, one_armed, { "address": "10.0.0.23" }]), "10.0.0.100"),
        Ok(vec![format!(
            "service web: check: virtual is not for server 10.0.0.21 and 1 more: {why}"
        )]),
        "the others are asked"
    );
    assert_eq!(
        narrow(json!([direct, own(one_armed)]), "10.0.0.100"),
        refused("service[0].server[1]", why)
    );
    let six = narrow(json!([{ "address": "2001:db8::21" }]), "2001:db8::100");
    assert_eq!(six, refused("service[0]", why), "of either family");
    let routed = "a server of mode nat behind a router answers in the router's way, which may be another one for clients";
    assert_eq!(told(json!([{ "address": "10.3.0.11" }])), refused("service[0]", routed));
    assert_eq!(narrow(json!([]), "10.0.0.100"), Ok(vec![]), "its servers are still to come");
}

#[test]
fn servers_of_mode_snat_are_not_asked_as_clients_do_and_the_refusal_says_why() {
    let snat = "servers of mode snat reply to us, whatever their gateway is";
    let refused = |servers: Value| {
        let service = asked_as_clients("snat", "10.0.0.100", servers);
        read_between(&[WAN, LAN], &service).unwrap_err()[0].to_string()
    };
    for servers in [json!([]), json!([{ "address": "10.1.0.11" }])] {
        let expected = format!("service[0].check.virtual: expected false: {snat}, found true");
        assert_eq!(refused(servers), expected);
    }
    let mut own = server_with(json!({ "virtual": true }));
    own["mode"] = json!("snat");
    let mistakes = Config::read(&document(&json!({ "type": "connect" }), own)).unwrap_err();
    assert_eq!(mistakes[0].path, "service[0].server[0].check.virtual");
}

/// One mistake is not told as two.
#[test]
fn how_servers_are_asked_is_not_judged_where_an_interface_could_not_be_read() {
    let service = asked_as_clients("nat", "10.0.0.100", json!([{ "address": "10.0.0.21" }]));
    let mistakes = read_between(&[WAN, ("lan", &["10.1.0.2"])], &service).unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].path.starts_with("interface[1]"), "{mistakes:?}");
}

#[test]
fn a_script_cannot_ask_as_clients_do_and_the_refusal_says_why() {
    let script = json!({ "type": "script", "path": "/bin/true" });
    let mut also_virtual = script.clone();
    also_virtual["virtual"] = json!(true);
    for (written, own, at) in [
        (also_virtual.clone(), server(), "service[0]"),
        (json!({ "type": "ping" }), server_with(also_virtual), "service[0].server[0]"),
        (script, server_with(json!({ "virtual": true })), "service[0].server[0]"),
    ] {
        let refused = Config::read(&document(&written, own)).unwrap_err();
        assert_eq!(
            refused[0].to_string(),
            format!(
                "{at}.check.virtual: expected no virtual: a script talks through the kernel, which \
                 cannot send in the way that clients' packets take, found true"
            )
        );
    }
}

#[test]
fn a_pace_at_which_servers_that_hang_are_noticed_late_is_accepted_with_advice() {
    let advice = |written: Value| accepted(&written, server()).advice();
    let table = [
        (json!({ "type": "connect" }), None),
        (json!({ "type": "on", "interval": "1s" }), None),
        (json!({ "type": "http", "negotiate_timeout": "2s" }), None),
        (json!({ "type": "dns", "query": "a.test" }), None),
        (
            json!({ "type": "connect", "interval": "4s" }),
            Some(
                "timeout times fall (4s) is not below interval (4s): a server that hangs may get new connections for up to 8s",
            ),
        ),
        (
            json!({ "type": "connect", "timeout": "5s" }),
            Some(
                "timeout times fall (10s) is not below interval (5s): a server that hangs may get new connections for up to 15s, not 10s",
            ),
        ),
        (
            json!({ "type": "http" }),
            Some(
                "negotiate_timeout times fall (10s) is not below interval (5s): a server that hangs may get new connections for up to 15s, not 10s",
            ),
        ),
        (
            json!({ "type": "5", "negotiate": "smtp", "fall": 3, "negotiate_timeout": "2s" }),
            Some(
                "negotiate_timeout times fall (6s) is not below interval (5s): a server that hangs may get new connections for up to 15s",
            ),
        ),
    ];
    for (written, told) in table {
        let told: Vec<_> = told.map(|it| format!("service s: check: {it}")).into_iter().collect();
        assert_eq!(advice(written), told);
    }
}

#[test]
fn checks_that_ask_the_same_are_equal_and_others_are_not() {
    let hash = |check: &Check| {
        let mut hasher = DefaultHasher::new();
        check.hash(&mut hasher);
        hasher.finish()
    };
    let all: Vec<Check> = every_kind()
        .iter()
        .map(|written| accepted(written, server()).services[0].check.clone())
        .collect();
    for (position, written) in every_kind().iter().enumerate() {
        let again = accepted(written, server()).services[0].check.clone();
        let same: Vec<_> = (0..all.len()).filter(|&other| all[other] == again).collect();
        assert_eq!(same, [position]);
        assert_eq!(hash(&all[position]), hash(&again));
    }
}

#[test]
fn a_password_is_in_no_log() {
    let written = json!({ "type": "imap", "user": "u", "password": "hunter2" });
    let config = accepted(&written, server());
    assert!(!format!("{:?}", config.services[0].check).contains("hunter2"));
}

#[test]
fn what_is_looked_for_is_found_anywhere_in_any_bytes() {
    let expect = |written: Value| match accepted(&written, server()).services[0].check.kind.clone()
    {
        Kind::Http(page) => page.expect.unwrap(),
        _ => panic!(),
    };
    let text = expect(json!({ "type": "http", "expect": "OK" }));
    let pattern = expect(json!({ "type": "http", "expect_regex": "^O[kK]+$|(?i)fine" }));
    assert!(text.is_in(b"it is OK.") && !text.is_in(b"O") && !text.is_in(b"ok"));
    assert!(pattern.is_in(b"OKkK") && pattern.is_in(b"\xff\xfe FINE \0") && !pattern.is_in(b"no"));
}
