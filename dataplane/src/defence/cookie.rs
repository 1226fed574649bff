//! SYN cookies (RFC 4987 section 3.6): our initial sequence number says all that there is to remember of
//! a SYN, so that nothing is remembered until the client has shown that it can receive at its address.
//!
//! From the highest bit: 5 bits of a counter of 64-second periods and 3 bits of an index to the maximum
//! segment size, both under a mask that only we can know, then 24 bits of a keyed hash over addresses,
//! ports, the client's initial sequence number, the whole counter and the index. A cookie is good in its
//! own period and the one after. Whoever guesses must also hit the mask: one acknowledgement made up in
//! 2^28 is taken for a good one.
//!
//! A cookie says nothing of window scaling, selective acknowledgements and timestamps.

use std::time::Duration;

use super::siphash::siphash;
use crate::moment::Moment;
use crate::wire::Address;

/// How long a cookie is good: at least one of these, at most two.
const PERIOD: Duration = Duration::from_secs(64);
/// The counter's bits that a cookie has room for.
const COUNTER_BITS: u32 = 5;
/// The bits of a cookie that hold the keyed hash.
const PROOF: u32 = 0x00ff_ffff;

/// Maximum segment sizes that a cookie can stand for. Both begin with what any path carries; then come
/// tunnels of different depth, PPPoE, Ethernet and jumbo frames.
const SIZES_V4: [u16; 8] = [216, 536, 1200, 1360, 1400, 1440, 1460, 8960];
/// The same for IPv6, whose header is 20 bytes longer and whose links carry 1,280 bytes (RFC 8200).
const SIZES_V6: [u16; 8] = [216, 536, 1220, 1340, 1380, 1420, 1440, 8940];

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The client's address and port.
    pub client: (Address, u16),
    /// The service's address and port, as the client uses them.
    pub service: (Address, u16),
}

impl Ends {
    fn sizes(&self) -> &'static [u16; 8] {
        if self.client.0.is_v4() { &SIZES_V4 } else { &SIZES_V6 }
    }
}

/// Makes cookies and knows its own again. All workers of a node have the same key, since the
/// acknowledgement may come to another one than the SYN.
#[derive(Clone)]
pub struct Cookies {
    key: [u64; 2],
}

impl Cookies {
    /// `key` must be random and secret.
    pub fn new(key: [u64; 2]) -> Self {
        Self { key }
    }

    /// Our initial sequence number for a SYN that carried the client's and offered this maximum segment
    /// size. What the cookie remembers is the next lower size that it can say.
    pub fn issue(&self, ends: &Ends, client_isn: u32, mss: u16, now: Moment) -> u32 {
        let index = ends.sizes().iter().rposition(|&size| size <= mss).unwrap_or(0) as u32;
        let counter = period(now);
        let base = self.base(ends, client_isn);
        let clear = (counter as u32) << 3 & 0xff | index;
        (clear << 24 ^ mask(base)) | self.proof(base, counter, index)
    }

    /// The maximum segment size, if this acknowledgement is to a cookie of ours that is still good.
    /// `sequence` is that of the client's first byte.
    pub fn verify(
        &self,
        ends: &Ends,
        acknowledgement: u32,
        sequence: u32,
        now: Moment,
    ) -> Option<u16> {
        let cookie = acknowledgement.wrapping_sub(1);
        let base = self.base(ends, sequence.wrapping_sub(1));
        let clear = (cookie ^ mask(base)) >> 24;
        let (low, index) = (clear >> 3, clear & 7);
        let age = (period(now) as u32).wrapping_sub(low) % (1 << COUNTER_BITS);
        if age > 1 {
            return None;
        }
        let counter = period(now).checked_sub(u64::from(age))?;
        let good = cookie & PROOF == self.proof(base, counter, index);
        good.then(|| ends.sizes().get(index as usize).copied()).flatten()
    }

    /// What only we can know of a SYN.
    fn base(&self, ends: &Ends, client_isn: u32) -> u64 {
        let halves = |address: Address| [address.bits() as u64, (address.bits() >> 64) as u64];
        let ([a, b], [c, d]) = (halves(ends.client.0), halves(ends.service.0));
        let ports = u64::from(ends.client.1) << 16 | u64::from(ends.service.1);
        self.hash([a, b, c, d, u64::from(client_isn) << 32 | ports])
    }

    /// The lower 24 bits of a cookie.
    fn proof(&self, base: u64, counter: u64, index: u32) -> u32 {
        self.hash([base, counter, u64::from(index)]) as u32 & PROOF
    }

    fn hash<const N: usize>(&self, words: [u64; N]) -> u64 {
        siphash(self.key, words.map(u64::to_le_bytes).as_flattened())
    }
}

/// Covers the counter and the index.
fn mask(base: u64) -> u32 {
    base as u32 & !PROOF
}

