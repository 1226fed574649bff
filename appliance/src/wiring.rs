//! Who gets which core, queue, ring, pool and reader. [`Wiring::lay`] opens everything;
//! [`Wiring::start`] sets the workers going; [`Running::stop`] takes it all down again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use controlplane::config::{Config, Device, Interface, Polling};
use controlplane::plumbing::{Buffers, LiveInterface, Plumbing, PortStatistics};
use dataplane::counters::Counters;
use dataplane::defence::cookie::Cookies;
use dataplane::defence::limits::Rates;
use dataplane::fragments::Fragments;
use dataplane::handover::colleagues;
use dataplane::lookup::flow_table::{Capacity, Directory, FlowTable, Key, WorkerId};
use dataplane::lookup::load::{Full, Loads};
use dataplane::lookup::persistence::Persistence;
use dataplane::lookup::scheduler::Schedules;
use dataplane::lookup::slab::{Huge, OutOfMemory};
use dataplane::lookup::{Memory as WorkerMemory, NOWHERE_YET};
use dataplane::punt;
use dataplane::shared_map::SharedMap;
use dataplane::snapshot::{MAX_SERVICES, Snapshot, publication};
use dataplane::toeplitz::{Hashes, Spreading};
use dataplane::wire::Mac;
use dataplane::worker::{Parts, Worker};
use dpdk_sys::lcore::{self, PinnedThread};
use dpdk_sys::{Eal, EalOptions, LogLevel, Mempool, Port, PortSettings, StartedPort};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{error, info};

use crate::cards;
use crate::cores::Cores;
use crate::link::PortLink;
use crate::memory::{self, Memory};
use crate::moments::Clock;

/// Frames that each receive and each transmit queue holds.
const DESCRIPTORS: u16 = 1024;

/// Buckets in which new flows are counted by the client's network, in each of two rows.
const NETWORKS: usize = 65_536;

/// Everything opened and joined, and nothing moving yet.
pub struct Wiring {
    eal: Eal,
    workers: Vec<(usize, Worker<PortLink>)>,
    polling: Polling,
    clock: Clock,
}

impl Wiring {
    /// Starts DPDK, opens every device of `config` and builds the workers; gives what belongs to the control
    /// plane besides.
    ///
    /// # Errors
    /// Whatever could not be opened, with what to do about it. Everything opened before is closed again.
    pub fn lay(config: &Config, cores: &Cores, memory: Memory) -> Result<(Self, Plumbing)> {
        let number = cores.workers.len();
        let eal = Eal::start(&EalOptions {
            program: "sluice".into(),
            memory: memory.of_eal(config, number),
            control_core: cores.control,
            allowed: cards::named_in(config),
            log: LogLevel::Warning,
        })?;
        let clock = Clock::starting_now(eal.tsc_hz());
        let buffers = memory::buffers(config, number);
        let pool = Mempool::new(&eal, "frames", buffers, memory::room(config), None)
            .context("the packet buffers do not fit the memory")?;
        let (publisher, readers) = publication(Snapshot::default(), number);
        let counters: Vec<_> = (0..number).map(|_| Counters::new()).collect();
        let mut opened = Vec::new();
        for port in config.ports() {
            opened.push(Opened::new(&eal, port.device, port.mtu, number, &pool)?);
        }
        let interfaces =
            config.interfaces.iter().map(|it| live(it, &opened[usize::from(config.port_of(it).0)]));
        let interfaces = interfaces.collect();
        let spreading: Vec<_> = opened.iter().map(|port| port.spreading.clone()).collect();
        let mut links: Vec<Vec<PortLink>> = (0..number).map(|_| Vec::new()).collect();
        for port in opened {
            for (worker, link) in links.iter_mut().zip(port.links) {
                worker.push(link);
            }
        }
        let shared = Shared::new(&eal, config, number, counters.clone())?;
        let mut rings = Vec::new();
        let mut workers = Vec::new();
        let parts = readers.into_iter().zip(links).zip(colleagues(number));
        for (index, ((snapshots, links), colleagues)) in parts.enumerate() {
            let (worker_end, control_end) = punt::rings();
            rings.push(control_end);
            let worker = Worker::new(Parts {
                links,
                snapshots,
                memory: shared.memory(&eal, config, index, spreading.clone())?,
                fragments: Fragments::new(config.dataplane.fragments as usize, pair()),
                control: worker_end,
                colleagues,
                counters: counters[index].clone(),
                random: random() as u16,
            });
            workers.push((cores.workers[index], worker));
        }
        let plumbing = Plumbing {
            publisher,
            counters,
            rings,
            interfaces,
            buffers: Box::new(move || Buffers {
                capacity: pool.capacity(),
                available: pool.available(),
            }),
            clock: Box::new(move || clock.now()),
        };
        Ok((Self { eal, workers, polling: config.dataplane.polling, clock }, plumbing))
    }

