//! Answers. Those that may be large are made on a helper thread, so that the control thread has
//! nothing to do but to send them.

use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::problem::Problem;
use crate::node::{Refusal, View, helped};

/// JSON as it is sent.
pub struct Json(pub Bytes);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, json)], self.0).into_response()
    }
}

/// What `work` gives, as JSON.
///
/// # Errors
///
/// Those of `work`.
pub async fn made<T: Serialize>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<Json, Problem> {
    let json = helped(move || serde_json::to_vec(&work()?).map_err(|_| Refusal::Failed)).await?;
    Ok(Json(json.into()))
}

/// An answer that carries the configuration's entity tag.
pub fn tagged(answer: impl IntoResponse, view: &View) -> Response {
    let mut response = answer.into_response();
    if let Ok(etag) = HeaderValue::from_str(&view.etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}
