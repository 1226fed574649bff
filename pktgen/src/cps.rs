//! Connections a second: TCP handshakes through a device, with both ends here.
//!
//! The client opens connections at a rate, each from an address and port of its own: SYN, and when the SYN/ACK comes,
//! ACK and at once FIN; when the other FIN comes, the last ACK. The server keeps no state: it answers any SYN and any
//! FIN that comes, so the device between may translate whatever it likes. Nothing is sent again: what is lost fails
//! when its time is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use dataplane::wire::ethernet::{self, Ethernet, Tag, ethertype};
use dataplane::wire::tcp::{self, Flags};
use dataplane::wire::{Address, Mac, ipv4, ipv6, protocol};
use dpdk_sys::{Mbuf, Mempool, ReceiveQueue, TransmitQueue, lcore};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::addresses::{Addresses, Tuple};
use crate::error::Invalid;
use crate::measurement::Sample;
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

/// What one end says to the other.
#[derive(Debug, Clone, Copy)]
struct Segment {
    tuple: Tuple,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
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
        })
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
            return;
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

    fn tell_client(&mut self, segment: &Segment, now: u64) {
        for answer in self.client.hear(segment, now) {
            self.say(0, self.macs, &answer);
        }
    }

    /// Hands a segment to a port; without a free buffer or room it is lost, as on any wire.
    fn say(&mut self, port: usize, (source, destination): (Mac, Mac), segment: &Segment) {
        let bytes = frame_of(segment, self.tag, source, destination);
        let waiting = &mut self.lanes[port].waiting;
        if let Some(frame) = self.pool.allocate_from(&bytes)
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

fn read(mut packet: parse::Packet<'_>) -> Option<(Segment, u8)> {
    let (source, destination, layers) = (packet.source, packet.destination, packet.layers);
    let header = parse::tcp(&mut packet)?;
    let tuple = Tuple {
        source,
        destination,
        source_port: header.source(),
        destination_port: header.destination(),
    };
    let (sequence, acknowledgement) = (header.sequence(), header.acknowledgement());
    Some((Segment { tuple, sequence, acknowledgement, flags: header.flags().0 }, layers))
}

/// The segment in a frame of at least the smallest length.
fn frame_of(
    segment: &Segment,
    tag: Option<Tag>,
    source: Mac,
    destination: Mac,
) -> ArrayVec<u8, 96> {
    let Tuple { source: from, destination: to, source_port, destination_port } = segment.tuple;
    let header = tcp::Header {
        source: from,
        source_port,
        destination: to,
        destination_port,
        sequence: segment.sequence,
        acknowledgement: segment.acknowledgement,
        flags: Flags(segment.flags),
        window: u16::MAX,
        offers: tcp::Offers::default(),
    };
    let segment = header.to_bytes();
    let mut frame = ArrayVec::<u8, 96>::new();
    let kind = if from.is_v4() { ethertype::IPV4 } else { ethertype::IPV6 };
    let mut link = [0; ethernet::HEADER];
    if let Ok((mut header, _)) = Ethernet::split(&mut link) {
        header.write(source, destination, if tag.is_some() { ethertype::VLAN } else { kind });
    }
    let mut add = |bytes: &[u8]| {
        let fits = frame.try_extend_from_slice(bytes);
        debug_assert!(fits.is_ok());
    };
    add(&link);
    if let Some(tag) = tag {
        add(&tag.bits().to_be_bytes());
        add(&kind.to_be_bytes());
    }
    add_network(&mut add, from, to, segment.len() as u16);
    add(&segment);
    while frame.len() < 60 {
        frame.push(0);
    }
    frame
}

fn add_network(add: &mut impl FnMut(&[u8]), source: Address, destination: Address, length: u16) {
    match (source.v4(), destination.v4()) {
        (Some(source), Some(destination)) => add(&ipv4::Header {
            type_of_service: 0,
            total_length: ipv4::HEADER as u16 + length,
            identification: 0,
            dont_fragment: true,
            protocol: protocol::TCP,
            source,
            destination,
        }
        .to_bytes()),
        _ => add(&ipv6::Header {
            traffic_class: 0,
            flow_label: 0,
            payload_length: length,
            next_header: protocol::TCP,
            hop_limit: ipv6::HOP_LIMIT,
            source,
            destination,
        }
        .to_bytes()),
    }
}

/// The server: an answer to everything that wants one.
#[derive(Debug, Default)]
struct Server {
    reached: u64,
    encapsulated: u64,
}

impl Server {
    fn answer(&mut self, heard: &Segment, was_encapsulated: bool) -> Option<Segment> {
        let flags = Flags(heard.flags);
        if flags.resets() {
            return None;
        }
        let Tuple { source, destination, source_port, destination_port } = heard.tuple;
        let tuple = Tuple {
            source: destination,
            destination: source,
            source_port: destination_port,
            destination_port: source_port,
        };
        let acknowledgement = heard.sequence.wrapping_add(1);
        if flags.opens() {
            self.reached += 1;
            self.encapsulated += u64::from(was_encapsulated);
            let sequence = heard.sequence.rotate_left(16) ^ 0x5a5a_5a5a;
            return Some(Segment {
                tuple,
                sequence,
                acknowledgement,
                flags: Flags::SYN | Flags::ACK,
            });
        }
        flags.finishes().then_some(Segment {
            tuple,
            sequence: heard.acknowledgement,
            acknowledgement,
            flags: Flags::FIN | Flags::ACK,
        })
    }
}

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// There is none.
    #[default]
    Free,
    /// The SYN was sent.
    Opening,
    /// The FIN was sent.
    Closing,
}

