//! The configuration in force, in every form in which it is asked for.

use std::sync::Arc;

use aws_lc_rs::digest;
use axum::body::Bytes;
use dataplane::snapshot::{ServerId, ServiceId};

use super::Refusal;
use crate::config::{self, Config};
use crate::document::{self, Configuration};
use crate::field::Invalid;
use crate::store;

/// The configuration in force, in every form in which it is asked for.
pub struct View {
    /// In types that cannot hold a mistake.
    pub config: Arc<Config>,
    /// As clients see it.
    pub document: Configuration,
    /// The same as JSON.
    pub json: Bytes,
    /// Its entity tag, with quotes: the same for the same configuration, at any time.
    pub etag: String,
    pub(super) identities: Identified,
}

/// The identities of services and their servers, in the order of the document.
pub(super) type Identified = Arc<[(ServiceId, Vec<ServerId>)]>;

/// A service of a [`View`].
#[derive(Clone, Copy)]
pub struct ServiceView<'v> {
    /// Its identity.
    pub id: ServiceId,
    /// What is configured.
    pub config: &'v config::Service,
    /// The same as clients see it.
    pub document: &'v document::Service,
    pub(super) servers: &'v [ServerId],
}

impl<'v> ServiceView<'v> {
    /// Its servers with their identities.
    pub fn servers(self) -> impl Iterator<Item = (ServerId, &'v config::Server)> {
        self.servers.iter().copied().zip(&self.config.servers)
    }

    /// The server that stands for all of them when they have failed, with its identity.
    pub fn fallback(self) -> Option<(ServerId, &'v config::Server)> {
        let id = self.servers.get(self.config.servers.len())?;
        Some((*id, self.config.fallback_server()?))
    }

    /// The position of the server of that name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn position(self, name: &str) -> Result<usize, Refusal> {
        let found = self.config.servers.iter().position(|server| server.name == name);
        let service = &self.config.name;
        found.ok_or_else(|| Refusal::NotFound(format!("server {name} in service {service}")))
    }
}

impl View {
    pub(super) fn new(config: Arc<Config>, identities: Identified) -> Self {
        let document = config.document();
        let json = serde_json::to_vec(&document).expect("a document has string keys only");
        let hash = digest::digest(&digest::SHA256, &json);
        let etag = format!("\"{}\"", store::hexadecimal(&hash.as_ref()[..16]));
        Self { config, document, json: json.into(), etag, identities }
    }

    /// The services with their identities.
    pub fn services(&self) -> impl Iterator<Item = ServiceView<'_>> {
        let services = self.config.services.iter().zip(&self.document.service);
        services.zip(&*self.identities).map(|((config, document), (id, servers))| ServiceView {
            id: *id,
            config,
            document,
            servers,
        })
    }

    /// Where the service of that name is, or its server.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(super) fn place(&self, service: &str, server: Option<&str>) -> Result<Place, Refusal> {
        let found = self.services().position(|it| it.config.name == service);
        let found = found.ok_or_else(|| Refusal::NotFound(format!("service {service}")))?;
        let server = server.map(|server| self.service(service)?.position(server)).transpose()?;
        Ok(Place { service: found, server })
    }

    /// The service of that name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn service(&self, name: &str) -> Result<ServiceView<'_>, Refusal> {
        let found = self.services().find(|service| service.config.name == name);
        found.ok_or_else(|| Refusal::NotFound(format!("service {name}")))
    }
}

/// A service or a server, by its position in the document.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Which service.
    pub service: usize,
    /// Which of its servers; `None` for the service itself.
    pub server: Option<usize>,
}

impl Place {
    /// A mistake's path as it is told to whom sent only what belongs in this place.
    pub(super) fn relative(self, mut mistake: Invalid) -> Invalid {
        let mut own = format!("service[{}]", self.service);
        if let Some(server) = self.server {
            own += &format!(".server[{server}]");
        }
        if let Some(rest) = mistake.path.strip_prefix(&own) {
            mistake.path = rest.trim_start_matches('.').to_owned();
        }
        mistake
    }
}
