//! Many processes that reserve and give back at the same time: in the end there are as many pages as in the beginning.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use hugepages::{
    Host, PageSize, Plan,
    memory::{Memory, PageRequest},
    prepare, restore,
};

const PROCESSES: usize = 12;
const ROUNDS: usize = 25;
/// Pages that there are before.
const BEFORE: u64 = 5;
/// Tells a process of this test where its host is, and which it is.
const ROOT: &str = "HUGEPAGES_TEST_ROOT";
const NUMBER: &str = "HUGEPAGES_TEST_NUMBER";

const POOL: &str = "sys/devices/system/node/node0/hugepages/hugepages-2048kB";

fn file(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a path in the tree")).expect("a folder");
    fs::write(path, content).expect("a file in the tree");
}

fn processes(root: &Path) -> Vec<Child> {
    let program = env::current_exe().expect("this program");
    let start = |number: usize| {
        let mut command = Command::new(&program);
        command.args(["--exact", "one_of_many_reserves_and_gives_back"]);
        command.env(ROOT, root).env(NUMBER, number.to_string());
        command.spawn().expect("another process")
    };
    (0..PROCESSES).map(start).collect()
}

#[test]
fn many_processes_that_change_the_pages_at_once_lose_no_change() {
    let tree = tempfile::tempdir().expect("a temporary folder");
    file(tree.path(), "proc/sys/kernel/random/boot_id", "this-boot");
    file(tree.path(), "sys/devices/system/cpu/online", "0");
    file(tree.path(), "sys/devices/system/node/node0/cpulist", "0");
    file(tree.path(), &format!("{POOL}/nr_hugepages"), &BEFORE.to_string());
    file(tree.path(), &format!("{POOL}/free_hugepages"), "0");
    file(tree.path(), &format!("{POOL}/surplus_hugepages"), "0");
    for mut process in processes(tree.path()) {
        assert!(process.wait().expect("its end").success());
    }
    let left = fs::read_to_string(tree.path().join(POOL).join("nr_hugepages")).expect("a count");
    assert_eq!(left, BEFORE.to_string());
}

/// Started by the test above, many times; by itself it has nothing to do.
#[test]
fn one_of_many_reserves_and_gives_back() {
    let Some(root) = env::var_os(ROOT).map(PathBuf::from) else { return };
    let number = env::var(NUMBER).expect("a number");
    let host = Host::at(&root);
    let record = root.join(format!("run/{number}/host.json"));
    let pages = 1 + number.parse::<u64>().expect("a number");
    for _ in 0..ROUNDS {
        let request = PageRequest { size: PageSize::TwoMiB, pages, node: None };
        let plan = Plan { pages: vec![request], ..Plan::new(&record) };
        let prepared = prepare(&host, &plan).expect("the pages");
        let Memory::Huge { pools } = prepared.memory else { panic!("plain memory") };
        assert_eq!(pools[0].added, pages);
        assert_eq!(restore(&host, &record).expect("a restored host").given_back.len(), 1);
    }
}
