//! What the workers hand over, and what they are given to send.

use std::sync::Arc;
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::punt::{Copied, Event};
use dataplane::snapshot::InterfaceId;
use dataplane::wire::ethernet::{self, ethertype};
use dataplane::wire::protocol;

use super::{Inner, Question};
use crate::echo;
use crate::events::{self, Events, Subject};
use crate::icmpv6;
use crate::neighbours::{self, Turn};

/// How many frames, and how many events, are taken from all workers together in one turn, from each as
/// many as from the others; and how many frames are sent. A few milliseconds' work at most.
pub(super) const BURST: usize = 1024;
/// Between two records of other stations that claim our addresses.
const CONFLICT: Duration = Duration::from_secs(1);

impl Inner {
    /// Takes frames and events from every worker.
    pub(super) fn listen(&mut self, now: Moment) {
        let share = BURST / self.rings.len().max(1);
        for worker in 0..self.rings.len() {
            for _ in 0..share {
                let Ok(frame) = self.rings[worker].punted.pop() else { break };
                self.hear(now, &frame);
            }
            for _ in 0..share {
                let Ok(event) = self.rings[worker].events.pop() else { break };
                self.learn(now, worker, event);
            }
        }
    }

    fn hear(&mut self, now: Moment, frame: &Copied) {
        let bytes = frame.bytes();
        match (ethertype_of(bytes), icmpv6::kind(bytes)) {
            (Some(ethertype::ARP), _) => {
                self.frames.arp_received += 1;
                self.neighbours.receive(now, frame.interface, bytes);
            }
            (_, Some(kind)) if neighbours::DISCOVERY.contains(&kind) => {
                self.frames.nd_received += 1;
                self.neighbours.receive(now, frame.interface, bytes);
            }
            (Some(ethertype::IPV4 | ethertype::IPV6), _) => {
                self.frames.icmp_received += u64::from(is_icmp(bytes));
                if let Some(reply) = echo::reply(bytes) {
                    self.frames.echoes_answered += 1;
                    self.send(frame.interface, &reply);
                } else if let Some(packet) = bytes.get(ethernet::HEADER..) {
                    self.stack.receive(now, packet);
                    for (interface, station) in self.stack.take_reached() {
                        self.neighbours.confirm(now, interface, station);
                    }
                }
            }
            _ => {}
        }
    }

    fn learn(&mut self, now: Moment, worker: usize, event: Event) {
        match event {
            Event::Unresolved { interface, address } => {
                self.neighbours.unresolved(now, interface, address);
            }
            Event::Flow { question, flow } => {
                if let Some(question) = self.questions.get_mut(&question)
                    && question.flows.len() < question.limit
                {
                    question.flows.push(flow);
                }
            }
            Event::FlowsListed { question: number } => {
                let Some(question) = self.questions.get_mut(&number) else { return };
                question.left.remove(&worker);
                if question.left.is_empty()
                    && let Some(Question { flows, answer, .. }) = self.questions.remove(&number)
                {
                    let _ = answer.send(flows); // the caller may have gone
                }
            }
            Event::Decided { question, decision } => {
                if let Some(explaining) = self.explanations.get_mut(&question) {
                    explaining.decided(worker, decision);
                }
            }
            Event::Explained { question } => {
                if let Some(explaining) = self.explanations.get_mut(&question)
                    && explaining.finished(worker)
                    && let Some(explaining) = self.explanations.remove(&question)
                {
                    explaining.answer();
                }
            }
        }
    }

    /// Tells the in-band stack where its packets go, and which addresses it has.
    pub(super) fn lead(&mut self) {
        let lost = self.neighbours.duplicates();
        let paths = match lost.is_empty() {
            true => Arc::clone(&self.paths),
            false => Arc::new(self.paths.without(&lost)),
        };
        self.stack.configure(Arc::clone(&paths));
        self.egress.configure(paths);
    }

    /// Stops using addresses that other stations turn out to have, or begins again, and records it.
    pub(super) fn take_turns(&mut self, events: &Events) {
        let turns = self.neighbours.take_turns();
        if !turns.is_empty() {
            self.lead();
        }
        for Turn { address, held_by } in turns {
            let [ours, lost] = ["ours", "lost"].map(String::from);
            let (old, new, reason) = match held_by {
                Some(mac) => {
                    (ours, lost, format!("the station {mac} has it as well: it is not used"))
                }
                None => (lost, ours, "no other station has it any more".into()),
            };
            events.record(events::Change {
                subject: Subject::Address { address },
                old,
                new,
                reason,
            });
        }
    }

    /// Records who claims an address of ours, but not as often as a hostile station likes: the counters
    /// have them all.
    pub(super) fn tell_conflicts(&mut self, now: Moment, events: &Events) {
        if self.told_conflict.is_some_and(|last| now.since(last) < CONFLICT) {
            return;
        }
        let Some((address, mac)) = self.neighbours.take_conflict() else { return };
        self.told_conflict = Some(now);
        events.record(events::Change {
            subject: Subject::Address { address },
            old: "ours".into(),
            new: "claimed".into(),
            reason: format!("the station {mac} claims it as well"),
        });
    }

    /// Hands what the neighbours have to say to the workers. What finds no room waits for the next turn.
    pub(super) fn speak(&mut self) {
        for _ in 0..BURST {
            if self.rings.iter().all(|ring| ring.inject.is_full()) {
                return;
            }
            let Some((interface, frame)) = self.neighbours.next_frame() else { return };
            self.send(interface, &frame);
        }
    }

    /// Gives a frame to the first worker that has room for it; any of them can send on any interface.
    pub(super) fn send(&mut self, interface: InterfaceId, frame: &[u8]) {
        let free = self.rings.iter_mut().find(|ring| !ring.inject.is_full());
        let sent = match (free, Copied::of(interface, frame)) {
            (Some(ring), Some(copy)) => ring.inject.push(copy).is_ok(),
            _ => false,
        };
        match sent {
            true => self.frames.sent += 1,
            false => self.frames.send_ring_full += 1,
        }
    }
}

/// Whether a frame carries an ICMP message, of either family.
fn is_icmp(frame: &[u8]) -> bool {
    const PROTOCOL: usize = 9; // of an IPv4 header
    let carried = frame.get(ethernet::HEADER + PROTOCOL);
    let is_v4 = ethertype_of(frame) == Some(ethertype::IPV4);
    icmpv6::kind(frame).is_some() || is_v4 && carried == Some(&protocol::ICMP)
}

/// What a frame carries; `None` if it is too short to say.
fn ethertype_of(frame: &[u8]) -> Option<u16> {
    let field = frame.get(ethernet::HEADER - 2..ethernet::HEADER)?;
    Some(u16::from_be_bytes([field[0], field[1]]))
}
