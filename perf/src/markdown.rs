//! Results as the tables of `docs/benchmarking.md`, so that nobody types a figure.

use std::fmt::Write;

use crate::budgets::verdicts;
use crate::results::{Record, Results};
use crate::table;

/// One table for each suite.
pub fn tables(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "{}, {} cores, {}; commit `{}`, {}; `{}`.\n",
        machine.cpu,
        machine.cores,
        if machine.huge_pages { "huge pages" } else { "plain pages" },
        machine.commit,
        machine.date,
        machine.command,
    );
    for suite in ["step", "wire", "rivals"] {
        let records: Vec<&Record> = results.results.iter().filter(|it| it.suite == suite).collect();
        if records.is_empty() {
            continue;
        }
        let _ =
            write!(text, "\n| {suite} | median (least to greatest) | budget |\n|---|---|---|\n");
        for record in records {
            let what = table::what(record);
            let what = what.trim_start_matches(suite).trim_start();
            let budgets: Vec<String> = verdicts(record).iter().map(table::in_words).collect();
            let budgets = budgets.join("; ").replace("budget ", "");
            let _ =
                writeln!(text, "| {what} | {} | {budgets} |", table::figures(record).join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Machine, Spread};

    #[test]
    fn every_result_is_a_row_of_its_suite() {
        let record = Record {
            suite: "step".into(),
            case: "maglev".into(),
            milliseconds: Some(Spread { min: 1.0, median: 2.5, max: 3.0 }),
            ..Record::default()
        };
        let text = tables(&Results { machine: Machine::default(), results: vec![record] });
        assert!(
            text.contains("| maglev | 2.500 ms (1.000 to 3.000) | ≤ 2 ms: MISSED |\n"),
            "{text}"
        );
        assert!(!text.contains("| wire |"));
    }
}
