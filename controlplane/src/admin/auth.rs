//! Who may do what. The Unix socket is root's and needs no token; everybody else shows one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, Digest, SHA256};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tracing::info;

use super::problem::Problem;
use crate::random;
use crate::store::{self, Store};

/// The token that the first start leaves for the operator.
pub const TOKEN: &str = "admin.token";

/// What needs no login: whether the node is well, and the description of the API, which is the
/// same for every node.
const OPEN: &[&str] = &["/healthz", "/readyz", "/api/openapi.json"];
const OPEN_PAGE: &str = "/api/docs";

/// Who is at the other end of a connection.
#[derive(Clone)]
pub struct Caller {
    /// Root, on the Unix socket.
    pub root: bool,
    /// Raised once the caller has shown who it is.
    pub known: Arc<AtomicBool>,
}

/// The tokens that are good. Only digests are kept, so that a comparison says nothing about how
/// much of a guess was right.
#[derive(Clone)]
pub struct Tokens(Arc<Vec<Digest>>);

impl Tokens {
    /// The one token there is, made at the first start and kept from then on (role `conf`).
    ///
    /// # Errors
    ///
    /// When it can be neither read nor kept.
    pub fn of(store: &Store) -> Result<Self, store::Error> {
        let kept = store.read(TOKEN)?.map(|bytes| bytes.trim_ascii().to_vec());
        let token = match kept.filter(|token| !token.is_empty()) {
            Some(token) => token,
            None => {
                let token = store::hexadecimal(&random::<32>());
                store.write(TOKEN, format!("{token}\n").as_bytes())?;
                token.into_bytes()
            }
        };
        info!("the token for the admin API is in {}", store.path(TOKEN).display());
        Ok(Self(Arc::new(vec![digest::digest(&SHA256, &token)])))
    }

    fn holds(&self, token: &str) -> bool {
        let shown = digest::digest(&SHA256, token.as_bytes());
        let good = |token: &Digest| verify_slices_are_equal(token.as_ref(), shown.as_ref()).is_ok();
        self.0.iter().any(good)
    }
}

/// Lets a request through if its caller may make it.
pub async fn guard(State(tokens): State<Tokens>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = OPEN.contains(&path)
        || path
            .strip_prefix(OPEN_PAGE)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let caller = request.extensions().get::<Caller>().cloned();
    let known = caller.as_ref().is_some_and(|caller| caller.root)
        || bearer(request.headers()).is_some_and(|token| tokens.holds(token));
    if let Some(caller) = caller.filter(|_| known) {
        caller.known.store(true, Ordering::Relaxed);
    }
    if open || known {
        return next.run(request).await;
    }
    let detail = format!(
        "expected a header \"Authorization: Bearer TOKEN\" with the token from {TOKEN} in the \
         node's state directory, found {}",
        if request.headers().contains_key(header::AUTHORIZATION) { "another" } else { "none" }
    );
    Problem::new(StatusCode::UNAUTHORIZED, detail).into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
