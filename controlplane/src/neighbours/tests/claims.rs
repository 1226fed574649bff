//! Our own addresses, until they are ours: over ARP and neighbour discovery alike.

use super::*;
use crate::icmpv6::UNSPECIFIED;
use crate::neighbours::discovery::{self, Kind as Discovery};

const PAUSE: Duration = Duration::from_millis(200);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const SIX: &str = "2001:db8:1::2";

fn six() -> Address {
    SIX.parse().unwrap()
}

/// One interface with an address of each family, a virtual one, and a server.
fn both() -> Plan {
    let own = Own {
        mac: OUR_MAC,
        addresses: vec![Prefix::new(OURS.into(), 16), Prefix::new(six(), 64)],
        virtual_addresses: vec!["10.0.0.100".parse().unwrap()],
        quiet: false,
    };
    Plan { interfaces: vec![own], wanted: vec![(OUTSIDE, SERVER.into())], fixed: vec![] }
}

fn begun() -> Neighbours {
    let mut table = Neighbours::new(1);
    table.configure(Moment::START, both());
    table
}

/// What is said until `until`, a tenth of a second at a time: the target of each probe and of each announcement.
fn said(table: &mut Neighbours, from: Moment, until: Duration) -> (Vec<Address>, Vec<Address>) {
    let (mut probed, mut announced) = (Vec::new(), Vec::new());
    let mut now = from;
    while now.since(from) < until {
        table.tick(now);
        while let Some((_, frame)) = table.next_frame() {
            let (sender, target, is_request) = match Message::read(&frame) {
                Ok(it) => (it.sender.into(), it.target.into(), it.operation == Operation::Request),
                Err(_) => {
                    let it = discovery::Message::read(&frame).unwrap();
                    (it.source, it.target, it.kind == Discovery::Solicitation)
                }
            };
            if sender == UNSPECIFIED || sender == Ipv4Addr::UNSPECIFIED.into() {
                assert!(is_request);
                probed.push(target);
            } else if sender == target {
                announced.push(target);
            }
        }
        now = now.plus(Duration::from_millis(100));
    }
    (probed, announced)
}

fn count(said: &[Address], address: Address) -> usize {
    said.iter().filter(|it| **it == address).count()
}

/// The station says that `address` is its own.
fn claims(address: Address) -> Vec<u8> {
    match address.v4() {
        Some(address) => Message::asking(STATION, address, address).frame(Mac::BROADCAST),
        None => discovery::Message::announcing(STATION, address),
    }
}

/// The station asks whether anybody has `address`.
fn probes(address: Address) -> Vec<u8> {
    match address.v4() {
        Some(address) => {
            Message::asking(STATION, Ipv4Addr::UNSPECIFIED, address).frame(Mac::BROADCAST)
        }
        None => discovery::Message::probing(STATION, address),
    }
}

#[test]
fn our_own_addresses_are_asked_for_and_then_announced_and_virtual_ones_announced_at_once() {
    let mut table = begun();
    let virtual_address = "10.0.0.100".parse().unwrap();
    let (probed, announced) = said(&mut table, Moment::START, PAUSE * 2);
    assert_eq!(announced, [virtual_address]);
    assert!(probed.len() >= 4);
    let (probed, announced) = said(&mut table, Moment::START.plus(PAUSE * 2), REPEAT * 5);
    assert_eq!([count(&probed, OURS.into()), count(&probed, six())], [1, 1], "three in all");
    assert_eq!([count(&announced, OURS.into()), count(&announced, six())], [3, 3]);
    assert!(table.duplicates().is_empty());
    // Not again when something else changes.
    table.configure(Moment::START.plus(REPEAT * 9), Plan { wanted: vec![], ..both() });
    let (probed, announced) = said(&mut table, Moment::START.plus(REPEAT * 9), REPEAT);
    assert_eq!((probed, announced), (vec![], vec![]));
}

#[test]
fn nobody_waits_for_an_address_that_is_being_asked_for() {
    let mut table = begun();
    table.receive(Moment::START, OUTSIDE, &request("10.0.0.9".parse().unwrap(), OURS));
    let answer = frames(&mut table).pop().unwrap().2;
    assert_eq!((answer.operation, answer.sender), (Operation::Reply, OURS));
    table.tick(Moment::START);
    let asked = std::iter::from_fn(|| table.next_frame())
        .filter_map(|(_, frame)| Message::read(&frame).ok())
        .find(|message| message.target == SERVER);
    assert_eq!(asked.unwrap().sender, OURS);
}

