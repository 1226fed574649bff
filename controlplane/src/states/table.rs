//! The one rule that says what a server's state is and which flows it takes. What is wanted and what there is are
//! two things (ST-03): the operator says the one, checks and the network the other, and here they meet.

use std::fmt;

use dataplane::snapshot::Admission;

use crate::config::State as Wanted;

/// What the checks say of a server, and what its flows say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nobody asks: it counts as well (HC-06).
    Unasked,
    /// Nobody asks: it counts as not well (HC-05).
    Off,
    /// It has not passed a check since nobody knew of it.
    Unknown,
    /// It passes its checks.
    Well,
    /// It fails a check.
    Failing,
    /// It passes its checks, but its flows fare badly.
    Ejected,
}

/// What a server's state depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Facts {
    /// What the operator wants of the server; `Drain` at weight 0, too.
    pub wanted: Wanted,
    /// Whether its agent asks for new flows to stay away.
    pub drained_by_agent: bool,
    /// Whether a server of the service takes new flows whose agent does not ask for that.
    pub others: bool,
    /// Whether its service takes new flows at all (VS-20).
    pub enabled: bool,
    /// What checks say.
    pub health: Health,
    /// Whether a server that is not well keeps its flows (HC-15).
    pub quiescent: bool,
    /// Whether it is the last of its service, which stays in service (ST-05).
    pub kept: bool,
    /// Whether flows from when it was well have not ended yet.
    pub busy: bool,
    /// Whether the hardware address of the next station on the way to it is known.
    pub reachable: bool,
}

impl Facts {
    /// Whether the server drains because its agent asks for it. No agent takes the last one offline (AG-05).
    pub fn heeds_agent(&self) -> bool {
        self.wanted == Wanted::Online && self.drained_by_agent && self.others
    }
}

/// What there is (C-19).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Actual {
    /// It has not passed a check yet, and takes no new flows.
    Unknown,
    /// It takes new flows.
    Up,
    /// It fails its check, and flows that it has may finish.
    Closing,
    /// It fails its check, and has no flows.
    Down,
    /// It takes no new flows, as asked for.
    Drain,
    /// Its flows are reset, as asked for.
    Halt,
    /// Its service takes no new flows, as asked for.
    Disabled,
    /// It counts as well, but nobody answers for its address.
    Unreachable,
}

impl Actual {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Closing => "closing",
            Self::Down => "down",
            Self::Drain => "drain",
            Self::Halt => "halt",
            Self::Disabled => "disabled",
            Self::Unreachable => "unreachable",
        }
    }

    /// Whether a server in this state may have flows that go on, so that it closes before it is down.
    pub fn may_be_busy(self) -> bool {
        !matches!(self, Self::Unknown | Self::Down | Self::Halt)
    }
}

impl fmt::Display for Actual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The rule, a row for each case; the first row that fits counts.
#[rustfmt::skip]
pub fn outcome(facts: Facts) -> (Actual, Admission) {
    use Actual::{Closing, Disabled, Down, Drain, Halt, Unknown, Unreachable, Up};
    use Admission::{Draining, Halted, Open};
    use Health as H;
    use Wanted as W;
    const YES: bool = true;
    const NO: bool = false;

    let Facts { enabled, health, quiescent, kept, busy, reachable, .. } = facts;
    let wanted = if facts.heeds_agent() { W::Drain } else { facts.wanted };
    match (wanted, enabled, health, quiescent, kept, busy, reachable) {
        //wanted    enabled  health                    quiescent kept busy reachable
        // What is wanted at once comes first.
        (W::Halt,   _,       _,                        _,   _,   _,   _  ) => (Halt, Halted),
        // A disabled service takes no new flows whatever its servers do; they keep or lose those that they have.
        (_,         NO,      H::Off | H::Failing,      NO,  _,   _,   _  ) => (Disabled, Halted),
        (W::Online, NO,      H::Unasked | H::Well,     _,   _,   _,   _  ) => (Disabled, Open),
        (_,         NO,      _,                        _,   _,   _,   _  ) => (Disabled, Draining),
        // A server that fails: its state says so even if it is the last and stays in service (C-18).
        (W::Online, YES,     H::Failing | H::Ejected,  _,   YES, YES, _  ) => (Closing, Open),
        (W::Online, YES,     H::Failing | H::Ejected,  _,   YES, NO,  _  ) => (Down, Open),
        (_,         YES,     H::Failing,               NO,  _,   YES, _  ) => (Closing, Halted),
        (_,         YES,     H::Failing,               NO,  _,   NO,  _  ) => (Down, Halted),
        // Flows that fare badly are a suspicion: those that there are go on.
        (_,         YES,     H::Failing | H::Ejected,  _,   _,   YES, _  ) => (Closing, Draining),
        (_,         YES,     H::Failing | H::Ejected,  _,   _,   NO,  _  ) => (Down, Draining),
        // A check that is off is the operator's word, too.
        (_,         YES,     H::Off,                   NO,  _,   _,   _  ) => (Halt, Halted),
        (W::Online, YES,     H::Unknown,               _,   _,   _,   _  ) => (Unknown, Draining),
        (W::Online, YES,     H::Unasked | H::Well,     _,   _,   _,   NO ) => (Unreachable, Open),
        (_,         YES,     _,                        _,   _,   _,   NO ) => (Unreachable, Draining),
        (W::Drain,  YES,     _,                        _,   _,   _,   YES) => (Drain, Draining),
        (_,         YES,     H::Off,                   YES, _,   _,   YES) => (Drain, Draining),
        (W::Online, YES,     H::Unasked | H::Well,     _,   _,   _,   YES) => (Up, Open),
    }
}

