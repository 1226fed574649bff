//! The control thread: one asynchronous runtime that turns the node, answers the admin API and
//! listens to signals, until it is told to stop.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use dataplane::snapshot::TRANSLATED_PORTS;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

use crate::admin::auth::Tokens;
use crate::admin::{self, certificate, listen};
use crate::alerts::reach::{Network, Networks};
use crate::alerts::{self, Pace};
use crate::net::Listen as _;
use crate::net::in_band::Listener;
use crate::net::kernel::Kernel;
use crate::node::{Node, Start};
use crate::pages;
use crate::store;
use crate::triggers;

/// Threads for what may take long: file writes, names looked up, large answers. More than there are kinds of such work,
/// so that none waits for another that a disk or a name server holds up.
const HELPERS: usize = 8;
/// Their nice value: they share the control thread's core, and are not as urgent.
pub(crate) const HELPING: i32 = 0;
/// The control thread's nice value, where we may choose: whatever else runs on its core, it is not to be late.
const URGENT: i32 = -10;

/// Why the control plane could not start.
#[derive(Debug, Error)]
pub enum Error {
    /// The system refuses a thread, an event queue or a signal handler.
    #[error("cannot set up the control thread: {0}")]
    System(#[from] io::Error),
    /// There is no certificate to show.
    #[error("[admin] certificate: {0}")]
    Certificate(#[from] certificate::Error),
    /// Nobody could connect.
    #[error(transparent)]
    Listen(#[from] listen::Error),
    /// The state directory cannot be used.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The control thread before it has a node to turn. Made before the devices are opened: from then
/// on a signal to stop is kept until it can be obeyed, and no card is left behind.
pub struct Control {
    runtime: Runtime,
    signals: Signals,
    /// The cores that this thread had at first.
    had: Option<CpuSet>,
    /// The cores of threads that help, unless they are this thread's.
    helpers: Arc<OnceLock<CpuSet>>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Control {
    /// Takes over the process's signals.
    ///
    /// # Errors
    ///
    /// When the system refuses a thread, an event queue or a signal handler.
    pub fn prepare() -> Result<Self, Error> {
        let helpers = Arc::default();
        let runtime = runtime(&helpers)?;
        let entered = runtime.enter();
        let signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        };
        drop(entered);
        let had = sched_getaffinity(Pid::from_raw(0)).ok();
        Ok(Self { runtime, signals, had, helpers })
    }

    /// Gives threads that help, and the operator's programs, which they start, all the cores that this thread had at
    /// first but `workers`; if none is left, they share this thread's.
    pub fn keep_helpers_off(&self, workers: &[usize]) {
        if let Some(cores) = self.had.and_then(|had| without(had, workers)) {
            let _ = self.helpers.set(cores);
        }
    }

    /// Runs the node on this thread until SIGTERM or SIGINT; SIGHUP reads the operator's FILE
    /// again. `started` is called once the node turns and the admin API can be reached.
    ///
    /// # Errors
    ///
    /// When the admin API cannot be reached by anybody: its certificate, its token or a socket is
    /// unusable.
    pub fn run(self, start: Start, started: impl FnOnce(&Arc<Node>)) -> Result<(), Error> {
        let Self { runtime, mut signals, .. } = self;
        runtime.block_on(async {
            let node = Node::start(start);
            let socket = node.view().config.admin.socket.clone();
            serve(&node).await?;
            tokio::spawn(Arc::clone(&node).run());
            tokio::spawn(Arc::clone(&node).ask_servers(node.net(), Arc::default()));
            tokio::spawn(pages::serve(Arc::clone(&node)));
            tell(&node, Pace::default());
            started(&node);
            let _ = rustix::process::setpriority_process(None, URGENT);
            signals.obey(&node).await;
            // The next start would find out by itself that nobody answers there any more.
            let _ = fs::remove_file(socket);
            Ok(())
        })
    }
}

/// A runtime whose helpers, and what they start, are not as urgent as its own thread, and need not share its core.
fn runtime(helpers: &Arc<OnceLock<CpuSet>>) -> io::Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    let helpers = Arc::clone(helpers);
    builder.on_thread_start(move || {
        let _ = rustix::process::setpriority_process(None, HELPING); // they work without, too
        if let Some(cores) = helpers.get() {
            let _ = sched_setaffinity(Pid::from_raw(0), cores); // as above
        }
    });
    builder.enable_all().max_blocking_threads(HELPERS).build()
}

/// The cores that are left, if any.
fn without(cores: CpuSet, taken: &[usize]) -> Option<CpuSet> {
    let mut left = CpuSet::new();
    let all = (0..CpuSet::count()).filter(|&core| cores.is_set(core).unwrap_or(false));
    let mut others = all.filter(|core| !taken.contains(core)).peekable();
    others.peek()?;
    others.try_for_each(|core| left.set(core)).ok()?;
    Some(left)
}

/// Begins to tell others what changes, and to do what is to be done about it.
pub fn tell(node: &Arc<Node>, pace: Pace) {
    let networks = Networks::new(Network::over(Kernel), Network::over(node.net()));
    alerts::start(node, &networks, pace);
    triggers::start(node, &networks, pace);
}

/// Opens every door to the admin API.
///
/// # Errors
///
/// When one cannot be opened.
pub async fn serve(node: &Arc<Node>) -> Result<(), Error> {
    let config = node.view().config.admin.clone();
    let tokens = Tokens::of(node.store())?;
    let router = admin::router(Arc::clone(node), tokens);
    let unix = listen::unix(&config.socket)?;
    tokio::spawn(listen::serve_unix(unix, router.clone()));
    if config.listen.is_empty() {
        return Ok(());
    }
    let tls = match &config.certificate {
        Some(files) => certificate::given(&files.chain, &files.key)?,
        None => certificate::own(node.store(), &node.view().config.node, &config.listen)?,
    };
    let tls = TlsAcceptor::from(tls);
    if config.in_band {
        for listener in in_band(node, &config.listen)? {
            tokio::spawn(listen::serve_tls(listener, tls.clone(), router.clone()));
        }
    }
    for address in config.listen {
        let listener = listen::tcp(address)?;
        let address = listener.local_addr().unwrap_or(address);
        info!("the admin API is at https://{address}/api/docs");
        tokio::spawn(listen::serve_tls(listener, tls.clone(), router.clone()));
    }
    Ok(())
}

/// Listens on the data ports, once on every port that the kernel's addresses are listened on.
fn in_band(node: &Arc<Node>, listen: &[SocketAddr]) -> Result<Vec<Listener>, Error> {
    let ports: BTreeSet<u16> = listen.iter().map(SocketAddr::port).collect();
    let ports = ports.into_iter().filter(|port| !TRANSLATED_PORTS.contains(port));
    let net = node.net();
    let listen = |port| {
        info!("the admin API is on the data ports, too: https at port {port}");
        net.listen(None, port).map_err(Error::System)
    };
    ports.map(listen).collect()
}

impl Signals {
    /// Until one says stop.
    async fn obey(&mut self, node: &Arc<Node>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break info!("SIGTERM: stopping"),
                _ = self.interrupt.recv() => break info!("SIGINT: stopping"),
                _ = self.hang_up.recv() => reload(node).await,
            }
        }
    }
}

async fn reload(node: &Arc<Node>) {
    match node.reload().await {
        Ok(_) => info!("SIGHUP: the configuration file was read again"),
        Err(crate::node::Refusal::Invalid(mistakes)) => {
            error!("SIGHUP: the configuration file was refused, and nothing was changed");
            mistakes.iter().for_each(|mistake| error!("{mistake}"));
        }
        Err(refusal) => error!("SIGHUP: {refusal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Ground, Said, Script};

    #[test]
    fn programs_are_neither_urgent_nor_kept_on_the_control_threads_core() {
        let had = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let all = (0..CpuSet::count()).filter(|&core| had.is_set(core).unwrap());
        let all: Vec<_> = all.collect();
        let mut own = CpuSet::new();
        own.set(all[0]).unwrap();
        let runtime = runtime(&Arc::new(OnceLock::from(had))).unwrap();
        rustix::process::setpriority_process(None, URGENT).unwrap();
        sched_setaffinity(Pid::from_raw(0), &own).unwrap();
        let mut said = Said::default();
        let script = Script {
            program: "/bin/sh".as_ref(),
            ground: &Ground::default(),
            arguments: ["-c", "echo $(nice) $(nproc)"].map(Into::into).into(),
            input: b"",
        };
        assert!(runtime.block_on(script.run(&mut said)).unwrap().success());
        assert_eq!(said.first_line(), format!("0 {}", all.len()).as_bytes());
    }

    #[test]
    fn helpers_stay_off_the_cores_of_workers_where_others_are_left() {
        let set = |cores: &[usize]| {
            let mut set = CpuSet::new();
            cores.iter().for_each(|&core| set.set(core).unwrap());
            set
        };
        assert_eq!(without(set(&[0, 1, 2, 7]), &[1, 7, 9]), Some(set(&[0, 2])));
        assert_eq!(without(set(&[1, 2]), &[2, 1]), None);
    }
}
