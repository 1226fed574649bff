//! Linux interfaces that DPDK reaches through AF_PACKET: what the driver does not ask the kernel.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, mem};

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;

use crate::error::Error;

/// An interface of the network namespace in which it was found.
#[derive(Debug)]
pub(super) struct Interface {
    name: String,
    index: u32,
    /// The largest IP packet that a slot has room for.
    largest: u16,
}

/// Slots of each ring, so the longest pause in frames before the kernel drops some.
const SLOTS: u32 = 2048;
/// Slots that share one block; with slots of a multiple of 256 bytes, blocks are whole pages.
const SLOTS_PER_BLOCK: u32 = 16;
/// What the kernel puts in front of an IP packet in a slot: its own header, padded
/// (net/packet/af_packet.c, tpacket_rcv), and one more 802.1Q tag than it takes off.
const SLOT_OVERHEAD: u32 = 80 + 4;

/// Nothing of a frame that this host sends, all of any other (Documentation/networking/filter.rst).
const ONLY_INCOMING: [libc::sock_filter; 4] = {
    const fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    let kind_of_frame = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
    [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, kind_of_frame),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::PACKET_OUTGOING as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ]
};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSET: u32 = 1;

/// `struct ethtool_cmd` (linux/ethtool.h).
#[repr(C)]
#[derive(Default)]
struct EthtoolSettings {
    command: u32,
    modes: [u32; 2],
    speed: u16,
    port: [u8; 6],
    coalescing: [u32; 2],
    speed_high: u16,
    pairs: [u8; 2],
    more: [u32; 3],
}

const _: () = assert!(size_of::<EthtoolSettings>() == 44);

pub(super) fn unique_name() -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    format!("net_af_packet_sluice{}", MADE.fetch_add(1, Ordering::Relaxed))
}

impl Interface {
    pub(super) fn find(name: &str, largest: u16) -> Result<Self, Error> {
        // The kernel allows more, but the rest could pass for a further argument of the driver.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:@+".contains(&byte);
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || !name.bytes().all(plain) {
            return Err(Error::Malformed {
                what: "interface",
                expected: "1 to 15 letters, digits or _-.:@+, such as eth1",
                found: name.into(),
            });
        }
        let index = if_nametoindex(name).map_err(|_| Error::NoSuchInterface(name.into()))?;
        let found = Self { name: name.into(), index, largest };
        found.socket()?; // so that a missing capability is named as such
        Ok(found)
    }

    /// For net_af_packet. Buffers must be as large as the slots (the driver's rule).
    pub(super) fn driver_arguments(&self, queues: u16) -> String {
        let slot = (u32::from(self.largest) + SLOT_OVERHEAD).next_multiple_of(256).max(2048);
        let block = slot * SLOTS_PER_BLOCK;
        let name = &self.name;
        format!(
            "iface={name},qpairs={queues},framesz={slot},blocksz={block},framecnt={SLOTS},qdisc_bypass=0"
        )
    }

    /// Receives frames for every address from here on until the socket is closed.
    pub(super) fn promiscuous(&self) -> Result<OwnedFd, Error> {
        self.membership(libc::PACKET_MR_PROMISC, "receiving frames for others")
    }

    /// Receives frames for every group from here on until the socket is closed.
    pub(super) fn all_multicast(&self) -> Result<OwnedFd, Error> {
        self.membership(libc::PACKET_MR_ALLMULTI, "receiving frames for groups")
    }

