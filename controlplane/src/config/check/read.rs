//! What an operator wrote of a check, made into one. Settings that its type does not have are refused.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use regex::bytes::RegexBuilder;
use rustls::pki_types::ServerName;
use serde_json::Value;

use super::super::settings;
use super::{
    Check, Expect, Http, Kind, Login, Method, OwnCheck, Pace, Pattern, Payload, Record, Secret,
    Session, Status, Tls,
};
use crate::document::{self, CheckKind};
use crate::field::{Field, Invalid, Refusals, Shape, Table};

const CHECK: Shape = Shape {
    known: &[
        "type",
        "negotiate",
        "interval",
        "timeout",
        "negotiate_timeout",
        "rise",
        "fall",
        "jitter",
        "back_off",
        "port",
        "virtual",
        "host",
        "path",
        "method",
        "status",
        "expect",
        "expect_regex",
        "tls",
        "verify",
        "ca",
        "sni",
        "alpn",
        "user",
        "password",
        "query",
        "query_type",
        "send",
        "send_hex",
        "transport",
        "service",
        "arguments",
    ],
    later: &[],
};

/// Settings that every type has.
const EVERY: &[&str] =
    &["type", "interval", "timeout", "negotiate_timeout", "rise", "fall", "jitter", "back_off"];

/// How long a text of an operator can be, in bytes.
const LONGEST_TEXT: usize = 1024;
/// How large a compiled regular expression can be, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;
/// How many arguments a script can have.
const MOST_ARGUMENTS: usize = 64;

const TYPE: &str = "on, off, connect, ping, http, https, http2, grpc, ftp, imap, pop, smtp, ldap, \
                    nntp, dns, mysql, sip, telnet, redis, amqp, tcp, udp, script, 5 or 10";
const NEGOTIATE: &str = "what is asked after the connections: http, https, http2, grpc, ftp, imap, \
                         pop, smtp, ldap, nntp, dns, mysql, sip, telnet, redis, amqp, tcp or udp";

/// Settings that several types have.
const AT: &[&str] = &["port", "virtual"];
const HTTP: &[&str] = &["host", "path", "method", "status"];
const EXPECT: &[&str] = &["expect", "expect_regex"];
const SEND: &[&str] = &["send", "send_hex"];
const LOGIN: &[&str] = &["user", "password"];
const CERTIFICATE: &[&str] = &["verify", "ca", "sni", "alpn"];
const TLS: &[&str] = &["tls"];

/// Whether a type has this setting of its own.
pub(super) fn has_setting(kind: CheckKind, name: &str) -> bool {
    own_settings(kind).iter().any(|some| some.contains(&name))
}

fn own_settings(kind: CheckKind) -> &'static [&'static [&'static str]] {
    match kind {
        CheckKind::On | CheckKind::Off => &[],
        CheckKind::Ping => &[&["virtual"]],
        CheckKind::Connect => &[AT],
        CheckKind::Http => &[AT, HTTP, EXPECT],
        CheckKind::Https => &[AT, HTTP, EXPECT, CERTIFICATE],
        CheckKind::Http2 => &[AT, HTTP, EXPECT, TLS, CERTIFICATE],
        CheckKind::Grpc => &[AT, &["host", "service"], TLS, CERTIFICATE],
        CheckKind::Ftp => &[AT, LOGIN, &["path"], EXPECT],
        CheckKind::Imap | CheckKind::Pop | CheckKind::Nntp | CheckKind::Redis => {
            &[AT, LOGIN, TLS, CERTIFICATE]
        }
        CheckKind::Smtp => &[AT, EXPECT, TLS, CERTIFICATE],
        CheckKind::Ldap => &[AT, LOGIN, EXPECT, TLS, CERTIFICATE],
        CheckKind::Dns => &[AT, &["query", "query_type", "expect"]],
        CheckKind::Mysql => &[AT, LOGIN],
        CheckKind::Sip => &[AT, &["user", "transport", "status"]],
        CheckKind::Telnet => &[AT, EXPECT],
        CheckKind::Amqp => &[AT, TLS, CERTIFICATE],
        CheckKind::Tcp => &[AT, SEND, EXPECT, TLS, CERTIFICATE],
        CheckKind::Udp => &[AT, SEND, EXPECT],
        CheckKind::Script => &[&["port", "path", "arguments"]],
        CheckKind::Five | CheckKind::Ten => &[&["negotiate"]],
    }
}

