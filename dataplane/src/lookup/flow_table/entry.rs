//! One flow: one cache line for IPv4, two for IPv6.

use std::time::Duration;

use zerocopy::FromZeros;

use super::Direction;
use crate::counters::{Counters, ServerBlock};
use crate::moment::Moment;
use crate::parse::{Flow, Packet};
use crate::punt::{FlowFilter, FlowReport, FlowState};
use crate::snapshot::{Protocol, ServerId, ServiceId, Timeouts};
use crate::wire::Address;

/// An address as the entries of one family hold it.
pub trait Held: Copy + Eq + FromZeros {
    /// From an address of that family.
    fn of(address: Address) -> Self;
    /// The address.
    fn address(self) -> Address;
}

impl Held for u32 {
    #[inline]
    fn of(address: Address) -> Self {
        address.low()
    }

    #[inline]
    fn address(self) -> Address {
        std::net::Ipv4Addr::from_bits(self).into()
    }
}

impl Held for u128 {
    #[inline]
    fn of(address: Address) -> Self {
        address.bits()
    }

    #[inline]
    fn address(self) -> Address {
        Address::from_bits(self)
    }
}

/// What a new flow is to be remembered by. A translated flow goes from `original` to
/// source → server, and its replies from server → source back to virtual address → client.
#[derive(Debug, Clone, Copy)]
pub struct NewFlow {
    /// The flow as the client addresses it.
    pub original: Flow,
    /// The server's own address and port; those of the destination where nothing is translated.
    pub server: (Address, u16),
    /// Address and port that packets leave with; the client's own unless they are translated too.
    pub source: (Address, u16),
    /// Whether replies come back through us.
    pub translated: bool,
    /// The real server; [`ServerId::NONE`] for a flow of no service.
    pub server_id: ServerId,
    /// The virtual service; [`ServiceId::NONE`] for a flow of none.
    pub service: ServiceId,
    /// How far the connection has come.
    pub state: FlowState,
    /// How long it is remembered in that state, in milliseconds.
    pub timeout: u32,
    /// Length of its first packet, in bytes.
    pub length: u16,
}

impl NewFlow {
    /// The key as the server answers the flow, if it answers through us.
    #[inline]
    pub fn reply(&self) -> Option<Flow> {
        self.translated.then_some(Flow {
            protocol: self.original.protocol,
            source: self.server.0,
            source_port: self.server.1,
            destination: self.source.0,
            destination_port: self.source.1,
        })
    }
}

/// How [`FlowState`] is written in an entry; 0 is a free one.
pub const FREE: u8 = 0;

#[inline]
fn written(state: FlowState) -> u8 {
    match state {
        FlowState::HalfOpen => 1,
        FlowState::Established => 2,
        FlowState::Closing => 3,
        FlowState::Datagrams => 4,
    }
}

/// What is remembered of a flow besides its addresses.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct State {
    server: ServerId,
    service: ServiceId,
    pub(super) client_port: u16,
    pub(super) virtual_port: u16,
    pub(super) server_port: u16,
    pub(super) source_port: u16,
    /// The protocol's number, and below it, in three bits, how far the connection has come.
    kind: u8,
    marks: u8,
    /// Under which configuration it was settled last whose the flow's packets are; 0: none.
    edition: u16,
    /// Milliseconds, wrapping; compared by difference.
    last_seen: u32,
    /// Seconds since the start.
    created: u32,
    /// Milliseconds; of a free entry, the next free one.
    pub(super) timeout: u32,
    packets: u64,
    bytes: u64,
}

/// Marks of a flow that takes more than a look into the table.
pub mod mark {
    /// Its sequence numbers are adjusted.
    pub const ADJUSTED: u8 = 1;
    /// It is an FTP control connection.
    pub const FTP: u8 = 2;
    /// It is in the directory that all workers share.
    pub const LISTED: u8 = 4;
    /// We answered its SYN ourselves, and its server has not answered yet.
    pub const PROXIED: u8 = 8;
    /// Whose its client's packets are is settled, under the flow's edition of the configuration.
    pub(super) const SETTLED: u8 = 16;
    /// The same for its server's packets.
    pub(super) const SETTLED_REPLY: u8 = 32;
    /// Replies come back through us.
    pub(super) const TRANSLATED: u8 = 64;
    /// What its server's answering tells of the server has been counted, or it can tell nothing.
    pub const JUDGED: u8 = 128;
}

/// What the packets of a connection tell of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// It has answered the client's SYN.
    Answered {
        /// After so long.
        milliseconds: u32,
    },
    /// It has not: the client asks again, or is forgotten.
    Unanswered,
    /// It has reset the connection.
    Reset,
}

