//! `sluice ctl`: the admin API from the command line.
//!
//! 1. this file: the command line, and what each command asks and shows
//! 2. [`transport`]: one request over the Unix socket or over TLS
//! 3. [`table`]: columns for people

mod transport;

mod table;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Subcommand};
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;

use self::table::Table;
use self::transport::{Answer, Request, Target};
use crate::admin::problem::Problem;
use crate::document::Configuration;
use crate::pages::files::Page;
use crate::report::{
    Counters, Decision, Event, Explanation, Flows, Interface, NatRule, Neighbour, Packet, Route,
    Server, Service, Status, Traffic, Verdict,
};

/// Asks or tells a running node
#[derive(Debug, Args)]
pub struct Ctl {
    #[command(flatten)]
    target: Target,
    /// Print the API's JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The node, its interfaces and its services
    Status,
    /// The virtual services
    Services,
    /// The real servers, of one service or of all
    Servers {
        /// The service
        service: Option<String>,
    },
    /// Current connections
    Flows {
        /// Of this virtual service
        #[arg(long)]
        service: Option<String>,
        /// At this real server of the service
        #[arg(long, requires = "service")]
        server: Option<String>,
        /// From this client's address
        #[arg(long)]
        client: Option<std::net::IpAddr>,
        /// How many at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// What would become of a packet, and why; nothing is sent and nothing changes
    Explain {
        /// tcp, udp or icmp (an echo request)
        #[arg(long, default_value = "tcp")]
        protocol: String,
        /// Who sends it, such as 192.0.2.9:40000 or [2001:db8::9]:40000
        #[arg(long)]
        from: String,
        /// Whom it is for, with the port
        #[arg(long)]
        to: String,
        /// The interface that it comes in on
        #[arg(long)]
        interface: String,
        /// TCP's control bits, such as ack or syn+ack; syn if absent
        #[arg(long)]
        flags: Option<String>,
    },
    /// The stations on our subnets
    Neighbours,
    /// The interfaces, with what their cards say
    Interfaces,
    /// The ways out
    Routes,
    /// The rules of translation in effect, in the order in which they are looked up
    Nat,
    /// Where every frame went
    Counters,
    /// What changed, newest first; with --follow as it comes
    Events {
        /// Of this virtual service and its servers
        #[arg(long)]
        service: Option<String>,
        /// Of this real server of the service
        #[arg(long, requires = "service")]
        server: Option<String>,
        /// After the event of this number
        #[arg(long, value_name = "NUMBER")]
        after: Option<u64>,
        /// How many at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// Go on with what comes, a line each (JSON with --json), until interrupted
        #[arg(long, conflicts_with = "limit")]
        follow: bool,
    },
    /// The whole configuration
    #[command(subcommand)]
    Config(Config),
    /// Your pages for services whose servers have all failed
    #[command(subcommand)]
    Pages(Pages),
    /// Adds or removes a virtual service
    #[command(subcommand)]
    Service(ServiceChange),
    /// Adds or removes a real server
    #[command(subcommand)]
    Server(ServerChange),
    /// Lets a real server keep the connections that it has, and take no new ones
    Drain {
        /// Which one: SERVICE/SERVER
        server: ServerName,
    },
    /// Ends a real server's connections at once, and lets it take no new ones
    Halt {
        /// Which one: SERVICE/SERVER
        server: ServerName,
    },
    /// Lets a real server take new connections again
    Online {
        /// Which one: SERVICE/SERVER
        server: ServerName,
    },
    /// Sets a real server's weight
    Weight {
        /// Which one: SERVICE/SERVER
        server: ServerName,
        /// Its share of new connections; 0 lets it drain
        weight: u16,
    },
}

#[derive(Debug, Subcommand)]
enum Config {
    /// Prints it, as TOML (as JSON with --json)
    Get,
    /// Replaces it
    Put {
        /// TOML, or JSON if the name ends in .json; - for the standard input
        file: PathBuf,
        /// Only if this is still its entity tag
        #[arg(long)]
        if_match: Option<String>,
    },
    /// Says whether it would be accepted, and what it would change
    Validate {
        /// TOML, or JSON if the name ends in .json; - for the standard input
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Pages {
    /// Which there are
    List,
    /// Prints one
    Get {
        /// Which one
        name: String,
    },
    /// Adds or replaces one
    Put {
        /// Which one, such as sorry.html
        name: String,
        /// HTML in UTF-8, of at most 1 MiB; - for the standard input
        file: PathBuf,
    },
    /// Removes one that no service names
    Remove {
        /// Which one
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum ServiceChange {
    /// Adds one
    Add {
        /// What stands below [[service]] in a configuration; JSON if the name ends in .json
        file: PathBuf,
    },
    /// Removes one with its servers
    Remove {
        /// Which one
        service: String,
    },
}

#[derive(Debug, Subcommand)]
enum ServerChange {
    /// Adds one
    Add {
        /// The service
        service: String,
        /// What stands below [[service.server]] in a configuration; JSON if the name ends in .json
        file: PathBuf,
    },
    /// Removes one
    Remove {
        /// Which one: SERVICE/SERVER
        server: ServerName,
    },
}

/// A real server, as SERVICE/SERVER.
#[derive(Debug, Clone)]
struct ServerName {
    service: String,
    server: String,
}

impl FromStr for ServerName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((service, server)) if !service.is_empty() && !server.is_empty() => {
                Ok(Self { service: service.into(), server: server.into() })
            }
            _ => Err("expected SERVICE/SERVER"),
        }
    }
}

/// Why a command did not do what it was to do.
#[derive(Debug, Error)]
pub enum Error {
    /// The node cannot be asked.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// The node refused.
    #[error("{}", refusal(.0))]
    Refused(Problem),
    /// The node answered in a way that this program does not know.
    #[error("the node's answer cannot be read (is it of another version?): {0}")]
    Answer(String),
    /// A file cannot be read.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The answer cannot be shown.
    #[error("cannot write the answer: {0}")]
    Output(io::Error),
}

/// Every mistake, or what the node said if there was none in particular.
fn refusal(problem: &Problem) -> String {
    if problem.status != StatusCode::UNPROCESSABLE_ENTITY.as_u16() || problem.errors.is_empty() {
        return problem.detail.clone();
    }
    let lines: Vec<_> = problem.errors.iter().map(ToString::to_string).collect();
    format!("refused, and nothing was changed:\n{}", lines.join("\n"))
}

/// Does what the command line says, on standard output and standard error: 0 if it was done, 1 if
/// it was refused or failed.
pub fn run(ctl: &Ctl) -> ExitCode {
    let done = match ctl.follows() {
        Some(path) => ctl.follow(&path, print),
        None => ctl.answer().and_then(|text| print(&text)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "sluice ctl: {error}"); // nobody is left to tell
            ExitCode::FAILURE
        }
    }
}

/// A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), Error> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Output(error)),
        _ => Ok(()),
    }
}

