//! ICMP: messages of both families (RFC 792, RFC 4443) in one view, and the errors that IPv4 needs from
//! us. Those of IPv6 are in [`icmpv6`].

use super::checksum::{self, Change};
use super::quoted::{End, Quoted};
use super::{Address, Family, Malformed, icmpv6, ipv4, protocol};

/// Length of the header, in bytes.
pub const HEADER: usize = 8;

/// How many bytes behind the IP header an error quotes (RFC 792).
pub const QUOTED: usize = 8;

/// The longest packet that an error makes (RFC 1812 section 4.3.2.3).
const LONGEST: usize = 576;

/// Types of messages (IANA, ICMP Parameters).
pub mod kind {
    /// An answer to an echo request.
    pub const ECHO_REPLY: u8 = 0;
    /// A packet could not be delivered; [`super::code`] says why.
    pub const UNREACHABLE: u8 = 3;
    /// No longer sent by anybody (RFC 6633).
    pub const SOURCE_QUENCH: u8 = 4;
    /// There is a better router.
    pub const REDIRECT: u8 = 5;
    /// To be answered.
    pub const ECHO_REQUEST: u8 = 8;
    /// A packet's time to live, or the time for all its fragments to arrive, was over.
    pub const TIME_EXCEEDED: u8 = 11;
    /// A packet's header made no sense.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// Why a packet could not be delivered (RFC 792, RFC 1812 section 5.2.7.1).
pub mod code {
    /// No route.
    pub const NETWORK: u8 = 0;
    /// The host does not answer its neighbours.
    pub const HOST: u8 = 1;
    /// The host does not know the protocol.
    pub const PROTOCOL: u8 = 2;
    /// Nobody listens there.
    pub const PORT: u8 = 3;
    /// The packet is too long for the next link, and must not be fragmented.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// A filter forbids it.
    pub const PROHIBITED: u8 = 13;
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To be answered.
    EchoRequest {
        /// Tells the requests of different programs apart.
        identifier: u16,
    },
    /// The answer.
    EchoReply {
        /// That of the request.
        identifier: u16,
    },
    /// Something happened to the packet that it quotes.
    Error {
        /// Its type: of [`kind`] or [`icmpv6::kind`].
        kind: u8,
        /// Its code.
        code: u8,
    },
    /// Between neighbours on an IPv6 link (RFC 4861).
    Neighbour {
        /// Its type: of [`icmpv6::kind`].
        kind: u8,
    },
    /// Anything else.
    Other {
        /// Its type.
        kind: u8,
    },
}

/// An ICMP message of either family, read and written where it lies.
pub struct Message<'p> {
    header: &'p mut [u8; HEADER],
    body: &'p mut [u8],
    family: Family,
}

impl<'p> Message<'p> {
    /// Takes a packet's payload as a message: the one place where its length is checked.
    #[inline]
    pub fn read(family: Family, payload: &'p mut [u8]) -> Result<Self, Malformed> {
        let (header, body) = payload.split_first_chunk_mut().ok_or(Malformed::Truncated)?;
        Ok(Self { header, body, family })
    }

    /// What the message is.
    #[inline]
    pub fn kind(&self) -> Kind {
        let [kind, code, ..] = *self.header;
        let identifier = self.word(4);
        match (self.family, kind) {
            (Family::V4, kind::ECHO_REQUEST) | (Family::V6, icmpv6::kind::ECHO_REQUEST) => {
                Kind::EchoRequest { identifier }
            }
            (Family::V4, kind::ECHO_REPLY) | (Family::V6, icmpv6::kind::ECHO_REPLY) => {
                Kind::EchoReply { identifier }
            }
            (
                Family::V4,
                kind::UNREACHABLE
                | kind::SOURCE_QUENCH
                | kind::REDIRECT
                | kind::TIME_EXCEEDED
                | kind::PARAMETER_PROBLEM,
            )
            // The lower half of the numbers is for errors (RFC 4443 section 2.1).
            | (Family::V6, 1..128) => Kind::Error { kind, code },
            (Family::V6, icmpv6::kind::ROUTER_SOLICITATION..=icmpv6::kind::REDIRECT) => {
                Kind::Neighbour { kind }
            }
            _ => Kind::Other { kind },
        }
    }

