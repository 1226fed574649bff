//! Step 4c: the server that a new flow gets. What a scheduler remembers between two flows is the
//! worker's and survives every change of configuration; what it chooses from is in the snapshot.

mod consistent;

pub mod maglev;

mod round_robin;

use crate::parse::Flow;
use crate::snapshot::{MAX_SERVICES, Scheduler, ServerId, Service, Snapshot};

/// Where each service's schedule stands, on one worker.
pub struct Schedules(Box<[Position]>);

/// Where one service's schedule stands.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    /// The candidate whose turn is next.
    next: u32,
    /// Weighted round robin: only servers of this weight or more take part in this round.
    level: u16,
}

impl Default for Schedules {
    fn default() -> Self {
        Self(vec![Position::default(); MAX_SERVICES].into())
    }
}

impl Schedules {
    /// The server for a new flow of `service`; `None` if none takes new flows.
    pub fn choose(&mut self, service: &Service) -> Option<ServerId> {
        let position = self.0.get_mut(usize::from(service.id.0))?;
        match service.scheduler {
            Scheduler::RoundRobin => round_robin::plain(&service.candidates, position),
            Scheduler::WeightedRoundRobin => round_robin::weighted(&service.candidates, position),
        }
    }
}

/// The server for a packet in mid-flow that nobody remembers: the same on every worker and every node
/// that offers the same servers.
pub fn agreed(service: &Service, flow: &Flow, snapshot: &Snapshot) -> Option<ServerId> {
    consistent::choose(&service.candidates, flow, snapshot)
}
