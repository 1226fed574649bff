//! Which flow the next packet belongs to.
//!
//! Flows have numbers from 0. With [`Choice::Fresh`] a number of flows is alive at a time; when a new one is due, the
//! oldest sends its FIN and leaves its place. Numbers come round again after several generations, so that the state
//! of all flows that ever were stays bounded.

use std::fmt;
use std::str::FromStr;

use crate::error::Expected;
use crate::random::Random;
use crate::rate;

/// The most flows there can be: their numbers have 24 bits in a frame, and fewer are enough.
pub const MOST_FLOWS: u32 = 10_000_000;

/// How flows are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// One after the other.
    RoundRobin,
    /// Any, all as likely.
    Random,
    /// Any, the n-th with a share of 1/n^s: a few flows have most packets. s is from 0 to 4.
    Zipf(f64),
    /// One after the other among those alive, of which so many a second are new; with TCP each begins with a SYN and
    /// ends with a FIN.
    Fresh(f64),
}

impl FromStr for Choice {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let refused = || {
            Expected(
                "round-robin, random, zipf:S with S from 0 to 4 such as zipf:1.1, or new:RATE with RATE new flows a \
                 second such as new:10k"
                    .into(),
            )
        };
        match text {
            "round-robin" => return Ok(Self::RoundRobin),
            "random" => return Ok(Self::Random),
            _ => {}
        }
        if let Some(exponent) = text.strip_prefix("zipf:") {
            let digits = exponent.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            let exponent: f64 = exponent.parse().ok().filter(|_| digits).ok_or_else(refused)?;
            return if (0.0..=4.0).contains(&exponent) {
                Ok(Self::Zipf(exponent))
            } else {
                Err(refused())
            };
        }
        let rate = text.strip_prefix("new:").and_then(rate::positive).ok_or_else(refused)?;
        Ok(Self::Fresh(rate))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoundRobin => f.write_str("round-robin"),
            Self::Random => f.write_str("random"),
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
            Self::Fresh(rate) => write!(f, "new:{rate}"),
        }
    }
}

/// What a packet is in the life of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Any but the last; the first is known by its sequence number.
    Middle,
    /// The last: there will be no more of this flow.
    Last,
}

/// The flows of a run, in the order in which they are chosen.
#[derive(Debug)]
pub struct Chooser {
    kind: Kind,
    flows: u32,
    random: Random,
}

#[derive(Debug)]
enum Kind {
    RoundRobin { next: u32 },
    Random,
    Zipf(Aliases),
    Fresh(Generations),
}

impl Chooser {
    /// For `flows` flows (at a time, where they are new at a rate) and at most `numbers` numbers of flows.
    pub fn new(choice: Choice, flows: u32, numbers: u32, hz: u64, seed: u64) -> Self {
        let kind = match choice {
            Choice::RoundRobin => Kind::RoundRobin { next: 0 },
            Choice::Random => Kind::Random,
            Choice::Zipf(exponent) => Kind::Zipf(Aliases::zipf(flows, exponent)),
            Choice::Fresh(rate) => Kind::Fresh(Generations::new(flows, numbers, hz as f64 / rate)),
        };
        Self { kind, flows, random: Random::new(seed) }
    }

    /// How many numbers of flows are used.
    pub fn numbers(&self) -> u32 {
        match &self.kind {
            Kind::Fresh(generations) => generations.flows * generations.count,
            _ => self.flows,
        }
    }

    /// The flow of the next packet, at `now` on the processor's clock.
    #[inline]
    pub fn next(&mut self, now: u64) -> (u32, Part) {
        match &mut self.kind {
            Kind::RoundRobin { next } => {
                let flow = *next;
                *next = if flow + 1 == self.flows { 0 } else { flow + 1 };
                (flow, Part::Middle)
            }
            Kind::Random => (self.random.below(self.flows), Part::Middle),
            Kind::Zipf(aliases) => (aliases.draw(&mut self.random), Part::Middle),
            Kind::Fresh(generations) => generations.next(now),
        }
    }
}

