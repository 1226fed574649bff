//! What is done when something changes, with real programs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use controlplane::testing::{Manner, write_program};
use serde_json::{Value, json};

use crate::rig::{CONFIGURATION, Rig, wait_until};
use crate::sinks::Hook;

/// A node with these triggers, whose scripts lie in its directory.
fn rig(scripts: &[(&str, &str)], triggers: &str) -> Rig {
    rig_with("", scripts, triggers)
}

/// One with more settings of its own, too.
fn rig_with(settings: &str, scripts: &[(&str, &str)], triggers: &str) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in scripts {
        script(&directory.path().join("scripts").join(name), text);
    }
    let scripts = directory.path().join("scripts");
    let node = format!("name = \"lb1\"\nscripts = {scripts:?}\n{settings}");
    let configuration = CONFIGURATION.replace("name = \"lb1\"", &node);
    Rig::in_directory(directory, &format!("{configuration}{triggers}"))
}

fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let directory = path.parent().unwrap().parent().unwrap().display().to_string();
    write_program(path, &format!("cd {directory}\n{text}"));
}

fn state(rig: &Rig, server: &str) -> Value {
    rig.ask("GET", &format!("/api/v1/services/{server}")).json()["state"].clone()
}

/// What triggers did, oldest first: name, outcome and reason.
fn runs(rig: &Rig) -> Vec<(String, String, String)> {
    let all = rig.ask("GET", "/api/v1/events?limit=10000").json();
    let text = |event: &Value, part: &str| event[part].as_str().unwrap().to_owned();
    let triggers = all.as_array().unwrap().iter().filter(|event| event["subject"] == "trigger");
    let told = triggers.map(|it| (text(it, "trigger"), text(it, "new"), text(it, "reason")));
    let mut told: Vec<_> = told.collect();
    told.reverse();
    told
}

/// Waits for that many of them.
fn ran(rig: &Rig, count: usize) -> Vec<(String, String, String)> {
    wait_until("triggers have run", || runs(rig).len() >= count);
    runs(rig)
}

const PRIMARY_AND_BACKUP: &str = r#"
[[trigger]]
name = "backup-on"
on = { service = "web", server = "web1", state = "closing" }
do = [{ action = "enable", service = "web", server = "web2" }]

[[trigger]]
name = "backup-off"
on = { service = "web", server = "web1", state = "up" }
do = [{ action = "disable", service = "web", server = "web2" }]
"#;

/// Both servers of `web` are asked.
fn asked(configuration: &str) -> String {
    let check = "ports = \"80,443\"\ncheck = { type = \"connect\", interval = \"100ms\", \
                 timeout = \"50ms\", port = 80 }";
    let halted = "address = \"10.0.0.12\"\n  state = \"halt\"";
    configuration.replacen("ports = \"80,443\"", check, 1).replacen(
        "address = \"10.0.0.12\"",
        halted,
        1,
    )
}

