//! The program as its user meets it: exit codes, files, and the end by a signal. Everything runs inside the program, on
//! ports joined by rings.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn pktgen(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pktgen"));
    command.args(line.split(' ')).stdin(Stdio::null());
    command
}

fn run(line: &str) -> Output {
    pktgen(line).output().expect("the program starts")
}

/// What a run that went well wrote to its standard output as JSON.
fn json(line: &str) -> Value {
    let output = run(&format!("{line} --json"));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON and nothing else")
}

fn refusal(line: &str) -> (i32, String) {
    let output = run(line);
    assert!(output.stdout.is_empty(), "nothing is reported");
    (
        output.status.code().expect("it ends by itself"),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn wrong_usage_is_2_and_a_refusal_is_1_and_both_say_why() {
    for (line, code, expected) in [
        ("run", 2, "--port"),
        ("run --port rings --rate 0", 2, "--rate"),
        ("run --port rings --sizes 9000", 2, "--sizes: expected 64 to 1518 bytes"),
        ("run --port rings --flows 100M", 2, "--flows: expected 1 to 10000000"),
        ("run --port rings --nonsense", 2, "--nonsense"),
        ("nonsense", 2, "nonsense"),
        ("replay /nonexistent.pcap --port rings", 1, "FILE: /nonexistent.pcap cannot be read"),
        (
            "run --port kernel:nosuchif0",
            1,
            "--port kernel:nosuchif0: interface \"nosuchif0\" does not exist",
        ),
        ("run --port vdev:net_nosuch0", 1, "--port vdev:net_nosuch0"),
        (
            "run --port rings --json /nonexistent/x.json",
            1,
            "--json: /nonexistent/x.json cannot be written",
        ),
    ] {
        let (found, text) = refusal(line);
        assert_eq!(found, code, "{line}: {text}");
        assert!(text.contains(expected), "{line}: {text}");
    }
}

#[test]
fn a_run_is_reported_as_lines_json_and_a_page() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (data, page) = (directory.path().join("r.json"), directory.path().join("r.html"));
    let output = run(&format!(
        "run --port rings --rate 50k --sizes imix --flows 100 --choice zipf:1.1 --duration 300ms --json {} --html {}",
        data.display(),
        page.display()
    ));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for word in
        ["calibration", "sent", "received", "lost         0 (0.000000 %)", "latency", "jitter"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    let report: Value =
        serde_json::from_slice(&std::fs::read(data).expect("it was written")).expect("JSON");
    let result = &report["result"];
    assert_eq!((result["mode"].as_str(), result["lost"].as_u64()), (Some("run"), Some(0)));
    assert_eq!(result["received_by_port"][1], result["sent"]);
    assert!(report["calibration"]["ring_mpps"].as_f64().expect("a number") > 0.0);
    assert!(result["latency_ns"]["p99.99"].as_u64() >= result["latency_ns"]["p50"].as_u64());
    stands_alone(&page, 3);
}

/// A page has so many plots and nothing from elsewhere.
fn stands_alone(page: &Path, plots: usize) {
    let page = std::fs::read_to_string(page).expect("it was written");
    assert_eq!(page.matches("<svg").count(), plots);
    for elsewhere in ["<script", "<link", "<img", "href=", "src=", "url(", "@import"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
}

#[test]
fn every_mode_goes_from_command_line_to_report() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let page = directory.path().join("page.html");
    let few = "--port rings --no-calibration --rate 20k --sizes 64,256 --trial 50ms --drain 20ms --attempts 4";
    for (mode, plots) in [
        ("rfc2544 throughput --resolution 10", 1),
        ("rfc2544 latency --at 5k --repeat 2", 2),
        ("rfc2544 loss --step 50", 1),
        ("rfc2544 back-to-back --longest 50ms --repeat 2", 1),
    ] {
        let report = json(&format!("{mode} {few} --html {}", page.display()));
        let sizes = report["result"]["sizes"].as_array().expect("by size");
        assert_eq!(
            sizes.iter().map(|it| it["size"].as_u64()).collect::<Vec<_>>(),
            [Some(64), Some(256)]
        );
        assert!(sizes.iter().all(|it| it["line_rate"].as_f64() > Some(4e6)), "of 10 Gbit/s");
        stands_alone(&page, plots);
    }
    let found = json(&format!(
        "cps --port rings --no-calibration --rate 5k --duration 1s --ipv6 --html {}",
        page.display()
    ));
    let result = &found["result"];
    assert!(
        result["begun"].as_u64() > Some(500) && result["begun"] == result["closed"],
        "{result}"
    );
    stands_alone(&page, 2);
    let found = json("calibrate --duration 50ms --flows 1000 --protocol tcp");
    assert!(found["calibration"]["null_mpps"].as_f64() > Some(0.1), "{found}");
}

#[test]
fn a_capture_is_replayed_with_what_it_holds() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("in.pcap");
    let mut bytes: Vec<u8> = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    for index in 0..50u32 {
        bytes.extend([1, index * 1000, 60, 60].into_iter().flat_map(u32::to_le_bytes));
        bytes.extend([index as u8; 60]);
    }
    std::fs::write(&file, bytes).expect("a temporary file can be written");
    let report = json(&format!(
        "replay {} --port rings --speed 2 --rounds 3 --no-calibration",
        file.display()
    ));
    let result = &report["result"];
    assert_eq!((result["sent"].as_u64(), result["rounds"].as_u64()), (Some(150), Some(3)));
    assert_eq!(result["received_by_port"][1].as_u64(), Some(150));
    assert!(result["seconds"].as_f64() >= Some(0.0735), "3 x 49 ms at twice the speed");
}

fn send(signal: &str, to: &Child) {
    let sent =
        Command::new("kill").args([signal, &to.id().to_string()]).status().expect("kill is there");
    assert!(sent.success());
}

#[test]
fn told_to_stop_it_reports_what_there_was() {
    for (signal, mode) in [
        ("-INT", "run --port rings --no-calibration --duration 1h"),
        ("-TERM", "cps --port rings --no-calibration --duration 1h"),
        ("-TERM", "rfc2544 throughput --port rings --no-calibration --rate 1k --trial 1h"),
        ("-INT", "run --port rings --no-calibration --duration 1h --cores 0,1"),
    ] {
        let mut child = pktgen(&format!("{mode} --json"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        // Its first line says that it is under way.
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        lines.read_line(&mut String::new()).expect("a line within a second or two");
        send(signal, &child);
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{mode}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
        assert_eq!(report["interrupted"], Value::Bool(true), "{mode}");
        let result = &report["result"];
        let count = ["sent", "begun"].iter().find_map(|name| result[name].as_u64());
        assert!(count.is_none_or(|count| count > 0), "{mode}: {result}");
    }
}

#[test]
fn help_shows_examples() {
    let output = run("--help");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("pktgen run --port rings") && text.contains("rfc2544"), "{text}");
}
