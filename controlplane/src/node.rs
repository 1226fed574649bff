//! The node: one configuration at a time, from the moment it is sent to the moment the workers
//! have it, and what can be said about it meanwhile.
//!
//! One change at a time: read, judged, compiled and written to the disk on a helper thread, then
//! swapped in under the lock, which the control thread's loop ([`Node::turn`]) otherwise holds for
//! some microseconds every millisecond.

mod alarm;

mod explain;

mod gaps;

mod in_band;

mod passive;

mod reports;

mod traffic;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use axum::body::Bytes;
use dataplane::counters::Counters;
use dataplane::moment::Moment;
use dataplane::punt::{Command, ControlEnd, Copied, Event, FlowReport};
use dataplane::snapshot::{InterfaceId, ServerId, ServiceId};
use dataplane::wire::ethernet::{self, ethertype};
use dataplane::wire::protocol;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use self::alarm::Alarm;
use self::explain::Explaining;
use self::gaps::Gaps;
use self::passive::Ejectors;
use self::traffic::Accounts;
use crate::agent::{self, Agents};
use crate::alerts::Tallies;
use crate::compile::{self, Compiled, Compiler};
use crate::config::{self, Config};
use crate::document::{self, Configuration};
use crate::echo;
use crate::events::{self, Events, Subject};
use crate::field::Invalid;
use crate::health::engine::{self, Engine, Order};
use crate::health::memory::Memory;
use crate::health::probe;
use crate::icmpv6;
use crate::identities::Identities;
use crate::neighbours::{self, Neighbours};
use crate::net::Net;
use crate::net::in_band::{Egress, InBand, Stack};
use crate::plumbing::{Buffers, LiveInterface, Plumbing};
use crate::publish::Publication;
use crate::random;
use crate::report;
use crate::states::{States, Unreachable};
use crate::store::{self, Digest, Store};

pub use self::explain::{Explained, FLAGS};

/// How often the workers' rings are looked at.
const TURN: Duration = Duration::from_millis(1);
/// How often the states take in what health checks have found.
const HEARING: Duration = Duration::from_millis(10);
/// How often servers that have come back get more of their weight, and all of them are looked at.
const RAMP: Duration = Duration::from_secs(1);
/// How many frames, and how many events, are taken from all workers together in one turn, from each as
/// many as from the others; and how many frames are sent. A few milliseconds' work at most.
const BURST: usize = 1024;
/// How many questions to the workers may be under way.
const QUESTIONS: usize = 8;
/// How long the workers may take to answer one.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two records of other stations that claim our addresses.
const CONFLICT: Duration = Duration::from_secs(1);
/// How many changes of one configuration are logged one by one.
const LOGGED: usize = 50;
/// How many of them the event of the change tells.
const TOLD: usize = 3;

/// Why a request was refused; nothing has changed.
#[derive(Debug, Error)]
pub enum Refusal {
    /// What was sent cannot be read at all.
    #[error("{0}")]
    Malformed(String),
    /// What was sent holds mistakes: all of them.
    #[error("nothing was changed: {}", in_words(.0))]
    Invalid(Vec<Invalid>),
    /// What was sent is right, but cannot be taken up by a running node.
    #[error(
        "nothing was changed: {} cannot be changed while the node runs; change the configuration \
         file and restart it",
        .0.join(", ")
    )]
    NotLive(Vec<String>),
    /// The caller's entity tag is not that of the configuration.
    #[error(
        "nothing was changed: the configuration has changed since you read it, and its entity tag \
         is now {now}; read it again"
    )]
    Stale {
        /// The entity tag of the configuration.
        now: String,
    },
    /// There is nothing of that name.
    #[error("there is no {0}")]
    NotFound(String),
    /// The name is taken.
    #[error("there is already a {0}; change it with PUT or PATCH")]
    Exists(String),
    /// Too many such requests are under way.
    #[error("too many such requests are under way; try again in a moment")]
    Busy,
    /// A worker has not answered.
    #[error("a worker has not answered within {} s; the log may say why", PATIENCE.as_secs())]
    Silent,
    /// The configuration could not be written to the disk.
    #[error("nothing was changed, because the configuration could not be kept: {0}")]
    Store(#[from] store::Error),
    /// The program is at fault.
    #[error("the request could not be completed; the log says why")]
    Failed,
}

