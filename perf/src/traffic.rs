//! The frames that are sent through the data plane, and the services that they are for.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use clap::ValueEnum;
use dataplane::snapshot::{Mode as ServerMode, Snapshot};
use dataplane::testing;
use dataplane::wire::checksum::Change;
use dataplane::wire::ethernet::{self, Ethernet, ethertype};
use dataplane::wire::tcp::{self, Flags};
use dataplane::wire::{Address, Mac, ipv4, ipv6, protocol};
use serde::{Deserialize, Serialize};

/// How packets reach the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Direct return.
    Dr,
    /// Destination translated, and the source on the way back.
    Nat,
    /// Both translated, both ways.
    Snat,
    /// Inside another packet.
    Tun,
}

impl Mode {
    /// As configurations and results spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dr => "dr",
            Self::Nat => "nat",
            Self::Snat => "snat",
            Self::Tun => "tun",
        }
    }

    /// Whether replies pass the appliance too.
    pub fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::Snat)
    }
}

/// The version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// RFC 791.
    Ipv4,
    /// RFC 8200.
    Ipv6,
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From a client to a server.
    Request,
    /// From a server to a client.
    Reply,
}

/// How long frames are on the wire, with their check sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// All the same, in bytes; at least what the headers take.
    Fixed(u16),
    /// Seven of 64 bytes, four of 594 and one of 1518 ("Internet mix").
    Imix,
}

/// Bytes of the check sequence at the end of a frame, which buffers do not hold.
const CHECK: u16 = 4;
/// What [`Size::Imix`] is made of, in an order that spreads the long ones.
const IMIX: [u16; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64];

impl Size {
    /// Of the frame with this number, in bytes of buffer.
    pub fn of(self, number: usize, family: Family) -> usize {
        let wire = match self {
            Self::Fixed(bytes) => bytes,
            Self::Imix => IMIX[number % IMIX.len()],
        };
        usize::from(wire.saturating_sub(CHECK)).max(headers(family))
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fixed = text.parse().ok().filter(|bytes| (64..=1518).contains(bytes));
        match (text, fixed) {
            ("imix", _) => Ok(Self::Imix),
            (_, Some(bytes)) => Ok(Self::Fixed(bytes)),
            _ => Err(format!("expected 64 to 1518 bytes, or imix, found {text:?}")),
        }
    }
}

/// Bytes of the headers of a segment without data.
pub fn headers(family: Family) -> usize {
    ethernet::HEADER
        + tcp::HEADER
        + match family {
            Family::Ipv4 => ipv4::HEADER,
            Family::Ipv6 => ipv6::HEADER,
        }
}

/// The services, their servers and their clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scene {
    /// How packets reach the servers.
    pub mode: Mode,
    /// The version of IP, inside and outside.
    pub family: Family,
    /// Flows, evenly over all services.
    pub flows: u32,
    /// Services.
    pub services: u32,
    /// Servers of each service.
    pub servers: u32,
}

/// Virtual addresses that services share; each has as many ports as it needs.
const VIRTUAL_ADDRESSES: u32 = 100;
/// The port of the first service on each address.
const FIRST_PORT: u16 = 1_000;
/// Clients' addresses: RFC 2544's range for benchmarks, 198.18.0.0/15.
pub const CLIENTS: u32 = 1 << 17;
/// Where servers listen.
const SERVER_PORT: u16 = 8_080;

impl Scene {
    /// The configuration that serves it.
    pub fn snapshot(&self) -> Snapshot {
        let mut text = String::new();
        for service in 0..self.services {
            let (address, port) = self.virtual_address(service);
            let _ = write!(text, "{}:{port} {}", bracketed(address), self.mode.name());
            for server in 0..self.servers {
                let address = bracketed(self.server(service * self.servers + server));
                let port =
                    if self.mode.translates() { format!(":{SERVER_PORT}") } else { "".into() };
                let _ = write!(text, " {address}{port}");
            }
            text.push('\n');
        }
        let mut snapshot = testing::snapshot(&text);
        if self.mode == Mode::Snat {
            self.add_sources(&mut snapshot);
        }
        snapshot
    }

    /// Source addresses enough for all flows, with half of their ports to spare.
    fn add_sources(&self, snapshot: &mut Snapshot) {
        let per_source = self.services * self.servers * (49_152 / 2);
        let sources: Vec<Address> =
            (0..self.flows.div_ceil(per_source)).map(|number| self.inside(4, number)).collect();
        if let Some(locals) = Arc::get_mut(&mut snapshot.locals) {
            locals.extend(&sources);
        }
        if let Some(services) = Arc::get_mut(&mut snapshot.services) {
            sources.iter().for_each(|source| services.expect_replies_to(*source));
        }
        let servers = Arc::get_mut(&mut snapshot.servers).into_iter().flatten();
        for server in servers.flatten() {
            if let ServerMode::Snat { sources: of_server, .. } = &mut server.mode {
                *of_server = sources.clone().into();
            }
        }
    }

