//! Everything that may wait: configuration, neighbours, the admin API.

pub mod plumbing;
