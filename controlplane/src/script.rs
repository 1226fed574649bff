//! Programs of the operator's, which checks and triggers run: with a bare environment, as the user whom the operator
//! names, and gone with all that they have started and that has stayed in their process group.
//!
//! Unless it runs as somebody else, a program has the powers of root. Then nobody but root may be able to change it, or
//! to put another in its place.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User, geteuid};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How much of its output is kept, and of its complaints, in bytes.
const KEPT: usize = 4096;
/// How long what it has started may still say something when it has ended.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Where `sluice ctl` reaches a node, unless its operator or this variable says otherwise.
pub const SOCKET: &str = "/run/sluice/admin.sock";
/// The variable.
pub const SOCKET_VARIABLE: &str = "SLUICE_SOCKET";
/// Where it finds programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Becomes another user with all of that user's groups, and then the program. The standard library cannot give a
/// program more than one group.
const SETPRIV: &str = "/usr/bin/setpriv";
/// How many links a path may lead over, as in Linux (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// A program with what it is given.
pub struct Script<'s> {
    /// Where it lies.
    pub program: &'s Path,
    /// What it has in common with all others.
    pub ground: &'s Ground,
    /// Its command line.
    pub arguments: Vec<OsString>,
    /// Its standard input.
    pub input: &'s [u8],
}

/// What all programs have in common, for as long as the node runs: whoever may change the configuration of a running
/// node must not be able to run whatever is installed.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The directory that they must lie in, or below it.
    pub directory: PathBuf,
    /// Whom they run as: root if nobody is named.
    pub user: Option<String>,
    /// Where `sluice ctl` reaches the node.
    pub socket: PathBuf,
}

impl Default for Ground {
    fn default() -> Self {
        Self { directory: "/".into(), user: None, socket: SOCKET.into() }
    }
}

/// A program that runs. The group ends before its leader, whose number is its name, is forgotten.
struct Running {
    _group: Group,
    child: Child,
}

/// The beginning of what a program said.
#[derive(Debug, Default)]
pub struct Said {
    /// On its standard output.
    pub output: Vec<u8>,
    /// On its standard error.
    pub complaints: Vec<u8>,
}

impl Said {
    /// The first line of its output, or else of its complaints, without its end.
    pub fn first_line(&self) -> &[u8] {
        let first = |said: &'_ [u8]| said.iter().position(|&byte| byte == b'\n');
        let said = if self.output.is_empty() { &self.complaints } else { &self.output };
        &said[..first(said).unwrap_or(said.len())]
    }
}

impl Script<'_> {
    /// Runs it until it ends. Whoever does not wait for that ends it.
    ///
    /// # Errors
    ///
    /// In words, when it may not run or cannot.
    pub async fn run(&self, said: &mut Said) -> Result<ExitStatus, String> {
        let (program, ground) = (self.program.to_owned(), self.ground.clone());
        let arguments = self.arguments.clone();
        // It inherits the urgency and the cores of the thread that starts it: not the control thread's.
        let started = spawn_blocking(move || start(&program, &ground, &arguments));
        let Running { child, .. } = &mut started.await.map_err(|error| error.to_string())??;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let give = async {
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(self.input).await; // it need not read
            }
        };
        let Said { output, complaints } = said;
        let hear = async { tokio::join!(give, keep(stdout, output), keep(stderr, complaints)) };
        tokio::pin!(hear);
        let ended = tokio::select! {
            status = child.wait() => {
                let _ = timeout(LAST_WORDS, hear.as_mut()).await;
                status
            }
            _ = hear.as_mut() => child.wait().await,
        };
        ended.map_err(|error| error.to_string())
    }
}

fn start(program: &Path, ground: &Ground, arguments: &[OsString]) -> Result<Running, String> {
    let child = command(program, ground)?
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C")
        .env(SOCKET_VARIABLE, &ground.socket)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    Ok(Running { _group: Group::of(child.id()), child })
}

/// What runs a program on this ground. Asks the system, and so may take a while.
fn command(program: &Path, ground: &Ground) -> Result<Command, String> {
    let user = ground.user.as_deref().map(account).transpose()?.filter(|user| !user.uid.is_root());
    let find = |path: &Path| match &user {
        Some(_) => fs::canonicalize(path).map_err(|error| unusable(path, &error)),
        None => trusted(path),
    };
    let found = find(program)?;
    let directory = &ground.directory;
    if !found.starts_with(find(directory)?) {
        return Err(format!("{} leads out of {}", program.display(), directory.display()));
    }
    if !found.is_file() {
        return Err(format!("{} is no file", program.display()));
    }
    let Some(user) = user else { return Ok(Command::new(found)) };
    let mut command = Command::new(SETPRIV);
    command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
    command.arg("--init-groups").arg("--").arg(found);
    Ok(command)
}

/// The user of this name.
///
/// # Errors
///
/// In words, when there is none.
pub fn account(name: &str) -> Result<User, String> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(format!("there is no user {name}")),
        Err(error) => Err(format!("the user {name} cannot be looked up: {error}")),
    }
}

/// Where a path leads, if nobody but root, or who runs us, can change what lies there or on the way, over links, too.
fn trusted(path: &Path) -> Result<PathBuf, String> {
    let mut found = PathBuf::from("/");
    let mut left = parts(path);
    let mut links = 0;
    judge(&found, &fs::metadata(&found).map_err(|error| unusable(&found, &error))?)?;
    while let Some(part) = left.pop() {
        if part == ".." {
            found.pop();
            continue;
        }
        let next = found.join(part);
        let metadata = fs::symlink_metadata(&next).map_err(|error| unusable(&next, &error))?;
        judge(&next, &metadata)?;
        if !metadata.is_symlink() {
            found = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(format!("{} leads over too many links", path.display()));
        }
        let target = fs::read_link(&next).map_err(|error| unusable(&next, &error))?;
        if target.is_absolute() {
            found = "/".into();
        }
        left.extend(parts(&target));
    }
    Ok(found)
}

