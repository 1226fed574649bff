//! What survives a restart: the configuration last accepted, written whole or not at all, and the
//! files that the admin API makes for itself at its first start.
//!
//! Two people may say what the node does: whoever edits the operator's FILE, and whoever calls the
//! admin API. The stored configuration remembers which FILE it was based on. While FILE is the
//! same, the stored configuration goes on; once FILE has been changed, FILE wins.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use tracing::{info, warn};

use crate::config::Config;
use crate::field::Invalid;

/// Where the state lies unless the operator says otherwise.
pub const DIRECTORY: &str = "/var/lib/sluice";

/// The configuration last accepted.
const CONFIGURATION: &str = "config.json";
/// A stored configuration that FILE has overruled, kept for whoever misses it.
const OVERRULED: &str = "config.overruled.json";
/// Held locked by the instance that owns the directory.
const LOCK: &str = "lock";
/// Neither FILE nor a stored configuration is read beyond this, in bytes.
pub const LONGEST: u64 = 16 << 20;

/// Why nothing could be read or written.
#[derive(Debug, Error)]
pub enum Error {
    /// A file or directory cannot be used.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Another instance runs on the same directory.
    #[error(
        "{}: in use by another running instance; stop it, or give this one a directory of its own \
         with --state",
        .0.display()
    )]
    InUse(PathBuf),
    /// FILE holds mistakes: all of them.
    #[error("{} was refused:\n{}", path.display(), listed(mistakes))]
    Refused {
        /// The operator's FILE.
        path: PathBuf,
        /// What is wrong with it.
        mistakes: Vec<Invalid>,
    },
}

fn listed(mistakes: &[Invalid]) -> String {
    let lines: Vec<_> = mistakes.iter().map(|mistake| format!("  {mistake}")).collect();
    lines.join("\n")
}

/// The state directory, locked for as long as this value lives, and the operator's FILE.
pub struct Store {
    directory: PathBuf,
    file: PathBuf,
    /// FILE as it was last taken in.
    based_on: Mutex<Digest>,
    _lock: File,
}

/// Tells one FILE from another.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

/// What lies in the stored file.
#[derive(Deserialize)]
struct Stored {
    /// FILE as it was last taken in.
    based_on: Digest,
    configuration: Value,
}

impl Store {
    /// Takes the directory into possession and says which configuration to start with: the stored
    /// one while FILE is unchanged, else FILE.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or is in use, and when FILE is needed but cannot be read
    /// or holds mistakes. A stored configuration that cannot be read is reported and passed over.
    pub fn open(directory: &Path, file: &Path) -> Result<(Self, Config), Error> {
        let at = |cause| Error::File { path: directory.to_owned(), cause };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at)?;
        let lock = locked(directory)?;
        let (text, digest) = read(file)?;
        let based_on = Mutex::new(digest.clone());
        let store =
            Self { directory: directory.to_owned(), file: file.to_owned(), based_on, _lock: lock };
        let config = match store.stored() {
            Some((stored, config)) if stored.based_on == digest => {
                info!("going on with the configuration in {}", store.path(CONFIGURATION).display());
                config
            }
            stored => {
                let config = store.parse(&text)?;
                if stored.is_some_and(|(_, earlier)| earlier != config) {
                    store.overrule();
                }
                config
            }
        };
        Ok((store, config))
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Remembers a configuration, as clients see it in JSON, for the next start, and which FILE it is based on if that
    /// is another from now on. When this returns, it is on the disk.
    ///
    /// # Errors
    ///
    /// When the file cannot be written; then the earlier one is still there, whole.
    pub fn save(&self, configuration: &[u8], file: Option<Digest>) -> Result<(), Error> {
        let mut based_on = self.based_on.lock().unwrap_or_else(PoisonError::into_inner);
        let next = file.unwrap_or_else(|| based_on.clone());
        // A `Stored` that need not be made anew: a large configuration takes a while.
        let head = format!("{{\"based_on\":\"{}\",\n\"configuration\":", next.0);
        self.write(CONFIGURATION, &[head.as_bytes(), configuration, b"}\n"].concat())?;
        *based_on = next;
        Ok(())
    }

    /// Reads FILE again. It counts as taken in once its configuration is saved with its digest.
    ///
    /// # Errors
    ///
    /// When FILE cannot be read or holds mistakes.
    pub fn reread(&self) -> Result<(Config, Digest), Error> {
        let (text, digest) = read(&self.file)?;
        Ok((self.parse(&text)?, digest))
    }

