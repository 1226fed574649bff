//! Starts DPDK, opens the virtual devices named on the command line, such as `net_null0`, and
//! prints each port with its driver and MAC address. Fails when there is none: a static build
//! whose drivers were left out by the linker looks healthy until then. The three ways to link:
//!
//! ```sh
//! cargo run --release -p dpdk-sys --example ports -- net_null0
//! DPDK_LINK=static cargo run --release -p dpdk-sys --example ports -- net_null0
//! DPDK_LINK=static RUSTFLAGS="-C target-feature=+crt-static" \
//!     cargo run --release -p dpdk-sys --example ports --target x86_64-unknown-linux-gnu -- net_null0
//! ```

use std::process::ExitCode;

use dpdk_sys::{Device, Eal, EalOptions, Error, LogLevel, Memory, Port};

fn main() -> ExitCode {
    match ports(std::env::args().skip(1)) {
        Ok(0) => {
            eprintln!("no port found: name some devices, such as net_null0");
            ExitCode::FAILURE
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn ports(devices: impl Iterator<Item = String>) -> Result<usize, Error> {
    let eal = Eal::start(&EalOptions {
        program: "ports".into(),
        memory: Memory::Plain { megabytes: 64 },
        control_core: 0,
        allowed: vec![],
        log: LogLevel::Warning,
    })?;
    let ports = devices
        .map(|device| Port::open(&eal, &Device::Virtual(device)))
        .collect::<Result<Vec<_>, _>>()?;
    for port in &ports {
        let mac = port.mac().map(|byte| format!("{byte:02x}")).join(":");
        println!("{} {} {mac}", port.device_name(), port.driver_name());
    }
    Ok(ports.len())
}