impl Ctl {
    /// Does what the command line says; returns what there is to print.
    ///
    /// # Errors
    ///
    /// When the node cannot be asked, or refuses.
    pub fn answer(&self) -> Result<String, Error> {
        match &self.command {
            Command::Status => self.show("/status", status),
            Command::Services => self.show("/status", |status: &Status| services(&status.services)),
            Command::Servers { service: None } => {
                self.show("/status", |status: &Status| servers(&status.services))
            }
            Command::Servers { service: Some(name) } => self.servers_of(name),
            Command::Flows { service, server, client, limit } => {
                let mut query = format!("limit={limit}");
                if let Some(service) = service {
                    query += &format!("&service={}", encoded(service));
                }
                if let Some(server) = server {
                    query += &format!("&server={}", encoded(server));
                }
                if let Some(client) = client {
                    query += &format!("&client={client}");
                }
                self.show(&format!("/flows?{query}"), flows)
            }
            Command::Explain { protocol, from, to, interface, flags } => self.explain(&Packet {
                protocol: protocol.clone(),
                from: from.clone(),
                to: to.clone(),
                interface: interface.clone(),
                flags: flags.clone(),
            }),
            Command::Neighbours => self.show("/neighbours", |all: &Vec<_>| neighbours(all)),
            Command::Interfaces => self.show("/interfaces", |all: &Vec<_>| interfaces(all)),
            Command::Routes => self.show("/routes", |all: &Vec<_>| routes(all)),
            Command::Nat => self.show("/nat/rules", |all: &Vec<_>| nat(all)),
            Command::Counters => self.show("/counters", counters),
            Command::Events { .. } => {
                let path = self.events_path().unwrap_or_default();
                self.show(&path, |all: &Vec<_>| events(all))
            }
            Command::Config(config) => self.config(config),
            Command::Pages(pages) => self.pages(pages),
            Command::Service(ServiceChange::Add { file }) => {
                self.tell(Method::POST, "/services", Some(written(file)?))
            }
            Command::Service(ServiceChange::Remove { service }) => {
                self.tell(Method::DELETE, &format!("/services/{}", encoded(service)), None)
            }
            Command::Server(ServerChange::Add { service, file }) => {
                let path = format!("/services/{}/servers", encoded(service));
                self.tell(Method::POST, &path, Some(written(file)?))
            }
            Command::Server(ServerChange::Remove { server }) => {
                self.tell(Method::DELETE, &server.path(), None)
            }
            Command::Drain { server } => self.want(server, "drain"),
            Command::Halt { server } => self.want(server, "halt"),
            Command::Online { server } => self.want(server, "online"),
            Command::Weight { server, weight } => {
                let patch = json!({ "weight": weight }).to_string().into_bytes();
                let content = ("application/merge-patch+json", patch);
                self.tell(Method::PATCH, &server.path(), Some(content))
            }
        }
    }

