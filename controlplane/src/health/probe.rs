//! One question to one server: one file for each kind under `probe/`.
//!
//! Every answer is read within bounds and within the check's time, whatever a server sends.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::config::{Check, Kind};
use crate::net::{Net, Way};

mod tools;

mod connect;

mod ping;

pub use tools::Tools;

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
    let kind = match &check.kind {
        Kind::Mixed { connects, negotiate } => match turn % (u64::from(*connects) + 1) {
            last if last == u64::from(*connects) => negotiate,
            _ => &Kind::Connect,
        },
        kind => kind,
    };
    let within = match kind {
        Kind::Connect | Kind::Ping => check.pace.timeout,
        _ => check.pace.negotiate_timeout,
    };
    let asked = once(net, tools, target, check, kind);
    let late = || Failure(format!("no answer from {} within {}", target.at, Shown(within)));
    timeout(within, asked).await.unwrap_or_else(|_| Err(late()))
}

async fn once<N: Net>(
    net: &N,
    _tools: &Tools,
    target: &Target,
    _check: &Check,
    kind: &Kind,
) -> Result<(), Failure> {
    match kind {
        Kind::Off => Err(Failure("its check is off".into())),
        Kind::Connect => connect::open(net, target).await.map(drop),
        Kind::Ping => ping::ask(net, target).await,
        _ => Ok(()),
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
