//! `/services` and `/services/{service}/servers`: one virtual service or real server at a time.
//!
//! Each change is made to the document of the whole configuration, which is then judged as if it
//! had been sent whole, so that no rule is written twice. Mistakes are told with paths that begin
//! at the service or server that was sent.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::Shared;
use super::answer::{made, tagged};
use super::body::Written;
use super::configuration::guard;
use super::problem::Problem;
use crate::document::{Server, Service, State as Wanted};
use crate::node::{Node, Place, Refusal, View, Wish};

/// All virtual services.
#[utoipa::path(
    get, path = "/services", tag = "services",
    responses((status = 200, body = Vec<Service>)),
)]
pub async fn list(State(node): Shared) -> Result<Response, Problem> {
    let view = node.view();
    let listed = Arc::clone(&view);
    let all = made(move || Ok(listed.document.service.clone())).await?;
    Ok(tagged(all, &view))
}

/// Adds a virtual service.
#[utoipa::path(
    post, path = "/services", tag = "services", request_body = Service,
    responses(
        (status = 201, body = Service, headers(("Location" = String))),
        (status = 409, description = "the name is taken", body = Problem),
        (status = 412, description = "the configuration has changed meanwhile", body = Problem),
        (status = 422, description = "refused, with every mistake", body = Problem),
    ),
)]
pub async fn add(
    State(node): Shared,
    headers: HeaderMap,
    written: Written,
) -> Result<Response, Problem> {
    let edit = move |document: &mut Value| {
        let sent = written.value()?;
        let services = list_in(document, "service");
        taken("service", services, &sent)?;
        services.push(sent);
        Ok(Place { service: services.len() - 1, server: None })
    };
    let (view, place) = node.edit(guard(&headers)?, |_| None, edit).await?;
    let service = service_at(&view, place)?;
    Ok(created(&view, service, &format!("/api/v1/services/{}", service.name)))
}

/// One virtual service.
#[utoipa::path(
    get, path = "/services/{service}", tag = "services",
    responses((status = 200, body = Service), (status = 404, body = Problem)),
)]
pub async fn read(State(node): Shared, Path(name): Path<String>) -> Result<Response, Problem> {
    let view = node.view();
    Ok(tagged(Json(view.service(&name)?.document), &view))
}

/// Replaces a virtual service. Another name in the body renames it: a new service, to the workers.
#[utoipa::path(
    put, path = "/services/{service}", tag = "services", request_body = Service,
    responses(
        (status = 200, body = Service),
        (status = 404, body = Problem),
        (status = 412, description = "the configuration has changed meanwhile", body = Problem),
        (status = 422, description = "refused, with every mistake", body = Problem),
    ),
)]
pub async fn replace(
    State(node): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    written: Written,
) -> Result<Response, Problem> {
    let edit = move |document: &mut Value| {
        let place = place_of(document, &name, None)?;
        *at(document, place) = named(written.value()?, &name);
        Ok(place)
    };
    let (view, place) = node.edit(guard(&headers)?, |_| None, edit).await?;
    Ok(tagged(Json(service_at(&view, place)?), &view))
}

/// Changes some settings of a virtual service (RFC 7396: `null` goes back to the default).
#[utoipa::path(
    patch, path = "/services/{service}", tag = "services",
    request_body(content((Service = "application/merge-patch+json"))),
    responses(
        (status = 200, body = Service),
        (status = 404, body = Problem),
        (status = 412, description = "the configuration has changed meanwhile", body = Problem),
        (status = 422, description = "refused, with every mistake", body = Problem),
    ),
)]
pub async fn change(
    State(node): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    written: Written,
) -> Result<Response, Problem> {
    let (view, place) = patched(&node, &headers, (name, None), written).await?;
    Ok(tagged(Json(service_at(&view, place)?), &view))
}

