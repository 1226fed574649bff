//! Every frame that was sent and every frame that came back, each accounted for.
//!
//! A worker is one queue: within a flow, frames arrive in the order in which they were sent, and
//! among all flows the servers chosen follow one configuration after another. So the next number of
//! each flow and the configuration last seen are all that has to be remembered.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::Serialize;

use crate::packet::{self, Kind, Packet, Stamp};
use crate::scenario::{Mode, Scenario, Server, Service};

/// What came of it all.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Frames sent by clients.
    pub sent: u64,
    /// Of these, frames that arrived at a server.
    pub delivered: u64,
    /// Frames sent by servers in answer.
    pub answers_sent: u64,
    /// Of these, frames that arrived at their client.
    pub answers_delivered: u64,
    /// Connections begun.
    pub connections: u64,
    /// Frames that later frames of their flow have overtaken, or that never came.
    pub lost: u64,
    /// Frames still expected.
    pub under_way: u64,
    /// ARP messages from the appliance.
    pub arp: u64,
    /// The configuration that the last frame to tell was forwarded by.
    pub configuration: Option<String>,
    /// How often that changed.
    pub changes: u64,
    /// Frames that were not as they should be.
    pub faults: u64,
    /// The first few of them, in words.
    pub examples: Vec<String>,
    /// Frames at each server of each service.
    pub servers: BTreeMap<String, Vec<u64>>,
}

/// Faults that are put into words.
const EXAMPLES: usize = 8;
/// How many ports a client uses, one after another.
const PORTS: u64 = 8;
/// The first client's address: RFC 2544's range for benchmarks.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

#[derive(Debug, Clone, Default)]
struct Flow {
    service: usize,
    sent: u64,
    delivered: u64,
    answers_delivered: u64,
    /// Which server its connection has.
    server: Option<usize>,
}

/// The books of one run.
pub struct Ledger {
    scenario: Scenario,
    flows: Vec<Flow>,
    /// Flows that send, in the order of their turns.
    senders: Vec<u32>,
    /// Whose turn it is among them.
    turn: usize,
    report: Report,
    spare: Vec<u8>,
}

impl Ledger {
    /// Nothing has been sent yet.
    pub fn new(scenario: Scenario) -> Self {
        let services = scenario.services.iter().enumerate();
        let flows = services.flat_map(|(number, service)| {
            let flow = Flow { service: number, ..Flow::default() };
            vec![flow; service.flows as usize]
        });
        let count = |service: &Service| (service.name.clone(), vec![0; service.servers.len()]);
        let report =
            Report { servers: scenario.services.iter().map(count).collect(), ..Report::default() };
        let mut ledger = Self {
            flows: flows.collect(),
            scenario,
            senders: Vec::new(),
            turn: 0,
            report,
            spare: Vec::new(),
        };
        ledger.admit(|service| !service.later);
        ledger
    }

    /// The clients of this service begin to send; returns how many they are.
    pub fn join(&mut self, name: &str) -> usize {
        self.admit(|service| service.name == name)
    }

    fn admit(&mut self, which: impl Fn(&Service) -> bool) -> usize {
        let Self { flows, senders, scenario, .. } = self;
        let before = senders.len();
        let service = |id: u32| flows[id as usize].service;
        let new = (0..flows.len() as u32).filter(|&id| which(&scenario.services[service(id)]));
        senders.extend(new);
        // Turn and turn about, so that neighbours in time belong to different services.
        let first = |id: u32| flows.partition_point(|flow| flow.service < service(id)) as u32;
        senders.sort_by_key(|&id| (id - first(id), id));
        senders.len() - before
    }

    /// What has come of it so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Whether another frame may be sent now.
    pub fn may_send(&self) -> bool {
        !self.senders.is_empty() && (self.report.under_way as usize) < self.scenario.window
    }

    /// Writes the next frame that a client sends.
    pub fn next(&mut self, frame: &mut Vec<u8>) {
        self.turn = (self.turn + 1) % self.senders.len();
        let flow = self.senders[self.turn];
        let sent = &mut self.flows[flow as usize].sent;
        let stamp = Stamp { flow, number: *sent, answer: false };
        *sent += 1;
        self.report.sent += 1;
        self.report.under_way += 1;
        self.report.connections += u64::from(stamp.begins());
        self.request(stamp).write(frame);
    }

