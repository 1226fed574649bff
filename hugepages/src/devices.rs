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
mod tests;