/// A service's check; nothing if anything was refused.
pub(in crate::config) fn check(field: &Field<'_>, refusals: &mut Refusals) -> Option<Check> {
    let own = field.table(&CHECK, refusals)?;
    read(&Layers { own, below: None }, refusals)
}

/// A server's own check above its service's; nothing if anything was refused, and none if none was written.
#[allow(clippy::option_option)] // was it read, and is there one
pub(in crate::config) fn own_check(
    field: &Field<'_>,
    service: &Field<'_>,
    refusals: &mut Refusals,
) -> Option<Option<OwnCheck>> {
    if !field.is_given() {
        return Some(None);
    }
    let own = field.table(&CHECK, refusals)?;
    if own.is_empty() {
        return Some(None);
    }
    if own.at("type").is_given() {
        let check = read(&Layers { own, below: None }, refusals)?;
        return Some(Some(OwnCheck { written: check.document(), check }));
    }
    if own.at("negotiate").is_given() {
        refusals.add(own.at("type").expected("a type as well, since negotiate is given"));
        return None;
    }
    // What is wrong in the service's own table has been told there.
    let below = service.table(&CHECK, &mut Refusals::default())?;
    let layers = Layers { own, below: Some(below) };
    let mut both = Refusals::default();
    let check = read(&layers, &mut both);
    let here = format!("{}.", field.path());
    for mistake in both.into_told().into_iter().filter(|it| it.path.starts_with(&here)) {
        refusals.add(mistake);
    }
    let check = check?;
    let written = layers.written(&check)?;
    Some(Some(OwnCheck { check, written }))
}

/// A table, and one that stands in for what it lacks.
struct Layers<'v> {
    own: Table<'v>,
    below: Option<Table<'v>>,
}

impl<'v> Layers<'v> {
    fn at(&self, name: &str) -> Field<'v> {
        let own = self.own.at(name);
        match &self.below {
            Some(below) if !own.is_given() && below.at(name).is_given() => below.at(name),
            _ => own,
        }
    }

    /// Of two settings that exclude each other, the one that stands higher.
    fn either(&self, first: &str, second: &str) -> Result<(Field<'v>, Field<'v>), Invalid> {
        let own = (self.own.at(first), self.own.at(second));
        match (own.0.is_given(), own.1.is_given()) {
            (true, true) => Err(own.1.expected(format!("either {first} or {second}"))),
            (false, false) => match &self.below {
                None => Ok(own),
                Some(below) => Ok((below.at(first), below.at(second))),
            },
            _ => Ok(own),
        }
    }

    /// What of a check is written in the upper table.
    fn written(&self, check: &Check) -> Option<document::Check> {
        let Ok(Value::Object(mut whole)) = serde_json::to_value(check.whole()) else { return None };
        whole.retain(|name, _| self.own.at(name).is_given());
        serde_json::from_value(Value::Object(whole)).ok()
    }
}

