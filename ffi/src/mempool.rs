//! [`Mempool`]: where packet buffers come from and go back to.

use std::ptr::NonNull;
use std::sync::Mutex;

use arrayvec::ArrayVec;

use crate::eal::{Eal, c_string};
use crate::error::{Error, Reason, listen};
use crate::{Mbuf, sys};

/// A fixed number of packet buffers of one size. Clones are handles to the same buffers, and the
/// buffers are there until the process ends (see the crate's documentation).
#[derive(Debug, Clone)]
pub struct Mempool {
    pool: NonNull<sys::rte_mempool>,
    buffers: u32,
    room: u16,
}

// SAFETY: DPDK's pools are made for use by many threads at once, and this one never goes away.
unsafe impl Send for Mempool {}
// SAFETY: as above; every method is one of DPDK's thread-safe pool functions.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// `buffers` buffers for frames of up to `room` bytes, with [`Mbuf::HEADROOM`] bytes in front
    /// of each; on the memory of NUMA node `numa`, or wherever there is some.
    ///
    /// Threads made by [`crate::lcore::spawn_pinned`], and the control thread, each keep some free
    /// buffers to themselves (256 of a pool of 4096 or more; none of a pool below 512), so reckon
    /// with those when choosing `buffers`.
    ///
    /// # Errors
    /// [`Error::Memory`] when DPDK has not that much, or `buffers` is 0.
    pub fn new(
        eal: &Eal,
        name: &str,
        buffers: u32,
        room: u16,
        numa: Option<i32>,
    ) -> Result<Self, Error> {
        let cached = match buffers {
            4096.. => 256,
            512.. => 32,
            _ => 0,
        };
        let size = room.checked_add(Mbuf::HEADROOM as u16).ok_or(Error::Malformed {
            what: "room of a packet buffer",
            expected: "at most 65407 bytes",
            found: room.to_string(),
        })?;

        let unique = c_string("name of a pool", unique_name(name))?;
        listen();
        // SAFETY: DPDK runs (`eal`), copies the name, and has checks for every number.
        let pool = unsafe {
            sys::rte_pktmbuf_pool_create(
                unique.as_ptr(),
                buffers,
                cached,
                0,
                size,
                numa.unwrap_or(ANY_NODE),
            )
        };
        let what = || format!("{buffers} packet buffers of {size} bytes");
        let pool = NonNull::new(pool)
            .ok_or_else(|| Error::Memory { what: what(), reason: Reason::latest() })?;
        eal.runtime().keep_for_ever();
        Ok(Self { pool, buffers, room })
    }

    /// An empty frame, unless all buffers are in use.
    #[inline]
    pub fn allocate(&self) -> Option<Mbuf> {
        // SAFETY: the pool exists for ever; what it hands out is nobody else's.
        let buffer = unsafe { sys::shim_mbuf_alloc(self.pool.as_ptr()) };
        // SAFETY: a buffer fresh from its pool has one segment and one owner.
        NonNull::new(buffer).map(|buffer| unsafe { Mbuf::own(buffer) })
    }

    /// Adds `count` empty frames, in one call to DPDK; `false`, and no change, if not all of them are
    /// free or there is no room for them in `into`.
    #[inline]
    pub fn allocate_bulk<const N: usize>(
        &self,
        count: usize,
        into: &mut ArrayVec<Mbuf, N>,
    ) -> bool {
        if count == 0 || count > into.remaining_capacity() {
            return count == 0;
        }
        let held = into.len();
        // SAFETY: there is room for `count` more elements behind those held.
        let free = unsafe { into.as_mut_ptr().add(held) };
        // SAFETY: the pool exists for ever, and `Mbuf` is a pointer to a buffer (`repr(transparent)`).
        let got =
            unsafe { sys::shim_mbuf_alloc_bulk(self.pool.as_ptr(), free.cast(), count as u32) };
        if got == 0 {
            return false;
        }
        // SAFETY: the pool filled `count` of them with buffers of one segment that nobody else has.
        unsafe { into.set_len(held + count) };
        true
    }

    /// A frame with these bytes, unless all buffers are in use or it does not fit in one.
    pub fn allocate_from(&self, bytes: &[u8]) -> Option<Mbuf> {
        let mut frame = self.allocate()?;
        frame.append(bytes.len())?.copy_from_slice(bytes);
        Some(frame)
    }

    /// How many buffers are free, those that threads keep to themselves included. Exact only
    /// while no other thread allocates or frees.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool exists for ever, and counting only reads.
        unsafe { sys::rte_mempool_avail_count(self.pool.as_ptr()) }
    }

    /// How many buffers there are.
    pub fn capacity(&self) -> u32 {
        self.buffers
    }

    /// The longest frame, in bytes, that fits in one buffer behind its headroom.
    pub fn room(&self) -> u16 {
        self.room
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.pool.as_ptr()
    }
}

/// DPDK's `SOCKET_ID_ANY`.
pub(crate) const ANY_NODE: i32 = -1;

/// DPDK wants names of at most 25 bytes, each used once.
fn unique_name(name: &str) -> String {
    static MADE: Mutex<u32> = Mutex::new(0);
    let mut made = MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    *made += 1;
    let kept: String = name.chars().filter(char::is_ascii_graphic).take(14).collect();
    format!("{kept}-{made}")
}
