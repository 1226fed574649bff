//! `service.agent`: what is asked of servers about their load (AG-01 to AG-08).

use super::address::{duration, seconds};
use super::settings::{port, word};
use crate::document::{self, AgentFormula, AgentMethod};
use crate::field::{Field, Invalid, Refusals, Shape};

/// An hour, in seconds.
const HOUR: u32 = 3600;
/// The longest path that is asked for, in bytes.
const LONGEST_PATH: usize = 255;
const PATH: &str = "a path, such as /idle";

/// What is asked of servers about their load.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Agent {
    /// How they are asked.
    pub method: Method,
    /// The port of the agents.
    pub port: u16,
    /// How often they are asked, in seconds.
    pub interval: u32,
    /// How long an answer may take, in seconds.
    pub timeout: u32,
    /// How a weight follows from an answer.
    pub formula: AgentFormula,
    /// After so many questions in a row without an answer a server has its own weight again, 1 to 100.
    pub misses: u8,
}

/// How agents are asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Method {
    /// By a connection on which the agent says a number and closes.
    Agent,
    /// By HTTP.
    Http {
        /// What is asked for: visible ASCII that begins with a slash.
        path: String,
    },
}

impl Agent {
    pub(super) fn document(&self) -> document::Agent {
        let (method, path) = match &self.method {
            Method::Agent => (AgentMethod::Agent, None),
            Method::Http { path } => (AgentMethod::Http, Some(path.clone())),
        };
        document::Agent {
            method,
            port: self.port,
            path,
            interval: seconds(self.interval),
            timeout: seconds(self.timeout),
            formula: self.formula,
            misses: self.misses,
        }
    }
}

const AGENT: Shape = Shape {
    known: &["method", "port", "path", "interval", "timeout", "formula", "misses"],
    later: &[],
};

/// `None` if anything was refused; none of it is there if nobody is asked.
#[allow(clippy::option_option)] // was it read, and is there one
pub(super) fn agent(field: &Field<'_>, refusals: &mut Refusals) -> Option<Option<Agent>> {
    let table = field.table(&AGENT, refusals)?;
    let kind = refusals.keep(table.at("method").or(AgentMethod::default(), method));
    let agents_port = refusals.keep(table.at("port").or(3333, port));
    let path_field = table.at("path");
    let path = path_field.or("/".into(), |field| match kind {
        None | Some(AgentMethod::Http) => path(field),
        Some(_) => Err(field.expected("no path: only method http has one")),
    });
    let path = refusals.keep(path);
    let interval = refusals.keep(table.at("interval").or(5, |field| duration(field, 1, HOUR)));
    let timeout = refusals.keep(table.at("timeout").or(2, |field| duration(field, 1, 60)));
    let formula = refusals.keep(table.at("formula").or(AgentFormula::default(), formula));
    let misses = refusals.keep(table.at("misses").or(3, |field| field.number(1..=100)));
    let agent = |method| {
        Some(Agent {
            method,
            port: agents_port?,
            interval: interval?,
            timeout: timeout?,
            formula: formula?,
            misses: misses? as u8,
        })
    };
    match kind? {
        AgentMethod::None => Some(None),
        AgentMethod::Agent => agent(Method::Agent).map(Some),
        AgentMethod::Http => agent(Method::Http { path: path? }).map(Some),
    }
}

fn method(field: &Field<'_>) -> Result<AgentMethod, Invalid> {
    let words =
        [("none", AgentMethod::None), ("agent", AgentMethod::Agent), ("http", AgentMethod::Http)];
    word(field, "none, agent or http", &words)
}

fn formula(field: &Field<'_>) -> Result<AgentFormula, Invalid> {
    word(field, "v8 or v6", &[("v8", AgentFormula::V8), ("v6", AgentFormula::V6)])
}

/// Nothing in it may end the line of a request.
fn path(field: &Field<'_>) -> Result<String, Invalid> {
    let path = field.text(LONGEST_PATH, PATH)?;
    match path.starts_with('/') && path.bytes().all(|letter| letter.is_ascii_graphic()) {
        true => Ok(path.to_owned()),
        false => Err(field.expected(PATH)),
    }
}
