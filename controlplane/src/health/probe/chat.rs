//! A conversation of which each side says a little at a time: what is heard is bounded in every direction.

use std::fmt::Display;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::connect::{Alpn, Wire};
use super::{Asking, Failure, LONGEST_ANSWER, quoted};
use crate::config::{Expect, Tls};
use crate::net::Net;

/// The longest line that is read, in bytes.
const LONGEST_LINE: usize = 4096;
/// Of how many lines a reply may be.
const MOST_LINES: usize = 200;
/// How often an answer that grows is searched, so that a server cannot make it costly.
const PAUSE: Duration = Duration::from_millis(10);

/// One conversation with one server.
pub(super) struct Chat {
    wire: Wire,
    /// How the server is called in reasons: `smtp://10.0.0.11:25`.
    who: String,
    /// What has come and has not been read yet.
    heard: Vec<u8>,
}

/// A reply of a server: its code, and all its lines.
pub(super) struct Reply {
    pub code: u16,
    pub lines: Vec<u8>,
}

impl Chat {
    /// A conversation inside what `tls` says.
    pub async fn open<N: Net>(
        asking: &Asking<'_, N>,
        name: &str,
        tls: Option<&Tls>,
    ) -> Result<Self, Failure> {
        let wire = asking.wire(tls, None, Alpn::Nothing).await?;
        Ok(Self::over(wire, format!("{name}://{}", asking.target.at)))
    }

    pub fn over(wire: Wire, who: String) -> Self {
        Self { wire, who, heard: Vec::new() }
    }

    /// A reason: what the server did.
    pub fn failure(&self, did: impl Display) -> Failure {
        Failure(format!("{} {did}", self.who))
    }

    /// A reason: what the server said instead.
    pub fn unexpected(&self, said: &[u8], expected: impl Display) -> Failure {
        self.failure(format_args!("answered {}, expected {expected}", quoted(said)))
    }

    pub async fn say(&mut self, what: &[u8]) -> Result<(), Failure> {
        let said = async {
            self.wire.write_all(what).await?;
            self.wire.flush().await
        };
        said.await.map_err(|error| self.broken(&error))
    }

    /// A line of ours.
    pub async fn say_line(&mut self, line: &str) -> Result<(), Failure> {
        self.say(format!("{line}\r\n").as_bytes()).await
    }

    /// The last thing that is said: nobody waits for an answer, or minds if it cannot be said.
    pub async fn take_leave(&mut self, what: &[u8]) {
        let _ = self.say(what).await;
        let _ = self.wire.shutdown().await;
    }

    /// The next line, without its end.
    pub async fn line(&mut self) -> Result<Vec<u8>, Failure> {
        let mut searched = 0;
        loop {
            let end = self.heard[searched..].iter().position(|&byte| byte == b'\n');
            if let Some(end) = end {
                let rest = self.heard.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.heard, rest);
                while line.last().is_some_and(|byte| b"\r\n".contains(byte)) {
                    line.pop();
                }
                return Ok(line);
            }
            searched = self.heard.len();
            if searched >= LONGEST_LINE {
                return Err(self.failure("answered a line without end"));
            }
            self.hear().await?;
        }
    }

    /// So many bytes.
    pub async fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Failure> {
        if count > LONGEST_ANSWER {
            return Err(self.failure("answered more than is read"));
        }
        while self.heard.len() < count {
            self.hear().await?;
        }
        let rest = self.heard.split_off(count);
        Ok(std::mem::replace(&mut self.heard, rest))
    }

    /// What comes next, at least a byte.
    pub async fn some(&mut self) -> Result<Vec<u8>, Failure> {
        if self.heard.is_empty() {
            self.hear().await?;
        }
        Ok(std::mem::take(&mut self.heard))
    }

    /// Waits until what is expected stands in the answer.
    pub async fn until(&mut self, expect: &Expect) -> Result<(), Failure> {
        loop {
            if expect.is_in(&self.heard) {
                return Ok(());
            }
            if self.heard.len() >= LONGEST_ANSWER {
                return Err(self.failure(format_args!("answered without {expect}")));
            }
            self.rest().await;
            if self.more().await? == 0 {
                return Err(match self.heard.is_empty() {
                    true => self.failure("closed the connection"),
                    false => self.unexpected(&self.heard, expect),
                });
            }
        }
    }

    /// Lets more come before it is looked at.
    pub async fn rest(&mut self) {
        sleep(PAUSE).await;
    }

    /// All that comes until the end, as far as it is looked at.
    pub async fn all(&mut self) -> Result<Vec<u8>, Failure> {
        while self.heard.len() < LONGEST_ANSWER && self.more().await? > 0 {}
        Ok(std::mem::take(&mut self.heard))
    }

    /// A reply with a code of three digits, of one line or several (RFC 5321 section 4.2, RFC 959 section 4.2).
    pub async fn reply(&mut self) -> Result<Reply, Failure> {
        let first = self.line().await?;
        let code = first.get(..3).and_then(|code| std::str::from_utf8(code).ok());
        let plain = |code: &&str| code.bytes().all(|digit| digit.is_ascii_digit());
        let code = code.filter(plain).and_then(|code| code.parse::<u16>().ok());
        let Some(code) = code else { return Err(self.unexpected(&first, "a reply with a code")) };
        let ends =
            |line: &[u8]| line.len() >= 3 && line[..3] == first[..3] && line.get(3) != Some(&b'-');
        let mut lines = first.clone();
        let mut last = ends(&first);
        for _ in 0..MOST_LINES {
            if last {
                return Ok(Reply { code, lines });
            }
            let line = self.line().await?;
            last = ends(&line);
            lines.push(b'\n');
            lines.extend_from_slice(&line);
        }
        Err(self.failure("answered a reply without end"))
    }

    /// A reply that has one of these codes.
    pub async fn expect(&mut self, codes: &[u16]) -> Result<Reply, Failure> {
        let reply = self.reply().await?;
        if codes.contains(&reply.code) {
            return Ok(reply);
        }
        let codes: Vec<_> = codes.iter().map(u16::to_string).collect();
        Err(self.unexpected(&reply.lines, codes.join(" or ")))
    }

    async fn hear(&mut self) -> Result<(), Failure> {
        match self.more().await? {
            0 => Err(self.failure("closed the connection")),
            _ => Ok(()),
        }
    }

    async fn more(&mut self) -> Result<usize, Failure> {
        self.heard.reserve(LONGEST_LINE);
        let mut limited = (&mut self.wire).take(LONGEST_LINE as u64);
        limited.read_buf(&mut self.heard).await.map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &std::io::Error) -> Failure {
        self.failure(format_args!("broke off the connection: {error}"))
    }
}
