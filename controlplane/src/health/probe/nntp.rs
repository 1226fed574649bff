//! Greeting and login of an NNTP server (RFC 3977, RFC 4643).

use super::chat::Chat;
use super::{Asking, Failure};
use crate::config::Session;
use crate::net::Net;

pub(super) async fn ask<N: Net>(asking: &Asking<'_, N>, session: &Session) -> Result<(), Failure> {
    let mut chat = Chat::open(asking, "nntp", session.tls.as_ref()).await?;
    chat.expect(&[200, 201]).await?;
    if let Some(login) = &session.login {
        chat.say_line(&format!("AUTHINFO USER {}", login.user)).await?;
        if chat.expect(&[281, 381]).await?.code == 381 {
            chat.say_line(&format!("AUTHINFO PASS {}", login.password.reveal())).await?;
            chat.expect(&[281]).await?;
        }
    }
    chat.take_leave(b"QUIT\r\n").await;
    Ok(())
}
