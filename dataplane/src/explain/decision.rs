//! Decisions, as data and in words.

use std::fmt;

use crate::classify::Belongs;
use crate::counters::Reason;
use crate::frame::Frame;
use crate::lookup::flow_table::WorkerId;
use crate::parse::{self, Content, Flow, Packet, Part};
use crate::punt::{Class, FlowState};
use crate::snapshot::{
    Admission, Encapsulation, InterfaceId, Protocol, Scheduler, ServerId, ServiceId, Snapshot,
};
use crate::wire::{Address, Mac, tcp};

/// One decision about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The frame came in on an interface.
    Arrived {
        /// Which.
        interface: InterfaceId,
        /// The interface's VLAN.
        vlan: Option<u16>,
    },
    /// What the frame carries.
    Read(Carried),
    /// Whom the packet belongs to.
    Belongs(Owner),
    /// No server takes the flow, and the control plane has a page for it.
    Page,
    /// The control plane gets it.
    Punted(Class),
    /// Its flow is known.
    KnownFlow {
        /// The flow's server; [`ServerId::NONE`] if it belongs to none.
        server: ServerId,
        /// How far the connection has come.
        state: Option<FlowState>,
    },
    /// Its flow was known, and ends here.
    FlowEnds {
        /// The server that it had.
        server: ServerId,
        /// Whether the client begins anew; else the server is gone.
        opens_again: bool,
    },
    /// Its flow is not known.
    NewFlow {
        /// Whether the connection has begun elsewhere or was forgotten.
        in_mid_flow: bool,
    },
    /// The service's limits let it in.
    WithinLimits {
        /// New flows in a second; 0 is no limit.
        new_flows: u32,
        /// New flows in a second from this client's network; 0 is no limit.
        new_flows_per_client: u32,
    },
    /// A control connection has announced it.
    Announced {
        /// The server that has the control connection.
        server: ServerId,
    },
    /// The service has as many half-open flows as it may.
    Flooded {
        /// How many that is.
        most: u32,
    },
    /// The client has no server to return to.
    NotPersistent {
        /// Whether it had one, which takes no new flows.
        was_known: bool,
    },
    /// The client has a server to return to from now on.
    Persistent {
        /// Which.
        server: ServerId,
        /// Whether it had this one before.
        returns: bool,
        /// For how long, in seconds.
        timeout: u32,
    },
    /// The scheduler chose a server.
    Scheduled {
        /// Which.
        server: ServerId,
        /// How.
        scheduler: Scheduler,
        /// The server's weight.
        weight: u16,
        /// How many servers there were to choose from.
        candidates: u16,
    },
    /// The hash that all workers and nodes agree on chose a server.
    Agreed {
        /// Which.
        server: ServerId,
    },
    /// That server could not tell the flow from another; another one is tried.
    Ambiguous {
        /// Which.
        server: ServerId,
    },
    /// The flow table has no room.
    TableFull,
    /// The server that the packet goes to.
    Server {
        /// Which.
        server: ServerId,
        /// Its address.
        address: Address,
        /// Which flows it takes.
        admission: Admission,
        /// How many connections it has.
        connections: u32,
        /// How many it may have; 0 is no limit.
        most: u32,
    },
    /// The flow would be remembered.
    Remembered {
        /// For how long without a packet.
        milliseconds: u32,
    },
    /// The packet goes on and its flow is not remembered.
    NotRemembered,
    /// Another worker has the flow.
    HandedOver(WorkerId),
    /// Nothing but the hardware addresses changes (DR).
    DirectReturn,
    /// The packet travels inside another (TUN).
    Encapsulated {
        /// The outer source.
        source: Address,
        /// The outer destination.
        destination: Address,
        /// What goes between the two.
        encapsulation: Encapsulation,
    },
    /// Addresses and ports change.
    Translated {
        /// Who it comes from, before and after.
        source: ((Address, u16), (Address, u16)),
        /// Whom it is for, before and after.
        destination: ((Address, u16), (Address, u16)),
    },
    /// The packet goes on as it is.
    Onward,
    /// The number of routers that it may still pass changes.
    HopsLeft {
        /// Before.
        before: u8,
        /// After.
        after: u8,
    },
    /// TCP's numbers change, because something was put into the connection or taken out.
    Renumbered {
        /// Sequence number, before and after.
        sequence: (u32, u32),
        /// Acknowledgement number, before and after.
        acknowledgement: (u32, u32),
    },
    /// The length of the packet changes, in bytes.
    Length {
        /// Before.
        before: u16,
        /// After.
        after: u16,
    },
    /// Both ends of the connection are reset.
    Reset,
    /// The client gets a SYN cookie.
    Challenged,
    /// It is part of opening a connection whose client has shown its cookie.
    Proxied,
    /// No route leads there, and the sender is told so.
    Unreachable,
    /// A packet of our own goes to somebody.
    Answered {
        /// To whom.
        to: Address,
    },
    /// The hardware addresses change.
    Readdressed {
        /// Sender, before and after.
        source: (Mac, Mac),
        /// Receiver, before and after.
        destination: (Mac, Mac),
    },
    /// The packet waits until a neighbour's hardware address is known.
    Waits {
        /// Whose.
        neighbour: Address,
    },
    /// The packet leaves in parts.
    Fragmented {
        /// The longest packet that fits, in bytes.
        mtu: u16,
    },
    /// The packet leaves.
    Leaves {
        /// On which interface.
        interface: InterfaceId,
        /// The interface's VLAN.
        vlan: Option<u16>,
        /// The next station.
        next: Address,
        /// The packet's length, in bytes.
        length: u16,
    },
    /// The packet is dropped.
    Dropped(Reason),
}

