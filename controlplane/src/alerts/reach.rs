//! A connection to a host, by whichever network, with or without TLS.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::config::Via;
use crate::config::alerts::{Host, Trust};
use crate::net::{Net, Way};
use crate::trust;

/// How many addresses of one name are tried.
const ADDRESSES: usize = 4;
/// How many names are looked up at once.
const LOOKUPS: usize = 2;

/// A connection, whatever carries it.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that is open.
pub struct Link {
    /// What is said over it.
    pub stream: Box<dyn Duplex>,
    /// The address of our end, where the network knows it.
    pub local: Option<IpAddr>,
}

type Opened = Pin<Box<dyn Future<Output = io::Result<Link>> + Send>>;

/// A way to connect to an address.
#[derive(Clone)]
pub struct Network(Arc<dyn Fn(SocketAddr) -> Opened + Send + Sync>);

impl Network {
    /// Over this network, as the routes say.
    pub fn over<N: Net>(net: N) -> Self {
        Self(Arc::new(move |to| {
            let net = net.clone();
            Box::pin(async move {
                let stream = net.connect(to, Way::Routed).await?;
                let local = N::local(&stream).map(|local| local.ip());
                Ok(Link { stream: Box::new(stream), local })
            })
        }))
    }

    /// Connects to the first of these addresses that answers. Each has its share of the time that is left,
    /// so that there is some for the next if nothing comes back from one.
    async fn first_of(&self, to: &[SocketAddr], deadline: Instant) -> Result<Link, String> {
        let mut failures = Vec::new();
        for (tried, &address) in to.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(to.len() - tried).unwrap_or(u32::MAX);
            failures.push(match timeout(share, self.0(address)).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error)) => format!("{address}: {error}"),
                Err(_) => format!("{address}: no answer in time"),
            });
        }
        Err(failures.join("; "))
    }
}

/// The networks that there are.
#[derive(Clone)]
pub struct Networks {
    kernel: Network,
    in_band: Network,
    names: Arc<Names>,
}

impl Networks {
    /// The kernel's, and that of the data ports.
    pub fn new(kernel: Network, in_band: Network) -> Self {
        Self { kernel, in_band, names: Arc::new(Names::new(|host| host.to_socket_addrs())) }
    }

    /// Connects to a host. If its name has several addresses, none of them takes all of the time that there
    /// is.
    ///
    /// # Errors
    ///
    /// In words, when its name is not known or it does not answer in time.
    pub async fn connect(&self, via: Via, host: &Host, within: Duration) -> Result<Link, String> {
        let deadline = Instant::now() + within;
        let network = match via {
            Via::Kernel => &self.kernel,
            Via::InBand => &self.in_band,
        };
        let addresses = match host.address() {
            Some(address) => vec![address],
            None => {
                let found = timeout(within, self.names.addresses(host)).await;
                let found =
                    found.map_err(|_| format!("{host}: nobody says in time where it is"))?;
                found.map_err(|error| format!("{host}: {error}"))?
            }
        };
        let connected = network.first_of(&addresses, deadline).await;
        connected.map_err(|failure| format!("connect to {host}: {failure}"))
    }
}

type Found = io::Result<std::vec::IntoIter<SocketAddr>>;

