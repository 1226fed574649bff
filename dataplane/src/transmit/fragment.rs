//! Packets that are longer than the way out allows, and may be fragmented, leave in parts (RFC 791 section 3.2).

use arrayvec::ArrayVec;

use crate::frame::{Frame, Link};
use crate::wire::ethernet;
use crate::wire::ipv4::{self, Ipv4};

/// The most parts that one packet leaves in: the longest packet that a buffer holds, over the least MTU.
pub const MOST: usize = 32;

/// The longest header of a frame: Ethernet, and IPv4 with options.
const HEADERS: usize = ethernet::HEADER + 60;

/// Parts `frame` into fragments of at most `mtu` bytes; `None` if buffers run out.
pub fn split<L: Link>(
    mut frame: L::Frame,
    mtu: u16,
    link: &mut L,
) -> Option<ArrayVec<L::Frame, MOST>> {
    let (ip, payload) = Ipv4::split(frame.bytes_mut().get_mut(ethernet::HEADER..)?).ok()?;
    let header = ip.length();
    let length = payload.len();
    // Every fragment but the last carries a multiple of 8 bytes.
    let share = usize::from(mtu).checked_sub(header)? & !7;
    if share == 0 || length.div_ceil(share) > MOST {
        return None;
    }
    let front = ethernet::HEADER + header;
    let mut headers = [0; HEADERS];
    let headers = headers.get_mut(..front)?;
    headers.copy_from_slice(frame.bytes().get(..front)?);
    ipv4::keep_copied_options(headers.get_mut(ethernet::HEADER + ipv4::HEADER..)?);
    let mut fragments = ArrayVec::new();
    for at in (share..length).step_by(share) {
        let end = (at + share).min(length);
        // The headers go right in front of this share, over the end of the one before, which is put back.
        let part = frame.bytes_mut().get_mut(at..front + end)?;
        let mut covered = [0; HEADERS];
        let covered = covered.get_mut(..front)?;
        covered.copy_from_slice(part.get(..front)?);
        part.get_mut(..front)?.copy_from_slice(headers);
        write(part.get_mut(ethernet::HEADER..)?, header, at, end < length)?;
        fragments.push(link.allocate(part)?);
        part.get_mut(..front)?.copy_from_slice(covered);
    }
    frame.truncate(front + share);
    write(frame.bytes_mut().get_mut(ethernet::HEADER..)?, header, 0, true)?;
    fragments.insert(0, frame);
    Some(fragments)
}

fn write(packet: &mut [u8], header: usize, at: usize, more: bool) -> Option<()> {
    let total = packet.len() as u16;
    ipv4::write_fragment(packet.get_mut(..header)?, (at / 8) as u16, more, total);
    Some(())
}