    /// The kernel counts the wish per socket, however that is closed (packet(7)).
    fn membership(&self, kind: i32, doing: &'static str) -> Result<OwnedFd, Error> {
        let socket = self.socket()?;
        let wish = libc::packet_mreq {
            mr_ifindex: self.index as i32,
            mr_type: kind as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        // SAFETY: the kernel reads a `packet_mreq` of the size given.
        let answer = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const wish).cast(),
                size_of_val(&wish) as u32,
            )
        };
        Errno::result(answer).map_err(|errno| self.failed(doing, errno))?;
        Ok(socket)
    }

    /// Keeps the driver's sockets from receiving what this host sends on the interface; they are
    /// told by being bound to it. The driver has no setting for this, and PACKET_IGNORE_OUTGOING
    /// has no effect on sockets that share flows with others (PACKET_FANOUT), so a filter does it.
    pub(super) fn ignore_outgoing(&self) -> Result<(), Error> {
        let filter = libc::sock_fprog {
            len: ONLY_INCOMING.len() as u16,
            filter: ONLY_INCOMING.as_ptr().cast_mut(),
        };
        let failed = |errno| self.failed("ignoring the host's own frames", errno);
        let descriptors = fs::read_dir("/proc/self/fd").map_err(|_| failed(Errno::last()))?;
        let numbers = descriptors
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        for descriptor in
            numbers.filter(|descriptor| bound_to(*descriptor) == Some(self.index as i32))
        {
            // SAFETY: the kernel reads the `sock_fprog` and the program that it points at.
            let answer = unsafe {
                libc::setsockopt(
                    descriptor,
                    libc::SOL_SOCKET,
                    libc::SO_ATTACH_FILTER,
                    (&raw const filter).cast(),
                    size_of_val(&filter) as u32,
                )
            };
            Errno::result(answer).map_err(failed)?;
        }
        Ok(())
    }

    /// The interface's, or what it was opened for if that is less.
    pub(super) fn mtu(&self) -> Result<u16, Error> {
        let answer =
            self.ask(libc::SIOCGIFMTU).map_err(|errno| self.failed("reading the MTU", errno))?;
        // SAFETY: SIOCGIFMTU fills this member of the union (netdevice(7)).
        let mtu = unsafe { answer.ifr_ifru.ifru_mtu };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX).min(self.largest))
    }

    pub(super) fn running(&self) -> bool {
        let Ok(answer) = self.ask(libc::SIOCGIFFLAGS) else { return false };
        // SAFETY: SIOCGIFFLAGS fills this member of the union (netdevice(7)).
        let flags = i32::from(unsafe { answer.ifr_ifru.ifru_flags });
        flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0
    }

    /// In Mbit/s, if it knows.
    pub(super) fn speed(&self) -> Option<u32> {
        let mut settings = EthtoolSettings { command: ETHTOOL_GSET, ..Default::default() };
        let mut request = self.request();
        request.ifr_ifru.ifru_data = (&raw mut settings).cast();
        let socket = packet_socket().ok()?;
        // SAFETY: SIOCETHTOOL reads the name and the command, and ETHTOOL_GSET fills the structure.
        let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &mut request) };
        let speed = u32::from(settings.speed_high) << 16 | u32::from(settings.speed);
        // What is not known reads as all bits set, in this field or in both (SPEED_UNKNOWN).
        (answer == 0 && speed != u32::MAX && speed != u16::MAX.into()).then_some(speed)
    }

    fn ask(&self, question: libc::Ioctl) -> nix::Result<libc::ifreq> {
        let mut request = self.request();
        let socket = packet_socket()?;
        // SAFETY: both questions read the name and write into the same `ifreq`.
        let answer = unsafe { libc::ioctl(socket.as_raw_fd(), question, &mut request) };
        Errno::result(answer).map(|_| request)
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: a structure of integers and characters only, for which zeroes are fine.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (into, byte) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *into = byte as libc::c_char;
        }
        request
    }

    fn socket(&self) -> Result<OwnedFd, Error> {
        packet_socket().map_err(|errno| match errno {
            Errno::EPERM | Errno::EACCES => Error::NoPermission(self.name.clone()),
            _ => self.failed("opening a socket", errno),
        })
    }

    fn failed(&self, doing: &'static str, errno: Errno) -> Error {
        Error::Interface { interface: self.name.clone(), doing, errno }
    }
}

/// With protocol 0, so it never receives anything.
fn packet_socket() -> nix::Result<OwnedFd> {
    // SAFETY: makes a new descriptor or fails.
    let descriptor =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: that descriptor is new, and nobody else's.
    Errno::result(descriptor).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The interface to which a descriptor is bound, if it is a packet socket.
fn bound_to(descriptor: i32) -> Option<i32> {
    // SAFETY: a structure of integers only, for which zeroes are fine.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut length = size_of_val(&address) as u32;
    // SAFETY: the kernel writes at most `length` bytes there, and knows descriptors that are open.
    let answer = unsafe { libc::getsockname(descriptor, (&raw mut address).cast(), &mut length) };
    (answer == 0 && i32::from(address.sll_family) == libc::AF_PACKET).then_some(address.sll_ifindex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_name_cannot_carry_driver_arguments() {
        for refused in ["", "eth0,qpairs=9", "a=b", "eth 0", "a/b", "sixteencharacter", "eth0\0"] {
            assert!(
                matches!(Interface::find(refused, 1500), Err(Error::Malformed { .. })),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_missing_interface_is_named() {
        let refused = Interface::find("nosuchif0", 1500).expect_err("there is none");
        assert_eq!(
            refused.to_string(),
            "interface \"nosuchif0\" does not exist in this network namespace: see `ip link`"
        );
    }
}
