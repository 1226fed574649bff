//! One conversation with a mail server (RFC 5321). However long it talks, no more is kept of it than one
//! reply.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lettre::Address;
use tokio::io::{self, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tracing::warn;

use super::super::Failure;
use super::super::reach::{Duplex, Link, Networks, encrypted};
use crate::config::alerts::{Mail, Secret, is_domain};
use crate::config::{MailTls, Via};

/// The longest line that is read, in bytes: twice what RFC 5321 section 4.5.3.1.5 allows.
const LONGEST_LINE: usize = 1024;
/// How many lines one reply can have.
const MOST_LINES: usize = 100;
/// How many letters of a reply stand in a reason.
const LONGEST_REASON: usize = 300;
/// How long a server that has the mail may take to say good-bye.
const PARTING: Duration = Duration::from_secs(2);

/// Codes from 200 to 299: it is done.
const DONE: u16 = 2;
/// Codes from 300 to 399: it waits for more.
const GO_ON: u16 = 3;

/// What became of a mail, by reader. Each is in one of these.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// They have it.
    pub taken: Vec<Address>,
    /// They cannot have it now.
    pub later: Vec<Address>,
    /// They are refused for good.
    pub refused: Vec<Address>,
}

impl Outcome {
    /// Those who were to get it do not, because the server gave up after it had been told who they are.
    fn broken(&mut self, to: &[Address], failure: &Failure) {
        if failure.is_final {
            self.refused.append(&mut self.taken);
            return;
        }
        self.taken.clear();
        self.later = to.iter().filter(|it| !self.refused.contains(it)).cloned().collect();
    }
}

/// The mail server, and who we are.
pub(super) struct Server<'a> {
    pub networks: &'a Networks,
    pub via: Via,
    pub mail: &'a Mail,
    pub node: &'a str,
    /// How long it may take until it takes a mail from us, and again until it has it.
    pub patience: Duration,
}

impl Server<'_> {
    /// Gives a mail to the server once.
    ///
    /// # Errors
    ///
    /// When it does not come to the point where it is told who is to get it.
    pub async fn deliver(&self, to: &[Address], text: &[u8]) -> Result<Outcome, Failure> {
        let host = &self.mail.server;
        let late = || Failure::passing("it took too long");
        let named = |Failure { reason, is_final }| Failure {
            reason: format!("{host}: {reason}"),
            is_final,
        };
        let begun = timeout(self.patience, self.begin()).await;
        let mut stream = begun.unwrap_or_else(|_| Err(late())).map_err(named)?;
        let mut outcome = Outcome::default();
        let handed = timeout(self.patience, hand_over(&mut stream, to, text, &mut outcome)).await;
        match handed.unwrap_or_else(|_| Err(late())) {
            Ok(()) => {
                // It has the mail, whatever it says now.
                let _ = timeout(PARTING, ask(&mut stream, "QUIT", DONE)).await;
            }
            Err(failure) => {
                outcome.broken(to, &failure);
                warn!("mail: {}", named(failure).reason);
            }
        }
        Ok(outcome)
    }

    /// Until the server takes a mail from us.
    async fn begin(&self) -> Result<Box<dyn Duplex>, Failure> {
        let Mail { server, tls, trust, .. } = self.mail;
        let connected = self.networks.connect(self.via, server, self.patience).await;
        let Link { mut stream, local } = connected.map_err(Failure::passing)?;
        let own = own_name(self.mail.helo.as_deref(), self.node, local);
        let hello = format!("EHLO {own}");
        // Before TLS anybody on the way can refuse for good.
        let soft = |Failure { reason, .. }| Failure::passing(reason);
        if *tls == MailTls::StartTls {
            start_tls(&mut stream, &hello).await.map_err(soft)?;
        }
        if *tls != MailTls::None {
            stream = encrypted(stream, server, trust).await.map_err(Failure::passing)?;
        }
        if *tls != MailTls::StartTls {
            expect(&mut stream, DONE).await?; // the greeting
        }
        let able = ask(&mut stream, &hello, DONE).await?;
        if let Some((user, password)) = &self.mail.login {
            log_in(&mut stream, &able, user, password).await?;
        }
        ask(&mut stream, &format!("MAIL FROM:<{}>", self.mail.from), DONE).await?;
        Ok(stream)
    }
}

/// Who we are (RFC 5321 section 4.1.1.1): what the operator says, a node that has a name in the DNS, or our
/// end of the connection.
fn own_name(helo: Option<&str>, node: &str, local: Option<IpAddr>) -> String {
    match (helo, local) {
        (Some(name), _) => name.to_owned(),
        (None, _) if is_domain(node) => node.to_owned(),
        (None, Some(IpAddr::V6(address))) => format!("[IPv6:{address}]"),
        (None, Some(IpAddr::V4(address))) => format!("[{address}]"),
        (None, None) => "[127.0.0.1]".to_owned(),
    }
}

