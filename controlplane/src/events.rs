//! What changed, when and why: the last [`KEPT`] events, for whoever asks, and each as it comes, for
//! whoever follows. Whoever follows reads the same list, so that nobody who is slow costs memory: he is told
//! how many went by without him.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dataplane::wire::Address;
use tokio::sync::watch;
use tracing::{info, warn};

/// How many events are remembered.
pub const KEPT: usize = 10_000;
/// The longest reason that is kept, in bytes.
const LONGEST_REASON: usize = 1024;
/// How many kinds of events are counted apart: there are fewer.
const MOST_KINDS: usize = 256;

/// A change of something's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counts up from 1, without gaps, since the program started.
    pub number: u64,
    /// By the wall clock.
    pub time: SystemTime,
    /// What happened.
    pub change: Change,
}

/// What happened to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What changed.
    pub subject: Subject,
    /// Its state before, in the words of the API.
    pub old: String,
    /// Its state now.
    pub new: String,
    /// Why, such as "connect to 10.0.0.11:8080 refused, 2 of 2".
    pub reason: String,
}

/// What can change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A real server: its actual state.
    Server {
        /// The name of its virtual service.
        service: String,
        /// Its own.
        server: String,
    },
    /// A virtual service as a whole.
    Service {
        /// Its name.
        service: String,
    },
    /// The configuration: from one entity tag to the next.
    Configuration,
    /// A thread that forwards: how full its flow table is.
    Worker {
        /// Its number.
        worker: usize,
    },
    /// An address of ours that another station claims.
    Address {
        /// The address.
        address: Address,
    },
    /// A trigger that has run, or was kept from it.
    Trigger {
        /// Its name.
        trigger: String,
    },
}

/// The events. Cheap to clone: all clones are the same list.
#[derive(Debug, Clone)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    list: Mutex<List>,
    /// The number of the last event.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct List {
    last: u64,
    kept: VecDeque<Arc<Event>>,
    counts: BTreeMap<(&'static str, String), u64>,
}

/// An event as somebody who follows gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// How many events before it were not heard of, because they are no longer kept.
    pub missed: u64,
    /// What happened.
    pub event: Arc<Event>,
}

/// Somebody who follows.
#[derive(Debug)]
pub struct Follower {
    events: Events,
    /// The number of the last event heard of.
    last: u64,
    news: watch::Receiver<u64>,
}

impl Default for Events {
    fn default() -> Self {
        let (news, _) = watch::channel(0);
        Self(Arc::new(Shared { list: Mutex::default(), news }))
    }
}

impl Events {
    /// Notes a change, logs it and tells whoever follows.
    pub fn record(&self, mut change: Change) {
        change.reason = one_line(&change.reason);
        let mut list = self.list();
        list.last += 1;
        let event = Arc::new(Event { number: list.last, time: SystemTime::now(), change });
        if list.kept.len() == KEPT {
            list.kept.pop_front();
        }
        list.kept.push_back(Arc::clone(&event));
        list.count(&event.change);
        let _ = self.0.news.send_replace(list.last);
        drop(list);
        let Change { subject, old, new, reason } = &event.change;
        match subject {
            Subject::Worker { .. } | Subject::Address { .. } => {
                warn!(%old, %new, %reason, "{subject}");
            }
            _ => info!(%old, %new, %reason, "{subject}"),
        }
    }

    /// The newest events, newest first.
    pub fn newest(&self, limit: usize) -> Vec<Arc<Event>> {
        self.list().kept.iter().rev().take(limit).cloned().collect()
    }

    /// How many there were since the program started, by kind of subject and new state.
    pub fn counts(&self) -> Vec<(&'static str, String, u64)> {
        let list = self.list();
        list.counts.iter().map(|((kind, new), count)| (*kind, new.clone(), *count)).collect()
    }

    /// Every event from now on.
    pub fn follow(&self) -> Follower {
        let last = self.list().last;
        self.follow_after(last)
    }

    /// Every event after that number. A number that has not been given yet is one from before the program
    /// started again: everything that is kept comes after it.
    pub fn follow_after(&self, number: u64) -> Follower {
        let last = if number > self.list().last { 0 } else { number };
        Follower { events: self.clone(), last, news: self.0.news.subscribe() }
    }

