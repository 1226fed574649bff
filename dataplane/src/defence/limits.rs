//! Shares of what is scarce: new flows for each service and for each client's network. One worker's own,
//! in memory that never grows.
//!
//! A service has a bucket of its own. Networks are without number, so a network has one of many buckets
//! in each of two rows, wherever a keyed hash puts it, and others may share them. A flow is refused only
//! if both of its buckets are empty: a network within its limit suffers only if in both rows it shares a
//! bucket with others that took what there was. Who is over the limit gains nothing, because a flow that
//! is let in is paid for in both rows.

use std::time::Duration;

use crate::hash::{Keyed, place};
use crate::moment::Moment;
use crate::wire::Prefix;

/// How many, for how long: given at each question, since the operator may change it at any time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// In a second; 0 is no limit.
    pub rate: u32,
    /// At once; at least 1.
    pub burst: u32,
}

impl Limit {
    /// `None` if there is no limit, or none to be noticed.
    fn price(self) -> Option<Price> {
        let interval = 1_000_000_000u64.checked_div(u64::from(self.rate)).filter(|&it| it > 0)?;
        let depth = interval.saturating_mul(u64::from(self.burst.max(1)));
        Some(Price { token: Duration::from_nanos(interval), depth: Duration::from_nanos(depth) })
    }
}

/// A limit as time.
#[derive(Clone, Copy)]
struct Price {
    /// That one token takes to come.
    token: Duration,
    /// That a bucket takes to fill.
    depth: Duration,
}

/// A token bucket: up to when its tokens have been spent. See [`crate::punt::limit`].
#[derive(Clone, Copy, Default)]
struct Bucket(Moment);

impl Bucket {
    /// Whether there is a token.
    fn has(&mut self, price: Price, now: Moment) -> bool {
        let empty = now.plus(price.depth);
        // No emptier than empty: it may have been emptied under a limit that took longer to fill it.
        self.0 = self.0.clamp(now, empty);
        self.0.plus(price.token) <= empty
    }

    /// Takes a token, or what there is of one.
    fn pay(&mut self, price: Price, now: Moment) {
        self.0 = self.0.plus(price.token).min(now.plus(price.depth));
    }
}

/// Rates of new flows.
pub struct Rates {
    services: Box<[Bucket]>,
    networks: [Box<[Bucket]>; 2],
    hash: Keyed,
}

/// What a service and a client's network had left.
pub struct Left {
    slot: u16,
    network: Prefix,
    service: Option<Bucket>,
    networks: [Bucket; 2],
}

impl Rates {
    /// For services in so many slots, and networks in two rows of so many buckets; `key` must be random.
    pub fn new(services: usize, networks: usize, key: [u64; 2]) -> Self {
        let buckets = |count: usize| vec![Bucket::default(); count].into_boxed_slice();
        Self {
            services: buckets(services),
            networks: [buckets(networks.max(1)), buckets(networks.max(1))],
            hash: Keyed::new(key),
        }
    }

    /// Whether the service in this slot may have one more flow; if so, it is counted.
    pub fn service(&mut self, slot: u16, limit: Limit, now: Moment) -> bool {
        let Some((price, bucket)) = limit.price().zip(self.services.get_mut(usize::from(slot)))
        else {
            return true;
        };
        let allowed = bucket.has(price, now);
        if allowed {
            bucket.pay(price, now);
        }
        allowed
    }

    /// Whether a client's network may have one more flow to the service in this slot; if so, it is counted.
    pub fn network(&mut self, slot: u16, network: Prefix, limit: Limit, now: Moment) -> bool {
        let Some(price) = limit.price() else {
            return true;
        };
        let mut buckets = self.buckets(slot, network);
        let [left, right] = buckets.each_mut().map(|bucket| bucket.has(price, now));
        let allowed = left || right;
        if allowed {
            buckets.into_iter().for_each(|bucket| bucket.pay(price, now));
        }
        allowed
    }

    /// What a service and a client's network have left, to be put back by [`Rates::put_back`].
    pub fn left(&mut self, slot: u16, network: Prefix) -> Left {
        let service = self.services.get(usize::from(slot)).copied();
        let networks = self.buckets(slot, network).map(|bucket| *bucket);
        Left { slot, network, service, networks }
    }

    /// Gives back what was taken since.
    pub fn put_back(&mut self, Left { slot, network, service, networks }: Left) {
        for (bucket, before) in self.buckets(slot, network).into_iter().zip(networks) {
            *bucket = before;
        }
        if let Some((bucket, before)) = self.services.get_mut(usize::from(slot)).zip(service) {
            *bucket = before;
        }
    }

