//! Whether a server can be asked in the way that its clients' packets take, and how.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane::snapshot::{InterfaceId, Routes};
use dataplane::wire::Address;

use crate::config::{Forwarding, Interface, Server, Service, network};

/// How a server is asked in the way that its clients' packets take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientsWay {
    /// At the virtual address, which it has as well (HC-17).
    VirtualAddress,
    /// At its own address, from one of ours on another interface than the one that leads to it: the answer comes by its
    /// gateway, as what it sends to clients does (AR-08).
    From(Address),
}

/// Why a server cannot be asked so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoWay {
    /// Its replies to clients go to an address of ours, as its answers do.
    Snat,
    /// Routers choose the way back, for each destination another.
    BehindRouter,
    /// Every address of ours and of its family is on the interface of this name, which leads to it.
    OneArmed(String),
}

impl fmt::Display for NoWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snat => f.write_str("servers of mode snat reply to us, whatever their gateway is"),
            Self::BehindRouter => f.write_str(
                "a server of mode nat behind a router answers in the router's way, which may be another one for clients",
            ),
            Self::OneArmed(interface) => write!(
                f,
                "whether a server of mode nat has us as its gateway shows in its answers to an address of ours, of its family, \
                 on another interface than {interface}, and there is none",
            ),
        }
    }
}

/// How `server` of `service` is asked in the way that its clients' packets take.
///
/// # Errors
///
/// Why it cannot be.
pub fn clients_way(
    interfaces: &[Interface],
    ways: &Routes,
    service: &Service,
    server: &Server,
) -> Result<ClientsWay, NoWay> {
    match server.forwarding {
        Forwarding::DirectReturn | Forwarding::Tunnel => Ok(ClientsWay::VirtualAddress),
        Forwarding::Snat { .. } => Err(NoWay::Snat),
        Forwarding::Nat { .. } => {
            let way = ways.to(server.address).filter(|way| way.via.is_none());
            let near = way.ok_or(NoWay::BehindRouter)?.interface;
            let clients = clients_sides(interfaces, ways, service, server.address.is_v4());
            let source = far_source(interfaces, server.address, near, clients);
            source.map(ClientsWay::From).ok_or_else(|| {
                let name = interfaces.get(usize::from(near.0)).map(|near| near.name.clone());
                NoWay::OneArmed(name.unwrap_or_default())
            })
        }
    }
}

/// The interfaces that clients of one family come in on, most likely: the virtual address's, and that of the default
/// route.
fn clients_sides(
    interfaces: &[Interface],
    ways: &Routes,
    service: &Service,
    is_v4: bool,
) -> [Option<InterfaceId>; 2] {
    let published = service.each_address().find(|address| address.is_v4() == is_v4);
    let anywhere = match is_v4 {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    [
        published.and_then(|address| network::connected(interfaces, address)).map(|it| it.0),
        ways.to(anywhere).map(|default| default.interface),
    ]
}

/// An address of ours of the server's family, on another interface than the one `near` it; on one of `clients`, the first
/// before the second, if there is one. A server may have a leg of its own on the others.
fn far_source(
    interfaces: &[Interface],
    server: Address,
    near: InterfaceId,
    clients: [Option<InterfaceId>; 2],
) -> Option<Address> {
    let others = interfaces.iter().zip((0..).map(InterfaceId)).filter(|&(_, id)| id != near);
    let addresses = others.flat_map(|(interface, id)| {
        interface.addresses.iter().map(move |prefix| (id, prefix.address()))
    });
    let alike = |(_, own): &(InterfaceId, Address)| own.is_v4() == server.is_v4();
    let is_elsewhere = |&(id, _): &(InterfaceId, Address)| clients.map(|side| side != Some(id));
    addresses.filter(alike).min_by_key(is_elsewhere).map(|(_, address)| address)
}
