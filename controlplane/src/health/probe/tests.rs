//! Each kind of question, put to servers that misbehave in every way we could think of, over real sockets, also inside
//! TLS and in the midst of a conversation; and to any bytes at all.

mod mysql;

mod trusted;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::Config;
use crate::net::Datagrams;
use crate::net::kernel::Kernel;
use crate::testing::write_program;

/// A check as operators write it.
fn check(written: Value) -> Check {
    let document = json!({
        "interface": [{ "name": "lan", "device": "kernel:lan", "addresses": ["10.0.0.2/24"] }],
        "service": [{ "name": "s", "address": "10.0.0.100", "ports": "80", "check": written }],
    });
    Config::read(&document).unwrap().services[0].check.clone()
}

fn with(mut written: Value, name: &str, value: Value) -> Value {
    written[name] = value;
    written
}

fn target(at: SocketAddr) -> Target {
    Target { at, way: Way::Routed, service: ("s".into(), None) }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A kind of question, with a server's part: what it waits for and what it says then.
struct Case {
    check: Value,
    good: Vec<Step>,
    /// The same from a server that is not well, and what the reason must hold.
    wrong: Vec<Step>,
    reason: &'static str,
    /// What a server may say without end.
    flood: &'static [u8],
}

/// Waits for this, and says that.
type Step = (&'static [u8], Vec<u8>);

fn step(wait: &'static str, say: &str) -> Step {
    (wait.as_bytes(), say.as_bytes().to_vec())
}

fn page(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An LDAP message with its number, kind and content.
fn ldap(number: u8, kind: u8, content: &[u8]) -> Vec<u8> {
    let inner = [&[2, 1, number, kind, content.len() as u8], content].concat();
    [&[0x30, inner.len() as u8], &inner[..]].concat()
}

/// A greeting of MariaDB's shape.
fn mysql_greeting() -> Vec<u8> {
    let mut greeting = b"\x0a5.5.5-test\0".to_vec();
    greeting.extend_from_slice(&[1, 0, 0, 0]);
    greeting.extend_from_slice(b"abcdefgh\0");
    greeting.extend_from_slice(&[0xff, 0xf7, 33, 2, 0, 0xff, 0x81, 21]);
    greeting.extend_from_slice(&[0; 10]);
    greeting.extend_from_slice(b"ijklmnopqrst\0mysql_native_password\0");
    mysql(0, &greeting)
}

fn mysql(number: u8, packet: &[u8]) -> Vec<u8> {
    [&[packet.len() as u8, 0, 0, number], packet].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;

/// A frame of HTTP/2 (RFC 9113 section 4.1). Flag 1 ends a stream, 4 headers.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The cases whose conversation can be inside TLS, there.
fn cases_inside_tls() -> Vec<Case> {
    let inside = |case: Case| {
        let check = match case.check["type"].as_str().unwrap() {
            "http" => with(case.check.clone(), "type", json!("https")),
            "imap" | "pop" | "smtp" | "ldap" | "nntp" | "redis" | "amqp" | "tcp" | "http2"
            | "grpc" => with(case.check.clone(), "tls", json!(true)),
            _ => return None,
        };
        Some(Case { check, ..case })
    };
    cases().into_iter().filter_map(inside).collect()
}

/// All of them, and whether they are inside TLS.
fn all_cases() -> impl Iterator<Item = (bool, Case)> {
    let plain = cases().into_iter().map(|case| (false, case));
    plain.chain(cases_inside_tls().into_iter().map(|case| (true, case)))
}

/// A server's side of TLS, with a certificate that nobody vouches for, and that certificate.
fn tls_server() -> (TlsAcceptor, String) {
    let names = vec!["a.test".to_owned(), "127.0.0.1".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), cert.pem())
}

fn cases() -> Vec<Case> {
    let amqp = |method: u8| {
        let payload = [0, 10, 0, method, 0, 9];
        [&[1, 0, 0, 0, 0, 0, payload.len() as u8][..], &payload, &[0xce]].concat()
    };
    vec![
        Case {
            check: json!({ "type": "http", "path": "/check.txt", "expect_regex": "O[kK]+" }),
            good: vec![step("GET /check.txt HTTP/1.1\r\n", &page("200 OK", "it is OK"))],
            wrong: vec![step("\r\n\r\n", &page("503 Unavailable", "OK"))],
            reason: "/check.txt answered 503, expected 200",
            flood: b"HTTP/1.1 200 Fine\r\nContent-Length: 100000000\r\n\r\nnot what is looked for",
        },
        Case {
            check: json!({ "type": "http", "host": "a.test", "status": "301-302" }),
            good: vec![step("host: a.test\r\n", &page("302 Found", ""))],
            wrong: vec![step("\r\n\r\n", &page("200 OK", ""))],
            reason: "answered 200, expected 301-302",
            flood: b"HTTP/1.1 302 Found\r\nX: 0123456789012345678901234567890123456789",
        },
        Case {
            check: json!({ "type": "ftp", "user": "u", "password": "p" }),
            good: vec![
                step("", "220-hello\r\n220 there\r\n"),
                step("USER u\r\n", "331 password\r\n"),
                step("PASS p\r\n", "230 welcome\r\n"),
            ],
            wrong: vec![
                step("", "220 hello\r\n"),
                step("USER u\r\n", "331 password\r\n"),
                step("PASS p\r\n", "530 Login incorrect.\r\n"),
            ],
            reason: "answered \"530 Login incorrect.\", expected 230 or 202",
            flood: b"220-hello\r\n",
        },
        Case {
            check: json!({ "type": "imap", "user": "u", "password": "a\"b\\" }),
            good: vec![
                step("", "* OK ready\r\n"),
                step(r#"1 LOGIN "u" "a\"b\\""#, "* CAPABILITY X\r\n1 OK in\r\n"),
            ],
            wrong: vec![step("", "* OK ready\r\n"), step("1 LOGIN", "1 NO wrong password\r\n")],
            reason: "answered \"1 NO wrong password\", expected 1 OK",
            flood: b"* OK ready\r\n",
        },
        Case {
            check: json!({ "type": "pop", "user": "u", "password": "p" }),
            good: vec![
                step("", "+OK ready\r\n"),
                step("USER u\r\n", "+OK\r\n"),
                step("PASS p\r\n", "+OK\r\n"),
            ],
            wrong: vec![
                step("", "+OK ready\r\n"),
                step("USER u\r\n", "+OK\r\n"),
                step("PASS p\r\n", "-ERR no\r\n"),
            ],
            reason: "answered \"-ERR no\", expected +OK",
            flood: b"+OK ready, and then some",
        },
        Case {
            check: json!({ "type": "smtp" }),
            good: vec![step("", "220 mail\r\n"), step("EHLO ", "250-mail\r\n250 SIZE\r\n")],
            wrong: vec![step("", "554 go away\r\n")],
            reason: "answered \"554 go away\", expected 220",
            flood: b"220-mail\r\n",
        },
        Case {
            check: json!({ "type": "ldap", "expect": "dc=test" }),
            good: vec![
                ("\x30\x0c\x02\x01\x01\x60".as_bytes(), ldap(1, 0x61, b"\x0a\x01\0\x04\0\x04\0")),
                (b"objectClass", ldap(2, 0x64, b"\x04\0 namingContexts dc=test")),
                (b"", ldap(2, 0x65, b"\x0a\x01\0\x04\0\x04\0")),
            ],
            wrong: vec![(b"\x60", ldap(1, 0x61, b"\x0a\x01\x31\x04\0\x04\0"))],
            reason: "answered the bind with invalid credentials",
            flood: b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\0\x04\0\x04\0",
        },
        Case {
            check: json!({ "type": "nntp", "user": "u", "password": "p" }),
            good: vec![
                step("", "200 news\r\n"),
                step("AUTHINFO USER u\r\n", "381 password\r\n"),
                step("AUTHINFO PASS p\r\n", "281 in\r\n"),
            ],
            wrong: vec![step("", "400 closed\r\n")],
            reason: "answered \"400 closed\", expected 200 or 201",
            flood: b"200 news without end ",
        },
        Case {
            check: json!({ "type": "mysql", "user": "u", "password": "p" }),
            good: vec![
                (b"", mysql_greeting()),
                (b"mysql_native_password", mysql(2, &[0, 0, 0, 2, 0, 0, 0])),
                (b"\x01\0\0\0\x0e", mysql(1, &[0, 0, 0, 2, 0, 0, 0])),
            ],
            wrong: vec![
                (b"", mysql_greeting()),
                (b"mysql_native_password", mysql(2, b"\xff\x15\x04#28000Access denied")),
            ],
            reason: "answered \"Access denied\"",
            flood: b"\xff\xff\xff\0\x0a",
        },
        Case {
            check: json!({ "type": "sip", "transport": "tcp" }),
            good: vec![step(
                "OPTIONS sip:",
                "SIP/2.0 100 Trying\r\nVia: x\r\n\r\nSIP/2.0 200 OK\r\n",
            )],
            wrong: vec![step("OPTIONS sip:", "SIP/2.0 503 Unavailable\r\n\r\n")],
            reason: "answered 503, expected 200",
            flood: b"SIP/2.0 100 Trying\r\n",
        },
        Case {
            check: json!({ "type": "telnet", "expect": "login:" }),
            good: vec![
                (b"", b"\xff\xfd\x18l\xff\xfa\x18\x01\xff\xf0o".to_vec()),
                (b"\xff\xfc\x18", b"gin: ".to_vec()),
            ],
            wrong: vec![step("", "closed for the night\r\n")],
            reason: "",
            flood: b"\xff\xfb\x01 no login here ",
        },
        Case {
            check: json!({ "type": "redis", "password": "p" }),
            good: vec![
                step("*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n", "+OK\r\n"),
                step("PING\r\n", "+PONG\r\n"),
            ],
            wrong: vec![step("AUTH", "-WRONGPASS invalid\r\n")],
            reason: "answered \"-WRONGPASS invalid\", expected +OK",
            flood: b"+OK without end ",
        },
        Case {
            check: json!({ "type": "amqp" }),
            good: vec![(b"AMQP\0\0\x09\x01", amqp(10))],
            wrong: vec![(b"AMQP", b"AMQP\0\0\x08\0".to_vec())],
            reason: "speaks another version of AMQP",
            flood: b"\x01\0\0\0\xff\xff\xff",
        },
        Case {
            check: json!({ "type": "tcp", "send": "hello\r\n", "expect": "world" }),
            good: vec![step("hello\r\n", "the "), step("", "world")],
            wrong: vec![step("hello\r\n", "the moon")],
            reason: "",
            flood: b"the moon ",
        },
        Case {
            check: json!({ "type": "https", "expect": "OK" }),
            good: Vec::new(), // real servers answer well
            wrong: vec![step("", &page("400 Bad Request", "this is no TLS"))],
            reason: "TLS with 127.0.0.1:",
            flood: b"\x16\x03\x03\x40\x00",
        },
        Case {
            check: json!({ "type": "http2", "expect": "OK" }),
            good: vec![
                (b"PRI * HTTP/2.0", frame(SETTINGS, 0, 0, b"")),
                // The headers of a request without a body, on the first stream.
                (b"\x01\x05\0\0\0\x01", frame(HEADERS, 4, 1, b"\x88")),
                (b"", frame(DATA, 1, 1, b"it is OK")),
            ],
            wrong: vec![
                (b"PRI * HTTP/2.0", frame(SETTINGS, 0, 0, b"")),
                (b"\x01\x05\0\0\0\x01", frame(HEADERS, 5, 1, b"\x08\x03503")),
            ],
            reason: "/ answered 503, expected 200",
            flood: b"\0\0\x08\0\0\0\0\0\x01a lot of",
        },
        Case {
            check: json!({ "type": "http2", "expect": "OK" }),
            good: Vec::new(),
            wrong: vec![step("PRI * HTTP/2.0", &page("400 Bad Request", "1.1 only"))],
            reason: "gave no answer",
            flood: b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x06\0\0\0\0\0aaaaaaaa",
        },
        Case {
            check: json!({ "type": "grpc" }),
            good: vec![
                (b"PRI * HTTP/2.0", frame(SETTINGS, 0, 0, b"")),
                // The headers of a request with a body.
                (b"\x01\x04\0\0\0\x01", frame(HEADERS, 4, 1, b"\x88")),
                (b"", frame(DATA, 0, 1, b"\0\0\0\0\x02\x08\x01")),
                (b"", frame(HEADERS, 5, 1, b"\0\x0bgrpc-status\x010")),
            ],
            wrong: vec![
                (b"PRI * HTTP/2.0", frame(SETTINGS, 0, 0, b"")),
                (b"\x01\x04\0\0\0\x01", frame(HEADERS, 4, 1, b"\x88")),
                (b"", frame(DATA, 1, 1, b"\0\0\0\0\x02\x08\x02")),
            ],
            reason: "answered NOT_SERVING",
            flood: b"\0\0\x08\0\0\0\0\0\x01a lot of",
        },
        Case {
            check: json!({ "type": "grpc" }),
            good: Vec::new(),
            wrong: vec![step("PRI * HTTP/2.0", "220 I am a mail server\r\n")],
            reason: "gave no answer",
            flood: b"\0\0\0\x04\0\0\0\0\0",
        },
    ]
}

/// What a server does to whoever connects.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Conduct {
    Plays,
    /// The same, but slowly.
    Drags,
    Hangs,
    Dribbles,
    ClosesAtOnce,
    ClosesHalfway,
    Resets,
    Floods,
    Babbles,
}

/// A server that does it to whoever connects, when it has played its part as far as step `after`.
struct Act {
    conduct: Conduct,
    tls: Option<TlsAcceptor>,
    after: usize,
    steps: Vec<Step>,
    flood: &'static [u8],
    /// How much it could say without end.
    said: Arc<AtomicUsize>,
}

impl Act {
    fn new(conduct: Conduct, tls: bool, steps: Vec<Step>, flood: &'static [u8]) -> Self {
        let tls = tls.then(|| tls_server().0);
        Self { conduct, tls, after: 0, steps, flood, said: Arc::default() }
    }

    async fn begin(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let act = Arc::new(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&act).meet(stream));
            }
        });
        at
    }

    async fn meet(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        if self.conduct == Conduct::Resets {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        match &self.tls {
            None => self.misbehave(stream).await,
            Some(tls) => self.misbehave(tls.accept(stream).await?).await,
        }
    }

    async fn misbehave(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let mut heard = Vec::new();
        for step in &self.steps[..self.after] {
            play(&mut stream, &mut heard, step).await?;
        }
        let (wait, say) =
            self.steps.get(self.after).map_or((&b""[..], &b""[..]), |it| (it.0, &it.1[..]));
        if self.after > 0 {
            hear(&mut stream, &mut heard, wait).await?;
        }
        match self.conduct {
            Conduct::Plays => {
                for step in &self.steps {
                    play(&mut stream, &mut heard, step).await?;
                }
                sleep(Duration::from_secs(1)).await;
            }
            Conduct::Drags => {
                for (wait, say) in &self.steps {
                    hear(&mut stream, &mut heard, wait).await?;
                    sleep(Duration::from_millis(150)).await;
                    for piece in say.chunks(7) {
                        tell(&mut stream, piece).await?;
                        sleep(Duration::from_millis(15)).await;
                    }
                }
                sleep(Duration::from_secs(1)).await;
            }
            Conduct::Hangs => sleep(Duration::from_secs(60)).await,
            Conduct::Dribbles => {
                for byte in say {
                    tell(&mut stream, &[*byte]).await?;
                    sleep(Duration::from_millis(150)).await;
                }
                sleep(Duration::from_secs(60)).await;
            }
            Conduct::ClosesAtOnce => {}
            Conduct::ClosesHalfway | Conduct::Resets => {
                tell(&mut stream, &say[..say.len() / 2]).await?;
            }
            Conduct::Floods => {
                let piece = self.flood.repeat(16_384 / self.flood.len());
                while self.said.load(Ordering::Relaxed) < 100 << 20 {
                    tell(&mut stream, &piece).await?;
                    self.said.fetch_add(piece.len(), Ordering::Relaxed);
                }
            }
            Conduct::Babbles => {
                let noise: Vec<u8> =
                    (0_u32..20_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
                tell(&mut stream, &noise).await?;
                sleep(Duration::from_secs(60)).await;
            }
        }
        Ok(())
    }
}

async fn tell(stream: &mut (impl AsyncWrite + Unpin), what: &[u8]) -> io::Result<()> {
    stream.write_all(what).await?;
    stream.flush().await
}

/// Reads until `wait` stands somewhere in what has been heard.
async fn hear(
    stream: &mut (impl AsyncRead + Unpin),
    heard: &mut Vec<u8>,
    wait: &[u8],
) -> io::Result<()> {
    while !wait.is_empty() && !heard.windows(wait.len()).any(|it| it == wait) {
        if stream.read_buf(heard).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

async fn play(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    heard: &mut Vec<u8>,
    (wait, say): &Step,
) -> io::Result<()> {
    hear(stream, heard, wait).await?;
    tell(stream, say).await?;
    sleep(Duration::from_millis(5)).await;
    Ok(())
}

#[test]
fn every_kind_is_content_with_a_good_answer_and_says_what_is_wrong_with_another() {
    runtime().block_on(async {
        for (tls, case) in all_cases() {
            let check = check(case.check.clone());
            if !case.good.is_empty() {
                let at = Act::new(Conduct::Plays, tls, case.good, case.flood).begin().await;
                let outcome = ask(&Kernel, &Tools::default(), &target(at), &check, 0).await;
                assert_eq!(outcome, Ok(()), "{}", case.check);
            }
            let at = Act::new(Conduct::Plays, tls, case.wrong, case.flood).begin().await;
            let started = Instant::now();
            let outcome = ask(&Kernel, &Tools::default(), &target(at), &check, 0).await;
            let Failure(reason) = outcome.expect_err("the answer is wrong");
            assert!(reason.contains(case.reason), "{}: {reason}", case.check);
            assert!(reason.contains(&at.to_string()), "{}: {reason}", case.check);
            assert!(started.elapsed() < Duration::from_secs(7), "{}: {reason}", case.check);
        }
    });
}

#[test]
fn a_server_that_is_slow_and_answers_in_time_is_well() {
    runtime().block_on(async {
        let mut all = JoinSet::new();
        for (tls, case) in all_cases().filter(|(_, case)| !case.good.is_empty()) {
            all.spawn(async move {
                let check = check(with(case.check.clone(), "negotiate_timeout", json!("30s")));
                let steps = case.good.len() as u32;
                let at = Act::new(Conduct::Drags, tls, case.good, case.flood).begin().await;
                let started = Instant::now();
                let outcome = ask(&Kernel, &Tools::default(), &target(at), &check, 0).await;
                let taken = started.elapsed();
                assert_eq!(outcome, Ok(()), "{} after {taken:?}", case.check);
                assert!(taken >= Duration::from_millis(150) * steps, "{} {taken:?}", case.check);
            });
        }
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
    });
}

/// At the start of the conversation and at its last step.
#[test]
fn however_a_server_misbehaves_it_is_a_failure_in_time_and_within_bounds() {
    let conducts = [
        Conduct::Hangs,
        Conduct::Dribbles,
        Conduct::ClosesAtOnce,
        Conduct::ClosesHalfway,
        Conduct::Resets,
        Conduct::Floods,
        Conduct::Babbles,
    ];
    for conduct in conducts {
        runtime().block_on(async {
            let mut all = JoinSet::new();
            for (tls, case) in all_cases() {
                let steps = if case.good.is_empty() { case.wrong } else { case.good };
                let last = steps.len() - 1;
                for after in if last == 0 { vec![0] } else { vec![0, last] } {
                    let act = Act::new(conduct, tls, steps.clone(), case.flood);
                    all.spawn(fails(case.check.clone(), Act { after, ..act }));
                }
            }
            while let Some(done) = all.join_next().await {
                done.unwrap();
            }
        });
    }
}

async fn fails(written: Value, act: Act) {
    const WITHIN: Duration = Duration::from_millis(400);
    let check = check(with(written.clone(), "negotiate_timeout", json!("400ms")));
    let (conduct, after, said) = (act.conduct, act.after, Arc::clone(&act.said));
    let at = act.begin().await;
    let started = Instant::now();
    let outcome = ask(&Kernel, &Tools::default(), &target(at), &check, 0).await;
    let taken = started.elapsed();
    let told = format!("{conduct:?} after step {after}, {written}: {outcome:?} in {taken:?}");
    let Err(Failure(reason)) = outcome else { panic!("{told}") };
    assert!(taken < WITHIN + Duration::from_secs(2), "{told}");
    assert!(reason.len() < 400 && !reason.chars().any(char::is_control), "{told}");
    if conduct == Conduct::Hangs {
        assert_eq!(reason, format!("no answer from {at} within 400 ms"));
    }
    // What the sockets' buffers take, and what we read: far from all of it.
    assert!(said.load(Ordering::Relaxed) < 40 << 20, "{told}");
}

#[test]
fn where_nobody_listens_the_reason_says_that_the_connection_was_refused() {
    runtime().block_on(async {
        let at = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let connect = json!({ "type": "connect" });
        for written in cases().into_iter().map(|case| case.check).chain([connect]) {
            let outcome = ask(&Kernel, &Tools::default(), &target(at), &check(written), 0).await;
            assert_eq!(outcome, Err(Failure(format!("connect to {at} refused"))));
        }
        let udp = check(json!({ "type": "udp", "send": "?" }));
        let outcome = ask(&Kernel, &Tools::default(), &target(at), &udp, 0).await;
        assert_eq!(outcome, Err(Failure(format!("a datagram to {at} refused"))));
    });
}

/// A server that answers each datagram with what `answer` makes of it.
async fn serve_datagrams(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut datagram = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
            for answer in answer(&datagram[..length]) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    at
}

/// An answer to a question for an address.
fn dns_answer(query: &[u8], code: u8, addresses: &[[u8; 4]]) -> Vec<u8> {
    let mut message = query.to_vec();
    message[2] |= 0x80;
    message[3] = code;
    message[7] = addresses.len() as u8;
    for address in addresses {
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        message.extend_from_slice(address);
    }
    message
}

#[test]
fn datagrams_are_judged_by_what_they_hold_and_strangers_are_not_heard() {
    type Answer = fn(&[u8]) -> Vec<Vec<u8>>;
    let dns =
        json!({ "type": "dns", "query": "www.test", "expect": "192.0.2.7", "timeout": "400ms" });
    let udp = json!({ "type": "udp", "send_hex": "00ff", "expect": "pong", "timeout": "400ms" });
    let silent = json!({ "type": "udp", "send": "?", "timeout": "100ms" });
    let sip = json!({ "type": "sip", "user": "alice", "timeout": "400ms" });
    let table: Vec<(&Value, Answer, Result<(), &str>)> = vec![
        (&dns, |q| vec![dns_answer(q, 0, &[[192, 0, 2, 6], [192, 0, 2, 7]])], Ok(())),
        (
            &dns,
            |q| vec![dns_answer(q, 0, &[[192, 0, 2, 6]])],
            Err("192.0.2.6, expected 192.0.2.7 for www.test"),
        ),
        (&dns, |q| vec![dns_answer(q, 3, &[])], Err("answered NXDOMAIN for www.test")),
        (&dns, |q| vec![dns_answer(q, 0, &[])], Err("answered without a record")),
        (&dns, |q| vec![q.to_vec()], Err("no answer from")), // a question is no answer
        (&dns, |_| vec![vec![0xff; 4000], vec![]], Err("no answer from")),
        (
            &dns,
            |q| {
                let mut forged = dns_answer(q, 0, &[[192, 0, 2, 6]]);
                forged[0] ^= 1;
                vec![forged, dns_answer(q, 0, &[[192, 0, 2, 7]])]
            },
            Ok(()),
        ),
        (&dns, |_| Vec::new(), Err("within 400 ms")),
        (&udp, |q| if q == [0, 0xff] { vec![b"a pong".to_vec()] } else { vec![] }, Ok(())),
        (&udp, |_| vec![b"ping".to_vec()], Err("answered \"ping\", expected \"pong\"")),
        (&udp, |_| Vec::new(), Err("no answer from")),
        (&silent, |_| Vec::new(), Ok(())),
        (&sip, |q| vec![sip_answer(q, "100 Trying"), sip_answer(q, "200 OK")], Ok(())),
        (&sip, |q| vec![sip_answer(q, "404 Not Found")], Err("answered 404, expected 200")),
        (&sip, |_| vec![b"SIP/2.0 200 OK\r\n\r\n".to_vec()], Err("no answer from")),
        (&sip, |_| vec![vec![0; 4096]; 1000], Err("no answer from")),
    ];
    runtime().block_on(async {
        for (written, answer, expected) in table {
            let at = serve_datagrams(answer).await;
            let outcome =
                ask(&Kernel, &Tools::default(), &target(at), &check(written.clone()), 0).await;
            match (outcome, expected) {
                (Ok(()), Ok(())) => {}
                (Err(Failure(reason)), Err(part)) => assert!(reason.contains(part), "{reason}"),
                (outcome, expected) => panic!("{written}: {outcome:?}, expected {expected:?}"),
            }
        }
    });
}

fn sip_answer(request: &[u8], status: &str) -> Vec<u8> {
    let request = String::from_utf8_lossy(request);
    assert!(request.starts_with("OPTIONS sip:alice@127.0.0.1:"), "{request}");
    let kept = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let kept = |line: &&str| kept.iter().any(|name| line.starts_with(name));
    let headers: Vec<_> = request.lines().filter(kept).collect();
    format!("SIP/2.0 {status}\r\n{}\r\n\r\n", headers.join("\r\n")).into_bytes()
}

#[test]
fn five_connections_are_followed_by_one_conversation() {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let seen = tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.len() < 12 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut heard = Vec::new();
                let asked = stream.read_buf(&mut heard).await.unwrap_or(0) > 0;
                seen.push(if asked { 'g' } else { 'c' });
                let _ = stream.write_all(page("200 OK", "").as_bytes()).await;
            }
            seen.into_iter().collect::<String>()
        });
        let check = check(json!({ "type": "5", "negotiate": "http" }));
        for turn in 0..12 {
            ask(&Kernel, &Tools::default(), &target(at), &check, turn).await.unwrap();
        }
        assert_eq!(seen.await.unwrap(), "cccccgcccccg");
    });
}

