//! The clock that the appliance gives its workers: the time stamp counter, turned into nanoseconds.

use dataplane::moment::Moment;
use dpdk_sys::lcore;

/// Reads the time without a system call. Its cost is part of what is measured, as it is part of every turn.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: u64,
    hz: u64,
    /// Nanoseconds in 2^32 ticks.
    scale: u64,
}

impl Clock {
    /// A clock for a counter that ticks so often a second.
    pub fn starting_now(hz: u64) -> Self {
        let scale = ((1_000_000_000u128 << 32) / u128::from(hz.max(1))) as u64;
        Self { start: lcore::tsc(), hz, scale }
    }

    /// Now.
    #[inline]
    pub fn now(&self) -> Moment {
        Moment::from_nanos(self.nanos(lcore::tsc().saturating_sub(self.start)) as u64)
    }

    /// So many ticks, in nanoseconds.
    #[inline]
    pub fn nanos(&self, ticks: u64) -> u128 {
        (u128::from(ticks) * u128::from(self.scale)) >> 32
    }

    /// Ticks in a second.
    pub fn hz(&self) -> u64 {
        self.hz
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_ticks_is_an_hour() {
        for hz in [1_000_000_000, 2_596_992_000, 4_700_000_000] {
            let clock = Clock::starting_now(hz);
            assert_eq!(clock.nanos(hz * 3_600).div_ceil(1_000_000_000), 3_600);
        }
    }
}
