//! Makes traffic and measures what comes back. In the order of a run:
//!
//! 1. [`profile`]: what to send ([`rate`], [`size`], [`choice`], [`addresses`]), judged before anything is sent
//! 2. [`send`]: which packets, when ([`pace`]), made from templates ([`frame`]), each with a [`stamp`]
//! 3. [`receive`]: the stamp found again whatever happened to the packet ([`parse`]), and what is missing ([`track`])
//!    and questions for hardware addresses answered ([`neighbours`])
//! 4. [`generator`]: both together, on one core or two; [`progress`] says how far it is
//! 5. [`measurement`]: what a run has shown, as plain data
//!
//! Around them, what a run of the program is made of:
//!
//! 6. [`ports`]: devices opened and given back
//! 7. [`calibrate`]: what the generator itself can do here
//! 8. [`rfc2544`], [`cps`] and [`replay`]: the other ways to measure
//! 9. [`session`]: what was asked for ([`command`]), done on a core of its own, while somebody watches ([`view`])
//! 10. [`report`]: results as they are written down ([`output`]): lines ([`summary`]), JSON, and a page ([`html`])
//!     with plots ([`plot`])
//!
//! A loop takes no lock, makes no allocation and logs nothing.

#![forbid(unsafe_code)]

pub mod profile;

pub mod rate;

pub mod size;

pub mod choice;

pub mod addresses;

pub mod send;

pub mod pace;

pub mod frame;

pub mod stamp;

pub mod receive;

pub mod parse;

pub mod track;

pub mod neighbours;

pub mod generator;

pub mod progress;

pub mod measurement;

pub mod ports;

pub mod calibrate;

pub mod rfc2544;

pub mod cps;

pub mod replay;

pub mod session;

pub mod command;

pub mod view;

pub mod report;

pub mod output;

pub mod summary;

pub mod html;

pub mod plot;

pub mod error;

mod memory;

mod random;
