//! The states of servers and services. What the operator wants, what checks say, how flows fare and whether the
//! network leads there come together here:
//!
//! - [`table`]: the one rule, from all of these to a state and to which flows a server takes
//! - [`service`]: what a service is told of its servers: the last one, the fallback, its own state
//! - [`questions`]: what is asked of whom, made from the configuration
//!
//! A change is recorded the moment it is known, whoever tells of it: the engine of health checks
//! ([`States::hear`]), a new configuration ([`States::follow`]), whoever watches the flows ([`States::judge_flows`]), or
//! the look at neighbours and connections once a second ([`States::review`]). Those that concern new flows wake who
//! publishes ([`States::changed`]).

pub mod table;

mod service;

mod questions;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dataplane::snapshot::{Admission, Routes, ServerId, ServiceId};
use dataplane::wire::Address;
use tokio::sync::{Notify, mpsc};

use self::questions::{Answers, Keyed, questions};
use self::service::{Checked, Server, Service};
use crate::config::{self, Config, Kind};
use crate::events::{Change, Events};
use crate::health::engine::{News, Order};
use crate::health::memory::Memory;

pub use self::service::ServiceState;
pub use self::table::Actual;

/// The identities of services and their servers, in the order of a configuration.
type Identified = [(ServiceId, Vec<ServerId>)];

/// The states of all servers and services.
#[derive(Debug)]
pub struct States {
    inner: Mutex<Inner>,
    /// The same as in there, for whoever must not wait.
    version: AtomicU64,
    /// What the engine has found and nobody has taken in yet.
    news: Mutex<Vec<News>>,
    changed: Notify,
    /// There are first states that nobody has been told.
    untold: Notify,
    events: Events,
    orders: mpsc::UnboundedSender<Vec<Order>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Counts the changes of what servers take.
    version: u64,
    /// Counts the changes of who is down.
    falls: u64,
    /// In the order of the configuration.
    services: Vec<Service>,
    places: HashMap<ServerId, Place>,
    answers: Answers,
}

/// Where a server is: service and server by position.
type Place = (usize, usize);

/// Which flows servers take, at one moment.
#[derive(Debug, Default)]
pub struct Standings {
    /// Which moment: counts up with every change.
    pub version: u64,
    servers: HashMap<ServerId, Standing>,
    fallbacks: HashSet<ServiceId>,
}

/// Which flows one server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// New ones, those it has, or none.
    pub admission: Admission,
    /// Nothing is known of it yet: it takes no new flows, and does not come back from anywhere when it does.
    pub is_unknown: bool,
    /// Clients that it had before may return to it, if the service lets them return to a server that drains: to
    /// one that fails they must not.
    pub keeps_clients: bool,
}

impl Standings {
    /// Of one server; one that nobody has heard of takes no new flows.
    pub fn server(&self, id: ServerId) -> Standing {
        let (admission, is_unknown) = (Admission::Draining, true);
        let nobody = Standing { admission, is_unknown, keeps_clients: false };
        self.servers.get(&id).copied().unwrap_or(nobody)
    }

    /// Whether the service's new flows go to its fallback.
    pub fn falls_back(&self, id: ServiceId) -> bool {
        self.fallbacks.contains(&id)
    }
}

/// Why nobody can reach a server: the next station on the way, this one, does not answer ARP or neighbour discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreachable(pub Address);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let question = if self.0.is_v4() { "ARP" } else { "neighbour discovery" };
        write!(f, "{} has not answered {question}", self.0)
    }
}

/// A server's state in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What there is.
    pub actual: Actual,
    /// Why it is not what is wanted.
    pub reason: Option<String>,
    /// Since when.
    pub since: SystemTime,
}

/// A service's state in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTold {
    /// Its state.
    pub state: ServiceState,
    /// Why it is not `up`.
    pub reason: Option<String>,
    /// Since when.
    pub since: SystemTime,
    /// Whether new flows go to its fallback.
    pub falls_back: bool,
}

/// All states in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// Of services.
    pub services: HashMap<ServiceId, ServiceTold>,
    /// Of servers.
    pub servers: HashMap<ServerId, Told>,
}

impl States {
    /// Nothing is known, but for who was down when the program last ran. The orders are for the engine.
    pub fn new(events: Events, memory: Memory) -> (Self, mpsc::UnboundedReceiver<Vec<Order>>) {
        let (orders, taken) = mpsc::unbounded_channel();
        let inner = Inner { answers: Answers::new(memory), ..Inner::default() };
        let (inner, news, version) = (Mutex::new(inner), Mutex::default(), AtomicU64::new(0));
        let (changed, untold) = (Notify::new(), Notify::new());
        (Self { inner, version, news, changed, untold, events, orders }, taken)
    }