/// ST-12 after a restart: a server that was dead before, or died meanwhile, fails without having had connections.
#[test]
fn a_server_that_is_dead_at_the_start_sets_off_what_is_done_when_it_fails() {
    let directory = tempfile::tempdir().unwrap();
    let rig =
        Rig::in_directory(directory, &asked(&(CONFIGURATION.to_owned() + PRIMARY_AND_BACKUP)));
    wait_until("it is up", || {
        rig.ask("GET", "/api/v1/status").json()["services"][0]["servers"][0]["actual"] == "up"
    });
    let told = ran(&rig, 1);
    assert_eq!(told[0].0, "backup-off");
    assert_eq!(state(&rig, "web/servers/web2"), "halt");
    rig.script.set("10.0.0.11:80".parse().unwrap(), Manner::Refuses);
    ran(&rig, 2);
    wait_until("web2 stands in", || state(&rig, "web/servers/web2") == "online");
    let file = rig.state().join("health.json");
    wait_until("it is written down", || {
        fs::read_to_string(&file).is_ok_and(|text| text.contains("10.0.0.11"))
    });

    // As in a file that is read again: the whole configuration, with web2 as it was.
    let mut config = rig.ask("GET", "/api/v1/config").json();
    config["service"][0]["server"][1]["state"] = json!("halt");
    assert_eq!(rig.tell("PUT", "/api/v1/config", &config).status, 200);
    let told = ran(&rig, 3);
    let (name, outcome, reason) = &told[2];
    assert_eq!((name.as_str(), outcome.as_str()), ("backup-on", "done"));
    assert_eq!(
        reason,
        "the configuration was replaced, and server web/web1 is down; web/web2 online: done"
    );
    assert_eq!(state(&rig, "web/servers/web2"), "online");
    // But not against a word about web2 itself.
    assert_eq!(rig.ask("POST", "/api/v1/services/web/servers/web2/halt").status, 200);
    thread::sleep(Duration::from_millis(300));
    assert_eq!((runs(&rig).len(), state(&rig, "web/servers/web2")), (3, json!("halt")));

    // The script of servers is new, and they all answer; so web1 is what it was only at first.
    let (directory, port) = rig.stop();
    let rig = Rig::restarted(directory, port);
    let told = ran(&rig, 2);
    let of: Vec<_> = told.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(of, ["backup-on", "backup-off"]);
    assert!(told[0].2.contains("server web/web1 down; web/web2 online: done"), "{told:?}");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(runs(&rig).len(), 2, "each once");
}

#[test]
fn a_server_that_fails_brings_up_another_and_takes_it_down_when_it_is_back() {
    let rig = rig(&[], PRIMARY_AND_BACKUP);
    ran(&rig, 1); // web1 is up from the start
    assert_eq!(state(&rig, "web/servers/web2"), "halt");
    rig.server_is("web", "web1", "up", "closing", "refused");
    rig.server_is("web", "web2", "halt", "up", "another server is of no interest");
    ran(&rig, 2);
    assert_eq!(state(&rig, "web/servers/web2"), "online");
    rig.server_is("web", "web1", "closing", "up", "well");
    let told = ran(&rig, 3);
    assert_eq!(state(&rig, "web/servers/web2"), "halt");
    assert_eq!(told[1].0, "backup-on");
    assert_eq!(told[2].0, "backup-off");
    let reason = ", server web/web1 closing; web/web2 online: done";
    assert!(told[1].1 == "done" && told[1].2.ends_with(reason), "{told:?}");
    // It is kept like any other change, and shown as one.
    let config = rig.ask("GET", "/api/v1/config").json();
    assert_eq!(config["service"][0]["server"][1]["state"], "halt");
    let (directory, port) = rig.stop();
    let rig = Rig::restarted(directory, port);
    assert_eq!(state(&rig, "web/servers/web2"), "halt");
}

#[test]
fn each_change_is_answered_once_in_order_and_what_is_so_already_is_no_mistake() {
    let rig = rig(&[], PRIMARY_AND_BACKUP);
    ran(&rig, 1); // web1 is up from the start
    for _ in 0..10 {
        rig.server_is("web", "web1", "up", "closing", "refused");
        rig.server_is("web", "web1", "closing", "up", "well");
    }
    rig.server_is("web", "web1", "up", "up", "once more"); // disabled already
    let told = ran(&rig, 22);
    let names: Vec<_> = told.iter().map(|(name, ..)| name.as_str()).collect();
    let off = || vec!["backup-off"];
    let expected = [off(), ["backup-on", "backup-off"].repeat(10), off()].concat();
    assert_eq!(names, expected);
    assert!(told.iter().all(|(_, outcome, _)| outcome == "done"), "{told:?}");
    assert!(told[0].2.ends_with("web/web2 halt: done"), "{told:?}");
    assert!(told[21].2.ends_with("web/web2 halt: so already"), "{told:?}");
    assert_eq!(state(&rig, "web/servers/web2"), "halt");
}

