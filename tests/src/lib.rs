//! The finished appliance, driven from outside: a laboratory of network namespaces, the real
//! `sluice` program in it, and the people that a test talks about. Read in this order:
//!
//! 1. [`namespace`]: one machine of the laboratory, and how to do something on it
//! 2. [`lab`]: the machines and the wires between them
//! 3. [`server`]: a real server, which runs real nginx
//! 4. [`client`]: somebody who asks, and what they were answered
//! 5. [`appliance`]: `sluice run`, its configuration, its Unix socket, its end
//! 6. [`rig`]: all of these together, which is what most tests start from
//! 7. [`service`]: virtual services as a test writes them down
//! 8. [`web`]: a web server that a test kills
//! 9. [`capture`] and [`decode`]: what was on a wire, judged by a decoder that is not ours
//! 10. [`cable`]: an Ethernet cable into a virtual machine, and the stations on its other end
//! 11. [`trunk`]: a cable that carries several VLANs, and the switch on its other end
//! 12. [`books`]: frames in = frames out + drops by reason; asserted after every case
//! 13. [`held`]: what a program holds of the machine
//! 14. [`cases`]: several tests over one rig
//!
//! Everything here is meant to be watched failing: helpers panic with a sentence that says what
//! was expected of whom.

#![deny(unsafe_code)]

pub mod namespace;

pub mod lab;

pub mod server;

pub mod agent;

pub mod systemd;

pub mod client;

pub mod appliance;

pub mod rig;

pub mod service;

pub mod web;

pub mod capture;

pub mod decode;

pub mod cable;

pub mod trunk;

pub mod books;

pub mod held;

pub mod cases;

pub mod http;

pub mod process;
