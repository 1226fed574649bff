//! Where traffic goes out and comes in: devices named as in the appliance, opened and given back.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dataplane::wire::Mac;
use dpdk_sys::{
    Eal, EalOptions, LogLevel, Mempool, Port, PortSettings, ReceiveQueue, StartedPort,
    TransmitQueue,
};
use hugepages::memory::PageRequest;
use hugepages::{Host, PageSize, PciAddress, Plan};

use crate::error::{Expected, Invalid};

/// What a port is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A card, by its PCI address.
    Card(PciAddress),
    /// An interface of the Linux kernel.
    Kernel(String),
    /// A virtual device of DPDK: its name and arguments.
    Virtual(String),
    /// Two ports of this process, joined by rings: what goes out through the first comes in through the second.
    Rings,
}

impl FromStr for Device {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let refused = || {
            Expected(
                "a PCI address such as 0000:03:00.0, an interface such as kernel:eth1, a virtual device such as \
                 vdev:net_null0,no-rx=1, or rings"
                    .into(),
            )
        };
        if text == "rings" {
            return Ok(Self::Rings);
        }
        if let Some(name) = text.strip_prefix("kernel:") {
            return if name.is_empty() { Err(refused()) } else { Ok(Self::Kernel(name.into())) };
        }
        if let Some(arguments) = text.strip_prefix("vdev:") {
            return if arguments.is_empty() {
                Err(refused())
            } else {
                Ok(Self::Virtual(arguments.into()))
            };
        }
        text.parse().map(Self::Card).map_err(|_| refused())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Card(address) => write!(f, "{address}"),
            Self::Kernel(name) => write!(f, "kernel:{name}"),
            Self::Virtual(arguments) => write!(f, "vdev:{arguments}"),
            Self::Rings => f.write_str("rings"),
        }
    }
}

/// What DPDK's memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Memory {
    /// Huge pages, reserved for the run and given back after it.
    Huge,
    /// Ordinary pages.
    Plain,
}

/// What is to be opened.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The sending side, and the receiving side if that is another.
    pub devices: Vec<Device>,
    /// What memory; cards need huge pages, so those are the default with them.
    pub memory: Option<Memory>,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// Where the loops run: one core for both, or one for each. None: the host's choice of one.
    pub cores: Vec<usize>,
}

/// Packet buffers of a run: both directions' rings and queues full, and some in hand.
const BUFFERS: u32 = 16_384;

/// Frames that each queue of a port holds.
const DESCRIPTORS: u16 = 1024;

/// Frames that a ring between ports of this process holds.
pub const RING: u32 = 4096;

/// What DPDK keeps with a buffer, in bytes, as in the appliance: its own header, headroom, and the pool's.
const BUFFER_OVERHEAD: u64 = 128 + 128 + 64;

/// What DPDK needs besides, in MiB.
const BESIDES: u64 = 96;

/// How long a link may take to come up.
const LINK: Duration = Duration::from_secs(10);

impl Wanted {
    /// # Errors
    /// [`Invalid`] for devices that do not go together, and cores that do not exist.
    pub fn check(&self) -> Result<(), Invalid> {
        let found = || self.devices.iter().map(Device::to_string).collect::<Vec<_>>().join(" and ");
        match &self.devices[..] {
            [] | [_, _, _, ..] => {
                return Err(Invalid::new("--port", "one or two devices", self.devices.len()));
            }
            [a, b] if a == b => {
                return Err(Invalid::new("--port", "two different devices, or one alone", found()));
            }
            [a, b] if *a == Device::Rings || *b == Device::Rings => {
                return Err(Invalid::new(
                    "--port",
                    "rings alone, as they are two ports already",
                    found(),
                ));
            }
            _ => {}
        }
        if !(68..=9216).contains(&self.mtu) {
            return Err(Invalid::new("--mtu", "68 to 9216 bytes", self.mtu));
        }
        if self.cores.len() > 2 {
            return Err(Invalid::new(
                "--cores",
                "one core, or one for sending and one for receiving",
                self.cores.len(),
            ));
        }
        let online = hugepages::cores::cores(&Host::real())
            .map(|cores| cores.online.iter().collect::<Vec<_>>());
        if let Ok(online) = online
            && let Some(absent) = self.cores.iter().find(|core| !online.contains(&(**core as u32)))
        {
            return Err(Invalid::new(
                "--cores",
                format!("cores of this machine: {online:?}"),
                absent,
            ));
        }
        Ok(())
    }

    fn cards(&self) -> Vec<PciAddress> {
        let card = |device: &Device| match device {
            Device::Card(address) => Some(*address),
            _ => None,
        };
        self.devices.iter().filter_map(card).collect()
    }

    fn room(&self) -> u16 {
        (self.mtu + 64).max(2048)
    }

