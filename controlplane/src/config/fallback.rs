//! What answers in place of a service's servers when all of them have failed (ST-06 to ST-09), and whether the last
//! of them stays in service (ST-05).

use super::address::address;
use super::claims::Claims;
use super::network::Network;
use super::server::{Inherited, forwarding, same_family};
use super::settings::mode;
use super::{Forwarding, LastServer, Mode, Ports, Protocol, Server, Service, State, is_name};
use crate::document::{self, FallbackPage, FallbackServer, PlainFallback};
use crate::field::{Field, Invalid, Refusals, Shape};

/// The name of the server that stands for all others. No operator can give it to one of theirs.
pub const FALLBACK: &str = "(fallback)";

/// What answers when all servers have failed.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Fallback {
    /// Nothing.
    #[default]
    None,
    /// The built-in page, or one of the operator's by name.
    Page(Option<String>),
    /// A server.
    Server(Box<Server>),
}

impl Service {
    /// Whether anything answers when all servers have failed.
    pub fn has_fallback(&self) -> bool {
        self.fallback != Fallback::None
    }

    /// The server that answers then, if one does.
    pub fn fallback_server(&self) -> Option<&Server> {
        match &self.fallback {
            Fallback::Server(server) => Some(server),
            Fallback::None | Fallback::Page(_) => None,
        }
    }
}

impl Fallback {
    /// As operators write it.
    pub fn document(&self, inherited: Mode) -> document::Fallback {
        match self {
            Self::None => document::Fallback::Plain(PlainFallback::None),
            Self::Page(None) => document::Fallback::Plain(PlainFallback::Page),
            Self::Page(Some(page)) => document::Fallback::Page(FallbackPage { page: page.clone() }),
            Self::Server(server) => document::Fallback::Server(FallbackServer {
                address: server.address.ip(),
                port: server.forwarding.port(),
                mode: Some(server.forwarding.mode()).filter(|&mode| mode != inherited),
            }),
        }
    }
}

pub(super) fn last_server(field: &Field<'_>) -> Result<LastServer, Invalid> {
    field.parsed("keep or fail", |text| match text {
        "keep" => Some(LastServer::Keep),
        "fail" => Some(LastServer::Fail),
        _ => None,
    })
}

/// What a service has that says nothing: the page, where clients speak HTTP.
fn usual(protocol: Protocol, ports: &Ports) -> Fallback {
    match protocol != Protocol::Udp && ports.contain(80) {
        true => Fallback::Page(None),
        false => Fallback::None,
    }
}

const EXPECTED: &str =
    "none, page, { page = \"sorry.html\" }, or a server, such as { address = \"10.0.0.90\" }";
const SHAPE: Shape = Shape { known: &["page", "address", "port", "mode"], later: &[] };
const PAGE: Shape = Shape { known: &["page"], later: &[] };
const SERVER: Shape = Shape { known: &["address", "port", "mode"], later: &[] };

/// `None` if anything was refused. What the service carries is `None` if it could not be read.
pub(super) fn fallback<'v>(
    field: &Field<'v>,
    carried: Option<(Protocol, &Ports)>,
    inherited: &Inherited<'_>,
    network: &Network,
    claims: &mut Claims<'v>,
    refusals: &mut Refusals,
) -> Option<Fallback> {
    if !field.is_given() {
        return carried.map(|(protocol, ports)| usual(protocol, ports));
    }
    let found = match field.text(255, EXPECTED) {
        Ok("none") => return Some(Fallback::None),
        Ok("page") => Fallback::Page(None),
        Ok(_) => {
            refusals.add(field.expected(EXPECTED));
            return None;
        }
        Err(_) if field.part("page").is_given() => {
            let table = field.table(&PAGE, refusals)?;
            Fallback::Page(Some(refusals.keep(page(&table.at("page")))?))
        }
        Err(_) if field.part("address").is_given() => {
            server(field, inherited, network, claims, refusals)?
        }
        Err(mistake) => {
            // A table with neither: what stands in it is wrong, or all is.
            let table = field.table(&SHAPE, refusals);
            table.is_some().then(|| refusals.add(mistake));
            return None;
        }
    };
    let is_udp = carried.is_some_and(|(protocol, _)| protocol == Protocol::Udp);
    if matches!(found, Fallback::Page(_)) && is_udp {
        refusals.add(field.expected("none or a server: a page is for protocol tcp"));
        return None;
    }
    Some(found)
}

/// Whether a page can have this name: that of a file, and of nothing that is elsewhere.
pub(crate) fn is_page(name: &str) -> bool {
    is_name(name, b"._-")
}

fn page(field: &Field<'_>) -> Result<String, Invalid> {
    let expected = "a name for a page, such as \"sorry.html\"";
    field.parsed(expected, |text| is_page(text).then(|| text.into()))
}

fn server<'v>(
    field: &Field<'v>,
    inherited: &Inherited<'_>,
    network: &Network,
    claims: &mut Claims<'v>,
    refusals: &mut Refusals,
) -> Option<Fallback> {
    let table = field.table(&SERVER, refusals)?;
    let mode = refusals.keep(table.at("mode").optional(mode));
    let mode = mode.and_then(|own| own.or(inherited.mode));
    let forwarding = forwarding(&table.at("port"), mode, refusals);
    let address_field = table.at("address");
    let address = address(&address_field).and_then(|address| {
        let must_be_on_link = forwarding == Some(Forwarding::DirectReturn);
        network.server_address(&address_field, address, must_be_on_link)?;
        same_family(&address_field, address, forwarding, inherited.addresses)?;
        Ok(address)
    });
    let address = refusals.keep(address)?;
    claims.servers.push((address_field, address));
    Some(Fallback::Server(Box::new(Server {
        name: FALLBACK.into(),
        address,
        forwarding: forwarding?,
        encapsulation: None,
        weight: 1,
        priority: 1,
        min_connections: 0,
        max_connections: 0,
        state: State::Online,
        check: None,
    })))
}
