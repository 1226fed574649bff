//! Cards on a made tree of the kernel's files; the kernel itself is asked in `tests/host`.

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
    let unsafe_mode = tree().with("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
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
    let tree = tree().with("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
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
    assert!(refused.starts_with("kernel module uio_pci_generic could not be loaded"), "{refused}");
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
    let bound = tree.link(&format!("sys/bus/pci/devices/{CARD}/driver"), "../../drivers/vfio-pci");
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
    assert!(give_back(&tree.host(), &deed("0000:99:00.0")).unwrap().contains("not there any more"));
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
