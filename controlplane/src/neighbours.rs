//! Whose hardware address is this, and who asks for ours: ARP (RFC 826) with conflict detection
//! (RFC 5227) and neighbour discovery (RFC 4861), as one state machine over frames and time. Nothing here
//! sends or sleeps: [`Neighbours::next_frame`] gives what is to be sent.
//!
//! - Requests are answered for our own and the virtual addresses, on the interface whose subnet holds
//!   the address, and for nothing else (AR-01).
//! - Servers and gateways are *wanted*: asked for at once, asked again before what is known grows old, and
//!   never given up. Other stations are asked for when a worker has a frame for them (*dynamic*).
//! - Only stations that we asked for are learnt; a gratuitous ARP or an unsolicited advertisement changes a
//!   known entry and makes none.
//! - Our own addresses are asked for before they count as ours ([`claims`]); virtual ones are announced at once.
//! - An address means something on its interface alone: two VLANs may use the same ones.

mod arp;

mod discovery;

mod claims;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::snapshot::{InterfaceId, Neighbours as Known};
use dataplane::wire::{Address, Mac, Prefix};
use tracing::{error, info, warn};

use self::arp::Operation;
use self::claims::{Claims, Task};
use self::discovery::Kind as Discovery;
pub use self::discovery::TYPES as DISCOVERY;
use crate::icmpv6;

/// How many stations are known at once, besides servers, gateways and configured ones.
pub const MOST_DYNAMIC: usize = 4096;
/// How many of those may be asked for at once, so that a scan of a subnet does not flood it.
const MOST_QUESTIONS: usize = 256;
/// Between a request and the next for the same station (RFC 1122 section 2.3.2.1: one a second at most;
/// RFC 4861 section 10: RETRANS_TIMER).
const REPEAT: Duration = Duration::from_secs(1);
/// Requests before a station counts as absent; a known one gets as many to its own address first.
const TRIES: u32 = 3;
/// How long an answer is good without another (RFC 4861 section 10: REACHABLE_TIME).
const FRESH: Duration = Duration::from_secs(30);
/// The longest pause between requests for a wanted station that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A dynamic station is forgotten this long after a worker last asked for it.
const REMEMBERED: Duration = Duration::from_secs(600);
/// A second answer that differs is not believed so soon after the first.
const SETTLED: Duration = Duration::from_secs(1);
/// Between two defences of an address (RFC 5227 section 2.4).
const DEFENCE: Duration = Duration::from_secs(10);
/// Announcements of a new address (RFC 5227 section 2.3 asks for two, RFC 4861 section 10 allows three).
const ANNOUNCEMENTS: u32 = 3;
/// Between the first requests for many wanted stations.
const SPREAD: Duration = Duration::from_micros(100);
/// Frames that wait to be sent, at most.
const LONGEST_QUEUE: usize = 32_768;
/// Stations that one [`Neighbours::tick`] does something about, and as many announcements; what is left
/// waits for the next, so that a large configuration does not hold the control thread up.
const MOST_AT_ONCE: usize = 1024;
/// The prefix of link-local addresses (RFC 4291 section 2.5.6).
const LINK_LOCAL: u128 = 0xfe80 << 112;

/// What we are on each interface, and whom we need.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// By [`InterfaceId`].
    pub interfaces: Vec<Own>,
    /// Servers and gateways: the next station on each way.
    pub wanted: Vec<(InterfaceId, Address)>,
    /// Stations whose hardware address the operator gives.
    pub fixed: Vec<(InterfaceId, Address, Mac)>,
}

/// What we are on one interface.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Our hardware address.
    pub mac: Mac,
    /// Our addresses with their subnets, where IPv6 is spoken the [`link_local`] one among them.
    pub addresses: Vec<Prefix>,
    /// The virtual addresses in those subnets, and those that translation gives to what leaves there.
    pub virtual_addresses: Vec<Address>,
    /// Nobody listens there: nothing is announced.
    pub quiet: bool,
}

impl Own {
    fn answers_for(&self) -> impl Iterator<Item = Address> {
        let own = self.addresses.iter().map(|subnet| subnet.address());
        own.chain(self.virtual_addresses.iter().copied())
    }

    /// Our address in the subnet that holds `station`.
    fn address_towards(&self, station: Address) -> Option<Address> {
        self.addresses.iter().find(|subnet| subnet.contains(station)).map(|own| own.address())
    }
}

