//! `[[service]]`: what is offered.

use std::collections::HashSet;
use std::collections::hash_map::Entry;

use dataplane::snapshot::{MAX_SERVERS, MAX_SERVICES};
use dataplane::wire::{Address, Prefix};

use super::address::{address, each};
use super::agent::agent;
use super::check::NoWay;
use super::claims::Claims;
use super::network::Network;
use super::passive::passive;
use super::server::{Inherited, default_mode, servers};
use super::{
    Encapsulation, Forwarding, Helper, LastServer, Mode, Protocol, Scheduler, Server, Service,
    alerts, check, fallback, name, settings,
};
use crate::field::{Field, Refusals, Shape, Table};

/// How many virtual addresses a service can have.
const MAX_ADDRESSES: usize = 1024;
/// How many SNAT sources a service can have.
const MAX_SOURCES: usize = 16;
/// How many ports a one-packet service can have whose servers answer through us: each reply is known by
/// its server and port.
const MAX_ANSWERING_PORTS: usize = 256;

/// How many of those there can be in all.
const MAX_ANSWERING: usize = 65_536;

const SERVICE: Shape = Shape {
    known: &[
        "name",
        "address",
        "addresses",
        "ports",
        "protocol",
        "mode",
        "scheduler",
        "persistence",
        "timeouts",
        "limits",
        "encapsulation",
        "gue_port",
        "hairpin",
        "clamp_mss",
        "helper",
        "sources",
        "check",
        "passive",
        "quiescent",
        "last_server",
        "fallback",
        "enabled",
        "slow_start",
        "alerts",
        "agent",
        "server",
    ],
    later: &[],
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
    let ports = refusals.keep(settings::ports(&ports_field));
    let protocol = table.at("protocol").or(Protocol::default(), settings::protocol);
    let protocol = refusals.keep(protocol);
    let mode_field = table.at("mode");
    let mode = match mode_field.is_given() {
        true => refusals.keep(settings::mode(&mode_field)),
        false => Some(default_mode(&table.at("server"), network)),
    };
    let scheduler = table.at("scheduler").or(Scheduler::default(), settings::scheduler);
    let scheduler = refusals.keep(scheduler);
    let persistence = settings::persistence(&table.at("persistence"), refusals);
    let timeouts = settings::timeouts(&table.at("timeouts"), refusals);
    let limits = settings::limits(&table.at("limits"), refusals);
    let encapsulation =
        table.at("encapsulation").or(Encapsulation::default(), settings::encapsulation);
    let encapsulation = refusals.keep(encapsulation);
    let gue_port = refusals.keep(table.at("gue_port").or(6080, settings::port));
    let hairpin = refusals.keep(table.at("hairpin").or(false, Field::truth));
    let clamp_mss = refusals.keep(table.at("clamp_mss").or(false, Field::truth));
    let helper = refusals.keep(table.at("helper").optional(settings::helper));
    let sources = sources(&table.at("sources"), network, claims, refusals);
    let check_field = table.at("check");
    let check = check::check(&check_field, refusals);
    let passive = passive(&table.at("passive"), refusals);
    let quiescent = refusals.keep(table.at("quiescent").or(true, Field::truth));
    let enabled = refusals.keep(table.at("enabled").or(true, Field::truth));
    let slow_start = refusals.keep(table.at("slow_start").or(0, settings::slow_start));
    let alerts = alerts::of_service(&table.at("alerts"), refusals);
    let addresses_read = addresses.as_deref().unwrap_or_default();
    let inherited = Inherited { mode, addresses: addresses_read, check: &check_field };
    let agent = agent(&table.at("agent"), refusals);
    let servers = servers(&table.at("server"), &inherited, network, claims, refusals);
    let last_server = table.at("last_server").or(LastServer::default(), fallback::last_server);
    let last_server = refusals.keep(last_server);
    let carried = protocol.zip(ports.as_ref());
    let fallback = table.at("fallback");
    let fallback = fallback::fallback(&fallback, carried, &inherited, network, claims, refusals);
    // A claim is made even if its maker's name, or anything else, cannot be read.
    let complete = name.is_some() && mode.is_some() && scheduler.is_some() && servers.is_some();
    let service = Service {
        name: name.unwrap_or_default(),
        addresses: addresses?,
        ports: ports?,
        protocol: protocol?,
        mode: mode.unwrap_or_default(),
        scheduler: scheduler.unwrap_or_default(),
        persistence: persistence.unwrap_or_default(),
        timeouts: timeouts.unwrap_or_default(),
        limits: limits.unwrap_or_default(),
        encapsulation: encapsulation.unwrap_or_default(),
        gue_port: gue_port.unwrap_or_default(),
        hairpin: hairpin.unwrap_or_default(),
        clamp_mss: clamp_mss.unwrap_or_default(),
        helper: helper.unwrap_or_default(),
        sources: sources.unwrap_or_default(),
        check: check.unwrap_or_default(),
        passive: passive.unwrap_or_default(),
        quiescent: quiescent.unwrap_or_default(),
        last_server: last_server.unwrap_or_default(),
        fallback: fallback.unwrap_or_default(),
        enabled: enabled.unwrap_or_default(),
        slow_start: slow_start.unwrap_or_default(),
        alerts: alerts.unwrap_or_default(),
        agent: agent.unwrap_or_default(),
        servers: servers.unwrap_or_default(),
    };
    refusals.keep(claims.publish(ports_field, &service));
    if complete {
        together(&table, &service, network, claims, refusals);
    }
    // What else could not be read is refused, and with it the whole.
    complete.then_some(service)
}

