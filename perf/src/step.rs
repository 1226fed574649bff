//! Suite `step`: the whole pipeline and each of its steps, from the bytes of a received burst to frames that are
//! ready to transmit, on one core and without a driver.

mod cases;

mod run;

pub use cases::{Case, Selection, chosen};
pub use run::{profile, run};
