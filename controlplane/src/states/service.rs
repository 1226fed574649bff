//! One service with its servers: who is the last one, whether the fallback is needed, and what has changed.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use dataplane::snapshot::{Admission, ServerId, ServiceId};

use super::questions::Answers;
use super::table::{Actual, Facts, Health, outcome};
use super::{ServiceTold, Standing, Told, Unreachable};
use crate::config::{self, LastServer, State as Wanted};
use crate::events::{Change, Subject};
use crate::health::engine::QuestionId;
use crate::health::probe::Target;
use crate::health::tally::Verdict;
use crate::net::Way;

/// How a server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Not at all: it counts as well.
    Unasked,
    /// Not at all: it counts as not well.
    Off,
    /// By these questions: at its own address, and in the way that clients' packets take.
    Asked { own: QuestionId, also: Option<QuestionId> },
}

/// A server of the configuration in force.
#[derive(Debug)]
pub struct Server {
    pub id: ServerId,
    name: String,
    pub wanted: Wanted,
    checked: Checked,
    /// Why its flows fare badly, if they do.
    pub ejected: Option<String>,
    /// Whether its agent asks for new flows to stay away.
    pub drained_by_agent: bool,
    /// Whether it drains for that.
    heeds_agent: bool,
    /// `None` while nobody has looked.
    unreachable: Option<Option<Unreachable>>,
    /// Whether flows from when it was well may go on.
    busy: bool,
    /// What was last recorded; `None` before the first look.
    actual: Option<Actual>,
    /// Whether that is its first state, and nobody has been told.
    is_untold: bool,
    admission: Admission,
    health: Health,
    reason: Option<String>,
    since: SystemTime,
}

impl Server {
    /// A server with what is known of it from the configuration before.
    pub fn new(
        id: ServerId,
        server: &config::Server,
        checked: Checked,
        before: Option<Self>,
        now: SystemTime,
    ) -> Self {
        let fresh = Self {
            id,
            name: String::new(),
            wanted: Wanted::Online,
            checked,
            ejected: None,
            drained_by_agent: false,
            heeds_agent: false,
            unreachable: None,
            busy: false,
            actual: None,
            is_untold: false,
            admission: Admission::Draining,
            health: Health::Unknown,
            reason: None,
            since: now,
        };
        let before = before.unwrap_or(fresh);
        Self { name: server.name.clone(), wanted: server.wanted(), checked, ..before }
    }

    /// Whether it has counted as well until now, so that another question begins with that.
    pub fn counts_as_well(&self, answers: &Answers) -> bool {
        matches!(self.judge(answers).0, Health::Unasked | Health::Well | Health::Ejected)
    }

    /// What checks and flows say, and why it is not well.
    fn judge(&self, answers: &Answers) -> (Health, Option<String>) {
        let (health, reason) = match self.checked {
            Checked::Unasked => (Health::Unasked, None),
            Checked::Off => (Health::Off, Some("its check is off".into())),
            Checked::Asked { own, also } => self.asked(answers, own, also),
        };
        match (&self.ejected, health) {
            (Some(why), Health::Unasked | Health::Well) => (Health::Ejected, Some(why.clone())),
            _ => (health, reason),
        }
    }

    fn asked(
        &self,
        answers: &Answers,
        own: QuestionId,
        also: Option<QuestionId>,
    ) -> (Health, Option<String>) {
        let of = |id| {
            answers.of(id).map_or((Verdict::Unknown, None), |it| (it.verdict, it.reason.clone()))
        };
        let (verdict, reason) = of(own);
        let (also_verdict, also_reason) = also.map_or((Verdict::Well, None), of);
        match (verdict, also_verdict) {
            (Verdict::Failing, _) => (Health::Failing, reason),
            (Verdict::Well, Verdict::Failing) => {
                let target = also.and_then(|id| answers.target(id));
                let reason = also_reason.unwrap_or_default();
                (Health::Failing, Some(target.map_or(reason.clone(), |it| diagnosis(it, &reason))))
            }
            (Verdict::Well, Verdict::Well) => (Health::Well, None),
            _ => {
                let last = reason.or(also_reason).map(|why| format!(": {why}")).unwrap_or_default();
                (Health::Unknown, Some(format!("it has not passed a check yet{last}")))
            }
        }
    }

    /// Takes what is seen from outside; says whether that is news.
    pub fn look(&mut self, seen: Option<Unreachable>, is_busy: impl Fn(ServerId) -> bool) -> bool {
        let is_over = || self.admission == Admission::Halted || !is_busy(self.id);
        let finished = self.busy && self.actual == Some(Actual::Closing) && is_over();
        let news = self.unreachable != Some(seen) || finished || self.actual.is_none();
        self.unreachable = Some(seen);
        self.busy &= !finished;
        news
    }

