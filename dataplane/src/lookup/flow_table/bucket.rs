//! One cache line of the index: eight 16-bit signatures, compared at once, and eight positions.

use zerocopy::FromZeros;

use super::lanes;

/// Slots in a bucket.
pub const WAYS: usize = 8;

/// A bucket of the index.
#[derive(Clone, Copy, FromZeros)]
#[repr(C, align(64))]
pub struct Bucket {
    /// 0 is an empty slot.
    pub signatures: [u16; WAYS],
    /// Where the entry of each slot is.
    pub positions: [u32; WAYS],
    /// How many keys that belong here lie in their other bucket.
    pub spilled: u32,
    pub unused: [u32; 3],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// The slots with this signature, as bits.
    #[inline]
    pub fn matching(&self, signature: u16) -> u8 {
        lanes::equal(self.signatures, signature)
    }

    /// Puts a key into an empty slot, if there is one.
    pub fn put(&mut self, signature: u16, position: u32) -> bool {
        let empty = self.matching(0);
        if empty != 0 {
            let slot = empty.trailing_zeros() as usize;
            self.signatures[slot] = signature;
            self.positions[slot] = position;
        }
        empty != 0
    }
}
