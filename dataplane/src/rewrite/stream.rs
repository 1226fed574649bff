//! Step 5e, what changes within the stream of a translated connection: sequence numbers, if the two sides do not
//! count alike ([`super::sequence`]), and the addresses that FTP sends as text ([`super::ftp`]).

use arrayvec::ArrayVec;

use super::Surroundings;
use super::ftp::{self, Announcement};
use super::sequence::{self, Replaced};
use crate::counters::Reason;
use crate::frame::{Frame, Link};
use crate::lookup::Translation;
use crate::lookup::expectations::Heard;
use crate::lookup::flow_table::{Direction, FlowTable, Place, mark};
use crate::parse::{Packet, Part, ip_packet};
use crate::snapshot::Protocol;
use crate::wire::checksum::{self, Change};
use crate::wire::ethernet;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::protocol;
use crate::wire::tcp::{self, Tcp};

/// Mends the stream of a packet that is about to be translated; gives the packet's length then.
///
/// # Errors
/// Why it is dropped.
#[inline]
pub fn mended<L: Link>(
    frame: &mut L::Frame,
    packet: &Packet,
    translation: &Translation,
    surroundings: &mut Surroundings<'_, L>,
) -> Result<u16, Reason> {
    let Some((place, direction)) = translation.flow else { return Ok(packet.length) };
    if !surroundings.memory.flows.state(place).has(mark::ADJUSTED | mark::FTP) {
        return Ok(packet.length);
    }
    specially(frame, packet, (translation, place, direction), surroundings)
}

#[cold]
fn specially<L: Link>(
    frame: &mut L::Frame,
    packet: &Packet,
    (translation, place, direction): (&Translation, Place, Direction),
    surroundings: &mut Surroundings<'_, L>,
) -> Result<u16, Reason> {
    let flows = &mut surroundings.memory.flows;
    // The flow may have ended in this very burst, and another be where it was.
    let is_ours = flows.is_of(place, &packet.flow, direction);
    if !is_ours || packet.flow.protocol != Protocol::Tcp || packet.part == Part::Later {
        return Ok(packet.length);
    }
    let mut length = packet.length;
    if flows.state(place).has(mark::FTP)
        && packet.part == Part::Whole
        && let Some((found, text)) = announcement(frame, packet, direction)
    {
        length =
            announced(frame, packet, (found, text), (translation, place, direction), surroundings)?;
    }
    let flows = &mut surroundings.memory.flows;
    if flows.state(place).has(mark::ADJUSTED) {
        let segment = ip_packet(frame).get_mut(usize::from(packet.transport)..usize::from(length));
        renumber(segment.ok_or(Reason::Malformed)?, flows, place, direction)
            .ok_or(Reason::Malformed)?;
    }
    Ok(length)
}

/// What a segment of a control connection announces, and where in the segment its text begins.
fn announcement<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    direction: Direction,
) -> Option<(Announcement, usize)> {
    let (from, to) = (usize::from(packet.transport), usize::from(packet.length));
    let segment = ip_packet(frame).get_mut(from..to)?;
    let text = Tcp::split(segment).ok()?.length();
    let payload = segment.get(text..).filter(|payload| !payload.is_empty())?;
    let found = match direction {
        Direction::Original => ftp::find_command(payload),
        Direction::Reply => ftp::find_reply(payload),
    }?;
    Some((found, text))
}

/// Follows an announcement; gives the packet's length then.
fn announced<L: Link>(
    frame: &mut L::Frame,
    packet: &Packet,
    (found, text): (Announcement, usize),
    (translation, place, direction): (&Translation, Place, Direction),
    surroundings: &mut Surroundings<'_, L>,
) -> Result<u16, Reason> {
    let Surroundings { snapshot, memory, now, counters, .. } = surroundings;
    let (from, to) = (usize::from(packet.transport), usize::from(packet.length));
    let segment = ip_packet(frame).get_mut(from..to).ok_or(Reason::Malformed)?;
    // Nobody will notice afterwards if it is wrong, because it is made anew.
    let flow = &packet.flow;
    if !checksum::transport_is_right(flow.source, flow.destination, protocol::TCP, segment) {
        return Err(Reason::BadTransportChecksum);
    }
    let (address, port) = match memory.hear(&found, (place, direction), snapshot, *now) {
        Heard::Followed => return Ok(packet.length),
        Heard::Refused => {
            counters.announcements_refused.add(1);
            return Ok(packet.length);
        }
        Heard::NoRoom => return Err(Reason::HelperTableFull),
        Heard::Say(address, port) => (address, port),
    };
    let mut new = ArrayVec::new();
    if !ftp::write(found.kind, address, port, &mut new) {
        return Ok(packet.length); // of the other family: not for this kind of announcement
    }
    let at = text + found.at.start..text + found.at.end;
    let old = segment.get(at.clone()).ok_or(Reason::Malformed)?;
    if old == new.as_slice() {
        return Ok(packet.length);
    }
    let length = usize::from(packet.length) + new.len() - old.len();
    let way_out = snapshot.interface(translation.hop.interface).ok_or(Reason::NoInterface)?;
    if length > usize::from(way_out.mtu) {
        return Err(Reason::TooBig);
    }
    let sequence = Tcp::split(segment)?.sequence();
    let replaced = Replaced {
        at: sequence.wrapping_add(found.at.start as u32),
        old: at.len() as u16,
        new: new.len() as u16,
    };
    note(&mut memory.flows, place, direction, replaced)?;
    replace(frame, packet, at, &new).ok_or(Reason::NoBuffer)?;
    complete(frame, packet, length).ok_or(Reason::Malformed)?;
    Ok(length as u16)
}

