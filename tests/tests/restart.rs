//! Beginnings and ends of the appliance.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use sluice_tests::appliance::{Appliance, INTERFACES_ONLY, THREE_MODES};
use sluice_tests::lab::{DIRECT, TRANSLATED, TUNNELLED};
use sluice_tests::process::eventually;
use sluice_tests::rig::{Rig, at};
use sluice_tests::service::direct;

sluice_tests::cases! {
    services_in_the_file_are_served_from_the_start,
    after_kill_9_a_restart_comes_up_with_no_help_and_forwards,
    what_was_put_over_rest_survives_kill_9,
    sigterm_gives_everything_back,
    sighup_reads_the_file_again,
    a_broken_file_at_sighup_changes_nothing,
    a_second_appliance_with_the_same_state_is_refused,
    a_device_that_does_not_exist_is_named,
}

fn all_three_are_served(rig: &Rig) {
    for (address, servers) in
        [(DIRECT, rig.direct()), (TRANSLATED, rig.translated()), (TUNNELLED, rig.tunnelled())]
    {
        let answers = rig.client().connect(&at(address, 80), 9);
        assert_eq!(servers.each_ref().map(|server| answers.from(server)), [3, 3, 3]);
    }
}

fn restart_with(rig: &mut Rig, file: &str) {
    if rig.appliance.runs() {
        rig.appliance.stop();
    }
    rig.appliance.configure(file);
    rig.appliance.start();
}

fn three_modes() -> String {
    format!("{INTERFACES_ONLY}\n{THREE_MODES}")
}

fn services_in_the_file_are_served_from_the_start(rig: &mut Rig) {
    restart_with(rig, &three_modes());
    all_three_are_served(rig);
}

fn after_kill_9_a_restart_comes_up_with_no_help_and_forwards(rig: &mut Rig) {
    restart_with(rig, &three_modes());
    let token = rig.appliance.token();
    for _ in 0..3 {
        all_three_are_served(rig);
        rig.appliance.kill_9();
        let socket = fs::symlink_metadata(rig.appliance.socket()).expect("a stale socket is left");
        assert!(socket.file_type().is_socket());
        rig.appliance.start();
    }
    all_three_are_served(rig);
    assert_eq!(rig.appliance.token(), token);
}

fn what_was_put_over_rest_survives_kill_9(rig: &mut Rig) {
    restart_with(rig, INTERFACES_ONLY);
    rig.serve([&direct("later", DIRECT, "80").to(&rig.direct()[2])]);
    let before = rig.appliance.get("/config");
    rig.appliance.kill_9();
    rig.appliance.start();
    assert_eq!(rig.appliance.get("/config"), before);
    assert_eq!(rig.client().connect(&at(DIRECT, 80), 3).from(&rig.direct()[2]), 3);
}

fn sigterm_gives_everything_back(rig: &mut Rig) {
    if rig.appliance.runs() {
        rig.appliance.stop();
    }
    let traces = || (entries("/run/dpdk"), entries("/dev/hugepages"), entries("/dev/shm"));
    let before = traces();
    restart_with(rig, &three_modes());
    all_three_are_served(rig);
    let stopped = AtomicBool::new(false);
    // It stops cleanly in the middle of traffic as well.
    std::thread::scope(|scope| {
        let (client, appliance) = (&rig.lab.clients[0], &mut rig.appliance);
        scope.spawn(|| {
            let try_once = || client.attempt(&at(DIRECT, 80), 1, Duration::from_millis(100));
            (0..200)
                .take_while(|_| !stopped.load(Ordering::Relaxed))
                .for_each(|_| drop(try_once()));
        });
        std::thread::sleep(Duration::from_millis(20));
        appliance.stop();
        stopped.store(true, Ordering::Relaxed);
    });
    assert!(!rig.appliance.socket().exists(), "the Unix socket is removed");
    for interface in ["wan", "lan"] {
        let shown = rig.lab.appliance.shell(&format!("ip -d link show dev {interface}"));
        assert!(shown.contains("UP"), "it is up as before: {shown}");
        assert!(shown.contains("promiscuity 0"), "nobody listens to all frames: {shown}");
    }
    assert_eq!(traces(), before);
    rig.appliance.start();
}

fn sighup_reads_the_file_again(rig: &mut Rig) {
    restart_with(rig, INTERFACES_ONLY);
    assert_eq!(rig.appliance.get("/services"), json!([]));
    rig.appliance.configure(&three_modes());
    rig.appliance.signal(Signal::SIGHUP);
    rig.appliance.wait_until("/services", "three services", |services| {
        services.as_array().is_some_and(|services| services.len() == 3)
    });
    all_three_are_served(rig);
}

fn a_broken_file_at_sighup_changes_nothing(rig: &mut Rig) {
    restart_with(rig, &three_modes());
    let before = rig.appliance.get("/config");
    let broken = three_modes().replace("mode = \"tun\"", "mode = \"teleport\"");
    rig.appliance.configure(&broken);
    rig.appliance.signal(Signal::SIGHUP);
    let told = || rig.appliance.log().contains("teleport").then_some(());
    eventually(Duration::from_secs(5), told).expect("the log names what is wrong");
    assert_eq!(rig.appliance.get("/config"), before);
    all_three_are_served(rig);
    rig.appliance.configure(&three_modes());
}

fn a_second_appliance_with_the_same_state_is_refused(rig: &mut Rig) {
    if !rig.appliance.runs() {
        rig.appliance.start();
    }
    let file = rig.appliance.file();
    let state = rig.appliance.state();
    let [file, state] = [&file, &state].map(|path| path.to_str().expect("a plain path"));
    let second = rig.appliance.sluice(&["run", "--config", file, "--state", state]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(state), "it says which directory is in use: {said}");
    assert!(rig.appliance.runs(), "the first one is not disturbed");
    rig.appliance.get("/status");
}

fn a_device_that_does_not_exist_is_named(rig: &mut Rig) {
    let directory = tempfile::tempdir().expect("temporary files can be written");
    let mut other = Appliance::new(&rig.lab.router, directory.path());
    other.configure(&INTERFACES_ONLY.replace("kernel:lan", "kernel:nosuch0"));
    other.launch();
    let status = other.end(Duration::from_secs(15));
    assert_eq!(status.code(), Some(1), "{}", other.log());
    assert!(other.log().contains("nosuch0"), "{}", other.log());
}

/// How many entries a directory has; none if it does not exist.
fn entries(path: impl AsRef<Path>) -> usize {
    fs::read_dir(path).map_or(0, Iterator::count)
}
