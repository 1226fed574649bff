//! Everybody whom a guest with two cards meets: a client behind a router and a server on its
//! first wire, another server on its second. Run by tests/host/boot-pci-test, which boots the
//! guest; there `sluice` owns the cards. The guest says over a serial line what is to be tried,
//! and is answered whether all of it was as it should be.
//!
//! usage: peers FOLDER     where the sockets are: `wan` and `lan` for frames, `talk` for words

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sluice_tests::books::Books;
use sluice_tests::cable::{Cable, Station};
use sluice_tests::decode::{Ends, Packet, Transport, internet_checksum};

/// How long an answer may take. The guest's processor is emulated, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a card may take from its start to its first answer.
const LINK_PATIENCE: Duration = Duration::from_secs(20);
/// How long silence is waited for.
const SILENCE: Duration = Duration::from_millis(300);

const ROUTER: Station = station(0x01, [10, 1, 0, 1]);
const DIRECT_SERVER: Station = station(0x21, [10, 1, 0, 21]);
const TRANSLATED_SERVER: Station = station(0x11, [10, 2, 0, 11]);

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
// As tests/configs/cards.toml has them.
const OWN: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 2, 0, 2)];
const DIRECT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 100), 53);
const TRANSLATED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 101), 53);
const TRANSLATED_TO: SocketAddrV4 = SocketAddrV4::new(TRANSLATED_SERVER.address, 5353);
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 77);

const fn station(last: u8, address: [u8; 4]) -> Station {
    let [a, b, c, d] = address;
    Station { mac: [2, 0, 0, 0, 0, last], address: Ipv4Addr::new(a, b, c, d) }
}

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: peers FOLDER");
        return ExitCode::from(2);
    };
    match serve(Path::new(&folder)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("peers: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the guest asks for until it is gone. Whether it asked for something and all of it
/// was as it should be.
fn serve(folder: &Path) -> std::io::Result<bool> {
    let wan = Cable::into_guest(folder, "wan", &[ROUTER, DIRECT_SERVER])?;
    let lan = Cable::into_guest(folder, "lan", &[TRANSLATED_SERVER])?;
    let (guest, _) = UnixListener::bind(folder.join("talk"))?.accept()?;
    let mut guest = Guest::new(guest)?;
    let mut verdicts = Vec::new();
    while let Some(line) = guest.hears() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let judge = Judge::new(&wan, &lan);
        let verdict = match words[..] {
            ["forwards", occasion, wan_mac, lan_mac] => {
                judge.forwards(occasion, [wan_mac, lan_mac])
            }
            ["forget"] => judge.forget(),
            ["books", occasion] => {
                let answers = [guest.hears(), guest.hears()];
                judge.books(occasion, answers.map(Option::unwrap_or_default))
            }
            _ => {
                println!("FAIL: the guest said {line:?}, which means nothing here");
                false
            }
        };
        verdicts.push(verdict);
        guest.is_told(if verdict { "yes" } else { "no" })?;
    }
    Ok(!verdicts.is_empty() && verdicts.iter().all(|verdict| *verdict))
}

/// The other end of the serial line.
struct Guest {
    words: UnixStream,
    lines: std::io::Lines<BufReader<UnixStream>>,
}

impl Guest {
    fn new(words: UnixStream) -> std::io::Result<Self> {
        Ok(Self { lines: BufReader::new(words.try_clone()?).lines(), words })
    }

    /// The next line; none when the guest is gone.
    fn hears(&mut self) -> Option<String> {
        self.lines.next()?.ok().map(|line| line.trim_end_matches('\r').to_owned())
    }

    fn is_told(&mut self, word: &str) -> std::io::Result<()> {
        writeln!(self.words, "{word}")
    }
}

/// Tries things, and says what came of them.
struct Judge<'w> {
    wan: &'w Cable,
    lan: &'w Cable,
    failed: bool,
}

