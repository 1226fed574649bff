//! A scripted network and a clock that the test turns.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use super::gates::{MOST_IN_VAIN, MOST_SCRIPTS, MOST_UNDER_WAY};
use super::*;
use crate::config::Kind;
use crate::net::Way;
use crate::testing::{Manner, Script, cpu_time, write_program};

/// An engine at work, from outside.
struct Bench {
    script: Script,
    orders: mpsc::UnboundedSender<Vec<Order>>,
    news: Arc<Mutex<Vec<(Instant, News)>>>,
    totals: Arc<Totals>,
    start: Instant,
}

impl Bench {
    fn start() -> Self {
        let (orders, taken) = mpsc::unbounded_channel();
        let (script, news) = (Script::default(), Arc::new(Mutex::new(Vec::new())));
        let totals = Arc::new(Totals::default());
        let told = Arc::clone(&news);
        let tell = move |it| told.lock().unwrap().push((Instant::now(), it));
        let tools = Arc::new(probe::Tools::default());
        let engine = Engine::new(script.clone(), tools, taken, tell, Arc::clone(&totals), 7);
        tokio::spawn(engine.run());
        Self { script, orders, news, totals, start: Instant::now() }
    }

    fn begin(&self, id: u64, at: SocketAddr, pace: Pace, known: Verdict) {
        self.begin_with(id, at, Kind::Connect, pace, known);
    }

    fn begin_with(&self, id: u64, at: SocketAddr, kind: Kind, pace: Pace, known: Verdict) {
        let check = Check { kind, pace, ..Check::default() };
        let target = Target { at, way: Way::Routed, service: (String::new(), None) };
        let question = Arc::new(Question { target, check });
        let order = Order::Begin { id: QuestionId(id), question, known };
        self.orders.send(vec![order]).unwrap();
    }

    fn end(&self, id: u64) {
        self.orders.send(vec![Order::End(QuestionId(id))]).unwrap();
    }

    /// When a server was asked, in milliseconds since the start.
    fn asked(&self, at: SocketAddr) -> Vec<u128> {
        self.script.asked(at).iter().map(|when| (*when - self.start).as_millis()).collect()
    }

    /// What was told since, with the milliseconds since the start.
    fn told(&self) -> Vec<(u128, u64, Verdict, Option<String>)> {
        let news = std::mem::take(&mut *self.news.lock().unwrap());
        let told = |(at, News { id, verdict, reason }): (Instant, News)| {
            ((at - self.start).as_millis(), id.0, verdict, reason)
        };
        news.into_iter().map(told).collect()
    }
}

fn server(number: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + number).into(), 80)
}

fn every(milliseconds: u64) -> Pace {
    let interval = Duration::from_millis(milliseconds);
    Pace { interval, timeout: Duration::from_millis(500), ..Pace::default() }
}

