//! How often stations are asked for their hardware addresses, by a clock that the test sets: those that answer what
//! the node says to them need not be (RFC 4861 section 7.3.1, which does for ARP as well).

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use controlplane::net::in_band::InBand;
use controlplane::net::{Datagrams, Net, Way};
use controlplane::node::{Node, Start};
use controlplane::store::Store;
use dataplane::moment::Moment;
use dataplane::punt::Copied;
use dataplane::snapshot::InterfaceId;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use tempfile::TempDir;

use crate::rig::{self, CONFIGURATION, Worker};

/// A server on the node's own subnet, which no configuration gives a hardware address.
const SERVER: [u8; 4] = [10, 0, 0, 12];
const ITS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x12];
const TURN: Duration = Duration::from_millis(50);

/// What the node says to the server, every second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Talk {
    Nothing,
    Connections,
    Datagrams,
    Pings,
    /// Connections, which the server does not answer.
    InVain,
}

/// A node, and the server, which answers everything.
struct Bench {
    node: Arc<Node>,
    worker: Worker,
    nanos: Arc<AtomicU64>,
    talk: Talk,
    /// Requests for the server's hardware address that went to that address itself.
    asked_itself: usize,
    _directory: TempDir,
}

impl Bench {
    fn new(talk: Talk) -> Self {
        let directory = TempDir::new().unwrap();
        rig::write(&directory, CONFIGURATION);
        let (store, config) =
            Store::open(&directory.path().join("state"), &directory.path().join("sluice.toml"))
                .unwrap();
        let (mut plumbing, mut workers) = rig::plumbing(1);
        let nanos = Arc::new(AtomicU64::new(1_000_000_000));
        let clock = Arc::clone(&nanos);
        plumbing.clock = Box::new(move || Moment::from_nanos(clock.load(Ordering::Relaxed)));
        let node = Node::start(Start { store, config, plumbing });
        let worker = workers.remove(0);
        Self { node, worker, nanos, talk, asked_itself: 0, _directory: directory }
    }

    /// A moment passes, and what the node says in it is answered.
    fn turn(&mut self) {
        self.nanos.fetch_add(TURN.as_nanos() as u64, Ordering::Relaxed);
        self.node.turn();
        self.worker.reader.current();
        while let Ok(frame) = self.worker.injected.pop() {
            if let Some(answer) = self.answer(frame.bytes()) {
                let answer = Copied::of(InterfaceId(0), &answer).unwrap();
                self.worker.punt.push(answer).unwrap();
            }
        }
        self.node.turn();
    }

    fn answer(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        if frame[12..14] == [8, 6] {
            if frame[20..22] != [0, 1] || frame[38..42] != SERVER {
                return None;
            }
            self.asked_itself += usize::from(frame[..6] == ITS_MAC);
            let (asker, rest) = (&frame[22..32], [0, 1, 8, 0, 6, 4, 0, 2]);
            let head = [&asker[..6], &ITS_MAC, &[8, 6][..], &rest[..]].concat();
            return Some([&head[..], &ITS_MAC, &SERVER, asker].concat());
        }
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let Some(NetSlice::Ipv4(ip)) = packet.net else { return None };
        let own = ip.header().source();
        if ip.header().destination() != SERVER || self.talk == Talk::InVain {
            return None;
        }
        let back = PacketBuilder::ethernet2(ITS_MAC, frame[6..12].try_into().unwrap())
            .ipv4(SERVER, own, 64);
        let mut answer = Vec::new();
        match packet.transport? {
            TransportSlice::Tcp(tcp) => back
                .tcp(tcp.destination_port(), tcp.source_port(), 0, 0)
                .rst()
                .ack(tcp.sequence_number().wrapping_add(1))
                .write(&mut answer, &[]),
            TransportSlice::Udp(udp) => {
                back.udp(udp.destination_port(), udp.source_port()).write(&mut answer, b"answer")
            }
            TransportSlice::Icmpv4(icmp) => {
                let [a, b, c, d] = icmp.bytes5to8();
                let numbers = [a, b, c, d].map(u16::from);
                back.icmpv4_echo_reply(numbers[0] << 8 | numbers[1], numbers[2] << 8 | numbers[3])
                    .write(&mut answer, icmp.payload())
            }
            _ => return None,
        }
        .unwrap();
        Some(answer)
    }

    /// Turns until it has happened, but for a second at most.
    fn within_a_second<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        let mut happened = None;
        for _ in 0..20 {
            if happened.is_none()
                && let Poll::Ready(it) = what.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                happened = Some(it);
            }
            self.turn();
        }
        happened
    }

    fn converse(&mut self, net: &InBand) {
        let at = (SERVER, 80).into();
        let answered = match self.talk {
            Talk::Nothing => self.within_a_second(std::future::pending::<()>()).is_none(),
            Talk::InVain => self.within_a_second(net.connect(at, Way::Routed)).is_none(),
            Talk::Connections => self
                .within_a_second(net.connect(at, Way::Routed))
                .is_some_and(|refused| refused.is_err()),
            Talk::Pings => {
                self.within_a_second(net.ping(at.ip(), Way::Routed)).is_some_and(|it| it.is_ok())
            }
            Talk::Datagrams => {
                let asking = async {
                    let socket = net.datagrams(at, Way::Routed).await?;
                    socket.send(b"question").await?;
                    socket.receive(&mut [0; 16]).await
                };
                self.within_a_second(asking).is_some_and(|it| it.is_ok_and(|length| length == 6))
            }
        };
        assert!(answered, "{:?}", self.talk);
    }
}

/// Ten times as long as an answer is good.
#[test]
fn a_server_that_answers_what_it_is_asked_need_not_be_asked_for_its_hardware_address() {
    let asked_itself = |talk| {
        let mut bench = Bench::new(talk);
        (0..40).for_each(|_| bench.turn());
        let net = bench.node.net();
        (0..300).for_each(|_| bench.converse(&net));
        bench.asked_itself
    };
    for talk in [Talk::Nothing, Talk::InVain] {
        let asked = asked_itself(talk);
        assert!((8..=40).contains(&asked), "{talk:?}: {asked}");
    }
    for talk in [Talk::Connections, Talk::Datagrams, Talk::Pings] {
        assert_eq!(asked_itself(talk), 0, "{talk:?}");
    }
}