    /// Where the service with this number is published.
    pub fn virtual_address(&self, service: u32) -> (Address, u16) {
        let (host, port) = (1 + service % VIRTUAL_ADDRESSES, service / VIRTUAL_ADDRESSES);
        let address = match self.family {
            Family::Ipv4 => Ipv4Addr::new(198, 51, 100, host as u8).into(),
            Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, host as u16).into(),
        };
        (address, FIRST_PORT + port as u16)
    }

    /// The address of the server with this number, over all services.
    pub fn server(&self, number: u32) -> Address {
        self.inside(16, number)
    }

    /// An address on the servers' subnet, in the range that begins at 10.0.`third`.1.
    fn inside(&self, third: u16, number: u32) -> Address {
        let (high, low) = (third + (number / 250) as u16, 1 + (number % 250) as u16);
        match self.family {
            Family::Ipv4 => Ipv4Addr::new(10, 0, high as u8, low as u8).into(),
            Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 1, high, low).into(),
        }
    }

    /// The two ends of a flow, as the client knows them.
    #[inline]
    pub fn ends(&self, flow: u32) -> Ends {
        let (host, port) = (flow % CLIENTS, 1_024 + (flow / CLIENTS) as u16);
        let client = match self.family {
            Family::Ipv4 => Ipv4Addr::from_bits(0xc612_0000 | host).into(),
            Family::Ipv6 => {
                let client = Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 0).to_bits();
                Ipv6Addr::from_bits(client | u128::from(host)).into()
            }
        };
        Ends { source: (client, port), destination: self.virtual_address(flow % self.services) }
    }
}

fn bracketed(address: Address) -> String {
    if address.is_v4() { address.to_string() } else { format!("[{address}]") }
}

/// Who sends a packet, and whom it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Address and port of the sender.
    pub source: (Address, u16),
    /// Address and port of the receiver.
    pub destination: (Address, u16),
}

impl Ends {
    /// Of the packet that answers.
    pub fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }

    /// Of a frame that the data plane has sent, if it is one of IPv4 or IPv6 without options.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let (ip, family) = match u16::from_be_bytes(*frame.get(12..)?.first_chunk()?) {
            ethertype::IPV4 => (14 + 12, 4),
            ethertype::IPV6 => (14 + 8, 16),
            _ => return None,
        };
        let address = |at: usize| -> Option<Address> {
            match family {
                4 => Some(Ipv4Addr::from(*frame.get(at..)?.first_chunk::<4>()?).into()),
                _ => Some(Ipv6Addr::from(*frame.get(at..)?.first_chunk::<16>()?).into()),
            }
        };
        let port = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
        let ports = ip + 2 * family;
        Some(Self {
            source: (address(ip)?, port(ports)?),
            destination: (address(ip + family)?, port(ports + 2)?),
        })
    }
}

/// The longest headers of [`write`], in bytes.
pub const MOST_HEADERS: usize = ethernet::HEADER + ipv6::HEADER + tcp::HEADER;

/// Writes the headers of a segment whose frame is `length` bytes long and whose data are zeroes; returns
/// how many bytes they take.
pub fn write(to: &mut [u8], macs: [Mac; 2], ends: Ends, flags: u8, length: usize) -> usize {
    let v4 = ends.destination.0.is_v4();
    let ip_length = if v4 { ipv4::HEADER } else { ipv6::HEADER };
    let data = (length - ethernet::HEADER - ip_length - tcp::HEADER) as u16;
    // A frame of the least size has padding, not data.
    let data = if data <= 6 { 0 } else { data };
    let transport = ethernet::HEADER + ip_length;
    if let Ok((mut ethernet, _)) = Ethernet::split(to) {
        let kind = if v4 { ethertype::IPV4 } else { ethertype::IPV6 };
        ethernet.write(macs[0], macs[1], kind);
    }
    let (Ends { source, destination }, segment) = (ends, tcp::HEADER as u16 + data);
    match (source.0.v4(), destination.0.v4()) {
        (Some(source), Some(destination)) => {
            let header = ipv4::Header {
                type_of_service: 0,
                total_length: ipv4::HEADER as u16 + segment,
                identification: 0,
                dont_fragment: true,
                protocol: protocol::TCP,
                source,
                destination,
            };
            to[ethernet::HEADER..transport].copy_from_slice(&header.to_bytes());
        }
        _ => {
            let header = ipv6::Header {
                traffic_class: 0,
                flow_label: 0,
                payload_length: segment,
                next_header: protocol::TCP,
                hop_limit: 64,
                source: source.0,
                destination: destination.0,
            };
            to[ethernet::HEADER..transport].copy_from_slice(&header.to_bytes());
        }
    }
    let header = tcp::Header {
        source: source.0,
        source_port: source.1,
        destination: destination.0,
        destination_port: destination.1,
        sequence: 1,
        acknowledgement: if flags == Flags::SYN { 0 } else { 1 },
        flags: Flags(flags),
        window: 65_535,
        offers: Default::default(),
    };
    let end = transport + tcp::HEADER;
    to[transport..end].copy_from_slice(&header.to_bytes());
    // The length stands in the pseudo-header; data of zeroes change nothing else.
    let checksum = &mut to[transport + 16..transport + 18];
    let of_header = u16::from_be_bytes([checksum[0], checksum[1]]);
    let change = Change::default().word(tcp::HEADER as u16, segment);
    checksum.copy_from_slice(&change.mend(of_header).to_be_bytes());
    end
}
