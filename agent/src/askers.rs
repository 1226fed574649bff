//! Who asks this agent, and how often: those who are to hear of the wish to drain before the agent ends.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How many are remembered.
const MOST: usize = 256;
/// Who has not asked for so many of his own intervals is not expected any more.
const INTERVALS: u32 = 3;
/// But expected for so long at least.
const LEAST: Duration = Duration::from_secs(10);
/// How long somebody is expected who has asked once, so that his interval is not known.
const STRANGER: Duration = Duration::from_secs(30);

/// From which address to which of ours: a balancer may know this machine under several, and by two protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The asker's.
    pub from: IpAddr,
    /// Ours.
    pub to: SocketAddr,
}

/// Everybody who has asked lately.
#[derive(Debug, Default)]
pub struct Askers {
    known: Vec<Asker>,
    /// When somebody was told to drain who had not been before.
    last_told: Option<Instant>,
}

#[derive(Debug)]
struct Asker {
    way: Way,
    last: Option<Instant>,
    interval: Option<Duration>,
    told: bool,
}

impl Asker {
    fn is_expected(&self, now: Instant) -> bool {
        let patience = match self.interval {
            Some(interval) => interval.saturating_mul(INTERVALS).max(LEAST),
            None => STRANGER,
        };
        self.last.is_some_and(|last| now.saturating_duration_since(last) < patience)
    }

    fn ask(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            let gap = now.saturating_duration_since(last);
            // A balancer may ask for several services in quick succession: the longest gap of late counts.
            let before = self.interval.unwrap_or_default();
            self.interval = Some(gap.max(before - before / 8));
        }
    }
}

impl Askers {
    /// Notes that somebody has asked, and whether he was told to drain.
    pub fn note(&mut self, way: Way, now: Instant, told: bool) {
        let place = self.known.iter().position(|it| it.way == way).unwrap_or_else(|| {
            self.make_room();
            self.known.push(Asker { way, last: None, interval: None, told: false });
            self.known.len() - 1
        });
        let asker = &mut self.known[place];
        asker.ask(now);
        if told && !asker.told {
            asker.told = true;
            self.last_told = Some(now);
        }
    }

    /// Since when everybody knows of the wish to drain who is expected; not as long as nobody does.
    pub fn know_since(&self, now: Instant) -> Option<Instant> {
        let awaited = self.known.iter().any(|it| !it.told && it.is_expected(now));
        self.last_told.filter(|_| !awaited)
    }

    /// Whoever asks regularly is forgotten last.
    fn make_room(&mut self) {
        if self.known.len() < MOST {
            return;
        }
        let rank = |&place: &usize| (self.known[place].interval.is_some(), self.known[place].last);
        if let Some(least) = (0..MOST).min_by_key(rank) {
            self.known.swap_remove(least);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(from: [u8; 4]) -> Way {
        Way { from: from.into(), to: "10.0.0.11:3333".parse().unwrap() }
    }

    const FIRST: [u8; 4] = [10, 0, 0, 2];
    const SECOND: [u8; 4] = [10, 0, 0, 3];

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn everybody_who_asks_regularly_is_to_know() {
        let start = Instant::now();
        let mut askers = Askers::default();
        assert_eq!(askers.know_since(start), None, "nobody has asked");
        for turn in 0..3 {
            askers.note(way(FIRST), start + seconds(5 * turn), false);
            askers.note(way(SECOND), start + seconds(5 * turn + 1), false);
        }
        let told = start + seconds(15);
        askers.note(way(FIRST), told, true);
        assert_eq!(askers.know_since(told), None, "the second has not heard");
        let other = Way { to: "10.0.0.12:3333".parse().unwrap(), ..way(SECOND) };
        askers.note(other, told, true);
        assert_eq!(askers.know_since(told), None, "not under that address");
        askers.note(way(SECOND), told + seconds(1), true);
        assert_eq!(askers.know_since(told + seconds(2)), Some(told + seconds(1)));
        askers.note(way(FIRST), told + seconds(5), true);
        assert_eq!(askers.know_since(told + seconds(6)), Some(told + seconds(1)), "no news");
        askers.note(way([10, 0, 0, 4]), told + seconds(7), true);
        assert_eq!(askers.know_since(told + seconds(8)), Some(told + seconds(7)));
    }

    #[test]
    fn who_has_not_asked_for_three_of_his_intervals_is_not_waited_for() {
        let start = Instant::now();
        let mut askers = Askers::default();
        for turn in 0..3 {
            askers.note(way(FIRST), start + seconds(10 * turn), false);
            // Of two questions in quick succession the second does not make his interval short.
            askers.note(way(FIRST), start + seconds(10 * turn), false);
        }
        let told = start + seconds(21);
        askers.note(way(SECOND), told, true);
        assert_eq!(askers.know_since(start + seconds(40)), None);
        assert_eq!(askers.know_since(start + seconds(51)), Some(told));
    }

    #[test]
    fn who_has_asked_once_is_waited_for_half_a_minute() {
        let start = Instant::now();
        let mut askers = Askers::default();
        askers.note(way(FIRST), start, false);
        askers.note(way(SECOND), start, true);
        assert_eq!(askers.know_since(start + seconds(29)), None);
        assert_eq!(askers.know_since(start + seconds(30)), Some(start));
    }

    #[test]
    fn any_number_of_strangers_does_not_have_a_regular_asker_forgotten() {
        let start = Instant::now();
        let mut askers = Askers::default();
        askers.note(way(FIRST), start, false);
        askers.note(way(FIRST), start + seconds(5), false);
        for host in 0..4 * MOST {
            let [.., high, low] = (host as u32).to_be_bytes();
            askers.note(way([10, 1, high, low]), start + seconds(6), true);
        }
        assert_eq!(askers.known.len(), MOST);
        assert_eq!(askers.know_since(start + seconds(7)), None);
    }
}
