//! Every header view over any bytes: reading and writing through it never leaves the bytes.
#![no_main]

use std::net::Ipv4Addr;

use dataplane::wire::checksum::{self, Change};
use dataplane::wire::ethernet::{Ethernet, Mac};
use dataplane::wire::ipv4::Ipv4;
use dataplane::wire::tcp::Tcp;
use dataplane::wire::udp::Udp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let address = Ipv4Addr::new(192, 0, 2, 1);
    if let Ok((mut ethernet, _)) = Ethernet::split(&mut bytes.to_vec()) {
        ethernet.readdress(Mac::BROADCAST, ethernet.source());
        assert_eq!(ethernet.source(), Mac::BROADCAST);
    }
    if let Ok((mut ip, payload)) = Ipv4::split(&mut bytes.to_vec()) {
        assert_eq!(usize::from(ip.total_length()), ip.length() + payload.len());
        let right = ip.checksum_is_right();
        ip.set_source(address);
        ip.set_destination(address);
        assert_eq!(ip.checksum_is_right(), right, "mending keeps right right and wrong wrong");
    }
    let change = Change::of_address(Ipv4Addr::BROADCAST, address);
    if let Ok(mut tcp) = Tcp::split(&mut bytes.to_vec()) {
        tcp.set_source(80, change);
        tcp.set_destination(443, change);
        assert_eq!((tcp.source(), tcp.destination()), (80, 443));
    }
    if let Ok(mut udp) = Udp::split(&mut bytes.to_vec()) {
        udp.set_source(80, change);
        udp.set_destination(443, change);
        assert_eq!((udp.source(), udp.destination()), (80, 443));
    }
    checksum::of(bytes);
});
