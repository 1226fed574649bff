//! `[alerts]`: who is told what changed, and how.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who is told what changed; nobody if absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Alerts {
    /// How packets get to the mail server and the receivers.
    pub via: Via,
    /// E-mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail: Option<Mail>,
    /// HTTP servers that get each event as JSON.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhook: Vec<Webhook>,
}

/// How packets get to those who are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// Through the kernel's network interfaces.
    #[default]
    Kernel,
    /// Through the data ports. Names of hosts cannot be looked up there.
    InBand,
}

/// What an alert can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum About {
    /// The state of a real server.
    Server,
    /// The state of a virtual service.
    Service,
    /// How full the flow table of a worker is.
    Worker,
    /// Another station claims an address of ours.
    Address,
    /// The configuration.
    Configuration,
    /// A trigger has run.
    Trigger,
}

/// Each change in a mail of its own; when there are too many, the rest in one that lists them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// The mail server and its port.
    #[schema(example = "10.0.0.25:25")]
    pub server: String,
    /// Whether the conversation is encrypted.
    #[serde(default)]
    pub tls: MailTls,
    /// Whether the server must have a certificate that we trust.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub verify: bool,
    /// Whom we trust, in PEM; those that everybody trusts if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ca: Option<PathBuf>,
    /// Who we are, if the server wants to know; needs `tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Who we say that we are, a name in the DNS or an address in brackets; if absent, the node's name if it
    /// is one in the DNS, or else the address that we speak from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "lb1.example.org")]
    pub helo: Option<String>,
    /// The sender's address.
    #[schema(example = "lb1@example.org")]
    pub from: String,
    /// Who gets the mails, unless a service says otherwise.
    #[schema(example = json!(["admin@example.org"]))]
    pub to: Vec<String>,
    /// How many mails a minute.
    #[serde(default = "ten")]
    #[schema(minimum = 1, maximum = 600, default = 10)]
    pub rate: u32,
    /// What they are about; everything but `configuration` and `trigger` if absent.
    #[serde(default = "states")]
    pub about: Vec<About>,
}

/// Whether a conversation with a mail server is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// It is not.
    #[default]
    None,
    /// Once the server has said that it can; otherwise nothing is sent.
    StartTls,
    /// From its first byte.
    Tls,
}

/// An HTTP server that gets each event as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where events are sent (POST), `http` or `https`.
    #[schema(example = "https://10.0.0.30/events")]
    pub url: String,
    /// What events are signed with; they are not if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// `https`: whether the server must have a certificate that we trust.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub verify: bool,
    /// `https`: whom we trust, in PEM; those that everybody trusts if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ca: Option<PathBuf>,
    /// How long one attempt may take: 1 s to 1 min.
    #[serde(default = "five_seconds")]
    #[schema(default = "5s", example = "5s")]
    pub timeout: String,
    /// How many attempts follow one that failed, each after a longer pause.
    #[serde(default = "five")]
    #[schema(minimum = 0, maximum = 20, default = 5)]
    pub retries: u32,
    /// What is sent; everything if absent.
    #[serde(default = "everything")]
    pub about: Vec<About>,
}

/// Whom to tell of a service and its servers instead.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceAlerts {
    /// Who gets the mails; nobody if it is empty.
    #[schema(example = json!(["shop@example.org"]))]
    pub to: Vec<String>,
}

impl About {
    /// All there are, with their names.
    pub const ALL: [(&'static str, Self); 6] = [
        ("server", Self::Server),
        ("service", Self::Service),
        ("worker", Self::Worker),
        ("address", Self::Address),
        ("configuration", Self::Configuration),
        ("trigger", Self::Trigger),
    ];
    /// What mails are about unless the operator says otherwise.
    pub const STATES: [Self; 4] = [Self::Server, Self::Service, Self::Worker, Self::Address];
}

fn states() -> Vec<About> {
    About::STATES.into()
}

fn everything() -> Vec<About> {
    About::ALL.map(|(_, about)| about).into()
}

fn yes() -> bool {
    true
}

fn five_seconds() -> String {
    "5s".into()
}

fn five() -> u32 {
    5
}

fn ten() -> u32 {
    10
}
