//! A mail for each change. Beyond the rate that the operator wants, changes wait and come together in one
//! mail that lists them; what waits too long is counted, and the next mail says so.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lettre::address::{Address, Envelope};
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail as From, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use tokio::io::{self, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use super::reach::{Duplex, Networks, Shared, encrypted};
use super::{Failure, Pace, Tally, is_about};
use crate::config::alerts::{Mail, Secret};
use crate::config::{MailTls, Via};
use crate::events::{Event, Follower, Heard};
use crate::node::{Node, View};
use crate::report::Notice;

/// How many changes one mail lists.
const MOST: usize = 500;
/// How many letters of a reason stand in such a list.
const SHORT: usize = 200;
/// How long a whole conversation with a mail server may take.
const CONVERSATION: Duration = Duration::from_secs(60);
/// The longest line of a mail server before TLS, in bytes (RFC 5321 section 4.5.3.1.5).
const LONGEST_LINE: usize = 512;
/// How many lines one answer can have.
const MOST_LINES: usize = 100;

/// A change that somebody is to read about.
#[derive(Debug, Clone)]
struct Letter {
    event: Arc<Event>,
    to: Vec<Address>,
}

/// Sends mails, for ever.
pub(super) struct Postman {
    node: Arc<Node>,
    networks: Networks,
    pace: Pace,
    follower: Follower,
    allowance: Allowance,
    /// Changes that no mail told of, since the last that went out.
    untold: u64,
}

impl Postman {
    pub(super) fn new(node: Arc<Node>, networks: Networks, pace: Pace) -> Self {
        let follower = node.events().follow_after(0);
        let allowance = Allowance::default();
        Self { node, networks, pace, follower, allowance, untold: 0 }
    }

    pub(super) async fn run(mut self) {
        loop {
            let heard = self.follower.next().await;
            let Some(first) = self.letter(heard) else { continue };
            let mut letters = vec![first];
            if self.hold_back().await {
                self.gather(&mut letters);
            }
            for (to, events) in by_readers(letters) {
                self.send(&to, &events).await;
            }
        }
    }

    /// What is to be written of an event, if anything.
    fn letter(&mut self, Heard { missed, event }: Heard) -> Option<Letter> {
        if missed > 0 {
            self.lose(missed, "they came faster than mails could be sent");
        }
        let to = readers(&self.node.view(), &event)?;
        Some(Letter { event, to })
    }

    fn lose(&mut self, changes: u64, why: &str) {
        warn!("mail: {changes} changes are in no mail: {why}");
        Tally::add(&self.node.alerts().mail.lost, changes);
        self.untold += changes;
    }

    /// Waits until another mail may go out; whether there was anything to wait for.
    async fn hold_back(&mut self) -> bool {
        let mut held = false;
        loop {
            let rate = self.node.view().config.alerts.mail.as_ref().map_or(1, |mail| mail.rate);
            let wait = self.allowance.wait(Instant::now(), rate as usize, self.pace.period);
            let Some(wait) = wait else { return held };
            held = true;
            sleep(wait).await;
        }
    }

    /// Adds what has come meanwhile.
    fn gather(&mut self, letters: &mut Vec<Letter>) {
        while letters.len() < MOST {
            let Some(heard) = self.follower.try_next() else { return };
            letters.extend(self.letter(heard));
        }
    }

    /// Tries until the mail is taken, or there is no hope that it will be.
    async fn send(&mut self, to: &[Address], events: &[Arc<Event>]) {
        let begun = Instant::now();
        let mut pause = self.pace.pause;
        loop {
            let view = self.node.view();
            let Some(mail) = view.config.alerts.mail.clone() else {
                return self.lose(events.len() as u64, "there is no mail server any more");
            };
            let via = view.config.alerts.via;
            let hello = ClientId::Domain(view.config.node.clone());
            let written = written(&view, &mail, to, events, self.untold);
            drop(view);
            let sent = match written {
                Err(failure) => Err(failure),
                Ok(message) => {
                    let sent = converse(&self.networks, via, &mail, hello, &message);
                    timeout(CONVERSATION, sent).await.unwrap_or_else(|_| {
                        Err(Failure::passing(format!("{}: it took too long", mail.server)))
                    })
                }
            };
            let tally = &self.node.alerts().mail;
            let Err(Failure { reason, is_final }) = sent else {
                Tally::add(&tally.sent, 1);
                self.untold = 0;
                return self.allowance.note(Instant::now());
            };
            Tally::add(&tally.failed, 1);
            if is_final || begun.elapsed() > self.pace.patience {
                error!("mail: given up: {reason}");
                return self.lose(events.len() as u64, "the mail server did not take it");
            }
            warn!("mail: not sent, and tried again in {} s: {reason}", pause.as_secs_f32());
            sleep(pause).await;
            pause = (pause * 2).min(self.pace.longest_pause);
        }
    }
}

/// Who is to read about an event; `None` if nobody is.
fn readers(view: &View, event: &Event) -> Option<Vec<Address>> {
    let mail = view.config.alerts.mail.as_ref()?;
    let subject = &event.change.subject;
    if !is_about(&mail.about, subject) {
        return None;
    }
    let service = subject.service().and_then(|name| view.service(name).ok());
    let own = service.and_then(|service| service.config.alerts.clone()); // HC-16
    Some(own.unwrap_or_else(|| mail.to.clone())).filter(|to| !to.is_empty())
}

/// One list of events for each list of readers, in the order in which they came.
fn by_readers(letters: Vec<Letter>) -> Vec<(Vec<Address>, Vec<Arc<Event>>)> {
    let mut mails: Vec<(Vec<Address>, Vec<Arc<Event>>)> = Vec::new();
    for Letter { event, to } in letters {
        match mails.iter_mut().find(|(readers, _)| *readers == to) {
            Some((_, events)) => events.push(event),
            None => mails.push((to, vec![event])),
        }
    }
    mails
}

/// How many mails went out lately.
#[derive(Debug, Default)]
struct Allowance(VecDeque<Instant>);

impl Allowance {
    /// How long to wait until another one may; `None` if it may now.
    fn wait(&mut self, now: Instant, rate: usize, period: Duration) -> Option<Duration> {
        while self.0.front().is_some_and(|sent| now.duration_since(*sent) >= period) {
            self.0.pop_front();
        }
        let decisive = self.0.len().checked_sub(rate)?;
        Some(period - now.duration_since(self.0[decisive]))
    }

    fn note(&mut self, now: Instant) {
        self.0.push_back(now);
    }
}

fn written(
    view: &View,
    mail: &Mail,
    to: &[Address],
    events: &[Arc<Event>],
    untold: u64,
) -> Result<Message, Failure> {
    let notices: Vec<_> = events.iter().map(|event| Notice::of(event, view)).collect();
    let node = &view.config.node;
    let (subject, mut text) = match &notices[..] {
        [notice] => alone(node, notice),
        all => together(node, all),
    };
    if untold > 0 {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n{untold} earlier changes are in no mail; the log has them.");
    }
    let number = events.first().map_or(0, |event| event.number);
    let time = events.first().map_or(SystemTime::UNIX_EPOCH, |event| event.time);
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut builder = Message::builder()
        .from(Mailbox::new(Some(format!("Sluice {node}")), mail.from.clone()))
        .subject(subject)
        // The same for every attempt, so that a mail that arrives twice is known as one.
        .message_id(Some(format!("<{millis}.{number}.{node}@{}>", mail.from.domain())))
        .header(ContentType::TEXT_PLAIN);
    for address in to {
        builder = builder.to(Mailbox::new(None, address.clone()));
    }
    // RFC 3834 section 5: nobody is to answer.
    let name = HeaderName::new_from_ascii_str("Auto-Submitted");
    let message = builder.raw_header(HeaderValue::new(name, "auto-generated".into())).body(text);
    message.map_err(|error| Failure::last(format!("the mail cannot be written: {error}")))
}

fn alone(node: &str, notice: &Notice) -> (String, String) {
    let Notice { event, virtual_addresses, ports, server_address, .. } = notice;
    let what = event.what();
    let mut text = format!("{what}: {} -> {}\n\n", event.old, event.new);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<16} {value}");
    };
    line("Reason:", &event.reason);
    line("Time:", &event.time);
    line("Node:", node);
    if let Some(service) = &event.service {
        line("Service:", service);
        line("Virtual address:", &virtual_addresses.join(", "));
        line("Ports:", ports.as_deref().unwrap_or_default());
    }
    if let Some(server) = &event.server {
        line("Server:", server);
        line("Server address:", server_address.as_deref().unwrap_or_default());
    }
    line("Event:", &event.number.to_string());
    (format!("[{node}] {what} is {}", event.new), text)
}

