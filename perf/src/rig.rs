//! A worker between the two ends of a [`belt`](crate::belt), with flows in its table, and rounds of frames through
//! it. Frames are written anew between rounds, outside of what is timed.

use anyhow::{Result, bail};
use dataplane::counters::{Counters, Reason};
use dataplane::frame::{Burst, Link};
use dataplane::lookup::flow_table::Capacity;
use dataplane::moment::Moment;
use dataplane::punt::ControlEnd;
use dataplane::snapshot::{Publisher, Snapshot};
use dataplane::testing::{self, INSIDE, OUTSIDE};
use dataplane::wire::Mac;
use dataplane::wire::tcp::Flags;
use dataplane::worker::{Parts, Worker};
use dpdk_sys::lcore::tsc;
use dpdk_sys::{Eal, Mempool};

use crate::belt::{Belt, BeltLink, SharedBelt};
use crate::interrupt;
use crate::moments::Clock;
use crate::parts::{Assembled, assemble};
use crate::random::Random;
use crate::traffic::{self, Direction, Ends, Family, MOST_HEADERS, Mode, Scene, Size};

/// Frames on the belt: with a buffer of 2.3 KiB each, 75 MB, of which a pipeline touches some 6 MB, several times
/// what a core's L2 cache holds.
pub const FRAMES: usize = 32_768;
/// Frames of each round that go through before time is taken, so that writing frames has not emptied the caches
/// of what a worker keeps there.
const RUN_IN: usize = 4_096;
/// Share of the flow table that is used, in tenths.
const FILLED: usize = 9;

/// What is common to all rigs of a process.
pub struct Ground {
    /// DPDK.
    pub eal: Eal,
    /// Where frames are.
    pub pool: Mempool,
    /// The workers' clock.
    pub clock: Clock,
}

/// Something that takes a turn as a worker does.
pub trait Turn {
    /// A burst from every link, all the way; how many frames that were.
    fn turn(&mut self, now: Moment) -> usize;
}

impl Turn for Worker<BeltLink> {
    #[inline]
    fn turn(&mut self, now: Moment) -> usize {
        Worker::turn(self, now)
    }
}

/// The belt alone: what is received is sent.
pub struct Passing(Vec<BeltLink>);

impl Turn for Passing {
    #[inline]
    fn turn(&mut self, _now: Moment) -> usize {
        let mut frames = Burst::new();
        for link in &mut self.0 {
            link.receive(&mut frames);
        }
        let handled = frames.len();
        self.0[1].transmit(&mut frames);
        handled
    }
}

/// What goes through in a round.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// From clients or from servers.
    pub direction: Direction,
    /// How long frames are.
    pub size: Size,
    /// Of so many frames one begins a new flow; 0: none does.
    pub one_new_in: usize,
}

impl Load {
    /// Requests of known flows.
    pub fn requests(size: Size) -> Self {
        Self { direction: Direction::Request, size, one_new_in: 0 }
    }
}

/// A round's time.
#[derive(Debug, Clone, Copy)]
pub struct Timed {
    /// Ticks of the time stamp counter.
    pub ticks: u64,
    /// Frames that went through meanwhile.
    pub frames: usize,
}

impl Timed {
    /// Both rounds together.
    pub fn and(self, other: Self) -> Self {
        Self { ticks: self.ticks + other.ticks, frames: self.frames + other.frames }
    }
}

/// A pipeline with flows in its table.
pub struct Rig<T> {
    /// What is measured.
    pub pipeline: T,
    /// What it counts.
    pub counters: Counters,
    publisher: Publisher<Snapshot>,
    scene: Scene,
    belt: SharedBelt,
    passing: Passing,
    clock: Clock,
    random: Random,
    /// Flows that have begun.
    begun: u32,
    /// By flow: what its server answers; empty unless wanted.
    replies: Vec<Ends>,
    /// Whether the frames on the belt have been through a tunnel.
    in_tunnel: bool,
    _control: ControlEnd,
}

/// Whether the rig remembers what servers will answer: 64 bytes for each flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replies {
    /// There will be rounds of replies.
    Wanted,
    /// There will be none.
    Unwanted,
}

