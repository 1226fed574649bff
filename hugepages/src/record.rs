//! What was changed, remembered on disk before it is changed.
//!
//! The record is a list of deeds in the order in which they were done; giving the host back is
//! undoing them from the last to the first. A deed is written before it is done, and is written to
//! a new file that then takes the place of the old one, so that whenever the process is killed,
//! the record speaks of everything that was done and of at most one thing that was not.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Host, PciAddress, devices,
    devices::DriverName,
    memory::{self, Pool},
};

const FORMAT: u32 = 1;

/// One thing that was changed on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Deed {
    /// Pages were reserved.
    Pages(PagesDeed),
    /// hugetlbfs was mounted.
    Mount {
        /// Where.
        path: PathBuf,
    },
    /// A card was bound to another driver.
    Card(CardDeed),
}

/// Pages that were reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagesDeed {
    /// Which pages.
    pub pool: Pool,
    /// The pool's persistent pages before.
    pub before: u64,
    /// How many were added to them.
    pub pages: u64,
    /// Whether the kernel has confirmed that. If not, the process may have died on the way.
    pub certain: bool,
    /// How many pages of the pool are there for us, with those that we had not to add.
    pub secured: u64,
}

/// A card that was bound to another driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardDeed {
    /// Which card.
    pub address: PciAddress,
    /// The driver that it was bound to.
    pub driver: DriverName,
    /// The driver that it had before, if any.
    pub original: Option<DriverName>,
    /// Its `driver_override` before, if any.
    pub original_override: Option<DriverName>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    /// Pages and bindings end with the boot, so a record of another boot has nothing to give back.
    boot: String,
    deeds: Vec<Deed>,
}

/// The record, held by this process alone.
pub struct Journal {
    path: PathBuf,
    record: Record,
    /// The folder of the record, locked: the record itself is replaced at every change.
    folder: File,
}

impl Journal {
    /// Takes up the record at `path`, which may be missing.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it; [`Error::Record`] if it is no record.
    pub fn open(host: &Host, path: &Path) -> Result<Self, Error> {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder).map_err(at("make the folder", folder))?;
        let lock = File::open(folder).map_err(at("open", folder))?;
        match lock.try_lock() {
            Ok(()) => (),
            Err(fs::TryLockError::WouldBlock) => return Err(Error::Locked(path.to_owned())),
            Err(fs::TryLockError::Error(source)) => return Err(at("lock", folder)(source)),
        }
        let boot = host.boot()?;
        let record = read(path, &boot)?;
        let record = record.unwrap_or(Record { format: FORMAT, boot, deeds: Vec::new() });
        Ok(Self { path: path.to_owned(), record, folder: lock })
    }

    /// The deeds in the record at `path`, which is neither locked nor changed.
    ///
    /// # Errors
    /// [`Error::Record`] if it is no record.
    pub fn look(host: &Host, path: &Path) -> Result<Vec<Deed>, Error> {
        Ok(read(path, &host.boot()?)?.map(|record| record.deeds).unwrap_or_default())
    }

    /// Everything that was done and not undone, oldest first.
    pub fn deeds(&self) -> &[Deed] {
        &self.record.deeds
    }

    /// Remembers a deed that is about to be done, and answers its place in the list.
    pub(crate) fn begin(&mut self, deed: Deed) -> Result<usize, Error> {
        self.record.deeds.push(deed);
        self.save()?;
        Ok(self.record.deeds.len() - 1)
    }

    /// Remembers more about a deed.
    pub(crate) fn amend(&mut self, index: usize, deed: Deed) -> Result<(), Error> {
        self.record.deeds[index] = deed;
        self.save()
    }

    /// Undoes every deed from the last down to the one at `first`. What cannot be undone stays in
    /// the record and is the second answer; the first is what was.
    pub(crate) fn undo_down_to(&mut self, host: &Host, first: usize) -> (Vec<String>, Vec<String>) {
        let (mut done, mut problems) = (Vec::new(), Vec::new());
        for index in (first..self.record.deeds.len()).rev() {
            match self.undo(host, index) {
                Ok(sentence) => done.extend(sentence),
                Err(error) => problems.push(error.to_string()),
            }
        }
        (done, problems)
    }

    fn undo(&mut self, host: &Host, index: usize) -> Result<Option<String>, Error> {
        let sentence = match self.record.deeds[index].clone() {
            Deed::Pages(deed) => self.undo_pages(host, index, deed)?,
            Deed::Mount { path } => Some(memory::unmount(host, &path)?),
            Deed::Card(deed) => Some(devices::give_back(host, &deed)?),
        };
        self.record.deeds.remove(index);
        self.save()?;
        Ok(sentence)
    }

    fn undo_pages(
        &mut self,
        host: &Host,
        index: usize,
        deed: PagesDeed,
    ) -> Result<Option<String>, Error> {
        if deed.pages == 0 {
            return Ok(None);
        }
        let _change = memory::Change::begin(host)?;
        let leave = memory::without_ours(host, &deed)?;
        // Killed between here and the end, the next attempt must not give the same pages back
        // again: what lies above `leave` is ours, and nothing else.
        let again = PagesDeed { before: leave, certain: false, ..deed };
        self.amend(index, Deed::Pages(again))?;
        memory::give_back(host, deed.pool, leave).map(Some)
    }

    /// Writes the record, whole or not at all; an empty one is removed.
    fn save(&self) -> Result<(), Error> {
        if self.record.deeds.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(at("remove", &self.path)(error))
                }
                _ => Ok(()),
            };
        }
        let text = serde_json::to_vec_pretty(&self.record)
            .map_err(|error| at("write", &self.path)(error.into()))?;
        let new = self.path.with_extension("new");
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
        written.map_err(at("write", &new))?;
        fs::rename(&new, &self.path).map_err(at("replace", &self.path))?;
        self.folder.sync_all().map_err(at("write", &self.path))
    }
}

