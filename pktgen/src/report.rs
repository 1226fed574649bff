//! Results as they are written down: the JSON that `--json` gives, and what the page and the lines on the screen are
//! made from.

use std::time::{SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::calibrate::Calibration;
use crate::cps::Connections;
use crate::measurement::{Measurement, Sample};
use crate::profile::Profile;
use crate::rate::bits_on_wire;
use crate::replay::Replayed;
use crate::rfc2544::{AtLoad, BackToBack, Throughput, Trial};

/// Everything about a run of the program.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of pktgen.
    pub pktgen: &'static str,
    /// When it was written, in UTC (ISO 8601).
    pub date: String,
    /// Where it ran.
    pub machine: Machine,
    /// The ports, with driver and address.
    pub ports: Vec<String>,
    /// What was sent.
    pub profile: Option<Traffic>,
    /// What the generator itself can do here.
    pub calibration: Option<Calibration>,
    /// Whether it was told to stop before its time: what follows is what there was until then.
    pub interrupted: bool,
    /// What was found.
    pub result: Outcome,
}

/// Where it ran.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many cores there are.
    pub cores: usize,
    /// Where the loops ran.
    pub used: Vec<usize>,
}

/// A profile in words.
#[derive(Debug, Clone, Serialize)]
pub struct Traffic {
    /// How fast.
    pub rate: String,
    /// Bits a second of the line.
    pub line_rate: u64,
    /// How large, in bytes with check.
    pub sizes: String,
    /// How many flows.
    pub flows: u32,
    /// In which order.
    pub choice: String,
    /// TCP, UDP or ICMP.
    pub protocol: String,
    /// From where to where.
    pub addresses: String,
    /// The VLAN, if any.
    pub vlan: Option<u16>,
}

