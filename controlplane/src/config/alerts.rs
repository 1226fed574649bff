//! `[alerts]`: who is told what changed, and how.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use axum::http::Uri;
use lettre::Address;

use super::address::{duration, seconds};
use super::settings::word;
use super::system::{LONGEST_PATH, path};
use super::{About, MailTls, Service, Via};
use crate::document;
use crate::field::{Field, Invalid, Refusals, Shape, Table};

/// How many receivers there can be.
const MAX_WEBHOOKS: usize = 16;
/// How many addresses a mail can go to.
const MAX_RECIPIENTS: usize = 20;
/// The longest secret, in bytes.
const LONGEST_SECRET: usize = 1024;
/// The longest URL, in bytes.
const LONGEST_URL: usize = 2048;

/// Who is told what changed, and how.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Alerts {
    /// How packets get there.
    pub via: Via,
    /// E-mail.
    pub mail: Option<Mail>,
    /// HTTP servers, each with a URL of its own.
    pub webhooks: Vec<Webhook>,
}

/// E-mail.
#[derive(Debug, Clone, PartialEq)]
pub struct Mail {
    /// The mail server.
    pub server: Host,
    /// Whether the conversation is encrypted.
    pub tls: MailTls,
    /// Whom we trust.
    pub trust: Trust,
    /// Who we are, if the server wants to know; never without `tls`.
    pub login: Option<(String, Secret)>,
    /// Who we say that we are; by default that follows from our name and address.
    pub helo: Option<String>,
    /// The sender.
    pub from: Address,
    /// Who gets the mails, unless a service says otherwise.
    pub to: Vec<Address>,
    /// How many mails a minute.
    pub rate: u32,
    /// What they are about.
    pub about: Vec<About>,
}

/// An HTTP server that gets events.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// Where events are sent.
    pub url: Url,
    /// What they are signed with.
    pub secret: Option<Secret>,
    /// Whom we trust.
    pub trust: Trust,
    /// How long one attempt may take, in seconds.
    pub timeout: u32,
    /// How many attempts follow one that failed.
    pub retries: u32,
    /// What is sent.
    pub about: Vec<About>,
}

/// Whose certificates are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Whether they need be.
    pub verify: bool,
    /// Those who say so; whom everybody trusts if absent.
    pub ca: Option<PathBuf>,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// Its address or its name.
    pub name: String,
    /// Its port.
    pub port: u16,
}

impl Host {
    /// Its address, if it is no name.
    pub fn address(&self) -> Option<SocketAddr> {
        let address: IpAddr = self.name.parse().ok()?;
        Some(SocketAddr::new(address, self.port))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

/// `http` or `https`, to a host and a path. What is shown of it in logs leaves out the path, which may be a
/// secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url {
    /// As the operator wrote it.
    pub text: String,
    /// Whether it is `https`.
    pub is_tls: bool,
    /// The server.
    pub host: Host,
    /// What is asked for there, with the query.
    pub path: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.host)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What nobody may read in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a secret)")
    }
}

const ALERTS: Shape = Shape { known: &["via", "mail", "webhook"], later: &[] };

/// How packets get there is needed even if anything else cannot be read.
pub(super) fn alerts(field: &Field<'_>, refusals: &mut Refusals) -> (Via, Option<Alerts>) {
    let Some(table) = field.table(&ALERTS, refusals) else { return (Via::default(), None) };
    let words = [("kernel", Via::Kernel), ("in_band", Via::InBand)];
    let via = table.at("via").or(Via::default(), |field| word(field, "kernel or in_band", &words));
    let via = refusals.keep(via);
    let reach = via.unwrap_or_default();
    let mail_field = table.at("mail");
    let mail = match mail_field.is_given() {
        true => mail(&mail_field, reach, refusals).map(Some),
        false => Some(None),
    };
    let webhooks = webhooks(&table.at("webhook"), reach, refusals);
    let read = || Some(Alerts { via: via?, mail: mail?, webhooks: webhooks? });
    (reach, read())
}

const MAIL: Shape = Shape {
    known: &[
        "server", "tls", "verify", "ca", "user", "password", "helo", "from", "to", "rate", "about",
    ],
    later: &[],
};

