//! IPv4 (RFC 791 section 3.1).

use std::net::Ipv4Addr;

use super::checksum::{self, Change};
use super::options::Options;
use super::{Address, Malformed};

pub use super::protocol;

/// Length of a header without options, in bytes.
pub const HEADER: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// The bits that only a fragment has set.
pub const MORE_OR_LATER: u16 = MORE_FRAGMENTS | OFFSET;

/// Which part of a packet this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Where this part belongs, in units of 8 bytes.
    pub offset: u16,
    /// Whether others follow it.
    pub more: bool,
    /// What the parts of one packet have in common.
    pub identification: u16,
}

/// An IPv4 header, read and written where it lies. Options are stepped over.
pub struct Ipv4<'p> {
    fixed: &'p mut [u8; HEADER],
    options: &'p mut [u8],
}

impl<'p> Ipv4<'p> {
    /// Splits the header off `packet`, and cuts the payload to the length that the header gives:
    /// the one place where the lengths are checked. What follows the packet (Ethernet's padding)
    /// is left out.
    #[inline]
    pub fn split(packet: &'p mut [u8]) -> Result<(Self, &'p mut [u8]), Malformed> {
        let available = packet.len();
        let (fixed, rest) = packet.split_first_chunk_mut::<HEADER>().ok_or(Malformed::Truncated)?;
        let header = usize::from(fixed[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if fixed[0] >> 4 != 4 || header < HEADER || total < header {
            return Err(Malformed::Impossible);
        }
        if total > available {
            return Err(Malformed::Truncated);
        }
        let (options, payload) = rest[..total - HEADER]
            .split_at_mut_checked(header - HEADER)
            .ok_or(Malformed::Truncated)?;
        Ok((Self { fixed, options }, payload))
    }

    /// Length of the header with its options, in bytes: 20 to 60.
    #[inline]
    pub fn length(&self) -> usize {
        HEADER + self.options.len()
    }

    /// Length of the packet with its header, in bytes.
    #[inline]
    pub fn total_length(&self) -> u16 {
        self.word(2)
    }

    /// Type of service: differentiated services and congestion notification (RFC 2474, RFC 3168).
    #[inline]
    pub fn type_of_service(&self) -> u8 {
        self.fixed[1]
    }

    /// Whether routers must not fragment the packet.
    #[inline]
    pub fn must_not_be_fragmented(&self) -> bool {
        self.word(6) & DONT_FRAGMENT != 0
    }

    /// Whether this is a part of a packet only.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.word(6) & MORE_OR_LATER != 0
    }

    /// Which part of a packet this is; `None` for a whole one.
    #[inline]
    pub fn fragment(&self) -> Option<Fragment> {
        let field = self.word(6);
        self.is_fragment().then(|| Fragment {
            offset: field & OFFSET,
            more: field & MORE_FRAGMENTS != 0,
            identification: self.identification(),
        })
    }

    /// Tells the fragments of different packets apart.
    #[inline]
    pub fn identification(&self) -> u16 {
        self.word(4)
    }

    /// How many more routers may pass the packet on, this one included.
    #[inline]
    pub fn time_to_live(&self) -> u8 {
        self.fixed[8]
    }

    /// Whether the sender chose the way, loosely or strictly (RFC 791 section 3.1).
    #[inline]
    pub fn source_routed(&self) -> bool {
        const LOOSE: u8 = 131;
        const STRICT: u8 = 137;
        !self.options.is_empty()
            && Options::of(self.options).any(|option| matches!(option.kind, LOOSE | STRICT))
    }

    /// What the payload is: one of [`protocol`].
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.fixed[9]
    }

    /// Who sent it.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        let [.., a, b, c, d, _, _, _, _] = *self.fixed;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Whom it is for.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        let [.., a, b, c, d] = *self.fixed;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Who sent it, in the form that both families share.
    #[inline]
    pub fn source_address(&self) -> Address {
        self.source().into()
    }

