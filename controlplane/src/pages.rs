//! The page that answers in place of a service's servers when all of them have failed (ST-06, ST-07): HTTP/1 on the
//! virtual address itself, over the stack on the data ports. GET and HEAD alone, one request a connection, and a
//! bounded number of those: who comes here is anybody (ST-10). One listener has a whole range of ports. [`files`] are the operator's own pages.

pub mod files;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use crate::config::{self, Fallback, Protocol};
use crate::net::Listener as _;
use crate::net::in_band::{InBand, Listener};
use crate::node::Node;
use crate::pages::files::Pages;

/// How often it is looked which services need their page.
const LOOK: Duration = Duration::from_millis(50);
/// Connections at once, on all pages together.
const CONNECTIONS: usize = 256;
/// How many places of all services can have a page at once.
const MOST_PLACES: usize = 4096;
/// How long a request may be, in bytes.
const LONGEST_REQUEST: usize = 8192;
/// How long a client may take for its request, and for the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What says that a service is not available, unless the operator says it otherwise.
const BUILT_IN: &str = "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
<title>Not available</title></head>\n<body><h1>Not available</h1>\n\
<p>This service is not available at the moment. Please try again in a few minutes.</p></body>\n</html>\n";

/// Where a page is served: at an address, from one port to another.
type Place = (IpAddr, u16, u16);

/// A page's name; `None` is the built-in one.
type Name = Option<String>;

/// A page as it is sent.
type Body = Arc<[u8]>;

/// Serves the pages of the services that need theirs, for as long as it is polled.
pub async fn serve(node: Arc<Node>) {
    let mut serving = Serving::default();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = None;
    loop {
        looks.tick().await;
        // States are ahead of the configuration that they follow.
        let (states, written, view) =
            (node.states().version(), node.pages().version(), node.view());
        let are_others = looked.as_ref().is_none_or(|(_, before, _)| *before != written);
        let are_same = looked.as_ref().is_some_and(|(before, _, under)| {
            *before == states && !are_others && Arc::ptr_eq(under, &view)
        });
        if are_same {
            continue;
        }
        let Some(falling_back) = node.states().falling_back() else { continue };
        if are_others {
            serving.bodies.clear();
        }
        let services = view.services().filter(|service| falling_back.contains(&service.id));
        let wanted = Wanted::of(services.map(|service| service.config));
        serving.follow(&node.net(), node.pages(), wanted).await;
        looked = Some((states, written, view));
    }
}

/// Where pages are to be served, and which, and of which services.
#[derive(Default)]
struct Wanted<'c> {
    places: HashMap<Place, (&'c Name, &'c str)>,
    /// The first service that has no page at some place, because there are too many.
    left_out: Option<&'c str>,
}

impl<'c> Wanted<'c> {
    fn of(services: impl Iterator<Item = &'c config::Service>) -> Self {
        let mut wanted = Self::default();
        for service in services.filter(|service| service.protocol != Protocol::Udp) {
            let Fallback::Page(page) = &service.fallback else { continue };
            for address in service.each_address() {
                for (first, last) in service.ports.ranges() {
                    if wanted.places.len() >= MOST_PLACES {
                        wanted.left_out = Some(&service.name);
                        return wanted;
                    }
                    wanted.places.insert((address.ip(), first, last), (page, &service.name));
                }
            }
        }
        wanted
    }
}

/// A place that is served.
struct Served {
    body: watch::Sender<Body>,
    task: JoinHandle<()>,
}

/// All that is served.
struct Serving {
    seats: Arc<Semaphore>,
    open: HashMap<Place, Served>,
    /// The pages in use, once each.
    bodies: HashMap<Name, Body>,
    has_left_out: bool,
}

impl Default for Serving {
    fn default() -> Self {
        let seats = Arc::new(Semaphore::new(CONNECTIONS));
        Self { seats, open: HashMap::new(), bodies: HashMap::new(), has_left_out: false }
    }
}

