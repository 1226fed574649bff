//! Results as one HTML page that needs nothing else: plots, and the whole table.

use std::fmt::Write;

use pktgen::plot::{Axis, Line, Plot};

use crate::budgets::verdicts;
use crate::results::{Record, Results, SizeName};
use crate::table;
use crate::traffic::{Direction, Family};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%;font-size:13px}td,th{padding:.2rem .5rem;text-align:left;\
border-bottom:1px solid #ddd}td.missed{color:#b00020}td.met{color:#1b7a3d}svg{display:block}";

/// The page.
pub fn html(results: &Results) -> String {
    let machine = &results.machine;
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sluice: how fast</title>\
         <style>{STYLE}</style></head><body>\n<h1>How fast the data plane is</h1>\n\
         <p>{}, {} cores, {}; commit {}, {}.</p>\n",
        escaped(&machine.cpu),
        machine.cores,
        if machine.huge_pages { "huge pages" } else { "plain pages" },
        escaped(&machine.commit),
        escaped(&machine.date),
    );
    for plot in plots(&results.results) {
        page.push_str(&plot.svg());
    }
    page.push_str("<h2>Everything</h2>\n<table><tr><th>what<th>figures<th>budget</tr>\n");
    for record in &results.results {
        page.push_str(&row(record));
    }
    page.push_str("</table></body></html>\n");
    page
}

fn row(record: &Record) -> String {
    let mut row = format!(
        "<tr><td>{}<td>{}",
        escaped(&table::what(record)),
        escaped(&table::figures(record).join("  "))
    );
    let verdicts = verdicts(record);
    let class = match verdicts.iter().all(|verdict| verdict.is_met()) {
        true => "met",
        false => "missed",
    };
    let words: Vec<String> = verdicts.iter().map(table::in_words).collect();
    let _ = writeln!(row, "<td class=\"{class}\">{}</tr>", escaped(&words.join("; ")));
    row
}

/// One plot for each family: nanoseconds by flows, a line for each mode and direction; and one of throughput.
fn plots(records: &[Record]) -> Vec<Plot> {
    let mut plots: Vec<Plot> =
        [Family::Ipv4, Family::Ipv6].map(|family| pipeline(records, family)).into();
    plots.push(throughput(records));
    plots.retain(|plot| !plot.lines.is_empty());
    plots
}

fn pipeline(records: &[Record], family: Family) -> Plot {
    let family_name = format!("{family:?}").to_lowercase();
    let mut plot = by_flows(
        format!("The whole pipeline, 64-byte frames, {family_name}"),
        "nanoseconds for a packet",
    );
    let wanted = |it: &&Record| {
        it.suite == "step"
            && it.case == "forward"
            && it.family == Some(family)
            && it.size == Some(SizeName::Bytes(64))
            && it.services == Some(1)
    };
    for record in records.iter().filter(wanted) {
        let way = if record.direction == Some(Direction::Reply) { " reply" } else { "" };
        let name = format!("{}{way}", record.mode.map(|mode| mode.name()).unwrap_or_default());
        if let (Some(flows), Some(ns)) = (record.flows, record.ns_per_packet) {
            add(&mut plot, &name, (f64::from(flows), ns.median));
        }
    }
    plot
}

fn throughput(records: &[Record]) -> Plot {
    let title = "Throughput without loss, 64-byte frames".to_owned();
    let mut plot = by_flows(title, "million packets a second");
    let wanted = |it: &&Record| it.case == "throughput" && it.size == Some(SizeName::Bytes(64));
    for record in records.iter().filter(wanted) {
        let name =
            [record.rival.as_deref(), record.mode.map(|mode| mode.name()), record.link.as_deref()];
        let name: Vec<&str> = name.into_iter().flatten().collect();
        if let (Some(flows), Some(mpps)) = (record.flows, record.mpps) {
            add(&mut plot, &name.join(" "), (f64::from(flows), mpps));
        }
    }
    plot
}

/// A plot without lines.
fn by_flows(title: String, up: &str) -> Plot {
    Plot { title, x: Axis::logarithmic("flows"), y: Axis::linear(up), lines: Vec::new() }
}

/// Adds a point to the line of this name.
fn add(plot: &mut Plot, name: &str, point: (f64, f64)) {
    match plot.lines.iter_mut().find(|line| line.name == name) {
        Some(line) => line.points.push(point),
        None => plot.lines.push(Line { name: name.into(), points: vec![point], dots: true }),
    }
}

/// `text` as it may stand in a page.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Machine, Spread};
    use crate::traffic::Mode;

    fn record(flows: u32, median: f64) -> Record {
        Record {
            suite: "step".into(),
            case: "forward".into(),
            mode: Some(Mode::Dr),
            family: Some(Family::Ipv4),
            flows: Some(flows),
            size: Some(SizeName::Bytes(64)),
            services: Some(1),
            ns_per_packet: Some(Spread { min: median, median, max: median }),
            ..Record::default()
        }
    }

    #[test]
    fn a_page_has_a_plot_a_row_for_each_result_and_asks_nothing_of_the_network() {
        let machine = Machine { cpu: "a <fast> one".into(), ..Machine::default() };
        let results =
            Results { machine, results: vec![record(1_000, 12.0), record(1_000_000, 50.0)] };
        let page = html(&results);
        assert_eq!(page.matches("<svg").count(), 1);
        assert_eq!(page.matches("<tr>").count(), 3);
        assert!(page.contains("a &lt;fast&gt; one"));
        assert!(page.contains("class=\"missed\"") && page.contains("class=\"met\""));
        for elsewhere in ["href", "src=", "url(", "@import"] {
            assert!(!page.contains(elsewhere), "nothing is fetched: {elsewhere}");
        }
    }
}
