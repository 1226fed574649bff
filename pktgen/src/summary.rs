//! A report as lines of text, for whoever sits in front of it.

use std::fmt::{self, Display, Write as _};

use crate::calibrate::Calibration;
use crate::cps::Connections;
use crate::rate::Scaled;
use crate::replay::Replayed;
use crate::report::{BySize, Latency, Outcome, Report, Run};
use crate::rfc2544::Trial;

/// Nanoseconds in a unit that fits.
#[derive(Debug, Clone, Copy)]
pub struct Time(pub f64);

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.abs() {
            1e9.. => write!(f, "{:.3} s", self.0 / 1e9),
            1e6.. => write!(f, "{:.3} ms", self.0 / 1e6),
            1e3.. => write!(f, "{:.2} µs", self.0 / 1e3),
            _ => write!(f, "{:.0} ns", self.0),
        }
    }
}

/// All of it.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = write(&mut text, report);
    text
}

fn write(out: &mut String, report: &Report) -> fmt::Result {
    if report.interrupted {
        writeln!(out, "interrupted: what follows is what there was until then")?;
    }
    if let Some(calibration) = &report.calibration {
        write_calibration(out, calibration)?;
    }
    match &report.result {
        Outcome::Run(run) => write_run(out, run),
        Outcome::Connections(connections) => write_connections(out, connections),
        Outcome::Replay(replayed) => write_replay(out, replayed),
        Outcome::Calibration => Ok(()),
        Outcome::Throughput { sizes } => {
            for it in sizes {
                let notes = [
                    (it.found.at_least, ">= (the generator's limit)"),
                    (!it.found.complete, "incomplete"),
                ];
                let notes: Vec<_> =
                    notes.iter().filter(|(holds, _)| *holds).map(|(_, note)| *note).collect();
                writeln!(
                    out,
                    "throughput   {}: {}pps, {:.2} % of line rate  {}",
                    size(it),
                    Scaled(it.found.rate),
                    it.found.rate / it.line_rate * 100.0,
                    notes.join(", "),
                )?;
            }
            Ok(())
        }
        Outcome::Latency { sizes } => {
            for it in sizes {
                let (mean, trials) = (Time(it.found.mean), it.found.trials.len());
                writeln!(
                    out,
                    "latency      {}: mean {mean} of {trials} trials at {}pps",
                    size(it),
                    Scaled(it.found.rate)
                )?;
                if let Some(latency) =
                    it.found.trials.last().and_then(|trial| trial.latency.as_ref())
                {
                    write_latency(out, "  of the last", latency)?;
                }
            }
            Ok(())
        }
        Outcome::Loss { sizes } => {
            for it in sizes {
                for trial in &it.found.trials {
                    write_loss(out, it, trial)?;
                }
            }
            Ok(())
        }
        Outcome::BackToBack { sizes } => {
            for it in sizes {
                let (frames, each) = (it.found.frames, it.found.each.len());
                let most = if frames >= it.found.most as f64 {
                    " (the longest that was tried)"
                } else {
                    ""
                };
                writeln!(
                    out,
                    "back to back {}: {frames:.0} frames{most}, the average of {each}",
                    size(it)
                )?;
            }
            Ok(())
        }
    }
}

fn size<T>(it: &BySize<T>) -> String {
    format!("{:>5} B", it.size)
}

fn write_loss<T>(out: &mut String, it: &BySize<T>, trial: &Trial) -> fmt::Result {
    let load = trial.asked / it.line_rate * 100.0;
    writeln!(
        out,
        "loss         {} at {load:6.2} % of line rate: {:.4} % ({} of {}){}",
        size(it),
        trial.loss() * 100.0,
        trial.lost,
        trial.sent,
        if trial.held_up { "; the generator could not keep the rate" } else { "" },
    )
}

fn write_calibration(out: &mut String, it: &Calibration) -> fmt::Result {
    let Calibration { sizes, flows, null_mpps, ring_mpps, added_latency_ns: added, .. } = it;
    writeln!(
        out,
        "calibration  {sizes} B, {flows} flows: sends {null_mpps:.2} Mpps, sends and measures {ring_mpps:.2} Mpps on one core"
    )?;
    writeln!(
        out,
        "             adds {} to a latency (half of the packets; 99 %: {}, at most {})",
        Time(added.p50 as f64),
        Time(added.p99 as f64),
        Time(added.max as f64)
    )
}

