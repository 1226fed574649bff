//! Sender and receiver together: a run with a beginning, an end, and a while to wait for what is still on its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dpdk_sys::lcore::{self, spawn_pinned};
use dpdk_sys::{Eal, Mempool, ReceiveQueue, TransmitQueue};

use crate::error::Invalid;
use crate::measurement::{FlowLoss, Measurement, Sample};
use crate::neighbours::Desk;
use crate::profile::Profile;
use crate::progress::Progress;
use crate::receive::Receiver;
use crate::send::{Sender, Stream};
use crate::stamp::Mark;

/// How long a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long packets are sent.
    pub duration: Duration,
    /// How many are sent at most.
    pub frames: u64,
    /// How long packets are waited for after the last was sent.
    pub drain: Duration,
}

impl Timing {
    /// Sends for so long, and waits for another 200 ms.
    pub fn of(duration: Duration) -> Self {
        Self { duration, frames: u64::MAX, drain: Duration::from_millis(200) }
    }

    /// Sends so many frames, however long that takes, and waits for another 200 ms.
    pub fn frames(frames: u64) -> Self {
        Self { frames, ..Self::of(Duration::from_secs(1_000_000)) }
    }
}

/// Owns the queues that a run needs, and keeps them from run to run.
#[derive(Debug)]
pub struct Generator {
    transmit: Option<TransmitQueue>,
    pool: Mempool,
    receive: Vec<ReceiveQueue>,
    gue_port: u16,
    hz: u64,
    runs: u16,
    desk: Option<Desk>,
}

/// The mark of a process's first run; each run has another, so that what is late does not count for the next.
const FIRST_MARK: u16 = 0x5a1c;

impl Generator {
    /// Sends through `transmit` in buffers of `pool`, and receives through all of `receive`, the last of which is the
    /// receiving side; on a clock of `hz` ticks a second.
    pub fn new(
        transmit: TransmitQueue,
        pool: Mempool,
        receive: Vec<ReceiveQueue>,
        hz: u64,
    ) -> Self {
        let gue_port = dataplane::wire::gue::PORT;
        Self { transmit: Some(transmit), pool, receive, gue_port, hz, runs: 0, desk: None }
    }

    /// Looks for GUE at another port than 6080.
    pub fn with_gue_port(self, gue_port: u16) -> Self {
        Self { gue_port, ..self }
    }

    /// Answers, through `desk`, whoever asks for hardware addresses at the last of the receiving ports.
    pub fn answering(self, desk: Option<Desk>) -> Self {
        Self { desk, ..self }
    }

    /// Sends what `profile` asks for and measures what comes, on the calling thread, until it is over or `stop` is
    /// set; `progress` says how far it is.
    ///
    /// # Errors
    /// As for [`Profile::check`]; nothing was sent then.
    pub fn run(
        &mut self,
        profile: &Profile,
        timing: &Timing,
        stop: &AtomicBool,
        progress: &Progress,
    ) -> Result<Measurement, Invalid> {
        self.run_beside(profile, timing, stop, progress, |_| {})
    }