fn in_words(mistakes: &[Invalid]) -> String {
    match mistakes {
        [mistake] => mistake.to_string(),
        [mistake, rest @ ..] => format!("{mistake} (and {} more mistakes)", rest.len()),
        [] => "it holds mistakes".into(),
    }
}

/// What the caller knows of the configuration that it wants to change (RFC 9110 section 13.1.1).
#[derive(Debug, Clone, Default)]
pub struct Guard(Option<Vec<String>>);

impl Guard {
    /// Whatever it is.
    pub fn any() -> Self {
        Self(None)
    }

    /// One of these entity tags, each with its quotes.
    pub fn one_of(tags: Vec<String>) -> Self {
        Self(Some(tags))
    }

    fn check(&self, now: &str) -> Result<(), Refusal> {
        match &self.0 {
            Some(tags) if !tags.iter().any(|tag| tag == now) => {
                Err(Refusal::Stale { now: now.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

/// What a node starts with.
pub struct Start {
    /// The state directory, in our possession.
    pub store: Store,
    /// The configuration that the store chose, and the devices were opened by.
    pub config: Config,
    /// The ends that belong to the control plane.
    pub plumbing: Plumbing,
}

/// The configuration in force, in every form in which it is asked for.
pub struct View {
    /// In types that cannot hold a mistake.
    pub config: Config,
    /// As clients see it.
    pub document: Configuration,
    /// The same as JSON.
    pub json: Bytes,
    /// Its entity tag, with quotes: the same for the same configuration, at any time.
    pub etag: String,
    /// The identities, in the order of the document.
    identities: Vec<(ServiceId, Vec<ServerId>)>,
}

/// A service of a [`View`].
#[derive(Clone, Copy)]
pub struct ServiceView<'v> {
    /// Its identity.
    pub id: ServiceId,
    /// What is configured.
    pub config: &'v config::Service,
    /// The same as clients see it.
    pub document: &'v document::Service,
    servers: &'v [ServerId],
}

impl<'v> ServiceView<'v> {
    /// Its servers with their identities.
    pub fn servers(self) -> impl Iterator<Item = (ServerId, &'v config::Server)> {
        self.servers.iter().copied().zip(&self.config.servers)
    }

    /// The server that stands for all of them when they have failed, with its identity.
    pub fn fallback(self) -> Option<(ServerId, &'v config::Server)> {
        let id = self.servers.get(self.config.servers.len())?;
        Some((*id, self.config.fallback_server()?))
    }

    /// The position of the server of that name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn position(self, name: &str) -> Result<usize, Refusal> {
        let found = self.config.servers.iter().position(|server| server.name == name);
        let service = &self.config.name;
        found.ok_or_else(|| Refusal::NotFound(format!("server {name} in service {service}")))
    }
}

impl View {
    fn new(config: Config, identities: &Identities) -> Self {
        let document = config.document();
        let json = serde_json::to_vec(&document).expect("a document has string keys only");
        let hash = digest::digest(&digest::SHA256, &json);
        let etag = format!("\"{}\"", store::hexadecimal(&hash.as_ref()[..16]));
        let identities = identities.of(&config);
        Self { config, document, json: json.into(), etag, identities }
    }

    /// The services with their identities.
    pub fn services(&self) -> impl Iterator<Item = ServiceView<'_>> {
        let services = self.config.services.iter().zip(&self.document.service);
        services.zip(&self.identities).map(|((config, document), (id, servers))| ServiceView {
            id: *id,
            config,
            document,
            servers,
        })
    }

    /// The server of that name in that service: its identity, and where it is.
    ///
    /// # Errors
    ///
    /// When there is none.
    fn server(&self, service: &str, server: &str) -> Result<(ServerId, Place), Refusal> {
        let own = self.service(service)?;
        let position = own.position(server)?;
        let found = self.config.services.iter().position(|it| it.name == service);
        let place = Place { service: found.unwrap_or_default(), server: Some(position) };
        Ok((own.servers[position], place))
    }

    /// The service of that name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn service(&self, name: &str) -> Result<ServiceView<'_>, Refusal> {
        let found = self.services().find(|service| service.config.name == name);
        found.ok_or_else(|| Refusal::NotFound(format!("service {name}")))
    }
}

/// A service or a server, by its position in the document.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Which service.
    pub service: usize,
    /// Which of its servers; `None` for the service itself.
    pub server: Option<usize>,
}

impl Place {
    /// A mistake's path as it is told to whom sent only what belongs in this place.
    fn relative(self, mut mistake: Invalid) -> Invalid {
        let mut own = format!("service[{}]", self.service);
        if let Some(server) = self.server {
            own += &format!(".server[{server}]");
        }
        if let Some(rest) = mistake.path.strip_prefix(&own) {
            mistake.path = rest.trim_start_matches('.').to_owned();
        }
        mistake
    }
}

/// The node. Everything that asks or changes anything shares it.
pub struct Node {
    store: Store,
    counters: Vec<Counters>,
    started: Moment,
    compiler: Compiler,
    /// What changed, when and why.
    events: Events,
    states: States,
    /// What the engine of health checks is to do, until there is one.
    orders: Mutex<Option<mpsc::UnboundedReceiver<Vec<Order>>>>,
    asked: Arc<engine::Totals>,
    /// What became of those that others are told of.
    alerts: Tallies,
    agents: Agents,
    stack: Stack,
    /// Locked for the whole of a change, so that there is one at a time.
    changing: Arc<tokio::sync::Mutex<Identities>>,
    /// Locked by whoever makes and publishes a snapshot.
    publishing: Mutex<()>,
    /// Locked for moments only, and never across an `await`.
    inner: Mutex<Inner>,
}

struct Inner {
    view: Arc<View>,
    publication: Publication,
    neighbours: Neighbours,
    stack: Stack,
    egress: Egress,
    /// Neighbours have changed since the last snapshot.
    outdated: bool,
    accounts: Accounts,
    alarm: Alarm,
    gaps: Gaps,
    ejectors: Ejectors,
    /// When the servers were last looked at.
    reviewed: Moment,
    /// When another station's claim to an address of ours was last recorded.
    told_conflict: Option<Moment>,
    rings: Vec<ControlEnd>,
    interfaces: Arc<[LiveInterface]>,
    buffers: Box<dyn Fn() -> Buffers + Send>,
    clock: Box<dyn Fn() -> Moment + Send>,
    frames: report::Control,
    /// Listings under way, by their number.
    questions: HashMap<u32, Question>,
    /// Explanations under way, by their number.
    explanations: HashMap<u32, Explaining>,
    next_question: u32,
}

/// A listing of flows under way.
struct Question {
    /// Workers that have not finished.
    left: HashSet<usize>,
    flows: Vec<FlowReport>,
    limit: usize,
    answer: oneshot::Sender<Vec<FlowReport>>,
}

/// What is to be taken up.
struct Change<T> {
    config: Config,
    /// The operator's FILE, if that is where it comes from.
    file: Option<Digest>,
    /// What its maker wants to know of it afterwards.
    edited: T,
}

impl<T> Change<T> {
    fn to(config: Config, edited: T) -> Self {
        Self { config, file: None, edited }
    }
}

impl Node {
    /// Gives the workers their first configuration.
    pub fn start(start: Start) -> Arc<Self> {
        let Start { store, config, plumbing } = start;
        let Plumbing { publisher, counters, rings, interfaces, buffers, clock } = plumbing;
        let now = clock();
        let mut identities = Identities::new();
        identities.assign(&config);
        let view = Arc::new(View::new(config, &identities));
        let agents = Agents::default();
        agents.follow(&view.config);
        let compiler = Compiler::new(rings.len()).with_agents(agents.clone());
        let events = Events::default();
        let (states, orders) = States::new(events.clone(), Memory::read(&store));
        states.follow(&view.config, &view.identities);
        let standings = states.standings();
        let live = live(&interfaces);
        let compiled = compiler.compile(&view.config, &view.identities, &standings, &live, now);
        let mut neighbours = Neighbours::new(u64::from_ne_bytes(random()));
        neighbours.configure(now, compiled.plan());
        let (stack, mut egress) = (Stack::new(random()), Egress::default());
        let paths = Arc::new(compiled.paths());
        stack.configure(Arc::clone(&paths));
        egress.configure(paths);
        let known = neighbours.known();
        let publication = Publication::new(publisher, compiled, stack.answers(), &known, now);
        let mut accounts = Accounts::new(counters.clone(), now);
        accounts.follow(&view);
        let alarm = Alarm::new(counters.clone(), events.clone(), now);
        let inner = Inner {
            view,
            publication,
            neighbours,
            stack: stack.clone(),
            egress,
            outdated: false,
            accounts,
            alarm,
            gaps: Gaps::new(),
            ejectors: Ejectors::default(),
            reviewed: now,
            told_conflict: None,
            rings,
            interfaces: interfaces.into(),
            buffers,
            clock,
            frames: report::Control::default(),
            questions: HashMap::new(),
            explanations: HashMap::new(),
            next_question: 0,
        };
        inner.review(&states);
        Arc::new(Self {
            store,
            counters,
            started: now,
            compiler,
            events,
            states,
            orders: Mutex::new(Some(orders)),
            asked: Arc::default(),
            alerts: Tallies::default(),
            agents,
            stack,
            changing: Arc::new(tokio::sync::Mutex::new(identities)),
            publishing: Mutex::default(),
            inner: Mutex::new(inner),
        })
    }

