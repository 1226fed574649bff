//! `sluice run` as a test sees it: started with a configuration file, spoken to over its Unix
//! socket, ended by a signal.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::books::Books;
use crate::held::Held;
use crate::http::{self, Response};
use crate::namespace::Namespace;
use crate::process::{self, Background, eventually};
use crate::service::Service;

/// How long a start may take. Everything on it is one small machine, with other tests beside it.
const START: Duration = Duration::from_secs(30);

/// The finished program, beside the one that asks.
///
/// # Panics
/// If it has not been built.
pub fn program() -> PathBuf {
    program_called("sluice", "sluice")
}

/// Another of our finished programs, of a package.
///
/// # Panics
/// If it has not been built.
pub fn program_called(name: &str, package: &str) -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    let folder = own.parent().expect("a program is in a folder");
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let program = folder.join(name);
    assert!(
        program.exists(),
        "{} is not there: cargo build --release -p {package}",
        program.display()
    );
    program
}

/// The configuration that the laboratory's appliance starts with: interfaces and no services.
pub const INTERFACES_ONLY: &str = include_str!("../configs/lab.toml");

/// Services for that laboratory, one for each way of reaching servers.
pub const THREE_MODES: &str = include_str!("../configs/three-modes.toml");

/// The program, running or not, and the files that it was given.
pub struct Appliance {
    running: Option<Background>,
    namespace: String,
    directory: PathBuf,
    variables: Vec<(String, String)>,
    expected_to_run: bool,
}

impl Appliance {
    /// Prepares the files for an appliance in `namespace`; `directory` is its alone.
    pub fn new(namespace: &Namespace, directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("temporary files can be written");
        let appliance = Self {
            running: None,
            namespace: namespace.name().to_owned(),
            directory: directory.to_owned(),
            variables: Vec::new(),
            expected_to_run: false,
        };
        appliance.configure(INTERFACES_ONLY);
        appliance
    }

    /// The configuration file.
    pub fn file(&self) -> PathBuf {
        self.directory.join("sluice.toml")
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("admin.sock")
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Writes the configuration file, for the next start or `SIGHUP`. The Unix socket's usual place
    /// is replaced by one that is this appliance's alone.
    pub fn configure(&self, text: &str) {
        let own = self.socket();
        let own = own.to_str().expect("paths of ours are text");
        fs::write(self.file(), text.replace("/run/sluice/admin.sock", own))
            .expect("temporary files can be written");
    }

    /// Adds to the environment of the next starts.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.into(), value.into()));
    }

    /// The token that it made at its first start.
    ///
    /// # Panics
    /// If it made none.
    pub fn token(&self) -> String {
        let path = self.state().join("admin.token");
        let token =
            fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        token.trim().to_owned()
    }

    /// The file that it logs to.
    pub fn log_file(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Everything it has logged since its first start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Its process number, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.running.as_ref().map(Background::id)
    }

    /// What it holds of the machine.
    ///
    /// # Panics
    /// If it does not run.
    pub fn held(&self) -> Held {
        Held::by(self.id().expect("sluice runs"))
    }

    /// Starts it and waits until it says that it is ready.
    ///
    /// # Panics
    /// If it ends instead, or is not ready in time; with its log.
    pub fn start(&mut self) {
        self.launch();
        self.wait_until_ready();
    }

    /// Starts it and does not wait.
    pub fn launch(&mut self) {
        let mut command = self.command(&["run", "--config"]);
        command.arg(self.file()).arg("--state").arg(self.state());
        command
            .args(["--log", "text"])
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        process::say_to(&mut command, &self.log_file());
        self.running = Some(Background::start(&mut command));
        self.expected_to_run = true;
    }

