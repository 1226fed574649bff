//! Who gets which core, queue, ring, pool and reader. [`Wiring::lay`] opens everything;
//! [`Wiring::start`] sets the workers going; [`Running::stop`] takes it all down again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use controlplane::config::{Config, Device, Interface, Polling};
use controlplane::plumbing::{Buffers, LiveInterface, Plumbing, PortStatistics};
use dataplane::counters::Counters;
use dataplane::lookup::Memory as WorkerMemory;
use dataplane::lookup::flow_table::{FlowTable, Timeouts};
use dataplane::lookup::scheduler::Schedules;
use dataplane::lookup::slab::Huge;
use dataplane::punt;
use dataplane::snapshot::{Snapshot, publication};
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

/// Everything opened and joined, and nothing moving yet.
pub struct Wiring {
    eal: Eal,
    worker: Worker<PortLink>,
    core: usize,
    polling: Polling,
    clock: Clock,
}

impl Wiring {
    /// Starts DPDK, opens every interface of `config` and builds the worker; gives what belongs to the control
    /// plane besides.
    ///
    /// # Errors
    /// Whatever could not be opened, with what to do about it. Everything opened before is closed again.
    pub fn lay(config: &Config, cores: &Cores, memory: Memory) -> Result<(Self, Plumbing)> {
        let eal = Eal::start(&EalOptions {
            program: "sluice".into(),
            memory: memory.of_eal(config),
            control_core: cores.control,
            allowed: cards::named_in(config),
            log: LogLevel::Warning,
        })?;
        let clock = Clock::starting_now(eal.tsc_hz());
        let pool =
            Mempool::new(&eal, "frames", memory::buffers(config), memory::room(config), None)
                .context("the packet buffers do not fit the memory")?;
        let (publisher, readers) = publication(Snapshot::default(), 1);
        let (worker_end, control_end) = punt::rings();
        let counters = Counters::new();

        let mut links = Vec::new();
        let mut interfaces = Vec::new();
        for interface in &config.interfaces {
            let (live, link) = open(&eal, interface, &pool)
                .with_context(|| format!("interface {}", interface.name))?;
            interfaces.push(live);
            links.push(link);
        }
        let key = std::array::from_fn(|_| random());
        let flows = FlowTable::new(config.dataplane.flows as usize, key, Timeouts::default(), &Huge { eal: &eal, numa: None })
            .map_err(|out| anyhow!("no memory for a flow table of {} bytes: lower dataplane.flows, or reserve more huge pages", out.bytes))?;
        let reader = readers.into_iter().next().context("one reader was asked for")?;
        let worker = Worker::new(Parts {
            links,
            snapshots: reader,
            memory: WorkerMemory { flows, schedules: Schedules::default() },
            control: worker_end,
            counters: counters.clone(),
            random: random() as u16,
        });
        let plumbing = Plumbing {
            publisher,
            counters: vec![counters],
            rings: vec![control_end],
            interfaces,
            buffers: Box::new(move || Buffers {
                capacity: pool.capacity(),
                available: pool.available(),
            }),
            clock: Box::new(move || clock.now()),
        };
        Ok((
            Self { eal, worker, core: cores.worker, polling: config.dataplane.polling, clock },
            plumbing,
        ))
    }

    /// Sets the worker going on its core.
    ///
    /// # Errors
    /// If its core cannot be used.
    pub fn start(self) -> Result<Running> {
        let Self { eal, worker, core, polling, clock } = self;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let rest = match polling {
            Polling::Adaptive => rest_when_idle,
            Polling::Busy => |_| std::hint::spin_loop(),
        };
        let thread = lcore::spawn_pinned(&eal, core, &format!("worker-{core}"), move || {
            let _alarm = Alarm;
            worker.run(&told, || clock.now(), rest);
        })?;
        info!(core, "worker started");
        Ok(Running { thread, stop, _eal: eal })
    }
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

/// A worker at work.
pub struct Running {
    thread: PinnedThread<()>,
    stop: Arc<AtomicBool>,
    _eal: Eal,
}

impl Running {
    /// Stops the worker. Its queues are gone afterwards; a port closes when the control plane has let go of
    /// it too.
    ///
    /// # Errors
    /// If the worker had panicked.
    pub fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the worker had stopped because of a mistake in the program"))
    }
}

fn open(eal: &Eal, interface: &Interface, pool: &Mempool) -> Result<(LiveInterface, PortLink)> {
    let (device, shown) = match &interface.device {
        Device::Pci(address) => {
            (dpdk_sys::Device::Pci { address: address.clone() }, address.clone())
        }
        Device::Kernel(name) => {
            let device =
                dpdk_sys::Device::Packet { interface: name.clone(), queues: 1, mtu: interface.mtu };
            (device, format!("kernel:{name}"))
        }
        Device::Virtual(arguments) => {
            (dpdk_sys::Device::Virtual(arguments.clone()), format!("vdev:{arguments}"))
        }
    };
    let port = Port::open(eal, &device)?;
    let settings = PortSettings {
        mtu: interface.mtu,
        receive_descriptors: DESCRIPTORS,
        transmit_descriptors: DESCRIPTORS,
        ..PortSettings::default()
    };
    let (port, receive, transmit) = port.start(&settings, pool)?;
    let mac = Mac(port.mac());
    info!(interface = interface.name, device = shown, driver = port.driver_name(), %mac, "interface opened");
    if !port.link_up() {
        // A card takes a moment after its start, so this is no reason to worry yet.
        info!(
            interface = interface.name,
            "no link yet; `sluice ctl interfaces` says when there is"
        );
    }
    let (receive, transmit) =
        receive.into_iter().zip(transmit).next().context("the port has no queue")?;
    let live = LiveInterface {
        name: interface.name.clone(),
        quiet: is_capture_file(&interface.device),
        device: shown,
        driver: port.driver_name().to_owned(),
        mac,
        mtu: interface.mtu,
        statistics: Box::new(move || statistics(&port)),
    };
    Ok((live, PortLink::new(receive, transmit, pool.clone())))
}

/// Whether frames go to a file, where nobody listens to announcements.
fn is_capture_file(device: &Device) -> bool {
    matches!(device, Device::Virtual(arguments) if arguments.starts_with("net_pcap"))
}

fn statistics(port: &StartedPort) -> PortStatistics {
    let counted = port.statistics().unwrap_or_default();
    PortStatistics {
        link_up: port.link_up(),
        speed: 0,
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

fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| lcore::tsc())
}