    /// As [`Self::run`]; as long as it sends, `besides` is called again and again with what the processor's clock says.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn run_beside(
        &mut self,
        profile: &Profile,
        timing: &Timing,
        stop: &AtomicBool,
        progress: &Progress,
        mut besides: impl FnMut(u64),
    ) -> Result<Measurement, Invalid> {
        let (mut sender, mut receiver) = self.prepare(profile, timing)?;
        let mut watch = Watch::new(timing, self.hz, stop, progress);
        let mut now = watch.start;
        while watch.goes_on(now) && !sender.is_done() {
            besides(now);
            sender.turn(now);
            receiver.turn();
            now = lcore::tsc();
            watch.look_at_sender(now, &sender);
            watch.look_at_receiver(now, &receiver);
        }
        let ended = now;
        let drained = watch.after_drain(now);
        while now < drained {
            sender.finish(now);
            receiver.turn();
            now = lcore::tsc();
            watch.look_at_receiver(now, &receiver);
        }
        watch.last_look(now, &sender, &receiver);
        let Watch { samples, start, interrupted, .. } = watch;
        let spent =
            Spent { samples, seconds: (ended - start) as f64 / self.hz as f64, interrupted };
        Ok(self.conclude(profile, sender, receiver, spent))
    }

    /// As [`Self::run`], with the sending loop on one core and the receiving loop on another.
    ///
    /// # Errors
    /// As for [`Profile::check`], or as for [`spawn_pinned`].
    pub fn run_apart(
        &mut self,
        eal: &Eal,
        cores: [usize; 2],
        profile: &Profile,
        timing: &Timing,
        stop: &Arc<AtomicBool>,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<Measurement> {
        let (sender, receiver) = self.prepare(profile, timing)?;
        let over = Arc::new(AtomicBool::new(false));
        let receiving = {
            let (over, progress, timing, hz) = (over.clone(), progress.clone(), *timing, self.hz);
            spawn_pinned(eal, cores[1], "receive", move || {
                receive(receiver, &timing, hz, &over, &progress)
            })?
        };
        let sending = {
            let (stop, progress, timing, hz) = (stop.clone(), progress.clone(), *timing, self.hz);
            spawn_pinned(eal, cores[0], "send", move || send(sender, &timing, hz, &stop, &progress))
        };
        let sending = sending.inspect_err(|_| over.store(true, Ordering::Relaxed))?;
        let panicked =
            |_| anyhow::anyhow!("a loop has stopped because of a mistake in the program");
        let sent = sending.join().map_err(panicked);
        over.store(true, Ordering::Relaxed);
        let (receiver, samples) = receiving.join().map_err(panicked)?;
        let (mut sender, seconds, interrupted) = sent?;
        sender.finish(lcore::tsc());
        Ok(self.conclude(profile, sender, receiver, Spent { samples, seconds, interrupted }))
    }

    fn prepare(
        &mut self,
        profile: &Profile,
        timing: &Timing,
    ) -> Result<(Sender, Receiver), Invalid> {
        let mark = Mark(FIRST_MARK.wrapping_add(self.runs));
        let stream = Stream::new(profile, mark, self.hz)?;
        self.runs = self.runs.wrapping_add(1);
        let numbers = stream.numbers();
        let transmit = self.transmit.take().expect("every run gives the queue back");
        let sender = Sender::new(transmit, self.pool.clone(), stream, profile, self.hz)
            .at_most(timing.frames);
        let queues = std::mem::take(&mut self.receive);
        let flows = (numbers, profile.tracking);
        let receiver = Receiver::new(queues, mark, flows, self.gue_port, self.hz);
        Ok((sender, receiver.answering(self.desk.take())))
    }

    fn conclude(
        &mut self,
        profile: &Profile,
        mut sender: Sender,
        mut receiver: Receiver,
        spent: Spent,
    ) -> Measurement {
        sender.give_up();
        let (group, behind) = sender.pace();
        let measurement = Measurement {
            asked: profile.rate.pace(profile.line_rate).frames(profile.sizes.mean()),
            group,
            behind,
            sending: spent.seconds,
            sent: sender.sent(),
            unsent: sender.unsent(),
            arrived: receiver.arrived().to_vec(),
            observed: receiver.observed(),
            flows: FlowLoss::between(sender.stream(), receiver.tracker()),
            samples: spent.samples,
            interrupted: spent.interrupted,
            hz: self.hz,
        };
        (self.transmit, self.pool) = {
            let (transmit, pool) = sender.into_parts();
            (Some(transmit), pool)
        };
        self.desk = receiver.take_desk();
        self.receive = receiver.into_queues();
        measurement
    }

    /// The queues, for whoever goes on with them: the one for sending, and those for receiving.
    pub fn into_queues(self) -> (TransmitQueue, Vec<ReceiveQueue>) {
        (self.transmit.expect("every run gives the queue back"), self.receive)
    }
}

/// How a run went, besides what was counted.
struct Spent {
    samples: Vec<Sample>,
    /// For how long packets were sent.
    seconds: f64,
    interrupted: bool,
}

