//! A page over HTTP/1.1 (RFC 9112) or HTTP/2 (RFC 9113).

use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, Version, header};
use hyper_util::rt::TokioIo;
use tokio::io::{self, AsyncReadExt as _};
use tokio::select;
use tokio::task::AbortHandle;

use super::connect::{Alpn, Wire};
use super::{Asking, Failure, LONGEST_ANSWER};
use crate::config::Http;
use crate::net::Net;

/// How much of an answer's headers is read, in bytes.
const LONGEST_HEADERS: usize = 32 << 10;
/// How much is read in all, in bytes: the start of an answer may come in small pieces.
const MOST_HEARD: u64 = 8 * (LONGEST_ANSWER + LONGEST_HEADERS) as u64;

pub(super) async fn ask<N: Net>(asking: &Asking<'_, N>, page: &Http) -> Result<(), Failure> {
    let alpn = if page.two { Alpn::Http2 } else { Alpn::Http1 };
    let scheme = if page.tls.is_some() { "https" } else { "http" };
    let host = page.host().map_or_else(|| own_host(asking, scheme), Into::into);
    let wire = asking.wire(page.tls.as_ref(), page.host(), alpn).await?;
    let path = page.path();
    let request = Request::builder()
        .method(page.method.name())
        .header(header::USER_AGENT, "sluice")
        .header(header::ACCEPT, "*/*");
    let request = match page.two {
        true => request.version(Version::HTTP_2).uri(format!("{scheme}://{host}{path}")),
        false => request.uri(path).header(header::HOST, &host).header(header::CONNECTION, "close"),
    };
    let told = |why: String| Failure(format!("{scheme}://{}{path} {why}", asking.target.at));
    let request = request
        .body(Full::default())
        .map_err(|error| told(format!("cannot be asked for: {error}")))?;
    let judge = |answer| judge(answer, page);
    exchange(wire, page.two, request, judge).await.map_err(told)
}

/// The server's own address, as it stands in a request: the usual port is left out.
pub(super) fn own_host<N>(asking: &Asking<'_, N>, scheme: &str) -> String {
    let at = asking.target.at;
    match (at.ip(), at.port(), scheme) {
        (IpAddr::V4(ip), 80, "http") | (IpAddr::V4(ip), 443, "https") => ip.to_string(),
        (IpAddr::V6(ip), 80, "http") | (IpAddr::V6(ip), 443, "https") => format!("[{ip}]"),
        _ => at.to_string(),
    }
}

async fn judge(answer: Response<Incoming>, page: &Http) -> Result<(), String> {
    let code = answer.status().as_u16();
    if !page.status.contains(code) {
        return Err(format!("answered {code}, expected {}", page.status));
    }
    let Some(expect) = &page.expect else { return Ok(()) };
    let body = start_of(answer.into_body()).await?;
    match expect.is_in(&body) {
        true => Ok(()),
        false => Err(format!("answered without {expect}")),
    }
}

/// As much of a body as is looked at.
async fn start_of(mut body: Incoming) -> Result<Vec<u8>, String> {
    let mut start = Vec::new();
    while start.len() < LONGEST_ANSWER {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| format!("broke off: {}", cause(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        let room = LONGEST_ANSWER - start.len();
        start.extend_from_slice(&data[..data.len().min(room)]);
    }
    Ok(start)
}

/// Sends a request over a connection of its own, and judges its answer.
pub(super) async fn exchange<B, F>(
    wire: Wire,
    two: bool,
    request: Request<B>,
    judge: impl FnOnce(Response<Incoming>) -> F,
) -> Result<(), String>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
    F: Future<Output = Result<(), String>>,
{
    let failed = |error: hyper::Error| match error.is_incomplete_message() {
        true => "closed the connection without an answer".to_owned(),
        false => format!("gave no answer: {}", cause(&error)),
    };
    // Interim answers and the like have no other bound, and come as fast as the server can.
    let (reader, writer) = io::split(wire);
    let io = TokioIo::new(io::join(reader.take(MOST_HEARD), writer));
    if two {
        let tasks = Tasks::default();
        let mut builder = http2::Builder::new(Starter(tasks.0.clone()));
        builder.max_header_list_size(LONGEST_HEADERS as u32).max_send_buf_size(LONGEST_HEADERS);
        let (mut sender, connection) = builder.handshake(io).await.map_err(failed)?;
        let answered = async { judge(sender.send_request(request).await.map_err(failed)?).await };
        while_it_runs(connection, answered).await
    } else {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(LONGEST_HEADERS);
        let (mut sender, connection) = builder.handshake(io).await.map_err(failed)?;
        let answered = async { judge(sender.send_request(request).await.map_err(failed)?).await };
        while_it_runs(connection, answered).await
    }
}

/// Drives a connection until what is done on it is done; when it ends first, what has come is still there.
async fn while_it_runs<T>(connection: impl Future, work: impl Future<Output = T>) -> T {
    let (mut connection, mut work) = (pin!(connection), pin!(work));
    select! {
        biased;
        done = &mut work => done,
        _ = &mut connection => work.await,
    }
}

/// The innermost reason.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Tasks that end with the question that they are for, even when it is given up.
#[derive(Default)]
struct Tasks(Arc<Mutex<Vec<AbortHandle>>>);

/// Starts them.
#[derive(Clone)]
struct Starter(Arc<Mutex<Vec<AbortHandle>>>);

impl<F> hyper::rt::Executor<F> for Starter
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let handle = tokio::spawn(task).abort_handle();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}
