//! Mail servers and receivers that do what they should not: each costs bounded time and memory, is told
//! nothing twice that it has taken, and holds up nobody else.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::rig::{CONFIGURATION, Memory, Rig, wait_until};
use crate::sinks::Hook;

/// How much there is to tell.
const EVENTS: u64 = 4;

/// How it ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Closes,
    Resets,
    IsSilent,
    Repeats(&'static [u8]),
}

impl End {
    /// How many bytes the other end has taken while it went on.
    fn act(self, stream: &mut TcpStream) -> usize {
        let mut taken = 0;
        match self {
            Self::Closes => {}
            Self::Resets => {
                let _ = SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
            }
            Self::IsSilent => while stream.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {},
            Self::Repeats(what) => {
                let much = what.repeat(65_536 / what.len());
                while stream.write_all(&much).is_ok() {
                    taken += much.len(); // until the other end has gone
                }
            }
        }
        taken
    }
}

/// Somebody who listens.
struct Hostile {
    port: u16,
    connections: Arc<AtomicU64>,
    /// The most that was taken of him over one connection.
    taken: Arc<AtomicUsize>,
}

impl Hostile {
    /// Serves each connection like that.
    fn listen(serve: impl Fn(TcpStream) -> usize + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, taken) = (Arc::default(), Arc::default());
        let hostile =
            Self { port, connections: Arc::clone(&connections), taken: Arc::clone(&taken) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (serve, taken) = (serve.clone(), Arc::clone(&taken));
                connections.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    taken.fetch_max(serve(stream.unwrap()), Ordering::Relaxed);
                });
            }
        });
        hostile
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Little is read of what he says: what lies in the system's buffers counts, too.
    fn was_heard_briefly(&self, name: &str) {
        let taken = self.taken.load(Ordering::Relaxed);
        assert!(taken < 16 << 20, "{name}: {taken} bytes");
    }
}

/// Gives these replies, the first unasked, and ends.
fn mail_server(replies: &'static [&'static str], end: End) -> Hostile {
    Hostile::listen(move |stream| {
        let mut stream = BufReader::new(stream);
        for reply in replies {
            if stream.get_mut().write_all(reply.as_bytes()).is_err() {
                return 0;
            }
            let mut heard = String::new();
            let until = if reply.starts_with("354") { "\r\n.\r\n" } else { "\n" };
            while !heard.ends_with(until) {
                if stream.read_line(&mut heard).unwrap_or_default() == 0 {
                    return 0;
                }
            }
        }
        end.act(stream.get_mut())
    })
}

/// A receiver that says this and ends, once it has heard something.
fn receiver(said: String, end: End) -> Hostile {
    Hostile::listen(move |mut stream| {
        let _ = stream.read(&mut [0; 65_536]);
        let _ = stream.write_all(said.as_bytes());
        end.act(&mut stream)
    })
}

/// A node that tells this one and a receiver that is well; others hear of all in time.
fn rig_that_tells(also: &str) -> (Rig, Hook) {
    let well = Hook::start(&[]);
    let url = format!("http://127.0.0.1:{}/", well.port);
    let rig = Rig::in_directory(
        tempfile::tempdir().unwrap(),
        &format!(
            "{CONFIGURATION}{also}\n[[alerts.webhook]]\nurl = \"{url}\"\nabout = [\"worker\"]\n"
        ),
    );
    (rig, well)
}

fn nobody_else_waits(rig: &Rig, well: &Hook, name: &str) {
    for _ in 0..EVENTS {
        well.next();
    }
    let begin = Instant::now();
    assert_eq!(rig.ask("GET", "/api/v1/status").status, 200);
    assert!(begin.elapsed() < Duration::from_secs(5), "{name}: the node answers at once");
}

