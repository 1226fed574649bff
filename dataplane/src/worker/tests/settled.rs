//! A flow whose packets are recognised without asking whose they are: that holds for one configuration alone.

use super::*;

const SERVICE: &str = "192.0.2.1:80 nat 10.0.0.7 10.0.0.8";

/// A connection of which so many packets have gone either way that all are recognised.
fn connected(worker: &mut TestWorker) -> (String, String) {
    worker.receives(&syn("192.0.2.1:80"));
    let there = worker.transmitted_on(INSIDE).pop().unwrap();
    let (from, to) = decode(&there);
    for _ in 0..3 {
        worker.receives_on(INSIDE, &reply(&to, &from, SYN | ACK));
        worker.receives(&tcp(CLIENT, "192.0.2.1:80", ACK));
    }
    assert_eq!(worker.transmitted().len(), 6);
    (from, to)
}

#[test]
fn a_known_flow_s_packets_are_dropped_as_soon_as_its_service_is_published_elsewhere() {
    let mut worker = TestWorker::serving(SERVICE);
    connected(&mut worker);
    worker.reconfigure("192.0.2.1:81 nat 10.0.0.7 10.0.0.8", 2);
    worker.receives(&tcp(CLIENT, "192.0.2.1:80", ACK));
    assert_eq!((worker.transmitted().len(), worker.dropped(Reason::NoService)), (0, 1));
    // And go on when it is back.
    worker.reconfigure(SERVICE, 3);
    worker.receives(&tcp(CLIENT, "192.0.2.1:80", ACK));
    assert_eq!(worker.transmitted().len(), 1);
    worker.balances();
}

#[test]
fn a_known_flow_s_replies_are_nobody_s_as_soon_as_its_server_translates_no_more() {
    let mut worker = TestWorker::serving(SERVICE);
    let (from, to) = connected(&mut worker);
    worker.reconfigure("192.0.2.1:80 dr 10.0.0.17", 2);
    worker.receives_on(INSIDE, &reply(&to, &from, ACK));
    assert_eq!((worker.transmitted().len(), worker.dropped(Reason::NotOurAddress)), (0, 1));
    worker.balances();
}

#[test]
fn what_was_settled_is_forgotten_before_another_configuration_has_the_same_number() {
    let mut worker = TestWorker::serving(SERVICE);
    connected(&mut worker);
    // The lower 16 bits of the generation are what a flow has room for.
    worker.reconfigure(SERVICE, 2);
    for _ in 0..50 {
        worker.passes(Duration::from_millis(100));
    }
    worker.reconfigure("192.0.2.1:81 nat 10.0.0.7 10.0.0.8", 1 + (1 << 16));
    worker.receives(&tcp(CLIENT, "192.0.2.1:80", ACK));
    assert_eq!((worker.transmitted().len(), worker.dropped(Reason::NoService)), (0, 1));
    worker.balances();
}

#[test]
fn a_flow_that_ends_and_begins_anew_within_a_burst_is_looked_for_again() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr rr 10.0.0.7 10.0.0.8");
    let first = worker.server_of(&syn("192.0.2.1:80"));
    for _ in 0..2 {
        assert_eq!(worker.server_of(&tcp(CLIENT, "192.0.2.1:80", ACK)), first);
    }
    worker.receives(&tcp(CLIENT, "192.0.2.1:80", FIN | ACK));
    worker.transmitted();
    // The client opens the same connection again, and its next packet is right behind.
    worker.puts(&[syn("192.0.2.1:80"), tcp(CLIENT, "192.0.2.1:80", ACK)]);
    let sent = worker.transmitted_on(INSIDE);
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0][..6], sent[1][..6], "both go to the connection's new server");
    assert_ne!(sent[0][..6], mac_of(first).0, "which by turns is the other one");
    worker.balances();
}
