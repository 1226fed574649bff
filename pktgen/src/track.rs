//! Which packets of which flow have come: loss, reordering and duplicates, in memory that does not grow.
//!
//! Each flow remembers what number comes next and, as one bit each, which of the last packets before it have come.
//! With few flows that window is long, with many it is 64 packets. A packet from before the window cannot be told
//! from a duplicate any more; it is counted as late.

use crate::memory;

/// Windows of all flows together take up to so many 64-bit words (8 MiB), if one word for each flow is not more.
const WORDS: usize = 1 << 20;

/// And one flow's up to so many: 65,536 packets.
const MOST_WORDS: usize = 1 << 10;

/// Whose packets are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// Each flow's: what became of each can be told, and a TCP flow opens with a SYN.
    Flows,
    /// The run's, all together: the memory of a million flows is not touched for each packet. No TCP flow opens with a SYN,
    /// as if it had begun before.
    Run,
}

impl Tracking {
    /// Of so many flows, how many have numbers of their own.
    pub fn rows(self, flows: u32) -> u32 {
        match self {
            Self::Flows => flows,
            Self::Run => 1,
        }
    }

    /// Which of the rows is this flow's.
    #[inline]
    pub fn row(self, flow: u32) -> u32 {
        match self {
            Self::Flows => flow,
            Self::Run => 0,
        }
    }
}

/// What a packet is to its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The next, or one after it.
    InOrder,
    /// One that was overtaken: its number is lower than that of a packet that came before (RFC 4737 section 3.3).
    Reordered,
    /// One that has come already.
    Duplicate,
    /// From before the window: reordered, or a duplicate.
    Late,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    /// The number that comes next, if none is missing.
    next: u32,
    /// Packets that have come, duplicates left out.
    unique: u32,
}

/// All flows.
#[derive(Debug)]
pub struct Tracker {
    flows: Vec<Flow>,
    windows: Vec<u64>,
    /// Words of each flow's window: a power of two.
    words: usize,
}

impl Tracker {
    /// For flows with numbers below `flows`, at least one.
    pub fn new(flows: u32) -> Self {
        let flows = flows.max(1) as usize;
        let share = (WORDS / flows).clamp(1, MOST_WORDS);
        let words = 1 << share.ilog2();
        let windows = memory::filled(0, flows * words);
        Self { flows: memory::filled(Flow::default(), flows), windows, words }
    }

    /// How many flows there can be.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is no flow: never.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Packets before the newest of a flow that are remembered.
    pub fn window(&self) -> u32 {
        self.words as u32 * 64
    }

    /// Has the processor fetch what [`Self::observe`] will want of a flow. Called for a whole burst first, this lets it
    /// wait for all of them together; of no other effect.
    #[inline]
    pub fn look_at(&self, flow: u32, sequence: u32) {
        let first = flow as usize * self.words;
        let (word, _) = place(sequence, self.words);
        let unique = self.flows.get(flow as usize).map(|flow| flow.unique);
        std::hint::black_box((unique, self.windows.get(first + word).copied()));
    }

    /// Packet `sequence` of a flow has come; `None` for a flow that does not exist.
    #[inline]
    pub fn observe(&mut self, flow: u32, sequence: u32) -> Option<Verdict> {
        let window = self.window();
        let state = self.flows.get_mut(flow as usize)?;
        let first = flow as usize * self.words;
        let words = self.windows.get_mut(first..first + self.words)?;
        let ahead = sequence.wrapping_sub(state.next) as i32;
        let (word, bit) = place(sequence, words.len());
        if ahead >= 0 {
            forget(words, state.next, ahead as u32, window);
            words[word] |= bit;
            state.next = sequence.wrapping_add(1);
            state.unique = state.unique.wrapping_add(1);
            return Some(Verdict::InOrder);
        }
        if ahead.unsigned_abs() > window {
            return Some(Verdict::Late);
        }
        if words[word] & bit != 0 {
            return Some(Verdict::Duplicate);
        }
        words[word] |= bit;
        state.unique = state.unique.wrapping_add(1);
        Some(Verdict::Reordered)
    }

    /// Packets of a flow that have come, duplicates left out.
    pub fn unique(&self, flow: usize) -> u32 {
        self.flows.get(flow).map_or(0, |flow| flow.unique)
    }
}

#[inline]
fn place(sequence: u32, words: usize) -> (usize, u64) {
    ((sequence / 64) as usize & (words - 1), 1 << (sequence % 64))
}

/// The `skipped` packets from `next` on have not come: their places in the window are those of much older ones.
#[inline]
fn forget(words: &mut [u64], next: u32, skipped: u32, window: u32) {
    if skipped >= window {
        words.fill(0);
        return;
    }
    for sequence in 0..skipped {
        let (word, bit) = place(next.wrapping_add(sequence), words.len());
        words[word] &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn verdicts(sequences: &[u32]) -> Vec<Verdict> {
        let mut tracker = Tracker::new(3);
        sequences.iter().map(|sequence| tracker.observe(1, *sequence).unwrap()).collect()
    }

    #[test]
    fn swapped_neighbours_are_one_reordered_packet() {
        use Verdict::{InOrder, Reordered};
        assert_eq!(verdicts(&[1, 0, 3, 2]), [InOrder, Reordered, InOrder, Reordered]);
    }

    #[test]
    fn a_gap_is_not_reordering_and_a_second_copy_is_a_duplicate() {
        use Verdict::{Duplicate, InOrder};
        assert_eq!(verdicts(&[0, 2, 2, 3, 0]), [InOrder, InOrder, Duplicate, InOrder, Duplicate]);
    }

    #[test]
    fn what_is_older_than_the_window_is_late() {
        let mut tracker = Tracker::new(10_000_000);
        assert_eq!(tracker.window(), 64);
        tracker.observe(9_999_999, 100).unwrap();
        assert_eq!(tracker.observe(9_999_999, 37), Some(Verdict::Reordered));
        assert_eq!(tracker.observe(9_999_999, 36), Some(Verdict::Late));
        assert_eq!(tracker.observe(10_000_000, 0), None);
        assert_eq!(Tracker::new(1).window(), 65_536);
    }

    #[test]
    fn numbers_go_on_after_the_last() {
        use Verdict::{Duplicate, InOrder, Reordered};
        let mut tracker = Tracker::new(1);
        tracker.flows[0].next = u32::MAX;
        let mut see = |sequence| tracker.observe(0, sequence).unwrap();
        assert_eq!(
            [see(u32::MAX), see(1), see(0), see(u32::MAX)],
            [InOrder, InOrder, Reordered, Duplicate]
        );
    }

    proptest! {
        #[test]
        fn within_the_window_it_says_what_a_set_would(sequences in prop::collection::vec(0u32..60, 0..200)) {
            let mut tracker = Tracker::new(1 << 21);
            let (mut seen, mut highest) = (HashSet::new(), None);
            for sequence in sequences {
                let expected = if !seen.insert(sequence) {
                    Verdict::Duplicate
                } else if highest > Some(sequence) {
                    Verdict::Reordered
                } else {
                    Verdict::InOrder
                };
                highest = highest.max(Some(sequence));
                prop_assert_eq!(tracker.observe(5, sequence), Some(expected));
                prop_assert_eq!(tracker.unique(5) as usize, seen.len());
            }
        }

        #[test]
        fn no_numbers_upset_it(pairs in prop::collection::vec((0u32..5, any::<u32>()), 0..300)) {
            let mut tracker = Tracker::new(4);
            for (flow, sequence) in pairs {
                prop_assert_eq!(tracker.observe(flow, sequence).is_some(), flow < 4);
            }
        }
    }
}
