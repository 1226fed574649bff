//! The receiving side: what has come, through which port, and what became of it on the way.

use arrayvec::ArrayVec;
use dpdk_sys::{Mbuf, ReceiveQueue, lcore};
use hdrhistogram::Histogram;

use crate::neighbours::Desk;
use crate::parse;
use crate::stamp::{Mark, Stamp};
use crate::track::{Tracker, Tracking, Verdict};

/// The longest latency that is told from longer ones, in nanoseconds: ten seconds.
const LONGEST: u64 = 10_000_000_000;

/// Frames that are handled at once.
const BURST: usize = 32;

/// What has arrived at one port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Packets of this run, duplicates included.
    pub frames: u64,
    /// Bytes in them as they arrived, without check: tunnels' outer headers included.
    pub bytes: u64,
    /// Frames of anybody else.
    pub foreign: u64,
    /// When the first of this run came, on the processor's clock.
    pub first: u64,
    /// When the last one came.
    pub last: u64,
}

/// What became of the packets on the way.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Packets, each counted once.
    pub unique: u64,
    /// Those that were overtaken by a later one of their flow.
    pub reordered: u64,
    /// Copies of what had come already.
    pub duplicates: u64,
    /// Those from before the window in which copies can be told: neither `unique` nor `duplicates`.
    pub late: u64,
    /// Those that came inside other packets, IP in IP or GUE.
    pub encapsulated: u64,
    /// Nanoseconds on the way, of all but duplicates and late ones.
    pub latency: Histogram<u64>,
    /// RFC 3550 section 6.4.1, in nanoseconds, over all packets in the order in which they came.
    pub jitter: f64,
    /// The mean difference between the latencies of one packet and the next (RFC 3393), in nanoseconds.
    pub variation: f64,
}

impl Observed {
    fn new() -> Self {
        let latency =
            Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds that the library accepts");
        Self {
            unique: 0,
            reordered: 0,
            duplicates: 0,
            late: 0,
            encapsulated: 0,
            latency,
            jitter: 0.0,
            variation: 0.0,
        }
    }
}

/// How far a receiver is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Glance {
    /// Packets of this run, duplicates included.
    pub frames: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Frames of anybody else.
    pub foreign: u64,
    /// Packets, each counted once.
    pub unique: u64,
    /// Those that were overtaken.
    pub reordered: u64,
    /// Copies.
    pub duplicates: u64,
    /// The latencies of all `unique` ones together, in nanoseconds.
    pub latencies: u64,
}

/// Receive queues of one or two ports, and what came through them.
#[derive(Debug)]
pub struct Receiver {
    queues: Vec<ReceiveQueue>,
    arrived: Vec<Arrived>,
    observed: Observed,
    tracker: Tracker,
    tracking: Tracking,
    /// How many flows there are.
    flows: u32,
    mark: Mark,
    gue_port: u16,
    nanoseconds: f64,
    /// The latency of the packet before, in nanoseconds.
    previous: Option<u64>,
    variations: f64,
    /// All latencies together, in nanoseconds.
    latencies: u64,
    /// Answers neighbours that ask at the last port.
    desk: Option<Desk>,
}

impl Receiver {
    /// Counts packets with this mark and flow numbers below `flows`, on a clock of `hz` ticks a second.
    pub fn new(
        queues: Vec<ReceiveQueue>,
        mark: Mark,
        (flows, tracking): (u32, Tracking),
        gue_port: u16,
        hz: u64,
    ) -> Self {
        Self {
            arrived: vec![Arrived::default(); queues.len()],
            queues,
            observed: Observed::new(),
            tracker: Tracker::new(tracking.rows(flows)),
            tracking,
            flows,
            mark,
            gue_port,
            nanoseconds: 1e9 / hz as f64,
            previous: None,
            variations: 0.0,
            latencies: 0,
            desk: None,
        }
    }

    /// Answers, through `desk`, whoever asks for hardware addresses at the last port.
    pub fn answering(self, desk: Option<Desk>) -> Self {
        Self { desk, ..self }
    }

    /// What [`Self::answering`] was given, for the next run.
    pub fn take_desk(&mut self) -> Option<Desk> {
        self.desk.take()
    }

