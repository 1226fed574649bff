//! TCP, UDP and ICMP on the data ports, which belong to DPDK and not to the kernel: smoltcp between the workers' rings and
//! ordinary asynchronous code.
//!
//! - [`packet`]: bytes to packets and back
//! - [`paths`]: where packets of our own go, and what they leave with
//! - [`secrets`]: what nobody may guess
//! - [`engine`]: smoltcp, fed one packet and one connection at a time
//! - [`time_wait`]: connections that are over, but whose last segments may still be under way
//! - [`stack`]: all of these held together, with time as an argument
//! - [`connections`], [`conversations`]: what the stack knows of TCP, and of UDP and echo
//! - [`stream`]: what tasks hold
//! - [`egress`]: from the stack's packets to frames

mod packet;

mod paths;

mod secrets;

mod engine;

mod time_wait;

mod stack;

mod connections;

mod conversations;

mod stream;

mod egress;

pub use self::egress::{Egress, Station, Step};
pub use self::engine::Outgoing;
pub use self::paths::{Path, Paths};
pub use self::stack::{PORTS, Stack, StackStats};
pub use self::stream::{Datagrams, InBand, Listener, Stream};

#[cfg(test)]
mod tests;
