//! Generic UDP encapsulation (draft-ietf-intarea-gue-09 section 3, variant 0): an IP packet travels in a UDP
//! datagram behind 4 more bytes, so that routers on the way spread flows by their ports.

use super::{Address, Malformed, checksum, protocol, udp};

/// The port that such datagrams are sent to (IANA).
pub const PORT: u16 = 6080;

/// Length of this header without optional fields, in bytes.
pub const HEADER: usize = 4;

/// Length of the UDP header with this one, in bytes.
pub const HEADERS: usize = udp::HEADER + HEADER;

/// The UDP header and this one in front of a packet of `length` bytes, which is of `protocol`:
/// [`protocol::IPV4`] or [`protocol::IPV6`]. The flow is spread by the source port; the other is the receiver's. There is no UDP
/// checksum, as IPv4 allows; IPv6 needs [`write_checksum`]. `None` if a datagram cannot be so long.
#[inline]
pub fn headers(
    (source_port, port): (u16, u16),
    protocol: u8,
    length: u16,
) -> Option<[u8; HEADERS]> {
    let [from, to] = [source_port, port].map(u16::to_be_bytes);
    let length = length.checked_add(HEADERS as u16)?.to_be_bytes();
    let udp = [from[0], from[1], to[0], to[1], length[0], length[1], 0, 0];
    let mut bytes = [0; HEADERS];
    bytes[..udp::HEADER].copy_from_slice(&udp);
    bytes[udp::HEADER + 1] = protocol; // no variant, no control, no optional fields, no flags
    Some(bytes)
}

/// Writes the UDP checksum of `datagram`, which begins with its UDP header, between two addresses.
#[inline]
pub fn write_checksum(datagram: &mut [u8], source: Address, destination: Address) {
    let Some(field) = datagram.get_mut(6..8) else { return };
    field.fill(0);
    let checksum = checksum::of_transport(source, destination, protocol::UDP, datagram);
    if let Some(field) = datagram.get_mut(6..8) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// What a datagram's payload carries behind its header, and of which protocol it is. Control messages and other
/// variants are refused, optional fields stepped over.
#[inline]
pub fn split(payload: &mut [u8]) -> Result<(u8, &mut [u8]), Malformed> {
    const VARIANT_AND_CONTROL: u8 = 0xe0;
    let (header, rest) = payload.split_first_chunk_mut::<HEADER>().ok_or(Malformed::Truncated)?;
    if header[0] & VARIANT_AND_CONTROL != 0 {
        return Err(Malformed::Impossible);
    }
    let optional = usize::from(header[0] & !VARIANT_AND_CONTROL) * 4;
    let packet = rest.get_mut(optional..).ok_or(Malformed::Truncated)?;
    Ok((header[1], packet))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn written_headers_are_read_by_an_independent_decoder_and_split_off_again(port: u16, inner in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut datagram = headers((port, PORT), protocol::IPV6, inner.len() as u16).unwrap().to_vec();
            datagram.extend(&inner);
            let (read, _) = etherparse::UdpHeader::from_slice(&datagram).unwrap();
            prop_assert_eq!((read.source_port, read.destination_port), (port, 6080));
            prop_assert_eq!((usize::from(read.length), read.checksum), (datagram.len(), 0));
            let [from, to] = ["2001:db8::9", "2001:db8::64"].map(|text| text.parse::<Address>().unwrap());
            write_checksum(&mut datagram, from, to);
            let (read, payload) = etherparse::UdpHeader::from_slice(&datagram).unwrap();
            let addresses = [from, to].map(|address| address.bits().to_be_bytes());
            let sum = read.calc_checksum_ipv6_raw(addresses[0], addresses[1], payload).unwrap();
            prop_assert_eq!(read.checksum, sum);
            let (protocol, packet) = split(&mut datagram[8..]).unwrap();
            prop_assert_eq!((protocol, &*packet), (protocol::IPV6, &inner[..]));
        }

        #[test]
        fn any_bytes_are_split_within_themselves(mut bytes in prop::collection::vec(any::<u8>(), 0..160)) {
            let length = bytes.len();
            let first = bytes.first().copied();
            match split(&mut bytes) {
                Ok((_, packet)) => prop_assert_eq!(packet.len() + 4 + usize::from(first.unwrap()) * 4, length),
                Err(Malformed::Impossible) => prop_assert!(first.unwrap() >= 32),
                Err(Malformed::Truncated) => prop_assert!(length < 4 + usize::from(first.unwrap_or(0)) * 4),
            }
            write_checksum(&mut bytes, Address::default(), Address::default());
        }
    }

    #[test]
    fn a_packet_too_long_for_a_datagram_gets_no_headers() {
        assert!(headers((1024, PORT), protocol::IPV4, u16::MAX - 12).is_some());
        assert!(headers((1024, PORT), protocol::IPV4, u16::MAX - 11).is_none());
    }
}
