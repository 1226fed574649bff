//! A capture file sent again, as fast as it was captured, or faster or slower.
//!
//! What is sent is what was captured, byte for byte, so nothing in it says which packet it is: frames are counted
//! where they arrive, and that is all.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arrayvec::ArrayVec;
use dpdk_sys::{Mbuf, Mempool, ReceiveQueue, TransmitQueue, lcore};
use serde::Serialize;

use crate::measurement::Sample;
use crate::progress::Progress;
use crate::receive::Glance;
use crate::send::Sent;

/// Frames of a capture file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// Each with its time in nanoseconds since the first; never earlier than the one before.
    pub frames: Vec<(u64, Vec<u8>)>,
    /// Frames that the capture has only the beginning of; they are sent as they are.
    pub cut: u64,
}

/// The file's first four bytes, as a number in the file's own byte order, with microseconds or nanoseconds.
const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Of the newer format, which this does not read.
const PCAPNG: u32 = 0x0a0d_0d0a;
/// The link type of Ethernet.
const ETHERNET: u32 = 1;
/// The length of the file's header, and of each frame's, in bytes.
const FILE_HEADER: usize = 24;
const FRAME_HEADER: usize = 16;

impl Capture {
    /// Reads a file of the format that tcpdump writes
    /// ([draft-ietf-opsawg-pcap](https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap/)).
    ///
    /// # Errors
    /// If it cannot be read, or is of another format, or a frame is longer than `longest` bytes.
    pub fn open(path: &Path, longest: usize) -> Result<Self> {
        let bytes = std::fs::read(path)
            .with_context(|| format!("FILE: {} cannot be read", path.display()))?;
        Self::read(&bytes, longest).with_context(|| format!("FILE: {}", path.display()))
    }

    /// As [`Self::open`], of the file's bytes.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn read(bytes: &[u8], longest: usize) -> Result<Self> {
        let (header, mut rest) = bytes
            .split_first_chunk::<FILE_HEADER>()
            .context("expected a capture file, found fewer than 24 bytes")?;
        let [a, b, c, d, ..] = *header;
        let little = match u32::from_le_bytes([a, b, c, d]) {
            MICROSECONDS | NANOSECONDS => true,
            PCAPNG => bail!(
                "expected a pcap file, found pcapng: convert it with `editcap -F pcap` or `tcpdump -r … -w …`"
            ),
            _ => false,
        };
        let word = |bytes: &[u8], at: usize| -> u32 {
            let word =
                bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).unwrap_or([0; 4]);
            if little { u32::from_le_bytes(word) } else { u32::from_be_bytes(word) }
        };
        let unit = match word(header, 0) {
            MICROSECONDS => 1000,
            NANOSECONDS => 1,
            other => bail!("expected a pcap file, found one that begins with {other:08x}"),
        };
        let link = word(header, 20) & 0x0fff_ffff;
        if link != ETHERNET {
            bail!("expected a capture of Ethernet frames (link type 1), found link type {link}");
        }
        let mut capture = Self::default();
        let mut first = None;
        let mut last = 0;
        while let Some((header, behind)) = rest.split_first_chunk::<FRAME_HEADER>() {
            let number = capture.frames.len() + 1;
            let (length, original) = (word(header, 8) as usize, word(header, 12) as usize);
            if length > longest {
                bail!(
                    "frame {number}: expected at most {longest} bytes (see --mtu), found {length}"
                );
            }
            let Some((frame, behind)) = behind.split_at_checked(length) else {
                bail!("frame {number}: expected {length} bytes, found the end of the file");
            };
            let at = u64::from(word(header, 0)) * 1_000_000_000 + u64::from(word(header, 4)) * unit;
            last = at.saturating_sub(*first.get_or_insert(at)).max(last);
            capture.cut += u64::from(original > length);
            if length >= dataplane::wire::ethernet::HEADER {
                capture.frames.push((last, frame.to_vec()));
            }
            rest = behind;
        }
        if capture.frames.is_empty() {
            bail!("expected a capture with frames, found none");
        }
        Ok(capture)
    }
}

/// How fast a capture is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// So many times as fast as it was captured; above 0.
    Times(f64),
    /// As fast as it goes.
    Most,
}

