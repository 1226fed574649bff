//! The rings between one worker and the control plane: frames handed over, frames to send,
//! questions and answers. Each has one producer and one consumer. A full ring never stalls a worker:
//! the frame is dropped and counted.

pub mod answers;

mod desk;

pub mod limit;

use std::fmt;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::explain::Decision;
use crate::moment::Moment;
use crate::snapshot::{InterfaceId, Protocol, ServerId, ServiceId};
use crate::wire::Address;

pub(crate) use desk::Desk;

/// The longest frame that fits a ring, in bytes.
pub const LONGEST: usize = 2046;

/// A copy of a frame, with the interface that it came from or is to leave on.
#[derive(Clone)]
pub struct Copied {
    /// Where it came from, or where it goes.
    pub interface: InterfaceId,
    length: u16,
    bytes: [u8; LONGEST],
}

impl Copied {
    /// A copy of `frame`; `None` if it is longer than [`LONGEST`].
    pub fn of(interface: InterfaceId, frame: &[u8]) -> Option<Self> {
        let mut bytes = [0; LONGEST];
        bytes.get_mut(..frame.len())?.copy_from_slice(frame);
        Some(Self { interface, length: frame.len() as u16, bytes })
    }

    /// The frame, from its Ethernet header on.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:02x?}", self.interface, self.bytes())
    }
}

/// What kind of frame goes to the control plane; each kind has its own rate limit, so that a flood
/// of one cannot starve another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// ARP requests and replies.
    Arp,
    /// Neighbour discovery (RFC 4861): what ARP is to IPv4.
    Neighbour,
    /// What belongs to a conversation of the control plane's own; see [`answers`].
    Answer,
    /// ICMP for our own and the virtual addresses.
    Icmp,
    /// What anybody says to the control plane: TCP and UDP for our own addresses, echo replies and errors that it
    /// does not expect.
    Local,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 5] = [Self::Arp, Self::Neighbour, Self::Answer, Self::Icmp, Self::Local];

    /// Frames a second that one of so many workers hands over, and how many may come at once. Of what strangers send from
    /// anywhere, all workers together hand over as much as one would, so that the control thread has time for the rest.
    pub fn limit(self, workers: usize) -> (u32, u32) {
        let share = |rate: u32| (rate / u32::try_from(workers.max(1)).unwrap_or(rate)).max(1_000);
        match self {
            Self::Arp | Self::Neighbour => (20_000, 128),
            Self::Answer => (50_000, 512),
            Self::Icmp => (share(5_000), 128),
            Self::Local => (share(10_000), 512),
        }
    }

    /// How many places in the ring it leaves to the others, however long the control plane is away: the more the
    /// easier it is to flood.
    pub(crate) fn leaves(self) -> usize {
        match self {
            Self::Answer => 0,
            Self::Arp | Self::Neighbour => FRAMES / 4,
            Self::Icmp => FRAMES / 8 * 3,
            Self::Local => FRAMES / 2,
        }
    }
}

/// What a worker tells the control plane, besides frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A frame waits for this neighbour's hardware address.
    Unresolved {
        /// The interface that the neighbour is on.
        interface: InterfaceId,
        /// Its address.
        address: Address,
    },
    /// One flow, in answer to [`Command::ListFlows`].
    Flow {
        /// The question's number.
        question: u32,
        /// The flow.
        flow: FlowReport,
    },
    /// The last of the answers.
    FlowsListed {
        /// The question's number.
        question: u32,
    },
    /// One decision, in answer to [`Command::Explain`]; they come in order.
    Decided {
        /// The question's number.
        question: u32,
        /// The decision.
        decision: Decision,
    },
    /// There are no more decisions.
    Explained {
        /// The question's number.
        question: u32,
    },
}

/// What the control plane asks of a worker.
#[expect(clippy::large_enum_variant, reason = "a worker that frees a box would call the allocator")]
#[derive(Debug, Clone)]
pub enum Command {
    /// Report the flows that match, a few with each turn.
    ListFlows {
        /// Comes back with every answer.
        question: u32,
        /// Which flows.
        filter: FlowFilter,
        /// How many at most.
        limit: u32,
    },
    /// Say what would become of a frame that comes in, and do nothing; see [`crate::explain`].
    Explain {
        /// Comes back with every answer.
        question: u32,
        /// The frame, and the interface that it comes in on.
        frame: Copied,
    },
}

/// Which flows are asked for; `None` is any.
#[derive(Debug, Clone, Copy, Default)]
pub struct FlowFilter {
    /// Of this virtual service.
    pub service: Option<ServiceId>,
    /// At this real server.
    pub server: Option<ServerId>,
    /// From this client.
    pub client: Option<Address>,
}

/// A flow as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowReport {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How far the connection has come.
    pub state: FlowState,
    /// The client's address and port.
    pub client: (Address, u16),
    /// The virtual address and port.
    pub virtual_address: (Address, u16),
    /// The virtual service.
    pub service: ServiceId,
    /// The real server.
    pub server: ServerId,
    /// When it began.
    pub created: Moment,
    /// When its last packet was seen.
    pub last_seen: Moment,
    /// The moment of the report, by the worker's clock.
    pub now: Moment,
    /// Packets in both directions, as far as they pass through us.
    pub packets: u64,
    /// Bytes in those, from the IP header on.
    pub bytes: u64,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowState {
    /// A SYN was seen, or a packet in mid-flow that nobody remembered, and nothing that follows from it.
    HalfOpen,
    /// Packets flow.
    Established,
    /// A FIN or RST was seen.
    Closing,
    /// UDP has no connections.
    Datagrams,
}

impl FlowState {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half_open",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Datagrams => "datagrams",
        }
    }
}

/// How many frames each ring holds.
pub(crate) const FRAMES: usize = 1024;
/// How many events and commands each ring holds.
const MESSAGES: usize = 1024;

/// The worker's ends.
pub struct WorkerEnd {
    pub(crate) punt: Producer<Copied>,
    pub(crate) inject: Consumer<Copied>,
    pub(crate) events: Producer<Event>,
    pub(crate) commands: Consumer<Command>,
}

/// The control plane's ends.
pub struct ControlEnd {
    /// Frames that the worker handed over.
    pub punted: Consumer<Copied>,
    /// Frames for the worker to send.
    pub inject: Producer<Copied>,
    /// What the worker has to say.
    pub events: Consumer<Event>,
    /// What the worker is to do.
    pub commands: Producer<Command>,
}

/// The four rings between one worker and the control plane.
pub fn rings() -> (WorkerEnd, ControlEnd) {
    let (punt, punted) = RingBuffer::new(FRAMES);
    let (inject_in, inject) = RingBuffer::new(FRAMES);
    let (events_in, events) = RingBuffer::new(MESSAGES);
    let (commands_in, commands) = RingBuffer::new(16);
    (
        WorkerEnd { punt, inject, events: events_in, commands },
        ControlEnd { punted, inject: inject_in, events, commands: commands_in },
    )
}
