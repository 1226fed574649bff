//! Answers whoever asks how idle this server is. One thread, and room for so many guests: who stays too
//! long, or comes when there is no room, makes the oldest go. Nobody has to be read before he is answered,
//! but for HTTP, and what is read is bounded.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::askers::{Askers, Way};

/// How many guests there can be at once.
const GUESTS: usize = 64;
/// How many are let in at a time.
const AT_A_TIME: usize = 32;
/// How long a guest may stay.
const STAY: Duration = Duration::from_secs(2);
/// The longest request, in bytes.
const LONGEST_REQUEST: usize = 4096;

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saying {
    /// How idle the server is, in percent.
    Idle(u8),
    /// It wants no new connections.
    Drain,
}

impl Saying {
    /// As feedback agents say it: `95%`, or a word that Sluice and HAProxy know.
    pub fn plain(self) -> String {
        match self {
            Self::Idle(idle) => format!("{idle}%\n"),
            Self::Drain => "drain\n".into(),
        }
    }

    /// By HTTP there is a number only.
    fn response(self) -> String {
        let body = match self {
            Self::Idle(idle) => format!("{idle}\n"),
            Self::Drain => "0\n".into(),
        };
        format!(
            "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

/// How those who come to a port are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// At once.
    Plain,
    /// After a request.
    Http,
}

/// The ports and the guests.
pub struct Desk {
    ports: Vec<(TcpListener, Kind)>,
    guests: Vec<Guest>,
    /// Who is answered; everybody if there is none.
    from: Vec<IpAddr>,
    askers: Askers,
}

struct Guest {
    stream: TcpStream,
    way: Way,
    kind: Kind,
    said: Vec<u8>,
    until: Instant,
}

impl Desk {
    /// Nobody is let in who is not among `from`, unless that is empty.
    ///
    /// # Errors
    /// When a socket cannot be told not to block.
    pub fn new(ports: Vec<(TcpListener, Kind)>, from: Vec<IpAddr>) -> io::Result<Self> {
        for (port, _) in &ports {
            port.set_nonblocking(true)?;
        }
        Ok(Self { ports, guests: Vec::new(), from, askers: Askers::default() })
    }

    /// Who asks, and who of them knows that this server wants to drain.
    pub fn askers(&self) -> &Askers {
        &self.askers
    }

    /// Waits until somebody comes or says something, or `alarm` can be read, for at most `patience`; lets
    /// them in, and answers with `saying`. Whether `alarm` can be read.
    ///
    /// # Errors
    /// When nothing can be waited for.
    pub fn turn(
        &mut self,
        alarm: BorrowedFd<'_>,
        patience: Duration,
        saying: impl FnOnce() -> Saying,
    ) -> nix::Result<bool> {
        let (ready, alarmed) = self.wait(alarm, patience)?;
        let now = Instant::now();
        if ready {
            let saying = saying();
            self.receive(now, saying);
            self.let_in(now, saying);
        }
        self.guests.retain(|guest| guest.until > now);
        Ok(alarmed)
    }

    fn wait(&self, alarm: BorrowedFd<'_>, patience: Duration) -> nix::Result<(bool, bool)> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let ports = self.ports.iter().map(|(port, _)| readable(port.as_fd()));
        let guests = self.guests.iter().map(|guest| readable(guest.stream.as_fd()));
        let mut all: Vec<_> = std::iter::once(readable(alarm)).chain(ports).chain(guests).collect();
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut all, patience) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok((false, false)),
            Err(why) => return Err(why),
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        Ok((all[1..].iter().any(is_ready), is_ready(&all[0])))
    }

    fn let_in(&mut self, now: Instant, saying: Saying) {
        for (port, kind) in &self.ports {
            for _ in 0..AT_A_TIME {
                let Ok((stream, who)) = port.accept() else { break };
                let from = who.ip().to_canonical();
                let known = self.from.is_empty() || self.from.contains(&from);
                let Ok(to) = stream.local_addr() else { continue };
                if !known || stream.set_nonblocking(true).is_err() {
                    continue;
                }
                if self.guests.len() == GUESTS {
                    self.guests.remove(0); // the oldest
                }
                let (way, said, until) = (Way { from, to }, Vec::new(), now + STAY);
                let mut guest = Guest { stream, way, kind: *kind, said, until };
                if *kind == Kind::Plain {
                    guest.answer(now, saying, &mut self.askers);
                }
                self.guests.push(guest);
            }
        }
    }

    /// Reads what guests say, answers those with a whole request, and lets go who has gone.
    fn receive(&mut self, now: Instant, saying: Saying) {
        let askers = &mut self.askers;
        self.guests.retain_mut(|guest| match guest.hear() {
            Heard::Nothing => true,
            Heard::Request => {
                guest.answer(now, saying, askers);
                true
            }
            Heard::End => false,
        });
    }
}

enum Heard {
    Nothing,
    Request,
    End,
}

impl Guest {
    /// A client that still has something to say, and to a closed door, could lose the answer: so a guest is
    /// let go after he has closed, or when his time is over.
    fn hear(&mut self) -> Heard {
        let mut bytes = [0; 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => Heard::End,
            Ok(_) if self.kind == Kind::Plain => Heard::Nothing,
            Ok(length) => {
                self.said.extend_from_slice(&bytes[..length]);
                // What was there before has been looked at.
                let news = &self.said[self.said.len().saturating_sub(length + 3)..];
                let ends = |end: &[u8]| news.windows(end.len()).any(|window| window == end);
                match self.said.len() {
                    _ if ends(b"\r\n\r\n") || ends(b"\n\n") => Heard::Request,
                    length if length > LONGEST_REQUEST => Heard::End,
                    _ => Heard::Nothing,
                }
            }
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
            Err(_) => Heard::End,
        }
    }

