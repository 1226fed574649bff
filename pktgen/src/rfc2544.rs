//! The benchmarks of [RFC 2544](https://www.rfc-editor.org/rfc/rfc2544): how much a device forwards without loss
//! (section 26.1), how long that takes (26.2), how much it loses beyond (26.3), and how long a burst it takes (26.4).
//!
//! Each is a search over trials. What a trial is, the caller says: here it is a function from a load to what was seen,
//! so that every search is tested against devices whose answer is known.

use anyhow::Result;
use serde::Serialize;

use crate::report::Latency;

/// What one trial has shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trial {
    /// Frames a second that were asked for.
    pub asked: f64,
    /// Frames a second that were sent.
    pub offered: f64,
    /// Frames a second on the receiving side.
    pub received: f64,
    /// Frames sent.
    pub sent: u64,
    /// Frames lost.
    pub lost: u64,
    /// Whether the generator, or the port it sends through, could not keep the rate that was asked for.
    pub held_up: bool,
    /// How long packets were under way; of none if none came.
    pub latency: Option<Latency>,
}

impl Trial {
    /// Frames lost, as a share of those sent: 0 to 1.
    pub fn loss(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }
}

/// How a search is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// The highest load, in frames a second.
    pub top: f64,
    /// How close the answer must be, as a share of `top`: 0 to 1.
    pub resolution: f64,
    /// Loss that still counts as none, as a share of the frames: 0 to 1. RFC 2544 has 0.
    pub acceptable_loss: f64,
    /// How often a load is tried before it counts as too much. RFC 2544 has 1; more is for machines where others get
    /// in the way.
    pub attempts: u32,
}

/// Does a trial at so many frames a second; `None` to end the search early.
pub trait Device {
    /// One trial of the usual length.
    ///
    /// # Errors
    /// Whatever kept it from being done.
    fn trial(&mut self, rate: f64) -> Result<Option<Trial>>;

    /// One burst of so many frames at the highest rate; `None` to end the search early.
    ///
    /// # Errors
    /// Whatever kept it from being done.
    fn burst(&mut self, frames: u64) -> Result<Option<Trial>>;
}

/// Section 26.1: the fastest rate at which no more is lost than is acceptable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Throughput {
    /// Frames a second that were received in the best trial; 0 if there was none.
    pub rate: f64,
    /// Whether the answer is the generator's limit or the port's, and the device may do more.
    pub at_least: bool,
    /// Whether the search came to its end.
    pub complete: bool,
    /// All trials, in order.
    pub trials: Vec<Trial>,
}

/// Finds the throughput by halving the interval in which it lies.
///
/// # Errors
/// Of a trial.
pub fn throughput(search: &Search, device: &mut impl Device) -> Result<Throughput> {
    let mut found = Throughput { rate: 0.0, at_least: false, complete: false, trials: vec![] };
    let (mut low, mut high) = (0.0, search.top);
    let mut next = search.top;
    loop {
        let Some(outcome) = attempt(search, device, next, &mut found.trials)? else {
            return Ok(found);
        };
        match outcome {
            Outcome::Kept(received) => {
                found.rate = received;
                low = next;
            }
            Outcome::HeldUp => (high, found.at_least) = (next, true),
            Outcome::Lost => (high, found.at_least) = (next, false),
        }
        if low >= high || high - low <= search.resolution * search.top {
            found.at_least |= low >= high;
            found.complete = true;
            return Ok(found);
        }
        next = f64::midpoint(low, high);
    }
}

enum Outcome {
    Kept(f64),
    Lost,
    HeldUp,
}

fn attempt(
    search: &Search,
    device: &mut impl Device,
    rate: f64,
    trials: &mut Vec<Trial>,
) -> Result<Option<Outcome>> {
    let mut outcome = Outcome::Lost;
    for _ in 0..search.attempts.max(1) {
        let Some(trial) = device.trial(rate)? else { return Ok(None) };
        let kept = trial.sent > 0 && trial.loss() <= search.acceptable_loss;
        let held_up = trial.held_up;
        let received = trial.received;
        trials.push(trial);
        match (kept, held_up) {
            (true, false) => return Ok(Some(Outcome::Kept(received))),
            (true, true) => outcome = Outcome::HeldUp,
            (false, _) => {}
        }
    }
    Ok(Some(outcome))
}

