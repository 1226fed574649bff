//! Nobody can make it panic, fill it up or lock others out.

use proptest::prelude::*;

use super::*;
use packet::{Ends, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A segment from some client that opens a connection.
fn opening(from: u32, port: u16, to: u16) -> Vec<u8> {
    use etherparse::PacketBuilder;
    let source = (0x0a00_0000 | from).to_be_bytes();
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(source, [10, 0, 0, 2], 60)
        .tcp(port, to, 77, 1000)
        .syn()
        .write(&mut bytes, &[])
        .unwrap();
    bytes
}

#[test]
fn a_flood_of_half_open_connections_neither_fills_it_nor_locks_others_out() {
    let mut rig = Rig::new();
    let (client, listener) = (rig.client(), rig.server().listen(None, 80).unwrap());
    let mut flood = 0;
    let mut drive = |rig: &mut Rig| {
        for _ in 0..20 {
            flood += 1;
            let packet = opening(16 + flood % 200, 1024 + (flood % 60_000) as u16, 80);
            rig.right.receive(rig.now, &packet);
        }
        rig.turn();
    };
    (0..500).for_each(|_| drive(&mut rig));
    let most = 512 + 8;
    assert!(rig.right.with(|inner| inner.connections.len()) <= most);
    let mut opening = pin!(client.connect(at(RIGHT[0], 80), Way::Routed));
    let mut accepted = None;
    let mut opened = None;
    for _ in 0..100 {
        if opened.is_none()
            && let Poll::Ready(stream) = poll(opening.as_mut())
        {
            opened = Some(stream.unwrap());
        }
        if let Poll::Ready(stream) = poll(pin!(listener.accept())) {
            accepted = Some(stream.unwrap());
        }
        if opened.is_some() && accepted.is_some() {
            break;
        }
        drive(&mut rig);
    }
    let (mut client, mut server) = (opened.unwrap(), accepted.unwrap().0);
    assert!(rig.right.stats().challenged > 5_000);
    assert!(rig.right.with(|inner| inner.connections.len()) <= most);
    // What was opened with a cookie is as good as any other.
    let said: Vec<u8> = (0..40_000).map(|at| (at / 7) as u8).collect();
    let mut heard = vec![0; said.len()];
    rig.until(async {
        let (write, read) = (client.write_all(&said), server.read_exact(&mut heard));
        let (write, read) = tokio::join!(write, read);
        assert!(write.is_ok() && read.is_ok());
        let (write, read) = (server.write_all(&said), client.read_exact(&mut heard));
        let (write, read) = tokio::join!(write, read);
        assert!(write.is_ok() && read.is_ok());
    });
    assert!(heard == said);
    rig.turns(15_000);
    assert_eq!(rig.right.stats().half_open, 0, "they go by themselves");
}

/// Who opens this, when they have.
fn opened(rig: &mut Rig, client: &InBand, to: SocketAddr) -> Option<Stream> {
    let opened = rig.within(Duration::from_secs(10), client.connect(to, Way::Routed));
    opened.and_then(Result::ok)
}

/// Pages are at virtual addresses, and for everybody; the API is at our own.
#[test]
fn a_flood_at_pages_closes_neither_them_nor_the_api() {
    let mut rig = Rig::new();
    let (client, server) = (rig.client(), rig.server());
    let page = |port| server.listen(Some(ip("10.0.0.100")), port).unwrap();
    let (pages, _api) = ([80, 443, 8080].map(page), server.listen(None, 9443).unwrap());
    for port in [80, 443, 8080] {
        for number in 0..1_000 {
            let mut packet = opening(16 + u32::from(number) % 200, 1024 + number, port);
            packet[19] = 100;
            mend(&mut packet);
            rig.right.receive(rig.now, &packet);
        }
    }
    let kept = rig.right.stats();
    assert_eq!((kept.half_open, kept.challenged, kept.no_room), (512, 2_488, 0));
    for (page, port) in pages.iter().zip([80, 443, 8080]) {
        let open = opened(&mut rig, &client, at("10.0.0.100", port)).expect("the page answers");
        assert!(rig.within(Duration::from_secs(1), page.accept()).is_some(), "port {port}");
        open.abort();
    }
    assert!(opened(&mut rig, &client, at(RIGHT[0], 9443)).is_some(), "the API answers");
    // Nor do those who really are there, and stay.
    let mut held = Vec::new();
    while let Some(open) = opened(&mut rig, &client, at("10.0.0.100", 80))
        && let Some(accepted) = rig.within(Duration::from_secs(1), pages[0].accept())
    {
        held.push((open, accepted.unwrap()));
    }
    assert!(rig.right.stats().no_room > 0 && held.len() > 500);
    assert!(rig.right.with(|inner| inner.connections.len()) <= 1_024 + 1);
    assert!(opened(&mut rig, &client, at(RIGHT[0], 9443)).is_some(), "the API still answers");
}

#[test]
fn who_listens_on_many_ports_hears_all_of_them_and_no_other() {
    let mut rig = Rig::new();
    let (client, server) = (rig.client(), rig.server());
    let address = Some(ip("10.0.0.100"));
    let many = server.listen_on(address, 1_000..=65_535).unwrap();
    let one = server.listen(address, 80).unwrap();
    for taken in [1_000..=1_000, 999..=1_000, 2_000..=3_000, 65_535..=65_535, 1..=80] {
        let refused = server.listen_on(address, taken.clone()).map(drop).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse, "{taken:?}");
    }
    for (listener, port) in [(&many, 1_000), (&many, 20_000), (&many, 65_535), (&one, 80)] {
        let open = opened(&mut rig, &client, at("10.0.0.100", port)).expect("somebody listens");
        assert!(rig.within(Duration::from_secs(1), listener.accept()).is_some(), "port {port}");
        open.abort();
    }
    for (address, port) in [("10.0.0.100", 999), ("10.0.0.100", 81), (RIGHT[0], 1_000)] {
        assert!(opened(&mut rig, &client, at(address, port)).is_none(), "{address} port {port}");
    }
    // What we open ourselves still finds ports.
    let _there = rig.client().listen(None, 22).unwrap();
    assert!(opened(&mut rig, &server, at(LEFT[0], 22)).is_some());
    drop(many);
    assert!(server.listen_on(address, 81..=65_535).is_ok());
}