#[derive(Debug, Clone, Copy, Default)]
struct Connection {
    phase: Phase,
    /// The number of the SYN.
    sequence: u32,
    /// When the SYN was sent.
    began: u64,
}

/// The client: connections at a rate, each in its own place.
#[derive(Debug)]
struct Client {
    addresses: Addresses,
    connections: Vec<Connection>,
    /// The place that the next connection takes, and the one whose age is looked at next.
    next: u32,
    oldest: usize,
    timeout: u64,
    nanoseconds: f64,
    open: u32,
    begun: u64,
    established: u64,
    closed: u64,
    timed_out: u64,
    reset: u64,
    not_free: u64,
    first: u64,
    last: u64,
    /// All handshakes together, in nanoseconds.
    waited: u64,
    handshakes: Histogram<u64>,
}

/// Places whose age is looked at in one turn.
const LOOKED_AT: usize = 4;

impl Client {
    fn new(profile: &Profile, timeout: Duration, hz: u64) -> Self {
        Self {
            addresses: profile.addresses,
            connections: vec![Connection::default(); profile.flows as usize],
            next: 0,
            oldest: 0,
            timeout: (timeout.as_secs_f64() * hz as f64) as u64,
            nanoseconds: 1e9 / hz as f64,
            open: 0,
            begun: 0,
            established: 0,
            closed: 0,
            timed_out: 0,
            reset: 0,
            not_free: 0,
            first: 0,
            last: 0,
            waited: 0,
            handshakes: Histogram::new_with_bounds(1, 60_000_000_000, 3)
                .expect("bounds that the library accepts"),
        }
    }

    /// Begins the next connection, if its place is free.
    fn open(&mut self, now: u64) -> Option<Segment> {
        let place = self.next;
        self.next = if place as usize + 1 == self.connections.len() { 0 } else { place + 1 };
        let connection = &mut self.connections[place as usize];
        if connection.phase != Phase::Free {
            self.not_free += 1;
            return None;
        }
        let sequence = (self.begun as u32).wrapping_mul(0x9e37_79b1);
        *connection = Connection { phase: Phase::Opening, sequence, began: now };
        self.begun += 1;
        self.open += 1;
        Some(Segment {
            tuple: self.addresses.tuple(place),
            sequence,
            acknowledgement: 0,
            flags: Flags::SYN,
        })
    }

    fn place_of(&self, segment: &Segment) -> Option<u32> {
        let Tuple { destination, destination_port, .. } = segment.tuple;
        let place = self.addresses.flow_from(destination, destination_port)?;
        ((place as usize) < self.connections.len()).then_some(place)
    }

    /// Whether a segment is for the client, and not for the server.
    fn owns(&self, segment: &Segment) -> bool {
        self.place_of(segment).is_some()
    }

    /// What is said to a segment.
    fn hear(&mut self, segment: &Segment, now: u64) -> ArrayVec<Segment, 2> {
        let mut answers = ArrayVec::new();
        let Some(place) = self.place_of(segment) else { return answers };
        let connection = &mut self.connections[place as usize];
        let (flags, expected) = (Flags(segment.flags), connection.sequence.wrapping_add(1));
        let say = |flags: u8, sequence: u32| Segment {
            tuple: self.addresses.tuple(place),
            sequence,
            acknowledgement: segment.sequence.wrapping_add(1),
            flags,
        };
        match connection.phase {
            Phase::Opening | Phase::Closing if flags.resets() => {
                connection.phase = Phase::Free;
                self.open -= 1;
                self.reset += 1;
            }
            Phase::Opening if flags.accepts() && segment.acknowledgement == expected => {
                connection.phase = Phase::Closing;
                let waited =
                    (now.saturating_sub(connection.began) as f64 * self.nanoseconds) as u64;
                self.handshakes.saturating_record(waited.max(1));
                self.waited += waited;
                self.first = if self.established == 0 { now } else { self.first };
                self.last = now;
                self.established += 1;
                answers.push(say(Flags::ACK, expected));
                answers.push(say(Flags::FIN | Flags::ACK, expected));
            }
            Phase::Closing if flags.finishes() => {
                connection.phase = Phase::Free;
                self.open -= 1;
                self.closed += 1;
                answers.push(say(Flags::ACK, expected.wrapping_add(1)));
            }
            _ => {}
        }
        answers
    }

