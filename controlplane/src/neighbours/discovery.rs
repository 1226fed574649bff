//! One message of neighbour discovery (RFC 4861): a solicitation or an advertisement.

use std::ops::RangeInclusive;

use dataplane::wire::icmpv6::kind;
use dataplane::wire::{Address, Mac};

use crate::icmpv6::{self, Packet, UNSPECIFIED, is_unicast};

const SOLICITATION: u8 = kind::NEIGHBOUR_SOLICITATION;
const ADVERTISEMENT: u8 = kind::NEIGHBOUR_ADVERTISEMENT;
/// The types of neighbour discovery: what is said about routers too (RFC 4861 section 4).
pub const TYPES: RangeInclusive<u8> = kind::ROUTER_SOLICITATION..=kind::REDIRECT;

/// A message that a router has passed on has less (RFC 4861 section 7.1): nobody afar can speak here.
const HOP_LIMIT: u8 = 255;
/// Type, code, checksum, flags and target, in bytes; options follow.
const FIXED: usize = 24;
/// Options in units of 8 bytes (RFC 4861 section 4.6.1): a hardware address is one.
const UNIT: usize = 8;
const SOURCE_OPTION: u8 = 1;
const TARGET_OPTION: u8 = 2;

/// In an advertisement's first byte of flags.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Every station on the link.
const ALL_NODES: Address = Address::from_bits(0xff02 << 112 | 1);
/// With the last three bytes of an address: the group that asks for it (RFC 4291 section 2.7.1).
const SOLICITED_NODE: u128 = 0xff02 << 112 | 0x1_ff00_0000;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Who has the target address?
    Solicitation,
    /// The sender has it.
    Advertisement {
        /// It answers a solicitation, so the sender is there and hears us.
        solicited: bool,
        /// What it says is to replace what is known.
        overrides: bool,
    },
}

/// A message, with what is of use in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// The station that sent the frame.
    pub from: Mac,
    /// The sender's address; unspecified in a solicitation that looks for duplicates (RFC 4862).
    pub source: Address,
    /// Whom it is for.
    pub destination: Address,
    /// The address in question.
    pub target: Address,
    /// The hardware address that the option gives: the asker's, or the target's.
    pub mac: Option<Mac>,
}

/// Why a frame is no message for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Useless {
    /// It is too short or damaged, or does not pass RFC 4861 section 7.1.
    Malformed,
    /// It comes from afar, or gives a hardware address that no station has.
    Forged,
    /// It is right, but about routers.
    Other,
}

impl Message {
    /// Reads a whole frame, as RFC 4861 sections 7.1.1 and 7.1.2 ask.
    pub fn read(frame: &[u8]) -> Result<Self, Useless> {
        let packet = Packet::read(frame).ok_or(Useless::Malformed)?;
        if packet.hop_limit != HOP_LIMIT {
            return Err(Useless::Forged);
        }
        let [kind, code, ..] = *packet.message else { return Err(Useless::Malformed) };
        if code != 0 {
            return Err(Useless::Malformed);
        }
        if kind != SOLICITATION && kind != ADVERTISEMENT {
            return Err(Useless::Other);
        }
        let (fixed, options) =
            packet.message.split_first_chunk::<FIXED>().ok_or(Useless::Malformed)?;
        let target = icmpv6::address(&fixed[8..]).ok_or(Useless::Malformed)?;
        let option = if kind == SOLICITATION { SOURCE_OPTION } else { TARGET_OPTION };
        let message = Self {
            kind: match kind {
                SOLICITATION => Kind::Solicitation,
                _ => Kind::Advertisement {
                    solicited: fixed[4] & SOLICITED != 0,
                    overrides: fixed[4] & OVERRIDE != 0,
                },
            },
            from: packet.from,
            source: packet.source,
            destination: packet.destination,
            target,
            mac: hardware_address(options, option)?,
        };
        let is_forged = message.mac.is_some_and(|mac| !mac.is_station());
        match () {
            () if !message.may_be() => Err(Useless::Malformed),
            () if is_forged => Err(Useless::Forged),
            () => Ok(message),
        }
    }

