//! How often stations are asked for their hardware addresses, by a clock that the test sets: those that answer what
//! the node says to them need not be (RFC 4861 section 7.3.1, which does for ARP as well).

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacket, IpHeaders, NetSlice, PacketBuilder,
    PacketBuilderStep, SlicedPacket, TransportSlice,
};
use tempfile::TempDir;

use crate::rig::{self, CONFIGURATION, Worker};

/// Servers on the node's own subnets, which no configuration gives a hardware address.
const SERVERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 12)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x12)),
];
/// They are one station.
const ITS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x12];
/// Of neighbour discovery (RFC 4861 section 4).
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const TURN: Duration = Duration::from_millis(50);

fn configuration() -> String {
    let [_, server] = SERVERS;
    let both = "addresses = [\"10.0.0.2/24\", \"2001:db8::2/64\"]";
    let configuration = CONFIGURATION.replacen("addresses = [\"10.0.0.2/24\"]", both, 1);
    let address = "address = \"2001:db8::100\"\nports = \"80\"";
    let server = format!("server = [{{ name = \"web1\", address = \"{server}\" }}]");
    format!("{configuration}\n[[service]]\nname = \"six\"\n{address}\n{server}\n")
}

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
    server: IpAddr,
    talk: Talk,
    /// Requests for the server's hardware address that went to that address itself.
    asked_itself: usize,
    _directory: TempDir,
}

impl Bench {
    fn new(server: IpAddr, talk: Talk) -> Self {
        let directory = TempDir::new().unwrap();
        rig::write(&directory, &configuration());
        let (store, config) =
            Store::open(&directory.path().join("state"), &directory.path().join("sluice.toml"))
                .unwrap();
        let (mut plumbing, mut workers) = rig::plumbing(1);
        let nanos = Arc::new(AtomicU64::new(1_000_000_000));
        let clock = Arc::clone(&nanos);
        plumbing.clock = Box::new(move || Moment::from_nanos(clock.load(Ordering::Relaxed)));
        let node = Node::start(Start { store, config, plumbing });
        let worker = workers.remove(0);
        Self { node, worker, nanos, server, talk, asked_itself: 0, _directory: directory }
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
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let asker = frame[6..12].try_into().unwrap();
        let back = PacketBuilder::ethernet2(ITS_MAC, asker);
        let (back, to) = match (packet.net?, self.server) {
            (NetSlice::Arp(arp), _) => return self.answer_arp(&arp.to_packet(), frame),
            (NetSlice::Ipv4(ip), IpAddr::V4(server)) => {
                let (source, to) = (ip.header().source(), ip.header().destination_addr());
                (back.ipv4(server.octets(), source, 64), IpAddr::from(to))
            }
            (NetSlice::Ipv6(ip), IpAddr::V6(server)) => {
                let (source, to) = (ip.header().source(), ip.header().destination_addr());
                (back.ipv6(server.octets(), source, HOP_LIMIT), IpAddr::from(to))
            }
            _ => return None,
        };
        let transport = packet.transport?;
        if let TransportSlice::Icmpv6(icmp) = &transport
            && icmp.type_u8() == SOLICITATION
        {
            return self.answer_solicitation(icmp.payload(), frame, back);
        }
        if to != self.server || self.talk == Talk::InVain {
            return None;
        }
        let mut answer = Vec::new();
        let echo = |[a, b, c, d]: [u8; 4]| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        match transport {
            TransportSlice::Tcp(tcp) => back
                .tcp(tcp.destination_port(), tcp.source_port(), 0, 0)
                .rst()
                .ack(tcp.sequence_number().wrapping_add(1))
                .write(&mut answer, &[]),
            TransportSlice::Udp(udp) => {
                back.udp(udp.destination_port(), udp.source_port()).write(&mut answer, b"answer")
            }
            TransportSlice::Icmpv4(icmp) => {
                let (id, number) = echo(icmp.bytes5to8());
                back.icmpv4_echo_reply(id, number).write(&mut answer, icmp.payload())
            }
            TransportSlice::Icmpv6(icmp) => {
                let (id, number) = echo(icmp.bytes5to8());
                back.icmpv6_echo_reply(id, number).write(&mut answer, icmp.payload())
            }
            _ => return None,
        }
        .unwrap();
        Some(answer)
    }

    fn answer_arp(&mut self, question: &ArpPacket, frame: &[u8]) -> Option<Vec<u8>> {
        let question = question.try_eth_ipv4().ok()?;
        let asked = IpAddr::from(question.target_ipv4) == self.server;
        if question.operation != ArpOperation::REQUEST || !asked {
            return None;
        }
        self.asked_itself += usize::from(frame[..6] == ITS_MAC);
        let answer = ArpPacket::from(ArpEthIpv4Packet {
            operation: ArpOperation::REPLY,
            sender_mac: ITS_MAC,
            sender_ipv4: question.target_ipv4,
            target_mac: question.sender_mac,
            target_ipv4: question.sender_ipv4,
        });
        let back = PacketBuilder::ethernet2(ITS_MAC, question.sender_mac).arp(answer);
        let mut answer = Vec::new();
        back.write(&mut answer).unwrap();
        Some(answer)
    }

    /// With an advertisement (RFC 4861 section 4.4).
    fn answer_solicitation(
        &mut self,
        question: &[u8],
        frame: &[u8],
        back: PacketBuilderStep<IpHeaders>,
    ) -> Option<Vec<u8>> {
        let target: [u8; 16] = *question.first_chunk()?;
        if IpAddr::from(target) != self.server {
            return None;
        }
        self.asked_itself += usize::from(frame[..6] == ITS_MAC);
        let options = [&target[..], &[2, 1], &ITS_MAC].concat();
        let solicited_overrides = [0x60, 0, 0, 0];
        let mut answer = Vec::new();
        let back = back.icmpv6_raw(ADVERTISEMENT, 0, solicited_overrides);
        back.write(&mut answer, &options).unwrap();
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
        let at = (self.server, 80).into();
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
        assert!(answered, "{} {:?}", self.server, self.talk);
    }
}

/// Ten times as long as an answer is good.
#[test]
fn a_server_that_answers_what_it_is_asked_need_not_be_asked_for_its_hardware_address() {
    let asked_itself = |server, talk| {
        let mut bench = Bench::new(server, talk);
        (0..40).for_each(|_| bench.turn());
        let net = bench.node.net();
        (0..300).for_each(|_| bench.converse(&net));
        bench.asked_itself
    };
    for server in SERVERS {
        for talk in [Talk::Nothing, Talk::InVain] {
            let asked = asked_itself(server, talk);
            assert!((8..=40).contains(&asked), "{server} {talk:?}: {asked}");
        }
        for talk in [Talk::Connections, Talk::Datagrams, Talk::Pings] {
            assert_eq!(asked_itself(server, talk), 0, "{server} {talk:?}");
        }
    }
}
