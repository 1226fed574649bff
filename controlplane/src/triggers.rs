//! Does what the operator wants done when something changes: in one task, one thing after the other, each
//! trigger once for each change (TR-01). What is wanted of servers is changed as the API does it, so that it
//! is kept, and what is so already is no change and no mistake (TR-08).
//!
//! A trigger that names a state holds for the first state of a server as well, which is no change: one that was dead
//! when the program started is not heard of otherwise. And when the whole configuration is replaced, what the triggers
//! want of it that hold is put right again.

mod script;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::spawn_blocking;
use tracing::warn;

use crate::alerts::reach::Networks;
use crate::alerts::{Pace, webhook};
use crate::config::trigger::{Action, On, Trigger};
use crate::config::{Actual, Happening};
use crate::events::{Change, Event, Events, Heard, Subject};
use crate::node::{Guard, Node, View, Wish};
use crate::states::Words;

/// What came of something that needed no change.
const ALREADY: &str = "so already";

/// Begins to run triggers, from the first event that is kept.
pub fn start(node: &Arc<Node>, networks: &Networks, pace: Pace) {
    tokio::spawn(run(Arc::clone(node), networks.clone(), pace.period));
}

async fn run(node: Arc<Node>, networks: Networks, period: Duration) {
    let mut follower = node.events().follow_after(0);
    let mut runs: HashMap<String, Runs> = HashMap::new();
    loop {
        let Heard { missed, event } = tokio::select! {
            heard = follower.next() => heard,
            () = node.states().untold() => {
                tell_first(&node).await;
                continue;
            }
            () = node.replaced() => {
                renew(&node, &networks).await;
                continue;
            }
        };
        if missed > 0 {
            warn!(
                "triggers: {missed} events came faster than triggers could run, and set off none"
            );
        }
        let view = node.view();
        let triggers = &view.config.triggers;
        runs.retain(|name, _| triggers.iter().any(|trigger| trigger.name == *name));
        for trigger in triggers.iter().filter(|trigger| trigger.on.holds(&event.change)) {
            let runs = runs.entry(trigger.name.clone()).or_default();
            match runs.may(Instant::now(), trigger.rate as usize, period) {
                May::Run => pull(&node, &networks, trigger, &event).await,
                May::Pause => {
                    let reason = format!(
                        "it has run {} times within {} s; do triggers set off each other?",
                        trigger.rate,
                        period.as_secs_f32()
                    );
                    record(node.events(), trigger, "paused", reason);
                }
                May::Rest => {}
            }
        }
    }
}

/// Records first states that set off a trigger.
async fn tell_first(node: &Arc<Node>) {
    let node = Arc::clone(node);
    let tell = move || {
        let view = node.view();
        let naming = || view.config.triggers.iter().filter(|trigger| trigger.on.state.is_some());
        node.states().tell_first(|change| naming().any(|trigger| trigger.on.holds(change)));
    };
    let _ = spawn_blocking(tell).await; // it does not panic
}

/// Has what the triggers that hold want of the configuration be so again. Nobody is told anything: nothing has happened
/// to what they look at.
async fn renew(node: &Arc<Node>, networks: &Networks) {
    let view = node.view();
    let (of, from) = (Arc::clone(&view), Arc::clone(node));
    let holding = spawn_blocking(move || holding(&of, &from.states().words())).await;
    for (position, change) in holding.unwrap_or_default() {
        let trigger = &view.config.triggers[position];
        let begin =
            format!("the configuration was replaced, and {} is {}", change.subject, change.new);
        let event = Event { number: 0, time: SystemTime::now(), change };
        let mut done = Vec::new();
        for action in &trigger.actions {
            if !matches!(action, Action::Script { .. } | Action::Webhook(_)) {
                done.push(act(node, networks, action, &event).await);
            }
        }
        done.retain(|(_, result)| result.as_deref() != Ok(ALREADY));
        if !done.is_empty() {
            conclude(node.events(), trigger, begin, done);
        }
    }
}

