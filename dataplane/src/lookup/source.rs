//! The address and port of ours that a translated flow leaves with (SNAT, masquerading): free towards
//! that server, and if it can be computed one whose replies arrive at this worker's own queue.

use super::Step;
use super::flow_table::NewFlow;
use crate::parse::Flow;
use crate::snapshot::{Hop, PortId, TRANSLATED_PORTS};
use crate::wire::Address;

/// How many ports are tried: with three of four in use, all of so many are taken once in a million flows.
const TRIES: usize = 48;
/// How many of them have to bring replies home.
const CHOOSY: usize = 32;

impl Step<'_, '_> {
    /// Where `flow` can leave from to its server; `None` if nothing free was found.
    pub(super) fn source(
        &mut self,
        flow: &NewFlow,
        sources: &[Address],
        hop: Hop,
    ) -> Option<(Address, u16)> {
        let device = self.snapshot.interface(hop.interface).map(|interface| interface.port);
        for attempt in 0..TRIES {
            let random = self.random();
            let address = *sources.get(random as usize % sources.len().max(1))?;
            let first = *TRANSLATED_PORTS.start();
            let port = first + (random >> 32) as u16 % (u16::MAX - first + 1);
            let reply = Flow {
                protocol: flow.original.protocol,
                source: flow.server.0,
                source_port: flow.server.1,
                destination: address,
                destination_port: port,
            };
            let choosy = attempt < CHOOSY;
            if (!choosy || self.comes_home(&reply, device)) && self.memory.flows.is_unique(&reply) {
                return Some((address, port));
            }
        }
        None
    }

    /// Whether replies arrive at this worker's queue, as far as that can be computed.
    fn comes_home(&self, reply: &Flow, device: Option<PortId>) -> bool {
        let spreading = device.and_then(|port| self.memory.spreading.get(usize::from(port.0)));
        let Some(Some(spreading)) = spreading else { return true };
        let Flow { protocol, source, source_port, destination, destination_port } = *reply;
        let queue =
            spreading.queue(source, source_port, destination, destination_port, protocol as u8);
        queue == usize::from(self.memory.worker.0)
    }

    /// The next number of xorshift64* (Vigna 2016): ports need to be spread, not to be secret.
    fn random(&mut self) -> u64 {
        let state = &mut self.memory.random;
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
