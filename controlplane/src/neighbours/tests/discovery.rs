//! A table on two VLANs that use the same subnet, spoken to in neighbour discovery. The frames in hexadecimal
//! were captured between two Linux stations.

use proptest::prelude::*;

use crate::neighbours::discovery::{Kind, Message, Useless};
use crate::neighbours::*;

const ONE: InterfaceId = InterfaceId(0);
const OTHER: InterfaceId = InterfaceId(1);
const OUR_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const STATION: Mac = Mac([2, 0, 0, 0, 0, 0x77]);
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x99]);

/// From our MAC and 2001:db8:1::2 to everybody: who has 2001:db8:1::7?
const ASKED: &str = "3333ff00000702000000000186dd6000000000203aff20010db8000100000000000000000002\
    ff0200000000000000000001ff00000787001c1a0000000020010db80001000000000000000000070101020000000001";
/// From the station: 2001:db8:1::7 is mine, as you asked.
const ANSWERED: &str = "02000000000102000000007786dd6000000000203aff20010db8000100000000000000000007\
    20010db8000100000000000000000002880089ee6000000020010db80001000000000000000000070201020000000077";
/// From the station to all: 2001:db8:1::7 is mine.
const ANNOUNCED: &str = "33330000000102000000007786dd6000000000203aff20010db8000100000000000000000007\
    ff0200000000000000000000000000018800f8a62000000020010db80001000000000000000000070201020000000077";
/// From the station, which has no address yet: has anybody 2001:db8:1::7?
const PROBED: &str = "3333ff00000702000000007786dd6000000000203aff00000000000000000000000000000000\
    ff0200000000000000000001ff00000787008cf80000000020010db80001000000000000000000070e0167a22c3f1dfd";
/// The same without the nonce that Linux puts in (RFC 7527), and so with another length and checksum.
const PROBED_PLAINLY: &str = "3333ff00000702000000007786dd6000000000183aff00000000000000000000000000000000\
    ff0200000000000000000001ff00000787004ce00000000020010db8000100000000000000000007";
/// From the station's link-local address to our MAC: is 2001:db8:1::2 still there?
const REFRESHED: &str = "02000000000102000000007786dd6000000000203afffe80000000000000000000fffe000077\
    20010db800010000000000000000000287001bbd0000000020010db80001000000000000000000020101020000000077";
/// What Linux answers to that: without an option.
const REFRESHED_ANSWER: &str = "02000000007702000000000186dd6000000000183aff20010db8000100000000000000000002\
    fe80000000000000000000fffe0000778800de3c4000000020010db8000100000000000000000002";
