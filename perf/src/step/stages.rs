//! The steps of the pipeline one by one, as a worker takes them, with the time read in between.
//!
//! Reading the time is no fence: a step that begins a load and does not wait for it leaves the waiting to the step
//! that uses it, as in the worker itself. What reading costs is measured on the spot and taken off.

use dataplane::counters::Counters;
use dataplane::fragments::Fragments;
use dataplane::frame::{Burst, Link};
use dataplane::lookup::{self, Memory};
use dataplane::moment::Moment;
use dataplane::rewrite::{Outbound, Rewriter, Surroundings};
use dataplane::snapshot::{Hop, PortId, Reader, Snapshot};
use dataplane::transmit::{Outboxes, Waiting};
use dataplane::worker::Parts;
use dataplane::{classify, parse};
use dpdk_sys::Mbuf;
use dpdk_sys::lcore::tsc;

use crate::belt::BeltLink;
use crate::results::Spread;
use crate::rig::Turn;

/// The steps, in packet order.
pub const STEPS: [&str; 6] = ["parse", "approach", "classify", "lookup", "rewrite", "transmit"];

/// A worker taken apart.
pub struct Stages {
    links: Vec<BeltLink>,
    snapshots: Reader<Snapshot>,
    memory: Memory,
    fragments: Fragments,
    counters: Counters,
    rewriter: Rewriter,
    outboxes: Outboxes<Mbuf>,
    waiting: Box<Waiting<Mbuf>>,
    /// Ticks spent in each step since [`Stages::take`].
    spent: [u64; STEPS.len()],
    frames: usize,
    /// What it costs to read the time, in ticks.
    reading: u64,
}

impl Stages {
    /// From what a worker is made of.
    pub fn new(parts: Parts<BeltLink>) -> Self {
        let Parts { links, snapshots, memory, fragments, counters, random, .. } = parts;
        Self {
            outboxes: Outboxes::new(links.len()),
            links,
            snapshots,
            memory,
            fragments,
            counters,
            rewriter: Rewriter::new(random),
            waiting: Box::default(),
            spent: [0; STEPS.len()],
            frames: 0,
            reading: reading_the_time(),
        }
    }

    /// Ticks for each frame in each step since the last call.
    pub fn take(&mut self) -> [f64; STEPS.len()] {
        let frames = std::mem::take(&mut self.frames).max(1) as f64;
        std::mem::take(&mut self.spent).map(|ticks| ticks as f64 / frames)
    }
}

impl Turn for Stages {
    fn turn(&mut self, now: Moment) -> usize {
        let Self {
            links, snapshots, memory, fragments, counters, rewriter, outboxes, waiting, ..
        } = self;
        let snapshot = snapshots.current();
        memory.flows.under(snapshot.generation);
        let mut handled = 0;
        for index in 0..links.len() {
            let mut frames = Burst::new();
            links[index].receive(&mut frames);
            if frames.is_empty() {
                continue;
            }
            handled += frames.len();
            let port = PortId(index as u8);
            let start = tsc();
            let mut parsed = Burst::new();
            parse::flows(&mut frames, &mut parsed, port, snapshot, fragments, now, counters);
            let parsed_at = tsc();
            let flows = &memory.flows;
            lookup::approach(&mut parsed, flows);
            let near_at = tsc();
            let mut matched = Burst::new();
            let is_recognised =
                |near, packet: &_| lookup::is_recognised(near, packet, snapshot, flows, counters);
            let punt = |_, _, _| {};
            classify::services(&mut parsed, &mut matched, snapshot, counters, is_recognised, punt);
            let matched_at = tsc();
            let mut routed = Burst::new();
            let elsewhere = |_, _| {};
            lookup::servers(&mut matched, &mut routed, snapshot, memory, now, counters, elsewhere);
            let routed_at = tsc();
            let mut ready: Burst<(Mbuf, Hop, u16)> = Burst::new();
            let mut surroundings = Surroundings { links, snapshot, memory, now, counters };
            rewriter.packets(
                &mut routed,
                &mut surroundings,
                |Outbound { frame, hop, length }, _| {
                    ready.push((frame, *hop, length));
                },
            );
            let rewritten_at = tsc();
            for (frame, hop, length) in ready.drain(..) {
                let outbound = Outbound { frame, hop: &hop, length };
                outboxes.frame(outbound, links, waiting, snapshot, now, counters);
            }
            outboxes.flush(links, counters);
            let ends = [start, parsed_at, near_at, matched_at, routed_at, rewritten_at, tsc()];
            for (spent, pair) in self.spent.iter_mut().zip(ends.windows(2)) {
                *spent += (pair[1] - pair[0]).saturating_sub(self.reading);
            }
        }
        self.frames += handled;
        memory.flows.expire(now, |server| snapshot.server(server).is_some(), counters);
        handled
    }
}

/// Ticks between two readings of the time with nothing in between.
fn reading_the_time() -> u64 {
    let readings = (0..1_001).map(|_| {
        let start = tsc();
        (tsc() - start) as f64
    });
    Spread::of(readings).median as u64
}
