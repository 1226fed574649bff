//! A report as one page: figures, plots and the JSON itself, with nothing from elsewhere.

use std::fmt::Write as _;

use crate::measurement::Sample;
use crate::plot::{Axis, Line, Plot};
use crate::report::{BySize, Latency, Outcome, Report, Trials};
use crate::rfc2544::{AtLoad, BackToBack, Throughput};
use crate::summary;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:860px;margin:2em auto;padding:0 1em;color:#222}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}pre{background:#f5f5f5;padding:1em;overflow-x:auto}\
table{border-collapse:collapse}td,th{padding:.2em .9em .2em 0;text-align:left;vertical-align:top}\
svg{max-width:100%;height:auto}";

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut page = String::new();
    let mode = mode(&report.result);
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>pktgen: {mode}</title>\
         <style>{STYLE}</style></head>\n<body><h1>pktgen: {mode}</h1>\n"
    );
    page.push_str(&facts(report));
    let _ = write!(page, "<h2>Results</h2>\n<pre>{}</pre>\n", escaped(&summary::text(report)));
    for plot in plots(&report.result) {
        let _ = writeln!(page, "<div>{}</div>", plot.svg());
    }
    let json = serde_json::to_string_pretty(report).unwrap_or_default();
    let _ = write!(
        page,
        "<h2>Everything, as JSON</h2>\n<details><summary>show</summary><pre>{}</pre></details>\n</body></html>\n",
        escaped(&json)
    );
    page
}

fn mode(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Run(_) => "a run",
        Outcome::Throughput { .. } => "RFC 2544 throughput",
        Outcome::Latency { .. } => "RFC 2544 latency",
        Outcome::Loss { .. } => "RFC 2544 frame loss",
        Outcome::BackToBack { .. } => "RFC 2544 back-to-back frames",
        Outcome::Connections(_) => "connections a second",
        Outcome::Replay(_) => "a capture replayed",
        Outcome::Calibration => "calibration",
    }
}

fn facts(report: &Report) -> String {
    let mut rows = vec![
        ("when", report.date.clone()),
        ("version", report.pktgen.to_owned()),
        (
            "machine",
            format!(
                "{}, {} cores, of which used: {:?}",
                report.machine.cpu, report.machine.cores, report.machine.used
            ),
        ),
        ("ports", report.ports.join("; ")),
    ];
    if let Some(traffic) = &report.profile {
        let vlan = traffic.vlan.map_or(String::new(), |vlan| format!(", VLAN {vlan}"));
        rows.push((
            "traffic",
            format!(
                "{} over {}{vlan}, {} B, {} flows ({}), rate {} on a line of {} bit/s",
                traffic.protocol,
                traffic.addresses,
                traffic.sizes,
                traffic.flows,
                traffic.choice,
                traffic.rate,
                traffic.line_rate
            ),
        ));
    }
    let mut table = String::from("<table>\n");
    for (name, value) in rows {
        let _ = writeln!(table, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&value));
    }
    table + "</table>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn plots(outcome: &Outcome) -> Vec<Plot> {
    match outcome {
        Outcome::Run(run) => {
            let mut plots = vec![over_time(&run.samples, "Packets a second", "sent", "received")];
            if let Some(latency) = &run.latency_ns {
                plots.push(cdf(&[("latency".into(), latency)]));
                plots.push(latency_over_time(&run.samples));
            }
            plots
        }
        Outcome::Throughput { sizes } => vec![by_size(sizes)],
        Outcome::Latency { sizes } => latencies(sizes),
        Outcome::Loss { sizes } => vec![loss_by_load(sizes)],
        Outcome::BackToBack { sizes } => vec![bursts(sizes)],
        Outcome::Connections(it) => {
            let mut plots =
                vec![over_time(&it.samples, "Connections a second", "begun", "established")];
            plots.extend(
                it.handshake_ns.as_ref().map(|latency| cdf(&[("handshake".into(), latency)])),
            );
            plots
        }
        Outcome::Replay(it) => vec![over_time(&it.samples, "Frames a second", "sent", "received")],
        Outcome::Calibration => vec![],
    }
}

fn line(name: impl Into<String>, points: Vec<(f64, f64)>, dots: bool) -> Line {
    Line { name: name.into(), points, dots }
}

