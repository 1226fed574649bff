//! Where clients connect: HTTPS on the addresses of `[admin] listen`, and root's Unix socket.
//!
//! A stranger can hold up nothing but itself: connections are capped per listener, each must show
//! who it is within seconds, and headers and bodies have their own time limits.

use std::convert::Infallible;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::auth::Caller;
use crate::net::kernel::Kernel;
use crate::net::{Listen as _, Listener};

/// Connections at once, per listener; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// How long a stranger may stay.
const STRANGER: Duration = Duration::from_secs(10);
/// How long a known caller may stay without asking for anything.
const IDLE: Duration = Duration::from_secs(60);
/// How long the headers of a request may take.
const HEADERS: Duration = Duration::from_secs(10);

/// Why nobody can connect.
#[derive(Debug, Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("[admin] listen: {address}: {cause}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The Unix socket cannot be made.
    #[error("[admin] socket: {}: {cause}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Another instance answers on the Unix socket.
    #[error("[admin] socket: {}: another running instance answers there", .0.display())]
    InUse(PathBuf),
}

/// Listens on a TCP address of the kernel's.
///
/// # Errors
///
/// When the address is not ours, is in use, or is not for us to take.
pub fn tcp(address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = Kernel.listen(Some(address.ip()), address.port());
    listener.map_err(|cause| Error::Address { address, cause })
}

/// Listens on a Unix socket that only root can use. One that a killed instance left is removed;
/// one that is answered is not.
///
/// # Errors
///
/// When the path cannot be made, is taken by another file, or is answered.
pub fn unix(path: &Path) -> Result<UnixListener, Error> {
    let cannot = |cause| Error::Socket { path: path.to_owned(), cause };
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(cannot)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(cannot(io::Error::other("there is a file that is not a socket")));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(Error::InUse(path.to_owned())),
        Ok(_) => fs::remove_file(path).map_err(cannot)?,
        Err(_) => {} // nothing there, or `bind` will say what is wrong
    }
    let listener = UnixListener::bind(path).map_err(cannot)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(cannot)?;
    Ok(listener)
}

/// Serves whoever connects over TLS, for ever.
pub async fn serve_tls<L>(listener: L, tls: TlsAcceptor, router: Router)
where
    L: Listener<Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static>,
{
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move {
            encrypted(stream, tls, router).await;
            drop(seat);
        });
    }
}

/// One connection that begins with a TLS handshake.
async fn encrypted<S>(stream: S, tls: TlsAcceptor, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match timeout(STRANGER, tls.accept(stream)).await {
        Ok(Ok(stream)) => converse(stream, router, false).await,
        Ok(Err(error)) => debug!("TLS handshake failed: {error}"),
        Err(_) => debug!("TLS handshake took too long"),
    }
}

/// Serves root, for ever.
pub async fn serve_unix(listener: UnixListener, router: Router) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        // The socket's mode keeps others out; this holds even where somebody has changed it.
        let root = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
        let router = router.clone();
        tokio::spawn(async move {
            converse(stream, router, root).await;
            drop(seat);
        });
    }
}

/// Accepting fails when descriptors run out: others have to end first.
async fn pause_after(error: &io::Error) {
    warn!("a connection to the admin API could not be accepted: {error}");
    sleep(Duration::from_millis(100)).await;
}

/// One connection, from its first request to its last.
async fn converse<S>(stream: S, router: Router, root: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let caller = Caller { root, known: Arc::new(AtomicBool::new(root)) };
    let under_way = Arc::new(AtomicUsize::new(0));
    let service = service_fn({
        let (caller, under_way) = (caller.clone(), Arc::clone(&under_way));
        let router = TowerToHyperService::new(router);
        move |mut request: hyper::Request<Incoming>| {
            let busy = Busy::new(&under_way);
            request.extensions_mut().insert(caller.clone());
            let answer = router.call(request);
            async move {
                let answer = answer.await?;
                Ok::<_, Infallible>(answer.map(|body| Counted { body, _busy: busy }))
            }
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(32)
        .max_header_list_size(16 << 10)
        .keep_alive_interval(HEADERS)
        .keep_alive_timeout(HEADERS);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));

    let begun = Instant::now();
    let mut last_busy = begun;
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!("a connection to the admin API ended: {error}");
                }
                return;
            }
            now = ticks.tick() => {
                if under_way.load(Ordering::Relaxed) > 0 {
                    last_busy = now;
                }
                let stranger = !caller.known.load(Ordering::Relaxed);
                if stranger && now - begun > STRANGER || now - last_busy > IDLE {
                    return; // dropping the connection closes it
                }
            }
        }
    }
}

/// The body of an answer, which keeps the connection busy until its last byte is out.
struct Counted {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// One request, from its headers to the end of its answer.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(under_way: &Arc<AtomicUsize>) -> Self {
        under_way.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(under_way))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