#[test]
fn a_cookie_that_was_guessed_or_is_too_old_opens_nothing() {
    let mut rig = Rig::new();
    let _listener = rig.server().listen(None, 80).unwrap();
    for number in 0..513 {
        rig.right.receive(rig.now, &opening(16, 1024 + number, 80));
    }
    assert_eq!(rig.right.stats().challenged, 1);
    rig.right.turn(rig.now);
    let challenge = std::iter::from_fn(|| rig.right.next_packet())
        .find(|sent| packet::own_segment(&sent.packet).is_some_and(|it| it.to == 1024 + 512))
        .expect("the last one is answered as well");
    let challenge = packet::own_segment(&challenge.packet).unwrap();
    assert!(challenge.opens && challenge.acknowledges);
    let ends = Ends::new((ip("10.0.0.16"), 1536), (ip(RIGHT[0]), 80));
    let answer = |cookie: u32| packet::acknowledgement(&ends, 78, cookie.wrapping_add(1));
    let before = rig.right.stats().accepted;
    rig.right.receive(rig.now, &answer(challenge.sequence ^ 1));
    assert_eq!(rig.right.stats().accepted, before, "guessed");
    let late = rig.now.plus(Duration::from_secs(61));
    rig.right.receive(late, &answer(challenge.sequence));
    assert_eq!(rig.right.stats().accepted, before, "too old");
    rig.right.receive(rig.now, &answer(challenge.sequence));
    assert_eq!(rig.right.stats().accepted, before + 1);
    rig.turn();
}

#[test]
fn who_is_never_accepted_does_not_fill_it_either() {
    let mut rig = Rig::new();
    let (client, _listener) = (rig.client(), rig.server().listen(None, 80).unwrap());
    let mut opening: Vec<_> = (0..2_000)
        .map(|_| {
            let client = client.clone();
            Box::pin(async move { client.connect(at(RIGHT[0], 80), Way::Routed).await })
        })
        .collect();
    let mut opened = Vec::new();
    for _ in 0..3_000 {
        opening.retain_mut(|it| match poll(it.as_mut()) {
            Poll::Ready(stream) => {
                opened.push(stream);
                false
            }
            Poll::Pending => true,
        });
        rig.turn();
    }
    // Each sends a SYN and, once it is answered, an acknowledgement: of those who were half open at once all are let in, of
    // the others nobody, because nobody who is ready is accepted.
    let stats = rig.right.stats();
    assert_eq!((opened.len(), stats.received), (2_000, 4_000));
    assert_eq!((stats.accepted, stats.challenged, stats.backlog_full), (512, 1_488, 1_488));
    assert_eq!(rig.right.with(|inner| inner.connections.len()), 512);
}

/// RFC 4861 section 7.3.1: what only comes in says nothing of whether what we send arrives.
#[test]
fn an_answer_proves_that_its_station_is_reached_and_a_question_does_not() {
    let mut rig = Rig::new();
    let _listener = rig.server().listen(None, 80).unwrap();
    let client = rig.client();
    let mut opening = Box::pin(client.connect(at(RIGHT[0], 80), Way::Routed));
    let opened = (0..20).find_map(|_| {
        rig.turn();
        match poll(opening.as_mut()) {
            Poll::Ready(stream) => Some(stream),
            Poll::Pending => None,
        }
    });
    assert!(opened.unwrap().is_ok());
    assert_eq!(rig.left.take_reached().len(), 1);
    assert_eq!(rig.left.take_reached().len(), 0, "told once");
    assert_eq!(rig.right.take_reached().len(), 0);
}

