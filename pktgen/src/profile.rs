//! What to send, judged before anything is sent.

use dataplane::wire::ethernet::{self, Tag};
use dataplane::wire::{Family, Mac};

use crate::addresses::Addresses;
use crate::choice::{Choice, MOST_FLOWS};
use crate::error::Invalid;
use crate::frame::{Kind, Protocol};
use crate::pace::Late;
use crate::rate::{CHECK, Rate};
use crate::size::Sizes;
use crate::stamp::Mark;
use crate::track::Tracking;

/// What to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// How fast.
    pub rate: Rate,
    /// What 100 % of the line rate is, in bits a second.
    pub line_rate: u64,
    /// How large.
    pub sizes: Sizes,
    /// How many flows; with [`Choice::Fresh`], at a time.
    pub flows: u32,
    /// Which flow is next.
    pub choice: Choice,
    /// From whom to whom.
    pub addresses: Addresses,
    /// What carries the payload.
    pub protocol: Protocol,
    /// The VLAN tag that every frame has.
    pub tag: Option<Tag>,
    /// The sender's hardware address.
    pub source_mac: Mac,
    /// The receiver's hardware address: the device under test.
    pub destination_mac: Mac,
    /// The largest IP packet of the ports, in bytes.
    pub mtu: u16,
    /// Random choices repeat with the same seed.
    pub seed: u64,
    /// Whose packets are numbered.
    pub tracking: Tracking,
    /// What becomes of packets that cannot leave when they are due.
    pub late: Late,
}

impl Profile {
    /// UDP over IPv4 in 64-byte frames, one flow at a rate of 10,000 a second, between two made-up stations: a
    /// beginning, to be changed with `..`.
    pub fn simple() -> Self {
        Self {
            rate: Rate::PacketsPerSecond(10_000.0),
            line_rate: 10_000_000_000,
            sizes: Sizes::fixed(64),
            flows: 1,
            choice: Choice::RoundRobin,
            addresses: benchmark_addresses(Family::V4),
            protocol: Protocol::Udp,
            tag: None,
            source_mac: Mac([2, 0, 0, 0, 0, 1]),
            destination_mac: Mac([2, 0, 0, 0, 0, 2]),
            mtu: 1500,
            seed: 1,
            tracking: Tracking::Flows,
            late: Late::CaughtUp,
        }
    }

    /// What all frames have in common, with the mark of one run.
    pub fn kind(&self, mark: Mark) -> Kind {
        Kind {
            family: if self.addresses.is_v4() { Family::V4 } else { Family::V6 },
            protocol: self.protocol,
            tag: self.tag,
            source: self.source_mac,
            destination: self.destination_mac,
            mark,
        }
    }

    /// How many numbers of flows there can be: with flows that come and go, several for each that is alive.
    pub fn numbers(&self) -> u32 {
        let most = self.addresses.capacity().min(MOST_FLOWS.into()) as u32;
        match self.choice {
            Choice::Fresh(_) => most.min(self.flows.saturating_mul(64)).max(self.flows),
            _ => self.flows,
        }
    }

    /// # Errors
    /// The first option that does not go with the others.
    pub fn check(&self) -> Result<(), Invalid> {
        self.addresses.check()?;
        self.check_sizes()?;
        self.check_flows()?;
        self.check_rate()
    }

    fn check_sizes(&self) -> Result<(), Invalid> {
        let kind = self.kind(Mark(0));
        let least = kind.least_size();
        let tag = if self.tag.is_some() { ethernet::TAG } else { 0 };
        let most = usize::from(self.mtu) + ethernet::HEADER + tag + CHECK as usize;
        let fits = |size: &u16| (least..=most).contains(&usize::from(*size));
        if let Some(size) = self.sizes.distinct().into_iter().find(|size| !fits(size)) {
            let family = if self.addresses.is_v4() { "IPv4" } else { "IPv6" };
            let expected = format!(
                "{least} to {most} bytes, check included ({:?} over {family} needs {least}, an MTU of {} allows {most})",
                self.protocol, self.mtu,
            );
            return Err(Invalid::new("--sizes", expected, size));
        }
        Ok(())
    }

    fn check_flows(&self) -> Result<(), Invalid> {
        if !(1..=MOST_FLOWS).contains(&self.flows) {
            return Err(Invalid::new("--flows", format!("1 to {MOST_FLOWS}"), self.flows));
        }
        let capacity = self.addresses.capacity();
        if u64::from(self.flows) > capacity {
            let expected = format!(
                "at most {capacity}, as many as --source, --source-ports, --destination and --destination-ports have \
                 combinations"
            );
            return Err(Invalid::new("--flows", expected, self.flows));
        }
        if matches!(self.choice, Choice::Fresh(_)) && self.numbers() < self.flows.saturating_mul(2)
        {
            let expected = format!(
                "at most {} with --choice new:RATE: each flow needs another to follow it, of {} combinations",
                capacity.min(MOST_FLOWS.into()) / 2,
                capacity.min(MOST_FLOWS.into())
            );
            return Err(Invalid::new("--flows", expected, self.flows));
        }
        Ok(())
    }