    /// Accounts for a frame on the servers' wire. If it is a request that is to be answered, writes
    /// the answer and returns `true`.
    pub fn at_servers(&mut self, frame: &[u8], answer: &mut Vec<u8>) -> bool {
        let Some((stamp, ends)) = self.stamped(frame) else { return false };
        if stamp.answer {
            self.fault(stamp, "is an answer, but came to the servers");
            return false;
        }
        let flow = &mut self.flows[stamp.flow as usize];
        let Some(passed_over) = stamp.number.checked_sub(flow.delivered) else {
            self.fault(stamp, "came twice, or too late");
            return false;
        };
        flow.delivered = stamp.number + 1;
        if passed_over > 0 || stamp.begins() {
            flow.server = None; // one that was passed over may have begun another connection
        }
        self.report.lost += passed_over;
        self.report.under_way = self.report.under_way.saturating_sub(passed_over + 1);
        self.report.delivered += 1;

        match self.check_request(stamp, ends, frame) {
            Ok(server) => self.answer(stamp, server, answer),
            Err(wrong) => {
                self.fault(stamp, &wrong);
                false
            }
        }
    }

    /// Accounts for a frame on the clients' wire.
    pub fn at_clients(&mut self, frame: &[u8]) {
        let Some((stamp, _)) = self.stamped(frame) else { return };
        if !stamp.answer {
            return self.fault(stamp, "is a request, but came to the clients");
        }
        let flow = &mut self.flows[stamp.flow as usize];
        let Some(passed_over) = stamp.number.checked_sub(flow.answers_delivered) else {
            return self.fault(stamp, "came twice, or too late");
        };
        flow.answers_delivered = stamp.number + 1;
        self.report.lost += passed_over;
        self.report.under_way = self.report.under_way.saturating_sub(passed_over + 1);
        self.report.answers_delivered += 1;

        let request = self.request(stamp);
        let clients = &self.scenario.clients;
        let expected = Packet {
            macs: [clients.appliance, clients.gateway],
            source: request.destination,
            destination: request.source,
            ..request
        };
        if let Err(wrong) = expected.check(frame, &mut self.spare) {
            self.fault(stamp, &wrong);
        }
    }

    /// The stamp of a frame and the addresses of its outermost IP header, if it is one of ours.
    fn stamped(&mut self, frame: &[u8]) -> Option<(Stamp, [Ipv4Addr; 2])> {
        match packet::kind(frame) {
            Kind::Stamped(stamp, ends) if (stamp.flow as usize) < self.flows.len() => {
                return Some((stamp, ends));
            }
            Kind::Arp => self.report.arp += 1,
            Kind::Stamped(..) | Kind::Other => {
                let start = &frame[..frame.len().min(64)];
                self.describe(|| format!("a frame that nobody sent: {start:02x?}"));
            }
        }
        None
    }

    /// Which server a request has come to, if everything about it is as it should be.
    fn check_request(
        &mut self,
        stamp: Stamp,
        ends: [Ipv4Addr; 2],
        frame: &[u8],
    ) -> Result<usize, String> {
        let service = &self.scenario.services[self.flows[stamp.flow as usize].service];
        let mac: [u8; 6] = frame[..6].try_into().expect("a stamp stands behind longer headers");
        // Hardware addresses tell servers apart in every mode, so a frame cannot pass for another's.
        let found = match service.mode {
            Mode::Wire => Some(0),
            _ => service.servers.iter().position(|server| server.mac == mac),
        };
        let found = found.ok_or_else(|| format!("went to {mac:02x?}, which is no server's"))?;
        let server = &service.servers[found];

        let sent = self.request(stamp);
        let expected = self.as_server_expects(sent, service, server);
        let outer = [self.scenario.servers.appliance_address, server.address];
        match service.mode {
            Mode::Tun if ends == outer => {
                expected.check_inside(outer, frame, &mut self.spare)?;
            }
            Mode::Tun => return Err(format!("travels from {} to {}", ends[0], ends[1])),
            Mode::Wire | Mode::Dr | Mode::Nat => expected.check(frame, &mut self.spare)?,
        }

        if let Some(only) = &server.only_in
            && self.report.configuration.as_ref() != Some(only)
        {
            self.report.changes += u64::from(self.report.configuration.is_some());
            self.report.configuration = Some(only.clone());
        }
        let before = self.flows[stamp.flow as usize].server.replace(found);
        if let Some(before) = before.filter(|before| *before != found && service.sticky) {
            return Err(format!("changed its server from number {before} to number {found}"));
        }
        if let Some(count) =
            self.report.servers.get_mut(&service.name).and_then(|servers| servers.get_mut(found))
        {
            *count += 1;
        }
        Ok(found)
    }