#[test]
fn an_address_that_another_station_has_is_neither_answered_for_nor_used() {
    for address in [OURS.into(), six()] {
        for says in [claims, probes] {
            let mut table = begun();
            table.tick(Moment::START);
            while table.next_frame().is_some() {}
            table.receive(Moment::START, OUTSIDE, &says(address));
            assert_eq!(table.duplicates(), [(OUTSIDE, address)]);
            assert_eq!(table.take_turns(), [Turn { address, held_by: Some(STATION) }]);
            assert!(table.next_frame().is_none(), "no defence");
            let asks = match address.v4() {
                Some(address) => request(SERVER, address),
                None => discovery::Message::asking(
                    STATION,
                    "2001:db8:1::7".parse().unwrap(),
                    address,
                    Some(OUR_MAC),
                ),
            };
            table.receive(Moment::START, OUTSIDE, &asks);
            assert!(table.next_frame().is_none(), "no answer");
            let (_, announced) = said(&mut table, Moment::START.plus(PAUSE), REPEAT * 5);
            assert_eq!(count(&announced, address), 0);
            let other = if address == six() { OURS.into() } else { six() };
            assert_eq!(count(&announced, other), 3, "the other one is ours");
        }
    }
}

#[test]
fn servers_are_still_asked_for_without_an_address_to_ask_from() {
    let mut table = begun();
    table.receive(Moment::START, OUTSIDE, &claims(OURS.into()));
    table.tick(Moment::START);
    let asked = std::iter::from_fn(|| table.next_frame())
        .filter_map(|(_, frame)| Message::read(&frame).ok())
        .find(|message| message.target == SERVER);
    assert_eq!(asked.unwrap().sender, Ipv4Addr::UNSPECIFIED);
    table.receive(Moment::START, OUTSIDE, &reply(SERVER, STATION));
    assert_eq!(table.known().get(&(OUTSIDE, SERVER.into())), Some(&STATION));
}

#[test]
fn an_address_is_asked_for_again_after_a_minute_and_used_when_nobody_answers() {
    let mut table = begun();
    let mut now = Moment::START;
    table.receive(now, OUTSIDE, &claims(OURS.into()));
    for _ in 0..2 {
        let (probed, _) = said(&mut table, now, Duration::from_secs(59));
        assert_eq!(count(&probed, OURS.into()), 0);
        now = now.plus(Duration::from_secs(60));
        table.tick(now);
        while table.next_frame().is_some() {}
        assert_eq!(table.duplicates().len(), 1, "not used meanwhile");
        table.receive(now, OUTSIDE, &reply(OURS, STATION));
    }
    assert_eq!(table.take_turns().len(), 1, "that it is still another's is no news");
    now = now.plus(Duration::from_secs(60));
    let (probed, announced) = said(&mut table, now, REPEAT * 5);
    assert_eq!([count(&probed, OURS.into()), count(&announced, OURS.into())], [3, 3]);
    assert!(table.duplicates().is_empty());
    assert_eq!(table.take_turns(), [Turn { address: OURS.into(), held_by: None }]);
    table.receive(now, OUTSIDE, &request(SERVER, OURS));
    assert_eq!(frames(&mut table).len(), 1, "answered for");
}

#[test]
fn an_address_that_was_ours_is_defended_and_not_given_up() {
    let mut table = begun();
    let now = Moment::START.plus(REPEAT * 10);
    said(&mut table, Moment::START, REPEAT * 10);
    for address in [OURS.into(), six()] {
        table.receive(now, OUTSIDE, &claims(address));
        assert!(table.next_frame().is_some());
    }
    assert!(table.duplicates().is_empty());
}

#[test]
fn nobody_is_asked_where_nobody_listens() {
    let mut plan = both();
    plan.interfaces[0].quiet = true;
    let mut table = Neighbours::new(1);
    table.configure(Moment::START, plan);
    assert_eq!(said(&mut table, Moment::START, REPEAT * 5), (vec![], vec![]));
    table.receive(Moment::START, OUTSIDE, &request(SERVER, OURS));
    assert_eq!(frames(&mut table).len(), 1);
}

#[test]
fn our_own_questions_heard_again_are_no_conflict() {
    let mut table = begun();
    table.tick(Moment::START);
    let asked: Vec<_> = std::iter::from_fn(|| table.next_frame()).collect();
    for (interface, frame) in asked {
        table.receive(Moment::START, interface, &frame);
    }
    assert!(table.duplicates().is_empty());
}

#[test]
fn traffic_confirms_a_station_so_that_it_is_not_asked_and_says_nothing_of_its_address() {
    let (mut table, mut now) = table();
    table.receive(now, INSIDE, &reply(SERVER, STATION));
    for _ in 0..120 {
        now = now.plus(REPEAT);
        table.confirm(now, INSIDE, SERVER.into());
        table.tick(now);
        assert!(frames(&mut table).is_empty());
    }
    // A server that moves is believed while its old self is still heard.
    let other = Mac([2, 0, 0, 0, 0, 0x88]);
    table.confirm(now, INSIDE, SERVER.into());
    table.receive(now, INSIDE, &reply(SERVER, other));
    assert_eq!(known(&table, SERVER), Some(other));
    // Of one that is not known it says nothing.
    table.confirm(now, OUTSIDE, "192.0.2.9".parse().unwrap());
    assert_eq!(table.report(now).len(), 1);
}
