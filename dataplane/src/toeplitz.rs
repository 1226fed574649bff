//! At which receive queue a card delivers a flow: the hash that receive-side scaling computes
//! (Microsoft, "RSS Hashing Types" and "Verifying the RSS Hash Calculation"), and the table that
//! makes a queue of it. What the hash is computed over and from which key, the card has been asked.
//!
//! The hash of some bytes is the sum (XOR) of what each bit that is set adds: the 32 bits of the
//! key that begin where the bit stands. So four bits at a time add what a table says, and the tables
//! are as large as their input is long: 4.5 KiB for everything that is ever hashed.

use crate::wire::{Address, Family};

/// The longest input: two IPv6 addresses and two ports.
const INPUT: usize = 36;
/// The part of a key that matters: 32 bits from each bit of the input on.
const KEY: usize = INPUT + 4;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The kinds of packet that a card hashes; with ports those that have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashes {
    /// TCP over IPv4, with ports.
    pub tcp4: bool,
    /// UDP over IPv4, with ports.
    pub udp4: bool,
    /// Anything else over IPv4, by its addresses.
    pub ip4: bool,
    /// TCP over IPv6, with ports.
    pub tcp6: bool,
    /// UDP over IPv6, with ports.
    pub udp6: bool,
    /// Anything else over IPv6, by its addresses.
    pub ip6: bool,
}

impl Hashes {
    /// All that there are.
    pub const ALL: Self =
        Self { tcp4: true, udp4: true, ip4: true, tcp6: true, udp6: true, ip6: true };
}

/// How a card spreads frames over its receive queues.
#[derive(Debug, Clone)]
pub struct Spreading {
    /// For each byte of the input, what its upper and its lower four bits add to the hash.
    adds: Box<[[[u32; 16]; 2]; INPUT]>,
    table: Box<[u16]>,
    hashes: Hashes,
}

impl Spreading {
    /// From the card's key, of 40 bytes or more, and its redirection table; `None` if the key is
    /// shorter or the table is empty. Every kind of packet is hashed, unless [`Self::hashing`] says.
    pub fn new(key: &[u8], table: &[u16]) -> Option<Self> {
        let key: &[u8; KEY] = key.first_chunk()?;
        if table.is_empty() {
            return None;
        }
        let mut adds = Box::new([[[0; 16]; 2]; INPUT]);
        for (windows, byte) in key.windows(5).zip(adds.iter_mut()) {
            let window = windows.iter().fold(0_u64, |bits, &byte| bits << 8 | u64::from(byte));
            for (half, row) in byte.iter_mut().enumerate() {
                for (value, sum) in row.iter_mut().enumerate() {
                    let set = (0..4).filter(|bit| value & (8 >> bit) != 0);
                    *sum = set.fold(0, |sum, bit| sum ^ (window >> (8 - 4 * half - bit)) as u32);
                }
            }
        }
        Some(Self { adds, table: table.into(), hashes: Hashes::ALL })
    }

    /// The same for a card that hashes these kinds of packet alone.
    #[must_use]
    pub fn hashing(self, hashes: Hashes) -> Self {
        Self { hashes, ..self }
    }

    /// The queue at which such a packet arrives, if it is not a fragment: those are hashed by their
    /// addresses alone. What the card does not hash counts as if its hash were 0.
    #[inline]
    pub fn queue(
        &self,
        source: Address,
        source_port: u16,
        destination: Address,
        destination_port: u16,
        protocol: u8,
    ) -> usize {
        let Hashes { tcp4, udp4, ip4, tcp6, udp6, ip6 } = self.hashes;
        let (tcp, udp, any) = match source.family() {
            Family::V4 => (tcp4, udp4, ip4),
            Family::V6 => (tcp6, udp6, ip6),
        };
        let with_ports = (protocol == TCP && tcp) || (protocol == UDP && udp);
        let hash = match (with_ports, any) {
            (true, _) => self.hash(source, destination, Some([source_port, destination_port])),
            (false, true) => self.hash(source, destination, None),
            (false, false) => 0,
        };
        let entry = hash as usize % self.table.len().max(1);
        self.table.get(entry).copied().unwrap_or(0).into()
    }

    #[inline]
    fn hash(&self, source: Address, destination: Address, ports: Option<[u16; 2]>) -> u32 {
        let (addresses, behind) = match source.family() {
            Family::V4 => (
                self.sum(0, source.low().to_be_bytes())
                    ^ self.sum(4, destination.low().to_be_bytes()),
                8,
            ),
            Family::V6 => (
                self.sum(0, source.bits().to_be_bytes())
                    ^ self.sum(16, destination.bits().to_be_bytes()),
                32,
            ),
        };
        ports.map_or(addresses, |[from, to]| {
            addresses
                ^ self.sum(behind, from.to_be_bytes())
                ^ self.sum(behind + 2, to.to_be_bytes())
        })
    }

