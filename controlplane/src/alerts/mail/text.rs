//! What stands in a mail.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use lettre::Address;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};

use super::super::Failure;
use crate::config::alerts::Mail;
use crate::events::Event;
use crate::node::View;
use crate::report::Notice;

/// How many letters of a reason stand in a list.
const SHORT: usize = 200;

/// The mail as it is sent (RFC 5322): the same for every attempt, with the same Message-ID, so that one that
/// arrives twice is known as one.
///
/// # Errors
///
/// When an address cannot stand in a mail.
pub(super) fn written(
    view: &View,
    mail: &Mail,
    to: &[Address],
    events: &[Arc<Event>],
    untold: u64,
) -> Result<Vec<u8>, Failure> {
    let notices: Vec<_> = events.iter().map(|event| Notice::of(event, view)).collect();
    let node = &view.config.node;
    let (subject, mut text) = match &notices[..] {
        [notice] => alone(node, notice),
        all => together(node, all),
    };
    if untold > 0 {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "\n{untold} earlier changes are in no mail to some of their readers; the log has them."
        );
    }
    let mut builder = Message::builder()
        .from(Mailbox::new(Some(format!("Sluice {node}")), mail.from.clone()))
        .subject(subject)
        .message_id(Some(message_id(node, mail, events)))
        .date(last_of(events).max(SystemTime::UNIX_EPOCH))
        .header(ContentType::TEXT_PLAIN);
    for address in to {
        builder = builder.to(Mailbox::new(None, address.clone()));
    }
    // RFC 3834 section 5: nobody is to answer.
    let name = HeaderName::new_from_ascii_str("Auto-Submitted");
    let message = builder.raw_header(HeaderValue::new(name, "auto-generated".into())).body(text);
    let message =
        message.map_err(|error| Failure::last(format!("the mail cannot be written: {error}")))?;
    Ok(message.formatted())
}

/// When the last of them happened.
fn last_of(events: &[Arc<Event>]) -> SystemTime {
    events.last().map_or(SystemTime::UNIX_EPOCH, |event| event.time)
}

/// Names what the mail tells of. Numbers begin again when the program does: the time tells them apart. The
/// name of a node may have dots where none may be here (RFC 5322 section 3.6.4).
fn message_id(node: &str, mail: &Mail, events: &[Arc<Event>]) -> String {
    let millis =
        last_of(events).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let numbers = || events.iter().map(|event| event.number);
    let (first, last) = (numbers().next().unwrap_or(0), numbers().next_back().unwrap_or(0));
    format!("<{millis}.{first}-{last}.{}@{}>", node.replace('.', "-"), mail.from.domain())
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
