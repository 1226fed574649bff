//! What the owned types promise, on DPDK's virtual devices. DPDK starts once per process, so all
//! of this is one program; each test has its own pool and ports, and ends with every buffer home.
#![deny(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use dpdk_sys::lcore::{self, spawn_pinned};
use dpdk_sys::{
    Device, Eal, EalOptions, Error, Hashes, HugeSlice, LogLevel, Mbuf, Memory, Mempool, Port,
    PortSettings, ReceiveQueue, Reception, TransmitQueue,
};
use nix::sched::{CloneFlags, sched_getaffinity, unshare};
use nix::unistd::Pid;

type Burst = ArrayVec<Mbuf, 32>;

fn options() -> EalOptions {
    EalOptions {
        program: "dpdk-sys tests".into(),
        memory: Memory::Plain { megabytes: 512 },
        control_core: 0,
        allowed: vec![],
        log: LogLevel::Warning,
    }
}

fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        let start =
            || Eal::start(&options()).expect("DPDK starts without huge pages and without cards");
        std::thread::spawn(start).join().expect("a thread of its own, because starting pins it")
    })
}

fn pool(buffers: u32) -> Mempool {
    Mempool::new(eal(), "test", buffers, 2048, None).expect("there is memory for the tests")
}

fn open(device: &str) -> Port {
    Port::open(eal(), &Device::Virtual(device.into()))
        .unwrap_or_else(|refused| panic!("{device}: {refused}"))
}

fn started(port: Port, pool: &Mempool) -> (dpdk_sys::StartedPort, ReceiveQueue, TransmitQueue) {
    let (port, receive, transmit) =
        port.start(&PortSettings::default(), pool).expect("the port starts");
    let [receive] = <[_; 1]>::try_from(receive).expect("one was asked for");
    let [transmit] = <[_; 1]>::try_from(transmit).expect("one was asked for");
    (port, receive, transmit)
}

#[track_caller]
fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if let Some(found) = attempt() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it did not happen within 10 s");
}

/// A capture file (https://wiki.wireshark.org/Development/LibpcapFileFormat), little-endian.
fn write_capture(path: &Path, frames: &[Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    fs::write(path, file).expect("a temporary file can be written");
}

fn read_capture(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).expect("the capture exists");
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        frames.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    frames
}

fn frame_of(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + seed) as u8).collect()
}

#[test]
fn dpdk_leaves_no_directory_behind() {
    eal();
    assert!(!Path::new(&format!("/run/dpdk/sluice-{}", std::process::id())).exists());
}

