//! How fast: packets a second, bits a second, a share of the line rate, or as fast as it goes.

use std::fmt;
use std::str::FromStr;

use crate::error::Expected;

/// What every frame takes on an Ethernet wire besides itself, in bytes: preamble and start delimiter (8) and the
/// gap between frames (12), IEEE 802.3 sections 3.1.1 and 4.4.2.
pub const OVERHEAD: u64 = 20;

/// The frame check sequence, in bytes: part of a frame's size on the wire, and never seen in memory.
pub const CHECK: u64 = 4;

/// How fast to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// As fast as it goes.
    Most,
    /// Frames a second; above 0.
    PacketsPerSecond(f64),
    /// Bits on the wire a second, with [`OVERHEAD`] and [`CHECK`]; above 0.
    BitsPerSecond(f64),
    /// A share of the line rate, above 0 and up to 1.
    Share(f64),
}

impl Rate {
    /// Bits on the wire a second or frames a second, whichever this is, given the line's bits a second.
    pub fn pace(self, line: u64) -> Pace {
        match self {
            Self::Most => Pace::Unlimited,
            Self::PacketsPerSecond(rate) => Pace::Frames(rate),
            Self::BitsPerSecond(rate) => Pace::Bits(rate),
            Self::Share(share) => Pace::Bits(share * line as f64),
        }
    }
}

/// A rate for which the line's speed no longer matters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as it goes.
    Unlimited,
    /// Frames a second.
    Frames(f64),
    /// Bits on the wire a second.
    Bits(f64),
}

impl Pace {
    /// Frames a second when frames of the wire take `size` bytes each on average, check included.
    pub fn frames(self, size: f64) -> Option<f64> {
        match self {
            Self::Unlimited => None,
            Self::Frames(rate) => Some(rate),
            Self::Bits(rate) => Some(rate / bits_on_wire(size)),
        }
    }
}

/// Bits that a frame of `size` bytes, check included, takes on the wire.
pub fn bits_on_wire(size: f64) -> f64 {
    (size + OVERHEAD as f64) * 8.0
}

impl FromStr for Rate {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let refused = || {
            Expected(
                "a rate: packets a second such as 10k or 14.88M, bits a second on the wire such as 5Gbit, \
                 a share of the line rate such as 80%, or max"
                    .into(),
            )
        };
        if text == "max" {
            return Ok(Self::Most);
        }
        if let Some(share) = text.strip_suffix('%') {
            let share: f64 = plain(share).ok_or_else(refused)?;
            let fits = share > 0.0 && share <= 100.0;
            return if fits { Ok(Self::Share(share / 100.0)) } else { Err(refused()) };
        }
        for suffix in ["bit/s", "bps", "bit"] {
            if let Some(bits) = text.strip_suffix(suffix) {
                return positive(bits).map(Self::BitsPerSecond).ok_or_else(refused);
            }
        }
        let packets = text.strip_suffix("pps").unwrap_or(text);
        positive(packets).map(Self::PacketsPerSecond).ok_or_else(refused)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Most => f.write_str("max"),
            Self::PacketsPerSecond(rate) => write!(f, "{}pps", Scaled(*rate)),
            Self::BitsPerSecond(rate) => write!(f, "{}bit/s", Scaled(*rate)),
            Self::Share(share) => write!(f, "{:.4}%", share * 100.0),
        }
    }
}

/// A number with k, M or G, in three or four figures.
#[derive(Debug, Clone, Copy)]
pub struct Scaled(pub f64);

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0.abs() {
            1e9.. => (self.0 / 1e9, " G"),
            1e6.. => (self.0 / 1e6, " M"),
            1e3.. => (self.0 / 1e3, " k"),
            _ => (self.0, " "),
        };
        write!(f, "{value:.3}{unit}")
    }
}

/// A number above 0 with a suffix k, M or G or none, up to 10^15.
pub fn positive(text: &str) -> Option<f64> {
    scaled(text).filter(|value| *value > 0.0 && *value <= 1e15)
}

/// A whole number with a suffix k, M or G or none.
pub fn count(text: &str) -> Option<u64> {
    let value = scaled(text).filter(|value| *value >= 0.0 && *value <= 1e15)?;
    (value.fract() == 0.0).then_some(value as u64)
}

fn scaled(text: &str) -> Option<f64> {
    let (digits, factor) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1e3),
        b'M' => (&text[..text.len() - 1], 1e6),
        b'G' => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    plain(digits).map(|value| value * factor)
}

/// Digits, with a point among them perhaps: none of the other forms that Rust reads as numbers.
fn plain(text: &str) -> Option<f64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'_');
    if !digits {
        return None;
    }
    text.replace('_', "").parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written_in_the_manual() {
        let read = |text: &str| text.parse::<Rate>().unwrap();
        assert_eq!(read("10k"), Rate::PacketsPerSecond(10_000.0));
        assert_eq!(read("14.88Mpps"), Rate::PacketsPerSecond(14_880_000.0));
        assert_eq!(read("1_000"), Rate::PacketsPerSecond(1000.0));
        assert_eq!(read("5Gbit"), Rate::BitsPerSecond(5e9));
        assert_eq!(read("100Mbps"), Rate::BitsPerSecond(1e8));
        assert_eq!(read("1Gbit/s"), Rate::BitsPerSecond(1e9));
        assert_eq!(read("80%"), Rate::Share(0.8));
        assert_eq!(read("max"), Rate::Most);
    }

    #[test]
    fn impossible_rates_are_refused_with_an_example() {
        for text in [
            "",
            "0",
            "-1",
            "0%",
            "101%",
            "1e9",
            "NaN",
            "inf",
            "10x",
            "k",
            "%",
            "1.2.3",
            "9999999999G",
        ] {
            let refused = text.parse::<Rate>().expect_err(text).to_string();
            assert!(refused.contains("such as 10k"), "{text}: {refused}");
        }
    }

    #[test]
    fn ten_gigabits_are_14_88_million_of_the_smallest_frames() {
        let pace = Rate::Share(1.0).pace(10_000_000_000);
        assert!((pace.frames(64.0).unwrap() - 14_880_952.4).abs() < 0.1);
    }

    proptest! {
        #[test]
        fn any_text_is_a_rate_above_zero_or_refused(text in "[ -~]{0,12}") {
            match text.parse::<Rate>() {
                Ok(Rate::Most) => prop_assert_eq!(text, "max"),
                Ok(Rate::PacketsPerSecond(rate) | Rate::BitsPerSecond(rate)) => prop_assert!(rate > 0.0),
                Ok(Rate::Share(share)) => prop_assert!(share > 0.0 && share <= 1.0),
                Err(refused) => prop_assert!(refused.to_string().starts_with("expected a rate")),
            }
        }
    }
}