/// Removes a virtual service with its servers.
#[utoipa::path(
    delete, path = "/services/{service}", tag = "services",
    responses(
        (status = 204, description = "removed"),
        (status = 404, body = Problem),
        (status = 412, description = "the configuration has changed meanwhile", body = Problem),
    ),
)]
pub async fn remove(
    State(node): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let edit = move |document: &mut Value| {
        let place = place_of(document, &name, None)?;
        list_in(document, "service").remove(place.service);
        Ok(place)
    };
    let (view, _) = node.edit(guard(&headers)?, |_| None, edit).await?;
    Ok(tagged(StatusCode::NO_CONTENT, &view))
}

/// The real servers of a service.
#[utoipa::path(
    get, path = "/services/{service}/servers", tag = "servers",
    responses((status = 200, body = Vec<Server>), (status = 404, body = Problem)),
)]
pub async fn list_servers(
    State(node): Shared,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let view = node.view();
    Ok(tagged(Json(&view.service(&name)?.document.server), &view))
}

/// Adds a real server.
#[utoipa::path(
    post, path = "/services/{service}/servers", tag = "servers", request_body = Server,
    responses(
        (status = 201, body = Server, headers(("Location" = String))),
        (status = 404, body = Problem),
        (status = 409, description = "the name is taken", body = Problem),
        (status = 412, description = "the configuration has changed meanwhile", body = Problem),
        (status = 422, description = "refused, with every mistake", body = Problem),
    ),
)]
pub async fn add_server(
    State(node): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    written: Written,
) -> Result<Response, Problem> {
    let service = name.clone();
    let edit = move |document: &mut Value| {
        let place = place_of(document, &service, None)?;
        let sent = written.value()?;
        let servers = list_in(at(document, place), "server");
        taken("server", servers, &sent)?;
        servers.push(sent);
        Ok(Place { server: Some(servers.len() - 1), ..place })
    };
    let (view, place) = node.edit(guard(&headers)?, |_| None, edit).await?;
    let server = server_at(&view, place)?;
    let own = server.name.as_deref().unwrap_or_default();
    let location = format!("/api/v1/services/{name}/servers/{own}");
    Ok(created(&view, server, &location))
}

/// One real server.
#[utoipa::path(
    get, path = "/services/{service}/servers/{server}", tag = "servers",
    responses((status = 200, body = Server), (status = 404, body = Problem)),
)]
pub async fn read_server(
    State(node): Shared,
    Path((service, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let view = node.view();
    let service = view.service(&service)?;
    let server = &service.document.server[service.position(&name)?];
    Ok(tagged(Json(server), &view))
}

/// Replaces a real server.
#[utoipa::path(
    put, path = "/services/{service}/servers/{server}", tag = "servers", request_body = Server,
    responses(
        (status = 200, body = Server),
        (status = 404, body = Problem),
        (status = 412, description = "the configuration has changed meanwhile", body = Problem),
        (status = 422, description = "refused, with every mistake", body = Problem),
    ),
)]
pub async fn replace_server(
    State(node): Shared,
    Path((service, name)): Path<(String, String)>,
    headers: HeaderMap,
    written: Written,
) -> Result<Response, Problem> {
    let written = Arc::new(written);
    let wish = {
        let (service, name, written) = (service.clone(), name.clone(), Arc::clone(&written));
        move |view: &View| replacing(view, service, name, &written)
    };
    let edit = move |document: &mut Value| {
        let place = place_of(document, &service, Some(&name))?;
        *at(document, place) = named(written.value()?, &name);
        Ok(place)
    };
    let (view, place) = node.edit(guard(&headers)?, wish, edit).await?;
    Ok(tagged(Json(server_at(&view, place)?), &view))
}

