//! Ctrl-C: what has been measured so far is still printed, and everything borrowed is given back.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT, SIGTERM and SIGHUP ask for an early end instead of making one.
///
/// # Errors
/// If the kernel refuses.
pub fn listen() -> Result<()> {
    let flag = ASKED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// Set once somebody wants it to end.
pub fn flag() -> Arc<AtomicBool> {
    Arc::clone(ASKED.get_or_init(Arc::default))
}

/// Whether somebody wants it to end.
pub fn is_asked_for() -> bool {
    ASKED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// # Errors
/// If somebody wants it to end.
pub fn check() -> Result<()> {
    if is_asked_for() {
        bail!("interrupted");
    }
    Ok(())
}
