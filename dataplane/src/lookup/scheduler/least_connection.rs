//! The server with the fewest connections, alike (SCH-03) or for its weight (SCH-04).

use super::Position;
use crate::snapshot::{Candidates, ServerId};

/// The candidate with the fewest `connections` for its weight, or without regard to weights; of several alike, the
/// next in turn, so that an idle service uses all its servers. `None` connections: it takes no more.
pub fn choose(
    candidates: &Candidates,
    position: &mut Position,
    weighted: bool,
    mut connections: impl FnMut(ServerId) -> Option<u32>,
) -> Option<ServerId> {
    let servers = candidates.servers();
    let start = if (position.next as usize) < servers.len() { position.next as usize } else { 0 };
    let mut best: Option<(usize, u64, u64)> = None;
    for step in 0..servers.len() {
        let index =
            if start + step < servers.len() { start + step } else { start + step - servers.len() };
        let Some(&(server, weight)) = servers.get(index) else { continue };
        let Some(connections) = connections(server) else { continue };
        // One more than it has: among idle servers the heavier is lighter laden by the next flow.
        let load = u64::from(connections) + 1;
        let weight = if weighted { u64::from(weight) } else { 1 };
        // load / weight < best load / best weight, without a division.
        if best.is_none_or(|(_, least, its_weight)| load * its_weight < least * weight) {
            best = Some((index, load, weight));
        }
    }
    let (index, ..) = best?;
    position.next = index as u32 + 1;
    servers.get(index).map(|&(server, _)| server)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[u16], held: &[u32], flows: usize, weighted: bool) -> Vec<u32> {
        let identity = |index: usize| ServerId::new(index as u16, 0);
        let candidates =
            Candidates::new(weights.iter().enumerate().map(|(at, &weight)| (identity(at), weight)));
        let mut connections = held.to_vec();
        let mut position = Position::default();
        for _ in 0..flows {
            let chosen = choose(&candidates, &mut position, weighted, |server| {
                Some(connections[server.slot()])
            });
            connections[chosen.unwrap().slot()] += 1;
        }
        connections
    }

    #[test]
    fn ten_connections_on_the_one_bring_the_next_ten_to_the_other() {
        assert_eq!(shares(&[1, 1], &[10, 0], 10, false), [10, 10]);
    }

    #[test]
    fn weights_1_to_2_share_300_held_connections_as_100_to_200() {
        assert_eq!(shares(&[1, 2], &[0, 0], 300, true), [100, 200]);
    }

    #[test]
    fn without_weights_they_are_alike() {
        assert_eq!(shares(&[1, 200], &[0, 0], 300, false), [150, 150]);
    }

    #[test]
    fn a_server_that_takes_no_more_is_passed_over() {
        let candidates = Candidates::new([(ServerId::new(0, 0), 1), (ServerId::new(1, 0), 1)]);
        let only_second = |server: ServerId| (server.slot() == 1).then_some(7);
        for _ in 0..3 {
            let chosen = choose(&candidates, &mut Position::default(), true, only_second);
            assert_eq!(chosen, Some(ServerId::new(1, 0)));
        }
        assert_eq!(choose(&candidates, &mut Position::default(), true, |_| None), None);
    }

    #[test]
    fn servers_with_equally_few_take_turns() {
        let candidates = Candidates::new((0..3).map(|slot| (ServerId::new(slot, 0), 1)));
        let mut position = Position::default();
        let turns: Vec<_> = (0..6)
            .map(|_| choose(&candidates, &mut position, false, |_| Some(0)).unwrap().slot())
            .collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    }
}