/// The address that an interface with this hardware address has on its own link, in fe80::/64 (RFC 4291
/// appendix A).
pub fn link_local(mac: Mac) -> Address {
    let [a, b, c, d, e, f] = mac.0;
    let identifier = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Address::from_bits(LINK_LOCAL | u128::from(identifier))
}

type Key = (InterfaceId, Address);

/// Why a station is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The operator gave its hardware address.
    Fixed,
    /// It is a server or a gateway.
    Wanted,
    /// A worker had a frame for it.
    Dynamic,
}

impl Kind {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fixed => "static",
            Self::Wanted => "wanted",
            Self::Dynamic => "dynamic",
        }
    }
}

/// What is known of a station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The operator says so.
    Fixed,
    /// It was asked for and has not answered yet.
    Resolving,
    /// It answered lately.
    Reachable,
    /// Its answer has grown old, and it is being asked again; what is known stays in use.
    Stale,
    /// It does not answer.
    Failed,
}

impl State {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fixed => "static",
            Self::Resolving => "resolving",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    kind: Kind,
    state: State,
    mac: Option<Mac>,
    /// Requests since the last answer.
    tries: u32,
    /// When it was last heard of.
    confirmed: Option<Moment>,
    /// When its hardware address was last taken from what it said.
    taken: Option<Moment>,
    /// When a worker last asked for it.
    wanted_at: Moment,
    /// When something is to be done about it.
    due: Option<Moment>,
}

/// A station as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The interface that it is on.
    pub interface: InterfaceId,
    /// Its address.
    pub address: Address,
    /// Its hardware address, if it is known.
    pub mac: Option<Mac>,
    /// What is known of it.
    pub state: State,
    /// Time since it was last heard of.
    pub age: Option<Duration>,
    /// Why it is in the table.
    pub kind: Kind,
}

/// What came in that was of no use, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ignored {
    /// ARP.
    pub arp: Tally,
    /// Neighbour discovery.
    pub discovery: Tally,
    /// A worker's question that found too many under way, or an address on no subnet of ours.
    pub questions: u64,
}

/// What came in by one protocol that was of no use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Too short or damaged, or not what the protocol's documents ask for.
    pub malformed: u64,
    /// The sender's hardware address is not that of the frame, or no station's; or a router passed it on.
    pub forged: u64,
    /// The sender is not on the interface's subnets.
    pub stranger: u64,
    /// The sender claims one of our addresses.
    pub conflict: u64,
}

/// An address of ours that is not used any more, or is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The address.
    pub address: Address,
    /// The station that has it; `None` if no other one does any more.
    pub held_by: Option<Mac>,
}

/// The table of stations on our subnets, and what we say there ourselves.
pub struct Neighbours {
    interfaces: Vec<Own>,
    /// What is answered for.
    ours: HashSet<Key>,
    claims: Claims,
    entries: HashMap<Key, Entry>,
    due: BTreeSet<(Moment, Key)>,
    dynamic: usize,
    questions: usize,
    announcements: VecDeque<(Moment, Key, u32)>,
    defended: HashMap<Key, Moment>,
    conflict: Option<(Address, Mac)>,
    /// What has become of addresses of ours since that was last asked for.
    turns: Vec<Turn>,
    frames: VecDeque<(InterfaceId, Vec<u8>)>,
    changed: bool,
    ignored: Ignored,
    random: u64,
}

impl Neighbours {
    /// An empty table; `seed` spreads requests over time.
    pub fn new(seed: u64) -> Self {
        Self {
            interfaces: Vec::new(),
            ours: HashSet::new(),
            claims: Claims::default(),
            entries: HashMap::new(),
            due: BTreeSet::new(),
            dynamic: 0,
            questions: 0,
            announcements: VecDeque::new(),
            defended: HashMap::new(),
            conflict: None,
            turns: Vec::new(),
            frames: VecDeque::new(),
            changed: false,
            ignored: Ignored::default(),
            random: seed | 1,
        }
    }

