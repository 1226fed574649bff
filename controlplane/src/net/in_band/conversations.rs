//! What has no connection: datagrams between two ends, and echo requests.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::punt::answers::Awaited;
use dataplane::snapshot::Protocol;

use super::packet::{self, Echo, Ends, Packet, Quoted, Trouble};
use super::stack::{Id, Inner};
use crate::net::Way;

/// UDP sockets at once.
const MOST_SOCKETS: usize = 8_192;
/// Datagrams that one holds.
const MOST_DATAGRAMS: usize = 32;
/// Echo requests at once that wait for their answer.
const MOST_QUESTIONS: usize = 8_192;
/// Tasks that wait for one socket.
const MOST_WAITING: usize = 16;
/// How many bytes an echo request carries.
const DATA: usize = 32;

/// A UDP socket.
pub struct Conversation {
    ends: Ends,
    way: Way,
    /// The longest datagram that fits a packet.
    longest: usize,
    /// We have sent something since the other end was last heard.
    has_asked: bool,
    _awaited: Awaited,
    received: VecDeque<Vec<u8>>,
    trouble: Option<ErrorKind>,
    waiting: Vec<Waker>,
}

/// An echo request that waits for its answer.
pub struct Asking {
    way: Way,
    _awaited: Awaited,
    sequence: u16,
    data: [u8; DATA],
    sent: Option<Moment>,
    outcome: Option<Result<Duration, ErrorKind>>,
    waiting: Option<Waker>,
}

impl Inner {
    /// Opens a socket.
    pub(super) fn converse(&mut self, to: SocketAddr, way: Way) -> io::Result<Id> {
        let path = self.path(to.ip(), way)?;
        if to.port() == 0 {
            return Err(ErrorKind::InvalidInput.into());
        }
        if self.conversations.len() >= MOST_SOCKETS {
            return Err(self.no_room());
        }
        let is_free = |inner: &Self, ends: &Ends| !inner.datagrams.contains_key(ends);
        let ends = self.ends(path.source()?, (to.ip(), to.port()), is_free)?;
        let overhead = packet::datagram_overhead(to.ip());
        let conversation = Conversation {
            ends,
            way,
            longest: usize::from(path.mtu).saturating_sub(overhead),
            has_asked: false,
            _awaited: self.awaited(Protocol::Udp, &ends),
            received: VecDeque::new(),
            trouble: None,
            waiting: Vec::new(),
        };
        let id = self.next_id();
        self.datagrams.insert(ends, id);
        self.conversations.insert(id, conversation);
        Ok(id)
    }

    /// Closes a socket.
    pub(super) fn stop_conversing(&mut self, id: Id) {
        if let Some(conversation) = self.conversations.remove(&id) {
            self.datagrams.remove(&conversation.ends);
            self.woken.extend(conversation.waiting);
        }
    }

    /// Sends a datagram.
    pub(super) fn say(&mut self, id: Id, datagram: &[u8]) -> io::Result<()> {
        let Some(conversation) = self.conversations.get_mut(&id) else {
            return Err(ErrorKind::NotConnected.into());
        };
        if let Some(kind) = conversation.trouble.take() {
            return Err(kind.into());
        }
        if datagram.len() > conversation.longest {
            let longest = conversation.longest;
            let told = format!("the datagram has more than {longest} bytes");
            return Err(io::Error::new(ErrorKind::InvalidInput, told));
        }
        let (ends, way) = (conversation.ends, conversation.way);
        let is_posted = self.post(packet::datagram(&ends, datagram), ends.remote.ip(), way);
        if let Some(conversation) = self.conversations.get_mut(&id) {
            conversation.has_asked |= is_posted;
        }
        Ok(())
    }

