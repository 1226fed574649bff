//! Asks every question at its pace and counts the answers. One task has the clock and all the questions; each
//! question under way is a task of its own. A question is asked once, however many servers it is about.
//!
//! Questions that hang hold a connection each, and scripts a process: [`gates`] says how many are under way.

mod gates;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use self::gates::{Gates, Place};
use super::probe::{self, Failure, Target};
use super::tally::{Tally, Verdict};
use crate::config::{Check, Kind, Pace};
use crate::net::Net;

/// How many answers are heard before others get their turn on the control thread.
const BURST: usize = 16;
/// The longest pause before somebody is asked again of whom nothing is known.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// What is asked of whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// Whom.
    pub target: Target,
    /// What, and how often.
    pub check: Check,
}

/// Which question. Never given away twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuestionId(pub u64);

/// What the engine is to do.
#[derive(Debug)]
pub enum Order {
    /// To ask a question from now on.
    Begin {
        /// Its number.
        id: QuestionId,
        /// What is asked of whom.
        question: Arc<Question>,
        /// What is known already.
        known: Verdict,
    },
    /// Not to ask it any more.
    End(QuestionId),
}

/// What has come of a question: another verdict, or another reason for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Which question.
    pub id: QuestionId,
    /// What its answers say now.
    pub verdict: Verdict,
    /// Why it is not well, such as "connect to 10.0.0.11:8080 refused, 2 of 2".
    pub reason: Option<String>,
}

/// How much has been asked, and how much is late.
#[derive(Debug, Default)]
pub struct Totals {
    asked: AtomicU64,
    failed: AtomicU64,
    waiting: AtomicU64,
    /// Since when the one waits that waits longest.
    first: Mutex<Option<Instant>>,
}

impl Totals {
    /// Questions that have been answered, or not in time.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Those of them that found a server not well.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Questions that are due and wait until fewer others are under way.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How long the one has waited that has waited longest.
    pub fn late(&self) -> Duration {
        let first = *self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.map(|since| since.elapsed()).unwrap_or_default()
    }

    fn tell(&self, (waiting, first): (usize, Option<Instant>)) {
        self.waiting.store(waiting as u64, Ordering::Relaxed);
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = first;
    }

    fn count(&self, passed: bool) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(!passed), Ordering::Relaxed);
    }
}

/// How many questions are begun together, and how long it is to the next: thousands that become due at once, as after a
/// start, must not fill the rings to the workers, nor come back as a flood. From then on they stay apart.
const TOGETHER: usize = 16;
/// See [`TOGETHER`].
const APART: Duration = Duration::from_millis(1);

/// The engine. [`Engine::run`] is what it does.
pub struct Engine<N: Net, T> {
    net: N,
    tools: Arc<probe::Tools>,
    orders: mpsc::UnboundedReceiver<Vec<Order>>,
    tell: T,
    totals: Arc<Totals>,
    asked: HashMap<QuestionId, Asked>,
    /// Questions that are not due yet, the next one first.
    waiting: BTreeSet<(Instant, QuestionId)>,
    /// Questions that are due or under way.
    gates: Gates,
    /// When the next ones may be begun.
    resumes: Instant,
    answers: (mpsc::UnboundedSender<Answer>, mpsc::UnboundedReceiver<Answer>),
    random: Random,
}

/// A question and how far it has come.
struct Asked {
    question: Arc<Question>,
    tally: Tally,
    /// How often it has been asked.
    turn: u64,
    /// Failures in a row since the server counts as not well.
    failures: u32,
    /// By how much sooner it has been asked since it was last found well.
    hurried: Duration,
    reason: Option<String>,
    stage: Stage,
}

enum Stage {
    Waiting(Instant),
    Due(Instant),
    UnderWay { since: Instant, task: AbortHandle },
}

/// What one question came to.
struct Answer {
    id: QuestionId,
    place: Place,
    result: Result<(), Failure>,
}

