//! Somebody who asks, and what they were answered.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::http::{self, Response};
use crate::lab;
use crate::namespace::Namespace;
use crate::process;
use crate::server::Server;

/// How long a client waits for one answer. A SYN that is lost is sent again after 1 s and 3 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// A machine on the clients' wire.
pub struct Client {
    /// The machine.
    pub namespace: Namespace,
    /// Its address.
    pub address: Ipv4Addr,
}

/// What a server said about one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The server's name.
    pub server: String,
    /// The client's address and port as the server saw them.
    pub peer: SocketAddr,
    /// The address and port that the server was asked on, by its own account.
    pub local: SocketAddr,
}

/// Answers in the order in which they came.
#[derive(Debug, Clone)]
pub struct Answers(pub Vec<Answer>);

impl Answers {
    /// How many came from `server`.
    pub fn from(&self, server: &Server) -> usize {
        self.0.iter().filter(|answer| answer.server == server.name).count()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The servers' names, in the order of the connections.
    pub fn servers(&self) -> Vec<&str> {
        self.0.iter().map(|answer| answer.server.as_str()).collect()
    }

    /// The client's addresses as the servers saw them.
    pub fn peers(&self) -> BTreeSet<std::net::IpAddr> {
        self.0.iter().map(|answer| answer.peer.ip()).collect()
    }

    /// The addresses and ports that the servers were asked on, by their own account.
    pub fn locals(&self) -> BTreeSet<SocketAddr> {
        self.0.iter().map(|answer| answer.local).collect()
    }
}

impl Client {
    /// The interface that its one leg is.
    pub const LEG: &str = "eth0";

    /// Its IPv6 address.
    pub fn ipv6(&self) -> Ipv6Addr {
        lab::ipv6(self.address)
    }

    /// Its address of the same kind as `other`.
    pub fn address_like(&self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.address.into() } else { self.ipv6().into() }
    }

    /// Makes `count` connections to `to`, one after another, with one request on each.
    ///
    /// # Panics
    /// If one of them is not answered.
    pub fn connect(&self, to: &str, count: usize) -> Answers {
        let answers = self.attempt(to, count, PATIENCE);
        let failures: Vec<_> = answers
            .iter()
            .enumerate()
            .filter_map(|(number, answer)| Some((number, answer.as_ref().err()?)))
            .collect();
        if let [(number, why), ..] = failures[..] {
            panic!(
                "{} of {count} connections from {} to {to} failed, the first is number {number}: \
                 {why}",
                failures.len(),
                self.address
            );
        }
        Answers(answers.into_iter().flatten().collect())
    }

    /// Makes `count` connections to `to`, each of which may fail.
    ///
    /// # Panics
    /// If `to` is not an address and a port.
    pub fn attempt(&self, to: &str, count: usize, patience: Duration) -> Vec<io::Result<Answer>> {
        let to: SocketAddr = to.parse().expect("an address and a port");
        self.namespace.enter(|| (0..count).map(|_| ask(to, patience)).collect())
    }