#[test]
fn a_trigger_does_all_that_it_says_in_its_order() {
    let log = "cat > input.json; echo \"$@\" >> log; echo well";
    let triggers = r#"
[[trigger]]
name = "all"
on = { service = "web", state = "down" }
do = [
    { action = "drain", service = "web", server = "web1" },
    { action = "weight", service = "web", server = "web2", weight = 7 },
    { action = "disable", service = "dns" },
    { action = "script", path = "log.sh", args = ["a b", "$HOME"] },
    { action = "script", path = "missing.sh" },
    { action = "webhook", url = "http://127.0.0.1:1/" },
    { action = "script", path = "log.sh", args = ["last"] },
]
"#;
    let rig = rig(&[("log.sh", log)], triggers);
    rig.server_is("web", "web1", "up", "down", "refused");
    let told = ran(&rig, 1).remove(0);
    assert_eq!(told.1, "failed");
    let expected = [
        "event 1, server web/web1 down",
        "web/web1 drain: done",
        "web/web2 weight 7: done",
        "dns disabled: done",
        "script log.sh: well",
        "script missing.sh failed",
        "webhook http://127.0.0.1:1 failed: connect to 127.0.0.1:1",
        "script log.sh: well",
    ];
    let parts: Vec<_> = told.2.split("; ").collect();
    assert_eq!(parts.len(), expected.len(), "{parts:?}");
    for (part, expected) in parts.iter().zip(expected) {
        assert!(part.starts_with(expected), "{part}, not {expected}");
    }
    assert_eq!(state(&rig, "web/servers/web1"), "drain");
    assert_eq!(rig.ask("GET", "/api/v1/services/web/servers/web2").json()["weight"], 7);
    assert_eq!(rig.ask("GET", "/api/v1/services/dns").json()["enabled"], false);
    let log = fs::read_to_string(rig.directory.path().join("log")).unwrap();
    assert_eq!(log, "a b $HOME\nlast\n");
    let input = fs::read(rig.directory.path().join("input.json")).unwrap();
    let input: Value = serde_json::from_slice(&input).unwrap();
    assert_eq!((&input["server"], &input["reason"]), (&json!("web1"), &json!("refused")));
    assert_eq!(input["virtual_addresses"], json!(["10.0.0.100"]));
}

#[test]
fn a_trigger_tells_a_receiver_of_what_set_it_off_once_and_signed() {
    let hook = Hook::start(&[204, 503]);
    let triggers = format!(
        "[[trigger]]\nname = \"tell\"\non = {{ service = \"web\", server = \"web1\" }}\n\
         do = [{{ action = \"webhook\", url = \"http://127.0.0.1:{}/hook\", secret = \"ours\" }}]\n",
        hook.port
    );
    let rig = rig(&[], &triggers);
    rig.server_is("web", "web1", "up", "down", "refused");
    rig.server_is("web", "web1", "down", "up", "well");
    let told = ran(&rig, 2);
    let request = hook.next();
    assert_eq!(request.line, "POST /hook HTTP/1.1");
    assert!(request.is_signed_with("ours") && !request.is_signed_with("theirs"));
    assert_eq!(request.header("sluice-event"), "1");
    let event = request.json();
    let api = rig.ask("GET", "/api/v1/events?service=web&server=web1&limit=10000").json();
    let noted = api.as_array().unwrap().iter().find(|event| event["number"] == 1).unwrap();
    for (name, value) in noted.as_object().unwrap() {
        assert_eq!(event[name], *value, "{name}");
    }
    assert_eq!((&event["node"], &event["server_address"]), (&json!("lb1"), &json!("10.0.0.11")));
    assert_eq!(event["virtual_addresses"], json!(["10.0.0.100"]));
    let at = format!("webhook http://127.0.0.1:{}", hook.port);
    assert!(told[0].1 == "done" && told[0].2.ends_with(&format!("{at}: taken")), "{told:?}");
    let busy = format!("{at} failed: http://127.0.0.1:{}: it answered 503", hook.port);
    assert!(told[1].1 == "failed" && told[1].2.ends_with(&busy), "{told:?}");
    assert_eq!(hook.next().json()["reason"], "well");
    assert!(hook.requests.try_recv().is_err(), "it is sent once, whatever comes of it");
}

