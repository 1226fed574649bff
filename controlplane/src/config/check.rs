//! How servers are asked whether they are well. Two checks are equal where they ask the same question at the
//! same pace, so one answer does for both.
//!
//! [`read`] makes one of what an operator wrote: of a service's table, or of a server's above it.
//! [`clients_way`] says how a server is asked a second time, as its clients would.

mod read;

mod clients_way;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use dataplane::snapshot::Routes;
use regex::bytes::Regex;

pub use clients_way::ClientsWay;
pub(super) use clients_way::{NoWay, clients_way};
pub(super) use read::{check, own_check};

use super::{Config, Mode, Server, Service};
use crate::document::{self, CheckKind};

/// How servers are asked whether they are well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Check {
    /// What is asked.
    pub kind: Kind,
    /// How often, and how many answers count.
    pub pace: Pace,
    /// The port that is asked, if the operator says so; [`Service::check_port`] is what counts.
    pub port: Option<u16>,
    /// Servers are asked in the way that clients' packets take as well, where they can be.
    pub virtual_address: bool,
}

/// A server's own check, whole, and what of it the operator wrote at the server.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnCheck {
    /// The whole check.
    pub check: Check,
    /// What stands at the server; the rest follows the service.
    pub written: document::Check,
}

/// How often servers are asked, and how many answers count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pace {
    /// The time between two questions.
    pub interval: Duration,
    /// How long a connection, or the answer to a single packet, may take.
    pub timeout: Duration,
    /// How long a conversation may take, its connection included.
    pub negotiate_timeout: Duration,
    /// After how many good answers in a row a server counts as well again.
    pub rise: u32,
    /// After how many failures in a row it counts as not well.
    pub fall: u32,
    /// By how much a pause may differ from `interval`, in percent, at most 50.
    pub jitter: u8,
    /// The longest pause while a server is not well, at least `interval`.
    pub back_off: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            negotiate_timeout: Duration::from_secs(5),
            rise: 2,
            fall: 2,
            jitter: 0,
            back_off: None,
        }
    }
}

/// What servers are asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing: they count as well.
    #[default]
    On,
    /// Nothing: they count as not well.
    Off,
    /// To open a TCP connection.
    Connect,
    /// An ICMP echo request.
    Ping,
    /// A page.
    Http(Http),
    /// gRPC's own question for health (grpc.health.v1).
    Grpc {
        /// The service that is asked about; empty for the whole server.
        service: String,
        /// The virtual host.
        host: Option<String>,
        /// Inside TLS.
        tls: Option<Tls>,
    },
    /// To log in to an FTP server, and for a file.
    Ftp {
        /// Who logs in; `anonymous` if absent.
        login: Option<Login>,
        /// What is fetched; nothing if absent.
        file: Option<String>,
        /// What must stand in the file.
        expect: Option<Expect>,
    },
    /// An IMAP server's greeting, and to log in.
    Imap(Session),
    /// A POP3 server's greeting, and to log in.
    Pop(Session),
    /// An SMTP server's greeting and its answer to EHLO.
    Smtp {
        /// What must stand in that answer.
        expect: Option<Expect>,
        /// Inside TLS.
        tls: Option<Tls>,
    },
    /// An LDAP server's description of itself, after a bind that is anonymous or not.
    Ldap {
        /// How it is bound to.
        session: Session,
        /// What must stand in the description.
        expect: Option<Expect>,
    },
    /// An NNTP server's greeting, and to log in.
    Nntp(Session),
    /// A name, over UDP.
    Dns {
        /// The name, without a dot at its end.
        name: String,
        /// The kind of record.
        record: Record,
        /// An address that must be among the answers.
        expect: Option<IpAddr>,
    },
    /// A MySQL or MariaDB server's greeting, and to log in.
    Mysql {
        /// Who logs in; nobody if absent.
        login: Option<Login>,
    },
    /// OPTIONS of a SIP server.
    Sip {
        /// Who is asked about; the server itself if absent.
        user: Option<String>,
        /// Over TCP, not UDP.
        tcp: bool,
        /// The status codes of a good answer.
        status: Status,
    },
    /// Text over telnet; any at all if nothing is expected.
    Telnet {
        /// What must stand in it.
        expect: Option<Expect>,
    },
    /// PING of a Redis server.
    Redis {
        /// Who logs in; an empty user is the default one.
        login: Option<Login>,
        /// Inside TLS.
        tls: Option<Tls>,
    },
    /// An AMQP 0-9-1 server's greeting.
    Amqp {
        /// Inside TLS.
        tls: Option<Tls>,
    },
    /// Bytes over TCP.
    Tcp {
        /// What is sent.
        send: Option<Payload>,
        /// What must stand in the answer.
        expect: Option<Expect>,
        /// Inside TLS.
        tls: Option<Tls>,
    },
    /// A datagram. Without an expectation silence is good, and an error that comes back is not.
    Udp {
        /// What is sent; an empty datagram if absent.
        send: Option<Payload>,
        /// What must stand in the answer.
        expect: Option<Expect>,
    },
    /// A program on this machine.
    Script {
        /// Its absolute path.
        program: PathBuf,
        /// What it is told after the addresses and ports.
        arguments: Vec<String>,
    },
    /// So many connections, then a conversation, and so on.
    Mixed {
        /// How many connections.
        connects: u32,
        /// The conversation; itself neither mixed nor without one.
        negotiate: Box<Kind>,
    },
}

