//! Which packets for our own addresses are answers: they belong to conversations that the control plane has
//! begun, and which are remembered here. What is an answer has a limit of its own, so that nobody who floods such
//! an address can hide from the control plane what it has asked for.
//!
//! The control plane writes, workers read: a count for each of many places, and a conversation's place by a hash
//! that strangers cannot compute. Two conversations may share a place, so a packet may pass for an answer that is
//! none, about as often as places are taken; never is an answer taken for something else.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::Class;
use crate::hash::{self, Keyed};
use crate::parse::Flow;

/// How many places there are, in a byte each: with as many conversations as the control plane may have, and all
/// those that are over and remembered, one in twenty is taken.
const PLACES: usize = 1 << 20;
/// A count that is not exact any more: it stays as it is.
const MANY: u8 = u8::MAX;

/// The conversations whose packets are answers. All clones are the same set; the default one has none, and can
/// have none.
#[derive(Clone)]
pub struct Answers(Arc<Places>);

struct Places {
    hash: Keyed,
    counts: Box<[AtomicU8]>,
}

/// A conversation whose packets are answers, until this is dropped.
pub struct Awaited {
    places: Arc<Places>,
    place: usize,
}

impl Default for Answers {
    fn default() -> Self {
        Self::with_places([0; 2], 0)
    }
}

impl Answers {
    /// None so far; `key` must be random.
    pub fn new(key: [u64; 2]) -> Self {
        Self::with_places(key, PLACES)
    }

    fn with_places(key: [u64; 2], places: usize) -> Self {
        let counts = (0..places).map(|_| AtomicU8::new(0)).collect();
        Self(Arc::new(Places { hash: Keyed::new(key), counts }))
    }

    /// Awaits packets such as `incoming`; of an echo reply, the sender's port is 0. To be called before the first
    /// packet goes out that may be answered.
    pub fn awaited(&self, incoming: &Flow) -> Awaited {
        let awaited = Awaited { places: Arc::clone(&self.0), place: self.0.place(incoming) };
        awaited.count(|count| count.saturating_add(1));
        awaited
    }

    /// What a packet for us is.
    #[inline]
    pub fn class(&self, incoming: &Flow) -> Class {
        let count = self.0.counts.get(self.0.place(incoming));
        match count.map_or(0, |count| count.load(Ordering::Relaxed)) {
            0 => Class::Local,
            _ => Class::Answer,
        }
    }
}

impl Places {
    #[inline]
    fn place(&self, flow: &Flow) -> usize {
        let [source, destination] = [flow.source, flow.destination].map(|it| it.bits());
        let ports = u64::from(flow.source_port) << 16 | u64::from(flow.destination_port);
        let hash = self.hash.of([
            (source >> 64) as u64,
            source as u64,
            (destination >> 64) as u64,
            destination as u64,
            (flow.protocol as u64) << 32 | ports,
        ]);
        hash::place((hash >> 32) as u32, self.counts.len())
    }
}

impl Awaited {
    fn count(&self, next: impl Fn(u8) -> u8) {
        if let Some(count) = self.places.counts.get(self.place) {
            let change = |now| (now != MANY).then(|| next(now));
            let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.count(|count| count.saturating_sub(1));
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = self.0.counts.iter().filter(|it| it.load(Ordering::Relaxed) > 0).count();
        write!(f, "Answers({taken} of {} places taken)", self.0.counts.len())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::Protocol;
    use crate::wire::Address;

    fn flow(number: u32) -> Flow {
        let address = |number: u32| -> Address {
            match number % 2 {
                0 => Ipv4Addr::from_bits(0x0a00_0000 | number).into(),
                _ => Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number)).into(),
            }
        };
        Flow {
            protocol: [Protocol::Tcp, Protocol::Udp, Protocol::Echo][number as usize % 3],
            source: address(number),
            source_port: 80,
            destination: address(2),
            destination_port: 1024 + (number / 7) as u16,
        }
    }

    proptest! {
        /// Also where many share a place.
        #[test]
        fn a_conversation_that_is_under_way_is_never_taken_for_something_else(
            places in 1..40usize,
            steps in prop::collection::vec((0..60u32, any::<bool>()), 0..400),
        ) {
            let answers = Answers::with_places([1, 2], places);
            let mut open: Vec<(u32, Awaited)> = Vec::new();
            for (number, begins) in steps {
                if begins {
                    open.push((number, answers.awaited(&flow(number))));
                } else if let Some(at) = open.iter().position(|it| it.0 == number) {
                    open.remove(at);
                }
                for (number, _) in &open {
                    prop_assert_eq!(answers.class(&flow(*number)), Class::Answer);
                }
            }
            drop(open);
            prop_assert!((0..60).all(|number| answers.class(&flow(number)) == Class::Local));
        }
    }

    #[test]
    fn a_place_with_more_than_can_be_counted_is_taken_for_good() {
        let answers = Answers::with_places([1, 2], 1);
        let all: Vec<_> = (0..1_000).map(|number| answers.awaited(&flow(number))).collect();
        let last = answers.awaited(&flow(7));
        drop(all);
        assert_eq!(answers.class(&flow(7)), Class::Answer);
        drop(last);
    }

    #[test]
    fn strangers_pass_for_an_answer_as_seldom_as_places_are_taken() {
        let answers = Answers::new([3, 4]);
        let open: Vec<_> = (0..50_000).map(|number| answers.awaited(&flow(number))).collect();
        let is_answer = |number: &u32| answers.class(&flow(*number)) == Class::Answer;
        assert!((0..50_000).all(|number| is_answer(&number)));
        let passing = (1_000_000..1_100_000).filter(is_answer).count();
        assert!((3_000..6_500).contains(&passing), "{passing} of 100,000");
        drop(open);
    }

    #[test]
    fn conversations_may_begin_and_end_on_several_threads_while_others_look() {
        let answers = Answers::with_places([5, 6], 16);
        let held = answers.awaited(&flow(0));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let answers = &answers;
                scope.spawn(move || {
                    for number in 0..5_000 {
                        let own = flow(thread * 5_000 + number);
                        let _awaited = answers.awaited(&own);
                        assert_eq!(answers.class(&own), Class::Answer);
                        assert_eq!(answers.class(&flow(0)), Class::Answer);
                    }
                });
            }
        });
        drop(held);
        assert_eq!(answers.class(&flow(0)), Class::Local);
    }

    #[test]
    fn where_there_are_no_places_nothing_is_an_answer() {
        let answers = Answers::default();
        let _awaited = answers.awaited(&flow(0));
        assert_eq!(answers.class(&flow(0)), Class::Local);
    }
}