/// Whom a packet belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A virtual service.
    Service(ServiceId),
    /// Perhaps a port that a helper has opened.
    Helper,
    /// A translated flow, whose packets come back.
    Reply,
    /// A station with an outside address of its own.
    Inward(Address),
    /// Nobody here: it passes through.
    Through,
    /// The flow that an ICMP error is about.
    Error,
}

/// What a frame carries, with all there is to say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// An ARP message.
    Arp,
    /// A message of neighbour discovery.
    Neighbour,
    /// An ICMP message that is neither an echo nor an error.
    Icmp {
        /// Whom it is for.
        destination: Address,
    },
    /// An ICMP error about a packet of a flow.
    Error(parse::Error),
    /// A packet of a flow.
    Flow(Packet),
    /// A packet of some other protocol.
    Other(Packet),
}

impl Carried {
    pub(super) fn of(content: Content, packet: &Packet, frame: &mut impl Frame) -> Self {
        let icmp = Self::Icmp { destination: packet.flow.destination };
        match content {
            Content::Arp => Self::Arp,
            Content::Neighbour => Self::Neighbour,
            Content::Icmp => icmp,
            Content::Error => parse::error(packet, frame).map_or(icmp, Self::Error),
            Content::Flow => Self::Flow(*packet),
            Content::Other => Self::Other(*packet),
        }
    }
}

impl Owner {
    pub(super) fn of(belongs: &Belongs<'_>, packet: &Packet, snapshot: &Snapshot) -> Self {
        let destination = packet.flow.destination;
        match belongs {
            // A dry run recognises nothing, so that it can say why.
            Belongs::Known | Belongs::Reply => Self::Reply,
            Belongs::To(service) => Self::Service(service.id),
            Belongs::Data => Self::Helper,
            Belongs::Inward => {
                Self::Inward(snapshot.nat.inside_of(destination).unwrap_or(destination))
            }
            Belongs::Through => Self::Through,
            Belongs::Error => Self::Error,
        }
    }
}

