//! [`Mbuf`]: one owned packet buffer.
//!
//! A frame's bytes are looked at several times per packet, and a call into the shim each time
//! would cost more than the look itself. So the few fields that matter are read in place: their
//! offsets are constants that the C compiler worked out from the installed headers (`shim.h`), and
//! `shim.c` asserts their widths. Rust knows no layout of its own, a different DPDK release gives
//! different constants, and [`Mbuf::bytes`] is three loads from one cache line.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::{fmt, slice};

use arrayvec::ArrayVec;

use crate::sys;

/// A packet buffer that this value alone owns; dropping it returns it to its pool.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: an `Mbuf` is the only way to its buffer (rule "A buffer has one owner"), and its pool takes
// it back on any thread (rule "Any thread may give it up").
unsafe impl Send for Mbuf {}
// SAFETY: through `&Mbuf` fields and bytes are only read.
unsafe impl Sync for Mbuf {}

/// A field of `struct rte_mbuf`: where it is, and what is there.
struct Field<T>(usize, PhantomData<T>);

impl<T> Field<T> {
    const fn at(offset: u32) -> Self {
        Self(offset as usize, PhantomData)
    }
}

/// Start of the memory in which the frame lies somewhere.
const BUFFER: Field<*mut u8> = Field::at(sys::SHIM_MBUF_BUF_ADDR);
const BUFFER_LENGTH: Field<u16> = Field::at(sys::SHIM_MBUF_BUF_LEN);
/// From the start of the buffer to the first byte of the frame.
const START: Field<u16> = Field::at(sys::SHIM_MBUF_DATA_OFF);
/// Bytes of the frame in this segment.
const LENGTH: Field<u16> = Field::at(sys::SHIM_MBUF_DATA_LEN);
/// Bytes of the frame in all segments.
const FRAME_LENGTH: Field<u32> = Field::at(sys::SHIM_MBUF_PKT_LEN);
const SEGMENTS: Field<u16> = Field::at(sys::SHIM_MBUF_NB_SEGS);
const FLAGS: Field<u64> = Field::at(sys::SHIM_MBUF_OL_FLAGS);
const VLAN: Field<u16> = Field::at(sys::SHIM_MBUF_VLAN_TCI);

impl Mbuf {
    /// Bytes kept free in front of every frame, for headers that are put there later.
    pub const HEADROOM: usize = sys::SHIM_HEADROOM as usize;

    /// # Safety
    /// `buffer` is the first segment of a frame, and the caller was its only owner.
    #[inline]
    pub(crate) unsafe fn own(buffer: NonNull<sys::rte_mbuf>) -> Self {
        Self(buffer)
    }

