//! A TCP connection that opens, and what may lie inside it.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time;

use super::{Asking, Failure, Shown, tls};
use crate::config::Tls;
use crate::net::Net;

/// A conversation's bytes, plain or inside TLS.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Either of them.
pub(super) type Wire = Box<dyn Duplex>;

impl<N: Net> Asking<'_, N> {
    /// A connection to `at`, which is the server on one of its ports.
    pub async fn open(&self, at: SocketAddr) -> Result<N::Stream, Failure> {
        let opening = self.net.connect(at, self.target.way);
        match time::timeout(self.timeout, opening).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(Failure(format!("connect to {at} {}", outcome(&error)))),
            Err(_) => Err(Failure(format!("no answer from {at} within {}", Shown(self.timeout)))),
        }
    }

    /// A conversation with the server, inside TLS where that is wanted. `host` is the virtual host, and `alpn`
    /// what is offered unless the operator says otherwise.
    pub async fn wire(
        &self,
        tls: Option<&Tls>,
        host: Option<&str>,
        alpn: &[&str],
    ) -> Result<Wire, Failure> {
        let stream = self.open(self.target.at).await?;
        match tls {
            None => Ok(Box::new(stream)),
            Some(wanted) => tls::inside(self, stream, wanted, host, alpn).await,
        }
    }
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
