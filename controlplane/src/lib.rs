//! Everything that may wait. The life of a configuration, in order:
//!
//! 1. [`field`]: the text as a tree of values, each with its path, so that all mistakes are told at once
//! 2. [`document`]: its shape as clients and the API description see it
//! 3. [`config`]: the same, in types that cannot hold a mistake
//! 4. [`identities`]: which slot each service and server has, the same from one configuration to the next
//! 5. [`compile`]: config and neighbours to the snapshot that workers read
//!
//! Beside it, what the workers hand over:
//!
//! - [`neighbours`]: whose hardware address is this, and who asks for ours
//! - [`echo`]: answers to pings of our own and the virtual addresses

pub mod field;

pub mod document;

pub mod config;

pub mod identities;

pub mod compile;

pub mod neighbours;

pub mod echo;
