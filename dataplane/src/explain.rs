//! What would become of a packet, and why: a dry run. The packet goes through the steps' own functions, on a
//! frame that never leaves; each decision is noted in a [`Journal`] and told as a [`Decision`].
//!
//! Nothing changes by it. What the steps count goes to a block that nobody reads, frames are written on
//! sheets that the worker keeps for this, and its memory only rehearses: flows are neither created nor ended,
//! and what a turn of a schedule, a token or a random number would change is put back before anybody else
//! can look.

mod decision;

mod question;

use std::cell::RefCell;

use arrayvec::ArrayVec;

use crate::classify::{self, Answer, Belongs, Matched};
use crate::counters::{Counters, REASONS, Reason};
use crate::fragments::Fragments;
use crate::frame::{Burst, Frame, Link};
use crate::lookup::flow_table::Near;
use crate::lookup::{self, ErrorTowards, Memory, Taker, Towards};
use crate::moment::Moment;
use crate::parse::{self, Content, Packet, Part, ip_packet};
use crate::punt::{Copied, LONGEST};
use crate::rewrite::{Outbound, Rewriter, Surroundings};
use crate::snapshot::{Interface, MAX_PORTS, Mode, Protocol, ServerId, Snapshot};
use crate::wire::ethernet::{Ethernet, Tag};
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::tcp::Tcp;
use crate::wire::{Address, Mac, Prefix};

pub use decision::{Carried, Decision, Owner};
pub use question::{Described, frame};

/// How many decisions one packet meets at most; what comes after them is not told.
pub const MOST_DECISIONS: usize = 32;

/// What was decided about a packet, in order.
pub type Decisions = ArrayVec<Decision, MOST_DECISIONS>;

/// Where the steps note what they decide. Closed, and so without any cost to speak of, but for dry runs.
#[derive(Default)]
pub struct Journal {
    is_open: bool,
    decisions: Decisions,
    /// The server that the client would be known with.
    pub(crate) host: Option<u32>,
}

impl Journal {
    /// Whether this is a dry run.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Notes a decision, if this is a dry run.
    #[inline]
    pub fn note(&mut self, decision: impl FnOnce() -> Decision) {
        if self.is_open {
            let _ = self.decisions.try_push(decision());
        }
    }

    /// The server that was spoken of last.
    fn server(&self) -> Option<ServerId> {
        self.decisions.iter().rev().find_map(Decision::server)
    }
}

/// Room in front of a frame, for a tunnel's headers.
const HEADROOM: usize = 128;

/// Bytes for one frame.
struct Sheet {
    bytes: [u8; HEADROOM + LONGEST],
    start: usize,
    end: usize,
    /// The tag that a card would have taken off.
    stripped: Option<u16>,
}

impl Sheet {
    const BLANK: Self =
        Self { bytes: [0; HEADROOM + LONGEST], start: HEADROOM, end: HEADROOM, stripped: None };

    fn write(&mut self, bytes: &[u8]) -> bool {
        let Some(to) = self.bytes.get_mut(HEADROOM..HEADROOM + bytes.len()) else { return false };
        to.copy_from_slice(bytes);
        (self.start, self.end, self.stripped) = (HEADROOM, HEADROOM + bytes.len(), None);
        true
    }
}

/// A frame on a sheet.
struct Sketch<'a>(&'a mut Sheet);

impl Frame for Sketch<'_> {
    fn bytes(&self) -> &[u8] {
        self.0.bytes.get(self.0.start..self.0.end).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes.get_mut(self.0.start..self.0.end).unwrap_or_default()
    }

    fn grow_front(&mut self, by: usize) -> bool {
        let start = self.0.start.checked_sub(by);
        self.0.start = start.unwrap_or(self.0.start);
        start.is_some()
    }

    fn shrink_front(&mut self, by: usize) {
        let start = self.0.start + by;
        self.0.start = if start <= self.0.end { start } else { self.0.start };
    }

    fn truncate(&mut self, length: usize) {
        self.0.end = self.0.end.min(self.0.start + length);
    }

    fn grow_back(&mut self, by: usize) -> bool {
        let end = self.0.end.saturating_add(by);
        let room = end <= self.0.bytes.len();
        self.0.end = if room { end } else { self.0.end };
        room
    }

    fn stripped_tag(&self) -> Option<u16> {
        self.0.stripped
    }

    fn is_in_one_piece(&self) -> bool {
        true
    }
}

