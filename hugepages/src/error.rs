//! Everything that can go wrong, each with what to do about it.

use std::{io, path::PathBuf};

use crate::{devices::PciAddress, memory::Shortfall};

/// Why the host could not be made ready or given back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Text that is no PCI address.
    #[error("expected a PCI address, such as 0000:03:00.0, found {0:?}")]
    NotAnAddress(String),

    /// Text that is no list of cores.
    #[error("expected a list of cores below {max}, such as 0-3,8, found {found:?}")]
    NotACoreList {
        /// The first core number that is too high.
        max: u32,
        /// What was there instead.
        found: String,
    },

    /// Another program has been changing the number of huge pages for too long.
    #[error(
        "another program has held {0} for a minute, as is done while the number of huge pages \
             changes; see which it is (fuser {0}) and end it"
    )]
    PagesLocked(PathBuf),

    /// Text that is no page size.
    #[error("expected a page size, 2MiB or 1GiB, found {0:?}")]
    NotAPageSize(String),

    /// There is nothing at that address.
    #[error("there is no card at {0}; `sluice host status` lists those there are")]
    NoSuchCard(PciAddress),

    /// There is something else at that address.
    #[error("the device at {address} is not a network card (its PCI class is {class})")]
    NotANetworkCard {
        /// The device.
        address: PciAddress,
        /// The content of its `class` file.
        class: String,
    },

    /// Taking the card would cut the host, or somebody, off.
    #[error(
        "{address} ({interface}) {reason}, so taking it could cut this host off; \
             choose another card, or force it"
    )]
    InUse {
        /// The card.
        address: PciAddress,
        /// Its kernel interface.
        interface: String,
        /// How it is used, as the end of a sentence about it.
        reason: String,
    },

    /// VFIO hands out whole IOMMU groups only.
    #[error(
        "{address} shares IOMMU group {group} with {others}: VFIO can only use all of them or \
             none; take them too, unbind them, or use a slot of its own"
    )]
    GroupShared {
        /// The card.
        address: PciAddress,
        /// Its IOMMU group.
        group: u32,
        /// The other devices and the drivers that they are bound to.
        others: String,
    },

    /// No driver that DPDK can use would work.
    #[error("no driver for DPDK can take {address}: {reason}; {remedy}")]
    NoDriver {
        /// The card.
        address: PciAddress,
        /// What stands in the way.
        reason: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },

    /// A kernel module could not be loaded.
    #[error(
        "kernel module {module} could not be loaded: {reason}; it is part of the package of \
             the running kernel (linux-image-… on Debian)"
    )]
    Module {
        /// The module.
        module: String,
        /// What `modprobe` said.
        reason: String,
    },

    /// The kernel accepted the request, but the card has not got the driver.
    #[error(
        "{address} is bound to {found} and not to {wanted}, although the kernel accepted \
             the request{detail}; the kernel's log (dmesg) says why"
    )]
    NotBound {
        /// The card.
        address: PciAddress,
        /// The driver asked for.
        wanted: String,
        /// The driver it has, or "no driver".
        found: String,
        /// What the kernel answered to the write, if that failed too.
        detail: String,
    },

    /// A program holds the card open; unbinding it would wait for that program's end.
    #[error("{address} is in use by {holder}; stop it first")]
    Held {
        /// The card.
        address: PciAddress,
        /// The program's name and process id.
        holder: String,
    },

    /// Fewer huge pages than asked for.
    #[error("{0}")]
    Shortfall(Shortfall),

    /// hugetlbfs could not be mounted or unmounted.
    #[error("could not {action} hugetlbfs at {}: {source}", path.display())]
    Mount {
        /// "mount" or "unmount".
        action: &'static str,
        /// The mount point.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The record exists and cannot be understood.
    #[error("the record {} cannot be read: {reason}; remove it if nothing is prepared", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// Another process is at it.
    #[error("another process is preparing or restoring the host with the record {}; \
             try again when it has finished", .0.display())]
    Locked(PathBuf),

    /// Some of what was changed could not be changed back.
    #[error("not everything could be given back: {}", .0.join("; "))]
    NotRestored(Vec<String>),

    /// One of the kernel's files, or the record, could not be read or written.
    #[error("could not {action} {}: {source}{}", path.display(), advice(source))]
    File {
        /// "read" or "write", or what else was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; this needs root",
        _ => "",
    }
}
