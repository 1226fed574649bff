//! Network cards: found on the PCI bus, taken from the kernel for DPDK, and given back.
//!
//! A card goes to vfio-pci where an IOMMU guards it, to a uio driver where there is none, and stays
//! with the kernel where DPDK works through the kernel's own driver (mlx5). The way is the kernel's
//! `driver_override`: it concerns this one card and no other of its kind. The kernel accepts every
//! write to `drivers_probe`, whether or not the driver wants the card afterwards, so the card's
//! `driver` link is read after each.

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{
    Error, Host,
    record::{CardDeed, Deed, Journal},
};

const DEVICES: &str = "/sys/bus/pci/devices";

/// Where a device is on the PCI bus: domain, bus, device and function, as in `0000:03:00.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    domain: u16,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for PciAddress {
    type Err = Error;

    /// Reads exactly the twelve characters that the kernel writes, in either case: this text
    /// becomes part of a path.
    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).ok_or_else(|| Error::NotAnAddress(text.chars().take(80).collect()))
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let digits: &[u8; 12] = text.as_bytes().try_into().ok()?;
    let [.., b':', _, _, b':', _, _, b'.', _] = digits else { return None };
    let field = |from: usize, to: usize| -> Option<u16> {
        let field = text.get(from..to)?;
        let hex = field.bytes().all(|byte| byte.is_ascii_hexdigit());
        u16::from_str_radix(field, 16).ok().filter(|_| hex)
    };
    let (bus, device, function) = (field(5, 7)?, field(8, 10)?, field(11, 12)?);
    Some(PciAddress {
        domain: field(0, 4)?,
        bus: bus.try_into().ok()?,
        device: device.try_into().ok().filter(|device| *device < 32)?,
        function: function.try_into().ok().filter(|function| *function < 8)?,
    })
}

impl fmt::Display for PciAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        out.pad(&format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
    }
}

impl TryFrom<String> for PciAddress {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

/// The name of a kernel driver, read back from the record: one word that is no path and no option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DriverName(String);

impl DriverName {
    fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DriverName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        let begins_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
        match begins_well && name.len() <= 64 && name.bytes().all(plain) {
            true => Ok(Self(name)),
            false => Err(format!("expected the name of a kernel driver, found {name:?}")),
        }
    }
}

impl From<DriverName> for String {
    fn from(name: DriverName) -> Self {
        name.0
    }
}

/// A network card as the kernel sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Card {
    /// Where it is.
    pub address: PciAddress,
    /// PCI vendor and device, as `8086:10fb`.
    pub id: String,
    /// The kernel driver that it is bound to.
    pub driver: Option<String>,
    /// Its kernel interfaces in this network namespace.
    pub interfaces: Vec<Interface>,
    /// The NUMA node that it is attached to, where the firmware says so.
    pub node: Option<u32>,
    /// Its IOMMU group, if an IOMMU guards it.
    pub iommu_group: Option<u32>,
}

/// A kernel interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it has a link, and how fast.
    pub link: Link,
}

/// The link of a kernel interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// There is one, of this many Mbit/s where the driver knows.
    Up(Option<u32>),
    /// The interface is up and has none.
    Down,
    /// The interface is administratively down, so nobody can tell.
    Unknown,
}

impl fmt::Display for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(Some(mbit)) => out.pad(&format!("up {mbit} Mbit/s")),
            Self::Up(None) => out.pad("up"),
            Self::Down => out.pad("down"),
            Self::Unknown => out.pad("-"),
        }
    }
}

/// A kernel driver through which DPDK can use a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// Guarded by an IOMMU.
    VfioPci,
    /// For hosts without IOMMU; part of every kernel.
    UioPciGeneric,
    /// For hosts without IOMMU; not part of the kernel, used where somebody has loaded it.
    IgbUio,
}

impl Driver {
    const ALL: [Self; 3] = [Self::VfioPci, Self::UioPciGeneric, Self::IgbUio];

    /// The kernel's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::VfioPci => "vfio-pci",
            Self::UioPciGeneric => "uio_pci_generic",
            Self::IgbUio => "igb_uio",
        }
    }

    /// Type 1 is only a soft dependency of vfio, yet without it there is no container.
    fn modules(self) -> &'static [&'static str] {
        match self {
            Self::VfioPci => &["vfio-pci", "vfio_iommu_type1"],
            Self::UioPciGeneric => &["uio_pci_generic"],
            Self::IgbUio => &["igb_uio"],
        }
    }
}

/// What preparing a card comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// It is bound to this driver.
    Bind(Driver),
    /// It stays with the kernel driver that it has, and DPDK works through that.
    Stays,
}

