//! How connections begin and end, and what is said to those whom nobody waits for.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::Datagrams as _;
use packet::{Ends, Packet, Segment};

/// A client and a server that have found each other.
fn pair(rig: &mut Rig, family: usize) -> (Stream, Stream, Listener) {
    let (client, listener) = (rig.client(), rig.server().listen(None, 80).unwrap());
    let (ours, theirs) = rig.until(async {
        tokio::join!(client.connect(at(RIGHT[family], 80), Way::Routed), listener.accept())
    });
    (ours.unwrap(), theirs.unwrap().0, listener)
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    for other in RIGHT {
        let mut rig = Rig::new();
        let client = rig.client();
        let refused = rig.until(client.connect(at(other, 81), Way::Routed)).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(rig.right.stats().refused, 1);
        assert_eq!(rig.left.stats().connections, 0);
    }
}

#[test]
fn one_who_never_answers_times_out_and_leaves_nothing() {
    let mut rig = Rig::with_fates(|| Fate::IsLost);
    let client = rig.client();
    let result = rig.until(client.connect(at(RIGHT[0], 80), Way::Routed)).err().unwrap();
    assert_eq!(result.kind(), ErrorKind::TimedOut);
    assert_eq!(rig.left.with(|inner| inner.connections.len() + inner.deadlines.len()), 0);
}

#[test]
fn a_caller_who_does_not_wait_leaves_nothing() {
    let mut rig = Rig::with_fates(|| Fate::IsLost);
    let client = rig.client();
    let to = at(RIGHT[0], 80);
    assert!(rig.within(Duration::from_secs(2), client.connect(to, Way::Routed)).is_none());
    assert_eq!(rig.left.with(|inner| inner.connections.len() + inner.deadlines.len()), 0);
    assert!(rig.within(Duration::from_secs(2), client.ping(to.ip(), Way::Routed)).is_none());
    assert_eq!(rig.left.with(|inner| inner.asking.len()), 0);
}

#[test]
fn no_route_is_an_error_at_once() {
    let mut rig = Rig::new();
    let client = rig.client();
    let far = at("192.0.2.7", 80);
    let result = rig.until(client.connect(far, Way::Routed)).err().unwrap();
    assert_eq!(result.kind(), ErrorKind::NetworkUnreachable);
    assert!(rig.until(client.ping(far.ip(), Way::Routed)).is_err());
    assert!(rig.until(client.datagrams(far, Way::Routed)).is_err());
    assert!(rig.until(client.connect(at(LEFT[0], 80), Way::Routed)).is_err(), "to ourselves");
}

#[test]
fn who_only_looks_whether_somebody_listens_resets_and_leaves_nothing_on_either_side() {
    let mut rig = Rig::new();
    let (ours, mut theirs, _listener) = pair(&mut rig, 0);
    drop(ours);
    assert_eq!(rig.left.with(|inner| inner.connections.len()), 0);
    assert_eq!(rig.left.stats().time_wait, 0);
    rig.turns(5);
    let reset = rig.until(theirs.read(&mut [0; 1])).unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    assert_eq!(rig.right.stats().connections, 0);
}

