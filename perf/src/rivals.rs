//! Suite `rivals`: what others do with the same frames on the same machine in the same run, so that every figure is a
//! quotient. testpmd stands between the wires of suite `wire`; nftables and HAProxy stand in a laboratory of network
//! namespaces ([`lab`]), where clients and servers are real ([`peer`]), and so does the appliance ([`kernel`]).

pub mod kernel;

pub mod lab;

pub mod peer;

use anyhow::Result;
use clap::ValueEnum;

use crate::ground::{self, Memory};
use crate::outcome::Outcome;
use crate::wire::{self, Effort, Wire};

/// With whom the appliance is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Against {
    /// testpmd's macswap and io, on memif
    TestpmdMemif,
    /// testpmd's macswap and io, on vhost
    TestpmdVhost,
    /// nftables and HAProxy, on veth
    Kernel,
}

/// Measures both sides, in this process.
///
/// # Errors
/// If a rival cannot be started, or somebody interrupts.
pub fn run(against: Against, effort: Effort, outcome: &mut Option<Outcome>) -> Result<()> {
    let on_wire = |wire: Wire, outcome: &mut Option<Outcome>| {
        let started = ground::start(Memory::Plain, 0, effort.other_core())?;
        let outcome = outcome.insert(Outcome::new(effort.memory == Memory::Huge));
        wire::against_testpmd(&started.ground, wire, effort, outcome)
    };
    match against {
        Against::TestpmdMemif => on_wire(Wire::Memif, outcome),
        Against::TestpmdVhost => on_wire(Wire::Vhost, outcome),
        Against::Kernel => kernel::run(effort, outcome.insert(Outcome::new(false))),
    }
}