async fn pass(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_question_comes_at_once_and_then_one_each_interval() {
    let bench = Bench::start();
    bench.begin(1, server(1), every(1000), Verdict::Unknown);
    pass(3500).await;
    assert_eq!(bench.asked(server(1)), [0, 1000, 2000, 3000]);
    assert_eq!(bench.told(), [(0, 1, Verdict::Well, None)]);
    assert_eq!((bench.totals.asked(), bench.totals.failed()), (4, 0));
}

/// HC-01, HC-14.
#[tokio::test(start_paused = true)]
async fn a_killed_server_is_down_after_fall_intervals_and_back_after_rise() {
    let bench = Bench::start();
    let pace = Pace { rise: 3, fall: 2, ..every(1000) };
    bench.begin(1, server(1), pace, Verdict::Unknown);
    pass(1500).await;
    assert_eq!(bench.told().len(), 1);
    bench.script.set(server(1), Manner::Refuses);
    pass(2000).await;
    let why = |count: &str| Some(format!("connect to 10.0.0.1:80 refused, {count}"));
    let expected =
        [(2000, 1, Verdict::Well, why("1 of 2")), (3000, 1, Verdict::Failing, why("2 of 2"))];
    assert_eq!(bench.told(), expected);
    bench.script.set(server(1), Manner::Accepts);
    pass(4000).await;
    assert_eq!(bench.told(), [(6000, 1, Verdict::Well, None)]);
}

#[tokio::test(start_paused = true)]
async fn one_failure_is_forgotten_by_the_next_pass() {
    let bench = Bench::start();
    bench.begin(1, server(1), every(1000), Verdict::Well);
    for _ in 0..5 {
        bench.script.set(server(1), Manner::Refuses);
        pass(1000).await;
        bench.script.set(server(1), Manner::Accepts);
        pass(1000).await;
    }
    assert!(bench.told().iter().all(|(_, _, verdict, _)| *verdict == Verdict::Well));
}

#[tokio::test(start_paused = true)]
async fn what_was_down_before_needs_its_passes_and_what_is_unknown_needs_one() {
    let bench = Bench::start();
    bench.begin(1, server(1), every(1000), Verdict::Failing);
    bench.begin(2, server(2), every(5000), Verdict::Unknown);
    bench.begin(3, server(3), every(5000), Verdict::Unknown);
    bench.script.set(server(3), Manner::Refuses);
    pass(500).await;
    let told = bench.told();
    assert_eq!(told[0], (0, 2, Verdict::Well, None));
    assert_eq!((told[1].1, told[1].2), (3, Verdict::Unknown));
    bench.script.set(server(3), Manner::Accepts);
    pass(1000).await;
    let expected = [(1000, 1, Verdict::Well, None), (1000, 3, Verdict::Well, None)];
    let mut told = bench.told();
    told.sort_by_key(|it| it.1);
    assert_eq!(told, expected, "whom nothing is known of is asked again soon");
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_while_a_server_is_down_and_only_as_far_as_they_may() {
    let bench = Bench::start();
    bench.script.set(server(1), Manner::Refuses);
    let pace = Pace { back_off: Some(Duration::from_secs(5)), fall: 1, ..every(1000) };
    bench.begin(1, server(1), pace, Verdict::Well);
    pass(18_500).await;
    let asked = bench.asked(server(1));
    assert_eq!(asked, [0, 1000, 3000, 7000, 12_000, 17_000]);
    bench.script.set(server(1), Manner::Accepts);
    pass(5000).await;
    let asked = bench.asked(server(1));
    assert_eq!(asked[6..], [22_000, 23_000], "one pass, and it is asked at its pace again");
}

#[tokio::test(start_paused = true)]
async fn pauses_differ_by_chance_within_the_jitter() {
    let bench = Bench::start();
    let pace = Pace { jitter: 10, ..every(1000) };
    bench.begin(1, server(1), pace, Verdict::Unknown);
    pass(100_000).await;
    let asked = bench.asked(server(1));
    let pauses: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.iter().all(|pause| (899..=1101).contains(pause)), "{pauses:?}");
    assert!(pauses.iter().any(|&pause| pause < 950) && pauses.iter().any(|&pause| pause > 1050));
}

#[tokio::test(start_paused = true)]
async fn an_ended_question_is_asked_no_more_even_if_it_is_under_way() {
    let bench = Bench::start();
    bench.script.set(server(1), Manner::Hangs);
    bench.begin(1, server(1), every(1000), Verdict::Unknown);
    bench.begin(2, server(2), every(1000), Verdict::Unknown);
    pass(100).await;
    bench.end(1);
    bench.end(2);
    pass(5000).await;
    assert_eq!(bench.asked(server(1)), [0]);
    assert_eq!(bench.asked(server(2)), [0]);
    assert_eq!(bench.script.under_way(), 0);
    assert_eq!(bench.told().len(), 1, "the one that was answered");
}

#[tokio::test(start_paused = true)]
async fn a_question_that_fails_by_itself_counts_as_failed_and_goes_on() {
    let bench = Bench::start();
    bench.script.set(server(1), Manner::Panics);
    bench.begin(1, server(1), every(1000), Verdict::Well);
    pass(1500).await;
    let reason = Some("the check itself failed, 2 of 2".into());
    assert_eq!(bench.told().last(), Some(&(1000, 1, Verdict::Failing, reason)));
    bench.script.set(server(1), Manner::Accepts);
    pass(2000).await;
    assert_eq!(bench.told().last(), Some(&(3000, 1, Verdict::Well, None)));
}

#[tokio::test(start_paused = true)]
async fn servers_that_hang_take_no_more_than_their_share_and_keep_nobody_waiting() {
    let bench = Bench::start();
    for number in 0..12_000 {
        bench.script.set(server(number), Manner::Hangs);
        bench.begin(number.into(), server(number), every(1000), Verdict::Failing);
    }
    for number in 12_000..12_010 {
        bench.begin(number.into(), server(number), every(1000), Verdict::Well);
    }
    pass(10_500).await;
    let most = bench.script.most_under_way();
    assert!((MOST_IN_VAIN..MOST_IN_VAIN + 10 + BURST).contains(&most), "{most}");
    for number in 12_000..12_010 {
        let asked = bench.asked(server(number));
        assert_eq!(asked.len(), 11, "{asked:?}");
        assert!(asked.iter().enumerate().all(|(n, &at)| at <= n as u128 * 1000 + 5), "{asked:?}");
    }
    for number in 20_000..30_000 {
        bench.script.set(server(number), Manner::Hangs);
        bench.begin(number.into(), server(number), every(1000), Verdict::Well);
    }
    pass(400).await;
    let most = bench.script.most_under_way();
    assert_eq!(most, MOST_UNDER_WAY);
}

/// A server is down at most this late, in milliseconds, when it goes silent right after it was found well.
async fn down_after(pace: Pace) -> u128 {
    let bench = Bench::start();
    bench.begin(1, server(1), pace, Verdict::Unknown);
    pass(1).await;
    bench.script.set(server(1), Manner::Hangs);
    loop {
        pass(1).await;
        let down = bench.told().into_iter().find(|it| it.2 == Verdict::Failing);
        if let Some((at, ..)) = down {
            return at;
        }
    }
}

/// Also where it takes the whole time of every question to notice.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_down_after_fall_intervals_where_its_timeouts_have_room_in_them() {
    let pace = |interval, timeout, fall| Pace {
        interval: Duration::from_millis(interval),
        timeout: Duration::from_millis(timeout),
        fall,
        ..Pace::default()
    };
    for (interval, timeout, fall) in
        [(5000, 2000, 2), (1000, 500, 2), (5000, 2000, 3), (1000, 750, 4), (5000, 100, 2)]
    {
        let down = down_after(pace(interval, timeout, fall)).await;
        let expected = u128::from(interval) * u128::from(fall);
        assert!((expected..expected + 10).contains(&down), "{interval} {timeout} {fall}: {down}");
    }
    // No question is cut short, and each failure takes a question.
    assert!((15_000..15_010).contains(&down_after(pace(5000, 5000, 2)).await));
    assert!((7_000..7_010).contains(&down_after(pace(5000, 2000, 1)).await));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_once_is_asked_at_its_pace_again() {
    let bench = Bench::start();
    bench.begin(1, server(1), every(1000), Verdict::Well);
    pass(10).await;
    bench.script.set(server(1), Manner::Hangs);
    pass(1200).await;
    bench.script.set(server(1), Manner::Accepts);
    pass(3000).await;
    let asked = bench.asked(server(1));
    assert_eq!(asked, [0, 1000, 1500, 2500, 3500], "once sooner, then an interval apart");
    assert!(bench.told().iter().all(|it| it.2 == Verdict::Well));
}

#[tokio::test(start_paused = true)]
async fn when_a_rack_fails_the_servers_beside_it_are_asked_in_time_and_stay_up() {
    let bench = Bench::start();
    let pace = Pace { timeout: Duration::from_millis(900), ..every(1000) };
    for number in 0..4000 {
        bench.begin(number.into(), server(number), pace.clone(), Verdict::Well);
    }
    pass(5500).await;
    bench.told();
    for number in 0..3000 {
        bench.script.set(server(number), Manner::Hangs);
    }
    for _ in 0..200 {
        pass(100).await;
        assert!(bench.totals.late() < Duration::from_millis(200), "{:?}", bench.totals.late());
    }
    let told = bench.told();
    let fell: Vec<_> = told.iter().filter(|it| it.2 == Verdict::Failing).collect();
    assert_eq!(fell.len(), 3000);
    assert!(fell.iter().all(|it| it.1 < 3000 && it.0 < 5500 + 3100), "{:?}", fell.last());
    for number in 3000..4000 {
        let asked = bench.asked(server(number));
        let pauses = asked.windows(2).map(|pair| pair[1] - pair[0]);
        let longest = pauses.max().unwrap();
        assert!(longest < 1250, "{longest}");
    }
    for number in 0..3000 {
        bench.script.set(server(number), Manner::Accepts);
    }
    pass(2500).await;
    let back = bench.told();
    assert_eq!(back.iter().filter(|it| it.2 == Verdict::Well).count(), 3000, "all are back soon");
}

#[tokio::test(start_paused = true)]
async fn questions_that_wait_for_others_are_told_of() {
    let bench = Bench::start();
    let pace = Pace { timeout: Duration::from_secs(30), ..every(1000) };
    let extra = 50;
    for number in 0..MOST_UNDER_WAY as u32 + extra {
        bench.script.set(server(number), Manner::Hangs);
        bench.begin(number.into(), server(number), pace.clone(), Verdict::Well);
    }
    pass(10_000).await;
    assert_eq!(bench.totals.waiting(), u64::from(extra));
    let late = bench.totals.late().as_millis();
    assert!((9000..=10_000).contains(&late), "{late}");
    for number in 0..MOST_UNDER_WAY as u64 + u64::from(extra) {
        bench.end(number);
    }
    pass(10).await;
    assert_eq!((bench.totals.waiting(), bench.totals.late()), (0, Duration::ZERO));
}

/// A program in a folder of its own, and the kind of question that runs it.
fn program(text: &str) -> (tempfile::TempDir, Kind) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("script");
    write_program(&program, text);
    let arguments = vec![folder.path().to_str().unwrap().to_owned()];
    (folder, Kind::Script { program, arguments })
}

