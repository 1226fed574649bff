use proptest::prelude::*;

use super::*;
use crate::config::MostEjected;

const SETTINGS: Passive = Passive {
    eject: true,
    unanswered: 5,
    window: 10,
    eject_for: 30,
    max_ejected: MostEjected::Servers(1),
};

const NOBODY: [usize; 0] = [];

/// Servers whose counters rise, looked at once a second.
struct Rig {
    ejector: Ejector,
    servers: Vec<ServerSignals>,
    now: Moment,
}

impl Rig {
    fn new(servers: u16, settings: Passive) -> Self {
        let server = |number| ServerSignals {
            server: ServerId::new(number, 0),
            available: true,
            handshakes: 1_000,
            unanswered: 7,
            refused: 3,
        };
        let servers: Vec<_> = (0..servers).map(server).collect();
        let mut rig = Self { ejector: Ejector::new(settings), servers, now: Moment::START };
        assert_eq!(rig.look(), NOBODY, "what was before says nothing");
        rig
    }

    /// A second passes.
    fn look(&mut self) -> Vec<usize> {
        self.told().into_iter().map(|(index, _)| index).collect()
    }

    fn told(&mut self) -> Vec<(usize, String)> {
        self.now = self.now.plus(Duration::from_secs(1));
        self.ejector.ejected(self.now, &self.servers)
    }

    fn answers(&mut self, server: usize, number: u64) -> &mut Self {
        self.servers[server].handshakes += number;
        self
    }

    fn fails(&mut self, server: usize, number: u64) -> &mut Self {
        self.servers[server].unanswered += number;
        self
    }

    fn refuses(&mut self, server: usize, number: u64) -> &mut Self {
        self.servers[server].refused += number;
        self
    }
}

#[test]
fn a_server_that_does_not_answer_while_another_does_is_left_out_for_a_while() {
    let mut rig = Rig::new(2, SETTINGS);
    for _ in 0..2 {
        assert_eq!(rig.answers(1, 1).fails(0, 2).look(), NOBODY);
    }
    let told = rig.answers(1, 1).fails(0, 2).told();
    let reason = "6 connections in a row got no answer within 10 s";
    assert_eq!(told, [(0, reason.to_owned())]);
    for _ in 0..29 {
        assert_eq!(rig.fails(0, 100).look(), [0], "what comes late is not held against it twice");
    }
    assert_eq!(rig.look(), NOBODY);
    assert_eq!(rig.answers(1, 1).fails(0, 4).look(), NOBODY, "it begins anew");
    assert_eq!(rig.answers(1, 1).fails(0, 1).look(), [0]);
}

#[test]
fn a_connection_that_is_answered_makes_an_end_of_the_row() {
    let mut rig = Rig::new(2, SETTINGS);
    for _ in 0..20 {
        assert_eq!(rig.answers(1, 1).fails(0, 4).look(), NOBODY);
        assert_eq!(rig.answers(0, 1).fails(0, 4).look(), NOBODY);
    }
}

#[test]
fn what_failed_longer_ago_than_the_window_does_not_count() {
    let mut rig = Rig::new(2, SETTINGS);
    for _ in 0..10 {
        assert_eq!(rig.answers(1, 1).fails(0, 1).look(), NOBODY);
        for _ in 0..2 {
            assert_eq!(rig.look(), NOBODY);
        }
    }
}

#[test]
fn where_nobody_answers_the_clients_may_be_to_blame() {
    let mut rig = Rig::new(3, SETTINGS);
    for _ in 0..20 {
        assert_eq!(rig.fails(0, 100).fails(1, 100).fails(2, 100).look(), NOBODY);
    }
    assert_eq!(rig.answers(2, 1).look(), [0], "until one does");
}

#[test]
fn a_server_that_refuses_needs_no_other_to_be_compared_with() {
    let mut rig = Rig::new(2, SETTINGS);
    let told = rig.refuses(0, 5).told();
    let reason = "5 connections in a row were refused within 10 s";
    assert_eq!(told, [(0, reason.to_owned())]);
    let mut rig = Rig::new(2, SETTINGS);
    let told = rig.answers(1, 1).refuses(0, 2).fails(0, 3).told();
    let reason = "5 connections in a row failed, 2 of them refused within 10 s";
    assert_eq!(told, [(0, reason.to_owned())]);
}