/// Sends exactly one answer, whatever becomes of the task that has it.
struct Promise {
    to: mpsc::UnboundedSender<Answer>,
    answer: Option<Answer>,
}

impl Promise {
    fn keep(mut self, result: Result<(), Failure>) {
        if let Some(answer) = &mut self.answer {
            answer.result = result;
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            let _ = self.to.send(answer); // the engine may have ended
        }
    }
}

impl<N: Net, T: Fn(News)> Engine<N, T> {
    /// An engine that does as `orders` say, and tells what comes of it to `tell`, which must be quick. `seed` is
    /// for pauses that differ by chance.
    pub fn new(
        net: N,
        tools: Arc<probe::Tools>,
        orders: mpsc::UnboundedReceiver<Vec<Order>>,
        tell: T,
        totals: Arc<Totals>,
        seed: u64,
    ) -> Self {
        Self {
            net,
            tools,
            orders,
            tell,
            totals,
            asked: HashMap::new(),
            waiting: BTreeSet::new(),
            gates: Gates::default(),
            resumes: Instant::now(),
            answers: mpsc::unbounded_channel(),
            random: Random(seed | 1),
        }
    }

    /// Asks until nobody can give orders any more.
    pub async fn run(mut self) {
        loop {
            self.call(Instant::now());
            let has_more = self.begin(Instant::now());
            self.totals.tell(self.gates.waiting());
            let next = self.waiting.first().map(|&(at, _)| at);
            tokio::select! {
                biased;
                orders = self.orders.recv() => match orders {
                    Some(orders) => self.obey(orders),
                    None => break,
                },
                Some(answer) = self.answers.1.recv() => self.listen(answer),
                () = sleep_until(self.resumes), if has_more => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
        self.asked.values().for_each(Asked::give_up);
    }

    fn obey(&mut self, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Begin { id, question, known } => {
                    let now = Instant::now();
                    let asked = Asked::new(question, known, now);
                    self.gates.line_up(asked.place(), now, id);
                    self.asked.insert(id, asked);
                }
                Order::End(id) => {
                    let Some(asked) = self.asked.remove(&id) else { continue };
                    match asked.stage {
                        Stage::Waiting(at) => drop(self.waiting.remove(&(at, id))),
                        Stage::Due(since) => self.gates.leave(asked.place(), since, id),
                        Stage::UnderWay { .. } => asked.give_up(),
                    }
                }
            }
        }
    }

    /// Lines up the questions that have become due.
    fn call(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.waiting.first()
            && at <= now
        {
            self.waiting.pop_first();
            let Some(asked) = self.asked.get_mut(&id) else { continue };
            asked.stage = Stage::Due(at);
            self.gates.line_up(asked.place(), at, id);
        }
    }

    /// Asks some of the questions that are due, and says whether there may be more to ask in a moment.
    fn begin(&mut self, now: Instant) -> bool {
        if now < self.resumes {
            return true;
        }
        for _ in 0..TOGETHER {
            let Some(id) = self.gates.next() else { return false };
            self.ask(id, now);
        }
        self.resumes = now + APART;
        true
    }

    fn ask(&mut self, id: QuestionId, now: Instant) {
        // One that has ended has left its line.
        let Some(asked) = self.asked.get_mut(&id) else { return };
        let fault = Failure("the check itself failed".into());
        let answer = Answer { id, place: asked.place(), result: Err(fault) };
        let promise = Promise { to: self.answers.0.clone(), answer: Some(answer) };
        let (net, tools) = (self.net.clone(), Arc::clone(&self.tools));
        let (question, turn) = (Arc::clone(&asked.question), asked.turn);
        let task = tokio::spawn(async move {
            let Question { target, check } = &*question;
            promise.keep(probe::ask(&net, &tools, target, check, turn).await);
        });
        asked.turn += 1;
        asked.stage = Stage::UnderWay { since: now, task: task.abort_handle() };
    }