    /// Looks at a few places: those whose time is over have failed.
    fn expire(&mut self, now: u64) {
        for _ in 0..LOOKED_AT {
            let connection = &mut self.connections[self.oldest];
            if connection.phase != Phase::Free
                && now.saturating_sub(connection.began) > self.timeout
            {
                connection.phase = Phase::Free;
                self.open -= 1;
                self.timed_out += 1;
            }
            self.oldest =
                if self.oldest + 1 == self.connections.len() { 0 } else { self.oldest + 1 };
        }
    }

    fn sample(&self, at: f64) -> Sample {
        let latency = self.waited as f64 / self.established.max(1) as f64;
        Sample { at, sent: self.begun, received: self.established, latency }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(tuple: Tuple, flags: u8) -> Segment {
        Segment { tuple, sequence: 1000, acknowledgement: 0, flags }
    }

    #[test]
    fn a_connection_is_opened_and_closed_by_both_ends() {
        let profile = Profile { flows: 2, ..Profile::simple() };
        let mut client = Client::new(&profile, Duration::from_secs(1), 1_000_000_000);
        let mut server = Server::default();
        let syn = client.open(0).unwrap();
        let accepted = server.answer(&syn, false).unwrap();
        let answers = client.hear(&accepted, 500);
        let [acknowledgement, fin] = answers[..] else { panic!("{answers:?}") };
        assert!(server.answer(&acknowledgement, false).is_none());
        let finished = server.answer(&fin, false).unwrap();
        assert_eq!(client.hear(&finished, 900).len(), 1);
        assert_eq!((client.begun, client.established, client.closed, client.open), (1, 1, 1, 0));
        assert_eq!(client.handshakes.max(), 500);
    }

    #[test]
    fn every_place_is_taken_once_and_free_again_after_its_time() {
        let profile = Profile { flows: 2, ..Profile::simple() };
        let mut client = Client::new(&profile, Duration::from_secs(1), 1_000_000_000);
        let tuples = [client.open(0).unwrap().tuple, client.open(0).unwrap().tuple];
        assert_ne!(tuples[0], tuples[1]);
        assert!(client.open(0).is_none());
        client.expire(1_000_000_001);
        assert_eq!((client.timed_out, client.not_free, client.open), (2, 1, 0));
        assert!(client.open(0).is_some());
    }

    #[test]
    fn an_answer_to_another_syn_is_not_taken() {
        let mut client = Client::new(&Profile::simple(), Duration::from_secs(1), 1_000_000_000);
        let syn = client.open(0).unwrap();
        let mut wrong = Server::default().answer(&syn, false).unwrap();
        wrong.acknowledgement ^= 1;
        assert!(client.hear(&wrong, 1).is_empty());
        wrong.flags = Flags::RST;
        client.hear(&wrong, 1);
        assert_eq!((client.established, client.reset), (0, 1));
    }

    #[test]
    fn segments_are_right_to_an_independent_decoder() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let tuple = Tuple {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                source_port: 1,
                destination_port: 80,
            };
            for tag in [None, Some(Tag::from_bits(7))] {
                let segment = segment(tuple, Flags::SYN);
                let bytes = frame_of(&segment, tag, Mac([2; 6]), Mac([4; 6]));
                let packet = etherparse::PacketHeaders::from_ethernet_slice(&bytes).unwrap();
                let Some(etherparse::TransportHeader::Tcp(header)) = &packet.transport else {
                    panic!("no TCP")
                };
                let expected = match packet.net.as_ref().unwrap() {
                    etherparse::NetHeaders::Ipv4(ip, _) => {
                        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                        header.calc_checksum_ipv4(ip, &[])
                    }
                    etherparse::NetHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(ip, &[]),
                    etherparse::NetHeaders::Arp(_) => panic!("no IP"),
                };
                assert_eq!(header.checksum, expected.unwrap());
                assert!(header.syn && bytes.len() >= 60);
            }
        }
    }
}
