//! Connections that begin with a SYN cookie (RFC 4987 section 3.6): what we say to the client in the server's name, and
//! to the server in the client's, until the two can hear each other. [`crate::lookup`] says when.
//!
//! The client was offered no option but a segment size, so the server is asked for none: what the two agree on is what
//! each of them heard from us.

use super::Surroundings;
use super::reset::{Segment, Segments, back, packet};
use crate::defence::cookie::Ends;
use crate::frame::{Frame, Link};
use crate::lookup::flow_table::{Direction, Place};
use crate::lookup::{Proxied, Routed};
use crate::parse::{Flow, ip_packet};
use crate::snapshot::{Hop, Interface};
use crate::wire::tcp::{self, Flags, Header, Offers, Tcp};
use crate::wire::{Address, ipv4, ipv6};

/// The answer to a SYN: a cookie, and no room to send into.
pub fn challenge<L: Link>(
    it: &mut Routed<'_, L::Frame>,
    surroundings: &Surroundings<'_, L>,
) -> Option<(Hop, Segment)> {
    let flow = it.packet.flow;
    let hop = back(it)?;
    let way_back = surroundings.snapshot.interface(it.ingress)?;
    let syn = Seen::of(it)?;
    let default = if flow.source.is_v4() { tcp::DEFAULT_MSS_V4 } else { tcp::DEFAULT_MSS_V6 };
    let mss = syn.mss.unwrap_or(default);
    let ends = Ends {
        client: (flow.source, flow.source_port),
        service: (flow.destination, flow.destination_port),
    };
    let sequence = surroundings.memory.cookies.issue(&ends, syn.sequence, mss, surroundings.now);
    let answer = Header {
        sequence,
        acknowledgement: syn.sequence.wrapping_add(1),
        offers: offering(mss.min(room(way_back, flow.source))),
        ..header(&flow.reversed(), Flags::SYN | Flags::ACK)
    };
    Some((hop, packet(answer)?))
}

/// What the two ends get in the place of a segment that is part of opening the connection at `place`.
pub fn segments<L: Link>(
    it: &mut Routed<'_, L::Frame>,
    (place, proxied): (Place, Proxied),
    surroundings: &mut Surroundings<'_, L>,
) -> Segments {
    let headers = headers(it, (place, proxied), surroundings).unwrap_or_default();
    headers.map(|it| it.and_then(|(hop, header)| Some((hop, packet(header)?))))
}

fn headers<L: Link>(
    it: &mut Routed<'_, L::Frame>,
    (place, proxied): (Place, Proxied),
    surroundings: &mut Surroundings<'_, L>,
) -> Option<[Option<(Hop, Header)>; 2]> {
    let Surroundings { snapshot, memory, .. } = surroundings;
    let flows = &mut memory.flows;
    let direction = match proxied {
        Proxied::Opened => Direction::Original,
        _ => Direction::Reply,
    };
    // The flow may have ended in this very burst, and another be where it was.
    if !flows.is_of(place, &it.packet.flow, direction) {
        return None;
    }
    let seen = Seen::of(it)?;
    let begun = flows.adjustments.begun(place.number())?;
    let server = snapshot.server(flows.state(place).server())?.hop;
    let (as_client, as_server) = (flows.original(place), flows.reply(place));
    // Of what comes from us: to the client, and to the server.
    let (to_client, to_server) = (as_client.reversed(), as_server.reversed());
    let client = snapshot.hop_to(as_client.source);
    let (ours, theirs) = (begun.ours.wrapping_add(1), begun.theirs.wrapping_add(1));
    Some(match proxied {
        Proxied::Opened => {
            let way_out = snapshot.interface(server.interface)?;
            let syn = Header {
                sequence: begun.theirs,
                window: begun.window,
                offers: offering(begun.mss.min(room(way_out, to_server.destination))),
                ..header(&to_server, Flags::SYN)
            };
            [Some((server, syn)), None]
        }
        Proxied::Accepted => {
            let accepted = Header {
                sequence: theirs,
                acknowledgement: seen.sequence.wrapping_add(1),
                window: begun.window,
                ..header(&to_server, Flags::ACK)
            };
            let room = Header {
                sequence: ours,
                acknowledgement: theirs,
                window: seen.window,
                ..header(&to_client, Flags::ACK)
            };
            [Some((server, accepted)), client.map(|hop| (hop, room))]
        }
        Proxied::Refused => {
            let refused = Header {
                sequence: ours,
                acknowledgement: theirs,
                ..header(&to_client, Flags::RST | Flags::ACK)
            };
            [client.map(|hop| (hop, refused)), None]
        }
        Proxied::Mistaken if seen.acknowledges => {
            let reset = Header { sequence: seen.acknowledgement, ..header(&to_server, Flags::RST) };
            [Some((server, reset)), None]
        }
        Proxied::Mistaken => [None, None],
    })
}

/// What matters of a segment.
struct Seen {
    sequence: u32,
    acknowledgement: u32,
    acknowledges: bool,
    window: u16,
    mss: Option<u16>,
}

impl Seen {
    fn of<F: Frame>(it: &mut Routed<'_, F>) -> Option<Self> {
        let segment = ip_packet(&mut it.frame).get_mut(usize::from(it.packet.transport)..)?;
        let tcp = Tcp::split(segment).ok()?;
        Some(Self {
            sequence: tcp.sequence(),
            acknowledgement: tcp.acknowledgement(),
            acknowledges: tcp.flags().acknowledges(),
            window: tcp.window(),
            mss: tcp.offers().mss,
        })
    }
}

/// A segment of `flow` with these control bits and nothing else.
fn header(flow: &Flow, flags: u8) -> Header {
    Header {
        source: flow.source,
        source_port: flow.source_port,
        destination: flow.destination,
        destination_port: flow.destination_port,
        sequence: 0,
        acknowledgement: 0,
        flags: Flags(flags),
        window: 0,
        offers: Offers::default(),
    }
}

fn offering(mss: u16) -> Offers {
    Offers { mss: Some(mss), ..Offers::default() }
}

/// What a segment over an interface can carry, in packets of the family of `peer`.
fn room(interface: &Interface, peer: Address) -> u16 {
    let ip = if peer.is_v4() { ipv4::HEADER } else { ipv6::HEADER };
    interface.mtu.saturating_sub((ip + tcp::HEADER) as u16)
}