fn mail(field: &Field<'_>, via: Via, refusals: &mut Refusals) -> Option<Mail> {
    let table = field.table(&MAIL, refusals)?;
    let server = refusals.keep(host(&table.at("server"), via));
    let words = [("none", MailTls::None), ("starttls", MailTls::StartTls), ("tls", MailTls::Tls)];
    let tls_field = table.at("tls");
    let tls =
        tls_field.or(MailTls::default(), |field| word(field, "none, starttls or tls", &words));
    let tls = refusals.keep(tls);
    let trust = trust(&table, refusals);
    let login = login(&table, refusals);
    if let (Some(MailTls::None), Some(Some(_))) = (tls, &login) {
        refusals.add(tls_field.expected("starttls or tls: a password is not sent in the clear"));
    }
    let helo = refusals.keep(table.at("helo").optional(helo));
    let from = refusals.keep(mailbox(&table.at("from")));
    let to_field = table.at("to");
    let to = recipients(&to_field, refusals);
    if to_field.is_given() && to.as_ref().is_some_and(Vec::is_empty) {
        refusals.add(to_field.refuse(RECIPIENTS, "an empty list"));
    }
    let rate = refusals.keep(table.at("rate").or(10, |field| field.number(1..=600)));
    let about = about(&table.at("about"), &About::STATES, refusals);
    Some(Mail {
        server: server?,
        tls: tls?,
        trust: trust?,
        login: login?,
        helo: helo?,
        from: from?,
        to: to?,
        rate: rate?,
        about: about?,
    })
}

/// A domain, or the literal of an address (RFC 5321 section 4.1.3).
fn helo(field: &Field<'_>) -> Result<String, Invalid> {
    let expected = "a name in the DNS, such as lb1.example.org, or an address, such as [192.0.2.2] \
                    or [IPv6:2001:db8::2]";
    let is_literal = |text: &str| {
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inner.is_some_and(|inner| match inner.strip_prefix("IPv6:") {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => inner.parse::<Ipv4Addr>().is_ok(),
        })
    };
    field.parsed(expected, |text| (is_domain(text) || is_literal(text)).then(|| text.to_owned()))
}

/// Whether this may be a name in the DNS that is written out (RFC 5321 sections 2.3.5 and 4.1.2): no address,
/// and no name that means something at home only.
pub(crate) fn is_domain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let top = text.rsplit_once('.').map(|(_, top)| top);
    text.len() <= 253
        && text.split('.').all(is_label)
        && top.is_some_and(|top| !top.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A user and his password, both or neither.
#[allow(clippy::option_option)] // was it read, and is there one
fn login(table: &Table<'_>, refusals: &mut Refusals) -> Option<Option<(String, Secret)>> {
    let (user, password) = (table.at("user"), table.at("password"));
    let plain = |text: &str| !text.is_empty() && !text.contains(char::is_control);
    let read = |field: &Field<'_>| {
        field.parsed("the name of a user", |text| plain(text).then(|| text.to_owned()))
    };
    let name = refusals.keep(user.optional(read));
    let word = refusals.keep(password.optional(secret));
    match (name?, word?) {
        (Some(name), Some(word)) => Some(Some((name, word))),
        (None, None) => Some(None),
        (Some(_), None) => {
            refusals.add(password.expected("the user's password"));
            None
        }
        (None, Some(_)) => {
            refusals.add(user.expected("the user whose password it is"));
            None
        }
    }
}

const WEBHOOK: Shape =
    Shape { known: &["url", "secret", "verify", "ca", "timeout", "retries", "about"], later: &[] };

fn webhooks(field: &Field<'_>, via: Via, refusals: &mut Refusals) -> Option<Vec<Webhook>> {
    let items = field.items(MAX_WEBHOOKS, "a list of receivers, [[alerts.webhook]] in TOML");
    let items = refusals.keep(items)?;
    let mut seen = HashSet::new();
    let read = |item: &Field<'_>| {
        let table = item.table(&WEBHOOK, refusals)?;
        let url_field = table.at("url");
        let webhook = webhook(&table, via, refusals)?;
        match seen.insert(webhook.url.clone()) {
            true => Some(webhook),
            false => {
                refusals.add(url_field.expected("a receiver that does not stand in the list yet"));
                None
            }
        }
    };
    let webhooks: Vec<_> = items.iter().map(read).collect();
    webhooks.into_iter().collect()
}