/// A page.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Http {
    /// HTTP/2, not 1.1.
    pub two: bool,
    /// The virtual host, if it is given by itself.
    pub virtual_host: Option<String>,
    /// The path, or the whole address, as the operator wrote it.
    pub page: String,
    /// What is done with the page.
    pub method: Method,
    /// The status codes of a good answer.
    pub status: Status,
    /// What must stand in the answer.
    pub expect: Option<Expect>,
    /// Inside TLS.
    pub tls: Option<Tls>,
}

impl Http {
    /// The virtual host: the one that is given, or else that of the page's address (HC-10). The server's own
    /// address takes its place where there is none.
    pub fn host(&self) -> Option<&str> {
        self.virtual_host.as_deref().or(split_page(&self.page).0)
    }

    /// The path on that host.
    pub fn path(&self) -> &str {
        split_page(&self.page).1
    }
}

/// Host and path of a page's address.
fn split_page(page: &str) -> (Option<&str>, &str) {
    let after = page.strip_prefix("http://").or_else(|| page.strip_prefix("https://"));
    match after {
        None => (None, page),
        Some(rest) => match rest.find('/') {
            None => (Some(rest), "/"),
            Some(slash) => (Some(&rest[..slash]), &rest[slash..]),
        },
    }
}

/// What is done with a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// It is fetched.
    #[default]
    Get,
    /// Its headers are.
    Head,
    /// Its methods are.
    Options,
    /// Nothing is sent to it.
    Post,
}

impl Method {
    /// Its name, in HTTP and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Post => "POST",
        }
    }
}

/// Ranges of status codes, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Status(Vec<(u16, u16)>);

impl Status {
    /// Whether a code is among them.
    pub fn contains(&self, code: u16) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&code))
    }
}

impl Default for Status {
    fn default() -> Self {
        Self(vec![(200, 200)])
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, &(first, last)) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{}", super::settings::Range(first, last))?;
        }
        Ok(())
    }
}

/// What must stand in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expect {
    /// A text.
    Text(String),
    /// Something that a regular expression matches.
    Pattern(Pattern),
}

impl Expect {
    /// Whether it stands in `answer`.
    pub fn is_in(&self, answer: &[u8]) -> bool {
        match self {
            Self::Text(text) => answer.windows(text.len()).any(|it| it == text.as_bytes()),
            Self::Pattern(pattern) => pattern.regex.is_match(answer),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Pattern(pattern) => write!(f, "a match of {:?}", pattern.source),
        }
    }
}

/// A regular expression; two are equal where they are written alike.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.source)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}

/// How TLS is spoken to a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// The server's certificate must be good.
    pub verify: bool,
    /// Who may have signed it; those that the system trusts if absent.
    pub ca: Option<PathBuf>,
    /// The name that the server is asked for, if it is not the virtual host's.
    pub name: Option<String>,
    /// The protocols that are offered, if they are not the usual ones.
    pub alpn: Option<Vec<String>>,
}

/// A conversation that may log in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Session {
    /// Who logs in; nobody if absent.
    pub login: Option<Login>,
    /// Inside TLS.
    pub tls: Option<Tls>,
}

/// Who logs in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Payload {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The operator wrote them in hexadecimal.
    hexadecimal: bool,
}

/// A kind of DNS record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // their names say it
pub enum Record {
    #[default]
    A,
    Aaaa,
    Cname,
    Mx,
    Ns,
    Ptr,
    Soa,
    Srv,
    Txt,
}

impl Record {
    const ALL: [(&'static str, Self); 9] = [
        ("A", Self::A),
        ("AAAA", Self::Aaaa),
        ("CNAME", Self::Cname),
        ("MX", Self::Mx),
        ("NS", Self::Ns),
        ("PTR", Self::Ptr),
        ("SOA", Self::Soa),
        ("SRV", Self::Srv),
        ("TXT", Self::Txt),
    ];

    /// Its name, in DNS and in the configuration.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, record)| *record == self).map_or("A", |(name, _)| name)
    }

