//! Values that are refused, and how that is told.

use serde_json::json;

use super::*;

#[test]
fn a_required_name_that_is_missing_is_refused_by_its_path() {
    for path in [
        "interface[0].name",
        "interface[0].device",
        "interface[0].addresses",
        "route[0].to",
        "route[0].via",
        "neighbour[0].interface",
        "neighbour[0].address",
        "neighbour[0].mac",
        "nat[0].kind",
        "nat[0].out",
        "nat[1].inside",
        "nat[1].outside",
        "service[0].name",
        "service[0].address",
        "service[0].ports",
        "service[0].server[0].address",
        "service[0].alerts.to",
        "alerts.mail.server",
        "alerts.mail.user",
        "alerts.mail.password",
        "alerts.mail.from",
        "alerts.mail.to",
        "alerts.webhook[0].url",
        "trigger[0].name",
        "trigger[0].do",
        "trigger[0].on.service",
        "trigger[0].do[0].action",
        "trigger[0].do[0].service",
        "trigger[0].do[1].server",
        "trigger[0].do[1].weight",
        "trigger[0].do[2].path",
        "trigger[0].do[3].url",
    ] {
        let mut document = full();
        let (table, name) = path.rsplit_once('.').unwrap();
        let mut steps = Vec::new();
        for part in table.split('.') {
            let (name, position) = part.split_once('[').unwrap_or((part, ""));
            steps.push(Step::Name(name.into()));
            let position = position.trim_end_matches(']').parse().map(Step::Position);
            steps.extend(position);
        }
        at(&mut document, &steps).as_object_mut().unwrap().remove(name).unwrap();
        let all = refusals(&document);
        assert_eq!((all.len(), &*all[0].path, &*all[0].found), (1, path, "nothing"));
    }
}

