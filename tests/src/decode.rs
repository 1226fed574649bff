//! An independent judge of frames: decodes them with a library that the appliance does not use,
//! and checks every checksum on the way.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, IpSlice, Ipv4Header, Ipv4HeaderSlice, Ipv6Header,
    PacketBuilder, SingleVlanHeader, TcpHeader, TcpSlice, UdpSlice,
};

/// The port of Generic UDP Encapsulation (IANA).
const GUE: u16 = 6080;

/// An IP packet in its frame, all of whose checksums are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The Ethernet header.
    pub ethernet: Ethernet2Header,
    /// The numbers of the VLANs whose tags it carries, outermost first.
    pub vlans: Vec<u16>,
    /// The IP header.
    pub ip: Ip,
    /// What follows the IP header and its extensions, without Ethernet's padding.
    pub payload: Vec<u8>,
    /// The transport header's answer to who speaks to whom.
    pub transport: Transport,
}

/// The header of either IP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ip {
    /// RFC 791.
    V4(Ipv4Header),
    /// RFC 8200, and how many bytes of extension headers follow it.
    V6(Ipv6Header, usize),
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
    /// Another IP packet (RFC 2003, RFC 2473, RFC 4213): the inner packet's bytes.
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
    /// An ICMPv6 message whose checksum is right; as above.
    Icmpv6 {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
        /// What follows the checksum.
        rest: Vec<u8>,
    },
    /// A fragment: only the whole would tell.
    Fragment,
    /// Anything else.
    Other,
}

impl Packet {
    /// Decodes a frame. `Ok(None)` if it does not carry IP.
    ///
    /// # Errors
    /// What is wrong with it, be it a length or a checksum.
    pub fn of(frame: &[u8]) -> Result<Option<Self>, String> {
        let (ethernet, mut rest) =
            Ethernet2Header::from_slice(frame).map_err(|why| format!("Ethernet: {why}"))?;
        let mut ether_type = ethernet.ether_type;
        let mut vlans = Vec::new();
        while [EtherType::VLAN_TAGGED_FRAME, EtherType::PROVIDER_BRIDGING].contains(&ether_type) {
            let (tag, tagged) =
                SingleVlanHeader::from_slice(rest).map_err(|why| format!("VLAN: {why}"))?;
            vlans.push(tag.vlan_id.value());
            (ether_type, rest) = (tag.ether_type, tagged);
        }
        let version = rest.first().map(|byte| byte >> 4);
        match (ether_type, version) {
            (EtherType::IPV4, Some(4)) | (EtherType::IPV6, Some(6)) => {
                Self::of_packet(ethernet, vlans, rest).map(Some)
            }
            (EtherType::IPV4 | EtherType::IPV6, _) => {
                Err(format!("Ethernet: {ether_type:?} with IP version {version:?}"))
            }
            _ => Ok(None),
        }
    }

    /// Decodes an IP packet that came behind these headers.
    fn of_packet(ethernet: Ethernet2Header, vlans: Vec<u16>, bytes: &[u8]) -> Result<Self, String> {
        let slice = IpSlice::from_slice(bytes).map_err(|why| format!("IP: {why}"))?;
        let ip = match &slice {
            IpSlice::Ipv4(slice) => {
                let header = slice.header().to_header();
                check("IPv4", header.header_checksum, header.calc_header_checksum())?;
                Ip::V4(header)
            }
            IpSlice::Ipv6(slice) => {
                let header = slice.header().to_header();
                let extensions = usize::from(header.payload_length) - slice.payload().payload.len();
                Ip::V6(header, extensions)
            }
        };
        let carried = slice.payload();
        let transport = match carried.fragmented {
            true => Transport::Fragment,
            false => Transport::of(&ip, carried.ip_number, carried.payload)?,
        };
        Ok(Self { ethernet, vlans, ip, payload: carried.payload.to_vec(), transport })
    }

    /// The packet that travels inside this one, by a tunnel of any kind, if there is one.
    ///
    /// # Errors
    /// What is wrong with it or with its wrapping.
    pub fn inside(&self) -> Result<Option<Self>, String> {
        let bytes = match &self.transport {
            Transport::Ipip(inner) => inner.as_slice(),
            Transport::Udp { destination: GUE, data, .. } => unwrap_gue(data)?,
            _ => return Ok(None),
        };
        Self::of_packet(self.ethernet.clone(), self.vlans.clone(), bytes).map(Some)
    }

    /// Its IPv4 header.
    ///
    /// # Panics
    /// If it has none.
    pub fn ipv4(&self) -> &Ipv4Header {
        match &self.ip {
            Ip::V4(header) => header,
            Ip::V6(..) => panic!("not IPv4: {self:?}"),
        }
    }

