//! IPv6 (RFC 8200): the fixed header, and the extension headers that may stand before what is carried.

use super::checksum::Change;
use super::{Address, Malformed};

pub use super::protocol;

/// Length of the fixed header, in bytes.
pub const HEADER: usize = 40;

/// Length of a fragment header, in bytes.
pub const FRAGMENT_HEADER: usize = 8;

/// Every link carries packets of this length (RFC 8200 section 5).
pub const LEAST_MTU: u16 = 1280;

/// The longest payload with which a packet's total length is still 16 bits.
pub const MOST_PAYLOAD: usize = u16::MAX as usize - HEADER;

/// The fixed header of an IPv6 packet, read and written where it lies. It has no checksum.
pub struct Ipv6<'p>(&'p mut [u8; HEADER]);

impl<'p> Ipv6<'p> {
    /// Splits the header off `packet`, and cuts the payload to the length that the header gives:
    /// the one place where the lengths are checked. What follows the packet (Ethernet's padding)
    /// is left out. Jumbograms (RFC 2675) and packets nearly as long are refused.
    #[inline]
    pub fn split(packet: &'p mut [u8]) -> Result<(Self, &'p mut [u8]), Malformed> {
        let (fixed, rest) = packet.split_first_chunk_mut::<HEADER>().ok_or(Malformed::Truncated)?;
        let length = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        // Hop-by-hop options need 8 bytes at least, so no length at all is that of a jumbogram.
        let is_jumbogram = length == 0 && fixed[6] == protocol::HOP_BY_HOP;
        if fixed[0] >> 4 != 6 || length > MOST_PAYLOAD || is_jumbogram {
            return Err(Malformed::Impossible);
        }
        let payload = rest.get_mut(..length).ok_or(Malformed::Truncated)?;
        Ok((Self(fixed), payload))
    }

    /// Differentiated services and congestion notification (RFC 2474, RFC 3168).
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.word(0) >> 4) as u8
    }

    /// What the sender marks the packets of a flow with: 20 bits (RFC 6437).
    #[inline]
    pub fn flow_label(&self) -> u32 {
        u32::from(self.0[1] & 0x0f) << 16 | u32::from(self.word(2))
    }

    /// Length of what follows this header, in bytes.
    #[inline]
    pub fn payload_length(&self) -> u16 {
        self.word(4)
    }

    /// Length of the packet with its header, in bytes.
    #[inline]
    pub fn total_length(&self) -> u16 {
        self.word(4).saturating_add(HEADER as u16) // `split` has seen that it fits
    }

    /// What the payload begins with: one of [`protocol`].
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.0[6]
    }

    /// How many more routers may pass the packet on.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.0[7]
    }

    /// Who sent it.
    #[inline]
    pub fn source(&self) -> Address {
        self.address(8)
    }

    /// Whom it is for.
    #[inline]
    pub fn destination(&self) -> Address {
        self.address(24)
    }

    /// Walks the extension headers at the start of `payload`.
    ///
    /// # Errors
    /// See [`Extensions::walk`].
    #[inline]
    pub fn extensions(&self, payload: &[u8]) -> Result<Extensions, Malformed> {
        Extensions::walk(self.next_header(), payload)
    }

    /// Replaces differentiated services and congestion notification.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        self.0[0] = 0x60 | class >> 4;
        self.0[1] = class << 4 | self.0[1] & 0x0f;
    }

    /// Replaces the length of what follows this header.
    #[inline]
    pub fn set_payload_length(&mut self, length: u16) {
        self.0[4..6].copy_from_slice(&length.to_be_bytes());
    }

    /// Replaces what the payload begins with.
    #[inline]
    pub fn set_next_header(&mut self, next: u8) {
        self.0[6] = next;
    }

    /// Replaces how many more routers may pass the packet on.
    #[inline]
    pub fn set_hop_limit(&mut self, limit: u8) {
        self.0[7] = limit;
    }

    /// Takes one off the hop limit, and gives what is left. 0 stays 0.
    #[inline]
    pub fn decrement_hop_limit(&mut self) -> u8 {
        self.0[7] = self.0[7].saturating_sub(1);
        self.0[7]
    }

    /// Replaces both addresses; gives what changed. The checksum of what is carried covers them, and is the
    /// caller's to mend.
    #[inline]
    pub fn set_addresses(&mut self, source: Address, destination: Address) -> Change {
        let change = Change::of_addresses(self.source(), source)
            .and(Change::of_addresses(self.destination(), destination));
        self.0[8..24].copy_from_slice(&source.bits().to_be_bytes());
        self.0[24..].copy_from_slice(&destination.bits().to_be_bytes());
        change
    }

    #[inline]
    fn address(&self, at: usize) -> Address {
        let mut bits = [0; 16];
        bits.copy_from_slice(&self.0[at..at + 16]);
        Address::from_bits(u128::from_be_bytes(bits))
    }

    #[inline]
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }
}