/// The parts of a path from the last to the first.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

/// In a sticky directory, such as /tmp, everybody can make what is not there, but change only what is theirs. A link's
/// own mode says nothing.
fn judge(path: &Path, found: &Metadata) -> Result<(), String> {
    const WRITABLE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let is_ours = found.uid() == 0 || found.uid() == geteuid().as_raw();
    let is_kept = found.mode() & WRITABLE == 0
        || found.is_symlink()
        || found.is_dir() && found.mode() & STICKY != 0;
    match is_ours && is_kept {
        true => Ok(()),
        false => Err(format!("others than root can change {}", path.display())),
    }
}

fn unusable(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Reads to the end, so that it does not wait for us; keeps the beginning.
async fn keep(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut piece = [0; 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let room = KEPT.saturating_sub(into.len());
        into.extend_from_slice(&piece[..length.min(room)]);
    }
}

/// All processes that a program started and that did not leave its group; they end with it.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL); // it may have ended by itself
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::testing::write_program;

    /// A program in a directory of its own.
    fn program(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        allow(directory.path(), 0o755);
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        allow(&inner, 0o755);
        let path = inner.join("program");
        write_program(&path, text);
        (directory, path)
    }

    fn allow(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    async fn run(path: &Path, user: Option<&str>) -> Result<String, String> {
        let ground = Ground { user: user.map(str::to_owned), ..Ground::default() };
        run_on(path, &ground).await
    }

    async fn run_on(path: &Path, ground: &Ground) -> Result<String, String> {
        let mut said = Said::default();
        let script = Script { program: path, ground, arguments: Vec::new(), input: b"" };
        let status = script.run(&mut said).await?;
        let first = String::from_utf8_lossy(said.first_line()).into_owned();
        if status.success() { Ok(first) } else { Err(format!("{status}: {first}")) }
    }

    #[tokio::test]
    async fn a_program_runs_as_the_user_who_is_named_with_the_groups_of_that_user_alone() {
        let (_directory, path) = program("echo $(id -u) $(id -g) $(id -G)");
        let nobody = account("nobody").unwrap();
        let (uid, gid) = (nobody.uid, nobody.gid);
        assert_eq!(run(&path, Some("nobody")).await, Ok(format!("{uid} {gid} {gid}")));
        assert!(run(&path, None).await.unwrap().starts_with(&format!("{} ", geteuid())));
        let refused = run(&path, Some("no-such-user")).await;
        assert_eq!(refused, Err("there is no user no-such-user".into()));
    }

    #[tokio::test]
    async fn a_program_lies_below_its_directory_and_knows_where_the_node_is() {
        let (directory, path) = program("echo $SLUICE_SOCKET");
        for user in [None, Some("nobody".to_owned())] {
            let socket = "/run/other.sock".into();
            let mut ground = Ground { directory: directory.path().into(), user, socket };
            assert_eq!(run_on(&path, &ground).await, Ok("/run/other.sock".into()));
            let refused = run_on("/usr/bin/env".as_ref(), &ground).await.unwrap_err();
            let inner = directory.path().display();
            assert_eq!(refused, format!("/usr/bin/env leads out of {inner}"));
            ground.directory = directory.path().join("other");
            assert!(run_on(&path, &ground).await.is_err());
        }
    }

    #[tokio::test]
    async fn what_others_than_root_could_change_does_not_run_as_root() {
        let (directory, path) = program("echo ran");
        let inner = path.parent().unwrap();
        assert_eq!(run(&path, None).await, Ok("ran".into()));
        for part in [&path, inner, directory.path()] {
            for mode in [0o775, 0o757] {
                allow(part, mode);
                let refused = format!("others than root can change {}", part.display());
                for user in [None, Some("root")] {
                    assert_eq!(run(&path, user).await, Err(refused.clone()), "{mode:o}");
                }
                assert_eq!(run(&path, Some("nobody")).await, Ok("ran".into()), "{mode:o}");
            }
            allow(part, 0o755);
        }
        let nobody = account("nobody").unwrap();
        std::os::unix::fs::chown(inner, Some(nobody.uid.as_raw()), None).unwrap();
        assert!(run(&path, None).await.unwrap_err().starts_with("others than root can change"));
    }

    #[tokio::test]
    async fn links_are_no_way_around_that() {
        let (_directory, path) = program("echo ran");
        let (others, open) = program("echo mine");
        let folder = open.parent().unwrap();
        let link = folder.join("link");
        symlink(&path, &link).unwrap();
        let kept = path.with_file_name("kept");
        symlink(&link, &kept).unwrap();
        assert_eq!(run(&kept, None).await, Ok("ran".into()));
        allow(folder, 0o777);
        let refused = format!("others than root can change {}", folder.display());
        assert_eq!(run(&kept, None).await, Err(refused.clone()));
        assert_eq!(run(&link, None).await, Err(refused));
        allow(folder, 0o755);
        let loops = others.path().join("loop");
        symlink(&loops, &loops).unwrap();
        assert!(run(&loops, None).await.unwrap_err().ends_with("leads over too many links"));
    }
}