    /// Its number in messages (RFC 1035 section 3.2.2, RFC 3596, RFC 2782).
    pub fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Ns => 2,
            Self::Cname => 5,
            Self::Soa => 6,
            Self::Ptr => 12,
            Self::Mx => 15,
            Self::Txt => 16,
            Self::Aaaa => 28,
            Self::Srv => 33,
        }
    }
}

impl Kind {
    /// Its name in the configuration.
    pub fn name(&self) -> CheckKind {
        match self {
            Self::On => CheckKind::On,
            Self::Off => CheckKind::Off,
            Self::Connect => CheckKind::Connect,
            Self::Ping => CheckKind::Ping,
            Self::Http(Http { two: true, .. }) => CheckKind::Http2,
            Self::Http(Http { tls: None, .. }) => CheckKind::Http,
            Self::Http(_) => CheckKind::Https,
            Self::Grpc { .. } => CheckKind::Grpc,
            Self::Ftp { .. } => CheckKind::Ftp,
            Self::Imap(_) => CheckKind::Imap,
            Self::Pop(_) => CheckKind::Pop,
            Self::Smtp { .. } => CheckKind::Smtp,
            Self::Ldap { .. } => CheckKind::Ldap,
            Self::Nntp(_) => CheckKind::Nntp,
            Self::Dns { .. } => CheckKind::Dns,
            Self::Mysql { .. } => CheckKind::Mysql,
            Self::Sip { .. } => CheckKind::Sip,
            Self::Telnet { .. } => CheckKind::Telnet,
            Self::Redis { .. } => CheckKind::Redis,
            Self::Amqp { .. } => CheckKind::Amqp,
            Self::Tcp { .. } => CheckKind::Tcp,
            Self::Udp { .. } => CheckKind::Udp,
            Self::Script { .. } => CheckKind::Script,
            Self::Mixed { connects: 5, .. } => CheckKind::Five,
            Self::Mixed { .. } => CheckKind::Ten,
        }
    }

    /// Whether servers are asked at all.
    pub fn asks(&self) -> bool {
        !matches!(self, Self::On | Self::Off)
    }

    /// Whether it cannot be asked without a port.
    pub fn needs_port(&self) -> bool {
        !matches!(self, Self::On | Self::Off | Self::Ping | Self::Script { .. })
    }

    /// Whether one packet answers it, or a connection that opens; the others are conversations.
    fn is_brief(&self) -> bool {
        match self {
            Self::Connect | Self::Ping | Self::Udp { .. } | Self::Dns { .. } => true,
            Self::Sip { tcp, .. } => !tcp,
            _ => false,
        }
    }

    /// How long all of it may take.
    pub fn limit(&self, pace: &Pace) -> Duration {
        if self.is_brief() { pace.timeout } else { pace.negotiate_timeout }
    }

    /// The port that servers of this kind usually have.
    fn usual_port(&self) -> Option<u16> {
        let with = |tls: &Option<Tls>, plain, inside| if tls.is_some() { inside } else { plain };
        Some(match self {
            Self::Http(http) => with(&http.tls, 80, 443),
            Self::Ftp { .. } => 21,
            Self::Imap(session) => with(&session.tls, 143, 993),
            Self::Pop(session) => with(&session.tls, 110, 995),
            Self::Smtp { tls, .. } => with(tls, 25, 465),
            Self::Ldap { session, .. } => with(&session.tls, 389, 636),
            Self::Nntp(session) => with(&session.tls, 119, 563),
            Self::Dns { .. } => 53,
            Self::Mysql { .. } => 3306,
            Self::Sip { .. } => 5060,
            Self::Telnet { .. } => 23,
            Self::Redis { .. } => 6379,
            Self::Amqp { tls } => with(tls, 5672, 5671),
            Self::Mixed { negotiate, .. } => return negotiate.usual_port(),
            _ => return None,
        })
    }
}

impl Config {
    /// What is accepted and may not be meant, a sentence each.
    pub fn advice(&self) -> Vec<String> {
        let mut told = Vec::new();
        let ways = self.ways();
        for service in &self.services {
            let name = &service.name;
            told.extend(service.check.advice().map(|it| format!("service {name}: check: {it}")));
            let own = |server: &Server| {
                let advice = server.check.as_ref()?.check.advice()?;
                Some(format!("service {name}: server {}: check: {advice}", server.name))
            };
            told.extend(service.servers.iter().filter_map(own));
            told.extend(self.not_asked_as_clients(&ways, service));
        }
        told
    }