/// Which part of a packet this is, by its fragment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Where this part belongs, in units of 8 bytes.
    pub offset: u16,
    /// Whether others follow it.
    pub more: bool,
    /// What the parts of one packet have in common.
    pub identification: u32,
    /// Where the fragment header lies, in bytes from the start of the payload.
    pub header_at: usize,
}

impl Fragment {
    /// Whether it is the whole packet (RFC 6946, "atomic"): nothing is before it and nothing follows.
    #[inline]
    pub fn is_whole(self) -> bool {
        self.offset == 0 && !self.more
    }

    /// A fragment header in front of what `next_header` says: `offset` in units of 8 bytes, `more` if
    /// others follow.
    pub fn header(
        next_header: u8,
        offset: u16,
        more: bool,
        identification: u32,
    ) -> [u8; FRAGMENT_HEADER] {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        let [a, b, c, d] = identification.to_be_bytes();
        [next_header, 0, high, low, a, b, c, d]
    }
}

/// What the extension headers of a packet say, and what they stand in front of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extensions {
    /// What follows them: one of [`protocol`]. In a fragment other than the first it is what the *packet*
    /// goes on with behind its fragment header, and no such header follows here.
    pub protocol: u8,
    /// Where that begins, in bytes from the start of the payload; at most the payload's length.
    pub at: usize,
    /// Which part of a packet this is, if it says.
    pub fragment: Option<Fragment>,
    /// Whether the sender wants it to visit other hosts on the way: a routing header of type 0, which
    /// is no longer allowed (RFC 5095).
    pub source_routed: bool,
}

impl Extensions {
    /// As many headers as anybody sends, and a few more.
    const MOST: usize = 8;

    /// As many bytes of headers as are worth looking at: hosts may refuse more (RFC 8504 section 5.3).
    const MOST_BYTES: usize = 256;

    /// Walks the extension headers of `payload`, which begins with `next_header`. The walk ends at the first
    /// header that is none of hop-by-hop options, routing, fragment and destination options, and behind
    /// the fragment header of any fragment but the first.
    ///
    /// # Errors
    /// `Truncated` where a header goes on behind the payload, as it must not even in a first fragment
    /// (RFC 7112). `Impossible` for hop-by-hop options in another place than the first, for two
    /// fragment headers, and for more than 8 headers or 256 bytes.
    #[inline]
    pub fn walk(next_header: u8, payload: &[u8]) -> Result<Self, Malformed> {
        let none = Self { protocol: next_header, at: 0, fragment: None, source_routed: false };
        if is_extension(next_header) { none.walk_on(payload) } else { Ok(none) }
    }

