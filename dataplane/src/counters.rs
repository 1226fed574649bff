//! What the workers count: one block each, written by its worker alone, read by anybody.
//!
//! The books balance: frames received + frames injected + frames taken over = frames transmitted +
//! frames punted + frames handed over + frames dropped (by reason) + frames still waiting for a
//! neighbour. Over all workers as many are taken over as are handed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::snapshot::{MAX_SERVERS, ServerId};

macro_rules! reasons {
    ($($(#[doc = $text:literal])+ $name:ident => $word:literal,)+) => {
        /// Why a frame was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $text])+ $name,)+ }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name in the API and in metrics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// What it means, for an operator.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($text),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// The frame ends before its headers do, or before the length that a header gives.
    Truncated => "truncated",
    /// A header has a value that it cannot have: an IP version, a header length, a total length.
    Malformed => "malformed",
    /// The IPv4 header's checksum is wrong (RFC 1812 section 5.2.2 asks for the drop).
    BadChecksum => "bad_checksum",
    /// The TCP or UDP checksum of a packet that would begin a flow is wrong.
    BadTransportChecksum => "bad_transport_checksum",
    /// TCP's control bits contradict each other, or none is set: a scan, not a connection.
    BadFlags => "bad_flags",
    /// The frame is longer than the interface's MTU allows, padding included, or than one buffer.
    Oversize => "oversize",
    /// The frame carries a VLAN tag that no interface expects.
    Vlan => "vlan",
    /// The frame carries something other than IPv4, IPv6 or ARP.
    NotIp => "not_ip",
    /// A later fragment of a packet whose first fragment was not seen: it cannot be told which flow it
    /// belongs to.
    FragmentWithoutFirst => "fragment_without_first",
    /// A fragment that overlaps another of the same packet, or belongs to a packet in which two did.
    FragmentOverlap => "fragment_overlap",
    /// The worker already remembers as many packets in parts as it can.
    FragmentTableFull => "fragment_table_full",
    /// The sender chose the route (RFC 791 source routing, RFC 5095 routing header type 0).
    SourceRouted => "source_routed",
    /// The packet for one of our addresses carries neither TCP nor UDP nor ICMP.
    NotTcpOrUdp => "not_tcp_or_udp",
    /// The frame is addressed to another station's hardware address, or to a group's.
    NotOurMac => "not_our_mac",
    /// The source address cannot be a station's: multicast, broadcast, loopback or zero, or it is one of
    /// our own or virtual addresses.
    BadSource => "bad_source",
    /// The source address is the destination too (the "land" attack).
    Land => "land",
    /// The source address is in a subnet of another interface than the one that the packet came in on.
    SpoofedSource => "spoofed_source",
    /// The destination is not an address of ours, and no flow of ours leads back through here.
    NotOurAddress => "not_our_address",
    /// The address is ours, but no virtual service is published on that protocol and port.
    NoService => "no_service",
    /// The service has no server that takes new flows.
    NoServer => "no_server",
    /// Every server of the service has as many connections as it may.
    ServersFull => "servers_full",
    /// The service takes no new flows.
    ServiceClosed => "service_closed",
    /// The flow's server was halted; TCP connections are reset.
    ServerHalted => "server_halted",
    /// New flows of the service come faster than its limit.
    NewFlowRate => "new_flow_rate",
    /// New flows from the client's network come faster than the service's limit for one.
    ClientRate => "client_rate",
    /// Answered with a SYN cookie: the service has too many half-open flows to remember another.
    Challenged => "challenged",
    /// Part of opening a connection in its client's stead: both ends got segments of our own in its place.
    Proxied => "proxied",
    /// An acknowledgement that belongs to no flow and answers no cookie of ours.
    BadCookie => "bad_cookie",
    /// The flow's server was removed or no longer translates, and the flow cannot move.
    ServerGone => "server_gone",
    /// A reply that has to be translated back belongs to no flow that we know.
    NoFlow => "no_flow",
    /// An ICMP error quotes a packet that belongs to no flow that we know.
    UnrelatedError => "unrelated_error",
    /// An announced data connection cannot be awaited: the worker awaits too many, or every port is taken.
    HelperTableFull => "helper_table_full",
    /// The numbers of the connection cannot be kept in step: the worker adjusts too many connections, or text was
    /// sent again after other text had been replaced.
    NotAdjustable => "not_adjustable",
    /// Every source port for flows to this server is taken.
    NoSourcePort => "no_source_port",
    /// The packet may pass no more routers.
    TimeExceeded => "time_exceeded",
    /// The ring to the worker that has the flow was full.
    HandOverRingFull => "hand_over_ring_full",
    /// The worker's flow table has no room for a flow that needs an entry.
    FlowTableFull => "flow_table_full",
    /// The server already has a flow with the same client address, client port and server port, from
    /// another virtual address; its replies could not be told apart.
    AmbiguousFlow => "ambiguous_flow",
    /// No route leads to the destination.
    NoRoute => "no_route",
    /// The next station did not answer ARP or neighbour discovery while the frame waited.
    Unresolved => "unresolved",
    /// Too many frames already wait for a neighbour's hardware address.
    UnresolvedQueueFull => "unresolved_queue_full",
    /// The packet does not fit the MTU of the way out, and must not be fragmented.
    TooBig => "too_big",
    /// No packet buffer was free, or none had room for another header.
    NoBuffer => "no_buffer",
    /// The transmit queue took no more frames.
    TransmitQueueFull => "transmit_queue_full",
    /// The interface that the frame was to leave on does not exist.
    NoInterface => "no_interface",
    /// Answers to what the control plane itself has asked came faster than their limit.
    AnswerRateLimited => "answer_rate_limited",
    /// Frames of this class for the control plane came faster than its limit.
    PuntRateLimited => "punt_rate_limited",
    /// The ring to the control plane had no room left for frames of this class, or the frame was too long for it.
    PuntRingFull => "punt_ring_full",
    /// The appliance stopped while the frame waited for a neighbour.
    Stopping => "stopping",
}

/// How many reasons there are.
pub const REASONS: usize = Reason::ALL.len();

/// A counter with one writer: a load and a store, never a locked instruction.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `more`. Only the owning worker calls this.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// What has been counted so far.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that rises and falls, with one writer.
#[derive(Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Moves the value. Only the owning worker calls this.
    #[inline]
    pub fn add(&self, change: i64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
    }

    /// The value now.
    #[inline]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's counters. Cloning gives another handle to the same block.
#[derive(Clone)]
pub struct Counters(Arc<CachePadded<Block>>);

/// What one worker counts.
pub struct Block {
    /// Frames that its receive queues gave it.
    pub received: Counter,
    /// Bytes in those frames.
    pub received_bytes: Counter,
    /// Frames that the control plane sent, and that it made itself (an ICMP error, a fragment).
    pub injected: Counter,
    /// Frames that its transmit queues took.
    pub transmitted: Counter,
    /// Bytes in those frames.
    pub transmitted_bytes: Counter,
    /// Frames handed to the control plane.
    pub punted: Counter,
    /// Of those, what belongs to the control plane's own conversations.
    pub punted_answers: Counter,
    /// Frames handed to another worker, because the flow or the way out is that one's.
    pub handed_over: Counter,
    /// Frames that another worker handed to this one.
    pub taken_over: Counter,
    /// Frames that wait for a neighbour's hardware address now.
    pub waiting: Gauge,
    /// Flows in its table now.
    pub flows: Gauge,
    /// Flows that its table has room for.
    pub flow_capacity: Counter,
    /// Flows created so far.
    pub flows_created: Counter,
    /// Flows that ended early to make room for others.
    pub flows_evicted: Counter,
    /// Packets forwarded by hash alone, because the table was full or a flood of SYNs left no other way.
    pub forwarded_without_flow: Counter,
    /// Connections opened by a SYN cookie that came back.
    pub cookies_accepted: Counter,
    /// Announcements of a data connection to a third party, which were not followed (the FTP bounce attack).
    pub announcements_refused: Counter,
    /// Clients that lost their place in the persistence table to others.
    pub clients_evicted: Counter,
    /// Turns in which no frame came, and turns in which some did: how busy the worker is.
    pub idle_turns: Counter,
    /// See `idle_turns`.
    pub busy_turns: Counter,
    drops: [Counter; REASONS],
    servers: Box<[ServerBlock]>,
    signals: Box<[SignalBlock]>,
}

/// What one worker counts of one real server's slot.
#[derive(Default)]
pub struct ServerBlock {
    /// Flows now, but for those that are closing.
    pub active: Gauge,
    /// Flows now that have seen a FIN or RST.
    pub closing: Gauge,
    /// Flows sent to it so far.
    pub flows: Counter,
    /// Packets forwarded to it.
    pub packets: Counter,
    /// Bytes in those packets, from the IP header on.
    pub bytes: Counter,
    /// Packets that came back from it through us (NAT).
    pub reply_packets: Counter,
    /// Bytes in those, from the IP header on.
    pub reply_bytes: Counter,
}

/// What one worker has seen of one real server's answers: how it is, for whoever does not ask it. Apart from
/// [`ServerBlock`], which packets that say nothing of it need.
#[derive(Default)]
pub struct SignalBlock {
    /// Connections of which the client's first SYN got no answer before it asked again or gave up.
    pub unanswered: Counter,
    /// Connections that the server refused; seen where its packets pass through us (NAT).
    pub refused: Counter,
    /// Connections that the server reset, at whatever time; seen where its packets pass through us.
    pub resets: Counter,
    /// Connections of which the first SYN was answered: by the server, where its packets pass through us, or as
    /// the client's acknowledgement says.
    pub handshakes: Counter,
    /// How long those answers took, in milliseconds, in all: each one to the millisecond, the sum on average
    /// exactly.
    pub handshake_time: Counter,
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl Counters {
    /// A block with everything at zero.
    pub fn new() -> Self {
        Self::with_servers(MAX_SERVERS)
    }

    /// A small block for what is not to be counted; all servers share one place in it.
    pub fn of_no_account() -> Self {
        Self::with_servers(1)
    }

    fn with_servers(servers: usize) -> Self {
        let block = Block {
            received: Counter::default(),
            received_bytes: Counter::default(),
            injected: Counter::default(),
            transmitted: Counter::default(),
            transmitted_bytes: Counter::default(),
            punted: Counter::default(),
            punted_answers: Counter::default(),
            handed_over: Counter::default(),
            taken_over: Counter::default(),
            waiting: Gauge::default(),
            flows: Gauge::default(),
            flow_capacity: Counter::default(),
            flows_created: Counter::default(),
            flows_evicted: Counter::default(),
            forwarded_without_flow: Counter::default(),
            cookies_accepted: Counter::default(),
            announcements_refused: Counter::default(),
            clients_evicted: Counter::default(),
            idle_turns: Counter::default(),
            busy_turns: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            servers: (0..servers).map(|_| ServerBlock::default()).collect(),
            signals: (0..servers).map(|_| SignalBlock::default()).collect(),
        };
        Self(Arc::new(CachePadded::new(block)))
    }

    /// Counts one dropped frame.
    #[inline]
    pub fn drop_one(&self, reason: Reason) {
        self.0.drops[reason as usize].add(1);
    }

    /// Frames dropped for `reason` so far.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.0.drops[reason as usize].get()
    }

    /// Frames dropped so far, for any reason.
    pub fn dropped_in_all(&self) -> u64 {
        self.0.drops.iter().map(Counter::get).sum()
    }

    /// What was counted of the server in this identity's slot. Slots are given away again: the
    /// control plane notes the values at which a new owner starts.
    #[inline]
    pub fn server(&self, id: ServerId) -> &ServerBlock {
        self.0.servers.get(id.slot()).unwrap_or(&self.0.servers[0])
    }

    /// What was seen of that server's answers.
    pub fn signals(&self, id: ServerId) -> &SignalBlock {
        self.0.signals.get(id.slot()).unwrap_or(&self.0.signals[0])
    }

    /// Everything that was counted, by name; of servers, what is not zero.
    #[cfg(any(test, feature = "testing"))]
    pub fn all(&self) -> Vec<(String, i64)> {
        // Without dots, so that no counter can be left out.
        let Block {
            received,
            received_bytes,
            injected,
            transmitted,
            transmitted_bytes,
            punted,
            punted_answers,
            handed_over,
            taken_over,
            waiting,
            flows,
            flow_capacity,
            flows_created,
            flows_evicted,
            forwarded_without_flow,
            cookies_accepted,
            announcements_refused,
            clients_evicted,
            idle_turns,
            busy_turns,
            drops,
            servers,
            signals,
        } = &**self.0;
        let counters = [
            ("received", received),
            ("received_bytes", received_bytes),
            ("injected", injected),
            ("transmitted", transmitted),
            ("transmitted_bytes", transmitted_bytes),
            ("punted", punted),
            ("punted_answers", punted_answers),
            ("handed_over", handed_over),
            ("taken_over", taken_over),
            ("flow_capacity", flow_capacity),
            ("flows_created", flows_created),
            ("flows_evicted", flows_evicted),
            ("forwarded_without_flow", forwarded_without_flow),
            ("cookies_accepted", cookies_accepted),
            ("announcements_refused", announcements_refused),
            ("clients_evicted", clients_evicted),
            ("idle_turns", idle_turns),
            ("busy_turns", busy_turns),
        ];
        let dropped = Reason::ALL.iter().map(|reason| (reason.name(), &drops[*reason as usize]));
        let counters = counters.into_iter().chain(dropped);
        let mut all: Vec<(String, i64)> =
            counters.map(|(name, counter)| (name.to_owned(), counter.get() as i64)).collect();
        all.extend([("waiting".to_owned(), waiting.get()), ("flows".to_owned(), flows.get())]);
        for (slot, server) in servers.iter().enumerate() {
            let ServerBlock { active, closing, flows, packets, bytes, reply_packets, reply_bytes } =
                server;
            let gauges = [("active", active.get()), ("closing", closing.get())];
            let counters = [
                ("flows", flows),
                ("packets", packets),
                ("bytes", bytes),
                ("reply_packets", reply_packets),
                ("reply_bytes", reply_bytes),
            ];
            let counters = counters.map(|(name, counter)| (name, counter.get() as i64));
            let of_server = gauges.into_iter().chain(counters).filter(|(_, value)| *value != 0);
            all.extend(of_server.map(|(name, value)| (format!("server {slot} {name}"), value)));
        }
        for (slot, signals) in signals.iter().enumerate() {
            let SignalBlock { unanswered, refused, resets, handshakes, handshake_time } = signals;
            let counters = [
                ("unanswered", unanswered),
                ("refused", refused),
                ("resets", resets),
                ("handshakes", handshakes),
                ("handshake_time", handshake_time),
            ];
            let counters = counters.map(|(name, counter)| (name, counter.get() as i64));
            let of_server = counters.into_iter().filter(|(_, value)| *value != 0);
            all.extend(of_server.map(|(name, value)| (format!("server {slot} {name}"), value)));
        }
        all
    }

    /// What came less what went and what waits: zero between two turns.
    pub fn imbalance(&self) -> i64 {
        let came = self.received.get() + self.injected.get() + self.taken_over.get();
        let went = self.transmitted.get()
            + self.punted.get()
            + self.handed_over.get()
            + self.dropped_in_all();
        came as i64 - went as i64 - self.waiting.get()
    }
}

impl std::ops::Deref for Counters {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_an_explanation() {
        let names: std::collections::HashSet<_> =
            Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), REASONS);
        assert!(Reason::ALL.iter().all(|reason| reason.explanation().ends_with('.')));
    }

    #[test]
    fn a_drop_is_counted_under_its_reason_alone() {
        let counters = Counters::new();
        counters.drop_one(Reason::NoService);
        assert_eq!(counters.dropped(Reason::NoService), 1);
        assert_eq!(counters.dropped_in_all(), 1);
        assert_eq!(counters.imbalance(), -1);
    }
}