/// Where the frames come from that a step makes itself. Nothing is received there and nothing leaves.
struct Pad<'p, 'a>(&'p RefCell<ArrayVec<&'a mut Sheet, SPARE>>);

/// Sheets for frames that the steps make themselves: a reset goes to two.
const SPARE: usize = 2;

impl<'a> Link for Pad<'_, 'a> {
    type Frame = Sketch<'a>;

    fn receive(&mut self, _: &mut Burst<Sketch<'a>>) {}

    fn transmit<const N: usize>(&mut self, _: &mut ArrayVec<Sketch<'a>, N>) {}

    fn allocate(&mut self, bytes: &[u8]) -> Option<Sketch<'a>> {
        let sheet = self.0.borrow_mut().pop()?;
        sheet.write(bytes).then_some(Sketch(sheet))
    }
}

/// What one worker keeps for dry runs.
pub struct Stage {
    sheets: [Sheet; 1 + SPARE],
    counters: Counters,
}

impl Default for Stage {
    fn default() -> Self {
        Self { sheets: [Sheet::BLANK; 1 + SPARE], counters: Counters::of_no_account() }
    }
}

/// Who takes part in a dry run. All are left as they were.
pub struct Cast<'a> {
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// Flows, clients and schedules.
    pub memory: &'a mut Memory,
    /// Packets in parts.
    pub fragments: &'a mut Fragments,
    /// What writes headers.
    pub rewriter: &'a Rewriter,
    /// When.
    pub now: Moment,
}

impl Stage {
    /// What would become of `frame` if it came in now, decision by decision.
    pub fn explain(&mut self, frame: &Copied, cast: Cast<'_>) -> Decisions {
        let Cast { snapshot, memory, fragments, rewriter, now } = cast;
        let random = memory.random;
        memory.journal = Journal { is_open: true, ..Journal::default() };
        memory.flows.rehearse();
        memory.loads.rehearse(true);
        let cast = Cast { snapshot, memory, fragments, rewriter, now };
        if let Err(reason) = self.run(frame, cast) {
            memory.journal.note(|| Decision::Dropped(reason));
        }
        memory.loads.rehearse(false);
        memory.flows.perform();
        memory.random = random;
        std::mem::take(&mut memory.journal).decisions
    }

    fn run(&mut self, frame: &Copied, cast: Cast<'_>) -> Result<(), Reason> {
        let Self { sheets: [sheet, spare @ ..], counters } = self;
        let spare = RefCell::new(spare.iter_mut().collect());
        let Cast { snapshot, memory, fragments, rewriter, now } = cast;
        let interface = snapshot.interface(frame.interface).ok_or(Reason::NoInterface)?;
        if !sheet.write(frame.bytes()) {
            return Err(Reason::Oversize);
        }
        // A frame without its tag is one of which the card has taken it off.
        sheet.stripped = interface.vlan.filter(|_| Tag::of(frame.bytes()).is_none());
        let mut sketch = Sketch(sheet);
        let (ingress, interface) = parse::interface_of(&mut sketch, interface.port, snapshot)?;
        memory.journal.note(|| Decision::Arrived { interface: ingress, vlan: interface.vlan });
        let mut packet = Packet::NONE;
        let content = parse::content(&mut sketch, interface, &mut packet)?;
        find_ports(content, &mut packet, &mut sketch, fragments, now)?;
        let carried = Carried::of(content, &packet, &mut sketch);
        memory.journal.note(|| Decision::Read(carried));
        let answer = classify::answer(content, &mut packet, &mut sketch, ingress, snapshot);
        let belongs = match answer {
            Answer::Forward(belongs) => belongs,
            Answer::Drop(reason) => return Err(reason),
            Answer::Punt(class) => {
                memory.journal.note(|| Decision::Punted(class));
                return Ok(());
            }
        };
        memory.journal.note(|| Decision::Belongs(Owner::of(&belongs, &packet, snapshot)));
        let before = Seen::of(&mut sketch, &packet);
        let mut near = Near::NOT;
        memory.flows.approach(&packet.flow, &mut near);
        let matched = Matched { frame: sketch, packet, near, belongs, ingress, handed: 0 };
        let mut routed = looked_up(matched, snapshot, memory, now, counters);
        let Some(it) = routed.first() else { return Ok(()) };
        let towards = it.towards;
        note_towards(&towards, memory);
        let mut pads: [Pad<'_, '_>; MAX_PORTS] = std::array::from_fn(|_| Pad(&spare));
        let mut surroundings =
            Surroundings { links: &mut pads, snapshot, memory, now, counters: &*counters };
        let dropped = drops(counters);
        let injected = counters.injected.get();
        let told = RefCell::new(dropped);
        rewriter.clone().packets(&mut routed, &mut surroundings, |mut outbound, surroundings| {
            let journal = &mut surroundings.memory.journal;
            note_drops(&mut told.borrow_mut(), counters, journal);
            if counters.injected.get() == injected {
                note_changes(&before, &Seen::of(&mut outbound.frame, &packet), &towards, journal);
            } else {
                journal.note(|| Decision::Answered { to: outbound.hop.address });
            }
            note_way_out(&outbound, &before, snapshot, journal);
        });
        note_drops(&mut told.borrow_mut(), counters, &mut memory.journal);
        Ok(())
    }
}

