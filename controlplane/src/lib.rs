//! Everything that may wait.

pub mod echo;
pub mod neighbours;