    /// Whom it is for, in the form that both families share.
    #[inline]
    pub fn destination_address(&self) -> Address {
        self.destination().into()
    }

    /// Whether the header's checksum is right.
    #[inline]
    pub fn checksum_is_right(&self) -> bool {
        if self.options.is_empty() {
            return checksum::is_right(self.fixed);
        }
        // Both halves are whole words, so their sums add up; ones' complement of each is undone.
        let halves =
            [checksum::of(self.fixed), checksum::of(self.options)].map(|half| u32::from(!half));
        let sum = halves[0] + halves[1];
        (sum & 0xffff) + (sum >> 16) == 0xffff
    }

    /// Replaces both addresses and mends the checksum; gives what changed.
    #[inline]
    pub fn set_addresses(&mut self, source: Ipv4Addr, destination: Ipv4Addr) -> Change {
        let change = Change::of_address(self.source(), source)
            .and(Change::of_address(self.destination(), destination));
        self.mend(change);
        self.fixed[12..16].copy_from_slice(&source.octets());
        self.fixed[16..].copy_from_slice(&destination.octets());
        change
    }

    /// Replaces the type of service and mends the checksum.
    #[inline]
    pub fn set_type_of_service(&mut self, to: u8) {
        self.set_word(0, u16::from_be_bytes([self.fixed[0], to]));
    }

    /// Replaces the length of the packet and mends the checksum; the payload stays where it is.
    #[inline]
    pub fn set_total_length(&mut self, to: u16) {
        self.set_word(2, to);
    }

    /// Replaces what tells the fragments of different packets apart, and mends the checksum.
    #[inline]
    pub fn set_identification(&mut self, to: u16) {
        self.set_word(4, to);
    }

    /// Replaces how many more routers may pass the packet on, and mends the checksum.
    #[inline]
    pub fn set_time_to_live(&mut self, to: u8) {
        self.set_word(8, u16::from_be_bytes([to, self.fixed[9]]));
    }

    /// Takes one off the time to live, mends the checksum, and gives what is left. 0 stays 0.
    #[inline]
    pub fn decrement_time_to_live(&mut self) -> u8 {
        let left = self.time_to_live().saturating_sub(1);
        self.set_time_to_live(left);
        left
    }

    #[inline]
    fn set_word(&mut self, at: usize, to: u16) {
        self.mend(Change::default().word(self.word(at), to));
        self.fixed[at..at + 2].copy_from_slice(&to.to_be_bytes());
    }

    #[inline]
    fn mend(&mut self, change: Change) {
        let mended = change.mend(self.word(10)); // RFC 1624: mended, not recomputed
        self.fixed[10..12].copy_from_slice(&mended.to_be_bytes());
    }

    #[inline]
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.fixed[at], self.fixed[at + 1]])
    }
}

/// What a new header says.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// Differentiated services and congestion notification.
    pub type_of_service: u8,
    /// Length of the packet with its header, in bytes.
    pub total_length: u16,
    /// Tells the fragments of different packets apart.
    pub identification: u16,
    /// Whether routers must not fragment it.
    pub dont_fragment: bool,
    /// One of [`protocol`].
    pub protocol: u8,
    /// Who sends it.
    pub source: Ipv4Addr,
    /// Whom it is for.
    pub destination: Ipv4Addr,
}

/// The time to live of packets that we make ourselves (RFC 1700).
pub const TIME_TO_LIVE: u8 = 64;