    /// How many routers it may still pass.
    pub fn hops_left(&self) -> u8 {
        match &self.ip {
            Ip::V4(header) => header.time_to_live,
            Ip::V6(header, _) => header.hop_limit,
        }
    }

    /// Source address and port, if there are ports.
    pub fn source(&self) -> Option<SocketAddr> {
        let port = match &self.transport {
            Transport::Tcp { header, .. } => header.source_port,
            Transport::Udp { source, .. } => *source,
            _ => return None,
        };
        Some(SocketAddr::new(self.source_address(), port))
    }

    /// Destination address and port, if there are ports.
    pub fn destination(&self) -> Option<SocketAddr> {
        let port = match &self.transport {
            Transport::Tcp { header, .. } => header.destination_port,
            Transport::Udp { destination, .. } => *destination,
            _ => return None,
        };
        Some(SocketAddr::new(self.destination_address(), port))
    }

    /// Source address.
    pub fn source_address(&self) -> IpAddr {
        match &self.ip {
            Ip::V4(header) => IpAddr::from(header.source),
            Ip::V6(header, _) => IpAddr::from(header.source),
        }
    }

    /// Destination address.
    pub fn destination_address(&self) -> IpAddr {
        match &self.ip {
            Ip::V4(header) => IpAddr::from(header.destination),
            Ip::V6(header, _) => IpAddr::from(header.destination),
        }
    }

    /// What the transport carries, if it is TCP or UDP.
    pub fn data(&self) -> Option<&[u8]> {
        match &self.transport {
            Transport::Tcp { data, .. } | Transport::Udp { data, .. } => Some(data),
            _ => None,
        }
    }

    /// Its TCP header, if it has one.
    pub fn tcp(&self) -> Option<&TcpHeader> {
        match &self.transport {
            Transport::Tcp { header, .. } => Some(header),
            _ => None,
        }
    }

    /// Whether it ends one direction of a connection.
    pub fn is_fin(&self) -> bool {
        self.tcp().is_some_and(|header| header.fin)
    }

    /// Whether it cuts a connection off.
    pub fn is_reset(&self) -> bool {
        self.tcp().is_some_and(|header| header.rst)
    }

    /// Whether it is what the stations of an IPv6 wire say to each other: neighbour discovery (RFC
    /// 4861) and who listens to which group (RFC 2710, RFC 3810).
    pub fn is_housekeeping(&self) -> bool {
        matches!(self.transport, Transport::Icmpv6 { kind: 130..=137 | 143, .. })
    }
}

impl Transport {
    fn of(ip: &Ip, protocol: IpNumber, payload: &[u8]) -> Result<Self, String> {
        match protocol {
            IpNumber::TCP => {
                let tcp = TcpSlice::from_slice(payload).map_err(|why| format!("TCP: {why}"))?;
                let right = match ip {
                    Ip::V4(ip) => tcp.calc_checksum_ipv4(ip.source, ip.destination),
                    Ip::V6(ip, _) => tcp.calc_checksum_ipv6(ip.source, ip.destination),
                };
                check("TCP", tcp.checksum(), right.map_err(|why| format!("TCP: {why}"))?)?;
                Ok(Self::Tcp { header: Box::new(tcp.to_header()), data: tcp.payload().to_vec() })
            }
            IpNumber::UDP => Self::of_udp(ip, payload),
            IpNumber::IPV4 | IpNumber::IPV6 => Ok(Self::Ipip(payload.to_vec())),
            IpNumber::ICMP => {
                let (kind, code, rest) = icmp(payload, &[])?;
                Ok(Self::Icmp { kind, code, rest })
            }
            IpNumber::IPV6_ICMP => {
                let Ip::V6(ip, _) = ip else { return Ok(Self::Other) };
                // RFC 8200 section 8.1: the addresses, the length and the protocol count too.
                let length = (payload.len() as u32).to_be_bytes();
                let pseudo = [&ip.source[..], &ip.destination, &length, &[0, 0, 0, 58]].concat();
                let (kind, code, rest) = icmp(payload, &pseudo)?;
                Ok(Self::Icmpv6 { kind, code, rest })
            }
            _ => Ok(Self::Other),
        }
    }

