//! One closure on one pinned core, and that core's clock.

use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl;
use nix::unistd::Pid;

use crate::eal::{Eal, Runtime};
use crate::error::{Error, Reason, listen};
use crate::sys;

/// Runs `work` on a thread of its own that stays on `core` and is known to DPDK, so that it has
/// its own cache of every pool's free buffers.
///
/// # Errors
/// [`Error::Core`], [`Error::Lcores`] or [`Error::Thread`]; `work` has then not begun.
pub fn spawn_pinned<T: Send + 'static>(
    eal: &Eal,
    core: usize,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<PinnedThread<T>, Error> {
    let runtime = eal.runtime().clone();
    let (report, ready) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name(name.replace('\0', "")).spawn(move || {
        match pin(&[core]).and_then(|()| Registered::here(runtime)) {
            Ok(_until_work_is_done) => {
                let _ = report.send(Ok(()));
                Some(work())
            }
            Err(refused) => {
                let _ = report.send(Err(refused));
                None
            }
        }
    })?;
    ready.recv().expect("the thread reports before it does anything else")?;
    Ok(PinnedThread(thread))
}

/// A thread made by [`spawn_pinned`]. Dropping this leaves the thread running.
#[derive(Debug)]
pub struct PinnedThread<T>(JoinHandle<Option<T>>);

impl<T> PinnedThread<T> {
    /// Waits until the work is done, and returns what it returned.
    ///
    /// # Errors
    /// What the work panicked with.
    pub fn join(self) -> thread::Result<T> {
        self.0.join().map(|value| value.expect("work began, or there would be no PinnedThread"))
    }

    /// Whether the work is done, in one way or the other.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// This thread is known to DPDK until this value is dropped.
struct Registered(
    #[expect(dead_code, reason = "keeps DPDK running until after `drop`")] Arc<Runtime>,
);

impl Registered {
    fn here(runtime: Arc<Runtime>) -> Result<Self, Error> {
        // Timers of a polling thread that naps must not be rounded up by the usual 50 us.
        let _ = prctl::set_timerslack(1);
        listen();
        // SAFETY: DPDK runs (`runtime`), and this new thread was not registered before.
        match unsafe { sys::rte_thread_register() } {
            0 => Ok(Self(runtime)),
            _ => Err(Error::Lcores(Reason::latest())),
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: made by `here` on this very thread (the value never leaves it); DPDK still runs,
        // because the token in the field is let go only afterwards.
        unsafe { sys::rte_thread_unregister() };
    }
}

/// Keeps the calling thread, and threads it starts later, on `cores`.
///
/// # Errors
/// [`Error::Core`] names the first core that does not exist or may not be used.
pub fn pin(cores: &[usize]) -> Result<(), Error> {
    let refused = |core| move |errno: Errno| Error::Core { core, errno };
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core).map_err(refused(*core))?;
    }
    let first = cores.first().copied().unwrap_or_default();
    sched_setaffinity(Pid::from_raw(0), &set).map_err(refused(first))
}

/// The processor's time-stamp counter: [`Eal::tsc_hz`] ticks a second, the same on every core.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Gives the core away for about `duration`; on a thread of [`spawn_pinned`] it comes back within
/// some microseconds after that, for adaptive polling.
pub fn nap(duration: Duration) {
    thread::sleep(duration);
}