impl<T: Turn> Rig<T> {
    /// Builds a pipeline from the parts of a worker, and begins all flows of `scene`; `spare` more will fit.
    ///
    /// # Errors
    /// If there is no memory, or a frame does not get through.
    pub fn new(
        ground: &Ground,
        scene: Scene,
        spare: usize,
        replies: Replies,
        build: impl FnOnce(Parts<BeltLink>) -> T,
    ) -> Result<Self> {
        let Some(belt) = Belt::new(&ground.pool, FRAMES) else {
            bail!("the pool has no {FRAMES} buffers left");
        };
        let flows = (scene.flows as usize * 10).div_ceil(FILLED).max(1_024) + spare;
        let capacity = match scene.family {
            Family::Ipv4 => Capacity { v4: flows, v6: 1 },
            Family::Ipv6 => Capacity { v4: 1, v6: flows },
        };
        let links = BeltLink::pair(&belt, &ground.pool);
        let assembled = assemble(&ground.eal, wide(scene.snapshot()), capacity, links)?;
        let Assembled { parts, publisher, control } = assembled;
        let counters = parts.counters.clone();
        let mut rig = Self {
            pipeline: build(parts),
            counters,
            publisher,
            scene,
            passing: Passing(BeltLink::pair(&belt, &ground.pool)),
            belt,
            clock: ground.clock,
            random: Random::new(0x5eed),
            begun: 0,
            replies: Vec::new(),
            in_tunnel: false,
            _control: control,
        };
        rig.begin_flows(replies)?;
        Ok(rig)
    }

    fn begin_flows(&mut self, replies: Replies) -> Result<()> {
        self.pass(); // the belt's frames are all at its other end before the first are written
        while self.begun < self.scene.flows {
            interrupt::check()?;
            let first = self.begun;
            let last = self.scene.flows.min(first + FRAMES as u32) - 1;
            // The belt is always full; in the last round the last flow comes again.
            let flow = |number: usize| (first + number as u32).min(last);
            self.load(Size::Fixed(64), |it, number| (it.scene.ends(flow(number)), Flags::SYN));
            self.run_all(0)?;
            if replies == Replies::Wanted {
                let belt = self.belt.borrow();
                let new = belt.sent()[..=(last - first) as usize].iter();
                self.replies
                    .extend(new.filter_map(|frame| Ends::of(frame.bytes())).map(Ends::reversed));
            }
            self.load(Size::Fixed(64), |it, number| (it.scene.ends(flow(number)), Flags::ACK));
            self.run_all(0)?;
            self.begun = last + 1;
        }
        Ok(())
    }

    /// The configuration that serves the scene, made anew.
    pub fn snapshot(&self) -> Snapshot {
        wide(self.scene.snapshot())
    }

    /// Publishes `next` and turns until the pipeline has taken it up and what it replaces has been freed.
    pub fn take_up(&mut self, next: Snapshot) {
        self.publisher.publish(next);
        while self.publisher.reclaim() > 0 {
            self.pipeline.turn(self.clock.now());
        }
    }

    /// The clock that it is given.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Puts a round of frames on the belt.
    pub fn prepare(&mut self, load: Load) {
        let entrance = if load.direction == Direction::Request { OUTSIDE } else { INSIDE };
        self.belt.borrow_mut().entrance = usize::from(entrance.0);
        match load.direction {
            Direction::Request => self.load(load.size, |it, number| {
                if load.one_new_in > 0 && number % load.one_new_in == 0 {
                    it.begun += 1;
                    return (it.scene.ends(it.begun - 1), Flags::SYN);
                }
                let flow = it.random.below(it.scene.flows);
                (it.scene.ends(flow), Flags::ACK)
            }),
            Direction::Reply => self.load(load.size, |it, _| {
                let flow = it.random.below(it.replies.len() as u32);
                (it.replies[flow as usize], Flags::ACK)
            }),
        }
    }

    /// Runs the frames on the belt through the pipeline.
    ///
    /// # Errors
    /// If one does not come out.
    pub fn run(&mut self) -> Result<Timed> {
        self.run_all(RUN_IN)
    }

    fn run_all(&mut self, run_in: usize) -> Result<Timed> {
        let dropped = self.dropped();
        let timed = self.forward(run_in);
        self.all_came_out(&dropped)?;
        Ok(timed)
    }