/// Agrees to go on with TLS (RFC 3207). Nothing is read beyond the server's last word before it, so that
/// nobody on the way can put words into what is read after it.
async fn start_tls(stream: &mut Box<dyn Duplex>, hello: &str) -> Result<(), Failure> {
    expect(stream, DONE).await?;
    let able = ask(stream, hello, DONE).await?;
    if !able.iter().any(|it| it.eq_ignore_ascii_case("STARTTLS")) {
        return Err(Failure::passing("the server has no STARTTLS"));
    }
    ask(stream, "STARTTLS", DONE).await.map(drop)
}

/// PLAIN (RFC 4616), or LOGIN, which is older. What the server says is left out of reasons: it may repeat
/// what it was told.
async fn log_in(
    stream: &mut Box<dyn Duplex>,
    able: &[String],
    user: &str,
    Secret(password): &Secret,
) -> Result<(), Failure> {
    let can = |wanted: &str| {
        let mut words = able.iter().flat_map(|line| match line.get(..5) {
            Some(start) if start.eq_ignore_ascii_case("AUTH ") => line[5..].split(' '),
            _ => "".split(' '),
        });
        words.any(|word| word.eq_ignore_ascii_case(wanted))
    };
    let asked = async {
        if can("PLAIN") {
            let both = BASE64.encode(format!("\0{user}\0{password}"));
            return ask(stream, &format!("AUTH PLAIN {both}"), DONE).await;
        }
        ask(stream, "AUTH LOGIN", GO_ON).await?;
        ask(stream, &BASE64.encode(user), GO_ON).await?;
        ask(stream, &BASE64.encode(password), DONE).await
    };
    if !can("PLAIN") && !can("LOGIN") {
        return Err(Failure::passing("the server knows neither AUTH PLAIN nor AUTH LOGIN"));
    }
    let refused = |failure: Failure| Failure { reason: "the login failed".into(), ..failure };
    asked.await.map(drop).map_err(refused)
}

/// A reader whom the server does not take now, or not at all, keeps the others from nothing.
async fn hand_over(
    stream: &mut Box<dyn Duplex>,
    to: &[Address],
    text: &[u8],
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    for address in to {
        say(stream, format!("RCPT TO:<{address}>\r\n").as_bytes()).await?;
        let reply = reply(stream).await?;
        let Err(Failure { reason, is_final }) = reply.is(DONE) else {
            outcome.taken.push(address.clone());
            continue;
        };
        warn!("mail: {address}: {reason}");
        let among = if is_final { &mut outcome.refused } else { &mut outcome.later };
        among.push(address.clone());
    }
    if outcome.taken.is_empty() {
        return Ok(());
    }
    ask(stream, "DATA", GO_ON).await?;
    say(stream, &stuffed(text)).await?;
    expect(stream, DONE).await.map(drop)
}

/// No line of the text ends it too early (RFC 5321 section 4.5.2).
fn stuffed(text: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(text.len() + 64);
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b".") {
            all.push(b'.');
        }
        all.extend_from_slice(line);
    }
    if !all.ends_with(b"\r\n") {
        all.extend_from_slice(b"\r\n");
    }
    all.extend_from_slice(b".\r\n");
    all
}

/// What a server answered.
struct Reply {
    code: u16,
    /// Without the codes.
    lines: Vec<String>,
}

impl Reply {
    /// Whether it is what was wanted.
    fn is(&self, wanted: u16) -> Result<(), Failure> {
        if self.code / 100 == wanted {
            return Ok(());
        }
        let told: String = self.lines.join(" ").chars().take(LONGEST_REASON).collect();
        let reason = format!("the server answers {} {told:?}", self.code);
        Err(Failure { reason, is_final: self.code / 100 == 5 })
    }
}

async fn ask(
    stream: &mut Box<dyn Duplex>,
    command: &str,
    wanted: u16,
) -> Result<Vec<String>, Failure> {
    say(stream, format!("{command}\r\n").as_bytes()).await?;
    expect(stream, wanted).await
}

async fn expect(stream: &mut Box<dyn Duplex>, wanted: u16) -> Result<Vec<String>, Failure> {
    let reply = reply(stream).await?;
    reply.is(wanted).map(|()| reply.lines)
}

async fn say(stream: &mut Box<dyn Duplex>, what: &[u8]) -> Result<(), Failure> {
    stream.write_all(what).await.map_err(|error| broken_off(&error))?;
    stream.flush().await.map_err(|error| broken_off(&error))
}

