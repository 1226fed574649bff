//! Asks servers whether they are well.
//!
//! - [`probe`]: one question to one server, over any [`Net`](crate::net::Net)
//! - [`tally`]: from consecutive answers to a verdict
//! - [`engine`]: when each question is asked, and how many at once
//! - [`memory`]: who was down, for the next start
//! - [`passive`]: what clients' own connections tell, without asking

pub mod probe;

pub mod tally;

pub mod engine;

pub mod memory;

pub mod passive;
