//! What is for us ourselves, and nothing else claims.

use super::*;
use crate::parse::Flow;
use crate::punt::Class;
use crate::punt::answers::{Answers, Awaited};
use crate::snapshot::Protocol;
use crate::testing::our_address_for;

const SERVICE: &str = "192.0.2.1:80 dr 10.0.0.7";
/// A server and a port of our own that the control plane might ask it from.
const SERVER: &str = "10.0.0.7:80";
const ASKING: &str = "10.0.0.2:7777";

/// What the control plane has got since the last call.
fn punted(worker: &mut TestWorker) -> Vec<(InterfaceId, Vec<u8>)> {
    std::iter::from_fn(|| worker.control.punted.pop().ok())
        .map(|copy| (copy.interface, copy.bytes().to_vec()))
        .collect()
}

#[test]
fn tcp_and_udp_for_our_own_addresses_go_to_the_control_plane() {
    let mut worker = TestWorker::serving(SERVICE);
    let outside = [syn("192.0.2.2:9443"), udp(CLIENT, "192.0.2.2:6081", b"hello")];
    let inside = [
        reply(SERVER, ASKING, SYN | ACK),
        udp_with(*address(SERVER).ip(), INSIDE, "10.0.0.7:53", ASKING, b"answer"),
    ];
    outside.iter().for_each(|frame| worker.receives_on(OUTSIDE, frame));
    inside.iter().for_each(|frame| worker.receives_on(INSIDE, frame));
    let expected: Vec<_> = outside
        .map(|frame| (OUTSIDE, frame))
        .into_iter()
        .chain(inside.map(|frame| (INSIDE, frame)))
        .collect();
    assert_eq!(punted(&mut worker), expected);
    assert_eq!(worker.counters.punted.get(), 4);
    worker.balances();
}

#[test]
fn a_virtual_address_is_nobodys_where_it_has_no_service() {
    let mut worker = TestWorker::serving(SERVICE);
    worker.receives(&syn("192.0.2.1:9443"));
    worker.receives(&udp(CLIENT, "192.0.2.1:80", b"hello"));
    assert_eq!((punted(&mut worker), worker.dropped(Reason::NoService)), (vec![], 2));
    worker.balances();
}

#[test]
fn a_service_at_our_own_address_has_its_port_and_the_control_plane_the_others() {
    let mut worker = TestWorker::serving("192.0.2.2:80 dr 10.0.0.7");
    worker.receives(&syn("192.0.2.2:80"));
    worker.receives(&syn("192.0.2.2:81"));
    assert_eq!((worker.transmitted().len(), punted(&mut worker).len()), (1, 1));
    worker.balances();
}

#[test]
fn ports_that_translated_flows_leave_with_are_not_the_control_planes() {
    for services in [SERVICE, "192.0.2.1:80 snat 10.0.0.7"] {
        let mut worker = TestWorker::serving(services);
        worker.receives_on(INSIDE, &reply(SERVER, "10.0.0.2:16383", ACK));
        assert_eq!(punted(&mut worker).len(), 1);
        worker.receives_on(INSIDE, &reply(SERVER, "10.0.0.2:16384", ACK));
        assert_eq!(punted(&mut worker), []);
        let dropped = worker.dropped(Reason::NoService) + worker.dropped(Reason::NoFlow);
        assert_eq!(dropped, 1);
        worker.balances();
    }
}

#[test]
fn a_server_may_answer_with_the_virtual_address() {
    let mut worker = TestWorker::serving(SERVICE);
    let answer = tcp_with(*address(SERVER).ip(), INSIDE, "192.0.2.1:80", ASKING, SYN | ACK, b"");
    worker.receives_on(INSIDE, &answer);
    assert_eq!(punted(&mut worker), [(INSIDE, answer)]);
    worker.balances();
}

#[test]
fn nobody_may_speak_to_us_as_one_of_ourselves_or_from_the_wrong_side() {
    let mut worker = TestWorker::serving(SERVICE);
    worker.receives(&tcp("10.0.0.2:5", "192.0.2.2:9443", SYN));
    worker.receives(&tcp("10.0.0.7:5", "192.0.2.2:9443", SYN));
    assert_eq!(punted(&mut worker), []);
    let dropped = [Reason::BadSource, Reason::SpoofedSource].map(|it| worker.dropped(it));
    assert_eq!(dropped, [1, 1]);
    worker.balances();
}

