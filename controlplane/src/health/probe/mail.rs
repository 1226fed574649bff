//! Greeting and login of mail servers: IMAP (RFC 9051), POP3 (RFC 1939) and SMTP (RFC 5321).

use super::chat::Chat;
use super::{Asking, Failure};
use crate::config::{Expect, Session, Tls};
use crate::net::Net;

/// How many lines an IMAP server may say of its own accord before it answers.
const MOST_UNASKED: usize = 100;

pub(super) async fn imap<N: Net>(asking: &Asking<'_, N>, session: &Session) -> Result<(), Failure> {
    let mut chat = Chat::open(asking, "imap", session.tls.as_ref()).await?;
    let greeting = chat.line().await?;
    if !is(&greeting, "* OK") && !is(&greeting, "* PREAUTH") {
        return Err(chat.unexpected(&greeting, "* OK"));
    }
    let question = match &session.login {
        None => "1 NOOP".into(),
        Some(login) => format!("1 LOGIN {} {}", text(&login.user), text(login.password.reveal())),
    };
    chat.say_line(&question).await?;
    for _ in 0..MOST_UNASKED {
        let line = chat.line().await?;
        if is(&line, "1 OK") {
            chat.take_leave(b"2 LOGOUT\r\n").await;
            return Ok(());
        }
        if !is(&line, "* ") || is(&line, "* BYE") {
            return Err(chat.unexpected(&line, "1 OK"));
        }
    }
    Err(chat.failure("answered without end"))
}

/// A quoted text (RFC 9051 section 4.3).
fn text(plain: &str) -> String {
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}

pub(super) async fn pop<N: Net>(asking: &Asking<'_, N>, session: &Session) -> Result<(), Failure> {
    let mut chat = Chat::open(asking, "pop", session.tls.as_ref()).await?;
    good(&mut chat).await?;
    if let Some(login) = &session.login {
        chat.say_line(&format!("USER {}", login.user)).await?;
        good(&mut chat).await?;
        chat.say_line(&format!("PASS {}", login.password.reveal())).await?;
        good(&mut chat).await?;
    }
    chat.take_leave(b"QUIT\r\n").await;
    Ok(())
}

async fn good(chat: &mut Chat) -> Result<(), Failure> {
    let line = chat.line().await?;
    if is(&line, "+OK") { Ok(()) } else { Err(chat.unexpected(&line, "+OK")) }
}

/// Whether a line begins so, in any case of letters.
fn is(line: &[u8], start: &str) -> bool {
    line.get(..start.len()).is_some_and(|it| it.eq_ignore_ascii_case(start.as_bytes()))
}

pub(super) async fn smtp<N: Net>(
    asking: &Asking<'_, N>,
    expect: Option<&Expect>,
    tls: Option<&Tls>,
) -> Result<(), Failure> {
    let mut chat = Chat::open(asking, "smtp", tls).await?;
    chat.expect(&[220]).await?;
    chat.say_line("EHLO localhost.localdomain").await?;
    let reply = chat.expect(&[250]).await?;
    match expect {
        Some(expect) if !expect.is_in(&reply.lines) => Err(chat.unexpected(&reply.lines, expect)),
        _ => {
            chat.take_leave(b"QUIT\r\n").await;
            Ok(())
        }
    }
}