    fn buckets(&mut self, slot: u16, network: Prefix) -> [&mut Bucket; 2] {
        let address = network.subnet().address().bits();
        let rest = u64::from(slot) << 8 | u64::from(network.length());
        let hash = self.hash.of([address as u64, (address >> 64) as u64, rest]);
        let [left, right] = &mut self.networks;
        let (in_left, in_right) =
            (place(hash as u32, left.len()), place((hash >> 32) as u32, right.len()));
        [&mut left[in_left], &mut right[in_right]]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Limit = Limit { rate: 1_000, burst: 10 };

    fn at(milliseconds: u64) -> Moment {
        Moment::START.plus(Duration::from_millis(milliseconds))
    }

    fn network(number: u32) -> Prefix {
        Prefix::new(std::net::Ipv4Addr::from_bits(number << 8).into(), 24)
    }

    /// How many of a hundred are let in.
    fn of_a_hundred(mut asked: impl FnMut() -> bool) -> usize {
        (0..100).filter(|_| asked()).count()
    }

    #[test]
    fn a_service_gets_its_burst_and_then_its_rate() {
        let mut rates = Rates::new(2, 1, [3, 5]);
        assert_eq!(of_a_hundred(|| rates.service(0, LIMIT, at(5))), 10);
        assert_eq!(of_a_hundred(|| rates.service(0, LIMIT, at(8))), 3);
        assert_eq!(of_a_hundred(|| rates.service(1, LIMIT, at(8))), 10);
        assert_eq!(of_a_hundred(|| rates.service(0, LIMIT, at(60_000))), 10);
    }

    #[test]
    fn a_network_gets_its_burst_and_then_its_rate() {
        let mut rates = Rates::new(2, 1_024, [3, 5]);
        assert_eq!(of_a_hundred(|| rates.network(0, network(1), LIMIT, at(5))), 10);
        assert_eq!(of_a_hundred(|| rates.network(0, network(1), LIMIT, at(8))), 3);
        assert_eq!(of_a_hundred(|| rates.network(0, network(2), LIMIT, at(8))), 10);
        assert_eq!(of_a_hundred(|| rates.network(1, network(1), LIMIT, at(8))), 10);
    }

    #[test]
    fn all_clients_of_a_network_share_its_limit() {
        let mut rates = Rates::new(1, 1_024, [3, 5]);
        let client = |host: u8| Prefix::new(std::net::Ipv4Addr::new(10, 0, 0, host).into(), 24);
        assert_eq!(
            (0..100).filter(|&host| rates.network(0, client(host), LIMIT, at(5))).count(),
            10
        );
    }

    #[test]
    fn asking_too_often_takes_nothing_from_what_comes() {
        let mut rates = Rates::new(1, 16, [3, 5]);
        let often = || (0..100_000).map(|tenth| Moment::from_nanos(tenth * 100_000));
        let let_in = often().filter(|&now| rates.service(0, LIMIT, now)).count();
        assert_eq!(let_in, 10_009);
        let let_in = often().filter(|&now| rates.network(0, network(1), LIMIT, now)).count();
        assert_eq!(let_in, 10_009);
    }

    #[test]
    fn a_rate_of_zero_and_a_slot_that_is_not_there_have_no_limit() {
        let mut rates = Rates::new(1, 1, [3, 5]);
        let none = Limit { rate: 0, burst: 0 };
        assert_eq!(of_a_hundred(|| rates.service(0, none, at(5))), 100);
        assert_eq!(of_a_hundred(|| rates.network(0, network(1), none, at(5))), 100);
        assert_eq!(of_a_hundred(|| rates.service(1, LIMIT, at(5))), 100);
    }

    #[test]
    fn a_burst_of_zero_lets_in_one_at_a_time() {
        let mut rates = Rates::new(1, 1, [3, 5]);
        let limit = Limit { burst: 0, ..LIMIT };
        assert_eq!(of_a_hundred(|| rates.service(0, limit, at(5))), 1);
        assert_eq!(of_a_hundred(|| rates.service(0, limit, at(6))), 1);
    }

    #[test]
    fn a_raised_limit_counts_at_once() {
        let mut rates = Rates::new(1, 1, [3, 5]);
        let slow = Limit { rate: 1, burst: 50 };
        assert_eq!(of_a_hundred(|| rates.service(0, slow, at(5))), 50);
        assert_eq!(of_a_hundred(|| rates.service(0, LIMIT, at(5))), 0);
        assert_eq!(of_a_hundred(|| rates.service(0, LIMIT, at(8))), 3);
    }

    #[test]
    fn a_network_is_refused_for_others_only_if_they_emptied_both_its_buckets() {
        let mut rates = Rates::new(1, 256, [3, 5]);
        // As many floods as empty a tenth of each row; an innocent network has both buckets among them
        // once in a hundred times.
        for flood in 0..27 {
            of_a_hundred(|| rates.network(0, network(flood), LIMIT, at(5)));
        }
        let refused = (1_000..11_000)
            .filter(|&innocent| {
                let [left, right] = rates.buckets(0, network(innocent)).map(|bucket| *bucket);
                let allowed = rates.network(0, network(innocent), LIMIT, at(5));
                let [left_now, right_now] = rates.buckets(0, network(innocent));
                (*left_now, *right_now) = (left, right);
                !allowed
            })
            .count();
        assert!((50..200).contains(&refused), "{refused}");
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_the_limit_whoever_shares_the_buckets(
            buckets in 1usize..6,
            rate in 1u32..2_000,
            burst in 0u32..20,
            steps in prop::collection::vec((0u32..6, 0u64..3_000_000), 1..400),
        ) {
            let limit = Limit { rate, burst };
            let mut rates = Rates::new(1, buckets, [3, 5]);
            let mut let_in = [0u64; 6];
            let mut now = Moment::START;
            for (client, later) in steps {
                now = now.plus(Duration::from_nanos(later));
                let_in[client as usize] += u64::from(rates.network(0, network(client), limit, now));
                let most = u64::from(burst.max(1)) + now.nanos() / (1_000_000_000 / u64::from(rate));
                prop_assert!(let_in[client as usize] <= most);
            }
        }
    }
}
