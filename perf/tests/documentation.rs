//! `docs/benchmarking.md` against the program: every option is there, and none that is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn page() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarking.md");
    fs::read_to_string(file).unwrap()
}

/// The options of the page's tables: what stands in the first column.
fn documented() -> BTreeSet<String> {
    let page = page();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `perf --"));
    rows.map(|row| format!("--{}", row.split(['`', ' ']).next().unwrap())).collect()
}

#[test]
fn the_page_lists_the_options_that_there_are() {
    let there_are: BTreeSet<String> = perf::command::options().into_iter().collect();
    assert!(there_are.len() > 15, "{there_are:?}");
    assert_eq!(documented(), there_are);
}

#[test]
fn the_page_names_every_suite_and_every_rival() {
    let page = page();
    for name in
        ["`step`", "`wire`", "`rivals`", "VPP", "DPVS", "Katran", "testpmd", "nftables", "HAProxy"]
    {
        assert!(page.contains(name), "{name}");
    }
}