    fn of_udp(ip: &Ip, payload: &[u8]) -> Result<Self, String> {
        let udp = UdpSlice::from_slice(payload).map_err(|why| format!("UDP: {why}"))?;
        if usize::from(udp.length()) != payload.len() {
            return Err(format!("UDP: length {} of {}", udp.length(), payload.len()));
        }
        let header = udp.to_header();
        let right = match ip {
            Ip::V4(_) if udp.checksum() == 0 => Ok(0), // RFC 768: none
            Ip::V4(ip) => header.calc_checksum_ipv4_raw(ip.source, ip.destination, udp.payload()),
            Ip::V6(ip, _) => {
                header.calc_checksum_ipv6_raw(ip.source, ip.destination, udp.payload())
            }
        };
        check("UDP", udp.checksum(), right.map_err(|why| format!("UDP: {why}"))?)?;
        Ok(Self::Udp {
            source: udp.source_port(),
            destination: udp.destination_port(),
            checksum: udp.checksum(),
            data: udp.payload().to_vec(),
        })
    }
}

/// Type, code and the rest of an ICMP message whose checksum is right, over `pseudo` too.
fn icmp(message: &[u8], pseudo: &[u8]) -> Result<(u8, u8, Vec<u8>), String> {
    match message {
        [kind, code, a, b, rest @ ..] if rest.len() >= 4 => {
            let mut summed = [pseudo, message].concat();
            summed[pseudo.len() + 2..][..2].fill(0);
            check("ICMP", u16::from_be_bytes([*a, *b]), internet_checksum(&summed))?;
            Ok((*kind, *code, rest.to_vec()))
        }
        _ => Err(format!("ICMP: {} bytes", message.len())),
    }
}

