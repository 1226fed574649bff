//! From the stack's packets to frames: the next station's hardware address, and what goes around a packet on its way. A
//! packet whose station is not known yet waits for a moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::snapshot::InterfaceId;
use dataplane::wire::ethernet::{self, ethertype};
use dataplane::wire::{Address, Mac, gue, ipv4, ipv6, protocol};

use super::engine::Outgoing;
use super::paths::{Path, Paths};
use crate::net::Way;

/// How long a packet waits for its station to say where it is.
const PATIENCE: Duration = Duration::from_secs(1);
/// Packets that wait for one station, and stations that are waited for.
const MOST_PACKETS: usize = 4;
const MOST_STATIONS: usize = 512;

/// A station on one of our subnets.
pub type Station = (InterfaceId, Address);

/// Packets on their way out.
#[derive(Default)]
pub struct Egress {
    paths: Arc<Paths>,
    waiting: HashMap<Station, Waiting>,
}

/// Packets that wait for one station.
struct Waiting {
    since: Moment,
    packets: Vec<Outgoing>,
}

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It is sent in this frame.
    Send(InterfaceId, Vec<u8>),
    /// It waits, the first for this station, which has to be asked for.
    Ask(Station),
    /// It waits with others.
    Wait,
    /// It is lost, because it cannot wait or no route leads on.
    Lose(Outgoing),
}

impl Egress {
    /// Takes up another configuration.
    pub fn configure(&mut self, paths: Arc<Paths>) {
        self.paths = paths;
    }

    /// Makes a frame of a packet, or keeps it until `mac_of` knows its station.
    pub fn send(
        &mut self,
        now: Moment,
        outgoing: Outgoing,
        mac_of: impl Fn(Station) -> Option<Mac>,
    ) -> Step {
        let Some(path) = self.paths.path(outgoing.destination, outgoing.way) else {
            return Step::Lose(outgoing);
        };
        let station = (path.interface, path.hop);
        if let Some(mac) = mac_of(station) {
            return match self.frame(&path, mac, &outgoing) {
                Some(frame) => Step::Send(path.interface, frame),
                None => Step::Lose(outgoing),
            };
        }
        let stations = self.waiting.len();
        match self.waiting.get_mut(&station) {
            Some(waiting) if waiting.packets.len() < MOST_PACKETS => {
                waiting.packets.push(outgoing);
                Step::Wait
            }
            None if stations < MOST_STATIONS => {
                let waiting = Waiting { since: now, packets: vec![outgoing] };
                self.waiting.insert(station, waiting);
                Step::Ask(station)
            }
            _ => Step::Lose(outgoing),
        }
    }

    /// Packets whose waiting is over: those that can be sent now, and those that have waited long enough.
    pub fn waited(
        &mut self,
        now: Moment,
        mac_of: impl Fn(Station) -> Option<Mac>,
    ) -> (Vec<Outgoing>, Vec<Outgoing>) {
        let (mut known, mut late) = (Vec::new(), Vec::new());
        self.waiting.retain(|&station, waiting| {
            let is_known = mac_of(station).is_some();
            let is_late = now.since(waiting.since) >= PATIENCE;
            if is_known {
                known.append(&mut waiting.packets);
            } else if is_late {
                late.append(&mut waiting.packets);
            }
            !is_known && !is_late
        });
        (known, late)
    }

