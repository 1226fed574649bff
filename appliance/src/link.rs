//! One port's queues, as one worker owns them.

use arrayvec::ArrayVec;
use dataplane::frame::{Burst, Link};
use dpdk_sys::{Mbuf, Mempool, ReceiveQueue, TransmitQueue};

/// A receive queue, a transmit queue, and where new frames come from.
pub struct PortLink {
    receive: ReceiveQueue,
    transmit: TransmitQueue,
    pool: Mempool,
}

impl PortLink {
    /// From the two queues with the same number.
    pub fn new(receive: ReceiveQueue, transmit: TransmitQueue, pool: Mempool) -> Self {
        Self { receive, transmit, pool }
    }
}

impl Link for PortLink {
    type Frame = Mbuf;

    #[inline]
    fn receive(&mut self, into: &mut Burst<Mbuf>) {
        self.receive.receive(into);
    }

    #[inline]
    fn transmit<const N: usize>(&mut self, from: &mut ArrayVec<Mbuf, N>) {
        self.transmit.transmit(from);
    }

    fn allocate(&mut self, bytes: &[u8]) -> Option<Mbuf> {
        self.pool.allocate_from(bytes)
    }
}
