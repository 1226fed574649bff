//! The sending side: which packets, when, and through which queue.

use arrayvec::ArrayVec;
use dpdk_sys::{Mbuf, Mempool, TransmitQueue, lcore};

use crate::addresses::Addresses;
use crate::choice::{Chooser, Part};
use crate::error::Invalid;
use crate::frame::{Moment, Protocol, Template};
use crate::memory;
use crate::pace::{Late, MOST, Pacer};
use crate::parse;
use crate::profile::Profile;
use crate::random::Random;
use crate::stamp::Mark;
use crate::track::Tracking;

/// What has been sent; frames that the port has taken, and no others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// Bytes in them, without check.
    pub bytes: u64,
    /// Times that the port took less than it was offered: its queue was full.
    pub refusals: u64,
    /// Times that no buffer was free.
    pub no_buffer: u64,
    /// When the first was sent, on the processor's clock.
    pub first: u64,
    /// When the last was sent.
    pub last: u64,
}

/// The packets of a run, in order.
#[derive(Debug)]
pub struct Stream {
    addresses: Addresses,
    chooser: Chooser,
    tracking: Tracking,
    /// The number of the next packet, by row.
    sequences: Vec<u32>,
    templates: Vec<Template>,
    /// For the first packet of a TCP flow, in the order of `templates`; empty if there is no such packet.
    openings: Vec<Template>,
    /// Indices into `templates`: one round of sizes.
    round: Vec<u16>,
    next_size: usize,
    mark: Mark,
}

/// A packet that is to be written.
#[derive(Debug, Clone, Copy, Default)]
struct Due {
    flow: u32,
    sequence: u32,
    is_last: bool,
}

impl Stream {
    /// The packets that `profile` asks for, on a clock of `hz` ticks a second.
    ///
    /// # Errors
    /// As for [`Profile::check`].
    pub fn new(profile: &Profile, mark: Mark, hz: u64) -> Result<Self, Invalid> {
        profile.check()?;
        let kind = profile.kind(mark);
        let sizes = profile.sizes.distinct();
        let mut random = Random::new(profile.seed);
        let index = |size: u16| sizes.iter().position(|other| *other == size).unwrap_or(0) as u16;
        let round = profile.sizes.round(|| random.bits()).into_iter().map(index).collect();
        let numbers = profile.numbers();
        let chooser = Chooser::new(profile.choice, profile.flows, numbers, hz, random.bits());
        let openings = match profile.protocol {
            Protocol::Tcp if profile.tracking == Tracking::Flows => {
                sizes.iter().map(|size| Template::without_payload(kind, *size)).collect()
            }
            _ => vec![],
        };
        Ok(Self {
            addresses: profile.addresses,
            tracking: profile.tracking,
            sequences: memory::filled(0, profile.tracking.rows(chooser.numbers()) as usize),
            chooser,
            templates: sizes.iter().map(|size| Template::new(kind, *size)).collect(),
            openings,
            round,
            next_size: 0,
            mark,
        })
    }

    /// How many numbers of flows are used.
    pub fn numbers(&self) -> u32 {
        self.chooser.numbers()
    }

    /// Packets that were sent of each flow, or of all together, modulo 2^32.
    pub fn sent_by_row(&self) -> &[u32] {
        &self.sequences
    }

    /// Writes the next packets into empty `frames`, as they leave at `now`. First all flows are chosen, so that the
    /// processor waits for their numbers together and not one by one.
    #[inline]
    pub fn write<const N: usize>(&mut self, frames: &mut ArrayVec<Mbuf, N>, now: u64) {
        let mut due = [Due::default(); N];
        for due in &mut due[..frames.len()] {
            let (flow, part) = self.chooser.next(now);
            *due = Due { flow, sequence: 0, is_last: part == Part::Last };
        }
        for due in &mut due[..frames.len()] {
            let next = &mut self.sequences[self.tracking.row(due.flow) as usize];
            due.sequence = *next;
            *next = next.wrapping_add(1);
        }
        for (frame, due) in frames.iter_mut().zip(&due) {
            self.write_one(frame, *due, now);
        }
    }

    #[inline]
    fn write_one(&mut self, frame: &mut Mbuf, due: Due, now: u64) {
        let size = usize::from(self.round[self.next_size]);
        self.next_size =
            if self.next_size + 1 == self.round.len() { 0 } else { self.next_size + 1 };
        let opening = if due.sequence == 0 { self.openings.get(size) } else { None };
        let (template, moment) = match (opening, due.is_last) {
            (_, true) => (&self.templates[size], Moment::Last),
            (Some(opening), false) => (opening, Moment::First),
            (None, false) => (&self.templates[size], Moment::Middle),
        };
        let tuple = self.addresses.tuple(due.flow);
        if let Some(bytes) = frame.append(template.length()) {
            template.write(bytes, due.flow, due.sequence, &tuple, moment, now);
        }
    }