#[test]
fn aborting_resets_even_after_something_was_said() {
    let mut rig = Rig::new();
    let (mut ours, mut theirs, _listener) = pair(&mut rig, 1);
    rig.until(ours.write_all(b"hello")).unwrap();
    rig.turns(5);
    ours.abort();
    rig.turns(5);
    let mut heard = [0; 5];
    rig.until(theirs.read_exact(&mut heard)).unwrap();
    assert_eq!(&heard, b"hello", "what came before can still be read");
    let reset = rig.until(theirs.read(&mut heard)).unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    let reset = rig.until(theirs.write(b"x")).unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn who_closes_first_waits_without_a_socket_and_says_its_last_again() {
    for family in [0, 1] {
        let mut rig = Rig::new();
        let (mut ours, mut theirs, _listener) = pair(&mut rig, family);
        let ends = rig.left.with(|inner| inner.segments.keys().next().copied()).unwrap();
        rig.until(ours.write_all(b"bye")).unwrap();
        drop(ours);
        let mut heard = Vec::new();
        rig.until(theirs.read_to_end(&mut heard)).unwrap();
        assert_eq!(heard, b"bye");
        drop(theirs);
        rig.turns(10);
        let stats = rig.left.stats();
        assert_eq!((stats.time_wait, stats.connections), (1, 0));
        assert_eq!(rig.left.with(|inner| inner.connections.len()), 0, "no socket");
        // The other end's last segment comes once more: its acknowledgement was lost.
        let sent = rig.left.with(|inner| inner.time_wait.get(&ends).unwrap().sent);
        let theirs = Ends { local: ends.remote, remote: ends.local };
        let again =
            packet::acknowledgement(&theirs, sent.acknowledgement.wrapping_sub(1), sent.sequence);
        rig.left.receive(rig.now, &again);
        let answer = rig.left.next_packet().unwrap().packet;
        let segment = packet::own_segment(&answer).unwrap();
        assert_eq!(
            (segment.sequence, segment.acknowledgement),
            (sent.sequence, sent.acknowledgement)
        );
        assert!(segment.acknowledges && !segment.resets);
        rig.turns(10_000);
        assert_eq!(rig.left.stats().time_wait, 0);
    }
}

#[test]
fn a_connection_that_nobody_holds_is_given_up_after_some_seconds() {
    let mut rig = Rig::new();
    let (mut ours, theirs, _listener) = pair(&mut rig, 0);
    rig.until(ours.write_all(b"bye")).unwrap();
    drop(ours);
    rig.turns(4_900);
    assert_eq!(rig.left.stats().connections, 1, "the other end has not closed it");
    rig.turns(200);
    assert_eq!(rig.left.stats().connections, 0);
    assert_eq!(rig.left.with(|inner| inner.connections.len() + inner.deadlines.len()), 0);
    drop(theirs);
}

#[test]
fn a_client_that_vanishes_is_noticed() {
    let mut rig = Rig::new();
    let (ours, mut theirs, _listener) = pair(&mut rig, 0);
    rig.fates = Box::new(|| Fate::IsLost);
    let result = rig.until(theirs.read(&mut [0; 1])).unwrap_err();
    assert_eq!(result.kind(), ErrorKind::TimedOut);
    drop(ours);
}

#[test]
fn a_silent_connection_lives_on() {
    let mut rig = Rig::new();
    let (mut ours, mut theirs, _listener) = pair(&mut rig, 0);
    rig.turns(120_000);
    rig.until(ours.write_all(b"still there")).unwrap();
    let mut heard = [0; 11];
    rig.until(theirs.read_exact(&mut heard)).unwrap();
    assert_eq!(&heard, b"still there");
}

#[test]
fn a_connection_that_is_no_longer_from_an_address_of_ours_ends() {
    let mut rig = Rig::new();
    let (mut ours, _theirs, _listener) = pair(&mut rig, 0);
    rig.left.configure(paths("10.0.0.7", LEFT[1], 1500));
    let lost = rig.until(ours.read(&mut [0; 1])).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::AddrNotAvailable);
}

/// What a router says about a packet of ours.
fn error_about(packet: &[u8], kind: u8, code: u8) -> Vec<u8> {
    let read = Packet::read(packet).unwrap();
    let about = Packet { source: read.source, destination: read.destination, ..read };
    let mut error = packet::port_unreachable(&about).unwrap();
    let header = if read.source.is_ipv4() { 20 } else { 40 };
    error[header] = kind;
    error[header + 1] = code;
    super::both_ways::mend(&mut error);
    error
}

#[test]
fn an_error_about_a_segment_of_ours_ends_the_attempt_and_a_forged_one_does_not() {
    for (family, host) in [(0, (3, 1)), (1, (1, 3))] {
        let rig = Rig::with_fates(|| Fate::IsLost);
        let client = rig.client();
        let mut opening = pin!(client.connect(at(RIGHT[family], 80), Way::Routed));
        assert!(poll(opening.as_mut()).is_pending());
        rig.left.turn(rig.now);
        let sent = rig.left.next_packet().unwrap().packet;
        let mut forged = sent.clone();
        let sequence = if family == 0 { 24 } else { 44 };
        forged[sequence] ^= 1;
        rig.left.receive(rig.now, &error_about(&forged, host.0, host.1));
        assert!(poll(opening.as_mut()).is_pending());
        assert_eq!(rig.left.stats().errors_ignored, 1);
        rig.left.receive(rig.now, &error_about(&sent, host.0, host.1));
        let Poll::Ready(Err(error)) = poll(opening.as_mut()) else { panic!("not told") };
        assert_eq!(error.kind(), ErrorKind::HostUnreachable);
    }
}

