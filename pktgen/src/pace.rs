//! When the next packets are due.
//!
//! Packets go out in groups, never in bursts of thousands: a group is what is due in two microseconds, and at most
//! [`MOST`]. Whoever was held up (by the scheduler, the hypervisor, a full queue) catches up an eighth faster than
//! was asked, so that a pause of milliseconds does not become a burst that no real sender would make; and at most
//! eight times as fast once it is more than 3 ms behind, as on a core that it has to share.

use crate::rate::{CHECK, OVERHEAD, Pace};

/// Packets in a group at most: a burst of the driver.
pub const MOST: usize = 32;

/// What a group spans at most, in seconds.
const GROUP: f64 = 2e-6;

/// While catching up, the pause between two groups is this share of the ordinary one.
const HURRY: f64 = 8.0 / 9.0;

/// And this share, for whoever is behind by more than [`FAR_BEHIND`].
const GREAT_HURRY: f64 = 1.0 / 8.0;

/// In seconds.
const FAR_BEHIND: f64 = 0.003;

/// What is still caught up with, in seconds. Whoever was held up for longer has not kept the rate.
const PATIENCE: f64 = 1.0;

/// With [`Late::GivenUp`], what is still caught up with, in packets: what a pause of microseconds leaves.
const FORGIVEN_BEYOND: f64 = 4.0 * MOST as f64;

/// What becomes of packets that cannot leave when they are due, because the sender was held up or its queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// They leave as soon as they can, and those behind them a little faster than was asked for.
    CaughtUp,
    /// What the port refuses at a limited rate is not sent at all, and a pause is not made up for.
    GivenUp,
}

/// Says when packets are due; times are ticks of the processor's clock.
#[derive(Debug, Clone)]
pub struct Pacer {
    /// Ticks that a packet takes, and a byte of a packet; both 0 for as fast as it goes.
    per_packet: f64,
    per_byte: f64,
    group: usize,
    hz: f64,
    /// In ticks: what is still caught up with.
    patience: f64,
    /// Where times begin, so that they fit well into 53 bits.
    start: Option<u64>,
    /// Since the start: when the next group is due.
    due: f64,
    /// Since the start: before when none may go, however late it is.
    not_before: f64,
    /// What was not caught up with, in ticks.
    forgiven: f64,
}

impl Pacer {
    /// For packets of `size` bytes on average, check included, on a clock of `hz` ticks a second.
    pub fn new(pace: Pace, size: f64, hz: u64) -> Self {
        let hz = hz as f64;
        let (per_packet, per_byte) = match pace {
            Pace::Unlimited => (0.0, 0.0),
            Pace::Frames(rate) => (hz / rate, 0.0),
            Pace::Bits(rate) => (0.0, hz * 8.0 / rate),
        };
        let group = match pace.frames(size) {
            None => MOST,
            Some(rate) => ((rate * GROUP) as usize).clamp(1, MOST),
        };
        Self {
            per_packet,
            per_byte,
            group,
            hz,
            patience: PATIENCE * hz,
            start: None,
            due: 0.0,
            not_before: 0.0,
            forgiven: 0.0,
        }
    }

    /// The same, for packets of which this becomes.
    pub fn with_late(self, late: Late, size: f64) -> Self {
        let wire = size + OVERHEAD as f64;
        let patience = match late {
            Late::CaughtUp => self.patience,
            Late::GivenUp => (self.per_packet + self.per_byte * wire) * FORGIVEN_BEYOND,
        };
        Self { patience, ..self }
    }

    /// How many packets go out at once.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Whether a group is to go at `now`.
    #[inline]
    pub fn is_due(&mut self, now: u64) -> bool {
        let at = self.since_start(now);
        at >= self.due && at >= self.not_before
    }

    /// A group of so many packets, with so many bytes of frames without check, was sent at `now`.
    #[inline]
    pub fn sent(&mut self, now: u64, packets: usize, bytes: usize) {
        let at = self.since_start(now);
        let wire = bytes as u64 + packets as u64 * (OVERHEAD + CHECK);
        let cost = self.per_packet * packets as f64 + self.per_byte * wire as f64;
        let hurry = if at - self.due > FAR_BEHIND * self.hz { GREAT_HURRY } else { HURRY };
        self.not_before = at + cost * hurry;
        self.due += cost;
        let late = at - self.due - self.patience;
        if late > 0.0 {
            self.due += late;
            self.forgiven += late;
        }
    }

    /// How long it was held up beyond what it catches up with, in seconds.
    pub fn forgiven(&self) -> f64 {
        self.forgiven / self.hz
    }

