//! `[[service]]` and `[[service.server]]`: what is offered, and by whom. What concerns two services
//! at once is settled at the end, from the [`Claims`] that each has made.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::Ipv4Addr;

use dataplane::snapshot::{MAX_SERVERS, MAX_SERVICES};

use super::network::Network;
use super::{
    Forwarding, Mode, Ports, Protocol, Scheduler, Server, Service, address, is_name, name,
};
use crate::field::{Field, Invalid, Refusals, Shape, Table};

/// How many ports can be published in all, a range of more than 256 counted once: with these
/// the workers' table of services stays below 40 MB.
const MAX_PUBLISHED: usize = 1_000_000;
/// How many virtual addresses a service can have.
const MAX_ADDRESSES: usize = 1024;

const SERVICE: Shape = Shape {
    known: &[
        "name",
        "address",
        "addresses",
        "ports",
        "protocol",
        "mode",
        "scheduler",
        "check",
        "server",
    ],
    later: &[("persistence", "no persistence: it is not there yet")],
};

pub(super) fn services(
    field: &Field<'_>,
    network: &Network,
    refusals: &mut Refusals,
) -> Vec<Service> {
    let items = field.items(MAX_SERVICES, "a list of services, [[service]] in TOML");
    let Some(items) = refusals.keep(items) else { return Vec::new() };
    let mut claims = Claims::default();
    let services: Vec<_> =
        items.iter().filter_map(|item| service(item, network, &mut claims, refusals)).collect();
    claims.settle(refusals);
    if claims.servers.len() > MAX_SERVERS {
        let expected = format!("at most {MAX_SERVERS} servers in all services");
        refusals.add(field.refuse(expected, claims.servers.len().to_string()));
    }
    services
}

fn service<'v>(
    item: &Field<'v>,
    network: &Network,
    claims: &mut Claims<'v>,
    refusals: &mut Refusals,
) -> Option<Service> {
    let table = item.table(&SERVICE, refusals)?;
    let name_field = table.at("name");
    let name = name(&name_field).and_then(|name| match claims.names.entry(name.clone()) {
        Entry::Vacant(free) => {
            free.insert(item.path().into());
            Ok(name)
        }
        Entry::Occupied(taken) => {
            let found = format!("\"{name}\", which {} has", taken.get());
            Err(name_field.refuse("a name that no other service has", found))
        }
    });
    let name = refusals.keep(name);
    let addresses = addresses(&table, network, refusals);
    let ports_field = table.at("ports");
    let ports = refusals.keep(ports(&ports_field));
    let protocol = refusals.keep(table.at("protocol").or(Protocol::default(), protocol));
    let mode = refusals.keep(table.at("mode").or(Mode::default(), mode));
    let scheduler = refusals.keep(table.at("scheduler").or(Scheduler::default(), scheduler));
    let checked = check(&table.at("check"), refusals);
    let servers = servers(&table.at("server"), mode, network, claims, refusals);
    let service = Service {
        // A claim is made even if the name cannot be read.
        name: name.clone().unwrap_or_default(),
        addresses: addresses?,
        ports: ports?,
        protocol: protocol?,
        mode: mode.unwrap_or_default(),
        scheduler: scheduler.unwrap_or_default(),
        servers: servers.clone().unwrap_or_default(),
    };
    refusals.keep(claims.publish(ports_field, &service));
    (name.is_some() && mode.is_some() && scheduler.is_some() && checked.is_some()).then_some(())?;
    servers.map(|_| service)
}

/// `address` or `addresses`, not both.
fn addresses(
    table: &Table<'_>,
    network: &Network,
    refusals: &mut Refusals,
) -> Option<Vec<Ipv4Addr>> {
    let (one, several) = (table.at("address"), table.at("addresses"));
    if !several.is_given() {
        return refusals.keep(network.virtual_address(&one)).map(|address| vec![address]);
    }
    if one.is_given() {
        refusals.add(several.expected("either address or addresses"));
        return None;
    }
    let expected = "a list of addresses, such as [\"10.0.0.100\"]";
    let items = refusals.keep(several.items(MAX_ADDRESSES, expected))?;
    if items.is_empty() {
        refusals.add(several.refuse(expected, "an empty list"));
        return None;
    }
    let mut seen = HashSet::new();
    let mut read = |item: &Field<'_>| {
        let address = network.virtual_address(item)?;
        if seen.insert(address) { Ok(address) } else { Err(item.expected("each address once")) }
    };
    let addresses: Vec<_> = items.iter().map(|item| refusals.keep(read(item))).collect();
    addresses.into_iter().collect()
}

fn protocol(field: &Field<'_>) -> Result<Protocol, Invalid> {
    field.parsed("tcp, udp or tcp+udp", |text| match text {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "tcp+udp" => Some(Protocol::Both),
        _ => None,
    })
}