    /// The question for events; `None` if the command line asks for something else.
    fn events_path(&self) -> Option<String> {
        let Command::Events { service, server, after, limit, .. } = &self.command else {
            return None;
        };
        let mut path = format!("/events?limit={limit}");
        if let Some(service) = service {
            path += &format!("&service={}", encoded(service));
        }
        if let Some(server) = server {
            path += &format!("&server={}", encoded(server));
        }
        if let Some(after) = after {
            path += &format!("&after={after}");
        }
        Some(path)
    }

    /// What to follow, if the command line says so.
    pub fn follows(&self) -> Option<String> {
        let follow = matches!(self.command, Command::Events { follow: true, .. });
        self.events_path().filter(|_| follow)
    }

    /// Shows each event as it comes, until `show` has had enough or the node ends the connection.
    ///
    /// # Errors
    ///
    /// When the node cannot be asked, refuses, or goes away.
    pub fn follow(
        &self,
        path: &str,
        mut show: impl FnMut(&str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut shown = Ok(());
        let refused = transport::follow(&self.target, path, |kind, data| {
            shown = self.live(kind, data).and_then(|line| show(&line));
            shown.is_ok()
        })?;
        shown?;
        refused.map_or(Ok(()), |answer| judged(answer).map(drop))
    }

    /// A line for an event that came live.
    fn live(&self, kind: &str, data: &str) -> Result<String, Error> {
        if self.json {
            return Ok(format!("{data}\n"));
        }
        let unread = |error: serde_json::Error| Error::Answer(error.to_string());
        if kind == "missed" {
            let told: Value = serde_json::from_str(data).map_err(unread)?;
            return Ok(format!("({} events missed)\n", told["missed"]));
        }
        let event: Event = serde_json::from_str(data).map_err(unread)?;
        let what = event.what();
        let Event { number, time, old, new, reason, .. } = event;
        Ok(format!("{number} {time} {what}: {old} -> {new}: {reason}\n"))
    }

    fn config(&self, config: &Config) -> Result<String, Error> {
        match config {
            Config::Get => self.show("/config", |document: &Configuration| {
                toml::to_string(document).unwrap_or_else(|error| format!("# {error}\n"))
            }),
            Config::Put { file, if_match } => {
                let answer = self.ask(Request {
                    content: Some(written(file)?),
                    if_match: if_match.clone(),
                    ..Request::new(Method::PUT, "/config")
                })?;
                let etag = answer.etag.clone().unwrap_or_default();
                self.either(&answer, |_: &Configuration| format!("accepted; now {etag}\n"))
            }
            Config::Validate { file } => {
                let answer = self.ask(Request {
                    content: Some(written(file)?),
                    ..Request::new(Method::POST, "/config/validate")
                })?;
                self.either(&answer, verdict)
            }
        }
    }

    fn pages(&self, asked: &Pages) -> Result<String, Error> {
        let path = |name: &str| format!("/pages/{}", encoded(name));
        match asked {
            Pages::List => self.show("/pages", |all: &Vec<_>| pages(all)),
            Pages::Get { name } => {
                let answer = self.ask(Request::new(Method::GET, &path(name)))?;
                Ok(String::from_utf8_lossy(&answer.body).into_owned())
            }
            Pages::Put { name, file } => {
                self.tell(Method::PUT, &path(name), Some(("text/html", content(file)?)))
            }
            Pages::Remove { name } => self.tell(Method::DELETE, &path(name), None),
        }
    }

    /// Asks, and shows the answer as JSON or in the words of `words`.
    fn show<T: DeserializeOwned>(
        &self,
        path: &str,
        words: impl Fn(&T) -> String,
    ) -> Result<String, Error> {
        self.either(&self.ask(Request::new(Method::GET, path))?, words)
    }

    /// The servers of one service, from the status of all.
    fn servers_of(&self, name: &str) -> Result<String, Error> {
        let answer = self.ask(Request::new(Method::GET, "/status"))?;
        let mut status: Status = parsed(&answer)?;
        status.services.retain(|service| service.name == name);
        match &status.services[..] {
            [] => Err(Error::Refused(Problem::not_found(format!("service {name}")))),
            [service] if self.json => Ok(pretty(&json!(service.servers))),
            found => Ok(servers(found)),
        }
    }

    fn explain(&self, packet: &Packet) -> Result<String, Error> {
        let content = ("application/json", json!(packet).to_string().into_bytes());
        let answer =
            self.ask(Request { content: Some(content), ..Request::new(Method::POST, "/explain") })?;
        self.either(&answer, explanation)
    }

    /// Tells the node something, and shows what it made of it.
    fn tell(
        &self,
        method: Method,
        path: &str,
        content: Option<(&'static str, Vec<u8>)>,
    ) -> Result<String, Error> {
        let answer = self.ask(Request { content, ..Request::new(method, path) })?;
        match answer.body.is_empty() {
            true => Ok("done\n".into()),
            false => self.either(&answer, |_: &Value| "done\n".into()),
        }
    }

    /// Tells the node what is wanted of a server.
    fn want(&self, server: &ServerName, state: &str) -> Result<String, Error> {
        self.tell(Method::POST, &format!("{}/{state}", server.path()), None)
    }

    fn ask(&self, request: Request) -> Result<Answer, Error> {
        judged(transport::exchange(&self.target, request)?)
    }

    fn either<T: DeserializeOwned>(
        &self,
        answer: &Answer,
        words: impl Fn(&T) -> String,
    ) -> Result<String, Error> {
        if self.json { Ok(pretty(&parsed(answer)?)) } else { Ok(words(&parsed(answer)?)) }
    }
}

/// The answer, unless it is a refusal.
fn judged(answer: Answer) -> Result<Answer, Error> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    let problem = serde_json::from_slice(&answer.body);
    Err(Error::Refused(problem.unwrap_or_else(|_| {
        Problem::new(answer.status, format!("the node answered {}", answer.status))
    })))
}

impl ServerName {
    fn path(&self) -> String {
        format!("/services/{}/servers/{}", encoded(&self.service), encoded(&self.server))
    }
}

fn parsed<T: DeserializeOwned>(answer: &Answer) -> Result<T, Error> {
    serde_json::from_slice(&answer.body).map_err(|error| Error::Answer(error.to_string()))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A file's content.
fn content(file: &Path) -> Result<Vec<u8>, Error> {
    let read = match file.to_str() {
        Some("-") => io::read_to_string(io::stdin()).map(String::into_bytes),
        _ => fs::read(file),
    };
    read.map_err(|cause| Error::File { path: file.to_owned(), cause })
}

/// A file's content with its type.
fn written(file: &Path) -> Result<(&'static str, Vec<u8>), Error> {
    let bytes = content(file)?;
    let json = file.extension().is_some_and(|extension| extension == "json")
        || bytes.trim_ascii_start().starts_with(b"{");
    Ok((if json { "application/json" } else { "application/toml" }, bytes))
}

/// A name as it may stand in a path (RFC 3986 section 2).
fn encoded(name: &str) -> String {
    let letter = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    name.bytes().map(letter).collect()
}

fn status(status: &Status) -> String {
    let Status { node, version, role, generation, etag, flows, buffers, .. } = status;
    let uptime = duration(status.uptime);
    format!(
        "{node} ({role}), version {version}, up {uptime}\n\
         configuration {etag}, snapshot {generation}{}\n\
         {} of {} flows, {} of {} packet buffers free\n\n{}\n{}",
        if status.current { "" } else { " (not with every worker yet)" },
        flows.used,
        flows.capacity,
        buffers.available,
        buffers.capacity,
        interfaces(&status.interfaces),
        servers(&status.services),
    )
}

fn services(all: &[Service]) -> String {
    let mut table = Table::new(&[
        "SERVICE",
        "ADDRESS",
        "PORTS",
        "PROTOCOL",
        "MODE",
        "SCHEDULER",
        "STATE",
        "SERVERS",
        "CONNS",
        "CONNS/S",
        "PACKETS/S",
        "BITS/S",
    ]);
    for service in all {
        let online = service.servers.iter().filter(|server| server.actual == "up").count();
        let mut cells = service_cells(service);
        cells.push(format!("{online}/{}", service.servers.len()));
        cells.extend(traffic(&service.traffic));
        table.row(cells);
    }
    table.to_string()
}

fn service_cells(service: &Service) -> Vec<String> {
    let addresses: Vec<_> = service.addresses.iter().map(ToString::to_string).collect();
    vec![
        service.name.clone(),
        addresses.join(","),
        service.ports.clone(),
        word(&service.protocol),
        word(&service.mode),
        word(&service.scheduler),
        service.state.clone(),
    ]
}

fn servers(services: &[Service]) -> String {
    let mut table = Table::new(&[
        "SERVICE",
        "SERVER",
        "ADDRESS",
        "MODE",
        "WEIGHT",
        "STATE",
        "CONNS",
        "CONNS/S",
        "PACKETS/S",
        "BITS/S",
    ]);
    for service in services {
        for server in &service.servers {
            let mut cells = vec![service.name.clone()];
            cells.extend(server_cells(server));
            cells.extend(traffic(&server.traffic));
            table.row(cells);
        }
    }
    table.to_string()
}

fn server_cells(server: &Server) -> Vec<String> {
    let address = match server.port {
        Some(port) => std::net::SocketAddr::new(server.address, port).to_string(),
        None => server.address.to_string(),
    };
    let state = match &server.reason {
        Some(reason) => format!("{} ({reason})", server.actual),
        None => server.actual.clone(),
    };
    vec![server.name.clone(), address, word(&server.mode), weight(server), state]
}

/// Its own, or what its agent leaves of it: `10 of 100`.
fn weight(server: &Server) -> String {
    let Server { weight, effective_weight, agent, .. } = server;
    match agent.is_some() && weight != effective_weight {
        true => format!("{effective_weight} of {weight}"),
        false => weight.to_string(),
    }
}

fn traffic(traffic: &Traffic) -> [String; 4] {
    let Traffic { connections, rates, .. } = traffic;
    let packets = rates.packets + rates.reply_packets;
    let bits = (rates.bytes + rates.reply_bytes).saturating_mul(8);
    [*connections, rates.connections, packets, bits].map(|number| number.to_string())
}

fn flows(found: &Flows) -> String {
    let mut table = Table::new(&[
        "PROTOCOL", "STATE", "CLIENT", "VIRTUAL", "REAL", "SERVICE", "SERVER", "AGE", "IDLE",
        "PACKETS", "BYTES",
    ]);
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    for flow in &found.flows {
        table.row(vec![
            flow.protocol.clone(),
            flow.state.clone(),
            flow.client.to_string(),
            flow.r#virtual.to_string(),
            or_dash(&flow.real),
            or_dash(&flow.service),
            or_dash(&flow.server),
            duration(flow.age),
            duration(flow.idle),
            flow.packets.to_string(),
            flow.bytes.to_string(),
        ]);
    }
    let more = if found.complete { "" } else { "(there are more)\n" };
    format!("{table}{more}")
}

fn explanation(explanation: &Explanation) -> String {
    let mut table = Table::new(&["DECISION", "NAME", "IN WORDS"]);
    let name = |decision: &Decision| {
        let of = |part: &str| decision.data.get(part)?.as_str().map(str::to_owned);
        of("interface").or_else(|| of("server")).or_else(|| of("service"))
    };
    for decision in &explanation.decisions {
        table.row(vec![
            decision.decision.clone(),
            name(decision).unwrap_or_else(|| "-".into()),
            decision.text.clone(),
        ]);
    }
    format!("{table}(worker {})\n", explanation.worker)
}

fn neighbours(all: &[Neighbour]) -> String {
    let mut table = Table::new(&["INTERFACE", "ADDRESS", "MAC", "STATE", "KIND", "AGE"]);
    for neighbour in all {
        table.row(vec![
            neighbour.interface.clone(),
            neighbour.address.to_string(),
            neighbour.mac.clone().unwrap_or_else(|| "-".into()),
            neighbour.state.clone(),
            neighbour.kind.clone(),
            neighbour.age.map_or_else(|| "-".into(), duration),
        ]);
    }
    table.to_string()
}

fn interfaces(all: &[Interface]) -> String {
    let mut table = Table::new(&[
        "INTERFACE",
        "DEVICE",
        "DRIVER",
        "MAC",
        "ADDRESSES",
        "LINK",
        "RECEIVED",
        "TRANSMITTED",
        "MISSED",
    ]);
    for interface in all {
        let addresses: Vec<_> = interface.addresses.iter().map(ToString::to_string).collect();
        let statistics = &interface.statistics;
        let link = match (statistics.link_up, statistics.speed) {
            (false, _) => "down".into(),
            (true, 0) => "up".into(),
            (true, speed) => format!("{speed} Mbit/s"),
        };
        table.row(vec![
            interface.name.clone(),
            interface.device.clone(),
            interface.driver.clone(),
            interface.mac.clone(),
            addresses.join(","),
            link,
            statistics.received.to_string(),
            statistics.transmitted.to_string(),
            statistics.missed.to_string(),
        ]);
    }
    table.to_string()
}

fn routes(all: &[Route]) -> String {
    let mut table = Table::new(&["TO", "VIA", "INTERFACE"]);
    for route in all {
        let via = route.via.map_or_else(|| "(connected)".into(), |via| via.to_string());
        table.row(vec![route.to.to_string(), via, route.interface.clone()]);
    }
    table.to_string()
}

fn nat(all: &[NatRule]) -> String {
    let mut table = Table::new(&["KIND", "INSIDE", "OUTSIDE", "OUT"]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    fn listed<T: ToString>(all: &[T]) -> Option<String> {
        let all: Vec<_> = all.iter().map(T::to_string).collect();
        (!all.is_empty()).then(|| all.join(","))
    }
    for rule in all {
        let inside = rule.inside.map(|address| address.to_string());
        let outside = rule.outside.map(|address| address.to_string());
        table.row(vec![
            word(&rule.kind),
            or_dash(inside.or_else(|| listed(&rule.from))),
            or_dash(outside.or_else(|| listed(&rule.source))),
            or_dash(rule.out.clone()),
        ]);
    }
    table.to_string()
}

/// What has been counted, and every reason for which a frame was dropped.
fn counters(counters: &Counters) -> String {
    let mut table = Table::new(&["WORKER", "COUNTER", "VALUE", "MEANING"]);
    for (number, worker) in counters.workers.iter().enumerate() {
        let mut row = |name: &str, value: u64, meaning: &str| {
            table.row(vec![number.to_string(), name.into(), value.to_string(), meaning.into()]);
        };
        row("received", worker.received, "Frames from the cards.");
        row("injected", worker.injected, "Frames that the node made itself.");
        row("transmitted", worker.transmitted, "Frames that the cards took.");
        row("punted", worker.punted, "Frames handed to the control plane.");
        row("  answers", worker.punted_answers, "Of those, of its own conversations.");
        row("waiting", worker.waiting, "Frames that wait for a neighbour.");
        row("dropped", worker.dropped, "Frames dropped, for any reason.");
        for drop in worker.drops.iter().filter(|drop| drop.frames > 0) {
            row(&format!("  {}", drop.reason), drop.frames, &drop.explanation);
        }
        row("flows", worker.flows.used, "Flows in the table.");
        row("flows_created", worker.flows_created, "Flows so far.");
        row("flows_evicted", worker.flows_evicted, "Flows ended early for others.");
        row("without_flow", worker.forwarded_without_flow, "Packets forwarded by hash alone.");
    }
    let parts = [
        ("control", serde_json::to_value(counters.control)),
        ("in_band", serde_json::to_value(counters.in_band)),
    ];
    for (part, counted) in parts {
        let Ok(Value::Object(counted)) = counted else { continue };
        for (name, value) in counted {
            table.row(vec![part.into(), name, value.to_string(), String::new()]);
        }
    }
    table.to_string()
}

fn events(all: &[Event]) -> String {
    let mut table = Table::new(&["NUMBER", "TIME", "WHAT", "OLD", "NEW", "REASON"]);
    for event in all {
        let Event { number, time, old, new, reason, .. } = event;
        let [time, old, new, reason] = [time, old, new, reason].map(String::clone);
        table.row(vec![number.to_string(), time, event.what(), old, new, reason]);
    }
    table.to_string()
}

fn pages(all: &[Page]) -> String {
    let mut table = Table::new(&["PAGE", "BYTES", "MODIFIED"]);
    for Page { name, bytes, modified } in all {
        table.row(vec![name.clone(), bytes.to_string(), modified.clone()]);
    }
    table.to_string()
}

fn verdict(verdict: &Verdict) -> String {
    let Verdict { live, restart_needed, changes, advice } = verdict;
    let mut text = match (live, changes.is_empty()) {
        (true, true) => "it would change nothing\n".to_owned(),
        (true, false) => "it would be accepted\n".to_owned(),
        (false, _) => format!("it needs a restart, because of {}\n", restart_needed.join(", ")),
    };
    for change in changes {
        text += &format!("  {change}\n");
    }
    for advice in advice {
        text += &format!("advice: {advice}\n");
    }
    text
}

/// The word that stands for a setting in a configuration.
fn word<T: serde::Serialize>(setting: &T) -> String {
    match serde_json::to_value(setting) {
        Ok(Value::String(word)) => word,
        _ => "?".into(),
    }
}

/// Such as 2d 03:04:05, or 1.5s.
fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", whole % 60);
    if days > 0 { format!("{days}d {clock}") } else { clock }
}
