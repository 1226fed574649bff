//! What clients' own connections tell of a service's servers: one that does not answer them is left out for a
//! while, whatever its check says. A policy alone: counters come in with the time, and a verdict goes out.
//!
//! - What counts are connections *in a row*: one that is answered makes an end of the row.
//! - A server that refuses says so itself. That one does not answer may be the clients' doing (a flood of SYNs
//!   with forged senders, where replies do not pass through here) or the network's, so it counts only while
//!   another server of the service answers.
//! - Never more are left out than may be, and never the last.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::snapshot::ServerId;

use crate::config::Passive;

/// What the connections of one server have told so far, in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSignals {
    /// Who it is, whatever its place in the list.
    pub server: ServerId,
    /// Whether it takes new connections, but for what is decided here: it is wanted online, well, and reachable.
    pub available: bool,
    /// Connections of which the first SYN was answered.
    pub handshakes: u64,
    /// Connections of which it was not.
    pub unanswered: u64,
    /// Connections that it refused.
    pub refused: u64,
}

/// The policy of one service, and what it remembers of the servers.
#[derive(Debug)]
pub struct Ejector {
    settings: Passive,
    servers: HashMap<ServerId, Memory>,
}

/// What is remembered of one server.
#[derive(Debug)]
struct Memory {
    last: ServerSignals,
    /// Connections in a row that failed, with the time of the look that found them, oldest first.
    row: VecDeque<(Moment, Failures)>,
    /// When it last answered.
    answered: Option<Moment>,
    ejected: Option<Ejected>,
}

#[derive(Debug, Clone)]
struct Ejected {
    since: Moment,
    reason: String,
}

/// Connections that failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Failures {
    unanswered: u64,
    refused: u64,
}

impl Failures {
    fn all(self) -> u64 {
        self.unanswered.saturating_add(self.refused)
    }
}

/// Looks that a row is made of, at most; what comes sooner than their share of the window joins the last.
const LOOKS: u32 = 64;

impl Ejector {
    /// Nothing is known of any server.
    pub fn new(settings: Passive) -> Self {
        Self { settings, servers: HashMap::new() }
    }

    /// Takes up other settings. What is known stays; who is left out stays so for as long as they say.
    pub fn configure(&mut self, settings: Passive) {
        self.settings = settings;
    }

    /// The servers to be left out now, by their places in the list, each with the reason in words. To be asked
    /// about once a second, and whenever the list has changed.
    pub fn ejected(&mut self, now: Moment, servers: &[ServerSignals]) -> Vec<(usize, String)> {
        self.servers.retain(|id, _| servers.iter().any(|it| it.server == *id));
        let window = self.window();
        for signals in servers {
            self.servers
                .entry(signals.server)
                .or_insert_with(|| Memory::new(*signals))
                .look(now, *signals, window);
        }
        self.release(now, servers);
        self.eject(now, servers);
        let verdict = |(index, signals): (usize, &ServerSignals)| {
            let ejected = self.servers.get(&signals.server)?.ejected.as_ref()?;
            Some((index, ejected.reason.clone()))
        };
        servers.iter().enumerate().filter_map(verdict).collect()
    }

    fn window(&self) -> Duration {
        Duration::from_secs(u64::from(self.settings.window))
    }

    /// Lets those back whose time is over, those that are more than may be, and who would be the last.
    fn release(&mut self, now: Moment, servers: &[ServerSignals]) {
        let patience = Duration::from_secs(u64::from(self.settings.eject_for));
        let eject = self.settings.eject;
        for memory in self.servers.values_mut() {
            let is_over = |ejected: &Ejected| !eject || now.since(ejected.since) >= patience;
            if memory.ejected.as_ref().is_some_and(is_over) {
                memory.begin_anew();
            }
        }
        let most = self.settings.max_ejected.of(servers.len());
        while self.number() > most {
            self.release_oldest(servers, |_| true);
        }
        let is_left = |it: &&ServerSignals| it.available && !self.is_ejected(it.server);
        if servers.iter().find(is_left).is_none() {
            self.release_oldest(servers, |signals| signals.available);
        }
    }

