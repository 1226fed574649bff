//! smoltcp, fed one packet and one connection at a time: it walks a set of sockets from end to end for every packet, so
//! each connection is a set of its own, and we find it. What is shared is its interface: one for each length of packets.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use dataplane::moment::Moment;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::HardwareAddress;

use super::packet::{self, Ends, Packet};
use super::secrets;
use crate::net::Way;

/// Packets that wait to be taken, at most.
const MOST_WAITING: usize = 4096;
/// Segments of one connection that are sent at once.
const SEGMENTS: usize = 64;
/// How long the other end may be silent while something is expected of it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection may be silent before the other end is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(10);

/// A packet to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// From its IP header on; what goes around it, if anything does, is still to be put there.
    pub packet: Vec<u8>,
    /// Whom it is for.
    pub destination: IpAddr,
    /// How it gets there.
    pub way: Way,
}

/// Packets that wait to be taken.
#[derive(Default)]
pub struct Outbox {
    packets: VecDeque<Outgoing>,
}

impl Outbox {
    /// Whether nothing more fits.
    pub fn is_full(&self) -> bool {
        self.packets.len() >= MOST_WAITING
    }

    /// Adds a packet; `false` if it finds no room.
    pub fn push(&mut self, packet: Vec<u8>, destination: IpAddr, way: Way) -> bool {
        let has_room = !self.is_full();
        if has_room {
            self.packets.push_back(Outgoing { packet, destination, way });
        }
        has_room
    }

    /// The packet that has waited longest.
    pub fn pop(&mut self) -> Option<Outgoing> {
        self.packets.pop_front()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.packets.len()
    }
}

/// What was sent last on a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Where our next byte will stand.
    pub sequence: u32,
    /// Where theirs will.
    pub acknowledgement: u32,
    /// Behind the last byte that was ever sent.
    highest: u32,
}

impl Sent {
    /// Notes a segment. Where it says nothing but how far it has heard, its number is put right: smoltcp goes back to the first
    /// byte that it sends again, and an acknowledgement with an old number is itself too old to be heard (RFC 9293
    /// section 3.10.7.4). Two that do so at once would never agree.
    fn note(&mut self, packet: &mut [u8]) {
        let Some(segment) = packet::own_segment(packet).filter(|segment| !segment.resets) else {
            return;
        };
        let mut sequence = segment.sequence;
        let is_behind = (self.highest.wrapping_sub(sequence) as i32) > 0;
        if segment.opens {
            self.highest = segment.end;
        } else if segment.end == sequence && is_behind {
            sequence = self.highest;
            packet::set_sequence(packet, sequence);
        } else if !is_behind || (segment.end.wrapping_sub(self.highest) as i32) > 0 {
            self.highest = segment.end;
        }
        (self.sequence, self.acknowledgement) = (sequence, segment.acknowledgement);
    }
}

/// A socket of smoltcp's, alone in its set.
pub struct Socket {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    ends: Ends,
    way: Way,
    /// The longest packets that it sends.
    pub mtu: u16,
    /// What it has said last.
    pub sent: Sent,
}

impl Socket {
    /// A closed one, with room for so many bytes in each direction.
    pub fn new(ends: Ends, way: Way, mtu: u16, (receive, send): (usize, usize)) -> Self {
        let [receive, send] = [receive, send].map(|size| tcp::SocketBuffer::new(vec![0; size]));
        let mut socket = tcp::Socket::new(receive, send);
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket.set_timeout(Some(PATIENCE));
        socket.set_keep_alive(Some(SILENCE));
        socket.set_congestion_control(tcp::CongestionControl::Cubic);
        let mut sockets = SocketSet::new(Vec::<SocketStorage<'static>>::with_capacity(1));
        let handle = sockets.add(socket);
        Self { sockets, handle, ends, way, mtu, sent: Sent::default() }
    }

    /// What smoltcp keeps of it.
    pub fn tcp(&self) -> &tcp::Socket<'static> {
        self.sockets.get(self.handle)
    }

    /// The same, to be changed.
    pub fn tcp_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

/// The interfaces and what they have to say.
#[derive(Default)]
pub struct Engine {
    interfaces: BTreeMap<u16, Interface>,
    /// What is to be sent.
    pub outbox: Outbox,
}

impl Engine {
    /// Begins to open a connection; its first segment has this sequence number.
    pub fn connect(&mut self, now: Moment, socket: &mut Socket, sequence: u32) -> bool {
        let mut interface = new_interface(socket.mtu, secrets::seed_for(sequence), now);
        let Ends { local, remote } = socket.ends;
        socket.sent.sequence = sequence;
        socket.tcp_mut().connect(interface.context(), remote, local).is_ok()
    }

    /// Begins to accept the connection that `packet` opens; our first segment has this sequence number.
    pub fn accept(&mut self, now: Moment, socket: &mut Socket, sequence: u32, packet: &Packet<'_>) {
        let mut interface = new_interface(socket.mtu, secrets::seed_for(sequence), now);
        let local = socket.ends.local;
        if socket.tcp_mut().listen(local).is_ok() {
            let mut wire = Wire::of(socket.way, socket.mtu, &mut self.outbox, &mut socket.sent);
            wire.incoming = Some(packet.bytes);
            interface.poll_ingress_single(instant(now), &mut wire, &mut socket.sockets);
        }
    }

