//! Devices in this process: a worker, or a loop that does nothing but swap two hardware addresses, each on a core of
//! its own behind DPDK's rings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use dataplane::counters::Counters;
use dataplane::frame::{Burst, Link};
use dataplane::lookup::flow_table::Capacity;
use dataplane::punt::ControlEnd;
use dataplane::snapshot::{Publisher, Snapshot};
use dataplane::worker::Worker;
use dpdk_sys::lcore::{self, PinnedThread};
use dpdk_sys::{Port, StartedPort};

use super::ports::{self, PortLink};
use super::tester::Tester;
use crate::parts::{Assembled, assemble};
use crate::rig::Ground;
use crate::traffic::{Family, Scene};

/// A device at work, until it is dropped.
pub struct Device {
    stop: Arc<AtomicBool>,
    thread: Option<PinnedThread<()>>,
    _ports: Vec<StartedPort>,
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A worker, what it counts, and the control plane's ends of what it meets.
pub struct OwnWorker {
    /// The worker itself.
    pub device: Device,
    /// What it counts.
    pub counters: Counters,
    /// Publishes configurations to it.
    pub publisher: Publisher<Snapshot>,
    _control: ControlEnd,
}

/// Two wires: the generator's ends, and the device's as links.
fn wires(ground: &Ground) -> Result<(Tester, Vec<PortLink>, Vec<StartedPort>)> {
    let (mut near, mut far, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        let [left, right] = Port::pair(&ground.eal, 1, 1_024)?;
        let (port, end) = ports::start(left, &ground.pool)?;
        near.push(end);
        all.push(port);
        let (port, end) = ports::start(right, &ground.pool)?;
        far.push(PortLink::new(end, ground.pool.clone()));
        all.push(port);
    }
    let mut near = near.into_iter();
    let (Some(clients), Some(servers)) = (near.next(), near.next()) else {
        return Err(anyhow!("two wires were laid"));
    };
    Ok((Tester::new(ground, clients, servers), far, all))
}

/// A worker with this scene's configuration on `core`, and the generator beside it.
///
/// # Errors
/// If there is no memory, or the core cannot be used.
pub fn worker(ground: &Ground, scene: Scene, core: usize) -> Result<(OwnWorker, Tester)> {
    let (tester, links, ports) = wires(ground)?;
    let flows = (scene.flows as usize * 10).div_ceil(9).max(1_024);
    let capacity = match scene.family {
        Family::Ipv4 => Capacity { v4: flows, v6: 1 },
        Family::Ipv6 => Capacity { v4: 1, v6: flows },
    };
    let assembled = assemble(&ground.eal, scene.snapshot(), capacity, links)?;
    let Assembled { parts, publisher, control } = assembled;
    let counters = parts.counters.clone();
    let (stop, clock) = (Arc::new(AtomicBool::new(false)), ground.clock);
    let told = Arc::clone(&stop);
    let worker = Worker::new(parts);
    let thread = lcore::spawn_pinned(&ground.eal, core, "worker", move || {
        worker.run(&told, || clock.now(), |_| std::hint::spin_loop());
    })?;
    let device = Device { stop, thread: Some(thread), _ports: ports };
    Ok((OwnWorker { device, counters, publisher, _control: control }, tester))
}

/// What testpmd's macswap does, behind the same rings: what a worker at least has to do.
///
/// # Errors
/// If the core cannot be used.
pub fn macswap(ground: &Ground, core: usize) -> Result<(Device, Tester)> {
    let (tester, links, ports) = wires(ground)?;
    let mut links = links.into_iter();
    let (Some(mut from), Some(mut to)) = (links.next(), links.next()) else {
        return Err(anyhow!("two wires were laid"));
    };
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let thread = lcore::spawn_pinned(&ground.eal, core, "macswap", move || {
        let mut frames = Burst::new();
        while !told.load(Ordering::Relaxed) {
            from.receive(&mut frames);
            for frame in &mut frames {
                if let Some(macs) = frame.bytes_mut().first_chunk_mut::<12>() {
                    macs.rotate_left(6);
                }
            }
            to.transmit(&mut frames);
            frames.clear();
        }
    })?;
    Ok((Device { stop, thread: Some(thread), _ports: ports }, tester))
}
