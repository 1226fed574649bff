//! Two ports joined back to back in memory: for tests in which every frame must be accounted for.

use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Port, control};
use crate::eal::{Eal, Runtime, c_string};
use crate::error::{Error, Reason, listen};
use crate::mempool::ANY_NODE;
use crate::sys;

/// The wires of a pair: for each queue one ring in each direction.
#[derive(Debug)]
pub(super) struct Rings {
    all: Vec<NonNull<sys::rte_ring>>,
    #[expect(dead_code, reason = "keeps DPDK running until after the rings are freed")]
    runtime: Arc<Runtime>,
}

// SAFETY: between `pair` and `drop` only the ports' queues use the rings, each end by one owner.
unsafe impl Send for Rings {}
// SAFETY: there is nothing to be done with a `&Rings`.
unsafe impl Sync for Rings {}

impl Port {
    /// Two ports: what goes out through the n-th transmit queue of one comes in, in the same
    /// buffer, through the n-th receive queue of the other. Each wire holds `frames` frames; when
    /// it is full, transmitting is refused. Start both with all `queues`, at most 16.
    ///
    /// # Errors
    /// [`Error::Memory`] or [`Error::Open`].
    pub fn pair(eal: &Eal, queues: u16, frames: u32) -> Result<[Self; 2], Error> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let mut owned = control();
        let mut rings = Rings { all: vec![], runtime: eal.runtime().clone() };
        for wire in 0..2 * u32::from(queues) {
            let name = c_string("name of a ring", format!("pair{number}-{wire}"))?;
            listen();
            // SAFETY: DPDK runs (`eal`), copies the name, and checks the size.
            let ring = unsafe { sys::shim_ring_create(name.as_ptr(), frames) };
            let what = || format!("a ring of {frames} frames");
            let ring = NonNull::new(ring)
                .ok_or_else(|| Error::Memory { what: what(), reason: Reason::latest() })?;
            rings.all.push(ring);
        }
        let rings = Arc::new(rings);
        let (there, back) = rings.all.split_at(queues.into());
        let mut port =
            |end: &str, receive: &[NonNull<_>], transmit: &[NonNull<_>]| -> Result<Self, Error> {
                let device = format!("pair{number}{end}");
                let name = c_string("name of a port", device.clone())?;
                let mut receive: Vec<*mut sys::rte_ring> =
                    receive.iter().map(|ring| ring.as_ptr()).collect();
                let mut transmit: Vec<*mut sys::rte_ring> =
                    transmit.iter().map(|ring| ring.as_ptr()).collect();
                let (receive, transmit) = (receive.as_mut_ptr(), transmit.as_mut_ptr());
                listen();
                // SAFETY: each array has `queues` rings, which outlive the port (`Port::rings`); DPDK
                // copies arrays and name; `owned` is the control lock.
                let id = unsafe {
                    sys::rte_eth_from_rings(
                        name.as_ptr(),
                        receive,
                        queues.into(),
                        transmit,
                        queues.into(),
                        ANY_NODE as u32,
                    )
                };
                let id = u16::try_from(id)
                    .map_err(|_| Error::Open { device, reason: Reason::latest() })?;
                let mut port = Self::take(eal, VDEV, id, &mut owned)?;
                port.rings = Some(rings.clone());
                Ok(port)
            };
        let left = port("left", back, there)?;
        let right = port("right", there, back)?;
        Ok([left, right])
    }
}

const VDEV: &CStr = c"vdev";

impl Drop for Rings {
    fn drop(&mut self) {
        for ring in &self.all {
            // SAFETY: both ports are closed, as each held these rings; freed once.
            unsafe { sys::shim_ring_free(ring.as_ptr()) };
        }
    }
}
