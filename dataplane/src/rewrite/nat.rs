//! Step 5b, NAT (FWD-07, FWD-08): destination address and port on the way in, source address and port
//! on the way back. Checksums are mended, never recomputed (RFC 1624), so a checksum that was
//! wrong stays wrong and one that was absent (UDP) stays absent.

use std::net::Ipv4Addr;

use crate::frame::Frame;
use crate::parse::ip_packet;
use crate::wire::checksum::Change;
use crate::wire::ipv4::{Ipv4, protocol};
use crate::wire::tcp::Tcp;
use crate::wire::udp::Udp;

/// Sends a client's packet to `server`; `port` replaces the destination port if there is one.
pub fn to_server(frame: &mut impl Frame, server: Ipv4Addr, port: Option<u16>) -> Option<()> {
    let (mut ip, payload) = Ipv4::split(ip_packet(frame)).ok()?;
    let change = Change::of_address(ip.destination(), server);
    match ip.protocol() {
        protocol::TCP => {
            let mut tcp = Tcp::split(payload).ok()?;
            let port = port.unwrap_or(tcp.destination());
            tcp.set_destination(port, change);
        }
        _ => {
            let mut udp = Udp::split(payload).ok()?;
            let port = port.unwrap_or(udp.destination());
            udp.set_destination(port, change);
        }
    }
    ip.set_destination(server);
    Some(())
}

/// Sends a server's reply to the client, as if from the virtual address and port.
pub fn from_virtual_address(
    frame: &mut impl Frame,
    (address, port): (Ipv4Addr, u16),
) -> Option<()> {
    let (mut ip, payload) = Ipv4::split(ip_packet(frame)).ok()?;
    let change = Change::of_address(ip.source(), address);
    match ip.protocol() {
        protocol::TCP => Tcp::split(payload).ok()?.set_source(port, change),
        _ => Udp::split(payload).ok()?.set_source(port, change),
    }
    ip.set_source(address);
    Some(())
}