/// Gives a fragment its ports, and remembers nothing of it.
fn find_ports(
    content: Content,
    packet: &mut Packet,
    sketch: &mut Sketch<'_>,
    fragments: &mut Fragments,
    now: Moment,
) -> Result<(), Reason> {
    if content != Content::Flow || packet.part == Part::Whole {
        return Ok(());
    }
    let (datagram, _) = parse::part(packet, sketch)?;
    fragments
        .rehearse(&datagram, |fragments| parse::find_ports(content, packet, sketch, fragments, now))
}

/// Looks the packet's server up; what that takes of schedules and rates is put back.
fn looked_up<'s, 'a>(
    it: Matched<'s, Sketch<'a>>,
    snapshot: &'s Snapshot,
    memory: &mut Memory,
    now: Moment,
    counters: &Counters,
) -> Burst<lookup::Routed<'s, Sketch<'a>>> {
    let service = match it.belongs {
        Belongs::To(service) => Some(service),
        _ => None,
    };
    let client = it.packet.flow.source;
    let before = service.map(|service| {
        let limits = &service.limits;
        let mask = if client.is_v4() { limits.client_mask_v4 } else { limits.client_mask_v6 };
        let left = memory.rates.left(service.id.slot() as u16, Prefix::new(client, mask));
        (memory.schedules.standing(service.id), left)
    });
    let mut told = drops(counters);
    let mut matched = Burst::new();
    matched.push(it);
    let mut taken = None;
    let mut routed = Burst::new();
    let leave_to = |taker, _| taken = Some(taker);
    lookup::servers(&mut matched, &mut routed, snapshot, memory, now, counters, leave_to);
    note_server(snapshot, memory);
    note_drops(&mut told, counters, &mut memory.journal);
    match taken {
        Some(Taker::Colleague(worker)) => memory.journal.note(|| Decision::HandedOver(worker)),
        Some(Taker::Control(class)) => memory.journal.note(|| Decision::Punted(class)),
        None => {}
    }
    if let Some((standing, left)) = before {
        memory.schedules.put_back(standing);
        memory.rates.put_back(left);
    }
    routed
}

/// How many were dropped so far, by reason.
fn drops(counters: &Counters) -> [u64; REASONS] {
    std::array::from_fn(|index| Reason::ALL.get(index).map_or(0, |&it| counters.dropped(it)))
}

/// Notes what was dropped since.
fn note_drops(told: &mut [u64; REASONS], counters: &Counters, journal: &mut Journal) {
    let now = drops(counters);
    for (index, &reason) in Reason::ALL.iter().enumerate() {
        if now.get(index) != told.get(index) {
            journal.note(|| Decision::Dropped(reason));
        }
    }
    *told = now;
}

/// Notes what there is to say of the server that was found.
fn note_server(snapshot: &Snapshot, memory: &mut Memory) {
    let server = memory.journal.server().and_then(|id| snapshot.server(id));
    if let Some(server) = server {
        let connections = memory.loads.connections(server.id);
        memory.journal.note(|| Decision::Server {
            server: server.id,
            address: server.address,
            admission: server.admission,
            connections,
            most: server.max_connections,
        });
    }
}

fn note_towards(towards: &Towards<'_>, memory: &mut Memory) {
    let decision = match towards {
        Towards::Server(server) | Towards::Error(ErrorTowards::Server(server)) => {
            match server.mode {
                Mode::Tunnel { source, encapsulation } => {
                    Decision::Encapsulated { source, destination: server.address, encapsulation }
                }
                _ => Decision::DirectReturn,
            }
        }
        Towards::Reset(_) => Decision::Reset,
        Towards::Challenged => Decision::Challenged,
        Towards::Proxied(..) => Decision::Proxied,
        Towards::Unreachable => Decision::Unreachable,
        Towards::Onward(_) => Decision::Onward,
        Towards::Translated(_) | Towards::Paired { .. } | Towards::Error(_) => return,
    };
    memory.journal.note(|| decision);
}