/// `address` or `addresses`, not both.
fn addresses(table: &Table<'_>, network: &Network, refusals: &mut Refusals) -> Option<Vec<Prefix>> {
    let (one, several) = (table.at("address"), table.at("addresses"));
    if !several.is_given() {
        return refusals.keep(network.virtual_addresses(&one)).map(|prefix| vec![prefix]);
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
        let prefix = network.virtual_addresses(item)?;
        match each(prefix).all(|address| seen.insert(address)) {
            true => Ok(prefix),
            false => Err(item.expected("each address once")),
        }
    };
    let addresses: Vec<_> = items.iter().map(|item| refusals.keep(read(item))).collect();
    let addresses: Vec<_> = addresses.into_iter().collect::<Option<_>>()?;
    if seen.len() > MAX_ADDRESSES {
        let expected = format!("at most {MAX_ADDRESSES} addresses");
        refusals.add(several.refuse(expected, seen.len().to_string()));
        return None;
    }
    Some(addresses)
}

/// Ours, or virtual ones: which of those there are is known at the end.
fn sources<'v>(
    field: &Field<'v>,
    network: &Network,
    claims: &mut Claims<'v>,
    refusals: &mut Refusals,
) -> Option<Vec<Address>> {
    let expected = "a list of addresses, such as [\"10.0.0.2\"]";
    let items = refusals.keep(field.items(MAX_SOURCES, expected))?;
    if field.is_given() && items.is_empty() {
        refusals.add(field.refuse(expected, "an empty list"));
        return None;
    }
    let mut seen = HashSet::new();
    let mut read = |item: &Field<'v>| {
        let source = address(item)?;
        if !seen.insert(source) {
            return Err(item.expected("each address once"));
        }
        if network.is_complete() && !network.is_ours(source) {
            claims.sources.push((item.clone(), source));
        }
        Ok(source)
    };
    let sources: Vec<_> = items.iter().map(|item| refusals.keep(read(item))).collect();
    sources.into_iter().collect()
}

/// Refuses settings that do not go together: an accepted configuration does what it says.
fn together<'v>(
    table: &Table<'v>,
    service: &Service,
    network: &Network,
    claims: &mut Claims<'v>,
    refusals: &mut Refusals,
) {
    let has = |mode: Mode| {
        service.mode == mode || service.servers.iter().any(|it| it.forwarding.mode() == mode)
    };
    let mut refuse = |wrong: bool, name: &str, expected: &str| {
        if wrong {
            refusals.add(table.at(name).expected(expected));
        }
    };
    let tunnelled = has(Mode::Tun);
    let wrong = service.encapsulation != Encapsulation::Ipip && !tunnelled;
    refuse(wrong, "encapsulation", "ipip: only mode tun has another");
    refuse(service.clamp_mss && !tunnelled, "clamp_mss", "false: only mode tun takes room");
    let wrong = service.hairpin && !has(Mode::Nat);
    refuse(wrong, "hairpin", "false: only servers of mode nat need it");
    let translated = has(Mode::Nat) || has(Mode::Snat);
    let wrong =
        service.helper == Some(Helper::Ftp) && (!translated || service.protocol == Protocol::Udp);
    refuse(wrong, "helper", "none: only modes nat and snat over tcp have one");
    let wrong = !service.sources.is_empty() && !has(Mode::Snat);
    refuse(wrong, "sources", "no sources: only mode snat has some");
    let is_sourced = |v4: bool| service.sources.iter().any(|source: &Address| source.is_v4() == v4);
    let mut leaving = service.servers.iter().filter(|it| it.forwarding.mode() == Mode::Snat);
    let wrong = !service.sources.is_empty() && leaving.any(|it| !is_sourced(it.address.is_v4()));
    refuse(wrong, "sources", "an address of the servers' family as well");
    let wrong = service.passive.is_some() && service.protocol == Protocol::Udp;
    refuse(wrong, "passive", "none: only connections over tcp tell whether servers answer");
    checks(table, service, network, refusals);
    if service.scheduler == Scheduler::Ops {
        one_packet(table, service, claims, refusals);
    }
}

