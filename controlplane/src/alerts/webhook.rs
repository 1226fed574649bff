//! Each event as JSON to an HTTP server: in order, one at a time, again and again until it is taken.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{self, AsyncReadExt as _};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::reach::{Networks, encrypted};
use super::{Failure, Pace, Tally, is_about};
use crate::config::Via;
use crate::config::alerts::{Host, Secret, Url, Webhook};
use crate::events::{Event, Follower, Heard};
use crate::node::{Node, View};
use crate::report::Notice;
use crate::store;

/// How much of an answer is read, in bytes: its head, and what may go before it. Interim answers (RFC 9110
/// section 15.2) are read without a pause, so that without a bound they would hold up the control thread.
const MOST_HEARD: u64 = 64 << 10;

/// Sends what `follower` hears to the receiver with that URL, for ever.
pub(super) async fn follow(
    node: Arc<Node>,
    networks: Networks,
    pace: Pace,
    url: Url,
    mut follower: Follower,
) {
    loop {
        let Heard { missed, event } = follower.next().await;
        let tally = &node.alerts().webhook;
        if missed > 0 {
            warn!("{url}: {missed} events were lost: they came faster than they were taken");
            Tally::add(&tally.lost, missed);
        }
        let mut pause = pace.pause;
        let mut attempts = 0;
        // Settings are looked up every time: they may have been mended meanwhile.
        while let Some((via, webhook)) = receiver(&node.view(), &url) {
            if !is_about(&webhook.about, &event.change.subject) {
                break;
            }
            let body = body(&event, &node.view());
            match deliver(&networks, via, &webhook, &body, event.number).await {
                Ok(()) => {
                    Tally::add(&tally.sent, 1);
                    break;
                }
                Err(Failure { reason, is_final }) => {
                    Tally::add(&tally.failed, 1);
                    attempts += 1;
                    if is_final || attempts > webhook.retries {
                        let number = event.number;
                        warn!("event {number} was not taken, and is lost: {reason}");
                        Tally::add(&tally.lost, 1);
                        break;
                    }
                    warn!("event {} was not taken, and is sent again: {reason}", event.number);
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(pace.longest_pause);
        }
    }
}

fn receiver(view: &View, url: &Url) -> Option<(Via, Webhook)> {
    let alerts = &view.config.alerts;
    let webhook = alerts.webhooks.iter().find(|webhook| webhook.url == *url)?;
    Some((alerts.via, webhook.clone()))
}

/// An event as it is sent.
pub(crate) fn body(event: &Event, view: &View) -> Bytes {
    let notice = Notice::of(event, view);
    serde_json::to_vec(&notice).expect("a notice has string keys only").into()
}

/// Sends an event once.
///
/// # Errors
///
/// When it was not taken, or nobody says whether it was.
pub async fn deliver(
    networks: &Networks,
    via: Via,
    webhook: &Webhook,
    body: &Bytes,
    number: u64,
) -> Result<(), Failure> {
    let patience = Duration::from_secs(webhook.timeout.into());
    let sent = timeout(patience, send(networks, via, webhook, body, number)).await;
    let late = || format!("{}: no answer within {} s", webhook.url, webhook.timeout);
    let status = sent.unwrap_or_else(|_| Err(Failure::passing(late())))?;
    if status.is_success() {
        return Ok(());
    }
    let reason = format!("{}: it answered {}", webhook.url, status.as_u16());
    let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
    match status.is_server_error() || busy.contains(&status) {
        true => Err(Failure::passing(reason)),
        false => Err(Failure::last(reason)),
    }
}

async fn send(
    networks: &Networks,
    via: Via,
    webhook: &Webhook,
    body: &Bytes,
    number: u64,
) -> Result<StatusCode, Failure> {
    let url = &webhook.url;
    let within = Duration::from_secs(webhook.timeout.into());
    let connected = networks.connect(via, &url.host, within).await;
    let mut stream = connected.map_err(Failure::passing)?.stream;
    if url.is_tls {
        let agreed = encrypted(stream, &url.host, &webhook.trust).await;
        stream = agreed.map_err(Failure::passing)?;
    }
    let (reader, writer) = io::split(stream);
    let stream = io::join(reader.take(MOST_HEARD), writer);
    let broken = |error: hyper::Error| Failure::passing(format!("{url}: {error}"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = request(webhook, body, number)
        .map_err(|error| Failure::last(format!("{url}: the request cannot be written: {error}")))?;
    // Both are polled here, so that nothing is left running when time is up.
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = answer.as_mut() => answer,
        _ = connection => answer.await, // it may have ended with the answer
    };
    answer.map(|answer| answer.status()).map_err(broken)
}

fn request(
    webhook: &Webhook,
    body: &Bytes,
    number: u64,
) -> Result<hyper::Request<Full<Bytes>>, hyper::http::Error> {
    let Url { host, path, is_tls, .. } = &webhook.url;
    let mut builder = hyper::Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, shown(host, *is_tls))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .header("sluice-event", number);
    if let Some(secret) = &webhook.secret {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let timestamp = since.unwrap_or_default().as_secs().to_string();
        let mut signature = HeaderValue::from_str(&signature(secret, &timestamp, body))?;
        signature.set_sensitive(true);
        builder = builder.header("sluice-timestamp", timestamp);
        builder = builder.header("sluice-signature", signature);
    }
    builder.body(Full::new(body.clone()))
}

/// The host as a receiver wants it in a header: without a port that goes without saying.
fn shown(host: &Host, is_tls: bool) -> String {
    let usual = if is_tls { 443 } else { 80 };
    let all = host.to_string();
    match host.port == usual {
        true => all.trim_end_matches(&format!(":{usual}")).to_owned(),
        false => all,
    }
}

/// HMAC-SHA256 over the timestamp, a full stop and the body: whoever has the secret knows that we sent it,
/// and when.
fn signature(Secret(secret): &Secret, timestamp: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(timestamp.as_bytes());
    context.update(b".");
    context.update(body);
    format!("sha256={}", store::hexadecimal(context.sign().as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_openssl_makes_of_it() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key
        let made = signature(&Secret("key".into()), "1700000000", b"{\"a\":1}");
        assert_eq!(made, "sha256=a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03");
    }

    #[test]
    fn a_port_that_goes_without_saying_is_not_said() {
        let host = |name: &str, port| Host { name: name.into(), port };
        assert_eq!(shown(&host("a.example", 443), true), "a.example");
        assert_eq!(shown(&host("a.example", 80), true), "a.example:80");
        assert_eq!(shown(&host("2001:db8::1", 80), false), "[2001:db8::1]");
    }
}