fn webhook(table: &Table<'_>, via: Via, refusals: &mut Refusals) -> Option<Webhook> {
    let url = refusals.keep(url(&table.at("url"), via));
    let secret = refusals.keep(table.at("secret").optional(secret));
    let trust = trust(table, refusals);
    let timeout = refusals.keep(table.at("timeout").or(5, |field| duration(field, 1, 60)));
    let retries = refusals.keep(table.at("retries").or(5, |field| field.number(0..=20)));
    let all = About::ALL.map(|(_, about)| about);
    let about = about(&table.at("about"), &all, refusals);
    Some(Webhook {
        url: url?,
        secret: secret?,
        trust: trust?,
        timeout: timeout?,
        retries: retries?,
        about: about?,
    })
}

const SERVICE: Shape = Shape { known: &["to"], later: &[] };

/// `alerts` of a service: who gets mails about it (HC-16).
#[allow(clippy::option_option)] // was it read, and is there one
pub(super) fn of_service(
    field: &Field<'_>,
    refusals: &mut Refusals,
) -> Option<Option<Vec<Address>>> {
    if !field.is_given() {
        return Some(None);
    }
    let table = field.table(&SERVICE, refusals)?;
    let to = table.at("to");
    if !to.is_given() {
        refusals.add(to.expected(RECIPIENTS));
        return None;
    }
    recipients(&to, refusals).map(Some)
}

/// Refuses services that say whom to tell where nobody is told anything.
pub(super) fn together(
    services: &Field<'_>,
    alerts: &Alerts,
    read: &[Service],
    refusals: &mut Refusals,
) {
    if alerts.mail.is_some() {
        return;
    }
    for (position, service) in read.iter().enumerate() {
        if service.alerts.is_some() {
            refusals.add(Invalid {
                path: format!("{}[{position}].alerts", services.path()),
                expected: "no alerts: there is no alerts.mail with a server to send them".into(),
                found: "a table".into(),
            });
        }
    }
}

const RECIPIENTS: &str = "a list of mail addresses, such as [\"admin@example.org\"]";

fn recipients(field: &Field<'_>, refusals: &mut Refusals) -> Option<Vec<Address>> {
    if !field.is_given() {
        refusals.add(field.expected(RECIPIENTS));
        return None;
    }
    let items = refusals.keep(field.items(MAX_RECIPIENTS, RECIPIENTS))?;
    let read: Vec<_> = items.iter().map(|item| refusals.keep(mailbox(item))).collect();
    read.into_iter().collect()
}

/// Plain ASCII, which every mail server takes.
fn mailbox(field: &Field<'_>) -> Result<Address, Invalid> {
    field.parsed("a mail address, such as admin@example.org", |text| {
        text.parse().ok().filter(|_| text.is_ascii())
    })
}

fn about(field: &Field<'_>, usual: &[About], refusals: &mut Refusals) -> Option<Vec<About>> {
    if !field.is_given() {
        return Some(usual.to_vec());
    }
    let expected = "a list, such as [\"server\", \"service\"]";
    let items = refusals.keep(field.items(About::ALL.len(), expected))?;
    if items.is_empty() {
        refusals.add(field.refuse(expected, "an empty list"));
        return None;
    }
    let mut seen = HashSet::new();
    let mut kind = |item: &Field<'_>| {
        let words = "server, service, worker, address, configuration or trigger, each once";
        let about = word(item, words, &About::ALL)?;
        seen.insert(about).then_some(about).ok_or_else(|| item.expected(words))
    };
    let read: Vec<_> = items.iter().map(|item| refusals.keep(kind(item))).collect();
    read.into_iter().collect()
}

fn trust(table: &Table<'_>, refusals: &mut Refusals) -> Option<Trust> {
    let verify = refusals.keep(table.at("verify").or(true, Field::truth));
    let ca = refusals.keep(table.at("ca").optional(|field| path(field, LONGEST_PATH)));
    Some(Trust { verify: verify?, ca: ca? })
}

