//! FTP through translation (VS-06, NAT-05): what the two ends of a control connection hear of each other, and whether
//! their data connections find them.

use std::net::SocketAddr;

use super::segment::{End, Segment, told};
use super::*;
use crate::explain::Decision;
use crate::wire::tcp::Flags;

const ACK_PSH: u8 = Flags::ACK | Flags::PSH;
const SYN_ACK: u8 = Flags::SYN | Flags::ACK;

/// Workers, and one control connection through the first.
struct Session {
    workers: Vec<TestWorker>,
    client: End,
    server: End,
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

impl Session {
    fn with(services: &str, workers: usize, client: &str, service: &str) -> Self {
        let workers = TestWorker::crew(snapshot(services), 1_024, workers);
        Self::through(workers, client, service)
    }

    fn through(mut workers: Vec<TestWorker>, client: &str, service: &str) -> Self {
        let mut client = End::new(at(client), at(service), 0xffff_ff00); // soon past 0
        let frames = pass(&mut workers, 0, OUTSIDE, &client.says(Flags::SYN, ""));
        let syn = Segment::read(&frames[0]);
        let mut server = End::new(syn.to, syn.from, 5_000);
        server.hears(&frames[0]);
        let frames = pass(&mut workers, 0, INSIDE, &server.says(SYN_ACK, ""));
        client.hears(&frames[0]);
        let mut session = Self { workers, client, server };
        session.client_says("");
        session
    }

    /// NAT over IPv4.
    fn nat() -> Self {
        Self::with("192.0.2.1:21 nat ftp 10.0.0.7", 1, CLIENT, "192.0.2.1:21")
    }

    /// SNAT over IPv4.
    fn snat() -> Self {
        Self::with("192.0.2.1:21 snat ftp 10.0.0.7", 1, CLIENT, "192.0.2.1:21")
    }

    fn nat_v6() -> Self {
        let service = "[2001:db8:0:1::80]:21 nat ftp [2001:db8:0:2::7]";
        Self::with(service, 1, CLIENT_V6, "[2001:db8:0:1::80]:21")
    }

    fn snat_v6() -> Self {
        let service = "[2001:db8:0:1::80]:21 snat ftp [2001:db8:0:2::7]";
        Self::with(service, 1, CLIENT_V6, "[2001:db8:0:1::80]:21")
    }

    fn client_says(&mut self, text: &str) -> String {
        let said = self.client.says(ACK_PSH, text);
        let frames = pass(&mut self.workers, 0, OUTSIDE, &said);
        String::from_utf8(self.server.hears(&frames[0]).text).unwrap()
    }

    fn server_says(&mut self, text: &str) -> String {
        let said = self.server.says(ACK_PSH, text);
        let frames = pass(&mut self.workers, 0, INSIDE, &said);
        String::from_utf8(self.client.hears(&frames[0]).text).unwrap()
    }

    /// Both say something, in turns, and understand each other.
    fn goes_on(&mut self) {
        for _ in 0..3 {
            assert_eq!(self.client_says("NOOP\r\n"), "NOOP\r\n");
            assert_eq!(self.server_says("200 Ok.\r\n"), "200 Ok.\r\n");
        }
        for worker in &self.workers {
            assert_eq!(worker.counters.imbalance(), 0);
        }
        assert_eq!(self.workers[0].buffers_out(), 0);
    }

    /// The client opens a connection to `to`, over this worker; the end that the server has then.
    fn client_opens(&mut self, worker: usize, to: SocketAddr) -> Option<(End, End)> {
        let mut client = End::new(SocketAddr::new(self.client.address.ip(), 41_000), to, 77);
        let frames = pass(&mut self.workers, worker, OUTSIDE, &client.says(Flags::SYN, ""));
        let syn = Segment::read(frames.first()?);
        let mut server = End::new(syn.to, syn.from, 88);
        server.hears(&frames[0]);
        let frames = pass(&mut self.workers, worker, INSIDE, &server.says(SYN_ACK, ""));
        client.hears(&frames[0]);
        let frames = pass(&mut self.workers, worker, OUTSIDE, &client.says(ACK_PSH, "file"));
        server.hears(&frames[0]);
        Some((client, server))
    }

