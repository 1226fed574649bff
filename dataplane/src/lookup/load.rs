//! How many connections each server has, over all workers: its own are counted to the last flow. Those of
//! the others are read at most a few milliseconds ago where servers are compared, and at once where a
//! server may have so many and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::counters::Counters;
use crate::moment::Moment;
use crate::snapshot::{MAX_SERVERS, MAX_SERVICES, Server, ServerId, Service};

/// How old the other workers' numbers may be where servers are compared.
const FRESH: Duration = Duration::from_millis(4);

/// By server slot: whether it has been full and has not come below its minimum since (VS-15). The same for
/// all workers: whichever has seen it says so to the others.
#[derive(Clone)]
pub struct Full(Arc<[AtomicBool]>);

impl Default for Full {
    fn default() -> Self {
        Self((0..MAX_SERVERS).map(|_| AtomicBool::new(false)).collect())
    }
}

/// Connections by server, as one worker knows them.
pub struct Loads {
    own: Counters,
    others: Box<[Counters]>,
    /// By server slot: the others' connections.
    elsewhere: Box<[u32]>,
    /// By service slot: when its servers' numbers were read.
    read: Box<[Moment]>,
    full: Full,
    rehearses: bool,
}

impl Loads {
    /// Reads the counters of the `others`; `own` are this worker's. All workers of a node have the same `full`.
    pub fn new(own: Counters, others: Vec<Counters>, full: Full) -> Self {
        Self {
            own,
            others: others.into(),
            elsewhere: vec![0; MAX_SERVERS].into(),
            read: vec![Moment::START; MAX_SERVICES].into(),
            full,
            rehearses: false,
        }
    }

    /// Whether what is asked from now on must not count as having been seen full.
    pub fn rehearse(&mut self, rehearses: bool) {
        self.rehearses = rehearses;
    }

    /// Reads the other workers' numbers of a service's servers, if it is time.
    pub fn refresh(&mut self, service: &Service, now: Moment) {
        let Some(read) = self.read.get_mut(service.id.slot()) else { return };
        if self.others.is_empty() || (now.since(*read) < FRESH && *read != Moment::START) {
            return;
        }
        *read = now;
        for &(_, server) in &service.hosts {
            self.look_again(server);
        }
    }

    /// Reads the other workers' numbers of one server.
    fn look_again(&mut self, server: ServerId) {
        let sum: i64 = self.others.iter().map(|it| it.server(server).active.get()).sum();
        self.elsewhere[server.slot()] = u32::try_from(sum).unwrap_or_default();
    }

    /// A server's connections, as far as the others' are known.
    #[inline]
    pub fn connections(&self, server: ServerId) -> u32 {
        let own = u32::try_from(self.own.server(server).active.get()).unwrap_or_default();
        own.saturating_add(self.elsewhere[server.slot()])
    }

    /// Whether a server may take one more (VS-15): below its maximum, and once it was full, not before it has
    /// come below its minimum. Workers that ask at the same instant are told the same, so that a server
    /// may get one more for each other worker.
    #[inline]
    pub fn has_room(&mut self, server: &Server) -> bool {
        if server.max_connections == 0 {
            return true;
        }
        self.look_again(server.id);
        let is_full = self.is_full(server);
        let known = &self.full.0[server.id.slot()];
        if !self.rehearses && known.load(Ordering::Relaxed) != is_full {
            known.store(is_full, Ordering::Relaxed);
        }
        !is_full
    }

    /// The same by the numbers that were read last, for comparing many servers.
    #[inline]
    pub fn seems_to_have_room(&self, server: &Server) -> bool {
        server.max_connections == 0 || !self.is_full(server)
    }

    fn is_full(&self, server: &Server) -> bool {
        let was_full = self.full.0[server.id.slot()].load(Ordering::Relaxed);
        let bound = if was_full && server.min_connections > 0 {
            server.min_connections
        } else {
            server.max_connections
        };
        self.connections(server.id) >= bound
    }
}
