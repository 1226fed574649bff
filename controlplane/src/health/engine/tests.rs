//! A scripted network and a clock that the test turns.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use tokio::io::DuplexStream;

use super::*;
use crate::config::Kind;
use crate::net::{Datagrams, Way};

/// How a server takes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Accepts,
    Refuses,
    /// No answer at all.
    Hangs,
    /// The program is at fault.
    Panics,
}

/// A network of scripted servers; whoever is not written down accepts.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Scripted>>);

#[derive(Default)]
struct Scripted {
    manners: HashMap<SocketAddr, Manner>,
    /// Who was asked, and when.
    asked: Vec<(SocketAddr, Instant)>,
    under_way: usize,
    most_under_way: usize,
}

impl Script {
    fn with<T>(&self, of: impl FnOnce(&mut Scripted) -> T) -> T {
        of(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, at: SocketAddr, manner: Manner) {
        self.with(|script| script.manners.insert(at, manner));
    }

    /// When one server was asked, in milliseconds since `start`.
    fn asked(&self, at: SocketAddr, start: Instant) -> Vec<u128> {
        self.with(|script| {
            let of = script.asked.iter().filter(|(whom, _)| *whom == at);
            of.map(|(_, when)| (*when - start).as_millis()).collect()
        })
    }
}

/// Counts a connection as under way until it is dropped.
struct UnderWay(Script);

impl UnderWay {
    fn begin(script: &Script) -> Self {
        script.with(|script| {
            script.under_way += 1;
            script.most_under_way = script.most_under_way.max(script.under_way);
        });
        Self(script.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.with(|script| script.under_way -= 1);
    }
}

struct Nothing;

impl Datagrams for Nothing {
    async fn send(&self, _: &[u8]) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    async fn receive(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }
}

impl Net for Script {
    type Stream = DuplexStream;
    type Datagrams = Nothing;

    async fn connect(&self, to: SocketAddr, _: Way) -> io::Result<DuplexStream> {
        let _under_way = UnderWay::begin(self);
        let manner = self.with(|script| {
            script.asked.push((to, Instant::now()));
            script.manners.get(&to).copied().unwrap_or(Manner::Accepts)
        });
        match manner {
            Manner::Accepts => Ok(tokio::io::duplex(1).0),
            Manner::Refuses => Err(ErrorKind::ConnectionRefused.into()),
            Manner::Hangs => std::future::pending().await,
            Manner::Panics => panic!("as scripted"),
        }
    }

    async fn datagrams(&self, _: SocketAddr, _: Way) -> io::Result<Nothing> {
        Err(ErrorKind::Unsupported.into())
    }

    async fn ping(&self, _: IpAddr, _: Way) -> io::Result<Duration> {
        Err(ErrorKind::Unsupported.into())
    }
}

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
        let check = Check { kind: Kind::Connect, pace, ..Check::default() };
        let target = Target { at, way: Way::Routed, service: (String::new(), None) };
        let question = Arc::new(Question { target, check });
        let order = Order::Begin { id: QuestionId(id), question, known };
        self.orders.send(vec![order]).unwrap();
    }

    fn end(&self, id: u64) {
        self.orders.send(vec![Order::End(QuestionId(id))]).unwrap();
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
    assert_eq!(bench.script.asked(server(1), bench.start), [0, 1000, 2000, 3000]);
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
    let asked = bench.script.asked(server(1), bench.start);
    assert_eq!(asked, [0, 1000, 3000, 7000, 12_000, 17_000]);
    bench.script.set(server(1), Manner::Accepts);
    pass(5000).await;
    let asked = bench.script.asked(server(1), bench.start);
    assert_eq!(asked[6..], [22_000, 23_000], "one pass, and it is asked at its pace again");
}

#[tokio::test(start_paused = true)]
async fn pauses_differ_by_chance_within_the_jitter() {
    let bench = Bench::start();
    let pace = Pace { jitter: 10, ..every(1000) };
    bench.begin(1, server(1), pace, Verdict::Unknown);
    pass(100_000).await;
    let asked = bench.script.asked(server(1), bench.start);
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
    assert_eq!(bench.script.asked(server(1), bench.start), [0]);
    assert_eq!(bench.script.asked(server(2), bench.start), [0]);
    assert_eq!(bench.script.with(|script| script.under_way), 0);
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
    for number in 0..3000 {
        bench.script.set(server(number), Manner::Hangs);
        bench.begin(number.into(), server(number), every(1000), Verdict::Failing);
    }
    for number in 3000..3010 {
        bench.begin(number.into(), server(number), every(1000), Verdict::Well);
    }
    pass(10_500).await;
    let most = bench.script.with(|script| script.most_under_way);
    assert!((MOST_IN_VAIN..MOST_IN_VAIN + 10 + BURST).contains(&most), "{most}");
    for number in 3000..3010 {
        let asked = bench.script.asked(server(number), bench.start);
        assert_eq!(asked.len(), 11, "{asked:?}");
        assert!(asked.iter().enumerate().all(|(n, &at)| at <= n as u128 * 1000 + 5), "{asked:?}");
    }
    for number in 3000..6000 {
        bench.script.set(server(number), Manner::Hangs);
        bench.begin(u64::from(number) + 10_000, server(number), every(1000), Verdict::Well);
    }
    pass(100).await;
    let most = bench.script.with(|script| script.most_under_way);
    assert!(most <= MOST_UNDER_WAY, "{most}");
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
        bench.script.with(|script| script.asked.clear());
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
    pass(3000).await;
    let (asked, cpu) = (bench.totals.asked() - asked, cpu_time() - cpu);
    let each = cpu / u32::try_from(asked).unwrap();
    println!("{asked} checks in 3 s took {cpu:?} of a core, {each:?} each");
    assert!(asked >= 5000, "{asked}");
    assert!(each < Duration::from_micros(50), "{each:?}");
}

/// What this thread has computed so far.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}
