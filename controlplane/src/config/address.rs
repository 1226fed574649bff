//! Addresses, prefixes and durations as operators write them.

use std::net::IpAddr;

use dataplane::snapshot::is_link_local;
use dataplane::wire::{Address, Prefix};

use crate::field::{Field, Invalid};

/// What an address must be.
const ADDRESS: &str = "an address, such as 10.0.0.7";

/// An address that a station can have.
pub(super) fn address(field: &Field<'_>) -> Result<Address, Invalid> {
    let address = field.parsed(ADDRESS, parse)?;
    station(field, address)
}

/// The same address, if a station can have it.
pub(super) fn station(field: &Field<'_>, address: Address) -> Result<Address, Invalid> {
    match is_station(address) {
        true => Ok(address),
        false if is_link_local(address) => Err(field.expected(
            "an address that is good beyond one link, such as 2001:db8::7 \
             (interfaces have link-local addresses by themselves)",
        )),
        false => Err(field.expected("the address of a station, such as 10.0.0.7")),
    }
}

/// An IPv6 address that maps an IPv4 address never stands in a packet, so it is none here.
fn parse(text: &str) -> Option<Address> {
    match text.parse().ok()? {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => None,
        address => Some(address.into()),
    }
}

/// Not "this network" (RFC 1122), unspecified, loopback, multicast, reserved, broadcast or link-local.
fn is_station(address: Address) -> bool {
    match address.ip() {
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
        // What begins with zeroes is reserved (RFC 4291 section 2.4) and could not stand for a name.
        IpAddr::V6(plain) => {
            !plain.is_multicast() && plain.to_bits() >> 96 != 0 && !is_link_local(address)
        }
    }
}

/// An address with the length of its prefix.
fn with_length(text: &str) -> Option<Prefix> {
    let (address, length) = text.split_once('/')?;
    let plain = length.bytes().all(|digit| digit.is_ascii_digit())
        && (length.len() == 1 || !length.starts_with('0'));
    let address = parse(address)?;
    let most = longest(address);
    let length = length.parse().ok().filter(|&length| plain && length <= most)?;
    Some(Prefix::new(address, length))
}

/// The length of a prefix that holds this address alone.
pub(super) fn longest(address: Address) -> u8 {
    if address.is_v4() { 32 } else { 128 }
}

/// One of our own addresses.
pub(super) fn own_address(field: &Field<'_>) -> Result<Prefix, Invalid> {
    let expected = "an address with its subnet, such as 10.0.0.2/24";
    let own = field.parsed(expected, |text| with_length(text).filter(|own| own.length() >= 1))?;
    station(field, own.address()).map_err(|_| field.expected(expected))?;
    if is_edge(own, own.address()) {
        let expected =
            format!("an address of a station on {}, not of the subnet itself", own.subnet());
        return Err(field.expected(expected));
    }
    Ok(own)
}

/// A prefix without host bits.
pub(super) fn prefix(field: &Field<'_>) -> Result<Prefix, Invalid> {
    without_host_bits(field, field.parsed("a prefix, such as 10.3.0.0/16", with_length)?)
}

/// How many addresses a prefix of virtual addresses can hold, as bits.
const MOST_HOST_BITS: u8 = 8;

/// An address, or a prefix of at most 256 of them.
pub(super) fn address_or_prefix(field: &Field<'_>) -> Result<Prefix, Invalid> {
    if !field.holds('/') {
        return address(field).map(|address| Prefix::new(address, longest(address)));
    }
    let expected = "an address, such as 10.0.0.7, or a prefix of at most 256 of them, \
                    such as 10.0.1.0/24";
    let short = |prefix: &Prefix| longest(prefix.address()) - prefix.length() <= MOST_HOST_BITS;
    let prefix = field.parsed(expected, |text| with_length(text).filter(short))?;
    station(field, prefix.address())?;
    without_host_bits(field, prefix)
}

fn without_host_bits(field: &Field<'_>, prefix: Prefix) -> Result<Prefix, Invalid> {
    if prefix == prefix.subnet() {
        return Ok(prefix);
    }
    Err(field.expected(format!("a prefix without host bits, here {}", prefix.subnet())))
}