impl<'w> Judge<'w> {
    fn new(wan: &'w Cable, lan: &'w Cable) -> Self {
        Self { wan, lan, failed: false }
    }

    /// One verdict.
    fn check(&mut self, occasion: &str, fact: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => println!("ok: {occasion}: {fact}"),
            Err(why) => {
                println!("FAIL: {occasion}: {fact}: {why}");
                self.failed = true;
            }
        }
    }

    /// Whether the appliance on the two cards does everything it is there for.
    fn forwards(mut self, occasion: &str, macs: [&str; 2]) -> bool {
        let [Some(wan), Some(lan)] = macs.map(mac_of) else {
            println!("FAIL: {occasion}: {macs:?} are not hardware addresses");
            return false;
        };
        let trial = Trial { wan: self.wan, lan: self.lan, wan_mac: wan, lan_mac: lan };
        self.check(occasion, "each card answers for its own address", trial.own_addresses());
        if self.failed {
            return false; // whatever follows would only wait for nothing
        }
        self.check(occasion, "and for virtual addresses", trial.virtual_addresses());
        self.check(occasion, "and for nobody else", trial.strangers());
        self.check(occasion, "ICMP echo is answered", trial.echo());
        let name = "direct return changes hardware addresses and nothing else";
        self.check(occasion, name, trial.direct_return());
        self.check(occasion, "the server was found by ARP", trial.server_was_asked_for());
        let name = "NAT translates UDP requests and replies, with right checksums";
        self.check(occasion, name, trial.translated_udp());
        let name = "NAT translates a TCP connection, with right checksums";
        self.check(occasion, name, trial.translated_tcp());
        self.check(
            occasion,
            "of 3000 frames on the way at once by 32, none is lost",
            trial.burst(),
        );
        !self.failed
    }

    /// Whatever has been on the wires until now.
    fn forget(self) -> bool {
        self.wan.forget();
        self.lan.forget();
        true
    }

    /// Whether every frame is accounted for.
    fn books(mut self, occasion: &str, [counters, status]: [String; 2]) -> bool {
        let books = || -> Result<(), String> {
            let counters =
                serde_json::from_str(&counters).map_err(|why| format!("{why}: {counters}"))?;
            let status = serde_json::from_str(&status).map_err(|why| format!("{why}: {status}"))?;
            let books = Books::of(&counters, &status);
            let (came, left) = (books.received + books.injected, books.transmitted + books.punted);
            if came == left + books.dropped_in_all() + books.waiting && books.received > 3000 {
                return Ok(());
            }
            Err(format!("{books}"))
        };
        self.check(occasion, "the books balance", books());
        !self.failed
    }
}

fn mac_of(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// One occasion, and the addresses that the kernel read from the cards before they were taken.
struct Trial<'w> {
    wan: &'w Cable,
    lan: &'w Cable,
    wan_mac: [u8; 6],
    lan_mac: [u8; 6],
}