/// Changes some settings of a real server (RFC 7396: `null` goes back to the default).
#[utoipa::path(
    patch, path = "/services/{service}/servers/{server}", tag = "servers",
    request_body(content((Server = "application/merge-patch+json"))),
    responses(
        (status = 200, body = Server),
        (status = 404, body = Problem),
        (status = 412, description = "the configuration has changed meanwhile", body = Problem),
        (status = 422, description = "refused, with every mistake", body = Problem),
    ),
)]
pub async fn change_server(
    State(node): Shared,
    Path((service, name)): Path<(String, String)>,
    headers: HeaderMap,
    written: Written,
) -> Result<Response, Problem> {
    let (view, place) = patched(&node, &headers, (service, Some(name)), written).await?;
    Ok(tagged(Json(server_at(&view, place)?), &view))
}

/// Removes a real server.
#[utoipa::path(
    delete, path = "/services/{service}/servers/{server}", tag = "servers",
    responses(
        (status = 204, description = "removed"),
        (status = 404, body = Problem),
        (status = 412, description = "the configuration has changed meanwhile", body = Problem),
    ),
)]
pub async fn remove_server(
    State(node): Shared,
    Path((service, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let edit = move |document: &mut Value| {
        let place = place_of(document, &service, Some(&name))?;
        let servers = list_in(at(document, Place { server: None, ..place }), "server");
        servers.remove(place.server.unwrap_or_default());
        Ok(place)
    };
    let (view, _) = node.edit(guard(&headers)?, |_| None, edit).await?;
    Ok(tagged(StatusCode::NO_CONTENT, &view))
}

/// Lets a real server keep the connections that it has, and take no new ones.
#[utoipa::path(
    post, path = "/services/{service}/servers/{server}/drain", tag = "servers",
    responses(
        (status = 200, body = Server),
        (status = 404, body = Problem),
        (status = 412, description = "the configuration has changed meanwhile", body = Problem),
    ),
)]
pub async fn drain(
    node: Shared,
    name: Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    want(node, name, &headers, Wanted::Drain).await
}

/// Ends a real server's connections at once, and lets it take no new ones.
#[utoipa::path(
    post, path = "/services/{service}/servers/{server}/halt", tag = "servers",
    responses(
        (status = 200, body = Server),
        (status = 404, body = Problem),
        (status = 412, description = "the configuration has changed meanwhile", body = Problem),
    ),
)]
pub async fn halt(
    node: Shared,
    name: Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    want(node, name, &headers, Wanted::Halt).await
}

/// Lets a real server take new connections again.
#[utoipa::path(
    post, path = "/services/{service}/servers/{server}/online", tag = "servers",
    responses(
        (status = 200, body = Server),
        (status = 404, body = Problem),
        (status = 412, description = "the configuration has changed meanwhile", body = Problem),
    ),
)]
pub async fn online(
    node: Shared,
    name: Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    want(node, name, &headers, Wanted::Online).await
}

/// As a change of the server's `state`.
async fn want(
    State(node): Shared,
    Path((service, name)): Path<(String, String)>,
    headers: &HeaderMap,
    state: Wanted,
) -> Result<Response, Problem> {
    let wish = Wish::Server { service, server: name, state: Some(state), weight: None };
    let (view, place) = node.want(guard(headers)?, wish).await?;
    Ok(tagged(Json(server_at(&view, place)?), &view))
}

/// Changes some settings of a service or of its server.
async fn patched(
    node: &Arc<Node>,
    headers: &HeaderMap,
    (service, server): (String, Option<String>),
    written: Written,
) -> Result<(Arc<View>, Place), Problem> {
    let written = Arc::new(written);
    let wish = {
        let (service, server, written) = (service.clone(), server.clone(), Arc::clone(&written));
        move |_: &View| wished(service, server, &written.value().ok()?)
    };
    let edit = move |document: &mut Value| {
        let place = place_of(document, &service, server.as_deref())?;
        merge(at(document, place), written.value()?);
        Ok(place)
    };
    Ok(node.edit(guard(headers)?, wish, edit).await?)
}

