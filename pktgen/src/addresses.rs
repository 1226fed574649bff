//! From whom to whom: a flow's number and its addresses and ports, either from the other.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use dataplane::wire::Address;

use crate::error::{Expected, Invalid};

/// As many addresses as are ever used of a network.
const MOST: u128 = 1 << 24;

/// Addresses that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The first.
    pub first: Address,
    /// How many; at least 1.
    pub count: u32,
}

impl Network {
    #[inline]
    fn at(self, index: u32) -> Address {
        Address::from_bits(self.first.bits() + u128::from(index))
    }

    /// Whether an address is one of these.
    pub fn holds(self, address: Address) -> bool {
        self.index(address).is_some()
    }

    #[inline]
    fn index(self, address: Address) -> Option<u32> {
        let index = address.bits().checked_sub(self.first.bits())?;
        (index < u128::from(self.count)).then_some(index as u32)
    }
}

impl FromStr for Network {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let refused = || {
            Expected(
                "an address such as 198.18.0.1, the addresses from one to the end of its network such as \
                 198.18.0.1/16, or from one to another such as 2001:db8::1-2001:db8::ff"
                    .into(),
            )
        };
        let address = |text: &str| text.parse::<IpAddr>().map(Address::from).map_err(|_| refused());
        let (first, last) = if let Some((first, last)) = text.split_once('-') {
            (address(first)?, address(last)?)
        } else if let Some((first, length)) = text.split_once('/') {
            let first = address(first)?;
            let width: u32 = if first.is_v4() { 32 } else { 128 };
            let digits = length.len() <= 3 && length.bytes().all(|byte| byte.is_ascii_digit());
            let length: u32 = length.parse().ok().filter(|_| digits).ok_or_else(refused)?;
            let host = width
                .checked_sub(length)
                .map(|bits| u128::MAX.checked_shr(128 - bits).unwrap_or(0));
            (first, Address::from_bits(first.bits() | host.ok_or_else(refused)?))
        } else {
            let first = address(text)?;
            (first, first)
        };
        if first.family() != last.family() || last < first {
            return Err(refused());
        }
        let count = (last.bits() - first.bits()).saturating_add(1).min(MOST) as u32;
        Ok(Self { first, count })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "{}", self.first),
            count => write!(f, "{}-{}", self.first, self.at(count - 1)),
        }
    }
}

/// Ports that follow each other; of ICMP, identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

impl Ports {
    fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }
}

impl FromStr for Ports {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let refused = || Expected("a port such as 80, or a range such as 1024-65535".into());
        let port = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|_| digits).ok_or_else(refused)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = Self { first: port(first)?, last: port(last)? };
        if ports.first <= ports.last { Ok(ports) } else { Err(refused()) }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// One flow's addresses and ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Who sends.
    pub source: Address,
    /// To whom.
    pub destination: Address,
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
}

/// The addresses and ports of all flows: source ports change fastest, then source addresses, destination ports and
/// destination addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Who sends.
    pub source: Network,
    /// From which ports.
    pub source_ports: Ports,
    /// To whom.
    pub destination: Network,
    /// To which ports.
    pub destination_ports: Ports,
}

