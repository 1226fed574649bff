//! What a run has shown, as plain data.

use crate::rate::{CHECK, OVERHEAD};
use crate::receive::{Arrived, Observed};
use crate::send::{Sent, Stream};
use crate::track::Tracker;

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Frames a second that were asked for; `None` for as fast as it goes.
    pub asked: Option<f64>,
    /// Packets that went out at once.
    pub group: usize,
    /// For how long the pace could not be kept and was not caught up with, in seconds.
    pub behind: f64,
    /// For how long packets were sent, in seconds.
    pub sending: f64,
    /// What was sent.
    pub sent: Sent,
    /// Packets that were written and never taken by the port.
    pub unsent: u64,
    /// What arrived at each port; the last is the receiving side.
    pub arrived: Vec<Arrived>,
    /// What became of the packets.
    pub observed: Observed,
    /// The same by flow.
    pub flows: FlowLoss,
    /// How it went, from the beginning of sending on.
    pub samples: Vec<Sample>,
    /// Whether it was told to stop before its time.
    pub interrupted: bool,
    /// Ticks of the processor's clock in a second.
    pub hz: u64,
}

/// Loss by flow; with [`Tracking::Run`](crate::track::Tracking::Run), all are one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowLoss {
    /// Flows of which a packet was sent.
    pub used: u32,
    /// Flows of which a packet was lost.
    pub with_loss: u32,
    /// Packets that the worst of them lost.
    pub most_lost: u32,
    /// The worst of them.
    pub worst: u32,
}

impl FlowLoss {
    /// What was sent of each flow, less what came.
    pub fn between(stream: &Stream, tracker: &Tracker) -> Self {
        let mut loss = Self::default();
        for (flow, &sent) in stream.sent_by_row().iter().enumerate() {
            let lost = sent.wrapping_sub(tracker.unique(flow));
            loss.used += u32::from(sent > 0);
            loss.with_loss += u32::from(lost > 0);
            if lost > loss.most_lost {
                (loss.most_lost, loss.worst) = (lost, flow as u32);
            }
        }
        loss
    }
}

/// Totals at a moment of a run.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Sample {
    /// Seconds since the beginning.
    pub at: f64,
    /// Frames sent.
    pub sent: u64,
    /// Packets received, duplicates included.
    pub received: u64,
    /// The mean latency of those that came since the sample before, in nanoseconds.
    pub latency: f64,
}

impl Measurement {
    /// Packets that did not come.
    pub fn lost(&self) -> u64 {
        self.sent.frames.saturating_sub(self.observed.unique)
    }

    /// Packets that did not come, as a share of those sent: 0 to 1.
    pub fn loss(&self) -> f64 {
        self.lost() as f64 / self.sent.frames.max(1) as f64
    }

    /// Frames a second that the port took: all but the first group, in the time from the first to the last.
    pub fn sent_rate(&self) -> f64 {
        let span = self.sent.last.saturating_sub(self.sent.first) as f64 / self.hz as f64;
        let between = self.sent.frames.saturating_sub(self.group as u64);
        match between {
            0 => per_second(self.sent.frames as f64, self.sending),
            between => per_second(between as f64, span),
        }
    }

    /// Packets of this run at all ports, duplicates included.
    pub fn received(&self) -> u64 {
        self.arrived.iter().map(|port| port.frames).sum()
    }

    /// Seconds from the first packet that came to the last.
    pub fn receiving(&self) -> f64 {
        let ports = || self.arrived.iter().filter(|port| port.frames > 0);
        let first = ports().map(|port| port.first).min().unwrap_or(0);
        let last = ports().map(|port| port.last).max().unwrap_or(0);
        last.saturating_sub(first) as f64 / self.hz as f64
    }

    /// Packets a second on the receiving side: all but the first, in the time from the first to the last.
    pub fn received_rate(&self) -> f64 {
        per_second(self.received().saturating_sub(1) as f64, self.receiving())
    }

    /// Bits of frames a second on the receiving side, check included.
    pub fn received_bits(&self) -> f64 {
        self.bits(CHECK)
    }

    /// Bits on the wire a second on the receiving side, with what is between frames.
    pub fn received_wire_bits(&self) -> f64 {
        self.bits(CHECK + OVERHEAD)
    }

    fn bits(&self, besides: u64) -> f64 {
        let bytes: u64 = self.arrived.iter().map(|port| port.bytes + port.frames * besides).sum();
        per_second(bytes as f64 * 8.0, self.receiving())
    }
}

fn per_second(count: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { count / seconds } else { 0.0 }
}
