//! One ARP message for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use dataplane::wire::Mac;
use dataplane::wire::ethernet::ethertype;

/// The shortest Ethernet frame without its check sequence, in bytes: an ARP message is shorter.
const FRAME: usize = 60;

/// Ethernet header and message, in bytes.
const LENGTH: usize = 14 + 28;
/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
}

/// A message, with what is of use in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub operation: Operation,
    /// The sender's hardware address.
    pub sender_mac: Mac,
    /// The sender's address; unspecified in a probe.
    pub sender: Ipv4Addr,
    /// The target's hardware address; zero where it is asked for.
    pub target_mac: Mac,
    /// The target's address.
    pub target: Ipv4Addr,
}

/// Why a frame is no message for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Useless {
    /// It is too short, or not ARP for IPv4 over Ethernet.
    Malformed,
    /// Its sender is not who sent the frame, or nobody who can.
    Forged,
}

impl Message {
    /// Reads a whole frame.
    pub fn read(frame: &[u8]) -> Result<Self, Useless> {
        let frame = frame.first_chunk::<LENGTH>().ok_or(Useless::Malformed)?;
        let mac = |at: usize| {
            Mac([
                frame[at],
                frame[at + 1],
                frame[at + 2],
                frame[at + 3],
                frame[at + 4],
                frame[at + 5],
            ])
        };
        let address =
            |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
        if frame[12..14] != ethertype::ARP.to_be_bytes() || frame[14..20] != KIND {
            return Err(Useless::Malformed);
        }
        let operation = match frame[20..22] {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return Err(Useless::Malformed),
        };
        let message = Self {
            operation,
            sender_mac: mac(22),
            sender: address(28),
            target_mac: mac(32),
            target: address(38),
        };
        if mac(6) != message.sender_mac || !message.sender_mac.is_station() {
            return Err(Useless::Forged);
        }
        Ok(message)
    }

    /// Asks who has `target`; an announcement if that is `sender` itself.
    pub fn asking(sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self {
            operation: Operation::Request,
            sender_mac,
            sender,
            target_mac: Mac::default(),
            target,
        }
    }

    /// Answers `request` with `mac`.
    pub fn answering(request: &Self, mac: Mac) -> Self {
        Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender: request.target,
            target_mac: request.sender_mac,
            target: request.sender,
        }
    }

    /// The frame that carries it to `destination`.
    pub fn frame(&self, destination: Mac) -> Vec<u8> {
        let mut frame = vec![0; FRAME];
        frame[..6].copy_from_slice(&destination.0);
        frame[6..12].copy_from_slice(&self.sender_mac.0);
        frame[12..14].copy_from_slice(&ethertype::ARP.to_be_bytes());
        frame[14..20].copy_from_slice(&KIND);
        frame[21] = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        frame[22..28].copy_from_slice(&self.sender_mac.0);
        frame[28..32].copy_from_slice(&self.sender.octets());
        frame[32..38].copy_from_slice(&self.target_mac.0);
        frame[38..42].copy_from_slice(&self.target.octets());
        frame
    }
}
