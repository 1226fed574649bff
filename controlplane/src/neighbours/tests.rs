//! A table on two subnets, spoken to in ARP. Neighbour discovery is in [`discovery`].

mod claims;

mod discovery;

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::arp::Message;
use super::*;

const OUTSIDE: InterfaceId = InterfaceId(0);
const INSIDE: InterfaceId = InterfaceId(1);
const OUR_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const STATION: Mac = Mac([2, 0, 0, 0, 0, 0x77]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
const VIRTUAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

fn plan() -> Plan {
    let own = |address: &str, length, virtual_addresses| Own {
        mac: OUR_MAC,
        addresses: vec![Prefix::new(address.parse().unwrap(), length)],
        virtual_addresses,
        quiet: false,
    };
    Plan {
        interfaces: vec![own("192.0.2.2", 24, vec![VIRTUAL.into()]), own("10.0.0.2", 16, vec![])],
        wanted: vec![(INSIDE, SERVER.into())],
        fixed: vec![],
    }
}

/// A table whose announcements and first requests are over.
fn table() -> (Neighbours, Moment) {
    let mut table = Neighbours::new(1);
    let mut now = Moment::START;
    table.configure(now, plan());
    for _ in 0..8 {
        table.tick(now);
        now = now.plus(REPEAT);
    }
    frames(&mut table);
    (table, now)
}

fn frames(table: &mut Neighbours) -> Vec<(InterfaceId, Mac, Message)> {
    let mut frames = Vec::new();
    while let Some((interface, frame)) = table.next_frame() {
        frames.push((
            interface,
            Mac(frame[..6].try_into().unwrap()),
            Message::read(&frame).unwrap(),
        ));
    }
    frames
}

fn known(table: &Neighbours, inside: Ipv4Addr) -> Option<Mac> {
    table.known().get(&(INSIDE, inside.into())).copied()
}

fn request(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    Message::asking(STATION, sender, target).frame(Mac::BROADCAST)
}

fn reply(sender: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let message = Message {
        operation: Operation::Reply,
        sender_mac: mac,
        sender,
        target_mac: OUR_MAC,
        target: "10.0.0.2".parse().unwrap(),
    };
    message.frame(OUR_MAC)
}

#[test]
fn requests_are_answered_for_our_own_and_the_virtual_addresses_and_no_others() {
    let (mut table, now) = table();
    let asker: Ipv4Addr = "192.0.2.9".parse().unwrap();
    for (target, answered) in
        [("192.0.2.2", true), ("192.0.2.100", true), ("192.0.2.101", false), ("10.0.0.2", false)]
    {
        let target = target.parse().unwrap();
        table.receive(now, OUTSIDE, &request(asker, target));
        let answers = frames(&mut table);
        assert_eq!(answers.len(), usize::from(answered), "{target}");
        if let [(interface, to, message)] = answers[..] {
            assert_eq!((interface, to), (OUTSIDE, STATION));
            let expected = Message {
                operation: Operation::Reply,
                sender_mac: OUR_MAC,
                sender: target,
                target_mac: STATION,
                target: asker,
            };
            assert_eq!(message, expected);
        }
    }
    assert!(!table.known().contains_key(&(OUTSIDE, asker.into())), "an asker is not learnt");
}

#[test]
fn a_probe_for_our_address_is_answered() {
    let (mut table, now) = table();
    table.receive(now, OUTSIDE, &request(Ipv4Addr::UNSPECIFIED, VIRTUAL));
    assert_eq!(frames(&mut table).len(), 1);
}

#[test]
fn new_addresses_are_announced_three_times_and_quiet_interfaces_are_spared() {
    let mut table = Neighbours::new(1);
    let mut plan = plan();
    plan.interfaces[1].quiet = true;
    table.configure(Moment::START, plan.clone());
    let mut announced = Vec::new();
    for second in 0..6 {
        table.tick(Moment::START.plus(REPEAT * second));
        announced.extend(
            frames(&mut table).into_iter().filter(|(.., message)| message.sender == message.target),
        );
    }
    assert!(announced.iter().all(|&(interface, to, message)| interface == OUTSIDE
        && to == Mac::BROADCAST
        && message.sender_mac == OUR_MAC));
    assert_eq!(announced.len(), 6, "two addresses, three times each");
    plan.interfaces[0].virtual_addresses.push("192.0.2.101".parse().unwrap());
    table.configure(Moment::START, plan);
    table.tick(Moment::START.plus(REPEAT * 9));
    let more: Vec<_> = frames(&mut table)
        .into_iter()
        .filter(|(.., message)| message.sender == message.target)
        .collect();
    assert_eq!(more.len(), 1, "only the new one");
}

#[test]
fn a_new_address_is_announced_at_once_although_others_wait_for_their_second_announcement() {
    let mut table = Neighbours::new(1);
    let mut plan = plan();
    table.configure(Moment::START, plan.clone());
    table.tick(Moment::START);
    frames(&mut table);
    let new: Ipv4Addr = "192.0.2.101".parse().unwrap();
    plan.interfaces[0].virtual_addresses.push(new.into());
    let now = Moment::START.plus(REPEAT / 2);
    table.configure(now, plan);
    table.tick(now);
    let said = frames(&mut table).into_iter().map(|(.., message)| message.sender);
    let announced: Vec<_> = said.filter(|sender| !sender.is_unspecified()).collect();
    assert_eq!(announced, [new]);
}

#[test]
fn a_wanted_station_is_asked_for_and_learnt_and_asked_again_before_it_grows_old() {
    let mut table = Neighbours::new(1);
    table.configure(Moment::START, plan());
    table.tick(Moment::START);
    let asked: Vec<_> =
        frames(&mut table).into_iter().filter(|(.., message)| message.target == SERVER).collect();
    assert_eq!(
        asked,
        [(INSIDE, Mac::BROADCAST, Message::asking(OUR_MAC, "10.0.0.2".parse().unwrap(), SERVER))]
    );
    table.receive(Moment::START, INSIDE, &reply(SERVER, STATION));
    assert!(table.take_changed());
    assert_eq!(known(&table, SERVER), Some(STATION));
    for second in 1..=60 {
        let now = Moment::START.plus(REPEAT * second);
        table.tick(now);
        for (_, to, message) in frames(&mut table) {
            if message.target == SERVER {
                assert_eq!(to, STATION, "asked at its own address while it answers");
                table.receive(now, INSIDE, &reply(SERVER, STATION));
            }
        }
        assert_eq!(known(&table, SERVER), Some(STATION));
    }
    assert!(!table.take_changed());
}

#[test]
fn a_silent_station_that_a_packet_of_ours_waits_for_is_asked_at_once() {
    let (mut table, mut now) = table();
    let asked = |table: &mut Neighbours| {
        let ours = |(_, _, message): &(_, _, Message)| message.target == SERVER;
        frames(table).iter().filter(|it| ours(it)).count()
    };
    // Long enough that it is asked every 30 s only.
    for _ in 0..300 {
        now = now.plus(REPEAT);
        table.tick(now);
    }
    asked(&mut table);
    let questions = (0..10).map(|_| {
        now = now.plus(REPEAT);
        table.awaited(now, INSIDE, SERVER.into());
        table.tick(now);
        asked(&mut table)
    });
    assert_eq!(questions.collect::<Vec<_>>(), [1; 10]);
    table.receive(now, INSIDE, &reply(SERVER, STATION));
    assert_eq!(known(&table, SERVER), Some(STATION));
}

#[test]
fn a_station_that_falls_silent_is_used_until_it_counts_as_absent_and_comes_back() {
    let (mut table, start) = table();
    table.receive(start, INSIDE, &reply(SERVER, STATION));
    let mut gone_after = None;
    for second in 1..=120 {
        table.tick(start.plus(REPEAT * second));
        if table.known().is_empty() && gone_after.is_none() {
            gone_after = Some(second);
        }
    }
    assert!((28..=40).contains(&gone_after.unwrap()), "{gone_after:?}");
    let asked = frames(&mut table).len();
    assert!(
        (8..=16).contains(&asked),
        "{asked} requests in two minutes: it is not given up, and not pestered"
    );
    table.receive(start.plus(REPEAT * 121), INSIDE, &request(SERVER, SERVER));
    assert_eq!(known(&table, SERVER), Some(STATION), "its announcement is enough");
}

#[test]
fn an_announcement_changes_a_known_station_and_makes_no_new_one() {
    let (mut table, now) = table();
    table.receive(now, INSIDE, &reply(SERVER, STATION));
    let other = Mac([2, 0, 0, 0, 0, 0x88]);
    let announcement = |address, mac| Message::asking(mac, address, address).frame(Mac::BROADCAST);
    table.receive(now.plus(REPEAT * 2), INSIDE, &announcement(SERVER, other));
    assert_eq!(known(&table, SERVER), Some(other));
    table.receive(now, INSIDE, &announcement("10.0.0.8".parse().unwrap(), other));
    assert_eq!(table.known().len(), 1);
}

#[test]
fn the_first_of_two_answers_is_believed() {
    let (mut table, now) = table();
    table.receive(now, INSIDE, &reply(SERVER, STATION));
    table.receive(now.plus(REPEAT / 2), INSIDE, &reply(SERVER, Mac([2, 0, 0, 0, 0, 0x99])));
    assert_eq!(known(&table, SERVER), Some(STATION));
}

#[test]
fn a_station_that_claims_our_address_is_contradicted_but_not_without_end() {
    let (mut table, now) = table();
    for _ in 0..100 {
        table.receive(now, OUTSIDE, &request(VIRTUAL, VIRTUAL));
    }
    let said = frames(&mut table);
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].2.sender, said[0].2.sender_mac), (VIRTUAL, OUR_MAC));
    table.receive(now.plus(DEFENCE), OUTSIDE, &request(VIRTUAL, VIRTUAL));
    assert_eq!(frames(&mut table).len(), 1);
    assert!(!table.known().contains_key(&(OUTSIDE, VIRTUAL.into())));
    assert_eq!(table.ignored().arp.conflict, 101);
}

