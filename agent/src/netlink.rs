//! Two things that the kernel is told by rtnetlink (rtnetlink(7)): addresses of the loopback interface, and
//! whether an interface is up. One question, one answer, on a socket of its own.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Nobody is asked whether an IPv6 address is free.
const IFA_F_NODAD: u8 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;

/// Gives the loopback interface an address, alone on its subnet.
///
/// # Errors
/// With the kernel's word: `EEXIST` if it is there already.
pub fn add_to_loopback(address: IpAddr) -> nix::Result<()> {
    ask(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &loopback_address(address)?)
}

/// Takes it away again.
///
/// # Errors
/// With the kernel's word: `EADDRNOTAVAIL` if it is not there.
pub fn remove_from_loopback(address: IpAddr) -> nix::Result<()> {
    ask(RTM_DELADDR, 0, &loopback_address(address)?)
}

/// Brings an interface up or down.
///
/// # Errors
/// With the kernel's word.
pub fn set_up(name: &str, up: bool) -> nix::Result<()> {
    let index = if_nametoindex(name)?;
    let flags = if up { IFF_UP } else { 0 };
    // struct ifinfomsg: family, padding, type, index, flags, which of them are meant.
    let mut message = vec![0; 4];
    message.extend(index.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    ask(RTM_NEWLINK, 0, &message)
}

fn loopback_address(address: IpAddr) -> nix::Result<Vec<u8>> {
    let (family, bytes) = match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    };
    let bits = (bytes.len() * 8) as u8;
    // struct ifaddrmsg: family, length of the prefix, flags, scope, index.
    let mut message = vec![family, bits, IFA_F_NODAD, 0];
    message.extend(if_nametoindex("lo")?.to_ne_bytes());
    for kind in [IFA_LOCAL, IFA_ADDRESS] {
        let length = 4 + bytes.len() as u16; // a multiple of 4, so nothing has to be filled up
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(&bytes);
    }
    Ok(message)
}

fn ask(kind: u16, flags: u16, message: &[u8]) -> nix::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    // struct nlmsghdr: length, type, flags, sequence number, port.
    let mut question = Vec::new();
    question.extend((16 + message.len() as u32).to_ne_bytes());
    question.extend(kind.to_ne_bytes());
    question.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    question.extend([0; 8]);
    question.extend(message);
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &question, &kernel, MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    verdict(&answer[..length])
}

/// struct nlmsgerr, behind a header: 0, or the error's number below 0.
fn verdict(answer: &[u8]) -> nix::Result<()> {
    let kind = answer.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    let code = answer.get(16..20).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(Errno::from_raw(code.wrapping_neg())),
        _ => Err(Errno::EBADMSG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_far_as_it_goes() {
        let answer = |kind: u16, code: i32| {
            [&[0; 4][..], &kind.to_ne_bytes(), &[0; 10], &code.to_ne_bytes()].concat()
        };
        assert_eq!(verdict(&answer(2, 0)), Ok(()));
        assert_eq!(verdict(&answer(2, -17)), Err(Errno::EEXIST));
        assert_eq!(verdict(&answer(3, 0)), Err(Errno::EBADMSG));
        assert_eq!(verdict(&answer(2, 0)[..18]), Err(Errno::EBADMSG));
        assert_eq!(verdict(&[]), Err(Errno::EBADMSG));
    }

    #[test]
    fn a_question_has_the_kernels_layout() {
        let message = loopback_address("10.0.0.100".parse().unwrap()).unwrap();
        let lo = if_nametoindex("lo").unwrap().to_ne_bytes();
        assert_eq!(message[..8], [&[2, 32, 2, 0], &lo[..]].concat());
        assert_eq!(message[12..16], [10, 0, 0, 100]);
        assert_eq!(message.len(), 8 + 2 * 8);
        assert_eq!(loopback_address("2001:db8::1".parse().unwrap()).unwrap().len(), 8 + 2 * 20);
    }
}