    /// Writes a file of the directory, readable by its owner alone, whole or not at all.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        write_whole(&self.directory, name, &format!("{name}.new"), bytes)
    }

    /// Reads a file of the directory; `None` if it is not there.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(Error::File { path: self.path(name), cause }),
        }
    }

    /// The full path of a file of the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn stored(&self) -> Option<(Stored, Config)> {
        let path = self.path(CONFIGURATION);
        let unusable = |why: String| {
            warn!("{}: {why}; going on with {}", path.display(), self.file.display());
        };
        let bytes =
            self.read(CONFIGURATION).map_err(|error| unusable(error.to_string())).ok()??;
        let stored: Stored =
            serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string())).ok()?;
        let config = Config::read(&stored.configuration)
            .map_err(|mistakes| unusable(format!("was refused:\n{}", listed(&mistakes))))
            .ok()?;
        Some((stored, config))
    }

    fn parse(&self, text: &str) -> Result<Config, Error> {
        Config::from_toml(text)
            .map_err(|mistakes| Error::Refused { path: self.file.clone(), mistakes })
    }

    /// FILE was changed after the stored configuration was accepted.
    fn overrule(&self) {
        let (from, to) = (self.path(CONFIGURATION), self.path(OVERRULED));
        let kept = match fs::rename(from, &to) {
            Ok(()) => format!("the latter is kept in {}", to.display()),
            Err(error) => format!("the latter cannot be kept in {}: {error}", to.display()),
        };
        warn!(
            "{} was changed since it was last read, and overrules what was configured over the \
             admin API; {kept}",
            self.file.display()
        );
    }
}

/// Writes a file of a directory, readable by its owner alone, whole or not at all: under another name until it is on the
/// disk.
pub(crate) fn write_whole(
    directory: &Path,
    name: &str,
    unfinished: &str,
    bytes: &[u8],
) -> Result<(), Error> {
    let (path, unfinished) = (directory.join(name), directory.join(unfinished));
    let write = || {
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        // An unfinished file of an earlier run keeps the mode it had.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(directory)?.sync_all() // the new name is on the disk too
    };
    write().map_err(|cause| Error::File { path: path.clone(), cause })
}

/// The lock ends with the process, however that ends.
fn locked(directory: &Path) -> Result<File, Error> {
    let path = directory.join(LOCK);
    let cannot = |cause| Error::File { path: path.clone(), cause };
    let mut options = OpenOptions::new();
    let file =
        options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::InUse(directory.to_owned())),
        Err(fs::TryLockError::Error(cause)) => Err(cannot(cause)),
    }
}

