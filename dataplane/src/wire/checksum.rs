//! The Internet checksum (RFC 1071), and how to mend it when a field changes (RFC 1624).

use std::net::Ipv4Addr;

/// The checksum of `bytes`, as it stands in a header whose checksum field was zero. Over bytes that
/// include a right checksum the answer is 0.
#[inline]
pub fn of(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The ones' complement sum of 16-bit big-endian words; an odd last byte counts as the high half.
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let whole: u64 = words.iter().map(|&word| u64::from(u16::from_be_bytes(word))).sum();
    whole + rest.first().map_or(0, |&last| u64::from(last) << 8)
}

#[inline]
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What changed under a checksum: the sum of `~old + new` over the changed words, which is
/// equation 3 of RFC 1624 (the one that is right when the sum becomes zero).
#[derive(Debug, Clone, Copy, Default)]
pub struct Change(u64);

impl Change {
    /// One address became another.
    #[inline]
    pub fn of_address(from: Ipv4Addr, to: Ipv4Addr) -> Self {
        let (from, to) = (from.to_bits(), to.to_bits());
        Self::default().word((from >> 16) as u16, (to >> 16) as u16).word(from as u16, to as u16)
    }

    /// And one word, such as a port, became another.
    #[inline]
    pub fn word(self, from: u16, to: u16) -> Self {
        Self(self.0 + u64::from(!from) + u64::from(to))
    }

    /// The checksum after the change.
    #[inline]
    pub fn mend(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        assert_eq!(of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_mends_to_zero() {
        // Section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285.
        assert_eq!(Change::default().word(0x5555, 0x3285).mend(0xdd2f), 0x0000);
    }

    proptest! {
        #[test]
        fn a_mended_checksum_verifies_as_a_fresh_one_does(mut bytes in prop::collection::vec(any::<u8>(), 12..200), new: u32, at in 1usize..3) {
            bytes[0] = 0x45; // never all zeroes, as no header is
            bytes[2..4].fill(0);
            let checksum = of(&bytes);
            bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
            let field = at * 4..at * 4 + 4;
            let old = Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[field.clone()]).unwrap());
            let new = Ipv4Addr::from(new);
            bytes[field].copy_from_slice(&new.octets());
            let mended = Change::of_address(old, new).mend(checksum);
            bytes[2..4].copy_from_slice(&mended.to_be_bytes());
            prop_assert_eq!(of(&bytes), 0);
        }
    }
}
