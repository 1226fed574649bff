//! A packet that does not fit the way out and must not be fragmented is answered with "fragmentation
//! needed" (RFC 792, RFC 1191), so that the client sends shorter ones.

use crate::frame::Frame;
use crate::parse::ip_packet;
use crate::rewrite::Outbound;
use crate::snapshot::{Hop, InterfaceId, Snapshot};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::icmp;
use crate::wire::ipv4::{self, Header, Ipv4, protocol};

/// The longest IP header with the bytes behind it that an error quotes.
const QUOTE: usize = 60 + icmp::QUOTED;

/// Whether routers must not fragment the packet in `frame`.
pub fn must_not_be_fragmented<F: Frame>(frame: &F) -> bool {
    // Byte 6 of the IPv4 header (RFC 791); `parse` has seen that it is there.
    frame.bytes().get(ethernet::HEADER + 6).is_some_and(|flags| flags & 0x40 != 0)
}

/// Turns `frame` into the error that its sender gets, straight back to the station that it came from.
/// `None` where we have no address of our own to answer from, or the station has none to answer to.
pub fn answer<F: Frame>(
    mut frame: F,
    ingress: InterfaceId,
    mtu: u16,
    snapshot: &Snapshot,
) -> Option<Outbound<F>> {
    let from = snapshot.interface(ingress)?.source()?;
    let (ethernet, _) = Ethernet::split(frame.bytes_mut()).ok()?;
    let station = Some(ethernet.source()).filter(|mac| mac.is_station())?;
    let (original, _) = Ipv4::split(ip_packet(&mut frame)).ok()?;
    let (to, quoted) = (original.source(), original.length() + icmp::QUOTED);
    let mut quote = [0; QUOTE];
    let quote = quote.get_mut(..quoted)?;
    quote.copy_from_slice(ip_packet(&mut frame).get(..quoted)?);
    let length = (ipv4::HEADER + icmp::HEADER + quoted) as u16;
    frame.truncate(ethernet::HEADER + usize::from(length));
    let (header, message) = ip_packet(&mut frame).split_first_chunk_mut::<{ ipv4::HEADER }>()?;
    *header = Header {
        type_of_service: 0xc0, // internetwork control (RFC 1812 section 4.3.2.5)
        total_length: length,
        identification: 0,
        dont_fragment: true,
        protocol: protocol::ICMP,
        source: from,
        destination: to,
    }
    .to_bytes();
    icmp::write_fragmentation_needed(message.get_mut(..icmp::HEADER + quoted)?, quote, mtu);
    let hop = Hop { interface: ingress, address: to, mac: Some(station) };
    Some(Outbound { frame, hop, length })
}