fn mode(field: &Field<'_>) -> Result<Mode, Invalid> {
    field.parsed("dr, nat or tun (snat is not there yet)", |text| match text {
        "dr" => Some(Mode::Dr),
        "nat" => Some(Mode::Nat),
        "tun" => Some(Mode::Tun),
        _ => None,
    })
}

fn scheduler(field: &Field<'_>) -> Result<Scheduler, Invalid> {
    field.parsed("rr or wrr (others are not there yet)", |text| match text {
        "rr" => Some(Scheduler::Rr),
        "wrr" => Some(Scheduler::Wrr),
        _ => None,
    })
}

const CHECK: Shape = Shape {
    known: &["type"],
    later: &[
        ("interval", "no interval: nothing is asked with the type \"on\""),
        ("timeout", "no timeout: nothing is asked with the type \"on\""),
        ("rise", "no rise: nothing is asked with the type \"on\""),
        ("fall", "no fall: nothing is asked with the type \"on\""),
    ],
};

/// Servers count as well for now.
fn check(field: &Field<'_>, refusals: &mut Refusals) -> Option<()> {
    let table = field.table(&CHECK, refusals)?;
    let on = |text: &str| (text == "on").then_some(());
    let expected = "on (servers are not asked yet)";
    refusals.keep(table.at("type").or((), |field| field.parsed(expected, on)))
}

const PORTS: &str = "ports, such as \"80,443,8000-8010\", or \"*\" for all";

fn ports(field: &Field<'_>) -> Result<Ports, Invalid> {
    let text = field.text(4096, PORTS)?;
    if text == "*" {
        return Ok(Ports::all());
    }
    let ranges: Option<Vec<_>> = text.split(',').map(|range| port_range(range.trim())).collect();
    let mut ranges = ranges.ok_or_else(|| field.expected(PORTS))?;
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[1].0 <= pair[0].1) {
        return Err(field.expected("each port once"));
    }
    Ok(Ports(ranges))
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port_number(first)?, port_number(last)?);
    (first <= last).then_some((first, last))
}

/// `parse` alone would accept a plus sign.
fn port_number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|&port| plain && port > 0)
}

impl Ports {
    fn all() -> Self {
        Self(vec![(1, u16::MAX)])
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::all() {
            return f.write_str("*");
        }
        for (position, (first, last)) in self.ranges().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{}", Range(first, last))?;
        }
        Ok(())
    }
}

/// `80` or `8000-8010`.
struct Range(u16, u16);

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(first, last) if first == last => write!(f, "{first}"),
            Self(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// `None` if anything was refused.
fn servers<'v>(
    field: &Field<'v>,
    inherited: Option<Mode>,
    network: &Network,
    claims: &mut Claims<'v>,
    refusals: &mut Refusals,
) -> Option<Vec<Server>> {
    let expected = "a list of servers, [[service.server]] in TOML";
    let items = refusals.keep(field.items(MAX_SERVERS, expected))?;
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
    targets: HashSet<(Ipv4Addr, Option<u16>)>,
}

const SERVER: Shape =
    Shape { known: &["name", "address", "port", "mode", "weight", "max_connections"], later: &[] };

fn server<'v>(
    item: &Field<'v>,
    inherited: Option<Mode>,
    network: &Network,
    seen: &mut Seen,
    claims: &mut Claims<'v>,
    refusals: &mut Refusals,
) -> Option<Server> {
    let table = item.table(&SERVER, refusals)?;
    let mode = refusals.keep(table.at("mode").optional(mode));
    let forwarding =
        forwarding(&table.at("port"), mode.and_then(|own| own.or(inherited)), refusals);
    let address_field = table.at("address");
    let address = address(&address_field).and_then(|address| {
        // Without a mode, only what every mode asks of an address is judged.
        let must_be_on_link = forwarding == Some(Forwarding::DirectReturn);
        network.server_address(&address_field, address, must_be_on_link)?;
        Ok(address)
    });
    let address = refusals.keep(address);
    let weight = table.at("weight").or(100, |field| field.number(0..=u32::from(u16::MAX)));
    let weight = refusals.keep(weight);
    let unlimited = table.at("max_connections").or(0, |field| {
        field.number(0..=0).map_err(|_| field.expected("0 (no limit); limits are not there yet"))
    });
    let unlimited = refusals.keep(unlimited);

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
    unlimited?;
    Some(Server { name, address: address?, forwarding: forwarding?, weight: weight? as u16 })
}

/// As a name, and with colons, so that an address with a port can stand for a name.
fn server_name(field: &Field<'_>) -> Result<String, Invalid> {
    field.parsed(super::NAME, |text| is_name(text, b"._:-").then(|| text.into()))
}

fn default_name((address, port): (Ipv4Addr, Option<u16>)) -> String {
    match port {
        Some(port) => format!("{address}:{port}"),
        None => address.to_string(),
    }
}

