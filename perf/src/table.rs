//! Results as somebody reads them in a terminal.

use std::fmt::Write;

use crate::baseline::Change;
use crate::budgets::{Bound, Verdict, verdicts};
use crate::results::{Mix, Record, SizeName, Spread};

/// One result in one line, with its budgets.
pub fn line(record: &Record) -> String {
    let mut line = format!("{:<50}", what(record));
    let _ = write!(line, " {}", figures(record).join("  "));
    for verdict in verdicts(record) {
        let _ = write!(line, "  | {}", in_words(&verdict));
    }
    if record.is_disturbed() {
        line.push_str("  | disturbed: not judged");
    }
    line
}

/// A budget and whether it is met.
pub fn in_words(verdict: &Verdict) -> String {
    let (bound, figure) = (bound(verdict.bound), verdict.figure);
    let met = if verdict.is_met() { "met" } else { "MISSED" };
    format!("budget {bound} {figure}: {met}")
}

fn bound(bound: Bound) -> String {
    match bound {
        Bound::AtMost(most) => format!("≤ {most}"),
        Bound::AtLeast(least) => format!("≥ {least}"),
    }
}

/// The figures of a result, each with its unit.
pub fn figures(record: &Record) -> Vec<String> {
    let spread = |Spread { min, median, max }, digits, unit| {
        format!("{median:.digits$} {unit} ({min:.digits$} to {max:.digits$})")
    };
    let percent = |share: f64| format!("{:.4} %", share * 100.0);
    let millions = |rates: Spread| rates.map(|rate| rate / 1e6);
    let latency = |it: crate::results::Percentiles| {
        let [p50, p99, p999, max] =
            [it.p50, it.p99, it.p999, it.max].map(|nanos| nanos as f64 / 1e3);
        format!("p50 {p50:.1} p99 {p99:.1} p99.9 {p999:.1} max {max:.1} µs")
    };
    let all = [
        record.ns_per_packet.map(|it| spread(it, 1, "ns")),
        record.mpps.map(|it| format!("{it:.2} Mpps")),
        record.per_second.map(|it| match it.median {
            1e5.. => spread(millions(it), 2, "M/s"),
            _ => spread(it, 0, "/s"),
        }),
        record.milliseconds.map(|it| spread(it, 3, "ms")),
        record.ns.map(latency),
        record.loss.map(|it| format!("loss {}", percent(it))),
        record.ratio_to_macswap.map(|it| format!("{it:.2} of macswap")),
        record.ratio.map(|it| format!("ratio {it:.3}")),
        record.core_share.map(|it| format!("{:.2} % of a core", it * 100.0)),
        record.bytes.map(|it| format!("{it:.1} bytes")),
        record
            .waited
            .filter(|share| *share > 0.01)
            .map(|it| format!("[waited {:.0} % for its core]", it * 100.0)),
        record.harness_ns.map(|it| format!("[belt {it:.1}]")),
    ];
    all.into_iter().flatten().collect()
}

/// What was measured, in few words; no two measurements have the same.
pub fn what(record: &Record) -> String {
    let mut words = vec![record.suite.clone(), record.case.clone()];
    let named = [
        record.rival.as_ref().map(|it| format!("[{it}]")),
        record.link.clone(),
        record.mode.map(|it| it.name().to_owned()),
        record.direction.map(|it| format!("{it:?}").to_lowercase()),
        record.family.map(|it| format!("{it:?}").to_lowercase()),
        record
            .flows
            .map(|it| if it == 1 { "1 flow".into() } else { format!("{} flows", round(it)) }),
        record.size.map(|size| match size {
            SizeName::Bytes(bytes) => format!("{bytes} B"),
            SizeName::Mix(Mix::Imix) => "imix".into(),
        }),
        record.services.filter(|it| *it > 1).map(|it| format!("{} services", round(it))),
        record.load.map(|it| format!("at {:.0} %", it * 100.0)),
    ];
    words.extend(named.into_iter().flatten());
    words.join(" ")
}

/// 1000000 as 1M.
fn round(number: u32) -> String {
    match number {
        1_000_000.. if number.is_multiple_of(1_000_000) => format!("{}M", number / 1_000_000),
        1_000.. if number.is_multiple_of(1_000) => format!("{}k", number / 1_000),
        _ => number.to_string(),
    }
}

/// How many budgets are met, and which are not.
pub fn summary(records: &[Record]) -> String {
    let held =
        |record: &Record| verdicts(record).into_iter().map(|it| (what(record), it)).collect();
    let all: Vec<(String, Verdict)> =
        records.iter().flat_map(|it| -> Vec<_> { held(it) }).collect();
    let missed: Vec<_> = all.iter().filter(|(_, verdict)| !verdict.is_met()).collect();
    let mut text = format!("{} of {} budgets met", all.len() - missed.len(), all.len());
    for (what, verdict) in missed {
        let (found, figure) = (verdict.found, verdict.figure);
        let _ = write!(text, "\n  missed: {what}: {found:.3} {figure}, {}", bound(verdict.bound));
    }
    text
}

/// What has become worse since the baseline, and how much was compared.
pub fn comparison(changes: &[Change]) -> String {
    let worse: Vec<_> = changes.iter().filter(|change| change.is_worse).collect();
    let mut text = format!(
        "compared with the baseline: {} of {} figures are worse by more than noise",
        worse.len(),
        changes.len()
    );
    for Change { what, figure, before, now, noise, .. } in worse {
        let _ = write!(text, "\n  {what}: {now:.2} {figure}, was {before:.2} (noise {noise:.2})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::{Family, Mode};

    #[test]
    fn a_line_says_what_was_measured_what_came_of_it_and_what_should_have() {
        let record = Record {
            suite: "step".into(),
            case: "forward".into(),
            mode: Some(Mode::Dr),
            family: Some(Family::Ipv4),
            flows: Some(1_000_000),
            size: Some(SizeName::Bytes(64)),
            services: Some(1),
            ns_per_packet: Some(Spread { min: 38.0, median: 41.25, max: 44.0 }),
            ..Record::default()
        };
        let line = line(&record);
        assert!(line.starts_with("step forward dr ipv4 1M flows 64 B "), "{line}");
        assert!(line.ends_with(" 41.2 ns (38.0 to 44.0)  | budget ≤ 40 ns: MISSED"), "{line}");
        let summary = summary(&[record]);
        assert!(summary.starts_with("0 of 1 budgets met\n  missed: step forward dr"), "{summary}");
    }
}
