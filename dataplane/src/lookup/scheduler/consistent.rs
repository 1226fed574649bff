//! Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights as in draft-ietf-bess-weighted-hrw): every server
//! draws a number from the flow and its own address and port, and the best draw wins. A server that
//! leaves moves only its own flows. The cost grows with the number of servers, and whoever sends packets
//! that no table remembers can ask for it, so a draw is a few instructions. All nodes of a cluster
//! must agree, so the arithmetic is exact or rounded as IEEE 754 says, with no library's logarithm.

use crate::parse::Flow;
use crate::snapshot::{Candidates, Mode, Server, ServerId, Snapshot};

/// The server that every node chooses for `flow` from the same candidates.
pub fn choose(candidates: &Candidates, flow: &Flow, snapshot: &Snapshot) -> Option<ServerId> {
    let flow = digest(flow);
    let draw = |id| mix(flow ^ snapshot.server(id).map_or(0, target));
    let candidates = candidates.servers();
    let (&(_, heaviest), &(_, lightest)) = (candidates.first()?, candidates.last()?);
    if heaviest == lightest {
        return candidates.iter().map(|&(id, _)| id).max_by_key(|&id| draw(id));
    }
    let draws = candidates.iter().map(|&(id, weight)| (surprise(draw(id)), f64::from(weight), id));
    // The least surprise for its weight; multiplied across, because a division takes longer.
    draws
        .reduce(|best, other| if other.0 * best.1 < best.0 * other.1 { other } else { best })
        .map(|(.., id)| id)
}

/// What tells a server from others on every node: its address, and its port where that is its own.
fn target(server: &Server) -> u64 {
    let port = match server.mode {
        Mode::Nat { port } => port.unwrap_or_default(),
        Mode::DirectReturn | Mode::Tunnel { .. } => 0,
    };
    u64::from(port) << 32 | u64::from(server.address.to_bits())
}

/// -log2 of a draw as a share of all draws, to within 0.001: a polynomial for the mantissa. Evenly distributed draws
/// make it exponentially distributed, which is what weights need.
fn surprise(draw: u64) -> f64 {
    let draw = draw | 1;
    let exponent = draw.leading_zeros();
    let mantissa = f64::from_bits(1023 << 52 | draw << exponent << 1 >> 12); // 1 to 2
    let logarithm = ((0.158_248_704_6 * mantissa - 1.051_875_031) * mantissa + 3.047_884_161)
        * mantissa
        - 2.153_620_718;
    (f64::from(exponent + 1) - logarithm).max(0.000_01)
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

    #[test]
    fn servers_that_differ_in_their_port_alone_share_the_flows() {
        let mut snapshot = servers(2);
        let ports = |slot: u16| {
            let mut server = servers(1).servers[0].clone().unwrap();
            server.id = ServerId::new(slot, 0);
            server.mode = Mode::Nat { port: Some(8080 + slot) };
            Some(server)
        };
        snapshot.servers = [ports(0), ports(1)].into();
        let candidates = Candidates::new([(ServerId::new(0, 0), 1), (ServerId::new(1, 0), 1)]);
        let second = (0..10_000).filter(|&port| {
            choose(&candidates, &flow(port), &snapshot) == Some(ServerId::new(1, 0))
        });
        assert!((4_700..5_300).contains(&second.count()));
    }

    #[test]
    fn a_surprise_is_the_logarithm_to_within_a_thousandth_and_never_rises_with_the_draw() {
        let mut last = f64::INFINITY;
        for step in 0..200_000u64 {
            let draw = step << 46 | 1 << 45;
            let exact = 64.0 - (draw as f64).log2();
            assert!((surprise(draw) - exact).abs() < 0.001, "{draw:x}");
            assert!(surprise(draw) <= last + 1e-9, "{draw:x}");
            last = surprise(draw);
        }
    }

    #[test]
    fn a_weight_that_changes_moves_only_the_flows_that_it_has_to() {
        let snapshot = servers(3);
        let weighing = |weights: [u16; 3]| {
            let servers = [0, 1, 2].map(|slot| ServerId::new(slot, 0));
            Candidates::new(servers.into_iter().zip(weights))
        };
        let [alike, heavier] = [weighing([10, 10, 10]), weighing([10, 20, 10])];
        for port in 0..10_000 {
            let [before, after] = [&alike, &heavier].map(|it| choose(it, &flow(port), &snapshot));
            assert!(after == before || after == Some(ServerId::new(1, 0)), "port {port}");
        }
    }
}
