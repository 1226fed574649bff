//! A packet that is only described, as a frame.

use arrayvec::ArrayVec;

use crate::punt::Copied;
use crate::snapshot::{InterfaceId, Protocol, Snapshot};
use crate::wire::checksum::{self, of_transport};
use crate::wire::ethernet::{self, Ethernet, Mac, ethertype};
use crate::wire::tcp::{self, Flags, Offers};
use crate::wire::{Address, icmp, icmpv6, ipv4, ipv6, protocol, udp};

/// What is asked about: a packet without payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// TCP, UDP, or an echo request.
    pub protocol: Protocol,
    /// Who sends it; of an echo request, with its identifier.
    pub from: (Address, u16),
    /// Whom it is for.
    pub to: (Address, u16),
    /// TCP's control bits.
    pub flags: Flags,
}

/// Who sends frames that nobody sends: an address that is administered locally.
const STATION: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);

/// A transport header, or all headers together.
type Bytes = ArrayVec<u8, 128>;

/// The frame of a described packet that comes in on `interface`. `None` if there is no such interface, or the
/// two addresses are not of one family.
pub fn frame(described: &Described, interface: InterfaceId, snapshot: &Snapshot) -> Option<Copied> {
    let Described { from: (source, _), to: (destination, _), .. } = *described;
    if source.is_v4() != destination.is_v4() {
        return None;
    }
    let transport = transport(described)?;
    let mut bytes = Bytes::new();
    bytes.try_extend_from_slice(&[0; ethernet::HEADER]).ok()?;
    let (mut ethernet, _) = Ethernet::split(&mut bytes).ok()?;
    let ethertype = if source.is_v4() { ethertype::IPV4 } else { ethertype::IPV6 };
    ethernet.write(STATION, snapshot.interface(interface)?.mac, ethertype);
    let number = match (described.protocol, source.is_v4()) {
        (Protocol::Tcp, _) => protocol::TCP,
        (Protocol::Udp, _) => protocol::UDP,
        (Protocol::Echo, true) => protocol::ICMP,
        (Protocol::Echo, false) => protocol::ICMPV6,
    };
    if let (Some(source), Some(destination)) = (source.v4(), destination.v4()) {
        let header = ipv4::Header {
            type_of_service: 0,
            total_length: (ipv4::HEADER + transport.len()) as u16,
            identification: 0,
            dont_fragment: true,
            protocol: number,
            source,
            destination,
        };
        bytes.try_extend_from_slice(&header.to_bytes()).ok()?;
    } else {
        let header = ipv6::Header {
            traffic_class: 0,
            flow_label: 0,
            payload_length: transport.len() as u16,
            next_header: number,
            hop_limit: ipv6::HOP_LIMIT,
            source,
            destination,
        };
        bytes.try_extend_from_slice(&header.to_bytes()).ok()?;
    }
    bytes.try_extend_from_slice(&transport).ok()?;
    Copied::of(interface, &bytes)
}

fn transport(described: &Described) -> Option<Bytes> {
    let Described { protocol, from: (source, from), to: (destination, to), flags } = *described;
    let mut bytes = Bytes::new();
    match protocol {
        Protocol::Tcp => {
            let header = tcp::Header {
                source,
                source_port: from,
                destination,
                destination_port: to,
                sequence: 1,
                acknowledgement: u32::from(flags.acknowledges()),
                flags,
                window: u16::MAX,
                offers: Offers::default(),
            };
            bytes.try_extend_from_slice(&header.to_bytes()).ok()?;
        }
        Protocol::Udp => {
            for word in [from, to, udp::HEADER as u16, 0] {
                bytes.try_extend_from_slice(&word.to_be_bytes()).ok()?;
            }
            let sum = of_transport(source, destination, protocol::UDP, &bytes);
            bytes.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());
        }
        Protocol::Echo => {
            let kind = match source.is_v4() {
                true => icmp::kind::ECHO_REQUEST,
                false => icmpv6::kind::ECHO_REQUEST,
            };
            bytes.try_extend_from_slice(&[kind, 0, 0, 0]).ok()?;
            bytes.try_extend_from_slice(&from.to_be_bytes()).ok()?;
            bytes.try_extend_from_slice(&[0, 1]).ok()?;
            let sum = match source.is_v4() {
                true => checksum::of(&bytes),
                false => of_transport(source, destination, protocol::ICMPV6, &bytes),
            };
            bytes.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
        }
    }
    Some(bytes)
}