/// A card of a plan with which nothing is wrong so far.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) card: Card,
    choice: Choice,
}

/// A card that DPDK can use now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Which card.
    pub address: PciAddress,
    /// The driver that it is bound to.
    pub driver: String,
    /// The driver that it had before it was first prepared, and gets back.
    pub original: Option<String>,
}

impl Card {
    /// Whether DPDK can use the card as it is. One that somebody has bound to VFIO without IOMMU,
    /// or to igb_uio, is left as they wanted it.
    pub(crate) fn is_ready(&self, choice: Choice) -> bool {
        match (choice, self.driver.as_deref()) {
            (Choice::Stays, _) => true,
            (Choice::Bind(wanted), Some(driver)) => {
                driver == wanted.name()
                    || driver == Driver::VfioPci.name()
                    || (driver == Driver::IgbUio.name() && self.iommu_group.is_none())
            }
            (Choice::Bind(_), None) => false,
        }
    }
}

/// Every network card on the PCI bus (base class 02), by address.
pub fn cards(host: &Host) -> Vec<Card> {
    let addresses = host.names(DEVICES).into_iter().filter_map(|name| name.parse().ok());
    addresses.filter_map(|address| card(host, address).ok()).collect()
}

fn card(host: &Host, address: PciAddress) -> Result<Card, Error> {
    let folder = format!("{DEVICES}/{address}");
    if !host.has(&folder) {
        return Err(Error::NoSuchCard(address));
    }
    let class = host.read(&format!("{folder}/class"))?;
    if !class.starts_with("0x02") {
        return Err(Error::NotANetworkCard { address, class });
    }
    let id = |file| host.read(&format!("{folder}/{file}")).map(|id| id.replacen("0x", "", 1));
    let node = host.read_if_there(&format!("{folder}/numa_node"));
    Ok(Card {
        address,
        id: format!("{}:{}", id("vendor")?, id("device")?),
        driver: driver(host, address),
        interfaces: interfaces(host, &folder),
        node: node.and_then(|node| node.parse().ok()), // -1 where the firmware does not say
        iommu_group: iommu_group(host, &folder),
    })
}

fn driver(host: &Host, address: PciAddress) -> Option<String> {
    host.link_name(&format!("{DEVICES}/{address}/driver"))
}

/// A card's interfaces lie below it, those of a virtio card below the virtio device in between.
fn interfaces(host: &Host, folder: &str) -> Vec<Interface> {
    let virtio = host.names(folder).into_iter().filter(|name| name.starts_with("virtio"));
    let folders = virtio.map(|name| format!("{folder}/{name}/net"));
    let names = std::iter::once(format!("{folder}/net")).chain(folders);
    let names = names.flat_map(|folder| host.names(&folder));
    names.map(|name| Interface { link: link(host, &name), name }).collect()
}

/// The link of the kernel interface `name`.
pub(crate) fn link(host: &Host, name: &str) -> Link {
    let file = |file| host.read_if_there(&format!("/sys/class/net/{name}/{file}"));
    match file("carrier").as_deref() {
        Some("1") => Link::Up(file("speed").and_then(|mbit| mbit.parse().ok())),
        Some(_) => Link::Down,
        None => Link::Unknown, // reading it fails while the interface is down
    }
}

/// The group of a device that a real IOMMU guards. VFIO without IOMMU makes groups of its own.
fn iommu_group(host: &Host, folder: &str) -> Option<u32> {
    let group = host.link_name(&format!("{folder}/iommu_group"))?.parse().ok()?;
    let name = host.read_if_there(&format!("/sys/kernel/iommu_groups/{group}/name"));
    Some(group).filter(|_| name.as_deref() != Some("vfio-noiommu"))
}

/// Whether an IOMMU guards anything on this host.
pub fn has_iommu(host: &Host) -> bool {
    let real = |group: &String| {
        let name = host.read_if_there(&format!("/sys/kernel/iommu_groups/{group}/name"));
        name.as_deref() != Some("vfio-noiommu")
    };
    host.names("/sys/kernel/iommu_groups").iter().any(real)
}

