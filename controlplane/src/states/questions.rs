//! What is asked of whom, made from the configuration, and what has come of it. Servers of several services that
//! would be asked the same share one question.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;

use super::Place;
use crate::config::{self, Check, ClientsWay, Encapsulation, Forwarding, Kind};
use crate::health::engine::{News, Order, Question, QuestionId};
use crate::health::memory::{Memory, Remembered};
use crate::health::probe::Target;
use crate::health::tally::Verdict;
use crate::net::Way;

/// A question but for its pace, in few bytes: the same at every start.
pub type Key = [u8; 16];

/// A question with its key.
pub struct Keyed(Question, Key);

/// The questions about one server: at its own address, and in the way that clients' packets take if that is asked, too
/// (HC-17, AR-08).
pub fn questions(
    service: &config::Service,
    server: &config::Server,
    as_clients: Option<ClientsWay>,
) -> (Keyed, Option<Keyed>) {
    let check = service.check_of(server);
    let port = service.check_port(server).unwrap_or(0);
    let own = SocketAddr::new(server.address.ip(), port);
    let also = as_clients.map(|as_clients| {
        let (at, way) = match as_clients {
            ClientsWay::From(source) => (own, Way::From { source: source.ip() }),
            ClientsWay::VirtualAddress => {
                (virtual_address(service, server, port), way_to(service, server))
            }
        };
        question(service, check.clone(), at, way)
    });
    (question(service, check.clone(), own, Way::Routed), also)
}

/// How packets for a virtual address get to the server, which has it.
fn way_to(service: &config::Service, server: &config::Server) -> Way {
    let address = server.address.ip();
    let encapsulation = server.encapsulation.unwrap_or(service.encapsulation);
    match (server.forwarding, encapsulation) {
        (Forwarding::Tunnel, Encapsulation::Gue) => {
            Way::Tunnel { server: address, gue_port: Some(service.gue_port) }
        }
        (Forwarding::Tunnel, Encapsulation::Ipip) => {
            Way::Tunnel { server: address, gue_port: None }
        }
        _ => Way::Direct { server: address },
    }
}

/// The service's first address, of the server's family if it has one, with the port that clients use.
fn virtual_address(service: &config::Service, server: &config::Server, port: u16) -> SocketAddr {
    let alike = |it: &dataplane::wire::Address| it.is_v4() == server.address.is_v4();
    let address = service.each_address().find(alike).or_else(|| service.each_address().next());
    let first = service.ports.ranges().next().map_or(port, |(first, _)| first);
    let port = if service.ports.contain(port) { port } else { first };
    SocketAddr::new(address.unwrap_or(server.address).ip(), port)
}

/// Without what it does not depend on, so that it is the same for all who would ask it.
fn question(service: &config::Service, check: Check, at: SocketAddr, way: Way) -> Keyed {
    let about = match &check.kind {
        Kind::Script { .. } => true,
        Kind::Mixed { negotiate, .. } => matches!(**negotiate, Kind::Script { .. }),
        _ => false,
    };
    let service = match about {
        true => (service.name.clone(), first_endpoint(service)),
        false => (String::new(), None),
    };
    let target = Target { at, way, service };
    let check = Check { port: None, virtual_address: false, ..check };
    let key = key(&target, &check.kind);
    Keyed(Question { target, check }, key)
}

fn first_endpoint(service: &config::Service) -> Option<SocketAddr> {
    let (port, _) = service.ports.ranges().next()?;
    Some(SocketAddr::new(service.each_address().next()?.ip(), port))
}

/// What stays the same when only the pace changes.
fn key(target: &Target, kind: &Kind) -> Key {
    let text = format!("{target:?} {kind:?}");
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes")
}

/// What has come of all questions.
#[derive(Debug, Default)]
pub struct Answers {
    numbers: HashMap<Arc<Question>, QuestionId>,
    /// The last question with this key.
    keys: HashMap<Key, QuestionId>,
    asked: HashMap<QuestionId, Asked>,
    last: u64,
    /// Counts the changes of who is down.
    falls: u64,
    /// What was known at the start and has not been asked yet.
    memory: Memory,
    /// What the engine is to do about the configuration that is being taken up.
    orders: Vec<Order>,
}

