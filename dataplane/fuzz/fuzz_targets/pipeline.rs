//! A whole worker with a service of each mode, fed any frames: no panic, the books balance, and every
//! buffer comes home.
#![no_main]

use std::time::Duration;

use dataplane::testing::{INSIDE, OUTSIDE, TestWorker};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|frames: Vec<(bool, Vec<u8>)>| {
    let services = "192.0.2.1:80 dr 10.0.0.7\n192.0.2.1:8080 nat 10.0.0.8:80\n192.0.2.1:53/udp tun 10.0.0.9\n\
                    192.0.2.1:21 snat ftp half-open=2 10.0.0.6";
    let mut worker = TestWorker::serving(services);
    for (inside, mut frame) in frames {
        // A right hardware address and header checksum, so that what lies behind them is reached.
        if let Some(station) = frame.first_chunk_mut::<6>() {
            *station = if inside { [2, 0, 10, 0, 0, 2] } else { [2, 0, 192, 0, 2, 2] };
        }
        if let Some(header) = frame.get_mut(14..34) {
            header[10..12].fill(0);
            let checksum = dataplane::wire::checksum::of(header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        worker.receives_on(if inside { INSIDE } else { OUTSIDE }, &frame);
        worker.passes(Duration::from_millis(10));
        assert_eq!(worker.counters.imbalance(), 0);
        assert_eq!(worker.buffers_out() as i64, worker.counters.waiting.get());
    }
});
