//! Ports opened, and whole bursts in and out of their queues.
//!
//! [`Port::open`] finds the device, [`Port::start`] gives a [`StartedPort`] to ask and one owned
//! handle per queue. The port is stopped and closed when the last of these is dropped, whichever
//! it is; a capture file that the port writes is complete from then on.

use std::ffi::CStr;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;

use crate::eal::{Eal, Runtime, c_string, pci_address};
use crate::error::{Error, Reason, listen};
use crate::mempool::ANY_NODE;
use crate::{Mbuf, Mempool, sys};

mod interface;

mod pair;

mod spreading;

pub use spreading::{Hashes, Spreading};

/// Frames that one call moves at most.
pub const BURST: usize = 32;

/// Bytes of the longest key that a card hashes flows with; as in shim.h.
pub const HASH_KEY: usize = 52;

/// What a port is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A card, bound to vfio-pci or uio, at an address that [`crate::EalOptions::allowed`] names.
    Pci {
        /// Such as `0000:03:00.0`.
        address: String,
    },
    /// A Linux interface of this network namespace, through AF_PACKET. Three things to know:
    /// - The kernel goes on seeing every received frame, so the interface should have no addresses.
    /// - What the kernel has merged (GRO, or TSO of a veth peer) or reassembled (the driver asks for
    ///   IP fragments to be) arrives as one frame, cut off where a slot ends: switch off `gro` on
    ///   the interface, and `tx tso gso` on a veth's other end.
    /// - Without `tx off` a veth's other end does not fill in checksums either.
    Packet {
        /// Such as `eth1`.
        interface: String,
        /// Pairs of a receive and a transmit queue; the kernel spreads flows over them by a hash
        /// that it does not tell. Start the port with all of them, or it loses what is for the rest.
        queues: u16,
        /// The largest IP packet, in bytes; decides how large the rings' slots are.
        mtu: u16,
    },
    /// A DPDK virtual device: its name, which begins with the driver's, and its arguments, such as
    /// `net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap`. The string reaches the driver as it is.
    Virtual(String),
}

/// Virtual drivers that [`Device::Virtual`] may name. Of the others, net_failsafe would let a
/// configuration run programs (`exec()`), and net_bonding would poll ports that have an owner.
pub const VIRTUAL_DRIVERS: &[&str] = &[
    "net_null",
    "net_ring",
    "net_pcap",
    "net_memif",
    "net_tap",
    "net_virtio_user",
    "net_vhost",
    "net_af_packet",
    "net_af_xdp",
];

/// How a port is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSettings {
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// Receive queues wanted, of which the port gives as many as it has; with several, the card
    /// spreads flows over them by hash.
    pub receive_queues: u16,
    /// Transmit queues wanted, of which the port gives as many as it has.
    pub transmit_queues: u16,
    /// Frames a receive queue can hold; rounded to what the driver can do.
    pub receive_descriptors: u16,
    /// Frames a transmit queue can hold; rounded to what the driver can do.
    pub transmit_descriptors: u16,
    /// Whether frames for other MAC addresses are received too; those for groups always are.
    pub promiscuous: bool,
    /// What the card hashes flows with; it takes 40 bytes of this, or all. Whoever knows the key
    /// can send everything to one queue.
    pub hash_key: [u8; HASH_KEY],
}

impl Default for PortSettings {
    fn default() -> Self {
        Self {
            mtu: 1500,
            receive_queues: 1,
            transmit_queues: 1,
            receive_descriptors: 1024,
            transmit_descriptors: 1024,
            promiscuous: true,
            hash_key: WELL_KNOWN_KEY,
        }
    }
}

/// Microsoft's, from "Verifying the RSS Hash Calculation", and its beginning once more.
const WELL_KNOWN_KEY: [u8; HASH_KEY] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa, 0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2,
    0x41, 0x67, 0x25, 0x3d,
];

/// Which frames a port receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reception {
    /// For its own address and for every group: VRRP and IPv6's neighbour discovery use those.
    OwnAndGroups,
    /// For any address: because that was wanted, because nothing less brings in the groups, or
    /// because the device has no filters.
    Everything,
}

/// Whether and how fast frames can pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Of a Linux interface, that it is up and has a carrier.
    pub up: bool,
    /// In Mbit/s; 0 when unknown. Virtual drivers claim some figure.
    pub speed: u32,
}