    /// Whether it takes new flows if it is well.
    fn is_wanted(&self) -> bool {
        self.wanted == Wanted::Online && self.checked != Checked::Off
    }

    /// Whether it would take new flows and answer them, but for what its flows tell.
    pub fn is_available(&self) -> bool {
        self.is_wanted()
            && !self.heeds_agent
            && self.is_reachable()
            && matches!(self.health, Health::Unasked | Health::Well | Health::Ejected)
    }

    /// Whether it takes new flows and answers them, whatever agents ask for, its own included.
    fn is_open_anyway(&self) -> bool {
        self.is_wanted()
            && !self.drained_by_agent
            && self.is_reachable()
            && matches!(self.health, Health::Unasked | Health::Well)
    }

    fn is_reachable(&self) -> bool {
        !matches!(self.unreachable, Some(Some(_)))
    }

    fn is_failing(&self) -> bool {
        matches!(self.health, Health::Failing | Health::Ejected)
    }

    pub fn standing(&self) -> Standing {
        let is_unknown = self.health == Health::Unknown;
        let keeps_clients = self.admission == Admission::Open || !is_unknown && !self.is_failing();
        Standing { admission: self.admission, is_unknown, keeps_clients }
    }

    fn actual(&self) -> Actual {
        self.actual.unwrap_or(match self.health {
            Health::Unknown => Actual::Unknown,
            _ => Actual::Unreachable,
        })
    }

    pub fn told(&self) -> Told {
        Told { actual: self.actual(), reason: self.reason.clone(), since: self.since }
    }
}

/// Why a server that answers us is not well when it is asked in the way that clients' packets take.
fn diagnosis(asked: &Target, reason: &str) -> String {
    match asked.way {
        Way::From { source } => of_way_back(source, reason),
        _ => of_virtual_address(asked.at, reason),
    }
}

/// Why a server whose gateway should be ours is not well when an address of ours that is not on its subnet asks (AR-08).
fn of_way_back(source: IpAddr, reason: &str) -> String {
    let why = match reason {
        silent if silent.starts_with("no answer") => {
            "its way back to clients does not lead here (its default gateway must be the appliance), or \
             a firewall there drops what comes from other subnets"
        }
        // That has come back here.
        _ => {
            "a firewall there, or the application, treats other subnets than its own in another way"
        }
    };
    format!("answers when asked from its own subnet but not from {source}: {why} ({reason})")
}

/// Why a server that is well at its own address is not at the virtual one (AR-08, AR-09).
fn of_virtual_address(address: SocketAddr, reason: &str) -> String {
    let why = match reason {
        refused if refused.contains("refused") => {
            "the application does not listen on it (it may listen on the server's own address alone)"
        }
        // The machine itself answers.
        silent if silent.contains("ping") => {
            "the ARP problem is not solved there, or the address is missing on its loopback"
        }
        _ => {
            "the ARP problem is not solved there, the address is missing on its loopback, or \
             the application does not listen on it"
        }
    };
    format!("answers on its own address but not on the virtual address {address}: {why} ({reason})")
}

/// A service's state (ST-04).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceState {
    /// Its servers have not been asked yet.
    Unknown,
    /// All is as wanted.
    Up,
    /// It takes new flows, but not every server does that should.
    Degraded,
    /// No server takes new flows that should.
    Down,
    /// It takes no new flows, as asked for.
    Offline,
}

impl ServiceState {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Offline => "offline",
        }
    }
}

/// A service of the configuration in force.
#[derive(Debug)]
pub struct Service {
    pub id: ServiceId,
    name: String,
    pub enabled: bool,
    quiescent: bool,
    last_server: LastServer,
    has_fallback: bool,
    pub servers: Vec<Server>,
    /// Whether new flows go to the fallback.
    pub falls_back: bool,
    /// What was last recorded; `None` before the first look.
    state: Option<ServiceState>,
    /// Whether that is its first state, and nobody has been told.
    is_untold: bool,
    reason: Option<String>,
    since: SystemTime,
}

/// What is kept of a service for the next configuration.
pub struct Before {
    pub id: ServiceId,
    state: Option<ServiceState>,
    is_untold: bool,
    reason: Option<String>,
    since: SystemTime,
    falls_back: bool,
}

/// What has come of a look at a service.
pub struct Judged {
    /// What is to be recorded.
    pub changes: Vec<Change>,
    /// Whether other servers take new flows now, or other flows.
    pub is_another_standing: bool,
    /// Whether something has its first state, and nobody has been told.
    pub has_untold: bool,
}