/// Draws from any distribution in constant time (Walker 1977, in Vose's form of 1991): a column is drawn, and then
/// either it or its alias.
#[derive(Debug)]
struct Aliases {
    /// How much of a column is its own, of 2^32, and to whom the rest belongs.
    columns: Vec<(u32, u32)>,
}

impl Aliases {
    fn zipf(flows: u32, exponent: f64) -> Self {
        let weights: Vec<f64> = (1..=flows).map(|rank| f64::from(rank).powf(-exponent)).collect();
        Self::of(&weights)
    }

    fn of(weights: &[f64]) -> Self {
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        let mut shares: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        let mut columns: Vec<(u32, u32)> =
            (0..weights.len() as u32).map(|own| (u32::MAX, own)).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            (0..weights.len() as u32).partition(|index| shares[*index as usize] < 1.0);
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            let own = shares[poor as usize];
            columns[poor as usize] = ((own * f64::from(u32::MAX)) as u32, rich);
            shares[rich as usize] -= 1.0 - own;
            if shares[rich as usize] < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        Self { columns }
    }

    #[inline]
    fn draw(&self, random: &mut Random) -> u32 {
        let bits = random.bits();
        let column = ((bits >> 32) * self.columns.len() as u64) >> 32;
        let (own, alias) = self.columns[column as usize];
        if bits as u32 <= own { column as u32 } else { alias }
    }
}

/// Flows that are born and end: in each of `flows` places there is one of `count` flows, in turn.
#[derive(Debug)]
struct Generations {
    flows: u32,
    count: u32,
    /// Which generation each place has.
    at: Vec<u8>,
    /// The place that sends next.
    next: u32,
    /// The place whose flow is the oldest.
    oldest: u32,
    /// Every place has sent: before that, flows that have not begun could come to be the oldest.
    all_have_begun: bool,
    /// Ticks between two new flows.
    interval: f64,
    /// When the next flow is due, once the first packet was asked for.
    due: Option<f64>,
    /// A flow that has ended and whose successor is to begin.
    begins: Option<u32>,
}

impl Generations {
    fn new(flows: u32, numbers: u32, interval: f64) -> Self {
        let count = (numbers / flows).clamp(1, 64);
        Self {
            flows,
            count,
            at: vec![0; flows as usize],
            next: 0,
            oldest: 0,
            all_have_begun: false,
            interval,
            due: None,
            begins: None,
        }
    }

    fn next(&mut self, now: u64) -> (u32, Part) {
        if let Some(flow) = self.begins.take() {
            return (flow, Part::Middle);
        }
        let due = *self.due.get_or_insert(now as f64 + self.interval);
        if now as f64 >= due && (self.all_have_begun || self.oldest < self.next) {
            return self.replace(due);
        }
        let place = self.next;
        self.next = if place + 1 == self.flows { 0 } else { place + 1 };
        self.all_have_begun |= self.next == 0;
        (self.flow_at(place), Part::Middle)
    }

    /// The oldest flow's last packet; the one after it is the first of a new flow.
    fn replace(&mut self, due: f64) -> (u32, Part) {
        self.due = Some(due + self.interval);
        let place = self.oldest;
        self.oldest = if place + 1 == self.flows { 0 } else { place + 1 };
        let ends = self.flow_at(place);
        let generation = &mut self.at[place as usize];
        *generation = (*generation + 1) % self.count as u8;
        self.begins = Some(self.flow_at(place));
        (ends, Part::Last)
    }