impl Addresses {
    /// # Errors
    /// [`Invalid`] if source and destination are not of one family.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.source.first.family() == self.destination.first.family() {
            return Ok(());
        }
        let expected = match self.source.first.is_v4() {
            true => "an IPv4 address, as --source is one",
            false => "an IPv6 address, as --source is one",
        };
        Err(Invalid::new("--destination", expected, self.destination))
    }

    /// Whether these are IPv4 addresses.
    pub fn is_v4(&self) -> bool {
        self.source.first.is_v4()
    }

    /// How many flows have addresses and ports of their own.
    pub fn capacity(&self) -> u64 {
        let counts = [
            self.source_ports.count(),
            self.source.count,
            self.destination_ports.count(),
            self.destination.count,
        ];
        counts.iter().fold(1, |product: u64, count| product.saturating_mul((*count).into()))
    }

    /// What the flow with this number has; numbers beyond [`Self::capacity`] begin again.
    #[inline]
    pub fn tuple(&self, flow: u32) -> Tuple {
        let ports = self.source_ports.count();
        let (rest, source_port) =
            if flow < ports { (0, flow) } else { (flow / ports, flow % ports) };
        let (rest, source) = split(rest, self.source.count);
        let (rest, destination_port) = split(rest, self.destination_ports.count());
        let (_, destination) = split(rest, self.destination.count);
        Tuple {
            source: self.source.at(source),
            destination: self.destination.at(destination),
            source_port: self.source_ports.first + source_port as u16,
            destination_port: self.destination_ports.first + destination_port as u16,
        }
    }

    /// The first flow that is sent from there.
    pub fn flow_from(&self, source: Address, port: u16) -> Option<u32> {
        let address = self.source.index(source)?;
        let within = (self.source_ports.first..=self.source_ports.last).contains(&port);
        let port = within.then(|| u32::from(port - self.source_ports.first))?;
        address.checked_mul(self.source_ports.count())?.checked_add(port)
    }
}

#[inline]
fn split(number: u32, count: u32) -> (u32, u32) {
    if number < count { (0, number) } else { (number / count, number % count) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn addresses(source: &str, ports: &str, destination: &str, to: &str) -> Addresses {
        Addresses {
            source: source.parse().unwrap(),
            source_ports: ports.parse().unwrap(),
            destination: destination.parse().unwrap(),
            destination_ports: to.parse().unwrap(),
        }
    }

    #[test]
    fn networks_are_read_in_three_forms() {
        let read = |text: &str| text.parse::<Network>().unwrap();
        assert_eq!(read("10.0.0.7").count, 1);
        assert_eq!(read("10.0.0.1/24").count, 255);
        assert_eq!(read("10.0.0.1-10.0.1.0").count, 256);
        assert_eq!(read("0.0.0.0/0").count, 1 << 24);
        assert_eq!(read("::/0").count, 1 << 24);
        assert_eq!(read("2001:db8::/127").to_string(), "2001:db8::-2001:db8::1");
        for text in [
            "",
            "10.0.0",
            "10.0.0.1/33",
            "10.0.0.1/",
            "10.0.0.2-10.0.0.1",
            "10.0.0.1-::1",
            "::1/129",
            "/",
        ] {
            let refused = text.parse::<Network>().expect_err(text).to_string();
            assert!(refused.contains("such as 198.18.0.1"), "{refused}");
        }
    }

    #[test]
    fn every_flow_has_addresses_and_ports_of_its_own() {
        let plan = addresses("10.0.0.1-10.0.0.3", "5-9", "192.0.2.1-192.0.2.2", "80-81");
        assert_eq!(plan.capacity(), 60);
        let tuples: HashSet<_> = (0..60).map(|flow| format!("{:?}", plan.tuple(flow))).collect();
        assert_eq!(tuples.len(), 60);
        assert_eq!(plan.tuple(60), plan.tuple(0));
        assert_eq!(plan.tuple(5).source, "10.0.0.2".parse().unwrap());
    }

    #[test]
    fn families_do_not_mix() {
        let refused = addresses("10.0.0.1", "1", "::1", "1").check().expect_err("two families");
        assert_eq!(
            refused.to_string(),
            "--destination: expected an IPv4 address, as --source is one, found ::1"
        );
    }

    proptest! {
        #[test]
        fn a_flow_is_found_again_by_its_source(flow in 0u32..300) {
            let plan = addresses("2001:db8::1/96", "1000-1099", "2001:db8::", "80");
            let tuple = plan.tuple(flow);
            prop_assert_eq!(plan.flow_from(tuple.source, tuple.source_port), Some(flow));
        }

        #[test]
        fn any_text_is_a_network_or_refused(text in "[0-9a-f.:/-]{0,20}") {
            if let Ok(network) = text.parse::<Network>() {
                prop_assert!(network.count > 0);
            }
            if let Ok(ports) = text.parse::<Ports>() {
                prop_assert!(ports.count() > 0);
            }
        }
    }
}