impl Service {
    /// A service with what is known of it from the configuration before.
    pub fn new(
        id: ServiceId,
        service: &config::Service,
        servers: Vec<Server>,
        before: Option<Before>,
        now: SystemTime,
    ) -> Self {
        let before = before.unwrap_or(Before {
            id,
            state: None,
            is_untold: false,
            reason: None,
            since: now,
            falls_back: false,
        });
        Self {
            id,
            name: service.name.clone(),
            enabled: service.enabled,
            quiescent: service.quiescent,
            last_server: service.last_server,
            has_fallback: service.has_fallback(),
            servers,
            falls_back: before.falls_back,
            state: before.state,
            is_untold: before.is_untold,
            reason: before.reason,
            since: before.since,
        }
    }

    pub fn into_before(self) -> (Before, Vec<Server>) {
        let Self { id, state, is_untold, reason, since, falls_back, servers, .. } = self;
        (Before { id, state, is_untold, reason, since, falls_back }, servers)
    }

    /// Works out all states anew.
    pub fn judge(&mut self, answers: &Answers, now: SystemTime) -> Judged {
        let mut failed = Vec::with_capacity(self.servers.len());
        for server in &mut self.servers {
            let was_failing = server.is_failing();
            let (health, reason) = server.judge(answers);
            (server.health, server.reason) = (health, reason);
            if server.is_failing() && !was_failing {
                server.busy = server.actual.is_some_and(Actual::may_be_busy);
            }
            failed.push(server.failed_at(answers));
        }
        let kept = self.kept(&failed);
        let others = self.servers.iter().any(Server::is_open_anyway);
        let mut changes = Vec::new();
        let mut is_another_standing = false;
        for (position, server) in self.servers.iter_mut().enumerate() {
            let facts = Facts {
                wanted: server.wanted,
                drained_by_agent: server.drained_by_agent,
                others,
                enabled: self.enabled,
                health: server.health,
                quiescent: self.quiescent,
                kept: kept == Some(position),
                busy: server.busy,
                reachable: server.is_reachable(),
            };
            server.heeds_agent = facts.heeds_agent();
            let (actual, admission) = outcome(facts);
            is_another_standing |= admission != server.admission;
            server.admission = admission;
            server.explain(actual, facts.kept);
            changes.extend(server.become_now(actual, &self.name, now));
        }
        let falls_back = self.needs_fallback(kept);
        is_another_standing |= falls_back != self.falls_back;
        self.falls_back = falls_back;
        changes.extend(self.become_now(now));
        let has_untold = self.is_untold || self.servers.iter().any(|server| server.is_untold);
        Judged { changes, is_another_standing, has_untold }
    }

    /// The first states of the servers and its own that nobody has been told, as changes from `unknown`. Only once.
    pub fn take_untold(&mut self) -> Vec<Change> {
        let name = &self.name;
        let first = |server: &mut Server| {
            let is_untold = std::mem::take(&mut server.is_untold);
            let actual = server.actual.filter(|_| is_untold)?;
            Some(server.change(Actual::Unknown, actual, name))
        };
        let mut changes: Vec<_> = self.servers.iter_mut().filter_map(first).collect();
        if std::mem::take(&mut self.is_untold) {
            changes.extend(self.state.map(|state| self.change(ServiceState::Unknown, state)));
        }
        changes
    }

    /// The server that failed last, if no other takes new flows and the last one is to stay (ST-05). One that drains
    /// because its agent asks for it counts as one that does not: it takes them once no other does.
    fn kept(&self, failed: &[Option<SystemTime>]) -> Option<usize> {
        if self.last_server == LastServer::Fail || !self.enabled {
            return None;
        }
        let wanted = || self.servers.iter().enumerate().filter(|(_, server)| server.is_wanted());
        if wanted().any(|(_, server)| !server.is_failing()) {
            return None;
        }
        let latest =
            wanted().max_by_key(|&(position, _)| (failed[position], std::cmp::Reverse(position)));
        latest.map(|(position, _)| position)
    }

    /// Only where servers fail, and not where they are taken offline by hand (ST-06, ST-08).
    fn needs_fallback(&self, kept: Option<usize>) -> bool {
        let mut wanted = self.servers.iter().filter(|server| server.is_wanted()).peekable();
        self.has_fallback
            && self.enabled
            && kept.is_none()
            && wanted.peek().is_some()
            && wanted.all(Server::is_failing)
    }