#[test]
fn those_whom_nobody_waits_for_are_answered_only_so_often() {
    let mut rig = Rig::new();
    for number in 0..1_000 {
        rig.right.receive(rig.now, &opening(16, 1024 + number, 81));
    }
    let answers = std::iter::from_fn(|| rig.right.next_packet()).count();
    assert_eq!(answers, 100);
    assert_eq!(rig.right.stats().nobody_waits, 1_000);
    rig.turn();
}

#[test]
fn fragments_packets_for_others_and_forged_ones_are_counted_and_dropped() {
    let stack = stack(RIGHT, 1);
    let now = Moment::START;
    let right = opening(16, 1024, 81);
    let spoilt = |change: fn(&mut Vec<u8>)| {
        let mut packet = right.clone();
        change(&mut packet);
        packet[10..12].fill(0);
        let sum = dataplane::wire::checksum::of(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        stack.receive(now, &packet);
        assert_eq!(stack.next_packet(), None);
    };
    spoilt(|packet| packet[6] = 0x20);
    spoilt(|packet| packet[19] = 9);
    spoilt(|packet| packet[12..16].copy_from_slice(&[10, 0, 0, 2]));
    spoilt(|packet| packet[12..16].copy_from_slice(&[224, 0, 0, 2]));
    spoilt(|packet| packet[9] = 89);
    spoilt(|packet| packet[30] ^= 1);
    let mut packet = right.clone();
    packet[8] ^= 1;
    stack.receive(now, &packet);
    assert_eq!(stack.next_packet(), None, "the header's checksum is wrong");
    let stats = stack.stats();
    assert_eq!((stats.fragments, stats.not_ours), (1, 3));
    assert_eq!((stats.other_protocol, stats.malformed, stats.received), (1, 2, 7));
    stack.receive(now, &right);
    assert!(stack.next_packet().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_packet_makes_it_panic_or_leaves_anything_behind(
        packets in prop::collection::vec((0..8u8, prop::collection::vec(any::<u8>(), 0..90), any::<u16>()), 0..60),
    ) {
        let mut rig = Rig::new();
        let (client, _listener) = (rig.client(), rig.server().listen(None, 80).unwrap());
        let mut opening = Box::pin(client.connect(at(RIGHT[0], 80), Way::Routed));
        let mut opened = None;
        let mut templates: Vec<Vec<u8>> = vec![self::opening(16, 1024, 80)];
        for (kind, noise, place) in packets {
            if opened.is_none() && let Poll::Ready(stream) = poll(opening.as_mut()) {
                opened = Some(stream);
            }
            rig.left.turn(rig.now);
            while let Some(sent) = rig.left.next_packet() {
                rig.right.receive(rig.now, &sent.packet);
                templates.push(sent.packet);
            }
            // Something that has been sent, with a few bytes changed and right checksums, or mere noise.
            let mut packet = match kind {
                0 => noise.clone(),
                _ => templates[usize::from(place) % templates.len()].clone(),
            };
            if kind > 1 && !packet.is_empty() {
                for (number, byte) in noise.iter().take(usize::from(kind)).enumerate() {
                    let at = (usize::from(place) + number * 7) % packet.len();
                    packet[at] = *byte;
                }
                mend(&mut packet);
            }
            rig.right.receive(rig.now, &packet);
            rig.right.turn(rig.now);
            while let Some(sent) = rig.right.next_packet() {
                prop_assert!(Packet::read(&sent.packet).is_ok_and(|it| it.transport_is_right()));
                rig.left.receive(rig.now, &sent.packet);
            }
            rig.now = rig.now.plus(Duration::from_millis(u64::from(place)));
        }
        drop((opening, opened));
        drop(_listener);
        rig.turns(30_000);
        for stack in [&rig.left, &rig.right] {
            let left = stack.with(|inner| inner.connections.len() + inner.segments.len() + inner.deadlines.len());
            prop_assert_eq!(left, 0);
            prop_assert_eq!(stack.stats().time_wait, 0);
        }
    }
}

/// Puts right checksums into an IPv4 packet of TCP.
fn mend(packet: &mut [u8]) {
    use dataplane::wire::{Address, checksum, protocol};
    if packet.len() < 40 || packet[0] != 0x45 {
        return;
    }
    packet[10..12].fill(0);
    let sum = checksum::of(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let address = |at: usize| {
        let bytes: [u8; 4] = packet[at..at + 4].try_into().unwrap();
        Address::from(std::net::Ipv4Addr::from(bytes))
    };
    let (source, destination) = (address(12), address(16));
    packet[36..38].fill(0);
    let sum = checksum::of_transport(source, destination, protocol::TCP, &packet[20..]);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
}
