//! The Internet checksum (RFC 1071), and how to mend it when a field changes (RFC 1624).

use std::net::Ipv4Addr;

use super::{Address, protocol};

/// The checksum of `bytes`, as it stands in a header whose checksum field was zero. Over bytes that
/// include a right checksum the answer is 0.
#[inline]
pub fn of(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// Whether the checksum in a header of this length is right. In whatever byte order: all ones are all ones in each
/// (RFC 1071 section 2 (B)).
#[inline]
pub fn is_right(header: &[u8; 20]) -> bool {
    let words = header.as_chunks().0.iter();
    fold(words.map(|&word| u64::from(u32::from_ne_bytes(word))).sum()) == 0xffff
}

/// The ones' complement sum of 16-bit big-endian words; an odd last byte counts as the high half.
/// It is taken over 32-bit words in the other byte order, which vectorises everywhere and, folded and
/// swapped, gives the same 16 bits (RFC 1071 section 2 (B) and (C)).
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let whole: u64 = words.iter().map(|&word| halves(u64::from_le_bytes(word))).sum();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, &from)| *to = from);
    u64::from(fold(whole + halves(u64::from_le_bytes(last))).swap_bytes())
}

#[inline]
fn halves(word: u64) -> u64 {
    (word >> 32) + (word & 0xffff_ffff)
}