    /// Takes up another configuration: what is asked now and was before goes on as it was.
    pub fn follow(&self, config: &Config, identities: &Identified) {
        let now = SystemTime::now();
        // What takes its time is done before others are kept waiting.
        let ways = config.ways();
        let of = |service| questions_of(config, &ways, service);
        let asked: Vec<Vec<_>> = config.services.iter().map(of).collect();
        let mut inner = self.inner();
        let of = &mut *inner;
        let mut earlier = Earlier::of(of);
        of.answers.begin();
        for ((service, (id, server_ids)), asked) in
            config.services.iter().zip(identities).zip(asked)
        {
            let mut servers = Vec::with_capacity(service.servers.len());
            for ((server, &server_id), asked) in service.servers.iter().zip(server_ids).zip(asked) {
                let place = (of.services.len(), servers.len());
                let before = earlier.servers.remove(&server_id);
                let was_well = before.as_ref().is_some_and(|it| it.counts_as_well(&of.answers));
                let mut ask = |question| of.answers.ask(question, place, was_well);
                let checked = match asked {
                    Some((own, also)) => Checked::Asked { own: ask(own), also: also.map(ask) },
                    None if service.check_of(server).kind == Kind::Off => Checked::Off,
                    None => Checked::Unasked,
                };
                of.places.insert(server_id, place);
                servers.push(Server::new(server_id, server, checked, before, now));
            }
            let before = earlier.services.remove(id);
            of.services.push(Service::new(*id, service, servers, before, now));
        }
        let orders = of.answers.orders();
        of.version += 1;
        self.version.store(of.version, Ordering::Release);
        for position in 0..of.services.len() {
            self.judge(of, position, now);
        }
        drop(inner);
        drop(earlier);
        if !orders.is_empty() {
            let _ = self.orders.send(orders); // the engine may not run: in tests, and at the end
        }
        self.take_in();
    }

    /// Notes what the engine has found, for [`Self::take_in`]. Never waits.
    pub fn hear(&self, news: News) {
        self.news().push(news);
    }

    /// Takes in what has been found since the last time, all at once: a service with thousands of servers is looked at
    /// as a whole. Never waits: whoever is at the states now takes it in afterwards.
    pub fn take_in(&self) {
        while !self.news().is_empty() {
            let Ok(mut inner) = self.inner.try_lock() else { return };
            let news = std::mem::take(&mut *self.news());
            let now = SystemTime::now();
            let mut services = BTreeSet::new();
            for one in news {
                services.extend(inner.answers.hear(one, now).iter().map(|it| it.0));
            }
            for position in services {
                self.judge(&mut inner, position, now);
            }
        }
    }