    fn megabytes(&self) -> u64 {
        let buffers = u64::from(BUFFERS) * (u64::from(self.room()) + BUFFER_OVERHEAD);
        buffers.div_ceil(1 << 20) + BESIDES
    }

    fn memory(&self) -> Memory {
        let default = if self.cards().is_empty() { Memory::Plain } else { Memory::Huge };
        self.memory.unwrap_or(default)
    }
}

/// Ports that are open, and what belongs to them.
#[derive(Debug)]
pub struct Bench {
    /// DPDK.
    pub eal: Arc<Eal>,
    /// Where frames come from.
    pub pool: Mempool,
    /// The port for sending, and the one for receiving if that is another.
    pub ports: Vec<StartedPort>,
    /// Ways out: of each port, in order.
    pub transmit: Vec<TransmitQueue>,
    /// Ways in: of each port, in order.
    pub receive: Vec<ReceiveQueue>,
    /// Where the loops are to run: one core, or one for each.
    pub cores: Vec<usize>,
    _host: TakenHost,
}

impl Bench {
    /// Makes the host ready, starts DPDK and opens the devices.
    ///
    /// # Errors
    /// What stood in the way, with what to do about it. What had been taken is given back.
    pub fn open(wanted: &Wanted) -> Result<Self> {
        wanted.check()?;
        let host = TakenHost::prepare(wanted)?;
        let cores = cores(wanted)?;
        let megabytes = wanted.megabytes() as usize;
        let eal = Eal::start(&EalOptions {
            program: "pktgen".into(),
            memory: match wanted.memory() {
                Memory::Huge => dpdk_sys::Memory::Huge { megabytes },
                Memory::Plain => dpdk_sys::Memory::Plain { megabytes },
            },
            control_core: cores.control,
            allowed: wanted.cards().iter().map(PciAddress::to_string).collect(),
            log: LogLevel::Warning,
        })?;
        let eal = Arc::new(eal);
        let pool = Mempool::new(&eal, "pktgen", BUFFERS, wanted.room(), None)?;
        let mut bench = Self {
            eal,
            pool,
            ports: vec![],
            transmit: vec![],
            receive: vec![],
            cores: cores.loops,
            _host: host,
        };
        for device in &wanted.devices {
            bench.add(device, wanted.mtu).with_context(|| format!("--port {device}"))?;
        }
        Ok(bench)
    }