/// What checks ask of the rest: servers that can be asked as they say, at a port that can be told.
fn checks(table: &Table<'_>, service: &Service, network: &Network, refusals: &mut Refusals) {
    let way = |server: &Server| network.clients_way(service, server);
    if service.check.virtual_address && !may_be_asked_as_clients(service, way) {
        let why = service.servers.iter().find_map(|server| way(server).err());
        let why = why.unwrap_or(NoWay::Snat);
        refusals.add(table.at("check").part("virtual").expected(format!("false: {why}")));
    }
    let mut told = false;
    let items = table.at("server").items(MAX_SERVERS, "").unwrap_or_default();
    for (server, item) in service.servers.iter().zip(&items) {
        let check = service.check_of(server);
        let at = match &server.check {
            None => table.at("check"),
            Some(_) => item.part("check"),
        };
        let also_virtual = server.check.as_ref().and_then(|own| own.written.virtual_address);
        if also_virtual == Some(true)
            && let Err(why) = way(server)
        {
            refusals.add(at.part("virtual").expected(format!("false: {why}")));
        }
        let shared = server.check.is_none();
        if check.kind.needs_port() && service.check_port(server).is_none() && !(shared && told) {
            told |= shared;
            let expected = "the port to ask, since the service has a range of them";
            refusals.add(at.part("port").expected(expected));
        }
    }
}

/// Whether any of a service's servers can be asked in the way that clients' packets take; or one that is still to come, of
/// the service's mode.
fn may_be_asked_as_clients(service: &Service, way: impl Fn(&Server) -> Result<(), NoWay>) -> bool {
    match service.mode {
        Mode::Dr | Mode::Tun => true,
        Mode::Nat if service.servers.is_empty() => true,
        Mode::Nat | Mode::Snat => service.servers.iter().any(|server| way(server).is_ok()),
    }
}

/// What one-packet scheduling asks of the rest (VS-03): no flow is remembered.
fn one_packet<'v>(
    table: &Table<'v>,
    service: &Service,
    claims: &mut Claims<'v>,
    refusals: &mut Refusals,
) {
    let scheduler = table.at("scheduler");
    if service.protocol != Protocol::Udp {
        refusals.add(scheduler.expected("a scheduler for connections: ops is for udp alone"));
        return;
    }
    let snat = |mode| mode == Mode::Snat;
    if snat(service.mode) || service.servers.iter().any(|it| snat(it.forwarding.mode())) {
        refusals.add(scheduler.expected("another scheduler than ops, which mode snat cannot have"));
        return;
    }
    if service.fallback_server().is_some() {
        let expected = "no server as fallback: with ops every datagram stands for itself";
        refusals.add(table.at("fallback").expected(expected));
    }
    if service.persistence.is_some() {
        refusals.add(
            table
                .at("persistence")
                .expected("no persistence: with ops every datagram stands for itself"),
        );
    }
    let mut answering = service.servers.iter().filter_map(|server| match server.forwarding {
        Forwarding::Nat { port } => Some((server.address, port)),
        _ => None,
    });
    let Some(first) = answering.next() else { return };
    let ports = service.ports.count();
    let fixed = |(_, port): (Address, Option<u16>)| port.is_some();
    let all: Vec<_> = std::iter::once(first).chain(answering).collect();
    if service.each_address().nth(1).is_some() {
        refusals.add(scheduler.expected(
            "another scheduler than ops: with mode nat it takes one virtual address, \
             because a reply must say whose it is",
        ));
        return;
    }
    let most = if all.iter().copied().any(fixed) { 1 } else { MAX_ANSWERING_PORTS };
    if ports > most {
        let expected = format!(
            "a number of ports that ops can tell apart in mode nat: at most {MAX_ANSWERING_PORTS}, \
             and one alone where a server has its own"
        );
        refusals.add(table.at("ports").refuse(expected, format!("{ports} ports")));
        return;
    }
    if claims.answering.len() + all.len() * ports > MAX_ANSWERING {
        let expected =
            format!("fewer servers and ports: at most {MAX_ANSWERING} of both for ops in mode nat");
        refusals.add(scheduler.expected(expected));
        return;
    }
    for (address, port) in all {
        let each = service.ports.ranges().flat_map(|(first, last)| first..=last);
        let answers = each.map(|own| (scheduler.clone(), address, port.unwrap_or(own)));
        claims.answering.extend(answers);
    }
}