    /// Takes a burst from every queue, and returns how many packets of this run were in it. Never waits.
    #[inline]
    pub fn turn(&mut self) -> usize {
        (0..self.queues.len()).map(|port| self.take_burst(port)).sum()
    }

    #[inline]
    fn take_burst(&mut self, port: usize) -> usize {
        let mut burst = ArrayVec::<Mbuf, BURST>::new();
        let Some(queue) = self.queues.get_mut(port) else { return 0 };
        if queue.receive(&mut burst) == 0 {
            return 0;
        }
        let now = lcore::tsc();
        burst.iter().for_each(Mbuf::prefetch);
        let mut stamps = [None; BURST];
        let (mut arrived, last) = (self.arrived[port], self.arrived.len() - 1);
        let mut encapsulated = 0;
        for (frame, stamp) in burst.iter_mut().zip(&mut stamps) {
            let bytes = frame.frame_len() as u64;
            let found = parse::innermost(frame.bytes_mut(), self.gue_port)
                .and_then(|packet| Some((parse::stamp(&packet, self.mark)?, packet.layers)));
            let Some((found, layers)) = found.filter(|(found, _)| found.flow < self.flows) else {
                arrived.foreign += 1;
                if let Some(desk) = self.desk.as_mut().filter(|_| port == last) {
                    desk.hear(frame.bytes_mut());
                }
                continue;
            };
            *stamp = Some(found);
            encapsulated += u64::from(layers > 0);
            arrived.first = if arrived.frames == 0 { now } else { arrived.first };
            arrived.last = now;
            arrived.frames += 1;
            arrived.bytes += bytes;
        }
        let ours = arrived.frames - self.arrived[port].frames;
        self.arrived[port] = arrived;
        self.observed.encapsulated += encapsulated;
        for stamp in stamps.iter().flatten() {
            self.tracker.look_at(self.tracking.row(stamp.flow), stamp.sequence);
        }
        stamps.iter().flatten().for_each(|stamp| self.observe(stamp, now));
        Mbuf::give_back(&mut burst);
        ours as usize
    }

    #[inline]
    fn observe(&mut self, stamp: &Stamp, now: u64) {
        match self.tracker.observe(self.tracking.row(stamp.flow), stamp.sequence) {
            None => return,
            Some(Verdict::InOrder) => {}
            Some(Verdict::Reordered) => self.observed.reordered += 1,
            Some(Verdict::Duplicate) => {
                self.observed.duplicates += 1;
                return;
            }
            Some(Verdict::Late) => {
                self.observed.late += 1;
                return;
            }
        }
        self.observed.unique += 1;
        let latency = (stamp.sent.until(now) as f64 * self.nanoseconds) as u64;
        self.observed.latency.saturating_record(latency.max(1));
        self.latencies += latency;
        if let Some(previous) = self.previous.replace(latency) {
            let difference = latency.abs_diff(previous) as f64;
            self.observed.jitter += (difference - self.observed.jitter) / 16.0;
            self.variations += difference;
        }
    }

    /// What has arrived at each port, in the order of the queues.
    pub fn arrived(&self) -> &[Arrived] {
        &self.arrived
    }

    /// A few figures that cost nothing to read while it runs.
    pub fn glance(&self) -> Glance {
        Glance {
            frames: self.arrived.iter().map(|port| port.frames).sum(),
            bytes: self.arrived.iter().map(|port| port.bytes).sum(),
            foreign: self.arrived.iter().map(|port| port.foreign).sum(),
            unique: self.observed.unique,
            reordered: self.observed.reordered,
            duplicates: self.observed.duplicates,
            latencies: self.latencies,
        }
    }

    /// What became of the packets.
    pub fn observed(&self) -> Observed {
        let mut observed = self.observed.clone();
        let pairs = observed.unique.saturating_sub(1);
        observed.variation = if pairs > 0 { self.variations / pairs as f64 } else { 0.0 };
        observed
    }

    /// Which packets of which flow have come.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// The queues, for the next run.
    pub fn into_queues(self) -> Vec<ReceiveQueue> {
        self.queues
    }
}
