//! Floods of SYNs (FW-08): how a connection is opened with a cookie, step by step, and whether clients get through.

use std::net::SocketAddr;

use super::segment::{End, Segment, told};
use super::*;
use crate::explain::Decision;
use crate::wire::tcp::Flags;

const PSH: u8 = Flags::ACK | Flags::PSH;
const SYN_ACK: u8 = Flags::SYN | Flags::ACK;
const RST: u8 = Flags::RST;
const SERVICE: &str = "192.0.2.1:80";
const CLIENT_ISN: u32 = 0xffff_fff0; // soon past 0
const SERVER_ISN: u32 = 0x1234_5678;

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn pass(worker: &mut TestWorker, interface: InterfaceId, segment: &Segment) -> [Vec<Segment>; 2] {
    worker.receives_on(interface, &segment.frame(interface));
    [OUTSIDE, INSIDE]
        .map(|to| worker.transmitted_on(to).iter().map(|frame| Segment::read(frame)).collect())
}

/// A worker whose first service has as many half-open flows as it may: one.
fn flooded(services: &str, service: &str) -> TestWorker {
    let mut worker = TestWorker::serving(services);
    let stranger = if service.starts_with('[') { "[2001:db8:6::6]:6" } else { "203.0.113.6:6" };
    let syn = Segment::new(at(stranger), at(service), Flags::SYN);
    let [_, sent] = pass(&mut worker, OUTSIDE, &syn);
    assert_eq!(sent.len(), 1, "the first is remembered");
    worker
}

/// A connection under flood, as far as it has come.
struct Opening {
    worker: TestWorker,
    client: End,
    acknowledgement: Segment,
}

impl Opening {
    /// The client has got its cookie, and acknowledges it.
    fn challenged(services: &str, client: &str, service: &str) -> Self {
        let mut worker = flooded(services, service);
        let mut client = End::new(at(client), at(service), CLIENT_ISN);
        let syn = Segment { options: mss(1_400), ..client.says(Flags::SYN, "") };
        let [answer, none] = pass(&mut worker, OUTSIDE, &syn);
        assert!(none.is_empty());
        client.takes(&answer[0]);
        let acknowledgement = Segment { window: 3_333, ..client.says(Flags::ACK, "") };
        Self { worker, client, acknowledgement }
    }

    fn nat() -> Self {
        Self::challenged("192.0.2.1:80 nat half-open=1 10.0.0.7:8080", CLIENT, SERVICE)
    }

    /// The server has got its SYN.
    fn opened(&mut self) -> End {
        let [none, sent] = pass(&mut self.worker, OUTSIDE, &self.acknowledgement);
        assert!(none.is_empty());
        let syn = &sent[0];
        assert_eq!((syn.flags, syn.sequence), (Flags::SYN, CLIENT_ISN));
        let mut server = End::new(syn.to, syn.from, SERVER_ISN);
        server.takes(syn);
        server
    }

    /// Both can hear each other.
    fn joined(mut self) -> (TestWorker, End, End) {
        let mut server = self.opened();
        let answer = Segment { window: 4_444, options: mss(1_300), ..server.says(SYN_ACK, "") };
        let [to_client, to_server] = pass(&mut self.worker, INSIDE, &answer);
        self.client.takes(&to_client[0]);
        server.takes(&to_server[0]);
        (self.worker, self.client, server)
    }
}

fn mss(size: u16) -> Vec<u8> {
    let [high, low] = size.to_be_bytes();
    vec![2, 4, high, low]
}

/// Both say something and hear it, in turns.
fn converse(worker: &mut TestWorker, client: &mut End, server: &mut End) {
    for turn in 0..4 {
        let said = client.says(PSH, &format!("question {turn}"));
        let [_, heard] = pass(worker, OUTSIDE, &said);
        assert_eq!(server.takes(&heard[0]).text, said.text);
        let said = server.says(PSH, &format!("the answer to {turn}"));
        let [heard, _] = pass(worker, INSIDE, &said);
        assert_eq!(client.takes(&heard[0]).text, said.text);
    }
    worker.balances();
}

