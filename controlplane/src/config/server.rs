//! `[[service.server]]`: who does the work.

use std::collections::HashSet;

use dataplane::snapshot::MAX_SERVERS;
use dataplane::wire::{Address, Prefix};

use super::address::address;
use super::check::own_check;
use super::claims::Claims;
use super::network::Network;
use super::settings::{encapsulation, mode, port, state};
use super::{Forwarding, Mode, Server, State, is_name};
use crate::field::{Field, Invalid, Refusals, Shape};

/// The highest number of connections that can be asked for.
const MOST_CONNECTIONS: u32 = 100_000_000;

const SERVER: Shape = Shape {
    known: &[
        "name",
        "address",
        "port",
        "mode",
        "encapsulation",
        "weight",
        "priority",
        "min_connections",
        "max_connections",
        "state",
        "check",
    ],
    later: &[],
};

/// What servers take over from their service.
pub(super) struct Inherited<'s> {
    /// How packets reach servers that say nothing else; `None` if it could not be read.
    pub mode: Option<Mode>,
    /// The virtual addresses, as far as they could be read.
    pub addresses: &'s [Prefix],
    /// The service's check.
    pub check: &'s Field<'s>,
}

/// The list of servers; they are read twice.
fn items<'v>(field: &Field<'v>) -> Result<Vec<Field<'v>>, Invalid> {
    field.items(MAX_SERVERS, "a list of servers, [[service.server]] in TOML")
}

/// The mode of a service that says none: direct return, or SNAT where that cannot reach a server.
pub(super) fn default_mode(field: &Field<'_>, network: &Network) -> Mode {
    let out_of_reach = |item: &Field<'_>| {
        let table = item.table(&SERVER, &mut Refusals::default());
        table.is_some_and(|table| {
            !table.at("mode").is_given()
                && address(&table.at("address")).is_ok_and(|it| network.is_off_link(it))
        })
    };
    match items(field).unwrap_or_default().iter().any(out_of_reach) {
        true => Mode::Snat,
        false => Mode::Dr,
    }
}

/// `None` if anything was refused.
pub(super) fn servers<'v>(
    field: &Field<'v>,
    inherited: &Inherited<'_>,
    network: &Network,
    claims: &mut Claims<'v>,
    refusals: &mut Refusals,
) -> Option<Vec<Server>> {
    let items = refusals.keep(items(field))?;
    let mut seen = Seen::default();
    let servers: Vec<_> = items
        .iter()
        .map(|item| server(item, inherited, network, &mut seen, claims, refusals))
        .collect();
    servers.into_iter().collect()
}

/// What earlier servers of the service have.
#[derive(Default)]
struct Seen {
    names: HashSet<String>,
    targets: HashSet<(Address, Option<u16>)>,
}