impl Decision {
    /// Its name in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Arrived { .. } => "arrived",
            Self::Read(_) => "read",
            Self::Belongs(_) => "belongs",
            Self::Page => "page",
            Self::Punted(_) => "punted",
            Self::KnownFlow { .. } => "known_flow",
            Self::FlowEnds { .. } => "flow_ends",
            Self::NewFlow { .. } => "new_flow",
            Self::WithinLimits { .. } => "within_limits",
            Self::Announced { .. } => "announced",
            Self::Flooded { .. } => "flooded",
            Self::NotPersistent { .. } => "not_persistent",
            Self::Persistent { .. } => "persistent",
            Self::Scheduled { .. } => "scheduled",
            Self::Agreed { .. } => "agreed",
            Self::Ambiguous { .. } => "ambiguous",
            Self::TableFull => "table_full",
            Self::Server { .. } => "server",
            Self::Remembered { .. } => "remembered",
            Self::NotRemembered => "not_remembered",
            Self::HandedOver(_) => "handed_over",
            Self::DirectReturn => "direct_return",
            Self::Encapsulated { .. } => "encapsulated",
            Self::Translated { .. } => "translated",
            Self::Onward => "onward",
            Self::HopsLeft { .. } => "hops_left",
            Self::Renumbered { .. } => "renumbered",
            Self::Length { .. } => "length",
            Self::Reset => "reset",
            Self::Challenged => "challenged",
            Self::Proxied => "proxied",
            Self::Unreachable => "unreachable",
            Self::Answered { .. } => "answered",
            Self::Readdressed { .. } => "readdressed",
            Self::Waits { .. } => "waits",
            Self::Fragmented { .. } => "fragmented",
            Self::Leaves { .. } => "leaves",
            Self::Dropped(_) => "dropped",
        }
    }

    /// The server that it chose or found.
    pub fn server(&self) -> Option<ServerId> {
        let server = match *self {
            Self::KnownFlow { server, .. }
            | Self::Persistent { server, .. }
            | Self::Scheduled { server, .. }
            | Self::Server { server, .. }
            | Self::Announced { server }
            | Self::Agreed { server } => server,
            _ => return None,
        };
        (server != ServerId::NONE).then_some(server)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Arrived { interface, vlan: None } => {
                write!(f, "comes in on interface {}", interface.0)
            }
            Self::Arrived { interface, vlan: Some(vlan) } => {
                write!(f, "comes in on interface {}, VLAN {vlan}", interface.0)
            }
            Self::Read(content) => read(f, content),
            Self::Belongs(owner) => owner.fmt(f),
            Self::Page => f.write_str("no server takes it, and the service has a page of ours"),
            Self::Punted(Class::Arp) => f.write_str("goes to the control plane: ARP"),
            Self::Punted(Class::Neighbour) => {
                f.write_str("goes to the control plane: neighbour discovery")
            }
            Self::Punted(Class::Icmp) => {
                f.write_str("goes to the control plane: ICMP for an address of ours")
            }
            Self::Punted(Class::Answer) => {
                f.write_str("goes to the control plane: it belongs to a conversation of ours")
            }
            Self::Punted(Class::Local) => f.write_str("goes to the control plane: it is for us"),
            Self::KnownFlow { state, .. } => {
                write!(f, "its flow is known: {}", state.map_or("over", FlowState::name))
            }
            Self::FlowEnds { opens_again: true, .. } => {
                f.write_str("its flow was closing, and a SYN begins another")
            }
            Self::FlowEnds { opens_again: false, .. } => {
                f.write_str("its flow ends, because the server is gone")
            }
            Self::NewFlow { in_mid_flow: false } => f.write_str("begins a new flow"),
            Self::NewFlow { in_mid_flow: true } => {
                f.write_str("is in the middle of a connection that is not known here")
            }
            Self::WithinLimits { new_flows: 0, new_flows_per_client: 0 } => {
                f.write_str("new flows are not limited")
            }
            Self::WithinLimits { new_flows, new_flows_per_client } => {
                f.write_str("new flows are within the limits:")?;
                let limits = [(new_flows, ""), (new_flows_per_client, " from a client's network")];
                let mut and = " ";
                for (rate, whose) in limits.into_iter().filter(|&(rate, _)| rate > 0) {
                    write!(f, "{and}{rate} a second{whose}")?;
                    and = " and ";
                }
                Ok(())
            }
            Self::Announced { .. } => {
                f.write_str("opens a connection that an FTP control connection has announced")
            }
            Self::Flooded { most } => {
                write!(f, "the service has {most} half-open flows, as many as it may")
            }
            Self::NotPersistent { was_known: false } => {
                f.write_str("the client has no server to return to")
            }
            Self::NotPersistent { was_known: true } => {
                f.write_str("the server that the client had takes no new flows")
            }
            Self::Persistent { returns: true, timeout, .. } => {
                write!(
                    f,
                    "the client returns to the server it had, remembered for {timeout} s more"
                )
            }
            Self::Persistent { returns: false, timeout, .. } => {
                write!(f, "the client is to return to this server, remembered for {timeout} s")
            }
            Self::Scheduled { scheduler, weight, candidates, .. } => {
                write!(f, "{}: a server of weight {weight}", method(scheduler))?;
                write!(f, ", one of {candidates} that take new flows")
            }
            Self::Agreed { .. } => {
                f.write_str("the hash that all nodes agree on chooses the server")
            }
            Self::Ambiguous { .. } => {
                f.write_str("that server could not tell this flow from another one")
            }
            Self::TableFull => f.write_str("the flow table has no room"),
            Self::Server { address, admission, connections, most, .. } => {
                let takes = match admission {
                    Admission::Open => "takes new flows",
                    Admission::Draining => "drains",
                    Admission::Halted => "is halted",
                };
                write!(f, "server {address} {takes} and has {connections} connections")?;
                if most > 0 { write!(f, " of {most} at most") } else { Ok(()) }
            }
            Self::Remembered { milliseconds } => {
                write!(f, "the flow is remembered for {} s", milliseconds / 1_000)
            }
            Self::NotRemembered => f.write_str("the flow is not remembered"),
            Self::HandedOver(worker) => write!(f, "is handed over to worker {}", worker.0),
            Self::DirectReturn => {
                f.write_str("direct return: nothing but hardware addresses changes")
            }
            Self::Encapsulated { source, destination, encapsulation } => {
                write!(f, "travels inside a packet from {source} to {destination}")?;
                match encapsulation {
                    Encapsulation::Ip => Ok(()),
                    Encapsulation::Gue(port) => write!(f, ", UDP port {port} (GUE)"),
                }
            }
            Self::Translated { source, destination } => {
                f.write_str("is translated:")?;
                change(f, " source", source)?;
                change(f, " destination", destination)
            }
            Self::Onward => f.write_str("goes on as it is"),
            Self::HopsLeft { before, after } => {
                write!(f, "may pass {after} more routers, before it was {before}")
            }
            Self::Renumbered { sequence, acknowledgement } => {
                write!(f, "sequence number {} becomes {}", sequence.0, sequence.1)?;
                write!(f, ", acknowledgement {} becomes {}", acknowledgement.0, acknowledgement.1)
            }
            Self::Length { before, after } => {
                write!(f, "{before} bytes become {after}")
            }
            Self::Reset => f.write_str("both ends of the connection are reset"),
            Self::Challenged => f.write_str("the client gets a SYN cookie"),
            Self::Proxied => f.write_str("the connection is opened in the client's stead"),
            Self::Unreachable => f.write_str("no route leads there; the sender is told so"),
            Self::Answered { to } => write!(f, "a packet of our own goes to {to}"),
            Self::Readdressed { source, destination } => {
                write!(f, "hardware addresses: from {} becomes from {}", source.0, source.1)?;
                write!(f, ", to {} becomes to {}", destination.0, destination.1)
            }
            Self::Waits { neighbour } => {
                write!(f, "waits until the hardware address of {neighbour} is known")
            }
            Self::Fragmented { mtu } => write!(f, "leaves in parts of {mtu} bytes at most"),
            Self::Leaves { interface, vlan, next, length } => {
                write!(f, "leaves on interface {}", interface.0)?;
                if let Some(vlan) = vlan {
                    write!(f, ", VLAN {vlan}")?;
                }
                write!(f, ", to {next}, {length} bytes")
            }
            Self::Dropped(reason) => {
                write!(f, "is dropped ({}): {}", reason.name(), reason.explanation())
            }
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(id) => write!(f, "is for the virtual service in slot {}", id.slot()),
            Self::Helper => f.write_str("is for a port that a helper may have opened"),
            Self::Reply => f.write_str("may be a reply to a translated flow"),
            Self::Inward(inside) => write!(f, "is for the outside address of {inside}"),
            Self::Through => f.write_str("passes through us as a router"),
            Self::Error => f.write_str("is an error about a packet that passed here"),
        }
    }
}

