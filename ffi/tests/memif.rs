//! Shared memory between two ports, each with several queues. A program of its own: when both ends
//! of one process close, DPDK now and then complains of memory that is freed though it is not in
//! use, and that has no place beside other tests.

#![deny(unsafe_code)]

use std::path::Path;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use dpdk_sys::{Device, Eal, EalOptions, LogLevel, Mbuf, Memory, Mempool, Port, PortSettings};

#[test]
fn two_ends_of_shared_memory_have_two_queues_each() {
    let eal = Eal::start(&EalOptions {
        program: "memif".into(),
        memory: Memory::Plain { megabytes: 64 },
        control_core: 0,
        allowed: vec![],
        log: LogLevel::Warning,
    })
    .expect("DPDK starts without huge pages and without cards");
    let pool = Mempool::new(&eal, "memif", 1024, 2048, None).expect("there is memory");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("memif");
    let settings =
        PortSettings { receive_queues: 2, transmit_queues: 2, ..PortSettings::default() };
    let end = |name: &str, role: &str, socket: &Path| {
        let path = socket.display();
        let device = format!("{name},role={role},socket={path},socket-abstract=no");
        let port = Port::open(&eal, &Device::Virtual(device)).expect("net_memif is always there");
        port.start(&settings, &pool).expect("the port starts")
    };
    let (server, _, mut to_client) = end("net_memif0", "server", &socket);
    let (client, mut at_client, _) = end("net_memif1", "client", &socket);
    eventually(|| server.link().up && client.link().up);
    assert_eq!((server.spreading(), client.spreading()), (None, None), "the peer chooses");

    for queue in [1, 0] {
        let sent = [queue as u8; 60];
        let mut burst: ArrayVec<Mbuf, 32> = ArrayVec::new();
        burst.push(pool.allocate_from(&sent).expect("a free buffer"));
        let mut received: ArrayVec<Mbuf, 32> = ArrayVec::new();
        eventually(|| {
            to_client[queue].transmit(&mut burst); // the client makes room whenever it looks
            at_client[queue].receive(&mut received) > 0
        });
        assert_eq!((received.len(), received[0].bytes()), (1, &sent[..]));
        assert_eq!(at_client[1 - queue].receive(&mut received), 0);
    }
    drop((client, at_client, server, to_client));
    assert_eq!(pool.available(), pool.capacity());
}

#[track_caller]
fn eventually(mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !happened() {
        assert!(Instant::now() < end, "it did not happen within 10 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}
