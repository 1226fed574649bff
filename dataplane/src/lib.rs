//! Carries packets from the wire to a server and back. One file per step, in packet order:
//!
//! 1. [`worker`]: the loop that owns one core, its receive queues and its transmit queues
//! 2. [`parse`]: bytes to a flow, or to the control plane (ARP, neighbour discovery, ICMP), or out;
//!    [`fragments`] knows the ports of the parts of a packet
//! 3. [`classify`]: what the packet is to us: for a service, to be translated back, passing through, or out
//! 4. [`lookup`]: the server this flow already has, or a fresh choice, within what [`defence`] allows
//! 5. [`rewrite`]: the headers that the next station expects: direct return, translation, a tunnel, or an
//!    answer of our own
//! 6. [`transmit`]: back to the wire; what the queue refuses is counted and freed
//!
//! A worker takes no lock, makes no allocation and logs nothing. It meets the control plane
//! in three places only: it reads [`snapshot`], writes [`counters`] and hands over at [`punt`].
//!
//! It meets its colleagues in three more. Frames of another worker's flow go over the rings of [`handover`].
//! Two maps without locks ([`shared_map`]) say which worker has a translated flow, and which server a client
//! had. And each reads how many connections the others count for a server. (Where a device has too few transmit
//! queues, its frames go over one more ring; that is the business of whoever makes the [`frame::Link`]s.)
//!
//! [`explain`] takes a packet through the same steps and says what each decides, without doing it.
//!
//! Nothing here needs a driver: [`frame`] says what the steps ask of a packet buffer and of an
//! interface, and [`wire`] reads and writes headers where they lie. [`toeplitz`] knows at which receive
//! queue a card delivers a flow, [`hash`] places things in tables that strangers fill, and [`moment`] is
//! the time. Tests have their wires and frames from `testing`.

pub mod worker;

pub mod parse;

pub mod fragments;

pub mod classify;

pub mod lookup;

pub mod defence;

pub mod rewrite;

pub mod transmit;

pub mod snapshot;

pub mod counters;

pub mod punt;

pub mod handover;

pub mod shared_map;

pub mod explain;

pub mod frame;

pub mod wire;

pub mod toeplitz;

pub mod hash;

pub mod moment;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
