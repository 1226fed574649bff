//! The generator and the measurer: one loop on one core, with clients at one port and servers at the other.

use anyhow::{Result, ensure};
use arrayvec::ArrayVec;
use dataplane::wire::Mac;
use dpdk_sys::lcore::tsc;
use dpdk_sys::{Mbuf, Mempool, ReceiveQueue, TransmitQueue};
use hdrhistogram::Histogram;

use crate::interrupt;
use crate::moments::Clock;
use crate::random::Random;
use crate::results::Percentiles;
use crate::template::Template;
use crate::traffic::{Scene, Size};

/// Frames that are sent at once at most, and fetched at once.
const BURST: usize = 32;
/// After so many seconds without a frame, what has not come is lost.
const SILENCE: f64 = 0.02;
/// The longest latency that is told from longer ones, in nanoseconds.
const LONGEST: u64 = 10_000_000_000;
/// Latencies are told apart to about a hundredth.
const DIGITS: u8 = 2;

/// One of the two ports.
pub struct End {
    /// Where frames come from.
    pub receive: ReceiveQueue,
    /// Where they go to.
    pub transmit: TransmitQueue,
}

/// The two ports of whatever forwards from the first to the second.
pub struct Station {
    /// Clients are here.
    pub clients: End,
    /// Servers are here.
    pub servers: End,
    /// Where frames come from.
    pub pool: Mempool,
    /// What time it is.
    pub clock: Clock,
    /// Which flow is next.
    pub random: Random,
    /// How many trials there were.
    pub trials: u8,
}

/// What is sent.
#[derive(Clone)]
pub struct Stream {
    /// The frames.
    pub template: Template,
    /// How many flows there are.
    pub flows: u32,
    /// Bytes that frames have in front of the IP header on arrival.
    pub outer: usize,
    /// One flow after the other, instead of in random order.
    pub in_order: bool,
}

impl Stream {
    /// Requests of a scene's flows.
    pub fn new(scene: Scene, macs: [Mac; 2], flags: u8, size: Size, outer: usize) -> Self {
        let template = Template::new(scene, macs, flags, size);
        Self { template, flows: scene.flows, outer, in_order: false }
    }
}

/// How fast and how long frames are sent.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Frames a second; `None`: as many as the port takes.
    pub rate: Option<f64>,
    /// For so many seconds.
    pub seconds: f64,
    /// At most so many frames.
    pub frames: u64,
}

/// What came of it.
pub struct Trial {
    /// Frames that were to be sent, those that the port refused included.
    pub offered: u64,
    /// Frames that arrived.
    pub received: u64,
    /// From the first frame to the last that was sent, in seconds.
    pub seconds: f64,
    /// How long they took, in nanoseconds.
    pub latency: Histogram<u32>,
}

impl Trial {
    /// Share of the frames that did not arrive.
    pub fn loss(&self) -> f64 {
        self.offered.saturating_sub(self.received) as f64 / self.offered.max(1) as f64
    }

    /// Millions of frames a second that arrived.
    pub fn mpps(&self) -> f64 {
        self.received as f64 / self.seconds / 1e6
    }

    /// The latency as results have it.
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile| self.latency.value_at_quantile(quantile);
        Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: self.latency.max() }
    }
}

impl Station {
    /// Sends and counts. `every_turn` is called again and again meanwhile.
    ///
    /// # Errors
    /// If somebody interrupts.
    pub fn trial(
        &mut self,
        stream: &Stream,
        pace: Pace,
        mut every_turn: impl FnMut(u64),
    ) -> Result<Trial> {
        self.trials = self.trials.wrapping_add(1);
        let of_trial = stream.template.clone().of_trial(self.trials);
        let stream = &Stream { template: of_trial, ..*stream };
        self.drain();
        let hz = self.clock.hz() as f64;
        let gap = pace.rate.map_or(0.0, |rate| hz / rate);
        // A microsecond's worth at a time, so that a low rate does not come in lumps.
        let chunk = pace.rate.map_or(BURST, |rate| ((rate * 1e-6).ceil() as usize).clamp(1, BURST));
        let mut trial = Trial {
            offered: 0,
            received: 0,
            seconds: 0.0,
            latency: Histogram::new_with_bounds(1, LONGEST, DIGITS)?,
        };
        let mut left: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        let start = tsc();
        let end = start + (pace.seconds * hz) as u64;
        let mut next = start as f64;
        let mut now = start;
        while now < end && trial.offered < pace.frames {
            now = tsc();
            every_turn(now);
            if now as f64 >= next {
                if pace.rate.is_some() {
                    // What the port has refused is lost: the device was not fast enough.
                    left.clear();
                }
                let wanted = chunk - left.len().min(chunk);
                trial.offered += self.fill(stream, &mut left, wanted, trial.offered, now);
                self.clients.transmit.transmit(&mut left);
                next += gap * chunk as f64;
                // Whoever was kept from sending does not make up for it in one flood.
                next = next.max(now as f64 - gap * 4.0 * BURST as f64);
            }
            self.receive(stream, &mut trial);
        }
        trial.seconds = (tsc() - start) as f64 / hz;
        if pace.rate.is_none() {
            trial.offered -= left.len() as u64;
        }
        left.clear();
        self.wait_for_the_rest(stream, &mut trial)?;
        Ok(trial)
    }