/// An end with its port, as it is written before a port number.
struct End((Address, u16));

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, port) = self.0;
        if address.is_v4() {
            write!(f, "{address}:{port}")
        } else {
            write!(f, "[{address}]:{port}")
        }
    }
}

fn change(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    (before, after): ((Address, u16), (Address, u16)),
) -> fmt::Result {
    if before == after {
        return write!(f, "{what} stays {}", End(before));
    }
    write!(f, "{what} {} becomes {}", End(before), End(after))
}

fn read(f: &mut fmt::Formatter<'_>, content: Carried) -> fmt::Result {
    match content {
        Carried::Arp => f.write_str("carries ARP"),
        Carried::Neighbour => f.write_str("carries neighbour discovery"),
        Carried::Icmp { destination } => write!(f, "carries an ICMP message for {destination}"),
        Carried::Error(error) => {
            write!(f, "carries an ICMP error from {} about ", error.source)?;
            flow(f, &error.quoted)
        }
        Carried::Flow(packet) => {
            f.write_str("carries ")?;
            flow(f, &packet.flow)?;
            about(f, &packet)
        }
        Carried::Other(Packet { flow, length, .. }) => {
            write!(f, "carries neither TCP nor UDP")?;
            write!(f, " from {} to {}, {length} bytes", flow.source, flow.destination)
        }
    }
}

