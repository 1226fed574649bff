//! The way to any address that is not a server's.

use super::{InterfaceId, Map};
use crate::wire::{Address, Prefix};

/// One way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Which destinations it is for.
    pub to: Prefix,
    /// The interface that leads there.
    pub interface: InterfaceId,
    /// The gateway; `None` where the destination is on the interface's own subnet.
    pub via: Option<Address>,
}

/// So many routes of one family are compared one by one, which takes less time than a hash of each prefix.
const FEW: usize = 16;

/// Connected subnets and static routes: the cost of a look-up is the number of routes where there are few, and
/// else of different prefix lengths.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    by_prefix: Map<Prefix, Route>,
    /// Prefix lengths in use, the longest first: IPv4's, then IPv6's.
    lengths: [Vec<u8>; 2],
    /// All routes of a family that has few, the longest prefix first: IPv4's, then IPv6's.
    few: [Vec<Compared>; 2],
}

/// A route with what a destination is compared with.
#[derive(Debug, Clone, Copy)]
struct Compared {
    network: Address,
    mask: Address,
    route: Route,
}

impl From<&Route> for Compared {
    fn from(&route: &Route) -> Self {
        let network = route.to.subnet().address();
        let all = Address::from_bits(u128::MAX);
        let others = if network.is_v4() { 128 - 32 } else { 0 };
        Self { network, mask: all.network(others + route.to.length()), route }
    }
}

impl Routes {
    /// From routes in any order; of two with the same prefix the earlier wins.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut all = Self::default();
        for route in routes {
            let prefix = route.to.subnet();
            all.by_prefix.entry(prefix).or_insert(route);
            let lengths = &mut all.lengths[usize::from(!prefix.address().is_v4())];
            if !lengths.contains(&prefix.length()) {
                lengths.push(prefix.length());
                lengths.sort_unstable_by(|a, b| b.cmp(a));
            }
        }
        for (is_v6, few) in all.few.iter_mut().enumerate() {
            let own = |route: &&Route| usize::from(!route.to.address().is_v4()) == is_v6;
            few.extend(all.by_prefix.values().filter(own).map(Compared::from));
            few.sort_unstable_by_key(|it| std::cmp::Reverse(it.route.to.length()));
            if few.len() > FEW {
                few.clear();
            }
        }
        all
    }

    /// The route with the longest prefix that holds `destination`.
    #[inline]
    pub fn to(&self, destination: Address) -> Option<&Route> {
        let family = usize::from(!destination.is_v4());
        let few = &self.few[family];
        if !few.is_empty() {
            let found = few.iter().find(|it| destination.masked(it.mask) == it.network);
            return found.map(|it| &it.route);
        }
        self.among_many(destination, family)
    }

    fn among_many(&self, destination: Address, family: usize) -> Option<&Route> {
        self.lengths[family].iter().find_map(|&length| {
            self.by_prefix.get(&Prefix::new(destination.network(length), length))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, length: u8, interface: u8) -> Route {
        let to = Prefix::new(to.parse().unwrap(), length);
        Route { to, interface: InterfaceId(interface), via: None }
    }

    #[test]
    fn the_longest_prefix_wins_and_the_earlier_of_two_alike() {
        let some = [
            route("0.0.0.0", 0, 0),
            route("10.0.0.0", 8, 1),
            route("10.1.0.0", 16, 2),
            route("10.1.0.0", 16, 3),
            route("::", 0, 4),
            route("2001:db8::", 32, 5),
        ];
        // Few, and so many that they are not compared one by one.
        let v4 = (0..20).map(|number| route(&format!("172.16.{number}.0"), 24, 9));
        let v6 = (0..20).map(|number| route(&format!("fd00:{number}::"), 64, 9));
        for routes in [Routes::new(some), Routes::new(some.into_iter().chain(v4).chain(v6))] {
            let to =
                |address: &str| routes.to(address.parse().unwrap()).map(|route| route.interface.0);
            assert_eq!(to("192.0.2.1"), Some(0));
            assert_eq!(to("10.9.0.1"), Some(1));
            assert_eq!(to("10.1.0.1"), Some(2));
            assert_eq!(to("2001:db9::1"), Some(4));
            assert_eq!(to("2001:db8:1::1"), Some(5));
        }
        assert_eq!(Routes::default().to("10.0.0.1".parse().unwrap()), None);
    }
}
