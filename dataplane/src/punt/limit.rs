//! A token bucket: so many a second, and so many at once.

use std::time::Duration;

use crate::moment::Moment;

/// Allows a rate, and bursts up to a depth.
#[derive(Clone)]
pub struct TokenBucket {
    /// Nanoseconds that one token takes to come.
    interval: u64,
    /// How far behind `now` the bucket's time may lie: its depth.
    depth: Duration,
    /// Up to when tokens have been spent.
    spent_until: Moment,
}

impl TokenBucket {
    /// Full at first; `rate` tokens a second (at least 1), `depth` at once.
    pub fn new((rate, depth): (u32, u32)) -> Self {
        let interval = 1_000_000_000 / u64::from(rate.max(1));
        Self {
            interval,
            depth: Duration::from_nanos(interval * u64::from(depth)),
            spent_until: Moment::START,
        }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Moment) -> bool {
        // Virtual time of the tokens spent: it may run ahead of the clock by the depth and no more.
        let begun = self.spent_until.max(now);
        let next = begun.plus(Duration::from_nanos(self.interval));
        let allowed = next <= now.plus(self.depth);
        if allowed {
            self.spent_until = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_up_to_the_depth_then_the_rate() {
        let mut bucket = TokenBucket::new((1_000, 10));
        let at = |milliseconds: u64| Moment::from_nanos(milliseconds * 1_000_000);
        let taken = |bucket: &mut TokenBucket, now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, at(5)), 10);
        assert_eq!(taken(&mut bucket, at(5)), 0);
        assert_eq!(taken(&mut bucket, at(8)), 3);
        assert_eq!(taken(&mut bucket, at(60_000)), 10);
    }
}