    #[cold]
    fn walk_on(mut self, payload: &[u8]) -> Result<Self, Malformed> {
        for _ in 0..Self::MOST {
            let rest = payload.get(self.at..).ok_or(Malformed::Truncated)?;
            let header = rest.first_chunk::<8>().ok_or(Malformed::Truncated)?;
            let length = match self.protocol {
                protocol::HOP_BY_HOP if self.at != 0 => return Err(Malformed::Impossible),
                protocol::FRAGMENT if self.fragment.is_some() => {
                    return Err(Malformed::Impossible);
                }
                protocol::FRAGMENT => {
                    self.fragment = Some(fragment(*header, self.at));
                    FRAGMENT_HEADER
                }
                kind => {
                    // The type of a routing header is its third byte (RFC 8200 section 4.4).
                    self.source_routed |= kind == protocol::ROUTING && header[2] == 0;
                    (usize::from(header[1]) + 1) * 8
                }
            };
            self.at += length;
            if self.at > Self::MOST_BYTES {
                return Err(Malformed::Impossible);
            }
            if self.at > payload.len() {
                return Err(Malformed::Truncated);
            }
            self.protocol = header[0];
            let is_later_part = self.fragment.is_some_and(|fragment| fragment.offset != 0);
            if is_later_part || !is_extension(self.protocol) {
                return Ok(self);
            }
        }
        Err(Malformed::Impossible)
    }
}

#[inline]
fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::DESTINATION_OPTIONS
    )
}

fn fragment(header: [u8; FRAGMENT_HEADER], header_at: usize) -> Fragment {
    let [_, _, high, low, a, b, c, d] = header;
    let field = u16::from_be_bytes([high, low]);
    Fragment {
        offset: field >> 3,
        more: field & 1 != 0,
        identification: u32::from_be_bytes([a, b, c, d]),
        header_at,
    }
}

/// The hop limit of packets that we make ourselves (IANA, as for IPv4).
pub const HOP_LIMIT: u8 = 64;

/// What a new header says.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// Differentiated services and congestion notification.
    pub traffic_class: u8,
    /// Marks the packets of a flow: 20 bits.
    pub flow_label: u32,
    /// Length of what follows the header, in bytes.
    pub payload_length: u16,
    /// What follows: one of [`protocol`].
    pub next_header: u8,
    /// How many routers may pass the packet on.
    pub hop_limit: u8,
    /// Who sends it.
    pub source: Address,
    /// Whom it is for.
    pub destination: Address,
}

impl Header {
    /// The header's bytes.
    #[inline]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff;
        bytes[..4].copy_from_slice(&first.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.payload_length.to_be_bytes());
        bytes[6] = self.next_header;
        bytes[7] = self.hop_limit;
        bytes[8..24].copy_from_slice(&self.source.bits().to_be_bytes());
        bytes[24..].copy_from_slice(&self.destination.bits().to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{
        IpFragOffset, IpNumber, Ipv6Extensions, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header,
        Ipv6RawExtHeader, Ipv6RoutingExtensions,
    };
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn header(payload_length: u16, next_header: u8) -> Header {
        Header {
            traffic_class: 0xb9,
            flow_label: 0x000a_bcde,
            payload_length,
            next_header,
            hop_limit: HOP_LIMIT,
            source: address("2001:db8::9"),
            destination: address("2001:db8:1::64"),
        }
    }

    fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        [&header(payload.len() as u16, next_header).to_bytes()[..], payload].concat()
    }

