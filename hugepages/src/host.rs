//! Where the kernel's files are: `/sys`, `/proc` and `/dev` below one root, so that everything
//! that reads them can be tested against a tree of plain files.

use std::{
    fs, io,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};

use crate::Error;

/// A host: the running one, or a made tree of files that looks like one.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    /// Addresses on interfaces are the one thing that the kernel has no file for.
    addresses: Option<Vec<(String, IpAddr)>>,
}

impl Host {
    /// The host that this program runs on.
    pub fn real() -> Self {
        Self { root: PathBuf::from("/"), addresses: None }
    }

    /// The tree below `root`, which has `sys`, `proc` and `dev` in it. No module is loaded and
    /// nothing is mounted for such a host.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), addresses: Some(Vec::new()) }
    }

    /// The same made tree, with one more address on one of its interfaces.
    pub fn with_address(mut self, interface: &str, address: IpAddr) -> Self {
        self.addresses.get_or_insert_default().push((interface.to_owned(), address));
        self
    }

    /// Where `path`, which begins at the root of the host, really is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The content of a file without the white space around it.
    pub(crate) fn read(&self, path: &str) -> Result<String, Error> {
        let path = self.path(path);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(source) => Err(Error::File { action: "read", path, source }),
        }
    }

    /// The same, for a file that need not be there.
    pub(crate) fn read_if_there(&self, path: &str) -> Option<String> {
        self.read(path).ok()
    }

    /// Writes to a file that the kernel, or a test, has made.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<(), Error> {
        let path = self.path(path);
        let written = fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| Error::File { action: "write", path, source })
    }

    /// Whether there is anything at `path`.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The names in a folder, sorted; none if there is no such folder.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// The last part of what a symbolic link points at; none if there is no such link.
    pub(crate) fn link_name(&self, link: &str) -> Option<String> {
        let target = fs::read_link(self.path(link)).ok()?;
        target.file_name()?.to_str().map(str::to_owned)
    }

    /// Every address on every interface of this network namespace.
    pub(crate) fn addresses(&self) -> Result<Vec<(String, IpAddr)>, Error> {
        if let Some(addresses) = &self.addresses {
            return Ok(addresses.clone());
        }
        let all = getifaddrs().map_err(|errno| Error::File {
            action: "list the addresses in",
            path: PathBuf::from("/proc/net"),
            source: errno.into(),
        })?;
        Ok(all.filter_map(|one| Some((one.interface_name, ip(&one.address?)?))).collect())
    }

    /// Loads a kernel module unless it is there already.
    pub(crate) fn load_module(&self, module: &str) -> Result<(), Error> {
        if self.has(&format!("/sys/module/{}", module.replace('-', "_"))) {
            return Ok(());
        }
        let failed = |reason: String| Error::Module { module: module.to_owned(), reason };
        if self.root != Path::new("/") {
            return Err(failed("this is not the running host".to_owned()));
        }
        match Command::new("modprobe").arg(module).output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(failed("there is no modprobe (package kmod)".to_owned()))
            }
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The programs that have the device file `device` open, each as `name (process id)`.
    pub(crate) fn holders(&self, device: &str) -> Vec<String> {
        let holds = |process: &String| {
            process.bytes().all(|byte| byte.is_ascii_digit()) && self.holds(process, device)
        };
        let describe = |process: String| {
            let name = self.read_if_there(&format!("/proc/{process}/comm")).unwrap_or_default();
            format!("{name} (process {process})")
        };
        self.names("/proc").into_iter().filter(holds).map(describe).collect()
    }

    fn holds(&self, process: &str, device: &str) -> bool {
        let folder = self.path(&format!("/proc/{process}/fd"));
        let Ok(files) = fs::read_dir(folder) else { return false };
        files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|to| to == Path::new(device)))
    }

    /// What tells this boot from every other.
    pub(crate) fn boot(&self) -> Result<String, Error> {
        self.read("/proc/sys/kernel/random/boot_id")
    }
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
}

/// Plain files in a temporary folder, in the places where the kernel's files would be.
#[cfg(test)]
pub(crate) mod tree {
    use super::*;

    pub(crate) struct Tree(tempfile::TempDir);

    impl Tree {
        pub(crate) fn new() -> Self {
            let tree = Self(tempfile::tempdir().expect("a temporary folder"));
            tree.with("proc/sys/kernel/random/boot_id", "this-boot\n")
        }

        /// A file with this content, and the folders that it needs.
        pub(crate) fn with(self, path: &str, content: &str) -> Self {
            let path = self.ready(path);
            fs::write(path, content).expect("a file in the tree");
            self
        }

        /// A symbolic link, as `driver` and `iommu_group` are.
        pub(crate) fn link(self, path: &str, target: &str) -> Self {
            let path = self.ready(path);
            let _ = fs::remove_file(&path);
            std::os::unix::fs::symlink(target, path).expect("a link in the tree");
            self
        }

        /// An empty folder.
        pub(crate) fn folder(self, path: &str) -> Self {
            self.ready(&format!("{path}/x"));
            self
        }

        fn ready(&self, path: &str) -> PathBuf {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().expect("a path in the tree")).expect("a folder");
            path
        }

        pub(crate) fn host(&self) -> Host {
            Host::at(self.0.path())
        }

        pub(crate) fn read(&self, path: &str) -> String {
            self.host().read(path).expect("a file in the tree")
        }

        pub(crate) fn record(&self) -> PathBuf {
            self.0.path().join("run/host.json")
        }
    }
}