impl std::str::FromStr for Speed {
    type Err = crate::error::Expected;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || {
            crate::error::Expected(
                "a factor of 0.001 to 1000000 such as 1, 0.5 or 10, or max".into(),
            )
        };
        if text == "max" {
            return Ok(Self::Most);
        }
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let factor: f64 = text.parse().ok().filter(|_| digits).ok_or_else(refused)?;
        if (0.001..=1e6).contains(&factor) { Ok(Self::Times(factor)) } else { Err(refused()) }
    }
}

/// What became of the frames.
#[derive(Debug, Clone, Serialize)]
pub struct Replayed {
    /// Frames of the capture.
    pub frames: u64,
    /// Frames that the capture has only the beginning of.
    pub cut: u64,
    /// Times that the whole capture was sent.
    pub rounds: u64,
    /// Frames sent.
    pub sent: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Seconds that took.
    pub seconds: f64,
    /// The longest that a frame was sent behind its time, in nanoseconds.
    pub most_late_ns: u64,
    /// Frames that arrived at each port.
    pub received_by_port: Vec<u64>,
    /// Bytes in all of them.
    pub received_bytes: u64,
    /// How it went.
    pub samples: Vec<Sample>,
}

/// Ports, and what goes through them.
#[derive(Debug)]
pub struct Replay {
    /// The way out.
    pub transmit: TransmitQueue,
    /// The ways in.
    pub receive: Vec<ReceiveQueue>,
    /// Where buffers come from.
    pub pool: Mempool,
    /// Ticks of the processor's clock in a second.
    pub hz: u64,
}

impl Replay {
    /// Sends `capture` so many times, and counts what arrives until `drain` after the last frame.
    pub fn run(
        mut self,
        capture: &Capture,
        speed: Speed,
        rounds: u64,
        drain: Duration,
        stop: &AtomicBool,
        progress: &Progress,
    ) -> Replayed {
        let mut replayed = Replayed {
            frames: capture.frames.len() as u64,
            cut: capture.cut,
            rounds: 0,
            sent: 0,
            sent_bytes: 0,
            seconds: 0.0,
            most_late_ns: 0,
            received_by_port: vec![0; self.receive.len()],
            received_bytes: 0,
            samples: Vec::with_capacity(300),
        };
        let start = lcore::tsc();
        let mut next_look = start;
        while replayed.rounds < rounds && !stop.load(Ordering::Relaxed) {
            let began = lcore::tsc();
            let mut rest = &capture.frames[..];
            while !rest.is_empty() && !stop.load(Ordering::Relaxed) {
                rest = self.send_due(rest, began, speed, &mut replayed);
                self.take_bursts(&mut replayed);
                self.look(start, &mut next_look, &mut replayed, progress);
            }
            replayed.rounds += u64::from(rest.is_empty());
        }
        let ended = lcore::tsc();
        replayed.seconds = self.seconds(ended - start);
        let drained = ended + (drain.as_secs_f64() * self.hz as f64) as u64;
        while lcore::tsc() < drained {
            self.take_bursts(&mut replayed);
            self.look(start, &mut next_look, &mut replayed, progress);
        }
        next_look = 0;
        self.look(start, &mut next_look, &mut replayed, progress);
        replayed
    }

    fn seconds(&self, ticks: u64) -> f64 {
        ticks as f64 / self.hz as f64
    }

