//! `/config`: the whole configuration.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;

use super::Shared;
use super::answer::{Json, made, tagged};
use super::body::Written;
use super::problem::Problem;
use crate::document::Configuration;
use crate::node::{Guard, View};
use crate::report::Verdict;

/// The configuration, with every default made explicit.
#[utoipa::path(
    get, path = "/config", tag = "configuration",
    responses((status = 200, body = Configuration, headers(("ETag" = String)))),
)]
pub async fn read(State(node): Shared) -> Response {
    whole(&node.view())
}

/// Replaces the configuration. Nothing is applied when anything is refused.
#[utoipa::path(
    put, path = "/config", tag = "configuration",
    params(("If-Match" = Option<String>, Header, description = "the ETag last read")),
    request_body(content((Configuration = "application/json"), (String = "application/toml"))),
    responses(
        (status = 200, description = "taken up by every worker", body = Configuration),
        (status = 409, description = "cannot be taken up without a restart", body = Problem),
        (status = 412, description = "the configuration has changed meanwhile", body = Problem),
        (status = 422, description = "refused, with every mistake", body = Problem),
    ),
)]
pub async fn replace(
    State(node): Shared,
    headers: HeaderMap,
    written: Written,
) -> Result<Response, Problem> {
    let view = node.replace(guard(&headers)?, move || written.config()).await?;
    Ok(whole(&view))
}

/// Says whether a configuration would be accepted, and what it would change.
#[utoipa::path(
    post, path = "/config/validate", tag = "configuration",
    request_body(content((Configuration = "application/json"), (String = "application/toml"))),
    responses(
        (status = 200, body = Verdict),
        (status = 422, description = "refused, with every mistake", body = Problem),
    ),
)]
pub async fn validate(State(node): Shared, written: Written) -> Result<Json, Problem> {
    made(move || Ok(node.validate(&written.config()?))).await
}

fn whole(view: &View) -> Response {
    tagged(Json(view.json.clone()), view)
}

/// What the caller's `If-Match` asks for. A weak tag never matches (RFC 9110 section 8.8.3.2).
pub fn guard(headers: &HeaderMap) -> Result<Guard, Problem> {
    let mut tags = Vec::new();
    for value in headers.get_all(header::IF_MATCH) {
        let text = value.to_str().map_err(|_| {
            Problem::new(StatusCode::BAD_REQUEST, "expected If-Match to hold entity tags")
        })?;
        tags.extend(text.split(',').map(|tag| tag.trim().to_owned()));
    }
    match tags.iter().any(|tag| tag == "*") || tags.is_empty() {
        true => Ok(Guard::any()),
        false => Ok(Guard::one_of(tags)),
    }
}
