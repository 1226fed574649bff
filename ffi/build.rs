//! Finds DPDK, compiles the shim, writes the bindings, and says how to link.
//!
//! `DPDK_LINK=dynamic` (the default) links DPDK's shared libraries; drivers come from EAL's plugin
//! directory when the program starts. `DPDK_LINK=static` puts DPDK and the drivers named in
//! [`DRIVERS`] into the program, for a boot image with no shared libraries. A program without any
//! is made with `RUSTFLAGS="-C target-feature=+crt-static"` and an explicit `--target`, so that
//! build scripts stay dynamic.

use std::path::{Path, PathBuf};
use std::{env, panic};

/// Linked whole: they register themselves in constructors, which nothing else refers to. net_pcap
/// is missing because libpcap.a needs libdbus and that libsystemd, of which Debian has no archive.
const DRIVERS: &[&str] = &[
    "bus_auxiliary",
    "bus_pci",
    "bus_vdev",
    "common_iavf",
    "common_mlx5",
    "mempool_ring",
    "net_af_packet",
    "net_bnxt",
    "net_bond",
    "net_e1000",
    "net_ena",
    "net_i40e",
    "net_iavf",
    "net_ice",
    "net_igc",
    "net_ixgbe",
    "net_memif",
    "net_mlx5",
    "net_null",
    "net_ring",
    "net_tap",
    "net_virtio",
    "net_vmxnet3",
];

/// What the shim and the drivers call. `log` and `argparse` were split off in later releases.
const CORE: &[&str] = &[
    "ethdev",
    "hash",
    "rcu",
    "mbuf",
    "mempool",
    "ring",
    "pci",
    "net",
    "meter",
    "telemetry",
    "kvargs",
    "eal",
    "timer",
    "security",
    "cryptodev",
    "gso",
    "gro",
    "ip_frag",
    "sched",
    "log",
    "argparse",
];

fn main() {
    for name in ["shim/shim.c", "shim/shim.h", "build.rs"] {
        println!("cargo::rerun-if-changed={name}");
    }
    println!("cargo::rerun-if-env-changed=DPDK_LINK");

    // Without metadata: left to itself the crate would emit the dynamic link lines.
    let dpdk = pkg_config::Config::new()
        .cargo_metadata(false)
        .atleast_version("22.11")
        .probe("libdpdk")
        .unwrap_or_else(|reason| panic!("DPDK 22.11 or later was not found; on Debian: apt-get install libdpdk-dev pkg-config\n{reason}"));

    compile_shim(&dpdk.include_paths);
    write_bindings(&dpdk.include_paths);

    match env::var("DPDK_LINK").as_deref() {
        Err(_) | Ok("" | "dynamic") => link_dynamic(&dpdk.libs),
        Ok("static") => link_static(),
        Ok(other) => panic!("DPDK_LINK: expected dynamic or static, found {other:?}"),
    }
}

/// The two compilers must see the same headers; pkg-config's crate drops these two flags.
const FLAGS: [&str; 3] = ["-include", "rte_config.h", "-march=corei7"];

fn compile_shim(include: &[PathBuf]) {
    let mut shim = cc::Build::new();
    shim.file("shim/shim.c").includes(include).warnings(true).warnings_into_errors(true);
    for flag in FLAGS {
        shim.flag(flag);
    }
    // An undeclared function would return an int: a pointer cut in half, and only in some builds.
    shim.flag("-Werror=implicit-function-declaration");
    shim.flag("-Wno-unused-parameter"); // in DPDK's own inline functions
    shim.compile("sluice_dpdk_shim");
}

fn write_bindings(include: &[PathBuf]) {
    let into = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("sys.rs");
    // It panics when it cannot load libclang, and then says nothing of packages.
    panic::catch_unwind(bindgen::clang_version).unwrap_or_else(|_| {
        panic!("libclang was not found; on Debian: apt-get install libclang-dev")
    });
    bindgen::Builder::default()
        .header("shim/shim.h")
        .clang_args(FLAGS)
        .clang_args(include.iter().map(|path| format!("-I{}", path.display())))
        .allowlist_function("shim_.*")
        .allowlist_type("shim_.*")
        .allowlist_recursively(false) // or DPDK's structures come along
        .allowlist_function("rte_eal_(init|cleanup|get_runtime_dir|hotplug_add|hotplug_remove)")
        .allowlist_function("rte_thread_(register|unregister)|rte_get_tsc_hz")
        .allowlist_function("rte_pktmbuf_pool_create|rte_mempool_avail_count")
        .allowlist_function(
            "rte_eth_dev_(start|stop|close|socket_id)|rte_eth_(promiscuous|allmulticast)_enable",
        )
        .allowlist_function("rte_zmalloc_socket|rte_free|rte_eth_from_rings")
        .raw_line("#[repr(C)] pub struct rte_mbuf { _opaque: [u8; 0] }")
        .raw_line("#[repr(C)] pub struct rte_mempool { _opaque: [u8; 0] }")
        .raw_line("#[repr(C)] pub struct rte_ring { _opaque: [u8; 0] }")
        .prepend_enum_name(false)
        .layout_tests(false)
        .generate_comments(false)
        .generate()
        .expect("the shim's header is the one that was just compiled")
        .write_to_file(into)
        .expect("OUT_DIR can be written");
}

/// The linker drops what is not called (rustc passes --as-needed).
fn link_dynamic(libraries: &[String]) {
    println!("cargo::rustc-link-search=native={}", library_directory().display());
    for library in libraries.iter().filter(|name| name.starts_with("rte_")) {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    println!("cargo::rustc-link-lib=dylib=rte_net_ring"); // the one driver with functions of its own
}

fn link_static() {
    let directory = library_directory();
    let present = |name: &&&str| directory.join(format!("librte_{name}.a")).exists();
    println!("cargo::rustc-link-search=native={}", directory.display());
    for driver in DRIVERS {
        println!("cargo::rustc-link-lib=static:+whole-archive,-bundle=rte_{driver}");
    }
    for library in CORE.iter().filter(present) {
        println!("cargo::rustc-link-lib=static:-bundle=rte_{library}");
    }
    for library in ["mlx5", "ibverbs", "nl-route-3", "nl-3", "numa", "bsd", "md"] {
        println!("cargo::rustc-link-lib=static:-bundle={library}");
    }
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        return; // libc.a holds libm's part, and -lm after -Bdynamic makes a program that dies before main
    }
    println!("cargo::rustc-link-lib=dylib=m");
}

fn library_directory() -> PathBuf {
    let directory =
        pkg_config::get_variable("libdpdk", "libdir").expect("libdpdk.pc was read a moment ago");
    Path::new(&directory).to_path_buf()
}
