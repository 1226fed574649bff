//! The page that answers in place of a service's servers when all of them have failed (ST-06, ST-07): HTTP/1 on the
//! virtual address itself, over the stack on the data ports. GET and HEAD alone, one request a connection, and a
//! bounded number of those: who comes here is anybody (ST-10). [`files`] are the operator's own pages.

pub mod files;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::snapshot::ServiceId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use crate::config::{self, Fallback, Protocol};
use crate::net::in_band::{InBand, Listener};
use crate::net::{Listen as _, Listener as _};
use crate::node::{Node, View};

/// How often it is looked which services need their page.
const LOOK: Duration = Duration::from_millis(50);
/// Connections at once, on all pages together.
const CONNECTIONS: usize = 256;
/// How many ports of all services can have a page at once.
const MOST_PORTS: usize = 4096;
/// How long a request may be, in bytes.
const LONGEST_REQUEST: usize = 8192;
/// How long a client may take for its request, and for the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What says that a service is not available, unless the operator says it otherwise.
const BUILT_IN: &str = "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
<title>Not available</title></head>\n<body><h1>Not available</h1>\n\
<p>This service is not available at the moment. Please try again in a few minutes.</p></body>\n</html>\n";

/// Where a page is served.
type Place = (IpAddr, u16);

/// A page that is served.
struct Served {
    /// Its name; `None` is the built-in one.
    page: Option<String>,
    body: watch::Sender<Arc<[u8]>>,
    task: AbortHandle,
}

/// Serves the pages of the services that need theirs, for as long as it is polled.
pub async fn serve(node: Arc<Node>) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open: HashMap<Place, Served> = HashMap::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = None;
    loop {
        looks.tick().await;
        // States are ahead of the configuration that they follow.
        let (states, pages, view) = (node.states().version(), node.pages().version(), node.view());
        let are_others = looked.as_ref().is_none_or(|(_, before, _)| *before != pages);
        let are_same = looked.as_ref().is_some_and(|(before, _, under)| {
            *before == states && !are_others && Arc::ptr_eq(under, &view)
        });
        if are_same {
            continue;
        }
        let Some(falling_back) = node.states().falling_back() else { continue };
        let wanted = wanted(&view, &falling_back);
        looked = Some((states, pages, view));
        open.retain(|place, served| {
            let stays = wanted.contains_key(place);
            if !stays {
                served.task.abort();
            }
            stays
        });
        let mut bodies = HashMap::new();
        for (place, page) in wanted {
            let served = open.get_mut(&place);
            if served.as_ref().is_some_and(|it| it.page == page) && !are_others {
                continue;
            }
            let body = match bodies.get(&page) {
                Some(body) => Arc::clone(body),
                None => read(&node, page.clone()).await,
            };
            bodies.insert(page.clone(), Arc::clone(&body));
            if let Some(served) = served {
                // A place that was left just now might not be free yet.
                served.body.send_replace(body);
                served.page = page;
            } else if let Some((body, task)) = begin(&node.net(), place, body, &seats) {
                open.insert(place, Served { page, body, task });
            }
        }
    }
}

/// Where pages are to be served now, and which.
fn wanted(view: &View, falling_back: &HashSet<ServiceId>) -> HashMap<Place, Option<String>> {
    let falling_back = view.services().filter(|service| falling_back.contains(&service.id));
    let places = falling_back.flat_map(|service| {
        let page = match &service.config.fallback {
            Fallback::Page(page) if service.config.protocol != Protocol::Udp => Some(page.clone()),
            _ => None,
        };
        page.into_iter().flat_map(|page| {
            places(service.config).map(move |place| (place, page.clone())).collect::<Vec<_>>()
        })
    });
    places.take(MOST_PORTS).collect()
}

fn places(service: &config::Service) -> impl Iterator<Item = Place> {
    service.each_address().flat_map(|address| {
        let ports = service.ports.ranges().flat_map(|(first, last)| first..=last);
        ports.map(move |port| (address.ip(), port)).take(MOST_PORTS).collect::<Vec<_>>()
    })
}

/// The operator's page of this name, or the built-in one.
async fn read(node: &Node, page: Option<String>) -> Arc<[u8]> {
    let Some(name) = page else { return BUILT_IN.as_bytes().into() };
    let pages = node.pages().clone();
    match spawn_blocking(move || pages.read(&name)).await {
        Ok(Ok(bytes)) => bytes.into(),
        Ok(Err(error)) => {
            warn!("the built-in page takes its place: {error}");
            BUILT_IN.as_bytes().into()
        }
        Err(_) => BUILT_IN.as_bytes().into(),
    }
}

