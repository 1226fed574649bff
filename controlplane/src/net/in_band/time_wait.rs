//! Connections that are over, but whose last segments may still be under way (RFC 9293 section 3.6.1): so much of each as it
//! takes to say once more that all has arrived.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::punt::answers::Awaited;

use super::engine::Sent;
use super::packet::Ends;
use crate::net::Way;

/// How long they are remembered.
const TIME: Duration = Duration::from_secs(10);
/// How many at most; the oldest goes first.
pub const MOST: usize = 32_768;

/// A connection that is over.
pub struct Over {
    /// What was said last.
    pub sent: Sent,
    /// How packets get to the other end.
    pub way: Way,
    /// Tells it from an earlier or later one between the same ends.
    pub since: Moment,
    /// Its last segments are answers still.
    pub _awaited: Option<Awaited>,
}

/// All of them.
#[derive(Default)]
pub struct TimeWait {
    over: HashMap<Ends, Over>,
    /// In order of time; some have gone already.
    order: VecDeque<(Moment, Ends)>,
}

impl TimeWait {
    /// Remembers one.
    pub fn insert(&mut self, ends: Ends, over: Over) {
        if self.order.len() >= MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.forget(oldest);
        }
        self.order.push_back((over.since, ends));
        self.over.insert(ends, over);
    }

    /// The one between these ends.
    pub fn get(&self, ends: &Ends) -> Option<&Over> {
        self.over.get(ends)
    }

    /// Forgets the one between these ends, because there is a new one.
    pub fn remove(&mut self, ends: &Ends) {
        self.over.remove(ends);
    }

    /// Forgets those whose time is over.
    pub fn expire(&mut self, now: Moment) {
        while let Some(&oldest) = self.order.front()
            && now.since(oldest.0) >= TIME
        {
            self.order.pop_front();
            self.forget(oldest);
        }
    }

    fn forget(&mut self, (since, ends): (Moment, Ends)) {
        if self.over.get(&ends).is_some_and(|over| over.since == since) {
            self.over.remove(&ends);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.over.len()
    }
}
