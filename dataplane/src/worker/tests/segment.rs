//! TCP segments as the two ends of a connection write and read them, over either family, with an encoder and a
//! decoder that are not ours.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};

use crate::explain::Decision;
use crate::punt::{Command, Copied, Event};
use crate::snapshot::InterfaceId;
use crate::testing::{GATEWAY, OUTSIDE, TestWorker, mac_of, our_address};
use crate::wire::tcp::Flags;

/// One TCP segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub window: u16,
    pub options: Vec<u8>,
    pub text: Vec<u8>,
}

impl Segment {
    /// A segment without text.
    pub fn new(from: SocketAddr, to: SocketAddr, flags: u8) -> Self {
        Self {
            from,
            to,
            flags,
            sequence: 0,
            acknowledgement: 0,
            window: 1_000,
            options: Vec::new(),
            text: Vec::new(),
        }
    }

    /// The frame in which it comes to one of our interfaces.
    pub fn frame(&self, interface: InterfaceId) -> Vec<u8> {
        let station = match (interface, self.from.ip()) {
            (OUTSIDE, _) => mac_of(GATEWAY),
            (_, IpAddr::V4(address)) => mac_of(address),
            (_, IpAddr::V6(address)) => mac_of(address),
        };
        let mut header =
            TcpHeader::new(self.from.port(), self.to.port(), self.sequence, self.window);
        let has = |flag| self.flags & flag != 0;
        (header.syn, header.fin, header.rst) = (has(Flags::SYN), has(Flags::FIN), has(Flags::RST));
        (header.ack, header.psh) = (has(Flags::ACK), has(Flags::PSH));
        header.acknowledgment_number = self.acknowledgement;
        header.set_options_raw(&self.options).unwrap();
        let ethernet = PacketBuilder::ethernet2(station.0, mac_of(our_address(interface)).0);
        let packet = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 63),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 63),
            _ => panic!("two families"),
        };
        let mut frame = Vec::new();
        packet.tcp_header(header).write(&mut frame, &self.text).unwrap();
        frame.resize(frame.len().max(60), 0xaa); // Ethernet's padding
        frame
    }

    /// What a frame carries, after every checksum and length was found right.
    pub fn read(frame: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("no TCP") };
        let (from, to): (IpAddr, IpAddr) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                let checksum = tcp.calc_checksum_ipv4(header.source, header.destination).unwrap();
                assert_eq!(tcp.checksum(), checksum, "TCP checksum");
                assert!(frame.len() >= 14 + usize::from(header.total_len));
                (header.source.into(), header.destination.into())
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header().to_header();
                let checksum = tcp.calc_checksum_ipv6(header.source, header.destination).unwrap();
                assert_eq!(tcp.checksum(), checksum, "TCP checksum");
                assert!(frame.len() >= 54 + usize::from(header.payload_length));
                (header.source.into(), header.destination.into())
            }
            _ => panic!("no IP"),
        };
        let header = tcp.to_header();
        let bits = [
            (header.fin, Flags::FIN),
            (header.syn, Flags::SYN),
            (header.rst, Flags::RST),
            (header.psh, Flags::PSH),
            (header.ack, Flags::ACK),
        ];
        Self {
            from: SocketAddr::new(from, header.source_port),
            to: SocketAddr::new(to, header.destination_port),
            flags: bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum(),
            sequence: header.sequence_number,
            acknowledgement: header.acknowledgment_number,
            window: header.window_size,
            options: header.options.as_slice().to_vec(),
            text: tcp.payload().to_vec(),
        }
    }
}

/// One end of a connection: what it has sent, and what it has got.
#[derive(Debug, Clone)]
pub struct End {
    pub address: SocketAddr,
    pub peer: SocketAddr,
    /// The number of the next byte that it sends.
    pub next: u32,
    /// The number of the next byte that it waits for.
    pub awaits: u32,
}

impl End {
    /// An end that has not said anything yet.
    pub fn new(address: SocketAddr, peer: SocketAddr, next: u32) -> Self {
        Self { address, peer, next, awaits: 0 }
    }

    /// Its next segment.
    pub fn says(&mut self, flags: u8, text: &str) -> Segment {
        let segment = Segment {
            sequence: self.next,
            acknowledgement: if flags & Flags::ACK != 0 { self.awaits } else { 0 },
            text: text.into(),
            ..Segment::new(self.address, self.peer, flags)
        };
        let counted = u32::from(flags & (Flags::SYN | Flags::FIN) != 0);
        self.next = self.next.wrapping_add(text.len() as u32 + counted);
        segment
    }

    /// Takes a segment, which must be the next one of this connection and acknowledge all that was said.
    pub fn hears(&mut self, frame: &[u8]) -> Segment {
        let segment = Segment::read(frame);
        self.takes(&segment);
        segment
    }

    /// The same of one that was read before.
    pub fn takes<'s>(&mut self, segment: &'s Segment) -> &'s Segment {
        assert_eq!((segment.from, segment.to), (self.peer, self.address));
        if segment.flags & Flags::SYN != 0 {
            self.awaits = segment.sequence;
        }
        assert_eq!(segment.sequence, self.awaits, "the next byte");
        if segment.flags & Flags::ACK != 0 {
            assert_eq!(segment.acknowledgement, self.next, "all that was said");
        }
        let counted = u32::from(segment.flags & (Flags::SYN | Flags::FIN) != 0);
        self.awaits = self.awaits.wrapping_add(segment.text.len() as u32 + counted);
        segment
    }
}

/// What a worker says would become of a segment.
pub fn told(worker: &mut TestWorker, interface: InterfaceId, segment: &Segment) -> Vec<Decision> {
    let frame = Copied::of(interface, &segment.frame(interface)).unwrap();
    worker.control.commands.push(Command::Explain { question: 7, frame }).unwrap();
    worker.turn();
    let events = std::iter::from_fn(|| worker.control.events.pop().ok());
    let decision = |event| match event {
        Event::Decided { decision, .. } => Some(decision),
        _ => None,
    };
    events.filter_map(decision).collect()
}
