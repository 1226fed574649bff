//! What can go wrong, and what to do about it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use thiserror::Error;

/// Why the program ends with status 1.
#[derive(Debug, Error)]
pub enum Error {
    /// A port is taken, or is not ours to take.
    #[error("cannot listen on {at}: {why}")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// The kernel's word.
        why: io::Error,
    },
    /// Standard input is no socket that listens.
    #[error("standard input is no listening socket: {0}; is this started by a socket unit?")]
    NoSocket(io::Error),
    /// A file of the kernel's cannot be read.
    #[error("{path}: {why}")]
    Kernel {
        /// The file.
        path: String,
        /// The kernel's word.
        why: io::Error,
    },
    /// A kernel parameter cannot be set.
    #[error("cannot set {path} to {value}: {why}; {}", parameter_remedy(.why))]
    Parameter {
        /// Its file.
        path: String,
        /// What it was to be.
        value: String,
        /// The kernel's word.
        why: io::Error,
    },
    /// An address cannot be added to, or taken from, the loopback interface.
    #[error("cannot {what} {address} on lo: {why}{}", remedy(.address, *.why))]
    Address {
        /// `add` or `remove`.
        what: &'static str,
        /// Which.
        address: IpAddr,
        /// The kernel's word.
        why: Errno,
    },
    /// An interface cannot be brought up or down.
    #[error("cannot bring {name} {}: {why}; this needs root (CAP_NET_ADMIN)", if *.up { "up" } else { "down" })]
    Link {
        /// Which.
        name: String,
        /// Up or down.
        up: bool,
        /// The kernel's word.
        why: Errno,
    },
    /// What was done cannot be noted, so it is not done.
    #[error("{path}: {why}; say with --state where there is room")]
    Record {
        /// The file.
        path: String,
        /// The kernel's word.
        why: io::Error,
    },
    /// What was done is not undone under the feet of others.
    #[error("a sluice-agent that runs relies on what would be undone: stop it first")]
    InUse,
    /// A note cannot be understood.
    #[error("{path}, line {line}: not written by this program: {text:?}")]
    Foreign {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// There is no way to take packets out of tunnels.
    #[error("cannot open a raw socket: {0}; this needs root (CAP_NET_RAW)")]
    Raw(io::Error),
    /// The kernel takes packets out, and its driver is not there.
    #[error("there is no tunl0: load the kernel's driver (modprobe ipip), or leave --method out")]
    NoDriver,
    /// The kernel takes packets out, and would drop them.
    #[error(
        "net.ipv4.conf.all.rp_filter is not 0, so the kernel would drop what it takes out of tunnels: set \
         it to 0, or leave --method out"
    )]
    Filtered,
    /// Something that cannot fail on a sound system.
    #[error("{0}")]
    System(Errno),
}

fn parameter_remedy(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "in a container it is for the host to set, such as with --sysctl"
        }
        _ => "this needs root (CAP_NET_ADMIN)",
    }
}

fn remedy(address: &IpAddr, why: Errno) -> &'static str {
    match (address, why) {
        (IpAddr::V6(_), Errno::EACCES) => "; IPv6 is off there (net.ipv6.conf.lo.disable_ipv6)",
        (_, Errno::EPERM) => "; this needs root (CAP_NET_ADMIN)",
        _ => "",
    }
}