/// What a GUE datagram carries (draft-ietf-intarea-gue-09): behind variant 0's header, or the packet
/// itself in variant 1.
///
/// # Errors
/// If it is neither, or names another protocol than it carries.
pub fn unwrap_gue(datagram: &[u8]) -> Result<&[u8], String> {
    let [first, protocol, _, _, rest @ ..] = datagram else {
        return Err(format!("GUE: {} bytes", datagram.len()));
    };
    if first >> 6 == 1 {
        return Ok(datagram);
    }
    if first & 0xe0 != 0 {
        return Err(format!("GUE: variant, or control message: {first:#04x}"));
    }
    let packet = rest
        .get(usize::from(first & 0x1f) * 4..)
        .ok_or_else(|| format!("GUE: no room for {first:#04x}'s options"))?;
    match (protocol, packet.first().map(|byte| byte >> 4)) {
        (4, Some(4)) | (41, Some(6)) => Ok(packet),
        (_, version) => Err(format!("GUE: protocol {protocol} with IP version {version:?}")),
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

/// Decodes every frame and returns the IP packets among them, but for IPv6's housekeeping.
///
/// # Panics
/// At the first frame that is not in order.
pub fn packets(frames: &[Vec<u8>]) -> Vec<Packet> {
    let decode = |(number, frame): (usize, &Vec<u8>)| {
        Packet::of(frame)
            .unwrap_or_else(|wrong| panic!("frame {number} is not in order: {wrong}: {frame:02x?}"))
    };
    let packets = frames.iter().enumerate().filter_map(decode);
    packets.filter(|packet| !packet.is_housekeeping()).collect()
}

/// The packets that go to `address`, each with its frame.
///
/// # Panics
/// At the first frame that is not in order.
pub fn packets_to(frames: &[Vec<u8>], address: impl Into<IpAddr>) -> Vec<(Packet, &[u8])> {
    let address = address.into();
    let decoded = frames.iter().filter_map(|frame| {
        let packet = Packet::of(frame)
            .unwrap_or_else(|wrong| panic!("a frame is not in order: {wrong}: {frame:02x?}"))?;
        Some((packet, frame.as_slice()))
    });
    decoded.filter(|(packet, _)| packet.destination_address() == address).collect()
}

/// How many of these frames end one direction of a connection and come from `address`.
pub fn fins_from(frames: &[Vec<u8>], address: impl Into<IpAddr>) -> usize {
    let address = address.into();
    let from = |packet: &Packet| packet.is_fin() && packet.source_address() == address;
    packets(frames).iter().filter(|packet| from(packet)).count()
}

/// How many of these frames end one direction of a connection.
pub fn fins(frames: &[Vec<u8>]) -> usize {
    packets(frames).iter().filter(|packet| packet.is_fin()).count()
}

/// The IP packet of a frame without tags, byte for byte, without Ethernet's header and padding.
///
/// # Panics
/// If it is not IP.
pub fn packet_bytes(frame: &[u8]) -> &[u8] {
    let packet = &frame[14..];
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    match packet[0] >> 4 {
        4 => &packet[..word(2)],
        6 => &packet[..40 + word(4)],
        version => panic!("IP version {version}"),
    }
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
    // 0 and 0xffff are the same number in ones' complement (RFC 1071), and Linux sends either.
    if found == right || (found, right) == (0xffff, 0) || (found, right) == (0, 0xffff) {
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
    use std::net::Ipv6Addr;

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
        assert_eq!(packet.source(), Some(ends().source.into()));
        assert_eq!(packet.destination(), Some(ends().destination.into()));
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

    const CLIENT: [u8; 16] = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10).octets();
    const SERVER: [u8; 16] = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x100).octets();

    fn ipv6() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(CLIENT, SERVER, 61)
    }

    /// TCP, UDP and an echo request over IPv6.
    fn over_ipv6() -> [Vec<u8>; 3] {
        let mut frames = [Vec::new(), Vec::new(), Vec::new()];
        ipv6().tcp(40_000, 80, 7, 8192).write(&mut frames[0], b"hello").expect("it fits");
        ipv6().udp(40_000, 53).write(&mut frames[1], b"hello").expect("it fits");
        ipv6().icmpv6_echo_request(1, 2).write(&mut frames[2], b"hello").expect("it fits");
        frames
    }

    #[test]
    fn sound_ipv6_frames_are_taken_apart() {
        let [tcp, udp, echo] = over_ipv6().map(|it| Packet::of(&it).expect("sound").expect("IP"));
        for packet in [&tcp, &udp] {
            assert_eq!(packet.source(), Some("[2001:db8:1::10]:40000".parse().unwrap()));
            assert_eq!(packet.data(), Some(&b"hello"[..]));
        }
        assert_eq!(tcp.destination(), Some("[2001:db8:1::100]:80".parse().unwrap()));
        assert!(matches!(&echo.transport, Transport::Icmpv6 { kind: 128, code: 0, .. }));
    }

    #[test]
    fn a_changed_address_or_payload_over_ipv6_is_noticed() {
        for frame in over_ipv6() {
            // The first eight bytes carry class, flow label and hop limit, which nothing protects.
            for place in 14 + 8..frame.len() {
                let mut changed = frame.clone();
                changed[place] ^= 0x20;
                assert!(Packet::of(&changed).is_err(), "byte {place} of {frame:02x?}");
            }
        }
    }

    #[test]
    fn extension_headers_are_stepped_over_and_fragments_told() {
        let [tcp, ..] = over_ipv6();
        let options = [6, 0, 1, 4, 0, 0, 0, 0]; // TCP follows; one option that pads
        let mut extended = [&tcp[..54], &options, &tcp[54..]].concat();
        extended[14 + 6] = 60; // destination options
        extended[14 + 5] += 8;
        let packet = Packet::of(&extended).expect("sound").expect("IP");
        assert_eq!(packet.data(), Some(&b"hello"[..]));
        assert!(matches!(packet.ip, Ip::V6(_, 8)));
        let fragment = [6, 0, 0, 1, 0, 0, 0, 9]; // the first of several
        let mut first = [&tcp[..54], &fragment, &tcp[54..]].concat();
        first[14 + 6] = 44;
        first[14 + 5] += 8;
        let packet = Packet::of(&first).expect("sound").expect("IP");
        assert_eq!(packet.transport, Transport::Fragment);
    }

    #[test]
    fn tags_are_read() {
        let plain = ends().udp(b"hello");
        let tags = [0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x60, 0x05];
        let tagged = [&plain[..12], &tags, &plain[12..]].concat();
        let packet = Packet::of(&tagged).expect("sound").expect("IP");
        assert_eq!(packet.vlans, [7, 5]);
        assert_eq!(packet.data(), Some(&b"hello"[..]));
    }

    #[test]
    fn the_packet_inside_a_tunnel_is_found_and_judged() {
        let [inner, ..] = over_ipv6();
        let inner = &inner[14..];
        let outer = Ends { destination: "10.3.0.11:6080".parse().unwrap(), ..ends() };
        let gue = outer.udp(&[&[0, 41, 0, 0], inner].concat());
        let mut bare = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10; 4], [11; 4], 64);
        builder.write(&mut bare, IpNumber::IPV6, inner).expect("it fits");
        for frame in [gue, bare] {
            let packet = Packet::of(&frame).expect("sound").expect("IP");
            let inside = packet.inside().expect("sound").expect("a tunnel");
            assert_eq!(inside.data(), Some(&b"hello"[..]));
        }
        let wrong = outer.udp(&[&[0, 4, 0, 0], inner].concat());
        let packet = Packet::of(&wrong).expect("sound").expect("IP");
        assert!(packet.inside().is_err(), "a header that names another protocol");
    }
}