#[test]
fn where_helpers_may_open_ports_the_control_plane_still_gets_what_is_its_own() {
    let mut worker = TestWorker::serving("192.0.2.1:21 nat ftp 10.0.0.7");
    worker.receives(&syn("192.0.2.2:9443"));
    worker.receives(&syn("192.0.2.1:9443"));
    assert_eq!((punted(&mut worker).len(), worker.dropped(Reason::NoService)), (1, 1));
    worker.balances();
}

#[test]
fn an_error_about_what_the_control_plane_sent_goes_back_to_it() {
    let mut worker = TestWorker::serving("192.0.2.1:80 snat 10.0.0.7");
    let sent = |from: &str| reply(from, "10.0.0.7:80", SYN)[14..42].to_vec();
    let error = |to: &str, quoted: &[u8]| icmp_error(to, quoted);
    let ours = error("10.0.0.2", &sent(ASKING));
    worker.receives(&ours);
    assert_eq!(punted(&mut worker), [(OUTSIDE, ours)]);
    worker.receives(&error("10.0.0.2", &sent("10.0.0.2:20000")));
    worker.receives(&error("192.0.2.2", &sent(ASKING)));
    assert_eq!((punted(&mut worker), worker.dropped(Reason::UnrelatedError)), (vec![], 2));
    worker.balances();
}

#[test]
fn parts_of_a_datagram_for_us_go_where_the_first_one_goes() {
    let mut worker = TestWorker::serving(SERVICE);
    let mut first = udp(CLIENT, "192.0.2.2:6081", &[0; 24]);
    let mut later = first.clone();
    let set = |frame: &mut Vec<u8>, fragment: u16| {
        frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        frame[24..26].fill(0);
        let sum =
            etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0.calc_header_checksum();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    };
    set(&mut first, 0x2000);
    set(&mut later, 4);
    worker.receives(&later);
    assert_eq!(worker.dropped(Reason::FragmentWithoutFirst), 1);
    worker.receives(&first);
    worker.receives(&later);
    assert_eq!(punted(&mut worker), [(OUTSIDE, first), (OUTSIDE, later)]);
    worker.balances();
}

#[test]
fn whoever_floods_us_with_echoes_does_not_hide_the_answers_to_ours() {
    let mut worker = TestWorker::serving(SERVICE);
    (0..1_000).for_each(|_| worker.receives(&echo_request(our_address(OUTSIDE), 2)));
    assert!(worker.dropped(Reason::PuntRateLimited) > 0);
    punted(&mut worker);
    let answer = echo_reply(1);
    worker.receives_on(INSIDE, &answer);
    assert_eq!(punted(&mut worker), [(INSIDE, answer)]);
    worker.balances();
}

#[test]
fn a_flood_at_our_own_address_leaves_room_for_everything_else() {
    let mut worker = TestWorker::serving(SERVICE);
    (0..2_000).for_each(|_| worker.receives(&syn("192.0.2.2:9443")));
    let (_, most) = Class::Local.limit(1);
    assert_eq!(worker.counters.punted.get(), u64::from(most));
    assert_eq!(worker.dropped(Reason::PuntRateLimited), 2_000 - u64::from(most));
    worker.receives(&echo_request(our_address(OUTSIDE), 2));
    assert_eq!(worker.counters.punted.get(), u64::from(most) + 1);
    worker.balances();
}

/// A worker whose control plane waits for packets such as `incoming`.
fn waiting(incoming: Flow) -> (TestWorker, Awaited) {
    let answers = Answers::new([1, 2]);
    let awaited = answers.awaited(&incoming);
    (TestWorker::with(Snapshot { answers, ..snapshot(SERVICE) }, 64), awaited)
}

fn incoming(protocol: Protocol, from: &str, to: &str) -> Flow {
    let [(source, source_port), (destination, destination_port)] =
        [from, to].map(|end| ((*address(end).ip()).into(), address(end).port()));
    Flow { protocol, source, source_port, destination, destination_port }
}

fn echo_reply(identifier: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac_of(*address(SERVER).ip()).0, mac_of(our_address(INSIDE)).0)
        .ipv4([10, 0, 0, 7], [10, 0, 0, 2], 9)
        .icmpv4_echo_reply(identifier, 2)
        .write(&mut frame, b"ping")
        .unwrap();
    frame
}

/// More at once than the limit of anything, and more than the ring holds.
fn flood(worker: &mut TestWorker) {
    for number in 0..2_000u16 {
        let from = format!("198.51.100.9:{}", 1_024 + number);
        worker.receives(&tcp(&from, "192.0.2.2:9443", SYN));
        worker.receives(&udp(&from, "192.0.2.2:53", b"hello"));
    }
}

