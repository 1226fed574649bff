//! What is said at one end is heard at the other.

use std::io::ErrorKind;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::Datagrams as _;

/// Sends `bytes`, says that this is all, and gives what the other end says until its end, and the stream, so that it lives
/// until the other end has heard all.
async fn exchange(mut stream: Stream, bytes: Vec<u8>) -> (Vec<u8>, Stream) {
    let mut heard = Vec::new();
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let write = async {
        writer.write_all(&bytes).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let read = async { reader.read_to_end(&mut heard).await.unwrap() };
    tokio::join!(write, read);
    (heard, stream)
}

fn fates(seed: u64, share: u64) -> impl FnMut() -> Fate {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match (state >> 20) % 100 {
            chance if chance >= share => Fate::Arrives,
            chance if chance % 3 == 0 => Fate::IsLost,
            chance if chance % 3 == 1 => Fate::ArrivesTwice,
            _ => Fate::ArrivesLate,
        }
    }
}

fn bytes(length: usize, first: u8) -> Vec<u8> {
    (0..length).map(|at| first.wrapping_add((at * 31 + at / 256) as u8)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_byte_arrives_both_ways_over_a_wire_that_loses_repeats_and_reorders(
        seed: u64,
        share in 0..12u64,
        there in 0..150_000usize,
        back in 0..150_000usize,
        is_v6: bool,
    ) {
        let mut rig = Rig::with_fates(fates(seed, share));
        let (client, listener) = (rig.client(), rig.server().listen(None, 80).unwrap());
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            exchange(stream, bytes(back, 99)).await
        };
        let client = async {
            let stream = client.connect(at(RIGHT[usize::from(is_v6)], 80), Way::Routed).await.unwrap();
            exchange(stream, bytes(there, 7)).await
        };
        let ((heard_there, server), (heard_back, client)) =
            rig.until(async { tokio::join!(server, client) });
        drop((server, client));
        prop_assert_eq!(heard_there.len(), there);
        prop_assert_eq!(heard_back.len(), back);
        prop_assert!(heard_there == bytes(there, 7));
        prop_assert!(heard_back == bytes(back, 99));
        rig.turns(45_000);
        for stack in [&rig.left, &rig.right] {
            let stats = stack.stats();
            prop_assert_eq!((stats.connections, stats.half_open, stats.time_wait), (0, 0, 0));
            prop_assert_eq!(stack.with(|inner| inner.connections.len()), 0);
            prop_assert_eq!(stack.with(|inner| inner.deadlines.len()), 0);
        }
    }
}

