//! The worker's side of the rings: what it hands over, what it sends for the control plane, and which
//! questions it is answering.

use super::limit::TokenBucket;
use super::{Class, Command, Copied, Event, FlowFilter, WorkerEnd};
use crate::counters::{Counters, Reason};
use crate::explain::{Decisions, MOST_DECISIONS};
use crate::frame::{BURST, Frame};
use crate::lookup::flow_table::FlowTable;
use crate::moment::Moment;
use crate::snapshot::InterfaceId;
use crate::transmit::Question;

/// The worker's end of the rings, with the limits of each class.
pub(crate) struct Desk {
    rings: WorkerEnd,
    /// In the order of [`Class::ALL`].
    limits: [TokenBucket; Class::ALL.len()],
    listing: Option<Listing>,
}

/// A question for flows that is being answered.
struct Listing {
    question: u32,
    filter: FlowFilter,
    left: u32,
    /// The entry to go on from; `None` when only the last word is left to say.
    from: Option<usize>,
}

/// Entries that one turn looks at for a question.
const ENTRIES: usize = 256;

impl Desk {
    /// Of one of so many workers.
    pub(crate) fn new(rings: WorkerEnd, workers: usize) -> Self {
        let limits = Class::ALL.map(|class| TokenBucket::new(class.limit(workers)));
        Self { rings, limits, listing: None }
    }

    /// Hands a copy of `frame` to the control plane.
    pub(crate) fn punt(
        &mut self,
        interface: InterfaceId,
        frame: impl Frame,
        class: Class,
        now: Moment,
        counters: &Counters,
    ) {
        let is_answer = class == Class::Answer;
        if !self.limits[class as usize].take(now) {
            let late = if is_answer { Reason::AnswerRateLimited } else { Reason::PuntRateLimited };
            return counters.drop_one(late);
        }
        let handed_over = self.rings.punt.slots() > class.leaves()
            && Copied::of(interface, frame.bytes())
                .is_some_and(|copy| self.rings.punt.push(copy).is_ok());
        if handed_over {
            counters.punted.add(1);
            counters.punted_answers.add(u64::from(is_answer));
        } else {
            counters.drop_one(Reason::PuntRingFull);
        }
    }

    /// Gives up to a burst of frames from the control plane to `send`; returns how many.
    pub(crate) fn injected(&mut self, mut send: impl FnMut(InterfaceId, &[u8])) -> usize {
        let frames = self.rings.inject.slots().min(BURST);
        for _ in 0..frames {
            if let Ok(copy) = self.rings.inject.peek() {
                send(copy.interface, copy.bytes());
            }
            let _ = self.rings.inject.pop();
        }
        frames
    }

    /// Asks for a neighbour. A full ring loses the question; the frame's sender will try again.
    pub(crate) fn ask(&mut self, question: Question) {
        let Question { interface, address } = question;
        let _ = self.rings.events.push(Event::Unresolved { interface, address });
    }

    /// Takes up the next question for flows, or goes on with the last, as far as the ring has room.
    pub(crate) fn answer(&mut self, flows: &FlowTable, now: Moment) {
        if self.listing.is_none() {
            let Ok(&Command::ListFlows { question, filter, limit }) = self.rings.commands.peek()
            else {
                return;
            };
            let _ = self.rings.commands.pop();
            self.listing = Some(Listing { question, filter, left: limit, from: Some(0) });
        }
        let Some(listing) = &mut self.listing else { return };
        let room = self.rings.events.slots();
        let (question, events) = (listing.question, &mut self.rings.events);
        if let Some(from) = listing.from {
            let entries = ENTRIES.min(room);
            let next = flows.list(from, entries, &listing.filter, now, |flow| {
                if listing.left > 0 && events.push(Event::Flow { question, flow }).is_ok() {
                    listing.left -= 1;
                }
            });
            listing.from = next.filter(|_| listing.left > 0);
        }
        if listing.from.is_none() && events.push(Event::FlowsListed { question }).is_ok() {
            self.listing = None;
        }
    }

    /// Takes up the next question for an explanation, if it is its turn and the ring has room for all that
    /// `explain` may find.
    pub(crate) fn explain(&mut self, explain: impl FnOnce(&Copied) -> Decisions) {
        if self.listing.is_some() || self.rings.events.slots() <= MOST_DECISIONS {
            return;
        }
        let Ok(Command::Explain { question, frame }) = self.rings.commands.peek() else { return };
        let question = *question;
        for decision in explain(frame) {
            let _ = self.rings.events.push(Event::Decided { question, decision });
        }
        let _ = self.rings.events.push(Event::Explained { question });
        let _ = self.rings.commands.pop();
    }
}
