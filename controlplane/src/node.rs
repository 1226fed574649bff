//! The node: one configuration at a time, from the moment it is sent to the moment the workers
//! have it, and what can be said about it meanwhile.
//!
//! One change at a time: read, judged, compiled and written to the disk on a helper thread, then
//! swapped in under the lock, which the control thread's loop ([`Node::turn`]) otherwise holds for
//! some microseconds every millisecond.
//!
//! - [`view`]: the configuration in force; [`change`]: how another one takes its place; [`wish`]: what
//!   needs no judging; [`refusal`]: why nothing changed
//! - [`listen`], [`in_band`]: what the workers hand over and are given to send
//! - [`alarm`], [`gaps`], [`passive`], [`traffic`]: what is watched
//! - [`reports`], [`explain`]: what is said about it

mod view;

mod refusal;

mod change;

mod wish;

mod pages;

mod listen;

mod in_band;

mod alarm;

mod explain;

mod gaps;

mod helpers;

mod passive;

mod reports;

mod traffic;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dataplane::counters::Counters;
use dataplane::moment::Moment;
use dataplane::punt::{Command, ControlEnd, FlowReport};
use dataplane::snapshot::ServerId;
use tokio::sync::{Notify, OnceCell, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use self::alarm::Alarm;
use self::explain::Explaining;
use self::gaps::Gaps;
use self::helpers::{Lane, on_helper};
use self::passive::Ejectors;
use self::traffic::Accounts;
use crate::agent::{self, Agents};
use crate::alerts::Tallies;
use crate::compile::{self, Compiled, Compiler};
use crate::config::Config;
use crate::events::Events;
use crate::health::engine::{self, Engine, Order};
use crate::health::memory::Memory;
use crate::health::probe;
use crate::identities::Identities;
use crate::neighbours::Neighbours;
use crate::net::Net;
use crate::net::in_band::{Egress, InBand, Paths, Stack};
use crate::pages::files::Pages;
use crate::plumbing::{Buffers, LiveInterface, Plumbing};
use crate::publish::Publication;
use crate::random;
use crate::report;
use crate::states::{States, Unreachable};
use crate::store::Store;

pub use self::change::Guard;
pub use self::explain::{Explained, FLAGS};
pub(crate) use self::helpers::helped;
pub use self::refusal::Refusal;
pub use self::view::{Place, ServiceView, View};
pub use self::wish::Wish;

/// How often the workers' rings are looked at.
const TURN: Duration = Duration::from_millis(1);
/// How often the states take in what health checks have found.
const HEARING: Duration = Duration::from_millis(10);
/// How often servers that have come back get more of their weight, and all of them are looked at.
const RAMP: Duration = Duration::from_secs(1);
/// How many questions to the workers may be under way.
const QUESTIONS: usize = 8;
/// How long the workers may take to answer one.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a node starts with.
pub struct Start {
    /// The state directory, in our possession.
    pub store: Store,
    /// The configuration that the store chose, and the devices were opened by.
    pub config: Config,
    /// The ends that belong to the control plane.
    pub plumbing: Plumbing,
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
    /// What questions to servers share, once they are asked.
    pages: Pages,
    /// What became of those that others are told of.
    alerts: Tallies,
    agents: Agents,
    stack: Stack,
    /// The whole configuration has been replaced.
    replaced: Notify,
    /// Locked for the whole of a change, so that there is one at a time.
    changing: Arc<tokio::sync::Mutex<Identities>>,
    /// Where changes are made: always the same thread, because the allocator keeps for each thread what a large
    /// configuration needed there.
    changes: OnceCell<Lane>,
    /// Locked by whoever makes and publishes a snapshot. Holds the configuration that the workers have, while that
    /// is ahead of the one in force.
    publishing: Mutex<Option<Arc<Config>>>,
    /// Locked for moments only, and never across an `await`.
    inner: Mutex<Inner>,
}

struct Inner {
    view: Arc<View>,
    publication: Publication,
    /// Which states of servers it was made with.
    published: u64,
    neighbours: Neighbours,
    stack: Stack,
    egress: Egress,
    /// Where packets of our own go, by the configuration alone.
    paths: Arc<Paths>,
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

impl Node {
    /// Gives the workers their first configuration.
    pub fn start(start: Start) -> Arc<Self> {
        let Start { store, config, plumbing } = start;
        let Plumbing { publisher, counters, rings, interfaces, buffers, clock } = plumbing;
        let now = clock();
        let mut identities = Identities::new();
        identities.assign(&config);
        let identified = identities.of(&config).into();
        let view = Arc::new(View::new(Arc::new(config), identified));
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
        egress.configure(Arc::clone(&paths));
        let known = neighbours.known();
        let publication = Publication::new(publisher, compiled, stack.answers(), &known, now);
        let mut accounts = Accounts::new(counters.clone(), now);
        accounts.follow(&view);
        let alarm = Alarm::new(counters.clone(), events.clone(), now);
        let inner = Inner {
            view,
            publication,
            published: standings.version,
            neighbours,
            stack: stack.clone(),
            egress,
            paths,
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
            pages: Pages::new(store.directory()),
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
            replaced: Notify::new(),
            changing: Arc::new(tokio::sync::Mutex::new(identities)),
            changes: OnceCell::new(),
            publishing: Mutex::default(),
            inner: Mutex::new(inner),
        })
    }

    /// What the control thread does besides answering: one [`turn`](Self::turn) a millisecond, and agents asked.
    pub async fn run(self: Arc<Self>) {
        tokio::spawn(Arc::clone(&self).keep_standings());
        tokio::spawn(Arc::clone(&self).keep_memory());
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
        tools.run_scripts_on(self.view().config.ground());
        let totals = Arc::clone(&self.asked);
        let tell = |news| self.states.hear(news);
        Engine::new(net, tools, orders, tell, totals, u64::from_ne_bytes(random())).run().await;
    }

    /// Gives the workers what has changed in the states of servers, and gives servers that have come back more of their
    /// weight and those whose agents say so another: on a thread of its own, because no disk and no request may keep
    /// clients at a server that has failed.
    async fn keep_standings(self: Arc<Self>) {
        let lane = Lane::open("publish");
        let mut looks = interval(RAMP);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_due = tokio::select! {
                () = self.states.changed() => true,
                _ = looks.tick() => self.compiler.is_ramping(),
            };
            if !is_due {
                continue;
            }
            let node = Arc::clone(&self);
            lane.run(move || node.restate()).await;
        }
    }

    /// Writes down who is down: what there is at the time, once after another, and again if it could not be written.
    async fn keep_memory(self: Arc<Self>) {
        let mut looks = interval(RAMP);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut written, mut is_told) = (0, false);
        loop {
            looks.tick().await;
            let node = Arc::clone(&self);
            let write = move || match node.states.memory(written) {
                Some((memory, falls)) => Ok(memory.write(&node.store).map(|()| falls)),
                None => Ok(Ok(written)),
            };
            match on_helper(write).await {
                Ok(Ok(falls)) => (written, is_told) = (falls, false),
                Ok(Err(error)) if !is_told => {
                    error!("who is down cannot be written down, and is tried again: {error}");
                    is_told = true;
                }
                _ => {} // told already
            }
        }
    }

    /// Publishes the same configuration with the states of servers as they are now, if the workers do not have it.
    fn restate(&self) {
        let ahead = self.publishing();
        let is_known = self.inner().published == self.states.version();
        if !is_known || self.compiler.is_ramping() {
            self.republish(&ahead);
        }
    }

    /// Publishes the configuration in force, or the one ahead of it, for stations and addresses that stay as they are.
    fn republish(&self, ahead: &Option<Arc<Config>>) {
        let view = self.view();
        let (compiled, version) = self.compile(ahead.as_ref().unwrap_or(&view.config), &view);
        let mut inner = self.inner();
        let now = (inner.clock)();
        let known = inner.neighbours.known();
        let replaced = inner.publication.take_up(compiled, &known, now);
        inner.published = version;
        drop(inner);
        drop(replaced); // not under the lock
    }

    /// The servers whose agents ask for new flows to stay away.
    fn drained_by_agents(&self, view: &View) -> HashSet<ServerId> {
        let drained = view.services().flat_map(|service| {
            let servers = service.servers();
            servers.filter(move |(_, server)| self.agents.ask_for_drain(service.config, server))
        });
        drained.map(|(id, _)| id).collect()
    }

    /// A configuration whose names are those of `view`, with the states of servers now, and which version those are.
    fn compile(&self, config: &Config, view: &View) -> (Compiled, u64) {
        let (live, now) = {
            let inner = self.inner();
            (live(&inner.interfaces), (inner.clock)())
        };
        self.states.heed(&self.drained_by_agents(view));
        let standings = self.states.standings();
        let identities = &view.identities;
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
        inner.take_turns(&self.events);
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

    /// Waits until the whole configuration has been replaced, if it has not been since the last time.
    pub async fn replaced(&self) {
        self.replaced.notified().await;
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

    /// The operator's pages.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Where the state lies.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether every worker has taken up the newest snapshot.
    pub fn is_ready(&self) -> bool {
        self.inner().publication.is_current_everywhere()
    }

    /// From the moment that the states follow another configuration until the workers have it, nobody may publish
    /// the one before: its servers have no states any more. Helpers wait for each other here; the control thread
    /// has nothing to do with it.
    fn publishing(&self) -> MutexGuard<'_, Option<Arc<Config>>> {
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
}

/// What the compiler wants to know of an interface.
fn live(interfaces: &[LiveInterface]) -> Vec<compile::LiveInterface> {
    let live = |of: &LiveInterface| {
        let &LiveInterface { mac, mtu, quiet, .. } = of;
        compile::LiveInterface { mac, mtu, quiet }
    };
    interfaces.iter().map(live).collect()
}