/// Section 26.2: how long packets are under way at one load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AtLoad {
    /// Frames a second.
    pub rate: f64,
    /// The average of all trials' means, in nanoseconds: the figure that RFC 2544 asks for.
    pub mean: f64,
    /// The trials.
    pub trials: Vec<Trial>,
}

/// Measures latency in `repeat` trials at `rate` (20 at least, says RFC 2544).
///
/// # Errors
/// Of a trial.
pub fn latency(rate: f64, repeat: u32, device: &mut impl Device) -> Result<AtLoad> {
    let mut trials = vec![];
    for _ in 0..repeat {
        let Some(trial) = device.trial(rate)? else { break };
        trials.push(trial);
    }
    let means: Vec<f64> =
        trials.iter().filter_map(|trial| trial.latency.as_ref()).map(|it| it.mean).collect();
    Ok(AtLoad { rate, mean: means.iter().sum::<f64>() / means.len().max(1) as f64, trials })
}

/// Section 26.3: loss at falling loads, from the highest on in steps of `step` of it, until two in a row are without.
///
/// # Errors
/// Of a trial.
pub fn loss(search: &Search, step: f64, device: &mut impl Device) -> Result<Vec<Trial>> {
    let mut trials: Vec<Trial> = vec![];
    let mut clean = 0;
    for index in 0.. {
        let share = 1.0 - step * f64::from(index);
        if share <= step / 1000.0 || clean == 2 {
            break;
        }
        let Some(trial) = device.trial(search.top * share)? else { break };
        clean = if trial.lost == 0 { clean + 1 } else { 0 };
        trials.push(trial);
    }
    Ok(trials)
}

/// Section 26.4: the longest burst that is forwarded without loss.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackToBack {
    /// Frames, the average of all repetitions: the figure that RFC 2544 asks for.
    pub frames: f64,
    /// Of each repetition.
    pub each: Vec<u64>,
    /// The longest that was tried; an answer of so many may be more.
    pub most: u64,
    /// All bursts, in order.
    pub trials: Vec<Trial>,
}

