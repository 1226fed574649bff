//! An IP address of either family in one form: an IPv4 address as the IPv6 address that maps it
//! (RFC 4291 section 2.5.5.2), so that everything behind `parse` has one kind of address to compare.
//! Such an address in an IPv6 packet's own header is dropped at the door, so none is mistaken for another.

use std::fmt;
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The bits above a mapped IPv4 address, in the lower word.
const MAPPED: u64 = 0xffff_0000_0000;

/// An IPv4 or IPv6 address. Two words rather than one of 128 bits, which would have to lie at a multiple
/// of 16 and so make a quarter of everything with an address in it padding.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    high: u64,
    low: u64,
}

/// The version of the protocol that an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Address {
    /// From its 128 bits, an IPv4 address as the one that maps it.
    #[inline]
    pub const fn from_bits(bits: u128) -> Self {
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }

    /// Its 128 bits, an IPv4 address as the one that maps it.
    #[inline]
    pub const fn bits(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    /// A word made from both halves, different for different IPv4 addresses.
    #[inline]
    pub const fn in_one_word(self) -> u64 {
        self.high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.low
    }

    /// Which family it is of.
    #[inline]
    pub const fn family(self) -> Family {
        if self.is_v4() { Family::V4 } else { Family::V6 }
    }

    /// Whether it is an IPv4 address.
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.high == 0 && self.low >> 32 == MAPPED >> 32
    }

    /// The lower 32 bits: of an IPv4 address, all there are.
    #[inline]
    pub const fn low(self) -> u32 {
        self.low as u32
    }

    /// As an IPv4 address, if it is one.
    #[inline]
    pub fn v4(self) -> Option<Ipv4Addr> {
        self.is_v4().then(|| Ipv4Addr::from_bits(self.low()))
    }

    /// As an IPv6 address, if it is one.
    #[inline]
    pub fn v6(self) -> Option<Ipv6Addr> {
        (!self.is_v4()).then(|| Ipv6Addr::from_bits(self.bits()))
    }

    /// In the standard library's form.
    #[inline]
    pub fn ip(self) -> IpAddr {
        match self.v4() {
            Some(address) => IpAddr::V4(address),
            None => IpAddr::V6(Ipv6Addr::from_bits(self.bits())),
        }
    }

    /// The bits that `mask` has too.
    #[inline]
    pub const fn masked(self, mask: Self) -> Self {
        Self { high: self.high & mask.high, low: self.low & mask.low }
    }

    /// Its first `length` bits (0 to 32, or to 128 for IPv6), the others zero.
    #[inline]
    pub fn network(self, length: u8) -> Self {
        let kept = u32::from(length) + if self.is_v4() { 96 } else { 0 };
        let mask = u128::MAX.checked_shl(128u32.saturating_sub(kept)).unwrap_or(0);
        Self::from_bits(self.bits() & mask)
    }
}

impl From<Ipv4Addr> for Address {
    #[inline]
    fn from(address: Ipv4Addr) -> Self {
        Self { high: 0, low: MAPPED | address.to_bits() as u64 }
    }
}

impl From<Ipv6Addr> for Address {
    #[inline]
    fn from(address: Ipv6Addr) -> Self {
        Self::from_bits(address.to_bits())
    }
}

impl From<IpAddr> for Address {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

impl From<Address> for IpAddr {
    #[inline]
    fn from(address: Address) -> Self {
        address.ip()
    }
}

impl FromStr for Address {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        text.parse::<IpAddr>().map(Self::from)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.ip(), f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address with the length of its subnet's prefix: `10.0.0.2/24`, `2001:db8::2/64`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: Address,
    length: u8,
}

impl Prefix {
    /// `length` is cut to 32 for IPv4 and 128 for IPv6.
    pub fn new(address: Address, length: u8) -> Self {
        let most = if address.is_v4() { 32 } else { 128 };
        Self { address, length: length.min(most) }
    }

    /// The address itself, its host part included.
    #[inline]
    pub fn address(self) -> Address {
        self.address
    }

    /// Bits that are the network's: at most 32 for IPv4, 128 for IPv6.
    #[inline]
    pub fn length(self) -> u8 {
        self.length
    }

    /// The subnet without the host part.
    pub fn subnet(self) -> Self {
        Self { address: self.address.network(self.length), length: self.length }
    }

    /// Whether `address` is of the same family and in the subnet.
    #[inline]
    pub fn contains(self, address: Address) -> bool {
        self.address.is_v4() == address.is_v4()
            && address.network(self.length) == self.address.network(self.length)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn both_families_read_back_as_they_were_written() {
        for text in ["0.0.0.0", "10.0.0.7", "255.255.255.255", "::", "2001:db8::7", "ff02::1"] {
            assert_eq!(address(text).to_string(), text);
        }
        assert_eq!(address("10.0.0.7").family(), Family::V4);
        assert_eq!(address("::10.0.0.7").family(), Family::V6);
    }

    #[test]
    fn a_network_keeps_the_first_bits_alone() {
        assert_eq!(address("10.1.2.3").network(24), address("10.1.2.0"));
        assert_eq!(address("10.1.2.3").network(32), address("10.1.2.3"));
        assert_eq!(address("2001:db8:1:2::3").network(48), address("2001:db8:1::"));
        assert_eq!(address("2001:db8::3").network(0), address("::"));
        assert_eq!(address("10.1.2.3").network(0), address("0.0.0.0"));
    }

    #[test]
    fn a_prefix_holds_its_own_family_alone() {
        let all = Prefix::new(address("0.0.0.0"), 0);
        assert!(all.contains(address("10.0.0.7")) && !all.contains(address("2001:db8::7")));
        let all = Prefix::new(address("::"), 0);
        assert!(all.contains(address("2001:db8::7")) && !all.contains(address("10.0.0.7")));
        let some = Prefix::new(address("10.0.0.2"), 24);
        assert!(some.contains(address("10.0.0.255")) && !some.contains(address("10.0.1.0")));
    }
}