    /// What these bytes of the input add, the first of which stands at `start`.
    #[inline]
    fn sum<const N: usize>(&self, start: usize, bytes: [u8; N]) -> u32 {
        let adds = self.adds.iter().skip(start).zip(bytes);
        adds.fold(0, |sum, ([upper, lower], byte)| {
            sum ^ upper[usize::from(byte >> 4)] ^ lower[usize::from(byte & 15)]
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of Microsoft's verification suite.
    const THEIRS: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn the_verification_suite_is_passed() {
        let spreading = Spreading::new(&THEIRS, &[0]).unwrap();
        // Destination and port, source and port, hash over addresses, and over ports too.
        let suite = [
            ("161.142.100.80", 1766, "66.9.149.187", 2794, 0x323e_8fc2, 0x51cc_c178),
            ("65.69.140.83", 4739, "199.92.111.2", 14230, 0xd718_262a, 0xc626_b0ea),
            ("12.22.207.184", 38024, "24.19.198.95", 12898, 0xd2d0_a5de, 0x5c2b_394a),
            ("209.142.163.6", 2217, "38.27.205.30", 48228, 0x8298_9176, 0xafc7_327f),
            ("202.188.127.2", 1303, "153.39.163.191", 44251, 0x5d18_09c5, 0x10e8_28a2),
            ("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2cc1_8cd5, 0x4020_7d3d),
            ("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0f0c_461c, 0xdde5_1bbf),
            (
                "fe80::200:f8ff:fe21:67cf",
                38024,
                "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
                44251,
                0x4b61_e985,
                0x02d1_feef,
            ),
        ];
        for (destination, to, source, from, plain, with_ports) in suite {
            let (source, destination) = (address(source), address(destination));
            assert_eq!(spreading.hash(source, destination, None), plain, "{source}");
            assert_eq!(
                spreading.hash(source, destination, Some([from, to])),
                with_ports,
                "{source}"
            );
        }
    }

    #[test]
    fn a_short_key_or_an_empty_table_says_nothing_about_queues() {
        assert!(Spreading::new(&THEIRS[..39], &[0]).is_none());
        assert!(Spreading::new(&THEIRS, &[]).is_none());
        assert!(Spreading::new(&[1; 52], &[0]).is_some());
    }

    #[test]
    fn the_table_is_entered_with_the_lower_bits_of_the_hash() {
        let table: Vec<u16> = (0..128).collect();
        let spreading = Spreading::new(&THEIRS, &table).unwrap();
        let (source, destination) = (address("66.9.149.187"), address("161.142.100.80"));
        for protocol in [TCP, UDP] {
            assert_eq!(spreading.queue(source, 2794, destination, 1766, protocol), 0x78);
        }
        assert_eq!(spreading.queue(source, 2794, destination, 1766, 1), 0x42, "ICMP has no ports");
    }

    #[test]
    fn what_a_card_does_not_hash_with_ports_goes_by_addresses_or_to_the_first_entry() {
        let mut table: Vec<u16> = (0..128).collect();
        table[0] = 5;
        let spreading = Spreading::new(&THEIRS, &table).unwrap();
        let (source, destination) = (address("66.9.149.187"), address("161.142.100.80"));
        let queue = |hashes, protocol| {
            spreading.clone().hashing(hashes).queue(source, 2794, destination, 1766, protocol)
        };
        let without_udp = Hashes { udp4: false, ..Hashes::ALL };
        assert_eq!((queue(without_udp, TCP), queue(without_udp, UDP)), (0x78, 0x42));
        let tcp_alone = Hashes { udp4: false, ip4: false, ..Hashes::ALL };
        assert_eq!((queue(tcp_alone, TCP), queue(tcp_alone, UDP)), (0x78, 5));
        let other_family = Hashes { tcp6: false, udp6: false, ip6: false, ..Hashes::ALL };
        assert_eq!(queue(other_family, TCP), 0x78);
    }

    /// As the specification words it: the key moves on by a bit with each bit of the input.
    fn by_the_bit(key: &[u8], input: &[u8]) -> u32 {
        let bit = |bytes: &[u8], at: usize| u32::from(bytes[at / 8] >> (7 - at % 8) & 1);
        let mut window = (0..32).fold(0, |bits, at| bits << 1 | bit(key, at));
        let mut hash = 0;
        for at in 0..input.len() * 8 {
            if bit(input, at) == 1 {
                hash ^= window;
            }
            window = window << 1 | bit(key, at + 32);
        }
        hash
    }

    proptest! {
        #[test]
        fn the_hash_is_what_the_specification_computes_by_the_bit(
            key in proptest::collection::vec(any::<u8>(), 41..=52),
            source in any::<u128>(),
            destination in any::<u128>(),
            ports in any::<[u16; 2]>(),
        ) {
            let spreading = Spreading::new(&key, &[0]).unwrap();
            let behind: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();

            let six = [source.to_be_bytes(), destination.to_be_bytes()].concat();
            let (from, to) = (Address::from_bits(source), Address::from_bits(destination));
            prop_assume!(!from.is_v4());
            prop_assert_eq!(spreading.hash(from, to, None), by_the_bit(&key, &six));
            let six = [six, behind.clone()].concat();
            prop_assert_eq!(spreading.hash(from, to, Some(ports)), by_the_bit(&key, &six));

            let [from, to] = [source as u32, destination as u32].map(std::net::Ipv4Addr::from);
            let four = [from.octets(), to.octets()].concat();
            let (from, to) = (Address::from(from), Address::from(to));
            prop_assert_eq!(spreading.hash(from, to, None), by_the_bit(&key, &four));
            let four = [four, behind].concat();
            prop_assert_eq!(spreading.hash(from, to, Some(ports)), by_the_bit(&key, &four));
        }

        #[test]
        fn the_queue_is_one_of_the_table(
            table in proptest::collection::vec(0_u16..8, 1..600),
            source in any::<u128>(),
            destination in any::<u128>(),
            ports in any::<[u16; 2]>(),
            protocol in any::<u8>(),
        ) {
            let spreading = Spreading::new(&THEIRS, &table).unwrap();
            let (from, to) = (Address::from_bits(source), Address::from_bits(destination));
            let queue = spreading.queue(from, ports[0], to, ports[1], protocol);
            prop_assert!(table.contains(&(queue as u16)));
        }
    }
}
