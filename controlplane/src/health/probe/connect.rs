//! A TCP connection that opens, and what may lie inside it.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time;

use super::{Asking, Failure, Shown, tls};
use crate::config::Tls;
use crate::net::Net;

/// A conversation's bytes, plain or inside TLS.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What is offered inside TLS, unless the operator says otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) enum Alpn {
    Nothing,
    Http1,
    Http2,
}

impl Alpn {
    /// Their names (RFC 7301).
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Nothing => &[],
            Self::Http1 => &["http/1.1"],
            Self::Http2 => &["h2"],
        }
    }
}

/// Either of them. It is a type of its own because the compiler could not tell of futures that hold a bare
/// `Box<dyn Duplex>` that they may move to another thread.
pub(super) struct Wire(Box<dyn Duplex>);

impl Wire {
    pub fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Box::new(stream))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

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
        alpn: Alpn,
    ) -> Result<Wire, Failure> {
        let stream = self.open(self.target.at).await?;
        match tls {
            None => Ok(Wire::over(stream)),
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
