//! An Ethernet cable into a virtual machine, and the stations on its other end. QEMU carries each
//! frame as one datagram between two Unix sockets (`-netdev dgram`), so no interface, no address
//! and no port of this machine is needed.

use std::io;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacket, EtherType, Ethernet2Header};

/// What the shortest frame has before its check (IEEE 802.3, 4.2.3.3).
const SHORTEST: usize = 60;

/// A machine with one address, which answers ARP for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Station {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its address.
    pub address: Ipv4Addr,
}

/// Our end of a cable.
pub struct Cable {
    socket: Arc<UnixDatagram>,
    guest: PathBuf,
    frames: Receiver<Vec<u8>>,
    questions: Arc<Mutex<Vec<ArpEthIpv4Packet>>>,
}

impl Cable {
    /// Our end of the cable `name`: frames come to `FOLDER/NAME.outside` and go to
    /// `FOLDER/NAME.guest`. From now on `stations` answer when they are asked for.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn into_guest(folder: &Path, name: &str, stations: &[Station]) -> io::Result<Self> {
        let socket = Arc::new(UnixDatagram::bind(folder.join(format!("{name}.outside")))?);
        socket.set_write_timeout(Some(Duration::from_secs(5)))?;
        let guest = folder.join(format!("{name}.guest"));
        let (sender, frames) = channel();
        let questions = Arc::new(Mutex::new(Vec::new()));
        let outside = Outside {
            socket: socket.clone(),
            guest: guest.clone(),
            stations: stations.to_vec(),
            questions: questions.clone(),
        };
        thread::spawn(move || outside.listen(&sender));
        Ok(Self { socket, guest, frames, questions })
    }

    /// Sends a frame, filled up with zeroes to the length that a wire wants.
    ///
    /// # Errors
    /// If the guest is not there, or takes nothing for 5 s.
    pub fn send(&self, frame: &[u8]) -> Result<(), String> {
        let sent = self.socket.send_to(&filled_up(frame), &self.guest);
        sent.map(drop).map_err(|why| format!("the guest takes no frame: {why}"))
    }

    /// The next frame that is not a question for one of the stations.
    pub fn next(&self, patience: Duration) -> Option<Vec<u8>> {
        self.frames.recv_timeout(patience).ok()
    }

    /// What `wanted` makes of the first frame that it wants; others are passed over.
    pub fn find<T>(
        &self,
        patience: Duration,
        mut wanted: impl FnMut(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + patience;
        loop {
            let frame = self.next(end.saturating_duration_since(Instant::now()))?;
            if let Some(found) = wanted(&frame) {
                return Some(found);
            }
        }
    }

    /// Throws away what has come so far.
    pub fn forget(&self) {
        while self.frames.try_recv().is_ok() {}
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Who has asked for `address` since the last [`Cable::forget`].
    pub fn asked_for(&self, address: Ipv4Addr) -> Vec<Station> {
        let questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        let about = questions.iter().filter(|question| question.target_ipv4 == address.octets());
        about
            .map(|question| Station {
                mac: question.sender_mac,
                address: question.sender_ipv4.into(),
            })
            .collect()
    }

    /// The hardware address that the guest gives for `address` when `who` asks, if it answers in
    /// time and every field of its answer is right.
    ///
    /// # Errors
    /// If the guest is not there.
    pub fn resolve(
        &self,
        who: Station,
        address: Ipv4Addr,
        patience: Duration,
    ) -> Result<Option<[u8; 6]>, String> {
        self.send(&arp(&ArpEthIpv4Packet {
            operation: ArpOperation::REQUEST,
            sender_mac: who.mac,
            sender_ipv4: who.address.octets(),
            target_mac: [0; 6],
            target_ipv4: address.octets(),
        }))?;
        Ok(self.find(patience, |frame| {
            let (ethernet, answer) = read_arp(frame)?;
            let fits = answer.operation == ArpOperation::REPLY
                && answer.sender_ipv4 == address.octets()
                && answer.target_ipv4 == who.address.octets()
                && answer.target_mac == who.mac
                && ethernet.destination == who.mac
                && ethernet.source == answer.sender_mac;
            fits.then_some(answer.sender_mac)
        }))
    }
}

/// The thread that listens to the guest.
struct Outside {
    socket: Arc<UnixDatagram>,
    guest: PathBuf,
    stations: Vec<Station>,
    questions: Arc<Mutex<Vec<ArpEthIpv4Packet>>>,
}

impl Outside {
    fn listen(&self, sender: &Sender<Vec<u8>>) {
        let mut frame = vec![0; 1 << 16];
        while let Ok(length) = self.socket.recv(&mut frame) {
            let frame = &frame[..length];
            let answered = self.answer(frame);
            if !answered && sender.send(frame.to_vec()).is_err() {
                return;
            }
        }
    }

    /// Whether the frame was a question for one of the stations.
    fn answer(&self, frame: &[u8]) -> bool {
        let Some((_, question)) = read_arp(frame) else { return false };
        let asked = |station: &&Station| station.address.octets() == question.target_ipv4;
        let Some(station) = self.stations.iter().find(asked) else { return false };
        if question.operation != ArpOperation::REQUEST {
            return false;
        }
        let answer = arp(&ArpEthIpv4Packet {
            operation: ArpOperation::REPLY,
            sender_mac: station.mac,
            sender_ipv4: station.address.octets(),
            target_mac: question.sender_mac,
            target_ipv4: question.sender_ipv4,
        });
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).push(question);
        // A guest that has just ended asks no more.
        let _ = self.socket.send_to(&answer, &self.guest);
        true
    }
}

fn filled_up(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

/// A frame with `packet`: a request to everybody, an answer to the one who asked.
fn arp(packet: &ArpEthIpv4Packet) -> Vec<u8> {
    let asks = packet.operation == ArpOperation::REQUEST;
    let ethernet = Ethernet2Header {
        source: packet.sender_mac,
        destination: if asks { [0xff; 6] } else { packet.target_mac },
        ether_type: EtherType::ARP,
    };
    let mut frame = ethernet.to_bytes().to_vec();
    frame.extend_from_slice(&ArpPacket::from(packet.clone()).to_bytes());
    filled_up(&frame)
}

fn read_arp(frame: &[u8]) -> Option<(Ethernet2Header, ArpEthIpv4Packet)> {
    let (ethernet, rest) = Ethernet2Header::from_slice(frame).ok()?;
    if ethernet.ether_type != EtherType::ARP {
        return None;
    }
    let packet = ArpPacket::from_slice(rest).ok()?.try_eth_ipv4().ok()?;
    Some((ethernet, packet))
}
