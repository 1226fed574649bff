//! Mail for readers who cannot have it now, because their mailbox is full or they are to be asked again.
//! What comes meanwhile waits with it, so that each of them is asked once in a while and not for each
//! change, and nobody else waits.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use lettre::Address;
use tokio::time::{Instant, sleep_until};

use super::super::Pace;
use super::MOST;
use crate::events::Event;

/// How many changes wait, for all readers together; one for two of them counts twice.
const MOST_FOR_ALL: usize = 10_000;

/// When something was first tried, and how long the next pause is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tries {
    begun: Instant,
    pause: Duration,
}

impl Tries {
    pub fn begin(pace: &Pace) -> Self {
        Self { begun: Instant::now(), pause: pace.pause }
    }

    /// How long to wait before another one; `None` if there were enough.
    pub fn another(&mut self, pace: &Pace) -> Option<Duration> {
        let pause = self.pause;
        self.pause = (pause * 2).min(pace.longest_pause);
        (self.begun.elapsed() <= pace.patience).then_some(pause)
    }
}

/// A mail: who reads it, and of what.
#[derive(Debug)]
pub(super) struct Letter {
    pub to: Vec<Address>,
    pub events: Vec<Arc<Event>>,
    pub tries: Tries,
}

/// What waits for one reader.
#[derive(Debug)]
struct Waiting {
    reader: Address,
    events: Vec<Arc<Event>>,
    tries: Tries,
    due: Instant,
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Later(Vec<Waiting>);

impl Later {
    /// Keeps a letter for some of its readers; how many changes there was no room for.
    pub fn keep(&mut self, readers: Vec<Address>, letter: &Letter, pause: Duration) -> usize {
        let due = Instant::now() + pause;
        let mut lost = 0;
        for reader in readers {
            let waiting = Waiting { reader, events: Vec::new(), tries: letter.tries, due };
            self.0.push(waiting);
            lost = lost.max(self.add(self.0.len() - 1, &letter.events));
        }
        self.0.retain(|waiting| !waiting.events.is_empty());
        lost
    }

    /// Puts a letter to what waits already for some of its readers, who are then no longer its readers; how
    /// many changes there was no room for.
    pub fn join(&mut self, letter: &mut Letter) -> usize {
        let mut lost = 0;
        for place in 0..self.0.len() {
            let reader = &self.0[place].reader;
            if let Some(found) = letter.to.iter().position(|it| it == reader) {
                letter.to.remove(found);
                lost = lost.max(self.add(place, &letter.events));
            }
        }
        lost
    }

    fn add(&mut self, place: usize, events: &[Arc<Event>]) -> usize {
        let all: usize = self.0.iter().map(|waiting| waiting.events.len()).sum();
        let waiting = &mut self.0[place].events;
        let room = (MOST - waiting.len()).min(MOST_FOR_ALL - all).min(events.len());
        waiting.extend_from_slice(&events[..room]);
        events.len() - room
    }

    /// Waits until something is to be tried again.
    pub async fn due(&self) {
        match self.0.iter().map(|waiting| waiting.due).min() {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }

    /// What is to be tried again, each once for all for whom the same waits.
    pub fn take_due(&mut self) -> Vec<Letter> {
        let now = Instant::now();
        let mut letters: Vec<Letter> = Vec::new();
        for Waiting { reader, events, tries, .. } in self.0.extract_if(.., |it| it.due <= now) {
            match letters.iter_mut().find(|letter| letter.events == events) {
                Some(letter) => letter.to.push(reader),
                None => letters.push(Letter { to: vec![reader], events, tries }),
            }
        }
        letters
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::events::{Change, Subject};

    fn pace() -> Pace {
        Pace::default()
    }

    fn letter(to: &[&str], numbers: std::ops::Range<u64>) -> Letter {
        let change = Change {
            subject: Subject::Configuration,
            old: String::new(),
            new: String::new(),
            reason: String::new(),
        };
        let event = |number| {
            Arc::new(Event { number, time: SystemTime::UNIX_EPOCH, change: change.clone() })
        };
        Letter {
            to: readers(to),
            events: numbers.map(event).collect(),
            tries: Tries::begin(&pace()),
        }
    }

    fn readers(names: &[&str]) -> Vec<Address> {
        names.iter().map(|name| format!("{name}@example.org").parse().unwrap()).collect()
    }

    fn told(letters: &[Letter]) -> Vec<(Vec<Address>, Vec<u64>)> {
        let numbers = |it: &Letter| it.events.iter().map(|event| event.number).collect();
        letters.iter().map(|it| (it.to.clone(), numbers(it))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_meanwhile_waits_too_and_goes_out_once_to_all_for_whom_it_is_the_same() {
        let mut later = Later::default();
        let pause = Duration::from_secs(60);
        assert_eq!(later.keep(readers(&["a", "b"]), &letter(&["a", "b", "c"], 1..2), pause), 0);
        let mut next = letter(&["a", "b", "c"], 2..3);
        assert_eq!(later.join(&mut next), 0);
        assert_eq!(next.to, readers(&["c"]));
        assert!(later.take_due().is_empty());
        let begin = Instant::now();
        later.due().await;
        assert_eq!(begin.elapsed(), pause);
        assert_eq!(told(&later.take_due()), [(readers(&["a", "b"]), vec![1, 2])]);
        assert!(later.take_due().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_for_each_and_for_all() {
        let mut later = Later::default();
        let many = MOST as u64;
        let mut lost = later.keep(readers(&["a"]), &letter(&["a"], 0..many - 1), Duration::ZERO);
        assert_eq!(lost, 0);
        lost = later.join(&mut letter(&["a"], 0..3));
        assert_eq!(lost, 2);
        for reader in 1..=30 {
            let name = format!("r{reader}");
            lost = later.keep(readers(&[&name]), &letter(&[&name], 0..many), Duration::ZERO);
            let is_room = (reader + 1) * MOST <= MOST_FOR_ALL;
            assert_eq!(lost, if is_room { 0 } else { MOST }, "{reader}");
        }
        assert_eq!(
            later.take_due().iter().map(|it| it.events.len() * it.to.len()).sum::<usize>(),
            MOST_FOR_ALL
        );
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_the_longest_until_there_is_no_patience_left() {
        let pace = pace();
        let mut tries = Tries::begin(&pace);
        let mut pauses = Vec::new();
        while let Some(pause) = tries.another(&pace) {
            pauses.push(pause.as_secs());
            tokio::time::advance(pause).await;
        }
        assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!((60..70).contains(&pauses.len()), "an hour: {}", pauses.len());
    }
}
