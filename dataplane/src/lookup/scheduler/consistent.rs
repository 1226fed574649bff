//! Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights as in draft-ietf-bess-weighted-hrw): every server
//! draws a number from the flow and its own address, and the best draw wins. A server that leaves
//! moves only its own flows. The cost grows with the number of servers, so this serves the packets
//! that no table remembers, not every packet.

use crate::parse::Flow;
use crate::snapshot::{Candidates, ServerId, Snapshot};

/// The server that every node chooses for `flow` from the same candidates.
pub fn choose(candidates: &Candidates, flow: &Flow, snapshot: &Snapshot) -> Option<ServerId> {
    let flow = digest(flow);
    let draw = |&(server, weight): &(ServerId, u16)| {
        let address = snapshot.server(server).map_or(0, |server| server.address.to_bits());
        // A uniform draw in (0, 1], from the upper 53 bits.
        let uniform = ((mix(flow ^ u64::from(address)) >> 11) + 1) as f64 / (1u64 << 53) as f64;
        (f64::from(weight) / uniform.ln().abs(), server)
    };
    candidates
        .servers()
        .iter()
        .map(draw)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, server)| server)
}

/// The client's half of a flow and its destination in one number. The hash has no key: all nodes of a
/// cluster must agree.
fn digest(flow: &Flow) -> u64 {
    let addresses = u64::from(flow.source.to_bits()) << 32 | u64::from(flow.destination.to_bits());
    let ports = u64::from(flow.source_port) << 32
        | u64::from(flow.destination_port) << 8
        | flow.protocol as u64;
    mix(mix(addresses) ^ ports)
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::snapshot::{Hop, InterfaceId, Mode, Protocol, Server, ServiceId};

    fn flow(port: u16) -> Flow {
        Flow {
            protocol: Protocol::Tcp,
            source: Ipv4Addr::new(192, 0, 2, 9),
            source_port: port,
            destination: Ipv4Addr::new(10, 0, 0, 100),
            destination_port: 80,
        }
    }

    /// Servers 10.0.0.1, 10.0.0.2 and so on, at the slots 0, 1 and so on.
    fn servers(number: u16) -> Snapshot {
        let server = |slot: u16| {
            let address = Ipv4Addr::new(10, 0, 0, slot as u8 + 1);
            let hop = Hop { interface: InterfaceId(0), address, mac: None };
            Some(Server {
                id: ServerId::new(slot, 0),
                service: ServiceId(0),
                address,
                mode: Mode::DirectReturn,
                hop,
            })
        };
        Snapshot { servers: (0..number).map(server).collect(), ..Snapshot::default() }
    }

    #[test]
    fn weights_are_respected() {
        let snapshot = servers(2);
        let candidates = Candidates::new([(ServerId::new(0, 0), 1), (ServerId::new(1, 0), 3)]);
        let second = (0..10_000).filter(|&port| {
            choose(&candidates, &flow(port), &snapshot) == Some(ServerId::new(1, 0))
        });
        assert!((7_300..7_700).contains(&second.count()));
    }

    #[test]
    fn a_server_that_leaves_moves_no_flow_of_the_others() {
        let snapshot = servers(3);
        let all = Candidates::new([0, 1, 2].map(|slot| (ServerId::new(slot, 0), 10)));
        let fewer = Candidates::new([0, 2].map(|slot| (ServerId::new(slot, 0), 10)));
        for port in 0..1_000 {
            let before = choose(&all, &flow(port), &snapshot);
            if before != Some(ServerId::new(1, 0)) {
                assert_eq!(choose(&fewer, &flow(port), &snapshot), before);
            }
        }
    }
}