    /// Takes up another configuration. What is known of stations that are still of use stays.
    pub fn configure(&mut self, now: Moment, plan: Plan) {
        let addresses = |interfaces: &[Own]| -> HashSet<Key> {
            let of = |(index, own): (usize, &Own)| {
                own.answers_for()
                    .map(move |address| (InterfaceId(index as u8), address))
                    .collect::<Vec<_>>()
            };
            interfaces.iter().enumerate().flat_map(of).collect()
        };
        let before = addresses(&self.interfaces);
        self.interfaces = plan.interfaces;
        self.ours = addresses(&self.interfaces);
        let mut new: Vec<Key> = self.ours.difference(&before).copied().collect();
        new.sort_unstable();
        self.claim(now);
        self.announcements.retain(|(_, key, _)| self.ours.contains(key));
        self.defended.retain(|key, _| self.ours.contains(key));
        let is_heard = |(interface, _): &Key| self.own(*interface).is_some_and(|own| !own.quiet);
        let is_asked_for = |key: &Key| self.claims.is_probing(key);
        let new: Vec<_> =
            new.into_iter().filter(|key| is_heard(key) && !is_asked_for(key)).collect();
        // In front, because the queue is in order of time and everything else is due now or later.
        for key in new.into_iter().rev() {
            self.announcements.push_front((now, key, ANNOUNCEMENTS));
        }
        self.replace_entries(now, &plan.wanted, &plan.fixed);
    }

    /// Asks for those of our own addresses that are new, and leaves out those that others have.
    fn claim(&mut self, now: Moment) {
        let interfaces = (0..).map(InterfaceId).zip(&self.interfaces);
        let own = interfaces.flat_map(|(id, own)| {
            let addresses = own.addresses.iter().map(|subnet| subnet.address());
            // What is a virtual address too must be there at once.
            let alone = addresses.filter(|address| !own.virtual_addresses.contains(address));
            alone.map(move |address| (id, address))
        });
        let own: HashSet<Key> = own.collect();
        let interfaces = &self.interfaces;
        let is_quiet = |(interface, _): &Key| {
            interfaces.get(usize::from(interface.0)).is_some_and(|own| own.quiet)
        };
        self.claims.configure(now, &own, is_quiet);
        let claims = &self.claims;
        self.ours.retain(|key| !claims.is_duplicate(key));
    }

    /// Another station has an address of ours that we asked for: it is neither used nor answered for until a
    /// later question remains without an answer.
    fn lose(&mut self, now: Moment, key: Key, mac: Mac) {
        if self.claims.lose(now, key) {
            error!(address = %key.1, %mac, "another station has an address of ours: it is not used");
            self.turns.push(Turn { address: key.1, held_by: Some(mac) });
        }
        self.ours.remove(&key);
        self.announcements.retain(|(_, other, _)| *other != key);
    }

    fn replace_entries(
        &mut self,
        now: Moment,
        wanted: &[Key],
        fixed: &[(InterfaceId, Address, Mac)],
    ) {
        let fixed: HashMap<Key, Mac> =
            fixed.iter().map(|&(interface, address, mac)| ((interface, address), mac)).collect();
        let wanted: HashSet<Key> =
            wanted.iter().copied().filter(|key| !fixed.contains_key(key)).collect();
        let old: Vec<Key> = self.entries.keys().copied().collect();
        for key in old {
            let kind = self.entries[&key].kind;
            let keep = self.may_be_a_station(key)
                && !fixed.contains_key(&key)
                && (wanted.contains(&key) == (kind == Kind::Wanted))
                && kind != Kind::Fixed;
            if keep {
                continue;
            }
            // A station that changes its role keeps what is known of it.
            let entry = self.remove(key);
            if let Some(mut entry) =
                entry.filter(|entry| wanted.contains(&key) && entry.kind == Kind::Dynamic)
            {
                entry.kind = Kind::Wanted;
                self.insert(key, entry);
            }
        }
        for (key, mac) in fixed {
            let entry = Entry {
                kind: Kind::Fixed,
                state: State::Fixed,
                mac: Some(mac),
                tries: 0,
                confirmed: None,
                taken: None,
                wanted_at: now,
                due: None,
            };
            self.insert(key, entry);
            self.changed = true;
        }
        let mut missing: Vec<Key> =
            wanted.into_iter().filter(|key| !self.entries.contains_key(key)).collect();
        missing.sort_unstable();
        for (number, key) in (0..).zip(missing) {
            self.insert(key, Entry::asked_for(Kind::Wanted, now, now.plus(SPREAD * number)));
        }
    }