/// What a port has counted since it was opened; drivers leave at 0 what they do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Frames received.
    pub received: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// Frames transmitted.
    pub transmitted: u64,
    /// Bytes in them.
    pub transmitted_bytes: u64,
    /// Frames lost because nobody fetched them in time.
    pub missed: u64,
    /// Frames lost because the pool was empty.
    pub no_buffer: u64,
    /// Frames received in error.
    pub receive_errors: u64,
    /// Frames that could not be transmitted.
    pub transmit_errors: u64,
}

/// A port of this program's own: nothing else in the process has the same one.
#[derive(Debug)]
pub struct Port {
    id: u16,
    bus: &'static CStr,
    /// As its bus knows it.
    device: String,
    driver: String,
    most: Limits,
    /// In place of the address that some virtual drivers do not have.
    own_mac: Option<Mutex<[u8; 6]>>,
    started: bool,
    packet: Option<interface::Interface>,
    /// Of a Linux interface: each has it receive more for as long as it is open.
    memberships: Vec<OwnedFd>,
    reception: Reception,
    spreading: Option<Spreading>,
    /// Of a pair; freed when both are closed.
    rings: Option<Arc<pair::Rings>>,
    #[expect(dead_code, reason = "keeps DPDK running until after the port is closed")]
    runtime: Arc<Runtime>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    receive_queues: u16,
    transmit_queues: u16,
    least_mtu: u16,
    most_mtu: u16,
}

/// The turn of whoever calls DPDK's control functions, and which ports have an owner.
static CONTROL: Mutex<Vec<u16>> = Mutex::new(Vec::new());

