//! The ARP problem (AR-01): with direct return and tunnels a server has the virtual address too, and must
//! not answer ARP for it. Solved by kernel parameters and an address on the loopback interface (AR-02,
//! AR-03), judged, and undone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::error::Error;
use crate::record::{Change, Record, parameter};

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Own {
    device: String,
    address: IpAddr,
    /// How many bits its subnet has.
    bits: u32,
    loopback: bool,
}

/// The addresses of this machine.
fn own_addresses() -> Result<Vec<Own>, Error> {
    let ip = |address: &nix::sys::socket::SockaddrStorage| -> Option<IpAddr> {
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|it| it.ip().into()))
    };
    let own = |it: nix::ifaddrs::InterfaceAddress| {
        let bits = match it.netmask.as_ref().and_then(ip)? {
            IpAddr::V4(mask) => u32::from(mask).count_ones(),
            IpAddr::V6(mask) => u128::from(mask).count_ones(),
        };
        Some(Own {
            address: ip(it.address.as_ref()?)?,
            bits,
            loopback: it.flags.contains(InterfaceFlags::IFF_LOOPBACK),
            // An address may have a label, such as eth0:1.
            device: it.interface_name.split(':').next()?.to_owned(),
        })
    };
    Ok(getifaddrs().map_err(Error::System)?.filter_map(own).collect())
}

/// The interfaces that are meant: those that were named, or else all with an address but the loopback.
fn devices(named: &[String], own: &[Own]) -> BTreeSet<String> {
    match named {
        [] => own.iter().filter(|it| !it.loopback).map(|it| it.device.clone()).collect(),
        named => named.iter().cloned().collect(),
    }
}

/// Solves the problem for these addresses; what is in order stays as it is. What was changed is noted in
/// `record`, and told.
///
/// # Errors
/// At the first change that cannot be made; those before it are noted.
pub fn fix(
    virtual_addresses: &[IpAddr],
    named: &[String],
    record: &mut Record,
    mut tell: impl FnMut(&Change),
) -> Result<(), Error> {
    let own = own_addresses()?;
    let mut make = |change: Change| {
        record.make(change.clone())?;
        tell(&change);
        Ok::<_, Error>(())
    };
    // Before the address is there, or it would be answered for in between.
    if virtual_addresses.iter().any(IpAddr::is_ipv4) {
        let devices = devices(named, &own);
        for device in ["all"].into_iter().chain(devices.iter().map(String::as_str)) {
            for (name, least) in [("arp_ignore", 1), ("arp_announce", 2)] {
                let path = format!("net/ipv4/conf/{device}/{name}");
                let old = parameter(&path)?;
                if old.parse::<u32>().unwrap_or_default() < least {
                    make(Change::Parameter { path, old, new: least.to_string() })?;
                }
            }
        }
    }
    if virtual_addresses.iter().any(IpAddr::is_ipv6) {
        for name in ["dad_transmits", "accept_dad"] {
            let path = format!("net/ipv6/conf/lo/{name}");
            let old = parameter(&path)?;
            if old != "0" && old != "-1" {
                make(Change::Parameter { path, old, new: "0".into() })?;
            }
        }
    }
    for &address in virtual_addresses {
        if !own.iter().any(|it| it.loopback && it.address == address) {
            make(Change::Address(address))?;
        }
    }
    Ok(())
}

/// What is not in order with a virtual address: nothing if the problem is solved.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn problems(address: IpAddr, named: &[String]) -> Result<Vec<String>, Error> {
    let own = own_addresses()?;
    let mut told = places(address, &own);
    if address.is_ipv6() {
        return Ok(told); // neighbours are answered for the addresses of the interface that they ask on
    }
    let value = |device: &str, name: &str| -> Result<u32, Error> {
        let text = parameter(&format!("net/ipv4/conf/{device}/{name}"))?;
        Ok(text.parse().unwrap_or_default())
    };
    for device in devices(named, &own) {
        // The kernel takes the higher of the two.
        let effective = |name: &str| Ok::<_, Error>(value("all", name)?.max(value(&device, name)?));
        if effective("arp_ignore")? == 0 {
            told.push(format!("{device} answers ARP for it: arp_ignore is 0"));
        }
        if effective("arp_announce")? < 2 {
            told.push(format!(
                "{device} gives it as sender in ARP requests: arp_announce is below 2"
            ));
        }
    }
    Ok(told)
}

/// What is not in order about where it is.
fn places(address: IpAddr, own: &[Own]) -> Vec<String> {
    let mut told = Vec::new();
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let here: Vec<_> = own.iter().filter(|it| it.address == address).collect();
    if !here.iter().any(|it| it.loopback) {
        told.push("it is not on lo".into());
    }
    for it in here {
        let Own { device, bits, .. } = it;
        if !it.loopback {
            told.push(format!("it is on {device}, which answers for it"));
        } else if *bits != whole {
            told.push(format!(
                "it has /{bits} on {device}, which takes a whole subnet: /{whole} is right"
            ));
        }
    }
    told
}

/// Undoes what was done, and tells what that was.
///
/// # Errors
/// When a process relies on it, or at the first change that cannot be undone.
pub fn unfix(folder: &Path, tell: impl FnMut(&Change)) -> Result<(), Error> {
    Record::open(folder)?.undo(tell)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(device: &str, address: &str, bits: u32) -> Own {
        Own {
            device: device.into(),
            address: address.parse().unwrap(),
            bits,
            loopback: device == "lo",
        }
    }

    #[test]
    fn an_address_belongs_on_the_loopback_interface_alone_and_whole() {
        let address: IpAddr = "10.0.0.100".parse().unwrap();
        let told = |own: &[Own]| places(address, own).join("; ");
        assert_eq!(told(&[own("lo", "10.0.0.100", 32), own("eth0", "10.0.0.11", 24)]), "");
        assert_eq!(told(&[own("eth0", "10.0.0.11", 24)]), "it is not on lo");
        assert_eq!(
            told(&[own("eth0", "10.0.0.100", 32)]),
            "it is not on lo; it is on eth0, which answers for it"
        );
        assert_eq!(
            told(&[own("lo", "10.0.0.100", 24)]),
            "it has /24 on lo, which takes a whole subnet: /32 is right"
        );
        let six = own("lo", "2001:db8::100", 128);
        assert!(places(six.address, std::slice::from_ref(&six)).is_empty());
    }

    #[test]
    fn all_interfaces_with_an_address_are_meant_unless_some_are_named() {
        let all =
            [own("lo", "127.0.0.1", 8), own("eth0", "10.0.0.11", 24), own("eth0", "10.0.0.12", 24)];
        assert_eq!(devices(&[], &all), BTreeSet::from(["eth0".into()]));
        assert_eq!(devices(&["eth1".into()], &all), BTreeSet::from(["eth1".into()]));
    }

    #[test]
    fn the_kernel_tells_the_addresses_of_this_machine() {
        assert!(own_addresses().unwrap().contains(&own("lo", "127.0.0.1", 8)));
    }
}
