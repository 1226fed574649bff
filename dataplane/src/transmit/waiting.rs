//! Frames whose next station's hardware address is not known yet wait here, briefly and not too many.

use std::time::Duration;

use arrayvec::ArrayVec;

use crate::counters::{Counters, Reason};
use crate::moment::Moment;
use crate::rewrite::Outbound;
use crate::snapshot::{Hop, InterfaceId, Snapshot};
use crate::wire::{Address, Mac};

/// How many frames wait at most, on one worker.
const ROOM: usize = 256;
/// How many of them for the same neighbour.
const ROOM_FOR_ONE: usize = 16;
/// How long a frame waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the control plane is asked again for the same neighbour.
const REPEAT: Duration = Duration::from_millis(200);

/// A neighbour whose hardware address is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The interface that it is on.
    pub interface: InterfaceId,
    /// Its address.
    pub address: Address,
}

/// A frame that waits, and for whom.
pub struct Held<F> {
    /// The frame.
    pub frame: F,
    /// The next station.
    pub hop: Hop,
    /// Length of the IP packet with its header, in bytes.
    pub length: u16,
}

/// Frames that wait for a neighbour.
pub struct Waiting<F> {
    frames: ArrayVec<(Held<F>, Moment), ROOM>,
    questions: ArrayVec<(Question, Moment), ROOM>,
    asked: ArrayVec<Question, ROOM>,
    /// The snapshot in which neighbours were last looked up.
    looked_up: u64,
    /// Up to which frame they were.
    next: usize,
}

impl<F> Default for Waiting<F> {
    fn default() -> Self {
        Self {
            frames: ArrayVec::new(),
            questions: ArrayVec::new(),
            asked: ArrayVec::new(),
            looked_up: 0,
            next: 0,
        }
    }
}

impl<F> Waiting<F> {
    /// Lets a frame wait, or drops it if too many do already.
    #[cold]
    pub fn add(&mut self, outbound: Outbound<'_, F>, now: Moment, counters: &Counters) {
        let Outbound { frame, hop, length } = outbound;
        let question = Question { interface: hop.interface, address: hop.address };
        let same = |(other, _): &&(Held<F>, Moment)| {
            other.hop.address == question.address && other.hop.interface == question.interface
        };
        if self.frames.is_full() || self.frames.iter().filter(same).count() >= ROOM_FOR_ONE {
            return counters.drop_one(Reason::UnresolvedQueueFull);
        }
        counters.waiting.add(1);
        self.frames.push((Held { frame, hop: *hop, length }, now));
        self.ask(question, now);
    }

    fn ask(&mut self, question: Question, now: Moment) {
        self.questions.retain(|(_, asked)| now.since(*asked) < REPEAT);
        if self.questions.iter().any(|(other, _)| *other == question) {
            return;
        }
        // Where there is no room the next frame asks again.
        let _ = self.questions.try_push((question, now));
        let _ = self.asked.try_push(question);
    }

    /// What is to be asked of the control plane.
    pub fn next_question(&mut self) -> Option<Question> {
        self.asked.pop()
    }

    /// Takes out a frame whose neighbour is known by now, and drops those that have waited too long.
    pub fn next_resolved(
        &mut self,
        snapshot: &Snapshot,
        now: Moment,
        counters: &Counters,
    ) -> Option<(Held<F>, Mac)> {
        let expired =
            self.frames.iter().take_while(|(_, since)| now.since(*since) >= PATIENCE).count();
        for _ in self.frames.drain(..expired) {
            counters.waiting.add(-1);
            counters.drop_one(Reason::Unresolved);
        }
        self.next = self.next.saturating_sub(expired);
        if snapshot.generation != self.looked_up {
            (self.looked_up, self.next) = (snapshot.generation, 0);
        }
        let resolved =
            |(held, _): &(Held<F>, Moment)| snapshot.hop(held.hop.interface, held.hop.address).mac;
        let found = self
            .frames
            .iter()
            .enumerate()
            .skip(self.next)
            .find_map(|(index, frame)| Some((index, resolved(frame)?)));
        let Some((index, mac)) = found else {
            self.next = self.frames.len();
            return None;
        };
        self.next = index;
        counters.waiting.add(-1);
        let (held, _) = self.frames.remove(index);
        Some((held, mac))
    }

    /// Drops everything, because the appliance stops.
    pub fn abandon(&mut self, counters: &Counters) {
        for _ in self.frames.drain(..) {
            counters.waiting.add(-1);
            counters.drop_one(Reason::Stopping);
        }
    }
}
