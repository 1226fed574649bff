//! Connections a second: TCP handshakes through a device, with both ends here.
//!
//! The client opens connections at a rate, each from an address and port of its own: SYN, and when the SYN/ACK comes,
//! ACK and at once FIN; when the other FIN comes, the last ACK. The server keeps no state: it answers any SYN and any
//! FIN that comes, so the device between may translate whatever it likes. Nothing is sent again: what is lost fails
//! when its time is over.

mod ends;

mod segment;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use dataplane::wire::Mac;
use dataplane::wire::ethernet::Tag;
use dpdk_sys::{Mbuf, Mempool, ReceiveQueue, TransmitQueue, lcore};
use serde::Serialize;

use self::ends::{Client, Server};
use self::segment::{Segment, frame_of, read};
use crate::addresses::{Addresses, Network};
use crate::error::Invalid;
use crate::measurement::Sample;
use crate::neighbours;
use crate::pace::Pacer;
use crate::parse;
use crate::profile::Profile;
use crate::progress::Progress;
use crate::receive::Glance;
use crate::report::Latency;
use crate::send::Sent;

/// How answers reach the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Answers {
    /// Over the wire, back through the device: NAT and SNAT.
    Device,
    /// Past the device, inside this process: direct return and tunnels, where the device never sees an answer.
    Direct,
}

/// How connections are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// For how long new ones are begun.
    pub duration: Duration,
    /// After how long one has failed.
    pub timeout: Duration,
    /// How answers reach the client.
    pub answers: Answers,
    /// Where the server looks for GUE.
    pub gue_port: u16,
}

/// What came of the connections.
#[derive(Debug, Clone, Serialize)]
pub struct Connections {
    /// New connections a second that were asked for; none for as many as go.
    pub asked_cps: Option<f64>,
    /// Seconds in which connections were begun.
    pub seconds: f64,
    /// Connections begun.
    pub begun: u64,
    /// Those that were accepted: the SYN/ACK came.
    pub established: u64,
    /// Established ones a second, from the first that was to the last.
    pub established_cps: f64,
    /// Those that were closed by both ends.
    pub closed: u64,
    /// Those that failed because an answer did not come in time.
    pub timed_out: u64,
    /// Those that were refused with a reset.
    pub reset: u64,
    /// Times that a connection was due and its address and port were still in use.
    pub not_free: u64,
    /// SYNs that came to the server.
    pub reached_server: u64,
    /// Those of them inside other packets, IP in IP or GUE.
    pub encapsulated: u64,
    /// Frames that belong to no connection of ours.
    pub foreign: u64,
    /// From the SYN to the SYN/ACK.
    pub handshake_ns: Option<Latency>,
    /// How it went: begun and established.
    pub samples: Vec<Sample>,
}

/// Frames that may wait for a port: a burst's answers, two each, and a burst of SYNs.
const ROOM: usize = 128;

/// A port of the bench.
#[derive(Debug)]
struct Lane {
    receive: ReceiveQueue,
    transmit: TransmitQueue,
    waiting: ArrayVec<Mbuf, ROOM>,
}

/// Both ends, their ports, and the device between.
#[derive(Debug)]
pub struct Bench {
    lanes: Vec<Lane>,
    pool: Mempool,
    macs: (Mac, Mac),
    tag: Option<Tag>,
    client: Client,
    server: Server,
    settings: Settings,
    pacer: Pacer,
    hz: u64,
    foreign: u64,
    /// Addresses whose hardware address is told to whoever asks, and the ports' own.
    ours: Vec<Network>,
    port_macs: Vec<Mac>,
}

impl Bench {
    /// The client sends through the first port; answers come in wherever they come. `profile` says the rate, the
    /// addresses and how many connections there may be at a time.
    ///
    /// # Errors
    /// [`Invalid`] if the profile is refused, or its flows differ in more than their sources.
    pub fn new(
        ports: Vec<(ReceiveQueue, TransmitQueue)>,
        pool: Mempool,
        profile: &Profile,
        settings: Settings,
        hz: u64,
    ) -> Result<Self, Invalid> {
        profile.check()?;
        let sources = Addresses { destination_ports: one(profile), ..profile.addresses };
        let per_destination = sources.capacity() / u64::from(sources.destination.count);
        if u64::from(profile.flows) > per_destination {
            let expected = format!(
                "at most {per_destination}, as many as --source and --source-ports have combinations"
            );
            return Err(Invalid::new("--flows", expected, profile.flows));
        }
        let lane = |(receive, transmit)| Lane { receive, transmit, waiting: ArrayVec::new() };
        Ok(Self {
            lanes: ports.into_iter().map(lane).collect(),
            pool,
            macs: (profile.source_mac, profile.destination_mac),
            tag: profile.tag,
            client: Client::new(profile, settings.timeout, hz),
            server: Server::default(),
            settings,
            pacer: Pacer::new(profile.rate.pace(profile.line_rate), 64.0, hz),
            hz,
            foreign: 0,
            ours: vec![],
            port_macs: vec![],
        })
    }

    /// Answers whoever asks at any port for the hardware addresses of `ours`; `macs` are the ports', in order.
    pub fn answering(self, ours: Vec<Network>, macs: Vec<Mac>) -> Self {
        Self { ours, port_macs: macs, ..self }
    }

