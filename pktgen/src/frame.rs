//! Frames made from templates: everything that all packets of one size have in common is written once, and only
//! what differs is patched in, with the checksums mended (RFC 1624) and never computed anew.

use dataplane::wire::checksum::{self, Change};
use dataplane::wire::ethernet::{self, Ethernet, Mac, Tag, ethertype};
use dataplane::wire::{Address, Family, icmp, ipv4, ipv6, protocol, tcp, udp};

use crate::addresses::Tuple;
use crate::rate::CHECK;
use crate::stamp::{self, HeaderWords, Mark, Words};

/// What carries the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293. A flow begins with a SYN; what follows has the ACK bit.
    Tcp,
    /// RFC 768.
    Udp,
    /// Echo requests (RFC 792, RFC 4443); the source port is the identifier.
    Icmp,
}

impl Protocol {
    /// Length of its header, in bytes.
    fn header(self) -> usize {
        match self {
            Self::Tcp => tcp::HEADER,
            Self::Udp => udp::HEADER,
            Self::Icmp => icmp::HEADER,
        }
    }
}

/// What all frames of a run have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// IPv4 or IPv6.
    pub family: Family,
    /// What is inside.
    pub protocol: Protocol,
    /// The VLAN tag, if any.
    pub tag: Option<Tag>,
    /// The sender's hardware address.
    pub source: Mac,
    /// The receiver's hardware address.
    pub destination: Mac,
    /// Tells this run's packets from all others.
    pub mark: Mark,
}

/// Room for all headers and a stamp, in bytes.
const HEADERS: usize = 96;

impl Kind {
    fn network_at(&self) -> usize {
        ethernet::HEADER + if self.tag.is_some() { ethernet::TAG } else { 0 }
    }

    fn transport_at(&self) -> usize {
        let network = if self.family == Family::V4 { ipv4::HEADER } else { ipv6::HEADER };
        self.network_at() + network
    }

    /// Length of all headers, in bytes: where the payload begins.
    pub fn headers(&self) -> usize {
        self.transport_at() + self.protocol.header()
    }

    /// The smallest frame of this kind that can be recognised, in bytes on the wire, check included. TCP needs its
    /// headers alone; the others, a whole stamp behind them.
    pub fn least_size(&self) -> usize {
        let stamp = if self.protocol == Protocol::Tcp { 0 } else { stamp::LENGTH };
        (self.headers() + stamp + CHECK as usize).max(crate::size::LEAST.into())
    }
}

/// What a packet says in a TCP connection's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Its first packet: SYN.
    First,
    /// Any other: ACK.
    Middle,
    /// Its last: FIN and ACK.
    Last,
}

/// Frames of one kind and size.
#[derive(Debug, Clone)]
pub struct Template {
    kind: Kind,
    /// Length in memory, without check.
    length: usize,
    /// Length of the payload, Ethernet's padding left out.
    payload: usize,
    bytes: [u8; HEADERS],
    network_checksum: u16,
    transport_checksum: u16,
    /// Whether the stamp lies in the TCP header.
    in_header: bool,
}

/// Where a TCP header's data offset and flags lie, and their word without flags.
const FLAGS_AT: usize = 12;
const NO_FLAGS: u16 = 0x5000;

impl Template {
    /// For frames of `size` bytes on the wire, which is at least [`Kind::least_size`].
    pub fn new(kind: Kind, size: u16) -> Self {
        let length = usize::from(size) - CHECK as usize;
        Self::with_payload(kind, length, length - kind.headers())
    }

    /// A SYN in a frame of that size: nothing follows its header but Ethernet's padding, because a SYN with data is
    /// dropped by many.
    pub fn without_payload(kind: Kind, size: u16) -> Self {
        Self::with_payload(kind, usize::from(size) - CHECK as usize, 0)
    }

    fn with_payload(kind: Kind, length: usize, payload: usize) -> Self {
        let in_header = kind.protocol == Protocol::Tcp && payload < stamp::LENGTH;
        let mut template = Self {
            kind,
            length,
            payload,
            bytes: [0; HEADERS],
            network_checksum: 0,
            transport_checksum: 0,
            in_header,
        };
        template.write_link();
        template.write_network();
        template.write_transport();
        template
    }

    /// Length of the frame in memory, in bytes: without the check.
    pub fn length(&self) -> usize {
        self.length
    }

