//! Where services are published: address, protocol and port to a service's slot. Every packet is looked up here
//! before anything is known of it, so this is a table of its own: open addressing, at most half full, so that
//! nearly every look-up ends at the first place. The keys are the operator's, so a hash that strangers could
//! predict does them no good.

use super::Protocol;
use crate::wire::Address;

/// One address, protocol and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    address: Address,
    /// Port and protocol in one; no protocol is number 0, so a vacant place is like no key.
    end: u32,
}

impl Key {
    #[inline]
    fn new(address: Address, protocol: Protocol, port: u16) -> Self {
        Self { address, end: u32::from(port) << 8 | protocol as u32 }
    }

    /// Where it belongs among `2^(64 - shift)` places (Fibonacci hashing).
    #[inline]
    fn place(&self, shift: u32) -> usize {
        let word = self.address.in_one_word() ^ u64::from(self.end).rotate_left(40);
        ((word ^ word >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize
    }
}

/// The ports that services are published on.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// A power of two of them.
    places: Vec<(Key, u16)>,
    shift: u32,
    used: usize,
}

const VACANT: (Key, u16) = (Key { address: Address::from_bits(0), end: 0 }, 0);

impl Default for Endpoints {
    fn default() -> Self {
        Self::with_places(4)
    }
}

impl Endpoints {
    /// `places` is a power of two, 2 at least.
    fn with_places(places: usize) -> Self {
        Self { places: vec![VACANT; places], shift: 64 - places.ilog2(), used: 0 }
    }

    /// Publishes the service with this slot, in the place of any that was there.
    pub fn insert(&mut self, address: Address, protocol: Protocol, port: u16, slot: u16) {
        if (self.used + 1) * 2 > self.places.len() {
            let mut larger = Self::with_places(self.places.len() * 2);
            for &(key, slot) in self.places.iter().filter(|it| **it != VACANT) {
                larger.put(key, slot);
            }
            *self = larger;
        }
        self.put(Key::new(address, protocol, port), slot);
    }

    fn put(&mut self, key: Key, slot: u16) {
        let mut place = key.place(self.shift);
        while self.places[place].0.end != 0 && self.places[place].0 != key {
            place = (place + 1) % self.places.len();
        }
        self.used += usize::from(self.places[place].0.end == 0);
        self.places[place] = (key, slot);
    }

    /// The slot of the service that is published there.
    #[inline]
    pub fn get(&self, address: Address, protocol: Protocol, port: u16) -> Option<u16> {
        let key = Key::new(address, protocol, port);
        let mut place = key.place(self.shift);
        // It ends, because half of the places are vacant.
        while let Some((there, slot)) = self.places.get(place) {
            if *there == key {
                return Some(*slot);
            }
            if there.end == 0 {
                return None;
            }
            place = (place + 1) & (self.places.len() - 1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn endpoint() -> impl Strategy<Value = (Address, Protocol, u16)> {
        let v4 = (0u32..64).prop_map(|low| std::net::Ipv4Addr::from_bits(low << 5).into());
        let v6 = (0u128..8, 0u128..8).prop_map(|(a, b)| Address::from_bits(1 << 120 | a << 64 | b));
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        (prop_oneof![v4, v6], protocol, 0u16..20)
    }

    proptest! {
        #[test]
        fn what_is_published_is_found_and_nothing_else(
            published in prop::collection::vec((endpoint(), any::<u16>()), 0..400),
            asked in prop::collection::vec(endpoint(), 0..100),
        ) {
            let (mut endpoints, mut plain) = (Endpoints::default(), HashMap::new());
            for &((address, protocol, port), slot) in &published {
                endpoints.insert(address, protocol, port, slot);
                plain.insert((address, protocol as u8, port), slot);
            }
            for (address, protocol, port) in published.iter().map(|it| it.0).chain(asked) {
                let expected = plain.get(&(address, protocol as u8, port)).copied();
                prop_assert_eq!(endpoints.get(address, protocol, port), expected);
            }
        }
    }

    #[test]
    fn a_hundred_thousand_endpoints_are_found_within_a_few_steps() {
        let mut endpoints = Endpoints::default();
        for number in 0..100_000u32 {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number / 50).into();
            endpoints.insert(address, Protocol::Tcp, 8_000 + (number % 50) as u16, number as u16);
        }
        // The longest row of places that are taken bounds every look-up, of those that are not there too.
        let rows = endpoints.places.split(|(key, _)| key.end == 0).map(<[_]>::len);
        let longest = rows.max().unwrap();
        assert!(longest < 64, "{longest}");
    }
}
