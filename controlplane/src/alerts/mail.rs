//! A mail for each change. Beyond the rate that the operator wants, changes wait and come together in one
//! mail that lists them; what waits too long is counted, and the next mail says so.
//!
//! 1. [`text`]: what stands in a mail
//! 2. [`smtp`]: one conversation with the server
//! 3. [`later`]: readers who cannot have it now
//!
//! While the server takes nothing at all, everything waits in the list of events, which is kept anyway.

mod text;

mod smtp;

mod later;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lettre::Address;
use tokio::time::sleep;
use tracing::{error, warn};

use self::later::{Later, Letter, Tries};
use self::smtp::{Outcome, Server};
use super::reach::Networks;
use super::{Failure, Pace, Tally, is_about};
use crate::events::{Event, Follower, Heard};
use crate::node::{Node, View};

/// How many changes one mail lists.
const MOST: usize = 500;

/// Sends mails, for ever.
pub(super) struct Postman {
    node: Arc<Node>,
    networks: Networks,
    pace: Pace,
    follower: Follower,
    allowance: Allowance,
    later: Later,
    /// Changes that somebody was not told of, since the last mail that went out.
    untold: u64,
}

impl Postman {
    pub(super) fn new(node: Arc<Node>, networks: Networks, pace: Pace) -> Self {
        let follower = node.events().follow_after(0);
        let (allowance, later) = Default::default();
        Self { node, networks, pace, follower, allowance, later, untold: 0 }
    }

    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                heard = self.follower.next() => self.tell(heard).await,
                () = self.later.due() => self.tell_again().await,
            }
        }
    }

    /// Tells of a change, and of all that come until another mail may go out.
    async fn tell(&mut self, heard: Heard) {
        let Some(first) = self.addressed(heard) else { return };
        let mut changes = vec![first];
        if self.hold_back().await {
            self.gather(&mut changes);
        }
        for (to, events) in by_readers(changes) {
            let mut letter = Letter { to, events, tries: Tries::begin(&self.pace) };
            let lost = self.later.join(&mut letter);
            self.lose(lost, "too much waits for some of their readers");
            if !letter.to.is_empty() {
                self.send(letter).await;
            }
        }
    }

    /// Tells those who could not be told before, if they still want to know.
    async fn tell_again(&mut self) {
        for mut letter in self.later.take_due() {
            let view = self.node.view();
            letter.to.retain(|reader| is_reader(&view, reader));
            drop(view);
            if !letter.to.is_empty() {
                self.hold_back().await;
                self.send(letter).await;
            }
        }
    }

    /// A change and those who are to read of it, if anybody is.
    fn addressed(&mut self, Heard { missed, event }: Heard) -> Option<(Vec<Address>, Arc<Event>)> {
        let missed = usize::try_from(missed).unwrap_or(usize::MAX);
        self.lose(missed, "they came faster than mails could be sent");
        let to = readers(&self.node.view(), &event)?;
        Some((to, event))
    }

    fn lose(&mut self, changes: usize, why: &str) {
        if changes > 0 {
            warn!("mail: {changes} changes are in no mail to some of their readers: {why}");
            Tally::add(&self.node.alerts().mail.lost, changes as u64);
            self.untold += changes as u64;
        }
    }

    /// Waits until another mail may go out; whether there was anything to wait for.
    async fn hold_back(&mut self) -> bool {
        let mut held = false;
        loop {
            let rate = self.node.view().config.alerts.mail.as_ref().map_or(1, |mail| mail.rate);
            let wait = self.allowance.wait(Instant::now(), rate as usize, self.pace.period);
            let Some(wait) = wait else { return held };
            held = true;
            sleep(wait).await;
        }
    }

    /// Adds what has come meanwhile.
    fn gather(&mut self, changes: &mut Vec<(Vec<Address>, Arc<Event>)>) {
        while changes.len() < MOST {
            let Some(heard) = self.follower.try_next() else { return };
            changes.extend(self.addressed(heard));
        }
    }

    /// Tries until the server takes mail from us, or there is no hope that it will.
    async fn send(&mut self, mut letter: Letter) {
        loop {
            let Failure { reason, is_final } = match self.attempt(&letter).await {
                None => return self.lose(letter.events.len(), "there is no mail server any more"),
                Some(Ok(outcome)) => return self.settle(outcome, letter),
                Some(Err(failure)) => failure,
            };
            Tally::add(&self.node.alerts().mail.failed, 1);
            let Some(pause) = letter.tries.another(&self.pace).filter(|_| !is_final) else {
                error!("mail: given up: {reason}");
                return self.lose(letter.events.len(), "the mail server did not take it");
            };
            warn!("mail: not sent, and tried again in {} s: {reason}", pause.as_secs_f32());
            sleep(pause).await;
        }
    }

    /// Tries once, if there is a mail server. Settings are looked up every time: they may have been mended
    /// meanwhile.
    async fn attempt(&self, letter: &Letter) -> Option<Result<Outcome, Failure>> {
        let Letter { to, events, .. } = letter;
        let view = self.node.view();
        let mail = view.config.alerts.mail.clone()?;
        let (via, node) = (view.config.alerts.via, view.config.node.clone());
        let written = text::written(&view, &mail, to, events, self.untold);
        drop(view);
        let text = match written {
            Ok(text) => text,
            Err(failure) => return Some(Err(failure)),
        };
        let (networks, patience) = (&self.networks, self.pace.conversation);
        let server = Server { networks, via, mail: &mail, node: &node, patience };
        Some(server.deliver(to, &text).await)
    }

    /// Notes what became of a mail, and keeps it for those who cannot have it now.
    fn settle(&mut self, outcome: Outcome, mut letter: Letter) {
        let Outcome { taken, mut later, refused } = outcome;
        let tally = &self.node.alerts().mail;
        if taken.is_empty() {
            Tally::add(&tally.failed, 1);
        } else {
            Tally::add(&tally.sent, 1);
            self.untold = 0;
            self.allowance.note(Instant::now());
        }
        let mut gone = refused;
        let pause = letter.tries.another(&self.pace);
        if pause.is_none() {
            gone.append(&mut later);
        }
        if !gone.is_empty() {
            self.lose(letter.events.len(), "the mail server did not take them");
        }
        let lost = self.later.keep(later, &letter, pause.unwrap_or_default());
        self.lose(lost, "too much waits for some of their readers");
    }
}