    fn write_link(&mut self) {
        let Kind { family, tag, source, destination, .. } = self.kind;
        let inner = if family == Family::V4 { ethertype::IPV4 } else { ethertype::IPV6 };
        let outer = if tag.is_some() { ethertype::VLAN } else { inner };
        if let Ok((mut header, rest)) = Ethernet::split(&mut self.bytes) {
            header.write(source, destination, outer);
            if let Some(tag) = tag {
                rest[..2].copy_from_slice(&tag.bits().to_be_bytes());
                rest[2..4].copy_from_slice(&inner.to_be_bytes());
            }
        }
    }

    /// All addresses are zero here; every packet puts its own in.
    fn write_network(&mut self) {
        let at = self.kind.network_at();
        let length = (self.kind.protocol.header() + self.payload) as u16;
        if self.kind.family == Family::V4 {
            let header = ipv4::Header {
                type_of_service: 0,
                total_length: length + ipv4::HEADER as u16,
                identification: 0,
                dont_fragment: true,
                protocol: self.protocol_number(),
                source: std::net::Ipv4Addr::UNSPECIFIED,
                destination: std::net::Ipv4Addr::UNSPECIFIED,
            };
            let bytes = header.to_bytes();
            self.network_checksum = u16::from_be_bytes([bytes[10], bytes[11]]);
            self.bytes[at..at + ipv4::HEADER].copy_from_slice(&bytes);
        } else {
            let header = ipv6::Header {
                traffic_class: 0,
                flow_label: 0,
                payload_length: length,
                next_header: self.protocol_number(),
                hop_limit: ipv6::HOP_LIMIT,
                source: Address::from_bits(0),
                destination: Address::from_bits(0),
            };
            self.bytes[at..at + ipv6::HEADER].copy_from_slice(&header.to_bytes());
        }
    }

    fn protocol_number(&self) -> u8 {
        match (self.kind.protocol, self.kind.family) {
            (Protocol::Tcp, _) => protocol::TCP,
            (Protocol::Udp, _) => protocol::UDP,
            (Protocol::Icmp, Family::V4) => protocol::ICMP,
            (Protocol::Icmp, Family::V6) => protocol::ICMPV6,
        }
    }

    fn write_transport(&mut self) {
        let at = self.kind.transport_at();
        let length = self.kind.protocol.header() + self.payload;
        let header = &mut self.bytes[at..];
        match (self.kind.protocol, self.kind.family) {
            (Protocol::Tcp, _) => {
                header[FLAGS_AT..FLAGS_AT + 2].copy_from_slice(&NO_FLAGS.to_be_bytes())
            }
            (Protocol::Udp, _) => header[4..6].copy_from_slice(&(length as u16).to_be_bytes()),
            (Protocol::Icmp, Family::V4) => header[0] = icmp::kind::ECHO_REQUEST,
            (Protocol::Icmp, Family::V6) => header[0] = dataplane::wire::icmpv6::kind::ECHO_REQUEST,
        }
        let mark = self.kind.mark.0.to_be_bytes();
        if self.payload >= mark.len() {
            let at = self.kind.protocol.header();
            header[at..at + mark.len()].copy_from_slice(&mark);
        }
        // The payload is zero behind the mark, and zeroes change no sum.
        let present = length.min(header.len());
        let zero = Address::from_bits(0);
        let pseudo = match (self.kind.protocol, self.kind.family) {
            (Protocol::Icmp, Family::V4) => 0,
            _ => checksum::pseudo_header(zero, zero, self.protocol_number(), length as u32),
        };
        let sum = Change::words32(u32::MAX, pseudo as u32); // ~old is 0: the new words alone
        self.transport_checksum = sum.mend(checksum::of(&self.bytes[at..at + present]));
    }

    /// Writes packet `sequence` of a flow as it leaves at `now` into `frame`, which has [`Self::length`] bytes.
    #[inline]
    pub fn write(
        &self,
        frame: &mut [u8],
        flow: u32,
        sequence: u32,
        tuple: &Tuple,
        moment: Moment,
        now: u64,
    ) {
        let (present, rest) = frame.split_at_mut(self.length.min(HEADERS).min(frame.len()));
        present.copy_from_slice(&self.bytes[..present.len()]);
        rest.fill(0);
        let network = self.kind.network_at();
        let change = self.write_addresses(&mut present[network..], tuple);
        let transport = self.kind.transport_at();
        let change = match self.kind.protocol {
            Protocol::Icmp => self.write_echo(&mut present[transport..], tuple, sequence, change),
            _ => write_ports(&mut present[transport..], tuple).and(change),
        };
        let change = match self.kind.protocol {
            Protocol::Tcp => {
                self.write_tcp(&mut present[transport..], flow, sequence, moment, now).and(change)
            }
            _ => self
                .write_stamp(&mut present[self.kind.headers()..], flow, sequence, now)
                .and(change),
        };
        self.write_checksum(&mut present[transport..], change);
    }

