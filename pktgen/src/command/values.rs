//! Values that have no file of their own.

use std::time::Duration;

use dataplane::wire::Mac;

use crate::error::Expected;
use crate::frame::Protocol;
use crate::rate;

pub(super) fn line_rate(text: &str) -> Result<u64, Expected> {
    let bits = text.strip_suffix("bit").unwrap_or(text);
    let bits = rate::count(bits).filter(|bits| (1_000..=1_000_000_000_000).contains(bits));
    bits.ok_or_else(|| Expected("bits a second from 1k to 1000G, such as 10G".into()))
}

pub(super) fn flows(text: &str) -> Result<u32, Expected> {
    let flows = rate::count(text).and_then(|flows| u32::try_from(flows).ok());
    flows
        .ok_or_else(|| Expected("a whole number of flows from 1 to 10M, such as 1000 or 1M".into()))
}

pub(super) fn frames(text: &str) -> Result<u64, Expected> {
    let frames = rate::count(text).filter(|frames| *frames > 0);
    frames.ok_or_else(|| Expected("a whole number of frames above 0, such as 1000 or 1M".into()))
}

pub(super) fn protocol(text: &str) -> Result<Protocol, Expected> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "icmp" => Ok(Protocol::Icmp),
        _ => Err(Expected("tcp, udp or icmp".into())),
    }
}

pub(super) fn mac(text: &str) -> Result<Mac, Expected> {
    text.parse().map_err(|_| Expected("a hardware address such as 02:00:00:00:00:01".into()))
}

pub(super) fn percent(text: &str) -> Result<f64, Expected> {
    percent_or_none(text)
        .ok()
        .filter(|percent| *percent > 0.0)
        .ok_or_else(|| Expected("per cent above 0 and up to 100, such as 0.5".into()))
}

pub(super) fn percent_or_none(text: &str) -> Result<f64, Expected> {
    let text = text.strip_suffix('%').unwrap_or(text);
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let percent = text.parse().ok().filter(|percent| digits && (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| Expected("per cent from 0 to 100, such as 0.1".into()))
}

/// As everywhere in Sluice: `300` are seconds, or `500ms`, `10s`, `5m`, `6h`.
pub(super) fn duration(text: &str) -> Result<Duration, Expected> {
    let refused = || Expected("a time from 1ms to 1000h, such as 10, 10s, 500ms, 5m or 1h".into());
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (digits, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1.0));
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds = digits.parse::<f64>().ok().filter(|_| plain).ok_or_else(refused)? * unit;
    if (0.001..=3.6e6).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(refused())
    }
}
