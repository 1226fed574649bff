//! Everything that may wait. The life of a configuration, in order:
//!
//! 1. [`field`]: the text as a tree of values, each with its path, so that all mistakes are told at once
//! 2. [`document`]: its shape as clients and the API description see it
//! 3. [`config`]: the same, in types that cannot hold a mistake
//! 4. [`store`]: what survives a restart
//! 5. [`identities`]: which slot each service and server has, the same from one configuration to the next
//! 6. [`compile`]: config and neighbours to the snapshot that workers read
//! 7. [`publish`]: given to the workers, whenever either has changed
//! 8. [`node`]: all of these held together, and what can be said about them ([`report`])
//!
//! What the workers hand over:
//!
//! - [`neighbours`]: whose hardware address is this, and who asks for ours
//! - [`echo`]: answers to pings of our own and the virtual addresses
//! - [`icmpv6`]: the messages of both, over IPv6
//!
//! What is asked of the servers, and what comes of it:
//!
//! - [`net`]: what questions travel over
//! - [`health`]: whether servers are well
//! - [`states`]: what is wanted of servers, what there is, and which flows they take
//! - [`agent`]: how idle servers are, and the weights that follow
//! - [`events`]: what changed, when and why
//! - [`pages`]: what answers where all servers have failed
//! - [`alerts`]: who is told, by mail or HTTP
//! - [`triggers`]: what is done about it
//! - [`script`]: programs of the operator's, which checks and triggers run
//!
//! Who talks to whom:
//!
//! - [`plumbing`]: the ends of the workers' rings and counters, handed over by the wiring
//! - [`control`]: the thread that turns the node, and its signals
//! - [`admin`]: the API, and [`client`], which asks it from the command line
//! - [`trust`]: whose certificates are good where we are the client
//!
//! Tests have servers that do as they are told from `testing`.

pub mod field;

pub mod document;

pub mod config;

pub mod store;

pub mod identities;

pub mod compile;

pub mod publish;

pub mod node;

pub mod report;

pub mod neighbours;

pub mod echo;

pub mod icmpv6;

pub mod net;

pub mod health;

pub mod states;

pub mod agent;

pub mod events;

pub mod pages;

pub mod alerts;

pub mod triggers;

pub mod script;

pub mod plumbing;

pub mod control;

pub mod admin;

pub mod client;

pub mod trust;

#[doc(hidden)]
pub mod testing;

/// Bytes that nobody can guess.
fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    // Without random numbers nothing that needs a secret may go on.
    aws_lc_rs::rand::fill(&mut bytes).expect("the kernel has random numbers");
    bytes
}
