//! What was measured, in the shape that `--json` writes and that baselines are kept in.

use serde::{Deserialize, Serialize};

use crate::traffic::{Direction, Family, Mode};

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Where.
    pub machine: Machine,
    /// What came of it.
    pub results: Vec<Record>,
}

/// The machine and the program that was measured on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores that this program may use.
    pub cores: usize,
    /// Whether the tables and buffers lay on huge pages.
    pub huge_pages: bool,
    /// The commit, with `-dirty` if files differed from it.
    pub commit: String,
    /// When, in UTC (RFC 3339).
    pub date: String,
    /// The command that was run.
    #[serde(default)]
    pub command: String,
}

/// One measurement: what was done, and the figures. Fields that say nothing are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// step, wire or rivals.
    pub suite: String,
    /// What was measured.
    pub case: String,
    /// How packets reached the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Which way they went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// The version of IP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Flows, in random order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// Bytes of a frame on the wire, or `imix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<SizeName>,
    /// Services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<u32>,
    /// What joined the worker to the generator, or the rival to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Whose figure it is, if not ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rival: Option<String>,
    /// Share of the throughput without loss that was offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// How often it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<usize>,
    /// Time for a packet, what the belt itself costs taken off: the least of any round, and the median and greatest
    /// of the runs' medians.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_packet: Option<Spread>,
    /// What the belt itself cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub harness_ns: Option<f64>,
    /// Millions of packets a second: from `ns_per_packet`, or as received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mpps: Option<f64>,
    /// Ticks of the time stamp counter for a packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycles_per_packet: Option<f64>,
    /// Events a second, such as new flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<Spread>,
    /// How long something took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<Spread>,
    /// Latency, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns: Option<Percentiles>,
    /// Share of the frames that did not arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Throughput divided by that of testpmd's macswap, in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_macswap: Option<f64>,
    /// Throughput divided by that of what `rival` names, or by that of the same without the disturbance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Share of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core_share: Option<f64>,
    /// Share of the time in which the measuring thread had to wait for its core, because others had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited: Option<f64>,
    /// Bytes of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<f64>,
}

impl Record {
    /// Whether somebody else had the generator's core for so long that frames were lost on its account. (A step is
    /// the median of many short rounds, and bears more.)
    pub fn is_disturbed(&self) -> bool {
        self.suite != "step" && self.waited > Some(0.01)
    }
}

/// A frame size as results spell it: a number, or `"imix"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SizeName {
    /// Bytes on the wire.
    Bytes(u16),
    /// A mix.
    Mix(Mix),
}

/// Mixes of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// See [`crate::traffic::Size::Imix`].
    Imix,
}

/// The values of several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The one in the middle.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these values, of which there must be one at least.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (at(middle.wrapping_sub(1)) + at(middle)) / 2.0,
            _ => at(middle),
        };
        Self { min: at(0), median, max: at(values.len().wrapping_sub(1)) }
    }

    /// Each value turned into another by a rising or falling function.
    pub fn map(self, with: impl Fn(f64) -> f64) -> Self {
        Self::of([with(self.min), with(self.median), with(self.max)])
    }
}

/// Latency, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of the frames took no longer.
    pub p50: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1000.
    pub p999: u64,
    /// All.
    pub max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_least_middle_and_greatest() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]), Spread { min: 1.0, median: 2.5, max: 4.0 });
        let rate = Spread::of([1.0, 2.0, 4.0]).map(|ns| 1_000.0 / ns);
        assert_eq!(rate, Spread { min: 250.0, median: 500.0, max: 1_000.0 });
    }
}