fn together(node: &str, notices: &[Notice]) -> (String, String) {
    let mut text = format!("{} changes, the oldest first:\n\n", notices.len());
    for Notice { event, virtual_addresses, .. } in notices {
        let at = match &virtual_addresses[..] {
            [] => String::new(),
            all => format!(" ({})", all.join(", ")),
        };
        let reason: String = event.reason.chars().take(SHORT).collect();
        let (time, what) = (&event.time, event.what());
        let _ = writeln!(text, "{time} {what}{at}: {} -> {}: {reason}", event.old, event.new);
    }
    (format!("[{node}] {} changes", notices.len()), text)
}

/// One conversation with the mail server.
async fn converse(
    networks: &Networks,
    via: Via,
    mail: &Mail,
    hello: ClientId,
    message: &Message,
) -> Result<(), Failure> {
    let mut stream = networks.connect(via, &mail.server).await.map_err(Failure::passing)?;
    if mail.tls == MailTls::StartTls {
        let asked = start_tls(&mut stream, &hello).await;
        asked.map_err(|reason| Failure::passing(format!("{}: {reason}", mail.server)))?;
    }
    if mail.tls != MailTls::None {
        let agreed = encrypted(stream, &mail.server, &mail.trust).await;
        stream = agreed.map_err(Failure::passing)?;
    }
    if mail.tls == MailTls::StartTls {
        stream = greeting(stream);
    }
    let failed = |error: lettre::transport::smtp::Error| {
        let reason = format!("{}: {}", mail.server, told(&error));
        Failure { reason, is_final: error.is_permanent() }
    };
    let stream = Box::new(Shared::new(stream));
    let connected = AsyncSmtpConnection::connect_with_transport(stream, &hello).await;
    let mut connection = connected.map_err(failed)?;
    if let Some((user, Secret(password))) = &mail.login {
        let credentials = Credentials::new(user.clone(), password.clone());
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        connection.auth(&mechanisms, &credentials).await.map_err(failed)?;
    }
    hand_over(&mut connection, message.envelope(), &message.formatted(), failed).await?;
    let _ = connection.quit().await; // it has the mail
    Ok(())
}

