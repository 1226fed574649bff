//! One cache line of the index: eight 16-bit signatures, compared at once, and eight positions.

use zerocopy::FromZeros;

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
    /// The slots with this signature, as bits. Four lanes at a time in plain registers: compilers make
    /// half vectors and half branches of the loop that says the same.
    #[inline]
    pub fn matching(&self, signature: u16) -> u8 {
        const LOW: u64 = 0x7fff_7fff_7fff_7fff;
        const EACH: u64 = 0x0001_0001_0001_0001;
        // Bits 0, 16, 32 and 48 to bits 48 to 51; no two products meet there.
        const GATHER: u64 = 1 << 48 | 1 << 33 | 1 << 18 | 1 << 3;
        let [a, b, c, d, e, f, g, h] = self.signatures.map(u64::from);
        let halves = [a | b << 16 | c << 32 | d << 48, e | f << 16 | g << 32 | h << 48];
        let [low, high] = halves.map(|half| {
            let different = half ^ (u64::from(signature) * EACH);
            let same = !(((different & LOW) + LOW) | different | LOW); // the top bit of each lane
            ((same >> 15).wrapping_mul(GATHER) >> 48) as u8 & 0x0f
        });
        low | high << 4
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
