//! What questions to all servers share.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Semaphore;

use super::certificates::{Certificates, Said};

use crate::script::Ground;

/// How many files of certificates are remembered.
const MOST_FILES: usize = 64;
/// How many of them are looked at at once, each in a thread that may hang.
const MOST_READERS: usize = 16;

/// What questions to all servers share; copies are the same tools.
#[derive(Clone)]
pub struct Tools {
    ground: Arc<OnceLock<Ground>>,
    certificates: Arc<Mutex<HashMap<Box<Path>, Arc<Certificates>>>>,
    readers: Arc<Semaphore>,
    random: fn(&mut [u8]),
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tools")
    }
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            ground: Arc::default(),
            certificates: Arc::default(),
            readers: Arc::new(Semaphore::new(MOST_READERS)),
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

    /// Who may have signed a certificate, as a file says.
    pub(super) async fn roots(&self, file: &Path) -> Said {
        let certificates = self.certificates_in(file);
        let reader = || Arc::clone(&self.readers).try_acquire_owned().ok();
        certificates.store(file.to_owned(), reader).await
    }

    fn certificates_in(&self, file: &Path) -> Arc<Certificates> {
        let mut all = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(file) {
            return Arc::clone(known);
        }
        if all.len() >= MOST_FILES {
            all.clear(); // a configuration with so many is rare, and only slower
        }
        Arc::clone(all.entry(file.into()).or_default())
    }
}
