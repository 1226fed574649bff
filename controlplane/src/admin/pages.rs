//! `/pages`: what answers in place of a service's servers when all of them have failed, as the operator wrote it.

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::answer::{Json, made};
use super::body::Html;
use super::problem::Problem;
use crate::config::is_page;
use crate::field::Invalid;
use crate::node::{Refusal, helped};
use crate::pages::files::Page;

/// The operator's pages, by name.
#[utoipa::path(get, path = "/pages", tag = "pages", responses((status = 200, body = Vec<Page>)))]
pub async fn list(State(node): Shared) -> Result<Json, Problem> {
    let pages = node.pages().clone();
    made(move || pages.list()).await
}

/// A page's text.
#[utoipa::path(
    get, path = "/pages/{name}", tag = "pages",
    responses(
        (status = 200, body = String, content_type = "text/html"),
        (status = 404, body = Problem),
    ),
)]
pub async fn read(State(node): Shared, Path(name): Path<String>) -> Result<Response, Problem> {
    let pages = node.pages().clone();
    let text = helped(move || match pages.find(&name)? {
        Some(_) => pages.read(&name),
        None => Err(Refusal::NotFound(format!("page {name}"))),
    });
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    // A browser that knows the token must not run what stands in it.
    let harmless = HeaderValue::from_static("sandbox; default-src 'none'");
    let headers = [(header::CONTENT_TYPE, html), (header::CONTENT_SECURITY_POLICY, harmless)];
    Ok((headers, text.await?).into_response())
}

/// Writes a page, UTF-8 of at most 1 MiB, instead of the one of that name that there may have been. Where it answers
/// already, the new one answers from now on.
#[utoipa::path(
    put, path = "/pages/{name}", tag = "pages",
    request_body(content = String, content_type = "text/html"),
    responses(
        (status = 200, description = "replaced", body = Page),
        (status = 201, description = "added", body = Page),
        (status = 409, description = "there are 256 already", body = Problem),
        (status = 413, description = "longer than 1 MiB", body = Problem),
        (status = 422, description = "no page can have this name", body = Problem),
    ),
)]
pub async fn replace(
    State(node): Shared,
    Path(name): Path<String>,
    Html(text): Html,
) -> Result<Response, Problem> {
    if !is_page(&name) {
        let (path, found) = ("name".into(), format!("{name:.80?}"));
        let expected = "a name for a page, such as \"sorry.html\"".into();
        return Err(Refusal::Invalid(vec![Invalid { path, expected, found }]).into());
    }
    let (page, is_new) = node.put_page(name, text).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, axum::Json(page)).into_response())
}

/// Removes a page that no service names.
#[utoipa::path(
    delete, path = "/pages/{name}", tag = "pages",
    responses(
        (status = 204, description = "removed"),
        (status = 404, body = Problem),
        (status = 409, description = "a service names it", body = Problem),
    ),
)]
pub async fn remove(State(node): Shared, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    node.remove_page(name).await?;
    Ok(StatusCode::NO_CONTENT)
}
