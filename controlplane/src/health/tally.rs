//! From consecutive answers to a verdict (HC-14): `rise` passes in a row bring a server back, `fall` failures in
//! a row take it out. Pure, and without a clock.

/// What the answers so far say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Too little has been heard. One pass is enough to leave this state, so that a restart costs one question.
    #[default]
    Unknown,
    /// The server is well.
    Well,
    /// It is not.
    Failing,
}

/// Counts the answers to one question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    verdict: Verdict,
    /// Answers in a row that speak against the verdict.
    against: u32,
}

impl Tally {
    /// Begins with what is known already.
    pub fn beginning_with(verdict: Verdict) -> Self {
        Self { verdict, against: 0 }
    }

    /// What the answers so far say.
    pub fn verdict(self) -> Verdict {
        self.verdict
    }

    /// How many failures in a row there have been while the verdict is another.
    pub fn failures(self) -> u32 {
        if self.verdict == Verdict::Failing { 0 } else { self.against }
    }

    /// Counts one answer; gives the verdict if it is another than before.
    pub fn count(&mut self, passed: bool, rise: u32, fall: u32) -> Option<Verdict> {
        let (speaks_for, needed) = match (passed, self.verdict) {
            (true, Verdict::Failing) => (Verdict::Well, rise),
            (true, _) => (Verdict::Well, 1),
            (false, _) => (Verdict::Failing, fall),
        };
        if speaks_for == self.verdict {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < needed {
            return None;
        }
        *self = Self::beginning_with(speaks_for);
        Some(speaks_for)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The verdict after each of the answers, `+` for a pass and `-` for a failure.
    fn timeline(from: Verdict, rise: u32, fall: u32, answers: &str) -> String {
        let mut tally = Tally::beginning_with(from);
        let mut after = |answer| {
            let changed = tally.count(answer == '+', rise, fall);
            assert!(changed.is_none() || changed == Some(tally.verdict()));
            match tally.verdict() {
                Verdict::Unknown => '?',
                Verdict::Well => 'w',
                Verdict::Failing => 'f',
            }
        };
        answers.chars().map(&mut after).collect()
    }

    #[test]
    fn three_passes_in_a_row_bring_back_and_two_failures_in_a_row_take_out() {
        let answers = "+-+--+-++-+++-";
        assert_eq!(timeline(Verdict::Well, 3, 2, answers), "wwwwffffffffww");
    }

    #[test]
    fn one_pass_is_enough_where_nothing_is_known_and_failures_need_their_number() {
        assert_eq!(timeline(Verdict::Unknown, 3, 2, "+"), "w");
        assert_eq!(timeline(Verdict::Unknown, 3, 2, "-+"), "?w");
        assert_eq!(timeline(Verdict::Unknown, 3, 2, "--+++"), "?fffw");
    }

    #[test]
    fn what_was_down_stays_down_until_it_has_passed_often_enough() {
        assert_eq!(timeline(Verdict::Failing, 2, 2, "-+-++"), "ffffw");
        assert_eq!(timeline(Verdict::Failing, 1, 1, "-+-"), "fwf");
    }

    proptest! {
        /// Said again in the plainest words: look back from each answer.
        #[test]
        fn the_last_answers_alone_decide(
            answers in prop::collection::vec(any::<bool>(), 1..200), rise in 1..6_u32, fall in 1..6_u32,
        ) {
            let mut tally = Tally::beginning_with(Verdict::Well);
            let mut expected = Verdict::Well;
            for end in 1..=answers.len() {
                tally.count(answers[end - 1], rise, fall);
                let last = |number: u32, passed| {
                    let number = number as usize;
                    end >= number && answers[end - number..end].iter().all(|&it| it == passed)
                };
                if last(rise, true) {
                    expected = Verdict::Well;
                } else if last(fall, false) {
                    expected = Verdict::Failing;
                }
                prop_assert_eq!(tally.verdict(), expected);
            }
        }
    }
}