#[test]
fn the_virtual_host_is_the_one_given_or_else_the_pages_or_else_the_servers_address() {
    let page_host = "http://page.test/check.txt";
    let table = [
        (json!({ "type": "http", "host": "given.test", "path": page_host }), Some("given.test")),
        (json!({ "type": "http", "path": page_host }), Some("page.test")),
        (json!({ "type": "http", "path": "/check.txt" }), None),
    ];
    runtime().block_on(async {
        for (written, host) in table {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = listener.local_addr().unwrap();
            let served = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut heard = Vec::new();
                while !heard.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut heard).await.unwrap();
                }
                stream.write_all(page("200 OK", "").as_bytes()).await.unwrap();
                String::from_utf8(heard).unwrap()
            });
            ask(&Kernel, &Tools::default(), &target(at), &check(written), 0).await.unwrap();
            let request = served.await.unwrap();
            let host = host.map_or_else(|| at.to_string(), Into::into);
            assert!(request.starts_with("GET /check.txt HTTP/1.1\r\n"), "{request}");
            assert!(request.contains(&format!("host: {host}\r\n")), "{request}");
        }
    });
}

/// A program in a folder of its own.
fn script(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script");
    write_program(&path, text);
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

async fn run(text: &str, more: Value) -> (Result<(), Failure>, tempfile::TempDir) {
    let (folder, path) = script(text);
    let mut written = json!({ "type": "script", "path": path, "negotiate_timeout": "5s" });
    for (name, value) in more.as_object().unwrap() {
        written[name] = value.clone();
    }
    let target = Target {
        at: "10.0.0.11:8080".parse().unwrap(),
        way: Way::Routed,
        service: ("web".into(), Some("10.0.0.100:80".parse().unwrap())),
    };
    let outcome = ask(&Kernel, &Tools::default(), &target, &check(written), 0).await;
    (outcome, folder)
}

#[test]
fn a_scripts_exit_code_decides_and_it_is_told_both_addresses() {
    runtime().block_on(async {
        let text =
            r#"[ "$*" = "10.0.0.100 80 10.0.0.11 8080 one two words" ] && [ -z "$HOME$CARGO" ]"#;
        let (outcome, _) = run(text, json!({ "arguments": ["one", "two words"] })).await;
        assert_eq!(outcome, Ok(()));
        let (outcome, folder) = run("echo 'too hot'; echo more; exit 3", json!({})).await;
        let path = folder.path().join("script");
        let reason = format!("script {} ended with 3: \"too hot\"", path.display());
        assert_eq!(outcome, Err(Failure(reason)));
        let (outcome, _) = run("kill -9 $$", json!({})).await;
        assert!(outcome.unwrap_err().0.ends_with("was killed"));
        let missing = json!({ "path": "/nonexistent/script" });
        let (outcome, _) = run("", missing).await;
        let reason = outcome.unwrap_err().0;
        assert!(reason.starts_with("script /nonexistent/script cannot be run: "), "{reason}");
    });
}

#[test]
fn a_script_that_does_not_end_is_killed_with_all_that_it_started() {
    runtime().block_on(async {
        let started = Instant::now();
        let text = "sleep 600 & echo $! > \"$5\"; yes";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let more = json!({ "negotiate_timeout": "300ms", "arguments": [file] });
        let (outcome, _) = run(text, more).await;
        assert!(outcome.unwrap_err().0.ends_with("did not end within 300 ms"));
        assert!(started.elapsed() < Duration::from_secs(3));
        let id = std::fs::read_to_string(file).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", id.trim()));
        for _ in 0..100 {
            // Gone, or a zombie that whoever inherited it has not buried yet.
            if state().is_err() || state().is_ok_and(|it| it.contains(") Z ")) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?}", state());
    });
}

#[test]
fn a_ping_that_comes_back_with_an_error_is_a_failure() {
    runtime().block_on(async {
        let check = check(json!({ "type": "ping" }));
        let asked = |address: [u8; 4]| {
            let target = target(SocketAddr::from((address, 0)));
            let check = check.clone();
            let net = Bytes(Arc::default());
            async move { ask(&net, &Tools::default(), &target, &check, 0).await }
        };
        assert_eq!(asked([127, 0, 0, 1]).await, Ok(()));
        let reason = Failure("ping of 192.0.2.1 failed: unreachable".into());
        assert_eq!(asked([192, 0, 2, 1]).await, Err(reason));
    });
}

/// A network on which every server says the same bytes, and then ends the connection. Echo requests reach
/// this machine alone.
#[derive(Clone)]
struct Bytes(Arc<Vec<u8>>);

struct OneDatagram(Arc<Vec<u8>>, AtomicUsize);

impl Net for Bytes {
    type Stream = DuplexStream;
    type Datagrams = OneDatagram;

    async fn connect(&self, _: SocketAddr, _: Way) -> io::Result<DuplexStream> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(&self.0).await?;
        tokio::spawn(async move {
            let (mut reading, mut writing) = tokio::io::split(theirs);
            let _ = writing.shutdown().await;
            let _ = tokio::io::copy(&mut reading, &mut tokio::io::sink()).await;
        });
        Ok(ours)
    }

    async fn datagrams(&self, _: SocketAddr, _: Way) -> io::Result<OneDatagram> {
        Ok(OneDatagram(Arc::clone(&self.0), AtomicUsize::new(0)))
    }

    async fn ping(&self, to: IpAddr, _: Way) -> io::Result<Duration> {
        match to.is_loopback() {
            true => Ok(Duration::ZERO),
            false => Err(io::ErrorKind::HostUnreachable.into()),
        }
    }
}

