//! Frames that belong to another worker's flow. NAT and SNAT see both directions of a flow, and a card may
//! deliver them to different queues: the reply is handed to the worker that remembers the flow, over a
//! ring for each pair of workers, whatever the card can or cannot do.
//!
//! What was read from the frame travels with it, so that its new worker begins at [`crate::classify`].
//! A full ring drops and counts; nobody waits.

use rtrb::{Consumer, Producer, RingBuffer};

use crate::counters::{Counters, Reason};
use crate::frame::{BURST, Burst};
use crate::lookup::flow_table::WorkerId;
use crate::parse::Parsed;

/// How many frames are under way from one worker to another at most.
const ROOM: usize = 1024;

/// One worker's ends of the rings to and from all others.
pub struct Colleagues<F> {
    /// By worker; none to itself.
    to: Vec<Option<Producer<Parsed<F>>>>,
    from: Vec<Consumer<Parsed<F>>>,
    /// The ring that is looked at first in the next turn, so that none is starved.
    first: usize,
}

/// The ends for each of so many workers.
pub fn colleagues<F>(workers: usize) -> Vec<Colleagues<F>> {
    let mut all: Vec<_> =
        (0..workers).map(|_| Colleagues { to: Vec::new(), from: Vec::new(), first: 0 }).collect();
    for sender in 0..workers {
        for receiver in 0..workers {
            let end = (sender != receiver).then(|| {
                let (to, from) = RingBuffer::new(ROOM);
                all[receiver].from.push(from);
                to
            });
            all[sender].to.push(end);
        }
    }
    all
}

impl<F> Colleagues<F> {
    /// Hands a frame to `worker`.
    pub fn hand_over(&mut self, worker: WorkerId, parsed: Parsed<F>, counters: &Counters) {
        let ring = self.to.get_mut(usize::from(worker.0)).and_then(Option::as_mut);
        // A frame that all have seen belongs to nobody: it must not go round for ever.
        let ring = ring.filter(|_| usize::from(parsed.handed) <= self.from.len() + 1);
        let handed = ring.is_some_and(|ring| ring.push(parsed).is_ok());
        if handed {
            counters.handed_over.add(1);
        } else {
            counters.drop_one(Reason::HandOverRingFull);
        }
    }

    /// Adds the next frames that others have handed to this worker.
    pub fn taken_over(&mut self, burst: &mut Burst<Parsed<F>>, counters: &Counters) {
        for step in 0..self.from.len() {
            let index = (self.first + step) % self.from.len();
            while burst.len() < BURST
                && let Ok(parsed) = self.from[index].pop()
            {
                burst.push(parsed);
            }
        }
        self.first = if self.first + 1 < self.from.len() { self.first + 1 } else { 0 };
        counters.taken_over.add(burst.len() as u64);
    }

    /// Whether nobody else is there.
    pub fn is_alone(&self) -> bool {
        self.from.is_empty()
    }

    /// How many workers there are, this one included.
    pub fn number(&self) -> usize {
        self.to.len().max(1)
    }
}