fn control() -> MutexGuard<'static, Vec<u16>> {
    CONTROL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    /// Finds the device and takes it.
    ///
    /// # Errors
    /// Whatever stands in the way, from a malformed name to a missing driver; see [`Error`].
    pub fn open(eal: &Eal, device: &Device) -> Result<Self, Error> {
        let mut owned = control();
        match device {
            Device::Pci { address } => Self::open_card(eal, address, &mut owned),
            Device::Packet { interface, queues, mtu } => {
                let found = interface::Interface::find(interface, *mtu)?;
                let arguments = found.driver_arguments(*queues);
                let mut port =
                    Self::plug(eal, c"vdev", &interface::unique_name(), &arguments, &mut owned)
                        .map_err(|error| error.about(interface))?;
                let quiet = found.ignore_outgoing();
                port.packet = Some(found);
                drop(owned); // closing takes it, should `quiet` be an error
                quiet.map(|()| port)
            }
            Device::Virtual(text) => {
                let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
                virtual_name(name)?;
                Self::plug(eal, c"vdev", name, arguments, &mut owned)
            }
        }
    }

    /// DPDK's drivers take allowed cards when it starts; one given back since is plugged in again.
    fn open_card(eal: &Eal, address: &str, owned: &mut Vec<u16>) -> Result<Self, Error> {
        let address = pci_address(address)?.to_ascii_lowercase();
        if !eal.runtime().allows(&address) {
            return Err(Error::NotAllowed(address));
        }
        match port_of(&address) {
            Some(id) if owned.contains(&id) => Err(Error::InUse(address)),
            Some(id) => Self::take(eal, c"pci", id, owned),
            None => Self::plug(eal, c"pci", &address, "", owned),
        }
    }

    fn plug(
        eal: &Eal,
        bus: &'static CStr,
        name: &str,
        arguments: &str,
        owned: &mut Vec<u16>,
    ) -> Result<Self, Error> {
        // DPDK would report success, and what is plugged in already belongs to somebody.
        if port_of(name).is_some() {
            return Err(Error::InUse(name.into()));
        }
        let before = existing();
        let device = c_string("device name", name.to_owned())?;
        let arguments = c_string("device arguments", arguments.to_owned())?;
        listen();
        // SAFETY: DPDK runs (`eal`) and copies the three strings; `owned` is the control lock.
        let answer =
            unsafe { sys::rte_eal_hotplug_add(bus.as_ptr(), device.as_ptr(), arguments.as_ptr()) };
        if answer == -nix::libc::EFAULT {
            return Err(Error::NoDriver(name.into())); // how rte_devargs_parse says it
        }
        if answer < 0 {
            return Err(Error::Open { device: name.into(), reason: Reason::of(answer) });
        }
        let new: Vec<u16> = existing().into_iter().filter(|id| !before.contains(id)).collect();
        let [id] = new[..] else {
            if !new.is_empty() {
                unplug(bus, name);
            }
            return Err(Error::Ports { device: name.into(), ports: new.len() });
        };
        Self::take(eal, bus, id, owned)
    }

    fn take(eal: &Eal, bus: &'static CStr, id: u16, owned: &mut Vec<u16>) -> Result<Self, Error> {
        let info = info(id)?;
        owned.push(id);
        Ok(Self {
            id,
            bus,
            device: text(&info.device),
            driver: text(&info.driver),
            most: Limits {
                receive_queues: info.max_receive_queues,
                transmit_queues: info.max_transmit_queues,
                least_mtu: info.min_mtu,
                most_mtu: info.max_mtu,
            },
            own_mac: (driver_mac(id) == [0; 6]).then(|| {
                let [high, low] = id.to_be_bytes();
                Mutex::new([2, b'n', b'e', b't', high, low])
            }),
            started: false,
            packet: None,
            memberships: vec![],
            reception: Reception::Everything,
            spreading: None,
            rings: None,
            runtime: eal.runtime().clone(),
        })
    }

    /// Sets the port up and starts it; received frames lie in buffers of `pool`. The queues come
    /// in order, so that the n-th of each can go to the n-th worker. There may be fewer than were
    /// asked for, and more of one kind than of the other, but at least one of each.
    ///
    /// # Errors
    /// [`Error::Queues`] when none are asked for, [`Error::Mtu`], [`Error::Room`], or
    /// [`Error::Port`] with the step that the driver refused. The port is then closed.
    pub fn start(
        mut self,
        settings: &PortSettings,
        pool: &Mempool,
    ) -> Result<(StartedPort, Vec<ReceiveQueue>, Vec<TransmitQueue>), Error> {
        self.check(settings, pool)?;
        let turn = control();
        let given = self.configure(settings)?;
        listen();
        // SAFETY: the port is ours and not started, and this is our turn; the pool exists for ever.
        self.answered("setting up queues", unsafe {
            sys::shim_port_queues(self.id, &given, pool.as_ptr())
        })?;
        self.reception = self.open_to(settings.promiscuous)?;
        // SAFETY: as above, and every queue has been set up.
        self.answered("starting", unsafe { sys::rte_eth_dev_start(self.id) })?;
        self.started = true;
        self.spreading = self.spread(&given);
        drop(turn);

        let port = Arc::new(self);
        let receive = (0..given.receive_queues)
            .map(|queue| ReceiveQueue { port: port.clone(), queue })
            .collect();
        let transmit = (0..given.transmit_queues)
            .map(|queue| TransmitQueue { port: port.clone(), queue })
            .collect();
        Ok((StartedPort(port), receive, transmit))
    }

    /// With the queues that were asked for, as far as there are as many, or else with those that
    /// the driver accepts. The caller has the turn.
    fn configure(&self, settings: &PortSettings) -> Result<sys::shim_port_settings, Error> {
        let receive = settings.receive_queues.min(self.most.receive_queues);
        let transmit = settings.transmit_queues.min(self.most.transmit_queues);
        let with = |(receive_queues, transmit_queues)| {
            let wanted = sys::shim_port_settings {
                // AF_PACKET's driver claims to do no more, whatever its slots can hold.
                mtu: if self.packet.is_some() { settings.mtu.min(1500) } else { settings.mtu },
                receive_queues,
                transmit_queues,
                receive_descriptors: settings.receive_descriptors,
                transmit_descriptors: settings.transmit_descriptors,
                hash_key: settings.hash_key,
            };
            listen();
            // SAFETY: the port is ours and not started, and the caller has the turn; the shim only
            // reads.
            let answer = unsafe { sys::shim_port_configure(self.id, &wanted) };
            self.answered("configuring", answer).map(|()| wanted)
        };
        with((receive, transmit)).or_else(|refused| {
            let mut fewer = fewer_queues(receive, transmit);
            fewer.find_map(|queues| with(queues).ok()).ok_or(refused)
        })
    }

    fn check(&self, settings: &PortSettings, pool: &Mempool) -> Result<(), Error> {
        let kinds = [
            ("receive", settings.receive_queues, self.most.receive_queues),
            ("transmit", settings.transmit_queues, self.most.transmit_queues),
        ];
        for (kind, asked, most) in kinds {
            if asked.min(most) == 0 {
                let (device, driver) = (self.device.clone(), self.driver.clone());
                return Err(Error::Queues { device, driver, kind, asked, most });
            }
        }
        let (least, mut most) = (self.most.least_mtu, self.most.most_mtu);
        if let Some(interface) = &self.packet {
            most = most.min(interface.mtu()?);
        }
        let (asked, room) = (settings.mtu, pool.room());
        if !(least..=most).contains(&asked) {
            return Err(Error::Mtu { device: self.device.clone(), asked, least, most });
        }
        // A chained frame is refused by the data plane, so ordinary ones must not come that way.
        let needed = u32::from(asked) + FRAMING;
        if needed > room.into() {
            return Err(Error::Room { device: self.device.clone(), room, needed });
        }
        Ok(())
    }

    /// Opens the port's filters to frames for groups, and for everybody if that is wanted or if a
    /// driver has nothing in between. Through sockets of our own where there is an interface,
    /// because the flags that the driver sets there would outlive this process. The caller has the
    /// turn.
    fn open_to(&mut self, everybody: bool) -> Result<Reception, Error> {
        if let Some(interface) = &self.packet {
            self.memberships.push(interface.all_multicast()?);
            if !everybody {
                return Ok(Reception::OwnAndGroups);
            }
            self.memberships.push(interface.promiscuous()?);
            return Ok(Reception::Everything);
        }
        listen();
        // SAFETY: the port is ours, and the caller has the turn.
        let groups = unsafe { sys::rte_eth_allmulticast_enable(self.id) };
        if groups == 0 && !everybody {
            return Ok(Reception::OwnAndGroups);
        }
        // SAFETY: as above.
        match unsafe { sys::rte_eth_promiscuous_enable(self.id) } {
            // Virtual devices without filters receive everything anyway.
            answer if answer == -nix::libc::ENOTSUP => {}
            answer => self.answered("receiving frames for others", answer)?,
        }
        Ok(Reception::Everything)
    }

    fn answered(&self, doing: &'static str, answer: i32) -> Result<(), Error> {
        if answer >= 0 {
            return Ok(());
        }
        Err(Error::Port { device: self.device.clone(), doing, reason: Reason::of(answer) })
    }

    /// As its bus knows it: a PCI address or the name of a virtual device.
    pub fn device_name(&self) -> &str {
        &self.device
    }

    /// Such as `net_ixgbe`.
    pub fn driver_name(&self) -> &str {
        &self.driver
    }

    /// The most receive queues that [`PortSettings`] can get.
    pub fn max_receive_queues(&self) -> u16 {
        self.most.receive_queues
    }

    /// The most transmit queues that [`PortSettings`] can get.
    pub fn max_transmit_queues(&self) -> u16 {
        self.most.transmit_queues
    }

    /// Its address; of a Linux interface, the interface's. A virtual port whose driver has none
    /// gets a locally administered one, made from its number.
    pub fn mac(&self) -> [u8; 6] {
        if let Some(own) = &self.own_mac {
            return *own.lock().unwrap_or_else(PoisonError::into_inner);
        }
        let _turn = control();
        driver_mac(self.id)
    }

    /// Gives the port another address; of a Linux interface, this changes the interface's.
    ///
    /// # Errors
    /// [`Error::Malformed`] for zero and multicast addresses; [`Error::Port`] if the driver cannot.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<(), Error> {
        if mac == [0; 6] || mac[0] & 1 == 1 {
            let found = format!("{mac:02x?}");
            return Err(Error::Malformed {
                what: "MAC address",
                expected: "a unicast address, not zero",
                found,
            });
        }
        if let Some(own) = &self.own_mac {
            *own.lock().unwrap_or_else(PoisonError::into_inner) = mac;
            return Ok(());
        }
        let _turn = control();
        listen();
        // SAFETY: the port is open, and this is our turn; the shim only reads the six bytes.
        self.answered("setting the MAC address", unsafe {
            sys::shim_port_set_mac(self.id, mac.as_ptr())
        })
    }

    /// The memory node that the card is attached to, when that is known.
    pub fn numa_node(&self) -> Option<i32> {
        let _turn = control();
        // SAFETY: the port is open, and this is our turn.
        let node = unsafe { sys::rte_eth_dev_socket_id(self.id) };
        (node != ANY_NODE).then_some(node)
    }

    /// Whether and how fast frames can pass.
    pub fn link(&self) -> Link {
        if let Some(interface) = &self.packet {
            return Link { up: interface.running(), speed: interface.speed().unwrap_or(0) };
        }
        let mut found = sys::shim_port_link { up: 0, speed: 0 };
        let _turn = control();
        // SAFETY: the port is open, and this is our turn; the shim fills the structure, or leaves
        // it when the driver does not know.
        unsafe { sys::shim_port_link(self.id, &mut found) };
        Link { up: found.up != 0, speed: found.speed }
    }

    /// Whether frames can pass.
    pub fn link_up(&self) -> bool {
        self.link().up
    }

    /// What the port has counted.
    ///
    /// # Errors
    /// [`Error::Port`] if its driver does not count.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        // SAFETY: a structure of integers only, for which zeroes are fine.
        let mut found: sys::shim_port_statistics = unsafe { std::mem::zeroed() };
        let _turn = control();
        listen();
        // SAFETY: the port is open, and this is our turn; the shim fills the structure.
        self.answered("reading statistics", unsafe {
            sys::shim_port_statistics(self.id, &mut found)
        })?;
        Ok(Statistics {
            received: found.received,
            received_bytes: found.received_bytes,
            transmitted: found.transmitted,
            transmitted_bytes: found.transmitted_bytes,
            missed: found.missed,
            no_buffer: found.no_buffer,
            receive_errors: found.receive_errors,
            transmit_errors: found.transmit_errors,
        })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut owned = control();
        if self.started {
            // SAFETY: ours, started, and no queue is left: each would hold this port.
            unsafe { sys::rte_eth_dev_stop(self.id) };
        }
        // SAFETY: ours and stopped; nobody can name it from here on.
        unsafe { sys::rte_eth_dev_close(self.id) };
        unplug(self.bus, &self.device);
        owned.retain(|id| *id != self.id);
    }
}

