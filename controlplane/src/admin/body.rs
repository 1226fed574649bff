//! What a client sends, read within bounds of size and time.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

use super::problem::Problem;
use crate::config::Config;
use crate::field::{self, Tree};
use crate::node::Refusal;
use crate::pages::files::LARGEST;

/// The longest body that is taken, in bytes.
pub const LONGEST: usize = 16 << 20;
/// How long a client may pause within a body.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a client may take for a body.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of a body that is too long is still read and thrown away, in bytes: a client that
/// writes before it reads would otherwise see its connection cut, and never our answer.
const DRAINED: u64 = 256 << 20;

/// A whole configuration, or part of one, as a client wrote it.
#[derive(Debug)]
pub struct Written {
    kind: Kind,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Json,
    Toml,
}

impl Written {
    /// The text as a tree; what it says has not been judged yet.
    pub fn value(&self) -> Result<Value, Refusal> {
        let not = |kind, error: &dyn std::fmt::Display| {
            Refusal::Malformed(format!("the body is not {kind}: {error}"))
        };
        match self.kind {
            // Nesting beyond 128 levels is an error here, so that no recursion exhausts the stack.
            Kind::Json => serde_json::from_slice(&self.bytes)
                .map(|Tree(value)| value)
                .map_err(|error| not("JSON", &error)),
            Kind::Toml => {
                let text =
                    std::str::from_utf8(&self.bytes).map_err(|error| not("UTF-8", &error))?;
                field::tree(text).map_err(|mistake| not("TOML", &mistake))
            }
        }
    }

    /// The whole configuration that the text describes.
    pub fn config(&self) -> Result<Config, Refusal> {
        Config::read(&self.value()?).map_err(Refusal::Invalid)
    }
}

impl<S: Send + Sync> FromRequest<S> for Written {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let kind = kind(&parts.headers)?;
        let bytes = read(body, LONGEST, parts.headers.contains_key(header::EXPECT)).await?;
        Ok(Self { kind, bytes })
    }
}

/// A page of the operator's.
#[derive(Debug)]
pub struct Html(pub Vec<u8>);

impl<S: Send + Sync> FromRequest<S> for Html {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        if essence(&parts.headers) != "text/html" {
            return Err(unsupported("text/html", &parts.headers));
        }
        let bytes = read(body, LARGEST, parts.headers.contains_key(header::EXPECT)).await?;
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Self(bytes)),
            Err(error) => {
                let detail = format!("the body is not UTF-8, as pages are: {error}");
                Err(Problem::new(StatusCode::BAD_REQUEST, detail))
            }
        }
    }
}

fn kind(headers: &HeaderMap) -> Result<Kind, Problem> {
    match essence(headers).as_str() {
        "application/json" | "application/merge-patch+json" => Ok(Kind::Json),
        "application/toml" => Ok(Kind::Toml),
        _ => Err(unsupported("application/json or application/toml", headers)),
    }
}

/// The type of the content without its parameters.
fn essence(headers: &HeaderMap) -> String {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    given.unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

fn unsupported(expected: &str, headers: &HeaderMap) -> Problem {
    let given = headers.get(header::CONTENT_TYPE);
    let found = given.map_or_else(|| "none".into(), |given| format!("{given:?}"));
    let detail = format!("expected content of type {expected}, found {found}");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
}

/// The whole body, of so many bytes at most. `asks_first`: the client waits for our word before it sends anything.
async fn read(mut body: Body, longest: usize, asks_first: bool) -> Result<Vec<u8>, Problem> {
    let announced = body.size_hint().lower();
    if announced > longest as u64 {
        if !asks_first && announced <= DRAINED {
            drain(body);
        }
        return Err(too_large(longest));
    }
    let late = || Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive");
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = Vec::with_capacity(announced as usize);
    loop {
        let next = timeout_at(deadline, timeout(PAUSE, body.frame())).await;
        let Ok(Ok(next)) = next else { return Err(late()) };
        let Some(frame) = next else { return Ok(bytes) };
        let frame = frame.map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue }; // trailers say nothing to us
        if bytes.len() + data.len() > longest {
            drain(body);
            return Err(too_large(longest));
        }
        bytes.extend_from_slice(&data);
    }
}

fn too_large(longest: usize) -> Problem {
    let detail = format!("the body is longer than {} MiB", longest >> 20);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

/// Reads on in the background, within bounds, and keeps nothing.
fn drain(mut body: Body) {
    let all = async move {
        let mut left = DRAINED;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(rest) = left.checked_sub(length) else { return };
            left = rest;
        }
    };
    tokio::spawn(timeout(PAUSE, all));
}
