//! dnsmasq on a real server, and questions to it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::Server;
use crate::process::eventually;

/// Types of resource records (RFC 1035, RFC 3596).
pub const A: u16 = 1;
/// Text.
pub const TXT: u16 = 16;
/// An IPv6 address.
pub const AAAA: u16 = 28;

impl Server {
    /// Starts dnsmasq, which knows `www.lab.test` (two addresses), `long.lab.test` (more text than 512
    /// bytes hold), `huge.lab.test` (more than two packets hold) and, each server differently,
    /// `who.lab.test`: its own name.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn serve_names(&mut self) {
        let text = "a long text that stands for itself, again and again; ".repeat(4);
        let texts = |count| {
            let texts = (0..count).map(|number| format!("\"{number}: {text}\""));
            texts.collect::<Vec<_>>().join(",")
        };
        let mut dnsmasq = self.namespace.command("dnsmasq");
        dnsmasq.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
        ]);
        dnsmasq.args(["--user=root", "--log-facility=-", "--pid-file=", "--local-ttl=60"]);
        dnsmasq
            // On each address by itself: it would not answer for one that is another interface's.
            .args(["--bind-interfaces"])
            .args(["--edns-packet-max=4096", "--host-record=www.lab.test,192.0.2.80,2001:db8::80"]);
        dnsmasq.arg(format!("--txt-record=who.lab.test,{}", self.name));
        dnsmasq.arg(format!("--txt-record=long.lab.test,{}", texts(6)));
        // Several of one name: one takes no more than a kilobyte.
        for number in 0..4 {
            dnsmasq.arg(format!("--txt-record=huge.lab.test,{number},{}", texts(4)));
        }
        self.start_program(&mut dnsmasq);
        let at = SocketAddr::from(([127, 0, 0, 1], 53));
        let answers = || self.namespace.enter(|| ask_by_udp(at, "www.lab.test", A)).ok();
        eventually(Duration::from_secs(5), answers)
            .unwrap_or_else(|| panic!("{}: dnsmasq did not answer in 5 s", self.name));
    }
}

/// A question as it is on the wire (RFC 1035 section 4), with room for 4,096 bytes of answer (RFC
/// 6891). It always has the same number, so that answers can be compared byte for byte.
pub fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 1]; // recursion desired
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]); // the Internet
    message.extend([0, 0, 41, 0x10, 0x00, 0, 0, 0, 0, 0, 0]);
    message
}

/// Asks from where the calling thread is, by one datagram.
///
/// # Errors
/// When no answer comes within a second.
pub fn ask_by_udp(at: SocketAddr, name: &str, kind: u16) -> io::Result<Vec<u8>> {
    let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(at)?;
    ask_again(&socket, name, kind)
}

/// As [`ask_by_udp`], on a connected socket.
///
/// # Errors
/// When no answer comes within a second.
pub fn ask_again(socket: &UdpSocket, name: &str, kind: u16) -> io::Result<Vec<u8>> {
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.send(&question(name, kind))?;
    let mut answer = [0; 8192];
    let length = socket.recv(&mut answer)?;
    Ok(answer[..length].to_vec())
}

/// Asks from where the calling thread is, over TCP.
///
/// # Errors
/// When no whole answer comes.
pub fn ask_by_tcp(at: SocketAddr, name: &str, kind: u16) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let question = question(name, kind);
    stream.write_all(&[&(question.len() as u16).to_be_bytes(), &question[..]].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// The text of the one record in an answer to a question for [`TXT`].
///
/// # Panics
/// If it holds no such record.
pub fn text(answer: &[u8]) -> String {
    // Behind the header, the question and what dnsmasq repeats of it: name (a pointer), type, class,
    // time to live, length; then one string.
    let end = 12 + answer[12..].iter().position(|byte| *byte == 0).expect("a name ends") + 1 + 4;
    let data = &answer[end + 12..];
    let length = usize::from(data[0]);
    String::from_utf8_lossy(&data[1..=length]).into_owned()
}