    fn frame(&self, path: &Path, mac: Mac, outgoing: &Outgoing) -> Option<Vec<u8>> {
        let own = self.paths.interface(path.interface)?.mac;
        let around = match outgoing.way {
            Way::Routed | Way::From { .. } | Way::Direct { .. } => Vec::new(),
            Way::Tunnel { server, gue_port } => {
                let source = self.paths.path(server, Way::Routed)?.source?.into();
                around(&outgoing.packet, (source, server.into()), gue_port)?
            }
        };
        let first = around.first().or(outgoing.packet.first())?;
        let kind = if first >> 4 == 4 { ethertype::IPV4 } else { ethertype::IPV6 };
        let length = ethernet::HEADER + around.len() + outgoing.packet.len();
        let mut frame = Vec::with_capacity(length);
        frame.extend(mac.0);
        frame.extend(own.0);
        frame.extend(kind.to_be_bytes());
        frame.extend(around);
        frame.extend(&outgoing.packet);
        if let Way::Tunnel { server, gue_port: Some(_) } = outgoing.way
            && server.is_ipv6()
        {
            let source = self.paths.path(server, Way::Routed)?.source?.into();
            let datagram = frame.get_mut(ethernet::HEADER + ipv6::HEADER..)?;
            gue::write_checksum(datagram, source, server.into()); // RFC 8200 section 8.1: never without
        }
        Some(frame)
    }
}

/// The headers around a packet in a tunnel: as the workers write them for services in mode `tun`.
fn around(
    packet: &[u8],
    (source, server): (Address, Address),
    gue_port: Option<u16>,
) -> Option<Vec<u8>> {
    let inner = if packet.first()? >> 4 == 4 { protocol::IPV4 } else { protocol::IPV6 };
    let length = u16::try_from(packet.len()).ok()?;
    let datagram = match gue_port {
        Some(port) => gue::headers((port_of(packet), port), inner, length)?.to_vec(),
        None => Vec::new(),
    };
    let payload_length = length.checked_add(datagram.len() as u16)?;
    let protocol = if gue_port.is_some() { protocol::UDP } else { inner };
    let mut headers = match (source.v4(), server.v4()) {
        (Some(source), Some(destination)) => ipv4::Header {
            type_of_service: 0,
            total_length: payload_length.checked_add(ipv4::HEADER as u16)?,
            identification: 0,
            dont_fragment: true,
            protocol,
            source,
            destination,
        }
        .to_bytes()
        .to_vec(),
        _ => ipv6::Header {
            traffic_class: 0,
            flow_label: 0,
            payload_length,
            next_header: protocol,
            hop_limit: ipv6::HOP_LIMIT,
            source,
            destination: server,
        }
        .to_bytes()
        .to_vec(),
    };
    headers.extend(datagram);
    Some(headers)
}