/// A port that is running, for whoever watches it; its queues are with their workers.
#[derive(Debug, Clone)]
pub struct StartedPort(Arc<Port>);

impl StartedPort {
    /// How frames are spread over the receive queues; `None` when there is one, or when that
    /// cannot be known because the kernel, a peer or the card does it in a way of its own.
    pub fn spreading(&self) -> Option<Spreading> {
        self.0.spreading.clone()
    }

    /// Which frames are received; more than was asked for where a driver has no choice.
    pub fn reception(&self) -> Reception {
        self.0.reception
    }
}

impl Deref for StartedPort {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.0
    }
}

/// The only way to frames that one queue of a port has received.
#[derive(Debug)]
pub struct ReceiveQueue {
    port: Arc<Port>,
    queue: u16,
}

/// The only way out through one queue of a port.
#[derive(Debug)]
pub struct TransmitQueue {
    port: Arc<Port>,
    queue: u16,
}

impl ReceiveQueue {
    /// Adds up to [`BURST`] received frames, as far as there is room, and returns how many. Never
    /// waits. Some drivers want room for a whole burst, or deliver nothing.
    #[inline]
    pub fn receive<const N: usize>(&mut self, into: &mut ArrayVec<Mbuf, N>) -> usize {
        let room = into.remaining_capacity().min(BURST);
        let held = into.len();
        // SAFETY: there is room for that many more elements behind those held.
        let free = unsafe { into.as_mut_ptr().add(held) };
        // SAFETY: the port is started while this queue lives, and `&mut self` makes this the only
        // caller; `Mbuf` is a pointer to a buffer (`repr(transparent)`).
        let count =
            unsafe { sys::shim_rx_burst(self.port.id, self.queue, free.cast(), room as u16) };
        // SAFETY: the driver filled that many with frames that nobody else has.
        unsafe { into.set_len(held + usize::from(count)) };
        count.into()
    }

