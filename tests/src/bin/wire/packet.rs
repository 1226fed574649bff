//! Packets as they are sent and as they must arrive. Everything about a packet but its addresses
//! follows from its stamp, so that what must arrive is written down anew, checksums and all, by a
//! library that the appliance does not use, and compared byte for byte.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv4HeaderSlice, TcpHeader, UdpHeader,
};

use crate::scenario::{Mac, Protocol};

/// Where a packet is, at one point of its way.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// Hardware addresses: from, to.
    pub macs: [Mac; 2],
    /// Sender.
    pub source: SocketAddrV4,
    /// Receiver.
    pub destination: SocketAddrV4,
    /// What it carries.
    pub protocol: Protocol,
    /// Which packet it is.
    pub stamp: Stamp,
}

/// Which packet: written at the start of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The flow's number.
    pub flow: u32,
    /// Counts up from 0; an answer has the number of what it answers.
    pub number: u64,
    /// Whether a server sent it.
    pub answer: bool,
}

/// After so many packets a client ends its connection and begins another.
const CONNECTION: u64 = 512;

const MAGIC: [u8; 3] = *b"SLU";
/// Bytes of a stamp: the magic, the direction, flow, number.
const STAMP: usize = 16;

impl Stamp {
    fn to_bytes(self) -> [u8; STAMP] {
        let mut bytes = [0; STAMP];
        bytes[..3].copy_from_slice(&MAGIC);
        bytes[3] = self.answer.into();
        bytes[4..8].copy_from_slice(&self.flow.to_be_bytes());
        bytes[8..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// Reads the stamp at the start of a payload.
    fn of(payload: &[u8]) -> Option<Self> {
        let (stamp, _) = payload.split_first_chunk::<STAMP>()?;
        let [m0, m1, m2, answer @ (0 | 1), f0, f1, f2, f3, number @ ..] = *stamp else {
            return None;
        };
        ([m0, m1, m2] == MAGIC).then(|| Self {
            flow: u32::from_be_bytes([f0, f1, f2, f3]),
            number: u64::from_be_bytes(number),
            answer: answer == 1,
        })
    }

    /// Which of its flow's connections it belongs to.
    pub fn connection(self) -> u64 {
        self.number / CONNECTION
    }

    /// Whether it begins a connection.
    pub fn begins(self) -> bool {
        self.number.is_multiple_of(CONNECTION)
    }

    /// Whether it ends a connection.
    pub fn ends(self) -> bool {
        self.number % CONNECTION == CONNECTION - 1
    }

    /// Bytes of payload: short ones, long ones and odd ones. The longest still fits a tunnel.
    fn length(self) -> usize {
        match self.number % 16 {
            0 => 1400,
            1..=3 => 500 + (self.number % 97) as usize,
            _ => 24 + (self.number % 41) as usize,
        }
    }

    /// Whether "don't fragment" is set.
    pub fn dont_fragment(self) -> bool {
        !self.flow.is_multiple_of(3)
    }

    /// Whether a UDP datagram goes without a checksum.
    fn without_checksum(self) -> bool {
        self.number % 5 == 4
    }
}

impl Packet {
    /// Writes the frame into `frame`, in place of what was there.
    pub fn write(&self, frame: &mut Vec<u8>) {
        frame.clear();
        self.write_ethernet(frame);
        self.write_ip(frame);
    }

    fn write_ethernet(&self, frame: &mut Vec<u8>) {
        let [source, destination] = self.macs;
        let header = Ethernet2Header { source, destination, ether_type: EtherType::IPV4 };
        frame.extend(header.to_bytes());
    }

    fn write_ip(&self, frame: &mut Vec<u8>) {
        let mut payload = [0; 1400];
        let payload = &mut payload[..self.stamp.length()];
        let filler = self.stamp.number as u8;
        payload[STAMP..].iter_mut().zip(filler..).for_each(|(byte, fill)| *byte = fill);
        payload[..STAMP].copy_from_slice(&self.stamp.to_bytes());

        let (number, header) = match self.protocol {
            Protocol::Tcp => (IpNumber::TCP, TcpHeader::MIN_LEN),
            Protocol::Udp => (IpNumber::UDP, UdpHeader::LEN),
        };
        let length = (header + payload.len()) as u16;
        let [source, destination] = [self.source, self.destination].map(|end| end.ip().octets());
        let mut ip = Ipv4Header::new(length, 64, number, source, destination)
            .expect("a packet is shorter than 64 KiB");
        ip.identification = self.stamp.number as u16;
        ip.dont_fragment = self.stamp.dont_fragment();
        ip.header_checksum = ip.calc_header_checksum();
        frame.extend(ip.to_bytes());
        match self.protocol {
            Protocol::Tcp => frame.extend(self.tcp(&ip, payload).to_bytes()),
            Protocol::Udp => frame.extend(self.udp(&ip, payload).to_bytes()),
        }
        frame.extend_from_slice(payload);
    }

    fn tcp(&self, ip: &Ipv4Header, payload: &[u8]) -> TcpHeader {
        let sequence = (self.stamp.number as u32).wrapping_mul(1460);
        let (from, to) = (self.source.port(), self.destination.port());
        let mut header = TcpHeader::new(from, to, sequence, 8192);
        header.syn = self.stamp.begins();
        header.ack = !self.stamp.begins() || self.stamp.answer;
        header.psh = !self.stamp.begins();
        header.fin = self.stamp.ends();
        header.checksum = header.calc_checksum_ipv4(ip, payload).expect("the payload is short");
        header
    }

    fn udp(&self, ip: &Ipv4Header, payload: &[u8]) -> UdpHeader {
        let (from, to) = (self.source.port(), self.destination.port());
        let header = match self.stamp.without_checksum() {
            true => UdpHeader::without_ipv4_checksum(from, to, payload.len()),
            false => UdpHeader::with_ipv4_checksum(from, to, ip, payload),
        };
        header.expect("the payload is short")
    }

    /// Checks that `frame` is this packet and nothing else.
    pub fn check(&self, frame: &[u8], spare: &mut Vec<u8>) -> Result<(), String> {
        self.write(spare);
        same("the frame", frame, spare)
    }

    /// Checks that `frame` is this packet inside another one, whose ends are `outer`.
    ///
    /// The outer header is valid by RFC 2003 section 3.1; its identification is the sender's
    /// choice, and 0 is one only where fragmentation is ruled out.
    pub fn check_inside(
        &self,
        outer: [Ipv4Addr; 2],
        frame: &[u8],
        spare: &mut Vec<u8>,
    ) -> Result<(), String> {
        spare.clear();
        self.write_ethernet(spare);
        let (ethernet, packet) = frame.split_at_checked(spare.len()).ok_or("the frame is short")?;
        same("the Ethernet header", ethernet, spare)?;

        let header = Ipv4HeaderSlice::from_slice(packet).map_err(|why| why.to_string())?;
        let header = header.to_header();
        let inner = &packet[header.header_len()..];
        let ends = [header.source, header.destination];
        let problem = if usize::from(header.total_len) != packet.len() {
            Some("total length")
        } else if ends != outer.map(|end| end.octets()) {
            Some("addresses")
        } else if header.protocol != IpNumber::IPV4 {
            Some("protocol")
        } else if header.header_checksum != header.calc_header_checksum() {
            Some("checksum")
        } else if header.time_to_live < 32 {
            Some("time to live")
        } else if header.dont_fragment != self.stamp.dont_fragment() {
            Some("don't-fragment bit")
        } else if header.is_fragmenting_payload() {
            Some("fragment fields")
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(format!("the outer header's {problem}: {header:?}"));
        }
        spare.clear();
        self.write_ip(spare);
        same("the inner packet", inner, spare)
    }
}

fn same(what: &str, found: &[u8], expected: &[u8]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
    let at = at.unwrap_or_else(|| found.len().min(expected.len()));
    let around = |bytes: &[u8]| {
        let from = at.saturating_sub(4).min(bytes.len());
        format!("{:02x?}", &bytes[from..bytes.len().min(at + 8)])
    };
    let lengths = format!("{} bytes long, expected {}", found.len(), expected.len());
    let (found, expected) = (around(found), around(expected));
    Err(format!("{what}, {lengths}, differs at byte {at}: {found}, expected {expected}"))
}

/// What a frame is, by what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of ours, and the addresses of its outermost IP header.
    Stamped(Stamp, [Ipv4Addr; 2]),
    /// An ARP message, which the appliance may send when it likes.
    Arp,
    /// Something that nobody was to send.
    Other,
}

/// Says what a frame is; whether it is right is for [`Packet::check`] to say.
pub fn kind(frame: &[u8]) -> Kind {
    let Ok((ethernet, packet)) = Ethernet2Header::from_slice(frame) else { return Kind::Other };
    match ethernet.ether_type {
        EtherType::ARP => Kind::Arp,
        EtherType::IPV4 => stamped(packet).unwrap_or(Kind::Other),
        _ => Kind::Other,
    }
}

fn stamped(packet: &[u8]) -> Option<Kind> {
    let header = Ipv4HeaderSlice::from_slice(packet).ok()?;
    let payload = packet.get(header.slice().len()..)?;
    let ends = [header.source_addr(), header.destination_addr()];
    let data = match header.protocol() {
        IpNumber::IPV4 => match stamped(payload)? {
            Kind::Stamped(stamp, _) => return Some(Kind::Stamped(stamp, ends)),
            other => return Some(other),
        },
        IpNumber::TCP => payload.get(TcpHeader::MIN_LEN..)?,
        IpNumber::UDP => payload.get(UdpHeader::LEN..)?,
        _ => return None,
    };
    Some(Kind::Stamped(Stamp::of(data)?, ends))
}