    #[inline]
    fn write_addresses(&self, header: &mut [u8], tuple: &Tuple) -> Change {
        if self.kind.family == Family::V4 {
            let change = words(tuple.source.low()).and(words(tuple.destination.low()));
            header[10..12].copy_from_slice(&change.mend(self.network_checksum).to_be_bytes());
            header[12..16].copy_from_slice(&tuple.source.low().to_be_bytes());
            header[16..20].copy_from_slice(&tuple.destination.low().to_be_bytes());
            return change;
        }
        header[8..24].copy_from_slice(&tuple.source.bits().to_be_bytes());
        header[24..40].copy_from_slice(&tuple.destination.bits().to_be_bytes());
        let zero = Address::from_bits(0);
        Change::of_addresses(zero, tuple.source).and(Change::of_addresses(zero, tuple.destination))
    }

    #[inline]
    fn write_echo(
        &self,
        header: &mut [u8],
        tuple: &Tuple,
        sequence: u32,
        addresses: Change,
    ) -> Change {
        let (identifier, number) = (tuple.source_port, sequence as u16);
        header[4..6].copy_from_slice(&identifier.to_be_bytes());
        header[6..8].copy_from_slice(&number.to_be_bytes());
        let covered = if self.kind.family == Family::V4 { Change::default() } else { addresses };
        covered.word(0, identifier).word(0, number)
    }

    #[inline]
    fn write_tcp(
        &self,
        header: &mut [u8],
        flow: u32,
        sequence: u32,
        moment: Moment,
        now: u64,
    ) -> Change {
        let flags = NO_FLAGS
            | u16::from(match moment {
                Moment::First => tcp::Flags::SYN,
                Moment::Middle => tcp::Flags::ACK,
                Moment::Last => tcp::Flags::FIN | tcp::Flags::ACK,
            });
        header[FLAGS_AT..FLAGS_AT + 2].copy_from_slice(&flags.to_be_bytes());
        let flags = Change::default().word(NO_FLAGS, flags);
        let (numbers, stamp) = if self.in_header {
            (HeaderWords::new(self.kind.mark, flow, sequence, now), Change::default())
        } else {
            let bytes = sequence.wrapping_mul(self.payload as u32);
            let numbers = HeaderWords { sequence: bytes, clock: 1, flow: 0xffff_0000 };
            (numbers, self.write_stamp(&mut header[tcp::HEADER..], flow, sequence, now))
        };
        header[4..8].copy_from_slice(&numbers.sequence.to_be_bytes());
        header[8..12].copy_from_slice(&numbers.clock.to_be_bytes());
        let [window, urgent] =
            [numbers.flow >> 16, numbers.flow & 0xffff].map(|half| (half as u16).to_be_bytes());
        header[14..16].copy_from_slice(&window);
        header[18..20].copy_from_slice(&urgent);
        flags
            .and(stamp)
            .and(words(numbers.sequence))
            .and(words(numbers.clock))
            .and(words(numbers.flow))
    }

    /// The mark is in the template and in its checksum.
    #[inline]
    fn write_stamp(&self, payload: &mut [u8], flow: u32, sequence: u32, now: u64) -> Change {
        let stamp = Words::new(flow, sequence, now);
        payload[..stamp::LENGTH].copy_from_slice(&stamp.to_bytes(self.kind.mark));
        words(stamp.flow).and(words(stamp.sequence)).and(words(stamp.clock))
    }

    #[inline]
    fn write_checksum(&self, header: &mut [u8], change: Change) {
        let at = match self.kind.protocol {
            Protocol::Tcp => 16,
            Protocol::Udp => 6,
            Protocol::Icmp => 2,
        };
        let checksum = match change.mend(self.transport_checksum) {
            0 if self.kind.protocol == Protocol::Udp => 0xffff, // 0 would say that there is none (RFC 768)
            checksum => checksum,
        };
        header[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// What putting `new` in place of zeroes changes.
#[inline]
fn words(new: u32) -> Change {
    Change::words32(0, new)
}

#[inline]
fn write_ports(header: &mut [u8], tuple: &Tuple) -> Change {
    header[..2].copy_from_slice(&tuple.source_port.to_be_bytes());
    header[2..4].copy_from_slice(&tuple.destination_port.to_be_bytes());
    Change::default().word(0, tuple.source_port).word(0, tuple.destination_port)
}

#[cfg(test)]
mod tests;
