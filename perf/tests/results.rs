//! Small runs of the real program: what it writes has the shape that scripts and baselines rely on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs `perf` with `--json` and returns what it has written.
fn written(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let (json, html) = (folder.path().join("out.json"), folder.path().join("out.html"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_perf"));
    command.args(arguments).args(["--memory", "plain", "--json"]).arg(&json);
    let output = command.arg("--html").arg(&html).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("budgets met"), "{said}");
    assert!(fs::read_to_string(html).unwrap().contains("</html>"));
    serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap()
}

fn of_case<'a>(written: &'a Value, case: &str) -> &'a Value {
    let results = written["results"].as_array().unwrap();
    let found = results.iter().find(|result| result["case"] == case);
    found.unwrap_or_else(|| panic!("no {case} in {results:?}"))
}

fn assert_numbers(of: &Value, keys: &[&str]) {
    for key in keys {
        assert!(of[key].is_number(), "{key} in {of}");
    }
}

#[test]
fn a_step_has_its_conditions_its_spread_and_the_machine() {
    let written = written(&[
        "step",
        "--case",
        "forward,stages,maglev,flow-memory",
        "--mode",
        "dr",
        "--family",
        "ipv4",
        "--flows",
        "1000",
        "--size",
        "64",
        "--services",
        "1",
        "--runs",
        "2",
    ]);
    let machine = &written["machine"];
    for key in ["cpu", "commit", "date"] {
        assert!(machine[key].is_string(), "{key} in {machine}");
    }
    assert!(machine["cores"].is_number() && machine["huge_pages"] == false, "{machine}");

    let forward = of_case(&written, "forward");
    assert_eq!(forward["suite"], "step");
    assert_eq!(forward["mode"], "dr");
    assert_eq!(forward["family"], "ipv4");
    assert_eq!(forward["direction"], "request");
    assert_numbers(forward, &["flows", "size", "services", "runs", "mpps", "cycles_per_packet"]);
    assert_numbers(&forward["ns_per_packet"], &["min", "median", "max"]);
    assert!(forward["ns_per_packet"]["min"].as_f64() <= forward["ns_per_packet"]["max"].as_f64());
    for step in ["parse", "classify", "lookup", "rewrite", "transmit"] {
        assert_numbers(&of_case(&written, step)["ns_per_packet"], &["min", "median", "max"]);
    }
    assert_numbers(&of_case(&written, "maglev")["milliseconds"], &["median"]);
    assert!(of_case(&written, "flow-memory")["bytes"].as_f64() > Some(32.0));
}

#[test]
fn a_wire_has_its_throughput_its_loss_and_its_latency() {
    let written = written(&[
        "wire", "--wire", "rings", "--mode", "nat", "--flows", "1000", "--trial", "0.05", "--quick",
    ]);
    let all = written["results"].as_array().unwrap();
    let throughput = |it: &&Value| it["case"] == "throughput" && it["rival"].is_null();
    let throughput = all.iter().find(throughput).unwrap();
    assert_eq!(throughput["mode"], "nat");
    assert_eq!(throughput["link"], "rings");
    assert_numbers(throughput, &["flows", "size", "loss", "mpps"]);
    // Where another program takes the cores away, no rate may be without loss: then there is nothing to load.
    if throughput["mpps"].as_f64() > Some(0.0) {
        let latency = of_case(&written, "latency");
        assert_numbers(latency, &["load"]);
        assert_numbers(&latency["ns"], &["p50", "p99", "p999", "max"]);
    }
}

#[test]
fn an_interruption_leaves_what_there_was_so_far() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("out.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_perf"));
    command.args(["step", "--flows", "100", "--runs", "50", "--memory", "plain", "--json"]);
    let mut program = command.arg(&json).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("step forward"));
    let id = program.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(rest.last().unwrap().starts_with("interrupted"), "{rest:?}");
    assert_eq!(program.wait().unwrap().code(), Some(130));
    let written: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let results = written["results"].as_array().unwrap().len();
    assert!((1..100).contains(&results), "{results}");
}
