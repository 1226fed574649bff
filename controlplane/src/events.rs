//! What changed, when and why: the last [`KEPT`] events, for whoever asks, and each as it comes, for
//! whoever follows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dataplane::wire::Address;
use tokio::sync::broadcast;
use tracing::info;

/// How many events are remembered.
pub const KEPT: usize = 10_000;
/// How many events somebody who follows may be behind before he misses some.
const BEHIND: usize = 1024;

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
}

/// The events. Cheap to clone: all clones are the same list.
#[derive(Debug, Clone)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    list: Mutex<List>,
    live: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug, Default)]
struct List {
    last: u64,
    kept: VecDeque<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        let (live, _) = broadcast::channel(BEHIND);
        Self(Arc::new(Shared { list: Mutex::default(), live }))
    }
}

impl Events {
    /// Notes a change, logs it and tells whoever follows.
    pub fn record(&self, change: Change) {
        let mut list = self.list();
        list.last += 1;
        let event = Arc::new(Event { number: list.last, time: SystemTime::now(), change });
        if list.kept.len() == KEPT {
            list.kept.pop_front();
        }
        list.kept.push_back(Arc::clone(&event));
        let Change { subject, old, new, reason } = &event.change;
        info!(%old, %new, %reason, "{subject}");
        let _ = self.0.live.send(event); // nobody may follow
    }

    /// The newest events, newest first.
    pub fn newest(&self, limit: usize) -> Vec<Arc<Event>> {
        self.list().kept.iter().rev().take(limit).cloned().collect()
    }

    /// Every event from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.live.subscribe()
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut live = events.follow();
        events.record(change(2));
        assert_eq!(live.try_recv().map(|event| event.number), Ok(2));
        assert!(live.try_recv().is_err());
    }
}