    /// What the control thread does besides answering: one [`turn`](Self::turn) a millisecond, and agents asked.
    pub async fn run(self: Arc<Self>) {
        tokio::spawn(Arc::clone(&self).keep_standings());
        tokio::spawn(agent::run(self.net(), self.agents.clone()));
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hearings = interval(HEARING);
        hearings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = turns.tick() => self.turn(),
                _ = hearings.tick() => self.states.take_in(),
            }
        }
    }

    /// Asks servers over `net` whether they are well. Only the first who does that is heard.
    pub async fn ask_servers<N: Net>(self: Arc<Self>, net: N, tools: Arc<probe::Tools>) {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(orders) = orders else { return };
        let totals = Arc::clone(&self.asked);
        let tell = |news| self.states.hear(news);
        Engine::new(net, tools, orders, tell, totals, u64::from_ne_bytes(random())).run().await;
    }

    /// Gives the workers what has changed in the states of servers, gives servers that have come back more of their
    /// weight and those whose agents say so another, and writes down who is down.
    async fn keep_standings(self: Arc<Self>) {
        let mut looks = interval(RAMP);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut falls = 0;
        loop {
            let changed = tokio::select! {
                () = self.states.changed() => true,
                _ = looks.tick() => self.compiler.is_ramping(),
            };
            let node = Arc::clone(&self);
            let kept = helped(move || {
                if changed {
                    node.restate();
                }
                if let Some(memory) = node.states.memory(&mut falls)
                    && let Err(error) = memory.write(&node.store)
                {
                    error!("who is down could not be written down: {error}");
                }
                Ok(falls)
            });
            falls = kept.await.unwrap_or(falls); // it cannot be refused; if it failed, the log says so
        }
    }

    /// Publishes the same configuration with the states of servers as they are now.
    fn restate(&self) {
        let _alone = self.publishing();
        let (compiled, _) = self.compile(&self.view());
        let mut inner = self.inner();
        let now = (inner.clock)();
        let known = inner.neighbours.known();
        let replaced = inner.publication.take_up(compiled, &known, now);
        drop(inner);
        drop(replaced); // not under the lock
    }

    /// The servers whose agents ask for new flows to stay away.
    fn drained_by_agents(&self, view: &View) -> HashSet<ServerId> {
        let asking = view.services().filter(|service| service.config.agent.is_some());
        let drained = asking.flat_map(|service| {
            service.servers().filter(move |(_, server)| {
                server.weight > 0 && self.agents.weight(service.config, server) == 0
            })
        });
        drained.map(|(id, _)| id).collect()
    }

    /// A configuration with the states of servers now, and which version those are.
    fn compile(&self, view: &View) -> (Compiled, u64) {
        let (live, now) = {
            let inner = self.inner();
            (live(&inner.interfaces), (inner.clock)())
        };
        self.states.heed(&self.drained_by_agents(view));
        let standings = self.states.standings();
        let View { config, identities, .. } = view;
        (self.compiler.compile(config, identities, &standings, &live, now), standings.version)
    }

    /// Takes what the workers handed over, sends what is due, and publishes what has changed.
    pub fn turn(&self) {
        let mut inner = self.inner();
        let now = (inner.clock)();
        inner.gaps.turn(now);
        inner.listen(now);
        inner.neighbours.tick(now);
        inner.stack.turn(now);
        inner.speak();
        inner.speak_in_band(now);
        inner.outdated |= inner.neighbours.take_changed();
        if inner.outdated && inner.publication.may_refresh(now) {
            inner.outdated = false;
            let known = inner.neighbours.known();
            inner.publication.refresh(&known, now);
        }
        inner.publication.reclaim();
        inner.accounts.tick(now);
        inner.alarm.tick(now);
        if now.since(inner.reviewed) >= RAMP {
            inner.reviewed = now;
            inner.review(&self.states);
            let Inner { ejectors, view, accounts, .. } = &mut *inner;
            ejectors.look(now, view, accounts, &self.states);
        }
        inner.tell_conflicts(now, &self.events);
        inner.questions.retain(|_, question| !question.answer.is_closed());
        inner.explanations.retain(|_, explaining| explaining.is_wanted());
    }

    /// The configuration in force.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.inner().view)
    }

    /// What changed, when and why.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The states of servers and services.
    pub fn states(&self) -> &States {
        &self.states
    }

    /// How much servers have been asked.
    pub fn asked(&self) -> &engine::Totals {
        &self.asked
    }

    /// What became of alerts.
    pub fn alerts(&self) -> &Tallies {
        &self.alerts
    }

    /// What the servers' agents have said.
    pub fn agents(&self) -> &Agents {
        &self.agents
    }

    /// The network on the data ports.
    pub fn net(&self) -> InBand {
        self.stack.clone().into()
    }

    /// Where the state lies.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether every worker has taken up the newest snapshot.
    pub fn is_ready(&self) -> bool {
        self.inner().publication.is_current_everywhere()
    }

    /// Replaces the whole configuration by what `next` reads, if the caller's guard holds.
    ///
    /// # Errors
    ///
    /// When it is refused, cannot be taken up while the node runs, or cannot be written down.
    pub async fn replace(
        self: &Arc<Self>,
        guard: Guard,
        next: impl FnOnce() -> Result<Config, Refusal> + Send + 'static,
    ) -> Result<Arc<View>, Refusal> {
        let (view, ()) = self.change(guard, |_| Ok(Change::to(next()?, ()))).await?;
        Ok(view)
    }

    /// Edits one place in the document of the configuration, if the caller's guard holds. Mistakes
    /// are told with paths that begin at that place.
    ///
    /// # Errors
    ///
    /// As for [`replace`](Self::replace), and what `edit` refuses.
    pub async fn edit(
        self: &Arc<Self>,
        guard: Guard,
        edit: impl FnOnce(&mut Value) -> Result<Place, Refusal> + Send + 'static,
    ) -> Result<(Arc<View>, Place), Refusal> {
        let next = |view: &View| {
            let mut document =
                serde_json::to_value(&view.document).expect("a document has string keys only");
            let place = edit(&mut document)?;
            let relative = |mistakes: Vec<Invalid>| {
                let mistakes = mistakes.into_iter().map(|mistake| place.relative(mistake));
                Refusal::Invalid(mistakes.collect())
            };
            Ok(Change::to(Config::read(&document).map_err(relative)?, place))
        };
        self.change(guard, next).await
    }

    /// Changes what is wanted of a server, if the caller's guard holds. The workers know before it is written down;
    /// if that fails, they are told to go back.
    ///
    /// # Errors
    ///
    /// As for [`replace`](Self::replace), and when there is no such server.
    pub async fn want(
        self: &Arc<Self>,
        guard: Guard,
        (service, server): (String, String),
        state: config::State,
    ) -> Result<(Arc<View>, Place), Refusal> {
        let node = Arc::clone(self);
        let (of, name) = (service.clone(), server.clone());
        let next = move |view: &View| {
            let (id, place) = view.server(&of, &name)?;
            let mut config = view.config.clone();
            let servers = &mut config.services[place.service].servers;
            let own = &mut servers[place.server.unwrap_or_default()];
            own.state = state;
            node.states.want(id, own.wanted());
            Ok(Change::to(config, place))
        };
        let changed = self.change(guard, next).await;
        let view = self.view();
        if changed.is_err()
            && let Ok((id, place)) = view.server(&service, &server)
        {
            let servers = &view.config.services[place.service].servers;
            self.states.want(id, servers[place.server.unwrap_or_default()].wanted());
        }
        changed
    }

    /// Reads the operator's FILE again, as if it had been sent.
    ///
    /// # Errors
    ///
    /// When FILE cannot be read, and as for [`replace`](Self::replace).
    pub async fn reload(self: &Arc<Self>) -> Result<Arc<View>, Refusal> {
        let node = Arc::clone(self);
        let next = move |_: &View| match node.store.reread() {
            Ok((config, file)) => Ok(Change { file: Some(file), ..Change::to(config, ()) }),
            Err(store::Error::Refused { mistakes, .. }) => Err(Refusal::Invalid(mistakes)),
            Err(error) => Err(error.into()),
        };
        let (view, ()) = self.change(Guard::any(), next).await?;
        Ok(view)
    }

    /// What a configuration would change.
    pub fn validate(&self, next: &Config) -> report::Verdict {
        let view = self.view();
        let restart_needed = view.config.restart_needed(next);
        let changes = view.config.changes(next);
        let advice = next.advice();
        report::Verdict { live: restart_needed.is_empty(), restart_needed, changes, advice }
    }

    /// One change, from beginning to end on a helper thread: a caller that goes away meanwhile
    /// neither stops it halfway nor lets the next one in before it is done.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        guard: Guard,
        next: impl FnOnce(&View) -> Result<Change<T>, Refusal> + Send + 'static,
    ) -> Result<(Arc<View>, T), Refusal> {
        let mut identities = Arc::clone(&self.changing).lock_owned().await;
        let node = Arc::clone(self);
        helped(move || {
            let view = node.view();
            guard.check(&view.etag)?;
            let Change { config: next, file, edited } = next(&view)?;
            if next == view.config {
                if file.is_some() {
                    node.store.save(&next, file)?;
                }
                return Ok((view, edited));
            }
            let needed = view.config.restart_needed(&next);
            if !needed.is_empty() {
                return Err(Refusal::NotLive(needed));
            }
            let mut assigned = identities.clone();
            assigned.assign(&next);
            node.store.save(&next, file)?;
            let changes = view.config.changes(&next);
            log_changes(&changes);
            let next = Arc::new(View::new(next, &assigned));
            node.take_up(&next);
            node.events.record(reconfigured(&view, &next, &changes));
            *identities = assigned;
            Ok((next, edited))
        })
        .await
    }

    fn take_up(&self, view: &Arc<View>) {
        let _alone = self.publishing();
        self.agents.follow(&view.config);
        self.states.follow(&view.config, &view.identities);
        let (compiled, version) = self.compile(view);
        let replaced = {
            let mut inner = self.inner();
            let inner = &mut *inner;
            let now = (inner.clock)();
            inner.neighbours.configure(now, compiled.plan());
            let paths = Arc::new(compiled.paths());
            inner.stack.configure(Arc::clone(&paths));
            inner.egress.configure(paths);
            inner.outdated = false;
            inner.neighbours.take_changed();
            inner.accounts.follow(view);
            let earlier = std::mem::replace(&mut inner.view, Arc::clone(view));
            let known = inner.neighbours.known();
            let replaced = (earlier, inner.publication.take_up(compiled, &known, now));
            inner.review(&self.states);
            replaced
        };
        if self.states.version() != version {
            self.states.wake();
        }
        drop(replaced); // a large configuration takes a while to free: not under the lock
    }

    /// From the moment that the states follow another configuration until the workers have it, nobody may publish
    /// the one before: its servers have no states any more. Helpers wait for each other here; the control thread
    /// has nothing to do with it.
    fn publishing(&self) -> MutexGuard<'_, ()> {
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be remembered of a change of configuration: the entity tags without their quotes, and the
/// first things that changed.
fn reconfigured(old: &View, new: &View, changes: &[String]) -> events::Change {
    let tag = |view: &View| view.etag.trim_matches('"').to_owned();
    let reason = match changes {
        [first, rest @ ..] if rest.len() >= TOLD => {
            format!(
                "{first}; {}; and {} more changes",
                rest[..TOLD - 1].join("; "),
                changes.len() - TOLD
            )
        }
        all => all.join("; "),
    };
    events::Change { subject: Subject::Configuration, old: tag(old), new: tag(new), reason }
}

