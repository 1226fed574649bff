//! [`HugeSlice`]: large plain tables on DPDK's memory, which means on huge pages when there are any.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::{fmt, slice};

use nix::errno::Errno;
use zerocopy::FromZeros;

use crate::eal::{Eal, Runtime};
use crate::error::{Error, Reason, listen};
use crate::mempool::ANY_NODE;
use crate::sys;

/// A slice that begins as zeroes and on a cache line; its memory goes back to DPDK on drop.
/// `T`'s own `Drop`, should it have one, is not run.
pub struct HugeSlice<T> {
    first: NonNull<T>,
    count: usize,
    #[expect(dead_code, reason = "keeps DPDK running for as long as its memory is used")]
    runtime: Arc<Runtime>,
}

// SAFETY: the slice owns its elements as a `Box<[T]>` would.
unsafe impl<T: Send> Send for HugeSlice<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for HugeSlice<T> {}

impl<T: FromZeros> HugeSlice<T> {
    /// `count` zeroed elements on the memory of NUMA node `numa`, or wherever there is some.
    ///
    /// # Errors
    /// [`Error::Memory`] when DPDK has not that much in one piece.
    pub fn zeroed(eal: &Eal, count: usize, numa: Option<i32>) -> Result<Self, Error> {
        let what = || format!("{count} elements of {} bytes", size_of::<T>());
        let too_large = || Error::Memory {
            what: what(),
            reason: Reason::of(nix::errno::Errno::EOVERFLOW as i32),
        };
        let bytes = count.checked_mul(size_of::<T>()).ok_or_else(too_large)?;
        let align = align_of::<T>().max(sys::SHIM_CACHE_LINE as usize);
        let align = u32::try_from(align).map_err(|_| too_large())?;
        listen();
        // One byte at least, because DPDK answers NULL for none. The name is only for its dumps.
        // SAFETY: DPDK runs (`eal`); `align` is a power of two, as every Rust alignment is.
        let memory = unsafe {
            sys::rte_zmalloc_socket(
                c"table".as_ptr(),
                bytes.max(1),
                align,
                numa.unwrap_or(ANY_NODE),
            )
        };
        let none_left = || Error::Memory { what: what(), reason: Reason::of(Errno::ENOMEM as i32) };
        let first = NonNull::new(memory.cast()).ok_or_else(none_left)?;
        Ok(Self { first, count, runtime: eal.runtime().clone() })
    }
}

impl<T> Deref for HugeSlice<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `zeroed` got room for `count` elements, all valid as zeroes (`FromZeros`), and
        // this value alone owns them.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl<T> DerefMut for HugeSlice<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; `&mut self` keeps every other reader and writer out.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.count) }
    }
}

impl<T> Drop for HugeSlice<T> {
    fn drop(&mut self) {
        // SAFETY: from `rte_zmalloc_socket`, given back once, and DPDK still runs (the field).
        unsafe { sys::rte_free(self.first.as_ptr().cast()) };
    }
}

impl<T: fmt::Debug> fmt::Debug for HugeSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.deref().fmt(f)
    }
}
