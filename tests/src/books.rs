//! Frames in = frames out + drops by reason + frames handed over, and every buffer home.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::appliance::Appliance;
use crate::process::eventually;

/// Where every frame went, by the appliance's own account, all workers together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// From the wires.
    pub received: u64,
    /// From the control plane, and made by the workers.
    pub injected: u64,
    /// To the wires.
    pub transmitted: u64,
    /// To the control plane.
    pub punted: u64,
    /// From one worker to another.
    pub handed_over: u64,
    /// The same, as the other sees it.
    pub taken_over: u64,
    /// Frames that wait for a neighbour.
    pub waiting: u64,
    /// Dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Packet buffers that there are.
    pub buffers: u64,
    /// Packet buffers that nobody holds.
    pub free: u64,
}

impl Books {
    /// Read from `GET /counters` and `GET /status`.
    ///
    /// # Panics
    /// If a number is missing.
    pub fn of(counters: &Value, status: &Value) -> Self {
        let mut books = Self {
            buffers: number(&status["buffers"], "capacity"),
            free: number(&status["buffers"], "available"),
            ..Self::default()
        };
        let workers = counters["workers"].as_array().expect("counters have workers");
        assert!(!workers.is_empty(), "no worker counts anything: {counters}");
        for worker in workers {
            books.received += number(worker, "received");
            books.injected += number(worker, "injected");
            books.transmitted += number(worker, "transmitted");
            books.punted += number(worker, "punted");
            books.handed_over += number(worker, "handed_over");
            books.taken_over += number(worker, "taken_over");
            books.waiting += number(worker, "waiting");
            for drop in worker["drops"].as_array().expect("a worker has drops") {
                let reason = drop["reason"].as_str().expect("a drop has a reason").to_owned();
                *books.drops.entry(reason).or_default() += number(drop, "frames");
            }
        }
        books
    }

    /// Frames dropped for `reason`.
    ///
    /// # Panics
    /// If there is no such reason: a misspelt one would always be zero.
    pub fn dropped(&self, reason: &str) -> u64 {
        *self.drops.get(reason).unwrap_or_else(|| panic!("no reason is called {reason}"))
    }

    /// Frames dropped, for any reason.
    pub fn dropped_in_all(&self) -> u64 {
        self.drops.values().sum()
    }

    /// What has been counted since `earlier`, reason by reason, where it is not zero.
    pub fn drops_since(&self, earlier: &Self) -> BTreeMap<&str, u64> {
        self.drops
            .iter()
            .map(|(reason, now)| (reason.as_str(), now - earlier.drops.get(reason).unwrap_or(&0)))
            .filter(|(_, more)| *more > 0)
            .collect()
    }

    /// Whether every frame and every buffer is accounted for, and none is on its way.
    pub fn balance(&self) -> bool {
        self.received + self.injected == self.transmitted + self.punted + self.dropped_in_all()
            && self.handed_over == self.taken_over
            && self.waiting == 0
            && self.free == self.buffers
    }

    /// Waits until nothing is on its way any more, and returns the books.
    ///
    /// # Panics
    /// If they do not balance within 10 s.
    pub fn closed(appliance: &Appliance) -> Self {
        let mut last = appliance.books();
        // The same twice, or a frame may have arrived between two counters.
        let quiet = || {
            let now = appliance.books();
            let quiet = now.balance() && now == last;
            last = now;
            quiet.then_some(())
        };
        let closed = eventually(Duration::from_secs(10), quiet).is_some();
        assert!(closed, "the books do not balance: {last}\n{}", appliance.log());
        last
    }
}

impl fmt::Display for Books {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, injected, transmitted, punted, waiting, buffers, free, .. } = self;
        write!(
            out,
            "received {received} + injected {injected}, transmitted {transmitted} + punted \
             {punted} + dropped {} + waiting {waiting}; {free} of {buffers} buffers free",
            self.dropped_in_all()
        )?;
        if self.handed_over != self.taken_over {
            write!(out, "; handed over {}, taken over {}", self.handed_over, self.taken_over)?;
        }
        let drops = self.drops.iter().filter(|(_, frames)| **frames > 0);
        drops.into_iter().try_for_each(|(reason, frames)| write!(out, "; {reason} {frames}"))
    }
}

fn number(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_else(|| panic!("expected a number called {name} in {of}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn books(transmitted: u64, free: u64) -> Books {
        let worker = |received, taken_over| {
            json!({
                "received": received, "injected": 1, "transmitted": transmitted, "punted": 1,
                "handed_over": 3, "taken_over": taken_over, "waiting": 0,
                "drops": [{ "reason": "truncated", "frames": 2 }],
            })
        };
        let counters = json!({ "workers": [worker(9, 4), worker(11, 2)] });
        Books::of(&counters, &json!({ "buffers": { "capacity": 64, "available": free } }))
    }

    #[test]
    fn books_with_every_frame_and_buffer_accounted_for_balance() {
        assert!(books(8, 64).balance());
    }

    #[test]
    fn a_frame_between_two_workers_is_noticed() {
        let under_way = Books { taken_over: 5, ..books(8, 64) };
        assert!(!under_way.balance());
    }

    #[test]
    fn a_frame_or_a_buffer_that_is_missing_is_noticed() {
        assert!(!books(7, 64).balance());
        assert!(!books(8, 63).balance());
    }
}
