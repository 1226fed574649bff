//! `[node]`, `[dataplane]` and `[admin]`: settings that can be judged each by itself.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::SocketAddr;
use std::path::PathBuf;

use dataplane::snapshot::TRANSLATED_PORTS;

use super::{Admin, Certificate, Dataplane, Memory, Polling, name};
use crate::document;
use crate::field::{Field, Invalid, Refusals, Shape};
use crate::script::account;

const NODE: Shape = Shape { known: &["name", "scripts", "script_user"], later: &[] };

/// Its name, the directory of its scripts, and whom they run as.
pub(super) fn node(field: &Field<'_>, refusals: &mut Refusals) -> Option<document::Node> {
    let table = field.table(&NODE, refusals)?;
    let document::Node { name: usual, scripts, .. } = document::Node::default();
    let name = refusals.keep(table.at("name").or(usual, name));
    let scripts = table.at("scripts").or(scripts, |field| path(field, LONGEST_PATH));
    let scripts = refusals.keep(scripts);
    let script_user = refusals.keep(table.at("script_user").optional(user));
    Some(document::Node { name: name?, scripts: scripts?, script_user: script_user? })
}

/// Somebody whom this system knows.
fn user(field: &Field<'_>) -> Result<String, Invalid> {
    field.parsed("the name of a user of this system, such as nobody", |text| {
        account(text).ok().map(|user| user.name)
    })
}

const DATAPLANE: Shape = Shape {
    known: &["workers", "polling", "flows", "flows_ipv6", "clients", "fragments", "memory"],
    later: &[],
};

/// The highest processor number that Linux's affinity masks hold (CPU_SETSIZE - 1).
const LAST_CORE: u32 = 1023;
/// How many workers there can be.
const MOST_WORKERS: usize = 64;
/// The largest flow table that can be asked for, in flows.
const MOST_FLOWS: u32 = 100_000_000;

pub(super) fn dataplane(field: &Field<'_>, refusals: &mut Refusals) -> Option<Dataplane> {
    let table = field.table(&DATAPLANE, refusals)?;
    let defaults = document::Dataplane::default();
    let workers = workers(&table.at("workers"), refusals);
    let polling = table.at("polling").or(defaults.polling, |field| {
        field.parsed("adaptive or busy", |text| match text {
            "adaptive" => Some(Polling::Adaptive),
            "busy" => Some(Polling::Busy),
            _ => None,
        })
    });
    let polling = refusals.keep(polling);
    let flows = table.at("flows").or(defaults.flows, |field| field.number(1..=MOST_FLOWS));
    let flows = refusals.keep(flows);
    let flows_ipv6 = table.at("flows_ipv6").optional(|field| field.number(1..=MOST_FLOWS));
    let flows_ipv6 = refusals.keep(flows_ipv6);
    let clients = table.at("clients");
    let clients = clients.or(defaults.clients, |field| field.number(1024..=1 << 24));
    let clients = refusals.keep(clients);
    let fragments = table.at("fragments");
    let fragments = fragments.or(defaults.fragments, |field| field.number(16..=1 << 20));
    let fragments = refusals.keep(fragments);
    let memory = table.at("memory").optional(|field| {
        field.parsed("huge or plain", |text| match text {
            "huge" => Some(Memory::Huge),
            "plain" => Some(Memory::Plain),
            _ => None,
        })
    });
    let memory = refusals.keep(memory);
    Some(Dataplane {
        workers: workers?,
        polling: polling?,
        flows: flows?,
        flows_ipv6: flows_ipv6?,
        clients: clients?,
        fragments: fragments?,
        memory: memory?,
    })
}

fn workers(field: &Field<'_>, refusals: &mut Refusals) -> Option<Vec<u32>> {
    if !field.is_given() {
        return Some(Vec::new());
    }
    let expected = "a list of cores, such as [1, 2]";
    let items = refusals.keep(field.items(MOST_WORKERS, expected))?;
    if items.is_empty() {
        refusals.add(field.refuse(expected, "an empty list"));
        return None;
    }
    let number = |item: &Field<'_>| item.number(0..=LAST_CORE);
    let cores: Vec<_> = items.iter().map(|item| refusals.keep(number(item))).collect();
    let cores: Vec<_> = cores.into_iter().collect::<Option<_>>()?;
    Some(cores)
}

