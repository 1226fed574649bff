//! What the workers are told of conversations, and what answers say of the stations that they come over.

use dataplane::parse::Flow;
use dataplane::punt::Class;
use dataplane::snapshot::Protocol;
use dataplane::wire::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::Datagrams as _;
use packet::{Ends, Packet, Segment};

/// The addresses and ports of a TCP packet.
fn flow_of(bytes: &[u8]) -> Option<(Flow, Ends)> {
    let packet = Packet::read(bytes).ok()?;
    let segment = Segment::read(packet.payload).filter(|_| packet.protocol == 6)?;
    let ends = Ends::new((packet.destination, segment.to), (packet.source, segment.from));
    Some((ends.incoming(Protocol::Tcp), ends))
}

/// Whatever arrives for a connection that a stack has opened is an answer, to its last segment.
pub(super) fn are_known(stack: &Stack, bytes: &[u8]) {
    let Some((flow, ends)) = flow_of(bytes) else { return };
    let is_known = stack.with(|inner| {
        let is_there = inner.segments.contains_key(&ends) || inner.time_wait.get(&ends).is_some();
        is_there && !inner.is_taken(&ends.local)
    });
    let class = stack.answers().class(&flow);
    assert!(!is_known || class == Class::Answer, "{flow:?}");
}

fn ends(stack: &Stack) -> Ends {
    stack.with(|inner| *inner.segments.keys().next().expect("there is a connection"))
}

fn class(stack: &Stack, protocol: Protocol, ends: &Ends) -> Class {
    stack.answers().class(&ends.incoming(protocol))
}

#[test]
fn a_connection_s_packets_are_answers_until_its_last_segments_cannot_be_under_way_any_more() {
    for family in [0, 1] {
        let mut rig = Rig::new();
        let (client, listener) = (rig.client(), rig.server().listen(None, 80).unwrap());
        let mut opening = Box::pin(client.connect(at(RIGHT[family], 80), Way::Routed));
        assert!(poll(opening.as_mut()).is_pending());
        let ours = ends(&rig.left);
        let classes = |rig: &Rig| {
            [(&rig.left, ours), (&rig.right, ours.reversed())]
                .map(|(stack, ends)| class(stack, Protocol::Tcp, &ends))
        };
        assert_eq!(classes(&rig), [Class::Answer, Class::Local]);
        rig.turns(2);
        assert_eq!(rig.right.stats().half_open, 1);
        assert_eq!(classes(&rig), [Class::Answer, Class::Local], "anybody can send a SYN");
        let (stream, accepted) = rig.until(async { tokio::join!(opening, listener.accept()) });
        let (mut stream, (mut accepted, _)) = (stream.unwrap(), accepted.unwrap());
        assert_eq!(classes(&rig), [Class::Answer, Class::Local], "nor does who has come in");
        rig.until(stream.write_all(b"bye")).unwrap();
        drop(stream);
        rig.until(accepted.read_to_end(&mut Vec::new())).unwrap();
        drop(accepted);
        rig.turns(10);
        assert_eq!((rig.left.stats().time_wait, rig.left.stats().connections), (1, 0));
        assert_eq!(classes(&rig), [Class::Answer, Class::Local]);
        rig.turns(10_000);
        assert_eq!(classes(&rig), [Class::Local; 2]);
    }
}

#[test]
fn a_connection_that_is_reset_or_refused_leaves_nothing() {
    let mut rig = Rig::new();
    let (client, listener) = (rig.client(), rig.server().listen(None, 80).unwrap());
    let (stream, accepted) = rig.until(async {
        tokio::join!(client.connect(at(RIGHT[0], 80), Way::Routed), listener.accept())
    });
    let ours = ends(&rig.left);
    drop((stream, accepted));
    assert_eq!(class(&rig.left, Protocol::Tcp, &ours), Class::Local);
    let mut opening = Box::pin(client.connect(at(RIGHT[0], 81), Way::Routed));
    assert!(poll(opening.as_mut()).is_pending());
    let ours = ends(&rig.left);
    assert_eq!(class(&rig.left, Protocol::Tcp, &ours), Class::Answer);
    assert!(rig.until(opening.as_mut()).is_err());
    assert_eq!(class(&rig.left, Protocol::Tcp, &ours), Class::Local);
}