    fn flow_at(&self, place: u32) -> u32 {
        u32::from(self.at[place as usize]) * self.flows + place
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const HZ: u64 = 1_000_000_000;

    fn drawn(choice: Choice, flows: u32, packets: usize) -> Vec<u32> {
        let mut chooser = Chooser::new(choice, flows, flows, HZ, 1);
        (0..packets).map(|_| chooser.next(0).0).collect()
    }

    #[test]
    fn round_robin_takes_every_flow_once_in_each_round() {
        assert_eq!(drawn(Choice::RoundRobin, 3, 7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(drawn(Choice::RoundRobin, 1, 2), [0, 0]);
    }

    #[test]
    fn random_flows_are_all_as_likely() {
        let mut counts = [0u32; 100];
        drawn(Choice::Random, 100, 100_000).iter().for_each(|flow| counts[*flow as usize] += 1);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_gives_the_nth_flow_its_share() {
        let harmonic: f64 = (1..=1000).map(|rank| 1.0 / f64::from(rank)).sum();
        let mut counts = vec![0u32; 1000];
        drawn(Choice::Zipf(1.0), 1000, 1_000_000)
            .iter()
            .for_each(|flow| counts[*flow as usize] += 1);
        for rank in [1u32, 2, 3, 10, 100] {
            let expected = 1_000_000.0 / f64::from(rank) / harmonic;
            let found = f64::from(counts[rank as usize - 1]);
            assert!((found / expected - 1.0).abs() < 0.1, "{rank}: {found}, expected {expected}");
        }
        assert_eq!(drawn(Choice::Zipf(2.0), 1, 3), [0, 0, 0]);
    }

    #[test]
    fn new_flows_begin_at_their_rate_each_after_the_end_of_the_oldest() {
        let mut chooser = Chooser::new(Choice::Fresh(1000.0), 10, 100, HZ, 1);
        assert_eq!(chooser.numbers(), 100);
        let (mut alive, mut ended) = ((0..10).collect::<BTreeSet<u32>>(), 0);
        let mut last = None;
        for microsecond in 0..100_000u64 {
            let (flow, part) = chooser.next(microsecond * 1000);
            if let Some(place) = last.take() {
                assert_eq!(
                    (flow % 10, alive.insert(flow)),
                    (place, true),
                    "a new one in its place"
                );
            }
            assert!(alive.contains(&flow), "{flow} is not alive");
            if part == Part::Last {
                assert!(alive.remove(&flow));
                ended += 1;
                last = Some(flow % 10);
            }
        }
        assert_eq!((ended, alive.len()), (99, 10), "a thousand a second for a tenth of one");
    }

    proptest! {
        #[test]
        fn any_text_is_a_choice_or_refused(text in "(zipf:|new:|round-robin|random)?[ -~]{0,8}") {
            match text.parse::<Choice>() {
                Ok(Choice::Zipf(s)) => prop_assert!((0.0..=4.0).contains(&s)),
                Ok(Choice::Fresh(rate)) => prop_assert!(rate > 0.0),
                Ok(_) => prop_assert!(text == "random" || text == "round-robin"),
                Err(refused) => prop_assert!(refused.to_string().starts_with("expected round-robin")),
            }
        }

        #[test]
        fn no_flow_ends_before_it_has_begun_however_late_the_sender_is(pauses in prop::collection::vec(0u64..20_000, 1..1000)) {
            let mut chooser = Chooser::new(Choice::Fresh(1e6), 50, 1000, HZ, 1);
            let (mut now, mut alive) = (0, BTreeSet::new());
            for pause in pauses {
                now += pause;
                let (flow, part) = chooser.next(now);
                let is_new = alive.insert(flow);
                if part == Part::Last {
                    prop_assert!(!is_new && alive.remove(&flow), "{flow}");
                }
            }
        }

        #[test]
        fn every_flow_drawn_has_a_number_in_range(flows in 1u32..500, s in 0.0f64..4.0) {
            for choice in [Choice::Zipf(s), Choice::Random, Choice::Fresh(1e6)] {
                let mut chooser = Chooser::new(choice, flows, 500, HZ, 3);
                let numbers = chooser.numbers();
                prop_assert!(numbers <= 500);
                prop_assert!((0..2000u64).all(|tick| chooser.next(tick * 100).0 < numbers));
            }
        }
    }
}
