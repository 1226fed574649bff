//! Asks servers whether they are well.
//!
//! - [`probe`]: one question to one server, over any [`Net`](crate::net::Net)
//! - [`passive`]: what clients' own connections tell, without asking

pub mod passive;

pub mod probe;
