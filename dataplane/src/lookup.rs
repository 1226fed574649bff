//! Step 4: flow to server. The server that the flow already has, or a fresh choice.

pub mod flow_table;

pub mod persistence;

mod prefetch;

pub mod scheduler;

pub mod slab;

use arrayvec::ArrayVec;

use crate::classify::{Belongs, Matched};
use crate::counters::{Counters, Reason};
use crate::frame::{BURST, Burst};
use crate::moment::Moment;
use crate::parse::Packet;
use crate::snapshot::{Hop, Mode, Server, ServerId, Service, Snapshot};
use flow_table::{Direction, FlowTable, Place, Refused};
use scheduler::Schedules;

/// A packet and where it goes.
pub struct Routed<'s, F> {
    /// The frame.
    pub frame: F,
    /// What was read from it.
    pub packet: Packet,
    /// Where it goes.
    pub towards: Towards<'s>,
}

/// Where a packet goes.
#[derive(Clone, Copy)]
pub enum Towards<'s> {
    /// To a real server, the way it wants its packets.
    Server(&'s Server),
    /// Back to the client, as if from the virtual address.
    Client {
        /// The virtual address and port that the client knows.
        from: (std::net::Ipv4Addr, u16),
        /// The next station on the way.
        hop: Hop,
    },
}

/// What a worker remembers about flows and schedules.
pub struct Memory {
    /// The servers of known flows.
    pub flows: FlowTable,
    /// Where each service's schedule stands.
    pub schedules: Schedules,
}

/// Finds the server of every packet in a burst. Two passes over the table before the decisions, and a third
/// for flows that lie in their other bucket, so that the burst waits for memory together.
pub fn servers<'s, F>(
    mut matched: Burst<Matched<'s, F>>,
    snapshot: &'s Snapshot,
    memory: &mut Memory,
    now: Moment,
    counters: &Counters,
) -> Burst<Routed<'s, F>> {
    let hashes: ArrayVec<u64, BURST> =
        matched.iter().map(|it| memory.flows.hash(&it.packet.flow)).collect();
    for &hash in &hashes {
        memory.flows.prefetch_bucket(hash);
    }
    let spilled: ArrayVec<u64, BURST> =
        hashes.iter().copied().filter(|&hash| memory.flows.prefetch_entry(hash)).collect();
    for hash in spilled {
        memory.flows.prefetch_spilled(hash);
    }
    let mut routed = Burst::new();
    for (Matched { frame, packet, belongs }, hash) in matched.drain(..).zip(hashes) {
        let towards = match belongs {
            Belongs::To(service) => {
                memory.server(service, &packet, hash, snapshot, now, counters).map(Towards::Server)
            }
            Belongs::Reply => memory.client(&packet, hash, snapshot, now, counters),
        };
        match towards {
            Ok(towards) => routed.push(Routed { frame, packet, towards }),
            Err(reason) => counters.drop_one(reason),
        }
    }
    routed
}

/// How many servers are tried for a flow that one of them could not tell from another.
const TRIES: usize = 3;

