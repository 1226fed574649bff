//! What would become of a packet, and why.

use std::net::{IpAddr, SocketAddr};

use axum::extract::State;
use dataplane::explain::Described;
use dataplane::snapshot::{InterfaceId, Protocol};
use dataplane::wire::{Address, tcp};
use serde_json::Value;

use super::Shared;
use super::answer::{Json, made};
use super::body::Written;
use super::problem::Problem;
use crate::config::Config;
use crate::field::{Field, Invalid, Refusals, Shape};
use crate::node::{FLAGS, Refusal};
use crate::report::{Explanation, Packet};

const PACKET: Shape =
    Shape { known: &["protocol", "from", "to", "interface", "flags"], later: &[] };

/// The identifier of an echo request for which none is given.
const IDENTIFIER: u16 = 1;

/// What would become of a packet that comes in now, decision by decision. Nothing is sent, and nothing changes.
#[utoipa::path(
    post, path = "/explain", tag = "state", request_body = Packet,
    responses(
        (status = 200, body = Explanation),
        (status = 422, description = "no such packet can come in, with every mistake", body = Problem),
        (status = 429, description = "too many such requests at once", body = Problem),
        (status = 503, description = "a worker has not answered", body = Problem),
    ),
)]
pub async fn explain(State(node): Shared, written: Written) -> Result<Json, Problem> {
    let value = written.value()?;
    let (packet, interface) = packet(&value, &node.view().config).map_err(Refusal::Invalid)?;
    let explained = node.explain(&packet, interface).await?;
    made(move || Ok(explained.report())).await
}

/// The packet that is described, and the interface that it comes in on.
fn packet(value: &Value, config: &Config) -> Result<(Described, InterfaceId), Vec<Invalid>> {
    let mut refusals = Refusals::default();
    let read = read(value, config, &mut refusals);
    match read.filter(|_| refusals.is_empty()) {
        Some(packet) => Ok(packet),
        None => Err(refusals.into_told()),
    }
}

fn read(
    value: &Value,
    config: &Config,
    refusals: &mut Refusals,
) -> Option<(Described, InterfaceId)> {
    let table = Field::root(value).table(&PACKET, refusals)?;
    let protocol = refusals.keep(table.at("protocol").parsed("tcp, udp or icmp", protocol));
    let from = refusals.keep(end(&table.at("from"), protocol));
    let to = table.at("to");
    let told = end(&to, protocol).and_then(|read| same_family(&to, read, from));
    let to = refusals.keep(told);
    let interface = refusals.keep(interface(&table.at("interface"), config));
    let flags = refusals.keep(flags(&table.at("flags"), protocol));
    let described = Described { protocol: protocol?, from: from?, to: to?, flags: flags? };
    Some((described, interface?))
}

fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "icmp" => Some(Protocol::Echo),
        _ => None,
    }
}

/// An address with its port; an echo request, and what we know no protocol of, may go without.
fn end(field: &Field<'_>, protocol: Option<Protocol>) -> Result<(Address, u16), Invalid> {
    let (expected, bare) = match protocol {
        Some(Protocol::Tcp | Protocol::Udp) => {
            ("an address with a port, such as 192.0.2.9:40000 or [2001:db8::9]:40000", false)
        }
        _ => ("an address, such as 192.0.2.9 or 2001:db8::9", true),
    };
    field.parsed(expected, |text| {
        let (address, port) = match text.parse() {
            Ok(SocketAddr::V6(end)) if end.scope_id() != 0 => return None,
            Ok(end) => (end.ip(), end.port()),
            Err(_) if bare => (text.parse().ok()?, IDENTIFIER),
            Err(_) => return None,
        };
        match address {
            // Such an address never stands in a packet.
            IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => None,
            address => Some((address.into(), port)),
        }
    })
}

fn same_family(
    field: &Field<'_>,
    to: (Address, u16),
    from: Option<(Address, u16)>,
) -> Result<(Address, u16), Invalid> {
    match from {
        Some((from, _)) if from.is_v4() != to.0.is_v4() => {
            let family = if from.is_v4() { "IPv4" } else { "IPv6" };
            Err(field.expected(format!("an {family} address, as in from")))
        }
        _ => Ok(to),
    }
}

fn interface(field: &Field<'_>, config: &Config) -> Result<InterfaceId, Invalid> {
    let names = || config.interfaces.iter().map(|interface| interface.name.as_str());
    let expected = format!("the name of an interface: {}", names().collect::<Vec<_>>().join(", "));
    let position = |text: &str| names().position(|name| name == text);
    field.parsed(&expected, |text| u8::try_from(position(text)?).ok().map(InterfaceId))
}

fn flags(field: &Field<'_>, protocol: Option<Protocol>) -> Result<tcp::Flags, Invalid> {
    match protocol {
        Some(Protocol::Udp | Protocol::Echo) if field.is_given() => {
            Err(field.expected("no flags: only TCP has them"))
        }
        Some(Protocol::Udp | Protocol::Echo) => Ok(tcp::Flags(0)),
        _ => field.or(tcp::Flags(tcp::Flags::SYN), |field| {
            field.parsed("some of syn, ack, fin, rst, psh and urg, such as syn+ack", control_bits)
        }),
    }
}

fn control_bits(text: &str) -> Option<tcp::Flags> {
    let bit = |name: &str| FLAGS.iter().find(|(known, _)| *known == name).map(|&(_, bit)| bit);
    text.split('+').try_fold(0, |bits, name| Some(bits | bit(name)?)).map(tcp::Flags)
}