#[cfg(test)]
mod tests {
    use Admission::{Draining, Halted, Open};
    use Health::{Ejected, Failing, Off, Unasked, Unknown, Well};

    use super::*;

    /// A server that is well, in a service as it comes.
    const WELL: Facts = Facts {
        wanted: Wanted::Online,
        drained_by_agent: false,
        others: true,
        enabled: true,
        health: Well,
        quiescent: true,
        kept: false,
        busy: true,
        reachable: true,
    };

    #[test]
    fn every_row_of_the_table_says_what_it_should() {
        let (online, drain, halt) = (Wanted::Online, Wanted::Drain, Wanted::Halt);
        let well = WELL;
        let failing = Facts { health: Failing, ..WELL };
        let off = Facts { health: Off, ..WELL };
        let disabled = Facts { enabled: false, ..WELL };
        let rows = [
            // ST-01, ST-02, ST-03.
            ("well", well, Actual::Up, Open),
            ("not asked", Facts { health: Unasked, ..well }, Actual::Up, Open),
            ("drained", Facts { wanted: drain, ..well }, Actual::Drain, Draining),
            ("halted", Facts { wanted: halt, ..well }, Actual::Halt, Halted),
            ("halted and failing", Facts { wanted: halt, ..failing }, Actual::Halt, Halted),
            // AG-05.
            ("its agent drains", Facts { drained_by_agent: true, ..well }, Actual::Drain, Draining),
            (
                "its agent drains, and no other is open",
                Facts { drained_by_agent: true, others: false, ..well },
                Actual::Up,
                Open,
            ),
            (
                "its agent drains, and it is halted",
                Facts { drained_by_agent: true, wanted: halt, ..well },
                Actual::Halt,
                Halted,
            ),
            (
                "its agent drains, and it fails",
                Facts { drained_by_agent: true, ..failing },
                Actual::Closing,
                Draining,
            ),
            (
                "its agent drains, and it fails and is the last, kept",
                Facts { drained_by_agent: true, others: false, kept: true, ..failing },
                Actual::Closing,
                Open,
            ),
            // HC-18, C-19.
            ("failing, with flows", failing, Actual::Closing, Draining),
            ("failing, without", Facts { busy: false, ..failing }, Actual::Down, Draining),
            ("drained and failing", Facts { wanted: drain, ..failing }, Actual::Closing, Draining),
            // HC-15.
            ("not quiescent", Facts { quiescent: false, ..failing }, Actual::Closing, Halted),
            (
                "not quiescent, without flows",
                Facts { quiescent: false, busy: false, ..failing },
                Actual::Down,
                Halted,
            ),
            // ST-05, C-18.
            ("the last, kept", Facts { kept: true, ..failing }, Actual::Closing, Open),
            (
                "the last, kept, not quiescent",
                Facts { kept: true, quiescent: false, busy: false, ..failing },
                Actual::Down,
                Open,
            ),
            (
                "kept but drained",
                Facts { kept: true, wanted: drain, ..failing },
                Actual::Closing,
                Draining,
            ),
            // Passive ejection.
            ("ejected", Facts { health: Ejected, ..well }, Actual::Closing, Draining),
            (
                "ejected, not quiescent: its flows go on",
                Facts { health: Ejected, quiescent: false, busy: false, ..well },
                Actual::Down,
                Draining,
            ),
            ("ejected, kept", Facts { health: Ejected, kept: true, ..well }, Actual::Closing, Open),
            // A restart.
            ("unknown", Facts { health: Unknown, ..well }, Actual::Unknown, Draining),
            (
                "unknown, not quiescent: its flows go on",
                Facts { health: Unknown, quiescent: false, ..well },
                Actual::Unknown,
                Draining,
            ),
            (
                "unknown and drained",
                Facts { health: Unknown, wanted: drain, ..well },
                Actual::Drain,
                Draining,
            ),
            // HC-05.
            ("off", off, Actual::Drain, Draining),
            ("off, not quiescent", Facts { quiescent: false, ..off }, Actual::Halt, Halted),
            // VS-20.
            ("disabled", disabled, Actual::Disabled, Open),
            (
                "disabled and drained",
                Facts { wanted: drain, ..disabled },
                Actual::Disabled,
                Draining,
            ),
            ("disabled and halted", Facts { wanted: halt, ..disabled }, Actual::Halt, Halted),
            (
                "disabled and failing",
                Facts { health: Failing, ..disabled },
                Actual::Disabled,
                Draining,
            ),
            (
                "disabled and failing, not quiescent",
                Facts { health: Failing, quiescent: false, ..disabled },
                Actual::Disabled,
                Halted,
            ),
            // Nobody answers ARP for it.
            ("unreachable", Facts { reachable: false, ..well }, Actual::Unreachable, Open),
            (
                "unreachable and drained",
                Facts { reachable: false, wanted: drain, ..well },
                Actual::Unreachable,
                Draining,
            ),
            (
                "unreachable and failing",
                Facts { reachable: false, ..failing },
                Actual::Closing,
                Draining,
            ),
            ("unreachable, off", Facts { reachable: false, ..off }, Actual::Unreachable, Draining),
        ];
        for (case, facts, actual, admission) in rows {
            assert_eq!(outcome(facts), (actual, admission), "{case}");
        }
        assert_eq!(online, WELL.wanted);
    }

