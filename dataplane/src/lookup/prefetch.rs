//! Asks for a cache line before it is needed, so that a burst waits for memory once and not once
//! per packet. The instruction has no effect that a program can see; without it everything gives the
//! same answers, as every test on another processor shows.
#![allow(unsafe_code)]

/// Starts loading the cache line that `value` begins in.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing into the program and faults on no address; this one is
        // moreover that of a live reference.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
