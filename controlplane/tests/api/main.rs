//! The admin API as its clients meet it: a node in this process, with real rings, a real state
//! directory, a real Unix socket and a real TLS port, and nothing behind the rings but the test.

mod access;

mod alerts;

mod alerts_hostile;

mod client;

mod configuration;

mod events;

mod explain;

mod health;

mod hostile;

mod pages;

mod rig;

mod sinks;

mod state;

mod stations;

mod triggers;
