//! What the node says about itself now: status, counters, flows, neighbours, interfaces, routes.

use std::net::IpAddr;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Shared;
use super::answer::{Json, made};
use super::metrics;
use super::problem::Problem;
use crate::node::helped;
use crate::report::{Counters, FlowQuestion, Flows, Interface, NatRule, Neighbour, Route, Status};

/// The node, its interfaces, and every service and server with what it carries.
#[utoipa::path(get, path = "/status", tag = "state", responses((status = 200, body = Status)))]
pub async fn status(State(node): Shared) -> Result<Json, Problem> {
    made(move || Ok(node.status())).await
}

/// Where every frame went.
#[utoipa::path(get, path = "/counters", tag = "state", responses((status = 200, body = Counters)))]
pub async fn counters(State(node): Shared) -> Result<Json, Problem> {
    made(move || Ok(node.counters())).await
}

/// Which flows are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// Of this virtual service.
    service: Option<String>,
    /// At this real server of that service.
    server: Option<String>,
    /// From this client.
    #[param(value_type = Option<String>)]
    client: Option<IpAddr>,
    /// How many at most.
    #[param(minimum = 1, maximum = 10_000, default = 100)]
    limit: Option<u32>,
}

/// Current connections.
#[utoipa::path(
    get, path = "/flows", tag = "state", params(Wanted),
    responses(
        (status = 200, body = Flows),
        (status = 404, description = "no such service or server", body = Problem),
        (status = 429, description = "too many such requests at once", body = Problem),
    ),
)]
pub async fn flows(
    State(node): Shared,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Result<Json, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let Query(wanted) = wanted.map_err(|rejection| bad(rejection.body_text()))?;
    let limit = wanted.limit.unwrap_or(100);
    if !(1..=10_000).contains(&limit) {
        return Err(bad(format!("limit: expected a number from 1 to 10000, found {limit}")));
    }
    if wanted.server.is_some() && wanted.service.is_none() {
        return Err(bad("server: expected service as well: a server is named within one".into()));
    }
    let Wanted { service, server, client, .. } = wanted;
    let listed = node.flows(FlowQuestion { service, server, client, limit }).await?;
    made(move || Ok(listed.report())).await
}

/// The stations on our subnets.
#[utoipa::path(
    get, path = "/neighbours", tag = "state",
    responses((status = 200, body = Vec<Neighbour>)),
)]
pub async fn neighbours(State(node): Shared) -> Result<Json, Problem> {
    made(move || Ok(node.neighbours())).await
}

/// The interfaces, with what their cards say.
#[utoipa::path(
    get, path = "/interfaces", tag = "state",
    responses((status = 200, body = Vec<Interface>)),
)]
pub async fn interfaces(State(node): Shared) -> Result<Json, Problem> {
    made(move || Ok(node.interfaces())).await
}

/// The ways out, the longest prefix first.
#[utoipa::path(get, path = "/routes", tag = "state", responses((status = 200, body = Vec<Route>)))]
pub async fn routes(State(node): Shared) -> Result<Json, Problem> {
    made(move || Ok(node.routes())).await
}

/// The rules of translation in effect, in the order in which they are looked up.
#[utoipa::path(
    get, path = "/nat/rules", tag = "state",
    responses((status = 200, body = Vec<NatRule>)),
)]
pub async fn nat_rules(State(node): Shared) -> Result<Json, Problem> {
    made(move || Ok(node.nat_rules())).await
}

/// For Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "state",
    responses((status = 200, body = String, content_type = "text/plain; version=0.0.4")),
)]
pub async fn prometheus(State(node): Shared) -> Result<impl IntoResponse, Problem> {
    let text = helped(move || Ok(metrics::text(&node))).await?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

/// Whether the control plane lives.
#[utoipa::path(get, path = "/healthz", tag = "state", responses((status = 200, body = String)))]
pub async fn alive() -> &'static str {
    "alive\n"
}

/// Whether every worker forwards by the newest configuration.
#[utoipa::path(
    get, path = "/readyz", tag = "state",
    responses((status = 200, body = String), (status = 503, body = Problem)),
)]
pub async fn ready(State(node): Shared) -> Result<&'static str, Problem> {
    if node.is_ready() {
        return Ok("ready\n");
    }
    let detail = "a worker has not taken up the newest configuration yet";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
}
