//! Everything that may wait. The life of a configuration, in order:
//!
//! 1. [`field`]: the text as a tree of values, each with its path, so that all mistakes are told at once
//! 2. [`document`]: its shape as clients and the API description see it
//! 3. [`config`]: the same, in types that cannot hold a mistake
//!
//! Beside it, what the workers hand over:
//!
//! - [`neighbours`]: whose hardware address is this, and who asks for ours
//! - [`echo`]: answers to pings of our own and the virtual addresses

pub mod field;

pub mod document;

pub mod config;

pub mod neighbours;

pub mod echo;