    /// How a server is asked in the way that clients' packets take, if it is; `ways` are [`Self::ways`].
    pub fn asked_as_clients(
        &self,
        ways: &Routes,
        service: &Service,
        server: &Server,
    ) -> Option<ClientsWay> {
        let is_wanted = service.check_of(server).virtual_address;
        is_wanted.then(|| clients_way(&self.interfaces, ways, service, server).ok())?
    }

    /// Which servers of mode `nat` are not asked so although that is wanted of their service.
    fn not_asked_as_clients(&self, ways: &Routes, service: &Service) -> Option<String> {
        let is_meant = |server: &&Server| {
            server.forwarding.mode() == Mode::Nat && service.check_of(server).virtual_address
        };
        let mut left_out = service.servers.iter().filter(is_meant).filter_map(|server| {
            let why = clients_way(&self.interfaces, ways, service, server).err()?;
            Some((&server.name, why))
        });
        let (first, why) = left_out.next()?;
        let others = match left_out.count() {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        let name = &service.name;
        Some(format!("service {name}: check: virtual is not for server {first}{others}: {why}"))
    }
}

impl Service {
    /// How this server of the service is asked whether it is well.
    pub fn check_of<'s>(&'s self, server: &'s Server) -> &'s Check {
        server.check.as_ref().map_or(&self.check, |own| &own.check)
    }

    /// The port that this server is asked at (HC-09): the check's; or the server's; or the service's, if it
    /// has one alone; or that of the check's kind, if it is among the service's; or the first of those.
    /// `None` where a range begins with none that could be meant.
    pub fn check_port(&self, server: &Server) -> Option<u16> {
        let check = self.check_of(server);
        let usual = check.kind.usual_port().filter(|&port| self.ports.contain(port));
        let alone = |(first, last): (u16, u16)| (first == last).then_some(first);
        let first = self.ports.ranges().next().and_then(alone);
        let only = first.filter(|_| self.ports.count() == 1);
        check.port.or(server.forwarding.port()).or(only).or(usual).or(first)
    }
}

impl Check {
    /// What an operator should know about its pace, if there is something (HC-20): the health engine can only ask a server
    /// that hangs often enough within `interval` times `fall` where the answers may not take longer.
    pub fn advice(&self) -> Option<String> {
        let Pace { interval, fall, .. } = self.pace;
        let limit = self.kind.limit(&self.pace);
        if !self.kind.asks() || limit * fall < interval {
            return None;
        }
        let name = if self.kind.is_brief() { "timeout" } else { "negotiate_timeout" };
        let out = interval + limit * fall;
        let usual = interval * fall;
        let instead = match out > usual {
            true => format!("{}, not {}", read::shown(out), read::shown(usual)),
            false => read::shown(usual),
        };
        Some(format!(
            "{name} times fall ({}) is not below interval ({}): a server that hangs may get new connections for up to {instead}",
            read::shown(limit * fall),
            read::shown(interval)
        ))
    }

    /// As operators write it, without what is as usual for its kind.
    pub(super) fn document(&self) -> document::Check {
        let whole = self.whole();
        let unusual = |given: Option<String>, usual: &str| given.filter(|given| given != usual);
        let usual_pace = self.pace == Pace::default() && !self.kind.asks();
        let document = document::Check {
            path: unusual(whole.path, "/"),
            method: unusual(whole.method, "GET"),
            status: unusual(whole.status, "200"),
            query_type: unusual(whole.query_type, "A"),
            transport: unusual(whole.transport, "udp"),
            tls: whole.tls.filter(|&tls| tls),
            verify: whole.verify.filter(|&verify| verify != whole.ca.is_some()),
            virtual_address: whole.virtual_address.filter(|&also| also),
            jitter: whole.jitter.filter(|&jitter| jitter > 0),
            arguments: whole.arguments.filter(|list| !list.is_empty()),
            ..whole
        };
        if usual_pace {
            return document::Check { kind: document.kind, ..document::Check::default() };
        }
        document
    }