    /// The first event that is kept after that number: numbers have no gaps, so it need not be looked for.
    fn after(&self, number: u64) -> Option<Arc<Event>> {
        let list = self.list();
        let oldest = list.kept.front()?.number;
        let position = (number + 1).saturating_sub(oldest);
        list.kept.get(usize::try_from(position).ok()?).cloned()
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn count(&mut self, change: &Change) {
        let kind = change.subject.kind();
        let new = match change.subject {
            Subject::Configuration => "changed", // what it is called differs every time
            _ => &change.new,
        };
        let key = (kind, new.to_owned());
        if self.counts.len() < MOST_KINDS || self.counts.contains_key(&key) {
            *self.counts.entry(key).or_default() += 1;
        }
    }
}

impl Follower {
    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Heard> {
        let event = self.events.after(self.last)?;
        let missed = event.number - self.last - 1;
        self.last = event.number;
        Some(Heard { missed, event })
    }

    /// Waits for the next event.
    pub async fn next(&mut self) -> Heard {
        loop {
            self.news.mark_unchanged();
            if let Some(heard) = self.try_next() {
                return heard;
            }
            // The other end lives as long as `events` does.
            let _ = self.news.changed().await;
        }
    }
}

/// What servers say may stand in a reason: it stays one line, and short.
fn one_line(reason: &str) -> String {
    let mut end = reason.len().min(LONGEST_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].replace(char::is_control, " ")
}

impl Subject {
    /// The virtual service that it is, or belongs to.
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Server { service, .. } | Self::Service { service } => Some(service),
            _ => None,
        }
    }

    /// What kind of thing it is, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Server { .. } => "server",
            Self::Service { .. } => "service",
            Self::Configuration => "configuration",
            Self::Worker { .. } => "worker",
            Self::Address { .. } => "address",
            Self::Trigger { .. } => "trigger",
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server { service, server } => write!(f, "server {service}/{server}"),
            Self::Service { service } => write!(f, "service {service}"),
            Self::Configuration => f.write_str("configuration"),
            Self::Worker { worker } => write!(f, "worker {worker}"),
            Self::Address { address } => write!(f, "address {address}"),
            Self::Trigger { trigger } => write!(f, "trigger {trigger}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(number: usize) -> Change {
        Change {
            subject: Subject::Server { service: "web".into(), server: "web1".into() },
            old: "up".into(),
            new: "down".into(),
            reason: number.to_string(),
        }
    }

    #[test]
    fn the_oldest_events_go_first_and_numbers_have_no_gaps() {
        let events = Events::default();
        for number in 1..=KEPT + 5 {
            events.record(change(number));
        }
        let kept = events.newest(usize::MAX);
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].number, KEPT as u64 + 5);
        assert!(kept.windows(2).all(|pair| pair[0].number == pair[1].number + 1));
    }

    #[test]
    fn whoever_follows_hears_of_what_comes_after() {
        let events = Events::default();
        events.record(change(1));
        let mut follower = events.follow();
        assert_eq!(follower.try_next(), None);
        events.record(change(2));
        assert_eq!(
            follower.try_next().map(|heard| (heard.missed, heard.event.number)),
            Some((0, 2))
        );
        assert_eq!(follower.try_next(), None);
    }

    #[test]
    fn whoever_falls_behind_is_told_how_many_he_missed_and_goes_on() {
        let events = Events::default();
        let mut follower = events.follow();
        for number in 1..=KEPT + 7 {
            events.record(change(number));
        }
        let heard = |follower: &mut Follower| {
            follower.try_next().map(|heard| (heard.missed, heard.event.number))
        };
        assert_eq!(heard(&mut follower), Some((7, 8)));
        assert_eq!(heard(&mut follower), Some((0, 9)));
        assert_eq!(heard(&mut events.follow_after(KEPT as u64 + 6)), Some((0, KEPT as u64 + 7)));
        assert_eq!(heard(&mut events.follow_after(KEPT as u64 + 7)), None);
        // The number is of an earlier run of the program.
        assert_eq!(heard(&mut events.follow_after(1_000_000)), Some((7, 8)));
    }

    #[test]
    fn a_reason_is_one_short_line_whatever_a_server_says() {
        let events = Events::default();
        let hostile = format!("220 hello\r\n\u{1b}[31m{}", "ü".repeat(5000));
        events.record(Change { reason: hostile, ..change(1) });
        let kept = &events.newest(1)[0].change.reason;
        assert!(kept.starts_with("220 hello   [31m") && kept.len() <= LONGEST_REASON, "{kept}");
    }

    #[test]
    fn events_are_counted_by_kind_and_new_state() {
        let events = Events::default();
        events.record(change(1));
        events.record(change(2));
        for tag in ["a", "b"] {
            events.record(Change { subject: Subject::Configuration, new: tag.into(), ..change(3) });
        }
        let counts = [("configuration", "changed".into(), 2), ("server", "down".into(), 2)];
        assert_eq!(events.counts(), counts);
    }
}
