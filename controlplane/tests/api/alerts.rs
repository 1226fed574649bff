//! Who is told what changed: a mail server and HTTP servers of the tests' own, on real sockets.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::rig::{CONFIGURATION, Memory, Rig, wait_until};
use crate::sinks::{HERE, Hook, Identity, MailServer, Manner, SILENCE, When};

fn with_mail(server: &MailServer, more: &str) -> String {
    format!(
        "{CONFIGURATION}
[alerts.mail]
server = \"127.0.0.1:{}\"
from = \"lb1@example.org\"
to = [\"admin@example.org\", \"night@example.org\"]
{more}",
        server.port
    )
    .replace("name = \"dns\"\n", "name = \"dns\"\nalerts = { to = [\"names@example.org\"] }\n")
}

fn rig(configuration: &str) -> Rig {
    Rig::in_directory(tempfile::tempdir().unwrap(), configuration)
}

#[test]
fn each_change_is_one_mail_with_the_virtual_address_the_server_and_the_reason() {
    let server = MailServer::start(Manner::default());
    let rig = rig(&with_mail(&server, ""));
    rig.server_is("web", "web1", "up", "down", "connect to 10.0.0.11:80 refused, 2 of 2");
    let mail = server.next();
    assert_eq!(mail.to, ["admin@example.org", "night@example.org"]);
    assert_eq!(mail.header("Subject"), "[lb1] server web/web1 is down");
    assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
    assert_eq!(mail.header("From"), "\"Sluice lb1\" <lb1@example.org>");
    assert_eq!(mail.header("To"), "admin@example.org, night@example.org");
    let id = mail.header("Message-ID");
    assert!(id.starts_with('<') && id.ends_with(".1-1.lb1@example.org>"), "{id}");
    assert!(mail.header("Date").ends_with(" +0000"), "{}", mail.header("Date"));
    assert_eq!(mail.hello, "[127.0.0.1]", "lb1 is no name in the DNS");
    for part in ["10.0.0.100", "web1", "10.0.0.11", "connect to 10.0.0.11:80 refused, 2 of 2"] {
        assert!(mail.text.contains(part), "{part} in {}", mail.text);
    }
    // A service has its own readers (HC-16).
    rig.server_is("dns", "dns1", "up", "down", "no answer");
    let mail = server.next();
    assert_eq!(mail.to, ["names@example.org"]);
    assert!(mail.text.contains("10.0.0.101") && mail.text.contains("192.168.1.53:5353"));
    rig.server_is("web", "web1", "down", "up", "2 of 2 answered");
    assert_eq!(server.next().header("Subject"), "[lb1] server web/web1 is up");
    // A change of the configuration is none of those that mails are about.
    let path = "/api/v1/services/web/servers/web2";
    let patch = [("content-type", "application/merge-patch+json")];
    assert_eq!(rig.send("PATCH", path, &patch, b"{ \"weight\": 40 }").status, 200);
    assert!(server.is_quiet());
    let metrics = rig.ask("GET", "/metrics");
    for line in
        ["sluice_alerts_sent_total{kind=\"mail\"} 3", "sluice_alerts_lost_total{kind=\"mail\"} 0"]
    {
        assert!(metrics.text().contains(line), "{line} in {}", metrics.text());
    }
}

#[test]
fn a_mail_is_encrypted_once_the_server_agrees_and_only_to_the_right_server() {
    let server = MailServer::start(Manner { tls: When::Asked, ..Manner::default() });
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("mail-ca.pem");
    std::fs::write(&ca, &server.identity.pem).unwrap();
    let more = format!(
        "tls = \"starttls\"\nuser = \"lb1\"\npassword = \"word\"\nca = \"{}\"",
        ca.display()
    );
    let rig = rig(&with_mail(&server, &more));
    rig.server_is("web", "web1", "up", "down", "refused");
    let mail = server.next();
    assert!(mail.encrypted && mail.text.contains("refused"));
    assert_eq!(mail.user.as_deref(), Some("AGxiMQB3b3Jk"), "base64 of 0 lb1 0 word");

    // Whom nobody vouches for gets nothing, and neither does who has no TLS.
    let mut config = rig.ask("GET", "/api/v1/config").json();
    config["alerts"]["mail"].as_object_mut().unwrap().remove("ca");
    assert_eq!(rig.tell("PUT", "/api/v1/config", &config).status, 200);
    rig.server_is("web", "web1", "down", "up", "well");
    let failed = || rig.node().alerts().mail.failed();
    wait_until("the certificate is refused", || failed() > 0);
    let plain = MailServer::start(Manner::default());
    config["alerts"]["mail"]["server"] = json!(format!("127.0.0.1:{}", plain.port));
    assert_eq!(rig.tell("PUT", "/api/v1/config", &config).status, 200);
    let before = failed();
    wait_until("it tries again", || failed() > before + 1);
    assert!(plain.is_quiet() && server.is_quiet());
    // Once it is mended, the mail that waits gets there.
    config["alerts"]["mail"]["server"] = json!(format!("127.0.0.1:{}", server.port));
    config["alerts"]["mail"]["verify"] = json!(false);
    assert_eq!(rig.tell("PUT", "/api/v1/config", &config).status, 200);
    assert_eq!(server.next().header("Subject"), "[lb1] server web/web1 is up");
}

#[test]
fn mail_and_events_go_to_nobody_whose_certificate_is_not_good() {
    let (own, other) = (Identity::of(HERE), Identity::of(&["mail.example.org"]));
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        format!("ca = \"{}\"", path.display())
    };
    let elsewhere = file("elsewhere", &Identity::of(HERE).pem);
    for (identity, trust, comes) in [
        (&own, file("own", &own.pem), true),
        (&own, String::new(), false),
        (&own, elsewhere.clone(), false),
        (&own, "verify = false".to_owned(), true),
        (&own, format!("verify = false\n{elsewhere}"), true),
        (&other, file("other", &other.pem), false), // the name is another
        (&other, "verify = false".to_owned(), true),
    ] {
        for tls in ["starttls", "tls"] {
            let when = if tls == "tls" { When::AtOnce } else { When::Asked };
            let server = MailServer::who_is(identity, Manner { tls: when, ..Manner::default() });
            let rig = rig(&with_mail(&server, &format!("tls = \"{tls}\"\n{trust}")));
            rig.server_is("web", "web1", "up", "down", "refused");
            match comes {
                true => assert!(server.next().encrypted, "{tls} {trust}"),
                false => wait_until("it is refused", || rig.node().alerts().mail.failed() > 0),
            }
            assert!(comes || server.mails.try_recv().is_err(), "{tls} {trust}");
        }
        let hook = Hook::encrypted(identity);
        let url = format!("https://127.0.0.1:{}/", hook.port);
        let rig = rig(&format!("{CONFIGURATION}\n[[alerts.webhook]]\nurl = \"{url}\"\n{trust}"));
        rig.server_is("web", "web1", "up", "down", "refused");
        match comes {
            true => assert_eq!(hook.next().json()["reason"], "refused", "{trust}"),
            false => wait_until("it is refused", || rig.node().alerts().webhook.failed() > 0),
        }
        assert!(comes || hook.requests.try_recv().is_err(), "{trust}");
    }
}