#[test]
fn a_syn_beyond_the_budget_is_answered_with_a_cookie_and_forgotten() {
    let mut worker = flooded("192.0.2.1:80 nat half-open=1 10.0.0.7", SERVICE);
    let syn = Segment {
        sequence: 77,
        options: [&mss(1_400)[..], &[1, 3, 3, 7, 4, 2, 1, 1]].concat(),
        ..Segment::new(at(CLIENT), at(SERVICE), Flags::SYN)
    };
    let [answer, none] = pass(&mut worker, OUTSIDE, &syn);
    assert!(none.is_empty());
    let [answer] = &answer[..] else { panic!("{answer:?}") };
    assert_eq!((answer.from, answer.to), (at(SERVICE), at(CLIENT)));
    assert_eq!((answer.flags, answer.acknowledgement, answer.window), (SYN_ACK, 78, 0));
    assert_eq!(answer.options, mss(1_400), "nothing but the segment size");
    assert_eq!(worker.counters.flows.get(), 1);
    assert_eq!(worker.dropped(Reason::Challenged), 1);
    assert_eq!(worker.counters.injected.get(), 1);
    worker.balances();
}

#[test]
fn the_cookie_s_segment_size_is_what_the_client_and_the_interface_can_take() {
    let v4 = ("192.0.2.1:80 nat half-open=1 10.0.0.7", CLIENT, SERVICE);
    let v6 = (
        "[2001:db8:0:1::80]:80 nat half-open=1 [2001:db8:0:2::7]",
        "[2001:db8:9::9]:40000",
        "[2001:db8:0:1::80]:80",
    );
    for ((services, client, service), options, size) in [
        (v4, mss(9_000), 1_460),
        (v4, mss(1_200), 1_200),
        (v4, vec![], 536),
        (v6, mss(9_000), 1_440),
        (v6, vec![], 1_220),
    ] {
        let mut worker = flooded(services, service);
        let syn = Segment { options, ..Segment::new(at(client), at(service), Flags::SYN) };
        let [answer, _] = pass(&mut worker, OUTSIDE, &syn);
        assert_eq!(answer[0].options, mss(size));
    }
}

#[test]
fn a_cookie_that_comes_back_opens_a_connection_to_the_server() {
    let mut opening = Opening::nat();
    let [none, sent] = pass(&mut opening.worker, OUTSIDE, &opening.acknowledgement);
    assert!(none.is_empty());
    let [syn] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((syn.from, syn.to), (at(CLIENT), at("10.0.0.7:8080")));
    assert_eq!((syn.flags, syn.sequence, syn.acknowledgement), (Flags::SYN, CLIENT_ISN, 0));
    assert_eq!(syn.window, 3_333, "the client's, as in its acknowledgement");
    assert_eq!(syn.options, mss(1_400), "the client's");
    assert_eq!(opening.worker.counters.cookies_accepted.get(), 1);
    assert_eq!(opening.worker.counters.flows.get(), 2);
    opening.worker.balances();
}

#[test]
fn when_the_server_has_answered_both_may_speak_and_understand_each_other() {
    for (services, client, service) in [
        ("192.0.2.1:80 nat half-open=1 10.0.0.7:8080", CLIENT, SERVICE),
        ("192.0.2.1:80 snat half-open=1 10.0.0.7", CLIENT, SERVICE),
        (
            "[2001:db8:0:1::80]:80 nat half-open=1 [2001:db8:0:2::7]",
            "[2001:db8:9::9]:40000",
            "[2001:db8:0:1::80]:80",
        ),
        (
            "[2001:db8:0:1::80]:80 snat half-open=1 [2001:db8:0:2::7]",
            "[2001:db8:9::9]:40000",
            "[2001:db8:0:1::80]:80",
        ),
    ] {
        let mut opening = Opening::challenged(services, client, service);
        let mut server = opening.opened();
        let answer = Segment { window: 4_444, ..server.says(SYN_ACK, "") };
        let [to_client, to_server] = pass(&mut opening.worker, INSIDE, &answer);
        let [room] = &to_client[..] else { panic!("{to_client:?}") };
        assert_eq!((room.flags, room.window, &room.options[..]), (Flags::ACK, 4_444, &[][..]));
        let [accepted] = &to_server[..] else { panic!("{to_server:?}") };
        assert_eq!((accepted.flags, accepted.window), (Flags::ACK, 3_333));
        opening.client.takes(room);
        server.takes(accepted);
        converse(&mut opening.worker, &mut opening.client, &mut server);
    }
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let (mut worker, mut client, mut server) = Opening::nat().joined();
    let said = server.says(PSH, "220 ready\r\n");
    let [heard, _] = pass(&mut worker, INSIDE, &said);
    assert_eq!(client.takes(&heard[0]).text, said.text);
    converse(&mut worker, &mut client, &mut server);
}

