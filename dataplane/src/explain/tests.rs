use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::counters::Reason;
use crate::punt::{Command, Event, FlowFilter, FlowReport};
use crate::snapshot::{InterfaceId, Masquerade, NatRules};
use crate::testing::{INSIDE, OUTSIDE, TestWorker, our_address, snapshot};
use crate::wire::tcp::Flags;

const SYN: u8 = Flags::SYN;
const ACK: u8 = Flags::ACK;
const FIN: u8 = Flags::FIN | Flags::ACK;

fn end(text: &str) -> (Address, u16) {
    let end: std::net::SocketAddr = text.parse().unwrap();
    (end.ip().into(), end.port())
}

fn question(on: InterfaceId, protocol: Protocol, from: &str, to: &str, flags: u8) -> Copied {
    let described = Described { protocol, from: end(from), to: end(to), flags: Flags(flags) };
    frame(&described, on, &snapshot("")).unwrap()
}

fn tcp(from: &str, to: &str, flags: u8) -> Copied {
    question(OUTSIDE, Protocol::Tcp, from, to, flags)
}

fn udp(from: &str, to: &str) -> Copied {
    question(OUTSIDE, Protocol::Udp, from, to, 0)
}

impl TestWorker {
    /// What the worker says would become of a frame.
    fn explains(&mut self, frame: &Copied) -> Vec<Decision> {
        let command = Command::Explain { question: 7, frame: frame.clone() };
        self.control.commands.push(command).unwrap();
        self.turn();
        let mut decisions = Vec::new();
        while let Ok(event) = self.control.events.pop() {
            match event {
                Event::Decided { question: 7, decision } => decisions.push(decision),
                Event::Explained { question: 7 } => return decisions,
                Event::Unresolved { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("no last word");
    }

    fn flows(&mut self) -> Vec<FlowReport> {
        let filter = FlowFilter::default();
        self.control.commands.push(Command::ListFlows { question: 8, filter, limit: 99 }).unwrap();
        let mut flows = Vec::new();
        loop {
            self.turn();
            while let Ok(event) = self.control.events.pop() {
                match event {
                    Event::Flow { flow, .. } => flows.push(flow),
                    Event::FlowsListed { .. } => return flows,
                    Event::Unresolved { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// All that it counts, but for turns.
    fn books(&self) -> Vec<u64> {
        let counters = &self.counters;
        let mut books: Vec<u64> = Reason::ALL.iter().map(|&it| counters.dropped(it)).collect();
        books.extend([
            counters.received.get(),
            counters.injected.get(),
            counters.transmitted.get(),
            counters.transmitted_bytes.get(),
            counters.punted.get(),
            counters.waiting.get() as u64,
            counters.flows.get() as u64,
            counters.flows_created.get(),
            counters.flows_evicted.get(),
            counters.forwarded_without_flow.get(),
            counters.clients_evicted.get(),
        ]);
        for slot in 0..8 {
            let block = counters.server(ServerId::new(slot, 0));
            books.extend([block.active.get() as u64, block.closing.get() as u64]);
            books.extend([&block.flows, &block.packets, &block.bytes].map(|it| it.get()));
            books.extend([&block.reply_packets, &block.reply_bytes].map(|it| it.get()));
        }
        books
    }
}

fn words(decisions: &[Decision]) -> String {
    decisions.iter().map(|decision| format!("{decision}\n")).collect()
}

fn reasons(decisions: &[Decision]) -> Vec<Reason> {
    let reason = |decision: &Decision| match decision {
        Decision::Dropped(reason) => Some(*reason),
        _ => None,
    };
    decisions.iter().filter_map(reason).collect()
}

#[test]
fn a_new_connection_is_told_from_the_wire_to_the_wire() {
    let mut worker = TestWorker::serving("192.0.2.1:80 nat rr 10.0.0.7:8080*2 10.0.0.8:8080");
    let told = worker.explains(&tcp("198.51.100.9:40000", "192.0.2.1:80", SYN));
    assert_eq!(
        words(&told),
        "comes in on interface 0\n\
         carries TCP from 198.51.100.9:40000 to 192.0.2.1:80 SYN, 40 bytes\n\
         is for the virtual service in slot 0\n\
         begins a new flow\n\
         new flows are not limited\n\
         weighted round robin: a server of weight 2, one of 2 that take new flows\n\
         the flow is remembered for 30 s\n\
         server 10.0.0.7 takes new flows and has 0 connections\n\
         is translated: source stays 198.51.100.9:40000 destination 192.0.2.1:80 becomes 10.0.0.7:8080\n\
         hardware addresses: from 02:00:00:00:00:01 becomes from 02:00:0a:00:00:02, \
         to 02:00:c0:00:02:02 becomes to 02:00:0a:00:00:07\n\
         leaves on interface 1, to 10.0.0.7, 40 bytes\n"
    );
}

#[test]
fn what_the_control_plane_gets_is_told_also_where_a_helper_might_have_opened_the_port() {
    for mode in ["dr", "nat ftp"] {
        let mut worker = TestWorker::serving(&format!("192.0.2.1:80 {mode} 10.0.0.7"));
        let told = worker.explains(&tcp("198.51.100.9:40000", "192.0.2.2:9443", SYN));
        assert_eq!(told.last(), Some(&Decision::Punted(crate::punt::Class::Local)));
        assert!(words(&told).ends_with("goes to the control plane: it is for us\n"));
        assert_eq!(worker.counters.punted.get(), 0);
    }
}

#[test]
fn a_page_for_a_client_that_no_server_takes_is_told_of() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr page 10.0.0.7!");
    let told = worker.explains(&tcp("198.51.100.9:40000", "192.0.2.1:80", SYN));
    assert!(words(&told).ends_with(
        "no server takes it, and the service has a page of ours\n\
         goes to the control plane: it is for us\n"
    ));
}

#[test]
fn a_drop_is_told_with_its_reason_and_what_that_means() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr 10.0.0.7");
    let told = worker.explains(&tcp("198.51.100.9:40000", "192.0.2.1:81", SYN));
    assert_eq!(told.last(), Some(&Decision::Dropped(Reason::NoService)));
    assert!(words(&told).ends_with(
        "is dropped (no_service): The address is ours, but no virtual service is published on that \
         protocol and port.\n"
    ));
}

#[test]
fn a_client_that_returns_and_one_that_must_go_elsewhere_are_told_apart() {
    let mut worker = TestWorker::serving("192.0.2.1:80 dr sticky 10.0.0.7 10.0.0.8");
    let [first, second] =
        ["198.51.100.9:1", "198.51.100.9:2"].map(|from| tcp(from, "192.0.2.1:80", SYN));
    let told = worker.explains(&first);
    assert!(told.contains(&Decision::NotPersistent { was_known: false }), "{told:?}");
    worker.receives(first.bytes());
    let returns = |told: &[Decision]| {
        told.iter().any(|it| matches!(it, Decision::Persistent { returns: true, .. }))
    };
    assert!(returns(&worker.explains(&second)));
    worker.reconfigure("192.0.2.1:80 dr sticky 10.0.0.7! 10.0.0.8", 2);
    let told = worker.explains(&second);
    assert!(!returns(&told) && told.contains(&Decision::NotPersistent { was_known: true }));
}

#[test]
fn a_reset_is_told_with_both_segments_and_sends_none() {
    let mut worker = TestWorker::serving("192.0.2.1:80 nat 10.0.0.7");
    worker.receives(tcp("198.51.100.9:1", "192.0.2.1:80", SYN).bytes());
    worker.transmitted();
    worker.reconfigure("192.0.2.1:80 nat 10.0.0.7!!", 2);
    let told = worker.explains(&tcp("198.51.100.9:1", "192.0.2.1:80", ACK));
    assert!(told.contains(&Decision::Reset), "{told:?}");
    assert_eq!(reasons(&told), [Reason::ServerHalted]);
    let answers = told.iter().filter(|it| matches!(it, Decision::Answered { .. })).count();
    assert_eq!(answers, 2);
    assert!(worker.transmitted().is_empty());
    assert_eq!(worker.flows().len(), 1);
}

/// What the frames below meet: every mode and scheduler, and what makes packets go astray.
const SERVICES: &str = "192.0.2.1:80 dr wrr 10.0.0.7*3 10.0.0.8*2 10.0.0.9
    192.0.2.1:81 nat lc hairpin 10.0.0.10:8080 10.0.0.11:8080
    192.0.2.1:82 snat sticky 10.0.0.12 10.0.0.13
    192.0.2.1:83 tun wlc sticky 10.0.0.14*2 10.0.0.15
    192.0.2.1:53/udp gue ops 10.0.0.16 10.0.0.17
    192.0.2.1:84 nat closed 10.0.0.18
    192.0.2.1:85 nat half-open=2 10.0.0.19
    192.0.2.1:86 dr 10.0.0.20!";
/// The same after the operator has had a hand in it.
const CHANGED: &str = "192.0.2.1:80 dr wrr 10.0.0.7*3! 10.0.0.8*2 10.0.0.9!!
    192.0.2.1:81 nat lc hairpin 10.0.0.10:8080!! 10.0.0.11:8080
    192.0.2.1:82 snat sticky 10.0.0.12!! 10.0.0.13
    192.0.2.1:83 tun wlc sticky 10.0.0.14*2! 10.0.0.15
    192.0.2.1:53/udp gue ops 10.0.0.16 10.0.0.17";

fn with_nat(services: &str) -> Snapshot {
    let mut snapshot = snapshot(services);
    let inside = |text: &str| text.parse::<Address>().unwrap();
    let masquerade = Masquerade {
        out: OUTSIDE,
        from: vec![Prefix::new(inside("10.0.0.0"), 16)],
        source: vec![our_address(OUTSIDE).into()],
    };
    let pair = (inside("10.0.0.77"), inside("192.0.2.77"));
    snapshot.nat = NatRules::new([pair], vec![masquerade]).into();
    let mut interfaces = snapshot.interfaces.to_vec();
    interfaces[1].gateway = true;
    snapshot.interfaces = interfaces.into();
    snapshot.services = {
        let mut services = std::sync::Arc::try_unwrap(snapshot.services).unwrap();
        services.expect_replies_to(our_address(OUTSIDE).into());
        services.into()
    };
    snapshot
}

fn questions() -> impl Strategy<Value = Copied> {
    let flags = prop_oneof![4 => Just(SYN), 3 => Just(ACK), 1 => Just(FIN), 1 => Just(0x3f)];
    let client = (0..4u8, 1..6u16)
        .prop_map(|(host, port)| format!("198.51.100.{}:{}", host + 1, port + 40_000));
    let from_client = (client.clone(), 80..88u16, flags.clone())
        .prop_map(|(client, port, flags)| tcp(&client, &format!("192.0.2.1:{port}"), flags));
    let datagram = client.clone().prop_map(|client| udp(&client, "192.0.2.1:53"));
    let reply = (7..20u8, client.clone(), flags.clone()).prop_map(|(host, client, flags)| {
        let port = if host < 12 { 8080 } else { 82 };
        question(INSIDE, Protocol::Tcp, &format!("10.0.0.{host}:{port}"), &client, flags)
    });
    let outwards = (75..79u8, 1..5u16, flags).prop_map(|(host, port, flags)| {
        let from = format!("10.0.0.{host}:{port}");
        question(INSIDE, Protocol::Tcp, &from, "203.0.113.5:443", flags)
    });
    let echo = (75..79u8).prop_map(|host| {
        question(INSIDE, Protocol::Echo, &format!("10.0.0.{host}:9"), "203.0.113.5:0", 0)
    });
    let inwards = client.prop_map(|client| tcp(&client, "192.0.2.77:25", SYN));
    let spoilt = (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, value)| {
        let good = tcp("198.51.100.1:40001", "192.0.2.1:82", SYN);
        let mut bytes = good.bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        Copied::of(OUTSIDE, &bytes).unwrap()
    });
    prop_oneof![
        6 => from_client, 2 => datagram, 3 => reply, 2 => outwards, 1 => echo, 1 => inwards, 1 => spoilt
    ]
}

/// The drops that a frame brings, and what leaves.
fn fate(worker: &mut TestWorker, frame: &Copied) -> (Vec<Reason>, Vec<(InterfaceId, Vec<u8>)>) {
    let before: Vec<u64> = Reason::ALL.iter().map(|&it| worker.dropped(it)).collect();
    worker.receives_on(frame.interface, frame.bytes());
    let dropped = Reason::ALL.iter().zip(before).filter(|&(&it, old)| worker.dropped(it) != old);
    let dropped = dropped.map(|(&reason, _)| reason).collect();
    let sent = [OUTSIDE, INSIDE].into_iter().flat_map(|id| {
        worker.transmitted_on(id).into_iter().map(move |frame| (id, frame)).collect::<Vec<_>>()
    });
    (dropped, sent.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_told_happens_then_and_nothing_changes_by_telling(
        frames in prop::collection::vec((questions(), 0..40u64), 1..40),
        changes_at in 0..60usize,
    ) {
        // The twin is never asked, and must behave alike throughout.
        let [mut worker, mut twin] = [(), ()].map(|()| TestWorker::with(with_nat(SERVICES), 16));
        for (index, (frame, seconds)) in frames.iter().enumerate() {
            for each in [&mut worker, &mut twin] {
                each.passes(Duration::from_secs(*seconds));
                if index == changes_at {
                    let next = Snapshot { generation: 2, ..with_nat(CHANGED) };
                    each.publisher.publish(next);
                    each.turn();
                }
            }
            let (books, flows) = (worker.books(), worker.flows());
            let told = worker.explains(frame);
            prop_assert_eq!(&worker.explains(frame), &told);
            prop_assert_eq!(worker.books(), books);
            prop_assert_eq!(worker.flows(), flows);
            for _ in 0..4 { twin.turn(); } // as many as the questions above took

            let (dropped, sent) = fate(&mut worker, frame);
            prop_assert_eq!(fate(&mut twin, frame), (dropped.clone(), sent.clone()));
            prop_assert_eq!(worker.books(), twin.books());
            prop_assert_eq!(reasons(&told), dropped, "{}", words(&told));
            let waits = told.iter().any(|it| matches!(it, Decision::Waits { .. }));
            let mut ways_out: Vec<_> = told.iter().filter_map(|it| match it {
                Decision::Leaves { interface, length, .. } if !waits => Some((*interface, *length)),
                _ => None,
            }).collect();
            ways_out.sort();
            let lengths: Vec<_> =
                sent.iter().map(|(id, frame)| (*id, frame.len() as u16 - 14)).collect();
            prop_assert_eq!(ways_out, lengths, "{}", words(&told));
            let macs = told.iter().filter_map(|it| match it {
                Decision::Readdressed { destination: (_, to), .. } => Some(to.0),
                _ => None,
            });
            let mut macs: Vec<_> = macs.collect();
            let mut sent_to: Vec<[u8; 6]> =
                sent.iter().map(|(_, frame)| frame[..6].try_into().unwrap()).collect();
            macs.sort();
            sent_to.sort();
            prop_assert_eq!(macs, sent_to, "{}", words(&told));
            for it in told.iter().filter(|_| !waits) {
                if let Decision::Translated { source: (_, from), destination: (_, to) } = it {
                    let bytes = &sent[0].1;
                    prop_assert_eq!(&bytes[26..30], &from.0.low().to_be_bytes());
                    prop_assert_eq!(&bytes[30..34], &to.0.low().to_be_bytes());
                    if bytes[23] == 6 {
                        prop_assert_eq!(&bytes[34..36], &from.1.to_be_bytes());
                        prop_assert_eq!(&bytes[36..38], &to.1.to_be_bytes());
                    }
                }
            }
        }
    }
}
