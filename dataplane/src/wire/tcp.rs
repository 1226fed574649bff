//! TCP (RFC 9293 section 3.1).

use super::Malformed;
use super::checksum::Change;

/// Length of a header without options, in bytes.
pub const HEADER: usize = 20;

/// The control bits that forwarding looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;

    /// The first packet of a connection: SYN without ACK.
    #[inline]
    pub fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN
    }

    /// A packet that ends a connection, or one direction of it: FIN or RST.
    #[inline]
    pub fn closes(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }

    /// Whether SYN is set, be it with ACK or without.
    #[inline]
    pub fn synchronises(self) -> bool {
        self.0 & Self::SYN != 0
    }
}

/// A TCP header, read and written where it lies.
pub struct Tcp<'p>(&'p mut [u8; HEADER]);

impl<'p> Tcp<'p> {
    /// Splits the header off a packet's payload. The data offset is checked to lie within it.
    #[inline]
    pub fn split(payload: &'p mut [u8]) -> Result<Self, Malformed> {
        let available = payload.len();
        let header = payload.first_chunk_mut::<HEADER>().ok_or(Malformed::Truncated)?;
        match usize::from(header[12] >> 4) * 4 {
            ..HEADER => Err(Malformed::Impossible),
            length if length > available => Err(Malformed::Truncated),
            _ => Ok(Self(header)),
        }
    }

    /// The sender's port.
    #[inline]
    pub fn source(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// The receiver's port.
    #[inline]
    pub fn destination(&self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// The control bits.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.0[13])
    }

    /// Replaces the source port; `address` is what changed in the pseudo-header.
    #[inline]
    pub fn set_source(&mut self, port: u16, address: Change) {
        self.mend(address.word(self.source(), port));
        self.0[..2].copy_from_slice(&port.to_be_bytes());
    }

    /// Replaces the destination port; `address` is what changed in the pseudo-header.
    #[inline]
    pub fn set_destination(&mut self, port: u16, address: Change) {
        self.mend(address.word(self.destination(), port));
        self.0[2..4].copy_from_slice(&port.to_be_bytes());
    }

    #[inline]
    fn mend(&mut self, change: Change) {
        let mended = change.mend(u16::from_be_bytes([self.0[16], self.0[17]]));
        self.0[16..18].copy_from_slice(&mended.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_offset_outside_the_segment_is_refused() {
        let refusal = |offset: u8| {
            let mut segment = [0; 24];
            segment[12] = offset << 4;
            Tcp::split(&mut segment).err()
        };
        assert_eq!(refusal(4), Some(Malformed::Impossible));
        assert_eq!(refusal(5), None);
        assert_eq!(refusal(6), None);
        assert_eq!(refusal(7), Some(Malformed::Truncated));
        assert_eq!(Tcp::split(&mut [0x50; 19]).err(), Some(Malformed::Truncated));
    }
}