/// The wish that a patch is, if it is no more than that.
fn wished(service: String, server: Option<String>, patch: &Value) -> Option<Wish> {
    /// Of a service.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct OfService {
        enabled: bool,
    }
    /// Of a server.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct OfServer {
        #[serde(default, deserialize_with = "given")]
        state: Option<Wanted>,
        #[serde(default, deserialize_with = "given")]
        weight: Option<u16>,
    }
    match server {
        None => {
            let OfService { enabled } = OfService::deserialize(patch).ok()?;
            Some(Wish::Service { service, enabled })
        }
        Some(server) => {
            let OfServer { state, weight } = OfServer::deserialize(patch).ok()?;
            Some(Wish::Server { service, server, state, weight })
        }
    }
}

/// A value, but not `null`, which stands for the default.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// The wish that it is to replace a server by what was written, if it is no more than that.
fn replacing(view: &View, service: String, server: String, written: &Written) -> Option<Wish> {
    let own = view.service(&service).ok()?;
    let before = &own.document.server[own.position(&server).ok()?];
    let sent: Server = serde_json::from_value(named(written.value().ok()?, &server)).ok()?;
    let (state, weight) = (sent.state, sent.weight);
    let is_no_more = Server { state, weight, ..before.clone() } == sent;
    is_no_more.then_some(Wish::Server { service, server, state: Some(state), weight: Some(weight) })
}

/// Where the service, or its server, stands in the document.
fn place_of(document: &mut Value, service: &str, server: Option<&str>) -> Result<Place, Refusal> {
    let position = |list: &[Value], name: &str| list.iter().position(|one| one["name"] == name);
    let found = position(list_in(document, "service"), service)
        .ok_or_else(|| Refusal::NotFound(format!("service {service}")))?;
    let place = Place { service: found, server: None };
    let Some(server) = server else { return Ok(place) };
    let found = position(list_in(at(document, place), "server"), server)
        .ok_or_else(|| Refusal::NotFound(format!("server {server} in service {service}")))?;
    Ok(Place { server: Some(found), ..place })
}

/// What stands at a place that [`place_of`] found.
fn at(document: &mut Value, place: Place) -> &mut Value {
    let service = &mut document["service"][place.service];
    match place.server {
        None => service,
        Some(server) => &mut service["server"][server],
    }
}

/// The list of that name in a part of a document; empty if there was none.
fn list_in<'d>(part: &'d mut Value, name: &str) -> &'d mut Vec<Value> {
    let list = &mut part[name];
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    list.as_array_mut().expect("made a list just above")
}

/// Refuses what has the name of one that is there.
fn taken(kind: &str, list: &[Value], sent: &Value) -> Result<(), Refusal> {
    match sent["name"].as_str() {
        Some(name) if list.iter().any(|one| one["name"] == name) => {
            Err(Refusal::Exists(format!("{kind} {name}")))
        }
        _ => Ok(()),
    }
}

/// What was sent to a name's own path has that name, unless it says otherwise.
fn named(mut sent: Value, name: &str) -> Value {
    if let Value::Object(members) = &mut sent {
        members.entry("name").or_insert_with(|| name.into());
    }
    sent
}

/// RFC 7396 section 2.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (name, value) in patch {
        match (target.as_object_mut(), value) {
            (Some(members), Value::Null) => drop(members.remove(&name)),
            (_, value) => merge(&mut target[name], value),
        }
    }
}

fn service_at(view: &View, place: Place) -> Result<&Service, Refusal> {
    view.document.service.get(place.service).ok_or(Refusal::Failed)
}

fn server_at(view: &View, place: Place) -> Result<&Server, Refusal> {
    let servers = &service_at(view, place)?.server;
    place.server.and_then(|server| servers.get(server)).ok_or(Refusal::Failed)
}

fn created<T: serde::Serialize>(view: &View, made: &T, location: &str) -> Response {
    let mut response = tagged((StatusCode::CREATED, Json(made)), view);
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
