//! Results as somebody reads them in a terminal.

use std::fmt::Write;

use crate::results::{Mix, Record, SizeName, Spread};

/// One result in one line.
pub fn line(record: &Record) -> String {
    let mut line = format!("{:<44}", what(record));
    if let Some(Spread { min, median, max }) = record.ns_per_packet {
        let _ = write!(line, " {median:7.1} ns ({min:.1} to {max:.1})");
    }
    if let Some(mpps) = record.mpps {
        let _ = write!(line, "  {mpps:6.2} Mpps");
    }
    if let Some(Spread { min, median, max }) = record.per_second {
        let [min, median, max] = [min, median, max].map(|rate| rate / 1e6);
        let _ = write!(line, " {median:7.2} M/s ({min:.2} to {max:.2})");
    }
    if let Some(Spread { min, median, max }) = record.milliseconds {
        let _ = write!(line, " {median:7.3} ms ({min:.3} to {max:.3})");
    }
    if let Some(harness) = record.harness_ns {
        let _ = write!(line, "  [belt {harness:.1}]");
    }
    line
}

/// What was measured, in few words.
pub fn what(record: &Record) -> String {
    let mut words = vec![record.suite.clone(), record.case.clone()];
    let named = [
        record.mode.map(|it| it.name().to_owned()),
        record.direction.map(|it| format!("{it:?}").to_lowercase()),
        record.family.map(|it| format!("{it:?}").to_lowercase()),
        record.flows.map(|flows| format!("{} flows", round(flows))),
        record.size.map(|size| match size {
            SizeName::Bytes(bytes) => format!("{bytes} B"),
            SizeName::Mix(Mix::Imix) => "imix".into(),
        }),
        record.services.filter(|it| *it > 1).map(|it| format!("{} services", round(it))),
    ];
    words.extend(named.into_iter().flatten());
    words.join(" ")
}

/// 1000000 as 1M.
fn round(number: u32) -> String {
    match number {
        1_000_000.. if number % 1_000_000 == 0 => format!("{}M", number / 1_000_000),
        1_000.. if number % 1_000 == 0 => format!("{}k", number / 1_000),
        _ => number.to_string(),
    }
}
