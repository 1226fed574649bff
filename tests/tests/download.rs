//! A long download while the configuration is changed again and again.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::json;
use sluice_tests::lab::{DIRECT, TRANSLATED};
use sluice_tests::rig::{Rig, at};
use sluice_tests::service::{direct, nat};

sluice_tests::cases! {
    a_gigabyte_arrives_whole_while_the_configuration_is_swapped_a_thousand_times,
}

const GIGABYTE: u64 = 1 << 30;
const SWAPS: u32 = 1000;

fn a_gigabyte_arrives_whole_while_the_configuration_is_swapped_a_thousand_times(rig: &mut Rig) {
    let server = &rig.translated()[0];
    let expected = server.offer_marked("gigabyte", GIGABYTE);
    let web = nat("web", TRANSLATED, "80").to(server);
    let other = direct("other", DIRECT, "80").to_all(rig.direct());
    rig.serve([&web, &other]);

    let (done, swaps) = (AtomicBool::new(false), AtomicU32::new(0));
    let begin = Instant::now();
    let (sums, took) = thread::scope(|scope| {
        let download = scope.spawn(|| {
            // Not as fast as can be, so that one is long enough; where swaps take longer, once more.
            let line = format!(
                "curl -sS --limit-rate 150M --max-time 300 http://{}/gigabyte | md5sum",
                at(TRANSLATED, 80)
            );
            let mut sums = Vec::new();
            while sums.is_empty() || (swaps.load(Ordering::Relaxed) < SWAPS && sums.len() < 5) {
                sums.push(rig.client().namespace.shell(&line));
            }
            done.store(true, Ordering::Release);
            (sums, begin.elapsed())
        });
        // Each is a whole new snapshot: weights change in another service than the one downloaded from.
        while !done.load(Ordering::Acquire) {
            let number = swaps.fetch_add(1, Ordering::Relaxed);
            let server = &rig.direct()[number as usize % 3].name;
            let weight = json!({ "weight": 1 + number % 100 });
            rig.appliance.patch_server("other", server, weight);
        }
        download.join().expect("the download does not panic")
    });
    let (swaps, times) = (swaps.into_inner(), sums.len());
    println!(
        "a gigabyte, {times} times in {:.1} s, with {swaps} swaps meanwhile",
        took.as_secs_f64()
    );
    for sum in &sums {
        let sum = sum.split_whitespace().next().expect("md5sum prints a sum");
        assert_eq!(sum, expected, "byte for byte");
    }
    assert!(swaps >= SWAPS, "{swaps} swaps in {took:?}");
}
