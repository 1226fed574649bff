//! One request to the admin API, over root's Unix socket or over TLS.

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::script::{SOCKET, SOCKET_VARIABLE};
use crate::trust;

/// How long a whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer that is read, in bytes.
const LONGEST: usize = 256 << 20;
/// The longest event of a live answer, in bytes.
const LONGEST_EVENT: usize = 1 << 20;
/// The port of `[admin] listen` unless the operator says otherwise.
const PORT: u16 = 9443;

/// Which node, and how it is to know us
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The node's Unix socket, for root; SLUICE_SOCKET in the environment names another one, and does so in scripts of the
    /// node's
    #[arg(long, global = true, default_value_os_t = usual_socket(), value_name = "PATH")]
    pub socket: PathBuf,
    /// A remote node, such as https://10.0.0.2:9443
    #[arg(long, global = true, value_name = "URL", conflicts_with = "socket")]
    pub url: Option<Uri>,
    /// The token for a remote node; --token-file shows it to nobody else
    #[arg(long, global = true, env = "SLUICE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file with the token
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Trust the certificates in this PEM file, such as the node's admin-cert.pem
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Trust any certificate: anybody on the way can read the token and change the answer
    #[arg(long, global = true, conflicts_with = "ca")]
    pub insecure: bool,
}

/// Not an `env` of clap's: beside `--url` it would count as `--socket`.
fn usual_socket() -> PathBuf {
    env::var_os(SOCKET_VARIABLE).filter(|it| !it.is_empty()).map_or(SOCKET.into(), PathBuf::from)
}

/// Why the node could not be asked.
#[derive(Debug, Error)]
pub enum Error {
    /// Nobody answers.
    #[error(
        "cannot reach the node at {at}: {cause}; does one run there, and may you ask it? --socket and --url say where to ask"
    )]
    Unreachable {
        /// Where it should be.
        at: String,
        /// What the system said.
        cause: io::Error,
    },
    /// The connection failed while it was used.
    #[error("the connection to the node failed: {0}")]
    Broken(String),
    /// The address of the node makes no sense.
    #[error("--url: expected https://HOST or https://HOST:PORT, found {0}")]
    Url(Uri),
    /// A file is unusable.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// There is no trust to begin with.
    #[error("{0}; give --ca FILE with the node's certificate")]
    Trust(#[from] trust::Error),
    /// The token cannot stand in a header.
    #[error("the token holds characters that no token has")]
    Token,
}

/// What is asked.
pub struct Request {
    /// The HTTP method.
    pub method: Method,
    /// The path below `/api/v1`, with the query.
    pub path: String,
    /// The body with its type.
    pub content: Option<(&'static str, Vec<u8>)>,
    /// The entity tag that must still be right.
    pub if_match: Option<String>,
    /// The answer is to come live, and without an end.
    pub is_live: bool,
}

impl Request {
    /// A request without a body.
    pub fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), content: None, if_match: None, is_live: false }
    }
}

/// What came back.
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The configuration's entity tag, if it was given.
    pub etag: Option<String>,
    /// The whole body.
    pub body: Bytes,
}

/// Asks, and waits for the whole answer.
///
/// # Errors
///
/// When the node cannot be reached, or the exchange breaks off.
pub fn exchange(target: &Target, request: Request) -> Result<Answer, Error> {
    runtime()?.block_on(async {
        let all = async {
            let (connection, response) = begun(target, request).await?;
            let answer = whole(response).await;
            connection.abort();
            answer
        };
        timeout(PATIENCE, all).await.unwrap_or_else(|_| Err(late()))
    })
}

/// Asks for what comes live (`text/event-stream`), and gives each event's kind and data to `take` until that
/// has had enough. An answer that is something else is given back whole.
///
/// # Errors
///
/// When the node cannot be reached, or ends the connection.
pub fn follow(
    target: &Target,
    path: &str,
    mut take: impl FnMut(&str, &str) -> bool,
) -> Result<Option<Answer>, Error> {
    runtime()?.block_on(async {
        let request = Request { is_live: true, ..Request::new(Method::GET, path) };
        let begun = timeout(PATIENCE, begun(target, request)).await;
        let (_connection, mut response) = begun.unwrap_or_else(|_| Err(late()))?;
        if !response.status().is_success() {
            return whole(response).await.map(Some);
        }
        let mut lines = Lines::default();
        while let Some(frame) = response.frame().await {
            let frame = frame.map_err(|error| Error::Broken(error.to_string()))?;
            for (kind, data) in lines.take(&frame.into_data().unwrap_or_default())? {
                if !take(&kind, &data) {
                    return Ok(None);
                }
            }
        }
        Err(Error::Broken("the node has ended it".into()))
    })
}

