//! A keyed hash for tables that strangers fill: who does not know the key cannot choose what collides.
//! It is quick and no more; what must not be forged uses [`crate::defence::siphash`].

/// Bits of pi, so that a poor key still makes good hashes; the secrecy is in the key.
const SPREAD: [u64; 2] = [0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6c];

/// Hashes a few words under a key.
#[derive(Clone, Copy)]
pub struct Keyed([u64; 2]);

impl Keyed {
    /// `key` must be random.
    pub const fn new([first, second]: [u64; 2]) -> Self {
        Self([first ^ SPREAD[0], second ^ SPREAD[1]])
    }

    /// The hash of `words`; all its bits may be used.
    #[inline]
    pub fn of<const N: usize>(&self, words: [u64; N]) -> u64 {
        let Self([first, second]) = *self;
        let hash = words.into_iter().fold(first, |hash, word| folded(hash ^ word, second | 1));
        folded(hash, first | 1)
    }
}

/// Which of `count` places belongs to 32 bits of a hash; 0 if there is none.
#[inline]
pub fn place(bits: u32, count: usize) -> usize {
    ((u64::from(bits) * count as u64) >> 32) as usize
}

/// Both halves of the product, one over the other: each bit depends on most bits of both factors.
#[inline]
fn folded(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_words_are_spread_evenly_whatever_the_key() {
        for key in [[0, 0], [1, 2], [u64::MAX, u64::MAX]] {
            let hash = Keyed::new(key);
            for shift in [0, 32] {
                let mut counts = [0; 64];
                for word in 0..64_000 {
                    counts[place((hash.of([word, 7]) >> shift) as u32, 64)] += 1;
                }
                assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
            }
        }
    }

    #[test]
    fn another_key_makes_another_hash() {
        assert_ne!(Keyed::new([1, 2]).of([3]), Keyed::new([1, 4]).of([3]));
        assert_ne!(Keyed::new([1, 2]).of([3]), Keyed::new([2, 2]).of([3]));
        assert_ne!(Keyed::new([1, 2]).of([3, 4]), Keyed::new([1, 2]).of([4, 3]));
    }
}
