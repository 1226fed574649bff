//! What is measured is what is meant: the frames that go round come out as each mode makes them, and go in again as
//! they were.

use std::collections::BTreeSet;

use perf::ground::{self, Memory};
use perf::machine;
use perf::rig::{FRAMES, Load, Replies, Rig};
use perf::traffic::{Direction, Ends, Family, Mode, Scene, Size};

use dataplane::worker::Worker;

const FLOWS: u32 = 2_000;

/// Ends of what came out in the last of three rounds, outer header taken off.
fn came_out(ground: &perf::rig::Ground, scene: Scene, direction: Direction) -> Vec<Ends> {
    let mut rig = Rig::new(ground, scene, 0, Replies::Wanted, Worker::new).unwrap();
    for _ in 0..3 {
        rig.prepare(Load { direction, size: Size::Imix, one_new_in: 0 });
        rig.run().unwrap();
    }
    assert_eq!(rig.counters.flows.get(), i64::from(FLOWS));
    let outer = match (scene.mode, scene.family) {
        (Mode::Tun, Family::Ipv4) => 20,
        (Mode::Tun, Family::Ipv6) => 40,
        _ => 0,
    };
    let sent = rig.sent();
    assert_eq!(sent.len(), FRAMES);
    let inner = |frame: &Vec<u8>| [&frame[..14], &frame[14 + outer..]].concat();
    sent.iter().map(|frame| Ends::of(&inner(frame)).unwrap()).collect()
}

#[test]
fn every_mode_does_to_frames_what_it_should_in_each_round() {
    let started = ground::start(Memory::Plain, 32 << 20, machine::last_core()).unwrap();
    for family in [Family::Ipv4, Family::Ipv6] {
        for mode in [Mode::Dr, Mode::Nat, Mode::Snat, Mode::Tun] {
            let scene = Scene { mode, family, flows: FLOWS, services: 7, servers: 3 };
            let clients: BTreeSet<_> = (0..FLOWS).map(|flow| scene.ends(flow).source).collect();
            let virtuals: BTreeSet<_> = (0..7).map(|it| scene.virtual_address(it)).collect();
            let servers: BTreeSet<_> = (0..21).map(|it| (scene.server(it), 8_080)).collect();

            let requests = came_out(&started.ground, scene, Direction::Request);
            let from: BTreeSet<_> = requests.iter().map(|ends| ends.source).collect();
            let to: BTreeSet<_> = requests.iter().map(|ends| ends.destination).collect();
            assert_eq!(to, if mode.translates() { servers } else { virtuals.clone() }, "{scene:?}");
            match mode {
                Mode::Snat => assert!(from.is_disjoint(&clients), "{scene:?}"),
                _ => assert!(from.is_subset(&clients) && from.len() > 1_900, "{scene:?}"),
            }
            if mode.translates() {
                let replies = came_out(&started.ground, scene, Direction::Reply);
                assert!(replies.iter().all(|ends| virtuals.contains(&ends.source)), "{scene:?}");
                assert!(replies.iter().all(|it| clients.contains(&it.destination)), "{scene:?}");
            }
        }
    }
}
