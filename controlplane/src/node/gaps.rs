//! How late the control thread has been: the longest time between two turns of the node's loop, over the last
//! minute. A late advertisement of ours would be a failover.

use std::collections::VecDeque;
use std::time::Duration;

use dataplane::moment::Moment;

/// How far back is looked.
const REACH: Duration = Duration::from_secs(60);
/// In pieces of this length.
const PIECE: Duration = Duration::from_secs(1);

/// The gaps between turns.
pub struct Gaps {
    last: Option<Moment>,
    /// The longest gap of each second that had one, with the end of that second.
    longest: VecDeque<(Moment, Duration)>,
}

impl Gaps {
    /// There has been no turn yet.
    pub fn new() -> Self {
        Self { last: None, longest: VecDeque::new() }
    }

    /// A turn begins.
    pub fn turn(&mut self, now: Moment) {
        let gap = self.last.map_or(Duration::ZERO, |last| now.since(last));
        self.last = Some(now);
        while self.longest.front().is_some_and(|&(end, _)| now.since(end) > REACH) {
            self.longest.pop_front();
        }
        match self.longest.back_mut() {
            Some((end, longest)) if *end > now => *longest = gap.max(*longest),
            _ => self.longest.push_back((now.plus(PIECE), gap)),
        }
    }

    /// The longest of the last minute, and of the time since the last turn.
    pub fn longest(&self, now: Moment) -> Duration {
        let longest = self.longest.iter().map(|&(_, gap)| gap).max().unwrap_or_default();
        longest.max(self.last.map_or(Duration::ZERO, |last| now.since(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_told_for_a_minute_and_then_forgotten() {
        let at = |milliseconds| Moment::START.plus(Duration::from_millis(milliseconds));
        let mut gaps = Gaps::new();
        gaps.turn(at(0));
        let turn = |gaps: &mut Gaps, millisecond| gaps.turn(at(millisecond));
        (1..=1000).for_each(|millisecond| turn(&mut gaps, millisecond));
        assert_eq!(gaps.longest(at(1000)), Duration::from_millis(1));
        turn(&mut gaps, 1040);
        (1041..=60_000).for_each(|millisecond| turn(&mut gaps, millisecond));
        assert_eq!(gaps.longest(at(60_000)), Duration::from_millis(40));
        assert!(gaps.longest.len() <= 62, "{}", gaps.longest.len());
        (60_001..=63_000).for_each(|millisecond| turn(&mut gaps, millisecond));
        assert_eq!(gaps.longest(at(63_000)), Duration::from_millis(1));
        assert_eq!(gaps.longest(at(63_500)), Duration::from_millis(500), "one that goes on counts");
    }
}
