//! How large: sizes of frames on the wire, from the Ethernet header to the check sequence.

use std::fmt;
use std::str::FromStr;

use crate::error::Expected;

/// The smallest Ethernet frame, in bytes with its check sequence (IEEE 802.3 section 4.4.2).
pub const LEAST: u16 = 64;

/// The largest size that is read at all, in bytes; the MTU says what is possible.
pub const MOST: u16 = 9234;

/// Frame sizes for [RFC 2544 section 9.1](https://www.rfc-editor.org/rfc/rfc2544#section-9.1), in bytes.
pub const RFC_2544: [u16; 7] = [64, 128, 256, 512, 1024, 1280, 1518];

/// "Simple IMIX": 7 small, 4 medium and 1 large frame.
pub const IMIX: [u16; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64];

/// Sizes of frames in bytes, check sequence included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sizes {
    /// These in turn; one alone is a fixed size.
    InTurn(Vec<u16>),
    /// Any between these two, all as likely.
    Between(u16, u16),
    /// [`IMIX`].
    Imix,
}

impl Sizes {
    /// Frames of one size.
    pub fn fixed(size: u16) -> Self {
        Self::InTurn(vec![size])
    }

    /// Every size that occurs, in the order of its number.
    pub fn distinct(&self) -> Vec<u16> {
        let mut sizes = match self {
            Self::InTurn(sizes) => sizes.clone(),
            Self::Between(least, most) => (*least..=*most).collect(),
            Self::Imix => IMIX.to_vec(),
        };
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// One round: the sizes in the order in which they are sent. A range is a round of random draws.
    pub fn round(&self, mut random: impl FnMut() -> u64) -> Vec<u16> {
        const DRAWS: usize = 4096;
        match self {
            Self::InTurn(sizes) => sizes.clone(),
            Self::Imix => IMIX.to_vec(),
            Self::Between(least, most) => {
                let choices = u64::from(most - least) + 1;
                (0..DRAWS).map(|_| least + (random() % choices) as u16).collect()
            }
        }
    }

    /// The average, in bytes.
    pub fn mean(&self) -> f64 {
        match self {
            Self::InTurn(sizes) => average(sizes),
            Self::Between(least, most) => f64::from(least + most) / 2.0,
            Self::Imix => average(&IMIX),
        }
    }
}

fn average(sizes: &[u16]) -> f64 {
    sizes.iter().map(|size| f64::from(*size)).sum::<f64>() / sizes.len().max(1) as f64
}

impl FromStr for Sizes {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let refused = || {
            Expected(format!(
                "frame sizes of {LEAST} to {MOST} bytes, check sequence included: one such as 64, a list such as \
                 64,512,1518, a range such as 64-1518, or imix"
            ))
        };
        let size = |text: &str| -> Result<u16, Expected> {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let size = text.parse().ok().filter(|_| digits).ok_or_else(refused)?;
            if (LEAST..=MOST).contains(&size) { Ok(size) } else { Err(refused()) }
        };
        if text == "imix" {
            return Ok(Self::Imix);
        }
        if let Some((least, most)) = text.split_once('-') {
            let (least, most) = (size(least)?, size(most)?);
            return if least <= most { Ok(Self::Between(least, most)) } else { Err(refused()) };
        }
        let sizes: Vec<u16> = text.split(',').map(size).collect::<Result<_, _>>()?;
        if sizes.len() > 64 {
            return Err(refused());
        }
        Ok(Self::InTurn(sizes))
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InTurn(sizes) => {
                let sizes: Vec<_> = sizes.iter().map(u16::to_string).collect();
                f.write_str(&sizes.join(","))
            }
            Self::Between(least, most) => write!(f, "{least}-{most}"),
            Self::Imix => f.write_str("imix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written_in_the_manual() {
        let read = |text: &str| text.parse::<Sizes>().unwrap();
        assert_eq!(read("64"), Sizes::fixed(64));
        assert_eq!(read("64,1518"), Sizes::InTurn(vec![64, 1518]));
        assert_eq!(read("64-128"), Sizes::Between(64, 128));
        assert_eq!(read("imix").distinct(), [64, 594, 1518]);
    }

    #[test]
    fn impossible_sizes_are_refused_with_the_bounds() {
        for text in ["", "63", "9235", "128-64", "64,", "64-", "-64", "+64", "a", "64;128"] {
            let refused = text.parse::<Sizes>().expect_err(text).to_string();
            assert!(refused.contains("64 to 9234 bytes"), "{text}: {refused}");
        }
    }

    #[test]
    fn imix_is_seven_four_and_one() {
        let of = |size| IMIX.iter().filter(|found| **found == size).count();
        assert_eq!([of(64), of(594), of(1518)], [7, 4, 1]);
        assert!((Sizes::Imix.mean() - 361.833).abs() < 0.001);
    }

    #[test]
    fn a_range_draws_from_end_to_end() {
        let mut state = 1u64;
        let round = Sizes::Between(64, 67).round(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 33
        });
        for size in 64..=67 {
            assert!(round.iter().filter(|found| **found == size).count() > 900, "{size}");
        }
        assert!(round.iter().all(|size| (64..=67).contains(size)));
    }

    proptest! {
        #[test]
        fn any_text_is_sizes_within_the_bounds_or_refused(text in "[0-9,imx-]{0,14}") {
            match text.parse::<Sizes>() {
                Ok(sizes) => prop_assert!(sizes.distinct().iter().all(|size| (LEAST..=MOST).contains(size))),
                Err(refused) => prop_assert!(refused.to_string().starts_with("expected frame sizes")),
            }
        }
    }
}
