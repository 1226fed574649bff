//! What a packet carries so that it is recognised whatever happened to its addresses and ports: which flow, which
//! packet of the flow, and when it was sent.
//!
//! Two places are there for it. Wherever the payload has [`LENGTH`] bytes, it is the payload's beginning:
//!
//! | bytes | what |
//! |---|---|
//! | 0-1 | the run's mark |
//! | 2-4 | the flow |
//! | 5, 10-13 | the time: the lower 40 bits of the processor's clock |
//! | 6-9 | the number of the packet in its flow |
//!
//! A TCP segment with less room (64-byte frames have 6 bytes of it, a SYN none) carries it in its header: the packet's
//! number as sequence number, the time in units of 16 ticks as acknowledgement number, flow and a check of 8 bits in
//! window and urgent pointer, and the mark in whatever payload there is.

/// Length of a stamp in the payload, in bytes.
pub const LENGTH: usize = 14;

/// Numbers of flows have so many bits.
const FLOW_BITS: u32 = 24;

/// Bits of the clock in a payload: seven minutes at 2.6 GHz.
const CLOCK: u64 = (1 << 40) - 1;

/// What 32 bits of the clock leave out at their lower end in a TCP header: 28 seconds at 2.4 GHz, by 7 ns.
const COARSE: u32 = 4;

/// Tells the packets of one run from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(pub u16);

/// Which packet this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The number of its flow, of 24 bits.
    pub flow: u32,
    /// Its number in the flow, from 0; after 2^32 - 1 comes 0.
    pub sequence: u32,
    /// When it was sent, as far as the stamp says.
    pub sent: Sent,
}

/// Part of the processor's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The lower 40 bits.
    Fine(u64),
    /// 32 bits, of units of 16 ticks.
    Coarse(u32),
}

impl Sent {
    /// Ticks from then until `now`, if that is less than the clock's part can tell.
    #[inline]
    pub fn until(self, now: u64) -> u64 {
        match self {
            Self::Fine(sent) => now.wrapping_sub(sent) & CLOCK,
            Self::Coarse(sent) => u64::from(((now >> COARSE) as u32).wrapping_sub(sent)) << COARSE,
        }
    }
}

/// A stamp in a payload, as 32-bit words behind the mark.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// Flow and the clock's upper 8 bits.
    pub flow: u32,
    /// The packet's number.
    pub sequence: u32,
    /// The clock's lower 32 bits.
    pub clock: u32,
}

impl Words {
    /// What a payload carries at `now`.
    #[inline]
    pub fn new(flow: u32, sequence: u32, now: u64) -> Self {
        let flow = flow << 8 | ((now & CLOCK) >> 32) as u32;
        Self { flow, sequence, clock: now as u32 }
    }

    /// As bytes, behind `mark`.
    #[inline]
    pub fn to_bytes(self, mark: Mark) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..2].copy_from_slice(&mark.0.to_be_bytes());
        bytes[2..6].copy_from_slice(&self.flow.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[10..].copy_from_slice(&self.clock.to_be_bytes());
        bytes
    }
}

/// A stamp in a TCP header.
#[derive(Debug, Clone, Copy)]
pub struct HeaderWords {
    /// For the sequence number.
    pub sequence: u32,
    /// For the acknowledgement number.
    pub clock: u32,
    /// For window and urgent pointer.
    pub flow: u32,
}

impl HeaderWords {
    /// What a header carries at `now`.
    #[inline]
    pub fn new(mark: Mark, flow: u32, sequence: u32, now: u64) -> Self {
        let clock = (now >> COARSE) as u32;
        Self { sequence, clock, flow: flow << 8 | check(mark, flow, sequence, clock) }
    }
}

/// Eight bits that depend on all the others.
#[inline]
fn check(mark: Mark, flow: u32, sequence: u32, clock: u32) -> u32 {
    let mixed = (u64::from(flow) << 32 | u64::from(sequence)) ^ u64::from(clock) << 16;
    (mixed ^ u64::from(mark.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_shr(56) as u32
}

/// The stamp at the beginning of `payload`.
#[inline]
pub fn in_payload(payload: &[u8], mark: Mark) -> Option<Stamp> {
    let bytes = payload.first_chunk::<LENGTH>()?;
    let [m0, m1, f0, f1, f2, high, s0, s1, s2, s3, c0, c1, c2, c3] = *bytes;
    (u16::from_be_bytes([m0, m1]) == mark.0).then(|| Stamp {
        flow: u32::from_be_bytes([0, f0, f1, f2]),
        sequence: u32::from_be_bytes([s0, s1, s2, s3]),
        sent: Sent::Fine(u64::from_be_bytes([0, 0, 0, high, c0, c1, c2, c3])),
    })
}

/// The stamp in a TCP header, of which `payload` is all that follows.
#[inline]
pub fn in_header(words: HeaderWords, payload: &[u8], mark: Mark) -> Option<Stamp> {
    let HeaderWords { sequence, clock, flow } = words;
    let marked = payload.first_chunk().is_none_or(|bytes| *bytes == mark.0.to_be_bytes());
    let (flow, found) = (flow >> (32 - FLOW_BITS), flow & 0xff);
    let is_ours = payload.len() < LENGTH && marked && found == check(mark, flow, sequence, clock);
    is_ours.then_some(Stamp { flow, sequence, sent: Sent::Coarse(clock) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_stamp_reads_back_from_either_place(mark: u16, flow in 0u32..1 << 24, sequence: u32, now: u64, later in 0u64..1 << 35) {
            let mark = Mark(mark);
            let bytes = Words::new(flow, sequence, now).to_bytes(mark);
            let read = in_payload(&bytes, mark).unwrap();
            prop_assert_eq!((read.flow, read.sequence), (flow, sequence));
            prop_assert_eq!(read.sent.until(now.wrapping_add(later)), later);

            let words = HeaderWords::new(mark, flow, sequence, now);
            let read = in_header(words, &[], mark).unwrap();
            prop_assert_eq!((read.flow, read.sequence), (flow, sequence));
            prop_assert!(read.sent.until(now.wrapping_add(later)).abs_diff(later) < 16);
        }

        #[test]
        fn other_runs_are_told_apart(mark: u16, other: u16, flow in 0u32..1 << 24, sequence: u32, now: u64) {
            prop_assume!(mark != other);
            let bytes = Words::new(flow, sequence, now).to_bytes(Mark(mark));
            prop_assert_eq!(in_payload(&bytes, Mark(other)), None);
            let words = HeaderWords::new(Mark(mark), flow, sequence, now);
            prop_assert_eq!(in_header(words, &mark.to_be_bytes(), Mark(other)), None);
        }
    }

    #[test]
    fn one_of_two_hundred_and_fifty_six_foreign_headers_passes_for_ours() {
        let mut random = crate::random::Random::new(5);
        let mut foreign = || {
            let [a, b] = [random.bits(), random.bits()];
            HeaderWords { sequence: a as u32, clock: (a >> 32) as u32, flow: b as u32 }
        };
        let passed = (0..100_000).filter(|_| in_header(foreign(), &[], Mark(1)).is_some()).count();
        assert!((300..480).contains(&passed), "{passed}, expected 391");
    }
}