/// Finds the longest burst of up to `most` frames, `repeat` times (50 at least, says RFC 2544).
///
/// # Errors
/// Of a burst.
pub fn back_to_back(
    search: &Search,
    most: u64,
    repeat: u32,
    device: &mut impl Device,
) -> Result<BackToBack> {
    let mut found = BackToBack { frames: 0.0, each: vec![], most, trials: vec![] };
    let tolerance = ((most as f64 * search.resolution) as u64).max(1);
    'all: for _ in 0..repeat {
        let (mut low, mut high, mut next) = (0, most, most);
        while high - low > tolerance || next == most {
            let Some(trial) = device.burst(next)? else { break 'all };
            let kept = trial.sent >= next && trial.loss() <= search.acceptable_loss;
            found.trials.push(trial);
            if kept {
                low = next;
            } else {
                high = next;
            }
            if low == high {
                break;
            }
            next = low.midpoint(high);
        }
        found.each.push(low);
    }
    found.frames = found.each.iter().sum::<u64>() as f64 / found.each.len().max(1) as f64;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Forwards up to so many frames a second, and bursts up to so many frames.
    struct Known {
        capacity: f64,
        buffer: u64,
        /// What the generator can send.
        limit: f64,
        /// Fails once in so many trials for no reason of its own; 0 for never.
        nuisance: u32,
        trials: u32,
    }

    fn known(capacity: f64) -> Known {
        Known { capacity, buffer: 1000, limit: f64::INFINITY, nuisance: 0, trials: 0 }
    }

    fn trial(asked: f64, offered: f64, sent: u64, forwarded: u64) -> Trial {
        let received = offered * forwarded as f64 / sent as f64;
        Trial {
            asked,
            offered,
            received,
            sent,
            lost: sent - forwarded,
            held_up: offered < asked,
            latency: None,
        }
    }

    impl Device for Known {
        fn trial(&mut self, rate: f64) -> Result<Option<Trial>> {
            self.trials += 1;
            let offered = rate.min(self.limit);
            let mut forwarded = (offered.min(self.capacity) * 10.0) as u64;
            if self.nuisance > 0 && self.trials.is_multiple_of(self.nuisance) {
                forwarded -= 1;
            }
            Ok(Some(trial(rate, offered, (offered * 10.0) as u64, forwarded)))
        }

        fn burst(&mut self, frames: u64) -> Result<Option<Trial>> {
            Ok(Some(trial(1e6, 1e6, frames, frames.min(self.buffer))))
        }
    }

    const SEARCH: Search =
        Search { top: 1_000_000.0, resolution: 0.001, acceptable_loss: 0.0, attempts: 1 };

    #[test]
    fn a_device_that_takes_everything_is_found_in_one_trial() {
        let found = throughput(&SEARCH, &mut known(2e6)).unwrap();
        assert_eq!(
            (found.rate, found.at_least, found.complete, found.trials.len()),
            (1e6, true, true, 1)
        );
    }

    #[test]
    fn a_generator_that_cannot_keep_the_rate_is_said_to_be_the_limit() {
        let mut device = Known { limit: 300_000.0, ..known(2e6) };
        let found = throughput(&SEARCH, &mut device).unwrap();
        assert!(found.at_least && (found.rate - 300_000.0).abs() <= 1000.0, "{found:?}");
        let mut device = Known { limit: 500_000.0, ..known(200_000.0) };
        assert!(!throughput(&SEARCH, &mut device).unwrap().at_least);
    }

    #[test]
    fn another_attempt_makes_up_for_a_nuisance() {
        let found = |attempts| {
            let mut device = Known { nuisance: 2, ..known(700_000.0) };
            throughput(&Search { attempts, ..SEARCH }, &mut device).unwrap().rate
        };
        assert!((found(2) - 700_000.0).abs() <= 1000.0);
        assert!(found(1) < 699_000.0);
    }

    #[test]
    fn acceptable_loss_is_accepted() {
        let search = Search { acceptable_loss: 0.1, ..SEARCH };
        let found = throughput(&search, &mut known(450_000.0)).unwrap();
        assert!(
            (found
                .trials
                .iter()
                .filter(|it| it.loss() <= 0.1)
                .map(|it| it.asked)
                .fold(0.0, f64::max)
                - 500_000.0)
                .abs()
                <= 1000.0
        );
        assert!((found.rate - 450_000.0).abs() < 1000.0, "what arrived, and not what was sent");
    }

    #[test]
    fn loss_ends_after_two_clean_loads() {
        let trials = loss(&SEARCH, 0.1, &mut known(750_000.0)).unwrap();
        let asked: Vec<u64> = trials.iter().map(|it| it.asked.round() as u64).collect();
        assert_eq!(asked, [1_000_000, 900_000, 800_000, 700_000, 600_000]);
        assert_eq!(trials.iter().filter(|it| it.lost == 0).count(), 2);
        assert_eq!(loss(&SEARCH, 0.1, &mut known(0.0)).unwrap().len(), 10, "nothing comes through");
    }

    #[test]
    fn the_longest_burst_is_found_every_time() {
        let search = Search { resolution: 0.0001, ..SEARCH };
        let found = back_to_back(&search, 20_000, 3, &mut known(1e6)).unwrap();
        assert!(found.each.iter().all(|burst| (998..=1000).contains(burst)), "{:?}", found.each);
        let all = back_to_back(&search, 500, 2, &mut known(1e6)).unwrap();
        assert_eq!((all.frames, all.trials.len()), (500.0, 2));
    }

    proptest! {
        #[test]
        fn throughput_is_found_within_the_resolution(capacity in 0.0f64..1.1e6, resolution in 0.0005f64..0.2) {
            let search = Search { resolution, ..SEARCH };
            let found = throughput(&search, &mut known(capacity)).unwrap();
            prop_assert!(found.complete);
            let expected = capacity.min(1e6);
            prop_assert!(found.rate <= expected + 1.0 && found.rate >= expected - resolution * 1e6 - 1.0, "{}", found.rate);
        }
    }
}
