//! Who is told what changed: a mail server and HTTP servers of the tests' own, on real sockets.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::rig::{CONFIGURATION, Rig, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for what must not come to have come.
const SILENCE: Duration = Duration::from_millis(300);

/// A mail as the server got it.
#[derive(Debug, Clone)]
struct Mail {
    to: Vec<String>,
    text: String,
    encrypted: bool,
    user: Option<String>,
}

impl Mail {
    fn header(&self, name: &str) -> &str {
        let line = self.text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.text))
    }
}

/// What a mail server does that is out of the ordinary.
#[derive(Debug, Clone, Copy, Default)]
struct Manner {
    /// So many conversations end with a refusal for now.
    busy: u32,
    /// Whoever asks may go on with TLS.
    tls: bool,
    /// This recipient is not known.
    unknown: &'static str,
}

/// A small mail server (RFC 5321).
struct MailServer {
    port: u16,
    mails: Receiver<Mail>,
    /// Its certificate in PEM.
    certificate: String,
}

impl MailServer {
    fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, mails) = mpsc::channel();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
                .unwrap();
        let certificate = cert.pem();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let tls = Arc::new(tls);
        let busy = Arc::new(AtomicU32::new(manner.busy));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (sender, tls, busy) = (sender.clone(), Arc::clone(&tls), Arc::clone(&busy));
                thread::spawn(move || {
                    let stream = stream.unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let less = |left: u32| left.checked_sub(1);
                    let is_busy =
                        busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
                    let mut stream = BufReader::new(stream);
                    stream.get_mut().write_all(b"220 mail.example.org ESMTP\r\n").unwrap();
                    let talk = Talk { manner, is_busy, sender, encrypted: false };
                    if talk.go_on(&mut stream) {
                        let session = ServerConnection::new(tls).unwrap();
                        let stream = StreamOwned::new(session, stream.into_inner());
                        Talk { encrypted: true, ..talk }.go_on(&mut BufReader::new(stream));
                    }
                });
            }
        });
        Self { port, mails, certificate }
    }

    fn next(&self) -> Mail {
        self.mails.recv_timeout(PATIENCE).expect("a mail comes")
    }

    fn is_quiet(&self) -> bool {
        self.mails.recv_timeout(SILENCE).is_err()
    }
}

#[derive(Clone)]
struct Talk {
    manner: Manner,
    is_busy: bool,
    sender: mpsc::Sender<Mail>,
    encrypted: bool,
}

impl Talk {
    /// Until the other end has gone, or wants TLS.
    fn go_on<S: Read + Write>(&self, stream: &mut BufReader<S>) -> bool {
        let (mut to, mut user) = (Vec::new(), None);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or_default() == 0 {
                return false;
            }
            let line = line.trim_end();
            let answer = match line.split(' ').next().unwrap_or_default() {
                "EHLO" if self.manner.tls && !self.encrypted => "250-hello\r\n250 STARTTLS",
                "EHLO" => "250-hello\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN",
                "STARTTLS" => {
                    stream.get_mut().write_all(b"220 go on\r\n").unwrap();
                    return true;
                }
                "AUTH" => {
                    user = line.strip_prefix("AUTH PLAIN ").map(str::to_owned);
                    "235 welcome"
                }
                "MAIL" if self.is_busy => "451 not now",
                "MAIL" => "250 well",
                "RCPT" if !self.manner.unknown.is_empty() && line.contains(self.manner.unknown) => {
                    "550 nobody of that name"
                }
                "RCPT" => {
                    let address = line.trim_start_matches("RCPT TO:<").trim_end_matches('>');
                    to.push(address.to_owned());
                    "250 well"
                }
                "DATA" => {
                    stream.get_mut().write_all(b"354 go on\r\n").unwrap();
                    let mut text = String::new();
                    while !text.ends_with("\r\n.\r\n") {
                        assert!(stream.read_line(&mut text).unwrap() > 0, "{text}");
                    }
                    let mail = Mail {
                        to: std::mem::take(&mut to),
                        text,
                        encrypted: self.encrypted,
                        user: user.clone(),
                    };
                    let _ = self.sender.send(mail);
                    "250 taken"
                }
                "QUIT" => "221 good bye",
                _ => "500 what",
            };
            if stream.get_mut().write_all(format!("{answer}\r\n").as_bytes()).is_err() {
                return false;
            }
        }
    }
}

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
    let server = MailServer::start(Manner { tls: true, ..Manner::default() });
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("mail-ca.pem");
    std::fs::write(&ca, &server.certificate).unwrap();
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

/// What an HTTP server got.
#[derive(Debug, Clone)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or_else(|| panic!("no {name} in {:?}", self.headers), |(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks who sent it, as a receiver would.
    fn is_signed_with(&self, secret: &str) -> bool {
        let signed = [self.header("sluice-timestamp").as_bytes(), b".", &self.body].concat();
        let hexadecimal = self.header("sluice-signature").strip_prefix("sha256=").unwrap();
        let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
        let signature: Vec<_> = hexadecimal.as_bytes().chunks(2).map(byte).collect();
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hmac::verify(&key, &signed, &signature).is_ok()
    }
}

/// An HTTP server that answers with these statuses, one after the other, and with 204 from then on; with 0
/// it does not answer.
struct Hook {
    port: u16,
    requests: Receiver<Request>,
    /// Connections at once, and the most there have been.
    open: Arc<Mutex<(u32, u32)>>,
}

impl Hook {
    fn start(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, requests) = mpsc::channel();
        let open = Arc::new(Mutex::new((0, 0)));
        let (statuses, shared) = (statuses.to_vec(), Arc::clone(&open));
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let status = statuses.get(number).copied().unwrap_or(204);
                let (sender, open) = (sender.clone(), Arc::clone(&shared));
                thread::spawn(move || {
                    let mut open_now = open.lock().unwrap();
                    open_now.0 += 1;
                    open_now.1 = open_now.1.max(open_now.0);
                    drop(open_now);
                    let _ = serve(stream.unwrap(), status, &sender);
                    open.lock().unwrap().0 -= 1;
                });
            }
        });
        Self { port, requests, open }
    }

    fn next(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request comes")
    }
}

fn serve(stream: TcpStream, status: u16, sender: &mpsc::Sender<Request>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let line = lines.remove(0);
    let parted = lines.iter().filter_map(|line| line.split_once(": "));
    let headers: Vec<_> = parted.map(|(name, value)| (name.to_lowercase(), value.into())).collect();
    let mut request = Request { line, headers, body: Vec::new() };
    request.body = vec![0; request.header("content-length").parse().unwrap()];
    stream.read_exact(&mut request.body)?;
    let _ = sender.send(request);
    if status == 0 {
        stream.read_exact(&mut [0])?; // until the other end has gone
    }
    let answer = format!("HTTP/1.1 {status} So\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.get_mut().write_all(answer.as_bytes())
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
    let memory = resident();
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
    let more = resident().saturating_sub(memory);
    assert!(more < 64 << 20, "{more} bytes more for 10000 events");
    // Nobody waits for it any longer than its removal.
    let mut config = rig.ask("GET", "/api/v1/config").json();
    config["alerts"]["webhook"].as_array_mut().unwrap().remove(0);
    assert_eq!(rig.tell("PUT", "/api/v1/config", &config).status, 200);
    wait_until("it is left alone", || hanging.open.lock().unwrap().0 == 0);
    // Meanwhile servers that nobody answers for may have become unreachable.
    while well.next().json()["subject"] != "configuration" {}
}

/// How much memory this process has, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
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