    #[inline]
    fn since_start(&mut self, now: u64) -> f64 {
        now.wrapping_sub(*self.start.get_or_insert(now)) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 2_000_000_000;

    /// Packets sent in each millisecond when asked every `step` ticks, but not while `held(ticks)`.
    fn each_millisecond(
        pacer: &mut Pacer,
        step: u64,
        milliseconds: u64,
        held: impl Fn(u64) -> bool,
    ) -> Vec<usize> {
        let mut sent = vec![0; milliseconds as usize];
        let millisecond = HZ / 1000;
        for now in (0..milliseconds * millisecond).step_by(step as usize) {
            if !held(now) && pacer.is_due(77 + now) {
                let group = pacer.group();
                pacer.sent(77 + now, group, group * 60);
                sent[(now / millisecond) as usize] += group;
            }
        }
        sent
    }

    #[test]
    fn a_rate_is_kept_exactly_in_small_groups() {
        for (rate, group) in
            [(10_000.0, 1), (1_000_000.0, 2), (14_000_000.0, 28), (40_000_000.0, 32)]
        {
            let mut pacer = Pacer::new(Pace::Frames(rate), 64.0, HZ);
            assert_eq!(pacer.group(), group);
            let sent: usize = each_millisecond(&mut pacer, 100, 100, |_| false).iter().sum();
            assert!((sent as f64 / (rate / 10.0) - 1.0).abs() < 0.002, "{sent} at {rate}");
        }
    }

    #[test]
    fn bits_count_the_check_and_what_is_between_frames() {
        let mut pacer = Pacer::new(Pace::Bits(10e9), 64.0, HZ);
        let sent: usize = each_millisecond(&mut pacer, 100, 10, |_| false).iter().sum();
        assert!((sent as f64 / 148_809.5 - 1.0).abs() < 0.002, "{sent}");
    }

    #[test]
    fn whoever_was_held_up_catches_up_an_eighth_faster_and_no_more() {
        let mut pacer = Pacer::new(Pace::Frames(1_000_000.0), 64.0, HZ);
        let millisecond = HZ / 1000;
        let sent = each_millisecond(&mut pacer, 100, 100, |now| {
            now / millisecond < 5 + 3 && now / millisecond >= 5
        });
        assert_eq!(sent[5..8], [0; 3]);
        assert!(sent.iter().all(|count| *count <= 1000 * 9 / 8 + 10), "{sent:?}");
        let total: usize = sent.iter().sum();
        assert!((99_990..=100_010).contains(&total), "{total}");
        assert_eq!(pacer.forgiven(), 0.0);
    }

    #[test]
    fn on_half_a_core_the_rate_is_kept_all_the_same() {
        let mut pacer = Pacer::new(Pace::Frames(100_000.0), 64.0, HZ);
        let turn = HZ / 250; // 4 ms for us, 4 ms for somebody else
        let sent = each_millisecond(&mut pacer, 100, 400, |now| now / turn % 2 == 1);
        assert!(sent.iter().all(|count| *count <= 801), "{sent:?}");
        let total: usize = sent.iter().sum();
        assert!((39_000..=40_000).contains(&total), "{total}");
    }

    #[test]
    fn a_pause_of_seconds_is_not_made_up_for() {
        let mut pacer = Pacer::new(Pace::Frames(1000.0), 64.0, HZ);
        pacer.is_due(0);
        pacer.sent(0, 1, 60);
        assert!(pacer.is_due(10 * HZ));
        pacer.sent(10 * HZ, 1, 60);
        assert!((pacer.forgiven() - 9.0).abs() < 0.01, "{}", pacer.forgiven());
    }

    #[test]
    fn what_is_given_up_is_not_made_up_for() {
        let pacer = Pacer::new(Pace::Frames(1_000_000.0), 64.0, HZ);
        let mut pacer = pacer.with_late(Late::GivenUp, 64.0);
        let millisecond = HZ / 1000;
        let sent = each_millisecond(&mut pacer, 100, 20, |now| {
            now / millisecond < 5 + 3 && now / millisecond >= 5
        });
        assert!(sent.iter().all(|count| *count <= 1000 + 128 + 2), "{sent:?}");
        let total: usize = sent.iter().sum();
        assert!((17_000..=17_140).contains(&total), "{total}");
    }

    #[test]
    fn without_a_limit_there_is_always_something_due() {
        let mut pacer = Pacer::new(Pace::Unlimited, 64.0, HZ);
        for _ in 0..3 {
            assert!(pacer.is_due(5));
            pacer.sent(5, MOST, MOST * 60);
        }
    }
}
