//! Pages on a made tree of the kernel's files; the kernel itself is asked in `tests/host`.

use super::*;
use crate::{OnShortfall, Plan, host::tree::Tree, prepare, restore};

const SYSTEM: &str = "sys/devices/system";

/// A tree with `nodes` nodes that have `total` pages of 2 MiB each, `free` of them free.
fn tree(nodes: u32, total: u64, free: u64) -> Tree {
    let tree = Tree::new().with(&format!("{SYSTEM}/cpu/online"), "0-1");
    (0..nodes).fold(tree, |tree, node| {
        pool(tree, &format!("{SYSTEM}/node/node{node}/hugepages/hugepages-2048kB"), total, free)
            .with(&format!("{SYSTEM}/node/node{node}/cpulist"), "0-1")
    })
}

fn pool(tree: Tree, folder: &str, total: u64, free: u64) -> Tree {
    tree.with(&format!("{folder}/nr_hugepages"), &total.to_string())
        .with(&format!("{folder}/free_hugepages"), &free.to_string())
        .with(&format!("{folder}/surplus_hugepages"), "0")
}

fn pages(tree: &Tree, node: u32) -> String {
    tree.read(&format!("{SYSTEM}/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages"))
}

fn plan(tree: &Tree, pages: u64, node: Option<u32>) -> Plan {
    let pages = vec![PageRequest { size: PageSize::TwoMiB, pages, node }];
    Plan { pages, ..Plan::new(tree.record()) }
}

fn refusal(tree: &Tree, plan: &Plan) -> Shortfall {
    match prepare(&tree.host(), plan) {
        Err(Error::Shortfall(shortfall)) => shortfall,
        other => panic!("expected a shortfall, found {other:?}"),
    }
}

#[test]
fn only_what_is_missing_is_added_and_only_that_is_given_back() {
    let tree = tree(1, 10, 4);
    prepare(&tree.host(), &plan(&tree, 7, None)).unwrap();
    assert_eq!(pages(&tree, 0), "13");
    let restored = restore(&tree.host(), &tree.record()).unwrap();
    assert_eq!(restored.given_back, ["3 huge pages of 2MiB on node 0"]);
    assert_eq!(pages(&tree, 0), "10");
    assert!(!tree.record().exists());
}

#[test]
fn pages_that_somebody_else_adds_meanwhile_are_left_to_them() {
    let tree = tree(1, 0, 0);
    prepare(&tree.host(), &plan(&tree, 8, None)).unwrap();
    let tree =
        tree.with(&format!("{SYSTEM}/node/node0/hugepages/hugepages-2048kB/nr_hugepages"), "20");
    restore(&tree.host(), &tree.record()).unwrap();
    assert_eq!(pages(&tree, 0), "12");
}

#[test]
fn preparing_twice_reserves_once_even_while_the_pages_are_in_use() {
    let tree = tree(1, 0, 0); // free stays 0, as if a program held them all
    prepare(&tree.host(), &plan(&tree, 8, None)).unwrap();
    prepare(&tree.host(), &plan(&tree, 8, None)).unwrap();
    assert_eq!(pages(&tree, 0), "8");
    restore(&tree.host(), &tree.record()).unwrap();
    assert_eq!(pages(&tree, 0), "0");
}

#[test]
fn asking_for_more_later_adds_the_difference() {
    let tree = tree(1, 2, 0);
    prepare(&tree.host(), &plan(&tree, 8, None)).unwrap();
    prepare(&tree.host(), &plan(&tree, 11, None)).unwrap();
    assert_eq!(pages(&tree, 0), "13");
    restore(&tree.host(), &tree.record()).unwrap();
    assert_eq!(pages(&tree, 0), "2");
}

#[test]
fn pages_are_spread_over_the_nodes_or_put_where_asked() {
    let tree = tree(2, 0, 0);
    prepare(&tree.host(), &plan(&tree, 7, None)).unwrap();
    assert_eq!((pages(&tree, 0), pages(&tree, 1)), ("4".into(), "3".into()));
    restore(&tree.host(), &tree.record()).unwrap();
    prepare(&tree.host(), &plan(&tree, 7, Some(1))).unwrap();
    assert_eq!((pages(&tree, 0), pages(&tree, 1)), ("0".into(), "7".into()));
}

#[test]
fn without_folders_for_nodes_the_global_count_is_used() {
    let folder = "sys/kernel/mm/hugepages/hugepages-2048kB";
    let tree = Tree::new().with(&format!("{SYSTEM}/cpu/online"), "0");
    let tree = pool(tree, folder, 1, 0);
    prepare(&tree.host(), &plan(&tree, 5, None)).unwrap();
    assert_eq!(tree.read(&format!("{folder}/nr_hugepages")), "6");
}