    /// Sets the workers going, each on its core.
    ///
    /// # Errors
    /// If a core cannot be used; workers that had begun have stopped then.
    pub fn start(self) -> Result<Running> {
        let Self { eal, workers, polling, clock } = self;
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = Running { threads: Vec::new(), stop: Arc::clone(&stop), eal };
        let rest = match polling {
            Polling::Adaptive => rest_when_idle,
            Polling::Busy => |_| std::hint::spin_loop(),
        };
        for (index, (core, worker)) in workers.into_iter().enumerate() {
            let told = Arc::clone(&stop);
            let started =
                lcore::spawn_pinned(&running.eal, core, &format!("worker-{index}"), move || {
                    let _alarm = Alarm;
                    worker.run(&told, || clock.now(), rest);
                });
            match started {
                Ok(thread) => running.threads.push(thread),
                Err(refused) => {
                    running.stop()?;
                    return Err(refused.into());
                }
            }
            info!(worker = index, core, "worker started");
        }
        Ok(running)
    }
}

/// What all workers have in common.
struct Shared {
    key: Key,
    cookies: Cookies,
    persistence: Arc<Persistence>,
    /// Where there is more than one worker.
    directory: Option<Arc<SharedMap>>,
    full: Full,
    counters: Vec<Counters>,
}

impl Shared {
    fn new(eal: &Eal, config: &Config, workers: usize, counters: Vec<Counters>) -> Result<Self> {
        let huge = Huge { eal, numa: None };
        let flows = config.dataplane.flows as usize + config.dataplane.flows_ipv6() as usize;
        // Each flow has two keys in a map with two slots for each it has room for, and a full map is a slow one.
        let keys = flows * workers * 3 / 2;
        let directory = (workers > 1).then(|| SharedMap::new(keys, &huge)).transpose();
        let directory = directory.map_err(|out| too_little(out, "dataplane.flows"))?;
        let persistence = Persistence::new(config.dataplane.clients as usize, pair(), &huge);
        let persistence = persistence.map_err(|out| too_little(out, "dataplane.clients"))?;
        Ok(Self {
            key: Key::new(std::array::from_fn(|_| random())),
            cookies: Cookies::new(pair()),
            persistence: Arc::new(persistence),
            directory: directory.map(Arc::new),
            full: Full::default(),
            counters,
        })
    }

    /// What the worker with this number remembers.
    fn memory(
        &self,
        eal: &Eal,
        config: &Config,
        worker: usize,
        spreading: Vec<Option<Spreading>>,
    ) -> Result<WorkerMemory> {
        let id = WorkerId(worker as u8);
        let capacity = Capacity {
            v4: config.dataplane.flows as usize,
            v6: config.dataplane.flows_ipv6() as usize,
        };
        let directory = self.directory.clone().map(|map| Directory::new(map, id));
        let flows = FlowTable::new(capacity, self.key, directory, &Huge { eal, numa: None })
            .map_err(|out| too_little(out, "dataplane.flows"))?;
        let mut others = self.counters.clone();
        let own = others.remove(worker);
        let workers = self.counters.len();
        Ok(WorkerMemory {
            flows,
            schedules: Schedules::default(),
            share: self.persistence.share(worker, workers),
            persistence: Arc::clone(&self.persistence),
            loads: Loads::new(own, others, self.full.clone()),
            rates: Rates::new(MAX_SERVICES, NETWORKS, pair()),
            cookies: self.cookies.clone(),
            spreading,
            worker: id,
            workers: workers as u8,
            random: random() | 1,
            last_way_back: NOWHERE_YET,
            journal: Default::default(),
        })
    }
}

fn too_little(out: OutOfMemory, key: &str) -> anyhow::Error {
    anyhow!("no memory for a table of {} bytes: lower {key}, or reserve more huge pages", out.bytes)
}

/// Turns without a frame after which a worker naps: some tens of microseconds of polling.
const PATIENCE: u32 = 256;
/// Turns without a frame after which it takes longer naps: about half a second.
const LONG_PATIENCE: u32 = 10_000;

/// Adaptive polling: a packet that comes after a pause waits for one nap at most.
fn rest_when_idle(idle_turns: u32) {
    match idle_turns {
        0..PATIENCE => std::hint::spin_loop(),
        PATIENCE..LONG_PATIENCE => lcore::nap(Duration::from_micros(50)),
        _ => lcore::nap(Duration::from_micros(85)),
    }
}

/// A worker that ends by itself must not leave an appliance behind that looks alive: the process stops, cleanly,
/// and says so with its exit status.
struct Alarm;

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!(
                "the worker has stopped because of a mistake in the program; the appliance stops too"
            );
            let _ = kill(Pid::this(), Signal::SIGTERM);
        }
    }
}