/// A source port that tells conversations apart, so that routers spread them.
fn port_of(packet: &[u8]) -> u16 {
    let transport = if packet.first().is_some_and(|first| first >> 4 == 4) {
        ipv4::HEADER
    } else {
        ipv6::HEADER
    };
    let ports = packet.get(transport..transport + 4).unwrap_or(&[0; 4]);
    let spread =
        ports.iter().fold(0u32, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    0xc000 | (spread.wrapping_mul(0x9e37_79b1) >> 18) as u16
}

#[cfg(test)]
mod tests {
    use dataplane::snapshot::{Interface, PortId, Route, Routes};
    use dataplane::wire::Prefix;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), length.parse().unwrap())
    }

    /// One interface with a subnet of each family, and a router on it.
    fn egress() -> Egress {
        let addresses = vec![prefix("10.0.0.2/24"), prefix("2001:db8::2/64")];
        let near = addresses.iter().map(|&to| Route { to, interface: InterfaceId(0), via: None });
        let router = Some("10.0.0.1".parse().unwrap());
        let far = Route { to: prefix("0.0.0.0/0"), interface: InterfaceId(0), via: router };
        let routes = Routes::new(near.chain([far]));
        let interface = Interface {
            port: PortId(0),
            vlan: None,
            mac: OURS,
            mtu: 1500,
            addresses,
            gateway: false,
        };
        let mut egress = Egress::default();
        egress.configure(Arc::new(Paths::new([interface].into(), Arc::new(routes))));
        egress
    }

    fn outgoing(destination: &str, way: Way) -> Outgoing {
        let mut packet = Vec::new();
        etherparse::PacketBuilder::ipv4([10, 0, 0, 2], [192, 0, 2, 1], 64)
            .udp(2000, 53)
            .write(&mut packet, b"question")
            .unwrap();
        Outgoing { packet, destination: destination.parse().unwrap(), way }
    }

    #[test]
    fn a_packet_goes_to_the_router_or_the_server_that_its_way_leads_over() {
        let server = "10.0.0.7".parse().unwrap();
        for (way, hop) in [(Way::Routed, "10.0.0.1"), (Way::Direct { server }, "10.0.0.7")] {
            let asked = std::cell::Cell::new(None);
            let step = egress().send(Moment::START, outgoing("192.0.2.1", way), |station| {
                asked.set(Some(station));
                Some(THEIRS)
            });
            assert_eq!(asked.get(), Some((InterfaceId(0), hop.parse().unwrap())));
            let Step::Send(InterfaceId(0), frame) = step else { panic!("{step:?}") };
            assert_eq!(frame[..14], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0]);
            assert_eq!(frame[14..], outgoing("192.0.2.1", way).packet);
        }
    }

    #[test]
    fn a_tunnel_s_headers_are_read_by_an_independent_decoder() {
        for server in ["10.0.0.7", "2001:db8::7"] {
            for gue_port in [None, Some(6080)] {
                let way = Way::Tunnel { server: server.parse().unwrap(), gue_port };
                let inner = outgoing("192.0.2.1", way).packet;
                let step =
                    egress().send(Moment::START, outgoing("192.0.2.1", way), |_| Some(THEIRS));
                let Step::Send(_, frame) = step else { panic!("{step:?}") };
                let outer = SlicedPacket::from_ethernet(&frame).unwrap();
                let (payload, source) = match outer.net.as_ref().unwrap() {
                    NetSlice::Ipv4(ip) => {
                        assert_eq!(ip.header().destination_addr().to_string(), server);
                        (ip.payload(), ip.header().source_addr().to_string())
                    }
                    NetSlice::Ipv6(ip) => {
                        assert_eq!(ip.header().destination_addr().to_string(), server);
                        (ip.payload(), ip.header().source_addr().to_string())
                    }
                    NetSlice::Arp(_) => panic!("ARP"),
                };
                assert!(["10.0.0.2", "2001:db8::2"].contains(&source.as_str()));
                let carried = match (gue_port, &outer.transport) {
                    (Some(port), Some(TransportSlice::Udp(udp))) => {
                        assert_eq!(udp.destination_port(), port);
                        assert_eq!(udp.checksum() != 0, server.contains(':'));
                        &udp.payload()[4..]
                    }
                    _ => payload.payload,
                };
                assert_eq!(carried, inner);
            }
        }
    }

    #[test]
    fn a_packet_waits_for_its_station_but_not_for_ever_and_not_without_number() {
        let mut egress = egress();
        let to = |last: u32| {
            let destination = format!("10.0.0.{}", last % 250 + 3);
            outgoing(&destination, Way::Routed)
        };
        let now = Moment::START;
        let station = (InterfaceId(0), "10.0.0.10".parse().unwrap());
        assert_eq!(egress.send(now, to(7), |_| None), Step::Ask(station));
        for _ in 1..MOST_PACKETS {
            assert_eq!(egress.send(now, to(7), |_| None), Step::Wait);
        }
        assert!(matches!(egress.send(now, to(7), |_| None), Step::Lose(_)));
        assert!(matches!(egress.send(now, to(8), |_| None), Step::Ask(_)));
        let is_seventh = |it: Station| (it == station).then_some(THEIRS);
        let (known, late) = egress.waited(now, is_seventh);
        assert_eq!((known.len(), late.len()), (MOST_PACKETS, 0));
        let (known, late) = egress.waited(now.plus(PATIENCE), |_| None);
        assert_eq!((known.len(), late.len()), (0, 1));
        assert!(egress.waiting.is_empty());
    }
}