    /// The server opens a connection from its port 20 to `to`; the end that the client has then.
    fn server_opens(&mut self, worker: usize, from: u16, to: SocketAddr) -> Option<(End, End)> {
        let mut server = End::new(SocketAddr::new(self.server.address.ip(), from), to, 77);
        let frames = pass(&mut self.workers, worker, INSIDE, &server.says(Flags::SYN, ""));
        let syn = Segment::read(frames.first()?);
        let mut client = End::new(syn.to, syn.from, 88);
        client.hears(&frames[0]);
        let frames = pass(&mut self.workers, worker, OUTSIDE, &client.says(SYN_ACK, ""));
        server.hears(&frames[0]);
        let frames = pass(&mut self.workers, worker, INSIDE, &server.says(ACK_PSH, "file"));
        client.hears(&frames[0]);
        let frames = pass(&mut self.workers, worker, OUTSIDE, &client.says(ACK_PSH, ""));
        server.hears(&frames[0]);
        Some((server, client))
    }
}

const CLIENT_V6: &str = "[2001:db8:9::9]:40000";

/// A segment arrives at one worker's queue; all take turns until nothing is under way.
fn pass(
    workers: &mut [TestWorker],
    worker: usize,
    interface: InterfaceId,
    segment: &Segment,
) -> Vec<Vec<u8>> {
    workers[worker].receives_on(interface, &segment.frame(interface));
    for _ in 0..workers.len() + 1 {
        workers.iter_mut().for_each(TestWorker::turn);
    }
    workers.iter_mut().flat_map(TestWorker::transmitted).collect()
}

/// The six numbers of a `PORT` command or a 227 reply.
fn six(text: &str) -> SocketAddr {
    let list = text.trim_start_matches(|c: char| c != ',' && !c.is_ascii_digit());
    let list = list.strip_prefix("227 Entering Passive Mode (").unwrap_or(list);
    let end = list.find(|c: char| c != ',' && !c.is_ascii_digit()).unwrap();
    let numbers: Vec<u8> = list[..end].split(',').map(|number| number.parse().unwrap()).collect();
    let [a, b, c, d, high, low] = numbers[..] else { panic!("{text}") };
    SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])))
}

