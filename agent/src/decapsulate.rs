//! Takes the outer headers of tunnels off, so that a server of mode `tun` needs no driver of the kernel:
//! raw sockets hear IP in IP, whole, because the kernel has put fragments together by then, and a UDP socket
//! hears Generic UDP Encapsulation. The inner packet goes to a raw socket with its own header. It is for an
//! address of this machine, so it comes back in by the loopback interface, where nobody asks whether its
//! sender can be reached that way: reverse-path filters need not be loosened.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockaddrStorage, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::Error;
use crate::record::{Change, Record, parameter};

const IPIP: u8 = 4;
const IPV6: u8 = 41;
/// A raw socket of this protocol sends only.
const RAW: i32 = 255;
/// How many packets are taken from one socket before the others have their turn.
const BURST: usize = 64;
/// Room for a burst while this program is not running, as far as the kernel grants it.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The kernel's own device for IPv4 in IPv4.
const TUNL: &str = "tunl0";

/// Who takes the outer headers off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Method {
    /// The kernel where it has its driver loaded and no reverse-path filter is in its way, else this program.
    #[default]
    Auto,
    /// The kernel.
    Kernel,
    /// This program.
    User,
}

/// Which inner packets are let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// To these addresses alone.
    pub to: HashSet<IpAddr>,
    /// In outer packets from these alone; from everybody if there are none.
    pub from: HashSet<IpAddr>,
}

impl Rules {
    fn trust(&self, from: Option<IpAddr>) -> bool {
        self.from.is_empty() || from.is_some_and(|it| self.from.contains(&it.to_canonical()))
    }

    /// The inner packet without what may follow it, and where it goes. Nobody may send what could not come
    /// in from a wire.
    fn admit<'p>(&self, packet: &'p [u8]) -> Option<(IpAddr, &'p [u8])> {
        let (from, to, length) = ends(packet)?;
        let strange = from.is_loopback()
            || from.is_unspecified()
            || from.is_multicast()
            || from == IpAddr::V4(Ipv4Addr::BROADCAST)
            || self.to.contains(&from);
        (!strange && self.to.contains(&to)).then_some((to, packet.get(..length)?))
    }
}

/// Source, destination and whole length of a packet.
fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr, usize)> {
    match packet.first()? >> 4 {
        4 => {
            let header: &[u8; 20] = packet.first_chunk()?;
            let [.., a, b, c, d, e, f, g, h] = *header;
            let own = usize::from(header[0] & 0x0f) * 4;
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let plausible = own >= 20 && length >= own;
            let (from, to) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
            plausible.then_some((from.into(), to.into(), length))
        }
        6 => {
            let header: &[u8; 40] = packet.first_chunk()?;
            let address = |at: usize| {
                let bytes: Option<[u8; 16]> = header[at..at + 16].try_into().ok();
                bytes.map(|bytes| IpAddr::from(Ipv6Addr::from(bytes)))
            };
            let length = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
            Some((address(8)?, address(24)?, length))
        }
        _ => None,
    }
}

/// What an outer packet carries, whose header a raw IPv4 socket leaves in place.
fn behind_ipv4(packet: &[u8]) -> Option<&[u8]> {
    let own = usize::from(packet.first()? & 0x0f) * 4;
    packet.get(own.max(20)..)
}

/// What a datagram carries (draft-ietf-intarea-gue-09): behind variant 0's header, or, in variant 1, itself.
fn behind_gue(datagram: &[u8]) -> Option<&[u8]> {
    let [first, protocol, _, _, rest @ ..] = datagram else { return None };
    match first >> 6 {
        1 => Some(datagram),
        // Bit 5 says that it is a message to the tunnel's end itself.
        0 if first & 0x20 == 0 => {
            let packet = rest.get(usize::from(first & 0x1f) * 4..)?;
            let version = packet.first()? >> 4;
            matches!((*protocol, version), (IPIP, 4) | (IPV6, 6)).then_some(packet)
        }
        _ => None,
    }
}

/// Where outer packets come in.
enum Source {
    /// With the outer header in place.
    Ipv4(Socket),
    /// Without it.
    Ipv6(Socket),
    Gue(UdpSocket),
}

impl Source {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Ipv4(socket) | Self::Ipv6(socket) => socket.as_fd(),
            Self::Gue(socket) => socket.as_fd(),
        }
    }

    fn inner<'p>(&self, packet: &'p [u8]) -> Option<&'p [u8]> {
        match self {
            Self::Ipv4(_) => behind_ipv4(packet),
            Self::Ipv6(_) => Some(packet),
            Self::Gue(_) => behind_gue(packet),
        }
    }
}