    /// Whether the checksum is right in a packet between these addresses, which IPv4 does without.
    #[inline]
    pub fn checksum_is_right(&self, source: Address, destination: Address) -> bool {
        // The header is whole words, so the message's sum is that of its halves.
        let [header, body] =
            [checksum::of(self.header), checksum::of(self.body)].map(|half| u64::from(!half));
        let length = (HEADER + self.body.len()) as u32;
        let pseudo_header = match self.family {
            Family::V4 => 0,
            Family::V6 => checksum::pseudo_header(source, destination, protocol::ICMPV6, length),
        };
        checksum::fold(header + body + pseudo_header) == 0xffff
    }

    /// What the message quotes. To be asked of errors only.
    pub fn quoted(&self) -> Result<Quoted, Malformed> {
        Quoted::read(self.family, self.body)
    }

    /// How long packets on that way may be, if this error is about their length (RFC 1191, RFC 4443
    /// section 3.2). 0 is what IPv4 routers say that do not know.
    pub fn mtu(&self) -> Option<u32> {
        match (self.family, self.kind()) {
            (
                Family::V4,
                Kind::Error { kind: kind::UNREACHABLE, code: code::FRAGMENTATION_NEEDED },
            ) => Some(u32::from(self.word(6))),
            (Family::V6, Kind::Error { kind: icmpv6::kind::TOO_BIG, .. }) => {
                Some(u32::from(self.word(4)) << 16 | u32::from(self.word(6)))
            }
            _ => None,
        }
    }

    /// Replaces the identifier of an echo and mends the checksum. Other messages are left alone.
    pub fn set_identifier(&mut self, to: u16) {
        if let Kind::EchoRequest { identifier } | Kind::EchoReply { identifier } = self.kind() {
            self.header[4..6].copy_from_slice(&to.to_be_bytes());
            self.mend(Change::default().word(identifier, to));
        }
    }

    /// Replaces the source of the quoted packet: its address by one of the same family, and its port
    /// (of an echo: the identifier). Mends the checksums inside, as far as they are quoted, and this
    /// message's own.
    ///
    /// # Errors
    /// As for [`Self::quoted`]; nothing changed then.
    pub fn set_quoted_source(&mut self, address: Address, number: u16) -> Result<(), Malformed> {
        self.set_quoted(End::Source, address, number)
    }

    /// Replaces the destination of the quoted packet, as [`Self::set_quoted_source`] does the source.
    ///
    /// # Errors
    /// As for [`Self::quoted`]; nothing changed then.
    pub fn set_quoted_destination(
        &mut self,
        address: Address,
        number: u16,
    ) -> Result<(), Malformed> {
        self.set_quoted(End::Destination, address, number)
    }

    /// Mends the checksum after an address of the packet around this message changed: IPv6's covers
    /// them, IPv4's does not.
    #[inline]
    pub fn addresses_changed(&mut self, change: Change) {
        if self.family == Family::V6 {
            self.mend(change);
        }
    }

    fn set_quoted(&mut self, end: End, address: Address, number: u16) -> Result<(), Malformed> {
        let change = self.quoted()?.set(self.body, end, address, number);
        self.mend(change);
        Ok(())
    }

    #[inline]
    fn mend(&mut self, change: Change) {
        let mended = change.mend(self.word(2));
        self.header[2..4].copy_from_slice(&mended.to_be_bytes());
    }

    #[inline]
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.header[at], self.header[at + 1]])
    }
}

/// An error that we send over IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The packet cannot be delivered: one of [`code`].
    Unreachable {
        /// Why.
        code: u8,
    },
    /// The packet is too long, and must not be fragmented (RFC 1191 section 4).
    FragmentationNeeded {
        /// What would have fitted.
        mtu: u16,
    },
    /// The packet has passed as many routers as it may.
    TimeExceeded,
}

