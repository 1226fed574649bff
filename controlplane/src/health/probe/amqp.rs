//! An AMQP 0-9-1 server's greeting: it answers our protocol header with Connection.Start.

use super::chat::Chat;
use super::{Asking, Failure};
use crate::config::Tls;
use crate::net::Net;

const HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";
/// Class and method of Connection.Start.
const START: [u8; 4] = [0, 10, 0, 10];
const METHOD_FRAME: u8 = 1;
const END_OF_FRAME: u8 = 0xce;

pub(super) async fn ask<N: Net>(asking: &Asking<'_, N>, tls: Option<&Tls>) -> Result<(), Failure> {
    let mut chat = Chat::open(asking, "amqp", tls).await?;
    chat.say(HEADER).await?;
    let start = chat.exactly(7).await?;
    if start.starts_with(b"AMQP") {
        return Err(chat.failure("speaks another version of AMQP"));
    }
    // A method frame of channel 0.
    let [METHOD_FRAME, 0, 0, a, b, c, d] = start[..] else {
        return Err(chat.unexpected(&start, "a greeting"));
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let frame = chat.exactly(length.saturating_add(1)).await?;
    match frame.starts_with(&START) && frame.last() == Some(&END_OF_FRAME) {
        true => Ok(()),
        false => Err(chat.unexpected(&frame, "a greeting")),
    }
}
