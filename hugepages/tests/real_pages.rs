//! Huge pages reserved from the running kernel and given back. This needs root.

use std::{fs, path::Path};

use hugepages::{
    Error, Host, OnShortfall, PageSize, Plan,
    memory::{Memory, PageRequest, pools},
    prepare, restore,
};

/// Restores when it goes out of scope, so that a test that fails takes no page with it.
struct Record(tempfile::TempDir);

impl Record {
    fn new() -> Self {
        let nobody = fs::OpenOptions::new().write(true).open("/proc/sys/vm/nr_hugepages");
        assert!(
            nobody.is_ok(),
            "this test reserves huge pages, so it must run as root: {nobody:?}"
        );
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn plan(&self, pages: u64) -> Plan {
        let pages = vec![PageRequest { size: PageSize::TwoMiB, pages, node: None }];
        Plan { pages, ..Plan::new(self.0.path().join("host.json")) }
    }

    fn restore(&self) -> Vec<String> {
        restore(&Host::real(), &self.0.path().join("host.json"))
            .expect("a restored host")
            .given_back
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let _ = restore(&Host::real(), &self.0.path().join("host.json"));
    }
}

/// What the kernel says, read past the code under test.
fn kernel(file: &str) -> u64 {
    let text = fs::read_to_string(Path::new("/proc/sys/vm").join(file)).expect("a kernel file");
    text.trim().parse().expect("a number")
}

fn free() -> u64 {
    let pools = pools(&Host::real()).expect("the kernel's pools");
    pools.iter().filter(|one| one.pool.size == PageSize::TwoMiB).map(|one| one.counts.free).sum()
}

// One test, because the counts are the whole host's.
#[test]
fn pages_are_reserved_from_the_kernel_and_exactly_those_are_given_back() {
    let before = kernel("nr_hugepages");
    let record = Record::new();

    let plan = record.plan(free() + 7);
    let prepared = prepare(&Host::real(), &plan).expect("seven more pages");
    assert!(matches!(prepared.memory, Memory::Huge { .. }));
    assert_eq!(kernel("nr_hugepages"), before + 7);

    prepare(&Host::real(), &plan).expect("the same again");
    assert_eq!(kernel("nr_hugepages"), before + 7, "preparing twice must reserve once");

    assert_eq!(record.restore().len(), 1);
    assert_eq!(kernel("nr_hugepages"), before);
    assert!(record.restore().is_empty(), "there is nothing left to give back");
    assert_eq!(kernel("nr_hugepages"), before);

    let far_too_many = record.plan(1 << 40);
    let refused = prepare(&Host::real(), &far_too_many).expect_err("a shortfall");
    assert!(matches!(refused, Error::Shortfall(_)), "{refused}");
    let plain = Plan { on_shortfall: OnShortfall::Plain, ..far_too_many };
    let prepared = prepare(&Host::real(), &plain).expect("plain memory");
    assert!(matches!(prepared.memory, Memory::Plain { .. }));
    assert_eq!(kernel("nr_hugepages"), before);
}