impl Serving {
    async fn follow(&mut self, net: &InBand, pages: &Pages, wanted: Wanted<'_>) {
        let Wanted { places, left_out } = wanted;
        let gone: Vec<_> = self.open.extract_if(|place, _| !places.contains_key(place)).collect();
        gone.iter().for_each(|(_, served)| served.task.abort());
        // Until they have ended, nobody else can listen on their ports.
        for (_, served) in gone {
            let _ = served.task.await;
        }
        self.bodies.retain(|page, _| places.values().any(|(wanted, _)| *wanted == page));
        let (mut begun, mut refused) = (BTreeSet::new(), BTreeMap::new());
        for (place, (page, service)) in places {
            let body = match self.bodies.get(page) {
                Some(body) => Arc::clone(body),
                None => read(pages, page.clone()).await,
            };
            self.bodies.entry(page.clone()).or_insert_with(|| Arc::clone(&body));
            if let Some(served) = self.open.get(&place) {
                served.body.send_replace(body);
                continue;
            }
            match begin(net, place, body, &self.seats) {
                Ok(served) => {
                    self.open.insert(place, served);
                    begun.insert(service);
                }
                Err(error) => _ = refused.entry(service).or_insert((place, error)),
            }
        }
        for service in begun {
            info!("service {service}: its page answers");
        }
        for (service, ((address, first, last), error)) in refused {
            warn!("service {service}: no page at {address}, ports {first} to {last}: {error}");
        }
        let had_left_out = std::mem::replace(&mut self.has_left_out, left_out.is_some());
        if let Some(service) = left_out.filter(|_| !had_left_out) {
            warn!(
                "service {service}, and maybe others, have no page everywhere: there are too many"
            );
        }
    }
}

/// The operator's page of this name, or the built-in one.
async fn read(pages: &Pages, page: Name) -> Body {
    let Some(name) = page else { return BUILT_IN.as_bytes().into() };
    let pages = pages.clone();
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
    (address, first, last): Place,
    body: Body,
    seats: &Arc<Semaphore>,
) -> io::Result<Served> {
    let listener = net.listen_on(Some(address), first..=last)?;
    let (body, shown) = watch::channel(body);
    let task = tokio::spawn(accept(listener, shown, Arc::clone(seats)));
    Ok(Served { body, task })
}

async fn accept(listener: Listener, shown: watch::Receiver<Body>, seats: Arc<Semaphore>) {
    loop {
        // In this order: a place where nobody comes needs no seat.
        let Ok((stream, _)) = listener.accept().await else { return };
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let body = Arc::clone(&shown.borrow());
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, answer(stream, &body)).await; // nobody else is to be told
            drop(seat);
        });
    }
}

/// Hears one request and answers it.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, body: &[u8]) -> io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !is_whole(&request) && request.len() < LONGEST_REQUEST {
        match stream.read(&mut piece).await? {
            0 => break,
            length => request.extend_from_slice(&piece[..length]),
        }
    }
    let (head, body) = reply(&request, body);
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.shutdown().await?;
    // What is not read by the other end before it resets would be lost to it.
    while stream.read(&mut piece).await? > 0 {}
    Ok(())
}

fn is_whole(request: &[u8]) -> bool {
    request.windows(4).any(|four| four == b"\r\n\r\n")
}