#[test]
fn the_client_s_probes_make_us_ask_the_server_again() {
    let mut opening = Opening::nat();
    let mut server = opening.opened();
    let probes = [
        opening.acknowledgement.clone(),
        Segment { sequence: CLIENT_ISN, ..opening.acknowledgement.clone() },
        Segment { text: b"G".into(), ..opening.acknowledgement.clone() },
    ];
    for probe in probes {
        opening.worker.passes(Duration::from_secs(29)); // longer than a cookie is good, in all
        let [none, sent] = pass(&mut opening.worker, OUTSIDE, &probe);
        assert!(none.is_empty());
        assert_eq!((sent[0].flags, sent[0].sequence), (Flags::SYN, CLIENT_ISN));
    }
    let [to_client, to_server] = pass(&mut opening.worker, INSIDE, &server.says(SYN_ACK, ""));
    opening.client.takes(&to_client[0]);
    server.takes(&to_server[0]);
    converse(&mut opening.worker, &mut opening.client, &mut server);
}

#[test]
fn a_probe_alone_opens_the_connection_if_the_acknowledgement_was_lost() {
    let mut opening = Opening::nat();
    opening.acknowledgement.sequence = CLIENT_ISN; // as Linux probes a window
    let mut server = opening.opened();
    let [to_client, to_server] = pass(&mut opening.worker, INSIDE, &server.says(SYN_ACK, ""));
    opening.client.takes(&to_client[0]);
    server.takes(&to_server[0]);
    converse(&mut opening.worker, &mut opening.client, &mut server);
}

#[test]
fn a_probe_after_a_lost_window_update_is_answered_by_the_server() {
    let (mut worker, mut client, mut server) = Opening::nat().joined();
    let probe = Segment { sequence: client.next - 1, ..client.says(Flags::ACK, "") };
    let [_, heard] = pass(&mut worker, OUTSIDE, &probe);
    assert_eq!(heard[0].acknowledgement, server.next);
    let [room, _] = pass(&mut worker, INSIDE, &server.says(Flags::ACK, ""));
    client.takes(&room[0]);
    converse(&mut worker, &mut client, &mut server);
}

#[test]
fn a_server_s_answer_that_comes_again_gets_its_acknowledgement_from_the_client() {
    let (mut worker, client, server) = Opening::nat().joined();
    let again = Segment {
        sequence: SERVER_ISN,
        acknowledgement: server.awaits,
        ..Segment::new(server.address, server.peer, SYN_ACK)
    };
    let [heard, none] = pass(&mut worker, INSIDE, &again);
    assert!(none.is_empty());
    assert_eq!((heard[0].flags, heard[0].sequence.wrapping_add(1)), (SYN_ACK, client.awaits));
}

#[test]
fn a_server_that_refuses_resets_the_client() {
    let mut opening = Opening::nat();
    let mut server = opening.opened();
    let refusal = Segment {
        sequence: 0,
        acknowledgement: server.awaits,
        ..server.says(RST | Flags::ACK, "")
    };
    let [to_client, none] = pass(&mut opening.worker, INSIDE, &refusal);
    assert!(none.is_empty());
    let [reset] = &to_client[..] else { panic!("{to_client:?}") };
    assert_eq!((reset.from, reset.to), (at(SERVICE), at(CLIENT)));
    assert_eq!(reset.flags & RST, RST);
    assert_eq!(reset.sequence, opening.client.awaits, "so that it is believed (RFC 5961)");
    opening.worker.balances();
}

#[test]
fn a_refusal_that_answers_something_else_is_none() {
    let mut opening = Opening::nat();
    let mut server = opening.opened();
    let stray = Segment { acknowledgement: 5, ..server.says(RST | Flags::ACK, "") };
    let sent = pass(&mut opening.worker, INSIDE, &stray);
    assert_eq!(sent, [vec![], vec![]]);
    assert_eq!(opening.worker.dropped(Reason::NoFlow), 1);
}

