//! ICMP (RFC 792): the one error that forwarding has to send itself.

use super::checksum;

/// Length of the header, in bytes.
pub const HEADER: usize = 8;

/// How many bytes behind the IP header an error quotes (RFC 792).
pub const QUOTED: usize = 8;

/// "Fragmentation needed and DF set" with the MTU that would have fitted (RFC 1191 section 4),
/// quoting `original`: an IP header and the first bytes behind it. Written over `message`, which
/// must be [`HEADER`] bytes longer than `original`.
pub fn write_fragmentation_needed(message: &mut [u8], original: &[u8], mtu: u16) {
    const DESTINATION_UNREACHABLE: u8 = 3;
    const FRAGMENTATION_NEEDED: u8 = 4;
    let [high, low] = mtu.to_be_bytes();
    let header = [DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, 0, 0, high, low];
    message[..HEADER].copy_from_slice(&header);
    message[HEADER..].copy_from_slice(original);
    let checksum = checksum::of(message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}
