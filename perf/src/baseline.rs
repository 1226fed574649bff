//! Results kept for each kind of machine, and what has become slower since.
//!
//! A figure has become worse if its median is worse than the baseline's by more than the noise: half of the distance
//! between least and greatest on either side, added up, and at least 5 % of the baseline. Figures without a spread
//! (throughput, latency) may be worse by 15 %.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::results::{Machine, Record, Results, Spread};
use crate::table;

/// Where baselines are kept.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/baselines");
/// Less than this is noise, whatever the spread says.
const LEAST_NOISE: f64 = 0.05;
/// What figures without a spread may differ by.
const BLIND_NOISE: f64 = 0.15;

/// The file for machines like this one.
pub fn file_for(machine: &Machine) -> PathBuf {
    let name: String = machine
        .cpu
        .chars()
        .map(|it| if it.is_ascii_alphanumeric() { it.to_ascii_lowercase() } else { '-' })
        .collect();
    Path::new(FOLDER).join(format!("{name}-{}-cores.json", machine.cores))
}

/// Reads results that were written before.
///
/// # Errors
/// If there are none, or they are of another shape.
pub fn read(file: &Path) -> Result<Results> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} holds no results", file.display()))
}

/// Writes results.
///
/// # Errors
/// If that cannot be done.
pub fn write(file: &Path, results: &Results) -> Result<()> {
    let text = serde_json::to_string_pretty(results)?;
    std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))
}

/// One figure, then and now.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What was measured.
    pub what: String,
    /// The figure's name.
    pub figure: &'static str,
    /// The baseline's median.
    pub before: f64,
    /// The median now.
    pub now: f64,
    /// By how much it may differ.
    pub noise: f64,
    /// Whether it is worse by more than that.
    pub is_worse: bool,
}

/// Every figure that both sides have.
pub fn changes(before: &Results, now: &Results) -> Vec<Change> {
    let of_record = |record: &Record| {
        let what = table::what(record);
        let old = before.results.iter().find(|old| table::what(old) == what)?;
        Some(
            figures(old)
                .into_iter()
                .zip(figures(record))
                .filter_map(move |(old, new)| change(what.clone(), old?, new?)),
        )
    };
    now.results.iter().filter_map(of_record).flatten().collect()
}

/// A figure that can be compared.
struct Figure {
    name: &'static str,
    spread: Spread,
    /// Whether more is worse.
    is_cost: bool,
}

fn figures(record: &Record) -> [Option<Figure>; 5] {
    let alone = |value| Spread { min: value, median: value, max: value };
    let figure = |name, spread: Option<Spread>, is_cost| {
        spread.map(|spread| Figure { name, spread, is_cost })
    };
    [
        figure("ns", record.ns_per_packet, true),
        figure("ms", record.milliseconds, true),
        figure("a second", record.per_second, false),
        figure("Mpps", record.mpps.filter(|_| record.ns_per_packet.is_none()).map(alone), false),
        figure("ns p50", record.ns.map(|ns| alone(ns.p50 as f64)), true),
    ]
}

fn change(what: String, old: Figure, new: Figure) -> Option<Change> {
    let (before, now) = (old.spread.median, new.spread.median);
    let half = |spread: Spread| (spread.max - spread.min) / 2.0;
    let spread = half(old.spread) + half(new.spread);
    let least = if spread == 0.0 { BLIND_NOISE } else { LEAST_NOISE };
    let noise = spread.max(before.abs() * least);
    let worse_by = if old.is_cost { now - before } else { before - now };
    Some(Change { what, figure: old.name, before, now, noise, is_worse: worse_by > noise })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(min: f64, median: f64, max: f64) -> Results {
        let record = Record {
            suite: "step".into(),
            case: "forward".into(),
            ns_per_packet: Some(Spread { min, median, max }),
            mpps: Some(1_000.0 / median),
            ..Record::default()
        };
        Results { machine: Machine::default(), results: vec![record] }
    }

    fn is_worse(before: &Results, now: &Results) -> bool {
        let changes = changes(before, now);
        assert_eq!(changes.len(), 1);
        changes[0].is_worse
    }

    #[test]
    fn slower_by_more_than_both_spreads_is_worse_and_by_less_is_noise() {
        let before = results(38.0, 40.0, 42.0);
        assert!(!is_worse(&before, &results(41.0, 43.9, 45.0)));
        assert!(is_worse(&before, &results(43.0, 44.1, 47.0)));
        assert!(!is_worse(&before, &results(20.0, 20.0, 20.0)));
    }

    #[test]
    fn less_than_a_twentieth_is_noise_however_steady_the_runs_were() {
        let before = results(39.9, 40.0, 40.1);
        assert!(!is_worse(&before, &results(41.8, 41.9, 42.0)));
        assert!(is_worse(&before, &results(42.0, 42.2, 42.3)));
    }

    #[test]
    fn a_machine_has_a_file_of_its_own() {
        let machine = Machine { cpu: "AMD EPYC 9R14".into(), cores: 2, ..Machine::default() };
        assert!(file_for(&machine).ends_with("baselines/amd-epyc-9r14-2-cores.json"));
    }
}
