//! Carries packets from the wire to a server and back.

pub mod counters;
pub mod moment;
pub mod punt;
pub mod snapshot;
pub mod wire;