/// The operator's FILE with its digest.
fn read(file: &Path) -> Result<(String, Digest), Error> {
    let cannot = |cause| Error::File { path: file.to_owned(), cause };
    let mut text = String::new();
    let opened = File::open(file).map_err(cannot)?;
    opened.take(LONGEST + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > LONGEST {
        let cause = io::Error::other(format!("longer than {} MiB", LONGEST >> 20));
        return Err(cannot(cause));
    }
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    Ok((text, Digest(hexadecimal(digest.as_ref()))))
}

/// Two digits a byte.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A directory with a FILE whose server has this weight.
    fn with_weight(weight: u16) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        write_weight(&directory, weight);
        directory
    }

    fn write_weight(directory: &TempDir, weight: u16) {
        let text = format!(
            "interface = [{{ name = \"wan\", device = \"kernel:wan\", addresses = [\"10.0.0.2/24\"] }}]\n\
             [[service]]\nname = \"web\"\naddress = \"10.0.0.100\"\nports = \"80\"\n\
             server = [{{ address = \"10.0.0.11\", weight = {weight} }}]\n"
        );
        fs::write(directory.path().join("file.toml"), text).unwrap();
    }

    fn open(directory: &TempDir) -> Result<(Store, Config), Error> {
        Store::open(&directory.path().join("state"), &directory.path().join("file.toml"))
    }

    fn weight(config: &Config) -> u16 {
        config.services[0].servers[0].weight
    }

    /// Saves a configuration that FILE does not have.
    fn save_weight(directory: &TempDir, weight: u16) {
        let (store, mut config) = open(directory).unwrap();
        config.services[0].servers[0].weight = weight;
        save(&store, &config);
    }

    fn json(config: &Config) -> Vec<u8> {
        serde_json::to_vec(&config.document()).unwrap()
    }

    fn save(store: &Store, config: &Config) {
        store.save(&json(config), None).unwrap();
    }

    #[test]
    fn a_first_start_takes_the_file() {
        let directory = with_weight(1);
        assert_eq!(weight(&open(&directory).unwrap().1), 1);
    }

    #[test]
    fn what_was_saved_goes_on_while_the_file_is_the_same() {
        let directory = with_weight(1);
        save_weight(&directory, 2);
        assert_eq!(weight(&open(&directory).unwrap().1), 2);
        save_weight(&directory, 3);
        assert_eq!(weight(&open(&directory).unwrap().1), 3);
    }

    #[test]
    fn a_changed_file_wins_and_what_it_overrules_is_kept() {
        let directory = with_weight(1);
        save_weight(&directory, 2);
        write_weight(&directory, 4);
        assert_eq!(weight(&open(&directory).unwrap().1), 4);
        let overruled = directory.path().join("state").join(OVERRULED);
        let stored: Stored = serde_json::from_slice(&fs::read(overruled).unwrap()).unwrap();
        assert_eq!(weight(&Config::read(&stored.configuration).unwrap()), 2);
        assert_eq!(weight(&open(&directory).unwrap().1), 4);
    }

    #[test]
    fn a_file_read_again_is_what_later_changes_are_based_on() {
        let directory = with_weight(1);
        let (store, _) = open(&directory).unwrap();
        write_weight(&directory, 4);
        let (mut config, digest) = store.reread().unwrap();
        assert_eq!(weight(&config), 4);
        store.save(&json(&config), Some(digest)).unwrap();
        config.services[0].servers[0].weight = 5;
        save(&store, &config);
        drop(store);
        assert_eq!(weight(&open(&directory).unwrap().1), 5);
    }

    #[test]
    fn a_file_read_again_in_vain_wins_at_the_next_start() {
        let directory = with_weight(1);
        let (store, mut config) = open(&directory).unwrap();
        write_weight(&directory, 4);
        store.reread().unwrap();
        config.services[0].servers[0].weight = 5;
        save(&store, &config);
        drop(store);
        assert_eq!(weight(&open(&directory).unwrap().1), 4);
    }

    #[test]
    fn a_stored_configuration_cut_anywhere_is_passed_over() {
        let directory = with_weight(1);
        save_weight(&directory, 2);
        let path = directory.path().join("state").join(CONFIGURATION);
        let whole = fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(weight(&open(&directory).unwrap().1), 1, "{length} bytes");
        }
        fs::write(&path, [0xff; 100]).unwrap();
        assert_eq!(weight(&open(&directory).unwrap().1), 1);
    }

    #[test]
    fn a_stored_configuration_that_is_refused_today_is_passed_over() {
        let directory = with_weight(1);
        save_weight(&directory, 2);
        let path = directory.path().join("state").join(CONFIGURATION);
        let text = fs::read_to_string(&path).unwrap().replace("\"weight\":2", "\"weight\":-2");
        fs::write(&path, text).unwrap();
        assert_eq!(weight(&open(&directory).unwrap().1), 1);
    }

    #[test]
    fn an_unfinished_write_of_a_killed_instance_changes_nothing() {
        let directory = with_weight(1);
        save_weight(&directory, 2);
        let unfinished = directory.path().join("state").join("config.json.new");
        fs::write(&unfinished, "{").unwrap();
        assert_eq!(weight(&open(&directory).unwrap().1), 2);
        save_weight(&directory, 3);
        assert!(!unfinished.exists());
        assert_eq!(weight(&open(&directory).unwrap().1), 3);
    }

    #[test]
    fn a_configuration_that_cannot_be_written_leaves_the_earlier_one() {
        let directory = with_weight(1);
        save_weight(&directory, 2);
        let (store, mut config) = open(&directory).unwrap();
        config.services[0].servers[0].weight = 3;
        fs::create_dir(store.path("config.json.new")).unwrap();
        assert!(matches!(store.save(&json(&config), None), Err(Error::File { .. })));
        drop(store);
        assert_eq!(weight(&open(&directory).unwrap().1), 2);
    }

    #[test]
    fn two_instances_cannot_share_a_directory() {
        let directory = with_weight(1);
        let first = open(&directory).unwrap();
        let refused = open(&directory).err().unwrap();
        assert!(matches!(refused, Error::InUse(_)));
        assert!(refused.to_string().contains("--state"));
        drop(first);
        assert!(open(&directory).is_ok());
    }

    #[test]
    fn a_file_with_mistakes_is_refused_with_all_of_them() {
        let directory = with_weight(1);
        let file = directory.path().join("file.toml");
        fs::write(&file, "[node]\nname = 7\ncolour = \"red\"\n").unwrap();
        let refused = open(&directory).err().unwrap().to_string();
        assert!(refused.contains("file.toml"), "{refused}");
        assert!(refused.contains("node.name") && refused.contains("colour"), "{refused}");
        fs::remove_file(&file).unwrap();
        assert!(open(&directory).err().unwrap().to_string().contains("file.toml"));
    }
}
