//! What was changed on this machine, noted before it is changed, so that exactly that can be undone: also
//! after this program was killed. One line each, newest last. All processes of this program share one record;
//! it is undone when none of them relies on it any more. The kernel's locks end with the processes that hold them.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::error::Error;
use crate::netlink;

/// Where the kernel's parameters are.
const PARAMETERS: &str = "/proc/sys";

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A kernel parameter has another value.
    Parameter {
        /// Below `/proc/sys`.
        path: String,
        /// What it was.
        old: String,
        /// What it is now.
        new: String,
    },
    /// The loopback interface has another address.
    Address(IpAddr),
    /// An interface is up.
    Link(String),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter { path, old, new } => write!(f, "parameter {path} {old} {new}"),
            Self::Address(address) => write!(f, "address {address}"),
            Self::Link(name) => write!(f, "link {name}"),
        }
    }
}

impl Change {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["parameter", path, old, new] if is_parameter(path) => {
                Some(Self::Parameter { path: path.into(), old: old.into(), new: new.into() })
            }
            ["address", address] => address.parse().ok().map(Self::Address),
            ["link", name] => Some(Self::Link(name.into())),
            _ => None,
        }
    }

    /// In words, as it is told.
    pub fn told(&self) -> String {
        match self {
            Self::Parameter { path, old, new } => {
                format!("{}: {old} -> {new}", path.replace('/', "."))
            }
            Self::Address(address) => format!("{address} added to lo"),
            Self::Link(name) => format!("{name} brought up"),
        }
    }

    fn make(&self) -> Result<(), Error> {
        match self {
            Self::Parameter { path, new, .. } => set_parameter(path, new),
            Self::Address(address) => match netlink::add_to_loopback(*address) {
                Ok(()) | Err(Errno::EEXIST) => Ok(()),
                Err(why) => Err(Error::Address { what: "add", address: *address, why }),
            },
            Self::Link(name) => netlink::set_up(name, true).map_err(|why| Error::Link {
                name: name.clone(),
                up: true,
                why,
            }),
        }
    }

    /// What somebody else has changed since is left as it is.
    fn undo(&self) -> Result<(), Error> {
        match self {
            Self::Parameter { path, old, new } => match parameter(path) {
                Ok(now) if now == *new => set_parameter(path, old),
                _ => Ok(()),
            },
            Self::Address(address) => match netlink::remove_from_loopback(*address) {
                Ok(()) | Err(Errno::EADDRNOTAVAIL) => Ok(()),
                Err(why) => Err(Error::Address { what: "remove", address: *address, why }),
            },
            Self::Link(name) => match netlink::set_up(name, false) {
                Ok(()) | Err(Errno::ENODEV) => Ok(()),
                Err(why) => Err(Error::Link { name: name.clone(), up: false, why }),
            },
        }
    }
}

fn is_parameter(path: &str) -> bool {
    path.starts_with("net/ipv") && path.split('/').all(|part| !part.is_empty() && part != "..")
}

/// The value of a kernel parameter.
///
/// # Errors
/// When there is no such parameter.
pub fn parameter(path: &str) -> Result<String, Error> {
    let file = Path::new(PARAMETERS).join(path);
    let read = fs::read_to_string(&file);
    read.map(|text| text.trim().to_owned())
        .map_err(|why| Error::Kernel { path: file.display().to_string(), why })
}

fn set_parameter(path: &str, value: &str) -> Result<(), Error> {
    fs::write(Path::new(PARAMETERS).join(path), value).map_err(|why| Error::Parameter {
        path: path.replace('/', "."),
        value: value.into(),
        why,
    })
}

/// The name of the record in its folder.
const FILE: &str = "changes";
/// Held by whoever reads or writes the record.
const LOCK: &str = "lock";
/// Held by everybody who relies on what was changed.
const IN_USE: &str = "in-use";

/// A file to hold a lock on. None where this process may not write: it cannot note anything there, and so
/// changes nothing.
fn lock_file(folder: &Path, name: &str) -> Result<Option<File>, Error> {
    let path = folder.join(name);
    let opened = match File::open(&path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => fs::create_dir_all(folder)
            .and_then(|()| File::options().append(true).create(true).open(&path)),
        opened => opened,
    };
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(why) if matches!(why.kind(), PermissionDenied | ReadOnlyFilesystem) => Ok(None),
        Err(why) => Err(Error::Record { path: path.display().to_string(), why }),
    }
}

/// Has what was changed stay until this value goes out of scope, or its process ends.
pub struct Reliance(#[expect(dead_code, reason = "the lock ends with it")] Option<File>);

impl Reliance {
    /// On the changes noted in `folder`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn on(folder: &Path) -> Result<Self, Error> {
        let file = lock_file(folder, IN_USE)?;
        match file.as_ref().map_or(Ok(()), File::lock_shared) {
            Ok(()) => Ok(Self(file)),
            Err(why) => Err(Error::Record { path: folder.join(IN_USE).display().to_string(), why }),
        }
    }
}

/// The changes made, which nobody else reads or writes as long as this value lives.
#[derive(Debug)]
pub struct Record {
    folder: PathBuf,
    file: PathBuf,
    changes: Vec<Change>,
    #[expect(dead_code, reason = "the lock ends with it")]
    lock: Option<File>,
}

