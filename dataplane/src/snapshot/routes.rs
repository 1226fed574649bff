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

/// Connected subnets and static routes: the cost of a look-up is the number of different prefix lengths.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    by_prefix: Map<Prefix, Route>,
    /// Prefix lengths in use, the longest first: IPv4's, then IPv6's.
    lengths: [Vec<u8>; 2],
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
        all
    }

    /// The route with the longest prefix that holds `destination`.
    #[inline]
    pub fn to(&self, destination: Address) -> Option<&Route> {
        self.lengths[usize::from(!destination.is_v4())].iter().find_map(|&length| {
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
        let routes = Routes::new([
            route("0.0.0.0", 0, 0),
            route("10.0.0.0", 8, 1),
            route("10.1.0.0", 16, 2),
            route("10.1.0.0", 16, 3),
            route("::", 0, 4),
            route("2001:db8::", 32, 5),
        ]);
        let to = |address: &str| routes.to(address.parse().unwrap()).map(|route| route.interface.0);
        assert_eq!(to("192.0.2.1"), Some(0));
        assert_eq!(to("10.9.0.1"), Some(1));
        assert_eq!(to("10.1.0.1"), Some(2));
        assert_eq!(to("2001:db9::1"), Some(4));
        assert_eq!(to("2001:db8:1::1"), Some(5));
        assert_eq!(Routes::default().to("10.0.0.1".parse().unwrap()), None);
    }
}