    fn check_rate(&self) -> Result<(), Invalid> {
        let Some(frames) = self.rate.pace(self.line_rate).frames(self.sizes.mean()) else {
            return Ok(());
        };
        if !(0.01..=1e9).contains(&frames) {
            let expected = "0.01 to 1G frames a second";
            return Err(Invalid::new(
                "--rate",
                expected,
                format!("{} ({frames:.3} frames a second)", self.rate),
            ));
        }
        if let Choice::Fresh(new) = self.choice
            && new * 2.0 > frames
        {
            let expected = format!(
                "new:RATE with at most half of the {frames:.0} packets a second that --rate gives, as each flow has \
                 a first and a last"
            );
            return Err(Invalid::new("--choice", expected, self.choice));
        }
        Ok(())
    }
}

/// Addresses set aside for measuring devices: 198.18.0.0/15 (RFC 2544 appendix C.2.2) and 2001:2::/48 (RFC 5180
/// section 8).
pub fn benchmark_addresses(family: Family) -> Addresses {
    let (source, destination) = match family {
        Family::V4 => ("198.18.0.1-198.18.255.254", "198.19.0.1"),
        Family::V6 => ("2001:2::1-2001:2::ffff", "2001:2:0:1::1"),
    };
    let network = |text: &str| text.parse().expect("an address in the form that is read");
    Addresses {
        source: network(source),
        source_ports: crate::addresses::Ports { first: 1024, last: 65535 },
        destination: network(destination),
        destination_ports: crate::addresses::Ports { first: 80, last: 80 },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(profile: Profile) -> String {
        profile.check().expect_err("it is refused").to_string()
    }

    #[test]
    fn the_simple_profile_is_accepted() {
        assert_eq!(Profile::simple().check(), Ok(()));
    }

    #[test]
    fn sizes_must_hold_the_headers_and_fit_the_mtu() {
        let simple = Profile::simple;
        assert_eq!(
            refusal(Profile { sizes: Sizes::fixed(1519), ..simple() }),
            "--sizes: expected 64 to 1518 bytes, check included (Udp over IPv4 needs 64, an MTU of 1500 allows 1518), \
             found 1519"
        );
        let six = Profile { addresses: benchmark_addresses(Family::V6), ..simple() };
        assert!(refusal(six.clone()).starts_with("--sizes: expected 80 to 1518 bytes"));
        let tcp = Profile { protocol: Protocol::Tcp, ..six };
        assert!(refusal(tcp.clone()).starts_with("--sizes: expected 78 to 1518 bytes"));
        assert_eq!(Profile { sizes: Sizes::fixed(78), ..tcp }.check(), Ok(()));
        let tagged =
            Profile { tag: Some(Tag::from_bits(5)), sizes: Sizes::fixed(1522), ..simple() };
        assert_eq!(tagged.check(), Ok(()));
    }

    #[test]
    fn flows_must_have_addresses_of_their_own() {
        let simple = Profile::simple;
        assert!(
            refusal(Profile { flows: 0, ..simple() })
                .starts_with("--flows: expected 1 to 10000000, found 0")
        );
        let mut few = simple();
        few.addresses.source = "10.0.0.1".parse().unwrap();
        few.flows = 70_000;
        assert!(
            refusal(few.clone())
                .starts_with("--flows: expected at most 64512, as many as --source")
        );
        few.flows = 40_000;
        few.choice = Choice::Fresh(100.0);
        assert!(refusal(few).starts_with("--flows: expected at most 32256 with --choice new:RATE"));
        assert_eq!(Profile { flows: MOST_FLOWS, ..simple() }.check(), Ok(()));
    }

    #[test]
    fn rates_must_be_possible() {
        let simple = Profile::simple;
        assert!(
            refusal(Profile { rate: Rate::PacketsPerSecond(2e9), ..simple() })
                .starts_with("--rate: expected 0.01 to 1G")
        );
        let fresh = Profile { choice: Choice::Fresh(6000.0), ..simple() };
        assert!(
            refusal(fresh)
                .starts_with("--choice: expected new:RATE with at most half of the 10000 packets")
        );
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_is_accepted_or_refused_with_its_option(
            flows: u32, rate in 0.0f64..1e12, size in 64u16..9234, mtu: u16, new in 0.0f64..1e9, tag: Option<u16>,
        ) {
            let profile = Profile {
                rate: Rate::BitsPerSecond(rate),
                sizes: Sizes::fixed(size),
                flows,
                choice: Choice::Fresh(new),
                tag: tag.map(Tag::from_bits),
                mtu,
                ..Profile::simple()
            };
            if let Err(refused) = profile.check() {
                prop_assert!(refused.option.starts_with("--"));
                prop_assert!(refused.to_string().contains("expected"));
            }
        }
    }
}
