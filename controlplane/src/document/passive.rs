//! What servers' own connections tell of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Servers are judged by the connections that clients open; one that does not answer them is left out for a
/// while, whatever its check says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Passive {
    /// Whether servers are left out at all.
    #[schema(default = true)]
    pub eject: bool,
    /// So many connections in a row, within `window`, that a server refused or did not answer.
    #[schema(minimum = 1, maximum = 1_000_000, default = 5)]
    pub unanswered: u32,
    /// How long such a connection counts: 1 s to 1 h.
    #[schema(example = "10s", default = "10s")]
    pub window: String,
    /// How long the server is left out: 1 s to 24 h.
    #[schema(example = "30s", default = "30s")]
    pub eject_for: String,
    /// How many servers may be left out at once: a number, or a share of them all, rounded down but at least
    /// one. The last is never left out.
    pub max_ejected: MostEjected,
}

impl Default for Passive {
    fn default() -> Self {
        Self {
            eject: true,
            unanswered: 5,
            window: "10s".into(),
            eject_for: "30s".into(),
            max_ejected: MostEjected::default(),
        }
    }
}

/// A number of servers, or a share of them all such as `50%`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum MostEjected {
    /// So many.
    Servers(u32),
    /// So many in a hundred.
    Share(String),
}

impl Default for MostEjected {
    fn default() -> Self {
        Self::Servers(1)
    }
}