#[test]
fn a_value_out_of_its_range_is_refused_by_its_path() {
    let long = "x".repeat(64);
    let bad: &[(&str, &[Value])] = &[
        (
            "node.name",
            &[json!(""), json!(long), json!("a b"), json!(".."), json!("-a"), json!("é")],
        ),
        ("dataplane.workers", &[json!([]), json!(vec![1; 65])]),
        ("dataplane.workers[0]", &[json!(1024), json!(-1)]),
        ("dataplane.polling", &[json!("lazy"), json!("")]),
        ("dataplane.flows", &[json!(0), json!(100_000_001), json!(u64::MAX), json!("1000")]),
        ("dataplane.flows_ipv6", &[json!(0), json!(100_000_001)]),
        ("dataplane.clients", &[json!(1023), json!(16_777_217)]),
        ("dataplane.fragments", &[json!(0), json!(1_048_577)]),
        ("dataplane.memory", &[json!("big")]),
        ("admin.listen[0]", &[json!("9443"), json!("127.0.0.1"), json!("127.0.0.1:65536")]),
        ("admin.in_band", &[json!("yes"), json!(1)]),
        ("admin.socket", &[json!("admin.sock"), json!(""), json!(format!("/{}", "x".repeat(107)))]),
        ("admin.certificate", &[json!("admin.pem"), json!("/a\0b")]),
        ("admin.key", &[json!("admin.key")]),
        ("interface[0].name", &[json!("a/b"), json!("")]),
        (
            "interface[0].device",
            &[
                json!(""),
                json!("03:00.8"),
                json!("0000:03:00"),
                json!("eth0"),
                json!("kernel:"),
                json!("kernel:sixteen-letters-"),
                json!("kernel:a/b"),
                json!("kernel:a b"),
                json!("kernel:a,b"),
                json!("kernel:.."),
                json!("vdev:"),
                json!("vdev:,a=b"),
                json!("vdev:net pcap"),
                json!("vdev:net_pcap0,rx=\n"),
                json!("x".repeat(5000)),
            ],
        ),
        ("interface[0].mtu", &[json!(575), json!(9001), json!(1500.5)]),
        ("interface[0].vlan", &[json!(0), json!(4095), json!("5")]),
        ("interface[2].vlan", &[json!(7)]),
        ("interface[0].gateway", &[json!(1), json!("yes")]),
        ("interface[0].addresses", &[json!([])]),
        (
            "interface[0].addresses[0]",
            &[
                json!("10.1.0.2"),
                json!("10.1.0.2/33"),
                json!("10.1.0.2/+24"),
                json!("10.1.0.2/024"),
                json!("10.1.0.2/"),
                json!("010.1.0.2/24"),
                json!("10.1.0.0/24"),
                json!("10.1.0.255/24"),
                json!("127.0.0.1/8"),
                json!("224.0.0.1/4"),
                json!("0.0.0.1/8"),
                json!("10.1.0.2/0"),
                json!("2001:db8::/64"),
                json!("2001:db8::2/129"),
                json!("fe80::2/64"),
                json!("ff02::1/64"),
                json!("::1/64"),
                json!("::ffff:10.1.0.2/120"),
            ],
        ),
        (
            "route[0].to",
            &[json!("0.0.0.0"), json!("10.3.0.1/24"), json!("10.1.0.0/24"), json!("default")],
        ),
        (
            "route[0].via",
            &[
                json!("10.9.0.1"),
                json!("10.1.0.2"),
                json!("10.1.0.255"),
                json!("fe80::1"),
                json!("2001:db8:5::1"),
            ],
        ),
        (
            "route[1].via",
            &[json!("10.1.0.1"), json!("2001:db8:5::"), json!("2001:db8:6::1"), json!("fe80::1")],
        ),
        ("neighbour[0].interface", &[json!("dmz"), json!("")]),
        (
            "neighbour[0].address",
            &[json!("10.1.0.11"), json!("10.2.0.2"), json!("10.2.0.0"), json!("::1")],
        ),
        (
            "neighbour[1].address",
            &[json!("2001:db8:6::11"), json!("2001:db8:5::"), json!("ff02::1")],
        ),
        ("nat[0].kind", &[json!("snat"), json!("")]),
        ("nat[0].out", &[json!("dmz"), json!("0000:03:00.0")]),
        ("nat[0].from", &[json!([])]),
        (
            "nat[0].from[0]",
            &[json!("10.2.0.0"), json!("10.2.0.1/24"), json!("2001:db8:5::/64"), json!("lan")],
        ),
        (
            "nat[1].inside",
            &[json!("10.2.0.2"), json!("10.2.0.255"), json!("2001:db8:9::1/64"), json!("fe80::1")],
        ),
        (
            "nat[1].outside",
            &[
                json!("10.1.0.2"),
                json!("10.1.0.1"),
                json!("10.1.0.0"),
                json!("10.9.0.1"),
                json!("2001:db8:5::50"),
            ],
        ),
        (
            "neighbour[0].mac",
            &[
                json!("02:00"),
                json!("01:00:00:00:00:11"),
                json!("00:00:00:00:00:00"),
                json!("ff:ff:ff:ff:ff:ff"),
            ],
        ),
        ("service[0].name", &[json!("a/b"), json!(""), json!("a:b"), json!(long)]),
        (
            "service[0].address",
            &[
                json!("10.1.0.2"),
                json!("10.1.0.1"),
                json!("10.2.0.11"),
                json!("10.1.0.0"),
                json!("10.1.0.255"),
                json!("10.9.0.100"),
                json!("10.1.0.100:80"),
                json!("10.1.0.101/24"),
                json!("10.1.0.0/24"),
                json!("10.1.0.0/23"),
                json!("10.1.0.0/30"),
                json!("10.1.0.50"),
                json!("10.1.0.48/29"),
                json!("2001:db8::100"),
                json!("2001:db8:5::/64"),
                json!("2001:db8:5::100:0/119"),
                json!("::ffff:10.1.0.100"),
                json!("0.0.0.0"),
                json!("255.255.255.255"),
                json!("example.com"),
            ],
        ),
        (
            "service[0].ports",
            &[
                json!(""),
                json!("0"),
                json!("65536"),
                json!("80,"),
                json!("+80"),
                json!("90-80"),
                json!("80-"),
                json!("-80"),
                json!(":80"),
                json!("90:80"),
                json!("80:90:95"),
                json!("80:,443"),
                json!("80,80"),
                json!("80-90,85"),
                json!("*,80"),
                json!("http"),
                json!("1,".repeat(3000)),
            ],
        ),
        ("service[0].protocol", &[json!("icmp"), json!("TCP"), json!("udp+tcp")]),
        ("service[0].mode", &[json!("proxy"), json!("DR")]),
        ("service[0].scheduler", &[json!("agent"), json!("ops")]),
        (
            "service[0].persistence.timeout",
            &[json!(0), json!("0"), json!("25h"), json!("86401"), json!("5x"), json!("-5m")],
        ),
        ("service[0].persistence.mask", &[json!(0), json!(33)]),
        ("service[0].persistence.mask_ipv6", &[json!(0), json!(129)]),
        ("service[0].persistence.group", &[json!(""), json!("a b")]),
        ("service[0].timeouts.established", &[json!(0), json!("169h"), json!("1d")]),
        ("service[0].timeouts.closing", &[json!("0")]),
        ("service[0].timeouts.udp", &[json!("0s")]),
        ("service[0].timeouts.half_open", &[json!(604_801)]),
        ("service[0].limits.half_open", &[json!(1_000_000_001), json!(-1)]),
        ("service[0].limits.new_flows", &[json!(1_000_000_001)]),
        ("service[0].limits.new_flows_per_client", &[json!(1_000_000_001)]),
        ("service[0].limits.client_mask", &[json!(0), json!(33)]),
        ("service[0].limits.client_mask_ipv6", &[json!(0), json!(129)]),
        ("service[0].encapsulation", &[json!("vxlan"), json!("")]),
        ("service[1].encapsulation", &[json!("gue")]),
        ("service[0].gue_port", &[json!(0), json!(65536)]),
        ("service[1].hairpin", &[json!(true)]),
        ("service[1].clamp_mss", &[json!(true)]),
        ("service[0].helper", &[json!("sip")]),
        ("service[1].helper", &[json!("ftp")]),
        ("service[0].sources", &[json!([]), json!(["2001:db8:5::2"])]),
        (
            "service[0].sources[0]",
            &[json!("10.1.0.9"), json!("10.1.0.1"), json!("10.1.0.50"), json!("wan")],
        ),
        ("service[1].sources", &[json!(["10.1.0.2"])]),
        ("service[0].check.type", &[json!("pong"), json!(5), json!("")]),
        ("service[0].slow_start", &[json!("2h"), json!(-1)]),
        ("service[0].agent", &[json!("agent"), json!(3333)]),
        ("service[0].agent.method", &[json!("https"), json!("")]),
        ("service[0].agent.port", &[json!(0), json!(65536)]),
        ("service[0].agent.path", &[json!("idle"), json!("/a b"), json!("/\r\n"), json!("")]),
        ("service[0].agent.interval", &[json!("0"), json!("2h")]),
        ("service[0].agent.timeout", &[json!("0"), json!("2m")]),
        ("service[0].agent.formula", &[json!("v7"), json!(8)]),
        ("service[0].agent.misses", &[json!(0), json!(101)]),
        ("service[0].server[0].name", &[json!("a/b"), json!(""), json!(".."), json!(long)]),
        (
            "service[0].server[0].address",
            &[
                json!("10.2.0.11:80"),
                json!("10.2.0.2"),
                json!("10.2.0.255"),
                json!("10.1.0.100"),
                json!("10.1.0.101"),
                json!("127.0.0.1"),
                json!("10.1.0.50"),
                json!("2001:db8:5::21"),
                json!("web1"),
            ],
        ),
        ("service[0].server[0].port", &[json!(0), json!(65536), json!("80")]),
        ("service[0].server[0].mode", &[json!("proxy"), json!("")]),
        ("service[0].server[0].encapsulation", &[json!("ipip")]),
        ("service[0].server[2].encapsulation", &[json!("vxlan")]),
        ("service[0].server[0].weight", &[json!(-1), json!(65536), json!(1.0)]),
        ("service[0].server[0].priority", &[json!(0), json!(256)]),
        ("service[0].server[0].min_connections", &[json!(100), json!(101), json!(-1)]),
        ("service[0].server[1].min_connections", &[json!(1)]),
        ("service[0].server[0].max_connections", &[json!(100_000_001), json!(-1)]),
        ("service[0].server[0].state", &[json!("off"), json!("")]),
        // A DR server must be on a subnet of ours (FWD-04).
        ("service[0].server[1].address", &[json!("10.3.0.11"), json!("10.1.1.11")]),
        ("service[1].addresses", &[json!([])]),
        ("service[1].addresses[1]", &[json!("10.1.0.101"), json!("10.9.0.1")]),
        ("node.scripts", &[json!("scripts"), json!("")]),
        ("node.script_user", &[json!("no-such-user"), json!("root\0"), json!(""), json!(0)]),
        ("alerts.via", &[json!("data"), json!("")]),
        (
            "alerts.mail.server",
            &[
                json!("10.0.0.25"),
                json!("10.0.0.25:0"),
                json!("10.0.0.25:65536"),
                json!("10.0.0.256:25"),
                json!("2001:db8::25:25"),
                json!("[10.0.0.25]:25"),
                json!(":25"),
                json!("a b:25"),
                json!("-a:25"),
                json!("mail\r\nRSET:25"),
            ],
        ),
        ("alerts.mail.tls", &[json!("ssl"), json!(true), json!("none")]),
        ("alerts.mail.ca", &[json!("ca.pem")]),
        ("alerts.mail.password", &[json!(""), json!("x".repeat(1025))]),
        (
            "alerts.mail.helo",
            &[
                json!(""),
                json!("lb1"),
                json!("lb_1.example.org"),
                json!("lb1..org"),
                json!("-a.org"),
                json!("192.0.2.1"),
                json!("[192.0.2]"),
                json!("[2001:db8::1]"),
                json!("a.org\r\nRSET"),
            ],
        ),
        (
            "alerts.mail.from",
            &[json!("lb1"), json!("a@b@c"), json!("a b@example.org"), json!("ä@example.org")],
        ),
        ("alerts.mail.to", &[json!([]), json!("a@example.org"), json!(vec!["a@b.org"; 21])]),
        ("alerts.mail.to[0]", &[json!("<a@example.org>"), json!("a@example.org\r\nbcc: b@c.org")]),
        ("alerts.mail.rate", &[json!(0), json!(601)]),
        ("alerts.mail.about", &[json!([])]),
        ("alerts.mail.about[0]", &[json!("role"), json!("")]),
        ("alerts.mail.about[1]", &[json!("server")]),
        (
            "alerts.webhook[0].url",
            &[
                json!("10.0.0.30"),
                json!("/events"),
                json!("ftp://10.0.0.30/"),
                json!("https://"),
                json!("https://user:word@10.0.0.30/"),
                json!("https://10.0.0.30:0/"),
                json!("https://10.0.0.30:99999/"),
                json!("https://10.0.0.300/"),
                json!("https://10.0.0.30/a b"),
                json!("https://10.0.0.30/\r\nx: y"),
                json!(format!("https://10.0.0.30/{}", "x".repeat(2048))),
            ],
        ),
        ("alerts.webhook[0].secret", &[json!("")]),
        ("alerts.webhook[0].timeout", &[json!(0), json!("61s")]),
        ("alerts.webhook[0].retries", &[json!(21)]),
        ("alerts.webhook[0].about[0]", &[json!("none")]),
        ("service[0].alerts.to[0]", &[json!("shop")]),
        ("trigger[0].name", &[json!(""), json!("a b"), json!("../x")]),
        ("trigger[0].rate", &[json!(0), json!(6001)]),
        ("trigger[0].on.event", &[json!("role"), json!("trigger"), json!("")]),
        ("trigger[0].on.service", &[json!("shop"), json!("a b")]),
        ("trigger[0].on.server", &[json!("web9")]),
        ("trigger[0].on.state", &[json!("Up"), json!("dead")]),
        ("trigger[0].do", &[json!([]), json!("enable")]),
        ("trigger[0].do[0].action", &[json!("reboot"), json!("")]),
        ("trigger[0].do[0].service", &[json!("shop")]),
        ("trigger[0].do[0].server", &[json!("web9")]),
        ("trigger[0].do[0].weight", &[json!(5)]),
        ("trigger[0].do[0].path", &[json!("x.sh")]),
        ("trigger[0].do[0].secret", &[json!("x")]),
        ("trigger[0].do[1].weight", &[json!(65_536), json!(-1)]),
        (
            "trigger[0].do[2].path",
            &[
                json!(""),
                json!("/bin/sh"),
                json!("../x.sh"),
                json!("a/../../x.sh"),
                json!("./x.sh"),
                json!("a\0b"),
            ],
        ),
        ("trigger[0].do[2].args[0]", &[json!("a\0b"), json!("x".repeat(1025))]),
        ("trigger[0].do[2].timeout", &[json!(0), json!("61s"), json!("5d")]),
        ("trigger[0].do[3].url", &[json!("hooks.example.org"), json!("https:///x")]),
    ];
    for (path, values) in bad {
        for value in *values {
            assert_eq!(refused(&with(path, value.clone())), [*path], "{value}");
        }
    }
}