/// Rates between neighbouring samples.
fn over_time(samples: &[Sample], title: &str, sent: &str, received: &str) -> Plot {
    let rates = |of: fn(&Sample) -> u64| {
        let rate = |pair: &[Sample]| {
            let seconds = pair[1].at - pair[0].at;
            (seconds > 1e-4)
                .then(|| (pair[1].at, of(&pair[1]).saturating_sub(of(&pair[0])) as f64 / seconds))
        };
        samples.windows(2).filter_map(rate).collect()
    };
    Plot {
        title: title.into(),
        x: Axis::linear("seconds"),
        y: Axis::linear("a second"),
        lines: vec![
            line(sent, rates(|it| it.sent), false),
            line(received, rates(|it| it.received), false),
        ],
    }
}

fn latency_over_time(samples: &[Sample]) -> Plot {
    let points = samples
        .iter()
        .filter(|it| it.latency > 0.0)
        .map(|it| (it.at, it.latency / 1000.0))
        .collect();
    Plot {
        title: "Mean latency over time".into(),
        x: Axis::linear("seconds"),
        y: Axis::linear("microseconds"),
        lines: vec![line("latency", points, false)],
    }
}

/// Shares of packets against latency, with the tail drawn out.
fn cdf(latencies: &[(String, &Latency)]) -> Plot {
    let points = |latency: &Latency| {
        latency
            .cdf
            .iter()
            .map(|(nanoseconds, share)| (*nanoseconds as f64 / 1000.0, share * 100.0))
            .collect()
    };
    Plot {
        title: "Latency: share of packets that took at most so long".into(),
        x: Axis::logarithmic("microseconds"),
        y: Axis::linear("per cent of packets"),
        lines: latencies
            .iter()
            .map(|(name, latency)| line(name.clone(), points(latency), false))
            .collect(),
    }
}

fn by_size(sizes: &[BySize<Throughput>]) -> Plot {
    let points = |of: fn(&BySize<Throughput>) -> f64| {
        sizes.iter().map(|it| (f64::from(it.size), of(it))).collect::<Vec<_>>()
    };
    Plot {
        title: "Throughput by size, against line rate".into(),
        x: Axis::linear("bytes, check included"),
        y: Axis::linear("frames a second"),
        lines: vec![
            line("without loss", points(|it| it.found.rate), true),
            line("line rate", points(|it| it.line_rate), true),
        ],
    }
}

fn latencies(sizes: &[BySize<AtLoad>]) -> Vec<Plot> {
    let mean = sizes.iter().map(|it| (f64::from(it.size), it.found.mean / 1000.0)).collect();
    let last = |it: &BySize<AtLoad>| it.found.trials.last().and_then(|trial| trial.latency.clone());
    let found: Vec<_> =
        sizes.iter().filter_map(|it| Some((format!("{} B", it.size), last(it)?))).collect();
    let found: Vec<_> = found.iter().map(|(name, latency)| (name.clone(), latency)).collect();
    let by_size = Plot {
        title: "Mean latency by size".into(),
        x: Axis::linear("bytes, check included"),
        y: Axis::linear("microseconds"),
        lines: vec![line("mean", mean, true)],
    };
    vec![by_size, cdf(&found)]
}

fn loss_by_load(sizes: &[BySize<Trials>]) -> Plot {
    let points = |it: &BySize<Trials>| {
        it.found
            .trials
            .iter()
            .map(|trial| (trial.asked / it.line_rate * 100.0, trial.loss() * 100.0))
            .collect()
    };
    Plot {
        title: "Loss by load".into(),
        x: Axis::linear("per cent of line rate"),
        y: Axis::linear("per cent of frames lost"),
        lines: sizes.iter().map(|it| line(format!("{} B", it.size), points(it), true)).collect(),
    }
}

fn bursts(sizes: &[BySize<BackToBack>]) -> Plot {
    let points = sizes.iter().map(|it| (f64::from(it.size), it.found.frames)).collect();
    Plot {
        title: "Longest burst without loss, by size".into(),
        x: Axis::linear("bytes, check included"),
        y: Axis::linear("frames"),
        lines: vec![line("burst", points, true)],
    }
}
