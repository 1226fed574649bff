//! TCP (RFC 9293 section 3.1).

use arrayvec::ArrayVec;

use super::checksum::{self, Change};
use super::options::Options;
use super::{Address, Malformed, protocol};

/// Length of a header without options, in bytes.
pub const HEADER: usize = 20;

/// The longest header that [`Header::to_bytes`] writes.
pub const LONGEST_WRITTEN: usize = 40;

/// What a segment may carry if the other end says nothing: RFC 9293 section 3.7.1, over IPv4.
pub const DEFAULT_MSS_V4: u16 = 536;

/// What a segment may carry if the other end says nothing: RFC 9293 section 3.7.1, over IPv6.
pub const DEFAULT_MSS_V6: u16 = 1220;

/// The kinds of options that are read and written here (IANA, TCP Parameters).
mod option {
    pub const MSS: u8 = 2;
    pub const WINDOW_SCALE: u8 = 3;
    pub const SACK_PERMITTED: u8 = 4;
    pub const SACK: u8 = 5;
    pub const TIMESTAMPS: u8 = 8;
    pub const NO_OPERATION: u8 = 1;
}

/// The control bits that forwarding looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Here begin the sender's sequence numbers.
    pub const SYN: u8 = 0x02;
    /// There is no such connection.
    pub const RST: u8 = 0x04;
    /// Hand the data over at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;

    /// The first packet of a connection: SYN without ACK.
    #[inline]
    pub fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN
    }

    /// The answer to the first packet of a connection: SYN with ACK.
    #[inline]
    pub fn accepts(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN | Self::ACK
    }

    /// A packet that ends a connection, or one direction of it: FIN or RST.
    #[inline]
    pub fn closes(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }

    /// Whether SYN is set, be it with ACK or without.
    #[inline]
    pub fn synchronises(self) -> bool {
        self.0 & Self::SYN != 0
    }

    /// Whether FIN is set: the sender has no more data.
    #[inline]
    pub fn finishes(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// Whether RST is set: the connection is over at once.
    #[inline]
    pub fn resets(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// Whether ACK is set: the acknowledgement number counts.
    #[inline]
    pub fn acknowledges(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// Whether no TCP sends these together (RFC 9293 section 3.10); scanners do.
    ///
    /// - Two of SYN, FIN and RST: a connection that begins, ends and was never there.
    /// - None of SYN, RST and ACK: only a connection's first segment goes without ACK, and a reset may.
    ///   So do null scans (no bit at all), FIN scans (FIN alone) and Xmas scans (FIN, PSH and URG).
    #[inline]
    pub fn is_impossible(self) -> bool {
        let verbs = self.0 & (Self::SYN | Self::FIN | Self::RST);
        verbs & verbs.wrapping_sub(1) != 0 || self.0 & (Self::SYN | Self::RST | Self::ACK) == 0
    }
}

/// The clocks that both ends send along (RFC 7323 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamps {
    /// The sender's.
    pub value: u32,
    /// The last one that the sender got from the other end.
    pub echo: u32,
}

/// What one end offers in its SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offers {
    /// The most bytes that a segment to it may carry (RFC 9293 section 3.7.1).
    pub mss: Option<u16>,
    /// How far its windows are to be shifted to the left (RFC 7323 section 2): at most 14.
    pub window_scale: Option<u8>,
    /// Whether it understands selective acknowledgements (RFC 2018).
    pub selective_acknowledgements: bool,
    /// Its clock.
    pub timestamps: Option<Timestamps>,
}

/// A TCP header, read and written where it lies.
pub struct Tcp<'p> {
    fixed: &'p mut [u8; HEADER],
    options: &'p mut [u8],
}

impl<'p> Tcp<'p> {
    /// Splits the header off a packet's payload. The data offset is checked to lie within it.
    #[inline]
    pub fn split(payload: &'p mut [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) =
            payload.split_first_chunk_mut::<HEADER>().ok_or(Malformed::Truncated)?;
        let length = usize::from(fixed[12] >> 4) * 4;
        let options = length.checked_sub(HEADER).ok_or(Malformed::Impossible)?;
        let options = rest.get_mut(..options).ok_or(Malformed::Truncated)?;
        Ok(Self { fixed, options })
    }

    /// Length of the header with its options, in bytes (20 to 60): where the data begins.
    #[inline]
    pub fn length(&self) -> usize {
        HEADER + self.options.len()
    }