#[test]
fn datagrams_and_echo_replies_are_answers_as_long_as_somebody_waits() {
    for (own, other) in LEFT.into_iter().zip(RIGHT) {
        let rig = Rig::new();
        let client = rig.client();
        let Poll::Ready(Ok(socket)) = poll(pin!(client.datagrams(at(other, 53), Way::Routed)))
        else {
            panic!("no socket")
        };
        let ours = rig.left.with(|inner| *inner.datagrams.keys().next().unwrap());
        assert_eq!(class(&rig.left, Protocol::Udp, &ours), Class::Answer);
        assert_eq!(class(&rig.left, Protocol::Tcp, &ours), Class::Local);
        drop(socket);
        assert_eq!(class(&rig.left, Protocol::Udp, &ours), Class::Local);

        let mut ping = Box::pin(client.ping(ip(other), Way::Routed));
        assert!(poll(ping.as_mut()).is_pending());
        let ours = rig.left.with(|inner| *inner.asking.keys().next().unwrap());
        // As the workers read it: an echo reply has one number.
        let reply = Flow {
            protocol: Protocol::Echo,
            source: Address::from(ip(other)),
            source_port: 0,
            destination: Address::from(ip(own)),
            destination_port: ours.local.port(),
        };
        assert_eq!(rig.left.answers().class(&reply), Class::Answer);
        drop(ping);
        assert_eq!(rig.left.answers().class(&reply), Class::Local);
    }
}

/// RFC 4861 section 7.3.1.
#[test]
fn an_answer_to_a_datagram_proves_that_its_station_is_reached_and_an_unsolicited_one_does_not() {
    for (own, other) in LEFT.into_iter().zip(RIGHT) {
        let mut rig = Rig::new();
        let socket = rig.until(rig.client().datagrams(at(other, 53), Way::Routed)).unwrap();
        let port = rig.left.with(|inner| inner.datagrams.keys().next().unwrap().local.port());
        let says = |rig: &Rig, from: u16, to: u16| {
            let ends = Ends::new((ip(other), from), (ip(own), to));
            rig.left.receive(rig.now, &packet::datagram(&ends, b"hello"));
            rig.left.take_reached()
        };
        assert_eq!(says(&rig, 53, port), [], "we have not said anything");
        rig.until(socket.send(b"question")).unwrap();
        assert_eq!(says(&rig, 54, port), [], "from another port");
        assert_eq!(says(&rig, 53, port ^ 1), [], "to another port");
        let station = (InterfaceId(0), Address::from(ip(other)));
        assert_eq!(says(&rig, 53, port), [station]);
        assert_eq!(says(&rig, 53, port), [], "one question has one answer");
        rig.until(socket.send(b"question")).unwrap();
        assert_eq!(says(&rig, 53, port), [station]);
    }
}

/// A datagram that finds its socket full is an answer all the same.
#[test]
fn an_answer_that_nobody_takes_in_time_proves_it_too() {
    let mut rig = Rig::new();
    let socket = rig.until(rig.client().datagrams(at(RIGHT[0], 53), Way::Routed)).unwrap();
    let ours = rig.left.with(|inner| *inner.datagrams.keys().next().unwrap());
    let answer = packet::datagram(&ours.reversed(), b"hello");
    (0..40).for_each(|_| rig.left.receive(rig.now, &answer));
    assert!(rig.left.stats().datagrams_dropped > 0);
    assert_eq!(rig.left.take_reached(), []);
    rig.until(socket.send(b"question")).unwrap();
    rig.left.receive(rig.now, &answer);
    assert_eq!(rig.left.take_reached().len(), 1);
}

#[test]
fn an_echo_reply_proves_that_its_station_is_reached_once_and_only_if_it_was_asked_for() {
    for other in RIGHT {
        let rig = Rig::new();
        let client = rig.client();
        let mut ping = Box::pin(client.ping(ip(other), Way::Routed));
        assert!(poll(ping.as_mut()).is_pending());
        rig.left.turn(rig.now);
        let reply = both_ways::echo_of(&rig.left.next_packet().unwrap().packet);
        let mut forged = reply.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        both_ways::mend(&mut forged);
        rig.left.receive(rig.now, &forged);
        assert_eq!(rig.left.take_reached(), [], "it carries something else");
        rig.left.receive(rig.now, &reply);
        assert_eq!(rig.left.take_reached(), [(InterfaceId(0), Address::from(ip(other)))]);
        rig.left.receive(rig.now, &reply);
        assert_eq!(rig.left.take_reached(), [], "the same once more");
    }
}

