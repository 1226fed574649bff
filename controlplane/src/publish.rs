//! Gives the workers a new snapshot when the configuration or a neighbour has changed.

use std::sync::Arc;
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::punt::answers::Answers;
use dataplane::snapshot::{Interface, Neighbours, Publisher, Server, ServerId, Snapshot};

use crate::compile::Compiled;

/// How soon after another a snapshot may follow that differs in neighbours alone: a subnet full of
/// answers to ARP makes one snapshot, not hundreds.
const PAUSE: Duration = Duration::from_millis(5);

/// The workers' view of things, and what it is made from.
pub struct Publication {
    publisher: Publisher<Snapshot>,
    compiled: Compiled,
    answers: Answers,
    newest: Newest,
    at: Moment,
}

/// Parts of the snapshot last published that reports are made from.
#[derive(Clone)]
pub struct Newest {
    /// Counts up from 1.
    pub generation: u64,
    /// By their identity.
    pub interfaces: Arc<[Interface]>,
    /// Real servers by slot.
    pub servers: Arc<[Option<Server>]>,
    /// Their shares of new flows, by slot.
    pub weights: Arc<[u16]>,
}

impl Newest {
    /// The server with this identity.
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        self.servers.get(id.slot())?.as_ref().filter(|server| server.id == id)
    }

    /// The share of new flows of the server with this identity: nothing if it takes none.
    pub fn weight(&self, id: ServerId) -> u16 {
        let weight = self.server(id).and_then(|_| self.weights.get(id.slot()).copied());
        weight.unwrap_or_default()
    }
}

impl Publication {
    /// Publishes the first configuration; workers know by `answers` what the control plane waits for.
    pub fn new(
        mut publisher: Publisher<Snapshot>,
        compiled: Compiled,
        answers: Answers,
        neighbours: &Neighbours,
        now: Moment,
    ) -> Self {
        let newest = publish(&mut publisher, &compiled, &answers, neighbours, 1);
        Self { publisher, compiled, answers, newest, at: now }
    }

    /// Publishes another configuration; returns the one it replaces, which may be large to free.
    pub fn take_up(
        &mut self,
        compiled: Compiled,
        neighbours: &Neighbours,
        now: Moment,
    ) -> Compiled {
        let replaced = std::mem::replace(&mut self.compiled, compiled);
        self.refresh(neighbours, now);
        replaced
    }

    /// Publishes the same configuration with these neighbours.
    pub fn refresh(&mut self, neighbours: &Neighbours, now: Moment) {
        let generation = self.newest.generation + 1;
        let Self { publisher, compiled, answers, .. } = self;
        self.newest = publish(publisher, compiled, answers, neighbours, generation);
        self.at = now;
    }

    /// Whether enough time has passed since the last snapshot.
    pub fn may_refresh(&self, now: Moment) -> bool {
        now.since(self.at) >= PAUSE
    }

    /// Frees the snapshots that no worker can hold any more.
    pub fn reclaim(&mut self) {
        self.publisher.reclaim();
    }

    /// Whether every worker has taken up the newest snapshot.
    pub fn is_current_everywhere(&self) -> bool {
        self.publisher.is_current_everywhere()
    }

    /// The snapshot last published.
    pub fn newest(&self) -> &Newest {
        &self.newest
    }
}

fn publish(
    publisher: &mut Publisher<Snapshot>,
    compiled: &Compiled,
    answers: &Answers,
    neighbours: &Neighbours,
    generation: u64,
) -> Newest {
    let snapshot = compiled.snapshot(neighbours, generation);
    let snapshot = Snapshot { answers: answers.clone(), ..snapshot };
    let newest = Newest {
        generation,
        interfaces: Arc::clone(&snapshot.interfaces),
        servers: Arc::clone(&snapshot.servers),
        weights: compiled.weights(),
    };
    publisher.publish(snapshot);
    newest
}
