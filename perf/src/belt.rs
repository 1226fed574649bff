//! The wires of a benchmark: a belt of prepared frames that goes in at one end and comes out at the other.
//!
//! Receiving touches what every driver touches, the buffer's own header, and leaves the frame's bytes as cold as
//! they are. Transmitting keeps the frames, in order, for the next round. What the belt itself costs is measured
//! with [`Passing`], the same links and no pipeline between.

use std::cell::RefCell;
use std::rc::Rc;

use arrayvec::ArrayVec;
use dataplane::frame::{BURST, Burst, Link};
use dpdk_sys::{Mbuf, Mempool};

/// Frames that wait to be received, and frames that have been sent.
pub struct Belt {
    /// The next one is at the end.
    waiting: Vec<Mbuf>,
    sent: Vec<Mbuf>,
    /// The link at which the waiting frames come in.
    pub entrance: usize,
}

/// A belt that its links share with whoever loads it.
pub type SharedBelt = Rc<RefCell<Belt>>;

impl Belt {
    /// A belt of so many frames, all of them waiting and empty.
    ///
    /// Returns `None` if the pool has not so many buffers.
    pub fn new(pool: &Mempool, frames: usize) -> Option<SharedBelt> {
        let waiting: Option<Vec<Mbuf>> = (0..frames).map(|_| pool.allocate()).collect();
        let sent = Vec::with_capacity(frames);
        Some(Rc::new(RefCell::new(Self { waiting: waiting?, sent, entrance: 0 })))
    }

    /// Frames that wait to be received.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Frames sent since the last call of [`Belt::rewind`], in order.
    pub fn sent(&self) -> &[Mbuf] {
        &self.sent
    }

    /// Puts the frames that have been sent back to the beginning, in the same order, and lets `write` make each
    /// what it is to be next. `write` is given the number of the frame.
    pub fn rewind(&mut self, mut write: impl FnMut(usize, &mut Mbuf)) {
        let Self { waiting, sent, .. } = self;
        std::mem::swap(waiting, sent);
        for (number, frame) in waiting.iter_mut().enumerate() {
            write(number, frame);
        }
        waiting.reverse();
        sent.clear();
    }

    #[inline]
    fn receive(&mut self, into: &mut Burst<Mbuf>) {
        let room = into.remaining_capacity().min(BURST).min(self.waiting.len());
        let first = self.waiting.len() - room;
        into.extend(self.waiting.drain(first..).rev());
        for frame in into {
            // A driver writes the length of what it has received.
            let length = frame.len();
            frame.truncate(length);
        }
    }

    #[inline]
    fn transmit<const N: usize>(&mut self, from: &mut ArrayVec<Mbuf, N>) {
        self.sent.extend(from.drain(..));
    }
}

/// One interface's end of a belt.
pub struct BeltLink {
    belt: SharedBelt,
    pool: Mempool,
    number: usize,
}

impl BeltLink {
    /// Two links on one belt; frames come in at its entrance, and leave by either.
    pub fn pair(belt: &SharedBelt, pool: &Mempool) -> Vec<Self> {
        let link = |number| Self { belt: Rc::clone(belt), pool: pool.clone(), number };
        (0..2).map(link).collect()
    }
}

impl Link for BeltLink {
    type Frame = Mbuf;

    #[inline]
    fn receive(&mut self, into: &mut Burst<Mbuf>) {
        let mut belt = self.belt.borrow_mut();
        if belt.entrance == self.number {
            belt.receive(into);
        }
    }

    #[inline]
    fn transmit<const N: usize>(&mut self, from: &mut ArrayVec<Mbuf, N>) {
        self.belt.borrow_mut().transmit(from);
    }

    fn allocate(&mut self, bytes: &[u8]) -> Option<Mbuf> {
        self.pool.allocate_from(bytes)
    }
}
