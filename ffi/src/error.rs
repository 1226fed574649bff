//! DPDK's errno values as errors with a name and a remedy.

use std::fmt;

use nix::errno::Errno;

use crate::sys;

/// What can go wrong before packets flow. Afterwards nothing here fails: bursts come up short.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `rte_eal_init` may be tried once per process.
    #[error("DPDK was started before in this process and cannot be started again")]
    AlreadyStarted,

    /// Found out before DPDK is touched, so plain memory can still be tried.
    #[error(
        "{asked} MiB of huge pages were asked for and {free} MiB are free: reserve more with \
         `sluice host prepare`, or ask for plain memory"
    )]
    HugePages {
        /// MiB asked for.
        asked: usize,
        /// MiB in free huge pages of every size.
        free: usize,
    },

    /// The core does not exist or this process may not run there.
    #[error(
        "core {core} cannot be used ({errno}): choose one of the cores in Cpus_allowed_list of /proc/self/status"
    )]
    Core {
        /// The core asked for.
        core: usize,
        /// What the kernel answered.
        errno: Errno,
    },

    /// DPDK knows 128 threads at most.
    #[error("DPDK has no room for another registered thread ({0})")]
    Lcores(Reason),

    /// The operating system refused a thread.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),

    /// `rte_eal_init` failed.
    #[error("DPDK did not start: {0}")]
    Start(Reason),

    /// Pool or slice.
    #[error("no memory for {what}: {reason}; give DPDK more (`Memory::Huge` or `Memory::Plain`)")]
    Memory {
        /// What the memory was for.
        what: String,
        /// DPDK's answer.
        reason: Reason,
    },

    /// A string that would reach DPDK's own parsers is not of the expected form.
    #[error("{what}: expected {expected}, found {found:?}")]
    Malformed {
        /// Which value.
        what: &'static str,
        /// Its form, with an example.
        expected: &'static str,
        /// What was given.
        found: String,
    },

    /// No Linux interface of that name in this network namespace.
    #[error("interface {0:?} does not exist in this network namespace: see `ip link`")]
    NoSuchInterface(String),

    /// Raw sockets need CAP_NET_RAW.
    #[error("opening {0} needs CAP_NET_RAW: run as root, or grant the capability")]
    NoPermission(String),

    /// The kernel answered something unexpected about an interface.
    #[error("interface {interface:?}: {doing} failed: {errno}")]
    Interface {
        /// Its name.
        interface: String,
        /// What was being done.
        doing: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },

    /// Opened twice, or two devices with one name.
    #[error("device {0} is in use already")]
    InUse(String),

    /// DPDK's PCI bus is off because no address was allowed at the start.
    #[error("PCI device {0} was not among the addresses that DPDK was started with")]
    NotAllowed(String),

    /// DPDK knows no driver by that name. Programs into which DPDK is linked carry a selection.
    #[error("there is no driver for device {0} in this program")]
    NoDriver(String),

    /// The driver did not take the device.
    #[error("device {device} could not be opened: {reason}")]
    Open {
        /// Address, name or interface.
        device: String,
        /// DPDK's answer.
        reason: Reason,
    },

    /// The device gave no port, or more than one.
    #[error("device {device} gave {ports} ports, where one was expected")]
    Ports {
        /// Address, name or interface.
        device: String,
        /// How many appeared.
        ports: usize,
    },

    /// More queues than the driver has.
    #[error("{device}: {asked} {kind} queues were asked for, its driver {driver} has {most}")]
    Queues {
        /// The port's device.
        device: String,
        /// The port's driver.
        driver: String,
        /// `receive` or `transmit`.
        kind: &'static str,
        /// How many were asked for.
        asked: u16,
        /// How many there are.
        most: u16,
    },

    /// The driver or the interface does not do that MTU.
    #[error("{device}: an MTU of {asked} was asked for, possible are {least} to {most}")]
    Mtu {
        /// The port's device.
        device: String,
        /// Bytes asked for.
        asked: u16,
        /// The least the device does.
        least: u16,
        /// The most the device does.
        most: u16,
    },

    /// Frames of that MTU would be spread over several buffers.
    #[error("{device}: buffers of {room} bytes are too small: {needed} are needed for this MTU")]
    Room {
        /// The port's device.
        device: String,
        /// The pool's room.
        room: u16,
        /// The room needed.
        needed: u32,
    },

    /// Any other step of bringing a port up, or asking it something.
    #[error("{device}: {doing} failed: {reason}")]
    Port {
        /// The port's device.
        device: String,
        /// What was being done.
        doing: &'static str,
        /// DPDK's answer.
        reason: Reason,
    },
}

impl Error {
    /// The same, in the operator's words for a device whose name is our own invention.
    pub(crate) fn about(self, device: &str) -> Self {
        match self {
            Self::Open { reason, .. } => Self::Open { device: device.into(), reason },
            Self::NoDriver(_) => Self::NoDriver(device.into()),
            other => other,
        }
    }
}

/// DPDK's errno, and the first thing it complained about on this thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The positive errno value; DPDK has a few of its own above 1000.
    pub code: i32,
    /// DPDK's own words, the first of them because that is the cause; empty when it said nothing.
    pub said: String,
}

impl Reason {
    /// From a function that returns the negative errno.
    pub(crate) fn of(returned: i32) -> Self {
        Self { code: returned.abs(), said: first_complaint() }
    }

    /// From a function that leaves it in `rte_errno`.
    pub(crate) fn latest() -> Self {
        // SAFETY: reads this thread's `rte_errno`, which always exists.
        Self::of(unsafe { sys::shim_errno() })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            // A bare -1 says only that it failed; it would read "operation not permitted".
            1 if !self.said.is_empty() => return f.write_str(&self.said),
            1001 => f.write_str("not possible in a secondary process"),
            1002 => f.write_str("DPDK has no configuration"),
            code => f.write_str(Errno::from_raw(code).desc()),
        }?;
        if self.said.is_empty() { Ok(()) } else { write!(f, " ({})", self.said) }
    }
}

/// Forgets earlier complaints, so that the next [`Reason`] speaks of what follows.
pub(crate) fn listen() {
    first_complaint();
}

fn first_complaint() -> String {
    let mut text = [0u8; 512];
    // SAFETY: the shim writes at most `text.len()` bytes there and says how many.
    let length = unsafe { sys::shim_log_take(text.as_mut_ptr().cast(), text.len()) };
    String::from_utf8_lossy(&text[..length]).trim().to_owned()
}
