//! Servers of the tests' own that are told what changed, on real sockets: for mail, and for HTTP.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use aws_lc_rs::hmac;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for what must not come to have come.
pub const SILENCE: Duration = Duration::from_millis(300);

/// The names of this machine.
pub const HERE: &[&str] = &["localhost", "127.0.0.1"];

/// A certificate that nobody vouches for but itself.
#[derive(Clone)]
pub struct Identity {
    pub pem: String,
    config: Arc<ServerConfig>,
}

impl Identity {
    pub fn of(names: &[&str]) -> Self {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        Self { pem: cert.pem(), config: Arc::new(config) }
    }

    fn around(&self, stream: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
        StreamOwned::new(ServerConnection::new(Arc::clone(&self.config)).unwrap(), stream)
    }
}

/// A mail as the server got it.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Who the client said that it is.
    pub hello: String,
    pub to: Vec<String>,
    pub text: String,
    pub encrypted: bool,
    pub user: Option<String>,
}

impl Mail {
    pub fn header(&self, name: &str) -> &str {
        let line = self.text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.text))
    }
}

/// When a mail server speaks TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum When {
    #[default]
    Never,
    Asked,
    AtOnce,
}

/// What a mail server does that is out of the ordinary.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// So many conversations end with a refusal for now.
    pub busy: u32,
    pub tls: When,
    /// This recipient is not known.
    pub unknown: &'static str,
    /// This recipient's mailbox is full until the test says otherwise.
    pub full: &'static str,
}

/// A small mail server (RFC 5321).
pub struct MailServer {
    pub port: u16,
    pub mails: Receiver<Mail>,
    pub identity: Identity,
    pub is_full: Arc<AtomicBool>,
    /// How often a full mailbox was asked for.
    pub turned_away: Arc<AtomicU32>,
}

impl MailServer {
    pub fn start(manner: Manner) -> Self {
        Self::who_is(&Identity::of(HERE), manner)
    }

    /// One with this certificate.
    pub fn who_is(identity: &Identity, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, mails) = mpsc::channel();
        let identity = identity.clone();
        let is_full = Arc::new(AtomicBool::new(true));
        let turned_away = Arc::new(AtomicU32::new(0));
        let talk = Talk {
            manner,
            is_busy: false,
            is_full: Arc::clone(&is_full),
            turned_away: Arc::clone(&turned_away),
            sender,
            encrypted: false,
        };
        let (busy, shown) = (Arc::new(AtomicU32::new(manner.busy)), identity.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (talk, busy, shown) = (talk.clone(), Arc::clone(&busy), shown.clone());
                thread::spawn(move || {
                    let less = |left: u32| left.checked_sub(1);
                    let is_busy =
                        busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
                    let stream = stream.unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    Talk { is_busy, ..talk }.serve(stream, &shown)
                });
            }
        });
        Self { port, mails, identity, is_full, turned_away }
    }

    pub fn next(&self) -> Mail {
        self.mails.recv_timeout(PATIENCE).expect("a mail comes")
    }

    /// The next mail that has this in it.
    pub fn next_about(&self, what: &str) -> Mail {
        loop {
            let mail = self.next();
            if mail.text.contains(what) {
                return mail;
            }
        }
    }

    pub fn is_quiet(&self) -> bool {
        self.mails.recv_timeout(SILENCE).is_err()
    }
}

#[derive(Clone)]
struct Talk {
    manner: Manner,
    is_busy: bool,
    is_full: Arc<AtomicBool>,
    turned_away: Arc<AtomicU32>,
    sender: mpsc::Sender<Mail>,
    encrypted: bool,
}

impl Talk {
    fn serve(self, stream: TcpStream, identity: &Identity) {
        let encrypted = Self { encrypted: true, ..self.clone() };
        if self.manner.tls == When::AtOnce {
            let mut stream = BufReader::new(identity.around(stream));
            if encrypted.greet(&mut stream).is_ok() {
                encrypted.go_on(&mut stream);
            }
            return;
        }
        let mut stream = BufReader::new(stream);
        if self.greet(&mut stream).is_ok() && self.go_on(&mut stream) {
            encrypted.go_on(&mut BufReader::new(identity.around(stream.into_inner())));
        }
    }

    fn greet<S: Read + Write>(&self, stream: &mut BufReader<S>) -> std::io::Result<()> {
        stream.get_mut().write_all(b"220 mail.example.org ESMTP\r\n")
    }