    /// Its own state, and why it is not up.
    fn state(&self) -> (ServiceState, Option<String>) {
        let all = |wanted| self.servers.iter().all(|server| server.wanted == wanted);
        let actual = |state| self.servers.iter().filter(move |it| it.actual() == state);
        let wanted = self.servers.iter().filter(|server| server.is_wanted()).count();
        let up = actual(Actual::Up).count();
        let offline = |why: &str| (ServiceState::Offline, Some(why.to_owned()));
        match () {
            () if !self.enabled => offline("it is disabled"),
            () if self.servers.is_empty() => {
                (ServiceState::Down, Some("it has no servers".to_owned()))
            }
            () if all(Wanted::Drain) => offline("all its servers drain"),
            () if all(Wanted::Halt) => offline("all its servers are halted"),
            () if wanted == 0 => offline("none of its servers is wanted online with a check"),
            () if up == wanted => (ServiceState::Up, None),
            () if up > 0 => {
                let why = format!("{up} of {wanted} servers take new connections");
                (ServiceState::Degraded, Some(why))
            }
            () if actual(Actual::Unknown).next().is_some() => {
                let why = "its servers have not passed a check yet";
                (ServiceState::Unknown, Some(why.to_owned()))
            }
            () => {
                let why = match self.falls_back {
                    true => "all its servers have failed, and its fallback answers",
                    false => "no server can be reached that takes new connections",
                };
                (ServiceState::Down, Some(why.to_owned()))
            }
        }
    }

    /// Takes up its state; says whether that is to be recorded.
    fn become_now(&mut self, now: SystemTime) -> Option<Change> {
        if self.servers.iter().any(|server| server.actual.is_none()) {
            return None; // nobody has looked yet
        }
        let (state, reason) = self.state();
        self.reason = reason;
        let before = self.state.replace(state);
        if before == Some(state) {
            return None;
        }
        self.since = now;
        self.is_untold = before.is_none() && state != ServiceState::Unknown;
        Some(self.change(before?, state))
    }

    fn change(&self, old: ServiceState, new: ServiceState) -> Change {
        let reason = self.reason.clone();
        let reason = reason.unwrap_or_else(|| "all its servers take new connections".into());
        let subject = Subject::Service { service: self.name.clone() };
        Change { subject, old: old.name().into(), new: new.name().into(), reason }
    }

    pub fn told(&self) -> ServiceTold {
        ServiceTold {
            state: self.state.unwrap_or(ServiceState::Unknown),
            reason: self.reason.clone(),
            since: self.since,
            falls_back: self.falls_back,
        }
    }
}

impl Server {
    /// When it was found to be failing; those whose flows fare badly pass their check, and come first.
    fn failed_at(&self, answers: &Answers) -> Option<SystemTime> {
        let Checked::Asked { own, also } = self.checked else { return None };
        let when = |id| {
            let answer = answers.of(id)?;
            (answer.verdict == Verdict::Failing).then_some(answer.since)
        };
        when(own).max(also.and_then(when))
    }

    /// Says why it is not what is wanted.
    fn explain(&mut self, actual: Actual, kept: bool) {
        self.reason = match actual {
            Actual::Drain if self.heeds_agent => Some("its agent asks for drain".into()),
            Actual::Up if self.drained_by_agent => {
                Some("its agent asks for drain, but no other server takes new connections".into())
            }
            Actual::Up | Actual::Halt | Actual::Drain => self
                .reason
                .take()
                .filter(|_| self.checked == Checked::Off && self.wanted != Wanted::Halt),
            Actual::Disabled => Some("its service is disabled".into()),
            Actual::Unreachable => self.unreachable.flatten().map(|why| why.to_string()),
            Actual::Unknown | Actual::Closing | Actual::Down => self.reason.take(),
        };
        if kept && let Some(reason) = &mut self.reason {
            *reason += "; it is the last and stays in service";
        }
    }

    /// Takes up its state; says whether that is to be recorded.
    fn become_now(&mut self, actual: Actual, service: &str, now: SystemTime) -> Option<Change> {
        if self.unreachable.is_none() && self.actual.is_none() && self.checked == Checked::Unasked {
            return None; // nobody has looked yet
        }
        let before = self.actual.replace(actual);
        if before == Some(actual) {
            return None;
        }
        self.since = now;
        self.is_untold = before.is_none() && actual != Actual::Unknown;
        Some(self.change(before?, actual, service))
    }

    fn change(&self, old: Actual, new: Actual, service: &str) -> Change {
        let reason = match (&self.reason, new, self.checked) {
            (Some(reason), ..) => reason.clone(),
            (None, Actual::Drain | Actual::Halt, _) => "as wanted".into(),
            (None, _, Checked::Asked { .. }) => "it passes its check".into(),
            (None, ..) => "as wanted, and it can be reached".into(),
        };
        let subject = Subject::Server { service: service.to_owned(), server: self.name.clone() };
        Change { subject, old: old.name().into(), new: new.name().into(), reason }
    }
}
