//! Header views, one protocol a file and no policy: a fixed-size array carries the proof of
//! length, so that field access needs no check, cannot panic and copies nothing.

pub mod address;

pub mod ethernet;

pub mod ipv4;

pub mod ipv6;

pub mod protocol;

pub mod options;

pub mod tcp;

pub mod udp;

pub mod gue;

pub mod icmp;

pub mod icmpv6;

pub mod quoted;

pub mod checksum;

pub use address::{Address, Family, Prefix};
pub use ethernet::Mac;

/// Why bytes are not the header that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer bytes than the header has, or than it says follow.
    Truncated,
    /// A field that fixes the shape of the header has a value it cannot have.
    Impossible,
}