#[inline]
pub(super) fn fold(sum: u64) -> u16 {
    // 64 bits to 33, to 32 at most, to 17, to 16.
    let sum = halves(halves(sum));
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The sum of the pseudo-header that transport checksums cover: RFC 9293 section 3.1 and RFC 768 for
/// IPv4, RFC 8200 section 8.1 for IPv6. `length` is that of the transport header and its payload.
#[inline]
pub fn pseudo_header(source: Address, destination: Address, protocol: u8, length: u32) -> u64 {
    sum_of_address(source) + sum_of_address(destination) + u64::from(protocol) + u64::from(length)
}

/// The checksum of `segment` (transport header and payload, the checksum field zero) between two addresses of
/// one family, as it is written: UDP's is never 0, because that would say that there is none (RFC 768).
#[inline]
pub fn of_transport(source: Address, destination: Address, protocol: u8, segment: &[u8]) -> u16 {
    match !sum_of_transport(source, destination, protocol, segment) {
        0 if protocol == protocol::UDP => 0xffff,
        checksum => checksum,
    }
}

/// Whether `segment` (transport header and payload) includes a right checksum. UDP over IPv4 may do without
/// (RFC 768), over IPv6 it may not (RFC 8200 section 8.1).
#[inline]
pub fn transport_is_right(
    source: Address,
    destination: Address,
    protocol: u8,
    segment: &[u8],
) -> bool {
    if protocol == protocol::UDP
        && let [_, _, _, _, _, _, 0, 0, ..] = segment
    {
        return source.is_v4();
    }
    sum_of_transport(source, destination, protocol, segment) == 0xffff
}

#[inline]
fn sum_of_transport(source: Address, destination: Address, protocol: u8, segment: &[u8]) -> u16 {
    fold(pseudo_header(source, destination, protocol, segment.len() as u32) + sum(segment))
}

/// The bits above a mapped IPv4 address are not on the wire, so they do not count.
#[inline]
fn sum_of_address(address: Address) -> u64 {
    if address.is_v4() {
        return u64::from(address.low());
    }
    halves((address.bits() >> 64) as u64) + halves(address.bits() as u64)
}

/// What changed under a checksum: the sum of `~old + new` over the changed words, which is
/// equation 3 of RFC 1624 (the one that is right when the sum becomes zero).
#[derive(Debug, Clone, Copy, Default)]
pub struct Change(u64);

impl Change {
    /// One address became another.
    #[inline]
    pub fn of_address(from: Ipv4Addr, to: Ipv4Addr) -> Self {
        Self::words32(from.to_bits(), to.to_bits())
    }

    /// One address became another of the same family.
    #[inline]
    pub fn of_addresses(from: Address, to: Address) -> Self {
        if from.is_v4() {
            return Self::words32(from.low(), to.low());
        }
        let [old, new] = [!from.bits(), to.bits()];
        let sum = |bits: u128| halves((bits >> 64) as u64) + halves(bits as u64);
        Self(sum(old) + sum(new))
    }

    /// Two words that lie together, such as a sequence number, became others.
    #[inline]
    pub fn words32(from: u32, to: u32) -> Self {
        Self(u64::from(!from) + u64::from(to))
    }

    /// And one word, such as a port, became another.
    #[inline]
    pub fn word(self, from: u16, to: u16) -> Self {
        Self(self.0 + u64::from(!from) + u64::from(to))
    }

    /// And all that `other` says.
    #[inline]
    pub fn and(self, other: Change) -> Self {
        Self(self.0 + other.0)
    }

    /// The same change where the bytes lie one off the 16-bit words (RFC 1071 section 2 (B)).
    #[inline]
    pub fn at_odd_offset(self) -> Self {
        Self(u64::from(fold(self.0).swap_bytes()))
    }

    /// The checksum after the change.
    #[inline]
    pub fn mend(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        assert_eq!(of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_mends_to_zero() {
        // Section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285.
        assert_eq!(Change::default().word(0x5555, 0x3285).mend(0xdd2f), 0x0000);
    }

    /// The obvious way: RFC 1071 section 4.1.
    fn simple(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// Two addresses of one family.
    fn addresses() -> impl Strategy<Value = (Address, Address)> {
        let v4 = any::<(u32, u32)>().prop_map(|(from, to)| {
            (Ipv4Addr::from_bits(from).into(), Ipv4Addr::from_bits(to).into())
        });
        let v6 = any::<(u128, u128)>()
            .prop_map(|(from, to)| (Address::from_bits(from), Address::from_bits(to)));
        prop_oneof![v4, v6]
    }

    fn on_the_wire(address: Address) -> Vec<u8> {
        match address.v4() {
            Some(address) => address.octets().to_vec(),
            None => address.bits().to_be_bytes().to_vec(),
        }
    }

    #[test]
    fn the_longest_sum_of_all_ones_folds_to_what_the_simple_one_does() {
        let ones = vec![0xff; 65535];
        assert_eq!(of(&ones), simple(&ones));
    }

    #[test]
    fn udp_without_a_checksum_is_right_over_ipv4_alone() {
        let right = |address: &str| {
            let address = address.parse().unwrap();
            transport_is_right(address, address, protocol::UDP, &[0, 1, 0, 2, 0, 8, 0, 0])
        };
        assert!(right("10.0.0.7") && !right("2001:db8::7"));
    }

    #[test]
    fn a_udp_checksum_of_zero_is_written_as_all_ones() {
        let address = Address::from(Ipv4Addr::new(0, 0, 0, 0));
        // 17 + 8 + 8 + 0xffde = 0xffff.
        let mut datagram = [0xff, 0xde, 0, 0, 0, 8, 0, 0];
        assert_eq!(of_transport(address, address, protocol::UDP, &datagram), 0xffff);
        datagram[6..].fill(0xff);
        assert!(transport_is_right(address, address, protocol::UDP, &datagram));
    }

    proptest! {
        #[test]
        fn wide_words_sum_to_what_narrow_ones_do(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..200)) {
            prop_assert_eq!(of(&bytes), simple(&bytes));
        }

        #[test]
        fn a_transport_checksum_is_that_of_an_independent_encoder((source, destination) in addresses(), udp in any::<bool>(), payload in prop::collection::vec(any::<u8>(), 0..100)) {
            use etherparse::PacketBuilder;
            let (from, to) = (on_the_wire(source), on_the_wire(destination));
            let builder = match (<[u8; 4]>::try_from(&from[..]), <[u8; 4]>::try_from(&to[..])) {
                (Ok(from), Ok(to)) => PacketBuilder::ipv4(from, to, 64),
                _ => PacketBuilder::ipv6(from.try_into().unwrap(), to.try_into().unwrap(), 64),
            };
            let mut bytes = Vec::new();
            let protocol = if udp {
                builder.udp(53, 1053).write(&mut bytes, &payload).unwrap();
                protocol::UDP
            } else {
                builder.tcp(80, 1080, 7, 9).write(&mut bytes, &payload).unwrap();
                protocol::TCP
            };
            let segment = &mut bytes[if source.is_v4() { 20 } else { 40 }..];
            prop_assert!(transport_is_right(source, destination, protocol, segment));
            let at = if udp { 6 } else { 16 };
            let written = u16::from_be_bytes([segment[at], segment[at + 1]]);
            segment[at..at + 2].fill(0);
            prop_assert_eq!(of_transport(source, destination, protocol, segment), written);
        }

        #[test]
        fn a_change_of_addresses_and_words_mends_as_a_fresh_checksum_says((from, to) in addresses(), (sequence, next) in any::<(u32, u32)>(), (port, other) in any::<(u16, u16)>(), rest in any::<[u8; 20]>()) {
            let bytes = |address, sequence: u32, port: u16| {
                [&on_the_wire(address)[..], &sequence.to_be_bytes(), &port.to_be_bytes(), &rest, &[0x45, 0]].concat()
            };
            let change = Change::of_addresses(from, to)
                .and(Change::words32(sequence, next))
                .word(port, other);
            let mended = change.mend(of(&bytes(from, sequence, port)));
            prop_assert_eq!(mended, of(&bytes(to, next, other)));
        }

        #[test]
        fn a_change_at_an_odd_offset_mends_as_a_fresh_checksum_says(from: u16, to: u16, last: u8) {
            let bytes = |word: u16| [&[0x45][..], &word.to_be_bytes(), &[last]].concat();
            let change = Change::default().word(from, to).at_odd_offset();
            prop_assert_eq!(change.mend(of(&bytes(from))), of(&bytes(to)));
        }

        #[test]
        fn a_mended_checksum_verifies_as_a_fresh_one_does(mut bytes in prop::collection::vec(any::<u8>(), 12..200), new: u32, at in 1usize..3) {
            bytes[0] = 0x45; // never all zeroes, as no header is
            bytes[2..4].fill(0);
            let checksum = of(&bytes);
            bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
            let field = at * 4..at * 4 + 4;
            let old = Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[field.clone()]).unwrap());
            let new = Ipv4Addr::from(new);
            bytes[field].copy_from_slice(&new.octets());
            let mended = Change::of_address(old, new).mend(checksum);
            bytes[2..4].copy_from_slice(&mended.to_be_bytes());
            prop_assert_eq!(of(&bytes), 0);
        }
    }
}
