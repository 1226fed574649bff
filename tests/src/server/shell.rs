//! OpenSSH on a real server, for SFTP.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Server;
use crate::client::Client;
use crate::process::{self, eventually};

/// Keys of a laboratory: the one that its servers show, and the one that its clients log in with.
pub struct Keys(PathBuf);

impl Keys {
    /// Makes them.
    ///
    /// # Panics
    /// If that fails.
    pub fn make(directory: &Path) -> Self {
        for name in ["host-key", "client-key"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(directory.join(name));
            process::run(&mut keygen);
        }
        Self(directory.to_owned())
    }

    /// Those that were made there before.
    pub fn made_in(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// `sftp` to `address` as a client of the laboratory, which reads its commands from `batch`.
    pub fn sftp(&self, client: &Client, address: Ipv4Addr, batch: &str) -> Command {
        let mut sftp = client.namespace.command("sftp");
        sftp.args(["-b", batch, "-q", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]);
        // All servers of a service show the same key; which that is, is not what is tested.
        sftp.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        sftp.arg("-i").arg(self.0.join("client-key")).arg(format!("root@{address}"));
        sftp
    }

    /// Logs in by SFTP and says which server answered: each has a file with its name.
    ///
    /// # Panics
    /// If nobody lets it in.
    pub fn log_in(&self, client: &Client, address: Ipv4Addr) -> String {
        let mut sftp = self.sftp(client, address, "-");
        sftp.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = sftp.spawn().expect("sftp is installed");
        let mut commands = running.stdin.take().expect("it has a pipe");
        std::io::Write::write_all(&mut commands, b"get name /dev/stdout\n").expect("it reads");
        drop(commands);
        let output = running.wait_with_output().expect("a child of ours can be waited for");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "sftp to {address}: {}: {said}", output.status);
        let printed = String::from_utf8_lossy(&output.stdout);
        let name = printed.lines().rfind(|line| !line.is_empty() && !line.starts_with("sftp>"));
        name.unwrap_or_else(|| panic!("no name in {printed:?}")).to_owned()
    }
}

impl Server {
    /// Starts an SSH server that gives files to whoever has the clients' key; one file is called
    /// `name` and holds this server's.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn serve_sftp(&mut self, keys: &Keys) {
        let home = self.files.join("sftp");
        fs::create_dir_all(&home).expect("the server's files can be written");
        fs::write(home.join("name"), format!("{}\n", self.name)).expect("as above");
        let _ = fs::create_dir("/run/sshd"); // where sshd's system service makes it, too
        let at = keys.0.display();
        let lines = format!(
            "Port 22\n\
             HostKey {at}/host-key\n\
             AuthorizedKeysFile {at}/client-key.pub\n\
             PidFile none\n\
             UsePAM no\n\
             UseDNS no\n\
             StrictModes no\n\
             PermitRootLogin prohibit-password\n\
             Subsystem sftp internal-sftp -d {}\n",
            home.display()
        );
        let file = self.files.join("sshd.conf");
        fs::write(&file, lines).expect("as above");
        let mut sshd = self.namespace.command("/usr/sbin/sshd");
        self.start_program(sshd.arg("-D").arg("-f").arg(&file));
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 22));
        let answers = || self.namespace.enter(|| TcpStream::connect(to)).ok();
        eventually(Duration::from_secs(10), answers)
            .unwrap_or_else(|| panic!("{}: sshd did not answer in 10 s", self.name));
    }

    /// Stops or begins to answer pings, over IPv4.
    pub fn answer_pings(&self, answer: bool) {
        self.namespace.sysctl("net.ipv4.icmp_echo_ignore_all", if answer { "0" } else { "1" });
    }
}