#[tokio::test(start_paused = true)]
async fn a_script_that_has_to_wait_is_not_counted_as_failed() {
    let bench = Bench::start();
    let (_folder, kind) = program("exec sleep 1000");
    let pace = Pace { negotiate_timeout: Duration::from_secs(30), fall: 1, ..every(3_600_000) };
    let scripts = 5 * MOST_SCRIPTS as u64;
    for number in 0..scripts {
        let at = server(number as u32);
        bench.begin_with(number, at, kind.clone(), pace.clone(), Verdict::Well);
    }
    pass(29_900).await;
    assert_eq!(bench.told(), []);
    for batch in 1..=5 {
        pass(30_000).await;
        let told = bench.told();
        assert_eq!(told.len(), MOST_SCRIPTS, "batch {batch}");
        let slow = |it: &String| it.ends_with("did not end within 30 s, 1 of 1");
        assert!(told.iter().all(|it| it.3.as_ref().is_some_and(slow)), "{told:?}");
    }
}

/// By the real clock.
#[tokio::test]
async fn scripts_that_wait_for_each_other_keep_nobody_else_waiting_and_a_few_run_at_once() {
    let bench = Bench::start();
    let text = "d=$5; mkdir $d/$$.running; ls -d $d/*.running | wc -l >> $d/most; sleep 0.1; rmdir $d/$$.running";
    let (folder, kind) = program(text);
    for number in 0..2 * MOST_UNDER_WAY as u64 {
        let at = server(number as u32);
        bench.begin_with(number, at, kind.clone(), every(3_600_000), Verdict::Well);
    }
    bench.begin(1 << 32, server(1 << 20), every(100), Verdict::Well);
    let all_run = || std::fs::read_to_string(folder.path().join("most")).unwrap_or_default();
    for _ in 0..1000 {
        if bench.asked(server(1 << 20)).len() > 5 && all_run().lines().count() > 20 {
            break;
        }
        pass(20).await;
    }
    assert!(bench.asked(server(1 << 20)).len() > 5);
    let most = all_run().lines().map(|line| line.trim().parse::<usize>().unwrap()).max();
    assert!((2..=MOST_SCRIPTS).contains(&most.unwrap()), "{most:?}");
    let failed = bench.told().into_iter().find(|it| it.2 == Verdict::Failing || it.3.is_some());
    assert_eq!(failed, None);
}

