//! What questions to all servers share.

use std::fmt;

/// What questions to all servers share; copies are the same tools.
#[derive(Clone)]
pub struct Tools {
    random: fn(&mut [u8]),
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tools")
    }
}

impl Default for Tools {
    fn default() -> Self {
        Self { random: |bytes| aws_lc_rs::rand::fill(bytes).expect("the system has random bytes") }
    }
}

impl Tools {
    /// Random bytes that a server cannot foretell.
    #[allow(dead_code)] // the kinds that need them follow
    pub(super) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.random)(&mut bytes);
        bytes
    }
}
