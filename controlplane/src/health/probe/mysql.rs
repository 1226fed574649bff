//! Greeting and login of a MySQL or MariaDB server (protocol 10).
//!
//! MySQL 8 and later log in by `caching_sha2_password`: a server that remembers the password is content with a proof that
//! we know it; one that does not wants the password itself, which it gets encrypted for its RSA key.

use aws_lc_rs::digest::{self, Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use super::chat::Chat;
use super::{Asking, Failure, quoted};
use crate::config::Login;
use crate::net::Net;

/// Long passwords, protocol 4.1, its authentication, and methods of it by name.
const CAPABILITIES: u32 = 0x1 | 0x200 | 0x8000 | 0x8_0000;
/// The longest packet that we say we take.
const LONGEST_PACKET: u32 = 1 << 16;
const UTF8: u8 = 33;

const GREETING: u8 = 10;
const OK: u8 = 0;
const MORE: u8 = 1;
const SWITCH: u8 = 0xfe;
const ERROR: u8 = 0xff;

/// What follows [`MORE`], and our question for the server's key.
const REMEMBERED: u8 = 3;
const FORGOTTEN: u8 = 4;
const KEY: u8 = 2;

const QUIT: u8 = 1;
const PING: u8 = 14;

const NATIVE: &str = "mysql_native_password";
const CACHING: &str = "caching_sha2_password";

pub(super) async fn ask<N: Net>(
    asking: &Asking<'_, N>,
    login: Option<&Login>,
) -> Result<(), Failure> {
    let mut chat = Chat::open(asking, "mysql", None).await?;
    let (number, packet) = packet(&mut chat).await?;
    let greeting = match packet.split_first() {
        Some((&GREETING, rest)) => Greeting::read(rest),
        Some((&ERROR, rest)) => return Err(complaint(&chat, rest)),
        _ => None,
    };
    let Some(greeting) = greeting else {
        return Err(chat.failure("answered something that is no greeting"));
    };
    let Some(login) = login else { return Ok(()) };

    let response = response(&greeting, login);
    send(&mut chat, number.wrapping_add(1), &response).await?;
    log_in(&mut chat, login, greeting.scramble).await?;
    send(&mut chat, 0, &[PING]).await?;
    match answer(&mut chat).await? {
        (_, packet) if packet.first() == Some(&OK) => {}
        (_, packet) => return Err(complaint(&chat, packet.get(1..).unwrap_or_default())),
    }
    chat.take_leave(&framed(0, &[QUIT])).await;
    Ok(())
}

/// What a greeting says of logging in.
struct Greeting {
    scramble: Vec<u8>,
    method: String,
}

impl Greeting {
    fn read(packet: &[u8]) -> Option<Self> {
        let version = packet.iter().position(|&byte| byte == 0)?;
        // Behind the version: a thread (4 bytes), the first part of the scramble (8), a zero, capabilities
        // (2), a character set, the status (2), capabilities (2), the scramble's length, zeroes (10).
        let fields = packet.get(version + 1..)?;
        let first = fields.get(4..12)?;
        let rest = fields.get(31..).unwrap_or_default();
        let length = usize::from(*fields.get(20).unwrap_or(&0)).saturating_sub(8).max(13);
        let second = rest.get(..length.min(rest.len()))?;
        let second = second.strip_suffix(&[0]).unwrap_or(second);
        let scramble = [first, second].concat();
        let method = up_to_zero(rest.get(length..).unwrap_or_default());
        let method = String::from_utf8_lossy(method).into_owned();
        Some(Self { scramble, method })
    }
}

fn up_to_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn response(greeting: &Greeting, login: &Login) -> Vec<u8> {
    // Another method than ours is switched to at once if need be.
    let method = if greeting.method == CACHING { CACHING } else { NATIVE };
    let proof = proof(method, login.password.reveal(), &greeting.scramble).unwrap_or_default();
    let mut response = Vec::new();
    response.extend_from_slice(&CAPABILITIES.to_le_bytes());
    response.extend_from_slice(&LONGEST_PACKET.to_le_bytes());
    response.push(UTF8);
    response.extend_from_slice(&[0; 23]);
    response.extend_from_slice(login.user.as_bytes());
    response.push(0);
    response.push(proof.len() as u8);
    response.extend_from_slice(&proof);
    response.extend_from_slice(method.as_bytes());
    response.push(0);
    response
}

/// That we know the password, without telling it; `None` for a method that we do not know.
fn proof(method: &str, password: &str, scramble: &[u8]) -> Option<Vec<u8>> {
    if password.is_empty() {
        return Some(Vec::new());
    }
    let password = password.as_bytes();
    let (hash, once, twice): (&'static Algorithm, _, _) = match method {
        NATIVE => {
            let hash = &SHA1_FOR_LEGACY_USE_ONLY;
            let once = digest::digest(hash, password);
            let twice = digest::digest(hash, once.as_ref());
            (hash, once, [scramble, twice.as_ref()].concat())
        }
        CACHING => {
            let hash = &SHA256;
            let once = digest::digest(hash, password);
            let twice = digest::digest(hash, once.as_ref());
            (hash, once, [twice.as_ref(), scramble].concat())
        }
        _ => return None,
    };
    let mask = digest::digest(hash, &twice);
    Some(once.as_ref().iter().zip(mask.as_ref()).map(|(one, other)| one ^ other).collect())
}

/// Until the server is satisfied; it may want another method first, and say how it goes.
async fn log_in(chat: &mut Chat, login: &Login, mut scramble: Vec<u8>) -> Result<(), Failure> {
    let password = login.password.reveal();
    for _ in 0..4 {
        let (number, packet) = answer(chat).await?;
        match packet[..] {
            [OK, ..] => return Ok(()),
            [MORE, REMEMBERED, ..] => {} // it says OK next
            [MORE, FORGOTTEN, ..] => {
                send(chat, number.wrapping_add(1), &[KEY]).await?;
                let (number, packet) = answer(chat).await?;
                let sealed = match packet[..] {
                    [MORE, ref key @ ..] => sealed(key, password, &scramble),
                    _ => None,
                };
                let Some(sealed) = sealed else {
                    return Err(chat.failure("gave no key that a password can be encrypted for"));
                };
                send(chat, number.wrapping_add(1), &sealed).await?;
            }
            [SWITCH, ref rest @ ..] => {
                let method = up_to_zero(rest);
                let fresh = rest.get(method.len() + 1..).unwrap_or_default();
                scramble = fresh.strip_suffix(&[0]).unwrap_or(fresh).to_vec();
                let method = String::from_utf8_lossy(method).into_owned();
                let Some(proof) = proof(&method, password, &scramble) else {
                    let method = quoted(method.as_bytes());
                    return Err(chat.failure(format_args!("wants authentication by {method}")));
                };
                send(chat, number.wrapping_add(1), &proof).await?;
            }
            _ => return Err(complaint(chat, packet.get(1..).unwrap_or_default())),
        }
    }
    Err(chat.failure("did not come to an end with the login"))
}

/// The password and a zero under the scramble, for the eyes of whoever has the other half of `key` (PEM).
fn sealed(key: &[u8], password: &str, scramble: &[u8]) -> Option<Vec<u8>> {
    let key = SubjectPublicKeyInfoDer::from_pem_slice(key).ok()?;
    let key = PublicEncryptingKey::from_der(&key).ok()?;
    let key = OaepPublicEncryptingKey::new(key).ok()?;
    let plain = password.bytes().chain([0]).zip(scramble.iter().cycle());
    let masked: Vec<u8> = plain.map(|(byte, mask)| byte ^ mask).collect();
    let mut sealed = vec![0; key.ciphertext_size()];
    let length = key.encrypt(&OAEP_SHA1_MGF1SHA1, &masked, &mut sealed, None).ok()?.len();
    sealed.truncate(length);
    Some(sealed)
}

/// An error has its number, then perhaps a state of six letters, then a text.
fn complaint(chat: &Chat, error: &[u8]) -> Failure {
    let text = error.get(2..).unwrap_or_default();
    let text = match text {
        [b'#', _, _, _, _, _, rest @ ..] => rest,
        _ => text,
    };
    chat.failure(format_args!("answered {}", quoted(text)))
}

async fn answer(chat: &mut Chat) -> Result<(u8, Vec<u8>), Failure> {
    let (number, answer) = packet(chat).await?;
    match answer.split_first() {
        None => Err(chat.failure("answered nothing")),
        Some((&ERROR, rest)) => Err(complaint(chat, rest)),
        Some(_) => Ok((number, answer)),
    }
}

/// The next packet, and its number.
async fn packet(chat: &mut Chat) -> Result<(u8, Vec<u8>), Failure> {
    let header = chat.exactly(4).await?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]);
    Ok((header[3], chat.exactly(length as usize).await?))
}

async fn send(chat: &mut Chat, number: u8, packet: &[u8]) -> Result<(), Failure> {
    chat.say(&framed(number, packet)).await
}

/// A packet behind its length and number.
fn framed(number: u8, packet: &[u8]) -> Vec<u8> {
    let length = (packet.len() as u32).to_le_bytes();
    [&length[..3], &[number], packet].concat()
}
