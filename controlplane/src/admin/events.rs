//! `/events`: what changed, as a list or live.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::Shared;
use super::answer::made;
use super::problem::Problem;
use crate::events::{self, Follower, Heard, KEPT, Subject};
use crate::node::Refusal;
use crate::report::Event;

/// How many may follow at once.
const FOLLOWERS: usize = 32;
/// How many events wait for one of them, besides those that are kept anyway.
const WAITING: usize = 16;
/// How long somebody who follows may take to read what waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often somebody who follows hears that the connection still stands.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Room for those who follow.
#[derive(Clone)]
pub struct Seats(Arc<Semaphore>);

impl Default for Seats {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(FOLLOWERS)))
    }
}

/// Which events are asked for.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// Of this virtual service and its servers.
    service: Option<String>,
    /// Of this real server of that service.
    server: Option<String>,
    /// With a higher number than this; live, from there on.
    after: Option<u64>,
    /// How many at most, the newest; not for those that come live.
    #[param(minimum = 1, maximum = 10_000, default = 100)]
    limit: Option<u32>,
}

/// What changed, newest first. With `Accept: text/event-stream` the answer does not end: each event is sent
/// as it comes, oldest first, with its number as `id`. Who comes back with `Last-Event-ID` (or `after`) gets
/// what he missed as far as it is kept, and an event `missed` says how many are not.
#[utoipa::path(
    get, path = "/events", tag = "state",
    params(Wanted, ("Last-Event-ID" = Option<u64>, Header, description = "the last `id` that was seen")),
    responses(
        (status = 200, content(
            (Vec<Event> = "application/json"),
            (String = "text/event-stream", example = "id: 17\ndata: {\"number\":17}\n\n"),
        )),
        (status = 400, description = "the question makes no sense", body = Problem),
        (status = 429, description = "too many follow already", body = Problem),
    ),
)]
pub async fn list(
    State(node): Shared,
    Extension(seats): Extension<Seats>,
    wanted: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let Query(wanted) = wanted.map_err(|rejection| bad(rejection.body_text()))?;
    if wanted.server.is_some() && wanted.service.is_none() {
        return Err(bad("server: expected service as well: a server is named within one".into()));
    }
    if is_live(&headers) {
        return live(node.events(), seats, wanted, &headers);
    }
    let limit = wanted.limit.unwrap_or(100);
    if !(1..=KEPT as u32).contains(&limit) {
        return Err(bad(format!("limit: expected a number from 1 to {KEPT}, found {limit}")));
    }
    let newest = node.events().newest(KEPT);
    let answer = made(move || {
        let after = wanted.after.unwrap_or_default();
        let newer = newest.iter().take_while(|event| event.number > after);
        let asked = newer.filter(|event| wanted.holds(event)).take(limit as usize);
        Ok(asked.map(|event| Event::from(&**event)).collect::<Vec<_>>())
    });
    Ok(answer.await?.into_response())
}

impl Wanted {
    fn holds(&self, event: &events::Event) -> bool {
        let (service, server) = match &event.change.subject {
            Subject::Server { service, server } => (Some(service), Some(server)),
            Subject::Service { service } => (Some(service), None),
            _ => (None, None),
        };
        let is = |wanted: &Option<String>, found| wanted.is_none() || wanted.as_ref() == found;
        is(&self.service, service) && is(&self.server, server)
    }
}

fn is_live(headers: &HeaderMap) -> bool {
    let kinds = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = kinds.flat_map(|value| value.split(','));
    kinds.any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/event-stream")
    })
}

fn live(
    events: &events::Events,
    seats: Seats,
    wanted: Wanted,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let seat = seats.0.try_acquire_owned().map_err(|_| Refusal::Busy)?;
    let last = match headers.get("last-event-id") {
        None => wanted.after,
        Some(value) => {
            let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
            let expected = "Last-Event-ID: expected the number of an event";
            Some(number.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, expected))?)
        }
    };
    let follower = match last {
        None => events.follow(),
        Some(number) => events.follow_after(number),
    };
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(hand_on(follower, wanted, sender, seat));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(keep_alive).into_response())
}

/// Until the other end has gone, or reads no more.
async fn hand_on(
    mut follower: Follower,
    wanted: Wanted,
    sender: mpsc::Sender<Result<sse::Event, Infallible>>,
    _seat: OwnedSemaphorePermit,
) {
    loop {
        let Heard { missed, event } = tokio::select! {
            heard = follower.next() => heard,
            () = sender.closed() => return,
        };
        let mut told = Vec::new();
        if missed > 0 {
            let lost = json!({ "missed": missed }).to_string();
            told.push(sse::Event::default().event("missed").data(lost));
        }
        if wanted.holds(&event) {
            let Ok(json) = serde_json::to_string(&Event::from(&*event)) else { return };
            told.push(sse::Event::default().id(event.number.to_string()).data(json));
        }
        for event in told {
            match timeout(PATIENCE, sender.send(Ok(event))).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    }
}
