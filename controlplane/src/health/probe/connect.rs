//! A TCP connection that opens.

use std::io::{Error, ErrorKind};

use super::{Failure, Target};
use crate::net::Net;

/// A connection to the server.
pub(super) async fn open<N: Net>(net: &N, target: &Target) -> Result<N::Stream, Failure> {
    net.connect(target.at, target.way)
        .await
        .map_err(|error| Failure(format!("connect to {} {}", target.at, outcome(&error))))
}

/// What became of an attempt, as the end of a sentence.
pub(super) fn outcome(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".into(),
        ErrorKind::ConnectionReset => "reset".into(),
        ErrorKind::TimedOut => "timed out".into(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "failed: unreachable".into(),
        _ => format!("failed: {error}"),
    }
}