#[test]
fn a_full_mailbox_holds_up_nobody_elses_mail() {
    let server = MailServer::start(Manner { full: "night@", ..Manner::default() });
    let rig = rig(&with_mail(&server, "rate = 600"));
    let admin = ["admin@example.org"];
    for number in 1..=3 {
        rig.server_is("web", "web1", "up", "down", &format!("number {number} of them"));
        assert_eq!(server.next_about(&format!("number {number} of them")).to, admin);
        rig.server_is("dns", "dns1", "up", "down", "no answer at all");
        assert_eq!(server.next_about("no answer at all").to, ["names@example.org"]);
    }
    let turned_away = || server.turned_away.load(Ordering::Relaxed);
    let before = turned_away();
    wait_until("it is asked again", || turned_away() > before + 1);
    // It gets what it has missed, in one mail.
    server.is_full.store(false, Ordering::Relaxed);
    let mail = server.next_about("changes, the oldest first");
    assert_eq!(mail.to, ["night@example.org"]);
    for number in 1..=3 {
        assert!(mail.text.contains(&format!("number {number} of them")), "{}", mail.text);
    }
    rig.server_is("web", "web1", "down", "up", "all is well");
    assert_eq!(server.next_about("all is well").to, ["admin@example.org", "night@example.org"]);
    assert_eq!(rig.node().alerts().mail.lost(), 0);
}

