//! OPTIONS of a SIP server (RFC 3261 section 11), over UDP or TCP.

use super::chat::Chat;
use super::udp::Socket;
use super::{Asking, Failure};
use crate::config::Status;
use crate::net::Net;

/// How many lines of an answer over TCP are read.
const MOST_LINES: usize = 100;

pub(super) async fn ask<N: Net>(
    asking: &Asking<'_, N>,
    user: Option<&str>,
    tcp: bool,
    status: &Status,
) -> Result<(), Failure> {
    let call = asking.tools.random::<12>();
    let call: String = call.iter().map(|byte| format!("{byte:02x}")).collect();
    let request = request(asking, user, tcp, &call);
    let code = match tcp {
        true => over_tcp(asking, &request).await?,
        false => over_udp(asking, &request, &call).await?,
    };
    match status.contains(code) {
        true => Ok(()),
        false => {
            let at = asking.target.at;
            Err(Failure(format!("sip://{at} answered {code}, expected {status}")))
        }
    }
}

/// Answers come to where the request came from (RFC 3581), whatever host it names.
fn request<N>(asking: &Asking<'_, N>, user: Option<&str>, tcp: bool, call: &str) -> String {
    let at = asking.target.at;
    let to = user.map_or_else(|| format!("sip:{at}"), |user| format!("sip:{user}@{at}"));
    let transport = if tcp { "TCP" } else { "UDP" };
    format!(
        "OPTIONS {to} SIP/2.0\r\n\
         Via: SIP/2.0/{transport} sluice.invalid;branch=z9hG4bK{call};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:sluice@sluice.invalid>;tag={call}\r\n\
         To: <{to}>\r\n\
         Call-ID: {call}@sluice.invalid\r\n\
         CSeq: 1 OPTIONS\r\n\
         Contact: <sip:sluice@sluice.invalid>\r\n\
         Accept: application/sdp\r\n\
         Content-Length: 0\r\n\
         \r\n"
    )
}

async fn over_udp<N: Net>(
    asking: &Asking<'_, N>,
    request: &str,
    call: &str,
) -> Result<u16, Failure> {
    let socket = Socket::open(asking).await?;
    socket.send(request.as_bytes()).await?;
    let final_code = |answer: &[u8]| {
        let is_ours = answer.windows(call.len()).any(|it| it == call.as_bytes());
        code(answer).filter(|&code| is_ours && code >= 200) // 1xx says that more comes
    };
    socket.answer(final_code).await
}

async fn over_tcp<N: Net>(asking: &Asking<'_, N>, request: &str) -> Result<u16, Failure> {
    let mut chat = Chat::open(asking, "sip", None).await?;
    chat.say(request.as_bytes()).await?;
    for _ in 0..MOST_LINES {
        let line = chat.line().await?;
        match code(&line) {
            Some(code @ 200..) => return Ok(code),
            _ if line.starts_with(b"SIP/") || line.contains(&b':') || line.is_empty() => {}
            _ => return Err(chat.unexpected(&line, "SIP/2.0")),
        }
    }
    Err(chat.failure("answered without end"))
}

/// Of `SIP/2.0 200 OK`.
fn code(answer: &[u8]) -> Option<u16> {
    let code = answer.strip_prefix(b"SIP/2.0 ")?.get(..3)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}