    /// One request of any kind to a server.
    ///
    /// # Errors
    /// When no connection comes about or it ends early.
    pub fn request(&self, to: &str, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
        let stream = self.open(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        http::exchange(stream, method, path, &[], body)
    }

    /// Opens a connection and leaves it to the caller.
    ///
    /// # Errors
    /// When none comes about.
    pub fn open(&self, to: &str) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().expect("an address and a port");
        let stream = self.namespace.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// As [`Self::open`], from an address that this machine has among others.
    ///
    /// # Errors
    /// When no connection comes about.
    pub fn open_from(&self, from: Ipv4Addr, to: &str) -> io::Result<TcpStream> {
        let to: SocketAddrV4 = to.parse().expect("an IPv4 address and a port");
        self.namespace.enter(|| {
            let kind = (AddressFamily::Inet, SockType::Stream, SockFlag::empty());
            let socket = socket::socket(kind.0, kind.1, kind.2, None)?;
            // Also how long it waits for the connection to come about (socket(7)).
            socket::setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(5))?;
            socket::setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
            socket::bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
            socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
            let stream = TcpStream::from(socket);
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }

    /// Who answers one request on one connection from `from`.
    ///
    /// # Panics
    /// If nobody does.
    pub fn ask_from(&self, from: Ipv4Addr, to: &str) -> Answer {
        let stream = self
            .open_from(from, to)
            .unwrap_or_else(|why| panic!("no connection from {from} to {to}: {why}"));
        let response = http::exchange(stream, "GET", "/", &[], b"");
        let response = response.unwrap_or_else(|why| panic!("from {from} to {to}: {why}"));
        answer(&response).unwrap_or_else(|| panic!("not our server: {}", response.text()))
    }

    /// curl on this machine, and what came of it.
    pub fn curl(&self, arguments: &[&str]) -> std::process::Output {
        process::output(
            self.namespace.command("curl").args(["-sS", "--max-time", "30"]).args(arguments),
        )
    }

    /// A UDP socket on this machine, connected to `to`.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn datagrams(&self, to: &str) -> UdpSocket {
        datagrams(&self.namespace, to)
    }

    /// Sends ICMP echo requests of `size` bytes until `count` were answered, for at most `seconds`;
    /// how many were.
    pub fn ping(&self, address: impl Into<IpAddr>, count: u32, size: u32, seconds: u32) -> u32 {
        let options = [format!("-s{size}"), format!("-w{seconds}")];
        self.namespace.ping(address, count, &options.each_ref().map(String::as_str))
    }

    /// The hardware addresses that answer ARP requests for `address`, one request a second, until
    /// `count` answers have come, for at most `seconds`.
    pub fn arping(&self, address: Ipv4Addr, count: u32, seconds: u32) -> BTreeSet<String> {
        let output = process::output(self.namespace.command("arping").args([
            "-b",
            &format!("-w{seconds}"),
            &format!("-c{count}"),
            "-I",
            Self::LEG,
            &address.to_string(),
        ]));
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines()
            .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_lowercase()))
            .collect()
    }

    /// Forgets whose hardware addresses it knows.
    pub fn forget_neighbours(&self) {
        self.namespace.shell("ip neigh flush all; ip -6 neigh flush all");
    }

    /// A socket that sends whole frames from this machine.
    pub fn frames(&self) -> Frames {
        Frames::on(&self.namespace, Self::LEG)
    }

    /// This machine's hardware address.
    pub fn mac(&self) -> [u8; 6] {
        self.namespace.mac(Self::LEG)
    }
}

/// A socket that sends whole frames, valid or not, and can receive them.
pub struct Frames(OwnedFd);

impl Frames {
    /// On `interface` of `namespace`.
    ///
    /// # Panics
    /// If there is no such interface.
    pub fn on(namespace: &Namespace, interface: &str) -> Self {
        Self::open(namespace, interface, None) // sends only
    }

    /// As [`Self::on`], and receives every frame that comes in, whomever it is for.
    ///
    /// # Panics
    /// If there is no such interface.
    pub fn all_on(namespace: &Namespace, interface: &str) -> Self {
        namespace.ip(&format!("link set {interface} promisc on\n"));
        Self::open(namespace, interface, Some(SockProtocol::EthAll))
    }

    fn open(namespace: &Namespace, interface: &str, protocol: Option<SockProtocol>) -> Self {
        let make = || {
            let address = getifaddrs()?
                .filter(|address| address.interface_name == interface)
                .find_map(|address| address.address?.as_link_addr().copied())
                .ok_or(nix::Error::ENODEV)?;
            let socket =
                socket::socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), protocol)?;
            socket::bind(socket.as_raw_fd(), &address)?;
            nix::Result::Ok(Self(socket))
        };
        let name = namespace.name();
        namespace.enter(make).unwrap_or_else(|why| panic!("{name}: {interface}: {why}"))
    }

    /// The next frame that comes in, at most as long as `buffer`; without VLAN tags, which the kernel
    /// takes off.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> nix::Result<&'b [u8]> {
        let length = socket::recv(self.0.as_raw_fd(), buffer, MsgFlags::empty())?;
        Ok(&buffer[..length])
    }

    /// Sends one frame, from its Ethernet header on.
    ///
    /// # Panics
    /// If the kernel refuses it.
    pub fn send(&self, frame: &[u8]) {
        let sent = socket::send(self.0.as_raw_fd(), frame, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()), "the kernel takes a frame of {} bytes", frame.len());
    }
}

