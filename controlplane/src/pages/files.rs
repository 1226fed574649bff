//! The operator's pages, files in a directory of the state directory (ST-11). Whoever writes or removes one has the
//! configuration to himself, so that what a service names cannot go.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::is_page;
use crate::node::Refusal;
use crate::store;

/// How large a page can be, in bytes.
pub const LARGEST: usize = 1 << 20;
/// How many there can be.
pub const MOST: usize = 256;
/// Their directory in the state directory.
pub const DIRECTORY: &str = "pages";

/// The operator's pages. Cheap to clone: all clones are the same.
#[derive(Debug, Clone)]
pub struct Pages(Arc<Directory>);

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    /// Counts what we have written.
    version: AtomicU64,
}

/// A page of the operator's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page {
    /// Its name.
    #[schema(example = "sorry.html")]
    pub name: String,
    /// How long it is.
    pub bytes: u64,
    /// When it was last written, in UTC.
    #[schema(example = "2026-11-27T09:42:10.123Z")]
    pub modified: String,
}

impl Pages {
    /// Those in the directory of this state.
    pub fn new(state: &Path) -> Self {
        Self(Arc::new(Directory { path: state.join(DIRECTORY), version: AtomicU64::new(0) }))
    }

    /// Counts up with every page that is written through us.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path.join(name)
    }

    /// All there are, by name.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Page>, Refusal> {
        let failed = |error| self.failed("", error);
        let entries = match fs::read_dir(&self.0.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut pages = Vec::new();
        for entry in entries {
            let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
            pages.extend(self.find(&name)?);
        }
        pages.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(pages)
    }

    /// The page of this name, if there is one.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn find(&self, name: &str) -> Result<Option<Page>, Refusal> {
        if !is_page(name) {
            return Ok(None);
        }
        let found = match fs::metadata(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(|error| self.failed(name, error))?,
        };
        let modified = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let modified = humantime::format_rfc3339_millis(modified).to_string();
        let page = Page { name: name.into(), bytes: found.len(), modified };
        Ok(found.is_file().then_some(page))
    }

    /// The text of a page.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is larger than [`LARGEST`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Refusal> {
        let mut bytes = Vec::new();
        let read = File::open(self.path(name))
            .and_then(|file| file.take(LARGEST as u64 + 1).read_to_end(&mut bytes));
        match read {
            Ok(length) if length > LARGEST => {
                let error = io::Error::other(format!("it has more than {LARGEST} bytes"));
                Err(self.failed(name, error))
            }
            Ok(_) => Ok(bytes),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// Writes a page, whole or not at all.
    ///
    /// # Errors
    ///
    /// When it cannot be written; an earlier one of this name is still there then.
    pub fn write(&self, name: &str, text: &[u8]) -> Result<(), Refusal> {
        let directory = &self.0.path;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| self.failed("", error))?;
        // No page has a name that begins with a dot.
        let written = store::write_whole(directory, name, &format!(".{name}.new"), text);
        written.map_err(Refusal::Page)?;
        self.0.version.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Removes a page.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), Refusal> {
        let removed = fs::remove_file(self.path(name));
        let removed = removed.and_then(|()| File::open(&self.0.path)?.sync_all());
        removed.map_err(|error| self.failed(name, error))
    }

    fn failed(&self, name: &str, cause: io::Error) -> Refusal {
        Refusal::Page(store::Error::File { path: self.path(name), cause })
    }
}