#[test]
fn buffers_come_home() {
    let pool = pool(64);
    let mut frames: Vec<Mbuf> = std::iter::from_fn(|| pool.allocate()).collect();
    assert_eq!((frames.len(), pool.available(), pool.capacity()), (64, 0, 64));
    assert!(pool.allocate().is_none());
    frames.truncate(10);
    assert_eq!(pool.available(), 54);
    drop(frames);
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn buffers_are_fetched_and_given_back_in_bulk_all_or_none() {
    let pool = pool(64);
    let mut frames = ArrayVec::<Mbuf, 40>::new();
    assert!(pool.allocate_bulk(30, &mut frames));
    assert_eq!((frames.len(), pool.available()), (30, 34));
    assert!(frames.iter_mut().all(|frame| frame.append(60).is_some() && frame.len() == 60));
    assert!(!pool.allocate_bulk(11, &mut frames), "there is room for 10");
    let mut others = ArrayVec::<Mbuf, 40>::new();
    assert!(!pool.allocate_bulk(35, &mut others), "34 are free");
    assert_eq!((frames.len(), others.len(), pool.available()), (30, 0, 34));
    assert!(pool.allocate_bulk(34, &mut others) && pool.allocate_bulk(0, &mut others));
    let all: BTreeSet<_> =
        frames.iter().chain(&others).map(|frame| frame.bytes().as_ptr()).collect();
    assert_eq!((all.len(), pool.available()), (64, 0), "each buffer once");
    assert!(others.iter().all(|frame| frame.len() == 0), "empty, whatever they held before");
    Mbuf::give_back(&mut frames);
    Mbuf::give_back(&mut frames);
    Mbuf::give_back(&mut others);
    assert_eq!((frames.len(), others.len(), pool.available()), (0, 0, 64));
}

#[test]
fn a_pool_that_does_not_fit_is_refused_with_a_remedy() {
    let refused = Mempool::new(eal(), "large", 1 << 29, 2048, None).expect_err("1 TB of 512 MB");
    assert!(matches!(refused, Error::Memory { .. }), "{refused}");
    assert!(
        refused.to_string().starts_with("no memory for 536870912 packet buffers of 2176 bytes"),
        "{refused}"
    );
}

#[test]
fn headers_fit_in_front_as_far_as_the_headroom_reaches() {
    let pool = pool(8);
    let mut frame = pool.allocate_from(b"payload").expect("a free buffer");
    frame.prepend(20).expect("headroom").fill(0xaa);
    assert_eq!(frame.bytes(), [&[0xaa; 20][..], b"payload"].concat());
    assert_eq!((frame.len(), frame.frame_len()), (27, 27));

    assert!(frame.prepend(Mbuf::HEADROOM - 20 + 1).is_none());
    assert!(frame.prepend(usize::MAX).is_none());
    assert_eq!(frame.len(), 27);
    assert!(frame.prepend(Mbuf::HEADROOM - 20).is_some());
    assert!(frame.prepend(1).is_none());
    assert_eq!(frame.prepend(0).map(|room| room.len()), Some(0));

    assert!(frame.trim_front(Mbuf::HEADROOM));
    assert_eq!(frame.bytes(), b"payload");
    assert!(!frame.trim_front(8));
    assert!(frame.trim_front(7));
    assert_eq!((frame.len(), frame.frame_len()), (0, 0));
    drop(frame);
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn a_frame_grows_and_shrinks_at_its_end_within_its_buffer() {
    let pool = pool(8);
    let mut frame = pool.allocate().expect("a free buffer");
    assert_eq!(frame.append(2048).map(|room| room.len()), Some(2048));
    assert!(frame.append(1).is_none());
    assert!(frame.append(usize::MAX).is_none());
    frame.truncate(2049);
    assert_eq!(frame.len(), 2048);
    frame.truncate(60);
    assert_eq!((frame.len(), frame.frame_len()), (60, 60));
    assert_eq!(frame.append(1988).map(|room| room.len()), Some(1988));
    assert_eq!(frame.stripped_vlan(), None);
    assert!(pool.allocate_from(&[0; 2049]).is_none());
    drop(frame);
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn a_capture_goes_through_two_ports_and_is_complete_when_they_are_gone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (input, output) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
    let sent: Vec<Vec<u8>> = (0..100).map(|index| frame_of(60 + index * 14, index)).collect();
    write_capture(&input, &sent);

    let pool = pool(256);
    let unused = directory.path().join("unused.pcap");
    let from = open(&format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), unused.display()));
    let to = open(&format!("net_pcap1,rx_pcap={},tx_pcap={}", input.display(), output.display()));
    let (from, mut receive, idle) = started(from, &pool);
    let (to, also_idle, mut transmit) = started(to, &pool);
    let mut burst = Burst::new();
    while receive.receive(&mut burst) > 0 {
        assert!(burst.iter().all(|frame| !frame.is_chained()));
        while !burst.is_empty() {
            transmit.transmit(&mut burst);
        }
    }
    assert_eq!(from.statistics().expect("net_pcap counts").received, 100);
    assert_eq!(to.statistics().expect("net_pcap counts").transmitted, 100);
    drop((from, to, receive, idle, also_idle, transmit));

    assert_eq!(read_capture(&output), sent);
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn a_frame_larger_than_a_buffer_arrives_chained_and_leaves_whole() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (input, output) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
    let large = frame_of(4000, 3);
    write_capture(&input, &[large.clone(), large.clone()]);

    let pool = pool(64);
    let port = open(&format!("net_pcap2,rx_pcap={},tx_pcap={}", input.display(), output.display()));
    let (port, mut receive, mut transmit) = started(port, &pool);
    let mut burst = Burst::new();
    assert_eq!(receive.receive(&mut burst), 2);
    let frame = &mut burst[0];
    assert!(frame.is_chained());
    assert_eq!(frame.frame_len(), 4000);
    assert_eq!(frame.bytes(), &large[..frame.len()]);
    assert!(frame.append(1).is_none());

    let before = pool.available();
    frame.truncate(1000);
    assert_eq!(pool.available(), before + 1);
    assert_eq!((frame.is_chained(), frame.len(), frame.frame_len()), (false, 1000, 1000));

    assert_eq!(transmit.transmit(&mut burst), 2);
    drop((port, receive, transmit));
    assert_eq!(read_capture(&output), [large[..1000].to_vec(), large]);
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn what_a_queue_refuses_stays_in_order() {
    let pool = pool(2048);
    // Loops back to itself, and takes 1023 frames until they are fetched.
    let (port, mut receive, mut transmit) = started(open("net_ring_full"), &pool);
    let mut sent = 0_u32;
    let mut burst = Burst::new();
    let refused = loop {
        while !burst.is_full() {
            burst.push(pool.allocate_from(&sent.to_be_bytes()).expect("a free buffer"));
            sent += 1;
        }
        if transmit.transmit(&mut burst) < 32 {
            break burst.len();
        }
    };
    let numbers = |frames: &Burst| -> Vec<u32> {
        frames
            .iter()
            .map(|frame| u32::from_be_bytes(frame.bytes().try_into().expect("four bytes")))
            .collect()
    };
    assert!(refused > 0);
    assert_eq!(numbers(&burst), (sent - refused as u32..sent).collect::<Vec<_>>());

    let mut received = Vec::new();
    let mut incoming = Burst::new();
    while receive.receive(&mut incoming) > 0 {
        received.extend(numbers(&incoming));
        incoming.clear();
    }
    assert_eq!(received, (0..sent - refused as u32).collect::<Vec<_>>());

    let mut nearly_full: Burst = burst.drain(..).take(30).collect();
    let held = nearly_full.len();
    nearly_full.truncate(30);
    transmit.transmit(&mut nearly_full);
    let mut two_more: ArrayVec<Mbuf, 2> = ArrayVec::new();
    assert_eq!(receive.receive(&mut two_more), held.min(2));
    drop((port, receive, transmit, burst, two_more));
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn everything_may_be_dropped_in_any_order() {
    let orders = (0..120).map(|mut number: usize| {
        let mut left: Vec<usize> = (0..5).collect();
        (1..=5)
            .rev()
            .map(|choices| {
                let at = number % choices;
                number /= choices;
                left.remove(at)
            })
            .collect::<Vec<_>>()
    });
    let orders: BTreeSet<Vec<usize>> = orders.collect();
    assert_eq!(orders.len(), 120);
    let watched = pool(128);
    for order in orders {
        let (port, mut receive, transmit) = started(open("net_null_order"), &watched);
        let mut burst = Burst::new();
        assert_eq!(receive.receive(&mut burst), 32);
        let mut things: [Option<Box<dyn Send>>; 5] = [
            Some(Box::new(port)),
            Some(Box::new(receive)),
            Some(Box::new(transmit)),
            Some(Box::new(burst)),
            Some(Box::new(watched.clone())),
        ];
        for index in order {
            things[index] = None;
        }
    }
    assert_eq!(watched.available(), watched.capacity());
}

#[test]
fn queues_and_frames_live_on_other_threads() {
    let pool = pool(4096);
    let (port, mut receive, mut transmit) = started(open("net_null_threads"), &pool);
    let worker = spawn_pinned(eal(), 1, "worker", move || {
        let mut burst = Burst::new();
        let mut moved = 0;
        for _ in 0..1000 {
            receive.receive(&mut burst);
            moved += transmit.transmit(&mut burst);
        }
        let cores = sched_getaffinity(Pid::from_raw(0)).expect("own affinity");
        let allowed: Vec<usize> = (0..64).filter(|core| cores.is_set(*core) == Ok(true)).collect();
        (moved, allowed, receive.receive(&mut burst), burst)
    });
    let (moved, cores, left, burst) = worker.expect("core 1 exists").join().expect("no panic");
    assert_eq!((moved, cores, left), (32_000, vec![1], 32));
    assert_eq!(port.statistics().expect("net_null counts").transmitted, 32_000);
    drop((burst, port));
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn a_panic_on_a_pinned_thread_is_seen_at_join_and_loses_no_buffer() {
    let pool = pool(64);
    let held = pool.allocate().expect("a free buffer");
    let worker = spawn_pinned(eal(), 0, "unlucky", move || {
        let _held = held;
        panic!("as the test wants");
    });
    let panic =
        worker.expect("core 0 exists").join().map(|()| "no panic").expect_err("it panicked");
    assert_eq!(panic.downcast_ref(), Some(&"as the test wants"));
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn a_core_that_does_not_exist_is_refused() {
    for core in [1000, 100_000] {
        let refused =
            spawn_pinned(eal(), core, "nowhere", || ()).expect_err("no machine has that many");
        assert!(matches!(refused, Error::Core { core: named, .. } if named == core), "{refused}");
    }
}

#[test]
fn the_clock_runs_at_the_rate_it_claims() {
    let (began, ticks) = (Instant::now(), lcore::tsc());
    lcore::nap(Duration::from_millis(100));
    let (ticks, elapsed) = (lcore::tsc() - ticks, began.elapsed());
    let claimed = eal().tsc_hz() as f64 * elapsed.as_secs_f64();
    assert!((ticks as f64 / claimed - 1.0).abs() < 0.02, "{ticks} ticks, {claimed} expected");
}

#[test]
fn a_table_begins_zeroed_on_a_cache_line_and_goes_back() {
    #[derive(zerocopy::FromZeros)]
    struct Entry([u64; 5]);
    for round in 0..200 {
        // Ten times what there is in all, unless each round gives back what it took.
        let mut table: HugeSlice<Entry> =
            HugeSlice::zeroed(eal(), 500_000, None).expect("20 MB are there");
        assert_eq!(table.as_ptr().addr() % 64, 0);
        assert!(table.iter().all(|entry| entry.0 == [0; 5]), "round {round}");
        table.iter_mut().for_each(|entry| entry.0 = [u64::MAX; 5]);
    }
    for (count, reason) in
        [(usize::MAX, "more than an address space"), (1 << 30, "40 GB of 512 MB")]
    {
        assert!(
            matches!(HugeSlice::<Entry>::zeroed(eal(), count, None), Err(Error::Memory { .. })),
            "{reason}"
        );
    }
    assert!(
        HugeSlice::<Entry>::zeroed(eal(), 0, None).expect("nothing is always there").is_empty()
    );
}

#[test]
fn settings_that_a_port_cannot_do_are_refused_with_what_it_can() {
    let pool = pool(64);
    let start = |settings| {
        open("net_pcap3,rx_iface=lo,tx_iface=lo")
            .start(&settings, &pool)
            .map(|_| ())
            .expect_err("refused")
    };
    let usual = PortSettings::default();
    let refused = start(PortSettings { receive_queues: 0, ..usual });
    assert_eq!(
        refused.to_string(),
        "net_pcap3: 0 receive queues were asked for, its driver net_pcap has 1"
    );
    let refused = start(PortSettings { transmit_queues: 0, ..usual });
    assert!(matches!(refused, Error::Queues { kind: "transmit", asked: 0, .. }), "{refused}");
    let refused = start(PortSettings { mtu: 20, ..usual });
    assert!(matches!(refused, Error::Mtu { asked: 20, .. }), "{refused}");
    let refused = start(PortSettings { mtu: 9000, ..usual });
    assert!(matches!(refused, Error::Room { room: 2048, needed: 9022, .. }), "{refused}");
}

fn wanting(queues: u16) -> PortSettings {
    PortSettings { receive_queues: queues, transmit_queues: queues, ..PortSettings::default() }
}

#[test]
fn a_port_gives_the_queues_it_has_when_more_are_asked_for() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (input, output) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
    write_capture(&input, &[frame_of(60, 0)]);
    let device = format!(
        "net_pcap5,rx_pcap={},tx_pcap={},tx_pcap={}",
        input.display(),
        output.display(),
        directory.path().join("second.pcap").display()
    );
    let pool = pool(64);
    let (port, mut receive, transmit) =
        open(&device).start(&wanting(4), &pool).expect("the port starts");
    assert_eq!((receive.len(), transmit.len()), (1, 2));
    assert_eq!(receive[0].receive(&mut Burst::new()), 1);
    assert_eq!(port.spreading(), None, "there is but one queue");
}

#[test]
fn a_card_takes_the_key_and_spreads_evenly_and_says_so() {
    let pool = pool(64);
    let mut settings = wanting(3);
    for (byte, number) in settings.hash_key.iter_mut().zip(7..) {
        *byte = number;
    }
    let (port, receive, transmit) =
        open("net_null_spreads").start(&settings, &pool).expect("the port starts");
    assert_eq!((receive.len(), transmit.len()), (3, 3));
    let spreading = port.spreading().expect("net_null has key and table, though no use for them");
    assert_eq!(spreading.key, settings.hash_key[..40]);
    assert_eq!(spreading.table, (0..128).map(|entry| entry % 3).collect::<Vec<_>>());
    let everything =
        Hashes { tcp4: true, udp4: true, ip4: true, tcp6: true, udp6: true, ip6: true };
    assert_eq!(spreading.hashes, everything);

    let (port, ..) = open("net_null_alone").start(&wanting(1), &pool).expect("the port starts");
    assert_eq!(port.spreading(), None);
}

#[test]
fn frames_of_many_queues_are_freed_on_other_threads_and_come_home() {
    let pool = pool(4096); // of which threads keep some to themselves
    let (port, receive, _transmit) =
        open("net_null_home").start(&wanting(4), &pool).expect("the port starts");
    let fetched: Vec<_> = receive
        .into_iter()
        .map(|mut queue| {
            std::thread::spawn(move || {
                let mut frames: ArrayVec<Mbuf, 512> = ArrayVec::new();
                while frames.remaining_capacity() >= 32 {
                    queue.receive(&mut frames);
                }
                frames
            })
        })
        .map(|thread| thread.join().expect("no panic"))
        .collect();
    assert_eq!(pool.available(), pool.capacity() - 4 * 512);
    let freeing: Vec<_> = fetched
        .into_iter()
        .zip([0, 1, 0, 1])
        .map(|(frames, core)| {
            spawn_pinned(eal(), core, "frees", move || drop(frames)).expect("the core exists")
        })
        .collect();
    for thread in freeing {
        thread.join().expect("no panic");
    }
    drop(port);
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn devices_that_cannot_be_opened_say_why() {
    let refusal = |device| Port::open(eal(), &device).expect_err("refused").to_string();
    let missing = Device::Packet { interface: "nosuchif".into(), queues: 1, mtu: 1500 };
    assert_eq!(
        refusal(missing),
        "interface \"nosuchif\" does not exist in this network namespace: see `ip link`"
    );
    let file = refusal(Device::Virtual("net_pcap4,rx_pcap=/nonexistent/in.pcap".into()));
    assert!(file.contains("/nonexistent/in.pcap: No such file or directory"), "{file}");
    let driver = refusal(Device::Virtual("net_failsafe0,exec(true)".into()));
    assert!(
        driver.starts_with("virtual device: expected a name that begins with a driver's"),
        "{driver}"
    );
    let card = refusal(Device::Pci { address: "0000:00:1f.7".into() });
    assert_eq!(
        card,
        "PCI device 0000:00:1f.7 was not among the addresses that DPDK was started with"
    );

    let held = open("net_null_twice");
    assert_eq!(
        refusal(Device::Virtual("net_null_twice".into())),
        "device net_null_twice is in use already"
    );
    drop(held);
    open("net_null_twice");
}

/// `left` and `right`, joined, in a network namespace of this thread's own, which goes with it.
fn veth_pair() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
    ip("link add left mtu 1600 type veth peer name right mtu 1600");
    for name in ["left", "right"] {
        ip(&format!("link set {name} addrgenmode none"));
        ip(&format!("link set {name} up"));
    }
}

fn ip(arguments: &str) {
    let status =
        Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

fn packet(interface: &str) -> Device {
    Device::Packet { interface: interface.into(), queues: 1, mtu: 1500 }
}

/// As the kernel shows it.
fn mac_of(interface: &str) -> [u8; 6] {
    let mut addresses = nix::ifaddrs::getifaddrs().expect("the kernel lists interfaces");
    let found = addresses.find_map(|found| {
        (found.interface_name == interface).then_some(found.address?.as_link_addr()?.addr()?)
    });
    found.expect("the interface exists")
}

#[test]
fn frames_cross_a_veth_pair_between_two_kernel_interfaces() {
    veth_pair();
    let pool = pool(4096);
    let opened = |name| Port::open(eal(), &packet(name)).expect("the interface is there");
    let (left, mut from_right, mut to_right) = started(opened("left"), &pool);
    let (right, mut from_left, _to_left) = started(opened("right"), &pool);
    assert_eq!((left.driver_name(), left.mac()), ("net_af_packet", mac_of("left")));
    assert_eq!(right.mac(), mac_of("right"));
    assert!(left.link_up());
    assert_eq!(left.link().speed, 10_000, "what the kernel says of veth");
    assert_eq!(left.reception(), Reception::Everything);

    // To somebody else's address, so that only a promiscuous port sees it.
    let sent: Vec<Vec<u8>> = (0..200)
        .map(|index| {
            [
                &[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5][..],
                &frame_of(46 + index * 7, index),
            ]
            .concat()
        })
        .collect();
    let mut received = Vec::new();
    for chunk in sent.chunks(32) {
        let mut burst: Burst =
            chunk.iter().map(|bytes| pool.allocate_from(bytes).expect("a free buffer")).collect();
        assert_eq!(to_right.transmit(&mut burst), chunk.len());
        let expected = received.len() + chunk.len();
        eventually(|| {
            from_left.receive(&mut burst);
            received.extend(burst.drain(..).map(|frame| frame.bytes().to_vec()));
            (received.len() >= expected).then_some(())
        });
    }
    assert_eq!(received, sent);

    // And from somebody who is not us.
    ip("address add 198.51.100.1/24 dev right");
    let mut ping = Command::new("ping")
        .args(["-c1", "-w5", "198.51.100.2"])
        .spawn()
        .expect("ping is installed");
    let question = eventually(|| {
        let mut burst = Burst::new();
        from_right.receive(&mut burst);
        burst.iter().map(|frame| frame.bytes().to_vec()).find(|bytes| bytes[12..14] == [8, 6])
    });
    ping.kill().and_then(|()| ping.wait()).expect("our own child");
    assert_eq!((&question[6..12], &question[38..42]), (&right.mac()[..], &[198, 51, 100, 2][..]));

    ip("link set right down");
    eventually(|| (!left.link_up()).then_some(()));
    drop((left, right, from_left, from_right, to_right, _to_left));
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn a_kernel_interface_gets_another_address_but_keeps_its_mtu_and_flags() {
    veth_pair();
    let pool = pool(64);
    let port = Port::open(eal(), &packet("left")).expect("the interface is there");
    port.set_mac([2, 0, 0, 0, 0, 42]).expect("veth takes any address");
    assert_eq!((port.mac(), mac_of("left")), ([2, 0, 0, 0, 0, 42], [2, 0, 0, 0, 0, 42]));
    assert!(port.set_mac([1, 0, 0, 0, 0, 1]).is_err(), "a multicast address");

    let larger = PortSettings { mtu: 1700, ..PortSettings::default() };
    let refused = port.start(&larger, &pool).map(|_| ()).expect_err("opened for 1500");
    assert!(matches!(refused, Error::Mtu { asked: 1700, most: 1500, .. }), "{refused}");

    let (started, _receive, _transmit) =
        started(Port::open(eal(), &packet("left")).expect("free again"), &pool);
    let shown = details_of("left");
    assert!(shown.contains("promiscuity 1") && shown.contains("allmulti 1"), "{shown}");
    drop((started, _receive, _transmit));
    let shown = details_of("left");
    assert!(
        shown.contains("mtu 1600") && shown.contains("promiscuity 0") && !shown.contains("PROMISC"),
        "{shown}"
    );
    assert!(shown.contains("allmulti 0") && !shown.contains("ALLMULTI"), "{shown}");
}

#[test]
fn groups_are_received_without_everything_else() {
    veth_pair();
    let pool = pool(64);
    let modest = PortSettings { promiscuous: false, ..PortSettings::default() };
    let port = Port::open(eal(), &packet("left")).expect("the interface is there");
    let (port, ..) = port.start(&modest, &pool).expect("the port starts");
    assert_eq!(port.reception(), Reception::OwnAndGroups);
    let shown = details_of("left");
    assert!(shown.contains("promiscuity 0") && shown.contains("allmulti 1"), "{shown}");

    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("memif");
    let device = format!("net_memif2,role=server,socket={},socket-abstract=no", socket.display());
    let (port, ..) = open(&device).start(&modest, &pool).expect("the port starts");
    assert_eq!(port.reception(), Reception::Everything, "its driver has no choice");
}

/// As `ip -d link show` has it.
fn details_of(interface: &str) -> String {
    let shown = Command::new("ip")
        .args(["-d", "link", "show", interface])
        .output()
        .expect("iproute2 is installed");
    String::from_utf8_lossy(&shown.stdout).into_owned()
}

#[test]
fn flows_are_spread_over_the_queues_of_a_kernel_interface() {
    veth_pair();
    let pool = pool(4096);
    let (_left, _, mut to_right) = Port::open(eal(), &packet("left"))
        .and_then(|port| port.start(&PortSettings::default(), &pool))
        .expect("the port starts");
    let (right, mut from_left, to_left) =
        Port::open(eal(), &Device::Packet { interface: "right".into(), queues: 2, mtu: 1500 })
            .and_then(|port| port.start(&wanting(2), &pool))
            .expect("the port starts");
    assert_eq!((from_left.len(), to_left.len()), (2, 2));
    assert_eq!(right.spreading(), None, "the kernel does not say how it hashes");
    for flow in 0..64 {
        let mut frame = [0; 60];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0]);
        frame[14..18].copy_from_slice(&[0x45, 0, 0, 46]);
        frame[22..38].copy_from_slice(&[64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 4, flow, 0, 53]);
        let mut burst = Burst::new();
        burst.push(pool.allocate_from(&frame).expect("a free buffer"));
        assert_eq!(to_right[0].transmit(&mut burst), 1);
    }
    let mut counts = [0; 2];
    eventually(|| {
        for (queue, count) in from_left.iter_mut().zip(&mut counts) {
            *count += queue.receive(&mut Burst::new());
        }
        (counts[0] + counts[1] == 64).then_some(())
    });
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[test]
fn jumbo_frames_cross_when_slots_and_buffers_are_made_for_them() {
    veth_pair();
    ip("link set left mtu 9000");
    ip("link set right mtu 9000");
    let pool =
        Mempool::new(eal(), "jumbo", 128, 9300, None).expect("there is memory for the tests");
    let settings = PortSettings { mtu: 9000, ..PortSettings::default() };
    let go = |name: &str| {
        let device = Device::Packet { interface: name.into(), queues: 1, mtu: 9000 };
        let port = Port::open(eal(), &device).expect("the interface is there");
        port.start(&settings, &pool).expect("the port starts")
    };
    let (_left, _, mut to_right) = go("left");
    let (_right, mut from_left, _) = go("right");
    let sent = [&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5][..], &frame_of(9000, 1)].concat();
    let mut burst = Burst::new();
    burst.push(pool.allocate_from(&sent).expect("a free buffer"));
    assert_eq!(to_right[0].transmit(&mut burst), 1);
    eventually(|| (from_left[0].receive(&mut burst) > 0).then_some(()));
    assert_eq!(burst[0].bytes(), sent);

    let narrow = Port::open(eal(), &packet("left")).expect("a second reader is allowed");
    let refused = narrow.start(&settings, &pool).map(|_| ()).expect_err("opened for less");
    assert!(matches!(refused, Error::Mtu { asked: 9000, most: 1500, .. }), "{refused}");
}

#[test]
fn what_the_host_itself_sends_on_an_interface_is_not_received() {
    veth_pair();
    let pool = pool(4096);
    let opened = |name| Port::open(eal(), &packet(name)).expect("the interface is there");
    let (_left, mut from_right, _to_right) = started(opened("left"), &pool);
    let (_right, mut from_left, _to_left) = started(opened("right"), &pool);
    ip("address add 198.51.100.1/24 dev left");
    let mut ping = Command::new("ping")
        .args(["-c1", "-w5", "198.51.100.2"])
        .spawn()
        .expect("ping is installed");
    eventually(|| (from_left.receive(&mut Burst::new()) > 0).then_some(()));
    ping.kill().and_then(|()| ping.wait()).expect("our own child");
    assert_eq!(from_right.receive(&mut Burst::new()), 0);
}

#[test]
fn a_tagged_frame_keeps_its_tag_on_the_way_through_the_kernel() {
    veth_pair();
    let pool = pool(64);
    let opened = |name| Port::open(eal(), &packet(name)).expect("the interface is there");
    let (_left, _from_right, mut to_right) = started(opened("left"), &pool);
    let (_right, mut from_left, _to_left) = started(opened("right"), &pool);
    let sent = [
        &[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x81, 0, 0x60, 5, 0x88, 0xb5][..],
        &frame_of(100, 1),
    ]
    .concat();
    let mut burst = Burst::new();
    burst.push(pool.allocate_from(&sent).expect("a free buffer"));
    assert_eq!(to_right.transmit(&mut burst), 1);
    let received = eventually(|| {
        let mut burst = Burst::new();
        from_left.receive(&mut burst);
        burst.pop()
    });
    assert_eq!(received.bytes(), sent);
}

#[test]
fn what_one_of_a_pair_transmits_the_other_receives() {
    let pool = pool(1024);
    let [left, right] = Port::pair(eal(), 4, 64).expect("there is memory for the tests");
    let settings = wanting(4);
    let (left, mut at_left, mut from_left) = left.start(&settings, &pool).expect("the port starts");
    let (right, mut at_right, mut from_right) =
        right.start(&settings, &pool).expect("the port starts");
    left.set_mac([2, 0, 0, 0, 0, 1]).expect("an address of its own");
    assert_eq!(left.mac(), [2, 0, 0, 0, 0, 1]);
    assert_eq!(right.mac()[0], 2, "made up, because the driver has none");

    for (queue, text) in ["first", "second", "third", "fourth"].into_iter().enumerate() {
        let mut burst = Burst::new();
        burst.push(pool.allocate_from(text.as_bytes()).expect("a free buffer"));
        let buffer = burst[0].bytes().as_ptr();
        assert_eq!(from_left[queue].transmit(&mut burst), 1);
        assert_eq!(at_left[queue].receive(&mut burst), 0);
        for other in (0..4).filter(|other| *other != queue) {
            assert_eq!(at_right[other].receive(&mut burst), 0);
        }
        assert_eq!(at_right[queue].receive(&mut burst), 1);
        assert_eq!(
            (burst[0].bytes(), burst[0].bytes().as_ptr()),
            (text.as_bytes(), buffer),
            "not copied"
        );
        assert_eq!(from_right[queue].transmit(&mut burst), 1);
        assert_eq!(at_left[queue].receive(&mut burst), 1);
    }

    let taken: usize = (0..3)
        .map(|_| {
            from_left[0].transmit(&mut (0..32).filter_map(|_| pool.allocate()).collect::<Burst>())
        })
        .sum();
    assert_eq!(taken, 64);
    drop((right, at_right, from_right));
    drop((left, at_left, from_left));
    assert_eq!(pool.available(), pool.capacity(), "what was under way comes home too");
}