/// Which driver a card is to have for DPDK.
///
/// # Errors
/// [`Error::NoDriver`] if none would work, with the reason.
pub fn choose(host: &Host, card: &Card) -> Result<Choice, Error> {
    let address = card.address;
    if is_bifurcated(card) {
        return match card.driver.as_deref() {
            Some("mlx5_core") => Ok(Choice::Stays),
            _ => Err(Error::NoDriver {
                address,
                reason: "DPDK uses this card through its kernel driver, which it is not bound to",
                remedy: "load mlx5_core (modprobe mlx5_core)",
            }),
        };
    }
    if card.iommu_group.is_some()
        || is_on(host, "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode")
    {
        return Ok(Choice::Bind(Driver::VfioPci));
    }
    if host.has("/sys/bus/pci/drivers/igb_uio") {
        return Ok(Choice::Bind(Driver::IgbUio));
    }
    if cannot_mask_interrupts(card) {
        return Err(Error::NoDriver {
            address,
            reason: "there is no IOMMU for vfio-pci, and uio_pci_generic refuses cards that \
                     cannot mask their interrupt, as this one (X710 family)",
            remedy: "switch the IOMMU on in the firmware (VT-d, AMD-Vi) and with intel_iommu=on \
                     on the kernel's command line, or load igb_uio",
        });
    }
    let lockdown = host.read_if_there("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[integrity]") || lockdown.contains("[confidentiality]") {
        return Err(Error::NoDriver {
            address,
            reason: "there is no IOMMU for vfio-pci, and the kernel is locked down (Secure Boot), \
                     which uio_pci_generic does not survive",
            remedy: "switch the IOMMU on in the firmware (VT-d, AMD-Vi) and with intel_iommu=on \
                     on the kernel's command line",
        });
    }
    Ok(Choice::Bind(Driver::UioPciGeneric))
}

fn is_on(host: &Host, parameter: &str) -> bool {
    host.read_if_there(parameter).is_some_and(|value| value == "Y" || value == "1")
}

/// NVIDIA (Mellanox) cards stay with mlx5_core: DPDK reaches them through the kernel's verbs.
fn is_bifurcated(card: &Card) -> bool {
    card.id.starts_with("15b3:")
}

/// The cards that Linux marks with `quirk_broken_intx_masking` and that DPDK's i40e drives
/// (drivers/pci/quirks.c); uio_pci_generic answers ENODEV for them.
fn cannot_mask_interrupts(card: &Card) -> bool {
    const BROKEN: [&str; 16] = [
        "1572", "1574", "1580", "1581", "1583", "1584", "1585", "1586", "1587", "1588", "1589",
        "158a", "158b", "37d0", "37d1", "37d2",
    ];
    card.id.strip_prefix("8086:").is_some_and(|device| BROKEN.contains(&device))
}

/// Looks at the cards of a plan before anything is changed, each of them once.
///
/// # Errors
/// Whatever would make taking one of them fail, or do harm and not `force`d.
pub(crate) fn examine(
    host: &Host,
    addresses: &[PciAddress],
    force: bool,
) -> Result<Vec<Candidate>, Error> {
    let mut seen = BTreeSet::new();
    let addresses: Vec<PciAddress> =
        addresses.iter().copied().filter(|address| seen.insert(*address)).collect();
    let candidate = |address: &PciAddress| {
        let card = card(host, *address)?;
        let choice = choose(host, &card)?;
        match in_use(host, &card)? {
            Some(error) if force => warn!("taken all the same: {error}"),
            Some(error) => return Err(error),
            None => (),
        }
        if choice == Choice::Bind(Driver::VfioPci) {
            ensure_group_is_ours(host, &card, &addresses)?;
        }
        Ok(Candidate { card, choice })
    };
    addresses.iter().map(candidate).collect()
}

/// Why `prepare` would not take a card unless forced: [`Error::InUse`], if anything.
///
/// # Errors
/// If the host's addresses cannot be read.
pub fn in_use(host: &Host, card: &Card) -> Result<Option<Error>, Error> {
    let addresses = host.addresses()?;
    let carriers = default_route_interfaces(host);
    for interface in &card.interfaces {
        for name in with_those_above(host, &interface.name) {
            let through = match name == interface.name {
                true => String::new(),
                false => format!(" through {name}"),
            };
            let reason = match address_on(&addresses, &name) {
                _ if carriers.contains(&name) => format!("carries the default route{through}"),
                Some(address) => format!("has the address {address} in use{through}"),
                None => continue,
            };
            let interface = interface.name.clone();
            return Ok(Some(Error::InUse { address: card.address, interface, reason }));
        }
    }
    Ok(None)
}

/// An interface and all that is built on it: VLANs, bonds, bridges, and what is built on those.
fn with_those_above(host: &Host, interface: &str) -> Vec<String> {
    let mut all = vec![interface.to_owned()];
    let mut next = 0;
    while let Some(name) = all.get(next) {
        let above = host.names(&format!("/sys/class/net/{name}"));
        for upper in above.iter().filter_map(|link| link.strip_prefix("upper_")) {
            if !all.iter().any(|known| known == upper) {
                all.push(upper.to_owned());
            }
        }
        next += 1;
    }
    all
}