/// What has come of an event stream, as far as it makes no whole event yet.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    kind: String,
    data: String,
}

impl Lines {
    /// The kind and the data of each event that is whole now.
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<(String, String)>, Error> {
        self.rest.extend_from_slice(bytes);
        let mut whole = Vec::new();
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(line.trim_ascii_end());
            match line.split_once(": ") {
                None if line.is_empty() && !self.data.is_empty() => {
                    whole.push((std::mem::take(&mut self.kind), std::mem::take(&mut self.data)));
                }
                Some(("event", kind)) => kind.clone_into(&mut self.kind),
                Some(("data", data)) => self.data += data,
                _ => {} // a number, a comment, or what a later version has to say
            }
        }
        if self.rest.len() + self.data.len() > LONGEST_EVENT {
            return Err(Error::Broken("the node sends an event without end".into()));
        }
        Ok(whole)
    }
}

fn runtime() -> Result<Runtime, Error> {
    let built = Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Error::Broken(error.to_string()))
}

fn late() -> Error {
    Error::Broken(format!("no answer within {} seconds", PATIENCE.as_secs()))
}

/// A connection, and the head of the answer that came over it.
type Begun = (JoinHandle<hyper::Result<()>>, hyper::Response<Incoming>);

async fn begun(target: &Target, request: Request) -> Result<Begun, Error> {
    match &target.url {
        None => over_unix(target, request).await,
        Some(url) => over_tls(target, url, request).await,
    }
}

async fn whole(response: hyper::Response<Incoming>) -> Result<Answer, Error> {
    let status = response.status();
    let etag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
    let etag = etag.map(str::to_owned);
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| Error::Broken(error.to_string()))?.to_bytes();
    Ok(Answer { status, etag, body })
}

async fn over_unix(target: &Target, request: Request) -> Result<Begun, Error> {
    let at = || target.socket.display().to_string();
    let stream = UnixStream::connect(&target.socket)
        .await
        .map_err(|cause| Error::Unreachable { at: at(), cause })?;
    converse(stream, "localhost", None, request).await
}

async fn over_tls(target: &Target, url: &Uri, request: Request) -> Result<Begun, Error> {
    let refused = || Error::Url(url.clone());
    let authority = url.authority().filter(|_| url.scheme_str() == Some("https"));
    let authority = authority.ok_or_else(refused)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(PORT);
    let name = ServerName::try_from(host.clone()).map_err(|_| refused())?;
    let token = token(target)?;
    let tls = TlsConnector::from(Arc::new(trust::client(target.ca.as_deref(), !target.insecure)?));
    let unreachable = |cause| Error::Unreachable { at: format!("{host}:{port}"), cause };
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(unreachable)?;
    let stream = tls.connect(name, stream).await.map_err(unreachable)?;
    converse(stream, authority.as_str(), token.as_deref(), request).await
}

async fn converse<S>(
    stream: S,
    host: &str,
    token: Option<&str>,
    request: Request,
) -> Result<Begun, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: &dyn std::error::Error| Error::Broken(error.to_string());
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let connection = tokio::spawn(connection);
    let mut builder = hyper::Request::builder()
        .method(request.method)
        .uri(format!("/api/v1{}", request.path))
        .header(header::HOST, host);
    if let Some(token) = token {
        let mut shown =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Error::Token)?;
        shown.set_sensitive(true);
        builder = builder.header(header::AUTHORIZATION, shown);
    }
    if request.is_live {
        builder = builder.header(header::ACCEPT, "text/event-stream");
    }
    if let Some(tag) = request.if_match {
        builder = builder.header(header::IF_MATCH, tag);
    }
    let mut body = Vec::new();
    if let Some((kind, content)) = request.content {
        builder = builder.header(header::CONTENT_TYPE, kind);
        body = content;
    }
    let request = builder.body(Full::new(Bytes::from(body))).map_err(|error| broken(&error))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    Ok((connection, response))
}

fn token(target: &Target) -> Result<Option<String>, Error> {
    let Some(path) = &target.token_file else { return Ok(target.token.clone()) };
    let text =
        fs::read_to_string(path).map_err(|cause| Error::File { path: path.clone(), cause })?;
    Ok(Some(text.trim().to_owned()))
}