impl Trial<'_> {
    /// The first to be tried, so cards may still be waiting for their link.
    fn own_addresses(&self) -> Result<(), String> {
        let wires = [
            (self.wan, ROUTER, OWN[0], self.wan_mac),
            (self.lan, TRANSLATED_SERVER, OWN[1], self.lan_mac),
        ];
        for (wire, who, address, mac) in wires {
            let end = Instant::now() + LINK_PATIENCE;
            let mut found = None;
            while found.is_none() && Instant::now() < end {
                found = wire.resolve(who, address, Duration::from_millis(500))?;
            }
            expect(&format!("for {address}"), found, Some(mac))?;
        }
        Ok(())
    }

    fn virtual_addresses(&self) -> Result<(), String> {
        for address in [*DIRECT.ip(), *TRANSLATED.ip()] {
            let found = self.wan.resolve(ROUTER, address, PATIENCE)?;
            expect(&format!("for {address}"), found, Some(self.wan_mac))?;
        }
        Ok(())
    }

    fn strangers(&self) -> Result<(), String> {
        expect("for a stranger", self.wan.resolve(ROUTER, STRANGER, SILENCE)?, None)
    }

    fn echo(&self) -> Result<(), String> {
        let wires = [
            (self.wan, ROUTER, OWN[0], self.wan_mac),
            (self.lan, TRANSLATED_SERVER, OWN[1], self.lan_mac),
        ];
        for (wire, who, address, mac) in wires {
            for length in [0, 1, 56, 1472] {
                let data = data(length, length as u8);
                wire.send(&echo_request(who, mac, address, &data))?;
                let answered = wire.find(PATIENCE, |frame| {
                    let packet = sound(frame).ok()?;
                    let Transport::Icmp { kind: 0, code: 0, rest } = &packet.transport else {
                        return None;
                    };
                    let fits = packet.source_address() == address
                        && packet.destination_address() == who.address
                        && packet.ethernet.source == mac
                        && packet.ethernet.destination == who.mac
                        && rest[4..] == data;
                    fits.then_some(())
                });
                answered.ok_or_else(|| format!("{address} does not answer {length} bytes"))?;
            }
        }
        Ok(())
    }

    fn direct_return(&self) -> Result<(), String> {
        for length in [0, 1, 2, 18, 19, 500, 1471, 1472] {
            let sent = self.client_to(40_000 + length as u16, DIRECT).udp(&data(length, 3));
            let expected = self.forwarded(&sent);
            self.wan.send(&sent)?;
            let came = self.wan.find(PATIENCE, |frame| {
                (frame.get(..6) == Some(&DIRECT_SERVER.mac)).then(|| frame.to_vec())
            });
            expect(&format!("with {length} bytes"), came, Some(expected))?;
        }
        Ok(())
    }

    /// What the server is to get of a frame for the DR service.
    fn forwarded(&self, sent: &[u8]) -> Vec<u8> {
        let mut expected = [&DIRECT_SERVER.mac, &self.wan_mac, &sent[12..]].concat();
        expected.resize(expected.len().max(60), 0);
        expected
    }

    fn server_was_asked_for(&self) -> Result<(), String> {
        let asked = self.wan.asked_for(DIRECT_SERVER.address);
        let own = Station { mac: self.wan_mac, address: OWN[0] };
        if asked.contains(&own) {
            return Ok(());
        }
        Err(format!("expected a question of {own:?}, found {asked:?}"))
    }

    fn translated_udp(&self) -> Result<(), String> {
        for (index, length) in [0, 1, 2, 3, 501, 1471, 1472].into_iter().enumerate() {
            let client = SocketAddrV4::new(CLIENT, 41_000 + index as u16);
            let request = data(length, 5);
            self.wan.send(&self.client_to(client.port(), TRANSLATED).udp(&request))?;
            let came = self.at_server(client)?;
            expect("the request", came.data(), Some(&request[..]))?;
            let reply = data(length, 9);
            self.lan.send(&self.server_to(client).udp(&reply))?;
            let came = self.at_client(client)?;
            expect("the reply", came.data(), Some(&reply[..]))?;
        }
        Ok(())
    }

    fn translated_tcp(&self) -> Result<(), String> {
        let client = SocketAddrV4::new(CLIENT, 42_000);
        let there = self.client_to(client.port(), TRANSLATED);
        let back = self.server_to(client);
        let (request, reply) = (data(1460, 11), data(1459, 13));
        let segments: [(bool, &str, &[u8]); 7] = [
            (true, "S", b""),
            (false, "SA", b""),
            (true, "A", b""),
            (true, "PA", &request),
            (false, "PA", &reply),
            (true, "FA", b""),
            (false, "FA", b""),
        ];
        for (to_server, flags, data) in segments {
            let came = if to_server {
                self.wan.send(&there.tcp(flags, data))?;
                self.at_server(client)?
            } else {
                self.lan.send(&back.tcp(flags, data))?;
                self.at_client(client)?
            };
            expect(&format!("the segment {flags}"), came.data(), Some(data))?;
        }
        Ok(())
    }

    /// More frames than a queue has descriptors, so that each is used several times.
    fn burst(&self) -> Result<(), String> {
        const FRAMES: u32 = 3000;
        const AT_ONCE: usize = 32;
        let mut missing = BTreeSet::new();
        let mut sent = 0..FRAMES;
        while sent.start < FRAMES || !missing.is_empty() {
            while missing.len() < AT_ONCE {
                let Some(number) = sent.next() else { break };
                let mut data = data(4 + (number as usize * 7) % 1400, number as u8);
                data[..4].copy_from_slice(&number.to_be_bytes());
                let frame = self.client_to(43_000 + (number % 500) as u16, DIRECT).udp(&data);
                missing.insert(self.forwarded(&frame));
                self.wan.send(&frame)?;
            }
            let came = self.wan.find(PATIENCE, |frame| missing.take(frame));
            came.ok_or_else(|| format!("{} of {} are missing", missing.len(), sent.start))?;
        }
        Ok(())
    }

    /// From the client, by way of the router.
    fn client_to(&self, port: u16, service: SocketAddrV4) -> Ends {
        Ends {
            macs: [ROUTER.mac, self.wan_mac],
            source: SocketAddrV4::new(CLIENT, port),
            destination: service,
        }
    }

    /// From the server of the NAT service, whose gateway the appliance is.
    fn server_to(&self, client: SocketAddrV4) -> Ends {
        Ends {
            macs: [TRANSLATED_SERVER.mac, self.lan_mac],
            source: TRANSLATED_TO,
            destination: client,
        }
    }

    /// The packet from `client` that its server gets.
    fn at_server(&self, client: SocketAddrV4) -> Result<Packet, String> {
        let macs = [self.lan_mac, TRANSLATED_SERVER.mac];
        arrival(self.lan, Ends { macs, source: client, destination: TRANSLATED_TO })
    }

    /// The packet that comes back to `client`.
    fn at_client(&self, client: SocketAddrV4) -> Result<Packet, String> {
        let macs = [self.wan_mac, ROUTER.mac];
        arrival(self.wan, Ends { macs, source: TRANSLATED, destination: client })
    }
}

