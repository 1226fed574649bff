//! Suite `step`: the whole pipeline and each of its steps, from the bytes of a received burst to frames that are
//! ready to transmit, on one core and without a driver.

mod cases;

mod run;

mod special;

pub mod stages;

use anyhow::Result;

pub use cases::{Case, Chosen, Selection, Special, chosen};
pub use run::profile;

use crate::results::Record;
use crate::rig::Ground;

/// Measures all that was chosen, `runs` times each; `report` is given each result as soon as it is there.
///
/// # Errors
/// If a frame does not get through.
pub fn run(
    ground: &Ground,
    chosen: &Chosen,
    runs: usize,
    mut report: impl FnMut(Record),
) -> Result<()> {
    run::run(ground, &chosen.forward, runs, &mut report)?;
    special::run(ground, &chosen.special, runs, &mut report)
}