    /// Whether its parts go together.
    fn may_be(&self) -> bool {
        let is_probe = self.source == UNSPECIFIED;
        let parts = match self.kind {
            Kind::Solicitation if is_probe => {
                self.destination == solicited_node(self.target) && self.mac.is_none()
            }
            Kind::Solicitation => true,
            Kind::Advertisement { solicited, .. } => {
                !(is_probe || solicited && icmpv6::is_multicast(self.destination))
            }
        };
        parts && is_unicast(self.target) && (is_probe || is_unicast(self.source))
    }

    /// Asks `station`, or everybody, who has `target`.
    pub fn asking(our_mac: Mac, source: Address, target: Address, station: Option<Mac>) -> Vec<u8> {
        let destination = if station.is_some() { target } else { solicited_node(target) };
        let message = Self {
            kind: Kind::Solicitation,
            from: our_mac,
            source,
            destination,
            target,
            mac: Some(our_mac),
        };
        message.frame(station.unwrap_or_else(|| icmpv6::group_mac(destination)))
    }

    /// Asks whether anybody has `target`, from somebody who has no address yet (RFC 4862 section 5.4.2).
    pub fn probing(our_mac: Mac, target: Address) -> Vec<u8> {
        let destination = solicited_node(target);
        let message = Self {
            kind: Kind::Solicitation,
            from: our_mac,
            source: UNSPECIFIED,
            destination,
            target,
            mac: None,
        };
        message.frame(icmpv6::group_mac(destination))
    }

    /// Answers `solicitation` with `our_mac`: the asker, or everybody if it has no address yet (RFC 4861
    /// section 7.2.4).
    pub fn answering(solicitation: &Self, our_mac: Mac) -> Vec<u8> {
        if solicitation.source == UNSPECIFIED {
            return Self::announcing(our_mac, solicitation.target);
        }
        let message = Self {
            kind: Kind::Advertisement { solicited: true, overrides: true },
            from: our_mac,
            source: solicitation.target,
            destination: solicitation.source,
            target: solicitation.target,
            mac: Some(our_mac),
        };
        message.frame(solicitation.mac.unwrap_or(solicitation.from))
    }

    /// Tells everybody that `our_mac` has `target` (RFC 4861 section 7.2.6).
    pub fn announcing(our_mac: Mac, target: Address) -> Vec<u8> {
        let message = Self {
            kind: Kind::Advertisement { solicited: false, overrides: true },
            from: our_mac,
            source: target,
            destination: ALL_NODES,
            target,
            mac: Some(our_mac),
        };
        message.frame(icmpv6::group_mac(ALL_NODES))
    }

    /// The frame that carries it to the station or group `to`.
    pub fn frame(&self, to: Mac) -> Vec<u8> {
        // Never the router flag: we send no router advertisements, so nobody has us in its list of routers.
        let (kind, flags, option) = match self.kind {
            Kind::Solicitation => (SOLICITATION, 0, SOURCE_OPTION),
            Kind::Advertisement { solicited, overrides } => {
                let solicited = if solicited { SOLICITED } else { 0 };
                let overrides = if overrides { OVERRIDE } else { 0 };
                (ADVERTISEMENT, solicited | overrides, TARGET_OPTION)
            }
        };
        let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        message.extend(self.target.bits().to_be_bytes());
        if let Some(mac) = self.mac {
            message.extend([option, 1]);
            message.extend(mac.0);
        }
        let packet = Packet {
            from: self.from,
            to,
            source: self.source,
            destination: self.destination,
            traffic_class: 0,
            hop_limit: HOP_LIMIT,
            message: &message,
        };
        packet.frame()
    }
}

/// The group that a solicitation for `target` goes to (RFC 4291 section 2.7.1).
fn solicited_node(target: Address) -> Address {
    Address::from_bits(SOLICITED_NODE | target.bits() & 0xff_ffff)
}

/// The hardware address in the first option of type `wanted`; every option must have a length that fits.
fn hardware_address(mut options: &[u8], wanted: u8) -> Result<Option<Mac>, Useless> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * UNIT;
        let (option, rest) =
            options.split_at_checked(length).filter(|_| units != 0).ok_or(Useless::Malformed)?;
        if kind == wanted && found.is_none() {
            // Ethernet's addresses have six bytes (RFC 2464 section 6).
            found =
                Some(icmpv6::mac(&option[2..]).filter(|_| units == 1).ok_or(Useless::Malformed)?);
        }
        options = rest;
    }
    if options.is_empty() { Ok(found) } else { Err(Useless::Malformed) }
}