    /// Until the other end has gone, or wants TLS.
    fn go_on<S: Read + Write>(&self, stream: &mut BufReader<S>) -> bool {
        let (mut hello, mut to, mut user) = (String::new(), Vec::new(), None);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or_default() == 0 {
                return false;
            }
            let line = line.trim_end();
            let is_about = |name: &str| !name.is_empty() && line.contains(name);
            if let Some(name) = line.strip_prefix("EHLO ") {
                hello = name.to_owned();
            }
            let answer = match line.split(' ').next().unwrap_or_default() {
                "EHLO" if self.manner.tls == When::Asked && !self.encrypted => {
                    "250-hello\r\n250 STARTTLS"
                }
                "EHLO" => "250-hello\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN",
                "STARTTLS" => {
                    stream.get_mut().write_all(b"220 go on\r\n").unwrap();
                    return true;
                }
                "AUTH" => {
                    user = line.strip_prefix("AUTH PLAIN ").map(str::to_owned);
                    "235 welcome"
                }
                "MAIL" if self.is_busy => "451 not now",
                "MAIL" => "250 well",
                "RCPT" if is_about(self.manner.unknown) => "550 nobody of that name",
                "RCPT" if is_about(self.manner.full) && self.is_full.load(Ordering::Relaxed) => {
                    self.turned_away.fetch_add(1, Ordering::Relaxed);
                    "452 the mailbox is full"
                }
                "RCPT" => {
                    let address = line.trim_start_matches("RCPT TO:<").trim_end_matches('>');
                    to.push(address.to_owned());
                    "250 well"
                }
                "DATA" => {
                    stream.get_mut().write_all(b"354 go on\r\n").unwrap();
                    let mut text = String::new();
                    while !text.ends_with("\r\n.\r\n") {
                        assert!(stream.read_line(&mut text).unwrap() > 0, "{text}");
                    }
                    let text = text.replace("=\r\n", ""); // long lines are folded
                    let mail = Mail {
                        hello: hello.clone(),
                        to: std::mem::take(&mut to),
                        text,
                        encrypted: self.encrypted,
                        user: user.clone(),
                    };
                    let _ = self.sender.send(mail);
                    "250 taken"
                }
                "QUIT" => "221 good bye",
                _ => "500 what",
            };
            if stream.get_mut().write_all(format!("{answer}\r\n").as_bytes()).is_err() {
                return false;
            }
        }
    }
}

/// What an HTTP server got.
#[derive(Debug, Clone)]
pub struct Request {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or_else(|| panic!("no {name} in {:?}", self.headers), |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks who sent it, as a receiver would.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let signed = [self.header("sluice-timestamp").as_bytes(), b".", &self.body].concat();
        let hexadecimal = self.header("sluice-signature").strip_prefix("sha256=").unwrap();
        let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
        let signature: Vec<_> = hexadecimal.as_bytes().chunks(2).map(byte).collect();
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hmac::verify(&key, &signed, &signature).is_ok()
    }
}

/// An HTTP server that answers with these statuses, one after the other, and with 204 from then on; with 0
/// it does not answer.
pub struct Hook {
    pub port: u16,
    pub requests: Receiver<Request>,
    /// Connections at once, and the most there have been.
    pub open: Arc<Mutex<(u32, u32)>>,
}

impl Hook {
    pub fn start(statuses: &[u16]) -> Self {
        Self::with(None, statuses)
    }

    /// One that speaks TLS from the first byte.
    pub fn encrypted(identity: &Identity) -> Self {
        Self::with(Some(identity.clone()), &[])
    }

    fn with(identity: Option<Identity>, statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, requests) = mpsc::channel();
        let open = Arc::new(Mutex::new((0, 0)));
        let (statuses, shared) = (statuses.to_vec(), Arc::clone(&open));
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let status = statuses.get(number).copied().unwrap_or(204);
                let (sender, open) = (sender.clone(), Arc::clone(&shared));
                let identity = identity.clone();
                thread::spawn(move || {
                    let mut open_now = open.lock().unwrap();
                    open_now.0 += 1;
                    open_now.1 = open_now.1.max(open_now.0);
                    drop(open_now);
                    let stream = stream.unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let _ = match identity {
                        Some(identity) => serve(identity.around(stream), status, &sender),
                        None => serve(stream, status, &sender),
                    };
                    open.lock().unwrap().0 -= 1;
                });
            }
        });
        Self { port, requests, open }
    }

    pub fn next(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request comes")
    }
}

fn serve(
    stream: impl Read + Write,
    status: u16,
    sender: &mpsc::Sender<Request>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    if lines.is_empty() {
        return Ok(()); // it has gone already
    }
    let line = lines.remove(0);
    let parted = lines.iter().filter_map(|line| line.split_once(": "));
    let headers: Vec<_> = parted.map(|(name, value)| (name.to_lowercase(), value.into())).collect();
    let mut request = Request { line, headers, body: Vec::new() };
    request.body = vec![0; request.header("content-length").parse().unwrap()];
    stream.read_exact(&mut request.body)?;
    let _ = sender.send(request);
    if status == 0 {
        stream.read_exact(&mut [0])?; // until the other end has gone
    }
    let answer = format!("HTTP/1.1 {status} So\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.get_mut().write_all(answer.as_bytes())
}
