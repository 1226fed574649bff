//! What nobody may guess: initial sequence numbers, source ports, identifiers.

use dataplane::defence::siphash::siphash;
use dataplane::moment::Moment;

use super::packet::Ends;

/// One step of initial sequence numbers, in nanoseconds (RFC 9293 section 3.4.1).
const STEP: u64 = 4_000;

/// A key, and how often it was used to draw something.
pub struct Secrets {
    key: [u64; 2],
    drawn: u64,
}

/// What a hash under the key is for, so that one use says nothing about another.
#[repr(u8)]
enum Use {
    Sequence,
    Draw,
    Cookie,
}

/// How long a cookie is good at least, in nanoseconds; twice as long at most.
const COOKIE_TIME: u64 = 30_000_000_000;

impl Secrets {
    /// From bytes that nobody knows.
    pub fn new(seed: [u8; 16]) -> Self {
        let bits = u128::from_le_bytes(seed);
        Self { key: [bits as u64, (bits >> 64) as u64], drawn: 0 }
    }

    /// The first sequence number of a connection (RFC 6528 section 3): a clock, so that connections between the same
    /// ends follow each other, and an offset that is different for any others.
    pub fn sequence(&self, now: Moment, ends: &Ends) -> u32 {
        let mut message = [0; 37];
        message[0] = Use::Sequence as u8;
        message[1..].copy_from_slice(&ends.to_bytes());
        let clock = (now.nanos() / STEP) as u32;
        clock.wrapping_add(siphash(self.key, &message) as u32)
    }

    /// The first sequence number with which a client is answered of whom nothing is remembered: who sends it back has
    /// heard it.
    pub fn cookie(&self, now: Moment, ends: &Ends, client: u32) -> u32 {
        self.cookie_of(now.nanos() / COOKIE_TIME, ends, client)
    }

    /// Whether a client has sent such a number back in time.
    pub fn is_cookie(&self, now: Moment, ends: &Ends, client: u32, cookie: u32) -> bool {
        let period = now.nanos() / COOKIE_TIME;
        [period, period.wrapping_sub(1)]
            .into_iter()
            .any(|period| self.cookie_of(period, ends, client) == cookie)
    }

    fn cookie_of(&self, period: u64, ends: &Ends, client: u32) -> u32 {
        let mut message = [0; 49];
        message[0] = Use::Cookie as u8;
        message[1..37].copy_from_slice(&ends.to_bytes());
        message[37..41].copy_from_slice(&client.to_le_bytes());
        message[41..].copy_from_slice(&period.to_le_bytes());
        siphash(self.key, &message) as u32
    }

    /// A number that no other gives a hint of.
    pub fn draw(&mut self) -> u64 {
        self.drawn += 1;
        let mut message = [0; 9];
        message[0] = Use::Draw as u8;
        message[1..].copy_from_slice(&self.drawn.to_le_bytes());
        siphash(self.key, &message)
    }
}

/// smoltcp's generator of random numbers (sPCG32): what its state is multiplied with and what is added.
const MULTIPLIER: u64 = 0xbb2e_fcec_3c39_611d;
const INCREMENT: u64 = 0x7590_ef39;
const INVERSE: u64 = inverse(MULTIPLIER);

/// The seed with which a new interface of smoltcp's gives `sequence` to its first connection. smoltcp takes sequence
/// numbers from a generator that anybody can continue who has seen a few, and lets nobody choose them; but the generator
/// can be run backwards. An interface draws its first packet identification (not 0) before.
pub fn seed_for(sequence: u32) -> u64 {
    let mut rest = 0;
    loop {
        // The three highest bits say by how much the state is shifted to give the number: 7, by 22.
        let second = 0b111 << 61 | u64::from(sequence) << 22 | rest;
        let first = before(second);
        if identification(first) != 0 {
            return before(first);
        }
        rest += 1;
    }
}

fn before(state: u64) -> u64 {
    state.wrapping_sub(INCREMENT).wrapping_mul(INVERSE)
}

fn identification(state: u64) -> u16 {
    let number = (state >> (29 - (state >> 61))) as u32;
    (number ^ number >> 16) as u16
}

/// What an odd number is to be multiplied with to give 1, modulo 2^64 (Newton's method: each step doubles the number
/// of bits that are right, from 3 on).
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut right = 3;
    while right < 64 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        right *= 2;
    }
    inverse
}
