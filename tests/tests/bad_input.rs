//! What must not be believed: requests, files and frames.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use sluice_tests::appliance::{INTERFACES_ONLY, THREE_MODES};
use sluice_tests::decode::Ends;
use sluice_tests::http::Response;
use sluice_tests::lab::{APPLIANCE, DIRECT, TRANSLATED, TUNNELLED};
use sluice_tests::process::eventually;
use sluice_tests::rig::{Rig, at};
use sluice_tests::service::{direct, nat, tunnel};

sluice_tests::cases! {
    a_request_without_the_right_token_is_refused,
    a_body_of_100_megabytes_is_refused_without_being_kept,
    a_body_that_is_not_json_is_refused,
    a_body_of_another_type_is_refused,
    a_stale_etag_is_refused,
    a_path_or_a_method_that_does_not_exist_is_refused,
    a_wrong_configuration_is_refused,
    somebody_who_speaks_no_tls_disturbs_nobody,
    an_unknown_name_in_a_file_is_refused_with_a_suggestion,
    every_example_configuration_is_accepted,
    every_kind_of_unusable_frame_is_dropped_for_its_reason,
    random_and_truncated_frames_are_dropped_and_traffic_goes_on,
}

const JSON: &str = "Content-Type: application/json";
const CONFIG: &str = "/api/v1/config";

/// Expects a refusal as RFC 9457 has it, and that the service goes on as it was.
fn expect(rig: &Rig, answer: &Response, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["status"], status);
    assert_eq!(rig.appliance.get("/services")[0]["name"], "web");
    assert_eq!(rig.client().connect(&at(DIRECT, 80), 3).count(), 3);
}

fn serve_web(rig: &Rig) {
    rig.serve([&direct("web", DIRECT, "80").to_all(rig.direct())]);
}

fn a_request_without_the_right_token_is_refused(rig: &mut Rig) {
    serve_web(rig);
    let anonymous = rig.appliance.https(&[], CONFIG);
    expect(rig, &anonymous, 401);
    assert!(anonymous.header("www-authenticate").is_some_and(|it| it.starts_with("Bearer")));
    let token = rig.appliance.token();
    let almost = format!("{}x", &token[..token.len() - 1]);
    for wrong in ["", "x", &almost, &format!("{token}x"), &"x".repeat(4000)] {
        let header = format!("Authorization: Bearer {wrong}");
        expect(rig, &rig.appliance.https(&["-H", &header], CONFIG), 401);
        let deletion = ["-H", &header, "-X", "DELETE"];
        expect(rig, &rig.appliance.https(&deletion, "/api/v1/services/web"), 401);
    }
    assert_eq!(rig.appliance.https_as_operator(&[], CONFIG).status, 200);
    assert_eq!(rig.appliance.https(&[], "/healthz").status, 200);
    assert_eq!(rig.appliance.https(&[], "/readyz").status, 200);
}

fn a_body_of_100_megabytes_is_refused_without_being_kept(rig: &mut Rig) {
    serve_web(rig);
    let body = tempfile::NamedTempFile::new().expect("temporary files can be written");
    body.as_file().set_len(100 << 20).expect("a sparse file costs nothing");
    let body = format!("@{}", body.path().display());
    let before = resident(rig);
    for more in ["Accept: */*", "Transfer-Encoding: chunked"] {
        let arguments = ["-X", "PUT", "-H", JSON, "-H", more, "--data-binary", &body];
        expect(rig, &rig.appliance.https_as_operator(&arguments, CONFIG), 413);
    }
    let grown = resident(rig).saturating_sub(before);
    assert!(grown < 40 << 20, "{grown} bytes more than before");
}

/// Bytes of memory that the appliance occupies.
fn resident(rig: &Rig) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", rig.appliance.id().expect("runs")));
    let status = status.expect("a running process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn a_body_that_is_not_json_is_refused(rig: &mut Rig) {
    serve_web(rig);
    let deep = "[".repeat(100_000);
    for wrong in ["{", "{\"node\": nonsense}", "\u{0}", "{} trailing", deep.as_str()] {
        let file = tempfile::NamedTempFile::new().expect("temporary files can be written");
        file.as_file().write_all(wrong.as_bytes()).expect("as above");
        let body = format!("@{}", file.path().display());
        let arguments = ["-X", "PUT", "-H", JSON, "--data-binary", &body];
        expect(rig, &rig.appliance.https_as_operator(&arguments, CONFIG), 400);
    }
}

fn a_body_of_another_type_is_refused(rig: &mut Rig) {
    serve_web(rig);
    for kind in ["text/plain", "application/x-www-form-urlencoded", "nonsense"] {
        let header = format!("Content-Type: {kind}");
        let arguments = ["-X", "PUT", "-H", &header, "-d", "{}"];
        expect(rig, &rig.appliance.https_as_operator(&arguments, CONFIG), 415);
    }
}

