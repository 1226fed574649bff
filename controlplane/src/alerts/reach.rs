//! A connection to a host, by whichever network, with or without TLS.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use lettre::transport::smtp::client::AsyncTokioStream;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;

use crate::config::Via;
use crate::config::alerts::{Host, Trust};
use crate::net::{Net, Way};
use crate::trust;

/// How many addresses of one name are tried.
const ADDRESSES: usize = 4;

/// A connection, whatever carries it.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Opened = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>> + Send>>;

/// A way to connect to an address.
#[derive(Clone)]
pub struct Network(Arc<dyn Fn(SocketAddr) -> Opened + Send + Sync>);

impl Network {
    /// Over this network, as the routes say.
    pub fn over(net: impl Net) -> Self {
        Self(Arc::new(move |to| {
            let net = net.clone();
            Box::pin(async move {
                let stream = net.connect(to, Way::Routed).await?;
                Ok(Box::new(stream) as Box<dyn Duplex>)
            })
        }))
    }
}

/// The networks that there are.
#[derive(Clone)]
pub struct Networks {
    kernel: Network,
    in_band: Network,
    /// One name is looked up at a time: the system's resolver may hang, and hold a helper thread so long.
    looking_up: Arc<Semaphore>,
}

impl Networks {
    /// The kernel's, and that of the data ports.
    pub fn new(kernel: Network, in_band: Network) -> Self {
        Self { kernel, in_band, looking_up: Arc::new(Semaphore::new(1)) }
    }

    /// Connects to a host.
    ///
    /// # Errors
    ///
    /// In words, when its name is not known or it does not answer.
    pub async fn connect(&self, via: Via, host: &Host) -> Result<Box<dyn Duplex>, String> {
        let Network(open) = match via {
            Via::Kernel => &self.kernel,
            Via::InBand => &self.in_band,
        };
        let mut failure = "it has no address".to_owned();
        for address in self.addresses(host).await.map_err(|error| format!("{host}: {error}"))? {
            match open(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error.to_string(),
            }
        }
        Err(format!("connect to {host}: {failure}"))
    }

    async fn addresses(&self, host: &Host) -> io::Result<Vec<SocketAddr>> {
        if let Some(address) = host.address() {
            return Ok(vec![address]);
        }
        let turn = Arc::clone(&self.looking_up).acquire_owned().await;
        let question = (host.name.clone(), host.port);
        let looked_up = spawn_blocking(move || {
            let _turn = turn; // until the resolver is done, even if nobody waits for it any more
            question.to_socket_addrs().map(|found| found.take(ADDRESSES).collect())
        });
        looked_up.await.map_err(io::Error::other)?
    }
}

/// The same connection, encrypted, with whom it is meant for.
///
/// # Errors
///
/// In words, when that is somebody else, or there is no agreement.
pub async fn encrypted(
    stream: Box<dyn Duplex>,
    host: &Host,
    trust: &Trust,
) -> Result<Box<dyn Duplex>, String> {
    let failed = |error: &dyn fmt::Display| format!("TLS with {host}: {error}");
    let Trust { verify, ca } = trust.clone();
    let config = spawn_blocking(move || trust::client(ca.as_deref(), verify)).await;
    let config = config.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    let name = ServerName::try_from(host.name.clone()).map_err(|error| failed(&error))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Ok(Box::new(stream.map_err(|error| failed(&error))?))
}

/// A connection that several threads may know of, though only one at a time can use it.
pub struct Shared(Mutex<Box<dyn Duplex>>);

impl Shared {
    /// The same connection.
    pub fn new(stream: Box<dyn Duplex>) -> Self {
        Self(Mutex::new(stream))
    }

    /// Whoever can change it has it alone: nothing is locked.
    fn inner(self: Pin<&mut Self>) -> Pin<&mut Box<dyn Duplex>> {
        Pin::new(self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a connection")
    }
}

impl AsyncTokioStream for Shared {
    /// Nobody asks: who is at the other end is a matter of the network.
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(context, into)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(context)
    }
}