#[test]
fn what_the_operator_gives_is_neither_asked_for_nor_changed() {
    let mut table = Neighbours::new(1);
    table
        .configure(Moment::START, Plan { fixed: vec![(INSIDE, SERVER.into(), STATION)], ..plan() });
    table.tick(Moment::START);
    assert!(frames(&mut table).iter().all(|(.., message)| message.target != SERVER));
    table.receive(Moment::START, INSIDE, &reply(SERVER, Mac([2, 0, 0, 0, 0, 0x99])));
    assert_eq!(known(&table, SERVER), Some(STATION));
}

#[test]
fn a_scan_of_a_subnet_asks_for_few_stations_and_evicts_no_server() {
    let (mut table, now) = table();
    table.receive(now, INSIDE, &reply(SERVER, STATION));
    for host in 0..20_000u32 {
        table.unresolved(now, INSIDE, Ipv4Addr::from_bits(0x0a00_1000 + host).into());
        table.tick(now);
    }
    assert_eq!(frames(&mut table).len(), MOST_QUESTIONS);
    assert_eq!(known(&table, SERVER), Some(STATION));
    table.tick(now.plus(REPEAT * 10));
    (10..30).for_each(|second| table.tick(now.plus(REPEAT * second)));
    assert_eq!(table.report(now).len(), 1, "those that do not exist are forgotten");
}