    #[test]
    fn a_written_header_is_read_back_by_an_independent_decoder() {
        let bytes = header(0, protocol::TCP).to_bytes();
        let (read, rest) = Ipv6Header::from_slice(&bytes).unwrap();
        assert!(rest.is_empty());
        let expected = Ipv6Header {
            traffic_class: 0xb9,
            flow_label: Ipv6FlowLabel::try_new(0xa_bcde).unwrap(),
            payload_length: 0,
            next_header: IpNumber::TCP,
            hop_limit: 64,
            source: address("2001:db8::9").bits().to_be_bytes(),
            destination: address("2001:db8:1::64").bits().to_be_bytes(),
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn padding_behind_the_packet_is_not_payload() {
        let mut bytes = packet(protocol::UDP, &[1, 2, 3]);
        bytes.extend([0; 5]);
        let (ip, payload) = Ipv6::split(&mut bytes).unwrap();
        assert_eq!((ip.total_length(), ip.payload_length()), (43, 3));
        assert_eq!(payload, [1, 2, 3]);
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        let refusal = |bytes: &mut [u8]| Ipv6::split(bytes).err();
        assert_eq!(refusal(&mut packet(6, &[])[..39]), Some(Malformed::Truncated));
        assert_eq!(refusal(&mut packet(6, &[0; 9])[..48]), Some(Malformed::Truncated));
        let mut version = packet(6, &[]);
        version[0] = 0x4b;
        assert_eq!(refusal(&mut version), Some(Malformed::Impossible));
        assert_eq!(refusal(&mut packet(6, &[0; 65495])), None);
        assert_eq!(refusal(&mut packet(6, &[0; 65496])), Some(Malformed::Impossible));
    }

    #[test]
    fn a_jumbogram_is_refused() {
        let jumbo = [6, 0, 0xc2, 4, 0, 1, 0, 0];
        let mut bytes = packet(protocol::HOP_BY_HOP, &jumbo);
        bytes[4..6].fill(0);
        assert_eq!(Ipv6::split(&mut bytes).err(), Some(Malformed::Impossible));
    }

    #[test]
    fn extensions_of_every_kind_are_walked_as_an_independent_encoder_wrote_them() {
        let options = |next, length: usize| {
            Ipv6RawExtHeader::new_raw(IpNumber(next), &vec![1; length]).unwrap()
        };
        let mut extensions = Ipv6Extensions {
            hop_by_hop_options: Some(options(0, 6)),
            destination_options: Some(options(0, 14)),
            routing: Some(Ipv6RoutingExtensions {
                routing: Ipv6RawExtHeader::new_raw(IpNumber(0), &[2, 0, 0, 0, 0, 0]).unwrap(),
                final_destination_options: Some(options(0, 6)),
            }),
            fragment: Some(Ipv6FragmentHeader::new(
                IpNumber(0),
                IpFragOffset::ZERO,
                true,
                0x0102_0304,
            )),
            auth: None,
        };
        let first = extensions.set_next_headers(IpNumber::UDP);
        let mut payload = Vec::new();
        extensions.write(&mut payload, first).unwrap();
        let at = payload.len();
        payload.extend([7; 8]);
        let mut bytes = packet(first.0, &payload);
        let (ip, payload) = Ipv6::split(&mut bytes).unwrap();
        let fragment =
            Fragment { offset: 0, more: true, identification: 0x0102_0304, header_at: 32 };
        let expected = Extensions {
            protocol: protocol::UDP,
            at,
            fragment: Some(fragment),
            source_routed: false,
        };
        assert_eq!(ip.extensions(payload), Ok(expected));
    }

    #[test]
    fn a_packet_without_extensions_has_its_protocol_at_once() {
        for protocol in [protocol::TCP, protocol::ESP, protocol::AUTHENTICATION, 59, 253] {
            let walked = Extensions::walk(protocol, &[0; 8]).unwrap();
            assert_eq!((walked.protocol, walked.at, walked.fragment), (protocol, 0, None));
        }
    }

    #[test]
    fn a_later_fragment_is_looked_at_no_further() {
        let mut payload = Fragment::header(protocol::DESTINATION_OPTIONS, 185, false, 7).to_vec();
        payload.extend([0xff; 8]);
        let walked = Extensions::walk(protocol::FRAGMENT, &payload).unwrap();
        assert_eq!((walked.protocol, walked.at), (protocol::DESTINATION_OPTIONS, 8));
        let fragment = Fragment { offset: 185, more: false, identification: 7, header_at: 0 };
        assert_eq!(walked.fragment, Some(fragment));
        assert!(!fragment.is_whole());
    }

    #[test]
    fn a_routing_header_of_type_0_is_reported() {
        let routed = |kind| Extensions::walk(protocol::ROUTING, &[6, 0, kind, 0, 0, 0, 0, 0]);
        assert!(routed(0).unwrap().source_routed);
        assert!(!routed(4).unwrap().source_routed);
    }

    #[test]
    fn chains_that_nobody_sends_are_refused() {
        let options = |count: usize| {
            let mut chain = [protocol::DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0].repeat(count);
            chain[(count - 1) * 8] = protocol::TCP;
            Extensions::walk(protocol::DESTINATION_OPTIONS, &chain).map(|walked| walked.at)
        };
        assert_eq!(options(8), Ok(64));
        assert_eq!(options(9), Err(Malformed::Impossible));
        let long = |units: u8| {
            let mut header = vec![0; (usize::from(units) + 1) * 8];
            header[..2].copy_from_slice(&[protocol::TCP, units]);
            Extensions::walk(protocol::HOP_BY_HOP, &header).map(|walked| walked.at)
        };
        assert_eq!(long(31), Ok(256));
        assert_eq!(long(32), Err(Malformed::Impossible));
        let twice = [Fragment::header(protocol::FRAGMENT, 0, true, 1); 2].concat();
        assert_eq!(Extensions::walk(protocol::FRAGMENT, &twice), Err(Malformed::Impossible));
        let late = [[protocol::HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0]; 2].concat();
        assert_eq!(
            Extensions::walk(protocol::DESTINATION_OPTIONS, &late),
            Err(Malformed::Impossible)
        );
    }

    #[test]
    fn a_chain_that_goes_on_behind_the_payload_is_refused() {
        let walk = |bytes: &[u8]| Extensions::walk(protocol::DESTINATION_OPTIONS, bytes);
        assert_eq!(walk(&[]), Err(Malformed::Truncated));
        assert_eq!(walk(&[6, 0, 1, 4, 0, 0, 0]), Err(Malformed::Truncated));
        assert_eq!(walk(&[6, 1, 1, 4, 0, 0, 0, 0]), Err(Malformed::Truncated));
        assert_eq!(walk(&[6, 0, 1, 4, 0, 0, 0, 0]).map(|walked| walked.at), Ok(8));
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_back_and_nothing_else_changes(bytes: [[u8; 20]; 2], class: u8, limit: u8, from: u128, to: u128) {
            let mut bytes = bytes.concat();
            bytes[0] = 0x60 | bytes[0] & 0x0f;
            bytes[4..7].copy_from_slice(&[0, 0, protocol::TCP]);
            let before = bytes.clone();
            let (mut ip, _) = Ipv6::split(&mut bytes).unwrap();
            let label = ip.flow_label();
            ip.set_traffic_class(class);
            ip.set_hop_limit(limit);
            ip.set_addresses(Address::from_bits(from), Address::from_bits(to));
            prop_assert_eq!((ip.traffic_class(), ip.hop_limit(), ip.flow_label()), (class, limit, label));
            prop_assert_eq!((ip.source().bits(), ip.destination().bits()), (from, to));
            let header = Header {
                traffic_class: class,
                flow_label: label,
                payload_length: 0,
                next_header: before[6],
                hop_limit: limit,
                source: Address::from_bits(from),
                destination: Address::from_bits(to),
            };
            prop_assert_eq!(&bytes[..], &header.to_bytes()[..]);
        }

        #[test]
        fn any_bytes_are_walked_within_themselves(next in prop::sample::select(vec![0, 6, 43, 44, 60]), mut bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(43), Just(44), Just(60), any::<u8>()], 0..300)) {
            if let Ok(walked) = Extensions::walk(next, &bytes) {
                prop_assert!(walked.at <= bytes.len());
                prop_assert!(walked.fragment.is_none_or(|fragment| fragment.header_at + 8 <= walked.at));
            }
            if let Ok((ip, payload)) = Ipv6::split(&mut bytes) {
                prop_assert_eq!(usize::from(ip.total_length()), 40 + payload.len());
            }
        }
    }
}