    /// A packet that was written has not been sent after all.
    fn take_back(&mut self, frame: &mut Mbuf) {
        let stamp = parse::innermost(frame.bytes_mut(), 0)
            .and_then(|packet| parse::stamp(&packet, self.mark));
        let row = stamp.map(|stamp| self.tracking.row(stamp.flow) as usize);
        if let Some(next) = row.and_then(|row| self.sequences.get_mut(row)) {
            *next = next.wrapping_sub(1);
        }
    }
}

/// One transmit queue, and what goes out through it.
#[derive(Debug)]
pub struct Sender {
    queue: TransmitQueue,
    pool: Mempool,
    stream: Stream,
    pacer: Pacer,
    waiting: ArrayVec<Mbuf, MOST>,
    sent: Sent,
    /// Frames that are still to be written.
    left: u64,
    /// Whether what the port refuses is not tried again.
    gives_up: bool,
    /// Frames that were written and given up.
    unsent: u64,
}

impl Sender {
    /// Sends `stream` at the pace of `profile`, in buffers of `pool`.
    pub fn new(
        queue: TransmitQueue,
        pool: Mempool,
        stream: Stream,
        profile: &Profile,
        hz: u64,
    ) -> Self {
        let (pace, size) = (profile.rate.pace(profile.line_rate), profile.sizes.mean());
        let pacer = Pacer::new(pace, size, hz).with_late(profile.late, size);
        Self {
            queue,
            pool,
            stream,
            pacer,
            waiting: ArrayVec::new(),
            sent: Sent::default(),
            left: u64::MAX,
            gives_up: profile.late == Late::GivenUp && pace.frames(size).is_some(),
            unsent: 0,
        }
    }

    /// Sends so many frames and no more.
    pub fn at_most(self, frames: u64) -> Self {
        Self { left: frames, ..self }
    }

    /// Whether all frames that were to be sent have been.
    pub fn is_done(&self) -> bool {
        self.left == 0 && self.waiting.is_empty()
    }

    /// Sends what is due at `now`, and returns how many frames the port took. Never waits.
    #[inline]
    pub fn turn(&mut self, now: u64) -> usize {
        if self.waiting.is_empty() {
            if !self.pacer.is_due(now) {
                return 0;
            }
            let group = self.pacer.group().min(self.left as usize);
            if group == 0 {
                return 0;
            }
            if !self.pool.allocate_bulk(group, &mut self.waiting) {
                self.sent.no_buffer += 1;
                return 0;
            }
            let now = lcore::tsc();
            self.stream.write(&mut self.waiting, now);
            let bytes: usize = self.waiting.iter().map(Mbuf::len).sum();
            self.pacer.sent(now, group, bytes);
            self.left -= group as u64;
        }
        let taken = self.hand_over(now);
        if self.gives_up {
            self.give_up();
        }
        taken
    }

    #[inline]
    fn hand_over(&mut self, now: u64) -> usize {
        let mut lengths = [0; MOST];
        lengths.iter_mut().zip(&self.waiting).for_each(|(length, frame)| *length = frame.len());
        let taken = self.queue.transmit(&mut self.waiting);
        if taken > 0 {
            let bytes: usize = lengths[..taken].iter().sum();
            if self.sent.frames == 0 {
                self.sent.first = now;
            }
            self.sent.last = now;
            self.sent.frames += taken as u64;
            self.sent.bytes += bytes as u64;
        }
        self.sent.refusals += u64::from(!self.waiting.is_empty());
        taken
    }

    /// Tries once more to send what the port has refused; whether nothing is left.
    pub fn finish(&mut self, now: u64) -> bool {
        if !self.waiting.is_empty() {
            self.hand_over(now);
        }
        self.waiting.is_empty()
    }

    /// Gives up on what the port has refused, which counts as never sent.
    pub fn give_up(&mut self) {
        let Self { waiting, stream, .. } = self;
        waiting.iter_mut().for_each(|frame| stream.take_back(frame));
        self.unsent += waiting.drain(..).count() as u64;
    }

    /// Frames that were given up.
    pub fn unsent(&self) -> u64 {
        self.unsent
    }

    /// What has been sent.
    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// The packets and their numbers.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// How many packets go out at once, and for how long the pace was not kept, in seconds.
    pub fn pace(&self) -> (usize, f64) {
        (self.pacer.group(), self.pacer.forgiven())
    }

    /// The queue and the pool, for the next run.
    pub fn into_parts(self) -> (TransmitQueue, Mempool) {
        (self.queue, self.pool)
    }
}
