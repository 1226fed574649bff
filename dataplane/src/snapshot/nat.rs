//! Translation for servers that reach the outside through us (FEATURES 1.8), in the order in which it is
//! looked up: one-to-one pairs, then masquerading.

use super::{InterfaceId, Map};
use crate::wire::{Address, Prefix};

/// What becomes of packets that pass through us and belong to no virtual service.
#[derive(Debug, Clone, Default)]
pub struct NatRules {
    outside_of: Map<Address, Address>,
    inside_of: Map<Address, Address>,
    masquerades: Vec<Masquerade>,
}

/// Stations whose packets leave an interface with our address there (NAT-01).
#[derive(Debug, Clone)]
pub struct Masquerade {
    /// The interface that the packets leave on.
    pub out: InterfaceId,
    /// Whose packets.
    pub from: Vec<Prefix>,
    /// Our address that they leave with: one for each family that has one.
    pub source: Vec<Address>,
}

impl NatRules {
    /// From one-to-one pairs (inside, outside) and masquerading rules, each in the operator's order.
    pub fn new(
        pairs: impl IntoIterator<Item = (Address, Address)>,
        masquerades: Vec<Masquerade>,
    ) -> Self {
        let mut rules = Self { masquerades, ..Self::default() };
        for (inside, outside) in pairs {
            rules.outside_of.entry(inside).or_insert(outside);
            rules.inside_of.entry(outside).or_insert(inside);
        }
        rules
    }

    /// The address that a station of ours has outside, if it has its own (NAT-02).
    #[inline]
    pub fn outside_of(&self, inside: Address) -> Option<Address> {
        if self.outside_of.is_empty() { None } else { self.outside_of.get(&inside).copied() }
    }

    /// The station behind an outside address (NAT-02).
    #[inline]
    pub fn inside_of(&self, outside: Address) -> Option<Address> {
        if self.inside_of.is_empty() { None } else { self.inside_of.get(&outside).copied() }
    }

    /// The address that a packet from `source` takes when it leaves on `out`, if it is masqueraded.
    #[inline]
    pub fn masquerade(&self, source: Address, out: InterfaceId) -> Option<Address> {
        let rule = self
            .masquerades
            .iter()
            .find(|rule| rule.out == out && rule.from.iter().any(|it| it.contains(source)))?;
        rule.source.iter().copied().find(|address| address.is_v4() == source.is_v4())
    }

    /// Whether packets from `source` are to be looked at here at all.
    #[inline]
    pub fn concerns(&self, source: Address) -> bool {
        self.outside_of(source).is_some()
            || self.masquerades.iter().any(|rule| rule.from.iter().any(|it| it.contains(source)))
    }
}