    /// The frame, from its Ethernet header to its last byte; of a chained frame, the first segment.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the driver or this module keeps START + LENGTH <= BUFFER_LENGTH, all of it memory
        // of the pool (or of the driver, for as long as the frame lives) that was zeroed when it
        // was mapped; `&self` keeps writers out.
        unsafe { slice::from_raw_parts(self.start(), self.len()) }
    }

    /// As [`Self::bytes`].
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`; `&mut self` keeps every other reader and writer out.
        unsafe { slice::from_raw_parts_mut(self.start(), self.len()) }
    }

    /// The length of [`Self::bytes`].
    #[inline]
    #[allow(clippy::len_without_is_empty)] // frames are not collections
    pub fn len(&self) -> usize {
        self.get(LENGTH).into()
    }

    /// The length of the whole frame, chained segments included.
    #[inline]
    pub fn frame_len(&self) -> usize {
        self.get(FRAME_LENGTH) as usize
    }

    /// Whether the frame goes on in further buffers, which only its driver and `Drop` know about.
    #[inline]
    pub fn is_chained(&self) -> bool {
        self.get(SEGMENTS) > 1
    }

    /// The 802.1Q tag that the driver took out of the frame, if it did (priority, DEI and VLAN).
    #[inline]
    pub fn stripped_vlan(&self) -> Option<u16> {
        let stripped = self.get(FLAGS) & u64::from(sys::SHIM_RX_VLAN_STRIPPED) != 0;
        stripped.then(|| self.get(VLAN))
    }

    /// Makes `count` bytes of room in front of the frame and returns them, with whatever they held
    /// before; `None`, and no change, if the headroom has not that much left.
    #[inline]
    pub fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        let start = self.get(START);
        let added = u16::try_from(count).ok().filter(|added| *added <= start)?;
        // START + LENGTH stays as it was, so neither sum can overflow.
        self.set(START, start - added);
        self.set(LENGTH, self.get(LENGTH) + added);
        self.set(FRAME_LENGTH, self.get(FRAME_LENGTH) + u32::from(added));
        self.bytes_mut().get_mut(..count)
    }

    /// Takes `count` bytes off the front; `false`, and no change, if there are fewer.
    #[inline]
    pub fn trim_front(&mut self, count: usize) -> bool {
        let length = self.get(LENGTH);
        let Some(taken) = u16::try_from(count).ok().filter(|taken| *taken <= length) else {
            return false;
        };
        self.set(START, self.get(START) + taken);
        self.set(LENGTH, length - taken);
        self.set(FRAME_LENGTH, self.get(FRAME_LENGTH) - u32::from(taken));
        true
    }

    /// Ends the frame after `length` bytes, and with it a chain; no change if [`Self::len`] is less.
    #[inline]
    pub fn truncate(&mut self, length: usize) {
        let Some(kept) = u16::try_from(length).ok().filter(|kept| *kept <= self.get(LENGTH)) else {
            return;
        };
        if self.is_chained() {
            // SAFETY: the chain is this frame's own; the shim gives back all but the first segment.
            unsafe { sys::shim_mbuf_unchain(self.0.as_ptr()) };
        }
        self.set(LENGTH, kept);
        self.set(FRAME_LENGTH, u32::from(kept));
    }

    /// Makes the frame `count` bytes longer and returns them, with whatever they held before;
    /// `None`, and no change, if the buffer has not that much left or the frame is chained.
    #[inline]
    pub fn append(&mut self, count: usize) -> Option<&mut [u8]> {
        let length = self.get(LENGTH);
        let left = self.get(BUFFER_LENGTH) - self.get(START) - length;
        let added =
            u16::try_from(count).ok().filter(|added| *added <= left && !self.is_chained())?;
        self.set(LENGTH, length + added);
        self.set(FRAME_LENGTH, self.get(FRAME_LENGTH) + u32::from(added));
        self.bytes_mut().get_mut(length.into()..)
    }

    /// Gives all of `frames` back to their pools in one call: the same as dropping each, but faster.
    #[inline]
    pub fn give_back<const N: usize>(frames: &mut ArrayVec<Mbuf, N>) {
        let count = frames.len();
        // SAFETY: they are forgotten here and belong to the call below alone.
        unsafe { frames.set_len(0) };
        // SAFETY: the first `count` elements are buffers that nobody can reach from here on, and `Mbuf`
        // is a pointer to a buffer (`repr(transparent)`).
        unsafe { sys::shim_mbuf_free_bulk(frames.as_mut_ptr().cast(), count as u32) }
    }

    /// Asks the processor to have the frame's first cache line at hand soon.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch has no effect that a program could see, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.start().cast()) };
        }
    }

    #[inline]
    fn start(&self) -> *mut u8 {
        // SAFETY: START <= BUFFER_LENGTH, so this stays inside the buffer or right behind it.
        unsafe { self.get(BUFFER).add(self.get(START).into()) }
    }

    #[inline]
    fn get<T: Copy>(&self, field: Field<T>) -> T {
        // SAFETY: the offset and the width are those of the C compiler, a live `rte_mbuf` is
        // cache-aligned with its fields naturally aligned, and `&self` keeps writers out.
        unsafe { self.0.as_ptr().byte_add(field.0).cast::<T>().read() }
    }

    #[inline]
    fn set<T: Copy>(&mut self, field: Field<T>, value: T) {
        // SAFETY: as for `get`; `&mut self` keeps every other reader and writer out.
        unsafe { self.0.as_ptr().byte_add(field.0).cast::<T>().write(value) }
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this value alone owned the buffer, and nothing can reach it from here on.
        unsafe { sys::shim_mbuf_free(self.0.as_ptr()) }
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("bytes", &self.bytes())
            .field("frame_len", &self.frame_len())
            .finish()
    }
}