    /// Takes in a message that came in on `interface`, of ARP or of neighbour discovery: a whole frame.
    pub fn receive(&mut self, now: Moment, interface: InterfaceId, frame: &[u8]) {
        let Some(our_mac) = self.own(interface).map(|own| own.mac) else { return };
        match icmpv6::kind(frame) {
            Some(_) => self.receive_discovery(now, interface, our_mac, frame),
            None => self.receive_arp(now, interface, our_mac, frame),
        }
    }

    fn receive_arp(&mut self, now: Moment, interface: InterfaceId, our_mac: Mac, frame: &[u8]) {
        let message = match arp::Message::read(frame) {
            Ok(message) => message,
            Err(arp::Useless::Malformed) => return self.ignored.arp.malformed += 1,
            Err(arp::Useless::Forged) => return self.ignored.arp.forged += 1,
        };
        if message.sender_mac == our_mac {
            return; // our own announcement, heard again
        }
        let sender = (interface, message.sender.into());
        let is_probe = message.sender.is_unspecified(); // RFC 5227 section 1.1
        let claimed = if is_probe { (interface, message.target.into()) } else { sender };
        if self.claims.is_probing(&claimed) {
            self.ignored.arp.conflict += 1;
            return self.lose(now, claimed, message.sender_mac);
        }
        if self.ours.contains(&sender) {
            self.ignored.arp.conflict += 1;
            return self.defend(now, sender, message.sender_mac);
        }
        if !is_probe && !self.may_be_a_station(sender) {
            return self.ignored.arp.stranger += 1;
        }
        if !is_probe {
            self.hear(now, sender, message.sender_mac, true);
        }
        if message.operation == Operation::Request
            && self.ours.contains(&(interface, message.target.into()))
        {
            let answer = arp::Message::answering(&message, our_mac);
            self.send(interface, answer.frame(message.sender_mac));
        }
    }

    fn receive_discovery(
        &mut self,
        now: Moment,
        interface: InterfaceId,
        our_mac: Mac,
        frame: &[u8],
    ) {
        let message = match discovery::Message::read(frame) {
            Ok(message) => message,
            Err(discovery::Useless::Malformed) => return self.ignored.discovery.malformed += 1,
            Err(discovery::Useless::Forged) => return self.ignored.discovery.forged += 1,
            Err(discovery::Useless::Other) => return,
        };
        if message.from == our_mac || message.mac == Some(our_mac) {
            return; // our own, heard again
        }
        let target = (interface, message.target);
        let claimed = match message.kind {
            // RFC 4862 section 5.4.3: it is being asked for by another station as well.
            Discovery::Solicitation
                if message.source == icmpv6::UNSPECIFIED && self.claims.is_probing(&target) =>
            {
                target
            }
            Discovery::Solicitation => (interface, message.source),
            Discovery::Advertisement { .. } => target,
        };
        if self.claims.is_probing(&claimed) {
            self.ignored.discovery.conflict += 1;
            return self.lose(now, claimed, message.mac.unwrap_or(message.from));
        }
        if self.ours.contains(&claimed) {
            self.ignored.discovery.conflict += 1;
            return self.defend(now, claimed, message.mac.unwrap_or(message.from));
        }
        match message.kind {
            Discovery::Solicitation => {
                // RFC 4861 section 7.2.3: it says where the asker is, not that it hears us.
                if let Some(mac) = message.mac.filter(|&mac| self.mac_of(claimed) != Some(mac)) {
                    self.hear(now, claimed, mac, false);
                }
                if self.ours.contains(&target) {
                    self.send(interface, discovery::Message::answering(&message, our_mac));
                }
            }
            Discovery::Advertisement { .. } if !self.may_be_a_station(target) => {
                self.ignored.discovery.stranger += 1;
            }
            Discovery::Advertisement { solicited, overrides } => {
                self.advertised(now, target, message.mac, solicited, overrides);
            }
        }
    }