#[test]
fn a_server_that_still_has_an_older_connection_is_made_to_forget_it() {
    let mut opening = Opening::nat();
    let mut server = opening.opened();
    let old = Segment {
        sequence: 99,
        acknowledgement: 1_234,
        ..Segment::new(server.address, server.peer, Flags::ACK)
    };
    let [none, sent] = pass(&mut opening.worker, INSIDE, &old);
    assert!(none.is_empty());
    assert_eq!((sent[0].flags, sent[0].sequence), (RST, 1_234));
    let [_, again] = pass(&mut opening.worker, OUTSIDE, &opening.acknowledgement);
    assert_eq!(again[0].flags, Flags::SYN);
    let [to_client, to_server] = pass(&mut opening.worker, INSIDE, &server.says(SYN_ACK, ""));
    opening.client.takes(&to_client[0]);
    server.takes(&to_server[0]);
    converse(&mut opening.worker, &mut opening.client, &mut server);
}

#[test]
fn a_cookie_that_is_not_ours_is_dropped_and_never_reset() {
    let mut opening = Opening::nat();
    let good = opening.acknowledgement.clone();
    let wrong = [
        Segment { acknowledgement: good.acknowledgement ^ 1, ..good.clone() },
        Segment { sequence: good.sequence ^ 0x100, ..good.clone() },
        Segment { from: at("198.51.100.9:40001"), ..good.clone() },
        Segment { flags: SYN_ACK, ..good.clone() },
    ];
    for (index, segment) in wrong.iter().enumerate() {
        assert_eq!(pass(&mut opening.worker, OUTSIDE, segment), [vec![], vec![]]);
        assert_eq!(opening.worker.dropped(Reason::BadCookie), index as u64 + 1);
    }
    opening.opened();
    for (index, segment) in wrong.iter().enumerate() {
        assert_eq!(pass(&mut opening.worker, OUTSIDE, segment), [vec![], vec![]]);
        assert_eq!(opening.worker.dropped(Reason::BadCookie), index as u64 + 5, "known, too");
    }
    opening.worker.balances();
}

#[test]
fn a_cookie_of_too_long_ago_is_none() {
    let mut opening = Opening::nat();
    let other = Segment::new(at("203.0.113.7:7"), at(SERVICE), Flags::SYN);
    for _ in 0..13 {
        opening.worker.passes(Duration::from_secs(10));
        let _ = pass(&mut opening.worker, OUTSIDE, &other); // the flood goes on
    }
    let sent = pass(&mut opening.worker, OUTSIDE, &opening.acknowledgement);
    assert_eq!(sent, [vec![], vec![]]);
    assert_eq!(opening.worker.dropped(Reason::BadCookie), 1);
}

#[test]
fn a_cookie_is_still_good_when_the_flood_is_over() {
    let mut opening = Opening::nat();
    for _ in 0..10 {
        opening.worker.passes(Duration::from_secs(4));
    }
    assert_eq!(opening.worker.counters.flows.get(), 0, "the half-open flow has expired");
    let (mut worker, mut client, mut server) = opening.joined();
    converse(&mut worker, &mut client, &mut server);
}

#[test]
fn when_the_flood_is_over_connections_in_mid_flow_are_taken_up_again() {
    let mut opening = Opening::nat();
    let middle = Segment {
        sequence: 5,
        acknowledgement: 6,
        ..Segment::new(at("198.51.100.77:7"), at(SERVICE), Flags::ACK)
    };
    assert_eq!(pass(&mut opening.worker, OUTSIDE, &middle), [vec![], vec![]]);
    for _ in 0..10 {
        opening.worker.passes(Duration::from_secs(4));
    }
    let [_, sent] = pass(&mut opening.worker, OUTSIDE, &middle);
    assert_eq!(sent[0].to, at("10.0.0.7:8080"));
}

#[test]
fn a_client_that_begins_anew_before_the_server_has_answered_may() {
    let mut opening = Opening::nat();
    opening.opened();
    opening.client.next = 5_000;
    let [answer, none] = pass(&mut opening.worker, OUTSIDE, &opening.client.says(Flags::SYN, ""));
    assert!(none.is_empty());
    opening.client.takes(&answer[0]);
    let acknowledgement = opening.client.says(Flags::ACK, "");
    let [_, sent] = pass(&mut opening.worker, OUTSIDE, &acknowledgement);
    assert_eq!((sent[0].flags, sent[0].sequence), (Flags::SYN, 5_000));
    opening.worker.balances();
}