#[test]
fn whoever_floods_our_address_does_not_hide_the_answers_to_what_the_control_plane_asks() {
    let of_server = [(Protocol::Tcp, SERVER, ASKING), (Protocol::Udp, "10.0.0.7:53", ASKING)];
    let at_virtual_address = (Protocol::Tcp, "192.0.2.1:80", ASKING);
    let echo = (Protocol::Echo, "10.0.0.7:0", "10.0.0.2:7777");
    for (protocol, from, to) in of_server.into_iter().chain([at_virtual_address, echo]) {
        let (mut worker, awaited) = waiting(incoming(protocol, from, to));
        flood(&mut worker);
        assert!(worker.dropped(Reason::PuntRateLimited) > 3_000);
        punted(&mut worker);
        let server = *address(SERVER).ip();
        let answer = match protocol {
            Protocol::Tcp => tcp_with(server, INSIDE, from, to, SYN | ACK, b""),
            Protocol::Udp => udp_with(server, INSIDE, from, to, b"answer"),
            Protocol::Echo => echo_reply(7777),
        };
        worker.receives_on(INSIDE, &answer);
        assert_eq!(punted(&mut worker), [(INSIDE, answer.clone())], "{protocol:?} from {from}");
        assert_eq!(worker.counters.punted_answers.get(), 1);
        drop(awaited);
        worker.receives_on(INSIDE, &answer);
        assert_eq!(punted(&mut worker), [], "nobody waits for it any more");
        worker.balances();
    }
}

#[test]
fn an_error_about_what_the_control_plane_asks_is_an_answer_too() {
    let (mut worker, _awaited) = waiting(incoming(Protocol::Tcp, SERVER, ASKING));
    flood(&mut worker);
    punted(&mut worker);
    let asked = reply(ASKING, SERVER, SYN)[14..42].to_vec();
    let error = icmp_error("10.0.0.2", &asked);
    worker.receives(&error);
    assert_eq!(punted(&mut worker), [(OUTSIDE, error)]);
    worker.receives(&icmp_error("10.0.0.2", &reply("10.0.0.2:7778", SERVER, SYN)[14..42]));
    assert_eq!(punted(&mut worker), []);
    worker.balances();
}

/// The control plane takes nothing for a while, and the limits alone would let a flood fill the ring.
#[test]
fn what_strangers_send_leaves_room_in_the_ring_for_answers_and_neighbours() {
    let (mut worker, _awaited) = waiting(incoming(Protocol::Tcp, SERVER, ASKING));
    for _ in 0..20 {
        flood(&mut worker);
        (0..200).for_each(|_| worker.receives(&echo_request(our_address(OUTSIDE), 2)));
        worker.now = worker.now.plus(Duration::from_millis(50));
    }
    assert!(worker.dropped(Reason::PuntRingFull) > 1_000);
    let arp = arp();
    worker.receives(&arp);
    let answer = reply(SERVER, ASKING, SYN | ACK);
    (0..350).for_each(|_| worker.receives_on(INSIDE, &answer));
    let punted = punted(&mut worker);
    assert_eq!(punted.iter().filter(|it| it.1 == answer).count(), 350);
    assert_eq!(punted.iter().filter(|it| it.1 == arp).count(), 1);
    worker.balances();
}

/// The control thread takes 1024 frames a millisecond at most, and as many from each worker as from the others.
#[test]
fn however_many_workers_there_are_strangers_do_not_keep_the_control_thread_busy() {
    for workers in 1..=64 {
        let of = |class: Class| class.limit(workers).0 as usize;
        let strangers = of(Class::Icmp) + of(Class::Local);
        assert!(strangers * workers <= 128_000, "{workers} workers: {strangers} each");
        assert!(strangers * 4 < 1_024 / workers * 1_000, "{workers} workers: {strangers} each");
    }
}

#[test]
fn it_is_the_same_over_ipv6() {
    let mut worker = TestWorker::serving("[2001:db8:0:1::100]:80 dr [2001:db8:0:2::7]");
    let ours =
        our_address_for(OUTSIDE, "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().into());
    let syn_to = |to: std::net::Ipv6Addr| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(mac_of(GATEWAY).0, mac_of(our_address(OUTSIDE)).0)
            .ipv6("2001:db8:9::1".parse::<std::net::Ipv6Addr>().unwrap().octets(), to.octets(), 9)
            .tcp(5, 9443, 7, 1000)
            .syn()
            .write(&mut frame, b"")
            .unwrap();
        frame
    };
    let std::net::IpAddr::V6(own) = ours.into() else { panic!("no IPv6") };
    let frame = syn_to(own);
    worker.receives(&frame);
    assert_eq!(punted(&mut worker), [(OUTSIDE, frame)]);
    worker.receives(&syn_to("2001:db8:0:1::100".parse().unwrap()));
    assert_eq!((punted(&mut worker), worker.dropped(Reason::NoService)), (vec![], 1));
    worker.balances();
}

