//! A datagram. Without an expectation silence is good, and an error that comes back is not.

use tokio::task::yield_now;

use super::connect::outcome;
use super::{Asking, Failure, quoted};
use crate::config::{Expect, Payload};
use crate::net::{Datagrams, Net};

/// The longest datagram that is looked at, in bytes.
const LONGEST: usize = 4096;

pub(super) async fn ask<N: Net>(
    asking: &Asking<'_, N>,
    send: Option<&Payload>,
    expect: Option<&Expect>,
) -> Result<(), Failure> {
    let socket = Socket::open(asking).await?;
    socket.send(send.map_or(&[], |payload| &payload.bytes)).await?;
    let mut answer = [0; LONGEST];
    let length = socket.receive(&mut answer).await?;
    match expect {
        Some(expect) if !expect.is_in(&answer[..length]) => {
            let said = quoted(&answer[..length]);
            Err(Failure(format!("{} answered {said}, expected {expect}", asking.target.at)))
        }
        _ => Ok(()),
    }
}

/// How many datagrams that answer nothing are passed over.
const MOST_STRANGE: usize = 1000;

/// A socket whose errors are reasons.
pub(super) struct Socket<'q, N: Net> {
    asking: &'q Asking<'q, N>,
    socket: N::Datagrams,
}

impl<'q, N: Net> Socket<'q, N> {
    pub async fn open(asking: &'q Asking<'q, N>) -> Result<Self, Failure> {
        let opened = asking.net.datagrams(asking.target.at, asking.target.way).await;
        let socket = opened.map_err(|error| failed(asking, &error))?;
        Ok(Self { asking, socket })
    }

    pub async fn send(&self, datagram: &[u8]) -> Result<(), Failure> {
        self.socket.send(datagram).await.map_err(|error| failed(self.asking, &error))
    }

    pub async fn receive(&self, into: &mut [u8]) -> Result<usize, Failure> {
        self.socket.receive(into).await.map_err(|error| failed(self.asking, &error))
    }

    /// What `read` makes of the first datagram that answers. Others may be forgeries, and do not end the wait.
    pub async fn answer<T>(&self, read: impl Fn(&[u8]) -> Option<T>) -> Result<T, Failure> {
        let mut datagram = [0; LONGEST];
        for _ in 0..MOST_STRANGE {
            let length = self.receive(&mut datagram).await?;
            if let Some(answer) = read(&datagram[..length]) {
                return Ok(answer);
            }
            yield_now().await; // a flood leaves time for others
        }
        let at = self.asking.target.at;
        Err(Failure(format!("{at} sent {MOST_STRANGE} datagrams that answer nothing")))
    }
}

fn failed<N>(asking: &Asking<'_, N>, error: &std::io::Error) -> Failure {
    Failure(format!("a datagram to {} {}", asking.target.at, outcome(error)))
}
