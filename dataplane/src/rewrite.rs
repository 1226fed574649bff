//! Step 5: the headers that the next station expects. Each server says how it wants its packets; the
//! hardware addresses are written last, at [`crate::transmit`], because a frame may have to wait for
//! them.

mod nat;

mod too_big;

mod tunnel;

pub mod ftp;

pub mod sequence;

use crate::counters::{Counters, Reason};
use crate::frame::{Burst, Frame};
use crate::lookup::{Routed, Towards};
use crate::moment::Moment;
use crate::punt::limit::TokenBucket;
use crate::snapshot::{Hop, InterfaceId, Mode, Snapshot};

/// A frame that lacks only its hardware addresses.
pub struct Outbound<F> {
    /// The frame.
    pub frame: F,
    /// The next station.
    pub hop: Hop,
    /// Length of the IP packet with its header, in bytes.
    pub length: u16,
}

/// What a worker remembers for rewriting.
pub struct Rewriter {
    tunnels: tunnel::Identification,
    errors: TokenBucket,
}

/// ICMP errors that one worker sends in a second, and at once (RFC 1812 section 4.3.2.8).
const ERRORS: (u32, u32) = (1_000, 100);

impl Rewriter {
    /// `random` is where the identification of outer packets begins.
    pub fn new(random: u16) -> Self {
        Self {
            tunnels: tunnel::Identification::starting_at(random),
            errors: TokenBucket::new(ERRORS),
        }
    }

    /// Rewrites every packet of a burst that came in on `ingress`.
    pub fn packets<F: Frame>(
        &mut self,
        mut routed: Burst<Routed<'_, F>>,
        ingress: InterfaceId,
        snapshot: &Snapshot,
        now: Moment,
        counters: &Counters,
    ) -> Burst<Outbound<F>> {
        let mut outbound = Burst::new();
        for Routed { frame, packet, towards } in routed.drain(..) {
            let hop = match towards {
                Towards::Server(server) => server.hop,
                Towards::Client { hop, .. } => hop,
            };
            let Some(way_out) = snapshot.interface(hop.interface) else {
                counters.drop_one(Reason::NoInterface);
                continue;
            };
            let room = usize::from(way_out.mtu).saturating_sub(overhead(towards));
            let rewritten =
                if usize::from(packet.length) > room && too_big::must_not_be_fragmented(&frame) {
                    counters.drop_one(Reason::TooBig);
                    let may_answer = self.errors.take(now);
                    let answer = may_answer
                        .then(|| too_big::answer(frame, ingress, room as u16, snapshot))
                        .flatten();
                    counters.injected.add(u64::from(answer.is_some()));
                    answer
                } else {
                    let rewritten = self.rewrite(frame, packet.length, towards, hop);
                    if rewritten.is_none() {
                        counters.drop_one(Reason::NoBuffer);
                    }
                    rewritten
                };
            if let Some(rewritten) = rewritten {
                outbound.push(rewritten);
            }
        }
        outbound
    }

    /// `None` if the buffer has no room for another header.
    fn rewrite<F: Frame>(
        &mut self,
        mut frame: F,
        length: u16,
        towards: Towards<'_>,
        hop: Hop,
    ) -> Option<Outbound<F>> {
        let length = match towards {
            Towards::Client { from, .. } => {
                nat::from_virtual_address(&mut frame, from).map(|()| length)
            }
            Towards::Server(server) => match server.mode {
                // FWD-01: the server owns the virtual address too, so nothing behind the Ethernet header
                // changes, not even the time to live.
                Mode::DirectReturn => Some(length),
                Mode::Nat { port } => {
                    nat::to_server(&mut frame, server.address, port).map(|()| length)
                }
                Mode::Tunnel { source } => self.tunnels.wrap(&mut frame, source, server.address),
            },
        }?;
        Some(Outbound { frame, hop, length })
    }
}

/// How much longer a packet becomes, in bytes.
fn overhead(towards: Towards<'_>) -> usize {
    match towards {
        Towards::Server(server) if matches!(server.mode, Mode::Tunnel { .. }) => {
            crate::wire::ipv4::HEADER
        }
        Towards::Server(_) | Towards::Client { .. } => 0,
    }
}
