//! The settings of a service that can be judged each by itself.

use std::fmt;

use super::address::duration;
use super::{
    Encapsulation, Helper, Limits, Mode, Persistence, Ports, Protocol, Scheduler, State, Timeouts,
    name,
};
use crate::document;
use crate::field::{Field, Invalid, Refusals, Shape};

/// An hour, in seconds.
const HOUR: u32 = 3600;
/// The highest limit that can be asked for.
const HIGHEST_LIMIT: u32 = 1_000_000_000;

/// One of a few words, each with what it stands for.
pub(super) fn word<T: Copy>(
    field: &Field<'_>,
    expected: &str,
    words: &[(&str, T)],
) -> Result<T, Invalid> {
    field.parsed(expected, |text| {
        words.iter().find(|(word, _)| *word == text).map(|&(_, meant)| meant)
    })
}

pub(super) fn protocol(field: &Field<'_>) -> Result<Protocol, Invalid> {
    let words = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("tcp+udp", Protocol::Both)];
    word(field, "tcp, udp or tcp+udp", &words)
}

pub(super) fn mode(field: &Field<'_>) -> Result<Mode, Invalid> {
    let words = [("dr", Mode::Dr), ("nat", Mode::Nat), ("snat", Mode::Snat), ("tun", Mode::Tun)];
    word(field, "dr, nat, snat or tun", &words)
}

pub(super) fn scheduler(field: &Field<'_>) -> Result<Scheduler, Invalid> {
    let words = [
        ("rr", Scheduler::Rr),
        ("wrr", Scheduler::Wrr),
        ("lc", Scheduler::Lc),
        ("wlc", Scheduler::Wlc),
        ("sh", Scheduler::Sh),
        ("dh", Scheduler::Dh),
        ("maglev", Scheduler::Maglev),
        ("ops", Scheduler::Ops),
    ];
    word(field, "rr, wrr, lc, wlc, sh, dh, maglev or ops", &words)
}

pub(super) fn encapsulation(field: &Field<'_>) -> Result<Encapsulation, Invalid> {
    word(field, "ipip or gue", &[("ipip", Encapsulation::Ipip), ("gue", Encapsulation::Gue)])
}

pub(super) fn helper(field: &Field<'_>) -> Result<Helper, Invalid> {
    word(field, "ftp or none", &[("ftp", Helper::Ftp), ("none", Helper::None)])
}

pub(super) fn state(field: &Field<'_>) -> Result<State, Invalid> {
    word(field, "online, drain or halt", &State::ALL)
}

const PERSISTENCE: Shape =
    Shape { known: &["timeout", "mask", "mask_ipv6", "group", "through_drain"], later: &[] };

/// `None` if anything was refused; none of it is there if nothing was written.
#[allow(clippy::option_option)] // was it read, and is there one
pub(super) fn persistence(
    field: &Field<'_>,
    refusals: &mut Refusals,
) -> Option<Option<Persistence>> {
    if !field.is_given() {
        return Some(None);
    }
    let table = field.table(&PERSISTENCE, refusals)?;
    let timeout = table.at("timeout").or(300, |field| duration(field, 1, 24 * HOUR));
    let timeout = refusals.keep(timeout);
    let mask = refusals.keep(table.at("mask").or(32, |field| bits(field, 32)));
    let mask_ipv6 = refusals.keep(table.at("mask_ipv6").or(128, |field| bits(field, 128)));
    let group = refusals.keep(table.at("group").optional(name));
    let through_drain = refusals.keep(table.at("through_drain").or(false, Field::truth));
    Some(Some(Persistence {
        timeout: timeout?,
        mask: mask?,
        mask_ipv6: mask_ipv6?,
        group: group?,
        through_drain: through_drain?,
    }))
}

/// How many bits of an address count: at least one.
fn bits(field: &Field<'_>, most: u8) -> Result<u8, Invalid> {
    field.number(1..=u32::from(most)).map(|bits| bits as u8)
}

const TIMEOUTS: Shape =
    Shape { known: &["established", "closing", "udp", "half_open"], later: &[] };