impl Record {
    /// The changes noted in `folder`, which may be none. Waits while another process makes some.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let lock = lock_file(folder, LOCK)?;
        lock_file(folder, IN_USE)?; // there for those who may rely on the changes and may not write here
        lock.as_ref()
            .map_or(Ok(()), File::lock)
            .map_err(|why| Error::Record { path: folder.join(LOCK).display().to_string(), why })?;
        let file = folder.join(FILE);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(why) if why.kind() == io::ErrorKind::NotFound => String::new(),
            Err(why) => return Err(Error::Record { path: file.display().to_string(), why }),
        };
        // A line without its end is of a change that was never made.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let read = |(line, text): (usize, &str)| {
            Change::parse(text).ok_or_else(|| Error::Foreign {
                path: file.display().to_string(),
                line,
                text: text.into(),
            })
        };
        let changes: Result<_, _> = (1..).zip(whole.lines()).map(read).collect();
        let changes = changes?;
        Ok(Self { folder: folder.to_owned(), file, changes, lock })
    }

    /// Makes a change, and notes it before, once however often it is made.
    ///
    /// # Errors
    /// When it cannot be noted or made; it is not noted then.
    pub fn make(&mut self, change: Change) -> Result<(), Error> {
        if self.changes.contains(&change) {
            return change.make();
        }
        self.changes.push(change);
        self.write()?;
        let made = self.changes.last().map_or(Ok(()), Change::make);
        if made.is_err() {
            self.changes.pop();
            self.write()?;
        }
        made
    }

    /// Undoes every change, the newest first; says what it was.
    ///
    /// # Errors
    /// When somebody relies on them. When one cannot be undone: that one and those before it stay noted.
    pub fn undo(mut self, mut tell: impl FnMut(&Change)) -> Result<(), Error> {
        let users = lock_file(&self.folder, IN_USE)?;
        match users.as_ref().map_or(Ok(()), File::try_lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse),
            Err(TryLockError::Error(why)) => {
                let path = self.folder.join(IN_USE).display().to_string();
                return Err(Error::Record { path, why });
            }
        }
        while let Some(change) = self.changes.last() {
            change.undo()?;
            tell(change);
            self.changes.pop();
            self.write()?;
        }
        Ok(())
    }

    /// Written whole or not at all.
    fn write(&self) -> Result<(), Error> {
        let written = || {
            if self.changes.is_empty() {
                return match fs::remove_file(&self.file) {
                    Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
                    _ => Ok(()),
                };
            }
            if let Some(folder) = self.file.parent() {
                fs::create_dir_all(folder)?;
            }
            let beside = self.file.with_extension("new");
            let mut file = File::create(&beside)?;
            self.changes.iter().try_for_each(|change| writeln!(file, "{change}"))?;
            file.sync_all()?;
            fs::rename(&beside, &self.file)
        };
        written().map_err(|why| Error::Record { path: self.file.display().to_string(), why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_as_it_was_written() {
        for change in [
            Change::Parameter {
                path: "net/ipv4/conf/eth0.5/arp_ignore".into(),
                old: "0".into(),
                new: "1".into(),
            },
            Change::Address("10.0.0.100".parse().unwrap()),
            Change::Address("2001:db8::100".parse().unwrap()),
            Change::Link("tunl0".into()),
        ] {
            assert_eq!(Change::parse(&change.to_string()), Some(change));
        }
        for wrong in [
            "",
            "parameter kernel/core_pattern x y",
            "parameter net/ipv4/../../kernel/core_pattern x y",
            "parameter net/ipv4//etc x y",
            "parameter net/ipv4/conf/all/arp_ignore 0",
            "address lo",
        ] {
            assert_eq!(Change::parse(wrong), None, "{wrong:?}");
        }
    }

    fn read(folder: &Path) -> Vec<Change> {
        Record::open(folder).unwrap().changes
    }

    #[test]
    fn a_line_without_its_end_is_of_no_change_and_a_foreign_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), []);
        let file = folder.path().join("changes");
        fs::write(&file, "address 10.0.0.100\naddress 10.0.0.1").unwrap();
        assert_eq!(read(folder.path()), [Change::Address("10.0.0.100".parse().unwrap())]);
        fs::write(&file, "address 10.0.0.100\nrm -rf\n").unwrap();
        let refused = Record::open(folder.path()).unwrap_err().to_string();
        assert!(
            refused.ends_with("changes, line 2: not written by this program: \"rm -rf\""),
            "{refused}"
        );
    }

    #[test]
    fn a_change_that_fails_is_not_noted() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = Record::open(folder.path()).unwrap();
        let change = Change::Link("no-such-link".into());
        assert!(record.make(change).is_err());
        assert!(!folder.path().join("changes").exists());
    }

    #[test]
    fn nothing_is_undone_while_somebody_relies_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("changes");
        fs::write(&file, "link no-such-link\n").unwrap();
        let first = Reliance::on(folder.path()).unwrap();
        let second = Reliance::on(folder.path()).unwrap();
        let undo = || Record::open(folder.path()).unwrap().undo(|_| {});
        drop(first);
        assert!(matches!(undo(), Err(Error::InUse)));
        assert!(file.exists());
        drop(second);
        undo().unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn two_who_note_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let note = |name: String| {
            let mut record = Record::open(folder.path()).unwrap();
            record.changes.push(Change::Link(name));
            record.write().unwrap();
        };
        std::thread::scope(|scope| {
            for name in 0..16 {
                scope.spawn(move || note(format!("link{name}")));
            }
        });
        assert_eq!(read(folder.path()).len(), 16);
    }
}