    /// The sender's port.
    #[inline]
    pub fn source(&self) -> u16 {
        self.word(0)
    }

    /// The receiver's port.
    #[inline]
    pub fn destination(&self) -> u16 {
        self.word(2)
    }

    /// The control bits.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.fixed[13])
    }

    /// Replaces both ports; `addresses` is what changed in the pseudo-header.
    #[inline]
    pub fn set_ports(&mut self, source: u16, destination: u16, addresses: Change) {
        let ports = [source, destination].map(u16::to_be_bytes);
        let change = addresses.word(self.source(), source).word(self.destination(), destination);
        self.mend(change);
        self.fixed[..4].copy_from_slice(ports.as_flattened());
    }

    /// Something changed in the pseudo-header alone.
    #[inline]
    pub fn addresses_changed(&mut self, addresses: Change) {
        self.mend(addresses);
    }

    /// The number of the first byte of data, or of the SYN.
    #[inline]
    pub fn sequence(&self) -> u32 {
        self.double_word(4)
    }

    /// The number of the byte that the sender waits for, if [`Flags::acknowledges`].
    #[inline]
    pub fn acknowledgement(&self) -> u32 {
        self.double_word(8)
    }

    /// How many bytes the sender has room for, to be scaled as its SYN said.
    #[inline]
    pub fn window(&self) -> u16 {
        self.word(14)
    }

    /// Replaces the sequence number and mends the checksum.
    #[inline]
    pub fn set_sequence(&mut self, to: u32) {
        self.mend(Change::words32(self.sequence(), to));
        self.fixed[4..8].copy_from_slice(&to.to_be_bytes());
    }

    /// Replaces the acknowledgement number and mends the checksum.
    #[inline]
    pub fn set_acknowledgement(&mut self, to: u32) {
        self.mend(Change::words32(self.acknowledgement(), to));
        self.fixed[8..12].copy_from_slice(&to.to_be_bytes());
    }

    /// Replaces the window and mends the checksum.
    #[inline]
    pub fn set_window(&mut self, to: u16) {
        self.mend(Change::default().word(self.window(), to));
        self.fixed[14..16].copy_from_slice(&to.to_be_bytes());
    }

    /// The options in order, up to the first that makes no sense.
    #[inline]
    pub fn options(&self) -> Options<'_> {
        Options::of(self.options)
    }

    /// What the sender of a SYN offers. An option of another length than it should have is none.
    pub fn offers(&self) -> Offers {
        let mut offers = Offers::default();
        for entry in self.options() {
            match (entry.kind, entry.value) {
                (option::MSS, &[high, low]) => offers.mss = Some(u16::from_be_bytes([high, low])),
                (option::WINDOW_SCALE, &[shift]) => offers.window_scale = Some(shift.min(14)),
                (option::SACK_PERMITTED, []) => offers.selective_acknowledgements = true,
                (option::TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                    let value = u32::from_be_bytes([a, b, c, d]);
                    let echo = u32::from_be_bytes([e, f, g, h]);
                    offers.timestamps = Some(Timestamps { value, echo });
                }
                _ => {}
            }
        }
        offers
    }

    /// Lowers the maximum segment size that a SYN offers to `most` and mends the checksum; says whether it did.
    /// One that offers none is left alone: the default for that is less than any link carries.
    pub fn clamp_mss(&mut self, most: u16) -> bool {
        let mut lowered = false;
        // Only hostile SYNs offer two, but which of them the other end believes is not for us to guess.
        while self.flags().synchronises()
            && let Some((at, offered)) = self.mss_above(most)
        {
            self.replace_option_word(at, offered, most);
            lowered = true;
        }
        lowered
    }

    /// Adds `by` to every edge of the blocks that are selectively acknowledged (RFC 2018 section 3), as the other
    /// end needs it where its sequence numbers differ by so much, and mends the checksum.
    pub fn shift_selective_acknowledgements(&mut self, by: u32) {
        let mut edges = ArrayVec::<(usize, u32), 10>::new(); // 40 bytes hold no more
        for entry in self.options().filter(|entry| entry.kind == option::SACK) {
            let (words, _) = entry.value.as_chunks::<4>();
            for (index, &word) in words.iter().enumerate() {
                let _ = edges.try_push((entry.at + index * 4, u32::from_be_bytes(word)));
            }
        }
        for (at, edge) in edges {
            let to = edge.wrapping_add(by);
            self.replace_option_word(at, (edge >> 16) as u16, (to >> 16) as u16);
            self.replace_option_word(at + 2, edge as u16, to as u16);
        }
    }

    fn mss_above(&self, most: u16) -> Option<(usize, u16)> {
        self.options().find_map(|entry| match (entry.kind, entry.value) {
            (option::MSS, &[high, low]) => {
                let offered = u16::from_be_bytes([high, low]);
                (offered > most).then_some((entry.at, offered))
            }
            _ => None,
        })
    }

    fn replace_option_word(&mut self, at: usize, from: u16, to: u16) {
        let Some(field) = self.options.get_mut(at..at + 2) else { return };
        field.copy_from_slice(&to.to_be_bytes());
        let change = Change::default().word(from, to);
        // The fixed header is an even number of bytes long, so the option is as odd as its offset.
        self.mend(if at.is_multiple_of(2) { change } else { change.at_odd_offset() });
    }

    #[inline]
    fn mend(&mut self, change: Change) {
        let mended = change.mend(self.word(16));
        self.fixed[16..18].copy_from_slice(&mended.to_be_bytes());
    }

    #[inline]
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.fixed[at], self.fixed[at + 1]])
    }

    #[inline]
    fn double_word(&self, at: usize) -> u32 {
        u32::from(self.word(at)) << 16 | u32::from(self.word(at + 2))
    }
}

