//! What clients send that nobody should.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{Memory, Reply, Rig, converse, reply};

const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn what_is_no_json_is_refused_with_line_and_column() {
    let rig = Rig::start();
    let twice = "{\"node\": {}, \"node\": {}}";
    for body in ["", "{", "{\"service\": [}", "nonsense", "{\"a\": 1} trailing", "\u{0}", twice] {
        let refused = rig.send("PUT", "/api/v1/config", &[JSON], body.as_bytes());
        refused.problem(400);
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("line") && detail.contains("column"), "{detail}");
    }
    let broken = b"\n[node\nname = 1";
    let toml = [("content-type", "application/toml")];
    let refused = rig.send("PUT", "/api/v1/config", &toml, broken);
    refused.problem(400);
    assert!(refused.text().contains("line 2"), "{}", refused.text());
    rig.send("PUT", "/api/v1/config", &toml, b"\xff\xfe").problem(400);
    rig.send("PUT", "/api/v1/config", &[JSON], b"\"\xff\"").problem(400);
    let deep = "[".repeat(100_000);
    rig.send("PUT", "/api/v1/config", &[JSON], deep.as_bytes()).problem(400);
}

#[test]
fn other_types_of_content_are_refused() {
    let rig = Rig::start();
    for kind in ["text/plain", "application/xml", "", "application/jsonp", "\u{ff}"] {
        let header = [("content-type", kind)];
        rig.send("PUT", "/api/v1/config", &header, b"{}").problem(415);
    }
    rig.send("PATCH", "/api/v1/services/web", &[], b"{}").problem(415);
    let with_charset = [("content-type", "Application/JSON; charset=utf-8")];
    rig.send("PATCH", "/api/v1/services/web", &with_charset, b"{}");
    let empty = rig.send("PATCH", "/api/v1/services/web", &with_charset, b"{}");
    assert_eq!(empty.status, 200);
}

#[test]
fn unknown_paths_and_methods_are_told_as_problems() {
    let rig = Rig::start();
    for path in ["/", "/api", "/api/v1", "/api/v1/nothing", "/api/v1/services/none", "/%ff", "//"] {
        rig.ask("GET", path).problem(404);
    }
    let refused = rig.ask("DELETE", "/api/v1/config");
    refused.problem(405);
    let allowed = refused.header("allow").expect("the answer says what is allowed");
    assert!(allowed.contains("GET") && allowed.contains("PUT"), "{allowed}");
    rig.ask("POST", "/api/v1/status").problem(405);
}

/// 100 MB, sent as they are announced or in chunks.
fn sent_in_full(rig: &Rig, head: &str, chunked: bool) -> Reply {
    let mut stream = UnixStream::connect(rig.socket()).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let megabyte = vec![b' '; 1_000_000];
    for _ in 0..100 {
        if chunked {
            stream.write_all(b"f4240\r\n").unwrap();
        }
        stream.write_all(&megabyte).unwrap();
        if chunked {
            stream.write_all(b"\r\n").unwrap();
        }
    }
    if chunked {
        stream.write_all(b"0\r\n\r\n").unwrap();
    }
    reply(&mut stream)
}

#[test]
fn a_body_of_a_hundred_megabytes_is_refused_and_never_kept() {
    let rig = Rig::start();
    let begin = "PUT /api/v1/config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                 content-type: application/json\r\n";
    let memory = Memory::measured();
    let announced = format!("{begin}content-length: 100000000\r\n\r\n");
    sent_in_full(&rig, &announced, false).problem(413);
    let chunked = format!("{begin}transfer-encoding: chunked\r\n\r\n");
    sent_in_full(&rig, &chunked, true).problem(413);
    memory.has_not_grown_by(64 << 20);

    // One that asks first is told at once, and has sent nothing.
    let asking = format!("{begin}expect: 100-continue\r\ncontent-length: 100000000\r\n\r\n");
    let mut stream = UnixStream::connect(rig.socket()).unwrap();
    converse(&mut stream, asking.as_bytes()).problem(413);
    let begin = Instant::now();
    assert_eq!(rig.ask("GET", "/healthz").status, 200);
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_request_that_is_none_ends_its_connection_and_no_other() {
    let rig = Rig::start();
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(1 << 20));
    for bytes in [&b"\x16\x03\x01\x00"[..], b"\0\0\0\0\r\n\r\n", many.as_bytes(), long.as_bytes()] {
        let mut stream = UnixStream::connect(rig.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.write_all(bytes); // it may be cut off before it has said everything
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(rig.ask("GET", "/healthz").status, 200);
}

/// More strangers than there are seats: silent ones, and ones that stop within the TLS handshake.
#[test]
fn strangers_that_say_nothing_keep_nobody_out_for_long() {
    let rig = Rig::start();
    let silent: Vec<_> = (0..150)
        .map(|_| TcpStream::connect(("127.0.0.1", rig.port)).expect("the kernel takes it"))
        .collect();
    let halfway: Vec<_> = (0..150)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", rig.port)).unwrap();
            stream.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
            stream
        })
        .collect();
    assert_eq!(rig.ask("GET", "/healthz").status, 200, "root has a door of its own");
    let begin = Instant::now();
    assert_eq!(rig.send_tls("GET", "/healthz", &[], b"").status, 200);
    let waited = begin.elapsed();
    assert!(waited < Duration::from_secs(25), "waited for {waited:?}");
    drop((silent, halfway));
}

#[test]
fn a_stranger_that_sends_its_headers_byte_by_byte_is_cut_off() {
    let rig = Rig::start();
    let mut slow = rig.tls(&[b"http/1.1"]);
    let begin = Instant::now();
    for byte in b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ".iter().chain([&b'y'; 200]) {
        if slow.write_all(&[*byte]).and_then(|()| slow.flush()).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        if begin.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(16), "the slow one was not cut off");
}

#[test]
fn a_body_that_stops_halfway_is_given_up() {
    let rig = Rig::start();
    let mut stream = UnixStream::connect(rig.socket()).unwrap();
    let head = "PUT /api/v1/config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-type: application/json\r\ncontent-length: 1000\r\n\r\n{";
    let begin = Instant::now();
    converse(&mut stream, head.as_bytes()).problem(408);
    assert!(begin.elapsed() < Duration::from_secs(15));
}

#[test]
fn questions_that_make_no_sense_are_refused() {
    let rig = Rig::start();
    for query in ["limit=0", "limit=10001", "limit=x", "client=here", "server=web1", "colour=red"] {
        rig.ask("GET", &format!("/api/v1/flows?{query}")).problem(400);
    }
    rig.ask("GET", "/api/v1/flows?service=none").problem(404);
    rig.ask("GET", "/api/v1/flows?service=web&server=none").problem(404);
}
