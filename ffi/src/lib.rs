//! DPDK behind safe owned types; the only crate with `unsafe`. In the order of a program's life:
//!
//! 1. [`eal`]: DPDK started once, its memory and its control core
//! 2. [`mempool`]: where packet buffers come from and go back to
//! 3. [`mbuf`]: one owned packet buffer
//! 4. [`port`]: ports opened, and whole bursts in and out of their queues
//! 5. [`lcore`]: a closure on one pinned core, and that core's clock
//! 6. [`huge_slice`]: large plain tables on DPDK's memory
//! 7. [`descriptors`]: what programs that we start do not inherit
//! 8. [`error`]: DPDK's errno values as errors with a name and a remedy
//!
//! # Who owns what
//!
//! Every SAFETY comment in this crate relies on one of these rules:
//!
//! - **Started.** An [`Eal`] exists only after `rte_eal_init` succeeded, which is tried once per
//!   process. Ports, slices and pinned threads hold the same counted token, and only when the last
//!   of them is gone is DPDK shut down.
//! - **Pools are for ever.** A pool's memory is never given back while the process lives, and DPDK
//!   is not shut down once a pool has been made. An [`Mbuf`] therefore needs no count and no
//!   lifetime: what it points at cannot go away. (The kernel takes the memory back when the process
//!   ends, however it ends: none of it has a name in a file system.)
//! - **A buffer has one owner.** An [`Mbuf`] is made by [`Mempool::allocate`] or
//!   [`ReceiveQueue::receive`] from a pointer that DPDK just handed over, and given up once: by
//!   `Drop` to its pool, or by [`TransmitQueue::transmit`] to the driver.
//! - **Any thread may give it up.** Pools are made for many producers and consumers (DPDK's
//!   `ring_mp_mc`), and what a thread keeps to itself is found by the thread that frees, not by the
//!   buffer. No driver is told otherwise: `RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE` is not asked for.
//! - **A queue has one owner.** A port's queues are made once, by [`Port::start`], and are neither
//!   `Clone` nor usable through `&`: each goes to its worker's thread as a value. Each keeps its
//!   port alive; the port is stopped and closed by whoever lets go last, so a queue is never polled
//!   on a stopped port.
//! - **Control calls take turns.** Whatever opens, configures, asks or closes a port holds one
//!   lock, because DPDK's control functions expect one caller at a time.

pub mod eal;

pub mod mempool;

pub mod mbuf;

pub mod port;

pub mod lcore;

pub mod huge_slice;

pub mod descriptors;

pub mod error;

mod sys;

pub use eal::{Eal, EalOptions, LogLevel, Memory};
pub use error::Error;
pub use huge_slice::HugeSlice;
pub use mbuf::Mbuf;
pub use mempool::Mempool;
pub use port::{
    Device, HASH_KEY, Hashes, Link, Port, PortSettings, ReceiveQueue, Reception, Spreading,
    StartedPort, Statistics, TransmitQueue,
};
