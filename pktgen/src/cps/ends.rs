//! Client and server: what each says to what it hears.

use std::time::Duration;

use arrayvec::ArrayVec;
use dataplane::wire::tcp::Flags;
use hdrhistogram::Histogram;

use super::segment::Segment;
use crate::addresses::{Addresses, Tuple};
use crate::measurement::Sample;
use crate::profile::Profile;

/// The server: an answer to everything that wants one.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) reached: u64,
    pub(super) encapsulated: u64,
}

impl Server {
    pub(super) fn answer(&mut self, heard: &Segment, was_encapsulated: bool) -> Option<Segment> {
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
pub(super) struct Client {
    pub(super) addresses: Addresses,
    connections: Vec<Connection>,
    /// The place that the next connection takes, and the one whose age is looked at next.
    pub(super) next: u32,
    pub(super) oldest: usize,
    pub(super) timeout: u64,
    pub(super) nanoseconds: f64,
    pub(super) open: u32,
    pub(super) begun: u64,
    pub(super) established: u64,
    pub(super) closed: u64,
    pub(super) timed_out: u64,
    pub(super) reset: u64,
    pub(super) not_free: u64,
    pub(super) first: u64,
    pub(super) last: u64,
    /// All handshakes together, in nanoseconds.
    pub(super) waited: u64,
    pub(super) handshakes: Histogram<u64>,
}

/// Places whose age is looked at in one turn.
const LOOKED_AT: usize = 4;

impl Client {
    pub(super) fn new(profile: &Profile, timeout: Duration, hz: u64) -> Self {
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
    pub(super) fn open(&mut self, now: u64) -> Option<Segment> {
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
    pub(super) fn owns(&self, segment: &Segment) -> bool {
        self.place_of(segment).is_some()
    }

    /// What is said to a segment.
    pub(super) fn hear(&mut self, segment: &Segment, now: u64) -> ArrayVec<Segment, 2> {
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
    pub(super) fn expire(&mut self, now: u64) {
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

    pub(super) fn sample(&self, at: f64) -> Sample {
        let latency = self.waited as f64 / self.established.max(1) as f64;
        Sample { at, sent: self.begun, received: self.established, latency }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
