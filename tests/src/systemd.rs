//! A server whose programs systemd starts: a manager of its own (`systemd --user`, which knows the same units as
//! the machine's does) with a `/run`, a `/usr/local/sbin` and an `/etc/default` that nobody else sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::appliance::program_called;
use crate::process::{self, Background, eventually};
use crate::server::Server;

/// What the shell sees that starts the manager: the laboratory's folder, this machine's, the agent's program and
/// its options.
const START: &str = r#"
    mount --make-rprivate /
    mount --bind "$1" /mnt
    mount --bind "$2/run" /run
    mkdir -p "$1" /run/systemd/system
    mount --move /mnt "$1"
    mount -t tmpfs none /usr/local/sbin
    install -m 755 "$3" /usr/local/sbin/sluice-agent
    mount -t tmpfs none /etc/default
    echo "OPTIONS=\"$4\"" > /etc/default/sluice-agent
    export HOME="$2" XDG_CONFIG_HOME="$2/config" XDG_RUNTIME_DIR=/run
    export SYSTEMD_UNIT_PATH="$XDG_CONFIG_HOME/systemd/user" # and none of this machine's
    /lib/systemd/systemd --user --unit=basic.target --log-target=console
"#;

/// The manager, which ends with this value, and all that it started.
pub struct Systemd {
    folder: PathBuf,
    running: Background,
}

impl Systemd {
    /// On `server`, with the unit of the agent as it is delivered, drop-ins and other units.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(
        server: &Server,
        laboratory: &Path,
        options: &str,
        units: &[(&str, &str)],
    ) -> Self {
        let folder = laboratory.join("systemd").join(&server.name);
        fs::create_dir_all(folder.join("run")).expect("the laboratory's directory can be written");
        let place = folder.join("config/systemd/user");
        for (name, text) in units.iter().chain(&[("basic.target", "[Unit]\n")]) {
            let file = place.join(name);
            fs::create_dir_all(file.parent().expect("it is in a folder")).expect("as above");
            fs::write(file, text).expect("as above");
        }
        // Not by `ip netns exec`, which hides the control groups.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", server.namespace.name()));
        command.args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-ec", START, "sh"]).arg(laboratory).arg(&folder);
        command.arg(program_called("sluice-agent", "sluice-agent")).arg(options);
        process::say_to(&mut command, &folder.join("log"));
        let systemd = Self { running: Background::start(&mut command), folder };
        let answers = || {
            let said = systemd.output(&["is-active", "basic.target"]);
            (said.stdout == b"active\n").then_some(())
        };
        let answered = eventually(Duration::from_secs(10), answers);
        assert!(answered.is_some(), "systemd did not start: {}", systemd.log());
        systemd
    }

    /// What it and its programs have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// What `systemctl` says.
    ///
    /// # Panics
    /// If the manager has ended.
    pub fn output(&self, words: &[&str]) -> Output {
        // It answers nobody whose process number it cannot see. `unshare` has one child.
        let id = self.running.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let child = children.unwrap_or_else(|why| panic!("unshare: {why}: {}", self.log()));
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", child.trim())).args(["--mount", "--pid"]);
        command.args(["systemctl", "--user"]).args(words).env("XDG_RUNTIME_DIR", "/run");
        process::output(&mut command)
    }

    /// `systemctl` with these words.
    ///
    /// # Panics
    /// If it fails.
    pub fn ctl(&self, words: &[&str]) -> String {
        let output = self.output(words);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "systemctl {words:?}: {said}{complaint}\n{}", self.log());
        said
    }

    /// Ends it and all that it started.
    pub fn stop(mut self) {
        self.running.signal(Signal::SIGKILL); // unshare hears nothing else, and takes the others with it
        self.running.stop();
    }
}