    fn add(&mut self, device: &Device, mtu: u16) -> Result<()> {
        let wanted = match device {
            Device::Rings => {
                for port in Port::pair(&self.eal, 1, RING)? {
                    self.start(port, mtu)?;
                }
                return Ok(());
            }
            Device::Card(address) => dpdk_sys::Device::Pci { address: address.to_string() },
            Device::Kernel(interface) => {
                dpdk_sys::Device::Packet { interface: interface.clone(), queues: 1, mtu }
            }
            Device::Virtual(arguments) => dpdk_sys::Device::Virtual(arguments.clone()),
        };
        let port = self.start(Port::open(&self.eal, &wanted)?, mtu)?;
        if matches!(device, Device::Virtual(_)) {
            return Ok(());
        }
        let patience = Instant::now() + LINK;
        while !port.link_up() {
            if Instant::now() > patience {
                bail!("there is no link: is the cable plugged in, and the other end up?");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn start(&mut self, port: Port, mtu: u16) -> Result<StartedPort> {
        let settings = PortSettings {
            mtu,
            receive_descriptors: DESCRIPTORS,
            transmit_descriptors: DESCRIPTORS,
            ..PortSettings::default()
        };
        let (port, mut receive, mut transmit) = port.start(&settings, &self.pool)?;
        self.receive.append(&mut receive);
        self.transmit.append(&mut transmit);
        self.ports.push(port.clone());
        Ok(port)
    }

    /// Each port in a few words.
    pub fn describe(&self) -> Vec<String> {
        let describe = |port: &StartedPort| {
            format!("{} ({}, {})", port.device_name(), port.driver_name(), Mac(port.mac()))
        };
        self.ports.iter().map(describe).collect()
    }

    /// The sending port's address, and the receiving one's.
    pub fn macs(&self) -> (Mac, Mac) {
        let mac = |port: Option<&StartedPort>| Mac(port.map(|port| port.mac()).unwrap_or_default());
        (mac(self.ports.first()), mac(self.ports.last()))
    }

    /// The sending port's speed in bits a second, if it is known.
    pub fn line_rate(&self) -> Option<u64> {
        let speed = self.ports.first()?.link().speed;
        (speed > 0).then(|| u64::from(speed) * 1_000_000)
    }
}

struct Cores {
    loops: Vec<usize>,
    control: usize,
}

/// The cores that were asked for, else the first that the host keeps for such work; and another for everything else.
fn cores(wanted: &Wanted) -> Result<Cores> {
    let host = Host::real();
    let online: Vec<usize> =
        hugepages::cores::cores(&host)?.online.iter().map(|core| core as usize).collect();
    let mut loops = wanted.cores.clone();
    if loops.is_empty() {
        let workers = hugepages::cores::workers(&host, &wanted.cards())?;
        loops = vec![workers.cores.first().map_or(0, |core| *core as usize)];
    }
    let control = online.iter().copied().find(|core| !loops.contains(core)).unwrap_or(loops[0]);
    Ok(Cores { loops, control })
}

/// Huge pages and cards that were taken from the host. What was there before is noted first, so that the next start
/// gives back what a killed process could not.
#[derive(Debug)]
struct TakenHost(Option<PathBuf>);

/// Where that is noted: one file for each process.
const RECORDS: &str = "/run/sluice";
const RECORD: &str = "pktgen-";

impl TakenHost {
    fn prepare(wanted: &Wanted) -> Result<Self> {
        give_back_what_the_dead_took(Path::new(RECORDS));
        let cards = wanted.cards();
        if wanted.memory() == Memory::Plain && cards.is_empty() {
            return Ok(Self(None));
        }
        let record = Path::new(RECORDS).join(format!("{RECORD}{}.json", std::process::id()));
        let mut plan = Plan::new(&record);
        plan.cards = cards;
        if wanted.memory() == Memory::Huge {
            // DPDK wants whole pages for each zone, so a few more than the sum.
            let pages = wanted.megabytes().div_ceil(2) + 8;
            plan.pages = vec![PageRequest { size: PageSize::TwoMiB, pages, node: None }];
        }
        let taken = Self(Some(record));
        hugepages::prepare(&Host::real(), &plan).context("the host could not be made ready")?;
        Ok(taken)
    }
}

impl Drop for TakenHost {
    fn drop(&mut self) {
        if let Some(record) = &self.0
            && let Err(problem) = hugepages::restore(&Host::real(), record)
        {
            eprintln!("pktgen: {problem}");
        }
    }
}

fn give_back_what_the_dead_took(records: &Path) {
    for record in std::fs::read_dir(records).into_iter().flatten().flatten() {
        let name = record.file_name();
        let process =
            name.to_str().and_then(|name| name.strip_prefix(RECORD)?.strip_suffix(".json"));
        let is_dead = process.is_some_and(|number| {
            number.bytes().all(|byte| byte.is_ascii_digit())
                && !Path::new("/proc").join(number).exists()
        });
        if is_dead && let Err(problem) = hugepages::restore(&Host::real(), &record.path()) {
            eprintln!("pktgen: {problem}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(devices: &[&str]) -> Wanted {
        let devices = devices.iter().map(|text| text.parse().unwrap()).collect();
        Wanted { devices, memory: None, mtu: 1500, cores: vec![] }
    }

    #[test]
    fn devices_read_back_as_they_were_written() {
        for text in ["0000:03:00.0", "kernel:eth1", "vdev:net_null0,no-rx=1", "rings"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        for text in ["", "eth1", "kernel:", "vdev:", "03:00.0", "rings0"] {
            let refused = text.parse::<Device>().expect_err(text).to_string();
            assert!(refused.contains("such as kernel:eth1"), "{refused}");
        }
    }

    #[test]
    fn ports_are_one_or_two_and_different() {
        let refusal =
            |devices: &[&str]| wanted(devices).check().expect_err("it is refused").to_string();
        assert_eq!(wanted(&["rings"]).check(), Ok(()));
        assert_eq!(wanted(&["kernel:a", "kernel:b"]).check(), Ok(()));
        assert!(refusal(&[]).starts_with("--port: expected one or two devices, found 0"));
        assert!(
            refusal(&["kernel:a", "kernel:a"])
                .starts_with("--port: expected two different devices")
        );
        assert!(refusal(&["rings", "kernel:a"]).starts_with("--port: expected rings alone"));
    }

    #[test]
    fn cores_and_mtu_must_exist() {
        let cores = Wanted { cores: vec![9999], ..wanted(&["rings"]) };
        let refused = cores.check().expect_err("no machine has that many").to_string();
        assert!(refused.starts_with("--cores: expected cores of this machine"), "{refused}");
        let mtu = Wanted { mtu: 20, ..wanted(&["rings"]) };
        assert!(
            mtu.check()
                .expect_err("too small")
                .to_string()
                .starts_with("--mtu: expected 68 to 9216 bytes")
        );
    }

    #[test]
    fn cards_get_huge_pages_and_everything_else_plain_memory() {
        assert_eq!(wanted(&["0000:03:00.0"]).memory(), Memory::Huge);
        assert_eq!(wanted(&["rings"]).memory(), Memory::Plain);
    }
}
