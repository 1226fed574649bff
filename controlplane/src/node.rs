//! The node: one configuration at a time, from the moment it is sent to the moment the workers
//! have it, and what can be said about it meanwhile.
//!
//! One change at a time: read, judged, compiled and written to the disk on a helper thread, then
//! swapped in under the lock, which the control thread's loop ([`Node::turn`]) otherwise holds for
//! some microseconds every millisecond.

mod alarm;

mod explain;

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
use serde_json::Value;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use self::alarm::Alarm;
use self::explain::Explaining;
use self::traffic::Accounts;
use crate::compile::{self, Compiler};
use crate::config::{self, Config};
use crate::document::{self, Configuration};
use crate::echo;
use crate::field::Invalid;
use crate::icmpv6;
use crate::identities::Identities;
use crate::neighbours::{self, Neighbours};
use crate::plumbing::{Buffers, LiveInterface, Plumbing};
use crate::publish::Publication;
use crate::random;
use crate::report;
use crate::store::{self, Digest, Store};

pub use self::explain::{Explained, FLAGS};

/// How often the workers' rings are looked at.
const TURN: Duration = Duration::from_millis(1);
/// How often servers that have come back get more of their weight.
const RAMP: Duration = Duration::from_secs(1);
/// How many frames, and how many events, are taken from all workers together in one turn, from each as
/// many as from the others; and how many frames are sent. A few milliseconds' work at most.
const BURST: usize = 1024;
/// How many questions to the workers may be under way.
const QUESTIONS: usize = 8;
/// How long the workers may take to answer one.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many changes of one configuration are logged one by one.
const LOGGED: usize = 50;
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
    /// Locked for the whole of a change, so that there is one at a time.
    changing: Arc<tokio::sync::Mutex<Identities>>,
    /// Locked for moments only, and never across an `await`.
    inner: Mutex<Inner>,
}

struct Inner {
    view: Arc<View>,
    publication: Publication,
    neighbours: Neighbours,
    /// Neighbours have changed since the last snapshot.
    outdated: bool,
    accounts: Accounts,
    alarm: Alarm,
    rings: Vec<ControlEnd>,
    interfaces: Vec<LiveInterface>,
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
        let compiler = Compiler::new(rings.len());
        let compiled = compiler.compile(&view.config, &identities, &live(&interfaces), now);
        let mut neighbours = Neighbours::new(u64::from_ne_bytes(random()));
        neighbours.configure(now, compiled.plan());
        let publication = Publication::new(publisher, compiled, &neighbours.known(), now);
        let mut accounts = Accounts::new(counters.clone(), now);
        accounts.follow(&view);
        let alarm = Alarm::new(counters.clone(), now);
        let inner = Inner {
            view,
            publication,
            neighbours,
            outdated: false,
            accounts,
            alarm,
            rings,
            interfaces,
            buffers,
            clock,
            frames: report::Control::default(),
            questions: HashMap::new(),
            explanations: HashMap::new(),
            next_question: 0,
        };
        Arc::new(Self {
            store,
            counters,
            started: now,
            compiler,
            changing: Arc::new(tokio::sync::Mutex::new(identities)),
            inner: Mutex::new(inner),
        })
    }

    /// What the control thread does besides answering: one [`turn`](Self::turn) a millisecond.
    pub async fn run(self: Arc<Self>) {
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ramps = interval(RAMP);
        ramps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = turns.tick() => self.turn(),
                _ = ramps.tick(), if self.compiler.is_ramping() => {
                    tokio::spawn(Arc::clone(&self).ramp());
                }
            }
        }
    }

    /// Gives servers that have come back more of their weight. A change under way does that itself.
    async fn ramp(self: Arc<Self>) {
        let Ok(identities) = Arc::clone(&self.changing).try_lock_owned() else { return };
        let raised = helped(move || {
            self.take_up(&self.view(), &identities);
            Ok(())
        });
        let _ = raised.await; // it cannot be refused; if it failed, the log says so
    }

    /// Takes what the workers handed over, sends what is due, and publishes what has changed.
    pub fn turn(&self) {
        let mut inner = self.inner();
        let now = (inner.clock)();
        inner.listen(now);
        inner.neighbours.tick(now);
        inner.speak();
        inner.outdated |= inner.neighbours.take_changed();
        if inner.outdated && inner.publication.may_refresh(now) {
            inner.outdated = false;
            let known = inner.neighbours.known();
            inner.publication.refresh(&known, now);
        }
        inner.publication.reclaim();
        inner.accounts.tick(now);
        inner.alarm.tick(now);
        inner.questions.retain(|_, question| !question.answer.is_closed());
        inner.explanations.retain(|_, explaining| explaining.is_wanted());
    }

    /// The configuration in force.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.inner().view)
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
            log_changes(&view.config.changes(&next));
            let next = Arc::new(View::new(next, &assigned));
            node.take_up(&next, &assigned);
            *identities = assigned;
            Ok((next, edited))
        })
        .await
    }

    fn take_up(&self, view: &Arc<View>, identities: &Identities) {
        let (live, now) = {
            let inner = self.inner();
            (live(&inner.interfaces), (inner.clock)())
        };
        let compiled = self.compiler.compile(&view.config, identities, &live, now);
        let replaced = {
            let mut inner = self.inner();
            let inner = &mut *inner;
            let now = (inner.clock)();
            inner.neighbours.configure(now, compiled.plan());
            inner.outdated = false;
            inner.neighbours.take_changed();
            inner.accounts.follow(view);
            let earlier = std::mem::replace(&mut inner.view, Arc::clone(view));
            let known = inner.neighbours.known();
            (earlier, inner.publication.take_up(compiled, &known, now))
        };
        drop(replaced); // a large configuration takes a while to free: not under the lock
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
                self.frames.icmp_received += 1;
                if let Some(reply) = echo::reply(bytes) {
                    self.frames.echoes_answered += 1;
                    self.send(frame.interface, &reply);
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

/// What a frame carries; `None` if it is too short to say.
fn ethertype_of(frame: &[u8]) -> Option<u16> {
    let field = frame.get(ethernet::HEADER - 2..ethernet::HEADER)?;
    Some(u16::from_be_bytes([field[0], field[1]]))
}