impl Error {
    fn header(self) -> [u8; HEADER] {
        match self {
            Self::Unreachable { code } => [kind::UNREACHABLE, code, 0, 0, 0, 0, 0, 0],
            Self::FragmentationNeeded { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                [kind::UNREACHABLE, code::FRAGMENTATION_NEEDED, 0, 0, 0, 0, high, low]
            }
            Self::TimeExceeded => [kind::TIME_EXCEEDED, 0, 0, 0, 0, 0, 0, 0],
        }
    }
}

/// How many bytes of `original` an error quotes: as many as fit into a packet of 576 bytes (RFC 1812
/// section 4.3.2.3).
pub fn quotable(original: usize) -> usize {
    original.min(LONGEST - ipv4::HEADER - HEADER)
}

/// Writes an error over `message` that quotes as much of `original` as fits there and into a packet of 576
/// bytes, and gives the error's length. `original` begins with an IP header. `None`, and nothing
/// written, if that header and the 8 bytes behind it do not fit.
pub fn write_error(message: &mut [u8], error: Error, original: &[u8]) -> Option<usize> {
    let header = usize::from(original.first()? & 0x0f) * 4;
    let least = original.len().min(header + QUOTED);
    let room = message.len().checked_sub(HEADER)?;
    let quote = original.get(..quotable(original.len()).min(room))?;
    if quote.len() < least {
        return None;
    }
    let length = HEADER + quote.len();
    let message = message.get_mut(..length)?;
    let (_, body) = message.split_first_chunk_mut::<HEADER>()?;
    body.copy_from_slice(quote);
    complete_error(message, error);
    Some(length)
}

