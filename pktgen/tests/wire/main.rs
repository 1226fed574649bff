//! pktgen measuring devices whose behaviour is known: threads between two pairs of ports that drop, delay, swap,
//! duplicate, rewrite or encapsulate. What they do to which frame is counted, so what is measured must be exactly that.
//!
//! DPDK starts once per process, so all of this is one program, and its tests take turns: each wants a core.
#![forbid(unsafe_code)]

mod rig;

mod impairments;

mod rewriting;

mod searches;

mod connections;

mod generator;
