//! Servers that say how idle they are, and weights that follow (AG-01 to AG-08). An agent on each server is
//! asked again and again; what it says, and how often it has missed, is kept in [`Agents`], from which the
//! compiler takes the weights. Many services may name one server: it is asked once.
//!
//! - [`ask`]: one question to one agent
//! - [`answer`]: what it says
//! - [`formula`]: the weight that follows

pub mod answer;

pub mod ask;

pub mod formula;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn};
use tokio::time::{MissedTickBehavior, interval_at};
use tracing::{info, warn};

pub use self::answer::Answer;
use self::ask::ask;
use crate::config::{self, AgentMethod, Config};
use crate::net::Net;

/// How far apart agents are asked that become known together.
const APART: Duration = Duration::from_millis(10);

/// Whom to ask, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    at: SocketAddr,
    method: AgentMethod,
    interval: Duration,
    timeout: Duration,
    misses: u32,
}

impl Question {
    /// To the agent of `server`.
    fn to(server: &config::Server, agent: &config::Agent) -> Self {
        Self {
            at: SocketAddr::new(server.address.ip(), agent.port),
            method: agent.method.clone(),
            interval: Duration::from_secs(agent.interval.into()),
            timeout: Duration::from_secs(agent.timeout.into()),
            misses: agent.misses.into(),
        }
    }

    /// The same at any pace.
    fn whom(&self) -> (SocketAddr, &AgentMethod) {
        (self.at, &self.method)
    }
}

/// How things stand with one agent.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// What counts: the last answer, until so many questions in a row have had none.
    pub in_force: Option<Answer>,
    /// What came of the last question, and when.
    pub last: Option<(Result<Answer, String>, Instant)>,
    /// How many questions in a row have had no answer.
    pub missed: u32,
}

/// What agents have said. Cheap to clone: all clones are the same.
#[derive(Debug, Clone)]
pub struct Agents(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// For each agent that is wanted.
    standings: Mutex<HashMap<Question, Standing>>,
    wanted: watch::Sender<HashSet<Question>>,
    /// An answer in force has changed since somebody last looked.
    news: AtomicBool,
}

impl Default for Agents {
    fn default() -> Self {
        let (wanted, _) = watch::channel(HashSet::new());
        Self(Arc::new(Shared { standings: Mutex::default(), wanted, news: AtomicBool::new(false) }))
    }
}

impl Agents {
    /// Has the agents of `config` asked, and no others. What others have said is forgotten; what an agent has said
    /// that is now asked at another pace counts on.
    pub fn follow(&self, config: &Config) {
        let mut wanted = HashSet::new();
        for service in &config.services {
            let Some(agent) = &service.agent else { continue };
            wanted.extend(service.servers.iter().map(|server| Question::to(server, agent)));
        }
        // Only whoever follows adds or removes a question: no answer waits for all this.
        let known: HashSet<_> = self.standings().keys().cloned().collect();
        let whom =
            known.iter().map(|question| (question.whom(), question)).collect::<HashMap<_, _>>();
        let new = wanted.difference(&known).map(|question| (question, whom.get(&question.whom())));
        let new: Vec<_> = new.collect();
        let mut standings = self.standings();
        for (question, before) in new {
            let before = before.and_then(|before| standings.get(*before)).cloned();
            standings.insert(question.clone(), before.unwrap_or_default());
        }
        known.difference(&wanted).for_each(|question| drop(standings.remove(question)));
        drop(standings);
        self.0.wanted.send_if_modified(|before| {
            let differs = *before != wanted;
            *before = wanted;
            differs
        });
    }

    /// The weight of a server now, if it takes new flows: what follows from its agent's answer, or else its own.
    pub fn weight(&self, service: &config::Service, server: &config::Server) -> u16 {
        match (&service.agent, self.in_force(service, server)) {
            (Some(agent), Some(Answer::Idle(idle))) => {
                formula::weight(agent.formula, server.weight, idle)
            }
            _ => server.weight,
        }
    }

    /// Whether a server's agent asks for new flows to stay away.
    pub fn ask_for_drain(&self, service: &config::Service, server: &config::Server) -> bool {
        self.in_force(service, server) == Some(Answer::Drain)
    }

    fn in_force(&self, service: &config::Service, server: &config::Server) -> Option<Answer> {
        let question = Question::to(server, service.agent.as_ref()?);
        self.standings().get(&question)?.in_force
    }

    /// How things stand with the agent of a server, if it has one.
    pub fn standing(&self, service: &config::Service, server: &config::Server) -> Option<Standing> {
        let question = Question::to(server, service.agent.as_ref()?);
        self.standings().get(&question).cloned()
    }

    /// Whether weights may have changed since [`Self::take_news`].
    pub fn have_news(&self) -> bool {
        self.0.news.load(Ordering::Acquire)
    }

    /// To be called before the weights are asked for, so that no change is missed.
    pub fn take_news(&self) {
        self.0.news.store(false, Ordering::Release);
    }

    fn hear(&self, question: &Question, outcome: Result<Answer, String>) {
        let mut standings = self.standings();
        // It may not be wanted any more.
        let Some(standing) = standings.get_mut(question) else { return };
        let before = standing.in_force;
        standing.hear(question, outcome);
        if standing.in_force != before {
            self.0.news.store(true, Ordering::Release);
        }
    }

    fn standings(&self) -> MutexGuard<'_, HashMap<Question, Standing>> {
        self.0.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    fn hear(&mut self, question: &Question, outcome: Result<Answer, String>) {
        let Question { at, misses, .. } = question;
        let known = self.last.as_ref().is_some_and(|(last, _)| *last == outcome);
        match &outcome {
            Ok(answer) => {
                if self.missed > 0 {
                    info!("agent {at}: answers again: {answer}");
                }
                self.missed = 0;
                if *answer == Answer::Drain && !known {
                    info!("agent {at}: asks for drain");
                }
                self.in_force = Some(*answer);
            }
            Err(why) => {
                self.missed = self.missed.saturating_add(1);
                if !known {
                    warn!("agent {at}: ignored: {why}");
                }
                if self.missed == *misses {
                    warn!(
                        "agent {at}: {misses} misses in a row: servers have their own weights again"
                    );
                }
                if self.missed >= *misses {
                    self.in_force = None; // AG-08
                }
            }
        }
        self.last = Some((outcome, Instant::now()));
    }
}

/// Asks the agents that `agents` follow, over `net`, for as long as it is polled.
pub async fn run<N: Net>(net: N, agents: Agents) {
    let mut wanted = agents.0.wanted.subscribe();
    let mut askers: HashMap<Question, Asker> = HashMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        askers.retain(|question, _| now.contains(question));
        let new = now.into_iter().filter(|question| !askers.contains_key(question));
        for (question, position) in new.collect::<Vec<_>>().into_iter().zip(0_u32..) {
            let first = (APART * position).min(question.interval);
            askers.insert(question.clone(), Asker::start(&net, &agents, question, first));
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// A task that asks one agent, ended when this value goes out of scope.
struct Asker(AbortHandle);

impl Asker {
    fn start<N: Net>(net: &N, agents: &Agents, question: Question, first: Duration) -> Self {
        let (net, agents) = (net.clone(), agents.clone());
        let task = async move {
            let mut turns = interval_at(tokio::time::Instant::now() + first, question.interval);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                turns.tick().await;
                let outcome = ask(&net, question.at, &question.method, question.timeout).await;
                agents.hear(&question, outcome);
            }
        };
        Self(spawn(task).abort_handle())
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