/// The address of the subnet itself (in IPv6 that of any of its routers, RFC 4291 section 2.6.1) or its
/// broadcast address; a subnet of two addresses has neither (RFC 3021, RFC 6164).
pub(super) fn is_edge(subnet: Prefix, address: Address) -> bool {
    let host_bits = longest(subnet.address()) - subnet.length();
    if host_bits < 2 || !subnet.contains(address) {
        return false;
    }
    let last = subnet.subnet().address().bits() | ((1 << host_bits) - 1);
    address == subnet.subnet().address() || (address.is_v4() && address.bits() == last)
}

/// Every address of a prefix, in order; only for prefixes that [`address_or_prefix`] accepts.
pub(super) fn each(prefix: Prefix) -> impl Iterator<Item = Address> {
    let count = 1u128 << (longest(prefix.address()) - prefix.length()).min(MOST_HOST_BITS);
    (0..count).map(move |n| Address::from_bits(prefix.address().bits() + n))
}

/// The address alone where the prefix holds no other, as operators write it.
pub(super) fn shown(prefix: Prefix) -> String {
    match longest(prefix.address()) - prefix.length() {
        0 => prefix.address().to_string(),
        _ => prefix.to_string(),
    }
}

/// A duration in whole seconds, within bounds: `300`, `45s`, `5m`, `6h`.
pub(super) fn duration(field: &Field<'_>, least: u32, most: u32) -> Result<u32, Invalid> {
    let expected = || {
        format!("a time from {} to {}, such as 300, 45s, 5m or 6h", seconds(least), seconds(most))
    };
    let read = match field.number(0..=u32::MAX) {
        Ok(number) => Some(number),
        Err(_) => field.parsed("", parse_duration).ok(),
    };
    read.filter(|time| (least..=most).contains(time)).ok_or_else(|| field.expected(expected()))
}

fn parse_duration(text: &str) -> Option<u32> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse::<u32>().ok().filter(|_| plain)?.checked_mul(unit)
}

/// A duration as it is shown: in the largest unit that leaves it whole.
pub(super) fn seconds(time: u32) -> String {
    match time {
        0 => "0".into(),
        _ if time.is_multiple_of(3600) => format!("{}h", time / 3600),
        _ if time.is_multiple_of(60) => format!("{}m", time / 60),
        _ => format!("{time}s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_read_in_every_unit_and_shown_in_the_largest() {
        for (written, read, shown) in [
            (json!("360"), 360, "6m"),
            (json!(360), 360, "6m"),
            (json!("6m"), 360, "6m"),
            (json!("6h"), 21_600, "6h"),
            (json!("90s"), 90, "90s"),
            (json!("0"), 0, "0"),
        ] {
            assert_eq!(duration(&Field::root(&written), 0, 86_400), Ok(read), "{written}");
            assert_eq!(seconds(read), shown);
        }
        for wrong in ["", "s", "-5", "+5", "5d", "1.5h", "5 m", "5mm", "25h", "99999999999h", "é"]
        {
            assert!(duration(&Field::root(&json!(wrong)), 0, 86_400).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_family_has_its_own_edges() {
        let is_edge = |subnet: &str, address: &str| {
            is_edge(with_length(subnet).unwrap(), address.parse().unwrap())
        };
        assert!(is_edge("10.0.0.2/24", "10.0.0.0") && is_edge("10.0.0.2/24", "10.0.0.255"));
        assert!(!is_edge("10.0.0.2/24", "10.0.0.1") && !is_edge("10.0.0.2/31", "10.0.0.2"));
        assert!(is_edge("2001:db8::2/64", "2001:db8::"));
        assert!(!is_edge("2001:db8::2/64", "2001:db8::ffff:ffff:ffff:ffff"));
        assert!(!is_edge("2001:db8::2/127", "2001:db8::2"));
        assert!(!is_edge("10.0.0.2/24", "2001:db8::"));
    }

    #[test]
    fn a_prefix_holds_each_of_its_addresses_once() {
        let all = |text| {
            let all: Vec<_> =
                each(with_length(text).unwrap()).map(|address| address.to_string()).collect();
            (all.len(), all.first().unwrap().clone(), all.last().unwrap().clone())
        };
        assert_eq!(all("10.0.1.0/24"), (256, "10.0.1.0".into(), "10.0.1.255".into()));
        assert_eq!(all("10.0.1.7/32"), (1, "10.0.1.7".into(), "10.0.1.7".into()));
        assert_eq!(all("2001:db8::100/120"), (256, "2001:db8::100".into(), "2001:db8::1ff".into()));
    }
}
