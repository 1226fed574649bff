//! Step 1: the loop that owns one core, its receive queues and its transmit queues.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::classify::{self, Matched};
use crate::counters::{Counters, Reason};
use crate::explain::{Cast, Stage};
use crate::fragments::Fragments;
use crate::frame::{BURST, Burst, Frame, Link};
use crate::handover::Colleagues;
use crate::lookup::{self, Memory, Taker};
use crate::moment::Moment;
use crate::parse::{self, Parsed};
use crate::punt::{Desk, WorkerEnd};
use crate::rewrite::{Rewriter, Surroundings};
use crate::snapshot::{InterfaceId, PortId, Reader, Snapshot};
use crate::transmit::{Outboxes, Waiting};

/// One core's share of the data plane.
pub struct Worker<L: Link> {
    /// By device.
    links: Vec<L>,
    snapshots: Reader<Snapshot>,
    steps: Steps<L::Frame>,
    fragments: Fragments,
    counters: Counters,
}

/// What the steps behind `parse` work with.
struct Steps<F> {
    memory: Memory,
    rewriter: Rewriter,
    outboxes: Outboxes<F>,
    waiting: Box<Waiting<F>>,
    desk: Desk,
    colleagues: Colleagues<F>,
    stage: Box<Stage>,
}

/// What a worker is made of.
pub struct Parts<L: Link> {
    /// Its queues on each device.
    pub links: Vec<L>,
    /// Where it reads the configuration.
    pub snapshots: Reader<Snapshot>,
    /// Its flows and schedules.
    pub memory: Memory,
    /// The packets in parts that it follows.
    pub fragments: Fragments,
    /// Its end of the rings to the control plane.
    pub control: WorkerEnd,
    /// Its ends of the rings to the other workers.
    pub colleagues: Colleagues<L::Frame>,
    /// What it counts.
    pub counters: Counters,
    /// Where the identification of its tunnel packets begins.
    pub random: u16,
}