pub(super) fn timeouts(field: &Field<'_>, refusals: &mut Refusals) -> Option<Timeouts> {
    let table = field.table(&TIMEOUTS, refusals)?;
    let mut read = |name| {
        let time = table.at(name).optional(|field| duration(field, 1, 7 * 24 * HOUR));
        refusals.keep(time)
    };
    let [established, closing, udp, half_open] =
        ["established", "closing", "udp", "half_open"].map(&mut read);
    Some(Timeouts {
        established: established?,
        closing: closing?,
        udp: udp?,
        half_open: half_open?,
    })
}

const LIMITS: Shape = Shape {
    known: &["half_open", "new_flows", "new_flows_per_client", "client_mask", "client_mask_ipv6"],
    later: &[],
};

pub(super) fn limits(field: &Field<'_>, refusals: &mut Refusals) -> Option<Limits> {
    let table = field.table(&LIMITS, refusals)?;
    let usual = document::Limits::default();
    let number = |field: &Field<'_>| field.number(0..=HIGHEST_LIMIT);
    let half_open = refusals.keep(table.at("half_open").optional(number));
    let new_flows = refusals.keep(table.at("new_flows").or(usual.new_flows, number));
    let per_client = table.at("new_flows_per_client").or(usual.new_flows_per_client, number);
    let per_client = refusals.keep(per_client);
    let client_mask = table.at("client_mask").or(usual.client_mask, |field| bits(field, 32));
    let client_mask = refusals.keep(client_mask);
    let client_mask_ipv6 =
        table.at("client_mask_ipv6").or(usual.client_mask_ipv6, |field| bits(field, 128));
    let client_mask_ipv6 = refusals.keep(client_mask_ipv6);
    Some(Limits {
        half_open: half_open?,
        new_flows: new_flows?,
        new_flows_per_client: per_client?,
        client_mask: client_mask?,
        client_mask_ipv6: client_mask_ipv6?,
    })
}

pub(super) fn slow_start(field: &Field<'_>) -> Result<u32, Invalid> {
    duration(field, 0, HOUR)
}

/// A port by its number.
pub(super) fn port(field: &Field<'_>) -> Result<u16, Invalid> {
    field.number(1..=u32::from(u16::MAX)).map(|port| port as u16)
}

const PORTS: &str = "ports, such as \"80,443,8000-8010\", or \"1024:\" for those from 1024 on, \
                     or \"*\" for all";

pub(super) fn ports(field: &Field<'_>) -> Result<Ports, Invalid> {
    let text = field.text(4096, PORTS)?;
    if text == "*" {
        return Ok(Ports::all());
    }
    let ranges: Option<Vec<_>> = text.split(',').map(|range| port_range(range.trim())).collect();
    let mut ranges = ranges.ok_or_else(|| field.expected(PORTS))?;
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[1].0 <= pair[0].1) {
        return Err(field.expected("each port once"));
    }
    Ok(Ports(ranges))
}

/// `80`, `8000-8010`, `8000:8010` or `1024:` (VS-02).
fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = match text.split_once(':') {
        Some((first, "")) => (first, "65535"),
        Some(ends) => ends,
        None => text.split_once('-').unwrap_or((text, text)),
    };
    let (first, last) = (port_number(first)?, port_number(last)?);
    (first <= last).then_some((first, last))
}

/// `parse` alone would accept a plus sign.
fn port_number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|&port| plain && port > 0)
}

impl Ports {
    fn all() -> Self {
        Self(vec![(1, u16::MAX)])
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.ranges().map(|(first, last)| usize::from(last - first) + 1).sum()
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::all() {
            return f.write_str("*");
        }
        for (position, (first, last)) in self.ranges().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{}", Range(first, last))?;
        }
        Ok(())
    }
}

/// `80` or `8000-8010`.
pub(super) struct Range(pub u16, pub u16);

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(first, last) if first == last => write!(f, "{first}"),
            Self(first, last) => write!(f, "{first}-{last}"),
        }
    }
}
