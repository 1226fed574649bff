//! The kernel's sockets: the management port, and everything that is not on the data ports.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use dataplane::wire::{checksum, icmp, icmpv6};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{Datagrams, Listen, Listener, Net, Way};
use crate::random;

/// How many bytes an echo request carries.
const DATA: usize = 32;
/// The longest reply that is looked at, in bytes.
const LONGEST: usize = 256;

/// The kernel's network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kernel;

impl Net for Kernel {
    type Stream = TcpStream;
    type Datagrams = UdpSocket;

    async fn connect(&self, to: SocketAddr, way: Way) -> io::Result<TcpStream> {
        only_routed(way)?;
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn local(stream: &TcpStream) -> Option<SocketAddr> {
        stream.local_addr().ok()
    }

    async fn datagrams(&self, to: SocketAddr, way: Way) -> io::Result<UdpSocket> {
        only_routed(way)?;
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(to).await?;
        Ok(socket)
    }

    async fn ping(&self, to: IpAddr, way: Way) -> io::Result<Duration> {
        only_routed(way)?;
        let to = to.to_canonical();
        let socket = echo_socket(to)?;
        let echo = Echo { is_v4: to.is_ipv4(), numbers: random(), data: random() };
        let sent = Instant::now();
        socket.send(&echo.request()).await?;
        let mut reply = [0; LONGEST];
        loop {
            let length = socket.recv(&mut reply).await?;
            if echo.is_answered_by(&reply[..length]) {
                return Ok(sent.elapsed());
            }
        }
    }
}

impl Listen for Kernel {
    type Listener = TcpListener;

    fn listen(&self, address: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
        let address = address.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        let listener = std::net::TcpListener::bind((address, port))?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        let _ = stream.set_nodelay(true); // an answer is worth sending without it
        Ok((stream, peer))
    }
}

/// What an echo request carries, which nobody can guess.
struct Echo {
    is_v4: bool,
    /// Identifier and sequence. The kernel may put another identifier in.
    numbers: [u8; 4],
    data: [u8; DATA],
}

impl Echo {
    fn request(&self) -> Vec<u8> {
        let kind = if self.is_v4 { icmp::kind::ECHO_REQUEST } else { icmpv6::kind::ECHO_REQUEST };
        let mut request = [&[kind, 0, 0, 0], &self.numbers[..], &self.data].concat();
        let sum = checksum::of(&request); // IPv6's covers addresses as well, and is the kernel's
        request[2..4].copy_from_slice(&sum.to_be_bytes());
        request
    }

    /// A raw IPv4 socket gives the packet's header, too.
    fn is_answered_by(&self, packet: &[u8]) -> bool {
        let message = match packet {
            [0x45..=0x4f, ..] => packet.get(usize::from(packet[0] & 0x0f) * 4..),
            _ => Some(packet),
        };
        let kind = if self.is_v4 { icmp::kind::ECHO_REPLY } else { icmpv6::kind::ECHO_REPLY };
        matches!(message, Some([found, 0, _, _, _, _, a, b, rest @ ..])
            if *found == kind && [*a, *b] == self.numbers[2..] && *rest == self.data)
    }
}

/// The kernel has no way to be told the next station, and no tunnels that it was not configured with.
fn only_routed(way: Way) -> io::Result<()> {
    match way {
        Way::Routed => Ok(()),
        Way::From { .. } | Way::Direct { .. } | Way::Tunnel { .. } => {
            let told = "in the way of clients' packets servers can be asked on the data ports only";
            Err(io::Error::new(ErrorKind::Unsupported, told))
        }
    }
}

/// A socket that sends echo requests to `to` and hears the answers: one that every user may have (icmp(7)), or else, where
/// the system allows none (net.ipv4.ping_group_range), one that root may have. To tokio it is as good as one of UDP.
fn echo_socket(to: IpAddr) -> io::Result<UdpSocket> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let made = |kind: Type| Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol));
    let socket = made(Type::DGRAM).or_else(|_| made(Type::RAW))?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    UdpSocket::from_std(socket.into())
}

impl Datagrams for UdpSocket {
    async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        UdpSocket::send(self, datagram).await.map(|_| ())
    }

    async fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        self.recv(into).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_stream_and_datagrams_reach_the_other_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut stream = Kernel.connect(at, Way::Routed).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut heard = [0; 4];
        other.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");

        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = other.local_addr().unwrap();
        let socket = Kernel.datagrams(at, Way::Routed).await.unwrap();
        Datagrams::send(&socket, b"hello").await.unwrap();
        let (length, from) = other.recv_from(&mut [0; 16]).await.unwrap();
        assert_eq!(length, 5);
        other.send_to(b"back", from).await.unwrap();
        let mut heard = [0; 16];
        assert_eq!(Datagrams::receive(&socket, &mut heard).await.unwrap(), 4);
        assert_eq!(&heard[..4], b"back");
    }

    #[tokio::test]
    async fn what_nobody_listens_to_refuses() {
        let at = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let refused = Kernel.connect(at, Way::Routed).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let socket = Kernel.datagrams(at, Way::Routed).await.unwrap();
        Datagrams::send(&socket, b"hello").await.unwrap();
        let refused = Datagrams::receive(&socket, &mut [0; 16]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }

    /// Needs a system where somebody may ask: root may everywhere.
    #[tokio::test]
    async fn the_machine_itself_answers_an_echo_request() {
        for own in ["127.0.0.1", "::1"] {
            let own: IpAddr = own.parse().unwrap();
            match Kernel.ping(own, Way::Routed).await {
                Ok(time) => assert!(time < Duration::from_secs(1)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{own}"),
            }
        }
    }

    #[test]
    fn only_the_same_numbers_and_data_are_an_answer() {
        for is_v4 in [true, false] {
            let echo = Echo { is_v4, numbers: [1, 2, 3, 4], data: [7; DATA] };
            let mut reply = echo.request();
            assert!(!echo.is_answered_by(&reply), "the request itself");
            reply[0] = if is_v4 { 0 } else { 129 };
            assert!(echo.is_answered_by(&reply));
            assert!(echo.is_answered_by(&[&[0x45; 20], &reply[..]].concat()), "of a raw socket");
            reply[8] ^= 1;
            assert!(!echo.is_answered_by(&reply));
            assert!(!echo.is_answered_by(&[0x4f; 30]));
            assert!(!echo.is_answered_by(&[]));
        }
    }

    #[tokio::test]
    async fn other_ways_than_the_routes_are_refused() {
        let at: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let server = "127.0.0.2".parse().unwrap();
        for way in [Way::Direct { server }, Way::Tunnel { server, gue_port: None }] {
            let refused = Kernel.connect(at, way).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unsupported);
            assert!(Kernel.datagrams(at, way).await.is_err());
            let refused = Kernel.ping(at.ip(), way).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unsupported);
        }
    }
}