    /// Opens connections until it is over or `stop` is set, and waits for those that are open.
    pub fn run(
        mut self,
        asked: Option<f64>,
        stop: &AtomicBool,
        progress: &Progress,
    ) -> Connections {
        let start = lcore::tsc();
        let hz = self.hz;
        let ticks = |duration: Duration| (duration.as_secs_f64() * hz as f64) as u64;
        let end = start.saturating_add(ticks(self.settings.duration));
        let mut samples = Vec::with_capacity(1000);
        let every = (end - start) / 200;
        let (mut now, mut next_report, mut next_sample) = (start, start, start);
        let mut begins = true;
        let mut ended = end;
        loop {
            if begins && (now >= end || stop.load(Ordering::Relaxed)) {
                (begins, ended) = (false, now);
            }
            if !begins && (self.client.open == 0 || now > ended + ticks(self.settings.timeout)) {
                break;
            }
            self.turn(now, begins);
            now = lcore::tsc();
            if now >= next_report {
                next_report = now + self.hz / 100;
                self.report(progress);
                if now >= next_sample && samples.len() < samples.capacity() {
                    next_sample = now + every;
                    samples.push(self.client.sample((now - start) as f64 / hz as f64));
                }
            }
        }
        self.report(progress);
        self.conclude(asked, (ended - start) as f64 / hz as f64, samples)
    }

    fn turn(&mut self, now: u64, begins: bool) {
        if begins && self.lanes[0].waiting.remaining_capacity() >= 96 && self.pacer.is_due(now) {
            let group = self.pacer.group();
            for _ in 0..group {
                if let Some(syn) = self.client.open(now) {
                    self.say(0, self.macs, &syn);
                }
            }
            self.pacer.sent(now, group, group * 60);
        }
        self.client.expire(now);
        for port in 0..self.lanes.len() {
            self.take_burst(port);
            let lane = &mut self.lanes[port];
            if !lane.waiting.is_empty() {
                lane.transmit.transmit(&mut lane.waiting);
            }
        }
    }

    fn take_burst(&mut self, port: usize) {
        // The client's two answers to each go out through the first port.
        if self.lanes[0].waiting.len() > ROOM - 65 || self.lanes[port].waiting.len() > ROOM - 65 {
            return;
        }
        let mut burst = ArrayVec::<Mbuf, 32>::new();
        if self.lanes[port].receive.receive(&mut burst) == 0 {
            return;
        }
        let now = lcore::tsc();
        for frame in &mut burst {
            self.handle(port, frame, now);
        }
        Mbuf::give_back(&mut burst);
    }

    fn handle(&mut self, port: usize, frame: &mut Mbuf, now: u64) {
        let link = parse::link(frame.bytes_mut()).map(|(from, to, ..)| (to, from));
        let read = parse::innermost(frame.bytes_mut(), self.settings.gue_port).and_then(read);
        let (Some(macs), Some((segment, layers))) = (link, read) else {
            self.foreign += 1;
            return self.answer_neighbour(port, frame);
        };
        if self.client.owns(&segment) {
            return self.tell_client(&segment, now);
        }
        let Some(answer) = self.server.answer(&segment, layers > 0) else { return };
        match self.settings.answers {
            Answers::Device => self.say(port, macs, &answer),
            Answers::Direct => self.tell_client(&answer, now),
        }
    }

    fn answer_neighbour(&mut self, port: usize, frame: &mut Mbuf) {
        let Some(mac) = self.port_macs.get(port) else { return };
        if let Some(answer) = neighbours::answer(frame.bytes_mut(), *mac, &self.ours) {
            self.put(port, &answer);
        }
    }

    fn tell_client(&mut self, segment: &Segment, now: u64) {
        for answer in self.client.hear(segment, now) {
            self.say(0, self.macs, &answer);
        }
    }

    /// Hands a segment to a port; without a free buffer or room it is lost, as on any wire.
    fn say(&mut self, port: usize, (source, destination): (Mac, Mac), segment: &Segment) {
        let bytes = frame_of(segment, self.tag, source, destination);
        self.put(port, &bytes);
    }

    fn put(&mut self, port: usize, bytes: &[u8]) {
        let waiting = &mut self.lanes[port].waiting;
        if let Some(frame) = self.pool.allocate_from(bytes)
            && !waiting.is_full()
        {
            waiting.push(frame);
        }
    }

    fn report(&self, progress: &Progress) {
        progress.report_sent(Sent { frames: self.client.begun, ..Sent::default() });
        progress.report_received(Glance {
            frames: self.client.established,
            unique: self.client.established,
            foreign: self.foreign,
            latencies: self.client.waited,
            ..Glance::default()
        });
    }

    fn conclude(self, asked_cps: Option<f64>, seconds: f64, samples: Vec<Sample>) -> Connections {
        let Self { client, server, .. } = self;
        let span = client.last.saturating_sub(client.first) as f64 / self.hz as f64;
        let between = client.established.saturating_sub(1) as f64;
        Connections {
            asked_cps,
            seconds,
            begun: client.begun,
            established: client.established,
            established_cps: if span > 0.0 { between / span } else { 0.0 },
            closed: client.closed,
            timed_out: client.timed_out + u64::from(client.open),
            reset: client.reset,
            not_free: client.not_free,
            reached_server: server.reached,
            encapsulated: server.encapsulated,
            foreign: self.foreign,
            handshake_ns: Latency::of(&client.handshakes),
            samples,
        }
    }
}

fn one(profile: &Profile) -> crate::addresses::Ports {
    let first = profile.addresses.destination_ports.first;
    crate::addresses::Ports { first, last: first }
}