fn send(
    mut sender: Sender,
    timing: &Timing,
    hz: u64,
    stop: &AtomicBool,
    progress: &Progress,
) -> (Sender, f64, bool) {
    let mut watch = Watch::new(timing, hz, stop, progress);
    let mut now = watch.start;
    while watch.goes_on(now) && !sender.is_done() {
        sender.turn(now);
        now = lcore::tsc();
        watch.look_at_sender(now, &sender);
    }
    let ended = now;
    while !sender.finish(now) && now < watch.after_drain(ended) {
        now = lcore::tsc();
    }
    progress.report_sent(sender.sent());
    (sender, (ended - watch.start) as f64 / hz as f64, watch.interrupted)
}

fn receive(
    mut receiver: Receiver,
    timing: &Timing,
    hz: u64,
    over: &AtomicBool,
    progress: &Progress,
) -> (Receiver, Vec<Sample>) {
    let mut watch = Watch::new(timing, hz, over, progress);
    let mut now = watch.start;
    let mut end = None;
    while end.is_none_or(|end| now < end) {
        receiver.turn();
        now = lcore::tsc();
        watch.look_at_receiver(now, &receiver);
        if end.is_none() && over.load(Ordering::Relaxed) {
            end = Some(watch.after_drain(now));
        }
    }
    progress.report_received(receiver.glance());
    (receiver, watch.samples)
}

/// Looks at the clock, at whether it is time to stop, and at how far the loops are: a hundred times a second, and a
/// sample for the report now and then.
struct Watch<'r> {
    start: u64,
    end: u64,
    drain: u64,
    stop: &'r AtomicBool,
    interrupted: bool,
    progress: &'r Progress,
    hz: u64,
    next_sender: u64,
    next_receiver: u64,
    next_sample: u64,
    samples: Vec<Sample>,
    /// Packets and latencies of the sample before.
    before: (u64, u64),
}

/// Samples of a run, at most: nothing is allocated while it runs.
const SAMPLES: usize = 300;

impl<'r> Watch<'r> {
    fn new(timing: &Timing, hz: u64, stop: &'r AtomicBool, progress: &'r Progress) -> Self {
        let start = lcore::tsc();
        let ticks = |duration: Duration| (duration.as_secs_f64() * hz as f64) as u64;
        Self {
            start,
            end: start.saturating_add(ticks(timing.duration)),
            drain: ticks(timing.drain),
            stop,
            interrupted: false,
            progress,
            hz,
            next_sender: start,
            next_receiver: start,
            next_sample: start,
            samples: Vec::with_capacity(SAMPLES),
            before: (0, 0),
        }
    }

    #[inline]
    fn goes_on(&mut self, now: u64) -> bool {
        self.interrupted = self.stop.load(Ordering::Relaxed);
        now < self.end && !self.interrupted
    }

    fn after_drain(&self, now: u64) -> u64 {
        now.saturating_add(self.drain)
    }

    #[inline]
    fn look_at_sender(&mut self, now: u64, sender: &Sender) {
        if now >= self.next_sender {
            self.next_sender = now + self.hz / 100;
            self.progress.report_sent(sender.sent());
        }
    }

    #[inline]
    fn look_at_receiver(&mut self, now: u64, receiver: &Receiver) {
        if now >= self.next_receiver {
            self.next_receiver = now + self.hz / 100;
            self.progress.report_received(receiver.glance());
            if now >= self.next_sample {
                self.sample(now);
            }
        }
    }

    fn last_look(&mut self, now: u64, sender: &Sender, receiver: &Receiver) {
        self.progress.report_sent(sender.sent());
        self.progress.report_received(receiver.glance());
        self.sample(now);
    }

    /// The interval doubles whenever there are many: a run of an hour has as many samples as one of a second.
    fn sample(&mut self, now: u64) {
        let received = self.progress.received();
        let (packets, latencies) =
            (received.unique - self.before.0, received.latencies - self.before.1);
        self.before = (received.unique, received.latencies);
        if self.samples.len() == SAMPLES {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
        }
        let at = (now - self.start) as f64 / self.hz as f64;
        self.samples.push(Sample {
            at,
            sent: self.progress.sent().frames,
            received: received.frames,
            latency: latencies as f64 / packets.max(1) as f64,
        });
        let interval = at / (SAMPLES / 2) as f64;
        self.next_sample = now + (interval * self.hz as f64) as u64;
    }
}
