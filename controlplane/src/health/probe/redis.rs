//! PING of a Redis server, after a login if there is one.

use super::chat::Chat;
use super::{Asking, Failure};
use crate::config::{Login, Tls};
use crate::net::Net;

pub(super) async fn ask<N: Net>(
    asking: &Asking<'_, N>,
    login: Option<&Login>,
    tls: Option<&Tls>,
) -> Result<(), Failure> {
    let mut chat = Chat::open(asking, "redis", tls).await?;
    if let Some(Login { user, password }) = login {
        match user.as_str() {
            "" => chat.say(&command(&["AUTH", password.reveal()])).await?,
            user => chat.say(&command(&["AUTH", user, password.reveal()])).await?,
        }
        answer(&mut chat, b"+OK").await?;
    }
    chat.say(&command(&["PING"])).await?;
    answer(&mut chat, b"+PONG").await?;
    chat.take_leave(&command(&["QUIT"])).await;
    Ok(())
}

async fn answer(chat: &mut Chat, expected: &[u8]) -> Result<(), Failure> {
    let line = chat.line().await?;
    if line == expected {
        return Ok(());
    }
    Err(chat.unexpected(&line, String::from_utf8_lossy(expected)))
}

/// A list of texts, each with its length.
fn command(words: &[&str]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command += &format!("${}\r\n{word}\r\n", word.len());
    }
    command.into_bytes()
}
