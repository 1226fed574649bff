//! TCP connections, from the first segment to the last, and who waits for them.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::punt::answers::Awaited;
use dataplane::snapshot::Protocol;
use smoltcp::socket::tcp::State;

use super::engine::Socket;
use super::packet::{self, Ends, Packet, Quoted, Segment, Trouble};
use super::stack::{Ending, Id, Inner};
use super::time_wait::Over;
use crate::net::Way;

/// Connections at once that we have opened.
const MOST_OPENED: usize = 8_192;
/// Connections at once that clients have opened: so many where we listen on one address, which is what pages do, and
/// again so many where we listen on all of ours, so that nobody who is after the first takes room from the second.
const MOST_ACCEPTED: usize = 1_024;
/// Beyond so many of those a client is not remembered before its last word: what may be forged leaves room for what is
/// not.
const MOST_REMEMBERED: usize = MOST_ACCEPTED / 2;
/// Connections of one listener that are established and wait to be accepted.
const BACKLOG: usize = 256;
/// Connections of one listener that wait for the client's last word.
const HALF_OPEN: usize = 512;
/// How long they wait.
const HALF_OPEN_TIME: Duration = Duration::from_secs(10);
/// How long after the last cookie was given one may come back.
const COOKIES: Duration = Duration::from_secs(60);
/// How long a connection that nobody holds any more may take to say its last, and how long it then waits for the other
/// end's.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_SILENTLY: Duration = Duration::from_secs(5);
/// Before a connection that could not send is looked at again.
const PAUSE: Duration = Duration::from_millis(1);
/// Room for what is received and what is sent, in bytes: where we ask, and where we answer.
const ASKING: (usize, usize) = (8 << 10, 4 << 10);
const ANSWERING: (usize, usize) = (8 << 10, 16 << 10);

/// Where a listener listens: on one address or on all of ours, and on which port, or from which port on.
pub type ListenerKey = (Option<IpAddr>, u16);

/// A listener's connections.
#[derive(Default)]
pub struct Listening {
    /// The last of its ports.
    last_port: u16,
    /// Those that wait for the client's last word, the oldest first.
    pub half_open: BTreeSet<Id>,
    /// Those that can be accepted.
    ready: VecDeque<Id>,
    waiting: Option<Waker>,
}

/// Who is responsible for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// A listener, until it is accepted.
    Listener(ListenerKey),
    /// A stream.
    Stream,
    /// Nobody: what is still to be said is said.
    Nobody { since: Moment },
}

impl Owner {
    /// When a connection that became half-open at `since` is to be given up, whatever happens.
    fn last_moment(self, since: Moment, state: State) -> Option<Moment> {
        match self {
            Self::Nobody { since } if state == State::FinWait2 => Some(since.plus(LINGER_SILENTLY)),
            Self::Nobody { since } => Some(since.plus(LINGER)),
            Self::Listener(_) if state == State::SynReceived => Some(since.plus(HALF_OPEN_TIME)),
            _ => None,
        }
    }
}

/// One connection.
pub struct Connection {
    ends: Ends,
    way: Way,
    stage: Stage,
    /// Its packets are answers. Not where a client opens it: who has come in could flood what servers say.
    awaited: Option<Awaited>,
    owner: Owner,
    /// We opened it.
    is_ours: bool,
    /// A client opened it where we listen on one address.
    is_at_one: bool,
    /// We have said something.
    has_spoken: bool,
    /// When it became half-open.
    since: Moment,
    /// Why it ends, where that is known before it has.
    ending: Option<Ending>,
    pub(super) is_dirty: bool,
    /// When it has to be looked at.
    pub(super) due: Option<Moment>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

enum Stage {
    /// Packets belong to it.
    Live(Box<Socket>),
    /// It is over, but not all that was received has been read.
    Over { rest: Vec<u8>, read: usize, ending: Ending },
}

impl Connection {
    fn new(ends: Ends, socket: Socket, way: Way, owner: Owner, now: Moment) -> Self {
        Self {
            ends,
            way,
            stage: Stage::Live(Box::new(socket)),
            awaited: None,
            owner,
            is_ours: owner == Owner::Stream,
            is_at_one: matches!(owner, Owner::Listener((Some(_), _))),
            has_spoken: false,
            since: now,
            ending: None,
            is_dirty: false,
            due: None,
            reader: None,
            writer: None,
        }
    }

