//! Asks every question at its pace and counts the answers. One task has the clock and all the questions; each
//! question under way is a task of its own. A question is asked once, however many servers it is about.
//!
//! Questions that hang hold a connection each: at most [`MOST_UNDER_WAY`] are under way, and of those at most
//! [`MOST_IN_VAIN`] to servers that are not well anyway, so that they cannot keep the others waiting.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::probe::{self, Failure, Target};
use super::tally::{Tally, Verdict};
use crate::config::{Check, Pace};
use crate::net::Net;

/// How many questions are under way at once.
pub const MOST_UNDER_WAY: usize = 1024;
/// How many of those to servers that are not well.
pub const MOST_IN_VAIN: usize = 256;
/// How many answers are heard before others get their turn on the control thread.
const BURST: usize = 16;
/// The longest pause before somebody is asked again of whom nothing is known.
const IMPATIENCE: Duration = Duration::from_secs(1);
/// How much longer than its own limits a question may take. Those are for it to keep; a script may wait for others first.
const GRACE: Duration = Duration::from_secs(60);

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

/// How much has been asked.
#[derive(Debug, Default)]
pub struct Totals {
    asked: AtomicU64,
    failed: AtomicU64,
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
    /// Questions that are due: to servers that may be well, and to those that are not.
    due: VecDeque<QuestionId>,
    due_in_vain: VecDeque<QuestionId>,
    /// When the next ones may be begun.
    resumes: Instant,
    under_way: usize,
    in_vain: usize,
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
    reason: Option<String>,
    stage: Stage,
}

enum Stage {
    Waiting(Instant),
    Due,
    UnderWay { since: Instant, task: AbortHandle },
}

/// What one question came to.
struct Answer {
    id: QuestionId,
    in_vain: bool,
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
            due: VecDeque::new(),
            due_in_vain: VecDeque::new(),
            resumes: Instant::now(),
            under_way: 0,
            in_vain: 0,
            answers: mpsc::unbounded_channel(),
            random: Random(seed | 1),
        }
    }

    /// Asks until nobody can give orders any more.
    pub async fn run(mut self) {
        loop {
            self.call(Instant::now());
            let has_more = self.begin(Instant::now());
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
                    let tally = Tally::beginning_with(known);
                    let (failures, reason, stage) = (0, None, Stage::Due);
                    let asked = Asked { question, tally, turn: 0, failures, reason, stage };
                    self.queue(&asked).push_back(id);
                    self.asked.insert(id, asked);
                }
                Order::End(id) => {
                    let Some(asked) = self.asked.remove(&id) else { continue };
                    asked.give_up();
                    if let Stage::Waiting(at) = asked.stage {
                        self.waiting.remove(&(at, id));
                    }
                }
            }
        }
    }

    /// Puts the questions that have become due into their queues.
    fn call(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.waiting.first()
            && at <= now
        {
            self.waiting.pop_first();
            let Some(asked) = self.asked.get_mut(&id) else { continue };
            asked.stage = Stage::Due;
            match asked.is_in_vain() {
                true => self.due_in_vain.push_back(id),
                false => self.due.push_back(id),
            }
        }
    }

    fn queue(&mut self, asked: &Asked) -> &mut VecDeque<QuestionId> {
        if asked.is_in_vain() { &mut self.due_in_vain } else { &mut self.due }
    }

    /// Asks some of the questions that are due, and says whether there may be more to ask in a moment.
    fn begin(&mut self, now: Instant) -> bool {
        if now < self.resumes {
            return true;
        }
        let mut begun = 0;
        while begun < TOGETHER && self.under_way < MOST_UNDER_WAY {
            let next = match self.due.pop_front() {
                None if self.in_vain < MOST_IN_VAIN => self.due_in_vain.pop_front(),
                next => next,
            };
            let Some(id) = next else { return false };
            begun += usize::from(self.ask(id, now));
        }
        self.resumes = now + APART;
        begun == TOGETHER
    }

    /// Whether there still is such a question.
    fn ask(&mut self, id: QuestionId, now: Instant) -> bool {
        let Some(asked) = self.asked.get_mut(&id) else { return false };
        let in_vain = asked.is_in_vain();
        let fault = Failure("the check itself failed".into());
        let answer = Answer { id, in_vain, result: Err(fault) };
        let promise = Promise { to: self.answers.0.clone(), answer: Some(answer) };
        let (net, tools) = (self.net.clone(), Arc::clone(&self.tools));
        let (question, turn) = (Arc::clone(&asked.question), asked.turn);
        let task = tokio::spawn(async move {
            let Question { target, check } = &*question;
            let asking = probe::ask(&net, &tools, target, check, turn);
            let answered = timeout(limit(&check.pace), asking).await;
            let silent = |_| Err(Failure(format!("no answer from {}", target.at)));
            promise.keep(answered.unwrap_or_else(silent));
        });
        asked.turn += 1;
        asked.stage = Stage::UnderWay { since: now, task: task.abort_handle() };
        self.under_way += 1;
        self.in_vain += usize::from(in_vain);
        true
    }

    /// Hears an answer, and some more that are there.
    fn listen(&mut self, first: Answer) {
        self.hear(first);
        for _ in 1..BURST {
            let Ok(answer) = self.answers.1.try_recv() else { return };
            self.hear(answer);
        }
    }

    fn hear(&mut self, Answer { id, in_vain, result }: Answer) {
        self.under_way -= 1;
        self.in_vain -= usize::from(in_vain);
        let Some(asked) = self.asked.get_mut(&id) else { return };
        self.totals.count(result.is_ok());
        if let Some(news) = asked.hear(id, result) {
            (self.tell)(news);
        }
        let Stage::UnderWay { since, .. } = asked.stage else { return };
        let at = (since + asked.pause(&mut self.random)).max(Instant::now());
        asked.stage = Stage::Waiting(at);
        self.waiting.insert((at, id));
    }
}

impl Asked {
    /// Whether the server is known not to be well.
    fn is_in_vain(&self) -> bool {
        self.tally.verdict() == Verdict::Failing
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

/// How long a question may take at most.
fn limit(pace: &Pace) -> Duration {
    pace.timeout.max(pace.negotiate_timeout) + GRACE
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
