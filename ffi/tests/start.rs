//! How DPDK is started: refused, then started, then not again. One test, because one process has
//! one start.

#![deny(unsafe_code)]

use dpdk_sys::{Device, Eal, EalOptions, Error, LogLevel, Memory, Port};

#[test]
fn refusals_before_the_start_leave_it_possible_and_afterwards_it_is_not() {
    let options = EalOptions {
        program: "start".into(),
        memory: Memory::Plain { megabytes: 64 },
        control_core: 0,
        allowed: vec![],
        log: LogLevel::Warning,
    };
    let start = |options: EalOptions| Eal::start(&options);

    let memory = Memory::Huge { megabytes: 1 << 40 };
    let refused =
        start(EalOptions { memory, ..options.clone() }).expect_err("no machine has that many");
    assert!(matches!(refused, Error::HugePages { asked, .. } if asked == 1 << 40), "{refused}");
    assert!(refused.to_string().contains("sluice host prepare"), "{refused}");

    let refused = start(EalOptions { control_core: 1000, ..options.clone() })
        .expect_err("no machine has that many");
    assert!(matches!(refused, Error::Core { core: 1000, .. }), "{refused}");

    let allowed = vec!["0000:03:00.0 --vdev=net_null0".into()];
    let refused = start(EalOptions { allowed, ..options.clone() }).expect_err("not an address");
    assert!(matches!(refused, Error::Malformed { what: "PCI address", .. }), "{refused}");

    let eal = start(options.clone()).expect("DPDK starts without huge pages and without cards");
    assert!(matches!(start(options.clone()), Err(Error::AlreadyStarted)));

    // A port keeps DPDK up; the last to go shuts it down, and that is final.
    let port =
        Port::open(&eal, &Device::Virtual("net_null0".into())).expect("net_null is always there");
    drop(eal);
    assert_eq!(port.driver_name(), "net_null");
    drop(port);
    assert!(matches!(start(options), Err(Error::AlreadyStarted)));
}