/// The sockets that packets come in by and go on by.
pub struct Decapsulator {
    rules: Rules,
    sources: Vec<Source>,
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl Decapsulator {
    /// For inner packets as `rules` let them in. Where the kernel has its driver, `method` says whether that
    /// is used, and `record` notes what is done to it.
    ///
    /// # Errors
    /// When a socket cannot be opened, or the kernel's driver cannot be used.
    pub fn open(
        rules: Rules,
        gue_port: u16,
        method: Method,
        record: &mut Record,
        tell: impl FnMut(&Change),
    ) -> Result<Self, Error> {
        let v4 = rules.to.iter().any(IpAddr::is_ipv4);
        let v6 = rules.to.iter().any(IpAddr::is_ipv6);
        let kernel = v4 && by_kernel(method, record, tell)?;
        let mut sources = Vec::new();
        let mut hear = |wanted: bool, domain: Domain, protocol: u8| {
            if !wanted {
                return Ok(());
            }
            match raw(domain, protocol.into()) {
                Ok(socket) if domain == Domain::IPV4 => sources.push(Source::Ipv4(socket)),
                Ok(socket) => sources.push(Source::Ipv6(socket)),
                // A kernel without IPv6 brings no outer IPv6 either.
                Err(why) if domain == Domain::IPV6 && is_unknown_family(&why) => {}
                Err(why) => return Err(Error::Raw(why)),
            }
            Ok(())
        };
        hear(v4 && !kernel, Domain::IPV4, IPIP)?;
        hear(v4, Domain::IPV6, IPIP)?;
        hear(v6, Domain::IPV4, IPV6)?;
        hear(v6, Domain::IPV6, IPV6)?;
        sources.push(Source::Gue(datagrams(gue_port)?));
        let onwards = |wanted: bool, domain: Domain| {
            wanted.then(|| sender(domain)).transpose().map_err(Error::Raw)
        };
        Ok(Self { v4: onwards(v4, Domain::IPV4)?, v6: onwards(v6, Domain::IPV6)?, rules, sources })
    }

    /// Takes packets out until `alarm` can be read.
    ///
    /// # Errors
    /// When nothing can be waited for.
    pub fn run(&self, alarm: Option<BorrowedFd<'_>>) -> nix::Result<()> {
        let mut packet = vec![0; 65_536];
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        loop {
            let sources = self.sources.iter().map(|source| readable(source.fd()));
            let mut all: Vec<_> = sources.chain(alarm.map(readable)).collect();
            match poll(&mut all, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                waited => waited?,
            };
            let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
            if all.get(self.sources.len()).is_some_and(is_ready) {
                return Ok(());
            }
            for (source, _) in self.sources.iter().zip(&all).filter(|(_, fd)| is_ready(fd)) {
                self.drain(source, &mut packet);
            }
        }
    }

    fn drain(&self, source: &Source, packet: &mut [u8]) {
        for _ in 0..BURST {
            let received = recvfrom::<SockaddrStorage>(source.fd().as_raw_fd(), packet);
            let Ok((length, from)) = received else { return };
            if !self.rules.trust(from.as_ref().and_then(ip)) {
                continue;
            }
            let inner = source.inner(&packet[..length]);
            let Some((to, inner)) = inner.and_then(|it| self.rules.admit(it)) else { continue };
            let onwards = if to.is_ipv4() { &self.v4 } else { &self.v6 };
            if let Some(onwards) = onwards {
                // What the kernel does not take is lost, as on any wire.
                let _ = onwards.send_to(inner, &SocketAddr::new(to, 0).into());
            }
        }
    }
}

/// Whether the kernel takes IPv4 out of IPv4: then its device is brought up. Clients are not reached by it, and
/// it has no address, so that the kernel drops what comes out of it even with a loose reverse-path filter
/// (`fib_validate_source`). The filter must be off there, which it is only if it is off for all.
fn by_kernel(
    method: Method,
    record: &mut Record,
    mut tell: impl FnMut(&Change),
) -> Result<bool, Error> {
    let folder = Path::new("/sys/class/net").join(TUNL);
    let filtered = || Ok::<_, Error>(parameter("net/ipv4/conf/all/rp_filter")? != "0");
    match (method, folder.exists()) {
        (Method::User, _) | (Method::Auto, false) => return Ok(false),
        (Method::Kernel, false) => return Err(Error::NoDriver),
        (Method::Auto, true) if filtered()? => return Ok(false),
        (Method::Kernel, true) if filtered()? => return Err(Error::Filtered),
        (Method::Auto | Method::Kernel, true) => {}
    }
    let mut make = |change: Change| {
        record.make(change.clone())?;
        tell(&change);
        Ok::<_, Error>(())
    };
    let path = format!("net/ipv4/conf/{TUNL}/rp_filter");
    let old = parameter(&path)?;
    if old != "0" {
        make(Change::Parameter { path, old, new: "0".into() })?;
    }
    let flags = std::fs::read_to_string(folder.join("flags")).unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or_default();
    if flags & 1 == 0 {
        make(Change::Link(TUNL.into()))?;
    }
    Ok(true)
}

fn raw(domain: Domain, protocol: i32) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
    socket.set_nonblocking(true)?;
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER); // as much as there is
    Ok(socket)
}

/// A socket for packets with a header of their own.
fn sender(domain: Domain) -> io::Result<Socket> {
    let socket = raw(domain, RAW)?;
    match domain == Domain::IPV4 {
        true => socket.set_header_included_v4(true)?,
        false => socket.set_header_included_v6(true)?,
    }
    Ok(socket)
}

