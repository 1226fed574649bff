//! What each figure should be: the budgets that the project set itself before the first measurement. The physical
//! limit behind them is 10 Gbit/s Ethernet's: 14.88 million frames of 64 bytes a second, 67.2 ns each (IEEE 802.3:
//! 64 bytes, 8 of preamble, 12 of gap). The rivals behind them stand in `docs/benchmarking.md`.

use crate::results::{Record, SizeName};
use crate::traffic::{Family, Mode};

/// Frames of 64 bytes that 10 Gbit/s Ethernet carries, in millions a second.
pub const LINE_RATE: f64 = 14.88;

/// One budget, and the figure that is held against it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Which figure, with its unit.
    pub figure: &'static str,
    /// What was measured.
    pub found: f64,
    /// What is allowed.
    pub bound: Bound,
}

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less.
    AtLeast(f64),
}

impl Verdict {
    /// Whether the budget is met.
    pub fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtMost(most) => self.found <= most,
            Bound::AtLeast(least) => self.found >= least,
        }
    }
}

/// The budgets of a result, if it has any; none are held against one that was disturbed.
pub fn verdicts(record: &Record) -> Vec<Verdict> {
    use Bound::{AtLeast, AtMost};
    let mut verdicts = Vec::new();
    let mut hold = |figure, found: Option<f64>, bound: Option<Bound>| {
        if let (Some(found), Some(bound)) = (found, bound) {
            verdicts.push(Verdict { figure, found, bound });
        }
    };
    if record.is_disturbed() || (record.rival.is_some() && record.suite != "rivals") {
        return Vec::new();
    }
    let milliseconds = record.milliseconds.map(|it| it.median);
    match (record.suite.as_str(), record.case.as_str()) {
        ("step", "forward") => {
            let found = record.ns_per_packet.map(|it| it.median);
            hold("ns", found, pipeline(record).map(AtMost));
        }
        ("step", "new-flows") => {
            // Four times what Katran creates, twenty times DPVS.
            hold("M/s", record.per_second.map(|it| it.median / 1e6), Some(AtLeast(4.0)));
        }
        // The Maglev paper's is 1.8 ms (Eisenbud et al., NSDI 2016, section 3.4).
        ("step", "maglev") => hold("ms", milliseconds, Some(AtMost(2.0))),
        ("step", "flow-memory") if record.family == Some(Family::Ipv4) => {
            hold("bytes", record.bytes, Some(AtMost(96.0)));
        }
        ("wire", "throughput") => {
            let is_small = record.size == Some(SizeName::Bytes(64));
            let on_rings = record.link.as_deref() == Some("rings");
            hold("Mpps", record.mpps, (is_small && on_rings).then_some(AtLeast(LINE_RATE)));
            let ratio = if record.flows >= Some(1_000_000) { 0.45 } else { 0.6 };
            hold("of macswap", record.ratio_to_macswap, Some(AtLeast(ratio)));
        }
        ("wire", "added-latency") if record.load == Some(0.8) => {
            hold("ns p50", record.ns.map(|it| it.p50 as f64), Some(AtMost(3_000.0)));
            hold("ns p99.9", record.ns.map(|it| it.p999 as f64), Some(AtMost(20_000.0)));
        }
        ("wire", "swaps") => {
            hold("loss", record.loss, Some(AtMost(0.0)));
            hold("of undisturbed", record.ratio, Some(AtLeast(0.98)));
        }
        ("wire", "publish") => hold("ms", milliseconds, Some(AtMost(20.0))),
        ("wire", "idle") => hold("of a core", record.core_share, Some(AtMost(0.05))),
        ("wire", "first-after-idle") => {
            hold("ns max", record.ns.map(|it| it.max as f64), Some(AtMost(100_000.0)));
        }
        ("rivals", "macswap") => {
            let ratio = if record.flows >= Some(1_000_000) { 0.45 } else { 0.6 };
            hold("of macswap", record.ratio_to_macswap, Some(AtLeast(ratio)));
        }
        _ => {}
    }
    verdicts
}

/// Nanoseconds for a packet through the whole pipeline: twice VPP, ten times Katran and DPVS at a million flows.
fn pipeline(record: &Record) -> Option<f64> {
    let by_flows = match record.flows? {
        0..=1_000 => 20.0,
        1_001..=100_000 => 26.0,
        100_001..=1_000_000 => 40.0,
        _ => 60.0,
    };
    // Checksums are mended, never recomputed.
    let for_mode = match record.mode? {
        Mode::Dr => 0.0,
        Mode::Nat | Mode::Tun => 8.0,
        Mode::Snat => 12.0,
    };
    let for_family = if record.family? == Family::Ipv6 { 8.0 } else { 0.0 };
    let for_services = if record.services? > 1 { 3.0 } else { 0.0 };
    Some(by_flows + for_mode + for_family + for_services)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Spread;

    fn forward(mode: Mode, family: Family, flows: u32, services: u32, median: f64) -> Record {
        Record {
            suite: "step".into(),
            case: "forward".into(),
            mode: Some(mode),
            family: Some(family),
            flows: Some(flows),
            services: Some(services),
            ns_per_packet: Some(Spread { min: 1.0, median, max: 99.0 }),
            ..Record::default()
        }
    }

    #[test]
    fn a_pipeline_may_take_longer_for_more_flows_changes_services_and_longer_addresses() {
        let bound = |record| verdicts(&record)[0].bound;
        let dr = forward(Mode::Dr, Family::Ipv4, 1_000_000, 1, 40.0);
        assert_eq!(bound(dr), Bound::AtMost(40.0));
        let snat = forward(Mode::Snat, Family::Ipv6, 10_000_000, 10_000, 0.0);
        assert_eq!(bound(snat), Bound::AtMost(60.0 + 12.0 + 8.0 + 3.0));
    }

    #[test]
    fn what_was_disturbed_is_not_judged() {
        let record = Record {
            suite: "wire".into(),
            case: "idle".into(),
            core_share: Some(0.5),
            waited: Some(0.3),
            ..Record::default()
        };
        assert!(verdicts(&record).is_empty());
        assert!(!verdicts(&Record { waited: Some(0.0), ..record })[0].is_met());
    }

    #[test]
    fn the_median_decides() {
        let met = |median| verdicts(&forward(Mode::Dr, Family::Ipv4, 1, 1, median))[0].is_met();
        assert!(met(20.0));
        assert!(!met(20.1));
    }
}