impl From<&Profile> for Traffic {
    fn from(profile: &Profile) -> Self {
        let at = &profile.addresses;
        Self {
            rate: profile.rate.to_string(),
            line_rate: profile.line_rate,
            sizes: profile.sizes.to_string(),
            flows: profile.flows,
            choice: profile.choice.to_string(),
            protocol: format!("{:?}", profile.protocol).to_lowercase(),
            addresses: format!(
                "{} ports {} to {} ports {}",
                at.source, at.source_ports, at.destination, at.destination_ports
            ),
            vlan: profile.tag.map(|tag| tag.identifier()),
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum Outcome {
    /// Of `pktgen run`.
    Run(Box<Run>),
    /// Of `pktgen rfc2544 throughput`.
    Throughput {
        /// By size.
        sizes: Vec<BySize<Throughput>>,
    },
    /// Of `pktgen rfc2544 latency`.
    Latency {
        /// By size.
        sizes: Vec<BySize<AtLoad>>,
    },
    /// Of `pktgen rfc2544 loss`.
    Loss {
        /// By size.
        sizes: Vec<BySize<Trials>>,
    },
    /// Of `pktgen rfc2544 back-to-back`.
    BackToBack {
        /// By size.
        sizes: Vec<BySize<BackToBack>>,
    },
    /// Of `pktgen cps`.
    Connections(Box<Connections>),
    /// Of `pktgen replay`.
    Replay(Replayed),
    /// Of `pktgen calibrate`.
    Calibration,
}

/// Trials at several loads.
#[derive(Debug, Clone, Serialize)]
pub struct Trials {
    /// In order.
    pub trials: Vec<Trial>,
}

/// A result for frames of one size.
#[derive(Debug, Clone, Serialize)]
pub struct BySize<T> {
    /// Bytes, check included.
    pub size: u16,
    /// Frames of this size that the line carries in a second.
    pub line_rate: f64,
    /// What was found.
    #[serde(flatten)]
    pub found: T,
}

impl<T> BySize<T> {
    /// For a line of so many bits a second.
    pub fn new(size: u16, line: u64, found: T) -> Self {
        Self { size, line_rate: line as f64 / bits_on_wire(size.into()), found }
    }
}

/// The quantiles of a latency, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// Packets that were measured.
    pub packets: u64,
    /// The least.
    pub min: u64,
    /// The average.
    pub mean: f64,
    /// Half of the packets took at most so long.
    pub p50: u64,
    /// 90 of 100.
    pub p90: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1,000.
    #[serde(rename = "p99.9")]
    pub p999: u64,
    /// 9,999 of 10,000.
    #[serde(rename = "p99.99")]
    pub p9999: u64,
    /// The most.
    pub max: u64,
    /// Pairs of nanoseconds and the share of packets that took at most so long.
    pub cdf: Vec<(u64, f64)>,
}

impl Latency {
    /// Of a histogram of nanoseconds; `None` if nothing is in it.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile);
        (!histogram.is_empty()).then(|| Self {
            packets: histogram.len(),
            min: histogram.min(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max(),
            cdf: cdf(histogram),
        })
    }
}

/// At most some two hundred points, closer together towards the end, where the interesting ones are.
fn cdf(histogram: &Histogram<u64>) -> Vec<(u64, f64)> {
    let body = (0..100).map(|percent| f64::from(percent) / 100.0);
    let tail = (0..=40).map(|step| 1.0 - 0.01 * 10f64.powf(-f64::from(step) / 10.0));
    let mut points = vec![(histogram.min(), 0.0)];
    for quantile in body.chain(tail).chain([1.0]) {
        let value = histogram.value_at_quantile(quantile);
        points.push((value.clamp(histogram.min(), histogram.max()), quantile));
    }
    points.dedup();
    points
}

/// A measurement as it is written down.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Frames a second that were asked for; none for as fast as it goes.
    pub asked_pps: Option<f64>,
    /// Frames a second that were sent.
    pub sent_pps: f64,
    /// Packets that went out at once.
    pub burst: usize,
    /// Seconds in which the rate could not be kept and was not caught up with.
    pub behind_s: f64,
    /// Seconds in which packets were sent.
    pub sending_s: f64,
    /// Frames sent.
    pub sent: u64,
    /// Bytes in them, without check.
    pub sent_bytes: u64,
    /// Times that the port's queue was full.
    pub refusals: u64,
    /// Packets that the port never took: they do not count as sent.
    pub unsent: u64,
    /// Packets that arrived, duplicates included.
    pub received: u64,
    /// Bytes in them, without check.
    pub received_bytes: u64,
    /// Packets a second on the receiving side.
    pub received_pps: f64,
    /// Bits of frames a second on the receiving side, check included.
    pub received_bps: f64,
    /// Bits on the wire a second on the receiving side, with what is between frames.
    pub received_wire_bps: f64,
    /// Packets of this run that arrived at each port, the sending one first.
    pub received_by_port: Vec<u64>,
    /// Frames of anybody else.
    pub foreign: u64,
    /// Packets that did not come.
    pub lost: u64,
    /// As a share of those sent.
    pub loss: f64,
    /// Packets that were overtaken by a later one of their flow.
    pub reordered: u64,
    /// Copies.
    pub duplicates: u64,
    /// Packets too late to be told from copies: they count as lost, too.
    pub late: u64,
    /// Packets that came inside others.
    pub encapsulated: u64,
    /// Flows of which a packet was sent.
    pub flows_used: u32,
    /// Flows of which one was lost.
    pub flows_with_loss: u32,
    /// The most that a flow has lost.
    pub most_lost_of_a_flow: u32,
    /// How long packets were under way.
    pub latency_ns: Option<Latency>,
    /// RFC 3550 section 6.4.1.
    pub jitter_ns: f64,
    /// Mean difference between neighbours (RFC 3393).
    pub delay_variation_ns: f64,
    /// How it went.
    pub samples: Vec<Sample>,
}

impl From<&Measurement> for Run {
    fn from(it: &Measurement) -> Self {
        let sum = |of: fn(&crate::receive::Arrived) -> u64| it.arrived.iter().map(of).sum();
        Self {
            asked_pps: it.asked,
            sent_pps: it.sent_rate(),
            burst: it.group,
            behind_s: it.behind,
            sending_s: it.sending,
            sent: it.sent.frames,
            sent_bytes: it.sent.bytes,
            refusals: it.sent.refusals,
            unsent: it.unsent,
            received: it.received(),
            received_bytes: sum(|port| port.bytes),
            received_pps: it.received_rate(),
            received_bps: it.received_bits(),
            received_wire_bps: it.received_wire_bits(),
            received_by_port: it.arrived.iter().map(|port| port.frames).collect(),
            foreign: sum(|port| port.foreign),
            lost: it.lost(),
            loss: it.loss(),
            reordered: it.observed.reordered,
            duplicates: it.observed.duplicates,
            late: it.observed.late,
            encapsulated: it.observed.encapsulated,
            flows_used: it.flows.used,
            flows_with_loss: it.flows.with_loss,
            most_lost_of_a_flow: it.flows.most_lost,
            latency_ns: Latency::of(&it.observed.latency),
            jitter_ns: it.observed.jitter,
            delay_variation_ns: it.observed.variation,
            samples: it.samples.clone(),
        }
    }
}

impl Trial {
    /// Of a measurement in which so many frames a second were asked for. A rate is kept if it is right within one
    /// part in a hundred.
    pub fn of(measurement: &Measurement, asked: f64) -> Self {
        let offered = measurement.sent_rate();
        Self {
            asked,
            offered,
            received: measurement.received_rate(),
            sent: measurement.sent.frames,
            lost: measurement.lost(),
            held_up: offered < 0.99 * asked,
            latency: Latency::of(&measurement.observed.latency),
        }
    }
}

impl Machine {
    /// This one.
    pub fn here(used: &[usize]) -> Self {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: name.map_or_else(|| "unknown".into(), |(_, name)| name.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            used: used.to_vec(),
        }
    }
}

/// Now, in UTC: `2026-01-31T23:59:59Z`.
pub fn date() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    date_of(since.as_secs())
}

/// Days to a date as in H. Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn date_of(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date_of(0), "1970-01-01T00:00:00Z");
        assert_eq!(date_of(951_826_154), "2000-02-29T12:09:14Z");
        assert_eq!(date_of(1_798_761_599), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn a_cdf_rises_from_the_least_to_the_most() {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000, 3).unwrap();
        (1..=1000).for_each(|value| histogram.record(value).unwrap());
        let latency = Latency::of(&histogram).unwrap();
        assert_eq!(
            (latency.min, latency.p50, latency.p90, latency.p99, latency.max),
            (1, 500, 900, 990, 1000)
        );
        assert_eq!((latency.cdf[0], latency.cdf[latency.cdf.len() - 1]), ((1, 0.0), (1000, 1.0)));
        assert!(latency.cdf.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
        assert_eq!(Latency::of(&Histogram::new(3).unwrap()), None);
    }
}
