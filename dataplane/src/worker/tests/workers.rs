//! Several workers that share a node's flows, with every flow's two directions at different workers.

use super::*;
use crate::lookup::flow_table::Direction;

/// Workers with wires of their own each, as queues of one card.
struct Team(Vec<TestWorker>);

impl Team {
    fn serving(services: &str, workers: usize) -> Self {
        Self(TestWorker::crew(snapshot(services), 1_024, workers))
    }

    /// A frame arrives at one worker's queue; all take turns until nothing is under way.
    fn receives(&mut self, worker: usize, interface: InterfaceId, frame: &[u8]) {
        self.0[worker].receives_on(interface, frame);
        for _ in 0..self.0.len() + 1 {
            self.0.iter_mut().for_each(TestWorker::turn);
        }
    }

    /// What all have sent on a wire since the last call.
    fn transmitted_on(&mut self, interface: InterfaceId) -> Vec<Vec<u8>> {
        self.0.iter_mut().flat_map(|worker| worker.transmitted_on(interface)).collect()
    }

    fn only_frame_on(&mut self, interface: InterfaceId) -> Vec<u8> {
        let mut sent = self.transmitted_on(interface);
        assert_eq!(sent.len(), 1);
        sent.remove(0)
    }

    fn dropped_in_all(&self) -> u64 {
        self.0.iter().map(|worker| worker.counters.dropped_in_all()).sum()
    }

    fn flows(&self) -> i64 {
        self.0.iter().map(|worker| worker.counters.flows.get()).sum()
    }

    /// The books balance for each, and all that was handed over was taken over.
    fn balance(&self) {
        for worker in &self.0 {
            assert_eq!(worker.counters.imbalance(), 0);
        }
        let sum = |count: fn(&TestWorker) -> u64| self.0.iter().map(count).sum::<u64>();
        assert_eq!(
            sum(|worker| worker.counters.handed_over.get()),
            sum(|worker| worker.counters.taken_over.get())
        );
        assert_eq!(self.0[0].buffers_out(), 0, "every buffer is home");
    }
}

fn client(number: u16) -> String {
    format!("198.51.100.{}:{}", number % 200 + 1, 20_000 + number)
}

#[test]
fn a_reply_that_arrives_at_another_worker_reaches_the_flow_s_owner() {
    for (workers, mode) in (2..=4).flat_map(|workers| ["nat", "snat"].map(|mode| (workers, mode))) {
        let services = format!("192.0.2.1:80 {mode} 10.0.0.7:8080 10.0.0.8:8080");
        let mut team = Team::serving(&services, workers);
        for number in 0..60 {
            let (there, back) = (usize::from(number) % workers, usize::from(number + 1) % workers);
            let client = client(number);
            team.receives(there, OUTSIDE, &tcp(&client, "192.0.2.1:80", SYN));
            let (from, to) = decode(&team.only_frame_on(INSIDE));
            assert_eq!(from == client, mode == "nat", "{mode}");
            team.receives(back, INSIDE, &reply(&to, &from, SYN | ACK));
            let answer = decode(&team.only_frame_on(OUTSIDE));
            assert_eq!(answer, ("192.0.2.1:80".into(), client.clone()), "{workers} {mode}");
            team.receives(there, OUTSIDE, &tcp(&client, "192.0.2.1:80", ACK));
            assert_eq!(decode(&team.only_frame_on(INSIDE)), (from, to));
        }
        assert_eq!((team.flows(), team.dropped_in_all()), (60, 0));
        team.balance();
    }
}

#[test]
fn a_flow_whose_own_direction_moves_to_another_worker_stays_with_its_owner() {
    for mode in ["nat", "snat"] {
        let services = format!("192.0.2.1:80 {mode} 10.0.0.7 10.0.0.8 10.0.0.9");
        let mut team = Team::serving(&services, 3);
        for number in 0..60 {
            let client = client(number);
            team.receives(usize::from(number) % 3, OUTSIDE, &tcp(&client, "192.0.2.1:80", SYN));
            let first = decode(&team.only_frame_on(INSIDE));
            for worker in 0..3 {
                team.receives(worker, OUTSIDE, &tcp(&client, "192.0.2.1:80", ACK));
                assert_eq!(decode(&team.only_frame_on(INSIDE)), first, "{mode} at {worker}");
            }
        }
        assert_eq!(team.flows(), 60, "no flow is owned twice");
        team.balance();
    }
}