/// Refuses every value that stood earlier in the list.
fn each_once<T: Eq + Hash>(
    items: &[Field<'_>],
    values: &[T],
    expected: &str,
    refusals: &mut Refusals,
) -> Option<()> {
    let mut seen = HashSet::new();
    let twice: Vec<_> =
        items.iter().zip(values).filter(|(_, value)| !seen.insert(*value)).collect();
    for (item, _) in &twice {
        refusals.add(item.expected(format!("{expected} than before in the list")));
    }
    twice.is_empty().then_some(())
}

const ADMIN: Shape =
    Shape { known: &["listen", "in_band", "socket", "certificate", "key"], later: &[] };

/// The longest path of a Unix socket, in bytes (`sun_path` less its final zero, unix(7)).
const LONGEST_SOCKET: usize = 107;
/// The longest path of a file, in bytes (PATH_MAX less its final zero).
pub(super) const LONGEST_PATH: usize = 4095;

pub(super) fn admin(field: &Field<'_>, refusals: &mut Refusals) -> Option<Admin> {
    let table = field.table(&ADMIN, refusals)?;
    let defaults = document::Admin::default();
    let listen = if table.at("listen").is_given() {
        listen(&table.at("listen"), refusals)
    } else {
        Some(defaults.listen)
    };
    let in_band = in_band(&table.at("in_band"), listen.as_deref(), refusals);
    let socket = table.at("socket").or(defaults.socket, |field| path(field, LONGEST_SOCKET));
    let socket = refusals.keep(socket);
    let certificate = certificate(&table.at("certificate"), &table.at("key"), refusals);
    Some(Admin { listen: listen?, in_band: in_band?, socket: socket?, certificate: certificate? })
}

fn listen(field: &Field<'_>, refusals: &mut Refusals) -> Option<Vec<SocketAddr>> {
    let items = refusals.keep(field.items(16, "a list, such as [\"127.0.0.1:9443\"]"))?;
    let socket = |item: &Field<'_>| {
        item.parsed("an address with a port, such as 127.0.0.1:9443", |text| text.parse().ok())
    };
    let sockets: Vec<_> = items.iter().map(|item| refusals.keep(socket(item))).collect();
    let sockets: Vec<_> = sockets.into_iter().collect::<Option<_>>()?;
    each_once(&items, &sockets, "another address", refusals)?;
    Some(sockets)
}

/// The API on the data ports has the ports of `listen`, and none that translated flows may leave with.
fn in_band(
    field: &Field<'_>,
    listen: Option<&[SocketAddr]>,
    refusals: &mut Refusals,
) -> Option<bool> {
    let wanted = refusals.keep(field.or(false, |field| field.truth()))?;
    let first = *TRANSLATED_PORTS.start();
    let has_port =
        listen.is_none_or(|listen| listen.iter().any(|it| (1..first).contains(&it.port())));
    if wanted && !has_port {
        let expected =
            format!("false, or an address in admin.listen with a port from 1 to {}", first - 1);
        refusals.add(field.refuse(expected, "true"));
        return None;
    }
    Some(wanted)
}

pub(super) fn path(field: &Field<'_>, longest: usize) -> Result<PathBuf, Invalid> {
    let expected = "an absolute path";
    let text = field.text(longest, expected)?;
    let is_path = text.starts_with('/') && !text.contains('\0');
    if is_path { Ok(text.into()) } else { Err(field.expected(expected)) }
}

fn certificate(
    chain: &Field<'_>,
    key: &Field<'_>,
    refusals: &mut Refusals,
) -> Option<Option<Certificate>> {
    let chain_path = refusals.keep(chain.optional(|field| path(field, LONGEST_PATH)));
    let key_path = refusals.keep(key.optional(|field| path(field, LONGEST_PATH)));
    match (chain_path?, key_path?) {
        (Some(chain), Some(key)) => Some(Some(Certificate { chain, key })),
        (None, None) => Some(None),
        (Some(_), None) => {
            refusals.add(key.expected("the path of the certificate's key"));
            None
        }
        (None, Some(_)) => {
            refusals.add(chain.expected("the path of the key's certificate"));
            None
        }
    }
}