    fn live(&mut self) -> Option<&mut Socket> {
        match &mut self.stage {
            Stage::Live(socket) => Some(socket),
            Stage::Over { .. } => None,
        }
    }
}

/// Which segments end a connection, and how.
fn ending_of(before: State, after: State, segment: &Segment) -> Option<Ending> {
    match (before, after) {
        (State::Closed, _) => None,
        (State::SynSent, State::Closed) => Some(Ending::Failed(ErrorKind::ConnectionRefused)),
        (_, State::Closed) if segment.resets => Some(Ending::Failed(ErrorKind::ConnectionReset)),
        (_, State::Closed) => Some(Ending::Done),
        _ => None,
    }
}

impl Inner {
    /// Opens a connection.
    pub(super) fn open(&mut self, to: SocketAddr, way: Way) -> io::Result<Id> {
        let path = self.path(to.ip(), way)?;
        if to.port() == 0 {
            return Err(ErrorKind::InvalidInput.into());
        }
        if self.connections.len() - self.accepted - self.accepted_at_one >= MOST_OPENED {
            // One that nobody holds any more makes room.
            let Some(&orphan) = self.orphans.first() else { return Err(self.no_room()) };
            self.abort(orphan);
        }
        let ends = self.ends(path.source()?, (to.ip(), to.port()), |inner, ends| {
            !inner.segments.contains_key(ends) && inner.time_wait.get(ends).is_none()
        })?;
        let mut socket = Socket::new(ends, way, path.mtu, ASKING);
        let sequence = self.secrets.sequence(self.now, &ends);
        if !self.engine.connect(self.now, &mut socket, sequence) {
            return Err(ErrorKind::InvalidInput.into());
        }
        self.stats.opened += 1;
        let awaited = Some(self.awaited(Protocol::Tcp, &ends));
        let connection = Connection::new(ends, socket, way, Owner::Stream, self.now);
        Ok(self.add(Connection { awaited, ..connection }))
    }

    fn add(&mut self, connection: Connection) -> Id {
        let id = self.next_id();
        if let Some(accepted) = self.kept_with(&connection) {
            *accepted += 1;
        }
        self.segments.insert(connection.ends, id);
        self.connections.insert(id, connection);
        self.mark(id);
        id
    }

    /// How many connections there are of those that a client's connection shares its room with.
    fn kept_with(&mut self, connection: &Connection) -> Option<&mut usize> {
        match (connection.is_ours, connection.is_at_one) {
            (true, _) => None,
            (false, true) => Some(&mut self.accepted_at_one),
            (false, false) => Some(&mut self.accepted),
        }
    }

    /// How many connections clients of this listener, and of those like it, have.
    fn accepted_like(&self, key: ListenerKey) -> usize {
        if key.0.is_some() { self.accepted_at_one } else { self.accepted }
    }