#[test]
fn no_flow_is_in_two_tables_after_every_packet_came_everywhere() {
    let mut team = Team::serving("192.0.2.1:53/udp nat 10.0.0.7 10.0.0.8", 4);
    for round in 0..4 {
        for number in 0..40 {
            let worker = (usize::from(number) + round) % 4;
            team.receives(worker, OUTSIDE, &udp(&client(number), "192.0.2.1:53", b"question"));
        }
    }
    for number in 0..40 {
        let from = address(&client(number));
        let flow = crate::parse::Flow {
            protocol: crate::snapshot::Protocol::Udp,
            source: (*from.ip()).into(),
            source_port: from.port(),
            destination: Ipv4Addr::new(192, 0, 2, 1).into(),
            destination_port: 53,
        };
        let owners = team.0.iter().filter(|it| {
            let flows = &it.worker.steps.memory.flows;
            flows.find(flows.hash(&flow), &flow, Direction::Original).is_some()
        });
        assert_eq!(owners.count(), 1);
    }
    team.balance();
}

#[test]
fn a_server_s_connection_to_the_outside_comes_back_whichever_worker_hears_the_answer() {
    let mut behind = snapshot("192.0.2.1:80 nat 10.0.0.7");
    behind.nat = std::sync::Arc::new(masquerade());
    let mut services = crate::snapshot::Services::new();
    services.expect_replies_to(our_address(OUTSIDE).into());
    behind.services = services.into();
    let mut team = Team(TestWorker::crew(behind, 64, 2));
    team.receives(1, INSIDE, &reply("10.0.0.7:5000", "198.51.100.9:25", SYN));
    let (from, to) = decode(&team.only_frame_on(OUTSIDE));
    assert_eq!(address(&from).ip(), &our_address(OUTSIDE));
    team.receives(0, OUTSIDE, &tcp(&to, &from, SYN | ACK));
    let back = decode(&team.only_frame_on(INSIDE));
    assert_eq!(back, ("198.51.100.9:25".into(), "10.0.0.7:5000".into()));
    team.balance();
}

/// Stations in 10.0.0.0/16 leave with our outside address.
fn masquerade() -> crate::snapshot::NatRules {
    let inside = crate::wire::Prefix::new(Ipv4Addr::new(10, 0, 0, 0).into(), 16);
    let rule = crate::snapshot::Masquerade {
        out: OUTSIDE,
        from: vec![inside],
        source: vec![our_address(OUTSIDE).into()],
    };
    crate::snapshot::NatRules::new([], vec![rule])
}

#[test]
fn connections_of_all_workers_count_for_the_least_connected_server() {
    let mut team = Team::serving("192.0.2.1:80 dr lc 10.0.0.7 10.0.0.8", 2);
    // All through one worker, and so five to each server.
    for number in 0..10 {
        team.receives(0, OUTSIDE, &tcp(&client(number), "192.0.2.1:80", SYN));
    }
    // Those at 10.0.0.7 end, so the other worker must find five to none, ten milliseconds later.
    let sent = team.transmitted_on(INSIDE);
    let to_first = mac_of(Ipv4Addr::new(10, 0, 0, 7)).0;
    for (number, frame) in (0..10).zip(&sent) {
        if frame[..6] == to_first {
            team.receives(0, OUTSIDE, &tcp(&client(number), "192.0.2.1:80", FIN | ACK));
        }
    }
    team.transmitted_on(INSIDE);
    team.0.iter_mut().for_each(|worker| worker.passes(Duration::from_millis(10)));
    for number in 20..25 {
        team.receives(1, OUTSIDE, &tcp(&client(number), "192.0.2.1:80", SYN));
    }
    let sent = team.transmitted_on(INSIDE);
    assert_eq!(sent.iter().filter(|frame| frame[..6] == to_first).count(), 5);
    team.balance();
}

/// Four workers and a server that may have ten connections, and new ones again below five.
fn team_with_a_limit(services: &str) -> (Team, [u8; 6]) {
    let mut limited = snapshot(services);
    let mut servers = limited.servers.to_vec();
    let first = servers[0].as_mut().unwrap();
    (first.max_connections, first.min_connections) = (10, 5);
    let mac = mac_of(first.address).0;
    limited.servers = servers.into();
    (Team(TestWorker::crew(limited, 1_024, 4)), mac)
}

