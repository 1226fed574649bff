//! What the in-band stack has to say, on its way to the workers' rings.

use dataplane::moment::Moment;

use super::Inner;
use super::listen::BURST;
use crate::net::in_band::{Outgoing, Step};

impl Inner {
    /// Hands over what has waited for a station, and what the stack says now. What finds no room waits for the next turn.
    pub(super) fn speak_in_band(&mut self, now: Moment) {
        let (known, late) = self.egress.waited(now, |station| self.neighbours.mac_of(station));
        known.into_iter().for_each(|outgoing| self.send_packet(now, outgoing));
        late.iter().for_each(|outgoing| self.stack.undeliverable(&outgoing.packet));
        for _ in 0..BURST {
            if self.rings.iter().all(|ring| ring.inject.is_full()) {
                return;
            }
            let Some(outgoing) = self.stack.next_packet() else { return };
            self.send_packet(now, outgoing);
        }
    }

    fn send_packet(&mut self, now: Moment, outgoing: Outgoing) {
        match self.egress.send(now, outgoing, |station| self.neighbours.mac_of(station)) {
            Step::Send(interface, frame) => self.send(interface, &frame),
            Step::Ask((interface, address)) => self.neighbours.awaited(now, interface, address),
            Step::Wait => {}
            Step::Lose(lost) => self.stack.undeliverable(&lost.packet),
        }
    }
}