#[test]
fn a_script_that_hangs_is_killed_with_all_that_it_has_started() {
    let hang = "trap '' TERM; echo $$ > pids; sleep 1000 & echo $! >> pids; echo started; wait";
    let flood = "yes | head -c 50000000; yes | head -c 1000000 >&2; exit 3";
    let triggers = r#"
[[trigger]]
name = "hang"
on = { state = "down" }
do = [
    { action = "script", path = "hang.sh", timeout = "1s" },
    { action = "script", path = "flood.sh" },
    { action = "drain", service = "web", server = "web1" },
]
"#;
    let rig = rig(&[("hang.sh", hang), ("flood.sh", flood)], triggers);
    rig.server_is("web", "web1", "up", "down", "refused");
    let told = ran(&rig, 1).remove(0);
    assert_eq!(told.1, "failed");
    assert!(told.2.contains("hang.sh failed: it took longer than 1 s, and was killed"), "{told:?}");
    assert!(told.2.contains("flood.sh failed: exit status: 3: y"), "{told:?}");
    assert!(told.2.len() < 1024);
    assert_eq!(state(&rig, "web/servers/web1"), "drain");
    let pids = fs::read_to_string(rig.directory.path().join("pids")).unwrap();
    assert_eq!(pids.lines().count(), 2);
    let is_gone = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ")
    };
    wait_until("both are gone", || pids.lines().all(is_gone));
}

