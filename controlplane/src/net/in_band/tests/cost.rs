//! What it costs.

use std::time::Instant;

use super::*;

/// Checks under way at once.
const AT_ONCE: usize = 40;

/// Does `work` and gives the time that it took as well.
fn timed<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    *spent += begun.elapsed();
    done
}

/// How much of our side's time one test takes of whether somebody listens: 20 begin in every millisecond's turn, and the
/// other end answers in the next.
fn nanoseconds_a_check(checks: usize) -> u128 {
    let mut rig = Rig::new();
    let (client, listener) = (rig.client(), rig.server().listen(None, 80).unwrap());
    let mut spent = Duration::ZERO;
    let mut under_way = VecDeque::new();
    let (mut begun, mut done) = (0, 0);
    while done < checks {
        rig.now = rig.now.plus(Duration::from_millis(1));
        let now = rig.now;
        timed(&mut spent, || {
            while under_way.len() < AT_ONCE && begun < checks {
                let client = client.clone();
                let to = at(RIGHT[begun % 2], 80);
                under_way.push_back(Box::pin(async move {
                    client.connect(to, Way::Routed).await.map(drop)
                }));
                begun += 1;
            }
            under_way.retain_mut(|check| match poll(check.as_mut()) {
                Poll::Ready(outcome) => {
                    outcome.expect("somebody listens");
                    done += 1;
                    false
                }
                Poll::Pending => true,
            });
            rig.left.turn(now);
        });
        let sent: Vec<_> =
            timed(&mut spent, || std::iter::from_fn(|| rig.left.next_packet()).collect());
        sent.iter().for_each(|sent| rig.right.receive(now, &sent.packet));
        rig.right.turn(now);
        while let Poll::Ready(accepted) = poll(pin!(listener.accept())) {
            drop(accepted);
        }
        let back: Vec<_> = std::iter::from_fn(|| rig.right.next_packet()).collect();
        timed(&mut spent, || back.iter().for_each(|sent| rig.left.receive(now, &sent.packet)));
    }
    spent.as_nanos() / checks as u128
}

#[test]
fn two_thousand_checks_a_second_take_a_small_part_of_the_control_thread() {
    nanoseconds_a_check(2_000);
    let best = (0..5).map(|_| nanoseconds_a_check(4_000)).min().unwrap();
    println!("{best} ns a check: {:.2} % of the thread at 2,000 a second", best as f64 * 2e-4);
    assert!(best < 50_000);
}
