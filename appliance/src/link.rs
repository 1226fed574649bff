//! One port's queues, as one worker owns them. A port may have fewer queues than there are workers: a worker
//! without a receive queue there receives nothing, and one without a transmit queue sends through the
//! worker with the first, over a ring.

use arrayvec::ArrayVec;
use dataplane::frame::{BURST, Burst, Link};
use dpdk_sys::{Mbuf, Mempool, ReceiveQueue, TransmitQueue};
use rtrb::{Consumer, Producer, RingBuffer};

/// Frames under way at most from one worker to the one that sends them.
const ROOM: usize = 1024;

/// A receive queue, a way to transmit, and where new frames come from.
pub struct PortLink {
    receive: Option<ReceiveQueue>,
    transmit: Transmit,
    pool: Mempool,
}

/// How a worker's frames reach the wire.
enum Transmit {
    /// By a queue of its own, which sends the frames of others too.
    Own { queue: TransmitQueue, others: Vec<Consumer<Mbuf>>, left: Box<ArrayVec<Mbuf, BURST>> },
    /// Through the worker that has the first queue.
    Through(Producer<Mbuf>),
}

impl PortLink {
    /// One link for each of so many workers from the queues that the port gave, of which at least one
    /// is for transmission.
    pub fn for_workers(
        workers: usize,
        receive: Vec<ReceiveQueue>,
        transmit: Vec<TransmitQueue>,
        pool: &Mempool,
    ) -> Vec<Self> {
        let mut others = Vec::new();
        let mut through: Vec<_> = (transmit.len()..workers)
            .map(|_| {
                let (to, from) = RingBuffer::new(ROOM);
                others.push(from);
                Transmit::Through(to)
            })
            .collect();
        let own = |queue| {
            let others = std::mem::take(&mut others);
            Transmit::Own { queue, others, left: Box::default() }
        };
        let mut ways: Vec<_> = transmit.into_iter().take(workers).map(own).collect();
        ways.append(&mut through);
        let mut receive = receive.into_iter();
        ways.into_iter()
            .map(|transmit| Self { receive: receive.next(), transmit, pool: pool.clone() })
            .collect()
    }
}

impl Link for PortLink {
    type Frame = Mbuf;

    #[inline]
    fn receive(&mut self, into: &mut Burst<Mbuf>) {
        self.transmit.for_others();
        if let Some(queue) = &mut self.receive {
            queue.receive(into);
        }
    }

    #[inline]
    fn transmit<const N: usize>(&mut self, from: &mut ArrayVec<Mbuf, N>) {
        match &mut self.transmit {
            Transmit::Own { queue, .. } => {
                queue.transmit(from);
            }
            Transmit::Through(ring) => {
                let room = ring.slots().min(from.len());
                for frame in from.drain(..room) {
                    let _ = ring.push(frame); // there is room: this is its only producer
                }
            }
        }
    }

    fn allocate(&mut self, bytes: &[u8]) -> Option<Mbuf> {
        self.pool.allocate_from(bytes)
    }
}

impl Transmit {
    /// Sends what other workers have handed over. What the queue refuses is kept for the next turn: the ring
    /// fills then, and its producer counts what does not fit.
    #[inline]
    fn for_others(&mut self) {
        let Self::Own { queue, others, left } = self else { return };
        for ring in others {
            while !left.is_full()
                && let Ok(frame) = ring.pop()
            {
                left.push(frame);
            }
        }
        if !left.is_empty() {
            queue.transmit(&mut **left);
        }
    }
}