/// The first of them, and how many there are.
fn log_changes(changes: &[String]) {
    for change in changes.iter().take(LOGGED) {
        info!("configuration: {change}");
    }
    if changes.len() > LOGGED {
        info!("configuration: {} more changes", changes.len() - LOGGED);
    }
}

/// Runs what may take long on a helper thread.
pub(crate) async fn helped<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    spawn_blocking(work).await.unwrap_or_else(|failure| {
        error!("a request could not be completed: {failure}");
        Err(Refusal::Failed)
    })
}

impl Inner {
    /// Puts a question to every worker; gives its number.
    fn ask_everyone(&mut self, command: impl Fn(u32) -> Command) -> Result<u32, Refusal> {
        let under_way = self.questions.len() + self.explanations.len();
        let room = self.rings.iter().all(|ring| ring.commands.slots() > 0);
        if under_way >= QUESTIONS || !room {
            return Err(Refusal::Busy);
        }
        self.next_question = self.next_question.wrapping_add(1);
        for ring in &mut self.rings {
            if ring.commands.push(command(self.next_question)).is_err() {
                return Err(Refusal::Busy);
            }
        }
        Ok(self.next_question)
    }

    /// Looks at all servers: whether they can be reached, and whether those that have failed have flows.
    fn review(&self, states: &States) {
        let newest = self.publication.newest();
        let unreachable = |id| {
            // A server that no worker has heard of yet is looked at when they have.
            let hop = newest.server(id)?.hop;
            let is_absent =
                hop.mac.is_none() && self.neighbours.is_absent((hop.interface, hop.address));
            is_absent.then_some(Unreachable(hop.address))
        };
        let is_busy = |id| {
            let traffic = self.accounts.server(id);
            traffic.connections > traffic.closing
        };
        states.review(unreachable, is_busy);
    }

