//! The FTP control channel (RFC 959, RFC 2428): where each end says at which address and port it waits
//! for a data connection, so that translation can say something else there. Pure functions over the bytes
//! of one TCP segment.
//!
//! - A line counts only if all of it is in the segment. That the segment begins with a line, and a
//!   server's with a reply, is taken for granted.
//! - Only the first announcement of a segment is found: an end that has not been answered yet has nothing
//!   to announce again.
//! - The address is whatever the line says. Whether it is that of the end which says it is for the caller
//!   to check, or it could have connections opened to third parties (the bounce attack, RFC 2577).
//! - What is not understood is not touched.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use arrayvec::ArrayVec;

use crate::wire::Address;

/// The longest line that is looked at, in bytes, without its end.
const LONGEST_LINE: usize = 512;

/// How an end announces where it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The client: `PORT h1,h2,h3,h4,p1,p2` (RFC 959 section 4.1.2).
    Port,
    /// The client: `EPRT |1|h1.h2.h3.h4|port|` or `EPRT |2|h::h|port|` (RFC 2428 section 2).
    ExtendedPort,
    /// The server: `227 Entering Passive Mode (h1,h2,h3,h4,p1,p2)` (RFC 959 section 4.1.2).
    Passive,
    /// The server, at the address that the client knows: `229 … (|||port|)` (RFC 2428 section 3).
    ExtendedPassive,
}

/// Where one end waits for a data connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// How it says so.
    pub kind: Kind,
    /// The address; `None` for [`Kind::ExtendedPassive`].
    pub address: Option<Address>,
    /// The port; never 0.
    pub port: u16,
    /// Where in the payload address and port stand, which is what [`write()`] writes anew.
    pub at: Range<usize>,
}

/// What a client's segment announces.
pub fn find_command(payload: &[u8]) -> Option<Announcement> {
    lines(payload).find_map(|line| {
        let (announcement, rest) = match line.after_word(b"PORT") {
            Some(argument) => argument.six_numbers(Kind::Port),
            None => line.after_word(b"EPRT").and_then(Text::protocol_address_and_port),
        }?;
        rest.skip_spaces().bytes.is_empty().then_some(announcement)
    })
}

/// What a server's segment announces.
pub fn find_reply(payload: &[u8]) -> Option<Announcement> {
    // The code of the reply of several lines that a line belongs to (RFC 959 section 4.2).
    let mut open: Option<[u8; 3]> = None;
    lines(payload).find_map(|line| {
        let begun = line.code();
        let code = match (open, begun) {
            (None, Some((code, continued))) => {
                open = continued.then_some(code);
                code
            }
            (Some(code), Some((same, false))) if same == code => {
                open = None;
                code
            }
            (Some(code), _) => code,
            (None, None) => return None,
        };
        // Some servers have the address in the first of several lines, some in the last.
        let text = if begun.is_some() { line.skip(4) } else { line };
        match &code {
            b"227" => text.anywhere(|text| text.six_numbers(Kind::Passive)),
            b"229" => text.anywhere(Text::port_in_parentheses),
            _ => None,
        }
    })
}

/// Writes what takes the place of an announcement's address and port; `false` if an announcement of this
/// kind cannot say this address.
pub fn write(kind: Kind, address: Address, port: u16, out: &mut ArrayVec<u8, 64>) -> bool {
    out.clear();
    let written = match (kind, address.ip()) {
        (Kind::Port | Kind::Passive, IpAddr::V4(address)) => {
            let ([a, b, c, d], [high, low]) = (address.octets(), port.to_be_bytes());
            write!(out, "{a},{b},{c},{d},{high},{low}")
        }
        (Kind::Port | Kind::Passive, IpAddr::V6(_)) => return false,
        (Kind::ExtendedPort, IpAddr::V4(address)) => write!(out, "|1|{address}|{port}|"),
        (Kind::ExtendedPort, IpAddr::V6(address)) => write!(out, "|2|{address}|{port}|"),
        (Kind::ExtendedPassive, _) => write!(out, "|||{port}|"),
    };
    written.is_ok()
}

/// Some bytes of the payload, and where they begin there.
#[derive(Clone, Copy)]
struct Text<'p> {
    bytes: &'p [u8],
    at: usize,
}

/// The lines that are complete, without their ends. Those that are too long are left out.
fn lines(payload: &[u8]) -> impl Iterator<Item = Text<'_>> {
    let mut at = 0;
    payload.split_inclusive(|&byte| byte == b'\n').filter_map(move |line| {
        let begin = at;
        at += line.len();
        let line = line.strip_suffix(b"\n")?;
        let bytes = line.strip_suffix(b"\r").unwrap_or(line);
        (bytes.len() <= LONGEST_LINE).then_some(Text { bytes, at: begin })
    })
}

impl<'p> Text<'p> {
    fn skip(self, count: usize) -> Self {
        let count = count.min(self.bytes.len());
        Self { bytes: &self.bytes[count..], at: self.at + count }
    }

    fn skip_spaces(self) -> Self {
        self.skip(self.bytes.iter().take_while(|&&byte| byte == b' ').count())
    }