/// All servers of a service with a page drain.
const PAGE: &str = "192.0.2.1:80 nat page 10.0.0.7!";

#[test]
fn a_client_that_no_server_takes_gets_the_control_plane_s_page_as_long_as_it_stays_so() {
    let mut worker = TestWorker::serving(PAGE);
    let frames = [SYN, ACK, FIN | ACK].map(|flags| tcp(CLIENT, "192.0.2.1:80", flags));
    frames.iter().for_each(|frame| worker.receives(frame));
    assert_eq!(punted(&mut worker), frames.map(|frame| (OUTSIDE, frame)));
    let other_port = syn("192.0.2.1:81");
    worker.receives(&other_port);
    assert_eq!((punted(&mut worker), worker.dropped(Reason::NoService)), (vec![], 1));
    worker.reconfigure("192.0.2.1:80 nat page 10.0.0.7", 2);
    worker.receives(&syn("192.0.2.1:80"));
    assert_eq!((worker.transmitted().len(), punted(&mut worker)), (1, vec![]));
    worker.balances();
}

#[test]
fn connections_that_a_server_has_go_on_beside_the_page() {
    let mut worker = TestWorker::serving("192.0.2.1:80 nat page 10.0.0.7");
    worker.receives(&syn("192.0.2.1:80"));
    worker.reconfigure(PAGE, 2);
    worker.receives(&tcp(CLIENT, "192.0.2.1:80", ACK));
    assert_eq!((worker.transmitted().len(), punted(&mut worker)), (2, vec![]));
    worker.receives(&tcp("198.51.100.9:40001", "192.0.2.1:80", SYN));
    assert_eq!(punted(&mut worker).len(), 1);
    worker.balances();
}

#[test]
fn a_client_that_returns_to_a_draining_server_gets_no_page() {
    let services = |drains: &str| format!("192.0.2.1:80 nat sticky page 10.0.0.7{drains}");
    let through = |text: &str| {
        let mut snapshot = snapshot(text);
        let services = std::sync::Arc::get_mut(&mut snapshot.services).unwrap();
        let mut service = services
            .at(address("192.0.2.1:80").ip().to_owned().into(), Protocol::Tcp, 80)
            .unwrap()
            .clone();
        service.persistence.as_mut().unwrap().through_drain = true;
        services.insert(service);
        snapshot
    };
    let mut worker = TestWorker::with(through(&services("")), 64);
    worker.receives(&syn("192.0.2.1:80"));
    worker.publisher.publish(Snapshot { generation: 2, ..through(&services("!")) });
    worker.receives(&tcp("198.51.100.9:40001", "192.0.2.1:80", SYN));
    assert_eq!((worker.transmitted().len(), punted(&mut worker)), (2, vec![]));
    worker.receives(&tcp("198.51.100.10:40001", "192.0.2.1:80", SYN));
    assert_eq!(punted(&mut worker).len(), 1);
    worker.balances();
}

#[test]
fn without_a_page_or_when_it_is_closed_a_service_without_servers_takes_nothing() {
    for (services, reason) in [
        ("192.0.2.1:80 nat 10.0.0.7!", Reason::NoServer),
        ("192.0.2.1:80 nat page closed 10.0.0.7!", Reason::ServiceClosed),
        ("192.0.2.1:80/udp nat page 10.0.0.7!", Reason::NoServer),
    ] {
        let mut worker = TestWorker::serving(services);
        worker.receives(&syn("192.0.2.1:80"));
        worker.receives(&udp(CLIENT, "192.0.2.1:80", b"hello"));
        assert_eq!((punted(&mut worker), worker.dropped(reason)), (vec![], 1), "{services}");
        worker.balances();
    }
}

#[test]
fn an_error_about_a_page_goes_to_whoever_sends_it() {
    let mut worker = TestWorker::serving(PAGE);
    let page = reply("192.0.2.1:80", CLIENT, ACK)[14..42].to_vec();
    let error = icmp_error("192.0.2.1", &page);
    worker.receives(&error);
    assert_eq!(punted(&mut worker), [(OUTSIDE, error)]);
    worker.balances();
}