/// Looks up names with the system's resolver, which may hang. Each has a thread of its own, for which
/// nothing waits when the program ends; there are [`LOOKUPS`] at most, and one for the same name.
struct Names {
    resolve: fn((&str, u16)) -> Found,
    any: Arc<Semaphore>,
    each: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Names {
    fn new(resolve: fn((&str, u16)) -> Found) -> Self {
        let any = Arc::new(Semaphore::new(LOOKUPS));
        Self { resolve, any, each: Mutex::default() }
    }

    async fn addresses(&self, host: &Host) -> io::Result<Vec<SocketAddr>> {
        let own = self.turns(&host.name).acquire_owned().await;
        let any = Arc::clone(&self.any).acquire_owned().await;
        let turn = (own, any);
        let (tell, told) = oneshot::channel();
        let (resolve, Host { name, port }) = (self.resolve, host.clone());
        let lookup = move || {
            let _turn = turn; // until the resolver is done, even if nobody waits for it any more
            let _ = rustix::process::setpriority_process(None, 0); // the control thread is urgent
            let found = resolve((&name, port));
            let _ = tell.send(found.map(|all| all.take(ADDRESSES).collect()));
        };
        thread::Builder::new().name("lookup".into()).spawn(lookup)?;
        let found: Vec<_> = told.await.map_err(io::Error::other)??;
        match found.is_empty() {
            true => Err(io::Error::other("it has no address")),
            false => Ok(found),
        }
    }

    /// Those who look up this name, one after the other.
    fn turns(&self, name: &str) -> Arc<Semaphore> {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        each.retain(|_, turns| Arc::strong_count(turns) > 1);
        Arc::clone(each.entry(name.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1))))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends in 1: nothing comes back; in 2: refused; in others: it answers.
    fn network() -> Network {
        Network(Arc::new(|to: SocketAddr| {
            Box::pin(async move {
                match to.port() % 10 {
                    1 => std::future::pending().await,
                    2 => Err(io::ErrorKind::ConnectionRefused.into()),
                    _ => Ok(Link { stream: Box::new(tokio::io::empty()), local: Some(to.ip()) }),
                }
            })
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_in_time_if_nothing_comes_back_from_one() {
        let at = |ports: &[u16]| -> Vec<SocketAddr> {
            ports.iter().map(|&port| ([192, 0, 2, 1], port).into()).collect()
        };
        let within = Duration::from_secs(60);
        for (ports, seconds) in [
            (&[3][..], Some(0)),
            (&[1, 3], Some(30)),
            (&[2, 1, 3], Some(30)),
            (&[1, 2, 1, 3], Some(37)), // 15 s, and half of what is left
            (&[1, 1, 2], None),
        ] {
            let begin = Instant::now();
            let link = network().first_of(&at(ports), begin + within).await;
            let took = begin.elapsed().as_secs();
            assert_eq!(link.is_ok().then_some(took), seconds, "{ports:?}");
            assert!(begin.elapsed() <= within, "{ports:?}");
        }
        let failed = network().first_of(&at(&[1, 2]), Instant::now() + within).await.err().unwrap();
        let told = "192.0.2.1:1: no answer in time; 192.0.2.1:2: connection refused";
        assert_eq!(failed, told);
    }

    #[tokio::test]
    async fn a_name_that_is_looked_up_without_end_holds_up_no_other() {
        static ASKED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let names = Names::new(|(name, port)| match name {
            "well" => Ok(vec![([192, 0, 2, 1], port).into()].into_iter()),
            "nobody" => Ok(Vec::new().into_iter()),
            _ => {
                ASKED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                loop {
                    thread::park();
                }
            }
        });
        let host = |name: &str| Host { name: name.into(), port: 25 };
        let soon = Duration::from_millis(50);
        for _ in 0..3 {
            assert!(timeout(soon, names.addresses(&host("hangs"))).await.is_err());
        }
        let found = timeout(Duration::from_secs(10), names.addresses(&host("well"))).await;
        assert_eq!(found.unwrap().unwrap(), [([192, 0, 2, 1], 25).into()]);
        assert!(names.addresses(&host("nobody")).await.is_err());
        // A thread that has told what it found may not have ended yet.
        let (begin, mut kept) = (Instant::now(), 0);
        while kept != 2 && begin.elapsed() < Duration::from_secs(10) {
            drop(names.turns("last"));
            kept = names.each.lock().unwrap().len();
            thread::yield_now();
        }
        assert_eq!(kept, 2, "the last, and the one that hangs");
        for name in ["hangs too", "hangs as well", "well"] {
            assert!(timeout(soon, names.addresses(&host(name))).await.is_err());
        }
        let asked = || ASKED.load(std::sync::atomic::Ordering::Relaxed);
        let begin = Instant::now();
        while asked() < LOOKUPS && begin.elapsed() < Duration::from_secs(10) {
            thread::yield_now();
        }
        assert_eq!(asked(), LOOKUPS);
    }
}
