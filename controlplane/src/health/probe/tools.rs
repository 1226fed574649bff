//! What questions to all servers share.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use rustls::RootCertStore;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::script::Ground;

/// How many scripts run at once.
const SCRIPTS: usize = 8;
/// How many files of certificates are remembered.
const MOST_FILES: usize = 64;

/// What questions to all servers share; copies are the same tools.
#[derive(Clone)]
pub struct Tools {
    scripts: Arc<Semaphore>,
    ground: Arc<OnceLock<Ground>>,
    roots: Arc<Mutex<HashMap<PathBuf, Roots>>>,
    random: fn(&mut [u8]),
}

/// Who may have signed a certificate, as a file said when it was written at `since`.
#[derive(Clone)]
pub(super) struct Roots {
    pub since: Option<SystemTime>,
    pub store: Arc<RootCertStore>,
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tools")
    }
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            scripts: Arc::new(Semaphore::new(SCRIPTS)),
            ground: Arc::default(),
            roots: Arc::default(),
            random: |bytes| aws_lc_rs::rand::fill(bytes).expect("the system has random bytes"),
        }
    }
}

impl Tools {
    /// What scripts have in common; said once.
    pub fn run_scripts_on(&self, ground: Ground) {
        let _ = self.ground.set(ground);
    }

    pub(super) fn ground(&self) -> Ground {
        self.ground.get().cloned().unwrap_or_default()
    }

    /// Random bytes that a server cannot foretell.
    pub(super) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.random)(&mut bytes);
        bytes
    }

    /// Leave to run a script, when there is room for one.
    pub(super) async fn script(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed, so there always is one.
        self.scripts.clone().acquire_owned().await.ok()
    }

    /// What is remembered of a file of certificates.
    pub(super) fn roots(&self, file: &PathBuf) -> Option<Roots> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned()
    }

    /// Remembers it.
    pub(super) fn remember(&self, file: PathBuf, roots: Roots) {
        let mut all = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_FILES {
            all.clear(); // a configuration with so many is rare, and only slower
        }
        all.insert(file, roots);
    }
}