fn write_run(out: &mut String, run: &Run) -> fmt::Result {
    let asked = run.asked_pps.map_or("max".into(), |rate| format!("{}pps", Scaled(rate)));
    writeln!(
        out,
        "sent         {} frames, {}pps (asked: {asked}), in groups of {}",
        run.sent,
        Scaled(run.sent_pps),
        run.burst
    )?;
    writeln!(
        out,
        "received     {} packets, {}pps, {}bit/s ({}bit/s on the wire)",
        run.received,
        Scaled(run.received_pps),
        Scaled(run.received_bps),
        Scaled(run.received_wire_bps)
    )?;
    writeln!(
        out,
        "lost         {} ({:.6} %), in {} of {} flows; reordered {}, duplicates {}, late {}",
        run.lost,
        run.loss * 100.0,
        run.flows_with_loss,
        run.flows_used,
        run.reordered,
        run.duplicates,
        run.late
    )?;
    if let Some(latency) = &run.latency_ns {
        write_latency(out, "latency", latency)?;
        let (jitter, variation) = (Time(run.jitter_ns), Time(run.delay_variation_ns));
        writeln!(
            out,
            "jitter       {jitter} (RFC 3550), {variation} between neighbours (RFC 3393)"
        )?;
    }
    let notes = [
        (run.foreign, "frames of others came in"),
        (run.encapsulated, "packets came inside others"),
        (run.refusals, "times the port's queue was full"),
        (run.unsent, "packets were never taken by the port"),
    ];
    for (count, note) in notes.iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "             {count} {note}")?;
    }
    if run.behind_s > 0.001 {
        writeln!(
            out,
            "             the rate was not kept for {:.3} s: the generator was held up",
            run.behind_s
        )?;
    }
    Ok(())
}

fn write_latency(out: &mut String, name: &str, it: &Latency) -> fmt::Result {
    let time = |nanoseconds: u64| Time(nanoseconds as f64);
    writeln!(
        out,
        "{name:<12} min {}, mean {}, 50 % {}, 90 % {}, 99 % {}, 99.9 % {}, 99.99 % {}, max {}",
        time(it.min),
        Time(it.mean),
        time(it.p50),
        time(it.p90),
        time(it.p99),
        time(it.p999),
        time(it.p9999),
        time(it.max)
    )
}

fn write_connections(out: &mut String, it: &Connections) -> fmt::Result {
    let asked = it.asked_cps.map_or("max".into(), |rate| format!("{}/s", Scaled(rate)));
    writeln!(
        out,
        "connections  {} begun in {:.2} s (asked: {asked}); {} established, {}/s; {} closed",
        it.begun,
        it.seconds,
        it.established,
        Scaled(it.established_cps),
        it.closed
    )?;
    writeln!(
        out,
        "failed       {} in time, {} with a reset; {} times no address and port was free",
        it.timed_out, it.reset, it.not_free
    )?;
    writeln!(
        out,
        "server       {} SYNs came, {} of them inside other packets; {} frames of others",
        it.reached_server, it.encapsulated, it.foreign
    )?;
    it.handshake_ns.as_ref().map_or(Ok(()), |latency| write_latency(out, "handshake", latency))
}

fn write_replay(out: &mut String, it: &Replayed) -> fmt::Result {
    let rate = Scaled(it.sent as f64 / it.seconds.max(1e-9));
    writeln!(
        out,
        "sent         {} frames in {:.3} s, {rate}pps, {} whole rounds",
        it.sent, it.seconds, it.rounds
    )?;
    writeln!(out, "             none more than {} behind its time", Time(it.most_late_ns as f64))?;
    let ports: Vec<_> = it.received_by_port.iter().map(u64::to_string).collect();
    writeln!(
        out,
        "received     {} frames by port, {} bytes",
        ports.join(" and "),
        it.received_bytes
    )?;
    match it.cut {
        0 => Ok(()),
        cut => writeln!(out, "             {cut} frames were captured in part, and sent in part"),
    }
}
