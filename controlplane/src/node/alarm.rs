//! Records when a worker's flow table fills up and when it turns flows away (NAT-06): once
//! for each occasion, and not more often than somebody can read.

use std::time::Duration;

use dataplane::counters::{Counters, Reason};
use dataplane::moment::Moment;

use crate::events::{Change, Events, Subject};
use crate::report::Capacity;

/// How often the tables are looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two lines about the same worker and the same thing.
const PAUSE: Duration = Duration::from_secs(60);
/// Fuller than this share, a table is filling up.
const HIGH: f64 = 0.8;
/// Emptier than this, it no longer is: lower, so that a table at the edge is told of once.
const LOW: f64 = 0.7;

/// What is worth a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A worker's table has passed the mark.
    Filling(usize, Capacity),
    /// It has fallen well below it again.
    Relieved(usize, Capacity),
    /// It has had no room for this many packets of new flows since the last such line.
    Refusing(usize, u64),
}

impl Notice {
    fn change(self) -> Change {
        let (worker, old, new, reason) = match self {
            Self::Filling(worker, Capacity { used, capacity }) => {
                let reason = format!(
                    "flow_table_use: {used} of {capacity} flows, more than 80 %; raise dataplane.flows, \
                     or look for a flood of new connections"
                );
                (worker, "room", "filling", reason)
            }
            Self::Relieved(worker, Capacity { used, capacity }) => {
                let reason = format!("flow_table_use: down to {used} of {capacity} flows");
                (worker, "filling", "room", reason)
            }
            Self::Refusing(worker, packets) => {
                let reason = format!(
                    "flow_table_full: {packets} packets of new flows dropped for want of room; raise \
                     dataplane.flows, or look for a flood of new connections"
                );
                (worker, "filling", "full", reason)
            }
        };
        Change { subject: Subject::Worker { worker }, old: old.into(), new: new.into(), reason }
    }
}

/// Watches the flow tables of all workers.
pub struct Alarm {
    counters: Vec<Counters>,
    events: Events,
    workers: Vec<Watched>,
    looked: Moment,
}

/// What has been said of one worker.
#[derive(Debug, Clone, Copy, Default)]
struct Watched {
    is_high: bool,
    told_filling: Option<Moment>,
    /// Drops up to the last line.
    refused: u64,
    told_refusing: Option<Moment>,
}

impl Alarm {
    /// Nothing has been said yet.
    pub fn new(counters: Vec<Counters>, events: Events, now: Moment) -> Self {
        let workers = vec![Watched::default(); counters.len()];
        Self { counters, events, workers, looked: now }
    }

    /// Records what is worth it, once a second.
    pub fn tick(&mut self, now: Moment) {
        if now.since(self.looked) < PERIOD {
            return;
        }
        self.looked = now;
        for notice in self.notices(now) {
            self.events.record(notice.change());
        }
    }

    fn notices(&mut self, now: Moment) -> Vec<Notice> {
        let workers = self.counters.iter().zip(&mut self.workers).enumerate();
        workers
            .flat_map(|(number, (counters, watched))| watched.look(number, counters, now))
            .collect()
    }
}

impl Watched {
    fn look(
        &mut self,
        worker: usize,
        counters: &Counters,
        now: Moment,
    ) -> impl Iterator<Item = Notice> + use<> {
        let may = |told: Option<Moment>| told.is_none_or(|last| now.since(last) >= PAUSE);
        let table = super::reports::flows(counters);
        let fullness = table.fullness();
        let mut filling = None;
        if !self.is_high && fullness > HIGH && may(self.told_filling) {
            self.is_high = true;
            self.told_filling = Some(now);
            filling = Some(Notice::Filling(worker, table));
        } else if self.is_high && fullness < LOW {
            self.is_high = false;
            filling = Some(Notice::Relieved(worker, table));
        }
        let refused = counters.dropped(Reason::FlowTableFull);
        let mut refusing = None;
        if refused != self.refused && may(self.told_refusing) {
            refusing = Some(Notice::Refusing(worker, refused.wrapping_sub(self.refused)));
            self.refused = refused;
            self.told_refusing = Some(now);
        }
        [filling, refusing].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Moment {
        Moment::START.plus(Duration::from_secs(second))
    }

    fn alarm(workers: usize) -> (Alarm, Vec<Counters>) {
        let counters: Vec<_> = (0..workers).map(|_| Counters::new()).collect();
        counters.iter().for_each(|worker| worker.flow_capacity.add(100));
        (Alarm::new(counters.clone(), Events::default(), Moment::START), counters)
    }

    #[test]
    fn a_table_that_passes_80_percent_is_told_of_once_and_again_only_after_it_has_emptied() {
        let (mut alarm, workers) = alarm(2);
        workers[1].flows.add(80);
        assert_eq!(alarm.notices(at(1)), []);
        workers[1].flows.add(1);
        let filling = |used| Notice::Filling(1, Capacity { used, capacity: 100 });
        assert_eq!(alarm.notices(at(2)), [filling(81)]);
        workers[1].flows.add(-5);
        assert_eq!(alarm.notices(at(3)), []);
        workers[1].flows.add(10);
        assert_eq!(alarm.notices(at(100)), [], "it has never been well below the mark");
        workers[1].flows.add(-40);
        let relieved = Notice::Relieved(1, Capacity { used: 46, capacity: 100 });
        assert_eq!(alarm.notices(at(101)), [relieved]);
        workers[1].flows.add(40);
        assert_eq!(alarm.notices(at(102)), [filling(86)]);
    }

    #[test]
    fn a_table_that_swings_is_told_of_once_a_minute() {
        let (mut alarm, workers) = alarm(1);
        let mut told = 0;
        for second in 0..600 {
            workers[0].flows.add(if second % 2 == 0 { 90 } else { -90 });
            let notices = alarm.notices(at(second));
            told += notices.iter().filter(|it| matches!(it, Notice::Filling(..))).count();
        }
        assert_eq!(told, 10);
    }

    #[test]
    fn refused_flows_are_summed_up_once_a_minute() {
        let (mut alarm, workers) = alarm(1);
        let mut told = Vec::new();
        for second in 0..150 {
            workers[0].drop_one(Reason::FlowTableFull);
            workers[0].drop_one(Reason::NoService);
            told.extend(alarm.notices(at(second)));
        }
        assert_eq!(told, [1, 60, 60].map(|packets| Notice::Refusing(0, packets)));
        assert_eq!(alarm.notices(at(600)), [Notice::Refusing(0, 29)]);
        assert_eq!(alarm.notices(at(700)), [], "nothing was dropped since");
    }

    #[test]
    fn a_worker_without_a_table_is_never_full() {
        let mut alarm = Alarm::new(vec![Counters::new()], Events::default(), Moment::START);
        assert_eq!(alarm.notices(at(1)), []);
    }
}
