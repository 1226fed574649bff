//! The highest rate at which nothing is lost.

use anyhow::Result;
use pktgen::profile::Profile;

use super::tester::{Pace, Tester, Trial};

/// How long and how finely is searched.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// Seconds of one trial.
    pub seconds: f64,
    /// Halvings of the range.
    pub steps: usize,
    /// A rate counts as too high only if so many trials in a row lose something: on a shared machine either core may
    /// be taken away for longer than a ring lasts.
    pub tries: usize,
}

/// What was found.
pub struct Found {
    /// Millions of frames a second that arrived at the highest rate without loss; 0 if there is none.
    pub mpps: f64,
    /// Frames a second that arrived when as many were sent as the port took, in millions.
    pub flood_mpps: f64,
    /// The loss of the trial that was kept: zero, or that of the lowest rate tried.
    pub loss: f64,
}

impl Search {
    /// Searches between nothing and what arrives of a flood.
    ///
    /// # Errors
    /// If somebody interrupts.
    pub fn run(&self, tester: &mut Tester, stream: &Profile) -> Result<Found> {
        let flood = tester.trial(stream, self.pace(None), |_| {})?;
        let highest = flood.mpps() * 1.05e6;
        let (mut low, mut high) = (0.0, highest);
        let mut found = Found { mpps: 0.0, flood_mpps: flood.mpps(), loss: 1.0 };
        for _ in 0..self.steps {
            let rate = (low + high) / 2.0;
            let trial = self.best_of(tester, stream, rate)?;
            if trial.loss() == 0.0 {
                (low, found.mpps, found.loss) = (rate, trial.mpps(), 0.0);
            } else {
                high = rate;
                if found.mpps == 0.0 {
                    found.loss = trial.loss();
                }
            }
        }
        Ok(found)
    }

    fn best_of(&self, tester: &mut Tester, stream: &Profile, rate: f64) -> Result<Trial> {
        let mut best = tester.trial(stream, self.pace(Some(rate)), |_| {})?;
        for _ in 1..self.tries {
            if best.loss() == 0.0 {
                break;
            }
            let again = tester.trial(stream, self.pace(Some(rate)), |_| {})?;
            if again.loss() < best.loss() {
                best = again;
            }
        }
        Ok(best)
    }

    fn pace(&self, rate: Option<f64>) -> Pace {
        Pace { rate, seconds: self.seconds, frames: u64::MAX }
    }
}