fn flow(f: &mut fmt::Formatter<'_>, flow: &Flow) -> fmt::Result {
    let protocol = match flow.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Echo => {
            return write!(f, "an ICMP echo from {} to {}", flow.source, flow.destination);
        }
    };
    let [from, to] = [(flow.source, flow.source_port), (flow.destination, flow.destination_port)];
    write!(f, "{protocol} from {} to {}", End(from), End(to))
}

fn about(f: &mut fmt::Formatter<'_>, packet: &Packet) -> fmt::Result {
    let bits = [
        (tcp::Flags::SYN, "SYN"),
        (tcp::Flags::FIN, "FIN"),
        (tcp::Flags::RST, "RST"),
        (tcp::Flags::ACK, "ACK"),
    ];
    for (_, name) in bits.into_iter().filter(|&(bit, _)| packet.flags.0 & bit != 0) {
        write!(f, " {name}")?;
    }
    match packet.part {
        Part::Whole => {}
        Part::First => f.write_str(", the first of several parts")?,
        Part::Later => f.write_str(", a later part")?,
    }
    write!(f, ", {} bytes", packet.length)
}

fn method(scheduler: Scheduler) -> &'static str {
    match scheduler {
        Scheduler::RoundRobin => "round robin",
        Scheduler::WeightedRoundRobin => "weighted round robin",
        Scheduler::LeastConnection => "least connections",
        Scheduler::WeightedLeastConnection => "least connections by weight",
        Scheduler::SourceHash => "by the client's address",
        Scheduler::DestinationHash => "by the virtual address",
        Scheduler::Maglev => "by addresses and ports",
        Scheduler::OnePacket => "each datagram on its own",
    }
}
