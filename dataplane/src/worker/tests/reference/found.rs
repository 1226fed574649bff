//! What the model has found, each in a plain case of its own.

use super::*;

const CLIENT: &str = "198.51.100.1";

fn tcp(from: (&str, u16), to: (&str, u16), flags: u8) -> Ip {
    Ip {
        source: ip(from.0),
        destination: ip(to.0),
        hops: 64,
        class: 0,
        identification: 1,
        dont_fragment: true,
        body: Body::Tcp {
            ports: (from.1, to.1),
            flags,
            numbers: (7, 9),
            window: 100,
            payload: Vec::new(),
            skew: 0,
        },
    }
}

fn unreachable(from: &str, to: &str, quoted: &Ip) -> Ip {
    let kept = quoted.length();
    let (kind, code) = if quoted.is_v4() { (3, 3) } else { (1, 4) };
    let quoted = Box::new(quoted.clone());
    let body = Body::Error { kind, code, word: 0, quoted, kept };
    Ip { body, ..tcp((from, 0), (to, 0), 0).between((ip(from), 0), (ip(to), 0)) }
}

fn plan(server: Mode) -> Plan {
    let server = model::Server {
        slot: 0,
        address: ip("10.0.0.10"),
        mode: server,
        weight: 1,
        state: State::Online,
        limits: (0, 0),
    };
    let service = model::Service {
        address: ip("192.0.2.100"),
        protocol: TCP,
        port: Some(80),
        scheduler: Scheduler::Rr,
        sticky: None,
        hairpin: false,
        closed: false,
        page: false,
        servers: vec![server],
    };
    Plan { services: vec![service], ..Plan::default() }
}

/// A worker, and what it makes of packets that stations send.
struct Rig(TestWorker);

impl Rig {
    fn new(plan: &Plan) -> Self {
        Self(TestWorker::with(published(plan, 1), 64))
    }

    fn changes(&mut self, plan: &Plan) {
        self.0.publisher.publish(published(plan, 2));
        self.0.turn();
    }

    /// The packets that leave, on either wire, when this one comes in.
    fn passes_on(&mut self, ip: &Ip) -> Vec<Vec<u8>> {
        let wire = model::wire_of(ip.source).unwrap_or(model::OUTSIDE);
        let station = match model::wire_of(ip.source) {
            Some(_) => ip.source,
            None => model::gateway(ip.source),
        };
        let (ip, part) = (ip.clone(), Part::Whole);
        let arrival = Arrival { wire, for_us: true, tag: None, station, ip, part, spoilt: false };
        self.0.receives_on(InterfaceId(wire as u8), &frame(&arrival));
        let sent = self.0.transmitted();
        sent.into_iter().map(|frame| frame[14..].to_vec()).collect()
    }
}

#[test]
fn an_error_for_a_station_with_its_own_outside_address_quotes_its_inside_one() {
    for (inside, outside, far) in [
        ("10.0.0.77", "192.0.2.150", "203.0.113.5"),
        ("2001:db8:0:2::77", "2001:db8:0:1::150", "2001:db8:77::5"),
    ] {
        let mut rig = Rig::new(&Plan { pair: true, ..plan(Mode::Dr) });
        let error = unreachable(far, outside, &tcp((outside, 5_000), (far, 80), 0x02));
        let expected = unreachable(far, inside, &tcp((inside, 5_000), (far, 80), 0x02));
        assert_eq!(rig.passes_on(&error), [Ip { hops: 63, ..expected }.bytes()]);
        let error = unreachable(inside, far, &tcp((far, 80), (inside, 5_000), 0x12));
        let expected = unreachable(outside, far, &tcp((far, 80), (outside, 5_000), 0x12));
        assert_eq!(rig.passes_on(&error), [Ip { hops: 63, ..expected }.bytes()]);
    }
}