/// The next IPv4 packet on `wire`, if it goes from and to whom it should and every checksum is
/// right.
fn arrival(wire: &Cable, ends: Ends) -> Result<Packet, String> {
    let frame = wire
        .find(PATIENCE, |frame| (frame.get(12..14) == Some(&[8, 0])).then(|| frame.to_vec()))
        .ok_or_else(|| format!("nothing comes to {}", ends.destination))?;
    let packet = sound(&frame)?;
    expect(
        "its hardware addresses",
        [packet.ethernet.source, packet.ethernet.destination],
        ends.macs,
    )?;
    expect("its source", packet.source(), Some(ends.source.into()))?;
    expect("its destination", packet.destination(), Some(ends.destination.into()))?;
    match packet.transport {
        Transport::Udp { checksum: 0, .. } => Err("it has lost its checksum".into()),
        _ => Ok(packet),
    }
}

fn sound(frame: &[u8]) -> Result<Packet, String> {
    Packet::of(frame)?.ok_or_else(|| "it is not IPv4".into())
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: expected {expected:02x?}, found {found:02x?}"))
}

/// So many bytes which are not all the same.
fn data(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|place| (place as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn echo_request(who: Station, to: [u8; 6], address: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    message.extend_from_slice(data);
    let checksum = internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(who.mac, to)
        .ipv4(who.address.octets(), address.octets(), 64)
        .write(&mut frame, etherparse::IpNumber::ICMP, &message)
        .expect("an echo request fits a packet");
    frame
}