    /// Hears an answer, and some more that are there.
    fn listen(&mut self, first: Answer) {
        self.hear(first);
        for _ in 1..BURST {
            let Ok(answer) = self.answers.1.try_recv() else { return };
            self.hear(answer);
        }
    }

    fn hear(&mut self, Answer { id, place, result }: Answer) {
        self.gates.finish(place);
        let Some(asked) = self.asked.get_mut(&id) else { return };
        self.totals.count(result.is_ok());
        if let Some(news) = asked.hear(id, result) {
            (self.tell)(news);
        }
        let Stage::UnderWay { since, .. } = asked.stage else { return };
        let now = Instant::now();
        let pause = asked.pause(&mut self.random);
        let sooner = asked.hurry(now - since, pause);
        let at = (since + pause.saturating_sub(sooner)).max(now);
        asked.stage = Stage::Waiting(at);
        self.waiting.insert((at, id));
    }
}

impl Asked {
    /// Due since `now`.
    fn new(question: Arc<Question>, known: Verdict, now: Instant) -> Self {
        let tally = Tally::beginning_with(known);
        let (hurried, stage) = (Duration::ZERO, Stage::Due(now));
        Self { question, tally, turn: 0, failures: 0, hurried, reason: None, stage }
    }

    fn place(&self) -> Place {
        let is_script = matches!(self.question.check.kind, Kind::Script { .. });
        Place { is_script, in_vain: self.tally.verdict() == Verdict::Failing }
    }

    fn give_up(&self) {
        if let Stage::UnderWay { task, .. } = &self.stage {
            task.abort();
        }
    }

    /// Counts an answer; says what is new.
    fn hear(&mut self, id: QuestionId, result: Result<(), Failure>) -> Option<News> {
        let Pace { rise, fall, .. } = self.question.check.pace;
        let changed = self.tally.count(result.is_ok(), rise, fall);
        let verdict = self.tally.verdict();
        self.failures = match verdict {
            Verdict::Failing if result.is_err() => self.failures.saturating_add(1),
            _ => 0,
        };
        let reason = result.err().map(|Failure(why)| match verdict {
            Verdict::Failing => format!("{why}, {fall} of {fall}"),
            _ => format!("{why}, {} of {fall}", self.tally.failures()),
        });
        // A pass does not yet say that what was wrong is right.
        let reason = reason.or_else(|| self.reason.clone().filter(|_| verdict == Verdict::Failing));
        let is_news = changed.is_some() || reason != self.reason;
        self.reason.clone_from(&reason);
        is_news.then_some(News { id, verdict, reason })
    }

    /// By how much sooner than after `pause` it is asked again after an answer that `took` so long. A server that has
    /// stopped answering keeps us waiting for its last failure; as much sooner it is asked after those before, so that it
    /// is out after as many intervals as one that refuses.
    fn hurry(&mut self, took: Duration, pause: Duration) -> Duration {
        if self.tally.verdict() != Verdict::Well || self.tally.failures() == 0 {
            self.hurried = Duration::ZERO;
            return Duration::ZERO;
        }
        let more = took.saturating_sub(self.hurried).min(pause.saturating_sub(took));
        self.hurried += more;
        more
    }

    /// How long after it was last asked it is asked again.
    fn pause(&self, random: &mut Random) -> Duration {
        let Pace { interval, back_off, jitter, .. } = self.question.check.pace;
        let pause = match (self.tally.verdict(), back_off) {
            (Verdict::Unknown, _) => interval.min(IMPATIENCE),
            (Verdict::Failing, Some(longest)) => {
                let doubled =
                    1_u32.checked_shl(self.failures.saturating_sub(1)).unwrap_or(u32::MAX);
                interval.saturating_mul(doubled).min(longest)
            }
            _ => interval,
        };
        pause.mul_f64(1.0 + f64::from(jitter) / 100.0 * random.between_minus_one_and_one())
    }
}

/// Marsaglia's xorshift: enough to keep questions apart.
struct Random(u64);

impl Random {
    fn between_minus_one_and_one(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

#[cfg(test)]
mod tests;
