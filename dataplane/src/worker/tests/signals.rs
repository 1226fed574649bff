//! What connections tell of their servers, without anybody asking.

use super::*;
use crate::snapshot::ServerId;

const DIRECT: &str = "192.0.2.1:80 dr 10.0.0.7";
const TRANSLATED: &str = "192.0.2.1:80 nat 10.0.0.7";
const RST: u8 = 0x04;

/// Unanswered, refused, reset, answered, and how long the answers took in all, in milliseconds.
fn signals(worker: &TestWorker) -> [u64; 5] {
    let of = worker.counters.signals(ServerId::new(0, 0));
    [&of.unanswered, &of.refused, &of.resets, &of.handshakes, &of.handshake_time]
        .map(|counter| counter.get())
}

fn client(worker: &mut TestWorker, flags: u8) {
    worker.receives(&tcp(CLIENT, "192.0.2.1:80", flags));
}

fn server(worker: &mut TestWorker, flags: u8) {
    let mut frame = reply("10.0.0.7:80", CLIENT, flags & !RST);
    if flags & RST != 0 {
        frame[14 + 20 + 13] |= RST;
    }
    worker.receives_on(INSIDE, &frame);
}

fn after(worker: &mut TestWorker, milliseconds: u64) {
    worker.passes(Duration::from_millis(milliseconds));
}

#[test]
fn a_handshake_takes_until_the_server_answers_or_where_that_is_not_seen_until_the_client_does() {
    let mut worker = TestWorker::serving(DIRECT);
    client(&mut worker, SYN);
    after(&mut worker, 7);
    client(&mut worker, ACK);
    after(&mut worker, 100);
    client(&mut worker, ACK);
    assert_eq!(signals(&worker), [0, 0, 0, 1, 7]);

    let mut worker = TestWorker::serving(TRANSLATED);
    client(&mut worker, SYN);
    after(&mut worker, 3);
    server(&mut worker, SYN | ACK);
    after(&mut worker, 20);
    client(&mut worker, ACK);
    server(&mut worker, SYN | ACK);
    assert_eq!(signals(&worker), [0, 0, 0, 1, 3]);
    worker.balances();
}

#[test]
fn a_client_that_asks_again_has_not_been_answered_however_often_it_asks() {
    for services in [DIRECT, TRANSLATED] {
        let mut worker = TestWorker::serving(services);
        for _ in 0..4 {
            client(&mut worker, SYN);
            after(&mut worker, 1_000);
        }
        assert_eq!(signals(&worker), [1, 0, 0, 0, 0], "{services}");
        // What comes late says nothing of how long it took.
        if services == TRANSLATED {
            server(&mut worker, SYN | ACK);
        }
        client(&mut worker, ACK);
        assert_eq!(signals(&worker), [1, 0, 0, 0, 0], "{services}");
        for _ in 0..16 {
            after(&mut worker, 100_000);
        }
        assert_eq!(worker.counters.flows.get(), 0);
        assert_eq!(signals(&worker), [1, 0, 0, 0, 0], "{services}");
        worker.balances();
    }
}

#[test]
fn a_client_that_gives_up_in_silence_was_not_answered() {
    for services in [DIRECT, TRANSLATED] {
        let mut worker = TestWorker::serving(services);
        client(&mut worker, SYN);
        (0..40).for_each(|_| after(&mut worker, 1_000));
        assert_eq!(worker.counters.flows.get(), 0);
        assert_eq!(signals(&worker), [1, 0, 0, 0, 0], "{services}");
    }
}

#[test]
fn a_server_that_answers_forged_syns_is_not_blamed_for_them_where_its_answers_are_seen() {
    let mut worker = TestWorker::serving(TRANSLATED);
    client(&mut worker, SYN);
    server(&mut worker, SYN | ACK);
    (0..40).for_each(|_| after(&mut worker, 1_000));
    assert_eq!(worker.counters.flows.get(), 0);
    assert_eq!(signals(&worker), [0, 0, 0, 1, 0]);
}