#[tokio::test(start_paused = true)]
async fn after_ten_thousand_flaps_the_verdict_is_right_and_nothing_has_grown() {
    let bench = Bench::start();
    let pace = Pace { rise: 1, fall: 1, ..every(1000) };
    bench.begin(1, server(1), pace, Verdict::Well);
    pass(500).await;
    let mut flaps = 0;
    for flap in 0..10_000 {
        let manner = if flap % 2 == 0 { Manner::Refuses } else { Manner::Accepts };
        bench.script.set(server(1), manner);
        pass(1000).await;
        let told = bench.told();
        let expected = if flap % 2 == 0 { Verdict::Failing } else { Verdict::Well };
        assert_eq!(told.iter().map(|it| it.2).collect::<Vec<_>>(), [expected]);
        flaps += told.len();
        bench.script.forget();
    }
    assert_eq!(flaps, 10_000);
    let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert!(alive <= 3, "{alive} tasks");
}

/// By the real clock: what a check costs the control thread, but for the network itself.
#[tokio::test]
async fn two_thousand_checks_a_second_cost_a_small_part_of_one_core() {
    let bench = Bench::start();
    let pace = Pace { jitter: 10, ..every(1000) };
    for number in 0..2000 {
        bench.begin(number.into(), server(number), pace.clone(), Verdict::Well);
    }
    pass(300).await; // the first of each come at once
    let (asked, cpu) = (bench.totals.asked(), cpu_time());
    for _ in 0..300 {
        if bench.totals.asked() >= asked + 5000 {
            break;
        }
        pass(100).await; // three seconds, or more where the machine has other things to do
    }
    let (asked, cpu) = (bench.totals.asked() - asked, cpu_time() - cpu);
    let each = cpu / u32::try_from(asked).unwrap();
    println!("{asked} checks took {cpu:?} of a core, {each:?} each");
    assert!(asked >= 5000, "{asked}");
    assert!(each < Duration::from_micros(50), "{each:?}");
}