fn broken_off(error: &dyn Display) -> Failure {
    Failure::passing(format!("the conversation broke off: {error}"))
}

/// A code of three digits, and lines, all but the last with a hyphen behind it (RFC 5321 section 4.2.1).
async fn reply(stream: &mut Box<dyn Duplex>) -> Result<Reply, Failure> {
    let (mut first, mut lines) = (None, Vec::new());
    for _ in 0..MOST_LINES {
        let line = line(stream).await?;
        let strange = || {
            let start: String = line.chars().take(LONGEST_REASON).collect();
            Failure::passing(format!("the server says {start:?}, which is no reply"))
        };
        let (digits, rest) = line.split_at_checked(3).ok_or_else(strange)?;
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        let code = digits.parse().ok().filter(|_| is_plain).ok_or_else(strange)?;
        if *first.get_or_insert(code) != code || !(rest.is_empty() || rest.starts_with([' ', '-']))
        {
            return Err(strange());
        }
        lines.push(rest.get(1..).unwrap_or_default().to_owned());
        if !rest.starts_with('-') {
            return Ok(Reply { code, lines });
        }
    }
    Err(Failure::passing("the server's reply has no end"))
}

async fn line(stream: &mut Box<dyn Duplex>) -> Result<String, Failure> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        if line.len() == LONGEST_LINE {
            return Err(Failure::passing("the server's reply has a line without end"));
        }
        line.push(stream.read_u8().await.map_err(|error: io::Error| broken_off(&error))?);
    }
    Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_say_who_we_are_in_a_way_that_every_server_understands() {
        let local = |text: &str| text.parse().ok();
        for (helo, node, local, said) in [
            (None, "lb1", local("192.0.2.2"), "[192.0.2.2]"),
            (None, "lb1", local("2001:db8::2"), "[IPv6:2001:db8::2]"),
            (None, "lb1", None, "[127.0.0.1]"),
            (None, "lb1.example.org", local("192.0.2.2"), "lb1.example.org"),
            (None, "lb_1.example.org", local("192.0.2.2"), "[192.0.2.2]"),
            (None, "lb1.", local("192.0.2.2"), "[192.0.2.2]"),
            (None, "192.0.2.9", local("192.0.2.2"), "[192.0.2.2]"),
            (Some("a.example.org"), "lb1.example.org", local("192.0.2.2"), "a.example.org"),
            (Some("[192.0.2.7]"), "lb1", local("192.0.2.2"), "[192.0.2.7]"),
        ] {
            assert_eq!(own_name(helo, node, local), said, "{node}");
        }
    }

    #[tokio::test]
    async fn only_a_short_reply_with_one_code_is_a_reply() {
        let many = "250-x\r\n".repeat(MOST_LINES);
        let long = format!("250 {}\r\n", "x".repeat(LONGEST_LINE));
        for (said, code) in [
            ("250 well\r\n", Some(250)),
            ("250\r\n", Some(250)),
            ("250-a\r\n250-b\r\n250 c\r\n", Some(250)),
            ("550 no\n", Some(550)),
            ("250-a\r\n251 b\r\n", None),
            ("250-a\r\n", None),
            ("250well\r\n", None),
            ("+50 well\r\n", None),
            ("25\r\n", None),
            ("\r\n", None),
            ("\u{e4}\u{e4}\r\n", None),
            (&many, None),
            (&long, None),
        ] {
            let mut stream: Box<dyn Duplex> =
                Box::new(io::join(std::io::Cursor::new(said.as_bytes().to_vec()), io::sink()));
            let reply = reply(&mut stream).await;
            assert_eq!(reply.ok().map(|reply| reply.code), code, "{said:?}");
        }
    }

    #[test]
    fn what_a_server_says_stays_one_short_line_in_a_reason() {
        let lines = vec!["no\rsluice: all is well\u{1b}[2J".to_owned(), "x".repeat(1000)];
        let failure = Reply { code: 550, lines }.is(DONE).unwrap_err();
        assert!(failure.is_final && failure.reason.len() < 2 * LONGEST_REASON);
        assert!(!failure.reason.contains(char::is_control), "{}", failure.reason);
    }

    #[test]
    fn a_line_with_one_dot_does_not_end_a_mail() {
        for (text, sent) in [
            ("a\r\n", "a\r\n.\r\n"),
            ("", "\r\n.\r\n"),
            (".\r\n.a\r\n", "..\r\n..a\r\n.\r\n"),
            ("a\n.\nb", "a\n..\nb\r\n.\r\n"),
        ] {
            assert_eq!(stuffed(text.as_bytes()), sent.as_bytes(), "{text:?}");
        }
    }
}