/// A recipient that the server does not know keeps the others from nothing.
async fn hand_over(
    connection: &mut AsyncSmtpConnection,
    envelope: &Envelope,
    text: &[u8],
    failed: impl Fn(lettre::transport::smtp::Error) -> Failure,
) -> Result<(), Failure> {
    let from = From::new(envelope.from().cloned(), Vec::new());
    connection.command(from).await.map_err(&failed)?;
    let mut refused = None;
    let mut taken = 0;
    for to in envelope.to() {
        match connection.command(Rcpt::new(to.clone(), Vec::new())).await {
            Ok(_) => taken += 1,
            Err(error) if error.is_permanent() => {
                warn!("mail: {to} is refused: {}", told(&error));
                refused = Some(failed(error));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    if taken == 0 {
        return Err(refused.unwrap_or_else(|| Failure::last("there are no recipients")));
    }
    connection.command(Data).await.map_err(&failed)?;
    connection.message(text).await.map_err(&failed)?;
    Ok(())
}

/// The error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        told += &format!(": {next}");
        cause = next.source();
    }
    told
}

/// Agrees with the server to go on with TLS (RFC 3207). Nothing is read beyond the server's last word
/// before it, so that nobody on the way can put words into what is read after it.
async fn start_tls(stream: &mut Box<dyn Duplex>, hello: &ClientId) -> Result<(), String> {
    answer(stream, "220").await?;
    let said = |error: io::Error| error.to_string();
    stream.write_all(format!("EHLO {hello}\r\n").as_bytes()).await.map_err(said)?;
    let able = answer(stream, "250").await?;
    let is_able =
        |line: &String| line.get(4..).is_some_and(|it| it.eq_ignore_ascii_case("STARTTLS"));
    if !able.iter().any(is_able) {
        return Err("the server has no STARTTLS".into());
    }
    stream.write_all(b"STARTTLS\r\n").await.map_err(said)?;
    answer(stream, "220").await.map(drop)
}

/// The lines of an answer, if it begins with that code.
async fn answer(stream: &mut Box<dyn Duplex>, code: &str) -> Result<Vec<String>, String> {
    let mut lines: Vec<String> = Vec::new();
    while lines.len() < MOST_LINES {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            if line.len() == LONGEST_LINE {
                return Err("the server's answer has a line without end".into());
            }
            line.push(stream.read_u8().await.map_err(|error| error.to_string())?);
        }
        let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        if !line.starts_with(code) {
            return Err(format!("the server says {line:?}"));
        }
        let is_last = line.as_bytes().get(code.len()) != Some(&b'-');
        lines.push(line);
        if is_last {
            return Ok(lines);
        }
    }
    Err("the server's answer has no end".into())
}

/// After STARTTLS a server does not greet again, but the rest of the conversation begins with a greeting.
fn greeting(stream: Box<dyn Duplex>) -> Box<dyn Duplex> {
    let (reader, writer) = io::split(stream);
    Box::new(io::join((&b"220 encrypted\r\n"[..]).chain(reader), writer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_goes_out_as_soon_as_the_rate_allows() {
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let at = |second| start + Duration::from_secs(second);
        let mut allowance = Allowance::default();
        for second in [0, 10, 20] {
            assert_eq!(allowance.wait(at(second), 3, minute), None);
            allowance.note(at(second));
        }
        assert_eq!(allowance.wait(at(25), 3, minute), Some(Duration::from_secs(35)));
        assert_eq!(allowance.wait(at(25), 1, minute), Some(Duration::from_secs(55)));
        assert_eq!(allowance.wait(at(25), 4, minute), None);
        assert_eq!(allowance.wait(at(60), 3, minute), None);
        assert_eq!(allowance.0.len(), 2);
    }
}
