//! One pointer swap publishes a whole snapshot; an old one is freed when every worker has been
//! seen between two bursts since (quiescent-state reclamation).
//!
//! With the prefetch instruction, the one place outside `ffi` with `unsafe`: a worker must borrow the current snapshot at the
//! price of one uncontended load per burst, count no references and never run its destructor.
//! `an_old_snapshot_is_freed_only_when_no_reader_can_hold_it` and the stress test below check it
//! against values that know whether they are alive.
#![allow(unsafe_code)]

use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

/// A reader that will never look again.
const GONE: u64 = u64::MAX;

struct Shared<T> {
    /// The newest value. Written before `epoch` is raised.
    current: AtomicPtr<T>,
    /// How many values have been published.
    epoch: CachePadded<AtomicU64>,
    /// Per reader: the newest epoch at whose value it has looked, and so let go of older ones.
    seen: Box<[CachePadded<AtomicU64>]>,
}

/// The control plane's end: publishes, and frees what no reader can hold any more.
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    /// Values taken out of use, with the epoch that replaced them.
    retired: Vec<(u64, NonNull<T>)>,
}

/// One worker's end.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    index: usize,
    epoch: u64,
    value: NonNull<T>,
}

// SAFETY: a publisher owns the values it retired and the current one, as boxes would; it hands out
// only `&T`, from other threads too, hence `Sync`.
unsafe impl<T: Send + Sync> Send for Publisher<T> {}
// SAFETY: a reader only ever gives out `&T`, on whichever thread it lives; `Shared` is all atomics.
unsafe impl<T: Send + Sync> Send for Reader<T> {}

/// A publisher of `first`, and `readers` readers of it.
pub fn publication<T: Send + Sync>(first: T, readers: usize) -> (Publisher<T>, Vec<Reader<T>>) {
    let value = NonNull::from(Box::leak(Box::new(first)));
    let seen = (0..readers).map(|_| CachePadded::new(AtomicU64::new(1))).collect();
    let shared = Arc::new(Shared {
        current: AtomicPtr::new(value.as_ptr()),
        epoch: CachePadded::new(AtomicU64::new(1)),
        seen,
    });
    let reader = |index| Reader { shared: Arc::clone(&shared), index, epoch: 1, value };
    let readers = (0..readers).map(reader).collect();
    (Publisher { shared, retired: Vec::new() }, readers)
}

impl<T: Send + Sync> Publisher<T> {
    /// Readers take up `next` at their next look; nobody waits for them.
    pub fn publish(&mut self, next: T) {
        let next = Box::into_raw(Box::new(next));
        let old = self.shared.current.swap(next, Ordering::AcqRel);
        let epoch = self.shared.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(old) = NonNull::new(old) {
            self.retired.push((epoch, old));
        }
        self.reclaim();
    }

    /// Frees what no reader can hold any more; returns how many values still wait for that.
    pub fn reclaim(&mut self) -> usize {
        let seen_by_all = self.seen_by_all();
        self.retired.retain(|&(replaced_at, old)| {
            let held = replaced_at > seen_by_all;
            if !held {
                // SAFETY: `old` came from a `Box` in `publication` or `publish`, left `current`
                // before epoch `replaced_at`, and every reader has loaded `current` after seeing
                // that epoch, which ended its borrow of `old` (`Reader::current` takes `&mut`).
                drop(unsafe { Box::from_raw(old.as_ptr()) });
            }
            held
        });
        self.retired.len()
    }

    /// Whether every reader has taken up the newest value.
    pub fn is_current_everywhere(&self) -> bool {
        self.seen_by_all() >= self.shared.epoch.load(Ordering::Acquire)
    }

    fn seen_by_all(&self) -> u64 {
        self.shared.seen.iter().map(|seen| seen.load(Ordering::Acquire)).min().unwrap_or(GONE)
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        // Values that a reader may still hold are left to the end of the process: a worker that
        // outlives the control plane must not find its configuration gone.
        let seen = self.shared.seen.iter().map(|seen| seen.load(Ordering::Acquire)).min();
        if seen.unwrap_or(GONE) != GONE {
            return;
        }
        let current = self.shared.current.swap(ptr::null_mut(), Ordering::AcqRel);
        let values = self.retired.drain(..).map(|(_, old)| old).chain(NonNull::new(current));
        for value in values {
            // SAFETY: each came from a `Box`, is listed once, and all readers are gone.
            drop(unsafe { Box::from_raw(value.as_ptr()) });
        }
    }
}

impl<T> Reader<T> {
    /// The current value, for one burst: one load, unless there is news.
    #[inline]
    pub fn current(&mut self) -> &T {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        if epoch != self.epoch {
            self.take_up(epoch);
        }
        // SAFETY: `value` was current at `self.epoch`, and `seen` of this reader is not past that:
        // the publisher frees it only once a later epoch stands there, which `take_up` writes
        // after replacing `value`, while no borrow from an earlier call can be alive.
        unsafe { self.value.as_ref() }
    }

    #[cold]
    fn take_up(&mut self, epoch: u64) {
        // Loaded after `epoch`: the value of that epoch, or a newer one.
        let current = self.shared.current.load(Ordering::Acquire);
        let Some(current) = NonNull::new(current) else { return };
        self.value = current;
        self.epoch = epoch;
        // Release: whatever was read through the old value happens before the publisher sees this.
        self.shared.seen[self.index].store(epoch, Ordering::Release);
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.shared.seen[self.index].store(GONE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    /// Counts the living, and is recognisably dead after its drop.
    struct Counted {
        number: u64,
        alive: Arc<AtomicUsize>,
        mark: u64,
    }

    const ALIVE: u64 = 0x5afe_5afe_5afe_5afe;

    impl Counted {
        fn new(number: u64, alive: &Arc<AtomicUsize>) -> Self {
            alive.fetch_add(1, Ordering::SeqCst);
            Self { number, alive: Arc::clone(alive), mark: ALIVE }
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.mark = 0;
            self.alive.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn an_old_snapshot_is_freed_only_when_no_reader_can_hold_it() {
        let alive = Arc::new(AtomicUsize::new(0));
        let (mut publisher, mut readers) = publication(Counted::new(1, &alive), 2);
        publisher.publish(Counted::new(2, &alive));
        assert_eq!(alive.load(Ordering::SeqCst), 2, "nobody has looked yet");
        assert_eq!(readers[0].current().number, 2);
        assert_eq!(publisher.reclaim(), 1, "the other reader may still hold the first");
        assert!(!publisher.is_current_everywhere());
        readers.pop();
        assert_eq!(publisher.reclaim(), 0);
        assert!(publisher.is_current_everywhere());
        assert_eq!(alive.load(Ordering::SeqCst), 1);
        drop(readers);
        drop(publisher);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn readers_under_way_never_see_a_freed_or_an_older_snapshot() {
        let alive = Arc::new(AtomicUsize::new(0));
        let (mut publisher, readers) = publication(Counted::new(1, &alive), 2);
        let last = 20_000;
        let watch = |mut reader: Reader<Counted>| {
            thread::spawn(move || {
                let mut newest = 0;
                while newest < last {
                    let value = reader.current();
                    assert_eq!(value.mark, ALIVE);
                    assert!(value.number >= newest);
                    newest = value.number;
                }
            })
        };
        let watchers: Vec<_> = readers.into_iter().map(watch).collect();
        for number in 2..=last {
            publisher.publish(Counted::new(number, &alive));
        }
        for watcher in watchers {
            watcher.join().unwrap();
        }
        publisher.reclaim();
        assert_eq!(alive.load(Ordering::SeqCst), 1, "nothing leaks");
    }
}