#[test]
fn pages_promised_to_another_program_are_not_taken_for_free() {
    let tree = tree(1, 4, 4).with("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "3");
    prepare(&tree.host(), &plan(&tree, 4, None)).unwrap();
    assert_eq!(pages(&tree, 0), "7");
}

#[test]
fn a_size_or_node_that_is_not_there_is_a_shortfall() {
    let tree = tree(1, 0, 0);
    let missing = refusal(&tree, &plan(&tree, 5, Some(3)));
    assert_eq!((missing.asked, missing.got, missing.reason), (5, 0, ShortfallReason::NotOffered));
    let gib = PageRequest { size: PageSize::OneGiB, pages: 1, node: None };
    let missing = refusal(&tree, &Plan { pages: vec![gib], ..plan(&tree, 0, None) });
    assert_eq!(missing.reason, ShortfallReason::NotOffered);
}

#[test]
fn more_than_the_host_can_spare_is_never_asked_for() {
    let tree = tree(1, 0, 0).with("proc/meminfo", "MemTotal: 999999 kB\nMemAvailable: 131072 kB\n");
    prepare(&tree.host(), &plan(&tree, 32, None)).unwrap(); // 64 of 128 MiB
    restore(&tree.host(), &tree.record()).unwrap();
    let short = refusal(&tree, &plan(&tree, 33, None));
    assert_eq!(short.reason, ShortfallReason::WouldStarveTheHost(128 << 20));
    assert_eq!(pages(&tree, 0), "0");
    refusal(&tree, &plan(&tree, u64::MAX, None));
}

#[test]
fn plain_memory_is_the_answer_where_the_caller_would_rather_have_that() {
    let tree = tree(2, 3, 0).with("proc/meminfo", "MemAvailable: 131072 kB\n");
    let asked = Plan { on_shortfall: OnShortfall::Plain, ..plan(&tree, 66, None) };
    let prepared = prepare(&tree.host(), &asked).unwrap();
    assert!(matches!(prepared.memory, Memory::Plain { .. }), "{prepared:?}");
    assert_eq!((pages(&tree, 0), pages(&tree, 1)), ("3".into(), "3".into()));
    assert!(!tree.record().exists());
}

#[test]
fn a_process_that_died_before_the_kernel_answered_takes_no_page_of_others() {
    let tree = tree(1, 10, 0);
    let folder = format!("{SYSTEM}/node/node0/hugepages/hugepages-2048kB/nr_hugepages");
    let pool = Pool { size: PageSize::TwoMiB, node: Some(0) };
    let deed = PagesDeed { pool, before: 10, pages: 5, certain: false, secured: 0 };
    for (now, left) in [("10", "10"), ("12", "10"), ("15", "10"), ("18", "13"), ("9", "9")] {
        let tree = tree.host();
        Journal::open(&tree, &tree.path("/run/host.json"))
            .unwrap()
            .begin(Deed::Pages(deed))
            .unwrap();
        tree.write(&folder, now).unwrap();
        restore(&tree, &tree.path("/run/host.json")).unwrap();
        assert_eq!(tree.read(&folder).unwrap(), left, "of {now}");
    }
}

#[test]
fn a_mounted_hugetlbfs_is_found_by_the_size_of_its_pages() {
    let tree = Tree::new().with(
        "proc/mounts",
        "proc /proc proc rw 0 0\nhugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n\
         nodev /mnt/huge\\0401G hugetlbfs rw,pagesize=1024M 0 0\nx /y hugetlbfs rw 0 0\n",
    );
    let found = mounts(&tree.with("proc/meminfo", "Hugepagesize:    2048 kB\n").host());
    let sizes: Vec<_> = found.iter().map(|mount| mount.page_bytes >> 20).collect();
    assert_eq!(sizes, [2, 1024, 2]);
    assert_eq!(found[1].path, PathBuf::from("/mnt/huge 1G"));
}

#[test]
fn a_shortfall_says_what_to_do() {
    let pool = Pool { size: PageSize::OneGiB, node: Some(1) };
    let reason = ShortfallReason::Fragmented;
    let text = Shortfall { pool, asked: 4, got: 1, reason }.to_string();
    assert_eq!(
        text,
        "asked for 4 huge pages of 1GiB on node 1, got 1: the kernel has no more free memory in \
         pieces of that size; reserve them at boot (kernel command line: hugepagesz=1G \
         hugepages=4), or ask for at most 1"
    );
}