    /// As operators write it, with everything spelled out that it has.
    pub(super) fn whole(&self) -> document::Check {
        let Pace { interval, timeout, negotiate_timeout, rise, fall, jitter, back_off } = self.pace;
        let mut whole = document::Check {
            kind: Some(self.kind.name()),
            interval: Some(read::shown(interval)),
            timeout: Some(read::shown(timeout)),
            negotiate_timeout: Some(read::shown(negotiate_timeout)),
            rise: Some(rise),
            fall: Some(fall),
            jitter: Some(jitter),
            back_off: back_off.map(read::shown),
            port: self.port,
            virtual_address: Some(self.virtual_address),
            ..document::Check::default()
        };
        self.kind.describe(&mut whole);
        whole
    }
}

impl Kind {
    /// Spells out the settings of its own.
    fn describe(&self, to: &mut document::Check) {
        match self {
            Self::On | Self::Off | Self::Connect | Self::Ping => {}
            Self::Http(http) => http.describe(to),
            Self::Grpc { service, host, tls } => {
                to.service = Some(service.clone()).filter(|service| !service.is_empty());
                to.host.clone_from(host);
                Tls::describe(tls.as_ref(), to);
            }
            Self::Ftp { login, file, expect } => {
                Login::describe(login.as_ref(), to);
                to.path.clone_from(file);
                Expect::describe(expect.as_ref(), to);
            }
            Self::Imap(session) | Self::Pop(session) | Self::Nntp(session) => session.describe(to),
            Self::Smtp { expect, tls } => {
                Expect::describe(expect.as_ref(), to);
                Tls::describe(tls.as_ref(), to);
            }
            Self::Ldap { session, expect } => {
                session.describe(to);
                Expect::describe(expect.as_ref(), to);
            }
            Self::Dns { name, record, expect } => {
                to.query = Some(name.clone());
                to.query_type = Some(record.name().into());
                to.expect = expect.map(|address| address.to_string());
            }
            Self::Mysql { login } => Login::describe(login.as_ref(), to),
            Self::Sip { user, tcp, status } => {
                to.user.clone_from(user);
                to.transport = Some(if *tcp { "tcp" } else { "udp" }.into());
                to.status = Some(status.to_string());
            }
            Self::Telnet { expect } => Expect::describe(expect.as_ref(), to),
            Self::Redis { login, tls } => {
                Login::describe(login.as_ref(), to);
                Tls::describe(tls.as_ref(), to);
            }
            Self::Amqp { tls } => Tls::describe(tls.as_ref(), to),
            Self::Tcp { send, expect, tls } => {
                Payload::describe(send.as_ref(), to);
                Expect::describe(expect.as_ref(), to);
                Tls::describe(tls.as_ref(), to);
            }
            Self::Udp { send, expect } => {
                Payload::describe(send.as_ref(), to);
                Expect::describe(expect.as_ref(), to);
            }
            Self::Script { program, arguments } => {
                to.path = program.to_str().map(Into::into);
                to.arguments = Some(arguments.clone());
            }
            Self::Mixed { negotiate, .. } => {
                to.negotiate = Some(negotiate.name());
                negotiate.describe(to);
            }
        }
    }
}

impl Http {
    fn describe(&self, to: &mut document::Check) {
        to.host.clone_from(&self.virtual_host);
        to.path = Some(self.page.clone());
        to.method = Some(self.method.name().into());
        to.status = Some(self.status.to_string());
        Expect::describe(self.expect.as_ref(), to);
        Tls::describe(self.tls.as_ref(), to);
        if !self.two {
            to.tls = None; // the type says it
        }
    }
}

impl Expect {
    fn describe(this: Option<&Self>, to: &mut document::Check) {
        match this {
            None => {}
            Some(Self::Text(text)) => to.expect = Some(text.clone()),
            Some(Self::Pattern(pattern)) => to.expect_regex = Some(pattern.source.clone()),
        }
    }
}

impl Tls {
    fn describe(this: Option<&Self>, to: &mut document::Check) {
        to.tls = Some(this.is_some());
        let Some(Self { verify, ca, name, alpn }) = this else { return };
        to.verify = Some(*verify);
        to.ca.clone_from(ca);
        to.sni.clone_from(name);
        to.alpn.clone_from(alpn);
    }
}

impl Session {
    fn describe(&self, to: &mut document::Check) {
        Login::describe(self.login.as_ref(), to);
        Tls::describe(self.tls.as_ref(), to);
    }
}

impl Login {
    fn describe(this: Option<&Self>, to: &mut document::Check) {
        let Some(Self { user, password }) = this else { return };
        to.user = Some(user.clone()).filter(|user| !user.is_empty());
        to.password = Some(password.0.clone());
    }
}

impl Payload {
    fn describe(this: Option<&Self>, to: &mut document::Check) {
        let Some(Self { bytes, hexadecimal }) = this else { return };
        if *hexadecimal {
            to.send_hex = Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        } else {
            to.send = Some(String::from_utf8_lossy(bytes).into_owned());
        }
    }
}

#[cfg(test)]
mod tests;
