//! One change of the configuration at a time: what may change it, and how it is taken up.

use std::sync::Arc;

use serde_json::Value;
use tracing::info;

use super::helpers::Lane;
use super::{Node, Place, Refusal, View, Wish};
use crate::config::Config;
use crate::events::{self, Subject};
use crate::field::Invalid;
use crate::identities::Identities;
use crate::report;
use crate::store::{self, Digest};

/// How many changes of one configuration are logged one by one.
const LOGGED: usize = 50;
/// How many of them the event of the change tells.
const TOLD: usize = 3;

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

/// What is to be taken up.
pub(super) struct Change<T> {
    pub config: Arc<Config>,
    /// The operator's FILE, if that is where it comes from.
    pub file: Option<Digest>,
    /// Whether it was given as a whole.
    pub is_whole: bool,
    /// What a [`Wish`] is about, if it is no more than that.
    pub wished: Option<Place>,
    /// What its maker wants to know of it afterwards.
    pub edited: T,
}

impl<T> Change<T> {
    fn to(config: Config, edited: T) -> Self {
        Self { config: Arc::new(config), file: None, is_whole: false, wished: None, edited }
    }
}

impl Node {
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
        let next = |_: &View| Ok(Change { is_whole: true, ..Change::to(next()?, ()) });
        let (view, ()) = self.change(guard, next).await?;
        Ok(view)
    }

    /// Edits one place in the document of the configuration, if the caller's guard holds; what is no more than a wish
    /// is one. Mistakes are told with paths that begin at that place.
    ///
    /// # Errors
    ///
    /// As for [`replace`](Self::replace), and what `edit` refuses.
    pub async fn edit(
        self: &Arc<Self>,
        guard: Guard,
        wish: impl FnOnce(&View) -> Option<Wish> + Send + 'static,
        edit: impl FnOnce(&mut Value) -> Result<Place, Refusal> + Send + 'static,
    ) -> Result<(Arc<View>, Place), Refusal> {
        let next = |view: &View| {
            if let Some(wish) = wish(view) {
                return wish.change(view);
            }
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

    /// Changes what is wanted of a service or a server, if the caller's guard holds. The workers know before it is
    /// written down; if that fails, they are told to go back.
    ///
    /// # Errors
    ///
    /// As for [`replace`](Self::replace), and when there is no such service or server.
    pub async fn want(
        self: &Arc<Self>,
        guard: Guard,
        wish: Wish,
    ) -> Result<(Arc<View>, Place), Refusal> {
        self.change(guard, |view: &View| wish.change(view)).await
    }

    /// Reads the operator's FILE again, as if it had been sent.
    ///
    /// # Errors
    ///
    /// When FILE cannot be read, and as for [`replace`](Self::replace).
    pub async fn reload(self: &Arc<Self>) -> Result<Arc<View>, Refusal> {
        let node = Arc::clone(self);
        let next = move |_: &View| match node.store.reread() {
            Ok((config, file)) => {
                Ok(Change { file: Some(file), is_whole: true, ..Change::to(config, ()) })
            }
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

    /// One change, from beginning to end on a thread of its own: a caller that goes away meanwhile
    /// neither stops it halfway nor lets the next one in before it is done.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        guard: Guard,
        next: impl FnOnce(&View) -> Result<Change<T>, Refusal> + Send + 'static,
    ) -> Result<(Arc<View>, T), Refusal> {
        let mut identities = Arc::clone(&self.changing).lock_owned().await;
        let node = Arc::clone(self);
        let work = move || {
            let view = node.view();
            guard.check(&view.etag)?;
            let next = next(&view)?;
            if next.config == view.config {
                if next.file.is_some() {
                    node.store.save(&view.json, next.file)?;
                }
                return Ok((view, next.edited));
            }
            match next.wished {
                Some(place) => node.fulfil(&view, next, place),
                None => node.reconfigure(&view, next, &mut identities),
            }
        };
        let lane = self.changes.get_or_init(|| Lane::open_aside("change")).await;
        lane.run(work).await.unwrap_or(Err(Refusal::Failed))
    }

    /// Takes up a configuration that may be any other.
    fn reconfigure<T>(
        &self,
        view: &View,
        Change { config, file, is_whole, edited, .. }: Change<T>,
        identities: &mut Identities,
    ) -> Result<(Arc<View>, T), Refusal> {
        let needed = view.config.restart_needed(&config);
        if !needed.is_empty() {
            return Err(Refusal::NotLive(needed));
        }
        let mut assigned = identities.clone();
        assigned.assign(&config);
        let identified = assigned.of(&config).into();
        let next = Arc::new(View::new(config, identified));
        self.store.save(&next.json, file)?;
        self.take_up(&next);
        self.note(view, &next);
        if is_whole {
            self.replaced.notify_one();
        }
        *identities = assigned;
        Ok((next, edited))
    }

    /// Takes up what is wanted of a service or a server, and is all that differs: first the workers, then the disk.
    fn fulfil<T>(
        &self,
        view: &View,
        Change { config, file, edited, .. }: Change<T>,
        place: Place,
    ) -> Result<(Arc<View>, T), Refusal> {
        self.go_ahead(view, Some(&config), place);
        let next = Arc::new(View::new(config, Arc::clone(&view.identities)));
        if let Err(error) = self.store.save(&next.json, file) {
            self.go_ahead(view, None, place);
            return Err(error.into());
        }
        let mut ahead = self.publishing();
        *ahead = None;
        self.inner().view = Arc::clone(&next);
        drop(ahead);
        self.note(view, &next);
        Ok((next, edited))
    }

    /// Gives the workers a configuration that differs from the one in force in what is wanted of a service or a server,
    /// or again that one.
    fn go_ahead(&self, view: &View, config: Option<&Arc<Config>>, place: Place) {
        let mut ahead = self.publishing();
        *ahead = config.cloned();
        let service = &config.unwrap_or(&view.config).services[place.service];
        let (id, servers) = &view.identities[place.service];
        match place.server {
            Some(server) => self.states.want(servers[server], service.servers[server].wanted()),
            None => self.states.enable(*id, service.enabled),
        }
        self.republish(&ahead);
    }

    /// Logs what has changed.
    fn note(&self, old: &View, new: &View) {
        let changes = old.config.changes(&new.config);
        log_changes(&changes);
        self.events.record(reconfigured(old, new, &changes));
    }

    fn take_up(&self, view: &Arc<View>) {
        let _alone = self.publishing();
        self.agents.follow(&view.config);
        self.states.follow(&view.config, &view.identities);
        let (compiled, version) = self.compile(&view.config, view);
        let replaced = {
            let mut inner = self.inner();
            let inner = &mut *inner;
            let now = (inner.clock)();
            inner.neighbours.configure(now, compiled.plan());
            inner.paths = Arc::new(compiled.paths());
            inner.lead();
            inner.outdated = false;
            inner.neighbours.take_changed();
            inner.accounts.follow(view);
            let earlier = std::mem::replace(&mut inner.view, Arc::clone(view));
            let known = inner.neighbours.known();
            let replaced = (earlier, inner.publication.take_up(compiled, &known, now));
            inner.published = version;
            inner.review(&self.states);
            replaced
        };
        if self.states.version() != version {
            self.states.wake();
        }
        drop(replaced); // a large configuration takes a while to free: not under the lock
    }
}

/// What is to be remembered of a change of configuration: the entity tags without their quotes, and the
/// first things that changed.
fn reconfigured(old: &View, new: &View, changes: &[String]) -> events::Change {
    let tag = |view: &View| view.etag.trim_matches('"').to_owned();
    let reason = match changes {
        [first, rest @ ..] if rest.len() >= TOLD => {
            format!(
                "{first}; {}; and {} more changes",
                rest[..TOLD - 1].join("; "),
                changes.len() - TOLD
            )
        }
        all => all.join("; "),
    };
    events::Change { subject: Subject::Configuration, old: tag(old), new: tag(new), reason }
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