#[test]
fn a_mailbox_that_stays_full_is_given_up_and_one_that_nobody_wants_to_read_is_left_alone() {
    let server = MailServer::start(Manner { full: "night@", ..Manner::default() });
    let rig = rig(&with_mail(&server, "about = [\"worker\"]"));
    rig.worker_is_full("the first");
    assert_eq!(server.next_about("the first").to, ["admin@example.org"]);
    wait_until("it is given up", || rig.node().alerts().mail.lost() == 1);
    rig.worker_is_full("the second");
    let mail = server.next_about("the second");
    assert!(mail.text.contains("1 earlier changes are in no mail"), "{}", mail.text);
    // It waits for the second again, until it is no reader any more.
    let mut config = rig.ask("GET", "/api/v1/config").json();
    config["alerts"]["mail"]["to"] = json!(["admin@example.org"]);
    assert_eq!(rig.tell("PUT", "/api/v1/config", &config).status, 200);
    let turned_away = server.turned_away.load(Ordering::Relaxed);
    rig.worker_is_full("the third");
    assert_eq!(server.next_about("the third").to, ["admin@example.org"]);
    std::thread::sleep(SILENCE);
    let now = server.turned_away.load(Ordering::Relaxed);
    assert!(now <= turned_away + 1, "one may have been under way");
    assert_eq!(rig.node().alerts().mail.lost(), 1);
}

#[test]
fn a_busy_mail_server_is_asked_again_and_gets_the_mail_once() {
    let server = MailServer::start(Manner { busy: 3, unknown: "night@", ..Manner::default() });
    let rig = rig(&with_mail(&server, ""));
    rig.server_is("web", "web1", "up", "down", "refused");
    let mail = server.next();
    assert_eq!(mail.to, ["admin@example.org"], "the other is not known");
    assert!(server.is_quiet());
    assert_eq!(rig.node().alerts().mail.failed(), 3);
}

#[test]
fn more_changes_than_the_rate_allows_come_together_and_none_is_lost() {
    let server = MailServer::start(Manner::default());
    let rig = rig(&with_mail(&server, "rate = 2"));
    for number in 1..=100 {
        let service = if number % 10 == 0 { ("dns", "dns1") } else { ("web", "web1") };
        rig.server_is(service.0, service.1, "up", "down", &format!("number {number} of them"));
    }
    let mut seen = Vec::new();
    let mut mails = 0;
    while seen.len() < 100 {
        let mail = server.next();
        mails += 1;
        let text = mail.text.replace("=\r\n", "");
        let told: Vec<u32> = text
            .split("number ")
            .skip(1)
            .map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(told.is_sorted(), "{text}");
        let is_of_names = mail.to == ["names@example.org"];
        assert!(told.iter().all(|number| (number % 10 == 0) == is_of_names), "{text}");
        seen.extend(told);
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=100).collect::<Vec<_>>());
    assert!((3..=6).contains(&mails), "{mails} mails");
}

#[test]
fn changes_that_no_mail_could_tell_of_are_counted_and_said() {
    let nobody = MailServer { port: 1, ..MailServer::start(Manner::default()) };
    let rig = rig(&with_mail(&nobody, ""));
    rig.server_is("web", "web1", "up", "down", "the first waits for the mail server");
    wait_until("it is tried", || rig.node().alerts().mail.failed() > 0);
    for number in 0..10_500 {
        rig.server_is("web", "web1", "up", "down", &number.to_string());
    }
    let server = MailServer::start(Manner::default());
    let mut config = rig.ask("GET", "/api/v1/config").json();
    config["alerts"]["mail"]["server"] = json!(format!("127.0.0.1:{}", server.port));
    config["alerts"]["mail"]["rate"] = json!(1);
    assert_eq!(rig.tell("PUT", "/api/v1/config", &config).status, 200);
    assert!(server.next().text.contains("waits for the mail server"));
    let second = server.next();
    let text = second.text.replace("=\r\n", "");
    assert!(text.contains("501 earlier changes are in no mail"), "{}", &text[..600]);
    assert_eq!(rig.node().alerts().mail.lost(), 501);
}

fn with_hook(hook: &Hook, more: &str) -> String {
    let url = format!("http://127.0.0.1:{}/events?node=lb1", hook.port);
    format!("{CONFIGURATION}\n[[alerts.webhook]]\nurl = \"{url}\"\n{more}")
}

