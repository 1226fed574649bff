//! Files that say who may have signed a server's certificate. They are looked at in threads of their own: a file system
//! that hangs stops neither the control thread nor its helpers, nor the program's end.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::{Mutex as Turns, OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout};

/// The longest file that is read, in bytes.
const LONGEST: u64 = 4 << 20;
/// How long what a file said counts without another look.
const FRESH: Duration = Duration::from_secs(1);
/// How long a look may take before what is known already has to do.
const PATIENCE: Duration = Duration::from_millis(500);

/// One such file.
#[derive(Default)]
pub(super) struct Certificates {
    known: Mutex<Option<Known>>,
    /// Whoever looks at the file has it, in vain or not: one thread at most hangs on a file.
    looking: Arc<Turns<()>>,
}

/// Who may have signed a certificate, or what is wrong with the file, as the end of a sentence.
pub(super) type Said = Result<Arc<RootCertStore>, String>;

/// What a file said.
#[derive(Clone)]
struct Known {
    /// When it was written.
    since: Option<SystemTime>,
    /// When it was last looked at.
    seen: Instant,
    said: Said,
}

impl Certificates {
    /// What stands in `file`. It is looked at again after a second, and what it said before counts while nobody can tell.
    /// `reader` gives leave to start a thread.
    pub async fn store(
        self: Arc<Self>,
        file: PathBuf,
        reader: impl FnOnce() -> Option<OwnedSemaphorePermit>,
    ) -> Said {
        let known = self.known();
        let turn = Arc::clone(&self.looking).try_lock_owned();
        if let Some(known) = known
            && (turn.is_err() || known.seen.elapsed() < FRESH)
        {
            return known.said;
        }
        let looked = timeout(PATIENCE, async {
            let turn = match turn {
                Ok(turn) => turn,
                Err(_) => Arc::clone(&self.looking).lock_owned().await,
            };
            let leave = reader()?;
            let (tell, told) = oneshot::channel();
            let this = Arc::clone(&self);
            let look = move || {
                // Helpers of the control thread are not as urgent as it is; they work without, too.
                let _ = rustix::process::setpriority_process(None, 0);
                let _ = tell.send(this.look(&file));
                drop((turn, leave));
            };
            thread::Builder::new().name("certificates".into()).spawn(look).ok()?;
            told.await.ok()
        });
        match (looked.await, self.known()) {
            (Ok(Some(said)), _) => said,
            (_, Some(known)) => known.said,
            _ => Err("could not be read in time".into()),
        }
    }

    fn known(&self) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the file, and reads it if it has changed.
    fn look(&self, file: &Path) -> Said {
        let since = file.metadata().and_then(|it| it.modified()).ok();
        let known = self.known().filter(|it| it.since == since && it.said.is_ok());
        let said = match known {
            Some(known) => known.said,
            None => read(file).map_err(|error| format!("cannot be read: {error}")),
        };
        let said = said.and_then(|store| match store.is_empty() {
            false => Ok(store),
            true => Err("are none".into()),
        });
        let known = Known { since, seen: Instant::now(), said: said.clone() };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        said
    }
}

fn read(file: &Path) -> io::Result<Arc<RootCertStore>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other("it is too long"));
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok));
    Ok(Arc::new(store))
}
