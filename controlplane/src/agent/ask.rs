//! One question to one agent.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Answer;
use crate::config::AgentMethod;
use crate::net::{Net, Way};

/// How much an agent may say, in bytes.
const LONGEST_ANSWER: usize = 32;
/// How much an HTTP server may say, header and all, in bytes.
const LONGEST_RESPONSE: usize = 8192;
/// How much of what it said is repeated, in bytes.
const LONGEST_QUOTE: usize = 32;

/// Asks the agent at `at` how it is. The whole conversation takes no longer than `patience`.
///
/// # Errors
///
/// A sentence without its end that says why there is no answer.
pub async fn ask<N: Net>(
    net: &N,
    at: SocketAddr,
    method: &AgentMethod,
    patience: Duration,
) -> Result<Answer, String> {
    let said = match timeout(patience, converse(net, at, method)).await {
        Ok(said) => said?,
        Err(_) => return Err(format!("no answer in {} s", patience.as_secs_f64())),
    };
    let answer = match method {
        AgentMethod::Agent => Answer::parse(&said),
        // The wish to drain is for the protocol that has been ours to extend.
        AgentMethod::Http { .. } => {
            Answer::parse(body(&said)?).filter(|answer| matches!(answer, Answer::Idle(_)))
        }
    };
    answer.ok_or_else(|| format!("expected a number from 0 to 100, found {}", quote(&said)))
}

async fn converse<N: Net>(
    net: &N,
    at: SocketAddr,
    method: &AgentMethod,
) -> Result<Vec<u8>, String> {
    let mut stream = net.connect(at, Way::Routed).await.map_err(|why| why.to_string())?;
    match method {
        AgentMethod::Agent => {
            let is_whole = |said: &[u8]| said.contains(&b'\n');
            said(&mut stream, LONGEST_ANSWER, is_whole).await
        }
        AgentMethod::Http { path } => {
            // Version 1.0, so that nobody answers in chunks or keeps the connection.
            let request = format!(
                "GET {path} HTTP/1.0\r\nHost: {at}\r\nUser-Agent: sluice\r\nAccept: */*\r\n\
                 Connection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.map_err(|why| why.to_string())?;
            said(&mut stream, LONGEST_RESPONSE, response_is_whole).await
        }
    }
}

/// What the other end says until it closes or has said a whole answer.
async fn said(
    stream: &mut (impl AsyncRead + Unpin),
    most: usize,
    is_whole: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, String> {
    let mut said = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let room = (most + 1 - said.len()).min(chunk.len());
        match stream.read(&mut chunk[..room]).await {
            Ok(0) => return Ok(said),
            Ok(length) => said.extend_from_slice(&chunk[..length]),
            // Some agents close before they have read what they were sent.
            Err(why) if why.kind() == io::ErrorKind::ConnectionReset && !said.is_empty() => {
                return Ok(said);
            }
            Err(why) => return Err(why.to_string()),
        }
        if said.len() > most {
            return Err(format!("it says more than {most} bytes: {}", quote(&said)));
        }
        if is_whole(&said) {
            return Ok(said);
        }
    }
}

/// Whether there is as much of a body as the header promises, if it does.
fn response_is_whole(said: &[u8]) -> bool {
    let Some((header, body)) = split(said) else { return false };
    let length = header.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    length.is_some_and(|length| body.len() >= length)
}

/// The body of a response, with header information or without any.
fn body(said: &[u8]) -> Result<&[u8], String> {
    if !said.starts_with(b"HTTP/") {
        return Ok(said);
    }
    let (header, body) = split(said).ok_or("its header has no end")?;
    let status = header.split(' ').nth(1).unwrap_or_default();
    let status = status.split_ascii_whitespace().next().unwrap_or_default();
    match status.len() == 3 && status.starts_with('2') {
        true => Ok(body),
        false => Err(format!("expected status 200, found {}", quote(status.as_bytes()))),
    }
}

/// Header and body.
fn split(said: &[u8]) -> Option<(&str, &[u8])> {
    let (at, gap) = [&b"\r\n\r\n"[..], b"\n\n"].iter().find_map(|gap| {
        let at = said.windows(gap.len()).position(|window| window == *gap)?;
        Some((at, gap.len()))
    })?;
    Some((std::str::from_utf8(&said[..at]).ok()?, &said[at + gap..]))
}

fn quote(said: &[u8]) -> String {
    match said {
        [] => "nothing".into(),
        said => {
            let shown = &said[..said.len().min(LONGEST_QUOTE)];
            let more = if said.len() > LONGEST_QUOTE { " ..." } else { "" };
            format!("\"{}\"{more}", shown.escape_ascii())
        }
    }
}