fn begin(
    net: &InBand,
    (address, port): Place,
    body: Arc<[u8]>,
    seats: &Arc<Semaphore>,
) -> Option<(watch::Sender<Arc<[u8]>>, AbortHandle)> {
    match net.listen(Some(address), port) {
        Ok(listener) => {
            info!("{address} port {port}: the page answers");
            let (body, shown) = watch::channel(body);
            let task = tokio::spawn(accept(listener, shown, Arc::clone(seats)));
            Some((body, task.abort_handle()))
        }
        Err(error) => {
            warn!("{address} port {port}: the page cannot be served: {error}");
            None
        }
    }
}

async fn accept(listener: Listener, shown: watch::Receiver<Arc<[u8]>>, seats: Arc<Semaphore>) {
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { return };
        let body = Arc::clone(&shown.borrow());
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, answer(stream, &body)).await; // nobody else is to be told
            drop(seat);
        });
    }
}

/// Hears one request and answers it.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    body: &[u8],
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !is_whole(&request) && request.len() < LONGEST_REQUEST {
        match stream.read(&mut piece).await? {
            0 => break,
            length => request.extend_from_slice(&piece[..length]),
        }
    }
    let reply = reply(&request, body);
    stream.write_all(&reply).await?;
    stream.shutdown().await?;
    // What is not read by the other end before it resets would be lost to it.
    while stream.read(&mut piece).await? > 0 {}
    Ok(())
}

fn is_whole(request: &[u8]) -> bool {
    request.windows(4).any(|four| four == b"\r\n\r\n")
}

/// 503 with the page; to anything but GET and HEAD an error.
fn reply(request: &[u8], body: &[u8]) -> Vec<u8> {
    let method = request.split(|&byte| byte == b' ').next().unwrap_or_default();
    let (status, more, body, says) = match method {
        _ if !is_whole(request) => ("400 Bad Request", "", &b""[..], true),
        b"GET" => ("503 Service Unavailable", "Retry-After: 30\r\n", body, true),
        b"HEAD" => ("503 Service Unavailable", "Retry-After: 30\r\n", body, false),
        _ => ("405 Method Not Allowed", "Allow: GET, HEAD\r\n", &b""[..], true),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\n{more}Content-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), if says { body } else { b"" }].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(request: &str) -> String {
        String::from_utf8(reply(request.as_bytes(), b"<p>sorry</p>")).unwrap()
    }

    #[test]
    fn get_has_the_page_and_head_all_but_that() {
        let page = said("GET /anything HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{page}");
        assert!(page.contains("Content-Length: 12\r\n") && page.ends_with("\r\n\r\n<p>sorry</p>"));
        let head = said("HEAD / HTTP/1.1\r\n\r\n");
        assert!(head.contains("Content-Length: 12\r\n") && head.ends_with("\r\n\r\n"));
    }

    #[test]
    fn anything_else_is_refused() {
        for request in
            ["POST / HTTP/1.1\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\n\r\n", "get / HTTP/1.1\r\n\r\n"]
        {
            assert!(said(request).starts_with("HTTP/1.1 405 "), "{request}");
        }
        for request in ["", "GET / HTTP/1.1", "\x16\x03\x01", &"GET ".repeat(10_000)] {
            assert!(said(request).starts_with("HTTP/1.1 400 "), "{request:.20}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_pieces_is_answered_and_one_without_end_is_not_waited_for() {
        let (mut client, server) = tokio::io::duplex(64);
        let served = tokio::spawn(async move { answer(server, b"sorry").await });
        for piece in ["GET / HT", "TP/1.1\r\nHost: a", "\r\n\r\n"] {
            client.write_all(piece.as_bytes()).await.unwrap();
        }
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert!(heard.ends_with("sorry"), "{heard}");
        drop(client);
        served.await.unwrap().unwrap();

        let (client, server) = tokio::io::duplex(64);
        let late = timeout(PATIENCE, answer(server, b"sorry")).await;
        assert!(late.is_err());
        drop(client);
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(&[b'x'; 3 * LONGEST_REQUEST]).await.unwrap();
        drop(client);
        let _ = answer(server, b"sorry").await; // it may find nobody, but it ends
    }
}