/// From the station: is there a router?
const ROUTERS: &str = "33330000000202000000007786dd6000000000103afffe80000000000000000000fffe000077\
    ff02000000000000000000000000000285007a40000000000101020000000077";

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hexadecimal.bytes().map(|digit| (digit as char).to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn server() -> Address {
    address("2001:db8:1::7")
}

fn virtual_address() -> Address {
    address("2001:db8:1::100")
}

fn plan() -> Plan {
    let own = |virtual_addresses| Own {
        mac: OUR_MAC,
        addresses: vec![
            Prefix::new(address("2001:db8:1::2"), 64),
            Prefix::new(link_local(OUR_MAC), 64),
        ],
        virtual_addresses,
        quiet: false,
    };
    Plan {
        interfaces: vec![own(vec![virtual_address()]), own(vec![])],
        wanted: vec![(ONE, server())],
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

/// A table that has the server's answer.
fn resolved() -> (Neighbours, Moment) {
    let (mut table, now) = table();
    table.receive(now, ONE, &bytes(ANSWERED));
    assert_eq!((known(&table), state(&table)), (Some(STATION), State::Reachable));
    table.take_changed();
    (table, now)
}

fn frames(table: &mut Neighbours) -> Vec<(InterfaceId, Vec<u8>)> {
    std::iter::from_fn(|| table.next_frame()).collect()
}

fn said(table: &mut Neighbours) -> Vec<(InterfaceId, Mac, Message)> {
    let read = |(interface, frame): (InterfaceId, Vec<u8>)| {
        (interface, Mac(frame[..6].try_into().unwrap()), Message::read(&frame).unwrap())
    };
    frames(table).into_iter().map(read).collect()
}

fn known(table: &Neighbours) -> Option<Mac> {
    table.known().get(&(ONE, server())).copied()
}

fn state(table: &Neighbours) -> State {
    table.entries[&(ONE, server())].state
}

fn advertisement(mac: Option<Mac>, solicited: bool, overrides: bool) -> Vec<u8> {
    let message = Message {
        kind: Kind::Advertisement { solicited, overrides },
        from: mac.unwrap_or(STATION),
        source: server(),
        destination: address("2001:db8:1::2"),
        target: server(),
        mac,
    };
    message.frame(OUR_MAC)
}

fn solicitation(source: Address, target: Address, mac: Option<Mac>) -> Vec<u8> {
    let message = Message {
        kind: Kind::Solicitation,
        from: mac.unwrap_or(STATION),
        source,
        destination: target,
        target,
        mac,
    };
    message.frame(OUR_MAC)
}

#[test]
fn an_interface_s_own_link_has_an_address_made_from_its_hardware_address() {
    assert_eq!(link_local(STATION), address("fe80::ff:fe00:77"));
    // RFC 4291 appendix A: the universal/local bit is inverted.
    assert_eq!(
        link_local(Mac([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde])),
        address("fe80::3656:78ff:fe9a:bcde")
    );
}

#[test]
fn a_server_is_asked_for_as_linux_asks_and_its_answer_is_learnt() {
    let mut table = Neighbours::new(1);
    table.configure(Moment::START, plan());
    table.tick(Moment::START);
    assert!(frames(&mut table).contains(&(ONE, bytes(ASKED))));
    table.receive(Moment::START, ONE, &bytes(ANSWERED));
    assert!(table.take_changed());
    assert_eq!((known(&table), state(&table)), (Some(STATION), State::Reachable));
    assert_eq!(table.known().len(), 1);
    assert_eq!(table.ignored(), Ignored::default());
}

#[test]
fn a_known_station_is_asked_at_its_own_address_before_what_is_known_grows_old() {
    let (mut table, start) = resolved();
    let mut asked = 0;
    for second in 1..=120 {
        let now = start.plus(REPEAT * second);
        table.tick(now);
        for (_, to, message) in said(&mut table) {
            assert_eq!((to, message.destination, message.target), (STATION, server(), server()));
            assert_eq!((message.source, message.mac), (address("2001:db8:1::2"), Some(OUR_MAC)));
            // Linux leaves the option out when it is asked at its own address (RFC 4861 section 4.4).
            table.receive(now, ONE, &advertisement(None, true, false));
            asked += 1;
        }
        assert_eq!(known(&table), Some(STATION));
    }
    assert!((4..=6).contains(&asked), "{asked}");
    assert!(!table.take_changed());
}

#[test]
fn a_station_that_falls_silent_is_asked_alone_then_by_all_and_then_counts_as_absent() {
    let (mut table, start) = resolved();
    let mut to = Vec::new();
    for second in 1..=45 {
        table.tick(start.plus(REPEAT * second));
        to.extend(said(&mut table).into_iter().map(|(_, to, _)| to));
        if state(&table) == State::Failed {
            break;
        }
    }
    let group = Mac([0x33, 0x33, 0xff, 0, 0, 7]);
    assert_eq!(to, [STATION, STATION, STATION, group, group, group]);
    assert_eq!(known(&table), None);
}

#[test]
fn a_solicitation_for_an_address_of_ours_is_answered_to_the_asker() {
    let (mut table, now) = table();
    table.receive(now, ONE, &bytes(REFRESHED));
    let answer = frames(&mut table);
    let [(ONE, frame)] = &answer[..] else { panic!("{answer:?}") };
    // Linux's answer, with the option besides, which may be there (RFC 4861 section 4.4).
    let linux = bytes(REFRESHED_ANSWER);
    assert_eq!((&frame[..14], &frame[20..54]), (&linux[..14], &linux[20..54]));
    let expected = Message {
        kind: Kind::Advertisement { solicited: true, overrides: true },
        mac: Some(OUR_MAC),
        ..Message::read(&linux).unwrap()
    };
    assert_eq!(Message::read(frame), Ok(expected));
    let asker = address("2001:db8:1::9");
    let cases = [
        (ONE, virtual_address(), true),
        (OTHER, virtual_address(), false),
        (ONE, link_local(OUR_MAC), true),
        (OTHER, link_local(OUR_MAC), true),
        (ONE, address("2001:db8:1::101"), false),
    ];
    for (interface, target, answered) in cases {
        table.receive(now, interface, &solicitation(asker, target, Some(STRANGER)));
        let answers = said(&mut table);
        assert_eq!(answers.len(), usize::from(answered), "{target} at {interface:?}");
        if let [(at, to, message)] = answers[..] {
            assert_eq!((at, to, message.destination), (interface, STRANGER, asker));
            assert_eq!((message.source, message.target), (target, target));
        }
    }
    assert_eq!(table.report(now).len(), 1, "an asker is not learnt");
}

#[test]
fn who_looks_for_duplicates_of_our_address_is_answered_before_all() {
    let mut table = Neighbours::new(1);
    let mut plan = plan();
    plan.wanted.clear();
    plan.interfaces[0].mac = STRANGER;
    plan.interfaces[0].virtual_addresses = vec![server()];
    plan.interfaces[0].quiet = true;
    plan.interfaces[1].quiet = true;
    table.configure(Moment::START, plan);
    table.receive(Moment::START, ONE, &bytes(PROBED));
    let said = said(&mut table);
    let [(ONE, to, message)] = said[..] else { panic!("{said:?}") };
    assert_eq!(to, Mac([0x33, 0x33, 0, 0, 0, 1]));
    assert_eq!(message.kind, Kind::Advertisement { solicited: false, overrides: true });
    assert_eq!((message.destination, message.target), (address("ff02::1"), server()));
    assert_eq!((message.mac, table.ignored()), (Some(STRANGER), Ignored::default()));
}

/// A table in the station's place.
fn station() -> Neighbours {
    let mut table = Neighbours::new(1);
    let addresses = vec![Prefix::new(server(), 64)];
    let own = Own { mac: STATION, addresses, ..Own::default() };
    table.configure(Moment::START, Plan { interfaces: vec![own], ..Plan::default() });
    table
}

#[test]
fn a_solicitation_to_all_is_answered_as_linux_does() {
    let mut table = station();
    table.receive(Moment::START, ONE, &bytes(ASKED));
    assert_eq!(frames(&mut table), [(ONE, bytes(ANSWERED))]);
}

#[test]
fn new_addresses_are_asked_for_and_announced_to_all_three_times_as_linux_does() {
    let mut table = station();
    let mut said = Vec::new();
    for second in 0..6 {
        table.tick(Moment::START.plus(REPEAT * second));
        said.extend(frames(&mut table));
    }
    let expected = [[PROBED_PLAINLY; 3], [ANNOUNCED; 3]].concat();
    assert_eq!(said, expected.into_iter().map(|it| (ONE, bytes(it))).collect::<Vec<_>>());
}

#[test]
fn an_unsolicited_advertisement_is_taken_for_a_known_station_and_makes_no_new_one() {
    let (mut table, now) = resolved();
    let later = now.plus(REPEAT * 2);
    table.receive(later, ONE, &advertisement(Some(STRANGER), false, true));
    assert_eq!((known(&table), state(&table)), (Some(STRANGER), State::Stale));
    table.tick(later);
    let asked = said(&mut table);
    assert!(matches!(asked[..], [(ONE, STRANGER, _)]), "it is asked whether it hears us");
    table.receive(later, ONE, &bytes(ANNOUNCED));
    assert_eq!(known(&table), Some(STRANGER), "the first of two answers is believed");

    let (mut table, now) = resolved();
    let other =
        Message { target: address("2001:db8:1::8"), ..Message::read(&bytes(ANSWERED)).unwrap() };
    table.receive(now, ONE, &other.frame(OUR_MAC));
    table.receive(now, OTHER, &bytes(ANSWERED));
    assert_eq!(table.report(now).len(), 1);
    let afar = Message { target: address("2001:db8:2::8"), ..other };
    table.receive(now, ONE, &afar.frame(OUR_MAC));
    assert_eq!(table.ignored().discovery.stranger, 1);
}

#[test]
fn an_advertisement_that_may_not_override_only_raises_doubt() {
    let (mut table, now) = resolved();
    let later = now.plus(REPEAT * 2);
    table.receive(later, ONE, &advertisement(Some(STRANGER), true, false));
    assert_eq!((known(&table), state(&table)), (Some(STATION), State::Stale));
    table.tick(later);
    assert!(matches!(said(&mut table)[..], [(ONE, STATION, _)]));
    table.receive(later, ONE, &advertisement(Some(STATION), true, false));
    assert_eq!((known(&table), state(&table)), (Some(STATION), State::Reachable));
}

#[test]
fn an_advertisement_that_was_not_asked_for_confirms_nothing() {
    let (mut table, now) = resolved();
    table.receive(now.plus(REPEAT * 9), ONE, &bytes(ANNOUNCED));
    let age = table.report(now.plus(REPEAT * 10))[0].age;
    assert_eq!((age, state(&table)), (Some(REPEAT * 10), State::Reachable));
}

#[test]
fn an_answer_without_a_hardware_address_is_of_no_use_for_a_station_that_has_none() {
    let (mut table, now) = table();
    table.receive(now, ONE, &advertisement(None, true, true));
    assert_eq!(known(&table), None);
}

#[test]
fn a_wanted_station_that_asks_us_something_says_where_it_is() {
    let (mut table, now) = table();
    let asked = solicitation(server(), virtual_address(), Some(STATION));
    table.receive(now, ONE, &asked);
    assert_eq!((known(&table), state(&table)), (Some(STATION), State::Stale));
    table.tick(now);
    assert_eq!(said(&mut table).len(), 2, "the answer, and a question");
}

#[test]
fn what_the_operator_gives_is_neither_asked_for_nor_changed() {
    let mut table = Neighbours::new(1);
    table.configure(Moment::START, Plan { fixed: vec![(ONE, server(), STATION)], ..plan() });
    table.tick(Moment::START);
    assert!(said(&mut table).iter().all(|(.., message)| message.target != server()));
    table.receive(Moment::START, ONE, &advertisement(Some(STRANGER), true, true));
    table.receive(Moment::START, ONE, &advertisement(Some(STRANGER), true, false));
    assert_eq!((known(&table), state(&table)), (Some(STATION), State::Fixed));
}

#[test]
fn a_station_that_claims_our_address_is_contradicted_but_not_without_end() {
    let (mut table, now) = table();
    let claim = Message {
        target: virtual_address(),
        source: virtual_address(),
        ..Message::read(&bytes(ANNOUNCED)).unwrap()
    };
    let claim = claim.frame(Mac([0x33, 0x33, 0, 0, 0, 1]));
    for _ in 0..100 {
        table.receive(now, ONE, &claim);
    }
    table.receive(now, ONE, &solicitation(virtual_address(), server(), Some(STATION)));
    table.receive(now, OTHER, &claim);
    let defence = said(&mut table);
    let [(ONE, _, message)] = defence[..] else { panic!("{defence:?}") };
    assert_eq!((message.target, message.mac), (virtual_address(), Some(OUR_MAC)));
    assert_eq!(table.ignored().discovery.conflict, 101, "on the other VLAN it is none");
    table.receive(now.plus(DEFENCE), ONE, &claim);
    assert_eq!(frames(&mut table).len(), 1);
}

#[test]
fn the_same_address_on_two_vlans_is_two_stations() {
    let (mut table, now) = resolved();
    table.unresolved(now, OTHER, server());
    table.tick(now);
    assert!(matches!(said(&mut table)[..], [(OTHER, _, _)]));
    table.receive(now, OTHER, &advertisement(Some(STRANGER), true, true));
    assert_eq!(known(&table), Some(STATION));
    assert_eq!(table.known().get(&(OTHER, server())), Some(&STRANGER));
}

#[test]
fn a_station_on_the_link_alone_is_asked_for_from_our_address_there() {
    let (mut table, now) = table();
    let router = address("fe80::1");
    table.unresolved(now, ONE, router);
    table.tick(now);
    let asked = said(&mut table);
    let [(ONE, to, message)] = asked[..] else { panic!("{asked:?}") };
    assert_eq!((to, message.source), (Mac([0x33, 0x33, 0xff, 0, 0, 1]), link_local(OUR_MAC)));
    let answer = Message {
        target: router,
        source: router,
        destination: link_local(OUR_MAC),
        ..Message::read(&bytes(ANSWERED)).unwrap()
    };
    table.receive(now, ONE, &answer.frame(OUR_MAC));
    assert_eq!(table.known().get(&(ONE, router)), Some(&STATION));
    table.unresolved(now, ONE, address("2001:db8:2::1"));
    assert_eq!(table.ignored().questions, 1, "that is on no subnet of ours");
}

#[test]
fn a_scan_of_a_subnet_asks_for_few_stations_and_evicts_no_server() {
    let (mut table, now) = resolved();
    for host in 0..20_000u128 {
        table.unresolved(now, ONE, Address::from_bits(server().bits() + 0x10_0000 + host));
        table.tick(now);
    }
    assert_eq!(frames(&mut table).len(), MOST_QUESTIONS);
    (0..30).for_each(|second| table.tick(now.plus(REPEAT * second)));
    assert_eq!(table.report(now).len(), 1, "those that do not exist are forgotten");
}

/// A frame with another byte at one place, and the checksum made right again.
fn with(frame: &str, at: usize, value: u8) -> Vec<u8> {
    let mut frame = bytes(frame);
    frame[at] = value;
    mended(frame)
}

/// The sum over the pseudo-header and the message, as RFC 1071 has it, slowly.
fn mended(mut frame: Vec<u8>) -> Vec<u8> {
    frame[56..58].fill(0);
    let length = usize::from(u16::from_be_bytes([frame[18], frame[19]])).min(frame.len() - 54);
    let message = &frame[54..54 + length];
    let words = frame[22..54].chunks(2).chain(message.chunks(2));
    let sum: u32 =
        words.map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let sum = sum + length as u32 + 58;
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
    frame
}

#[test]
fn messages_that_rfc_4861_section_7_1_refuses_are_counted_and_nothing_else() {
    assert_eq!(mended(bytes(ANSWERED)), bytes(ANSWERED));
    let mut wrong_checksum = bytes(ANSWERED);
    wrong_checksum[56] ^= 1;
    let mut short = with(ANSWERED, 19, 20);
    short = mended(short);
    let malformed = [
        (wrong_checksum, "checksum"),
        (short, "shorter than the target"),
        (bytes(ANSWERED)[..85].to_vec(), "cut off"),
        (with(ANSWERED, 55, 1), "code"),
        (with(ANSWERED, 62, 0xff), "a group as the target"),
        (with(ANSWERED, 79, 0), "an option without a length"),
        (with(ANSWERED, 79, 2), "an option longer than the message"),
        (with(ANNOUNCED, 58, 0x60), "an answer to all that says that one asked"),
        (with(ANSWERED, 22, 0xff), "from a group"),
        (with(PROBED, 78, 1), "a probe that says where the asker is"),
        (with(PROBED, 53, 8), "a probe to another group than its target's"),
        (mapped(ANSWERED, 62), "an IPv4 address as the target"),
        (mapped(REFRESHED, 22), "an IPv4 address as the source"),
    ];
    for (frame, why) in &malformed {
        let (mut table, now) = table();
        table.receive(now, ONE, frame);
        assert_eq!(table.ignored().discovery.malformed, 1, "{why}");
        assert_eq!((known(&table), frames(&mut table)), (None, vec![]), "{why}");
    }
    let forged = [
        (with(ANSWERED, 21, 254), "from behind a router"),
        (with(ANSWERED, 80, 3), "a group's hardware address"),
    ];
    for (frame, why) in &forged {
        let (mut table, now) = table();
        table.receive(now, ONE, frame);
        assert_eq!(table.ignored().discovery.forged, 1, "{why}");
        assert_eq!((known(&table), frames(&mut table)), (None, vec![]), "{why}");
    }
    assert_eq!(Message::read(&bytes(ROUTERS)), Err(Useless::Other));
}

/// A frame with an address at one place that maps 10.0.0.7.
fn mapped(frame: &str, at: usize) -> Vec<u8> {
    let mut frame = bytes(frame);
    frame[at..at + 16].copy_from_slice(&address("10.0.0.7").bits().to_be_bytes());
    mended(frame)
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let address = prop_oneof![
        Just(server()),
        Just(virtual_address()),
        Just(icmpv6::UNSPECIFIED),
        Just(link_local(OUR_MAC)),
        any::<u8>().prop_map(|last| Address::from_bits(server().bits() | u128::from(last))),
        any::<u128>().prop_map(Address::from_bits),
    ];
    let mac = prop_oneof![Just(STATION), Just(OUR_MAC), any::<[u8; 6]>().prop_map(Mac)];
    let kind = prop_oneof![
        Just(Kind::Solicitation),
        (any::<bool>(), any::<bool>())
            .prop_map(|(solicited, overrides)| Kind::Advertisement { solicited, overrides })
    ];
    let destination = prop_oneof![Just("ff02::1"), Just("ff02::1:ff00:7"), Just("2001:db8:1::2")]
        .prop_map(|it| it.parse().unwrap());
    let option = prop::option::of(mac.clone());
    let message = (kind, mac, address.clone(), destination, address, option).prop_map(
        |(kind, from, source, destination, target, mac)| {
            Message { kind, from, source, destination, target, mac }.frame(OUR_MAC)
        },
    );
    let captured =
        prop_oneof![Just(ASKED), Just(ANSWERED), Just(ANNOUNCED), Just(PROBED), Just(REFRESHED)];
    let bent =
        (captured, 0usize..86, any::<u8>()).prop_map(|(frame, at, value)| with(frame, at, value));
    let cut = (message.clone(), 0usize..90).prop_map(|(mut frame, length)| {
        frame.truncate(length);
        frame
    });
    let tail = prop::collection::vec(any::<u8>(), 0..60);
    let options = (message.clone(), tail).prop_map(|(mut frame, tail)| {
        frame.truncate(78);
        frame.extend(tail);
        let length = frame.len() - 54;
        frame[18..20].copy_from_slice(&(length as u16).to_be_bytes());
        mended(frame)
    });
    let noise = prop::collection::vec(any::<u8>(), 0..120);
    prop_oneof![4 => message, 4 => bent, 1 => cut, 2 => options, 1 => noise]
}

proptest! {
    #[test]
    fn no_frame_makes_a_station_that_nobody_asked_for(frames in prop::collection::vec((hostile(), any::<bool>()), 1..100)) {
        let (mut table, mut now) = table();
        for (frame, other) in frames {
            now = now.plus(Duration::from_millis(300));
            table.receive(now, if other { OTHER } else { ONE }, &frame);
            table.tick(now);
        }
        prop_assert!(table.known().keys().all(|&key| key == (ONE, server())));
        prop_assert!(table.known().values().all(|mac| mac.is_station()));
        prop_assert_eq!(table.report(now).len(), 1);
        prop_assert!(table.due.len() <= 1);
        prop_assert!(table.defended.len() <= table.ours.len());
    }

    #[test]
    fn a_message_reads_back_as_it_was_written(solicited: bool, overrides: bool, with_mac: bool, last: u8) {
        let message = Message {
            kind: Kind::Advertisement { solicited, overrides },
            from: STATION,
            source: server(),
            destination: address("2001:db8:1::2"),
            target: Address::from_bits(server().bits() | u128::from(last)),
            mac: with_mac.then_some(STRANGER),
        };
        prop_assert_eq!(Message::read(&message.frame(OUR_MAC)), Ok(message));
    }
}
