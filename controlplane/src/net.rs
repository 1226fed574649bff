//! What probes, alerts and servers talk over: one trait, and behind it the kernel's sockets or the
//! in-band stack on the data ports. Nothing here waits for ever by itself: a caller that has only so much
//! time says so with a timeout around the whole conversation.

pub mod in_band;

pub mod kernel;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

/// How packets of a conversation reach the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// As the routes say.
    Routed,
    /// As the routes say, from an address of ours that the other end has on none of its subnets: its answer comes by its
    /// gateway, as what it sends to clients does (AR-08).
    From {
        /// The address of ours.
        source: IpAddr,
    },
    /// To the hardware address of a real server, or of the router to it: the other end's address is a
    /// virtual one, which the server has on its loopback (AR-08, HC-17).
    Direct {
        /// The real server's own address.
        server: IpAddr,
    },
    /// Inside a packet to a real server, which takes the outer header off.
    Tunnel {
        /// The real server's own address.
        server: IpAddr,
        /// The UDP port of generic UDP encapsulation; `None` for plain IP in IP.
        gue_port: Option<u16>,
    },
}

/// A network to talk over.
pub trait Net: Clone + Send + Sync + 'static {
    /// A TCP connection; dropping it ends it.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// A UDP socket that knows its other end.
    type Datagrams: Datagrams;

    /// Opens a TCP connection to `to`.
    ///
    /// # Errors
    ///
    /// With the kind that the kernel would give: refused, reset, unreachable, timed out.
    fn connect(
        &self,
        to: SocketAddr,
        way: Way,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Our end of a connection, where the network knows it.
    fn local(_: &Self::Stream) -> Option<SocketAddr> {
        None
    }

    /// Opens a UDP socket that sends to `to` and hears it alone.
    ///
    /// # Errors
    ///
    /// When no port is free, or no route leads there.
    fn datagrams(
        &self,
        to: SocketAddr,
        way: Way,
    ) -> impl Future<Output = io::Result<Self::Datagrams>> + Send;

    /// Sends an echo request and gives the time until its answer.
    ///
    /// # Errors
    ///
    /// When no route leads there, or an error comes back instead. No answer is no error: it waits.
    fn ping(&self, to: IpAddr, way: Way) -> impl Future<Output = io::Result<Duration>> + Send;
}

/// A network that others can reach us over.
pub trait Listen: Net {
    /// Where they connect; dropping it ends that.
    type Listener: Listener<Stream = Self::Stream>;

    /// Listens on a TCP port of one address, or of all our own ones.
    ///
    /// # Errors
    ///
    /// When somebody does already, the address is not ours, or the port is not for us to take.
    fn listen(&self, address: Option<IpAddr>, port: u16) -> io::Result<Self::Listener>;
}

/// Where others connect.
pub trait Listener: Send + Sync + 'static {
    /// A TCP connection.
    type Stream;

    /// The next connection, and who is at its other end.
    ///
    /// # Errors
    ///
    /// When there is one that cannot be had, for want of something that others may give back.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
}

/// A UDP socket that knows its other end.
pub trait Datagrams: Send + Sync + 'static {
    /// Sends one datagram.
    ///
    /// # Errors
    ///
    /// When it is too long, or cannot be sent.
    fn send(&self, datagram: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits for the next datagram and gives its length; what does not fit into `into` is lost.
    ///
    /// # Errors
    ///
    /// When the other end says that nobody listens there.
    fn receive(&self, into: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;
}
