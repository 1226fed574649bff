//! Whether our own addresses are ours: each is asked for before it counts as such (ARP probes, RFC 5227 section
//! 2.1; duplicate address detection, RFC 4862 section 5.4). Meanwhile it is used all the same (as RFC 4429 does
//! it), so that nobody waits for that. One that another station has is not used and asked for again later.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use dataplane::moment::Moment;

use super::Key;

/// How often an address is asked for (RFC 5227 section 1.1: PROBE_NUM).
const PROBES: u32 = 3;
/// Between two of those and after the last. A station on the same link answers within milliseconds; the RFCs'
/// second or two are for links that no load balancer is on.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an address that another station has is left alone.
const RETRY: Duration = Duration::from_secs(60);

/// One address of ours.
#[derive(Debug, Clone, Copy)]
enum Claim {
    /// It is being asked for.
    Probing { left: u32, used: bool },
    /// Nobody else has it.
    Held,
    /// Another station has it.
    Duplicate,
}

/// Our own addresses, but for virtual ones.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claims: HashMap<Key, Claim>,
    due: BTreeSet<(Moment, Key)>,
}

/// What is to be done about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Ask whether anybody has it.
    Ask(Key),
    /// It is ours: tell everybody.
    Announce(Key),
}

impl Claims {
    /// Takes up the addresses that there are now; those of `quiet` interfaces are ours without asking.
    pub(super) fn configure(
        &mut self,
        now: Moment,
        own: &HashSet<Key>,
        is_quiet: impl Fn(&Key) -> bool,
    ) {
        self.claims.retain(|key, _| own.contains(key));
        self.due.retain(|(_, key)| own.contains(key));
        for &key in own {
            if self.claims.contains_key(&key) {
                continue;
            }
            if is_quiet(&key) {
                self.claims.insert(key, Claim::Held);
            } else {
                self.probe(now, key, true);
            }
        }
    }

    fn probe(&mut self, now: Moment, key: Key, used: bool) {
        self.claims.insert(key, Claim::Probing { left: PROBES, used });
        self.due.insert((now, key));
    }

    /// The next thing to do that is due.
    pub(super) fn next_task(&mut self, now: Moment) -> Option<Task> {
        loop {
            let &(due, key) = self.due.first().filter(|(due, _)| *due <= now)?;
            self.due.remove(&(due, key));
            match self.claims.get_mut(&key) {
                Some(Claim::Probing { left: 0, .. }) => {
                    self.claims.insert(key, Claim::Held);
                    return Some(Task::Announce(key));
                }
                Some(Claim::Probing { left, .. }) => {
                    *left -= 1;
                    self.due.insert((now.plus(PAUSE), key));
                    return Some(Task::Ask(key));
                }
                Some(Claim::Duplicate) => self.probe(now, key, false),
                Some(Claim::Held) | None => {}
            }
        }
    }

    /// Whether the address is being asked for.
    pub(super) fn is_probing(&self, key: &Key) -> bool {
        matches!(self.claims.get(key), Some(Claim::Probing { .. }))
    }

    /// Whether it is not to be used, because another station has it, or had it when it was last asked for.
    pub(super) fn is_duplicate(&self, key: &Key) -> bool {
        let claim = self.claims.get(key);
        matches!(claim, Some(Claim::Duplicate | Claim::Probing { used: false, .. }))
    }

    /// Another station has an address that is being asked for; whether that is news.
    pub(super) fn lose(&mut self, now: Moment, key: Key) -> bool {
        let is_news = !self.is_duplicate(&key);
        self.due.retain(|(_, other)| *other != key);
        self.claims.insert(key, Claim::Duplicate);
        self.due.insert((now.plus(RETRY), key));
        is_news
    }

    /// The addresses that are not to be used.
    pub(super) fn duplicates(&self) -> impl Iterator<Item = Key> {
        self.claims.keys().copied().filter(|key| self.is_duplicate(key))
    }
}
