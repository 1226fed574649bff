//! A preferred server and one that stands in for it (FEATURES ST-12, scenario E-1b): SFTP, once by
//! triggers that enable and disable the second, once by their scripts, and once by priorities alone.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::appliance::{INTERFACES_ONLY, program};
use sluice_tests::lab::{Lab, TRANSLATED};
use sluice_tests::process::eventually;
use sluice_tests::rig::Rig;
use sluice_tests::server::shell::Keys;
use sluice_tests::service::{Service, nat};

sluice_tests::cases! {
    on boot;
    triggers_enable_the_second_server_while_the_first_is_away,
    scripts_of_triggers_do_the_same_by_commands,
    priorities_do_the_same_without_triggers,
    with_last_server_kept_the_triggers_fire_as_well,
}

fn boot() -> Rig {
    let lab = Lab::build();
    let scripts = lab.directory().join("scripts");
    let node = format!("name = \"lb1\"\nscripts = {scripts:?}");
    let mut rig = Rig::boot_with(lab, &INTERFACES_ONLY.replace("name = \"lb1\"", &node));
    let keys = Keys::make(rig.lab.directory());
    let [first, second, _] = &mut rig.lab.translated;
    first.serve_sftp(&keys);
    second.serve_sftp(&keys);
    rig
}

/// Which server a new login reaches.
fn log_in(rig: &Rig) -> String {
    Keys::made_in(rig.lab.directory()).log_in(rig.client(), TRANSLATED)
}

/// The virtual service of the scenario; pings ask whether a server is there.
fn sftp() -> Service {
    nat("sftp", TRANSLATED, "22").with(
        "check",
        json!({ "type": "ping", "interval": "500ms", "timeout": "400ms", "rise": 2, "fall": 2 }),
    )
}

fn triggers() -> Value {
    let on =
        |state| json!({ "event": "server", "service": "sftp", "server": "nat1", "state": state });
    let second = |action| json!([{ "action": action, "service": "sftp", "server": "nat2" }]);
    json!([
        { "name": "sftp1down", "on": on("closing"), "do": second("enable") },
        { "name": "sftp1up", "on": on("up"), "do": second("disable") },
    ])
}

