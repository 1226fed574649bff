//! `service.agent`: what is asked of servers about their load.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Servers say how idle they are, and their weights follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// How they are asked.
    pub method: AgentMethod,
    /// The port of the agents.
    #[schema(minimum = 1, maximum = 65535, default = 3333)]
    pub port: u16,
    /// `http`: what is asked for; `/` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/idle")]
    pub path: Option<String>,
    /// How often they are asked: 1 s to 1 h.
    #[schema(example = "5s", default = "5s")]
    pub interval: String,
    /// How long an answer may take: 1 s to 1 m.
    #[schema(example = "2s", default = "2s")]
    pub timeout: String,
    /// How a weight follows from an answer.
    pub formula: AgentFormula,
    /// After so many questions in a row without an answer a server has its own weight again.
    #[schema(minimum = 1, maximum = 100, default = 3)]
    pub misses: u8,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            method: AgentMethod::default(),
            port: 3333,
            path: None,
            interval: "5s".into(),
            timeout: "2s".into(),
            formula: AgentFormula::default(),
            misses: 3,
        }
    }
}

impl Agent {
    /// Whether nobody is asked.
    pub(crate) fn is_none(&self) -> bool {
        self.method == AgentMethod::None
    }
}

/// How agents are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AgentMethod {
    /// Not at all.
    #[default]
    None,
    /// By a connection on which the agent says a number and closes.
    Agent,
    /// By HTTP; the number is the body of the answer.
    Http,
}

/// How a weight follows from an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AgentFormula {
    /// Idle / 100 x weight.
    #[default]
    V8,
    /// Idle / 10 x weight.
    V6,
}