fn a_stale_etag_is_refused(rig: &mut Rig) {
    rig.serve([]);
    let stale = rig.appliance.rest("GET", "/config", None);
    serve_web(rig);
    let tag = format!("If-Match: {}", stale.header("etag").expect("an ETag"));
    let put = ["-X", "PUT", "-H", JSON, "-H", &tag, "-d", &stale.text()];
    expect(rig, &rig.appliance.https_as_operator(&put, CONFIG), 412);
    let delete = ["-X", "DELETE", "-H", &tag];
    expect(rig, &rig.appliance.https_as_operator(&delete, "/api/v1/services/web"), 412);
}

fn a_path_or_a_method_that_does_not_exist_is_refused(rig: &mut Rig) {
    serve_web(rig);
    for path in ["/api/v1/nonsense", "/api/v1/services/nobody", "/api/v1/services/web/servers/x"] {
        expect(rig, &rig.appliance.https_as_operator(&[], path), 404);
    }
    expect(rig, &rig.appliance.https_as_operator(&["-X", "DELETE"], CONFIG), 405);
}

fn a_wrong_configuration_is_refused(rig: &mut Rig) {
    serve_web(rig);
    let mut document = rig.appliance.get("/config");
    document["service"][0]["server"][1]["address"] = "10.0.0.7:80".into();
    let put = ["-X", "PUT", "-H", JSON, "-d", &document.to_string()];
    let answer = rig.appliance.https_as_operator(&put, CONFIG);
    expect(rig, &answer, 422);
    let error = &answer.json()["errors"][0];
    assert_eq!(error["path"], "service[0].server[1].address");
    assert!(error["expected"].as_str().is_some_and(|it| it.contains("an address")), "{error}");
    assert!(error["found"].as_str().is_some_and(|it| it.contains("10.0.0.7:80")), "{error}");
}

fn somebody_who_speaks_no_tls_disturbs_nobody(rig: &mut Rig) {
    serve_web(rig);
    rig.lab.appliance.enter(|| {
        let connect = || std::net::TcpStream::connect("127.0.0.1:9443").expect("it listens");
        let held: Vec<_> = (0..50).map(|_| connect()).collect(); // says nothing at all
        for text in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16; 4096], &[0xff; 64]] {
            let _ = connect().write_all(text); // it may close before everything is sent
        }
        drop(held);
    });
    assert_eq!(rig.appliance.https_as_operator(&[], CONFIG).status, 200);
}

fn an_unknown_name_in_a_file_is_refused_with_a_suggestion(rig: &mut Rig) {
    let directory = tempfile::tempdir().expect("temporary files can be written");
    let file = directory.path().join("sluice.toml");
    let check = |text: &str| {
        fs::write(&file, text).expect("temporary files can be written");
        let output = rig.appliance.sluice(&["check", file.to_str().expect("a plain path")]);
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let good = format!("{INTERFACES_ONLY}\n{THREE_MODES}");
    let (code, said) = check(&good);
    assert_eq!(code, Some(0), "{said}");

    let misspelt = good.replacen("scheduler = \"rr\"", "schedular = \"rr\"", 1);
    let (code, said) = check(&misspelt.replacen("weight", "weihgt", 1).replace("10.1.0.23", "far"));
    assert_eq!(code, Some(1), "{said}");
    for expected in ["service[0].schedular", "scheduler", "service[0].server[2].address", "far"] {
        assert!(said.contains(expected), "{expected} is not in: {said}");
    }
    let (code, said) = check("this is not TOML");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("line 1") || said.contains("1:"), "it says where: {said}");

    assert_eq!(rig.appliance.sluice(&["check"]).status.code(), Some(2));
    assert_eq!(rig.appliance.sluice(&["check", "/nonexistent.toml"]).status.code(), Some(1));
    assert_eq!(rig.appliance.sluice(&["dance"]).status.code(), Some(2));
}

fn every_example_configuration_is_accepted(rig: &mut Rig) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/configs");
    let mut seen = 0;
    for entry in fs::read_dir(folder).expect("the folder is there").flatten() {
        let mut text = fs::read_to_string(entry.path()).expect("it can be read");
        if entry.file_name() == "three-modes.toml" {
            text.insert_str(0, INTERFACES_ONLY);
        }
        let file = tempfile::NamedTempFile::new().expect("temporary files can be written");
        file.as_file().write_all(text.as_bytes()).expect("as above");
        let path = file.path().to_str().expect("a plain path");
        let output = rig.appliance.sluice(&["check", path]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{:?}: {said}", entry.file_name());
        seen += 1;
    }
    assert!(seen >= 5);
}

/// A SYN for the direct service from a client that does not exist, as a start for bad frames.
fn ends(rig: &Rig) -> Ends {
    Ends {
        macs: [rig.second_client().mac(), rig.wan_mac()],
        source: SocketAddrV4::new([10, 1, 0, 77].into(), 1234),
        destination: SocketAddrV4::new(DIRECT, 80),
    }
}