    /// What comes after `word` in any case and at least one space.
    fn after_word(self, word: &[u8]) -> Option<Self> {
        let (begin, rest) = self.bytes.split_at_checked(word.len())?;
        let found = begin.eq_ignore_ascii_case(word) && rest.first() == Some(&b' ');
        found.then(|| self.skip(word.len()).skip_spaces())
    }

    /// The reply code that the line begins with, and whether more lines follow.
    fn code(self) -> Option<([u8; 3], bool)> {
        let (&code, rest) = self.bytes.split_first_chunk::<3>()?;
        let is_code = code.iter().all(u8::is_ascii_digit);
        match rest.first() {
            None | Some(b' ') if is_code => Some((code, false)),
            Some(b'-') if is_code => Some((code, true)),
            _ => None,
        }
    }

    fn after_byte(self, byte: u8) -> Option<Self> {
        (self.bytes.first() == Some(&byte)).then(|| self.skip(1))
    }

    /// A port, and what follows it.
    fn port(self) -> Option<(u16, Self)> {
        let (number, rest) = self.number(5)?;
        let port = u16::try_from(number).ok().filter(|&port| port > 0)?;
        Some((port, rest))
    }

    /// A number of at most `digits` digits, and what follows it.
    fn number(self, digits: usize) -> Option<(u32, Self)> {
        let count = self.bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let fits = (1..=digits).contains(&count);
        let value = self.bytes.iter().take(count).fold(0u32, |value, &digit| {
            value.saturating_mul(10).saturating_add(u32::from(digit - b'0'))
        });
        fits.then(|| (value, self.skip(count)))
    }

    /// Six numbers below 256 with commas between them, and what follows them. RFC 959 has no spaces there,
    /// some servers do.
    fn six_numbers(self, kind: Kind) -> Option<(Announcement, Self)> {
        let mut values = [0; 6];
        let mut rest = self;
        for (index, value) in values.iter_mut().enumerate() {
            if index > 0 {
                rest = rest.skip_spaces().after_byte(b',')?.skip_spaces();
            }
            let (number, after) = rest.number(3)?;
            *value = u8::try_from(number).ok()?;
            rest = after;
        }
        let [a, b, c, d, high, low] = values;
        let port = u16::from_be_bytes([high, low]);
        let address = Some(Ipv4Addr::new(a, b, c, d).into());
        let six = port > 0 && rest.after_byte(b',').is_none();
        six.then_some((Announcement { kind, address, port, at: self.at..rest.at }, rest))
    }

    /// `|1|10.0.0.7|5282|` or `|2|2001:db8::7|5282|`, with any delimiter that cannot be part of an address.
    fn protocol_address_and_port(self) -> Option<(Announcement, Self)> {
        let &delimiter = self.bytes.first().filter(|byte| is_delimiter(**byte))?;
        let (protocol, rest) = self.skip(1).number(1)?;
        let rest = rest.after_byte(delimiter)?;
        let length = rest.bytes.iter().position(|&byte| byte == delimiter)?;
        let address = str::from_utf8(rest.bytes.get(..length)?).ok()?;
        let address = match protocol {
            1 => address.parse::<Ipv4Addr>().ok()?.into(),
            2 => Address::from(address.parse::<Ipv6Addr>().ok()?),
            _ => return None,
        };
        // An IPv4 address in IPv6's form could not be told from IPv4's own.
        if address.is_v4() != (protocol == 1) {
            return None;
        }
        let (port, rest) = rest.skip(length + 1).port()?;
        let rest = rest.after_byte(delimiter)?;
        let (kind, address) = (Kind::ExtendedPort, Some(address));
        Some((Announcement { kind, address, port, at: self.at..rest.at }, rest))
    }

    /// `(|||5282|`, with any delimiter.
    fn port_in_parentheses(self) -> Option<(Announcement, Self)> {
        let begin = self.after_byte(b'(')?;
        let &delimiter = begin.bytes.first().filter(|byte| is_delimiter(**byte))?;
        let blank = begin.bytes.starts_with(&[delimiter; 3]);
        let (port, rest) = blank.then(|| begin.skip(3))?.port()?;
        let rest = rest.after_byte(delimiter)?;
        let (kind, address) = (Kind::ExtendedPassive, None);
        Some((Announcement { kind, address, port, at: begin.at..rest.at }, rest))
    }

    /// The first announcement in the text, wherever it begins, except in the middle of a list.
    fn anywhere(self, find: impl Fn(Self) -> Option<(Announcement, Self)>) -> Option<Announcement> {
        let mut before = b' ';
        (0..self.bytes.len()).find_map(|skipped| {
            let rest = self.skip(skipped);
            let in_a_list = before.is_ascii_digit() || before == b',';
            before = rest.bytes.first().copied().unwrap_or(b' ');
            if in_a_list { None } else { find(rest).map(|(announcement, _)| announcement) }
        })
    }
}

/// RFC 2428 allows every printable character; those that addresses and ports are made of make no sense.
fn is_delimiter(byte: u8) -> bool {
    byte.is_ascii_graphic() && !byte.is_ascii_hexdigit() && byte != b'.' && byte != b':'
}

#[cfg(test)]
mod tests;