/// Does a few at a time, and measures what it costs.
fn at_once<T: Sync>(cases: &[T], case: impl Fn(&T) + Sync) {
    let memory = Memory::measured();
    for few in cases.chunks(4) {
        thread::scope(|scope| {
            let all: Vec<_> = few.iter().map(|it| scope.spawn(|| case(it))).collect();
            all.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
    memory.has_not_grown_by(256 << 20); // with all that other tests do meanwhile
}

const GREETING: &str = "220 mail.example.org\r\n";
const WELL: &str = "250 well\r\n";

#[test]
fn a_hostile_mail_server_holds_up_nothing() {
    let not_taken: &[(&str, &[&str], End)] = &[
        ("ends at once", &[], End::Closes),
        ("resets at once", &[], End::Resets),
        ("says nothing", &[], End::IsSilent),
        ("greets in a line without end", &[], End::Repeats(b"220 hello")),
        ("greets without end", &[], End::Repeats(b"220-hello\r\n")),
        ("says what is no text", &[], End::Repeats(b"\xff\x00\xfe\r\n")),
        ("changes its mind in a reply", &["220-hello\r\n250 well\r\n"], End::Closes),
        ("ends after its greeting", &[GREETING], End::Closes),
        ("says nothing to EHLO", &[GREETING], End::IsSilent),
        ("answers EHLO without end", &[GREETING], End::Repeats(b"250-X\r\n")),
        ("ends after EHLO", &[GREETING, WELL], End::Closes),
        ("ends after MAIL", &[GREETING, WELL, WELL], End::Resets),
        ("says nothing to RCPT", &[GREETING, WELL, WELL], End::IsSilent),
        ("answers RCPT without end", &[GREETING, WELL, WELL], End::Repeats(b"250")),
        ("ends after RCPT", &[GREETING, WELL, WELL, WELL], End::Closes),
        ("takes no text", &[GREETING, WELL, WELL, WELL, WELL], End::Closes),
        ("ends after the text", &[GREETING, WELL, WELL, WELL, "354 go on\r\n"], End::Closes),
        ("has no word for the text", &[GREETING, WELL, WELL, WELL, "354 go on\r\n"], End::IsSilent),
    ];
    at_once(not_taken, |&(name, replies, end)| {
        let (rig, well, hostile) = mailing(replies, end);
        nobody_else_waits(&rig, &well, name);
        wait_until(name, || rig.node().alerts().mail.failed() > 1);
        assert_eq!(rig.node().alerts().mail.sent(), 0, "{name}");
        assert!(hostile.connections() > 1, "{name}: it is tried again");
        hostile.was_heard_briefly(name);
    });
}

#[test]
fn a_mail_server_that_has_a_mail_does_not_get_it_again_whatever_it_says_then() {
    let taken: &[(&str, End)] = &[
        ("ends", End::Closes),
        ("resets", End::Resets),
        ("says nothing", End::IsSilent),
        ("speaks without end", End::Repeats(b"221-bye\r\n")),
    ];
    at_once(taken, |&(name, end)| {
        let replies = &[GREETING, WELL, WELL, WELL, "354 go on\r\n", WELL];
        let (rig, well, hostile) = mailing(replies, end);
        nobody_else_waits(&rig, &well, name);
        let mail = &rig.node().alerts().mail;
        wait_until(name, || mail.sent() >= 1);
        assert_eq!((mail.failed(), mail.lost()), (0, 0), "{name}");
        // A second mail lists the other changes, if the first did not; and no more come.
        thread::sleep(Duration::from_secs(3));
        assert!(hostile.connections() <= mail.sent() + 1, "{name}");
    });
}

/// Nobody on the way to a server can put words into what is said inside TLS.
#[test]
fn what_is_said_before_tls_does_not_count_inside() {
    let injected: &[&str] = &[
        "220 go on\r\n250 well\r\n250 well\r\n250 well\r\n354 go on\r\n250 taken\r\n",
        "502 there is none\r\n",
    ];
    at_once(injected, |&last| {
        let reply: &'static str = last;
        let replies = Vec::leak(vec![GREETING, "250-a\r\n250 STARTTLS\r\n", reply]);
        let (rig, well, hostile) = mailing_with(replies, End::Closes, "tls = \"starttls\"\n");
        nobody_else_waits(&rig, &well, last);
        wait_until(last, || rig.node().alerts().mail.failed() > 1);
        let mail = &rig.node().alerts().mail;
        assert_eq!((mail.sent(), mail.lost()), (0, 0), "{last}");
        assert!(hostile.connections() > 1, "{last}: it is tried again");
    });
}

fn mailing(replies: &'static [&'static str], end: End) -> (Rig, Hook, Hostile) {
    mailing_with(replies, end, "")
}

fn mailing_with(replies: &'static [&'static str], end: End, more: &str) -> (Rig, Hook, Hostile) {
    let hostile = mail_server(replies, end);
    let (rig, well) = rig_that_tells(&format!(
        "\n[alerts.mail]\nserver = \"127.0.0.1:{}\"\nfrom = \"lb1@example.org\"\n\
         to = [\"admin@example.org\"]\nabout = [\"worker\"]\n{more}",
        hostile.port
    ));
    (0..EVENTS).for_each(|_| rig.worker_is_full("90 % of it are in use"));
    (rig, well, hostile)
}

#[test]
fn a_hostile_receiver_holds_up_nothing_and_is_followed_nowhere() {
    let elsewhere = receiver(String::new(), End::Closes);
    let ok = "HTTP/1.1 200 OK\r\n";
    let moved = format!("HTTP/1.1 307 There\r\nlocation: http://127.0.0.1:{}/\r\n", elsewhere.port);
    // Its name, what it says, how it ends, and whether that takes an event: only the status counts.
    let cases = [
        ("says nothing", String::new(), End::IsSilent, false),
        ("ends", String::new(), End::Closes, false),
        ("resets", String::new(), End::Resets, false),
        ("is no HTTP server", String::new(), End::Repeats(b"\xff\x00"), false),
        ("has a line without end", ok.into(), End::Repeats(b"aaaa"), false),
        ("has headers without end", ok.into(), End::Repeats(b"a: b\r\n"), false),
        ("goes on for ever", String::new(), End::Repeats(b"HTTP/1.1 100 Go\r\n\r\n"), false),
        ("sends elsewhere", format!("{moved}content-length: 0\r\n\r\n"), End::Closes, false),
        (
            "has two lengths",
            format!("{ok}content-length: 1\r\ncontent-length: 2\r\n\r\n"),
            End::Closes,
            false,
        ),
        ("has too short a body", format!("{ok}content-length: 9\r\n\r\n1"), End::Closes, true),
        ("has a body without end", format!("{ok}\r\n"), End::Repeats(b"x"), true),
        ("resets after its status", format!("{ok}content-length: 9\r\n\r\n"), End::IsSilent, true),
    ];
    at_once(&cases, |(name, said, end, takes)| {
        let hostile = receiver(said.clone(), *end);
        let (rig, well) = rig_that_tells(&format!(
            "\n[[alerts.webhook]]\nurl = \"http://127.0.0.1:{}/\"\nabout = [\"worker\"]\n\
             retries = 0\ntimeout = \"1s\"\n",
            hostile.port
        ));
        (0..EVENTS).for_each(|_| rig.worker_is_full("90 % of it are in use"));
        nobody_else_waits(&rig, &well, name);
        let tally = &rig.node().alerts().webhook;
        wait_until(name, || tally.sent() + tally.lost() == 2 * EVENTS);
        assert_eq!(tally.sent(), if *takes { 2 * EVENTS } else { EVENTS }, "{name}");
        assert_eq!(hostile.connections(), EVENTS, "{name}: once for each event");
        hostile.was_heard_briefly(name);
    });
    assert_eq!(elsewhere.connections(), 0);
}
