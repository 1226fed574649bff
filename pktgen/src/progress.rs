//! How far a run is: written by the loops a hundred times a second, read by whoever watches, and never waited for.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::receive::Glance;
use crate::send::Sent;

/// A run's figures, each as new as its last report.
#[derive(Debug, Default)]
pub struct Progress {
    sent: [AtomicU64; 3],
    received: [AtomicU64; 7],
}

impl Progress {
    /// Called by the sending loop.
    pub fn report_sent(&self, sent: Sent) {
        store(&self.sent, [sent.frames, sent.bytes, sent.refusals]);
    }

    /// Called by the receiving loop.
    pub fn report_received(&self, at: Glance) {
        let Glance { frames, bytes, foreign, unique, reordered, duplicates, latencies } = at;
        store(&self.received, [frames, bytes, foreign, unique, reordered, duplicates, latencies]);
    }

    /// What has been sent: frames, bytes and refusals.
    pub fn sent(&self) -> Sent {
        let [frames, bytes, refusals] = load(&self.sent);
        Sent { frames, bytes, refusals, ..Sent::default() }
    }

    /// What has been received.
    pub fn received(&self) -> Glance {
        let [frames, bytes, foreign, unique, reordered, duplicates, latencies] =
            load(&self.received);
        Glance { frames, bytes, foreign, unique, reordered, duplicates, latencies }
    }
}

fn store<const N: usize>(into: &[AtomicU64; N], values: [u64; N]) {
    into.iter().zip(values).for_each(|(cell, value)| cell.store(value, Ordering::Relaxed));
}

fn load<const N: usize>(from: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|index| from[index].load(Ordering::Relaxed))
}