/// On both families, or on IPv4 alone where there is no other.
fn datagrams(port: u16) -> Result<UdpSocket, Error> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let bound = match UdpSocket::bind(any) {
        Err(why) if is_unknown_family(&why) || why.kind() == io::ErrorKind::AddrNotAvailable => {
            UdpSocket::bind(v4)
        }
        bound => bound,
    };
    let socket = bound.map_err(|why| Error::Listen { at: any, why })?;
    socket.set_nonblocking(true).map_err(|why| Error::Listen { at: any, why })?;
    Ok(socket)
}

fn is_unknown_family(why: &io::Error) -> bool {
    why.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|it| it.ip().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(to: &[&str], from: &[&str]) -> Rules {
        let all = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Rules { to: all(to), from: all(from) }
    }

    /// A packet that carries `abc`.
    fn v4(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let head = [0x45, 0, 0, 23, 0, 1, 0, 0, 64, 17, 0, 0];
        [&head[..], &from, &to, b"abc"].concat()
    }

    fn v6(from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
        let head = [0x60, 0, 0, 0, 0, 3, 17, 64];
        [&head[..], &from.octets(), &to.octets(), b"abc"].concat()
    }

    const CLIENT: [u8; 4] = [192, 0, 2, 9];
    const VIRTUAL: [u8; 4] = [10, 0, 0, 100];

    #[test]
    fn a_packet_for_a_virtual_address_is_let_in_without_what_follows_it() {
        let rules = rules(&["10.0.0.100", "2001:db8::100"], &[]);
        let packet = v4(CLIENT, VIRTUAL);
        let padded = [&packet[..], b"padding"].concat();
        assert_eq!(rules.admit(&padded), Some((VIRTUAL.into(), &packet[..])));
        let (client, own) = ("2001:db8:9::9".parse().unwrap(), "2001:db8::100".parse().unwrap());
        let packet = v6(client, own);
        assert_eq!(rules.admit(&packet), Some((own.into(), &packet[..])));
    }

    #[test]
    fn what_could_not_come_from_a_wire_is_not_let_in() {
        let rules = rules(&["10.0.0.100", "::1"], &[]);
        for (from, to) in [
            (CLIENT, [10, 0, 0, 101]),
            ([127, 0, 0, 1], VIRTUAL),
            ([0; 4], VIRTUAL),
            ([224, 0, 0, 1], VIRTUAL),
            ([255; 4], VIRTUAL),
            (VIRTUAL, VIRTUAL),
        ] {
            assert_eq!(rules.admit(&v4(from, to)), None, "{from:?} {to:?}");
        }
        assert_eq!(rules.admit(&v6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST)), None);
    }

    #[test]
    fn a_packet_that_is_cut_off_or_lies_about_its_length_is_not_let_in() {
        let rules = rules(&["10.0.0.100"], &[]);
        let packet = v4(CLIENT, VIRTUAL);
        for length in 0..packet.len() {
            assert_eq!(rules.admit(&packet[..length]), None, "{length}");
        }
        for (place, value) in [(0, 0x41), (0, 0x65), (0, 0x00), (3, 19), (3, 24)] {
            let mut wrong = packet.clone();
            wrong[place] = value;
            assert_eq!(rules.admit(&wrong), None, "{place} {value}");
        }
    }

    #[test]
    fn outer_headers_are_taken_off_as_long_as_they_are() {
        let inner = v4(CLIENT, VIRTUAL);
        let outer = v4([10, 0, 0, 2], [10, 0, 0, 11]);
        assert_eq!(behind_ipv4(&[&outer[..20], &inner].concat()), Some(&inner[..]));
        let mut options = outer[..20].to_vec();
        options[0] = 0x46;
        options.extend([1; 4]);
        assert_eq!(behind_ipv4(&[&options[..], &inner].concat()), Some(&inner[..]));
        assert_eq!(behind_ipv4(&outer[..10]), None);
        assert_eq!(behind_gue(&[&[0, 4, 0, 0][..], &inner].concat()), Some(&inner[..]));
        assert_eq!(behind_gue(&[&[1, 4, 0, 0, 9, 9, 9, 9][..], &inner].concat()), Some(&inner[..]));
        assert_eq!(behind_gue(&inner), Some(&inner[..]), "variant 1");
        for wrong in [
            &[][..],
            &[0, 4, 0],
            &[0, 4, 0, 0],
            &[0x20, 4, 0, 0, 0x45],
            &[0, 41, 0, 0, 0x45],
            &[0, 4, 0, 0, 0x60],
            &[0x1f, 4, 0, 0, 0x45],
            &[0x80, 4, 0, 0, 0x45],
        ] {
            assert_eq!(behind_gue(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn outer_packets_are_taken_from_those_who_may_send_them() {
        let everybody = rules(&[], &[]);
        let some = rules(&[], &["10.0.0.2"]);
        let at = |text: &str| Some(text.parse().unwrap());
        assert!(everybody.trust(at("10.0.0.3")) && everybody.trust(None));
        assert!(some.trust(at("10.0.0.2")) && some.trust(at("::ffff:10.0.0.2")));
        assert!(!some.trust(at("10.0.0.3")) && !some.trust(None));
    }
}