    /// What a client sends.
    fn request(&self, stamp: Stamp) -> Packet {
        let service = &self.scenario.services[self.flows[stamp.flow as usize].service];
        let client = Ipv4Addr::from_bits(CLIENTS.to_bits() + stamp.flow);
        let port = 20_000 + (stamp.connection() % PORTS) as u16;
        Packet {
            macs: [self.scenario.clients.gateway, self.scenario.clients.appliance],
            source: SocketAddrV4::new(client, port),
            destination: SocketAddrV4::new(service.address, service.port),
            protocol: service.protocol,
            stamp,
        }
    }

    fn as_server_expects(&self, sent: Packet, service: &Service, server: &Server) -> Packet {
        let macs = [self.scenario.servers.appliance, server.mac];
        let port = server.port.unwrap_or(service.port);
        match service.mode {
            Mode::Wire => sent,
            Mode::Dr | Mode::Tun => Packet { macs, ..sent },
            Mode::Nat => {
                Packet { macs, destination: SocketAddrV4::new(server.address, port), ..sent }
            }
        }
    }

    fn answer(&mut self, stamp: Stamp, server: usize, frame: &mut Vec<u8>) -> bool {
        let service = &self.scenario.services[self.flows[stamp.flow as usize].service];
        if service.mode != Mode::Nat {
            return false;
        }
        let server = &service.servers[server];
        let asked = self.as_server_expects(self.request(stamp), service, server);
        let answer = Packet {
            macs: [server.mac, self.scenario.servers.appliance],
            source: asked.destination,
            destination: asked.source,
            stamp: Stamp { answer: true, ..stamp },
            ..asked
        };
        answer.write(frame);
        self.report.answers_sent += 1;
        self.report.under_way += 1;
        true
    }

    /// What is still under way will not come any more.
    pub fn give_up(&mut self) {
        self.report.lost += std::mem::take(&mut self.report.under_way);
    }

    fn fault(&mut self, stamp: Stamp, wrong: &str) {
        let service = self.flows[stamp.flow as usize].service;
        let name = self.scenario.services[service].name.clone();
        let Stamp { flow, number, answer } = stamp;
        let what = if answer { "answer" } else { "request" };
        self.describe(|| format!("{name}: {what} {number} of flow {flow} {wrong}"));
    }