/// A question with what has come of it.
#[derive(Debug)]
struct Asked {
    question: Arc<Question>,
    key: Key,
    /// Whom it is about.
    about: Vec<Place>,
    answer: Answer,
}

/// What has come of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What its answers say.
    pub verdict: Verdict,
    /// The last failure that counts.
    pub reason: Option<String>,
    /// When the verdict last changed.
    pub since: SystemTime,
}

impl Answers {
    /// Nothing is asked yet.
    pub fn new(memory: Memory) -> Self {
        Self { memory, ..Self::default() }
    }

    /// Begins with another configuration.
    pub fn begin(&mut self) {
        self.asked.values_mut().for_each(|asked| asked.about.clear());
    }

    /// Asks a question about a server; `was_well` says whether that counted as well until now.
    pub fn ask(&mut self, asked: Keyed, about: Place, was_well: bool) -> QuestionId {
        let Keyed(question, key) = asked;
        if let Some(&id) = self.numbers.get(&question)
            && let Some(asked) = self.asked.get_mut(&id)
        {
            asked.about.push(about);
            return id;
        }
        self.last += 1;
        let id = QuestionId(self.last);
        let question = Arc::new(question);
        let answer = self.known(key, was_well);
        let known = answer.verdict;
        self.orders.push(Order::Begin { id, question: Arc::clone(&question), known });
        self.numbers.insert(Arc::clone(&question), id);
        self.keys.insert(key, id);
        self.asked.insert(id, Asked { question, key, about: vec![about], answer });
        id
    }

    /// What is known of a question that is new: from the same one at another pace, from before the program
    /// started, or because its server has been well until now.
    fn known(&self, key: Key, was_well: bool) -> Answer {
        if let Some(alike) = self.keys.get(&key).and_then(|&id| self.of(id)) {
            return alike.clone();
        }
        let since = SystemTime::now();
        match self.memory.down.get(&key) {
            Some(Remembered { since, reason }) => {
                let (since, reason) = (*since, Some(reason.clone()));
                Answer { verdict: Verdict::Failing, reason, since }
            }
            None if was_well => Answer { verdict: Verdict::Well, reason: None, since },
            None => Answer { verdict: Verdict::Unknown, reason: None, since },
        }
    }

    /// What the engine is to do once all has been asked.
    pub fn orders(&mut self) -> Vec<Order> {
        let mut orders = std::mem::take(&mut self.orders);
        self.asked.retain(|&id, asked| {
            let stays = !asked.about.is_empty();
            if !stays {
                self.numbers.remove(&asked.question);
                if self.keys.get(&asked.key) == Some(&id) {
                    self.keys.remove(&asked.key);
                }
                orders.push(Order::End(id));
            }
            stays
        });
        if !orders.is_empty() {
            self.falls += 1;
            self.memory.down.clear();
        }
        orders
    }

    /// Takes what the engine has found; gives whom that is about.
    pub fn hear(&mut self, News { id, verdict, reason }: News, now: SystemTime) -> &[Place] {
        let Some(asked) = self.asked.get_mut(&id) else { return &[] };
        if asked.answer.verdict != verdict {
            asked.answer.since = now;
            self.falls += 1;
        }
        asked.answer.verdict = verdict;
        asked.answer.reason = reason;
        &asked.about
    }

    /// What has come of one question.
    pub fn of(&self, id: QuestionId) -> Option<&Answer> {
        self.asked.get(&id).map(|asked| &asked.answer)
    }

    /// Whom one question is asked, and how it gets there.
    pub fn target(&self, id: QuestionId) -> Option<&Target> {
        self.asked.get(&id).map(|asked| &asked.question.target)
    }

    /// How often it has changed who is down.
    pub fn falls(&self) -> u64 {
        self.falls
    }

    /// Who is down now.
    pub fn memory(&self) -> Memory {
        let down = self.asked.values().filter(|asked| asked.answer.verdict == Verdict::Failing);
        let remembered = |asked: &Asked| {
            let Answer { since, reason, .. } = &asked.answer;
            let reason = reason.clone().unwrap_or_default();
            (asked.key, Remembered { since: *since, reason })
        };
        Memory { down: down.map(remembered).collect() }
    }
}
