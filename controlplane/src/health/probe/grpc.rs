//! gRPC's own question for health: grpc.health.v1.Health/Check, over HTTP/2.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Method, Request, Response, Version, header};

use super::connect::Alpn;
use super::http::{exchange, own_host};
use super::{Asking, Failure};
use crate::config::Tls;
use crate::net::Net;

/// The longest answer that is read, in bytes.
const LONGEST: usize = 4096;
/// `ServingStatus` of a server that is well.
const SERVING: u64 = 1;

pub(super) async fn ask<N: Net>(
    asking: &Asking<'_, N>,
    service: &str,
    host: Option<&str>,
    tls: Option<&Tls>,
) -> Result<(), Failure> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let wire = asking.wire(tls, host, Alpn::Http2).await?;
    let host = host.map_or_else(|| own_host(asking, scheme), Into::into);
    let told = |why: String| Failure(format!("grpc://{} {why}", asking.target.at));
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("{scheme}://{host}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "sluice")
        .body(Full::new(Bytes::from(question(service))))
        .map_err(|error| told(format!("cannot be asked: {error}")))?;
    exchange(wire, true, request, judge).await.map_err(told)
}

/// A message of its length, uncompressed: field 1 is the service, as text.
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        push_number(&mut message, service.len());
        message.extend_from_slice(service.as_bytes());
    }
    let length = (message.len() as u32).to_be_bytes();
    [&[0], &length[..], &message].concat()
}

fn push_number(message: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

async fn judge(answer: Response<Incoming>) -> Result<(), String> {
    if answer.status() != 200 {
        return Err(format!("answered {}, expected 200", answer.status().as_u16()));
    }
    complaint(answer.headers())?;
    let mut body = answer.into_body();
    let mut message = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("broke off: {error}"))?;
        match frame.into_data() {
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => complaint(frame.trailers_ref().unwrap_or(&HeaderMap::new()))?,
        }
        if message.len() > LONGEST {
            return Err("answered more than a status".into());
        }
    }
    match message.get(5..).and_then(status) {
        Some(SERVING) => Ok(()),
        Some(2) => Err("answered NOT_SERVING".into()),
        Some(3) => Err("answered SERVICE_UNKNOWN".into()),
        Some(_) => Err("answered UNKNOWN".into()),
        None => Err("answered with something that is no status".into()),
    }
}

/// A call that failed says so in a header, or in a trailer.
fn complaint(headers: &HeaderMap) -> Result<(), String> {
    match headers.get("grpc-status").map(|status| status.as_bytes()) {
        None | Some(b"0") => Ok(()),
        Some(b"5") => Err("answered that it does not know the service".into()),
        Some(b"12") => Err("answered that it has no health checks".into()),
        Some(code) => Err(format!("answered with gRPC status {}", super::quoted(code))),
    }
}

/// Field 1 of a message, as a number; 0 where it is left out.
fn status(message: &[u8]) -> Option<u64> {
    let mut rest = message;
    while let Some((&tag, behind)) = rest.split_first() {
        let (number, behind) = number(behind)?;
        rest = match tag {
            0x08 => return Some(number),
            _ if tag & 7 == 0 => behind,
            _ if tag & 7 == 2 => behind.get(usize::try_from(number).ok()?..)?,
            _ => return None,
        };
    }
    Some(0)
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (position, byte) in bytes.iter().enumerate().take(9) {
        number |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[position + 1..]));
        }
    }
    None
}