/// The interfaces of the default routes: `/proc/net/route` (destination and mask zero) and
/// `/proc/net/ipv6_route` (destination and prefix length zero).
fn default_route_interfaces(host: &Host) -> BTreeSet<String> {
    let v4 = host.read_if_there("/proc/net/route").unwrap_or_default();
    let v6 = host.read_if_there("/proc/net/ipv6_route").unwrap_or_default();
    let v4 = v4.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000"))
            .then(|| fields[0].to_owned())
    });
    let v6 = v6.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let everything = fields.first().is_some_and(|to| to.bytes().all(|digit| digit == b'0'));
        (everything && fields.get(1) == Some(&"00")).then_some(*fields.last()?).map(str::to_owned)
    });
    v4.chain(v6).filter(|interface| interface != "lo").collect()
}

/// An address on `interface` that somebody has given it. IPv6 gives every interface that is up a
/// link-local one by itself, so that says nothing.
fn address_on(addresses: &[(String, IpAddr)], interface: &str) -> Option<IpAddr> {
    let by_itself = |address: &IpAddr| match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let mut on_it =
        addresses.iter().filter(|(name, _)| name == interface).map(|(_, address)| *address);
    on_it.find(|address| !by_itself(address))
}

/// VFIO gives a group to a program only if no other driver holds a device of it. Bridges do not
/// count: their driver leaves the group's memory alone.
fn ensure_group_is_ours(host: &Host, card: &Card, planned: &[PciAddress]) -> Result<(), Error> {
    let Some(group) = card.iommu_group else { return Ok(()) };
    let holder = |name: String| {
        let driver = host.link_name(&format!("{DEVICES}/{name}/driver"))?;
        let ours = name.parse().is_ok_and(|address| planned.contains(&address));
        let harmless = ["vfio-pci", "pci-stub", "pcieport"].contains(&driver.as_str());
        (!ours && !harmless).then(|| format!("{name} ({driver})"))
    };
    let devices = host.names(&format!("/sys/kernel/iommu_groups/{group}/devices"));
    let others: Vec<String> = devices.into_iter().filter_map(holder).collect();
    match others.is_empty() {
        true => Ok(()),
        false => {
            Err(Error::GroupShared { address: card.address, group, others: others.join(", ") })
        }
    }
}

/// Gives a card the driver chosen for it, and remembers the one it had.
pub(crate) fn take(
    host: &Host,
    journal: &mut Journal,
    candidate: &Candidate,
) -> Result<Taken, Error> {
    let Candidate { card, choice } = candidate;
    let address = card.address;
    let modules = match choice {
        Choice::Bind(driver) => driver.modules(),
        Choice::Stays => &["mlx5_ib", "ib_uverbs"],
    };
    modules.iter().try_for_each(|module| host.load_module(module))?;

    let earlier = deed_for(journal, address);
    let original = match &earlier {
        Some((_, deed)) => deed.original.clone().map(String::from),
        None => card.driver.clone(),
    };
    let Choice::Bind(driver) = *choice else {
        let driver = card.driver.clone().unwrap_or_default();
        return Ok(Taken { address, driver, original });
    };
    if let Some(driver) = card.driver.clone().filter(|_| card.is_ready(*choice)) {
        return Ok(Taken { address, driver, original });
    }

    match earlier {
        Some((index, deed)) => {
            let deed = CardDeed { driver: name(driver.name())?, ..deed };
            journal.amend(index, Deed::Card(deed))?;
        }
        None => {
            let deed = CardDeed {
                address,
                driver: name(driver.name())?,
                original: card.driver.as_deref().map(name).transpose()?,
                original_override: driver_override(host, address)
                    .as_deref()
                    .map(name)
                    .transpose()?,
            };
            journal.begin(Deed::Card(deed))?;
        }
    }
    bind(host, address, driver.name())?;
    let was = card.driver.as_deref().unwrap_or("no driver");
    info!("{address} bound to {}, was bound to {was}", driver.name());
    Ok(Taken { address, driver: driver.name().to_owned(), original })
}

fn deed_for(journal: &Journal, address: PciAddress) -> Option<(usize, CardDeed)> {
    let card = |(index, deed): (usize, &Deed)| match deed {
        Deed::Card(deed) if deed.address == address => Some((index, deed.clone())),
        _ => None,
    };
    journal.deeds().iter().enumerate().find_map(card)
}

fn name(driver: &str) -> Result<DriverName, Error> {
    DriverName::try_from(driver.to_owned())
        .map_err(|reason| Error::Module { module: driver.to_owned(), reason })
}