#[test]
fn a_client_that_gives_up_takes_the_server_s_half_of_the_connection_with_it() {
    let mut opening = Opening::nat();
    opening.opened();
    let reset = Segment { flags: RST | Flags::ACK, ..opening.acknowledgement.clone() };
    let [_, sent] = pass(&mut opening.worker, OUTSIDE, &reset);
    assert_eq!(sent[0].flags & RST, RST);
    assert_eq!(sent[0].sequence, CLIENT_ISN.wrapping_add(1), "what the server waits for");
}

#[test]
fn connections_that_are_there_before_the_flood_go_on() {
    let mut worker = TestWorker::serving("192.0.2.1:80 nat half-open=1 10.0.0.7");
    let mut client = End::new(at(CLIENT), at(SERVICE), 1);
    let [_, syn] = pass(&mut worker, OUTSIDE, &client.says(Flags::SYN, ""));
    let mut server = End::new(syn[0].to, syn[0].from, 2);
    server.takes(&syn[0]);
    let [answer, _] = pass(&mut worker, INSIDE, &server.says(SYN_ACK, ""));
    client.takes(&answer[0]);
    converse(&mut worker, &mut client, &mut server);
    for port in 1..50 {
        let syn =
            Segment::new(SocketAddr::new(at("203.0.113.6:0").ip(), port), at(SERVICE), Flags::SYN);
        let _ = pass(&mut worker, OUTSIDE, &syn);
    }
    assert_eq!(worker.dropped(Reason::Challenged), 48);
    converse(&mut worker, &mut client, &mut server);
}

#[test]
fn text_is_replaced_in_a_connection_that_began_with_a_cookie() {
    let opening =
        Opening::challenged("192.0.2.1:21 nat ftp half-open=1 10.0.0.7", CLIENT, "192.0.2.1:21");
    let (mut worker, mut client, mut server) = opening.joined();
    for port in 1..9 {
        let said = server.says(PSH, &format!("227 Passive (10,0,0,7,200,{port})\r\n"));
        let [heard, _] = pass(&mut worker, INSIDE, &said);
        let heard = String::from_utf8(client.takes(&heard[0]).text.clone()).unwrap();
        assert_eq!(heard, format!("227 Passive (192,0,2,1,200,{port})\r\n"));
        converse(&mut worker, &mut client, &mut server);
    }
}

#[test]
fn the_server_s_answer_may_come_to_another_worker() {
    for mode in ["nat", "snat"] {
        let services = format!("192.0.2.1:80 {mode} half-open=1 10.0.0.7");
        let mut workers = TestWorker::crew(snapshot(&services), 1_024, 2);
        let mut pass = |worker: usize, interface, segment: &Segment| {
            workers[worker].receives_on(interface, &segment.frame(interface));
            (0..3).for_each(|_| workers.iter_mut().for_each(TestWorker::turn));
            [OUTSIDE, INSIDE].map(|to| -> Vec<Segment> {
                let sent = workers.iter_mut().flat_map(|it| it.transmitted_on(to));
                sent.map(|frame| Segment::read(&frame)).collect()
            })
        };
        pass(0, OUTSIDE, &Segment::new(at("203.0.113.6:6"), at(SERVICE), Flags::SYN));
        let mut client = End::new(at(CLIENT), at(SERVICE), 1);
        let [answer, _] = pass(0, OUTSIDE, &client.says(Flags::SYN, ""));
        client.takes(&answer[0]);
        let [_, syn] = pass(0, OUTSIDE, &client.says(Flags::ACK, ""));
        let mut server = End::new(syn[0].to, syn[0].from, 2);
        server.takes(&syn[0]);
        let [to_client, to_server] = pass(1, INSIDE, &server.says(SYN_ACK, ""));
        client.takes(&to_client[0]);
        server.takes(&to_server[0]);
        let [_, heard] = pass(1, OUTSIDE, &client.says(PSH, "question"));
        server.takes(&heard[0]);
        let [heard, _] = pass(1, INSIDE, &server.says(PSH, "answer"));
        client.takes(&heard[0]);
    }
}