#[test]
fn a_server_never_has_more_than_it_may_however_fast_connections_come_to_all_workers() {
    // Time stands still: whatever is only looked up now and then is as it was.
    for options in ["rr", "lc", "wlc", "sticky"] {
        let services = format!("192.0.2.1:80 dr {options} 10.0.0.7 10.0.0.8");
        let (mut team, limited) = team_with_a_limit(&services);
        // One client network where clients return, so that all would go to one server.
        let of = |number: u16| match options {
            "sticky" => format!("198.51.100.1:{}", 20_000 + number),
            _ => client(number),
        };
        for number in 0..60 {
            team.receives(usize::from(number) % 4, OUTSIDE, &tcp(&of(number), "192.0.2.1:80", SYN));
        }
        let sent = team.transmitted_on(INSIDE);
        let own = sent.iter().filter(|frame| frame[..6] == limited).count();
        assert_eq!((sent.len(), own), (60, 10), "{options}");
        team.balance();
    }
}

#[test]
fn what_one_worker_has_seen_full_is_full_to_all_until_it_is_below_its_minimum() {
    let (mut team, limited) = team_with_a_limit("192.0.2.1:80 dr 10.0.0.7 10.0.0.8");
    let mut own = Vec::new();
    let mut connect = |team: &mut Team, worker, numbers: std::ops::Range<u16>| {
        let mut met = 0;
        for number in numbers {
            team.receives(worker, OUTSIDE, &tcp(&client(number), "192.0.2.1:80", SYN));
            if team.only_frame_on(INSIDE)[..6] == limited {
                own.push(number);
                met += 1;
            }
        }
        (met, own.clone())
    };
    // All by the first worker; the second hears of it for the first time with six left.
    let (met, own) = connect(&mut team, 0, 0..30);
    assert_eq!(met, 10);
    for (left, expected) in [(6, 0), (4, 6)] {
        for &number in &own[left..] {
            team.receives(0, OUTSIDE, &tcp(&client(number), "192.0.2.1:80", FIN | ACK));
        }
        team.transmitted_on(INSIDE);
        let from = 100 * left as u16;
        assert_eq!(connect(&mut team, 1, from..from + 20).0, expected, "{left} left");
    }
    team.balance();
}

#[test]
fn clients_return_to_their_server_whichever_worker_hears_them() {
    let mut team = Team::serving("192.0.2.1:80 dr sticky 10.0.0.7 10.0.0.8 10.0.0.9", 3);
    for number in 0..50 {
        let of = |port: u16| format!("198.51.100.{}:{port}", number + 1);
        team.receives(0, OUTSIDE, &tcp(&of(1_000), "192.0.2.1:80", SYN));
        let first = team.only_frame_on(INSIDE);
        for worker in 0..3 {
            let port = 2_000 + worker as u16;
            team.receives(worker, OUTSIDE, &tcp(&of(port), "192.0.2.1:80", SYN));
            assert_eq!(team.only_frame_on(INSIDE)[..6], first[..6]);
        }
    }
    team.balance();
}

#[test]
fn an_icmp_error_finds_the_server_of_a_flow_that_only_another_worker_knows() {
    let mut team = Team::serving("192.0.2.1:80 dr 10.0.0.7 10.0.0.8 10.0.0.9", 3);
    for number in 0..12 {
        let client = client(number);
        team.receives(1, OUTSIDE, &tcp(&client, "192.0.2.1:80", SYN));
        let server = team.only_frame_on(INSIDE)[..6].to_vec();
        // The answer that the server sent directly did not fit somewhere.
        let quoted = &tcp("192.0.2.1:80", &client, ACK)[14..42];
        team.receives(2, OUTSIDE, &icmp_error("192.0.2.1", quoted));
        let passed_on = team.only_frame_on(INSIDE);
        assert_eq!(passed_on[..6], server);
        assert_eq!(passed_on[14 + 28..14 + 28 + 28], *quoted);
    }
    team.balance();
}

#[test]
fn a_full_ring_to_another_worker_drops_and_counts() {
    let mut team = Team::serving("192.0.2.1:80 nat 10.0.0.7", 2);
    team.receives(0, OUTSIDE, &syn("192.0.2.1:80"));
    // The other worker never looks.
    for _ in 0..1_100 {
        team.0[1].receives_on(INSIDE, &reply("10.0.0.7:80", CLIENT, ACK));
    }
    assert_eq!(team.0[1].counters.handed_over.get(), 1_024);
    assert_eq!(team.0[1].dropped(Reason::HandOverRingFull), 76);
    assert_eq!(team.0[1].counters.imbalance(), 0);
}
