//! Asks servers whether they are well.
//!
//! - [`probe`]: one question to one server, over any [`Net`](crate::net::Net)

pub mod probe;
