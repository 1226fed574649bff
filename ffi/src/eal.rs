//! [`Eal`]: DPDK started once and, when nothing uses it any more, stopped once.

use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, process, ptr};

use crate::error::{Error, Reason, listen};
use crate::{lcore, sys};

/// How DPDK is started.
#[derive(Debug, Clone)]
pub struct EalOptions {
    /// The program's name, for DPDK's own messages.
    pub program: String,
    /// Where buffers and tables will live.
    pub memory: Memory,
    /// The core to which the calling thread, and DPDK's helper threads with it, are pinned.
    pub control_core: usize,
    /// PCI addresses such as `0000:03:00.0`; when empty, the PCI bus is not looked at.
    pub allowed: Vec<String>,
    /// The least important message that reaches stderr.
    pub log: LogLevel,
}

/// What DPDK's memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Huge pages without names: nothing is left behind, not even after `kill -9`.
    Huge {
        /// Set aside at the start; more is taken later as long as pages are free.
        megabytes: usize,
    },
    /// Ordinary pages, for tests and laptops. Cards cannot reach them unless there is an IOMMU.
    Plain {
        /// All there will be.
        megabytes: usize,
    },
}

/// DPDK's levels, most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum LogLevel {
    /// What failed.
    Error = 4,
    /// And what is suspicious.
    #[default]
    Warning = 5,
    /// And what is remarkable.
    Notice = 6,
    /// And progress.
    Info = 7,
    /// Everything.
    Debug = 8,
}

/// Proof that DPDK is running. See the crate's documentation for who keeps it running.
#[derive(Debug)]
pub struct Eal(Arc<Runtime>);

/// The counted token behind [`Eal`]; made only by [`Eal::start`].
#[derive(Debug)]
pub(crate) struct Runtime {
    pools_made: AtomicBool,
    /// Lower-case PCI addresses.
    allowed: Vec<String>,
}

static TRIED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK and pins the calling thread to the control core.
    ///
    /// # Errors
    /// [`Error::HugePages`], [`Error::Core`] and [`Error::Malformed`] leave DPDK untouched, so a
    /// second attempt is possible; after [`Error::Start`] only [`Error::AlreadyStarted`] follows.
    pub fn start(options: &EalOptions) -> Result<Self, Error> {
        if TRIED.load(Ordering::Acquire) {
            return Err(Error::AlreadyStarted);
        }
        let arguments = arguments(options)?;
        if let Memory::Huge { megabytes: asked } = options.memory {
            let free = free_huge_megabytes();
            if free < asked {
                return Err(Error::HugePages { asked, free });
            }
        }
        // Before EAL: its helper threads then start on the control core, and not on a worker's.
        lcore::pin(&[options.control_core])?;
        if TRIED.swap(true, Ordering::AcqRel) {
            return Err(Error::AlreadyStarted);
        }

        // SAFETY: no DPDK thread exists yet that could be writing to the log.
        unsafe { sys::shim_log_open() };
        listen();
        let count = arguments.len() as c_int;
        let mut pointers: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
        pointers.push(ptr::null_mut());
        // SAFETY: `argv` is NULL-terminated, its strings are writable, and both are leaked because
        // EAL keeps pointers into them; `TRIED` makes this the only call in the process.
        let answer = unsafe { sys::rte_eal_init(count, pointers.leak().as_mut_ptr()) };
        if answer < 0 {
            return Err(Error::Start(Reason::latest()));
        }
        remove_runtime_directory();
        let allowed = options.allowed.iter().map(|address| address.to_ascii_lowercase()).collect();
        Ok(Self(Arc::new(Runtime { pools_made: AtomicBool::new(false), allowed })))
    }

    /// Ticks of [`lcore::tsc`] in a second.
    pub fn tsc_hz(&self) -> u64 {
        // SAFETY: reads what `rte_eal_init` measured.
        unsafe { sys::rte_get_tsc_hz() }
    }

    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.0
    }
}

impl Runtime {
    /// Whether a card was named when DPDK started. The address is in lower case.
    pub(crate) fn allows(&self, address: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed == address)
    }

    /// From here on DPDK stays up until the process ends, because buffers may be anywhere.
    pub(crate) fn keep_for_ever(&self) {
        self.pools_made.store(true, Ordering::Release);
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if *self.pools_made.get_mut() {
            return;
        }
        // SAFETY: this was the last token (rule "Started"), so no port, slice or pinned thread is
        // left, and without a pool there is no buffer.
        unsafe { sys::rte_eal_cleanup() };
    }
}

fn arguments(options: &EalOptions) -> Result<Vec<CString>, Error> {
    let mut words = vec![options.program.clone(), "--no-telemetry".into()];
    let megabytes = match options.memory {
        Memory::Huge { megabytes } => {
            words.push("--in-memory".into());
            megabytes
        }
        Memory::Plain { megabytes } => {
            words.extend(["--no-huge".into(), "--no-shconf".into()]);
            megabytes
        }
    };
    words.extend(["-m".into(), megabytes.to_string()]);
    words.push(format!("--file-prefix=sluice-{}", process::id()));
    words.push(format!("--lcores=0@{}", options.control_core));
    words.push(format!("--log-level={}", options.log as u8));
    if options.allowed.is_empty() {
        words.push("--no-pci".into());
    }
    for address in &options.allowed {
        words.extend(["-a".into(), pci_address(address)?.to_owned()]);
    }
    words.into_iter().map(|word| c_string("program name", word)).collect()
}

/// `address` if it is of the form 0000:03:00.0, so that no other device argument can hide in it.
pub(crate) fn pci_address(address: &str) -> Result<&str, Error> {
    let shape = |(index, byte): (usize, u8)| match index {
        4 | 7 => byte == b':',
        10 => byte == b'.',
        _ => byte.is_ascii_hexdigit(),
    };
    if address.len() == 12 && address.bytes().enumerate().all(shape) {
        return Ok(address);
    }
    Err(Error::Malformed {
        what: "PCI address",
        expected: "one such as 0000:03:00.0",
        found: address.into(),
    })
}

pub(crate) fn c_string(what: &'static str, text: String) -> Result<CString, Error> {
    CString::new(text).map_err(|refused| Error::Malformed {
        what,
        expected: "text without a zero byte",
        found: String::from_utf8_lossy(&refused.into_vec()).into_owned(),
    })
}

/// Over all sizes and nodes (Linux Documentation/admin-guide/mm/hugetlbpage.rst).
fn free_huge_megabytes() -> usize {
    let free = |directory: fs::DirEntry| -> Option<usize> {
        let name = directory.file_name().into_string().ok()?;
        let kilobytes: usize = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages: usize = fs::read_to_string(directory.path().join("free_hugepages"))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        Some(pages * kilobytes / 1024)
    };
    let sizes = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    sizes.filter_map(free).sum()
}

/// EAL makes a directory for files that neither kind of memory has; an empty one is no use to
/// anybody, and after `kill -9` nobody would remove it.
fn remove_runtime_directory() {
    // SAFETY: EAL keeps this path, as a string that ends in a zero byte, for as long as it runs.
    let path = unsafe { CStr::from_ptr(sys::rte_eal_get_runtime_dir()) };
    let _ = fs::remove_dir(path.to_string_lossy().as_ref()); // refused if something is in there after all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_address_cannot_carry_other_device_arguments() {
        assert!(pci_address("0000:03:00.0").is_ok());
        for refused in
            ["", "03:00.0", "0000:03:00.0,x=1", "0000:03:00.0 -v", "0000-03:00.0", "gggg:03:00.0"]
        {
            assert!(pci_address(refused).is_err(), "{refused}");
        }
    }
}
