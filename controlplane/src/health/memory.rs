//! Who was down when the program last ran: it stays down until it passes again, and nobody is up merely
//! because the program started anew. A small file in the state directory, which a helper thread writes.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::store::{self, Store, hexadecimal};

/// The file.
const NAME: &str = "health.json";
/// The longest reason that is kept, in bytes.
const LONGEST_REASON: usize = 1024;

/// Who is down, by the question that found it out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// By the question's key.
    pub down: HashMap<[u8; 16], Remembered>,
}

/// What is remembered of one server that is down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Since when, by the wall clock.
    pub since: SystemTime,
    /// Why.
    pub reason: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    down: Vec<WrittenServer>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenServer {
    question: String,
    since: u64,
    reason: String,
}

impl Memory {
    /// What the last run left. A file that cannot be read is none: everybody is asked anyway.
    pub fn read(store: &Store) -> Self {
        match store.read(NAME) {
            Ok(None) => Self::default(),
            Ok(Some(bytes)) => match serde_json::from_slice::<Written>(&bytes) {
                Ok(written) => Self::from(written),
                Err(error) => unreadable(&error),
            },
            Err(error) => unreadable(&error),
        }
    }

    /// Leaves it for the next start.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, store: &Store) -> Result<(), store::Error> {
        let bytes = serde_json::to_vec(&self.written()).expect("it has string keys only");
        store.write(NAME, &bytes)
    }

    fn written(&self) -> Written {
        let one = |(key, remembered): (&[u8; 16], &Remembered)| {
            let since = remembered.since.duration_since(SystemTime::UNIX_EPOCH);
            let mut reason = remembered.reason.clone();
            reason.truncate(reason.floor_char_boundary(LONGEST_REASON));
            let (question, since) = (hexadecimal(key), since.unwrap_or_default().as_secs());
            WrittenServer { question, since, reason }
        };
        let mut down: Vec<_> = self.down.iter().map(one).collect();
        down.sort_by(|one, other| one.question.cmp(&other.question));
        Written { down }
    }
}

impl From<Written> for Memory {
    fn from(written: Written) -> Self {
        let one = |WrittenServer { question, since, reason }: WrittenServer| {
            let key = u128::from_str_radix(&question, 16).ok()?.to_be_bytes();
            let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since))?;
            Some((key, Remembered { since, reason }))
        };
        Self { down: written.down.into_iter().filter_map(one).collect() }
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Memory {
    warn!("{NAME}: who was down before is not known: {error}");
    Memory::default()
}