    /// Gives a connection a packet of its own.
    pub fn receive(&mut self, now: Moment, socket: &mut Socket, packet: &Packet<'_>) {
        let Self { interfaces, outbox } = self;
        let mut wire = Wire::of(socket.way, socket.mtu, outbox, &mut socket.sent);
        wire.incoming = Some(packet.bytes);
        let interface = interface(interfaces, socket.mtu, now);
        interface.poll_ingress_single(instant(now), &mut wire, &mut socket.sockets);
    }

    /// Answers a segment that belongs to no connection.
    pub fn refuse(&mut self, now: Moment, packet: &Packet<'_>, mtu: u16) {
        let Self { interfaces, outbox } = self;
        let mut sent = Sent::default();
        let mut wire = Wire::of(Way::Routed, mtu, outbox, &mut sent);
        wire.incoming = Some(packet.bytes);
        let interface = interface(interfaces, mtu, now);
        interface.poll_ingress_single(instant(now), &mut wire, &mut SocketSet::new(Vec::new()));
    }

    /// Sends what a connection has to say now.
    pub fn send(&mut self, now: Moment, socket: &mut Socket) {
        let Self { interfaces, outbox } = self;
        let interface = interface(interfaces, socket.mtu, now);
        for _ in 0..SEGMENTS {
            let before = outbox.len();
            let mut wire = Wire::of(socket.way, socket.mtu, outbox, &mut socket.sent);
            interface.poll_egress(instant(now), &mut wire, &mut socket.sockets);
            if outbox.len() == before {
                break;
            }
        }
    }

    /// Lets a connection believe that it has said what it has to say.
    pub fn send_unheard(&mut self, now: Moment, socket: &mut Socket) {
        let outbox = std::mem::take(&mut self.outbox);
        self.send(now, socket);
        self.outbox = outbox;
    }

    /// When a connection has to be looked at again, if nothing happens.
    pub fn due(&mut self, now: Moment, socket: &Socket) -> Option<Moment> {
        let interface = interface(&mut self.interfaces, socket.mtu, now);
        let due = interface.poll_at(instant(now), &socket.sockets)?;
        let micros = u64::try_from(due.total_micros()).unwrap_or(0);
        Some(Moment::from_nanos(micros.saturating_mul(1_000)))
    }
}

fn instant(now: Moment) -> Instant {
    Instant::from_micros(i64::try_from(now.nanos() / 1_000).unwrap_or(i64::MAX))
}

fn interface(interfaces: &mut BTreeMap<u16, Interface>, mtu: u16, now: Moment) -> &mut Interface {
    // Its random numbers are never used: connections begin on an interface of their own.
    interfaces.entry(mtu).or_insert_with(|| new_interface(mtu, 0, now))
}

fn new_interface(mtu: u16, seed: u64, now: Moment) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let (mut outbox, mut sent) = (Outbox::default(), Sent::default());
    let mut wire = Wire::of(Way::Routed, mtu, &mut outbox, &mut sent);
    let mut interface = Interface::new(config, &mut wire, instant(now));
    // Which addresses are ours is looked at before; smoltcp would reset connections that it thinks have lost theirs.
    interface.set_any_ip(true);
    interface
}

/// smoltcp's view of the network: at most one packet that came in, and room for those that go out.
struct Wire<'w> {
    incoming: Option<&'w [u8]>,
    mtu: u16,
    outgoing: Place<'w>,
}

impl<'w> Wire<'w> {
    fn of(way: Way, mtu: u16, outbox: &'w mut Outbox, sent: &'w mut Sent) -> Self {
        Self { incoming: None, mtu, outgoing: Place { way, outbox, sent } }
    }
}

/// Where packets go out.
struct Place<'w> {
    way: Way,
    outbox: &'w mut Outbox,
    sent: &'w mut Sent,
}

struct Incoming<'w>(&'w [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl TxToken for Place<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut bytes = vec![0; length];
        let written = write(&mut bytes);
        self.sent.note(&mut bytes);
        if let Some(destination) = packet::own_destination(&bytes) {
            self.outbox.push(bytes, destination, self.way);
        }
        written
    }
}

impl Device for Wire<'_> {
    type RxToken<'t>
        = Incoming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Place<'t>
    where
        Self: 't;

    fn receive(&mut self, now: Instant) -> Option<(Incoming<'_>, Place<'_>)> {
        if self.outgoing.outbox.is_full() {
            return None; // what cannot be answered is as good as lost
        }
        let incoming = self.incoming.take()?;
        Some((Incoming(incoming), self.transmit(now)?))
    }

    fn transmit(&mut self, _: Instant) -> Option<Place<'_>> {
        let Place { way, outbox, sent } = &mut self.outgoing;
        (!outbox.is_full()).then_some(Place { way: *way, outbox, sent })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(self.mtu);
        capabilities
    }
}
