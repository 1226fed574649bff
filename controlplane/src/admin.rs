//! The admin API: one file per resource, one function per route.
//!
//! 1. [`listen`]: who connects, over TLS with the [`certificate`] or over root's Unix socket
//! 2. [`auth`]: who may ask
//! 3. [`body`]: what is sent, within bounds
//! 4. [`configuration`], [`services`], [`pages`], [`observe`], [`events`], [`explain`], [`metrics`]: the routes
//! 5. [`answer`]: what is sent back, and [`problem`]: every refusal

pub mod listen;

pub mod certificate;

pub mod auth;

mod body;

mod answer;

mod configuration;

mod services;

mod observe;

mod pages;

mod events;

mod explain;

mod metrics;

pub mod problem;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::middleware;
use axum::{Extension, Router};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use self::auth::Tokens;
use self::problem::Problem;
use crate::node::Node;

/// The node, as every route gets it.
type Shared = State<Arc<Node>>;

#[derive(OpenApi)]
#[openapi(
    info(title = "Sluice", description = "The admin API of a Sluice node."),
    components(schemas(Problem)),
    security(("token" = [])),
    modifiers(&Login),
)]
struct Description;

struct Login;

impl Modify for Login {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        description.info.license = None; // an empty one is made up where none is given
        let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", token);
    }
}

/// Every route, its description and the page to try it.
pub fn router(node: Arc<Node>, tokens: Tokens) -> Router {
    let (router, description) = described().split_for_parts();
    // The page must not ask anybody else's server whether the description is valid.
    let page = utoipa_swagger_ui::Config::default().validator_url("none");
    router
        .merge(SwaggerUi::new("/api/docs").url("/api/openapi.json", description).config(page))
        .fallback(async |uri: Uri| Problem::not_found(uri.path()))
        .method_not_allowed_fallback(async |uri: Uri| {
            let detail = format!("{} does not take this method", uri.path());
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        })
        .layer(Extension(events::Seats::default()))
        .layer(middleware::from_fn_with_state(tokens, auth::guard))
        .with_state(node)
}

fn described() -> OpenApiRouter<Arc<Node>> {
    let version_1 = OpenApiRouter::new()
        .routes(routes!(configuration::read, configuration::replace))
        .routes(routes!(configuration::validate))
        .routes(routes!(services::list, services::add))
        .routes(routes!(services::read, services::replace, services::change, services::remove))
        .routes(routes!(services::list_servers, services::add_server))
        .routes(routes!(
            services::read_server,
            services::replace_server,
            services::change_server,
            services::remove_server
        ))
        .routes(routes!(services::drain))
        .routes(routes!(services::halt))
        .routes(routes!(services::online))
        .routes(routes!(pages::list))
        .routes(routes!(pages::read, pages::replace, pages::remove))
        .routes(routes!(observe::status))
        .routes(routes!(observe::counters))
        .routes(routes!(observe::flows))
        .routes(routes!(events::list))
        .routes(routes!(explain::explain))
        .routes(routes!(observe::neighbours))
        .routes(routes!(observe::interfaces))
        .routes(routes!(observe::routes))
        .routes(routes!(observe::nat_rules));
    OpenApiRouter::with_openapi(Description::openapi())
        .nest("/api/v1", version_1)
        .routes(routes!(observe::prometheus))
        .routes(routes!(observe::alive))
        .routes(routes!(observe::ready))
}