/// The three fields of an `EPRT` command.
fn three(text: &str) -> SocketAddr {
    let fields: Vec<_> = text.split('|').collect();
    SocketAddr::new(fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

#[test]
fn a_passive_server_is_reached_at_the_virtual_address() {
    for mut session in [Session::nat(), Session::snat()] {
        let heard = session.server_says("227 Entering Passive Mode (10,0,0,7,200,1).\r\n");
        assert_eq!(heard, "227 Entering Passive Mode (192,0,2,1,200,1).\r\n", "the server's port");
        session.goes_on();
        let (_, server) = session.client_opens(0, at("192.0.2.1:51201")).unwrap();
        assert_eq!(server.address, at("10.0.0.7:51201"));
        assert_eq!(
            server.peer.ip(),
            session.server.peer.ip(),
            "where the control connection comes from"
        );
        session.goes_on();
        assert_eq!(session.client_opens(0, at("192.0.2.1:51202")).map(drop), None, "not announced");
        assert_eq!(session.workers[0].dropped(Reason::NoService), 1);
    }
}

#[test]
fn an_extended_passive_server_is_reached_over_both_families() {
    let service = "192.0.2.1:21";
    let sessions = [
        (Session::nat(), service, "10.0.0.7:6446"),
        (Session::snat(), service, "10.0.0.7:6446"),
        (Session::nat_v6(), "[2001:db8:0:1::80]:21", "[2001:db8:0:2::7]:6446"),
        (Session::snat_v6(), "[2001:db8:0:1::80]:21", "[2001:db8:0:2::7]:6446"),
    ];
    for (mut session, service, server) in sessions {
        let heard = session.server_says("229 Entering Extended Passive Mode (|||6446|)\r\n");
        assert_eq!(heard, "229 Entering Extended Passive Mode (|||6446|)\r\n");
        let (_, end) = session.client_opens(0, SocketAddr::new(at(service).ip(), 6446)).unwrap();
        assert_eq!(end.address, at(server));
        session.goes_on();
    }
}

#[test]
fn a_port_that_is_taken_at_the_virtual_address_becomes_another() {
    let services = "192.0.2.1:21 nat ftp 10.0.0.7\n192.0.2.1:6446 nat 10.0.0.8";
    let mut session = Session::with(services, 1, CLIENT, "192.0.2.1:21");
    let heard = session.server_says("229 Extended Passive Mode (|||6446|)\r\n");
    let port: u16 = heard.split('|').nth(3).unwrap().parse().unwrap();
    assert_ne!(port, 6446);
    session.goes_on();
    let (_, end) = session.client_opens(0, SocketAddr::new(at("192.0.2.1:0").ip(), port)).unwrap();
    assert_eq!(end.address, at("10.0.0.7:6446"));
    let (_, other) = session.client_opens(0, at("192.0.2.1:6446")).unwrap();
    assert_eq!(other.address, at("10.0.0.8:6446"), "the service is what it was");
    session.goes_on();
}

#[test]
fn two_servers_with_the_same_port_for_one_client_are_both_reached() {
    let mut one =
        Session::with("192.0.2.1:21 nat ftp 10.0.0.7 10.0.0.8", 1, CLIENT, "192.0.2.1:21");
    let first = one.server_says("229 (|||6446|)\r\n");
    let first_server = one.server.address.ip();
    let workers = one.workers;
    let mut other = Session::through(workers, "198.51.100.9:40001", "192.0.2.1:21");
    assert_ne!(other.server.address.ip(), first_server);
    let second = other.server_says("229 (|||6446|)\r\n");
    assert_eq!(first, "229 (|||6446|)\r\n");
    assert_ne!(second, first);
    let port: u16 = second.split('|').nth(3).unwrap().parse().unwrap();
    let virtual_address = at("192.0.2.1:0").ip();
    let (_, end) = other.client_opens(0, SocketAddr::new(virtual_address, 6446)).unwrap();
    assert_eq!(end.address, SocketAddr::new(first_server, 6446));
    let (_, end) = other.client_opens(0, SocketAddr::new(virtual_address, port)).unwrap();
    assert_eq!(end.address, SocketAddr::new(other.server.address.ip(), 6446));
}

#[test]
fn an_active_server_comes_from_the_virtual_address() {
    let mut session = Session::nat();
    let command = "PORT 198,51,100,9,200,1\r\n";
    assert_eq!(session.client_says(command), command, "the client can be reached where it says");
    session.goes_on();
    let (server, client) = session.server_opens(0, 20, at("198.51.100.9:51201")).unwrap();
    assert_eq!((client.peer, client.address), (at("192.0.2.1:20"), at("198.51.100.9:51201")));
    assert_eq!(server.peer, at("198.51.100.9:51201"));
    // Of another server, or a second time, it is nothing that was announced.
    assert!(session.server_opens(0, 1_020, at("198.51.100.9:51201")).is_none());
    session.goes_on();
}

#[test]
fn an_active_server_is_given_our_address_where_it_does_not_know_the_client() {
    let ours = our_address(INSIDE);
    for (mut session, command, read, own) in [
        (
            Session::snat(),
            "PORT 198,51,100,9,200,1\r\n",
            six as fn(&str) -> SocketAddr,
            ours.to_string(),
        ),
        (Session::snat(), "EPRT |1|198.51.100.9|51201|\r\n", three, ours.to_string()),
        (Session::snat_v6(), "EPRT |2|2001:db8:9::9|51201|\r\n", three, "2001:db8:0:2::2".into()),
    ] {
        let heard = session.client_says(command);
        let told = read(&heard);
        assert_eq!(told.ip().to_string(), own);
        assert_eq!(told.ip(), session.server.peer.ip(), "the control connection's address");
        session.goes_on();
        let (_, client) = session.server_opens(0, 20, told).unwrap();
        let (virtual_end, end) = (session.client.peer.ip(), session.client.address.ip());
        assert_eq!(client.peer, SocketAddr::new(virtual_end, 20));
        assert_eq!(client.address, SocketAddr::new(end, 51_201));
        session.goes_on();
    }
}

#[test]
fn an_active_server_over_ipv6_comes_from_the_virtual_address() {
    let mut session = Session::nat_v6();
    let command = "EPRT |2|2001:db8:9::9|51201|\r\n";
    assert_eq!(session.client_says(command), command);
    let (_, client) = session.server_opens(0, 1_999, at("[2001:db8:9::9]:51201")).unwrap();
    assert_eq!(client.peer, at("[2001:db8:0:1::80]:20"));
    session.goes_on();
}

#[test]
fn two_active_connections_to_one_port_of_a_client_differ_for_it() {
    let mut session = Session::nat();
    session.client_says("PORT 198,51,100,9,200,1\r\n");
    session.server_opens(0, 20, at("198.51.100.9:51201")).unwrap();
    session.client_says("PORT 198,51,100,9,200,1\r\n");
    let (_, client) = session.server_opens(0, 1_020, at("198.51.100.9:51201")).unwrap();
    assert_eq!(client.peer, at("192.0.2.1:1020"), "port 20 is in use");
    session.goes_on();
}

#[test]
fn numbers_fit_after_texts_that_grew_and_shrank_again_and_again() {
    let mut session = Session::snat();
    for round in 0..40u16 {
        let port = 50_000 + round;
        let command = format!("PORT 198,51,100,9,{},{}\r\n", port >> 8, port & 0xff);
        let heard = session.client_says(&command);
        assert_ne!(heard.len(), command.len(), "the case that matters");
        assert_eq!(session.server_says("200 PORT command successful.\r\n").len(), 30);
        let said =
            format!("227 Entering Passive Mode (10,0,0,7,{},{}).\r\n", port >> 8, port & 0xff);
        let heard = session.server_says(&said);
        assert_eq!(heard.len(), said.len() + 1);
        session.goes_on();
    }
}

#[test]
fn a_segment_that_is_sent_again_gets_the_same_text_and_number() {
    for services in ["192.0.2.1:21 snat ftp 10.0.0.7", "192.0.2.1:21 nat ftp 10.0.0.7"] {
        let mut session = Session::with(services, 1, CLIENT, "192.0.2.1:21");
        let command = session.client.says(ACK_PSH, "PORT 198,51,100,9,200,1\r\n");
        let first = pass(&mut session.workers, 0, OUTSIDE, &command);
        session.server.hears(&first[0]);
        let told = six(&String::from_utf8(Segment::read(&first[0]).text).unwrap());
        assert_eq!(pass(&mut session.workers, 0, OUTSIDE, &command), first);
        session.server_opens(0, 20, told).unwrap();
        assert_eq!(
            pass(&mut session.workers, 0, OUTSIDE, &command),
            first,
            "after it was used, too"
        );

        let reply = session.server.says(ACK_PSH, "227 Passive (10,0,0,7,200,1)\r\n");
        let first = pass(&mut session.workers, 0, INSIDE, &reply);
        session.client.hears(&first[0]);
        assert_eq!(pass(&mut session.workers, 0, INSIDE, &reply), first);
        session.client_opens(0, at("192.0.2.1:51201")).unwrap();
        assert_eq!(pass(&mut session.workers, 0, INSIDE, &reply), first);
        session.goes_on();
    }
}

#[test]
fn selective_acknowledgements_follow_the_numbers() {
    let mut session = Session::snat();
    let before = session.server.next;
    session.server_says("227 Passive (10,0,0,7,200,1)\r\n");
    // The client misses 10 bytes and has the 20 after them.
    let (lost, got) = (session.client.awaits, session.client.awaits + 10);
    let edges = [got.to_be_bytes(), (got + 20).to_be_bytes()].concat();
    let segment = Segment {
        options: [&[1, 1, 5, 10], &edges[..]].concat(),
        acknowledgement: lost,
        ..session.client.says(Flags::ACK, "")
    };
    let frames = pass(&mut session.workers, 0, OUTSIDE, &segment);
    let heard = Segment::read(&frames[0]);
    assert_eq!(heard.acknowledgement, session.server.next);
    let edges =
        [(session.server.next + 10).to_be_bytes(), (session.server.next + 30).to_be_bytes()]
            .concat();
    assert_eq!(heard.options, [&[1, 1, 5, 10], &edges[..]].concat());
    assert_eq!(session.server.next - before, 30);
}

#[test]
fn a_data_connection_finds_the_worker_of_its_control_connection() {
    for mode in ["nat", "snat"] {
        let services = format!("192.0.2.1:21 {mode} ftp 10.0.0.7");
        let mut session = Session::with(&services, 3, CLIENT, "192.0.2.1:21");
        session.server_says("227 Passive (10,0,0,7,200,1)\r\n");
        let (_, end) = session.client_opens(2, at("192.0.2.1:51201")).unwrap();
        assert_eq!(end.address, at("10.0.0.7:51201"));
        let told = six(&session.client_says("PORT 198,51,100,9,200,2\r\n"));
        let (_, client) = session.server_opens(1, 20, told).unwrap();
        assert_eq!(client.peer, at("192.0.2.1:20"));
        session.goes_on();
        let flows: Vec<_> = session.workers.iter().map(|it| it.counters.flows.get()).collect();
        assert_eq!(flows, [3, 0, 0], "all three are the first worker's");
    }
}

#[test]
fn an_announcement_of_a_third_party_is_not_followed() {
    for command in ["PORT 203,0,113,5,0,80\r\n", "EPRT |1|203.0.113.5|80|\r\n"] {
        let mut session = Session::snat();
        assert_eq!(session.client_says(command), command);
        assert_eq!(session.workers[0].counters.announcements_refused.get(), 1);
        assert!(session.server_opens(0, 20, at("203.0.113.5:80")).is_none());
        session.goes_on();
    }
    let mut session = Session::nat();
    let reply = "227 Passive (10,0,0,9,200,1)\r\n";
    assert_eq!(session.server_says(reply), reply);
    assert_eq!(session.workers[0].counters.announcements_refused.get(), 1);
    assert!(session.client_opens(0, at("192.0.2.1:51201")).is_none());
    session.goes_on();
}

#[test]
fn a_server_that_announces_the_virtual_address_itself_is_believed() {
    let mut session = Session::nat();
    let reply = "227 Passive (192,0,2,1,200,1)\r\n";
    assert_eq!(session.server_says(reply), reply);
    let (_, end) = session.client_opens(0, at("192.0.2.1:51201")).unwrap();
    assert_eq!(end.address, at("10.0.0.7:51201"));
}

#[test]
fn an_announcement_is_good_for_a_minute_and_for_its_client() {
    let mut session = Session::nat();
    session.server_says("227 Passive (10,0,0,7,200,1)\r\n");
    let stranger = Segment::new(at("203.0.113.5:41000"), at("192.0.2.1:51201"), Flags::SYN);
    assert!(pass(&mut session.workers, 0, OUTSIDE, &stranger).is_empty());
    session.workers[0].passes(Duration::from_secs(59));
    session.client_opens(0, at("192.0.2.1:51201")).unwrap();
    session.server_says("227 Passive (10,0,0,7,200,2)\r\n");
    session.workers[0].passes(Duration::from_secs(60));
    assert!(session.client_opens(0, at("192.0.2.1:51202")).is_none());
}

#[test]
fn an_announcement_that_expired_is_nobody_s_and_its_port_free_for_all_workers() {
    let services = "192.0.2.1:21 nat ftp 10.0.0.7";
    let mut session = Session::with(services, 2, CLIENT, "192.0.2.1:21");
    session.server_says("227 Passive (10,0,0,7,200,1)\r\n");
    for _ in 0..2_000 {
        for worker in &mut session.workers {
            worker.passes(Duration::from_millis(100));
        }
    }
    assert!(session.client_opens(1, at("192.0.2.1:51201")).is_none());
    assert_eq!(session.workers[1].dropped(Reason::NoService), 1, "not handed over any more");
}

#[test]
fn what_comes_from_the_other_side_is_no_announcement() {
    let mut session = Session::snat();
    for text in ["227 Passive (198,51,100,9,200,1)\r\n", "229 (|||6446|)\r\n"] {
        assert_eq!(session.client_says(text), text);
    }
    let command = "PORT 10,0,0,7,200,1\r\n";
    assert_eq!(session.server_says(command), command);
    session.goes_on();
}

#[test]
fn a_service_without_the_helper_leaves_the_text_alone() {
    let mut session = Session::with("192.0.2.1:21 nat 10.0.0.7", 1, CLIENT, "192.0.2.1:21");
    let reply = "227 Passive (10,0,0,7,200,1)\r\n";
    assert_eq!(session.server_says(reply), reply);
    session.goes_on();
}

#[test]
fn a_spoilt_announcement_is_dropped_before_its_checksum_is_made_anew() {
    let mut session = Session::snat();
    let reply = session.server.says(ACK_PSH, "227 Passive (10,0,0,7,200,1)\r\n");
    let mut frame = reply.frame(INSIDE);
    let text = frame.len() - 4;
    frame[text] ^= 1;
    session.workers[0].receives_on(INSIDE, &frame);
    assert!(session.workers[0].transmitted().is_empty());
    assert_eq!(session.workers[0].dropped(Reason::BadTransportChecksum), 1);
}

#[test]
fn an_announcement_that_no_longer_fits_is_dropped_and_counted() {
    let mut session = Session::snat();
    let reply = format!("227 Passive (10,0,0,7,200,1)\r\n{}", "x".repeat(1_430));
    let segment = session.server.says(ACK_PSH, &reply);
    assert!(pass(&mut session.workers, 0, INSIDE, &segment).is_empty());
    assert_eq!(session.workers[0].dropped(Reason::TooBig), 1);
    assert_eq!(session.workers[0].counters.imbalance(), 0);
}

#[test]
fn more_announcements_than_there_is_room_for_are_dropped_and_counted() {
    let mut session = Session::nat();
    let mut dropped = 0;
    for port in 10_000..20_000u16 {
        let text = format!("PORT 198,51,100,9,{},{}\r\n", port >> 8, port & 0xff);
        let segment = session.client.says(ACK_PSH, &text);
        let sent = pass(&mut session.workers, 0, OUTSIDE, &segment);
        dropped += u64::from(sent.is_empty());
    }
    assert!(dropped > 5_000, "{dropped}");
    assert_eq!(session.workers[0].dropped(Reason::HelperTableFull), dropped);
    assert_eq!(session.workers[0].counters.imbalance(), 0);
}

#[test]
fn telling_what_would_become_of_an_announcement_follows_none() {
    let mut session = Session::snat();
    let command = session.client.says(ACK_PSH, "PORT 198,51,100,9,200,1\r\n");
    let telling = told(&mut session.workers[0], OUTSIDE, &command);
    assert!(telling.iter().any(|it| matches!(it, Decision::Length { .. })), "{telling:?}");
    let sent = pass(&mut session.workers, 0, OUTSIDE, &session.client.clone().says(Flags::ACK, ""));
    let unchanged = Segment::read(&sent[0]).sequence;
    assert_eq!(unchanged, session.client.next, "no text has grown");
    let heard = pass(&mut session.workers, 0, OUTSIDE, &command);
    let at_ours = six(&String::from_utf8(session.server.hears(&heard[0]).text).unwrap());

    let opens = Segment::new(at("10.0.0.7:20"), at_ours, Flags::SYN);
    let telling = told(&mut session.workers[0], INSIDE, &opens);
    assert!(telling.iter().any(|it| matches!(it, Decision::Announced { .. })), "{telling:?}");
    assert_eq!(session.workers[0].counters.flows.get(), 1);
    session.server_opens(0, 20, at_ours).unwrap();
    session.goes_on();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_said_on_a_control_connection_both_count_alike(
        texts in prop::collection::vec((any::<bool>(), text()), 1..24)
    ) {
        let mut session = Session::snat();
        for (client, text) in texts {
            if client {
                session.client_says(&text);
            } else {
                session.server_says(&text);
            }
            // The other acknowledges, so that the next text is the only one under way.
            if client { session.server_says("") } else { session.client_says("") };
        }
        session.goes_on();
    }
}

/// Announcements good and bad, and hostile lines that look like some.
fn text() -> impl Strategy<Value = String> {
    let number = || prop_oneof![3 => 0u16..256, 1 => any::<u16>()];
    let own =
        prop_oneof![Just("198,51,100,9"), Just("10,0,0,7"), Just("192,0,2,1"), Just("0,0,0,0")];
    let six = (own, number(), number()).prop_map(|(own, high, low)| format!("{own},{high},{low}"));
    let extended = any::<u16>().prop_map(|port| format!("|||{port}|"));
    prop_oneof![
        six.clone().prop_map(|six| format!("PORT {six}\r\n")),
        six.clone().prop_map(|six| format!("227 ok ({six})\r\n")),
        six.prop_map(|six| format!("227-{six}\r\n227 {six}\r\nPORT {six}\r\n")),
        extended.prop_map(|it| format!("229 ({it})\r\n")),
        any::<u16>().prop_map(|port| format!("EPRT |1|198.51.100.9|{port}|\r\n")),
        "[ -~]{0,60}(\r\n)?",
        "(PORT|EPRT|227|229)[ -~]{0,40}\r\n",
    ]
}
