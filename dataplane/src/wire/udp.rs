//! UDP (RFC 768).

use super::Malformed;
use super::checksum::Change;

/// Length of the header, in bytes.
pub const HEADER: usize = 8;

/// A UDP header, read and written where it lies.
pub struct Udp<'p>(&'p mut [u8; HEADER]);

impl<'p> Udp<'p> {
    /// Splits the header off a packet's payload. The length field is checked to lie within it.
    #[inline]
    pub fn split(payload: &'p mut [u8]) -> Result<Self, Malformed> {
        let available = payload.len();
        let header = payload.first_chunk_mut::<HEADER>().ok_or(Malformed::Truncated)?;
        match usize::from(u16::from_be_bytes([header[4], header[5]])) {
            ..HEADER => Err(Malformed::Impossible),
            length if length > available => Err(Malformed::Truncated),
            _ => Ok(Self(header)),
        }
    }

    /// The header of a payload whose length was judged before: of a first fragment it counts all parts.
    #[inline]
    pub fn of(payload: &'p mut [u8]) -> Option<Self> {
        payload.first_chunk_mut().map(Self)
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

    /// Replaces both ports; `addresses` is what changed in the pseudo-header.
    #[inline]
    pub fn set_ports(&mut self, source: u16, destination: u16, addresses: Change) {
        let ports = [source, destination].map(u16::to_be_bytes);
        let change = addresses.word(self.source(), source).word(self.destination(), destination);
        self.mend(change);
        self.0[..4].copy_from_slice(ports.as_flattened());
    }

    /// Something changed in the pseudo-header alone.
    #[inline]
    pub fn addresses_changed(&mut self, addresses: Change) {
        self.mend(addresses);
    }

    #[inline]
    fn mend(&mut self, change: Change) {
        let checksum = u16::from_be_bytes([self.0[6], self.0[7]]);
        if checksum == 0 {
            return; // the sender computed none, and so do we
        }
        let mended = match change.mend(checksum) {
            0 => 0xffff, // zero would say that there is none
            mended => mended,
        };
        self.0[6..].copy_from_slice(&mended.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_outside_the_datagram_is_refused() {
        let refusal = |length: u8| Udp::split(&mut [0, 0, 0, 0, 0, length, 0, 0, 9]).err();
        assert_eq!(refusal(7), Some(Malformed::Impossible));
        assert_eq!(refusal(8), None);
        assert_eq!(refusal(9), None);
        assert_eq!(refusal(10), Some(Malformed::Truncated));
        assert_eq!(Udp::split(&mut [0; 7]).err(), Some(Malformed::Truncated));
    }

    #[test]
    fn no_checksum_stays_none_and_a_sum_of_zero_is_written_as_all_ones() {
        let mut none = [0, 1, 0, 2, 0, 8, 0, 0];
        Udp::split(&mut none).unwrap().set_ports(9, 2, Change::default());
        assert_eq!(none, [0, 9, 0, 2, 0, 8, 0, 0]);
        // ~checksum + ~old + new = 0xffff: the mended checksum would be zero.
        let mut some = [0, 1, 0, 2, 0, 8, 0x00, 0x01];
        Udp::split(&mut some).unwrap().set_ports(2, 2, Change::default());
        assert_eq!(some[6..], [0xff, 0xff]);
    }
}
