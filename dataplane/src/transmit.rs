//! Step 6: back to the wire. Writes the hardware addresses, fragments what is too long, lets frames wait for
//! a neighbour, and counts what a queue refuses.

mod fragment;

mod waiting;

use arrayvec::ArrayVec;

use crate::counters::{Counters, Reason};
use crate::frame::{Burst, Frame, Link};
use crate::moment::Moment;
use crate::rewrite::Outbound;
use crate::snapshot::{InterfaceId, MAX_INTERFACES, Snapshot};
use crate::wire::ethernet::{Ethernet, Mac};

pub use waiting::{Question, Waiting};

/// Frames that one interface collects before they are handed to its queue.
const OUTBOX: usize = 64;

/// Frames on their way out, by interface.
pub struct Outboxes<F>(ArrayVec<ArrayVec<F, OUTBOX>, MAX_INTERFACES>);

impl<F: Frame> Outboxes<F> {
    /// For so many interfaces.
    pub fn new(interfaces: usize) -> Self {
        Self((0..interfaces.min(MAX_INTERFACES)).map(|_| ArrayVec::new()).collect())
    }

    /// Sends a burst; frames whose next station is not known yet are left at `waiting`.
    pub fn frames<L: Link<Frame = F>>(
        &mut self,
        mut outbound: Burst<Outbound<F>>,
        links: &mut [L],
        waiting: &mut Waiting<F>,
        snapshot: &Snapshot,
        now: Moment,
        counters: &Counters,
    ) {
        for outbound in outbound.drain(..) {
            match outbound.hop.mac {
                Some(mac) => self.send(outbound, mac, links, snapshot, counters),
                None => waiting.add(outbound, now, counters),
            }
        }
    }

    /// Sends frames that have waited, as far as their neighbours are known by now.
    pub fn waited<L: Link<Frame = F>>(
        &mut self,
        links: &mut [L],
        waiting: &mut Waiting<F>,
        snapshot: &Snapshot,
        now: Moment,
        counters: &Counters,
    ) {
        while let Some((outbound, mac)) = waiting.next_resolved(snapshot, now, counters) {
            self.send(outbound, mac, links, snapshot, counters);
        }
    }

    fn send<L: Link<Frame = F>>(
        &mut self,
        outbound: Outbound<F>,
        to: Mac,
        links: &mut [L],
        snapshot: &Snapshot,
        counters: &Counters,
    ) {
        let Outbound { mut frame, hop, length } = outbound;
        let Some(interface) = snapshot.interface(hop.interface) else {
            return counters.drop_one(Reason::NoInterface);
        };
        match Ethernet::split(frame.bytes_mut()) {
            Ok((mut ethernet, _)) => ethernet.readdress(interface.mac, to),
            Err(malformed) => return counters.drop_one(malformed.into()),
        }
        if length <= interface.mtu {
            return self.put(hop.interface, frame, links, counters);
        }
        let Some(link) = links.get_mut(usize::from(hop.interface.0)) else {
            return counters.drop_one(Reason::NoInterface);
        };
        match fragment::split(frame, interface.mtu, link) {
            Some(fragments) => {
                counters.injected.add(fragments.len() as u64 - 1);
                for fragment in fragments {
                    self.put(hop.interface, fragment, links, counters);
                }
            }
            None => counters.drop_one(Reason::NoBuffer),
        }
    }

    /// Puts a finished frame into its interface's outbox.
    pub fn put<L: Link<Frame = F>>(
        &mut self,
        interface: InterfaceId,
        frame: F,
        links: &mut [L],
        counters: &Counters,
    ) {
        let index = usize::from(interface.0);
        let (Some(outbox), Some(link)) = (self.0.get_mut(index), links.get_mut(index)) else {
            return counters.drop_one(Reason::NoInterface);
        };
        if outbox.is_full() {
            flush(outbox, link, counters);
        }
        outbox.push(frame);
    }

    /// Hands everything to the queues.
    pub fn flush<L: Link<Frame = F>>(&mut self, links: &mut [L], counters: &Counters) {
        for (outbox, link) in self.0.iter_mut().zip(links).filter(|(outbox, _)| !outbox.is_empty())
        {
            flush(outbox, link, counters);
        }
    }
}

/// Waiting for a full queue would only move the loss to the receive side, where it is not counted.
fn flush<L: Link>(outbox: &mut ArrayVec<L::Frame, OUTBOX>, link: &mut L, counters: &Counters) {
    let bytes =
        |frames: &[L::Frame]| frames.iter().map(|frame| frame.bytes().len() as u64).sum::<u64>();
    let (frames_before, bytes_before) = (outbox.len(), bytes(outbox));
    loop {
        let before = outbox.len();
        link.transmit(outbox);
        if outbox.is_empty() || outbox.len() == before {
            break;
        }
    }
    counters.transmitted.add((frames_before - outbox.len()) as u64);
    counters.transmitted_bytes.add(bytes_before - bytes(outbox));
    for _refused in outbox.drain(..) {
        counters.drop_one(Reason::TransmitQueueFull);
    }
}