/// Remembers a replaced text, if numbers depend on it.
fn note(
    flows: &mut FlowTable,
    place: Place,
    direction: Direction,
    replaced: Replaced,
) -> Result<(), Reason> {
    if replaced.old == replaced.new && !flows.state(place).has(mark::ADJUSTED) {
        return Ok(());
    }
    let noted = flows.note_replaced(place, way(direction), replaced);
    if noted { Ok(()) } else { Err(Reason::NotAdjustable) }
}

/// Which way a stream goes.
fn way(direction: Direction) -> sequence::Direction {
    match direction {
        Direction::Original => sequence::Direction::ToServer,
        Direction::Reply => sequence::Direction::ToClient,
    }
}

/// Puts `new` where in the segment the text `at` stood. `None` if the buffer has no room.
fn replace<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    at: std::ops::Range<usize>,
    new: &[u8],
) -> Option<()> {
    let end = ethernet::HEADER + usize::from(packet.length);
    let segment = ethernet::HEADER + usize::from(packet.transport);
    frame.truncate(end); // Ethernet's padding would come to stand in the text
    let (from, to) = (segment + at.start, segment + at.end);
    let behind = from + new.len();
    if new.len() > at.len() && !frame.grow_back(new.len() - at.len()) {
        return None;
    }
    let bytes = frame.bytes_mut();
    if to > end || behind + (end - to) > bytes.len() {
        return None;
    }
    bytes.copy_within(to..end, behind);
    bytes.get_mut(from..behind)?.copy_from_slice(new);
    Some(())
}

/// Gives a packet whose text has changed its new length, and its segment a new checksum.
fn complete<F: Frame>(frame: &mut F, packet: &Packet, length: usize) -> Option<()> {
    let bytes = ip_packet(frame);
    if packet.flow.source.is_v4() {
        let (mut ip, _) = Ipv4::split(bytes).ok()?;
        ip.set_total_length(length as u16);
    } else {
        let (mut ip, _) = Ipv6::split(bytes).ok()?;
        ip.set_payload_length(length.checked_sub(ipv6::HEADER)? as u16);
    }
    let segment = bytes.get_mut(usize::from(packet.transport)..length)?;
    segment.get_mut(CHECKSUM)?.fill(0);
    let flow = &packet.flow;
    let checksum = checksum::of_transport(flow.source, flow.destination, protocol::TCP, segment);
    segment.get_mut(CHECKSUM)?.copy_from_slice(&checksum.to_be_bytes());
    frame.truncate(ethernet::HEADER + length); // not before: until now the header gave the old length
    Some(())
}

/// Where the checksum stands in a TCP header.
const CHECKSUM: std::ops::Range<usize> = 16..18;

/// Gives a segment the numbers that its receiver expects.
fn renumber(
    segment: &mut [u8],
    flows: &mut FlowTable,
    place: Place,
    direction: Direction,
) -> Option<()> {
    let (place, way) = (place.number(), way(direction));
    let adjustments = &mut flows.adjustments;
    let mut tcp = Tcp::split(segment).ok()?;
    let header = tcp.length();
    tcp.set_sequence(adjustments.sequence(place, way, tcp.sequence()));
    if tcp.flags().acknowledges() {
        let acknowledgement = adjustments.acknowledgement(place, way, tcp.acknowledgement());
        tcp.set_acknowledgement(acknowledgement);
    }
    if header == tcp::HEADER {
        return Some(());
    }
    let options = segment.get_mut(tcp::HEADER..header)?;
    let before = ArrayVec::<u8, 40>::try_from(&*options).ok()?;
    if adjustments.selective(place, way, options) {
        let words = |bytes: &[u8]| -> ArrayVec<u16, 20> {
            bytes.as_chunks::<2>().0.iter().map(|&word| u16::from_be_bytes(word)).collect()
        };
        let change = words(&before)
            .into_iter()
            .zip(words(options))
            .fold(Change::default(), |change, (from, to)| change.word(from, to));
        let field: &mut [u8; 2] = segment.get_mut(CHECKSUM)?.try_into().ok()?;
        *field = change.mend(u16::from_be_bytes(*field)).to_be_bytes();
    }
    Some(())
}
