//! What the appliance's wiring hands over to the control plane: the other ends of everything that
//! the workers and the cards have. Nothing here knows DPDK, so that tests can stand at those ends.

use dataplane::counters::Counters;
use dataplane::moment::Moment;
use dataplane::punt::ControlEnd;
use dataplane::snapshot::{Publisher, Snapshot};
use dataplane::wire::Mac;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The ends that belong to the control plane.
pub struct Plumbing {
    /// Publishes to every worker. What it published first is never looked at: the node publishes
    /// its own configuration, as generation 1, before it does anything else.
    pub publisher: Publisher<Snapshot>,
    /// One block per worker, in the order of `rings`.
    pub counters: Vec<Counters>,
    /// One end per worker.
    pub rings: Vec<ControlEnd>,
    /// The interfaces, in the order of the configuration: the position is the
    /// [`InterfaceId`](dataplane::snapshot::InterfaceId).
    pub interfaces: Vec<LiveInterface>,
    /// Packet buffers.
    pub buffers: Box<dyn Fn() -> Buffers + Send>,
    /// The time by the workers' clock.
    pub clock: Box<dyn Fn() -> Moment + Send>,
}

/// An interface whose device has been opened.
pub struct LiveInterface {
    /// Its name in the configuration.
    pub name: String,
    /// The device as the configuration writes it.
    pub device: String,
    /// The driver that carries it, such as `net_ixgbe`.
    pub driver: String,
    /// Our hardware address there.
    pub mac: Mac,
    /// The longest IP packet that fits, in bytes.
    pub mtu: u16,
    /// Nobody listens there (a capture file): nothing is announced.
    pub quiet: bool,
    /// What the card says now.
    pub statistics: Box<dyn Fn() -> PortStatistics + Send + Sync>,
}

/// Packet buffers of all pools together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Buffers {
    /// How many there are.
    pub capacity: u32,
    /// How many are free now.
    pub available: u32,
}

/// What a card counts, since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortStatistics {
    /// Whether the other end of the cable answers.
    pub link_up: bool,
    /// In megabits a second; 0 where the device does not know.
    pub speed: u32,
    /// Frames received.
    pub received: u64,
    /// Bytes in those.
    pub received_bytes: u64,
    /// Frames transmitted.
    pub transmitted: u64,
    /// Bytes in those.
    pub transmitted_bytes: u64,
    /// Frames that the card dropped because its receive queues were full.
    pub missed: u64,
    /// Frames that the card received damaged.
    pub receive_errors: u64,
    /// Frames that the card failed to transmit.
    pub transmit_errors: u64,
    /// How often the card found no buffer to receive into.
    pub no_buffer: u64,
}