fn server<'v>(
    item: &Field<'v>,
    inherited: &Inherited<'_>,
    network: &Network,
    seen: &mut Seen,
    claims: &mut Claims<'v>,
    refusals: &mut Refusals,
) -> Option<Server> {
    let table = item.table(&SERVER, refusals)?;
    let mode = refusals.keep(table.at("mode").optional(mode));
    let forwarding =
        forwarding(&table.at("port"), mode.and_then(|own| own.or(inherited.mode)), refusals);
    let address_field = table.at("address");
    let address = address(&address_field).and_then(|address| {
        // Without a mode, only what every mode asks of an address is judged.
        let must_be_on_link = forwarding == Some(Forwarding::DirectReturn);
        network.server_address(&address_field, address, must_be_on_link)?;
        same_family(&address_field, address, forwarding, inherited.addresses)?;
        Ok(address)
    });
    let address = refusals.keep(address);
    let carrier_field = table.at("encapsulation");
    let carrier = carrier_field.optional(|field| match forwarding {
        None | Some(Forwarding::Tunnel) => encapsulation(field),
        Some(_) => Err(field.expected("no encapsulation: only mode tun has one")),
    });
    let carrier = refusals.keep(carrier);
    let weight = table.at("weight").or(100, |field| field.number(0..=u32::from(u16::MAX)));
    let weight = refusals.keep(weight);
    let priority = refusals.keep(table.at("priority").or(1, |field| field.number(1..=255)));
    let most = |field: &Field<'_>| field.number(0..=MOST_CONNECTIONS);
    let max_connections = refusals.keep(table.at("max_connections").or(0, most));
    let min_connections = table.at("min_connections").or(0, |field| {
        let fewest = most(field)?;
        match max_connections {
            Some(most) if fewest > 0 && fewest >= most => {
                Err(field.expected("fewer than max_connections, or 0"))
            }
            _ => Ok(fewest),
        }
    });
    let min_connections = refusals.keep(min_connections);
    let state = refusals.keep(table.at("state").or(State::default(), state));

    let check = own_check(&table.at("check"), inherited.check, refusals);

    let given = refusals.keep(table.at("name").optional(server_name));
    let target = address.zip(forwarding).map(|(address, way)| (address, way.port()));
    if let Some(address) = address {
        claims.servers.push((address_field.clone(), address));
    }
    if target.is_some_and(|target| !seen.targets.insert(target)) {
        refusals.add(address_field.expected("an address and port that stand once in the service"));
        return None;
    }
    let name = given?.or_else(|| target.map(default_name))?;
    if !seen.names.insert(name.clone()) {
        let expected = "a name that no other server of the service has";
        refusals.add(table.at("name").refuse(expected, format!("\"{name}\"")));
        return None;
    }
    Some(Server {
        name,
        address: address?,
        forwarding: forwarding?,
        encapsulation: carrier?,
        weight: weight? as u16,
        priority: priority? as u8,
        min_connections: min_connections?,
        max_connections: max_connections?,
        state: state?,
        check: check?,
    })
}

/// Only a tunnel carries the packets of one family to a server of the other.
pub(super) fn same_family(
    field: &Field<'_>,
    address: Address,
    forwarding: Option<Forwarding>,
    served: &[Prefix],
) -> Result<(), Invalid> {
    if matches!(forwarding, None | Some(Forwarding::Tunnel)) {
        return Ok(());
    }
    let other = served.iter().find(|prefix| prefix.address().is_v4() != address.is_v4());
    match other {
        None => Ok(()),
        Some(other) => Err(field.expected(format!(
            "an address of the family of each virtual address, such as that of {} \
             (only mode tun carries one family to servers of the other)",
            other.address()
        ))),
    }
}

/// As a name, and with colons, so that an address with a port can stand for a name.
fn server_name(field: &Field<'_>) -> Result<String, Invalid> {
    field.parsed(super::NAME, |text| is_name(text, b"._:-").then(|| text.into()))
}

fn default_name((address, port): (Address, Option<u16>)) -> String {
    match port {
        Some(port) if address.is_v4() => format!("{address}:{port}"),
        // A name has no brackets, and a colon would make it another address.
        Some(port) => format!("{address}.{port}"),
        None => address.to_string(),
    }
}

/// Mode and port together; `None` if either could not be read.
pub(super) fn forwarding(
    port_field: &Field<'_>,
    mode: Option<Mode>,
    refusals: &mut Refusals,
) -> Option<Forwarding> {
    let port = match mode {
        None | Some(Mode::Nat | Mode::Snat) => port_field.optional(port),
        // FWD-02.
        Some(_) if !port_field.is_given() => Ok(None),
        Some(Mode::Dr) => {
            Err(port_field
                .expected("no port: direct return cannot change it (modes nat and snat can)"))
        }
        Some(Mode::Tun) => {
            Err(port_field.expected("no port: a tunnel cannot change it (modes nat and snat can)"))
        }
    };
    let port = refusals.keep(port)?;
    Some(match mode? {
        Mode::Dr => Forwarding::DirectReturn,
        Mode::Nat => Forwarding::Nat { port },
        Mode::Snat => Forwarding::Snat { port },
        Mode::Tun => Forwarding::Tunnel,
    })
}
