//! `[[trigger]]`: what is done when something changes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is done when something changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// Its name.
    #[schema(example = "sftp1-down", min_length = 1, max_length = 63)]
    pub name: String,
    /// When it runs: once for each change that has all of this.
    #[serde(default)]
    pub on: On,
    /// What it does, in this order.
    #[schema(max_items = 16)]
    pub r#do: Vec<Action>,
    /// How many times a minute it runs at most; triggers that set off each other end there.
    #[serde(default = "sixty")]
    #[schema(minimum = 1, maximum = 6000, default = 60)]
    pub rate: u32,
}

fn sixty() -> u32 {
    60
}

/// Which changes set a trigger off.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct On {
    /// What kind of thing changes.
    pub event: Happening,
    /// Only this virtual service, or its servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "sftp")]
    pub service: Option<String>,
    /// Only this real server of that service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "sftp1")]
    pub server: Option<String>,
    /// Only when this is its new state.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "closing")]
    pub state: Option<Actual>,
}

/// What kind of thing changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Happening {
    /// The state of a real server.
    #[default]
    Server,
    /// The state of a virtual service.
    Service,
    /// How full the flow table of a worker is.
    Worker,
    /// Another station claims an address of ours.
    Address,
    /// The configuration.
    Configuration,
}

/// The state that something is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Actual {
    /// It takes new connections.
    Up,
    /// It is not well, or drains, and keeps the connections that it has.
    Closing,
    /// It is not well, and has no connections.
    Down,
    /// It is switched off.
    Disabled,
    /// It drains, as wanted.
    Drain,
    /// It is halted, as wanted.
    Halt,
}

/// One thing that a trigger does. What is so already is no mistake.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// What it is.
    pub action: Deed,
    /// `enable`, `disable`, `drain`, `online`, `weight`: the virtual service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "sftp")]
    pub service: Option<String>,
    /// `enable`, `disable`, `drain`, `online`, `weight`: its real server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "sftp2")]
    pub server: Option<String>,
    /// `weight`: the share of new connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// `script`: the file, below the directory `node.scripts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "sftp1-down.sh")]
    pub path: Option<PathBuf>,
    /// `script`: what it is given on its command line; the event is on its standard input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `script` and `webhook`: how long it may take, 1 s to 1 min; 10 s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10s")]
    pub timeout: Option<String>,
    /// `webhook`: where the event is sent (POST), once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://10.0.0.30/sftp")]
    pub url: Option<String>,
    /// `webhook`: what the event is signed with; it is not if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// What a trigger can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    /// Lets a server, or a whole service, take new connections again.
    Enable,
    /// Ends a server's connections at once, and lets it take no new ones; of a whole service, only the latter.
    Disable,
    /// Lets a server keep the connections that it has, and take no new ones.
    Drain,
    /// Lets a server take new connections again.
    Online,
    /// Sets a server's weight.
    Weight,
    /// Runs a program.
    Script,
    /// Sends the event to an HTTP server.
    Webhook,
}
