//! Step 1: the loop that owns one core, its receive queues and its transmit queues.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::classify;
use crate::counters::{Counters, Reason};
use crate::frame::{BURST, Burst, Link};
use crate::lookup::{self, Memory};
use crate::moment::Moment;
use crate::parse;
use crate::punt::{Desk, WorkerEnd};
use crate::rewrite::Rewriter;
use crate::snapshot::{InterfaceId, Reader, Snapshot};
use crate::transmit::{Outboxes, Waiting};

/// One core's share of the data plane.
pub struct Worker<L: Link> {
    /// In the order of [`Snapshot::interfaces`].
    links: Vec<L>,
    snapshots: Reader<Snapshot>,
    memory: Memory,
    rewriter: Rewriter,
    outboxes: Outboxes<L::Frame>,
    waiting: Box<Waiting<L::Frame>>,
    desk: Desk,
    counters: Counters,
}

/// What a worker is made of.
pub struct Parts<L> {
    /// Its queues on each interface, in the order of [`Snapshot::interfaces`].
    pub links: Vec<L>,
    /// Where it reads the configuration.
    pub snapshots: Reader<Snapshot>,
    /// Its flows and schedules.
    pub memory: Memory,
    /// Its end of the rings.
    pub control: WorkerEnd,
    /// What it counts.
    pub counters: Counters,
    /// Where the identification of its tunnel packets begins.
    pub random: u16,
}

impl<L: Link> Worker<L> {
    /// A worker that has seen nothing yet.
    pub fn new(parts: Parts<L>) -> Self {
        let Parts { links, snapshots, memory, control, counters, random } = parts;
        counters.flow_capacity.add(memory.flows.capacity() as u64);
        Self {
            outboxes: Outboxes::new(links.len()),
            links,
            snapshots,
            memory,
            rewriter: Rewriter::new(random),
            waiting: Box::default(),
            desk: Desk::new(control),
            counters,
        }
    }

    /// Turns until told to stop. `rest` is called after each turn with the number of turns since the
    /// last in which there was something to do.
    pub fn run(
        mut self,
        stop: &AtomicBool,
        mut clock: impl FnMut() -> Moment,
        mut rest: impl FnMut(u32),
    ) {
        let mut idle = 0u32;
        while !stop.load(Ordering::Relaxed) {
            idle = if self.turn(clock()) == 0 { idle.saturating_add(1) } else { 0 };
            rest(idle);
        }
        self.stop(clock());
    }

    /// One turn: a burst from every interface enters at the top, and what survives leaves at the bottom.
    /// Returns how many frames there were to handle.
    pub fn turn(&mut self, now: Moment) -> usize {
        let Self { links, snapshots, memory, rewriter, outboxes, waiting, desk, counters } = self;
        let snapshot = snapshots.current(); // one configuration for the whole turn

        // Before anything that came later, so that they stay in order.
        outboxes.waited(links, waiting, snapshot, now, counters);
        let mut handled =
            desk.injected(|interface, bytes| inject(interface, bytes, links, outboxes, counters));
        for index in 0..links.len() {
            let mut frames = Burst::new();
            links[index].receive(&mut frames);
            if frames.is_empty() {
                continue;
            }
            handled += frames.len();
            count_received(&frames, counters);
            let id = InterfaceId(index as u8);
            let Some(interface) = snapshot.interface(id) else {
                frames.iter().for_each(|_| counters.drop_one(Reason::NoInterface));
                continue;
            };
            let parsed = parse::flows(frames, interface, counters);
            let matched = classify::services(parsed, snapshot, counters, |frame, class| {
                desk.punt(id, frame, class, now, counters)
            });
            let routed = lookup::servers(matched, snapshot, memory, now, counters);
            let outbound = rewriter.packets(routed, id, snapshot, now, counters);
            outboxes.frames(outbound, links, waiting, snapshot, now, counters);
        }
        outboxes.flush(links, counters);
        while let Some(question) = waiting.next_question() {
            desk.ask(question);
        }
        desk.answer(&memory.flows, now);
        memory.flows.expire(now, |server| snapshot.server(server).is_some(), counters);
        if handled == 0 { &counters.idle_turns } else { &counters.busy_turns }.add(1);
        handled
    }

    /// Hands out what is under way and counts what cannot be.
    fn stop(mut self, now: Moment) {
        let Self { links, snapshots, outboxes, waiting, counters, desk, .. } = &mut self;
        for _ in 0..=crate::punt::FRAMES / BURST {
            desk.injected(|interface, bytes| inject(interface, bytes, links, outboxes, counters));
        }
        outboxes.waited(links, waiting, snapshots.current(), now, counters);
        waiting.abandon(counters);
        outboxes.flush(links, counters);
    }
}

fn count_received<F: crate::frame::Frame>(frames: &[F], counters: &Counters) {
    counters.received.add(frames.len() as u64);
    counters.received_bytes.add(frames.iter().map(|frame| frame.bytes().len() as u64).sum());
}

/// Sends a frame that the control plane made.
fn inject<L: Link>(
    interface: InterfaceId,
    bytes: &[u8],
    links: &mut [L],
    outboxes: &mut Outboxes<L::Frame>,
    counters: &Counters,
) {
    counters.injected.add(1);
    let Some(link) = links.get_mut(usize::from(interface.0)) else {
        return counters.drop_one(Reason::NoInterface);
    };
    match link.allocate(bytes) {
        Some(frame) => outboxes.put(interface, frame, links, counters),
        None => counters.drop_one(Reason::NoBuffer),
    }
}

#[cfg(test)]
mod tests;
