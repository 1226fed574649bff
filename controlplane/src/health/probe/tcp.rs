//! Bytes over TCP, as the operator says.

use super::chat::Chat;
use super::{Asking, Failure};
use crate::config::{Expect, Payload, Tls};
use crate::net::Net;

pub(super) async fn ask<N: Net>(
    asking: &Asking<'_, N>,
    send: Option<&Payload>,
    expect: Option<&Expect>,
    tls: Option<&Tls>,
) -> Result<(), Failure> {
    let mut chat = Chat::open(asking, "tcp", tls).await?;
    if let Some(send) = send {
        chat.say(&send.bytes).await?;
    }
    match expect {
        None => Ok(()),
        Some(expect) => chat.until(expect).await,
    }
}