/// The bits of [`State`]'s kind that say how far a connection has come.
const PROGRESS: u8 = 0b111;

/// What a direction's packets are marked by as settled.
#[inline]
fn settled(direction: Direction) -> u8 {
    match direction {
        Direction::Original => mark::SETTLED,
        Direction::Reply => mark::SETTLED_REPLY,
    }
}

/// The longest idle time that can be told, in milliseconds: 24 days.
const LONGEST_IDLE: u32 = Timeouts::LONGEST;

impl State {
    /// The flow's server; [`ServerId::NONE`] if it belongs to none.
    #[inline]
    pub fn server(&self) -> ServerId {
        self.server
    }

    /// The flow's service; [`ServiceId::NONE`] if it belongs to none.
    #[inline]
    pub fn service(&self) -> ServiceId {
        self.service
    }

    /// How far the connection has come; `None` for a free entry.
    #[inline]
    pub fn state(&self) -> Option<FlowState> {
        match self.kind & PROGRESS {
            1 => Some(FlowState::HalfOpen),
            2 => Some(FlowState::Established),
            3 => Some(FlowState::Closing),
            4 => Some(FlowState::Datagrams),
            _ => None,
        }
    }

    /// Whether the connection has come this far and no further.
    #[inline]
    pub fn is(&self, state: FlowState) -> bool {
        self.kind & PROGRESS == written(state)
    }

    /// Whether replies come back through us.
    #[inline]
    pub fn translated(&self) -> bool {
        self.has(mark::TRANSLATED)
    }

    /// Whether it was settled under this edition of the configuration whose the packets of this direction are.
    #[inline]
    pub(super) fn is_settled(&self, direction: Direction, edition: u16) -> bool {
        self.edition == edition && edition != 0 && self.has(settled(direction))
    }

    /// It is settled under this edition whose the packets of this direction are.
    #[inline]
    pub(super) fn settle(&mut self, direction: Direction, edition: u16) {
        if self.edition != edition {
            self.unmark(mark::SETTLED | mark::SETTLED_REPLY);
            self.edition = edition;
        }
        self.mark(settled(direction));
    }

    /// Forgets what was settled under another edition than this, before there is another with its number.
    #[inline]
    pub(super) fn unsettle(&mut self, edition: u16) {
        if self.edition != edition {
            self.edition = 0;
        }
    }

    /// Whether the flow has this mark of [`mark`].
    #[inline]
    pub fn has(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    /// Sets a mark of [`mark`].
    pub fn mark(&mut self, mark: u8) {
        self.marks |= mark;
    }

    /// Takes a mark of [`mark`] away.
    pub fn unmark(&mut self, mark: u8) {
        self.marks &= !mark;
    }

    /// Whether the next packet changes how far the connection has come, and to what; half-open to half-open if it
    /// is asked for again.
    #[inline]
    pub fn changes_with(&self, packet: &Packet, direction: Direction) -> Option<FlowState> {
        if packet.flow.protocol != Protocol::Tcp {
            return None;
        }
        if packet.flags.closes() {
            return (!self.is(FlowState::Closing)).then_some(FlowState::Closing);
        }
        let opens = self.is(FlowState::HalfOpen) && direction == Direction::Original;
        opens.then_some(match packet.flags.synchronises() {
            true => FlowState::HalfOpen,
            false => FlowState::Established,
        })
    }

    /// Notes a packet of the flow.
    #[inline]
    pub fn note(&mut self, packet: &Packet, now: Moment) {
        self.last_seen = milliseconds(now);
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(u64::from(packet.length));
    }

    /// Counts what was seen of its server's answering, once for each connection; resets always.
    pub(super) fn judge(&mut self, signal: Signal, counters: &Counters) {
        if self.server == ServerId::NONE {
            return;
        }
        let signals = counters.signals(self.server);
        let is_first = !self.has(mark::JUDGED);
        self.mark(mark::JUDGED);
        match signal {
            Signal::Reset => {
                signals.resets.add(1);
                if is_first && self.is(FlowState::HalfOpen) {
                    signals.refused.add(1);
                }
            }
            Signal::Unanswered if is_first => signals.unanswered.add(1),
            Signal::Answered { milliseconds } if is_first => {
                signals.handshakes.add(1);
                signals.handshake_time.add(u64::from(milliseconds));
            }
            Signal::Unanswered | Signal::Answered { .. } => {}
        }
    }

    pub(super) fn set_state(&mut self, state: FlowState, timeout: u32) {
        self.kind = self.kind & !PROGRESS | written(state);
        self.timeout = timeout.min(LONGEST_IDLE);
    }

    pub(super) fn protocol(&self) -> Protocol {
        match self.kind >> PROGRESS.count_ones() {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => Protocol::Echo,
        }
    }

    /// Milliseconds since the last packet. A clock that steps back (a virtual machine moved to another
    /// host) must not make every flow look 49 days old.
    #[inline]
    pub(super) fn idle(&self, now: Moment) -> u32 {
        let idle = milliseconds(now).wrapping_sub(self.last_seen);
        if idle > LONGEST_IDLE { 0 } else { idle }
    }

    /// What the flow's server counts, if it has one.
    #[inline]
    pub(super) fn block<'c>(&self, counters: &'c Counters) -> Option<&'c ServerBlock> {
        (self.server != ServerId::NONE).then(|| counters.server(self.server))
    }
}

