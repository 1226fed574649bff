//! Servers that come back online, and how much of their weight they have: a tenth at first, all of it
//! after the service's `slow_start`.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::snapshot::{Admission, ServerId, ServiceId};

use crate::config::{Config, Server, Service};
use crate::states::Standings;

/// Who took new flows in the configuration before, and who has only begun to.
#[derive(Debug, Default)]
pub(super) struct Ramps(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Servers that took new flows in the configuration last compiled; `None` before the first, in which
    /// nobody comes back.
    open: Option<HashSet<ServerId>>,
    /// Since when, and for how long.
    under_way: HashMap<ServerId, (Moment, Duration)>,
}

impl Ramps {
    /// The weights of all servers now, in the order of `config`, to which `identities` belong; `own` is what
    /// they come back to.
    pub fn weights(
        &self,
        config: &Config,
        identities: &[(ServiceId, Vec<ServerId>)],
        standings: &Standings,
        own: impl Fn(&Service, &Server) -> u16,
        now: Moment,
    ) -> Vec<Vec<u16>> {
        let mut state = self.lock();
        let state = &mut *state;
        let before = state.open.take();
        let mut open = HashSet::new();
        let mut under_way = HashMap::new();
        let mut weight = |service: &Service, id: ServerId, server: &Server| {
            let own = own(service, server);
            let standing = standings.server(id);
            if standing.admission != Admission::Open || own == 0 {
                // Whoever has only not been asked yet does not come back from anywhere.
                if standing.is_unknown && before.as_ref().is_none_or(|it| it.contains(&id)) {
                    open.insert(id);
                }
                return own;
            }
            open.insert(id);
            let time = Duration::from_secs(service.slow_start.into());
            let since = match (&before, state.under_way.get(&id)) {
                (Some(before), _) if !before.contains(&id) => now,
                (_, Some(&(since, _))) => since,
                _ => return own,
            };
            let passed = now.since(since);
            if passed >= time {
                return own;
            }
            under_way.insert(id, (since, time));
            share(own, passed, time)
        };
        let weights = config
            .services
            .iter()
            .zip(identities)
            .map(|(service, (_, ids))| {
                let servers = ids.iter().zip(&service.servers);
                servers.map(|(&id, server)| weight(service, id, server)).collect()
            })
            .collect();
        *state = State { open: Some(open), under_way };
        weights
    }

    /// Whether a server has less than its own weight.
    pub fn are_under_way(&self) -> bool {
        !self.lock().under_way.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From a tenth to all of it, and never nothing.
fn share(weight: u16, passed: Duration, time: Duration) -> u16 {
    let share = 0.1 + 0.9 * passed.as_secs_f64() / time.as_secs_f64();
    ((f64::from(weight) * share) as u16).clamp(1, weight)
}