fn read(layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Check> {
    let kind = refusals.keep(layers.at("type").or(CheckKind::default(), |it| kind(it, TYPE)))?;
    let connects = match kind {
        CheckKind::Five => Some(5),
        CheckKind::Ten => Some(10),
        _ => None,
    };
    let asked = match connects {
        None => kind,
        Some(_) => refusals.keep(negotiated(&layers.at("negotiate")))?,
    };
    for name in CHECK.known {
        let has = |kind| has_setting(kind, name);
        let field = layers.own.at(name);
        if field.is_given() && !EVERY.contains(name) && !has(asked) && !has(kind) {
            let why = match (*name, asked) {
                ("virtual", CheckKind::Script) => {
                    "a script talks through the kernel, which cannot send in the way that clients' packets take".into()
                }
                _ => format!("a check of type {} has none", asked.name()),
            };
            refusals.add(field.expected(format!("no {name}: {why}")));
        }
    }
    let pace = pace(layers, refusals);
    let port = refusals.keep(layers.at("port").optional(settings::port));
    let also_virtual = refusals.keep(layers.at("virtual").or(false, Field::truth));
    let question = question(asked, layers, refusals);
    let kind = match connects {
        None => question?,
        Some(connects) => Kind::Mixed { connects, negotiate: Box::new(question?) },
    };
    Some(Check { kind, pace: pace?, port: port?, virtual_address: also_virtual? })
}

fn kind(field: &Field<'_>, expected: &str) -> Result<CheckKind, Invalid> {
    field.parsed(expected, |text| CheckKind::ALL.into_iter().find(|kind| kind.name() == text))
}

fn negotiated(field: &Field<'_>) -> Result<CheckKind, Invalid> {
    let kind = kind(field, NEGOTIATE)?;
    match kind {
        CheckKind::On
        | CheckKind::Off
        | CheckKind::Connect
        | CheckKind::Ping
        | CheckKind::Script
        | CheckKind::Five
        | CheckKind::Ten => Err(field.expected(NEGOTIATE)),
        _ => Ok(kind),
    }
}

fn pace(layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Pace> {
    let usual = Pace::default();
    let (shortest, hour) = (Duration::from_millis(100), Duration::from_secs(3600));
    let (least, most) = (Duration::from_millis(10), Duration::from_secs(300));
    let interval = layers.at("interval").or(usual.interval, |it| time(it, shortest, hour));
    let interval = refusals.keep(interval);
    let mut limit =
        |name, usual| refusals.keep(layers.at(name).or(usual, |field| time(field, least, most)));
    let timeout = limit("timeout", usual.timeout);
    let negotiate_timeout = limit("negotiate_timeout", usual.negotiate_timeout);
    let rise = refusals.keep(layers.at("rise").or(usual.rise, |field| field.number(1..=100)));
    let fall = refusals.keep(layers.at("fall").or(usual.fall, |field| field.number(1..=100)));
    let jitter = refusals.keep(layers.at("jitter").or(0, |field| field.number(0..=50)));
    let shortest = interval.unwrap_or(shortest);
    let back_off = layers.at("back_off").optional(|field| time(field, shortest, hour));
    let back_off = refusals.keep(back_off);
    Some(Pace {
        interval: interval?,
        timeout: timeout?,
        negotiate_timeout: negotiate_timeout?,
        rise: rise?,
        fall: fall?,
        jitter: jitter? as u8,
        back_off: back_off?,
    })
}

fn question(kind: CheckKind, layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Kind> {
    let expect = |refusals: &mut Refusals| refusals.keep(expect(layers));
    Some(match kind {
        CheckKind::On => Kind::On,
        CheckKind::Off => Kind::Off,
        CheckKind::Connect => Kind::Connect,
        CheckKind::Ping => Kind::Ping,
        CheckKind::Http | CheckKind::Https | CheckKind::Http2 => {
            Kind::Http(http(kind, layers, refusals)?)
        }
        CheckKind::Grpc => grpc(layers, refusals)?,
        CheckKind::Ftp => ftp(layers, refusals)?,
        CheckKind::Imap => Kind::Imap(session(layers, refusals)?),
        CheckKind::Pop => Kind::Pop(session(layers, refusals)?),
        CheckKind::Nntp => Kind::Nntp(session(layers, refusals)?),
        CheckKind::Smtp => {
            let (expect, tls) = (expect(refusals), optional_tls(layers, refusals));
            Kind::Smtp { expect: expect?, tls: tls? }
        }
        CheckKind::Ldap => {
            let (session, expect) = (session(layers, refusals), expect(refusals));
            Kind::Ldap { session: session?, expect: expect? }
        }
        CheckKind::Dns => dns(layers, refusals)?,
        CheckKind::Mysql => Kind::Mysql { login: login(layers, refusals)? },
        CheckKind::Sip => sip(layers, refusals)?,
        CheckKind::Telnet => Kind::Telnet { expect: expect(refusals)? },
        CheckKind::Redis => redis(layers, refusals)?,
        CheckKind::Amqp => Kind::Amqp { tls: optional_tls(layers, refusals)? },
        CheckKind::Tcp => {
            let (send, expect) = (refusals.keep(payload(layers)), expect(refusals));
            let tls = optional_tls(layers, refusals);
            Kind::Tcp { send: send?, expect: expect?, tls: tls? }
        }
        CheckKind::Udp => {
            let (send, expect) = (refusals.keep(payload(layers)), expect(refusals));
            Kind::Udp { send: send?, expect: expect? }
        }
        CheckKind::Script => script(layers, refusals)?,
        CheckKind::Five | CheckKind::Ten => return None, // `negotiated` gives neither
    })
}

fn http(kind: CheckKind, layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Http> {
    let virtual_host = refusals.keep(layers.at("host").optional(host));
    let tls = match kind {
        CheckKind::Http => Some(None),
        CheckKind::Https => tls(layers, refusals).map(Some),
        _ => optional_tls(layers, refusals),
    };
    let inside = tls.as_ref().is_some_and(Option::is_some);
    let page = layers.at("path").or("/".into(), |field| page(field, inside));
    let page = refusals.keep(page);
    let method = refusals.keep(layers.at("method").or(Method::Get, method));
    let status = refusals.keep(layers.at("status").or(Status::default(), status));
    let expect = refusals.keep(expect(layers));
    Some(Http {
        two: kind == CheckKind::Http2,
        virtual_host: virtual_host?,
        page: page?,
        method: method?,
        status: status?,
        expect: expect?,
        tls: tls?,
    })
}

/// A name or an address, as it stands in a request.
fn host(field: &Field<'_>) -> Result<String, Invalid> {
    let expected = "a host, such as www.example.com";
    field.parsed(expected, |text| is_host(text).then(|| text.into()))
}

fn is_host(text: &str) -> bool {
    let plain = |letter: u8| letter.is_ascii_alphanumeric() || b"-._".contains(&letter);
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let six = bracketed.is_some_and(|text| matches!(text.parse(), Ok(IpAddr::V6(_))));
    six || (!text.is_empty() && text.bytes().all(plain))
}

/// A path, or a whole address that begins as the type says.
fn page(field: &Field<'_>, inside: bool) -> Result<String, Invalid> {
    let scheme = if inside { "https" } else { "http" };
    let expected = format!(
        "a path, such as /check.txt, or an address, such as {scheme}://www.example.com/check.txt \
         (the port stands in port)"
    );
    let text = field.text(LONGEST_TEXT, &expected)?;
    let visible = text.bytes().all(|letter| letter.is_ascii_graphic() && letter != b'#');
    let rest = text.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
    let good = match rest {
        None => text.starts_with('/'),
        Some(rest) => is_host(rest.split('/').next().unwrap_or_default()),
    };
    if visible && good { Ok(text.into()) } else { Err(field.expected(expected)) }
}

fn method(field: &Field<'_>) -> Result<Method, Invalid> {
    let all = [Method::Get, Method::Head, Method::Options, Method::Post];
    let named = |text: &str| all.into_iter().find(|method| method.name() == text);
    field.parsed("GET, HEAD, OPTIONS or POST", named)
}

/// Codes and ranges of them, as text; one alone may be a number.
fn status(field: &Field<'_>) -> Result<Status, Invalid> {
    if let Ok(code) = field.number(100..=599) {
        return Ok(Status(vec![(code as u16, code as u16)]));
    }
    let expected = "status codes of 100 to 599, such as \"200\" or \"200-299,304\"";
    let code = |text: &str| {
        let plain = text.len() == 3 && text.bytes().all(|digit| digit.is_ascii_digit());
        text.parse().ok().filter(|code| plain && (100..=599).contains(code))
    };
    let range = |text: &str| -> Option<(u16, u16)> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (code(first.trim())?, code(last.trim())?);
        (first <= last).then_some((first, last))
    };
    field.parsed(expected, |text| {
        let mut ranges: Vec<_> = text.split(',').map(range).collect::<Option<_>>()?;
        ranges.sort_unstable();
        let apart = ranges.windows(2).all(|pair| pair[1].0 > pair[0].1);
        apart.then_some(Status(ranges))
    })
}

fn expect(layers: &Layers<'_>) -> Result<Option<Expect>, Invalid> {
    let (text, pattern) = layers.either("expect", "expect_regex")?;
    if pattern.is_given() {
        return regex(&pattern).map(Some);
    }
    text.optional(|field| {
        let expected = "a text that must stand in the answer";
        match field.text(LONGEST_TEXT, expected)? {
            "" => Err(field.expected(expected)),
            text => Ok(Expect::Text(text.into())),
        }
    })
}

/// Of bytes, so that one finds its place in any answer; their engine takes no longer than linear time.
fn regex(field: &Field<'_>) -> Result<Expect, Invalid> {
    let expected = "a regular expression, such as O[kK]+";
    let source = field.text(LONGEST_TEXT, expected)?;
    let built = RegexBuilder::new(source).unicode(false).size_limit(LARGEST_PATTERN).build();
    match built {
        Ok(regex) => Ok(Expect::Pattern(Pattern { source: source.into(), regex })),
        Err(error) => {
            let told = error.to_string();
            let why = told.lines().last().unwrap_or_default().trim();
            let why = why.trim_start_matches("error: ");
            Err(field.expected(format!("{expected} ({why})")))
        }
    }
}

/// TLS where the operator wants it.
#[allow(clippy::option_option)] // was it read, and is there any
fn optional_tls(layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Option<Tls>> {
    if refusals.keep(layers.at("tls").or(false, Field::truth))? {
        return tls(layers, refusals).map(Some);
    }
    let mut without = true;
    for name in ["verify", "ca", "sni", "alpn"] {
        let field = layers.own.at(name);
        if field.is_given() {
            refusals.add(field.expected(format!("no {name}: tls is false")));
            without = false;
        }
    }
    without.then_some(None)
}

fn tls(layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Tls> {
    let ca_field = layers.at("ca");
    let ca = refusals.keep(ca_field.optional(|field| absolute(field, "/etc/sluice/servers.pem")));
    let verify = refusals.keep(layers.at("verify").or(ca_field.is_given(), Field::truth));
    let name = refusals.keep(layers.at("sni").optional(|field| {
        let good = |text: &str| {
            let name = ServerName::try_from(text).ok()?;
            matches!(name, ServerName::DnsName(_)).then(|| text.to_owned())
        };
        field.parsed("a name, such as www.example.com", good)
    }));
    let alpn = refusals.keep(layers.at("alpn").optional(alpn));
    if verify == Some(false) && layers.own.at("ca").is_given() {
        refusals.add(ca_field.expected("no ca: verify is false"));
        return None;
    }
    Some(Tls { verify: verify?, ca: ca?, name: name?, alpn: alpn? })
}

fn alpn(field: &Field<'_>) -> Result<Vec<String>, Invalid> {
    let expected = "a list of protocols, such as [\"http/1.1\"]";
    let good = |text: &str| {
        let fits = (1..=255).contains(&text.len());
        (fits && text.bytes().all(|it| it.is_ascii_graphic())).then(|| text.to_owned())
    };
    let items = field.items(8, expected)?;
    items.iter().map(|item| item.parsed("a protocol, such as http/1.1", good)).collect()
}

fn absolute(field: &Field<'_>, example: &str) -> Result<PathBuf, Invalid> {
    let expected = format!("the absolute path of a file, such as {example}");
    let text = field.text(LONGEST_TEXT, &expected)?;
    let good = text.starts_with('/') && !text.contains('\0');
    if good { Ok(text.into()) } else { Err(field.expected(expected)) }
}

/// A text that ends no line.
fn line(field: &Field<'_>, expected: &str) -> Result<String, Invalid> {
    let text = field.text(255, expected)?;
    let good = !text.is_empty() && !text.chars().any(char::is_control);
    if good { Ok(text.into()) } else { Err(field.expected(expected)) }
}

fn password(field: &Field<'_>) -> Result<Secret, Invalid> {
    let expected = "a password of at most 255 bytes, without control characters";
    // What was found is not repeated: it may be nearly right.
    let text = field.text(255, expected).map_err(|_| field.refuse(expected, "something else"))?;
    match text.chars().any(char::is_control) {
        true => Err(field.refuse(expected, "something else")),
        false => Ok(Secret(text.into())),
    }
}

/// Both or neither.
#[allow(clippy::option_option)] // was it read, and is there one
fn login(layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Option<Login>> {
    let (user_field, password_field) = (layers.at("user"), layers.at("password"));
    if user_field.is_given() && !password_field.is_given() {
        refusals.add(password_field.expected("the user's password"));
        return None;
    }
    if password_field.is_given() && !user_field.is_given() {
        refusals.add(user_field.expected("the name of who logs in, since there is a password"));
        return None;
    }
    let user = refusals.keep(user_field.optional(|field| line(field, "the name of who logs in")));
    let password = refusals.keep(password_field.optional(password));
    Some(user?.zip(password?).map(|(user, password)| Login { user, password }))
}

fn session(layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Session> {
    let (login, tls) = (login(layers, refusals), optional_tls(layers, refusals));
    Some(Session { login: login?, tls: tls? })
}

fn grpc(layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Kind> {
    let service = layers.at("service").or(String::new(), |field| line(field, "a service's name"));
    let service = refusals.keep(service);
    let host = refusals.keep(layers.at("host").optional(host));
    let tls = optional_tls(layers, refusals);
    Some(Kind::Grpc { service: service?, host: host?, tls: tls? })
}

fn ftp(layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Kind> {
    let login = login(layers, refusals);
    let file = layers.at("path").optional(|field| line(field, "a file, such as check.txt"));
    let file = refusals.keep(file);
    let expect = refusals.keep(expect(layers));
    if matches!((&file, &expect), (Some(None), Some(Some(_)))) {
        refusals.add(layers.at("path").expected("a file that the text is looked for in"));
        return None;
    }
    Some(Kind::Ftp { login: login?, file: file?, expect: expect? })
}

fn dns(layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Kind> {
    let name = refusals.keep(domain(&layers.at("query")));
    let record = layers.at("query_type").or(Record::A, |field| {
        let named = |text: &str| Record::ALL.iter().find(|(name, _)| *name == text);
        let expected = "A, AAAA, CNAME, MX, NS, PTR, SOA, SRV or TXT";
        field.parsed(expected, |text| named(text).map(|&(_, record)| record))
    });
    let record = refusals.keep(record);
    let expect = layers.at("expect").optional(|field| {
        let (example, family) = match record {
            Some(Record::Aaaa) => {
                ("an IPv6 address, such as 2001:db8::7", IpAddr::is_ipv6 as fn(&_) -> _)
            }
            _ => ("an IPv4 address, such as 192.0.2.7", IpAddr::is_ipv4 as fn(&_) -> _),
        };
        if !matches!(record, None | Some(Record::A | Record::Aaaa)) {
            return Err(field.expected("no expect: only records A and AAAA are addresses"));
        }
        field.parsed(example, |text| text.parse().ok().filter(family))
    });
    let expect = refusals.keep(expect);
    Some(Kind::Dns { name: name?, record: record?, expect: expect? })
}

/// A name as DNS can carry it (RFC 1035 section 2.3.4), without the dot at its end; `.` is the root.
fn domain(field: &Field<'_>) -> Result<String, Invalid> {
    let expected = "a name to ask for, such as www.example.com";
    field.parsed(expected, |text| {
        if text == "." {
            return Some(text.into());
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let label = |label: &str| {
            (1..=63).contains(&label.len()) && label.bytes().all(|it| it.is_ascii_graphic())
        };
        (name.len() <= 253 && name.split('.').all(label)).then(|| name.to_owned())
    })
}

fn sip(layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Kind> {
    let user = refusals.keep(layers.at("user").optional(|field| {
        let plain =
            |letter: u8| letter.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&letter);
        let good = |text: &str| !text.is_empty() && text.bytes().all(plain);
        field.parsed("a user's name, such as alice", |text| good(text).then(|| text.to_owned()))
    }));
    let tcp = layers.at("transport").or(false, |field| {
        field.parsed("udp or tcp", |text| match text {
            "udp" => Some(false),
            "tcp" => Some(true),
            _ => None,
        })
    });
    let tcp = refusals.keep(tcp);
    let status = refusals.keep(layers.at("status").or(Status::default(), sip_status));
    Some(Kind::Sip { user: user?, tcp: tcp?, status: status? })
}

fn sip_status(field: &Field<'_>) -> Result<Status, Invalid> {
    status(field)
}

/// A password alone is enough.
fn redis(layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Kind> {
    let login = match layers.at("user").is_given() {
        true => login(layers, refusals),
        false => refusals.keep(
            layers
                .at("password")
                .optional(|field| Ok(Login { user: String::new(), password: password(field)? })),
        ),
    };
    let tls = optional_tls(layers, refusals);
    Some(Kind::Redis { login: login?, tls: tls? })
}

fn payload(layers: &Layers<'_>) -> Result<Option<Payload>, Invalid> {
    let (text, hexadecimal) = layers.either("send", "send_hex")?;
    if !hexadecimal.is_given() {
        return text.optional(|field| {
            let text = field.text(LONGEST_TEXT, "a text")?;
            Ok(Payload { bytes: text.into(), hexadecimal: false })
        });
    }
    hexadecimal.optional(|field| {
        let expected = "pairs of hexadecimal digits, such as 00ff17";
        let text = field.text(2 * LONGEST_TEXT, expected)?;
        let bytes = unhex(text).ok_or_else(|| field.expected(expected))?;
        Ok(Payload { bytes, hexadecimal: true })
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let pair = |pair: &[u32]| match pair {
        [high, low] => Some((high * 16 + low) as u8),
        _ => None,
    };
    digits.chunks(2).map(pair).collect()
}

fn script(layers: &Layers<'_>, refusals: &mut Refusals) -> Option<Kind> {
    let program = refusals.keep(absolute(&layers.at("path"), "/usr/local/bin/check-web"));
    let expected = "a list of arguments, such as [\"--fast\"]";
    let arguments = layers.at("arguments").items(MOST_ARGUMENTS, expected).and_then(|items| {
        let argument = |item: &Field<'_>| {
            let text = item.text(LONGEST_TEXT, "an argument")?;
            match text.contains('\0') {
                true => Err(item.expected("an argument without a byte of 0")),
                false => Ok(text.to_owned()),
            }
        };
        items.iter().map(argument).collect()
    });
    let arguments = refusals.keep(arguments);
    Some(Kind::Script { program: program?, arguments: arguments? })
}

/// A time within bounds: `250ms`, `5`, `5s`, `5m`, `1h`.
fn time(field: &Field<'_>, least: Duration, most: Duration) -> Result<Duration, Invalid> {
    let read = match field.number(0..=u32::MAX) {
        Ok(seconds) => Some(Duration::from_secs(seconds.into())),
        Err(_) => field.parsed("", parse_time).ok(),
    };
    read.filter(|time| (least..=most).contains(time)).ok_or_else(|| {
        let (least, most) = (shown(least), shown(most));
        field.expected(format!("a time from {least} to {most}, such as 250ms, 5s or 5m"))
    })
}

fn parse_time(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
    let count = digits.parse::<u32>().ok().filter(|_| plain)?;
    Some(Duration::from_millis(u64::from(count) * unit))
}

/// A time as it is shown: in the largest unit that leaves it whole.
pub(super) fn shown(time: Duration) -> String {
    match time.subsec_millis() {
        0 => super::super::address::seconds(time.as_secs() as u32),
        _ => format!("{}ms", time.as_millis()),
    }
}
