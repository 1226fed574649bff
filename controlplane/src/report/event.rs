//! Events as clients, scripts and receivers of alerts see them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::events::{self, Subject};
use crate::node::View;

/// Something that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Counts up from 1, without gaps, since the program started.
    #[schema(example = 17)]
    pub number: u64,
    /// When it happened (RFC 3339, UTC).
    #[schema(example = "2026-02-03T04:05:06.789Z")]
    pub time: String,
    /// What kind of thing changed: `server`, `service`, `configuration`, `worker`, `address` or `trigger`.
    #[schema(example = "server")]
    pub subject: String,
    /// The virtual service, for `server` and `service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "web")]
    pub service: Option<String>,
    /// The real server, for `server`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "web1")]
    pub server: Option<String>,
    /// The worker's number, for `worker`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<usize>,
    /// The address of ours, for `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The trigger's name, for `trigger`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// The state before; of a configuration, its entity tag.
    #[schema(example = "up")]
    pub old: String,
    /// The state now.
    #[schema(example = "down")]
    pub new: String,
    /// Why.
    #[schema(example = "connect to 10.0.0.11:8080 refused, 2 of 2")]
    pub reason: String,
}

impl Event {
    /// Its subject in words, such as `server web/web1`.
    pub fn what(&self) -> String {
        let Self { subject, service, server, worker, address, trigger, .. } = self;
        let worker = worker.map(|number| number.to_string());
        let address = address.map(|address| address.to_string());
        let names = [service, server, &worker, &address, trigger];
        let names: Vec<_> = names.into_iter().flatten().map(String::as_str).collect();
        match names.is_empty() {
            true => subject.clone(),
            false => format!("{subject} {}", names.join("/")),
        }
    }
}

impl From<&events::Event> for Event {
    fn from(event: &events::Event) -> Self {
        let events::Change { subject, old, new, reason } = &event.change;
        let told = Self {
            number: event.number,
            time: humantime::format_rfc3339_millis(event.time).to_string(),
            subject: subject.kind().into(),
            old: old.clone(),
            new: new.clone(),
            reason: reason.clone(),
            ..Self::default()
        };
        match subject.clone() {
            Subject::Server { service, server } => {
                Self { service: Some(service), server: Some(server), ..told }
            }
            Subject::Service { service } => Self { service: Some(service), ..told },
            Subject::Configuration => told,
            Subject::Worker { worker } => Self { worker: Some(worker), ..told },
            Subject::Address { address } => Self { address: Some(address.ip()), ..told },
            Subject::Trigger { trigger } => Self { trigger: Some(trigger), ..told },
        }
    }
}

/// An event as others are told of it, who know nothing else of the node: scripts on their standard input,
/// and receivers of alerts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    /// The node's name.
    pub node: String,
    /// What changed.
    #[serde(flatten)]
    pub event: Event,
    /// The addresses of the virtual service that it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_addresses: Vec<String>,
    /// The ports of the virtual service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// The real server's address, with its port if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_address: Option<String>,
}

impl Notice {
    /// What there is to say of an event. Its service may have gone meanwhile.
    pub fn of(event: &events::Event, view: &View) -> Self {
        let event = Event::from(event);
        let service = event.service.as_deref().and_then(|name| view.service(name).ok());
        let document = service.map(|service| service.document);
        let virtual_addresses = document.map_or_else(Vec::new, |service| {
            service.address.iter().chain(&service.addresses).cloned().collect()
        });
        let named = |name: &str| {
            let servers = &service?.config.servers;
            let server = servers.iter().find(|server| server.name == name)?;
            let address = server.address.ip();
            Some(match server.forwarding.port() {
                Some(port) => std::net::SocketAddr::new(address, port).to_string(),
                None => address.to_string(),
            })
        };
        Self {
            node: view.config.node.clone(),
            server_address: event.server.as_deref().and_then(named),
            ports: document.map(|service| service.ports.clone()),
            virtual_addresses,
            event,
        }
    }
}
