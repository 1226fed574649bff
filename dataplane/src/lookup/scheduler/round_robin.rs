//! Each server in turn, alike (SCH-01) or in proportion to its weight (SCH-02).

use super::Position;
use crate::snapshot::{Candidates, ServerId};

/// Each in turn.
pub fn plain(candidates: &Candidates, position: &mut Position) -> Option<ServerId> {
    let servers = candidates.servers();
    let &(server, _) = servers.get(position.next as usize).or_else(|| servers.first())?;
    // A shorter list than last time starts again from the first.
    position.next = if (position.next as usize) < servers.len() { position.next + 1 } else { 1 };
    Some(server)
}

/// In rounds: at the highest level only the heaviest take part, each round lowers the level by the
/// greatest common divisor of all weights, and after the lowest it starts at the highest again. Servers
/// stand heaviest first, so those that take part in a round are the first few.
pub fn weighted(candidates: &Candidates, position: &mut Position) -> Option<ServerId> {
    let servers = candidates.servers();
    let &(heaviest, highest) = servers.first()?;
    if position.level == 0 || position.level > highest {
        *position = Position { next: 0, level: highest };
    }
    match servers.get(position.next as usize) {
        Some(&(server, weight)) if weight >= position.level => {
            position.next += 1;
            Some(server)
        }
        _ => {
            let lower = position.level.saturating_sub(candidates.step());
            *position = Position { next: 1, level: if lower == 0 { highest } else { lower } };
            Some(heaviest)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(weights: &[u16]) -> Candidates {
        let identity = |index: usize| ServerId::new(index as u16, 0);
        Candidates::new(
            weights.iter().enumerate().map(|(index, &weight)| (identity(index), weight)),
        )
    }

    fn shares(
        weights: &[u16],
        flows: usize,
        choose: impl Fn(&Candidates, &mut Position) -> Option<ServerId>,
    ) -> Vec<usize> {
        let candidates = candidates(weights);
        let mut position = Position::default();
        let mut shares = vec![0; weights.len()];
        for _ in 0..flows {
            shares[choose(&candidates, &mut position).unwrap().slot()] += 1;
        }
        shares
    }

    #[test]
    fn round_robin_gives_each_server_the_same_whatever_its_weight() {
        assert_eq!(shares(&[1, 50, 3], 300, plain), [100, 100, 100]);
    }

    #[test]
    fn weights_1_2_3_share_600_flows_as_100_200_300() {
        assert_eq!(shares(&[1, 2, 3], 600, weighted), [100, 200, 300]);
    }

    #[test]
    fn every_cycle_begins_with_the_heaviest() {
        let candidates = candidates(&[1, 2, 3]);
        let mut position = Position::default();
        let order: Vec<_> =
            (0..12).map(|_| weighted(&candidates, &mut position).unwrap().slot()).collect();
        assert_eq!(order, [2, 2, 1, 2, 1, 0, 2, 2, 1, 2, 1, 0]);
    }

    #[test]
    fn weights_5_10_and_50_100_give_the_same_order() {
        let order = |weights: &[u16]| {
            let candidates = candidates(weights);
            let mut position = Position::default();
            (0..30)
                .map(|_| weighted(&candidates, &mut position).unwrap().slot())
                .collect::<Vec<_>>()
        };
        assert_eq!(order(&[5, 10]), order(&[50, 100]));
    }

    #[test]
    fn without_servers_there_is_no_choice() {
        assert_eq!(plain(&candidates(&[]), &mut Position::default()), None);
        assert_eq!(weighted(&candidates(&[0, 0]), &mut Position::default()), None);
    }

    proptest! {
        #[test]
        fn a_whole_cycle_is_shared_exactly_by_weight(weights in prop::collection::vec(0u16..40, 1..12)) {
            prop_assume!(weights.iter().any(|&weight| weight > 0));
            let step = usize::from(candidates(&weights).step());
            let cycle: usize = weights.iter().map(|&weight| usize::from(weight) / step).sum();
            let expected: Vec<_> = weights.iter().map(|&weight| usize::from(weight) / step * 3).collect();
            prop_assert_eq!(shares(&weights, cycle * 3, weighted), expected);
        }

        #[test]
        fn any_position_is_good_for_any_list(weights in prop::collection::vec(0u16.., 0..9), next: u32, level: u16) {
            let candidates = candidates(&weights);
            for choose in [plain, weighted] {
                let mut position = Position { next, level };
                for _ in 0..20 {
                    prop_assert_eq!(choose(&candidates, &mut position).is_some(), !candidates.servers().is_empty());
                }
            }
        }
    }
}
