//! What answers in place of a service's servers when all of them have failed, as operators write it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Mode;

/// What answers when all servers have failed: `none`, `page`, a page of the operator's, or a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Fallback {
    /// Nothing, or the built-in page.
    Plain(PlainFallback),
    /// A page of the operator's.
    Page(FallbackPage),
    /// A server.
    Server(FallbackServer),
}

/// What needs no further words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlainFallback {
    /// Nothing answers.
    None,
    /// A page that says that the service is not available.
    Page,
}

/// A page of the operator's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FallbackPage {
    /// Its name: a file in `pages` in the state directory.
    #[schema(example = "sorry.html", min_length = 1, max_length = 63)]
    pub page: String,
}

/// A server that answers when all others have failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FallbackServer {
    /// Its own address.
    #[schema(value_type = String, example = "10.0.0.90")]
    pub address: IpAddr,
    /// Its port, with `nat` and `snat` only; the one that the client used if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
    /// How packets reach it; as the service says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

/// Whether the last server of a service that fails stays in service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LastServer {
    /// It takes new connections although it has failed, until another one does.
    Keep,
    /// It goes like any other, and the fallback answers.
    #[default]
    Fail,
}