/// With byte `at` set to `value`, and the IPv4 checksum right again.
fn with(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    frame[24..26].fill(0);
    let sum = sluice_tests::decode::internet_checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Fragments are not among them: AF_PACKET puts them together before it hands them over, so it is
/// replay.rs that shows what becomes of those.
fn every_kind_of_unusable_frame_is_dropped_for_its_reason(rig: &mut Rig) {
    const EACH: u64 = 20;
    serve_web(rig);
    let ends = ends(rig);
    let good = ends.tcp("S", b"");
    let tagged = [&good[..12], &[0x81, 0, 0, 9], &good[12..]].concat();
    let mut bad_sum = good.clone();
    bad_sum[24] ^= 1;
    let to =
        |address: Ipv4Addr, port| Ends { destination: SocketAddrV4::new(address, port), ..ends };
    let from = |address: Ipv4Addr| Ends { source: SocketAddrV4::new(address, 1234), ..ends };
    let elsewhere = Ends { macs: [ends.macs[0], [2, 9, 9, 9, 9, 9]], ..ends };
    let lldp = [&good[..12], &[0x88, 0xcc], &[0x60; 60]].concat();
    let cases = [
        ("truncated", with(good.clone(), 17, 200)), // total length beyond the frame's end
        ("truncated", good[..40].to_vec()),
        ("malformed", with(good.clone(), 14, 0x55)), // version 5
        ("malformed", with(good.clone(), 14, 0x44)), // a header of 16 bytes
        ("bad_checksum", bad_sum),
        ("vlan", tagged),
        ("not_ip", lldp),
        ("not_tcp_or_udp", with(good.clone(), 23, 89)),
        ("not_our_mac", elsewhere.tcp("S", b"")),
        ("bad_source", from(Ipv4Addr::LOCALHOST).tcp("S", b"")),
        ("bad_source", from([224, 0, 0, 5].into()).tcp("S", b"")),
        ("land", from(DIRECT).tcp("S", b"")), // to itself
        ("not_our_address", to([10, 1, 0, 200].into(), 80).tcp("S", b"")),
        ("no_service", to(DIRECT, 81).tcp("S", b"")),
    ];
    let frames = rig.second_client().frames();
    for (reason, frame) in cases {
        let before = rig.books();
        for _ in 0..EACH {
            frames.send(&frame);
        }
        let counted = || {
            let now = rig.books().dropped(reason) - before.dropped(reason);
            (now >= EACH).then_some(())
        };
        let there = eventually(Duration::from_secs(5), counted).is_some();
        let now = rig.books();
        let drops = now.drops_since(&before);
        assert!(there, "expected {EACH} × {reason}, found {drops:?} for {frame:02x?}");
    }
    rig.client().connect(&at(DIRECT, 80), 9);
}

fn random_and_truncated_frames_are_dropped_and_traffic_goes_on(rig: &mut Rig) {
    rig.serve([
        &direct("web", DIRECT, "80").to_all(rig.direct()),
        &nat("nat", TRANSLATED, "1-60000").with("protocol", "tcp+udp").to_all(rig.translated()),
        &tunnel("tun", TUNNELLED, "80").with("protocol", "tcp+udp").to_all(rig.tunnelled()),
    ]);
    let before = rig.books();
    let frames = rig.second_client().frames();
    let mut random = Random(0x1234_5678_9abc_def1);
    let seeds: Vec<_> = [DIRECT, TRANSLATED, TUNNELLED, APPLIANCE]
        .iter()
        .flat_map(|&address| {
            let ends = Ends { destination: SocketAddrV4::new(address, 80), ..ends(rig) };
            [ends.tcp("S", b""), ends.tcp("PA", &[7; 300]), ends.udp(&[9; 700])]
        })
        .chain([[&[0xff; 6][..], &[2; 6], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[2; 20]].concat()])
        .collect();
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| rig.client().connect(&at(DIRECT, 80), 200));
        for number in 0..20_000_u32 {
            let mut frame = seeds[random.below(seeds.len())].clone();
            for _ in 0..random.below(4) {
                let place = random.below(frame.len());
                frame[place] = random.below(256) as u8;
            }
            frame.truncate(14 + random.below(frame.len() - 13));
            if number.is_multiple_of(5) {
                frame[14..].fill_with(|| random.below(256) as u8);
            }
            frames.send(&frame);
            if number.is_multiple_of(64) {
                std::thread::sleep(Duration::from_millis(1)); // a flood is another test's matter
            }
        }
        traffic.join().expect("200 connections are answered meanwhile");
    });
    let after = rig.books();
    assert!(after.received - before.received > 10_000, "most of them arrive: {after}");
    let drops = after.drops_since(&before);
    for reason in ["truncated", "malformed", "bad_checksum"] {
        assert!(drops.contains_key(reason), "{reason} is not among {drops:?}");
    }
    for (address, servers) in
        [(DIRECT, rig.direct()), (TRANSLATED, rig.translated()), (TUNNELLED, rig.tunnelled())]
    {
        let answers = rig.client().connect(&at(address, 80), 9);
        assert!(servers.iter().all(|server| answers.from(server) > 0));
    }
}

/// Marsaglia's xorshift64: the same frames on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}