    /// All facts there can be.
    fn all() -> impl Iterator<Item = Facts> {
        let wanted = [Wanted::Online, Wanted::Drain, Wanted::Halt];
        let health = [Unasked, Off, Unknown, Well, Failing, Ejected];
        (0..3 * 6 * 128).map(move |number| {
            let bit = |position: usize| number >> position & 1 == 1;
            Facts {
                enabled: bit(0),
                quiescent: bit(1),
                kept: bit(2),
                busy: bit(3),
                reachable: bit(4),
                drained_by_agent: bit(5),
                others: bit(6),
                wanted: wanted[number / 128 % 3],
                health: health[number / 384],
            }
        })
    }

    #[test]
    fn only_what_is_wanted_online_takes_new_flows_and_only_if_it_is_well_or_kept() {
        for facts in all() {
            let (actual, admission) = outcome(facts);
            let may = facts.wanted == Wanted::Online
                && (matches!(facts.health, Unasked | Well)
                    || facts.kept && matches!(facts.health, Failing | Ejected));
            assert!(may || admission != Open, "{facts:?}");
            assert!(actual != Actual::Up || admission == Open, "{facts:?}");
        }
    }

    #[test]
    fn an_agent_changes_nothing_where_no_other_server_is_open() {
        for facts in all().filter(|facts| !facts.others) {
            let silent = Facts { drained_by_agent: false, ..facts };
            assert_eq!(outcome(facts), outcome(silent), "{facts:?}");
        }
    }

    #[test]
    fn flows_are_reset_only_where_that_was_asked_for() {
        for facts in all() {
            let asked = facts.wanted == Wanted::Halt
                || !facts.quiescent && matches!(facts.health, Off | Failing);
            assert!(asked || outcome(facts).1 != Halted, "{facts:?}");
        }
    }

    #[test]
    fn being_the_last_changes_no_state() {
        for facts in all() {
            let other = Facts { kept: !facts.kept, ..facts };
            assert_eq!(outcome(facts).0, outcome(other).0, "{facts:?}");
        }
    }
}