/// The triggers, by position, that name a state which something is in now, and what is.
fn holding(view: &View, words: &Words) -> Vec<(usize, Change)> {
    let mut now = Vec::new();
    let change = |subject, new: &str| Change {
        subject,
        old: String::new(),
        new: new.to_owned(),
        reason: String::new(),
    };
    for service in view.services() {
        let name = &service.config.name;
        for (id, server) in service.servers() {
            let Some(told) = words.servers.get(&id) else { continue };
            let (service, server) = (name.clone(), server.name.clone());
            now.push(change(Subject::Server { service, server }, told.actual.name()));
        }
        if let Some(told) = words.services.get(&service.id) {
            now.push(change(Subject::Service { service: name.clone() }, told.state.name()));
        }
    }
    let holds = |(position, trigger): (usize, &Trigger)| {
        trigger.on.state?;
        let change = now.iter().find(|change| trigger.on.holds(change))?;
        Some((position, change.clone()))
    };
    view.config.triggers.iter().enumerate().filter_map(holds).collect()
}

impl On {
    /// Whether this change is one of those. A server that fails is `closing` even if it has no connections that could
    /// go on: it was not known, or took none.
    fn holds(&self, change: &Change) -> bool {
        let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|it| it == name);
        let is_there = match (self.event, &change.subject) {
            (Happening::Server, Subject::Server { service, server }) => {
                is(&self.service, service) && is(&self.server, server)
            }
            (Happening::Service, Subject::Service { service }) => is(&self.service, service),
            (Happening::Worker, Subject::Worker { .. })
            | (Happening::Address, Subject::Address { .. })
            | (Happening::Configuration, Subject::Configuration) => true,
            _ => false,
        };
        let begins = |state: Actual| {
            let fails = change.new == "down" && change.old != "closing";
            change.new == state.name() || state == Actual::Closing && fails
        };
        is_there && self.state.is_none_or(begins)
    }
}

/// When a trigger has run lately.
#[derive(Debug, Default)]
struct Runs {
    recent: VecDeque<Instant>,
    is_paused: bool,
}

/// Whether a trigger may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    /// It may.
    Run,
    /// From now on it may not.
    Pause,
    /// It still may not.
    Rest,
}

impl Runs {
    fn may(&mut self, now: Instant, rate: usize, period: Duration) -> May {
        while self.recent.front().is_some_and(|run| now.duration_since(*run) >= period) {
            self.recent.pop_front();
        }
        if self.recent.len() < rate {
            self.is_paused = false;
            self.recent.push_back(now);
            return May::Run;
        }
        match std::mem::replace(&mut self.is_paused, true) {
            false => May::Pause,
            true => May::Rest,
        }
    }
}

/// Does everything that the trigger does, even if some of it fails.
async fn pull(node: &Arc<Node>, networks: &Networks, trigger: &Trigger, event: &Event) {
    let Change { subject, new, .. } = &event.change;
    let begin = format!("event {}, {subject} {new}", event.number);
    let mut done = Vec::new();
    for action in &trigger.actions {
        done.push(act(node, networks, action, event).await);
    }
    conclude(node.events(), trigger, begin, done);
}

/// Records what came of a run: of each part, what was to be done and what came of it.
fn conclude(events: &Events, trigger: &Trigger, mut told: String, parts: Vec<Done>) {
    let mut outcome = "done";
    for (what, done) in parts {
        match done {
            Ok(result) => told += &format!("; {what}: {result}"),
            Err(reason) => {
                outcome = "failed";
                warn!("trigger {}: {what} failed: {reason}", trigger.name);
                told += &format!("; {what} failed: {reason}");
            }
        }
    }
    record(events, trigger, outcome, told);
}

fn record(events: &Events, trigger: &Trigger, outcome: &str, reason: String) {
    let subject = Subject::Trigger { trigger: trigger.name.clone() };
    events.record(Change { subject, old: "ready".into(), new: outcome.into(), reason });
}

/// What was to be done, and what came of it.
type Done = (String, Result<String, String>);