/// The record at `path`; none if there is none of this boot.
fn read(path: &Path, boot: &str) -> Result<Option<Record>, Error> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("read", path)(error)),
    };
    let wrong = |reason: String| Error::Record { path: path.to_owned(), reason };
    let record: Record = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if record.format != FORMAT {
        return Err(wrong(format!("expected format {FORMAT}, found {}", record.format)));
    }
    Ok(Some(record).filter(|record| record.boot == boot))
}

fn at(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tree::Tree;

    fn mount() -> Deed {
        Deed::Mount { path: "/nowhere/at/all".into() }
    }

    #[test]
    fn a_record_outlives_the_process_that_wrote_it() {
        let tree = Tree::new();
        Journal::open(&tree.host(), &tree.record()).unwrap().begin(mount()).unwrap();
        assert_eq!(Journal::open(&tree.host(), &tree.record()).unwrap().deeds(), [mount()]);
    }

    #[test]
    fn a_record_from_before_the_last_boot_has_nothing_to_give_back() {
        let tree = Tree::new();
        Journal::open(&tree.host(), &tree.record()).unwrap().begin(mount()).unwrap();
        let tree = tree.with("proc/sys/kernel/random/boot_id", "another-boot");
        let mut journal = Journal::open(&tree.host(), &tree.record()).unwrap();
        assert!(journal.deeds().is_empty());
        journal.begin(mount()).unwrap(); // takes the place of the old one
        assert_eq!(journal.deeds(), [mount()]);
    }

    #[test]
    fn two_processes_do_not_write_one_record() {
        let tree = Tree::new();
        let first = Journal::open(&tree.host(), &tree.record()).unwrap();
        let second = Journal::open(&tree.host(), &tree.record());
        assert!(matches!(second, Err(Error::Locked(_))));
        drop(first);
        Journal::open(&tree.host(), &tree.record()).unwrap();
    }

    #[test]
    fn what_is_no_record_is_refused_and_left_alone() {
        let card = |address: &str, driver: &str| {
            format!(
                r#"{{"format":1,"boot":"this-boot","deeds":[{{"card":{{"address":"{address}",
                "driver":"{driver}","original":null,"original_override":null}}}}]}}"#
            )
        };
        let wrong = [
            String::new(),
            "{".to_owned(),
            r#"{"format":2,"boot":"this-boot","deeds":[]}"#.to_owned(),
            r#"{"format":1,"boot":"this-boot","deeds":[],"more":1}"#.to_owned(),
            card("../../../etc", "vfio-pci"),
            card("0000:03:00.0", "../x"),
            card("0000:03:00.0", "-rf"),
        ];
        for text in wrong {
            let tree = Tree::new().with("run/host.json", &text);
            let opened = Journal::open(&tree.host(), &tree.record());
            assert!(matches!(opened, Err(Error::Record { .. })), "{text} was accepted");
            assert_eq!(tree.read("run/host.json"), text);
        }
        let tree = Tree::new().with("run/host.json", &card("0000:03:00.0", "vfio-pci"));
        assert_eq!(Journal::open(&tree.host(), &tree.record()).unwrap().deeds().len(), 1);
    }
}
