//! Packets by what they say, and how that is written: plainly, and by no code of the data plane's.

use std::net::IpAddr;

/// An IP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Time to live, or hop limit.
    pub hops: u8,
    pub class: u8,
    pub identification: u16,
    pub dont_fragment: bool,
    pub body: Body,
}

/// What a packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Tcp {
        ports: (u16, u16),
        flags: u8,
        /// Sequence and acknowledgement.
        numbers: (u32, u32),
        window: u16,
        payload: Vec<u8>,
        /// By how much the sum is wrong.
        skew: u16,
    },
    Udp {
        ports: (u16, u16),
        payload: Vec<u8>,
        /// By how much the sum is wrong; `None`: there is none.
        skew: Option<u16>,
    },
    Echo {
        is_reply: bool,
        identifier: u16,
        payload: Vec<u8>,
    },
    Error {
        kind: u8,
        code: u8,
        /// The second word of the header.
        word: u32,
        quoted: Box<Ip>,
        /// How many bytes of it there are.
        kept: usize,
    },
    /// Another protocol, without a checksum over addresses.
    Other {
        protocol: u8,
        payload: Vec<u8>,
    },
}

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

impl Ip {
    pub fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    pub fn protocol(&self) -> u8 {
        match &self.body {
            Body::Tcp { .. } => TCP,
            Body::Udp { .. } => UDP,
            Body::Echo { .. } | Body::Error { .. } => {
                if self.is_v4() {
                    1
                } else {
                    58
                }
            }
            Body::Other { protocol, .. } => *protocol,
        }
    }