/// One connection, one request, one answer.
fn ask(to: SocketAddr, patience: Duration) -> io::Result<Answer> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    let response = http::exchange(stream, "GET", "/", &[], b"")?;
    answer(&response).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("not our server: {}", response.text()))
    })
}

/// A UDP socket on a machine, connected to `to`.
///
/// # Panics
/// If it cannot be made.
pub fn datagrams(machine: &Namespace, to: &str) -> UdpSocket {
    let to: SocketAddr = to.parse().expect("an address and a port");
    let any = match to.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let make = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        io::Result::Ok(socket)
    };
    machine.enter(make).expect("a UDP socket can be made")
}

/// Cuts a connection, so that nothing of it stays anywhere.
///
/// # Panics
/// If that cannot be asked for.
pub fn cut(stream: TcpStream) {
    // Closing with data unsent, which one may wait for no time, sends a reset (socket(7)).
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    socket::setsockopt(&stream, sockopt::Linger, &at_once).expect("a socket can be told so");
    drop(stream);
}

/// The name of the server at the other end of a connection, which stays open.
///
/// # Errors
/// When it has been cut.
pub fn server_behind(stream: &TcpStream) -> io::Result<String> {
    let response = http::ask(stream, "/")?;
    let answer = answer(&response).ok_or(io::ErrorKind::InvalidData)?;
    Ok(answer.server)
}

/// Whether an idle connection has been cut: the next word on it fails.
///
/// # Panics
/// If it hangs instead.
pub fn is_cut(stream: &TcpStream) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match server_behind(stream) {
        Ok(_) => false,
        Err(why) => {
            let ends = matches!(why.kind(), ConnectionReset | UnexpectedEof | BrokenPipe);
            assert!(ends, "it ends, and does not hang: {why}");
            true
        }
    }
}

/// Sends a datagram to one of our servers that introduce themselves, and returns what it says.
///
/// # Panics
/// If no answer comes.
pub fn ask_by_datagram(socket: &UdpSocket) -> Answer {
    socket.send(b"who?").expect("a datagram can be sent");
    let mut said = [0; 512];
    let length = socket.recv(&mut said).unwrap_or_else(|why| panic!("no answer: {why}"));
    let said = &said[..length];
    read_answer(said).unwrap_or_else(|| panic!("not our server: {}", String::from_utf8_lossy(said)))
}

/// What one of our servers says in a response.
pub fn answer(response: &Response) -> Option<Answer> {
    read_answer(&response.body)
}

fn read_answer(said: &[u8]) -> Option<Answer> {
    let said: serde_json::Value = serde_json::from_slice(said).ok()?;
    let place = |address: &str, port: &str| {
        let port = u16::try_from(said[port].as_u64()?).ok()?;
        Some(SocketAddr::new(said[address].as_str()?.parse().ok()?, port))
    };
    Some(Answer {
        server: said["server"].as_str()?.to_owned(),
        peer: place("peer", "peer_port")?,
        local: place("local", "local_port")?,
    })
}

/// Sends a datagram of each length and waits for its echo before the next.
///
/// # Panics
/// If one does not come back as it was sent.
pub fn echo_every_length(socket: &UdpSocket, lengths: std::ops::RangeInclusive<usize>) {
    let mut echo = [0; 2048];
    for length in lengths {
        let sent: Vec<u8> = (0..length).map(|place| (place + length) as u8).collect();
        socket.send(&sent).unwrap_or_else(|why| panic!("sending {length} bytes: {why}"));
        let received =
            socket.recv(&mut echo).unwrap_or_else(|why| panic!("no echo of {length} bytes: {why}"));
        assert!(echo[..received] == sent, "{received} bytes came back for {length}");
    }
}