#[test]
fn only_programs_that_nobody_else_can_change_are_run() {
    let triggers = r#"
[[trigger]]
name = "run"
on = { state = "down" }
do = [
    { action = "script", path = "open.sh" },
    { action = "script", path = "out.sh" },
    { action = "script", path = "inner/well.sh" },
    { action = "script", path = "inner" },
    { action = "script", path = "plain.txt" },
]
"#;
    let touch = "echo $0 >> log";
    let scripts = [("open.sh", touch), ("inner/well.sh", "exit 0"), ("plain.txt", touch)];
    let rig = rig(&scripts, triggers);
    let in_scripts = |name: &str| -> PathBuf { rig.directory.path().join("scripts").join(name) };
    fs::set_permissions(in_scripts("open.sh"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(in_scripts("plain.txt"), fs::Permissions::from_mode(0o644)).unwrap();
    script(&rig.directory.path().join("elsewhere/out.sh"), touch);
    std::os::unix::fs::symlink(rig.directory.path().join("elsewhere/out.sh"), in_scripts("out.sh"))
        .unwrap();
    rig.server_is("web", "web1", "up", "down", "refused");
    let told = ran(&rig, 1).remove(0).2;
    for part in [
        "script open.sh failed: others than root can change",
        "leads out of",
        "script inner/well.sh: done",
        "is no file",
        "script plain.txt failed: it cannot be started: Permission denied",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(!rig.directory.path().join("log").exists());
}

#[test]
fn programs_run_as_the_user_who_is_named() {
    let triggers = r#"
[[trigger]]
name = "run"
on = { state = "down" }
do = [{ action = "script", path = "who.sh" }]
"#;
    let rig = rig_with("script_user = \"nobody\"", &[("who.sh", "id -un; id -G")], triggers);
    // Those of root let nobody else in.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(rig.directory.path(), open).unwrap();
    let check = json!({
        "type": "script", "path": rig.directory.path().join("scripts/who.sh"), "interval": "200ms",
        "rise": 1, "negotiate_timeout": "5s",
    });
    let mut configuration = rig.ask("GET", "/api/v1/config").json();
    configuration["service"][0]["server"][1]["check"] = check;
    assert_eq!(rig.tell("PUT", "/api/v1/config", &configuration).status, 200);
    rig.server_is("web", "web1", "up", "down", "refused");
    let told = ran(&rig, 1).remove(0);
    assert_eq!(told.1, "done", "{told:?}");
    assert!(told.2.ends_with("script who.sh: nobody"), "{told:?}");
    let path = rig.directory.path().join("scripts/who.sh");
    script(&path, "[ $(id -un) = nobody ] || exit 1; echo $(id -G); exit 7");
    let reason = || {
        let status = rig.ask("GET", "/api/v1/status").json();
        let servers = status["services"][0]["servers"].as_array().unwrap().clone();
        servers[1]["reason"].as_str().unwrap_or_default().to_owned()
    };
    let group = nix::unistd::User::from_name("nobody").unwrap().unwrap().gid;
    let said = format!("ended with 7: \"{group}\"");
    wait_until("its check runs as that user, too", || reason().contains(&said));

    // Whoever may change what a running node does may not run whatever is installed.
    configuration["service"][0]["server"][1]["check"]["path"] = "/usr/bin/true".into();
    assert_eq!(rig.tell("PUT", "/api/v1/config", &configuration).status, 200);
    wait_until("only what lies in the directory of scripts runs", || {
        reason().contains("/usr/bin/true leads out of")
    });
    for (setting, value) in [("script_user", json!("root")), ("scripts", json!("/usr/bin"))] {
        let mut other = configuration.clone();
        other["node"][setting] = value;
        let refused = rig.tell("PUT", "/api/v1/config", &other).problem(409);
        assert!(refused[0].starts_with(&format!("node.{setting}: ")), "{refused:?}");
    }
    configuration["node"]["script_user"] = "no-such-user".into();
    let mistakes = rig.tell("PUT", "/api/v1/config", &configuration).problem(422);
    assert_eq!(mistakes.len(), 1);
    assert!(
        mistakes[0].starts_with("node.script_user: expected the name of a user"),
        "{mistakes:?}"
    );
}

#[test]
fn triggers_that_set_off_each_other_are_stopped() {
    // Stands in for the states of servers, which follow what is wanted of them.
    let triggers = r#"
[[trigger]]
name = "ping"
on = { event = "configuration" }
rate = 5
do = [
    { action = "weight", service = "web", server = "web1", weight = 1 },
    { action = "weight", service = "web", server = "web1", weight = 2 },
]
"#;
    let rig = rig(&[], triggers);
    assert_eq!(rig.ask("POST", "/api/v1/services/web/servers/web2/drain").status, 200);
    let told = ran(&rig, 6);
    let outcomes: Vec<_> = told.iter().map(|(_, outcome, _)| outcome.as_str()).collect();
    assert_eq!(outcomes[..6], ["done", "done", "done", "done", "done", "paused"]);
    assert!(told[5].2.contains("do triggers set off each other?"), "{told:?}");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(runs(&rig).len(), 6, "it rests, and says so once");
}

#[test]
fn what_is_wanted_of_a_server_sets_off_a_trigger_once_it_is_so() {
    let triggers = r#"
[[trigger]]
name = "drained"
on = { service = "web", server = "web1", state = "drain" }
do = [{ action = "weight", service = "web", server = "web2", weight = 7 }]
"#;
    let rig = rig(&[], triggers);
    let actual = || {
        let status = rig.ask("GET", "/api/v1/status").json();
        status["services"][0]["servers"][0]["actual"].clone()
    };
    wait_until("the server is up", || actual() == "up");
    for _ in 0..2 {
        assert_eq!(rig.ask("POST", "/api/v1/services/web/servers/web1/drain").status, 200);
    }
    ran(&rig, 1);
    assert_eq!(rig.ask("GET", "/api/v1/services/web/servers/web2").json()["weight"], 7);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(runs(&rig).len(), 1, "once for each change");
}

#[test]
fn a_trigger_cannot_speak_of_what_is_not_there() {
    let rig = rig(&[], PRIMARY_AND_BACKUP);
    let refused = rig.ask("DELETE", "/api/v1/services/web/servers/web2").problem(422);
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(
        refused[0].starts_with("trigger[0].do[0].server: expected the name of a server of web")
    );
}