/// What is there is not repeated in the refusal.
pub(super) fn secret(field: &Field<'_>) -> Result<Secret, Invalid> {
    let expected = format!("a secret of 1 to {LONGEST_SECRET} printable letters");
    match field.text(LONGEST_SECRET, &expected) {
        Ok(text) if !text.is_empty() && !text.contains(char::is_control) => {
            Ok(Secret(text.to_owned()))
        }
        _ => Err(field.refuse(expected, "something else")),
    }
}

/// A host and its port; only an address where names cannot be looked up.
fn host(field: &Field<'_>, via: Via) -> Result<Host, Invalid> {
    let expected = match via {
        Via::Kernel => "a host and a port, such as 10.0.0.25:25",
        Via::InBand => "an address and a port, such as 10.0.0.25:25 (in band, no names are known)",
    };
    let read = field.parsed(expected, |text| {
        let (name, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|&port: &u16| port > 0)?;
        Some(Host { name: host_name(name)?, port })
    })?;
    reachable(read, via).ok_or_else(|| field.expected(expected))
}

/// An address, if it has brackets one of IPv6, or a name.
fn host_name(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(address.to_string());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    let is_name = (1..=253).contains(&text.len())
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text.bytes().all(plain);
    // What has nothing but digits and dots is an address or a mistake.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_address = text.parse::<Ipv4Addr>().is_ok();
    (is_name && (is_address || !is_number)).then(|| text.to_ascii_lowercase())
}

fn reachable(host: Host, via: Via) -> Option<Host> {
    (via == Via::Kernel || host.address().is_some()).then_some(host)
}

pub(super) fn url(field: &Field<'_>, via: Via) -> Result<Url, Invalid> {
    let expected = match via {
        Via::Kernel => "a URL, such as https://10.0.0.30/events",
        Via::InBand => {
            "a URL with an address, such as https://10.0.0.30/events (in band, no names are known)"
        }
    };
    // The path may be a secret.
    let refused = || field.refuse(expected, "something else");
    let text = field.text(LONGEST_URL, expected)?;
    let uri: Uri = text.parse().map_err(|_| refused())?;
    let is_tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(refused()),
    };
    let authority = uri.authority().filter(|it| !it.as_str().contains('@')).ok_or_else(refused)?;
    let port = match (&authority.as_str()[authority.host().len()..], authority.port_u16()) {
        ("", _) if is_tls => 443,
        ("", _) => 80,
        (_, Some(port)) if port > 0 => port,
        _ => return Err(refused()),
    };
    let name = host_name(authority.host()).ok_or_else(refused)?;
    let host = reachable(Host { name, port }, via).ok_or_else(refused)?;
    let path = uri.path_and_query().map_or("/", |it| it.as_str()).to_owned();
    Ok(Url { text: text.to_owned(), is_tls, host, path })
}

impl Alerts {
    pub(super) fn document(&self) -> document::Alerts {
        document::Alerts {
            via: self.via,
            mail: self.mail.as_ref().map(Mail::document),
            webhook: self.webhooks.iter().map(Webhook::document).collect(),
        }
    }
}

impl Mail {
    fn document(&self) -> document::Mail {
        let (user, password) = self.login.clone().unzip();
        document::Mail {
            server: self.server.to_string(),
            tls: self.tls,
            verify: self.trust.verify,
            ca: self.trust.ca.clone(),
            user,
            password: password.map(|Secret(text)| text),
            helo: self.helo.clone(),
            from: self.from.to_string(),
            to: self.to.iter().map(ToString::to_string).collect(),
            rate: self.rate,
            about: self.about.clone(),
        }
    }
}

impl Webhook {
    fn document(&self) -> document::Webhook {
        document::Webhook {
            url: self.url.text.clone(),
            secret: self.secret.clone().map(|Secret(text)| text),
            verify: self.trust.verify,
            ca: self.trust.ca.clone(),
            timeout: seconds(self.timeout),
            retries: self.retries,
            about: self.about.clone(),
        }
    }
}