/// 503 with the page, head and body; to anything but GET and HEAD an error.
fn reply<'b>(request: &[u8], body: &'b [u8]) -> (String, &'b [u8]) {
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
    (head, if says { body } else { b"" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Config;
    use crate::net::in_band::Stack;

    fn said(request: &str) -> String {
        let (head, body) = reply(request.as_bytes(), b"<p>sorry</p>");
        head + std::str::from_utf8(body).unwrap()
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

    /// Where each of these services, which have all failed, has its page: addresses with ports and page.
    fn services(written: &[(&str, &str, &str)]) -> Vec<config::Service> {
        let service = |(number, (addresses, ports, page)): (usize, &(&str, &str, &str))| {
            let addresses: Vec<_> = addresses.split(' ').collect();
            json!({
                "name": format!("s{number}"), "addresses": addresses, "ports": ports, "mode": "nat",
                "fallback": if page.is_empty() { json!("page") } else { json!({ "page": page }) },
            })
        };
        let services: Vec<_> = written.iter().enumerate().map(service).collect();
        let wan = json!({ "name": "wan", "device": "kernel:wan", "addresses": ["10.9.0.2/8", "192.0.2.2/24"] });
        let document = json!({ "interface": [wan], "service": services });
        Config::read(&document).unwrap_or_else(|told| panic!("{told:?}")).services
    }

    struct Rig {
        directory: tempfile::TempDir,
        net: InBand,
        serving: Serving,
    }

    impl Rig {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let net = Stack::new([1; 16]).into();
            Self { directory, net, serving: Serving::default() }
        }

        async fn follow(&mut self, services: &[config::Service]) {
            let pages = Pages::new(self.directory.path());
            pages.write("x", b"the page x").unwrap();
            self.serving.follow(&self.net, &pages, Wanted::of(services.iter())).await;
            tokio::task::yield_now().await;
        }

        fn body(&self, address: &str, first: u16, last: u16) -> Option<Body> {
            let place = (address.parse().unwrap(), first, last);
            Some(Arc::clone(&self.serving.open.get(&place)?.body.borrow()))
        }

        fn is_free(&self, address: &str, port: u16) -> bool {
            self.net.listen_on(Some(address.parse().unwrap()), port..=port).is_ok()
        }
    }

    #[tokio::test]
    async fn another_page_or_other_ports_take_the_place_of_what_was_there() {
        let mut rig = Rig::new();
        rig.follow(&services(&[("192.0.2.1", "80", "x")])).await;
        assert_eq!(&*rig.body("192.0.2.1", 80, 80).unwrap(), b"the page x");
        rig.follow(&services(&[("192.0.2.1", "80", "")])).await;
        assert_eq!(&*rig.body("192.0.2.1", 80, 80).unwrap(), BUILT_IN.as_bytes());
        assert!(rig.serving.bodies.len() == 1 && !rig.is_free("192.0.2.1", 80));
        rig.follow(&services(&[("192.0.2.1", "79-90", "x")])).await;
        assert_eq!(&*rig.body("192.0.2.1", 79, 90).unwrap(), b"the page x");
        assert!(rig.serving.open.len() == 1 && !rig.is_free("192.0.2.1", 85));
        rig.follow(&[]).await;
        assert!(rig.is_free("192.0.2.1", 85) && rig.serving.bodies.is_empty());
    }

    /// Nobody who waits costs a seat, and a page is in memory once.
    #[tokio::test]
    async fn pages_on_all_ports_of_many_addresses_cost_little() {
        let mut rig = Rig::new();
        let all = services(&[
            ("10.1.0.0/24 10.1.1.0/24 10.1.2.0/24 10.1.3.0/24", "*", "x"),
            ("10.2.0.0/24", "1-1000,2000,3000-4000", "x"),
        ]);
        rig.follow(&all[1..]).await;
        let before = rig.body("10.2.0.255", 2000, 2000).unwrap();
        rig.follow(&all).await;
        assert_eq!(rig.serving.open.len(), 1024 + 3 * 256);
        assert!(!rig.serving.has_left_out);
        assert!(Arc::ptr_eq(&before, &rig.body("10.1.3.255", 1, 65_535).unwrap()));
        assert_eq!(rig.serving.seats.available_permits(), CONNECTIONS);
    }

    #[tokio::test]
    async fn there_are_no_more_than_so_many() {
        let mut rig = Rig::new();
        let addresses: Vec<_> = (0..4).map(|number| format!("10.1.{number}.0/24")).collect();
        rig.follow(&services(&[(&addresses.join(" "), "1,3,5,7,9", "x")])).await;
        assert!(rig.serving.open.len() == MOST_PLACES && rig.serving.has_left_out);
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
