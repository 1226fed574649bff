//! Arrays that a worker has from its first moment to its last: on huge pages when a driver brings
//! them, on the heap in tests.

use std::ops::{Deref, DerefMut};

use zerocopy::FromZeros;

/// Where slabs come from.
pub trait Memory {
    /// An array of `len` zeroed values.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn slab<T: FromZeros>(&self, len: usize) -> Result<Slab<T>, OutOfMemory>;
}

/// The heap.
pub struct Heap;

impl Memory for Heap {
    fn slab<T: FromZeros>(&self, len: usize) -> Result<Slab<T>, OutOfMemory> {
        <[T]>::new_box_zeroed_with_elems(len).map(Slab::Heap).map_err(|_| OutOfMemory::of::<T>(len))
    }
}

/// The memory that the drivers' packet buffers come from: huge pages, if there are any.
#[cfg(feature = "dpdk")]
pub struct Huge<'e> {
    /// Who has it.
    pub eal: &'e dpdk_sys::Eal,
    /// The node that the worker's core is on; `None` where it does not matter.
    pub numa: Option<i32>,
}

#[cfg(feature = "dpdk")]
impl Memory for Huge<'_> {
    fn slab<T: FromZeros>(&self, len: usize) -> Result<Slab<T>, OutOfMemory> {
        dpdk_sys::HugeSlice::zeroed(self.eal, len, self.numa)
            .map(Slab::Huge)
            .map_err(|_| OutOfMemory::of::<T>(len))
    }
}

/// No memory for a table of this many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// What was asked for.
    pub bytes: usize,
}

impl OutOfMemory {
    fn of<T>(len: usize) -> Self {
        Self { bytes: len.saturating_mul(size_of::<T>()) }
    }
}

/// An array of fixed length, zeroed at first.
pub enum Slab<T> {
    /// On the heap.
    Heap(Box<[T]>),
    /// On huge pages.
    #[cfg(feature = "dpdk")]
    Huge(dpdk_sys::HugeSlice<T>),
}

impl<T> Deref for Slab<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match self {
            Self::Heap(values) => values,
            #[cfg(feature = "dpdk")]
            Self::Huge(values) => values,
        }
    }
}

impl<T> DerefMut for Slab<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::Heap(values) => values,
            #[cfg(feature = "dpdk")]
            Self::Huge(values) => values,
        }
    }
}