    /// The connection may have something to say.
    fn mark(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.is_dirty
        {
            connection.is_dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// Takes in a segment.
    pub(super) fn segment(&mut self, packet: &Packet<'_>) {
        let Some(segment) = Segment::read(packet.payload) else {
            return self.stats.malformed += 1;
        };
        let ends = Ends::new((packet.destination, segment.to), (packet.source, segment.from));
        if let Some(&id) = self.segments.get(&ends) {
            return self.feed(id, packet, &segment);
        }
        let opens = segment.opens && !segment.acknowledges && !segment.resets;
        if let Some((sent, way)) = self.time_wait.get(&ends).map(|over| (over.sent, over.way)) {
            // A new connection may begin where the numbers of the old one end (RFC 9293 section 3.10.7.4).
            let is_new = (segment.sequence.wrapping_sub(sent.acknowledgement) as i32) > 0;
            if !(opens && is_new) {
                // A reset changes nothing (RFC 1337); whatever else may have missed our last word.
                if !segment.resets && self.refusals.take(self.now) {
                    let last = packet::acknowledgement(&ends, sent.sequence, sent.acknowledgement);
                    self.post(last, ends.remote.ip(), way);
                }
                return;
            }
        }
        match self.listener_of(&ends.local) {
            Some(key) if opens => self.opened_by_client(key, ends, packet, &segment),
            Some(key) if self.is_answer_to_cookie(&ends, &segment) => {
                self.opened_by_cookie(key, ends, packet, &segment);
            }
            _ if segment.resets => self.stats.nobody_waits += 1,
            _ => {
                if self.may_refuse() {
                    self.engine.refuse(self.now, packet, LEAST_MTU);
                }
            }
        }
    }

    fn listener_of(&self, local: &SocketAddr) -> Option<ListenerKey> {
        let at = |address| self.listener_at(address, local.port());
        at(Some(local.ip())).or_else(|| at(None))
    }

    fn listener_at(&self, address: Option<IpAddr>, port: u16) -> Option<ListenerKey> {
        let (&key, listening) = self.listeners.range(..=(address, port)).next_back()?;
        (key.0 == address && port <= listening.last_port).then_some(key)
    }

    /// Whether somebody listens at exactly this address and port.
    pub(super) fn is_listened_at(&self, local: SocketAddr) -> bool {
        self.listener_at(Some(local.ip()), local.port()).is_some()
    }

    /// Whether somebody listens at an address of ours and a port.
    pub(super) fn is_taken(&self, local: &SocketAddr) -> bool {
        self.listener_of(local).is_some()
    }

    fn opened_by_client(
        &mut self,
        key: ListenerKey,
        ends: Ends,
        packet: &Packet<'_>,
        segment: &Segment,
    ) {
        let Some(listening) = self.listeners.get(&key) else { return };
        if listening.ready.len() >= BACKLOG {
            return self.stats.backlog_full += 1; // the client asks again
        }
        if listening.half_open.len() >= HALF_OPEN || self.accepted_like(key) >= MOST_REMEMBERED {
            return self.challenge(&ends, segment);
        }
        let sequence = self.secrets.sequence(self.now, &ends);
        if let Some(socket) = self.half_open(&ends, packet, sequence) {
            self.time_wait.remove(&ends);
            self.wait_for_client(key, ends, socket);
        }
    }

    /// A socket that a client has begun to open with `packet`, and that answers with this sequence number.
    fn half_open(&mut self, ends: &Ends, packet: &Packet<'_>, sequence: u32) -> Option<Socket> {
        let path = self.path(ends.remote.ip(), Way::Routed).ok()?;
        let mut socket = Socket::new(*ends, Way::Routed, path.mtu, ANSWERING);
        self.engine.accept(self.now, &mut socket, sequence, packet);
        (socket.tcp().state() == State::SynReceived).then_some(socket)
    }

    fn wait_for_client(&mut self, key: ListenerKey, ends: Ends, socket: Socket) -> Id {
        let owner = Owner::Listener(key);
        let id = self.add(Connection::new(ends, socket, Way::Routed, owner, self.now));
        if let Some(listening) = self.listeners.get_mut(&key) {
            listening.half_open.insert(id);
        }
        id
    }

    /// Answers a client without remembering it: the number of the answer is a cookie (RFC 4987 section 3.6). What the client
    /// can do is forgotten with it, so it is told that we cannot either.
    fn challenge(&mut self, ends: &Ends, segment: &Segment) {
        let opening = packet::opening(&ends.reversed(), segment.sequence);
        let Ok(opening) = Packet::read(&opening) else { return };
        let cookie = self.secrets.cookie(self.now, ends, segment.sequence);
        if let Some(mut socket) = self.half_open(ends, &opening, cookie) {
            self.engine.send(self.now, &mut socket);
            self.stats.challenged += 1;
            self.challenged = Some(self.now);
        }
    }

    fn is_answer_to_cookie(&self, ends: &Ends, segment: &Segment) -> bool {
        let is_recent = self.challenged.is_some_and(|last| self.now.since(last) < COOKIES);
        let may_be = segment.acknowledges && !segment.opens && !segment.resets && is_recent;
        let (client, cookie) =
            (segment.sequence.wrapping_sub(1), segment.acknowledgement.wrapping_sub(1));
        may_be && self.secrets.is_cookie(self.now, ends, client, cookie)
    }

    /// Opens the connection that a client was challenged about, as if it had been remembered.
    fn opened_by_cookie(
        &mut self,
        key: ListenerKey,
        ends: Ends,
        packet: &Packet<'_>,
        segment: &Segment,
    ) {
        if self.listeners.get(&key).is_none_or(|listening| listening.ready.len() >= BACKLOG) {
            return self.stats.backlog_full += 1;
        }
        if self.accepted_like(key) >= MOST_ACCEPTED {
            return self.stats.no_room += 1;
        }
        let opening = packet::opening(&ends.reversed(), segment.sequence.wrapping_sub(1));
        let Ok(opening) = Packet::read(&opening) else { return };
        let cookie = segment.acknowledgement.wrapping_sub(1);
        let Some(mut socket) = self.half_open(&ends, &opening, cookie) else { return };
        self.engine.send_unheard(self.now, &mut socket); // the answer to it has been sent already
        let id = self.wait_for_client(key, ends, socket);
        self.feed(id, packet, segment);
    }

    /// Gives a connection a segment of its own.
    fn feed(&mut self, id: Id, packet: &Packet<'_>, segment: &Segment) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Stage::Live(socket) = &mut connection.stage else { return };
        let before = socket.tcp().state();
        self.engine.receive(self.now, socket, packet);
        let after = socket.tcp().state();
        connection.ending = connection.ending.or(ending_of(before, after, segment));
        let reached = (before == State::SynSent && after != before).then_some(connection.way);
        if before == State::SynReceived && after != before {
            if after == State::Listen {
                return self.forget(id); // the client has changed its mind
            }
            if let Owner::Listener(key) = connection.owner {
                self.established(key, id);
            }
        }
        if let Some(way) = reached {
            self.reaches(packet.source, way);
        }
        self.mark(id);
    }

    fn established(&mut self, key: ListenerKey, id: Id) {
        let Some(listening) = self.listeners.get_mut(&key) else { return };
        if listening.half_open.remove(&id) {
            self.stats.accepted += 1;
            listening.ready.push_back(id);
            self.woken.extend(listening.waiting.take());
        }
    }

    /// Lets a connection say what it has to, and sees what has become of it.
    pub(super) fn advance(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Stage::Live(socket) = &mut connection.stage else { return };
        if matches!(connection.owner, Owner::Nobody { .. }) {
            // Nobody reads it, but the other end may wait for room before it says its last.
            let tcp = socket.tcp_mut();
            while let Ok(1..) = tcp.recv(|bytes| (bytes.len(), bytes.len())) {}
        }
        self.engine.send(self.now, socket);
        let state = socket.tcp().state();
        let last_moment = connection.owner.last_moment(connection.since, state);
        match state {
            State::Closed => {
                let timed_out = Ending::Failed(ErrorKind::TimedOut);
                let ending = connection.ending.unwrap_or(timed_out);
                return self.finish(id, ending);
            }
            State::TimeWait => {
                let (ends, sent, way) = (connection.ends, socket.sent, connection.way);
                let awaited = connection.awaited.take();
                self.time_wait.insert(ends, Over { sent, way, since: self.now, _awaited: awaited });
                return self.finish(id, Ending::Done);
            }
            State::SynReceived if last_moment.is_some_and(|last| last <= self.now) => {
                return self.forget(id);
            }
            _ if last_moment.is_some_and(|last| last <= self.now) => return self.abort(id),
            _ => {}
        }
        let tcp = socket.tcp();
        if !matches!(state, State::SynSent | State::SynReceived) {
            if tcp.can_recv() || !tcp.may_recv() {
                self.woken.extend(connection.reader.take());
            }
            if tcp.can_send() || !tcp.may_send() {
                self.woken.extend(connection.writer.take());
            }
        }
        let due = self.engine.due(self.now, socket);
        // What is due now has been done, unless it could not be.
        let due = due.map(|due| if due <= self.now { self.now.plus(PAUSE) } else { due });
        let due = due.into_iter().chain(last_moment).min();
        if connection.due != due {
            if let Some(before) = connection.due {
                self.deadlines.remove(&(before, id));
            }
            connection.due = due;
            self.deadlines.extend(due.map(|due| (due, id)));
        }
    }

    /// The connection is over; what was received can still be read.
    pub(super) fn finish(&mut self, id: Id, ending: Ending) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Stage::Live(socket) = &mut connection.stage else { return };
        let mut rest = vec![0; socket.tcp().recv_queue()];
        let length = socket.tcp_mut().recv_slice(&mut rest).unwrap_or(0);
        rest.truncate(length);
        connection.stage = Stage::Over { rest, read: 0, ending };
        connection.awaited = None;
        self.woken.extend(connection.reader.take());
        self.woken.extend(connection.writer.take());
        self.segments.remove(&connection.ends);
        if let Some(due) = connection.due.take() {
            self.deadlines.remove(&(due, id));
        }
        match connection.owner {
            Owner::Stream => {}
            Owner::Nobody { .. } => self.forget(id),
            Owner::Listener(key) => {
                let listening = self.listeners.get(&key);
                if !listening.is_some_and(|listening| listening.ready.contains(&id)) {
                    self.forget(id);
                }
            }
        }
    }

    /// Nothing is left of it, and the other end is told nothing.
    fn forget(&mut self, id: Id) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if let Some(accepted) = self.kept_with(&connection) {
            *accepted -= 1;
        }
        self.orphans.remove(&id);
        if self.segments.get(&connection.ends) == Some(&id) {
            self.segments.remove(&connection.ends);
        }
        if let Some(due) = connection.due {
            self.deadlines.remove(&(due, id));
        }
        if let Owner::Listener(key) = connection.owner
            && let Some(listening) = self.listeners.get_mut(&key)
        {
            listening.half_open.remove(&id);
            listening.ready.retain(|&ready| ready != id);
        }
        self.woken.extend(connection.reader);
        self.woken.extend(connection.writer);
    }

