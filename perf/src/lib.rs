//! How fast the data plane is. In the order in which a benchmark needs them:
//!
//! 1. [`command`]: what is asked for; [`interrupt`]: until somebody has had enough
//! 2. [`ground`]: DPDK started on [`pages`] that are given back; [`moments`] is the workers' clock
//! 3. [`traffic`]: the frames, and the services that they are for; [`random`] says which flow is next
//! 4. [`parts`]: a worker as the appliance makes one
//! 5. [`belt`]: wires that cost next to nothing; [`rig`]: a worker between them, and rounds of frames
//! 6. [`step`]: the pipeline and its steps, in nanoseconds for each packet
//!    [`sealed`]: the same with every system call forbidden
//! 7. [`wire`]: a device between two wires, drivers included; [`http`] speaks to the appliance
//! 8. [`rivals`]: others in its place; [`suites`]: everything, one after another
//! 9. [`results`]: what came of it, on which [`machine`]; [`budgets`]: what should have
//! 10. [`outcome`]: shown as a [`table`], as [`markdown`], as a [`page`], and compared with a [`baseline`]

pub mod command;

pub mod interrupt;

pub mod ground;

pub mod pages;

pub mod moments;

pub mod traffic;

pub mod random;

pub mod parts;

pub mod belt;

pub mod rig;

pub mod step;

pub mod sealed;

pub mod wire;

pub mod http;

pub mod rivals;

pub mod suites;

pub mod results;

pub mod machine;

pub mod budgets;

pub mod outcome;

pub mod table;

pub mod markdown;

pub mod page;

pub mod baseline;