    /// Has somebody look at how flows fare, and takes servers out or lets them back in as that finds. Their checks
    /// go on. Skipped while somebody else is at the states.
    pub fn judge_flows(&self, look: impl FnOnce(&mut Flows<'_>)) {
        let Ok(mut inner) = self.inner.try_lock() else { return };
        let mut flows = Flows { inner: &mut inner, services: BTreeSet::new() };
        look(&mut flows);
        let now = SystemTime::now();
        for position in flows.services {
            self.judge(&mut inner, position, now);
        }
        drop(inner);
        self.take_in();
    }

    /// Changes what is wanted of a server, ahead of the configuration that says so.
    pub fn want(&self, server: ServerId, wanted: config::State) {
        let mut inner = self.inner();
        if let Some(&(service, position)) = inner.places.get(&server) {
            inner.services[service].servers[position].wanted = wanted;
            self.judge(&mut inner, service, SystemTime::now());
        }
        drop(inner);
        self.take_in();
    }

    /// Changes whether a service takes new flows, ahead of the configuration that says so.
    pub fn enable(&self, service: ServiceId, enabled: bool) {
        let mut inner = self.inner();
        let position = inner.services.iter().position(|it| it.id == service);
        if let Some(position) = position {
            inner.services[position].enabled = enabled;
            self.judge(&mut inner, position, SystemTime::now());
        }
        drop(inner);
        self.take_in();
    }

    /// How things stand with a server.
    pub fn actual(&self, server: ServerId) -> Option<Actual> {
        let inner = self.inner();
        let &(service, position) = inner.places.get(&server)?;
        Some(inner.services[service].servers[position].told().actual)
    }

    /// Lets these servers drain, because their agents ask for it, and no others.
    pub fn heed(&self, drained: &HashSet<ServerId>) {
        let mut inner = self.inner();
        for position in 0..inner.services.len() {
            let mut news = false;
            for server in &mut inner.services[position].servers {
                let asked = drained.contains(&server.id);
                news |= std::mem::replace(&mut server.drained_by_agent, asked) != asked;
            }
            if news {
                self.judge(&mut inner, position, SystemTime::now());
            }
        }
        drop(inner);
        self.take_in();
    }

    /// Looks at all servers from outside: why nobody can reach them, and whether they have flows that have not
    /// ended. Skipped while somebody else is at the states.
    pub fn review(
        &self,
        unreachable: impl Fn(ServerId) -> Option<Unreachable>,
        is_busy: impl Fn(ServerId) -> bool,
    ) {
        let Ok(mut inner) = self.inner.try_lock() else { return };
        let now = SystemTime::now();
        for position in 0..inner.services.len() {
            let servers = inner.services[position].servers.iter_mut();
            let mut news = false;
            for server in servers {
                news |= server.look(unreachable(server.id), &is_busy);
            }
            if news {
                self.judge(&mut inner, position, now);
            }
        }
        drop(inner);
        self.take_in();
    }

    /// Which flows servers take now.
    pub fn standings(&self) -> Standings {
        let inner = self.inner();
        let servers = inner.services.iter().flat_map(|service| &service.servers);
        let falling_back = inner.services.iter().filter(|service| service.falls_back);
        Standings {
            version: inner.version,
            servers: servers.map(|server| (server.id, server.standing())).collect(),
            fallbacks: falling_back.map(|service| service.id).collect(),
        }
    }

    /// How often it has changed what servers take.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The services whose new flows go to their fallback; `None` while somebody else is at the states.
    pub fn falling_back(&self) -> Option<HashSet<ServiceId>> {
        let inner = self.inner.try_lock().ok()?;
        let services = inner.services.iter().filter(|service| service.falls_back);
        Some(services.map(|service| service.id).collect())
    }

    /// Lets whoever waits for a change look again.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// Waits until it may have changed what servers take.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until there are first states to be told.
    pub async fn untold(&self) {
        self.untold.notified().await;
    }

    /// Records the states that servers and services had when they first became known, as changes from `unknown`: those
    /// that `matter` to somebody. A start is no change, and makes no thousand events.
    pub fn tell_first(&self, matter: impl Fn(&Change) -> bool) {
        let mut inner = self.inner();
        let untold = inner.services.iter_mut().flat_map(Service::take_untold);
        untold.filter(matter).for_each(|change| self.events.record(change));
        drop(inner);
        self.take_in();
    }

    /// All states in words.
    pub fn words(&self) -> Words {
        let inner = self.inner();
        let servers = inner.services.iter().flat_map(|service| &service.servers);
        Words {
            services: inner.services.iter().map(|service| (service.id, service.told())).collect(),
            servers: servers.map(|server| (server.id, server.told())).collect(),
        }
    }

    /// Who is down now, for the next start, and how often that has changed; `None` if that is no more than `falls`.
    pub fn memory(&self, falls: u64) -> Option<(Memory, u64)> {
        let inner = self.inner();
        (inner.falls != falls).then(|| (inner.answers.memory(), inner.falls))
    }

    /// Works out the state of a service and its servers, and records what has changed.
    fn judge(&self, inner: &mut Inner, position: usize, now: SystemTime) {
        let service = &mut inner.services[position];
        let judged = service.judge(&inner.answers, now);
        judged.changes.into_iter().for_each(|change| self.events.record(change));
        if judged.is_another_standing {
            inner.version += 1;
            self.version.store(inner.version, Ordering::Release);
            self.changed.notify_one();
        }
        if judged.has_untold {
            self.untold.notify_one();
        }
        inner.falls = inner.falls.max(inner.answers.falls());
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn news(&self) -> MutexGuard<'_, Vec<News>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The servers in the hands of whoever looks at how flows fare.
pub struct Flows<'s> {
    inner: &'s mut Inner,
    /// Those with something new, by position.
    services: BTreeSet<usize>,
}

impl Flows<'_> {
    /// Whether a server would take new flows and answer them, but for what its flows tell.
    pub fn is_available(&self, server: ServerId) -> bool {
        let place = self.inner.places.get(&server);
        place.is_some_and(|&(service, position)| {
            self.inner.services[service].servers[position].is_available()
        })
    }

    /// Takes a server out because its flows fare badly, or lets it back in.
    pub fn eject(&mut self, server: ServerId, reason: Option<String>) {
        let Some(&(service, position)) = self.inner.places.get(&server) else { return };
        let before = &mut self.inner.services[service].servers[position].ejected;
        if *before != reason {
            *before = reason;
            self.services.insert(service);
        }
    }
}

/// What is asked about each server of a service.
fn questions_of(
    config: &Config,
    ways: &Routes,
    service: &config::Service,
) -> Vec<Option<(Keyed, Option<Keyed>)>> {
    let of = |server| {
        let as_clients = config.asked_as_clients(ways, service, server);
        let asks = service.check_of(server).kind.asks();
        asks.then(|| questions(service, server, as_clients))
    };
    service.servers.iter().map(of).collect()
}

/// The services and servers of the configuration before.
struct Earlier {
    services: HashMap<ServiceId, service::Before>,
    servers: HashMap<ServerId, Server>,
}

impl Earlier {
    fn of(inner: &mut Inner) -> Self {
        inner.places.clear();
        let mut earlier = Self { services: HashMap::new(), servers: HashMap::new() };
        for service in inner.services.drain(..) {
            let (before, servers) = service.into_before();
            earlier.services.insert(before.id, before);
            earlier.servers.extend(servers.into_iter().map(|server| (server.id, server)));
        }
        earlier
    }
}

#[cfg(test)]
mod tests;
