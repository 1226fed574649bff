//! An independent judge of frames: decodes them with a library that the appliance does not use,
//! and checks every checksum on the way.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv4HeaderSlice, PacketBuilder, TcpHeader,
    TcpSlice, UdpSlice,
};

/// An IPv4 packet in its frame, all of whose checksums are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The Ethernet header.
    pub ethernet: Ethernet2Header,
    /// The IPv4 header.
    pub ip: Ipv4Header,
    /// What follows the IPv4 header, without Ethernet's padding.
    pub payload: Vec<u8>,
    /// The transport header's answer to who speaks to whom.
    pub transport: Transport,
}

/// What a packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A TCP segment.
    Tcp {
        /// Its header.
        header: Box<TcpHeader>,
        /// Its data.
        data: Vec<u8>,
    },
    /// A UDP datagram.
    Udp {
        /// The port it came from.
        source: u16,
        /// The port it goes to.
        destination: u16,
        /// The checksum as it stands in the header; 0 for none.
        checksum: u16,
        /// Its data.
        data: Vec<u8>,
    },
    /// Another IPv4 packet (RFC 2003): the inner packet's bytes.
    Ipip(Vec<u8>),
    /// An ICMP message whose checksum is right.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
        /// What follows the checksum: four bytes that depend on the type, then the data.
        rest: Vec<u8>,
    },
    /// A fragment: only the whole would tell.
    Fragment,
    /// Anything else.
    Other,
}

impl Packet {
    /// Decodes a frame. `Ok(None)` if it does not carry IPv4.
    ///
    /// # Errors
    /// What is wrong with it, be it a length or a checksum.
    pub fn of(frame: &[u8]) -> Result<Option<Self>, String> {
        let (ethernet, rest) =
            Ethernet2Header::from_slice(frame).map_err(|why| format!("Ethernet: {why}"))?;
        if ethernet.ether_type != EtherType::IPV4 {
            return Ok(None);
        }
        let (ip, payload) = packet(rest)?;
        let transport = Transport::of(&ip, &payload)?;
        Ok(Some(Self { ethernet, ip, payload, transport }))
    }

    /// Source address and port, if there are ports.
    pub fn source(&self) -> Option<SocketAddrV4> {
        let port = match &self.transport {
            Transport::Tcp { header, .. } => header.source_port,
            Transport::Udp { source, .. } => *source,
            _ => return None,
        };
        Some(SocketAddrV4::new(self.source_address(), port))
    }

    /// Destination address and port, if there are ports.
    pub fn destination(&self) -> Option<SocketAddrV4> {
        let port = match &self.transport {
            Transport::Tcp { header, .. } => header.destination_port,
            Transport::Udp { destination, .. } => *destination,
            _ => return None,
        };
        Some(SocketAddrV4::new(self.destination_address(), port))
    }

    /// Source address.
    pub fn source_address(&self) -> Ipv4Addr {
        self.ip.source.into()
    }

    /// Destination address.
    pub fn destination_address(&self) -> Ipv4Addr {
        self.ip.destination.into()
    }

    /// What the transport carries, if it is TCP or UDP.
    pub fn data(&self) -> Option<&[u8]> {
        match &self.transport {
            Transport::Tcp { data, .. } | Transport::Udp { data, .. } => Some(data),
            _ => None,
        }
    }

    /// Whether it ends one direction of a connection.
    pub fn is_fin(&self) -> bool {
        matches!(&self.transport, Transport::Tcp { header, .. } if header.fin)
    }
}

impl Transport {
    fn of(ip: &Ipv4Header, payload: &[u8]) -> Result<Self, String> {
        if ip.is_fragmenting_payload() {
            return Ok(Self::Fragment);
        }
        match ip.protocol {
            IpNumber::TCP => {
                let tcp = TcpSlice::from_slice(payload).map_err(|why| format!("TCP: {why}"))?;
                let right = tcp
                    .calc_checksum_ipv4(ip.source, ip.destination)
                    .map_err(|why| format!("TCP: {why}"))?;
                check("TCP", tcp.checksum(), right)?;
                Ok(Self::Tcp { header: Box::new(tcp.to_header()), data: tcp.payload().to_vec() })
            }
            IpNumber::UDP => {
                let udp = UdpSlice::from_slice(payload).map_err(|why| format!("UDP: {why}"))?;
                if usize::from(udp.length()) != payload.len() {
                    return Err(format!("UDP: length {} of {}", udp.length(), payload.len()));
                }
                if udp.checksum() != 0 {
                    let right = udp
                        .to_header()
                        .calc_checksum_ipv4_raw(ip.source, ip.destination, udp.payload())
                        .map_err(|why| format!("UDP: {why}"))?;
                    check("UDP", udp.checksum(), right)?;
                }
                Ok(Self::Udp {
                    source: udp.source_port(),
                    destination: udp.destination_port(),
                    checksum: udp.checksum(),
                    data: udp.payload().to_vec(),
                })
            }
            IpNumber::IPV4 => Ok(Self::Ipip(payload.to_vec())),
            IpNumber::ICMP => match payload {
                [kind, code, a, b, rest @ ..] if rest.len() >= 4 => {
                    check("ICMP", u16::from_be_bytes([*a, *b]), {
                        let mut message = payload.to_vec();
                        message[2..4].fill(0);
                        internet_checksum(&message)
                    })?;
                    Ok(Self::Icmp { kind: *kind, code: *code, rest: rest.to_vec() })
                }
                _ => Err(format!("ICMP: {} bytes", payload.len())),
            },
            _ => Ok(Self::Other),
        }
    }
}