    /// Lets back who was left out the longest ago, of those in question.
    fn release_oldest(
        &mut self,
        servers: &[ServerSignals],
        is_in_question: impl Fn(&ServerSignals) -> bool,
    ) {
        let since = |it: &ServerSignals| {
            let ejected = self.servers.get(&it.server)?.ejected.as_ref()?;
            Some((ejected.since, it.server))
        };
        let oldest = servers.iter().filter(|it| is_in_question(it)).filter_map(since).min();
        if let Some(memory) = oldest.and_then(|(_, server)| self.servers.get_mut(&server)) {
            memory.begin_anew();
        }
    }

    /// Leaves out who has failed often enough, the worst first, as long as more may be left out.
    fn eject(&mut self, now: Moment, servers: &[ServerSignals]) {
        if !self.settings.eject {
            return;
        }
        let mut failing: Vec<_> = servers
            .iter()
            .filter(|it| it.available && !self.is_ejected(it.server))
            .filter_map(|it| Some((self.failures(now, it.server, servers)?, it.server)))
            .collect();
        failing.sort_by_key(|&(failures, server)| (std::cmp::Reverse(failures.all()), server));
        let most = self.settings.max_ejected.of(servers.len());
        for (failures, server) in failing {
            let others = servers
                .iter()
                .filter(|it| it.available && it.server != server && !self.is_ejected(it.server));
            if self.number() >= most || others.count() == 0 {
                return;
            }
            let reason = self.words(failures);
            if let Some(memory) = self.servers.get_mut(&server) {
                memory.ejected = Some(Ejected { since: now, reason });
            }
        }
    }

    /// The connections in a row that a server has failed, if they are reason enough.
    fn failures(
        &self,
        now: Moment,
        server: ServerId,
        servers: &[ServerSignals],
    ) -> Option<Failures> {
        let failures = self.servers.get(&server)?.failures();
        let enough = u64::from(self.settings.unanswered);
        let answers = |it: &ServerSignals| {
            let memory = self.servers.get(&it.server);
            let answered = memory.and_then(|memory| memory.answered);
            it.server != server && answered.is_some_and(|last| now.since(last) < self.window())
        };
        let is_reason =
            failures.refused >= enough || (failures.all() >= enough && servers.iter().any(answers));
        is_reason.then_some(failures)
    }

    fn words(&self, failures: Failures) -> String {
        let Failures { unanswered, refused } = failures;
        let what = match (unanswered, refused) {
            (_, 0) => "got no answer".to_owned(),
            (0, _) => "were refused".to_owned(),
            _ => format!("failed, {refused} of them refused"),
        };
        let (in_a_row, window) = (failures.all(), self.settings.window);
        format!("{in_a_row} connections in a row {what} within {window} s")
    }

    fn is_ejected(&self, server: ServerId) -> bool {
        self.servers.get(&server).is_some_and(|memory| memory.ejected.is_some())
    }

    fn number(&self) -> usize {
        self.servers.values().filter(|memory| memory.ejected.is_some()).count()
    }
}

impl Memory {
    fn new(signals: ServerSignals) -> Self {
        Self { last: signals, row: VecDeque::new(), answered: None, ejected: None }
    }

    /// Notes what has come since the last look.
    fn look(&mut self, now: Moment, signals: ServerSignals, window: Duration) {
        let since = |of: fn(&ServerSignals) -> u64| of(&signals).saturating_sub(of(&self.last));
        let handshakes = since(|it| it.handshakes);
        let failures =
            Failures { unanswered: since(|it| it.unanswered), refused: since(|it| it.refused) };
        self.last = signals;
        self.row.retain(|(seen, _)| now.since(*seen) < window);
        if handshakes > 0 {
            // Which came first within one look is not known: the server has the benefit of the doubt.
            self.answered = Some(now);
            self.row.clear();
        } else if failures.all() > 0 && self.ejected.is_none() {
            match self.row.back_mut() {
                Some((seen, last)) if now.since(*seen) < window / LOOKS => {
                    last.unanswered = last.unanswered.saturating_add(failures.unanswered);
                    last.refused = last.refused.saturating_add(failures.refused);
                }
                _ => self.row.push_back((now, failures)),
            }
        }
    }

    fn failures(&self) -> Failures {
        self.row.iter().fold(Failures::default(), |sum, (_, more)| Failures {
            unanswered: sum.unanswered.saturating_add(more.unanswered),
            refused: sum.refused.saturating_add(more.refused),
        })
    }

    /// It gets another chance.
    fn begin_anew(&mut self) {
        self.ejected = None;
        self.row.clear();
    }
}

#[cfg(test)]
mod tests;