#[test]
fn an_error_from_a_masqueraded_station_comes_from_our_address_and_quotes_it() {
    let mut rig = Rig::new(&Plan { masquerade: true, ..plan(Mode::Dr) });
    let (inside, far) = ("10.0.0.78", "203.0.113.5");
    let sent = rig.passes_on(&tcp((inside, 5_000), (far, 80), 0x02));
    let port = u16::from_be_bytes([sent[0][20], sent[0][21]]);
    let error = unreachable(inside, far, &tcp((far, 80), (inside, 5_000), 0x12));
    let expected = unreachable("192.0.2.2", far, &tcp((far, 80), ("192.0.2.2", port), 0x12));
    assert_eq!(rig.passes_on(&error), [expected.bytes()]);
}

#[test]
fn an_error_about_a_masqueraded_echo_quotes_the_station_s_identifier() {
    let mut rig = Rig::new(&Plan { masquerade: true, ..plan(Mode::Dr) });
    let (inside, far) = ("10.0.0.78", "203.0.113.5");
    let echo = |from: &str, identifier| {
        let body = Body::Echo { is_reply: false, identifier, payload: vec![1, 2, 3, 4] };
        Ip { body, ..tcp((from, 0), (far, 0), 0) }
    };
    let sent = rig.passes_on(&echo(inside, 77));
    let identifier = u16::from_be_bytes([sent[0][24], sent[0][25]]);
    let error = unreachable("203.0.113.9", "192.0.2.2", &echo("192.0.2.2", identifier));
    let expected = unreachable("203.0.113.9", inside, &echo(inside, 77));
    assert_eq!(rig.passes_on(&error), [expected.bytes()]);
}

/// After a connection over NAT was opened and its server halted.
fn halted() -> Rig {
    let mut plan = plan(Mode::Nat(None));
    let mut rig = Rig::new(&plan);
    rig.passes_on(&tcp((CLIENT, 40_000), ("192.0.2.100", 80), 0x02));
    plan.services[0].servers[0].state = State::Halted;
    rig.changes(&plan);
    rig
}

fn flags_of(segments: &[Vec<u8>]) -> Vec<u8> {
    segments.iter().map(|packet| packet[33]).collect()
}

#[test]
fn a_reset_of_a_halted_server_s_client_goes_to_the_server_alone() {
    let mut rig = halted();
    let sent = rig.passes_on(&tcp((CLIENT, 40_000), ("192.0.2.100", 80), 0x14));
    assert_eq!(flags_of(&sent), [0x14]);
    assert_eq!(sent[0][16..20], [10, 0, 0, 10]);
}

#[test]
fn the_client_of_a_halted_server_hears_of_its_last_segment_too() {
    let mut rig = halted();
    let sent = rig.passes_on(&tcp(("10.0.0.10", 80), (CLIENT, 40_000), 0x11));
    assert_eq!(flags_of(&sent), [0x14, 0x04], "to the client, and back to the server");
}

#[test]
fn a_server_that_was_full_takes_no_more_before_it_is_below_its_minimum_whoever_asks() {
    let mut plan = plan(Mode::Dr);
    plan.services[0].servers[0].limits = (3, 2);
    let mut rig = Rig::new(&plan);
    let mut connects =
        |port, flags| rig.passes_on(&tcp((CLIENT, port), ("192.0.2.100", 80), flags)).len() == 1;
    assert!(connects(1, 0x02) && connects(2, 0x02) && connects(3, 0x02));
    assert!(connects(1, 0x11), "the first ends, before anybody was refused");
    assert!(!connects(4, 0x02), "2 of 3, and not below 2");
    assert!(connects(2, 0x11));
    assert!(connects(5, 0x02), "1 of 3");
}

#[test]
fn a_reply_to_our_own_address_is_never_taken_for_a_one_packet_service_s() {
    let mut plan = plan(Mode::Nat(None));
    (plan.services[0].protocol, plan.services[0].scheduler) = (UDP, Scheduler::Ops);
    let mut rig = Rig::new(&plan);
    let datagram = |to: &str| Ip {
        body: Body::Udp { ports: (80, 20_000), payload: vec![1], skew: Some(0) },
        ..tcp(("10.0.0.10", 80), (to, 20_000), 0)
    };
    assert_eq!(rig.passes_on(&datagram(CLIENT)).len(), 1);
    assert!(rig.passes_on(&datagram("10.0.0.2")).is_empty());
    assert_eq!(rig.0.counters.waiting.get(), 0, "nor does it wait for ourselves");
}