/// The driver that somebody has reserved the card for.
fn driver_override(host: &Host, address: PciAddress) -> Option<String> {
    let name = host.read_if_there(&format!("{DEVICES}/{address}/driver_override"))?;
    Some(name).filter(|name| !name.is_empty() && name != "(null)")
}

fn set_driver_override(
    host: &Host,
    address: PciAddress,
    driver: Option<&str>,
) -> Result<(), Error> {
    // An empty line is how the kernel is told that there is none.
    let file = format!("{DEVICES}/{address}/driver_override");
    host.write(&file, &format!("{}\n", driver.unwrap_or_default()))
}

/// Binds a card to `wanted`, and looks whether it is.
fn bind(host: &Host, address: PciAddress, wanted: &str) -> Result<(), Error> {
    set_driver_override(host, address, Some(wanted))?;
    unbind(host, address)?;
    let probed = host.write("/sys/bus/pci/drivers_probe", &address.to_string());
    let found = driver(host, address);
    if found.as_deref() == Some(wanted) {
        return Ok(());
    }
    Err(Error::NotBound {
        address,
        wanted: wanted.to_owned(),
        found: found.unwrap_or_else(|| "no driver".to_owned()),
        detail: probed.err().map(|error| format!(" ({error})")).unwrap_or_default(),
    })
}

fn unbind(host: &Host, address: PciAddress) -> Result<(), Error> {
    if driver(host, address).is_none() {
        return Ok(());
    }
    ensure_not_held(host, address)?;
    host.write(&format!("{DEVICES}/{address}/driver/unbind"), &address.to_string())
}

/// A write to vfio-pci's `unbind` does not return before the program that has the card open lets
/// go of it; that could be never, and the program could be ourselves.
fn ensure_not_held(host: &Host, address: PciAddress) -> Result<(), Error> {
    let folder = format!("{DEVICES}/{address}");
    let bound = driver(host, address);
    if !Driver::ALL.iter().any(|driver| bound.as_deref() == Some(driver.name())) {
        return Ok(());
    }
    let group = host.link_name(&format!("{folder}/iommu_group"));
    let vfio =
        group.map(|group| [format!("/dev/vfio/{group}"), format!("/dev/vfio/noiommu-{group}")]);
    let uio = host.names(&format!("{folder}/uio"));
    let uio = uio.into_iter().map(|name| format!("/dev/{name}"));
    let files = vfio.into_iter().flatten().chain(uio);
    match files.flat_map(|file| host.holders(&file)).next() {
        Some(holder) => Err(Error::Held { address, holder }),
        None => Ok(()),
    }
}

/// Gives a card back to the driver that it had, and answers what was done.
///
/// # Errors
/// [`Error::Held`] if a program has it open; [`Error::NotBound`] if that driver does not take it.
pub(crate) fn give_back(host: &Host, deed: &CardDeed) -> Result<String, Error> {
    let CardDeed { address, driver: ours, original, original_override } = deed;
    let address = *address;
    if !host.has(&format!("{DEVICES}/{address}")) {
        return Ok(format!("{address} is not there any more"));
    }
    let original = original.as_ref().map(DriverName::as_str);
    let now = driver(host, address);
    if let Some(other) = now.as_deref()
        && other != ours.as_str()
        && Some(other) != original
    {
        return Ok(format!("{address} left alone: somebody else has bound it to {other}"));
    }
    let bound = match original {
        Some(original) if now.as_deref() == Some(original) => Ok(()),
        Some(original) => bind(host, address, original).or_else(|error| match error {
            // Nobody needed its module while we had the card, so it may be gone.
            Error::NotBound { .. } => {
                host.load_module(original)?;
                bind(host, address, original)
            }
            other => Err(other),
        }),
        None => unbind(host, address),
    };
    if !matches!(bound, Err(Error::Held { .. })) {
        set_driver_override(host, address, original_override.as_ref().map(DriverName::as_str))?;
    }
    bound?;
    Ok(match original {
        Some(original) => format!("{address} bound to {original} again"),
        None => format!("{address} unbound again"),
    })
}

/// The kernel interfaces that can be used as `kernel:NAME`: all but loopback.
pub(crate) fn kernel_interfaces(host: &Host) -> Vec<String> {
    let mut names = host.names("/sys/class/net");
    // Some drivers put plain files such as bonding_masters there.
    names.retain(|name| name != "lo" && host.has(&format!("/sys/class/net/{name}/ifindex")));
    names
}