#[test]
fn of_several_the_worst_are_left_out_and_no_more_than_may_be() {
    let mut rig = Rig::new(4, SETTINGS);
    assert_eq!(rig.refuses(0, 6).refuses(1, 9).refuses(2, 7).look(), [1]);
    let two = Passive { max_ejected: MostEjected::Percent(50), ..SETTINGS };
    rig.ejector.configure(two);
    assert_eq!(rig.look(), [1, 2]);
    rig.ejector.configure(SETTINGS);
    assert_eq!(rig.look(), [2], "who was left out first comes back first");
}

#[test]
fn the_last_server_is_never_left_out() {
    let mut rig = Rig::new(1, SETTINGS);
    assert_eq!(rig.refuses(0, 100).look(), NOBODY);
    let all = Passive { max_ejected: MostEjected::Percent(100), ..SETTINGS };
    let mut rig = Rig::new(3, all);
    rig.servers[2].available = false;
    assert_eq!(rig.refuses(0, 9).refuses(1, 8).look(), [0]);
    rig.servers[1].available = false;
    assert_eq!(rig.look(), NOBODY, "the other has gone since");
}

#[test]
fn servers_are_known_by_what_they_are_and_not_by_their_places() {
    let mut rig = Rig::new(3, SETTINGS);
    assert_eq!(rig.refuses(0, 5).look(), [0]);
    rig.servers.rotate_left(1);
    assert_eq!(rig.look(), [2]);
    rig.servers.pop();
    assert_eq!(rig.look(), NOBODY);
}

#[test]
fn whoever_wants_nobody_left_out_has_everybody_at_once() {
    let mut rig = Rig::new(2, SETTINGS);
    assert_eq!(rig.refuses(0, 5).look(), [0]);
    rig.ejector.configure(Passive { eject: false, ..SETTINGS });
    assert_eq!(rig.look(), NOBODY);
    assert_eq!(rig.refuses(0, 50).look(), NOBODY);
}

/// What happens to one server within a second.
fn second() -> impl Strategy<Value = (u64, u64, u64, bool)> {
    (
        prop_oneof![2 => Just(0u64), 1 => 1u64..5],
        prop_oneof![1 => Just(0u64), 1 => 0u64..9],
        prop_oneof![2 => Just(0u64), 1 => 0u64..9],
        prop::bool::weighted(0.9),
    )
}

proptest! {
    #[test]
    fn never_too_many_never_the_last_never_one_that_answers_and_never_for_longer(
        seconds in prop::collection::vec(prop::collection::vec(second(), 4), 1..120),
        percent in 1u32..=100,
        unanswered in 1u32..10,
        eject_for in 1u32..40,
    ) {
        let max_ejected = MostEjected::Percent(percent);
        let settings = Passive { unanswered, eject_for, max_ejected, ..SETTINGS };
        let mut rig = Rig::new(4, settings);
        let mut out_for = [0u32; 4];
        for second in seconds {
            let mut answered = [false; 4];
            for (index, (handshakes, failures, refused, available)) in second.into_iter().enumerate() {
                rig.answers(index, handshakes).fails(index, failures).refuses(index, refused);
                rig.servers[index].available = available;
                answered[index] = handshakes > 0;
            }
            let out = rig.look();
            prop_assert!(out.len() <= max_ejected.of(4), "{out:?}");
            let available = |index: &usize| rig.servers[*index].available;
            let left = (0..4).filter(available).filter(|index| !out.contains(index)).count();
            prop_assert!(left > 0 || (0..4).filter(available).count() == 0, "{out:?}");
            for index in 0..4 {
                let is_new = out_for[index] == 0;
                out_for[index] = if out.contains(&index) { out_for[index] + 1 } else { 0 };
                prop_assert!(out_for[index] <= eject_for);
                prop_assert!(!(is_new && out_for[index] == 1 && answered[index]));
            }
        }
    }
}