    /// The port it belongs to.
    pub fn port(&self) -> &Port {
        &self.port
    }
}

impl TransmitQueue {
    /// Hands frames to the driver, first to last, and returns how many it took; those it refused
    /// stay, in order. Never waits.
    #[inline]
    pub fn transmit<const N: usize>(&mut self, from: &mut ArrayVec<Mbuf, N>) -> usize {
        let held = from.len();
        let offered = held.min(u16::MAX.into());
        // SAFETY: the port is started while this queue lives, and `&mut self` makes this the only
        // caller; `Mbuf` is a pointer to a buffer (`repr(transparent)`).
        let taken = unsafe {
            sys::shim_tx_burst(self.port.id, self.queue, from.as_mut_ptr().cast(), offered as u16)
        };
        let left = held - usize::from(taken);
        // SAFETY: the first `taken` belong to the driver now, so they are forgotten, not dropped;
        // the rest moves to the front before it is counted again.
        unsafe {
            from.set_len(0);
            let first = from.as_mut_ptr();
            first.add(taken.into()).copy_to(first, left);
            from.set_len(left);
        }
        taken.into()
    }

    /// The port it belongs to.
    pub fn port(&self) -> &Port {
        &self.port
    }
}

/// Ethernet's header and check, and one 802.1Q tag.
const FRAMING: u32 = 14 + 4 + 4;