async fn act(node: &Arc<Node>, networks: &Networks, action: &Action, event: &Event) -> Done {
    match action {
        Action::Want { service, server, state, .. } => {
            let what = format!("{service}/{server} {}", state.name());
            let (service, server) = (service.clone(), server.clone());
            let wish = Wish::Server { service, server, state: Some(*state), weight: None };
            (what, fulfil(node, wish).await)
        }
        Action::Service { service, enabled } => {
            let what = format!("{service} {}", if *enabled { "enabled" } else { "disabled" });
            let wish = Wish::Service { service: service.clone(), enabled: *enabled };
            (what, fulfil(node, wish).await)
        }
        Action::Weight { service, server, weight } => {
            let what = format!("{service}/{server} weight {weight}");
            let (service, server) = (service.clone(), server.clone());
            let wish = Wish::Server { service, server, state: None, weight: Some(*weight) };
            (what, fulfil(node, wish).await)
        }
        Action::Script { path, arguments, timeout } => {
            let view = node.view();
            let script = script::Run {
                ground: view.config.ground(),
                path: path.clone(),
                arguments: arguments.clone(),
                input: webhook::body(event, &view),
                patience: Duration::from_secs((*timeout).into()),
            };
            (format!("script {}", path.display()), script.run().await)
        }
        Action::Webhook(receiver) => {
            let view = node.view();
            let (body, via) = (webhook::body(event, &view), view.config.alerts.via);
            drop(view);
            let sent = webhook::deliver(networks, via, receiver, &body, event.number).await;
            let done = sent.map(|()| "taken".into()).map_err(|failure| failure.reason);
            (format!("webhook {}", receiver.url), done)
        }
    }
}

/// Changes what is wanted, as the API does.
async fn fulfil(node: &Arc<Node>, wish: Wish) -> Result<String, String> {
    let before = node.view();
    match node.want(Guard::any(), wish).await {
        Ok((after, _)) if after.etag == before.etag => Ok(ALREADY.into()),
        Ok(_) => Ok("done".into()),
        Err(refusal) => Err(refusal.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_pauses_once_it_runs_too_often_and_says_so_once() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut runs = Runs::default();
        let mut may = |millis| runs.may(at(millis), 2, Duration::from_secs(1));
        assert_eq!(
            [may(0), may(400), may(500), may(600)],
            [May::Run, May::Run, May::Pause, May::Rest]
        );
        assert_eq!([may(1000), may(1100), may(1400)], [May::Run, May::Pause, May::Run]);
    }

    #[test]
    fn a_trigger_holds_for_what_it_names_and_for_nothing_else() {
        let change = |service: &str, server: &str, new: &str| Change {
            subject: Subject::Server { service: service.into(), server: server.into() },
            old: "up".into(),
            new: new.into(),
            reason: String::new(),
        };
        let on = On {
            event: Happening::Server,
            service: Some("sftp".into()),
            server: Some("sftp1".into()),
            state: Some(Actual::Closing),
        };
        assert!(on.holds(&change("sftp", "sftp1", "closing")));
        for (service, server, new) in
            [("sftp", "sftp1", "up"), ("sftp", "sftp2", "closing"), ("web", "sftp1", "closing")]
        {
            assert!(!on.holds(&change(service, server, new)), "{service} {server} {new}");
        }
        let from =
            |old: &str, new: &str| Change { old: old.into(), ..change("sftp", "sftp1", new) };
        assert!(on.holds(&from("unknown", "down")), "it failed without having had connections");
        assert!(!on.holds(&from("closing", "down")), "that was told already");
        let any = On::default();
        assert!(any.holds(&change("web", "web1", "down")));
        let whole = Subject::Service { service: "sftp".into() };
        let whole = Change { subject: whole, ..change("", "", "down") };
        assert!(!any.holds(&whole));
        let on = On { event: Happening::Service, service: Some("sftp".into()), ..On::default() };
        assert!(on.holds(&whole) && !on.holds(&change("sftp", "sftp1", "down")));
    }
}