impl Header {
    /// The header's bytes, with a right checksum.
    #[inline]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = 0x45;
        bytes[1] = self.type_of_service;
        bytes[2..4].copy_from_slice(&self.total_length.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.identification.to_be_bytes());
        let flags = if self.dont_fragment { DONT_FRAGMENT } else { 0 };
        bytes[6..8].copy_from_slice(&flags.to_be_bytes());
        bytes[8] = TIME_TO_LIVE;
        bytes[9] = self.protocol;
        bytes[12..16].copy_from_slice(&self.source.octets());
        bytes[16..].copy_from_slice(&self.destination.octets());
        let checksum = checksum::of(&bytes);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

/// Makes `header` (a whole header, options included) that of a fragment: `offset` in units of
/// 8 bytes, `more` if others follow, `total` the fragment's length with its header.
pub fn write_fragment(header: &mut [u8], offset: u16, more: bool, total: u16) {
    let flags = offset & OFFSET | if more { MORE_FRAGMENTS } else { 0 };
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[6..8].copy_from_slice(&flags.to_be_bytes());
    header[10..12].fill(0);
    let checksum = checksum::of(header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Takes those options out that belong in the first fragment alone (RFC 791 section 3.1, "copied"), and
/// leaves "no operation" in their place. Options that make no sense stay as they are.
pub fn keep_copied_options(mut options: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    while let [kind, rest @ ..] = &*options {
        let length = match (*kind, rest.first()) {
            (END, _) => return,
            (NO_OPERATION, _) => 1,
            (_, Some(&length)) if length >= 2 => usize::from(length),
            _ => return,
        };
        let copied = *kind & COPIED != 0;
        let Some((option, others)) = std::mem::take(&mut options).split_at_mut_checked(length)
        else {
            return;
        };
        if !copied {
            option.fill(NO_OPERATION);
        }
        options = others;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(total_length: u16) -> Vec<u8> {
        let header = Header {
            type_of_service: 0,
            total_length,
            identification: 7,
            dont_fragment: true,
            protocol: protocol::TCP,
            source: Ipv4Addr::new(192, 0, 2, 9),
            destination: Ipv4Addr::new(10, 0, 0, 100),
        };
        header.to_bytes().to_vec()
    }

    #[test]
    fn a_written_header_is_read_back_by_an_independent_decoder() {
        let bytes = header(20);
        let (read, _) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
        assert_eq!(read.header_checksum, read.calc_header_checksum());
        assert_eq!((read.source, read.destination), ([192, 0, 2, 9], [10, 0, 0, 100]));
        assert!(read.dont_fragment && !read.more_fragments);
    }

    #[test]
    fn padding_behind_the_packet_is_not_payload() {
        let mut bytes = header(24);
        bytes.extend([1, 2, 3, 4, 0, 0, 0, 0]);
        let (header, payload) = Ipv4::split(&mut bytes).unwrap();
        assert!(header.checksum_is_right());
        assert_eq!(payload, [1, 2, 3, 4]);
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        let truncated = |bytes: &mut [u8]| Ipv4::split(bytes).err();
        assert_eq!(truncated(&mut header(20)[..19]), Some(Malformed::Truncated));
        assert_eq!(truncated(&mut header(21)), Some(Malformed::Truncated));
        assert_eq!(truncated(&mut header(19)), Some(Malformed::Impossible));
        let mut version = header(20);
        version[0] = 0x65;
        assert_eq!(truncated(&mut version), Some(Malformed::Impossible));
        let mut short = header(20);
        short[0] = 0x44;
        assert_eq!(truncated(&mut short), Some(Malformed::Impossible));
        let mut long = header(20);
        long[0] = 0x46;
        assert_eq!(truncated(&mut long), Some(Malformed::Impossible));
    }

    #[test]
    fn options_are_stepped_over_and_counted_in_the_checksum() {
        let mut bytes = header(28);
        bytes[0] = 0x46;
        bytes.extend([1, 1, 1, 0, 9, 9, 9, 9]);
        bytes[10..12].fill(0);
        let checksum = checksum::of(&bytes[..24]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        let (mut header, payload) = Ipv4::split(&mut bytes).unwrap();
        assert_eq!(header.length(), 24);
        assert_eq!(payload, [9; 4]);
        assert!(header.checksum_is_right());
        header.set_addresses(Ipv4Addr::BROADCAST, Ipv4Addr::new(172, 16, 0, 1));
        assert!(header.checksum_is_right());
    }

    #[test]
    fn a_flipped_bit_makes_the_checksum_wrong() {
        let mut bytes = header(20);
        bytes[8] ^= 1;
        assert!(!Ipv4::split(&mut bytes).unwrap().0.checksum_is_right());
    }

    #[test]
    fn options_of_any_shape_are_walked_to_their_end_and_no_further() {
        let kept = |options: &[u8]| {
            let mut options = options.to_vec();
            keep_copied_options(&mut options);
            options
        };
        assert_eq!(kept(&[7, 3, 4, 148, 4, 0, 0, 0]), [1, 1, 1, 148, 4, 0, 0, 0]);
        assert_eq!(kept(&[1, 0, 7, 3]), [1, 0, 7, 3], "nothing follows the end");
        for senseless in [&[7][..], &[7, 0], &[7, 1, 0, 0], &[7, 9, 0, 0], &[]] {
            assert_eq!(kept(senseless), senseless);
        }
    }

    #[test]
    fn both_source_routes_are_seen_wherever_they_stand() {
        let source_routed = |options: [u8; 8]| {
            let mut bytes = header(28);
            bytes[0] = 0x47;
            bytes.extend(options);
            Ipv4::split(&mut bytes).unwrap().0.source_routed()
        };
        assert!(source_routed([131, 7, 4, 10, 0, 0, 7, 0]));
        assert!(source_routed([1, 137, 7, 4, 10, 0, 0, 7]));
        assert!(!source_routed([7, 7, 4, 10, 0, 0, 131, 137]));
        assert!(!source_routed([0, 131, 7, 4, 10, 0, 0, 7]), "nothing follows the end");
        assert!(!Ipv4::split(&mut header(20)).unwrap().0.source_routed());
    }

    #[test]
    fn a_part_of_a_packet_says_which() {
        let mut bytes = header(20);
        assert_eq!(Ipv4::split(&mut bytes).unwrap().0.fragment(), None);
        write_fragment(&mut bytes, 185, true, 20);
        let (ip, _) = Ipv4::split(&mut bytes).unwrap();
        let expected = Fragment { offset: 185, more: true, identification: 7 };
        assert_eq!(ip.fragment(), Some(expected));
    }

    #[test]
    fn a_time_to_live_of_zero_is_not_taken_from() {
        let mut bytes = header(20);
        let (mut ip, _) = Ipv4::split(&mut bytes).unwrap();
        assert_eq!(ip.decrement_time_to_live(), TIME_TO_LIVE - 1);
        ip.set_time_to_live(1);
        assert_eq!([ip.decrement_time_to_live(), ip.decrement_time_to_live()], [0, 0]);
        assert!(ip.checksum_is_right());
    }

    proptest! {
        #[test]
        fn whatever_is_set_is_read_back_by_an_independent_decoder(service: u8, length: u16, identification: u16, live: u8, addresses: [u32; 2]) {
            let mut bytes = header(20);
            let (mut ip, _) = Ipv4::split(&mut bytes).unwrap();
            ip.set_type_of_service(service);
            ip.set_total_length(length);
            ip.set_identification(identification);
            ip.set_time_to_live(live);
            let [source, destination] = addresses.map(Ipv4Addr::from_bits);
            ip.set_addresses(source, destination);
            prop_assert!(ip.checksum_is_right());
            prop_assert_eq!(ip.source_address(), Ipv4Addr::from_bits(addresses[0]).into());
            prop_assert_eq!(ip.destination_address(), Ipv4Addr::from_bits(addresses[1]).into());
            let (read, _) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
            prop_assert_eq!((read.total_len, read.identification, read.time_to_live), (length, identification, live));
            prop_assert_eq!(read.dscp.value() << 2 | read.ecn.value(), service);
            prop_assert_eq!(read.header_checksum, read.calc_header_checksum());
        }
    }
}