/// What a driver may accept that refuses these numbers of queues: some want powers of two
/// (net_vmxnet3), and some claim more than their hypervisor grants (net_iavf).
fn fewer_queues(receive: u16, transmit: u16) -> impl Iterator<Item = (u16, u16)> {
    let power = |queues: u16| queues.checked_ilog2().map_or(1, |bits| 1 << bits);
    let powers = (power(receive), power(transmit));
    let halves = std::iter::successors(Some(powers), |(receive, transmit)| {
        (*receive > 1 || *transmit > 1).then(|| ((receive / 2).max(1), (transmit / 2).max(1)))
    });
    halves.filter(move |fewer| *fewer != (receive, transmit))
}

fn virtual_name(name: &str) -> Result<(), Error> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if plain && name.len() < 64 && VIRTUAL_DRIVERS.iter().any(|driver| name.starts_with(driver)) {
        return Ok(());
    }
    Err(Error::Malformed {
        what: "virtual device",
        expected: "a name that begins with a driver's (net_null, net_ring, net_pcap, net_memif, net_tap, \
                   net_virtio_user, net_vhost, net_af_packet or net_af_xdp), such as net_pcap0, \
                   then its arguments",
        found: name.into(),
    })
}

fn existing() -> Vec<u16> {
    // SAFETY: reads DPDK's table of ports, which exists since the start; an unused number is fine.
    let next = |from: u16| Some(unsafe { sys::shim_port_next(from) }).filter(|id| *id != u16::MAX);
    std::iter::successors(next(0), |id| next(id + 1)).collect()
}

/// The first port of the device that its bus knows by that name.
fn port_of(device: &str) -> Option<u16> {
    existing()
        .into_iter()
        .find(|id| info(*id).is_ok_and(|info| text(&info.device).eq_ignore_ascii_case(device)))
}

fn info(id: u16) -> Result<sys::shim_port_info, Error> {
    // SAFETY: a structure of integers and characters only, for which zeroes are fine.
    let mut info: sys::shim_port_info = unsafe { std::mem::zeroed() };
    listen();
    // SAFETY: DPDK checks the number; the shim fills the structure.
    match unsafe { sys::shim_port_info(id, &mut info) } {
        0 => Ok(info),
        answer => {
            let doing = "asking what it can do";
            Err(Error::Port { device: format!("port {id}"), doing, reason: Reason::of(answer) })
        }
    }
}

/// The caller has the turn.
fn driver_mac(id: u16) -> [u8; 6] {
    let mut mac = [0; 6];
    // SAFETY: the shim fills six bytes, or none if DPDK does not know the port.
    unsafe { sys::shim_port_mac(id, mac.as_mut_ptr()) };
    mac
}

fn unplug(bus: &CStr, device: &str) {
    let Ok(device) = c_string("device name", device.to_owned()) else { return };
    // SAFETY: the caller has the turn, and the device's port has been closed or was never taken.
    unsafe { sys::rte_eal_hotplug_remove(bus.as_ptr(), device.as_ptr()) };
}

fn text(characters: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = characters.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_refuses_is_offered_ever_fewer_queues() {
        let offered = |receive, transmit| fewer_queues(receive, transmit).collect::<Vec<_>>();
        assert_eq!(offered(6, 6), [(4, 4), (2, 2), (1, 1)]);
        assert_eq!(offered(4, 1), [(2, 1), (1, 1)]);
        assert_eq!(offered(1, 1), []);
    }

    #[test]
    fn only_known_virtual_drivers_can_be_named() {
        assert!(virtual_name("net_pcap0").is_ok());
        assert!(virtual_name("net_af_packet_eth1").is_ok());
        for refused in [
            "",
            "net_failsafe0",
            "0000:03:00.0",
            "net_null0;x",
            "vdev:net_null0",
            "net_vdev_netvsc0",
        ] {
            assert!(virtual_name(refused).is_err(), "{refused}");
        }
    }
}