/// The card that a kernel interface belongs to.
pub(crate) fn card_of(cards: &[Card], interface: &str) -> Option<PciAddress> {
    let has_it = |card: &&Card| card.interfaces.iter().any(|one| one.name == interface);
    cards.iter().find(has_it).map(|card| card.address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Plan, host::tree::Tree, prepare, restore};

    const CARD: &str = "0000:03:00.0";

    fn address() -> PciAddress {
        CARD.parse().unwrap()
    }

    /// A tree with one 82599 at 0000:03:00.0, bound to ixgbe, with the interface wan0.
    fn tree() -> Tree {
        with_card(Tree::new(), CARD, "8086", "10fb", "ixgbe")
            .folder(&format!("sys/bus/pci/devices/{CARD}/net/wan0"))
            .with("sys/class/net/wan0/carrier", "1")
            .with("sys/class/net/wan0/speed", "10000")
            .with("sys/class/net/wan0/ifindex", "2")
            .with("sys/devices/system/cpu/online", "0-1")
            .with("sys/bus/pci/drivers_probe", "")
            .folder("sys/module/vfio_pci")
            .folder("sys/module/vfio_iommu_type1")
            .folder("sys/module/uio_pci_generic")
    }

    fn with_card(tree: Tree, address: &str, vendor: &str, device: &str, driver: &str) -> Tree {
        let folder = format!("sys/bus/pci/devices/{address}");
        let tree = tree
            .with(&format!("{folder}/class"), "0x020000")
            .with(&format!("{folder}/vendor"), &format!("0x{vendor}"))
            .with(&format!("{folder}/device"), &format!("0x{device}"))
            .with(&format!("{folder}/numa_node"), "-1")
            .with(&format!("{folder}/driver_override"), "(null)")
            .with(&format!("sys/bus/pci/drivers/{driver}/unbind"), "");
        tree.link(&format!("{folder}/driver"), &format!("../../drivers/{driver}"))
    }

    fn with_group(tree: Tree, group: u32, addresses: &[&str]) -> Tree {
        addresses.iter().fold(tree, |tree, address| {
            tree.link(
                &format!("sys/bus/pci/devices/{address}/iommu_group"),
                &format!("../../../../kernel/iommu_groups/{group}"),
            )
            .folder(&format!("sys/kernel/iommu_groups/{group}/devices/{address}"))
        })
    }

    fn plan(tree: &Tree) -> Plan {
        Plan { cards: vec![address()], ..Plan::new(tree.record()) }
    }

    fn choice(tree: &Tree) -> Result<Choice, Error> {
        choose(&tree.host(), &card(&tree.host(), address()).unwrap())
    }

    fn refusal(host: &Host, plan: &Plan) -> String {
        prepare(host, plan).expect_err("a refusal").to_string()
    }

    #[test]
    fn an_address_reads_as_the_kernel_writes_it() {
        assert_eq!(address().to_string(), CARD);
        assert_eq!("00AF:FF:1f.7".parse::<PciAddress>().unwrap().to_string(), "00af:ff:1f.7");
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        let wrong = [
            "",
            "03:00.0",
            "0000:03:00",
            "0000:03:00.8",
            "0000:03:20.0",
            "0000:03:00.0 ",
            "0000:03:00.0\n",
            "+000:03:00.0",
            "0000:+3:00.0",
            "0000/03/00.0",
            "../../../../x",
            "0000:03:00.0/..",
            "00000:03:00.0",
            "0000:0é:00.0",
            "é00:03:00.0",
        ];
        for text in wrong {
            assert!(text.parse::<PciAddress>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_in_the_kernels_form_or_refused(text in "[0-9a-fA-Fx:./ +é-]{10,14}") {
            if let Ok(address) = text.parse::<PciAddress>() {
                prop_assert_eq!(address.to_string(), text.to_lowercase());
            }
        }
    }

    #[test]
    fn cards_are_found_with_everything_the_kernel_knows_of_them() {
        let tree = with_group(tree(), 7, &[CARD]);
        let tree = tree.with(&format!("sys/bus/pci/devices/{CARD}/numa_node"), "1");
        let disk = "sys/bus/pci/devices/0000:04:00.0";
        let tree =
            tree.with(&format!("{disk}/class"), "0x010802").folder("sys/bus/pci/devices/strange");
        let virtio = "0000:05:00.0";
        let tree = with_card(tree, virtio, "1af4", "1041", "virtio-pci")
            .folder(&format!("sys/bus/pci/devices/{virtio}/virtio3/net/eth9"));
        let [found, second] = cards(&tree.host()).try_into().expect("two cards");
        let link = Link::Up(Some(10_000));
        assert_eq!(
            found,
            Card {
                address: address(),
                id: "8086:10fb".into(),
                driver: Some("ixgbe".into()),
                interfaces: vec![Interface { name: "wan0".into(), link }],
                node: Some(1),
                iommu_group: Some(7),
            }
        );
        assert_eq!(second.interfaces, [Interface { name: "eth9".into(), link: Link::Unknown }]);
        assert_eq!((second.node, second.iommu_group), (None, None));
    }

    #[test]
    fn a_card_behind_an_iommu_goes_to_vfio_and_any_other_to_uio() {
        assert_eq!(choice(&tree()).unwrap(), Choice::Bind(Driver::UioPciGeneric));
        assert_eq!(choice(&with_group(tree(), 1, &[CARD])).unwrap(), Choice::Bind(Driver::VfioPci));
        let fake =
            with_group(tree(), 1, &[CARD]).with("sys/kernel/iommu_groups/1/name", "vfio-noiommu\n");
        assert_eq!(choice(&fake).unwrap(), Choice::Bind(Driver::UioPciGeneric));
        assert!(!has_iommu(&fake.host()));
        let unsafe_mode =
            tree().with("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
        assert_eq!(choice(&unsafe_mode).unwrap(), Choice::Bind(Driver::VfioPci));
    }

    #[test]
    fn an_x710_without_iommu_is_refused_with_a_remedy() {
        let x710 = |tree| with_card(tree, CARD, "8086", "1572", "i40e");
        let error = choice(&x710(tree())).unwrap_err().to_string();
        assert!(error.contains("IOMMU") && error.contains("igb_uio"), "{error}");
        let guarded = with_group(x710(tree()), 1, &[CARD]);
        assert_eq!(choice(&guarded).unwrap(), Choice::Bind(Driver::VfioPci));
        let loaded = x710(tree()).folder("sys/bus/pci/drivers/igb_uio");
        assert_eq!(choice(&loaded).unwrap(), Choice::Bind(Driver::IgbUio));
    }

    #[test]
    fn an_mlx5_card_is_never_bound() {
        let tree = with_card(with_group(tree(), 1, &[CARD]), CARD, "15b3", "1017", "mlx5_core");
        let tree = tree.folder("sys/module/mlx5_ib").folder("sys/module/ib_uverbs");
        let prepared = prepare(&tree.host(), &plan(&tree)).unwrap();
        assert_eq!(prepared.cards[0].driver, "mlx5_core");
        assert_eq!(tree.read(&format!("sys/bus/pci/devices/{CARD}/driver_override")), "(null)");
        assert!(!tree.record().exists());
    }

    #[test]
    fn a_locked_down_kernel_without_iommu_is_refused() {
        let tree =
            tree().with("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        assert!(matches!(choice(&tree), Err(Error::NoDriver { .. })));
    }

    #[test]
    fn a_card_that_carries_the_default_route_is_refused_unless_forced() {
        let header = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
        let route = format!("{header}wan0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n");
        let tree = tree().with("proc/net/route", &route);
        let refused = refusal(&tree.host(), &plan(&tree));
        assert!(refused.starts_with("0000:03:00.0 (wan0) carries the default route"), "{refused}");
        // Forced, it gets as far as the driver, which plain files cannot give it.
        let forced = Plan { force: true, ..plan(&tree) };
        assert!(matches!(prepare(&tree.host(), &forced), Err(Error::NotBound { .. })));
    }

    #[test]
    fn the_default_route_counts_through_bonds_vlans_and_ipv6() {
        let zeros = "00000000000000000000000000000000";
        let route = format!("{zeros} 00 {zeros} 00 {zeros} 00000400 2 0 00000003 br0\n");
        let tree = tree()
            .with("proc/net/ipv6_route", &route)
            .folder("sys/class/net/wan0/upper_bond0")
            .folder("sys/class/net/bond0/upper_br0")
            .folder("sys/class/net/br0/upper_bond0"); // a loop must not be walked for ever
        let refused = refusal(&tree.host(), &plan(&tree));
        assert!(refused.contains("(wan0) carries the default route through br0"), "{refused}");
    }

    #[test]
    fn a_card_with_an_address_in_use_is_refused_and_a_link_local_one_is_no_use() {
        let tree = tree();
        let host = tree.host().with_address("wan0", "fe80::1".parse().unwrap());
        assert!(matches!(prepare(&host, &plan(&tree)), Err(Error::NotBound { .. })));
        let host = host.with_address("wan0", "192.0.2.7".parse().unwrap());
        let refused = refusal(&host, &plan(&tree));
        assert!(refused.contains("has the address 192.0.2.7 in use"), "{refused}");
    }

    #[test]
    fn a_group_shared_with_a_device_that_stays_with_the_kernel_is_refused() {
        let other = "0000:03:00.1";
        let tree = with_card(tree(), other, "8086", "10fb", "ixgbe");
        let tree = with_group(tree, 5, &[CARD, other]);
        let refused = refusal(&tree.host(), &plan(&tree));
        assert!(refused.contains("shares IOMMU group 5 with 0000:03:00.1 (ixgbe)"), "{refused}");
        let both = Plan { cards: vec![address(), other.parse().unwrap()], ..plan(&tree) };
        assert!(matches!(prepare(&tree.host(), &both), Err(Error::NotBound { .. })));
    }

    #[test]
    fn a_driver_that_does_not_take_the_card_is_an_error_and_the_card_goes_back() {
        // The kernel says yes to every write here, exactly as for a driver that then refuses.
        let tree = with_group(tree(), 1, &[CARD]);
        let error = prepare(&tree.host(), &plan(&tree)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "0000:03:00.0 is bound to ixgbe and not to vfio-pci, although the kernel accepted the \
             request; the kernel's log (dmesg) says why"
        );
        assert_eq!(tree.read(&format!("sys/bus/pci/devices/{CARD}/driver_override")), "");
        assert!(!tree.record().exists());
    }

    #[test]
    fn a_module_that_cannot_be_loaded_is_named() {
        let tree = with_card(Tree::new(), CARD, "8086", "10fb", "ixgbe");
        let refused = refusal(&tree.host(), &plan(&tree));
        assert!(
            refused.starts_with("kernel module uio_pci_generic could not be loaded"),
            "{refused}"
        );
    }

    #[test]
    fn preparing_again_keeps_the_original_driver() {
        let tree = with_group(tree(), 1, &[CARD]);
        let deed = CardDeed {
            address: address(),
            driver: name("vfio-pci").unwrap(),
            original: Some(name("ixgbe").unwrap()),
            original_override: None,
        };
        let host = tree.host();
        Journal::open(&host, &tree.record()).unwrap().begin(Deed::Card(deed.clone())).unwrap();
        let bound =
            tree.link(&format!("sys/bus/pci/devices/{CARD}/driver"), "../../drivers/vfio-pci");
        let prepared = prepare(&bound.host(), &plan(&bound)).unwrap();
        assert_eq!(prepared.cards[0].original.as_deref(), Some("ixgbe"));
        assert_eq!(Journal::open(&host, &bound.record()).unwrap().deeds(), [Deed::Card(deed)]);
    }

    #[test]
    fn a_card_that_a_program_holds_open_is_not_unbound() {
        let tree = with_group(tree(), 9, &[CARD])
            .link(&format!("sys/bus/pci/devices/{CARD}/driver"), "../../drivers/vfio-pci")
            .with("sys/bus/pci/drivers/vfio-pci/unbind", "")
            .link("proc/4711/fd/3", "/dev/vfio/9")
            .with("proc/4711/comm", "testpmd\n");
        let deed = CardDeed {
            address: address(),
            driver: name("vfio-pci").unwrap(),
            original: Some(name("ixgbe").unwrap()),
            original_override: None,
        };
        Journal::open(&tree.host(), &tree.record()).unwrap().begin(Deed::Card(deed)).unwrap();
        let error = restore(&tree.host(), &tree.record()).unwrap_err().to_string();
        assert!(error.contains("is in use by testpmd (process 4711)"), "{error}");
        assert_eq!(tree.read("sys/bus/pci/drivers/vfio-pci/unbind"), "");
        assert!(tree.record().exists(), "what was not given back must stay in the record");
    }

    #[test]
    fn a_card_that_is_gone_or_bound_by_somebody_else_is_left_alone() {
        let deed = |address: &str| CardDeed {
            address: address.parse().unwrap(),
            driver: name("vfio-pci").unwrap(),
            original: Some(name("i40e").unwrap()),
            original_override: None,
        };
        let tree = tree();
        assert!(
            give_back(&tree.host(), &deed("0000:99:00.0")).unwrap().contains("not there any more")
        );
        assert!(give_back(&tree.host(), &deed(CARD)).unwrap().contains("left alone"));
        assert_eq!(tree.read(&format!("sys/bus/pci/devices/{CARD}/driver_override")), "(null)");
    }

    #[test]
    fn what_is_no_card_is_named_as_such() {
        let disk = "sys/bus/pci/devices/0000:04:00.0";
        let tree = tree().with(&format!("{disk}/class"), "0x010802");
        let asked = |address: &str| Plan { cards: vec![address.parse().unwrap()], ..plan(&tree) };
        assert!(refusal(&tree.host(), &asked("0000:04:00.0")).contains("not a network card"));
        assert!(refusal(&tree.host(), &asked("0000:05:00.0")).contains("no card at 0000:05:00.0"));
    }
}