/// Mode and port together; `None` if either could not be read.
fn forwarding(
    port_field: &Field<'_>,
    mode: Option<Mode>,
    refusals: &mut Refusals,
) -> Option<Forwarding> {
    let port = match mode {
        None | Some(Mode::Nat) => port_field
            .optional(|field| field.number(1..=u32::from(u16::MAX)).map(|port| port as u16)),
        // FWD-02.
        Some(_) if !port_field.is_given() => Ok(None),
        Some(Mode::Dr) => {
            Err(port_field.expected("no port: direct return cannot change it (mode nat can)"))
        }
        Some(Mode::Tun) => {
            Err(port_field.expected("no port: a tunnel cannot change it (mode nat can)"))
        }
    };
    let port = refusals.keep(port)?;
    Some(match mode? {
        Mode::Dr => Forwarding::DirectReturn,
        Mode::Nat => Forwarding::Nat { port },
        Mode::Tun => Forwarding::Tunnel,
    })
}

/// What services lay claim to, for what cannot be judged one service at a time.
#[derive(Default)]
struct Claims<'v> {
    /// Services by name, with their paths.
    names: HashMap<String, String>,
    /// Who published: the field that says the ports, and the service's name.
    publishers: Vec<(Field<'v>, String)>,
    /// Address, protocol, first and last port, and the publisher.
    published: Vec<(Ipv4Addr, &'static str, u16, u16, usize)>,
    /// How much of [`MAX_PUBLISHED`] is used up.
    ports: usize,
    /// Every virtual address, with the field that publishes it first.
    virtual_addresses: HashMap<Ipv4Addr, usize>,
    /// Every server's address.
    servers: Vec<(Field<'v>, Ipv4Addr)>,
}

impl<'v> Claims<'v> {
    fn publish(&mut self, ports_field: Field<'v>, service: &Service) -> Result<(), Invalid> {
        let spelled_out = |(first, last)| match usize::from(last) - usize::from(first) {
            more @ 0..256 => more + 1,
            _ => 1,
        };
        let each: usize = service.ports.ranges().map(spelled_out).sum();
        let protocols: &[&str] = match service.protocol {
            Protocol::Tcp => &["tcp"],
            Protocol::Udp => &["udp"],
            Protocol::Both => &["tcp", "udp"],
        };
        let more = each * protocols.len() * service.addresses.len();
        if self.ports + more > MAX_PUBLISHED {
            return Err(ports_field.expected(format!(
                "fewer ports: at most {MAX_PUBLISHED} in all services, \
                 a range of more than 256 counted once"
            )));
        }
        self.ports += more;
        let publisher = self.publishers.len();
        self.publishers.push((ports_field, service.name.clone()));
        for &address in &service.addresses {
            self.virtual_addresses.entry(address).or_insert(publisher);
            for &protocol in protocols {
                let ranges = service.ports.ranges();
                let claim = |(first, last)| (address, protocol, first, last, publisher);
                self.published.extend(ranges.map(claim));
            }
        }
        Ok(())
    }

    /// Refuses what two of them claim.
    fn settle(&mut self, refusals: &mut Refusals) {
        self.settle_ports(refusals);
        for (field, address) in &self.servers {
            let Some(&publisher) = self.virtual_addresses.get(address) else { continue };
            let found =
                format!("\"{address}\", a virtual address of {}", self.publisher(publisher));
            refusals.add(field.refuse("the address of another machine", found));
        }
    }

    fn settle_ports(&mut self, refusals: &mut Refusals) {
        self.published.sort_unstable();
        let mut told = HashSet::new();
        // The claim that reaches furthest of those before, at the same address and protocol.
        let mut furthest: Option<(Ipv4Addr, &str, u16, usize)> = None;
        for &(address, protocol, first, last, publisher) in &self.published {
            let before = furthest.filter(|&(at, over, ..)| (at, over) == (address, protocol));
            if let Some((_, _, reach, other)) = before
                && first <= reach
            {
                let (earlier, later) = (other.min(publisher), other.max(publisher));
                if told.insert((earlier, later)) {
                    let common = Range(first, last.min(reach));
                    refusals.add(self.overlap(earlier, later, address, protocol, &common));
                }
                if last <= reach {
                    continue;
                }
            }
            furthest = Some((address, protocol, last, publisher));
        }
    }

    fn overlap(
        &self,
        earlier: usize,
        later: usize,
        address: Ipv4Addr,
        protocol: &str,
        common: &Range,
    ) -> Invalid {
        self.publishers[later].0.refuse(
            format!("ports that no other service has at {address} over {protocol}"),
            format!(
                "{common} of {}, which {} has too",
                self.publisher(later),
                self.publisher(earlier)
            ),
        )
    }

    fn publisher(&self, publisher: usize) -> String {
        let (field, name) = &self.publishers[publisher];
        format!("service \"{name}\" ({})", field.path().trim_end_matches(".ports"))
    }
}