#[test]
fn telling_what_would_become_of_a_cookie_opens_nothing() {
    let mut opening = Opening::nat();
    let telling = told(&mut opening.worker, OUTSIDE, &opening.acknowledgement);
    assert!(telling.contains(&Decision::Proxied), "{telling:?}");
    assert!(telling.contains(&Decision::Answered { to: at("10.0.0.7:0").ip().into() }));
    assert_eq!(opening.worker.counters.flows.get(), 1);
    assert_eq!(opening.worker.counters.cookies_accepted.get(), 0);
    let mut server = opening.opened();
    let answer = server.says(SYN_ACK, "");
    let telling = told(&mut opening.worker, INSIDE, &answer);
    let answered = |it: &&Decision| matches!(it, Decision::Answered { .. });
    assert_eq!(telling.iter().filter(answered).count(), 2, "{telling:?}");
    let [to_client, to_server] = pass(&mut opening.worker, INSIDE, &answer);
    opening.client.takes(&to_client[0]);
    server.takes(&to_server[0]);
    converse(&mut opening.worker, &mut opening.client, &mut server);
}

/// A number for each number, spread evenly.
fn mixed(number: u32) -> u32 {
    (u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// A client whose connection is opened and used in the middle of a flood. `direct` is a server that answers the client
/// itself.
fn visits(worker: &mut TestWorker, number: u32, service: &str, direct: bool) {
    let [_, _, c, d] = number.to_be_bytes();
    let client = SocketAddr::from(([198, 51, 100 + c, d], 20_000 + number as u16));
    let mut client = End::new(client, at(service), mixed(number));
    let send = |worker: &mut TestWorker, interface, segment: &Segment| {
        worker.receives_on(interface, &segment.frame(interface));
        let outside = worker.transmitted_on(OUTSIDE);
        let inside = worker.transmitted_on(INSIDE);
        let inside = inside.into_iter().map(|frame| unwrapped(&frame));
        (
            outside.iter().map(|frame| Segment::read(frame)).collect::<Vec<_>>(),
            inside.map(|frame| Segment::read(&frame)).collect::<Vec<_>>(),
        )
    };
    let (answer, mut sent) = send(worker, OUTSIDE, &client.says(Flags::SYN, ""));
    if let [challenge] = &answer[..] {
        client.takes(challenge);
        (_, sent) = send(worker, OUTSIDE, &client.says(Flags::ACK, ""));
    }
    let mut server = End::new(sent[0].to, sent[0].from, mixed(!number));
    server.takes(&sent[0]);
    let answer = server.says(SYN_ACK, "");
    if direct {
        client.takes(&answer);
    } else {
        let (to_client, to_server) = send(worker, INSIDE, &answer);
        client.takes(&to_client[0]);
        for segment in &to_server {
            server.takes(segment);
        }
    }
    for turn in 0..3 {
        let said = client.says(PSH, &format!("question {turn} of {number}"));
        let (_, heard) = send(worker, OUTSIDE, &said);
        assert_eq!(server.takes(&heard[0]).text, said.text);
        let said = server.says(PSH, "an answer");
        let heard = if direct { vec![said.clone()] } else { send(worker, INSIDE, &said).0 };
        assert_eq!(client.takes(&heard[0]).text, said.text);
    }
    let (_, heard) = send(worker, OUTSIDE, &client.says(Flags::FIN | Flags::ACK, ""));
    server.takes(&heard[0]);
}

/// What travels inside a tunnel's packet; any other frame as it is.
fn unwrapped(frame: &[u8]) -> Vec<u8> {
    if frame[23] == 4 { [&frame[..14], &frame[34..]].concat() } else { frame.to_vec() }
}

#[test]
fn every_client_gets_through_a_flood_of_100_000_syns() {
    let services = [("nat", false), ("snat", false), ("dr", true), ("tun", true)];
    let text = services.iter().zip(0..).map(|((mode, _), index)| {
        format!("192.0.2.1{index}:80 {mode} half-open=100 10.0.{index}.7 10.0.{index}.8*2 wlc\n")
    });
    let mut worker = TestWorker::with(snapshot(&text.collect::<String>()), 4_096);
    let mut clients = 0;
    for number in 0..100_000u32 {
        let random = mixed(number);
        let index = random as usize % 4;
        let [a, b, c, _] = random.to_be_bytes();
        let from = SocketAddr::from(([100 + a % 20, b, c, 1 + (number % 250) as u8], c as u16 + 1));
        let to = at(&format!("192.0.2.1{index}:80"));
        let syn = Segment { sequence: random, ..Segment::new(from, to, Flags::SYN) };
        worker.receives_on(OUTSIDE, &syn.frame(OUTSIDE));
        if number % 100 == 0 {
            for frame in worker.transmitted() {
                Segment::read(&unwrapped(&frame)); // its checksums are right
            }
            // 50 s in all: half-open flows expire under way, and their places are taken again.
            worker.passes(Duration::from_millis(50));
        }
        if number % 1_000 == 999 {
            worker.transmitted();
            for (index, (_, direct)) in services.iter().enumerate() {
                visits(&mut worker, clients, &format!("192.0.2.1{index}:80"), *direct);
                clients += 1;
            }
            worker.balances();
        }
    }
    assert_eq!(clients, 400);
    worker.transmitted();
    worker.balances();
    let counters = &worker.counters;
    assert!(worker.dropped(Reason::Challenged) > 40_000, "half of the flood is for NAT and SNAT");
    assert!(counters.forwarded_without_flow.get() > 40_000, "the other half for DR and TUN");
    assert!(counters.cookies_accepted.get() >= 150, "{}", counters.cookies_accepted.get());
    assert_eq!(worker.dropped(Reason::BadCookie), 0);
    assert!(counters.flows.get() < 2_000, "{}", counters.flows.get());
}

#[test]
fn a_flood_of_acknowledgements_opens_nothing() {
    let mut opening = Opening::nat();
    for number in 0..20_000u32 {
        let random = mixed(number);
        let [a, b, c, d] = random.to_be_bytes();
        let from = SocketAddr::from(([100 + a % 20, b, c, d], 1_024 + c as u16));
        let acknowledgement = Segment {
            sequence: mixed(random),
            acknowledgement: mixed(!random),
            ..Segment::new(from, at(SERVICE), Flags::ACK)
        };
        let sent = pass(&mut opening.worker, OUTSIDE, &acknowledgement);
        assert_eq!(sent, [vec![], vec![]], "no reset either");
    }
    assert_eq!(opening.worker.dropped(Reason::BadCookie), 20_000);
    assert_eq!(opening.worker.counters.flows.get(), 1);
    let (mut worker, mut client, mut server) = opening.joined();
    converse(&mut worker, &mut client, &mut server);
}

/// Segments between a few ends, with numbers near those that matter, and text that FTP looks for.
fn anything() -> impl Strategy<Value = (InterfaceId, Segment)> {
    let number = || {
        prop_oneof![
            Just(CLIENT_ISN),
            Just(CLIENT_ISN.wrapping_add(1)),
            Just(SERVER_ISN),
            Just(SERVER_ISN + 1),
            any::<u32>()
        ]
    };
    let text = prop_oneof![
        4 => Just(String::new()),
        1 => Just("PORT 198,51,100,9,200,1\r\n".to_owned()),
        1 => Just("227 (10,0,0,7,200,1)\r\n".to_owned()),
    ];
    let ends = prop_oneof![
        3 => Just((OUTSIDE, CLIENT, "192.0.2.1:21")),
        3 => Just((INSIDE, "10.0.0.7:21", CLIENT)),
        1 => Just((OUTSIDE, "203.0.113.6:6", "192.0.2.1:21")),
        1 => Just((OUTSIDE, CLIENT, "192.0.2.1:51201")),
        1 => Just((INSIDE, "10.0.0.7:20", "198.51.100.9:51201")),
    ];
    let blocks = prop_oneof![Just(vec![]), Just([&[5, 10][..], &[7; 8], &[1, 1]].concat())];
    (ends, any::<u8>(), number(), number(), text, blocks).prop_map(
        |((interface, from, to), flags, sequence, acknowledgement, text, options)| {
            let segment = Segment {
                sequence,
                acknowledgement,
                options,
                text: text.into(),
                ..Segment::new(at(from), at(to), flags & 0x1f)
            };
            (interface, segment)
        },
    )
}

proptest! {
    #[test]
    fn whatever_comes_in_whatever_order_all_that_leaves_is_right_and_the_books_balance(
        segments in prop::collection::vec((anything(), any::<bool>()), 1..80)
    ) {
        let mut worker = TestWorker::serving("192.0.2.1:21 nat ftp half-open=1 10.0.0.7");
        let mut cookie = 0;
        for ((interface, mut segment), returns) in segments {
            if returns && interface == OUTSIDE {
                segment.acknowledgement = cookie;
            }
            for answer in pass(&mut worker, interface, &segment).into_iter().flatten() {
                if answer.flags == SYN_ACK && answer.window == 0 {
                    cookie = answer.sequence.wrapping_add(1);
                }
            }
            worker.passes(Duration::from_millis(300));
            worker.transmitted();
            worker.balances();
        }
    }
}
