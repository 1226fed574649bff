//! One question to one server, over any [`Net`]: one file for each kind under `probe/`.
//!
//! 1. [`connect`]: a connection that opens, inside [`tls`] where that is wanted, with [`certificates`] that are trusted
//! 2. [`ping`], [`udp`], [`dns`]: one packet, and its answer
//! 3. [`http`] and [`grpc`]: a request, and its answer
//! 4. [`chat`]: what is said line by line, by [`ftp`], [`mail`] (IMAP, POP3 and SMTP), [`nntp`], [`redis`],
//!    [`telnet`] and whatever the operator says ([`tcp`]), and what is said in bytes, by [`ldap`], [`mysql`]
//!    and [`amqp`]
//! 5. [`sip`], over both
//! 6. [`script`]: a program of the operator's
//!
//! Every answer is read within bounds and within the check's time, whatever a server sends. What all questions
//! share are [`tools`].

mod connect;

mod tls;

mod certificates;

mod ping;

mod udp;

mod dns;

mod http;

mod grpc;

mod chat;

mod ftp;

mod mail;

mod nntp;

mod redis;

mod telnet;

mod tcp;

mod ldap;

mod mysql;

mod amqp;

mod sip;

mod script;

mod tools;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::time;

use crate::config::{Check, Kind};
use crate::net::{Net, Way};

pub use tools::Tools;

/// How much of an answer is looked at, in bytes.
const LONGEST_ANSWER: usize = 64 << 10;

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Address and port.
    pub at: SocketAddr,
    /// How packets get there.
    pub way: Way,
    /// What a script is told besides: the virtual service that this is about, by name and address.
    pub service: (String, Option<SocketAddr>),
}

/// Why a server counts as not well: a sentence without its end, such as "connect to 10.0.0.11:8080 refused".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Asks a server the question of `check`, of which there have been `turn` before. Ends within the check's time.
///
/// # Errors
///
/// Why the server counts as not well.
pub async fn ask<N: Net>(
    net: &N,
    tools: &Tools,
    target: &Target,
    check: &Check,
    turn: u64,
) -> Result<(), Failure> {
    let kind = question(&check.kind, turn);
    let within = kind.limit(&check.pace);
    let asking = Asking { net, tools, target, timeout: check.pace.timeout };
    match time::timeout(within, asking.once(kind)).await {
        Ok(outcome) => outcome,
        // Nothing says that a datagram must be answered.
        Err(_) if matches!(kind, Kind::Udp { expect: None, .. }) => Ok(()),
        Err(_) => Err(asking.late(kind, within)),
    }
}

/// What is asked this time (HC-07).
fn question(kind: &Kind, turn: u64) -> &Kind {
    let Kind::Mixed { connects, negotiate } = kind else { return kind };
    let connects = u64::from(*connects);
    if turn % (connects + 1) < connects { &Kind::Connect } else { negotiate }
}

/// A question and its answer.
type Conversation<'f> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'f>>;

/// One question while it is asked.
struct Asking<'q, N> {
    net: &'q N,
    tools: &'q Tools,
    target: &'q Target,
    /// How long a connection may take.
    timeout: Duration,
}

impl<N: Net> Asking<'_, N> {
    /// In a box whose type says that it may move to another thread, which the compiler cannot tell of all kinds
    /// together; and only the kind that is asked takes memory.
    fn once<'f>(&'f self, kind: &'f Kind) -> Conversation<'f> {
        match kind {
            // The engine does not ask them.
            Kind::On | Kind::Mixed { .. } => Box::pin(async { Ok(()) }),
            Kind::Off => Box::pin(async { Err(Failure("its check is off".into())) }),
            Kind::Connect => Box::pin(async { self.open(self.target.at).await.map(drop) }),
            Kind::Ping => Box::pin(ping::ask(self)),
            Kind::Http(page) => Box::pin(http::ask(self, page)),
            Kind::Grpc { service, host, tls } => {
                Box::pin(grpc::ask(self, service, host.as_deref(), tls.as_ref()))
            }
            Kind::Ftp { login, file, expect } => {
                Box::pin(ftp::ask(self, login.as_ref(), file.as_deref(), expect.as_ref()))
            }
            Kind::Imap(session) => Box::pin(mail::imap(self, session)),
            Kind::Pop(session) => Box::pin(mail::pop(self, session)),
            Kind::Smtp { expect, tls } => Box::pin(mail::smtp(self, expect.as_ref(), tls.as_ref())),
            Kind::Ldap { session, expect } => Box::pin(ldap::ask(self, session, expect.as_ref())),
            Kind::Nntp(session) => Box::pin(nntp::ask(self, session)),
            Kind::Dns { name, record, expect } => Box::pin(dns::ask(self, name, *record, *expect)),
            Kind::Mysql { login } => Box::pin(mysql::ask(self, login.as_ref())),
            Kind::Sip { user, tcp, status } => {
                Box::pin(sip::ask(self, user.as_deref(), *tcp, status))
            }
            Kind::Telnet { expect } => Box::pin(telnet::ask(self, expect.as_ref())),
            Kind::Redis { login, tls } => Box::pin(redis::ask(self, login.as_ref(), tls.as_ref())),
            Kind::Amqp { tls } => Box::pin(amqp::ask(self, tls.as_ref())),
            Kind::Tcp { send, expect, tls } => {
                Box::pin(tcp::ask(self, send.as_ref(), expect.as_ref(), tls.as_ref()))
            }
            Kind::Udp { send, expect } => Box::pin(udp::ask(self, send.as_ref(), expect.as_ref())),
            Kind::Script { program, arguments } => Box::pin(script::run(self, program, arguments)),
        }
    }

    fn late(&self, kind: &Kind, within: Duration) -> Failure {
        let within = Shown(within);
        match kind {
            Kind::Script { program, .. } => {
                Failure(format!("script {} did not end within {within}", program.display()))
            }
            Kind::Ping => {
                Failure(format!("no answer from {} to ping within {within}", self.target.at.ip()))
            }
            _ => Failure(format!("no answer from {} within {within}", self.target.at)),
        }
    }
}

/// A time in words: `2 s`, `250 ms`.
struct Shown(Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_millis() {
            0 => write!(f, "{} s", self.0.as_secs()),
            _ => write!(f, "{} ms", self.0.as_millis()),
        }
    }
}

/// What a server said, for a reason: short, and without anything that could disturb who reads it.
fn quoted(said: &[u8]) -> String {
    const MOST: usize = 80;
    let text = String::from_utf8_lossy(&said[..said.len().min(4 * MOST)]);
    let text = text.trim_end();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