/// One flow with its addresses.
#[derive(Clone, Copy, FromZeros)]
#[repr(C, align(64))]
pub struct Entry<A> {
    client: A,
    virtual_address: A,
    server: A,
    source: A,
    pub(super) state: State,
}

const _: () = assert!(size_of::<Entry<u32>>() == 64 && size_of::<Entry<u128>>() == 128);

impl<A: Held> Entry<A> {
    pub(super) fn new(flow: &NewFlow, now: Moment) -> Self {
        let NewFlow { original, server, source, .. } = *flow;
        Self {
            client: A::of(original.source),
            virtual_address: A::of(original.destination),
            server: A::of(server.0),
            source: A::of(source.0),
            state: State {
                server: flow.server_id,
                service: flow.service,
                client_port: original.source_port,
                virtual_port: original.destination_port,
                server_port: server.1,
                source_port: source.1,
                kind: (original.protocol as u8) << PROGRESS.count_ones() | written(flow.state),
                marks: if flow.translated { mark::TRANSLATED } else { 0 },
                edition: 0,
                last_seen: milliseconds(now),
                created: (now.nanos() / 1_000_000_000) as u32,
                timeout: flow.timeout.min(LONGEST_IDLE),
                packets: 1,
                bytes: u64::from(flow.length),
            },
        }
    }

    /// The key as the client addresses the flow.
    #[inline]
    pub(super) fn original(&self) -> Flow {
        Flow {
            protocol: self.state.protocol(),
            source: self.client.address(),
            source_port: self.state.client_port,
            destination: self.virtual_address.address(),
            destination_port: self.state.virtual_port,
        }
    }

    /// The key as the server answers the flow.
    #[inline]
    pub(super) fn reply(&self) -> Flow {
        Flow {
            protocol: self.state.protocol(),
            source: self.server.address(),
            source_port: self.state.server_port,
            destination: self.source.address(),
            destination_port: self.state.source_port,
        }
    }

    #[inline]
    pub(super) fn is(&self, flow: &Flow, direction: Direction) -> bool {
        let (state, [from, to]) = match direction {
            Direction::Original => {
                let ports = [self.state.client_port, self.state.virtual_port];
                (ports, [self.client, self.virtual_address])
            }
            Direction::Reply => {
                let ports = [self.state.server_port, self.state.source_port];
                (ports, [self.server, self.source])
            }
        };
        state == [flow.source_port, flow.destination_port]
            && from == A::of(flow.source)
            && to == A::of(flow.destination)
            && self.state.kind >> PROGRESS.count_ones() == flow.protocol as u8
    }

    pub(super) fn matches(&self, filter: &FlowFilter) -> bool {
        filter.service.is_none_or(|service| service == self.state.service)
            && filter.server.is_none_or(|server| server == self.state.server)
            && filter.client.is_none_or(|client| client == self.client.address())
    }

    pub(super) fn report(&self, state: FlowState, now: Moment) -> FlowReport {
        let idle = Duration::from_millis(u64::from(self.state.idle(now)));
        FlowReport {
            protocol: self.state.protocol(),
            state,
            client: (self.client.address(), self.state.client_port),
            virtual_address: (self.virtual_address.address(), self.state.virtual_port),
            service: self.state.service,
            server: self.state.server,
            created: Moment::START.plus(Duration::from_secs(u64::from(self.state.created))),
            last_seen: Moment::from_nanos(now.nanos().saturating_sub(idle.as_nanos() as u64)),
            now,
            packets: self.state.packets,
            bytes: self.state.bytes,
        }
    }
}

fn milliseconds(now: Moment) -> u32 {
    (now.nanos() / 1_000_000) as u32
}