/// TR-03: scripts that run commands, and leave behind what they have found open.
fn scripted_triggers(rig: &Rig) -> Value {
    let scripts = rig.lab.directory().join("scripts");
    fs::create_dir_all(&scripts).expect("temporary files can be written");
    let script = |name: &str, command: &str| {
        let path = scripts.join(name);
        let text = format!(
            "#!/bin/sh\nls -l /proc/$$/fd > {}/open\nexec {} ctl {command} sftp/nat2\n",
            rig.lab.directory().display(),
            program().display()
        );
        fs::write(&path, text).expect("temporary files can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        json!([{ "action": "script", "path": name }])
    };
    let (down, up) = (script("sftp1-down.sh", "online"), script("sftp1-up.sh", "halt"));
    let mut triggers = triggers();
    triggers[0]["do"] = down;
    triggers[1]["do"] = up;
    triggers
}

/// How often the trigger of that name has fired.
fn fired(rig: &Rig, name: &str) -> usize {
    let events = rig.appliance.get("/events?limit=1000");
    let of_trigger = |event: &&Value| event["trigger"] == name;
    events.as_array().expect("a list").iter().filter(of_trigger).count()
}

fn wait_for(rig: &Rig, server: usize, actual: &str) {
    rig.appliance.wait_until("/status", &format!("server {server} is {actual}"), |status| {
        status["services"][0]["servers"][server]["actual"] == actual
    });
}

fn wait_for_wanted(rig: &Rig, server: usize, wanted: &str) {
    rig.appliance.wait_until("/status", &format!("server {server} is wanted {wanted}"), |status| {
        status["services"][0]["servers"][server]["wanted"] == wanted
    });
}

/// A session that stays open.
fn session(rig: &Rig) -> Child {
    let mut sftp = Keys::made_in(rig.lab.directory()).sftp(rig.client(), TRANSLATED, "-");
    let mut sftp = sftp
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("sftp is installed");
    say(&mut sftp, "pwd\n");
    let mut answer = [0; 8];
    let printed = sftp.stdout.as_mut().expect("a pipe");
    std::io::Read::read_exact(printed, &mut answer).expect("the session is open");
    sftp
}

fn say(sftp: &mut Child, command: &str) {
    let _ = sftp.stdin.as_mut().expect("a pipe").write_all(command.as_bytes()); // it may be gone
}

/// Whether a session ends when something is asked of it.
fn is_cut(sftp: &mut Child) -> bool {
    say(sftp, "ls\n");
    let ended = eventually(Duration::from_secs(5), || sftp.try_wait().expect("a child of ours"));
    ended.is_some_and(|status| !status.success())
}

/// Which server an open session fetches its name from.
fn still_at(rig: &Rig, sftp: &mut Child) -> String {
    let came = rig.lab.directory().join("still");
    say(sftp, &format!("get name {}\n", came.display()));
    let name = || std::fs::read_to_string(&came).ok().filter(|name| name.ends_with('\n'));
    let name = eventually(Duration::from_secs(5), name).expect("it comes");
    name.trim().to_owned()
}

fn triggers_enable_the_second_server_while_the_first_is_away(rig: &mut Rig) {
    by_triggers(rig, "fail", triggers());
}

/// C-18: `keep` affects scheduling only, never states or triggers.
fn with_last_server_kept_the_triggers_fire_as_well(rig: &mut Rig) {
    by_triggers(rig, "keep", triggers());
}

fn scripts_of_triggers_do_the_same_by_commands(rig: &mut Rig) {
    let triggers = scripted_triggers(rig);
    by_triggers(rig, "fail", triggers);
    let open = fs::read_to_string(rig.lab.directory().join("open")).expect("they have run");
    // The shell has the script itself open, and where this list goes.
    let leads = open.lines().filter_map(|line| line.split(" -> ").nth(1));
    let is_its_own =
        |it: &str| it.starts_with("pipe:") || it.ends_with(".sh") || it.ends_with("/open");
    let strange: Vec<_> = leads.filter(|it| !is_its_own(it)).collect();
    assert!(open.contains("pipe:") && strange.is_empty(), "{open}");
}

fn by_triggers(rig: &mut Rig, last_server: &str, triggers: Value) {
    let [first, second, _] = rig.translated();
    let service = sftp()
        .with("last_server", last_server)
        .to(first)
        .to_with(second, json!({ "state": "halt" }));
    rig.appliance.change(|document| {
        document["service"] = json!([service.json()]);
        document["trigger"] = triggers.clone();
    });
    wait_for(rig, 0, "up");
    let names: Vec<_> = (0..6).map(|_| log_in(rig)).collect();
    assert!(names.iter().all(|name| name == "nat1"), "{names:?}");
    let before = (fired(rig, "sftp1down"), fired(rig, "sftp1up"));

    first.answer_pings(false);
    wait_for(rig, 1, "up");
    assert_eq!(log_in(rig), "nat2");
    assert_eq!(fired(rig, "sftp1down"), before.0 + 1, "once for one change");
    let mut open = session(rig);

    first.answer_pings(true);
    wait_for(rig, 0, "up");
    wait_for_wanted(rig, 1, "halt");
    assert!(is_cut(&mut open), "a server that is disabled immediately loses its sessions");
    assert_eq!(log_in(rig), "nat1");
    assert_eq!(fired(rig, "sftp1up"), before.1 + 1, "once for one change");
    rig.appliance.change(|document| document["trigger"] = json!([]));
}

fn priorities_do_the_same_without_triggers(rig: &mut Rig) {
    let [first, second, _] = rig.translated();
    let service = sftp().to(first).to_with(second, json!({ "priority": 2 }));
    rig.serve([&service]);
    wait_for(rig, 0, "up");
    wait_for(rig, 1, "up");
    let names: Vec<_> = (0..6).map(|_| log_in(rig)).collect();
    assert!(names.iter().all(|name| name == "nat1"), "{names:?}");

    let mut open = session(rig);
    first.answer_pings(false);
    wait_for(rig, 0, "closing");
    assert_eq!(log_in(rig), "nat2");
    assert_eq!(still_at(rig, &mut open), "nat1", "a server that is closing keeps its sessions");
    drop(open.stdin.take());
    open.wait().expect("it ends");

    first.answer_pings(true);
    wait_for(rig, 0, "up");
    assert_eq!(log_in(rig), "nat1");
}