/// Who is to read about an event; `None` if nobody is.
fn readers(view: &View, event: &Event) -> Option<Vec<Address>> {
    let mail = view.config.alerts.mail.as_ref()?;
    let subject = &event.change.subject;
    if !is_about(&mail.about, subject) {
        return None;
    }
    let service = subject.service().and_then(|name| view.service(name).ok());
    let own = service.and_then(|service| service.config.alerts.clone()); // HC-16
    Some(own.unwrap_or_else(|| mail.to.clone())).filter(|to| !to.is_empty())
}

/// Whether somebody is to read about anything.
fn is_reader(view: &View, address: &Address) -> bool {
    let config = &view.config;
    let own = config.services.iter().filter_map(|service| service.alerts.as_ref());
    let mut lists = own.chain(config.alerts.mail.as_ref().map(|mail| &mail.to));
    lists.any(|to| to.contains(address))
}

/// One list of events for each list of readers, in the order in which they came.
fn by_readers(changes: Vec<(Vec<Address>, Arc<Event>)>) -> Vec<(Vec<Address>, Vec<Arc<Event>>)> {
    let mut mails: Vec<(Vec<Address>, Vec<Arc<Event>>)> = Vec::new();
    for (to, event) in changes {
        match mails.iter_mut().find(|(readers, _)| *readers == to) {
            Some((_, events)) => events.push(event),
            None => mails.push((to, vec![event])),
        }
    }
    mails
}

/// How many mails went out lately.
#[derive(Debug, Default)]
struct Allowance(VecDeque<Instant>);

impl Allowance {
    /// How long to wait until another one may; `None` if it may now.
    fn wait(&mut self, now: Instant, rate: usize, period: Duration) -> Option<Duration> {
        while self.0.front().is_some_and(|sent| now.duration_since(*sent) >= period) {
            self.0.pop_front();
        }
        let decisive = self.0.len().checked_sub(rate)?;
        Some(period - now.duration_since(self.0[decisive]))
    }

    fn note(&mut self, now: Instant) {
        self.0.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_goes_out_as_soon_as_the_rate_allows() {
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let at = |second| start + Duration::from_secs(second);
        let mut allowance = Allowance::default();
        for second in [0, 10, 20] {
            assert_eq!(allowance.wait(at(second), 3, minute), None);
            allowance.note(at(second));
        }
        assert_eq!(allowance.wait(at(25), 3, minute), Some(Duration::from_secs(35)));
        assert_eq!(allowance.wait(at(25), 1, minute), Some(Duration::from_secs(55)));
        assert_eq!(allowance.wait(at(25), 4, minute), None);
        assert_eq!(allowance.wait(at(60), 3, minute), None);
        assert_eq!(allowance.0.len(), 2);
    }
}
