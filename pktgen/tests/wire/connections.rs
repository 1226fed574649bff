//! Connections through devices that translate, encapsulate and drop.

use std::time::Duration;

use dataplane::wire::ipv4::Ipv4;
use dataplane::wire::{Family, gue};
use pktgen::cps;
use pktgen::cps::{Answers, Connections};
use pktgen::frame::Protocol;
use pktgen::profile::Profile;
use pktgen::report::Outcome;
use pktgen::session::Order;

use crate::rewriting::encapsulate;
use crate::rig::{Behaviour, Rig, all_buffers_are_home, profile, rig, rig_both_ways, turn};
use crate::searches::session;
use crate::searches::trial;

fn connections(rig: Rig, answers: Answers, rate: f64) -> Connections {
    let wanted = Profile { protocol: Protocol::Tcp, flows: 20_000, ..profile(rate) };
    let (session, device) = session(rig, wanted, trial(100));
    let settings = cps::Settings {
        duration: Duration::from_millis(300),
        timeout: Duration::from_secs(2),
        answers,
        gue_port: gue::PORT,
    };
    let (_, outcome) = session.perform(Order::Connections(settings)).expect("nothing is refused");
    drop(device);
    match outcome {
        Outcome::Connections(connections) => *connections,
        other => panic!("{other:?}"),
    }
}

#[test]
fn connections_are_opened_and_closed_through_a_translator() {
    let _turn = turn();
    // As SNAT does: on the way there both ends get other addresses, on the way back they get the old ones.
    let rewrite = |from: [u8; 8], to: [u8; 8]| -> Behaviour {
        Box::new(move |mut frame, now, out| {
            assert_eq!(frame.bytes()[26 + 4..34], from[4..], "it is for whom it should be");
            let (mut ip, payload) = Ipv4::split(&mut frame.bytes_mut()[14..]).expect("IPv4");
            let [a, b, c, d, e, f, g, h] = to;
            let change = ip.set_addresses([a, b, c, d].into(), [e, f, g, h].into());
            let mut tcp = dataplane::wire::tcp::Tcp::split(payload).expect("TCP");
            tcp.addresses_changed(change);
            out.push_back((now, frame));
        })
    };
    let there = rewrite([198, 18, 0, 1, 198, 19, 0, 1], [10, 0, 0, 9, 10, 0, 0, 7]);
    let back = rewrite([10, 0, 0, 7, 10, 0, 0, 9], [198, 19, 0, 1, 198, 18, 0, 1]);
    let found = connections(rig_both_ways(there, back), Answers::Device, 20_000.0);
    assert!(found.begun > 1000, "{found:?}");
    assert_eq!((found.established, found.closed), (found.begun, found.begun), "{found:?}");
    assert_eq!(
        (found.reached_server, found.timed_out, found.reset, found.foreign),
        (found.begun, 0, 0, 0)
    );
    assert_eq!(found.handshake_ns.expect("there were some").packets, found.begun);
    all_buffers_are_home();
}

#[test]
fn connections_through_a_tunnel_are_answered_past_it() {
    let _turn = turn();
    let there: Behaviour = Box::new(|mut frame, now, out| {
        encapsulate(&mut frame, Family::V4, Family::V6, false);
        out.push_back((now, frame));
    });
    let found = connections(rig(there), Answers::Direct, 20_000.0);
    assert!(
        found.begun > 1000 && found.established == found.begun && found.closed == found.begun,
        "{found:?}"
    );
    assert_eq!(found.encapsulated, found.reached_server);
    all_buffers_are_home();
}

#[test]
fn syns_that_are_dropped_are_connections_that_fail_in_time() {
    let _turn = turn();
    let mut syns = 0;
    let there: Behaviour = Box::new(move |frame, now, out| {
        let is_syn = frame.bytes()[47] == 0x02;
        syns += u64::from(is_syn);
        if !is_syn || syns % 10 != 0 {
            out.push_back((now, frame));
        }
    });
    let found = connections(rig(there), Answers::Device, 10_000.0);
    assert_eq!(found.timed_out, found.begun / 10, "{found:?}");
    assert_eq!(found.established + found.timed_out, found.begun);
    all_buffers_are_home();
}
