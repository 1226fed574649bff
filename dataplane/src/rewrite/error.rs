//! An ICMP error about a translated packet: whoever sent that packet must find it quoted as it was sent.

use crate::frame::Frame;
use crate::parse::ip_packet;
use crate::wire::checksum::Change;
use crate::wire::icmp::Message;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::quoted::Numbers;
use crate::wire::{Address, Family};

/// Gives the error other addresses outside, and the packet that it quotes other addresses and ports.
pub fn translate(
    frame: &mut impl Frame,
    (source, destination): (Address, Address),
    (quoted_source, quoted_destination): ((Address, u16), (Address, u16)),
) -> Option<()> {
    let packet = ip_packet(frame);
    let (message, change, family) = if source.is_v4() {
        let (mut ip, payload) = Ipv4::split(packet).ok()?;
        ip.set_addresses(source.v4()?, destination.v4()?);
        (payload, Change::default(), Family::V4)
    } else {
        let (mut ip, payload) = Ipv6::split(packet).ok()?;
        let at = ip.extensions(payload).ok()?.at;
        let change = ip.set_addresses(source, destination);
        (payload.get_mut(at..)?, change, Family::V6)
    };
    let mut message = Message::read(family, message).ok()?;
    message.addresses_changed(change);
    // An echo has one number for both ends: that of who asks.
    let number = match message.quoted().ok()?.numbers {
        Numbers::Identifier(_) => quoted_source.1,
        _ => quoted_destination.1,
    };
    message.set_quoted_source(quoted_source.0, quoted_source.1).ok()?;
    message.set_quoted_destination(quoted_destination.0, number).ok()
}