#[test]
fn a_reset_instead_of_an_answer_is_a_refusal_and_a_later_one_is_a_reset() {
    let mut worker = TestWorker::serving(TRANSLATED);
    client(&mut worker, SYN);
    server(&mut worker, RST | ACK);
    assert_eq!(signals(&worker), [0, 1, 1, 0, 0]);
    client(&mut worker, SYN);
    server(&mut worker, SYN | ACK);
    client(&mut worker, ACK);
    server(&mut worker, RST | ACK);
    server(&mut worker, RST | ACK);
    assert_eq!(signals(&worker), [0, 1, 2, 1, 0], "told once");
    worker.balances();
}

#[test]
fn a_client_s_own_reset_says_nothing_of_the_server() {
    for services in [DIRECT, TRANSLATED] {
        let mut worker = TestWorker::serving(services);
        client(&mut worker, SYN);
        let mut frame = tcp(CLIENT, "192.0.2.1:80", ACK);
        frame[14 + 20 + 13] |= RST;
        worker.receives(&frame);
        assert_eq!(signals(&worker), [0; 5], "{services}");
    }
}

#[test]
fn connections_in_mid_flow_and_datagrams_say_nothing() {
    let mut worker = TestWorker::serving(&format!("{DIRECT}\n192.0.2.1:80/udp dr 10.0.0.8"));
    client(&mut worker, ACK);
    after(&mut worker, 5);
    client(&mut worker, ACK);
    worker.receives(&udp(CLIENT, "192.0.2.1:80", b"hello"));
    (0..40).for_each(|_| after(&mut worker, 30_000));
    assert_eq!(worker.counters.flows.get(), 0);
    assert_eq!(signals(&worker), [0; 5]);
}

#[test]
fn the_owner_after_a_server_that_is_gone_is_not_blamed_for_it() {
    let mut worker = TestWorker::serving(DIRECT);
    client(&mut worker, SYN);
    worker.reconfigure("192.0.2.9:80 dr", 2);
    (0..40).for_each(|_| after(&mut worker, 1_000));
    assert_eq!(worker.counters.flows.get(), 0);
    assert_eq!(signals(&worker), [0; 5]);
}

#[test]
fn a_server_behind_syn_cookies_answers_too() {
    let mut worker = TestWorker::serving("192.0.2.1:80 nat half-open=1 10.0.0.7");
    client(&mut worker, SYN);
    let other = "198.51.100.10:4000";
    worker.receives(&tcp_with(GATEWAY, OUTSIDE, other, "192.0.2.1:80", SYN, b""));
    let challenge = worker.transmitted_on(OUTSIDE).pop().unwrap();
    let cookie = u32::from_be_bytes(challenge[38..42].try_into().unwrap());
    let mut tcp = etherparse::TcpHeader::new(4000, 80, 8, 1000);
    (tcp.ack, tcp.acknowledgment_number) = (true, cookie.wrapping_add(1));
    let mut frame = Vec::new();
    ethernet(GATEWAY, OUTSIDE)
        .ipv4([198, 51, 100, 10], [192, 0, 2, 1], 33)
        .tcp_header(tcp)
        .write(&mut frame, b"")
        .unwrap();
    worker.receives(&frame);
    let asked = worker.transmitted_on(INSIDE).pop().unwrap();
    let theirs = u32::from_be_bytes(asked[38..42].try_into().unwrap());
    after(&mut worker, 4);
    let mut tcp = etherparse::TcpHeader::new(80, 4000, 99, 1000);
    (tcp.syn, tcp.ack, tcp.acknowledgment_number) = (true, true, theirs.wrapping_add(1));
    let mut frame = Vec::new();
    ethernet(*address("10.0.0.7:80").ip(), INSIDE)
        .ipv4([10, 0, 0, 7], [198, 51, 100, 10], 33)
        .tcp_header(tcp)
        .write(&mut frame, b"")
        .unwrap();
    worker.receives_on(INSIDE, &frame);
    assert_eq!(signals(&worker), [0, 0, 0, 1, 4]);
    worker.balances();
}
