//! What can be refused before anything is sent, in one form: which option, what was expected, what was found.

use std::fmt;

/// A text that is not what an option takes; the command line adds the option and the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected(pub String);

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.0)
    }
}

impl std::error::Error for Expected {}

/// Options that cannot be had together, or not on this device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option}: expected {expected}, found {found}")]
pub struct Invalid {
    /// As it is written on the command line, such as `--sizes`.
    pub option: &'static str,
    /// What would have been accepted, with an example or the bounds.
    pub expected: String,
    /// What was given.
    pub found: String,
}

impl Invalid {
    /// `option` was `found`, where `expected` is accepted.
    pub fn new(
        option: &'static str,
        expected: impl Into<String>,
        found: impl fmt::Display,
    ) -> Self {
        Self { option, expected: expected.into(), found: found.to_string() }
    }
}
