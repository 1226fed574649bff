//! A login to an FTP server (RFC 959), and a file by a passive data connection (RFC 2428), which is opened to
//! the server itself, whatever address it names.

use std::net::SocketAddr;

use super::chat::Chat;
use super::connect::Wire;
use super::{Asking, Failure};
use crate::config::{Expect, Login};
use crate::net::Net;

pub(super) async fn ask<N: Net>(
    asking: &Asking<'_, N>,
    login: Option<&Login>,
    file: Option<&str>,
    expect: Option<&Expect>,
) -> Result<(), Failure> {
    let mut chat = Chat::open(asking, "ftp", None).await?;
    chat.expect(&[220]).await?;
    let anonymous = ("anonymous", "anonymous@");
    let (user, password) = login.map_or(anonymous, |login| (&login.user, login.password.reveal()));
    chat.say_line(&format!("USER {user}")).await?;
    if chat.expect(&[230, 331]).await?.code == 331 {
        chat.say_line(&format!("PASS {password}")).await?;
        chat.expect(&[230, 202]).await?;
    }
    if let Some(file) = file {
        fetch(asking, &mut chat, file, expect).await?;
    }
    chat.take_leave(b"QUIT\r\n").await;
    Ok(())
}

async fn fetch<N: Net>(
    asking: &Asking<'_, N>,
    chat: &mut Chat,
    file: &str,
    expect: Option<&Expect>,
) -> Result<(), Failure> {
    chat.say_line("TYPE I").await?;
    chat.expect(&[200]).await?;
    let port = passive(chat).await?;
    let at = SocketAddr::new(asking.target.at.ip(), port);
    let data = asking.open(at).await?;
    chat.say_line(&format!("RETR {file}")).await?;
    chat.expect(&[125, 150]).await?;
    let mut data = Chat::over(Wire::over(data), format!("ftp://{}/{file}", asking.target.at));
    let content = data.all().await?;
    match expect {
        Some(expect) if !expect.is_in(&content) => {
            Err(data.failure(format_args!("is without {expect}")))
        }
        _ => Ok(()),
    }
}

/// The port of a data connection that the server waits for.
async fn passive(chat: &mut Chat) -> Result<u16, Failure> {
    chat.say_line("EPSV").await?;
    let reply = chat.reply().await?;
    let port = match reply.code {
        229 => extended(&reply.lines),
        // A server that does not know EPSV.
        500..=599 => {
            chat.say_line("PASV").await?;
            let reply = chat.expect(&[227]).await?;
            let port = plain(&reply.lines);
            return port.ok_or_else(|| chat.unexpected(&reply.lines, "a port"));
        }
        _ => None,
    };
    port.ok_or_else(|| chat.unexpected(&reply.lines, "229 with a port"))
}

/// `229 Entering Extended Passive Mode (|||6446|)`
fn extended(reply: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(reply).ok()?;
    let inside = text.split_once('(')?.1.split_once(')')?.0;
    let mark = inside.chars().next()?;
    inside.split(mark).nth(3)?.parse().ok().filter(|&port| port > 0)
}

/// `227 Entering Passive Mode (10,0,0,11,25,46)`
fn plain(reply: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(reply).ok()?;
    let (_, behind) = text.split_at(text.find(|it: char| it.is_ascii_digit())? + 3);
    let from = behind.find(|it: char| it.is_ascii_digit())?;
    let numbers = behind[from..].split(|it: char| it != ',' && !it.is_ascii_digit()).next()?;
    let numbers: Vec<u8> = numbers.split(',').map(|it| it.parse().ok()).collect::<Option<_>>()?;
    match numbers[..] {
        [_, _, _, _, high, low] => Some(u16::from_be_bytes([high, low])).filter(|&port| port > 0),
        _ => None,
    }
}