    /// Runs the frames on the belt through the pipeline, and does nothing else. Time is taken after the first
    /// `run_in` of them.
    pub fn forward(&mut self, run_in: usize) -> Timed {
        let timed = timed(&mut self.pipeline, &self.belt, self.clock, run_in);
        self.in_tunnel = self.scene.mode == Mode::Tun;
        timed
    }

    /// # Errors
    /// If frames of the last round are missing, with what was dropped since it was `dropped`.
    pub fn all_came_out(&self, dropped: &[(&'static str, u64)]) -> Result<()> {
        let sent = self.belt.borrow().sent().len();
        if sent == FRAMES {
            return Ok(());
        }
        let reasons = self.dropped().into_iter().zip(dropped);
        let reasons = reasons.filter(|(after, before)| after.1 != before.1);
        let reasons: Vec<_> =
            reasons.map(|(after, before)| (after.0, after.1 - before.1)).collect();
        bail!("of {FRAMES} frames {sent} came out; dropped meanwhile: {reasons:?}")
    }

    /// Runs the frames on the belt past the pipeline: what the belt itself costs.
    pub fn pass(&mut self) -> Timed {
        timed(&mut self.passing, &self.belt, self.clock, RUN_IN)
    }

    /// Writes every frame on the belt: whose it is and with which control bits, by its number.
    fn load(&mut self, size: Size, mut next: impl FnMut(&mut Self, usize) -> (Ends, u8)) {
        let belt = self.belt.clone();
        let mut belt = belt.borrow_mut();
        let macs = self.macs(belt.entrance);
        let grown = if std::mem::take(&mut self.in_tunnel) { self.overhead() } else { 0 };
        let family = self.scene.family;
        belt.rewind(|number, frame| {
            let length = size.of(number, family);
            let (ends, flags) = next(self, number);
            frame.trim_front(grown);
            if frame.len() < length {
                let missing = length - frame.len();
                frame.append(missing);
            }
            frame.truncate(length);
            let mut headers = [0; MOST_HEADERS];
            let written = traffic::write(&mut headers, macs, ends, flags, length);
            frame.bytes_mut()[..written].copy_from_slice(&headers[..written]);
        });
    }

    /// Source and destination of frames that come in at this link.
    fn macs(&self, entrance: usize) -> [Mac; 2] {
        let (near, far) = match entrance {
            0 => (OUTSIDE, testing::mac_of(testing::GATEWAY)),
            _ => (INSIDE, testing::mac_of(testing::our_address(OUTSIDE))),
        };
        [far, testing::mac_of(testing::our_address(near))]
    }

    /// Bytes that a tunnel puts in front of a packet.
    fn overhead(&self) -> usize {
        match self.scene.family {
            Family::Ipv4 => dataplane::wire::ipv4::HEADER,
            Family::Ipv6 => dataplane::wire::ipv6::HEADER,
        }
    }

    /// The frames that came out in the last round, in the order in which they went in.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        self.belt.borrow().sent().iter().map(|frame| frame.bytes().to_vec()).collect()
    }

    /// Frames dropped so far, by reason.
    pub fn dropped(&self) -> Vec<(&'static str, u64)> {
        Reason::ALL.iter().map(|it| (it.name(), self.counters.dropped(*it))).collect()
    }
}

/// Frames that are as long as the network carries must fit with a tunnel's header too.
fn wide(mut snapshot: Snapshot) -> Snapshot {
    let mut interfaces = snapshot.interfaces.to_vec();
    interfaces.iter_mut().for_each(|interface| interface.mtu = 1_600);
    snapshot.interfaces = interfaces.into();
    snapshot
}

#[inline]
fn timed(pipeline: &mut impl Turn, belt: &SharedBelt, clock: Clock, run_in: usize) -> Timed {
    let waiting = || belt.borrow().waiting();
    while waiting() > FRAMES - run_in {
        pipeline.turn(clock.now());
    }
    let mut frames = 0;
    let expected = waiting();
    let start = tsc();
    while frames < expected {
        frames += pipeline.turn(clock.now());
    }
    Timed { ticks: tsc() - start, frames }
}