fn period(now: Moment) -> u64 {
    now.since(Moment::START).as_secs() / PERIOD.as_secs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ISN: u32 = 0x1234_5678;

    fn ends() -> Ends {
        let address = |text: &str| text.parse().unwrap();
        Ends { client: (address("198.51.100.7"), 40_000), service: (address("192.0.2.1"), 80) }
    }

    fn ends_v6() -> Ends {
        let address = |text: &str| text.parse().unwrap();
        Ends { client: (address("2001:db8::7"), 40_000), service: (address("2001:db8::1"), 80) }
    }

    fn at(seconds: u64) -> Moment {
        Moment::START.plus(Duration::from_secs(seconds))
    }

    fn cookies() -> Cookies {
        Cookies::new([3, 5])
    }

    /// What the client's acknowledgement of a cookie says.
    fn answered(ends: &Ends, mss: u16) -> Option<u16> {
        let cookie = cookies().issue(ends, ISN, mss, at(100));
        cookies().verify(ends, cookie.wrapping_add(1), ISN + 1, at(101))
    }

    #[test]
    fn the_client_s_segment_size_comes_back_rounded_down() {
        for (offered, kept) in [
            (0, 216),
            (216, 216),
            (535, 216),
            (536, 536),
            (1_380, 1_360),
            (1_452, 1_440),
            (1_460, 1_460),
            (8_959, 1_460),
            (8_960, 8_960),
            (65_535, 8_960),
        ] {
            assert_eq!(answered(&ends(), offered), Some(kept), "{offered}");
        }
        for (offered, kept) in [(1_220, 1_220), (1_432, 1_420), (1_440, 1_440), (65_535, 8_940)] {
            assert_eq!(answered(&ends_v6(), offered), Some(kept), "{offered}");
        }
    }

    #[test]
    fn a_cookie_is_good_in_its_period_and_the_next_alone() {
        for issued in [0, 100, 64 * 31, 64 * 32 + 63, 1_000_000] {
            let cookie = cookies().issue(&ends(), ISN, 1_460, at(issued));
            let good = |now| cookies().verify(&ends(), cookie.wrapping_add(1), ISN + 1, at(now));
            let period = issued / 64 * 64;
            assert_eq!(good(issued), Some(1_460));
            assert_eq!(good(period + 127), Some(1_460));
            assert_eq!(good(period + 128), None);
            assert_eq!(good(period + 64 * 32), None, "the counter came round");
            assert_eq!(period.checked_sub(1).and_then(good), None, "from the future");
        }
    }

    #[test]
    fn cookies_of_another_node_or_connection_are_refused() {
        let acknowledgement = cookies().issue(&ends(), ISN, 1_460, at(100)).wrapping_add(1);
        let good = |ends: &Ends, isn: u32| {
            cookies().verify(ends, acknowledgement, isn.wrapping_add(1), at(100)).is_some()
        };
        let Ends { client, service } = ends();
        assert!(good(&ends(), ISN));
        assert!(!good(&ends(), ISN + 1));
        assert!(!good(&Ends { client: (client.0, 40_001), service }, ISN));
        assert!(!good(&Ends { client, service: (service.0, 81) }, ISN));
        assert!(!good(&Ends { client: (service.0, 40_000), service }, ISN));
        assert!(!good(&Ends { client: service, service: client }, ISN));
        let other = Cookies::new([3, 4]).verify(&ends(), acknowledgement, ISN + 1, at(100));
        assert_eq!(other, None);
    }

    #[test]
    fn two_workers_with_one_key_know_each_other_s_cookies() {
        let (one, other) = (Cookies::new([7, 9]), Cookies::new([7, 9]));
        let cookie = one.issue(&ends(), ISN, 1_460, at(63));
        assert_eq!(other.verify(&ends(), cookie.wrapping_add(1), ISN + 1, at(64)), Some(1_460));
    }

    #[test]
    fn a_guess_is_as_good_as_none() {
        // Each cookie for one of two periods and eight sizes is one of 2^32: none should be met here.
        let guess = |at_random: u32| at_random.wrapping_mul(0x9e37_79b1);
        let met = (0..200_000)
            .filter(|&n| cookies().verify(&ends(), guess(n), ISN + 1, at(100)).is_some())
            .count();
        assert!(met <= 1, "{met}");
    }

    proptest! {
        #[test]
        fn every_bit_of_a_cookie_counts(isn: u32, mss: u16, seconds in 0u64..1_000_000, bit in 0u32..32) {
            let cookie = cookies().issue(&ends(), isn, mss, at(seconds));
            let verify = |cookie: u32| {
                cookies().verify(&ends(), cookie.wrapping_add(1), isn.wrapping_add(1), at(seconds))
            };
            prop_assert!(verify(cookie).is_some());
            prop_assert_eq!(verify(cookie ^ 1 << bit), None);
        }
    }
}