#[test]
fn a_station_that_a_worker_asks_for_is_learnt_and_the_table_stays_bounded() {
    let (mut table, mut now) = table();
    for host in 0..6_000u32 {
        let address = Ipv4Addr::from_bits(0x0a00_1000 + host);
        now = now.plus(Duration::from_millis(1));
        table.unresolved(now, INSIDE, address.into());
        table.tick(now);
        table.receive(now, INSIDE, &reply(address, STATION));
        assert_eq!(known(&table, address), Some(STATION));
    }
    assert!(table.report(now).len() <= MOST_DYNAMIC + 1);
}

#[test]
fn another_configuration_keeps_what_is_known_of_stations_that_are_still_wanted() {
    let (mut table, now) = table();
    table.receive(now, INSIDE, &reply(SERVER, STATION));
    table.take_changed();
    table.configure(now, plan());
    assert!(!table.take_changed());
    assert_eq!(known(&table, SERVER), Some(STATION));
    table.configure(now, Plan { wanted: vec![], ..plan() });
    assert!(table.known().is_empty());
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let address = prop_oneof![
        Just(VIRTUAL),
        Just(SERVER),
        any::<u8>().prop_map(|last| Ipv4Addr::new(192, 0, 2, last)),
        any::<u32>().prop_map(Ipv4Addr::from_bits)
    ];
    let mac = prop_oneof![Just(STATION), Just(OUR_MAC), any::<[u8; 6]>().prop_map(Mac)];
    let message = (any::<bool>(), mac.clone(), address.clone(), mac, address).prop_map(
        |(reply, sender_mac, sender, target_mac, target)| {
            let operation = if reply { Operation::Reply } else { Operation::Request };
            Message { operation, sender_mac, sender, target_mac, target }.frame(Mac::BROADCAST)
        },
    );
    let cut = (message.clone(), 0usize..60).prop_map(|(frame, length)| frame[..length].to_vec());
    prop_oneof![4 => message, 1 => cut, 1 => prop::collection::vec(any::<u8>(), 0..80)]
}

proptest! {
    #[test]
    fn no_frame_makes_a_station_that_nobody_asked_for(frames in prop::collection::vec((hostile(), any::<bool>()), 1..100)) {
        let (mut table, mut now) = table();
        for (frame, inside) in frames {
            now = now.plus(Duration::from_millis(300));
            table.receive(now, if inside { INSIDE } else { OUTSIDE }, &frame);
            table.tick(now);
        }
        prop_assert!(table.known().keys().all(|&key| key == (INSIDE, SERVER.into())));
        prop_assert_eq!(table.report(now).len(), 1);
        prop_assert!(table.due.len() <= 1);
    }
}