    /// Waits until it says that it is ready.
    ///
    /// # Panics
    /// If it ends instead, or is not ready in time; with its log.
    pub fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.running.as_mut().and_then(Background::ended) {
                panic!("sluice ended at its start with {status}:\n{}", self.log());
            }
            if self.request("GET", "/readyz", None).is_ok_and(|answer| answer.status == 200) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "sluice was not ready after {START:?}:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&self, signal: Signal) {
        self.running.as_ref().expect("sluice runs").signal(signal);
    }

    /// Asks it to stop (`SIGTERM`) and returns how it ended.
    ///
    /// # Panics
    /// If it does not end within 15 s.
    pub fn terminate(&mut self) -> ExitStatus {
        self.expected_to_run = false;
        let mut running = self.running.take().expect("sluice runs");
        running.signal(Signal::SIGTERM);
        running
            .wait(Duration::from_secs(15))
            .unwrap_or_else(|late| panic!("SIGTERM: {late}:\n{}", self.log()))
    }

    /// Waits until it ends by itself, and returns how.
    ///
    /// # Panics
    /// If it does not within `patience`.
    pub fn end(&mut self, patience: Duration) -> ExitStatus {
        self.expected_to_run = false;
        let mut running = self.running.take().expect("sluice was started");
        running.wait(patience).unwrap_or_else(|late| panic!("{late}:\n{}", self.log()))
    }

    /// Asks it to stop and expects it to end well.
    ///
    /// # Panics
    /// If it does not.
    pub fn stop(&mut self) {
        let status = self.terminate();
        assert!(status.success(), "after SIGTERM sluice ended with {status}:\n{}", self.log());
    }

    /// Takes it away without warning, as a power cut would.
    pub fn kill_9(&mut self) {
        self.expected_to_run = false;
        let mut running = self.running.take().expect("sluice runs");
        running.signal(Signal::SIGKILL);
        running.wait(Duration::from_secs(15)).expect("nothing outlives SIGKILL");
    }

    /// Whether it runs, as far as it should.
    ///
    /// # Panics
    /// If it was started, not stopped, and is gone.
    pub fn runs(&mut self) -> bool {
        let ended = self.running.as_mut().and_then(Background::ended);
        if let (Some(status), true) = (ended, self.expected_to_run) {
            panic!("sluice ended by itself with {status}:\n{}", self.log());
        }
        self.running.is_some() && ended.is_none()
    }

    /// One request over the Unix socket.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Response> {
        self.request_with(method, path, &[], body)
    }

    /// One request over the Unix socket, with more header lines.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn request_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> io::Result<Response> {
        let stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let kind = [("Content-Type", "application/json")];
        let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let kind = if body.is_empty() || typed { &[][..] } else { &kind[..] };
        http::exchange(stream, method, path, &[kind, headers].concat(), body.as_bytes())
    }

    /// One request under `/api/v1` that it grants.
    ///
    /// # Panics
    /// If it does not.
    pub fn rest(&self, method: &str, path: &str, body: Option<Value>) -> Response {
        let response = self
            .request(method, &format!("/api/v1{path}"), body.as_ref())
            .unwrap_or_else(|why| panic!("{method} {path}: {why}"));
        assert!(
            (200..300).contains(&response.status),
            "{method} {path}: {}: {}",
            response.status,
            response.text()
        );
        response
    }

    /// What `path` under `/api/v1` holds.
    pub fn get(&self, path: &str) -> Value {
        self.rest("GET", path, None).json()
    }

    /// Publishes exactly these services, by putting the whole configuration as an operator would:
    /// read, change, write back if nobody else did.
    pub fn serve<'a>(&self, services: impl IntoIterator<Item = &'a Service>) {
        let response = self.put_services(services);
        assert_eq!(response.status, 200, "PUT /config: {}", response.text());
    }

    /// As [`Self::serve`], but it may refuse.
    pub fn put_services<'a>(&self, services: impl IntoIterator<Item = &'a Service>) -> Response {
        self.put(|document| {
            document["service"] = services.into_iter().map(Service::json).collect();
        })
    }

    /// Makes `change` to the whole configuration.
    ///
    /// # Panics
    /// If it refuses.
    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let response = self.put(change);
        assert_eq!(response.status, 200, "PUT /config: {}", response.text());
    }

    /// As [`Self::change`], but it may refuse.
    pub fn put(&self, change: impl FnOnce(&mut Value)) -> Response {
        let current = self.rest("GET", "/config", None);
        let etag = current.header("etag").expect("GET /config gives an ETag").to_owned();
        let mut document = current.json();
        change(&mut document);
        self.request_with("PUT", "/api/v1/config", &[("If-Match", &etag)], Some(&document))
            .unwrap_or_else(|why| panic!("PUT /config: {why}"))
    }

    /// Changes what is wanted of one server, and no more.
    ///
    /// # Panics
    /// If it refuses.
    pub fn patch_server(&self, service: &str, server: &str, change: Value) {
        self.rest("PATCH", &format!("/services/{service}/servers/{server}"), Some(change));
    }

    /// One request over HTTPS, made by curl on the appliance's machine; `arguments` are curl's.
    /// Returns the status and what came with it.
    ///
    /// # Panics
    /// If curl gets no answer.
    pub fn https(&self, arguments: &[&str], path: &str) -> Response {
        let mut curl = Command::new("ip");
        curl.args(["netns", "exec", &self.namespace, "curl", "-sSk", "-i", "--http1.1"]);
        curl.args(["--max-time", "30", "-H", "Expect:"]).args(arguments);
        curl.arg(format!("https://127.0.0.1:9443{path}"));
        let output = process::output(&mut curl);
        // A server that refuses a body may close before all of it is sent (curl's 55 and 56).
        let early = matches!(output.status.code(), Some(55 | 56));
        http::parse(&output.stdout).filter(|_| early || output.status.success()).unwrap_or_else(
            || {
                let said = String::from_utf8_lossy(&output.stderr);
                panic!("{curl:?}: {}: {said}", output.status)
            },
        )
    }

    /// As [`Self::https`], with the token of its first start.
    pub fn https_as_operator(&self, arguments: &[&str], path: &str) -> Response {
        let token = format!("Authorization: Bearer {}", self.token());
        self.https(&[&["-H", &token], arguments].concat(), path)
    }

    /// Another program of ours on its machine, such as `sluice ctl`.
    pub fn sluice(&self, arguments: &[&str]) -> std::process::Output {
        process::output(&mut self.command(arguments))
    }

    /// The same, to be run. `ip` replaces itself with it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program()).args(arguments);
        command
    }

    /// Where every frame went so far.
    pub fn books(&self) -> Books {
        Books::of(&self.get("/counters"), &self.get("/status"))
    }

    /// Waits until `condition` holds of what it says of itself under `path`.
    ///
    /// # Panics
    /// If it does not within 10 s.
    pub fn wait_until(&self, path: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = json!(null);
        let holds = || {
            last = self.get(path);
            condition(&last).then_some(())
        };
        let there = eventually(Duration::from_secs(10), holds).is_some();
        assert!(there, "10 s and still not: {what}; {path} says {last}");
        last
    }

    /// Leaves it running when this value goes out of scope.
    pub fn keep(mut self) {
        std::mem::forget(self.running.take()); // whoever takes the lab down ends it
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if std::thread::panicking() && self.running.is_some() {
            eprintln!("--- what sluice logged ---\n{}", self.log());
        }
    }
}