impl Datagrams for OneDatagram {
    async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.1.store(datagram.first().map_or(0, |&byte| usize::from(byte)), Ordering::Relaxed);
        Ok(())
    }

    fn receive(&self, into: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send {
        let length = self.0.len().min(into.len());
        into[..length].copy_from_slice(&self.0[..length]);
        // The first answer has at least half of the right number.
        if let Some(first) = into[..length].first_mut() {
            *first = self.1.load(Ordering::Relaxed) as u8;
        }
        std::future::ready(if length == 0 {
            Err(io::ErrorKind::ConnectionReset.into())
        } else {
            Ok(length)
        })
    }
}

/// Nothing but noise, or what good servers say, with a piece of it changed.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let good: Vec<Vec<u8>> = cases()
        .into_iter()
        .flat_map(|case| [case.good, case.wrong])
        .map(|steps| steps.into_iter().flat_map(|(_, say)| say).collect())
        .collect();
    let changed = (
        prop::sample::select(good),
        any::<prop::sample::Index>(),
        0..12_usize,
        prop::collection::vec(any::<u8>(), 0..12),
    );
    let changed = changed.prop_map(|(mut bytes, place, removed, inserted)| {
        let start = place.index(bytes.len() + 1);
        let end = (start + removed).min(bytes.len());
        bytes.splice(start..end, inserted);
        bytes
    });
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..2000), 3 => changed]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_from_a_server_are_an_answer_or_a_failure_in_time(bytes in any_bytes()) {
        let net = Bytes(Arc::new(bytes));
        let datagrams = [
            json!({ "type": "udp", "expect": "x" }),
            json!({ "type": "dns", "query": "www.test", "expect": "192.0.2.7" }),
            json!({ "type": "sip" }),
        ];
        let tokio = runtime();
        for written in cases().into_iter().map(|case| case.check).chain(datagrams) {
            let written = with(with(written, "timeout", json!("20ms")), "negotiate_timeout", json!("100ms"));
            let check = check(written.clone());
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
            let started = Instant::now();
            let asked = async { tokio::time::timeout(Duration::from_secs(5), ask(&net, &Tools::default(), &target(at), &check, 0)).await };
            let outcome = tokio.block_on(asked);
            prop_assert!(outcome.is_ok(), "{} took {:?}", written, started.elapsed());
        }
    }
}
