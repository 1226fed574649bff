//! Does what the operator wants done when something changes: in one task, one thing after the other, each
//! trigger once for each change (TR-01). What is wanted of servers is changed as the API does it, so that it
//! is kept, and what is so already is no change and no mistake (TR-08).

mod script;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::alerts::reach::Networks;
use crate::alerts::{Pace, webhook};
use crate::config::Happening;
use crate::config::trigger::{Action, On, Trigger};
use crate::events::{Change, Event, Events, Heard, Subject};
use crate::node::{Guard, Node, Wish};

/// Begins to run triggers, from the first event that is kept.
pub fn start(node: &Arc<Node>, networks: &Networks, pace: Pace) {
    tokio::spawn(run(Arc::clone(node), networks.clone(), pace.period));
}

async fn run(node: Arc<Node>, networks: Networks, period: Duration) {
    let mut follower = node.events().follow_after(0);
    let mut runs: HashMap<String, Runs> = HashMap::new();
    loop {
        let Heard { missed, event } = follower.next().await;
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

impl On {
    /// Whether this change is one of those.
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
        is_there && self.state.is_none_or(|state| change.new == state.name())
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
    let mut told = format!("event {}, {subject} {new}", event.number);
    let mut outcome = "done";
    for action in &trigger.actions {
        let (what, done) = act(node, networks, action, event).await;
        match done {
            Ok(result) => told += &format!("; {what}: {result}"),
            Err(reason) => {
                outcome = "failed";
                warn!("trigger {}: {what} failed: {reason}", trigger.name);
                told += &format!("; {what} failed: {reason}");
            }
        }
    }
    record(node.events(), trigger, outcome, told);
}

fn record(events: &Events, trigger: &Trigger, outcome: &str, reason: String) {
    let subject = Subject::Trigger { trigger: trigger.name.clone() };
    events.record(Change { subject, old: "ready".into(), new: outcome.into(), reason });
}

/// What was to be done, and what came of it.
async fn act(
    node: &Arc<Node>,
    networks: &Networks,
    action: &Action,
    event: &Event,
) -> (String, Result<String, String>) {
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
        Ok((after, _)) if after.etag == before.etag => Ok("so already".into()),
        Ok(_) => Ok("done".into()),
        Err(refusal) => Err(refusal.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Actual;

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
        let any = On::default();
        assert!(any.holds(&change("web", "web1", "down")));
        let whole = Subject::Service { service: "sftp".into() };
        let whole = Change { subject: whole, ..change("", "", "down") };
        assert!(!any.holds(&whole));
        let on = On { event: Happening::Service, service: Some("sftp".into()), ..On::default() };
        assert!(on.holds(&whole) && !on.holds(&change("sftp", "sftp1", "down")));
    }
}
