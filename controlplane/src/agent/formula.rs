//! From a server's own weight and its agent's answer to the weight that it has for now.

use crate::config::AgentFormula;

/// The weight of a server whose own weight is `initial`, and which is idle to so many percent (AG-03, AG-04). No
/// number takes a server offline (AG-05), and none brings one back whose own weight is 0.
pub fn weight(formula: AgentFormula, initial: u16, idle: u8) -> u16 {
    if initial == 0 {
        return 0;
    }
    let divisor = match formula {
        AgentFormula::V8 => 100,
        AgentFormula::V6 => 10,
    };
    let weight = u32::from(idle) * u32::from(initial) / divisor;
    u16::try_from(weight).unwrap_or(u16::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_8_takes_the_idle_share_of_the_servers_own_weight() {
        let weight = |initial, idle| weight(AgentFormula::V8, initial, idle);
        assert_eq!(weight(100, 92), 92);
        assert_eq!(weight(50, 10), 5);
        assert_eq!(weight(65_535, 100), 65_535);
    }

    #[test]
    fn version_6_takes_ten_times_that() {
        let weight = |initial, idle| weight(AgentFormula::V6, initial, idle);
        assert_eq!(weight(1, 92), 9);
        assert_eq!(weight(1, 100), 10);
        assert_eq!(weight(1, 10), 1);
        assert_eq!(weight(60_000, 100), 65_535, "and no more than a weight can be");
    }

    #[test]
    fn no_answer_takes_a_server_offline_and_none_brings_one_back() {
        for formula in [AgentFormula::V8, AgentFormula::V6] {
            assert_eq!(weight(formula, 100, 0), 1);
            assert_eq!(weight(formula, 1, 1), 1);
            assert_eq!(weight(formula, 0, 100), 0);
        }
    }
}