/// Workers at work.
pub struct Running {
    threads: Vec<PinnedThread<()>>,
    stop: Arc<AtomicBool>,
    eal: Eal,
}

impl Running {
    /// Stops the workers. Their queues are gone afterwards; a port closes when the control plane has let go of
    /// it too.
    ///
    /// # Errors
    /// If a worker had panicked.
    pub fn stop(self) -> Result<()> {
        let Self { threads, stop, eal } = self;
        stop.store(true, Ordering::Relaxed);
        let ended: Vec<_> = threads.into_iter().map(PinnedThread::join).collect();
        drop(eal);
        if ended.iter().any(Result::is_err) {
            bail!("a worker had stopped because of a mistake in the program");
        }
        Ok(())
    }
}

/// A device that has been opened.
struct Opened {
    links: Vec<PortLink>,
    spreading: Option<Spreading>,
    port: Arc<StartedPort>,
    shown: String,
    quiet: bool,
}

impl Opened {
    fn new(eal: &Eal, device: &Device, mtu: u16, workers: usize, pool: &Mempool) -> Result<Self> {
        let shown = device.to_string();
        Self::open(eal, device, mtu, workers, pool, &shown)
            .with_context(|| format!("device {shown}"))
    }

    fn open(
        eal: &Eal,
        device: &Device,
        mtu: u16,
        workers: usize,
        pool: &Mempool,
        shown: &str,
    ) -> Result<Self> {
        let queues = workers as u16;
        let wanted = match device {
            Device::Pci(address) => dpdk_sys::Device::Pci { address: address.clone() },
            Device::Kernel(name) => {
                dpdk_sys::Device::Packet { interface: name.clone(), queues, mtu }
            }
            Device::Virtual(arguments) => dpdk_sys::Device::Virtual(arguments.clone()),
        };
        let port = Port::open(eal, &wanted)?;
        let settings = PortSettings {
            mtu,
            receive_queues: queues,
            transmit_queues: queues,
            receive_descriptors: DESCRIPTORS,
            transmit_descriptors: DESCRIPTORS,
            hash_key: hash_key(),
            ..PortSettings::default()
        };
        let (port, receive, transmit) = port.start(&settings, pool)?;
        let spreading = port.spreading().and_then(|it| {
            let dpdk_sys::Hashes { tcp4, udp4, ip4, tcp6, udp6, ip6 } = it.hashes;
            let hashes = Hashes { tcp4, udp4, ip4, tcp6, udp6, ip6 };
            Some(Spreading::new(&it.key, &it.table)?.hashing(hashes))
        });
        info!(
            device = shown,
            driver = port.driver_name(),
            mac = %Mac(port.mac()),
            receive_queues = receive.len(),
            transmit_queues = transmit.len(),
            replies_come_home = spreading.is_some(),
            "device opened"
        );
        if !port.link_up() {
            // A card takes a moment after its start, so this is no reason to worry yet.
            info!(device = shown, "no link yet; `sluice ctl interfaces` says when there is");
        }
        Ok(Self {
            links: PortLink::for_workers(workers, receive, transmit, pool),
            spreading,
            port: Arc::new(port),
            shown: shown.to_owned(),
            quiet: is_capture_file(device),
        })
    }
}

/// An interface as the control plane sees it.
fn live(interface: &Interface, opened: &Opened) -> LiveInterface {
    let port = Arc::clone(&opened.port);
    LiveInterface {
        name: interface.name.clone(),
        quiet: opened.quiet,
        device: opened.shown.clone(),
        driver: port.driver_name().to_owned(),
        mac: Mac(port.mac()),
        mtu: interface.mtu,
        statistics: Box::new(move || statistics(&port)),
    }
}

/// Whether frames go to a file, where nobody listens to announcements.
fn is_capture_file(device: &Device) -> bool {
    matches!(device, Device::Virtual(arguments) if arguments.starts_with("net_pcap"))
}

fn statistics(port: &StartedPort) -> PortStatistics {
    let counted = port.statistics().unwrap_or_default();
    PortStatistics {
        link_up: port.link_up(),
        speed: port.link().speed,
        received: counted.received,
        received_bytes: counted.received_bytes,
        transmitted: counted.transmitted,
        transmitted_bytes: counted.transmitted_bytes,
        missed: counted.missed,
        receive_errors: counted.receive_errors,
        transmit_errors: counted.transmit_errors,
        no_buffer: counted.no_buffer,
    }
}

/// Nobody may know at which queue a flow arrives, or all could be sent to one.
fn hash_key() -> [u8; dpdk_sys::HASH_KEY] {
    let mut key = [0; dpdk_sys::HASH_KEY];
    for part in key.chunks_mut(8) {
        part.copy_from_slice(&random().to_le_bytes()[..part.len()]);
    }
    key
}

fn pair() -> [u64; 2] {
    [random(), random()]
}

fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| lcore::tsc())
}