/// Decodes an IPv4 packet: its header, whose checksum is right, and exactly what it carries.
///
/// # Errors
/// What is wrong with it.
pub fn packet(bytes: &[u8]) -> Result<(Ipv4Header, Vec<u8>), String> {
    let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|why| format!("IPv4: {why}"))?;
    let ip = header.to_header();
    check("IPv4", ip.header_checksum, ip.calc_header_checksum())?;
    let payload = bytes
        .get(ip.header_len()..usize::from(ip.total_len))
        .ok_or_else(|| format!("IPv4: total length {} in {} bytes", ip.total_len, bytes.len()))?;
    Ok((ip, payload.to_vec()))
}

/// Decodes every frame and returns the IPv4 packets among them.
///
/// # Panics
/// At the first frame that is not in order.
pub fn packets(frames: &[Vec<u8>]) -> Vec<Packet> {
    let decode = |(number, frame): (usize, &Vec<u8>)| {
        Packet::of(frame)
            .unwrap_or_else(|wrong| panic!("frame {number} is not in order: {wrong}: {frame:02x?}"))
    };
    frames.iter().enumerate().filter_map(decode).collect()
}

/// The packets that go to `address`, each with its frame.
///
/// # Panics
/// At the first frame that is not in order.
pub fn packets_to(frames: &[Vec<u8>], address: Ipv4Addr) -> Vec<(Packet, &[u8])> {
    let decoded = frames.iter().filter_map(|frame| {
        let packet = Packet::of(frame)
            .unwrap_or_else(|wrong| panic!("a frame is not in order: {wrong}: {frame:02x?}"))?;
        Some((packet, frame.as_slice()))
    });
    decoded.filter(|(packet, _)| packet.destination_address() == address).collect()
}

/// How many of these frames end one direction of a connection and come from `address`.
pub fn fins_from(frames: &[Vec<u8>], address: Ipv4Addr) -> usize {
    let from = |packet: &Packet| packet.is_fin() && packet.source_address() == address;
    packets(frames).iter().filter(|packet| from(packet)).count()
}

/// How many of these frames end one direction of a connection.
pub fn fins(frames: &[Vec<u8>]) -> usize {
    packets(frames).iter().filter(|packet| packet.is_fin()).count()
}

/// The IPv4 packet of a frame, byte for byte, without Ethernet's header and padding.
///
/// # Panics
/// If it is not IPv4.
pub fn packet_bytes(frame: &[u8]) -> &[u8] {
    let packet = &frame[14..];
    let length = u16::from_be_bytes([packet[2], packet[3]]);
    &packet[..usize::from(length)]
}

/// The checksum of RFC 1071 over `bytes`, written for plainness: the appliance's own is another.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn check(what: &str, found: u16, right: u16) -> Result<(), String> {
    if found == right {
        return Ok(());
    }
    Err(format!("{what}: checksum {found:#06x}, which should be {right:#06x}"))
}

/// Who sends a frame that a test makes, and to whom.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Hardware addresses, from and to.
    pub macs: [[u8; 6]; 2],
    /// The sender.
    pub source: SocketAddrV4,
    /// The receiver.
    pub destination: SocketAddrV4,
}

impl Ends {
    /// The way back.
    pub fn reversed(self) -> Self {
        let [from, to] = self.macs;
        Self { macs: [to, from], source: self.destination, destination: self.source }
    }

    fn builder(&self) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let [from, to] = self.macs;
        PacketBuilder::ethernet2(from, to).ipv4(
            self.source.ip().octets(),
            self.destination.ip().octets(),
            61,
        )
    }

    /// A frame with a TCP segment. `flags` is any of `S`, `A`, `F`, `R` and `P`.
    pub fn tcp(&self, flags: &str, data: &[u8]) -> Vec<u8> {
        let mut step =
            self.builder().tcp(self.source.port(), self.destination.port(), 0x1234_5678, 8192);
        for flag in flags.chars() {
            step = match flag {
                'S' => step.syn(),
                'A' => step.ack(0x1111_2222),
                'F' => step.fin(),
                'R' => step.rst(),
                'P' => step.psh(),
                other => panic!("no TCP flag is called {other}"),
            };
        }
        let mut frame = Vec::new();
        step.write(&mut frame, data).expect("a segment fits a packet");
        frame
    }

    /// A frame with a UDP datagram.
    pub fn udp(&self, data: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.builder()
            .udp(self.source.port(), self.destination.port())
            .write(&mut frame, data)
            .expect("a datagram fits a packet");
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> Ends {
        Ends {
            macs: [[2; 6], [4; 6]],
            source: "10.1.0.10:40000".parse().expect("an address and a port"),
            destination: "10.1.0.100:80".parse().expect("an address and a port"),
        }
    }

    #[test]
    fn a_sound_frame_is_taken_apart() {
        let packet = Packet::of(&ends().tcp("S", b"")).expect("sound").expect("IPv4");
        assert_eq!(packet.source(), Some(ends().source));
        assert_eq!(packet.destination(), Some(ends().destination));
        let frame = ends().udp(b"odd");
        assert_eq!(Packet::of(&frame).expect("sound").expect("IPv4").data(), Some(&b"odd"[..]));
    }

    #[test]
    fn any_byte_changed_after_the_ethernet_header_is_noticed() {
        for frame in [ends().tcp("PA", b"hello"), ends().udp(b"hello")] {
            for place in 14..frame.len() {
                let mut changed = frame.clone();
                changed[place] ^= 0x20;
                assert!(Packet::of(&changed).is_err(), "byte {place} of {frame:02x?}");
            }
        }
    }
}