    /// The source and destination port; of an echo, the identifier on the side of who asked.
    pub fn ports(&self) -> (u16, u16) {
        match self.body {
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } => ports,
            Body::Echo { is_reply: false, identifier, .. } => (identifier, 0),
            Body::Echo { is_reply: true, identifier, .. } => (0, identifier),
            _ => (0, 0),
        }
    }

    /// TCP's control bits.
    pub fn flags(&self) -> u8 {
        if let Body::Tcp { flags, .. } = self.body { flags } else { 0 }
    }

    /// The same with other ends; an echo has one number, that of who asked.
    pub fn between(&self, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        let mut other = self.clone();
        (other.source, other.destination) = (source.0, destination.0);
        match &mut other.body {
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } => {
                *ports = (source.1, destination.1);
            }
            Body::Echo { is_reply: false, identifier, .. } => *identifier = source.1,
            Body::Echo { is_reply: true, identifier, .. } => *identifier = destination.1,
            _ => {}
        }
        other
    }

    /// The whole packet, with every checksum.
    pub fn bytes(&self) -> Vec<u8> {
        let body = self.transport();
        let mut bytes = self.header(body.len(), self.protocol());
        bytes.extend(body);
        bytes
    }

    /// The packet in two fragments; the first carries `at` bytes (a multiple of 8) of the body.
    pub fn fragments(&self, at: usize) -> [Vec<u8>; 2] {
        let body = self.transport();
        let part = |from: usize, to: usize, more: bool| {
            let payload = &body[from..to];
            if self.is_v4() {
                let mut bytes = self.header(payload.len(), self.protocol());
                let field = (from / 8) as u16 | if more { 0x2000 } else { 0 };
                bytes[6..8].copy_from_slice(&field.to_be_bytes());
                bytes[10..12].fill(0);
                let sum = !sum(&bytes);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                bytes.extend(payload);
                return bytes;
            }
            let mut bytes = self.header(payload.len() + 8, 44);
            let field = from as u16 | u16::from(more);
            bytes.extend([self.protocol(), 0]);
            bytes.extend(field.to_be_bytes());
            bytes.extend(u32::from(self.identification).to_be_bytes());
            bytes.extend(payload);
            bytes
        };
        [part(0, at, true), part(at, body.len(), false)]
    }

    pub fn length(&self) -> usize {
        let header = if self.is_v4() { 20 } else { 40 };
        header
            + match &self.body {
                Body::Tcp { payload, .. } => 20 + payload.len(),
                Body::Udp { payload, .. } => 8 + payload.len(),
                Body::Echo { payload, .. } => 8 + payload.len(),
                Body::Error { kept, .. } => 8 + kept,
                Body::Other { payload, .. } => payload.len(),
            }
    }

    fn header(&self, length: usize, protocol: u8) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut bytes = vec![0x45, self.class];
                bytes.extend((20 + length as u16).to_be_bytes());
                bytes.extend(self.identification.to_be_bytes());
                bytes.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.hops, protocol]);
                bytes.extend([0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                let sum = !sum(&bytes);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                bytes
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut bytes = vec![0x60 | self.class >> 4, self.class << 4, 0, 0];
                bytes.extend((length as u16).to_be_bytes());
                bytes.extend([protocol, self.hops]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes
            }
            other => panic!("two families: {other:?}"),
        }
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        match &self.body {
            Body::Tcp { ports, flags, numbers, window, payload, skew } => {
                bytes.extend(ports.0.to_be_bytes());
                bytes.extend(ports.1.to_be_bytes());
                bytes.extend(numbers.0.to_be_bytes());
                bytes.extend(numbers.1.to_be_bytes());
                bytes.extend([0x50, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(payload);
                self.close(&mut bytes, 16, *skew);
            }
            Body::Udp { ports, payload, skew } => {
                bytes.extend(ports.0.to_be_bytes());
                bytes.extend(ports.1.to_be_bytes());
                bytes.extend((8 + payload.len() as u16).to_be_bytes());
                bytes.extend([0; 2]);
                bytes.extend(payload);
                if let Some(skew) = skew {
                    self.close(&mut bytes, 6, *skew);
                }
            }
            Body::Echo { is_reply, identifier, payload } => {
                let kind = match (self.is_v4(), is_reply) {
                    (true, false) => 8,
                    (true, true) => 0,
                    (false, false) => 128,
                    (false, true) => 129,
                };
                bytes.extend([kind, 0, 0, 0]);
                bytes.extend(identifier.to_be_bytes());
                bytes.extend([0, 1]);
                bytes.extend(payload);
                self.close(&mut bytes, 2, 0);
            }
            Body::Error { kind, code, word, quoted, kept } => {
                bytes.extend([*kind, *code, 0, 0]);
                bytes.extend(word.to_be_bytes());
                bytes.extend(&quoted.bytes()[..*kept]);
                self.close(&mut bytes, 2, 0);
            }
            Body::Other { payload, .. } => bytes.extend(payload),
        }
        bytes
    }

    /// Writes the checksum at `at`, wrong by `skew`.
    fn close(&self, bytes: &mut [u8], at: usize, skew: u16) {
        let mut total = u32::from(sum(bytes));
        if self.protocol() != 1 {
            let pseudo = match (self.source, self.destination) {
                (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
                (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
                other => panic!("two families: {other:?}"),
            };
            total += u32::from(sum(&pseudo)) + u32::from(self.protocol()) + bytes.len() as u32;
        }
        total += u32::from(skew);
        while total > 0xffff {
            total = (total >> 16) + (total & 0xffff);
        }
        let checksum = match !(total as u16) {
            0 if self.protocol() == UDP => 0xffff,
            checksum => checksum,
        };
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The ones' complement sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let mut total: u32 = 0;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    total as u16
}

/// A packet in two fragments of which the first carries at most `mtu` bytes in all (IPv4).
pub fn parted(packet: &[u8], mtu: usize) -> [Vec<u8>; 2] {
    let share = (mtu - 20) / 8 * 8;
    let part = |payload: &[u8], field: u16| {
        let mut bytes = [&packet[..20], payload].concat();
        let total = (20 + payload.len()) as u16;
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[6..8].copy_from_slice(&field.to_be_bytes());
        bytes[10..12].fill(0);
        let sum = !sum(&bytes[..20]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    let (first, rest) = packet[20..].split_at(share);
    [part(first, 0x2000), part(rest, (share / 8) as u16)]
}
