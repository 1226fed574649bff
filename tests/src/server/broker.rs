//! RabbitMQ on a real server.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Server;
use crate::process::{self, eventually};

/// Where brokers listen.
pub const PORT: u16 = 5672;

/// How long a broker may take to start: three of them share two cores with whatever else runs.
const START: Duration = Duration::from_secs(90);

/// What a client of AMQP 0-9-1 says first (section 4.2.2).
const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

impl Server {
    /// Begins to start RabbitMQ, a broker of its own whose cluster has this server's name.
    ///
    /// # Panics
    /// If its files cannot be written.
    pub fn start_broker(&mut self) {
        let home = self.files.join("broker");
        for folder in ["mnesia", "log"] {
            fs::create_dir_all(home.join(folder)).expect("the server's files can be written");
        }
        let cookie = home.join(".erlang.cookie");
        fs::write(&cookie, "SLUICELABORATORY").expect("as above");
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400)).expect("as above");
        let configuration = home.join("rabbitmq.conf");
        let lines = format!(
            "listeners.tcp.default = {PORT}\n\
             loopback_users = none\n\
             cluster_name = {}\n\
             vm_memory_high_watermark.absolute = 256MB\n\
             disk_free_limit.absolute = 50MB\n",
            self.name
        );
        fs::write(&configuration, lines).expect("as above");
        let mut broker = self.namespace.command("/usr/lib/rabbitmq/bin/rabbitmq-server");
        broker.current_dir(&home).env("HOME", &home).env("RABBITMQ_NODENAME", "rabbit@localhost");
        broker.env("RABBITMQ_MNESIA_BASE", home.join("mnesia"));
        broker.env("RABBITMQ_LOG_BASE", home.join("log"));
        broker.env("RABBITMQ_CONFIG_FILE", configuration);
        broker.env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("plugins"));
        // One thread that does not spin: three brokers share a machine with the appliance.
        broker.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none");
        self.start_program(&mut broker);
    }

    /// Waits until the broker answers.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_for_broker(&self) {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let answers = || {
            let stream = self.namespace.enter(|| TcpStream::connect(at)).ok()?;
            broker_behind(&stream).ok().filter(|name| *name == self.name)
        };
        eventually(START, answers).unwrap_or_else(|| {
            let log = fs::read_to_string(self.files.join("log")).unwrap_or_default();
            panic!("{}: RabbitMQ did not answer in {START:?}: {log}", self.name)
        });
    }

    /// Ends the broker without warning, as a fault does.
    ///
    /// # Panics
    /// If none runs.
    pub fn kill_broker(&self) {
        let inhabitants =
            process::run(Command::new("ip").args(["netns", "pids", self.namespace.name()]));
        let is_broker = |number: &&str| {
            let name = fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
            name.trim() == "beam.smp"
        };
        let broker = inhabitants.lines().find(is_broker).expect("a broker runs");
        let number = broker.parse().expect("a process number");
        // Whoever is in a namespace of ours was started by us.
        kill(Pid::from_raw(number), Signal::SIGKILL).expect("it can be ended");
    }
}

/// Begins an AMQP connection and says which broker is at the other end: its first method,
/// `Connection.Start`, holds the name of its cluster. The connection stays open.
///
/// # Errors
/// When it has been cut, or says something else.
pub fn broker_behind(mut stream: &TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(&PROTOCOL_HEADER)?;
    let mut head = [0; 7]; // a frame's type, channel and length
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let mut frame = vec![0; length.min(8192) + 1];
    stream.read_exact(&mut frame)?;
    let key = b"cluster_nameS";
    let found = frame.windows(key.len()).position(|window| window == key);
    let at = found.ok_or(io::ErrorKind::InvalidData)? + key.len();
    let field = frame.get(at..at + 4).ok_or(io::ErrorKind::InvalidData)?;
    let length = u32::from_be_bytes([field[0], field[1], field[2], field[3]]) as usize;
    let name = frame.get(at + 4..at + 4 + length).ok_or(io::ErrorKind::InvalidData)?;
    Ok(String::from_utf8_lossy(name).into_owned())
}
