//! The workers' clock: the processor's time stamp counter, turned into nanoseconds since the start.

use dataplane::moment::Moment;
use dpdk_sys::lcore;

/// Reads the time in some nanoseconds of work and without a system call.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: u64,
    /// Nanoseconds in 2^32 ticks.
    scale: u64,
}

impl Clock {
    /// A clock for a counter that ticks so often a second.
    pub fn starting_now(hz: u64) -> Self {
        Self { start: lcore::tsc(), scale: scale(hz) }
    }

    /// Now.
    #[inline]
    pub fn now(&self) -> Moment {
        Moment::from_nanos(nanos(lcore::tsc().saturating_sub(self.start), self.scale))
    }
}

fn scale(hz: u64) -> u64 {
    ((1_000_000_000u128 << 32) / u128::from(hz.max(1))) as u64
}

#[inline]
fn nanos(ticks: u64, scale: u64) -> u64 {
    ((u128::from(ticks) * u128::from(scale)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_of_ticks_is_a_year_within_a_second() {
        let year = 365 * 24 * 3_600;
        for hz in [1_000_000_000, 2_596_992_000, 4_700_000_000] {
            let measured = nanos(hz * year, scale(hz)) / 1_000_000_000;
            assert!(measured.abs_diff(year) <= 1, "{hz}: {measured}");
        }
    }
}