    /// The next datagram that was received.
    pub(super) fn poll_hear(
        &mut self,
        id: Id,
        into: &mut [u8],
        context: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(conversation) = self.conversations.get_mut(&id) else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        if let Some(datagram) = conversation.received.pop_front() {
            let length = datagram.len().min(into.len());
            into[..length].copy_from_slice(&datagram[..length]);
            return Poll::Ready(Ok(length));
        }
        if let Some(kind) = conversation.trouble.take() {
            return Poll::Ready(Err(kind.into()));
        }
        let waiting = &mut conversation.waiting;
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            if waiting.len() >= MOST_WAITING {
                self.woken.append(waiting); // they will come again
            }
            waiting.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Takes in a datagram.
    pub(super) fn datagram(&mut self, packet: &Packet<'_>) {
        let Some(((from, to), payload)) = packet::read_datagram(packet.payload) else {
            return self.stats.malformed += 1;
        };
        let ends = Ends::new((packet.destination, to), (packet.source, from));
        let found = self.datagrams.get(&ends).and_then(|id| self.conversations.get_mut(id));
        let Some(conversation) = found else { return self.unreachable(packet) };
        // One datagram may be an answer to ours; of more nobody knows why they come.
        let answers = std::mem::take(&mut conversation.has_asked).then_some(conversation.way);
        if conversation.received.len() >= MOST_DATAGRAMS {
            self.stats.datagrams_dropped += 1;
        } else {
            conversation.received.push_back(payload.to_vec());
            self.woken.append(&mut conversation.waiting);
        }
        if let Some(way) = answers {
            self.reaches(packet.source, way);
        }
    }

    /// A quoted datagram of ours was lost.
    pub(super) fn datagram_lost(&mut self, trouble: Trouble, quoted: &Quoted) -> bool {
        let Some(&id) = self.datagrams.get(&quoted.ends()) else { return false };
        self.tell_conversation(id, trouble.into())
    }

    pub(super) fn tell_conversation(&mut self, id: Id, kind: ErrorKind) -> bool {
        let Some(conversation) = self.conversations.get_mut(&id) else { return false };
        conversation.trouble = Some(kind);
        self.woken.append(&mut conversation.waiting);
        true
    }

    /// Makes an echo request, which is sent with the next turn; what it carries nobody can guess.
    pub(super) fn question(&mut self, to: IpAddr, way: Way) -> io::Result<Ends> {
        let path = self.path(to, way)?;
        if self.asking.len() >= MOST_QUESTIONS {
            return Err(self.no_room());
        }
        // Of the same range as ports, because identifiers are translated like those.
        let free = self.ends(path.source()?, (to, 0), |inner, ends| {
            !inner.asking.contains_key(&with_identifier(ends, ends.local.port()))
        })?;
        let ends = with_identifier(&free, free.local.port());
        let mut data = [0; DATA];
        for word in data.chunks_exact_mut(8) {
            word.copy_from_slice(&self.secrets.draw().to_le_bytes());
        }
        let sequence = self.secrets.draw() as u16;
        let asking = Asking {
            way,
            _awaited: self.awaited(Protocol::Echo, &ends),
            sequence,
            data,
            sent: None,
            outcome: None,
            waiting: None,
        };
        self.asking.insert(ends, asking);
        self.to_ask.push_back(ends);
        Ok(ends)
    }

    /// Sends the echo requests that have not been.
    pub(super) fn ask(&mut self) {
        while let Some(ends) = self.to_ask.pop_front() {
            let Some(asking) = self.asking.get_mut(&ends) else { continue };
            asking.sent = Some(self.now);
            let Asking { way, sequence, data, .. } = *asking;
            let echo = Echo { identifier: ends.local.port(), sequence, data: &data };
            let request = packet::echo_request(ends.local.ip(), ends.remote.ip(), &echo);
            self.post(request, ends.remote.ip(), way);
        }
    }

    /// Takes in an echo reply.
    pub(super) fn answered(&mut self, packet: &Packet<'_>, echo: &Echo<'_>) {
        let ends = Ends::new((packet.destination, 0), (packet.source, 0));
        let ends = with_identifier(&ends, echo.identifier);
        let found = self.asking.get_mut(&ends);
        let asked = found.filter(|it| it.sequence == echo.sequence && it.data == echo.data);
        let Some((asking, sent)) = asked.and_then(|it| it.sent.map(|sent| (it, sent))) else {
            return self.stats.nobody_waits += 1;
        };
        if asking.outcome.is_some() {
            return; // heard already
        }
        asking.outcome = Some(Ok(self.now.since(sent)));
        self.woken.extend(asking.waiting.take());
        let way = asking.way;
        self.reaches(packet.source, way);
    }

    /// A quoted echo request of ours was lost.
    pub(super) fn question_lost(&mut self, trouble: Trouble, quoted: &Quoted) -> bool {
        let (identifier, sequence) = ((quoted.last() >> 16) as u16, quoted.last() as u16);
        let ends = with_identifier(&quoted.ends(), identifier);
        let is_asked = self.asking.get(&ends).is_some_and(|asking| asking.sequence == sequence);
        is_asked && self.tell_asking(&ends, trouble.into())
    }

    pub(super) fn tell_asking(&mut self, ends: &Ends, kind: ErrorKind) -> bool {
        let Some(asking) = self.asking.get_mut(ends) else { return false };
        asking.outcome.get_or_insert(Err(kind));
        self.woken.extend(asking.waiting.take());
        true
    }

    /// What came of an echo request.
    pub(super) fn poll_answer(
        &mut self,
        ends: &Ends,
        context: &Context<'_>,
    ) -> Poll<io::Result<Duration>> {
        let Some(asking) = self.asking.get_mut(ends) else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        match asking.outcome {
            Some(outcome) => Poll::Ready(outcome.map_err(io::Error::from)),
            None => {
                self.woken.extend(super::connections::register(&mut asking.waiting, context));
                Poll::Pending
            }
        }
    }

    /// Nobody waits for the answer any more.
    pub(super) fn stop_asking(&mut self, ends: &Ends) {
        if let Some(asking) = self.asking.remove(ends) {
            self.woken.extend(asking.waiting);
        }
    }
}

/// The ends of an echo, where the identifier stands for both ports.
fn with_identifier(ends: &Ends, identifier: u16) -> Ends {
    Ends::new((ends.local.ip(), identifier), (ends.remote.ip(), identifier))
}