    /// Takes frames and events from every worker.
    fn listen(&mut self, now: Moment) {
        let share = BURST / self.rings.len().max(1);
        for worker in 0..self.rings.len() {
            for _ in 0..share {
                let Ok(frame) = self.rings[worker].punted.pop() else { break };
                self.hear(now, &frame);
            }
            for _ in 0..share {
                let Ok(event) = self.rings[worker].events.pop() else { break };
                self.learn(now, worker, event);
            }
        }
    }

    fn hear(&mut self, now: Moment, frame: &Copied) {
        let bytes = frame.bytes();
        match (ethertype_of(bytes), icmpv6::kind(bytes)) {
            (Some(ethertype::ARP), _) => {
                self.frames.arp_received += 1;
                self.neighbours.receive(now, frame.interface, bytes);
            }
            (_, Some(kind)) if neighbours::DISCOVERY.contains(&kind) => {
                self.frames.nd_received += 1;
                self.neighbours.receive(now, frame.interface, bytes);
            }
            (Some(ethertype::IPV4 | ethertype::IPV6), _) => {
                self.frames.icmp_received += u64::from(is_icmp(bytes));
                if let Some(reply) = echo::reply(bytes) {
                    self.frames.echoes_answered += 1;
                    self.send(frame.interface, &reply);
                } else if let Some(packet) = bytes.get(ethernet::HEADER..) {
                    self.stack.receive(now, packet);
                    for (interface, station) in self.stack.take_reached() {
                        self.neighbours.confirm(now, interface, station);
                    }
                }
            }
            _ => {}
        }
    }

