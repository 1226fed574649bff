//! The time between SIGTERM and the end: until every load balancer knows, and has acted on it, and the
//! service has no connections any more.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::askers::Askers;
use crate::idle::Service;

/// How often is looked for connections.
const LOOK: Duration = Duration::from_millis(200);

/// A wish to drain.
pub struct Drain<'s> {
    service: &'s Service,
    proc: &'s Path,
    /// When it is over in any case.
    ends: Instant,
    settle: Duration,
    next_look: Instant,
    /// Since when no connection has been seen.
    quiet: Option<Instant>,
}

impl<'s> Drain<'s> {
    /// For at most `most`, and until nothing has been seen for `settle`.
    pub fn start(
        service: &'s Service,
        proc: &'s Path,
        now: Instant,
        most: Duration,
        settle: Duration,
    ) -> Self {
        Self { service, proc, ends: now + most, settle, next_look: now, quiet: None }
    }

    /// When it is to be asked again.
    pub fn next_look(&self) -> Instant {
        self.next_look.min(self.ends)
    }

    /// Why it is over, if it is.
    pub fn over(&mut self, now: Instant, askers: &Askers) -> Option<&'static str> {
        if self.ends <= now {
            return Some("the time to drain is over");
        }
        if now < self.next_look {
            return None;
        }
        self.next_look = now + LOOK;
        let known = askers.know_since(now).filter(|_| self.service.is_known());
        if known.is_none() || self.service.has_connections(self.proc) {
            self.quiet = None;
            return None;
        }
        // Who was told a moment ago has not acted on it yet.
        let quiet = known.max(Some(*self.quiet.get_or_insert(now)))?;
        let settled = now.saturating_duration_since(quiet) >= self.settle;
        settled.then_some("the service has no connections any more")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::askers::Way;

    fn told(askers: &mut Askers, from: [u8; 4], now: Instant) {
        askers.note(Way { from: from.into(), to: "10.0.0.11:3333".parse().unwrap() }, now, true);
    }

    /// The kernel's table with one connection to port 80, in this state.
    fn table(folder: &Path, state: &str) {
        fs::create_dir_all(folder.join("net")).unwrap();
        let line = format!("sl\n 0: 0B00000A:0050 0900000A:9C40 {state} 0:0\n");
        fs::write(folder.join("net/tcp"), line).unwrap();
    }

    const MOST: Duration = Duration::from_secs(60);
    const SETTLE: Duration = Duration::from_secs(3);

    fn web() -> Service {
        Service { ports: vec![80], ..Service::default() }
    }

    #[test]
    fn it_is_over_when_nothing_was_seen_for_a_while_after_the_last_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let (service, start) = (web(), Instant::now());
        let mut drain = Drain::start(&service, folder.path(), start, MOST, SETTLE);
        let mut askers = Askers::default();
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        table(folder.path(), "06");
        assert_eq!(drain.over(at(9_000), &askers), None, "nobody has been told");
        told(&mut askers, [10, 0, 0, 2], at(10_000));
        assert_eq!(drain.over(at(10_500), &askers), None);
        assert_eq!(drain.over(at(12_900), &askers), None);
        told(&mut askers, [10, 0, 0, 3], at(13_000));
        assert_eq!(drain.over(at(13_500), &askers), None, "the second has just been told");
        table(folder.path(), "01");
        assert_eq!(drain.over(at(15_900), &askers), None, "a client is there");
        table(folder.path(), "06");
        assert_eq!(drain.over(at(16_200), &askers), None);
        assert_eq!(drain.over(at(19_100), &askers), None, "was there less than 3 s ago");
        assert!(drain.over(at(19_300), &askers).is_some());
    }

    #[test]
    fn what_has_not_arrived_yet_counts_as_a_connection() {
        let folder = tempfile::tempdir().unwrap();
        let (service, start) = (web(), Instant::now());
        let mut askers = Askers::default();
        told(&mut askers, [10, 0, 0, 2], start);
        for (state, over) in [
            ("01", false),
            ("03", false),
            ("04", false),
            ("08", false),
            ("09", false),
            ("0B", false),
            ("05", true),
            ("06", true),
            ("0A", true),
        ] {
            table(folder.path(), state);
            let mut drain = Drain::start(&service, folder.path(), start, MOST, Duration::ZERO);
            assert_eq!(drain.over(start, &askers).is_some(), over, "{state}");
        }
    }

    #[test]
    fn it_ends_in_time_whatever_happens() {
        let folder = tempfile::tempdir().unwrap();
        table(folder.path(), "01");
        let (service, start) = (web(), Instant::now());
        let mut drain = Drain::start(&service, folder.path(), start, MOST, SETTLE);
        assert_eq!(drain.over(start + MOST - Duration::from_millis(1), &Askers::default()), None);
        assert!(drain.next_look() <= start + MOST);
        assert!(drain.over(start + MOST, &Askers::default()).is_some());
    }

    #[test]
    fn where_nobody_says_which_connections_count_it_takes_the_whole_time() {
        let folder = tempfile::tempdir().unwrap();
        let (service, start) = (Service::default(), Instant::now());
        let mut askers = Askers::default();
        told(&mut askers, [10, 0, 0, 2], start);
        let mut drain = Drain::start(&service, folder.path(), start, MOST, SETTLE);
        for second in 0..60 {
            assert_eq!(drain.over(start + Duration::from_secs(second), &askers), None);
        }
    }
}