    /// Ends a connection at once: the other end is told with a reset.
    fn abort(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(socket) = connection.live() {
            let was_open = !matches!(socket.tcp().state(), State::SynSent | State::Closed);
            socket.tcp_mut().abort();
            if was_open {
                let Stage::Live(socket) = &mut connection.stage else { return };
                self.engine.send(self.now, socket);
            }
        }
        self.forget(id);
    }

    /// A quoted segment of ours was lost. Only a connection that is being opened fails by that (RFC 5927 section 5);
    /// one that stands is sent again, shorter if it was too long.
    pub(super) fn segment_lost(&mut self, trouble: Trouble, quoted: &Quoted) -> bool {
        let Some(&id) = self.segments.get(&quoted.ends()) else { return false };
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let Stage::Live(socket) = &mut connection.stage else { return false };
        // Up to what was said last, and no more than a window before.
        if socket.sent.sequence.wrapping_sub(quoted.last()) > u32::from(u16::MAX) {
            return false;
        }
        let is_opening = socket.tcp().state() == State::SynSent;
        match trouble {
            Trouble::TooLong => {
                let least = if quoted.source.is_ipv4() { LEAST_MTU_V4 } else { LEAST_MTU };
                let changes = socket.mtu > least;
                socket.mtu = if socket.mtu > LEAST_MTU { LEAST_MTU } else { least };
                changes
            }
            _ if is_opening && socket.sent.sequence == quoted.last() => {
                self.finish(id, Ending::Failed(trouble.into()));
                true
            }
            _ => false,
        }
    }