    /// What an advertisement changes (RFC 4861 section 7.2.5).
    fn advertised(
        &mut self,
        now: Moment,
        key: Key,
        mac: Option<Mac>,
        solicited: bool,
        overrides: bool,
    ) {
        let Some(entry) = self.entries.get(&key) else { return };
        let known = entry.mac;
        let Some(mac) = mac.or(known) else { return };
        let differs = known.is_some_and(|known| known != mac);
        if differs && !overrides {
            // Something is wrong with what is known, but this is not to replace it: ask.
            if entry.state == State::Reachable && entry.may_change(now) {
                self.enter(key, State::Stale, now);
            }
        } else if known != Some(mac) || solicited {
            self.hear(now, key, mac, solicited);
        }
    }

    /// Whether a station was asked for as often as it is at first, and has not answered.
    pub fn is_absent(&self, key: Key) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.state == State::Failed)
    }

    /// The hardware address of a station, if it is known.
    pub fn mac_of(&self, key: Key) -> Option<Mac> {
        self.entries.get(&key)?.mac
    }

    /// A packet of our own waits for a station. One that did not answer the last time is asked at once: it may have come
    /// back. To be called once in [`REPEAT`] for each station at most.
    pub fn awaited(&mut self, now: Moment, interface: InterfaceId, address: Address) {
        let key = (interface, address);
        match self.entries.get(&key) {
            Some(Entry { state: State::Failed, kind: Kind::Wanted, .. }) => {
                self.enter(key, State::Failed, now);
            }
            _ => self.unresolved(now, interface, address),
        }
    }

    /// Notes what a known station says of itself. Unless that is `confirmed`, it is used, but the station
    /// is asked at once.
    fn hear(&mut self, now: Moment, key: Key, mac: Mac, confirmed: bool) {
        let fresh = FRESH.mul_f64(0.75 + 0.25 * self.fraction());
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let differs = entry.mac.is_some_and(|known| known != mac);
        if entry.kind == Kind::Fixed || (differs && !entry.may_change(now)) {
            return;
        }
        self.changed |= entry.mac != Some(mac);
        entry.mac = Some(mac);
        entry.taken = Some(now);
        entry.tries = 0;
        if confirmed {
            entry.confirmed = Some(now);
            self.enter(key, State::Reachable, now.plus(fresh));
        } else {
            self.enter(key, State::Stale, now);
        }
    }

    /// The first address of ours that somebody has claimed since the last call, and who.
    pub fn take_conflict(&mut self) -> Option<(Address, Mac)> {
        self.conflict.take()
    }

    /// The addresses of ours that are not used any more, or again, since the last call. There are few: an address is
    /// asked for again a minute after it was lost.
    pub fn take_turns(&mut self) -> Vec<Turn> {
        std::mem::take(&mut self.turns)
    }

    /// Somebody claims an address of ours: say once more whose it is, but not without end.
    fn defend(&mut self, now: Moment, key: Key, mac: Mac) {
        if self.defended.get(&key).is_some_and(|last| now.since(*last) < DEFENCE) {
            return;
        }
        self.defended.insert(key, now);
        warn!(address = %key.1, %mac, "another station claims an address of ours");
        self.conflict.get_or_insert((key.1, mac));
        self.announce(key);
    }

    /// Whether the address is in a subnet of the interface (the link's own is one) and not ours.
    fn may_be_a_station(&self, key: Key) -> bool {
        let near = self.own(key.0).and_then(|own| own.address_towards(key.1));
        near.is_some() && !self.ours.contains(&key)
    }

    /// A worker has a frame for a station that it does not know.
    pub fn unresolved(&mut self, now: Moment, interface: InterfaceId, address: Address) {
        let key = (interface, address);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.wanted_at = now;
            if entry.state == State::Failed && entry.kind == Kind::Dynamic {
                entry.tries = 0;
                self.enter(key, State::Resolving, now);
            }
            return;
        }
        if !self.may_be_a_station(key) || self.questions >= MOST_QUESTIONS {
            return self.ignored.questions += 1;
        }
        if self.dynamic >= MOST_DYNAMIC {
            self.forget_one();
        }
        self.insert(key, Entry::asked_for(Kind::Dynamic, now, now));
    }

    /// Makes room: the dynamic station that was asked for longest ago goes, absent ones first.
    fn forget_one(&mut self) {
        let dynamic = self.entries.iter().filter(|(_, entry)| entry.kind == Kind::Dynamic);
        let least =
            dynamic.min_by_key(|(_, entry)| (entry.state != State::Failed, entry.wanted_at));
        if let Some(key) = least.map(|(&key, _)| key) {
            self.remove(key);
        }
    }

    /// An answer to something that we sent has come from a station or through it, so that it is there (RFC 4861
    /// section 7.3.1). To be called as often as one likes.
    pub fn confirm(&mut self, now: Moment, interface: InterfaceId, address: Address) {
        let key = (interface, address);
        let Some(entry) = self.entries.get(&key) else { return };
        let is_in_use = matches!(entry.state, State::Reachable | State::Stale);
        let is_news = entry.confirmed.is_none_or(|last| now.since(last) >= REPEAT);
        if let Some(mac) = entry.mac.filter(|_| is_in_use && is_news) {
            let taken = entry.taken;
            self.hear(now, key, mac, true);
            // Of its hardware address this says nothing.
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.taken = taken;
            }
        }
    }

    /// The addresses of ours that are not to be used, because other stations have them.
    pub fn duplicates(&self) -> Vec<(InterfaceId, Address)> {
        let mut duplicates: Vec<_> = self.claims.duplicates().collect();
        duplicates.sort_unstable();
        duplicates
    }

    /// Does what is due: asks, asks again, gives up, announces.
    pub fn tick(&mut self, now: Moment) {
        for _ in 0..MOST_AT_ONCE {
            let Some(&(due, key)) = self.due.first().filter(|(due, _)| *due <= now) else { break };
            self.due.remove(&(due, key));
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.due = None;
                self.act(now, key);
            }
        }
        for _ in 0..MOST_AT_ONCE {
            let Some(task) = self.claims.next_task(now) else { break };
            match task {
                Task::Ask(key) => self.ask_for_ours(key),
                Task::Announce(key) => {
                    if self.ours.insert(key) {
                        info!(address = %key.1, "no other station has it any more: it is used again");
                        self.turns.push(Turn { address: key.1, held_by: None });
                    }
                    self.announcements.push_front((now, key, ANNOUNCEMENTS));
                }
            }
        }
        for _ in 0..MOST_AT_ONCE {
            let next = self.announcements.front().filter(|(due, ..)| *due <= now);
            let Some(&(_, key, left)) = next else { break };
            self.announcements.pop_front();
            self.announce(key);
            if left > 1 {
                self.announcements.push_back((now.plus(REPEAT), key, left - 1));
            }
        }
    }

    fn act(&mut self, now: Moment, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let forgotten = entry.kind == Kind::Dynamic
            && (entry.state == State::Failed || now.since(entry.wanted_at) >= REMEMBERED);
        if forgotten {
            self.remove(key);
            return;
        }
        let asked = entry.tries;
        entry.tries = entry.tries.saturating_add(1);
        let known = entry.mac;
        match entry.state {
            State::Fixed => {}
            State::Resolving if asked < TRIES => {
                self.ask(key, None);
                self.enter(key, State::Resolving, now.plus(REPEAT));
            }
            // First to the address that it had, then to all.
            State::Reachable | State::Stale if asked < 2 * TRIES => {
                self.ask(key, known.filter(|_| asked < TRIES));
                self.enter(key, State::Stale, now.plus(REPEAT));
            }
            State::Resolving | State::Reachable | State::Stale => {
                entry.mac = None;
                entry.tries = 0;
                self.changed |= known.is_some();
                self.enter(key, State::Failed, now.plus(REPEAT * 2));
            }
            State::Failed => {
                self.ask(key, None);
                let pause = (REPEAT * 2).saturating_mul(1 << asked.min(10)).min(LONGEST_PAUSE);
                self.enter(key, State::Failed, now.plus(pause));
            }
        }
    }

    /// Asks for a station at its hardware address, or everybody.
    fn ask(&mut self, (interface, address): Key, known: Option<Mac>) {
        let Some(own) = self.own(interface) else { return };
        let is_usable = |from: &Address| !self.claims.is_duplicate(&(interface, *from));
        let near = own.addresses.iter().filter(|subnet| subnet.contains(address));
        let mut near = near.map(|subnet| subnet.address()).filter(is_usable);
        let frame = match address.v4() {
            Some(address) => {
                // Without an address one can still ask: such a question is answered, too.
                let from = near.next().and_then(Address::v4).unwrap_or(Ipv4Addr::UNSPECIFIED);
                let request = arp::Message::asking(own.mac, from, address);
                request.frame(known.unwrap_or(Mac::BROADCAST))
            }
            None => {
                let all = own.addresses.iter().map(|subnet| subnet.address());
                let mut others = all.filter(|it| !it.is_v4() && is_usable(it));
                let Some(from) = near.next().or_else(|| others.next()) else { return };
                discovery::Message::asking(own.mac, from, address, known)
            }
        };
        self.send(interface, frame);
    }

    /// Asks whether anybody has an address of ours.
    fn ask_for_ours(&mut self, (interface, address): Key) {
        let Some(own) = self.own(interface) else { return };
        let frame = match address.v4() {
            Some(address) => {
                let probe = arp::Message::asking(own.mac, Ipv4Addr::UNSPECIFIED, address);
                probe.frame(Mac::BROADCAST)
            }
            None => discovery::Message::probing(own.mac, address),
        };
        self.send(interface, frame);
    }

    fn announce(&mut self, (interface, address): Key) {
        let Some(own) = self.own(interface) else { return };
        let frame = match address.v4() {
            Some(address) => arp::Message::asking(own.mac, address, address).frame(Mac::BROADCAST),
            None => discovery::Message::announcing(own.mac, address),
        };
        self.send(interface, frame);
    }

    fn send(&mut self, interface: InterfaceId, frame: Vec<u8>) {
        if self.frames.len() < LONGEST_QUEUE {
            self.frames.push_back((interface, frame));
        }
    }

    /// The next frame to be sent.
    pub fn next_frame(&mut self) -> Option<(InterfaceId, Vec<u8>)> {
        self.frames.pop_front()
    }

    /// Whether [`Neighbours::known`] has changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Every hardware address that is known.
    pub fn known(&self) -> Known {
        self.entries.iter().filter_map(|(&key, entry)| Some((key, entry.mac?))).collect()
    }

    /// Every station, in order of interface and address.
    pub fn report(&self, now: Moment) -> Vec<Report> {
        let report = |(&(interface, address), entry): (&Key, &Entry)| Report {
            interface,
            address,
            mac: entry.mac,
            state: entry.state,
            age: entry.confirmed.map(|last| now.since(last)),
            kind: entry.kind,
        };
        let mut reports: Vec<_> = self.entries.iter().map(report).collect();
        reports.sort_unstable_by_key(|report| (report.interface, report.address));
        reports
    }

    /// What came in that was of no use.
    pub fn ignored(&self) -> Ignored {
        self.ignored
    }

    fn own(&self, interface: InterfaceId) -> Option<&Own> {
        self.interfaces.get(usize::from(interface.0))
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        if let Some(due) = entry.due {
            self.due.insert((due, key));
        }
        self.dynamic += usize::from(entry.kind == Kind::Dynamic);
        self.questions += usize::from(entry.is_question());
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: Key) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        if let Some(due) = entry.due {
            self.due.remove(&(due, key));
        }
        self.dynamic -= usize::from(entry.kind == Kind::Dynamic);
        self.questions -= usize::from(entry.is_question());
        self.changed |= entry.mac.is_some();
        Some(entry)
    }

    /// Puts an entry into `state`, to be looked at again when `due`.
    fn enter(&mut self, key: Key, state: State, due: Moment) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if let Some(before) = entry.due.replace(due) {
            self.due.remove(&(before, key));
        }
        self.due.insert((due, key));
        self.questions -= usize::from(entry.is_question());
        entry.state = state;
        self.questions += usize::from(entry.is_question());
    }

    /// Evenly from 0 to 1 (Marsaglia's xorshift: only to spread requests).
    fn fraction(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Entry {
    fn asked_for(kind: Kind, now: Moment, due: Moment) -> Self {
        Self {
            kind,
            state: State::Resolving,
            mac: None,
            tries: 0,
            confirmed: None,
            taken: None,
            wanted_at: now,
            due: Some(due),
        }
    }

    /// Whether another hardware address may be believed already.
    fn may_change(&self, now: Moment) -> bool {
        self.taken.is_none_or(|last| now.since(last) >= SETTLED)
    }

    /// Whether it is one of the questions whose number is limited.
    fn is_question(&self) -> bool {
        self.kind == Kind::Dynamic && self.state == State::Resolving
    }
}

#[cfg(test)]
mod tests;