/// What a new segment without data says, such as a reset or the answer to a SYN.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// Who sends it.
    pub source: Address,
    /// The sender's port.
    pub source_port: u16,
    /// Whom it is for: of the same family as the source.
    pub destination: Address,
    /// The receiver's port.
    pub destination_port: u16,
    /// The number of the SYN, or of the next byte.
    pub sequence: u32,
    /// The number of the byte that is waited for.
    pub acknowledgement: u32,
    /// The control bits.
    pub flags: Flags,
    /// How many bytes there is room for.
    pub window: u16,
    /// What a SYN offers; for any other segment nothing but, perhaps, timestamps.
    pub offers: Offers,
}

impl Header {
    /// The segment's bytes, with a right checksum.
    pub fn to_bytes(self) -> ArrayVec<u8, LONGEST_WRITTEN> {
        let mut bytes = ArrayVec::new();
        let mut write = |some: &[u8]| {
            // Written are 20 bytes, and options of 4 + 4 + 4 + 8 at the most.
            let _ = bytes.try_extend_from_slice(some);
        };
        write(&self.source_port.to_be_bytes());
        write(&self.destination_port.to_be_bytes());
        write(&self.sequence.to_be_bytes());
        write(&self.acknowledgement.to_be_bytes());
        write(&[0, self.flags.0]);
        write(&self.window.to_be_bytes());
        write(&[0; 4]); // checksum, urgent pointer
        if let Some(mss) = self.offers.mss {
            write(&[option::MSS, 4]);
            write(&mss.to_be_bytes());
        }
        if let Some(shift) = self.offers.window_scale {
            write(&[option::NO_OPERATION, option::WINDOW_SCALE, 3, shift]);
        }
        match (self.offers.selective_acknowledgements, self.offers.timestamps) {
            (false, None) => {}
            (true, _) => write(&[option::SACK_PERMITTED, 2]),
            (false, Some(_)) => write(&[option::NO_OPERATION; 2]),
        }
        match self.offers.timestamps {
            Some(Timestamps { value, echo }) => {
                write(&[option::TIMESTAMPS, 10]);
                write(&value.to_be_bytes());
                write(&echo.to_be_bytes());
            }
            None if self.offers.selective_acknowledgements => write(&[option::NO_OPERATION; 2]),
            None => {}
        }
        bytes[12] = (bytes.len() as u8 / 4) << 4;
        let checksum = checksum::of_transport(self.source, self.destination, protocol::TCP, &bytes);
        bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_data_offset_outside_the_segment_is_refused() {
        let refusal = |offset: u8| {
            let mut segment = [0; 24];
            segment[12] = offset << 4;
            Tcp::split(&mut segment).err()
        };
        assert_eq!(refusal(4), Some(Malformed::Impossible));
        assert_eq!(refusal(5), None);
        assert_eq!(refusal(6), None);
        assert_eq!(refusal(7), Some(Malformed::Truncated));
        assert_eq!(Tcp::split(&mut [0x50; 19]).err(), Some(Malformed::Truncated));
    }

    const CLIENT: [u8; 4] = [192, 0, 2, 9];
    const SERVICE: [u8; 4] = [10, 0, 0, 100];

    /// A segment with these options, written by an independent encoder.
    fn segment(options: &[u8], flags: Flags, data: &[u8]) -> Vec<u8> {
        let mut header = etherparse::TcpHeader::new(1024, 80, 0x0102_0304, 512);
        header.set_options_raw(options).unwrap();
        header.syn = flags.synchronises();
        header.ack = flags.acknowledges();
        header.checksum = header.calc_checksum_ipv4_raw(CLIENT, SERVICE, data).unwrap();
        [&header.to_bytes()[..], data].concat()
    }

    fn is_right(segment: &[u8]) -> bool {
        let [from, to] = [CLIENT, SERVICE].map(|address| std::net::Ipv4Addr::from(address).into());
        checksum::transport_is_right(from, to, protocol::TCP, segment)
    }

    const SYN: Flags = Flags(Flags::SYN);

    #[test]
    fn the_scans_that_everybody_knows_are_impossible_and_real_segments_are_not() {
        for bits in 0..=0xffu8 {
            let has = |flag| bits & flag != 0;
            let (fin, syn, rst, ack) =
                (has(Flags::FIN), has(Flags::SYN), has(Flags::RST), has(Flags::ACK));
            let reasons = [syn && fin, syn && rst, fin && rst, fin && !ack, !syn && !ack && !rst];
            let expected = reasons.contains(&true);
            assert_eq!(Flags(bits).is_impossible(), expected, "{bits:#04x}");
        }
    }

    #[test]
    fn a_maximum_segment_size_is_lowered_wherever_it_stands_and_the_checksum_mended() {
        for options in [
            &[2, 4, 5, 180][..],
            &[1, 2, 4, 5, 180, 0],
            &[4, 2, 3, 3, 7, 2, 4, 5, 180, 1, 1, 1],
            &[2, 4, 5, 180, 1, 2, 4, 0xff, 0xff, 1, 1, 1],
        ] {
            for data in [&[][..], &[1, 2, 3]] {
                let mut bytes = segment(options, SYN, data);
                assert!(is_right(&bytes));
                let mut tcp = Tcp::split(&mut bytes).unwrap();
                assert!(tcp.clamp_mss(1400));
                assert_eq!(tcp.offers().mss, Some(1400));
                assert!(!tcp.clamp_mss(1400));
                assert!(is_right(&bytes), "{options:?}");
            }
        }
    }

    #[test]
    fn nothing_but_the_maximum_segment_size_of_a_syn_is_clamped() {
        let unchanged = |options: &[u8], flags| {
            let mut bytes = segment(options, flags, &[]);
            let before = bytes.clone();
            assert!(!Tcp::split(&mut bytes).unwrap().clamp_mss(1400));
            assert_eq!(bytes, before);
        };
        unchanged(&[2, 4, 5, 180], Flags(Flags::ACK));
        unchanged(&[2, 4, 5, 120], SYN);
        unchanged(&[2, 3, 5, 180], SYN);
        unchanged(&[0, 2, 4, 5, 180, 0, 0, 0], SYN);
        unchanged(&[], SYN);
    }

    #[test]
    fn what_a_syn_offers_is_read_as_an_independent_encoder_wrote_it() {
        use etherparse::TcpOptionElement::*;
        let elements = [
            MaximumSegmentSize(1460),
            SelectiveAcknowledgementPermitted,
            Timestamp(7, 9),
            Noop,
            WindowScale(8),
        ];
        let mut header = etherparse::TcpHeader::new(1024, 80, 1, 512);
        header.set_options(&elements).unwrap();
        let expected = Offers {
            mss: Some(1460),
            window_scale: Some(8),
            selective_acknowledgements: true,
            timestamps: Some(Timestamps { value: 7, echo: 9 }),
        };
        let mut bytes = header.to_bytes();
        let tcp = Tcp::split(&mut bytes).unwrap();
        assert_eq!(tcp.offers(), expected);
        assert_eq!(tcp.length(), header.header_len());
    }

    #[test]
    fn a_window_is_never_scaled_by_more_than_14() {
        let mut bytes = segment(&[3, 3, 200, 0], SYN, &[]);
        assert_eq!(Tcp::split(&mut bytes).unwrap().offers().window_scale, Some(14));
    }

    #[test]
    fn selective_acknowledgements_move_with_the_sequence_numbers() {
        for before in [&[][..], &[1], &[1, 1]] {
            let blocks = [5, 18, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0, 0, 0, 2, 0];
            let mut bytes = segment(&[before, &blocks].concat(), Flags(Flags::ACK), &[1, 2, 3]);
            Tcp::split(&mut bytes).unwrap().shift_selective_acknowledgements(0x0001_0002);
            let expected = [5, 18, 0, 1, 0, 3, 0, 1, 0, 1, 0, 1, 1, 2, 0, 1, 2, 2];
            assert_eq!(bytes[20 + before.len()..][..18], expected);
            assert!(is_right(&bytes));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_set_leaves_the_checksum_right(sequence: u32, acknowledgement: u32, window: u16, data in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = segment(&[], Flags(Flags::ACK), &data);
            let mut tcp = Tcp::split(&mut bytes).unwrap();
            tcp.set_sequence(sequence);
            tcp.set_acknowledgement(acknowledgement);
            tcp.set_window(window);
            let read = (tcp.sequence(), tcp.acknowledgement(), tcp.window());
            prop_assert_eq!(read, (sequence, acknowledgement, window));
            prop_assert!(is_right(&bytes));
        }

        #[test]
        fn a_written_segment_is_read_back_by_an_independent_decoder(v6: bool, ports: [u16; 2], numbers: [u32; 2], flags in 0u8..64, window: u16, mss: Option<u16>, window_scale in prop::option::of(0u8..15), selective_acknowledgements: bool, clocks in prop::option::of(any::<(u32, u32)>())) {
            let timestamps = clocks.map(|(value, echo)| Timestamps { value, echo });
            let offers = Offers { mss, window_scale, selective_acknowledgements, timestamps };
            let addresses = if v6 { ["2001:db8::9", "2001:db8::64"] } else { ["192.0.2.9", "10.0.0.100"] };
            let [source, destination] = addresses.map(|text| text.parse::<Address>().unwrap());
            let header = Header {
                source,
                source_port: ports[0],
                destination,
                destination_port: ports[1],
                sequence: numbers[0],
                acknowledgement: numbers[1],
                flags: Flags(flags),
                window,
                offers,
            };
            let mut bytes = header.to_bytes();
            let (read, data) = etherparse::TcpHeader::from_slice(&bytes).unwrap();
            prop_assert!(data.is_empty());
            let sum = match (source.ip(), destination.ip()) {
                (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => read.calc_checksum_ipv4_raw(from.octets(), to.octets(), &[]),
                _ => read.calc_checksum_ipv6_raw(source.bits().to_be_bytes(), destination.bits().to_be_bytes(), &[]),
            };
            prop_assert_eq!(read.checksum, sum.unwrap());
            prop_assert_eq!([read.source_port, read.destination_port], ports);
            prop_assert_eq!([read.sequence_number, read.acknowledgment_number], numbers);
            prop_assert_eq!(read.window_size, window);
            prop_assert!(read.options_iterator().all(|option| option.is_ok()));
            prop_assert_eq!((read.fin, read.syn, read.rst), (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0));
            prop_assert_eq!((read.psh, read.ack, read.urg), (flags & 8 != 0, flags & 16 != 0, flags & 32 != 0));
            let tcp = Tcp::split(&mut bytes).unwrap();
            prop_assert_eq!(tcp.offers(), offers);
        }

        #[test]
        fn any_bytes_are_read_and_written_within_themselves(mut bytes in prop::collection::vec(prop_oneof![0u8..10, any::<u8>()], 20..80), most: u16, length in 5u8..16) {
            bytes[12] = length << 4;
            bytes[13] |= Flags::SYN;
            if let Ok(mut tcp) = Tcp::split(&mut bytes) {
                prop_assert!((20..=60).contains(&tcp.length()));
                tcp.clamp_mss(most);
                tcp.shift_selective_acknowledgements(7);
                tcp.offers();
                prop_assert!(!tcp.clamp_mss(most));
            }
        }
    }
}