    /// Begins to listen, up to this port.
    pub(super) fn listen(&mut self, key: ListenerKey, last_port: u16) -> io::Result<()> {
        let (address, first_port) = key;
        if first_port == 0 || last_port < first_port {
            return Err(ErrorKind::InvalidInput.into());
        }
        let before = self.listeners.range(..=(address, last_port)).next_back();
        if before.is_some_and(|(at, it)| at.0 == address && it.last_port >= first_port) {
            return Err(ErrorKind::AddrInUse.into());
        }
        self.listeners.insert(key, Listening { last_port, ..Listening::default() });
        Ok(())
    }

    /// Stops listening; connections that nobody has accepted end.
    pub(super) fn stop_listening(&mut self, key: ListenerKey) {
        let Some(listening) = self.listeners.remove(&key) else { return };
        for id in listening.half_open.into_iter().chain(listening.ready) {
            self.abort(id);
        }
    }

    /// The next connection that can be accepted.
    pub(super) fn poll_accept(
        &mut self,
        key: ListenerKey,
        context: &Context<'_>,
    ) -> Poll<io::Result<(Id, SocketAddr)>> {
        let Some(listening) = self.listeners.get_mut(&key) else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        while let Some(id) = listening.ready.pop_front() {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.owner = Owner::Stream;
                return Poll::Ready(Ok((id, connection.ends.remote)));
            }
        }
        self.woken.extend(register(&mut listening.waiting, context));
        Poll::Pending
    }