    fn learn(&mut self, now: Moment, worker: usize, event: Event) {
        match event {
            Event::Unresolved { interface, address } => {
                self.neighbours.unresolved(now, interface, address);
            }
            Event::Flow { question, flow } => {
                if let Some(question) = self.questions.get_mut(&question)
                    && question.flows.len() < question.limit
                {
                    question.flows.push(flow);
                }
            }
            Event::FlowsListed { question: number } => {
                let Some(question) = self.questions.get_mut(&number) else { return };
                question.left.remove(&worker);
                if question.left.is_empty()
                    && let Some(Question { flows, answer, .. }) = self.questions.remove(&number)
                {
                    let _ = answer.send(flows); // the caller may have gone
                }
            }
            Event::Decided { question, decision } => {
                if let Some(explaining) = self.explanations.get_mut(&question) {
                    explaining.decided(worker, decision);
                }
            }
            Event::Explained { question } => {
                if let Some(explaining) = self.explanations.get_mut(&question)
                    && explaining.finished(worker)
                    && let Some(explaining) = self.explanations.remove(&question)
                {
                    explaining.answer();
                }
            }
        }
    }

    /// Records who claims an address of ours, but not as often as a hostile station likes: the counters
    /// have them all.
    fn tell_conflicts(&mut self, now: Moment, events: &Events) {
        if self.told_conflict.is_some_and(|last| now.since(last) < CONFLICT) {
            return;
        }
        let Some((address, mac)) = self.neighbours.take_conflict() else { return };
        self.told_conflict = Some(now);
        events.record(events::Change {
            subject: Subject::Address { address },
            old: "ours".into(),
            new: "claimed".into(),
            reason: format!("the station {mac} claims it as well"),
        });
    }

