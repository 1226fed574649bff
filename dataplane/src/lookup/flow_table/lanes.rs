//! Compares the eight signatures of a bucket at once, in five instructions where plain code takes some forty.
//! The plain code is here too, for other processors and to be compared with.
#![allow(unsafe_code)]

use super::bucket::WAYS;

/// Which of the lanes are `wanted`, as bits.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn equal(lanes: [u16; WAYS], wanted: u16) -> u8 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
        _mm_setzero_si128,
    };
    let lanes: __m128i = zerocopy::transmute!(lanes);
    // SAFETY: the instructions take and give values alone, and are of SSE2, which every processor of this
    // architecture has.
    unsafe {
        let same = _mm_cmpeq_epi16(lanes, _mm_set1_epi16(wanted.cast_signed()));
        _mm_movemask_epi8(_mm_packs_epi16(same, _mm_setzero_si128())) as u8
    }
}

/// Which of the lanes are `wanted`, as bits.
#[cfg(not(target_arch = "x86_64"))]
pub use equal_plainly as equal;

/// The same without such instructions.
#[cfg(any(test, not(target_arch = "x86_64")))]
pub fn equal_plainly(lanes: [u16; WAYS], wanted: u16) -> u8 {
    lanes.iter().enumerate().map(|(lane, &it)| u8::from(it == wanted) << lane).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lanes_compared_at_once_are_equal_when_they_are_one_by_one(
            lanes in prop::array::uniform8(prop_oneof![0u16..4, any::<u16>()]),
            other in prop_oneof![0u16..4, any::<u16>()],
        ) {
            for wanted in lanes.into_iter().chain([other, 0]) {
                prop_assert_eq!(equal(lanes, wanted), equal_plainly(lanes, wanted));
            }
        }
    }
}