    /// Whether a connection that we open is open.
    pub(super) fn poll_open(&mut self, id: Id, context: &Context<'_>) -> Poll<io::Result<()>> {
        let Some(connection) = self.connections.get_mut(&id) else { return gone() };
        match &connection.stage {
            Stage::Over { ending: Ending::Failed(kind), .. } => Poll::Ready(Err((*kind).into())),
            Stage::Live(socket)
                if matches!(socket.tcp().state(), State::SynSent | State::SynReceived) =>
            {
                self.woken.extend(register(&mut connection.writer, context));
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Reads what has been received; 0 bytes at the end.
    pub(super) fn poll_read(
        &mut self,
        id: Id,
        into: &mut [u8],
        context: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(connection) = self.connections.get_mut(&id) else { return gone() };
        let socket = match &mut connection.stage {
            Stage::Over { rest, read, ending } => {
                return Poll::Ready(take(rest, read, *ending, into));
            }
            Stage::Live(socket) => socket,
        };
        let tcp = socket.tcp_mut();
        if tcp.can_recv() {
            let length = tcp.recv_slice(into).unwrap_or(0);
            self.mark(id); // there is more room now, and the other end may wait for it
            return Poll::Ready(Ok(length));
        }
        if tcp.may_recv() || matches!(tcp.state(), State::SynSent | State::SynReceived) {
            self.woken.extend(register(&mut connection.reader, context));
            return Poll::Pending;
        }
        match connection.ending {
            Some(Ending::Failed(kind)) => Poll::Ready(Err(kind.into())),
            _ => Poll::Ready(Ok(0)),
        }
    }

    /// Takes bytes to be sent.
    pub(super) fn poll_write(
        &mut self,
        id: Id,
        from: &[u8],
        context: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(connection) = self.connections.get_mut(&id) else { return gone() };
        let socket = match &mut connection.stage {
            Stage::Over { ending, .. } => return Poll::Ready(Err(ending.error())),
            Stage::Live(socket) => socket,
        };
        let tcp = socket.tcp_mut();
        if !tcp.may_send() {
            let ending = connection.ending.unwrap_or(Ending::Done);
            return Poll::Ready(Err(ending.error()));
        }
        let length = tcp.send_slice(from).unwrap_or(0);
        if length == 0 && !from.is_empty() {
            self.woken.extend(register(&mut connection.writer, context));
            return Poll::Pending;
        }
        connection.has_spoken |= length > 0;
        self.mark(id);
        Poll::Ready(Ok(length))
    }

    /// We have said all.
    pub(super) fn shut_down(&mut self, id: Id) {
        if let Some(socket) = self.connections.get_mut(&id).and_then(Connection::live) {
            socket.tcp_mut().close();
            self.mark(id);
        }
    }

    /// Nobody holds the connection any more. One on which we have said something ends as is due; one on which we have
    /// not is of no use to the other end, and is reset.
    pub(super) fn let_go(&mut self, id: Id, at_once: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.owner = Owner::Nobody { since: self.now };
        let has_spoken = connection.has_spoken;
        let Some(socket) = connection.live() else { return self.forget(id) };
        let is_of_use = match socket.tcp().state() {
            State::SynSent | State::SynReceived => false,
            State::Established => has_spoken,
            _ => true, // an end has said that this is all, or both
        };
        if at_once || !is_of_use {
            return self.abort(id);
        }
        socket.tcp_mut().close();
        self.orphans.insert(id);
        self.mark(id);
    }

    /// How long packets of a connection are.
    #[cfg(test)]
    pub(super) fn mtu_of(&mut self, id: Id) -> Option<u16> {
        Some(self.connections.get_mut(&id)?.live()?.mtu)
    }

    /// Both ends of a connection.
    pub(super) fn ends_of(&self, id: Id) -> Option<Ends> {
        Some(self.connections.get(&id)?.ends)
    }
}

/// What every IPv6 link carries, and every IPv4 host.
const LEAST_MTU: u16 = 1_280;
const LEAST_MTU_V4: u16 = 576;

/// What is left of a connection that is over.
fn take(rest: &[u8], read: &mut usize, ending: Ending, into: &mut [u8]) -> io::Result<usize> {
    let left = &rest[*read..];
    if left.is_empty() {
        return match ending {
            Ending::Done => Ok(0),
            Ending::Failed(kind) => Err(kind.into()),
        };
    }
    let length = left.len().min(into.len());
    into[..length].copy_from_slice(&left[..length]);
    *read += length;
    Ok(length)
}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(ErrorKind::NotConnected.into()))
}

/// Puts a task's waker in place. Gives the one that it replaces, to be woken rather than dropped under the lock: the
/// last of a task's wakers may take the task with it.
pub(super) fn register(place: &mut Option<Waker>, context: &Context<'_>) -> Option<Waker> {
    match place {
        Some(waker) if waker.will_wake(context.waker()) => None,
        _ => place.replace(context.waker().clone()),
    }
}