impl Memory {
    /// The server of a client's packet.
    ///
    /// # Errors
    /// The reason why the packet is to be dropped.
    #[inline]
    fn server<'s>(
        &mut self,
        service: &Service,
        packet: &Packet,
        hash: u64,
        snapshot: &'s Snapshot,
        now: Moment,
        counters: &Counters,
    ) -> Result<&'s Server, Reason> {
        let known = self.flows.find(hash, &packet.flow, Direction::Original);
        if let Some(server) =
            known.and_then(|place| self.known(place, service, packet, snapshot, now, counters))
        {
            count(server.id, packet, counters);
            return Ok(server);
        }
        let server = self.new_flow(service, packet, hash, snapshot, now, counters)?;
        count(server.id, packet, counters);
        Ok(server)
    }

    /// The server that the flow at `place` has, if it may keep it; otherwise the flow ends.
    #[inline]
    fn known<'s>(
        &mut self,
        place: Place,
        service: &Service,
        packet: &Packet,
        snapshot: &'s Snapshot,
        now: Moment,
        counters: &Counters,
    ) -> Option<&'s Server> {
        let entry = self.flows.at(place);
        let opens_again =
            packet.flags.opens() && entry.state() == Some(crate::punt::FlowState::Closing);
        let server = snapshot
            .server(entry.server())
            .filter(|server| server.service == service.id && !opens_again);
        if server.is_some() {
            entry.note(packet, Direction::Original, now);
        } else {
            self.flows.end(place, counters);
        }
        server
    }

    fn new_flow<'s>(
        &mut self,
        service: &Service,
        packet: &Packet,
        hash: u64,
        snapshot: &'s Snapshot,
        now: Moment,
        counters: &Counters,
    ) -> Result<&'s Server, Reason> {
        // Somebody pretends to be us: the reply would come back here, and start again.
        if snapshot.locals.contains(&packet.flow.source) {
            return Err(Reason::BadSource);
        }
        let agreed = || {
            scheduler::agreed(service, &packet.flow, snapshot)
                .and_then(|id| snapshot.server(id))
                .ok_or(Reason::NoServer)
        };
        if packet.flags.closes() {
            return agreed(); // the end of a connection that we forgot: nothing to remember
        }
        let in_mid_flow =
            packet.flow.protocol == crate::snapshot::Protocol::Tcp && !packet.flags.opens();
        for _ in 0..TRIES {
            let server = if in_mid_flow {
                agreed()?
            } else {
                let chosen = self.schedules.choose(service).ok_or(Reason::NoServer)?;
                snapshot.server(chosen).ok_or(Reason::NoServer)?
            };
            match self.flows.create(packet, hash, server, now, counters) {
                Ok(_) => return Ok(server),
                Err(Refused::Ambiguous) => {}
                Err(Refused::Full) if matches!(server.mode, Mode::Nat { .. }) => {
                    return Err(Reason::FlowTableFull);
                }
                Err(Refused::Full) => {
                    // Every packet of the flow takes this way, so it must not depend on turns.
                    let server = agreed().and_then(without_memory)?;
                    counters.forwarded_without_flow.add(1);
                    return Ok(server);
                }
            }
        }
        Err(Reason::AmbiguousFlow)
    }

    /// The client of a server's reply.
    ///
    /// # Errors
    /// The reason why the packet is to be dropped.
    #[inline]
    fn client<'s>(
        &mut self,
        packet: &Packet,
        hash: u64,
        snapshot: &'s Snapshot,
        now: Moment,
        counters: &Counters,
    ) -> Result<Towards<'s>, Reason> {
        let place = self.flows.find(hash, &packet.flow, Direction::Reply).ok_or(Reason::NoFlow)?;
        let entry = self.flows.at(place);
        if snapshot.server(entry.server()).is_none() {
            return Err(Reason::ServerGone);
        }
        let hop = snapshot.hop_to(packet.flow.destination).ok_or(Reason::NoRoute)?;
        entry.note(packet, Direction::Reply, now);
        let block = counters.server(entry.server());
        block.reply_packets.add(1);
        block.reply_bytes.add(u64::from(packet.length));
        Ok(Towards::Client { from: entry.virtual_address(), hop })
    }
}

/// A server that a packet can reach without a flow to remember the way back.
fn without_memory(server: &Server) -> Result<&Server, Reason> {
    match server.mode {
        Mode::DirectReturn | Mode::Tunnel { .. } => Ok(server),
        Mode::Nat { .. } => Err(Reason::FlowTableFull),
    }
}

#[inline]
fn count(server: ServerId, packet: &Packet, counters: &Counters) {
    let block = counters.server(server);
    block.packets.add(1);
    block.bytes.add(u64::from(packet.length));
}