#[test]
fn a_receiver_that_fails_gets_each_event_again_in_order_and_signed() {
    let hook = Hook::start(&[500, 429]);
    let rig = rig(&with_hook(&hook, "secret = \"between us\"\nabout = [\"server\"]"));
    rig.server_is("web", "web1", "up", "down", "refused");
    rig.server_is("web", "web1", "down", "up", "well");
    let requests: Vec<_> = (0..4).map(|_| hook.next()).collect();
    let numbers: Vec<_> = requests.iter().map(|it| it.json()["number"].clone()).collect();
    assert_eq!(numbers, [1, 1, 1, 2]);
    for request in &requests {
        assert!(request.line.starts_with("POST /events?node=lb1 HTTP/1.1"), "{}", request.line);
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.header("sluice-event"), request.json()["number"].to_string());
        assert!(request.is_signed_with("between us") && !request.is_signed_with("between them"));
    }
    let told = requests[3].json();
    assert_eq!((&told["node"], &told["new"]), (&json!("lb1"), &json!("up")));
    assert_eq!(told["virtual_addresses"], json!(["10.0.0.100"]));
    assert_eq!(told["server_address"], "10.0.0.11");
    wait_until("it is counted", || rig.node().alerts().webhook.sent() == 2);
    assert_eq!(rig.node().alerts().webhook.failed(), 2);
    assert!(hook.requests.recv_timeout(SILENCE).is_err(), "each is taken once");
}

#[test]
fn what_a_receiver_refuses_for_good_is_lost_and_counted() {
    let hook = Hook::start(&[404, 503, 503]);
    let rig = rig(&with_hook(&hook, "retries = 1\nabout = [\"server\"]"));
    for number in 1..=3 {
        rig.server_is("web", "web1", "up", "down", &number.to_string());
    }
    let numbers: Vec<_> = (0..4).map(|_| hook.next().json()["number"].clone()).collect();
    assert_eq!(numbers, [1, 2, 2, 3]);
    wait_until("it is counted", || rig.node().alerts().webhook.sent() == 1);
    assert_eq!(rig.node().alerts().webhook.lost(), 2);
}

#[test]
fn a_receiver_that_hangs_holds_up_nothing_but_itself() {
    let (hanging, well) = (Hook::start(&[0; 1000]), Hook::start(&[]));
    let more = format!(
        "timeout = \"1s\"\nretries = 20\n[[alerts.webhook]]\nurl = \"http://localhost:{}/\"\n",
        well.port
    );
    let rig = rig(&with_hook(&hanging, &more));
    let memory = Memory::measured();
    for number in 1..=10_000 {
        rig.server_is("web", "web1", "up", "down", &number.to_string());
    }
    for number in 1..=10_000 {
        assert_eq!(well.next().json()["number"], number);
    }
    let begin = Instant::now();
    assert_eq!(rig.ask("GET", "/api/v1/status").status, 200);
    assert!(begin.elapsed() < Duration::from_secs(1), "the node answers at once");
    wait_until("it is asked again", || rig.node().alerts().webhook.failed() >= 2);
    assert_eq!(hanging.open.lock().unwrap().1, 1, "one connection at a time");
    memory.has_not_grown_by(64 << 20);
    // Nobody waits for it any longer than its removal.
    let mut config = rig.ask("GET", "/api/v1/config").json();
    config["alerts"]["webhook"].as_array_mut().unwrap().remove(0);
    assert_eq!(rig.tell("PUT", "/api/v1/config", &config).status, 200);
    wait_until("it is left alone", || hanging.open.lock().unwrap().0 == 0);
    // Servers that nobody answers for may be found out meanwhile.
    while well.next().json()["subject"] != "configuration" {}
}

#[test]
fn secrets_come_back_to_whoever_may_change_them() {
    let hook = Hook::start(&[]);
    let rig = rig(&with_hook(&hook, "secret = \"between us\""));
    let config = rig.ask("GET", "/api/v1/config");
    assert_eq!(config.json()["alerts"]["webhook"][0]["secret"], "between us");
    let again =
        rig.send("PUT", "/api/v1/config", &[("content-type", "application/json")], &config.body);
    assert_eq!(again.etag(), config.etag());
}