    /// A short answer always has room in a new connection.
    fn answer(&mut self, now: Instant, saying: Saying, askers: &mut Askers) {
        let text = match self.kind {
            Kind::Plain => saying.plain(),
            Kind::Http => saying.response(),
        };
        self.kind = Kind::Plain; // what else he says does not count
        let said = self.stream.write_all(text.as_bytes());
        let _ = self.stream.shutdown(Shutdown::Write); // he may have gone already
        askers.note(self.way, now, said.is_ok() && saying == Saying::Drain);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    /// A desk on a thread of its own, until this value goes out of scope.
    struct Running {
        plain: SocketAddr,
        http: SocketAddr,
        end: Arc<AtomicBool>,
        thread: Option<thread::JoinHandle<usize>>,
    }

    impl Running {
        fn saying(saying: Saying, from: &[&str]) -> Self {
            let port = || TcpListener::bind("127.0.0.1:0").unwrap();
            let (plain, http) = (port(), port());
            let at = |port: &TcpListener| port.local_addr().unwrap();
            let (plain_at, http_at) = (at(&plain), at(&http));
            let from = from.iter().map(|text| text.parse().unwrap()).collect();
            let mut desk = Desk::new(vec![(plain, Kind::Plain), (http, Kind::Http)], from).unwrap();
            let end = Arc::new(AtomicBool::new(false));
            let ended = Arc::clone(&end);
            let thread = thread::spawn(move || {
                let (alarm, _silent) = UnixStream::pair().unwrap();
                let mut most = 0;
                while !ended.load(Ordering::Relaxed) {
                    desk.turn(alarm.as_fd(), Duration::from_millis(20), || saying).unwrap();
                    most = most.max(desk.guests.len());
                }
                most
            });
            Self { plain: plain_at, http: http_at, end, thread: Some(thread) }
        }

        /// Ends it; how many guests there were at most.
        fn end(mut self) -> usize {
            self.end.store(true, Ordering::Relaxed);
            self.thread.take().unwrap().join().unwrap()
        }
    }

    fn answer(at: SocketAddr, question: &[u8]) -> String {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(question).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn whoever_comes_is_told_a_number_and_the_connection_closes() {
        let desk = Running::saying(Saying::Idle(95), &[]);
        assert_eq!(answer(desk.plain, b""), "95%\n");
        assert_eq!(answer(desk.plain, b"lb1\n"), "95%\n", "whatever he says");
        desk.end();
    }

    #[test]
    fn a_request_is_answered_with_a_number_and_nothing_else_in_the_body() {
        let desk = Running::saying(Saying::Idle(95), &[]);
        let response = answer(desk.http, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\n95\n"), "{response}");
        assert!(response.contains("\r\nContent-Length: 3\r\n"), "{response}");
        desk.end();
    }

    #[test]
    fn a_request_that_comes_in_bits_is_answered_at_its_end() {
        let desk = Running::saying(Saying::Idle(95), &[]);
        let mut stream = TcpStream::connect(desk.http).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut answer = [0; 512];
        for byte in b"GET / HTTP/1.0\r\n\r" {
            stream.write_all(&[*byte]).unwrap();
            let early = stream.read(&mut answer).expect_err("no answer yet").kind();
            assert!(matches!(early, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
        }
        stream.write_all(b"\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert!(stream.read(&mut answer).is_ok_and(|length| length > 0));
        desk.end();
    }

    #[test]
    fn a_server_that_drains_says_so() {
        let desk = Running::saying(Saying::Drain, &[]);
        assert_eq!(answer(desk.plain, b""), "drain\n");
        assert!(answer(desk.http, b"GET / HTTP/1.0\n\n").ends_with("\r\n\r\n0\n"));
        desk.end();
    }

    #[test]
    fn only_those_who_may_are_answered() {
        let desk = Running::saying(Saying::Idle(95), &["192.0.2.1"]);
        assert_eq!(answer(desk.plain, b""), "");
        desk.end();
        let desk = Running::saying(Saying::Idle(95), &["192.0.2.1", "127.0.0.1"]);
        assert_eq!(answer(desk.plain, b""), "95%\n");
        desk.end();
    }

    #[test]
    fn guests_who_stay_keep_nobody_out() {
        let desk = Running::saying(Saying::Idle(95), &[]);
        let idle: Vec<_> = (0..3 * GUESTS)
            .map(|_| TcpStream::connect(desk.http).unwrap())
            .chain((0..3 * GUESTS).map(|_| TcpStream::connect(desk.plain).unwrap()))
            .collect();
        assert_eq!(answer(desk.plain, b""), "95%\n");
        assert!(answer(desk.http, b"GET / HTTP/1.0\r\n\r\n").ends_with("95\n"));
        drop(idle);
        assert!(desk.end() <= GUESTS);
    }

    #[test]
    fn a_request_without_end_is_not_read_to_the_end() {
        let desk = Running::saying(Saying::Idle(95), &[]);
        let mut stream = TcpStream::connect(desk.http).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        let megabyte = vec![b'x'; 1 << 20];
        let outcome = (0..64).try_for_each(|_| stream.write_all(&megabyte));
        let why = outcome.expect_err("the other end has closed").kind();
        assert!(matches!(why, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{why}");
        desk.end();
    }
}
