//! Step 4c: the server that a new flow gets. What a scheduler remembers between two flows is the
//! worker's and survives every change of configuration; what it chooses from is in the snapshot.

mod least_connection;

pub mod maglev;

mod round_robin;

use super::load::Loads;
use crate::counters::Reason;
use crate::parse::Flow;
use crate::snapshot::{MAX_SERVICES, Scheduler, Server, ServerId, Service, ServiceId, Snapshot};

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

/// Where a service's schedule stood.
pub struct Standing(ServiceId, Position);

impl Default for Schedules {
    fn default() -> Self {
        Self(vec![Position::default(); MAX_SERVICES].into())
    }
}

impl Schedules {
    /// Where a service's schedule stands, to be put back by [`Schedules::put_back`].
    pub fn standing(&self, service: ServiceId) -> Standing {
        Standing(service, self.0.get(service.slot()).copied().unwrap_or_default())
    }

    /// Lets a schedule stand where it stood.
    pub fn put_back(&mut self, Standing(service, before): Standing) {
        if let Some(position) = self.0.get_mut(service.slot()) {
            *position = before;
        }
    }

    /// The server for a new flow of `service`.
    ///
    /// # Errors
    /// [`Reason::NoServer`] if none takes new flows, [`Reason::ServersFull`] if all have as many as they may.
    pub fn choose<'s>(
        &mut self,
        service: &Service,
        flow: &Flow,
        snapshot: &'s Snapshot,
        loads: &mut Loads,
    ) -> Result<&'s Server, Reason> {
        let position = self.0.get_mut(service.id.slot()).ok_or(Reason::NoServer)?;
        let candidates = &service.candidates;
        if candidates.servers().is_empty() {
            return Err(Reason::NoServer);
        }
        // Every turn may meet a full server, and no server is met more often than its weight.
        for _ in 0..=candidates.servers().len() {
            let chosen = match service.scheduler {
                Scheduler::RoundRobin => round_robin::plain(candidates, position),
                Scheduler::WeightedRoundRobin | Scheduler::OnePacket => {
                    round_robin::weighted(candidates, position)
                }
                Scheduler::LeastConnection | Scheduler::WeightedLeastConnection => {
                    let weighted = service.scheduler == Scheduler::WeightedLeastConnection;
                    least_connection::choose(candidates, position, weighted, |id| {
                        let server = snapshot.server(id)?;
                        loads.seems_to_have_room(server).then(|| loads.connections(id))
                    })
                }
                Scheduler::SourceHash | Scheduler::DestinationHash | Scheduler::Maglev => {
                    hashed(service, flow)
                }
            };
            let Some(server) = chosen.and_then(|id| snapshot.server(id)) else { break };
            if loads.has_room(server) {
                return Ok(server);
            }
        }
        // The one whose turn it was is full: any that is not.
        let others = candidates.servers().iter().filter_map(|&(id, _)| snapshot.server(id));
        others.into_iter().find(|server| loads.has_room(server)).ok_or(Reason::ServersFull)
    }
}

/// The server for a packet in mid-flow that nobody remembers: the same on every worker and every node
/// that offers the same servers.
#[inline]
pub fn agreed<'s>(service: &Service, flow: &Flow, snapshot: &'s Snapshot) -> Option<&'s Server> {
    snapshot.server(hashed(service, flow)?)
}

#[inline]
fn hashed(service: &Service, flow: &Flow) -> Option<ServerId> {
    let digest = match (service.scheduler, service.persistence) {
        (Scheduler::DestinationHash, _) => maglev::digest_of_address(flow.destination),
        (_, Some(persistence)) => {
            let mask = persistence.mask(flow.source);
            maglev::digest_of_address(flow.source.network(mask))
        }
        (Scheduler::SourceHash, None) => maglev::digest_of_address(flow.source),
        _ => maglev::digest_of_flow(
            flow.source,
            flow.source_port,
            flow.destination,
            flow.destination_port,
            flow.protocol as u8,
        ),
    };
    let index = service.table.at(digest)?;
    service.candidates.servers().get(usize::from(index)).map(|&(server, _)| server)
}
