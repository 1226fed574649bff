//! An LDAP server's description of itself (RFC 4511, RFC 4512 section 5.1), after a bind.

use super::chat::Chat;
use super::{Asking, Failure};
use crate::config::{Expect, Session};
use crate::net::Net;

/// A sequence, which each message is.
const SEQUENCE: u8 = 0x30;
const BIND_RESPONSE: u8 = 0x61;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
/// An unbind request with the third number.
const UNBIND: [u8; 7] = [SEQUENCE, 5, 2, 1, 3, 0x42, 0];
/// How many messages may come before a search is done.
const MOST_MESSAGES: usize = 100;

pub(super) async fn ask<N: Net>(
    asking: &Asking<'_, N>,
    session: &Session,
    expect: Option<&Expect>,
) -> Result<(), Failure> {
    let mut chat = Chat::open(asking, "ldap", session.tls.as_ref()).await?;
    let login = session.login.as_ref();
    let (name, password) = login.map_or(("", ""), |login| (&login.user, login.password.reveal()));
    chat.say(&bind(name, password)).await?;
    let (kind, content) = message(&mut chat, 1).await?;
    if kind != BIND_RESPONSE {
        return Err(chat.failure("answered something else than was asked"));
    }
    result(&chat, "the bind", &content)?;

    chat.say(&search()).await?;
    let mut found = None;
    for _ in 0..MOST_MESSAGES {
        let (kind, content) = message(&mut chat, 2).await?;
        match kind {
            SEARCH_ENTRY => found = Some(content),
            SEARCH_DONE => {
                result(&chat, "the search", &content)?;
                break;
            }
            _ => {}
        }
    }
    let Some(found) = found else { return Err(chat.failure("gave no description of itself")) };
    if let Some(expect) = expect.filter(|expect| !expect.is_in(&found)) {
        return Err(chat.failure(format_args!("answered without {expect}")));
    }
    chat.take_leave(&UNBIND).await;
    Ok(())
}

/// A value behind its tag and length.
fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match content.len() {
        short @ ..=0x7f => vec![short as u8],
        long => [&[0x82], &(long as u16).to_be_bytes()[..]].concat(),
    };
    [&[tag], &length[..], content].concat()
}

fn bind(name: &str, password: &str) -> Vec<u8> {
    let version = value(2, &[3]);
    let request = [version, value(4, name.as_bytes()), value(0x80, password.as_bytes())].concat();
    value(SEQUENCE, &[value(2, &[1]), value(0x60, &request)].concat())
}

/// For all attributes of the entry without a name, alone.
fn search() -> Vec<u8> {
    let attributes = [value(4, b"*"), value(4, b"+")].concat();
    let request = [
        value(4, b""),               // the entry without a name
        value(0x0a, &[0]),           // and nothing below it
        value(0x0a, &[0]),           // aliases are not followed
        value(2, &[1]),              // one entry
        value(2, &[0]),              // in any time
        value(1, &[0]),              // with values
        value(0x87, b"objectClass"), // which every entry has
        value(SEQUENCE, &attributes),
    ];
    value(SEQUENCE, &[value(2, &[2]), value(0x63, &request.concat())].concat())
}

/// The next message that answers our request of this number: its kind and content.
async fn message(chat: &mut Chat, number: u8) -> Result<(u8, Vec<u8>), Failure> {
    let start = chat.exactly(2).await?;
    if start[0] != SEQUENCE {
        return Err(chat.unexpected(&start, "an LDAP message"));
    }
    let length = match start[1] {
        short @ ..=0x7f => usize::from(short),
        long @ 0x81..=0x84 => {
            let bytes = chat.exactly(usize::from(long - 0x80)).await?;
            bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte))
        }
        _ => return Err(chat.failure("answered a message without a length")),
    };
    let content = chat.exactly(length).await?;
    match content.split_first_chunk::<4>() {
        Some(([2, 1, answered, kind], rest)) if *answered == number => {
            Ok((*kind, behind_length(rest).to_vec()))
        }
        _ => Err(chat.failure("answered something else than was asked")),
    }
}

/// What stands behind a length.
fn behind_length(bytes: &[u8]) -> &[u8] {
    match bytes.split_first() {
        None => &[],
        Some((short @ ..=0x7f, rest)) => rest.get(..usize::from(*short)).unwrap_or(rest),
        Some((long, rest)) => rest.get(usize::from(long - 0x80)..).unwrap_or_default(),
    }
}

/// A result's code must be 0; behind it stand a name and a text.
fn result(chat: &Chat, of: &str, content: &[u8]) -> Result<(), Failure> {
    match content {
        [0x0a, 1, 0, ..] => Ok(()),
        [0x0a, 1, 49, ..] => {
            Err(chat.failure(format_args!("answered {of} with invalid credentials")))
        }
        [0x0a, 1, code, ..] => Err(chat.failure(format_args!("answered {of} with code {code}"))),
        _ => Err(chat.failure(format_args!("answered {of} without a result"))),
    }
}
