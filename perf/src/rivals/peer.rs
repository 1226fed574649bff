//! The two people of the laboratory: a server that says back what it is told, and a client that counts how often it
//! is answered.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

/// Bytes of a request and of its answer.
const MESSAGE: usize = 64;
/// Clients at the same time.
const CLIENTS: usize = 8;
/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Manner {
    /// Asks again and again on the same connection.
    Requests,
    /// Opens a connection for each request.
    Connections,
}

impl Manner {
    /// As results spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
        }
    }
}

/// Answers for ever.
///
/// # Errors
/// If the address cannot be had.
pub fn serve(at: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at)?;
    for client in listener.incoming() {
        let client = client?;
        thread::spawn(move || echo(client));
    }
    Ok(())
}

/// Until the client has had enough, in whatever way it says so.
fn echo(mut client: TcpStream) {
    let mut message = [0; MESSAGE];
    let _ = client.set_nodelay(true);
    while client.read_exact(&mut message).is_ok() && client.write_all(&message).is_ok() {}
}

/// Answered requests a second, for so long.
///
/// # Errors
/// If nobody answers.
pub fn load(to: SocketAddr, manner: Manner, time: Duration) -> Result<f64> {
    let deadline = Instant::now() + 5 * PATIENCE;
    while let Err(error) = once(to) {
        if Instant::now() > deadline {
            bail!("{to} does not answer: {error}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    let (start, answered) = (Instant::now(), AtomicU64::new(0));
    let end = start + time;
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| match manner {
                Manner::Requests => ask_again(to, end, &answered),
                Manner::Connections => connect_again(to, end, &answered),
            });
        }
    });
    Ok(answered.into_inner() as f64 / start.elapsed().as_secs_f64())
}

fn ask_again(to: SocketAddr, end: Instant, answered: &AtomicU64) {
    while Instant::now() < end {
        let Ok(mut stream) = connect(to) else { continue };
        while Instant::now() < end && ask(&mut stream).is_ok() {
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn connect_again(to: SocketAddr, end: Instant, answered: &AtomicU64) {
    while Instant::now() < end {
        if once(to).is_ok() {
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn once(to: SocketAddr) -> std::io::Result<()> {
    ask(&mut connect(to)?)
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    let (sent, mut answer) = ([0x5a; MESSAGE], [0; MESSAGE]);
    stream.write_all(&sent)?;
    stream.read_exact(&mut answer)?;
    if answer == sent { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_counts_once_in_either_manner() {
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        thread::spawn(move || serve(at));
        for manner in [Manner::Requests, Manner::Connections] {
            let rate = load(at, manner, Duration::from_millis(100)).unwrap();
            assert!(rate > 10.0, "{manner:?}: {rate}");
        }
    }

    #[test]
    fn an_answer_that_says_something_else_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || listener.accept().unwrap().0.write_all(&[0; MESSAGE]));
        assert_eq!(once(at).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