/// Writes the first 8 bytes of an error, with a right checksum, in front of the quote that already is in
/// `message` behind them.
pub fn complete_error(message: &mut [u8], error: Error) {
    let Some(header) = message.first_chunk_mut::<HEADER>() else { return };
    *header = error.header();
    let checksum = checksum::of(message);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// "Fragmentation needed and DF set" with the MTU that would have fitted, quoting `original`: an IP header
/// and the first bytes behind it. Written over `message`, which must be [`HEADER`] bytes longer than
/// `original`.
pub fn write_fragmentation_needed(message: &mut [u8], original: &[u8], mtu: u16) {
    write_error(message, Error::FragmentationNeeded { mtu }, original);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 packet with options, `payload` bytes long behind them.
    fn original(payload: usize) -> Vec<u8> {
        let mut header = etherparse::Ipv4Header::new(
            payload as u16,
            64,
            etherparse::IpNumber::UDP,
            [192, 0, 2, 9],
            [10, 0, 0, 100],
        )
        .unwrap();
        header.options = [1; 8].into();
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], &vec![7; payload]].concat()
    }

    #[test]
    fn an_error_is_read_by_an_independent_decoder_and_quotes_what_fits() {
        use etherparse::icmpv4::{DestUnreachableHeader as Why, TimeExceededCode};
        use etherparse::{Icmpv4Slice, Icmpv4Type};
        let read = |error, payload| {
            let (mut message, original) = ([0; 1500], original(payload));
            let length = write_error(&mut message, error, &original).unwrap();
            let slice = Icmpv4Slice::from_slice(&message[..length]).unwrap();
            assert_eq!(slice.payload(), &original[..length - HEADER]);
            assert_eq!(slice.icmp_type().calc_checksum(slice.payload()), slice.checksum());
            (slice.icmp_type(), length)
        };
        let port = Error::Unreachable { code: code::PORT };
        assert_eq!(read(port, 100), (Icmpv4Type::DestinationUnreachable(Why::Port), 136));
        let prohibited = Error::Unreachable { code: code::PROHIBITED };
        let expected = Icmpv4Type::DestinationUnreachable(Why::FilterProhibited);
        assert_eq!(read(prohibited, 1400), (expected, 576 - 20));
        let too_long = Error::FragmentationNeeded { mtu: 1400 };
        let expected = Why::FragmentationNeeded { next_hop_mtu: 1400 };
        assert_eq!(read(too_long, 0), (Icmpv4Type::DestinationUnreachable(expected), 36));
        let expected = Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit);
        assert_eq!(read(Error::TimeExceeded, 8), (expected, 44));
    }

    #[test]
    fn an_error_quotes_the_ip_header_and_eight_bytes_or_is_none() {
        let mut message = [0; 8 + 28 + 8];
        let written = |message: &mut [u8]| write_error(message, Error::TimeExceeded, &original(9));
        assert_eq!(written(&mut message), Some(44));
        assert_eq!(written(&mut message[..43]), None);
        assert_eq!(written(&mut message[..7]), None);
        assert_eq!(write_error(&mut message, Error::TimeExceeded, &[]), None);
    }

    #[test]
    fn the_kinds_that_forwarding_tells_apart() {
        let kind = |family, kind: u8| {
            let mut bytes = [kind, 4, 0, 0, 1, 2, 3, 4];
            Message::read(family, &mut bytes).unwrap().kind()
        };
        let identifier = 0x0102;
        assert_eq!(kind(Family::V4, 8), Kind::EchoRequest { identifier });
        assert_eq!(kind(Family::V4, 0), Kind::EchoReply { identifier });
        assert_eq!(kind(Family::V4, 13), Kind::Other { kind: 13 });
        assert_eq!(kind(Family::V4, 128), Kind::Other { kind: 128 });
        assert_eq!(kind(Family::V6, 128), Kind::EchoRequest { identifier });
        assert_eq!(kind(Family::V6, 129), Kind::EchoReply { identifier });
        assert_eq!(kind(Family::V6, 0), Kind::Other { kind: 0 });
        assert_eq!(kind(Family::V6, 132), Kind::Other { kind: 132 });
        assert_eq!(kind(Family::V6, 138), Kind::Other { kind: 138 });
        for error in [3, 4, 5, 11, 12] {
            assert_eq!(kind(Family::V4, error), Kind::Error { kind: error, code: 4 });
        }
        for error in [1, 2, 3, 4, 127] {
            assert_eq!(kind(Family::V6, error), Kind::Error { kind: error, code: 4 });
        }
        for neighbour in 133..=137 {
            assert_eq!(kind(Family::V6, neighbour), Kind::Neighbour { kind: neighbour });
        }
        assert!(Message::read(Family::V4, &mut [8; 7]).is_err());
    }

    #[test]
    fn the_length_that_would_have_fitted_is_read_from_errors_about_it_alone() {
        let mtu = |family, kind, code| {
            let mut bytes = [kind, code, 0, 0, 0, 1, 5, 0x78];
            Message::read(family, &mut bytes).unwrap().mtu()
        };
        assert_eq!(mtu(Family::V4, 3, 4), Some(1400));
        assert_eq!(mtu(Family::V6, 2, 0), Some(0x1_0578));
        assert_eq!(mtu(Family::V4, 3, 3), None);
        assert_eq!(mtu(Family::V6, 3, 4), None);
    }

    #[test]
    fn an_echo_keeps_a_right_checksum_under_another_identifier() {
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ipv4([192, 0, 2, 9], [10, 0, 0, 100], 64)
            .icmpv4_echo_request(7, 1)
            .write(&mut bytes, &[1, 2, 3])
            .unwrap();
        let (from, to) = (Address::default(), Address::default());
        let mut echo = Message::read(Family::V4, &mut bytes[20..]).unwrap();
        assert!(echo.checksum_is_right(from, to));
        echo.set_identifier(0xfffe);
        assert_eq!(echo.kind(), Kind::EchoRequest { identifier: 0xfffe });
        echo.addresses_changed(Change::default().word(1, 2));
        assert!(echo.checksum_is_right(from, to));
        bytes[30] ^= 1;
        assert!(!Message::read(Family::V4, &mut bytes[20..]).unwrap().checksum_is_right(from, to));
    }
}
