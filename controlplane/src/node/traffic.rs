//! What servers and services have carried. Workers count by slot, and slots are given away again:
//! here each identity's share is told apart from that of the slot's earlier owners.

use std::collections::HashMap;
use std::time::Duration;

use dataplane::counters::{Counters, Gauge, ServerBlock};
use dataplane::moment::Moment;
use dataplane::snapshot::ServerId;

use super::View;
use crate::report::{Totals, Traffic};

/// How often rates are taken.
const PERIOD: Duration = Duration::from_secs(1);

/// Accounts of all servers there are, and of the services they belong to.
pub struct Accounts {
    counters: Vec<Counters>,
    servers: HashMap<ServerId, Account>,
    /// What removed servers had carried, by the service that they belonged to.
    removed: HashMap<String, Totals>,
    sampled: Moment,
}

/// One server's.
struct Account {
    service: String,
    /// What the slot's counters showed when the server came.
    start: Totals,
    /// What they showed when rates were last taken.
    last: Totals,
    rates: Totals,
}

impl Accounts {
    /// Nothing has been carried yet.
    pub fn new(counters: Vec<Counters>, now: Moment) -> Self {
        Self { counters, servers: HashMap::new(), removed: HashMap::new(), sampled: now }
    }

    /// Opens accounts for the servers that are new in `view`, and closes those of the others.
    pub fn follow(&mut self, view: &View) {
        let mut servers = HashMap::with_capacity(self.servers.len());
        let mut removed = HashMap::with_capacity(self.removed.len());
        for service in view.services() {
            let earlier = self.removed.remove(&service.config.name).unwrap_or_default();
            removed.insert(service.config.name.clone(), earlier);
            for (id, _) in service.servers() {
                let account = self.servers.remove(&id).unwrap_or_else(|| {
                    let start = slot(&self.counters, id);
                    let service = service.config.name.clone();
                    Account { service, start, last: start, rates: Totals::default() }
                });
                servers.insert(id, account);
            }
        }
        for (id, closed) in &self.servers {
            if let Some(service) = removed.get_mut(&closed.service) {
                let carried = slot(&self.counters, *id).zip(closed.start, u64::wrapping_sub);
                *service = service.zip(carried, u64::wrapping_add);
            }
        }
        (self.servers, self.removed) = (servers, removed);
    }

    /// Takes rates, once a second.
    pub fn tick(&mut self, now: Moment) {
        let period = now.since(self.sampled);
        if period < PERIOD {
            return;
        }
        let milliseconds = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1);
        for (id, account) in &mut self.servers {
            let shown = slot(&self.counters, *id);
            let carried = shown.zip(account.last, u64::wrapping_sub);
            account.rates =
                carried.zip(carried, |more, _| more.saturating_mul(1000) / milliseconds);
            account.last = shown;
        }
        self.sampled = now;
    }

    /// What one server carries.
    pub fn server(&self, id: ServerId) -> Traffic {
        let Some(account) = self.servers.get(&id) else { return Traffic::default() };
        let now = |of: fn(&ServerBlock) -> &Gauge| -> i64 {
            self.counters.iter().map(|worker| of(worker.server(id)).get()).sum()
        };
        let (active, closing) = (now(|server| &server.active), now(|server| &server.closing));
        let totals = slot(&self.counters, id).zip(account.start, u64::wrapping_sub);
        // Connections of the slot's earlier owner end one by one; a server has no more than it began.
        let connections = u64::try_from(active + closing).unwrap_or(0).min(totals.connections);
        let closing = u64::try_from(closing).unwrap_or(0).min(connections);
        let handshake_ms = totals.handshake_ms();
        Traffic { connections, closing, totals, handshake_ms, rates: account.rates }
    }

    /// What a service carries, given what its servers do.
    pub fn service(&self, name: &str, servers: impl IntoIterator<Item = Traffic>) -> Traffic {
        let totals = self.removed.get(name).copied().unwrap_or_default();
        let nothing = Traffic { totals, ..Traffic::default() };
        let all = servers.into_iter().fold(nothing, |sum, server| Traffic {
            connections: sum.connections + server.connections,
            closing: sum.closing + server.closing,
            totals: sum.totals.zip(server.totals, u64::wrapping_add),
            handshake_ms: None,
            rates: sum.rates.zip(server.rates, u64::wrapping_add),
        });
        Traffic { handshake_ms: all.totals.handshake_ms(), ..all }
    }
}

/// What the workers have counted in this identity's slot, for all its owners.
fn slot(counters: &[Counters], id: ServerId) -> Totals {
    let workers = counters.iter().map(|worker| {
        let (server, signals) = (worker.server(id), worker.signals(id));
        Totals {
            connections: server.flows.get(),
            packets: server.packets.get(),
            bytes: server.bytes.get(),
            reply_packets: server.reply_packets.get(),
            reply_bytes: server.reply_bytes.get(),
            unanswered: signals.unanswered.get(),
            refused: signals.refused.get(),
            resets: signals.resets.get(),
            handshakes: signals.handshakes.get(),
            handshake_milliseconds: signals.handshake_time.get(),
        }
    });
    workers.fold(Totals::default(), |sum, worker| sum.zip(worker, u64::wrapping_add))
}
