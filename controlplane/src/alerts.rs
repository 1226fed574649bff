//! Tells others what changed: each takes the events in their order from the list that is kept anyway, so
//! that somebody who does not listen costs no memory, and what he misses in the end is counted.
//!
//! 1. [`reach`]: a connection to a host, by whichever network
//! 2. [`mail`]: a mail for each change, or one for many
//! 3. [`webhook`]: each event as JSON, signed
//!
//! Nothing here makes events: a failure to tell of one would make another.

pub mod reach;

pub mod webhook;

mod mail;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use self::reach::Networks;
use crate::config::About;
use crate::config::alerts::Url;
use crate::events::{Heard, Subject};
use crate::node::Node;

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// What a rate of mails is for.
    pub period: Duration,
    /// After the first attempt that failed; twice as long after each further one.
    pub pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// How long the same mail is tried, and mail for a reader who cannot have it.
    pub patience: Duration,
    /// How long a mail server may take until it takes a mail from us, and again until it has it.
    pub conversation: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(60),
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            patience: Duration::from_secs(3600),
            conversation: Duration::from_secs(60),
        }
    }
}

/// Why something did not get to where it was to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In words.
    pub reason: String,
    /// Another attempt would fail, too.
    pub is_final: bool,
}

impl Failure {
    /// Another attempt may do better.
    pub(crate) fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_final: false }
    }

    /// It would fail again.
    pub(crate) fn last(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_final: true }
    }
}

/// What became of alerts of one kind.
#[derive(Debug, Default)]
pub struct Tally {
    sent: AtomicU64,
    failed: AtomicU64,
    lost: AtomicU64,
}

impl Tally {
    /// What got there.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Attempts that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Events that somebody was not told of who was to be.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// What became of all alerts.
#[derive(Debug, Default)]
pub struct Tallies {
    /// Mails; of those that were lost, whole or for some of their readers, the events in them.
    pub mail: Tally,
    /// Events for HTTP servers.
    pub webhook: Tally,
}

/// Whether events of this subject are asked for.
fn is_about(asked: &[About], subject: &Subject) -> bool {
    asked.contains(&match subject {
        Subject::Server { .. } => About::Server,
        Subject::Service { .. } => About::Service,
        Subject::Worker { .. } => About::Worker,
        Subject::Address { .. } => About::Address,
        Subject::Configuration => About::Configuration,
        Subject::Trigger { .. } => About::Trigger,
    })
}

/// Begins to tell others, from the first event that is kept.
pub fn start(node: &Arc<Node>, networks: &Networks, pace: Pace) {
    tokio::spawn(mail::Postman::new(Arc::clone(node), networks.clone(), pace).run());
    tokio::spawn(webhooks(Arc::clone(node), networks.clone(), pace));
}

/// Has one task for each receiver, so that none waits for another, and follows the configuration.
async fn webhooks(node: Arc<Node>, networks: Networks, pace: Pace) {
    let mut follower = node.events().follow_after(0);
    let mut running: HashMap<Url, JoinHandle<()>> = HashMap::new();
    let mut last = 0;
    loop {
        let view = node.view();
        let wanted = &view.config.alerts.webhooks;
        running.retain(|url, task| {
            let stays = wanted.iter().any(|webhook| webhook.url == *url);
            if !stays {
                task.abort();
            }
            stays
        });
        for webhook in wanted {
            running.entry(webhook.url.clone()).or_insert_with(|| {
                let follower = node.events().follow_after(last);
                let (node, networks) = (Arc::clone(&node), networks.clone());
                tokio::spawn(webhook::follow(node, networks, pace, webhook.url.clone(), follower))
            });
        }
        drop(view);
        loop {
            let Heard { missed, event } = follower.next().await;
            last = event.number;
            if missed > 0 || event.change.subject == Subject::Configuration {
                break;
            }
        }
    }
}
