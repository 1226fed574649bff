//! How a card spreads frames over a port's receive queues, as far as it says.

use super::Port;
use crate::sys;

/// What decides at which receive queue a frame arrives: the Toeplitz hash of its addresses and
/// ports from `key`, of which the lower bits choose an entry of `table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spreading {
    /// 40 bytes, or 52 of which 40 matter.
    pub key: Vec<u8>,
    /// Receive queues.
    pub table: Vec<u16>,
    /// What is hashed; the card chooses in some other way for the rest, mostly the first entry.
    pub hashes: Hashes,
}

/// The kinds of packet that a card hashes, TCP and UDP with their ports. Fragments have none, so
/// they go by their addresses, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashes {
    /// TCP over IPv4.
    pub tcp4: bool,
    /// UDP over IPv4.
    pub udp4: bool,
    /// Anything else over IPv4, by its addresses.
    pub ip4: bool,
    /// TCP over IPv6.
    pub tcp6: bool,
    /// UDP over IPv6.
    pub udp6: bool,
    /// Anything else over IPv6, by its addresses.
    pub ip6: bool,
}

impl Hashes {
    fn of(bits: u8) -> Option<Self> {
        let has = |bit: sys::shim_hashes| u32::from(bits) & bit != 0;
        (bits != 0).then(|| Self {
            tcp4: has(sys::SHIM_HASHES_TCP4),
            udp4: has(sys::SHIM_HASHES_UDP4),
            ip4: has(sys::SHIM_HASHES_IP4),
            tcp6: has(sys::SHIM_HASHES_TCP6),
            udp6: has(sys::SHIM_HASHES_UDP6),
            ip6: has(sys::SHIM_HASHES_IP6),
        })
    }
}

impl Port {
    /// Has a started card give its receive queues equal shares, and asks what it made of it. The
    /// caller has the turn.
    pub(super) fn spread(&self, given: &sys::shim_port_settings) -> Option<Spreading> {
        let queues = given.receive_queues;
        if queues < 2 {
            return None;
        }
        // SAFETY: the port is ours and started, and this is our turn; the shim only reads.
        if unsafe { sys::shim_port_spread(self.id, given) } != 0 {
            return None;
        }
        // SAFETY: a structure of integers only, for which zeroes are fine.
        let mut found: sys::shim_port_spreading = unsafe { std::mem::zeroed() };
        // SAFETY: as above; the shim fills the structure.
        if unsafe { sys::shim_port_spreading(self.id, &mut found) } != 0 {
            return None;
        }
        let key = found.key.get(..found.key_length.into())?.to_vec();
        let table = found.table.get(..found.entries.into())?.to_vec();
        let hashes = Hashes::of(found.hashes)?;
        // Drivers that cannot tell leave zeroes, or more queues than there are.
        let told = key.iter().any(|byte| *byte != 0) && table.iter().all(|queue| *queue < queues);
        told.then_some(Spreading { key, table, hashes })
    }
}
