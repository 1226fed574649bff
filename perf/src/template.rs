//! Frames written fast: everything is there but the client, the time and what these do to the checksums.

use dataplane::wire::ethernet;
use dataplane::wire::tcp::Flags;
use dataplane::wire::{Address, Mac, ipv4, ipv6};

use crate::traffic::{self, Ends, Family, Scene, Size};

/// Marks our frames, in place of the window that they offer; the trial's number is added.
const MARK: u16 = 0xbe00;
/// Where a TCP header has its fields (RFC 9293 section 3.1).
const SEQUENCE: usize = 4;
const WINDOW: usize = 14;
const CHECKSUM: usize = 16;
/// Where an IPv4 header has its checksum, and its source.
const IPV4_CHECKSUM: usize = 10;
const IPV4_SOURCE: usize = 12;
/// Where an IPv6 header has its source.
const IPV6_SOURCE: usize = 8;

/// A frame of a scene that lacks its client and its time.
#[derive(Clone)]
pub struct Template {
    scene: Scene,
    bytes: Vec<u8>,
    /// Where the TCP header begins.
    transport: usize,
    mark: u16,
}

impl Template {
    /// Requests of the scene's flows with these control bits, between these stations.
    pub fn new(scene: Scene, macs: [Mac; 2], flags: u8, size: Size) -> Self {
        let length = size.of(0, scene.family);
        let unspecified: Address = match scene.family {
            Family::Ipv4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
            Family::Ipv6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let ends = Ends { source: (unspecified, 0), ..scene.ends(0) };
        let mut bytes = vec![0; length];
        traffic::write(&mut bytes, macs, ends, flags, length);
        let ip = match scene.family {
            Family::Ipv4 => ipv4::HEADER,
            Family::Ipv6 => ipv6::HEADER,
        };
        let transport = ethernet::HEADER + ip;
        let mut template = Self { scene, bytes, transport, mark: 0 };
        // As if the numbers and the window had been zero, which is what the checksum is mended from.
        let acknowledged = u32::from(flags != Flags::SYN);
        template.replace(transport + CHECKSUM, -1 - i64::from(acknowledged) - 0xffff);
        template.bytes[transport + SEQUENCE..transport + SEQUENCE + 8].fill(0);
        template.bytes[transport + WINDOW..][..2].fill(0);
        template.of_trial(0)
    }

    /// The same, with frames that no other trial takes for its own.
    pub fn of_trial(mut self, number: u8) -> Self {
        let mark = MARK + u16::from(number);
        self.replace(self.transport + CHECKSUM, i64::from(mark) - i64::from(self.mark));
        self.bytes[self.transport + WINDOW..][..2].copy_from_slice(&mark.to_be_bytes());
        self.mark = mark;
        self
    }

    /// Bytes of a frame.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the frame of a flow that is sent at `time`; `to` is [`Template::length`] bytes long.
    #[inline]
    pub fn write(&self, to: &mut [u8], flow: u32, time: u64) {
        to.copy_from_slice(&self.bytes);
        let (address, port) = self.scene.ends(flow).source;
        let time_sum = words(&time.to_be_bytes());
        let port_sum = i64::from(port);
        let address_sum = match self.scene.family {
            Family::Ipv4 => {
                let octets = address.low().to_be_bytes();
                let at = ethernet::HEADER + IPV4_SOURCE;
                to[at..at + 4].copy_from_slice(&octets);
                mend(to, ethernet::HEADER + IPV4_CHECKSUM, words(&octets));
                words(&octets)
            }
            Family::Ipv6 => {
                let octets = address.bits().to_be_bytes();
                let at = ethernet::HEADER + IPV6_SOURCE;
                to[at..at + 16].copy_from_slice(&octets);
                words(&octets)
            }
        };
        let transport = self.transport;
        to[transport..transport + 2].copy_from_slice(&port.to_be_bytes());
        to[transport + SEQUENCE..transport + SEQUENCE + 8].copy_from_slice(&time.to_be_bytes());
        mend(to, transport + CHECKSUM, address_sum + port_sum + time_sum);
    }

    /// When a frame of ours was sent, that has arrived with `outer` more bytes in front of its IP header; `None` if
    /// it is none of this trial's.
    #[inline]
    pub fn time_of(&self, frame: &[u8], outer: usize) -> Option<u64> {
        let transport = frame.get(self.transport + outer..)?;
        let mark = transport.get(WINDOW..WINDOW + 2)?;
        if mark != self.mark.to_be_bytes() {
            return None;
        }
        Some(u64::from_be_bytes(*transport.get(SEQUENCE..)?.first_chunk()?))
    }

    fn replace(&mut self, at: usize, change: i64) {
        mend(&mut self.bytes, at, change);
    }
}

/// The sum of 16-bit words.
#[inline]
fn words(bytes: &[u8]) -> i64 {
    bytes.chunks_exact(2).map(|pair| i64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

/// Changes the checksum at `at` as if words that add up to `change` were added to what it covers (RFC 1624).
#[inline]
fn mend(frame: &mut [u8], at: usize, change: i64) {
    let old = u16::from_be_bytes([frame[at], frame[at + 1]]);
    let sum = (i64::from(!old) + change).rem_euclid(0xffff) as u16;
    // Zero and 0xffff are the same number here; a sum of something is never zero.
    let sum = if sum == 0 { 0xffff } else { sum };
    frame[at..at + 2].copy_from_slice(&(!sum).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use dataplane::snapshot::Protocol;
    use dataplane::wire::checksum;
    use dataplane::wire::ipv4::Ipv4;

    use super::*;
    use crate::traffic::Mode;

    #[test]
    fn every_frame_has_right_checksums_its_flow_and_its_time() {
        for family in [Family::Ipv4, Family::Ipv6] {
            for flags in [Flags::SYN, Flags::ACK] {
                let scene =
                    Scene { mode: Mode::Dr, family, flows: 1_000_000, services: 1, servers: 1 };
                let template = Template::new(scene, [Mac([2; 6]); 2], flags, Size::Fixed(64));
                let template = template.of_trial(200).of_trial(7);
                let mut frame = vec![0; template.length()];
                for flow in [0, 1, 65_535, 131_071, 131_072, 999_999] {
                    let time = u64::from(flow) * 0x1234_5678_9abc;
                    template.write(&mut frame, flow, time);
                    let ends = Ends::of(&frame).unwrap();
                    assert_eq!(ends, scene.ends(flow));
                    assert_eq!(template.time_of(&frame, 0), Some(time));
                    let end = template.transport + 20;
                    let (from, to) = (ends.source.0, ends.destination.0);
                    let segment = &frame[template.transport..end];
                    assert!(
                        checksum::transport_is_right(from, to, Protocol::Tcp as u8, segment),
                        "{family:?} {flags} {flow}"
                    );
                    if family == Family::Ipv4 {
                        assert!(Ipv4::split(&mut frame[14..]).unwrap().0.checksum_is_right());
                    }
                }
            }
        }
    }

    #[test]
    fn a_strange_frame_has_no_time() {
        let scene =
            Scene { mode: Mode::Dr, family: Family::Ipv4, flows: 1, services: 1, servers: 1 };
        let template = Template::new(scene, [Mac([2; 6]); 2], Flags::ACK, Size::Fixed(64));
        assert_eq!(template.time_of(&[0; 60], 0), None);
        assert_eq!(template.time_of(&[0; 20], 0), None);
        let mut frame = vec![0; template.length()];
        template.write(&mut frame, 0, 1);
        assert_eq!(template.time_of(&frame, 0), Some(1));
        assert_eq!(template.of_trial(1).time_of(&frame, 0), None, "it is another trial's");
    }
}
