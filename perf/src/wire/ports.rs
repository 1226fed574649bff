//! The two wires between generator and device: rings in this process, or shared memory between two.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use arrayvec::ArrayVec;
use clap::ValueEnum;
use dataplane::frame::{Burst, Link};
use dpdk_sys::lcore::tsc;
use dpdk_sys::{
    Device, Eal, Mbuf, Mempool, Port, PortSettings, ReceiveQueue, StartedPort, TransmitQueue,
};

use super::outside::Process;
use crate::interrupt;
use crate::rig::Ground;

/// What joins the device to the generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// DPDK's rings, in one process
    Rings,
    /// memif, between two processes; each frame is copied by either side
    Memif,
    /// vhost-user at the device and virtio-user at the generator; the device copies each frame
    Vhost,
}

impl Wire {
    /// As results spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rings => "rings",
            Self::Memif => "memif",
            Self::Vhost => "vhost",
        }
    }
}

/// One end of a wire.
pub struct End {
    /// Where frames come from.
    pub receive: ReceiveQueue,
    /// Where they go to.
    pub transmit: TransmitQueue,
}

impl End {
    /// Sends a frame of our own, and returns what `wanted` makes of the first frame that comes back and that it makes
    /// something of; tries for some seconds.
    pub fn ask<T>(
        &mut self,
        ground: &Ground,
        question: &[u8],
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        for _ in 0..50 {
            let mut frames: ArrayVec<Mbuf, 1> = ArrayVec::new();
            frames.extend(ground.pool.allocate_from(question));
            self.transmit.transmit(&mut frames);
            let until = tsc() + ground.clock.hz() / 10;
            while tsc() < until {
                let mut frames = Burst::<Mbuf>::new();
                self.receive.receive(&mut frames);
                if let Some(found) = frames.iter().find_map(|frame| wanted(frame.bytes())) {
                    return Some(found);
                }
            }
        }
        None
    }
}

/// Frames that a wire holds.
const DESCRIPTORS: u16 = 1_024;
/// How long one attempt to reach it may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long a device may take to open its end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Opens a port and takes its first queues.
///
/// # Errors
/// Whatever the driver refuses.
pub fn start(port: Port, pool: &Mempool) -> Result<(StartedPort, End)> {
    let settings = PortSettings {
        receive_descriptors: DESCRIPTORS,
        transmit_descriptors: DESCRIPTORS,
        ..PortSettings::default()
    };
    let (port, receive, transmit) = port.start(&settings, pool)?;
    let no_queue = || anyhow!("a port has no queues");
    let receive = receive.into_iter().next().ok_or_else(no_queue)?;
    let transmit = transmit.into_iter().next().ok_or_else(no_queue)?;
    Ok((port, End { receive, transmit }))
}

/// Wire number `number` between two processes: a socket in `folder`.
pub fn socket(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("wire{number}"))
}

/// What the device calls its end.
pub fn at_device(wire: Wire, folder: &Path, number: usize) -> String {
    let socket = socket(folder, number);
    let socket = socket.display();
    match wire {
        Wire::Vhost => format!("net_vhost{number},iface={socket},queues=1"),
        _ => format!(
            "net_memif{number},role=server,id=0,socket={socket},socket-abstract=no,rsize=10"
        ),
    }
}

/// Opens the generator's end, once the device has opened its own.
///
/// # Errors
/// If there is no device, or its end cannot be reached.
pub fn connect(
    eal: &Eal,
    pool: &Mempool,
    wire: Wire,
    process: &mut Process,
    number: usize,
) -> Result<(StartedPort, End)> {
    let folder = process.folder.clone();
    let socket = socket(&folder, number);
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() {
        interrupt::check()?;
        process.check()?;
        if Instant::now() > deadline {
            bail!("the device has not opened {} after {PATIENCE:?}", socket.display());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let shown = socket.display();
    let arguments = match wire {
        Wire::Vhost => format!(
            "net_virtio_user{number},path={shown},queues=1,queue_size=1024,mac=02:00:00:00:01:0{number}"
        ),
        _ => {
            format!("net_memif{number},role=client,id=0,socket={shown},socket-abstract=no,rsize=10")
        }
    };
    // A device that has made its socket and not yet started its port refuses whoever comes, once and for all.
    while Instant::now() < deadline {
        interrupt::check()?;
        process.check()?;
        let device = Device::Virtual(arguments.clone());
        let opened = Port::open(eal, &device).context("the generator's port")?;
        let (port, end) = start(opened, pool)?;
        let attempt = Instant::now();
        while attempt.elapsed() < ATTEMPT {
            if port.link_up() {
                return Ok((port, end));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    bail!("no link at {shown} after {PATIENCE:?}")
}

/// A device's end within this process, as a worker uses it.
pub struct PortLink {
    end: End,
    pool: Mempool,
}

impl PortLink {
    /// From the port's queues; `pool` is where answers come from.
    pub fn new(end: End, pool: Mempool) -> Self {
        Self { end, pool }
    }
}

impl Link for PortLink {
    type Frame = Mbuf;

    #[inline]
    fn receive(&mut self, into: &mut Burst<Mbuf>) {
        self.end.receive.receive(into);
    }

    #[inline]
    fn transmit<const N: usize>(&mut self, from: &mut ArrayVec<Mbuf, N>) {
        self.end.transmit.transmit(from);
    }

    fn allocate(&mut self, bytes: &[u8]) -> Option<Mbuf> {
        self.pool.allocate_from(bytes)
    }
}