    /// Makes up to `wanted` more frames; returns how many.
    #[inline]
    fn fill(
        &mut self,
        stream: &Stream,
        into: &mut ArrayVec<Mbuf, BURST>,
        wanted: usize,
        sent: u64,
        now: u64,
    ) -> u64 {
        let mut made = 0;
        for _ in 0..wanted {
            let Some(mut frame) = self.pool.allocate() else { break };
            let flow = match stream.in_order {
                true => ((sent + made) % u64::from(stream.flows)) as u32,
                false => self.random.below(stream.flows),
            };
            if let Some(bytes) = frame.append(stream.template.length()) {
                stream.template.write(bytes, flow, now);
            }
            into.push(frame);
            made += 1;
        }
        made
    }

    /// Returns whether anything came.
    #[inline]
    fn receive(&mut self, stream: &Stream, trial: &mut Trial) -> bool {
        let mut frames: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        self.servers.receive.receive(&mut frames);
        if frames.is_empty() {
            // What the device says to clients is none of ours.
            self.clients.receive.receive(&mut frames);
            return false;
        }
        let now = tsc();
        for frame in &frames {
            if let Some(sent) = stream.template.time_of(frame.bytes(), stream.outer) {
                trial.received += 1;
                let took = self.clock.nanos(now.saturating_sub(sent)) as u64;
                trial.latency.saturating_record(took);
            }
        }
        true
    }

    fn wait_for_the_rest(&mut self, stream: &Stream, trial: &mut Trial) -> Result<()> {
        let patience = (SILENCE * self.clock.hz() as f64) as u64;
        let mut last = tsc();
        while trial.received < trial.offered && tsc() - last < patience {
            if self.receive(stream, trial) {
                last = tsc();
            }
        }
        interrupt::check()?;
        ensure!(trial.received <= trial.offered, "more frames came than were sent");
        Ok(())
    }

    /// Throws away what is still under way from before.
    fn drain(&mut self) {
        let patience = (SILENCE * self.clock.hz() as f64) as u64 / 8;
        let mut last = tsc();
        while tsc() - last < patience {
            let mut frames: ArrayVec<Mbuf, BURST> = ArrayVec::new();
            let (servers, clients) = (&mut self.servers.receive, &mut self.clients.receive);
            if servers.receive(&mut frames) > 0 {
                last = tsc();
            }
            frames.clear();
            clients.receive(&mut frames);
        }
    }

    /// Sends a frame of our own at one port, and returns the first frame that comes back there and that `wanted`
    /// makes something of; tries for some seconds.
    pub fn ask<T>(
        &mut self,
        at_servers: bool,
        question: &[u8],
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        for _ in 0..50 {
            let end = if at_servers { &mut self.servers } else { &mut self.clients };
            let mut frames: ArrayVec<Mbuf, BURST> = ArrayVec::new();
            frames.extend(self.pool.allocate_from(question));
            end.transmit.transmit(&mut frames);
            let until = tsc() + self.clock.hz() / 10;
            while tsc() < until {
                let mut frames: ArrayVec<Mbuf, BURST> = ArrayVec::new();
                end.receive.receive(&mut frames);
                if let Some(found) = frames.iter().find_map(|frame| wanted(frame.bytes())) {
                    return Some(found);
                }
            }
        }
        None
    }
}