    /// Hands what the neighbours have to say to the workers. What finds no room waits for the next turn.
    fn speak(&mut self) {
        for _ in 0..BURST {
            if self.rings.iter().all(|ring| ring.inject.is_full()) {
                return;
            }
            let Some((interface, frame)) = self.neighbours.next_frame() else { return };
            self.send(interface, &frame);
        }
    }

    /// Gives a frame to the first worker that has room for it; any of them can send on any interface.
    fn send(&mut self, interface: InterfaceId, frame: &[u8]) {
        let free = self.rings.iter_mut().find(|ring| !ring.inject.is_full());
        let sent = match (free, Copied::of(interface, frame)) {
            (Some(ring), Some(copy)) => ring.inject.push(copy).is_ok(),
            _ => false,
        };
        match sent {
            true => self.frames.sent += 1,
            false => self.frames.send_ring_full += 1,
        }
    }
}

/// What the compiler wants to know of an interface.
fn live(interfaces: &[LiveInterface]) -> Vec<compile::LiveInterface> {
    let live = |of: &LiveInterface| {
        let &LiveInterface { mac, mtu, quiet, .. } = of;
        compile::LiveInterface { mac, mtu, quiet }
    };
    interfaces.iter().map(live).collect()
}

/// Whether a frame carries an ICMP message, of either family.
fn is_icmp(frame: &[u8]) -> bool {
    const PROTOCOL: usize = 9; // of an IPv4 header
    let carried = frame.get(ethernet::HEADER + PROTOCOL);
    let is_v4 = ethertype_of(frame) == Some(ethertype::IPV4);
    icmpv6::kind(frame).is_some() || is_v4 && carried == Some(&protocol::ICMP)
}

/// What a frame carries; `None` if it is too short to say.
fn ethertype_of(frame: &[u8]) -> Option<u16> {
    let field = frame.get(ethernet::HEADER - 2..ethernet::HEADER)?;
    Some(u16::from_be_bytes([field[0], field[1]]))
}