    /// Sends what is due of `frames`, at most a burst, and returns the rest.
    fn send_due<'c>(
        &mut self,
        frames: &'c [(u64, Vec<u8>)],
        began: u64,
        speed: Speed,
        replayed: &mut Replayed,
    ) -> &'c [(u64, Vec<u8>)] {
        let now = (self.seconds(lcore::tsc() - began) * 1e9) as u64;
        let due = |at: u64| match speed {
            Speed::Times(factor) => (at as f64 / factor) as u64,
            Speed::Most => 0,
        };
        let mut burst = ArrayVec::<Mbuf, 32>::new();
        for (at, bytes) in frames {
            if burst.is_full() || due(*at) > now {
                break;
            }
            let Some(frame) = self.pool.allocate_from(bytes) else { break };
            if speed != Speed::Most {
                replayed.most_late_ns = replayed.most_late_ns.max(now - due(*at));
            }
            burst.push(frame);
        }
        if burst.is_empty() {
            return frames;
        }
        let taken = self.transmit.transmit(&mut burst);
        let (sent, rest) = frames.split_at(taken);
        replayed.sent += taken as u64;
        replayed.sent_bytes += sent.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        rest
    }

    fn take_bursts(&mut self, replayed: &mut Replayed) {
        for (queue, count) in self.receive.iter_mut().zip(&mut replayed.received_by_port) {
            let mut burst = ArrayVec::<Mbuf, 32>::new();
            *count += queue.receive(&mut burst) as u64;
            replayed.received_bytes +=
                burst.iter().map(|frame| frame.frame_len() as u64).sum::<u64>();
            Mbuf::give_back(&mut burst);
        }
    }

    fn look(&self, start: u64, next: &mut u64, replayed: &mut Replayed, progress: &Progress) {
        let now = lcore::tsc();
        if now < *next {
            return;
        }
        *next = now + self.hz / 100;
        let received = replayed.received_by_port.iter().sum();
        progress.report_sent(Sent {
            frames: replayed.sent,
            bytes: replayed.sent_bytes,
            ..Sent::default()
        });
        progress.report_received(Glance {
            frames: received,
            bytes: replayed.received_bytes,
            unique: received,
            ..Glance::default()
        });
        let at = self.seconds(now - start);
        if replayed.samples.len() < replayed.samples.capacity() {
            replayed.samples.push(Sample { at, sent: replayed.sent, received, latency: 0.0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A capture in either byte order, with frames of (seconds, fraction, bytes).
    fn file(magic: u32, little: bool, frames: &[(u32, u32, Vec<u8>)]) -> Vec<u8> {
        let word = |word: u32| if little { word.to_le_bytes() } else { word.to_be_bytes() };
        let mut bytes: Vec<u8> =
            [magic, 0x0004_0002, 0, 0, 65_535, 1].into_iter().flat_map(word).collect();
        for (seconds, fraction, frame) in frames {
            let length = frame.len() as u32;
            bytes.extend([*seconds, *fraction, length, length].into_iter().flat_map(word));
            bytes.extend(frame);
        }
        bytes
    }

    fn refusal(bytes: &[u8]) -> String {
        format!("{:#}", Capture::read(bytes, 100).expect_err("it is refused"))
    }

    #[test]
    fn both_byte_orders_and_units_are_read() {
        let frames = [(10, 5, vec![1; 60]), (10, 8, vec![2; 61]), (9, 0, vec![3; 62])];
        for little in [true, false] {
            for (magic, unit) in [(MICROSECONDS, 1000), (NANOSECONDS, 1)] {
                let capture = Capture::read(&file(magic, little, &frames), 100).unwrap();
                let times: Vec<u64> = capture.frames.iter().map(|(at, _)| *at).collect();
                assert_eq!(times, [0, 3 * unit, 3 * unit], "time does not go back");
                assert_eq!(capture.frames[2].1, [3; 62]);
            }
        }
    }

    #[test]
    fn other_files_are_refused_with_what_was_found() {
        assert!(refusal(b"short").contains("found fewer than 24 bytes"));
        assert!(refusal(&[0x0a, 0x0d, 0x0d, 0x0a].repeat(8)).contains("found pcapng"));
        assert!(refusal(&[7; 24]).contains("found one that begins with 07070707"));
        assert!(refusal(&file(MICROSECONDS, true, &[])).contains("found none"));
        let long = file(MICROSECONDS, true, &[(0, 0, vec![0; 101])]);
        assert!(
            refusal(&long).contains("frame 1: expected at most 100 bytes (see --mtu), found 101")
        );
        let mut cut = file(MICROSECONDS, true, &[(0, 0, vec![0; 60])]);
        cut.truncate(80);
        assert!(refusal(&cut).contains("frame 1: expected 60 bytes, found the end of the file"));
        let mut other = file(MICROSECONDS, true, &[]);
        other[20] = 101;
        assert!(refusal(&other).contains("found link type 101"));
    }

    #[test]
    fn speeds_are_factors_above_zero() {
        assert_eq!("0.5".parse::<Speed>().unwrap(), Speed::Times(0.5));
        assert_eq!("max".parse::<Speed>().unwrap(), Speed::Most);
        for text in ["", "0", "-1", "1e3", "NaN", "10000000", "fast"] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_file_upsets_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
            let mut bytes = bytes;
            if magic && bytes.len() > 24 {
                bytes[..4].copy_from_slice(&MICROSECONDS.to_le_bytes());
                bytes[20..24].copy_from_slice(&[1, 0, 0, 0]);
            }
            let _ = Capture::read(&bytes, 1518);
        }
    }
}
