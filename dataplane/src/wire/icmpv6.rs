//! ICMPv6 (RFC 4443): its numbers, and the errors that IPv6 needs from us. Messages are read by
//! [`icmp::Message`](super::icmp::Message).

use super::icmp::HEADER;
use super::{Address, checksum, ipv6, protocol};

/// Types of messages (IANA, ICMPv6 Parameters).
pub mod kind {
    /// A packet could not be delivered; [`super::code`] says why.
    pub const UNREACHABLE: u8 = 1;
    /// A packet was too long for the next link.
    pub const TOO_BIG: u8 = 2;
    /// A packet's hop limit, or the time for all its fragments to arrive, was over.
    pub const TIME_EXCEEDED: u8 = 3;
    /// A packet's header made no sense.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// To be answered.
    pub const ECHO_REQUEST: u8 = 128;
    /// An answer to an echo request.
    pub const ECHO_REPLY: u8 = 129;
    /// Who is a router here (RFC 4861)?
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// A router says that it is one (RFC 4861).
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Who has this address (RFC 4861)?
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// A station says which address it has (RFC 4861).
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// There is a better way (RFC 4861).
    pub const REDIRECT: u8 = 137;
}

/// Why a packet could not be delivered (RFC 4443 section 3.1).
pub mod code {
    /// No route.
    pub const NO_ROUTE: u8 = 0;
    /// A filter forbids it.
    pub const PROHIBITED: u8 = 1;
    /// The host does not answer its neighbours.
    pub const ADDRESS: u8 = 3;
    /// Nobody listens there.
    pub const PORT: u8 = 4;
}

/// An error that we send over IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The packet cannot be delivered: one of [`code`].
    Unreachable {
        /// Why.
        code: u8,
    },
    /// The packet is too long.
    TooBig {
        /// What would have fitted.
        mtu: u32,
    },
    /// The packet has passed as many routers as it may.
    TimeExceeded,
}

impl Error {
    fn header(self) -> [u8; HEADER] {
        match self {
            Self::Unreachable { code } => [kind::UNREACHABLE, code, 0, 0, 0, 0, 0, 0],
            Self::TooBig { mtu } => {
                let [a, b, c, d] = mtu.to_be_bytes();
                [kind::TOO_BIG, 0, 0, 0, a, b, c, d]
            }
            Self::TimeExceeded => [kind::TIME_EXCEEDED, 0, 0, 0, 0, 0, 0, 0],
        }
    }
}

/// How many bytes of `original` an error quotes: as many as fit into a packet that every link carries
/// (RFC 4443 section 2.4 (c)).
pub fn quotable(original: usize) -> usize {
    original.min(usize::from(ipv6::LEAST_MTU) - ipv6::HEADER - HEADER)
}

/// Writes an error from `source` to `destination` over `message` that quotes as much of `original` as fits there
/// and into a packet of 1280 bytes, and gives the error's length. `None`, and nothing written, if
/// not even the IPv6 header fits.
pub fn write_error(
    message: &mut [u8],
    error: Error,
    original: &[u8],
    source: Address,
    destination: Address,
) -> Option<usize> {
    let room = message.len().checked_sub(HEADER)?;
    let quote = original.get(..quotable(original.len()).min(room))?;
    if quote.len() < original.len().min(ipv6::HEADER) {
        return None;
    }
    let length = HEADER + quote.len();
    let message = message.get_mut(..length)?;
    let (_, body) = message.split_first_chunk_mut::<HEADER>()?;
    body.copy_from_slice(quote);
    complete_error(message, error, source, destination);
    Some(length)
}

/// Writes the first 8 bytes of an error from `source` to `destination`, with a right checksum, in front of the
/// quote that already is in `message` behind them.
pub fn complete_error(message: &mut [u8], error: Error, source: Address, destination: Address) {
    let Some(header) = message.first_chunk_mut::<HEADER>() else { return };
    *header = error.header();
    let checksum = checksum::of_transport(source, destination, protocol::ICMPV6, message);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv6Slice, Icmpv6Type};

    use super::*;
    use crate::wire::checksum::Change;
    use crate::wire::icmp::{Kind, Message};
    use crate::wire::{Family, Malformed};

    fn addresses() -> [Address; 2] {
        ["2001:db8::9", "2001:db8::64"].map(|text| text.parse().unwrap())
    }

    #[test]
    fn an_error_is_read_by_an_independent_decoder_and_quotes_what_fits() {
        use etherparse::icmpv6::{DestUnreachableCode as Why, TimeExceededCode};
        let [from, to] = addresses();
        let read = |error, original: usize| {
            let (mut message, original) = ([0; 1500], vec![0x60; original]);
            let length = write_error(&mut message, error, &original, from, to).unwrap();
            let slice = Icmpv6Slice::from_slice(&message[..length]).unwrap();
            assert_eq!(slice.payload(), &original[..length - HEADER]);
            let [from, to] = [from, to].map(|address| address.bits().to_be_bytes());
            let sum = slice.icmp_type().calc_checksum(from, to, slice.payload()).unwrap();
            assert_eq!(sum, slice.checksum());
            (slice.icmp_type(), length)
        };
        let port = Error::Unreachable { code: code::PORT };
        assert_eq!(read(port, 100), (Icmpv6Type::DestinationUnreachable(Why::Port), 108));
        let too_big = Error::TooBig { mtu: 70000 };
        let expected = Icmpv6Type::PacketTooBig { mtu: 70000 };
        assert_eq!(read(too_big, 1500), (expected, 1280 - 40));
        let expected = Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded);
        assert_eq!(read(Error::TimeExceeded, 48), (expected, 56));
    }

    #[test]
    fn an_error_quotes_the_ip_header_or_is_none() {
        let [from, to] = addresses();
        let mut message = [0; 48];
        let written =
            |message: &mut [u8]| write_error(message, Error::TimeExceeded, &[0x60; 60], from, to);
        assert_eq!(written(&mut message), Some(48));
        assert_eq!(written(&mut message[..47]), None);
        assert_eq!(written(&mut message[..7]), None);
    }

    #[test]
    fn an_echo_keeps_a_right_checksum_under_another_identifier_and_other_addresses() {
        let [from, to] = addresses();
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ipv6(from.bits().to_be_bytes(), to.bits().to_be_bytes(), 64)
            .icmpv6_echo_reply(7, 1)
            .write(&mut bytes, &[1, 2, 3])
            .unwrap();
        let mut echo = Message::read(Family::V6, &mut bytes[40..]).unwrap();
        assert!(echo.checksum_is_right(from, to));
        echo.set_identifier(0xfffe);
        assert_eq!(echo.kind(), Kind::EchoReply { identifier: 0xfffe });
        assert!(echo.checksum_is_right(from, to));
        let other = "2001:db8:ffff::1:2".parse().unwrap();
        echo.addresses_changed(Change::of_addresses(from, other));
        assert!(echo.checksum_is_right(other, to));
        assert!(!echo.checksum_is_right(from, to));
    }

    #[test]
    fn a_quote_that_is_no_ipv6_packet_is_refused() {
        let mut error = [1; 8 + 40];
        let refusal = |bytes: &mut [u8]| Message::read(Family::V6, bytes).unwrap().quoted().err();
        assert_eq!(refusal(&mut error), Some(Malformed::Impossible));
        assert_eq!(refusal(&mut error[..47]), Some(Malformed::Truncated));
    }
}
