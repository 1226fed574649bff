//! Carries packets from the wire to a server and back. One file per step, in packet order:
//!
//! 1. [`worker`]: the loop that owns one core, its receive queues and its transmit queues
//! 2. [`parse`]: bytes to a flow, or to the control plane (ARP, ICMP), or out
//! 3. [`classify`]: the flow's destination to the service published there
//! 4. [`lookup`]: the server this flow already has, or a fresh choice
//! 5. [`rewrite`]: the headers that server expects: direct return, NAT or a tunnel
//! 6. [`transmit`]: back to the wire; what the queue refuses is counted and freed
//!
//! A worker takes no lock, makes no allocation and logs nothing. It meets the control plane
//! in three places only: it reads [`snapshot`], writes [`counters`] and hands over at [`punt`].
//!
//! [`explain`] takes a packet through the same steps and says what each decides, without doing it.
//!
//! Nothing here needs a driver: [`frame`] says what the steps ask of a packet buffer and of an
//! interface, [`wire`] reads and writes headers where they lie, and [`toeplitz`] knows at which
//! receive queue a card delivers a flow.

pub mod worker;

pub mod parse;

pub mod classify;

pub mod lookup;

pub mod rewrite;

pub mod transmit;

pub mod handover;

pub mod explain;

pub mod snapshot;

pub mod counters;

pub mod punt;

pub mod frame;

pub mod fragments;

pub mod defence;

pub mod wire;

pub mod toeplitz;

pub mod hash;

pub mod moment;

pub mod shared_map;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