/// HC-17: the reply comes from the virtual address.
#[test]
fn a_server_can_be_pinged_at_the_virtual_address() {
    for (virtual_address, server) in [("192.0.2.9", RIGHT[0]), ("2001:db8:9::9", RIGHT[1])] {
        for way in [
            Way::Direct { server: ip(server) },
            Way::Tunnel { server: ip(server), gue_port: None },
            Way::Tunnel { server: ip(server), gue_port: Some(6080) },
        ] {
            let mut rig = Rig::new();
            let client = rig.client();
            assert!(rig.until(client.ping(ip(virtual_address), Way::Routed)).is_err(), "no route");
            let mut ping = Box::pin(client.ping(ip(virtual_address), way));
            assert!(poll(ping.as_mut()).is_pending());
            let ours = rig.left.with(|inner| *inner.asking.keys().next().unwrap());
            assert_eq!(class(&rig.left, Protocol::Echo, &ours), Class::Answer);
            rig.left.turn(rig.now);
            let sent = rig.left.next_packet().unwrap();
            assert_eq!((sent.destination, sent.way), (ip(virtual_address), way));
            rig.left.receive(rig.now, &both_ways::echo_of(&sent.packet));
            assert!(rig.until(ping).is_ok());
            assert_eq!(rig.left.take_reached(), [(InterfaceId(0), Address::from(ip(server)))]);
        }
    }
}

const FAR: [&str; 2] = ["192.0.2.9", "2001:db8:9::9"];

/// The left one gets another interface, with addresses that the right one reaches by its gateway: the left one.
fn with_far_side(rig: &Rig) {
    let prefix = |address: &str| {
        Prefix::new(ip(address).into(), if ip(address).is_ipv4() { 24 } else { 64 })
    };
    let interface = |addresses: [&str; 2]| Interface {
        port: PortId(0),
        vlan: None,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        addresses: addresses.map(prefix).into(),
        gateway: false,
    };
    let routes = |via: [Option<&str>; 2]| {
        let near = LEFT.map(|to| Route { to: prefix(to), interface: InterfaceId(0), via: None });
        let far = FAR.into_iter().zip(via).map(|(to, via)| {
            let interface = InterfaceId(u8::from(via.is_none()));
            Route { to: prefix(to), interface, via: via.map(|it| ip(it).into()) }
        });
        Arc::new(Routes::new(near.into_iter().chain(far)))
    };
    let both = [interface(LEFT), interface(FAR)];
    rig.left.configure(Arc::new(Paths::new(both.into(), routes([None; 2]))));
    let right = [interface(RIGHT)];
    rig.right.configure(Arc::new(Paths::new(right.into(), routes(LEFT.map(Some)))));
}

/// AR-08: whether the answers come shows whether the gateway is right.
#[test]
fn a_server_can_be_asked_from_an_address_that_it_reaches_by_its_gateway() {
    for (source, server) in FAR.into_iter().zip(RIGHT) {
        let mut rig = Rig::new();
        with_far_side(&rig);
        let station = (InterfaceId(0), Address::from(ip(server)));
        let way = Way::From { source: ip(source) };
        let (client, listener) = (rig.client(), rig.server().listen(None, 80).unwrap());
        let mut opening = Box::pin(client.connect(at(server, 80), way));
        assert!(poll(opening.as_mut()).is_pending());
        let ours = ends(&rig.left);
        assert_eq!(class(&rig.left, Protocol::Tcp, &ours), Class::Answer);
        let (stream, accepted) = rig.until(async { tokio::join!(opening, listener.accept()) });
        assert_eq!(accepted.unwrap().1.ip(), ip(source), "that is whom the server sees");
        assert_eq!(rig.left.take_reached().first(), Some(&station), "over the server's own subnet");
        drop(stream.unwrap());

        let socket = rig.until(client.datagrams(at(server, 53), way)).unwrap();
        let ours = rig.left.with(|inner| *inner.datagrams.keys().next().unwrap());
        assert_eq!(ours.local.ip(), ip(source));
        assert_eq!(class(&rig.left, Protocol::Udp, &ours), Class::Answer);
        drop(socket);

        let mut ping = Box::pin(client.ping(ip(server), way));
        assert!(poll(ping.as_mut()).is_pending());
        rig.turns(1);
        let (_, sent) = rig.wire[0].pop_back().unwrap();
        assert_eq!(Packet::read(&sent).unwrap().source, ip(source));
        rig.left.receive(rig.now, &both_ways::echo_of(&sent));
        assert!(rig.until(ping).is_ok());
    }
}
