//! A web server that a test kills and starts again, and what the appliance says meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::answer;
use crate::process::{Background, eventually};
use crate::rig::Rig;
use crate::server::Server;
use crate::service::Service;

/// The port that it listens on.
pub const PORT: u16 = 8081;

/// A nginx of a test's own. It answers with its server's name alone.
pub struct Web(Background);

impl Web {
    /// On this server, listening at `listen` (an address, or `*`).
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(rig: &Rig, server: &Server, listen: &str) -> Self {
        let folder = rig.lab.directory().join(format!("web-{}", server.name));
        fs::create_dir_all(&folder).expect("the laboratory's directory can be written to");
        let file = folder.join("nginx.conf");
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|it| format!("{it}_temp_path {};", folder.join(it).display()))
            .join(" ");
        let text = format!(
            "daemon off; master_process off; pid {}; error_log stderr;\n\
             events {{}}\nhttp {{ access_log off; keepalive_timeout 300; {temporary}\n\
             server {{ listen {listen}:{PORT}; location / {{ return 200 {}; }} }} }}\n",
            folder.join("pid").display(),
            server.name,
        );
        fs::write(&file, text).expect("the laboratory's directory can be written to");
        let mut command = server.namespace.command("nginx");
        command.arg("-e").arg("stderr").arg("-c").arg(file);
        Self(Background::start(&mut command))
    }

    /// Ends it, and with it its connections.
    ///
    /// # Panics
    /// If it has ended already.
    pub fn kill(mut self) {
        self.0.child().kill().expect("it runs");
        self.0.stop();
    }
}

/// A service that asks its servers by connections to [`PORT`], every 200 ms.
pub fn checked(service: Service, virtual_address: bool) -> Service {
    let mut check = json!({
        "type": "connect", "interval": "200ms", "timeout": "150ms", "rise": 2, "fall": 2, "port": PORT,
    });
    if virtual_address {
        check["virtual"] = json!(true);
    }
    service.with("check", check)
}

/// What the appliance says of a server, in the first service that has it.
///
/// # Panics
/// If no service has it.
pub fn state(rig: &Rig, server: &Server) -> Value {
    let status = rig.appliance.get("/status");
    let services = status["services"].as_array().expect("services").clone();
    let servers = services.iter().flat_map(|it| it["servers"].as_array().expect("servers").clone());
    servers.into_iter().find(|it| it["name"] == server.name.as_str()).expect("it is configured")
}

/// Waits until it is in one of these states.
///
/// # Panics
/// If it is not within 20 s.
pub fn wait_for(rig: &Rig, server: &Server, states: &[&str]) {
    let is = || states.iter().any(|it| state(rig, server)["actual"] == *it).then_some(());
    let there = eventually(Duration::from_secs(20), is);
    assert!(there.is_some(), "{} is not {states:?}: {}", server.name, state(rig, server));
}

/// Who answers a new connection to `to`, or what status it has if that is no server's.
pub fn who(rig: &Rig, to: &str) -> Option<String> {
    let response = rig.client().request(to, "GET", "/", b"").ok()?;
    Some(match response.status {
        200 => answer(&response).map_or_else(|| response.text(), |it| it.server),
        status => status.to_string(),
    })
}

/// Another request on the same connection to a [`Web`], and whose it is; `None` if it has ended.
pub fn ask_again(stream: &mut TcpStream) -> Option<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: sluice\r\n\r\n").ok()?;
    let mut heard = [0; 1024];
    let length = stream.read(&mut heard).ok()?;
    let text = String::from_utf8_lossy(&heard[..length]).into_owned();
    text.split("\r\n\r\n").nth(1).map(Into::into)
}