/// What a packet's headers say.
#[derive(Clone, Copy, Default)]
struct Seen {
    macs: (Mac, Mac),
    source: (Address, u16),
    destination: (Address, u16),
    hops: u8,
    /// Sequence and acknowledgement numbers.
    numbers: Option<(u32, u32)>,
    length: u16,
}

impl Seen {
    /// Reads a frame whose transport header is where `packet` says.
    fn of(frame: &mut Sketch<'_>, packet: &Packet) -> Self {
        let mut seen = Self::default();
        if let Ok((ethernet, _)) = Ethernet::split(frame.bytes_mut()) {
            seen.macs = (ethernet.source(), ethernet.destination());
        }
        let bytes = ip_packet(frame);
        if let Ok((ip, _)) = Ipv4::split(bytes) {
            seen.source.0 = ip.source_address();
            seen.destination.0 = ip.destination_address();
            (seen.hops, seen.length) = (ip.time_to_live(), ip.total_length());
        } else if let Ok((ip, _)) = Ipv6::split(bytes) {
            (seen.source.0, seen.destination.0) = (ip.source(), ip.destination());
            (seen.hops, seen.length) = (ip.hop_limit(), ip.total_length());
        }
        if packet.part == Part::Later {
            return seen;
        }
        let Some(transport) = bytes.get_mut(usize::from(packet.transport)..) else { return seen };
        match (packet.flow.protocol, &*transport) {
            (Protocol::Tcp | Protocol::Udp, &[a, b, c, d, ..]) => {
                seen.source.1 = u16::from_be_bytes([a, b]);
                seen.destination.1 = u16::from_be_bytes([c, d]);
            }
            (Protocol::Echo, &[_, _, _, _, high, low, ..]) => {
                let identifier = u16::from_be_bytes([high, low]);
                if packet.answers { &mut seen.destination } else { &mut seen.source }.1 =
                    identifier;
            }
            _ => {}
        }
        if packet.flow.protocol == Protocol::Tcp
            && let Ok(tcp) = Tcp::split(transport)
        {
            seen.numbers = Some((tcp.sequence(), tcp.acknowledgement()));
        }
        seen
    }
}

/// Notes what the rewrite changed.
fn note_changes(before: &Seen, after: &Seen, towards: &Towards<'_>, journal: &mut Journal) {
    if let Towards::Server(_) | Towards::Error(ErrorTowards::Server(_)) = towards {
        if after.length != before.length {
            journal.note(|| Decision::Length { before: before.length, after: after.length });
        }
        return;
    }
    if (before.source, before.destination) != (after.source, after.destination) {
        journal.note(|| Decision::Translated {
            source: (before.source, after.source),
            destination: (before.destination, after.destination),
        });
    }
    if before.hops != after.hops {
        journal.note(|| Decision::HopsLeft { before: before.hops, after: after.hops });
    }
    if let (Some(old), Some(new)) = (before.numbers, after.numbers)
        && old != new
    {
        journal.note(|| Decision::Renumbered {
            sequence: (old.0, new.0),
            acknowledgement: (old.1, new.1),
        });
    }
    if before.length != after.length {
        journal.note(|| Decision::Length { before: before.length, after: after.length });
    }
}

/// Notes how a frame would leave.
fn note_way_out(
    outbound: &Outbound<'_, Sketch<'_>>,
    before: &Seen,
    snapshot: &Snapshot,
    journal: &mut Journal,
) {
    let hop = *outbound.hop;
    let Some(Interface { mac, mtu, vlan, .. }) = snapshot.interface(hop.interface) else {
        return journal.note(|| Decision::Dropped(Reason::NoInterface));
    };
    match hop.mac {
        Some(to) => journal.note(|| Decision::Readdressed {
            source: (before.macs.0, *mac),
            destination: (before.macs.1, to),
        }),
        None => journal.note(|| Decision::Waits { neighbour: hop.address }),
    }
    if outbound.length > *mtu {
        journal.note(|| Decision::Fragmented { mtu: *mtu });
    }
    journal.note(|| Decision::Leaves {
        interface: hop.interface,
        vlan: *vlan,
        next: hop.address,
        length: outbound.length,
    });
}

#[cfg(test)]
mod tests;