#[test]
fn an_error_about_a_datagram_or_an_echo_request_is_told() {
    let mut rig = Rig::with_fates(|| Fate::IsLost);
    let client = rig.client();
    let socket = rig.until(client.datagrams(at(RIGHT[1], 53), Way::Routed)).unwrap();
    rig.until(socket.send(b"question")).unwrap();
    rig.left.turn(rig.now);
    let sent = rig.left.next_packet().unwrap().packet;
    rig.left.receive(rig.now, &error_about(&sent, 1, 0));
    let error = rig.until(socket.receive(&mut [0; 9])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);

    let mut ping = pin!(client.ping(ip(RIGHT[0]), Way::Routed));
    assert!(poll(ping.as_mut()).is_pending());
    rig.left.turn(rig.now);
    let sent = rig.left.next_packet().unwrap().packet;
    let mut forged = sent.clone();
    forged[27] ^= 1; // another sequence number
    rig.left.receive(rig.now, &error_about(&forged, 3, 1));
    assert!(poll(ping.as_mut()).is_pending());
    rig.left.receive(rig.now, &error_about(&sent, 3, 1));
    let Poll::Ready(Err(error)) = poll(ping.as_mut()) else { panic!("not told") };
    assert_eq!(error.kind(), ErrorKind::HostUnreachable);
}

#[test]
fn segments_get_shorter_where_a_router_says_so() {
    let mut rig = Rig::new();
    let (mut ours, _theirs, _listener) = pair(&mut rig, 0);
    let id = rig.left.with(|inner| *inner.connections.keys().next().unwrap());
    assert!(poll(pin!(ours.write_all(&[7; 3000]))).is_ready());
    rig.left.turn(rig.now);
    let sent = rig.left.next_packet().unwrap().packet;
    assert_eq!(sent.len(), 1500);
    rig.left.receive(rig.now, &error_about(&sent, 3, 4));
    assert_eq!(rig.left.with(|inner| inner.mtu_of(id)), Some(1280));
    rig.left.receive(rig.now, &error_about(&sent, 3, 4));
    assert_eq!(rig.left.with(|inner| inner.mtu_of(id)), Some(576));
}

#[test]
fn a_way_of_its_own_is_kept_for_every_packet_and_leaves_room_for_what_goes_around() {
    let rig = Rig::new();
    let client = rig.client();
    let server = ip(RIGHT[1]);
    for way in [
        Way::Direct { server: ip(RIGHT[0]) },
        Way::Tunnel { server, gue_port: None },
        Way::Tunnel { server, gue_port: Some(6080) },
    ] {
        let mut opening = Box::pin(client.connect(at("192.0.2.1", 80), way));
        assert!(poll(opening.as_mut()).is_pending());
        rig.left.turn(rig.now);
        let sent = rig.left.next_packet().unwrap();
        assert_eq!((sent.way, sent.destination), (way, ip("192.0.2.1")));
        let read = Packet::read(&sent.packet).unwrap();
        assert_eq!((read.source, read.destination), (ip(LEFT[0]), ip("192.0.2.1")));
        let mss = u16::from_be_bytes([read.payload[22], read.payload[23]]);
        let overhead = match way {
            Way::Tunnel { gue_port: None, .. } => 40,
            Way::Tunnel { .. } => 52,
            _ => 0,
        };
        assert_eq!(mss, 1500 - 40 - overhead);
        assert!(Segment::read(read.payload).unwrap().opens);
    }
}

#[test]
fn a_listener_that_is_dropped_takes_its_connections_with_it() {
    let mut rig = Rig::new();
    let (client, listener) = (rig.client(), rig.server().listen(Some(ip(RIGHT[0])), 80).unwrap());
    assert!(rig.server().listen(Some(ip(RIGHT[0])), 80).is_err(), "one at a time");
    let mut ours = rig.until(client.connect(at(RIGHT[0], 80), Way::Routed)).unwrap();
    let other = rig.until(client.connect(at(RIGHT[1], 80), Way::Routed)).err().unwrap();
    assert_eq!(other.kind(), ErrorKind::ConnectionRefused, "on the other address nobody listens");
    rig.turns(3);
    drop(listener);
    let reset = rig.until(ours.read(&mut [0; 1])).unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    assert_eq!(rig.right.with(|inner| inner.connections.len()), 0);
    assert!(rig.server().listen(Some(ip(RIGHT[0])), 80).is_ok());
}
