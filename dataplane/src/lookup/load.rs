//! How many connections each server has, over all workers: its own are counted to the last flow,
//! those of the others are read at most a few milliseconds ago.

use std::time::Duration;

use crate::counters::Counters;
use crate::moment::Moment;
use crate::snapshot::{MAX_SERVERS, MAX_SERVICES, Server, ServerId, Service};

/// How old the other workers' numbers may be.
const FRESH: Duration = Duration::from_millis(4);

/// Connections by server, as one worker knows them.
pub struct Loads {
    own: Counters,
    others: Box<[Counters]>,
    /// By server slot: the others' connections.
    elsewhere: Box<[u32]>,
    /// By service slot: when its servers' numbers were read.
    read: Box<[Moment]>,
    /// By server slot: whether it has been full and has not come below its minimum since (VS-15).
    full: Box<[bool]>,
    rehearses: bool,
}

impl Loads {
    /// Reads the counters of the `others`; `own` are this worker's.
    pub fn new(own: Counters, others: Vec<Counters>) -> Self {
        Self {
            own,
            others: others.into(),
            elsewhere: vec![0; MAX_SERVERS].into(),
            read: vec![Moment::START; MAX_SERVICES].into(),
            full: vec![false; MAX_SERVERS].into(),
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
            let sum: i64 = self.others.iter().map(|it| it.server(server).active.get()).sum();
            self.elsewhere[server.slot()] = u32::try_from(sum).unwrap_or_default();
        }
    }

    /// A server's connections now.
    #[inline]
    pub fn connections(&self, server: ServerId) -> u32 {
        let own = u32::try_from(self.own.server(server).active.get()).unwrap_or_default();
        own.saturating_add(self.elsewhere[server.slot()])
    }

    /// Whether a server may take one more (VS-15): below its maximum, and once it was full, not before it has
    /// come below its minimum.
    #[inline]
    pub fn has_room(&mut self, server: &Server) -> bool {
        if server.max_connections == 0 {
            return true;
        }
        let connections = self.connections(server.id);
        let full = &mut self.full[server.id.slot()];
        let bound = if *full && server.min_connections > 0 {
            server.min_connections
        } else {
            server.max_connections
        };
        let is_full = connections >= bound;
        *full = if self.rehearses { *full } else { is_full };
        !is_full
    }
}
