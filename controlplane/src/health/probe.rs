//! One question to one server: one file for each kind under `probe/`.

use std::fmt;
use std::net::SocketAddr;

use crate::net::Way;

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
