//! What concerns two services at once: each lays claim to what it publishes and uses, and [`Claims::settle`]
//! refuses what two of them claim.

use std::collections::{HashMap, HashSet};

use dataplane::wire::Address;

use super::settings::Range;
use super::{Protocol, Service};
use crate::field::{Field, Invalid, Refusals};

/// How many ports can be published in all, a range of more than 256 counted once: with these
/// the workers' table of services stays below 40 MB.
const MAX_PUBLISHED: usize = 1_000_000;

/// What services lay claim to, for what cannot be judged one service at a time.
#[derive(Default)]
pub(super) struct Claims<'v> {
    /// Services by name, with their paths.
    pub names: HashMap<String, String>,
    /// Who published: the field that says the ports, and the service's name.
    publishers: Vec<(Field<'v>, String)>,
    /// Address, protocol, first and last port, and the publisher.
    published: Vec<(Address, &'static str, u16, u16, usize)>,
    /// How much of [`MAX_PUBLISHED`] is used up.
    ports: usize,
    /// Every virtual address, with the field that publishes it first.
    virtual_addresses: HashMap<Address, usize>,
    /// Every server's address.
    pub servers: Vec<(Field<'v>, Address)>,
    /// What SNAT sources are asked for that are no address of ours.
    pub sources: Vec<(Field<'v>, Address)>,
    /// Servers of one-packet services that answer through us, with the port.
    pub answering: Vec<(Field<'v>, Address, u16)>,
}

impl<'v> Claims<'v> {
    pub fn publish(&mut self, ports_field: Field<'v>, service: &Service) -> Result<(), Invalid> {
        let spelled_out = |(first, last)| match usize::from(last) - usize::from(first) {
            more @ 0..256 => more + 1,
            _ => 1,
        };
        let each: usize = service.ports.ranges().map(spelled_out).sum();
        let protocols: &[&str] = match service.protocol {
            Protocol::Tcp => &["tcp"],
            Protocol::Udp => &["udp"],
            Protocol::Both => &["tcp", "udp"],
        };
        let more = each * protocols.len() * service.each_address().count();
        if self.ports + more > MAX_PUBLISHED {
            return Err(ports_field.expected(format!(
                "fewer ports: at most {MAX_PUBLISHED} in all services, \
                 a range of more than 256 counted once"
            )));
        }
        self.ports += more;
        let publisher = self.publishers.len();
        self.publishers.push((ports_field, service.name.clone()));
        for address in service.each_address() {
            self.virtual_addresses.entry(address).or_insert(publisher);
            for &protocol in protocols {
                let ranges = service.ports.ranges();
                let claim = |(first, last)| (address, protocol, first, last, publisher);
                self.published.extend(ranges.map(claim));
            }
        }
        Ok(())
    }

    /// Refuses what two of them claim.
    pub fn settle(&mut self, refusals: &mut Refusals) {
        self.settle_ports(refusals);
        self.settle_answers(refusals);
        for (field, address) in &self.sources {
            if !self.virtual_addresses.contains_key(address) {
                refusals.add(field.expected("an address of an interface, or a virtual address"));
            }
        }
        for (field, address) in &self.servers {
            let Some(&publisher) = self.virtual_addresses.get(address) else { continue };
            let found =
                format!("\"{address}\", a virtual address of {}", self.publisher(publisher));
            refusals.add(field.refuse("the address of another machine", found));
        }
    }

    /// A reply to a datagram that no table remembers is known by its server alone.
    fn settle_answers(&self, refusals: &mut Refusals) {
        let mut seen = HashSet::new();
        for (field, address, port) in &self.answering {
            if !seen.insert((address, port)) {
                refusals.add(field.expected(
                    "an address and port of no other service with scheduler = \"ops\", \
                     because a reply must say whose it is",
                ));
            }
        }
    }

    fn settle_ports(&mut self, refusals: &mut Refusals) {
        self.published.sort_unstable();
        let mut told = HashSet::new();
        // The claim that reaches furthest of those before, at the same address and protocol.
        let mut furthest: Option<(Address, &str, u16, usize)> = None;
        for &(address, protocol, first, last, publisher) in &self.published {
            let before = furthest.filter(|&(at, over, ..)| (at, over) == (address, protocol));
            if let Some((_, _, reach, other)) = before
                && first <= reach
            {
                let (earlier, later) = (other.min(publisher), other.max(publisher));
                if told.insert((earlier, later)) {
                    let common = Range(first, last.min(reach));
                    refusals.add(self.overlap(earlier, later, address, protocol, &common));
                }
                if last <= reach {
                    continue;
                }
            }
            furthest = Some((address, protocol, last, publisher));
        }
    }

    fn overlap(
        &self,
        earlier: usize,
        later: usize,
        address: Address,
        protocol: &str,
        common: &Range,
    ) -> Invalid {
        self.publishers[later].0.refuse(
            format!("ports that no other service has at {address} over {protocol}"),
            format!(
                "{common} of {}, which {} has too",
                self.publisher(later),
                self.publisher(earlier)
            ),
        )
    }

    fn publisher(&self, publisher: usize) -> String {
        let (field, name) = &self.publishers[publisher];
        format!("service \"{name}\" ({})", field.path().trim_end_matches(".ports"))
    }
}