#[test]
fn only_an_agent_that_speaks_http_has_a_path() {
    let agent = json!({ "method": "agent", "path": "/idle" });
    assert_eq!(refused(&with("service[0].agent", agent)), ["service[0].agent.path"]);
}

#[test]
fn a_refusal_says_what_was_expected_and_what_was_found() {
    let told = |path, value| refusal(&with(path, value));
    assert_eq!(
        told("service[0].server[0].address", json!("10.0.0.7:80")),
        "service[0].server[0].address: \
         expected an address, such as 10.0.0.7, found \"10.0.0.7:80\""
    );
    assert_eq!(
        told("service[0].check.type", json!("pong")),
        "service[0].check.type: expected on, off, connect, ping, http, https, http2, grpc, ftp, imap, \
         pop, smtp, ldap, nntp, dns, mysql, sip, telnet, redis, amqp, tcp, udp, script, 5 or 10, \
         found \"pong\""
    );
    assert_eq!(
        told("route[0].to", json!("10.3.0.7/24")),
        "route[0].to: expected a prefix without host bits, here 10.3.0.0/24, found \"10.3.0.7/24\""
    );
    assert_eq!(
        told("service[0].address", json!("10.1.0.3")),
        "service[0].address: expected an address that only this service uses, \
         found \"10.1.0.3\", which interface[0] has"
    );
    assert_eq!(
        told("interface[1].mtu", json!(65536)),
        "interface[1].mtu: expected a whole number, 576 to 9000, found 65536"
    );
    assert_eq!(
        told("admin", json!({ "listne": [] })),
        "admin.listne: expected a known name (did you mean \"listen\"?), found \"listne\""
    );
    assert_eq!(
        told("service[0].persistence.timeout", json!("25h")),
        "service[0].persistence.timeout: \
         expected a time from 1s to 24h, such as 300, 45s, 5m or 6h, found \"25h\""
    );
    assert_eq!(
        told("interface[2].vlan", json!(7)),
        "interface[2].vlan: expected a vlan that no other interface on the device has, found 7"
    );
    assert_eq!(
        told("service[0].server[1].address", json!("2001:db8:5::21")),
        "service[0].server[1].address: expected an address of the family of each virtual address, \
         such as that of 10.1.0.100 (only mode tun carries one family to servers of the other), \
         found \"2001:db8:5::21\""
    );
    assert_eq!(
        told("service[0].scheduler", json!("ops")),
        "service[0].scheduler: expected a scheduler for connections: ops is for udp alone, \
         found \"ops\""
    );
}
