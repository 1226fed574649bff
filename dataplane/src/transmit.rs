//! Step 6: back to the wire. Writes the hardware addresses, fragments what is too long, lets frames wait for
//! a neighbour, and counts what a queue refuses.

mod fragment;

mod waiting;

use arrayvec::ArrayVec;

use crate::counters::{Counters, Reason};
use crate::frame::{Frame, Link};
use crate::moment::Moment;
use crate::rewrite::Outbound;
use crate::snapshot::{Interface, MAX_PORTS, Snapshot};
use crate::wire::ethernet::{self, Ethernet, Mac, Tag};

pub use waiting::{Question, Waiting};

use waiting::Held;

/// Frames that one device collects before they are handed to its queue.
const OUTBOX: usize = 64;

/// Frames on their way out, by device.
pub struct Outboxes<F>(ArrayVec<ArrayVec<F, OUTBOX>, MAX_PORTS>);

impl<F: Frame> Outboxes<F> {
    /// For so many devices.
    pub fn new(ports: usize) -> Self {
        Self((0..ports.min(MAX_PORTS)).map(|_| ArrayVec::new()).collect())
    }

    /// Sends a frame, or leaves it at `waiting` if its next station is not known yet.
    #[inline(always)]
    pub fn frame<L: Link<Frame = F>>(
        &mut self,
        outbound: Outbound<'_, F>,
        links: &mut [L],
        waiting: &mut Waiting<F>,
        snapshot: &Snapshot,
        now: Moment,
        counters: &Counters,
    ) {
        match outbound.hop.mac {
            Some(mac) => self.send(outbound, mac, links, snapshot, counters),
            None => waiting.add(outbound, now, counters),
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
        while let Some((held, mac)) = waiting.next_resolved(snapshot, now, counters) {
            let Held { frame, hop, length } = held;
            self.send(Outbound { frame, hop: &hop, length }, mac, links, snapshot, counters);
        }
    }

    #[inline(always)]
    fn send<L: Link<Frame = F>>(
        &mut self,
        outbound: Outbound<'_, F>,
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
            return self.put(interface, frame, links, counters);
        }
        self.send_in_parts(interface, frame, links, counters);
    }

    #[cold]
    fn send_in_parts<L: Link<Frame = F>>(
        &mut self,
        interface: &Interface,
        frame: F,
        links: &mut [L],
        counters: &Counters,
    ) {
        let Some(link) = links.get_mut(usize::from(interface.port.0)) else {
            return counters.drop_one(Reason::NoInterface);
        };
        match fragment::split(frame, interface.mtu, link) {
            Some(fragments) => {
                counters.injected.add(fragments.len() as u64 - 1);
                for fragment in fragments {
                    self.put(interface, fragment, links, counters);
                }
            }
            None => counters.drop_one(Reason::NoBuffer),
        }
    }

    /// Puts a finished frame into its device's outbox, with a VLAN tag if the interface has one.
    #[inline(always)]
    pub fn put<L: Link<Frame = F>>(
        &mut self,
        interface: &Interface,
        mut frame: F,
        links: &mut [L],
        counters: &Counters,
    ) {
        if let Some(vlan) = interface.vlan {
            if !frame.grow_front(ethernet::TAG) {
                return counters.drop_one(Reason::NoBuffer);
            }
            let _ = Tag::default().with_identifier(vlan).put(frame.bytes_mut());
        }
        let index = usize::from(interface.port.0);
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
        let boxes = self.0.iter_mut().zip(links);
        for (outbox, link) in boxes.filter(|(outbox, _)| !outbox.is_empty()) {
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
