//! What tasks hold: each gives back what it stands for when it is dropped.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::ListenerKey;
use super::packet::Ends;
use super::stack::{Id, Stack};
use crate::net::{self, Net, Way};

/// The network on the data ports.
#[derive(Clone)]
pub struct InBand(Stack);

impl From<Stack> for InBand {
    fn from(stack: Stack) -> Self {
        Self(stack)
    }
}

impl InBand {
    /// Listens on all of these TCP ports of one address, or of all our own ones. An address that is not our own is a
    /// virtual one, from which the workers hand over what no server takes.
    ///
    /// # Errors
    ///
    /// When somebody listens there on one of them already, and when there are none or 0 is among them.
    pub fn listen_on(
        &self,
        address: Option<IpAddr>,
        ports: RangeInclusive<u16>,
    ) -> io::Result<Listener> {
        let key = (address, *ports.start());
        self.0.with(|inner| inner.listen(key, *ports.end()))?;
        Ok(Listener { stack: self.0.clone(), key })
    }
}

impl net::Listen for InBand {
    type Listener = Listener;

    fn listen(&self, address: Option<IpAddr>, port: u16) -> io::Result<Listener> {
        self.listen_on(address, port..=port)
    }
}

impl Net for InBand {
    type Stream = Stream;
    type Datagrams = Datagrams;

    async fn connect(&self, to: SocketAddr, way: Way) -> io::Result<Stream> {
        let id = self.0.with(|inner| inner.open(canonical(to), way))?;
        let stream = Stream { stack: self.0.clone(), id };
        poll_fn(|context| stream.stack.with(|inner| inner.poll_open(id, context))).await?;
        Ok(stream)
    }

    fn local(stream: &Stream) -> Option<SocketAddr> {
        stream.local()
    }

    async fn datagrams(&self, to: SocketAddr, way: Way) -> io::Result<Datagrams> {
        let id = self.0.with(|inner| inner.converse(canonical(to), way))?;
        Ok(Datagrams { stack: self.0.clone(), id })
    }

    async fn ping(&self, to: IpAddr, way: Way) -> io::Result<Duration> {
        let ends = self.0.with(|inner| inner.question(to.to_canonical(), way))?;
        let question = Question { stack: self.0.clone(), ends };
        poll_fn(|context| question.stack.with(|inner| inner.poll_answer(&ends, context))).await
    }
}

/// An IPv4 address that is written as the IPv6 address which maps it is that IPv4 address.
fn canonical(to: SocketAddr) -> SocketAddr {
    SocketAddr::new(to.ip().to_canonical(), to.port())
}

/// A TCP connection. Dropping it closes it in the background, which takes some seconds at most; one that was never
/// written to is reset, so that a mere test of whether somebody listens leaves nothing behind.
pub struct Stream {
    stack: Stack,
    id: Id,
}

impl Stream {
    /// Ends the connection at once, with a reset.
    pub fn abort(self) {
        self.stack.with(|inner| inner.let_go(self.id, true));
    }

    /// The other end.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.stack.with(|inner| inner.ends_of(self.id)).map(|ends| ends.remote)
    }

    /// Our end.
    pub fn local(&self) -> Option<SocketAddr> {
        self.stack.with(|inner| inner.ends_of(self.id)).map(|ends| ends.local)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let place = into.initialize_unfilled();
        let read = self.stack.with(|inner| inner.poll_read(self.id, place, context));
        read.map_ok(|length| into.advance(length))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stack.with(|inner| inner.poll_write(self.id, from, context))
    }

    /// What was written is sent with the next turn, whoever waits for it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stack.with(|inner| inner.shut_down(self.id));
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stack.with(|inner| inner.let_go(self.id, false));
    }
}

/// Whoever connects to a port of ours.
pub struct Listener {
    stack: Stack,
    key: ListenerKey,
}

impl net::Listener for Listener {
    type Stream = Stream;

    async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let accept = |context: &mut Context<'_>| {
            self.stack.with(|inner| inner.poll_accept(self.key, context))
        };
        let (id, peer) = poll_fn(accept).await?;
        Ok((Stream { stack: self.stack.clone(), id }, peer))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stack.with(|inner| inner.stop_listening(self.key));
    }
}

/// A UDP socket that knows its other end.
pub struct Datagrams {
    stack: Stack,
    id: Id,
}

impl net::Datagrams for Datagrams {
    async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.stack.with(|inner| inner.say(self.id, datagram))
    }

    async fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.stack.with(|inner| inner.poll_hear(self.id, into, context))).await
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.stack.with(|inner| inner.stop_conversing(self.id));
    }
}

/// An echo request that somebody waits for.
struct Question {
    stack: Stack,
    ends: Ends,
}

impl Drop for Question {
    fn drop(&mut self) {
        self.stack.with(|inner| inner.stop_asking(&self.ends));
    }
}
