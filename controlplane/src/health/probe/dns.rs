//! A name over UDP (RFC 1035 section 4).

use std::net::IpAddr;

use super::udp::Socket;
use super::{Asking, Failure};
use crate::config::Record;
use crate::net::Net;

/// The class of the Internet.
const INTERNET: u16 = 1;

pub(super) async fn ask<N: Net>(
    asking: &Asking<'_, N>,
    name: &str,
    record: Record,
    expect: Option<IpAddr>,
) -> Result<(), Failure> {
    let socket = Socket::open(asking).await?;
    let query = query(asking.tools.random(), name, record);
    socket.send(&query).await?;
    let judge = |message: &[u8]| Answer::to(&query, message).map(|answer| answer.judge(expect));
    let told = |why| Failure(format!("{} {why} for {name}", asking.target.at));
    socket.answer(judge).await?.map_err(told)
}

fn query(id: [u8; 2], name: &str, record: Record) -> Vec<u8> {
    // Recursion is desired; one question.
    let mut message = [&id[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(label.len() as u8); // at most 63, as the configuration sees to
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&record.number().to_be_bytes());
    message.extend_from_slice(&INTERNET.to_be_bytes());
    message
}

/// A message that answers our question.
struct Answer<'m> {
    code: u8,
    count: u16,
    /// What stands behind the question; `None` where it is cut off.
    records: &'m [u8],
}

impl<'m> Answer<'m> {
    fn to(query: &[u8], message: &'m [u8]) -> Option<Self> {
        let (header, rest) = message.split_first_chunk::<12>()?;
        let is_response = header[2] & 0x80 != 0;
        if header[..2] != query[..2] || !is_response {
            return None;
        }
        let question = &query[12..];
        let records = match u16::from_be_bytes([header[4], header[5]]) {
            0 => rest, // a server that could not read the question repeats none
            1 if rest.len() >= question.len() => {
                let (repeated, records) = rest.split_at(question.len());
                repeated.eq_ignore_ascii_case(question).then_some(records)?
            }
            _ => return None,
        };
        let count = u16::from_be_bytes([header[6], header[7]]);
        Some(Self { code: header[3] & 0x0f, count, records })
    }

    fn judge(&self, expect: Option<IpAddr>) -> Result<(), String> {
        match (self.code, self.count) {
            (0, 0) => return Err("answered without a record".into()),
            (0, _) => {}
            (1, _) => return Err("answered FORMERR".into()),
            (2, _) => return Err("answered SERVFAIL".into()),
            (3, _) => return Err("answered NXDOMAIN".into()),
            (4, _) => return Err("answered NOTIMP".into()),
            (5, _) => return Err("answered REFUSED".into()),
            (code, _) => return Err(format!("answered with code {code}")),
        }
        let Some(expected) = expect else { return Ok(()) };
        let addresses = self.addresses();
        if addresses.contains(&expected) {
            return Ok(());
        }
        let told: Vec<_> = addresses.iter().take(4).map(IpAddr::to_string).collect();
        let told = if told.is_empty() { "no address".into() } else { told.join(", ") };
        Err(format!("answered {told}, expected {expected}"))
    }

    /// As far as the message can be read.
    fn addresses(&self) -> Vec<IpAddr> {
        let mut found = Vec::new();
        let mut rest = self.records;
        for _ in 0..self.count {
            let Some((kind, data, after)) = one_record(rest) else { break };
            match (kind, data.len()) {
                (1, 4) => found.extend(<[u8; 4]>::try_from(data).map(IpAddr::from)),
                (28, 16) => found.extend(<[u8; 16]>::try_from(data).map(IpAddr::from)),
                _ => {}
            }
            rest = after;
        }
        found
    }
}

/// Type and data of the first record, and what stands behind it.
fn one_record(records: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (fields, rest) = behind_name(records)?.split_first_chunk::<10>()?;
    let length = usize::from(u16::from_be_bytes([fields[8], fields[9]]));
    let (data, after) = rest.split_at_checked(length)?;
    Some((u16::from_be_bytes([fields[0], fields[1]]), data, after))
}

/// A name ends with its root, or with a pointer, which need not be followed.
fn behind_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (&length, rest) = bytes.split_first()?;
        match length {
            0 => return Some(rest),
            0xc0.. => return rest.get(1..),
            1..=63 => bytes = rest.get(usize::from(length)..)?,
            _ => return None,
        }
    }
}