    fn describe(&mut self, words: impl FnOnce() -> String) {
        self.report.faults += 1;
        if self.report.examples.len() < EXAMPLES {
            self.report.examples.push(words());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A service in each mode, with two servers each; those of the first are in one configuration
    /// each.
    fn scenario() -> Scenario {
        let side = |number: u8| {
            json!({
                "socket": "nowhere", "appliance": [2, 0, 0, 0, number, 2],
                "appliance_address": format!("10.{number}.0.2"), "gateway": [2, 0, 0, 0, number, 1],
            })
        };
        let service = |(number, (mode, protocol)): (u8, (&str, &str))| {
            let server = |(at, only): (u8, &str)| {
                json!({
                    "address": format!("10.2.0.{at}"), "mac": [2, 0, 0, 1, number, at],
                    "port": (mode == "nat").then_some(8080),
                    "only_in": (number == 0).then_some(only),
                })
            };
            let servers = [(11, "a"), (12, "b")].map(server);
            json!({
                "name": format!("{mode}-{protocol}"), "mode": mode, "protocol": protocol,
                "address": format!("10.1.0.{}", 100 + number), "port": 80, "flows": 2,
                "sticky": number > 0, "servers": servers,
            })
        };
        let kinds = [("dr", "udp"), ("dr", "tcp"), ("nat", "udp"), ("nat", "tcp"), ("tun", "tcp")];
        let services: Vec<_> = (0..).zip(kinds).map(service).collect();
        let whole = json!({
            "core": 0, "window": 64, "clients": side(1), "servers": side(2), "services": services,
        });
        serde_json::from_value(whole).expect("a scenario")
    }

    /// What the appliance makes of a client's frame.
    fn forwarded(ledger: &Ledger, frame: &[u8], server: usize) -> Vec<u8> {
        let Kind::Stamped(stamp, _) = packet::kind(frame) else { panic!("not ours: {frame:?}") };
        let service = &ledger.scenario.services[ledger.flows[stamp.flow as usize].service];
        let server = &service.servers[server];
        let mut out = Vec::new();
        ledger.as_server_expects(ledger.request(stamp), service, server).write(&mut out);
        if service.mode == Mode::Tun {
            let source = ledger.scenario.servers.appliance_address.octets();
            let (length, target) = ((out.len() - 14) as u16, server.address.octets());
            let mut outer =
                etherparse::Ipv4Header::new(length, 64, 4.into(), source, target).unwrap();
            outer.dont_fragment = stamp.dont_fragment();
            outer.identification = 4711;
            outer.header_checksum = outer.calc_header_checksum();
            out.splice(14..14, outer.to_bytes());
        }
        out
    }

    fn next(ledger: &mut Ledger) -> Vec<u8> {
        let mut frame = Vec::new();
        ledger.next(&mut frame);
        frame
    }

    /// Sends the next frame to `server` and returns what arrived there.
    fn deliver(ledger: &mut Ledger, server: usize) -> Vec<u8> {
        let sent = next(ledger);
        let arrived = forwarded(ledger, &sent, server);
        ledger.at_servers(&arrived, &mut Vec::new());
        arrived
    }

    #[test]
    fn frames_that_arrive_as_they_should_are_all_accounted_for() {
        let mut ledger = Ledger::new(scenario());
        for _ in 0..5000 {
            let sent = next(&mut ledger);
            let mut answer = Vec::new();
            let arrived = forwarded(&ledger, &sent, 0);
            if ledger.at_servers(&arrived, &mut answer) {
                let Kind::Stamped(stamp, _) = packet::kind(&answer) else { panic!("not ours") };
                let request = ledger.request(stamp);
                let back = Packet {
                    macs: [[2, 0, 0, 0, 1, 2], [2, 0, 0, 0, 1, 1]],
                    source: request.destination,
                    destination: request.source,
                    ..request
                };
                back.write(&mut answer);
                ledger.at_clients(&answer);
            }
        }
        let report = ledger.report();
        assert_eq!(report.examples, [""; 0]);
        assert_eq!((report.faults, report.lost, report.under_way), (0, 0, 0));
        assert_eq!((report.sent, report.delivered), (5000, 5000));
        assert_eq!((report.answers_sent, report.answers_delivered), (2000, 2000));
    }

    #[test]
    fn a_frame_with_any_byte_changed_is_a_fault() {
        let mut ledger = Ledger::new(scenario());
        for _ in 0..40 {
            let sent = next(&mut ledger);
            let right = forwarded(&ledger, &sent, 0);
            for at in 0..right.len() {
                let mut wrong = right.clone();
                wrong[at] ^= 1;
                let mut fresh = Ledger::new(scenario());
                while next(&mut fresh) != sent {}
                fresh.at_servers(&wrong, &mut Vec::new());
                assert_eq!(fresh.report().faults, 1, "byte {at} of {right:02x?}");
            }
        }
    }

    #[test]
    fn a_frame_that_never_comes_is_lost() {
        let mut ledger = Ledger::new(scenario());
        for _ in 0..10 {
            next(&mut ledger); // the first of each flow
        }
        for _ in 0..10 {
            deliver(&mut ledger, 0);
        }
        assert_eq!((ledger.report().lost, ledger.report().under_way), (10, 4));
        next(&mut ledger);
        ledger.give_up();
        assert_eq!((ledger.report().lost, ledger.report().under_way), (15, 0));
    }

    #[test]
    fn a_frame_that_comes_twice_is_a_fault() {
        let mut ledger = Ledger::new(scenario());
        let arrived = deliver(&mut ledger, 0);
        assert_eq!(ledger.report().faults, 0);
        ledger.at_servers(&arrived, &mut Vec::new());
        assert_eq!(ledger.report().faults, 1);
    }

    #[test]
    fn a_flow_that_changes_its_server_in_mid_connection_is_a_fault() {
        let mut ledger = Ledger::new(scenario());
        for _ in 0..10 {
            deliver(&mut ledger, 0);
        }
        for _ in 0..10 {
            deliver(&mut ledger, 1);
        }
        // All but the two flows of the service that may.
        assert_eq!(ledger.report().faults, 8);
    }

    #[test]
    fn a_change_of_configuration_is_noticed_once() {
        let mut ledger = Ledger::new(scenario());
        for server in [0, 0, 1, 1, 0] {
            for _ in 0..10 {
                let moving = ledger.flows[ledger.senders[(ledger.turn + 1) % 10] as usize].service;
                deliver(&mut ledger, if moving == 0 { server } else { 0 });
            }
        }
        assert_eq!(ledger.report().changes, 2);
        assert_eq!(ledger.report().configuration.as_deref(), Some("a"));
        assert_eq!(ledger.report().faults, 0);
    }
}