#[test]
fn datagrams_arrive_and_what_is_too_long_is_refused() {
    for (own, other) in LEFT.into_iter().zip(RIGHT) {
        let mut rig = Rig::new();
        // Each knows the other's end: two sockets that find each other only if the ports are known.
        let left = rig.until(rig.client().datagrams(at(other, 9), Way::Routed)).unwrap();
        rig.until(left.send(b"to a port where nobody listens")).unwrap();
        let refused = rig.until(left.receive(&mut [0; 100])).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{own}");
        let longest = if other.contains(':') { 1500 - 48 } else { 1500 - 28 };
        assert!(rig.until(left.send(&vec![0; longest])).is_ok());
        let refused = rig.until(left.send(&vec![0; longest + 1]));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn an_answer_to_a_datagram_reaches_its_socket() {
    for (own, other) in LEFT.into_iter().zip(RIGHT) {
        let mut rig = Rig::new();
        let socket = rig.until(rig.client().datagrams(at(other, 53), Way::Routed)).unwrap();
        rig.until(socket.send(b"question")).unwrap();
        rig.left.turn(rig.now);
        let sent = rig.left.next_packet().unwrap();
        let question = packet::Packet::read(&sent.packet).unwrap();
        let ((from, to), payload) = packet::read_datagram(question.payload).unwrap();
        assert_eq!((to, payload), (53, &b"question"[..]));
        assert!(PORTS.contains(&from) && question.transport_is_right());
        let back = packet::Ends::new((ip(other), 53), (ip(own), from));
        rig.left.receive(rig.now, &packet::datagram(&back, b"answer"));
        let stranger = packet::Ends::new((ip(other), 54), (ip(own), from));
        rig.left.receive(rig.now, &packet::datagram(&stranger, b"forged"));
        let mut heard = [0; 100];
        assert_eq!(rig.until(socket.receive(&mut heard)).unwrap(), 6);
        assert_eq!(&heard[..6], b"answer");
        assert!(rig.within(Duration::from_secs(1), socket.receive(&mut heard)).is_none());
    }
}

#[test]
fn an_echo_request_is_answered_in_the_time_that_it_takes() {
    for (own, other) in LEFT.into_iter().zip(RIGHT) {
        let mut rig = Rig::new();
        let ping = rig.client();
        let ping = ping.ping(ip(other), Way::Routed);
        let mut ping = pin!(ping);
        assert!(poll(ping.as_mut()).is_pending());
        rig.left.turn(rig.now);
        let sent = rig.left.next_packet().unwrap();
        let reply = echo_of(&sent.packet);
        for spoilt in [reply.len() - 1, reply.len() - 40, reply.len() - 36] {
            let mut forged = reply.clone();
            forged[spoilt] ^= 1;
            mend(&mut forged);
            rig.left.receive(rig.now, &forged);
            assert!(poll(ping.as_mut()).is_pending(), "{own}: another byte at {spoilt}");
        }
        let later = rig.now.plus(Duration::from_millis(3));
        rig.left.receive(later, &reply);
        assert_eq!(rig.until(ping).unwrap(), Duration::from_millis(3));
        assert_eq!(rig.left.with(|inner| inner.asking.len()), 0);
    }
}

/// The reply to an echo request of ours.
pub(super) fn echo_of(request: &[u8]) -> Vec<u8> {
    let read = packet::Packet::read(request).unwrap();
    assert!(read.transport_is_right());
    let header = request.len() - read.payload.len();
    let mut reply = request.to_vec();
    let (width, first) = if header == 20 { (4, 12) } else { (16, 8) };
    for at in first..first + width {
        reply.swap(at, at + width);
    }
    reply[header] = if header == 20 { 0 } else { 129 };
    mend(&mut reply);
    reply
}

/// Puts a right checksum into an ICMP message.
pub(super) fn mend(packet: &mut [u8]) {
    use dataplane::wire::{Address, checksum, protocol};
    let (header, sum): (_, fn(&[u8]) -> u16) = match packet[0] >> 4 {
        4 => (20, |packet| checksum::of(&packet[20..])),
        _ => (40, |packet| {
            let address = |at: usize| {
                Address::from_bits(u128::from_be_bytes(packet[at..at + 16].try_into().unwrap()))
            };
            checksum::of_transport(address(8), address(24), protocol::ICMPV6, &packet[40..])
        }),
    };
    packet[header + 2..header + 4].fill(0);
    let sum = sum(packet);
    packet[header + 2..header + 4].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn a_hundred_who_connect_at_once_are_all_accepted() {
    let mut rig = Rig::new();
    let (client, listener) = (rig.client(), rig.server().listen(None, 80).unwrap());
    let mut opening: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            Box::pin(async move { client.connect(at(RIGHT[0], 80), Way::Routed).await })
        })
        .collect();
    let mut opened = Vec::new();
    let mut accepted = Vec::new();
    for _ in 0..100 {
        opening.retain_mut(|it| match poll(it.as_mut()) {
            Poll::Ready(stream) => {
                opened.push(stream.unwrap());
                false
            }
            Poll::Pending => true,
        });
        while let Poll::Ready(stream) = poll(pin!(listener.accept())) {
            accepted.push(stream.unwrap());
        }
        rig.turn();
    }
    assert_eq!((opened.len(), accepted.len()), (100, 100));
    let stats = rig.right.stats();
    assert_eq!((stats.accepted, stats.challenged, stats.backlog_full), (100, 0, 0));
}
