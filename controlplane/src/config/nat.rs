//! `[[nat]]`: translation for stations that reach out through us.

use std::collections::HashSet;

use dataplane::wire::{Address, Prefix};

use super::address::{address, prefix};
use super::network::Network;
use super::{Interface, NatKind, NatRule};
use crate::field::{Field, Invalid, Refusals, Shape, Table};

/// How many rules a node can have.
const MAX_RULES: usize = 1024;
/// How many prefixes a rule can have.
const MAX_PREFIXES: usize = 256;

const NAT: Shape = Shape { known: &["kind", "out", "from", "inside", "outside"], later: &[] };

/// The rules in the operator's order. What pairs have outside is claimed in `network`.
pub(super) fn rules(
    field: &Field<'_>,
    network: &mut Network,
    refusals: &mut Refusals,
) -> Vec<NatRule> {
    let items = field.items(MAX_RULES, "a list of rules, [[nat]] in TOML");
    let Some(items) = refusals.keep(items) else { return Vec::new() };
    let mut seen = Seen::default();
    items.iter().filter_map(|item| rule(item, network, &mut seen, refusals)).collect()
}

/// Addresses of earlier pairs.
#[derive(Default)]
struct Seen {
    inside: HashSet<Address>,
    outside: HashSet<Address>,
}

fn rule(
    item: &Field<'_>,
    network: &mut Network,
    seen: &mut Seen,
    refusals: &mut Refusals,
) -> Option<NatRule> {
    let table = item.table(&NAT, refusals)?;
    let kind = table.at("kind").parsed("masquerade or pair", |text| match text {
        "masquerade" => Some(NatKind::Masquerade),
        "pair" => Some(NatKind::Pair),
        _ => None,
    });
    match refusals.keep(kind) {
        None => {
            each_by_itself(&table, network, refusals);
            None
        }
        Some(NatKind::Masquerade) => {
            none_of(&table, ["inside", "outside"], "a pair has", refusals);
            masquerade(&table, network, refusals)
        }
        Some(NatKind::Pair) => {
            none_of(&table, ["out", "from"], "a masquerade has", refusals);
            pair(&table, network, seen, refusals)
        }
    }
}

/// Of a rule whose kind is not known, no more can be judged.
fn each_by_itself(table: &Table<'_>, network: &Network, refusals: &mut Refusals) {
    refusals.keep(table.at("out").optional(|field| network.interface_named(field)));
    for item in refusals.keep(prefixes(&table.at("from"))).unwrap_or_default() {
        refusals.keep(prefix(&item));
    }
    refusals.keep(table.at("inside").optional(address));
    refusals.keep(table.at("outside").optional(address));
}

/// What a list of prefixes must be.
const PREFIXES: &str = "a list of prefixes, such as [\"192.168.1.0/24\"]";

fn prefixes<'v>(field: &Field<'v>) -> Result<Vec<Field<'v>>, Invalid> {
    let items = field.items(MAX_PREFIXES, PREFIXES)?;
    match items.is_empty() && field.is_given() {
        true => Err(field.refuse(PREFIXES, "an empty list")),
        false => Ok(items),
    }
}

fn none_of(table: &Table<'_>, names: [&str; 2], who: &str, refusals: &mut Refusals) {
    for name in names {
        let field = table.at(name);
        if field.is_given() {
            refusals.add(field.expected(format!("no {name}, which {who}")));
        }
    }
}

fn masquerade(table: &Table<'_>, network: &Network, refusals: &mut Refusals) -> Option<NatRule> {
    let out = refusals.keep(network.interface_named(&table.at("out")));
    let from_field = table.at("from");
    let items = refusals.keep(prefixes(&from_field))?;
    let interface = out.and_then(|out| network.interfaces.get(usize::from(out.0)));
    let interface = interface.filter(|_| network.is_complete());
    let read = |item: &Field<'_>| {
        let from = prefix(item)?;
        match interface {
            Some(interface) if !has_family_of(interface, from) => Err(item.expected(format!(
                "a prefix of a family that interface {} has an address of",
                interface.name
            ))),
            _ => Ok(from),
        }
    };
    let from: Vec<_> = items.iter().map(|item| refusals.keep(read(item))).collect();
    let from = from.into_iter().collect::<Option<Vec<_>>>()?;
    let rule = NatRule::Masquerade { out: out?, from };
    if interface.is_some() && rule.sources_in(&network.interfaces).is_empty() {
        refusals.add(from_field.expected(
            "a list of prefixes, because no interface but the one that packets leave on \
             has gateway = true",
        ));
        return None;
    }
    Some(rule)
}

fn has_family_of(interface: &Interface, prefix: Prefix) -> bool {
    let v4 = prefix.address().is_v4();
    interface.addresses.iter().any(|own| own.address().is_v4() == v4)
}

impl NatRule {
    /// Whose packets a masquerade is for; none for a pair. What the operator left out is every subnet
    /// of another interface that is a gateway, of families that the outer interface has.
    pub fn sources_in(&self, interfaces: &[Interface]) -> Vec<Prefix> {
        let Self::Masquerade { out, from } = self else { return Vec::new() };
        if !from.is_empty() {
            return from.clone();
        }
        let leaves_on = usize::from(out.0);
        let others = interfaces.iter().enumerate().filter(|&(position, _)| position != leaves_on);
        let gateways = others.map(|(_, interface)| interface).filter(|it| it.gateway);
        let subnets = gateways.flat_map(|it| &it.addresses).map(|own| own.subnet());
        let out = interfaces.get(leaves_on);
        subnets.filter(|&it| out.is_some_and(|out| has_family_of(out, it))).collect()
    }
}

fn pair(
    table: &Table<'_>,
    network: &mut Network,
    seen: &mut Seen,
    refusals: &mut Refusals,
) -> Option<NatRule> {
    let once = |field: &Field<'_>, seen: &mut HashSet<Address>, address: Address| {
        let fresh = seen.insert(address);
        fresh.then_some(address).ok_or_else(|| field.expected("an address of no other pair"))
    };
    let inside_field = table.at("inside");
    let inside = address(&inside_field).and_then(|address| {
        network.server_address(&inside_field, address, false)?;
        once(&inside_field, &mut seen.inside, address)
    });
    let inside = refusals.keep(inside);
    let outside_field = table.at("outside");
    let outside = address(&outside_field).and_then(|address| {
        let address = once(&outside_field, &mut seen.outside, address)?;
        network.virtual_address(&outside_field, address)?;
        same_family(&outside_field, address, inside)?;
        network.claim(address, outside_field.path());
        Ok(address)
    });
    let outside = refusals.keep(outside);
    Some(NatRule::Pair { inside: inside?, outside: outside? })
}

fn same_family(
    field: &Field<'_>,
    outside: Address,
    inside: Option<Address>,
) -> Result<(), Invalid> {
    match inside {
        Some(inside) if inside.is_v4() != outside.is_v4() => {
            Err(field.expected(format!("an address of the family of {inside}")))
        }
        _ => Ok(()),
    }
}