impl<L: Link> Worker<L> {
    /// A worker that has seen nothing yet.
    pub fn new(parts: Parts<L>) -> Self {
        let Parts { links, snapshots, memory, fragments, control, colleagues, counters, random } =
            parts;
        let capacity = memory.flows.capacity();
        counters.flow_capacity.add((capacity.v4 + capacity.v6) as u64);
        let desk = Desk::new(control, usize::from(memory.workers));
        let steps = Steps {
            memory,
            rewriter: Rewriter::new(random),
            outboxes: Outboxes::new(links.len()),
            waiting: Box::default(),
            desk,
            colleagues,
            stage: Box::default(),
        };
        Self { links, snapshots, steps, fragments, counters }
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

    /// One turn: a burst from every device enters at the top, and what survives leaves at the bottom.
    /// Returns how many frames there were to handle.
    pub fn turn(&mut self, now: Moment) -> usize {
        let Self { links, snapshots, steps, fragments, counters } = self;
        let snapshot = snapshots.current(); // one configuration for the whole turn
        steps.memory.flows.under(snapshot.generation);

        // Before anything that came later, so that they stay in order.
        steps.outboxes.waited(links, &mut steps.waiting, snapshot, now, counters);
        let mut handled = steps.injected(links, snapshot, counters);
        if !steps.colleagues.is_alone() {
            let mut parsed = Burst::new();
            steps.colleagues.taken_over(&mut parsed, counters);
            handled += parsed.len();
            steps.forward(&mut parsed, links, snapshot, now, counters);
        }
        for index in 0..links.len() {
            let mut frames = Burst::new();
            links[index].receive(&mut frames);
            if frames.is_empty() {
                continue;
            }
            handled += frames.len();
            count_received(&frames, counters);
            let port = PortId(index as u8);
            let mut parsed = Burst::new();
            parse::flows(&mut frames, &mut parsed, port, snapshot, fragments, now, counters);
            steps.forward(&mut parsed, links, snapshot, now, counters);
        }
        steps.outboxes.flush(links, counters);
        while let Some(question) = steps.waiting.next_question() {
            steps.desk.ask(question);
        }
        let Steps { desk, stage, memory, rewriter, .. } = steps;
        desk.explain(|frame| {
            stage.explain(frame, Cast { snapshot, memory, fragments, rewriter, now })
        });
        let Memory { flows, persistence, share, .. } = memory;
        desk.answer(flows, now);
        flows.expire(now, |server| snapshot.server(server).is_some(), counters);
        if handled == 0 {
            persistence.sweep(share, now);
        }
        if handled == 0 { &counters.idle_turns } else { &counters.busy_turns }.add(1);
        handled
    }

    /// Hands out what is under way and counts what cannot be.
    fn stop(mut self, now: Moment) {
        let Self { links, snapshots, steps, counters, .. } = &mut self;
        let snapshot = snapshots.current();
        for _ in 0..=crate::punt::FRAMES / BURST {
            steps.injected(links, snapshot, counters);
        }
        steps.outboxes.waited(links, &mut steps.waiting, snapshot, now, counters);
        steps.waiting.abandon(counters);
        steps.outboxes.flush(links, counters);
    }
}

impl<F: Frame> Steps<F> {
    /// Takes a burst from what was read to what is sent.
    fn forward<L: Link<Frame = F>>(
        &mut self,
        parsed: &mut Burst<Parsed<F>>,
        links: &mut [L],
        snapshot: &Snapshot,
        now: Moment,
        counters: &Counters,
    ) {
        let Self { memory, rewriter, outboxes, waiting, desk, colleagues, .. } = self;
        let (mut matched, mut routed) = (Burst::new(), Burst::new());
        let flows = &memory.flows;
        lookup::approach(parsed, flows);
        let is_recognised =
            |near, packet: &_| lookup::is_recognised(near, packet, snapshot, flows, counters);
        let mut punt = |id, frame, class| desk.punt(id, frame, class, now, counters);
        classify::services(parsed, &mut matched, snapshot, counters, is_recognised, &mut punt);
        let leave_to = |taker, it: Matched<'_, F>| match taker {
            Taker::Colleague(worker) => colleagues.hand_over(worker, it.for_another(), counters),
            Taker::Control(class) => punt(it.ingress, it.frame, class),
        };
        lookup::servers(&mut matched, &mut routed, snapshot, memory, now, counters, leave_to);
        let mut surroundings = Surroundings { links, snapshot, memory, now, counters };
        rewriter.packets(&mut routed, &mut surroundings, |outbound, surroundings| {
            outboxes.frame(outbound, surroundings.links, waiting, snapshot, now, counters);
        });
    }

    /// Sends what the control plane made; returns how many frames that were.
    fn injected<L: Link<Frame = F>>(
        &mut self,
        links: &mut [L],
        snapshot: &Snapshot,
        counters: &Counters,
    ) -> usize {
        let Self { outboxes, desk, .. } = self;
        desk.injected(|interface, bytes| {
            inject(interface, bytes, links, outboxes, snapshot, counters)
        })
    }
}

fn count_received<F: Frame>(frames: &[F], counters: &Counters) {
    counters.received.add(frames.len() as u64);
    counters.received_bytes.add(frames.iter().map(|frame| frame.bytes().len() as u64).sum());
}

/// Sends a frame that the control plane made.
fn inject<L: Link>(
    interface: InterfaceId,
    bytes: &[u8],
    links: &mut [L],
    outboxes: &mut Outboxes<L::Frame>,
    snapshot: &Snapshot,
    counters: &Counters,
) {
    counters.injected.add(1);
    let Some(interface) = snapshot.interface(interface) else {
        return counters.drop_one(Reason::NoInterface);
    };
    let Some(link) = links.get_mut(usize::from(interface.port.0)) else {
        return counters.drop_one(Reason::NoInterface);
    };
    match link.allocate(bytes) {
        Some(frame) => outboxes.put(interface, frame, links, counters),
        None => counters.drop_one(Reason::NoBuffer),
    }
}

#[cfg(test)]
mod tests;
